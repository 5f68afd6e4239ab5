/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a host path to a protocol node with its filters: what kind of file it is, and whether it may be opened
 * at all. */
#include "core-int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void
bdrv_file_key_from_stat (BdrvFileKey *key, const struct stat *st)
{
  bool device = S_ISBLK (st->st_mode);

  /* A device may have several nodes in several places: its number tells. */
  key->id[0] = device ? UINT64_MAX : st->st_dev;
  key->id[1] = device ? st->st_rdev : st->st_ino;
}

static guint
file_key_hash (gconstpointer data)
{
  const BdrvFileKey *key = data;

  return (guint)(key->id[0] * 31 + key->id[1] * UINT64_C (0x9e3779b97f4a7c15) + (key->id[1] >> 32));
}

static gboolean
file_key_equal (gconstpointer a, gconstpointer b)
{
  return memcmp (a, b, sizeof (BdrvFileKey)) == 0;
}

GHashTable *
bdrv_file_key_set_new (void)
{
  return g_hash_table_new_full (file_key_hash, file_key_equal, g_free, NULL);
}

bool
bdrv_file_key_of_node (const BlockDriverState *bs, BdrvFileKey *key)
{
  BlockDriverState *file = bdrv_protocol_node ((BlockDriverState *)bs);

  return file->drv->get_host_id && file->drv->get_host_id (file, key->id);
}

static const char *
file_type_name (mode_t mode)
{
  switch (mode & S_IFMT)
    {
    case S_IFDIR:
      return "a directory";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    default:
      return "of unknown type";
    }
}

/* The resolved path, to be freed with free (), or NULL. */
static char *
resolve (const char *path, const char *what, GError **error)
{
  char *resolved = realpath (path, NULL);

  if (!resolved)
    {
      int err = errno;
      bdrv_set_path_error (error, path, bdrv_error_code_from_errno (err), err, "%s", what);
    }
  return resolved;
}

bool
bdrv_check_confined (const char *path, const char *confine, GError **error)
{
  char *dir = resolve (confine, "cannot find the directory that files must be below", error);
  char *file = dir ? resolve (path, "cannot be found", error) : NULL;
  bool below = false;

  if (file)
    {
      size_t len = strlen (dir);
      while (len > 0 && dir[len - 1] == '/')
        len--;
      below = strncmp (file, dir, len) == 0 && (file[len] == '/' || file[len] == '\0');
      if (!below)
        bdrv_set_path_error (error, path, VHDKIT_ERROR_PERMISSION, 0, "is outside of %s", dir);
    }
  free (dir);
  free (file);
  return below;
}

bool
bdrv_check_path (const char *path, BdrvNamedBy named_by, const char *confine, struct stat *st, GError **error)
{
  if (path[0] == '\0')
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND, "the file name is empty");
      return false;
    }
  if (stat (path, st) < 0)
    {
      int err = errno;
      bdrv_set_path_error (error, path, bdrv_error_code_from_errno (err), err, "cannot be opened");
      return false;
    }
  bool allowed = S_ISREG (st->st_mode) || (S_ISBLK (st->st_mode) && named_by == BDRV_NAMED_BY_USER);
  if (!allowed)
    {
      VhdkitError code =
          named_by == BDRV_NAMED_BY_USER ? VHDKIT_ERROR_INVALID_ARGUMENT : VHDKIT_ERROR_PERMISSION;
      bdrv_set_path_error (error, path, code, 0, "is %s, expected a regular file%s",
                           file_type_name (st->st_mode),
                           named_by == BDRV_NAMED_BY_USER ? " or a block device" : "");
      return false;
    }
  return !confine || bdrv_check_confined (path, confine, error);
}

static bool
driver_has_option (const BlockDriver *drv, const char *name)
{
  for (const BlockOptionDef *def = drv->open_options; def && def->name; def++)
    if (strcmp (def->name, name) == 0)
      return true;
  return false;
}

static BlockOptions *
protocol_options (const BlockDriver *drv, const char *path, const BdrvOpenParams *params, GError **error)
{
  g_autoptr (GPtrArray) options = g_ptr_array_new_with_free_func (g_free);

  if (params->has_engine && driver_has_option (drv, "aio"))
    g_ptr_array_add (options, g_strconcat ("aio=", aio_engine_name (params->engine), NULL));
  if (params->confine)
    {
      if (!driver_has_option (drv, "confine"))
        {
          bdrv_set_path_error (error, path, VHDKIT_ERROR_PERMISSION, 0,
                               "a %s cannot be confined to a directory", drv->format_name);
          return NULL;
        }
      g_ptr_array_add (options, g_strconcat ("confine=", params->confine, NULL));
    }
  g_ptr_array_add (options, NULL);
  return block_options_parse (drv->open_options, (const char *const *)options->pdata, error);
}

static const BlockDriver *
find_protocol (const struct stat *st, const char *path, GError **error)
{
  const char *name = S_ISBLK (st->st_mode) ? "host_device" : "file";
  const BlockDriver *drv = bdrv_find_driver (name);

  if (!drv || drv->kind != BLOCK_DRIVER_PROTOCOL)
    {
      bdrv_set_path_error (error, path, VHDKIT_ERROR_UNSUPPORTED, 0, "no driver for %s",
                           S_ISBLK (st->st_mode) ? "block devices" : "files");
      return NULL;
    }
  return drv;
}

/* Puts the filter "driver,name=value,…" on top of @file, whose reference it takes, even on failure. */
static BlockDriverState *coroutine_fn
co_open_filter (BlockDriverState *file, const char *filter, int flags, GError **error)
{
  g_auto (GStrv) words = bdrv_split_options (filter);
  const BlockDriver *drv = bdrv_find_driver (words[0]);
  g_autoptr (BlockOptions) options = NULL;

  if (drv && drv->kind == BLOCK_DRIVER_FILTER)
    options = block_options_parse (drv->open_options, (const char *const *)words + 1, error);
  else
    {
      g_autofree char *shown = bdrv_printable (words[0]);
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND, "there is no filter named '%s'", shown);
    }
  if (!options)
    {
      g_prefix_error (error, "filter '%s': ", filter);
      bdrv_co_unref (file);
      return NULL;
    }

  BlockDriverState *bs = bdrv_node_new (drv, file->filename, flags, file);
  return bdrv_co_node_open (bs, options, error) ? bs : NULL;
}

BlockDriverState *coroutine_fn
bdrv_co_open_protocol (const char *path, const struct stat *st, int flags, const BdrvOpenParams *params,
                       GError **error)
{
  const BlockDriver *drv = find_protocol (st, path, error);
  g_autoptr (BlockOptions) options = drv ? protocol_options (drv, path, params, error) : NULL;

  if (!options)
    return NULL;
  BlockDriverState *bs = bdrv_node_new (drv, path, flags, NULL);
  if (!bdrv_co_node_open (bs, options, error))
    return NULL;
  for (const char *const *filter = params->filters; bs && filter && *filter; filter++)
    bs = co_open_filter (bs, *filter, flags, error);
  return bs;
}
