/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merging layers of a chain into one of their ancestors; see commit.c. */
#ifndef JOBS_COMMIT_H
#define JOBS_COMMIT_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *source; /* uppermost layer merged */
  BlockDriverState *target; /* an ancestor of it */
  unsigned parallel;        /* coroutines, 0: default */
  bool shrink_target;       /* a source smaller than the target: cut the target at the end */
  bool break_siblings;      /* do not look for other images that depend on what changes (else refused) */
  BdrvOpenParams places;    /* where their parents may lie: confine and drive_map; and filters for children */
  /* What becomes of the sources afterwards: as in ConcludeParams. */
  BlockDriverState *leaf;    /* of the chain; NULL: @source */
  const char *const *relink; /* borrowed until the job has concluded */
  bool delete_sources, rename_target;
} CommitParams;

typedef struct
{
  int64_t bytes_copied, bytes_cloned, bytes_zeroed;
} CommitStats;

/* The nodes are borrowed until the job has concluded. */
Job *commit_job_new (AioContext *context, const CommitParams *params, GError **error);
/* Zeros for a job of another kind. */
CommitStats commit_job_get_stats (const Job *job);

G_END_DECLS

#endif
