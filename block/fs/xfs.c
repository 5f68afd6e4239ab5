/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Free space of XFS, versions 4 and 5; see xfs.h. */
#include "crc32c.h"
#include "identity.h"
#include "xfs.h"

#include <string.h>

bool
xfs_crc_is_valid (const void *data, size_t bytes, size_t crc_offset)
{
  static const uint8_t zeros[4];
  const uint8_t *p = data;
  uint32_t crc;

  crc = crc32c (0, p, crc_offset);
  crc = crc32c (crc, zeros, sizeof zeros);
  crc = crc32c (crc, p + crc_offset + sizeof zeros, bytes - crc_offset - sizeof zeros);
  return crc == le32_at (p + crc_offset);
}

static bool coroutine_fn
xfs_co_probe (FsVolume *volume)
{
  const XfsSuperDisk *super = (const void *)volume->head;

  return be32_get (super->magic) == XFS_SUPER_MAGIC;
}

static bool coroutine_fn
xfs_co_read_free (FsVolume *volume, GError **error)
{
  const XfsSuperDisk *super = (const void *)volume->head;
  char uuid[37];
  Xfs xfs;

  fs_set_label (volume, super->label, sizeof super->label);
  identity_format (super->uuid, uuid);
  fs_set_uuid (volume, uuid);
  if (!xfs_decode_super (volume, &xfs, error) || !xfs_co_check_log (&xfs, error))
    return false;
  for (uint32_t ag = 0; ag < xfs.ag_count; ag++)
    if (!xfs_co_read_group (&xfs, ag, error))
      return false;
  return true;
}

const FsReader xfs_reader = {
  .name = "xfs",
  .co_probe = xfs_co_probe,
  .co_read_free = xfs_co_read_free,
};
