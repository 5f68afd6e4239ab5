/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs as a program runs them: progress on standard output, SIGUSR1, SIGINT and SIGTERM. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <vhdkit/vhdkit.h>

#include "options.h"
#include "output.h"

/* Called first thing by a program.  SIGINT and SIGTERM end it with a message and 128 + their number; SIGUSR1 is
 * remembered for the next job; SIGXFSZ becomes the error EFBIG. */
void signals_init (void);
/* From now on SIGINT and SIGTERM stop a job rather than the program: called before an image is opened for
 * writing, so that it is always closed in order. */
void signals_defer (void);

/* The progress to show, and whether the rest of the output goes, where -q was (@quiet) or was not given: lines for
 * programs stand alone. */
static inline ProgressStyle
progress_shown (ProgressStyle style, bool quiet)
{
  return style == PROGRESS_HUMAN && quiet ? PROGRESS_NONE : style;
}
static inline bool
progress_silences (ProgressStyle style, bool quiet)
{
  return quiet || style == PROGRESS_JSON;
}

/* Runs @job to its end.  @show: progress on standard output.  @after_interrupt: what to tell a user who
 * stopped it, one phrase.  Returns 0, or an exit status after a message that names @file: EXIT_FAILURE, or
 * 128 + the number of the signal that stopped the job. */
int run_job (VhdkitJob *job, const char *file, ProgressStyle show, const char *after_interrupt);

/* What a job that ended well has done besides, for the last line for programs. */
typedef struct
{
  void (*add) (JsonWriter *json, void *opaque);
  void *opaque;
} ProgressEnd;

/* The same; @end may be NULL. */
int run_job_with_end (VhdkitJob *job, const char *file, ProgressStyle show, const char *after_interrupt,
                      const ProgressEnd *end);
/* The last line for programs where there was nothing left for a job to do.  @end: may be NULL. */
void progress_print_end (const ProgressEnd *end);
/* The command is over: prints the last line, unless that of a job that failed was printed.  @error: why the command failed,
 * or NULL: that is not known, or a job went well, and the status is no failure but an answer. */
void progress_print_last_line (bool failed, const char *error);

#endif
