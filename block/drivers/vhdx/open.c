/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening, becoming writable, closing. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

/* --- life -------------------------------------------------------------------------------------------------- */

static void
state_init (VhdxState *s, BlockDriverState *bs)
{
  s->bs = bs;
  s->pages = bdrv_meta_cache_new (bs->file, VHDX_PAGE, VHDX_CACHE_BYTES);
  co_mutex_init (&s->publish_lock);
  co_mutex_init (&s->alloc_lock);
  co_mutex_init (&s->session_lock);
  epochs_init (&s->epochs);
  co_queue_init (&s->moving_done);
}

/* What was read of the image. */
static void
structures_clear (VhdxState *s)
{
  g_clear_pointer (&s->pages, bdrv_meta_cache_free);
  vhdx_overlay_clear (&s->overlay);
  vhdx_metadata_clear (&s->metadata);
  memset (&s->metadata, 0, sizeof s->metadata);
  g_clear_pointer (&s->regions, g_array_unref);
  g_clear_pointer (&s->creator, g_free);
}

static void
state_clear (VhdxState *s)
{
  /* What a failed node could not write. */
  if (s->held)
    {
      GHashTableIter iter;
      VhdxHeldPage *page;

      g_hash_table_iter_init (&iter, s->held);
      while (g_hash_table_iter_next (&iter, NULL, (void **)&page))
        {
          bdrv_free_buffer (page->data);
          g_free (page);
        }
    }
  g_clear_pointer (&s->held, g_hash_table_unref);
  g_clear_pointer (&s->filling, g_hash_table_unref);
  g_clear_pointer (&s->dropped, g_array_unref);
  g_clear_pointer (&s->freed, g_array_unref);
  g_clear_pointer (&s->space, vhdx_space_free);
  g_clear_pointer (&s->log_buffer, bdrv_free_buffer);
  structures_clear (s);
  g_clear_pointer (&s->damage, g_free);
  co_queue_clear (&s->moving_done);
  epochs_clear (&s->epochs);
  co_mutex_clear (&s->session_lock);
  co_mutex_clear (&s->alloc_lock);
  co_mutex_clear (&s->publish_lock);
}

bool
vhdx_refresh_sizes (VhdxState *s, GError **error)
{
  const VhdxMetadata *m = &s->metadata;

  s->sectors_per_block = m->block_size / m->logical_sector_size;
  s->chunk_ratio = vhdx_chunk_ratio (m);
  s->payload_blocks = vhdx_payload_blocks (m);
  s->bat_entries = vhdx_bat_entries (m);
  if ((uint64_t)s->bat_region.bytes / 8 < s->bat_entries)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "BAT at offset %" PRId64 " too small: %" PRId64 " bytes for %" PRIu64 " entries",
                      s->bat_region.file_offset, s->bat_region.bytes, s->bat_entries);
      return false;
    }
  s->bs->bytes = m->bytes;
  return true;
}

const BlockOptionDef vhdx_open_options[] = {
  { "clear_log", BLOCK_OPTION_BOOL, "off",
    "write to an image whose header names a log of which there is no entry: the log is taken for empty" },
  { 0 },
};

/* A log that was named before its first entry was written, by a writer that crashed then, is no reason not to look at
 * the rest.  @lenient: to check the image, or because the user says so. */
static bool coroutine_fn
replay_in_memory (VhdxState *s, bool lenient, GError **error)
{
  g_autoptr (GError) failure = NULL;

  if (vhdx_co_replay_in_memory (s, &failure))
    return true;
  s->log_without_entry = lenient && g_error_matches (failure, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT)
                         && vhdx_co_log_is_empty (s) > 0;
  if (!s->log_without_entry)
    g_propagate_error (error, g_steal_pointer (&failure));
  return s->log_without_entry;
}

static bool coroutine_fn
read_structures (VhdxState *s, bool lenient, GError **error)
{
  return vhdx_co_read_headers (s, error) && replay_in_memory (s, lenient, error)
         && vhdx_co_read_regions (s, error) && vhdx_co_read_metadata (s, error)
         && vhdx_refresh_sizes (s, error)
         && (!(s->bs->open_flags & (BDRV_O_CHECK | BDRV_O_EXAMINE))
             || vhdx_co_compare_region_tables (s, error));
}

bool coroutine_fn
vhdx_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  VhdxState *s = bs->opaque;
  bool check = bs->open_flags & BDRV_O_CHECK && bs->read_only;
  bool clear_log = block_options_get_bool (options, "clear_log", false);
  g_autoptr (GError) failure = NULL;

  state_init (s, bs);
  if (!read_structures (s, check || clear_log, &failure))
    {
      /* Without content: what is wrong is told by the check. */
      if (check && vhdx_check_takes (s, failure))
        {
          structures_clear (s);
          return true;
        }
      g_propagate_error (error, g_steal_pointer (&failure));
      state_clear (s);
      return false;
    }
  bs->limits.request_alignment = s->metadata.logical_sector_size;
  bs->limits.zeroes_alignment = s->metadata.logical_sector_size;
  bs->limits.discard_alignment = s->metadata.block_size;
  if (bs->read_only && bs->open_flags & BDRV_O_EXAMINE)
    vhdx_co_examine_bat (s);
  if (!bs->read_only && !vhdx_co_reopen_rw (bs, error))
    {
      state_clear (s);
      return false;
    }
  return true;
}

/* --- becoming writable ------------------------------------------------------------------------------------- */

static bool
check_can_write (VhdxState *s, GError **error)
{
  /* One open needs a handful of numbers; that many are not used up by chance. */
  if (s->header.sequence_number > UINT64_MAX - (UINT64_C (1) << 32))
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                    "header: sequence number %" PRIu64 " is at its end, the image cannot be written",
                    s->header.sequence_number);
  else if (s->header.log_length == 0)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED, "header: no log, the image cannot be written");
  else
    return true;
  return false;
}

/* The user has said that there was nothing in it. */
static bool coroutine_fn
clear_empty_log (VhdxState *s, GError **error)
{
  VhdxHeader header = s->header;
  int ret;

  if (!s->log_without_entry)
    return true;
  header.file_write_guid = vhdx_guid_new ();
  header.log_guid = (VhdxGuid){ 0 };
  ret = vhdx_co_update_headers (s, &header);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot write the headers");
      return false;
    }
  s->session = VHDX_SESSION_FILE;
  s->log_without_entry = false;
  return true;
}

/* The tables that differ, or of which one is damaged, get the content of the one that counts. */
static bool coroutine_fn
repair_region_tables (VhdxState *s, GError **error)
{
  static const int64_t offsets[] = { VHDX_REGION_OFFSET_1, VHDX_REGION_OFFSET_2 };
  g_autofree uint8_t *table = NULL;
  int ret;

  if (!vhdx_co_compare_region_tables (s, error))
    return false;
  if (!s->region_tables_differ)
    return true;
  table = g_malloc (VHDX_REGION_TABLE_SIZE);
  ret = vhdx_co_read (s, s->region_table_offset, VHDX_REGION_TABLE_SIZE, table);
  for (size_t i = 0; i < G_N_ELEMENTS (offsets) && ret == 0; i++)
    if (offsets[i] != s->region_table_offset)
      ret = vhdx_co_log_metadata (s, offsets[i], table, VHDX_REGION_TABLE_SIZE);
  if (ret == 0)
    ret = vhdx_co_publish (s);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot repair the region tables");
      return false;
    }
  s->region_tables_differ = false;
  return true;
}

/* The length the file has when nothing unused is at its end. */
static int64_t
needed_length (const VhdxState *s)
{
  int64_t blocks = 0;

  /* Blocks of a fixed image that were lost must have their room, [MS-VHDX] 2.5.1.1. */
  if (vhdx_is_fixed (s))
    blocks = (int64_t)s->payload_blocks * s->metadata.block_size;
  return MAX (s->data_end, MIN (blocks, bdrv_length (s->bs->file)));
}

int coroutine_fn
vhdx_co_cut (VhdxState *s)
{
  int64_t length = needed_length (s);
  g_autoptr (GError) error = NULL;
  int ret;

  if (!s->can_grow || bdrv_length (s->bs->file) == length)
    return 0;
  /* Until the old end is gone, new blocks must not rely on zeros behind it. */
  s->grown_is_zero = false;
  ret = vhdx_co_begin_changes (s, VHDX_SESSION_FILE);
  if (ret == 0)
    ret = vhdx_co_end_log (s);
  if (ret < 0)
    return ret;
  /* The next log must not ask for what goes now (I5). */
  s->flushed_bytes = MIN (s->flushed_bytes, length);
  if (!bdrv_co_truncate (s->bs->file, length, &error))
    return bdrv_errno_from_error (error);
  s->file_bytes = bdrv_length (s->bs->file);
  ret = bdrv_co_flush (s->bs->file);
  /* The room of lost blocks of a fixed image was not cut, and holds what it held. */
  if (ret == 0)
    s->grown_is_zero = length == s->data_end;
  return ret;
}

static bool coroutine_fn
prepare_space (VhdxState *s, GError **error)
{
  int ret;

  if (!vhdx_co_collect_space (s, &s->space, error))
    return false;
  s->data_end = vhdx_space_end (s->space);
  s->hole_bytes = INT64_MAX;
  s->hole_hint = 0;
  s->grown_is_zero = s->can_grow && s->data_end == bdrv_length (s->bs->file);
  /* What lies behind the last block is left from an interrupted run; and the last block of another writer may
   * be cut short: new blocks rely on zeros in a file of whole MiB. */
  ret = vhdx_co_cut (s);
  if (ret < 0)
    bdrv_set_error_errno (error, s->bs, ret, "cannot make the file end at offset %" PRId64,
                          needed_length (s));
  return ret == 0;
}

bool coroutine_fn
vhdx_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  VhdxState *s = bs->opaque;
  size_t longest;

  if (!check_can_write (s, error))
    return false;
  s->can_grow = !bs->file->fixed_length;
  s->clone_in_file = true;
  if (!s->held)
    {
      s->held = g_hash_table_new (g_int64_hash, g_int64_equal);
      s->filling = g_hash_table_new (NULL, NULL);
      s->dropped = g_array_new (false, false, sizeof (VhdxFreed));
      s->freed = g_array_new (false, false, sizeof (VhdxFreed));
    }
  longest = vhdx_log_entry_bytes (vhdx_log_capacity (s));
  if (!s->log_buffer)
    s->log_buffer = bdrv_try_alloc_buffer (bs->file, longest);
  if (!s->log_buffer)
    {
      bdrv_set_error_errno (error, bs, -ENOMEM, "no memory for log entries of %zu bytes", longest);
      return false;
    }
  s->next_data_write_guid = vhdx_guid_new ();
  s->log_sequence = g_random_int ();
  if (!vhdx_co_replay_onto_file (s, error) || !clear_empty_log (s, error))
    return false;
  s->file_bytes = bdrv_length (bs->file);
  g_clear_pointer (&s->space, vhdx_space_free);
  if (!prepare_space (s, error) || !repair_region_tables (s, error))
    return false;
  s->writable = true;
  return true;
}

/* --- closing ----------------------------------------------------------------------------------------------- */

int coroutine_fn
vhdx_co_close (BlockDriverState *bs)
{
  VhdxState *s = bs->opaque;
  int ret = 0;

  if (s->writable && !bdrv_is_poisoned (bs))
    {
      ret = vhdx_co_end_log (s);
      if (ret == 0 && s->session != VHDX_SESSION_NONE)
        {
          /* The blocks that were dropped may have been the last ones. */
          vhdx_release_all_freed (s);
          s->data_end = vhdx_space_end (s->space);
          ret = vhdx_co_cut (s);
        }
    }
  state_clear (s);
  return ret;
}
