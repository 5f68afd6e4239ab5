/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Host space: what a job may take up at worst, and what there is.
 *
 * A job counts, while it plans, what it may have to write where its target stores nothing yet, and compares
 * the sum with what the file system of the target's container has free, before its first write.
 */
#ifndef JOBS_SPACE_H
#define JOBS_SPACE_H

#include "block.h"

G_BEGIN_DECLS

/* What a target may have to allocate.  Start with SPACE_NEED_INIT; ranges come in ascending order and do not
 * overlap. */
typedef struct
{
  int64_t bytes; /* of the host, at worst: whole host blocks, and tables */
  int64_t data;  /* of them, host blocks that hold content */

  int64_t counted_to;  /* host blocks before this guest offset are in it */
  int64_t last_region; /* whose tables are in it */
} SpaceNeed;

#define SPACE_NEED_INIT ((SpaceNeed){ .last_region = -1 })

/* All of the range is new in the target. */
void space_need_add (SpaceNeed *need, int64_t offset, int64_t bytes);
/* The range is written with data, or, with @zero, made to read as zeros: adds what of it @target itself does
 * not store yet.  Zeros need nothing where zeros are seen already.  What lies past the end of @target is new:
 * it grows.  *@written (may be NULL) grows by what has to be written: all data, but zeros only where something else
 * is seen.  0 or -errno. */
int coroutine_fn space_need_co_add_write (SpaceNeed *need, BlockDriverState *target, int64_t offset,
                                          int64_t bytes, bool zero, int64_t *written);

/* Free bytes of the file system that the container of @bs is on, for this process; -1: unknown, or of no
 * account (a device has all its space already). */
int64_t coroutine_fn space_co_get_free (BlockDriverState *bs);
/* Whether @need bytes fit there; else NO_SPACE with both figures.  What is unknown fits. */
bool coroutine_fn space_co_check (BlockDriverState *bs, int64_t need, GError **error);
/* The same while @bs may not be changed.  What an interrupted run has left behind its last used byte is room, too: *trim
 * when that may be enough, and space_co_trim () is to be called as soon as @bs is writable. */
bool coroutine_fn space_co_check_untrimmed (BlockDriverState *bs, int64_t need, bool *trim, GError **error);
/* Bytes of the host that @bs takes up behind its last used byte, as far as can be told: what space_co_trim () would give
 * back.  Changes nothing. */
int64_t coroutine_fn space_co_get_left_behind (BlockDriverState *bs);
/* Cuts @bs after its last used byte and looks again, as space_co_check (). */
bool coroutine_fn space_co_trim (BlockDriverState *bs, int64_t need, GError **error);

G_END_DECLS

#endif
