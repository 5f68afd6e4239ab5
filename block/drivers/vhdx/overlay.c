/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The container as it is after its log was replayed, without a byte of it changed ([MS-VHDX] 2.3.3): pages and
 * ranges of zeros that lie over those of the file.  What was added later wins. */
#include <string.h>

#include "vhdx.h"

/* Ranges are never taken out again, and pages never looked for when one is added: a log made to cost time has many
 * of both. */
typedef struct
{
  gint64 file_offset; /* the key: a pointer of 32 bits could not hold it */
  guint ranges;       /* of zeros that it lies over */
  uint8_t data[VHDX_PAGE];
} OverlayPage;

void
vhdx_overlay_init (VhdxOverlay *overlay, int64_t file_bytes)
{
  overlay->pages = g_hash_table_new_full (g_int64_hash, g_int64_equal, NULL, g_free);
  overlay->zeros = g_array_new (false, false, sizeof (VhdxZeroRange));
  overlay->file_bytes = file_bytes;
}

void
vhdx_overlay_clear (VhdxOverlay *overlay)
{
  g_clear_pointer (&overlay->pages, g_hash_table_unref);
  g_clear_pointer (&overlay->zeros, g_array_unref);
}

uint8_t *
vhdx_overlay_add_page (VhdxOverlay *overlay, int64_t file_offset)
{
  OverlayPage *page = g_new (OverlayPage, 1);

  page->file_offset = file_offset;
  page->ranges = overlay->zeros->len;
  g_hash_table_replace (overlay->pages, &page->file_offset, page);
  return page->data;
}

void
vhdx_overlay_add_zeros (VhdxOverlay *overlay, int64_t file_offset, int64_t bytes)
{
  VhdxZeroRange range = { file_offset, file_offset + bytes };

  g_array_append_val (overlay->zeros, range);
}

/* Whether a range but the first @skipped covers @file_offset. */
static bool
is_in_zeros (const VhdxOverlay *overlay, int64_t file_offset, guint skipped)
{
  for (guint i = skipped; i < overlay->zeros->len; i++)
    {
      const VhdxZeroRange *range = &g_array_index (overlay->zeros, VhdxZeroRange, i);

      if (file_offset >= range->file_offset && file_offset < range->end)
        return true;
    }
  return false;
}

bool
vhdx_overlay_touches (const VhdxOverlay *overlay, int64_t file_offset, int64_t bytes)
{
  if (!overlay->pages)
    return false;
  for (guint i = 0; i < overlay->zeros->len; i++)
    {
      const VhdxZeroRange *range = &g_array_index (overlay->zeros, VhdxZeroRange, i);

      if (ranges_overlap (file_offset, bytes, range->file_offset, range->end - range->file_offset))
        return true;
    }
  for (gint64 at = round_down (file_offset, VHDX_PAGE); at < file_offset + bytes; at += VHDX_PAGE)
    if (g_hash_table_contains (overlay->pages, &at))
      return true;
  return false;
}

const uint8_t *
vhdx_overlay_page (const VhdxOverlay *overlay, int64_t file_offset)
{
  static const uint8_t zeros[VHDX_PAGE];
  gint64 start = round_down (file_offset, VHDX_PAGE);
  const OverlayPage *page;

  if (!overlay->pages)
    return NULL;
  page = g_hash_table_lookup (overlay->pages, &start);
  if (is_in_zeros (overlay, start, page ? page->ranges : 0))
    return zeros;
  return page ? page->data : NULL;
}

GArray *
vhdx_overlay_writes (const VhdxOverlay *overlay)
{
  GArray *writes = g_array_new (false, false, sizeof (BdrvWrite));
  GHashTableIter iter;
  void *value;

  g_hash_table_iter_init (&iter, overlay->pages);
  while (g_hash_table_iter_next (&iter, NULL, &value))
    {
      OverlayPage *page = value;
      BdrvWrite write = { page->file_offset, VHDX_PAGE, page->data };

      if (!is_in_zeros (overlay, page->file_offset, page->ranges))
        g_array_append_val (writes, write);
    }
  return writes;
}

int coroutine_fn
vhdx_co_readv (VhdxState *s, int64_t file_offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  int ret = bdrv_co_preadv (s->bs->file, file_offset, bytes, qiov, qiov_offset);

  if (G_LIKELY (ret < 0 || !s->overlay.pages))
    return ret;
  while (bytes > 0)
    {
      int64_t in_page = file_offset % VHDX_PAGE;
      int64_t n = MIN (bytes, VHDX_PAGE - in_page);
      const uint8_t *page = vhdx_overlay_page (&s->overlay, file_offset);

      if (page)
        io_vector_from_buf (qiov, qiov_offset, page + in_page, n);
      file_offset += n;
      qiov_offset += n;
      bytes -= n;
    }
  return 0;
}

int coroutine_fn
vhdx_co_read (VhdxState *s, int64_t file_offset, int64_t bytes, void *buf)
{
  IoVector qiov;

  io_vector_init_buf (&qiov, buf, bytes);
  return vhdx_co_readv (s, file_offset, bytes, &qiov, 0);
}
