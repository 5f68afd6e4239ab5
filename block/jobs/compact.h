/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving back what an image does not need; see compact.c. */
#ifndef JOBS_COMPACT_H
#define JOBS_COMPACT_H

#include "block.h"
#include "free-space.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *bs; /* writable, unless dry_run; its parents are opened too, where it has any */
  bool free_space;      /* what the guest's file systems do not use is not needed */
  bool zero_scan;       /* look for zeros, and for what the parent shows as well */
  bool move_blocks;     /* move blocks into holes; else only what is free at the end is cut */
  bool
      mark_only; /* with free_space: neither move nor cut; fail if the free space of any volume is not known */
  bool dry_run;  /* change nothing: the stats say what would be */
  unsigned parallel; /* coroutines, 0: default */
} CompactParams;

typedef struct
{
  int64_t block_size;
  int64_t blocks_allocated, blocks_dropped, blocks_moved;
  int64_t blocks_zero, blocks_same, blocks_free; /* of the dropped ones, see CompactClass */
  int64_t file_size_before, file_size_after;
} CompactStats;

/* The node is borrowed until the job has concluded. */
Job *compact_job_new (AioContext *context, const CompactParams *params, GError **error);
/* Zeros for a job of another kind. */
CompactStats compact_job_get_stats (const Job *job);
/* With free_space, of a job that has run; borrowed from it.  Else NULL. */
const FsFreeReport *compact_job_get_report (const Job *job);

G_END_DECLS

#endif
