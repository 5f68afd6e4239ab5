/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image locks: what a user of an image file may do and what it lets others do, as bytes locked in the file.
 *
 * Byte 100 + n locked: somebody holds permission n.  Byte 200 + n locked: somebody does not share it.  All
 * locks are shared ones of the open file description, so everybody sees everybody; each user locks first and
 * looks for contradictions afterwards, so of two racers at least one notices.
 */
#ifndef FILE_LOCK_H
#define FILE_LOCK_H

#include <stdbool.h>

#include <glib.h>

#define FILE_LOCK_HELD_BYTE     100
#define FILE_LOCK_UNSHARED_BYTE 200

typedef enum
{
  FILE_PERM_CONSISTENT_READ = 1 << 0,
  FILE_PERM_WRITE = 1 << 1,
  FILE_PERM_WRITE_UNCHANGED = 1 << 2,
  FILE_PERM_RESIZE = 1 << 3,
} FilePermission;

/* Sets of FilePermission. */
typedef struct
{
  unsigned held;
  unsigned unshared;
} FileLocks;

/* What a node with these BdrvOpenFlags takes. */
FileLocks file_locks_for_flags (int open_flags);

/* Goes from @now to @wanted, a superset of it, on @fd.  May block on a network file system.
 * 0, *now is @wanted.  -EBUSY: somebody else's locks contradict, *why tells whose in one phrase (free with
 * g_free ()).  Another -errno: the file system has no such locks.  On failure *now is what it was. */
int file_locks_upgrade (int fd, FileLocks *now, FileLocks wanted, char **why);
/* The same without a look at others: for a second descriptor of a file that is locked already.  0 or
 * -errno. */
int file_locks_add (int fd, FileLocks *now, FileLocks wanted);
/* Gives up what *now has and @wanted has not. */
void file_locks_downgrade (int fd, FileLocks *now, FileLocks wanted);

#endif
