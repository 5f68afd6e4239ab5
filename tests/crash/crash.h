/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a recorded run to the files a crash may leave.
 *
 * A trace is what some files held before, and the log that the filter blklogwrites wrote while they were
 * used.  A cut is a number of records of the log: the crash comes before record @cut.  The model:
 *
 *  - A change (write, zeroes, discard, truncate) whose DONE comes before the start of a flush of the same
 *    file that was completed before the cut is durable.
 *  - Of all others that started before the cut any subset has happened, each sector of 512 bytes by itself;
 *    of what a write leaves behind the old end of the file, sectors before a kept one read as zeros.
 *  - A truncate has happened or not.  A discard that has not happened reads as before.
 *
 * Several files share one log and one order; a flush speaks for its own file only.
 */
#ifndef CRASH_CRASH_H
#define CRASH_CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

/* Which of the changes that may be lost are kept. */
typedef enum
{
  CRASH_KEEP_NONE,
  CRASH_KEEP_ALL,
  CRASH_DROP_ONE,
  CRASH_KEEP_ONE,
  CRASH_KEEP_SMALL, /* those of up to 4 KiB: metadata, mostly */
  CRASH_KEEP_LARGE,
  CRASH_KEEP_FIRST, /* those before a random one */
  CRASH_KEEP_LAST,  /* those from a random one on */
  CRASH_KEEP_SOME,  /* each or not */
  CRASH_TEAR,       /* each sector or not */
  CRASH_STRATEGIES,
} CrashStrategy;

const char *crash_strategy_name (CrashStrategy strategy);

typedef struct CrashTrace CrashTrace;

/* Notes what the files at @paths (NULL-terminated) hold now; recording to a log at @log_path begins after
 * this.  Only these files may appear in the log. */
CrashTrace *crash_trace_new (const char *log_path, const char *const *paths);
void crash_trace_free (CrashTrace *trace);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (CrashTrace, crash_trace_free)

/* The bytes the log has now: where in the order of things the run is. */
int64_t crash_trace_now (const CrashTrace *trace);
/* Recording is over: reads the log.  Ends the test if the log is not sound. */
void crash_trace_load (CrashTrace *trace);
/* NULL, or two changes that were in flight at once and have a byte in common: which of them wins is chance. */
char *crash_trace_find_race (const CrashTrace *trace);

size_t crash_trace_records (const CrashTrace *trace);
size_t crash_trace_flushes (const CrashTrace *trace);
/* Of flush @k: "flush 3 of child.vhd, records 17 to 22". */
char *crash_trace_describe_flush (const CrashTrace *trace, size_t k);
/* The cuts [*first, *end] at which it matters that flush @k happened: from its end to that of the next flush of
 * the file, or of the log. */
void crash_trace_flush_effect (const CrashTrace *trace, size_t k, size_t *first, size_t *end);
/* Judges everything as if flush number @k, from 0, had not happened although it was reported to have;
 * SIZE_MAX: all of them happened. */
void crash_trace_ignore_flush (CrashTrace *trace, size_t k);
/* What crash_trace_now () gave when the crash came before record @cut. */
int64_t crash_trace_position (const CrashTrace *trace, size_t cut);

/* The places to cut at: before, inside and after each flush, at the end, and @n_random others; sorted, of
 * size_t.  @limit: at most so many, spread evenly; 0: all. */
GArray *crash_trace_cuts (const CrashTrace *trace, GRand *rand, size_t n_random, size_t limit);
/* How many changes may be lost at @cut. */
size_t crash_trace_pending (CrashTrace *trace, size_t cut);

/* Decides what is lost at @cut, and writes the files.  Fastest when cuts come in growing order.  @special: the
 * "one" of the strategies, a number below crash_trace_pending (); SIZE_MAX: a random one. */
void crash_trace_make (CrashTrace *trace, size_t cut, CrashStrategy strategy, size_t special, GRand *rand);
/* Which changes were lost in the last crash made; borrowed. */
const char *crash_trace_story (const CrashTrace *trace);
/* NULL, or which file does not hold what the last crash left in it.  @touched: also look at the files that the run
 * changed. */
char *crash_trace_changed_file (const CrashTrace *trace, bool touched);
/* The last crash's files again. */
void crash_trace_rewrite (CrashTrace *trace);
/* The files as they were before the run. */
void crash_trace_restore (CrashTrace *trace);
/* Whether the file at @path was changed in the run. */
bool crash_trace_touches (const CrashTrace *trace, const char *path);

G_END_DECLS

#endif
