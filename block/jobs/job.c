/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a job.
 *
 *              job_start            the last active coroutine parks
 *     CREATED -----------> RUNNING --------------------------------> PAUSED
 *                          |  ^                                       |
 *      co_run has returned |  '---------------------------------------'
 *          (from the loop) v          job_resume or job_cancel, seen
 *                      CONCLUDED
 *
 * Requests are flags.  Whoever sets one writes to an eventfd as well, which a signal handler may do; the loop
 * then wakes the coroutines that sleep in a pause or in the rate limit, and each looks at the flags itself.
 * A coroutine that works looks at its next pause point.
 *
 * Invariants
 *  1. A coroutine is only ever stopped at a pause point or in job_co_throttle (), where it holds no lock and
 *     has no request in flight.
 *  2. The state changes in the context's thread only, along the edges of the table below.
 *  3. done <= total.
 */
#include "job.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Work that may run ahead of the rate limit. */
#define RATE_SLICE_NS (100 * 1000 * 1000)
/* How long a job keeps the loop waiting when its requests never yield. */
#define LOOP_INTERVAL_NS (10 * 1000 * 1000)

static const bool edges[4][4] = {
  [JOB_CREATED][JOB_RUNNING] = true,
  [JOB_RUNNING][JOB_PAUSED] = true,
  [JOB_PAUSED][JOB_RUNNING] = true,
  [JOB_RUNNING][JOB_CONCLUDED] = true,
};

static void
job_set_state (Job *job, JobState state)
{
  g_assert (edges[job->state][state]);
  __atomic_store_n (&job->state, (int)state, __ATOMIC_RELEASE);
}

JobState
job_get_state (const Job *job)
{
  return (JobState)__atomic_load_n (&job->state, __ATOMIC_ACQUIRE);
}

static bool
flag_get (const int *flag)
{
  return __atomic_load_n (flag, __ATOMIC_ACQUIRE);
}

/* --- requests ------------------------------------------------------------------------------------------ */

/* Async-signal-safe. */
static void
job_request (Job *job, int *flag, int value)
{
  int saved_errno = errno;
  uint64_t one = 1;

  __atomic_store_n (flag, value, __ATOMIC_RELEASE);
  /* Full (EAGAIN) is as good as written. */
  ssize_t written = write (job->kick_fd, &one, sizeof one);
  (void)written;
  errno = saved_errno;
}

void
job_cancel (Job *job)
{
  job_request (job, &job->cancel_requested, 1);
}

void
job_pause (Job *job)
{
  job_request (job, &job->pause_requested, 1);
}

void
job_resume (Job *job)
{
  job_request (job, &job->pause_requested, 0);
}

bool
job_is_cancelled (const Job *job)
{
  return flag_get (&job->cancel_requested);
}

void
job_set_cancelled (const Job *job, GError **error)
{
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED, "%s was cancelled", job->driver->verb);
}

static void
job_kicked (void *opaque)
{
  Job *job = opaque;
  uint64_t count;
  ssize_t got = read (job->kick_fd, &count, sizeof count);

  (void)got;
  co_queue_restart_all (&job->sleepers);
}

static void
job_timer_fired (void *opaque)
{
  Job *job = opaque;

  job->deadline = 0;
  co_queue_restart_all (&job->sleepers);
}

void
job_set_rate_limit (Job *job, int64_t bytes_per_second)
{
  job->rate = MAX (bytes_per_second, 0);
  job->rate_free = 0;
  co_queue_restart_all (&job->sleepers);
}

/* --- life ---------------------------------------------------------------------------------------------- */

Job *
job_new (const JobDriver *driver, AioContext *context, GError **error)
{
  int kick_fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);

  if (kick_fd < 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_FAILED, "%s: event descriptor: %s", driver->verb,
                   g_strerror (errno));
      return NULL;
    }

  Job *job = g_malloc0 (driver->instance_size);
  job->driver = driver;
  job->context = aio_context_ref (context);
  job->kick_fd = kick_fd;
  job->timer = aio_timer_new (context, job_timer_fired, job);
  co_queue_init (&job->sleepers);
  return job;
}

void
job_free (Job *job)
{
  if (job == NULL)
    return;
  g_assert (job->state == JOB_CREATED || job->state == JOB_CONCLUDED);
  if (job->driver->free != NULL)
    job->driver->free (job);
  co_queue_clear (&job->sleepers);
  aio_timer_free (job->timer);
  close (job->kick_fd);
  aio_context_unref (job->context);
  g_clear_error (&job->error);
  g_free (job);
}

/* Not in the coroutine itself: a callback of the host must find the coroutine gone. */
static void
job_conclude (void *opaque)
{
  Job *job = opaque;

  aio_set_fd_handler (job->context, job->kick_fd, NULL, NULL, NULL);
  aio_timer_del (job->timer);
  job_set_state (job, JOB_CONCLUDED);
  if (job->concluded != NULL)
    job->concluded (job, job->concluded_opaque);
}

static void coroutine_fn
job_entry (void *opaque)
{
  Job *job = opaque;
  bool ok = false;

  job->last_loop = aio_clock_ns ();
  if (job_co_pause_point (job) < 0)
    job_set_cancelled (job, &job->error);
  else if (job->co_prepare == NULL || job->co_prepare (job->prepare_opaque, &job->error))
    ok = job->driver->co_run (job, &job->error);
  g_assert (ok == (job->error == NULL));
  if (ok)
    job_progress_finish (job);
  aio_bh_schedule_oneshot (job->context, job_conclude, job);
}

void
job_set_prepare (Job *job, bool coroutine_fn (*co_prepare) (void *opaque, GError **error), void *opaque)
{
  job->co_prepare = co_prepare;
  job->prepare_opaque = opaque;
}

void
job_start (Job *job, JobCallback *concluded, void *opaque)
{
  job->concluded = concluded;
  job->concluded_opaque = opaque;
  job_set_state (job, JOB_RUNNING);
  job->active = 1;
  aio_set_fd_handler (job->context, job->kick_fd, job_kicked, NULL, job);
  aio_co_schedule (job->context, coroutine_new (job_entry, job));
}

/* --- coroutines of a job ------------------------------------------------------------------------------- */

static void
job_update_paused (Job *job)
{
  bool all_parked = job->active > 0 && job->parked == job->active;

  if (all_parked && job->state == JOB_RUNNING)
    job_set_state (job, JOB_PAUSED);
  else if (!all_parked && job->state == JOB_PAUSED)
    job_set_state (job, JOB_RUNNING);
}

typedef struct
{
  Job *job;
  CoroutineEntry *entry;
  void *opaque;
  unsigned running;
  CoQueue finished;
} WorkerPool;

static void coroutine_fn
worker_entry (void *opaque)
{
  WorkerPool *pool = opaque;

  pool->entry (pool->opaque);
  pool->running--;
  pool->job->active--;
  job_update_paused (pool->job);
  if (pool->running == 0)
    co_queue_restart_all (&pool->finished);
}

void coroutine_fn
job_co_run_workers (Job *job, unsigned n, CoroutineEntry *entry, void *opaque)
{
  WorkerPool pool = { .job = job, .entry = entry, .opaque = opaque, .running = n };

  co_queue_init (&pool.finished);
  job->active += (int)n - 1;
  for (unsigned i = 0; i < n; i++)
    coroutine_enter (coroutine_new (worker_entry, &pool));
  while (pool.running > 0)
    co_queue_wait (&pool.finished, NULL);
  job->active++;
  job_update_paused (job);
  co_queue_clear (&pool.finished);
}

int coroutine_fn
job_co_pause_point (Job *job)
{
  /* Once one coroutine of the job has stood back, all do: else each would take its own interval first. */
  if (job->loop_wanted || aio_clock_ns () - job->last_loop > LOOP_INTERVAL_NS)
    {
      job->loop_wanted = true;
      /* Through a timer: what is merely scheduled may run again before the loop looks at anything else. */
      co_sleep_ns (0);
      job->loop_wanted = false;
      job->last_loop = aio_clock_ns ();
    }

  if (flag_get (&job->pause_requested) && !job_is_cancelled (job))
    {
      job->parked++;
      job_update_paused (job);
      while (flag_get (&job->pause_requested) && !job_is_cancelled (job))
        co_queue_wait (&job->sleepers, NULL);
      job->parked--;
      job_update_paused (job);
    }
  return job_is_cancelled (job) ? -ECANCELED : 0;
}

int coroutine_fn
job_co_throttle (Job *job, int64_t bytes)
{
  while (job->rate > 0 && job->rate_free > aio_clock_ns () + RATE_SLICE_NS)
    {
      int64_t deadline = job->rate_free - RATE_SLICE_NS;

      if (job_is_cancelled (job))
        return -ECANCELED;
      if (job->deadline == 0 || deadline < job->deadline)
        {
          job->deadline = deadline;
          aio_timer_mod (job->timer, deadline);
        }
      co_queue_wait (&job->sleepers, NULL);
    }
  if (job->rate > 0)
    {
      int64_t now = aio_clock_ns ();
      /* In doubles: @bytes times a billion may not fit. */
      double cost = (double)bytes * 1e9 / (double)job->rate;

      job->rate_free = MAX (job->rate_free, now) + (int64_t)MIN (cost, 1e15);
    }
  return job_is_cancelled (job) ? -ECANCELED : 0;
}

/* --- progress ------------------------------------------------------------------------------------------ */

void
job_get_progress (const Job *job, int64_t *done, int64_t *total)
{
  *done = job->done;
  *total = job->total;
}

void
job_progress_add (Job *job, int64_t bytes)
{
  job->done += bytes;
  job->total = MAX (job->total, job->done);
}

void
job_progress_add_total (Job *job, int64_t bytes)
{
  job->total += bytes;
}

void
job_progress_finish (Job *job)
{
  job->done = job->total;
}
