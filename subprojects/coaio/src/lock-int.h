/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lists of waiting coroutines.
 *
 * A waiter puts itself into the list under the lock's guard, lets the guard go, and yields.  Whoever wakes it may
 * do so before it has yielded: it then runs in its own thread, later (aio_co_wake).  After that call the CoWaiter
 * may be gone, so it is taken out of its list, and its successor read, before.
 */
#ifndef COAIO_LOCK_INT_H
#define COAIO_LOCK_INT_H

#include <coaio/aio.h>
#include <coaio/lock.h>

#include "guard.h"

struct CoWaiter
{
  CoWaiter *next;
  Coroutine *co;
  bool writer; /* of a CoRwlock */
};

static inline void
waiters_append (CoWaiterList *list, CoWaiter *waiter)
{
  waiter->next = NULL;
  if (list->tail)
    list->tail->next = waiter;
  else
    list->head = waiter;
  list->tail = waiter;
}

static inline CoWaiter *
waiters_pop (CoWaiterList *list)
{
  CoWaiter *waiter = list->head;

  if (waiter)
    {
      list->head = waiter->next;
      if (!list->head)
        list->tail = NULL;
    }
  return waiter;
}

/* @list is the caller's own by now. */
static inline void
waiters_wake_all (CoWaiterList *list)
{
  CoWaiter *waiter;

  while ((waiter = waiters_pop (list)))
    aio_co_wake (waiter->co);
}

#endif
