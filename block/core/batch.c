/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes of any source, several writes at a time, and copies inside one file: what drivers do with their
 * containers. */
#include "core-int.h"

#include <checked.h>

#include <errno.h>

/* Writes of a batch in flight at a time. */
#define BATCH_PARALLEL 16
/* Pieces of copies in flight, and how much of a file each has in memory. */
#define COPY_PARALLEL 8
#define COPY_BYTES    (1024 * 1024)

int coroutine_fn
bdrv_co_write_payload (BlockDriverState *child, int64_t file_offset, int64_t bytes,
                       const BdrvPayload *payload, int64_t done)
{
  if (payload->qiov)
    return bdrv_co_pwritev (child, file_offset, bytes, payload->qiov, payload->qiov_offset + done, 0);
  if (payload->src)
    return bdrv_co_copy_range_to (child, file_offset, bytes, payload->src, payload->src_offset + done);
  return bdrv_co_pwrite_zeroes (child, file_offset, bytes, payload->zero_flags);
}

typedef struct
{
  BlockDriverState *child;
  const BdrvWrite *writes;
  size_t n, next;
  unsigned running;
  int ret;
  Coroutine *waiter;
} Batch;

static int coroutine_fn
write_one (BlockDriverState *child, const BdrvWrite *write)
{
  if (!write->buf)
    return bdrv_co_pwrite_zeroes (child, write->file_offset, write->bytes, 0);
  return bdrv_co_pwrite (child, write->file_offset, write->bytes, write->buf, 0);
}

static void coroutine_fn
batch_worker (void *opaque)
{
  Batch *batch = opaque;

  while (batch->next < batch->n && batch->ret == 0)
    {
      int ret = write_one (batch->child, &batch->writes[batch->next++]);

      if (ret < 0 && batch->ret == 0)
        batch->ret = ret;
    }
  if (--batch->running == 0 && batch->waiter)
    aio_co_wake (batch->waiter);
}

int coroutine_fn
bdrv_co_write_batch (BlockDriverState *child, const BdrvWrite *writes, size_t n)
{
  Batch batch = { .child = child, .writes = writes, .n = n };

  if (n == 1)
    return write_one (child, writes);
  /* A worker that finds an error takes nothing more: without the last condition this would not end. */
  while (batch.running < BATCH_PARALLEL && batch.next < batch.n && batch.ret == 0)
    {
      batch.running++;
      coroutine_enter (coroutine_new (batch_worker, &batch));
    }
  if (batch.running > 0)
    {
      batch.waiter = coroutine_self ();
      coroutine_yield ();
    }
  return batch.ret;
}

/* --- copies ---------------------------------------------------------------------------------------------- */

typedef struct
{
  BlockDriverState *child;
  const BdrvCopy *copies;
  size_t n, next;
  int64_t done; /* of copies[next] */
  CoMutex lock; /* one taker at a time */
  BdrvWriteback writeback;
  unsigned running;
  int ret;
  Coroutine *waiter;
} CopyBatch;

static void
copy_batch_fail (CopyBatch *batch, int ret)
{
  if (batch->ret == 0)
    batch->ret = ret;
}

/* The next piece, all of it a hole (@zero) or data of at most COPY_BYTES.  false: none is left, or an error. */
static bool coroutine_fn
take_piece (CopyBatch *batch, BdrvCopy *piece, bool *zero)
{
  if (batch->ret < 0 || batch->next == batch->n)
    return false;

  const BdrvCopy *copy = &batch->copies[batch->next];
  int64_t left = copy->bytes - batch->done, n, map;
  BlockDriverState *at;
  int status = bdrv_co_block_status (batch->child, copy->from + batch->done, left, &n, &map, &at);

  if (status < 0)
    {
      copy_batch_fail (batch, status);
      return false;
    }
  *zero = status & BDRV_BLOCK_ZERO;
  if (!*zero)
    n = MIN (n, COPY_BYTES);
  *piece = (BdrvCopy){ copy->from + batch->done, copy->to + batch->done, n };
  batch->done += n;
  if (n == left)
    {
      batch->next++;
      batch->done = 0;
    }
  return true;
}

static int coroutine_fn
copy_piece (CopyBatch *batch, const BdrvCopy *piece, bool zero, void *buffer)
{
  BlockDriverState *child = batch->child;

  if (zero)
    return bdrv_co_pwrite_zeroes (child, piece->to, piece->bytes, BDRV_REQ_MAY_UNMAP);

  int ret = bdrv_co_pread (child, piece->from, piece->bytes, buffer);
  if (ret == 0)
    ret = bdrv_co_pwrite (child, piece->to, piece->bytes, buffer, 0);
  if (ret == 0)
    bdrv_co_write_back (&batch->writeback, child, piece->bytes);
  return ret;
}

static void coroutine_fn
copy_worker (void *opaque)
{
  CopyBatch *batch = opaque;
  void *buffer = bdrv_try_alloc_buffer (batch->child, COPY_BYTES);

  if (buffer == NULL)
    copy_batch_fail (batch, -ENOMEM);
  for (;;)
    {
      BdrvCopy piece;
      bool zero;

      co_mutex_lock (&batch->lock);
      bool taken = take_piece (batch, &piece, &zero);
      co_mutex_unlock (&batch->lock);
      if (!taken)
        break;
      int ret = copy_piece (batch, &piece, zero, buffer);
      if (ret < 0)
        copy_batch_fail (batch, ret);
    }
  bdrv_free_buffer (buffer);
  if (--batch->running == 0 && batch->waiter)
    aio_co_wake (batch->waiter);
}

int coroutine_fn
bdrv_co_copy_within (BlockDriverState *child, const BdrvCopy *copies, size_t n)
{
  CopyBatch batch = { .child = child, .copies = copies, .n = n };

  co_mutex_init (&batch.lock);
  while (batch.running < COPY_PARALLEL && batch.next < batch.n && batch.ret == 0)
    {
      batch.running++;
      coroutine_enter (coroutine_new (copy_worker, &batch));
    }
  if (batch.running > 0)
    {
      batch.waiter = coroutine_self ();
      coroutine_yield ();
    }
  co_mutex_clear (&batch.lock);
  return batch.ret;
}
