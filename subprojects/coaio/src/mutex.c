/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include <assert.h>

#include "lock-int.h"

void
co_mutex_init (CoMutex *mutex)
{
  *mutex = (CoMutex){ 0 };
  g_mutex_init (&mutex->guard);
}

void
co_mutex_clear (CoMutex *mutex)
{
  assert (!mutex->holder && !mutex->waiters.head);
  g_mutex_clear (&mutex->guard);
}

void
co_mutex_lock (CoMutex *mutex)
{
  Coroutine *self = coroutine_self ();
  CoWaiter waiter = { .co = self };

  assert (self);
  guard_lock (&mutex->guard);
  assert (mutex->holder != self && "locked twice");
  if (!mutex->holder)
    {
      mutex->holder = self;
      guard_unlock (&mutex->guard);
      return;
    }
  waiters_append (&mutex->waiters, &waiter);
  guard_unlock (&mutex->guard);
  coroutine_yield ();
}

bool
co_mutex_trylock (CoMutex *mutex)
{
  Coroutine *self = coroutine_self ();
  bool taken;

  assert (self);
  guard_lock (&mutex->guard);
  taken = !mutex->holder;
  if (taken)
    mutex->holder = self;
  guard_unlock (&mutex->guard);
  return taken;
}

void
co_mutex_unlock (CoMutex *mutex)
{
  CoWaiter *waiter;
  Coroutine *next;

  guard_lock (&mutex->guard);
  assert (mutex->holder && mutex->holder == coroutine_self ());
  waiter = waiters_pop (&mutex->waiters);
  next = waiter ? waiter->co : NULL;
  mutex->holder = next;
  guard_unlock (&mutex->guard);
  if (next)
    aio_co_wake (next);
}
