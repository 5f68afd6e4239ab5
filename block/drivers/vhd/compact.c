/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What compaction needs of the format: what lies where, how a block is dropped or moved, how the end is cut.
 * The order of writes is that of a round (vhd.h); the plan is the job's. */
#include <inttypes.h>

#include "vhd.h"

static void
add_extent (GArray *extents, int64_t file_offset, int64_t bytes, int64_t offset)
{
  BlockExtent extent = { file_offset, bytes, offset };

  g_array_append_val (extents, extent);
}

static int
compare_extents (const void *a, const void *b)
{
  const BlockExtent *x = a, *y = b;

  return x->file_offset < y->file_offset ? -1 : x->file_offset > y->file_offset;
}

/* Locators of other writers may reserve space that others use too: such a range ends where the next begins.
 */
static void
clip_metadata (GArray *extents)
{
  for (guint i = 0; i + 1 < extents->len;)
    {
      BlockExtent *a = &g_array_index (extents, BlockExtent, i);
      const BlockExtent *b = &g_array_index (extents, BlockExtent, i + 1);

      if (a->file_offset + a->bytes > b->file_offset)
        {
          if (a->offset >= 0)
            {
              /* A block over the reserve of a locator: the locator's own text was checked not to be there. */
              int64_t end = b->file_offset + b->bytes;
              int64_t block_end = a->file_offset + a->bytes;

              if (end <= block_end)
                {
                  g_array_remove_index (extents, i + 1);
                  continue;
                }
              g_array_index (extents, BlockExtent, i + 1) = (BlockExtent){ block_end, end - block_end, -1 };
            }
          else if (b->offset < 0)
            {
              /* A locator's text and the space it reserves: one range. */
              a->bytes = MAX (a->bytes, b->file_offset + b->bytes - a->file_offset);
              g_array_remove_index (extents, i + 1);
              continue;
            }
          else
            {
              a->bytes = b->file_offset - a->file_offset;
            }
        }
      i++;
    }
}

bool coroutine_fn
vhd_co_get_layout (BlockDriverState *bs, BlockLayout *layout, GError **error)
{
  VhdState *s = bs->opaque;
  g_autoptr (GArray) used = NULL;
  int ret;

  if (vhd_is_fixed (s))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "a fixed VHD has no blocks that could be dropped or moved");
      return false;
    }
  ret = bs->read_only ? 0 : vhd_co_publish (s);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot write back its metadata");
      return false;
    }
  used = vhd_co_collect_blocks (s, error);
  if (!used)
    return false;

  layout->extents = g_array_sized_new (false, false, sizeof (BlockExtent), used->len + VHD_MAX_METADATA);
  for (int i = 0; i < s->n_metadata; i++)
    add_extent (layout->extents, s->metadata[i].file_offset, s->metadata[i].bytes, -1);
  for (int i = 0; i < VHD_LOCATORS; i++)
    if (vhd_locator_is_sound (s, i))
      add_extent (layout->extents, s->header.locators[i].offset, vhd_locator_space (&s->header.locators[i]),
                  -1);
  for (guint i = 0; i < used->len; i++)
    {
      const VhdUsedBlock *block = &g_array_index (used, VhdUsedBlock, i);

      add_extent (layout->extents, vhd_sector_to_offset (block->sector), s->block_span,
                  (int64_t)block->block * s->block_size);
    }
  g_array_sort (layout->extents, compare_extents);
  clip_metadata (layout->extents);

  layout->block_size = s->block_size;
  layout->alignment = 4096;
  layout->alignment_phase = (4096 - s->bitmap_bytes % 4096) % 4096;
  /* Images of other writers have their blocks one after the other: a hole has room for just as many. */
  layout->least_alignment = VHD_SECTOR_SIZE;
  layout->data_offset = s->bitmap_bytes;
  layout->tail_bytes = VHD_FOOTER_SIZE;
  layout->file_size = bdrv_length (bs->file);
  return true;
}

int coroutine_fn
vhd_co_drop_block (BlockDriverState *bs, int64_t offset, BlockDrop drop)
{
  VhdState *s = bs->opaque;

  g_assert (drop == BLOCK_DROP_UNALLOCATED);

  return vhd_co_drop (s, offset / s->block_size);
}

/* Copies the block by sharing extents, or leaves it to @copies. */
static void coroutine_fn
prepare_move (VhdState *s, const BlockMove *move, GArray *copies)
{
  int64_t head = s->bitmap_bytes;
  BdrvCopy bitmap = { move->from, move->to, head };
  BdrvCopy data = { move->from + head, move->to + head, s->block_size };

  /* Bitmap by itself: data is 4 KiB-aligned at both places, or can be, and then extents can be shared. */
  g_array_append_val (copies, bitmap);
  if (s->clone_in_file && data.from % 4096 == 0 && data.to % 4096 == 0)
    {
      s->clone_in_file = bdrv_co_clone_within (s->bs->file, &data) == 0;
      if (s->clone_in_file)
        return;
    }
  g_array_append_val (copies, data);
}

static bool coroutine_fn
is_where_it_was (VhdState *s, const BlockMove *move)
{
  uint32_t sector;

  return vhd_co_lookup (s, move->offset / s->block_size, &sector) == 0 && sector != VHD_BAT_UNUSED
         && vhd_sector_to_offset (sector) == move->from;
}

int coroutine_fn
vhd_co_relocate (BlockDriverState *bs, const BlockMove *moves, int n)
{
  VhdState *s = bs->opaque;
  g_autoptr (GArray) copies = g_array_new (false, false, sizeof (BdrvCopy));
  int ret = vhd_co_publish (s);

  if (ret < 0)
    return ret;
  /* The targets are space that blocks gave up: a slow read may still be there. */
  epochs_co_wait (&s->epochs);
  /* From here on free space is what the job's plan says. */
  g_array_set_size (s->free_slots, 0);

  for (int i = 0; i < n; i++)
    {
      if (!is_where_it_was (s, &moves[i]))
        return -EINVAL;
      prepare_move (s, &moves[i], copies);
    }
  ret = bdrv_co_copy_within (bs->file, (const BdrvCopy *)(const void *)copies->data, copies->len);
  if (ret < 0)
    return ret;

  co_mutex_lock (&s->alloc_lock);
  for (int i = 0; i < n; i++)
    {
      uint32_t block = moves[i].offset / s->block_size;
      VhdChange *change = vhd_change_for (s, block, moves[i].from / VHD_SECTOR_SIZE);

      change->sector = moves[i].to / VHD_SECTOR_SIZE;
      change->fresh = false;
      vhd_bitmap_forget (s, block);
    }
  bs->layout_changes++;
  co_mutex_unlock (&s->alloc_lock);
  /* Copies, flush, table, flush: I1, I3. */
  ret = vhd_co_publish (s);
  g_array_set_size (s->free_slots, 0);
  return ret;
}

int coroutine_fn
vhd_co_trim (BlockDriverState *bs)
{
  VhdState *s = bs->opaque;
  g_autoptr (GArray) used = NULL;
  int ret;

  /* All of it is the disk. */
  if (vhd_is_fixed (s))
    return 0;
  ret = vhd_co_publish (s);
  if (ret < 0)
    return ret;
  used = vhd_co_collect_blocks (s, NULL);
  if (!used)
    return -EIO;
  epochs_co_wait (&s->epochs);
  g_array_set_size (s->free_slots, 0);
  s->data_end = vhd_used_end (s, used);
  return vhd_co_cut (s);
}
