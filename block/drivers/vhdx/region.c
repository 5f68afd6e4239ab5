/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Region table ([MS-VHDX] 2.2.3): where BAT and metadata are. */
#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "vhdx.h"

bool
vhdx_region_table_is_valid (uint8_t *table)
{
  const VhdxRegionTableDisk *disk = (const void *)table;
  uint32_t found = le32_get (disk->checksum);

  if (memcmp (disk->signature, VHDX_REGION_SIGNATURE, sizeof disk->signature) != 0)
    return false;
  memset (table + offsetof (VhdxRegionTableDisk, checksum), 0, 4);
  return crc32c (0, table, VHDX_REGION_TABLE_SIZE) == found;
}

static bool
check_region (VhdxState *s, const VhdxRegion *region, GError **error)
{
  BlockDriverState *bs = s->bs;
  char text[37];

  vhdx_guid_format (&region->guid, text);
  if (region->file_offset % VHDX_MIB != 0 || region->bytes % VHDX_MIB != 0 || region->bytes == 0
      || region->file_offset < VHDX_HEADER_SECTION || region->file_offset > s->file_bytes
      || region->bytes > s->file_bytes - region->file_offset)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "region table: region %s at offset %" PRId64 ", %" PRId64
                      " bytes: not whole MiB inside the file of %" PRId64 " bytes",
                      text, region->file_offset, region->bytes, s->file_bytes);
      return false;
    }
  if (ranges_overlap (region->file_offset, region->bytes, s->header.log_offset, s->header.log_length))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "region table: region %s at offset %" PRId64 " overlaps the log at offset %" PRIu64,
                      text, region->file_offset, s->header.log_offset);
      return false;
    }
  for (guint i = 0; i < s->regions->len; i++)
    {
      const VhdxRegion *other = &g_array_index (s->regions, VhdxRegion, i);

      if (vhdx_guid_equal (&other->guid, &region->guid))
        {
          bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT, "region table: region %s is there twice", text);
          return false;
        }
      if (ranges_overlap (region->file_offset, region->bytes, other->file_offset, other->bytes))
        {
          bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                          "region table: region %s at offset %" PRId64 " overlaps another at offset %" PRId64,
                          text, region->file_offset, other->file_offset);
          return false;
        }
    }
  if (region->required && !vhdx_guid_equal (&region->guid, &vhdx_guid_bat)
      && !vhdx_guid_equal (&region->guid, &vhdx_guid_metadata))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "region table: unknown region %s is required",
                      text);
      return false;
    }
  return true;
}

static bool
decode_table (VhdxState *s, const uint8_t *table, GError **error)
{
  const VhdxRegionTableDisk *disk = (const void *)table;
  uint32_t count = le32_get (disk->entry_count);
  bool has_bat = false, has_metadata = false;

  if (count > VHDX_MAX_REGIONS)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "region table: %u entries, at most %d", count,
                      VHDX_MAX_REGIONS);
      return false;
    }
  for (uint32_t i = 0; i < count; i++)
    {
      VhdxRegionDisk entry;
      VhdxRegion region;

      memcpy (&entry, table + sizeof *disk + i * sizeof entry, sizeof entry);
      region.guid = entry.guid;
      region.file_offset = MIN (le64_get (entry.file_offset), (uint64_t)INT64_MAX);
      region.bytes = le32_get (entry.length);
      region.required = le32_get (entry.flags) & VHDX_REGION_REQUIRED;
      if (!check_region (s, &region, error))
        return false;
      g_array_append_val (s->regions, region);
      if (vhdx_guid_equal (&region.guid, &vhdx_guid_bat))
        {
          s->bat_region = region;
          has_bat = true;
        }
      else if (vhdx_guid_equal (&region.guid, &vhdx_guid_metadata))
        {
          s->metadata_region = region;
          has_metadata = true;
        }
    }
  if (!has_bat || !has_metadata)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "region table: no %s region",
                    has_bat ? "metadata" : "BAT");
  return has_bat && has_metadata;
}

static const int64_t copies[] = { VHDX_REGION_OFFSET_1, VHDX_REGION_OFFSET_2 };

/* *valid: signature and checksum, which is zeroed, are right. */
static bool coroutine_fn
read_copy (VhdxState *s, size_t which, uint8_t *table, bool *valid, GError **error)
{
  int ret = vhdx_co_read (s, copies[which], VHDX_REGION_TABLE_SIZE, table);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the region table at offset %" PRId64,
                            copies[which]);
      return false;
    }
  *valid = vhdx_region_table_is_valid (table);
  if (!*valid)
    bdrv_warn (s->bs, "region table %zu at offset %" PRId64 " is damaged", which + 1, copies[which]);
  return true;
}

bool coroutine_fn
vhdx_co_read_regions (VhdxState *s, GError **error)
{
  g_autofree uint8_t *table = g_malloc (VHDX_REGION_TABLE_SIZE);
  bool valid = false;

  s->regions = g_array_new (false, false, sizeof (VhdxRegion));
  for (size_t i = 0; i < G_N_ELEMENTS (copies) && !valid; i++)
    {
      s->region_table_offset = copies[i];
      if (!read_copy (s, i, table, &valid, error))
        return false;
    }
  if (valid)
    return decode_table (s, table, error);
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                  "region tables: signature or checksum is wrong at offsets %" PRId64 " and %" PRId64,
                  VHDX_REGION_OFFSET_1, VHDX_REGION_OFFSET_2);
  return false;
}

bool coroutine_fn
vhdx_co_compare_region_tables (VhdxState *s, GError **error)
{
  g_autofree uint8_t *tables = g_malloc (2 * VHDX_REGION_TABLE_SIZE);
  uint8_t *second = tables + VHDX_REGION_TABLE_SIZE;
  bool valid;

  if (s->region_tables_compared)
    return true;
  s->region_tables_compared = true;
  /* The first was damaged, and has been warned of. */
  if (s->region_table_offset != copies[0])
    {
      s->region_tables_differ = true;
      return true;
    }
  if (!read_copy (s, 0, tables, &valid, error) || !read_copy (s, 1, second, &valid, error))
    return false;
  /* The checksums are out of the way by now. */
  s->region_tables_differ = !valid || memcmp (tables, second, VHDX_REGION_TABLE_SIZE) != 0;
  if (valid && s->region_tables_differ)
    bdrv_warn (s->bs, "region tables: the two copies differ, using the first");
  return true;
}
