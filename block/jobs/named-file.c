/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of open images by their names; see named-file.h. */
#include "named-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

bool
named_file_get (BlockDriverState *bs, NamedFile *file)
{
  BlockDriverState *protocol = bdrv_protocol_node (bs);

  *file = (NamedFile){ .path = bdrv_get_host_path (bs) };
  return file->path != NULL && protocol->drv->get_host_id != NULL
         && protocol->drv->get_host_id (protocol, file->id);
}

/* In the thread pool, as all that follow: the name still means the regular file that was opened. */
static int
look_at_file (void *opaque)
{
  NamedFile *file = opaque;

  if (lstat (file->path, &file->st) < 0)
    return -errno;
  if (!S_ISREG (file->st.st_mode))
    return -ENOTSUP;
  return file->st.st_dev == file->id[0] && file->st.st_ino == file->id[1] ? 0 : -ESTALE;
}

int
named_file_flush_directory (const char *path)
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
  NamedFile *file = opaque;
  int ret = look_at_file (file);

  if (ret == 0 && unlink (file->path) < 0)
    ret = -errno;
  return ret < 0 ? ret : named_file_flush_directory (file->path);
}

static int
rename_file (void *opaque)
{
  NamedFile *file = opaque;
  int ret = look_at_file (file);

  if (ret == 0 && rename (file->path, file->new_path) < 0)
    ret = -errno;
  /* First where it is now: a crash may leave both names, never none. */
  if (ret == 0)
    ret = named_file_flush_directory (file->new_path);
  return ret < 0 ? ret : named_file_flush_directory (file->path);
}

void
named_file_set_error (GError **error, const BlockDriverState *bs, int ret, const char *what)
{
  if (ret == -ESTALE)
    bdrv_set_error (error, bs, VHDKIT_ERROR_IN_USE, "%s: its name leads to another file than the one opened",
                    what);
  else if (ret == -ENOTSUP)
    bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "%s: it is not a regular file", what);
  else
    bdrv_set_error_errno (error, bs, ret, "%s", what);
}

int coroutine_fn
named_file_co_look (NamedFile *file)
{
  return aio_co_run_in_thread (look_at_file, file);
}

int coroutine_fn
named_file_co_remove (NamedFile *file)
{
  return aio_co_run_in_thread (remove_file, file);
}

int coroutine_fn
named_file_co_rename (NamedFile *file)
{
  return aio_co_run_in_thread (rename_file, file);
}

bool coroutine_fn
named_file_co_check (BlockDriverState *bs, NamedFile *file, const char *what, GError **error)
{
  int ret = named_file_get (bs, file) ? named_file_co_look (file) : -ENOTSUP;

  if (ret < 0)
    named_file_set_error (error, bs, ret, what);
  return ret == 0;
}
