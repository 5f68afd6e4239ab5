/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which payload blocks of an image nobody needs; see compact-scan.c. */
#ifndef JOBS_COMPACT_SCAN_H
#define JOBS_COMPACT_SCAN_H

#include "block.h"
#include "free-space.h"
#include "job.h"

G_BEGIN_DECLS

/* Why a block is not needed. */
typedef enum
{
  COMPACT_ZERO, /* all of it reads as zeros */
  COMPACT_SAME, /* it is what the parent shows */
  COMPACT_FREE, /* the guest's file systems do not use some of it, and the rest is one of the above */
  COMPACT_CLASSES,
} CompactClass;

typedef struct
{
  /* Set by the user. */
  Job *job;
  BlockDriverState *bs;
  const BlockLayout *layout; /* of all that is in the container now */
  bool zero_scan;            /* look at content; else only at what is free */
  const FsFreeReport *free;  /* or NULL */
  bool dry_run;              /* drop nothing */
  unsigned workers;

  /* Set by the scan. */
  int64_t blocks[COMPACT_CLASSES]; /* dropped, or with dry_run to be dropped */
  int64_t bytes[COMPACT_CLASSES];  /* of them; a block may hold bytes of several classes */
  GArray *kept; /* with dry_run, of BlockExtent: the layout without those; freed by the user */
  int ret;      /* the first error, or 0 … */
  const BlockDriverState *failed_node;
  const char *failed_verb; /* … at a "read", … */
  int64_t failed_offset;   /* … here */

  /* Private. */
  guint next;        /* extent to look at */
  CoMutex drop_lock; /* one co_drop_block () at a time */
} CompactScan;

/* Looks at all payload blocks, and drops.  scan->ret, which is -ECANCELED when the job was cancelled. */
int coroutine_fn compact_co_scan (CompactScan *scan);
/* Of payload blocks, what is not free: bytes for the job's progress. */
int64_t compact_scan_bytes (const CompactScan *scan);
int64_t compact_payload_blocks (const BlockLayout *layout);

G_END_DECLS

#endif
