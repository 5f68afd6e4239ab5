/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * XenServer's batmap: one bit a block, set when every bit of the block's bitmap is.  tapdisk believes a set
 * bit without looking at the bitmap, so a set bit must never be untrue; a clear one only costs it time.
 *
 * Order: bits are cleared before the BAT entry changes (step 2 of a round), set after bitmap and BAT are
 * durable (with the next round, or at close).  Map and checksum are in different sectors; when a crash has
 * kept one without the other, the next writable open starts with an empty map, which is always true.
 */
#include <inttypes.h>

#include "bitset.h"
#include "vhd.h"

/* A larger map than a 2040 GiB disk in blocks of 64 KiB needs is not read. */
#define MAX_MAP_BYTES (4 << 20)

/* Bytes of the map the checksum covers: one bit for each 2 MiB of the disk, whole sectors. */
static int64_t
checksummed_bytes (uint64_t disk_bytes)
{
  return MAX (VHD_SECTOR_SIZE, round_up (div_round_up (disk_bytes, 1 << 24), VHD_SECTOR_SIZE));
}

static uint32_t
map_checksum (const VhdBatmap *batmap)
{
  uint32_t sum = 0;

  for (uint32_t i = 0; i < batmap->map_bytes; i++)
    sum += batmap->map[i];
  return ~sum;
}

void coroutine_fn
vhd_co_batmap_probe (VhdState *s)
{
  VhdBatmap *batmap = &s->batmap;
  uint64_t map_offset;
  uint32_t map_sectors;
  int64_t end;

  memset (batmap, 0, sizeof *batmap);
  if (memcmp (s->footer.creator_application, "tap", 3) != 0 || s->footer.creator_version < 0x00010001)
    return;

  batmap->header_offset = s->header.table_offset + s->bat_bytes;
  if (bdrv_co_pread (s->bs->file, batmap->header_offset, sizeof batmap->header, &batmap->header) < 0
      || memcmp (batmap->header.cookie, VHD_BATMAP_COOKIE, sizeof batmap->header.cookie) != 0)
    {
      if (s->footer.creator_version >= 0x00010002)
        bdrv_warn (s->bs, "no batmap at offset %" PRId64 " although the creator writes one",
                   batmap->header_offset);
      return;
    }
  map_offset = be64_get (batmap->header.map_offset);
  map_sectors = be32_get (batmap->header.map_sectors);
  if (map_offset % VHD_SECTOR_SIZE != 0 || map_offset < (uint64_t)batmap->header_offset + VHD_BATMAP_SIZE
      || map_sectors == 0
      || !checked_add ((int64_t)MIN (map_offset, INT64_MAX / 2), (int64_t)map_sectors * VHD_SECTOR_SIZE, &end)
      || end > vhd_blocks_limit (s))
    {
      bdrv_warn (s->bs,
                 "batmap at offset %" PRId64 ": its map (offset %" PRIu64 ", %u sectors) is not in the file",
                 batmap->header_offset, map_offset, map_sectors);
      return;
    }
  batmap->map_offset = map_offset;
  batmap->map_bytes =
      MIN (checksummed_bytes (s->footer.current_size), (int64_t)map_sectors * VHD_SECTOR_SIZE);
  batmap->present = true;
}

bool coroutine_fn
vhd_co_batmap_load (VhdState *s, GError **error)
{
  VhdBatmap *batmap = &s->batmap;
  uint32_t found, expected;
  int ret;

  if (!batmap->present)
    return true;
  if (batmap->map_bytes > MAX_MAP_BYTES || (int64_t)batmap->map_bytes * 8 < s->blocks)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                      "batmap at offset %" PRId64 ": %u bytes of map for %u blocks", batmap->header_offset,
                      batmap->map_bytes, s->blocks);
      return false;
    }
  batmap->map = g_malloc (batmap->map_bytes);
  ret = bdrv_co_pread (s->bs->file, batmap->map_offset, batmap->map_bytes, batmap->map);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the batmap at offset %" PRId64,
                            batmap->map_offset);
      g_clear_pointer (&batmap->map, g_free);
      return false;
    }
  found = be32_get (batmap->header.checksum);
  expected = map_checksum (batmap);
  batmap->trusted = found == expected;
  if (!batmap->trusted)
    {
      bdrv_warn (s->bs, "batmap at offset %" PRId64 ": checksum 0x%08x, expected 0x%08x",
                 batmap->header_offset, found, expected);
      if (s->writable)
        {
          memset (batmap->map, 0, batmap->map_bytes);
          batmap->dirty = true;
        }
    }
  return true;
}

bool
vhd_batmap_get (const VhdState *s, uint32_t block)
{
  return block / 8 < s->batmap.map_bytes && bitset_get (s->batmap.map, block, BITSET_MSB_FIRST);
}

void
vhd_batmap_set (VhdState *s, uint32_t block, bool full)
{
  VhdBatmap *batmap = &s->batmap;

  if (!batmap->map || block / 8 >= batmap->map_bytes || vhd_batmap_get (s, block) == full)
    return;
  bitset_fill (batmap->map, block, 1, full, BITSET_MSB_FIRST);
  batmap->dirty = true;
}

int coroutine_fn
vhd_co_batmap_write (VhdState *s)
{
  VhdBatmap *batmap = &s->batmap;
  g_autofree uint8_t *map = NULL;
  BdrvWrite writes[2];
  int ret;

  if (!batmap->map || !batmap->dirty)
    return 0;
  /* The copy is what is checksummed and written: bits may change while it is under way. */
  batmap->dirty = false;
  batmap->header.checksum = be32 (map_checksum (batmap));
  map = g_memdup2 (batmap->map, batmap->map_bytes);
  writes[0] = (BdrvWrite){ batmap->map_offset, batmap->map_bytes, map };
  writes[1] = (BdrvWrite){ batmap->header_offset, VHD_BATMAP_SIZE, &batmap->header };
  ret = bdrv_co_write_batch (s->bs->file, writes, G_N_ELEMENTS (writes));
  if (ret < 0)
    batmap->dirty = true;
  return ret;
}

void
vhd_batmap_clear (VhdState *s)
{
  g_clear_pointer (&s->batmap.map, g_free);
}
