/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an open that changes something does to the headers ([MS-VHDX] 2.2.2): W7 and W8 of vhdx.h. */
#include <string.h>

#include "vhdx.h"

static const int64_t slots[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };

int coroutine_fn
vhdx_co_update_headers (VhdxState *s, const VhdxHeader *header)
{
  /* The copy that does not count, then the other one: whichever a crash damages, the other is whole. */
  for (int i = 0; i < 2; i++)
    {
      int slot = 1 - s->header_slot;
      VhdxHeader next = *header;
      VhdxHeaderDisk disk;
      int ret;

      next.sequence_number = s->header.sequence_number + 1;
      vhdx_header_encode (&next, &disk);
      ret = bdrv_co_pwrite (s->bs->file, slots[slot], sizeof disk, &disk, 0);
      /* Between this copy and the other one, and what the new header allows. */
      if (ret == 0)
        ret = bdrv_co_flush (s->bs->file);
      if (ret < 0)
        {
          bdrv_poison (s->bs);
          return ret;
        }
      s->header = next;
      s->header_slot = slot;
    }
  s->header_damaged = false;
  return 0;
}

int coroutine_fn
vhdx_co_begin_changes_slow (VhdxState *s, VhdxSession wanted)
{
  VhdxHeader header;
  int ret = 0;

  co_mutex_lock (&s->session_lock);
  if (s->session < wanted)
    {
      header = s->header;
      if (s->session == VHDX_SESSION_NONE)
        header.file_write_guid = vhdx_guid_new ();
      if (wanted == VHDX_SESSION_DATA)
        header.data_write_guid = s->next_data_write_guid;
      ret = vhdx_co_update_headers (s, &header);
      if (ret == 0)
        s->session = wanted;
    }
  co_mutex_unlock (&s->session_lock);
  return ret;
}

bool
vhdx_get_next_identity (BlockDriverState *bs, uint8_t *identity)
{
  VhdxState *s = bs->opaque;

  memcpy (identity, &s->next_data_write_guid, sizeof s->next_data_write_guid);
  return s->writable;
}

int coroutine_fn
vhdx_co_take_next_identity (BlockDriverState *bs)
{
  return vhdx_co_begin_changes (bs->opaque, VHDX_SESSION_DATA);
}

int coroutine_fn
vhdx_co_take_identity (BlockDriverState *bs, const uint8_t *identity)
{
  VhdxState *s = bs->opaque;
  VhdxHeader header;
  int ret;

  /* No change is on its way that the new GUID would not speak of. */
  vhdx_co_hold_writers (s);
  /* All that it says the image shows, before it. */
  ret = vhdx_co_publish (s);
  co_mutex_lock (&s->session_lock);
  if (ret == 0)
    {
      header = s->header;
      if (s->session == VHDX_SESSION_NONE)
        header.file_write_guid = vhdx_guid_new ();
      memcpy (&header.data_write_guid, identity, sizeof header.data_write_guid);
      ret = vhdx_co_update_headers (s, &header);
    }
  if (ret == 0)
    {
      /* The content, with all that this open has changed, is now that of another image, and children know it by this
       * GUID.  So this open counts as one that has changed no content yet: flushing, moving blocks and closing keep the
       * GUID, and the next change that a guest could see gives the image a new one, which nobody has seen before: the
       * one that was to come may have been this image's, with other content. */
      s->session = VHDX_SESSION_FILE;
      s->next_data_write_guid = vhdx_guid_new ();
    }
  co_mutex_unlock (&s->session_lock);
  vhdx_co_release_writers (s);
  return ret;
}

int coroutine_fn
vhdx_co_start_log (VhdxState *s)
{
  VhdxHeader header;
  int ret;

  if (s->log_started)
    return 0;
  /* No header names a log after this: its space is free. */
  ret = vhdx_co_begin_changes (s, VHDX_SESSION_FILE);
  if (ret < 0)
    return ret;
  co_mutex_lock (&s->session_lock);
  s->log_guid = vhdx_guid_new ();
  s->log_at = 0;
  ret = vhdx_co_log_write (s, NULL, 0);
  /* Between the entry and the header that names the log (W8). */
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret < 0)
    {
      bdrv_poison (s->bs);
    }
  else
    {
      header = s->header;
      header.log_guid = s->log_guid;
      ret = vhdx_co_update_headers (s, &header);
      s->log_started = ret == 0;
    }
  co_mutex_unlock (&s->session_lock);
  return ret;
}

int coroutine_fn
vhdx_co_end_log (VhdxState *s)
{
  VhdxHeader header;
  int ret = vhdx_co_publish (s);

  if (ret < 0 || !s->log_started)
    return ret;
  co_mutex_lock (&s->publish_lock);
  co_mutex_lock (&s->session_lock);
  /* Between the pages in place and the header without a log: from there on nobody replays. */
  ret = bdrv_co_flush (s->bs->file);
  if (ret == 0)
    {
      header = s->header;
      header.log_guid = (VhdxGuid){ 0 };
      ret = vhdx_co_update_headers (s, &header);
      s->log_started = ret < 0;
    }
  co_mutex_unlock (&s->session_lock);
  co_mutex_unlock (&s->publish_lock);
  return ret;
}

int coroutine_fn
vhdx_co_drain_log (BlockDriverState *bs)
{
  return vhdx_co_end_log (bs->opaque);
}
