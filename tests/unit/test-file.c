/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of the drivers file, host_device and raw.
 *
 * With VHDKIT_TEST_REFLINK_DIR naming a directory of a file system that shares extents (XFS, btrfs), cloning
 * is tested there.  A block device is made from a file if we are allowed to.
 */
#include "block-test.h"

#include <linux/falloc.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define KIB ((int64_t)1024)
#define MIB (1024 * KIB)

static const char some_bytes[4096];

/* --- opening ------------------------------------------------------------------------------------------- */

static void coroutine_fn
test_kinds (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *fifo = g_build_filename (dir, "fifo", NULL);
  g_autofree char *missing = g_build_filename (dir, "missing", NULL);
  g_autofree char *path = test_file_new (dir, "plain", 1000, 'x');

  g_assert_cmpint (mkfifo (fifo, 0600), ==, 0);
  test_open_fails ("file", fifo, 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a FIFO");
  test_open_fails ("file", fifo, BDRV_O_RDWR, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a FIFO");
  test_open_fails ("file", dir, 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a directory");
  test_open_fails ("file", dir, BDRV_O_RDWR, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a directory");
  test_open_fails ("file", "/dev/null", 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a character device");
  test_open_fails ("file", missing, BDRV_O_RDWR, NULL, VHDKIT_ERROR_NOT_FOUND, "cannot open");
  test_open_fails ("host_device", path, 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "found a regular file");
  test_open_fails ("host_device", "/dev/null", 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "expected a block device");
  test_open_fails ("file", path, 0, "aio=fast", VHDKIT_ERROR_INVALID_ARGUMENT, "aio=fast");
  test_open_fails ("file", path, 0, "aio=native", VHDKIT_ERROR_INVALID_ARGUMENT, "needs O_DIRECT");
  test_open_fails ("file", path, 0, "locking=maybe", VHDKIT_ERROR_INVALID_ARGUMENT, "locking=maybe");
  test_open_fails ("file", path, 0, "copy_range=maybe", VHDKIT_ERROR_INVALID_ARGUMENT, "copy_range=maybe");

  BlockDriverState *bs = test_open_ok ("file", path, 0, NULL);

  g_assert_cmpint (bs->bytes, ==, 1000);
  g_assert_cmpuint (bs->limits.request_alignment, ==, 1);
  test_close (bs);
}

static void coroutine_fn
test_facts (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "plain", 64 * KIB, 'x');
  g_autofree char *link = g_build_filename (dir, "link", NULL);
  struct stat st;
  uint64_t id[2];
  int64_t mtime;

  g_assert_cmpint (symlink ("plain", link), ==, 0);
  g_assert_cmpint (stat (path, &st), ==, 0);

  BlockDriverState *bs = test_open_ok ("file", link, 0, NULL);

  g_assert_true (bs->drv->get_host_id (bs, id));
  g_assert_cmpuint (id[0], ==, st.st_dev);
  g_assert_cmpuint (id[1], ==, st.st_ino);
  g_assert_cmpstr (bs->drv->get_host_path (bs), ==, path);
  g_assert_true (bs->drv->get_mtime (bs, &mtime));
  g_assert_cmpint (mtime, ==, st.st_mtime);
  g_assert_cmpint (bs->drv->co_get_allocated_size (bs), >=, 64 * KIB);
  test_close (bs);
}

static bool
have_openat2 (void)
{
  struct open_how how = { .flags = O_PATH | O_CLOEXEC };
  int fd = syscall (SYS_openat2, AT_FDCWD, "/", &how, sizeof how);

  if (fd < 0)
    return false;
  close (fd);
  return true;
}

static void coroutine_fn
test_confine (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *jail = g_build_filename (dir, "jail", NULL);
  g_autofree char *sub = g_build_filename (jail, "sub", NULL);
  g_autofree char *jail_link = g_build_filename (dir, "jail-link", NULL);
  g_autofree char *outside = test_file_new (dir, "outside", 512, 'o');
  g_autofree char *options = g_strconcat ("confine=", jail, NULL);
  g_autofree char *link_options = g_strconcat ("confine=", jail_link, "/", NULL);

  if (!have_openat2 ())
    {
      g_test_skip ("no openat2");
      return;
    }
  g_assert_cmpint (g_mkdir_with_parents (sub, 0755), ==, 0);
  g_assert_cmpint (symlink ("jail", jail_link), ==, 0);

  g_autofree char *inside = test_file_new (sub, "inside", 512, 'i');
  static const struct
  {
    const char *name, *target;
  } links[] = { { "to-inside", "sub/inside" },
                { "to-outside", "../outside" },
                { "to-nothing", "../nothing" } };

  for (size_t i = 0; i < G_N_ELEMENTS (links); i++)
    {
      g_autofree char *link = g_build_filename (jail, links[i].name, NULL);

      g_assert_cmpint (symlink (links[i].target, link), ==, 0);
    }

  g_autofree char *absolute_link = g_build_filename (jail, "absolute", NULL);

  g_assert_cmpint (symlink (inside, absolute_link), ==, 0);

  static const struct
  {
    const char *path; /* below the test's directory */
    int code;         /* -1: opens */
  } cases[] = {
    { "jail/sub/inside", -1 },
    { "jail/sub/../sub/./inside", -1 },
    { "jail/to-inside", -1 },
    { "jail/absolute", -1 },
    { "jail-link/sub/inside", -1 },
    { "outside", VHDKIT_ERROR_PERMISSION },
    { "jail/../outside", VHDKIT_ERROR_PERMISSION },
    { "jail/to-outside", VHDKIT_ERROR_PERMISSION },
    { "nothing", VHDKIT_ERROR_PERMISSION },
    { "nowhere/nothing", VHDKIT_ERROR_PERMISSION },
    { "jail/nothing", VHDKIT_ERROR_NOT_FOUND },
    { "jail-other/nothing", VHDKIT_ERROR_PERMISSION },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    for (int j = 0; j < 2; j++)
      {
        const char *option = j == 0 ? options : link_options;
        g_autofree char *path = g_build_filename (dir, cases[i].path, NULL);

        if (cases[i].code < 0)
          test_close (test_open_ok ("file", path, BDRV_O_RDWR, option));
        else
          test_open_fails ("file", path, 0, option, cases[i].code,
                           cases[i].code == VHDKIT_ERROR_PERMISSION ? "does not lie below" : "cannot open");
      }

  g_autofree char *to_nothing = g_build_filename (jail, "to-nothing", NULL);
  g_autoptr (GError) error = NULL;

  g_assert_null (test_open ("file", to_nothing, 0, options, NULL, &error));
  g_assert_nonnull (error);

  g_autofree char *bad_options = g_strconcat ("confine=", outside, NULL);

  test_open_fails ("file", inside, 0, bad_options, VHDKIT_ERROR_NOT_FOUND, "confining directory");
}

/* --- I/O ----------------------------------------------------------------------------------------------- */

static void coroutine_fn
check_io (const char *path, int flags, const char *options)
{
  BlockDriverState *bs = test_open_ok ("file", path, flags | BDRV_O_RDWR, options);

  test_write (bs, 4096, 8192, 'a');
  test_write (bs, 5000, 1000, 'b');
  test_assert_read (bs, 4096, 904, 'a');
  test_assert_read (bs, 5000, 1000, 'b');
  test_assert_read (bs, 6000, 4096 + 8192 - 6000, 'a');
  test_assert_read (bs, 0, 4096, 0);
  g_assert_cmpint (bs->bytes, ==, 12288);

  /* Growing, by a piece that fits no alignment. */
  test_write (bs, 20000, 777, 'c');
  g_assert_cmpint (bs->bytes, ==, 20777);
  g_assert_cmpint (test_file_length (path), ==, 20777);
  test_assert_read (bs, 12288, 20000 - 12288, 0);
  test_assert_read (bs, 20000, 777, 'c');
  test_assert_read (bs, 20777, 5000, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

  /* More elements than one system call takes. */
  enum
  {
    PIECES = 3000
  };
  uint8_t *memory = bdrv_try_alloc_buffer (bs, PIECES * 512);
  IoVector qiov;

  io_vector_init (&qiov, 4);
  for (int i = 0; i < PIECES; i++)
    {
      memset (memory + i * 512, i % 251, 512);
      io_vector_add (&qiov, memory + i * 512, 512);
    }
  g_assert_cmpint (bdrv_co_pwritev (bs, 64 * KIB, PIECES * 512, &qiov, 0, 0), ==, 0);
  memset (memory, 0xee, PIECES * 512);
  g_assert_cmpint (bdrv_co_preadv (bs, 64 * KIB, PIECES * 512, &qiov, 0), ==, 0);
  for (int i = 0; i < PIECES; i++)
    test_assert_bytes (memory + i * 512, 512, i % 251);
  io_vector_clear (&qiov);
  bdrv_free_buffer (memory);
  test_close (bs);
}

static void coroutine_fn
test_io (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 0, 0);

  check_io (path, 0, NULL);
  if (aio_engine_available (AIO_ENGINE_IO_URING))
    {
      g_assert_cmpint (truncate (path, 0), ==, 0);
      check_io (path, 0, "aio=io_uring");
    }
}

static bool coroutine_fn
have_direct (const char *driver, const char *path)
{
  int fd = open (path, O_RDWR | O_DIRECT | O_CLOEXEC);
  bool have = fd >= 0;

  if (have)
    close (fd);
  /* QEMU's emulation of a processor has the kernel say that no alignment will do. */
  if (have && g_getenv ("MESON_EXE_WRAPPER"))
    {
      g_autoptr (GError) error = NULL;
      BlockDriverState *bs = test_open (driver, path, BDRV_O_DIRECT, NULL, NULL, &error);

      have = !g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
      if (bs)
        test_close (bs);
    }
  if (!have)
    g_test_skip ("no O_DIRECT here");
  return have;
}

static void coroutine_fn
test_direct (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 0, 0);

  if (!have_direct ("file", path))
    return;
  for (AioEngine engine = AIO_ENGINE_THREADS; engine <= AIO_ENGINE_IO_URING; engine++)
    {
      g_autofree char *options = g_strconcat ("aio=", aio_engine_name (engine), NULL);

      g_assert_cmpint (truncate (path, 0), ==, 0);
      if (aio_engine_available (engine))
        check_io (path, BDRV_O_DIRECT, options);
      else
        test_open_fails ("file", path, BDRV_O_DIRECT, options, VHDKIT_ERROR_UNSUPPORTED, options);
    }
  g_assert_cmpint (truncate (path, 0), ==, 0);
  check_io (path, BDRV_O_DIRECT, NULL);

  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_DIRECT, NULL);

  g_test_message ("O_DIRECT alignment: %u, memory %u", bs->limits.request_alignment,
                  bs->limits.memory_alignment);
  g_assert_cmpuint (bs->limits.request_alignment, >, 0);
  test_close (bs);
}

/* The file never gets longer than it should be, not even for a moment: the limit would refuse that. */
static void coroutine_fn
check_unaligned_end (bool reopen)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 10000, 'x');
  struct rlimit before, limit;

  if (!have_direct ("file", path))
    return;
  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_DIRECT | (reopen ? 0 : BDRV_O_RDWR), NULL);
  if (reopen)
    g_assert_true (bdrv_co_reopen_rw (bs, NULL));
  if (bs->limits.request_alignment == 1)
    {
      g_test_skip ("O_DIRECT needs no alignment here");
      test_close (bs);
      return;
    }
  g_assert_cmpint (getrlimit (RLIMIT_FSIZE, &before), ==, 0);
  limit = before;
  limit.rlim_cur = 10100;
  signal (SIGXFSZ, SIG_IGN);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &limit), ==, 0);
  test_write (bs, 9990, 10, 'y');
  test_write (bs, 1000, 9100, 'z');
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 10000, 50, 0), ==, 0);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &before), ==, 0);
  test_assert_read (bs, 0, 1000, 'x');
  test_assert_read (bs, 1000, 9000, 'z');
  test_assert_read (bs, 10000, 50, 0);
  test_assert_read (bs, 10050, 50, 'z');
  /* The other way again, over the page that was written through the cache. */
  test_write (bs, 8192, 8192, 'w');
  test_assert_read (bs, 8192, 8192, 'w');
  g_assert_cmpint (test_file_length (path), ==, 16384);
  test_close (bs);
}

static void coroutine_fn
test_direct_unaligned_end (void)
{
  check_unaligned_end (false);
  check_unaligned_end (true);
}

static void coroutine_fn
test_tmpfs_direct (void)
{
  g_autofree char *path = g_strdup ("/dev/shm/vhdkit-test-XXXXXX");
  int fd = g_mkstemp (path);

  if (fd < 0)
    {
      g_test_skip ("no /dev/shm");
      return;
    }
  close (fd);
  if (have_direct ("file", path))
    check_io (path, BDRV_O_DIRECT, NULL);
  unlink (path);
}

/* The file is shorter than the node believes: what is missing is neither zeros nor a hole. */
static void coroutine_fn
test_cut_behind_back (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 64 * KIB, 'x');
  BlockDriverState *bs = test_open_ok ("file", path, 0, NULL);
  uint8_t buf[4096];

  g_assert_cmpint (truncate (path, 10000), ==, 0);
  test_assert_read (bs, 9000, 1000, 'x');
  g_assert_cmpint (bdrv_co_pread (bs, 9000, 1001, buf), ==, -EIO);
  g_assert_cmpint (bdrv_co_pread (bs, 10000, sizeof buf, buf), ==, -EIO);
  g_assert_cmpint (bdrv_co_pread (bs, 64 * KIB - 10, 10, buf), ==, -EIO);
  for (int64_t at = 0, pnum; at < 64 * KIB; at += pnum)
    {
      int64_t map;
      BlockDriverState *file;
      int status = bs->drv->co_block_status (bs, at, 64 * KIB - at, &pnum, &map, &file);

      g_assert_cmpint (status & BDRV_BLOCK_ZERO, ==, 0);
      g_assert_cmpint (pnum, >, 0);
    }
  test_close (bs);
}

/* --- zeroes, discard, length --------------------------------------------------------------------------- */

static int64_t
allocated (const char *path)
{
  struct stat st;

  g_assert_cmpint (stat (path, &st), ==, 0);
  return st.st_blocks * 512;
}

static bool
can_punch_holes (const char *dir)
{
  g_autofree char *path = test_file_new (dir, "hole", 4096, 'x');
  int fd = open (path, O_RDWR | O_CLOEXEC);
  bool works = fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;

  close (fd);
  return works;
}

static void coroutine_fn
test_zeroes (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 4 * MIB, 'x');

  if (!can_punch_holes (dir))
    {
      g_test_skip ("no hole punching here");
      return;
    }

  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_RDWR, NULL);

  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

  int64_t full = allocated (path);

  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, MIB, MIB, BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK), ==, 0);
  g_assert_cmpint (allocated (path), <=, full - MIB);
  test_assert_read (bs, MIB, MIB, 0);
  test_assert_read (bs, 0, MIB, 'x');
  test_assert_read (bs, 2 * MIB, MIB, 'x');

  /* Without leave to unmap the space stays. */
  int64_t punched = allocated (path);

  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 2 * MIB, MIB, 0), ==, 0);
  test_assert_read (bs, 2 * MIB, MIB, 0);
  g_assert_cmpint (allocated (path), >=, punched);

  /* Edges that no block ends at. */
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 100, 10000, BDRV_REQ_MAY_UNMAP), ==, 0);
  test_assert_read (bs, 0, 100, 'x');
  test_assert_read (bs, 100, 10000, 0);
  test_assert_read (bs, 10100, 1000, 'x');

  /* Past the end: longer, no space taken. */
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 4 * MIB - 4096, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (test_file_length (path), ==, 5 * MIB - 4096);
  g_assert_cmpint (bs->bytes, ==, 5 * MIB - 4096);
  test_assert_read (bs, 4 * MIB - 4096, MIB, 0);

  g_assert_cmpint (bdrv_co_pdiscard (bs, 3 * MIB, 512 * KIB), ==, 0);
  test_assert_read (bs, 3 * MIB, 512 * KIB, 0);
  test_assert_read (bs, 3 * MIB + 512 * KIB, 4 * KIB, 'x');
  test_close (bs);
}

static void coroutine_fn
test_truncate (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 64 * KIB, 'x');
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_RDWR, NULL);

  g_assert_true (bdrv_co_truncate (bs, 10 * KIB, &error));
  g_assert_true (bdrv_co_truncate (bs, 128 * KIB, &error));
  g_assert_cmpint (bdrv_length (bs), ==, 128 * KIB);
  g_assert_cmpint (test_file_length (path), ==, 128 * KIB);
  test_assert_read (bs, 0, 10 * KIB, 'x');
  test_assert_read (bs, 10 * KIB, 118 * KIB, 0);

  /* Few file systems take that. */
  if (!bdrv_co_truncate (bs, G_MAXINT64 / 2, &error))
    {
      g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
      g_assert_cmpint (bdrv_length (bs), ==, 128 * KIB);
    }
  test_close (bs);
}

/* --- status -------------------------------------------------------------------------------------------- */

#define UNIT  (64 * KIB)
#define UNITS 64

/* What is known to be data must be so reported, and what is reported to be a hole must read as zeros. */
static void coroutine_fn
check_status (BlockDriverState *bs, const uint8_t *model)
{
  int64_t offset = 0;

  while (offset < bs->bytes)
    {
      int64_t bytes, map;
      BlockDriverState *file;
      int ret = bdrv_co_block_status (bs, offset, bs->bytes - offset, &bytes, &map, &file);

      g_assert_cmpint (ret, >=, 0);
      g_assert_cmpint (bytes, >, 0);
      g_assert_true (ret & BDRV_BLOCK_ALLOCATED);
      g_assert_true (ret & BDRV_BLOCK_OFFSET_VALID);
      g_assert_true (file == bs);
      g_assert_cmpint (map, ==, offset);
      g_assert_cmpint (!!(ret & BDRV_BLOCK_DATA) + !!(ret & BDRV_BLOCK_ZERO), ==, 1);
      g_assert_cmpint (!!(ret & BDRV_BLOCK_EOF), ==, offset + bytes == bs->bytes);
      if (ret & BDRV_BLOCK_ZERO)
        for (int64_t i = offset / UNIT; i < (offset + bytes + UNIT - 1) / UNIT; i++)
          g_assert_cmpint (model[i], ==, 0);
      offset += bytes;
    }
}

static void coroutine_fn
check_one_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int status, int64_t pnum)
{
  int64_t n, map;
  BlockDriverState *file;
  int ret = bdrv_co_block_status (bs, offset, bytes, &n, &map, &file);

  g_assert_cmphex (ret, ==, status | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED);
  g_assert_cmpint (n, ==, pnum);
}

static void coroutine_fn
check_random_status (const char *path, const char *options)
{
  uint8_t model[UNITS] = { 0 };
  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_RDWR, options);

  for (int round = 0; round < 300; round++)
    {
      int first = g_test_rand_int_range (0, UNITS);
      int count = g_test_rand_int_range (1, MIN (UNITS - first, 8) + 1);
      int kind = g_test_rand_int_range (0, 4);

      if (kind < 2)
        test_write (bs, first * UNIT, count * UNIT, 'x');
      else if (kind == 2)
        g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, first * UNIT, count * UNIT, BDRV_REQ_MAY_UNMAP), ==, 0);
      else
        g_assert_cmpint (bdrv_co_pdiscard (bs, first * UNIT, count * UNIT), ==, 0);
      memset (model + first, kind < 2, count);
      if (round % 3 == 0)
        {
          /* One place only, so that something stays in the cache. */
          int64_t n, map;
          BlockDriverState *file;
          int at = g_test_rand_int_range (0, UNITS);
          int ret = bdrv_co_block_status (bs, at * UNIT, (UNITS - at) * UNIT, &n, &map, &file);

          g_assert_cmpint (ret, >=, 0);
          if (ret & BDRV_BLOCK_ZERO)
            for (int i = at; i < at + (n + UNIT - 1) / UNIT; i++)
              g_assert_cmpint (model[i], ==, 0);
        }
      if (round % 10 == 0)
        check_status (bs, model);
    }
  test_close (bs);
}

static void coroutine_fn
test_status (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", UNITS * UNIT, -1);

  if (!can_punch_holes (dir))
    {
      g_test_skip ("no hole punching here");
      return;
    }

  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_RDWR, NULL);

  check_one_status (bs, 0, UNITS * UNIT, BDRV_BLOCK_ZERO | BDRV_BLOCK_EOF, UNITS * UNIT);
  test_write (bs, 4 * UNIT, 2 * UNIT, 'x');
  check_one_status (bs, UNIT, UNITS * UNIT - UNIT, BDRV_BLOCK_ZERO, 3 * UNIT);
  check_one_status (bs, 4 * UNIT, 8 * UNIT, BDRV_BLOCK_DATA, 2 * UNIT);
  check_one_status (bs, 4 * UNIT, UNIT, BDRV_BLOCK_DATA, UNIT);
  check_one_status (bs, 6 * UNIT, UNITS * UNIT - 6 * UNIT, BDRV_BLOCK_ZERO | BDRV_BLOCK_EOF,
                    UNITS * UNIT - 6 * UNIT);
  /* Into the hole just looked at, and the other way round. */
  test_write (bs, 8 * UNIT, UNIT, 'x');
  check_one_status (bs, 6 * UNIT, 10 * UNIT, BDRV_BLOCK_ZERO, 2 * UNIT);
  check_one_status (bs, 8 * UNIT, 10 * UNIT, BDRV_BLOCK_DATA, UNIT);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 4 * UNIT, UNIT, BDRV_REQ_MAY_UNMAP), ==, 0);
  check_one_status (bs, 4 * UNIT, UNIT, BDRV_BLOCK_ZERO, UNIT);
  check_one_status (bs, 5 * UNIT, 2 * UNIT, BDRV_BLOCK_DATA, UNIT);
  g_assert_true (bdrv_co_truncate (bs, 5 * UNIT, NULL));
  g_assert_true (bdrv_co_truncate (bs, UNITS * UNIT, NULL));
  check_one_status (bs, 5 * UNIT, 2 * UNIT, BDRV_BLOCK_ZERO, 2 * UNIT);
  test_close (bs);

  g_assert_cmpint (truncate (path, 0), ==, 0);
  g_assert_cmpint (truncate (path, UNITS * UNIT), ==, 0);
  check_random_status (path, NULL);
  g_assert_cmpint (truncate (path, 0), ==, 0);
  g_assert_cmpint (truncate (path, UNITS * UNIT), ==, 0);
  check_random_status (path, "locking=off");
}

/* Without locks somebody else may write: nothing is remembered. */
static void coroutine_fn
test_status_shared (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", UNITS * UNIT, -1);
  BlockDriverState *looker = test_open_ok ("file", path, BDRV_O_FORCE_SHARE, NULL);
  BlockDriverState *writer = test_open_ok ("file", path, BDRV_O_RDWR, NULL);
  int64_t n, map;
  BlockDriverState *file;

  if (bdrv_co_block_status (looker, 0, UNITS * UNIT, &n, &map, &file) & BDRV_BLOCK_ZERO)
    {
      test_write (writer, 4 * UNIT, UNIT, 'x');
      check_one_status (looker, 0, UNITS * UNIT, BDRV_BLOCK_ZERO, 4 * UNIT);
      check_one_status (looker, 4 * UNIT, UNIT, BDRV_BLOCK_DATA, UNIT);
    }
  test_close (writer);
  test_close (looker);
}

/* --- locks --------------------------------------------------------------------------------------------- */

/* The bytes somebody has locked, as "100 101". */
static char *
locked_bytes (const char *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  g_autoptr (GString) text = g_string_new (NULL);

  for (int byte = 100; byte < 210; byte++)
    {
      struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

      g_assert_cmpint (fcntl (fd, F_OFD_GETLK, &lock), ==, 0);
      if (lock.l_type != F_UNLCK)
        g_string_append_printf (text, "%s%d", text->len > 0 ? " " : "", byte);
    }
  close (fd);
  return g_string_free (g_steal_pointer (&text), false);
}

static void
assert_locked_bytes (const char *path, const char *expected)
{
  g_autofree char *found = locked_bytes (path);

  g_assert_cmpstr (found, ==, expected);
}

static void coroutine_fn
test_lock_bytes (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 4096, 'x');
  static const struct
  {
    int flags;
    const char *options, *bytes;
  } cases[] = {
    { 0, NULL, "100 201 203" },
    { 0, "locking=on", "100 201 203" },
    { BDRV_O_RDWR, NULL, "100 101 103 201 203" },
    { BDRV_O_FORCE_SHARE, NULL, "100" },
    { BDRV_O_NO_LOCK, NULL, "" },
    { BDRV_O_NO_LOCK | BDRV_O_RDWR, NULL, "" },
    { BDRV_O_RDWR, "locking=off", "" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      BlockDriverState *bs = test_open_ok ("file", path, cases[i].flags, cases[i].options);

      assert_locked_bytes (path, cases[i].bytes);
      test_close (bs);
      assert_locked_bytes (path, "");
    }
}

static void coroutine_fn
test_lock_conflicts (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 4096, 'x');
  static const struct
  {
    int first, second;
    const char *message; /* NULL: both at once */
  } cases[] = {
    { 0, 0, NULL },
    { BDRV_O_RDWR, 0, "a writer that holds the \"write\" permission" },
    { 0, BDRV_O_RDWR, "a reader that does not share the \"write\" permission" },
    { BDRV_O_RDWR, BDRV_O_RDWR, "a writer that holds the \"write\" permission" },
    { BDRV_O_RDWR, BDRV_O_FORCE_SHARE, NULL },
    { BDRV_O_FORCE_SHARE, BDRV_O_RDWR, NULL },
    { BDRV_O_RDWR, BDRV_O_NO_LOCK, NULL },
    { BDRV_O_NO_LOCK | BDRV_O_RDWR, BDRV_O_RDWR, NULL },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      BlockDriverState *first = test_open_ok ("file", path, cases[i].first, NULL);
      g_autofree char *before = locked_bytes (path);

      if (cases[i].message == NULL)
        test_close (test_open_ok ("file", path, cases[i].second, NULL));
      else
        test_open_fails ("file", path, cases[i].second, NULL, VHDKIT_ERROR_IN_USE, cases[i].message);
      assert_locked_bytes (path, before);
      test_close (first);
    }
}

/* Locks of other kinds than ours. */
static void coroutine_fn
test_lock_strangers (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 4096, 'x');
  g_autofree char *self = g_strdup_printf ("process %d,", getpid ());
  int fd = open (path, O_RDWR | O_CLOEXEC);
  struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };

  /* A lock of a process has a process. */
  g_assert_cmpint (fcntl (fd, F_SETLK, &lock), ==, 0);
  test_open_fails ("file", path, 0, NULL, VHDKIT_ERROR_IN_USE, self);
  /* Closing any descriptor of the file in this process has dropped it. */
  lock.l_start = 100;
  lock.l_type = F_WRLCK;
  g_assert_cmpint (fcntl (fd, F_OFD_SETLK, &lock), ==, 0);
  test_open_fails ("file", path, 0, NULL, VHDKIT_ERROR_IN_USE, "locked it exclusively");
  test_open_fails ("file", path, BDRV_O_FORCE_SHARE, NULL, VHDKIT_ERROR_IN_USE, "locked it exclusively");
  close (fd);
  test_close (test_open_ok ("file", path, BDRV_O_RDWR, NULL));
}

static int
run_quietly (const char *const *argv, char **output)
{
  int status = -1;
  GSpawnFlags flags = G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL;

  if (output == NULL)
    flags |= G_SPAWN_STDOUT_TO_DEV_NULL;
  if (!g_spawn_sync (NULL, (char **)argv, NULL, flags, NULL, NULL, output, NULL, &status, NULL))
    return -1;
  return status;
}

static void coroutine_fn
test_lock_qemu (void)
{
  g_autofree char *program = g_find_program_in_path ("qemu-io");
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", MIB, 'x');

  if (program == NULL)
    {
      g_test_skip ("no qemu-io");
      return;
    }

  const char *look[] = { program, "-r", "-f", "raw", "-c", "read 0 512", path, NULL };
  const char *change[] = { program, "-f", "raw", "-c", "write 0 512", path, NULL };

  if (run_quietly (look, NULL) != 0)
    {
      g_test_skip ("qemu-io does not run");
      return;
    }

  /* We have it.  (A reader of a raw file lets QEMU's users write, so only its writers are refused.) */
  BlockDriverState *bs = test_open_ok ("file", path, BDRV_O_RDWR, NULL);

  g_assert_cmpint (run_quietly (change, NULL), !=, 0);
  test_close (bs);
  bs = test_open_ok ("file", path, 0, NULL);
  g_assert_cmpint (run_quietly (look, NULL), ==, 0);
  g_assert_cmpint (run_quietly (change, NULL), !=, 0);
  test_close (bs);
  g_assert_cmpint (run_quietly (change, NULL), ==, 0);

  /* QEMU has it. */
  const char *writer[] = { program, "-f", "raw", "-c", "sleep 60000", path, NULL };
  GPid pid;

  g_assert_true (g_spawn_async (NULL, (char **)writer, NULL,
                                G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL,
                                NULL, NULL, &pid, NULL));
  for (int i = 0; i < 1000; i++)
    {
      g_autofree char *bytes = locked_bytes (path);

      if (strstr (bytes, "101") != NULL)
        break;
      g_usleep (10000);
    }
  test_open_fails ("file", path, 0, NULL, VHDKIT_ERROR_IN_USE,
                   "a writer that holds the \"write\" permission");
  test_open_fails ("file", path, BDRV_O_RDWR, NULL, VHDKIT_ERROR_IN_USE, "a writer");
  test_close (test_open_ok ("file", path, BDRV_O_FORCE_SHARE, NULL));
  kill (pid, SIGKILL);
  waitpid (pid, NULL, 0);
  g_spawn_close_pid (pid);
  test_close (test_open_ok ("file", path, BDRV_O_RDWR, NULL));
}

static void coroutine_fn
check_reopen (int flags)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 64 * KIB, 'x');
  g_autofree char *other = g_build_filename (dir, "other", NULL);
  g_autoptr (GError) error = NULL;

  if (flags & BDRV_O_DIRECT && !have_direct ("file", path))
    return;

  BlockDriverState *bs = test_open_ok ("file", path, flags, NULL);
  BlockDriverState *reader = test_open_ok ("file", path, 0, NULL);

  g_assert_cmpint (bdrv_co_pwrite (bs, 0, 4096, some_bytes, 0), ==, -EROFS);
  g_assert_false (bdrv_co_reopen_rw (bs, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  g_assert_nonnull (strstr (error->message, "a reader that does not share"));
  assert_locked_bytes (path, "100 201 203");
  g_assert_true (bs->read_only);
  test_assert_read (bs, 0, 4096, 'x');
  test_close (reader);

  /* It is the file that was opened, not the name. */
  g_autofree char *imposter = test_file_new (dir, "imposter", 64 * KIB, 'i');

  g_assert_cmpint (rename (path, other), ==, 0);
  g_assert_cmpint (rename (imposter, path), ==, 0);
  g_clear_error (&error);
  g_assert_true (bdrv_co_reopen_rw (bs, &error));
  g_assert_false (bs->read_only);
  assert_locked_bytes (other, "100 101 103 201 203");
  assert_locked_bytes (path, "");
  test_write (bs, 4096, 4096, 'y');
  test_assert_read (bs, 4096, 4096, 'y');
  test_open_fails ("file", other, 0, NULL, VHDKIT_ERROR_IN_USE, "a writer");
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  test_close (bs);
  assert_locked_bytes (other, "");

  bs = test_open_ok ("file", path, 0, NULL);
  test_assert_read (bs, 0, 64 * KIB, 'i');
  test_close (bs);
}

static void coroutine_fn
test_reopen (void)
{
  check_reopen (0);
}

static void coroutine_fn
test_reopen_direct (void)
{
  check_reopen (BDRV_O_DIRECT);
}

/* --- copying ------------------------------------------------------------------------------------------- */

static bool
is_unsupported (int ret)
{
  return ret == -ENOTSUP || ret == -EXDEV || ret == -EINVAL || ret == -EOPNOTSUPP;
}

static void coroutine_fn
test_copy_range (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *from_path = test_file_new (dir, "from", MIB, 'f');
  g_autofree char *to_path = test_file_new (dir, "to", MIB, 't');
  BlockDriverState *from = test_open_ok ("file", from_path, 0, NULL);
  BlockDriverState *to = test_open_ok ("file", to_path, BDRV_O_RDWR, NULL);
  int ret = bdrv_co_copy_range_to (to, 0, 64 * KIB, from, 0);

  if (ret == 0)
    g_test_message ("extents are shared here");
  else
    {
      g_assert_true (is_unsupported (ret));
      test_assert_read (to, 0, MIB, 't');
      g_assert_true (is_unsupported (bdrv_co_copy_range_to (to, 0, 64 * KIB, from, 0)));
    }
  g_assert_true (is_unsupported (bdrv_co_copy_range_to (to, 512, 64 * KIB, from, 512)));
  g_assert_true (is_unsupported (bdrv_co_copy_range_to (to, 64 * KIB, 512, from, 0)));
  /* Not all of the source is there. */
  g_assert_true (is_unsupported (bdrv_co_copy_range_to (to, 0, 64 * KIB, from, MIB - 4096)));
  test_assert_read (to, 64 * KIB, MIB - 64 * KIB, 't');
  test_close (to);

  to = test_open_ok ("file", to_path, BDRV_O_RDWR, "copy_range=off");
  g_assert_cmpint (bdrv_co_copy_range_to (to, 0, 64 * KIB, from, 0), ==, -ENOTSUP);
  test_close (to);

  to = test_open_ok ("file", to_path, BDRV_O_RDWR, "copy_range=cfr");
  ret = bdrv_co_copy_range_to (to, 100 * KIB + 512, 2048, from, 512);
  if (!is_unsupported (ret))
    {
      g_assert_cmpint (ret, ==, 0);
      test_assert_read (to, 99 * KIB, KIB + 512, 't');
      test_assert_read (to, 100 * KIB + 512, 2048, 'f');
      test_assert_read (to, 102 * KIB + 512, KIB, 't');
      g_assert_cmpint (bdrv_co_copy_range_to (to, 2 * MIB, 64 * KIB, from, 0), ==, 0);
      g_assert_cmpint (bdrv_length (to), ==, 2 * MIB + 64 * KIB);
      test_assert_read (to, 2 * MIB, 64 * KIB, 'f');
    }
  test_close (to);

  /* From another file system. */
  g_autofree char *shm = g_strdup ("/dev/shm/vhdkit-test-XXXXXX");
  int fd = g_mkstemp (shm);

  if (fd >= 0)
    {
      to = test_open_ok ("file", shm, BDRV_O_RDWR, NULL);
      g_assert_true (is_unsupported (bdrv_co_copy_range_to (to, 0, 64 * KIB, from, 0)));
      test_close (to);
      close (fd);
      unlink (shm);
    }
  test_close (from);
}

static void coroutine_fn
test_clone (void)
{
  const char *dir = g_getenv ("VHDKIT_TEST_REFLINK_DIR");

  if (dir == NULL)
    {
      g_test_skip ("VHDKIT_TEST_REFLINK_DIR names no file system that shares extents");
      return;
    }

  g_autofree char *from_path = test_file_new (dir, "vhdkit-from", MIB, 'f');
  g_autofree char *to_path = test_file_new (dir, "vhdkit-to", MIB, 't');
  BlockDriverState *from = test_open_ok ("file", from_path, 0, NULL);
  BlockDriverState *to = test_open_ok ("file", to_path, BDRV_O_RDWR, NULL);

  /* What has been said of the place before must not stay. */
  g_assert_true (bdrv_co_truncate (to, 8 * MIB, NULL));
  check_one_status (to, 4 * MIB, MIB, BDRV_BLOCK_ZERO, MIB);
  g_assert_cmpint (bdrv_co_copy_range_to (to, 4 * MIB, 256 * KIB, from, 64 * KIB), ==, 0);
  test_assert_read (to, 4 * MIB, 256 * KIB, 'f');
  check_one_status (to, 4 * MIB, 256 * KIB, BDRV_BLOCK_DATA, 256 * KIB);
  test_assert_read (to, 0, MIB, 't');
  g_assert_cmpint (bdrv_co_copy_range_to (to, 16 * MIB, 64 * KIB, from, 0), ==, 0);
  g_assert_cmpint (bdrv_length (to), ==, 16 * MIB + 64 * KIB);
  g_assert_cmpint (test_file_length (to_path), ==, 16 * MIB + 64 * KIB);
  g_assert_cmpint (bdrv_co_copy_range_to (to, 512, 64 * KIB, from, 0), ==, -EINVAL);
  /* Inside one file. */
  g_assert_cmpint (bdrv_co_copy_range_to (to, 0, 64 * KIB, to, 4 * MIB), ==, 0);
  test_assert_read (to, 0, 64 * KIB, 'f');
  test_assert_read (to, 64 * KIB, 64 * KIB, 't');
  test_close (to);
  test_close (from);
  unlink (from_path);
  unlink (to_path);
}

/* --- devices ------------------------------------------------------------------------------------------- */

/* A loop device over @path, or NULL.  It goes away with the last descriptor, of which *fd is one, however the
 * test ends. */
static char *
loop_attach (const char *path, int *fd)
{
  const char *attach[] = { "losetup", "-f", "--show", path, NULL };
  g_autofree char *output = NULL;

  if (geteuid () != 0 || run_quietly (attach, &output) != 0)
    return NULL;

  g_autofree char *device = g_strdup (g_strchomp (output));
  const char *detach[] = { "losetup", "-d", device, NULL };

  *fd = open (device, O_RDONLY | O_CLOEXEC);
  run_quietly (detach, NULL);
  return *fd >= 0 ? g_steal_pointer (&device) : NULL;
}

static void coroutine_fn
check_device (const char *device, int flags)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = test_open_ok ("host_device", device, flags | BDRV_O_RDWR, NULL);
  int64_t bytes, map;
  BlockDriverState *file;
  uint64_t id[2];

  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  test_write (bs, 0, 4 * MIB, 'x');
  test_write (bs, 5000, 100, 'y');
  test_assert_read (bs, 4096, 904, 'x');
  test_assert_read (bs, 5000, 100, 'y');
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, MIB, MIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 2 * MIB + 100, MIB, 0), ==, 0);
  test_assert_read (bs, MIB, MIB, 0);
  test_assert_read (bs, 2 * MIB, 100, 'x');
  test_assert_read (bs, 2 * MIB + 100, MIB, 0);
  test_assert_read (bs, 3 * MIB + 100, MIB - 100, 'x');
  g_assert_cmpint (bdrv_co_pdiscard (bs, 0, 64 * KIB), ==, 0);
  test_assert_read (bs, 64 * KIB, MIB - 64 * KIB, 'x');
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);

  g_assert_cmpint (bdrv_co_block_status (bs, MIB, MIB, &bytes, &map, &file), ==,
                   BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED);
  g_assert_cmpint (bytes, ==, MIB);
  g_assert_cmpint (bdrv_co_pwrite (bs, 4 * MIB, 512, some_bytes, 0), ==, -ENOSPC);
  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  g_assert_true (bdrv_co_truncate (bs, MIB, &error));
  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  g_assert_false (bdrv_co_truncate (bs, 5 * MIB, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  g_assert_true (bs->drv->get_host_id (bs, id));
  g_assert_cmpint (bs->drv->co_get_allocated_size (bs), ==, 4 * MIB);
  test_close (bs);
}

static void coroutine_fn
test_device (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "disk", 4 * MIB, -1);
  int loop_fd = -1;
  g_autofree char *device = loop_attach (path, &loop_fd);

  if (device == NULL)
    {
      g_test_skip ("no loop device can be had");
      return;
    }
  check_device (device, 0);
  if (have_direct ("host_device", device))
    check_device (device, BDRV_O_DIRECT);
  test_open_fails ("file", device, 0, NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "host_device");

  /* Somebody holds it, as a mount does. */
  int fd = open (device, O_RDONLY | O_EXCL | O_CLOEXEC);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (fd, >=, 0);
  test_open_fails ("host_device", device, BDRV_O_RDWR, NULL, VHDKIT_ERROR_IN_USE, "mounted or held");

  BlockDriverState *bs = test_open_ok ("host_device", device, 0, NULL);

  g_assert_false (bdrv_co_reopen_rw (bs, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  close (fd);
  g_clear_error (&error);
  g_assert_true (bdrv_co_reopen_rw (bs, &error));
  test_write (bs, 0, 512, 'z');
  test_open_fails ("host_device", device, 0, NULL, VHDKIT_ERROR_IN_USE, "a writer");
  test_close (bs);
  close (loop_fd);
}

/* --- raw ----------------------------------------------------------------------------------------------- */

static bool coroutine_fn
create_raw (BlockDriverState *file, int64_t bytes, const char *option, GError **error)
{
  const BlockDriver *drv = bdrv_find_driver ("raw");
  const char *options[] = { option, NULL };
  g_autoptr (BlockOptions) parsed = block_options_parse (drv->create_options, options, error);
  BlockCreateParams params = { .bytes = bytes, .options = parsed };

  g_assert_nonnull (parsed);
  return bdrv_co_create (drv, file, &params, error);
}

static void coroutine_fn
test_raw (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "file", 3 * MIB, 'x');
  g_autoptr (GError) error = NULL;
  BlockDriverState *file = test_open_ok ("file", path, BDRV_O_RDWR, NULL);

  g_assert_false (create_raw (file, MIB, "preallocation=some", &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_clear_error (&error);
  g_assert_true (create_raw (file, 2 * MIB, NULL, &error));
  g_assert_cmpint (test_file_length (path), ==, 2 * MIB);
  g_assert_cmpint (allocated (path), <, MIB);
  test_assert_read (file, 0, 2 * MIB, 0);
  g_assert_true (create_raw (file, 2 * MIB + 512, "preallocation=falloc", &error));
  g_assert_cmpint (allocated (path), >=, 2 * MIB);
  g_assert_true (create_raw (file, 2 * MIB + 1024, "preallocation=full", &error));
  g_assert_cmpint (test_file_length (path), ==, 2 * MIB + 1024);
  g_assert_cmpint (allocated (path), >=, 2 * MIB);
  g_assert_true (create_raw (file, 0, "preallocation=falloc", &error));
  g_assert_true (create_raw (file, MIB, NULL, &error));

  BlockDriverState *bs = test_open ("raw", path, BDRV_O_RDWR, NULL, file, &error);
  int64_t bytes, map;
  BlockDriverState *where;

  g_assert_no_error (error);
  g_assert_cmpint (bs->bytes, ==, MIB);
  test_write (bs, 128 * KIB, 64 * KIB, 'r');
  test_assert_read (bs, 128 * KIB, 64 * KIB, 'r');
  g_assert_cmpint (bdrv_co_pwrite (bs, MIB, 512, some_bytes, 0), <, 0);

  int ret = bdrv_co_block_status (bs, 0, MIB, &bytes, &map, &where);

  g_assert_true (ret & BDRV_BLOCK_ALLOCATED);
  g_assert_true (where == file);
  if (ret & BDRV_BLOCK_ZERO)
    {
      g_assert_cmpint (bytes, ==, 128 * KIB);
      ret = bdrv_co_block_status (bs, 128 * KIB, MIB - 128 * KIB, &bytes, &map, &where);
      g_assert_cmphex (ret, ==, BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED);
      g_assert_cmpint (bytes, ==, 64 * KIB);
      g_assert_cmpint (map, ==, 128 * KIB);
    }
  g_assert_cmpint (bdrv_co_pwrite_zeroes (bs, 128 * KIB, 32 * KIB, BDRV_REQ_MAY_UNMAP), ==, 0);
  g_assert_cmpint (bdrv_co_pdiscard (bs, 160 * KIB, 16 * KIB), ==, 0);
  test_assert_read (bs, 128 * KIB, 32 * KIB, 0);
  test_assert_read (bs, 176 * KIB, 16 * KIB, 'r');
  g_assert_true (bdrv_co_truncate (bs, 2 * MIB, &error));
  g_assert_cmpint (bs->bytes, ==, 2 * MIB);
  g_assert_cmpint (bdrv_co_flush (bs), ==, 0);
  test_close (bs);

  /* The length is the file's own. */
  g_assert_cmpint (truncate (path, 12345), ==, 0);
  bs = test_open ("raw", path, 0, NULL, test_open_ok ("file", path, 0, NULL), &error);
  g_assert_no_error (error);
  g_assert_cmpint (bs->bytes, ==, 12345);
  test_assert_read (bs, 12288, 57, 0);
  test_close (bs);
}

static void coroutine_fn
test_raw_device (void)
{
  g_autoptr (TestDir) dir = test_dir_new ();
  g_autofree char *path = test_file_new (dir, "disk", 4 * MIB, -1);
  int loop_fd = -1;
  g_autofree char *device = loop_attach (path, &loop_fd);
  g_autoptr (GError) error = NULL;

  if (device == NULL)
    {
      g_test_skip ("no loop device can be had");
      return;
    }

  BlockDriverState *file = test_open_ok ("host_device", device, BDRV_O_RDWR, NULL);

  g_assert_false (create_raw (file, 5 * MIB, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  g_clear_error (&error);
  g_assert_true (create_raw (file, 3 * MIB, NULL, &error));
  g_assert_no_error (error);

  BlockDriverState *bs = test_open ("raw", device, BDRV_O_RDWR, NULL, file, &error);

  g_assert_no_error (error);
  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  g_assert_true (bdrv_co_truncate (bs, 2 * MIB, &error));
  g_assert_cmpint (bs->bytes, ==, 4 * MIB);
  test_close (bs);
  close (loop_fd);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  TEST_ADD ("/file/kinds", test_kinds);
  TEST_ADD ("/file/facts", test_facts);
  TEST_ADD ("/file/confine", test_confine);
  TEST_ADD ("/file/io", test_io);
  TEST_ADD ("/file/direct", test_direct);
  TEST_ADD ("/file/direct-unaligned-end", test_direct_unaligned_end);
  TEST_ADD ("/file/direct-tmpfs", test_tmpfs_direct);
  TEST_ADD ("/file/cut-behind-back", test_cut_behind_back);
  TEST_ADD ("/file/zeroes", test_zeroes);
  TEST_ADD ("/file/truncate", test_truncate);
  TEST_ADD ("/file/status", test_status);
  TEST_ADD ("/file/status-shared", test_status_shared);
  TEST_ADD ("/file/lock/bytes", test_lock_bytes);
  TEST_ADD ("/file/lock/conflicts", test_lock_conflicts);
  TEST_ADD ("/file/lock/strangers", test_lock_strangers);
  TEST_ADD ("/file/lock/qemu", test_lock_qemu);
  TEST_ADD ("/file/reopen", test_reopen);
  TEST_ADD ("/file/reopen-direct", test_reopen_direct);
  TEST_ADD ("/file/copy-range", test_copy_range);
  TEST_ADD ("/file/clone", test_clone);
  TEST_ADD ("/host-device", test_device);
  TEST_ADD ("/raw/file", test_raw);
  TEST_ADD ("/raw/device", test_raw_device);
  return g_test_run ();
}
