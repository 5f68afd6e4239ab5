/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signals and running a job.
 *
 *   at start        a stop signal ends the program: nothing is open for writing
 *   deferred        it is remembered, and stops a job that starts later at once
 *   a job runs      the job is asked to stop; it does so in a safe place and comes back as cancelled
 *
 * A handler does no more than set flags, ask a job, or write a line and exit.  The first SIGINT or SIGTERM
 * restores the default action, so that the second ends the process at once (the images are consistent then as
 * well: that is what crash safety means).
 */
#include "progress.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "output.h"
#include "tool.h"

/* Without a terminal, progress is printed when it has moved on this much. */
#define MIN_STEP_PERCENT 1.0

static VhdkitJob *volatile running_job;
static volatile sig_atomic_t deferred;
static volatile sig_atomic_t stop_signal;
static volatile sig_atomic_t asked_for_progress;
/* The last line for programs.  What says that all is well is kept until the images are closed, which may fail as well. */
static struct
{
  bool printed;
  char *held; /* or NULL */
  int64_t done, total;
} last_line;

typedef struct
{
  ProgressStyle show;
  bool terminal;
  double last_percent;
  gint64 start_time; /* µs, monotonic: when the first work was still to be done */
} Progress;

static void
exit_at_once (int signal_number)
{
  static const char text[] = ": stopped by a signal\n";
  bool told = write (STDERR_FILENO, program_name, strlen (program_name)) > 0
              && write (STDERR_FILENO, text, sizeof text - 1) > 0;
  (void)told;
  _exit (128 + signal_number);
}

static void
on_stop (int signal_number)
{
  if (!deferred)
    exit_at_once (signal_number);
  stop_signal = signal_number;
  VhdkitJob *job = running_job;
  if (job != NULL)
    vhdkit_job_cancel (job);
}

static void
on_ask (int signal_number)
{
  (void)signal_number;
  asked_for_progress = 1;
}

/* Bytes a second so far, 0: not known. */
static double
get_rate (const Progress *progress, int64_t done)
{
  double seconds = (double)(g_get_monotonic_time () - progress->start_time) / G_USEC_PER_SEC;
  return done > 0 && seconds > 0 ? (double)done / seconds : 0;
}

/* Begins the line of a job. */
static void
begin_line (JsonWriter *json, VhdkitJobState state, int64_t done, int64_t total, double rate)
{
  static const char *const states[] = {
    [VHDKIT_JOB_CREATED] = "created",
    [VHDKIT_JOB_RUNNING] = "running",
    [VHDKIT_JOB_PAUSED] = "paused",
    [VHDKIT_JOB_CONCLUDED] = "concluded",
  };
  json_begin (json, NULL, '{');
  json_string (json, "state", states[state]);
  json_int (json, "done", done);
  json_int (json, "total", total);
  json_int (json, "rate", (int64_t)rate);
  if (rate <= 0 || state != VHDKIT_JOB_RUNNING)
    json_null (json, "seconds-left");
  else
    json_seconds (json, "seconds-left", (double)(total - done) / rate);
}

static void
end_line (JsonWriter *json)
{
  json_end (json, '}');
  json_finish (json);
  fflush (stdout);
}

static void
print_json (VhdkitJob *job, const Progress *progress)
{
  VhdkitJobProgress now;
  vhdkit_job_get_progress (job, &now);
  JsonWriter json = { .one_line = true };
  begin_line (&json, now.state, now.done, now.total, get_rate (progress, now.done));
  end_line (&json);
}

/* Begins the last line, which programs wait for. */
static void
begin_last_line (JsonWriter *json, int64_t done, int64_t total, double rate, const char *status)
{
  begin_line (json, VHDKIT_JOB_CONCLUDED, done, total, rate);
  json_string (json, "status", status);
}

static void
hold_good_end (int64_t done, int64_t total, double rate, const ProgressEnd *end)
{
  JsonWriter json = { .one_line = true };
  json_hold ();
  begin_last_line (&json, done, total, rate, "ok");
  if (end != NULL)
    end->add (&json, end->opaque);
  end_line (&json);
  g_free (last_line.held);
  last_line.held = json_release ();
  last_line.done = done;
  last_line.total = total;
}

/* @error: of a job that failed, or NULL; @end: of one that did not, or NULL. */
static void
print_json_end (VhdkitJob *job, const Progress *progress, const GError *error, const ProgressEnd *end)
{
  bool cancelled = error != NULL && g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  VhdkitJobProgress now;
  vhdkit_job_get_progress (job, &now);
  if (error == NULL)
    {
      hold_good_end (now.done, now.total, get_rate (progress, now.done), end);
      return;
    }
  JsonWriter json = { .one_line = true };
  const char *source, *target;
  vhdkit_job_get_files (job, &source, &target);
  begin_last_line (&json, now.done, now.total, get_rate (progress, now.done),
                   cancelled ? "cancelled" : "failed");
  json_string (&json, "error", error->message);
  if (source != NULL)
    json_string (&json, "source", source);
  if (target != NULL)
    json_string (&json, "target", target);
  end_line (&json);
  last_line.printed = true;
}

void
progress_print_end (const ProgressEnd *end)
{
  hold_good_end (0, 0, 0, end);
}

void
progress_print_last_line (bool failed, const char *error)
{
  JsonWriter json = { .one_line = true };
  if (last_line.held == NULL && error == NULL)
    error = "failed";
  if (last_line.printed || (last_line.held == NULL && !failed))
    return;
  if (!failed || error == NULL)
    printf ("%s", last_line.held);
  else
    {
      begin_last_line (&json, last_line.done, last_line.total, 0, "failed");
      json_string (&json, "error", error);
      end_line (&json);
    }
  last_line.printed = true;
  g_clear_pointer (&last_line.held, g_free);
}

static void
print_on_terminal (const Progress *progress, double percent, int64_t done, int64_t total)
{
  double seconds = (double)(g_get_monotonic_time () - progress->start_time) / G_USEC_PER_SEC;
  printf ("    (%.2f/100%%)", percent);
  double rate = get_rate (progress, done);
  if (seconds > 0.5 && rate > 0)
    {
      g_autofree char *rate_text = format_size ((int64_t)rate);
      int64_t left = (int64_t)((double)(total - done) / rate);
      printf ("  %s/s", rate_text);
      if (left < 100 * 3600)
        printf ("  %" PRId64 ":%02d:%02d left", left / 3600, (int)(left / 60 % 60), (int)(left % 60));
    }
  printf ("\033[K\r");
}

static void
update (VhdkitJob *job, void *opaque)
{
  Progress *progress = opaque;
  VhdkitJobProgress now;
  vhdkit_job_get_progress (job, &now);
  double percent = now.total > 0 ? (double)now.done * 100 / (double)now.total : 0;
  /* A job may find more to do on its way; what is shown only waits then. */
  percent = MAX (percent, progress->last_percent);
  if (asked_for_progress)
    {
      asked_for_progress = 0;
      fprintf (stderr, "    (%.2f/100%%)\n", percent);
    }
  /* Looking what is to be done is no part of the rate. */
  if (now.done == 0)
    progress->start_time = g_get_monotonic_time ();
  if (progress->show == PROGRESS_JSON && now.state != VHDKIT_JOB_CONCLUDED)
    print_json (job, progress);
  /* The end is shown once, by run_job (). */
  if (progress->show != PROGRESS_HUMAN || percent >= 100)
    return;
  if (progress->terminal)
    print_on_terminal (progress, percent, now.done, now.total);
  else if (percent >= progress->last_percent + MIN_STEP_PERCENT)
    printf ("    (%.2f/100%%)\r", percent);
  else
    return;
  progress->last_percent = percent;
  fflush (stdout);
}

static void
catch_signal (int signal_number, void (*handler) (int), int flags)
{
  struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
  struct sigaction old;
  sigemptyset (&action.sa_mask);
  /* A shell starts background jobs with SIGINT ignored; that stays. */
  if (sigaction (signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
    sigaction (signal_number, &action, NULL);
}

void
signals_init (void)
{
  catch_signal (SIGINT, on_stop, (int)(SA_RESETHAND | SA_RESTART));
  catch_signal (SIGTERM, on_stop, (int)(SA_RESETHAND | SA_RESTART));
  catch_signal (SIGHUP, on_stop, (int)(SA_RESETHAND | SA_RESTART));
  catch_signal (SIGUSR1, on_ask, SA_RESTART);
  catch_signal (SIGXFSZ, SIG_IGN, 0);
}

void
signals_defer (void)
{
  deferred = 1;
}

/* The end, after the last line of progress. */
static void
show_end (VhdkitJob *job, const Progress *progress, const GError *error, const ProgressEnd *end)
{
  if (progress->show == PROGRESS_JSON)
    print_json_end (job, progress, error, end);
  else if (progress->show == PROGRESS_HUMAN)
    {
      const char *clear = progress->terminal ? "\033[K" : "";
      printf (error == NULL ? "    (100.00/100%%)%s\r\n" : "%s\n", clear);
      fflush (stdout);
    }
}

int
run_job (VhdkitJob *job, const char *file, ProgressStyle show, const char *after_interrupt)
{
  return run_job_with_end (job, file, show, after_interrupt, NULL);
}

int
run_job_with_end (VhdkitJob *job, const char *file, ProgressStyle show, const char *after_interrupt,
                  const ProgressEnd *end)
{
  Progress progress = { .show = show,
                        .terminal = isatty (STDOUT_FILENO) == 1,
                        .start_time = g_get_monotonic_time () };
  g_autoptr (GError) error = NULL;

  if (show == PROGRESS_HUMAN)
    {
      printf ("    (0.00/100%%)\r");
      fflush (stdout);
    }
  signals_defer ();
  running_job = job;
  if (stop_signal != 0)
    vhdkit_job_cancel (job);
  bool ok = vhdkit_job_run (job, update, &progress, &error);
  running_job = NULL;
  if (asked_for_progress)
    update (job, &progress);

  show_end (job, &progress, error, end);
  if (ok)
    return EXIT_SUCCESS;
  if (stop_signal != 0 && g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED))
    {
      report (file, "stopped by signal %d: %s", (int)stop_signal, after_interrupt);
      return 128 + stop_signal;
    }
  report_error (file, error);
  return EXIT_FAILURE;
}
