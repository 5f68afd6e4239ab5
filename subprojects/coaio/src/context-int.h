/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inside of an AioContext.
 *
 *          other threads                      the thread that drives it
 *               │ post                              │ post
 *               ▼                                   ▼
 *       remote (lock-free, LIFO) ── reversed ──▶ ready (FIFO) ──▶ run ──▶ engines: submit, reap, resume
 *               │ first of many                                             ▲        │ completion
 *               ▼                                                           │        ▼
 *            eventfd ◀──────────────────────────────────────────────────────┼── kernel
 *               │                                                           │
 *             epoll ◀── timerfd, descriptors                  aio_wait_events (): sleeps here
 *
 * Waking.  `awake` is true while somebody is sure to look at `remote` before he sleeps; only then may a poster
 * leave the eventfd alone.  Poster: push, then read `awake`.  Driver: clear `awake`, then read `remote`, then
 * sleep.  Both in this order and sequentially consistent, so at least one of them sees the other.
 *
 * All descriptors of our own are watched edge-triggered and never read: a new event always shows, an old one
 * costs one needless look.
 */
#ifndef COAIO_CONTEXT_INT_H
#define COAIO_CONTEXT_INT_H

#include <stdatomic.h>

#include <coaio/aio.h>

#include "coroutine-int.h"
#include "engine.h"

/* Work done in one round: bounds how long others wait. */
#define AIO_ROUND_BUDGET 128

typedef struct
{
  AioItem *head, *tail;
} AioItemList;

typedef struct
{
  AioTimer **heap; /* the earliest first; NULL while empty */
  unsigned count, capacity;
  uint64_t sequence; /* of the timer set last: equal deadlines fire in order */
  int64_t armed;     /* what the timerfd is set to; INT64_MAX: nothing */
} AioTimers;

struct AioContext
{
  GSource source; /* counts the references */

  gpointer epoll_tag; /* epoll_fd in the source */
  int epoll_fd;
  int event_fd;
  int timer_fd;

  /* Only the thread that drives the context touches these. */
  AioItemList ready;
  unsigned depth;       /* of nested dispatches */
  unsigned budget;      /* what this round may still do: items, completions, requests served inline */
  unsigned busy_rounds; /* since the last look at epoll_fd */
  bool uses_pool;
  AioTimers timers;
  GHashTable *handlers; /* fd → AioHandler */
  uint32_t handler_generation;
  AioEngineState *engines[AIO_N_ENGINES]; /* made when first used */
  bool engine_failed[AIO_N_ENGINES];      /* tried, and refused by the kernel */

  /* Shared, on lines of their own. */
  _Atomic (CoThread *) driver __attribute__ ((aligned (64))); /* NULL: nobody dispatches */
  _Atomic (AioItem *) remote __attribute__ ((aligned (64)));
  atomic_bool awake;
};

/* --- work (work.c) -------------------------------------------------------------------------------------- */

/* Puts @item at the end of the work of @ctx and wakes it.  [any thread] */
void aio_item_post (AioContext *ctx, AioItem *item);
/* Runs work and serves the engines until there is nothing to do or the budget is spent. */
bool aio_run_ready (AioContext *ctx);
/* Whether aio_run_ready () would find something. */
bool aio_has_ready (AioContext *ctx);
/* Takes the work away that will not run any more. */
void aio_drop_items (AioContext *ctx);
/* Frees @item if it is a bottom half (bh.c). */
bool aio_bh_drop (AioItem *item);
/* Makes epoll_fd readable.  [any thread] */
void aio_notify (AioContext *ctx);

/* A context's thread is inside dispatch between these two, nested or not. */
AioContext *aio_dispatch_begin (AioContext *ctx);
void aio_dispatch_end (AioContext *ctx, AioContext *previous);
/* One round: ready work, and a look at the descriptors when there was none, or has been none for long. */
bool aio_dispatch_round (AioContext *ctx, bool blocking);

static inline bool
aio_is_driver (AioContext *ctx)
{
  return atomic_load_explicit (&ctx->driver, memory_order_relaxed) == co_thread ();
}

/* --- epoll (handler.c) ---------------------------------------------------------------------------------- */

/* Watch one of our own descriptors: its events only wake, except the timers'. */
int aio_watch_internal (AioContext *ctx, int fd);
void aio_unwatch_internal (AioContext *ctx, int fd);
/* Waits for descriptors (not at all unless @blocking), runs what they brought. */
bool aio_wait_events (AioContext *ctx, bool blocking);
void aio_handlers_init (AioContext *ctx);
void aio_handlers_clear (AioContext *ctx);

/* --- timers (timer.c) ----------------------------------------------------------------------------------- */

struct AioTimer
{
  AioContext *ctx;
  AioCallback *callback;
  void *opaque;
  int64_t deadline;
  uint64_t sequence;
  int place; /* in the heap; -1: not set */
};

void aio_timer_init (AioTimer *timer, AioContext *ctx, AioCallback *callback, void *opaque);
void aio_timers_init (AioContext *ctx);
void aio_timers_clear (AioContext *ctx);
/* Sets the timerfd to the earliest deadline, if it is not set to that or earlier. */
void aio_timers_arm (AioContext *ctx);
bool aio_timers_run (AioContext *ctx);

#endif
