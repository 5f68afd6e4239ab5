/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What follows a commit, inside: what conclude.c does, and what conclude-check.c looks at before. */
#ifndef JOBS_CONCLUDE_INT_H
#define JOBS_CONCLUDE_INT_H

#include "conclude.h"
#include "named-file.h"

G_BEGIN_DECLS

struct Conclude
{
  Job *job;
  ConcludeParams params;
  BlockDriverState *lowest; /* of the merged layers: the target's child */
  GPtrArray *children;      /* of BlockDriverState *, references: to be linked to the target (A1) */
  bool takes_identity;      /* A2 */
};

/* Whether the file of @layer, a merged one, goes. */
bool conclude_removes (const ConcludeParams *params, const BlockDriverState *layer);
/* The link of @child to the target, before or after that is @renamed. */
BlockParentChange conclude_change_for (const Conclude *conclude, BlockDriverState *child, bool renamed);

/* All that can be known before anything is written; opens the children.  *@merged: as conclude_co_new (). */
bool coroutine_fn conclude_co_check (Conclude *conclude, bool *merged, GError **error);
/* Nobody loses the parent: not of the source, whose name goes to an image that children do not take for it, nor of
 * what is removed, nor of a target that loses its name.  Before a merge children of the target and of the layers
 * between are looked for by siblings.c; @merged: that is not so any more, or will not be. */
bool coroutine_fn conclude_co_check_orphans (const Conclude *conclude, bool merged, GError **error);

G_END_DECLS

#endif
