/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The walk over a disk inside: what the volumes and the partition tables share. */
#ifndef FS_WALK_H
#define FS_WALK_H

#include "extents.h"
#include "free-space.h"
#include "fs.h"

G_BEGIN_DECLS

/* A volume in a volume. */
typedef struct
{
  int64_t offset, bytes; /* in the outer one */
  char *name;
} FsInner;

/* What the present volume has said of itself. */
typedef struct
{
  int64_t budget; /* bytes that may still be read of it */
  int failed;     /* the first failure of a read, -errno */
  int64_t failed_offset;
  bool outside; /* free space was claimed outside of it */
  FsExtents free, used;
  GArray *inner; /* of FsInner */
  char *type, *label, *uuid;
} FsFindings;

struct FsWalk
{
  const FsFreeParams *params;
  int stopped;     /* what ends the walk, -errno */
  bool hibernated; /* some volume holds a system that will come back */
  FsFindings found;
};

/* A volume at [@offset, +@bytes) of the disk, its head read.  Always to be cleared.  A head that cannot be read is in
 * walk->found.failed. */
void coroutine_fn fs_volume_co_init (FsVolume *volume, FsWalk *walk, uint32_t sector_size, int64_t offset,
                                     int64_t bytes);
void fs_volume_clear (FsVolume *volume);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (FsVolume, fs_volume_clear)

/* Whether the volume counts as in use in spite of what its reader says; sets @error then. */
bool fs_volume_has_failed (const FsVolume *volume, GError **error);

typedef struct
{
  int number; /* as Linux counts */
  int64_t offset, bytes;
  const char *
      owner; /* what the table says has its own way with the partition ("RAID"), or NULL; a reader of this name may read it */
} FsPartition;

/* What was found at the start of the disk. */
typedef enum
{
  FS_MBR_NONE,       /* no MBR: a boot sector, or nothing */
  FS_MBR_EMPTY,      /* one without partitions; perhaps only boot code */
  FS_MBR_PARTITIONS, /* to be read by fs_mbr_co_read () */
  FS_MBR_PROTECTIVE, /* for a GPT, all of the disk */
  FS_MBR_HYBRID,     /* for a GPT, with partitions beside */
} FsMbrKind;

typedef struct
{
  GArray *partitions; /* of FsPartition */
  GArray *used;       /* of FsExtent: where the tables stand */
  GPtrArray *notes;   /* of char *, borrowed from the report */
  uint32_t sector_size;
} FsTable;

FsMbrKind fs_mbr_classify (const uint8_t *sector);
/* Primary and logical partitions.  CORRUPT when anything does not fit: then all of the disk is in use. */
bool coroutine_fn fs_mbr_co_read (FsVolume *disk, FsTable *table, GError **error);
/* Whether a GPT header stands in the head of @disk, valid or not. */
bool fs_gpt_has_signature (const FsVolume *disk);
/* Sets table->sector_size to that of the GPT if the disk's is 0. */
bool coroutine_fn fs_gpt_co_read (FsVolume *disk, FsTable *table, GError **error);

G_END_DECLS

#endif
