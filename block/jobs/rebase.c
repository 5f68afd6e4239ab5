/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebase: give an image another parent, or none, without changing what a guest sees through it.
 *
 * Where the image decides nothing itself and would show something else above the new parent, it first gets what it
 * shows now.  What it decides, what both chains find in a layer that they have in common, and what is zeros in both
 * is told by allocation and not looked at; the rest is compared by content.  A parent shows zeros past its end.
 * Without a new parent all that the present ones show other than zeros is stored ("flatten").
 *
 * Zeros have to be stored although the present parent shows them already: a driver leaves such a write out, so they are
 * written as data, or as blocks in a state that says so.
 *
 * Steps: plan (allocation only) -> space is there -> the image becomes writable -> ranges are stored, many at a time ->
 * flush -> the link changes.
 *
 * Crash points.  "Image" is the image opened again, above the present parent until R5.
 *  R1 while planning: nothing has been written.  Becoming writable changes nothing that is seen (a journal is
 *     replayed, a file cut to its last used byte).
 *  R2 any subset of the ranges is stored, any of them torn, blocks allocated for them or not: what was written is what
 *     the image showed, so old and new sectors are the same.  It is sound by the driver's ordering of data and
 *     tables (I1, I2).  Its identity has not changed: children of it stay linked.
 *  R3 all are stored, not all durable: as R2.
 *  R4 flushed: the image shows the same above either parent.
 *  R5 the link changes, in one step that is done or not done (the driver's own rule): both read the same.
 *
 * At each of them the job run again starts over from the tables, which by then say that what is stored need not be
 * looked at.  An error or a cancel stops between ranges, and flushes.
 *
 * Unsafe, only the link is changed: for parents that have moved.  What the image shows is then up to the caller.
 */
#include "rebase.h"

#include "checked.h"
#include "identity.h"
#include "rebase-plan.h"
#include "zero.h"

#include <errno.h>
#include <string.h>

#define REBASE_DEFAULT_PARALLEL 16
/* Zero ranges are handled in pieces so long: the largest block there is can become a block of zeros in one. */
#define REBASE_ZERO_BYTES (256 * 1024 * 1024)
/* Runs of zeros inside of data worth not being stored as such. */
#define REBASE_SPARSE_BYTES (64 * 1024)
/* Contents are compared in pieces of this size, found different in units of that one. */
#define COMPARE_BYTES (256 * 1024)
#define COMPARE_UNIT  4096

typedef struct
{
  Job job;
  RebaseParams params;
  RebaseStats stats;
  RebaseCursor cursor;
  uint8_t *zeros; /* COMPARE_BYTES of them, only ever read */
} RebaseJob;

/* --- storing --------------------------------------------------------------------------------------------- */

/* Zeros as data: no driver takes them for what is there already. */
static int coroutine_fn
rebase_co_write_zeros (CopyEngine *engine, int64_t offset, int64_t bytes)
{
  RebaseJob *rebase = engine->opaque;

  while (bytes > 0)
    {
      int64_t n = MIN (bytes, COMPARE_BYTES);
      int ret = bdrv_co_pwrite (engine->target, offset, n, rebase->zeros, 0);

      if (ret < 0)
        return copy_fail (engine, engine->target, "write of zeros", offset, n, ret);
      engine->bytes_zeroed += n;
      offset += n;
      bytes -= n;
    }
  return 0;
}

/* Whole blocks become blocks of zeros; what the driver does not make one is written. */
static int coroutine_fn
rebase_co_zero_blocks (CopyEngine *engine, int64_t offset, int64_t bytes)
{
  BlockDriverState *leaf = engine->target;
  int ret = bdrv_co_pwrite_zeroes (leaf, offset, bytes, BDRV_REQ_MAY_UNMAP);

  if (ret < 0)
    return copy_fail (engine, leaf, "write of zeros", offset, bytes, ret);
  while (bytes > 0)
    {
      int64_t pnum;

      ret = bdrv_co_block_status (leaf, offset, bytes, &pnum, NULL, NULL);
      if (ret < 0)
        return copy_fail (engine, leaf, "look-up of the allocation", offset, bytes, ret);
      if (ret & BDRV_BLOCK_ALLOCATED)
        engine->bytes_zeroed += pnum;
      else if ((ret = rebase_co_write_zeros (engine, offset, pnum)) < 0)
        return ret;
      offset += pnum;
      bytes -= pnum;
    }
  return 0;
}

/* The length of the run of units at @a that all differ from those at @b (NULL: zeros), or are all equal. */
static int64_t
compare_run (const uint8_t *a, const uint8_t *b, int64_t bytes, bool *equal)
{
  int64_t pos = 0;

  while (pos < bytes)
    {
      int64_t unit = MIN (COMPARE_UNIT, bytes - pos);
      bool unit_equal =
          b != NULL ? memcmp (a + pos, b + pos, (size_t)unit) == 0 : buffer_is_zero (a + pos, (size_t)unit);

      if (pos > 0 && unit_equal != *equal)
        break;
      *equal = unit_equal;
      pos += unit;
    }
  return pos;
}

/* Stores those units of the range that the new parent does not show: @buf, or zeros (NULL).  @shown: COMPARE_BYTES. */
static int coroutine_fn
rebase_co_store_piece (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf, uint8_t *shown)
{
  const RebaseJob *rebase = engine->opaque;
  BlockDriverState *parent = rebase->params.parent;
  /* Past the parent's end: zeros. */
  int ret = bdrv_co_pread (parent, offset, bytes, shown);

  if (ret < 0)
    return copy_fail (engine, parent, "read", offset, bytes, ret);
  for (int64_t pos = 0, run; pos < bytes && ret == 0; pos += run)
    {
      bool equal = false;

      run = compare_run (shown + pos, buf != NULL ? buf + pos : NULL, bytes - pos, &equal);
      if (equal)
        continue;
      ret = buf != NULL ? copy_co_write_sparse (engine, offset + pos, run, buf + pos)
                        : rebase_co_write_zeros (engine, offset + pos, run);
    }
  return ret;
}

static int coroutine_fn
rebase_co_store_different (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf)
{
  const RebaseJob *rebase = engine->opaque;
  uint8_t *shown = bdrv_try_alloc_buffer (rebase->params.parent, COMPARE_BYTES);
  int ret = 0;

  if (shown == NULL)
    return copy_fail (engine, rebase->params.parent, "buffer for the read", offset, bytes, -ENOMEM);
  for (int64_t pos = 0, n; ret == 0 && pos < bytes; pos += n)
    {
      n = MIN (round_down (offset + pos, COMPARE_BYTES) + COMPARE_BYTES - offset, bytes) - pos;
      ret = rebase_co_store_piece (engine, offset + pos, n, buf != NULL ? buf + pos : NULL, shown);
    }
  bdrv_free_buffer (shown);
  return ret;
}

/* --- the ops of the copy engine --------------------------------------------------------------------------- */

static int coroutine_fn
rebase_co_next (CopyEngine *engine, CopyItem *item)
{
  RebaseJob *rebase = engine->opaque;
  RebaseCursor *cursor = &rebase->cursor;
  /* Where zeros are written and compared as data, they go in pieces as data does. */
  int64_t max_zero =
      rebase_zero_block_bytes (engine->target) > 0 ? REBASE_ZERO_BYTES : engine->max_item_bytes;
  int ret = rebase_cursor_co_next (cursor, engine, engine->max_item_bytes, max_zero, item);

  if (ret < 0)
    copy_fail (engine, cursor->failed, "look-up of the allocation", cursor->offset,
               bdrv_length (engine->source) - cursor->offset, ret);
  return ret;
}

static int coroutine_fn
rebase_co_write (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf)
{
  const RebaseJob *rebase = engine->opaque;

  return rebase->params.parent != NULL ? rebase_co_store_different (engine, offset, bytes, buf)
                                       : copy_co_write_sparse (engine, offset, bytes, buf);
}

static int coroutine_fn
rebase_co_zero (CopyEngine *engine, int64_t offset, int64_t bytes)
{
  const RebaseJob *rebase = engine->opaque;
  int64_t block = rebase_zero_block_bytes (engine->target), end = offset + bytes;
  int64_t first = end, last = end;
  int ret = 0;

  /* Without a parent that is what shows where nothing is stored. */
  if (rebase->params.parent == NULL)
    return 0;
  if (block > 0)
    {
      first = MIN (round_up (offset, block), end);
      last = end == bdrv_length (engine->target) ? end : MAX (round_down (end, block), first);
    }
  if (offset < first)
    ret = rebase_co_store_different (engine, offset, first - offset, NULL);
  if (ret == 0 && first < last)
    ret = rebase_co_zero_blocks (engine, first, last - first);
  if (ret == 0 && last < end)
    ret = rebase_co_store_different (engine, last, end - last, NULL);
  return ret;
}

/* --- the job --------------------------------------------------------------------------------------------- */

static bool coroutine_fn
rebase_co_store (RebaseJob *rebase, GError **error)
{
  BlockDriverState *leaf = rebase->params.leaf;
  CopyEngine engine = {
    .job = &rebase->job,
    .source = leaf,
    .target = leaf,
    .workers = rebase->params.parallel > 0 ? rebase->params.parallel : REBASE_DEFAULT_PARALLEL,
    .share_extents = true,
    .sparse_bytes = REBASE_SPARSE_BYTES,
    .opaque = rebase,
    .co_next = rebase_co_next,
    .co_zero = rebase_co_zero,
    .co_write = rebase_co_write,
  };

  rebase->zeros = bdrv_try_alloc_buffer (leaf, COMPARE_BYTES);
  if (rebase->zeros == NULL)
    {
      bdrv_set_error_errno (error, leaf, -ENOMEM, "buffer for zeros");
      return false;
    }
  memset (rebase->zeros, 0, COMPARE_BYTES);
  rebase_cursor_init (&rebase->cursor, leaf, rebase->params.parent);
  leaf->same_content = true;
  int ret = copy_co_run (&engine);
  leaf->same_content = false;
  bdrv_free_buffer (rebase->zeros);
  rebase->stats = (RebaseStats){
    .bytes_copied = engine.bytes_copied,
    .bytes_cloned = engine.bytes_cloned,
    .bytes_zeroed = engine.bytes_zeroed,
  };
  if (ret < 0)
    copy_set_error (&engine, error);
  return ret == 0;
}

static BlockParentChange
change_of (const RebaseParams *params)
{
  return (BlockParentChange){
    .parent = params->parent,
    .child_path = bdrv_get_host_path (params->leaf),
    .parent_path = params->parent != NULL ? bdrv_get_host_path (params->parent) : NULL,
  };
}

static bool coroutine_fn
rebase_co_make_writable (BlockDriverState *leaf, GError **error)
{
  return !leaf->read_only || bdrv_co_reopen_rw (leaf, error);
}

/* After it the image shows the same above either parent. */
static bool coroutine_fn
rebase_co_make_independent (RebaseJob *rebase, GError **error)
{
  BlockDriverState *leaf = rebase->params.leaf;
  SpaceNeed need = SPACE_NEED_INIT;
  int64_t bytes;
  bool trim;

  if (!rebase_co_plan (&rebase->job, leaf, rebase->params.parent, &need, &bytes, error)
      || !space_co_check_untrimmed (leaf, need.bytes, &trim, error) || !rebase_co_make_writable (leaf, error)
      || (trim && !space_co_trim (leaf, need.bytes, error)))
    return false;
  job_progress_add_total (&rebase->job, bytes);

  bool stored = rebase_co_store (rebase, error);
  /* Barrier: what was stored before the link that needs it (R4); what was done is kept, also after an error. */
  int ret = bdrv_co_flush (leaf);
  if (stored && ret < 0)
    bdrv_set_error_errno (error, leaf, ret, "flush failed");
  return stored && ret == 0;
}

static bool coroutine_fn
rebase_co_run (Job *job, GError **error)
{
  RebaseJob *rebase = (RebaseJob *)job;
  BlockDriverState *leaf = rebase->params.leaf;
  BlockParentChange change = change_of (&rebase->params);

  if (!rebase->params.unsafe && !rebase_co_make_independent (rebase, error))
    return false;
  if (job_co_pause_point (job) < 0)
    {
      job_set_cancelled (job, error);
      return false;
    }
  if (!rebase_co_make_writable (leaf, error) || !leaf->drv->co_change_parent (leaf, &change, error))
    return false;
  job_progress_finish (job);
  return true;
}

static const JobDriver rebase_driver = {
  .instance_size = sizeof (RebaseJob),
  .verb = "rebase",
  .co_run = rebase_co_run,
};

/* --- what cannot be -------------------------------------------------------------------------------------- */

static bool
check_leaf (const RebaseParams *params, GError **error)
{
  BlockDriverState *leaf = params->leaf;

  if (leaf->drv->co_change_parent == NULL)
    {
      bdrv_set_error (error, leaf, VHDKIT_ERROR_UNSUPPORTED, "images of format %s have no parents",
                      leaf->drv->format_name);
      return false;
    }
  BlockDriverState *cut = bdrv_lacks_parent (leaf)                                       ? leaf
                          : params->parent != NULL && bdrv_lacks_parent (params->parent) ? params->parent
                                                                                         : NULL;
  if (!params->unsafe && cut != NULL)
    {
      bdrv_set_error (error, cut, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "what its parents show is not known: opened without them");
      return false;
    }
  return copy_check_workers (leaf, params->parallel, error);
}

static bool
check_loop (const RebaseParams *params, GError **error)
{
  for (BlockDriverState *layer = params->parent; layer != NULL; layer = layer->backing)
    if (bdrv_same_file (layer, params->leaf))
      {
        if (layer == params->parent)
          bdrv_set_error (error, params->leaf, VHDKIT_ERROR_INVALID_ARGUMENT, "cannot be its own parent");
        else
          bdrv_set_error (error, params->leaf, VHDKIT_ERROR_INVALID_ARGUMENT,
                          "cannot have %s as its parent: it is an ancestor of that",
                          params->parent->filename);
        return false;
      }
  if (bdrv_chain_depth (params->parent) < BDRV_MAX_CHAIN_DEPTH)
    return true;
  bdrv_set_error (error, params->leaf, VHDKIT_ERROR_UNSUPPORTED,
                  "the parent's chain has %d layers, no more are possible", BDRV_MAX_CHAIN_DEPTH);
  return false;
}

/* "none" for an image without; free it. */
static char *
identity_text (const BlockDriverState *bs, const uint8_t *identity)
{
  static const uint8_t windows_order[] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
  uint8_t ordered[BLOCK_IDENTITY_SIZE];
  char text[37];

  if (identity == NULL)
    return g_strdup ("none");
  for (int i = 0; i < BLOCK_IDENTITY_SIZE; i++)
    ordered[i] = identity[bs->drv->caps & BLOCK_CAP_GUID_IDENTITY ? windows_order[i] : i];
  identity_format (ordered, text);
  return g_strdup (text);
}

/* Whether the link as it stands is true for the new parent. */
static bool
check_identity (const RebaseParams *params, GError **error)
{
  BlockDriverState *leaf = params->leaf, *parent = params->parent;
  g_auto (BlockParentLink) link = { 0 };
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  bool has_link = leaf->drv->get_parent_link (leaf, &link);
  bool has_identity = bdrv_get_identity (parent, identity);

  if (has_link && !link.has_identity && !has_identity)
    return true;
  for (int i = 0; i < link.identities && has_identity && link.has_identity; i++)
    if (memcmp (identity, link.identity[i], sizeof identity) == 0)
      return true;

  g_autofree char *found = identity_text (parent, has_identity ? identity : NULL);
  g_autofree char *first = identity_text (leaf, link.has_identity ? link.identity[0] : NULL);
  g_autofree char *second = link.identities > 1 ? identity_text (leaf, link.identity[1]) : NULL;
  bdrv_set_error (error, leaf, VHDKIT_ERROR_PARENT_MISMATCH,
                  "%s is not the parent that it names: identity %s, recorded is %s%s%s", parent->filename,
                  found, first, second != NULL ? " or " : "", second != NULL ? second : "");
  return false;
}

static bool
check_unsafe (const RebaseParams *params, GError **error)
{
  if (!params->unsafe)
    return true;
  if (params->parent == NULL)
    {
      bdrv_set_error (error, params->leaf, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "without a parent it would lose what that shows: this has to be stored first");
      return false;
    }
  return params->ignore_id_mismatch || check_identity (params, error);
}

/* What the format says to it, before anything is stored. */
static bool
check_format (const RebaseParams *params, GError **error)
{
  BlockDriverState *leaf = params->leaf;
  BlockParentChange change = change_of (params);

  return leaf->drv->check_parent_change == NULL || leaf->drv->check_parent_change (leaf, &change, error);
}

Job *
rebase_job_new (AioContext *context, const RebaseParams *params, GError **error)
{
  if (!check_leaf (params, error) || !check_loop (params, error) || !check_format (params, error)
      || !check_unsafe (params, error))
    return NULL;

  Job *job = job_new (&rebase_driver, context, error);
  if (job != NULL)
    ((RebaseJob *)job)->params = *params;
  return job;
}

RebaseStats
rebase_job_get_stats (const Job *job)
{
  return job->driver == &rebase_driver ? ((const RebaseJob *)job)->stats : (RebaseStats){ 0 };
}
