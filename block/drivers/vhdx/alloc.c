/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space in the container: where new blocks go, how the file grows, when freed space is used again; and the BAT
 * entries that change with it. */
#include <string.h>

#include "bitset.h"
#include "vhdx.h"

/* --- space ------------------------------------------------------------------------------------------------ */

void
vhdx_give_back_space (VhdxState *s, int64_t file_offset, int64_t bytes)
{
  vhdx_space_release (s->space, file_offset, bytes);
  s->hole_bytes = INT64_MAX;
  s->hole_hint = MIN (s->hole_hint, file_offset);
}

void
vhdx_give_up (VhdxState *s, int64_t file_offset, int64_t bytes)
{
  VhdxFreed freed = { file_offset, bytes, 0 };

  g_array_append_val (s->dropped, freed);
  s->bs->layout_changes++;
}

/* The first @n of s->freed. */
static void
release_freed (VhdxState *s, guint n)
{
  for (guint i = 0; i < n; i++)
    {
      const VhdxFreed *freed = &g_array_index (s->freed, VhdxFreed, i);

      vhdx_give_back_space (s, freed->file_offset, freed->bytes);
    }
  if (n > 0)
    g_array_remove_range (s->freed, 0, n);
}

/* Entries are in the order of their epochs; a list that many discards made long goes at once. */
void
vhdx_release_old_freed (VhdxState *s)
{
  guint n = 0;

  while (n < s->freed->len && epochs_is_over (&s->epochs, g_array_index (s->freed, VhdxFreed, n).epoch))
    n++;
  release_freed (s, n);
}

void
vhdx_release_all_freed (VhdxState *s)
{
  release_freed (s, s->freed->len);
}

void coroutine_fn
vhdx_co_hold_writers (VhdxState *s)
{
  s->moving++;
  epochs_co_wait (&s->epochs);
}

void coroutine_fn
vhdx_co_release_writers (VhdxState *s)
{
  if (--s->moving == 0)
    co_queue_restart_all (&s->moving_done);
}

static bool
find_hole (VhdxState *s, int64_t bytes, int64_t *file_offset)
{
  if (bytes > s->hole_bytes)
    return false;
  *file_offset = vhdx_space_find (s->space, bytes, s->hole_hint, s->data_end);
  if (*file_offset < 0)
    {
      s->hole_bytes = bytes - 1;
      return false;
    }
  /* What was too short is passed over until something below it becomes free. */
  s->hole_hint = *file_offset + bytes;
  return true;
}

/* Added at the end in one step: enough that a change of the length is rare, little enough that an interrupted
 * run does not leave a file that looks bloated. */
static int64_t
growth_step (const VhdxState *s)
{
  int64_t least = MAX (32 * VHDX_MIB, 4 * (int64_t)s->metadata.block_size);

  return round_up (CLAMP (s->data_end / 8, least, MAX (256 * VHDX_MIB, least)), VHDX_MIB);
}

static int coroutine_fn
grow_to (VhdxState *s, int64_t end)
{
  int64_t length = MAX (end, s->data_end + growth_step (s));
  g_autoptr (GError) error = NULL;

  if (!s->can_grow)
    return -ENOSPC;
  if (end > VHDX_MAX_FILE_BYTES)
    return -EFBIG;
  /* A file size limit may allow one block and not the whole step. */
  if (!bdrv_co_truncate (s->bs->file, length, NULL) && !bdrv_co_truncate (s->bs->file, end, &error))
    return bdrv_errno_from_error (error);
  s->file_bytes = bdrv_length (s->bs->file);
  return 0;
}

int coroutine_fn
vhdx_co_take_space (VhdxState *s, int64_t bytes, int64_t *file_offset)
{
  bool is_zero = false;
  int ret;

  vhdx_release_old_freed (s);
  if (!find_hole (s, bytes, file_offset))
    {
      *file_offset = s->data_end;
      if (*file_offset + bytes > s->file_bytes)
        {
          ret = grow_to (s, *file_offset + bytes);
          if (ret < 0)
            return ret;
        }
      s->data_end = *file_offset + bytes;
      is_zero = s->grown_is_zero;
    }
  if (!vhdx_space_take (s->space, *file_offset, bytes))
    return -EIO;
  if (is_zero)
    return 0;
  /* What another block left there must not be seen (W5). */
  ret = bdrv_co_pwrite_zeroes (s->bs->file, *file_offset, bytes, BDRV_REQ_MAY_UNMAP);
  if (ret < 0)
    vhdx_give_back_space (s, *file_offset, bytes);
  return ret;
}

/* --- entries ---------------------------------------------------------------------------------------------- */

/* The range that an entry owns, the anchor of an undefined or unmapped block included. */
static void
drop_range (VhdxState *s, uint64_t value, int64_t bytes)
{
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;

  if (file_offset != 0 && state != VHDX_BLOCK_NOT_PRESENT && state != VHDX_BLOCK_ZERO)
    vhdx_give_up (s, file_offset, bytes);
}

static void
set_payload_entry (VhdxState *s, VhdxHeldPage *page, uint64_t block, uint64_t value)
{
  uint64_t index = vhdx_bat_index (s, block), old = vhdx_held_entry (s, page, index);

  if ((old & VHDX_BAT_OFFSET_MASK) != (value & VHDX_BAT_OFFSET_MASK))
    drop_range (s, old, s->metadata.block_size);
  vhdx_held_entry_set (s, page, index, value);
  vhdx_recent_forget (s, block);
}

/* The pages a block needs to become partially present. */
typedef struct
{
  VhdxHeldPage *entry; /* the BAT's, with the entry of the bitmap block */
  VhdxHeldPage **bits; /* those of the bitmap with bits of the block */
  int n_bits;
  int64_t bitmap; /* file offset of the bitmap block */
  bool fresh;     /* taken now */
} BlockBits;

static void
block_bits_release (VhdxState *s, BlockBits *bits)
{
  vhdx_page_release (s, bits->entry);
  for (int i = 0; i < bits->n_bits; i++)
    vhdx_page_release (s, bits->bits[i]);
  g_clear_pointer (&bits->bits, g_free);
}

/* Finds or takes the bitmap block and holds the pages; what was held on failure is for block_bits_release (). */
static int coroutine_fn
block_bits_hold (VhdxState *s, uint64_t block, BlockBits *bits)
{
  uint64_t chunk = block / s->chunk_ratio;
  uint64_t index = vhdx_bitmap_index (s, chunk);
  int64_t first = block % s->chunk_ratio * s->sectors_per_block / 8;
  int64_t last = first + MAX (s->sectors_per_block / 8, 1) - 1;
  uint64_t value;
  int ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, index), &bits->entry);

  if (ret < 0)
    return ret;
  value = vhdx_held_entry (s, bits->entry, index);
  if ((value & VHDX_BAT_STATE_MASK) == VHDX_BITMAP_PRESENT)
    {
      ret = vhdx_co_lookup_bitmap (s, chunk, &bits->bitmap);
    }
  else
    {
      ret = vhdx_co_take_space (s, VHDX_BITMAP_BLOCK_BYTES, &bits->bitmap);
      bits->fresh = ret == 0;
      if (ret == 0)
        bdrv_meta_cache_invalidate (s->pages, bits->bitmap, VHDX_BITMAP_BLOCK_BYTES);
    }
  if (ret < 0)
    return ret;
  bits->bits = g_new0 (VhdxHeldPage *, last / VHDX_PAGE - first / VHDX_PAGE + 1);
  for (int64_t at = round_down (first, VHDX_PAGE); at <= last && ret == 0; at += VHDX_PAGE)
    {
      ret = vhdx_co_page_hold (s, bits->bitmap + at, &bits->bits[bits->n_bits]);
      bits->n_bits += ret == 0;
    }
  return ret;
}

/* Never yields. */
static void
block_bits_clear (VhdxState *s, uint64_t block, BlockBits *bits)
{
  uint64_t index = vhdx_bitmap_index (s, block / s->chunk_ratio);
  uint64_t bit = block % s->chunk_ratio * s->sectors_per_block, end = bit + s->sectors_per_block;

  if (bits->fresh)
    vhdx_held_entry_set (s, bits->entry, index, bits->bitmap | VHDX_BITMAP_PRESENT);
  for (int i = 0; i < bits->n_bits; i++)
    {
      uint64_t in_page = bit % (VHDX_PAGE * 8), n = MIN (end - bit, VHDX_PAGE * 8 - in_page);

      /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): all of them are held by now */
      bitset_fill (bits->bits[i]->data, in_page, n, false, BITSET_LSB_FIRST);
      vhdx_page_mark_changed (s, bits->bits[i]);
      bit += n;
    }
}

static int coroutine_fn
allocate_locked (VhdxState *s, uint64_t block, VhdxBlock *entry)
{
  BlockBits bits = { 0 };
  VhdxHeldPage *page = NULL;
  bool partial;
  int ret = vhdx_co_lookup (s, block, entry);

  if (ret < 0 || vhdx_is_present (entry->state))
    return ret;
  partial = s->metadata.has_parent && entry->state == VHDX_BLOCK_NOT_PRESENT;
  ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, vhdx_bat_index (s, block)), &page);
  if (ret == 0 && partial)
    ret = block_bits_hold (s, block, &bits);
  if (ret == 0)
    ret = vhdx_co_take_space (s, s->metadata.block_size, &entry->file_offset);
  if (ret == 0)
    {
      /* One change: nothing here yields (W3, W6). */
      if (partial)
        block_bits_clear (s, block, &bits);
      entry->state = partial ? VHDX_BLOCK_PARTIALLY_PRESENT : VHDX_BLOCK_FULLY_PRESENT;
      set_payload_entry (s, page, block, (uint64_t)entry->file_offset | entry->state);
    }
  else if (bits.fresh)
    {
      vhdx_give_back_space (s, bits.bitmap, VHDX_BITMAP_BLOCK_BYTES);
    }
  block_bits_release (s, &bits);
  vhdx_page_release (s, page);
  return ret;
}

int coroutine_fn
vhdx_co_allocate (VhdxState *s, uint64_t block, uint64_t behind, VhdxBlock *entry)
{
  VhdxBlock next = { .state = VHDX_BLOCK_NOT_PRESENT };
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = allocate_locked (s, block, entry);
  /* What fails for a block behind will fail again when it is its turn. */
  for (uint64_t i = 1; ret == 0 && i <= behind; i++)
    if (vhdx_co_lookup (s, block + i, &next) < 0 || vhdx_is_present (next.state)
        || allocate_locked (s, block + i, &next) < 0)
      break;
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}

int coroutine_fn
vhdx_co_set_state (VhdxState *s, uint64_t block, VhdxBlockState state)
{
  VhdxHeldPage *page;
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, vhdx_bat_index (s, block)), &page);
  if (ret == 0)
    {
      if (vhdx_held_entry (s, page, vhdx_bat_index (s, block)) != (uint64_t)state)
        set_payload_entry (s, page, block, state);
      vhdx_page_release (s, page);
    }
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}

int coroutine_fn
vhdx_co_promote (VhdxState *s, uint64_t block, int64_t file_offset)
{
  uint64_t index = vhdx_bat_index (s, block);
  VhdxHeldPage *page;
  int ret;

  co_mutex_lock (&s->alloc_lock);
  ret = vhdx_co_page_hold (s, vhdx_bat_file_offset (s, index), &page);
  if (ret == 0)
    {
      /* Not if it was moved or dropped meanwhile. */
      if (vhdx_held_entry (s, page, index) == ((uint64_t)file_offset | VHDX_BLOCK_PARTIALLY_PRESENT))
        set_payload_entry (s, page, block, (uint64_t)file_offset | VHDX_BLOCK_FULLY_PRESENT);
      vhdx_page_release (s, page);
    }
  co_mutex_unlock (&s->alloc_lock);
  return ret;
}

/* --- blocks that were filled ------------------------------------------------------------------------------- */

int coroutine_fn
vhdx_co_reduced_state (VhdxState *s, uint64_t block, VhdxBlockState *state)
{
  VhdxPiece piece = { block, 0, vhdx_bytes_in_block (s, block) };
  int64_t run;
  bool present;
  int ret = vhdx_co_bitmap_run (s, &piece, &run, &present);

  *state = VHDX_BLOCK_PARTIALLY_PRESENT;
  if (ret < 0 || run < piece.bytes)
    return ret;
  if (!present)
    *state = VHDX_BLOCK_NOT_PRESENT;
  /* The last block of the disk stays as it is: growing must find out what its end shows. */
  else if (piece.bytes == s->metadata.block_size)
    *state = VHDX_BLOCK_FULLY_PRESENT;
  return 0;
}

static int coroutine_fn
promote_if_full (VhdxState *s, uint64_t block)
{
  VhdxBlockState reduced = VHDX_BLOCK_PARTIALLY_PRESENT;
  VhdxBlock entry;
  int ret = vhdx_co_lookup (s, block, &entry);

  if (ret == 0 && entry.state == VHDX_BLOCK_PARTIALLY_PRESENT)
    ret = vhdx_co_reduced_state (s, block, &reduced);
  if (ret < 0 || reduced != VHDX_BLOCK_FULLY_PRESENT)
    return ret;
  return vhdx_co_promote (s, block, entry.file_offset);
}

int coroutine_fn
vhdx_co_promote_filled (VhdxState *s)
{
  g_autofree void **blocks = NULL;
  guint n = g_hash_table_size (s->filling);
  int ret = 0;

  if (n == 0)
    return 0;
  blocks = g_hash_table_get_keys_as_array (s->filling, &n);
  g_hash_table_remove_all (s->filling);
  for (guint i = 0; i < n && ret == 0; i++)
    ret = promote_if_full (s, GPOINTER_TO_SIZE (blocks[i]) - 1);
  return ret;
}
