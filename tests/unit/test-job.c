/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state machine of jobs: pause, cancel from anywhere, rate limit, workers, progress. */
#include "job.h"

#include <errno.h>
#include <signal.h>
#include <sys/time.h>

/* A job whose workers do small pieces of nothing. */
typedef struct
{
  Job job;
  int workers;
  int pieces;    /* still to do; -1: no end */
  int64_t piece; /* bytes */
  int64_t sleep_ns;
  int done;
  int ret;
  bool fail;
} TestJob;

static void coroutine_fn
test_worker (void *opaque)
{
  TestJob *test = opaque;

  while (test->ret == 0 && test->pieces != 0)
    {
      int ret = job_co_pause_point (&test->job);

      if (ret == 0)
        ret = job_co_throttle (&test->job, test->piece);
      if (ret < 0)
        {
          test->ret = ret;
          break;
        }
      if (test->pieces == 0)
        break;
      if (test->pieces > 0)
        test->pieces--;
      if (test->sleep_ns > 0)
        co_sleep_ns (test->sleep_ns);
      test->done++;
      job_progress_add (&test->job, test->piece);
    }
}

static bool coroutine_fn
test_co_run (Job *job, GError **error)
{
  TestJob *test = (TestJob *)job;

  if (test->fail)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "as told");
      return false;
    }
  if (test->workers > 0)
    job_co_run_workers (job, (unsigned)test->workers, test_worker, test);
  else
    test_worker (test);
  if (test->ret < 0)
    job_set_cancelled (job, error);
  return test->ret == 0;
}

static const JobDriver test_driver = { .instance_size = sizeof (TestJob),
                                       .verb = "test",
                                       .co_run = test_co_run };

typedef struct
{
  AioContext *context;
  TestJob *test;
  Job *job;
  int concluded;
} Fixture;

static void
fixture_init (Fixture *f, int workers, int pieces, int64_t sleep_ns)
{
  *f = (Fixture){ .context = aio_context_new (NULL) };
  f->job = job_new (&test_driver, f->context, NULL);
  g_assert_nonnull (f->job);
  f->test = (TestJob *)f->job;
  f->test->workers = workers;
  f->test->pieces = pieces;
  f->test->piece = 1000;
  f->test->sleep_ns = sleep_ns;
}

static void
fixture_clear (Fixture *f)
{
  job_free (f->job);
  aio_context_unref (f->context);
}

static void
on_concluded (Job *job, void *opaque)
{
  Fixture *f = opaque;

  g_assert_cmpint (job_get_state (job), ==, JOB_CONCLUDED);
  g_assert_false (in_coroutine ());
  f->concluded++;
}

static void
run_to_end (Fixture *f)
{
  while (job_get_state (f->job) != JOB_CONCLUDED)
    aio_poll (f->context, true);
}

static void
poll_for (Fixture *f, int64_t ns)
{
  int64_t end = aio_clock_ns () + ns;

  while (aio_clock_ns () < end)
    {
      if (!aio_poll (f->context, false))
        g_usleep (200);
    }
}

static void
test_success (gconstpointer data)
{
  Fixture f;
  int64_t done, total;

  fixture_init (&f, GPOINTER_TO_INT (data), 100, 10000);
  g_assert_cmpint (job_get_state (f.job), ==, JOB_CREATED);
  job_start (f.job, on_concluded, &f);
  g_assert_cmpint (job_get_state (f.job), ==, JOB_RUNNING);
  g_assert_cmpint (f.test->done, ==, 0);
  run_to_end (&f);
  g_assert_cmpint (f.concluded, ==, 1);
  g_assert_null (f.job->error);
  g_assert_cmpint (f.test->done, ==, 100);
  job_get_progress (f.job, &done, &total);
  g_assert_cmpint (done, ==, 100000);
  g_assert_cmpint (total, ==, 100000);
  fixture_clear (&f);
}

static void
test_failure (void)
{
  Fixture f;

  fixture_init (&f, 0, 0, 0);
  f.test->fail = true;
  job_start (f.job, on_concluded, &f);
  run_to_end (&f);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_IO);
  fixture_clear (&f);
}

static void
test_cancel_before_start (void)
{
  Fixture f;

  fixture_init (&f, 2, 100, 0);
  job_cancel (f.job);
  job_start (f.job, on_concluded, &f);
  run_to_end (&f);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  g_assert_cmpint (f.test->done, ==, 0);
  fixture_clear (&f);
}

static void
test_free_unstarted (void)
{
  Fixture f;

  fixture_init (&f, 2, 100, 0);
  fixture_clear (&f);
}

static void
test_pause_resume (gconstpointer data)
{
  Fixture f;

  fixture_init (&f, GPOINTER_TO_INT (data), -1, 100000);
  job_start (f.job, on_concluded, &f);
  poll_for (&f, 5000000);
  for (int i = 0; i < 3; i++)
    {
      job_pause (f.job);
      while (job_get_state (f.job) != JOB_PAUSED)
        aio_poll (f.context, true);
      int done = f.test->done;
      poll_for (&f, 5000000);
      g_assert_cmpint (f.test->done, ==, done);
      job_resume (f.job);
      while (f.test->done == done)
        aio_poll (f.context, true);
      g_assert_cmpint (job_get_state (f.job), ==, JOB_RUNNING);
    }
  /* Cancelled while paused. */
  job_pause (f.job);
  while (job_get_state (f.job) != JOB_PAUSED)
    aio_poll (f.context, true);
  job_cancel (f.job);
  run_to_end (&f);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  fixture_clear (&f);
}

static Job *signalled_job;

static void
on_alarm (int number)
{
  job_cancel (signalled_job);
}

static void
arm_alarm (void)
{
  struct itimerval timer = { .it_value = { .tv_usec = 20000 } };
  struct sigaction action = { .sa_handler = on_alarm };

  g_assert_cmpint (sigaction (SIGALRM, &action, NULL), ==, 0);
  g_assert_cmpint (setitimer (ITIMER_REAL, &timer, NULL), ==, 0);
}

/* The loop sleeps, nothing else would wake it. */
static void
test_cancel_by_signal_in_throttle (void)
{
  Fixture f;
  int64_t begin = aio_clock_ns ();

  fixture_init (&f, 4, -1, 0);
  job_set_rate_limit (f.job, 10);
  signalled_job = f.job;
  job_start (f.job, on_concluded, &f);
  arm_alarm ();
  run_to_end (&f);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  g_assert_cmpint (aio_clock_ns () - begin, <, 10 * 1000000000LL);
  fixture_clear (&f);
}

/* Work that never yields: the loop gets its turns (else there is no alarm, and no end), and the flag is seen. */
static void
count_turn (void *opaque)
{
  (*(int *)opaque)++;
  arm_alarm ();
}

static void
test_cancel_by_signal_in_busy_work (void)
{
  Fixture f;
  int turns = 0;

  fixture_init (&f, 4, -1, 0);
  signalled_job = f.job;
  AioTimer *timer = aio_timer_new (f.context, count_turn, &turns);
  aio_timer_mod (timer, aio_clock_ns () + 1000000);
  job_start (f.job, on_concluded, &f);
  run_to_end (&f);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  g_assert_cmpint (turns, ==, 1);
  aio_timer_free (timer);
  fixture_clear (&f);
}

static gpointer
cancel_thread (gpointer data)
{
  g_usleep (20000);
  job_cancel (data);
  return NULL;
}

static void
test_cancel_by_thread (void)
{
  Fixture f;

  fixture_init (&f, 2, -1, 1000000);
  job_pause (f.job);
  job_start (f.job, on_concluded, &f);
  GThread *thread = g_thread_new ("cancel", cancel_thread, f.job);
  run_to_end (&f);
  g_thread_join (thread);
  g_assert_error (f.job->error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  g_assert_cmpint (f.test->done, ==, 0);
  fixture_clear (&f);
}

static void
test_rate_limit (void)
{
  Fixture f;
  int64_t begin = aio_clock_ns ();

  /* 400 pieces of 1000 bytes at 1 MB/s: 0.4 s less one slice. */
  fixture_init (&f, 4, 400, 0);
  job_set_rate_limit (f.job, 1000000);
  job_start (f.job, on_concluded, &f);
  run_to_end (&f);
  g_assert_null (f.job->error);
  g_assert_cmpint (aio_clock_ns () - begin, >=, 250 * 1000000LL);
  fixture_clear (&f);

  /* Lifting the limit wakes those who sleep. */
  fixture_init (&f, 4, 400, 0);
  job_set_rate_limit (f.job, 1);
  job_start (f.job, on_concluded, &f);
  poll_for (&f, 5000000);
  g_assert_cmpint (f.test->done, <, 400);
  job_set_rate_limit (f.job, 0);
  run_to_end (&f);
  g_assert_cmpint (f.test->done, ==, 400);
  fixture_clear (&f);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/job/success/alone", GINT_TO_POINTER (0), test_success);
  g_test_add_data_func ("/job/success/workers", GINT_TO_POINTER (7), test_success);
  g_test_add_func ("/job/failure", test_failure);
  g_test_add_func ("/job/cancel-before-start", test_cancel_before_start);
  g_test_add_func ("/job/free-unstarted", test_free_unstarted);
  g_test_add_data_func ("/job/pause-resume/alone", GINT_TO_POINTER (0), test_pause_resume);
  g_test_add_data_func ("/job/pause-resume/workers", GINT_TO_POINTER (5), test_pause_resume);
  g_test_add_func ("/job/cancel-by-signal/throttle", test_cancel_by_signal_in_throttle);
  g_test_add_func ("/job/cancel-by-signal/busy", test_cancel_by_signal_in_busy_work);
  g_test_add_func ("/job/cancel-by-thread", test_cancel_by_thread);
  g_test_add_func ("/job/rate-limit", test_rate_limit);
  return g_test_run ();
}
