/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The superblock of btrfs and its copies. */
#include <inttypes.h>
#include <string.h>

#include "btrfs.h"
#include "checked.h"
#include "crc32c.h"

static const int64_t copies[] = { (int64_t)64 << 20, (int64_t)256 << 30 };

bool
btrfs_checksum_is_valid (unsigned type, const void *data, size_t bytes)
{
  const uint8_t *summed = (const uint8_t *)data + BTRFS_CHECKSUM_BYTES;
  size_t summed_bytes = bytes - BTRFS_CHECKSUM_BYTES;

  if (type == BTRFS_CHECKSUM_SHA256)
    {
      g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
      uint8_t digest[BTRFS_CHECKSUM_BYTES];
      gsize digest_bytes = sizeof digest;

      g_checksum_update (checksum, summed, (gssize)summed_bytes);
      g_checksum_get_digest (checksum, digest, &digest_bytes);
      return memcmp (digest, data, digest_bytes) == 0;
    }
  return crc32c (0, summed, summed_bytes) == le32_at (data);
}

static bool
check_features (const BtrfsSuperDisk *super, GError **error)
{
  uint64_t incompat = le64_get (super->incompat) & ~(uint64_t)BTRFS_INCOMPAT_KNOWN;
  uint64_t compat_ro = le64_get (super->compat_ro) & ~(uint64_t)BTRFS_COMPAT_RO_KNOWN;

  if (incompat != 0 || compat_ro != 0)
    return btrfs_unsupported (error,
                              "superblock: features that are not understood: incompatible 0x%" PRIx64
                              ", read-only compatible 0x%" PRIx64,
                              incompat, compat_ro);
  return true;
}

/* In what state the file system was left. */
static bool
check_state (const BtrfsSuperDisk *super, GError **error)
{
  uint64_t flags = le64_get (super->flags);

  if ((flags & ~(BTRFS_FLAG_WRITTEN | BTRFS_FLAG_RELOCATION)) != 0 || (flags & BTRFS_FLAG_WRITTEN) == 0)
    return btrfs_unsupported (
        error, "superblock: flags 0x%" PRIx64 ": seed device, being changed, or with errors", flags);
  if (le64_get (super->devices) != 1)
    return btrfs_unsupported (error, "superblock: one of %" PRIu64 " devices", le64_get (super->devices));
  if (le64_get (super->log_root) != 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NEEDS_REPLAY,
                   "superblock: there is a log tree, so the file system was not unmounted");
      return false;
    }
  return true;
}

static bool
decode_geometry (Btrfs *btrfs, const BtrfsSuperDisk *super, GError **error)
{
  btrfs->sector_size = le32_get (super->sector_size);
  btrfs->node_size = le32_get (super->node_size);
  btrfs->device = le64_get (super->device.device);
  btrfs->device_bytes = le64_get (super->device.total_bytes);
  btrfs->bytes_used = le64_get (super->bytes_used);
  memcpy (btrfs->device_uuid, super->device.uuid, sizeof btrfs->device_uuid);
  if (!is_power_of_two (btrfs->sector_size) || btrfs->sector_size < BTRFS_MIN_SECTOR
      || !is_power_of_two (btrfs->node_size) || btrfs->node_size < btrfs->sector_size
      || btrfs->node_size > BTRFS_MAX_NODE)
    return btrfs_corrupt (error, "superblock: sectors of %u bytes, tree blocks of %u", btrfs->sector_size,
                          btrfs->node_size);
  if (btrfs->device_bytes > (uint64_t)btrfs->volume->bytes || btrfs->device_bytes < BTRFS_RESERVED_BYTES
      || le64_get (super->total_bytes) != btrfs->device_bytes || btrfs->bytes_used > btrfs->device_bytes)
    return btrfs_corrupt (
        error,
        "superblock: %" PRIu64 " bytes used of %" PRIu64 ", the device has %" PRIu64 ", the volume %" PRId64,
        btrfs->bytes_used, le64_get (super->total_bytes), btrfs->device_bytes, btrfs->volume->bytes);
  return true;
}

static bool
decode_roots (Btrfs *btrfs, const BtrfsSuperDisk *super, GError **error)
{
  btrfs->root =
      (BtrfsRoot){ BTRFS_ROOT_TREE, le64_get (super->root), le64_get (super->generation), super->root_level };
  btrfs->chunk_root = (BtrfsRoot){ BTRFS_CHUNK_TREE, le64_get (super->chunk_root),
                                   le64_get (super->chunk_root_generation), super->chunk_root_level };
  if (btrfs->root.level >= BTRFS_MAX_LEVELS || btrfs->chunk_root.level >= BTRFS_MAX_LEVELS)
    return btrfs_corrupt (error, "superblock: trees of level %u and %u", btrfs->root.level,
                          btrfs->chunk_root.level);
  return true;
}

bool
btrfs_decode_super (Btrfs *btrfs, GError **error)
{
  const BtrfsSuperDisk *super = (const void *)(btrfs->volume->head + BTRFS_SUPER_OFFSET);

  btrfs->checksum_type = le16_get (super->checksum_type);
  if (btrfs->checksum_type != BTRFS_CHECKSUM_CRC32C && btrfs->checksum_type != BTRFS_CHECKSUM_SHA256)
    return btrfs_unsupported (error, "superblock: checksums of type %u; CRC-32C and SHA-256 are understood",
                              btrfs->checksum_type);
  if (!btrfs_checksum_is_valid (btrfs->checksum_type, super, sizeof *super)
      || le64_get (super->offset) != BTRFS_SUPER_OFFSET)
    return btrfs_corrupt (error, "superblock: wrong checksum or place");
  btrfs->block_group_tree = (le64_get (super->compat_ro) & BTRFS_COMPAT_RO_BLOCK_GROUP_TREE) != 0;
  memcpy (btrfs->fsid,
          (le64_get (super->incompat) & BTRFS_INCOMPAT_METADATA_UUID) != 0 ? super->metadata_uuid
                                                                           : super->fsid,
          sizeof btrfs->fsid);
  return check_features (super, error) && check_state (super, error) && decode_geometry (btrfs, super, error)
         && decode_roots (btrfs, super, error);
}

bool coroutine_fn
btrfs_co_check_super_copies (Btrfs *btrfs, GError **error)
{
  const BtrfsSuperDisk *super = (const void *)(btrfs->volume->head + BTRFS_SUPER_OFFSET);
  g_autofree BtrfsSuperDisk *copy = g_malloc (sizeof *copy);

  fs_add_used (btrfs->volume, 0, BTRFS_RESERVED_BYTES);
  for (size_t i = 0; i < G_N_ELEMENTS (copies); i++)
    {
      fs_add_used (btrfs->volume, copies[i], BTRFS_STRIPE_BYTES);
      if ((uint64_t)copies[i] + sizeof *copy >= btrfs->device_bytes)
        continue;
      if (!fs_co_read_structure (btrfs->volume, copies[i], sizeof *copy, copy, "copy of the superblock",
                                 error))
        return false;
      if (memcmp (copy->magic, BTRFS_SUPER_MAGIC, sizeof copy->magic) != 0
          || le16_get (copy->checksum_type) != btrfs->checksum_type
          || !btrfs_checksum_is_valid (btrfs->checksum_type, copy, sizeof *copy)
          || le64_get (copy->offset) != (uint64_t)copies[i]
          || memcmp (copy->fsid, super->fsid, sizeof copy->fsid) != 0)
        return btrfs_corrupt (
            error, "copy of the superblock at offset %" PRId64 ": damaged, or of another file system",
            copies[i]);
      if (le64_get (copy->generation) != btrfs->root.generation)
        return btrfs_corrupt (error,
                              "copy of the superblock at offset %" PRId64 ": generation %" PRIu64
                              ", the first has %" PRIu64,
                              copies[i], le64_get (copy->generation), btrfs->root.generation);
    }
  return true;
}
