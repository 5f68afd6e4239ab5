/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What becomes of the merged layers' files after a commit; see conclude.c. */
#ifndef JOBS_CONCLUDE_H
#define JOBS_CONCLUDE_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *leaf;   /* of the chain that is open: @source, or a layer above it */
  BlockDriverState *source; /* uppermost layer merged */
  BlockDriverState *target; /* an ancestor of it */
  BdrvOpenParams places;    /* confine, drive_map and filters, for the files of @relink */
  const char *const
      *relink;         /* children of @source that get @target as their parent; NULL-terminated, or NULL */
  bool delete_sources; /* the merged layers' files go */
  bool rename_target;  /* the target takes the name of @source */
  bool break_siblings; /* children of layers between may lose their parent */
  bool ignore_unknown; /* what only may be a child is none */
} ConcludeParams;

typedef struct Conclude Conclude;

/* Whether all of it can be: looks, and writes nothing.  Nodes and strings are borrowed for the life of the result.
 * *@merged: an earlier run was interrupted after the merge, which is complete and durable and must not be repeated.
 * NULL with @error: refused. */
Conclude *coroutine_fn conclude_co_new (Job *job, const ConcludeParams *params, bool *merged, GError **error);
/* The names of the children whose link is to change, NULL-terminated; free with g_strfreev (). */
char **conclude_list_children (const Conclude *conclude);
/* Takes the write locks of all files that will be changed, removed or replaced: IN_USE before the first write.  What
 * they show does not change. */
bool coroutine_fn conclude_co_lock (Conclude *conclude, GError **error);
/* The target holds all that the source shows, durable: does it.  Durable on return. */
bool coroutine_fn conclude_co_run (Conclude *conclude, GError **error);
/* NULL is fine. */
bool coroutine_fn conclude_co_free (Conclude *conclude, GError **error);

G_END_DECLS

#endif
