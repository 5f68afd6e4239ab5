/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block allocation table: which sector of the file a block starts at (specification, "Block Allocation
 * Table and Data Blocks"). */
#include <inttypes.h>

#include "vhd.h"

static inline int64_t
bat_entry_offset (const VhdState *s, uint32_t block)
{
  return (int64_t)s->header.table_offset + (int64_t)block * 4;
}

bool
vhd_sector_is_sound (VhdState *s, uint32_t sector, bool *truncated)
{
  int64_t start = vhd_sector_to_offset (sector);
  int64_t limit = vhd_blocks_limit (s);

  if (truncated)
    *truncated = false;
  if (start < s->metadata_end && vhd_find_metadata (s, start, s->block_span))
    return false;
  if (start + s->block_span <= limit)
    return true;

  /* COMPAT: tapdisk writes the end footer only when it closes; a killed one leaves the last block short.
   * Its bitmap must be there (formats: checklist 14). */
  if (s->end_footer_valid || s->writable || start + s->bitmap_bytes > limit)
    return false;
  if (truncated)
    *truncated = true;
  return true;
}

int coroutine_fn
vhd_co_check_truncated (VhdState *s, uint32_t block, uint32_t sector)
{
  int64_t there = (vhd_blocks_limit (s) - vhd_sector_to_offset (sector) - s->bitmap_bytes) / VHD_SECTOR_SIZE;
  int64_t disk_sectors = ((int64_t)s->footer.current_size - (int64_t)block * s->block_size) / VHD_SECTOR_SIZE;
  /* Bits past the end of the disk mean nothing. */
  uint32_t end = MIN (disk_sectors, s->sectors_per_block);
  uint32_t first = CLAMP (there, 0, end);
  VhdBitmap *bitmap;
  bool present = false;
  int ret;

  if (first == end)
    return 0;
  ret = vhd_co_bitmap_get (s, block, sector, &bitmap);
  if (ret < 0)
    return ret;
  if (vhd_bitmap_run (s, bitmap, first, end, &present) < end - first)
    present = true;
  vhd_bitmap_put (s, bitmap);
  return present ? -EIO : 0;
}

/* The entry as the disk has it. */
static inline int coroutine_fn
bat_read (VhdState *s, uint32_t block, uint32_t *sector)
{
  int64_t entry = bat_entry_offset (s, block);
  Be32 disk;
  void *page = bdrv_meta_cache_peek (s->bat, entry);

  if (G_LIKELY (page))
    {
      memcpy (&disk, (uint8_t *)page + entry % VHD_BAT_PAGE, sizeof disk);
      bdrv_meta_cache_put (s->bat, page);
    }
  else
    {
      int ret = bdrv_co_meta_cache_get (s->bat, entry, &page);

      if (ret < 0)
        return ret;
      memcpy (&disk, (uint8_t *)page + entry % VHD_BAT_PAGE, sizeof disk);
      bdrv_meta_cache_put (s->bat, page);
    }
  *sector = be32_get (disk);
  return 0;
}

/* A request can fail with no more than a number: the first one says why. */
static void
warn_of_lost_block (VhdState *s, uint32_t block, uint32_t sector)
{
  int64_t start = vhd_sector_to_offset (sector), limit = vhd_blocks_limit (s);

  if (s->lost_block_told)
    return;
  s->lost_block_told = true;
  if (start + s->block_span > limit)
    bdrv_warn (s->bs,
               "block %u, of guest offset %" PRId64 ", cannot be read: it is to lie at offset %" PRId64
               " to %" PRId64 ", and the blocks of the file end at %" PRId64
               ": the file was cut short, or the BAT is damaged",
               block, (int64_t)block * s->block_size, start, start + s->block_span, limit);
  else
    bdrv_warn (s->bs,
               "block %u, of guest offset %" PRId64
               ", cannot be read: the BAT is damaged, its entry names offset %" PRId64
               ", where other structures are",
               block, (int64_t)block * s->block_size, start);
}

int coroutine_fn
vhd_co_lookup (VhdState *s, uint32_t block, uint32_t *sector)
{
  VhdRecent *recent = vhd_recent (s, block);
  const VhdChange *change = NULL;
  bool truncated = false;
  int ret;

  if (G_LIKELY (vhd_recent_is (recent, block)))
    {
      *sector = recent->sector;
      return 0;
    }
  ret = bat_read (s, block, sector);
  if (ret < 0)
    return ret;
  /* After the read, which may have yielded. */
  if (g_hash_table_size (s->changes) > 0)
    change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER (block));
  if (change)
    *sector = change->sector;
  else if (*sector != VHD_BAT_UNUSED && !vhd_sector_is_sound (s, *sector, &truncated))
    {
      warn_of_lost_block (s, block, *sector);
      return -EIO;
    }
  /* Read-only then, so nothing changes while it yields. */
  if (G_UNLIKELY (truncated))
    {
      ret = vhd_co_check_truncated (s, block, *sector);
      if (ret == -EIO)
        warn_of_lost_block (s, block, *sector);
      if (ret < 0)
        return ret;
    }
  if (*sector != VHD_BAT_UNUSED)
    *recent = (VhdRecent){ .block = block, .sector = *sector };
  return 0;
}

/* Of the entries in one page from @block on, at most @max, the number that are unused. */
static int64_t
unused_in_page (VhdState *s, const uint8_t *entries, uint32_t block, int64_t max)
{
  static const uint8_t unused[4] = { 0xFF, 0xFF, 0xFF, 0xFF };
  bool changes = g_hash_table_size (s->changes) > 0;
  int64_t n = 0;

  for (; n < max; n++)
    {
      const VhdChange *change =
          changes ? g_hash_table_lookup (s->changes, GUINT_TO_POINTER (block + (uint32_t)n)) : NULL;

      if (change ? change->sector != VHD_BAT_UNUSED : memcmp (entries + n * 4, unused, sizeof unused) != 0)
        break;
    }
  return n;
}

int64_t coroutine_fn
vhd_co_unused_run (VhdState *s, uint32_t block, int64_t max)
{
  int64_t n = 0;

  max = MIN (max, (int64_t)s->blocks - block);
  while (n < max)
    {
      int64_t entry = bat_entry_offset (s, block + n);
      int64_t in_page = MIN (max - n, (VHD_BAT_PAGE - entry % VHD_BAT_PAGE) / 4);
      int64_t unused;
      void *page;
      int ret = bdrv_co_meta_cache_get (s->bat, entry, &page);

      /* What cannot be read ends the run; whoever asks for it gets the error. */
      if (ret < 0)
        return n > 0 ? n : ret;
      unused = unused_in_page (s, (uint8_t *)page + entry % VHD_BAT_PAGE, block + n, in_page);
      bdrv_meta_cache_put (s->bat, page);
      n += unused;
      if (unused < in_page)
        break;
    }
  return n;
}

int coroutine_fn
vhd_co_for_each_block (VhdState *s, VhdBatVisitor *visit, void *opaque)
{
  int64_t block = 0;

  while (block < s->blocks)
    {
      int64_t unused = vhd_co_unused_run (s, block, s->blocks - block);
      const VhdChange *change;
      uint32_t sector;
      int ret;

      if (unused < 0)
        return unused;
      block += unused;
      if (block >= s->blocks)
        break;
      ret = bat_read (s, block, &sector);
      if (ret < 0)
        return ret;
      change = g_hash_table_lookup (s->changes, GUINT_TO_POINTER ((uint32_t)block));
      if (change)
        sector = change->sector;
      ret = sector == VHD_BAT_UNUSED ? 0 : visit (s, block, sector, opaque);
      if (ret != 0)
        return ret;
      block++;
    }
  return 0;
}

static int coroutine_fn
count_unreadable (VhdState *s, uint32_t block, uint32_t sector, void *opaque)
{
  uint64_t *count = opaque;

  if (vhd_co_lookup (s, block, &sector) < 0)
    (*count)++;
  return 0;
}

void coroutine_fn
vhd_co_examine_bat (VhdState *s)
{
  uint64_t count = 0;

  if (s->bat_bytes > BDRV_EXAMINE_BYTES)
    return;
  int ret = vhd_co_for_each_block (s, count_unreadable, &count);

  bdrv_warn_of_bat (s->bs, (int64_t)s->header.table_offset, ret, count);
}

int coroutine_fn
vhd_co_bat_store (VhdState *s, const VhdChange *changes, size_t n)
{
  g_autofree BdrvWrite *writes = g_new (BdrvWrite, MAX (n, 1));
  uint8_t *buffers = bdrv_try_alloc_buffer (s->bs->file, MAX (n, 1) * VHD_SECTOR_SIZE);
  size_t n_writes = 0;
  int ret = 0;

  if (!buffers)
    return -ENOMEM;

  for (size_t i = 0; i < n && ret == 0; i++)
    {
      int64_t entry = bat_entry_offset (s, changes[i].block);
      int64_t start = round_down (entry, VHD_SECTOR_SIZE);
      Be32 disk = be32 (changes[i].sector);
      uint8_t *buffer = buffers + (n_writes > 0 ? n_writes - 1 : 0) * VHD_SECTOR_SIZE;

      if (n_writes == 0 || writes[n_writes - 1].file_offset != start)
        {
          void *page;

          ret = bdrv_co_meta_cache_get (s->bat, start, &page);
          if (ret < 0)
            break;
          buffer = buffers + n_writes * VHD_SECTOR_SIZE;
          memcpy (buffer, (uint8_t *)page + start % VHD_BAT_PAGE, VHD_SECTOR_SIZE);
          bdrv_meta_cache_put (s->bat, page);
          writes[n_writes++] = (BdrvWrite){ .file_offset = start, .bytes = VHD_SECTOR_SIZE, .buf = buffer };
        }
      memcpy (buffer + (entry - start), &disk, sizeof disk);
    }

  if (ret == 0)
    ret = bdrv_co_write_batch (s->bs->file, writes, n_writes);
  if (ret == 0)
    {
      for (size_t i = 0; i < n_writes; i++)
        {
          void *page;

          ret = bdrv_co_meta_cache_get (s->bat, writes[i].file_offset, &page);
          if (ret < 0)
            break;
          memcpy ((uint8_t *)page + writes[i].file_offset % VHD_BAT_PAGE, writes[i].buf, VHD_SECTOR_SIZE);
          bdrv_meta_cache_put (s->bat, page);
        }
    }
  bdrv_free_buffer (buffers);
  return ret;
}

/* --- the whole table -------------------------------------------------------------------------------------
 */

typedef struct
{
  GArray *used;
  size_t most; /* more blocks than the file has room for must overlap */
  GError **error;
} Collect;

static int coroutine_fn
collect_block (VhdState *s, uint32_t block, uint32_t sector, void *opaque)
{
  Collect *collect = opaque;
  VhdUsedBlock used = { sector, block };
  int64_t start = vhd_sector_to_offset (sector);

  if (!vhd_sector_is_sound (s, sector, NULL))
    {
      const VhdRange *metadata = vhd_find_metadata (s, start, s->block_span);

      if (metadata)
        bdrv_set_error (collect->error, s->bs, VHDKIT_ERROR_CORRUPT,
                        "BAT entry %u: block at offset %" PRId64 " overlaps the %s at offset %" PRId64, block,
                        start, metadata->what, metadata->file_offset);
      else
        bdrv_set_error (collect->error, s->bs, VHDKIT_ERROR_CORRUPT,
                        "BAT entry %u: block at offset %" PRId64 " of %" PRId64
                        " bytes is outside the file, blocks end at %" PRId64,
                        block, start, s->block_span, vhd_blocks_limit (s));
      return -EINVAL;
    }
  if (collect->used->len >= collect->most)
    {
      bdrv_set_error (collect->error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "BAT: more blocks than fit the file (%zu), some overlap", collect->most);
      return -EINVAL;
    }
  g_array_append_val (collect->used, used);
  return 0;
}

int
vhd_compare_used (const void *a, const void *b)
{
  const VhdUsedBlock *x = a, *y = b;

  return x->sector < y->sector ? -1 : x->sector > y->sector;
}

static int coroutine_fn
count_block (VhdState *s, uint32_t block, uint32_t sector, void *opaque)
{
  ++*(size_t *)opaque;
  return 0;
}

/* A list up to this long is made without asking. */
#define SMALL_LIST_BLOCKS (4 << 20)

GArray *coroutine_fn
vhd_co_new_block_list (VhdState *s, GError **error)
{
  size_t n = MIN ((size_t)s->blocks, (size_t)(vhd_blocks_limit (s) / s->bitmap_bytes));
  g_autofree void *room = NULL;
  int ret;

  if (n <= SMALL_LIST_BLOCKS)
    return g_array_new (false, false, sizeof (VhdUsedBlock));
  n = 0;
  ret = vhd_co_for_each_block (s, count_block, &n);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the BAT at offset %" PRIu64,
                            s->header.table_offset);
      return NULL;
    }
  /* The list, in the next power of two, and once more to sort it: GLib would end the process for want of memory. */
  room = g_try_malloc_n (n, 3 * sizeof (VhdUsedBlock));
  if (n > 0 && !room)
    {
      bdrv_set_error_errno (error, s->bs, -ENOMEM, "no memory for a list of the %zu blocks in use", n);
      return NULL;
    }
  return g_array_sized_new (false, false, sizeof (VhdUsedBlock), n);
}

GArray *coroutine_fn
vhd_co_collect_blocks (VhdState *s, GError **error)
{
  g_autoptr (GArray) used = vhd_co_new_block_list (s, error);
  Collect collect = { used, vhd_blocks_limit (s) / s->bitmap_bytes + 1, error };
  bool sorted = true;
  int ret;

  if (!used)
    return NULL;
  if (s->end_footer_valid || s->writable)
    collect.most = vhd_blocks_limit (s) / s->block_span;
  ret = vhd_co_for_each_block (s, collect_block, &collect);
  if (ret < 0)
    {
      if (error && !*error)
        bdrv_set_error_errno (error, s->bs, ret, "cannot read the BAT");
      return NULL;
    }

  for (guint i = 1; i < used->len && sorted; i++)
    sorted = g_array_index (used, VhdUsedBlock, i - 1).sector <= g_array_index (used, VhdUsedBlock, i).sector;
  if (!sorted)
    g_array_sort (used, vhd_compare_used);

  for (guint i = 1; i < used->len; i++)
    {
      const VhdUsedBlock *a = &g_array_index (used, VhdUsedBlock, i - 1);
      const VhdUsedBlock *b = &g_array_index (used, VhdUsedBlock, i);

      if (vhd_sector_to_offset (b->sector) - vhd_sector_to_offset (a->sector) < s->block_span)
        {
          bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                          "BAT entries %u and %u: blocks at offsets %" PRId64 " and %" PRId64 " overlap",
                          a->block, b->block, vhd_sector_to_offset (a->sector),
                          vhd_sector_to_offset (b->sector));
          return NULL;
        }
    }
  return g_steal_pointer (&used);
}
