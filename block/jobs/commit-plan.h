/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a commit will do: which bytes go which way, and what the target's file system must have for them.
 * Planning reads allocation tables only and writes nothing.
 *
 * Every commit begins with it; the job here does nothing else, for those who want to know before they decide.
 */
#ifndef JOBS_COMMIT_PLAN_H
#define JOBS_COMMIT_PLAN_H

#include "block.h"
#include "conclude.h"
#include "copy.h"
#include "job.h"

G_BEGIN_DECLS

typedef enum
{
  COMMIT_REFLINK_AUTO,   /* share extents where it can be */
  COMMIT_REFLINK_ALWAYS, /* or fail before the first write */
  COMMIT_REFLINK_NEVER,  /* read and write all of it */
} CommitReflink;

typedef struct
{
  BlockDriverState *source; /* uppermost layer merged */
  BlockDriverState *target; /* an ancestor of it */
  unsigned parallel;        /* coroutines, 0: default */
  bool shrink_target;       /* a source smaller than the target: cut the target at the end */
  CommitReflink reflink;
  bool skip_identical;   /* do not write what the target shows already */
  bool break_siblings;   /* do not look for other images that depend on what changes (else refused) */
  bool ignore_unknown;   /* what only may be one is none */
  BdrvOpenParams places; /* where their parents may lie: confine and drive_map; and filters for children */
  /* What becomes of the sources afterwards: as in ConcludeParams. */
  BlockDriverState *leaf;    /* of the chain; NULL: @source */
  const char *const *relink; /* borrowed until the job has concluded */
  bool delete_sources, rename_target;
} CommitParams;

#define COMMIT_DEFAULT_PARALLEL 16
/* Zero ranges are handled in pieces so long, to look at the job's flags in between. */
#define COMMIT_ZERO_BYTES (64 * 1024 * 1024)

typedef struct
{
  int64_t bytes_total;             /* that the sources decide: the sum of the layers' */
  int64_t bytes_to_copy;           /* to be read and written, at most */
  int64_t estimated_clone_bytes;   /* whose extents the target is expected to share */
  int64_t bytes_to_zero;           /* to be made zeros, where the target shows data now */
  int64_t size_before, size_after; /* of the target, virtual */
  int64_t host_bytes_worst;        /* that the target's container may have to take up … */
  int64_t host_bytes_expected;     /* … and is expected to */
  int64_t host_bytes_free;         /* of the target's file system, -1: unknown or of no account */
  int64_t host_bytes_to_cut;       /* that come to it by cutting the target first, where needed; else 0 */
  char *target_problem;            /* why it cannot become writable, as far as its file tells, or NULL */
  int64_t *layer_bytes;            /* decided by each layer, from the source on; n_sources of them */
  int n_sources;
  int64_t measured_bytes, measured_ns; /* reading a sample of what is to be copied; 0: not measured */
  /* Of what follows. */
  bool delete_sources, rename_target;
  bool already_merged; /* by a run that was interrupted: nothing is */
  char **relinked;     /* names of images that get the target as their parent; NULL of a commit's own plan */
} CommitPlan;

void commit_plan_clear (CommitPlan *plan);

/* Whether the nodes and numbers can be those of a commit, without I/O. */
bool commit_params_check (const CommitParams *params, GError **error);

/* What is to follow it. */
ConcludeParams commit_params_conclude (const CommitParams *params);

/* Fills @plan (zeroed; to be cleared in any case) in a coroutine of @job, whose progress stays as it is.  What a commit
 * itself needs: unless sharing is demanded, all data counts as copied, and the first layer of several as theirs. */
bool coroutine_fn commit_plan_co_make (Job *job, const CommitParams *params, CommitPlan *plan,
                                       GError **error);

/* Plans, and measures how fast the sources can be read.  The nodes are borrowed until it has concluded. */
Job *commit_plan_job_new (AioContext *context, const CommitParams *params, GError **error);
/* Of a job that has concluded with success, owned by it; NULL for a job of another kind. */
const CommitPlan *commit_plan_job_get (const Job *job);

G_END_DECLS

#endif
