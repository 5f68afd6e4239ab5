/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Planning a commit: see commit-plan.h.
 *
 * The walk is the one that moves the data later (CopyCursor), run by run, so that what is said of a layer and of
 * its extents is what will be found then.  It counts; it keeps nothing of the runs but a sample to be read.
 */
#include "commit-plan.h"

#include "checked.h"
#include "space.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Ranges are planned in pieces so long. */
#define PLAN_BYTES (2 * 1024 * 1024)
/* The sample that is read: so many pieces of so many bytes, for so long. */
#define SAMPLE_MAX_PIECES 64
#define SAMPLE_BYTES      (1024 * 1024)
#define SAMPLE_NS         (INT64_C (300) * 1000 * 1000)

typedef struct
{
  int64_t offset, bytes;
} SamplePiece;

/* Every stride-th candidate is in it; when it is full, every second goes and the stride doubles: so it is spread
 * evenly over a walk whose length is not known. */
typedef struct
{
  SamplePiece pieces[SAMPLE_MAX_PIECES];
  unsigned n;
  uint64_t seen, stride;
} Sample;

typedef struct
{
  Job job;
  CommitParams params;
  CommitPlan plan;
  Sample sample;
  /* Of the workers that read it. */
  unsigned next_piece;
  int64_t deadline;
} CommitPlanJob;

/* One walk over what the sources decide. */
typedef struct
{
  Job *job;
  const CommitParams *params;
  CommitPlan *plan;
  Sample *sample;       /* or NULL: none wanted, and no progress is told */
  bool look_at_sharing; /* find out what can be shared, layer by layer; else all of it counts as copied */
  CopyEngine engine;
  SpaceNeed need;
  int64_t shared_data;     /* of need.data, what is expected to be shared */
  GHashTable *unshareable; /* set of protocol nodes of the sources whose extents the target cannot share */
} PlanWalk;

void
commit_plan_clear (CommitPlan *plan)
{
  g_clear_pointer (&plan->layer_bytes, g_free);
  g_clear_pointer (&plan->relinked, g_strfreev);
  g_clear_pointer (&plan->target_problem, g_free);
}

/* --- what is refused at once ---------------------------------------------------------------------------- */

bool
commit_params_check (const CommitParams *params, GError **error)
{
  BlockDriverState *target = params->target;
  const BlockDriverState *node = params->source->backing;

  while (node != NULL && node != target)
    node = node->backing;
  if (node == NULL)
    {
      bdrv_set_error (error, params->source, VHDKIT_ERROR_INVALID_ARGUMENT, "%s is not an ancestor of it",
                      target->filename);
      return false;
    }
  if (!bdrv_check_nearest_parents (params->source, target, error))
    return false;
  if (target->drv->co_pwritev == NULL)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_UNSUPPORTED, "images of format %s cannot be written",
                      target->drv->format_name);
      return false;
    }
  if (!copy_check_workers (params->source, params->parallel, error))
    return false;
  if (params->reflink > COMMIT_REFLINK_NEVER)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "extent sharing %d: there is no such mode", (int)params->reflink);
      return false;
    }
  return true;
}

ConcludeParams
commit_params_conclude (const CommitParams *params)
{
  return (ConcludeParams){
    .leaf = params->leaf ? params->leaf : params->source,
    .source = params->source,
    .target = params->target,
    .places = params->places,
    .relink = params->relink,
    .delete_sources = params->delete_sources,
    .rename_target = params->rename_target,
    .break_siblings = params->break_siblings,
    .ignore_unknown = params->ignore_unknown,
  };
}

static bool
check_sizes (const CommitParams *params, GError **error)
{
  BlockDriverState *source = params->source, *target = params->target;
  int64_t source_bytes = bdrv_length (source), target_bytes = bdrv_length (target);

  if (source_bytes >= target_bytes)
    return true;
  if (params->shrink_target)
    {
      /* Found out now, not after the merge. */
      if ((target->drv->caps & BLOCK_CAP_SHRINK) && !bdrv_protocol_node (target)->fixed_length)
        return true;
      bdrv_set_error (error, target, VHDKIT_ERROR_UNSUPPORTED,
                      "cannot be cut from %" G_GINT64_FORMAT " to the %" G_GINT64_FORMAT " bytes of %s: %s",
                      target_bytes, source_bytes, source->filename,
                      target->drv->caps & BLOCK_CAP_SHRINK ? "it is a device" : "its format cannot shrink");
      return false;
    }
  bdrv_set_error (error, source, VHDKIT_ERROR_INVALID_ARGUMENT,
                  "its size, %" G_GINT64_FORMAT " bytes, is smaller than the %" G_GINT64_FORMAT
                  " bytes of %s: the target would have to be cut, which was not asked for",
                  source_bytes, target_bytes, target->filename);
  return false;
}

/* --- extents that can be shared ------------------------------------------------------------------------- */

/* Asks for each source whether the target can share its extents at all. */
static bool coroutine_fn
walk_co_find_unshareable (PlanWalk *walk, GError **error)
{
  const CommitParams *params = walk->params;
  bool must = params->reflink == COMMIT_REFLINK_ALWAYS;

  if (!walk->look_at_sharing)
    return true;
  for (BlockDriverState *layer = params->source; layer != params->target; layer = layer->backing)
    {
      int ret = bdrv_co_can_share (params->target, layer);

      if (ret == 0 || (must && ret == -EAGAIN))
        continue;
      if (must)
        {
          bdrv_set_error (error, params->target, VHDKIT_ERROR_UNSUPPORTED,
                          "cannot share the extents of %s: %s", layer->filename,
                          ret == -EXDEV     ? "the two are on different file systems"
                          : ret == -ENOTSUP ? "its file system cannot"
                                            : g_strerror (-ret));
          return false;
        }
      /* What only a try would tell is tried when the data moves, and not counted on. */
      g_hash_table_add (walk->unshareable, bdrv_protocol_node (layer));
    }
  return true;
}

static bool
walk_may_share (const PlanWalk *walk, const CopyItem *item)
{
  return walk->look_at_sharing && item->file != NULL
         && !g_hash_table_contains (walk->unshareable, item->file);
}

/* Whether what @part replaces in the target stands there as sharing needs it; new blocks do.  1, 0 with the guest
 * and file offsets where it does not, or -errno. */
static int coroutine_fn
part_co_fits_target (BlockDriverState *target, const CopyItem *part, int64_t *offset, int64_t *file_offset)
{
  int64_t end = MIN (part->offset + part->bytes, bdrv_length (target));
  int64_t pnum;

  for (*offset = part->offset; *offset < end; *offset += pnum)
    {
      int ret = bdrv_co_block_status (target, *offset, end - *offset, &pnum, file_offset, NULL);

      if (ret < 0)
        return ret;
      if ((ret & BDRV_BLOCK_OFFSET_VALID) && ((*offset ^ *file_offset) & (COPY_SHARE_ALIGNMENT - 1)) != 0)
        return 0;
    }
  return 1;
}

static void
set_misaligned (GError **error, const BlockDriverState *bs, int64_t offset, int64_t file_offset)
{
  bdrv_set_error (
      error, bs, VHDKIT_ERROR_UNSUPPORTED,
      "data of guest offset %" G_GINT64_FORMAT " stands at file offset %" G_GINT64_FORMAT
      ", not aligned to %d bytes as sharing its extent needs; without being told to share it is copied",
      offset, file_offset, COPY_SHARE_ALIGNMENT);
}

/* Finds the part of @item that will be shared; part->bytes == 0: none.  false with @error: sharing was demanded and
 * cannot be. */
static bool coroutine_fn
walk_co_find_shareable (PlanWalk *walk, const CopyItem *item, CopyItem *part, GError **error)
{
  bool must = walk->params->reflink == COMMIT_REFLINK_ALWAYS;
  int64_t offset, file_offset;

  *part = *item;
  part->bytes = 0;
  if (!walk_may_share (walk, item))
    return true;
  if (!copy_get_shareable (&walk->engine, item, part))
    {
      part->bytes = 0;
      bool has_blocks = round_down (item->offset + item->bytes, COPY_SHARE_ALIGNMENT)
                        > round_up (item->offset, COPY_SHARE_ALIGNMENT);
      if (!must || !has_blocks)
        return true;
      set_misaligned (error, item->file, item->offset, item->file_offset);
      return false;
    }
  int ret = part_co_fits_target (walk->params->target, part, &offset, &file_offset);
  if (ret > 0)
    return true;
  if (ret < 0)
    bdrv_set_error_errno (error, walk->params->target, ret, "allocation at offset %" G_GINT64_FORMAT, offset);
  else if (must)
    set_misaligned (error, walk->params->target, offset, file_offset);
  part->bytes = 0;
  return ret == 0 && !must;
}

/* --- counting ------------------------------------------------------------------------------------------- */

static void
sample_add (Sample *sample, const CopyItem *item)
{
  if (sample->seen++ % sample->stride != 0)
    return;
  if (sample->n == SAMPLE_MAX_PIECES)
    {
      for (unsigned i = 0; i < SAMPLE_MAX_PIECES / 2; i++)
        sample->pieces[i] = sample->pieces[2 * i];
      sample->n = SAMPLE_MAX_PIECES / 2;
      sample->stride *= 2;
    }
  sample->pieces[sample->n++] = (SamplePiece){ item->offset, MIN (item->bytes, SAMPLE_BYTES) };
}

/* Counts what is written of [@offset, +@bytes). */
static bool coroutine_fn
walk_co_count (PlanWalk *walk, int64_t offset, int64_t bytes, bool zero, int64_t *written, GError **error)
{
  if (bytes == 0)
    return true;
  int ret = space_need_co_add_write (&walk->need, walk->params->target, offset, bytes, zero, written);
  if (ret < 0)
    bdrv_set_error_errno (error, walk->params->target, ret,
                          "allocation of %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT, bytes,
                          offset);
  return ret == 0;
}

static bool coroutine_fn
walk_co_count_data (PlanWalk *walk, const CopyItem *item, GError **error)
{
  CommitPlan *plan = walk->plan;
  CopyItem part;

  if (!walk_co_find_shareable (walk, item, &part, error))
    return false;

  int64_t head = part.bytes > 0 ? part.offset - item->offset : 0;
  int64_t tail_offset = item->offset + head + part.bytes;
  int64_t tail = item->offset + item->bytes - tail_offset;
  if (!walk_co_count (walk, item->offset, head, false, &plan->bytes_to_copy, error))
    return false;
  int64_t data = walk->need.data;
  if (!walk_co_count (walk, part.offset, part.bytes, false, &plan->estimated_clone_bytes, error))
    return false;
  walk->shared_data += walk->need.data - data;
  if (walk->sample != NULL && part.bytes == 0)
    sample_add (walk->sample, item);
  return walk_co_count (walk, tail_offset, tail, false, &plan->bytes_to_copy, error);
}

static bool coroutine_fn
walk_co_items (PlanWalk *walk, GError **error)
{
  CommitPlan *plan = walk->plan;
  BlockDriverState *source = walk->params->source;
  CopyCursor cursor = { .source = source, .base = walk->params->target, .end = bdrv_length (source) };
  int64_t passed = 0;
  CopyItem item;
  bool ok = true;
  int ret = 0;

  while (ok && (ret = copy_cursor_co_next (&cursor, &walk->engine, PLAN_BYTES, COMMIT_ZERO_BYTES, &item)) > 0)
    {
      if (job_co_pause_point (walk->job) < 0)
        {
          job_set_cancelled (walk->job, error);
          ok = false;
          break;
        }
      plan->bytes_total += item.bytes;
      plan->layer_bytes[item.depth] += item.bytes;
      ok = item.zero ? walk_co_count (walk, item.offset, item.bytes, true, &plan->bytes_to_zero, error)
                     : walk_co_count_data (walk, &item, error);
      if (walk->sample != NULL)
        job_progress_add (walk->job, item.offset + item.bytes - passed);
      passed = item.offset + item.bytes;
    }
  copy_cursor_clear (&cursor);
  if (ok && ret < 0)
    bdrv_set_error_errno (error, cursor.failed, ret, "look-up of the allocation at offset %" G_GINT64_FORMAT,
                          cursor.offset);
  return ok && ret == 0;
}

static bool coroutine_fn
plan_co_walk (Job *job, const CommitParams *params, CommitPlan *plan, Sample *sample, GError **error)
{
  g_autoptr (GHashTable) unshareable = g_hash_table_new (NULL, NULL);
  bool must = params->reflink == COMMIT_REFLINK_ALWAYS;
  PlanWalk walk = {
    .job = job,
    .params = params,
    .plan = plan,
    .sample = sample,
    /* The job that moves the data finds out what can be shared as it goes, and the worst case counts on none. */
    .look_at_sharing = must || (sample != NULL && params->reflink != COMMIT_REFLINK_NEVER),
    /* Never runs: it tells the cursor that pieces are to be contiguous in their file, so of one layer. */
    .engine = { .source = params->source,
                .target = params->target,
                .share_extents = must || sample != NULL,
                .must_share = must },
    .need = SPACE_NEED_INIT,
    .unshareable = unshareable,
  };

  for (BlockDriverState *layer = params->source; layer != params->target; layer = layer->backing)
    plan->n_sources++;
  plan->layer_bytes = g_new0 (int64_t, plan->n_sources);
  plan->size_before = bdrv_length (params->target);
  plan->size_after = bdrv_length (params->source);
  if (!check_sizes (params, error))
    return false;
  if (!plan->already_merged && (!walk_co_find_unshareable (&walk, error) || !walk_co_items (&walk, error)))
    return false;

  plan->host_bytes_expected = walk.need.bytes - walk.shared_data;
  /* What must be shared is not copied when it cannot be. */
  plan->host_bytes_worst = must ? plan->host_bytes_expected : walk.need.bytes;
  plan->host_bytes_free = space_co_get_free (params->target);
  return true;
}

bool coroutine_fn
commit_plan_co_make (Job *job, const CommitParams *params, CommitPlan *plan, GError **error)
{
  return plan_co_walk (job, params, plan, NULL, error);
}

/* --- the job -------------------------------------------------------------------------------------------- */

static void coroutine_fn
sample_worker (void *opaque)
{
  CommitPlanJob *planner = opaque;
  BlockDriverState *source = planner->params.source;
  uint8_t *buffer = bdrv_try_alloc_buffer (source, SAMPLE_BYTES);

  while (buffer != NULL && planner->next_piece < planner->sample.n && aio_clock_ns () < planner->deadline
         && job_co_pause_point (&planner->job) == 0)
    {
      if (planner->next_piece == planner->sample.n)
        break; /* taken by others during the pause */
      const SamplePiece *piece = &planner->sample.pieces[planner->next_piece++];

      /* What cannot be read is the commit's to tell: here it is only not measured. */
      if (bdrv_co_pread (source, piece->offset, piece->bytes, buffer) == 0)
        planner->plan.measured_bytes += piece->bytes;
    }
  bdrv_free_buffer (buffer);
}

/* The target is open for reading only. */
static char *
find_target_problem (BlockDriverState *target)
{
  const char *path = bdrv_get_host_path (target);

  if (!target->read_only || path == NULL || faccessat (AT_FDCWD, path, W_OK, AT_EACCESS) == 0)
    return NULL;
  return g_strdup_printf ("%s cannot be written: %s", target->filename, g_strerror (errno));
}

/* What is to follow the merge: whether it can, and for whom. */
static bool coroutine_fn
plan_co_conclude (CommitPlanJob *planner, GError **error)
{
  const ConcludeParams after = commit_params_conclude (&planner->params);
  CommitPlan *plan = &planner->plan;
  Conclude *conclude = conclude_co_new (&planner->job, &after, &plan->already_merged, error);

  if (conclude == NULL)
    return false;
  plan->delete_sources = after.delete_sources;
  plan->rename_target = after.rename_target;
  plan->relinked = conclude_list_children (conclude);
  (void)conclude_co_free (conclude, NULL);
  return true;
}

static bool coroutine_fn
commit_plan_co_run (Job *job, GError **error)
{
  CommitPlanJob *planner = (CommitPlanJob *)job;
  const CommitParams *params = &planner->params;
  unsigned workers = params->parallel > 0 ? params->parallel : COMMIT_DEFAULT_PARALLEL;

  planner->sample.stride = 1;
  job_progress_add_total (job, bdrv_length (params->source));
  if (!plan_co_conclude (planner, error)
      || !plan_co_walk (job, params, &planner->plan, &planner->sample, error))
    {
      g_prefix_error (error, "planning to merge %s into %s: ", params->source->filename,
                      params->target->filename);
      return false;
    }
  planner->plan.target_problem = find_target_problem (params->target);
  /* The merge would cut it first (space_co_check_untrimmed ()). */
  if (planner->plan.host_bytes_free >= 0 && planner->plan.host_bytes_worst > planner->plan.host_bytes_free)
    planner->plan.host_bytes_to_cut = space_co_get_left_behind (params->target);

  int64_t start = aio_clock_ns ();
  planner->deadline = start + SAMPLE_NS;
  if (planner->sample.n > 0)
    job_co_run_workers (job, workers, sample_worker, planner);
  planner->plan.measured_ns = planner->plan.measured_bytes > 0 ? MAX (aio_clock_ns () - start, 1) : 0;
  if (job_is_cancelled (job))
    job_set_cancelled (job, error);
  return !job_is_cancelled (job);
}

static void
commit_plan_free (Job *job)
{
  commit_plan_clear (&((CommitPlanJob *)job)->plan);
}

static const JobDriver commit_plan_driver = {
  .instance_size = sizeof (CommitPlanJob),
  .verb = "planning a commit",
  .co_run = commit_plan_co_run,
  .free = commit_plan_free,
};

Job *
commit_plan_job_new (AioContext *context, const CommitParams *params, GError **error)
{
  Job *job = commit_params_check (params, error) ? job_new (&commit_plan_driver, context, error) : NULL;

  if (job != NULL)
    ((CommitPlanJob *)job)->params = *params;
  return job;
}

const CommitPlan *
commit_plan_job_get (const Job *job)
{
  return job->driver == &commit_plan_driver ? &((const CommitPlanJob *)job)->plan : NULL;
}
