/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The request path against a flat model: alignment, read-modify-write, growth, concurrency, refusals. */
#include "test-core-util.h"

#include <checked.h>

#include <errno.h>
#include <string.h>

#define MODEL_BYTES (256 * 1024)

typedef struct
{
  uint32_t request_alignment, memory_alignment;
  int64_t max_transfer;
  bool filtered;
  bool unaligned_end;
} Layout;

static const Layout layouts[] = {
  { 1, 1, 0, false },
  { 512, 1, 0, false },
  { 512, 512, 0, true },
  { 4096, 1, 0, false },
  { 4096, 512, 0, false },
  { 4096, 4096, 65536, true },
  { 1, 16, 1000, false },
  { 512, 512, 8192, false },
  { 8, 1, 24, true },
  { 512, 512, 0, false, true },
  { 4096, 4096, 8192, true, true },
};

static BlockDriverState *coroutine_fn
co_open_layout (MemFile *mem, const Layout *layout)
{
  mem->limits.request_alignment = layout->request_alignment;
  mem->limits.memory_alignment = layout->memory_alignment;
  mem->limits.max_transfer = layout->max_transfer;
  mem->limits.unaligned_end = layout->unaligned_end;

  BlockDriverState *bs = co_mem_open (mem, BDRV_O_RDWR);
  return layout->filtered ? co_node_on (&test_filter_driver, bs, BDRV_O_RDWR) : bs;
}

/* --- one after the other ------------------------------------------------------------------------------- */

typedef struct
{
  uint8_t *bytes;
  int64_t length;
} Model;

static void
model_set (Model *model, int64_t offset, int64_t bytes, const uint8_t *from)
{
  if (offset > model->length)
    memset (model->bytes + model->length, 0, offset - model->length);
  if (from)
    memcpy (model->bytes + offset, from, bytes);
  else
    memset (model->bytes + offset, 0, bytes);
  model->length = MAX (model->length, offset + bytes);
}

/* A request in 1 to 4 pieces of memory at odd addresses. */
static void
scatter (IoVector *qiov, uint8_t *buf, int bytes)
{
  io_vector_init (qiov, 4);
  while (bytes > 0)
    {
      int n = qiov->niov == 3 ? bytes : g_test_rand_int_range (1, bytes + 1);
      io_vector_add (qiov, buf, n);
      buf += n;
      bytes -= n;
    }
}

static void
random_range (unsigned *offset, unsigned *bytes)
{
  static const int steps[] = { 1, 1, 512, 4096 };
  int step = steps[g_test_rand_int_range (0, G_N_ELEMENTS (steps))];
  int64_t most = g_test_rand_int_range (0, 4) == 0 ? MODEL_BYTES / 2 : 12000;

  *bytes = round_up (g_test_rand_int_range (1, most), step);
  *offset = round_down (g_test_rand_int_range (0, MODEL_BYTES - *bytes), step);
}

static void coroutine_fn
co_random_request (BlockDriverState *bs, Model *model, uint8_t *buf)
{
  unsigned offset, bytes;
  IoVector qiov;

  random_range (&offset, &bytes);
  uint8_t *at = buf + g_test_rand_int_range (0, 2) * g_test_rand_int_range (0, 600);
  scatter (&qiov, at, bytes);
  switch (g_test_rand_int_range (0, 8))
    {
    case 0:
    case 1:
    case 2:
      memset (at, 0xaa, bytes);
      g_assert_cmpint (bdrv_co_preadv (bs, offset, bytes, &qiov, 0), ==, 0);
      for (unsigned i = 0; i < bytes; i++)
        g_assert_cmpint (at[i], ==, offset + i < model->length ? model->bytes[offset + i] : 0);
      break;
    case 3:
    case 4:
    case 5:
      for (unsigned i = 0; i < bytes; i++)
        at[i] = g_test_rand_int ();
      g_assert_cmpint (bdrv_co_pwritev (bs, offset, bytes, &qiov, 0, 0), ==, 0);
      model_set (model, offset, bytes, at);
      break;
    case 6:
      g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, offset, bytes, BDRV_REQ_MAY_UNMAP), ==, 0);
      model_set (model, offset, bytes, NULL);
      break;
    default:
      g_assert_true (bdrv_co_truncate (bs, offset, NULL));
      if (offset > model->length)
        model_set (model, offset, 0, NULL);
      model->length = offset;
      break;
    }
  g_assert_cmpint (bdrv_length (bs), ==, model->length);
  io_vector_clear (&qiov);
}

static void coroutine_fn
co_sequential (void *opaque)
{
  g_autofree uint8_t *buf = g_malloc (MODEL_BYTES + 1024);
  Model model = { g_malloc0 (MODEL_BYTES), 10000 };
  MemFile mem;

  mem_file_init (&mem, model.length);
  BlockDriverState *bs = co_open_layout (&mem, opaque);
  for (int i = 0; i < 600; i++)
    {
      co_random_request (bs, &model, buf);
      g_assert_cmpmem (mem.data->data, mem.data->len, model.bytes, model.length);
    }
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_free (model.bytes);
  mem_file_clear (&mem);
}

static void
test_sequential (gconstpointer data)
{
  test_run (co_sequential, (void *)data);
}

/* --- side by side -------------------------------------------------------------------------------------- */

#define WRITERS 16

typedef struct
{
  BlockDriverState *bs;
  uint8_t *model;
  int number;
} Writer;

/* Each writer has its own bytes, but they lie in the same blocks. */
static void coroutine_fn
co_writer (void *opaque)
{
  Writer *writer = opaque;

  for (int i = 0; i < 60; i++)
    {
      int64_t block = g_test_rand_int_range (0, 4) * 4096 + writer->number * 256;
      int64_t offset = block + g_test_rand_int_range (0, 256);
      int64_t bytes = g_test_rand_int_range (1, block + 256 - offset + 1);
      uint8_t buf[256];

      memset (buf, g_test_rand_int (), bytes);
      if (g_test_rand_int_range (0, 5) == 0)
        {
          memset (buf, 0, bytes);
          g_assert_cmpint (bdrv_co_pwrite_zeroes (writer->bs, offset, bytes, 0), ==, 0);
        }
      else
        g_assert_cmpint (bdrv_co_pwrite (writer->bs, offset, bytes, buf, 0), ==, 0);
      memcpy (writer->model + offset, buf, bytes);
      g_assert_cmpint (bdrv_co_pread (writer->bs, offset, bytes, buf), ==, 0);
      g_assert_cmpmem (buf, bytes, writer->model + offset, bytes);
    }
}

static void coroutine_fn
co_concurrent (void *opaque)
{
  g_autofree uint8_t *model = g_malloc0 (4 * 4096);
  Writer writers[WRITERS];
  unsigned running = 0;
  MemFile mem;

  /* Unaligned length: the last blocks are written past the end, and cut. */
  mem_file_init (&mem, 3 * 4096 + 100);
  mem.max_delay = 3;
  BlockDriverState *bs = co_open_layout (&mem, opaque);
  for (int i = 0; i < WRITERS; i++)
    {
      writers[i] = (Writer){ bs, model, i };
      test_start (co_writer, &writers[i], &running);
    }
  co_test_wait (&running);
  bdrv_co_drain (bs);
  g_assert_cmpint (bdrv_length (bs), ==, mem.data->len);
  g_assert_cmpint (mem.data->len, <=, 4 * 4096);
  g_assert_cmpmem (mem.data->data, mem.data->len, model, mem.data->len);
  for (size_t i = mem.data->len; i < 4 * 4096; i++)
    g_assert_cmpint (model[i], ==, 0);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_concurrent (gconstpointer data)
{
  for (int i = 0; i < 4; i++)
    test_run (co_concurrent, (void *)data);
}

/* --- appending ----------------------------------------------------------------------------------------- */

static void coroutine_fn
co_appender (void *opaque)
{
  Writer *writer = opaque;
  uint8_t buf[700];

  memset (buf, writer->number + 1, sizeof buf);
  g_assert_cmpint (bdrv_co_pwrite (writer->bs, writer->number * (int64_t)sizeof buf, sizeof buf, buf, 0), ==,
                   0);
}

/* Writers past the end of an unaligned file, in any order: no growth is cut off, nothing is left over. */
static void coroutine_fn
co_appending (void *opaque)
{
  Writer writers[WRITERS];
  int order[WRITERS];
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 0);
  mem.max_delay = 4;
  BlockDriverState *bs = co_open_layout (&mem, opaque);
  for (int i = 0; i < WRITERS; i++)
    order[i] = i;
  for (int i = WRITERS - 1; i > 0; i--)
    {
      int j = g_test_rand_int_range (0, i + 1), swap = order[i];
      order[i] = order[j];
      order[j] = swap;
    }
  for (int i = 0; i < WRITERS; i++)
    {
      writers[i] = (Writer){ bs, NULL, order[i] };
      test_start (co_appender, &writers[i], &running);
    }
  co_test_wait (&running);
  g_assert_cmpint (mem.data->len, ==, WRITERS * 700);
  /* Without padding the file was never longer. */
  if (mem.limits.unaligned_end)
    g_assert_cmpint (mem.longest, ==, WRITERS * 700);
  g_assert_cmpint (bdrv_length (bs), ==, WRITERS * 700);
  for (int i = 0; i < WRITERS * 700; i++)
    g_assert_cmpint (mem.data->data[i], ==, i / 700 + 1);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_appending (gconstpointer data)
{
  for (int i = 0; i < 20; i++)
    test_run (co_appending, (void *)data);
}

/* --- serialising --------------------------------------------------------------------------------------- */

typedef struct
{
  BlockDriverState *bs;
  int64_t offset;
  bool write;
  int flags;
  bool done;
} Request;

static void coroutine_fn
co_request (void *opaque)
{
  Request *request = opaque;
  uint8_t buf[100] = { 0 };

  if (request->write)
    g_assert_cmpint (bdrv_co_pwrite (request->bs, request->offset, 100, buf, request->flags), ==, 0);
  else
    g_assert_cmpint (bdrv_co_pread (request->bs, request->offset, 100, buf), ==, 0);
  request->done = true;
}

/* The place in the log of the request at @offset, or the log's length. */
static unsigned
place_in_log (const MemFile *mem, int64_t offset)
{
  for (unsigned i = 0; i < mem->log->len; i++)
    if (g_array_index (mem->log, MemRequest, i).offset == offset)
      return i;
  return mem->log->len;
}

static void coroutine_fn
co_serialising (void *opaque)
{
  MemFile mem;
  unsigned running = 0;

  mem_file_init (&mem, 1000);
  mem.max_delay = 3;
  BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
  for (int i = 0; i < 50; i++)
    {
      Request before = { bs, 50, true }, alone = { bs, 100, true, BDRV_REQ_SERIALISING };
      Request read = { bs, 150 }, elsewhere = { bs, 300, true };

      g_array_set_size (mem.log, 0);
      test_start (co_request, &before, &running);
      test_start (co_request, &alone, &running);
      test_start (co_request, &read, &running);
      test_start (co_request, &elsewhere, &running);
      /* Nobody waits for what he does not overlap. */
      g_assert_cmpuint (place_in_log (&mem, 300), <, mem.log->len);
      while (running > 0)
        {
          /* The overlapping ones are never in the driver together. */
          g_assert_true (before.done || place_in_log (&mem, 100) == mem.log->len);
          g_assert_true (alone.done || place_in_log (&mem, 150) == mem.log->len);
          co_test_let_others_run (1);
        }
      g_assert_cmpuint (mem.log->len, ==, 4);
    }
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_serialising (void)
{
  test_run (co_serialising, NULL);
}

/* --- refusals ------------------------------------------------------------------------------------------ */

static bool coroutine_fn
plain_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  bs->bytes = 1000;
  return true;
}

static int coroutine_fn
plain_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset)
{
  return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
}

static int coroutine_fn
plain_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                  size_t qiov_offset)
{
  return bdrv_co_pwritev (bs->file, offset, bytes, qiov, qiov_offset, 0);
}

static const BlockDriver plain_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "plain",
  .co_open = plain_co_open,
  .co_preadv = plain_co_preadv,
  .co_pwritev = plain_co_pwritev,
};

static void coroutine_fn
co_refusals (void *opaque)
{
  g_autoptr (GError) error = NULL;
  uint8_t buf[512] = { 0 };
  MemFile mem;

  mem_file_init (&mem, 2000);
  BlockDriverState *ro = co_mem_open (&mem, 0);
  g_assert_cmpint (bdrv_co_pwrite (ro, 0, 10, buf, 0), ==, -EROFS);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (ro, 0, 10, 0), ==, -EROFS);
  g_assert_cmpint (bdrv_co_pdiscard (ro, 0, 10), ==, -EROFS);
  g_assert_false (bdrv_co_truncate (ro, 10, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_READ_ONLY);
  g_assert_cmpint (bdrv_co_flush (ro), ==, 0);
  g_assert_true (bdrv_co_reopen_rw (ro, NULL));
  g_assert_false (ro->read_only);
  g_assert_cmpint (bdrv_co_pwrite (ro, 0, 10, buf, 0), ==, 0);
  g_assert_cmpint (bdrv_co_unref (ro), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, 1); /* by closing */

  BlockDriverState *bs = co_node_on (&plain_driver, co_mem_open (&mem, BDRV_O_RDWR), BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_pwrite (bs, 990, 11, buf, 0), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 990, 11, 0), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pwrite (bs, 990, 10, buf, 0), ==, 0);
  g_assert_cmpint (bdrv_co_pwrite (bs, -1, 10, buf, 0), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, -1, buf, 0), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pwrite (bs, INT64_MAX - 5, 10, buf, 0), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pread (bs, INT64_MAX - 5, 10, buf), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pread (bs, -10, 10, buf), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 0, buf, 0), ==, 0);
  g_assert_cmpint (bdrv_co_pread (bs, 5000, 0, buf), ==, 0);
  g_assert_false (bdrv_co_truncate (bs, 10, NULL));
  g_assert_false (bdrv_co_truncate (bs, -1, NULL));

  memset (mem.data->data, 7, mem.data->len);
  memset (buf, 1, sizeof buf);
  g_assert_cmpint (bdrv_co_pread (bs, 995, 20, buf), ==, 0); /* zeros past the end of the *node* */
  for (int i = 0; i < 20; i++)
    g_assert_cmpint (buf[i], ==, i < 5 ? 7 : 0);

  unsigned flushes = mem.count[MEM_FLUSH];
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 10, buf, BDRV_REQ_FUA), ==, 0);
  g_assert_cmpuint (mem.count[MEM_FLUSH], ==, flushes + 1);

  bdrv_poison (bs->file);
  g_assert_false (bdrv_is_poisoned (bs));
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 10, buf, 0), ==, -EIO);
  g_assert_cmpint (bdrv_co_flush (bs), ==, -EIO);
  g_assert_cmpint (bdrv_co_pread (bs, 0, 10, buf), ==, 0);
  bdrv_poison (bs);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 10, 0), ==, -EIO);
  g_assert_cmpint (bdrv_co_unref (bs), ==, -EIO);
  mem_file_clear (&mem);
}

static void
test_refusals (void)
{
  test_run (co_refusals, NULL);
}

/* A failed piece of a request fails it, and nothing is left tracked. */
static void coroutine_fn
co_failures (void *opaque)
{
  g_autofree uint8_t *buf = g_malloc0 (10000);

  for (int op = MEM_READ; op <= MEM_WRITE; op++)
    for (int after = 0; after < 3; after++)
      {
        MemFile mem;
        mem_file_init (&mem, 10000);
        mem.limits.request_alignment = 512;
        mem.limits.max_transfer = 4096;
        mem.fail_ret[op] = -ENOSPC;
        mem.fail_after[op] = after;
        BlockDriverState *bs = co_mem_open (&mem, BDRV_O_RDWR);
        int ret =
            op == MEM_READ ? bdrv_co_pread (bs, 100, 9000, buf) : bdrv_co_pwrite (bs, 100, 9000, buf, 0);
        g_assert_cmpint (ret, ==, -ENOSPC);
        g_assert_cmpint (bdrv_length (bs), ==, 10000);
        bdrv_co_drain (bs);
        bdrv_co_unref (bs);
        mem_file_clear (&mem);
      }
}

static void
test_failures (void)
{
  test_run (co_failures, NULL);
}

/* --- copying ------------------------------------------------------------------------------------------- */

static void coroutine_fn
co_copy_range (void *opaque)
{
  MemFile a, b;

  mem_file_init (&a, 8192);
  mem_file_init (&b, 4096);
  memset (a.data->data, 5, 8192);
  b.limits.request_alignment = 512;
  BlockDriverState *src = co_mem_open (&a, 0);
  BlockDriverState *dst = co_mem_open (&b, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 2048, 4096, src, 1), ==, 0);
  g_assert_cmpint (bdrv_length (dst), ==, 6144);
  g_assert_cmpint (b.data->data[6143], ==, 5);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 100, 512, src, 0), ==, -ENOTSUP);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 0, 512, src, 8000), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_copy_range_to (src, 0, 512, dst, 0), ==, -EROFS);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 0, 1024, dst, 512), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 0, 512, dst, 2048), ==, 0);
  g_assert_cmpint (b.data->data[511], ==, 5);
  dst = co_node_on (&plain_driver, dst, BDRV_O_RDWR);
  g_assert_cmpint (bdrv_co_copy_range_to (dst, 0, 512, src, 0), ==, -ENOTSUP);
  bdrv_co_unref (src);
  bdrv_co_unref (dst);
  mem_file_clear (&a);
  mem_file_clear (&b);
}

static void
test_copy_range (void)
{
  test_run (co_copy_range, NULL);
}

static void
add_for_layouts (const char *name, GTestDataFunc func)
{
  for (size_t i = 0; i < G_N_ELEMENTS (layouts); i++)
    {
      const Layout *l = &layouts[i];
      g_autofree char *path =
          g_strdup_printf ("/core/io/%s/request%u-memory%u-max%d%s", name, l->request_alignment,
                           l->memory_alignment, (int)l->max_transfer, l->filtered ? "-filtered" : "");
      g_test_add_data_func (path, l, func);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add_for_layouts ("sequential", test_sequential);
  add_for_layouts ("concurrent", test_concurrent);
  add_for_layouts ("appending", test_appending);
  g_test_add_func ("/core/io/serialising", test_serialising);
  g_test_add_func ("/core/io/refusals", test_refusals);
  g_test_add_func ("/core/io/failures", test_failures);
  g_test_add_func ("/core/io/copy-range", test_copy_range);
  return g_test_run ();
}
