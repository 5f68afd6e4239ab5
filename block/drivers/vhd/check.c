/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking a container: every rule of the format that a reader need not look at (formats: checklist). */
#include <inttypes.h>

#include "bitset.h"
#include "vhd.h"

typedef struct
{
  BlockCheckResult *result;
  GArray *used; /* of VhdUsedBlock */
  bool fix;
} Check;

static int coroutine_fn
check_entry (VhdState *s, uint32_t block, uint32_t sector, void *opaque)
{
  Check *check = opaque;
  int64_t start = vhd_sector_to_offset (sector);
  const VhdRange *metadata = vhd_find_metadata (s, start, s->block_span);
  VhdUsedBlock used = { sector, block };
  bool truncated;

  check->result->allocated_blocks++;
  if (metadata)
    block_check_report (check->result, BLOCK_CHECK_ERROR,
                        "BAT entry %u: block at offset %" PRId64 " overlaps the %s at offset %" PRId64, block,
                        start, metadata->what, metadata->file_offset);
  else if (!vhd_sector_is_sound (s, sector, &truncated))
    block_check_report (check->result, BLOCK_CHECK_ERROR,
                        "BAT entry %u: block at offset %" PRId64 " of %" PRId64
                        " bytes is outside the file, blocks end at %" PRId64,
                        block, start, s->block_span, vhd_blocks_limit (s));
  else
    {
      if (truncated)
        {
          bool lost = vhd_co_check_truncated (s, block, sector) < 0;

          block_check_report (check->result, lost ? BLOCK_CHECK_ERROR : BLOCK_CHECK_WARNING,
                              "BAT entry %u: the file ends inside the block at offset %" PRId64 "%s", block,
                              start, lost ? " and data of it are missing" : "");
        }
      /* More entries than the file has room for are found out as overlaps. */
      if ((int64_t)check->used->len <= vhd_blocks_limit (s) / s->bitmap_bytes)
        g_array_append_val (check->used, used);
    }
  return 0;
}

static void
check_overlaps (VhdState *s, Check *check)
{
  int64_t end = s->metadata_end;
  int64_t gaps = 0;

  g_array_sort (check->used, vhd_compare_used);
  for (guint i = 0; i < check->used->len; i++)
    {
      const VhdUsedBlock *used = &g_array_index (check->used, VhdUsedBlock, i);
      const VhdUsedBlock *before = i > 0 ? used - 1 : NULL;
      int64_t start = vhd_sector_to_offset (used->sector);

      if (before && start - vhd_sector_to_offset (before->sector) < s->block_span)
        block_check_report (check->result, BLOCK_CHECK_ERROR,
                            "BAT entries %u and %u: blocks at offsets %" PRId64 " and %" PRId64 " overlap",
                            before->block, used->block, vhd_sector_to_offset (before->sector), start);
      if (before && used->block != before->block + 1)
        check->result->fragmented_blocks++;
      if (before)
        end = MAX (end, vhd_sector_to_offset (before->sector) + s->block_span);
      /* Legal, and new blocks go there first: nothing is wrong, compaction gives it back. */
      if (start > s->metadata_end)
        for (int64_t at = vhd_align_block (s, end); at + s->block_span <= start;
             at = vhd_align_block (s, at + s->block_span))
          gaps++;
      end = MAX (end, start + s->block_span);
    }
  if (gaps > 0)
    block_check_report (
        check->result, BLOCK_CHECK_INFO,
        "room for %" PRId64 " blocks between others is free; compacting the image gives it back", gaps);
  end = MAX (end, vhd_metadata_space_end (s));
  check->result->image_end_offset = end + VHD_FOOTER_SIZE;
  if (!s->bs->file->fixed_length && s->end_footer_valid && s->footer_offset - end >= s->block_span)
    block_check_report (check->result, BLOCK_CHECK_LEAK,
                        "%" PRId64 " bytes behind the last block at offset %" PRId64 " are not used",
                        s->footer_offset - end, end);
}

static void coroutine_fn
check_surplus (VhdState *s, Check *check)
{
  int64_t bytes = (int64_t)(s->header.max_table_entries - s->blocks) * 4;
  int64_t at = s->header.table_offset + (int64_t)s->blocks * 4;
  uint8_t buffer[4096];
  int64_t used = 0;

  while (bytes > 0)
    {
      int64_t n = MIN (bytes, (int64_t)sizeof buffer);

      if (bdrv_co_pread (s->bs->file, at, n, buffer) < 0)
        {
          block_check_report (check->result, BLOCK_CHECK_ERROR, "BAT: cannot read its end at offset %" PRId64,
                              at);
          check->result->check_errors++;
          return;
        }
      for (int64_t i = 0; i < n; i += 4)
        used += memcmp (buffer + i, "\xFF\xFF\xFF\xFF", 4) != 0;
      at += n;
      bytes -= n;
    }
  if (used > 0)
    block_check_report (check->result, BLOCK_CHECK_WARNING,
                        "BAT: %" PRId64 " entries past the end of the disk are in use", used);
}

static void
set_batmap_error (VhdState *s, int ret, GError **error)
{
  bdrv_set_error_errno (error, s->bs, ret, "cannot write the batmap at offset %" PRId64,
                        s->batmap.map_offset);
}

/* A set bit of the batmap promises that the block's bitmap is full.  A bit that lies is cleared by a repair, unless
 * something else is wrong. */
static bool coroutine_fn
check_batmap (VhdState *s, Check *check, GError **error)
{
  if (!s->batmap.present)
    return true;
  if (!s->batmap.map && !vhd_co_batmap_load (s, error))
    return false;
  bool fix = check->fix && check->result->corruptions == 0;
  int ret;

  if (!s->batmap.trusted)
    {
      block_check_report (check->result, BLOCK_CHECK_WARNING,
                          "batmap at offset %" PRId64 ": wrong checksum; a writable open makes it anew",
                          s->batmap.header_offset);
      ret = fix ? vhd_co_batmap_write (s) : 0;
      /* It is all clear now, which promises nothing. */
      s->batmap.trusted = fix && ret == 0;
      if (ret < 0)
        set_batmap_error (s, ret, error);
      return ret == 0;
    }

  for (guint i = 0; i < check->used->len; i++)
    {
      const VhdUsedBlock *used = &g_array_index (check->used, VhdUsedBlock, i);
      VhdBitmap *bitmap;

      if (!vhd_batmap_get (s, used->block))
        continue;
      ret = vhd_co_bitmap_get (s, used->block, used->sector, &bitmap);
      if (ret < 0)
        {
          check->result->check_errors++;
          continue;
        }
      if (!bitmap->all_set)
        {
          block_check_report (check->result, BLOCK_CHECK_ERROR,
                              "batmap: block %u is marked full, its bitmap at offset %" PRId64 " is not",
                              used->block, vhd_sector_to_offset (used->sector));
          if (fix)
            {
              vhd_batmap_set (s, used->block, false);
              check->result->corruptions_fixed++;
            }
        }
      vhd_bitmap_put (s, bitmap);
    }
  ret = fix ? vhd_co_batmap_write (s) : 0;
  if (ret < 0)
    set_batmap_error (s, ret, error);
  return ret == 0;
}

static void
check_footer_facts (VhdState *s, BlockCheckResult *result)
{
  uint16_t cylinders;
  uint8_t heads, sectors_per_track;
  const VhdFooter *footer = &s->footer;

  /* Findings of opening, with their places. */
  if (!s->end_footer_valid)
    block_check_report (
        result, BLOCK_CHECK_WARNING,
        "footer at the end is missing or damaged; a writable open writes it again from its copy");
  if (s->end_footer_short)
    block_check_report (result, BLOCK_CHECK_WARNING, "footer at offset %" PRId64 " has 511 bytes",
                        s->footer_offset);
  if (!vhd_is_fixed (s) && s->end_footer_valid && !s->copy_valid)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "footer copy at offset 0 is damaged; a writable open writes it again");
  if (s->copies_differ)
    block_check_report (result, BLOCK_CHECK_WARNING, "footer and its copy at offset 0 differ");
  vhd_geometry (footer->current_size / VHD_SECTOR_SIZE, &cylinders, &heads, &sectors_per_track);
  if (vhd_geometry_sectors (footer->cylinders, footer->heads, footer->sectors_per_track)
          > vhd_geometry_sectors (cylinders, heads, sectors_per_track)
      && !(footer->cylinders == 65535 && footer->heads == 16 && footer->sectors_per_track == 255))
    block_check_report (result, BLOCK_CHECK_WARNING, "footer: geometry %u/%u/%u is larger than the disk",
                        footer->cylinders, footer->heads, footer->sectors_per_track);
}

bool coroutine_fn
vhd_co_check (BlockDriverState *bs, BlockCheckResult *result, bool fix, GError **error)
{
  VhdState *s = bs->opaque;
  g_autoptr (GArray) used = NULL;
  Check check = { result, NULL, fix && !bs->read_only };
  int64_t tail_before = bdrv_length (bs->file);
  int ret;

  if (s->damage)
    {
      block_check_report (result, BLOCK_CHECK_ERROR, "%s", s->damage);
      return true;
    }
  check_footer_facts (s, result);
  if (vhd_is_fixed (s))
    {
      result->image_end_offset = s->footer_offset + VHD_FOOTER_SIZE;
      return true;
    }

  check.used = used = vhd_co_new_block_list (s, error);
  if (!used)
    return false;
  result->total_blocks = s->blocks;
  ret = vhd_co_for_each_block (s, check_entry, &check);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot read the BAT at offset %" PRIu64, s->header.table_offset);
      return false;
    }
  check_overlaps (s, &check);
  check_surplus (s, &check);
  if (!check_batmap (s, &check, error))
    return false;

  if (fix && !bs->read_only && result->corruptions == 0)
    {
      ret = vhd_co_trim (bs);
      if (ret < 0)
        {
          bdrv_set_error_errno (error, bs, ret, "cannot cut the end of the file");
          return false;
        }
      if (bdrv_length (bs->file) < tail_before && result->leaks > 0)
        result->leaks_fixed++;
    }
  return true;
}
