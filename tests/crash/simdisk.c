/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include <vhdkit/driver.h>

typedef struct
{
  int fd;
} SimDisk;

/* Some requests are passed over for so many draws: others begin and end while they are in flight. */
#define SLOW_READ_DRAWS  600
#define SLOW_WRITE_DRAWS 60

typedef struct
{
  Coroutine *co;
  uint64_t due; /* not before this draw, unless nothing else waits */
} Waiter;

/* All disks of the test share one draw; the test has one thread. */
static GRand *draw;
static GArray *waiting; /* of Waiter */
static uint64_t draws;
static bool drawing; /* a bottom half is due */
static bool patient, kicked;
static AioContext *last_context;

/* A random one of those whose time has come; else the next whose time comes, or -1 if that one should wait on. */
static int
choose_winner (void)
{
  guint first = g_rand_int_range (draw, 0, waiting->len), next = first;

  for (guint i = 0; i < waiting->len; i++)
    {
      guint winner = (first + i) % waiting->len;
      uint64_t due = g_array_index (waiting, Waiter, winner).due;

      if (due <= draws)
        return winner;
      if (due < g_array_index (waiting, Waiter, next).due)
        next = winner;
    }
  return patient && !kicked ? -1 : (int)next;
}

static void
draw_one (void *opaque)
{
  AioContext *context = opaque;
  int winner = choose_winner ();
  Coroutine *co;

  kicked = false;
  drawing = winner >= 0 && waiting->len > 1;
  if (drawing)
    aio_bh_schedule_oneshot (context, draw_one, context);
  if (winner < 0)
    return;
  co = g_array_index (waiting, Waiter, winner).co;
  g_array_remove_index_fast (waiting, winner);
  draws++;
  aio_co_wake (co);
}

bool
simdisk_kick (void)
{
  if (waiting == NULL || waiting->len == 0 || drawing)
    return false;
  kicked = drawing = true;
  aio_bh_schedule_oneshot (last_context, draw_one, last_context);
  return true;
}

void
simdisk_set_patient (bool value)
{
  patient = value;
  if (!patient)
    simdisk_kick ();
}

static void coroutine_fn
wait_for_draw (BlockDriverState *bs, bool is_read)
{
  bool slow = g_rand_int_range (draw, 0, is_read ? 12 : 20) == 0;
  int slow_draws = is_read ? SLOW_READ_DRAWS : SLOW_WRITE_DRAWS;
  Waiter waiter = { coroutine_self (), slow ? draws + slow_draws : 0 };

  g_array_append_val (waiting, waiter);
  last_context = bs->context;
  if (!drawing)
    {
      drawing = true;
      aio_bh_schedule_oneshot (bs->context, draw_one, bs->context);
    }
  coroutine_yield ();
}

static bool
one_in (int n)
{
  return g_rand_int_range (draw, 0, n) == 0;
}

static bool coroutine_fn
simdisk_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  SimDisk *s = bs->opaque;
  const char *path = bs->file->drv->get_host_path (bs->file);

  s->fd = open (path, O_RDWR | O_CLOEXEC);
  if (s->fd < 0)
    {
      bdrv_set_error_errno (error, bs, -errno, "simdisk");
      return false;
    }
  bs->bytes = bdrv_length (bs->file);
  return true;
}

static bool coroutine_fn
simdisk_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  return true;
}

static int coroutine_fn
simdisk_co_close (BlockDriverState *bs)
{
  SimDisk *s = bs->opaque;

  close (s->fd);
  return 0;
}

static int coroutine_fn
simdisk_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                   size_t qiov_offset)
{
  SimDisk *s = bs->opaque;
  g_autofree uint8_t *buffer = g_malloc0 (bytes);
  bool late = !one_in (3);

  if (late && !one_in (4))
    wait_for_draw (bs, true);
  if (pread (s->fd, buffer, bytes, offset) < 0)
    return -errno;
  if (!late)
    wait_for_draw (bs, true);
  io_vector_from_buf (qiov, qiov_offset, buffer, bytes);
  return 0;
}

static int
write_all (SimDisk *s, int64_t offset, int64_t bytes, const uint8_t *buffer)
{
  return pwrite (s->fd, buffer, bytes, offset) == bytes ? 0 : -EIO;
}

static int coroutine_fn
simdisk_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                    size_t qiov_offset)
{
  SimDisk *s = bs->opaque;
  g_autofree uint8_t *buffer = g_malloc (bytes);
  bool late = one_in (2);
  int ret;

  io_vector_to_buf (qiov, qiov_offset, buffer, bytes);
  if (late)
    wait_for_draw (bs, false);
  ret = write_all (s, offset, bytes, buffer);
  if (!late)
    wait_for_draw (bs, false);
  return ret;
}

static int
zero_range (SimDisk *s, int64_t offset, int64_t bytes)
{
  g_autofree uint8_t *zeros = NULL;

  if (fallocate (s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes) == 0)
    return 0;
  zeros = g_malloc0 (bytes);
  return write_all (s, offset, bytes, zeros);
}

static int coroutine_fn
simdisk_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  SimDisk *s = bs->opaque;
  bool late = one_in (2);
  int ret;

  if (late)
    wait_for_draw (bs, false);
  ret = zero_range (s, offset, bytes);
  if (!late)
    wait_for_draw (bs, false);
  return ret;
}

static int coroutine_fn
simdisk_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  wait_for_draw (bs, false);
  return one_in (2) ? zero_range (bs->opaque, offset, bytes) : 0;
}

/* What has no effect on content needs no system call. */
static int coroutine_fn
simdisk_co_flush (BlockDriverState *bs)
{
  wait_for_draw (bs, false);
  return 0;
}

static bool coroutine_fn
simdisk_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  SimDisk *s = bs->opaque;

  wait_for_draw (bs, false);
  if (ftruncate (s->fd, bytes) < 0)
    {
      bdrv_set_error_errno (error, bs, -errno, "simdisk");
      return false;
    }
  /* The core asks the child, which did not see it. */
  bs->file->bytes = bytes;
  bs->bytes = bytes;
  return true;
}

/* Holes are found as on a real disk; the answer names this node, since the child's memory of the file's
 * extents is out of date. */
static int coroutine_fn
simdisk_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                         BlockDriverState **file)
{
  SimDisk *s = bs->opaque;
  int64_t data = lseek (s->fd, offset, SEEK_DATA);
  bool is_data = data == offset;
  int64_t end = is_data ? lseek (s->fd, offset, SEEK_HOLE) : data;

  *pnum = end <= offset ? bytes : MIN (bytes, end - offset);
  *map = offset;
  *file = bs;
  return (is_data ? BDRV_BLOCK_DATA : BDRV_BLOCK_ZERO) | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED;
}

static const char *
simdisk_get_host_path (BlockDriverState *bs)
{
  return bs->file->drv->get_host_path (bs->file);
}

static const BlockDriver simdisk_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "simdisk",
  .long_name = "Disk with an order of its own, for tests",
  .instance_size = sizeof (SimDisk),
  .co_open = simdisk_co_open,
  .co_reopen_rw = simdisk_co_reopen_rw,
  .co_close = simdisk_co_close,
  .co_preadv = simdisk_co_preadv,
  .co_pwritev = simdisk_co_pwritev,
  .co_pwrite_zeroes = simdisk_co_pwrite_zeroes,
  .co_pdiscard = simdisk_co_pdiscard,
  .co_flush = simdisk_co_flush,
  .co_truncate = simdisk_co_truncate,
  .co_block_status = simdisk_co_block_status,
  .get_host_path = simdisk_get_host_path,
};

void
simdisk_register (void)
{
  static bool done;

  if (done)
    return;
  done = true;
  draw = g_rand_new_with_seed (0);
  waiting = g_array_new (false, false, sizeof (Waiter));
  g_assert_true (bdrv_register (&simdisk_driver, NULL));
}

void
simdisk_set_seed (uint32_t seed)
{
  g_rand_set_seed (draw, seed);
}
