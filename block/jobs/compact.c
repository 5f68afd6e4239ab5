/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compact: give back what the container of an image holds without a need, without changing what a guest uses.
 *
 * Steps: other images above this one?  -> layout (the driver checks the whole container) -> room on the host for what is
 * to be filled? -> the format gives up what its tables alone show to be needless -> layout again -> which space the guest does not use -> look at each payload block and drop
 * those nobody needs -> flush -> layout again -> move blocks from the end into holes, group by group (or punch holes
 * where they are) -> cut the file -> fill its holes, where asked for.
 *
 * What is needed is the matter of compact-scan.c; which bytes of the disk the guest's file systems do not use, that of
 * block/fs; holes of the host file, that of compact-host.c.
 *
 * Crash points.  At each, the image opened again is sound, and shows the same wherever the guest's file systems use it;
 * without free space being dropped, everywhere.  Compact run again goes on: what was in use then is so now.
 *  K1 while looking, nothing dropped yet: nothing has been written.
 *  K2 some blocks dropped, none of it or any part of it durable: a block is there or not, and both read the same
 *     wherever it is used.  Its space is not reused before the flush (I3), so a table entry that came back finds its
 *     block.  Before the first block that has free space in it, the image got its next identity, durably: where it
 *     follows the content, no other content ever had it.
 *  K3 after the flush: no table refers to what dropped blocks stood on.  Those places are free.
 *  K4 inside of a group of moves: copies into holes nobody refers to, then flush, table, flush (I1); each
 *     block is found at its old or at its new place, with the same bytes.  The places a plan moves from are
 *     not written by it, so an old entry that came back is as good as the new one.
 *  K5 between groups: what lies above the last used block is no longer referred to.
 *  K6 inside of the cut: the driver puts what must end the file (a footer) at its new place, durably, before it
 *     truncates (I4).
 *  K7 holes are punched: where nothing refers to after K3, and in payload that is free, by sectors and in any order.
 *     No table changes; for the identity, K2 holds.
 *  K8 holes are filled: the same bytes stand there before and after.
 *
 * An error or a cancel stops between two blocks or two groups, with K2 flushed; what is already free at the end
 * of the file is cut by the next writable open or the next run.
 */
#include "compact.h"

#include "compact-host.h"
#include "compact-plan.h"
#include "compact-scan.h"
#include "siblings.h"
#include "space.h"

#include <errno.h>

#define COMPACT_DEFAULT_PARALLEL 4
#define COMPACT_MAX_PARALLEL     16
/* Free ranges shorter than this are not looked for: at most a page of a table saved, and much to remember. */
#define FREE_GRANULARITY (64 * 1024)
/* To punch holes, there is nothing to gain below a page of the host. */
#define PUNCH_GRANULARITY (4 * 1024)

typedef struct
{
  Job job;
  CompactParams params;
  CompactStats stats;
  char *children;        /* that keep free space from being dropped, as a phrase; NULL: none do */
  bool children_unknown; /* whether they are some is not known */
  bool has_report;
  FsFreeReport report;
  int64_t moved_bytes; /* of a dry run */
} CompactJob;

/* --- what the guest does not use ----------------------------------------------------------------------- */

static int coroutine_fn
pause_point (void *opaque)
{
  return job_co_pause_point (opaque);
}

/* Whether what the guest does not use may read as something else. */
static bool
compact_heeds_free_space (const CompactJob *compact)
{
  return compact->params.free_space && compact->children == NULL;
}

/* What lets free space go all the same. */
static const char *
compact_way_on (const CompactJob *compact)
{
  return compact->children_unknown ? "go on regardless with --ignore-unknown"
                                   : "give them up with --break-children";
}

static void
compact_set_children_error (const CompactJob *compact, GError **error)
{
  bdrv_set_error (error, compact->params.bs, VHDKIT_ERROR_HAS_CHILDREN,
                  "%s may use what its own file systems do not: nothing was changed; %s", compact->children,
                  compact_way_on (compact));
}

static bool coroutine_fn
compact_co_look_for_children (CompactJob *compact, GError **error)
{
  const CompactParams *params = &compact->params;
  BlockDriverState *bs = params->bs;

  if (!params->free_space || params->break_children)
    return true;
  if (!siblings_co_describe_children (&compact->job, bs, &params->places, params->ignore_unknown,
                                      &compact->children, &compact->children_unknown, error))
    return false;
  if (compact->children == NULL)
    return true;
  if (params->mark_only)
    {
      compact_set_children_error (compact, error);
      return false;
    }
  return true;
}

/* Of an image that can give back something else. */
static void
compact_warn_of_children (const CompactJob *compact)
{
  if (compact->children != NULL)
    bdrv_warn (compact->params.bs, "free space of the guest's file systems is kept: %s may use it; %s",
               compact->children, compact_way_on (compact));
}

/* @block_size: 0: there are no blocks. */
static int64_t
compact_free_granularity (const CompactParams *params, int64_t block_size)
{
  if (block_size == 0)
    return PUNCH_GRANULARITY;
  /* Parts of blocks are of use where the rest can turn out to be zeros, or where they can be punched. */
  if (params->punch_blocks)
    return MIN (block_size, PUNCH_GRANULARITY);
  return params->zero_scan ? MIN (block_size, FREE_GRANULARITY) : block_size;
}

static bool coroutine_fn
compact_co_find_free (CompactJob *compact, int64_t block_size, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  uint32_t sector = bs->limits.request_alignment;
  FsFreeParams params = {
    .bs = bs,
    .sector_size = sector == 512 || sector == 4096 ? sector : 0,
    .granularity = compact_free_granularity (&compact->params, block_size),
    .co_pause_point = pause_point,
    .opaque = &compact->job,
  };

  if (!fs_co_find_free (&params, &compact->report, error))
    {
      g_clear_error (error);
      job_set_cancelled (&compact->job, error);
      return false;
    }
  compact->has_report = true;
  return true;
}

/* Marking free space is all that is asked for: then some must be known. */
static bool
compact_check_volumes (const CompactJob *compact, GError **error)
{
  const BlockDriverState *bs = compact->params.bs;
  const GPtrArray *volumes = compact->report.volumes;

  for (guint i = 0; i < volumes->len; i++)
    if (((const FsVolumeInfo *)g_ptr_array_index (volumes, i))->in_use == NULL)
      return true;
  if (volumes->len == 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "no volume is found on the disk");
      return false;
    }
  const FsVolumeInfo *first = g_ptr_array_index (volumes, 0);
  bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                  "of none of its volumes the free space is known; the one at offset %" G_GINT64_FORMAT
                  " (%s) counts as in use: %s",
                  first->offset, first->type, first->in_use->message);
  return false;
}

/* --- the steps ----------------------------------------------------------------------------------------- */

static bool coroutine_fn
compact_co_flush (CompactJob *compact, GError **error)
{
  int ret = bdrv_co_flush (compact->params.bs);

  if (ret < 0)
    bdrv_set_error_errno (error, compact->params.bs, ret, "flush failed");
  return ret == 0;
}

/* Looks at all blocks of @layout in file order, and drops.  @layout becomes what is left when nothing is changed. */
static bool coroutine_fn
compact_co_drop (CompactJob *compact, BlockLayout *layout, GError **error)
{
  const CompactParams *params = &compact->params;
  CompactScan scan = {
    .job = &compact->job,
    .bs = params->bs,
    .layout = layout,
    .zero_scan = params->zero_scan,
    .free = compact->has_report ? &compact->report : NULL,
    .dry_run = params->dry_run,
    .workers = params->parallel > 0 ? params->parallel : COMPACT_DEFAULT_PARALLEL,
  };
  CompactStats *stats = &compact->stats;

  job_progress_add_total (&compact->job, compact_scan_bytes (&scan));
  int ret = compact_co_scan (&scan);
  stats->blocks_zero = scan.blocks[COMPACT_ZERO];
  stats->blocks_same = scan.blocks[COMPACT_SAME];
  stats->blocks_free = scan.blocks[COMPACT_FREE];
  stats->bytes_zero = scan.bytes[COMPACT_ZERO];
  stats->bytes_same = scan.bytes[COMPACT_SAME];
  stats->bytes_free = scan.bytes[COMPACT_FREE];
  stats->blocks_dropped = stats->blocks_zero + stats->blocks_same + stats->blocks_free;
  if (scan.kept != NULL)
    {
      g_array_unref (layout->extents);
      layout->extents = scan.kept;
    }

  if (ret == -ECANCELED)
    job_set_cancelled (&compact->job, error);
  else if (ret < 0)
    bdrv_set_error_errno (error, scan.failed_node, ret, "%s at offset %" G_GINT64_FORMAT " failed",
                          scan.failed_verb, scan.failed_offset);
  /* What was dropped stays dropped, also after an error; the first error is the one to tell. */
  bool flushed = true;
  if (stats->blocks_dropped > 0 && !params->dry_run && !bdrv_is_poisoned (params->bs))
    flushed = compact_co_flush (compact, ret == 0 ? error : NULL);
  return ret == 0 && flushed;
}

static bool
compact_make_plan (CompactJob *compact, const BlockLayout *layout, CompactPlan *plan, GError **error)
{
  if (compact_plan_make (layout, plan, error))
    return true;
  g_prefix_error (error, "%s: ", compact->params.bs->filename);
  return false;
}

static bool coroutine_fn
compact_co_foresee_reduce (CompactJob *compact, BlockLayout *layout, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  int ret = bs->drv->co_foresee_reduce != NULL ? bs->drv->co_foresee_reduce (bs, layout) : 0;

  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "looking for what is stored without a need failed");
  return ret == 0;
}

/* What moving and cutting would give, had the blocks been dropped that @layout lacks. */
static bool coroutine_fn
compact_co_foresee (CompactJob *compact, BlockLayout *layout, GError **error)
{
  g_auto (CompactPlan) plan = { 0 };
  const CompactParams *params = &compact->params;
  CompactStats *stats = &compact->stats;

  if (!compact_co_foresee_reduce (compact, layout, error))
    return false;
  if (params->move_blocks && !params->punch && params->bs->drv->co_relocate != NULL)
    {
      if (!compact_make_plan (compact, layout, &plan, error))
        return false;
      stats->blocks_moved = plan.moves->len;
      compact->moved_bytes = plan.bytes;
      stats->file_size_after = plan.file_size;
    }
  else if (layout->extents->len > 0)
    {
      const BlockExtent *last = &g_array_index (layout->extents, BlockExtent, layout->extents->len - 1);

      stats->file_size_after = last->file_offset + last->bytes + layout->tail_bytes;
    }
  return true;
}

static bool coroutine_fn
compact_co_move (CompactJob *compact, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  if (!bs->drv->co_get_layout (bs, &layout, error))
    return false;
  if (!compact_make_plan (compact, &layout, &plan, error))
    return false;
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
  if (job_co_pause_point (&compact->job) < 0)
    {
      job_set_cancelled (&compact->job, error);
      return false;
    }
  return bdrv_co_trim (compact->params.bs, error);
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

/* What follows on the drops, in an image that has blocks. */
static bool coroutine_fn
compact_co_give_back (CompactJob *compact, GError **error)
{
  const CompactParams *params = &compact->params;
  BlockDriverState *bs = params->bs;

  if (params->punch)
    {
      g_auto (BlockLayout) layout = { 0 };

      if (!bs->drv->co_get_layout (bs, &layout, error)
          || !compact_co_punch_gaps (&compact->job, bs, &layout, error))
        return false;
      if (params->punch_blocks && compact->has_report
          && !compact_co_punch_free (&compact->job, bs, &layout, &compact->report, false,
                                     &compact->stats.bytes_punched, error))
        return false;
    }
  else if (params->move_blocks && bs->drv->co_relocate != NULL && !compact_co_move (compact, error))
    return false;
  /* What is free at the end would be cut when the image is closed, too. */
  return compact_co_cut (compact, error)
         && (!params->fill_holes || compact_co_fill_holes (&compact->job, bs, error));
}

static bool coroutine_fn
compact_co_run_on_blocks (CompactJob *compact, BlockLayout *layout, GError **error)
{
  const CompactParams *params = &compact->params;

  compact->stats.block_size = layout->block_size;
  compact->stats.blocks_allocated = compact_payload_blocks (layout);
  if (compact_heeds_free_space (compact) && !compact->has_report
      && !compact_co_find_free (compact, layout->block_size, error))
    return false;
  if (params->mark_only && !compact_check_volumes (compact, error))
    return false;
  if ((params->zero_scan || compact->has_report) && !compact_co_drop (compact, layout, error))
    return false;
  if (params->dry_run)
    return (!params->punch_blocks || !compact->has_report
            || compact_co_punch_free (&compact->job, params->bs, layout, &compact->report, true,
                                      &compact->stats.bytes_punched, error))
           && compact_co_foresee (compact, layout, error);
  block_layout_clear (layout);
  /* What blocks that are gone now were the last to need. */
  if (compact->stats.blocks_dropped > 0 && !compact_co_reduce (compact, error))
    return false;
  return compact_co_give_back (compact, error);
}

static int64_t
compact_bytes_of (const BlockLayout *layout)
{
  int64_t bytes = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    bytes += g_array_index (layout->extents, BlockExtent, i).bytes;
  return bytes;
}

/* What the tables alone tell, as the first step; @layout is that after it. */
static bool coroutine_fn
compact_co_give_up_needless (CompactJob *compact, BlockLayout *layout, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  int64_t before = compact_bytes_of (layout);

  if (bs->drv->co_reduce == NULL)
    return true;
  if (compact->params.dry_run)
    {
      if (!compact_co_foresee_reduce (compact, layout, error))
        return false;
    }
  else
    {
      block_layout_clear (layout);
      if (!compact_co_reduce (compact, error) || !bs->drv->co_get_layout (bs, layout, error))
        return false;
    }
  compact->stats.bytes_unmapped = before - compact_bytes_of (layout);
  return true;
}

/* How long the file will be: found by a run that changes nothing. */
static bool coroutine_fn
compact_co_rehearse (CompactJob *compact, const BlockLayout *layout, int64_t *file_size, GError **error)
{
  g_auto (BlockLayout) copy = *layout;
  CompactStats stats = compact->stats;

  copy.extents = g_array_copy (layout->extents);
  compact->params.dry_run = true;
  bool ok =
      compact_co_give_up_needless (compact, &copy, error) && compact_co_run_on_blocks (compact, &copy, error);
  *file_size = compact->stats.file_size_after;
  compact->params.dry_run = false;
  compact->stats = stats;
  return ok;
}

/* Room for the holes that are filled at the end, before anything is changed. */
static bool coroutine_fn
compact_co_check_space (CompactJob *compact, const BlockLayout *layout, GError **error)
{
  BlockDriverState *bs = compact->params.bs;
  int64_t available = space_co_get_free (bs), taken = compact->stats.host_bytes_before;
  int64_t holes, file_size;

  if (!compact_co_count_holes (&compact->job, bs, &holes, error))
    return false;
  if (taken < 0 || available < 0 || holes <= available)
    return true;
  /* Not for the whole file as it is.  How much of it stays has to be looked for. */
  if (!compact_co_rehearse (compact, layout, &file_size, error))
    return false;
  return space_co_check (bs, MAX (file_size - taken, MIN (compact->moved_bytes, holes)), error);
}

/* Nothing can be dropped or moved there, but what is free can be punched. */
static bool coroutine_fn
compact_co_run_on_fixed (CompactJob *compact, GError **error)
{
  const CompactParams *params = &compact->params;
  BlockDriverState *bs = params->bs;

  /* Nobody has looked for children then. */
  if (!params->free_space)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "has no blocks: free space is all that it could give back, and that is to be kept");
      return false;
    }
  if (compact->children != NULL)
    {
      compact_set_children_error (compact, error);
      return false;
    }
  /* A device may be in use without a trace in it: active swap space looks like any other. */
  if (bdrv_protocol_node (bs)->fixed_length)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "no holes are punched into a device: whether the host uses what is on it is not known");
      return false;
    }
  return compact_co_find_free (compact, 0, error)
         && compact_co_punch_free (&compact->job, bs, NULL, &compact->report, params->dry_run,
                                   &compact->stats.bytes_punched, error);
}

static bool coroutine_fn
compact_co_steps (CompactJob *compact, GError **error)
{
  const CompactParams *params = &compact->params;
  BlockDriverState *bs = params->bs;
  g_auto (BlockLayout) layout = { 0 };
  g_autoptr (GError) why = NULL;

  if (!compact_co_look_for_children (compact, error))
    return false;
  if (bs->drv->co_get_layout == NULL)
    return compact_co_run_on_fixed (compact, error);
  if (bs->drv->co_get_layout (bs, &layout, &why))
    {
      compact_warn_of_children (compact);
      return (params->dry_run || !params->fill_holes || compact_co_check_space (compact, &layout, error))
             && compact_co_give_up_needless (compact, &layout, error)
             && compact_co_run_on_blocks (compact, &layout, error);
    }
  if (params->punch && g_error_matches (why, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED))
    return compact_co_run_on_fixed (compact, error);
  g_propagate_error (error, g_steal_pointer (&why));
  return false;
}

static bool coroutine_fn
compact_co_run (Job *job, GError **error)
{
  CompactJob *compact = (CompactJob *)job;
  CompactStats *stats = &compact->stats;
  BlockDriverState *bs = compact->params.bs;
  const BlockDriverState *container = bdrv_protocol_node (bs);

  stats->file_size_before = stats->file_size_after = bdrv_length (container);
  stats->host_bytes_before = bdrv_co_get_allocated_size (bs);
  bool ok = compact_co_steps (compact, error);
  if (!compact->params.dry_run)
    {
      stats->file_size_after = bdrv_length (container);
      stats->host_bytes_after = bdrv_co_get_allocated_size (bs);
    }
  else
    /* At most. */
    stats->host_bytes_after =
        compact->params.fill_holes ? stats->file_size_after
        : stats->host_bytes_before < 0
            ? stats->host_bytes_before
            : MIN (stats->host_bytes_before, stats->file_size_after) - stats->bytes_punched;
  stats->host_bytes_before = MAX (stats->host_bytes_before, -1);
  stats->host_bytes_after = MAX (stats->host_bytes_after, -1);
  return ok;
}

static void
compact_free (Job *job)
{
  CompactJob *compact = (CompactJob *)job;

  g_free (compact->children);
  if (compact->has_report)
    fs_free_report_clear (&compact->report);
}

static const JobDriver compact_driver = {
  .instance_size = sizeof (CompactJob),
  .verb = "compact",
  .co_run = compact_co_run,
  .free = compact_free,
};

Job *
compact_job_new (AioContext *context, const CompactParams *params, GError **error)
{
  BlockDriverState *bs = params->bs;

  if (!params->punch && (bs->drv->co_get_layout == NULL || bs->drv->co_drop_block == NULL))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "format %s has no blocks that could be released: there is nothing to compact",
                      bs->drv->format_name);
      return NULL;
    }
  if (params->mark_only && !(bs->drv->caps & BLOCK_CAP_ZERO_BLOCKS))
    {
      bdrv_set_error (
          error, bs, VHDKIT_ERROR_UNSUPPORTED,
          "format %s has no mark for blocks that are not in use: a block is stored or is not there",
          bs->drv->format_name);
      return NULL;
    }
  if (bs->read_only && !params->dry_run)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "cannot be compacted: opened read-only");
      return NULL;
    }
  if ((params->zero_scan || params->free_space) && bdrv_lacks_parent (bs))
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

const FsFreeReport *
compact_job_get_report (const Job *job)
{
  const CompactJob *compact = (const CompactJob *)job;

  return job->driver == &compact_driver && compact->has_report ? &compact->report : NULL;
}

const char *
compact_job_get_degraded (const Job *job)
{
  return job->driver == &compact_driver ? ((const CompactJob *)job)->children : NULL;
}
