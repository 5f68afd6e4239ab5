/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The cache of metadata pages: contents, bound, concurrent loads, failures, invalidation. */
#include "test-core-util.h"

#include <errno.h>
#include <string.h>

#define PAGE 512

static uint8_t
expected_byte (const MemFile *mem, int64_t file_offset)
{
  return file_offset < mem->data->len ? mem->data->data[file_offset] : 0;
}

static void
fill (MemFile *mem)
{
  for (guint i = 0; i < mem->data->len; i++)
    mem->data->data[i] = i / PAGE * 7 + i;
}

static void
check_page (const MemFile *mem, int64_t file_offset, const uint8_t *page)
{
  int64_t start = file_offset / PAGE * PAGE;

  for (int i = 0; i < PAGE; i++)
    g_assert_cmpint (page[i], ==, expected_byte (mem, start + i));
}

/* --- contents and bound -------------------------------------------------------------------------------- */

static void coroutine_fn
co_bound (void *opaque)
{
  void *pages[200];
  MemFile mem;

  mem_file_init (&mem, 200 * PAGE - 100);
  mem.limits.memory_alignment = 512;
  mem.limits.request_alignment = 512;
  fill (&mem);
  BlockDriverState *bs = co_mem_open (&mem, 0);
  BdrvMetaCache *cache = bdrv_meta_cache_new (bs, PAGE, 10 * PAGE);

  for (int i = 0; i < 200; i++)
    {
      g_assert_null (bdrv_meta_cache_peek (cache, i * PAGE));
      g_assert_cmpint (bdrv_co_meta_cache_get (cache, i * PAGE + i, &pages[i]), ==, 0);
    }
  /* Pinned pages stay, whatever the bound. */
  for (int i = 0; i < 200; i++)
    {
      g_assert_true (bdrv_meta_cache_peek (cache, i * PAGE + 5) == pages[i]);
      check_page (&mem, i * PAGE, pages[i]);
      bdrv_meta_cache_put (cache, pages[i]);
    }
  g_assert_cmpuint (mem.count[MEM_READ], ==, 200);
  for (int i = 0; i < 200; i++)
    bdrv_meta_cache_put (cache, pages[i]);

  /* The ten used last are left, and those used oldest go first. */
  for (int i = 199; i >= 190; i--)
    {
      void *page = bdrv_meta_cache_peek (cache, i * PAGE);
      g_assert_nonnull (page);
      bdrv_meta_cache_put (cache, page);
    }
  for (int i = 0; i < 190; i++)
    g_assert_null (bdrv_meta_cache_peek (cache, i * PAGE));
  g_assert_cmpint (bdrv_co_meta_cache_get (cache, 0, &pages[0]), ==, 0);
  bdrv_meta_cache_put (cache, pages[0]);
  g_assert_null (bdrv_meta_cache_peek (cache, 199 * PAGE));
  pages[1] = bdrv_meta_cache_peek (cache, 198 * PAGE);
  g_assert_nonnull (pages[1]);
  bdrv_meta_cache_put (cache, pages[1]);

  /* Past the end. */
  g_assert_cmpint (bdrv_co_meta_cache_get (cache, 1000 * PAGE, &pages[0]), ==, 0);
  check_page (&mem, 1000 * PAGE, pages[0]);
  bdrv_meta_cache_put (cache, pages[0]);
  g_assert_cmpint (bdrv_co_meta_cache_get (cache, -1, &pages[0]), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_meta_cache_get (cache, INT64_MAX, &pages[0]), ==, -EINVAL);
  bdrv_meta_cache_free (cache);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_bound (void)
{
  test_run (co_bound, NULL);
}

/* --- side by side -------------------------------------------------------------------------------------- */

typedef struct
{
  BdrvMetaCache *cache;
  MemFile *mem;
} Reader;

static void coroutine_fn
co_reader (void *opaque)
{
  Reader *reader = opaque;

  for (int i = 0; i < 100; i++)
    {
      int64_t file_offset = g_test_rand_int_range (0, 64 * PAGE);
      void *page;
      g_assert_cmpint (bdrv_co_meta_cache_get (reader->cache, file_offset, &page), ==, 0);
      check_page (reader->mem, file_offset, page);
      if (g_test_rand_int_range (0, 3) == 0)
        co_test_let_others_run (2);
      check_page (reader->mem, file_offset, page);
      bdrv_meta_cache_put (reader->cache, page);
    }
}

static void coroutine_fn
co_concurrent (void *opaque)
{
  Reader readers[16];
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 64 * PAGE);
  fill (&mem);
  mem.max_delay = 5;
  BlockDriverState *bs = co_mem_open (&mem, 0);
  BdrvMetaCache *cache = bdrv_meta_cache_new (bs, PAGE, 8 * PAGE);
  for (int i = 0; i < 16; i++)
    {
      readers[i] = (Reader){ cache, &mem };
      test_start (co_reader, &readers[i], &running);
    }
  co_test_wait (&running);
  g_assert_cmpuint (mem.count[MEM_READ], <, 1600);
  bdrv_meta_cache_free (cache);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_concurrent (void)
{
  test_run (co_concurrent, NULL);
}

static void coroutine_fn
co_get_one (void *opaque)
{
  Reader *reader = opaque;
  void *page;

  g_assert_cmpint (bdrv_co_meta_cache_get (reader->cache, 0, &page), ==, 0);
  check_page (reader->mem, 0, page);
  bdrv_meta_cache_put (reader->cache, page);
}

static void coroutine_fn
co_get_failing (void *opaque)
{
  Reader *reader = opaque;
  void *page;

  g_assert_cmpint (bdrv_co_meta_cache_get (reader->cache, 0, &page), ==, -EIO);
}

/* One load serves all who wait for it; when it fails, all fail and nothing stays. */
static void coroutine_fn
co_shared_load (void *opaque)
{
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 64 * PAGE);
  fill (&mem);
  mem.max_delay = 20;
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  Reader reader = { bdrv_meta_cache_new (bs, PAGE, 8 * PAGE), &mem };
  for (int round = 0; round < 20; round++)
    {
      mem.count[MEM_READ] = 0;
      mem.fail_ret[MEM_READ] = -EIO;
      for (int i = 0; i < 10; i++)
        test_start (co_get_failing, &reader, &running);
      co_test_wait (&running);
      g_assert_null (bdrv_meta_cache_peek (reader.cache, 0));
      g_assert_cmpuint (mem.count[MEM_READ], <=, 10);

      mem.count[MEM_READ] = 0;
      mem.fail_ret[MEM_READ] = 0;
      for (int i = 0; i < 10; i++)
        test_start (co_get_one, &reader, &running);
      co_test_wait (&running);
      g_assert_cmpuint (mem.count[MEM_READ], ==, 1);
      bdrv_meta_cache_invalidate (reader.cache, 0, 1);
    }
  bdrv_meta_cache_free (reader.cache);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_shared_load (void)
{
  test_run (co_shared_load, NULL);
}

/* --- invalidation -------------------------------------------------------------------------------------- */

static void coroutine_fn
co_get_current (void *opaque)
{
  co_get_one (opaque); /* compares with what the file holds at the end */
}

static void coroutine_fn
co_invalidate (void *opaque)
{
  unsigned running = 0;
  void *page;
  MemFile mem;

  mem_file_init (&mem, 64 * PAGE);
  fill (&mem);
  BlockDriverState *bs = co_mem_open (&mem, 0);
  Reader reader = { bdrv_meta_cache_new (bs, PAGE, 64 * PAGE), &mem };
  for (int i = 0; i < 64; i++)
    {
      g_assert_cmpint (bdrv_co_meta_cache_get (reader.cache, i * PAGE, &page), ==, 0);
      bdrv_meta_cache_put (reader.cache, page);
    }
  bdrv_meta_cache_invalidate (reader.cache, 10 * PAGE + 511, 2);
  for (int i = 0; i < 64; i++)
    {
      page = bdrv_meta_cache_peek (reader.cache, i * PAGE);
      g_assert_true ((page != NULL) == (i != 10 && i != 11));
      if (page)
        bdrv_meta_cache_put (reader.cache, page);
    }

  /* A pinned page stays: whoever holds it writes the same bytes. */
  g_assert_cmpint (bdrv_co_meta_cache_get (reader.cache, 0, &page), ==, 0);
  bdrv_meta_cache_invalidate (reader.cache, 0, INT64_C (1) << 60);
  g_assert_true (bdrv_meta_cache_peek (reader.cache, 0) == page);
  bdrv_meta_cache_put (reader.cache, page);
  bdrv_meta_cache_put (reader.cache, page);
  g_assert_null (bdrv_meta_cache_peek (reader.cache, PAGE));
  bdrv_meta_cache_invalidate (reader.cache, 0, INT64_C (1) << 60);

  /* One that is being loaded is loaded again. */
  mem.max_delay = 10;
  for (int i = 0; i < 50; i++)
    {
      test_start (co_get_current, &reader, &running);
      mem.data->data[5]++;
      bdrv_meta_cache_invalidate (reader.cache, 0, 10);
      co_test_wait (&running);
      bdrv_meta_cache_invalidate (reader.cache, 0, 10);
    }
  bdrv_meta_cache_free (reader.cache);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_invalidate (void)
{
  test_run (co_invalidate, NULL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/core/metacache/bound", test_bound);
  g_test_add_func ("/core/metacache/concurrent", test_concurrent);
  g_test_add_func ("/core/metacache/shared-load", test_shared_load);
  g_test_add_func ("/core/metacache/invalidate", test_invalidate);
  return g_test_run ();
}
