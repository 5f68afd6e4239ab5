/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images that a job would break; see siblings.c. */
#ifndef JOBS_SIBLINGS_H
#define JOBS_SIBLINGS_H

#include "block.h"

G_BEGIN_DECLS

/* Whether no other image depends on what a commit from @source into @target, one of its ancestors, changes: on the
 * target, or on a layer between.  @places: confine and drive_map.  false: HAS_CHILDREN, the message names some. */
bool coroutine_fn siblings_co_check (BlockDriverState *source, BlockDriverState *target,
                                     const BdrvOpenParams *places, GError **error);
/* The children of @bs, a leaf, for a message: "2 images above it (a.vhdx, b.vhdx)"; NULL: none is found.  @places: as
 * above. */
char *coroutine_fn siblings_co_describe_children (BlockDriverState *bs, const BdrvOpenParams *places);

G_END_DECLS

#endif
