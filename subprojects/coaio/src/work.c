/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The work of a context: how it is posted, and how it is run. */
#include "coaio-config.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

#include "context-int.h"

/* Rounds full of work after which descriptors and timers are looked at all the same. */
#define BUSY_ROUNDS_MAX 8

void
aio_notify (AioContext *ctx)
{
  uint64_t one = 1;
  ssize_t ret;

  /* The counter is never read, and cannot overflow in a lifetime. */
  do
    ret = write (ctx->event_fd, &one, sizeof one);
  while (ret < 0 && errno == EINTR);
}

static void
ready_append (AioContext *ctx, AioItem *item)
{
  item->next = NULL;
  if (ctx->ready.tail)
    ctx->ready.tail->next = item;
  else
    ctx->ready.head = item;
  ctx->ready.tail = item;
}

void
aio_item_post (AioContext *ctx, AioItem *item)
{
  AioItem *head;

  if (aio_is_driver (ctx))
    {
      ready_append (ctx, item);
      return;
    }

  /* Once it is pushed, @item may run and let the context go. */
  aio_context_ref (ctx);
  head = atomic_load_explicit (&ctx->remote, memory_order_relaxed);
  do
    item->next = head;
  while (!atomic_compare_exchange_weak (&ctx->remote, &head, item));
  /* Not the first: whoever was has woken the context, or it has not slept since. */
  if (!head && !atomic_load (&ctx->awake))
    aio_notify (ctx);
  aio_context_unref (ctx);
}

/* Moves what other threads have posted to the end of our own list, in the order it was posted. */
static void
take_remote (AioContext *ctx)
{
  AioItem *item, *reversed = NULL;

  if (!atomic_load_explicit (&ctx->remote, memory_order_relaxed))
    return;
  item = atomic_exchange (&ctx->remote, NULL);
  while (item)
    {
      AioItem *next = item->next;

      item->next = reversed;
      reversed = item;
      item = next;
    }
  while (reversed)
    {
      item = reversed;
      reversed = item->next;
      ready_append (ctx, item);
    }
}

static AioItem *
ready_pop (AioContext *ctx)
{
  AioItem *item = ctx->ready.head;

  if (item)
    {
      ctx->ready.head = item->next;
      if (!item->next)
        ctx->ready.tail = NULL;
    }
  return item;
}

bool
aio_run_ready (AioContext *ctx)
{
  bool progress = false;
  unsigned before;

  ctx->budget = AIO_ROUND_BUDGET;
  do
    {
      AioItem *item;

      before = ctx->budget;
      take_remote (ctx);
      while (ctx->budget > 0 && (item = ready_pop (ctx)))
        {
          ctx->budget--;
          item->run (item);
          progress = true;
        }
      for (int i = 0; i < AIO_N_ENGINES; i++)
        if (ctx->engines[i] && ctx->budget > 0)
          progress |= ctx->engines[i]->ops->serve (ctx->engines[i]);
    }
  while (ctx->budget > 0 && ctx->budget < before);
  return progress;
}

bool
aio_has_ready (AioContext *ctx)
{
  if (ctx->ready.head || atomic_load (&ctx->remote))
    return true;
  for (int i = 0; i < AIO_N_ENGINES; i++)
    if (ctx->engines[i] && ctx->engines[i]->ops->has_completions (ctx->engines[i]))
      return true;
  return false;
}

void
aio_drop_items (AioContext *ctx)
{
  AioItem *item;

  take_remote (ctx);
  while ((item = ready_pop (ctx)))
    {
      bool dropped = aio_bh_drop (item);

      assert (dropped && "a context goes while coroutines wait to run in it");
      (void)dropped;
    }
}

AioContext *
aio_dispatch_begin (AioContext *ctx)
{
  CoThread *thread = co_thread ();
  AioContext *previous = thread->context;

  thread->context = ctx;
  if (ctx->depth++ == 0)
    {
      atomic_store_explicit (&ctx->driver, thread, memory_order_relaxed);
      atomic_store (&ctx->awake, true);
    }
  return previous;
}

void
aio_dispatch_end (AioContext *ctx, AioContext *previous)
{
  CoThread *thread = co_thread ();

  for (int i = 0; i < AIO_N_ENGINES; i++)
    if (ctx->engines[i])
      ctx->engines[i]->ops->flush (ctx->engines[i]);
  aio_timers_arm (ctx);
  if (--ctx->depth == 0)
    {
      /* For requests that are made outside. */
      ctx->budget = AIO_ROUND_BUDGET;
      atomic_store_explicit (&ctx->driver, NULL, memory_order_relaxed);
      atomic_store (&ctx->awake, false);
    }
  thread->context = previous;
}

bool
aio_dispatch_round (AioContext *ctx, bool blocking)
{
  bool progress = aio_run_ready (ctx);

  /* Who does not block watches the descriptor, and would find it readable again for what has just been done. */
  if (progress && blocking && ++ctx->busy_rounds < BUSY_ROUNDS_MAX)
    return true;
  do
    progress |= aio_wait_events (ctx, blocking && !progress);
  while (blocking && !progress);
  return progress;
}

bool
aio_poll (AioContext *ctx, bool blocking)
{
  AioContext *previous;
  bool progress;

  assert (!in_coroutine ());
  previous = aio_dispatch_begin (ctx);
  progress = aio_dispatch_round (ctx, blocking);
  aio_dispatch_end (ctx, previous);
  if (ctx->depth == 0 && aio_has_ready (ctx))
    aio_notify (ctx);
  return progress;
}
