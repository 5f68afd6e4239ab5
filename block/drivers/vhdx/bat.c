/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Block allocation table ([MS-VHDX] 2.5): an entry for every payload block, and after each chunk of them one for
 * the sector bitmap block they share. */
#include <inttypes.h>

#include "vhdx.h"

uint64_t
vhdx_chunk_ratio (const VhdxMetadata *metadata)
{
  return VHDX_CHUNK_SECTORS * metadata->logical_sector_size / metadata->block_size;
}

uint64_t
vhdx_payload_blocks (const VhdxMetadata *metadata)
{
  return div_round_up (metadata->bytes, metadata->block_size);
}

uint64_t
vhdx_bat_entries (const VhdxMetadata *metadata)
{
  uint64_t ratio = vhdx_chunk_ratio (metadata), blocks = vhdx_payload_blocks (metadata);

  if (metadata->has_parent)
    return div_round_up (blocks, ratio) * (ratio + 1);
  return blocks + (blocks - 1) / ratio;
}

static bool
overlaps_metadata (const VhdxState *s, int64_t file_offset, int64_t bytes)
{
  if (file_offset < VHDX_HEADER_SECTION
      || ranges_overlap (file_offset, bytes, s->header.log_offset, s->header.log_length))
    return true;
  for (guint i = 0; i < s->regions->len; i++)
    {
      const VhdxRegion *region = &g_array_index (s->regions, VhdxRegion, i);

      if (ranges_overlap (file_offset, bytes, region->file_offset, region->bytes))
        return true;
    }
  return false;
}

const char *
vhdx_bat_entry_problem (const VhdxState *s, uint64_t value, int64_t bytes)
{
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;

  if (value & VHDX_BAT_RESERVED_MASK)
    return "reserved bits are set";
  if (file_offset < 0 || file_offset > VHDX_MAX_FILE_BYTES || file_offset + bytes > s->file_bytes)
    return "the block is outside the file";
  if (overlaps_metadata (s, file_offset, bytes))
    return "the block overlaps other structures";
  return NULL;
}

int64_t
vhdx_bytes_in_block (const VhdxState *s, uint64_t block)
{
  int64_t start = (int64_t)block * s->metadata.block_size;

  /* COMPAT: QEMU, up to 7.2 at least, writes the last block only as long as the disk needs it. */
  return MIN ((int64_t)s->metadata.block_size, s->metadata.bytes - start);
}

/* A request can fail with no more than a number: the first one says why. */
static int
refuse_entry (VhdxState *s, uint64_t block, uint64_t value, const char *problem)
{
  if (!s->refused_entry_told)
    bdrv_warn (s->bs,
               "block %" PRIu64 ", of guest offset %" PRIu64 ", cannot be read: BAT entry 0x%016" PRIx64
               ": %s; the file has %" PRId64 " bytes",
               block, block * s->metadata.block_size, value, problem, s->file_bytes);
  s->refused_entry_told = true;
  return -EIO;
}

/* Why payload block @block, with the entry @value, cannot be read, or NULL. */
static const char *
payload_problem (const VhdxState *s, uint64_t block, uint64_t value)
{
  switch (value & VHDX_BAT_STATE_MASK)
    {
    case VHDX_BLOCK_NOT_PRESENT:
    case VHDX_BLOCK_UNDEFINED:
    case VHDX_BLOCK_ZERO:
    case VHDX_BLOCK_UNMAPPED:
      return NULL;
    case VHDX_BLOCK_UNMAPPED_DRAFT:
      /* COMPAT: images after the draft 0.95, of disks without a parent. */
      return s->metadata.has_parent ? "its state is not legal over a parent" : NULL;
    case VHDX_BLOCK_FULLY_PRESENT:
    case VHDX_BLOCK_PARTIALLY_PRESENT:
      return vhdx_bat_entry_problem (s, value, vhdx_bytes_in_block (s, block));
    default:
      return "its state is not known";
    }
}

/* The table may move while it is read (a block status does not wait for a growth): where it was is a guest's data then. */
static int coroutine_fn
read_entry (VhdxState *s, uint64_t index, uint64_t *value)
{
  int64_t at;
  int ret;

  do
    {
      at = vhdx_bat_file_offset (s, index);
      ret = vhdx_co_read_u64 (s, at, value);
    }
  while (at != vhdx_bat_file_offset (s, index));
  return ret;
}

static int coroutine_fn
lookup_slow (VhdxState *s, uint64_t block, VhdxBlock *entry)
{
  uint64_t value;
  int ret = read_entry (s, vhdx_bat_index (s, block), &value);

  if (ret < 0)
    return ret;
  entry->state = value & VHDX_BAT_STATE_MASK;
  entry->file_offset = value & VHDX_BAT_OFFSET_MASK;
  const char *problem = payload_problem (s, block, value);
  if (problem)
    return refuse_entry (s, block, value, problem);
  /* COMPAT: not legal without a parent; Windows and OpenVMM read the whole block then. */
  if (entry->state == VHDX_BLOCK_PARTIALLY_PRESENT && !s->metadata.has_parent)
    entry->state = VHDX_BLOCK_FULLY_PRESENT;
  if (entry->state == VHDX_BLOCK_FULLY_PRESENT)
    s->recent[block % VHDX_RECENT] = (VhdxRecent){ block, entry->file_offset };
  return 0;
}

int coroutine_fn
vhdx_co_lookup (VhdxState *s, uint64_t block, VhdxBlock *entry)
{
  const VhdxRecent *recent = &s->recent[block % VHDX_RECENT];

  if (G_UNLIKELY (recent->block != block || recent->file_offset == 0))
    return lookup_slow (s, block, entry);
  *entry = (VhdxBlock){ VHDX_BLOCK_FULLY_PRESENT, recent->file_offset };
  return 0;
}

static int coroutine_fn
count_unreadable (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  uint64_t *count = opaque;
  uint64_t block = vhdx_bat_index_block (s, index);
  const char *problem;

  if (vhdx_bat_index_is_bitmap (s, index) || block >= s->payload_blocks)
    return 0;
  problem = payload_problem (s, block, value);
  if (problem)
    {
      refuse_entry (s, block, value, problem);
      (*count)++;
    }
  return 0;
}

void coroutine_fn
vhdx_co_examine_bat (VhdxState *s)
{
  uint64_t count = 0;

  if (vhdx_bat_entries (&s->metadata) * sizeof (Le64) > BDRV_EXAMINE_BYTES)
    return;
  int ret = vhdx_co_for_each_entry (s, count_unreadable, &count);

  bdrv_warn_of_bat (s->bs, s->bat_region.file_offset, ret, count);
}

int coroutine_fn
vhdx_co_lookup_bitmap (VhdxState *s, uint64_t chunk, int64_t *file_offset)
{
  uint64_t index = vhdx_bitmap_index (s, chunk);
  uint64_t value;
  int ret = vhdx_co_read_u64 (s, vhdx_bat_file_offset (s, index), &value);

  if (ret < 0)
    return ret;
  if ((value & VHDX_BAT_STATE_MASK) != VHDX_BITMAP_PRESENT
      || vhdx_bat_entry_problem (s, value, VHDX_BITMAP_BLOCK_BYTES))
    return -EIO;
  *file_offset = value & VHDX_BAT_OFFSET_MASK;
  return 0;
}

/* --- runs -------------------------------------------------------------------------------------------------- */

/* Less than this is looked at page by page; it doubles, so a run is found for at most twice the reading that its
 * length takes. */
#define LEAST_ZERO_BYTES (64 * VHDX_KIB)

static int coroutine_fn
stop_at_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  *(uint64_t *)opaque = index;
  return 1;
}

/* The first entry at @index or behind, below @end, that may not be zero; @end: there is none. */
static int64_t coroutine_fn
skip_zero_entries (VhdxState *s, uint64_t index, uint64_t end)
{
  GHashTableIter iter;
  VhdxHeldPage *page;
  uint64_t found;
  int ret = 0;

  /* The file has not what is held: that is for whoever looks at pages. */
  if (s->held)
    {
      g_hash_table_iter_init (&iter, s->held);
      while (g_hash_table_iter_next (&iter, NULL, (void **)&page))
        if (page->file_offset + VHDX_PAGE > vhdx_bat_file_offset (s, index)
            && page->file_offset < vhdx_bat_file_offset (s, end))
          end = MAX (index, (uint64_t)(page->file_offset - s->bat_region.file_offset) / 8);
    }
  for (uint64_t n = LEAST_ZERO_BYTES / 8; index < end && ret == 0; n *= 2)
    {
      found = MIN (end, index + n);
      ret = vhdx_co_for_each_entry_in (s, index, found, stop_at_entry, &found);
      index = found;
    }
  return ret < 0 ? ret : (int64_t)index;
}

/* How many of the @max entries in @page from @index on are in @state. */
static uint64_t
state_run_in_page (const VhdxState *s, const uint8_t *page, uint64_t index, uint64_t max,
                   VhdxBlockState state)
{
  const uint8_t *at = page + vhdx_bat_file_offset (s, index) % VHDX_PAGE;
  uint64_t n;
  Le64 disk;

  for (n = 0; n < max; n++, at += 8)
    {
      memcpy (&disk, at, sizeof disk);
      if ((le64_get (disk) & VHDX_BAT_STATE_MASK) != (uint64_t)state)
        break;
    }
  return n;
}

int64_t coroutine_fn
vhdx_co_state_run (VhdxState *s, uint64_t block, uint64_t max, VhdxBlockState state)
{
  uint64_t first = block, stop = block + MIN (max, s->payload_blocks - block);

  while (block < stop)
    {
      uint64_t index = vhdx_bat_index (s, block), end = vhdx_bat_index (s, stop - 1) + 1;
      int64_t at = vhdx_bat_file_offset (s, index);
      uint64_t in_page = (VHDX_PAGE - at % VHDX_PAGE) / 8;
      uint64_t n = MIN (MIN (in_page, stop - block), s->chunk_ratio - block % s->chunk_ratio), run;
      VhdxPage page;
      int64_t ret = vhdx_co_page_get (s, at, &page);

      if (ret < 0)
        return block > first ? (int64_t)(block - first) : ret;
      run = state_run_in_page (s, page.data, index, n, state);
      vhdx_page_put (s, &page);
      block += run;
      if (run < n)
        break;
      /* Where a page of the table ends in nothing, much more of nothing may follow. */
      index += in_page;
      if (n < in_page || state != VHDX_BLOCK_NOT_PRESENT || index + LEAST_ZERO_BYTES / 8 > end)
        continue;
      ret = skip_zero_entries (s, index, end);
      if (ret > (int64_t)index)
        block = MIN (stop, vhdx_bat_index_block (s, ret));
    }
  return block - first;
}
