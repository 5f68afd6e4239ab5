/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "images.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "../../block/drivers/test/blkdebug.h"
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

int
test_fault_step (void)
{
  return g_test_rand_int_range (1, test_number ("VHDKIT_STRIDE", 1) + 1);
}

char *
fault_swallowed (const char *id)
{
  g_autofree char *lost = blkdebug_get_lost (id);

  if (blkdebug_has_failed_flush (id))
    return g_strdup ("a flush failed, and nobody was told");
  return lost ? g_strdup_printf ("a write failed, was not done again, and nobody was told: %s", lost) : NULL;
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
  const char *given = g_getenv ("VHDKIT_TEST_DIR");
  const char *top = given ? given : g_access ("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir ();
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
test_begin (TestDir *dir, GRand **rand, const char *program, const char *format, ...)
{
  g_autofree char *name = NULL;
  va_list args;

  va_start (args, format);
  name = g_strdup_vprintf (format, args);
  va_end (args);
  *rand = test_rand (name);
  test_dir_init (dir, program);
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

static const struct
{
  const char *name, *format;
  bool fixed;
  int sector;
} kinds[] = {
  [IMAGE_VHD_FIXED] = { "vhd fixed", "vhd", true, 512 },
  [IMAGE_VHD] = { "vhd", "vhd", false, 512 },
  [IMAGE_RAW] = { "raw", "raw", true, 512 },
  [IMAGE_VHDX_FIXED] = { "vhdx fixed", "vhdx", true, 512 },
  [IMAGE_VHDX] = { "vhdx", "vhdx", false, 512 },
  [IMAGE_VHDX_4K] = { "vhdx with sectors of 4K", "vhdx", false, 4096 },
};

const char *
image_kind_name (ImageKind kind)
{
  return kinds[kind].name;
}

const char *
image_kind_format (ImageKind kind)
{
  return kinds[kind].format;
}

bool
image_kind_is_sparse (ImageKind kind)
{
  return !kinds[kind].fixed;
}

int64_t
image_kind_sector (ImageKind kind)
{
  return kinds[kind].sector;
}

ImageKind
image_kind_of_parent (ImageKind child, bool fixed)
{
  return !fixed ? child : child == IMAGE_VHD ? IMAGE_VHD_FIXED : IMAGE_VHDX_FIXED;
}

static void
make (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes, int64_t block_size,
      const char *parent, bool incomplete)
{
  g_autofree char *path = test_path (dir, name);
  g_autofree char *parent_path = parent ? test_path (dir, parent) : NULL;
  g_autofree char *block = g_strdup_printf ("block_size=%" G_GINT64_FORMAT, block_size);
  g_autofree char *sector = g_strdup_printf ("logical_sector_size=%d", kinds[kind].sector);
  const char *format_options[5];
  VhdkitCreateOptions options = { .struct_size = sizeof options,
                                  .format = kinds[kind].format,
                                  .bytes = bytes,
                                  .format_options = format_options,
                                  .parent = parent_path,
                                  .parent_flags = VHDKIT_OPEN_RAW_PARENT,
                                  .incomplete = incomplete };
  g_autoptr (GError) error = NULL;
  int n = 0;

  if (block_size > 0)
    format_options[n++] = block;
  if (kinds[kind].fixed && kind != IMAGE_RAW)
    format_options[n++] = "subformat=fixed";
  if (strcmp (kinds[kind].format, "vhdx") == 0)
    {
      format_options[n++] = sector;
      /* The smallest, so that it wraps often. */
      format_options[n++] = "log_size=1M";
    }
  format_options[n] = NULL;
  if (!vhdkit_image_create (dir->context, path, &options, &error))
    g_error ("%s", error->message);
}

void
image_make (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes, int64_t block_size,
            const char *parent)
{
  make (dir, name, kind, bytes, block_size, parent, false);
}

void
image_make_incomplete (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes,
                       int64_t block_size, const char *parent)
{
  make (dir, name, kind, bytes, block_size, parent, true);
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
image_populate (const TestDir *dir, const char *name, GRand *rand, int n, int64_t block_size, int64_t ends)
{
  GuestMix mix = { .write = 10,
                   .zeroes = 1,
                   .flush = 1,
                   .zero_data = 10,
                   .max_sectors = 64,
                   .whole_blocks = 30,
                   .block_size = block_size,
                   .ends = ends };
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

GuestValues *
image_read (const TestDir *dir, const char *name)
{
  g_autofree char *why = NULL;
  GuestValues *values = image_values (dir, name, &why);

  if (values == NULL)
    g_error ("%s: %s", name, why);
  return values;
}

void
image_fill_end (const TestDir *dir, const char *name)
{
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, NULL, &why);
  int64_t sectors = image ? vhdkit_image_get_size (image) / GUEST_SECTOR : 0;
  uint8_t buffer[GUEST_SECTOR];

  for (int64_t sector = MAX (0, sectors - 20); sector < sectors; sector++)
    {
      guest_fill (buffer, sector, 999);
      if (vhdkit_image_pwrite (image, buffer, sector * GUEST_SECTOR, GUEST_SECTOR) < 0)
        g_error ("cannot write");
    }
  if (image == NULL || !image_close (image, &why))
    g_error ("%s", why);
}

void
image_add_rubbish (const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_NO_PARENTS, NULL, &why);
  VhdkitLayerInfo info = { 0 };
  VhdkitExtent extent;
  bool is_vhd;
  int fd = open (path, O_WRONLY | O_CLOEXEC);

  if (image == NULL || fd < 0 || !vhdkit_image_get_layer_info (image, 0, &info, NULL))
    g_error ("%s", why ? why : path);
  is_vhd = strcmp (info.format, "vhd") == 0;
  g_assert_cmpint (vhdkit_image_get_extent (image, info.virtual_size - GUEST_SECTOR, GUEST_SECTOR, &extent),
                   ==, 0);
  if (info.block_size > 0 && extent.has_file_offset && info.virtual_size % info.block_size != 0)
    {
      int64_t bytes = info.block_size - info.virtual_size % info.block_size;
      g_autofree uint8_t *rubbish = g_malloc (bytes);

      memset (rubbish, 0x5A, bytes);
      g_assert_cmpint (pwrite (fd, rubbish, bytes, extent.file_offset + GUEST_SECTOR), ==, bytes);
    }
  close (fd);
  vhdkit_layer_info_clear (&info);
  image_close (image, NULL);
  if (is_vhd)
    image_add_rubbish_to_table (dir, name);
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

void
image_add_swap (const TestDir *dir, const char *name, int64_t bytes)
{
  enum
  {
    PAGE = 4096,
    NUMBERS = 1024,
  };
  g_autofree uint8_t *page = g_malloc0 (PAGE);
  uint32_t numbers[] = { GUINT32_TO_LE (1), GUINT32_TO_LE (bytes / PAGE - 1) };
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, NULL, &why);

  memcpy (page + NUMBERS, numbers, sizeof numbers);
  memcpy (page + PAGE - 10, "SWAPSPACE2", 10);
  if (image == NULL || vhdkit_image_pwrite (image, page, 0, PAGE) < 0 || !image_close (image, &why))
    g_error ("%s", why ? why : "cannot write");
}

static const CrashTrace *noted_trace;
static int64_t *noted_end;

void
image_note_job_end (const CrashTrace *trace, int64_t *at)
{
  noted_trace = trace;
  noted_end = at;
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
      if (noted_end)
        *noted_end = crash_trace_now (noted_trace);
      noted_end = NULL;
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
              bool skip_identical, Guest *reader, GRand *rand)
{
  VhdkitCommitOptions options = { .struct_size = sizeof options,
                                  .source_layer = source,
                                  .target_layer = target,
                                  .shrink_target = shrink,
                                  .skip_identical = skip_identical };
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
image_convert (const TestDir *dir, const char *source, const char *target, char **filters)
{
  VhdkitConvertOptions options = { .struct_size = sizeof options };
  char *why = NULL;
  VhdkitImage *from = image_open (dir, source, 0, NULL, &why);
  VhdkitImage *to =
      from ? image_open (dir, target, VHDKIT_OPEN_RDWR | VHDKIT_OPEN_INCOMPLETE, filters, &why) : NULL;
  GError *error = NULL;
  VhdkitJob *job = to ? vhdkit_convert_new (from, to, &options, &error) : NULL;

  if (to)
    why = run_job (dir, job, to, NULL, NULL, NULL, error);
  if (from)
    image_close (from, why ? NULL : &why);
  return why;
}

char *
image_compact (const TestDir *dir, const char *name, VhdkitCompactOptions options, char **filters,
               Guest *reader, GRand *rand, VhdkitCompactStats *stats)
{
  char *why = NULL;
  VhdkitImage *image = image_open (dir, name, VHDKIT_OPEN_RDWR, filters, &why);
  GError *error = NULL;
  VhdkitJob *job;

  if (image == NULL)
    return why;
  options.struct_size = sizeof options;
  job = vhdkit_compact_new (image, &options, &error);
  return run_job (dir, job, image, reader, rand, stats, error);
}

char *
image_rebase (const TestDir *dir, const char *leaf, const char *parent, char **filters, Guest *reader,
              GRand *rand)
{
  VhdkitRebaseOptions options = { .struct_size = sizeof options };
  char *why = NULL;
  VhdkitImage *onto = parent ? image_open (dir, parent, 0, NULL, &why) : NULL;
  VhdkitImage *image = parent && onto == NULL ? NULL : image_open (dir, leaf, 0, filters, &why);
  GError *error = NULL;
  VhdkitJob *job = image ? vhdkit_rebase_new (image, onto, &options, &error) : NULL;

  if (image)
    why = run_job (dir, job, image, reader, rand, NULL, error);
  if (onto)
    image_close (onto, why ? NULL : &why);
  return why;
}

char *
image_check_parent (const TestDir *dir, const char *name, const char *parent)
{
  VhdkitLayerInfo info = { 0 };
  char *why = NULL;
  VhdkitImage *image = image_open (dir, name, 0, NULL, &why);
  g_autofree char *found = NULL;

  if (image == NULL)
    return why;
  if (vhdkit_image_get_layer_info (image, 0, &info, NULL) && info.parent_filename != NULL)
    found = g_path_get_basename (info.parent_filename);
  if (g_strcmp0 (found, parent) != 0)
    why =
        g_strdup_printf ("the parent is %s instead of %s", found ? found : "none", parent ? parent : "none");
  vhdkit_layer_info_clear (&info);
  image_close (image, why ? NULL : &why);
  return why;
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

CrashTrace *
recording_trace (const TestDir *dir, const char *log, const char *const *names)
{
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *log_path = test_path (dir, log);

  for (int i = 0; names[i]; i++)
    g_ptr_array_add (paths, test_path (dir, names[i]));
  g_ptr_array_add (paths, NULL);
  return crash_trace_new (log_path, (const char *const *)paths->pdata);
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
                   .block_size = judge->block_size,
                   .ends = judge->ends };
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
  if (!why)
    why = image_look_below_bits (judge->dir, judge->changed);
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
  if (!why && judge->keeps_footer)
    why = in_step ("after the crash", image_look_at_end (judge->dir, judge->changed));
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

/* How many crashes that is. */
static int
count_every (const CrashJudge *judge)
{
  int crashes = 0;

  for (size_t cut = 0; cut <= crash_trace_records (judge->trace); cut++)
    crashes += 2 + 3 * crash_trace_pending (judge->trace, cut);
  return crashes;
}

void
crash_judge_every (const CrashJudge *judge, int n)
{
  size_t cuts = crash_trace_records (judge->trace) + 1;
  int all = count_every (judge), limit = n > 0 ? test_number ("VHDKIT_CRASH_CUTS", n) : all;
  int crashes = 0;

  report_race (judge);
  for (size_t cut = 0; cut < cuts; cut++)
    {
      size_t pending = crash_trace_pending (judge->trace, cut);

      for (size_t i = 0; i < 2 + 3 * pending && !g_test_failed (); i++)
        {
          static const CrashStrategy of_one[] = { CRASH_DROP_ONE, CRASH_KEEP_ONE, CRASH_TEAR };

          if (limit < all && g_rand_int_range (judge->rand, 0, all) >= limit)
            continue;
          if (i < 2)
            judge_one (judge, cut, i == 0 ? CRASH_KEEP_NONE : CRASH_KEEP_ALL, SIZE_MAX);
          else
            judge_one (judge, cut, of_one[i % 3], (i - 2) / 3);
          crashes++;
        }
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
