/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sector bitmaps: which sectors of a block are stored in it.  A bounded cache; dirty ones stay. */
#include "bitset.h"
#include "vhd.h"

static size_t
bitmap_memory (const VhdState *s, const VhdBitmap *bitmap)
{
  return sizeof *bitmap + (bitmap->bits ? s->bitmap_bytes : 0);
}

static void
bitmap_free (VhdBitmap *bitmap)
{
  g_free (bitmap->bits);
  g_free (bitmap);
}

static void
lru_remove (VhdState *s, VhdBitmap *bitmap)
{
  g_queue_unlink (&s->bitmap_lru, &bitmap->lru);
  s->bitmap_bytes_clean -= bitmap_memory (s, bitmap);
}

void
vhd_bitmap_pin (VhdState *s, VhdBitmap *bitmap)
{
  if (bitmap->pins++ == 0 && !bitmap->dirty)
    lru_remove (s, bitmap);
}

/* Unpinned and clean: the least recently used ones go when there are too many. */
static void
make_evictable (VhdState *s, VhdBitmap *bitmap)
{
  g_queue_push_head_link (&s->bitmap_lru, &bitmap->lru);
  s->bitmap_bytes_clean += bitmap_memory (s, bitmap);
  while (s->bitmap_bytes_clean > VHD_CACHE_BYTES)
    {
      VhdBitmap *last = s->bitmap_lru.tail->data;

      lru_remove (s, last);
      g_hash_table_remove (s->bitmaps, GUINT_TO_POINTER (last->block));
      bitmap_free (last);
    }
}

static VhdBitmap *
bitmap_make (uint32_t block, uint32_t sector)
{
  VhdBitmap *bitmap = g_new0 (VhdBitmap, 1);

  bitmap->block = block;
  bitmap->sector = sector;
  bitmap->pins = 1;
  bitmap->lru.data = bitmap;
  return bitmap;
}

static VhdBitmap *
bitmap_insert (VhdState *s, uint32_t block, uint32_t sector)
{
  VhdBitmap *bitmap = bitmap_make (block, sector);

  g_hash_table_insert (s->bitmaps, GUINT_TO_POINTER (block), bitmap);
  return bitmap;
}

static void
note_if_full (VhdState *s, VhdBitmap *bitmap)
{
  if (bitmap->bits && bitset_all (bitmap->bits, 0, s->sectors_per_block, true, BITSET_MSB_FIRST))
    {
      if (bitmap->dirty)
        s->bitmap_bytes_dirty -= s->bitmap_bytes;
      g_clear_pointer (&bitmap->bits, g_free);
      bitmap->all_set = true;
    }
}

VhdBitmap *
vhd_bitmap_peek (VhdState *s, uint32_t block)
{
  return g_hash_table_lookup (s->bitmaps, GUINT_TO_POINTER (block));
}

/* What was read of @block at @sector, pinned.  @stays: it is still there, so the bitmap is for others, too. */
static VhdBitmap *
bitmap_loaded (VhdState *s, uint32_t block, uint32_t sector, uint8_t *bits, bool stays)
{
  VhdBitmap *bitmap = stays ? bitmap_insert (s, block, sector) : bitmap_make (block, sector);

  bitmap->bits = bits;
  bitmap->orphan = !stays;
  note_if_full (s, bitmap);
  return bitmap;
}

static int coroutine_fn
bitmap_co_load (VhdState *s, VhdBitmapLoad *load, uint32_t sector, VhdBitmap **out)
{
  g_autofree uint8_t *bits = g_try_malloc (s->bitmap_bytes);

  if (!bits)
    return -ENOMEM;
  for (;;)
    {
      uint64_t generation = s->bitmap_generation;
      int ret = bdrv_co_pread (s->bs->file, vhd_sector_to_offset (sector), s->bitmap_bytes, bits);

      if (ret < 0)
        return ret;
      /* While this one read, another request may have loaded it, or even changed, written and let go of it:
       * then what was read may be older than the disk. */
      *out = load->forgotten ? NULL : vhd_bitmap_peek (s, load->block);
      if (*out)
        {
          vhd_bitmap_pin (s, *out);
          return 0;
        }
      if (generation == s->bitmap_generation)
        {
          *out = bitmap_loaded (s, load->block, sector, g_steal_pointer (&bits), !load->forgotten);
          return 0;
        }
    }
}

int coroutine_fn
vhd_co_bitmap_get (VhdState *s, uint32_t block, uint32_t sector, VhdBitmap **out)
{
  VhdBitmapLoad load = { .block = block, .next = s->bitmap_loads };
  VhdBitmapLoad **link = &s->bitmap_loads;
  int ret;

  *out = vhd_bitmap_peek (s, block);
  if (*out)
    {
      vhd_bitmap_pin (s, *out);
      return 0;
    }
  s->bitmap_loads = &load;
  ret = bitmap_co_load (s, &load, sector, out);
  while (*link != &load)
    link = &(*link)->next;
  *link = load.next;
  return ret;
}

VhdBitmap *
vhd_bitmap_new (VhdState *s, uint32_t block, uint32_t sector, bool all_set)
{
  VhdBitmap *bitmap = bitmap_insert (s, block, sector);

  bitmap->all_set = all_set;
  if (!all_set)
    bitmap->bits = g_malloc0 (s->bitmap_bytes);
  bitmap->dirty = true;
  s->bitmap_bytes_dirty += bitmap_memory (s, bitmap);
  return bitmap;
}

void
vhd_bitmap_put (VhdState *s, VhdBitmap *bitmap)
{
  g_assert (bitmap->pins > 0);
  if (--bitmap->pins > 0)
    return;
  if (bitmap->orphan)
    bitmap_free (bitmap);
  else if (!bitmap->dirty)
    make_evictable (s, bitmap);
}

void
vhd_bitmap_forget (VhdState *s, uint32_t block)
{
  VhdBitmap *bitmap = g_hash_table_lookup (s->bitmaps, GUINT_TO_POINTER (block));

  s->bitmap_generation++;
  for (VhdBitmapLoad *load = s->bitmap_loads; load; load = load->next)
    load->forgotten = load->forgotten || load->block == block;
  if (!bitmap)
    return;
  if (bitmap->dirty)
    {
      s->bitmap_bytes_dirty -= bitmap_memory (s, bitmap);
      bitmap->dirty = false;
    }
  else if (bitmap->pins == 0)
    {
      lru_remove (s, bitmap);
    }
  g_hash_table_remove (s->bitmaps, GUINT_TO_POINTER (block));
  if (bitmap->pins == 0)
    bitmap_free (bitmap);
  else
    bitmap->orphan = true;
}

void
vhd_bitmap_forget_all (VhdState *s)
{
  g_autoptr (GList) blocks = g_hash_table_get_keys (s->bitmaps);

  for (GList *item = blocks; item; item = item->next)
    vhd_bitmap_forget (s, GPOINTER_TO_UINT (item->data));
}

void
vhd_bitmap_mark_dirty (VhdState *s, VhdBitmap *bitmap)
{
  if (bitmap->dirty || bitmap->orphan)
    return;
  if (bitmap->pins == 0)
    lru_remove (s, bitmap);
  bitmap->dirty = true;
  s->bitmap_bytes_dirty += bitmap_memory (s, bitmap);
}

void
vhd_bitmap_mark_clean (VhdState *s, VhdBitmap *bitmap)
{
  if (!bitmap->dirty)
    return;
  s->bitmap_generation++;
  bitmap->dirty = false;
  s->bitmap_bytes_dirty -= bitmap_memory (s, bitmap);
  if (bitmap->pins == 0)
    make_evictable (s, bitmap);
}

void
vhd_bitmap_set (VhdState *s, VhdBitmap *bitmap, uint32_t first, uint32_t count)
{
  if (bitmap->all_set || bitset_all (bitmap->bits, first, count, true, BITSET_MSB_FIRST))
    return;
  bitset_fill (bitmap->bits, first, count, true, BITSET_MSB_FIRST);
  vhd_bitmap_mark_dirty (s, bitmap);
  note_if_full (s, bitmap);
}

uint32_t
vhd_bitmap_run (VhdState *s, const VhdBitmap *bitmap, uint32_t first, uint32_t end, bool *present)
{
  if (bitmap->all_set)
    {
      *present = true;
      return end - first;
    }
  return bitset_run (bitmap->bits, first, end, present, BITSET_MSB_FIRST);
}
