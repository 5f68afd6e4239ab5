/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding a host file without touching it, inside a directory if so asked. */
#ifndef HOST_PATH_H
#define HOST_PATH_H

#include <stdbool.h>
#include <sys/vfs.h>

#include <glib.h>

/* Opens @path as a mere place (O_PATH): no device is woken, no FIFO waited for.  With @confine, the file must
 * lie below that directory once all symbolic links are resolved, checked by the kernel in the same step.
 * Blocks.  A descriptor, or -1 and @error, a phrase without the file's name. */
int host_path_open (const char *path, const char *confine, GError **error);

/* The same, unconfined, of a regular file on a file system of this host (*@fs) whose way is known to the kernel: to open
 * it waits for nothing.  -1: @path is none.  Does not block. */
int host_path_open_at_hand (const char *path, struct statfs *fs);

/* Whether to open and to close a file of @fs asks no server and no other process. */
bool host_fs_is_local (const struct statfs *fs);

/* The absolute path of an open descriptor with links resolved, as it is now; falls back to resolving @path.
 * Free with g_free (). */
char *host_path_of_fd (int fd, const char *path);

/* A new description of the file behind @fd with other open flags: 0 <= result, or -errno.  -ESTALE when the
 * system gives another file.  @path is tried where the system has no way by descriptor. */
int host_path_reopen (int fd, const char *path, int flags);

#endif
