/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding a host file.
 *
 * Names are resolved once, to an O_PATH descriptor; everything after (what kind of file it is, opening it for
 * reading or writing, its real name) goes by that descriptor, so nobody can put another file under the name
 * in between.  Confinement does not trust a name looked at before, either: the name resolved in the first
 * step only says where below the directory to look, and the kernel (RESOLVE_BENEATH) refuses to leave it.
 */
#include "host-path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vhdkit/error.h>

static void
set_errno_error (GError **error, int code, const char *what)
{
  VhdkitError domain_code = VHDKIT_ERROR_IO;

  switch (code)
    {
    case ENOENT:
    case ENOTDIR:
      domain_code = VHDKIT_ERROR_NOT_FOUND;
      break;
    case EACCES:
    case EPERM:
      domain_code = VHDKIT_ERROR_PERMISSION;
      break;
    case EROFS:
      domain_code = VHDKIT_ERROR_READ_ONLY;
      break;
    case ENOSPC:
    case EDQUOT:
      domain_code = VHDKIT_ERROR_NO_SPACE;
      break;
    case ENAMETOOLONG:
    case ELOOP:
      domain_code = VHDKIT_ERROR_INVALID_ARGUMENT;
      break;
    }
  g_set_error (error, VHDKIT_ERROR, domain_code, "%s: %s", what, g_strerror (code));
}

static void
set_outside_error (GError **error, const char *path, const char *confine)
{
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PERMISSION,
               "'%s' does not lie below '%s', to which access is confined", path, confine);
}

/* @path relative to @directory, both absolute and free of "..": a pointer into @path, or NULL if it is not
 * below. */
static const char *
path_below (const char *path, const char *directory)
{
  size_t length = strlen (directory);

  while (length > 0 && directory[length - 1] == '/')
    length--;
  if (strncmp (path, directory, length) != 0 || path[length] != '/')
    return NULL;
  path += length;
  while (*path == '/')
    path++;
  return *path != '\0' ? path : NULL;
}

/* @path with links resolved; of a file that is not there, its directory's.  NULL: neither can be. */
static char *
resolve (const char *path)
{
  char *resolved = realpath (path, NULL);

  if (resolved != NULL)
    {
      char *copy = g_strdup (resolved);

      free (resolved);
      return copy;
    }
  if (errno != ENOENT)
    return NULL;

  g_autofree char *directory = g_path_get_dirname (path);
  g_autofree char *name = g_path_get_basename (path);

  resolved = realpath (directory, NULL);
  if (resolved == NULL)
    {
      errno = ENOENT;
      return NULL;
    }

  char *joined = g_build_filename (resolved, name, NULL);

  free (resolved);
  return joined;
}

static int
open_beneath (int directory, const char *relative, uint64_t flags)
{
  struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
  int fd;

  /* EAGAIN: something was renamed meanwhile and the kernel could not be sure.  A storm of renames may be an
   * attack, so there is an end to trying. */
  for (int tries = 0; tries < 32; tries++)
    {
      fd = syscall (SYS_openat2, directory, relative, &how, sizeof how);
      if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
        break;
    }
  return fd;
}

static int
open_confined (const char *path, const char *confine, GError **error)
{
  int directory = open (confine, O_PATH | O_DIRECTORY | O_CLOEXEC);

  if (directory < 0)
    {
      g_autofree char *what = g_strdup_printf ("cannot open the confining directory '%s'", confine);

      set_errno_error (error, errno, what);
      return -1;
    }

  g_autofree char *real_confine = host_path_of_fd (directory, confine);
  g_autofree char *real_path = resolve (path);
  int resolve_errno = errno;
  g_autofree char *plain_path = g_canonicalize_filename (path, NULL);
  const char *relative = path_below (real_path != NULL ? real_path : plain_path, real_confine);
  int fd = -1;

  if (relative == NULL)
    set_outside_error (error, path, confine); /* and no word on whether it is there */
  else if (real_path == NULL)
    set_errno_error (error, resolve_errno, "cannot open");
  else
    {
      fd = open_beneath (directory, relative, O_PATH);
      if (fd < 0 && (errno == EXDEV || errno == ELOOP))
        set_outside_error (error, path, confine);
      else if (fd < 0 && errno == ENOSYS)
        g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                     "access cannot be confined to '%s': this system has no openat2", confine);
      else if (fd < 0)
        set_errno_error (error, errno, "cannot open");
    }
  close (directory);
  return fd;
}

int
host_path_open (const char *path, const char *confine, GError **error)
{
  if (confine != NULL)
    return open_confined (path, confine, error);

  int fd = open (path, O_PATH | O_CLOEXEC);

  if (fd < 0)
    set_errno_error (error, errno, "cannot open");
  return fd;
}

bool
host_fs_is_local (const struct statfs *fs)
{
  switch ((unsigned long)fs->f_type)
    {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
      return true;
    default:
      return false;
    }
}

int
host_path_open_at_hand (const char *path, struct statfs *fs)
{
  struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_CACHED };
  int fd = (int)syscall (SYS_openat2, AT_FDCWD, path, &how, sizeof how);
  struct stat st;

  if (fd < 0)
    return -1;
  if (fstat (fd, &st) == 0 && S_ISREG (st.st_mode) && fstatfs (fd, fs) == 0 && host_fs_is_local (fs))
    return fd;
  close (fd);
  return -1;
}

static bool
same_file (int fd, const struct stat *other)
{
  struct stat st;

  return fstat (fd, &st) == 0 && st.st_dev == other->st_dev && st.st_ino == other->st_ino;
}

char *
host_path_of_fd (int fd, const char *path)
{
  g_autofree char *link = g_strdup_printf ("/proc/self/fd/%d", fd);
  g_autofree char *name = g_file_read_link (link, NULL);
  struct stat st;

  /* What the link says of a file that was removed or lies outside our root is no name. */
  if (name != NULL && name[0] == '/' && stat (name, &st) == 0 && same_file (fd, &st))
    return g_steal_pointer (&name);

  char *resolved = realpath (path, NULL);
  char *copy = resolved != NULL ? g_strdup (resolved) : g_canonicalize_filename (path, NULL);

  free (resolved);
  return copy;
}

int
host_path_reopen (int fd, const char *path, int flags)
{
  g_autofree char *link = g_strdup_printf ("/proc/self/fd/%d", fd);
  struct stat st;
  int opened = open (link, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

  if (opened < 0 && errno == ENOENT)
    opened = open (path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* no /proc here */
  if (opened < 0)
    return -errno;
  if (fstat (fd, &st) < 0 || !same_file (opened, &st))
    {
      close (opened);
      return -ESTALE;
    }

  /* It has done its duty at open; io_uring would take it as "never wait". */
  int status = fcntl (opened, F_GETFL);

  if (status >= 0)
    fcntl (opened, F_SETFL, status & ~O_NONBLOCK);
  return opened;
}
