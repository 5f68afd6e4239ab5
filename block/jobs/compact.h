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
  bool mark_only;    /* with free_space: fail if no volume's free space is known, or the format has no mark */
  bool punch;        /* holes in the file, instead of moves; images without blocks to drop as well */
  bool punch_blocks; /* with punch and free_space: holes inside of blocks that stay, too */
  bool fill_holes;   /* leave no hole in the file */
  bool dry_run;      /* change nothing: the stats say what would be */
  bool break_children;   /* free_space although other images are above this one */
  bool ignore_unknown;   /* … or may be */
  unsigned parallel;     /* coroutines, 0: default */
  BdrvOpenParams places; /* to look for those: confine and drive_map, borrowed */
} CompactParams;

typedef struct
{
  int64_t block_size; /* 0: of a fixed image */
  int64_t blocks_allocated, blocks_dropped, blocks_moved;
  int64_t blocks_zero, blocks_same, blocks_free; /* of the dropped ones, see CompactClass */
  int64_t bytes_zero, bytes_same, bytes_free;    /* of their bytes */
  int64_t bytes_unmapped;                        /* given back because the image's tables alone said so */
  int64_t bytes_punched;                         /* inside of blocks that stay */
  int64_t file_size_before, file_size_after;
  int64_t host_bytes_before, host_bytes_after; /* that the file takes; -1: not known */
} CompactStats;

/* The node is borrowed until the job has concluded. */
Job *compact_job_new (AioContext *context, const CompactParams *params, GError **error);
/* Zeros for a job of another kind. */
CompactStats compact_job_get_stats (const Job *job);
/* With free_space, of a job that has run; borrowed from it.  Else NULL. */
const FsFreeReport *compact_job_get_report (const Job *job);
/* Why free_space was not heeded, a phrase; NULL: it was, or was not asked for. */
const char *compact_job_get_degraded (const Job *job);

G_END_DECLS

#endif
