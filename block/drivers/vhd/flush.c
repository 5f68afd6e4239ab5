/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Publishing: how allocations, drops, moves and bitmap bits reach the disk.  The steps are numbered as in
 * vhd.h, where it is said why each order is right. */
#include "bitset.h"
#include "vhd.h"

/* --- a round ----------------------------------------------------------------------------------------------
 */

typedef struct
{
  GArray *changes;    /* of VhdChange, sorted by block */
  GPtrArray *bitmaps; /* of VhdBitmap, pinned */
  GPtrArray *full;    /* those of them that are all ones as copied; more bits may have been set since */
  GPtrArray *buffers; /* what is written of each, owned */
  GArray *new_writes; /* of BdrvWrite: bitmaps of new blocks */
  GArray *old_writes; /* of BdrvWrite: bitmaps of blocks the BAT on disk knows */
} Round;

static void
round_clear (Round *round)
{
  g_clear_pointer (&round->changes, g_array_unref);
  g_clear_pointer (&round->bitmaps, g_ptr_array_unref);
  g_clear_pointer (&round->full, g_ptr_array_unref);
  g_clear_pointer (&round->buffers, g_ptr_array_unref);
  g_clear_pointer (&round->new_writes, g_array_unref);
  g_clear_pointer (&round->old_writes, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Round, round_clear)

static int
compare_changes (const void *a, const void *b)
{
  const VhdChange *x = a, *y = b;

  return x->block < y->block ? -1 : x->block > y->block;
}

/* Step 1.  Does not yield, so the copy is of one moment. */
static bool
round_begin (VhdState *s, Round *round)
{
  GHashTableIter iter;
  VhdChange *change;
  VhdBitmap *bitmap;

  round->changes = g_array_new (false, false, sizeof (VhdChange));
  round->bitmaps = g_ptr_array_new ();
  round->full = g_ptr_array_new ();
  round->buffers = g_ptr_array_new_with_free_func (bdrv_free_buffer);
  round->new_writes = g_array_new (false, false, sizeof (BdrvWrite));
  round->old_writes = g_array_new (false, false, sizeof (BdrvWrite));

  g_hash_table_iter_init (&iter, s->bitmaps);
  while (g_hash_table_iter_next (&iter, NULL, (void **)&bitmap))
    {
      BdrvWrite write = { .bytes = s->bitmap_bytes };
      uint8_t *buffer;
      bool fresh;

      if (!bitmap->dirty)
        continue;
      change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER (bitmap->block));
      fresh = change && change->fresh;
      buffer = bdrv_try_alloc_buffer (s->bs->file, s->bitmap_bytes);
      if (!buffer)
        return false;
      memset (buffer, 0, s->bitmap_bytes);
      if (bitmap->all_set)
        bitset_fill (buffer, 0, s->sectors_per_block, true, BITSET_MSB_FIRST);
      else
        memcpy (buffer, bitmap->bits, s->bitmap_bytes);
      write.file_offset = vhd_sector_to_offset (bitmap->sector);
      write.buf = buffer;
      g_ptr_array_add (round->buffers, buffer);
      g_ptr_array_add (round->bitmaps, bitmap);
      if (bitmap->all_set)
        g_ptr_array_add (round->full, bitmap);
      g_array_append_val (*(fresh ? &round->new_writes : &round->old_writes), write);
    }
  for (guint i = 0; i < round->bitmaps->len; i++)
    {
      bitmap = g_ptr_array_index (round->bitmaps, i);
      vhd_bitmap_pin (s, bitmap);
      vhd_bitmap_mark_clean (s, bitmap);
    }

  g_hash_table_iter_init (&iter, s->changes);
  while (g_hash_table_iter_next (&iter, NULL, (void **)&change))
    {
      change->publishing = true;
      change->publishing_sector = change->sector;
      g_array_append_val (round->changes, *change);
    }
  g_array_sort (round->changes, compare_changes);
  return true;
}

/* Nothing of the round is on disk: all of it is to be done again. */
static void
round_undo (VhdState *s, Round *round)
{
  for (guint i = 0; i < round->bitmaps->len; i++)
    vhd_bitmap_mark_dirty (s, g_ptr_array_index (round->bitmaps, i));
}

/* Step 5 has passed: the disk has what the copy has. */
static void
round_done (VhdState *s, Round *round)
{
  for (guint i = 0; i < round->changes->len; i++)
    {
      const VhdChange *copy = &g_array_index (round->changes, VhdChange, i);
      VhdChange *change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER (copy->block));

      if (copy->old_sector != VHD_BAT_UNUSED && copy->old_sector != copy->sector)
        vhd_free_slot (s, copy->old_sector);
      if (change->sector == copy->sector)
        {
          g_hash_table_remove (s->changes, GUINT_TO_POINTER (copy->block));
        }
      else
        {
          change->publishing = false;
          change->old_sector = copy->sector;
        }
    }
  if (s->batmap.map)
    for (guint i = 0; i < round->full->len; i++)
      {
        const VhdBitmap *bitmap = g_ptr_array_index (round->full, i);

        if (!bitmap->orphan)
          vhd_batmap_set (s, bitmap->block, true);
      }
}

static void
round_end (VhdState *s, Round *round)
{
  for (guint i = 0; i < round->changes->len; i++)
    {
      const VhdChange *copy = &g_array_index (round->changes, VhdChange, i);
      VhdChange *change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER (copy->block));

      if (change)
        change->publishing = false;
    }
  for (guint i = 0; i < round->bitmaps->len; i++)
    vhd_bitmap_put (s, g_ptr_array_index (round->bitmaps, i));
}

/* Steps 2 to 5; *published: the BAT or old bitmaps may have been touched. */
static int coroutine_fn
round_run (VhdState *s, Round *round, bool *published)
{
  int ret;

  for (guint i = 0; i < round->changes->len; i++)
    vhd_batmap_set (s, g_array_index (round->changes, VhdChange, i).block, false);
  ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->new_writes->data, round->new_writes->len);
  if (ret == 0)
    ret = vhd_co_batmap_write (s);
  if (ret < 0)
    return ret;

  /* Step 3.  Between payload, new bitmaps, batmap, footer … and the table and bitmaps below: I1, I2, I4. */
  ret = bdrv_co_flush (s->bs->file);
  if (ret < 0)
    return ret;
  if (round->changes->len == 0 && round->old_writes->len == 0)
    return 0;

  *published = true;
  ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->old_writes->data, round->old_writes->len);
  if (ret == 0)
    ret = vhd_co_bat_store (s, (VhdChange *)round->changes->data, round->changes->len);
  if (ret < 0)
    return ret;

  /* Step 5.  Between the table and any use of the space it gave up: I3; and what makes a guest flush one. */
  return bdrv_co_flush (s->bs->file);
}

int coroutine_fn
vhd_co_publish (VhdState *s)
{
  g_auto (Round) round = { 0 };
  bool published = false;
  int ret;

  co_mutex_lock (&s->publish_lock);
  if (!round_begin (s, &round))
    {
      co_mutex_unlock (&s->publish_lock);
      return -ENOMEM;
    }
  ret = round_run (s, &round, &published);
  if (ret == 0)
    round_done (s, &round);
  else
    round_undo (s, &round);
  /* Table or bitmaps may be half written: what is in memory is no longer known to match. */
  if (ret < 0 && published)
    bdrv_poison (s->bs);
  round_end (s, &round);
  co_mutex_unlock (&s->publish_lock);
  return ret;
}

int coroutine_fn
vhd_co_maybe_publish (VhdState *s)
{
  if (G_LIKELY (g_hash_table_size (s->changes) < VHD_PUBLISH_THRESHOLD
                && s->bitmap_bytes_dirty < VHD_CACHE_BYTES / 2))
    return 0;
  return vhd_co_publish (s);
}

int coroutine_fn
vhd_co_flush (BlockDriverState *bs)
{
  VhdState *s = bs->opaque;

  if (vhd_is_fixed (s))
    return bdrv_co_flush (bs->file);
  return vhd_co_publish (s);
}
