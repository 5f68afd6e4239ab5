/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volume shadow copies (restore points).
 *
 * A shadow copy keeps a block by itself only once the volume overwrites it; until then it reads the volume.  So
 * clusters of a file that was deleted after the copy was made are free in $Bitmap, and still content of the
 * copy.  As long as there is one, nothing is free.  Windows tells by a header in the boot area where the catalog of
 * copies starts.
 */
#include "ntfs.h"

#include "refuse.h"

#include <inttypes.h>
#include <string.h>

static bool
is_guid (const uint8_t *guid)
{
  return memcmp (guid, NTFS_SHADOW_GUID, 16) == 0;
}

static bool
check_block (const uint8_t *block, GError **error)
{
  const NtfsShadowBlockDisk *disk = (const void *)block;

  if (!is_guid (disk->guid) || le32_get (disk->record_type) != 2)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "perhaps it has shadow copies: their catalog cannot be read");
  for (size_t at = NTFS_SHADOW_ENTRY_BYTES; at < NTFS_SHADOW_BLOCK_BYTES; at += NTFS_SHADOW_ENTRY_BYTES)
    {
      const Le64 *type = (const void *)(block + at);

      if (le64_get (*type) > NTFS_SHADOW_ENTRY_UNUSED)
        return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                          "it has shadow copies (restore points), whose content may be in free clusters");
    }
  return true;
}

bool coroutine_fn
ntfs_co_check_shadows (Ntfs *fs, GError **error)
{
  const NtfsShadowHeaderDisk *header = (const void *)(fs->volume->head + NTFS_SHADOW_OFFSET);
  g_autofree uint8_t *block = NULL;

  if (!is_guid (header->guid))
    return true;
  if (memcmp (header->volume, header->storage, sizeof header->volume) != 0)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "perhaps it has shadow copies: they are on another volume");
  block = g_malloc (NTFS_SHADOW_BLOCK_BYTES);
  uint64_t offset = le64_get (header->catalog_offset);
  for (int i = 0; offset != 0; i++)
    {
      if (i == NTFS_SHADOW_MAX_BLOCKS || offset > INT64_MAX)
        return fs_corrupt (error, "shadow copies: their catalog has no end");
      if (!fs_co_read_structure (fs->volume, (int64_t)offset, NTFS_SHADOW_BLOCK_BYTES, block,
                                 "catalog of shadow copies", error)
          || !check_block (block, error))
        return false;
      offset = le64_get (((const NtfsShadowBlockDisk *)(const void *)block)->next_offset);
    }
  return true;
}
