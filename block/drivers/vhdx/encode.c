/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From host structures to those on disk: no I/O.  All that is reserved is zero, checksums come last. */
#include <string.h>

#include "crc32c.h"
#include "vhdx.h"

void
vhdx_header_encode (const VhdxHeader *header, VhdxHeaderDisk *disk)
{
  memset (disk, 0, sizeof *disk);
  memcpy (disk->signature, VHDX_HEADER_SIGNATURE, sizeof disk->signature);
  disk->sequence_number = le64 (header->sequence_number);
  disk->file_write_guid = header->file_write_guid;
  disk->data_write_guid = header->data_write_guid;
  disk->log_guid = header->log_guid;
  disk->log_version = le16 (header->log_version);
  disk->version = le16 (header->version);
  disk->log_length = le32 (header->log_length);
  disk->log_offset = le64 (header->log_offset);
  disk->checksum = le32 (crc32c (0, disk, sizeof *disk));
}

void
vhdx_region_table_encode (const VhdxRegion *regions, uint32_t n, uint8_t table[VHDX_REGION_TABLE_SIZE])
{
  VhdxRegionTableDisk disk = { 0 };

  g_assert (n <= VHDX_MAX_REGIONS);
  memcpy (disk.signature, VHDX_REGION_SIGNATURE, sizeof disk.signature);
  disk.entry_count = le32 (n);
  memset (table, 0, VHDX_REGION_TABLE_SIZE);
  memcpy (table, &disk, sizeof disk);
  for (uint32_t i = 0; i < n; i++)
    {
      VhdxRegionDisk entry = { regions[i].guid, le64 (regions[i].file_offset), le32 (regions[i].bytes),
                               le32 (regions[i].required ? VHDX_REGION_REQUIRED : 0) };

      memcpy (table + sizeof disk + i * sizeof entry, &entry, sizeof entry);
    }
  disk.checksum = le32 (crc32c (0, table, VHDX_REGION_TABLE_SIZE));
  memcpy (table, &disk, sizeof disk);
}

GByteArray *
vhdx_metadata_encode (const GArray *items)
{
  VhdxMetadataTableDisk disk = { .entry_count = le16 (items->len) };
  GByteArray *region = g_byte_array_new ();

  g_assert (items->len <= VHDX_MAX_METADATA_ENTRIES);
  g_byte_array_set_size (region, VHDX_METADATA_TABLE_SIZE);
  memset (region->data, 0, region->len);
  memcpy (disk.signature, VHDX_METADATA_SIGNATURE, sizeof disk.signature);
  memcpy (region->data, &disk, sizeof disk);
  for (guint i = 0; i < items->len; i++)
    {
      const VhdxItem *item = &g_array_index (items, VhdxItem, i);
      VhdxMetadataEntryDisk entry = { item->id, le32 (0), le32 (item->content->len), le32 (item->flags),
                                      le32 (0) };

      /* The one item that changes during the life of an image, and then in as few pages as can be. */
      if (vhdx_guid_equal (&item->id, &vhdx_guid_locator))
        {
          guint end = region->len;

          g_byte_array_set_size (region, round_up (end, VHDX_PAGE));
          memset (region->data + end, 0, region->len - end);
        }
      if (item->content->len > 0)
        entry.offset = le32 (region->len);
      g_byte_array_append (region, item->content->data, item->content->len);
      memcpy (region->data + sizeof disk + i * sizeof entry, &entry, sizeof entry);
    }
  return region;
}
