/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Formats as the host sees them, and making images of them.
 *
 * Creating looks before it touches: format, options, parent and the rule that an image is never made over
 * its own parent or an ancestor of it, nor over somebody else's parent, are settled before the file is made or
 * emptied.  A file that was not there before is removed when anything fails after that.
 */
#include "api.h"

#include "siblings.h"

#include <errno.h>
#include <unistd.h>

/* --- formats ------------------------------------------------------------------------------------------- */

static const char *
option_type_name (BlockOptionType type)
{
  static const char *const names[] = {
    [BLOCK_OPTION_STRING] = "string",
    [BLOCK_OPTION_BOOL] = "bool",
    [BLOCK_OPTION_NUMBER] = "number",
    [BLOCK_OPTION_SIZE] = "size",
  };

  return names[type];
}

static VhdkitFormatInfo *
format_info_new (const BlockDriver *drv)
{
  VhdkitFormatInfo *info = g_new0 (VhdkitFormatInfo, 1);
  size_t count = 0;

  while (drv->create_options != NULL && drv->create_options[count].name != NULL)
    count++;
  VhdkitOptionInfo *options = g_new0 (VhdkitOptionInfo, count + 1);
  for (size_t i = 0; i < count; i++)
    options[i] = (VhdkitOptionInfo){
      .name = drv->create_options[i].name,
      .default_value = drv->create_options[i].default_value,
      .help = drv->create_options[i].help,
      .type = option_type_name (drv->create_options[i].type),
    };

  info->name = drv->format_name;
  info->long_name = drv->long_name;
  info->aliases = drv->aliases;
  info->create_options = options;
  info->can_create = drv->co_create != NULL;
  info->can_have_parent = drv->caps & BLOCK_CAP_BACKING;
  return info;
}

/* The list lives as long as the process, since it is handed out; a new one is made when drivers have been
 * registered since. */
const VhdkitFormatInfo *const *
vhdkit_list_formats (void)
{
  static GMutex lock;
  static const VhdkitFormatInfo **formats;
  static size_t drivers_seen;
  const BlockDriver *const *drivers = bdrv_list_drivers ();
  size_t count = 0;

  while (drivers[count] != NULL)
    count++;

  g_mutex_lock (&lock);
  if (formats == NULL || count != drivers_seen)
    {
      const VhdkitFormatInfo **list = g_new0 (const VhdkitFormatInfo *, count + 1);
      size_t n = 0;

      for (size_t i = 0; i < count; i++)
        /* Not those that are only told apart, to be refused. */
        if (drivers[i]->kind == BLOCK_DRIVER_FORMAT
            && (drivers[i]->co_create != NULL || drivers[i]->co_block_status != NULL))
          list[n++] = format_info_new (drivers[i]);
      formats = list;
      drivers_seen = count;
    }
  const VhdkitFormatInfo *const *result = formats;
  g_mutex_unlock (&lock);
  return result;
}

const VhdkitFormatInfo *
vhdkit_find_format (const char *name)
{
  const BlockDriver *drv = bdrv_find_driver (name);

  if (drv == NULL || drv->kind != BLOCK_DRIVER_FORMAT)
    return NULL;
  for (const VhdkitFormatInfo *const *format = vhdkit_list_formats (); *format != NULL; format++)
    if (g_str_equal ((*format)->name, drv->format_name))
      return *format;
  return NULL;
}

/* --- creating ------------------------------------------------------------------------------------------ */

typedef struct
{
  const char *path;
  const VhdkitCreateOptions *options;
  const BlockDriver *drv;
  BlockOptions *format_options;
  int parent_flags; /* BdrvOpenFlags */
  GError **error;
  bool ok;
} CreateCall;

/* The parent as opened, NULL with *failed unset when none is asked for. */
static BlockDriverState *coroutine_fn
create_co_open_parent (CreateCall *call, bool *failed)
{
  const VhdkitCreateOptions *options = call->options;

  *failed = false;
  if (options->parent == NULL)
    return NULL;

  g_autofree char *directory = g_path_get_dirname (call->path);
  g_autofree char *parent_path = g_path_is_absolute (options->parent)
                                     ? g_strdup (options->parent)
                                     : g_build_filename (directory, options->parent, NULL);
  BdrvOpenParams params = {
    .flags = call->parent_flags,
    .format = options->parent_format,
    .confine = options->confine,
    .drive_map = options->drive_map,
  };
  BlockDriverState *parent = bdrv_co_open (parent_path, &params, call->error);

  if (parent == NULL)
    {
      *failed = true;
      g_prefix_error (call->error, "parent of %s: ", call->path);
    }
  return parent;
}

/* Whether no image would be lost with what the file there holds. */
static bool coroutine_fn
create_co_check_children (CreateCall *call, const struct stat *existing)
{
  const VhdkitCreateOptions *options = call->options;
  BdrvOpenParams params = {
    .flags = BDRV_O_NO_BACKING | BDRV_O_FORCE_SHARE | BDRV_O_NO_LOCK | BDRV_O_INCOMPLETE,
    .confine = options->confine,
    .drive_map = options->drive_map,
  };

  if (options->break_children || !S_ISREG (existing->st_mode) || existing->st_size == 0)
    return true;
  BlockDriverState *bs = bdrv_co_open (call->path, &params, NULL);
  bool damaged = bs == NULL;
  /* What is left of an image may be all there is to mend its children's parent from. */
  if (damaged)
    {
      params.format = "raw";
      bs = bdrv_co_open (call->path, &params, NULL);
    }
  if (bs == NULL)
    return true;
  bool ok = siblings_co_check_overwritten (NULL, bs, damaged, &params, options->ignore_unknown, call->error);
  bdrv_co_unref (bs);
  return ok;
}

static bool coroutine_fn
create_co_with_parent (CreateCall *call, BlockDriverState *parent)
{
  const VhdkitCreateOptions *options = call->options;
  struct stat existing;
  bool exists = stat (call->path, &existing) == 0;

  if (exists && parent != NULL)
    {
      int depth = api_find_layer (parent, &existing);

      if (depth >= 0)
        {
          g_set_error (call->error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                       "%s: cannot be made over %s, which is %s", call->path,
                       bdrv_chain_get (parent, depth)->filename,
                       depth == 0 ? "its parent" : "an ancestor of its parent");
          return false;
        }
    }
  if (exists && !create_co_check_children (call, &existing))
    return false;

  BdrvOpenParams file_params = {
    .flags = BDRV_O_RDWR,
    .confine = options->confine,
    .drive_map = options->drive_map,
  };
  BlockDriverState *file = bdrv_co_create_file (call->path, &file_params, call->error);
  if (file == NULL)
    return false;

  g_autofree char *host_path = g_strdup (bdrv_get_host_path (file));
  BlockCreateParams params = {
    .bytes = options->bytes >= 0 ? options->bytes : bdrv_length (parent),
    .options = call->format_options,
    .child_path = host_path,
    .parent = parent,
    .parent_path = parent != NULL ? bdrv_get_host_path (parent) : NULL,
    .parent_name = options->parent,
    .incomplete = options->incomplete,
  };
  bool ok = bdrv_co_create (call->drv, file, &params, call->error);
  int ret = bdrv_co_unref (file);

  if (ok && ret < 0)
    {
      g_set_error (call->error, VHDKIT_ERROR, ret == -ENOSPC ? VHDKIT_ERROR_NO_SPACE : VHDKIT_ERROR_IO,
                   "%s: writing back at close: %s", call->path, g_strerror (-ret));
      ok = false;
    }
  if (!ok && !exists && host_path != NULL)
    unlink (host_path);
  return ok;
}

static void coroutine_fn
create_call_entry (void *opaque)
{
  CreateCall *call = opaque;
  bool failed;
  BlockDriverState *parent = create_co_open_parent (call, &failed);

  if (failed)
    return;
  call->ok = create_co_with_parent (call, parent);
  if (parent != NULL)
    bdrv_co_unref (parent);
}

static bool
create_check_options (const VhdkitCreateOptions *options, const char *path, const BlockDriver *drv,
                      GError **error)
{
  if (drv == NULL || drv->kind != BLOCK_DRIVER_FORMAT)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND, "%s: unknown format \"%s\"", path,
                   options->format != NULL ? options->format : "");
      return false;
    }
  if (drv->co_create == NULL)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "%s: images of format %s cannot be made",
                   path, drv->format_name);
      return false;
    }
  if (options->parent != NULL && !(drv->caps & BLOCK_CAP_BACKING))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "%s: images of format %s have no parent",
                   path, drv->format_name);
      return false;
    }
  if (options->bytes < 0 && (options->bytes != -1 || options->parent == NULL))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "%s: a size of %" G_GINT64_FORMAT " bytes%s", path, options->bytes,
                   options->parent == NULL ? " and no parent to take one from" : "");
      return false;
    }
  return true;
}

bool
vhdkit_image_create (VhdkitContext *context, const char *path, const VhdkitCreateOptions *options,
                     GError **error)
{
  VhdkitCreateOptions own;
  CreateCall call = { .path = path, .options = &own, .error = error };

  if (!api_copy_options (&own, sizeof own, options, "VhdkitCreateOptions", error)
      || !api_check_reserved (own.reserved, sizeof own.reserved, "VhdkitCreateOptions", error))
    return false;
  call.drv = own.format != NULL ? bdrv_find_driver (own.format) : NULL;
  if (!create_check_options (&own, path, call.drv, error)
      || !api_open_flags (own.parent_flags | VHDKIT_OPEN_RAW_PARENT, &call.parent_flags, error))
    return false;
  if (call.parent_flags & BDRV_O_RDWR)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "%s: a parent is opened read-only",
                   path);
      return false;
    }

  g_autoptr (BlockOptions) format_options =
      block_options_parse (call.drv->create_options, own.format_options, error);
  if (format_options == NULL)
    {
      g_prefix_error (error, "%s: ", path);
      return false;
    }
  call.format_options = format_options;

  context = api_context_resolve (context, error);
  if (context == NULL)
    return false;
  api_run_sync (context, create_call_entry, &call);
  return call.ok;
}
