/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes of any source, several writes at a time, and copies inside one file: what drivers do with their
 * containers. */
#include "core-int.h"

#include <checked.h>

#include <errno.h>

/* Writes of a batch in flight at a time. */
#define BATCH_PARALLEL 16

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

int coroutine_fn
bdrv_co_copy_within (BlockDriverState *child, int64_t from, int64_t to, int64_t bytes, void *buffer,
                     int64_t buffer_bytes)
{
  for (int64_t done = 0; done < bytes;)
    {
      int64_t n = bytes - done, map;
      BlockDriverState *at;
      int status = bdrv_co_block_status (child, from + done, n, &n, &map, &at);
      int ret;

      if (status < 0)
        return status;
      if (status & BDRV_BLOCK_ZERO)
        {
          ret = bdrv_co_pwrite_zeroes (child, to + done, n, BDRV_REQ_MAY_UNMAP);
        }
      else
        {
          n = MIN (n, buffer_bytes);
          ret = bdrv_co_pread (child, from + done, n, buffer);
          if (ret == 0)
            ret = bdrv_co_pwrite (child, to + done, n, buffer, 0);
        }
      if (ret < 0)
        return ret;
      done += n;
    }
  return 0;
}
