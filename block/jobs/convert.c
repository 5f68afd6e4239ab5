/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convert: copy what one image shows into another.
 *
 * Ranges known to read as zeros are not read.  Whether zeros are written is up to the target: not at all
 * where it shows zeros anyway, as a zero state or hole where it can, as data when the caller wants everything
 * written out (sparse_bytes 0).
 *
 * Above a parent of the target only what differs from the parent is written.  If the parent is one of the
 * source's own layers, allocation above it tells what may differ; else contents are compared.
 *
 * A target that other images have as their parent is not written; one that is new has none, whatever lies beside it.
 *
 * The target holds garbage until the job has succeeded; a target that was made incomplete becomes an image at the
 * very end, when all it holds is durable.
 */
#include "convert.h"

#include "copy.h"
#include "siblings.h"

#include <errno.h>
#include <string.h>

#define CONVERT_DEFAULT_PARALLEL 8
/* Zero ranges are handled in pieces so long, to look at the job's flags in between. */
#define CONVERT_ZERO_BYTES (INT64_C (1) << 30)
/* The same where the target shows zeros without being touched. */
#define CONVERT_EMPTY_BYTES (INT64_C (1) << 37)
/* Contents are compared with the parent's in pieces of this size, found different in units of that one. */
#define COMPARE_BYTES (64 * 1024)
#define COMPARE_UNIT  4096

typedef struct
{
  Job job;
  ConvertParams params;
  CopyCursor cursor;
  int64_t planned; /* guest bytes passed by the planner */
  bool by_content; /* compare with the target's parent */
} ConvertJob;

static int64_t
max_zero_bytes (const CopyEngine *engine)
{
  if (engine->sparse_bytes == 0)
    return engine->max_item_bytes;
  return engine->target_is_zero ? CONVERT_EMPTY_BYTES : CONVERT_ZERO_BYTES;
}

static int coroutine_fn
convert_co_next (CopyEngine *engine, CopyItem *item)
{
  ConvertJob *convert = engine->opaque;
  int ret =
      copy_cursor_co_next (&convert->cursor, engine, engine->max_item_bytes, max_zero_bytes (engine), item);

  if (ret < 0)
    return copy_fail (engine, convert->cursor.failed, "look-up of the allocation", convert->cursor.offset,
                      convert->cursor.end - convert->cursor.offset, ret);
  /* Ranges left to the target's parent are done without having been items. */
  int64_t item_offset = ret > 0 ? item->offset : convert->cursor.end;
  job_progress_add (&convert->job, item_offset - convert->planned);
  convert->planned = ret > 0 ? item->offset + item->bytes : convert->cursor.end;
  if (ret > 0 && item->zero && engine->sparse_bytes == 0)
    {
      item->zero = false;
      item->file = NULL;
    }
  return ret;
}

/* Writes those units of the piece that are not what the target's parent shows. */
static int coroutine_fn
convert_co_write_piece (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf,
                        const uint8_t *parent)
{
  int64_t pos = 0;
  int ret = 0;

  while (ret == 0 && pos < bytes)
    {
      int64_t start = pos;
      int64_t unit;

      while (pos < bytes
             && (unit = MIN (COMPARE_UNIT, bytes - pos), memcmp (buf + pos, parent + pos, (size_t)unit) != 0))
        pos += unit;
      if (pos > start)
        ret = copy_co_write_sparse (engine, offset + start, pos - start, buf + start);
      else
        pos += MIN (COMPARE_UNIT, bytes - pos);
    }
  return ret;
}

static int coroutine_fn
convert_co_write_different (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf)
{
  BlockDriverState *parent = engine->target->backing;
  uint8_t *shown = bdrv_try_alloc_buffer (parent, COMPARE_BYTES);
  int ret = 0;

  if (shown == NULL)
    return copy_fail (engine, parent, "buffer for the read", offset, bytes, -ENOMEM);
  for (int64_t pos = 0; ret == 0 && pos < bytes; pos += COMPARE_BYTES)
    {
      int64_t n = MIN (COMPARE_BYTES, bytes - pos);

      /* Past the parent's end: zeros. */
      ret = bdrv_co_pread (parent, offset + pos, n, shown);
      if (ret < 0)
        copy_fail (engine, parent, "read", offset + pos, n, ret);
      else
        ret = convert_co_write_piece (engine, offset + pos, n, buf + pos, shown);
    }
  bdrv_free_buffer (shown);
  return ret;
}

/* A file below which the chains part (its parent was found in two places) shows two things. */
static bool
is_same_chain (const BlockDriverState *a, const BlockDriverState *b)
{
  while (a != NULL && b != NULL && bdrv_same_image (a, b))
    {
      a = a->backing;
      b = b->backing;
    }
  return a == NULL && b == NULL;
}

/* The layer of the source that is the target's parent, or NULL. */
static BlockDriverState *
find_common_parent (const ConvertParams *params)
{
  BlockDriverState *layer = params->source;

  while (layer != NULL && !is_same_chain (layer, params->target->backing))
    layer = layer->backing;
  return layer;
}

/* What the target's parent shows behind the end of the source, where the target is longer. */
static int coroutine_fn
convert_co_hide_rest (CopyEngine *engine)
{
  int64_t from = bdrv_length (engine->source);
  int64_t to = MIN (bdrv_length (engine->target), bdrv_length (engine->target->backing));

  return to > from ? copy_co_zero_visible (engine, from, to - from) : 0;
}

static bool coroutine_fn
convert_co_check_children (Job *job, const ConvertParams *params, GError **error)
{
  return params->break_children
         || siblings_co_check_overwritten (job, params->target, false, &params->places,
                                           params->ignore_unknown || params->target_is_zero, error);
}

static bool coroutine_fn
convert_co_run (Job *job, GError **error)
{
  ConvertJob *convert = (ConvertJob *)job;
  const ConvertParams *params = &convert->params;
  int64_t length = bdrv_length (params->source);
  CopyEngine engine = {
    .job = job,
    .source = params->source,
    .target = params->target,
    .workers = params->parallel > 0 ? params->parallel : CONVERT_DEFAULT_PARALLEL,
    .in_order = params->in_order,
    .share_extents = params->copy_range,
    .sparse_bytes = params->sparse_bytes,
    .opaque = convert,
    .co_next = convert_co_next,
    .target_is_zero = params->target_is_zero && params->target->backing == NULL,
    .co_zero = copy_co_zero_visible,
  };

  if (!convert_co_check_children (job, params, error))
    return false;
  convert->cursor = (CopyCursor){ .source = params->source, .end = length, .all = true };
  if (params->above_target_parent)
    {
      convert->cursor.base = find_common_parent (params);
      convert->cursor.all = convert->cursor.base == NULL;
      convert->by_content = convert->cursor.base == NULL;
    }
  if (convert->by_content)
    {
      engine.co_write = convert_co_write_different;
      engine.share_extents = false;
    }

  job_progress_add_total (job, length);
  /* The target's parent itself: nothing can differ. */
  int ret = convert->cursor.base != params->source ? copy_co_run (&engine) : 0;
  copy_cursor_clear (&convert->cursor);
  if (ret == 0 && params->above_target_parent)
    ret = convert_co_hide_rest (&engine);
  if (ret < 0)
    {
      copy_set_error (&engine, error);
      g_prefix_error (error, "converting %s to %s: ", params->source->filename, params->target->filename);
      return false;
    }
  return bdrv_co_complete (params->target, error);
}

static const JobDriver convert_driver = {
  .instance_size = sizeof (ConvertJob),
  .verb = "convert",
  .co_run = convert_co_run,
};

static bool
convert_check_params (const ConvertParams *params, GError **error)
{
  BlockDriverState *source = params->source, *target = params->target;

  if (target->read_only)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_READ_ONLY, "cannot be converted to: opened read-only");
      return false;
    }
  if (bdrv_length (target) < bdrv_length (source))
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "has %" G_GINT64_FORMAT " bytes, %s needs %" G_GINT64_FORMAT, bdrv_length (target),
                      source->filename, bdrv_length (source));
      return false;
    }
  if (bdrv_lacks_parent (target) || bdrv_lacks_parent (source))
    {
      bdrv_set_error (error, bdrv_lacks_parent (target) ? target : source, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "what its parents show is not known: opened without them");
      return false;
    }
  if (!copy_check_workers (target, params->parallel, error))
    return false;
  if (params->sparse_bytes < 0 || params->sparse_bytes % BDRV_SECTOR_SIZE != 0)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "runs of %" G_GINT64_FORMAT " zero bytes: not a multiple of %d", params->sparse_bytes,
                      BDRV_SECTOR_SIZE);
      return false;
    }
  if (params->above_target_parent && target->backing == NULL)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_INVALID_ARGUMENT, "has no parent to be written above of");
      return false;
    }
  for (BlockDriverState *layer = source; layer != NULL; layer = layer->backing)
    if (bdrv_same_file (layer, target))
      {
        bdrv_set_error (error, target, VHDKIT_ERROR_INVALID_ARGUMENT, "is the source or one of its parents");
        return false;
      }
  return true;
}

Job *
convert_job_new (AioContext *context, const ConvertParams *params, GError **error)
{
  if (!convert_check_params (params, error))
    return NULL;
  Job *job = job_new (&convert_driver, context, error);
  if (job != NULL)
    ((ConvertJob *)job)->params = *params;
  return job;
}
