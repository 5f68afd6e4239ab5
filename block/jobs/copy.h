/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copy engine that commit and convert share: coroutines that take items from a planner, read, look for
 * zeros, and write.
 *
 * The user fills in a CopyEngine, calls copy_co_run () in the job's coroutine and finds the outcome in it.
 * What differs between the jobs are three ops; the engine knows no job and no format.
 *
 * Rules
 *  1. No two items overlap, in source and target alike: items run concurrently and in any order.
 *  2. The planner is asked by one coroutine at a time, in ascending order of offsets.
 *  3. The first error wins; the others finish the item they have and stop.
 *  4. All buffers together stay within COPY_BUFFER_BYTES.
 *  5. Extents are shared in whole blocks of COPY_SHARE_ALIGNMENT; what an item has before and behind them is
 *     copied.
 */
#ifndef JOBS_COPY_H
#define JOBS_COPY_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

#define COPY_BUFFER_BYTES (16 * 1024 * 1024)
#define COPY_ITEM_BYTES   (2 * 1024 * 1024)
#define COPY_MAX_WORKERS  16
/* Extents can be shared in units of the host file system's blocks. */
#define COPY_SHARE_ALIGNMENT 4096
/* Sharing much takes no longer than sharing little: where it is known to work, items are this long. */
#define COPY_SHARE_BYTES (64 * 1024 * 1024)

typedef struct CopyEngine CopyEngine;

/* A guest range, the same in source and target. */
typedef struct
{
  int64_t offset, bytes;
  bool zero;               /* known to read as zeros */
  int depth;               /* layer of the source that decides (the first of several), for messages */
  BlockDriverState *layer; /* that decides all of it, or NULL: several, or none */
  BlockDriverState *file;  /* protocol node that holds all of it in one piece, or NULL */
  int64_t file_offset;     /* where it starts there */
} CopyItem;

struct CopyEngine
{
  /* Set by the user. */
  Job *job;
  BlockDriverState *source, *target;
  unsigned workers;   /* 1 … COPY_MAX_WORKERS */
  bool in_order;      /* write in the order of guest offsets */
  bool share_extents; /* try bdrv_co_copy_range_to () first */
  bool must_share;    /* what could be shared by its place in the source is never copied: an error instead */
  bool
      skip_identical; /* what is copied is compared with the target first, and not written where it is equal */
  bool
      target_is_zero; /* where nothing is written it shows zeros, which are left alone: co_zero may be NULL */
  int64_t sparse_bytes; /* zero runs this long, and items all zero, are zeros, not data; 0: look for none */
  void *opaque;
  /* The next item: 1, 0 at the end, -errno (after copy_fail ()). */
  int coroutine_fn (*co_next) (CopyEngine *engine, CopyItem *item);
  /* Make the range read as zeros in the target.  0 or -errno (after copy_fail ()). */
  int coroutine_fn (*co_zero) (CopyEngine *engine, int64_t offset, int64_t bytes);
  /* @buf was read from the source's range.  NULL: copy_co_write_sparse (). */
  int coroutine_fn (*co_write) (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf);

  /* Set by the engine. */
  int64_t max_item_bytes;
  int64_t bytes_copied, bytes_cloned, bytes_zeroed; /* zeroed: co_zero () counts it */
  int64_t bytes_skipped;                            /* the target had them already */
  int ret;                                          /* the first error, or 0 */
  const BlockDriverState *failed_node;              /* where it happened … */
  const char *failed_verb;                          /* … at a "read", "write", … */
  int64_t failed_offset, failed_bytes;              /* … of this range */

  /* Private. */
  CoMutex planner_lock;
  CoQueue order_queue; /* those that wait for their turn to write */
  uint64_t next_ticket, next_write;
  GHashTable
      *shareable; /* protocol nodes of the source: whether the target can share their extents, once tried */
  BdrvWriteback writeback;
  unsigned misaligned; /* tries in a row refused for the range's sake */
};

/* Whether an engine can have so many workers; the error names @bs. */
bool copy_check_workers (const BlockDriverState *bs, unsigned workers, GError **error);

/* Runs the engine to its end or its first error, which it returns; -ECANCELED when the job was cancelled. */
int coroutine_fn copy_co_run (CopyEngine *engine);

/* Notes the first error and returns @ret. */
int copy_fail (CopyEngine *engine, const BlockDriverState *node, const char *verb, int64_t offset,
               int64_t bytes, int ret);
/* The outcome of a failed engine as an error: which file, what, where. */
void copy_set_error (const CopyEngine *engine, GError **error);

/* Whether extents of @file may still turn out to be shareable with the target; where not, a planner need not
 * keep to pieces that are contiguous in the file. */
bool copy_may_share (const CopyEngine *engine, const BlockDriverState *file);
/* Whether some of them have been shared. */
bool copy_can_share (const CopyEngine *engine, const BlockDriverState *file);
/* The part of @item, which copy_may_share () its file, whose extents can be shared as far as its place in guest
 * and file tells; false: none. */
bool copy_get_shareable (const CopyEngine *engine, const CopyItem *item, CopyItem *part);

/* Writes data, and leaves runs of zeros to engine->co_zero () or to the target. */
int coroutine_fn copy_co_write_sparse (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf);
/* Writes all of it. */
int coroutine_fn copy_co_write_data (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf);

/* A co_zero op: makes zeros of what the target shows as anything else, by its own data or its parents'. Where
 * it is known to show zeros nothing is stored. */
int coroutine_fn copy_co_zero_visible (CopyEngine *engine, int64_t offset, int64_t bytes);

/* --- walking over what layers decide -------------------------------------------------------------------- */

/* A cursor over the ranges of [offset, end) that the nodes from @source down to, not including, @base decide,
 * merged to pieces of one kind.  Fill in the first members, zero the rest.  What the nodes decide must not change
 * meanwhile: each is asked once for each of its own runs, however many nodes there are. */
typedef struct
{
  BlockDriverState *source;
  BlockDriverState *base; /* or NULL */
  int64_t offset, end;
  bool all; /* ranges that no node decides are zeros instead of being left out */

  CopyItem run;             /* looked up already, run.bytes == 0: nothing */
  GArray *answers;          /* what each node last said, topmost first */
  BlockDriverState *failed; /* the node that could not say */
} CopyCursor;

/* For cursors of any kind.  Joins what @co_look finds to one item, from @run on, which it fills when it is empty (1, 0 at
 * the end, -errno): of one kind, zeros of one depth, of at most @max_data bytes, or @max_zero when it is zeros, not
 * across a multiple of that size.  With @engine, pieces whose extents may be shared are contiguous in their file, and
 * have up to COPY_SHARE_BYTES where that works.  An error is left to the next call when something was found before it.
 * 1, or what the first look says. */
int coroutine_fn copy_co_join_runs (CopyItem *run, int coroutine_fn (*co_look) (void *opaque), void *opaque,
                                    const CopyEngine *engine, int64_t max_data, int64_t max_zero,
                                    CopyItem *item);

/* The next piece, as copy_co_join_runs () makes it.  1, 0 at the end, or -errno with cursor->offset where it
 * happened and cursor->failed. */
int coroutine_fn copy_cursor_co_next (CopyCursor *cursor, const CopyEngine *engine, int64_t max_data,
                                      int64_t max_zero, CopyItem *item);
/* Frees what is in it, if it was not followed to its end. */
void copy_cursor_clear (CopyCursor *cursor);

G_END_DECLS

#endif
