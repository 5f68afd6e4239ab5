/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Block status: of one node, followed into its container, and through a chain of layers of any length. */
#include "test-core-util.h"

#include <checked.h>

#include <errno.h>
#include <string.h>

/* A format of 4 KiB blocks with a map of letters: 'd' data, 'z' zero, '.' nothing.  Guest offset x stands at
 * container offset x + 512. */
#define BLOCK 4096
#define PHASE 512

typedef struct
{
  const char *map;
  int64_t bytes;
  uint32_t alignment;
} MapImage;

static const MapImage *opening_image;

static bool coroutine_fn
map_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  *(const MapImage **)bs->opaque = opening_image;
  bs->bytes = opening_image->bytes;
  bs->limits.request_alignment = opening_image->alignment;
  return true;
}

static char
letter_at (BlockDriverState *bs, int64_t offset)
{
  return (*(const MapImage **)bs->opaque)->map[offset / BLOCK];
}

static int coroutine_fn
map_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  while (bytes > 0)
    {
      int64_t n = MIN (bytes, BLOCK - offset % BLOCK);
      int ret = 0;
      if (letter_at (bs, offset) == 'd')
        ret = bdrv_co_preadv (bs->file, offset + PHASE, n, qiov, qiov_offset);
      else if (letter_at (bs, offset) == '.' && bs->backing)
        ret = bdrv_co_preadv (bs->backing, offset, n, qiov, qiov_offset);
      else
        io_vector_memset (qiov, qiov_offset, 0, n);
      if (ret < 0)
        return ret;
      offset += n;
      bytes -= n;
      qiov_offset += n;
    }
  return 0;
}

static int coroutine_fn
map_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file)
{
  char letter = letter_at (bs, offset);
  int64_t end = round_up (offset + 1, BLOCK);

  g_assert_cmpint (offset % bs->limits.request_alignment, ==, 0);
  g_assert_cmpint (offset + bytes, <=, bs->bytes);
  while (end < offset + bytes && letter_at (bs, end) == letter)
    end += BLOCK;
  *pnum = MIN (bytes, end - offset);
  if (letter == '.')
    return 0;
  if (letter == 'z')
    return BDRV_BLOCK_ZERO;
  *map = offset + PHASE;
  *file = bs->file;
  return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
}

static const BlockDriver map_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "map",
  .instance_size = sizeof (MapImage *),
  .co_open = map_co_open,
  .co_preadv = map_co_preadv,
  .co_block_status = map_co_block_status,
};

static BlockDriverState *coroutine_fn
co_open_map (const MapImage *image, MemFile *mem, BlockDriverState *backing, bool filtered)
{
  BlockDriverState *file = co_mem_open (mem, 0);

  if (filtered)
    file = co_node_on (&test_filter_driver, file, 0);
  opening_image = image;
  BlockDriverState *bs = co_node_on (&map_driver, file, 0);
  bs->backing = backing;
  return bs;
}

#define ALLOCATED BDRV_BLOCK_ALLOCATED
#define DATA      (BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | ALLOCATED)

/* --- one node ------------------------------------------------------------------------------------------ */

static void coroutine_fn
co_one_node (void *opaque)
{
  bool filtered = opaque != NULL;
  MapImage image = { "dd.z..", 6 * BLOCK - 1000, 512 };
  BlockDriverState *file;
  int64_t n, map;
  MemFile mem;

  mem_file_init (&mem, 3 * BLOCK);
  mem.hole_start = PHASE + 1024;
  mem.hole_end = PHASE + 2048;
  BlockDriverState *bs = co_open_map (&image, &mem, NULL, filtered);
  BlockDriverState *protocol = bdrv_protocol_node (bs);

  /* Data, a hole of the container in it, data. */
  g_assert_cmpint (bdrv_co_block_status (bs, 0, 999999, &n, &map, &file), ==, DATA);
  g_assert_cmpint (n, ==, 1024);
  g_assert_cmpint (map, ==, PHASE);
  g_assert_true (file == protocol);
  g_assert_cmpint (bdrv_co_block_status (bs, 1030, 999999, &n, &map, &file), ==, DATA | BDRV_BLOCK_ZERO);
  g_assert_cmpint (n, ==, 2048 - 1030);
  g_assert_cmpint (map, ==, PHASE + 1030);
  g_assert_true (file == protocol);
  g_assert_cmpint (bdrv_co_block_status (bs, 2049, 999999, &n, &map, NULL), ==, DATA);
  g_assert_cmpint (n, ==, 2 * BLOCK - 2049);
  g_assert_cmpint (map, ==, PHASE + 2049);
  g_assert_cmpint (bdrv_co_block_status (bs, 2049, 3, &n, NULL, NULL), ==, DATA);
  g_assert_cmpint (n, ==, 3);

  /* Nothing here and no parent: zeros, but not this node's. */
  g_assert_cmpint (bdrv_co_block_status (bs, 2 * BLOCK, BLOCK, &n, &map, &file), ==, BDRV_BLOCK_ZERO);
  g_assert_cmpint (n, ==, BLOCK);
  g_assert_cmpint (bdrv_co_block_status (bs, 3 * BLOCK, 9 * BLOCK, &n, &map, &file), ==,
                   BDRV_BLOCK_ZERO | ALLOCATED);
  g_assert_cmpint (n, ==, BLOCK);

  /* The end, and what is past it. */
  g_assert_cmpint (bdrv_co_block_status (bs, 4 * BLOCK, 9 * BLOCK, &n, &map, &file), ==,
                   BDRV_BLOCK_ZERO | BDRV_BLOCK_EOF);
  g_assert_cmpint (n, ==, 2 * BLOCK - 1000);
  g_assert_cmpint (bdrv_co_block_status (bs, 7 * BLOCK, 99, &n, &map, &file), ==,
                   BDRV_BLOCK_ZERO | ALLOCATED | BDRV_BLOCK_EOF);
  g_assert_cmpint (n, ==, 99);
  g_assert_cmpint (bdrv_co_block_status (bs, 0, 0, &n, &map, &file), ==, -EINVAL);
  g_assert_cmpint (bdrv_co_block_status (bs, -1, 5, &n, &map, &file), ==, -EINVAL);

  g_assert_cmpint (bdrv_co_is_zero (bs, 0, 10), ==, 0);
  g_assert_cmpint (bdrv_co_is_zero (bs, 1024, 1024), ==, 1);
  g_assert_cmpint (bdrv_co_is_zero (bs, 1024, 1025), ==, 0);
  g_assert_cmpint (bdrv_co_is_zero (bs, 2 * BLOCK, 99 * BLOCK), ==, 1);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_one_node (gconstpointer data)
{
  test_run (co_one_node, (void *)data);
}

/* Holes that do not keep to anybody's alignment: the answers keep to that of the node asked. */
static void coroutine_fn
co_odd_hole (void *opaque)
{
  MapImage image = { "dd", 2 * BLOCK, 512 };
  int64_t n, map;
  MemFile mem;

  mem_file_init (&mem, 4 * BLOCK);
  mem.limits.request_alignment = 4096;
  mem.hole_start = PHASE + 1000;
  mem.hole_end = PHASE + 3000;
  BlockDriverState *bs = co_open_map (&image, &mem, NULL, false);
  static const struct
  {
    int64_t offset, bytes, n;
    bool zero;
  } cases[] = { { 0, 8192, 512, false },    { 512, 7680, 512, false },  { 600, 7000, 424, false },
                { 1000, 7000, 1560, true }, { 1024, 10, 10, true },     { 1024, 7000, 1536, true },
                { 2560, 100, 100, true },   { 2561, 5000, 511, false }, { 3072, 5120, 5120, false } };
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      int ret = bdrv_co_block_status (bs, cases[i].offset, cases[i].bytes, &n, &map, NULL);
      g_assert_cmpint (ret & ~BDRV_BLOCK_EOF, ==, DATA | (cases[i].zero ? BDRV_BLOCK_ZERO : 0));
      g_assert_cmpint (n, ==, cases[i].n);
      g_assert_cmpint (map, ==, PHASE + cases[i].offset);
    }
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_odd_hole (void)
{
  test_run (co_odd_hole, NULL);
}

/* Data that a short container does not hold reads as zeros and stands nowhere. */
static void coroutine_fn
co_short_container (void *opaque)
{
  MapImage image = { "dd", 2 * BLOCK, 1 };
  BlockDriverState *file;
  int64_t n, map;
  MemFile mem;

  mem_file_init (&mem, BLOCK);
  BlockDriverState *bs = co_open_map (&image, &mem, NULL, true);
  g_assert_cmpint (bdrv_co_block_status (bs, 0, 2 * BLOCK, &n, &map, &file), ==, DATA);
  g_assert_cmpint (n, ==, BLOCK - PHASE);
  int ret = bdrv_co_block_status (bs, BLOCK, BLOCK, &n, &map, &file);
  g_assert_cmpint (ret, ==, BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | ALLOCATED | BDRV_BLOCK_EOF);
  g_assert_cmpint (n, ==, BLOCK);
  bdrv_co_unref (bs);
  mem_file_clear (&mem);
}

static void
test_short_container (void)
{
  test_run (co_short_container, NULL);
}

/* --- chains -------------------------------------------------------------------------------------------- */

#define LAYERS 5

/* What the chain's answer for one byte must be, thought out one byte at a time. */
static int
model_status (const MapImage *images, int from, int to, int64_t offset, int *depth)
{
  for (int i = from; i < to; i++)
    {
      char letter = offset < images[i].bytes ? images[i].map[offset / BLOCK] : 'z';
      *depth = i - from;
      if (letter == 'd')
        return BDRV_BLOCK_DATA | ALLOCATED;
      if (letter == 'z')
        return BDRV_BLOCK_ZERO | ALLOCATED;
    }
  return to == LAYERS ? BDRV_BLOCK_ZERO : 0;
}

static void coroutine_fn
co_random_chain (void *opaque)
{
  MapImage images[LAYERS];
  MemFile mem[LAYERS];
  char maps[LAYERS][13] = { { 0 } };
  BlockDriverState *nodes[LAYERS + 1] = { NULL };
  uint8_t buf[12 * BLOCK];

  for (int i = LAYERS - 1; i >= 0; i--)
    {
      for (int j = 0; j < 12; j++)
        maps[i][j] = "d......zz"[g_test_rand_int_range (0, 8)];
      images[i] = (MapImage){ maps[i], g_test_rand_int_range (1, 12 * 8) * 512, 512 };
      mem_file_init (&mem[i], 16 * BLOCK);
      memset (mem[i].data->data, i + 1, mem[i].data->len);
      nodes[i] = co_open_map (&images[i], &mem[i], nodes[i + 1], false);
    }
  g_assert_cmpint (bdrv_chain_depth (nodes[0]), ==, LAYERS);
  g_assert_true (bdrv_chain_get (nodes[0], 2) == nodes[2]);
  g_assert_null (bdrv_chain_get (nodes[0], LAYERS));

  g_assert_cmpint (bdrv_co_pread (nodes[0], 0, sizeof buf, buf), ==, 0);
  for (int i = 0; i < 200; i++)
    {
      int from = g_test_rand_int_range (0, LAYERS), to = g_test_rand_int_range (from, LAYERS + 1);
      int64_t offset = g_test_rand_int_range (0, 12 * BLOCK);
      int64_t bytes = g_test_rand_int_range (1, 3 * BLOCK);
      int64_t n, map;
      BlockDriverState *file;
      int depth = -1, model_depth = -1;

      if (from == to)
        continue;
      int ret = bdrv_co_block_status_above (nodes[from], nodes[to], offset, bytes, &n, &map, &file, &depth);
      g_assert_cmpint (ret, >=, 0);
      g_assert_cmpint (n, >, 0);
      g_assert_cmpint (n, <=, bytes);
      for (int64_t at = offset; at < offset + n;
           at += at + 100 < offset + n || at == offset + n - 1 ? 100 : offset + n - 1 - at)
        {
          int model = model_status (images, from, to, at, &model_depth);
          g_assert_cmpint (ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | ALLOCATED), ==, model);
          if (model & ALLOCATED)
            g_assert_cmpint (depth, ==, model_depth);
          if (from == 0 && to == LAYERS && at < 12 * BLOCK)
            g_assert_cmpint (buf[at], ==, model & BDRV_BLOCK_DATA ? depth + 1 : 0);
        }
      if (ret & BDRV_BLOCK_DATA)
        {
          g_assert_cmpint (map, ==, offset + PHASE);
          g_assert_true (file == nodes[from + depth]->file);
        }
    }
  bdrv_co_unref (nodes[0]);
  for (int i = 0; i < LAYERS; i++)
    mem_file_clear (&mem[i]);
}

static void
test_random_chain (void)
{
  for (int i = 0; i < 100; i++)
    test_run (co_random_chain, NULL);
}

/* --- depth --------------------------------------------------------------------------------------------- */

static void coroutine_fn
co_deep_chain (void *opaque)
{
  MapImage top = { "..", 2 * BLOCK, 1 }, base = { "dd", 2 * BLOCK, 1 };
  BlockDriverState *bs = NULL;
  uint8_t buf[100];
  int64_t n;
  int depth;
  MemFile mem;

  mem_file_init (&mem, 3 * BLOCK);
  memset (mem.data->data, 9, mem.data->len);
  for (int i = 0; i < BDRV_MAX_CHAIN_DEPTH; i++)
    bs = co_open_map (i == 0 ? &base : &top, &mem, bs, false);
  g_assert_cmpint (bdrv_co_pread (bs, 4000, 100, buf), ==, 0);
  g_assert_cmpint (buf[99], ==, 9);
  g_assert_cmpint (bdrv_co_block_status_above (bs, NULL, 0, 2 * BLOCK, &n, NULL, NULL, &depth) & DATA, ==,
                   DATA);
  g_assert_cmpint (depth, ==, BDRV_MAX_CHAIN_DEPTH - 1);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  mem_file_clear (&mem);
}

static void
test_deep_chain (void)
{
  test_run (co_deep_chain, NULL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/core/status/one-node", NULL, test_one_node);
  g_test_add_data_func ("/core/status/one-node-filtered", "", test_one_node);
  g_test_add_func ("/core/status/odd-hole", test_odd_hole);
  g_test_add_func ("/core/status/short-container", test_short_container);
  g_test_add_func ("/core/status/random-chain", test_random_chain);
  g_test_add_func ("/core/status/deep-chain", test_deep_chain);
  return g_test_run ();
}
