/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running a job.
 *
 * A signal handler does no more than set a flag and ask the job to stop; the job stops in a safe place and
 * comes back as cancelled.  The first SIGINT or SIGTERM restores the default action, so that the second ends
 * the process at once (the images are consistent then as well: that is what crash safety means).
 */
#include "progress.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "output.h"
#include "tool.h"

/* Without a terminal, progress is printed when it has moved on this much. */
#define MIN_STEP_PERCENT 1.0

static VhdkitJob *volatile running_job;
static volatile sig_atomic_t stop_signal;
static volatile sig_atomic_t asked_for_progress;

typedef struct
{
  bool show, terminal;
  double last_percent;
  gint64 start_time; /* µs, monotonic */
} Progress;

static void
on_stop (int signal_number)
{
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

static void
print_on_terminal (const Progress *progress, double percent, int64_t done, int64_t total)
{
  double seconds = (double)(g_get_monotonic_time () - progress->start_time) / G_USEC_PER_SEC;
  printf ("    (%.2f/100%%)", percent);
  if (seconds > 0.5 && done > 0)
    {
      double rate = (double)done / seconds;
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
  if (asked_for_progress)
    {
      asked_for_progress = 0;
      fprintf (stderr, "    (%.2f/100%%)\n", percent);
    }
  if (!progress->show)
    return;
  if (progress->terminal)
    print_on_terminal (progress, percent, now.done, now.total);
  else if (percent >= progress->last_percent + MIN_STEP_PERCENT || percent < progress->last_percent)
    printf ("    (%.2f/100%%)\r", percent);
  else
    return;
  progress->last_percent = percent;
  fflush (stdout);
}

static void
catch_signals (struct sigaction *old_int, struct sigaction *old_term, struct sigaction *old_usr1)
{
  struct sigaction stop = { .sa_handler = on_stop, .sa_flags = (int)(SA_RESETHAND | SA_RESTART) };
  struct sigaction ask = { .sa_handler = on_ask, .sa_flags = SA_RESTART };
  sigemptyset (&stop.sa_mask);
  sigemptyset (&ask.sa_mask);
  sigaction (SIGINT, NULL, old_int);
  sigaction (SIGTERM, NULL, old_term);
  /* A shell starts background jobs with SIGINT ignored; that stays. */
  if (old_int->sa_handler != SIG_IGN)
    sigaction (SIGINT, &stop, NULL);
  if (old_term->sa_handler != SIG_IGN)
    sigaction (SIGTERM, &stop, NULL);
  sigaction (SIGUSR1, &ask, old_usr1);
}

int
run_job (VhdkitJob *job, const char *file, bool show, const char *after_interrupt)
{
  Progress progress = { .show = show,
                        .terminal = isatty (STDOUT_FILENO) == 1,
                        .start_time = g_get_monotonic_time () };
  struct sigaction old_int, old_term, old_usr1;
  g_autoptr (GError) error = NULL;

  if (show)
    {
      printf ("    (0.00/100%%)\r");
      fflush (stdout);
    }
  running_job = job;
  catch_signals (&old_int, &old_term, &old_usr1);
  bool ok = vhdkit_job_run (job, update, &progress, &error);
  running_job = NULL;
  sigaction (SIGINT, &old_int, NULL);
  sigaction (SIGTERM, &old_term, NULL);
  sigaction (SIGUSR1, &old_usr1, NULL);

  if (show)
    {
      const char *clear = progress.terminal ? "\033[K" : "";
      printf (ok ? "    (100.00/100%%)%s\r\n" : "%s\n", clear);
      fflush (stdout);
    }
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
