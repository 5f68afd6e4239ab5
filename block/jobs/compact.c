/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compact: make the container of an image shorter, without changing what a guest can see.
 *
 * Steps: the format gives up what its tables alone show to be needless -> layout (the driver checks the whole
 * container) -> look at each payload block and drop those nobody needs -> flush -> layout again -> move blocks
 * from the end into holes, group by group -> cut the file.
 *
 * A block may be dropped if the guest sees the same without it: what this node decides in it is zero, and
 * without a parent nothing else was ever seen there; with a parent it equals what the parent shows (past the
 * parent's end: zeros).  A zero block of a differencing image is therefore only dropped where the parent
 * reads as zeros too, unless the format can say "zeros" of a block without storing them.  Holes of the container
 * file are known zeros and are not read.
 *
 * Crash points.  At each, the image opened again shows the same and is sound, and compact run again goes on.
 *  K1 while looking, nothing dropped yet: nothing has been written.
 *  K2 some blocks dropped, none of it or any part of it durable: a block is there or not, and both read the
 *     same.  Its space is not reused before the flush (I3), so a table entry that came back finds its block.
 *  K3 after the flush: dropped blocks are holes of the container.
 *  K4 inside of a group of moves: copies into holes nobody refers to, then flush, table, flush (I1); each
 *     block is found at its old or at its new place, with the same bytes.  The places a plan moves from are
 *     not written by it, so an old entry that came back is as good as the new one.
 *  K5 between groups: what lies above the last used block is no longer referred to.
 *  K6 inside of the cut: the driver puts what must end the file (a footer) at its new place, durably, before it
 *     truncates (I4).
 *
 * An error or a cancel stops between two blocks or two groups, with K2 flushed; what is already free at the end
 * of the file is cut by the next writable open or the next run.
 */
#include "compact.h"

#include "checked.h"
#include "compact-plan.h"
#include "zero.h"

#include <errno.h>
#include <string.h>

#define COMPACT_DEFAULT_PARALLEL 4
#define COMPACT_MAX_PARALLEL     16
/* A block in use is found out with its first piece; one that is not is read in larger ones. */
#define FIRST_PIECE_BYTES (64 * 1024)
#define PIECE_BYTES       (256 * 1024)

typedef struct
{
  Job job;
  CompactParams params;
  CompactStats stats;

  /* Of the scan. */
  GArray *extents; /* of BlockExtent */
  int64_t block_size;
  guint next;        /* extent to look at */
  CoMutex drop_lock; /* one co_drop_block () at a time */
  int ret;           /* the first error, or 0 */
  const BlockDriverState *failed_node;
  const char *failed_verb;
  int64_t failed_offset;
} CompactJob;

static int
compact_fail (CompactJob *compact, const BlockDriverState *node, const char *verb, int64_t offset, int ret)
{
  if (compact->ret == 0)
    {
      compact->ret = ret;
      compact->failed_node = node;
      compact->failed_verb = verb;
      compact->failed_offset = offset;
    }
  return ret;
}

/* --- looking at blocks --------------------------------------------------------------------------------- */

/* The buffers of one worker, PIECE_BYTES each. */
typedef struct
{
  uint8_t *own, *parent;
} ScanBuffers;

/* Whether @parent shows zeros in the whole range (@own NULL), or the bytes at @own.  1, 0 or -errno. */
static int coroutine_fn
compact_co_parent_shows (CompactJob *compact, int64_t offset, int64_t bytes, const uint8_t *own,
                         ScanBuffers *buffers)
{
  BlockDriverState *parent = compact->params.bs->backing;
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
            return compact_fail (compact, parent, "look-up of the allocation", offset, ret);
          zero = !(ret & BDRV_BLOCK_ALLOCATED) || (ret & BDRV_BLOCK_ZERO);
        }
      if (!zero)
        {
          pnum = MIN (pnum, PIECE_BYTES);
          int ret = bdrv_co_pread (parent, offset, pnum, buffers->parent);
          if (ret < 0)
            return compact_fail (compact, parent, "read", offset, ret);
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

/* What a block can still turn out to be while it is looked at. */
typedef struct
{
  bool redundant; /* the guest sees the same without it */
  bool zero;      /* it decides zeros everywhere, and the format can say so without storing them */
} BlockVerdict;

static inline bool
verdict_is_open (const BlockVerdict *verdict)
{
  return verdict->redundant || verdict->zero;
}

/* Looks at data that this node stores.  0 or -errno. */
static int coroutine_fn
compact_co_look_at_data (CompactJob *compact, int64_t offset, int64_t bytes, ScanBuffers *buffers,
                         BlockVerdict *verdict)
{
  BlockDriverState *bs = compact->params.bs;
  int64_t piece = FIRST_PIECE_BYTES;

  while (bytes > 0 && verdict_is_open (verdict))
    {
      int64_t n = MIN (bytes, piece);
      int ret = job_co_throttle (&compact->job, n);

      if (ret == 0)
        ret = bdrv_co_pread (bs, offset, n, buffers->own);
      if (ret < 0)
        return compact_fail (compact, bs, "read", offset, ret);
      bool zero = buffer_is_zero (buffers->own, (size_t)n);
      verdict->zero = verdict->zero && zero;
      if (bs->backing == NULL)
        verdict->redundant = verdict->redundant && zero;
      else if (verdict->redundant)
        {
          ret = compact_co_parent_shows (compact, offset, n, buffers->own, buffers);
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

/* Looks at the block until it is known what it is. */
static int coroutine_fn
compact_co_look_at_block (CompactJob *compact, int64_t offset, ScanBuffers *buffers, BlockVerdict *verdict)
{
  BlockDriverState *bs = compact->params.bs;
  /* Of a block past the end, nothing is seen. */
  int64_t end = MIN (offset + compact->block_size, bdrv_length (bs));

  *verdict = (BlockVerdict){
    .redundant = true,
    .zero = bs->backing != NULL && (bs->drv->caps & BLOCK_CAP_ZERO_BLOCKS),
  };
  while (offset < end && verdict_is_open (verdict))
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int ret = bdrv_co_block_status (bs, offset, end - offset, &pnum, &map, &file);

      if (ret < 0)
        return compact_fail (compact, bs, "look-up of the allocation", offset, ret);
      if (!(ret & BDRV_BLOCK_ALLOCATED))
        verdict->zero = false;
      else if (compact->params.no_zero_scan)
        *verdict = (BlockVerdict){ false, false };
      else if (!(ret & BDRV_BLOCK_ZERO))
        {
          ret = compact_co_look_at_data (compact, offset, pnum, buffers, verdict);
          if (ret < 0)
            return ret;
        }
      else if (bs->backing != NULL && verdict->redundant)
        {
          ret = compact_co_parent_shows (compact, offset, pnum, NULL, buffers);
          if (ret < 0)
            return ret;
          verdict->redundant = ret > 0;
        }
      offset += pnum;
    }
  return 0;
}

/* Zeros are kept as zeros where the format can: then they do not depend on the parent. */
static int coroutine_fn
compact_co_drop (CompactJob *compact, int64_t offset, const BlockVerdict *verdict)
{
  BlockDriverState *bs = compact->params.bs;

  co_mutex_lock (&compact->drop_lock);
  int ret = bs->drv->co_drop_block (bs, offset, verdict->zero ? BLOCK_DROP_ZERO : BLOCK_DROP_UNALLOCATED);
  co_mutex_unlock (&compact->drop_lock);
  if (ret < 0)
    return compact_fail (compact, bs, "release of the block", offset, ret);
  compact->stats.blocks_dropped++;
  return 0;
}

static void coroutine_fn
scan_entry (void *opaque)
{
  CompactJob *compact = opaque;
  BlockDriverState *bs = compact->params.bs;
  ScanBuffers buffers = {
    .own = bdrv_try_alloc_buffer (bs, PIECE_BYTES),
    .parent = bs->backing != NULL ? bdrv_try_alloc_buffer (bs->backing, PIECE_BYTES) : NULL,
  };

  if (buffers.own == NULL || (bs->backing != NULL && buffers.parent == NULL))
    compact_fail (compact, bs, "buffer for the read", 0, -ENOMEM);
  while (compact->ret == 0)
    {
      int ret = job_co_pause_point (&compact->job);

      if (ret < 0)
        {
          compact_fail (compact, bs, "scan", 0, ret);
          break;
        }
      if (compact->next == compact->extents->len)
        break;
      const BlockExtent *extent = &g_array_index (compact->extents, BlockExtent, compact->next++);
      if (extent->offset < 0)
        continue;
      int64_t offset = extent->offset;
      BlockVerdict verdict;
      ret = compact_co_look_at_block (compact, offset, &buffers, &verdict);
      if (ret == 0 && verdict_is_open (&verdict))
        ret = compact_co_drop (compact, offset, &verdict);
      if (ret < 0)
        break;
      job_progress_add (&compact->job, compact->block_size);
    }
  bdrv_free_buffer (buffers.own);
  bdrv_free_buffer (buffers.parent);
}

/* --- the job ------------------------------------------------------------------------------------------- */

static bool coroutine_fn
compact_co_flush (CompactJob *compact, GError **error)
{
  int ret = bdrv_co_flush (compact->params.bs);

  if (ret < 0)
    bdrv_set_error_errno (error, compact->params.bs, ret, "flush failed");
  return ret == 0;
}

/* Looks at all blocks of @layout in file order, and drops. */
static bool coroutine_fn
compact_co_scan (CompactJob *compact, const BlockLayout *layout, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  unsigned workers = compact->params.parallel > 0 ? compact->params.parallel : COMPACT_DEFAULT_PARALLEL;

  compact->extents = layout->extents;
  compact->block_size = layout->block_size;
  co_mutex_init (&compact->drop_lock);
  job_co_run_workers (&compact->job, workers, scan_entry, compact);
  co_mutex_clear (&compact->drop_lock);
  compact->extents = NULL;

  if (compact->ret == -ECANCELED)
    job_set_cancelled (&compact->job, error);
  else if (compact->ret < 0)
    bdrv_set_error_errno (error, compact->failed_node, compact->ret,
                          "%s at offset %" G_GINT64_FORMAT " failed", compact->failed_verb,
                          compact->failed_offset);
  /* What was dropped stays dropped, also after an error; the first error is the one to tell. */
  bool flushed = true;
  if (compact->stats.blocks_dropped > 0 && !bdrv_is_poisoned (bs))
    flushed = compact_co_flush (compact, compact->ret == 0 ? error : NULL);
  return compact->ret == 0 && flushed;
}

static bool coroutine_fn
compact_co_move (CompactJob *compact, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  if (!bs->drv->co_get_layout (bs, &layout, error))
    return false;
  if (!compact_plan_make (&layout, &plan, error))
    {
      g_prefix_error (error, "%s: ", bs->filename);
      return false;
    }
  block_layout_clear (&layout);

  job_progress_add_total (&compact->job, plan.bytes);
  for (int first = 0, n; (n = compact_plan_group (&plan, first)) > 0; first += n)
    {
      const BlockMove *moves = &g_array_index (plan.moves, BlockMove, first);
      int64_t bytes = 0;

      for (int i = 0; i < n; i++)
        bytes += moves[i].bytes;
      if (job_co_pause_point (&compact->job) < 0 || job_co_throttle (&compact->job, bytes) < 0)
        {
          job_set_cancelled (&compact->job, error);
          return false;
        }
      int ret = bs->drv->co_relocate (bs, moves, n);
      if (ret < 0)
        {
          bdrv_set_error_errno (error, bs, ret,
                                "moving %d blocks from file offset %" G_GINT64_FORMAT " and below failed", n,
                                moves[0].from);
          return false;
        }
      compact->stats.blocks_moved += n;
      job_progress_add (&compact->job, bytes);
    }
  return true;
}

static bool coroutine_fn
compact_co_cut (CompactJob *compact, GError **error)
{
  BlockDriverState *bs = compact->params.bs;

  if (job_co_pause_point (&compact->job) < 0)
    {
      job_set_cancelled (&compact->job, error);
      return false;
    }
  int ret = bs->drv->co_trim != NULL ? bs->drv->co_trim (bs) : 0;
  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "cutting the file after its last used byte failed");
  return ret == 0;
}

static bool coroutine_fn
compact_co_reduce (CompactJob *compact, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  int ret = bs->drv->co_reduce != NULL ? bs->drv->co_reduce (bs) : 0;

  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "giving up what is stored without a need failed");
  return ret == 0;
}

static bool coroutine_fn
compact_co_steps (CompactJob *compact, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  g_auto (BlockLayout) layout = { 0 };

  if (!compact_co_reduce (compact, error) || !bs->drv->co_get_layout (bs, &layout, error))
    return false;
  for (guint i = 0; i < layout.extents->len; i++)
    if (g_array_index (layout.extents, BlockExtent, i).offset >= 0)
      compact->stats.blocks_allocated++;
  job_progress_add_total (&compact->job, compact->stats.blocks_allocated * layout.block_size);

  if (!compact_co_scan (compact, &layout, error))
    return false;
  block_layout_clear (&layout);
  /* What blocks that are gone now were the last to need. */
  if (compact->stats.blocks_dropped > 0 && !compact_co_reduce (compact, error))
    return false;
  if (!compact->params.no_block_moves && bs->drv->co_relocate != NULL && !compact_co_move (compact, error))
    return false;
  return compact_co_cut (compact, error);
}

static bool coroutine_fn
compact_co_run (Job *job, GError **error)
{
  CompactJob *compact = (CompactJob *)job;
  const BlockDriverState *container = bdrv_protocol_node (compact->params.bs);

  compact->stats.file_size_before = bdrv_length (container);
  bool ok = compact_co_steps (compact, error);
  compact->stats.file_size_after = bdrv_length (container);
  return ok;
}

static const JobDriver compact_driver = {
  .instance_size = sizeof (CompactJob),
  .verb = "compact",
  .co_run = compact_co_run,
};

static bool
names_a_parent (BlockDriverState *bs)
{
  BlockParentLink link = { 0 };

  if (bs->drv->get_parent_link == NULL)
    return false;
  bool named = bs->drv->get_parent_link (bs, &link);
  g_clear_pointer (&link.paths, g_ptr_array_unref);
  return named;
}

Job *
compact_job_new (AioContext *context, const CompactParams *params, GError **error)
{
  BlockDriverState *bs = params->bs;

  if (bs->drv->co_get_layout == NULL || bs->drv->co_drop_block == NULL)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "format %s has no blocks that could be released: there is nothing to compact",
                      bs->drv->format_name);
      return NULL;
    }
  if (bs->read_only)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "cannot be compacted: opened read-only");
      return NULL;
    }
  if (bs->backing == NULL && !params->no_zero_scan && names_a_parent (bs))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "has a parent that is not open: what it shows decides which blocks are needed");
      return NULL;
    }
  if (params->parallel > COMPACT_MAX_PARALLEL)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "%u coroutines, at most %d are possible",
                      params->parallel, COMPACT_MAX_PARALLEL);
      return NULL;
    }

  Job *job = job_new (&compact_driver, context, error);
  if (job != NULL)
    ((CompactJob *)job)->params = *params;
  return job;
}

CompactStats
compact_job_get_stats (const Job *job)
{
  return job->driver == &compact_driver ? ((const CompactJob *)job)->stats : (CompactStats){ 0 };
}
