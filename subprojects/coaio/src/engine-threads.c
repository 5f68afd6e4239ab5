/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread pool as an engine.
 *
 * What the page cache can do at once is done inline: the way to another thread and back costs ten times a small
 * copy, or more.  Where the file system knows RWF_NOWAIT, it says what would block.  Many do not know it for writes
 * (ext4).  Small buffered writes are then tried inline all the same, on credit: nearly all of them only copy, but
 * one may meet a page that has to be read first, a busy journal, or the limit of dirty memory.  A write earns what
 * the way to another thread would have cost, and pays for the time it has waited.  When that does not balance, the
 * pool does the writes of this file for many times the deficit: the loop loses a few percent of its time at worst,
 * and writes that really wait are spread over the threads.
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
#define INLINE_READ_MAX  (256 * 1024)
#define INLINE_WRITE_MAX (64 * 1024)
/* For writes on credit, in nanoseconds: what each earns, the most that is kept, how fast a copy is at least, and for
 * how many times the deficit the pool takes over. */
#define WRITE_EARNS         10000
#define WRITE_CREDIT_MAX    1000000
#define WRITE_BYTES_PER_NS  4
#define WRITE_DEFICIT_TIMES 32

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
    ret = flags ? pwritev2 (fd, request->iov, request->niov, request->offset, flags)
                : pwritev (fd, request->iov, request->niov, request->offset);
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

/* -EAGAIN: it would block, or nobody can tell. */
static ssize_t
try_nowait (const AioRequest *request, atomic_bool *unknown)
{
  ssize_t ret;

  if (atomic_load_explicit (unknown, memory_order_relaxed))
    return -EAGAIN;
  ret = transfer_once (request, RWF_NOWAIT);
  if (ret == -EOPNOTSUPP)
    atomic_store_explicit (unknown, true, memory_order_relaxed);
  /* Some kernels say "end of file" where they mean "not in the cache". */
  return ret == -EOPNOTSUPP || ret == 0 ? -EAGAIN : ret;
}

/* -EAGAIN: writes of this file have waited too long.  Threads that share the file may lose each other's sums, which
 * does no harm. */
static ssize_t
try_write_on_credit (const AioRequest *request, size_t bytes)
{
  AioFile *file = request->file;
  int64_t begin = aio_clock_ns (), end, credit;
  ssize_t ret;

  if (begin < atomic_load_explicit (&file->no_inline_write_before, memory_order_relaxed))
    return -EAGAIN;
  ret = transfer_once (request, 0);
  end = aio_clock_ns ();
  credit = atomic_load_explicit (&file->write_credit, memory_order_relaxed) + WRITE_EARNS
           + (int64_t)bytes / WRITE_BYTES_PER_NS - (end - begin);
  if (credit < 0)
    {
      atomic_store_explicit (&file->no_inline_write_before, end - WRITE_DEFICIT_TIMES * credit,
                             memory_order_relaxed);
      credit = 0;
    }
  atomic_store_explicit (&file->write_credit, MIN (credit, WRITE_CREDIT_MAX), memory_order_relaxed);
  return ret;
}

static ssize_t
try_inline (const AioRequest *request)
{
  AioFile *file = request->file;
  bool read = request->kind == AIO_REQUEST_READ;
  size_t bytes = request_bytes (request);
  ssize_t ret;

  if (request->kind == AIO_REQUEST_FDATASYNC || bytes > (read ? INLINE_READ_MAX : INLINE_WRITE_MAX))
    return -EAGAIN;
  if (file->memory)
    return transfer_once (request, 0);
  /* With O_DIRECT or O_DSYNC a call does not wait for memory and locks, but still for the device. */
  if (file->direct || (!read && file->sync))
    return -EAGAIN;
  if (read)
    return try_nowait (request, &file->no_nowait_read);
  ret = try_nowait (request, &file->no_nowait_write);
  if (ret == -EAGAIN && file->regular && atomic_load_explicit (&file->no_nowait_write, memory_order_relaxed))
    ret = try_write_on_credit (request, bytes);
  return ret;
}

ssize_t
aio_threads_co_submit (AioContext *ctx, const AioRequest *request)
{
  ssize_t ret;

  co_give_way (ctx, request->co);
  ret = try_inline (request);
  return ret == -EAGAIN ? aio_threads_co_block (ctx, request) : ret;
}
