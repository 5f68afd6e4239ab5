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
 * Nothing a guest or a child sees changes.  Two rounds: a bitmap block goes only when no durable entry relies on it;
 * and what is looked at for that is the table in its place, which has what a round has put there.
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
      vhdx_give_up (s, file_offset, VHDX_BITMAP_BLOCK_BYTES);
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

/* --- without doing it ---------------------------------------------------------------------------------------- */

typedef struct
{
  GArray *kept;      /* of int64_t: guest offsets of the payload blocks of the layout, ascending */
  guint next;        /* of them */
  GHashTable *given; /* file offsets (int64_t *) of what would be given up */
  BitmapScan bitmap;
} Foresight;

static void
foresee_giving (Foresight *foresight, int64_t file_offset)
{
  int64_t *key = g_new (int64_t, 1);

  *key = file_offset;
  g_hash_table_add (foresight->given, key);
}

/* Entries come in the order of blocks. */
static bool
foresee_kept (Foresight *foresight, int64_t offset)
{
  const GArray *kept = foresight->kept;

  while (foresight->next < kept->len && g_array_index (kept, int64_t, foresight->next) < offset)
    foresight->next++;
  return foresight->next < kept->len && g_array_index (kept, int64_t, foresight->next) == offset;
}

static int coroutine_fn
foresee_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  Foresight *foresight = opaque;
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK, reduced;
  uint64_t chunk = vhdx_bat_index_chunk (s, index), block = vhdx_bat_index_block (s, index);
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;

  if (chunk != foresight->bitmap.chunk)
    foresight->bitmap = (BitmapScan){ chunk, false };
  if (vhdx_bat_index_is_bitmap (s, index))
    {
      if (s->metadata.has_parent && state == VHDX_BITMAP_PRESENT && !foresight->bitmap.needed)
        foresee_giving (foresight, file_offset);
      return 0;
    }
  if (block >= s->payload_blocks)
    return 0;
  if (file_offset != 0 && (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED))
    foresee_giving (foresight, file_offset);
  if (state != VHDX_BLOCK_PARTIALLY_PRESENT || !s->metadata.has_parent
      || !foresee_kept (foresight, (int64_t)block * s->metadata.block_size))
    return 0;

  int ret = vhdx_co_reduced_state (s, block, &reduced);

  if (ret == 0 && reduced == VHDX_BLOCK_NOT_PRESENT)
    foresee_giving (foresight, file_offset);
  foresight->bitmap.needed = foresight->bitmap.needed || reduced == VHDX_BLOCK_PARTIALLY_PRESENT;
  return ret;
}

static int
compare_offsets (const void *a, const void *b)
{
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

  return x < y ? -1 : x > y;
}

int coroutine_fn
vhdx_co_foresee_reduce (BlockDriverState *bs, BlockLayout *layout)
{
  g_autoptr (GArray) kept = g_array_new (false, false, sizeof (int64_t));
  g_autoptr (GHashTable) given = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
  Foresight foresight = { .kept = kept, .given = given };
  guint left = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);

      if (extent->offset >= 0)
        g_array_append_val (kept, extent->offset);
    }
  g_array_sort (kept, compare_offsets);
  int ret = vhdx_co_for_each_entry (bs->opaque, foresee_entry, &foresight);
  if (ret < 0)
    return ret;
  for (guint i = 0; i < layout->extents->len; i++)
    {
      BlockExtent extent = g_array_index (layout->extents, BlockExtent, i);

      if (!g_hash_table_contains (given, &extent.file_offset))
        g_array_index (layout->extents, BlockExtent, left++) = extent;
    }
  g_array_set_size (layout->extents, left);
  return 0;
}
