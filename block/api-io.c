/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest I/O on an image: one coroutine function does every request, the synchronous and the asynchronous
 * calls are two ways into it.
 *
 * Refused here, before the core sees it: ranges outside of the image, writes to a read-only image, writes
 * while a job runs on the image.  A job, for its part, waits for those that had begun before it.
 */
#include "api.h"

#include <errno.h>

#include "checked.h"

enum
{
  IO_READ,
  IO_WRITE,
  IO_WRITE_ZEROES,
  IO_WRITE_ZEROES_MAY_UNMAP,
  IO_DISCARD,
  IO_FLUSH,
};

static int
check_request (const VhdkitImage *image, int op, int64_t offset, int64_t bytes)
{
  int64_t length = bdrv_length (image->bs);

  if (offset < 0 || bytes < 0 || offset > length || bytes > length - offset)
    return -EINVAL;
  if (op == IO_READ || op == IO_FLUSH)
    return 0;
  if (image->bs->read_only)
    return -EACCES;
  return image->jobs > 0 ? -EBUSY : 0;
}

void
api_change_begin (VhdkitImage *image)
{
  image->changes++;
}

void
api_change_end (VhdkitImage *image)
{
  if (--image->changes == 0)
    co_queue_restart_all (&image->changes_ended);
}

void coroutine_fn
api_co_changes_end (VhdkitImage *image)
{
  while (image->changes > 0)
    co_queue_wait (&image->changes_ended, NULL);
}

static int coroutine_fn
image_co_change (VhdkitImage *image, int op, int64_t offset, int64_t bytes, const IoVector *qiov)
{
  BlockDriverState *bs = image->bs;
  int fua = image->write_through ? BDRV_REQ_FUA : 0;
  int ret;

  switch (op)
    {
    case IO_WRITE:
      return bdrv_co_pwritev (bs, offset, bytes, qiov, 0, fua);
    case IO_WRITE_ZEROES:
      return bdrv_co_pwrite_zeroes (bs, offset, bytes, fua);
    case IO_WRITE_ZEROES_MAY_UNMAP:
      return bdrv_co_pwrite_zeroes (bs, offset, bytes, fua | BDRV_REQ_MAY_UNMAP);
    default:
      ret = bdrv_co_pdiscard (bs, offset, bytes);
      return ret == 0 && image->write_through ? bdrv_co_flush (bs) : ret;
    }
}

static int coroutine_fn
image_co_io (VhdkitImage *image, int op, int64_t offset, int64_t bytes, const IoVector *qiov)
{
  int ret = check_request (image, op, offset, bytes);

  if (ret < 0)
    return ret;
  if (op == IO_FLUSH)
    return bdrv_co_flush (image->bs);
  if (bytes == 0)
    return 0;
  if (op == IO_READ)
    return bdrv_co_preadv (image->bs, offset, bytes, qiov, 0);

  api_change_begin (image);
  ret = image_co_change (image, op, offset, bytes, qiov);
  api_change_end (image);
  return ret;
}

/* --- synchronous --------------------------------------------------------------------------------------- */

typedef struct
{
  VhdkitImage *image;
  int op;
  int64_t offset, bytes;
  const IoVector *qiov;
  int ret;
} IoCall;

static void coroutine_fn
io_call_entry (void *opaque)
{
  IoCall *call = opaque;

  call->ret = image_co_io (call->image, call->op, call->offset, call->bytes, call->qiov);
}

static int
image_io_sync (VhdkitImage *image, int op, int64_t offset, int64_t bytes, const IoVector *qiov)
{
  IoCall call = { .image = image, .op = op, .offset = offset, .bytes = bytes, .qiov = qiov };

  api_run_sync (image->context, io_call_entry, &call);
  return call.ret;
}

static int
image_rw_sync (VhdkitImage *image, int op, void *buf, int64_t offset, int64_t bytes)
{
  IoVector qiov;

  if (bytes < 0 || (uint64_t)bytes > SIZE_MAX)
    return -EINVAL;
  io_vector_init_buf (&qiov, buf, (size_t)bytes);
  return image_io_sync (image, op, offset, bytes, &qiov);
}

int
vhdkit_image_pread (VhdkitImage *image, void *buf, int64_t offset, int64_t bytes)
{
  return image_rw_sync (image, IO_READ, buf, offset, bytes);
}

int
vhdkit_image_pwrite (VhdkitImage *image, const void *buf, int64_t offset, int64_t bytes)
{
  return image_rw_sync (image, IO_WRITE, (void *)buf, offset, bytes);
}

int
vhdkit_image_pwrite_zeroes (VhdkitImage *image, int64_t offset, int64_t bytes, bool may_unmap)
{
  return image_io_sync (image, may_unmap ? IO_WRITE_ZEROES_MAY_UNMAP : IO_WRITE_ZEROES, offset, bytes, NULL);
}

int
vhdkit_image_discard (VhdkitImage *image, int64_t offset, int64_t bytes)
{
  return image_io_sync (image, IO_DISCARD, offset, bytes, NULL);
}

int
vhdkit_image_flush (VhdkitImage *image)
{
  return image_io_sync (image, IO_FLUSH, 0, 0, NULL);
}

/* --- asynchronous -------------------------------------------------------------------------------------- */

static void coroutine_fn
request_entry (void *opaque)
{
  ApiRequest *request = opaque;

  request->ret = image_co_io (request->image, request->op, request->offset, request->bytes, &request->qiov);
  api_request_complete (request->image->context, request);
}

/* Of all elements; -1, which no image has, where that is more than a size can say: IoVector would count the rest. */
static int64_t
vector_bytes (const struct iovec *iov, int niov)
{
  size_t bytes = 0;

  for (int i = 0; i < niov; i++)
    if (!checked_add (bytes, iov[i].iov_len, &bytes))
      return -1;
  return (int64_t)bytes;
}

static void
image_io_async (VhdkitImage *image, int op, const struct iovec *iov, int niov, int64_t offset, int64_t bytes,
                VhdkitIoCallback callback, void *opaque)
{
  VhdkitContext *context = image->context;
  ApiRequest *request = api_request_new (context);

  request->image = image;
  request->op = op;
  request->offset = offset;
  request->callback = callback;
  request->opaque = opaque;
  io_vector_init_external (&request->qiov, (struct iovec *)iov, niov);
  request->bytes = iov != NULL ? vector_bytes (iov, niov) : bytes;
  api_start_coroutine (context, request_entry, request);
}

void
vhdkit_image_aio_preadv (VhdkitImage *image, const struct iovec *iov, int niov, int64_t offset,
                         VhdkitIoCallback callback, void *opaque)
{
  image_io_async (image, IO_READ, iov, niov, offset, 0, callback, opaque);
}

void
vhdkit_image_aio_pwritev (VhdkitImage *image, const struct iovec *iov, int niov, int64_t offset,
                          VhdkitIoCallback callback, void *opaque)
{
  image_io_async (image, IO_WRITE, iov, niov, offset, 0, callback, opaque);
}

void
vhdkit_image_aio_pwrite_zeroes (VhdkitImage *image, int64_t offset, int64_t bytes, bool may_unmap,
                                VhdkitIoCallback callback, void *opaque)
{
  image_io_async (image, may_unmap ? IO_WRITE_ZEROES_MAY_UNMAP : IO_WRITE_ZEROES, NULL, 0, offset, bytes,
                  callback, opaque);
}

void
vhdkit_image_aio_discard (VhdkitImage *image, int64_t offset, int64_t bytes, VhdkitIoCallback callback,
                          void *opaque)
{
  image_io_async (image, IO_DISCARD, NULL, 0, offset, bytes, callback, opaque);
}

void
vhdkit_image_aio_flush (VhdkitImage *image, VhdkitIoCallback callback, void *opaque)
{
  image_io_async (image, IO_FLUSH, NULL, 0, 0, 0, callback, opaque);
}
