/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of the merged files that are to go, for a run that is interrupted among them; see remains.c. */
#ifndef JOBS_REMAINS_H
#define JOBS_REMAINS_H

#include "block.h"

G_BEGIN_DECLS

/* @name is where the target will be, @layers (of BlockDriverState *) are to be removed, all of them from @source on
 * down; @source is the path by which the list is found.  Durable on return: 0 or -errno. */
int coroutine_fn remains_co_write (const char *source, BlockDriverState *target, const char *name,
                                   const GPtrArray *layers);
/* All are gone. */
int coroutine_fn remains_co_forget (const char *source);

/* Removes what the list beside @source (as a user names it; it may be gone) says and is still there, and the list.
 * Returns the paths of what was removed, of char *.  NULL with @error: NOT_FOUND: there is no list, or nothing it says
 * is gone yet: @source is whole.  Else something is not what it was, and what is left is named. */
GPtrArray *coroutine_fn remains_co_remove (const char *source, const char *confine, GError **error);

G_END_DECLS

#endif
