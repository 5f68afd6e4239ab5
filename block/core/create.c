/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files for new images.
 *
 * A file that exists is opened as it is, which takes its locks: an image in use is refused with nothing changed.
 * The format's driver empties it when it has found nothing wrong with what is asked of it.
 */
#include "core-int.h"

#include <errno.h>
#include <inttypes.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CREATE_FLAGS (O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY)

/* Makes an empty file with the kernel watching that it comes to lie below @confine. */
static int
create_confined (const char *path, const char *confine)
{
  g_autofree char *dir = g_path_get_dirname (path);
  g_autofree char *base = g_path_get_basename (path);
  g_autofree char *real_dir = NULL;
  char *resolved = realpath (dir, NULL);
  char *root = realpath (confine, NULL);
  int fd = -1;

  if (resolved && root)
    {
      size_t len = strcmp (root, "/") == 0 ? 0 : strlen (root);
      errno = EXDEV;
      if (strncmp (resolved, root, len) == 0 && (resolved[len] == '/' || resolved[len] == '\0'))
        {
          const char *below = resolved + len;
          while (*below == '/')
            below++;
          real_dir = g_build_filename (*below ? below : ".", base, NULL);
          struct open_how how = { .flags = CREATE_FLAGS, .mode = 0666, .resolve = RESOLVE_BENEATH };
          int root_fd = open (root, O_PATH | O_DIRECTORY | O_CLOEXEC);
          fd = root_fd < 0 ? -1 : (int)syscall (SYS_openat2, root_fd, real_dir, &how, sizeof how);
          int err = errno;
          if (root_fd >= 0)
            close (root_fd);
          errno = err;
        }
    }
  int err = errno;
  free (resolved);
  free (root);
  errno = err;
  return fd;
}

/* *made: the file was not there before. */
static bool
ensure_exists (const char *path, const char *confine, bool *made, GError **error)
{
  struct stat st;

  *made = false;
  if (path[0] == '\0' || stat (path, &st) == 0)
    return true; /* bdrv_check_path () says the rest */
  int fd = errno != ENOENT ? -1 : confine ? create_confined (path, confine) : open (path, CREATE_FLAGS, 0666);
  if (fd < 0)
    {
      int err = errno;
      if (err == EXDEV)
        bdrv_set_path_error (error, path, VHDKIT_ERROR_PERMISSION, 0, "is outside of %s", confine);
      else
        bdrv_set_path_error (error, path, bdrv_error_code_from_errno (err), err, "cannot be created");
      return false;
    }
  close (fd);
  *made = true;
  return true;
}

static BlockDriverState *coroutine_fn
co_open_for_creation (const char *path, const BdrvOpenParams *params, GError **error)
{
  int flags = (params->flags & ~(BDRV_O_CHILD | BDRV_O_CHECK)) | BDRV_O_RDWR;
  struct stat st;

  if (!bdrv_check_path (path, BDRV_NAMED_BY_USER, params->confine, &st, error))
    return NULL;
  BlockDriverState *file = bdrv_co_open_protocol (path, &st, flags, params, error);
  if (!file)
    return NULL;
  return file;
}

BlockDriverState *coroutine_fn
bdrv_co_create_file (const char *filename, const BdrvOpenParams *params, GError **error)
{
  bool made;

  if (!ensure_exists (filename, params->confine, &made, error))
    return NULL;
  BlockDriverState *file = co_open_for_creation (filename, params, error);
  if (!file && made)
    unlink (filename);
  return file;
}

bool coroutine_fn
bdrv_co_create (const BlockDriver *drv, BlockDriverState *file, const BlockCreateParams *params,
                GError **error)
{
  if (!drv->co_create)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "%s images cannot be created",
                   drv->format_name);
      return false;
    }
  if (bdrv_check_range (0, params->bytes) < 0)
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_INVALID_ARGUMENT, "cannot make an image of %" PRId64 " bytes",
                      params->bytes);
      return false;
    }
  if (params->parent && !(drv->caps & BLOCK_CAP_BACKING))
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_UNSUPPORTED, "%s images cannot have a parent",
                      drv->format_name);
      return false;
    }
  if (params->parent && bdrv_same_file (params->parent, file))
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_INVALID_ARGUMENT, "cannot be its own parent");
      return false;
    }
  if (params->parent && bdrv_chain_depth (params->parent) >= BDRV_MAX_CHAIN_DEPTH)
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_UNSUPPORTED,
                      "the parent's chain has %d layers, no more are possible", BDRV_MAX_CHAIN_DEPTH);
      return false;
    }
  return drv->co_create (file, params, error);
}

bool coroutine_fn
bdrv_co_complete (BlockDriverState *bs, GError **error)
{
  int ret = bdrv_co_flush (bs);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "flush failed");
      return false;
    }
  return !bs->drv->co_complete || bs->drv->co_complete (bs, error);
}

/* --- for drivers ---------------------------------------------------------------------------------------- */

bool coroutine_fn
bdrv_co_clear_file (BlockDriverState *file, int64_t bytes, GError **error)
{
  int64_t old_bytes = bdrv_length (file);

  /* The longer length first: it is the one that the host may refuse. */
  if (bytes > old_bytes && !bdrv_co_truncate (file, bytes, error))
    return false;
  if (old_bytes == 0 || file->fixed_length)
    return true;
  if (!bdrv_co_truncate (file, 0, error) || !bdrv_co_truncate (file, bytes, error))
    return false;
  /* A crash must not leave parts of the old image among those of the new one. */
  int ret = bdrv_co_flush (file);
  if (ret < 0)
    bdrv_set_error_errno (error, file, ret, "cannot flush");
  return ret == 0;
}

bool
bdrv_check_incomplete (const BlockDriverState *bs, const char *where, GError **error)
{
  if (bs->open_flags & BDRV_O_INCOMPLETE)
    return true;
  bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                  "%s: the file is marked as not completely made, whatever was to fill it has not finished",
                  where);
  return false;
}

bool
bdrv_check_parent_format (const BlockDriverState *file, const BlockDriverState *parent,
                          const char *const *formats, GError **error)
{
  if (g_strv_contains (formats, parent->drv->format_name))
    return true;
  g_autofree char *list = g_strjoinv (" or ", (char **)formats);
  g_autofree char *name = bdrv_printable (parent->filename);
  bdrv_set_error (error, file, VHDKIT_ERROR_UNSUPPORTED,
                  "cannot have %s as its parent: a %s image, it must be %s", name, parent->drv->format_name,
                  list);
  return false;
}
