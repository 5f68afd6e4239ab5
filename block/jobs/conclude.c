/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of the merged layers' files after a commit: C the source, M the layers between, P the target, D the
 * children of C.  P shows what C shows, and that is durable.
 *
 *   A1  each D gets P as its parent (the driver changes the link in one step).  Left out where A2 is possible and P is
 *       to be renamed: then no D need be touched, those nobody has told of included.
 *   A2  formats whose children know the content they are above, if P is to be renamed: the layer above P accepts the
 *       identity of C for its parent, then P takes it.
 *   A3  P is renamed to the path of C, and the directories are flushed.
 *   A4  each D of A1 names P by its new path alone.
 *   A5  the files of the layers between are removed, from the one above P upwards, and C's at last, if P has not
 *       replaced it; the directory is flushed after each.
 *
 * Crash points.  What a crash leaves:
 *  A1 each D has C or P as its parent, and reads the same.  P is where D looks first; where P is to be renamed, D also
 *     names the path of C, where for now it finds C, which has another identity.
 *  A2 the link of the layer above P holds with P's old identity and with its new one.  D finds C by its path, where C
 *     is until A3; P then has the identity D knows.
 *  A3 a rename is done or not done.  Before: as A2, or D finds P by its first path.  After: P is where C was.  Layers
 *     between find no parent any more.
 *  A4 D has the old link or the new one, and both lead to P.
 *  A5 P and each D read as before.  What is left of the merged layers is all of them, or misses a layer and cannot be
 *     opened: nothing is left that opens and shows a mixture of C and P, as a layer between would with P alone.
 *
 * The job run again finishes what is left until A3, or until the first file of A5 is gone.  It must not merge again
 * once a D has P as its parent: the merge could give P another identity.  And whoever names as a D an image that always
 * was above P must not lose it.  Both are told by content: P shows all that C shows, so nothing is merged and D reads
 * the same; or it does not, and D is refused.
 */
#include "conclude.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Content is compared in pieces of this size. */
#define COMPARE_BYTES (1024 * 1024)
/* So many are named in the message. */
#define MAX_NAMED 5

struct Conclude
{
  ConcludeParams params;
  BlockDriverState *lowest; /* of the merged layers: the target's child */
  GPtrArray *children;      /* of BlockDriverState *, references: to be linked to the target (A1) */
  bool takes_identity;      /* A2 */
};

/* --- files ----------------------------------------------------------------------------------------------- */

/* The file of an open image, by its name. */
typedef struct
{
  const char *path; /* absolute, symlinks resolved */
  const char *new_path;
  uint64_t id[2]; /* device and inode that were opened */
  struct stat st;
} HostFile;

static bool
get_host_file (BlockDriverState *bs, HostFile *file)
{
  BlockDriverState *protocol = bdrv_protocol_node (bs);

  *file = (HostFile){ .path = bdrv_get_host_path (bs) };
  return file->path != NULL && protocol->drv->get_host_id != NULL
         && protocol->drv->get_host_id (protocol, file->id);
}

/* In the thread pool, as all that follow: the name still means the regular file that was opened. */
static int
look_at_file (void *opaque)
{
  HostFile *file = opaque;

  if (lstat (file->path, &file->st) < 0)
    return -errno;
  if (!S_ISREG (file->st.st_mode))
    return -ENOTSUP;
  return file->st.st_dev == file->id[0] && file->st.st_ino == file->id[1] ? 0 : -ESTALE;
}

static int
flush_directory_of (const char *path)
{
  g_autofree char *directory = g_path_get_dirname (path);
  int fd = open (directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int ret;

  if (fd < 0)
    return -errno;
  /* EINVAL: the file system knows no such thing. */
  ret = fsync (fd) < 0 && errno != EINVAL ? -errno : 0;
  close (fd);
  return ret;
}

static int
remove_file (void *opaque)
{
  HostFile *file = opaque;
  int ret = look_at_file (file);

  if (ret == 0 && unlink (file->path) < 0)
    ret = -errno;
  return ret < 0 ? ret : flush_directory_of (file->path);
}

static int
rename_file (void *opaque)
{
  HostFile *file = opaque;
  int ret = look_at_file (file);

  if (ret == 0 && rename (file->path, file->new_path) < 0)
    ret = -errno;
  /* First where it is now: a crash may leave both names, never none. */
  if (ret == 0)
    ret = flush_directory_of (file->new_path);
  return ret < 0 ? ret : flush_directory_of (file->path);
}

static void
set_file_error (GError **error, const BlockDriverState *bs, int ret, const char *what)
{
  if (ret == -ESTALE)
    bdrv_set_error (error, bs, VHDKIT_ERROR_IN_USE, "%s: its name leads to another file than the one opened",
                    what);
  else if (ret == -ENOTSUP)
    bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "%s: it is not a regular file", what);
  else
    bdrv_set_error_errno (error, bs, ret, "%s", what);
}

static bool coroutine_fn
co_check_file (BlockDriverState *bs, HostFile *file, const char *what, GError **error)
{
  int ret = get_host_file (bs, file) ? aio_co_run_in_thread (look_at_file, file) : -ENOTSUP;

  if (ret < 0)
    set_file_error (error, bs, ret, what);
  return ret == 0;
}

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
  HostFile from, to;

  if (!check_name (params, error) || !co_check_file (target, &from, "cannot be renamed", error)
      || !co_check_file (params->source, &to, "cannot be replaced", error))
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

static BlockParentChange
change_for (const Conclude *conclude, BlockDriverState *child, bool renamed)
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
  BlockParentChange change = change_for (conclude, child, false);

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
  parent = bdrv_co_find_parent_layer (child, params->source, params->target, &look);
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

/* Nobody loses the parent: not of the source, whose name goes to an image that children do not take for it, nor of
 * what is removed, nor of a target that loses its name.  Before a merge children of the target and of the layers
 * between are looked for by siblings.c; @merged: that is not so any more, or will not be. */
static bool coroutine_fn
co_check_orphans (Conclude *conclude, bool merged, GError **error)
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
  found = bdrv_co_find_children (params->leaf, params->source, last, &params->places);
  for (guint i = 0; i < found->len; i++)
    {
      const BdrvChild *child = g_ptr_array_index (found, i);
      bool of_source = child->parent == params->source;

      if (is_path_listed (conclude, child->path) || (of_source ? !source_goes : !between_go))
        continue;
      if (orphans++ < MAX_NAMED)
        g_string_append_printf (names, "%s%s above %s", orphans > 1 ? ", " : "", child->path,
                                child->parent->filename);
    }
  if (orphans == 0)
    return true;
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

/* Whether the target shows what the source does in a range that a layer above the target decides. */
static int coroutine_fn
co_compare_range (const ConcludeParams *params, int64_t offset, int64_t bytes, uint8_t *buffers[2])
{
  for (int64_t end = offset + bytes, n; offset < end; offset += n)
    {
      int ret;

      n = MIN (end - offset, COMPARE_BYTES);
      ret = bdrv_co_pread (params->source, offset, n, buffers[0]);
      if (ret == 0)
        ret = bdrv_co_pread (params->target, offset, n, buffers[1]);
      if (ret < 0)
        return ret;
      if (memcmp (buffers[0], buffers[1], (size_t)n) != 0)
        return 0;
    }
  return 1;
}

/* 1, 0 or -errno. */
static int coroutine_fn
co_shows_same (Job *job, const ConcludeParams *params, uint8_t *buffers[2])
{
  int64_t end = bdrv_length (params->source);
  int same = end == bdrv_length (params->target);

  for (int64_t offset = 0, bytes; same > 0 && offset < end; offset += bytes)
    {
      int64_t map;
      BlockDriverState *file;
      int ret = job_co_pause_point (job);

      if (ret == 0)
        ret = bdrv_co_block_status_above (params->source, params->target, offset,
                                          MIN (end - offset, 64 * COMPARE_BYTES), &bytes, &map, &file, NULL);
      if (ret < 0)
        return ret;
      if (ret & BDRV_BLOCK_ALLOCATED)
        same = co_compare_range (params, offset, bytes, buffers);
    }
  return same;
}

static bool coroutine_fn
co_check_merged (Job *job, const ConcludeParams *params, BlockDriverState *child, GError **error)
{
  uint8_t *buffers[2] = { bdrv_try_alloc_buffer (params->source, COMPARE_BYTES),
                          bdrv_try_alloc_buffer (params->target, COMPARE_BYTES) };
  int ret = buffers[0] && buffers[1] ? co_shows_same (job, params, buffers) : -ENOMEM;

  bdrv_free_buffer (buffers[0]);
  bdrv_free_buffer (buffers[1]);
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

/* --- before the merge ------------------------------------------------------------------------------------ */

static bool
is_removed (const ConcludeParams *params, const BlockDriverState *layer)
{
  return params->delete_sources && !(params->rename_target && layer == params->source);
}

static bool coroutine_fn
co_check (Job *job, Conclude *conclude, bool *merged, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *above_target;

  if (params->rename_target && !co_check_rename (conclude, error))
    return false;
  for (BlockDriverState *layer = params->source; layer != params->target; layer = layer->backing)
    {
      HostFile file;

      if (is_removed (params, layer) && !co_check_file (layer, &file, "cannot be removed", error))
        return false;
    }
  if (!co_open_children (conclude, &above_target, error))
    return false;
  /* That child knows the target by the identity it has: it keeps that, and all follow its name. */
  if (above_target != NULL)
    conclude->takes_identity = false;
  if (!add_layer_above (conclude, error) || !co_check_orphans (conclude, above_target != NULL, error))
    return false;
  *merged = above_target != NULL;
  return !above_target || co_check_merged (job, params, above_target, error);
}

static bool
has_identity (BlockDriverState *bs)
{
  static const uint8_t none[BLOCK_IDENTITY_SIZE];
  uint8_t identity[BLOCK_IDENTITY_SIZE];

  return bdrv_get_identity (bs, identity) && memcmp (identity, none, sizeof none) != 0;
}

/* Removed is removed for good; what takes its place has to be on the disk before. */
static bool
check_flushes (const ConcludeParams *params, GError **error)
{
  if (!(params->target->open_flags & BDRV_O_NO_FLUSH)
      || !(params->delete_sources || params->rename_target || params->relink))
    return true;
  bdrv_set_error (
      error, params->target, VHDKIT_ERROR_INVALID_ARGUMENT,
      "opened without flushes (cache mode unsafe): nothing may be removed, renamed or relinked on the "
      "strength of it");
  return false;
}

Conclude *coroutine_fn
conclude_co_new (Job *job, const ConcludeParams *params, bool *merged, GError **error)
{
  Conclude *conclude = g_new0 (Conclude, 1);

  *merged = false;
  conclude->params = *params;
  conclude->children = g_ptr_array_new ();
  conclude->lowest = params->source;
  while (conclude->lowest->backing != params->target)
    conclude->lowest = conclude->lowest->backing;
  conclude->takes_identity = params->rename_target && params->target->drv->co_take_identity
                             && conclude->lowest->drv->co_accept_identity;
  /* An odd image that has none. */
  if (conclude->takes_identity)
    conclude->takes_identity = has_identity (params->source);
  if (check_flushes (params, error) && co_check (job, conclude, merged, error))
    return conclude;
  conclude_co_free (conclude);
  return NULL;
}

static bool coroutine_fn
co_make_writable (BlockDriverState *bs, const char *why, GError **error)
{
  if (!bs->read_only || bdrv_co_reopen_rw (bs, error))
    return true;
  g_prefix_error (error, "%s: ", why);
  return false;
}

bool coroutine_fn
conclude_co_lock (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *layer = params->source;

  for (guint i = 0; i < conclude->children->len; i++)
    if (!co_make_writable (g_ptr_array_index (conclude->children, i), "its link is to change", error))
      return false;
  for (; layer != params->target; layer = layer->backing)
    {
      bool replaced = params->rename_target && layer == params->source;

      if ((replaced || is_removed (params, layer))
          && !co_make_writable (layer, replaced ? "it is to be replaced" : "it is to be removed", error))
        return false;
    }
  return !conclude->takes_identity || co_make_writable (conclude->lowest, "its link is to change", error);
}

/* --- after the merge ------------------------------------------------------------------------------------- */

/* A1 and A4. */
static bool coroutine_fn
co_relink (Conclude *conclude, bool renamed, GError **error)
{
  for (guint i = 0; i < conclude->children->len; i++)
    {
      BlockDriverState *child = g_ptr_array_index (conclude->children, i);
      BlockParentChange change = change_for (conclude, child, renamed);

      if (!child->drv->co_change_parent (child, &change, error))
        return false;
    }
  return true;
}

/* A2. */
static bool coroutine_fn
co_take_identity (Conclude *conclude, GError **error)
{
  BlockDriverState *target = conclude->params.target, *lowest = conclude->lowest;
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  int ret;

  if (!bdrv_get_identity (conclude->params.source, identity))
    return true;
  if (!lowest->drv->co_accept_identity (lowest, identity, error))
    return false;
  ret = target->drv->co_take_identity (target, identity);
  if (ret < 0)
    bdrv_set_error_errno (error, target, ret, "cannot take the identity of %s",
                          conclude->params.source->filename);
  return ret == 0;
}

/* A3. */
static bool coroutine_fn
co_rename (Conclude *conclude, GError **error)
{
  HostFile from, to;
  int ret;

  if (!co_check_file (conclude->params.source, &to, "cannot be replaced", error)
      || !co_check_file (conclude->params.target, &from, "cannot be renamed", error))
    return false;
  from.new_path = to.path;
  ret = aio_co_run_in_thread (rename_file, &from);
  if (ret < 0)
    set_file_error (error, conclude->params.target, ret, "cannot be renamed");
  return ret == 0;
}

/* Whether what holds the content now can still be found by name: else the last of it would go with the sources.
 * @renamed: it has the source's. */
static bool coroutine_fn
co_check_target_name (Conclude *conclude, bool renamed, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *target = params->target;
  HostFile file;
  int ret;

  if (bdrv_protocol_node (target)->fixed_length)
    return true; /* a device */
  ret = get_host_file (target, &file) ? 0 : -ENOTSUP;
  if (renamed)
    file.path = bdrv_get_host_path (params->source);
  if (ret == 0)
    ret = aio_co_run_in_thread (look_at_file, &file);
  if (ret < 0)
    set_file_error (error, target, ret, "cannot be relied on");
  return ret == 0;
}

/* The files are those that were locked, and nobody has come to depend on them meanwhile. */
static bool coroutine_fn
co_look_again (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  HostFile file;

  if (conclude->children->len == 0 && !params->delete_sources && !params->rename_target)
    return true;
  for (guint i = 0; i < conclude->children->len; i++)
    {
      BlockDriverState *child = g_ptr_array_index (conclude->children, i);

      if (!bdrv_protocol_node (child)->fixed_length
          && !co_check_file (child, &file, "cannot be relinked", error))
        return false;
    }
  return co_check_target_name (conclude, false, error) && co_check_orphans (conclude, true, error);
}

/* A5. */
static bool coroutine_fn
co_remove (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *below = params->target;

  while (below != params->source)
    {
      BlockDriverState *layer = params->source;
      HostFile file;
      int ret;

      while (layer->backing != below)
        layer = layer->backing;
      below = layer;
      if (!is_removed (params, layer))
        continue;
      if (!co_check_target_name (conclude, params->rename_target, error))
        return false;
      ret = get_host_file (layer, &file) ? aio_co_run_in_thread (remove_file, &file) : -ENOTSUP;
      if (ret < 0)
        {
          set_file_error (error, layer, ret, "cannot be removed");
          return false;
        }
    }
  return true;
}

static bool coroutine_fn
co_conclude (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;

  if (!co_look_again (conclude, error))
    return false;
  if (conclude->takes_identity ? !co_take_identity (conclude, error) : !co_relink (conclude, false, error))
    return false;
  if (params->rename_target
      && (!co_rename (conclude, error) || (!conclude->takes_identity && !co_relink (conclude, true, error))))
    return false;
  return !params->delete_sources || co_remove (conclude, error);
}

bool coroutine_fn
conclude_co_run (Conclude *conclude, GError **error)
{
  if (co_conclude (conclude, error))
    return true;
  g_prefix_error (error, "the merge is complete, what was to follow is not: ");
  return false;
}

void coroutine_fn
conclude_co_free (Conclude *conclude)
{
  if (!conclude)
    return;
  for (guint i = 0; i < conclude->children->len; i++)
    bdrv_co_unref (g_ptr_array_index (conclude->children, i));
  g_ptr_array_unref (conclude->children);
  g_free (conclude);
}
