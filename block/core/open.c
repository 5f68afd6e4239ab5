/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening one image: protocol, filters, format; then, through chain.c, its parents. */
#include "core-int.h"

#include <errno.h>
#include <string.h>

#define PROBE_HEAD_BYTES 4096
#define PROBE_TAIL_BYTES 8192

static bool
driver_is_named (const BlockDriver *drv, const char *const *names)
{
  for (; *names; names++)
    if (bdrv_find_driver (*names) == drv)
      return true;
  return false;
}

bool coroutine_fn
bdrv_co_probe (BlockDriverState *file, const char *const *formats, const BlockDriver **drv, GError **error)
{
  int64_t bytes = bdrv_length (file);
  size_t head_bytes = MIN (bytes, PROBE_HEAD_BYTES);
  size_t tail_bytes = MIN (bytes, PROBE_TAIL_BYTES);
  uint8_t *buf = bdrv_try_alloc_buffer (file, PROBE_HEAD_BYTES + PROBE_TAIL_BYTES);
  int best = 0;
  int ret = buf ? 0 : -ENOMEM;

  *drv = NULL;
  if (ret == 0)
    ret = bdrv_co_pread (file, 0, head_bytes, buf);
  if (ret == 0)
    ret = bdrv_co_pread (file, bytes - tail_bytes, tail_bytes, buf + PROBE_HEAD_BYTES);
  if (ret < 0)
    {
      bdrv_free_buffer (buf);
      bdrv_set_error_errno (error, file, ret, "cannot be read to find its format");
      return false;
    }

  BlockProbe probe = { .head = buf,
                       .head_bytes = head_bytes,
                       .tail = buf + PROBE_HEAD_BYTES,
                       .tail_bytes = tail_bytes,
                       .file_size = bytes };
  for (const BlockDriver *const *candidate = bdrv_list_drivers (); *candidate; candidate++)
    {
      if ((*candidate)->kind != BLOCK_DRIVER_FORMAT || !(*candidate)->probe)
        continue;
      if (formats && !driver_is_named (*candidate, formats))
        continue;
      int score = (*candidate)->probe (&probe);
      if (score > best)
        {
          best = score;
          *drv = *candidate;
        }
    }
  bdrv_free_buffer (buf);
  return true;
}

const BlockDriver *
bdrv_find_format (const char *name, GError **error)
{
  const BlockDriver *drv = bdrv_find_driver (name);

  if (drv && drv->kind == BLOCK_DRIVER_FORMAT)
    return drv;
  g_autofree char *shown = bdrv_printable (name);
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND, "there is no image format named '%s'", shown);
  return NULL;
}

BlockDriverState *coroutine_fn
bdrv_co_open_format (const BlockDriver *drv, BlockDriverState *file, const char *filename, int flags,
                     const char *const *options, GError **error)
{
  g_autoptr (BlockOptions) parsed = block_options_parse (drv->open_options, options, error);

  if (!parsed)
    {
      g_prefix_error (error, "format %s: ", drv->format_name);
      bdrv_co_unref (file);
      return NULL;
    }
  BlockDriverState *bs = bdrv_node_new (drv, filename, flags, file);
  if (!bdrv_co_node_open (bs, parsed, error))
    return NULL;
  if (!bs->read_only)
    bdrv_warn_of_change_tracking (bs);
  return bs;
}

bool
bdrv_has_image_name (const char *path)
{
  static const char *const suffixes[] = { ".vhd", ".vhdx", ".avhd", ".avhdx" };
  g_autofree char *name = g_ascii_strdown (path, -1);

  for (size_t i = 0; i < G_N_ELEMENTS (suffixes); i++)
    if (g_str_has_suffix (name, suffixes[i]))
      return true;
  return false;
}

/* Whatever no format claims is a plain disk, unless it was an image once. */
static const BlockDriver *coroutine_fn
co_choose_format (BlockDriverState *file, const char *name, GError **error)
{
  const BlockDriver *drv;

  if (name)
    return bdrv_find_format (name, error);
  if (!bdrv_co_probe (file, NULL, &drv, error))
    return NULL;
  if (!drv && bdrv_has_image_name (file->filename))
    {
      bdrv_set_error (
          error, file, VHDKIT_ERROR_CORRUPT,
          "has the name of an image, and bears no sign of one: it may be damaged or cut short; the "
          "format raw takes it for a plain disk");
      return NULL;
    }
  return drv ? drv : bdrv_find_format ("raw", error);
}

static bool
check_params (const BdrvOpenParams *params, GError **error)
{
  if ((params->flags & BDRV_O_FORCE_SHARE) && (params->flags & BDRV_O_RDWR))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "an image others may be writing can only be opened read-only");
      return false;
    }
  if (params->parent_format && !bdrv_find_format (params->parent_format, error))
    return false;
  return !params->format || bdrv_find_format (params->format, error);
}

/* Becoming writable settles what an earlier writer left behind.  Of an image whose parents cannot be opened nothing is to
 * change, so they come first. */
static bool
becomes_writable_last (const BlockDriver *drv, int flags)
{
  return flags & BDRV_O_RDWR && drv->get_parent_link && drv->co_reopen_rw
         && !(flags & (BDRV_O_NO_BACKING | BDRV_O_CHECK | BDRV_O_EXAMINE | BDRV_O_INCOMPLETE));
}

BlockDriverState *coroutine_fn
bdrv_co_open (const char *filename, const BdrvOpenParams *params, GError **error)
{
  int flags = params->flags & ~BDRV_O_CHILD;
  struct stat st;

  if (!check_params (params, error)
      || !bdrv_check_path (filename, BDRV_NAMED_BY_USER, params->confine, &st, error))
    return NULL;

  BlockDriverState *file = bdrv_co_open_protocol (filename, &st, flags, params, error);
  if (!file)
    return NULL;
  const BlockDriver *drv = co_choose_format (file, params->format, error);
  if (!drv)
    {
      bdrv_co_unref (file);
      return NULL;
    }
  bool late = becomes_writable_last (drv, flags);
  BlockDriverState *leaf = bdrv_co_open_format (drv, file, filename, late ? flags & ~BDRV_O_RDWR : flags,
                                                params->format_options, error);
  if (!leaf)
    return NULL;
  if ((!(flags & BDRV_O_NO_BACKING) && !bdrv_co_open_parents (leaf, params, error))
      || (late && !bdrv_co_reopen_rw (leaf, error)))
    {
      bdrv_co_unref (leaf);
      return NULL;
    }
  for (BlockDriverState *bs = flags & BDRV_O_EXAMINE ? leaf : NULL; bs; bs = bs->backing)
    bdrv_co_examine_parents (bs, params);
  return leaf;
}

/* --- walking ------------------------------------------------------------------------------------------- */

int
bdrv_chain_depth (const BlockDriverState *bs)
{
  int depth = 0;

  for (; bs; bs = bs->backing)
    depth++;
  return depth;
}

BlockDriverState *
bdrv_chain_get (BlockDriverState *bs, int depth)
{
  if (depth < 0)
    return NULL;
  while (bs && depth-- > 0)
    bs = bs->backing;
  return bs;
}

BlockDriverState *
bdrv_protocol_node (BlockDriverState *bs)
{
  while (bs->drv->kind != BLOCK_DRIVER_PROTOCOL && bs->file)
    bs = bs->file;
  return bs;
}

bool
bdrv_same_file (const BlockDriverState *a, const BlockDriverState *b)
{
  BlockDriverState *file_a = bdrv_protocol_node ((BlockDriverState *)a);
  BlockDriverState *file_b = bdrv_protocol_node ((BlockDriverState *)b);
  uint64_t id_a[2], id_b[2];

  if (file_a == file_b)
    return true;
  if (!file_a->drv->get_host_id || !file_b->drv->get_host_id)
    return false;
  return file_a->drv->get_host_id (file_a, id_a) && file_b->drv->get_host_id (file_b, id_b)
         && memcmp (id_a, id_b, sizeof id_a) == 0;
}

const char *
bdrv_get_host_path (const BlockDriverState *bs)
{
  BlockDriverState *file = bdrv_protocol_node ((BlockDriverState *)bs);

  return file->drv->get_host_path ? file->drv->get_host_path (file) : file->filename;
}

int64_t coroutine_fn
bdrv_co_get_allocated_size (BlockDriverState *bs)
{
  BlockDriverState *file = bdrv_protocol_node (bs);

  if (!file->drv->co_get_allocated_size)
    return -ENOTSUP;
  return file->drv->co_get_allocated_size (file);
}

bool
bdrv_same_image (const BlockDriverState *a, const BlockDriverState *b)
{
  return a->drv == b->drv && bdrv_length (a) == bdrv_length (b) && bdrv_same_file (a, b);
}

bool
bdrv_lacks_parent (BlockDriverState *bs)
{
  g_auto (BlockParentLink) link = { 0 };

  return !bs->backing && bs->drv->get_parent_link && bs->drv->get_parent_link (bs, &link);
}

char *
bdrv_get_parent_name (BlockDriverState *bs)
{
  g_auto (BlockParentLink) link = { 0 };

  if (!bs->drv->get_parent_link || !bs->drv->get_parent_link (bs, &link) || !link.paths
      || link.paths->len == 0)
    return NULL;
  const BlockParentPath *first = g_ptr_array_index (link.paths, 0);
  return g_strdup (first->path);
}
