/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For tests of the core: coroutines run to their end, and a protocol driver in memory that watches whether
 * the core keeps its promises. */
#ifndef TEST_CORE_UTIL_H
#define TEST_CORE_UTIL_H

#include "core-int.h"

/* Runs @entry (@opaque) in a coroutine of the test's context until it has ended. */
void test_run (CoroutineEntry *entry, void *opaque);

typedef struct
{
  const char *path;
  CoroutineEntry *entry;
} TestCase;

/* A whole program: each of the @n cases in a coroutine of its own.  What main () is to return. */
int test_run_cases (int argc, char **argv, const TestCase *cases, size_t n);

/* Starts @entry (@opaque); *running counts those that have not ended. */
void test_start (CoroutineEntry *entry, void *opaque, unsigned *running);
/* In a coroutine: waits until *running is 0. */
void coroutine_fn co_test_wait (unsigned *running);
/* In a coroutine: lets others run @times times. */
void coroutine_fn co_test_let_others_run (int times);

typedef enum
{
  MEM_READ,
  MEM_WRITE,
  MEM_ZEROES,
  MEM_DISCARD,
  MEM_FLUSH,
  MEM_WRITEBACK,
  MEM_TRUNCATE,
  MEM_COPY,
  MEM_OPS,
} MemOp;

typedef struct
{
  MemOp op;
  int64_t offset, bytes;
  int flags;
} MemRequest;

/* A file in memory.  Zero-initialised members are the plain case. */
typedef struct
{
  GByteArray *data;
  BlockLimits limits;
  bool fixed_length;            /* no co_truncate past the end: -ENOSPC */
  int zeroes_ret;               /* of write-zeroes requests, instead of doing them */
  int fail_ret[MEM_OPS];        /* of requests of that kind … */
  int fail_after[MEM_OPS];      /* … after this many that succeed */
  int max_delay;                /* every request yields up to this many times */
  int64_t hole_start, hole_end; /* for block status */
  int64_t max_request_seen;
  int64_t longest; /* the file was */
  GArray *log;     /* of MemRequest, begun */
  unsigned count[MEM_OPS];
  unsigned active;
} MemFile;

void mem_file_init (MemFile *mem, int64_t bytes);
void mem_file_clear (MemFile *mem);

/* Opens a protocol node on @mem. */
BlockDriverState *coroutine_fn co_mem_open (MemFile *mem, int flags);
/* Opens a node of @drv on @file (may be NULL); its reference is taken. */
BlockDriverState *coroutine_fn co_node_on (const BlockDriver *drv, BlockDriverState *file, int flags);

/* A filter without any op of its own but co_open. */
extern const BlockDriver test_filter_driver;

#endif
