/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes while a commit relinks children, removes the merged images and renames the target.
 *
 * base <- middle <- source <- leaf, and other, another child of source.  The whole command is recorded.  A rename or a
 * removal is not in the log of requests: rename (), unlink () and fsync () are replaced here by functions that do the
 * same and note the position of the log.  A crash before that position has the old name; one after it the new one, if
 * the directory was flushed by then; else either, each change of a name by itself, and with any of the changes of
 * content lost that were not flushed.
 *
 * The list of what is to be removed is written outside of the log as well, and known by the rename that puts it there;
 * it must have been flushed by then.
 *
 * However it ends: leaf and other show the same.  As long as nothing is removed and the target has its own name, source
 * does so too, and the command run again for it, naming leaf and other, finishes.  Once the target has the name of source
 * it shows that.  From there on the removal of what the list says finishes.  No image that is left has a log then.
 *
 * Faults: each request fails, or all from there on; and each change of a name.  The same is asked of what is left.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS crashes of each case (long.sh).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "../../block/drivers/test/blkdebug.h"
#include "images.h"
#include "simdisk.h"

#define MIB  (INT64_C (1) << 20)
#define LIST ".remains"

typedef enum
{
  RELINK = 1 << 0,
  DELETE = 1 << 1,
  RENAME = 1 << 2,
  BELOW_LEAF = 1 << 3, /* the chain is opened through leaf, which need not be named */
} Options;

typedef struct
{
  const char *name;
  ImageKind kind;
  int target; /* layer, source is 0: 1 is middle, 2 is base */
  int options;
} Case;

static const Case cases[] = {
  { "relink", IMAGE_VHD, 1, RELINK },
  { "delete", IMAGE_VHD, 2, RELINK | DELETE },
  { "rename", IMAGE_VHD, 1, RELINK | RENAME },
  { "rename-delete", IMAGE_VHD, 2, RELINK | RENAME | DELETE },
  { "delete-below-leaf", IMAGE_VHD, 1, RELINK | DELETE | BELOW_LEAF },
  { "rename-below-leaf", IMAGE_VHD, 2, RELINK | RENAME | DELETE | BELOW_LEAF },
  { "relink", IMAGE_VHDX, 1, RELINK },
  { "delete", IMAGE_VHDX, 2, RELINK | DELETE },
  { "rename", IMAGE_VHDX, 1, RENAME },
  { "rename-delete", IMAGE_VHDX, 2, RENAME | DELETE },
  { "delete-below-leaf", IMAGE_VHDX, 2, RELINK | DELETE | BELOW_LEAF },
  { "rename-below-leaf", IMAGE_VHDX, 1, RENAME | BELOW_LEAF },
};

static const char *const names[] = { "base", "middle", "source", "leaf", "other" };
enum
{
  BASE,
  MIDDLE,
  SOURCE,
  LEAF,
  OTHER,
  FILES
};

/* A change of the directory. */
typedef struct
{
  int64_t at;      /* position in the log */
  char *from, *to; /* to NULL: removed */
  /* Of the directories it is in now (of what was removed: was in), and was in: */
  int64_t flushed_at[2]; /* position in the log, INT64_MAX: never */
  guint changes[2];      /* how many there had been then … */
  guint flushes[2];      /* … and how many flushes */
  char *content;         /* of the list, which appears with it; or NULL */
  bool of_list;
} NameChange;

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  CrashTrace *trace;
  GPtrArray *changes; /* of NameChange * */
  GuestValues *values[FILES];
} Run;

/* --- names in the directory ------------------------------------------------------------------------------- */

static Run *noting;              /* changes of names, or NULL */
static int failing = -1;         /* of the changes noted, this one fails */
static struct stat flushed_file; /* as fsync () had it last */

/* Nothing else than the list is written outside of the log: it must be durable when it gets its name. */
static bool
is_durable (const char *path)
{
  struct stat st;

  return stat (path, &st) == 0 && st.st_ino == flushed_file.st_ino && st.st_size == flushed_file.st_size;
}

static bool
note (const char *from, const char *to)
{
  NameChange *change;

  if (!noting)
    return true;
  if (failing-- == 0)
    {
      errno = EIO;
      return false;
    }
  change = g_new0 (NameChange, 1);
  change->at = crash_trace_now (noting->trace);
  change->from = g_strdup (from);
  change->to = g_strdup (to);
  change->flushed_at[0] = change->flushed_at[1] = INT64_MAX;
  change->of_list = strstr (from, LIST) != NULL;
  if (change->of_list && to && !g_file_get_contents (from, &change->content, NULL, NULL))
    g_error ("%s cannot be read", from);
  if (change->content && !is_durable (from))
    test_fail ("%s gets its name before it is durable", to);
  g_ptr_array_add (noting->changes, change);
  return true;
}

static void
name_change_free (gpointer data)
{
  NameChange *change = data;

  g_free (change->from);
  g_free (change->to);
  g_free (change->content);
  g_free (change);
}

int
rename (const char *from, const char *to)
{
  return !note (from, to) ? -1 : (int)syscall (SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int
unlink (const char *path)
{
  return !note (path, NULL) ? -1 : (int)syscall (SYS_unlinkat, AT_FDCWD, path, 0);
}

/* Whether the file at @path is in the directory that is open as @fd. */
static bool
is_in (int fd, const char *path)
{
  g_autofree char *directory = g_path_get_dirname (path);
  struct stat st, wanted;

  return fstat (fd, &st) == 0 && stat (directory, &wanted) == 0 && st.st_dev == wanted.st_dev
         && st.st_ino == wanted.st_ino;
}

/* Files themselves are flushed with fdatasync (). */
int
fsync (int fd)
{
  static guint flushes;
  struct stat st;

  flushes++;
  if (noting && fstat (fd, &st) == 0 && S_ISREG (st.st_mode))
    flushed_file = st;
  for (guint i = 0; noting && i < noting->changes->len; i++)
    {
      NameChange *change = g_ptr_array_index (noting->changes, i);
      const char *paths[] = { change->to ? change->to : change->from, change->from };

      for (int k = 0; k < 2; k++)
        if (change->flushed_at[k] == INT64_MAX && is_in (fd, paths[k]))
          {
            change->flushed_at[k] = crash_trace_now (noting->trace);
            change->changes[k] = noting->changes->len;
            change->flushes[k] = flushes;
          }
    }
  return (int)syscall (SYS_fsync, fd);
}

/* The list as it was written, with the inodes and times of the files as they were restored. */
static bool
put_list (const Run *run, const NameChange *change)
{
  g_auto (GStrv) lines = g_strsplit (change->content, "\n", -1);
  g_autofree char *target = test_path (&run->dir, names[SOURCE - run->c->target]), *text = NULL;

  for (char **line = lines; *line; line++)
    {
      g_auto (GStrv) words = g_strsplit (*line, " ", -1);
      bool of_target = g_strcmp0 (words[0], "target") == 0;
      GStatBuf st;

      if (!of_target && g_strcmp0 (words[0], "remove") != 0)
        continue;
      if (g_stat (of_target ? target : words[4], &st) < 0)
        g_error ("%s: %s", *line, g_strerror (errno));
      g_free (words[1]);
      words[1] = g_strdup_printf ("%llu", (unsigned long long)st.st_ino);
      if (!of_target)
        {
          g_free (words[2]);
          words[2] = g_strdup_printf ("%llu", st.st_mtim.tv_sec * 1000000000ull
                                                  + (unsigned long long)st.st_mtim.tv_nsec);
        }
      g_free (*line);
      *line = g_strjoinv (" ", words);
    }
  text = g_strjoinv ("\n", lines);
  return g_file_set_contents (change->to, text, -1, NULL);
}

static void
change_name (const Run *run, const NameChange *change)
{
  int ret;

  if (change->content)
    ret = put_list (run, change) ? 0 : -1;
  else
    ret = change->to ? rename (change->from, change->to) : unlink (change->from);
  if (ret < 0)
    g_error ("%s: %s", change->from, g_strerror (errno));
}

/* --- the run ----------------------------------------------------------------------------------------------- */

static void
run_clear (Run *run)
{
  crash_trace_free (run->trace);
  for (int i = 0; i < FILES; i++)
    guest_values_free (run->values[i]);
  g_ptr_array_unref (run->changes);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static void
make_files (Run *run)
{
  static const int parents[] = { -1, BASE, MIDDLE, SOURCE, SOURCE };

  for (int i = 0; i < FILES; i++)
    {
      g_autofree char *why = NULL;

      image_make (&run->dir, names[i], run->c->kind, 3 * MIB, MIB, i > 0 ? names[parents[i]] : NULL);
      image_populate (&run->dir, names[i], run->rand, 6, MIB, 0);
      run->values[i] = image_values (&run->dir, names[i], &why);
      if (!run->values[i])
        g_error ("%s: %s", names[i], why);
    }
}

/* NULL, or why it failed.  @below_leaf: through leaf; else it has to be named. */
static char *
commit (Run *run, char **filters, bool below_leaf)
{
  const Case *c = run->c;
  g_autofree char *leaf = test_path (&run->dir, names[LEAF]), *other = test_path (&run->dir, names[OTHER]);
  const char *const children[] = { other, below_leaf ? NULL : leaf, NULL };
  VhdkitCommitOptions options = { .struct_size = sizeof options,
                                  .source_layer = below_leaf,
                                  .target_layer = below_leaf + c->target,
                                  .relink = c->options & RELINK ? children : NULL,
                                  .delete_sources = c->options & DELETE,
                                  .rename_target = c->options & RENAME };
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, names[below_leaf ? LEAF : SOURCE], 0, filters, &why);
  g_autoptr (GError) error = NULL;
  VhdkitJob *job;

  if (image == NULL)
    return why;
  job = vhdkit_commit_new (image, &options, &error);
  if (job)
    vhdkit_job_run (job, NULL, NULL, &error);
  vhdkit_job_free (job);
  if (error)
    why = g_strdup (error->message);
  image_close (image, why ? NULL : &why);
  return why;
}

/* NULL, or what @name shows that is not @expected. */
static char *
look_at (Run *run, const char *name, const GuestValues *expected)
{
  g_autofree char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, name, &why);

  if (values)
    why = guest_values_compare (values, expected);
  if (!why)
    why = image_check (&run->dir, name, NULL);
  return why ? g_strdup_printf ("%s: %s", name, why) : NULL;
}

static char *
look_at_leaves (Run *run)
{
  char *why = look_at (run, names[LEAF], run->values[LEAF]);

  return why ? why : look_at (run, names[OTHER], run->values[OTHER]);
}

static const char *
survivor (const Case *c)
{
  return c->options & RENAME ? names[SOURCE] : names[SOURCE - c->target];
}

static char *
list_path (const Run *run)
{
  g_autofree char *source = test_path (&run->dir, names[SOURCE]);

  return g_strconcat (source, LIST, NULL);
}

/* Nothing is left to do. */
static char *
look_at_result (Run *run)
{
  const Case *c = run->c;
  char *why = look_at_leaves (run);
  g_autofree char *list = list_path (run);

  if (!why && g_access (list, F_OK) == 0)
    why = g_strdup ("the list is still there");

  if (!why)
    why = look_at (run, survivor (c), run->values[SOURCE]);
  for (int i = SOURCE - c->target; i <= SOURCE && !why; i++)
    {
      g_autofree char *path = test_path (&run->dir, names[i]);
      bool there = g_access (path, F_OK) == 0;
      bool wanted = i == SOURCE - c->target ? !(c->options & RENAME)
                    : i == SOURCE           ? !(c->options & DELETE) || c->options & RENAME
                                            : !(c->options & DELETE);

      if (there != wanted)
        why = g_strdup_printf ("%s %s", names[i], there ? "is still there" : "is gone");
    }
  return why;
}

/* An older copy of the target comes to the path that the target had: it is nobody's parent, although children know a VHD
 * by an identity that it has as well. */
static char *
look_past_older (Run *run)
{
  const char *older = names[SOURCE - run->c->target];
  g_autofree char *path = test_path (&run->dir, older), *of = test_path (&run->dir, survivor (run->c));
  g_autofree char *content = NULL;
  g_autofree uint8_t *other = g_malloc (MIB);
  char *why = NULL;
  VhdkitImage *image;
  gsize bytes;

  memset (other, 0xEE, MIB);
  if (!g_file_get_contents (of, &content, &bytes, NULL) || !g_file_set_contents (path, content, bytes, NULL))
    g_error ("%s cannot be copied", of);
  image = image_open (&run->dir, older, VHDKIT_OPEN_RDWR | VHDKIT_OPEN_NO_PARENTS, NULL, &why);
  for (int i = 0; i < 3 && image; i++)
    if (vhdkit_image_pwrite (image, other, i * MIB, MIB) < 0)
      g_error ("%s cannot be written", path);
  if (image)
    image_close (image, &why);
  if (!why)
    why = look_at_leaves (run);
  (void)unlink (path);
  return why;
}

static bool
record (Run *run)
{
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *log = test_path (&run->dir, "log");
  g_auto (GStrv) filters = NULL;
  g_autofree char *why = NULL;

  make_files (run);
  for (int i = 0; i < FILES; i++)
    g_ptr_array_add (paths, test_path (&run->dir, names[i]));
  g_ptr_array_add (paths, NULL);
  run->trace = crash_trace_new (log, (const char *const *)paths->pdata);
  filters = recording_filters (&run->dir, "log", run->rand);
  noting = run;
  why = commit (run, filters, run->c->options & BELOW_LEAF);
  noting = NULL;
  crash_trace_load (run->trace);
  if (!why)
    why = look_at_result (run);
  if (!why && run->c->options & RENAME && run->c->kind == IMAGE_VHD)
    why = look_past_older (run);
  if (why)
    test_fail ("without a crash: %s", why);
  return !why;
}

/* --- crashes ----------------------------------------------------------------------------------------------- */

/* Once the first of them is gone, what is left of the merged images does not pretend to be one. */
static char *
look_at_remains (Run *run)
{
  const Case *c = run->c;

  for (int i = SOURCE - c->target + 1; i <= (c->options & RENAME ? MIDDLE : SOURCE); i++)
    {
      g_autofree char *path = test_path (&run->dir, names[i]), *why = NULL;
      VhdkitImage *image =
          g_access (path, F_OK) == 0 ? image_open (&run->dir, names[i], 0, NULL, &why) : NULL;

      if (!image)
        continue;
      image_close (image, NULL);
      return g_strdup_printf ("%s opens although layers of the merge are gone", names[i]);
    }
  return NULL;
}

/* Who cannot replay a log can read it: the header that counts names none ([MS-VHDX] 2.2.2). */
static char *
look_for_log (const Run *run, const char *name)
{
  static const uint8_t none[16];
  g_autofree char *path = test_path (&run->dir, name), *bytes = NULL;
  uint64_t best = 0;
  bool empty = false;
  gsize len;

  if (run->c->kind != IMAGE_VHDX)
    return NULL;
  if (!g_file_get_contents (path, &bytes, &len, NULL) || len < 3 * 65536)
    return g_strdup_printf ("%s cannot be read", name);
  for (int slot = 1; slot <= 2; slot++)
    {
      uint64_t sequence;

      memcpy (&sequence, bytes + slot * 65536 + 8, sizeof sequence);
      sequence = GUINT64_FROM_LE (sequence);
      if (sequence < best)
        continue;
      best = sequence;
      empty = memcmp (bytes + slot * 65536 + 48, none, sizeof none) == 0;
    }
  return empty ? NULL : g_strdup_printf ("%s has a log", name);
}

/* As the command run again does. */
static char *
commit_again (Run *run, bool gone)
{
  g_autofree char *source = test_path (&run->dir, names[SOURCE]);
  g_autoptr (GError) error = NULL;
  g_auto (GStrv) removed = NULL;

  if (!gone)
    return commit (run, NULL, false);
  if (!(run->c->options & DELETE))
    return NULL;
  removed = vhdkit_commit_remove_remains (NULL, source, NULL, &error);
  return removed || g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND) ? NULL
                                                                                  : g_strdup (error->message);
}

/* @gone: names of images were changed. */
static char *
judge_files (Run *run, bool gone)
{
  char *why = look_at_leaves (run);

  if (!why && !gone)
    why = look_at (run, names[SOURCE], run->values[SOURCE]);
  if (!why && gone)
    why = look_at (run, survivor (run->c), run->values[SOURCE]);
  if (!why && gone)
    why = look_at_remains (run);
  if (!why && gone)
    why = look_for_log (run, survivor (run->c));
  for (int i = LEAF; i <= OTHER && !why && gone; i++)
    why = look_for_log (run, names[i]);
  if (why)
    return why;
  why = commit_again (run, gone);
  if (!why)
    why = look_at_result (run);
  if (why)
    {
      char *text = g_strdup_printf ("the command run again: %s", why);

      g_free (why);
      why = text;
    }
  return why;
}

/* @changed: bit n: the n-th change of a name. */
static bool
are_images_changed (const Run *run, guint changed)
{
  for (guint i = 0; i < run->changes->len; i++)
    if (changed & 1u << i && !((const NameChange *)g_ptr_array_index (run->changes, i))->of_list)
      return true;
  return false;
}

/* As before the command. */
static void
restore_files (Run *run)
{
  g_autofree char *list = list_path (run);

  crash_trace_restore (run->trace);
  (void)unlink (list);
}

/* @changed: bit n: the n-th change of a name. */
static void
judge_one (Run *run, size_t cut, CrashStrategy strategy, guint changed)
{
  g_autofree char *why = NULL;

  restore_files (run);
  crash_trace_make (run->trace, cut, strategy, SIZE_MAX, run->rand);
  for (guint i = 0; i < run->changes->len; i++)
    if (changed & 1u << i)
      change_name (run, g_ptr_array_index (run->changes, i));
  why = judge_files (run, are_images_changed (run, changed));
  if (why)
    test_fail ("cut %zu, of %u changes of names 0x%x, %s: %s\n%s", cut, run->changes->len, changed,
               crash_strategy_name (strategy), why, crash_trace_story (run->trace));
}

/* How many changes of names come before position @at, those at it included or not. */
static guint
count_changes (const Run *run, int64_t at, bool included)
{
  guint n = 0;

  while (n < run->changes->len)
    {
      const NameChange *change = g_ptr_array_index (run->changes, n);

      if (change->at > at || (change->at == at && !included))
        break;
      n++;
    }
  return n;
}

/* Which of the first @n changes of names, of which the last may just have been made, a crash at position @at can
 * lose. */
static guint
uncertain_changes (const Run *run, int64_t at, guint n)
{
  guint uncertain = 0;

  for (guint i = 0; i < n; i++)
    {
      const NameChange *change = g_ptr_array_index (run->changes, i);

      if (change->flushed_at[0] >= at && !(change->flushed_at[0] == at && change->changes[0] < n))
        uncertain |= 1u << i;
    }
  return uncertain;
}

/* All that a crash at @cut can leave of the names, with these strategies for content.  Returns how many crashes. */
static int
judge_names (Run *run, size_t cut, const CrashStrategy *strategies, guint n_strategies)
{
  int64_t at = crash_trace_position (run->trace, cut);
  guint least = count_changes (run, at, false), most = count_changes (run, at, true);
  int crashes = 0;

  for (guint n = least; n <= most; n++)
    {
      guint uncertain = uncertain_changes (run, at, n), certain = ((1u << n) - 1) & ~uncertain;
      /* Without the last one it is as before that. */
      guint last = n > least ? uncertain & 1u << (n - 1) : 0, some = uncertain;

      do
        {
          for (guint k = 0; k < n_strategies && (some & last) == last && !g_test_failed (); k++, crashes++)
            judge_one (run, cut, strategies[k], certain | some);
          some = (some - 1) & uncertain;
        }
      while (some != uncertain);
    }
  return crashes;
}

static void
judge_all (Run *run)
{
  static const CrashStrategy always[] = { CRASH_KEEP_NONE, CRASH_KEEP_ALL, CRASH_TEAR };
  int limit = test_number ("VHDKIT_CRASH_CUTS", 150), crashes = 0;
  g_autoptr (GArray) cuts = crash_trace_cuts (run->trace, run->rand, limit / 8 + 1, limit);

  for (guint i = 0; i < cuts->len && !g_test_failed (); i++)
    {
      size_t cut = g_array_index (cuts, size_t, i);

      crashes += judge_names (run, cut, always,
                              crash_trace_pending (run->trace, cut) > 0 ? G_N_ELEMENTS (always) : 1);
    }
  g_test_message ("%d crashes at %u places in a log of %zu records, %u changes of names", crashes, cuts->len,
                  crash_trace_records (run->trace), run->changes->len);
}

/* The places at which names change are all judged, with what was pending there. */
static void
judge_name_changes (Run *run)
{
  CrashStrategy all[CRASH_STRATEGIES];

  for (int i = 0; i < CRASH_STRATEGIES; i++)
    all[i] = i;
  for (size_t cut = 0; cut <= crash_trace_records (run->trace) && !g_test_failed (); cut++)
    {
      int64_t at = crash_trace_position (run->trace, cut);

      if (count_changes (run, at, false) < count_changes (run, at, true))
        judge_names (run, cut, all, CRASH_STRATEGIES);
    }
}

static void
test_crashes (gconstpointer data)
{
  const Case *c = data;
  g_auto (Run) run = { .c = c, .changes = g_ptr_array_new_with_free_func (name_change_free) };

  test_begin (&run.dir, &run.rand, "crash-conclude", "conclude-%s-%s", image_kind_format (c->kind), c->name);
  if (!record (&run))
    return;
  judge_all (&run);
  judge_name_changes (&run);
}

/* --- faults ------------------------------------------------------------------------------------------------ */

/* @filters fail a request, or a change of a name does. */
static char *
live_with_fault (Run *run, char **filters)
{
  g_autofree char *told = NULL;

  restore_files (run);
  g_ptr_array_set_size (run->changes, 0);
  noting = run;
  told = commit (run, filters, run->c->options & BELOW_LEAF);
  noting = NULL;
  if (!told)
    {
      char *why = filters ? fault_swallowed ("fault") : NULL;

      return why ? why : look_at_result (run);
    }
  /* Not a fault, or one that does not say where. */
  if (strstr (told, run->dir.dir) == NULL)
    return g_steal_pointer (&told);
  return judge_files (run, are_images_changed (run, UINT_MAX));
}

static void
test_faults (gconstpointer data)
{
  static const char *const faults[] = { "op=any,errno=EIO", "op=any,count=0,errno=EIO" };
  const Case *c = data;
  g_auto (Run) run = { .c = c, .changes = g_ptr_array_new_with_free_func (name_change_free) };
  int stride = test_number ("VHDKIT_STRIDE", 5), changes;

  test_begin (&run.dir, &run.rand, "conclude-fault", "conclude-fault-%s-%s", image_kind_format (c->kind),
              c->name);
  if (!record (&run))
    return;
  changes = run.changes->len;
  for (int k = 0; k < changes && !g_test_failed (); k++)
    {
      failing = k;
      g_autofree char *why = live_with_fault (&run, NULL);
      if (why)
        test_fail ("change of name %d failed: %s", k, why);
      failing = -1;
    }
  for (size_t i = 0; i < G_N_ELEMENTS (faults) && !g_test_failed (); i++)
    for (int n = 1, failures = 1; failures > 0 && !g_test_failed ();
         n += g_rand_int_range (run.rand, 1, stride))
      {
        g_autofree char *filter = g_strdup_printf ("blkdebug,%s,n=%d,id=fault", faults[i], n);
        char *filters[] = { (char *)"simdisk", filter, NULL };

        simdisk_set_seed (1);
        blkdebug_reset ("fault");
        g_autofree char *why = live_with_fault (&run, filters);
        failures = blkdebug_get_failures ("fault");
        if (why)
          test_fail ("%s at request %d: %s", faults[i], n, why);
        else if (failures == 0)
          g_test_message ("%s: up to request %d", faults[i], n);
      }
}

/* --- two directories --------------------------------------------------------------------------------------- */

/* The name in the new directory is durable first: a crash may leave both, never none. */
static void
test_directories (void)
{
  static const Case c = { "directories", IMAGE_VHD, 1, RENAME };
  g_auto (Run) run = { .c = &c, .changes = g_ptr_array_new_with_free_func (name_change_free) };
  const char *const pair[] = { "elsewhere/base", names[SOURCE] };
  g_autofree char *why = NULL, *below = NULL;

  test_begin (&run.dir, &run.rand, "conclude-directories", "conclude-directories");
  below = test_path (&run.dir, "elsewhere");
  g_assert_cmpint (g_mkdir (below, 0700), ==, 0);
  for (int i = 0; i < 2; i++)
    {
      image_make (&run.dir, pair[i], c.kind, 3 * MIB, MIB, i > 0 ? pair[0] : NULL);
      image_populate (&run.dir, pair[i], run.rand, 6, MIB, 0);
    }
  noting = &run;
  why = commit (&run, NULL, false);
  noting = NULL;
  g_assert_cmpstr (why, ==, NULL);
  g_assert_cmpuint (run.changes->len, ==, 1);
  const NameChange *change = g_ptr_array_index (run.changes, 0);
  for (int i = 0; i < 2; i++)
    if (change->flushed_at[i] == INT64_MAX)
      test_fail ("the directory of the %s name was not flushed", i == 0 ? "new" : "old");
  if (change->flushes[0] > change->flushes[1])
    test_fail ("the old name went before the new one was durable");
  if (!g_test_failed ())
    g_assert_cmpint (g_rmdir (below), ==, 0);
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  g_test_add_func ("/crash-conclude/vhd/directories", test_directories);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-conclude/%s/%s", image_kind_format (cases[i].kind), cases[i].name);

      g_autofree char *faults =
          g_strdup_printf ("/crash-conclude/%s/faults-%s", image_kind_format (cases[i].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_crashes);
      g_test_add_data_func (faults, &cases[i], test_faults);
    }
  return g_test_run ();
}
