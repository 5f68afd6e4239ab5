/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images that a job would break; see siblings.c. */
#ifndef JOBS_SIBLINGS_H
#define JOBS_SIBLINGS_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

/* Context of all: @job's coroutine, or, where @job may be NULL, any of the node's AioContext. */

/* The children that layers from @upper down to @lower of @leaf's chain have outside of it, and what may be one, as
 * bdrv_co_find_children () has them.  @places: confine and drive_map.  NULL with @error: @job, which may
 * be NULL, is cancelled. */
GPtrArray *coroutine_fn siblings_co_find (Job *job, BlockDriverState *leaf, BlockDriverState *upper,
                                          BlockDriverState *lower, const BdrvOpenParams *places,
                                          GError **error);
/* Those of @found of which it is not known whether they are children, for a message: "a.vhdx (cannot be read)"; NULL:
 * there are none. */
char *siblings_name_unknown (const GPtrArray *found);

/* Whether no other image depends on what a commit from @source into @target, one of its ancestors, changes: on the
 * target, or on a layer between.  false: HAS_CHILDREN, the message names some, also, unless @ignore_unknown, where it
 * only may be so. */
bool coroutine_fn siblings_co_check (Job *job, BlockDriverState *source, BlockDriverState *target,
                                     const BdrvOpenParams *places, bool ignore_unknown, GError **error);
/* Whether no image depends on @bs, whose content is about to be replaced: false as siblings_co_check () has it.  What is not
 * known counts for formats that know their children by an identity alone.  @damaged: @bs is the raw file of an image that
 * cannot be opened any more, and what names that file counts.  @job may be NULL. */
bool coroutine_fn siblings_co_check_overwritten (Job *job, BlockDriverState *bs, bool damaged,
                                                 const BdrvOpenParams *places, bool ignore_unknown,
                                                 GError **error);
/* *@children: those of @bs, a leaf, for a message: "2 images above it (a.vhdx, b.vhdx)", or, where there are none, what
 * may be one, unless @ignore_unknown: *@unknown; NULL: none is found.  false with @error: cancelled. */
bool coroutine_fn siblings_co_describe_children (Job *job, BlockDriverState *bs, const BdrvOpenParams *places,
                                                 bool ignore_unknown, char **children, bool *unknown,
                                                 GError **error);

G_END_DECLS

#endif
