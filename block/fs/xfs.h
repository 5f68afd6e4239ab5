/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One XFS volume while its free space is read.  For the files xfs*.c.
 *
 * Why what is said to be free is free: the log ends with the record of an unmount, so nothing is pending and the
 * trees in the allocation groups are the whole truth (xfs-log.c).  In each group the tree of free extents by block
 * and that by size must be sound and agree with each other and with the group's counters (xfs-group.c).  What the
 * groups keep elsewhere is never among the free extents: headers and log by check; the blocks of both trees and of the
 * free list are marked as used besides.
 */
#ifndef FS_XFS_H
#define FS_XFS_H

#include "fs.h"
#include "xfs-spec.h"

#define xfs_corrupt(error, ...)                                                                              \
  (g_set_error ((error), VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, __VA_ARGS__), false)
#define xfs_unsupported(error, ...)                                                                          \
  (g_set_error ((error), VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, __VA_ARGS__), false)

typedef struct
{
  FsVolume *volume;
  bool v5; /* metadata has checksums and says where it belongs */
  uint32_t sector_size;
  uint32_t block_size;
  uint64_t blocks;   /* of all groups; their bytes are inside the volume */
  uint32_t ag_count; /* ag_blocks each, but the last */
  uint32_t ag_blocks;
  uint32_t last_ag_blocks;
  uint32_t log_ag; /* the log is inside of one group */
  uint32_t log_ag_block, log_blocks;
  uint8_t uuid[16];      /* that users see */
  uint8_t meta_uuid[16]; /* that metadata carries */
} Xfs;

/* Offset in the volume of a block of a group, bytes; both within bounds. */
static inline int64_t
xfs_offset (const Xfs *xfs, uint32_t ag, uint32_t ag_block)
{
  return (int64_t)(((uint64_t)ag * xfs->ag_blocks + ag_block) * xfs->block_size);
}

/* The checksum of @bytes at @data, whose own four bytes are at @crc_offset. */
bool xfs_crc_is_valid (const void *data, size_t bytes, size_t crc_offset);

/* Decodes and checks the superblock at the start of the volume.  No I/O. */
bool xfs_decode_super (FsVolume *volume, Xfs *xfs, GError **error);
/* Whether the log has nothing to be replayed. */
bool coroutine_fn xfs_co_check_log (Xfs *xfs, GError **error);
/* Adds the free extents of group @ag, after or while checking all that says so. */
bool coroutine_fn xfs_co_read_group (Xfs *xfs, uint32_t ag, GError **error);

#endif
