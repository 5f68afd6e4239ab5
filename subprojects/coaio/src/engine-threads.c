/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread pool as an engine.
 *
 * What the page cache can answer at once is done inline: a hop to another thread and back costs ten times a
 * small copy.
 */
#include "coaio-config.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "context-int.h"
#include "file.h"
#include "thread-pool.h"

/* More than this is copied by a thread of the pool, so that several processors can share the work. */
#define INLINE_BYTES_MAX (256 * 1024)

static ssize_t
transfer_once (const AioRequest *request, int flags)
{
  int fd = request->file->fd;
  ssize_t ret;

  if (request->kind == AIO_REQUEST_FDATASYNC)
    ret = fdatasync (fd);
  else if (request->kind == AIO_REQUEST_READ)
    ret = flags ? preadv2 (fd, request->iov, request->niov, request->offset, flags)
                : preadv (fd, request->iov, request->niov, request->offset);
  else
    ret = pwritev (fd, request->iov, request->niov, request->offset);
  return ret < 0 ? -errno : ret;
}

/* --- in the pool ---------------------------------------------------------------------------------------- */

typedef struct
{
  const AioRequest *request;
  ssize_t result;
} BlockingCall;

static int
blocking_call (void *opaque)
{
  BlockingCall *call = opaque;

  for (;;)
    {
      call->result = transfer_once (call->request, 0);
      if (call->result == -EAGAIN)
        {
          /* A non-blocking descriptor. */
          struct pollfd wait = { .fd = call->request->file->fd, .events = POLLIN | POLLOUT };

          poll (&wait, 1, 10);
        }
      else if (call->result != -EINTR)
        return 0;
    }
}

ssize_t
aio_threads_co_block (AioContext *ctx, const AioRequest *request)
{
  BlockingCall call = { .request = request };

  thread_pool_co_run (ctx, blocking_call, &call);
  return call.result;
}

/* --- inline --------------------------------------------------------------------------------------------- */

/* A coroutine whose requests never wait would otherwise keep the thread to itself. */
static inline void coroutine_fn
co_give_way (AioContext *ctx, Coroutine *self)
{
  if (ctx->depth == 0)
    return;
  if (ctx->budget == 0)
    {
      aio_co_schedule (ctx, self);
      co_leave (co_thread (), self, CO_LEFT_YIELDED);
    }
  else
    ctx->budget--;
}

static size_t
request_bytes (const AioRequest *request)
{
  size_t bytes = 0;

  for (int i = 0; i < request->niov; i++)
    bytes += request->iov[i].iov_len;
  return bytes;
}

/* -EAGAIN: it would block. */
static ssize_t
try_inline (const AioRequest *request)
{
  AioFile *file = request->file;
  ssize_t ret;

  if (request->kind == AIO_REQUEST_FDATASYNC || request_bytes (request) > INLINE_BYTES_MAX)
    return -EAGAIN;
  if (file->memory)
    return transfer_once (request, 0);
  /* With O_DIRECT the call does not wait for memory and locks, but still for the device. */
  if (file->direct || request->kind != AIO_REQUEST_READ
      || atomic_load_explicit (&file->no_nowait_read, memory_order_relaxed))
    return -EAGAIN;
  ret = transfer_once (request, RWF_NOWAIT);
  if (ret == -EOPNOTSUPP)
    {
      atomic_store_explicit (&file->no_nowait_read, true, memory_order_relaxed);
      return -EAGAIN;
    }
  /* Some kernels say "end of file" where they mean "not in the cache". */
  return ret == 0 ? -EAGAIN : ret;
}

ssize_t
aio_threads_co_submit (AioContext *ctx, const AioRequest *request)
{
  ssize_t ret;

  co_give_way (ctx, request->co);
  ret = try_inline (request);
  return ret == -EAGAIN ? aio_threads_co_block (ctx, request) : ret;
}
