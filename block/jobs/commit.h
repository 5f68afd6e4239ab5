/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merging layers of a chain into one of their ancestors; see commit.c. */
#ifndef JOBS_COMMIT_H
#define JOBS_COMMIT_H

#include "commit-plan.h"

G_BEGIN_DECLS

typedef struct
{
  int64_t bytes_copied, bytes_cloned, bytes_zeroed;
  int64_t bytes_skipped; /* the target had them already */
} CommitStats;

/* The nodes are borrowed until the job has concluded. */
Job *commit_job_new (AioContext *context, const CommitParams *params, GError **error);
/* Zeros for a job of another kind. */
CommitStats commit_job_get_stats (const Job *job);

G_END_DECLS

#endif
