/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rounds: how changed metadata reaches the disk.  The steps are numbered as in vhdx.h, where it is said why
 * each order is right. */
#include <string.h>

#include "vhdx.h"

/* What a round writes. */
typedef struct
{
  VhdxHeldPage *page;
  int64_t file_offset;
  uint8_t *copy;
} RoundPage;

typedef struct
{
  GArray *pages; /* of RoundPage, in the order of W3 */
  GArray *dropped;
  int64_t file_bytes; /* before flush A */
} Round;

static void
round_clear (Round *round)
{
  for (guint i = 0; round->pages && i < round->pages->len; i++)
    bdrv_free_buffer (g_array_index (round->pages, RoundPage, i).copy);
  g_clear_pointer (&round->pages, g_array_unref);
  g_clear_pointer (&round->dropped, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Round, round_clear)

typedef enum
{
  PAGE_OTHER, /* of region tables and metadata region */
  PAGE_BITMAP,
  PAGE_BAT,
} PageKind;

static PageKind
page_kind (const VhdxState *s, int64_t file_offset)
{
  const VhdxRegion *bat = &s->bat_region, *metadata = &s->metadata_region;

  if (ranges_overlap (file_offset, VHDX_PAGE, bat->file_offset, bat->bytes))
    return PAGE_BAT;
  if (file_offset < VHDX_HEADER_SECTION
      || ranges_overlap (file_offset, VHDX_PAGE, metadata->file_offset, metadata->bytes))
    return PAGE_OTHER;
  return PAGE_BITMAP;
}

/* W3: what must be in one entry, bitmaps from low to high, then the BAT from high to low. */
static int
compare_pages (const void *a, const void *b, void *opaque)
{
  const RoundPage *x = a, *y = b;
  PageKind x_kind = page_kind (opaque, x->file_offset), y_kind = page_kind (opaque, y->file_offset);
  int order = x->file_offset < y->file_offset ? -1 : x->file_offset > y->file_offset;

  if (x_kind != y_kind)
    return x_kind < y_kind ? -1 : 1;
  return x_kind == PAGE_BAT ? -order : order;
}

/* Step 1.  Does not yield, so the copy is of one moment. */
static bool
round_begin (VhdxState *s, Round *round)
{
  GHashTableIter iter;
  VhdxHeldPage *page;

  round->pages = g_array_sized_new (false, false, sizeof (RoundPage), s->changed);
  g_hash_table_iter_init (&iter, s->held);
  while (g_hash_table_iter_next (&iter, NULL, (void **)&page))
    {
      RoundPage copy = { page, page->file_offset, NULL };

      if (!page->changed)
        continue;
      copy.copy = bdrv_try_alloc_buffer (s->bs->file, VHDX_PAGE);
      if (!copy.copy)
        return false;
      memcpy (copy.copy, page->data, VHDX_PAGE);
      g_array_append_val (round->pages, copy);
    }
  for (guint i = 0; i < round->pages->len; i++)
    {
      page = g_array_index (round->pages, RoundPage, i).page;
      page->changed = false;
      page->holds++;
    }
  s->changed = 0;
  g_array_sort_with_data (round->pages, compare_pages, s);
  round->dropped = s->dropped;
  s->dropped = g_array_new (false, false, sizeof (VhdxFreed));
  round->file_bytes = bdrv_length (s->bs->file);
  return true;
}

/* The disk has what it had: all is to be done again. */
static void
round_undo (VhdxState *s, Round *round)
{
  for (guint i = 0; i < round->pages->len; i++)
    {
      VhdxHeldPage *page = g_array_index (round->pages, RoundPage, i).page;

      if (vhdx_held_page_peek (s, page->file_offset) == page)
        vhdx_page_mark_changed (s, page);
    }
  if (round->dropped->len > 0)
    g_array_append_vals (s->dropped, round->dropped->data, round->dropped->len);
}

/* Steps 3 to 5 of some of the pages. */
static int coroutine_fn
log_group (VhdxState *s, const RoundPage *pages, uint32_t n)
{
  g_autofree VhdxLogPage *entry = g_new (VhdxLogPage, n);
  g_autofree BdrvWrite *writes = g_new (BdrvWrite, n);
  int ret;

  for (uint32_t i = 0; i < n; i++)
    {
      entry[i] = (VhdxLogPage){ pages[i].file_offset, pages[i].copy };
      writes[i] = (BdrvWrite){ pages[i].file_offset, VHDX_PAGE, pages[i].copy };
    }
  ret = vhdx_co_log_write (s, entry, n);
  /* Step 4.  Between the entry and its pages, and any use of space that they give up (I3, I5). */
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret == 0)
    ret = bdrv_co_write_batch (s->bs->file, writes, n);
  for (uint32_t i = 0; i < n && ret == 0; i++)
    if (vhdx_held_page_peek (s, pages[i].file_offset) == pages[i].page)
      vhdx_page_is_in_place (s, pages[i].page, pages[i].copy);
  return ret;
}

/* Steps 2 to 5; *logging: the log may have been touched. */
static int coroutine_fn
round_run (VhdxState *s, Round *round, bool *logging)
{
  const RoundPage *pages = (const void *)round->pages->data;
  uint32_t capacity = vhdx_log_capacity (s), total = round->pages->len;
  int ret = vhdx_co_start_log (s);

  for (uint32_t done = 0, n; done < total && ret == 0; done += n)
    {
      n = MIN (total - done, capacity);
      /* Step 2.  Between payload, grown file, the pages in place before … and the entry: I1, I2, W2. */
      ret = bdrv_co_flush (s->bs->file);
      if (ret < 0)
        return ret;
      s->flushed_bytes = round->file_bytes;
      *logging = true;
      ret = log_group (s, pages + done, n);
    }
  return ret;
}

/* W4.  What rounds before freed goes first, so that the list does not grow as long as the disk. */
static void
round_free_space (VhdxState *s, const Round *round)
{
  vhdx_release_old_freed (s);
  for (guint i = 0; i < round->dropped->len; i++)
    {
      VhdxFreed freed = g_array_index (round->dropped, VhdxFreed, i);

      freed.epoch = s->epochs.current;
      g_array_append_val (s->freed, freed);
    }
}

static int coroutine_fn
publish_locked (VhdxState *s)
{
  g_auto (Round) round = { 0 };
  bool logging = false;
  int ret = vhdx_co_promote_filled (s);

  if (ret < 0)
    return ret;
  if (s->changed == 0)
    return bdrv_co_flush (s->bs->file);
  if (!round_begin (s, &round))
    return -ENOMEM;
  ret = round_run (s, &round, &logging);
  if (ret == 0)
    round_free_space (s, &round);
  else
    round_undo (s, &round);
  /* The entry, or a page in its place, may be half written or not: what is in memory may not match. */
  if (ret < 0 && logging)
    bdrv_poison (s->bs);
  for (guint i = 0; i < round.pages->len; i++)
    vhdx_page_release (s, g_array_index (round.pages, RoundPage, i).page);
  return ret;
}

int coroutine_fn
vhdx_co_publish (VhdxState *s)
{
  int ret;

  co_mutex_lock (&s->publish_lock);
  s->publishing = true;
  ret = bdrv_is_poisoned (s->bs) ? -EIO : publish_locked (s);
  s->publishing = false;
  co_mutex_unlock (&s->publish_lock);
  return ret;
}

int coroutine_fn
vhdx_co_maybe_publish (VhdxState *s)
{
  unsigned threshold;

  /* After nearly every write. */
  if (G_LIKELY (s->changed == 0))
    return 0;
  threshold = vhdx_log_capacity (s);
  if (s->changed < threshold)
    return 0;
  /* A round is under way, and makes room for the next: only a flood waits for it. */
  if (s->publishing && s->changed < 4 * threshold)
    return 0;
  return vhdx_co_publish (s);
}

int coroutine_fn
vhdx_co_flush (BlockDriverState *bs)
{
  return vhdx_co_publish (bs->opaque);
}
