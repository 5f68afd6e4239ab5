/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compact through the public API: what goes, what stays, how small the file gets, faults, cancel. */
#include "test-api-util.h"

#define BLOCK (64 * KIB)

typedef struct
{
  VhdkitCompactStats stats;
  bool ok;
} Outcome;

static Outcome
run_compact (const char *path, VhdkitCompactOptions *options, const char *const *filters, GError **error)
{
  VhdkitImage *image = open_image_with (path, VHDKIT_OPEN_RDWR, filters);
  Outcome outcome = { 0 };

  options->struct_size = sizeof *options;
  VhdkitJob *job = vhdkit_compact_new (image, options, error);
  if (job != NULL)
    {
      outcome.ok = vhdkit_job_run (job, NULL, NULL, error);
      vhdkit_compact_get_stats (job, &outcome.stats);
    }
  vhdkit_job_free (job);
  vhdkit_image_close (image, NULL);
  return outcome;
}

static Outcome
compact (const char *path)
{
  g_autoptr (GError) error = NULL;
  VhdkitCompactOptions options = { 0 };
  Outcome outcome = run_compact (path, &options, NULL, &error);

  g_assert_no_error (error);
  g_assert_true (outcome.ok);
  return outcome;
}

static void
assert_view (const char *path, const uint8_t *expected, int64_t bytes)
{
  g_autofree uint8_t *view = read_file_view (path);

  g_assert_cmpmem (view, (size_t)bytes, expected, (size_t)bytes);
}

/* Blocks 0, 3, 6 … hold data, the others zeros that are stored. */
static void
make_thirds (const char *path, int blocks)
{
  create_image (path, "vhd", blocks * BLOCK, BLOCK, NULL);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  for (int i = 0; i < blocks; i++)
    write_byte (image, i * BLOCK, BLOCK, i % 3 == 0 ? i % 255 + 1 : 0);
  close_image (image);
}

static void
test_zero_blocks (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.vhd");

  make_thirds (path, 90);
  g_autofree uint8_t *before = read_file_view (path);
  Outcome outcome = compact (path);
  g_assert_cmpint (outcome.stats.blocks_dropped, ==, 60);
  g_assert_cmpint (outcome.stats.blocks_allocated, ==, 90);
  g_assert_cmpint (outcome.stats.blocks_moved, ==, 20);
  g_assert_cmpint (outcome.stats.file_size_after, <, outcome.stats.file_size_before);
  g_assert_cmpint (outcome.stats.file_size_after, <, 30 * (BLOCK + 4096) + 16 * KIB);
  assert_view (path, before, 90 * BLOCK);
  assert_checks_clean (path);

  /* Nothing is left to do. */
  Outcome again = compact (path);
  g_assert_cmpint (again.stats.blocks_dropped, ==, 0);
  g_assert_cmpint (again.stats.blocks_moved, ==, 0);
  g_assert_cmpint (again.stats.file_size_after, ==, outcome.stats.file_size_after);
  scratch_clear ();
}

static void
test_options (void)
{
  g_autoptr (GError) error = NULL;

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_thirds (path, 90);
  g_autofree uint8_t *before = read_file_view (path);

  VhdkitCompactOptions no_scan = { .no_zero_scan = true };
  Outcome outcome = run_compact (path, &no_scan, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpint (outcome.stats.blocks_dropped, ==, 0);
  VhdkitCompactOptions no_moves = { .no_block_moves = true };
  outcome = run_compact (path, &no_moves, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpint (outcome.stats.blocks_dropped, ==, 60);
  g_assert_cmpint (outcome.stats.blocks_moved, ==, 0);
  assert_view (path, before, 90 * BLOCK);
  outcome = compact (path);
  g_assert_cmpint (outcome.stats.blocks_moved, ==, 20);
  assert_view (path, before, 90 * BLOCK);
  scratch_clear ();
}

/* In a differencing image: equal to the parent goes, zero over data stays, zero over zero goes. */
static void
test_differencing (void)
{
  scratch_init ();
  const char *base = scratch_path ("base.vhd");
  const char *leaf = scratch_path ("leaf.vhd");

  create_image (base, "vhd", 40 * BLOCK, BLOCK, NULL);
  VhdkitImage *image = open_image (base, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 20 * BLOCK, 1);
  close_image (image);
  create_image (leaf, "vhd", 50 * BLOCK, BLOCK, base); /* longer than its parent */
  image = open_image (leaf, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 5 * BLOCK, 1);                      /* equal */
  write_byte (image, 5 * BLOCK, 5 * BLOCK, 0);              /* zero over data */
  write_byte (image, 10 * BLOCK, 5 * BLOCK, 2);             /* different */
  write_byte (image, 15 * BLOCK + 512, 4 * BLOCK - 512, 1); /* equal, in part */
  write_byte (image, 19 * BLOCK + BLOCK - 512, 512, 3);     /* different at the very end */
  write_byte (image, 30 * BLOCK, 5 * BLOCK, 0);             /* zero over zero */
  write_byte (image, 42 * BLOCK, 4 * BLOCK, 0);             /* zero past the parent's end */
  write_byte (image, 46 * BLOCK, 4 * BLOCK, 4);
  close_image (image);
  g_autofree uint8_t *before = read_file_view (leaf);

  Outcome outcome = compact (leaf);
  g_assert_cmpint (outcome.stats.blocks_allocated - outcome.stats.blocks_dropped, ==, 5 + 5 + 1 + 4);
  assert_view (leaf, before, 50 * BLOCK);
  assert_checks_clean (leaf);

  /* Without its parent nobody can tell. */
  g_autoptr (GError) error = NULL;
  image = open_image (leaf, VHDKIT_OPEN_RDWR | VHDKIT_OPEN_NO_PARENTS);
  VhdkitCompactOptions options = { .struct_size = sizeof options };
  g_assert_null (vhdkit_compact_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  close_image (image);
  scratch_clear ();
}

static void
test_refusals (void)
{
  g_autoptr (GError) error = NULL;
  VhdkitCompactOptions options = { .struct_size = sizeof options };

  scratch_init ();
  const char *raw = scratch_path ("a.raw");
  const char *vhd = scratch_path ("a.vhd");
  create_image (raw, "raw", MIB, 0, NULL);
  VhdkitImage *image = open_image (raw, VHDKIT_OPEN_RDWR);
  g_assert_null (vhdkit_compact_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
  g_clear_error (&error);
  close_image (image);

  create_image (vhd, "vhd", MIB, 0, NULL);
  image = open_image (vhd, 0);
  g_assert_null (vhdkit_compact_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_READ_ONLY);
  g_clear_error (&error);
  close_image (image);
  image = open_image (vhd, VHDKIT_OPEN_RDWR);
  options.parallel = 17;
  g_assert_null (vhdkit_compact_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  close_image (image);
  scratch_clear ();
}

/* Half of a swap disk's blocks hold data nobody uses. */
static void
make_swap (const char *path, const char *format, int64_t block)
{
  uint8_t page[4096] = { [1024] = 1 };
  uint32_t last = GUINT32_TO_LE ((uint32_t)(16 * block / 4096 - 1));

  memcpy (page + 1028, &last, sizeof last);
  memcpy (page + sizeof page - 10, "SWAPSPACE2", 10);
  create_image (path, format, 16 * block, block, NULL);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 8 * block, 7);
  g_assert_cmpint (vhdkit_image_pwrite (image, page, 0, sizeof page), ==, 0);
  close_image (image);
}

static void
test_modes (void)
{
  static const struct
  {
    VhdkitCompactMode mode;
    int64_t dropped;
  } modes[] = {
    { VHDKIT_COMPACT_FULL, 7 },       { VHDKIT_COMPACT_QUICK, 7 },  { VHDKIT_COMPACT_PREZEROED, 0 },
    { VHDKIT_COMPACT_PRETRIMMED, 0 }, { VHDKIT_COMPACT_RETRIM, 7 }, { VHDKIT_COMPACT_PUNCH, 7 },
    { VHDKIT_COMPACT_PACK, 7 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (modes); i++)
    {
      scratch_init ();
      const char *path = scratch_path ("a.vhdx");
      make_swap (path, "vhdx", MIB);
      for (int dry_run = 1; dry_run >= 0; dry_run--)
        {
          g_autoptr (GError) error = NULL;
          VhdkitCompactOptions options = { .mode = modes[i].mode, .dry_run = dry_run };
          Outcome outcome = run_compact (path, &options, NULL, &error);

          g_assert_no_error (error);
          g_assert_cmpint (outcome.stats.blocks_allocated, ==, 8);
          g_assert_cmpint (outcome.stats.blocks_free, ==, modes[i].dropped);
          g_assert_cmpint (outcome.stats.blocks_dropped, ==, modes[i].dropped);
          g_assert_cmpint (outcome.stats.block_size, ==, MIB);
        }
      scratch_clear ();
    }
}

/* What options and formats do not go together. */
static void
test_modes_refused (void)
{
  VhdkitCompactOptions wrong[] = {
    { .mode = VHDKIT_COMPACT_PACK + 1 },
    { .mode = VHDKIT_COMPACT_FULL, .punch_blocks = true },
    { .mode = VHDKIT_COMPACT_RETRIM },
  };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_swap (path, "vhd", BLOCK);
  for (size_t i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;

      run_compact (path, &wrong[i], NULL, &error);
      VhdkitError code = i < 2 ? VHDKIT_ERROR_INVALID_ARGUMENT : VHDKIT_ERROR_UNSUPPORTED;
      g_assert_error (error, VHDKIT_ERROR, (int)code);
    }
  scratch_clear ();
}

/* A caller that was built before there were modes gets the first one. */
static void
test_older_options (void)
{
  g_autoptr (GError) error = NULL;
  VhdkitCompactOptions options = { .struct_size = G_STRUCT_OFFSET (VhdkitCompactOptions, mode),
                                   .mode = VHDKIT_COMPACT_PREZEROED,
                                   .dry_run = true };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_swap (path, "vhd", BLOCK);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  VhdkitJob *job = vhdkit_compact_new (image, &options, &error);
  g_assert_no_error (error);
  g_assert_true (vhdkit_job_run (job, NULL, NULL, &error));
  VhdkitCompactStats stats;
  vhdkit_compact_get_stats (job, &stats);
  g_assert_cmpint (stats.blocks_free, ==, 7);
  g_assert_cmpint (stats.file_size_after, <, stats.file_size_before);

  g_autoptr (GVariant) report = vhdkit_compact_get_report (job);
  g_autoptr (GVariant) volumes = g_variant_lookup_value (report, "volumes", G_VARIANT_TYPE ("aa{sv}"));
  g_assert_cmpuint (g_variant_n_children (volumes), ==, 1);
  g_autoptr (GVariant) volume = g_variant_get_child_value (volumes, 0);
  const char *type;
  gint64 free_bytes;
  g_assert_true (g_variant_lookup (volume, "type", "&s", &type));
  g_assert_cmpstr (type, ==, "swap");
  g_assert_true (g_variant_lookup (volume, "free", "x", &free_bytes));
  g_assert_cmpint (free_bytes, ==, 16 * BLOCK - 4096);
  vhdkit_job_free (job);
  close_image (image);
  scratch_clear ();
}

static void
test_random (void)
{
  for (int round = 0; round < 30; round++)
    {
      scratch_init ();
      const char *base = scratch_path ("base.vhd");
      const char *leaf = scratch_path ("leaf.vhd");
      bool differencing = round % 2;
      const char *path = differencing ? leaf : base;
      int64_t bytes = 40 * BLOCK + g_test_rand_int_range (0, 200) * 512;

      create_image (base, "vhd", bytes, BLOCK, NULL);
      if (differencing)
        create_image (leaf, "vhd", bytes, g_test_rand_int_range (0, 2) ? BLOCK : 4 * KIB, base);
      for (int layer = 0; layer <= differencing; layer++)
        {
          VhdkitImage *image = open_image (layer == 0 ? base : leaf, VHDKIT_OPEN_RDWR);
          for (int i = 0; i < 60; i++)
            {
              int64_t first = g_test_rand_int_range (0, (gint32)(bytes / 512));
              int64_t count = g_test_rand_int_range (1, 300);

              count = MIN (count, bytes / 512 - first);
              write_byte (image, first * 512, count * 512, g_test_rand_int_range (0, 3));
            }
          close_image (image);
        }
      g_autofree uint8_t *before = read_file_view (path);
      Outcome outcome = compact (path);
      g_assert_cmpint (outcome.stats.file_size_after, <=, outcome.stats.file_size_before);
      assert_view (path, before, bytes);
      assert_checks_clean (path);
      Outcome again = compact (path);
      g_assert_cmpint (again.stats.blocks_dropped, ==, 0);
      g_assert_cmpint (again.stats.file_size_after, ==, outcome.stats.file_size_after);
      scratch_clear ();
    }
}

/* Every request of a kind fails once: sound, the same view, and the next run finishes. */
static void
test_faults (gconstpointer data)
{
  const char *op = data;
  bool got_through = false;

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  for (int n = 1; !got_through && n < 2000; n++)
    {
      g_autofree char *filter = g_strdup_printf ("blkdebug,op=%s,n=%d,errno=5", op, n);
      const char *filters[] = { filter, NULL };
      g_autoptr (GError) error = NULL;
      VhdkitOpenOptions open_options = { .struct_size = sizeof open_options,
                                         .flags = VHDKIT_OPEN_RDWR,
                                         .filters = filters };
      VhdkitCompactOptions options = { .struct_size = sizeof options };

      make_thirds (path, 30);
      g_autofree uint8_t *before = read_file_view (path);
      VhdkitImage *image = vhdkit_image_open (NULL, path, &open_options, &error);
      if (image != NULL)
        {
          VhdkitJob *job = vhdkit_compact_new (image, &options, &error);
          g_assert_no_error (error);
          got_through = vhdkit_job_run (job, NULL, NULL, &error);
          g_assert_true (got_through == (error == NULL));
          vhdkit_job_free (job);
          vhdkit_image_close (image, NULL);
        }
      assert_view (path, before, 30 * BLOCK);
      assert_checks_clean (path);
      Outcome outcome = compact (path);
      g_assert_cmpint (outcome.stats.file_size_after, <, 10 * (BLOCK + 4096) + 16 * KIB);
      assert_view (path, before, 30 * BLOCK);
      g_unlink (path);
    }
  g_assert_true (got_through);
  scratch_clear ();
}

static void
cancel_soon (VhdkitJob *job, void *opaque)
{
  vhdkit_job_cancel (job);
}

static void
test_cancel_and_again (void)
{
  g_autoptr (GError) error = NULL;
  VhdkitCompactOptions options = { .struct_size = sizeof options };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_thirds (path, 90);
  g_autofree uint8_t *before = read_file_view (path);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  VhdkitJob *job = vhdkit_compact_new (image, &options, &error);
  g_assert_no_error (error);
  vhdkit_job_set_rate_limit (job, 2 * MIB);
  g_assert_false (vhdkit_job_run (job, cancel_soon, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  vhdkit_job_free (job);
  close_image (image);
  assert_view (path, before, 90 * BLOCK);
  assert_checks_clean (path);
  Outcome outcome = compact (path);
  g_assert_cmpint (outcome.stats.file_size_after, <, 30 * (BLOCK + 4096) + 16 * KIB);
  assert_view (path, before, 90 * BLOCK);
  scratch_clear ();
}

/* A compaction fails at its n-th request of a kind, and the guest goes on writing: what new blocks hold
 * beside what it writes is zeros, not what the file held there. */
static bool
fails_and_goes_on (const char *op, int n)
{
  g_autofree char *filter = g_strdup_printf ("blkdebug,op=%s,n=%d", op, n);
  const char *filters[] = { filter, NULL };
  g_autofree uint8_t *model = g_malloc0 (60 * BLOCK);
  VhdkitCompactOptions options = { .struct_size = sizeof options };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  create_image (path, "vhd", 60 * BLOCK, BLOCK, NULL);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 60 * BLOCK, 0xEE);
  for (int i = 0; i < 60; i++)
    if (i % 3 == 0)
      memset (model + i * BLOCK, 0xEE, BLOCK);
    else
      g_assert_cmpint (vhdkit_image_discard (image, i * BLOCK, BLOCK), ==, 0);
  close_image (image);

  image = open_image_with (path, VHDKIT_OPEN_RDWR, filters);
  VhdkitJob *job = vhdkit_compact_new (image, &options, NULL);
  bool ok = vhdkit_job_run (job, NULL, NULL, NULL);
  vhdkit_job_free (job);
  for (int i = 1; i < 60; i += 3)
    {
      uint8_t sector[512];

      memset (sector, i, sizeof sector);
      if (vhdkit_image_pwrite (image, sector, i * BLOCK + 1024, sizeof sector) < 0)
        break;
      memset (model + i * BLOCK + 1024, i, sizeof sector);
    }
  g_autofree uint8_t *view = read_all (image);
  g_assert_cmpmem (view, 60 * BLOCK, model, 60 * BLOCK);
  if (vhdkit_image_close (image, NULL))
    assert_view (path, model, 60 * BLOCK);
  assert_checks_clean (path);
  scratch_clear ();
  return !ok;
}

static void
test_fails_and_goes_on (void)
{
  static const char *const ops[] = { "truncate", "flush", "write" };

  for (size_t i = 0; i < G_N_ELEMENTS (ops); i++)
    for (int n = 1, passed = 0; passed < 4; n++)
      passed = fails_and_goes_on (ops[i], n) ? 0 : passed + 1;
}

/* --- what was under way before ------------------------------------------------------------------------- */

#define FLYING_BYTES  (8 * MIB)
#define FLYING_WRITES 8
#define FLYING_ROUNDS 10

typedef struct
{
  struct iovec iov[FLYING_WRITES];
  int left, failed;
} Flying;

static void
on_written (void *opaque, int ret)
{
  Flying *flying = opaque;

  flying->left--;
  flying->failed += ret < 0;
}

/* Writes @data to all of @image, in several requests that are under way. */
static void
start_writes (Flying *flying, VhdkitImage *image, uint8_t *data)
{
  const size_t each = FLYING_BYTES / FLYING_WRITES;

  flying->left = FLYING_WRITES;
  for (int i = 0; i < FLYING_WRITES; i++)
    {
      flying->iov[i] = (struct iovec){ data, each };
      vhdkit_image_aio_pwritev (image, &flying->iov[i], 1, i * (int64_t)each, on_written, flying);
    }
}

/* None has failed, and nothing is lost. */
static void
end_writes (const Flying *flying, VhdkitImage *image, const char *path, const uint8_t *data)
{
  while (flying->left > 0)
    vhdkit_context_iterate (NULL, true);
  g_assert_cmpint (flying->failed, ==, 0);
  close_image (image);
  assert_view (path, data, FLYING_BYTES);
  assert_checks_clean (path);
  scratch_clear ();
}

/* Writes that had begun before the job are part of what it finds: their blocks are zeros when it begins, and must not go
 * while the data is on its way.  Each goes block by block, so that the scan meets it somewhere. */
static void
test_writes_under_way (void)
{
  g_autofree uint8_t *data = g_malloc (FLYING_BYTES);

  memset (data, 0x5a, FLYING_BYTES);
  for (int round = 0; round < FLYING_ROUNDS; round++)
    {
      g_autoptr (GError) error = NULL;
      VhdkitCompactOptions options = { .struct_size = sizeof options, .mode = VHDKIT_COMPACT_PREZEROED };
      Flying flying = { 0 };

      scratch_init ();
      const char *path = scratch_path ("a.vhd");
      create_image (path, "vhd", FLYING_BYTES, 4 * KIB, NULL);
      VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
      write_byte (image, 0, FLYING_BYTES, 0);
      g_assert_cmpint (vhdkit_image_flush (image), ==, 0);
      VhdkitJob *job = vhdkit_compact_new (image, &options, &error);
      g_assert_no_error (error);
      start_writes (&flying, image, data);
      g_assert_true (vhdkit_job_run (job, NULL, NULL, &error));
      g_assert_no_error (error);
      vhdkit_job_free (job);
      end_writes (&flying, image, path, data);
    }
}

/* A repair cuts the file behind the last block, which may come while it looks: it waits for the writes, too. */
static void
test_repair_beside_writes (void)
{
  g_autofree uint8_t *data = g_malloc (FLYING_BYTES);

  memset (data, 0x5a, FLYING_BYTES);
  for (int round = 0; round < FLYING_ROUNDS; round++)
    {
      g_autoptr (GError) error = NULL;
      VhdkitCheckResult result;
      Flying flying = { 0 };

      scratch_init ();
      const char *path = scratch_path ("a.vhd");
      create_image (path, "vhd", FLYING_BYTES, 4 * KIB, NULL);
      VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
      start_writes (&flying, image, data);
      g_assert_true (vhdkit_image_check (image, true, &result, NULL, NULL, &error));
      g_assert_no_error (error);
      end_writes (&flying, image, path, data);
    }
}

/* Two jobs made while the image was idle: the second to be started ends with an error. */
static void
test_two_jobs (void)
{
  g_autoptr (GError) error = NULL;
  VhdkitCompactOptions options = { .struct_size = sizeof options };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_thirds (path, 90);
  g_autofree uint8_t *before = read_file_view (path);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  VhdkitJob *first = vhdkit_compact_new (image, &options, &error);
  g_assert_no_error (error);
  VhdkitJob *second = vhdkit_compact_new (image, &options, &error);
  g_assert_no_error (error);
  vhdkit_job_start (first, NULL, NULL);
  VhdkitCheckResult result;
  g_assert_false (vhdkit_image_check (image, true, &result, NULL, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  g_clear_error (&error);
  g_assert_false (vhdkit_job_run (second, NULL, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  g_clear_error (&error);
  g_assert_true (vhdkit_job_run (first, NULL, NULL, &error));
  g_assert_no_error (error);
  vhdkit_job_free (first);
  vhdkit_job_free (second);
  write_byte (image, 0, 512, before[0]);
  close_image (image);
  assert_view (path, before, 90 * BLOCK);
  assert_checks_clean (path);
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/compact/zero-blocks", test_zero_blocks);
  g_test_add_func ("/compact/options", test_options);
  g_test_add_func ("/compact/differencing", test_differencing);
  g_test_add_func ("/compact/refusals", test_refusals);
  g_test_add_func ("/compact/modes", test_modes);
  g_test_add_func ("/compact/modes-refused", test_modes_refused);
  g_test_add_func ("/compact/older-options", test_older_options);
  g_test_add_func ("/compact/random", test_random);
  g_test_add_data_func ("/compact/faults/write", "write", test_faults);
  g_test_add_data_func ("/compact/faults/read", "read", test_faults);
  g_test_add_data_func ("/compact/faults/flush", "flush", test_faults);
  g_test_add_data_func ("/compact/faults/truncate", "truncate", test_faults);
  g_test_add_func ("/compact/cancel-and-again", test_cancel_and_again);
  g_test_add_func ("/compact/fails-and-goes-on", test_fails_and_goes_on);
  g_test_add_func ("/compact/writes-under-way", test_writes_under_way);
  g_test_add_func ("/compact/repair-beside-writes", test_repair_beside_writes);
  g_test_add_func ("/compact/two-jobs", test_two_jobs);
  return g_test_run ();
}
