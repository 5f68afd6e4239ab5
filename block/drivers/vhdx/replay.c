/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay of the log onto the file ([MS-VHDX] 2.3.3), at the first writable open.
 *
 * The overlay holds what the file is to become: zero ranges and pages over them.
 *
 *   R1  headers with a new FileWriteGuid, the same LogGuid     crash: replayed again
 *   R2  the file as long as the log says, zeros, then pages    crash: replayed again, to the same bytes
 *   R3  flush
 *   R4  headers without a LogGuid                              crash: one copy has it and one has not; the
 *                                                              newer counts, and replaying again is harmless
 */
#include <inttypes.h>

#include "vhdx.h"

static int coroutine_fn
write_zeros (VhdxState *s)
{
  for (guint i = 0; i < s->overlay.zeros->len; i++)
    {
      const VhdxZeroRange *range = &g_array_index (s->overlay.zeros, VhdxZeroRange, i);
      int ret = bdrv_co_pwrite_zeroes (s->bs->file, range->file_offset, range->end - range->file_offset, 0);

      if (ret < 0)
        return ret;
    }
  return 0;
}

static int coroutine_fn
write_pages (VhdxState *s)
{
  g_autoptr (GArray) writes = vhdx_overlay_writes (&s->overlay);

  return writes->len == 0 ? 0 : bdrv_co_write_batch (s->bs->file, (BdrvWrite *)writes->data, writes->len);
}

static int coroutine_fn
replay (VhdxState *s, GError **error)
{
  VhdxHeader header = s->header;
  int ret;

  header.file_write_guid = vhdx_guid_new ();
  ret = vhdx_co_update_headers (s, &header);
  if (ret < 0)
    return ret;
  if (s->file_bytes > bdrv_length (s->bs->file) && !bdrv_co_truncate (s->bs->file, s->file_bytes, error))
    return -EIO;
  ret = write_zeros (s);
  if (ret == 0)
    ret = write_pages (s);
  /* Between what the log held and the header that lets go of it. */
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret < 0)
    return ret;
  header = s->header;
  header.log_guid = (VhdxGuid){ 0 };
  return vhdx_co_update_headers (s, &header);
}

bool coroutine_fn
vhdx_co_replay_onto_file (VhdxState *s, GError **error)
{
  int ret;

  if (!s->overlay.pages)
    return true;
  ret = replay (s, error);
  if (ret < 0)
    {
      if (error && *error)
        g_prefix_error (error, "replaying the log: ");
      else
        bdrv_set_error_errno (error, s->bs, ret, "cannot replay the log at offset %" PRIu64,
                              s->header.log_offset);
      return false;
    }
  s->session = VHDX_SESSION_FILE;
  /* A slow read may have had the bytes from before, and still lays the overlay over them. */
  epochs_co_wait (&s->epochs);
  vhdx_overlay_clear (&s->overlay);
  bdrv_meta_cache_invalidate (s->pages, 0, s->file_bytes);
  return true;
}
