/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing the virtual disk.
 *
 * Sparse images, and what a crash between two steps leaves:
 *   1  rounds and cut: nothing pending, footer right behind the last block
 *   2  the tail of the last block, below the old end, is zeroed           old size, nothing visible changed
 *   3  when the table has no room: a larger one is made behind the blocks,
 *      with the footer (old size) behind it                               old size, unused space at the end
 *   4  one sector of the header names it                                  old size, larger table
 *   5  where a larger parent would show through, zeros are stored         old size, some blocks past the end
 *   6  footer copy at 0 with the new size, flush                          old size (the end footer counts)
 *   7  footer at the end with the new size, flush                         new size
 *
 * A fixed image has one footer: it is written with the old size at the new end, growing the file by that one
 * write; then the old footer, now disk content, is zeroed, with whatever else was there; then the footer gets
 * the new size.  It is always on a sector of its own by then: one that another writer has put elsewhere moves
 * there first, by way of a place behind, so that there is a whole one at every instant.
 */
#include <inttypes.h>

#include "vhd.h"

static void
set_size (VhdFooter *footer, int64_t bytes)
{
  footer->current_size = bytes;
  vhd_geometry (bytes / VHD_SECTOR_SIZE, &footer->cylinders, &footer->heads, &footer->sectors_per_track);
}

/* The one footer of a fixed image, with the old size, to a place that shares no byte with the present one. */
static int coroutine_fn
move_only_footer (VhdState *s, int64_t to)
{
  BlockDriverState *file = s->bs->file;
  int64_t length = bdrv_length (file);
  int ret = vhd_co_write_footer (s, to);

  if (ret < 0)
    {
      /* Part of a footer, or zeros only, must not stay as the end of the file. If this fails too, nothing
       * more can be done; the first error is the one to tell. */
      (void)bdrv_co_truncate (file, length, NULL);
      return ret;
    }
  /* Barrier: the footer at its new place before the old one goes. */
  ret = bdrv_co_flush (file);
  if (ret == 0)
    s->footer_offset = to;
  return ret;
}

static int coroutine_fn
grow_fixed (VhdState *s, int64_t bytes)
{
  BlockDriverState *file = s->bs->file;
  int64_t slack = s->bs->bytes; /* between the disk's end and the footer, of other writers */
  int64_t old_end = bdrv_length (file);
  /* On a sector of its own, so that it cannot tear when the size changes. */
  int64_t place = MAX (bytes, round_up (s->footer_offset, VHD_SECTOR_SIZE));
  int ret = 0;

  if (place != s->footer_offset)
    {
      if (!s->can_grow)
        return -ENOSPC;
      if (place < s->footer_offset + VHD_FOOTER_SIZE)
        ret = move_only_footer (s, place + VHD_FOOTER_SIZE);
      if (ret == 0)
        ret = move_only_footer (s, place);
      if (ret < 0)
        return ret;
    }
  if (s->can_grow && bdrv_length (file) > place + VHD_FOOTER_SIZE
      && !bdrv_co_truncate (file, place + VHD_FOOTER_SIZE, NULL))
    return -EIO;
  ret = bdrv_co_pwrite_zeroes (file, slack, MIN (old_end, bytes) - slack, 0);
  /* Barrier: what becomes disk content is zero before the size says so. */
  if (ret == 0)
    ret = bdrv_co_flush (file);
  if (ret < 0)
    return ret;
  set_size (&s->footer, bytes);
  ret = vhd_co_write_footer (s, s->footer_offset);
  if (ret == 0)
    ret = bdrv_co_flush (file);
  /* The disk has the old or the new size, and nobody knows which. */
  if (ret < 0)
    bdrv_poison (s->bs);
  return ret;
}

/* Step 2. */
static int coroutine_fn
zero_tail (VhdState *s, int64_t old_bytes)
{
  int64_t end = MIN (round_up (old_bytes, s->block_size), (int64_t)s->blocks * s->block_size);
  uint32_t sector;
  int ret;

  if (old_bytes == end)
    return 0;
  ret = vhd_co_lookup (s, old_bytes / s->block_size, &sector);
  if (ret < 0 || sector == VHD_BAT_UNUSED)
    return ret;
  ret = vhd_co_zero_range (s, old_bytes, end - old_bytes);
  return ret < 0 ? ret : vhd_co_publish (s);
}

/* Copies the entries in use to @to, in pieces, with unused ones behind. What the old table holds behind
 * them (left from a growth that did not end, or by another writer) means nothing. */
static int coroutine_fn
write_larger_table (VhdState *s, int64_t to, int64_t bytes)
{
  BlockDriverState *file = s->bs->file;
  const size_t piece = 1 << 20;
  g_autofree uint8_t *buffer = g_malloc (piece);
  int64_t old_bytes = (int64_t)s->blocks * 4;

  for (int64_t done = 0; done < bytes; done += piece)
    {
      int64_t n = MIN ((int64_t)piece, bytes - done);
      int64_t copied = CLAMP (old_bytes - done, 0, n);
      int ret = 0;

      memset (buffer, 0xFF, n);
      if (copied > 0)
        ret = bdrv_co_pread (file, s->header.table_offset + done, copied, buffer);
      if (ret == 0)
        ret = bdrv_co_pwrite (file, to + done, n, buffer, 0);
      if (ret < 0)
        return ret;
    }
  return 0;
}

/* The batmap stands behind the table: a larger one with the same bits, directly behind the new table. */
static int coroutine_fn
write_larger_batmap (VhdState *s, int64_t at, int64_t map_bytes, VhdBatmapDisk *header)
{
  g_autofree uint8_t *map = g_malloc0 (map_bytes);
  uint32_t sum = 0;
  int ret;

  memcpy (map, s->batmap.map, MIN (map_bytes, s->batmap.map_bytes));
  for (int64_t i = 0; i < map_bytes; i++)
    sum += map[i];
  *header = s->batmap.header;
  header->map_offset = be64 (at + VHD_BATMAP_SIZE);
  header->map_sectors = be32 (map_bytes / VHD_SECTOR_SIZE);
  header->checksum = be32 (~sum);
  ret = bdrv_co_pwrite (s->bs->file, at, sizeof *header, header, 0);
  if (ret == 0)
    ret = bdrv_co_pwrite (s->bs->file, at + VHD_BATMAP_SIZE, map_bytes, map, 0);
  return ret;
}

int coroutine_fn
vhd_co_write_header_sector (VhdState *s, const VhdHeader *header)
{
  VhdHeaderDisk disk;

  vhd_header_encode (header, &disk);
  return bdrv_co_pwrite (s->bs->file, s->footer.data_offset, VHD_SECTOR_SIZE, &disk, 0);
}

static int64_t
batmap_bytes_for (int64_t disk_bytes)
{
  return MAX (VHD_SECTOR_SIZE, round_up (div_round_up (disk_bytes, 1 << 24), VHD_SECTOR_SIZE));
}

/* Steps 3 and 4. */
static int coroutine_fn
move_table (VhdState *s, uint32_t entries, int64_t disk_bytes)
{
  int64_t bat_bytes = round_up ((int64_t)entries * 4, 4096);
  int64_t to = round_up (s->data_end, 4096);
  int64_t map_bytes = s->batmap.present ? batmap_bytes_for (disk_bytes) : 0;
  int64_t end = to + bat_bytes + (map_bytes ? VHD_BATMAP_SIZE + map_bytes : 0);
  VhdHeader header = s->header;
  VhdBatmapDisk batmap_header;
  int ret;

  if (!s->can_grow && end > s->footer_offset)
    return -ENOSPC;
  /* Should this fail, the space behind the blocks holds part of a table, or a footer. */
  s->grown_is_zero = false;
  if (s->can_grow)
    {
      static const uint8_t zeros[VHD_FOOTER_SIZE];
      int64_t old_footer = s->footer_offset;

      /* No barrier before the old footer goes: as in grow_to (), the copy at 0 is good (vhd_co_cut () has
       * seen to it) and nobody touches it before the new one is durable. */
      ret = vhd_co_write_footer (s, end);
      if (ret < 0)
        return ret;
      s->footer_offset = end;
      /* The gap before an aligned table keeps no stale footer. */
      ret = bdrv_co_pwrite (s->bs->file, old_footer, sizeof zeros, zeros, 0);
      if (ret < 0)
        return ret;
    }
  ret = write_larger_table (s, to, bat_bytes);
  /* Padding belongs to the table: the batmap header is found behind it. */
  header.max_table_entries = map_bytes ? bat_bytes / 4 : entries;
  if (ret == 0 && map_bytes)
    ret = write_larger_batmap (s, to + bat_bytes, map_bytes, &batmap_header);
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret < 0)
    return ret;

  header.table_offset = to;
  /* Barrier: the table is durable, then the one sector that names it. */
  ret = vhd_co_write_header_sector (s, &header);
  if (ret < 0)
    {
      bdrv_poison (s->bs);
      return ret;
    }
  s->header = header;
  s->data_end = end;
  if (map_bytes)
    {
      s->batmap.header = batmap_header;
      s->batmap.header_offset = to + bat_bytes;
      s->batmap.map_offset = to + bat_bytes + VHD_BATMAP_SIZE;
      s->batmap.map = g_realloc (s->batmap.map, map_bytes);
      if ((uint32_t)map_bytes > s->batmap.map_bytes)
        memset (s->batmap.map + s->batmap.map_bytes, 0, map_bytes - s->batmap.map_bytes);
      s->batmap.map_bytes = map_bytes;
    }
  s->grown_is_zero = s->can_grow;
  return 0;
}

/* Entries from @first on become unused; they are in the table, and nothing of ours reads them yet. Others
 * may look at all that the header promises. */
static int coroutine_fn
clear_entries (VhdState *s, uint32_t first, uint32_t end)
{
  int64_t from = s->header.table_offset + (int64_t)first * 4;
  int64_t bytes = (int64_t)(end - first) * 4;
  g_autofree uint8_t *fill = g_malloc (MIN (bytes, 1 << 20));
  int ret = 0;

  memset (fill, 0xFF, MIN (bytes, 1 << 20));
  for (int64_t done = 0; done < bytes && ret == 0; done += 1 << 20)
    ret = bdrv_co_pwrite (s->bs->file, from + done, MIN (1 << 20, bytes - done), fill, 0);
  bdrv_meta_cache_invalidate (s->bat, from, bytes);
  /* Barrier: the entries are clear before the header counts them. */
  return ret < 0 ? ret : bdrv_co_flush (s->bs->file);
}

/* Steps 3 and 4: entries for @blocks, all of the new ones unused.  No barrier behind the sector of the
 * header: as long as the end footer has the old size the header is as true in its old as in its new form.
 * The flush of step 6 comes before the end footer, and that of a round (flush.c, step 3) before anything is
 * written to a table that has moved. */
static int coroutine_fn
make_room_in_table (VhdState *s, uint32_t blocks, int64_t disk_bytes)
{
  bool batmap_fits = !s->batmap.present || batmap_bytes_for (disk_bytes) <= s->batmap.map_bytes;
  VhdHeader header = s->header;
  int ret;

  /* A growth that failed may have left blocks behind the end of the disk. */
  memset (s->recent, 0, sizeof s->recent);
  if (blocks > s->bat_bytes / 4 || !batmap_fits)
    return move_table (s, blocks, disk_bytes);
  ret = clear_entries (s, s->blocks, blocks);
  if (ret < 0 || blocks <= s->header.max_table_entries)
    return ret;
  header.max_table_entries = blocks;
  ret = vhd_co_write_header_sector (s, &header);
  if (ret < 0)
    bdrv_poison (s->bs);
  else
    s->header = header;
  return ret;
}

/* Step 5. */
static int coroutine_fn
hide_parent (VhdState *s, int64_t old_bytes, int64_t bytes)
{
  BlockDriverState *backing = s->bs->backing;
  int64_t end;
  int ret;

  if (!backing)
    return 0;
  for (int64_t at = old_bytes; at < (end = MIN (bytes, bdrv_length (backing)));)
    {
      int64_t n = MIN (end - at, s->block_size - at % s->block_size);

      ret = bdrv_co_is_zero (backing, at, n);
      if (ret == 0)
        ret = vhd_co_zero_range (s, at, round_up (n, VHD_SECTOR_SIZE));
      if (ret < 0)
        return ret;
      at += n;
    }
  return vhd_co_publish (s);
}

static int coroutine_fn
grow_sparse (VhdState *s, int64_t bytes)
{
  int64_t old_bytes = s->bs->bytes;
  uint32_t blocks = div_round_up (bytes, s->block_size);
  int ret;

  ret = vhd_co_publish (s);
  if (ret == 0)
    {
      co_mutex_lock (&s->publish_lock);
      ret = vhd_co_batmap_write (s);
      co_mutex_unlock (&s->publish_lock);
    }
  if (ret == 0)
    ret = zero_tail (s, old_bytes);
  if (ret == 0)
    ret = vhd_co_cut (s);
  if (ret < 0)
    return ret;
  if (blocks > s->blocks)
    {
      ret = make_room_in_table (s, blocks, bytes);
      if (ret < 0)
        return ret;
      vhd_refresh_sizes (s);
      s->blocks = blocks;
    }
  ret = hide_parent (s, old_bytes, bytes);
  if (ret < 0)
    {
      vhd_refresh_sizes (s);
      return ret;
    }

  set_size (&s->footer, bytes);
  ret = vhd_co_write_both_footers (s);
  if (ret < 0)
    bdrv_poison (s->bs);
  vhd_refresh_sizes (s);
  return ret;
}

/* What open would refuse is not made. */
static bool
table_can_serve (const VhdState *s, int64_t bytes)
{
  int64_t blocks = div_round_up (bytes, s->block_size);

  return round_up (blocks * 4, 4096) <= VHD_MAX_BAT_BYTES
         && (!s->batmap.present || batmap_bytes_for (bytes) * 8 >= blocks);
}

bool coroutine_fn
vhd_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  VhdState *s = bs->opaque;
  int64_t old_bytes = bs->bytes;
  int ret;

  if (bytes == bs->bytes)
    return true;
  if (bytes < bs->bytes)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "a VHD cannot shrink: disk size %" PRId64 ", asked for %" PRId64, bs->bytes, bytes);
      return false;
    }
  if (bytes % VHD_SECTOR_SIZE != 0 || bytes > VHD_MAX_BYTES)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "disk size %" PRId64 ", expected a multiple of 512 up to %" PRId64, bytes,
                      VHD_MAX_BYTES);
      return false;
    }
  if (!vhd_is_fixed (s) && !table_can_serve (s, bytes))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "disk size %" PRId64
                      " would need a larger table of blocks of %u bytes than can be opened",
                      bytes, s->block_size);
      return false;
    }
  if (vhd_is_differencing (s) && !bs->backing)
    {
      /* A larger one would shine through behind the old end. */
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "has a parent that is not open: what it shows must be known to grow");
      return false;
    }
  if (vhd_is_fixed (s))
    {
      ret = grow_fixed (s, bytes);
      if (ret == 0)
        vhd_refresh_sizes (s);
    }
  else
    {
      ret = grow_sparse (s, bytes);
    }
  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "cannot grow from %" PRId64 " to %" PRId64 " bytes", old_bytes,
                          bytes);
  return ret == 0;
}
