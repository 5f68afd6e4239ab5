/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which blocks of a container move where, for its file to become shorter.  Pure: no I/O, nothing is changed.
 */
#ifndef JOBS_COMPACT_PLAN_H
#define JOBS_COMPACT_PLAN_H

#include <vhdkit/driver.h>

G_BEGIN_DECLS

/* Why a plan ends where it ends. */
typedef enum
{
  COMPACT_END_EMPTY,    /* nothing is left that could move: no payload */
  COMPACT_END_METADATA, /* the last extent is metadata, which stays where it is */
  COMPACT_END_NO_HOLE,  /* no hole below the last payload block has room for it */
} CompactEnd;

typedef struct
{
  GArray *moves;     /* of BlockMove, in the order to be made */
  int64_t bytes;     /* all moves together */
  int64_t file_size; /* of the container after the moves and the cut */
  CompactEnd end;
  int64_t end_offset; /* file offset of the extent that ends it, -1: none */
} CompactPlan;

/* Plans for @layout; CORRUPT when its extents are not sorted, overlap or overflow.  Every move goes to a
 * lower place that is free before any move is made, so all moves of a plan, and any part of them, are
 * independent of each other: sources are not reused within a plan. */
bool compact_plan_make (const BlockLayout *layout, CompactPlan *plan, GError **error);
void compact_plan_clear (CompactPlan *plan);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (CompactPlan, compact_plan_clear)

/* How many of the moves from @first on make one group: bounded in number and bytes, at least one. */
int compact_plan_group (const CompactPlan *plan, int first);

G_END_DECLS

#endif
