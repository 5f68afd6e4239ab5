/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One context in one thread: bottom halves, timers, descriptors, and the three ways to drive it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helper.h"

#define MS INT64_C (1000000)

static void
append (void *opaque)
{
  GString **log = opaque;

  g_string_append_c (*log, 'x');
}

static void
increment (void *opaque)
{
  ++*(int *)opaque;
}

/* --- bottom halves -------------------------------------------------------------------------------------- */

typedef struct
{
  AioContext *ctx;
  AioBH *bh;
  GString *log;
  char name;
  int left;
} Step;

static void
log_step (void *opaque)
{
  Step *step = opaque;

  g_string_append_c (step->log, step->name);
}

static void
test_bh_order (void)
{
  AioContext *ctx = test_context_new ();
  g_autoptr (GString) log = g_string_new (NULL);
  Step a = { .log = log, .name = 'a' }, b = { .log = log, .name = 'b' }, c = { .log = log, .name = 'c' };
  AioBH *bh = aio_bh_new (ctx, log_step, &b);

  g_assert_false (aio_poll (ctx, false));
  aio_bh_schedule_oneshot (ctx, log_step, &a);
  aio_bh_schedule (bh);
  aio_bh_schedule_oneshot (ctx, log_step, &c);
  aio_bh_schedule (bh);
  g_assert_cmpstr (log->str, ==, "");
  g_assert_true (aio_poll (ctx, false));
  g_assert_cmpstr (log->str, ==, "abc");
  g_assert_false (aio_poll (ctx, false));
  aio_bh_schedule (bh);
  g_assert_true (aio_poll (ctx, true));
  g_assert_cmpstr (log->str, ==, "abcb");
  aio_bh_delete (bh);
  aio_context_unref (ctx);
}

static void
test_bh_cancel (void)
{
  AioContext *ctx = test_context_new ();
  int n = 0;
  AioBH *bh = aio_bh_new (ctx, increment, &n);

  aio_bh_schedule (bh);
  aio_bh_cancel (bh);
  aio_poll (ctx, false);
  g_assert_cmpint (n, ==, 0);
  aio_bh_schedule (bh);
  aio_bh_cancel (bh);
  aio_bh_schedule (bh);
  aio_poll (ctx, false);
  g_assert_cmpint (n, ==, 1);
  aio_bh_schedule (bh);
  aio_bh_delete (bh);
  aio_poll (ctx, false);
  g_assert_cmpint (n, ==, 1);
  /* Some that never run. */
  aio_bh_delete (aio_bh_new (ctx, increment, &n));
  aio_bh_delete (NULL);
  bh = aio_bh_new (ctx, increment, &n);
  aio_bh_schedule (bh);
  aio_bh_delete (bh);
  aio_bh_schedule_oneshot (ctx, increment, &n);
  aio_context_unref (ctx);
  g_assert_cmpint (n, ==, 1);
}

static void
repeat_then_delete (void *opaque)
{
  Step *step = opaque;

  if (--step->left > 0)
    aio_bh_schedule (step->bh);
  else
    aio_bh_delete (step->bh);
}

static void
test_bh_repeat (void)
{
  AioContext *ctx = test_context_new ();
  Step step = { .left = 1000 };

  step.bh = aio_bh_new (ctx, repeat_then_delete, &step);
  aio_bh_schedule (step.bh);
  while (step.left > 0)
    aio_poll (ctx, true);
  aio_context_unref (ctx);
}

/* One that never stops does not keep descriptors from being served. */
static void
repeat_until (void *opaque)
{
  Step *step = opaque;

  if (step->left > 0)
    aio_bh_schedule (step->bh);
}

static void
test_bh_fair (void)
{
  AioContext *ctx = test_context_new ();
  Step step = { .left = 1 };
  AioTimer *timer;
  int fired = 0;

  step.bh = aio_bh_new (ctx, repeat_until, &step);
  aio_bh_schedule (step.bh);
  timer = aio_timer_new (ctx, increment, &fired);
  aio_timer_mod (timer, aio_clock_ns () + MS);
  while (!fired)
    aio_poll (ctx, true);
  step.left = 0;
  aio_timer_free (timer);
  while (aio_poll (ctx, false))
    ;
  aio_bh_delete (step.bh);
  aio_context_unref (ctx);
}

static void
poll_inside (void *opaque)
{
  Step *step = opaque;

  g_string_append_c (step->log, '(');
  while (step->left > 0)
    aio_poll (step->ctx, true);
  g_string_append_c (step->log, ')');
}

static void
finish_inner (void *opaque)
{
  Step *step = opaque;

  g_string_append_c (step->log, 'i');
  step->left--;
}

static void
test_nested_poll (void)
{
  AioContext *ctx = test_context_new ();
  g_autoptr (GString) log = g_string_new (NULL);
  Step step = { .ctx = ctx, .log = log, .left = 2 };
  AioTimer *timer = aio_timer_new (ctx, finish_inner, &step);

  aio_timer_mod (timer, aio_clock_ns () + MS);
  aio_bh_schedule_oneshot (ctx, poll_inside, &step);
  aio_bh_schedule_oneshot (ctx, finish_inner, &step);
  aio_poll (ctx, true);
  g_assert_cmpstr (log->str, ==, "(ii)");
  aio_timer_free (timer);
  aio_context_unref (ctx);
}

/* --- timers --------------------------------------------------------------------------------------------- */

static void
test_timer_order (void)
{
  enum
  {
    N = 100
  };
  AioContext *ctx = test_context_new ();
  g_autoptr (GString) log = g_string_new (NULL);
  int64_t now = aio_clock_ns ();
  AioTimer *timers[N];
  Step steps[N];

  /* Set in a scrambled order, two at each deadline. */
  for (int i = 0; i < N; i++)
    {
      int which = i * 37 % N;

      steps[which] = (Step){ .log = log, .name = (char)('0' + which / 2) };
      timers[which] = aio_timer_new (ctx, log_step, &steps[which]);
      aio_timer_mod (timers[which], now - MS + which / 2 * 1000);
    }
  /* Some are taken away, and some put to the end. */
  for (int i = 0; i < N; i += 10)
    aio_timer_del (timers[i]);
  for (int i = 5; i < N; i += 10)
    aio_timer_mod (timers[i], now + i * 1000);
  while (log->len < N - N / 10)
    aio_poll (ctx, true);
  g_assert_false (aio_poll (ctx, false));
  for (int i = 1; i < N - N / 10 - N / 10; i++)
    g_assert_cmpint (log->str[i], >=, log->str[i - 1]);
  for (int i = 0; i < N / 10; i++)
    g_assert_cmpint (log->str[N - N / 10 - N / 10 + i], ==, '0' + (5 + 10 * i) / 2);
  g_assert_cmpint (aio_clock_ns (), >=, now + (N - 5) * 1000);
  for (int i = 0; i < N; i++)
    aio_timer_free (timers[i]);
  aio_context_unref (ctx);
}

static void
test_timer_fifo (void)
{
  AioContext *ctx = test_context_new ();
  g_autoptr (GString) log = g_string_new (NULL);
  int64_t deadline = aio_clock_ns () + MS;
  AioTimer *timers[8];
  Step steps[8];

  for (int i = 0; i < 8; i++)
    {
      steps[i] = (Step){ .log = log, .name = (char)('a' + i) };
      timers[i] = aio_timer_new (ctx, log_step, &steps[i]);
      aio_timer_mod (timers[i], deadline);
    }
  while (log->len < 8)
    aio_poll (ctx, true);
  g_assert_cmpstr (log->str, ==, "abcdefgh");
  for (int i = 0; i < 8; i++)
    aio_timer_free (timers[i]);
  aio_context_unref (ctx);
}

typedef struct
{
  AioTimer *timer;
  int left;
  int64_t step;
} Ticker;

static void
tick (void *opaque)
{
  Ticker *ticker = opaque;

  if (--ticker->left > 0)
    aio_timer_mod (ticker->timer, ticker->step < 0 ? -1 : aio_clock_ns () + ticker->step);
}

static void
test_timer_again (void)
{
  AioContext *ctx = test_context_new ();
  int64_t steps[] = { -1, 0, 1000, 200000 };

  for (unsigned i = 0; i < G_N_ELEMENTS (steps); i++)
    {
      Ticker ticker = { .left = 10, .step = steps[i] };
      int64_t begin = aio_clock_ns ();

      ticker.timer = aio_timer_new (ctx, tick, &ticker);
      aio_timer_mod (ticker.timer, begin + MAX (steps[i], 0));
      while (ticker.left > 0)
        aio_poll (ctx, true);
      g_assert_cmpint (aio_clock_ns () - begin, >=, 10 * MAX (steps[i], 0));
      aio_timer_free (ticker.timer);
    }
  aio_context_unref (ctx);
}

typedef struct
{
  int64_t ns;
  int *running;
} Sleeper;

static void coroutine_fn
sleep_enough (void *opaque)
{
  Sleeper *sleeper = opaque;
  int64_t begin = aio_clock_ns ();

  co_sleep_ns (sleeper->ns);
  g_assert_cmpint (aio_clock_ns () - begin, >=, sleeper->ns);
  --*sleeper->running;
}

static void
test_sleep (void)
{
  AioContext *ctx = test_context_new ();
  int running = 4;
  Sleeper sleepers[] = { { 4 * MS, &running }, { 0, &running }, { -MS, &running }, { 2 * MS, &running } };

  for (int i = 0; i < 4; i++)
    aio_co_schedule (ctx, coroutine_new (sleep_enough, &sleepers[i]));
  while (running > 0)
    aio_poll (ctx, true);
  aio_context_unref (ctx);
}

/* --- descriptors ---------------------------------------------------------------------------------------- */

typedef struct
{
  AioContext *ctx;
  int fd;
  int n_read, n_write;
  bool forget;
} Watch;

static void
watch_read (void *opaque)
{
  Watch *watch = opaque;
  char buf[16];
  ssize_t ret = read (watch->fd, buf, sizeof buf);

  g_assert_cmpint (ret, >=, 0);
  watch->n_read++;
  if (watch->forget)
    aio_set_fd_handler (watch->ctx, watch->fd, NULL, NULL, NULL);
}

static void
watch_write (void *opaque)
{
  Watch *watch = opaque;

  watch->n_write++;
  if (watch->n_write == 3)
    aio_set_fd_handler (watch->ctx, watch->fd, watch_read, NULL, watch);
}

static void
test_fd_handler (void)
{
  AioContext *ctx = test_context_new ();
  Watch watch = { .ctx = ctx };
  int fds[2];

  g_assert_cmpint (socketpair (AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
  watch.fd = fds[0];
  aio_set_fd_handler (ctx, fds[0], watch_read, NULL, &watch);
  g_assert_false (aio_poll (ctx, false));
  g_assert_cmpint (write (fds[1], "x", 1), ==, 1);
  g_assert_true (aio_poll (ctx, true));
  g_assert_cmpint (watch.n_read, ==, 1);
  g_assert_false (aio_poll (ctx, false));

  /* Both directions; level triggered, until the handler takes itself back. */
  aio_set_fd_handler (ctx, fds[0], watch_read, watch_write, &watch);
  for (int i = 0; i < 3; i++)
    g_assert_true (aio_poll (ctx, true));
  g_assert_cmpint (watch.n_write, ==, 3);
  g_assert_false (aio_poll (ctx, false));

  /* A handler that forgets the descriptor while both directions are ready. */
  watch.forget = true;
  watch.n_write = 10;
  g_assert_cmpint (write (fds[1], "y", 1), ==, 1);
  aio_set_fd_handler (ctx, fds[0], watch_read, watch_write, &watch);
  g_assert_true (aio_poll (ctx, true));
  g_assert_cmpint (watch.n_read, ==, 2);
  g_assert_cmpint (watch.n_write, ==, 10);
  g_assert_false (aio_poll (ctx, false));

  /* Hanging up is something to read. */
  watch.forget = false;
  aio_set_fd_handler (ctx, fds[0], watch_read, NULL, &watch);
  close (fds[1]);
  g_assert_true (aio_poll (ctx, true));
  g_assert_cmpint (watch.n_read, ==, 3);
  aio_set_fd_handler (ctx, fds[0], NULL, NULL, NULL);
  aio_set_fd_handler (ctx, fds[0], NULL, NULL, NULL);
  close (fds[0]);
  aio_context_unref (ctx);
}

/* A descriptor closed too early lives on in a duplicate, and its number is used again. */
static void
test_fd_reused (void)
{
  AioContext *ctx = test_context_new ();
  Watch old = { .ctx = ctx }, new = { .ctx = ctx };
  int first[2], second[2], duplicate;

  g_assert_cmpint (pipe (first), ==, 0);
  old.fd = first[0];
  aio_set_fd_handler (ctx, first[0], watch_read, NULL, &old);
  duplicate = dup (first[0]);
  close (first[0]);
  aio_set_fd_handler (ctx, first[0], NULL, NULL, NULL);
  g_assert_cmpint (write (first[1], "x", 1), ==, 1);
  g_assert_false (aio_poll (ctx, false));

  g_assert_cmpint (pipe (second), ==, 0);
  g_assert_cmpint (second[0], ==, first[0]);
  new.fd = second[0];
  aio_set_fd_handler (ctx, second[0], watch_read, NULL, &new);
  g_assert_false (aio_poll (ctx, false));
  g_assert_cmpint (write (second[1], "x", 1), ==, 1);
  g_assert_true (aio_poll (ctx, true));
  g_assert_cmpint (old.n_read, ==, 0);
  g_assert_cmpint (new.n_read, ==, 1);
  aio_set_fd_handler (ctx, second[0], NULL, NULL, NULL);
  close (duplicate);
  close (first[1]);
  close (second[0]);
  close (second[1]);
  aio_context_unref (ctx);
}

/* --- the current context -------------------------------------------------------------------------------- */

static void coroutine_fn
yield_twice (void *opaque)
{
  coroutine_yield ();
  ++*(int *)opaque;
  coroutine_yield ();
  ++*(int *)opaque;
}

static void
check_current (void *opaque)
{
  g_assert_true (aio_context_get_current () == opaque);
}

static void
test_current (void)
{
  AioContext *a = test_context_new (), *b = test_context_new ();
  Coroutine *co;
  int n = 0;

  g_assert_null (aio_context_get_current ());
  aio_context_push (a);
  g_assert_true (aio_context_get_current () == a);
  aio_context_push (b);
  aio_context_push (b);
  aio_bh_schedule_oneshot (a, check_current, a);
  g_assert_true (aio_poll (a, true));
  g_assert_true (aio_context_get_current () == b);
  aio_context_pop (b);
  aio_context_pop (b);
  g_assert_true (aio_context_get_current () == a);

  co = coroutine_new (yield_twice, &n);
  g_assert_null (coroutine_get_context (co));
  coroutine_enter (co);
  g_assert_true (coroutine_get_context (co) == a);
  /* The thread's own context: woken at once. */
  aio_co_wake (co);
  g_assert_cmpint (n, ==, 1);
  aio_context_pop (a);
  /* Not any more: woken later. */
  aio_co_wake (co);
  g_assert_cmpint (n, ==, 1);
  g_assert_true (aio_poll (a, true));
  g_assert_cmpint (n, ==, 2);
  g_assert_null (aio_context_get_current ());
  aio_context_unref (a);
  aio_context_unref (b);
}

typedef struct
{
  Coroutine *co[2];
  int left;
  int depth, max_depth;
} PingPong;

static void coroutine_fn
ping_pong (void *opaque)
{
  PingPong *game = opaque;
  Coroutine *other = game->co[game->co[0] == coroutine_self ()];

  coroutine_yield ();
  while (game->left > 0)
    {
      game->left--;
      game->depth++;
      game->max_depth = MAX (game->max_depth, game->depth);
      aio_co_wake (other);
      game->depth--;
      coroutine_yield ();
    }
  /* The other one waits for the last ball. */
  if (game->left-- == 0)
    aio_co_wake (other);
}

/* Coroutines that wake each other take turns, they do not pile up. */
static void
test_wake_flat (void)
{
  AioContext *ctx = test_context_new ();
  PingPong game = { .left = 10000 };

  game.co[0] = coroutine_new (ping_pong, &game);
  game.co[1] = coroutine_new (ping_pong, &game);
  aio_context_push (ctx);
  coroutine_enter (game.co[0]);
  coroutine_enter (game.co[1]);
  aio_co_wake (game.co[0]);
  while (game.left >= 0)
    aio_poll (ctx, true);
  while (aio_poll (ctx, false))
    ;
  g_assert_cmpint (game.max_depth, ==, 1);
  aio_context_pop (ctx);
  aio_context_unref (ctx);
}

/* --- driven by poll (2) --------------------------------------------------------------------------------- */

static bool
is_readable (AioContext *ctx, int timeout)
{
  struct pollfd fd = { .fd = aio_context_get_fd (ctx), .events = POLLIN };
  int ret;

  do
    ret = poll (&fd, 1, timeout);
  while (ret < 0 && errno == EINTR);
  return ret == 1;
}

static void
test_pollable (void)
{
  AioContext *ctx = test_context_new ();
  int fds[2], n = 0, timeouts = 0;
  Watch watch = { .ctx = ctx };
  AioTimer *timer = aio_timer_new (ctx, increment, &timeouts);
  Step step = { .left = 1000 };

  g_assert_false (is_readable (ctx, 0));
  aio_bh_schedule_oneshot (ctx, increment, &n);
  g_assert_true (is_readable (ctx, 0));
  g_assert_true (aio_poll (ctx, false));
  g_assert_cmpint (n, ==, 1);

  /* A look that finds nothing clears what was left over. */
  while (aio_poll (ctx, false))
    ;
  g_assert_false (is_readable (ctx, 0));

  aio_timer_mod (timer, aio_clock_ns () + MS);
  while (!timeouts)
    {
      g_assert_true (is_readable (ctx, -1));
      aio_poll (ctx, false);
    }

  g_assert_cmpint (pipe (fds), ==, 0);
  watch.fd = fds[0];
  aio_set_fd_handler (ctx, fds[0], watch_read, NULL, &watch);
  g_assert_cmpint (write (fds[1], "x", 1), ==, 1);
  g_assert_true (is_readable (ctx, 0));
  aio_poll (ctx, false);
  g_assert_cmpint (watch.n_read, ==, 1);

  /* More work than one round does is never forgotten. */
  step.bh = aio_bh_new (ctx, repeat_then_delete, &step);
  aio_bh_schedule (step.bh);
  while (step.left > 0)
    {
      g_assert_true (is_readable (ctx, -1));
      aio_poll (ctx, false);
    }

  aio_set_fd_handler (ctx, fds[0], NULL, NULL, NULL);
  close (fds[0]);
  close (fds[1]);
  aio_timer_free (timer);
  aio_context_unref (ctx);
}

/* --- driven by GLib ------------------------------------------------------------------------------------- */

typedef struct
{
  GMainLoop *loop;
  AioContext *ctx;
  GString *log;
  Watch watch;
  int fds[2];
} Glib;

static int
double_it (void *opaque)
{
  return 2 * *(int *)opaque;
}

static void coroutine_fn
glib_coroutine (void *opaque)
{
  Glib *glib = opaque;
  int n = 21;

  g_assert_true (aio_context_get_current () == glib->ctx);
  g_string_append_c (glib->log, 'c');
  co_sleep_ns (MS);
  g_string_append_c (glib->log, 's');
  g_assert_cmpint (aio_co_run_in_thread (double_it, &n), ==, 42);
  g_string_append_c (glib->log, 't');
  g_assert_cmpint (write (glib->fds[1], "x", 1), ==, 1);
  while (!glib->watch.n_read)
    test_give_way ();
  g_string_append_c (glib->log, 'r');
  g_main_loop_quit (glib->loop);
}

static gboolean
enter_from_idle (void *opaque)
{
  Glib *glib = opaque;

  aio_context_push (glib->ctx);
  coroutine_enter (coroutine_new (glib_coroutine, glib));
  aio_context_pop (glib->ctx);
  return G_SOURCE_REMOVE;
}

static void
iterate_inside (void *opaque)
{
  Glib *glib = opaque;
  int n = 0;

  /* Other loops run inside our dispatch. */
  aio_bh_schedule_oneshot (glib->ctx, increment, &n);
  while (!n)
    g_main_context_iteration (g_main_loop_get_context (glib->loop), TRUE);
  g_string_append_c (glib->log, 'n');
}

static void
test_glib (void)
{
  g_autoptr (GMainContext) main_context = g_main_context_new ();
  g_autoptr (GMainLoop) loop = g_main_loop_new (main_context, FALSE);
  g_autoptr (GString) log = g_string_new (NULL);
  g_autoptr (GSource) idle = g_idle_source_new ();
  AioContext *ctx = test_context_new ();
  Glib glib = { .loop = loop, .ctx = ctx, .log = log, .watch.ctx = ctx };
  int fd;

  g_assert_cmpint (pipe (glib.fds), ==, 0);
  glib.watch.fd = glib.fds[0];
  g_source_attach (aio_context_get_source (ctx), main_context);
  aio_set_fd_handler (ctx, glib.fds[0], watch_read, NULL, &glib.watch);
  aio_bh_schedule_oneshot (ctx, iterate_inside, &glib);
  g_source_set_callback (idle, enter_from_idle, &glib, NULL);
  g_source_set_priority (idle, G_PRIORITY_LOW);
  g_source_attach (idle, main_context);
  g_main_loop_run (loop);
  g_assert_cmpstr (log->str, ==, "ncstr");

  aio_set_fd_handler (ctx, glib.fds[0], NULL, NULL, NULL);
  close (glib.fds[0]);
  close (glib.fds[1]);
  g_source_destroy (aio_context_get_source (ctx));
  fd = aio_context_get_fd (ctx);
  aio_context_unref (ctx);
  /* The thread that has done the work may be the last to let go; other tests count descriptors. */
  while (fcntl (fd, F_GETFD) >= 0)
    g_thread_yield ();
}

/* --- lifetime ------------------------------------------------------------------------------------------- */

static void
test_lifetime (void)
{
  AioContext *ctx = test_context_new ();
  g_autoptr (GString) log = g_string_new (NULL);
  GString *borrowed = log;

  g_assert_true (aio_context_ref (ctx) == ctx);
  aio_context_unref (ctx);
  aio_bh_schedule_oneshot (ctx, append, &borrowed);
  aio_poll (ctx, true);
  g_assert_cmpstr (log->str, ==, "x");
  aio_context_unref (ctx);
}

static void
test_no_descriptors (void)
{
  GError *error = NULL;
  struct rlimit old, small;
  int taken[64], n = 0;

  g_assert_cmpint (getrlimit (RLIMIT_NOFILE, &old), ==, 0);
  small = old;
  small.rlim_cur = 64;
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &small), ==, 0);
  while (n < 64 && (taken[n] = dup (0)) >= 0)
    n++;
  /* With none left, and with fewer than it takes. */
  for (int left = 0; left < 3; left++)
    {
      g_assert_null (aio_context_new (&error));
      g_assert_error (error, G_FILE_ERROR, G_FILE_ERROR_MFILE);
      g_clear_error (&error);
      close (taken[--n]);
    }
  while (n > 0)
    close (taken[--n]);
  g_assert_cmpint (setrlimit (RLIMIT_NOFILE, &old), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/context/bh/order", test_bh_order);
  g_test_add_func ("/context/bh/cancel", test_bh_cancel);
  g_test_add_func ("/context/bh/repeat", test_bh_repeat);
  g_test_add_func ("/context/bh/fair", test_bh_fair);
  g_test_add_func ("/context/nested-poll", test_nested_poll);
  g_test_add_func ("/context/timer/order", test_timer_order);
  g_test_add_func ("/context/timer/fifo", test_timer_fifo);
  g_test_add_func ("/context/timer/again", test_timer_again);
  g_test_add_func ("/context/timer/sleep", test_sleep);
  g_test_add_func ("/context/fd/handler", test_fd_handler);
  g_test_add_func ("/context/fd/reused", test_fd_reused);
  g_test_add_func ("/context/current", test_current);
  g_test_add_func ("/context/wake-flat", test_wake_flat);
  g_test_add_func ("/context/pollable", test_pollable);
  g_test_add_func ("/context/glib", test_glib);
  g_test_add_func ("/context/lifetime", test_lifetime);
  g_test_add_func ("/context/no-descriptors", test_no_descriptors);
  return g_test_run ();
}
