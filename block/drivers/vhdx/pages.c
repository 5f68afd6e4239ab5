/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of metadata: those of the file, those of a log replayed in memory over them, and those held for a change
 * over both.
 *
 * A held page leaves the table when nobody holds it and it has no change that a round has not put in place.
 */
#include <string.h>

#include "vhdx.h"

VhdxHeldPage *
vhdx_held_page_peek (const VhdxState *s, int64_t file_offset)
{
  gint64 start = round_down (file_offset, VHDX_PAGE);

  return s->held ? g_hash_table_lookup (s->held, &start) : NULL;
}

/* --- reading ---------------------------------------------------------------------------------------------- */

int coroutine_fn
vhdx_co_page_get (VhdxState *s, int64_t file_offset, VhdxPage *page)
{
  int64_t start = round_down (file_offset, VHDX_PAGE);
  const VhdxHeldPage *held = vhdx_held_page_peek (s, start);
  int ret;

  page->cached = NULL;
  page->data = held ? held->data : vhdx_overlay_page (&s->overlay, start);
  if (page->data)
    return 0;
  page->cached = bdrv_meta_cache_peek (s->pages, start);
  if (!page->cached)
    {
      ret = bdrv_co_meta_cache_get (s->pages, start, &page->cached);
      if (ret < 0)
        return ret;
      /* Held since, and perhaps changed. */
      held = vhdx_held_page_peek (s, start);
      if (held)
        {
          bdrv_meta_cache_put (s->pages, page->cached);
          page->cached = NULL;
          page->data = held->data;
          return 0;
        }
    }
  page->data = page->cached;
  return 0;
}

void
vhdx_page_put (VhdxState *s, VhdxPage *page)
{
  if (page->cached)
    bdrv_meta_cache_put (s->pages, page->cached);
}

int coroutine_fn
vhdx_co_read_u64 (VhdxState *s, int64_t file_offset, uint64_t *value)
{
  VhdxPage page;
  Le64 disk;
  int ret = vhdx_co_page_get (s, file_offset, &page);

  if (ret < 0)
    return ret;
  memcpy (&disk, page.data + file_offset % VHDX_PAGE, sizeof disk);
  vhdx_page_put (s, &page);
  *value = le64_get (disk);
  return 0;
}

/* --- changing --------------------------------------------------------------------------------------------- */

static void
held_free (VhdxHeldPage *page)
{
  bdrv_free_buffer (page->data);
  g_free (page);
}

static void
forget_if_unused (VhdxState *s, VhdxHeldPage *page)
{
  if (page->holds > 0 || page->changed)
    return;
  /* A page that was forgotten (vhdx_pages_forget) may have a successor in the table. */
  if (vhdx_held_page_peek (s, page->file_offset) == page)
    g_hash_table_remove (s->held, &page->file_offset);
  held_free (page);
}

int coroutine_fn
vhdx_co_page_hold (VhdxState *s, int64_t file_offset, VhdxHeldPage **held)
{
  int64_t start = round_down (file_offset, VHDX_PAGE);
  VhdxHeldPage *page = vhdx_held_page_peek (s, start);
  VhdxPage now;
  int ret;

  if (!page)
    {
      uint8_t *data = bdrv_try_alloc_buffer (s->bs->file, VHDX_PAGE);

      if (!data)
        return -ENOMEM;
      ret = vhdx_co_page_get (s, start, &now); /* yields */
      if (ret < 0)
        {
          bdrv_free_buffer (data);
          return ret;
        }
      memcpy (data, now.data, VHDX_PAGE);
      vhdx_page_put (s, &now);
      page = vhdx_held_page_peek (s, start);
      if (page)
        {
          bdrv_free_buffer (data);
        }
      else
        {
          page = g_new0 (VhdxHeldPage, 1);
          page->file_offset = start;
          page->data = data;
          g_hash_table_insert (s->held, &page->file_offset, page);
        }
    }
  page->holds++;
  *held = page;
  return 0;
}

void
vhdx_page_mark_changed (VhdxState *s, VhdxHeldPage *page)
{
  if (page->changed)
    return;
  page->changed = true;
  s->changed++;
}

void
vhdx_page_release (VhdxState *s, VhdxHeldPage *page)
{
  if (!page)
    return;
  page->holds--;
  forget_if_unused (s, page);
}

void
vhdx_page_is_in_place (VhdxState *s, VhdxHeldPage *page, const uint8_t *data)
{
  void *cached = bdrv_meta_cache_peek (s->pages, page->file_offset);

  if (cached)
    {
      memcpy (cached, data, VHDX_PAGE);
      bdrv_meta_cache_put (s->pages, cached);
    }
  else
    {
      /* It may be being read just now. */
      bdrv_meta_cache_invalidate (s->pages, page->file_offset, VHDX_PAGE);
    }
}

void
vhdx_pages_forget (VhdxState *s, int64_t file_offset, int64_t bytes)
{
  for (int64_t at = file_offset; at < file_offset + bytes; at += VHDX_PAGE)
    {
      VhdxHeldPage *page = vhdx_held_page_peek (s, at);

      if (!page)
        continue;
      g_hash_table_remove (s->held, &page->file_offset);
      if (page->changed)
        s->changed--;
      page->changed = false;
      /* Else whoever holds it frees it. */
      if (page->holds == 0)
        held_free (page);
    }
  bdrv_meta_cache_invalidate (s->pages, file_offset, bytes);
}

uint64_t
vhdx_held_entry (const VhdxState *s, const VhdxHeldPage *page, uint64_t index)
{
  Le64 disk;

  memcpy (&disk, page->data + vhdx_bat_file_offset (s, index) % VHDX_PAGE, sizeof disk);
  return le64_get (disk);
}

void
vhdx_held_entry_set (VhdxState *s, VhdxHeldPage *page, uint64_t index, uint64_t value)
{
  Le64 disk = le64 (value);

  memcpy (page->data + vhdx_bat_file_offset (s, index) % VHDX_PAGE, &disk, sizeof disk);
  vhdx_page_mark_changed (s, page);
}

int coroutine_fn
vhdx_co_log_metadata (VhdxState *s, int64_t file_offset, const void *data, int64_t bytes)
{
  int64_t first = round_down (file_offset, VHDX_PAGE),
          n = div_round_up (file_offset + bytes - first, VHDX_PAGE);
  g_autofree VhdxHeldPage **pages = g_new0 (VhdxHeldPage *, n);
  int ret = 0;

  for (int64_t i = 0; i < n && ret == 0; i++)
    ret = vhdx_co_page_hold (s, first + i * VHDX_PAGE, &pages[i]);
  for (int64_t done = 0; done < bytes && ret == 0;)
    {
      VhdxHeldPage *page = pages[(file_offset + done - first) / VHDX_PAGE];
      int64_t in_page = (file_offset + done) % VHDX_PAGE, piece = MIN (bytes - done, VHDX_PAGE - in_page);

      memcpy (page->data + in_page, (const uint8_t *)data + done, piece);
      vhdx_page_mark_changed (s, page);
      done += piece;
    }
  for (int64_t i = 0; i < n; i++)
    vhdx_page_release (s, pages[i]);
  return ret;
}
