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
 * As log recovery does, the head is found by bisection.  What a crash leaves around it, as writes of several buffers were
 * under way, recovery forgives; here all blocks that may be concerned are looked at, and any other picture counts as a log to
 * be replayed.
 */
#include <inttypes.h>
#include <string.h>

#include "checked.h"
#include "xfs.h"

#define PIECE_BLOCKS 2048
#define MAX_RECORD_BLOCKS                                                                                    \
  ((XFS_LOG_MAX_RECORD + XFS_LOG_MAX_RECORD / XFS_LOG_CYCLE_BYTES * XFS_LOG_BLOCK) / XFS_LOG_BLOCK)
/* No writer has more under way. */
#define WINDOW_BLOCKS (XFS_LOG_MAX_BUFFERS * XFS_LOG_MAX_RECORD / XFS_LOG_BLOCK)

typedef struct
{
  Xfs *xfs;
  int64_t offset;  /* in the volume */
  uint32_t blocks; /* of XFS_LOG_BLOCK */
  uint32_t head;   /* 1 to blocks: the block after the last that was written */
  uint32_t cycle;  /* of the blocks before the head */
  uint32_t gap;    /* the blocks from the head to here were never written; up to the head: there are none */
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

static uint32_t
expected_cycle (const Log *log, uint32_t index)
{
  if (index >= log->head && index < log->gap)
    return 0;
  return index < log->head ? log->cycle : log->cycle - 1;
}

static bool coroutine_fn
co_read_cycle (Log *log, uint32_t index, uint32_t *cycle, GError **error)
{
  g_autofree uint8_t *block = g_malloc (XFS_LOG_BLOCK);

  if (!fs_co_read_structure (log->xfs->volume, log->offset + (int64_t)index * XFS_LOG_BLOCK, XFS_LOG_BLOCK,
                             block, "log", error))
    return false;
  *cycle = block_cycle (block);
  return true;
}

/* Header blocks of a record and what follows. */
static void
record_blocks (const XfsLogRecordDisk *header, uint32_t *headers, uint32_t *all)
{
  uint32_t buffer_bytes = be32_get (header->buffer_bytes);

  *headers = 1;
  if ((be32_get (header->version) & XFS_LOG_VERSION_2) != 0 && buffer_bytes > XFS_LOG_CYCLE_BYTES)
    *headers = (uint32_t)div_round_up (buffer_bytes, XFS_LOG_CYCLE_BYTES);
  *all = *headers + (uint32_t)div_round_up (be32_get (header->bytes), XFS_LOG_BLOCK);
}

/* COMPAT: when xfsprogs make a log anew that had been in use (xfs_repair -L, xfs_admin -U; 6.1), they write one record at
 * its start, and the blocks of the cycle before only from XFS_LOG_CLEARED on.  Log recovery would find the head there. */
static bool coroutine_fn
co_look_for_gap (Log *log, GError **error)
{
  g_autofree uint8_t *block = g_malloc (XFS_LOG_BLOCK);
  const XfsLogRecordDisk *header = (const void *)block;
  uint32_t cycle, headers, all;

  if (log->head != XFS_LOG_CLEARED)
    return true;
  if (!co_read_cycle (log, XFS_LOG_CLEARED - 1, &cycle, error))
    return false;
  if (cycle != 0)
    return true;
  if (!fs_co_read_structure (log->xfs->volume, log->offset, XFS_LOG_BLOCK, block, "log", error))
    return false;
  record_blocks (header, &headers, &all);
  if (be32_get (header->magic) == XFS_LOG_MAGIC && all < XFS_LOG_CLEARED)
    {
      log->gap = log->head;
      log->head = all;
    }
  return true;
}

/* If the first block is of another cycle than the last, the head is where the first of the last one's cycle is. */
static bool coroutine_fn
co_find_head (Log *log, GError **error)
{
  uint32_t low = 0, high = log->blocks - 1, last;

  if (!co_read_cycle (log, low, &log->cycle, error) || !co_read_cycle (log, high, &last, error))
    return false;
  log->head = log->blocks;
  if (log->cycle == 0)
    return not_clean (error, log, "it was never written");
  if (last == log->cycle)
    return true;
  while (high - low > 1)
    {
      uint32_t middle = low + (high - low) / 2, cycle;

      if (!co_read_cycle (log, middle, &cycle, error))
        return false;
      if (cycle == last)
        high = middle;
      else
        low = middle;
    }
  log->head = high;
  return co_look_for_gap (log, error);
}

/* Whether the blocks around the head are of the cycles that they should be. */
static bool coroutine_fn
co_check_window (Log *log, GError **error)
{
  g_autofree uint8_t *piece = g_malloc (PIECE_BLOCKS * XFS_LOG_BLOCK);
  uint32_t left = MIN (log->blocks, 2 * WINDOW_BLOCKS);
  uint32_t index = (log->head + log->blocks - MIN (log->blocks, WINDOW_BLOCKS)) % log->blocks;

  while (left > 0)
    {
      uint32_t count = MIN (MIN (left, PIECE_BLOCKS), log->blocks - index);

      if (!fs_co_read_structure (log->xfs->volume, log->offset + (int64_t)index * XFS_LOG_BLOCK,
                                 (int64_t)count * XFS_LOG_BLOCK, piece, "log", error))
        return false;
      for (uint32_t i = 0; i < count; i++)
        if (block_cycle (piece + (size_t)i * XFS_LOG_BLOCK) != expected_cycle (log, index + i))
          return not_clean (error, log, "blocks around the head are of other cycles");
      left -= count;
      index = (index + count) % log->blocks;
    }
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
  uint32_t cycle = expected_cycle (log, index);
  uint32_t bytes = be32_get (header->bytes), headers, all;
  XfsLogOperationDisk operation;

  record_blocks (header, &headers, &all);
  if (be32_get (header->cycle) != cycle || be64_get (header->lsn) != ((uint64_t)cycle << 32 | index)
      || bytes < sizeof operation || bytes > XFS_LOG_MAX_RECORD
      || be32_get (header->buffer_bytes) > XFS_LOG_MAX_RECORD || all != count
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

  if (!co_find_head (&log, error) || !co_check_window (&log, error))
    return false;
  count = MIN (log.blocks, MAX_RECORD_BLOCKS);
  end = g_malloc ((size_t)count * XFS_LOG_BLOCK);
  if (!co_read_before (&log, log.head, count, end, error))
    return false;
  /* Every block but a header has its cycle where the magic would be. */
  for (uint32_t back = 1; back <= count; back++)
    {
      const uint8_t *record = end + (size_t)(count - back) * XFS_LOG_BLOCK;

      if (be32_at (record) == XFS_LOG_MAGIC)
        return is_unmount_record (&log, record, back, (log.head + log.blocks - back) % log.blocks)
               || not_clean (error, &log, "the last record is not that of an unmount");
    }
  return not_clean (error, &log, "no record before the head");
}
