/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing the virtual disk ([MS-VHDX] 2.5, 2.6.2.2).  No other request runs.  What a crash between two steps leaves:
 *
 *   1  a larger BAT region, when the old one has no room for the new entries: a copy in new space, flush; then one
 *      log entry with both region tables                               old size, larger BAT
 *   2  what lies behind the old end in the last block reads as zeros   old size, nothing visible changed
 *   3  the entries of new blocks: nothing; zeros where a larger parent
 *      would show; blocks of a fixed image                             old size, entries nobody looks at
 *   4  the disk size, in one log entry                                 new size
 *
 * Step 3 sets every new entry, so what an interrupted run left there is gone.
 */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

/* --- step 1 ------------------------------------------------------------------------------------------------- */

/* Both tables, with the BAT at @bat. */
static int coroutine_fn
log_region_tables (VhdxState *s, const VhdxRegion *bat)
{
  g_autofree uint8_t *table = g_malloc (VHDX_REGION_TABLE_SIZE);
  g_autoptr (GArray) regions = g_array_sized_new (false, false, sizeof (VhdxRegion), s->regions->len);
  int ret;

  g_array_append_vals (regions, s->regions->data, s->regions->len);
  for (guint i = 0; i < regions->len; i++)
    if (vhdx_guid_equal (&g_array_index (regions, VhdxRegion, i).guid, &bat->guid))
      g_array_index (regions, VhdxRegion, i) = *bat;
  vhdx_region_table_encode ((const VhdxRegion *)regions->data, regions->len, table);
  /* One change: no round comes between the two. */
  co_mutex_lock (&s->publish_lock);
  ret = vhdx_co_log_metadata (s, VHDX_REGION_OFFSET_1, table, VHDX_REGION_TABLE_SIZE);
  if (ret == 0)
    ret = vhdx_co_log_metadata (s, VHDX_REGION_OFFSET_2, table, VHDX_REGION_TABLE_SIZE);
  co_mutex_unlock (&s->publish_lock);
  if (ret == 0)
    ret = vhdx_co_publish (s);
  /* The change is in memory: a later round must not make it durable when @bat is used for something else. */
  if (ret < 0)
    bdrv_poison (s->bs);
  return ret;
}

static void
switch_table (VhdxState *s, const VhdxRegion *bat)
{
  VhdxFreed freed = { s->bat_region.file_offset, s->bat_region.bytes, s->epochs.current };

  for (guint i = 0; i < s->regions->len; i++)
    if (vhdx_guid_equal (&g_array_index (s->regions, VhdxRegion, i).guid, &bat->guid))
      g_array_index (s->regions, VhdxRegion, i) = *bat;
  g_array_append_val (s->freed, freed);
  vhdx_pages_forget (s, s->bat_region.file_offset, s->bat_region.bytes);
  vhdx_pages_forget (s, bat->file_offset, bat->bytes);
  s->bat_region = *bat;
  /* A block status that waits may have read what is not the table any more. */
  s->bs->layout_changes++;
}

static int coroutine_fn
make_room_in_table (VhdxState *s, uint64_t entries)
{
  VhdxRegion bat = s->bat_region;
  BdrvCopy copy = { .from = bat.file_offset, .bytes = bat.bytes };
  int ret;

  if ((uint64_t)bat.bytes / 8 >= entries)
    return 0;
  bat.bytes = round_up ((int64_t)entries * 8, VHDX_MIB);
  bat.required = true;
  co_mutex_lock (&s->alloc_lock);
  ret = vhdx_co_take_space (s, bat.bytes, &bat.file_offset);
  co_mutex_unlock (&s->alloc_lock);
  if (ret < 0)
    return ret;
  /* What the held pages had is in place since the round before; the entry comes after a flush: I5. */
  copy.to = bat.file_offset;
  ret = bdrv_co_copy_within (s->bs->file, &copy, 1);
  if (ret == 0)
    ret = log_region_tables (s, &bat);
  if (ret == 0)
    switch_table (s, &bat);
  else if (!bdrv_is_poisoned (s->bs))
    vhdx_give_back_space (s, bat.file_offset, bat.bytes);
  return ret;
}

/* --- step 2 ------------------------------------------------------------------------------------------------- */

static int coroutine_fn
zero_tail (VhdxState *s, int64_t old_bytes, int64_t bytes)
{
  int64_t end =
      MIN (round_up (old_bytes, s->metadata.block_size), round_up (bytes, s->metadata.logical_sector_size));
  VhdxBlock entry;
  int ret;

  if (old_bytes == end)
    return 0;
  ret = vhdx_co_lookup (s, old_bytes / s->metadata.block_size, &entry);
  /* Without a parent the block is zero, or not there; the core asks the parent as far as it reaches. */
  if (ret < 0 || (!vhdx_is_present (entry.state) && !s->metadata.has_parent))
    return ret;
  return vhdx_co_zero_range (s, old_bytes, end - old_bytes);
}

/* --- step 3 ------------------------------------------------------------------------------------------------- */

/* What the entry of a new block is to be. */
static int coroutine_fn
new_entry (VhdxState *s, uint64_t block, int64_t old_bytes, uint64_t *value)
{
  int64_t offset = (int64_t)block * s->metadata.block_size, file_offset;
  BlockDriverState *backing = s->bs->backing;
  int ret;

  *value = VHDX_BLOCK_NOT_PRESENT;
  if (vhdx_is_fixed (s))
    {
      co_mutex_lock (&s->alloc_lock);
      ret = vhdx_co_take_space (s, s->metadata.block_size, &file_offset);
      co_mutex_unlock (&s->alloc_lock);
      *value = ret == 0 ? (uint64_t)file_offset | VHDX_BLOCK_FULLY_PRESENT : 0;
      return ret;
    }
  /* Where the parent was clipped it must not come to light. */
  if (s->metadata.has_parent && (!backing || offset < bdrv_length (backing)))
    *value = VHDX_BLOCK_ZERO;
  return 0;
}

static int coroutine_fn
set_new_entry (VhdxState *s, uint64_t index, uint64_t value)
{
  VhdxHeldPage *page;
  uint64_t old;
  int ret = vhdx_co_read_u64 (s, vhdx_bat_file_offset (s, index), &old);

  if (ret < 0 || old == value)
    return ret;
  ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, index), &page);
  if (ret < 0)
    return ret;
  vhdx_held_entry_set (s, page, index, value);
  vhdx_page_release (s, page);
  return vhdx_co_maybe_publish (s);
}

static int coroutine_fn
clear_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  /* The bitmap block of the last chunk stays in use. */
  if (index < s->bat_entries && vhdx_bat_index_is_bitmap (s, index))
    return 0;
  return set_new_entry (s, index, 0);
}

/* s->metadata still has the old size. */
static int coroutine_fn
set_new_entries (VhdxState *s, uint64_t entries, uint64_t blocks, int64_t old_bytes)
{
  BlockDriverState *backing = s->bs->backing;
  bool fixed = vhdx_is_fixed (s);
  uint64_t with_value = blocks;
  /* Of what is new, all that does not become something below is to be zero: an interrupted run may have been here, or
   * another writer.  The last chunk of a child has entries already for blocks that come now. */
  uint64_t first = MIN (vhdx_bat_index (s, s->payload_blocks), s->bat_entries);
  int ret = vhdx_co_for_each_entry_in (s, first, entries, clear_entry, NULL);

  if (!fixed && !s->metadata.has_parent)
    return ret;
  if (!fixed && backing)
    with_value = MIN (blocks, (uint64_t)div_round_up (bdrv_length (backing), s->metadata.block_size));
  for (uint64_t block = s->payload_blocks; block < with_value && ret == 0; block++)
    {
      uint64_t value;

      ret = new_entry (s, block, old_bytes, &value);
      if (ret == 0)
        ret = set_new_entry (s, vhdx_bat_index (s, block), value);
    }
  return ret;
}

/* --- all of it ---------------------------------------------------------------------------------------------- */

static int coroutine_fn
grow (VhdxState *s, int64_t bytes, GError **error)
{
  VhdxMetadata larger = s->metadata;
  int64_t old_bytes = s->metadata.bytes;
  Le64 size = le64 (bytes);
  int ret = vhdx_co_begin_changes (s, VHDX_SESSION_DATA);

  larger.bytes = bytes;
  if (ret == 0)
    ret = vhdx_co_publish (s);
  if (ret == 0)
    ret = make_room_in_table (s, vhdx_bat_entries (&larger));
  if (ret == 0)
    ret = zero_tail (s, old_bytes, bytes);
  if (ret == 0)
    ret = set_new_entries (s, vhdx_bat_entries (&larger), vhdx_payload_blocks (&larger), old_bytes);
  if (ret < 0)
    return ret;
  /* Begins with a round, so the entries are durable before the size that makes them count. */
  if (!vhdx_co_replace_item (s, &vhdx_guid_disk_size, &size, sizeof size, error))
    return -EIO;
  s->metadata.bytes = bytes;
  return vhdx_refresh_sizes (s, error) ? 0 : -EIO;
}

bool coroutine_fn
vhdx_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  VhdxState *s = bs->opaque;
  g_autoptr (GError) why = NULL;
  int ret;

  if (bytes == bs->bytes)
    return true;
  if (bytes < bs->bytes)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "shrinking a VHDX is not supported: disk size %" PRId64 ", asked for %" PRId64,
                      bs->bytes, bytes);
      return false;
    }
  if (bytes % s->metadata.logical_sector_size != 0 || bytes > VHDX_MAX_DISK_BYTES)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "disk size %" PRId64 ", expected a multiple of %u up to %" PRId64, bytes,
                      s->metadata.logical_sector_size, VHDX_MAX_DISK_BYTES);
      return false;
    }
  ret = grow (s, bytes, &why);
  if (why)
    g_propagate_error (error, g_steal_pointer (&why));
  else if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "cannot grow from %" PRId64 " to %" PRId64 " bytes", bs->bytes,
                          bytes);
  return ret == 0;
}
