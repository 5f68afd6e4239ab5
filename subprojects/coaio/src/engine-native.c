/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linux AIO.
 *
 *   submit ─▶ queued ─ io_submit, a batch ─▶ in flight ─▶ completion ring (memory shared with the kernel)
 *               ▲                                             │ read without a system call
 *               └─ io_submit says EAGAIN: waits ◀── room ─────┴─▶ coroutine goes on
 *
 * How many requests make a batch depends on what the device has left to do.  While it has nothing, the first
 * request goes at once and the device works on it during the making of the others; the more it has, the more
 * requests share a system call.  Had they all waited for each other, a device whose requests end together would
 * stand still for as long as it takes to make the next ones.
 *
 * What completes inside io_submit () is reaped right after it, so storage that never waits costs one system call
 * per batch and never meets epoll.  The kernel tells the context's eventfd of completions, so that a sleeping thread
 * wakes; that costs a few percent, and is left out (a silent request) where everything is known to complete inside
 * io_submit (): in memory, and through the page cache.  Should that not hold, a timer looks after the silent
 * requests in flight, and the context makes no more of them.
 */
#include "coaio-config.h"

#include <errno.h>
#include <libaio.h>
#include <string.h>

#include "context-int.h"
#include "file.h"

#define MAX_IN_FLIGHT 1024
/* When the system-wide limit (fs.aio-max-nr) is nearly used up. */
#define FEW_IN_FLIGHT 64
#define BATCH         32
/* Requests that wait while the device has this many times as many to do do not make it wait. */
#define BUSY_FACTOR 4
/* Completions taken before other work has its turn: it may make the requests that the device is waiting for. */
#define REAP_MAX   4
#define RECHECK_NS 1000000

G_STATIC_ASSERT (sizeof (struct iocb) <= sizeof ((AioRequest *)0)->engine_area);
G_STATIC_ASSERT (offsetof (AioRequest, engine_area) == 0);

/* The head of the completion ring, as the kernel has shared it since 2.6; the events follow. */
typedef struct
{
  unsigned id;
  unsigned n_events;
  _Atomic unsigned head; /* ours */
  _Atomic unsigned tail; /* the kernel's */
  unsigned magic;
  unsigned compat_features;
  unsigned incompat_features;
  unsigned header_length;
  struct io_event events[];
} CompletionRing;

#define RING_MAGIC 0xa10a10a1

typedef struct
{
  AioEngineState base;
  io_context_t kernel;
  CompletionRing *ring; /* NULL: use io_getevents () */
  AioRequest *queued, **queued_end;
  unsigned n_queued;
  unsigned n_in_flight;
  unsigned max_in_flight;
  unsigned n_silent; /* of those in flight */
  bool no_silent;
  bool immediate; /* the last io_submit () has left nothing in flight that was not complete */
  AioTimer recheck;
  /* From io_getevents (), not yet looked at. */
  unsigned n_fetched, next_fetched;
  struct io_event fetched[BATCH];
} Native;

/* --- lifetime ------------------------------------------------------------------------------------------- */

static bool
native_probe (void)
{
  io_context_t kernel = NULL;

  /* Whether the call is refused, of nothing: to destroy a context takes a grace period of the kernel's, tens of
   * milliseconds. */
  return io_setup (0, &kernel) == -EINVAL;
}

/* That the loop has run is enough. */
static void
recheck (void *opaque)
{
}

static CompletionRing *
find_ring (io_context_t kernel)
{
  CompletionRing *ring = (CompletionRing *)kernel;

#ifdef HAVE_VALGRIND
  /* It knows what io_getevents () has written, and nothing of this. */
  if (RUNNING_ON_VALGRIND)
    return NULL;
#endif
  return ring->magic == RING_MAGIC && ring->incompat_features == 0 && ring->header_length == sizeof *ring
             ? ring
             : NULL;
}

static AioEngineState *
native_attach (AioContext *ctx)
{
  Native *self = g_new0 (Native, 1);

  self->max_in_flight = MAX_IN_FLIGHT;
  if (io_setup (MAX_IN_FLIGHT, &self->kernel) < 0)
    {
      self->max_in_flight = FEW_IN_FLIGHT;
      if (io_setup (FEW_IN_FLIGHT, &self->kernel) < 0)
        {
          g_free (self);
          return NULL;
        }
    }
  self->base.ops = &aio_engine_native;
  self->base.ctx = ctx;
  self->ring = find_ring (self->kernel);
  self->queued_end = &self->queued;
  /* Without the ring nobody could see, at no cost, that a silent request is done. */
  self->no_silent = !self->ring;
  aio_timer_init (&self->recheck, ctx, recheck, NULL);
  return &self->base;
}

static void
native_detach (AioEngineState *state)
{
  Native *self = (Native *)state;

  g_assert (self->n_queued == 0 && self->n_in_flight == 0);
  aio_timer_del (&self->recheck);
  io_destroy (self->kernel);
  g_free (self);
}

/* Of those in flight, the ones that are complete. */
static inline unsigned
count_completions (const Native *self)
{
  unsigned head, tail;

  if (!self->ring)
    return self->n_fetched - self->next_fetched;
  head = atomic_load_explicit (&self->ring->head, memory_order_relaxed);
  tail = atomic_load_explicit (&self->ring->tail, memory_order_acquire);
  return tail >= head ? tail - head : tail + self->ring->n_events - head;
}

static bool
native_has_completions (AioEngineState *state)
{
  return count_completions ((Native *)state) > 0;
}

/* --- submission ----------------------------------------------------------------------------------------- */

static AioRequest *
pop_queued (Native *self)
{
  AioRequest *request = self->queued;

  /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): n_queued > 0 */
  self->queued = request->next;
  if (!self->queued)
    self->queued_end = &self->queued;
  self->n_queued--;
  return request;
}

/* Whether the queue should not wait for the end of dispatch. */
static bool
is_batch (const Native *self, const AioRequest *newest)
{
  if (self->n_queued >= BATCH)
    return true;
  /* Nothing is gained where io_submit () does all the work. */
  if (newest->silent || self->immediate)
    return false;
  return self->n_queued * BUSY_FACTOR >= self->n_in_flight - count_completions (self);
}

static void
native_flush (AioEngineState *state)
{
  Native *self = (Native *)state;

  while (self->n_queued > 0 && self->n_in_flight < self->max_in_flight)
    {
      struct iocb *batch[BATCH];
      unsigned max = MIN (self->max_in_flight - self->n_in_flight, BATCH);
      unsigned n = 0;
      int ret;

      for (AioRequest *request = self->queued; request && n < max; request = request->next)
        batch[n++] = (struct iocb *)request->engine_area;
      ret = io_submit (self->kernel, n, batch);
      if (ret > 0)
        {
          self->n_in_flight += (unsigned)ret;
          while (ret-- > 0)
            self->n_silent += pop_queued (self)->silent;
          self->immediate = self->n_in_flight == count_completions (self);
        }
      else if (ret == -EAGAIN && self->n_in_flight > 0)
        break;
      else
        {
          /* Its coroutine may be the running one, which has not yielded yet. */
          AioRequest *request = pop_queued (self);

          request->result = ret < 0 ? ret : -EIO;
          aio_co_schedule (state->ctx, request->co);
        }
    }
  if (G_UNLIKELY (self->n_silent > 0) && !native_has_completions (state))
    {
      self->no_silent = true;
      if (self->recheck.place < 0)
        aio_timer_mod (&self->recheck, aio_clock_ns () + RECHECK_NS);
    }
}

static void
native_submit (AioEngineState *state, AioRequest *request)
{
  Native *self = (Native *)state;
  struct iocb *iocb = (struct iocb *)request->engine_area;
  bool read = request->kind == AIO_REQUEST_READ;

  iocb->aio_fildes = request->file->fd;
  iocb->u.c.offset = request->offset;
  if (request->niov == 1)
    {
      iocb->aio_lio_opcode = read ? IO_CMD_PREAD : IO_CMD_PWRITE;
      iocb->u.c.buf = request->iov->iov_base;
      iocb->u.c.nbytes = request->iov->iov_len;
    }
  else
    {
      iocb->aio_lio_opcode = read ? IO_CMD_PREADV : IO_CMD_PWRITEV;
      iocb->u.c.buf = (void *)request->iov;
      iocb->u.c.nbytes = (unsigned long)request->niov;
    }
  /* Outside of dispatch a host may be about to poll the descriptor. */
  request->silent =
      (request->file->memory || !request->file->direct) && !self->no_silent && state->ctx->depth > 0;
  if (!request->silent)
    io_set_eventfd (iocb, state->ctx->event_fd);

  *self->queued_end = request;
  self->queued_end = &request->next;
  self->n_queued++;
  /* The rest of the queue goes at the end of dispatch. */
  if (state->ctx->depth == 0 || is_batch (self, request))
    native_flush (state);
}

/* --- completion ----------------------------------------------------------------------------------------- */

static AioRequest *
fetch_one (Native *self)
{
  struct io_event *event;

  if (self->next_fetched == self->n_fetched)
    {
      struct timespec now = { 0 };
      int ret = self->n_in_flight > 0 ? io_getevents (self->kernel, 0, BATCH, self->fetched, &now) : 0;

      self->next_fetched = 0;
      self->n_fetched = ret > 0 ? (unsigned)ret : 0;
      if (self->n_fetched == 0)
        return NULL;
    }
  event = &self->fetched[self->next_fetched++];
  ((AioRequest *)event->obj)->result = (ssize_t)event->res;
  return (AioRequest *)event->obj;
}

static inline AioRequest *
reap_one (Native *self)
{
  CompletionRing *ring = self->ring;
  AioRequest *request;
  unsigned head;

  if (!ring)
    return fetch_one (self);
  head = atomic_load_explicit (&ring->head, memory_order_relaxed);
  if (head == atomic_load_explicit (&ring->tail, memory_order_acquire))
    return NULL;
  request = (AioRequest *)ring->events[head].obj;
  request->result = (ssize_t)ring->events[head].res;
  atomic_store_explicit (&ring->head, head + 1 == ring->n_events ? 0 : head + 1, memory_order_release);
  return request;
}

static bool
native_serve (AioEngineState *state)
{
  Native *self = (Native *)state;
  AioContext *ctx = state->ctx;
  CoThread *thread = co_thread ();
  AioRequest *request;
  unsigned n = 0;

  /* With more completions comes more for the queue; who ends dispatch flushes what is left. */
  if (!native_has_completions (state))
    native_flush (state);
  for (; n < REAP_MAX && ctx->budget > 0 && (request = reap_one (self)); n++)
    {
      ctx->budget--;
      self->n_in_flight--;
      self->n_silent -= request->silent;
      co_enter (thread, request->co);
    }
  return n > 0;
}

const AioEngineOps aio_engine_native = {
  .probe = native_probe,
  .attach = native_attach,
  .detach = native_detach,
  .submit = native_submit,
  .flush = native_flush,
  .serve = native_serve,
  .has_completions = native_has_completions,
};
