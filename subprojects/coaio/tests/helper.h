/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests share: running a coroutine to its end, threads that drive a context. */
#ifndef COAIO_TEST_HELPER_H
#define COAIO_TEST_HELPER_H

#include <stdatomic.h>

#include <coaio/coaio.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#endif

typedef struct
{
  CoroutineEntry *entry;
  void *opaque;
  bool done;
} TestRun;

static inline void coroutine_fn
test_run_entry (void *opaque)
{
  TestRun *run = opaque;

  run->entry (run->opaque);
  run->done = true;
}

/* Whether a test can have its program started once more, by its name: not where that takes a wrapper (of another
 * processor, by meson).  Skips the test if it cannot. */
static inline bool
can_start_itself (void)
{
  if (g_getenv ("MESON_EXE_WRAPPER") == NULL)
    return true;
  g_test_skip ("a program that a wrapper runs cannot start itself");
  return false;
}

static inline AioContext *
test_context_new (void)
{
  GError *error = NULL;
  AioContext *ctx = aio_context_new (&error);

  g_assert_no_error (error);
  g_assert_nonnull (ctx);
  return ctx;
}

/* Runs @entry in a coroutine of @ctx, until it has ended. */
static inline void
test_run (AioContext *ctx, CoroutineEntry *entry, void *opaque)
{
  TestRun run = { .entry = entry, .opaque = opaque };

  aio_co_schedule (ctx, coroutine_new (test_run_entry, &run));
  while (!run.done)
    aio_poll (ctx, true);
}

/* Lets other coroutines of the context run. */
static inline void coroutine_fn
test_give_way (void)
{
  Coroutine *self = coroutine_self ();

  aio_co_schedule (coroutine_get_context (self), self);
  coroutine_yield ();
}

/* A thread that drives a context until it is told to end. */
typedef struct
{
  AioContext *ctx;
  GThread *thread;
  bool end; /* only touched by the thread */
} TestThread;

static inline void *
test_thread_main (void *opaque)
{
  TestThread *self = opaque;

  while (!self->end)
    aio_poll (self->ctx, true);
  return NULL;
}

static inline void
test_thread_start (TestThread *self)
{
  self->ctx = test_context_new ();
  self->end = false;
  self->thread = g_thread_new ("context", test_thread_main, self);
}

static inline void
test_thread_end (void *opaque)
{
  ((TestThread *)opaque)->end = true;
}

static inline void
test_thread_stop (TestThread *self)
{
  aio_bh_schedule_oneshot (self->ctx, test_thread_end, self);
  g_thread_join (self->thread);
  aio_context_unref (self->ctx);
}

#endif
