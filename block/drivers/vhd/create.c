/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image.
 *
 *   dynamic, differencing:  0 footer copy | 512 header | locator texts | BAT, 4 KiB-aligned | footer
 *   fixed:                  guest data | footer
 *
 * Everything is written and flushed before the sectors with the cookies, so a half-made file is no image.
 *
 * An image that is to be filled before it is anybody's has another cookie (VHD_INCOMPLETE_COOKIE) in its header, or being
 * fixed in its footer, until its content is durable.  The footers of a dynamic one are as ever: others see a VHD that
 * they cannot open, not a raw disk.
 */
#include <inttypes.h>

#include "identity.h"
#include "vhd.h"

const BlockOptionDef vhd_create_options[] = {
  { "subformat", BLOCK_OPTION_STRING, "dynamic", "dynamic (also with a parent) or fixed" },
  { "block_size", BLOCK_OPTION_SIZE, "2M", "bytes of a block, a power of two from 4K to 256M" },
  { "force_size", BLOCK_OPTION_BOOL, "on", "exactly the size asked for; off: rounded up to a CHS geometry" },
  { 0 },
};

const BlockOptionDef vhd_open_options[] = {
  { "force_size_calc", BLOCK_OPTION_STRING, "current_size",
    "which size to believe: current_size, or chs (some old Virtual PC images; read-only)" },
  { "ignore_saved_state", BLOCK_OPTION_BOOL, "off", "write to an image that belongs to a saved state" },
  { 0 },
};

#define MIN_CREATE_BLOCK_SIZE 4096
/* The BAT is filled in pieces of this many bytes. */
#define FILL_BYTES (1 << 20)

typedef struct
{
  BlockDriverState *file;
  VhdFooter footer;
  VhdHeader header;
  GArray *texts; /* of VhdLocatorText */
  int64_t bat_end;
  int64_t footer_offset;
} Layout;

/* The smallest geometry that holds @bytes: what Virtual PC would have made of it. */
static int64_t
round_up_to_chs (int64_t bytes)
{
  uint64_t sectors = div_round_up (bytes, VHD_SECTOR_SIZE);
  uint16_t cylinders;
  uint8_t heads, sectors_per_track;

  for (uint64_t s = sectors; s < sectors + 65536; s++)
    {
      vhd_geometry (s, &cylinders, &heads, &sectors_per_track);
      if (vhd_geometry_sectors (cylinders, heads, sectors_per_track) >= sectors)
        return vhd_geometry_sectors (cylinders, heads, sectors_per_track) * VHD_SECTOR_SIZE;
    }
  return bytes;
}

static void
fill_footer (VhdFooter *footer, int64_t bytes, uint32_t type)
{
  footer->features = VHD_FEATURE_RESERVED;
  footer->data_offset = type == VHD_TYPE_FIXED ? VHD_NO_OFFSET : VHD_FOOTER_SIZE;
  footer->time_stamp = identity_time_now () - VHD_EPOCH_OFFSET;
  /* COMPAT: qemu-img, before 10.0 and after, takes the current size of images by Windows and the CHS size of
   * those by a creator it does not know. */
  memcpy (footer->creator_application, "win ", 4);
  footer->creator_version = 0x000A0000;
  memcpy (footer->creator_host_os, "Wi2k", 4);
  footer->original_size = footer->current_size = bytes;
  vhd_geometry (bytes / VHD_SECTOR_SIZE, &footer->cylinders, &footer->heads, &footer->sectors_per_track);
  footer->disk_type = type;
  identity_new (footer->unique_id);
}

static bool coroutine_fn
write_bat (Layout *layout, GError **error)
{
  int64_t bytes = layout->bat_end - layout->header.table_offset;
  g_autofree uint8_t *fill = g_malloc (FILL_BYTES);

  memset (fill, 0xFF, FILL_BYTES);
  for (int64_t done = 0; done < bytes; done += FILL_BYTES)
    {
      int64_t at = layout->header.table_offset + done;
      int ret = bdrv_co_pwrite (layout->file, at, MIN (FILL_BYTES, bytes - done), fill, 0);

      if (ret < 0)
        {
          bdrv_set_error_errno (error, layout->file, ret, "cannot write the BAT at offset %" PRId64, at);
          return false;
        }
    }
  return true;
}

static bool coroutine_fn
write_layout (Layout *layout, GError **error)
{
  bool fixed = layout->footer.disk_type == VHD_TYPE_FIXED;
  VhdFooterDisk footer;
  VhdHeaderDisk header;
  int ret = 0;

  if (!fixed)
    {
      if (!write_bat (layout, error))
        return false;
      for (guint i = 0; i < layout->texts->len && ret == 0; i++)
        {
          const VhdLocatorText *text = &g_array_index (layout->texts, VhdLocatorText, i);

          ret = bdrv_co_pwrite (layout->file, text->file_offset, text->text->len, text->text->data, 0);
        }
      vhd_header_encode (&layout->header, &header);
      if (ret == 0)
        ret = bdrv_co_pwrite (layout->file, layout->footer.data_offset, sizeof header, &header, 0);
      if (ret == 0)
        ret = bdrv_co_flush (layout->file);
    }
  vhd_footer_encode (&layout->footer, &footer);
  if (ret == 0 && !fixed)
    ret = bdrv_co_pwrite (layout->file, 0, sizeof footer, &footer, 0);
  if (ret == 0)
    ret = bdrv_co_pwrite (layout->file, layout->footer_offset, sizeof footer, &footer, 0);
  if (ret == 0)
    ret = bdrv_co_flush (layout->file);
  if (ret < 0)
    bdrv_set_error_errno (error, layout->file, ret, "cannot write the image");
  return ret == 0;
}

static bool
plan_sparse (Layout *layout, const BlockCreateParams *params, GError **error)
{
  int64_t block_size = block_options_get_size (params->options, "block_size", VHD_DEFAULT_BLOCK_SIZE);
  int64_t end = VHD_FOOTER_SIZE + VHD_HEADER_SIZE;
  VhdHeader *header = &layout->header;

  if (!is_power_of_two (block_size) || block_size < MIN_CREATE_BLOCK_SIZE || block_size > VHD_MAX_BLOCK_SIZE)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "option block_size: %" PRId64 ", expected a power of two from %d to %d", block_size,
                      MIN_CREATE_BLOCK_SIZE, VHD_MAX_BLOCK_SIZE);
      return false;
    }
  header->block_size = block_size;
  header->max_table_entries = div_round_up (params->bytes, block_size);
  if (params->parent)
    {
      if (params->parent->drv->get_identity)
        params->parent->drv->get_identity (params->parent, header->parent_unique_id);
      end = vhd_make_locators (header, params->child_path, params->parent_path, NULL, end, layout->texts);
      if (end < 0)
        {
          bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                          "the path of the parent, %s, is too long or not UTF-8 and cannot be stored",
                          params->parent_path);
          return false;
        }
    }
  /* Aligned, and padded, to 4 KiB: table updates then never share a page with anything else. */
  header->table_offset = round_up (end, 4096);
  layout->bat_end = header->table_offset + round_up ((int64_t)header->max_table_entries * 4, 4096);
  layout->footer_offset = layout->bat_end;
  return true;
}

/* A device has its footer in its last sector. */
static bool
place_footer (Layout *layout, GError **error)
{
  int64_t last;

  if (!layout->file->fixed_length)
    return true;
  last = round_down (bdrv_length (layout->file), VHD_SECTOR_SIZE) - VHD_FOOTER_SIZE;
  if (last < layout->footer_offset)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_NO_SPACE,
                      "the device has %" PRId64 " bytes, the image needs at least %" PRId64,
                      bdrv_length (layout->file), layout->footer_offset + VHD_FOOTER_SIZE);
      return false;
    }
  layout->footer_offset = last;
  return true;
}

static bool coroutine_fn
create_image (Layout *layout, const BlockCreateParams *params, GError **error)
{
  const char *subformat = block_options_get_string (params->options, "subformat", "dynamic");
  int64_t bytes = params->bytes;
  uint32_t type = params->parent ? VHD_TYPE_DIFFERENCING : VHD_TYPE_DYNAMIC;

  if (strcmp (subformat, "fixed") == 0)
    type = VHD_TYPE_FIXED;
  else if (strcmp (subformat, "dynamic") != 0)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "option subformat: \"%s\", expected dynamic or fixed", subformat);
      return false;
    }
  if (type == VHD_TYPE_FIXED && params->parent)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "a fixed image cannot have a parent");
      return false;
    }
  if (params->parent && !vhd_check_parent (layout->file, params->parent, error))
    return false;
  bytes = round_up (MIN (bytes, INT64_MAX - VHD_SECTOR_SIZE), VHD_SECTOR_SIZE);
  if (!block_options_get_bool (params->options, "force_size", true) && bytes <= VHD_MAX_BYTES)
    bytes = round_up_to_chs (bytes);
  if (bytes <= 0 || bytes > VHD_MAX_BYTES)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "disk size %" PRId64 ", expected 512 to %" PRId64 " bytes (2040 GiB)", params->bytes,
                      VHD_MAX_BYTES);
      return false;
    }

  fill_footer (&layout->footer, bytes, type);
  layout->footer_offset = bytes;
  layout->footer.incomplete = params->incomplete && type == VHD_TYPE_FIXED;
  layout->header.incomplete = params->incomplete;
  if (type != VHD_TYPE_FIXED)
    {
      BlockCreateParams rounded = *params;

      rounded.bytes = bytes;
      if (!plan_sparse (layout, &rounded, error))
        return false;
    }
  return place_footer (layout, error)
         && bdrv_co_clear_file (layout->file, layout->footer_offset + VHD_FOOTER_SIZE, error)
         && write_layout (layout, error);
}

bool coroutine_fn
vhd_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error)
{
  Layout layout = { .file = file };
  bool ok;

  layout.texts = vhd_locator_texts_new ();
  ok = create_image (&layout, params, error);
  g_array_unref (layout.texts);
  return ok;
}

bool coroutine_fn
vhd_co_complete (BlockDriverState *bs, GError **error)
{
  VhdState *s = bs->opaque;
  bool *incomplete = vhd_is_fixed (s) ? &s->footer.incomplete : &s->header.incomplete;
  int ret;

  if (!*incomplete)
    return true;
  *incomplete = false;
  /* One sector, which cannot tear; the content is durable. */
  ret = vhd_is_fixed (s) ? vhd_co_write_footer (s, s->footer_offset)
                         : vhd_co_write_header_sector (s, &s->header);
  if (ret == 0)
    ret = bdrv_co_flush (bs->file);
  if (ret == 0)
    return true;
  *incomplete = true;
  bdrv_set_error_errno (error, bs, ret, "cannot take away the mark that it is being filled");
  return false;
}
