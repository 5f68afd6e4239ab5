/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which bytes of a disk the guest's file systems do not use.
 *
 * Who may include this: jobs and the public API.  What is proved free is free; everything else is in use, and for every
 * volume that is in use as a whole the report says why.
 */
#ifndef FS_FREE_SPACE_H
#define FS_FREE_SPACE_H

#include <vhdkit/driver.h>

G_BEGIN_DECLS

typedef struct
{
  BlockDriverState *bs; /* the guest's disk, only read; nobody writes to it meanwhile */
  uint32_t sector_size; /* what the guest sees: 512, 4096; 0: not known, the partition table tells */
  int64_t
      granularity; /* bytes, a power of two >= 512: free ranges that hold no whole aligned unit of it are of no
                         * use to the caller and may be left out */
  /* Called often, between reads; 0, or an error to stop with (-ECANCELED).  May be NULL. */
  int coroutine_fn (*co_pause_point) (void *opaque);
  void *opaque;
} FsFreeParams;

typedef struct
{
  int64_t offset, bytes; /* on the disk */
} FsExtent;

/* A partition, a disk without a table, or a volume inside of one of those. */
typedef struct
{
  int64_t offset, bytes; /* on the disk */
  int partition;         /* its number, counted as Linux does; 0: the whole disk */
  char *type;            /* "ext4", "LUKS"; "unknown" */
  char *inside;       /* its name in the volume group that the partition (or disk) before it holds, or NULL */
  char *label, *uuid; /* or NULL */
  GError *in_use;     /* why all of it counts as in use; NULL: its free space was read */
  int64_t free_bytes; /* that the report's free list has of it, without the volumes inside; 0 if in_use */
} FsVolumeInfo;

typedef struct
{
  const char *table;    /* "GPT", "MBR", "none" */
  uint32_t sector_size; /* that was used */
  GPtrArray *volumes;   /* of FsVolumeInfo *, by offset */
  GPtrArray *notes;     /* of char *: what else is to be told ("the primary GPT is damaged: …") */
  GArray *free;         /* of FsExtent, sorted, neither touching nor overlapping; multiples of 512 bytes */
  bool free_incomplete; /* there were more free ranges than are kept; the smallest count as in use */
} FsFreeReport;

/* Looks at the whole disk.  @report is uninitialised memory; filled on success only.  false: the pause point said so,
 * and nothing else; what is wrong with a volume, or with the table, is in a volume's in_use. */
bool coroutine_fn fs_co_find_free (const FsFreeParams *params, FsFreeReport *report, GError **error);
void fs_free_report_clear (FsFreeReport *report);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (FsFreeReport, fs_free_report_clear)

/* Whether all of [@offset, +@bytes) is free. */
bool fs_free_report_is_free (const FsFreeReport *report, int64_t offset, int64_t bytes);
/* The first free range that ends behind @offset, clipped to start at @offset or later; false: there is none. */
bool fs_free_report_next (const FsFreeReport *report, int64_t offset, FsExtent *extent);

G_END_DECLS

#endif
