/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space of the host file, given back or filled in where it is; see compact-host.c. */
#ifndef JOBS_COMPACT_HOST_H
#define JOBS_COMPACT_HOST_H

#include "block.h"
#include "free-space.h"
#include "job.h"

G_BEGIN_DECLS

/* All return false with @error, which is CANCELLED when the job was. */

/* Punches holes where no extent of @layout stands, up to the last one. */
bool coroutine_fn compact_co_punch_gaps (Job *job, BlockDriverState *bs, const BlockLayout *layout,
                                         GError **error);
/* Punches holes where payload blocks of @layout (NULL: the disk, of a fixed image) store what is free by @free_space.
 * Adds to *@punched the bytes that were stored there; @dry_run: does no more than that. */
bool coroutine_fn compact_co_punch_free (Job *job, BlockDriverState *bs, const BlockLayout *layout,
                                         const FsFreeReport *free_space, bool dry_run, int64_t *punched,
                                         GError **error);
/* Adds up the holes of the container. */
bool coroutine_fn compact_co_count_holes (Job *job, BlockDriverState *bs, int64_t *bytes, GError **error);
/* Writes zeros into all holes of the container.  Durable on return. */
bool coroutine_fn compact_co_fill_holes (Job *job, BlockDriverState *bs, GError **error);

G_END_DECLS

#endif
