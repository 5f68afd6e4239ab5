/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space in the container: where new blocks go, how the file grows, and when freed space is used again. */
#include <inttypes.h>

#include "vhd.h"

void
vhd_free_slot (VhdState *s, uint32_t sector)
{
  VhdFreeSlot slot = { .file_offset = vhd_sector_to_offset (sector), .epoch = s->epochs.current };

  /* Space at an unaligned place (of another writer) is left for compaction. */
  if (slot.file_offset == vhd_align_block (s, slot.file_offset))
    g_array_append_val (s->free_slots, slot);
}

static bool
take_free_slot (VhdState *s, int64_t *file_offset)
{
  /* Only a few looks: the list is short or its last entries are old enough. */
  for (guint i = s->free_slots->len, looks = 0; i > 0 && looks < 8; i--, looks++)
    {
      VhdFreeSlot *slot = &g_array_index (s->free_slots, VhdFreeSlot, i - 1);

      if (!epochs_is_over (&s->epochs, slot->epoch))
        continue;
      *file_offset = slot->file_offset;
      g_array_remove_index_fast (s->free_slots, i - 1);
      return true;
    }
  return false;
}

/* --- growth ----------------------------------------------------------------------------------------------
 */

/* Blocks added at the end in one step: enough that footer writes are rare, little enough that an interrupted
 * run does not leave a file that looks bloated. */
static int64_t
growth_step (const VhdState *s)
{
  return CLAMP (s->data_end / 8, 16 * s->block_span, MAX (INT64_C (256) << 20, 16 * s->block_span));
}

/* Makes room for blocks up to @end: the footer goes to the new end first (I4), the space before it reads as
 * zeros, and the place of the old footer is cleared. */
static int coroutine_fn
grow_to (VhdState *s, int64_t end)
{
  static const uint8_t zeros[VHD_FOOTER_SIZE];
  int64_t old_footer = s->footer_offset;
  int64_t new_footer = round_up (MAX (end, s->data_end + growth_step (s)), VHD_SECTOR_SIZE);
  int ret;

  ret = vhd_co_write_footer (s, new_footer);
  /* Of a footer that could not be written, part may be there. */
  if (ret < 0)
    s->grown_is_zero = false;
  if (ret < 0 && new_footer > end)
    {
      /* A file size limit may allow one block and not the whole step. */
      new_footer = round_up (end, VHD_SECTOR_SIZE);
      ret = vhd_co_write_footer (s, new_footer);
    }
  if (ret < 0)
    {
      s->end_footer_stale = true;
      return ret;
    }
  ret = bdrv_co_pwrite (s->bs->file, old_footer, sizeof zeros, zeros, 0);
  if (ret < 0)
    {
      /* Whoever tries again comes here again: the old footer must not stay among blocks. */
      s->grown_is_zero = false;
      s->end_footer_stale = true;
      return ret;
    }
  s->footer_offset = new_footer;
  return 0;
}

/* From @from on, where a block does not come to stand on what a parent locator names.  A text that is outside the file, or
 * in another structure, does not count; in a longer file it would, and the block could not be opened. */
static int64_t
pass_locators (const VhdState *s, int64_t from)
{
  int64_t start = vhd_align_block (s, from);

  if (!vhd_is_differencing (s))
    return start;
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      const VhdLocator *locator = &s->header.locators[i];

      if (locator->code != VHD_LOCATOR_NONE && locator->offset <= INT64_MAX / 2
          && ranges_overlap (start, s->block_span, locator->offset, locator->length))
        {
          start = vhd_align_block (s, locator->offset + locator->length);
          i = -1;
        }
    }
  return start;
}

static int coroutine_fn
take_new_space (VhdState *s, int64_t *file_offset)
{
  int64_t start = pass_locators (s, s->data_end);
  int64_t end = start + s->block_span;

  /* Blocks start below 2 TiB: entries have 32 bits, and the last value means "unused". */
  if (start / VHD_SECTOR_SIZE >= VHD_BAT_UNUSED)
    return -EFBIG;
  if (end > s->footer_offset)
    {
      int ret;

      if (!s->can_grow)
        return -ENOSPC;
      ret = grow_to (s, end);
      if (ret < 0)
        return ret;
    }
  s->data_end = end;
  *file_offset = start;
  return 0;
}

/* --- blocks ----------------------------------------------------------------------------------------------
 */

VhdChange *
vhd_change_for (VhdState *s, uint32_t block, uint32_t old_sector)
{
  VhdChange *change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER (block));

  vhd_recent_forget (s, block);
  if (!change)
    {
      change = g_new0 (VhdChange, 1);
      change->block = block;
      change->old_sector = old_sector;
      g_hash_table_insert (s->changes, GUINT_TO_POINTER (block), change);
    }
  return change;
}

static int coroutine_fn
allocate_locked (VhdState *s, uint32_t block, uint32_t *sector)
{
  int64_t file_offset;
  bool is_zero;
  VhdChange *change;
  int ret;

  ret = vhd_co_lookup (s, block, sector);
  if (ret < 0 || *sector != VHD_BAT_UNUSED)
    return ret;

  is_zero = false;
  if (!take_free_slot (s, &file_offset))
    {
      ret = take_new_space (s, &file_offset);
      if (ret < 0)
        return ret;
      is_zero = s->grown_is_zero;
    }
  if (!is_zero)
    {
      ret = bdrv_co_pwrite_zeroes (s->bs->file, file_offset, s->block_span, BDRV_REQ_MAY_UNMAP);
      if (ret < 0)
        {
          vhd_free_slot (s, file_offset / VHD_SECTOR_SIZE);
          return ret;
        }
    }

  *sector = file_offset / VHD_SECTOR_SIZE;
  change = vhd_change_for (s, block, VHD_BAT_UNUSED);
  change->sector = *sector;
  change->fresh = true;
  vhd_bitmap_forget (s, block);
  /* The specification has a bit say "data here"; all ones over zeros says nothing untrue and saves every
   * later write a bitmap update.  Over a parent a bit hides the parent, so there they start at zero. */
  vhd_bitmap_put (s, vhd_bitmap_new (s, block, *sector, !vhd_is_differencing (s)));
  return 0;
}

int coroutine_fn
vhd_co_allocate (VhdState *s, uint32_t block, uint32_t *sector)
{
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = allocate_locked (s, block, sector);
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}

int coroutine_fn
vhd_co_drop (VhdState *s, uint32_t block)
{
  VhdChange *change;
  uint32_t sector;
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = vhd_co_lookup (s, block, &sector);
  if (ret == 0 && sector != VHD_BAT_UNUSED)
    {
      change = vhd_change_for (s, block, sector);
      if (change->fresh && !(change->publishing && change->publishing_sector == sector))
        vhd_free_slot (s, sector); /* no BAT on disk ever named it */
      change->sector = VHD_BAT_UNUSED;
      change->fresh = false;
      if (!change->publishing && change->old_sector == VHD_BAT_UNUSED)
        g_hash_table_remove (s->changes, GUINT_TO_POINTER (block));
      vhd_bitmap_forget (s, block);
      s->bs->layout_changes++;
    }
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}
