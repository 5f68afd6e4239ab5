/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include <assert.h>

#include "lock-int.h"

void
co_queue_init (CoQueue *queue)
{
  *queue = (CoQueue){ 0 };
  g_mutex_init (&queue->guard);
}

void
co_queue_clear (CoQueue *queue)
{
  assert (!queue->waiters.head);
  g_mutex_clear (&queue->guard);
}

void
co_queue_wait (CoQueue *queue, CoMutex *mutex)
{
  CoWaiter waiter = { .co = coroutine_self () };

  assert (waiter.co);
  /* In the list before @mutex is free: a wake-up after that cannot be missed. */
  guard_lock (&queue->guard);
  waiters_append (&queue->waiters, &waiter);
  guard_unlock (&queue->guard);
  if (mutex)
    co_mutex_unlock (mutex);
  coroutine_yield ();
  if (mutex)
    co_mutex_lock (mutex);
}

bool
co_queue_next (CoQueue *queue)
{
  CoWaiter *waiter;

  guard_lock (&queue->guard);
  waiter = waiters_pop (&queue->waiters);
  guard_unlock (&queue->guard);
  if (waiter)
    aio_co_wake (waiter->co);
  return waiter != NULL;
}

void
co_queue_restart_all (CoQueue *queue)
{
  CoWaiterList list;

  /* Those that wait again meanwhile are not woken again. */
  guard_lock (&queue->guard);
  list = queue->waiters;
  queue->waiters = (CoWaiterList){ 0 };
  guard_unlock (&queue->guard);
  waiters_wake_all (&list);
}

bool
co_queue_empty (CoQueue *queue)
{
  bool empty;

  guard_lock (&queue->guard);
  empty = !queue->waiters.head;
  guard_unlock (&queue->guard);
  return empty;
}
