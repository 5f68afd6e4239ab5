/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking for blocks that nobody needs.
 *
 * A block may be dropped if every byte of it is
 *   free    not used by the guest's file systems: nobody minds what it reads as afterwards; or
 *   zero    in an image without a parent, or where the format can say "zeros" of a block without storing them; or
 *   same    in an image with a parent, what the parent shows (past the parent's end: zeros).
 * Zero and same exclude each other in one block unless they agree: what is dropped reads as the one or as the other.
 *
 * Holes of the container file are known zeros and are not read; neither is what is free.  Without the zero scan
 * nothing is read at all: a block goes if what is used of it is not stored here.
 *
 * Free space may read as something else afterwards, also where this image did not decide it: zeros hide the parent, and
 * without them it shows.  So a block with any free space in it counts as a change of the content.  A format whose
 * identity follows that, by which its children know it, gets a new one before the first such block goes.
 */
#include "compact-scan.h"

#include "checked.h"
#include "zero.h"

#include <errno.h>
#include <string.h>

/* A block in use is found out with its first piece; one that is not is read in larger ones. */
#define FIRST_PIECE_BYTES (64 * 1024)
#define PIECE_BYTES       (1024 * 1024)

static int
scan_fail (CompactScan *scan, const BlockDriverState *node, const char *verb, int64_t offset, int ret)
{
  if (scan->ret == 0)
    {
      scan->ret = ret;
      scan->failed_node = node;
      scan->failed_verb = verb;
      scan->failed_offset = offset;
    }
  return ret;
}

/* The buffers of one worker, PIECE_BYTES each. */
typedef struct
{
  uint8_t *own, *parent;
} ScanBuffers;

/* What a block can still turn out to be while it is looked at. */
typedef struct
{
  bool redundant; /* without it the same is seen of all that is used */
  bool zero;      /* of all that is used it decides zeros, and the format can say so without storing them */
  bool free;      /* some of it is free */
  bool data;      /* something used in it is not zero */
  int64_t bytes[COMPACT_CLASSES];
} BlockVerdict;

static inline bool
verdict_is_open (const BlockVerdict *verdict)
{
  return verdict->redundant || verdict->zero;
}

/* Whether the parent shows zeros in the whole range (@own NULL), or the bytes at @own.  1, 0 or -errno. */
static int coroutine_fn
scan_co_parent_shows (CompactScan *scan, int64_t offset, int64_t bytes, const uint8_t *own,
                      ScanBuffers *buffers)
{
  BlockDriverState *parent = scan->bs->backing;
  bool own_zero = own == NULL || buffer_is_zero (own, (size_t)bytes);

  while (bytes > 0)
    {
      int64_t pnum = bytes, map;
      BlockDriverState *file;
      bool zero = true;

      /* Past the parent's end there are zeros. */
      if (offset < bdrv_length (parent))
        {
          int64_t inside = MIN (bytes, bdrv_length (parent) - offset);
          int ret = bdrv_co_block_status_above (parent, NULL, offset, inside, &pnum, &map, &file, NULL);

          if (ret < 0)
            return scan_fail (scan, parent, "look-up of the allocation", offset, ret);
          zero = !(ret & BDRV_BLOCK_ALLOCATED) || (ret & BDRV_BLOCK_ZERO);
        }
      if (!zero)
        {
          pnum = MIN (pnum, PIECE_BYTES);
          int ret = bdrv_co_pread (parent, offset, pnum, buffers->parent);
          if (ret < 0)
            return scan_fail (scan, parent, "read", offset, ret);
          if (own_zero ? !buffer_is_zero (buffers->parent, (size_t)pnum)
                       : memcmp (own, buffers->parent, (size_t)pnum) != 0)
            return 0;
        }
      else if (!own_zero && !buffer_is_zero (own, (size_t)pnum))
        return 0;
      offset += pnum;
      bytes -= pnum;
      own = own != NULL ? own + pnum : NULL;
    }
  return 1;
}

/* Looks at data that this node stores.  0 or -errno. */
static int coroutine_fn
scan_co_look_at_data (CompactScan *scan, int64_t offset, int64_t bytes, ScanBuffers *buffers,
                      BlockVerdict *verdict)
{
  BlockDriverState *bs = scan->bs;
  int64_t piece = FIRST_PIECE_BYTES;

  while (bytes > 0 && verdict_is_open (verdict))
    {
      int64_t n = MIN (bytes, piece);
      int ret = job_co_throttle (scan->job, n);

      if (ret == 0)
        ret = bdrv_co_pread (bs, offset, n, buffers->own);
      if (ret < 0)
        return scan_fail (scan, bs, "read", offset, ret);
      bool zero = buffer_is_zero (buffers->own, (size_t)n);
      verdict->zero = verdict->zero && zero;
      verdict->data = verdict->data || !zero;
      verdict->bytes[zero ? COMPACT_ZERO : COMPACT_SAME] += n;
      if (bs->backing == NULL)
        verdict->redundant = verdict->redundant && zero;
      else if (verdict->redundant)
        {
          ret = scan_co_parent_shows (scan, offset, n, buffers->own, buffers);
          if (ret < 0)
            return ret;
          verdict->redundant = ret > 0;
        }
      offset += n;
      bytes -= n;
      piece = PIECE_BYTES;
    }
  return 0;
}

/* Looks at a range that is in use, of one @status of this node.  0 or -errno. */
static int coroutine_fn
scan_co_look_at_used (CompactScan *scan, int64_t offset, int64_t bytes, int status, ScanBuffers *buffers,
                      BlockVerdict *verdict)
{
  if (!(status & BDRV_BLOCK_ALLOCATED))
    {
      verdict->zero = false;
      verdict->bytes[COMPACT_SAME] += bytes;
      return 0;
    }
  if (!scan->zero_scan)
    {
      *verdict = (BlockVerdict){ 0 };
      return 0;
    }
  if (!(status & BDRV_BLOCK_ZERO))
    return scan_co_look_at_data (scan, offset, bytes, buffers, verdict);
  verdict->bytes[COMPACT_ZERO] += bytes;
  if (scan->bs->backing != NULL && verdict->redundant)
    {
      int ret = scan_co_parent_shows (scan, offset, bytes, NULL, buffers);

      if (ret < 0)
        return ret;
      verdict->redundant = ret > 0;
    }
  return 0;
}

/* The run of bytes from @offset, before @end, that are all free or all used. */
static int64_t
free_run (const FsFreeReport *free_space, int64_t offset, int64_t end, bool *is_free)
{
  FsExtent extent;

  *is_free = false;
  if (free_space == NULL || !fs_free_report_next (free_space, offset, &extent) || extent.offset >= end)
    return end - offset;
  *is_free = extent.offset == offset;
  return *is_free ? MIN (extent.bytes, end - offset) : extent.offset - offset;
}

/* What is used of a payload block, for the job's progress. */
static int64_t
bytes_to_look_at (const CompactScan *scan, guint index)
{
  int64_t offset = g_array_index (scan->layout->extents, BlockExtent, index).offset;
  int64_t end = offset + scan->layout->block_size, bytes = 0;

  while (offset >= 0 && offset < end)
    {
      bool is_free;
      int64_t run = free_run (scan->free, offset, end, &is_free);

      bytes += is_free ? 0 : run;
      offset += run;
    }
  return bytes;
}

/* Looks at the block until it is known what it is. */
static int coroutine_fn
scan_co_look_at_block (CompactScan *scan, int64_t offset, ScanBuffers *buffers, BlockVerdict *verdict)
{
  BlockDriverState *bs = scan->bs;
  /* Of a block past the end, nothing is seen. */
  int64_t end = MIN (offset + scan->layout->block_size, bdrv_length (bs));

  *verdict = (BlockVerdict){
    .redundant = true,
    .zero = bs->backing != NULL && (bs->drv->caps & BLOCK_CAP_ZERO_BLOCKS),
  };
  while (offset < end && verdict_is_open (verdict))
    {
      bool is_free;
      int64_t pnum = free_run (scan->free, offset, end, &is_free);

      if (is_free)
        {
          verdict->free = true;
          verdict->bytes[COMPACT_FREE] += pnum;
        }
      else
        {
          int64_t map;
          BlockDriverState *file;
          int ret = bdrv_co_block_status (bs, offset, pnum, &pnum, &map, &file);

          if (ret < 0)
            return scan_fail (scan, bs, "look-up of the allocation", offset, ret);
          ret = scan_co_look_at_used (scan, offset, pnum, ret, buffers, verdict);
          if (ret < 0)
            return ret;
        }
      offset += pnum;
    }
  return 0;
}

/* Zeros are kept as zeros where the format can: then they do not depend on the parent. */
static int coroutine_fn
scan_co_drop (CompactScan *scan, int64_t offset, const BlockVerdict *verdict)
{
  BlockDriverState *bs = scan->bs;
  int ret = 0;

  co_mutex_lock (&scan->drop_lock);
  if (verdict->free)
    ret = bdrv_co_take_next_identity (bs);
  if (ret == 0)
    ret = bs->drv->co_drop_block (bs, offset, verdict->zero ? BLOCK_DROP_ZERO : BLOCK_DROP_UNALLOCATED);
  co_mutex_unlock (&scan->drop_lock);
  return ret < 0 ? scan_fail (scan, bs, "release of the block", offset, ret) : 0;
}

static int coroutine_fn
scan_co_extent (CompactScan *scan, guint index, ScanBuffers *buffers)
{
  const BlockExtent *extent = &g_array_index (scan->layout->extents, BlockExtent, index);
  BlockVerdict verdict = { 0 };
  int ret = extent->offset >= 0 ? scan_co_look_at_block (scan, extent->offset, buffers, &verdict) : 0;

  if (ret < 0)
    return ret;
  if (!verdict_is_open (&verdict))
    {
      if (scan->dry_run)
        g_array_append_val (scan->kept, *extent);
      return 0;
    }
  if (!scan->dry_run)
    ret = scan_co_drop (scan, extent->offset, &verdict);
  if (ret < 0)
    return ret;
  scan->blocks[verdict.free ? COMPACT_FREE : verdict.data ? COMPACT_SAME : COMPACT_ZERO]++;
  for (int i = 0; i < COMPACT_CLASSES; i++)
    scan->bytes[i] += verdict.bytes[i];
  return 0;
}

static void coroutine_fn
scan_entry (void *opaque)
{
  CompactScan *scan = opaque;
  BlockDriverState *bs = scan->bs;
  ScanBuffers buffers = {
    .own = bdrv_try_alloc_buffer (bs, PIECE_BYTES),
    .parent = bs->backing != NULL ? bdrv_try_alloc_buffer (bs->backing, PIECE_BYTES) : NULL,
  };

  if (buffers.own == NULL || (bs->backing != NULL && buffers.parent == NULL))
    scan_fail (scan, bs, "buffer for the read", 0, -ENOMEM);
  while (scan->ret == 0)
    {
      int ret = job_co_pause_point (scan->job);

      if (ret < 0)
        {
          scan_fail (scan, bs, "scan", 0, ret);
          break;
        }
      if (scan->next == scan->layout->extents->len)
        break;
      guint index = scan->next++;
      if (scan_co_extent (scan, index, &buffers) < 0)
        break;
      job_progress_add (scan->job, bytes_to_look_at (scan, index));
    }
  bdrv_free_buffer (buffers.own);
  bdrv_free_buffer (buffers.parent);
}

static gint
compare_extents (gconstpointer a, gconstpointer b)
{
  const BlockExtent *x = a, *y = b;

  return x->file_offset < y->file_offset ? -1 : x->file_offset > y->file_offset;
}

int coroutine_fn
compact_co_scan (CompactScan *scan)
{
  if (scan->dry_run)
    scan->kept = g_array_new (false, false, sizeof (BlockExtent));
  co_mutex_init (&scan->drop_lock);
  job_co_run_workers (scan->job, scan->workers, scan_entry, scan);
  co_mutex_clear (&scan->drop_lock);
  /* Workers end in any order. */
  if (scan->kept != NULL)
    g_array_sort (scan->kept, compare_extents);
  return scan->ret;
}

int64_t
compact_scan_bytes (const CompactScan *scan)
{
  int64_t bytes = 0;

  for (guint i = 0; i < scan->layout->extents->len; i++)
    bytes += bytes_to_look_at (scan, i);
  return bytes;
}

int64_t
compact_payload_blocks (const BlockLayout *layout)
{
  int64_t blocks = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    blocks += g_array_index (layout->extents, BlockExtent, i).offset >= 0;
  return blocks;
}
