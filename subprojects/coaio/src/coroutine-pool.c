/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include "coroutine-pool.h"

#include "coroutine-int.h"
#include "guard.h"

/* A thread keeps at most THREAD_MAX, the process THREAD_MAX for each thread and SHARED_MAX on top. */
#define THREAD_MAX 64
#define BATCH      (THREAD_MAX / 2)
#define SHARED_MAX (8 * BATCH)

static GMutex shared_lock;
static Coroutine *shared_pool; /* under shared_lock */
static unsigned shared_size;

static void
unmap_list (Coroutine *list)
{
  while (list)
    {
      Coroutine *co = list;

      list = co->pool_next;
      coroutine_unmap (co);
    }
}

static void
thread_ends (void *opaque)
{
  CoThread *thread = opaque;

  thread->pool_registered = false;
  thread->pool_size = 0;
  unmap_list (g_steal_pointer (&thread->pool));
}

static void
register_thread (CoThread *thread)
{
  static GPrivate at_thread_end = G_PRIVATE_INIT (thread_ends);

  thread->pool_registered = true;
  g_private_set (&at_thread_end, thread);
}

static void
fill (CoThread *thread)
{
  guard_lock (&shared_lock);
  for (int i = 0; i < BATCH && shared_pool; i++)
    {
      Coroutine *co = shared_pool;

      shared_pool = co->pool_next;
      shared_size--;
      co->pool_next = thread->pool;
      thread->pool = co;
      thread->pool_size++;
    }
  guard_unlock (&shared_lock);
}

static void
spill (CoThread *thread)
{
  Coroutine *surplus = NULL;

  guard_lock (&shared_lock);
  for (int i = 0; i < BATCH; i++)
    {
      Coroutine *co = thread->pool;
      Coroutine **list = shared_size < SHARED_MAX ? &shared_pool : &surplus;

      thread->pool = co->pool_next;
      thread->pool_size--;
      co->pool_next = *list;
      *list = co;
      if (list == &shared_pool)
        shared_size++;
    }
  guard_unlock (&shared_lock);
  unmap_list (surplus);
}

Coroutine *
coroutine_pool_get (void)
{
  CoThread *thread = co_thread ();
  Coroutine *co;

  if (!thread->pool)
    fill (thread);
  co = thread->pool;
  if (!co)
    return coroutine_map ();
  thread->pool = co->pool_next;
  thread->pool_size--;
  return co;
}

void
coroutine_pool_put (Coroutine *co)
{
  CoThread *thread = co_thread ();

  if (!thread->pool_registered)
    register_thread (thread);
  if (thread->pool_size >= THREAD_MAX)
    spill (thread);
  co->pool_next = thread->pool;
  thread->pool = co;
  thread->pool_size++;
}

/* So that a library which is unloaded, and a leak checker, find nothing left of the main thread either. */
__attribute__ ((destructor)) static void
process_ends (void)
{
  thread_ends (co_thread ());
  unmap_list (g_steal_pointer (&shared_pool));
  shared_size = 0;
}
