/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an image may read otherwise above another parent: what a rebase has to look at.
 *
 * Told by allocation alone.  Left out are ranges that the image decides itself, that both chains find in the same
 * layer or below it, and that are known to be zeros in both.
 */
#ifndef JOBS_REBASE_PLAN_H
#define JOBS_REBASE_PLAN_H

#include "copy.h"
#include "space.h"

G_BEGIN_DECLS

/* A walk over these ranges of @leaf, whose parent is @leaf->backing and is to be @parent (NULL: none).  Begin with
 * rebase_cursor_init ().  What the leaf decides may grow behind the cursor. */
typedef struct
{
  BlockDriverState *leaf, *parent;
  /* The uppermost layer of either chain from which on down they are the same files; NULL: they meet nowhere. */
  BlockDriverState *old_common, *new_common;
  int64_t offset;

  CopyItem run;             /* looked up already, run.bytes == 0: nothing */
  BlockDriverState *failed; /* after an error: the node that could not say what it has */
} RebaseCursor;

void rebase_cursor_init (RebaseCursor *cursor, BlockDriverState *leaf, BlockDriverState *parent);

/* The next range as an item for reading through @leaf: known zeros now, which the new parent is not known to show, of
 * at most @max_zero bytes; or else at most @max_data bytes.  Not across a multiple of that size.  With item->file the
 * new chain is known to show zeros, and the extents there are what @leaf is to hold.  With @engine, items whose
 * extents may be shared are contiguous in their file.  1, 0 at the end, or -errno with cursor->offset where it
 * happened. */
int coroutine_fn rebase_cursor_co_next (RebaseCursor *cursor, const CopyEngine *engine, int64_t max_data,
                                        int64_t max_zero, CopyItem *item);

/* Walks over all of it, in a coroutine of @job: *need is what @leaf may have to take up at worst, *bytes the sum of
 * the items. */
bool coroutine_fn rebase_co_plan (Job *job, BlockDriverState *leaf, BlockDriverState *parent, SpaceNeed *need,
                                  int64_t *bytes, GError **error);

/* What a whole block of zeros costs nothing in: 0, or the size of the blocks that @leaf can have zeros in without
 * storing them. */
int64_t rebase_zero_block_bytes (const BlockDriverState *leaf);

G_END_DECLS

#endif
