/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Free space of btrfs on one device; see btrfs.h. */
#include "btrfs.h"
#include "identity.h"

#include <string.h>

static bool coroutine_fn
btrfs_co_probe (FsVolume *volume)
{
  const BtrfsSuperDisk *super = (const void *)(volume->head + BTRFS_SUPER_OFFSET);

  return memcmp (super->magic, BTRFS_SUPER_MAGIC, sizeof super->magic) == 0;
}

static bool coroutine_fn
co_read (Btrfs *btrfs, GError **error)
{
  return btrfs_decode_super (btrfs, error) && btrfs_co_check_super_copies (btrfs, error)
         && btrfs_decode_system_chunks (btrfs, error) && btrfs_co_read_chunks (btrfs, error)
         && btrfs_co_read_extents (btrfs, error);
}

static bool coroutine_fn
btrfs_co_read_free (FsVolume *volume, GError **error)
{
  const BtrfsSuperDisk *super = (const void *)(volume->head + BTRFS_SUPER_OFFSET);
  Btrfs btrfs = { .volume = volume, .chunks = g_array_new (false, false, sizeof (BtrfsChunk)) };
  char uuid[37];
  bool ok;

  fs_set_label (volume, super->label, sizeof super->label);
  identity_format (super->fsid, uuid);
  fs_set_uuid (volume, uuid);
  ok = co_read (&btrfs, error);
  g_array_unref (btrfs.chunks);
  return ok;
}

const FsReader btrfs_reader = {
  .name = "btrfs",
  .co_probe = btrfs_co_probe,
  .co_read_free = btrfs_co_read_free,
  .hides_mounted = true,
};
