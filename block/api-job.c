/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs as the host sees them: handles on the jobs of the floor below, with the images they run on.
 */
#include "api.h"

#include "commit.h"
#include "compact.h"
#include "compare.h"
#include "convert.h"
#include "rebase.h"
#include "remains.h"

/* Least time between two calls of a progress callback. */
#define PROGRESS_INTERVAL_NS (100 * 1000 * 1000)

struct VhdkitJob
{
  VhdkitContext *context;
  VhdkitImage *images[2];            /* [1]: NULL unless there are two */
  BlockDriverState *source, *target; /* what is read, what is changed; or NULL */
  VhdkitImage *alone;                /* of the images, the one that no other job may run on; or NULL */
  bool too_late;                     /* one does */
  Job *job;
  char **relink; /* of a commit, which borrows it */
  VhdkitJobCallback concluded;
  void *concluded_opaque;
};

/* What vhdkit_job_run () keeps for its progress calls. */
typedef struct
{
  VhdkitJob *job;
  AioTimer *timer;
  VhdkitJobCallback progress;
  void *opaque;
} ProgressTimer;

/* --- life ---------------------------------------------------------------------------------------------- */

static void
set_busy (VhdkitImage *image, GError **error)
{
  bdrv_set_error (error, image->bs, VHDKIT_ERROR_IN_USE, "another job runs on this image");
}

static bool
image_check_idle (VhdkitImage *image, GError **error)
{
  if (image->jobs == 0)
    return true;
  set_busy (image, error);
  return false;
}

/* New writes are refused by now; those that began before are part of what the job is to find. */
static bool coroutine_fn
job_co_prepare (void *opaque, GError **error)
{
  VhdkitJob *job = opaque;

  if (job->too_late)
    {
      set_busy (job->alone, error);
      return false;
    }
  for (size_t i = 0; i < G_N_ELEMENTS (job->images); i++)
    if (job->images[i] != NULL)
      api_co_changes_end (job->images[i]);
  return true;
}

/* Takes @job; NULL stays NULL.  @alone: image or other, where it is changed.  @source, @target: of
 * vhdkit_job_get_files (). */
static VhdkitJob *
job_wrap (Job *job, VhdkitImage *image, VhdkitImage *other, VhdkitImage *alone, BlockDriverState *source,
          BlockDriverState *target)
{
  if (job == NULL)
    return NULL;

  VhdkitJob *handle = g_new0 (VhdkitJob, 1);
  handle->context = image->context;
  handle->images[0] = image;
  handle->images[1] = other;
  handle->alone = alone;
  handle->source = source;
  handle->target = target;
  handle->job = job;
  job_set_prepare (job, job_co_prepare, handle);
  return handle;
}

static void
job_count_images (VhdkitJob *job, int change)
{
  for (size_t i = 0; i < G_N_ELEMENTS (job->images); i++)
    if (job->images[i] != NULL)
      job->images[i]->jobs += change;
}

static void
job_concluded (Job *inner, void *opaque)
{
  VhdkitJob *job = opaque;

  job_count_images (job, -1);
  if (job->concluded != NULL)
    job->concluded (job, job->concluded_opaque);
}

void
vhdkit_job_start (VhdkitJob *job, VhdkitJobCallback concluded, void *opaque)
{
  g_return_if_fail (job_get_state (job->job) == JOB_CREATED);
  job->concluded = concluded;
  job->concluded_opaque = opaque;
  /* It was idle when the job was made. */
  job->too_late = job->alone != NULL && job->alone->jobs > 0;
  job_count_images (job, 1);
  job_start (job->job, job_concluded, job);
}

static void
progress_timer_fired (void *opaque)
{
  ProgressTimer *timer = opaque;

  timer->progress (timer->job, timer->opaque);
  aio_timer_mod (timer->timer, aio_clock_ns () + PROGRESS_INTERVAL_NS);
}

bool
vhdkit_job_run (VhdkitJob *job, VhdkitJobCallback progress, void *opaque, GError **error)
{
  ProgressTimer timer = { .job = job, .progress = progress, .opaque = opaque };

  if (progress != NULL)
    {
      timer.timer = aio_timer_new (job->context->aio, progress_timer_fired, &timer);
      aio_timer_mod (timer.timer, aio_clock_ns () + PROGRESS_INTERVAL_NS);
    }
  if (job_get_state (job->job) == JOB_CREATED)
    vhdkit_job_start (job, NULL, NULL);
  while (job_get_state (job->job) != JOB_CONCLUDED)
    api_poll (job->context, true);
  if (progress != NULL)
    aio_timer_free (timer.timer);
  return vhdkit_job_get_result (job, error);
}

void
vhdkit_job_cancel (VhdkitJob *job)
{
  job_cancel (job->job);
}

void
vhdkit_job_pause (VhdkitJob *job)
{
  job_pause (job->job);
}

void
vhdkit_job_resume (VhdkitJob *job)
{
  job_resume (job->job);
}

void
vhdkit_job_set_rate_limit (VhdkitJob *job, int64_t bytes_per_second)
{
  job_set_rate_limit (job->job, bytes_per_second);
}

void
vhdkit_job_get_progress (VhdkitJob *job, VhdkitJobProgress *progress)
{
  static const VhdkitJobState states[] = {
    [JOB_CREATED] = VHDKIT_JOB_CREATED,
    [JOB_RUNNING] = VHDKIT_JOB_RUNNING,
    [JOB_PAUSED] = VHDKIT_JOB_PAUSED,
    [JOB_CONCLUDED] = VHDKIT_JOB_CONCLUDED,
  };

  progress->state = states[job_get_state (job->job)];
  job_get_progress (job->job, &progress->done, &progress->total);
}

bool
vhdkit_job_get_result (VhdkitJob *job, GError **error)
{
  if (job_get_state (job->job) != JOB_CONCLUDED)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "the job has not concluded");
      return false;
    }
  if (job->job->error == NULL)
    return true;
  g_propagate_error (error, g_error_copy (job->job->error));
  return false;
}

void
vhdkit_job_get_files (VhdkitJob *job, const char **source, const char **target)
{
  *source = job->source != NULL ? job->source->filename : NULL;
  *target = job->target != NULL ? job->target->filename : NULL;
}

void
vhdkit_job_free (VhdkitJob *job)
{
  if (job == NULL)
    return;
  g_return_if_fail (job_get_state (job->job) == JOB_CREATED || job_get_state (job->job) == JOB_CONCLUDED);
  job_free (job->job);
  g_strfreev (job->relink);
  g_free (job);
}

/* --- commit -------------------------------------------------------------------------------------------- */

/* The nodes and numbers of a commit of @image. */
static bool
commit_get_params (VhdkitImage *image, const VhdkitCommitOptions *options, CommitParams *params,
                   GError **error)
{
  static const CommitReflink reflinks[] = {
    [VHDKIT_REFLINK_AUTO] = COMMIT_REFLINK_AUTO,
    [VHDKIT_REFLINK_ALWAYS] = COMMIT_REFLINK_ALWAYS,
    [VHDKIT_REFLINK_NEVER] = COMMIT_REFLINK_NEVER,
  };
  VhdkitCommitOptions own;
  int depth = vhdkit_image_get_depth (image);

  if (!api_copy_options (&own, sizeof own, options, "VhdkitCommitOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitCommitOptions", error)
      || !image_check_idle (image, error))
    return false;
  if (own.source_layer < 0 || own.target_layer <= own.source_layer)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "layer %d cannot be merged into layer %d: the target must be an ancestor",
                      own.source_layer, own.target_layer);
      return false;
    }
  if (own.target_layer >= depth)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_NOT_FOUND, "no layer %d to merge into: the chain has %d",
                      own.target_layer, depth);
      return false;
    }
  if ((unsigned)own.reflink >= G_N_ELEMENTS (reflinks))
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_INVALID_ARGUMENT, "reflink %d: there is no such mode",
                      (int)own.reflink);
      return false;
    }

  *params = (CommitParams){
    .source = bdrv_chain_get (image->bs, own.source_layer),
    .target = bdrv_chain_get (image->bs, own.target_layer),
    .parallel = own.parallel,
    .shrink_target = own.shrink_target,
    .break_siblings = own.break_siblings,
    .ignore_unknown = own.ignore_unknown,
    .places = { .confine = image->confine,
                .drive_map = (const char *const *)image->drive_map,
                .filters = (const char *const *)image->filters },
    .reflink = reflinks[own.reflink],
    .skip_identical = own.skip_identical,
    .leaf = image->bs,
    .relink = own.relink,
    .delete_sources = own.delete_sources,
    .rename_target = own.rename_target,
  };
  return true;
}

VhdkitJob *
vhdkit_commit_new (VhdkitImage *image, const VhdkitCommitOptions *options, GError **error)
{
  CommitParams params;

  if (!commit_get_params (image, options, &params, error))
    return NULL;
  g_auto (GStrv) relink = g_strdupv ((char **)params.relink);
  params.relink = (const char *const *)relink;
  VhdkitJob *job = job_wrap (commit_job_new (image->context->aio, &params, error), image, NULL, image,
                             params.source, params.target);
  if (job != NULL)
    job->relink = g_steal_pointer (&relink);
  return job;
}

void
vhdkit_commit_get_stats (VhdkitJob *job, VhdkitCommitStats *stats)
{
  CommitStats inner = commit_job_get_stats (job->job);

  *stats = (VhdkitCommitStats){
    .bytes_copied = inner.bytes_copied,
    .bytes_cloned = inner.bytes_cloned,
    .bytes_zeroed = inner.bytes_zeroed,
    .bytes_skipped = inner.bytes_skipped,
  };
}

typedef struct
{
  const char *source, *confine;
  GPtrArray *removed;
  GError **error;
} RemainsCall;

static void coroutine_fn
remains_call_entry (void *opaque)
{
  RemainsCall *call = opaque;

  call->removed = remains_co_remove (call->source, call->confine, call->error);
}

char **
vhdkit_commit_remove_remains (VhdkitContext *context, const char *source, const char *confine, GError **error)
{
  RemainsCall call = { .source = source, .confine = confine, .error = error };

  context = api_context_resolve (context, error);
  if (context == NULL)
    return NULL;
  api_run_sync (context, remains_call_entry, &call);
  if (call.removed == NULL)
    return NULL;
  g_ptr_array_add (call.removed, NULL);
  return (char **)g_ptr_array_free (call.removed, FALSE);
}

VhdkitJob *
vhdkit_commit_plan_new (VhdkitImage *image, const VhdkitCommitOptions *options, GError **error)
{
  CommitParams params;

  if (!commit_get_params (image, options, &params, error))
    return NULL;
  g_auto (GStrv) relink = g_strdupv ((char **)params.relink);
  params.relink = (const char *const *)relink;
  VhdkitJob *job = job_wrap (commit_plan_job_new (image->context->aio, &params, error), image, NULL, image,
                             params.source, params.target);
  if (job != NULL)
    job->relink = g_steal_pointer (&relink);
  return job;
}

static VhdkitCommitFate
plan_get_fate (const CommitPlan *plan, VhdkitCommitRole role)
{
  bool merged = role == VHDKIT_COMMIT_SOURCE || role == VHDKIT_COMMIT_BETWEEN;

  if (plan->rename_target && role == VHDKIT_COMMIT_TARGET)
    return VHDKIT_COMMIT_RENAMED;
  if (plan->rename_target && role == VHDKIT_COMMIT_SOURCE)
    return VHDKIT_COMMIT_REPLACED;
  return plan->delete_sources && merged ? VHDKIT_COMMIT_REMOVED : VHDKIT_COMMIT_STAYS;
}

static void
plan_add_layers (const VhdkitJob *job, const CommitPlan *inner, VhdkitCommitPlan *plan)
{
  VhdkitCommitRole role = VHDKIT_COMMIT_ABOVE;
  const BlockDriverState *bs = job->images[0]->bs;
  int source = 0; /* of the layers that are merged, the next */

  plan->n_layers = bdrv_chain_depth (bs);
  plan->layers = g_new0 (VhdkitCommitPlanLayer, plan->n_layers);
  for (VhdkitCommitPlanLayer *layer = plan->layers; bs != NULL; bs = bs->backing, layer++)
    {
      if (bs == job->source)
        role = VHDKIT_COMMIT_SOURCE;
      else if (role == VHDKIT_COMMIT_TARGET)
        role = VHDKIT_COMMIT_BELOW;
      else if (bs == job->target)
        role = VHDKIT_COMMIT_TARGET;
      else if (role == VHDKIT_COMMIT_SOURCE)
        role = VHDKIT_COMMIT_BETWEEN;
      layer->filename = g_strdup (bs->filename);
      layer->role = role;
      layer->fate = plan_get_fate (inner, role);
      if (role == VHDKIT_COMMIT_SOURCE || role == VHDKIT_COMMIT_BETWEEN)
        layer->bytes = inner->layer_bytes[source++];
    }
}

bool
vhdkit_commit_plan_get (VhdkitJob *job, VhdkitCommitPlan *plan, GError **error)
{
  const CommitPlan *inner = commit_plan_job_get (job->job);

  *plan = (VhdkitCommitPlan){ 0 };
  if (inner == NULL)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "the job plans no commit");
      return false;
    }
  if (!vhdkit_job_get_result (job, error))
    return false;

  *plan = (VhdkitCommitPlan){
    .bytes_to_copy = inner->bytes_to_copy,
    .bytes_to_clone_estimate = inner->estimated_clone_bytes,
    .bytes_to_zero = inner->bytes_to_zero,
    .virtual_size_before = inner->size_before,
    .virtual_size_after = inner->size_after,
    .host_bytes_worst = inner->host_bytes_worst,
    .host_bytes_expected = inner->host_bytes_expected,
    .host_bytes_free = inner->host_bytes_free,
    .host_bytes_to_cut = inner->host_bytes_to_cut,
    .enough_space = inner->host_bytes_free < 0
                    || inner->host_bytes_worst - inner->host_bytes_to_cut <= inner->host_bytes_free,
    .measured_bytes = inner->measured_bytes,
    .measured_seconds = (double)inner->measured_ns / 1e9,
    .estimated_seconds = -1,
    .relinked = g_strdupv (inner->relinked),
    .already_merged = inner->already_merged,
    .target_problem = g_strdup (inner->target_problem),
  };
  if (inner->measured_bytes > 0)
    plan->estimated_seconds =
        (double)inner->bytes_to_copy * plan->measured_seconds / (double)inner->measured_bytes;
  plan_add_layers (job, inner, plan);
  return true;
}

void
vhdkit_commit_plan_clear (VhdkitCommitPlan *plan)
{
  for (int i = 0; i < plan->n_layers; i++)
    g_free (plan->layers[i].filename);
  g_free (plan->layers);
  g_strfreev (plan->relinked);
  g_free (plan->target_problem);
  *plan = (VhdkitCommitPlan){ 0 };
}

/* --- compact ------------------------------------------------------------------------------------------- */

VhdkitJob *
vhdkit_compact_new (VhdkitImage *image, const VhdkitCompactOptions *options, GError **error)
{
  VhdkitCompactOptions own;

  if (!api_copy_options (&own, sizeof own, options, "VhdkitCompactOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitCompactOptions", error)
      || !image_check_idle (image, error))
    return NULL;

  if ((unsigned)own.mode > VHDKIT_COMPACT_PACK)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_INVALID_ARGUMENT, "unknown mode of compaction %u",
                      (unsigned)own.mode);
      return NULL;
    }
  if (own.punch_blocks && own.mode != VHDKIT_COMPACT_PUNCH)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "holes inside of blocks are for the mode that punches holes");
      return NULL;
    }

  bool mark = own.mode == VHDKIT_COMPACT_RETRIM, quick = own.mode == VHDKIT_COMPACT_QUICK;
  bool trimmed = own.mode == VHDKIT_COMPACT_PRETRIMMED;
  CompactParams params = {
    .bs = image->bs,
    .free_space = own.mode != VHDKIT_COMPACT_PREZEROED && !trimmed,
    .zero_scan = !quick && !trimmed && !mark && !own.no_zero_scan,
    .move_blocks = !mark && !own.no_block_moves,
    .mark_only = mark,
    .punch = own.mode == VHDKIT_COMPACT_PUNCH,
    .punch_blocks = own.punch_blocks,
    .fill_holes = own.mode == VHDKIT_COMPACT_PACK,
    .dry_run = own.dry_run,
    .break_children = own.break_children,
    .ignore_unknown = own.ignore_unknown,
    .parallel = own.parallel,
    .places = { .confine = image->confine, .drive_map = (const char *const *)image->drive_map },
  };
  return job_wrap (compact_job_new (image->context->aio, &params, error), image, NULL, image, NULL,
                   image->bs);
}

void
vhdkit_compact_get_stats (VhdkitJob *job, VhdkitCompactStats *stats)
{
  CompactStats inner = compact_job_get_stats (job->job);

  *stats = (VhdkitCompactStats){
    .blocks_allocated = inner.blocks_allocated,
    .blocks_dropped = inner.blocks_dropped,
    .blocks_moved = inner.blocks_moved,
    .file_size_before = inner.file_size_before,
    .file_size_after = inner.file_size_after,
    .block_size = inner.block_size,
    .blocks_free = inner.blocks_free,
    .blocks_zero = inner.blocks_zero,
    .blocks_same = inner.blocks_same,
    .bytes_punched = inner.bytes_punched,
    .host_bytes_before = inner.host_bytes_before,
    .host_bytes_after = inner.host_bytes_after,
    .bytes_free = inner.bytes_free,
    .bytes_zero = inner.bytes_zero,
    .bytes_same = inner.bytes_same,
    .bytes_unmapped = inner.bytes_unmapped,
  };
}

static void
add_volume (GVariantBuilder *volumes, const FsVolumeInfo *volume)
{
  GVariantBuilder *entry = g_variant_builder_new (G_VARIANT_TYPE_VARDICT);

  g_variant_builder_add (entry, "{sv}", "partition", g_variant_new_uint32 ((guint32)volume->partition));
  g_variant_builder_add (entry, "{sv}", "offset", g_variant_new_int64 (volume->offset));
  g_variant_builder_add (entry, "{sv}", "length", g_variant_new_int64 (volume->bytes));
  g_variant_builder_add (entry, "{sv}", "free", g_variant_new_int64 (volume->free_bytes));
  g_variant_builder_add (entry, "{sv}", "type", g_variant_new_string (volume->type));
  if (volume->inside != NULL)
    g_variant_builder_add (entry, "{sv}", "inside", g_variant_new_string (volume->inside));
  if (volume->label != NULL)
    g_variant_builder_add (entry, "{sv}", "label", g_variant_new_string (volume->label));
  if (volume->uuid != NULL)
    g_variant_builder_add (entry, "{sv}", "uuid", g_variant_new_string (volume->uuid));
  if (volume->in_use != NULL)
    g_variant_builder_add (entry, "{sv}", "reason", g_variant_new_string (volume->in_use->message));
  g_variant_builder_add (volumes, "a{sv}", entry);
  g_variant_builder_unref (entry);
}

GVariant *
vhdkit_compact_get_report (VhdkitJob *job)
{
  const FsFreeReport *report = compact_job_get_report (job->job);
  const char *degraded = compact_job_get_degraded (job->job);
  GVariantBuilder volumes, result;

  if (report == NULL && degraded == NULL)
    return NULL;
  g_variant_builder_init (&result, G_VARIANT_TYPE_VARDICT);
  if (report == NULL)
    {
      g_variant_builder_add (&result, "{sv}", "degraded", g_variant_new_string (degraded));
      return g_variant_ref_sink (g_variant_builder_end (&result));
    }
  g_variant_builder_init (&volumes, G_VARIANT_TYPE ("aa{sv}"));
  for (guint i = 0; i < report->volumes->len; i++)
    add_volume (&volumes, g_ptr_array_index (report->volumes, i));
  g_variant_builder_add (&result, "{sv}", "partition-table", g_variant_new_string (report->table));
  g_variant_builder_add (&result, "{sv}", "notes",
                         g_variant_new_strv ((const char *const *)report->notes->pdata, report->notes->len));
  g_variant_builder_add (&result, "{sv}", "volumes", g_variant_builder_end (&volumes));
  return g_variant_ref_sink (g_variant_builder_end (&result));
}

/* --- convert and compare ------------------------------------------------------------------------------- */

static bool
images_check_pair (VhdkitImage *a, VhdkitImage *b, GError **error)
{
  if (a->context == b->context)
    return true;
  bdrv_set_error (error, a->bs, VHDKIT_ERROR_INVALID_ARGUMENT, "the two images belong to different contexts");
  return false;
}

VhdkitJob *
vhdkit_convert_new (VhdkitImage *source, VhdkitImage *target, const VhdkitConvertOptions *options,
                    GError **error)
{
  VhdkitConvertOptions own;

  if (!api_copy_options (&own, sizeof own, options, "VhdkitConvertOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitConvertOptions", error)
      || !images_check_pair (source, target, error) || !image_check_idle (target, error))
    return NULL;

  ConvertParams params = {
    .source = source->bs,
    .target = target->bs,
    .parallel = own.parallel,
    .in_order = own.in_order,
    .target_is_zero = own.target_is_zero,
    .sparse_bytes = own.sparse_bytes,
    .above_target_parent = own.above_target_parent,
    .copy_range = own.copy_range,
    .break_children = own.break_children,
    .ignore_unknown = own.ignore_unknown,
    .places = { .confine = target->confine, .drive_map = (const char *const *)target->drive_map },
  };
  return job_wrap (convert_job_new (source->context->aio, &params, error), source, target, target, source->bs,
                   target->bs);
}

VhdkitJob *
vhdkit_compare_new (VhdkitImage *a, VhdkitImage *b, const VhdkitCompareOptions *options, GError **error)
{
  VhdkitCompareOptions own;

  if (!api_copy_options (&own, sizeof own, options, "VhdkitCompareOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitCompareOptions", error)
      || !images_check_pair (a, b, error))
    return NULL;

  CompareParams params = { .side = { a->bs, b->bs }, .strict = own.strict };
  return job_wrap (compare_job_new (a->context->aio, &params, error), a, b, NULL, a->bs, NULL);
}

void
vhdkit_compare_get_stats (VhdkitJob *job, VhdkitCompareStats *stats)
{
  CompareStats inner = compare_job_get_stats (job->job);

  *stats = (VhdkitCompareStats){
    .equal = inner.equal,
    .sizes_differ = inner.sizes_differ,
    .allocation_differs = inner.allocation_differs,
    .first_difference = inner.first_difference,
    .failed_side = inner.failed_side,
  };
}

/* --- rebase -------------------------------------------------------------------------------------------- */

VhdkitJob *
vhdkit_rebase_new (VhdkitImage *image, VhdkitImage *parent, const VhdkitRebaseOptions *options,
                   GError **error)
{
  VhdkitRebaseOptions own;

  if (!api_copy_options (&own, sizeof own, options, "VhdkitRebaseOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitRebaseOptions", error)
      || (parent != NULL && !images_check_pair (image, parent, error)) || !image_check_idle (image, error))
    return NULL;

  RebaseParams params = {
    .leaf = image->bs,
    .parent = parent != NULL ? parent->bs : NULL,
    .unsafe = own.unsafe,
    .ignore_id_mismatch = own.ignore_id_mismatch,
    .parallel = own.parallel,
  };
  return job_wrap (rebase_job_new (image->context->aio, &params, error), image, parent, image, NULL,
                   image->bs);
}

void
vhdkit_rebase_get_stats (VhdkitJob *job, VhdkitRebaseStats *stats)
{
  RebaseStats inner = rebase_job_get_stats (job->job);

  *stats = (VhdkitRebaseStats){
    .bytes_copied = inner.bytes_copied,
    .bytes_cloned = inner.bytes_cloned,
    .bytes_zeroed = inner.bytes_zeroed,
  };
}
