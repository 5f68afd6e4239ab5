/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "crash.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../block/drivers/test/blklogwrites.h"
#include "content.h"

#define SECTOR      512
#define SMALL_BYTES 4096

typedef struct
{
  char *path;
  bool touched;     /* the log changes it */
  Content *initial; /* before the run */
  Content *durable; /* with the changes before trace->settled */
  Content *crashed; /* of the last crash */
} CrashFile;

struct CrashTrace
{
  char *log_path;
  GPtrArray *files; /* of CrashFile */
  BlkLog *log;
  int64_t *positions; /* where each record starts in the log, and its end */
  size_t *durable_at; /* per record: the DONE of the flush that covers it, or BLKLOG_NEVER */
  GArray *changes;    /* of size_t: records that are one */
  GArray *flushes;    /* of size_t: records that are one, and were completed */
  CrashFile **by_id;
  guint ids;
  size_t settled;       /* all changes before this one are in ->durable … */
  size_t settled_until; /* … and are durable if the cut is behind this record */
  size_t ignored;
  GString *story;
};

const char *
crash_strategy_name (CrashStrategy strategy)
{
  static const char *const names[] = { "none",       "all",        "all but one", "one only", "small ones",
                                       "large ones", "first ones", "last ones",   "some",     "torn" };

  G_STATIC_ASSERT (G_N_ELEMENTS (names) == CRASH_STRATEGIES);
  return names[strategy];
}

/* --- files --------------------------------------------------------------------------------------------- */

static void
free_file (void *opaque)
{
  CrashFile *file = opaque;

  g_free (file->path);
  content_free (file->initial);
  content_free (file->durable);
  content_free (file->crashed);
  g_free (file);
}

/* --- the trace ----------------------------------------------------------------------------------------- */

CrashTrace *
crash_trace_new (const char *log_path, const char *const *paths)
{
  CrashTrace *trace = g_new0 (CrashTrace, 1);

  trace->log_path = g_strdup (log_path);
  trace->files = g_ptr_array_new_with_free_func (free_file);
  trace->changes = g_array_new (false, false, sizeof (size_t));
  trace->flushes = g_array_new (false, false, sizeof (size_t));
  trace->story = g_string_new (NULL);
  trace->ignored = SIZE_MAX;
  unlink (log_path);
  for (; *paths; paths++)
    {
      CrashFile *file = g_new0 (CrashFile, 1);

      file->path = realpath (*paths, NULL);
      g_assert_nonnull (file->path);
      file->initial = content_read (file->path);
      file->durable = content_new ();
      file->crashed = content_new ();
      content_copy (file->durable, file->initial);
      g_ptr_array_add (trace->files, file);
    }
  return trace;
}

void
crash_trace_free (CrashTrace *trace)
{
  if (trace == NULL)
    return;
  g_free (trace->log_path);
  g_ptr_array_unref (trace->files);
  blklog_free (trace->log);
  g_free (trace->positions);
  g_free (trace->durable_at);
  g_array_unref (trace->changes);
  g_array_unref (trace->flushes);
  g_free (trace->by_id);
  g_string_free (trace->story, true);
  g_free (trace);
}

int64_t
crash_trace_now (const CrashTrace *trace)
{
  struct stat st;

  return trace == NULL || stat (trace->log_path, &st) < 0 ? 0 : st.st_size;
}

static CrashFile *
find_file (const CrashTrace *trace, const char *path)
{
  for (guint i = 0; i < trace->files->len; i++)
    {
      CrashFile *file = g_ptr_array_index (trace->files, i);

      if (strcmp (file->path, path) == 0)
        return file;
    }
  return NULL;
}

static void
note_open (CrashTrace *trace, const BlkLogRecord *record)
{
  g_autofree char *path = g_strndup ((const char *)record->payload, record->payload_bytes);

  if (record->file_id >= trace->ids)
    {
      trace->by_id = g_renew (CrashFile *, trace->by_id, record->file_id + 1);
      memset (trace->by_id + trace->ids, 0, (record->file_id + 1 - trace->ids) * sizeof (CrashFile *));
      trace->ids = record->file_id + 1;
    }
  trace->by_id[record->file_id] = find_file (trace, path);
  if (trace->by_id[record->file_id] == NULL)
    g_error ("%s is in the log, but was not named", path);
}

static CrashFile *
file_of (const CrashTrace *trace, size_t record)
{
  return trace->by_id[trace->log->records[record].file_id];
}

/* Bytes from @offset that a change touches; a truncate touches everything behind the new length. */
static int64_t
change_end (const BlkLogRecord *record)
{
  return record->kind == BLKLOG_TRUNCATE ? INT64_MAX : record->offset + record->bytes;
}

static int64_t
change_start (const BlkLogRecord *record)
{
  return record->kind == BLKLOG_TRUNCATE ? record->bytes : record->offset;
}

char *
crash_trace_find_race (const CrashTrace *trace)
{
  const BlkLogRecord *records = trace->log->records;

  for (guint i = 0; i < trace->changes->len; i++)
    {
      size_t a = g_array_index (trace->changes, size_t, i);

      for (guint j = i + 1; j < trace->changes->len; j++)
        {
          size_t b = g_array_index (trace->changes, size_t, j);

          if (b >= records[a].done_at)
            break;
          if (records[a].file_id == records[b].file_id
              && change_start (&records[a]) < change_end (&records[b])
              && change_start (&records[b]) < change_end (&records[a]))
            return g_strdup_printf ("%s: records %zu and %zu are in flight together and both change offset "
                                    "%" G_GINT64_FORMAT,
                                    file_of (trace, a)->path, a, b,
                                    MAX (change_start (&records[a]), change_start (&records[b])));
        }
    }
  return NULL;
}

/* For each completed change the end of the first flush that started after its DONE. */
static void
find_durable (CrashTrace *trace)
{
  const BlkLogRecord *records = trace->log->records;

  for (size_t i = 0; i < trace->log->n; i++)
    trace->durable_at[i] = BLKLOG_NEVER;
  for (guint i = 0; i < trace->changes->len; i++)
    {
      size_t change = g_array_index (trace->changes, size_t, i);

      for (guint k = 0; k < trace->flushes->len && records[change].done_at != BLKLOG_NEVER; k++)
        {
          size_t flush = g_array_index (trace->flushes, size_t, k);

          if (k != trace->ignored && flush > records[change].done_at
              && records[flush].file_id == records[change].file_id)
            trace->durable_at[change] = MIN (trace->durable_at[change], records[flush].done_at);
        }
    }
}

void
crash_trace_load (CrashTrace *trace)
{
  g_autoptr (GError) error = NULL;
  int64_t position = 0;
  size_t n;

  trace->log = blklog_load (trace->log_path, &error);
  if (trace->log == NULL)
    g_error ("%s", error->message);
  n = trace->log->n;
  trace->positions = g_new (int64_t, n + 1);
  trace->durable_at = g_new (size_t, n);
  for (size_t i = 0; i < n; i++)
    {
      const BlkLogRecord *record = &trace->log->records[i];

      trace->positions[i] = position;
      position += BLKLOG_HEADER_BYTES + record->payload_bytes;
      if (record->result < 0)
        g_error ("record %zu of the log: a request failed", i);
      if (record->kind == BLKLOG_OPEN)
        note_open (trace, record);
      else if (record->kind == BLKLOG_FLUSH && record->done_at != BLKLOG_NEVER)
        g_array_append_val (trace->flushes, i);
      else if (blklog_is_change (trace->log, i))
        {
          g_array_append_val (trace->changes, i);
          file_of (trace, i)->touched = true;
        }
    }
  trace->positions[n] = position;
  find_durable (trace);
  for (size_t i = 0; i < n; i++)
    g_assert (!blklog_is_change (trace->log, i) || trace->durable_at[i] == trace->log->records[i].durable_at);
}

size_t
crash_trace_records (const CrashTrace *trace)
{
  return trace->log->n;
}

size_t
crash_trace_flushes (const CrashTrace *trace)
{
  return trace->flushes->len;
}

int64_t
crash_trace_position (const CrashTrace *trace, size_t cut)
{
  return trace->positions[cut];
}

bool
crash_trace_touches (const CrashTrace *trace, const char *path)
{
  g_autofree char *resolved = realpath (path, NULL);
  const CrashFile *file = resolved ? find_file (trace, resolved) : NULL;

  return file && file->touched;
}

char *
crash_trace_describe_flush (const CrashTrace *trace, size_t k)
{
  size_t flush = g_array_index (trace->flushes, size_t, k);
  g_autofree char *name = g_path_get_basename (file_of (trace, flush)->path);

  return g_strdup_printf ("flush %zu of %s, records %zu to %zu", k, name, flush,
                          trace->log->records[flush].done_at);
}

void
crash_trace_flush_effect (const CrashTrace *trace, size_t k, size_t *first, size_t *end)
{
  const BlkLogRecord *records = trace->log->records;
  size_t flush = g_array_index (trace->flushes, size_t, k);

  *first = records[flush].done_at + 1;
  *end = trace->log->n;
  for (guint i = k + 1; i < trace->flushes->len; i++)
    {
      size_t later = g_array_index (trace->flushes, size_t, i);

      if (records[later].file_id == records[flush].file_id && later > records[flush].done_at)
        *end = MIN (*end, records[later].done_at);
    }
}

static void
rewind_to_start (CrashTrace *trace)
{
  trace->settled = trace->settled_until = 0;
  for (guint i = 0; i < trace->files->len; i++)
    {
      CrashFile *file = g_ptr_array_index (trace->files, i);

      content_copy (file->durable, file->initial);
    }
}

void
crash_trace_ignore_flush (CrashTrace *trace, size_t k)
{
  trace->ignored = k;
  find_durable (trace);
  rewind_to_start (trace);
}

/* --- cuts ---------------------------------------------------------------------------------------------- */

static int
compare_sizes (const void *a, const void *b)
{
  size_t x = *(const size_t *)a, y = *(const size_t *)b;

  return x < y ? -1 : x > y;
}

GArray *
crash_trace_cuts (const CrashTrace *trace, GRand *rand, size_t n_random, size_t limit)
{
  GArray *cuts = g_array_new (false, false, sizeof (size_t));
  size_t n = trace->log->n;

  for (guint k = 0; k < trace->flushes->len; k++)
    {
      size_t flush = g_array_index (trace->flushes, size_t, k);
      size_t done = trace->log->records[flush].done_at;

      g_array_append_val (cuts, flush);
      g_array_append_val (cuts, done);
      done++;
      g_array_append_val (cuts, done);
    }
  for (size_t i = 0; i < n_random; i++)
    {
      size_t cut = g_rand_int_range (rand, 0, n + 1);

      g_array_append_val (cuts, cut);
    }
  g_array_append_val (cuts, n);
  g_array_sort (cuts, compare_sizes);

  if (limit > 0 && cuts->len > limit)
    {
      for (size_t i = 0; i < limit; i++)
        g_array_index (cuts, size_t, i) = g_array_index (cuts, size_t, i * cuts->len / limit);
      g_array_set_size (cuts, limit);
    }
  return cuts;
}

/* --- the crash ----------------------------------------------------------------------------------------- */

/* The part [@from, @to) of a change. */
static void
apply_part (Content *data, const BlkLogRecord *record, int64_t from, int64_t to)
{
  if (record->kind == BLKLOG_DISCARD)
    to = MIN (to, content_length (data));
  if (from >= to)
    return;
  if (record->kind == BLKLOG_WRITE)
    content_write (data, from, to - from, record->payload + (from - record->offset));
  else
    content_zero (data, from, to - from);
}

static void
apply_change (Content *data, const BlkLogRecord *record)
{
  if (record->kind == BLKLOG_TRUNCATE)
    content_set_length (data, record->bytes);
  else
    apply_part (data, record, record->offset, record->offset + record->bytes);
}

/* Some of the sectors. */
static void
apply_torn (Content *data, const BlkLogRecord *record, GRand *rand, GString *story)
{
  int64_t end = record->offset + record->bytes;
  int keep = g_rand_int_range (rand, 1, 10);

  if (record->kind == BLKLOG_TRUNCATE)
    {
      if (g_rand_boolean (rand))
        apply_change (data, record);
      else
        g_string_append (story, " not done");
      return;
    }
  for (int64_t at = record->offset, next; at < end; at = next)
    {
      next = MIN (end, (at / SECTOR + 1) * SECTOR);
      if (g_rand_int_range (rand, 0, 10) < keep)
        apply_part (data, record, at, next);
      else
        g_string_append_printf (story, " -%" G_GINT64_FORMAT, at / SECTOR);
    }
}

/* The changes before the first that may be lost go into ->durable. */
static void
settle (CrashTrace *trace, size_t cut)
{
  if (trace->settled > 0 && trace->settled_until >= cut)
    rewind_to_start (trace);
  while (trace->settled < trace->changes->len)
    {
      size_t change = g_array_index (trace->changes, size_t, trace->settled);

      if (change >= cut || trace->durable_at[change] >= cut)
        break;
      apply_change (file_of (trace, change)->durable, &trace->log->records[change]);
      trace->settled++;
      trace->settled_until = MAX (trace->settled_until, trace->durable_at[change]);
    }
}

static size_t
count_pending (CrashTrace *trace, size_t cut)
{
  size_t pending = 0;

  for (size_t i = trace->settled; i < trace->changes->len; i++)
    {
      size_t change = g_array_index (trace->changes, size_t, i);

      if (change >= cut)
        break;
      pending += trace->durable_at[change] >= cut;
    }
  return pending;
}

size_t
crash_trace_pending (CrashTrace *trace, size_t cut)
{
  settle (trace, cut);
  return count_pending (trace, cut);
}

static const char *
kind_name (BlkLogKind kind)
{
  switch (kind)
    {
    case BLKLOG_WRITE:
      return "write";
    case BLKLOG_ZEROES:
      return "zeroes";
    case BLKLOG_DISCARD:
      return "discard";
    default:
      return "truncate";
    }
}

/* Whether the @number-th of the changes that may be lost is kept; @special is the one that strategies with
 * "one" speak of. */
static bool
keeps (CrashStrategy strategy, const BlkLogRecord *record, size_t number, size_t special, GRand *rand)
{
  switch (strategy)
    {
    case CRASH_KEEP_NONE:
      return false;
    case CRASH_DROP_ONE:
      return number != special;
    case CRASH_KEEP_ONE:
      return number == special;
    case CRASH_KEEP_SMALL:
      return record->bytes <= SMALL_BYTES;
    case CRASH_KEEP_LARGE:
      return record->bytes > SMALL_BYTES;
    case CRASH_KEEP_FIRST:
      return number < special;
    case CRASH_KEEP_LAST:
      return number >= special;
    case CRASH_KEEP_SOME:
      return g_rand_boolean (rand);
    default:
      return true;
    }
}

/* The files that the log never changes keep what they have. */
void
crash_trace_rewrite (CrashTrace *trace)
{
  for (guint i = 0; i < trace->files->len; i++)
    {
      CrashFile *file = g_ptr_array_index (trace->files, i);

      if (file->touched)
        content_write_file (file->crashed, file->path);
    }
}

void
crash_trace_make (CrashTrace *trace, size_t cut, CrashStrategy strategy, size_t special, GRand *rand)
{
  size_t pending, number = 0;

  settle (trace, cut);
  pending = count_pending (trace, cut);
  if (special == SIZE_MAX)
    special = pending > 0 ? (size_t)g_rand_int_range (rand, 0, pending) : 0;
  g_string_printf (trace->story, "cut %zu of %zu records, %zu changes not certain, kept: %s", cut,
                   trace->log->n, pending, crash_strategy_name (strategy));
  for (guint i = 0; i < trace->files->len; i++)
    {
      CrashFile *file = g_ptr_array_index (trace->files, i);

      content_copy (file->crashed, file->durable);
    }

  for (size_t i = trace->settled; i < trace->changes->len; i++)
    {
      size_t change = g_array_index (trace->changes, size_t, i);
      const BlkLogRecord *record = &trace->log->records[change];
      CrashFile *file;

      if (change >= cut)
        break;
      file = file_of (trace, change);
      if (trace->durable_at[change] < cut)
        {
          apply_change (file->crashed, record);
          continue;
        }

      g_autofree char *name = g_path_get_basename (file->path);
      bool keep = keeps (strategy, record, number++, special, rand);

      g_string_append_printf (trace->story, "\n  record %zu: %s %s %" G_GINT64_FORMAT "+%" G_GINT64_FORMAT,
                              change, name, kind_name (record->kind), record->offset, record->bytes);
      if (strategy == CRASH_TEAR)
        {
          g_string_append (trace->story, " without sectors");
          apply_torn (file->crashed, record, rand, trace->story);
          continue;
        }
      g_string_append (trace->story, keep ? " kept" : " lost");
      if (keep)
        apply_change (file->crashed, record);
    }
  crash_trace_rewrite (trace);
}

const char *
crash_trace_story (const CrashTrace *trace)
{
  return trace->story->str;
}

char *
crash_trace_changed_file (const CrashTrace *trace, bool touched)
{
  for (guint i = 0; i < trace->files->len; i++)
    {
      const CrashFile *file = g_ptr_array_index (trace->files, i);
      const Content *expected = file->touched ? file->crashed : file->initial;
      g_autoptr (Content) found = NULL;
      int64_t at;

      if (file->touched && !touched)
        continue;
      found = content_read (file->path);
      if (content_length (found) != content_length (expected))
        return g_strdup_printf ("%s: %" G_GINT64_FORMAT " bytes instead of %" G_GINT64_FORMAT, file->path,
                                content_length (found), content_length (expected));
      at = content_compare (found, expected);
      if (at >= 0)
        return g_strdup_printf ("%s: other bytes at offset %" G_GINT64_FORMAT, file->path, at);
    }
  return NULL;
}

void
crash_trace_restore (CrashTrace *trace)
{
  for (guint i = 0; i < trace->files->len; i++)
    {
      CrashFile *file = g_ptr_array_index (trace->files, i);

      content_write_file (file->initial, file->path);
    }
}
