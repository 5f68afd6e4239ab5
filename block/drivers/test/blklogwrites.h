/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log that the filter blklogwrites writes, and a reader for crash tests.
 *
 * A log is a sequence of records, each a header of 64 bytes and, for a write, its data.  All nodes of a
 * process that log to the same path write one log in one order; sequence numbers go 1, 2, 3, …
 *
 *     0   4  magic "vlog"          24   4  file id                  48   8  payload bytes that follow
 *     4   4  kind                  28   4  result of a DONE: 0 or   56   8  zero
 *     8   8  sequence number               -errno, two's complement
 *    16   8  of a DONE: the       32   8  offset
 *            sequence number of   40   8  bytes (of a TRUNCATE:
 *            what is done                  the new length)
 *
 * The file id is the option id; without it the files of a log are numbered 0, 1, 2, … as they are first opened.
 * The payload of an OPEN is the host path of the file.
 *
 * Integers are little endian.  Every request has a record when it is handed to the file and a DONE when it
 * has returned; of a flush the two say when it started and when it had completed.
 *
 * The crash model: a request is durable at a cut (a number of records that are still before the crash) if its
 * DONE comes before the start of a flush of the same file whose successful DONE comes before the cut.  Every
 * other request that started before the cut may be on disk or not, each sector of 512 bytes on its own.
 */
#ifndef TEST_BLKLOGWRITES_H
#define TEST_BLKLOGWRITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "byteorder.h"

#define BLKLOG_MAGIC        0x676f6c76u
#define BLKLOG_HEADER_BYTES 64

typedef enum
{
  BLKLOG_OPEN = 1,  /* a node with this file id was opened; bytes: the file's length then; with payload */
  BLKLOG_WRITE = 2, /* with payload */
  BLKLOG_ZEROES = 3,
  BLKLOG_DISCARD = 4, /* reads as zeros or as before */
  BLKLOG_TRUNCATE = 5,
  BLKLOG_FLUSH = 6,
  BLKLOG_DONE = 7,
} BlkLogKind;

typedef struct
{
  Le32 magic, kind;
  Le64 sequence, of_sequence;
  Le32 file_id, result;
  Le64 offset, bytes, payload_bytes, reserved;
} BlkLogHeaderDisk;
G_STATIC_ASSERT (sizeof (BlkLogHeaderDisk) == BLKLOG_HEADER_BYTES);
G_STATIC_ASSERT (offsetof (BlkLogHeaderDisk, offset) == 32);

#define BLKLOG_NEVER SIZE_MAX

/* Record n of a log has the sequence number n + 1. */
typedef struct
{
  BlkLogKind kind;
  uint32_t file_id;
  int64_t offset, bytes;
  const uint8_t *payload; /* @bytes of a WRITE, the path (no NUL) of an OPEN, in the log; else NULL */
  size_t of;              /* of a DONE: the record that is done */
  int result;             /* of a DONE, or once done: 0 or -errno */
  size_t done_at;         /* the DONE of this record, or BLKLOG_NEVER */
  size_t durable_at;      /* the DONE of the first flush that covers it, or BLKLOG_NEVER */
  size_t payload_bytes;
} BlkLogRecord;

typedef struct
{
  BlkLogRecord *records;
  size_t n;
  GMappedFile *mapped;
} BlkLog;

/* Reads and checks a whole log.  An incomplete last record is left out: the writer was killed. */
BlkLog *blklog_load (const char *path, GError **error);
void blklog_free (BlkLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (BlkLog, blklog_free)

/* Whether record @index changes a file (WRITE, ZEROES, DISCARD, TRUNCATE). */
bool blklog_is_change (const BlkLog *log, size_t index);
/* Whether the change @index is on disk for certain if the crash comes before record @cut. */
bool blklog_is_durable (const BlkLog *log, size_t index, size_t cut);

/* Does to @fd what record @index did, or the part [@from, @from + @bytes) of its range, for a torn request;
 * @bytes -1: all.  A write extends the file.  A TRUNCATE is done whole or not at all; a DISCARD as zeros.
 * Blocks.  0 or -errno. */
int blklog_apply (const BlkLog *log, size_t index, int fd, int64_t from, int64_t bytes);

#endif
