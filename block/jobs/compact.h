/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving back what an image does not need; see compact.c. */
#ifndef JOBS_COMPACT_H
#define JOBS_COMPACT_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *bs; /* writable; its parents are opened too, where it has any */
  bool no_zero_scan;    /* drop nothing by content */
  bool no_block_moves;  /* only cut what is free at the end */
  unsigned parallel;    /* coroutines, 0: default */
} CompactParams;

typedef struct
{
  int64_t blocks_allocated, blocks_dropped, blocks_moved;
  int64_t file_size_before, file_size_after;
} CompactStats;

/* The node is borrowed until the job has concluded. */
Job *compact_job_new (AioContext *context, const CompactParams *params, GError **error);
/* Zeros for a job of another kind. */
CompactStats compact_job_get_stats (const Job *job);

G_END_DECLS

#endif
