/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comparing what two images show; see compare.c. */
#ifndef JOBS_COMPARE_H
#define JOBS_COMPARE_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *side[2];
  bool strict; /* sizes and allocation must be the same too */
} CompareParams;

typedef struct
{
  bool equal;
  bool sizes_differ;
  bool allocation_differs;
  int64_t first_difference; /* bytes, -1: none */
  int failed_side;          /* of a job that failed: 0 or 1 */
} CompareStats;

/* The nodes are borrowed until the job has concluded. */
Job *compare_job_new (AioContext *context, const CompareParams *params, GError **error);
/* "Equal" for a job of another kind. */
CompareStats compare_job_get_stats (const Job *job);

G_END_DECLS

#endif
