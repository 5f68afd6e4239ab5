/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks for coroutines.  A waiter yields; its thread goes on with other work.
 *
 * All of them may be used by coroutines of different AioContexts in different threads: a waiter is woken in
 * its own context (aio_co_wake).  All are fair (first come, first served) and hand ownership over, so a
 * woken waiter already holds the lock.  An embedded lock is initialised once and must be idle when cleared.
 */
#ifndef COAIO_LOCK_H
#define COAIO_LOCK_H

#include <coaio/coroutine.h>

G_BEGIN_DECLS

/* One waiting coroutine; lives on the waiter's stack. */
typedef struct CoWaiter CoWaiter;

typedef struct
{
  CoWaiter *head, *tail;
} CoWaiterList;

typedef struct
{
  GMutex guard; /* held for a few instructions only, never over a yield */
  CoWaiterList waiters;
  Coroutine *holder;
} CoMutex;

void co_mutex_init (CoMutex *mutex);
void co_mutex_clear (CoMutex *mutex);
void coroutine_fn co_mutex_lock (CoMutex *mutex);
bool coroutine_fn co_mutex_trylock (CoMutex *mutex);
void coroutine_fn co_mutex_unlock (CoMutex *mutex);

/* A condition queue: wait releases @mutex (may be NULL when all users run in one context), takes it again
 * before it returns.  Wake-ups are not spurious, but re-check the condition all the same. */
typedef struct
{
  GMutex guard;
  CoWaiterList waiters;
} CoQueue;

void co_queue_init (CoQueue *queue);
void co_queue_clear (CoQueue *queue);
void coroutine_fn co_queue_wait (CoQueue *queue, CoMutex *mutex);
/* Wakes the longest waiter; false if there was none. */
bool coroutine_mixed_fn co_queue_next (CoQueue *queue);
void coroutine_mixed_fn co_queue_restart_all (CoQueue *queue);
bool co_queue_empty (CoQueue *queue);

/* Many readers or one writer; a waiting writer holds back new readers. */
typedef struct
{
  GMutex guard;
  CoWaiterList waiters;
  int readers; /* holders; -1: a writer holds it */
} CoRwlock;

void co_rwlock_init (CoRwlock *lock);
void co_rwlock_clear (CoRwlock *lock);
void coroutine_fn co_rwlock_rdlock (CoRwlock *lock);
void coroutine_fn co_rwlock_wrlock (CoRwlock *lock);
/* Gives up whatever the caller holds. */
void coroutine_fn co_rwlock_unlock (CoRwlock *lock);

/* A counting semaphore, to bound what is in flight. */
typedef struct
{
  GMutex guard;
  CoWaiterList waiters;
  unsigned count;
} CoSemaphore;

void co_semaphore_init (CoSemaphore *semaphore, unsigned count);
void co_semaphore_clear (CoSemaphore *semaphore);
void coroutine_fn co_semaphore_acquire (CoSemaphore *semaphore);
void coroutine_mixed_fn co_semaphore_release (CoSemaphore *semaphore);

G_END_DECLS

#endif
