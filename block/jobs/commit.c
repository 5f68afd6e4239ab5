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

#include "checked.h"
#include "conclude.h"
#include "copy.h"
#include "siblings.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COMMIT_DEFAULT_PARALLEL 16
/* Zero ranges are handled in pieces so long, to look at the job's flags in between. */
#define COMMIT_ZERO_BYTES (64 * 1024 * 1024)
/* Runs of zeros inside of data worth not being stored. */
#define COMMIT_SPARSE_BYTES (64 * 1024)
/* For the space check: what host file systems allocate, and how much new payload one page of tables serves.
 */
#define HOST_BLOCK_BYTES (4 * 1024)
#define REGION_BYTES     (2 * 1024 * 1024)

typedef struct
{
  Job job;
  CommitParams params;
  BlockDriverState *child; /* the target's, a source layer */
  CommitStats stats;
  CopyCursor cursor;
} CommitJob;

/* --- planning ------------------------------------------------------------------------------------------ */

/* What the target may have to allocate, at worst. */
typedef struct
{
  int64_t bytes;
  int64_t counted_to;  /* host blocks before this guest offset are in it */
  int64_t last_region; /* whose tables are in it */
} SpaceNeed;

static void
space_need_add (SpaceNeed *need, int64_t offset, int64_t bytes)
{
  int64_t start = MAX (round_down (offset, HOST_BLOCK_BYTES), need->counted_to);
  int64_t end = round_up (offset + bytes, HOST_BLOCK_BYTES);
  int64_t first_region = MAX (offset / REGION_BYTES, need->last_region + 1);
  int64_t last_region = (offset + bytes - 1) / REGION_BYTES;

  if (end > start)
    {
      need->bytes += end - start;
      need->counted_to = end;
    }
  if (last_region >= first_region)
    {
      need->bytes += (last_region - first_region + 1) * HOST_BLOCK_BYTES;
      need->last_region = last_region;
    }
}

/* Adds what of the range the target does not store yet. */
static int coroutine_fn
commit_co_count_new (BlockDriverState *target, int64_t offset, int64_t bytes, bool zero, SpaceNeed *need)
{
  int64_t end = MIN (offset + bytes, bdrv_length (target));

  while (offset < end)
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int depth = 0;
      int ret = bdrv_co_block_status_above (target, zero ? NULL : target->backing, offset, end - offset,
                                            &pnum, &map, &file, &depth);

      if (ret < 0)
        return ret;
      bool reads_zero = !(ret & BDRV_BLOCK_ALLOCATED) || (ret & BDRV_BLOCK_ZERO);
      bool stored_here = !reads_zero && depth == 0;
      /* Zeros are not stored where zeros are seen already. */
      if (!stored_here && !(zero && reads_zero))
        space_need_add (need, offset, pnum);
      offset += pnum;
      bytes -= pnum;
    }
  /* Past the target's end, before it has grown. */
  if (bytes > 0 && !zero)
    space_need_add (need, offset, bytes);
  return 0;
}

static bool coroutine_fn
commit_co_plan (CommitJob *commit, SpaceNeed *need, GError **error)
{
  BlockDriverState *source = commit->params.source, *target = commit->params.target;
  CopyCursor cursor = { .source = source, .base = target, .end = bdrv_length (source) };
  CopyItem item;
  int ret;

  while ((ret = copy_cursor_co_next (&cursor, NULL, REGION_BYTES, COMMIT_ZERO_BYTES, &item)) > 0)
    {
      if (job_co_pause_point (&commit->job) < 0)
        {
          job_set_cancelled (&commit->job, error);
          return false;
        }
      job_progress_add_total (&commit->job, item.bytes);
      ret = commit_co_count_new (target, item.offset, item.bytes, item.zero, need);
      if (ret < 0)
        {
          bdrv_set_error_errno (error, target, ret,
                                "allocation of %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT,
                                item.bytes, item.offset);
          return false;
        }
    }
  if (ret < 0)
    bdrv_set_error_errno (error, source, ret, "allocation at offset %" G_GINT64_FORMAT, cursor.offset);
  return ret == 0;
}

typedef struct
{
  const char *path;
  bool known;
  uint64_t available;
} FreeSpace;

static int
look_up_free_space (void *opaque)
{
  FreeSpace *space = opaque;
  struct stat status;
  struct statvfs fs;

  /* Devices have all their space already.  File systems that know no figures say zero blocks. */
  if (stat (space->path, &status) == 0 && S_ISREG (status.st_mode) && statvfs (space->path, &fs) == 0
      && fs.f_blocks > 0)
    {
      space->known = true;
      space->available = (uint64_t)(geteuid () == 0 ? fs.f_bfree : fs.f_bavail) * fs.f_frsize;
    }
  return 0;
}

static bool coroutine_fn
commit_co_check_space (CommitJob *commit, const SpaceNeed *need, GError **error)
{
  BlockDriverState *target = commit->params.target;
  FreeSpace space = { .path = bdrv_get_host_path (target) };

  if (need->bytes == 0 || space.path == NULL)
    return true;
  aio_co_run_in_thread (look_up_free_space, &space);
  if (!space.known || (uint64_t)need->bytes <= space.available)
    return true;
  bdrv_set_error (error, target, VHDKIT_ERROR_NO_SPACE,
                  "may need %" G_GINT64_FORMAT " bytes more, its file system has %" G_GUINT64_FORMAT " free",
                  need->bytes, space.available);
  return false;
}

static bool
commit_check_sizes (const CommitJob *commit, GError **error)
{
  const BlockDriverState *source = commit->params.source, *target = commit->params.target;
  int64_t source_bytes = bdrv_length (source), target_bytes = bdrv_length (target);

  if (source_bytes >= target_bytes)
    return true;
  if (commit->params.shrink_target)
    {
      /* Found out now, not after the merge. */
      if ((target->drv->caps & BLOCK_CAP_SHRINK)
          && !bdrv_protocol_node ((BlockDriverState *)target)->fixed_length)
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

/* --- moving -------------------------------------------------------------------------------------------- */

static int coroutine_fn
commit_co_next (CopyEngine *engine, CopyItem *item)
{
  CommitJob *commit = engine->opaque;
  int ret = copy_cursor_co_next (&commit->cursor, engine, engine->max_item_bytes, COMMIT_ZERO_BYTES, item);

  if (ret < 0)
    copy_fail (engine, engine->source, "look-up of the allocation", commit->cursor.offset,
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
    .share_extents = true,
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
  commit->stats = (CommitStats){
    .bytes_copied = engine.bytes_copied,
    .bytes_cloned = engine.bytes_cloned,
    .bytes_zeroed = engine.bytes_zeroed,
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

static bool coroutine_fn
commit_co_make_writable (BlockDriverState *bs, GError **error)
{
  return !bs->read_only || bdrv_co_reopen_rw (bs, error);
}

/* Tells the target's child, where its format wants to know. */
static bool coroutine_fn
commit_co_parent_changed (CommitJob *commit, bool begin, GError **error)
{
  BlockDriverState *child = commit->child;

  if (child->drv->co_parent_changed == NULL)
    return true;
  if (begin && !commit_co_make_writable (child, error))
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
  SpaceNeed need = { .last_region = -1 };

  if (!commit_check_sizes (commit, error)
      || !(commit->params.break_siblings
           || siblings_co_check (commit->params.source, commit->params.target, &commit->params.places, error))
      || !commit_co_plan (commit, &need, error) || !commit_co_check_space (commit, &need, error)
      || !conclude_co_lock (conclude, error) || !commit_co_make_writable (commit->params.target, error)
      || !commit_co_parent_changed (commit, true, error))
    return false;

  bool ok = commit_co_change_target (commit, error);
  bool ended = commit_co_parent_changed (commit, false, ok ? error : NULL);
  bool flushed = commit_co_flush (commit->params.target, ok && ended ? error : NULL);
  return ok && ended && flushed;
}

/* A merge that an earlier run has made: nobody knows whether it saw its last flush succeed. */
static bool coroutine_fn
commit_co_resume (CommitJob *commit, Conclude *conclude, GError **error)
{
  return conclude_co_lock (conclude, error) && commit_co_make_writable (commit->params.target, error)
         && commit_co_flush (commit->params.target, error);
}

static bool coroutine_fn
commit_co_steps (CommitJob *commit, GError **error)
{
  const CommitParams *params = &commit->params;
  const ConcludeParams after = {
    .leaf = params->leaf ? params->leaf : params->source,
    .source = params->source,
    .target = params->target,
    .places = params->places,
    .relink = params->relink,
    .delete_sources = params->delete_sources,
    .rename_target = params->rename_target,
    .break_siblings = params->break_siblings,
  };
  bool merged;
  Conclude *conclude = conclude_co_new (&commit->job, &after, &merged, error);
  bool ok =
      conclude != NULL
      && (merged ? commit_co_resume (commit, conclude, error) : commit_co_merge (commit, conclude, error))
      && conclude_co_run (conclude, error);

  conclude_co_free (conclude);
  return ok;
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

static const JobDriver commit_driver = {
  .instance_size = sizeof (CommitJob),
  .verb = "commit",
  .co_run = commit_co_run,
};

Job *
commit_job_new (AioContext *context, const CommitParams *params, GError **error)
{
  BlockDriverState *target = params->target;
  const BlockDriverState *node = params->source->backing;

  while (node != NULL && node != target)
    node = node->backing;
  if (node == NULL)
    {
      bdrv_set_error (error, params->source, VHDKIT_ERROR_INVALID_ARGUMENT, "%s is not an ancestor of it",
                      target->filename);
      return NULL;
    }
  if (target->drv->co_pwritev == NULL)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_UNSUPPORTED, "images of format %s cannot be written",
                      target->drv->format_name);
      return NULL;
    }
  if (params->parallel > COPY_MAX_WORKERS)
    {
      bdrv_set_error (error, params->source, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "%u coroutines, at most %d are possible", params->parallel, COPY_MAX_WORKERS);
      return NULL;
    }

  Job *job = job_new (&commit_driver, context, error);
  if (job == NULL)
    return NULL;
  bdrv_warn_of_change_tracking (target);
  ((CommitJob *)job)->params = *params;
  return job;
}

CommitStats
commit_job_get_stats (const Job *job)
{
  return job->driver == &commit_driver ? ((const CommitJob *)job)->stats : (CommitStats){ 0 };
}
