/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image locks; see the header for what they mean. */
#include "file-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <vhdkit/driver.h>

#define PERMISSIONS 4

static const char *const permission_names[PERMISSIONS] = { "consistent read", "write", "write unchanged",
                                                           "resize" };

FileLocks
file_locks_for_flags (int open_flags)
{
  FileLocks locks = { 0 };

  if (open_flags & BDRV_O_NO_LOCK)
    return locks;

  locks.held = FILE_PERM_CONSISTENT_READ;
  if (open_flags & BDRV_O_RDWR)
    locks.held |= FILE_PERM_WRITE | FILE_PERM_RESIZE;
  else if (open_flags & BDRV_O_FORCE_SHARE)
    return locks;
  locks.unshared = FILE_PERM_WRITE | FILE_PERM_RESIZE;
  return locks;
}

static int
set_byte (int fd, int type, off_t byte)
{
  struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
  int ret;

  do
    ret = fcntl (fd, F_OFD_SETLK, &lock);
  while (ret < 0 && errno == EINTR);
  return ret < 0 ? -errno : 0;
}

/* Whether somebody else has locked @byte; *pid is set where the system knows it, else to 0. */
static bool
byte_is_taken (int fd, off_t byte, pid_t *pid)
{
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

  if (fcntl (fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
    return false;
  /* Locks of open file descriptions have no process: -1. */
  *pid = MAX (lock.l_pid, 0);
  return true;
}

static void
unlock_set (int fd, off_t base, unsigned permissions)
{
  for (int i = 0; i < PERMISSIONS; i++)
    if (permissions & 1u << i)
      set_byte (fd, F_UNLCK, base + i);
}

static int
lock_set (int fd, off_t base, unsigned permissions)
{
  for (int i = 0; i < PERMISSIONS; i++)
    {
      if (!(permissions & 1u << i))
        continue;

      int ret = set_byte (fd, F_RDLCK, base + i);

      if (ret < 0)
        {
          unlock_set (fd, base, permissions & ((1u << i) - 1));
          return ret;
        }
    }
  return 0;
}

static FileLocks
locks_without (FileLocks locks, FileLocks other)
{
  return (FileLocks){ .held = locks.held & ~other.held, .unshared = locks.unshared & ~other.unshared };
}

int
file_locks_add (int fd, FileLocks *now, FileLocks wanted)
{
  FileLocks more = locks_without (wanted, *now);
  int ret = lock_set (fd, FILE_LOCK_HELD_BYTE, more.held);

  if (ret < 0)
    return ret;
  ret = lock_set (fd, FILE_LOCK_UNSHARED_BYTE, more.unshared);
  if (ret < 0)
    {
      unlock_set (fd, FILE_LOCK_HELD_BYTE, more.held);
      return ret;
    }
  now->held |= more.held;
  now->unshared |= more.unshared;
  return 0;
}

void
file_locks_downgrade (int fd, FileLocks *now, FileLocks wanted)
{
  FileLocks less = locks_without (*now, wanted);

  unlock_set (fd, FILE_LOCK_HELD_BYTE, less.held);
  unlock_set (fd, FILE_LOCK_UNSHARED_BYTE, less.unshared);
  now->held &= ~less.held;
  now->unshared &= ~less.unshared;
}

/* @permission: the one that somebody else holds (@held) or does not share. */
static char *
describe_conflict (int fd, int permission, bool held, pid_t pid)
{
  pid_t unused;
  bool writer = byte_is_taken (fd, FILE_LOCK_HELD_BYTE + 1, &unused);
  g_autofree char *process =
      pid > 0 ? g_strdup_printf ("process %d", (int)pid) : g_strdup ("another process");

  return g_strdup_printf ("in use by %s, a %s that %s the \"%s\" permission", process,
                          writer ? "writer" : "reader", held ? "holds" : "does not share",
                          permission_names[permission]);
}

/* A contradiction between @mine and what others have, or NULL. */
static char *
find_conflict (int fd, FileLocks mine)
{
  pid_t pid;

  for (int i = 0; i < PERMISSIONS; i++)
    if (mine.unshared & 1u << i && byte_is_taken (fd, FILE_LOCK_HELD_BYTE + i, &pid))
      return describe_conflict (fd, i, true, pid);
  for (int i = 0; i < PERMISSIONS; i++)
    if (mine.held & 1u << i && byte_is_taken (fd, FILE_LOCK_UNSHARED_BYTE + i, &pid))
      return describe_conflict (fd, i, false, pid);
  return NULL;
}

int
file_locks_upgrade (int fd, FileLocks *now, FileLocks wanted, char **why)
{
  FileLocks before = *now;
  int ret = file_locks_add (fd, now, wanted);

  /* Nobody who follows the scheme locks exclusively, but such a lock is a plain no. */
  if (ret == -EAGAIN || ret == -EACCES)
    {
      *why = g_strdup ("in use by another process that has locked it exclusively");
      return -EBUSY;
    }
  if (ret < 0)
    return ret;

  *why = find_conflict (fd, locks_without (wanted, before));
  if (*why == NULL)
    return 0;
  file_locks_downgrade (fd, now, before);
  return -EBUSY;
}
