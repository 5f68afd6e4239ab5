/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include "thread-pool.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>

#include "context-int.h"

#define MAX_THREADS 16

/* On the stack of the coroutine that waits. */
typedef struct Work Work;
struct Work
{
  AioItem item; /* for the way back */
  AioContext *ctx;
  Coroutine *co;
  AioWorkFunc *func;
  void *opaque;
  int result;
  Work *next;
};

/* All under lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work_arrived = PTHREAD_COND_INITIALIZER;
static Work *first_work, **last_work = &first_work;
static pthread_t threads[MAX_THREADS];
static unsigned n_threads;
static unsigned n_idle;   /* of this generation, wait for work */
static unsigned n_queued; /* work nobody has taken yet */
static unsigned users;
static unsigned generation; /* threads of an earlier one have to end */

static void
work_done (AioItem *item)
{
  coroutine_enter (((Work *)item)->co);
}

static void *
pool_thread (void *opaque)
{
  unsigned mine = GPOINTER_TO_UINT (opaque);

  pthread_mutex_lock (&lock);
  for (;;)
    {
      Work *work;

      while (!first_work && mine == generation)
        {
          n_idle++;
          pthread_cond_wait (&work_arrived, &lock);
          /* Otherwise the count is of others by now. */
          if (mine == generation)
            n_idle--;
        }
      if (mine != generation)
        break;
      work = first_work;
      first_work = work->next;
      if (!first_work)
        last_work = &first_work;
      n_queued--;
      pthread_mutex_unlock (&lock);

      work->result = work->func (work->opaque);
      aio_item_post (work->ctx, &work->item);

      pthread_mutex_lock (&lock);
    }
  pthread_mutex_unlock (&lock);
  return NULL;
}

/* Signals are for the threads of the host. */
static bool
start_thread_locked (void)
{
  sigset_t all, old;
  int ret;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  ret = pthread_create (&threads[n_threads], NULL, pool_thread, GUINT_TO_POINTER (generation));
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  if (ret == 0)
    n_threads++;
  return ret == 0;
}

/* False when there is no thread to do it. */
static bool
queue_work (Work *work)
{
  bool queued = true, wake = false;

  pthread_mutex_lock (&lock);
  if (n_queued + 1 > n_idle && n_threads < MAX_THREADS)
    queued = start_thread_locked () || n_threads > 0;
  if (queued)
    {
      work->next = NULL;
      *last_work = work;
      last_work = &work->next;
      n_queued++;
      wake = n_idle > 0;
    }
  pthread_mutex_unlock (&lock);
  /* With the lock, the thread would wake only to wait for that. */
  if (wake)
    pthread_cond_signal (&work_arrived);
  return queued;
}

int
thread_pool_co_run (AioContext *ctx, AioWorkFunc *func, void *opaque)
{
  Work work = { .item.run = work_done, .ctx = ctx, .co = coroutine_self (), .func = func, .opaque = opaque };

  if (!ctx->uses_pool)
    {
      ctx->uses_pool = true;
      pthread_mutex_lock (&lock);
      users++;
      pthread_mutex_unlock (&lock);
    }
  /* Better late than never. */
  if (!queue_work (&work))
    return func (opaque);
  coroutine_yield ();
  return work.result;
}

void
thread_pool_unref (void)
{
  pthread_t ending[MAX_THREADS];
  unsigned n = 0;

  pthread_mutex_lock (&lock);
  if (--users == 0)
    {
      assert (!first_work);
      for (n = 0; n < n_threads; n++)
        ending[n] = threads[n];
      n_threads = 0;
      n_idle = 0;
      generation++;
      pthread_cond_broadcast (&work_arrived);
    }
  pthread_mutex_unlock (&lock);

  for (unsigned i = 0; i < n; i++)
    {
      /* The last reference to a context may go in the pool itself. */
      if (pthread_equal (ending[i], pthread_self ()))
        pthread_detach (ending[i]);
      else
        pthread_join (ending[i], NULL);
    }
}

int
aio_co_run_in_thread (AioWorkFunc *func, void *opaque)
{
  return thread_pool_co_run (coroutine_get_context (coroutine_self ()), func, opaque);
}
