/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit: merge the layers from a source down to the one above a target into the target, in one pass.
 *
 * For each guest range the topmost source layer that decides it wins.  Ranges no source layer decides are not
 * touched.  A layer decides as zeros what lies past its end, so ranges a short layer in the middle hides
 * become zeros in the target.  The chain through the source shows the same at every instant: what is written
 * to the target is exactly what some layer above hides.
 *
 * Steps: plan (allocation only, nothing is written) -> target becomes writable -> begin: links of the
 * target's child are prepared for the change -> the target grows -> ranges move, many at a time, each written
 * once -> flush -> the target shrinks, where asked for -> what belongs to the disk is taken over -> end: links are
 * settled -> flush.
 *
 * Crash points.  "Chain" is the source opened again; the target is opened through it.
 *  C1 while planning: nothing has been written.
 *  C2 target opened for writing, nothing moved: whatever the driver does there keeps what the target shows
 *     (a journal replayed, a file cut to its last used byte, a missing second copy of a structure restored).
 *  C3 begin, before or after each of its steps: the driver keeps the link of the child valid throughout (for
 *     formats whose link names the parent's content; the others have nothing to do).
 *  C4 the target has grown or is half-way: the driver's own rule leaves the old or the new length.  What is
 *     new reads as zeros, as reading past the old end did; layers above are longer and clip nothing.
 *  C5 any subset of the moved ranges is in the target, any of them torn, blocks allocated for them or not:
 *     every one is hidden by a source layer, so the chain reads the same.  The target is a sound image by the
 *     driver's ordering of data and tables (I1, I2).  Sectors nobody decided were not written.
 *  C6 all ranges are in the target, not all durable: as C5.
 *  C7 flushed: the target holds all of it; the sources hide it with equal bytes.
 *  C8 shrinking, where asked for: past the source's end the chain shows nothing, so the old and the new
 *     length read the same through it.
 *  C9 what belongs to the disk and not to its content is the target's or the source's: nothing read through the
 *     chain speaks of it.
 *  C10 end, at any of its steps: as C3.
 *  Files that are relinked, renamed or removed after it: see conclude.c.
 *
 * At each of them the job run again starts over from the tables and writes the same bytes to the same places:
 * nothing has to be remembered.  An error or a cancel stops between ranges and goes on with the flush and with
 * "end", so it leaves the state of C5 or C6, durable.
 */
#include "commit.h"

#include "conclude.h"
#include "copy.h"
#include "siblings.h"
#include "space.h"

/* Runs of zeros inside of data worth not being stored. */
#define COMMIT_SPARSE_BYTES (64 * 1024)

typedef struct
{
  Job job;
  CommitParams params;
  BlockDriverState *child; /* the target's, a source layer */
  CommitPlan plan;
  CommitStats stats;
  CopyCursor cursor;
} CommitJob;

/* --- moving -------------------------------------------------------------------------------------------- */

static int coroutine_fn
commit_co_next (CopyEngine *engine, CopyItem *item)
{
  CommitJob *commit = engine->opaque;
  int ret = copy_cursor_co_next (&commit->cursor, engine, engine->max_item_bytes, COMMIT_ZERO_BYTES, item);

  if (ret < 0)
    copy_fail (engine, commit->cursor.failed, "look-up of the allocation", commit->cursor.offset,
               commit->cursor.end - commit->cursor.offset, ret);
  return ret;
}

static bool coroutine_fn
commit_co_move (CommitJob *commit, GError **error)
{
  CopyEngine engine = {
    .job = &commit->job,
    .source = commit->params.source,
    .target = commit->params.target,
    .workers = commit->params.parallel > 0 ? commit->params.parallel : COMMIT_DEFAULT_PARALLEL,
    .share_extents = commit->params.reflink != COMMIT_REFLINK_NEVER,
    .must_share = commit->params.reflink == COMMIT_REFLINK_ALWAYS,
    /* What is compared with may be in the page cache alone, after a flush that failed for an earlier run.  Where the
     * sources go, all is written. */
    .skip_identical =
        commit->params.skip_identical && !commit->params.delete_sources && !commit->params.rename_target,
    .sparse_bytes = COMMIT_SPARSE_BYTES,
    .opaque = commit,
    .co_next = commit_co_next,
    .co_zero = copy_co_zero_visible,
  };

  commit->cursor = (CopyCursor){
    .source = commit->params.source,
    .base = commit->params.target,
    .end = bdrv_length (commit->params.source),
  };
  int ret = copy_co_run (&engine);
  copy_cursor_clear (&commit->cursor);
  commit->stats = (CommitStats){
    .bytes_copied = engine.bytes_copied,
    .bytes_cloned = engine.bytes_cloned,
    .bytes_zeroed = engine.bytes_zeroed,
    .bytes_skipped = engine.bytes_skipped,
  };
  if (ret < 0)
    copy_set_error (&engine, error);
  return ret == 0;
}

/* --- the job ------------------------------------------------------------------------------------------- */

static bool coroutine_fn
commit_co_flush (BlockDriverState *bs, GError **error)
{
  int ret = bdrv_co_flush (bs);

  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "flush failed");
  return ret == 0;
}

/* Adds what to do about it to an error from before the first change. */
static void
advise (GError **error, const char *advice)
{
  if (error == NULL)
    return;
  char *message = g_strdup_printf ("%s; nothing was merged: %s", (*error)->message, advice);

  g_free ((*error)->message);
  (*error)->message = message;
}

static bool coroutine_fn
commit_co_make_writable (BlockDriverState *bs, const char *why, GError **error)
{
  if (!bs->read_only || bdrv_co_reopen_rw (bs, error))
    return true;
  bool damaged = error != NULL && g_error_matches (*error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT);
  advise (error, damaged ? "it is damaged, or was cut short; 'vhd-img check' tells more" : why);
  return false;
}

static bool coroutine_fn
commit_co_make_target_writable (const CommitJob *commit, GError **error)
{
  return commit_co_make_writable (
      commit->params.target, "it is what a merge writes to; make it writable, or end what uses it", error);
}

static bool coroutine_fn
commit_co_check_space (const CommitJob *commit, bool *trim, GError **error)
{
  if (space_co_check_untrimmed (commit->params.target, commit->plan.host_bytes_worst, trim, error))
    return true;
  advise (error, "make room there and run it again");
  return false;
}

static bool coroutine_fn
commit_co_trim (const CommitJob *commit, GError **error)
{
  if (space_co_trim (commit->params.target, commit->plan.host_bytes_worst, error))
    return true;
  advise (error, "make room there and run it again");
  return false;
}

/* Tells the target's child, where its format wants to know. */
static bool coroutine_fn
commit_co_parent_changed (CommitJob *commit, bool begin, GError **error)
{
  BlockDriverState *child = commit->child;

  if (child->drv->co_parent_changed == NULL)
    return true;
  if (begin
      && !commit_co_make_writable (
          child, "its link to the target has to follow the merge; make it writable, or end what uses it",
          error))
    return false;
  return child->drv->co_parent_changed (child, commit->params.target, begin, error)
         && commit_co_flush (child, error);
}

/* The target is the disk that the source was. */
static bool coroutine_fn
commit_co_copy_properties (BlockDriverState *source, BlockDriverState *target, GError **error)
{
  const BlockDriver *drv = target->drv;

  return source->drv != drv || drv->co_copy_disk_properties == NULL
         || drv->co_copy_disk_properties (target, source, error);
}

/* Everything between begin and end: the target is changed here. */
static bool coroutine_fn
commit_co_change_target (CommitJob *commit, GError **error)
{
  BlockDriverState *source = commit->params.source, *target = commit->params.target;
  int64_t source_bytes = bdrv_length (source);

  if (source_bytes > bdrv_length (target) && !bdrv_co_truncate (target, source_bytes, error))
    {
      g_prefix_error (error, "growing the target to %" G_GINT64_FORMAT " bytes: ", source_bytes);
      return false;
    }

  bool moved = commit_co_move (commit, error);
  /* What was done is kept, also after an error; the first error is the one to tell. */
  bool flushed = commit_co_flush (target, moved ? error : NULL);
  if (!moved || !flushed)
    return false;

  if (source_bytes < bdrv_length (target) && !bdrv_co_truncate (target, source_bytes, error))
    {
      g_prefix_error (error, "cutting the target to %" G_GINT64_FORMAT " bytes: ", source_bytes);
      return false;
    }
  return commit_co_copy_properties (source, target, error);
}

static bool coroutine_fn
commit_co_merge (CommitJob *commit, Conclude *conclude, GError **error)
{
  const CommitParams *params = &commit->params;
  bool trim;

  if (!(params->break_siblings
        || siblings_co_check (&commit->job, params->source, params->target, &params->places,
                              params->ignore_unknown, error))
      || !commit_plan_co_make (&commit->job, params, &commit->plan, error)
      || !commit_co_check_space (commit, &trim, error) || !conclude_co_lock (conclude, error)
      || !commit_co_make_target_writable (commit, error) || (trim && !commit_co_trim (commit, error))
      || !commit_co_parent_changed (commit, true, error))
    return false;
  /* All at once: a part of the total would tell a wrong share that is done. */
  job_progress_add_total (&commit->job, commit->plan.bytes_total);

  bool ok = commit_co_change_target (commit, error);
  bool ended = commit_co_parent_changed (commit, false, ok ? error : NULL);
  bool flushed = commit_co_flush (commit->params.target, ok && ended ? error : NULL);
  return ok && ended && flushed;
}

/* A merge that an earlier run has made: nobody knows whether it saw its last flush succeed. */
static bool coroutine_fn
commit_co_resume (CommitJob *commit, Conclude *conclude, GError **error)
{
  return conclude_co_lock (conclude, error) && commit_co_make_target_writable (commit, error)
         && commit_co_flush (commit->params.target, error);
}

static bool coroutine_fn
commit_co_steps (CommitJob *commit, GError **error)
{
  const ConcludeParams after = commit_params_conclude (&commit->params);
  bool merged;
  Conclude *conclude = conclude_co_new (&commit->job, &after, &merged, error);
  bool ok =
      conclude != NULL
      && (merged ? commit_co_resume (commit, conclude, error) : commit_co_merge (commit, conclude, error))
      && conclude_co_run (conclude, error);

  /* Closing the children writes, too. */
  bool closed = conclude_co_free (conclude, ok ? error : NULL);
  return ok && closed;
}

static bool coroutine_fn
commit_co_run (Job *job, GError **error)
{
  CommitJob *commit = (CommitJob *)job;
  BlockDriverState *target = commit->params.target;

  commit->child = commit->params.source;
  while (commit->child->backing != target)
    commit->child = commit->child->backing;

  if (commit_co_steps (commit, error))
    return true;
  g_prefix_error (error, "merging %s into %s: ", commit->params.source->filename, target->filename);
  return false;
}

static void
commit_free (Job *job)
{
  commit_plan_clear (&((CommitJob *)job)->plan);
}

static const JobDriver commit_driver = {
  .instance_size = sizeof (CommitJob),
  .verb = "commit",
  .co_run = commit_co_run,
  .free = commit_free,
};

Job *
commit_job_new (AioContext *context, const CommitParams *params, GError **error)
{
  Job *job = commit_params_check (params, error) ? job_new (&commit_driver, context, error) : NULL;

  if (job == NULL)
    return NULL;
  bdrv_warn_of_change_tracking (params->target);
  ((CommitJob *)job)->params = *params;
  return job;
}

CommitStats
commit_job_get_stats (const Job *job)
{
  return job->driver == &commit_driver ? ((const CommitJob *)job)->stats : (CommitStats){ 0 };
}
