/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the children of a layer: the images that would be opened above it.
 *
 * A parent does not know its children.  They are looked for where they mostly are, in the directories of the chain's
 * files, not below those: of each file the one it lies in, and the one of the name it was opened by.  From elsewhere a
 * path or a symbolic link may lead to it, and nothing leads back.  X is a child of a layer if opening X takes the
 * layer's file as its parent: identity and paths decide, as they do when X is opened (bdrv_co_find_parent_layer).
 *
 * The files there may be anybody's and in use: nothing but regular files is opened, read-only, and no locks are
 * taken, so that a virtual machine that runs on one is neither in the way nor disturbed.
 *
 * Whoever asks is about to break what is found, so nothing passes for no child unless that is known.  What has the name
 * or the signature of an image and cannot be examined is told with the reason, and so is a directory that is not seen
 * to its end: one with very many files that may be images, or entries at all.  What has neither is none of ours; only a
 * warning tells that it could not be read.
 */
#include "core-int.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* No image with a parent is shorter: a VHD footer. */
#define LEAST_IMAGE_BYTES 511
/* So many entries of a directory are read between two pause points. */
#define ENTRIES_AT_ONCE 2000

typedef struct
{
  const BdrvChildQuery *query;
  BdrvOpenParams look;
  GHashTable *seen;    /* BdrvFileKey *: files and directories that were looked at, or are not to be */
  GPtrArray *children; /* of BdrvChild * */
  /* Of the directory at hand. */
  const char *directory;
  DIR *entries;
  GPtrArray *candidates; /* of char *, files that may be images */
  int n_entries;         /* that were read */
  const char *endless;   /* it has more than are looked at: of what, with the number */
  guint unreadable;      /* by its name no image */
} ChildSearch;

static void
child_free (gpointer data)
{
  BdrvChild *child = data;

  g_free (child->path);
  g_free (child->problem);
  g_free (child);
}

static BdrvChild *
add_found (ChildSearch *search, const char *path)
{
  BdrvChild *child = g_new0 (BdrvChild, 1);

  child->path = g_strdup (path);
  g_ptr_array_add (search->children, child);
  return child;
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

/* Whether @entry may be a regular file, or lead to one. */
static bool
may_be_file (const struct dirent *entry)
{
  if (strcmp (entry->d_name, ".") == 0 || strcmp (entry->d_name, "..") == 0)
    return false;
  return entry->d_type == DT_REG || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN;
}

/* Whether the entry @path may be an image: a file that was not met before, or one of which nothing is known. */
static bool
may_be_image (ChildSearch *search, const char *path)
{
  struct stat st;

  if (stat (path, &st) == 0)
    return S_ISREG (st.st_mode) && st.st_size >= LEAST_IMAGE_BYTES && add_seen (search, &st);
  /* The others lead nowhere. */
  return errno != ENOENT && errno != ENOTDIR && errno != ELOOP;
}

/* Puts the next entry of the directory among the candidates if it may be an image.  1, 0: that was all, or -errno. */
static int
list_entry (ChildSearch *search)
{
  errno = 0;
  const struct dirent *entry = readdir (search->entries);

  if (!entry)
    return -errno;
  if (search->n_entries++ == BDRV_MAX_SIBLING_ENTRIES)
    {
      search->endless = G_STRINGIFY (BDRV_MAX_SIBLING_ENTRIES) " entries";
      return 0;
    }
  if (!may_be_file (entry))
    return 1;
  g_autofree char *path = g_build_filename (search->directory, entry->d_name, NULL);
  if (!may_be_image (search, path))
    return 1;
  if (search->candidates->len == BDRV_MAX_SIBLING_FILES)
    {
      search->endless = G_STRINGIFY (BDRV_MAX_SIBLING_FILES) " files that may be images";
      return 0;
    }
  g_ptr_array_add (search->candidates, g_steal_pointer (&path));
  return 1;
}

/* In the thread pool: the same with some entries; 1: there may be more. */
static int
list_entries (void *opaque)
{
  ChildSearch *search = opaque;
  int ret = 1;

  if (!search->entries)
    search->entries = opendir (search->directory);
  if (!search->entries)
    return -errno;
  for (int i = 0; i < ENTRIES_AT_ONCE && ret > 0; i++)
    ret = list_entry (search);
  return ret;
}

/* All candidates, sorted, even after an error; @ret: 0 or -errno.  false: stopped. */
static bool coroutine_fn
co_list_directory (ChildSearch *search, int *ret)
{
  const BdrvChildQuery *query = search->query;
  bool stopped = false;

  while ((*ret = aio_co_run_in_thread (list_entries, search)) > 0)
    if (query->co_pause_point && query->co_pause_point (query->opaque) < 0)
      {
        stopped = true;
        break;
      }
  if (search->entries)
    closedir (search->entries);
  search->entries = NULL;
  g_ptr_array_sort (search->candidates, compare_paths);
  return !stopped;
}

/* What is known of one file. */
typedef enum
{
  FILE_KNOWN,
  FILE_UNREADABLE, /* it may be an image or not */
  FILE_DAMAGED,    /* it is an image, and may be a child or not */
} FileKnowledge;

/* What was opened as raw may be an image all the same to whoever finds its parent there, or may have been one. */
static bool
is_raw_alone (const BdrvChildQuery *query)
{
  return query->upper == query->lower && !query->upper->drv->get_identity;
}

/* A file of one of our formats. */
static FileKnowledge coroutine_fn
co_look_at_image (ChildSearch *search, BlockDriverState *bs, GError **error)
{
  const BdrvChildQuery *query = search->query;
  bool by_path = query->by_path || is_raw_alone (query), lost;
  BlockDriverState *parent =
      bdrv_co_find_parent_layer (bs, query->upper, query->lower, &search->look, by_path, &lost);

  if (parent)
    {
      BdrvChild *child = add_found (search, bs->filename);

      child->format = bs->drv->format_name;
      child->parent = parent;
      /* The layers above it show through to it, and keep their own content and its name. */
      child->notices = parent == query->lower && parent->drv->get_next_identity != NULL;
    }
  if (!lost)
    return FILE_KNOWN;
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND,
               "it has the identity of one of them for its parent, and does not find that");
  return FILE_DAMAGED;
}

static FileKnowledge coroutine_fn
co_look_at_file (ChildSearch *search, const char *path, GError **error)
{
  const BdrvOpenParams *look = &search->look;
  FileKnowledge unknown = bdrv_has_image_name (path) ? FILE_DAMAGED : FILE_UNREADABLE;
  const BlockDriver *drv;
  struct stat st;

  if (look->confine && !bdrv_check_confined (path, look->confine, NULL))
    return FILE_KNOWN;
  if (!bdrv_check_path (path, BDRV_NAMED_BY_IMAGE, look->confine, &st, error))
    return unknown;
  BlockDriverState *file = bdrv_co_open_protocol (path, &st, look->flags, look, error);
  if (!file)
    return unknown;
  if (!bdrv_co_probe (file, NULL, &drv, error))
    {
      bdrv_co_unref (file);
      return unknown;
    }
  if (!drv || !drv->get_parent_link)
    {
      bdrv_co_unref (file);
      if (drv || unknown == FILE_UNREADABLE)
        return FILE_KNOWN;
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "it has the name of an image, and is none");
      return FILE_DAMAGED;
    }
  BlockDriverState *bs = bdrv_co_open_format (drv, file, path, look->flags, NULL, error);
  if (!bs)
    return FILE_DAMAGED;
  FileKnowledge knowledge = co_look_at_image (search, bs, error);
  bdrv_co_unref (bs);
  return knowledge;
}

/* @path, a file or a directory: what is there may be a child or not.  @error: NULL: for the reason @text. */
static void
add_unknown (ChildSearch *search, const char *path, const char *text, const GError *error)
{
  g_autofree char *prefix = g_strconcat (path, ": ", NULL);
  BdrvChild *child;

  /* Gone meanwhile. */
  if (error && error->code == VHDKIT_ERROR_NOT_FOUND)
    return;
  if (error)
    text = g_str_has_prefix (error->message, prefix) ? error->message + strlen (prefix) : error->message;
  child = add_found (search, path);
  child->problem = g_strdup (text);
  g_autofree char *shown = bdrv_printable (path);
  bdrv_warn (search->query->leaf, "whether %s is an image above the same parents is not known: %s", shown,
             text);
}

/* false: stopped. */
static bool coroutine_fn
co_search_directory (ChildSearch *search, const char *directory)
{
  const BdrvChildQuery *query = search->query;
  g_autoptr (GPtrArray) candidates = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *shown = bdrv_printable (directory);
  int ret;

  search->directory = directory;
  search->candidates = candidates;
  search->n_entries = 0;
  search->endless = NULL;
  search->unreadable = 0;
  if (!co_list_directory (search, &ret))
    return false;
  if (ret < 0)
    {
      g_autofree char *text = g_strdup_printf ("the directory cannot be listed: %s", g_strerror (-ret));
      add_unknown (search, directory, text, NULL);
    }
  if (search->endless)
    {
      g_autofree char *text =
          g_strdup_printf ("the directory has more than %s, and the rest is not looked at", search->endless);
      add_unknown (search, directory, text, NULL);
    }
  for (guint i = 0; i < candidates->len; i++)
    {
      const char *path = g_ptr_array_index (candidates, i);
      g_autoptr (GError) error = NULL;

      if (query->co_pause_point && query->co_pause_point (query->opaque) < 0)
        return false;
      switch (co_look_at_file (search, path, &error))
        {
        case FILE_DAMAGED:
          add_unknown (search, path, NULL, error);
          break;
        case FILE_UNREADABLE:
          search->unreadable += !g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND);
          break;
        case FILE_KNOWN:
          break;
        }
    }
  if (search->unreadable > 0)
    bdrv_warn (query->leaf,
               "%u files in %s may not be read: whether they are images above the same parents is not known",
               search->unreadable, shown);
  return true;
}

/* --- all of them --------------------------------------------------------------------------------------- */

/* The directory a layer's file is in, and the one it is named in, where a symbolic link leads there. */
static bool coroutine_fn
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
      if (stat (directory, &st) == 0 && add_seen (search, &st) && !co_search_directory (search, directory))
        return false;
    }
  return true;
}

GPtrArray *coroutine_fn
bdrv_co_find_children (const BdrvChildQuery *query)
{
  g_autoptr (GHashTable) seen = bdrv_file_key_set_new ();
  g_autoptr (GPtrArray) children = g_ptr_array_new_with_free_func (child_free);
  ChildSearch search = {
    .query = query,
    .look = { .flags = BDRV_O_NO_BACKING | BDRV_O_FORCE_SHARE | BDRV_O_NO_LOCK | BDRV_O_INCOMPLETE,
              .confine = query->places->confine,
              .drive_map = query->places->drive_map },
    .seen = seen,
    .children = children,
  };

  for (BlockDriverState *layer = query->leaf; layer; layer = layer->backing)
    {
      BdrvFileKey key;

      if (bdrv_file_key_of_node (layer, &key))
        g_hash_table_add (seen, g_memdup2 (&key, sizeof key));
    }
  for (BlockDriverState *layer = query->leaf; layer; layer = layer->backing)
    if (!co_search_beside_layer (&search, layer))
      return NULL;
  return g_steal_pointer (&children);
}
