/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of open images by their names; see named-file.h. */
#include "named-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
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

/* --- whether a name may go ------------------------------------------------------------------------------ */

/* Where a name is looked at: whatever is known to be in the way says so.  The host has the last word: it may know of more
 * (another machine, a security module). */
typedef struct
{
  NamedFile *file;
  char *directory;
  const char *reason; /* a phrase about its directory or itself; NULL: none is needed beside the error */
} NameLook;

/* Whether we may do to files of others what their owners may.  Not known: yes. */
static bool
is_privileged_owner (void)
{
  struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
  struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

  return syscall (SYS_capget, &header, data) < 0
         || (data[CAP_TO_INDEX (CAP_FOWNER)].effective & CAP_TO_MASK (CAP_FOWNER)) != 0;
}

/* What the attributes of @path forbid, or NULL. */
static const char *
find_forbidding_attribute (const char *path, bool is_directory)
{
  struct statx stx;

  memset (&stx, 0, sizeof stx);
  if (statx (AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &stx) < 0)
    return NULL;
  if (stx.stx_attributes & STATX_ATTR_IMMUTABLE)
    return is_directory ? "its directory is immutable" : "it is immutable";
  if (stx.stx_attributes & STATX_ATTR_APPEND)
    return is_directory ? "its directory can only be added to" : "it can only be added to";
  return NULL;
}

/* In the thread pool: whether the name can be removed or replaced, 0 or -errno, with look->reason. */
static int
look_at_name (void *opaque)
{
  NameLook *look = opaque;
  NamedFile *file = look->file;
  struct stat directory;
  int ret = look_at_file (file);

  if (ret < 0)
    return ret;
  if ((look->reason = find_forbidding_attribute (look->directory, true))
      || (look->reason = find_forbidding_attribute (file->path, false)))
    return -EPERM;
  look->reason = "its directory cannot be written to";
  if (faccessat (AT_FDCWD, look->directory, W_OK | X_OK, AT_EACCESS) < 0)
    return -errno;
  if (stat (look->directory, &directory) < 0)
    return -errno;
  look->reason = "its directory is sticky, and both belong to somebody else";
  if ((directory.st_mode & S_ISVTX) != 0 && directory.st_uid != geteuid () && file->st.st_uid != geteuid ()
      && !is_privileged_owner ())
    return -EPERM;
  look->reason = NULL;
  return 0;
}

/* --- changes --------------------------------------------------------------------------------------------- */

void
named_directory_clear (NamedDirectory *directory)
{
  if (directory->fd >= 0)
    close (directory->fd);
  *directory = NAMED_DIRECTORY_NONE;
}

int
named_directory_open (NamedDirectory *directory, const char *path, const char *file)
{
  g_autofree char *folder = g_path_get_dirname (path);

  *directory = (NamedDirectory){ .fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
  /* Names can be changed in a directory that may not be read. */
  if (directory->fd < 0 && errno == EACCES)
    *directory = (NamedDirectory){
      .fd = open (file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC),
      .by_file = true,
    };
  return directory->fd < 0 ? -errno : 0;
}

int
named_directory_flush (const NamedDirectory *directory)
{
  const int fd = directory->fd;

  if (directory->by_file)
    return syncfs (fd) < 0 ? -errno : 0;
  /* EINVAL: the file system knows no such thing. */
  return fsync (fd) < 0 && errno != EINVAL ? -errno : 0;
}

static int
remove_file (void *opaque)
{
  NamedFile *file = opaque;
  g_auto (NamedDirectory) directory = NAMED_DIRECTORY_NONE;
  int ret = look_at_file (file);

  if (ret == 0)
    ret = named_directory_open (&directory, file->path, file->path);
  if (ret == 0 && unlink (file->path) < 0)
    ret = -errno;
  return ret < 0 ? ret : named_directory_flush (&directory);
}

static int
rename_file (void *opaque)
{
  NamedFile *file = opaque;
  g_auto (NamedDirectory) from = NAMED_DIRECTORY_NONE, to = NAMED_DIRECTORY_NONE;
  int ret = look_at_file (file);

  if (ret == 0)
    ret = named_directory_open (&from, file->path, file->path);
  if (ret == 0)
    ret = named_directory_open (&to, file->new_path, file->path);
  if (ret == 0 && rename (file->path, file->new_path) < 0)
    ret = -errno;
  /* First where it is now: a crash may leave both names, never none. */
  if (ret == 0)
    ret = named_directory_flush (&to);
  return ret < 0 ? ret : named_directory_flush (&from);
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

bool coroutine_fn
named_file_co_check_free (BlockDriverState *bs, NamedFile *file, const char *what, GError **error)
{
  NameLook look = { .file = file };
  int ret = named_file_get (bs, file) ? 0 : -ENOTSUP;
  g_autofree char *directory = ret == 0 ? g_path_get_dirname (file->path) : NULL;

  look.directory = directory;
  if (ret == 0)
    ret = aio_co_run_in_thread (look_at_name, &look);
  if (ret < 0 && look.reason)
    bdrv_set_error_errno (error, bs, ret, "%s: %s", what, look.reason);
  else if (ret < 0)
    named_file_set_error (error, bs, ret, what);
  return ret == 0;
}
