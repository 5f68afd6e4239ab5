/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol `host_device`: a block device of the host.
 *
 * As `file`, but of a fixed length, without holes, and in whole sectors when zeroing.  Opening it for writing
 * claims it exclusively, so a device that is mounted, swapped to or part of another is refused.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "file-int.h"

extern const BlockDriver host_device_driver;

static bool
check_block_device (const BlockDriverState *bs, const struct stat *st, GError **error)
{
  if (S_ISBLK (st->st_mode))
    return true;
  bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "expected a block device, found %s",
                  S_ISREG (st->st_mode) ? "a regular file (driver file)" : "something else");
  return false;
}

static bool coroutine_fn
host_device_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  return file_co_open_common (bs, options, true, check_block_device, error);
}

static int coroutine_fn
host_device_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                        size_t qiov_offset)
{
  FileState *s = bs->opaque;

  if (offset + bytes > bs->bytes)
    return -ENOSPC;

  ssize_t ret = aio_co_pwritev (s->aio, offset, qiov, qiov_offset, bytes);

  return ret < 0 ? ret : 0;
}

static int
zeroout_in_thread (void *opaque)
{
  FileRangeWork *work = opaque;
  uint64_t range[2] = { work->offset, work->bytes };

  if (ioctl (work->fd, BLKZEROOUT, range) == 0)
    return 0;
  return file_errno_is_unsupported (errno) ? -ENOTSUP : -errno;
}

static int coroutine_fn
zeroout (FileState *s, int64_t offset, int64_t bytes)
{
  FileRangeWork work = { .fd = s->fd, .offset = offset, .bytes = bytes };

  return aio_co_run_in_thread (zeroout_in_thread, &work);
}

static int coroutine_fn
host_device_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  FileState *s = bs->opaque;
  int ret = -ENOTSUP;

  if (offset + bytes > bs->bytes)
    return -ENOSPC;
  if (flags & BDRV_REQ_MAY_UNMAP)
    ret = file_co_punch_hole (s, offset, bytes);
  if (ret == -ENOTSUP)
    ret = file_co_zero_range (s, offset, bytes);
  if (ret == -ENOTSUP && !s->no_block_zeroout)
    {
      ret = zeroout (s, offset, bytes);
      s->no_block_zeroout |= ret == -ENOTSUP;
    }
  return ret;
}

/* Not BLKDISCARD: after that a device may return anything, and a discarded range must read as zeros or as
 * before. */
static int coroutine_fn
host_device_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  return file_co_punch_hole (bs->opaque, offset, bytes);
}

static int coroutine_fn
host_device_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                             BlockDriverState **file)
{
  *pnum = bytes;
  *map = offset;
  *file = bs;
  return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED
         | (offset + bytes >= bs->bytes ? BDRV_BLOCK_EOF : 0);
}

static bool coroutine_fn
host_device_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  if (bytes <= bs->bytes)
    return true; /* a device stays as long as it is */
  bdrv_set_error (error, bs, VHDKIT_ERROR_NO_SPACE,
                  "the device has %" G_GINT64_FORMAT " bytes, %" G_GINT64_FORMAT " are needed", bs->bytes,
                  bytes);
  return false;
}

static int64_t coroutine_fn
host_device_co_get_allocated_size (BlockDriverState *bs)
{
  return bs->bytes;
}

static const BlockOptionDef host_device_open_options[] = { FILE_COMMON_OPTIONS, { 0 } };

const BlockDriver host_device_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_PROTOCOL,
  .format_name = "host_device",
  .long_name = "Block device",
  .instance_size = sizeof (FileState),
  .open_options = host_device_open_options,
  .co_open = host_device_co_open,
  .co_reopen_rw = file_co_reopen_rw,
  .co_close = file_co_close,
  .co_preadv = file_co_preadv,
  .co_pwritev = host_device_co_pwritev,
  .co_pwrite_zeroes = host_device_co_pwrite_zeroes,
  .co_pdiscard = host_device_co_pdiscard,
  .co_flush = file_co_flush,
  .co_start_writeback = file_co_start_writeback,
  .co_block_status = host_device_co_block_status,
  .co_truncate = host_device_co_truncate,
  .co_get_allocated_size = host_device_co_get_allocated_size,
  .get_host_id = file_get_host_id,
  .get_host_path = file_get_host_path,
};
