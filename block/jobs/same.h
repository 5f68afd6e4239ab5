/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether one image shows what another does, for jobs that go on only if it does.
 *
 * compare.c finds out where two images differ; here a range is the same or not.
 */
#ifndef JOBS_SAME_H
#define JOBS_SAME_H

#include "block.h"

G_BEGIN_DECLS

/* Two images, borrowed, and what pieces of them are read into. */
typedef struct
{
  BlockDriverState *side[2];
  uint8_t *buffer[2];
} SamePair;

/* 0 or -ENOMEM; to be cleared in any case. */
int same_pair_init (SamePair *pair, BlockDriverState *a, BlockDriverState *b);
void same_pair_clear (SamePair *pair);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (SamePair, same_pair_clear)

/* Whether both show the same in [@offset, +@bytes): 1, 0 or -errno.  What lies past the end of one of them it does not
 * show, not even as zeros.  What both know to be zeros is not read. */
int coroutine_fn same_co_range (const SamePair *pair, int64_t offset, int64_t bytes);

G_END_DECLS

#endif
