/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copying one image into another; see convert.c. */
#ifndef JOBS_CONVERT_H
#define JOBS_CONVERT_H

#include "block.h"
#include "job.h"

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *source;
  BlockDriverState *target; /* writable, at least as large */
  unsigned parallel;        /* coroutines, 1..16; 0: 8 */
  bool in_order;            /* write in the order of guest offsets */
  bool target_is_zero;      /* the target reads as zeros wherever it has no parent */
  int64_t sparse_bytes;     /* zero runs this long are not written as data; 0: all are */
  bool above_target_parent; /* leave to the target's parent what reads the same there */
  bool copy_range;          /* share extents where the host can */
  bool break_children;      /* write although other images are above the target */
  bool ignore_unknown;      /* write although it is not known whether some are */
  BdrvOpenParams places;    /* to look for those: confine and drive_map, borrowed */
} ConvertParams;

/* The nodes are borrowed until the job has concluded. */
Job *convert_job_new (AioContext *context, const ConvertParams *params, GError **error);

G_END_DECLS

#endif
