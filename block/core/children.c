/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the children of a layer: the images that would be opened above it.
 *
 * A parent does not know its children.  They are looked for where they mostly are, in the directories of the chain's
 * files, not below those.  X is a child of a layer if opening X takes the layer's file as its parent: identity and
 * paths decide, as they do when X is opened (bdrv_co_find_parent_layer).
 *
 * The files there may be anybody's and in use: nothing but regular files is opened, read-only, and no locks are
 * taken, so that a virtual machine that runs on one is neither in the way nor disturbed.
 */
#include "core-int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* No image with a parent is shorter: a VHD footer. */
#define LEAST_IMAGE_BYTES 511

typedef struct
{
  BlockDriverState *leaf, *upper, *lower;
  BdrvOpenParams look;
  GHashTable *seen;      /* BdrvFileKey *: files and directories that were looked at, or are not to be */
  GPtrArray *children;   /* of BdrvChild * */
  GPtrArray *candidates; /* of char *, in the directory at hand */
  const char *directory;
  bool truncated; /* it has more files than are looked at */
} ChildSearch;

static void
child_free (gpointer data)
{
  BdrvChild *child = data;

  g_free (child->path);
  g_free (child);
}

/* true: @st describes what has not been met before. */
static bool
add_seen (ChildSearch *search, const struct stat *st)
{
  BdrvFileKey key;

  bdrv_file_key_from_stat (&key, st);
  return g_hash_table_add (search->seen, g_memdup2 (&key, sizeof key));
}

/* --- one directory ------------------------------------------------------------------------------------- */

static gint
compare_paths (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *)a, *(const char *const *)b);
}

/* In the thread pool: the files of search->directory that may be images. */
static int
list_directory (void *opaque)
{
  ChildSearch *search = opaque;
  g_autoptr (GDir) entries = g_dir_open (search->directory, 0, NULL);
  const char *name;
  int looked_at = 0;

  while (entries && (name = g_dir_read_name (entries)))
    {
      g_autofree char *path = g_build_filename (search->directory, name, NULL);
      struct stat st;

      if (looked_at++ == BDRV_MAX_SIBLING_FILES)
        {
          search->truncated = true;
          break;
        }
      if (stat (path, &st) == 0 && S_ISREG (st.st_mode) && st.st_size >= LEAST_IMAGE_BYTES
          && add_seen (search, &st))
        g_ptr_array_add (search->candidates, g_steal_pointer (&path));
    }
  g_ptr_array_sort (search->candidates, compare_paths);
  return entries ? 0 : -1;
}

/* What is no image, or a broken one, is no child.  false: it cannot be known. */
static bool coroutine_fn
co_look_at_file (ChildSearch *search, const char *path)
{
  const BdrvOpenParams *look = &search->look;
  g_autoptr (GError) error = NULL;
  const BlockDriver *drv;
  struct stat st;

  if (!bdrv_check_path (path, BDRV_NAMED_BY_IMAGE, look->confine, &st, NULL))
    return true;
  BlockDriverState *file = bdrv_co_open_protocol (path, &st, look->flags, look, &error);
  if (!file)
    return !g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_PERMISSION);
  if (!bdrv_co_probe (file, NULL, &drv, &error) || !drv || !drv->get_parent_link)
    {
      bdrv_co_unref (file);
      return true;
    }
  BlockDriverState *bs = bdrv_co_open_format (drv, file, path, look->flags, NULL, NULL);
  if (!bs)
    return true;
  BlockDriverState *parent = bdrv_co_find_parent_layer (bs, search->upper, search->lower, look);
  if (parent)
    {
      BdrvChild *child = g_new0 (BdrvChild, 1);
      child->path = g_strdup (path);
      child->format = drv->format_name;
      child->parent = parent;
      /* The layers above it show through to it, and keep their own content and its name. */
      child->notices = parent == search->lower && parent->drv->get_next_identity != NULL;
      g_ptr_array_add (search->children, child);
    }
  bdrv_co_unref (bs);
  return true;
}

static void coroutine_fn
co_search_directory (ChildSearch *search, const char *directory)
{
  g_autoptr (GPtrArray) candidates = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *shown = bdrv_printable (directory);
  guint unreadable = 0;

  search->directory = directory;
  search->candidates = candidates;
  search->truncated = false;
  if (aio_co_run_in_thread (list_directory, search) < 0)
    bdrv_warn (search->leaf,
               "the directory %s cannot be listed: other images above the same parents there are not noticed",
               shown);
  if (search->truncated)
    bdrv_warn (search->leaf,
               "the directory %s has more than %d entries: other images above the same parents among the "
               "rest are not "
               "noticed",
               shown, BDRV_MAX_SIBLING_FILES);
  for (guint i = 0; i < candidates->len; i++)
    unreadable += !co_look_at_file (search, g_ptr_array_index (candidates, i));
  if (unreadable > 0)
    bdrv_warn (search->leaf,
               "%u files in %s may not be read: whether they are images above the same parents is not known",
               unreadable, shown);
}

/* --- all of them --------------------------------------------------------------------------------------- */

/* The directory a layer's file is in, and the one it is named in, where a symbolic link leads there. */
static void coroutine_fn
co_search_beside_layer (ChildSearch *search, BlockDriverState *layer)
{
  const char *names[] = { bdrv_get_host_path (layer), layer->filename };

  for (size_t i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *path = names[i] ? g_canonicalize_filename (names[i], NULL) : NULL;
      g_autofree char *directory = path ? g_path_get_dirname (path) : NULL;
      struct stat st;

      /* Beside a device there are no images. */
      if (!path || stat (path, &st) < 0 || !S_ISREG (st.st_mode))
        continue;
      if (stat (directory, &st) == 0 && add_seen (search, &st))
        co_search_directory (search, directory);
    }
}

GPtrArray *coroutine_fn
bdrv_co_find_children (BlockDriverState *leaf, BlockDriverState *upper, BlockDriverState *lower,
                       const BdrvOpenParams *params)
{
  g_autoptr (GHashTable) seen = bdrv_file_key_set_new ();
  ChildSearch search = {
    .leaf = leaf,
    .upper = upper,
    .lower = lower,
    .look = { .flags = BDRV_O_NO_BACKING | BDRV_O_FORCE_SHARE | BDRV_O_NO_LOCK,
              .confine = params->confine,
              .drive_map = params->drive_map },
    .seen = seen,
    .children = g_ptr_array_new_with_free_func (child_free),
  };

  for (BlockDriverState *layer = leaf; layer; layer = layer->backing)
    {
      BdrvFileKey key;

      if (bdrv_file_key_of_node (layer, &key))
        g_hash_table_add (seen, g_memdup2 (&key, sizeof key));
    }
  for (BlockDriverState *layer = leaf; layer; layer = layer->backing)
    co_search_beside_layer (&search, layer);
  return search.children;
}
