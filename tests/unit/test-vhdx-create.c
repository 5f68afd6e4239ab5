/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making VHDX images: the order of writes, failures at each of them, containers that are not empty. */
#include <string.h>

#include "test-core-util.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

#define HEADER_1 (64 * KIB)
#define HEADER_2 (128 * KIB)

typedef struct
{
  int64_t bytes;
  const char *options[8];
} Want;

/* Makes an image in @mem; what is in it, and its kind, stays the caller's. */
static bool coroutine_fn
co_create (MemFile *mem, const Want *want, GError **error)
{
  const BlockDriver *drv = bdrv_find_driver ("vhdx");
  g_autoptr (BlockOptions) options = block_options_parse (drv->create_options, want->options, error);
  BlockCreateParams params = { .bytes = want->bytes, .options = options, .child_path = "/x.vhdx" };
  BlockDriverState *file = co_mem_open (mem, BDRV_O_RDWR);

  g_assert_nonnull (options);
  file->fixed_length = mem->fixed_length;
  bool ok = bdrv_co_create (drv, file, &params, error);
  bdrv_co_unref (file);
  return ok;
}

static void coroutine_fn
co_create_ok (MemFile *mem, const Want *want)
{
  g_autoptr (GError) error = NULL;

  co_create (mem, want, &error);
  g_assert_no_error (error);
}

static BlockDriverState *coroutine_fn
co_open (MemFile *mem, GError **error)
{
  BlockDriverState *bs = bdrv_node_new (bdrv_find_driver ("vhdx"), "x.vhdx", 0, co_mem_open (mem, 0));

  return bdrv_co_node_open (bs, NULL, error) ? bs : NULL;
}

/* The size of the image, or -1: there is none. */
static int64_t coroutine_fn
co_image_size (MemFile *mem)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = co_open (mem, &error);
  int64_t bytes = bs ? bs->bytes : -1;

  if (bs)
    bdrv_co_unref (bs);
  return bytes;
}

static void
assert_filled (const MemFile *mem, int64_t offset, int64_t end, int byte)
{
  for (int64_t i = offset; i < end; i++)
    if (mem->data->data[i] != byte)
      g_error ("byte %" G_GINT64_FORMAT " of the container is %#x, not %#x", i, mem->data->data[i], byte);
}

static void coroutine_fn
co_assert_reads_zero (MemFile *mem)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = co_open (mem, &error);
  g_autofree uint8_t *buf = g_malloc (MIB);

  g_assert_no_error (error);
  for (int64_t offset = 0; offset < bs->bytes; offset += MIB)
    {
      int64_t n = MIN (MIB, bs->bytes - offset);

      memset (buf, 0xAA, MIB);
      g_assert_cmpint (bdrv_co_pread (bs, offset, n, buf), ==, 0);
      for (int64_t i = 0; i < n; i++)
        g_assert_cmpint (buf[i], ==, 0);
    }
  bdrv_co_unref (bs);
}

static const Want wants[] = {
  { 5 * MIB, { "block_size=1M", NULL } },
  { 5 * MIB + 512, { "block_size=1M", "subformat=fixed", NULL } },
};

/* --- order ---------------------------------------------------------------------------------------------- */

/* The headers, and nothing after them, are written between the last two flushes. */
static void coroutine_fn
headers_come_last (void *opaque)
{
  for (size_t w = 0; w < G_N_ELEMENTS (wants); w++)
    {
      MemFile mem;
      guint flushes = 0, headers = 0;

      mem_file_init (&mem, 0);
      co_create_ok (&mem, &wants[w]);
      g_assert_cmpint (g_array_index (mem.log, MemRequest, mem.log->len - 1).op, ==, MEM_FLUSH);
      for (guint i = mem.log->len; i-- > 0 && flushes < 2;)
        {
          const MemRequest *req = &g_array_index (mem.log, MemRequest, i);

          flushes += req->op == MEM_FLUSH;
          if (req->op == MEM_FLUSH)
            continue;
          g_assert_cmpint (req->op, ==, MEM_WRITE);
          g_assert_true (req->offset == HEADER_1 || req->offset == HEADER_2);
          headers++;
        }
      g_assert_cmpint (flushes, ==, 2);
      g_assert_cmpint (headers, ==, 2);
      for (guint i = 0; i < mem.log->len; i++)
        {
          const MemRequest *req = &g_array_index (mem.log, MemRequest, i);

          headers -= req->op == MEM_WRITE && req->offset < HEADER_2 + 64 * KIB
                     && req->offset + req->bytes > HEADER_1;
        }
      g_assert_cmpint (headers, ==, 0);
      mem_file_clear (&mem);
    }
}

/* --- failures ------------------------------------------------------------------------------------------- */

/* At whatever write, zeroing, flush or truncation it fails: no image, or the old one whole, never a new one. */
static void coroutine_fn
half_made_is_no_image (void *opaque)
{
  static const MemOp ops[] = { MEM_WRITE, MEM_ZEROES, MEM_FLUSH, MEM_TRUNCATE };
  const Want old_image = { 2 * MIB, { NULL } };
  bool is_device = opaque != NULL;

  for (size_t w = 0; w < G_N_ELEMENTS (wants); w++)
    for (size_t o = 0; o < G_N_ELEMENTS (ops); o++)
      {
        int failures = 0;

        for (int n = 0;; n++)
          {
            g_autoptr (GError) error = NULL;
            MemFile mem;
            int64_t size;

            g_assert_cmpint (n, <, 100);
            mem_file_init (&mem, is_device ? 16 * MIB : 0);
            mem.fixed_length = is_device;
            co_create_ok (&mem, &old_image);
            memset (mem.count, 0, sizeof mem.count);
            mem.fail_ret[ops[o]] = -EIO;
            mem.fail_after[ops[o]] = n;
            bool ok = co_create (&mem, &wants[w], &error);
            memset (mem.fail_ret, 0, sizeof mem.fail_ret);
            size = co_image_size (&mem);
            if (ok)
              g_assert_cmpint (size, ==, wants[w].bytes);
            else if (ops[o] == MEM_WRITE || ops[o] == MEM_ZEROES)
              g_assert_true (size == -1 || size == wants[w].bytes || (n == 0 && size == old_image.bytes));
            mem_file_clear (&mem);
            if (ok)
              break;
            failures++;
          }
        if (ops[o] == MEM_WRITE || ops[o] == MEM_FLUSH
            || (is_device ? ops[o] == MEM_ZEROES : ops[o] == MEM_TRUNCATE))
          g_assert_cmpint (failures, >, 0);
      }
}

/* --- devices -------------------------------------------------------------------------------------------- */

static void coroutine_fn
device_with_old_content (void *opaque)
{
  const int64_t device_bytes = 24 * MIB + 100 * KIB;

  for (size_t w = 0; w < G_N_ELEMENTS (wants); w++)
    {
      MemFile mem;
      /* Log, metadata and BAT of 1 MiB each; six blocks. */
      int64_t end = 4 * MIB + (w == 1 ? 6 * MIB : 0);

      mem_file_init (&mem, device_bytes);
      mem.fixed_length = true;
      memset (mem.data->data, 0xEE, device_bytes);
      co_create_ok (&mem, &wants[w]);
      g_assert_cmpint (mem.data->len, ==, device_bytes);
      co_assert_reads_zero (&mem);
      /* Reserved bytes, the log, the BAT behind its entries; then what is no part of the image. */
      assert_filled (&mem, 520 + 8, HEADER_1, 0);
      assert_filled (&mem, 320 * KIB, 2 * MIB, 0);
      assert_filled (&mem, 3 * MIB + 8 * 8, 4 * MIB, 0);
      assert_filled (&mem, end, device_bytes - 4 * KIB, 0xEE);
      assert_filled (&mem, device_bytes - 4 * KIB, device_bytes, 0);
      mem_file_clear (&mem);
    }
}

static void coroutine_fn
device_too_small (void *opaque)
{
  for (size_t w = 0; w < G_N_ELEMENTS (wants); w++)
    {
      g_autoptr (GError) error = NULL;
      MemFile mem;

      mem_file_init (&mem, 4 * MIB - 512 + (w == 1 ? 6 * MIB : 0));
      mem.fixed_length = true;
      memset (mem.data->data, 0xEE, mem.data->len);
      g_assert_false (co_create (&mem, &wants[w], &error));
      g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
      assert_filled (&mem, 0, mem.data->len, 0xEE);
      mem_file_clear (&mem);
    }
}

/* A VHD has its footer at the end, where it would still be found. */
static void coroutine_fn
device_that_held_a_vhd (void *opaque)
{
  const BlockDriver *vhd = bdrv_find_driver ("vhd"), *found;
  g_autoptr (GError) error = NULL;
  BlockCreateParams params = { .bytes = 2 * MIB, .child_path = "/x.vhd" };
  MemFile mem;
  BlockDriverState *file;

  mem_file_init (&mem, 16 * MIB);
  mem.fixed_length = true;
  file = co_mem_open (&mem, BDRV_O_RDWR);
  file->fixed_length = true;
  bdrv_co_create (vhd, file, &params, &error);
  g_assert_no_error (error);
  g_assert_true (bdrv_co_probe (file, NULL, &found, &error));
  g_assert_true (found == vhd);
  bdrv_co_unref (file);
  co_create_ok (&mem, &wants[0]);
  file = co_mem_open (&mem, 0);
  g_assert_true (bdrv_co_probe (file, NULL, &found, &error));
  g_assert_cmpstr (found->format_name, ==, "vhdx");
  bdrv_co_unref (file);
  mem_file_clear (&mem);
}

/* --- what costs nothing --------------------------------------------------------------------------------- */

static void coroutine_fn
refusals_change_nothing (void *opaque)
{
  static const Want refused[] = {
    { 0, { NULL } },
    { 64 * 1024 * 1024 * MIB + 1, { NULL } },
    { MIB, { "subformat=round", NULL } },
    { MIB, { "block_size=512k", NULL } },
    { MIB, { "block_size=3M", NULL } },
    { MIB, { "block_size=512M", NULL } },
    { MIB, { "log_size=0", NULL } },
    { MIB, { "log_size=1025k", NULL } },
    { MIB, { "log_size=2G", NULL } },
    { MIB, { "logical_sector_size=1024", NULL } },
    { MIB, { "physical_sector_size=0", NULL } },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      g_autoptr (GError) error = NULL;
      MemFile mem;

      mem_file_init (&mem, MIB);
      memset (mem.data->data, 0xEE, MIB);
      g_assert_false (co_create (&mem, &refused[i], &error));
      g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
      g_assert_cmpint (mem.data->len, ==, MIB);
      assert_filled (&mem, 0, MIB, 0xEE);
      g_assert_cmpint (mem.count[MEM_WRITE] + mem.count[MEM_ZEROES] + mem.count[MEM_TRUNCATE], ==, 0);
      mem_file_clear (&mem);
    }
}

typedef struct
{
  CoroutineEntry *entry;
  void *opaque;
} Case;

static void
run (const void *data)
{
  const Case *test = data;

  test_run (test->entry, test->opaque);
}

int
main (int argc, char **argv)
{
  static const Case order = { headers_come_last, NULL }, file = { half_made_is_no_image, NULL },
                    device = { half_made_is_no_image, GINT_TO_POINTER (1) },
                    old_content = { device_with_old_content, NULL }, too_small = { device_too_small, NULL },
                    held_a_vhd = { device_that_held_a_vhd, NULL },
                    refusals = { refusals_change_nothing, NULL };

  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/vhdx-create/headers-come-last", &order, run);
  g_test_add_data_func ("/vhdx-create/half-made/file", &file, run);
  g_test_add_data_func ("/vhdx-create/half-made/device", &device, run);
  g_test_add_data_func ("/vhdx-create/device/old-content", &old_content, run);
  g_test_add_data_func ("/vhdx-create/device/too-small", &too_small, run);
  g_test_add_data_func ("/vhdx-create/device/held-a-vhd", &held_a_vhd, run);
  g_test_add_data_func ("/vhdx-create/refusals-change-nothing", &refusals, run);
  return g_test_run ();
}
