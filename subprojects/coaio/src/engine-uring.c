/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring: the same scheme as the native engine, and flushes go through the ring as well.
 *
 * Requests that the ring has no room for wait in our own queue, so there are never more in flight than the
 * completion ring holds.
 */
#include "coaio-config.h"

#include <errno.h>
#include <liburing.h>

#include "context-int.h"
#include "file.h"

#define MAX_IN_FLIGHT 1024
#define BATCH         32
#define SQ_ENTRIES    (2 * BATCH)

typedef struct
{
  AioEngineState base;
  struct io_uring ring;
  AioRequest *queued, **queued_end;
  unsigned n_queued;
  unsigned n_in_flight; /* in the submission ring or with the kernel */
} Uring;

/* --- lifetime ------------------------------------------------------------------------------------------- */

static bool
init_ring (struct io_uring *ring)
{
  static const unsigned flags[] = {
#ifdef IORING_SETUP_COOP_TASKRUN
    IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
#endif
    IORING_SETUP_CQSIZE,
  };

  for (unsigned i = 0; i < G_N_ELEMENTS (flags); i++)
    {
      struct io_uring_params params = { .flags = flags[i], .cq_entries = MAX_IN_FLIGHT };

      if (io_uring_queue_init_params (SQ_ENTRIES, ring, &params) == 0)
        return true;
    }
  return false;
}

static bool
uring_probe (void)
{
  struct io_uring ring;
  struct io_uring_probe *probe;
  bool usable;

  if (!init_ring (&ring))
    return false;
  probe = io_uring_get_probe_ring (&ring);
  usable = probe && io_uring_opcode_supported (probe, IORING_OP_READ)
           && io_uring_opcode_supported (probe, IORING_OP_WRITE);
  io_uring_free_probe (probe);
  io_uring_queue_exit (&ring);
  return usable;
}

static AioEngineState *
uring_attach (AioContext *ctx)
{
  Uring *self;

  if (!aio_engine_available (AIO_ENGINE_IO_URING))
    return NULL;
  self = g_new0 (Uring, 1);
  if (!init_ring (&self->ring))
    {
      g_free (self);
      return NULL;
    }
  if (io_uring_register_eventfd (&self->ring, ctx->event_fd) < 0)
    {
      io_uring_queue_exit (&self->ring);
      g_free (self);
      return NULL;
    }
  self->base.ops = &aio_engine_io_uring;
  self->base.ctx = ctx;
  self->queued_end = &self->queued;
  return &self->base;
}

static void
uring_detach (AioEngineState *state)
{
  Uring *self = (Uring *)state;

  g_assert (self->n_queued == 0 && self->n_in_flight == 0);
  io_uring_queue_exit (&self->ring);
  g_free (self);
}

/* --- submission ----------------------------------------------------------------------------------------- */

static void
prepare (struct io_uring_sqe *sqe, AioRequest *request)
{
  int fd = request->file->fd;
  uint64_t offset = (uint64_t)request->offset;
  const struct iovec *iov = request->iov;

  switch (request->kind)
    {
    case AIO_REQUEST_READ:
      if (request->niov == 1)
        io_uring_prep_read (sqe, fd, iov->iov_base, (unsigned)MIN (iov->iov_len, (size_t)1 << 30), offset);
      else
        io_uring_prep_readv (sqe, fd, iov, (unsigned)request->niov, offset);
      break;
    case AIO_REQUEST_WRITE:
      if (request->niov == 1)
        io_uring_prep_write (sqe, fd, iov->iov_base, (unsigned)MIN (iov->iov_len, (size_t)1 << 30), offset);
      else
        io_uring_prep_writev (sqe, fd, iov, (unsigned)request->niov, offset);
      break;
    case AIO_REQUEST_FDATASYNC:
      io_uring_prep_fsync (sqe, fd, IORING_FSYNC_DATASYNC);
      break;
    }
  io_uring_sqe_set_data (sqe, request);
}

static void
uring_flush (AioEngineState *state)
{
  Uring *self = (Uring *)state;
  unsigned unsent;

  do
    {
      struct io_uring_sqe *sqe;
      int ret;

      while (self->n_queued > 0 && self->n_in_flight < MAX_IN_FLIGHT
             && (sqe = io_uring_get_sqe (&self->ring)))
        {
          AioRequest *request = self->queued;

          self->queued = request->next;
          if (!self->queued)
            self->queued_end = &self->queued;
          self->n_queued--;
          self->n_in_flight++;
          prepare (sqe, request);
        }
      unsent = io_uring_sq_ready (&self->ring);
      if (unsent == 0)
        return;
      do
        ret = io_uring_submit (&self->ring);
      while (ret == -EINTR);
      if (ret < 0)
        {
          /* Short of memory, for instance.  Tried again after a completion, or at once if none will come. */
          if (unsent == self->n_in_flight)
            aio_notify (state->ctx);
          return;
        }
    }
  while (self->n_queued > 0 && self->n_in_flight < MAX_IN_FLIGHT);
}

static void
uring_submit (AioEngineState *state, AioRequest *request)
{
  Uring *self = (Uring *)state;

  *self->queued_end = request;
  self->queued_end = &request->next;
  self->n_queued++;
  /* Inside dispatch the rest of the queue goes at its end. */
  if (self->n_queued >= BATCH || state->ctx->depth == 0)
    uring_flush (state);
}

/* --- completion ----------------------------------------------------------------------------------------- */

static bool
uring_has_completions (AioEngineState *state)
{
  return io_uring_cq_ready (&((Uring *)state)->ring) > 0;
}

/* valgrind does not see what the kernel writes for us. */
static void
tell_valgrind (const AioRequest *request)
{
#ifdef HAVE_VALGRIND
  if (RUNNING_ON_VALGRIND && request->kind == AIO_REQUEST_READ && request->result > 0)
    {
      size_t left = (size_t)request->result;

      for (int i = 0; left > 0; i++)
        {
          size_t n = MIN (left, request->iov[i].iov_len);

          VALGRIND_MAKE_MEM_DEFINED (request->iov[i].iov_base, n);
          left -= n;
        }
    }
#else
  (void)request;
#endif
}

static bool
uring_serve (AioEngineState *state)
{
  Uring *self = (Uring *)state;
  AioContext *ctx = state->ctx;
  CoThread *thread = co_thread ();
  struct io_uring_cqe *cqe;
  bool progress = false;

  uring_flush (state);
  while (ctx->budget > 0 && io_uring_peek_cqe (&self->ring, &cqe) == 0)
    {
      AioRequest *request = io_uring_cqe_get_data (cqe);

      request->result = cqe->res;
      io_uring_cqe_seen (&self->ring, cqe);
      ctx->budget--;
      self->n_in_flight--;
      tell_valgrind (request);
      co_enter (thread, request->co);
      progress = true;
    }
  return progress;
}

const AioEngineOps aio_engine_io_uring = {
  .probe = uring_probe,
  .attach = uring_attach,
  .detach = uring_detach,
  .submit = uring_submit,
  .flush = uring_flush,
  .serve = uring_serve,
  .has_completions = uring_has_completions,
  .has_fdatasync = true,
};
