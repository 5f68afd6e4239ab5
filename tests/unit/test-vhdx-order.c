/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of a VHDX's writes where it matters only for tables too large for random crashes, or for logs that we
 * do not write: what the container holds is judged at each flush. */
#include "vhdx-mem.h"

#include "crc32c.h"

#include "../../block/drivers/vhdx/vhdx.h"

/* --- a container that looks on ---------------------------------------------------------------------------- */

typedef void coroutine_fn Judge (const MemFile *mem);

static struct
{
  const MemFile *mem;
  Judge *judge;  /* of what the file holds at each flush */
  int bat_pages; /* that were read, each by itself */
  bool holds;    /* flushes wait */
} watch;

static bool coroutine_fn
watch_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  return true;
}

static int coroutine_fn
watch_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset)
{
  if (offset >= BAT && offset < BAT + MIB && bytes == VHDX_PAGE)
    watch.bat_pages++;
  co_test_let_others_run (1);
  return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
}

static int coroutine_fn
watch_co_flush (BlockDriverState *bs)
{
  if (watch.judge)
    watch.judge (watch.mem);
  while (watch.holds)
    co_test_let_others_run (1);
  return bdrv_co_flush (bs->file);
}

static const BlockDriver watch_filter = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "watch",
  .co_open = watch_co_open,
  .co_preadv = watch_co_preadv,
  .co_flush = watch_co_flush,
};

static BlockDriverState *coroutine_fn
co_open_watched (MemFile *mem, BlockDriverState *parent)
{
  watch.mem = mem;
  return co_open_on (co_node_on (&watch_filter, co_mem_open (mem, BDRV_O_RDWR), BDRV_O_RDWR), BDRV_O_RDWR,
                     parent);
}

/* --- bitmap blocks that are no longer needed ----------------------------------------------------------------- */

#define PARTIAL    4297 /* of the table: in the second chunk */
#define ITS_BITMAP 8193

/* No entry that is durable relies on a bitmap block that has gone. */
static void coroutine_fn
judge_bitmap (const MemFile *mem)
{
  if (get_entry (mem, PARTIAL) % 8 == PARTIALLY_PRESENT)
    g_assert_cmpint (get_entry (mem, ITS_BITMAP) % 8, ==, FULLY_PRESENT);
}

/* The last block of a chunk that needs the bitmap block turns out to have no bit: both go, one after the other. */
static void coroutine_fn
bitmap_goes_last (void *opaque)
{
  MemFile base_mem, mem;
  BlockDriverState *base, *bs;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * MIB, NULL, NULL);
  base = co_open (&base_mem, 0, NULL);
  co_create (&mem, 8 * 1024 * MIB, NULL, base);
  set_entry (&mem, PARTIAL, 5 * MIB | PARTIALLY_PRESENT);
  set_entry (&mem, ITS_BITMAP, 6 * MIB | FULLY_PRESENT);
  g_byte_array_set_size (mem.data, 7 * MIB);
  memset (mem.data->data + 5 * MIB, 0, 2 * MIB);
  bs = co_open_watched (&mem, bdrv_ref (base));
  watch.judge = judge_bitmap;
  g_assert_cmpint (bs->drv->co_reduce (bs), ==, 0);
  watch.judge = NULL;
  g_assert_cmpint (get_entry (&mem, PARTIAL), ==, NOT_PRESENT);
  g_assert_cmpint (get_entry (&mem, ITS_BITMAP), ==, NOT_PRESENT);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  bdrv_co_unref (base);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- growth over a larger parent ------------------------------------------------------------------------------- */

#define GROWN (72 * 1024 * MIB)
#define FAR   (6243 * MIB) /* its block is in page 12 of the table, of 144 */

static BlockDriverState *larger;
static int sizes_seen;

/* Of the old size or of the new one; what is new is zeros, and not what the parent has there. */
static void coroutine_fn
judge_growth (const MemFile *mem)
{
  MemFile crashed;
  BlockDriverState *bs;

  copy_container (mem, &crashed);
  bs = co_open (&crashed, 0, bdrv_ref (larger));
  co_assert_filled (bs, 0, 3 * MIB, 0xBB);
  if (bs->bytes > 3 * MIB)
    {
      co_assert_filled (bs, 3 * MIB, MIB, 0);
      co_assert_filled (bs, FAR, MIB, 0);
    }
  sizes_seen |= bs->bytes == 3 * MIB ? 1 : bs->bytes == GROWN ? 2 : 4;
  bdrv_co_unref (bs);
  mem_file_clear (&crashed);
}

static void coroutine_fn
grow_entry (void *opaque)
{
  g_autoptr (GError) error = NULL;

  bdrv_co_truncate (opaque, GROWN, &error);
  g_assert_no_error (error);
}

static void coroutine_fn
flush_entry (void *opaque)
{
  g_assert_cmpint (bdrv_co_flush (opaque), ==, 0);
}

/* From soon after its first changes on a guest's flush is under way, until it can go on no further. */
static void coroutine_fn
grow_beside_flush (BlockDriverState *bs)
{
  unsigned running = 0;

  watch.bat_pages = 0;
  test_start (grow_entry, bs, &running);
  while (watch.bat_pages < 3)
    co_test_let_others_run (1);
  watch.holds = true;
  test_start (flush_entry, bs, &running);
  for (int last = -1, same = 0; same < 100; co_test_let_others_run (1))
    {
      same = watch.bat_pages == last ? same + 1 : 0;
      last = watch.bat_pages;
    }
  g_assert_cmpint (watch.bat_pages, >=, 140);
  g_assert_cmpuint (running, ==, 2);
  watch.holds = false;
  co_test_wait (&running);
}

/* The entries of new blocks gather to more pages than one entry of the log may have: all are durable before the size
 * that makes them count. */
static void coroutine_fn
size_comes_last (void *opaque)
{
  MemFile base_mem, mem;
  BlockDriverState *bs;

  mem_file_init (&base_mem, 0);
  mem_file_init (&mem, 0);
  co_create (&base_mem, 2 * GROWN, NULL, NULL);
  larger = co_open (&base_mem, BDRV_O_RDWR, NULL);
  co_fill (larger, 0, 4 * MIB, 0xBB);
  co_fill (larger, FAR, MIB, 0xBB);
  g_assert_cmpint (bdrv_co_flush (larger), ==, 0);
  co_create (&mem, 3 * MIB, NULL, larger);
  bs = co_open_watched (&mem, bdrv_ref (larger));
  watch.judge = judge_growth;
  grow_beside_flush (bs);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  watch.judge = NULL;
  judge_growth (&mem);
  g_assert_cmpint (sizes_seen, ==, 3);
  bdrv_co_unref (larger);
  mem_file_clear (&mem);
  mem_file_clear (&base_mem);
}

/* --- a log of another writer ------------------------------------------------------------------------------------- */

/* Both headers name @log. */
static void
name_log (MemFile *mem, const VhdxGuid *log)
{
  for (int64_t at = VHDX_HEADER_OFFSET_1; at <= VHDX_HEADER_OFFSET_2;
       at += VHDX_HEADER_OFFSET_2 - VHDX_HEADER_OFFSET_1)
    {
      VhdxHeaderDisk header;

      memcpy (&header, mem->data->data + at, sizeof header);
      header.log_guid = *log;
      header.checksum = le32 (0);
      header.checksum = le32 (crc32c (0, &header, sizeof header));
      memcpy (mem->data->data + at, &header, sizeof header);
    }
}

/* Puts an entry into the log that makes [@file_offset, +@bytes) zeros, and then the page at the start of that what it
 * is now. */
static void
log_zeros_then_page (MemFile *mem, int64_t file_offset, int64_t bytes)
{
  VhdxLogEntryInfo info = { .log_guid = vhdx_guid_new (),
                            .sequence_number = 7,
                            .flushed_file_offset = mem->data->len,
                            .last_file_offset = mem->data->len };
  VhdxLogPage page = { file_offset, mem->data->data + file_offset };
  VhdxLogDescriptorDisk zeros = { .signature = { 'z', 'e', 'r', 'o' },
                                  .leading_bytes = le64 (bytes),
                                  .file_offset = le64 (file_offset),
                                  .sequence_number = le64 (info.sequence_number) };
  uint32_t length = vhdx_log_entry_bytes (1);
  g_autofree uint8_t *entry = g_malloc (length);
  VhdxLogEntryDisk head;

  vhdx_log_entry_encode (&info, &page, 1, entry);
  memcpy (&head, entry, sizeof head);
  memmove (entry + sizeof head + sizeof zeros, entry + sizeof head, sizeof zeros);
  memcpy (entry + sizeof head, &zeros, sizeof zeros);
  head.descriptor_count = le32 (2);
  head.checksum = le32 (0);
  memcpy (entry, &head, sizeof head);
  head.checksum = le32 (crc32c (0, entry, length));
  memcpy (entry, &head, sizeof head);
  memcpy (mem->data->data + MIB, entry, length);
  name_log (mem, &info.log_guid);
}

/* What lies over the zeros of a log that is replayed stays. */
static void coroutine_fn
pages_over_zeros (void *opaque)
{
  BlockDriverState *bs;
  MemFile mem;

  mem_file_init (&mem, 0);
  co_create (&mem, 4 * MIB, NULL, NULL);
  bs = co_open (&mem, BDRV_O_RDWR, NULL);
  co_fill (bs, MIB, MIB, 0xA5);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
  log_zeros_then_page (&mem, BAT, 8 * VHDX_PAGE);
  memset (mem.data->data + BAT, 0xEE, 8 * VHDX_PAGE);
  for (int i = 0; i < 3; i++)
    {
      bs = co_open (&mem, i == 1 ? BDRV_O_RDWR : 0, NULL);
      co_assert_filled (bs, 0, MIB, 0);
      co_assert_filled (bs, MIB, MIB, 0xA5);
      co_assert_filled (bs, 2 * MIB, 2 * MIB, 0);
      g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
    }
  for (int i = VHDX_PAGE; i < 8 * VHDX_PAGE; i++)
    g_assert_cmpint (mem.data->data[BAT + i], ==, 0);
  mem_file_clear (&mem);
}

int
main (int argc, char **argv)
{
  static const TestCase tests[] = {
    { "/vhdx-order/bitmap-goes-last", bitmap_goes_last },
    { "/vhdx-order/size-comes-last", size_comes_last },
    { "/vhdx-order/pages-over-zeros", pages_over_zeros },
  };

  return test_run_cases (argc, argv, tests, G_N_ELEMENTS (tests));
}
