/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* VHDX structures: checksums and GUIDs against known bytes. */
#include <string.h>

#include <glib.h>

#include "crc32c.h"

#include "../../block/drivers/vhdx/vhdx.h"

/* Known sums: of the algorithm's description, and of structures as Windows and QEMU write them. */
static void
test_crc32c (void)
{
  g_autofree uint8_t *bytes = g_malloc0 (VHDX_REGION_TABLE_SIZE);
  VhdxHeaderDisk header = { 0 };

  g_assert_cmphex (crc32c (0, "123456789", 9), ==, 0xE3069283);
  g_assert_cmphex (crc32c (0, bytes, 32), ==, 0x8A9136AA);
  g_assert_cmphex (crc32c (0, bytes, 4096), ==, 0x98F94189);
  /* In pieces of every kind. */
  for (size_t cut = 0; cut <= 9; cut++)
    g_assert_cmphex (crc32c (crc32c (0, "123456789", cut), &"123456789"[cut], 9 - cut), ==, 0xE3069283);

  memcpy (header.signature, "head", 4);
  header.sequence_number = le64 (1);
  header.version = le16 (1);
  header.log_length = le32 (1 << 20);
  header.log_offset = le64 (1 << 20);
  g_assert_cmphex (crc32c (0, &header, sizeof header), ==, 0xF1FD4713);
}

static void
test_region_table (void)
{
  g_autofree uint8_t *table = g_malloc0 (VHDX_REGION_TABLE_SIZE);
  VhdxRegionTableDisk *disk = (void *)table;
  VhdxRegionDisk regions[2] = {
    { vhdx_guid_bat, le64 (3 << 20), le32 (1 << 20), le32 (1) },
    { vhdx_guid_metadata, le64 (2 << 20), le32 (1 << 20), le32 (1) },
  };

  memcpy (disk->signature, "regi", 4);
  disk->entry_count = le32 (2);
  memcpy (table + sizeof *disk, regions, sizeof regions);
  g_assert_cmphex (crc32c (0, table, VHDX_REGION_TABLE_SIZE), ==, 0xC66B8CAE);
}

static void
test_log_entry (void)
{
  g_autofree uint8_t *sector = g_malloc0 (VHDX_LOG_SECTOR);
  VhdxLogEntryDisk *disk = (void *)sector;

  memcpy (disk->signature, "loge", 4);
  disk->entry_length = le32 (4096);
  disk->sequence_number = le64 (1);
  for (int i = 0; i < 16; i++)
    disk->log_guid.b[i] = i + 1;
  disk->flushed_file_offset = disk->last_file_offset = le64 (4 << 20);
  g_assert_cmphex (crc32c (0, sector, VHDX_LOG_SECTOR), ==, 0x85F34306);
}

static void
test_guid (void)
{
  static const uint8_t bat[16] = { 0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42,
                                   0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08 };
  char text[37];
  VhdxGuid guid;

  g_assert_cmpmem (&vhdx_guid_bat, 16, bat, 16);
  vhdx_guid_format (&vhdx_guid_bat, text);
  g_assert_cmpstr (text, ==, "2dc27766-f623-4200-9d64-115e9bfd4a08");
  g_assert_true (vhdx_guid_parse ("{2DC27766-F623-4200-9D64-115E9BFD4A08}", &guid));
  g_assert_true (vhdx_guid_equal (&guid, &vhdx_guid_bat));
  g_assert_true (vhdx_guid_parse (text, &guid));
  g_assert_false (vhdx_guid_parse ("{2DC27766-F623-4200-9D64-115E9BFD4A08", &guid));
  g_assert_false (vhdx_guid_parse ("2DC27766-F623-4200-9D64-115E9BFD4A0", &guid));
  g_assert_false (vhdx_guid_parse ("", &guid));
  memset (&guid, 0, sizeof guid);
  g_assert_true (vhdx_guid_is_zero (&guid));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/vhdx/crc32c", test_crc32c);
  g_test_add_func ("/vhdx/region-table", test_region_table);
  g_test_add_func ("/vhdx/log-entry", test_log_entry);
  g_test_add_func ("/vhdx/guid", test_guid);
  return g_test_run ();
}
