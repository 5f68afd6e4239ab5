/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include <assert.h>

#include "lock-int.h"

void
co_semaphore_init (CoSemaphore *semaphore, unsigned count)
{
  *semaphore = (CoSemaphore){ .count = count };
  g_mutex_init (&semaphore->guard);
}

void
co_semaphore_clear (CoSemaphore *semaphore)
{
  assert (!semaphore->waiters.head);
  g_mutex_clear (&semaphore->guard);
}

void
co_semaphore_acquire (CoSemaphore *semaphore)
{
  CoWaiter waiter = { .co = coroutine_self () };

  assert (waiter.co);
  guard_lock (&semaphore->guard);
  if (semaphore->count > 0)
    {
      semaphore->count--;
      guard_unlock (&semaphore->guard);
      return;
    }
  waiters_append (&semaphore->waiters, &waiter);
  guard_unlock (&semaphore->guard);
  coroutine_yield ();
}

void
co_semaphore_release (CoSemaphore *semaphore)
{
  CoWaiter *waiter;

  /* With a waiter, what is released becomes his and is never seen free. */
  guard_lock (&semaphore->guard);
  waiter = waiters_pop (&semaphore->waiters);
  if (!waiter)
    semaphore->count++;
  guard_unlock (&semaphore->guard);
  if (waiter)
    aio_co_wake (waiter->co);
}
