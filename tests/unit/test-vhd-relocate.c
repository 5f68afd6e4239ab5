/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Moving a block of a VHD while reads are still under way, of the block that gave up the space and of the one that is
 * moved, and while somebody asks where that is. */
#include "block-test.h"

#include <vhdkit/vhdkit.h>

#define BLOCK  4096
#define SECTOR 512

/* --- a filter that holds reads of one place back -------------------------------------------------------- */

static int64_t held_offset = -1; /* of the file */
static unsigned held;            /* reads that came */
static unsigned let_go;          /* of them */

static void coroutine_fn
let_others_run (void)
{
  aio_co_schedule (coroutine_get_context (coroutine_self ()), coroutine_self ());
  coroutine_yield ();
}

static bool coroutine_fn
gate_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  bs->bytes = bdrv_length (bs->file);
  return true;
}

static int coroutine_fn
gate_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  if (offset == held_offset)
    {
      unsigned number = held++;

      while (offset == held_offset && number >= let_go)
        let_others_run ();
    }
  return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
}

static const BlockDriver gate_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "gate",
  .co_open = gate_co_open,
  .co_preadv = gate_co_preadv,
};

/* --- the test ------------------------------------------------------------------------------------------- */

static const char *path;

typedef struct
{
  BlockDriverState *bs;
  int64_t offset; /* of a read */
  BlockMove move;
  uint8_t data[512];
  int64_t map; /* what the look-up said */
  int ret;
  bool done;
} Task;

static void coroutine_fn
reader (void *opaque)
{
  Task *task = opaque;

  task->ret = bdrv_co_pread (task->bs, task->offset, sizeof task->data, task->data);
  task->done = true;
}

static void coroutine_fn
asker (void *opaque)
{
  Task *task = opaque;
  int64_t n;

  task->ret = bdrv_co_block_status (task->bs, task->offset, SECTOR, &n, &task->map, NULL);
  task->done = true;
}

static void coroutine_fn
mover (void *opaque)
{
  Task *task = opaque;

  task->ret = task->bs->drv->co_relocate (task->bs, &task->move, 1);
  task->done = true;
}

static int64_t
place_of (const BlockLayout *layout, int64_t offset)
{
  for (guint i = 0; i < layout->extents->len; i++)
    if (g_array_index (layout->extents, BlockExtent, i).offset == offset)
      return g_array_index (layout->extents, BlockExtent, i).file_offset;
  g_assert_not_reached ();
}

static BlockDriverState *coroutine_fn
open_behind_gate (void)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *file = test_open_ok ("file", path, BDRV_O_RDWR, NULL);
  BlockDriverState *gate = bdrv_node_new (&gate_driver, path, BDRV_O_RDWR, file);

  held_offset = -1;
  held = let_go = 0;
  g_assert_true (bdrv_co_node_open (gate, NULL, &error));
  BlockDriverState *bs = test_open ("vhd", path, BDRV_O_RDWR, NULL, gate, &error);
  g_assert_no_error (error);
  return bs;
}

static void coroutine_fn
check_slow_read (void)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = open_behind_gate ();
  g_auto (BlockLayout) layout = { 0 };

  g_assert_true (bs->drv->co_get_layout (bs, &layout, &error));
  int64_t first = place_of (&layout, 0), last = place_of (&layout, 2 * BLOCK);
  Task read = { .bs = bs };
  Task move = { .bs = bs, .move = { 2 * BLOCK, last, first, BLOCK + layout.data_offset } };

  held_offset = first + layout.data_offset;
  coroutine_enter (coroutine_new (reader, &read));
  while (held == 0)
    let_others_run ();
  g_assert_cmpint (bs->drv->co_drop_block (bs, 0, BLOCK_DROP_UNALLOCATED), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  coroutine_enter (coroutine_new (mover, &move));
  for (gint64 end = g_get_monotonic_time () + 200000; g_get_monotonic_time () < end && !move.done;)
    let_others_run ();
  held_offset = -1;
  while (!read.done || !move.done)
    let_others_run ();
  g_assert_cmpint (read.ret, ==, 0);
  g_assert_cmpint (move.ret, ==, 0);
  /* As before it was dropped, or as after; never the other block's. */
  test_assert_bytes (read.data, sizeof read.data, read.data[0] == 0 ? 0 : 'a');
  test_assert_read (bs, 0, BLOCK, 0);
  test_assert_read (bs, BLOCK, BLOCK, 'b');
  test_assert_read (bs, 2 * BLOCK, BLOCK, 'c');
  test_close (bs);
}

/* While the bitmap of the last block is copied to where the first one was, @entry begins, and finds it at its old place;
 * it gets the bitmap from there when all of the block has moved. */
static void coroutine_fn
begin_while_moving (Task *task, CoroutineEntry *entry)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = task->bs;
  g_auto (BlockLayout) layout = { 0 };

  g_assert_true (bs->drv->co_get_layout (bs, &layout, &error));
  int64_t first = place_of (&layout, 0), last = place_of (&layout, 2 * BLOCK);
  Task move = { .bs = bs, .move = { 2 * BLOCK, last, first, BLOCK + layout.data_offset } };

  g_assert_cmpint (bs->drv->co_drop_block (bs, 0, BLOCK_DROP_UNALLOCATED), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  /* Reads that began before a move are waited for. */
  held_offset = last;
  coroutine_enter (coroutine_new (mover, &move));
  while (held == 0)
    let_others_run ();
  task->offset = 2 * BLOCK;
  coroutine_enter (coroutine_new (entry, task));
  while (held == 1)
    let_others_run ();
  let_go = 1;
  while (!move.done)
    let_others_run ();
  held_offset = -1;
  while (!task->done)
    let_others_run ();
  g_assert_cmpint (task->ret, >=, 0);
  g_assert_cmpint (move.ret, ==, 0);
}

/* The read found the block at its old place, and has its bitmap from there when the block has moved.  It is not the one
 * that later writes go by: their bits would get lost, or into what comes to that place. */
static void coroutine_fn
check_slow_bitmap (void)
{
  BlockDriverState *bs = open_behind_gate ();
  Task read = { .bs = bs };

  begin_while_moving (&read, reader);
  test_assert_bytes (read.data, sizeof read.data, 'c');
  test_write (bs, 2 * BLOCK + SECTOR, SECTOR, 'd');
  test_close (bs);

  bs = open_behind_gate ();
  test_assert_read (bs, BLOCK, SECTOR, 'b');
  test_assert_read (bs, 2 * BLOCK, SECTOR, 'c');
  test_assert_read (bs, 2 * BLOCK + SECTOR, SECTOR, 'd');
  test_assert_read (bs, 2 * BLOCK + 2 * SECTOR, BLOCK - 2 * SECTOR, 0);
  test_close (bs);
}

/* Who is told the old place would find there what comes to it, or a hole. */
static void coroutine_fn
check_slow_status (void)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = open_behind_gate ();
  g_auto (BlockLayout) layout = { 0 };
  Task ask = { .bs = bs };

  begin_while_moving (&ask, asker);
  g_assert_true (bs->drv->co_get_layout (bs, &layout, &error));
  g_assert_cmpint (ask.map, ==, place_of (&layout, 2 * BLOCK) + layout.data_offset);
  test_close (bs);
}

/* Three blocks of which @written bytes are.  @parent: or NULL. */
static void
make_image (const char *name, const char *parent, int64_t written)
{
  g_autoptr (GError) error = NULL;
  VhdkitCreateOptions create = {
    .struct_size = sizeof create,
    .format = "vhd",
    .bytes = 64 * BLOCK,
    .format_options = (const char *[]){ "block_size=4096", NULL },
    .parent = parent,
  };
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };

  g_assert_true (vhdkit_image_create (NULL, name, &create, &error));
  VhdkitImage *image = vhdkit_image_open (NULL, name, &options, &error);
  g_assert_no_error (error);
  for (int i = 0; i < 3; i++)
    {
      uint8_t data[BLOCK];
      memset (data, 'a' + i, BLOCK);
      g_assert_cmpint (vhdkit_image_pwrite (image, data, i * BLOCK, written), ==, 0);
    }
  g_assert_true (vhdkit_image_close (image, &error));
}

/* @data: a TestFunc, of an image whose blocks are whole. */
static void
test_dynamic (const void *data)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *name = g_build_filename (dir, "a.vhd", NULL);

  make_image (name, NULL, BLOCK);
  path = name;
  test_run (data);
}

/* Of one that has a sector of each, and a parent. */
static void
test_differencing (const void *data)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *parent = g_build_filename (dir, "p.vhd", NULL);
  g_autofree char *name = g_build_filename (dir, "c.vhd", NULL);

  make_image (parent, NULL, 0);
  make_image (name, parent, SECTOR);
  path = name;
  test_run (data);
}

int
main (int argc, char **argv)
{
  static TestFunc *const slow_read = check_slow_read;
  static TestFunc *const slow_bitmap = check_slow_bitmap;
  static TestFunc *const slow_status = check_slow_status;

  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/vhd-relocate/slow-read", &slow_read, test_dynamic);
  g_test_add_data_func ("/vhd-relocate/slow-bitmap", &slow_bitmap, test_differencing);
  g_test_add_data_func ("/vhd-relocate/slow-status", &slow_status, test_differencing);
  return g_test_run ();
}
