/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bounded cache of pages of a file.
 *
 * A page is in the table while it is loaded or being loaded.  Pinned pages are in no list; unpinned ones are
 * in the LRU list, oldest first, and only those count against the bound.  Whoever finds a page that is being
 * loaded pins it and waits; when loading fails, the page leaves the table at once and goes away with its last
 * pin.
 */
#include "core-int.h"

#include <checked.h>

#include <errno.h>
#include <stdlib.h>

#define MIN_BUCKETS 64

typedef struct MetaPage MetaPage;

/* Stands behind the page's bytes in the same piece of memory. */
struct MetaPage
{
  int64_t index; /* file offset / page_bytes */
  uint8_t *data;
  MetaPage *next_in_bucket;
  MetaPage *older, *newer; /* LRU list */
  unsigned pins;
  bool loading;
  bool outdated; /* invalidated while it was being loaded */
  int error;     /* of loading; the page is not in the table then */
};

struct BdrvMetaCache
{
  BlockDriverState *child;
  size_t page_bytes;
  int page_shift;
  size_t max_unpinned; /* pages */
  size_t unpinned;
  MetaPage *oldest, *newest;
  MetaPage *last; /* found last, in the table */
  MetaPage **buckets;
  size_t buckets_mask;
  size_t pages; /* in the table */
  CoQueue loaded;
};

BdrvMetaCache *
bdrv_meta_cache_new (BlockDriverState *child, size_t page_bytes, size_t max_bytes)
{
  BdrvMetaCache *cache = g_new0 (BdrvMetaCache, 1);

  g_assert (page_bytes >= 512 && is_power_of_two (page_bytes));
  cache->child = child;
  cache->page_bytes = page_bytes;
  cache->page_shift = g_bit_nth_lsf (page_bytes, -1);
  cache->max_unpinned = max_bytes / page_bytes;
  cache->buckets = g_new0 (MetaPage *, MIN_BUCKETS);
  cache->buckets_mask = MIN_BUCKETS - 1;
  co_queue_init (&cache->loaded);
  return cache;
}

/* --- table --------------------------------------------------------------------------------------------- */

static inline MetaPage **
bucket_of (const BdrvMetaCache *cache, int64_t index)
{
  /* Neighbours go to different buckets, and so do pages a power of two apart. */
  uint64_t hash = (uint64_t)index * UINT64_C (0x9e3779b97f4a7c15);

  return &cache->buckets[((uint64_t)index ^ (hash >> 40)) & cache->buckets_mask];
}

static MetaPage *
table_find (const BdrvMetaCache *cache, int64_t index)
{
  MetaPage *page = *bucket_of (cache, index);

  while (page && page->index != index)
    page = page->next_in_bucket;
  return page;
}

static void
table_grow (BdrvMetaCache *cache)
{
  MetaPage **old = cache->buckets;
  size_t old_size = cache->buckets_mask + 1;

  cache->buckets = g_new0 (MetaPage *, old_size * 2);
  cache->buckets_mask = old_size * 2 - 1;
  for (size_t i = 0; i < old_size; i++)
    for (MetaPage *page = old[i], *next; page; page = next)
      {
        MetaPage **bucket = bucket_of (cache, page->index);
        next = page->next_in_bucket;
        page->next_in_bucket = *bucket;
        *bucket = page;
      }
  g_free (old);
}

static void
table_add (BdrvMetaCache *cache, MetaPage *page)
{
  if (cache->pages > cache->buckets_mask)
    table_grow (cache);

  MetaPage **bucket = bucket_of (cache, page->index);
  page->next_in_bucket = *bucket;
  *bucket = page;
  cache->pages++;
}

static void
table_remove (BdrvMetaCache *cache, MetaPage *page)
{
  MetaPage **link = bucket_of (cache, page->index);

  while (*link != page)
    link = &(*link)->next_in_bucket;
  *link = page->next_in_bucket;
  cache->pages--;
  if (cache->last == page)
    cache->last = NULL;
}

/* --- pages --------------------------------------------------------------------------------------------- */

static MetaPage *
page_new (BdrvMetaCache *cache, int64_t index)
{
  uint8_t *data = bdrv_try_alloc_buffer (cache->child, cache->page_bytes + sizeof (MetaPage));

  if (!data)
    return NULL;
  MetaPage *page = (MetaPage *)(void *)(data + cache->page_bytes);
  *page = (MetaPage){ .index = index, .data = data };
  return page;
}

static void
page_free (MetaPage *page)
{
  bdrv_free_buffer (page->data);
}

static inline MetaPage *
page_of_data (const BdrvMetaCache *cache, void *data)
{
  return (MetaPage *)(void *)((uint8_t *)data + cache->page_bytes);
}

static void
lru_remove (BdrvMetaCache *cache, MetaPage *page)
{
  if (page->older)
    page->older->newer = page->newer;
  else
    cache->oldest = page->newer;
  if (page->newer)
    page->newer->older = page->older;
  else
    cache->newest = page->older;
  cache->unpinned--;
}

static void
lru_append (BdrvMetaCache *cache, MetaPage *page)
{
  page->newer = NULL;
  page->older = cache->newest;
  if (cache->newest)
    cache->newest->newer = page;
  else
    cache->oldest = page;
  cache->newest = page;
  cache->unpinned++;
}

static void
drop_unpinned (BdrvMetaCache *cache, MetaPage *page)
{
  lru_remove (cache, page);
  table_remove (cache, page);
  page_free (page);
}

static inline void
page_pin (BdrvMetaCache *cache, MetaPage *page)
{
  if (page->pins++ == 0)
    lru_remove (cache, page);
}

static void
page_unpin (BdrvMetaCache *cache, MetaPage *page)
{
  g_assert (page->pins > 0);
  if (--page->pins > 0)
    return;
  if (page->error < 0)
    {
      page_free (page);
      return;
    }
  lru_append (cache, page);
  while (cache->unpinned > cache->max_unpinned)
    drop_unpinned (cache, cache->oldest);
}

void
bdrv_meta_cache_free (BdrvMetaCache *cache)
{
  if (!cache)
    return;
  while (cache->oldest)
    drop_unpinned (cache, cache->oldest);
  g_assert (cache->pages == 0);
  co_queue_clear (&cache->loaded);
  g_free (cache->buckets);
  g_free (cache);
}

/* --- getting ------------------------------------------------------------------------------------------- */

static inline MetaPage *
find_page (BdrvMetaCache *cache, int64_t index)
{
  if (cache->last && cache->last->index == index)
    return cache->last;

  MetaPage *page = table_find (cache, index);
  if (page)
    cache->last = page;
  return page;
}

static int coroutine_fn
co_load_page (BdrvMetaCache *cache, MetaPage *page)
{
  int ret;

  page->loading = true;
  do
    {
      page->outdated = false;
      ret = bdrv_co_pread (cache->child, page->index << cache->page_shift, cache->page_bytes, page->data);
    }
  while (ret == 0 && page->outdated);
  page->loading = false;
  if (ret < 0)
    {
      page->error = ret;
      table_remove (cache, page);
    }
  co_queue_restart_all (&cache->loaded);
  return ret;
}

int coroutine_fn
bdrv_co_meta_cache_get (BdrvMetaCache *cache, int64_t file_offset, void **data)
{
  if (G_UNLIKELY (file_offset < 0))
    return -EINVAL;

  int64_t index = file_offset >> cache->page_shift;
  MetaPage *page = find_page (cache, index);
  if (G_LIKELY (page && !page->loading))
    {
      page_pin (cache, page);
      *data = page->data;
      return 0;
    }

  int ret = 0;
  if (page)
    {
      page->pins++;
      while (page->loading)
        co_queue_wait (&cache->loaded, NULL); /* yields */
      ret = page->error;
    }
  else
    {
      page = page_new (cache, index);
      if (!page)
        return -ENOMEM;
      page->pins = 1;
      table_add (cache, page);
      ret = co_load_page (cache, page); /* yields */
    }
  if (ret < 0)
    {
      page_unpin (cache, page);
      return ret;
    }
  *data = page->data;
  return 0;
}

void *
bdrv_meta_cache_peek (BdrvMetaCache *cache, int64_t file_offset)
{
  if (file_offset < 0)
    return NULL;

  MetaPage *page = find_page (cache, file_offset >> cache->page_shift);
  if (!page || page->loading)
    return NULL;
  page_pin (cache, page);
  return page->data;
}

void
bdrv_meta_cache_put (BdrvMetaCache *cache, void *data)
{
  page_unpin (cache, page_of_data (cache, data));
}

/* --- forgetting ---------------------------------------------------------------------------------------- */

static void
invalidate_page (BdrvMetaCache *cache, MetaPage *page)
{
  if (page->loading)
    page->outdated = true;
  else if (page->pins == 0)
    drop_unpinned (cache, page);
}

void
bdrv_meta_cache_invalidate (BdrvMetaCache *cache, int64_t file_offset, int64_t bytes)
{
  if (bdrv_check_range (file_offset, bytes) < 0 || bytes == 0)
    return;

  int64_t first = file_offset >> cache->page_shift;
  int64_t last = (file_offset + bytes - 1) >> cache->page_shift;
  if ((uint64_t)(last - first) < cache->pages)
    {
      for (int64_t index = first; index <= last; index++)
        {
          MetaPage *page = table_find (cache, index);
          if (page)
            invalidate_page (cache, page);
        }
      return;
    }
  for (size_t i = 0; i <= cache->buckets_mask; i++)
    for (MetaPage *page = cache->buckets[i], *next; page; page = next)
      {
        next = page->next_in_bucket;
        if (page->index >= first && page->index <= last)
          invalidate_page (cache, page);
      }
}
