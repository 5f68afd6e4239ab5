/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flushes: what they cover, how they join, what a failure does; and requests without data. */
#include "test-core-util.h"

#include <errno.h>
#include <string.h>

/* --- counting ------------------------------------------------------------------------------------------ */

static void coroutine_fn
co_counting (void *opaque)
{
  uint8_t buf[64] = { 1 };
  MemFile mem;

  mem_file_init (&mem, 4096);
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  /* What an earlier process wrote is made durable by the first flush. */
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 1);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 1);

  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 2);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 64, 0), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 3);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 0, 64), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 4);
  g_assert_true (bdrv_co_truncate (bs, 8192, NULL));
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 5);

  /* Through a filter too. */
  bs = co_node_on (&test_filter_driver, bs, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, BDRV_REQ_FUA), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 6);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 6);

  bs = co_mem_open (&mem, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 6);

  bs = co_mem_open (&mem, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 7);

  bs = co_mem_open (&mem, BDRV_O_RDWR | BDRV_O_NO_FLUSH);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, BDRV_REQ_FUA), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 7);
  mem_file_clear (&mem);
}

static void
test_counting (void)
{
  test_run (co_counting, NULL);
}

/* --- telling the host to begin --------------------------------------------------------------------------- */

static void coroutine_fn
co_write_back (void *opaque)
{
  static const int flags[] = { BDRV_O_RDWR, BDRV_O_RDWR | BDRV_O_NO_FLUSH };
  uint8_t buf[64] = { 1 };

  for (size_t i = 0; i < G_N_ELEMENTS (flags); i++)
    {
      BdrvWriteback writeback = { 0 };
      MemFile mem;

      mem_file_init (&mem, 4096);
      BlockDriverState *bs = co_node_on (&test_filter_driver, co_mem_open (&mem, flags[i]), flags[i]);
      g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, 0);
      for (int j = 0; j < 64; j++)
        bdrv_co_write_back (&writeback, bs, 1024 * 1024);
      g_assert_cmpuint (mem.count[MEM_WRITEBACK], ==, i == 0 ? 4 : 0);
      /* It is no flush. */
      g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 0);
      g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
      g_assert_cmpuint (mem.count[MEM_FLUSH], ==, i == 0 ? 1 : 0);
      bdrv_co_unref (bs);
      mem_file_clear (&mem);
    }
}

static void
test_write_back (void)
{
  test_run (co_write_back, NULL);
}

/* --- side by side -------------------------------------------------------------------------------------- */

#define CALLERS 20

static void coroutine_fn
co_flusher (void *opaque)
{
  g_assert_cmpint (bdrv_co_flush (opaque), ==, 0);
}

static void coroutine_fn
co_joining (void *opaque)
{
  uint8_t buf[64] = { 1 };
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 4096);
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  mem.max_delay = 50;
  for (int i = 0; i < 20; i++)
    {
      mem.count[MEM_FLUSH] = 0;
      g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, 0);
      for (int j = 0; j < CALLERS; j++)
        test_start (co_flusher, bs, &running);
      co_test_wait (&running);
      /* One covers the write; the rest came after it and find nothing to do. */
      g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 1);
    }
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_joining (void)
{
  test_run (co_joining, NULL);
}

typedef struct
{
  BlockDriverState *bs;
  MemFile *mem;
  int number;
} WriteAndFlush;

/* Whether a flush of the log began after entry @from of it. */
static bool
flush_begins_after (const MemFile *mem, unsigned from)
{
  for (unsigned i = from; i < mem->log->len; i++)
    if (g_array_index (mem->log, MemRequest, i).op == MEM_FLUSH)
      return true;
  return false;
}

/* The rule: between the end of a write and the return of a flush called after it lies the begin of a flush. */
static void coroutine_fn
co_write_and_flush (void *opaque)
{
  WriteAndFlush *job = opaque;
  uint8_t buf[64] = { 1 };

  for (int i = 0; i < 20; i++)
    {
      g_assert_cmpint (bdrv_co_pwrite (job->bs, job->number * 64, 64, buf, 0), ==, 0);
      unsigned written = job->mem->log->len;
      g_assert_cmpint (bdrv_co_flush (job->bs), ==, 0);
      g_assert_true (flush_begins_after (job->mem, written));
    }
}

static void coroutine_fn
co_ordering (void *opaque)
{
  WriteAndFlush jobs[CALLERS];
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 4096);
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  mem.max_delay = 5;
  for (int i = 0; i < CALLERS; i++)
    {
      jobs[i] = (WriteAndFlush){ bs, &mem, i };
      test_start (co_write_and_flush, &jobs[i], &running);
    }
  co_test_wait (&running);
  g_assert_cmpuint (mem.count[MEM_WRITE], ==, CALLERS * 20);
  g_assert_cmpuint (mem.count[MEM_FLUSH], <, CALLERS * 20 / 2); /* joined */
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_ordering (void)
{
  test_run (co_ordering, NULL);
}

/* --- failing ------------------------------------------------------------------------------------------- */

static void coroutine_fn
co_failing_flusher (void *opaque)
{
  g_assert_cmpint (bdrv_co_flush (opaque), ==, -EIO);
}

static void coroutine_fn
co_poisoning (void *opaque)
{
  uint8_t buf[64] = { 1 };
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 4096);
  mem.fail_ret[MEM_FLUSH] = -EIO;
  mem.max_delay = 5;
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, 0);
  for (int j = 0; j < CALLERS; j++)
    test_start (co_failing_flusher, bs, &running);
  co_test_wait (&running);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 1);
  g_assert_true (bdrv_is_poisoned (bs));
  mem.fail_ret[MEM_FLUSH] = 0;
  g_assert_cmpint (bdrv_co_flush (bs), ==, -EIO);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 64, buf, 0), ==, -EIO);
  g_assert_cmpint (bdrv_co_pread (bs, 0, 64, buf), ==, 0);
  g_assert_false (bdrv_co_truncate (bs, 100, NULL));
  g_assert_cmpint (bdrv_co_unref (bs), ==, -EIO);
  mem_file_clear (&mem);
}

static void
test_poisoning (void)
{
  test_run (co_poisoning, NULL);
}

/* --- zeroes -------------------------------------------------------------------------------------------- */

static void
fill (MemFile *mem)
{
  memset (mem->data->data, 0xff, mem->data->len);
}

static void
assert_zeroed (const MemFile *mem, int64_t offset, int64_t bytes)
{
  for (int64_t i = 0; i < mem->data->len; i++)
    g_assert_cmpint (mem->data->data[i], ==, i >= offset && i < offset + bytes ? 0 : 0xff);
}

static void coroutine_fn
co_zeroes (void *opaque)
{
  static const struct
  {
    int64_t offset, bytes;
  } ranges[] = { { 0, 65536 }, { 4096, 8192 }, { 1, 8191 }, { 100, 50 },
                 { 5, 4091 },  { 8191, 4098 }, { 4095, 2 }, { 60000, 5536 } };
  MemFile mem;

  mem_file_init (&mem, 65536);
  mem.limits.request_alignment = 512;
  mem.limits.zeroes_alignment = 4096;
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  for (int ret = 0; ret >= -ENOTSUP; ret -= ENOTSUP)
    for (size_t i = 0; i < G_N_ELEMENTS (ranges); i++)
      {
        mem.zeroes_ret = ret;
        fill (&mem);
        g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, ranges[i].offset, ranges[i].bytes, 0), ==, 0);
        assert_zeroed (&mem, ranges[i].offset, ranges[i].bytes);
      }

  fill (&mem);
  g_array_set_size (mem.log, 0);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 8192, BDRV_REQ_NO_FALLBACK), ==, -ENOTSUP);
  mem.zeroes_ret = 0;
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 8191, BDRV_REQ_NO_FALLBACK), ==, -ENOTSUP);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 99999, BDRV_REQ_NO_FALLBACK), ==, 0); /* by length */
  g_assert_cmpint (bdrv_length (bs), ==, 99999);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 4096, 4096, BDRV_REQ_NO_FALLBACK | BDRV_REQ_MAY_UNMAP), ==, 0);
  const MemRequest *last = &g_array_index (mem.log, MemRequest, mem.log->len - 1);
  g_assert_cmpint (last->op, ==, MEM_ZEROES);
  g_assert_cmpint (last->flags & BDRV_REQ_MAY_UNMAP, !=, 0);
  for (guint i = 0; i < mem.log->len; i++)
    g_assert_cmpint (g_array_index (mem.log, MemRequest, i).op, !=, MEM_WRITE);

  /* An error of the driver's is an error. */
  mem.zeroes_ret = -EIO;
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 8192, 0), ==, -EIO);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_zeroes (void)
{
  test_run (co_zeroes, NULL);
}

static void coroutine_fn
co_zeroes_growth (void *opaque)
{
  uint8_t buf[100];
  MemFile mem;

  mem_file_init (&mem, 1000);
  fill (&mem);
  mem.limits.request_alignment = 512;
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 900, 5000, 0), ==, 0);
  g_assert_cmpint (mem.data->len, ==, 5900);
  g_assert_cmpint (bdrv_length (bs), ==, 5900);
  assert_zeroed (&mem, 900, 5000);
  g_assert_cmpint (bdrv_co_pread (bs, 5850, 100, buf), ==, 0);
  /* Far behind the end: a fixed length refuses. */
  mem.fixed_length = true;
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 9000, 5000, 0), ==, -ENOSPC);
  g_assert_cmpint (bdrv_length (bs), ==, 5900);
  g_assert_cmpint (bdrv_co_pwrite (bs, 9000, 100, buf, 0), ==, -ENOSPC);
  g_assert_cmpint (bdrv_length (bs), ==, 5900);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_zeroes_growth (void)
{
  test_run (co_zeroes_growth, NULL);
}

/* --- discard and length -------------------------------------------------------------------------------- */

static void coroutine_fn
co_discard (void *opaque)
{
  MemFile mem;

  mem_file_init (&mem, 65000);
  mem.limits.discard_alignment = 3 * 512; /* any number will do */
  fill (&mem);
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 1, 3000), ==, 0);
  g_assert_cmpuint (mem.count[MEM_DISCARD], ==, 0);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 1, 4000), ==, 0);
  assert_zeroed (&mem, 1536, 1536);
  fill (&mem);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 61440, 1000000), ==, 0);
  assert_zeroed (&mem, 61440, 3072);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 100000, 1000000), ==, 0);
  g_assert_cmpint (bdrv_co_pdiscard (bs, -1, 10), ==, -EINVAL);
  mem.fail_ret[MEM_DISCARD] = -ENOTSUP;
  g_assert_cmpint (bdrv_co_pdiscard (bs, 0, 3072), ==, 0);
  mem.fail_ret[MEM_DISCARD] = -EIO;
  g_assert_cmpint (bdrv_co_pdiscard (bs, 0, 3072), ==, -EIO);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_discard (void)
{
  test_run (co_discard, NULL);
}

static void coroutine_fn
co_truncator (void *opaque)
{
  g_assert_true (bdrv_co_truncate (opaque, 2048, NULL));
}

/* A change of length waits for the writes behind the new end that came before it, and no others. */
static void coroutine_fn
co_truncate (void *opaque)
{
  uint8_t buf[64] = { 1 };
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 4096);
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  mem.max_delay = 10;
  for (int i = 0; i < 50; i++)
    {
      test_start (co_truncator, bs, &running);
      g_assert_cmpint (bdrv_co_pwrite (bs, 4000, 64, buf, 0), ==, 0);
      g_assert_cmpint (bdrv_length (bs), ==, 4064);
      co_test_wait (&running);
      g_assert_cmpint (mem.data->len, ==, 4064);
    }
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_truncate (void)
{
  test_run (co_truncate, NULL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/core/flush/counting", test_counting);
  g_test_add_func ("/core/flush/write-back", test_write_back);
  g_test_add_func ("/core/flush/joining", test_joining);
  g_test_add_func ("/core/flush/ordering", test_ordering);
  g_test_add_func ("/core/flush/poisoning", test_poisoning);
  g_test_add_func ("/core/zeroes/edges", test_zeroes);
  g_test_add_func ("/core/zeroes/growth", test_zeroes_growth);
  g_test_add_func ("/core/discard", test_discard);
  g_test_add_func ("/core/truncate", test_truncate);
  return g_test_run ();
}
