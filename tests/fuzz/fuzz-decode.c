/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each structure's decoder by itself, with none of the checks before it in the way.  File 0 holds the structures at the
 * places given below.
 *
 * Asserted: what a decoder takes, its encoder can write, and the decoder then takes for the same.
 *
 * The script: which structure, and what its decoder is told beforehand.
 */
#include "fuzz.h"

#include <string.h>

#include "core-int.h"

#include "../../block/drivers/vhd/codec.h"
#include "../../block/drivers/vhdx/vhdx.h"

typedef struct
{
  FuzzReader script;
  BlockDriverState *bs; /* raw; its file is file 0 */
} Decode;

/* --- VHD: footer at 0, header at 512 ------------------------------------------------------------------- */

static void
decode_vhd_footer (const VhdFooterDisk *disk)
{
  VhdFooterDisk encoded;
  VhdFooter footer, again;
  uint32_t found, expected;

  if (vhd_footer_decode (disk, &footer, &found, &expected) != VHD_DECODE_OK)
    return;
  vhd_footer_encode (&footer, &encoded);
  g_assert_cmpint (vhd_footer_decode (&encoded, &again, &found, &expected), ==, VHD_DECODE_OK);
  g_assert_true (vhd_footer_equal (&footer, &again));
}

static void
decode_vhd_header (const VhdHeaderDisk *disk)
{
  VhdHeaderDisk encoded;
  VhdHeader header, again;
  uint32_t found, expected;

  if (vhd_header_decode (disk, &header, &found, &expected) != VHD_DECODE_OK)
    return;
  vhd_header_encode (&header, &encoded);
  g_assert_cmpint (vhd_header_decode (&encoded, &again, &found, &expected), ==, VHD_DECODE_OK);
  g_assert_cmpint (header.table_offset, ==, again.table_offset);
  g_assert_cmpint (header.block_size, ==, again.block_size);
  for (int i = 0; i < VHD_LOCATORS; i++)
    g_assert_cmpint (vhd_locator_space (&header.locators[i]), >=, 0);
}

static void coroutine_fn
co_decode_vhd (Decode *decode)
{
  VhdFooterDisk footer;
  VhdHeaderDisk header;
  uint16_t cylinders;
  uint8_t heads, sectors;
  uint64_t size = fuzz_u64 (&decode->script) % VHD_MAX_SECTORS;

  bdrv_co_pread (decode->bs->file, 0, sizeof footer, &footer);
  bdrv_co_pread (decode->bs->file, 512, sizeof header, &header);
  decode_vhd_footer (&footer);
  decode_vhd_header (&header);
  vhd_geometry (size, &cylinders, &heads, &sectors);
  g_assert_cmpint (vhd_geometry_sectors (cylinders, heads, sectors), <=, MAX (size, 65535u * 16 * 255));
}

/* --- VHDX, in its usual places: log at 1 MiB, metadata at 2 MiB ---------------------------------------- */

static void
vhdx_init (VhdxState *s, Decode *decode)
{
  *s = (VhdxState){ .bs = decode->bs };
  s->pages = bdrv_meta_cache_new (decode->bs->file, VHDX_PAGE, VHDX_CACHE_BYTES);
  s->file_bytes = bdrv_length (decode->bs->file);
  s->header.log_offset = VHDX_MIB;
  s->header.log_length = VHDX_MIB;
  s->metadata_region = (VhdxRegion){ .file_offset = 2 * VHDX_MIB, .bytes = VHDX_MIB };
}

static void
vhdx_clear (VhdxState *s)
{
  g_clear_pointer (&s->pages, bdrv_meta_cache_free);
  vhdx_overlay_clear (&s->overlay);
  vhdx_metadata_clear (&s->metadata);
  g_clear_pointer (&s->regions, g_array_unref);
  g_clear_pointer (&s->creator, g_free);
}

static void
judge (bool ok, const GError *error)
{
  g_assert_true (ok == (error == NULL));
  g_assert_true (!error || g_utf8_validate (error->message, -1, NULL));
}

static void coroutine_fn
co_decode_vhdx_headers (VhdxState *s, GError **error)
{
  VhdxHeaderDisk disk;

  if (!vhdx_co_read_headers (s, error))
    return;
  vhdx_header_encode (&s->header, &disk);
  g_assert_true (vhdx_header_is_valid (&disk));
}

static void coroutine_fn
co_decode_vhdx_regions (VhdxState *s, GError **error)
{
  if (vhdx_co_read_regions (s, error))
    vhdx_co_compare_region_tables (s, error);
}

static void coroutine_fn
co_decode_vhdx_log (VhdxState *s, GError **error)
{
  bdrv_co_pread (s->bs->file, VHDX_HEADER_OFFSET_1 + (int64_t)offsetof (VhdxHeaderDisk, log_guid),
                 sizeof s->header.log_guid, &s->header.log_guid);
  if (vhdx_co_replay_in_memory (s, error))
    {
      uint8_t page[VHDX_PAGE];

      g_assert_cmpint (s->file_bytes, >=, bdrv_length (s->bs->file));
      g_assert_cmpint (vhdx_co_read (s, 2 * VHDX_MIB, sizeof page, page), ==, 0);
    }
  else
    vhdx_co_log_is_empty (s);
}

static void coroutine_fn
co_decode_vhdx_metadata (VhdxState *s, GError **error)
{
  g_autoptr (GArray) items = vhdx_items_new ();
  GError *other_error = NULL;

  if (!vhdx_co_read_metadata (s, error))
    return;
  if (vhdx_co_read_other_disk_items (s, items, &other_error) && items->len <= VHDX_MAX_METADATA_ENTRIES)
    {
      g_autoptr (GByteArray) encoded = vhdx_metadata_encode (items);

      g_assert_nonnull (encoded);
    }
  judge (other_error == NULL, other_error);
  g_clear_error (&other_error);
}

/* The item is the rest of the script. */
static void
decode_vhdx_locator (VhdxState *s, const FuzzReader *item, GError **error)
{
  if (!vhdx_locator_decode (s, item->at, item->end - item->at, error))
    return;

  g_autoptr (GByteArray) encoded = vhdx_locator_encode (s->metadata.locator);
  g_auto (BlockParentLink) link = { 0 };
  void *raw_state = s->bs->opaque;
  VhdxState again = { .bs = s->bs };

  /* Empty texts and such that would be too long side by side are read, and not written. */
  if (encoded)
    {
      g_assert_true (vhdx_locator_decode (&again, encoded->data, encoded->len, NULL));
      g_assert_cmpint (again.metadata.locator->len, ==, s->metadata.locator->len);
      g_assert_cmpstr (vhdx_locator_get (&again, "parent_linkage"), ==,
                       vhdx_locator_get (s, "parent_linkage"));
    }
  s->metadata.has_parent = true;
  s->bs->opaque = s;
  g_assert_true (vhdx_get_parent_link (s->bs, &link));
  s->bs->opaque = raw_state;
  vhdx_metadata_clear (&again.metadata);
}

static void coroutine_fn
co_decode_vhdx (Decode *decode, int which)
{
  VhdxState *s = g_new0 (VhdxState, 1);
  g_autoptr (GError) error = NULL;

  vhdx_init (s, decode);
  switch (which)
    {
    case 0:
      co_decode_vhdx_headers (s, &error);
      break;
    case 1:
      co_decode_vhdx_regions (s, &error);
      break;
    case 2:
      co_decode_vhdx_log (s, &error);
      break;
    case 3:
      co_decode_vhdx_metadata (s, &error);
      break;
    default:
      decode_vhdx_locator (s, &decode->script, &error);
    }
  judge (error == NULL, error);
  vhdx_clear (s);
  g_free (s);
}

/* --- the run ------------------------------------------------------------------------------------------- */

static void coroutine_fn
decode_entry (void *opaque)
{
  Decode *decode = opaque;
  BdrvOpenParams params = { .format = "raw", .filters = fuzz_filters, .flags = BDRV_O_NO_LOCK };
  g_autoptr (GError) error = NULL;
  uint8_t which = fuzz_u8 (&decode->script) % 6;

  decode->bs = bdrv_co_open (fuzz_path (0), &params, &error);
  g_assert_no_error (error);
  if (which == 0)
    co_decode_vhd (decode);
  else
    co_decode_vhdx (decode, which - 1);
  bdrv_co_unref (decode->bs);
}

static void
run (const uint8_t *script, size_t bytes)
{
  Decode decode = { .script = { script, script + bytes } };

  fuzz_run_coroutine (decode_entry, &decode);
}

const FuzzTarget fuzz_target = {
  .name = "decode",
  .max_file_bytes = 8 << 20,
  .max_requests = 20000,
  .max_bytes = INT64_C (256) << 20,
  .run = run,
};
