/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* VHDX structures: checksums and GUIDs against known bytes. */
#include <string.h>

#include <glib.h>

#include "crc32c.h"
#include "identity.h"

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
  /* The processor's way and the portable one, at every alignment. */
  g_assert_cmphex (crc32c_portable (0, "123456789", 9), ==, 0xE3069283);
  for (size_t i = 0; i < VHDX_REGION_TABLE_SIZE; i++)
    bytes[i] = (uint8_t)g_random_int ();
  for (size_t at = 0; at < 16; at++)
    for (size_t n = 0; n < 64; n++)
      g_assert_cmphex (crc32c (n, bytes + at, n * 61), ==, crc32c_portable (n, bytes + at, n * 61));

  memcpy (header.signature, "head", 4);
  header.sequence_number = le64 (1);
  header.version = le16 (1);
  header.log_length = le32 (1 << 20);
  header.log_offset = le64 (1 << 20);
  g_assert_cmphex (crc32c (0, &header, sizeof header), ==, 0xF1FD4713);
}

static void
test_header_encode (void)
{
  static const uint8_t golden[80] = {
    'h', 'e', 'a', 'd', 0x13, 0x47, 0xFD, 0xF1, 1, 0, 0, 0, 0, 0, 0, 0, [66] = 1, [70] = 0x10, [74] = 0x10,
  };
  VhdxHeader header = { .sequence_number = 1, .version = 1, .log_length = 1 << 20, .log_offset = 1 << 20 };
  VhdxHeaderDisk disk;

  memset (&disk, 0xEE, sizeof disk);
  vhdx_header_encode (&header, &disk);
  g_assert_cmpmem (&disk, 80, golden, 80);
  for (size_t i = 0; i < sizeof disk.reserved; i++)
    g_assert_cmpint (disk.reserved[i], ==, 0);
}

static void
test_region_table (void)
{
  static const uint8_t golden[80] = {
    'r',  'e',  'g',  'i',  0xAE, 0x8C, 0x6B, 0xC6, 2,    0,    0,    0,    0,    0,    0,    0,
    0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08,
    0,    0,    0x30, 0,    0,    0,    0,    0,    0,    0,    0x10, 0,    1,    0,    0,    0,
    0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47, 0x9A, 0x4B, 0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E,
    0,    0,    0x20, 0,    0,    0,    0,    0,    0,    0,    0x10, 0,    1,    0,    0,    0,
  };
  g_autofree uint8_t *table = g_malloc (VHDX_REGION_TABLE_SIZE);
  VhdxRegion regions[2] = {
    { vhdx_guid_bat, 3 << 20, 1 << 20, true },
    { vhdx_guid_metadata, 2 << 20, 1 << 20, true },
  };

  memset (table, 0xEE, VHDX_REGION_TABLE_SIZE);
  vhdx_region_table_encode (regions, 2, table);
  g_assert_cmpmem (table, sizeof golden, golden, sizeof golden);
  for (size_t i = sizeof golden; i < VHDX_REGION_TABLE_SIZE; i++)
    g_assert_cmpint (table[i], ==, 0);

  /* As QEMU writes it. */
  regions[0] = (VhdxRegion){ vhdx_guid_bat, 2 << 20, 1 << 20, false };
  regions[1] = (VhdxRegion){ vhdx_guid_metadata, 3 << 20, 1 << 20, false };
  vhdx_region_table_encode (regions, 2, table);
  g_assert_cmphex (table[4] | table[5] << 8 | table[6] << 16 | (uint32_t)table[7] << 24, ==, 0x2C6FCE83);
}

static void
add_item (GArray *items, const VhdxGuid *id, uint32_t flags, const char *content)
{
  VhdxItem item = { *id, flags, g_byte_array_new () };

  g_byte_array_append (item.content, (const uint8_t *)content, strlen (content));
  g_array_append_val (items, item);
}

static void
test_metadata (void)
{
  static const uint8_t golden[160] = {
    'm',
    'e',
    't',
    'a',
    'd',
    'a',
    't',
    'a',
    0,
    0,
    4,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0x37,
    0x67,
    0xA1,
    0xCA,
    0x36,
    0xFA,
    0x43,
    0x4D,
    0xB3,
    0xB6,
    0x33,
    0xF0,
    0xAA,
    0x44,
    0xE7,
    0x6B,
    0,
    0,
    1,
    0,
    8,
    0,
    0,
    0,
    4,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0xF0,
    0x85,
    0xCC,
    0x71,
    0x69,
    0x1B,
    0x28,
    0x4E,
    0x95,
    0x58,
    0xC3,
    0xBF,
    0x83,
    0xAE,
    0x75,
    0xD3,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    4,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0xAB,
    0x12,
    0xCA,
    0xBE,
    0xE6,
    0xB2,
    0x23,
    0x45,
    0x93,
    0xEF,
    0xC3,
    0x09,
    0xE0,
    0x00,
    0xC7,
    0x46,
    8,
    0,
    1,
    0,
    3,
    0,
    0,
    0,
    6,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    /* The locator begins a page. */
    0x2D,
    0x5F,
    0xD3,
    0xA8,
    0x0B,
    0xB3,
    0x4D,
    0x45,
    0xAB,
    0xF7,
    0xD3,
    0xD8,
    0x48,
    0x34,
    0xAB,
    0x0C,
    0,
    0x10,
    1,
    0,
    7,
    0,
    0,
    0,
    4,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
  };
  g_autoptr (GArray) items = g_array_new (false, true, sizeof (VhdxItem));
  g_autoptr (GByteArray) region = NULL;

  add_item (items, &vhdx_guid_parameters, 4, "paramete");
  add_item (items, &vhdx_guid_incomplete, 4, "");
  add_item (items, &vhdx_guid_disk_id, 6, "id3");
  add_item (items, &vhdx_guid_locator, 4, "locator");
  region = vhdx_metadata_encode (items);
  g_assert_cmpmem (region->data, sizeof golden, golden, sizeof golden);
  g_assert_cmpint (region->len, ==, 65536 + 4096 + 7);
  for (guint i = sizeof golden; i < 65536; i++)
    g_assert_cmpint (region->data[i], ==, 0);
  g_assert_cmpmem (region->data + 65536, 11, "parameteid3", 11);
  for (guint i = 65536 + 11; i < 65536 + 4096; i++)
    g_assert_cmpint (region->data[i], ==, 0);
  g_assert_cmpmem (region->data + 65536 + 4096, 7, "locator", 7);
  for (guint i = 0; i < items->len; i++)
    g_byte_array_unref (g_array_index (items, VhdxItem, i).content);
}

static void
add_text (GArray *entries, const char *key, const char *value)
{
  VhdxLocatorEntry entry = { g_strdup (key), g_strdup (value) };

  g_array_append_val (entries, entry);
}

static void
test_locator (void)
{
  static const uint8_t golden[] = {
    0xB7, 0xEF, 0x4A, 0xB0, 0x9E, 0xD1, 0x81, 0x4A, 0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13,
    0,    0,    2,    0,    44,   0,    0,    0,    48,   0,    0,    0,    4,    0,    6,    0,
    54,   0,    0,    0,    56,   0,    0,    0,    2,    0,    6,    0,    'a',  0,    'b',  0,
    '.',  0,    '\\', 0,    0xE9, 0,    'k',  0,    0xAC, 0x20, 0x3D, 0xD8, 0xBF, 0xDC, /* a euro sign, and a character above U+FFFF */
  };
  g_autofree char *long_text = g_strnfill (40000, 'x');
  g_autoptr (GArray) entries = vhdx_locator_new ();
  g_autoptr (GArray) unfit = vhdx_locator_new ();
  g_autoptr (GByteArray) item = NULL;

  add_text (entries, "ab", ".\\\u00e9");
  add_text (entries, "k", "\u20ac\U0001F4BF");
  item = vhdx_locator_encode (entries);
  g_assert_cmpmem (item->data, item->len, golden, sizeof golden);

  g_assert_null (vhdx_locator_encode (unfit)); /* none */
  for (int i = 0; i < 257; i++)
    add_text (unfit, "k", "v");
  g_assert_null (vhdx_locator_encode (unfit));
  for (int i = 0; i < 3; i++)
    {
      const char *const values[] = { "", "\xFF", long_text };

      g_array_set_size (unfit, 0);
      add_text (unfit, "key", values[i]);
      g_assert_null (vhdx_locator_encode (unfit));
      g_array_set_size (unfit, 0);
      add_text (unfit, values[i], "value");
      g_assert_null (vhdx_locator_encode (unfit));
    }
  /* Each fits, all of them do not: an item has at most 1 MiB. */
  long_text[32767] = '\0';
  g_array_set_size (unfit, 0);
  for (int i = 0; i < 15; i++)
    add_text (unfit, "k", long_text);
  g_clear_pointer (&item, g_byte_array_unref);
  item = vhdx_locator_encode (unfit);
  g_assert_nonnull (item);
  for (int i = 0; i < 2; i++)
    add_text (unfit, "k", long_text);
  g_assert_null (vhdx_locator_encode (unfit));
}

static void
test_locator_of_child (void)
{
  static const char *const expected[][2] = {
    { "parent_linkage", "{2dc27766-f623-4200-9d64-115e9bfd4a08}" },
    { "parent_linkage2", "{00000000-0000-0000-0000-000000000000}" },
    { "relative_path", "..\\base\\p.vhdx" },
    { "absolute_win32_path", "/disks/base/p.vhdx" },
  };
  VhdxState parent_state = { .header.data_write_guid = vhdx_guid_bat };
  BlockDriverState parent = { .opaque = &parent_state };
  BlockParentChange link = { &parent, "/disks/children/c.vhdx", "/disks/base/p.vhdx", NULL };

  for (int other = 0; other < 2; other++)
    {
      g_autoptr (GArray) entries = NULL;
      g_autoptr (GByteArray) item = vhdx_locator_make (NULL, &link, &entries, NULL);

      g_assert_nonnull (item);
      g_assert_cmpint (entries->len, ==, G_N_ELEMENTS (expected));
      for (guint i = 0; i < entries->len; i++)
        {
          bool absolute = strcmp (expected[i][0], "absolute_win32_path") == 0;

          g_assert_cmpstr (g_array_index (entries, VhdxLocatorEntry, i).key, ==, expected[i][0]);
          g_assert_cmpstr (g_array_index (entries, VhdxLocatorEntry, i).value, ==,
                           other && absolute ? "/disks/other/p.vhdx" : expected[i][1]);
        }
      link.other_path = "/disks/other/p.vhdx";
    }
}

static void
test_bat_entries (void)
{
  static const struct
  {
    int64_t bytes, block_size;
    int logical_sector_size;
    uint64_t ratio, dynamic, differencing;
  } cases[] = {
    { 5 * (VHDX_TIB >> 10), 1 << 20, 512, 4096, 5121, 2 * 4097 },
    { 10 * (VHDX_TIB >> 10), 32 << 20, 512, 128, 322, 3 * 129 },
    { 1 * (VHDX_TIB >> 10), 2 << 20, 512, 2048, 512, 2049 },
    { 4096 * VHDX_MIB, 1 << 20, 512, 4096, 4096, 4097 },
    { 4096 * VHDX_MIB + 1, 1 << 20, 512, 4096, 4098, 2 * 4097 },
    { 512, 256 << 20, 512, 16, 1, 17 },
    { 64 * VHDX_TIB, 1 << 20, 512, 4096, 67108864 + 16383, 67108864 + 16384 },
    { 64 * VHDX_TIB, 256 << 20, 4096, 128, 262144 + 2047, 262144 + 2048 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      VhdxMetadata metadata = { .bytes = cases[i].bytes,
                                .block_size = cases[i].block_size,
                                .logical_sector_size = cases[i].logical_sector_size };

      g_assert_cmpuint (vhdx_chunk_ratio (&metadata), ==, cases[i].ratio);
      g_assert_cmpuint (vhdx_bat_entries (&metadata), ==, cases[i].dynamic);
      metadata.has_parent = true;
      g_assert_cmpuint (vhdx_bat_entries (&metadata), ==, cases[i].differencing);
    }
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

/* The page that is seen at @file_offset, by the byte it is full of: 0 zeros, -1 the file's own. */
static int
seen (const VhdxOverlay *overlay, int64_t file_offset)
{
  const uint8_t *page = vhdx_overlay_page (overlay, file_offset);

  return page ? page[VHDX_PAGE - 1] : -1;
}

/* What was added later wins; places that differ by a multiple of 16 TiB are not the same. */
static void
test_overlay (void)
{
  static const int64_t far = INT64_C (1) << 44;
  static const int left[] = { -1, 1, -1, 9, 4 };
  VhdxOverlay overlay = { 0 };
  g_autoptr (GArray) writes = NULL;
  int64_t sum = 0;

  vhdx_overlay_init (&overlay, VHDX_MAX_FILE_BYTES);
  for (int i = 1; i <= 4; i++)
    memset (vhdx_overlay_add_page (&overlay, i * far + 3 * VHDX_PAGE), i, VHDX_PAGE);
  for (int i = 1; i <= 4; i++)
    g_assert_cmpint (seen (&overlay, i * far + 3 * VHDX_PAGE + 512), ==, i);
  g_assert_cmpint (seen (&overlay, 3 * VHDX_PAGE), ==, -1);
  g_assert_false (vhdx_overlay_touches (&overlay, 3 * VHDX_PAGE, VHDX_PAGE));
  vhdx_overlay_add_zeros (&overlay, 2 * far, 2 * far);
  g_assert_cmpint (seen (&overlay, far + 3 * VHDX_PAGE), ==, 1);
  g_assert_cmpint (seen (&overlay, 2 * far + 3 * VHDX_PAGE), ==, 0);
  g_assert_cmpint (seen (&overlay, 3 * far), ==, 0);
  memset (vhdx_overlay_add_page (&overlay, 3 * far + 3 * VHDX_PAGE), 9, VHDX_PAGE);
  g_assert_cmpint (seen (&overlay, 3 * far + 3 * VHDX_PAGE), ==, 9);
  g_assert_cmpint (seen (&overlay, 2 * far + 3 * VHDX_PAGE), ==, 0);
  writes = vhdx_overlay_writes (&overlay);
  g_assert_cmpint (writes->len, ==, 3);
  for (guint i = 0; i < writes->len; i++)
    {
      const BdrvWrite *write = &g_array_index (writes, BdrvWrite, i);

      g_assert_cmpint (*(const uint8_t *)write->buf, ==, left[write->file_offset / far]);
      sum += write->file_offset;
    }
  g_assert_cmpint (sum, ==, 8 * far + 9 * VHDX_PAGE);
  vhdx_overlay_clear (&overlay);
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

static void
counting_identity (uint8_t identity[16])
{
  for (int i = 0; i < 16; i++)
    identity[i] = 0x11 * i;
}

/* A new GUID is one of version 4 in the order of bytes that a VHDX has. */
static void
test_new_guid (void)
{
  VhdxGuid guid;
  char text[37];

  identity_set_hooks (counting_identity, NULL);
  guid = vhdx_guid_new ();
  identity_set_hooks (NULL, NULL);
  vhdx_guid_format (&guid, text);
  g_assert_cmpstr (text, ==, "00112233-4455-6677-8899-aabbccddeeff");
  guid = vhdx_guid_new ();
  vhdx_guid_format (&guid, text);
  g_assert_cmpint (text[14], ==, '4');
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/vhdx/crc32c", test_crc32c);
  g_test_add_func ("/vhdx/header-encode", test_header_encode);
  g_test_add_func ("/vhdx/region-table", test_region_table);
  g_test_add_func ("/vhdx/metadata", test_metadata);
  g_test_add_func ("/vhdx/locator", test_locator);
  g_test_add_func ("/vhdx/locator-of-child", test_locator_of_child);
  g_test_add_func ("/vhdx/bat-entries", test_bat_entries);
  g_test_add_func ("/vhdx/log-entry", test_log_entry);
  g_test_add_func ("/vhdx/overlay", test_overlay);
  g_test_add_func ("/vhdx/guid", test_guid);
  g_test_add_func ("/vhdx/new-guid", test_new_guid);
  return g_test_run ();
}
