/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Locks of coroutines: order within one context, exclusion across threads. */
#include "helper.h"

static AioContext *ctx;
static GString *trail;

static void
say (const char *what, int who)
{
  g_string_append_printf (trail, "%s%d ", what, who);
}

/* Runs @entry (opaque[i]) for each, started in order, to the end of all. */
static void
run_all (CoroutineEntry *entry, void *opaque, size_t size, int n)
{
  TestRun *runs = g_new0 (TestRun, n);

  for (int i = 0; i < n; i++)
    {
      runs[i] = (TestRun){ .entry = entry, .opaque = (char *)opaque + i * size };
      aio_co_schedule (ctx, coroutine_new (test_run_entry, &runs[i]));
    }
  for (int i = 0; i < n; i++)
    while (!runs[i].done)
      aio_poll (ctx, true);
  g_free (runs);
}

static void
set_up (void)
{
  ctx = test_context_new ();
  trail = g_string_new (NULL);
}

static void
tear_down (const char *expected)
{
  if (expected)
    g_assert_cmpstr (trail->str, ==, expected);
  g_string_free (trail, TRUE);
  aio_context_unref (ctx);
}

/* --- mutex ---------------------------------------------------------------------------------------------- */

typedef struct
{
  int who;
  CoMutex *mutex;
  CoQueue *queue;
  CoRwlock *rwlock;
  CoSemaphore *semaphore;
  bool writer;
  int *shared;
} User;

static void coroutine_fn
mutex_user (void *opaque)
{
  User *user = opaque;

  for (int i = 0; i < 2; i++)
    {
      co_mutex_lock (user->mutex);
      g_assert_false (co_mutex_trylock (user->mutex));
      say ("+", user->who);
      test_give_way ();
      test_give_way ();
      say ("-", user->who);
      co_mutex_unlock (user->mutex);
    }
}

/* First come, first served: who asks again stands behind those who wait. */
static void
test_mutex_order (void)
{
  CoMutex mutex;
  User users[3];

  set_up ();
  co_mutex_init (&mutex);
  for (int i = 0; i < 3; i++)
    users[i] = (User){ .who = i, .mutex = &mutex };
  run_all (mutex_user, users, sizeof *users, 3);
  co_mutex_clear (&mutex);
  tear_down ("+0 -0 +1 -1 +2 -2 +0 -0 +1 -1 +2 -2 ");
}

static void coroutine_fn
try_lock (void *opaque)
{
  CoMutex *mutex = opaque;

  for (int i = 0; i < 3; i++)
    {
      g_assert_true (co_mutex_trylock (mutex));
      g_assert_false (co_mutex_trylock (mutex));
      co_mutex_unlock (mutex);
    }
}

static void
test_mutex_try (void)
{
  CoMutex mutex;

  set_up ();
  co_mutex_init (&mutex);
  test_run (ctx, try_lock, &mutex);
  co_mutex_clear (&mutex);
  tear_down ("");
}

/* --- queue ---------------------------------------------------------------------------------------------- */

static void coroutine_fn
queue_user (void *opaque)
{
  User *user = opaque;

  if (user->who < 3)
    {
      if (user->mutex)
        co_mutex_lock (user->mutex);
      say ("w", user->who);
      co_queue_wait (user->queue, user->mutex);
      say ("r", user->who);
      if (user->mutex)
        co_mutex_unlock (user->mutex);
      return;
    }

  g_assert_false (co_queue_empty (user->queue));
  g_assert_true (co_queue_next (user->queue));
  test_give_way ();
  test_give_way ();
  say ("all", 0);
  co_queue_restart_all (user->queue);
  g_assert_true (co_queue_empty (user->queue));
  g_assert_false (co_queue_next (user->queue));
}

static void
test_queue_order (void)
{
  for (int with_mutex = 0; with_mutex < 2; with_mutex++)
    {
      CoMutex mutex;
      CoQueue queue;
      User users[4];

      set_up ();
      co_mutex_init (&mutex);
      co_queue_init (&queue);
      g_assert_true (co_queue_empty (&queue));
      for (int i = 0; i < 4; i++)
        users[i] = (User){ .who = i, .mutex = with_mutex ? &mutex : NULL, .queue = &queue };
      run_all (queue_user, users, sizeof *users, 4);
      co_queue_clear (&queue);
      co_mutex_clear (&mutex);
      tear_down ("w0 w1 w2 r0 all0 r1 r2 ");
    }
}

/* Restarting wakes those that waited before, not those that wait again. */
static void coroutine_fn
queue_again (void *opaque)
{
  User *user = opaque;

  for (int i = 0; i < 2; i++)
    {
      co_queue_wait (user->queue, NULL);
      say ("r", user->who);
    }
}

static void
test_queue_again (void)
{
  CoQueue queue;
  User users[2];

  set_up ();
  co_queue_init (&queue);
  aio_context_push (ctx);
  for (int i = 0; i < 2; i++)
    {
      users[i] = (User){ .who = i, .queue = &queue };
      coroutine_enter (coroutine_new (queue_again, &users[i]));
    }
  /* Outside of coroutines the waiters run at once, inside the call. */
  co_queue_restart_all (&queue);
  g_assert_cmpstr (trail->str, ==, "r0 r1 ");
  g_assert_true (co_queue_next (&queue));
  g_assert_true (co_queue_next (&queue));
  g_assert_false (co_queue_next (&queue));
  aio_context_pop (ctx);
  co_queue_clear (&queue);
  tear_down ("r0 r1 r0 r1 ");
}

/* --- rwlock --------------------------------------------------------------------------------------------- */

static void coroutine_fn
rwlock_user (void *opaque)
{
  User *user = opaque;

  if (user->writer)
    co_rwlock_wrlock (user->rwlock);
  else
    co_rwlock_rdlock (user->rwlock);
  say (user->writer ? "W" : "R", user->who);
  test_give_way ();
  test_give_way ();
  say ("-", user->who);
  co_rwlock_unlock (user->rwlock);
}

static void
test_rwlock_order (void)
{
  CoRwlock lock;
  User users[8];

  set_up ();
  co_rwlock_init (&lock);
  for (int i = 0; i < 8; i++)
    users[i] = (User){ .who = i, .rwlock = &lock, .writer = i == 2 || i == 5 || i == 6 };
  run_all (rwlock_user, users, sizeof *users, 8);
  co_rwlock_clear (&lock);
  /* Readers 3 and 4 came after writer 2, and share the lock after it. */
  tear_down ("R0 R1 -0 -1 W2 -2 R3 R4 -3 -4 W5 -5 W6 -6 R7 -7 ");
}

/* --- semaphore ------------------------------------------------------------------------------------------ */

static void coroutine_fn
semaphore_user (void *opaque)
{
  User *user = opaque;

  co_semaphore_acquire (user->semaphore);
  say ("+", user->who);
  g_assert_cmpint (++*user->shared, <=, 2);
  test_give_way ();
  --*user->shared;
  say ("-", user->who);
  co_semaphore_release (user->semaphore);
}

static void
test_semaphore_order (void)
{
  CoSemaphore semaphore;
  User users[5];
  int shared = 0;

  set_up ();
  co_semaphore_init (&semaphore, 2);
  for (int i = 0; i < 5; i++)
    users[i] = (User){ .who = i, .semaphore = &semaphore, .shared = &shared };
  run_all (semaphore_user, users, sizeof *users, 5);
  g_assert_cmpuint (semaphore.count, ==, 2);
  co_semaphore_clear (&semaphore);
  tear_down ("+0 +1 -0 -1 +2 +3 -2 -3 +4 -4 ");
}

/* --- across threads ------------------------------------------------------------------------------------- */

enum
{
  N_THREADS = 3,
  PER_THREAD = 5,
#if defined(TEST_TSAN) || defined(TEST_ASAN)
  ROUNDS = 300,
#else
  ROUNDS = 2000,
#endif
};

typedef struct
{
  CoMutex mutex;
  CoQueue queue;
  CoRwlock rwlock;
  CoSemaphore semaphore;
  /* Plain on purpose: the lock under test is what keeps them right. */
  int64_t counter, copy;
  int full; /* places of the buffer that are */
  /* Counted without the lock. */
  atomic_int inside;
  atomic_int left;
} Shared;

static void
run_in_threads (CoroutineEntry *entry, Shared *shared)
{
  TestThread threads[N_THREADS];

  atomic_init (&shared->left, N_THREADS * PER_THREAD);
  atomic_init (&shared->inside, 0);
  co_mutex_init (&shared->mutex);
  co_queue_init (&shared->queue);
  co_rwlock_init (&shared->rwlock);
  co_semaphore_init (&shared->semaphore, 4);
  for (int i = 0; i < N_THREADS; i++)
    test_thread_start (&threads[i]);
  for (int i = 0; i < PER_THREAD; i++)
    for (int j = 0; j < N_THREADS; j++)
      aio_co_schedule (threads[j].ctx, coroutine_new (entry, shared));
  while (atomic_load (&shared->left) > 0)
    g_usleep (1000);
  for (int i = 0; i < N_THREADS; i++)
    test_thread_stop (&threads[i]);
  co_mutex_clear (&shared->mutex);
  co_queue_clear (&shared->queue);
  co_rwlock_clear (&shared->rwlock);
  co_semaphore_clear (&shared->semaphore);
}

static void coroutine_fn
mutex_worker (void *opaque)
{
  Shared *shared = opaque;
  AioContext *mine = aio_context_get_current ();

  for (int i = 0; i < ROUNDS; i++)
    {
      int64_t before;

      co_mutex_lock (&shared->mutex);
      g_assert_true (aio_context_get_current () == mine);
      before = shared->counter;
      if (i % 3 == 0)
        test_give_way ();
      shared->counter = before + 1;
      co_mutex_unlock (&shared->mutex);
    }
  atomic_fetch_sub (&shared->left, 1);
}

static void
test_mutex_threads (void)
{
  Shared shared = { .counter = 0 };

  run_in_threads (mutex_worker, &shared);
  g_assert_cmpint (shared.counter, ==, (int64_t)N_THREADS * PER_THREAD * ROUNDS);
}

static void coroutine_fn
rwlock_worker (void *opaque)
{
  Shared *shared = opaque;
  AioContext *mine = aio_context_get_current ();

  for (int i = 0; i < ROUNDS; i++)
    {
      if (i % 4 == 0)
        {
          co_rwlock_wrlock (&shared->rwlock);
          shared->counter++;
          if (i % 8 == 0)
            test_give_way ();
          shared->copy++;
        }
      else
        {
          co_rwlock_rdlock (&shared->rwlock);
          g_assert_cmpint (shared->counter, ==, shared->copy);
          if (i % 8 == 1)
            test_give_way ();
        }
      g_assert_true (aio_context_get_current () == mine);
      co_rwlock_unlock (&shared->rwlock);
    }
  atomic_fetch_sub (&shared->left, 1);
}

static void
test_rwlock_threads (void)
{
  Shared shared = { .counter = 0 };

  run_in_threads (rwlock_worker, &shared);
  g_assert_cmpint (shared.counter, ==, (int64_t)N_THREADS * PER_THREAD * ROUNDS / 4);
}

static void coroutine_fn
semaphore_worker (void *opaque)
{
  Shared *shared = opaque;

  for (int i = 0; i < ROUNDS; i++)
    {
      co_semaphore_acquire (&shared->semaphore);
      g_assert_cmpint (atomic_fetch_add (&shared->inside, 1), <, 4);
      if (i % 3 == 0)
        test_give_way ();
      atomic_fetch_sub (&shared->inside, 1);
      co_semaphore_release (&shared->semaphore);
    }
  atomic_fetch_sub (&shared->left, 1);
}

static void
test_semaphore_threads (void)
{
  Shared shared = { .counter = 0 };

  run_in_threads (semaphore_worker, &shared);
}

/* Producers and consumers of a bounded buffer, one queue for both: a wake-up that gets lost hangs it. */
enum
{
  PRODUCERS = N_THREADS * PER_THREAD / 2,
  PRODUCED = PRODUCERS * ROUNDS,
};

static void coroutine_fn
produce (Shared *shared)
{
  for (int i = 0; i < ROUNDS; i++)
    {
      co_mutex_lock (&shared->mutex);
      while (shared->full == 3)
        co_queue_wait (&shared->queue, &shared->mutex);
      shared->full++;
      co_queue_restart_all (&shared->queue);
      co_mutex_unlock (&shared->mutex);
    }
}

static void coroutine_fn
consume (Shared *shared)
{
  bool over;

  do
    {
      co_mutex_lock (&shared->mutex);
      while (shared->full == 0 && shared->counter < PRODUCED)
        co_queue_wait (&shared->queue, &shared->mutex);
      over = shared->counter == PRODUCED;
      if (!over)
        {
          g_assert_cmpint (shared->full, <=, 3);
          shared->full--;
          shared->counter++;
          co_queue_restart_all (&shared->queue);
        }
      co_mutex_unlock (&shared->mutex);
    }
  while (!over);
}

static void coroutine_fn
queue_worker (void *opaque)
{
  Shared *shared = opaque;

  if (atomic_fetch_add (&shared->inside, 1) < PRODUCERS)
    produce (shared);
  else
    consume (shared);
  atomic_fetch_sub (&shared->left, 1);
}

static void
test_queue_threads (void)
{
  Shared shared = { .counter = 0 };

  run_in_threads (queue_worker, &shared);
  g_assert_cmpint (shared.counter, ==, PRODUCED);
  g_assert_cmpint (shared.full, ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/lock/mutex/order", test_mutex_order);
  g_test_add_func ("/lock/mutex/try", test_mutex_try);
  g_test_add_func ("/lock/mutex/threads", test_mutex_threads);
  g_test_add_func ("/lock/queue/order", test_queue_order);
  g_test_add_func ("/lock/queue/again", test_queue_again);
  g_test_add_func ("/lock/queue/threads", test_queue_threads);
  g_test_add_func ("/lock/rwlock/order", test_rwlock_order);
  g_test_add_func ("/lock/rwlock/threads", test_rwlock_threads);
  g_test_add_func ("/lock/semaphore/order", test_semaphore_order);
  g_test_add_func ("/lock/semaphore/threads", test_semaphore_threads);
  return g_test_run ();
}
