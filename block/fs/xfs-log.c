/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether the log of XFS is clean: whether its last record is that of an unmount.
 *
 * The log is a ring that is written again and again, and each of its blocks tells the turn ("cycle") of its last write.  So
 * the blocks before the head are of one cycle, those behind it of the one before:
 *
 *   | C C C C C [unmount record] | C-1 C-1 C-1 C-1 |
 *                                ^ head
 *
 * Log recovery finds the head by bisection and forgives what a crash leaves around it.  Here every block is looked at, and any
 * other picture counts as a log to be replayed.
 */
#include <inttypes.h>
#include <string.h>

#include "checked.h"
#include "xfs.h"

#define PIECE_BYTES (1024 * 1024)
#define MAX_RECORD_BLOCKS                                                                                    \
  ((XFS_LOG_MAX_RECORD + XFS_LOG_MAX_RECORD / XFS_LOG_CYCLE_BYTES * XFS_LOG_BLOCK) / XFS_LOG_BLOCK)

typedef struct
{
  Xfs *xfs;
  int64_t offset;  /* in the volume */
  uint32_t blocks; /* of XFS_LOG_BLOCK */
  uint32_t head;   /* 1 to blocks: the block after the last that was written */
  uint32_t cycle;  /* of the blocks before the head */
} Log;

static bool
not_clean (GError **error, const Log *log, const char *what)
{
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NEEDS_REPLAY,
               "the log is not clean, so the file system was not unmounted: %s (head at log block %u of %u)",
               what, log->head, log->blocks);
  return false;
}

static uint32_t
block_cycle (const uint8_t *block)
{
  const Be32 *words = (const void *)block;

  return be32_get (words[0]) == XFS_LOG_MAGIC ? be32_get (words[1]) : be32_get (words[0]);
}

/* One block more; false if its cycle does not go with those before. */
static bool
look_at_block (Log *log, uint32_t index, const uint8_t *block)
{
  uint32_t cycle = block_cycle (block);

  if (index == 0)
    {
      log->cycle = cycle;
      return cycle != 0;
    }
  if (log->head == 0 && cycle != log->cycle)
    log->head = index;
  return cycle == (log->head == 0 ? log->cycle : log->cycle - 1);
}

static bool coroutine_fn
co_find_head (Log *log, GError **error)
{
  g_autofree uint8_t *piece = g_malloc (PIECE_BYTES);
  int64_t bytes = (int64_t)log->blocks * XFS_LOG_BLOCK;

  for (int64_t done = 0; done < bytes; done += PIECE_BYTES)
    {
      int64_t now = MIN (bytes - done, PIECE_BYTES);

      if (!fs_co_read_structure (log->xfs->volume, log->offset + done, now, piece, "log", error))
        return false;
      for (int64_t i = 0; i < now; i += XFS_LOG_BLOCK)
        {
          uint32_t index = (uint32_t)((done + i) / XFS_LOG_BLOCK);

          if (!look_at_block (log, index, piece + i))
            {
              log->head = index;
              return not_clean (error, log, "unexpected cycle");
            }
        }
    }
  if (log->head == 0)
    log->head = log->blocks;
  return true;
}

/* Reads @count blocks up to @end (1 to log->blocks), around the ring's edge. */
static bool coroutine_fn
co_read_before (Log *log, uint32_t end, uint32_t count, uint8_t *buf, GError **error)
{
  uint32_t wrapped = count > end ? count - end : 0;

  return (wrapped == 0
          || fs_co_read_structure (log->xfs->volume,
                                   log->offset + (int64_t)(log->blocks - wrapped) * XFS_LOG_BLOCK,
                                   (int64_t)wrapped * XFS_LOG_BLOCK, buf, "log", error))
         && fs_co_read_structure (
             log->xfs->volume, log->offset + (int64_t)(end - (count - wrapped)) * XFS_LOG_BLOCK,
             (int64_t)(count - wrapped) * XFS_LOG_BLOCK, buf + (size_t)wrapped * XFS_LOG_BLOCK, "log", error);
}

/* @record: the last record, @count blocks up to the head.  The first has index @index in the log. */
static bool
is_unmount_record (const Log *log, const uint8_t *record, uint32_t count, uint32_t index)
{
  const XfsLogRecordDisk *header = (const void *)record;
  uint32_t cycle = index < log->head ? log->cycle : log->cycle - 1;
  uint32_t version = be32_get (header->version), buffer_bytes = be32_get (header->buffer_bytes);
  uint32_t bytes = be32_get (header->bytes), headers = 1;
  XfsLogOperationDisk operation;

  if ((version & XFS_LOG_VERSION_2) != 0 && buffer_bytes > XFS_LOG_CYCLE_BYTES)
    headers = (uint32_t)div_round_up (buffer_bytes, XFS_LOG_CYCLE_BYTES);
  if (be32_get (header->cycle) != cycle || be64_get (header->lsn) != ((uint64_t)cycle << 32 | index)
      || bytes < sizeof operation || bytes > XFS_LOG_MAX_RECORD || buffer_bytes > XFS_LOG_MAX_RECORD
      || headers + (uint32_t)div_round_up (bytes, XFS_LOG_BLOCK) != count
      || be32_get (header->operations) != 1
      || (memcmp (header->uuid, log->xfs->uuid, sizeof header->uuid) != 0
          && memcmp (header->uuid, log->xfs->meta_uuid, sizeof header->uuid) != 0))
    return false;
  memcpy (&operation, record + (size_t)headers * XFS_LOG_BLOCK, sizeof operation);
  return operation.client == XFS_LOG_CLIENT_LOG && (operation.flags & XFS_LOG_FLAG_UNMOUNT) != 0;
}

bool coroutine_fn
xfs_co_check_log (Xfs *xfs, GError **error)
{
  Log log = {
    .xfs = xfs,
    .offset = xfs_offset (xfs, xfs->log_ag, xfs->log_ag_block),
    .blocks = (uint32_t)((uint64_t)xfs->log_blocks * xfs->block_size / XFS_LOG_BLOCK),
  };
  uint32_t count;
  g_autofree uint8_t *end = NULL;

  if (!co_find_head (&log, error))
    return false;
  count = MIN (log.blocks, MAX_RECORD_BLOCKS);
  end = g_malloc ((size_t)count * XFS_LOG_BLOCK);
  if (!co_read_before (&log, log.head, count, end, error))
    return false;
  /* Every block but a header has its cycle where the magic would be. */
  for (uint32_t back = 1; back <= count; back++)
    {
      const uint8_t *record = end + (size_t)(count - back) * XFS_LOG_BLOCK;

      if (be32_get (*(const Be32 *)(const void *)record) == XFS_LOG_MAGIC)
        return is_unmount_record (&log, record, back, (log.head + log.blocks - back) % log.blocks)
               || not_clean (error, &log, "the last record is not that of an unmount");
    }
  return not_clean (error, &log, "no record before the head");
}
