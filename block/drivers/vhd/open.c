/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening: find the footer, check header and table, and, for writing, put right what an unclean end left
 * behind (formats: opening a file, trim on open). */
#include <inttypes.h>

#include "vhd.h"

/* How far from the end a footer is looked for when bytes follow it (uploads, devices larger than the image).
 */
#define FOOTER_SEARCH_BYTES (4 << 20)

/* --- geometry of the container -----------------------------------------------------------------------------
 */

int64_t
vhd_blocks_limit (const VhdState *s)
{
  return s->end_footer_valid || s->writable ? s->footer_offset : bdrv_length (s->bs->file);
}

const VhdRange *
vhd_find_metadata (const VhdState *s, int64_t file_offset, int64_t bytes)
{
  for (int i = 0; i < s->n_metadata; i++)
    if (ranges_overlap (file_offset, bytes, s->metadata[i].file_offset, s->metadata[i].bytes))
      return &s->metadata[i];
  return NULL;
}

static void
add_metadata (VhdState *s, int64_t file_offset, int64_t bytes, const char *what)
{
  s->metadata[s->n_metadata++] = (VhdRange){ file_offset, bytes, what };
  s->metadata_end = MAX (s->metadata_end, file_offset + bytes);
}

void
vhd_refresh_sizes (VhdState *s)
{
  BlockDriverState *bs = s->bs;

  bs->bytes = s->footer.current_size;
  if (s->size_from_chs)
    bs->bytes = vhd_geometry_sectors (s->footer.cylinders, s->footer.heads, s->footer.sectors_per_track)
                * VHD_SECTOR_SIZE;
  if (vhd_is_fixed (s))
    return;

  s->block_size = s->header.block_size;
  s->sectors_per_block = s->block_size / VHD_SECTOR_SIZE;
  s->bitmap_bytes = vhd_bitmap_padded (s->block_size);
  s->block_span = (int64_t)s->bitmap_bytes + s->block_size;
  s->blocks = div_round_up (bs->bytes, s->block_size);
  s->bat_bytes = round_up ((int64_t)s->header.max_table_entries * 4, VHD_SECTOR_SIZE);

  s->n_metadata = 0;
  s->metadata_end = 0;
  add_metadata (s, 0, VHD_FOOTER_SIZE, "footer copy");
  add_metadata (s, s->footer.data_offset, VHD_HEADER_SIZE, "dynamic header");
  add_metadata (s, s->header.table_offset, s->bat_bytes, "BAT");
  if (s->batmap.present)
    {
      add_metadata (s, s->batmap.header_offset, VHD_BATMAP_SIZE, "batmap header");
      add_metadata (s, s->batmap.map_offset,
                    (int64_t)be32_get (s->batmap.header.map_sectors) * VHD_SECTOR_SIZE, "batmap");
    }
  for (int i = 0; i < VHD_LOCATORS; i++)
    if (vhd_locator_is_sound (s, i))
      add_metadata (s, s->header.locators[i].offset, s->header.locators[i].length, "parent locator text");
}

bool
vhd_locator_is_sound (const VhdState *s, int slot)
{
  const VhdLocator *locator = &s->header.locators[slot];
  uint64_t file_bytes = bdrv_length (s->bs->file);

  return vhd_is_differencing (s) && locator->code != VHD_LOCATOR_NONE && !(s->ignored_locators & 1u << slot)
         && locator->offset > 0 && locator->offset < file_bytes && locator->length > 0
         && locator->length <= file_bytes - locator->offset;
}

/* --- footers -----------------------------------------------------------------------------------------------
 */

typedef struct
{
  VhdDecode result;
  VhdFooter footer;
  uint32_t found, expected;
} FooterLook;

static int coroutine_fn
look_for_footer (BlockDriverState *file, int64_t file_offset, int64_t bytes, FooterLook *look)
{
  VhdFooterDisk disk = { 0 };
  int ret = bdrv_co_pread (file, file_offset, bytes, &disk);

  if (ret < 0)
    return ret;
  look->result = vhd_footer_decode (&disk, &look->footer, &look->found, &look->expected);
  return 0;
}

static bool
is_sparse_type (const VhdFooter *footer)
{
  return footer->disk_type == VHD_TYPE_DYNAMIC || footer->disk_type == VHD_TYPE_DIFFERENCING;
}

/* A footer that other bytes follow. */
static int coroutine_fn
search_footer (VhdState *s, int64_t file_bytes, FooterLook *look)
{
  int64_t first = MAX (0, file_bytes - FOOTER_SEARCH_BYTES);
  g_autofree uint8_t *tail = g_try_malloc (FOOTER_SEARCH_BYTES);
  int64_t start = round_up (first, VHD_SECTOR_SIZE);
  int ret;

  if (!tail)
    return -ENOMEM;
  ret = bdrv_co_pread (s->bs->file, start, file_bytes - start, tail);
  if (ret < 0)
    return ret;
  for (int64_t at = round_down (file_bytes - VHD_FOOTER_SIZE, VHD_SECTOR_SIZE); at >= start && at > 0;
       at -= VHD_SECTOR_SIZE)
    {
      FooterLook here;
      VhdFooterDisk disk;

      memcpy (&disk, tail + (at - start), sizeof disk);
      here.result = vhd_footer_decode (&disk, &here.footer, &here.found, &here.expected);
      if (here.result == VHD_DECODE_OK)
        {
          *look = here;
          s->footer_offset = at;
          bdrv_warn (s->bs, "%" PRId64 " bytes follow the footer at offset %" PRId64,
                     file_bytes - at - VHD_FOOTER_SIZE, at);
          return 0;
        }
    }
  return 0;
}

static bool
set_footer_error (VhdState *s, const FooterLook *look, int64_t file_offset, GError **error)
{
  switch (look->result)
    {
    case VHD_DECODE_POISON:
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                      "footer at offset %" PRId64 ": XenServer marked this image as not to be used",
                      file_offset);
      break;
    case VHD_DECODE_CHECKSUM:
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "footer at offset %" PRId64 ": checksum 0x%08x, expected 0x%08x", file_offset,
                      look->found, look->expected);
      break;
    case VHD_DECODE_VERSION:
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                      "footer at offset %" PRId64 ": format version 0x%08x, expected 0x%08x", file_offset,
                      look->found, look->expected);
      break;
    default:
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "footer missing or corrupt: no \"" VHD_FOOTER_COOKIE "\" at offset %" PRId64
                      ", nor a copy at offset 0",
                      file_offset);
      break;
    }
  return false;
}

static bool coroutine_fn
read_footers (VhdState *s, GError **error)
{
  BlockDriverState *file = s->bs->file;
  int64_t file_bytes = bdrv_length (file);
  FooterLook end = { 0 }, copy = { 0 };
  int ret;

  if (file_bytes < VHD_FOOTER_SIZE - 1)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "footer missing: the file has %" PRId64 " bytes, too small for a footer of %d",
                      file_bytes, VHD_FOOTER_SIZE);
      return false;
    }
  s->footer_offset = MAX (0, file_bytes - VHD_FOOTER_SIZE);
  ret = look_for_footer (file, s->footer_offset, VHD_FOOTER_SIZE, &end);
  if (ret == 0 && end.result != VHD_DECODE_OK && file_bytes % VHD_SECTOR_SIZE == VHD_FOOTER_SIZE - 1)
    {
      /* COMPAT: Virtual PC before 2004 wrote 511 bytes; the last one is a zero. */
      FooterLook shorter;

      ret = look_for_footer (file, file_bytes - (VHD_FOOTER_SIZE - 1), VHD_FOOTER_SIZE - 1, &shorter);
      if (ret == 0 && (shorter.result == VHD_DECODE_OK || end.result == VHD_DECODE_COOKIE))
        {
          end = shorter;
          s->footer_offset = file_bytes - (VHD_FOOTER_SIZE - 1);
          s->end_footer_short = true;
        }
    }
  if (ret == 0)
    ret = look_for_footer (file, 0, VHD_FOOTER_SIZE, &copy);
  if (ret == 0 && end.result == VHD_DECODE_COOKIE && copy.result != VHD_DECODE_OK)
    ret = search_footer (s, file_bytes, &end);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the footer");
      return false;
    }

  s->identified = end.result != VHD_DECODE_COOKIE || copy.result != VHD_DECODE_COOKIE;
  s->end_footer_valid = end.result == VHD_DECODE_OK;
  s->copy_valid = copy.result == VHD_DECODE_OK && is_sparse_type (&copy.footer);
  if (s->end_footer_valid)
    {
      s->footer = end.footer;
    }
  else if (s->copy_valid && end.result != VHD_DECODE_POISON)
    {
      s->footer = copy.footer;
      s->footer_offset = round_down (file_bytes, VHD_SECTOR_SIZE);
      bdrv_warn (s->bs, "footer at the end is missing or damaged, using its copy at offset 0");
    }
  else
    {
      /* Name the one that was nearest to being good. */
      if (end.result == VHD_DECODE_COOKIE && copy.result != VHD_DECODE_COOKIE && copy.result != VHD_DECODE_OK)
        return set_footer_error (s, &copy, 0, error);
      return set_footer_error (s, &end, s->footer_offset, error);
    }

  if (s->end_footer_valid && is_sparse_type (&s->footer))
    {
      if (!s->copy_valid)
        {
          bdrv_warn (s->bs, "footer copy at offset 0 is damaged, using the footer at the end");
        }
      else if (!vhd_footer_equal (&end.footer, &copy.footer))
        {
          s->copies_differ = true;
          bdrv_warn (s->bs, "footer at the end and its copy at offset 0 differ, using the one at the end");
        }
    }
  return true;
}

static bool
check_footer (VhdState *s, GError **error)
{
  const VhdFooter *footer = &s->footer;
  const char *at = s->end_footer_valid ? "footer" : "footer copy";

  if (footer->incomplete && !bdrv_check_incomplete (s->bs, at, error))
    return false;
  if (footer->disk_type != VHD_TYPE_FIXED && !is_sparse_type (footer))
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED, "%s: disk type %u, expected 2, 3 or 4", at,
                      footer->disk_type);
      return false;
    }
  /* COMPAT: blktap 0.1 kept its sector bitmaps in the other bit order; blktap refuses them as well. */
  if (memcmp (footer->creator_application, "tap", 3) == 0 && footer->creator_version == 0x00000001)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                      "%s: written by version 0.1 of blktap, whose sector bitmaps have another bit order",
                      at);
      return false;
    }
  if (footer->current_size == 0 || footer->current_size % VHD_SECTOR_SIZE != 0
      || footer->current_size > (uint64_t)VHD_MAX_BYTES)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "%s: invalid disk size %" PRIu64 ", expected a multiple of 512 from 512 to %" PRId64,
                      at, footer->current_size, VHD_MAX_BYTES);
      return false;
    }
  if (s->size_from_chs
      && vhd_geometry_sectors (footer->cylinders, footer->heads, footer->sectors_per_track) == 0)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "%s: geometry %u/%u/%u is no size", at,
                      footer->cylinders, footer->heads, footer->sectors_per_track);
      return false;
    }
  if (vhd_is_fixed (s) && footer->current_size > (uint64_t)s->footer_offset)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "%s: image truncated: disk size %" PRIu64 ", but only %" PRId64
                      " bytes before the footer",
                      at, footer->current_size, s->footer_offset);
      return false;
    }
  if (!(footer->features & VHD_FEATURE_RESERVED) || footer->features & ~3u)
    bdrv_warn (s->bs, "%s: features 0x%x, expected 2 or 3", at, footer->features);
  if (footer->saved_state == 1)
    bdrv_warn (s->bs, "%s: the image belongs to a saved state of a virtual machine", at);
  return true;
}

/* --- header ------------------------------------------------------------------------------------------------
 */

static bool coroutine_fn
read_header (VhdState *s, GError **error)
{
  BlockDriverState *bs = s->bs;
  uint64_t at = s->footer.data_offset;
  uint64_t file_bytes = bdrv_length (bs->file);
  VhdHeaderDisk disk;
  uint32_t found = 0, expected = 0;
  VhdDecode result;
  int ret;

  if (at < VHD_FOOTER_SIZE || at % VHD_SECTOR_SIZE != 0 || at > file_bytes
      || file_bytes - at < VHD_HEADER_SIZE)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "footer: bad header offset %" PRIu64
                      ", expected a multiple of 512 inside the file of %" PRIu64 " bytes",
                      at, file_bytes);
      return false;
    }
  ret = bdrv_co_pread (bs->file, at, sizeof disk, &disk);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot read the dynamic header at offset %" PRIu64, at);
      return false;
    }
  result = vhd_header_decode (&disk, &s->header, &found, &expected);
  if (result == VHD_DECODE_OK)
    return !s->header.incomplete || bdrv_check_incomplete (bs, "dynamic header", error);
  if (result == VHD_DECODE_COOKIE)
    bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                    "dynamic header at offset %" PRIu64 ": no \"" VHD_HEADER_COOKIE "\" there", at);
  else
    bdrv_set_error (error, bs, result == VHD_DECODE_VERSION ? VHDKIT_ERROR_UNSUPPORTED : VHDKIT_ERROR_CORRUPT,
                    "dynamic header at offset %" PRIu64 ": %s 0x%08x, expected 0x%08x", at,
                    result == VHD_DECODE_VERSION ? "version" : "checksum", found, expected);
  return false;
}

static bool
check_header (VhdState *s, GError **error)
{
  const VhdHeader *header = &s->header;
  BlockDriverState *bs = s->bs;
  uint64_t file_bytes = bdrv_length (bs->file);
  int64_t blocks, bat_bytes;

  if (!is_power_of_two (header->block_size) || header->block_size < VHD_MIN_BLOCK_SIZE
      || header->block_size > VHD_MAX_BLOCK_SIZE)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "dynamic header: invalid block size %u, expected a power of two from %d to %d",
                      header->block_size, VHD_MIN_BLOCK_SIZE, VHD_MAX_BLOCK_SIZE);
      return false;
    }
  blocks = div_round_up (s->footer.current_size, header->block_size);
  if (header->max_table_entries < blocks)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "dynamic header: BAT too small: %u entries, the disk has %" PRId64 " blocks",
                      header->max_table_entries, blocks);
      return false;
    }
  bat_bytes = round_up ((int64_t)header->max_table_entries * 4, VHD_SECTOR_SIZE);
  if (header->table_offset < VHD_FOOTER_SIZE || header->table_offset % VHD_SECTOR_SIZE != 0
      || header->table_offset > file_bytes || (uint64_t)bat_bytes > file_bytes - header->table_offset)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "dynamic header: BAT outside the file: offset %" PRIu64 ", %" PRId64
                      " bytes, file of %" PRIu64,
                      header->table_offset, bat_bytes, file_bytes);
      return false;
    }
  if (bat_bytes > VHD_MAX_BAT_BYTES)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "dynamic header: BAT size %" PRId64 " is more than %" PRId64 " bytes", bat_bytes,
                      VHD_MAX_BAT_BYTES);
      return false;
    }
  if (ranges_overlap (header->table_offset, bat_bytes, s->footer.data_offset, VHD_HEADER_SIZE))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "overlapping structures: BAT at offset %" PRIu64
                      " and dynamic header at offset %" PRIu64,
                      header->table_offset, s->footer.data_offset);
      return false;
    }
  return true;
}

/* A locator inside the BAT or the header is not one: it must not count as metadata either. */
static void
drop_unsound_locators (VhdState *s)
{
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      const VhdLocator *locator = &s->header.locators[i];
      int64_t bat_bytes = round_up ((int64_t)s->header.max_table_entries * 4, VHD_SECTOR_SIZE);

      if (locator->code == VHD_LOCATOR_NONE || locator->offset > INT64_MAX)
        continue;
      if (ranges_overlap (locator->offset, locator->length, s->header.table_offset, bat_bytes)
          || ranges_overlap (locator->offset, locator->length, s->footer.data_offset, VHD_HEADER_SIZE)
          || ranges_overlap (locator->offset, locator->length, 0, VHD_FOOTER_SIZE))
        {
          bdrv_warn (s->bs,
                     "parent locator %d: its text at offset %" PRIu64 " lies in another structure, ignored",
                     i, locator->offset);
          s->ignored_locators |= 1u << i;
        }
    }
}

/* --- life --------------------------------------------------------------------------------------------------
 */

static void
free_change (void *change)
{
  g_free (change);
}

static void
state_init (VhdState *s, BlockDriverState *bs)
{
  s->bs = bs;
  co_mutex_init (&s->publish_lock);
  co_mutex_init (&s->alloc_lock);
  epochs_init (&s->epochs);
  s->changes = g_hash_table_new_full (NULL, NULL, NULL, free_change);
  s->bitmaps = g_hash_table_new (NULL, NULL);
  g_queue_init (&s->bitmap_lru);
  s->free_slots = g_array_new (false, false, sizeof (VhdFreeSlot));
  s->clone_in_file = true;
}

static void
state_clear (VhdState *s)
{
  vhd_bitmap_forget_all (s);
  g_hash_table_unref (s->bitmaps);
  g_hash_table_unref (s->changes);
  g_array_unref (s->free_slots);
  if (s->bat)
    bdrv_meta_cache_free (s->bat);
  if (s->parent_paths)
    g_ptr_array_unref (s->parent_paths);
  vhd_batmap_clear (s);
  g_free (s->damage);
  epochs_clear (&s->epochs);
  co_mutex_clear (&s->alloc_lock);
  co_mutex_clear (&s->publish_lock);
}

static bool coroutine_fn
open_image (VhdState *s, GError **error)
{
  BlockDriverState *bs = s->bs;

  if (!read_footers (s, error) || !check_footer (s, error))
    return false;
  bs->limits.request_alignment = VHD_SECTOR_SIZE;
  if (vhd_is_fixed (s))
    {
      vhd_refresh_sizes (s);
      return true;
    }

  if (!read_header (s, error) || !check_header (s, error))
    return false;
  if (vhd_is_differencing (s))
    drop_unsound_locators (s);
  vhd_refresh_sizes (s);
  if (s->size_from_chs && (uint64_t)bs->bytes > s->footer.current_size)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "footer: geometry is larger than the disk size %" PRIu64, s->footer.current_size);
      return false;
    }
  vhd_co_batmap_probe (s);
  if (s->batmap.present && s->batmap.header.key_hash_present)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "batmap at offset %" PRId64 ": the image is encrypted", s->batmap.header_offset);
      return false;
    }
  vhd_refresh_sizes (s);
  s->bat = bdrv_meta_cache_new (bs->file, VHD_BAT_PAGE, VHD_CACHE_BYTES);
  if (!vhd_co_read_locators (s, error))
    return false;
  bs->limits.zeroes_alignment = VHD_SECTOR_SIZE;
  bs->limits.discard_alignment = s->block_size;
  return true;
}

/* An image that is too damaged to be opened is opened all the same to be checked, without content: what is wrong is the
 * finding then. */
static bool
take_damaged (VhdState *s, GError *failure)
{
  BlockDriverState *bs = s->bs;
  g_autofree char *prefix = g_strdup_printf ("%s: ", bs->filename);
  const char *text = failure->message;

  if (!s->identified || !(bs->open_flags & BDRV_O_CHECK) || !bs->read_only
      || !g_error_matches (failure, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT))
    return false;
  if (g_str_has_prefix (text, prefix))
    text += strlen (prefix);
  state_clear (s);
  memset (s, 0, sizeof *s);
  state_init (s, bs);
  s->damage = g_strdup (text);
  bs->bytes = 0;
  return true;
}

bool coroutine_fn
vhd_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  VhdState *s = bs->opaque;
  const char *size = block_options_get_string (options, "force_size_calc", "current_size");
  g_autoptr (GError) failure = NULL;

  state_init (s, bs);
  if (strcmp (size, "chs") != 0 && strcmp (size, "current_size") != 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "option force_size_calc: \"%s\", expected chs or current_size", size);
      state_clear (s);
      return false;
    }
  s->size_from_chs = strcmp (size, "chs") == 0;
  s->ignore_saved_state = block_options_get_bool (options, "ignore_saved_state", false);
  if (!open_image (s, &failure))
    {
      if (take_damaged (s, failure))
        return true;
      g_propagate_error (error, g_steal_pointer (&failure));
      state_clear (s);
      return false;
    }
  if (bs->read_only && bs->open_flags & BDRV_O_EXAMINE && !vhd_is_fixed (s))
    vhd_co_examine_bat (s);
  if (!bs->read_only && !vhd_co_reopen_rw (bs, error))
    {
      state_clear (s);
      return false;
    }
  return true;
}

int coroutine_fn
vhd_co_close (BlockDriverState *bs)
{
  VhdState *s = bs->opaque;
  int ret = 0;

  if (s->writable && !bdrv_is_poisoned (bs))
    {
      ret = vhd_co_publish (s);
      /* Batmap bits that the round has made true. */
      if (ret == 0)
        ret = vhd_co_batmap_write (s);
      /* Blocks that were dropped may have been the last ones. */
      if (ret == 0 && !vhd_is_fixed (s))
        ret = s->free_slots->len > 0 ? vhd_co_trim (bs) : vhd_co_cut (s);
    }
  state_clear (s);
  return ret;
}

/* --- writing ------------------------------------------------------------------------------------------------ */

int coroutine_fn
vhd_co_write_footer (VhdState *s, int64_t file_offset)
{
  VhdFooterDisk disk;

  vhd_footer_encode (&s->footer, &disk);
  return bdrv_co_pwrite (s->bs->file, file_offset, sizeof disk, &disk, 0);
}

int coroutine_fn
vhd_co_write_both_footers (VhdState *s)
{
  int ret = vhd_co_write_footer (s, 0);

  /* Barrier: all that the new one names, and the copy itself, before the other is touched. */
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret == 0)
    ret = vhd_co_write_footer (s, s->footer_offset);
  /* Barrier: nothing that only the old one named is written over before. */
  return ret < 0 ? ret : bdrv_co_flush (s->bs->file);
}

/* Writes the footer at @end, where the file system may have no space for it, being full.  Then what is about to be cut
 * is given back first; the end footer stays. */
static int coroutine_fn
write_footer_at_cut (VhdState *s, int64_t end)
{
  BlockDriverState *file = s->bs->file;
  int64_t from = round_up (end + VHD_FOOTER_SIZE, 4096), to = round_down (s->footer_offset, 4096);
  int ret = vhd_co_write_footer (s, end);

  if (ret != -ENOSPC || !s->can_grow || !s->end_footer_valid || s->end_footer_stale || to <= from)
    return ret;
  ret = bdrv_co_pdiscard (file, from, to - from);
  /* Between the punch and the write that relies on its space. */
  if (ret == 0)
    ret = bdrv_co_flush (file);
  return ret < 0 ? -ENOSPC : vhd_co_write_footer (s, end);
}

int coroutine_fn
vhd_co_cut (VhdState *s)
{
  BlockDriverState *file = s->bs->file;
  int64_t end = s->can_grow ? round_up (s->data_end, VHD_SECTOR_SIZE) : s->footer_offset;
  bool at_place = s->end_footer_valid && !s->end_footer_stale && !s->end_footer_short
                  && s->footer_offset == end && (!s->can_grow || bdrv_length (file) == end + VHD_FOOTER_SIZE);
  int ret = 0;

  /* One good footer is always left alone (I4): the end footer while the copy is put right, then the copy
   * while the end footer moves. */
  if (s->end_footer_valid && (!s->copy_valid || s->copies_differ))
    {
      ret = vhd_co_write_footer (s, 0);
      if (ret == 0)
        ret = bdrv_co_flush (file);
      if (ret < 0)
        return ret;
      s->copy_valid = true;
      s->copies_differ = false;
    }
  if (at_place)
    return 0;

  /* What is behind the blocks is not zero until all of it has gone. */
  s->grown_is_zero = false;
  ret = write_footer_at_cut (s, end);
  /* Between the new footer and the end of the old one: what reads the end only finds one. */
  if (ret == 0)
    ret = bdrv_co_flush (file);
  /* A write that failed may have made the file longer than the node knows. */
  if (ret == 0 && s->can_grow && (s->end_footer_stale || bdrv_length (file) > end + VHD_FOOTER_SIZE))
    {
      if (!bdrv_co_truncate (file, end + VHD_FOOTER_SIZE, NULL))
        ret = -EIO;
      if (ret == 0)
        ret = bdrv_co_flush (file);
    }
  if (ret < 0)
    return ret;
  s->footer_offset = end;
  s->end_footer_valid = true;
  s->end_footer_stale = false;
  s->end_footer_short = false;
  s->grown_is_zero = s->can_grow;
  return 0;
}

/* A block that a killed tapdisk left short: nothing that its bitmap says is there may be missing. */
static bool coroutine_fn
check_last_block (VhdState *s, const VhdUsedBlock *used, GError **error)
{
  int64_t start = vhd_sector_to_offset (used->sector);
  int ret;

  if (start + s->block_span <= vhd_blocks_limit (s))
    return true;
  ret = vhd_co_check_truncated (s, used->block, used->sector);
  if (ret == -EIO)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                    "block %u at offset %" PRId64
                    ": the file ends in it, and its bitmap names sectors that are missing",
                    used->block, start);
  else if (ret < 0)
    bdrv_set_error_errno (error, s->bs, ret, "block %u: cannot read its bitmap at offset %" PRId64,
                          used->block, start);
  return ret == 0;
}

/* The end of what is in use or reserved for a locator's longer text in the given range, or 0. */
static int64_t
end_of_reserved (const VhdState *s, int64_t file_offset, int64_t bytes)
{
  const VhdRange *metadata = vhd_find_metadata (s, file_offset, bytes);

  if (metadata)
    return metadata->file_offset + metadata->bytes;
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      const VhdLocator *locator = &s->header.locators[i];

      if (vhd_locator_is_sound (s, i)
          && ranges_overlap (file_offset, bytes, locator->offset, vhd_locator_space (locator)))
        return locator->offset + vhd_locator_space (locator);
    }
  return 0;
}

/* The gaps between blocks and metadata that can hold a block. */
static void
find_free_slots (VhdState *s, GArray *used)
{
  int64_t at = 0;

  for (guint i = 0; i <= used->len && s->free_slots->len < VHD_MAX_FREE_SLOTS; i++)
    {
      int64_t start =
          i < used->len ? vhd_sector_to_offset (g_array_index (used, VhdUsedBlock, i).sector) : s->data_end;

      while (at + s->block_span <= start && s->free_slots->len < VHD_MAX_FREE_SLOTS)
        {
          int64_t slot = vhd_align_block (s, at);
          int64_t reserved_end;

          if (slot + s->block_span > start)
            break;
          reserved_end = end_of_reserved (s, slot, s->block_span);
          if (reserved_end > 0)
            {
              at = reserved_end;
              continue;
            }
          vhd_free_slot (s, slot / VHD_SECTOR_SIZE);
          at = slot + s->block_span;
        }
      at = MAX (at, start + s->block_span);
    }
}

int64_t
vhd_metadata_space_end (const VhdState *s)
{
  int64_t end = s->metadata_end;

  for (int i = 0; i < VHD_LOCATORS; i++)
    if (vhd_locator_is_sound (s, i))
      end = MAX (end, (int64_t)MIN (s->header.locators[i].offset + vhd_locator_space (&s->header.locators[i]),
                                    (uint64_t)s->footer_offset));
  return end;
}

int64_t
vhd_used_end (const VhdState *s, const GArray *used)
{
  int64_t end = vhd_metadata_space_end (s);

  if (used->len > 0)
    end = MAX (end, vhd_sector_to_offset (g_array_index (used, VhdUsedBlock, used->len - 1).sector)
                        + s->block_span);
  return end;
}

bool coroutine_fn
vhd_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  VhdState *s = bs->opaque;
  g_autoptr (GArray) used = NULL;
  int ret;

  if (s->footer.saved_state == 1 && !s->ignore_saved_state)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY,
                      "footer: the image belongs to a saved state of a virtual machine and is not written to "
                      "(open option ignore_saved_state=on overrides)");
      return false;
    }
  if (s->size_from_chs)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "force_size_calc=chs is for reading only");
      return false;
    }
  s->can_grow = !bs->file->fixed_length;
  if (vhd_is_fixed (s))
    {
      if (s->end_footer_short)
        {
          ret = vhd_co_write_footer (s, s->footer_offset);
          if (ret < 0)
            {
              bdrv_set_error_errno (error, bs, ret, "cannot complete the footer at offset %" PRId64,
                                    s->footer_offset);
              return false;
            }
          s->end_footer_short = false;
        }
      s->writable = true;
      return true;
    }

  used = vhd_co_collect_blocks (s, error);
  if (!used)
    return false;
  if (used->len > 0 && !check_last_block (s, &g_array_index (used, VhdUsedBlock, used->len - 1), error))
    return false;
  s->data_end = vhd_used_end (s, used);
  if (!s->can_grow)
    {
      int64_t end = bdrv_length (bs->file) - VHD_FOOTER_SIZE;

      /* One that was found before the end of the device does not belong there. */
      s->end_footer_stale = s->footer_offset != end;
      s->footer_offset = end;
      if (s->data_end > s->footer_offset)
        {
          bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                          "blocks end at offset %" PRId64 ", the device has only %" PRId64
                          " bytes before the footer",
                          s->data_end, s->footer_offset);
          return false;
        }
    }
  s->grown_is_zero = s->can_grow;
  s->writable = true;
  if (!vhd_co_batmap_load (s, error))
    {
      s->writable = false;
      return false;
    }

  /* What lies behind the last block is left from an interrupted run: new blocks rely on zeros there. */
  ret = vhd_co_cut (s);
  if (ret < 0)
    {
      s->writable = false;
      bdrv_set_error_errno (error, bs, ret, "cannot put the footer at offset %" PRId64, s->data_end);
      return false;
    }
  /* And a header: before blocks are put behind it. */
  ret = vhd_co_settle_header (s, used);
  if (ret < 0)
    {
      s->writable = false;
      bdrv_set_error_errno (error, bs, ret, "cannot move the dynamic header from offset %" PRIu64,
                            s->footer.data_offset);
      return false;
    }
  find_free_slots (s, used);
  return true;
}
