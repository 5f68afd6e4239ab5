/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The superblock of XFS: geometry, features. */
#include <inttypes.h>
#include <string.h>

#include "checked.h"
#include "xfs.h"

#define KNOWN_RO_COMPAT                                                                                      \
  (XFS_RO_COMPAT_FINOBT | XFS_RO_COMPAT_RMAPBT | XFS_RO_COMPAT_REFLINK | XFS_RO_COMPAT_INOBTCNT)
#define KNOWN_INCOMPAT                                                                                       \
  (XFS_INCOMPAT_FTYPE | XFS_INCOMPAT_SPINODES | XFS_INCOMPAT_META_UUID | XFS_INCOMPAT_BIGTIME                \
   | XFS_INCOMPAT_NREXT64 | XFS_INCOMPAT_EXCHRANGE | XFS_INCOMPAT_PARENT)

static bool
check_version_4 (const XfsSuperDisk *super, GError **error)
{
  uint16_t version = be16_get (super->version);
  uint32_t features2 = be32_get (super->features2);

  if ((version & (XFS_VERSION_EXTFLG | XFS_VERSION_DIRV2)) != (XFS_VERSION_EXTFLG | XFS_VERSION_DIRV2)
      || (version & XFS_VERSION_SHARED) != 0
      || ((version & XFS_VERSION_MORE) != 0 && (features2 & ~XFS_FEATURES2_KNOWN) != 0))
    return xfs_unsupported (error, "superblock: version 0x%04x, features 0x%08x: not all are understood",
                            version, features2);
  return true;
}

static bool
check_version_5 (const XfsSuperDisk *super, GError **error)
{
  uint32_t incompat = be32_get (super->incompat), ro_compat = be32_get (super->ro_compat);

  if ((incompat & XFS_INCOMPAT_NEEDSREPAIR) != 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "superblock: marked as needing xfs_repair");
      return false;
    }
  if ((incompat & ~KNOWN_INCOMPAT) != 0 || (ro_compat & ~KNOWN_RO_COMPAT) != 0)
    return xfs_unsupported (
        error,
        "superblock: features that are not understood: incompatible 0x%x, read-only compatible "
        "0x%x",
        incompat & ~KNOWN_INCOMPAT, ro_compat & ~KNOWN_RO_COMPAT);
  if (be32_get (super->log_incompat) != 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NEEDS_REPLAY,
                   "superblock: features of the log 0x%x are in use; an unmount clears them",
                   be32_get (super->log_incompat));
      return false;
    }
  return true;
}

/* @value is a power of two from @min to @max whose logarithm is @log. */
static bool
size_is_valid (uint32_t value, uint32_t min, uint32_t max, uint8_t log)
{
  return value >= min && value <= max && is_power_of_two (value) && log < 32 && value == UINT32_C (1) << log;
}

static bool
decode_groups (const XfsSuperDisk *super, Xfs *xfs, GError **error)
{
  uint64_t blocks = be64_get (super->data_blocks);
  uint32_t ag_blocks = be32_get (super->ag_blocks), ag_count = be32_get (super->ag_count);
  uint64_t ag_bytes = (uint64_t)ag_blocks * xfs->block_size;

  if (blocks > (uint64_t)xfs->volume->bytes / xfs->block_size)
    return xfs_corrupt (error, "superblock: %" PRIu64 " blocks of %u bytes, the volume has %" PRId64 " bytes",
                        blocks, xfs->block_size, xfs->volume->bytes);
  if (ag_blocks < XFS_MIN_AG_BLOCKS || ag_bytes < XFS_MIN_AG_BYTES || ag_bytes > XFS_MAX_AG_BYTES
      || super->ag_blocks_log != g_bit_storage (ag_blocks - 1))
    return xfs_corrupt (error, "superblock: allocation groups of %u blocks of %u bytes (logarithm %u)",
                        ag_blocks, xfs->block_size, super->ag_blocks_log);
  if (ag_count == 0 || blocks > (uint64_t)ag_count * ag_blocks
      || blocks < (uint64_t)(ag_count - 1) * ag_blocks + XFS_MIN_AG_BLOCKS)
    return xfs_corrupt (error, "superblock: %" PRIu64 " blocks in %u groups of %u", blocks, ag_count,
                        ag_blocks);
  xfs->blocks = blocks;
  xfs->ag_count = ag_count;
  xfs->ag_blocks = ag_blocks;
  xfs->last_ag_blocks = (uint32_t)(blocks - (uint64_t)(ag_count - 1) * ag_blocks);
  return true;
}

static bool
decode_log_place (const XfsSuperDisk *super, Xfs *xfs, GError **error)
{
  uint64_t start = be64_get (super->log_start), ag = start >> super->ag_blocks_log;
  uint32_t ag_block = (uint32_t)(start & ((UINT64_C (1) << super->ag_blocks_log) - 1));
  uint32_t blocks = be32_get (super->log_blocks);
  uint32_t ag_blocks = ag == xfs->ag_count - 1 ? xfs->last_ag_blocks : xfs->ag_blocks;

  if (start == 0)
    return xfs_unsupported (error,
                            "superblock: the log is on another device, so nobody can tell if it is clean");
  if (ag >= xfs->ag_count || blocks == 0 || ag_block >= ag_blocks || blocks > ag_blocks - ag_block
      || (uint64_t)blocks * xfs->block_size > XFS_MAX_LOG_BYTES)
    return xfs_corrupt (
        error, "superblock: log of %u blocks at block %u of group %" PRIu64 ", not inside of one group",
        blocks, ag_block, ag);
  xfs->log_ag = (uint32_t)ag;
  xfs->log_ag_block = ag_block;
  xfs->log_blocks = blocks;
  return true;
}

bool
xfs_decode_super (FsVolume *volume, Xfs *xfs, GError **error)
{
  const XfsSuperDisk *super = (const void *)volume->head;
  unsigned version = be16_get (super->version) & XFS_VERSION_MASK;

  *xfs = (Xfs){ .volume = volume, .v5 = version == XFS_VERSION_5 };
  if (version != XFS_VERSION_4 && version != XFS_VERSION_5)
    return xfs_unsupported (error, "superblock: version %u, 4 and 5 are understood", version);
  xfs->sector_size = be16_get (super->sector_size);
  xfs->block_size = be32_get (super->block_size);
  if (!size_is_valid (xfs->sector_size, XFS_MIN_SECTOR, XFS_MAX_SECTOR, super->sector_log)
      || !size_is_valid (xfs->block_size, XFS_MIN_BLOCK, XFS_MAX_BLOCK, super->block_log)
      || xfs->sector_size > xfs->block_size)
    return xfs_corrupt (error, "superblock: sectors of %u bytes (logarithm %u), blocks of %u (logarithm %u)",
                        xfs->sector_size, super->sector_log, xfs->block_size, super->block_log);
  if (xfs->v5 && !xfs_crc_is_valid (super, xfs->sector_size, offsetof (XfsSuperDisk, crc)))
    return xfs_corrupt (error, "superblock: wrong checksum");
  if (super->in_progress != 0)
    return xfs_corrupt (error, "superblock: mkfs did not finish");
  if (!(xfs->v5 ? check_version_5 : check_version_4) (super, error))
    return false;
  memcpy (xfs->uuid, super->uuid, sizeof xfs->uuid);
  memcpy (xfs->meta_uuid,
          xfs->v5 && (be32_get (super->incompat) & XFS_INCOMPAT_META_UUID) != 0 ? super->meta_uuid
                                                                                : super->uuid,
          sizeof xfs->meta_uuid);
  return decode_groups (super, xfs, error) && decode_log_place (super, xfs, error);
}
