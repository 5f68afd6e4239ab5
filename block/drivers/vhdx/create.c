/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image.
 *
 *   0        1 MiB              + log                   + metadata         + BAT, whole MiB
 *   | header section | log, zeros | metadata region, 1 MiB | BAT region       | payload, fixed images only |
 *
 * A file is emptied first, and what is not written here stays a hole: the BAT of a dynamic or differencing image, the
 * payload of a fixed one.  A device is not empty, so there all of these are zeroed.
 *
 * The headers come last.  What a crash leaves:
 *   while the file is emptied       the old file, or an empty one; on a device, no valid header and with it no image
 *   before the flush                no header, so whoever opens it refuses: anything may be there, but no image
 *   while the headers are written   one of them, or both: the image, everything it names is on disk
 *
 * An image that is to be filled before it is anybody's has a marker in its metadata ("incomplete file", an item that
 * readers must know) until its content is durable: vhdx_co_complete () takes it away, in one transaction of the log.
 */
#include <inttypes.h>
#include <string.h>

#include <vhdkit/version.h>

#include "vhdx.h"

#define DEFAULT_BLOCK_SIZE          (32 * VHDX_MIB)
#define DEFAULT_BLOCK_SIZE_OF_CHILD (2 * VHDX_MIB)
#define DEFAULT_SECTOR_SIZE         512
#define DEFAULT_PHYSICAL_SECTOR     4096
#define FILL_BYTES                  (1 << 20)
/* Items of metadata may grow by this before the region must. */
#define SPARE_METADATA_BYTES (256 * VHDX_KIB)
/* Formats are told by what stands there, at the end of a device too. */
#define TAIL_BYTES 4096

const BlockOptionDef vhdx_create_options[] = {
  { "subformat", BLOCK_OPTION_STRING, "dynamic", "dynamic (also with a parent) or fixed" },
  { "block_size", BLOCK_OPTION_SIZE, NULL,
    "bytes of a block, a power of two from 1M to 256M; 32M when not given, 2M with a parent" },
  { "log_size", BLOCK_OPTION_SIZE, "1M", "bytes of the log, whole MiB, up to 1G" },
  { "logical_sector_size", BLOCK_OPTION_SIZE, NULL,
    "512 or 4096; when not given, 512 or as the parent has it" },
  { "physical_sector_size", BLOCK_OPTION_SIZE, NULL,
    "512 or 4096; when not given, 4096 or as the parent has it" },
  { 0 },
};

typedef struct
{
  BlockDriverState *file;
  VhdxHeader header;
  VhdxMetadata metadata;
  GArray *items;               /* of VhdxItem */
  GByteArray *metadata_region; /* its bytes, the rest is zero */
  VhdxRegion regions[2];       /* BAT and metadata */
  int64_t data_offset;         /* of the first block of a fixed image */
  int64_t file_bytes;
} Layout;

static const VhdxRegion *
bat_region (const Layout *layout)
{
  return &layout->regions[0];
}

static const VhdxRegion *
metadata_region (const Layout *layout)
{
  return &layout->regions[1];
}

static bool
is_fixed (const Layout *layout)
{
  return layout->metadata.leave_allocated;
}

/* --- what was asked for --------------------------------------------------------------------------------- */

static bool
invalid_option (Layout *layout, GError **error, const char *name, int64_t value, const char *expected)
{
  bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT, "option %s: %" PRId64 ", expected %s",
                  name, value, expected);
  return false;
}

static bool
take_subformat (Layout *layout, const BlockCreateParams *params, GError **error)
{
  const char *subformat = block_options_get_string (params->options, "subformat", "dynamic");

  layout->metadata.has_parent = params->parent != NULL;
  layout->metadata.leave_allocated = strcmp (subformat, "fixed") == 0;
  if (!is_fixed (layout) && strcmp (subformat, "dynamic") != 0)
    bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                    "option subformat: \"%s\", expected dynamic or fixed", subformat);
  else if (is_fixed (layout) && params->parent)
    bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT, "a fixed image cannot have a parent");
  else
    return true;
  return false;
}

static bool
take_block_size (Layout *layout, const BlockCreateParams *params, GError **error)
{
  int64_t size = block_options_get_size (params->options, "block_size",
                                         params->parent ? DEFAULT_BLOCK_SIZE_OF_CHILD : DEFAULT_BLOCK_SIZE);

  if (!is_power_of_two (size) || size < VHDX_MIN_BLOCK_SIZE || size > VHDX_MAX_BLOCK_SIZE)
    return invalid_option (layout, error, "block_size", size, "a power of two from 1 to 256 MiB");
  layout->metadata.block_size = size;
  return true;
}

static bool
take_log_size (Layout *layout, const BlockCreateParams *params, GError **error)
{
  int64_t size = block_options_get_size (params->options, "log_size", VHDX_MIB);

  if (size < VHDX_MIB || size > VHDX_MAX_LOG_BYTES || size % VHDX_MIB != 0)
    return invalid_option (layout, error, "log_size", size, "whole MiB from 1 to 1024 MiB");
  layout->header.log_offset = VHDX_HEADER_SECTION;
  layout->header.log_length = size;
  return true;
}

static bool
take_sector_sizes (Layout *layout, const BlockCreateParams *params, const VhdxMetadata *parent,
                   GError **error)
{
  int64_t logical = block_options_get_size (params->options, "logical_sector_size",
                                            parent ? parent->logical_sector_size : DEFAULT_SECTOR_SIZE);
  int64_t physical = block_options_get_size (params->options, "physical_sector_size",
                                             parent ? parent->physical_sector_size : DEFAULT_PHYSICAL_SECTOR);

  if (logical != 512 && logical != 4096)
    return invalid_option (layout, error, "logical_sector_size", logical, "512 or 4096");
  if (physical != 512 && physical != 4096)
    return invalid_option (layout, error, "physical_sector_size", physical, "512 or 4096");
  if (parent && logical != parent->logical_sector_size)
    return invalid_option (layout, error, "logical_sector_size", logical,
                           logical == 512 ? "4096, as the parent has it" : "512, as the parent has it");
  layout->metadata.logical_sector_size = logical;
  layout->metadata.physical_sector_size = physical;
  return true;
}

static bool
take_size (Layout *layout, const BlockCreateParams *params, GError **error)
{
  int64_t bytes = MIN (params->bytes, 2 * VHDX_MAX_DISK_BYTES);

  bytes = round_up (bytes, layout->metadata.logical_sector_size);
  if (bytes <= 0 || bytes > VHDX_MAX_DISK_BYTES)
    {
      bdrv_set_error (error, layout->file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "disk size %" PRId64 ", expected 1 to %" PRId64 " bytes (64 TiB)", params->bytes,
                      VHDX_MAX_DISK_BYTES);
      return false;
    }
  layout->metadata.bytes = bytes;
  return true;
}

static bool
take_options (Layout *layout, const BlockCreateParams *params, const VhdxMetadata *parent, GError **error)
{
  return take_subformat (layout, params, error) && take_block_size (layout, params, error)
         && take_log_size (layout, params, error) && take_sector_sizes (layout, params, parent, error)
         && take_size (layout, params, error);
}

/* --- metadata ------------------------------------------------------------------------------------------- */

static void
add_item (Layout *layout, const VhdxGuid *id, uint32_t flags, const void *content, size_t bytes)
{
  VhdxItem item = { *id, flags, g_byte_array_new () };

  g_byte_array_append (item.content, content, bytes);
  g_array_append_val (layout->items, item);
}

static void
add_known_items (Layout *layout)
{
  const uint32_t of_file = VHDX_METADATA_REQUIRED;
  const uint32_t of_disk = VHDX_METADATA_REQUIRED | VHDX_METADATA_VIRTUAL_DISK;
  const VhdxMetadata *m = &layout->metadata;
  Le32 parameters[2] = { le32 (m->block_size), le32 ((m->leave_allocated ? VHDX_PARAMETER_LEAVE_ALLOCATED : 0)
                                                     | (m->has_parent ? VHDX_PARAMETER_HAS_PARENT : 0)) };
  Le64 bytes = le64 (m->bytes);
  Le32 logical = le32 (m->logical_sector_size), physical = le32 (m->physical_sector_size);

  add_item (layout, &vhdx_guid_parameters, of_file, parameters, sizeof parameters);
  add_item (layout, &vhdx_guid_disk_size, of_disk, &bytes, sizeof bytes);
  add_item (layout, &vhdx_guid_disk_id, of_disk, &m->disk_id, sizeof m->disk_id);
  add_item (layout, &vhdx_guid_logical_sector, of_disk, &logical, sizeof logical);
  add_item (layout, &vhdx_guid_physical_sector, of_disk, &physical, sizeof physical);
}

/* What a child takes over from its parent, and how it finds it again. */
static bool coroutine_fn
add_items_of_child (Layout *layout, const BlockCreateParams *params, GError **error)
{
  const BlockParentChange link = { params->parent, params->child_path, params->parent_path, NULL };
  g_autoptr (GArray) entries = NULL;
  g_autoptr (GByteArray) locator = vhdx_locator_make (layout->file, &link, &entries, error);

  if (!locator || !vhdx_co_read_other_disk_items (params->parent->opaque, layout->items, error))
    return false;
  add_item (layout, &vhdx_guid_locator, VHDX_METADATA_REQUIRED, locator->data, locator->len);
  return true;
}

static bool coroutine_fn
add_items (Layout *layout, const BlockCreateParams *params, GError **error)
{
  add_known_items (layout);
  if (params->parent && !add_items_of_child (layout, params, error))
    return false;
  if (params->incomplete)
    add_item (layout, &vhdx_guid_incomplete, VHDX_METADATA_REQUIRED, NULL, 0);
  if (!params->parent || layout->items->len <= VHDX_MAX_METADATA_ENTRIES)
    return true;
  bdrv_set_error (error, layout->file, VHDKIT_ERROR_UNSUPPORTED, "the parent %s has too many metadata items",
                  params->parent->filename);
  return false;
}

static void
encode_creator (VhdxIdentifierDisk *disk)
{
  static const char creator[] = "vhdkit " VHDKIT_VERSION;

  memset (disk, 0, sizeof *disk);
  memcpy (disk->signature, VHDX_IDENTIFIER_SIGNATURE, sizeof disk->signature);
  for (size_t i = 0; creator[i]; i++)
    disk->creator[i] = le16 (creator[i]);
}

/* --- layout --------------------------------------------------------------------------------------------- */

static void
place_regions (Layout *layout)
{
  const VhdxMetadata *m = &layout->metadata;
  int64_t at = layout->header.log_offset + layout->header.log_length;
  int64_t metadata_bytes = round_up (layout->metadata_region->len + SPARE_METADATA_BYTES, VHDX_MIB);
  int64_t bat_bytes = round_up (vhdx_bat_entries (m) * 8, VHDX_MIB);

  layout->regions[1] = (VhdxRegion){ vhdx_guid_metadata, at, metadata_bytes, true };
  at += metadata_bytes;
  layout->regions[0] = (VhdxRegion){ vhdx_guid_bat, at, bat_bytes, true };
  at += bat_bytes;
  layout->data_offset = layout->file_bytes = at;
  if (is_fixed (layout))
    layout->file_bytes += vhdx_payload_blocks (m) * m->block_size;
}

static void
fill_header (Layout *layout)
{
  layout->header.version = VHDX_VERSION;
  layout->header.log_version = VHDX_LOG_VERSION;
  layout->header.file_write_guid = vhdx_guid_new ();
  layout->header.data_write_guid = vhdx_guid_new ();
}

/* --- writing -------------------------------------------------------------------------------------------- */

/* A device holds what it held before. */
static int coroutine_fn
zero_device (Layout *layout)
{
  int64_t device_bytes = bdrv_length (layout->file);
  int64_t tail = MAX (layout->file_bytes, round_down (device_bytes - TAIL_BYTES, TAIL_BYTES));
  int ret = bdrv_co_pwrite_zeroes (layout->file, 0, VHDX_HEADER_SECTION, 0);

  /* The end of an image of another format that was there, a VHD's footer. */
  if (ret == 0 && tail < device_bytes)
    ret = bdrv_co_pwrite_zeroes (layout->file, tail, device_bytes - tail, 0);
  if (ret == 0)
    ret = bdrv_co_flush (layout->file);
  if (ret == 0)
    ret = bdrv_co_pwrite_zeroes (layout->file, VHDX_HEADER_SECTION, layout->file_bytes - VHDX_HEADER_SECTION,
                                 BDRV_REQ_MAY_UNMAP);
  return ret;
}

/* All blocks present, one after the other; the entries of sector bitmaps stay zero. */
static int coroutine_fn
write_bat_of_fixed (Layout *layout)
{
  uint64_t entries = vhdx_bat_entries (&layout->metadata);
  uint64_t group = vhdx_chunk_ratio (&layout->metadata) + 1;
  g_autofree Le64 *fill = g_new (Le64, FILL_BYTES / 8);
  int ret = 0;

  for (uint64_t index = 0; index < entries && ret == 0; index += FILL_BYTES / 8)
    {
      uint64_t n = MIN (FILL_BYTES / 8, entries - index);

      for (uint64_t i = 0; i < n; i++)
        {
          uint64_t block = (index + i) - (index + i) / group;
          uint64_t file_offset = layout->data_offset + block * layout->metadata.block_size;

          fill[i] = le64 ((index + i) % group == group - 1 ? 0 : file_offset | VHDX_BLOCK_FULLY_PRESENT);
        }
      ret = bdrv_co_pwrite (layout->file, bat_region (layout)->file_offset + index * 8, n * 8, fill, 0);
    }
  return ret;
}

static int coroutine_fn
write_tables (Layout *layout)
{
  g_autofree uint8_t *table = g_malloc (VHDX_REGION_TABLE_SIZE);
  BlockDriverState *file = layout->file;
  VhdxIdentifierDisk identifier;
  int ret;

  encode_creator (&identifier);
  vhdx_region_table_encode (layout->regions, G_N_ELEMENTS (layout->regions), table);
  ret = bdrv_co_pwrite (file, 0, sizeof identifier, &identifier, 0);
  if (ret == 0)
    ret = bdrv_co_pwrite (file, VHDX_REGION_OFFSET_1, VHDX_REGION_TABLE_SIZE, table, 0);
  if (ret == 0)
    ret = bdrv_co_pwrite (file, VHDX_REGION_OFFSET_2, VHDX_REGION_TABLE_SIZE, table, 0);
  if (ret == 0)
    ret = bdrv_co_pwrite (file, metadata_region (layout)->file_offset, layout->metadata_region->len,
                          layout->metadata_region->data, 0);
  if (ret == 0 && is_fixed (layout))
    ret = write_bat_of_fixed (layout);
  /* Space of its own: without a log nothing can be changed, not even to give space back on a full disk. */
  if (ret == 0)
    ret = bdrv_co_pwrite_zeroes (file, layout->header.log_offset, layout->header.log_length, 0);
  return ret;
}

static int coroutine_fn
write_headers (Layout *layout)
{
  static const int64_t offsets[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };
  int ret = 0;

  for (size_t i = 0; i < G_N_ELEMENTS (offsets) && ret == 0; i++)
    {
      VhdxHeaderDisk disk;

      layout->header.sequence_number = i + 1;
      vhdx_header_encode (&layout->header, &disk);
      ret = bdrv_co_pwrite (layout->file, offsets[i], sizeof disk, &disk, 0);
    }
  return ret;
}

static bool coroutine_fn
write_layout (Layout *layout, GError **error)
{
  int ret = layout->file->fixed_length ? zero_device (layout) : 0;

  if (ret == 0)
    ret = write_tables (layout);
  /* All that the headers make part of an image, before them. */
  if (ret == 0)
    ret = bdrv_co_flush (layout->file);
  if (ret == 0)
    ret = write_headers (layout);
  if (ret == 0)
    ret = bdrv_co_flush (layout->file);
  if (ret < 0)
    bdrv_set_error_errno (error, layout->file, ret, "cannot write the image");
  return ret == 0;
}

/* --- all of it ------------------------------------------------------------------------------------------ */

static bool coroutine_fn
create_image (Layout *layout, const BlockCreateParams *params, GError **error)
{
  const VhdxMetadata *parent = NULL;

  if (params->parent)
    {
      if (!bdrv_check_parent_format (layout->file, params->parent, vhdx_parent_formats, error))
        return false;
      parent = &((const VhdxState *)params->parent->opaque)->metadata;
    }
  if (!take_options (layout, params, parent, error))
    return false;
  layout->metadata.disk_id = parent ? parent->disk_id : vhdx_guid_new ();
  if (!add_items (layout, params, error))
    return false;
  layout->metadata_region = vhdx_metadata_encode (layout->items);
  place_regions (layout);
  fill_header (layout);
  return bdrv_co_clear_file (layout->file, layout->file_bytes, error) && write_layout (layout, error);
}

bool coroutine_fn
vhdx_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error)
{
  Layout layout = { .file = file };
  bool ok;

  layout.items = vhdx_items_new ();
  ok = create_image (&layout, params, error);
  g_array_unref (layout.items);
  g_clear_pointer (&layout.metadata_region, g_byte_array_unref);
  return ok;
}

bool coroutine_fn
vhdx_co_complete (BlockDriverState *bs, GError **error)
{
  VhdxState *s = bs->opaque;

  if (!s->incomplete)
    return true;
  if (!vhdx_co_remove_item (s, &vhdx_guid_incomplete, error))
    return false;
  s->incomplete = false;
  return true;
}
