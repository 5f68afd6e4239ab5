/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include <assert.h>

#include "lock-int.h"

void
co_rwlock_init (CoRwlock *lock)
{
  *lock = (CoRwlock){ 0 };
  g_mutex_init (&lock->guard);
}

void
co_rwlock_clear (CoRwlock *lock)
{
  assert (lock->readers == 0 && !lock->waiters.head);
  g_mutex_clear (&lock->guard);
}

static void
wait_and_unguard (CoRwlock *lock, bool writer)
{
  CoWaiter waiter = { .co = coroutine_self (), .writer = writer };

  waiters_append (&lock->waiters, &waiter);
  guard_unlock (&lock->guard);
  coroutine_yield ();
}

void
co_rwlock_rdlock (CoRwlock *lock)
{
  assert (in_coroutine ());
  guard_lock (&lock->guard);
  if (lock->readers < 0 || lock->waiters.head)
    {
      wait_and_unguard (lock, false);
      return;
    }
  lock->readers++;
  guard_unlock (&lock->guard);
}

void
co_rwlock_wrlock (CoRwlock *lock)
{
  assert (in_coroutine ());
  guard_lock (&lock->guard);
  if (lock->readers != 0 || lock->waiters.head)
    {
      wait_and_unguard (lock, true);
      return;
    }
  lock->readers = -1;
  guard_unlock (&lock->guard);
}

/* Gives the free lock to the first writer, or to all readers before the next writer. */
static void
hand_over_locked (CoRwlock *lock, CoWaiterList *granted)
{
  while (lock->waiters.head && (lock->waiters.head->writer ? lock->readers == 0 : lock->readers >= 0))
    {
      CoWaiter *waiter = waiters_pop (&lock->waiters);

      lock->readers = waiter->writer ? -1 : lock->readers + 1;
      waiters_append (granted, waiter);
    }
}

void
co_rwlock_unlock (CoRwlock *lock)
{
  CoWaiterList granted = { 0 };

  guard_lock (&lock->guard);
  assert (lock->readers != 0);
  lock->readers = lock->readers < 0 ? 0 : lock->readers - 1;
  hand_over_locked (lock, &granted);
  guard_unlock (&lock->guard);
  waiters_wake_all (&granted);
}
