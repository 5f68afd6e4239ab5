/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several contexts in several threads: scheduling, waking, moving, the pool of threads. */
#include "helper.h"

enum
{
  N_THREADS = 3,
#if defined(TEST_TSAN) || defined(TEST_ASAN)
  ROUNDS = 500,
#else
  ROUNDS = 5000,
#endif
};

/* --- posting from many threads -------------------------------------------------------------------------- */

typedef struct
{
  AioContext *ctx;
  AioBH *bh;
  atomic_int *left;
  int last; /* touched in the context only */
  int n;
} Poster;

typedef struct
{
  Poster *poster;
  int number;
} Post;

static void
arrive (void *opaque)
{
  Post *post = opaque;

  /* What one thread posts arrives in order. */
  g_assert_cmpint (post->number, ==, post->poster->last + 1);
  post->poster->last = post->number;
  atomic_fetch_sub (post->poster->left, 1);
  g_free (post);
}

static void *
post_many (void *opaque)
{
  Poster *poster = opaque;

  for (int i = 1; i <= ROUNDS; i++)
    {
      Post *post = g_new (Post, 1);

      *post = (Post){ poster, i };
      aio_bh_schedule_oneshot (poster->ctx, arrive, post);
      if (i % 64 == 0)
        g_thread_yield ();
    }
  return NULL;
}

static void
test_post (void)
{
  AioContext *ctx = test_context_new ();
  Poster posters[N_THREADS];
  GThread *threads[N_THREADS];
  atomic_int left = N_THREADS * ROUNDS;

  for (int i = 0; i < N_THREADS; i++)
    {
      posters[i] = (Poster){ .ctx = ctx, .left = &left };
      threads[i] = g_thread_new ("poster", post_many, &posters[i]);
    }
  /* Sleeps in between: a wake-up that gets lost hangs it. */
  while (atomic_load (&left) > 0)
    aio_poll (ctx, true);
  for (int i = 0; i < N_THREADS; i++)
    {
      g_thread_join (threads[i]);
      g_assert_cmpint (posters[i].last, ==, ROUNDS);
    }
  aio_context_unref (ctx);
}

static void
count_bh (void *opaque)
{
  ((Poster *)opaque)->n++;
}

static void *
schedule_bh (void *opaque)
{
  Poster *poster = opaque;

  for (int i = 0; i < ROUNDS; i++)
    aio_bh_schedule (poster->bh);
  atomic_fetch_sub (poster->left, 1);
  return NULL;
}

/* Many schedule the same one: it runs at least once after the last, and never more often than asked. */
static void
test_bh (void)
{
  AioContext *ctx = test_context_new ();
  GThread *threads[N_THREADS];
  atomic_int left = N_THREADS;
  Poster poster = { .ctx = ctx, .left = &left };

  poster.bh = aio_bh_new (ctx, count_bh, &poster);
  for (int i = 0; i < N_THREADS; i++)
    threads[i] = g_thread_new ("poster", schedule_bh, &poster);
  while (atomic_load (&left) > 0)
    aio_poll (ctx, false);
  for (int i = 0; i < N_THREADS; i++)
    g_thread_join (threads[i]);
  while (aio_poll (ctx, false))
    ;
  g_assert_cmpint (poster.n, >=, 1);
  g_assert_cmpint (poster.n, <=, N_THREADS * ROUNDS);
  poster.n = 0;
  aio_bh_schedule (poster.bh);
  aio_poll (ctx, true);
  g_assert_cmpint (poster.n, ==, 1);
  aio_bh_delete (poster.bh);
  aio_context_unref (ctx);
}

static void *
poll_fd_thread (void *opaque)
{
  TestThread *self = opaque;
  GPollFD fd = { .fd = aio_context_get_fd (self->ctx), .events = G_IO_IN };

  while (!self->end)
    {
      g_poll (&fd, 1, -1);
      aio_poll (self->ctx, false);
    }
  return NULL;
}

static void *
glib_thread (void *opaque)
{
  TestThread *self = opaque;
  GMainContext *main_context = g_main_context_new ();

  g_source_attach (aio_context_get_source (self->ctx), main_context);
  while (!self->end)
    g_main_context_iteration (main_context, TRUE);
  g_source_destroy (aio_context_get_source (self->ctx));
  g_main_context_unref (main_context);
  return NULL;
}

/* The same with the two other ways to drive a context. */
static void
test_post_driven (const void *main_function)
{
  TestThread driver = { .ctx = test_context_new () };
  Poster posters[N_THREADS];
  GThread *threads[N_THREADS];
  atomic_int left = N_THREADS * ROUNDS;

  driver.thread = g_thread_new ("driver", (GThreadFunc)(uintptr_t)main_function, &driver);
  for (int i = 0; i < N_THREADS; i++)
    {
      posters[i] = (Poster){ .ctx = driver.ctx, .left = &left };
      threads[i] = g_thread_new ("poster", post_many, &posters[i]);
    }
  for (int i = 0; i < N_THREADS; i++)
    g_thread_join (threads[i]);
  while (atomic_load (&left) > 0)
    g_usleep (1000);
  test_thread_stop (&driver);
}

/* --- coroutines that travel ----------------------------------------------------------------------------- */

typedef struct
{
  AioContext **contexts;
  int n_contexts;
  int seed;
  atomic_int *left;
} Traveller;

static void coroutine_fn
travel (void *opaque)
{
  Traveller *self = opaque;
  uint32_t random = (uint32_t)self->seed;
  int64_t check = 0;

  for (int i = 0; i < ROUNDS; i++)
    {
      AioContext *next;

      random = random * 1664525 + 1013904223;
      next = self->contexts[random >> 16 & 0xff ? (random >> 8) % (uint32_t)self->n_contexts : 0];
      aio_co_reschedule_self (next);
      g_assert_true (aio_context_get_current () == next);
      g_assert_true (coroutine_get_context (coroutine_self ()) == next);
      if (i % 16 == 0)
        test_give_way ();
      check += i;
    }
  g_assert_cmpint (check, ==, (int64_t)ROUNDS * (ROUNDS - 1) / 2);
  atomic_fetch_sub (self->left, 1);
}

static void
test_travel (void)
{
  enum
  {
    N = 10
  };
  TestThread threads[N_THREADS];
  AioContext *contexts[N_THREADS];
  Traveller travellers[N];
  atomic_int left = N;

  for (int i = 0; i < N_THREADS; i++)
    {
      test_thread_start (&threads[i]);
      contexts[i] = threads[i].ctx;
    }
  for (int i = 0; i < N; i++)
    {
      travellers[i] = (Traveller){ contexts, N_THREADS, i, &left };
      aio_co_schedule (contexts[i % N_THREADS], coroutine_new (travel, &travellers[i]));
    }
  while (atomic_load (&left) > 0)
    g_usleep (1000);
  for (int i = 0; i < N_THREADS; i++)
    test_thread_stop (&threads[i]);
}

/* --- waking a coroutine of another thread --------------------------------------------------------------- */

typedef struct
{
  _Atomic (Coroutine *) sleeper; /* has said that it will yield, perhaps has not yet */
  atomic_int rounds;
  atomic_bool done;
} Alarm;

static void coroutine_fn
sleep_often (void *opaque)
{
  Alarm *alarm = opaque;
  AioContext *mine = aio_context_get_current ();

  for (int i = 0; i < ROUNDS; i++)
    {
      atomic_store (&alarm->sleeper, coroutine_self ());
      coroutine_yield ();
      g_assert_true (aio_context_get_current () == mine);
      atomic_fetch_add (&alarm->rounds, 1);
    }
  atomic_store (&alarm->done, true);
}

/* The waker may come before the sleeper has left its stack. */
static void
test_wake (void)
{
  Alarm alarm = { .rounds = 0 };
  TestThread thread;

  test_thread_start (&thread);
  aio_co_schedule (thread.ctx, coroutine_new (sleep_often, &alarm));
  while (!atomic_load (&alarm.done))
    {
      Coroutine *co = atomic_exchange (&alarm.sleeper, NULL);

      if (co)
        aio_co_wake (co);
      else
        g_thread_yield ();
    }
  g_assert_cmpint (atomic_load (&alarm.rounds), ==, ROUNDS);
  test_thread_stop (&thread);
}

/* --- the pool ------------------------------------------------------------------------------------------- */

typedef struct
{
  GThread *caller;
  atomic_int *running;
  atomic_int *most;
  int number;
  int *left;
} Job;

static int
job (void *opaque)
{
  Job *self = opaque;
  int running = atomic_fetch_add (self->running, 1) + 1;
  int most = atomic_load (self->most);

  g_assert_true (g_thread_self () != self->caller);
  g_assert_false (in_coroutine ());
  while (running > most && !atomic_compare_exchange_weak (self->most, &most, running))
    ;
  g_usleep (100);
  atomic_fetch_sub (self->running, 1);
  return self->number;
}

static void coroutine_fn
run_job (void *opaque)
{
  Job *self = opaque;
  AioContext *mine = aio_context_get_current ();

  for (int i = 0; i < 3; i++)
    {
      g_assert_cmpint (aio_co_run_in_thread (job, self), ==, self->number);
      g_assert_true (g_thread_self () == self->caller);
      g_assert_true (aio_context_get_current () == mine);
    }
  --*self->left;
}

static void
test_pool (void)
{
  enum
  {
    N = 100
  };

  /* Twice: the pool ends with the last context that has used it. */
  for (int round = 0; round < 2; round++)
    {
      AioContext *ctx = test_context_new ();
      atomic_int running = 0, most = 0;
      Job jobs[N];
      int left = N;

      for (int i = 0; i < N; i++)
        {
          jobs[i] = (Job){ g_thread_self (), &running, &most, -i, &left };
          aio_co_schedule (ctx, coroutine_new (run_job, &jobs[i]));
        }
      while (left > 0)
        aio_poll (ctx, true);
      g_assert_cmpint (atomic_load (&running), ==, 0);
      g_assert_cmpint (atomic_load (&most), <=, 16);
      aio_context_unref (ctx);
    }
}

static int
nothing (void *opaque)
{
  return 0;
}

static void coroutine_fn
run_nothing (void *opaque)
{
  g_assert_cmpint (aio_co_run_in_thread (nothing, NULL), ==, 0);
}

/* The pool ends while the next one begins: a thread that has handed its work back may be the last to let the
 * context go. */
static void
test_pool_again (void)
{
  for (int i = 0; i < ROUNDS; i++)
    {
      AioContext *ctx = test_context_new ();

      test_run (ctx, run_nothing, NULL);
      aio_context_unref (ctx);
    }
}

static int
let_go (void *opaque)
{
  aio_context_unref (opaque);
  return 0;
}

static void coroutine_fn
let_go_in_pool (void *opaque)
{
  aio_co_run_in_thread (let_go, aio_context_ref (opaque));
}

static void *
unref_thread (void *opaque)
{
  aio_context_unref (opaque);
  return NULL;
}

static void
test_unref (void)
{
  for (int i = 0; i < 20; i++)
    {
      AioContext *ctx = test_context_new ();

      test_run (ctx, let_go_in_pool, ctx);
      aio_context_ref (ctx);
      g_thread_join (g_thread_new ("unref", unref_thread, ctx));
      g_thread_join (g_thread_new ("unref", unref_thread, ctx));
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/threads/post", test_post);
  g_test_add_func ("/threads/bh", test_bh);
  g_test_add_data_func ("/threads/post-driven/poll", (void *)(uintptr_t)test_thread_main, test_post_driven);
  g_test_add_data_func ("/threads/post-driven/fd", (void *)(uintptr_t)poll_fd_thread, test_post_driven);
  g_test_add_data_func ("/threads/post-driven/glib", (void *)(uintptr_t)glib_thread, test_post_driven);
  g_test_add_func ("/threads/travel", test_travel);
  g_test_add_func ("/threads/wake", test_wake);
  g_test_add_func ("/threads/pool", test_pool);
  g_test_add_func ("/threads/pool-again", test_pool_again);
  g_test_add_func ("/threads/unref", test_unref);
  return g_test_run ();
}
