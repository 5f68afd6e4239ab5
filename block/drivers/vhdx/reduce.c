/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tables alone show to be stored without a need ([MS-VHDX] 2.5.1), and what it becomes:
 *
 *   7 with no bit set              0
 *   7 with all bits set            6
 *   1, 3 that keep a place         the same, without it
 *   a bitmap block of a chunk      none
 *   without a block in state 7
 *
 * Nothing a guest or a child sees changes.  Two rounds: a bitmap block goes only when no durable entry relies on it.
 */
#include "vhdx.h"

/* --- payload entries ---------------------------------------------------------------------------------------- */

/* @state, @file_offset: what the entry says. */
static int coroutine_fn
reduce_partial (VhdxState *s, uint64_t block, VhdxBlockState state, int64_t file_offset)
{
  VhdxBlockState reduced;
  int ret;

  if (state != VHDX_BLOCK_PARTIALLY_PRESENT || !s->metadata.has_parent)
    return 0;
  ret = vhdx_co_reduced_state (s, block, &reduced);
  if (ret == 0 && reduced == VHDX_BLOCK_NOT_PRESENT)
    ret = vhdx_co_set_state (s, block, reduced);
  else if (ret == 0 && reduced == VHDX_BLOCK_FULLY_PRESENT)
    ret = vhdx_co_promote (s, block, file_offset);
  return ret;
}

static int coroutine_fn
reduce_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;
  uint64_t block = vhdx_bat_index_block (s, index);
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;
  int ret;

  if (vhdx_bat_index_is_bitmap (s, index) || block >= s->payload_blocks)
    return 0;
  if (file_offset != 0 && (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED))
    ret = vhdx_co_set_state (s, block, state);
  else
    ret = reduce_partial (s, block, state, file_offset);
  return ret < 0 ? ret : vhdx_co_maybe_publish (s);
}

/* --- bitmap blocks ------------------------------------------------------------------------------------------- */

/* Bitmap entries come behind the payload entries of their chunk. */
typedef struct
{
  uint64_t chunk;
  bool needed; /* a block of it is partially present */
} BitmapScan;

static int coroutine_fn
drop_bitmap (VhdxState *s, uint64_t index, int64_t file_offset)
{
  VhdxFreed freed = { file_offset, VHDX_BITMAP_BLOCK_BYTES, 0 };
  VhdxHeldPage *page;
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, index), &page);
  if (ret == 0)
    {
      vhdx_held_entry_set (s, page, index, 0);
      vhdx_page_release (s, page);
      /* No entry that counts may have a target there when the space is used again (W4). */
      vhdx_pages_forget (s, file_offset, VHDX_BITMAP_BLOCK_BYTES);
      g_array_append_val (s->dropped, freed);
    }
  co_mutex_unlock (&s->alloc_lock);
  return ret < 0 ? ret : vhdx_co_maybe_publish (s);
}

static int coroutine_fn
look_at_bitmap (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  BitmapScan *scan = opaque;
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;
  uint64_t chunk = vhdx_bat_index_chunk (s, index);

  if (chunk != scan->chunk)
    *scan = (BitmapScan){ chunk, false };
  if (!vhdx_bat_index_is_bitmap (s, index))
    {
      scan->needed = scan->needed || state == VHDX_BLOCK_PARTIALLY_PRESENT;
      return 0;
    }
  if (state != VHDX_BITMAP_PRESENT || scan->needed)
    return 0;
  return drop_bitmap (s, index, value & VHDX_BAT_OFFSET_MASK);
}

int coroutine_fn
vhdx_co_reduce (BlockDriverState *bs)
{
  VhdxState *s = bs->opaque;
  BitmapScan scan = { 0 };
  int ret;

  /* A fixed image keeps its blocks; nothing in an image without a parent is in state 7. */
  if (vhdx_is_fixed (s))
    return 0;
  /* Writers wait: they might need the bitmap block that goes. */
  vhdx_co_hold_writers (s);
  ret = vhdx_co_publish (s);
  if (ret == 0)
    ret = vhdx_co_for_each_entry (s, reduce_entry, NULL);
  if (ret == 0)
    ret = vhdx_co_publish (s);
  /* A read that began meanwhile may have found a block in state 7, and ask for its bits next. */
  if (ret == 0)
    epochs_co_wait (&s->epochs);
  if (ret == 0 && s->metadata.has_parent)
    ret = vhdx_co_for_each_entry (s, look_at_bitmap, &scan);
  if (ret == 0)
    ret = vhdx_co_publish (s);
  vhdx_co_release_writers (s);
  return ret;
}
