/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver's table, probing and opening. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

extern const BlockDriver vhdx_driver;

static int
vhdx_probe (const BlockProbe *probe)
{
  return probe->head_bytes >= 8 && memcmp (probe->head, VHDX_IDENTIFIER_SIGNATURE, 8) == 0 ? 100 : 0;
}

static void
state_clear (VhdxState *s)
{
  if (s->pages)
    bdrv_meta_cache_free (s->pages);
  vhdx_overlay_clear (&s->overlay);
  vhdx_metadata_clear (&s->metadata);
  g_clear_pointer (&s->regions, g_array_unref);
  g_clear_pointer (&s->creator, g_free);
}

static bool
set_sizes (VhdxState *s, GError **error)
{
  const VhdxMetadata *m = &s->metadata;

  s->sectors_per_block = m->block_size / m->logical_sector_size;
  s->chunk_ratio = vhdx_chunk_ratio (m);
  s->payload_blocks = vhdx_payload_blocks (m);
  s->bat_entries = vhdx_bat_entries (m);
  if ((uint64_t)s->bat_region.bytes / 8 >= s->bat_entries)
    return true;
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                  "BAT at offset %" PRId64 " too small: %" PRId64 " bytes for %" PRIu64 " entries",
                  s->bat_region.file_offset, s->bat_region.bytes, s->bat_entries);
  return false;
}

static bool coroutine_fn
vhdx_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  VhdxState *s = bs->opaque;

  s->bs = bs;
  if (!bs->read_only)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "VHDX images are opened read-only in this version");
      return false;
    }
  s->pages = bdrv_meta_cache_new (bs->file, VHDX_PAGE, VHDX_CACHE_BYTES);
  if (!vhdx_co_read_headers (s, error) || !vhdx_co_replay_in_memory (s, error)
      || !vhdx_co_read_regions (s, error) || !vhdx_co_read_metadata (s, error) || !set_sizes (s, error))
    {
      state_clear (s);
      return false;
    }
  bs->bytes = s->metadata.bytes;
  bs->limits.request_alignment = s->metadata.logical_sector_size;
  return true;
}

static int coroutine_fn
vhdx_co_close (BlockDriverState *bs)
{
  state_clear (bs->opaque);
  return 0;
}

const BlockDriver vhdx_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "vhdx",
  .long_name = "Microsoft Virtual Hard Disk v2 (VHDX), read-only",
  .instance_size = sizeof (VhdxState),
  .caps = BLOCK_CAP_BACKING | BLOCK_CAP_ZERO_INIT,
  .create_options = vhdx_create_options,
  .probe = vhdx_probe,
  .co_create = vhdx_co_create,
  .co_open = vhdx_co_open,
  .co_close = vhdx_co_close,
  .co_preadv = vhdx_co_preadv,
  .co_block_status = vhdx_co_block_status,
  .get_parent_link = vhdx_get_parent_link,
  .get_identity = vhdx_get_identity,
  .get_specific_info = vhdx_get_specific_info,
};
