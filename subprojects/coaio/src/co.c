/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coroutines and contexts: scheduling, waking, moving, sleeping. */
#include "coaio-config.h"

#include <assert.h>

#include "context-int.h"

static void
run_coroutine (AioItem *item)
{
  Coroutine *co = (Coroutine *)((char *)item - offsetof (Coroutine, item));
  AioContext *ctx = aio_context_get_current ();

  atomic_store_explicit (&co->scheduled, false, memory_order_relaxed);
  atomic_store_explicit (&co->context, ctx, memory_order_relaxed);
  coroutine_enter (co);
}

void
aio_co_schedule (AioContext *ctx, Coroutine *co)
{
  bool twice = atomic_exchange_explicit (&co->scheduled, true, memory_order_relaxed);

  assert (!twice && "scheduled twice");
  (void)twice;
  co->item.run = run_coroutine;
  aio_item_post (ctx, &co->item);
}

void
aio_co_wake (Coroutine *co)
{
  CoThread *thread = co_thread ();
  AioContext *ctx = coroutine_get_context (co);
  AioContext *previous = thread->context;

  assert (ctx && "woken without a context");
  /* From inside a coroutine it waits for its turn: coroutines that wake each other must not pile up. */
  if (thread->current || (previous != ctx && !aio_is_driver (ctx)))
    {
      aio_co_schedule (ctx, co);
      return;
    }
  thread->context = ctx;
  coroutine_enter (co);
  thread->context = previous;
}

void
aio_co_reschedule_self (AioContext *ctx)
{
  Coroutine *self = coroutine_self ();

  if (coroutine_get_context (self) != ctx)
    coroutine_leave_moving (self, ctx);
}

static void
sleep_ends (void *opaque)
{
  aio_co_wake (opaque);
}

void
co_sleep_ns (int64_t ns)
{
  Coroutine *self = coroutine_self ();
  int64_t now = aio_clock_ns ();
  AioTimer timer;

  aio_timer_init (&timer, coroutine_get_context (self), sleep_ends, self);
  aio_timer_mod (&timer, ns > INT64_MAX - now ? INT64_MAX : now + MAX (ns, 0));
  coroutine_yield ();
}
