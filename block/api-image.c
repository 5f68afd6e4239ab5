/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images: opening and closing a chain, what is where in it, facts about its layers, resizing, checking.
 */
#include "api.h"

#include <errno.h>
#include <sys/stat.h>

/* --- opening and closing ------------------------------------------------------------------------------- */

static const struct
{
  unsigned public_flag;
  int flag;
} open_flags[] = {
  { VHDKIT_OPEN_RDWR, BDRV_O_RDWR },
  { VHDKIT_OPEN_NO_PARENTS, BDRV_O_NO_BACKING },
  { VHDKIT_OPEN_FORCE_SHARE, BDRV_O_FORCE_SHARE },
  { VHDKIT_OPEN_NO_LOCK, BDRV_O_NO_LOCK },
  { VHDKIT_OPEN_RAW_PARENT, BDRV_O_RAW_PARENT },
  { VHDKIT_OPEN_CHECK, BDRV_O_CHECK },
  { VHDKIT_OPEN_EXAMINE, BDRV_O_EXAMINE },
  { VHDKIT_OPEN_INCOMPLETE, BDRV_O_INCOMPLETE },
};

bool
api_open_flags (unsigned flags, int *bdrv_flags, GError **error)
{
  unsigned known = 0;

  *bdrv_flags = 0;
  for (size_t i = 0; i < G_N_ELEMENTS (open_flags); i++)
    {
      known |= open_flags[i].public_flag;
      if (flags & open_flags[i].public_flag)
        *bdrv_flags |= open_flags[i].flag;
    }
  if (flags & ~known)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "unknown open flags 0x%x", flags & ~known);
      return false;
    }
  if ((flags & VHDKIT_OPEN_RDWR) && (flags & VHDKIT_OPEN_FORCE_SHARE))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "an image that another process may be writing can only be opened read-only");
      return false;
    }
  return true;
}

static bool
open_params_init (BdrvOpenParams *params, const VhdkitOpenOptions *options, GError **error)
{
  *params = (BdrvOpenParams){
    .format = options->format,
    .format_options = options->format_options,
    .parent = options->parent,
    .parent_format = options->parent_format,
    .confine = options->confine,
    .drive_map = options->drive_map,
    .filters = options->filters,
  };
  if (!api_open_flags (options->flags, &params->flags, error))
    return false;

  switch (options->cache)
    {
    case VHDKIT_CACHE_WRITEBACK:
    case VHDKIT_CACHE_WRITETHROUGH:
      break;
    case VHDKIT_CACHE_NONE:
    case VHDKIT_CACHE_DIRECTSYNC:
      params->flags |= BDRV_O_DIRECT;
      break;
    case VHDKIT_CACHE_UNSAFE:
      params->flags |= BDRV_O_NO_FLUSH;
      break;
    default:
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "unknown cache mode %d",
                   (int)options->cache);
      return false;
    }

  if (options->aio != NULL)
    {
      if (!aio_engine_from_name (options->aio, &params->engine))
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "unknown aio engine \"%s\"",
                       options->aio);
          return false;
        }
      if (!aio_engine_available (params->engine))
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                       "aio engine \"%s\" is not available here", options->aio);
          return false;
        }
      params->has_engine = true;
    }
  return true;
}

typedef struct
{
  const char *path;
  BdrvOpenParams params;
  BlockDriverState *bs;
  GError **error;
} OpenCall;

static void coroutine_fn
open_call_entry (void *opaque)
{
  OpenCall *call = opaque;

  call->bs = bdrv_co_open (call->path, &call->params, call->error);
}

VhdkitImage *
vhdkit_image_open (VhdkitContext *context, const char *path, const VhdkitOpenOptions *options, GError **error)
{
  VhdkitOpenOptions own;
  OpenCall call = { .path = path, .error = error };

  if (!api_copy_options (&own, sizeof own, options, "VhdkitOpenOptions", error)
      || !open_params_init (&call.params, &own, error))
    return NULL;
  context = api_context_resolve (context, error);
  if (context == NULL)
    return NULL;

  api_run_sync (context, open_call_entry, &call);
  if (call.bs == NULL)
    return NULL;

  VhdkitImage *image = g_new0 (VhdkitImage, 1);
  image->context = context;
  image->bs = call.bs;
  image->confine = g_strdup (own.confine);
  image->drive_map = g_strdupv ((char **)own.drive_map);
  image->filters = g_strdupv ((char **)own.filters);
  co_queue_init (&image->changes_ended);
  image->write_through = own.cache == VHDKIT_CACHE_WRITETHROUGH || own.cache == VHDKIT_CACHE_DIRECTSYNC;
  return image;
}

typedef struct
{
  VhdkitImage *image;
  GError **error;
  bool ok;
} CloseCall;

static void coroutine_fn
close_call_entry (void *opaque)
{
  CloseCall *call = opaque;
  g_autofree char *filename = g_strdup (call->image->bs->filename);
  int ret = bdrv_co_unref (call->image->bs);

  call->ok = ret == 0;
  if (!call->ok)
    g_set_error (call->error, VHDKIT_ERROR, ret == -ENOSPC ? VHDKIT_ERROR_NO_SPACE : VHDKIT_ERROR_IO,
                 "%s: writing back at close: %s", filename, g_strerror (-ret));
}

bool
vhdkit_image_close (VhdkitImage *image, GError **error)
{
  CloseCall call = { .image = image, .error = error };

  if (image == NULL)
    return true;
  api_run_sync (image->context, close_call_entry, &call);
  co_queue_clear (&image->changes_ended);
  g_free (image->confine);
  g_strfreev (image->drive_map);
  g_strfreev (image->filters);
  g_free (image);
  return call.ok;
}

int64_t
vhdkit_image_get_size (VhdkitImage *image)
{
  return bdrv_length (image->bs);
}

bool
vhdkit_image_is_read_only (VhdkitImage *image)
{
  return image->bs->read_only;
}

/* --- resizing ------------------------------------------------------------------------------------------ */

typedef struct
{
  VhdkitImage *image;
  int64_t bytes;
  GError **error;
  bool ok;
} TruncateCall;

static void coroutine_fn
truncate_call_entry (void *opaque)
{
  TruncateCall *call = opaque;

  api_change_begin (call->image);
  call->ok = bdrv_co_truncate (call->image->bs, call->bytes, call->error);
  api_change_end (call->image);
}

bool
vhdkit_image_truncate (VhdkitImage *image, int64_t bytes, GError **error)
{
  TruncateCall call = { .image = image, .bytes = bytes, .error = error };

  if (bytes < 0)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_INVALID_ARGUMENT, "a size of %" G_GINT64_FORMAT " bytes",
                      bytes);
      return false;
    }
  if (image->bs->read_only)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_READ_ONLY, "cannot be resized: opened read-only");
      return false;
    }
  if (image->jobs > 0)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_IN_USE, "cannot be resized while a job runs on it");
      return false;
    }
  api_run_sync (image->context, truncate_call_entry, &call);
  return call.ok;
}

/* --- what is where ------------------------------------------------------------------------------------- */

typedef struct
{
  VhdkitImage *image;
  int64_t offset, bytes;
  int64_t pnum, map;
  BlockDriverState *file;
  int depth;
  int ret;
} ExtentCall;

static void coroutine_fn
extent_call_entry (void *opaque)
{
  ExtentCall *call = opaque;

  call->ret = bdrv_co_block_status_above (call->image->bs, NULL, call->offset, call->bytes, &call->pnum,
                                          &call->map, &call->file, &call->depth);
}

int
vhdkit_image_get_extent (VhdkitImage *image, int64_t offset, int64_t bytes, VhdkitExtent *extent)
{
  int64_t length = bdrv_length (image->bs);

  if (offset < 0 || bytes <= 0 || offset >= length)
    return -EINVAL;

  ExtentCall call = { .image = image, .offset = offset, .bytes = MIN (bytes, length - offset) };
  api_run_sync (image->context, extent_call_entry, &call);
  if (call.ret < 0)
    return call.ret;

  bool present = call.ret & BDRV_BLOCK_ALLOCATED;
  bool has_file_offset = (call.ret & BDRV_BLOCK_OFFSET_VALID) && call.file != NULL;
  *extent = (VhdkitExtent){
    .offset = offset,
    .bytes = call.pnum,
    .data = call.ret & BDRV_BLOCK_DATA,
    .zero = !present || (call.ret & BDRV_BLOCK_ZERO),
    .present = present,
    .depth = present ? call.depth : 0,
    .has_file_offset = has_file_offset,
    .file_offset = has_file_offset ? call.map : 0,
    .filename = has_file_offset ? call.file->filename : NULL,
  };
  return 0;
}

/* --- layers -------------------------------------------------------------------------------------------- */

int
vhdkit_image_get_depth (VhdkitImage *image)
{
  return bdrv_chain_depth (image->bs);
}

typedef struct
{
  BlockDriverState *bs;
  int64_t allocated_size;
} AllocatedSizeCall;

static void coroutine_fn
allocated_size_call_entry (void *opaque)
{
  AllocatedSizeCall *call = opaque;

  call->allocated_size = bdrv_co_get_allocated_size (call->bs);
}

static GVariant *
parent_candidates_variant (const GPtrArray *candidates)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE ("aa{sv}"));
  for (guint i = 0; i < candidates->len; i++)
    {
      const BdrvParentCandidate *candidate = g_ptr_array_index (candidates, i);

      g_variant_builder_open (&builder, G_VARIANT_TYPE_VARDICT);
      g_variant_builder_add (&builder, "{sv}", "origin", g_variant_new_string (candidate->origin));
      g_variant_builder_add (&builder, "{sv}", "name",
                             g_variant_new_take_string (g_utf8_make_valid (candidate->name, -1)));
      if (candidate->path != NULL)
        g_variant_builder_add (&builder, "{sv}", "path",
                               g_variant_new_take_string (g_filename_display_name (candidate->path)));
      g_variant_builder_add (&builder, "{sv}", "fits", g_variant_new_boolean (candidate->reason == NULL));
      if (candidate->reason != NULL)
        g_variant_builder_add (&builder, "{sv}", "reason",
                               g_variant_new_take_string (g_utf8_make_valid (candidate->reason, -1)));
      g_variant_builder_close (&builder);
    }
  return g_variant_ref_sink (g_variant_builder_end (&builder));
}

/* An integer of a driver's facts, whatever its width. */
static int64_t
lookup_integer (GVariant *facts, const char *name)
{
  g_autoptr (GVariant) value = g_variant_lookup_value (facts, name, NULL);

  if (value == NULL)
    return 0;
  switch (g_variant_classify (value))
    {
    case G_VARIANT_CLASS_INT32:
      return g_variant_get_int32 (value);
    case G_VARIANT_CLASS_UINT32:
      return g_variant_get_uint32 (value);
    case G_VARIANT_CLASS_INT64:
      return g_variant_get_int64 (value);
    case G_VARIANT_CLASS_UINT64:
      return (int64_t)g_variant_get_uint64 (value);
    default:
      return 0;
    }
}

bool
vhdkit_image_get_layer_info (VhdkitImage *image, int layer, VhdkitLayerInfo *info, GError **error)
{
  BlockDriverState *bs = layer >= 0 ? bdrv_chain_get (image->bs, layer) : NULL;
  gboolean dirty = FALSE;

  if (bs == NULL)
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_NOT_FOUND, "no layer %d: the chain has %d", layer,
                      bdrv_chain_depth (image->bs));
      return false;
    }

  AllocatedSizeCall call = { .bs = bs };
  api_run_sync (image->context, allocated_size_call_entry, &call);

  *info = (VhdkitLayerInfo){
    .filename = g_strdup (bs->filename),
    .format = g_strdup (bs->drv->format_name),
    .parent_name = bdrv_get_parent_name (bs),
    .parent_filename = bs->backing != NULL ? g_strdup (bs->backing->filename) : NULL,
    .parent_format = bs->backing != NULL ? g_strdup (bs->backing->drv->format_name) : NULL,
    .virtual_size = bdrv_length (bs),
    .file_size = bdrv_length (bdrv_protocol_node (bs)),
    .allocated_size = call.allocated_size >= 0 ? call.allocated_size : -1,
  };
  if (bs->drv->get_specific_info != NULL)
    {
      GVariant *facts = bs->drv->get_specific_info (bs);

      if (facts != NULL)
        {
          info->format_specific = g_variant_ref_sink (facts);
          info->block_size = lookup_integer (facts, "block-size");
          g_variant_lookup (facts, "dirty", "b", &dirty);
          info->dirty = dirty;
        }
    }

  const GPtrArray *candidates = bdrv_get_parent_candidates (bs);
  if (candidates != NULL)
    info->parent_candidates = parent_candidates_variant (candidates);

  info->change_tracking_files = bdrv_find_change_tracking (bs);
  return true;
}

void
vhdkit_layer_info_clear (VhdkitLayerInfo *info)
{
  g_free (info->filename);
  g_free (info->format);
  g_free (info->parent_name);
  g_free (info->parent_filename);
  g_free (info->parent_format);
  g_clear_pointer (&info->format_specific, g_variant_unref);
  g_clear_pointer (&info->parent_candidates, g_variant_unref);
  g_strfreev (info->change_tracking_files);
  *info = (VhdkitLayerInfo){ 0 };
}

char **
vhdkit_image_get_warnings (VhdkitImage *image, int layer)
{
  BlockDriverState *bs = layer >= 0 ? bdrv_chain_get (image->bs, layer) : NULL;
  const GPtrArray *warnings = bs != NULL ? bdrv_get_warnings (bs) : NULL;
  guint count = warnings != NULL ? warnings->len : 0;
  char **lines = g_new0 (char *, count + 1);

  for (guint i = 0; i < count; i++)
    {
      const char *text = g_ptr_array_index (warnings, i);

      lines[i] = strstr (text, bs->filename) != NULL ? g_strdup (text)
                                                     : g_strdup_printf ("%s: %s", bs->filename, text);
    }
  return lines;
}

bool
api_same_host_file (const struct stat *a, const struct stat *b)
{
  if (S_ISBLK (a->st_mode) && S_ISBLK (b->st_mode))
    return a->st_rdev == b->st_rdev;
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int
api_find_layer (BlockDriverState *bs, const struct stat *file)
{
  struct stat layer;

  for (int depth = 0; bs != NULL; bs = bs->backing, depth++)
    {
      const char *host_path = bdrv_get_host_path (bs);

      if (host_path != NULL && stat (host_path, &layer) == 0 && api_same_host_file (&layer, file))
        return depth;
    }
  return -1;
}

int
vhdkit_image_find_layer (VhdkitImage *image, const char *path)
{
  struct stat file;

  if (stat (path, &file) < 0)
    return -1;
  return api_find_layer (image->bs, &file);
}

/* --- check --------------------------------------------------------------------------------------------- */

typedef struct
{
  BlockCheckResult result;
  VhdkitImage *image;
  bool fix;
  void (*finding) (void *opaque, VhdkitCheckSeverity severity, const char *text);
  void *opaque;
  GError **error;
  bool ok;
} CheckCall;

static void
check_report (BlockCheckResult *result, BlockCheckSeverity severity, const char *text)
{
  static const VhdkitCheckSeverity severities[] = {
    [BLOCK_CHECK_INFO] = VHDKIT_CHECK_INFO,
    [BLOCK_CHECK_WARNING] = VHDKIT_CHECK_WARNING,
    [BLOCK_CHECK_LEAK] = VHDKIT_CHECK_LEAK,
    [BLOCK_CHECK_ERROR] = VHDKIT_CHECK_ERROR,
  };
  CheckCall *call = result->opaque;

  if (call->finding != NULL)
    call->finding (call->opaque, severities[severity], text);
}

static void coroutine_fn
check_call_entry (void *opaque)
{
  CheckCall *call = opaque;
  BlockDriverState *bs = call->image->bs;

  /* What a repair gives back is found out before it goes: nobody may take it in between. */
  if (call->fix)
    {
      call->image->jobs++;
      api_co_changes_end (call->image);
    }
  call->ok = bs->drv->co_check (bs, &call->result, call->fix, call->error);
  if (call->fix)
    call->image->jobs--;
}

bool
vhdkit_image_check (VhdkitImage *image, bool fix, VhdkitCheckResult *result,
                    void (*finding) (void *opaque, VhdkitCheckSeverity severity, const char *text),
                    void *opaque, GError **error)
{
  BlockDriverState *bs = image->bs;
  CheckCall call = { .image = image, .fix = fix, .finding = finding, .opaque = opaque, .error = error };

  *result = (VhdkitCheckResult){ 0 };
  if (bs->drv->co_check == NULL)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "the format %s has nothing that could be checked",
                      bs->drv->format_name);
      return false;
    }
  if (fix && bs->read_only)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "cannot be repaired: opened read-only");
      return false;
    }
  if (fix && image->jobs > 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_IN_USE, "cannot be repaired while a job runs on it");
      return false;
    }

  call.result.report = check_report;
  call.result.opaque = &call;
  api_run_sync (image->context, check_call_entry, &call);
  *result = (VhdkitCheckResult){
    .corruptions = call.result.corruptions,
    .leaks = call.result.leaks,
    .check_errors = call.result.check_errors,
    .corruptions_fixed = call.result.corruptions_fixed,
    .leaks_fixed = call.result.leaks_fixed,
    .total_blocks = call.result.total_blocks,
    .allocated_blocks = call.result.allocated_blocks,
    .fragmented_blocks = call.result.fragmented_blocks,
    .image_end_offset = call.result.image_end_offset,
  };
  return call.ok;
}
