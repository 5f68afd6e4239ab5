/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "images.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "simdisk.h"

static uint32_t base_seed;

/* --- tests --------------------------------------------------------------------------------------------- */

int64_t
test_number (const char *variable, int64_t fallback)
{
  const char *text = g_getenv (variable);
  int64_t number;

  return text && g_ascii_string_to_signed (text, 10, 0, INT64_MAX, &number, NULL) ? number : fallback;
}

void
test_init (int *argc, char ***argv)
{
  g_test_init (argc, argv, NULL);
  simdisk_register ();
  base_seed = test_number ("VHDKIT_SEED", g_random_int_range (1, 1000000));
  g_test_message ("VHDKIT_SEED=%u", base_seed);
}

GRand *
test_rand (const char *name)
{
  uint32_t seeds[] = { base_seed, g_str_hash (name) };

  return g_rand_new_with_seed_array (seeds, G_N_ELEMENTS (seeds));
}

void
test_dir_init (TestDir *dir, const char *name)
{
  const char *top = g_access ("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir ();
  g_autoptr (GError) error = NULL;

  dir->dir = g_strdup_printf ("%s/vhdkit-%s-XXXXXX", top, name);
  if (g_mkdtemp (dir->dir) == NULL)
    g_error ("%s: %s", dir->dir, g_strerror (errno));
  dir->context = vhdkit_context_new (&error);
  if (dir->context == NULL)
    g_error ("%s", error->message);
}

void
test_dir_clear (TestDir *dir)
{
  GDir *entries = g_test_failed () ? NULL : g_dir_open (dir->dir, 0, NULL);
  const char *name;

  vhdkit_context_free (dir->context);
  if (g_test_failed ())
    g_test_message ("files kept in %s", dir->dir);
  while (entries && (name = g_dir_read_name (entries)))
    {
      g_autofree char *path = g_build_filename (dir->dir, name, NULL);
      g_unlink (path);
    }
  if (entries)
    {
      g_dir_close (entries);
      g_rmdir (dir->dir);
    }
  g_free (dir->dir);
}

char *
test_path (const TestDir *dir, const char *name)
{
  return g_build_filename (dir->dir, name, NULL);
}

void
test_fail (const char *format, ...)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line; line++)
    g_test_message ("%s", *line);
  g_test_fail ();
}

/* --- images -------------------------------------------------------------------------------------------- */

/* Without a log: for runs that shall be the same again. */
static char **
simdisk_filters (GRand *rand)
{
  char *filters[] = { (char *)"simdisk", NULL };

  simdisk_set_seed (g_rand_int (rand));
  return g_strdupv (filters);
}

static char *
take_message (GError *error)
{
  char *message = g_strdup (error->message);

  g_error_free (error);
  return message;
}

void
image_make (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes, int64_t block_size,
            const char *parent)
{
  g_autofree char *path = test_path (dir, name);
  g_autofree char *parent_path = parent ? test_path (dir, parent) : NULL;
  g_autofree char *block = g_strdup_printf ("block_size=%" G_GINT64_FORMAT, block_size);
  const char *dynamic[] = { block, NULL }, *fixed[] = { "subformat=fixed", NULL };
  VhdkitCreateOptions options = { .struct_size = sizeof options,
                                  .format = kind == IMAGE_RAW ? "raw" : "vhd",
                                  .bytes = bytes,
                                  .format_options = kind == IMAGE_DYNAMIC ? dynamic
                                                    : kind == IMAGE_FIXED ? fixed
                                                                          : NULL,
                                  .parent = parent_path,
                                  .parent_flags = VHDKIT_OPEN_RAW_PARENT };
  g_autoptr (GError) error = NULL;

  if (!vhdkit_image_create (dir->context, path, &options, &error))
    g_error ("%s", error->message);
}

VhdkitImage *
image_open (const TestDir *dir, const char *name, unsigned flags, char **filters, char **why)
{
  g_autofree char *path = test_path (dir, name);
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = flags | VHDKIT_OPEN_RAW_PARENT,
                                .filters = (const char *const *)filters };
  GError *error = NULL;
  VhdkitImage *image = vhdkit_image_open (dir->context, path, &options, &error);

  if (image == NULL)
    {
      g_autofree char *message = take_message (error);
      *why = g_strdup_printf ("cannot be opened %s: %s",
                              flags & VHDKIT_OPEN_RDWR ? "for writing" : "read-only", message);
    }
  return image;
}

bool
image_close (VhdkitImage *image, char **why)
{
  g_autoptr (GError) error = NULL;

  if (vhdkit_image_close (image, &error))
    return true;
  if (why)
    *why = g_strdup (error->message);
  return false;
}

void
image_populate (const TestDir *dir, const char *name, GRand *rand, int n, int64_t block_size)
{
  GuestMix mix = { .write = 10,
                   .zeroes = 1,
                   .flush = 1,
                   .zero_data = 10,
                   .max_sectors = 64,
                   .whole_blocks = 30,
                   .block_size = block_size };
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = simdisk_filters (rand);
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, filters, &why);
  g_autoptr (GuestValues) values = image ? guest_read_image (image, &why) : NULL;

  if (values == NULL)
    g_error ("%s: %s", name, why);

  g_autoptr (Guest) guest = guest_new (values);
  g_auto (GuestRun)
      run = { .context = dir->context, .image = image, .guest = guest, .rand = rand, .depth = 4 };

  guest_run (&run, &mix, n);
  if (run.wrong)
    g_error ("%s: %s", name, run.wrong);
  if (!image_close (image, &why))
    g_error ("%s: %s", name, why);
}

GuestValues *
image_values (const TestDir *dir, const char *name, char **why)
{
  VhdkitImage *image = image_open (dir, name, 0, NULL, why);
  g_autoptr (GuestValues) values = NULL;

  if (image == NULL)
    return NULL;
  values = guest_read_image (image, why);
  if (!image_close (image, values ? why : NULL))
    return NULL;
  return g_steal_pointer (&values);
}

/* --- images of other writers ------------------------------------------------------------------------------ */

static uint64_t
get_be (const uint8_t *data, int bytes)
{
  uint64_t value = 0;

  for (int i = 0; i < bytes; i++)
    value = value << 8 | data[i];
  return value;
}

static void
put_be (uint8_t *data, int bytes, uint64_t value)
{
  for (int i = bytes; i-- > 0; value >>= 8)
    data[i] = value;
}

typedef struct
{
  int fd;
  uint8_t footer[512], header[1024];
  int64_t file_bytes, table_offset, block_size, bitmap_bytes;
  uint32_t entries;
} Vhd;

static void
vhd_read (Vhd *vhd, const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);

  vhd->fd = open (path, O_RDWR | O_CLOEXEC);
  vhd->file_bytes = lseek (vhd->fd, 0, SEEK_END);
  g_assert_cmpint (pread (vhd->fd, vhd->footer, 512, 0), ==, 512);
  g_assert_cmpint (pread (vhd->fd, vhd->header, 1024, get_be (vhd->footer + 16, 8)), ==, 1024);
  vhd->table_offset = get_be (vhd->header + 16, 8);
  vhd->entries = get_be (vhd->header + 28, 4);
  vhd->block_size = get_be (vhd->header + 32, 4);
  vhd->bitmap_bytes = (vhd->block_size / 512 / 8 + 511) / 512 * 512;
}

static void
vhd_write (const Vhd *vhd, const void *data, int64_t bytes, int64_t offset)
{
  g_assert_cmpint (pwrite (vhd->fd, data, bytes, offset), ==, bytes);
}

void
image_clear_bits (const TestDir *dir, const char *name)
{
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  for (uint32_t block = 0; block < vhd.entries; block++)
    {
      uint8_t entry[4], sector[512], *bitmap;
      int64_t start;

      g_assert_cmpint (pread (vhd.fd, entry, 4, vhd.table_offset + block * 4), ==, 4);
      if (get_be (entry, 4) == UINT32_MAX)
        continue;
      start = (int64_t)get_be (entry, 4) * 512;
      bitmap = g_malloc (vhd.bitmap_bytes);
      g_assert_cmpint (pread (vhd.fd, bitmap, vhd.bitmap_bytes, start), ==, vhd.bitmap_bytes);
      for (int64_t i = 0; i < vhd.block_size / 512; i++)
        {
          g_assert_cmpint (pread (vhd.fd, sector, 512, start + vhd.bitmap_bytes + i * 512), ==, 512);
          if (guest_decode (sector, 0) == 0)
            bitmap[i / 8] &= ~(0x80 >> i % 8);
        }
      vhd_write (&vhd, bitmap, vhd.bitmap_bytes, start);
      g_free (bitmap);
    }
  close (vhd.fd);
}

void
image_add_rubbish (const TestDir *dir, const char *name)
{
  uint8_t rubbish[512], entry[4];
  int64_t disk, blocks, table_end;
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  memset (rubbish, 0x5A, sizeof rubbish);
  disk = get_be (vhd.footer + 48, 8);
  blocks = (disk + vhd.block_size - 1) / vhd.block_size;
  g_assert_cmpint (pread (vhd.fd, entry, 4, vhd.table_offset + (blocks - 1) * 4), ==, 4);
  for (int64_t at = disk; get_be (entry, 4) != UINT32_MAX && at < blocks * vhd.block_size; at += 512)
    vhd_write (&vhd, rubbish, 512,
               get_be (entry, 4) * 512 + vhd.bitmap_bytes + at - (blocks - 1) * vhd.block_size);
  /* To the end of the sector: padding, which need not be anything. */
  table_end = vhd.table_offset + (blocks * 4 + 511) / 512 * 512;
  for (int64_t at = vhd.table_offset + blocks * 4; at < table_end; at += 4)
    vhd_write (&vhd, "\0\0\0\x28", 4, at);
  close (vhd.fd);
}

void
image_leave_reserve (const TestDir *dir, const char *name, int64_t bytes)
{
  uint8_t zeros[512] = { 0 };
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  vhd_write (&vhd, zeros, 512, vhd.file_bytes - 512);
  if (bytes > 0)
    vhd_write (&vhd, vhd.footer, 512, vhd.file_bytes - 512 + bytes);
  close (vhd.fd);
}

void
image_damage_copy (const TestDir *dir, const char *name)
{
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  vhd_write (&vhd, "rubbish", 7, 0);
  close (vhd.fd);
}

void
image_add_batmap (const TestDir *dir, const char *name)
{
  Vhd vhd;
  uint8_t batmap[512] = "tdbatmap", map[512] = { 0 };
  uint32_t sum = 0;
  int64_t at;

  vhd_read (&vhd, dir, name);
  /* The library leaves room behind small tables. */
  at = vhd.table_offset + ((int64_t)vhd.entries * 4 + 511) / 512 * 512;
  g_assert_cmpint (at % 4096, !=, 0);
  g_assert_cmpint (4096 - at % 4096, >=, 1024);
  put_be (batmap + 8, 8, at + 512);
  put_be (batmap + 16, 4, 1);
  put_be (batmap + 20, 4, 0x00010002);
  put_be (batmap + 24, 4, UINT32_MAX);
  vhd_write (&vhd, batmap, 512, at);
  vhd_write (&vhd, map, 512, at + 512);

  memcpy (vhd.footer + 28, "tap", 4);
  put_be (vhd.footer + 32, 4, 0x00010003);
  put_be (vhd.footer + 64, 4, 0);
  for (int i = 0; i < 512; i++)
    sum += vhd.footer[i];
  put_be (vhd.footer + 64, 4, ~sum);
  vhd_write (&vhd, vhd.footer, 512, 0);
  vhd_write (&vhd, vhd.footer, 512, vhd.file_bytes - 512);
  close (vhd.fd);
}

/* --- check and jobs -------------------------------------------------------------------------------------- */

static void
note_finding (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  GString *errors = opaque;

  if (severity == VHDKIT_CHECK_ERROR)
    g_string_append_printf (errors, "%s%s", errors->len ? "; " : "", text);
}

char *
image_check (const TestDir *dir, const char *name, int64_t *leaks)
{
  char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_CHECK | VHDKIT_OPEN_NO_PARENTS, NULL, &why);
  g_autoptr (GString) errors = g_string_new (NULL);
  VhdkitCheckResult result = { 0 };
  GError *error = NULL;

  if (image == NULL)
    return why;
  if (!vhdkit_image_check (image, false, &result, note_finding, errors, &error))
    {
      /* Raw images have nothing that could be wrong. */
      if (!g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED))
        why = g_strdup (error->message);
      g_clear_error (&error);
    }
  else if (result.corruptions > 0 || result.check_errors > 0)
    why = g_strdup_printf ("check: %s", errors->str);
  if (leaks)
    *leaks = result.leaks;
  image_close (image, why ? NULL : &why);
  return why;
}

/* Reads until the job has concluded. */
static char *
read_while_running (const TestDir *dir, VhdkitJob *job, VhdkitImage *image, Guest *reader, GRand *rand)
{
  GuestMix mix = { .read = 1, .max_sectors = 80 };
  g_auto (GuestRun)
      run = { .context = dir->context, .image = image, .guest = reader, .rand = rand, .depth = 3 };
  VhdkitJobProgress progress;

  for (;;)
    {
      vhdkit_job_get_progress (job, &progress);
      if (progress.state == VHDKIT_JOB_CONCLUDED)
        return g_steal_pointer (&run.wrong);
      if (run.wrong)
        vhdkit_context_iterate (dir->context, true);
      else
        guest_run (&run, &mix, 4);
    }
}

/* Runs the job, frees it and closes the image: the first error. */
static char *
run_job (const TestDir *dir, VhdkitJob *job, VhdkitImage *image, Guest *reader, GRand *rand,
         VhdkitCompactStats *stats, GError *error)
{
  char *why = NULL;

  if (job)
    {
      vhdkit_job_start (job, NULL, NULL);
      if (reader)
        why = read_while_running (dir, job, image, reader, rand);
      while (!why && !error)
        {
          VhdkitJobProgress progress;

          vhdkit_job_get_progress (job, &progress);
          if (progress.state == VHDKIT_JOB_CONCLUDED)
            break;
          vhdkit_context_iterate (dir->context, true);
        }
      if (!why)
        vhdkit_job_get_result (job, &error);
      if (stats)
        vhdkit_compact_get_stats (job, stats);
      vhdkit_job_free (job);
    }
  if (error)
    why = take_message (error);
  image_close (image, why ? NULL : &why);
  return why;
}

char *
image_commit (const TestDir *dir, const char *leaf, char **filters, int source, int target, bool shrink,
              Guest *reader, GRand *rand)
{
  VhdkitCommitOptions options = {
    .struct_size = sizeof options, .source_layer = source, .target_layer = target, .shrink_target = shrink
  };
  char *why = NULL;
  VhdkitImage *image = image_open (dir, leaf, 0, filters, &why);
  GError *error = NULL;
  VhdkitJob *job;

  if (image == NULL)
    return why;
  job = vhdkit_commit_new (image, &options, &error);
  return run_job (dir, job, image, reader, rand, NULL, error);
}

char *
image_compact (const TestDir *dir, const char *name, char **filters, Guest *reader, GRand *rand,
               VhdkitCompactStats *stats)
{
  VhdkitCompactOptions options = { .struct_size = sizeof options };
  char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, filters, &why);
  GError *error = NULL;
  VhdkitJob *job;

  if (image == NULL)
    return why;
  job = vhdkit_compact_new (image, &options, &error);
  return run_job (dir, job, image, reader, rand, stats, error);
}

char **
recording_filters (const TestDir *dir, const char *log, GRand *rand)
{
  g_autofree char *path = test_path (dir, log);
  char **filters = g_new0 (char *, 3);

  simdisk_set_seed (g_rand_int (rand));
  filters[0] = g_strdup ("simdisk");
  filters[1] = g_strconcat ("blklogwrites,log=", path, NULL);
  return filters;
}

/* --- judgement ----------------------------------------------------------------------------------------- */

/* What the leaf shows, and whether it may. */
static char *
judge_content (const CrashJudge *judge, int64_t at, GuestValues **values)
{
  char *why = NULL;

  *values = image_values (judge->dir, judge->name, &why);
  return *values == NULL ? why : guest_check (judge->guest, *values, at);
}

/* New requests after the crash: what is left behind must not come up in new blocks. */
static char *
judge_writes (const CrashJudge *judge, VhdkitImage *image, Guest *guest)
{
  GuestMix mix = { .write = 10,
                   .zeroes = 1,
                   .zeroes_unmap = 1,
                   .discard = 1,
                   .flush = 1,
                   .read = 3,
                   .zero_data = 10,
                   .max_sectors = 24,
                   .whole_blocks = 10,
                   .block_size = judge->block_size };
  g_auto (GuestRun) run = {
    .context = judge->dir->context, .image = image, .guest = guest, .rand = judge->rand, .depth = 4
  };

  guest_run (&run, &mix, 24);
  return g_steal_pointer (&run.wrong);
}

/* Opens for writing, which may put things right, and looks whether all is as before. */
static char *
judge_writable (const CrashJudge *judge, const GuestValues *values)
{
  bool leaf = strcmp (judge->name, judge->changed) == 0;
  char *why = NULL;
  g_auto (GStrv) filters = simdisk_filters (judge->rand);
  VhdkitImage *image = image_open (judge->dir, judge->changed, VHDKIT_OPEN_RDWR, filters, &why);
  g_autoptr (Guest) guest = guest_new (values);
  g_autoptr (GuestValues) again = NULL;

  if (image == NULL)
    return why;
  if (leaf)
    {
      again = guest_read_image (image, &why);
      if (again)
        why = guest_values_compare (again, values);
      if (!why && g_rand_int_range (judge->rand, 0, 100) < judge->writes_after)
        why = judge_writes (judge, image, guest);
    }
  image_close (image, why ? NULL : &why);
  if (why)
    return why;
  guest_values_free (again);
  again = image_values (judge->dir, judge->name, &why);
  if (again)
    why = guest_check (guest, again, GUEST_NOW);
  return why ? why : image_check (judge->dir, judge->changed, NULL);
}

static char *
in_step (const char *step, char *why)
{
  char *text = why ? g_strdup_printf ("%s: %s", step, why) : NULL;

  g_free (why);
  return text;
}

char *
crash_judge_files (const CrashJudge *judge, int64_t at)
{
  g_autoptr (GuestValues) values = NULL;
  char *why;

  why = in_step ("after the crash", judge_content (judge, at, &values));
  if (!why)
    why = in_step ("after the crash", image_check (judge->dir, judge->changed, NULL));
  if (!why && judge->trace)
    why = in_step ("opening read-only changed the file", crash_trace_changed_file (judge->trace, true));
  if (!why)
    why = in_step ("opened for writing after the crash", judge_writable (judge, values));
  if (!why && judge->look)
    why = judge->look (judge->opaque);
  return why;
}

char *
crash_judge (const CrashJudge *judge, size_t cut, CrashStrategy strategy, size_t special)
{
  crash_trace_make (judge->trace, cut, strategy, special, judge->rand);
  return crash_judge_files (judge, crash_trace_position (judge->trace, cut));
}

static CrashStrategy
draw_strategy (const CrashJudge *judge)
{
  return g_rand_int_range (judge->rand, 0, CRASH_STRATEGIES);
}

/* One crash; fails the test if it is wrong. */
static void
judge_one (const CrashJudge *judge, size_t cut, CrashStrategy strategy, size_t special)
{
  g_autofree char *why = crash_judge (judge, cut, strategy, special);

  if (why == NULL)
    return;
  /* As the crash left them, for a look. */
  crash_trace_rewrite (judge->trace);
  test_fail ("%s\n%s", why, crash_trace_story (judge->trace));
}

static void
report_race (const CrashJudge *judge)
{
  g_autofree char *race = crash_trace_find_race (judge->trace);

  if (race)
    test_fail ("%s", race);
}

static void
report_crashes (const CrashJudge *judge, int crashes, guint cuts)
{
  g_test_message ("%d crashes at %u places in a log of %zu records, %zu flushes", crashes, cuts,
                  crash_trace_records (judge->trace), crash_trace_flushes (judge->trace));
}

void
crash_judge_all (const CrashJudge *judge, int n)
{
  int limit = test_number ("VHDKIT_CRASH_CUTS", n);
  g_autoptr (GArray) cuts = crash_trace_cuts (judge->trace, judge->rand, limit / 4 + 1, limit);
  int rounds = MAX (1, limit / (int)cuts->len), crashes = 0;

  report_race (judge);
  for (guint i = 0; i < cuts->len && !g_test_failed (); i++)
    {
      size_t cut = g_array_index (cuts, size_t, i);
      bool certain = crash_trace_pending (judge->trace, cut) == 0;

      for (int round = 0; round < (certain ? 1 : rounds) && !g_test_failed (); round++, crashes++)
        judge_one (judge, cut, certain ? CRASH_KEEP_NONE : draw_strategy (judge), SIZE_MAX);
    }
  report_crashes (judge, crashes, cuts->len);
}

void
crash_judge_every (const CrashJudge *judge)
{
  size_t cuts = crash_trace_records (judge->trace) + 1;
  int crashes = 0;

  report_race (judge);
  for (size_t cut = 0; cut < cuts && !g_test_failed (); cut++)
    {
      size_t pending = crash_trace_pending (judge->trace, cut);

      judge_one (judge, cut, CRASH_KEEP_NONE, SIZE_MAX);
      judge_one (judge, cut, CRASH_KEEP_ALL, SIZE_MAX);
      for (size_t i = 0; i < pending && !g_test_failed (); i++)
        {
          judge_one (judge, cut, CRASH_DROP_ONE, i);
          judge_one (judge, cut, CRASH_KEEP_ONE, i);
          judge_one (judge, cut, CRASH_TEAR, SIZE_MAX);
        }
      crashes += 2 + 3 * pending;
    }
  report_crashes (judge, crashes, cuts);
}

bool
crash_judge_finds (const CrashJudge *judge, size_t k, int tries, char **why)
{
  size_t first, end;

  *why = NULL;
  crash_trace_ignore_flush (judge->trace, k);
  crash_trace_flush_effect (judge->trace, k, &first, &end);
  for (int i = 0; i < tries && *why == NULL; i++)
    {
      size_t cut = g_rand_int_range (judge->rand, first, end + 1);

      *why = crash_judge (judge, cut, draw_strategy (judge), SIZE_MAX);
    }
  crash_trace_ignore_flush (judge->trace, SIZE_MAX);
  return *why != NULL;
}
