/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of open images by their names: renamed, removed, and only while the name still means what was opened.
 *
 * All changes are durable on return.
 */
#ifndef JOBS_NAMED_FILE_H
#define JOBS_NAMED_FILE_H

#include <sys/stat.h>

#include "block.h"

G_BEGIN_DECLS

typedef struct
{
  const char *path; /* absolute, symlinks resolved; borrowed from the node */
  const char *new_path;
  uint64_t id[2]; /* device and inode that were opened */
  struct stat st;
} NamedFile;

/* The name under which @bs was opened.  false: it is no file of the host. */
bool named_file_get (BlockDriverState *bs, NamedFile *file);
/* Whether the name means the regular file that was opened: 0, with @st; -ESTALE: another one; -ENOTSUP: none; or -errno. */
int coroutine_fn named_file_co_look (NamedFile *file);
/* Both in one; @what: what cannot be done with it then, for the message. */
bool coroutine_fn named_file_co_check (BlockDriverState *bs, NamedFile *file, const char *what,
                                       GError **error);
/* The same, and whether that name may be removed or replaced, as far as that can be told without doing it: by the
 * directory's permissions, the owners in a sticky one, attributes, a read-only file system. */
bool coroutine_fn named_file_co_check_free (BlockDriverState *bs, NamedFile *file, const char *what,
                                            GError **error);
/* 0 or -errno, as named_file_co_look (). */
int coroutine_fn named_file_co_remove (NamedFile *file);
/* To @new_path, which is replaced. */
int coroutine_fn named_file_co_rename (NamedFile *file);
/* @ret: of one of these. */
void named_file_set_error (GError **error, const BlockDriverState *bs, int ret, const char *what);

/* --- for the thread pool --------------------------------------------------------------------------------- */

/* What is flushed to make names durable. */
typedef struct
{
  int fd;       /* of the directory … */
  bool by_file; /* … or, since that may not be read, of a file: all of its file system is flushed */
} NamedDirectory;

#define NAMED_DIRECTORY_NONE ((NamedDirectory){ .fd = -1 })

/* Of @path, before its name is changed: what cannot be made durable is not done.  @file: one that may be read, of the same
 * file system.  0 or -errno. */
int named_directory_open (NamedDirectory *directory, const char *path, const char *file);
/* All names in it are durable: 0 or -errno. */
int named_directory_flush (const NamedDirectory *directory);
void named_directory_clear (NamedDirectory *directory);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NamedDirectory, named_directory_clear)

G_END_DECLS

#endif
