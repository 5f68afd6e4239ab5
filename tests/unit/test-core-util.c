/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "test-core-util.h"

#include <checked.h>

#include <errno.h>
#include <string.h>

/* --- coroutines ---------------------------------------------------------------------------------------- */

static AioContext *
test_context (void)
{
  static AioContext *context;

  if (!context)
    {
      context = aio_context_new (NULL);
      g_assert_nonnull (context);
      aio_context_push (context);
    }
  return context;
}

typedef struct
{
  CoroutineEntry *entry;
  void *opaque;
  unsigned *running;
} Start;

static void coroutine_fn
start_entry (void *opaque)
{
  Start start = *(Start *)opaque;

  g_free (opaque);
  start.entry (start.opaque);
  --*start.running;
}

void
test_start (CoroutineEntry *entry, void *opaque, unsigned *running)
{
  Start *start = g_new (Start, 1);

  *start = (Start){ entry, opaque, running };
  ++*running;
  test_context ();
  coroutine_enter (coroutine_new (start_entry, start));
}

void
test_run (CoroutineEntry *entry, void *opaque)
{
  unsigned running = 0;

  test_start (entry, opaque, &running);
  while (running > 0)
    aio_poll (test_context (), true);
}

static void
run_case (const void *data)
{
  const TestCase *test = data;

  test_run (test->entry, NULL);
}

int
test_run_cases (int argc, char **argv, const TestCase *cases, size_t n)
{
  g_test_init (&argc, &argv, NULL);
  for (size_t i = 0; i < n; i++)
    g_test_add_data_func (cases[i].path, &cases[i], run_case);
  return g_test_run ();
}

void coroutine_fn
co_test_let_others_run (int times)
{
  while (times-- > 0)
    {
      aio_co_schedule (test_context (), coroutine_self ());
      coroutine_yield ();
    }
}

void coroutine_fn
co_test_wait (unsigned *running)
{
  while (*running > 0)
    co_test_let_others_run (1);
}

/* --- memory driver ------------------------------------------------------------------------------------- */

static void
mem_set_length (MemFile *mem, int64_t bytes)
{
  int64_t old = mem->data->len;

  g_byte_array_set_size (mem->data, bytes);
  mem->longest = MAX (mem->longest, bytes);
  if (bytes > old)
    memset (mem->data->data + old, 0, bytes - old);
}

void
mem_file_init (MemFile *mem, int64_t bytes)
{
  memset (mem, 0, sizeof *mem);
  mem->data = g_byte_array_new ();
  mem_set_length (mem, bytes);
  mem->log = g_array_new (FALSE, FALSE, sizeof (MemRequest));
}

void
mem_file_clear (MemFile *mem)
{
  g_assert_cmpuint (mem->active, ==, 0);
  g_byte_array_unref (mem->data);
  g_array_unref (mem->log);
}

typedef struct
{
  MemFile *mem;
} MemState;

static MemFile *opening;

static MemFile *
mem_of (BlockDriverState *bs)
{
  return ((MemState *)bs->opaque)->mem;
}

static int coroutine_fn
mem_begin (BlockDriverState *bs, MemOp op, int64_t offset, int64_t bytes, int flags)
{
  MemFile *mem = mem_of (bs);
  MemRequest request = { op, offset, bytes, flags };

  g_array_append_val (mem->log, request);
  mem->active++;
  if (op == MEM_READ || op == MEM_WRITE)
    mem->max_request_seen = MAX (mem->max_request_seen, bytes);
  if (mem->max_delay > 0)
    co_test_let_others_run (g_test_rand_int_range (0, mem->max_delay + 1));
  int ret = mem->count[op] >= (unsigned)mem->fail_after[op] ? mem->fail_ret[op] : 0;
  mem->count[op]++;
  return ret;
}

static int
mem_end (BlockDriverState *bs, int ret)
{
  mem_of (bs)->active--;
  return ret;
}

static bool coroutine_fn
mem_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  MemState *s = bs->opaque;

  s->mem = opening;
  bs->bytes = s->mem->data->len;
  bs->limits = s->mem->limits;
  return true;
}

static void
mem_check_transfer (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                    size_t qiov_offset)
{
  MemFile *mem = mem_of (bs);

  g_assert_cmpint (bytes, >, 0);
  g_assert_cmpint (offset % bs->limits.request_alignment, ==, 0);
  g_assert_cmpint (bytes % bs->limits.request_alignment, ==, 0);
  g_assert_cmpuint (qiov_offset + bytes, <=, qiov->size);
  struct iovec iov[16];
  int n = io_vector_slice (qiov, qiov_offset, bytes, iov, G_N_ELEMENTS (iov));
  g_assert_cmpint (n, >, 0);
  for (int i = 0; i < n; i++)
    g_assert_cmpuint ((uintptr_t)iov[i].iov_base % bs->limits.memory_alignment, ==, 0);
  if (mem->limits.max_transfer > 0)
    g_assert_cmpint (bytes, <=, mem->limits.max_transfer);
}

static int coroutine_fn
mem_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  MemFile *mem = mem_of (bs);

  mem_check_transfer (bs, offset, bytes, qiov, qiov_offset);
  g_assert_cmpint (offset + bytes, <=, round_up (bs->bytes, bs->limits.request_alignment));
  int ret = mem_begin (bs, MEM_READ, offset, bytes, 0);
  if (ret == 0)
    {
      int64_t inside = CLAMP ((int64_t)mem->data->len - offset, 0, bytes);
      io_vector_from_buf (qiov, qiov_offset, mem->data->data + offset, inside);
      /* What is past the end is the core's to clear. */
      io_vector_memset (qiov, qiov_offset + inside, 0xee, bytes - inside);
    }
  return mem_end (bs, ret);
}

static int coroutine_fn
mem_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  MemFile *mem = mem_of (bs);

  g_assert_false (bs->read_only);
  if (bs->limits.unaligned_end && (offset + bytes) % bs->limits.request_alignment != 0)
    {
      int64_t block = round_down (offset, (int64_t)bs->limits.request_alignment);
      g_assert_cmpint (bytes, >, 0);
      g_assert_cmpint (offset + bytes, <, block + bs->limits.request_alignment);
      g_assert_cmpint (bs->bytes, <, block + bs->limits.request_alignment);
    }
  else
    mem_check_transfer (bs, offset, bytes, qiov, qiov_offset);
  int ret = mem_begin (bs, MEM_WRITE, offset, bytes, 0);
  if (ret == 0 && mem->fixed_length && offset + bytes > mem->data->len)
    ret = -ENOSPC;
  if (ret == 0)
    {
      mem_set_length (mem, MAX ((int64_t)mem->data->len, offset + bytes));
      io_vector_to_buf (qiov, qiov_offset, mem->data->data + offset, bytes);
    }
  return mem_end (bs, ret);
}

static int coroutine_fn
mem_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  MemFile *mem = mem_of (bs);

  g_assert_cmpint (bytes, >, 0);
  g_assert_cmpint (offset % bs->limits.zeroes_alignment, ==, 0);
  g_assert_cmpint (bytes % bs->limits.zeroes_alignment, ==, 0);
  g_assert_cmpint (offset + bytes, <=, bs->bytes);
  int ret = mem_begin (bs, MEM_ZEROES, offset, bytes, flags);
  if (ret == 0)
    ret = mem->zeroes_ret;
  if (ret == 0)
    memset (mem->data->data + offset, 0, bytes);
  return mem_end (bs, ret);
}

static int coroutine_fn
mem_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  MemFile *mem = mem_of (bs);

  g_assert_cmpint (bytes, >, 0);
  g_assert_cmpint (offset % bs->limits.discard_alignment, ==, 0);
  g_assert_cmpint (bytes % bs->limits.discard_alignment, ==, 0);
  g_assert_cmpint (offset + bytes, <=, bs->bytes);
  int ret = mem_begin (bs, MEM_DISCARD, offset, bytes, 0);
  if (ret == 0)
    memset (mem->data->data + offset, 0, bytes);
  return mem_end (bs, ret);
}

static int coroutine_fn
mem_co_flush (BlockDriverState *bs)
{
  return mem_end (bs, mem_begin (bs, MEM_FLUSH, 0, 0, 0));
}

static void coroutine_fn
mem_co_start_writeback (BlockDriverState *bs)
{
  mem_end (bs, mem_begin (bs, MEM_WRITEBACK, 0, 0, 0));
}

static bool coroutine_fn
mem_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  MemFile *mem = mem_of (bs);
  int ret = mem_begin (bs, MEM_TRUNCATE, 0, bytes, 0);

  if (ret == 0 && mem->fixed_length && bytes > mem->data->len)
    ret = -ENOSPC;
  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "cannot be made longer");
  else
    {
      mem_set_length (mem, bytes);
      bs->bytes = bytes;
    }
  mem_end (bs, 0);
  return ret == 0;
}

static int coroutine_fn
mem_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file)
{
  MemFile *mem = mem_of (bs);
  bool hole = offset >= mem->hole_start && offset < mem->hole_end;
  int64_t end = offset + bytes;

  if (hole)
    end = MIN (end, mem->hole_end);
  else if (offset < mem->hole_start)
    end = MIN (end, mem->hole_start);
  *pnum = end - offset;
  *map = offset;
  *file = bs;
  return BDRV_BLOCK_OFFSET_VALID | (hole ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

static int coroutine_fn
mem_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                      int64_t src_offset)
{
  MemFile *mem = mem_of (bs);
  int ret = mem_begin (bs, MEM_COPY, offset, bytes, 0);

  if (ret == 0)
    {
      mem_set_length (mem, MAX ((int64_t)mem->data->len, offset + bytes));
      memcpy (mem->data->data + offset, mem_of (src)->data->data + src_offset, bytes);
    }
  return mem_end (bs, ret);
}

static bool coroutine_fn
mem_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  g_assert_cmpuint (mem_of (bs)->active, ==, 0);
  return true;
}

static const BlockDriver mem_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_PROTOCOL,
  .format_name = "memory",
  .instance_size = sizeof (MemState),
  .co_open = mem_co_open,
  .co_reopen_rw = mem_co_reopen_rw,
  .co_preadv = mem_co_preadv,
  .co_pwritev = mem_co_pwritev,
  .co_pwrite_zeroes = mem_co_pwrite_zeroes,
  .co_pdiscard = mem_co_pdiscard,
  .co_flush = mem_co_flush,
  .co_start_writeback = mem_co_start_writeback,
  .co_truncate = mem_co_truncate,
  .co_block_status = mem_co_block_status,
  .co_copy_range_to = mem_co_copy_range_to,
};

BlockDriverState *coroutine_fn
co_node_on (const BlockDriver *drv, BlockDriverState *file, int flags)
{
  BlockDriverState *bs = bdrv_node_new (drv, "test.img", flags, file);
  GError *error = NULL;
  bool ok = bdrv_co_node_open (bs, NULL, &error);

  g_assert_no_error (error);
  g_assert_true (ok);
  return bs;
}

BlockDriverState *coroutine_fn
co_mem_open (MemFile *mem, int flags)
{
  opening = mem;
  return co_node_on (&mem_driver, NULL, flags);
}

static bool coroutine_fn
filter_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  return true;
}

const BlockDriver test_filter_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "test-filter",
  .co_open = filter_co_open,
};
