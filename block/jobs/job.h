/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs inside: the state machine every long operation runs in, and what its coroutines call in their loops.
 *
 * Who may include this: jobs and the public API.  A kind of job is a const JobDriver; its instance begins
 * with a Job.  Everything happens in the thread that drives the job's context, except what is marked [any
 * thread].
 *
 * A job's loop, in each of its coroutines:
 *
 *     while (more work)
 *       {
 *         ret = job_co_pause_point (job);          cancelled?  paused?  let others run
 *         ret = job_co_throttle (job, bytes);      rate limit
 *         … the work, which is never given up half-way …
 *         job_progress_add (job, bytes);
 *       }
 */
#ifndef JOBS_JOB_H
#define JOBS_JOB_H

#include <vhdkit/error.h>

#include <coaio/coaio.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

typedef struct Job Job;

typedef struct
{
  size_t instance_size; /* a struct that begins with a Job */
  const char *verb;     /* "commit", for messages */
  /* The whole job.  Sets @error if and only if it returns false; leaves consistent images in any case. */
  bool coroutine_fn (*co_run) (Job *job, GError **error);
  /* Frees what the instance owns besides itself, or NULL. */
  void (*free) (Job *job);
} JobDriver;

typedef enum
{
  JOB_CREATED,
  JOB_RUNNING,
  JOB_PAUSED,
  JOB_CONCLUDED,
} JobState;

typedef void JobCallback (Job *job, void *opaque);

struct Job
{
  const JobDriver *driver;
  AioContext *context;

  /* Requests: set from anywhere, also from signal handlers; kick_fd makes the loop look. */
  int cancel_requested, pause_requested;
  int kick_fd;

  int state;           /* JobState; read from anywhere */
  int64_t done, total; /* bytes of work */

  int active;        /* coroutines that work: the main one, or its workers while it waits for them */
  int parked;        /* of them, those that wait at a pause point */
  CoQueue sleepers;  /* parked and throttled coroutines; each looks again whenever woken */
  AioTimer *timer;   /* for throttled ones */
  int64_t deadline;  /* of the timer, ns; 0: not armed */
  int64_t rate;      /* bytes per second, 0: no limit */
  int64_t rate_free; /* when the work admitted so far would be done at that rate, ns */
  int64_t last_loop; /* when a coroutine of the job last let the loop run, ns */
  bool loop_wanted;  /* one waits for the loop to have run */

  bool coroutine_fn (*co_prepare) (void *opaque, GError **error);
  void *prepare_opaque;

  GError *error; /* of a concluded job, NULL: success */
  JobCallback *concluded;
  void *concluded_opaque;
};

/* An instance of @driver, zeroed behind the Job.  NULL with @error when descriptors run out. */
Job *job_new (const JobDriver *driver, AioContext *context, GError **error);
/* Created or concluded jobs only. */
void job_free (Job *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Job, job_free)

/* What the job's coroutine does before anything else; false with @error: and nothing else. */
void job_set_prepare (Job *job, bool coroutine_fn (*co_prepare) (void *opaque, GError **error), void *opaque);
/* @concluded is called once from the loop, in the state JOB_CONCLUDED; it may free the job. */
void job_start (Job *job, JobCallback *concluded, void *opaque);

/* [any thread, and signal handlers] */
void job_cancel (Job *job);
void job_pause (Job *job);
void job_resume (Job *job);
void job_set_rate_limit (Job *job, int64_t bytes_per_second);

JobState job_get_state (const Job *job); /* [any thread] */
void job_get_progress (const Job *job, int64_t *done, int64_t *total);

/* --- for the coroutines of a job ----------------------------------------------------------------------- */

/* A safe place to stop: 0, or -ECANCELED.  Stays here while the job is paused.  Lets the loop run now and
 * then even when nothing else makes the coroutine yield. */
int coroutine_fn job_co_pause_point (Job *job);
/* Waits until @bytes more fit the rate limit: 0, or -ECANCELED. */
int coroutine_fn job_co_throttle (Job *job, int64_t bytes);
bool job_is_cancelled (const Job *job);
/* Error CANCELLED with the job's verb. */
void job_set_cancelled (const Job *job, GError **error);

/* Runs @n coroutines that all call @entry (@opaque), each looking at the pause point itself, and comes back
 * when all have ended.  The caller does not count as working meanwhile: a job is paused when all coroutines
 * that work are parked. */
void coroutine_fn job_co_run_workers (Job *job, unsigned n, CoroutineEntry *entry, void *opaque);

void job_progress_add (Job *job, int64_t bytes);
void job_progress_add_total (Job *job, int64_t bytes);
/* All that was planned is done or was not needed. */
void job_progress_finish (Job *job);

G_END_DECLS

#endif
