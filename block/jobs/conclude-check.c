/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether what is to follow a commit can be done: looked at before the first write, so that a merge is not made in vain.
 * Nothing here writes.
 */
#include "conclude-int.h"

#include <errno.h>
#include <string.h>

#include "same.h"
#include "siblings.h"

/* Content is looked at in pieces of this size, with a pause point between them. */
#define LOOK_BYTES ((int64_t)64 * 1024 * 1024)
/* So many are named in the message. */
#define MAX_NAMED 5

/* --- whether the target can have the source's name ------------------------------------------------------ */

/* The format that a file of this name is expected to have, or NULL: "avhd" is a name for a checkpoint's vhd. */
static const BlockDriver *
format_of_name (const char *path)
{
  g_autofree char *name = g_path_get_basename (path);
  const char *dot = strrchr (name, '.');
  g_autofree char *suffix = dot ? g_ascii_strdown (dot + 1, -1) : NULL;
  const BlockDriver *drv = suffix ? bdrv_find_driver (suffix) : NULL;

  if (!drv && suffix && suffix[0] == 'a')
    drv = bdrv_find_driver (suffix + 1);
  return drv && drv->kind == BLOCK_DRIVER_FORMAT ? drv : NULL;
}

static bool
check_name (const ConcludeParams *params, GError **error)
{
  const BlockDriver *format = params->target->drv;
  const BlockDriver *expected = format_of_name (bdrv_get_host_path (params->source));

  if (params->source->drv == format && (!expected || expected == format))
    return true;
  bdrv_set_error (error, params->target, VHDKIT_ERROR_INVALID_ARGUMENT,
                  "its format is %s: it cannot take the name of %s, which is that of a %s file",
                  format->format_name, params->source->filename,
                  (expected ? expected : params->source->drv)->format_name);
  return false;
}

static bool coroutine_fn
co_check_rename (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *target = params->target;
  NamedFile from, to;

  if (!check_name (params, error) || !named_file_co_check_free (target, &from, "cannot be renamed", error)
      || !named_file_co_check_free (params->source, &to, "cannot be replaced", error))
    return false;

  g_autofree char *from_directory = g_path_get_dirname (from.path);
  g_autofree char *to_directory = g_path_get_dirname (to.path);
  if (from.st.st_dev != to.st.st_dev)
    {
      bdrv_set_error (error, target, VHDKIT_ERROR_UNSUPPORTED,
                      "it cannot take the name of %s, which is on another file system",
                      params->source->filename);
      return false;
    }
  if (target->backing && strcmp (from_directory, to_directory) != 0)
    {
      bdrv_set_error (
          error, target, VHDKIT_ERROR_UNSUPPORTED,
          "it cannot take the name of %s, in another directory: it names its own parent %s as seen "
          "from the directory it is in",
          params->source->filename, target->backing->filename);
      return false;
    }
  if (to.st.st_nlink > 1)
    {
      bdrv_set_error (error, params->source, VHDKIT_ERROR_UNSUPPORTED,
                      "it has other names (hard links), which the target could not take as well");
      return false;
    }
  if (from.st.st_uid != to.st.st_uid || from.st.st_gid != to.st.st_gid || from.st.st_mode != to.st.st_mode)
    bdrv_warn (target,
               "has another owner or other permissions than %s, whose name it takes: it keeps its own",
               params->source->filename);
  return true;
}

/* --- the children ---------------------------------------------------------------------------------------- */

BlockParentChange
conclude_change_for (const Conclude *conclude, BlockDriverState *child, bool renamed)
{
  const ConcludeParams *params = &conclude->params;
  const char *name_after = params->rename_target ? bdrv_get_host_path (params->source) : NULL;

  return (BlockParentChange){
    .parent = params->target,
    .child_path = bdrv_get_host_path (child),
    .parent_path = renamed ? name_after : bdrv_get_host_path (params->target),
    .other_path = renamed ? NULL : name_after,
  };
}

/* Takes the reference to @child. */
static bool
add_child (Conclude *conclude, BlockDriverState *child, GError **error)
{
  BlockParentChange change = conclude_change_for (conclude, child, false);

  g_ptr_array_add (conclude->children, child);
  if (!child->drv->co_change_parent)
    {
      bdrv_set_error (error, child, VHDKIT_ERROR_UNSUPPORTED, "images of format %s cannot get another parent",
                      child->drv->format_name);
      return false;
    }
  return !child->drv->check_parent_change || child->drv->check_parent_change (child, &change, error);
}

static bool
is_child_listed (const Conclude *conclude, const BlockDriverState *bs)
{
  for (guint i = 0; i < conclude->children->len; i++)
    if (bdrv_same_file (g_ptr_array_index (conclude->children, i), bs))
      return true;
  return false;
}

/* The layer that has the same file as @bs, or NULL. */
static BlockDriverState *
find_layer (const ConcludeParams *params, const BlockDriverState *bs)
{
  BlockDriverState *layer = params->leaf;

  while (layer && !bdrv_same_file (layer, bs))
    layer = layer->backing;
  return layer;
}

/* A reference to the image at @path, one of the chain's nodes where it is one. */
static BlockDriverState *coroutine_fn
co_open_child (const ConcludeParams *params, const char *path, GError **error)
{
  BdrvOpenParams open = params->places;
  BlockDriverState *child, *layer;

  open.flags =
      BDRV_O_NO_BACKING | (params->source->open_flags & (BDRV_O_NO_LOCK | BDRV_O_DIRECT | BDRV_O_NO_FLUSH));
  child = bdrv_co_open (path, &open, error);
  layer = child ? find_layer (params, child) : NULL;
  if (layer)
    {
      bdrv_co_unref (child);
      child = bdrv_ref (layer);
    }
  return child;
}

/* The source or the target, or NULL. */
static BlockDriverState *coroutine_fn
co_find_parent (const ConcludeParams *params, BlockDriverState *child, GError **error)
{
  BlockDriverState *parent = NULL;
  BdrvOpenParams look = params->places;

  for (BlockDriverState *layer = params->source; layer; layer = layer->backing)
    if (layer == child)
      {
        bdrv_set_error (error, child, VHDKIT_ERROR_INVALID_ARGUMENT,
                        "is a layer of the chain that is merged, not a child of %s",
                        params->source->filename);
        return NULL;
      }
  look.flags = BDRV_O_NO_BACKING | BDRV_O_NO_LOCK | BDRV_O_FORCE_SHARE;
  look.filters = NULL;
  parent = bdrv_co_find_parent_layer (child, params->source, params->target, &look, false, NULL);
  if (parent == params->source || parent == params->target)
    return parent;
  bdrv_set_error (error, child, VHDKIT_ERROR_INVALID_ARGUMENT, "its parent is not %s: it cannot be relinked",
                  params->source->filename);
  return NULL;
}

/* *@above_target becomes the last of them that has the target as its parent, or NULL. */
static bool coroutine_fn
co_open_children (Conclude *conclude, BlockDriverState **above_target, GError **error)
{
  const ConcludeParams *params = &conclude->params;

  *above_target = NULL;
  for (const char *const *path = params->relink; path && *path; path++)
    {
      BlockDriverState *child = co_open_child (params, *path, error);
      BlockDriverState *parent = child ? co_find_parent (params, child, error) : NULL;

      if (!parent || is_child_listed (conclude, child))
        {
          if (child)
            bdrv_co_unref (child);
          if (!parent)
            return false;
          continue;
        }
      if (parent == params->target)
        *above_target = child;
      if (!add_child (conclude, child, error))
        return false;
    }
  return true;
}

/* The chain that is open goes on through it. */
static bool
add_layer_above (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *above = params->leaf;

  if (above == params->source || conclude->takes_identity
      || !(params->delete_sources || params->rename_target))
    return true;
  while (above->backing != params->source)
    above = above->backing;
  return is_child_listed (conclude, above) || add_child (conclude, bdrv_ref (above), error);
}

/* The target may have been reached through a symbolic link beside which its own parent is: whoever comes to it by its
 * real path, or by the one it takes, would not find that. */
static bool coroutine_fn
co_check_links_below (const Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  bool relinks = conclude->children->len > 0 && !conclude->takes_identity;
  const char *paths[] = { relinks ? bdrv_get_host_path (params->target) : NULL,
                          params->rename_target ? bdrv_get_host_path (params->source) : NULL };

  for (size_t i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      BlockDriverState *broken =
          paths[i] ? bdrv_co_find_broken_link (params->target, paths[i], &params->places) : NULL;

      if (!broken)
        continue;
      bdrv_set_error (
          error, broken, VHDKIT_ERROR_UNSUPPORTED,
          "opened as the parent of another image, with %s for the target, it would not find its own parent, "
          "%s, which is found now because a symbolic link leads to it: make the link of it right first "
          "(rebase -u)",
          paths[i], broken->backing->filename);
      return false;
    }
  return true;
}

static bool
is_path_listed (const Conclude *conclude, const char *path)
{
  struct stat wanted, st;

  if (stat (path, &wanted) < 0)
    return false;
  for (guint i = 0; i < conclude->children->len; i++)
    if (stat (bdrv_get_host_path (g_ptr_array_index (conclude->children, i)), &st) == 0
        && st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino)
      return true;
  return false;
}

/* What may be a child, and is none that was named. */
static bool
check_unknown (const ConcludeParams *params, const GPtrArray *found, GError **error)
{
  g_autofree char *names = siblings_name_unknown (found);

  if (!names)
    return true;
  bdrv_set_error (
      error, params->source, VHDKIT_ERROR_HAS_CHILDREN,
      "whether other images would lose the parent is not known: %s; nothing was removed or renamed: mend "
      "that or move it away, or go on regardless with --ignore-unknown",
      names);
  return false;
}

bool coroutine_fn
conclude_co_check_orphans (const Conclude *conclude, bool merged, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  bool source_goes = (params->delete_sources || params->rename_target) && !conclude->takes_identity;
  bool between_go = merged && (params->delete_sources || params->rename_target) && !params->break_siblings;
  BlockDriverState *last = between_go && params->rename_target ? params->target : conclude->lowest;
  g_autoptr (GString) names = g_string_new (NULL);
  g_autoptr (GPtrArray) found = NULL;
  guint orphans = 0;

  if (!source_goes && !between_go)
    return true;
  found = siblings_co_find (conclude->job, params->leaf, params->source, last, &params->places, error);
  if (!found)
    return false;
  for (guint i = 0; i < found->len; i++)
    {
      const BdrvChild *child = g_ptr_array_index (found, i);
      bool of_source = child->parent == params->source;

      if (child->problem || is_path_listed (conclude, child->path)
          || (of_source ? !source_goes : !between_go))
        continue;
      if (orphans++ < MAX_NAMED)
        g_string_append_printf (names, "%s%s above %s", orphans > 1 ? ", " : "", child->path,
                                child->parent->filename);
    }
  if (orphans == 0)
    return params->break_siblings || params->ignore_unknown || check_unknown (params, found, error);
  if (orphans > MAX_NAMED)
    g_string_append_printf (names, " and %u more", orphans - MAX_NAMED);
  bdrv_set_error (
      error, params->source, VHDKIT_ERROR_HAS_CHILDREN,
      "%u image%s would lose the parent: %s; nothing was changed: name with --relink what is above %s, "
      "or leave the merged images where they are",
      orphans, orphans == 1 ? "" : "s", names->str, params->source->filename);
  return false;
}

/* --- an earlier run -------------------------------------------------------------------------------------- */

/* Whether the target shows what the source does: where a layer above the target decides.  1, 0 or -errno. */
static int coroutine_fn
co_shows_same (Job *job, const ConcludeParams *params)
{
  g_auto (SamePair) pair = { 0 };
  int64_t end = bdrv_length (params->source);
  int same = same_pair_init (&pair, params->source, params->target);

  if (same == 0)
    same = end == bdrv_length (params->target);

  for (int64_t offset = 0, bytes; same > 0 && offset < end; offset += bytes)
    {
      int64_t map;
      BlockDriverState *file;
      int ret = job_co_pause_point (job);

      if (ret >= 0)
        ret = bdrv_co_block_status_above (params->source, params->target, offset,
                                          MIN (end - offset, LOOK_BYTES), &bytes, &map, &file, NULL);
      if (ret < 0)
        return ret;
      if (ret & BDRV_BLOCK_ALLOCATED)
        same = same_co_range (&pair, offset, bytes);
    }
  return same;
}

static bool coroutine_fn
co_check_merged (Job *job, const ConcludeParams *params, BlockDriverState *child, GError **error)
{
  int ret = co_shows_same (job, params);

  if (ret == -ECANCELED)
    job_set_cancelled (job, error);
  else if (ret < 0)
    bdrv_set_error_errno (error, params->source, ret, "cannot be compared with %s", params->target->filename);
  else if (ret == 0)
    bdrv_set_error (
        error, child, VHDKIT_ERROR_HAS_CHILDREN,
        "its parent is the target, %s, which does not show yet what %s does: the merge would change "
        "what it shows; only children of %s can be relinked",
        params->target->filename, params->source->filename, params->source->filename);
  return ret > 0;
}

/* --- all of it ------------------------------------------------------------------------------------------- */

bool
conclude_removes (const ConcludeParams *params, const BlockDriverState *layer)
{
  return params->delete_sources && !(params->rename_target && layer == params->source);
}

/* Removed is removed for good; what takes its place has to be on the disk before. */
static bool
check_flushes (const ConcludeParams *params, GError **error)
{
  if (!(params->target->open_flags & BDRV_O_NO_FLUSH)
      || !(params->delete_sources || params->rename_target || (params->relink && params->relink[0])))
    return true;
  bdrv_set_error (
      error, params->target, VHDKIT_ERROR_INVALID_ARGUMENT,
      "opened without flushes (cache mode unsafe): nothing may be removed, renamed or relinked on the "
      "strength of it");
  return false;
}

bool coroutine_fn
conclude_co_check (Conclude *conclude, bool *merged, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *above_target;

  if (!check_flushes (params, error))
    return false;
  if (params->rename_target && !co_check_rename (conclude, error))
    return false;
  for (BlockDriverState *layer = params->source; layer != params->target; layer = layer->backing)
    {
      NamedFile file;

      if (conclude_removes (params, layer)
          && !named_file_co_check_free (layer, &file, "cannot be removed", error))
        return false;
    }
  if (!co_open_children (conclude, &above_target, error))
    return false;
  /* That child knows the target by the identity it has: it keeps that, and all follow its name. */
  if (above_target != NULL)
    conclude->takes_identity = false;
  if (!add_layer_above (conclude, error) || !co_check_links_below (conclude, error)
      || !conclude_co_check_orphans (conclude, above_target != NULL, error))
    return false;
  *merged = above_target != NULL;
  return !above_target || co_check_merged (conclude->job, params, above_target, error);
}
