/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tests of the filters blkdebug and blklogwrites. */
#include "block-test.h"

#include "../../block/drivers/test/blkdebug.h"
#include "../../block/drivers/test/blklogwrites.h"

#define KIB ((int64_t)1024)
#define MIB (1024 * KIB)

static BlockDriverState *coroutine_fn
open_filter (const char *driver, const char *path, int flags, const char *options)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs =
      test_open (driver, path, flags, options, test_open_ok ("file", path, flags, NULL), &error);

  g_assert_no_error (error);
  g_assert_nonnull (bs);
  return bs;
}

static void coroutine_fn
filter_fails (const char *driver, const char *path, const char *options, const char *part)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = test_open (driver, path, 0, options, test_open_ok ("file", path, 0, NULL), &error);

  g_assert_null (bs);
  g_assert_nonnull (error);
  g_assert_cmpint (error->domain, ==, VHDKIT_ERROR);
  if (strstr (error->message, part) == NULL)
    g_error ("'%s' expected in '%s'", part, error->message);
}

/* Everything a filter has to let through. */
static void coroutine_fn
check_passes (const char *driver, const char *options)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, -1);
  g_autofree char *log = g_build_filename (dir, "log", NULL);
  g_autofree char *all = options != NULL ? g_strconcat (options, log, NULL) : NULL;
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = open_filter (driver, path, 0, all);
  uint64_t id[2], file_id[2];
  int64_t bytes, map, mtime;
  BlockDriverState *file;

  g_assert_cmpint (bs->bytes, ==, MIB);
  g_assert_true (bs->drv->get_host_id (bs, id));
  g_assert_true (bs->file->drv->get_host_id (bs->file, file_id));
  g_assert_cmpmem (id, sizeof id, file_id, sizeof file_id);
  g_assert_cmpstr (bs->drv->get_host_path (bs), ==, path);
  g_assert_true (bs->drv->get_mtime (bs, &mtime));
  g_assert_cmpint (bs->drv->co_get_allocated_size (bs), <, MIB);

  int ret = bdrv_co_block_status (bs, 0, MIB, &bytes, &map, &file);

  g_assert_true (ret & BDRV_BLOCK_ALLOCATED);
  g_assert_true (file == bs->file);
  g_assert_true (ret & (BDRV_BLOCK_ZERO | BDRV_BLOCK_DATA));

  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 3, "abc", 0), ==, -EROFS);
  g_assert_true (bdrv_co_reopen_rw (bs, &error));
  test_write (bs, 1000, 1000, 'x');
  test_assert_read (bs, 1000, 1000, 'x');
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 1500, 100, BDRV_REQ_MAY_UNMAP), ==, 0);
  test_assert_read (bs, 1500, 100, 0);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 64 * KIB, 64 * KIB), ==, 0);
  g_assert_true (bdrv_co_truncate (bs, 2 * MIB, &error));
  g_assert_cmpint (bdrv_length (bs), ==, 2 * MIB);
  /* A filter's file can grow. */
  test_write (bs, 3 * MIB, 777, 'g');
  g_assert_cmpint (bdrv_length (bs), ==, 3 * MIB + 777);
  g_assert_cmpint (test_file_length (path), ==, 3 * MIB + 777);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 4 * MIB, 512, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (test_file_length (path), ==, 4 * MIB + 512);
  test_assert_read (bs, 3 * MIB, 777, 'g');
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  test_close (bs);
}

static void coroutine_fn
test_pass (void)
{
  check_passes ("blkdebug", NULL);
  check_passes ("blklogwrites", "log=");
}

/* --- blkdebug ------------------------------------------------------------------------------------------ */

static void coroutine_fn
test_debug_schedule (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, 'x');
  static const struct
  {
    const char *options;
    const int results[6];
  } cases[] = {
    { "op=write,n=1", { -EIO, 0, 0, 0, 0, 0 } },
    { "op=write,n=3,errno=ENOSPC", { 0, 0, -ENOSPC, 0, 0, 0 } },
    { "op=write,n=2,count=3,errno=28", { 0, -ENOSPC, -ENOSPC, -ENOSPC, 0, 0 } },
    { "op=any,n=4,count=0,errno=EFBIG", { 0, 0, 0, -EFBIG, -EFBIG, -EFBIG } },
    { "op=read,n=1,count=0", { 0, 0, 0, 0, 0, 0 } },
    { "op=write", { 0, 0, 0, 0, 0, 0 } },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      BlockDriverState *bs = open_filter ("blkdebug", path, BDRV_O_RDWR, cases[i].options);

      for (int j = 0; j < 6; j++)
        g_assert_cmpint (bdrv_co_pwrite (bs, j * 4096, 6, "abcdef", 0), ==, cases[i].results[j]);
      bdrv_co_unref (bs);
    }
  filter_fails ("blkdebug", path, "op=think", "think");
  filter_fails ("blkdebug", path, "errno=EWHAT", "EWHAT");
  filter_fails ("blkdebug", path, "errno=0", "'0'");
  filter_fails ("blkdebug", path, "short=100", "multiple of 512");
}

static void coroutine_fn
test_debug_kinds (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, 'x');
  g_autoptr (GError) error = NULL;
  char byte;
  BlockDriverState *bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=read,n=2");

  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 1, "", 0), ==, 0);
  g_assert_cmpint (bdrv_co_pread (bs, 0, 1, &byte), ==, 0);
  g_assert_cmpint (bdrv_co_pread (bs, 0, 1, &byte), ==, -EIO);
  g_assert_cmpint (bdrv_co_pread (bs, 0, 1, &byte), ==, 0);
  test_close (bs);

  bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=write_zeroes,n=1");
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 4096, 0), ==, -EIO);
  test_assert_read (bs, 1, 4095, 'x');
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 0, 4096, 0), ==, 0);
  test_close (bs);

  bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=discard,n=1");
  g_assert_cmpint (bdrv_co_pdiscard (bs, 64 * KIB, 64 * KIB), ==, -EIO);
  test_assert_read (bs, 64 * KIB, 64 * KIB, 'x');
  test_close (bs);

  bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=flush,n=1");
  test_write (bs, 0, 512, 'y');
  g_assert_cmpint (bdrv_co_flush (bs), ==, -EIO);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  test_close (bs);

  bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=truncate,n=1,errno=ENOSPC");
  g_assert_false (bdrv_co_truncate (bs, 2 * MIB, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  g_assert_cmpint (test_file_length (path), ==, MIB);
  g_assert_true (bdrv_co_truncate (bs, 2 * MIB, NULL));
  test_close (bs);

  /* A copy is a write. */
  g_autofree char *other = test_file_new (dir, "other", MIB, 'o');
  BlockDriverState *source = test_open_ok ("file", other, 0, NULL);

  bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=write,n=1");
  g_assert_cmpint (bdrv_co_copy_range_to (bs, 0, 4096, source, 0), ==, -EIO);
  test_close (bs);
  test_close (source);
}

static void coroutine_fn
test_debug_short (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, 'x');
  g_autofree char *data = g_malloc (8192);
  BlockDriverState *bs = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=write,n=1,count=2,short=1024");

  memset (data, 'y', 8192);
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 8192, data, 0), ==, -EIO);
  test_assert_read (bs, 0, 1024, 'y');
  test_assert_read (bs, 1024, 8192, 'x');
  /* Never the whole of it. */
  g_assert_cmpint (bdrv_co_pwrite (bs, 64 * KIB, 1024, data, 0), ==, -EIO);
  test_assert_read (bs, 64 * KIB, 512, 'y');
  test_assert_read (bs, 64 * KIB + 512, 512, 'x');
  test_close (bs);
}

static void coroutine_fn
test_debug_shared (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, 'x');
  g_autofree char *other = test_file_new (dir, "other", MIB, 'x');
  const char *options = "op=write,n=3,id=chain";

  blkdebug_reset ("chain");
  g_assert_cmpint (blkdebug_get_count ("chain"), ==, 0);
  for (int round = 0; round < 2; round++)
    {
      BlockDriverState *a = open_filter ("blkdebug", path, BDRV_O_RDWR, options);
      BlockDriverState *b = open_filter ("blkdebug", other, BDRV_O_RDWR, options);

      test_write (a, 0, 512, 'y');
      test_write (b, 0, 512, 'y');
      g_assert_cmpint (bdrv_co_pwrite (a, 0, 3, "abc", 0), ==, -EIO);
      test_write (b, 0, 512, 'y');
      test_close (a);
      test_close (b);
      g_assert_cmpint (blkdebug_get_count ("chain"), ==, 4);
      g_assert_cmpint (blkdebug_get_failures ("chain"), ==, 1);
      g_assert_cmpint (blkdebug_get_count ("another"), ==, 0);
      blkdebug_reset ("chain");
    }
}

/* --- blklogwrites -------------------------------------------------------------------------------------- */

static BlockDriverState *coroutine_fn
open_logged (const char *path, const char *log, int id)
{
  g_autofree char *options = g_strdup_printf ("log=%s,id=%d", log, id);

  return open_filter ("blklogwrites", path, BDRV_O_RDWR, options);
}

static void
assert_record (const BlkLog *log, size_t index, BlkLogKind kind, uint32_t file_id, int64_t offset,
               int64_t bytes)
{
  g_assert_cmpuint (index, <, log->n);

  const BlkLogRecord *record = &log->records[index];

  g_assert_cmpint (record->kind, ==, kind);
  g_assert_cmpint (record->file_id, ==, file_id);
  g_assert_cmpint (record->offset, ==, offset);
  g_assert_cmpint (record->bytes, ==, bytes);
}

static void coroutine_fn
test_log_round_trip (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *a_path = test_file_new (dir, "a", MIB, -1);
  g_autofree char *b_path = test_file_new (dir, "b", MIB, -1);
  g_autofree char *log_path = g_build_filename (dir, "log", NULL);
  g_autoptr (GError) error = NULL;
  BlockDriverState *a = open_logged (a_path, log_path, 1);
  BlockDriverState *b = open_logged (b_path, log_path, 2);

  test_write (a, 4096, 1000, 'a');                                   /* 2 3 */
  test_write (b, 0, 512, 'b');                                       /* 4 5 */
  g_assert_cmpint (bdrv_co_flush (a), ==, 0);                        /* 6 7 */
  g_assert_cmpint (bdrv_co_pwrite_zeroes (a, 4096, 512, 0), ==, 0);  /* 8 9 */
  g_assert_cmpint (bdrv_co_pdiscard (b, 64 * KIB, 64 * KIB), ==, 0); /* 10 11 */
  g_assert_true (bdrv_co_truncate (b, 2 * MIB, &error));             /* 12 13 */
  g_assert_cmpint (bdrv_co_flush (b), ==, 0);                        /* 14 15 */
  g_assert_cmpint (bdrv_co_copy_range_to (b, 0, 4096, a->file, 0), ==, -ENOTSUP);
  test_close (a); /* may flush */
  test_close (b);

  /* Another run goes on with the same log. */
  a = open_logged (a_path, log_path, 1);
  test_close (a);

  g_autoptr (BlkLog) log = blklog_load (log_path, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (log->n, >=, 17);
  g_assert_cmpmem (log->records[0].payload, log->records[0].payload_bytes, a_path, strlen (a_path));
  assert_record (log, 0, BLKLOG_OPEN, 1, 0, MIB);
  assert_record (log, 1, BLKLOG_OPEN, 2, 0, MIB);
  assert_record (log, 2, BLKLOG_WRITE, 1, 4096, 1000);
  assert_record (log, 4, BLKLOG_WRITE, 2, 0, 512);
  assert_record (log, 6, BLKLOG_FLUSH, 1, 0, 0);
  assert_record (log, 8, BLKLOG_ZEROES, 1, 4096, 512);
  assert_record (log, 10, BLKLOG_DISCARD, 2, 64 * KIB, 64 * KIB);
  assert_record (log, 12, BLKLOG_TRUNCATE, 2, 0, 2 * MIB);
  assert_record (log, 14, BLKLOG_FLUSH, 2, 0, 0);
  for (size_t i = 2; i < 16; i += 2)
    {
      assert_record (log, i + 1, BLKLOG_DONE, log->records[i].file_id, 0, 0);
      g_assert_cmpuint (log->records[i].done_at, ==, i + 1);
      g_assert_cmpuint (log->records[i + 1].of, ==, i);
      g_assert_cmpint (log->records[i].result, ==, 0);
    }
  test_assert_bytes (log->records[2].payload, 1000, 'a');
  g_assert_cmpint (log->records[log->n - 1].kind, ==, BLKLOG_OPEN);
  g_assert_cmpint (log->records[log->n - 1].bytes, ==, MIB);

  g_assert_cmpuint (log->records[2].durable_at, ==, 7);
  g_assert_cmpuint (log->records[4].durable_at, ==, 15);
  g_assert_cmpuint (log->records[10].durable_at, ==, 15);
  g_assert_cmpuint (log->records[12].durable_at, ==, 15);
  g_assert_false (blklog_is_durable (log, 2, 7));
  g_assert_true (blklog_is_durable (log, 2, 8));
  g_assert_false (blklog_is_durable (log, 4, 8));
  g_assert_true (blklog_is_change (log, 12));
  g_assert_false (blklog_is_change (log, 14));
  g_assert_false (blklog_is_change (log, 3));

  /* Played back, the log gives the same files. */
  for (uint32_t id = 1; id <= 2; id++)
    {
      g_autofree char *copy = test_file_new (dir, "copy", MIB, -1);
      g_autofree char *expected = NULL, *found = NULL;
      size_t expected_bytes, found_bytes;
      int fd = open (copy, O_RDWR | O_CLOEXEC);

      for (size_t i = 0; i < log->n; i++)
        if (blklog_is_change (log, i) && log->records[i].file_id == id)
          g_assert_cmpint (blklog_apply (log, i, fd, 0, -1), ==, 0);
      close (fd);
      g_assert_true (g_file_get_contents (id == 1 ? a_path : b_path, &expected, &expected_bytes, NULL));
      g_assert_true (g_file_get_contents (copy, &found, &found_bytes, NULL));
      g_assert_cmpmem (found, found_bytes, expected, expected_bytes);
    }
}

/* Without the option id: numbers in the order of the first opening, kept by later runs. */
static void coroutine_fn
test_log_ids (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *log_path = g_build_filename (dir, "log", NULL);
  g_autofree char *options = g_strconcat ("log=", log_path, NULL);
  static const char *const names[] = { "b", "a", "b", "c", "a" };
  static const uint32_t ids[] = { 0, 1, 0, 2, 1 };
  g_autoptr (GError) error = NULL;

  for (size_t i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *path = test_file_new (dir, names[i], 512, 'x');

      test_close (open_filter ("blklogwrites", path, 0, options));
    }

  g_autoptr (BlkLog) log = blklog_load (log_path, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (log->n, ==, G_N_ELEMENTS (ids));
  for (size_t i = 0; i < log->n; i++)
    assert_record (log, i, BLKLOG_OPEN, ids[i], 0, 512);
}

static void coroutine_fn
test_log_torn (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, -1);
  g_autofree char *log_path = g_build_filename (dir, "log", NULL);
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = open_logged (path, log_path, 7);

  test_write (bs, 0, 4096, 'a');
  test_write (bs, 8192, 4096, 'b');
  test_close (bs);

  g_autoptr (BlkLog) log = blklog_load (log_path, &error);

  g_assert_no_error (error);

  /* A part of a write. */
  g_autofree char *copy = test_file_new (dir, "copy", 4096, 'x');
  int fd = open (copy, O_RDWR | O_CLOEXEC);
  uint8_t data[4096];

  g_assert_cmpint (blklog_apply (log, 1, fd, 512, 1024), ==, 0);
  g_assert_cmpint (blklog_apply (log, 1, fd, 4096, 512), ==, -EINVAL);
  g_assert_cmpint (pread (fd, data, 4096, 0), ==, 4096);
  test_assert_bytes (data, 512, 'x');
  test_assert_bytes (data + 512, 1024, 'a');
  test_assert_bytes (data + 1536, 4096 - 1536, 'x');
  close (fd);

  /* The writer was killed in the middle of a record: header, payload. */
  size_t n = log->n;
  int64_t length = test_file_length (log_path);

  for (int cut = 1; cut < 64; cut += 31)
    {
      g_autofree char *part = g_build_filename (dir, "part", NULL);
      g_autofree char *all = NULL;

      g_assert_true (g_file_get_contents (log_path, &all, NULL, NULL));
      g_assert_true (g_file_set_contents (part, all, length - cut, NULL));

      g_autoptr (BlkLog) cut_log = blklog_load (part, &error);

      g_assert_no_error (error);
      g_assert_cmpuint (cut_log->n, ==, n - 1);
    }

  /* Rubbish. */
  g_autofree char *all = NULL;

  g_assert_true (g_file_get_contents (log_path, &all, NULL, NULL));
  all[log->records[1].payload - (const uint8_t *)g_mapped_file_get_contents (log->mapped) - 56] ^= 1;
  g_assert_true (g_file_set_contents (copy, all, length, NULL));
  g_assert_null (blklog_load (copy, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT);
  filter_fails ("blklogwrites", path, "id=3", "log=PATH");

  g_autofree char *options = g_strconcat ("log=", copy, NULL);

  filter_fails ("blklogwrites", path, options, "out of order");
}

/* A write that was under way when a flush began is not covered by it. */
typedef struct
{
  BlockDriverState *bs;
  int offset;
  int *running;
} Writer;

static void coroutine_fn
co_writer (void *opaque)
{
  Writer *writer = opaque;

  for (int i = 0; i < 50; i++)
    {
      test_write (writer->bs, writer->offset + i * 4096, 4096, 'a' + i % 26);
      if (i % 7 == 0)
        g_assert_cmpint (bdrv_co_flush (writer->bs), ==, 0);
    }
  --*writer->running;
}

static void coroutine_fn
test_log_concurrent (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 4 * MIB, -1);
  g_autofree char *log_path = g_build_filename (dir, "log", NULL);
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = open_logged (path, log_path, 1);
  int running = 8;
  Writer writers[8];

  for (int i = 0; i < 8; i++)
    {
      writers[i] = (Writer){ .bs = bs, .offset = i * 256 * KIB, .running = &running };
      coroutine_enter (coroutine_new (co_writer, &writers[i]));
    }
  while (running > 0)
    co_sleep_ns (1000000);
  test_close (bs);

  g_autoptr (BlkLog) log = blklog_load (log_path, &error);
  size_t writes = 0, durable = 0;

  g_assert_no_error (error);
  for (size_t i = 0; i < log->n; i++)
    {
      const BlkLogRecord *record = &log->records[i];

      if (record->kind != BLKLOG_WRITE)
        continue;
      writes++;
      g_assert_cmpuint (record->done_at, >, i);

      /* By the definition, the slow way. */
      size_t expected = BLKLOG_NEVER;

      for (size_t j = record->done_at; j < log->n; j++)
        if (log->records[j].kind == BLKLOG_FLUSH && log->records[j].result == 0)
          expected = MIN (expected, log->records[j].done_at);
      g_assert_cmpuint (record->durable_at, ==, expected);
      durable += expected != BLKLOG_NEVER;
    }
  g_assert_cmpuint (writes, ==, 400);
  g_assert_cmpuint (durable, >, 0);
}

/* What fails has a result, and no flush makes it certain. */
static void coroutine_fn
test_log_failures (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, -1);
  g_autofree char *log_path = g_build_filename (dir, "log", NULL);
  g_autofree char *options = g_strconcat ("log=", log_path, NULL);
  g_autoptr (GError) error = NULL;
  BlockDriverState *below = open_filter ("blkdebug", path, BDRV_O_RDWR, "op=write,n=2,errno=ENOSPC");
  BlockDriverState *bs = test_open ("blklogwrites", path, BDRV_O_RDWR, options, below, &error);

  g_assert_no_error (error);
  test_write (bs, 0, 512, 'a');                                       /* 1 2 */
  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 3, "abc", 0), ==, -ENOSPC); /* 3 4 */
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);                        /* 5 6 */
  test_close (bs);

  g_autoptr (BlkLog) log = blklog_load (log_path, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (log->records[1].durable_at, ==, 6);
  g_assert_cmpint (log->records[3].result, ==, -ENOSPC);
  g_assert_cmpuint (log->records[3].durable_at, ==, BLKLOG_NEVER);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  TEST_ADD ("/filter/pass", test_pass);
  TEST_ADD ("/blkdebug/schedule", test_debug_schedule);
  TEST_ADD ("/blkdebug/kinds", test_debug_kinds);
  TEST_ADD ("/blkdebug/short", test_debug_short);
  TEST_ADD ("/blkdebug/shared", test_debug_shared);
  TEST_ADD ("/blklogwrites/round-trip", test_log_round_trip);
  TEST_ADD ("/blklogwrites/ids", test_log_ids);
  TEST_ADD ("/blklogwrites/torn", test_log_torn);
  TEST_ADD ("/blklogwrites/concurrent", test_log_concurrent);
  TEST_ADD ("/blklogwrites/failures", test_log_failures);
  return g_test_run ();
}
