/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests on files: cut to what one system call takes, carried out by the file's engine, finished. */
#include "coaio-config.h"

#include "file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "context-int.h"
#include "iov-int.h"

/* Elements of a request that need no memory of their own. */
#define LOCAL_IOV 16

/* --- lifetime ------------------------------------------------------------------------------------------- */

AioFile *
aio_file_new (int fd, AioEngine engine)
{
  AioFile *file = g_new0 (AioFile, 1);
  int flags = fcntl (fd, F_GETFL);
  struct stat st;
  struct statfs fs;

  /* A descriptor that does not work says so in its first request. */
  file->fd = fd;
  file->engine = engine;
  file->direct = flags >= 0 && (flags & O_DIRECT);
  file->sync = flags >= 0 && (flags & (O_SYNC | O_DSYNC));
  file->regular = fstat (fd, &st) == 0 && S_ISREG (st.st_mode);
  file->memory = file->regular && fstatfs (fd, &fs) == 0
                 && ((unsigned long)fs.f_type == TMPFS_MAGIC || (unsigned long)fs.f_type == RAMFS_MAGIC);
  return file;
}

void
aio_file_free (AioFile *file)
{
  g_free (file);
}

int
aio_file_get_fd (const AioFile *file)
{
  return file->fd;
}

/* --- one request ---------------------------------------------------------------------------------------- */

/* Whether @ops can do more for @request than the thread pool. */
static inline bool
engine_takes (const AioEngineOps *ops, const AioRequest *request)
{
  return request->kind != AIO_REQUEST_FDATASYNC || ops->has_fdatasync;
}

/* The engine's state in @ctx; NULL when the thread pool has to do. */
static inline AioEngineState *
get_engine_state (AioContext *ctx, const AioRequest *request)
{
  AioEngine engine = request->file->engine;
  const AioEngineOps *ops;

  if (ctx->engines[engine] || engine == AIO_ENGINE_THREADS || ctx->engine_failed[engine])
    return ctx->engines[engine];
  ops = aio_engine_ops (engine);
  /* Not set up for a flush only: to end it takes a grace period of the kernel's. */
  if (ops && !engine_takes (ops, request))
    return NULL;
  ctx->engines[engine] = ops ? ops->attach (ctx) : NULL;
  ctx->engine_failed[engine] = !ctx->engines[engine];
  return ctx->engines[engine];
}

/* Carries @request out and returns its result.  The switch to other coroutines is inlined down to here: see
 * coroutine-int.h. */
static inline ssize_t coroutine_fn
co_submit (AioContext *ctx, AioRequest *request)
{
  AioEngineState *state = get_engine_state (ctx, request);

  if (!state || !engine_takes (state->ops, request))
    return aio_threads_co_submit (ctx, request);
  state->ops->submit (state, request);
  co_leave (co_thread (), request->co, CO_LEFT_YIELDED);
  return request->result;
}

/* Whether a short direct read that ended at @end met the end of the file.  Asking with another read would fail
 * there: its offset is not aligned. */
static bool
is_end_of_file (AioFile *file, int64_t end)
{
  struct stat st;

  return file->regular && fstat (file->fd, &st) == 0 && end >= st.st_size;
}

/* Looks at the *@result of a system call that was asked for @asked bytes.  Returns whether the transfer is over:
 * failed, or met the end of the file. */
static bool coroutine_fn
co_take_result (AioContext *ctx, const AioRequest *request, ssize_t *result, size_t asked)
{
  AioFile *file = request->file;

  if (*result == -EAGAIN)
    *result = aio_threads_co_block (ctx, request);
  if (*result == -EINTR)
    {
      *result = 0;
      return false;
    }
  if (*result == 0 && request->kind == AIO_REQUEST_WRITE)
    *result = -EIO;
  return *result <= 0
         || (request->kind == AIO_REQUEST_READ && (size_t)*result < asked && file->direct
             && is_end_of_file (file, request->offset + *result));
}

/* The rest of a transfer of which @done bytes are done. */
static __attribute__ ((noinline)) ssize_t coroutine_fn
co_transfer_rest (AioFile *file, AioRequestKind kind, int64_t offset, const IoVector *qiov,
                  size_t qiov_offset, size_t bytes, size_t done)
{
  Coroutine *self = co_thread ()->current;
  AioContext *ctx = co_context (self);
  struct iovec local[LOCAL_IOV];
  g_autofree struct iovec *allocated = NULL;
  struct iovec *iov = local;
  int max = LOCAL_IOV;
  bool over = false;

  if (qiov->niov > LOCAL_IOV && io_vector_slice_count (qiov, qiov_offset + done, bytes - done) > LOCAL_IOV)
    {
      max = IOV_MAX;
      allocated = g_new (struct iovec, max);
      iov = allocated;
    }

  while (done < bytes && !over)
    {
      AioRequest request = {
        .file = file, .co = self, .kind = kind, .iov = iov, .offset = offset + (int64_t)done
      };
      size_t asked = io_vector_slice_some (qiov, qiov_offset + done, bytes - done, iov, max, &request.niov);
      ssize_t result = co_submit (ctx, &request);

      over = co_take_result (ctx, &request, &result, asked);
      if (result < 0)
        return result;
      done += (size_t)result;
    }
  return (ssize_t)done;
}

/* Most requests are one piece of memory and one system call.  They have a path of their own: with many of them in
 * flight, every line of stack that is not touched counts. */
static inline ssize_t coroutine_fn
co_transfer (AioFile *file, AioRequestKind kind, int64_t offset, const IoVector *qiov, size_t qiov_offset,
             size_t bytes)
{
  Coroutine *self = co_thread ()->current;
  AioContext *ctx = co_context (self);
  size_t done = 0;

  assert (ctx && "a request outside of any context");
  if (qiov->niov == 1 && bytes > 0)
    {
      struct iovec one = { .iov_base = (char *)qiov->iov->iov_base + qiov_offset, .iov_len = bytes };
      AioRequest request = {
        .file = file, .co = self, .kind = kind, .iov = &one, .niov = 1, .offset = offset
      };
      ssize_t result;

      assert (qiov_offset <= qiov->size && bytes <= qiov->size - qiov_offset);
      result = co_submit (ctx, &request);
      if (G_LIKELY (result == (ssize_t)bytes))
        return result;
      if (co_take_result (ctx, &request, &result, bytes))
        return result;
      done = (size_t)result;
    }
  return co_transfer_rest (file, kind, offset, qiov, qiov_offset, bytes, done);
}

ssize_t
aio_co_preadv (AioFile *file, int64_t offset, const IoVector *qiov, size_t qiov_offset, size_t bytes)
{
  return co_transfer (file, AIO_REQUEST_READ, offset, qiov, qiov_offset, bytes);
}

ssize_t
aio_co_pwritev (AioFile *file, int64_t offset, const IoVector *qiov, size_t qiov_offset, size_t bytes)
{
  return co_transfer (file, AIO_REQUEST_WRITE, offset, qiov, qiov_offset, bytes);
}

int
aio_co_fdatasync (AioFile *file)
{
  Coroutine *self = co_thread ()->current;
  AioContext *ctx = co_context (self);
  AioRequest request = { .file = file, .co = self, .kind = AIO_REQUEST_FDATASYNC };
  ssize_t ret;

  assert (ctx && "a request outside of any context");
  do
    {
      ret = co_submit (ctx, &request);
      if (ret == -EAGAIN)
        ret = aio_threads_co_block (ctx, &request);
    }
  while (ret == -EINTR);
  return (int)ret;
}
