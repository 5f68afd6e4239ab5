/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What compaction needs of the format: what lies where, how a block is dropped or moved, how the end is cut.
 * The order of writes is that of a round (vhdx.h); the plan is the job's. */
#include <inttypes.h>

#include "vhdx.h"

/* --- layout ----------------------------------------------------------------------------------------------- */

/* What the driver calls the bitmap block of @chunk in extents and moves. */
static inline int64_t
bitmap_name (uint64_t chunk)
{
  return BLOCK_EXTENT_FIXED - 1 - (int64_t)chunk;
}

static inline uint64_t
bitmap_chunk (int64_t name)
{
  return BLOCK_EXTENT_FIXED - 1 - name;
}

static void
add_extent (GArray *extents, int64_t file_offset, int64_t bytes, int64_t offset)
{
  BlockExtent extent = { file_offset, bytes, offset };

  if (bytes > 0)
    g_array_append_val (extents, extent);
}

static int
compare_extents (const void *a, const void *b)
{
  const BlockExtent *x = a, *y = b;

  return x->file_offset < y->file_offset ? -1 : x->file_offset > y->file_offset;
}

static int coroutine_fn
add_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  GArray *extents = opaque;
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;

  if (vhdx_bat_index_is_bitmap (s, index))
    {
      if (s->metadata.has_parent && state == VHDX_BITMAP_PRESENT)
        add_extent (extents, file_offset, VHDX_BITMAP_BLOCK_BYTES,
                    bitmap_name (vhdx_bat_index_chunk (s, index)));
    }
  else if (vhdx_is_present (state))
    {
      add_extent (extents, file_offset, s->metadata.block_size,
                  (int64_t)vhdx_bat_index_block (s, index) * s->metadata.block_size);
    }
  else if (file_offset != 0 && (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED))
    {
      add_extent (extents, file_offset, s->metadata.block_size, BLOCK_EXTENT_FIXED);
    }
  return 0;
}

bool coroutine_fn
vhdx_co_get_layout (BlockDriverState *bs, BlockLayout *layout, GError **error)
{
  VhdxState *s = bs->opaque;
  g_autoptr (VhdxSpace) space = NULL;
  int ret;

  if (vhdx_is_fixed (s))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "a fixed VHDX keeps all its blocks: none can be dropped or moved");
      return false;
    }
  ret = bs->read_only ? 0 : vhdx_co_publish (s);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot write back its metadata");
      return false;
    }
  /* Every entry is judged by this: no two extents share a byte. */
  if (!vhdx_co_collect_space (s, &space, error))
    return false;

  layout->extents = g_array_new (false, false, sizeof (BlockExtent));
  add_extent (layout->extents, 0, VHDX_HEADER_SECTION, BLOCK_EXTENT_FIXED);
  add_extent (layout->extents, s->header.log_offset, s->header.log_length, BLOCK_EXTENT_FIXED);
  for (guint i = 0; i < s->regions->len; i++)
    {
      const VhdxRegion *region = &g_array_index (s->regions, VhdxRegion, i);

      add_extent (layout->extents, region->file_offset, region->bytes, BLOCK_EXTENT_FIXED);
    }
  ret = vhdx_co_for_each_entry (s, add_entry, layout->extents);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot read the BAT at offset %" PRId64,
                            s->bat_region.file_offset);
      return false;
    }
  g_array_sort (layout->extents, compare_extents);
  layout->block_size = s->metadata.block_size;
  layout->alignment = VHDX_MIB;
  layout->file_size = bdrv_length (bs->file);
  return true;
}

int coroutine_fn
vhdx_co_drop_block (BlockDriverState *bs, int64_t offset, BlockDrop drop)
{
  VhdxState *s = bs->opaque;
  /* Without a parent both read as zeros; the state that says so is the one to keep ([MS-VHDX] 2.5.1.1). */
  bool zero = drop == BLOCK_DROP_ZERO || !s->metadata.has_parent;
  int ret;

  /* Whoever found the same below looked at a parent that was given up. */
  if (drop == BLOCK_DROP_UNALLOCATED && !s->metadata.has_parent && bs->backing)
    return -EINVAL;
  ret =
      vhdx_co_set_state (s, offset / s->metadata.block_size, zero ? VHDX_BLOCK_ZERO : VHDX_BLOCK_NOT_PRESENT);
  return ret < 0 ? ret : vhdx_co_maybe_publish (s);
}

/* --- moving ----------------------------------------------------------------------------------------------- */

static uint64_t
move_index (const VhdxState *s, const BlockMove *move)
{
  return move->offset >= 0 ? vhdx_bat_index (s, move->offset / s->metadata.block_size)
                           : vhdx_bitmap_index (s, bitmap_chunk (move->offset));
}

/* Takes the target, and copies by sharing extents or leaves it to @copies.  -EINVAL: the plan does not fit what is there. */
static int coroutine_fn
prepare_move (VhdxState *s, const BlockMove *move, GArray *copies)
{
  BdrvCopy copy = { move->from, move->to, move->bytes };
  uint64_t value;
  int ret = vhdx_co_read_u64 (s, vhdx_bat_file_offset (s, move_index (s, move)), &value);

  if (ret < 0)
    return ret;
  if ((int64_t)(value & VHDX_BAT_OFFSET_MASK) != move->from || !vhdx_is_present (value & VHDX_BAT_STATE_MASK))
    return -EINVAL;
  if (!vhdx_space_take (s->space, move->to, move->bytes))
    return -EINVAL;
  s->clone_in_file = s->clone_in_file && bdrv_co_clone_within (s->bs->file, &copy) == 0;
  if (!s->clone_in_file)
    g_array_append_val (copies, copy);
  return 0;
}

static int coroutine_fn
switch_entry (VhdxState *s, const BlockMove *move)
{
  uint64_t index = move_index (s, move), value;
  VhdxHeldPage *page;
  int ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, index), &page);

  if (ret < 0)
    return ret;
  value = vhdx_held_entry (s, page, index);
  vhdx_held_entry_set (s, page, index, (uint64_t)move->to | (value & VHDX_BAT_STATE_MASK));
  vhdx_page_release (s, page);
  vhdx_give_up (s, move->from, move->bytes);
  if (move->offset >= 0)
    vhdx_recent_forget (s, move->offset / s->metadata.block_size);
  else
    {
      /* Its pages are in place: a round has just ended, and nobody writes. */
      vhdx_pages_forget (s, move->from, move->bytes);
      vhdx_pages_forget (s, move->to, move->bytes);
    }
  return 0;
}

static int coroutine_fn
move_all (VhdxState *s, const BlockMove *moves, int n)
{
  g_autoptr (GArray) copies = g_array_new (false, false, sizeof (BdrvCopy));
  int ret = 0, prepared = 0;

  while (prepared < n && ret == 0)
    {
      ret = prepare_move (s, &moves[prepared], copies);
      prepared += ret == 0;
    }
  if (ret == 0)
    ret = bdrv_co_copy_within (s->bs->file, (const BdrvCopy *)(const void *)copies->data, copies->len);
  if (ret < 0)
    {
      while (prepared-- > 0)
        vhdx_give_back_space (s, moves[prepared].to, moves[prepared].bytes);
      return ret;
    }
  co_mutex_lock (&s->alloc_lock);
  for (int i = 0; i < n && ret == 0; i++)
    ret = switch_entry (s, &moves[i]);
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}

int coroutine_fn
vhdx_co_relocate (BlockDriverState *bs, const BlockMove *moves, int n)
{
  VhdxState *s = bs->opaque;
  int ret;

  /* Writers wait, so that what is copied is all there is; and a slow read may still be where a block is to go. */
  vhdx_co_hold_writers (s);
  ret = vhdx_co_publish (s);
  /* Copying may be the first change of this open (W7). */
  if (ret == 0)
    ret = vhdx_co_begin_changes (s, VHDX_SESSION_FILE);
  if (ret == 0)
    {
      vhdx_release_all_freed (s);
      ret = move_all (s, moves, n);
    }
  /* Copies, flush, entry, flush: I1, I3. */
  if (ret == 0)
    ret = vhdx_co_publish (s);
  vhdx_co_release_writers (s);
  return ret;
}

int coroutine_fn
vhdx_co_trim (BlockDriverState *bs)
{
  VhdxState *s = bs->opaque;
  int ret = vhdx_co_publish (s);

  if (ret < 0)
    return ret;
  epochs_co_wait (&s->epochs);
  vhdx_release_all_freed (s);
  s->data_end = vhdx_space_end (s->space);
  return vhdx_co_cut (s);
}
