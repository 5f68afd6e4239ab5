/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving an image another parent, or none; see rebase.c. */
#ifndef JOBS_REBASE_H
#define JOBS_REBASE_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *leaf;   /* opened with its parents unless @unsafe; the job makes it writable */
  BlockDriverState *parent; /* the new one, opened with its parents; NULL: none */
  bool unsafe;              /* change the link only, whatever the two parents show */
  bool ignore_id_mismatch;  /* unsafe: the new parent need not have the identity that the link stores */
  unsigned parallel;        /* coroutines, 0: default */
} RebaseParams;

typedef struct
{
  int64_t bytes_copied, bytes_cloned, bytes_zeroed;
} RebaseStats;

/* The nodes are borrowed until the job has concluded.  NULL with @error when it cannot be: nothing has been written
 * then. */
Job *rebase_job_new (AioContext *context, const RebaseParams *params, GError **error);
/* Zeros for a job of another kind. */
RebaseStats rebase_job_get_stats (const Job *job);

G_END_DECLS

#endif
