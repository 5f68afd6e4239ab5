/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing VHDX images where something is odd: failures at each write after the file was cut, blocks of fixed images that
 * are lost, entries behind the end of the disk, a parent that is not open, containers of fixed length. */
#include <errno.h>

#include "vhdx-mem.h"

/* The image, opened read-only from what the container holds, as after a crash. */
static void coroutine_fn
co_assert_opens (MemFile *mem, const char *when)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = bdrv_node_new (bdrv_find_driver ("vhdx"), "x.vhdx", 0, co_mem_open (mem, 0));

  if (!bdrv_co_node_open (bs, NULL, &error))
    g_error ("%s: %s", when, error->message);
  bdrv_co_unref (bs);
}

/* --- the log after a cut -------------------------------------------------------------------------------- */

/* Blocks are written and dropped, the file is cut, and the image is written to again; every write of that fails once.
 * Whatever the container holds then, it opens: no entry knows of the length before. */
static void coroutine_fn
log_after_cut (void *opaque)
{
  for (int n = 0;; n++)
    {
      g_autofree char *when = g_strdup_printf ("write %d after the cut fails", n);
      g_autofree uint8_t *buf = g_malloc0 (MIB);
      BlockDriverState *bs;
      MemFile mem;
      int ret;

      g_assert_cmpint (n, <, 100);
      mem_file_init (&mem, 0);
      co_create (&mem, 8 * MIB, NULL, NULL);
      bs = co_open (&mem, BDRV_O_RDWR, NULL);
      co_fill (bs, 0, 8 * MIB, 0xA5);
      g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
      g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, MIB, 7 * MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
      g_assert_cmpint (bs->drv->co_trim (bs), ==, 0);
      g_assert_cmpint (mem.data->len, ==, 5 * MIB);

      memset (mem.count, 0, sizeof mem.count);
      mem.fail_ret[MEM_WRITE] = -EIO;
      mem.fail_after[MEM_WRITE] = n;
      ret = bdrv_co_pwrite (bs, 0, 512, buf, 0);
      if (ret == 0)
        ret = bdrv_co_pwrite_zeroes (bs, 0, MIB, BDRV_REQ_MAY_UNMAP);
      if (ret == 0)
        ret = bdrv_co_flush (bs);
      co_assert_opens (&mem, when);
      bdrv_co_unref (bs);
      memset (mem.fail_ret, 0, sizeof mem.fail_ret);
      co_assert_opens (&mem, when);
      mem_file_clear (&mem);
      if (ret == 0)
        break;
    }
}

/* --- fixed images --------------------------------------------------------------------------------------- */

/* Blocks without a place, whose old ones are still there with what they held: a new one must not show it. */
static void coroutine_fn
lost_blocks (void *opaque)
{
  const int blocks = 20;
  BlockDriverState *bs;
  MemFile mem;

  mem_file_init (&mem, 0);
  co_create (&mem, blocks * MIB, "subformat=fixed", NULL);
  for (int i = 1; i < blocks; i++)
    set_entry (&mem, i, i % 2 ? ZERO : UNMAPPED);
  memset (mem.data->data + 5 * MIB, 0xEE, mem.data->len - 5 * MIB);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_assert_filled (bs, 0, blocks * MIB, 0);
  for (int i = 1; i < blocks; i++)
    {
      co_fill (bs, i * MIB, 512, 0xA5);
      co_assert_filled (bs, i * MIB, 512, 0xA5);
      co_assert_filled (bs, i * MIB + 512, MIB - 512, 0);
    }
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  mem_file_clear (&mem);
}

/* --- growth --------------------------------------------------------------------------------------------- */

/* Entries behind the end of a child, in the last chunk: a place that belongs to another block.  Behind the end of
 * the parent, too, they say nothing when the disk grows. */
static void coroutine_fn
stale_entries_of_child (void *opaque)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 3 * MIB, NULL, base);
  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  co_fill (bs, 2 * MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpint (get_entry (&mem, 2) & 7, ==, FULLY_PRESENT);
  for (int i = 3; i < 7; i++)
    set_entry (&mem, i, get_entry (&mem, 2));

  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  bdrv_co_truncate (bs, 6 * MIB, &error);
  g_assert_no_error (error);
  co_assert_filled (bs, 2 * MIB, MIB, 0xA5);
  co_assert_filled (bs, 3 * MIB, 3 * MIB, 0);
  co_fill (bs, 4 * MIB, MIB, 0x5A);
  co_assert_filled (bs, 2 * MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  co_assert_filled (bs, 2 * MIB, MIB, 0xA5);
  co_assert_filled (bs, 3 * MIB, MIB, 0);
  co_assert_filled (bs, 4 * MIB, MIB, 0x5A);
  co_assert_filled (bs, 5 * MIB, MIB, 0);
  bdrv_co_unref (bs);
  bdrv_co_unref (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- a parent that is not open -------------------------------------------------------------------------- */

/* Zeros are written to a child, and it grows, while its parent is not open: they are there when it is. */
static void coroutine_fn
parent_not_open (void *opaque)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 8 * MIB, NULL, NULL);
  base = co_open (&base_mem, BDRV_O_RDWR, NULL);
  co_fill (base, 0, 8 * MIB, 0xBB);
  g_assert_cmpint (bdrv_co_unref (base), ==, 0);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 4 * MIB + 512 * KIB, NULL, base);

  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 512 * KIB, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 2 * MIB, MIB, 0), ==, 0);
  g_assert_true (bdrv_co_truncate (bs, 6 * MIB, &error));
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);

  bs = co_open (&mem, 0, bdrv_ref (base));
  co_assert_filled (bs, 0, 512 * KIB, 0xBB);
  co_assert_filled (bs, 512 * KIB, MIB, 0);
  co_assert_filled (bs, MIB + 512 * KIB, 512 * KIB, 0xBB);
  co_assert_filled (bs, 2 * MIB, MIB, 0);
  co_assert_filled (bs, 3 * MIB, MIB + 512 * KIB, 0xBB);
  co_assert_filled (bs, 4 * MIB + 512 * KIB, MIB + 512 * KIB, 0);
  bdrv_co_unref (bs);
  bdrv_co_unref (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- containers of fixed length ------------------------------------------------------------------------- */

/* A device that ends inside of a MiB, with a last block only as long as the disk, as some writers leave it.  After a
 * crash with a log, the image opens for reading and for writing. */
static void coroutine_fn
short_device (void *opaque)
{
  const int64_t bytes = 3 * MIB + 64 * KIB;
  BlockDriverState *bs;
  MemFile mem, crashed;

  mem_file_init (&mem, 7 * MIB + 128 * KIB);
  mem.fixed_length = true;
  co_create (&mem, bytes, NULL, NULL);
  memset (mem.data->data + 4 * MIB, 0xEE, mem.data->len - 4 * MIB);
  set_entry (&mem, 3, (7 * MIB) | FULLY_PRESENT);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_assert_filled (bs, 0, 3 * MIB, 0);
  co_fill (bs, MIB, 512, 0xA5);
  co_fill (bs, bytes - 512, 512, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

  copy_container (&mem, &crashed);
  crashed.fixed_length = true;
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  for (int writable = 0; writable < 2; writable++)
    {
      bs = co_open (&crashed, writable ? BDRV_O_RDWR : 0, NULL);
      co_assert_filled (bs, 0, MIB, 0);
      co_assert_filled (bs, MIB, 512, 0xA5);
      co_assert_filled (bs, MIB + 512, 2 * MIB - 512, 0);
      co_assert_filled (bs, 3 * MIB, 64 * KIB - 512, 0xEE);
      co_assert_filled (bs, bytes - 512, 512, 0xA5);
      g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
    }
  g_assert_cmpint (crashed.data->len, ==, 7 * MIB + 128 * KIB);
  mem_file_clear (&crashed);
  mem_file_clear (&mem);
}

/* --- bits ----------------------------------------------------------------------------------------------- */

/* A block that was partially present, and is so again in another place, has lost its bits (W6). */
static void coroutine_fn
bits_are_cleared (void *opaque)
{
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, BDRV_O_RDWR, NULL);
  co_fill (base, 0, 2 * MIB, 0xBB);
  g_assert_cmpint (bdrv_co_unref (base), ==, 0);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 2 * MIB, NULL, base);
  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  co_fill (bs, 0, 4 * KIB, 0xBB);
  g_assert_cmpint (bs->drv->co_drop_block (bs, 0, BLOCK_DROP_UNALLOCATED), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  co_fill (bs, 8 * KIB, 4 * KIB, 0xA5);
  for (int reopened = 0; reopened < 2; reopened++)
    {
      co_assert_filled (bs, 0, 8 * KIB, 0xBB);
      co_assert_filled (bs, 8 * KIB, 4 * KIB, 0xA5);
      co_assert_filled (bs, 12 * KIB, MIB - 12 * KIB, 0xBB);
      g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
      bs = co_open (&mem, 0, bdrv_ref (base));
    }
  bdrv_co_unref (bs);
  bdrv_co_unref (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

typedef struct
{
  BlockDriverState *bs;
  int64_t offset, bytes;
} SlowWrite;

static void coroutine_fn
write_entry (void *opaque)
{
  const SlowWrite *write = opaque;

  co_fill (write->bs, write->offset, write->bytes, 0xA5);
}

/* While the data of @offset, @bytes, in the first block, is on its way, a round makes another change of the same pages
 * durable: what says that this data is there comes later (I2). */
static void coroutine_fn
judge_data_first (int64_t offset, int64_t bytes)
{
  BlockDriverState *base, *bs;
  MemFile base_mem, mem, crashed;
  unsigned running = 0;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, BDRV_O_RDWR, NULL);
  co_fill (base, 0, 2 * MIB, 0xBB);
  g_assert_cmpint (bdrv_co_unref (base), ==, 0);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 2 * MIB, NULL, base);
  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  co_fill (bs, 0, 4 * KIB, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

  SlowWrite write = { bs, offset, bytes };
  mem.max_delay = 100000;
  test_start (write_entry, &write, &running);
  mem.max_delay = 0;
  co_fill (bs, MIB + 64 * KIB, 4 * KIB, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpint (running, ==, 1);
  copy_container (&mem, &crashed);
  co_test_wait (&running);
  co_assert_filled (bs, offset, bytes, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);

  bs = co_open (&crashed, 0, bdrv_ref (base));
  co_assert_filled (bs, 0, 4 * KIB, 0xA5);
  co_assert_filled (bs, 4 * KIB, MIB + 60 * KIB, 0xBB);
  co_assert_filled (bs, MIB + 64 * KIB, 4 * KIB, 0xA5);
  bdrv_co_unref (bs);
  bdrv_co_unref (base);
  mem_file_clear (&crashed);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

static void coroutine_fn
bits_after_data (void *opaque)
{
  judge_data_first (8 * KIB, 4 * KIB);
}

static void coroutine_fn
state_after_data (void *opaque)
{
  judge_data_first (0, MIB);
}

/* --- rounds of several entries -------------------------------------------------------------------------- */

static void coroutine_fn
flush_entry (void *opaque)
{
  g_assert_cmpint (bdrv_co_flush (opaque), ==, 0);
}

/* What one round writes, from request @first on: the log at 1 MiB, the BAT of 4 MiB behind the metadata, blocks. */
static void
judge_round (const MemFile *mem, guint first)
{
  bool log_dirty = false, place_dirty = false;
  int64_t at = -1, lowest = INT64_MAX, last_lowest = INT64_MAX;
  int entries = 0, bitmap_pages = 0;

  for (guint i = first; i < mem->log->len; i++)
    {
      const MemRequest *req = &g_array_index (mem->log, MemRequest, i);

      if (req->op == MEM_FLUSH)
        log_dirty = place_dirty = false;
      if (req->op != MEM_WRITE)
        continue;
      if (req->offset >= MIB && req->offset < 2 * MIB)
        {
          /* Flush A, also between two entries; each follows the one before. */
          g_assert_false (place_dirty);
          g_assert_true (at < 0 || at == req->offset);
          g_assert_cmpint (req->bytes, <=, MIB / 2);
          at = req->offset + req->bytes == 2 * MIB ? MIB : req->offset + req->bytes;
          entries += !log_dirty;
          last_lowest = log_dirty ? last_lowest : MIN (last_lowest, lowest);
          log_dirty = true;
          continue;
        }
      /* Flush B. */
      g_assert_false (log_dirty);
      g_assert_cmpint (entries, >, 0);
      place_dirty = true;
      if (req->offset >= BAT + 4 * MIB)
        {
          g_assert_cmpint (entries, ==, 1);
          bitmap_pages += req->bytes / (4 * KIB);
          continue;
        }
      g_assert_cmpint (req->offset, >=, BAT);
      g_assert_cmpint (req->offset + req->bytes, <=, last_lowest);
      lowest = MIN (lowest, req->offset);
    }
  g_assert_cmpint (entries, >=, 3);
  g_assert_cmpint (bitmap_pages, ==, 2);
}

/* More pages than an entry may have, changed while a round is under way: bitmaps first, then the BAT from its end to its
 * start, with flushes around each entry. */
static void coroutine_fn
several_entries (void *opaque)
{
  BlockDriverState *base, *bs;
  MemFile base_mem, mem;
  unsigned running = 0;
  guint first;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 400 * 1024 * MIB, NULL, base);
  bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
  co_fill (bs, 0, 512, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  co_fill (bs, MIB, 512, 0xA5);
  mem.max_delay = 10000;
  test_start (flush_entry, bs, &running);
  mem.max_delay = 0;
  g_assert_cmpint (running, ==, 1);
  for (int i = 300; i-- > 0;)
    g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, i * 512 * MIB + 8 * MIB, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  co_fill (bs, 3 * MIB, 512, 0x5A);
  co_fill (bs, 300 * 1024 * MIB, 512, 0x5A);
  g_assert_cmpint (running, ==, 1);
  co_test_wait (&running);
  first = mem.log->len;
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  judge_round (&mem, first);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  bdrv_co_unref (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- a flush that fails once ---------------------------------------------------------------------------- */

/* A filter over the container, the node of which is not poisoned by that. */
static int flushes_left;

static int coroutine_fn
filter_co_flush (BlockDriverState *bs)
{
  return flushes_left-- == 0 ? -EIO : bdrv_co_flush (bs->file);
}

static bool coroutine_fn
filter_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  return true;
}

static const BlockDriver flush_filter = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "flush-filter",
  .co_open = filter_co_open,
  .co_flush = filter_co_flush,
};

/* While the BAT moves into a larger region, each flush fails once.  What is flushed after that is there when the image
 * is opened again, if anything could be written at all. */
static void coroutine_fn
flush_fails_in_growth (void *opaque)
{
  bool grown = false;

  for (int n = 0; !grown; n++)
    {
      g_autofree uint8_t *buf = g_malloc (MIB);
      BlockDriverState *bs;
      MemFile mem;
      int ret;

      g_assert_cmpint (n, <, 60);
      memset (buf, 0x5A, MIB);
      mem_file_init (&mem, 0);
      co_create (&mem, 100 * 1024 * MIB, NULL, NULL);
      flushes_left = -1;
      bs = co_open_on (co_node_on (&flush_filter, co_mem_open (&mem, BDRV_O_RDWR), BDRV_O_RDWR), BDRV_O_RDWR,
                       NULL);
      co_fill (bs, 0, MIB, 0xA5);
      g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

      flushes_left = n;
      grown = bdrv_co_truncate (bs, 200 * 1024 * MIB, NULL);
      g_assert_true (grown || flushes_left < 0);
      flushes_left = -1;
      ret = bdrv_co_pwrite (bs, 2 * MIB, MIB, buf, 0);
      if (ret == 0)
        ret = bdrv_co_flush (bs);
      g_assert_true (ret == 0 || !grown);
      bdrv_co_unref (bs);

      bs = co_open (&mem, BDRV_O_RDWR, NULL);
      co_assert_filled (bs, 0, MIB, 0xA5);
      if (ret == 0)
        co_assert_filled (bs, 2 * MIB, MIB, 0x5A);
      g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
      mem_file_clear (&mem);
    }
}

/* --- headers -------------------------------------------------------------------------------------------- */

/* Whatever a header allows or ends is durable before the header is written: the entry of a log that it names, the pages
 * of one that it names no more, the other header. */
static void coroutine_fn
headers_after_flushes (void *opaque)
{
  BlockDriverState *bs;
  bool dirty = false;
  MemFile mem;
  int headers = 0;
  guint i;

  mem_file_init (&mem, 0);
  co_create (&mem, 4 * MIB, NULL, NULL);
  i = mem.log->len;
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_fill (bs, 0, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  /* Without a flush before it, as when a guest writes while the log is drained. */
  co_fill (bs, 2 * MIB, MIB, 0xA5);
  g_assert_cmpint (bs->drv->co_drain_log (bs), ==, 0);
  co_fill (bs, MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  for (; i < mem.log->len; i++)
    {
      const MemRequest *req = &g_array_index (mem.log, MemRequest, i);
      bool header = req->op == MEM_WRITE && (req->offset == 64 * KIB || req->offset == 128 * KIB);

      g_assert_false (header && dirty);
      headers += header;
      dirty = req->op == MEM_FLUSH ? false : dirty || req->op != MEM_READ;
    }
  /* New GUIDs, a log, no log, a log, no log. */
  g_assert_cmpint (headers, ==, 10);
  mem_file_clear (&mem);
}

/* Of an open that begins with moving a block, the first change is that of a header. */
static void coroutine_fn
headers_before_a_move (void *opaque)
{
  const BlockMove move = { 3 * MIB, 7 * MIB, 4 * MIB, MIB };
  BlockDriverState *bs;
  MemFile mem;
  guint i;

  mem_file_init (&mem, 0);
  co_create (&mem, 4 * MIB, NULL, NULL);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  for (int block = 0; block < 4; block++)
    co_fill (bs, block * MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  i = mem.log->len;
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  g_assert_cmpint (bs->drv->co_relocate (bs, &move, 1), ==, 0);
  while (g_array_index (mem.log, MemRequest, i).op == MEM_READ
         || g_array_index (mem.log, MemRequest, i).op == MEM_FLUSH)
    i++;
  g_assert_cmpint (g_array_index (mem.log, MemRequest, i).op, ==, MEM_WRITE);
  g_assert_cmpint (g_array_index (mem.log, MemRequest, i).offset, >=, 64 * KIB);
  g_assert_cmpint (g_array_index (mem.log, MemRequest, i).offset, <=, 128 * KIB);
  co_assert_filled (bs, MIB, 3 * MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpint (mem.data->len, ==, 7 * MIB);
  mem_file_clear (&mem);
}

/* A slow read is where a block was; another one is moved there only when it has ended. */
static void coroutine_fn
read_entry (void *opaque)
{
  co_assert_filled (opaque, 3 * MIB, MIB, 3);
}

static void coroutine_fn
slow_read_and_moves (void *opaque)
{
  const BlockMove moves[] = { { 3 * MIB, 7 * MIB, 4 * MIB, MIB }, { 4 * MIB, 8 * MIB, 7 * MIB, MIB } };
  BlockDriverState *bs;
  unsigned running = 0;
  MemFile mem;

  mem_file_init (&mem, 0);
  co_create (&mem, 5 * MIB, NULL, NULL);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  for (int block = 0; block < 5; block++)
    co_fill (bs, block * MIB, MIB, block);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  mem.max_delay = 100000;
  test_start (read_entry, bs, &running);
  mem.max_delay = 0;
  g_assert_cmpint (running, ==, 1);
  for (size_t i = 0; i < G_N_ELEMENTS (moves); i++)
    g_assert_cmpint (bs->drv->co_relocate (bs, &moves[i], 1), ==, 0);
  co_test_wait (&running);
  for (int block = 1; block < 5; block++)
    co_assert_filled (bs, block * MIB, MIB, block);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  mem_file_clear (&mem);
}

/* A look-up that waits for a bitmap while its block goes or is moved.  At the place where it was there may be a hole, or
 * another block, when the answer comes. */
typedef struct
{
  BlockDriverState *bs;
  int64_t offset;
  int64_t map;
  int status;
} SlowStatus;

static void coroutine_fn
status_entry (void *opaque)
{
  SlowStatus *ask = opaque;
  int64_t n;

  ask->status = bdrv_co_block_status (ask->bs, ask->offset, 512, &n, &ask->map, NULL);
}

static int64_t coroutine_fn
co_place_of (BlockDriverState *bs, int64_t offset)
{
  g_auto (BlockLayout) layout = { 0 };
  g_autoptr (GError) error = NULL;
  int64_t place = -1;

  bs->drv->co_get_layout (bs, &layout, &error);
  g_assert_no_error (error);
  for (guint i = 0; i < layout.extents->len; i++)
    if (g_array_index (layout.extents, BlockExtent, i).offset == offset)
      place = g_array_index (layout.extents, BlockExtent, i).file_offset;
  return place;
}

/* Of four blocks, all partially present, the first one goes; its space is free for the last one. */
static BlockDriverState *coroutine_fn
co_make_hole (MemFile *mem, BlockDriverState *base, BlockMove *move)
{
  BlockDriverState *bs;

  co_create (mem, 32 * MIB, NULL, base);
  bs = co_open (mem, BDRV_O_RDWR, bdrv_ref (base));
  for (int block = 0; block < 4; block++)
    co_fill (bs, block * MIB, 512, 0xA5);
  *move = (BlockMove){ 3 * MIB, co_place_of (bs, 3 * MIB), co_place_of (bs, 0), MIB };
  g_assert_cmpint (bs->drv->co_drop_block (bs, 0, BLOCK_DROP_UNALLOCATED), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  /* Another open, which has no bitmap in memory; but the table, as of a block whose bits are in another page. */
  bs = co_open (mem, BDRV_O_RDWR, bdrv_ref (base));
  co_assert_filled (bs, 20 * MIB, 512, 0);
  return bs;
}

static void coroutine_fn
slow_status (void *opaque)
{
  BlockDriverState *base;
  MemFile base_mem;

  mem_file_init (&base_mem, 0);
  co_create (&base_mem, 32 * MIB, NULL, NULL);
  base = co_open (&base_mem, 0, NULL);
  for (int moved = 0; moved <= 1; moved++)
    {
      SlowStatus ask = { .offset = 3 * MIB };
      unsigned running = 0;
      BlockMove move;
      MemFile mem;

      mem_file_init (&mem, 0);
      ask.bs = co_make_hole (&mem, base, &move);
      mem.max_delay = 100000;
      test_start (status_entry, &ask, &running);
      mem.max_delay = 0;
      if (moved)
        g_assert_cmpint (ask.bs->drv->co_relocate (ask.bs, &move, 1), ==, 0);
      else
        g_assert_cmpint (ask.bs->drv->co_drop_block (ask.bs, 3 * MIB, BLOCK_DROP_UNALLOCATED), ==, 0);
      g_assert_cmpint (running, ==, 1);
      co_test_wait (&running);
      g_assert_cmpint (ask.status & BDRV_BLOCK_ALLOCATED, ==, moved ? BDRV_BLOCK_ALLOCATED : 0);
      if (moved)
        g_assert_cmpint (ask.map, ==, move.to);
      g_assert_cmpint (bdrv_co_unref (ask.bs), ==, 0);
      mem_file_clear (&mem);
    }
  bdrv_co_unref (base);
  mem_file_clear (&base_mem);
}

/* A look-up that waits for a page of the table while the table moves.  When the answer comes, a guest has written where it
 * was; what that looks like is an entry, of another block's place. */
static void coroutine_fn
slow_status_in_growth (void *opaque)
{
  g_autofree uint8_t *entries = g_malloc (MIB);
  g_autoptr (GError) error = NULL;
  SlowStatus ask = { .offset = 5 * MIB };
  unsigned running = 0;
  int64_t place, other;
  MemFile mem;

  mem_file_init (&mem, 0);
  co_create (&mem, 32 * MIB, NULL, NULL);
  ask.bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_fill (ask.bs, 0, MIB, 0x5A);
  co_fill (ask.bs, 5 * MIB, MIB, 0xA5);
  other = co_place_of (ask.bs, 0);
  place = co_place_of (ask.bs, 5 * MIB);
  for (int64_t i = 0; i < MIB; i++)
    entries[i] = (uint64_t)(other | FULLY_PRESENT) >> i % 8 * 8;
  g_assert_cmpint (bdrv_co_unref (ask.bs), ==, 0);

  ask.bs = co_open (&mem, BDRV_O_RDWR, NULL);
  mem.max_delay = 100000;
  test_start (status_entry, &ask, &running);
  mem.max_delay = 0;
  bdrv_co_truncate (ask.bs, 200 * 1024 * MIB, &error);
  g_assert_no_error (error);
  co_fill (ask.bs, 7 * MIB, 512, 0);
  g_assert_cmpint (bdrv_co_pwrite (ask.bs, 7 * MIB, MIB, entries, 0), ==, 0);
  g_assert_cmpint (co_place_of (ask.bs, 7 * MIB), ==, BAT);
  g_assert_cmpint (running, ==, 1);
  co_test_wait (&running);
  g_assert_cmpint (ask.status & BDRV_BLOCK_ALLOCATED, ==, BDRV_BLOCK_ALLOCATED);
  g_assert_cmpint (ask.map, ==, place);
  co_assert_filled (ask.bs, 5 * MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (ask.bs), ==, 0);
  mem_file_clear (&mem);
}

/* A writable open that reads, and flushes, changes nothing. */
static void coroutine_fn
nothing_is_written (void *opaque)
{
  BlockDriverState *bs;
  MemFile mem;

  mem_file_init (&mem, 0);
  co_create (&mem, 4 * MIB, NULL, NULL);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_fill (bs, 0, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  memset (mem.count, 0, sizeof mem.count);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_assert_filled (bs, 0, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  g_assert_cmpint (
      mem.count[MEM_WRITE] + mem.count[MEM_ZEROES] + mem.count[MEM_TRUNCATE] + mem.count[MEM_DISCARD], ==, 0);
  mem_file_clear (&mem);
}

/* Before data moves into a parent, parent_linkage is what the parent has then, for readers that know nothing else, and no
 * log must be replayed to see it; the same when it is done again in this open and in the next. */
static void coroutine_fn
link_is_settled (void *opaque)
{
  uint8_t before[16], last[16] = { 0 };
  MemFile base_mem, mem;
  BlockDriverState *base;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, 0, NULL);
  g_assert_true (base->drv->get_identity (base, last));
  co_create (&mem, 2 * MIB, NULL, base);
  g_assert_cmpint (bdrv_co_unref (base), ==, 0);
  for (int i = 0; i < 4; i++)
    {
      g_autoptr (GError) error = NULL;
      BlockDriverState *bs;

      base = co_open (&base_mem, BDRV_O_RDWR, NULL);
      bs = co_open (&mem, BDRV_O_RDWR, bdrv_ref (base));
      for (int again = 0; again < 2; again++)
        {
          BlockParentLink link = { 0 };
          uint8_t now[16];

          memcpy (before, last, sizeof before);
          bs->drv->co_parent_changed (bs, base, true, &error);
          g_assert_no_error (error);
          g_assert_true (base->drv->get_identity (base, now));
          g_assert_cmpint (memcmp (now, before, sizeof now) != 0, ==, again == 0);
          memcpy (last, now, sizeof last);
          g_assert_true (bs->drv->get_parent_link (bs, &link));
          g_assert_cmpint (link.identities, ==, 1);
          g_assert_cmpmem (link.identity[0], sizeof now, now, sizeof now);
          g_clear_pointer (&link.paths, g_ptr_array_unref);
        }
      g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
      g_assert_cmpint (bdrv_co_unref (base), ==, 0);
    }
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

int
main (int argc, char **argv)
{
  static const TestCase tests[] = {
    { "/vhdx-write/log-after-cut", log_after_cut },
    { "/vhdx-write/lost-blocks", lost_blocks },
    { "/vhdx-write/stale-entries-of-child", stale_entries_of_child },
    { "/vhdx-write/parent-not-open", parent_not_open },
    { "/vhdx-write/short-device", short_device },
    { "/vhdx-write/bits-are-cleared", bits_are_cleared },
    { "/vhdx-write/bits-after-data", bits_after_data },
    { "/vhdx-write/state-after-data", state_after_data },
    { "/vhdx-write/headers-after-flushes", headers_after_flushes },
    { "/vhdx-write/several-entries", several_entries },
    { "/vhdx-write/flush-fails-in-growth", flush_fails_in_growth },
    { "/vhdx-write/headers-before-a-move", headers_before_a_move },
    { "/vhdx-write/slow-read-and-moves", slow_read_and_moves },
    { "/vhdx-write/slow-status", slow_status },
    { "/vhdx-write/slow-status-in-growth", slow_status_in_growth },
    { "/vhdx-write/nothing-is-written", nothing_is_written },
    { "/vhdx-write/link-is-settled", link_is_settled },
  };

  return test_run_cases (argc, argv, tests, G_N_ELEMENTS (tests));
}
