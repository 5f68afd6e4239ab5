/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Convert and compare through the public API. */
#include "test-api-util.h"

#include <sys/stat.h>

static bool
run_convert (const char *from, const char *to, VhdkitConvertOptions *options, GError **error)
{
  VhdkitImage *source = open_image (from, 0);
  VhdkitImage *target = open_image (to, VHDKIT_OPEN_RDWR);

  options->struct_size = sizeof *options;
  VhdkitJob *job = vhdkit_convert_new (source, target, options, error);
  bool ok = job != NULL && vhdkit_job_run (job, NULL, NULL, error);
  vhdkit_job_free (job);
  close_image (target);
  close_image (source);
  return ok;
}

static VhdkitCompareStats
run_compare (const char *a, const char *b, bool strict)
{
  VhdkitImage *first = open_image (a, 0), *second = open_image (b, 0);
  VhdkitCompareOptions options = { .struct_size = sizeof options, .strict = strict };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_compare_new (first, second, &options, &error);
  VhdkitCompareStats stats;

  g_assert_no_error (error);
  g_assert_true (vhdkit_job_run (job, NULL, NULL, &error));
  vhdkit_compare_get_stats (job, &stats);
  vhdkit_job_free (job);
  close_image (first);
  close_image (second);
  return stats;
}

static int64_t
host_bytes (const char *path)
{
  struct stat status;

  g_assert_cmpint (stat (path, &status), ==, 0);
  return (int64_t)status.st_blocks * 512;
}

static void
fill_random (const char *path)
{
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  int64_t sectors = vhdkit_image_get_size (image) / 512;

  for (int i = 0; i < 30; i++)
    {
      int64_t first = g_test_rand_int_range (0, (gint32)sectors);
      int64_t count = g_test_rand_int_range (1, 3000);

      count = MIN (count, sectors - first);
      write_byte (image, first * 512, count * 512, g_test_rand_int_range (0, 4));
    }
  close_image (image);
}

static void
test_convert_random (void)
{
  for (int round = 0; round < 24; round++)
    {
      scratch_init ();
      const char *base = scratch_path ("base.raw");
      const char *source = scratch_path ("source.vhd");
      const char *target = scratch_path ("target");
      const char *format = round % 2 ? "raw" : "vhd";
      int64_t bytes = 8 * MIB + g_test_rand_int_range (0, 100) * 512;
      g_autoptr (GError) error = NULL;
      VhdkitConvertOptions options = {
        .parallel = (unsigned)g_test_rand_int_range (0, 17),
        .in_order = round & 2,
        .target_is_zero = round & 4,
        .sparse_bytes = round % 3 == 0   ? 0
                        : round % 3 == 1 ? 512
                                         : 64 * KIB,
        .copy_range = round & 8,
      };

      create_image (base, "raw", bytes, 0, NULL);
      fill_random (base);
      create_image (source, "vhd", -1, 0, base);
      fill_random (source);
      create_image (target, format, bytes, 0, NULL);
      if (!options.target_is_zero)
        fill_random (target);
      g_assert_true (run_convert (source, target, &options, &error));
      g_assert_no_error (error);

      VhdkitCompareStats stats = run_compare (source, target, false);
      g_assert_true (stats.equal);
      g_assert_cmpint (stats.first_difference, ==, -1);
      g_autofree uint8_t *a = read_file_view (source), *b = read_file_view (target);
      g_assert_cmpmem (a, (size_t)bytes, b, (size_t)bytes);
      scratch_clear ();
    }
}

static void
test_convert_sparse (void)
{
  scratch_init ();
  const char *source = scratch_path ("source.raw");
  const char *sparse = scratch_path ("sparse.raw");
  const char *full = scratch_path ("full.raw");
  VhdkitConvertOptions options = { .target_is_zero = true, .sparse_bytes = 4096 };

  create_image (source, "raw", 16 * MIB, 0, NULL);
  VhdkitImage *image = open_image (source, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 4 * MIB, 0);
  write_byte (image, 4 * MIB, MIB, 1);
  close_image (image);
  create_image (sparse, "raw", 16 * MIB, 0, NULL);
  g_assert_true (run_convert (source, sparse, &options, NULL));
  g_assert_cmpint (host_bytes (sparse), <=, MIB + 64 * KIB);

  options.sparse_bytes = 0;
  create_image (full, "raw", 16 * MIB, 0, NULL);
  g_assert_true (run_convert (source, full, &options, NULL));
  g_assert_cmpint (host_bytes (full), >=, 16 * MIB);
  g_assert_true (run_compare (source, full, false).equal);
  g_assert_true (run_compare (source, sparse, false).equal);
  scratch_clear ();
}

/* @data: whether the target's parent is one of the source's own layers. */
static void
test_convert_above_parent (gconstpointer data)
{
  bool common = GPOINTER_TO_INT (data);

  for (int round = 0; round < 8; round++)
    {
      scratch_init ();
      const char *base = scratch_path ("base.vhd");
      const char *copy = scratch_path ("copy.vhd");
      const char *middle = scratch_path ("middle.vhd");
      const char *source = scratch_path ("source.vhd");
      const char *target = scratch_path ("target.vhd");
      g_autoptr (GError) error = NULL;
      VhdkitConvertOptions options = { .sparse_bytes = 4096, .above_target_parent = true };
      VhdkitConvertOptions plain = { .sparse_bytes = 4096, .target_is_zero = true };

      create_image (base, "vhd", 8 * MIB, 64 * KIB, NULL);
      fill_random (base);
      create_image (copy, "vhd", 8 * MIB, 64 * KIB, NULL);
      g_assert_true (run_convert (base, copy, &plain, &error));
      create_image (middle, "vhd", -1, 64 * KIB, base);
      VhdkitImage *image = open_image (middle, VHDKIT_OPEN_RDWR);
      write_byte (image, MIB, 100 * KIB, 9);
      close_image (image);
      create_image (source, "vhd", -1, 64 * KIB, middle);
      image = open_image (source, VHDKIT_OPEN_RDWR);
      write_byte (image, 3 * MIB, 1536, 8);
      write_byte (image, 5 * MIB, 64 * KIB, 0);
      close_image (image);

      create_image (target, "vhd", -1, 64 * KIB, common ? base : copy);
      g_assert_true (run_convert (source, target, &options, &error));
      g_assert_no_error (error);
      g_autofree uint8_t *a = read_file_view (source), *b = read_file_view (target);
      g_assert_cmpmem (a, 8 * MIB, b, 8 * MIB);
      /* The rest is left to the parent. */
      g_assert_cmpint (host_bytes (target), <, 512 * KIB);
      scratch_clear ();
    }
}

static void
expect_no_convert (const char *from, const char *to, VhdkitConvertOptions options, VhdkitError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (run_convert (from, to, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
}

static void
test_convert_refusals (void)
{
  g_autoptr (GError) error = NULL;

  scratch_init ();
  const char *small = scratch_path ("small.raw");
  const char *large = scratch_path ("large.raw");
  create_image (small, "raw", MIB, 0, NULL);
  create_image (large, "raw", 2 * MIB, 0, NULL);
  expect_no_convert (large, small, (VhdkitConvertOptions){ 0 }, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_no_convert (small, large, (VhdkitConvertOptions){ .parallel = 17 }, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_no_convert (small, large, (VhdkitConvertOptions){ .sparse_bytes = 100 },
                     VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_no_convert (small, large, (VhdkitConvertOptions){ .above_target_parent = true },
                     VHDKIT_ERROR_INVALID_ARGUMENT);

  VhdkitImage *a = open_image (small, 0), *b = open_image (large, 0);
  VhdkitConvertOptions options = { .struct_size = sizeof options };
  g_assert_null (vhdkit_convert_new (a, b, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_READ_ONLY);
  close_image (a);
  close_image (b);
  scratch_clear ();
}

static void
test_compare_differences (void)
{
  scratch_init ();
  const char *a = scratch_path ("a.raw");
  const char *b = scratch_path ("b.vhd");
  VhdkitCompareStats stats;

  create_image (a, "raw", 20 * MIB, 0, NULL);
  create_image (b, "vhd", 20 * MIB, 0, NULL);
  stats = run_compare (a, b, false);
  g_assert_true (stats.equal && !stats.sizes_differ);

  for (int i = 0; i < 20; i++)
    {
      int64_t at = g_test_rand_int_range (0, 20 * MIB);
      VhdkitImage *image = open_image (i % 2 ? a : b, VHDKIT_OPEN_RDWR);
      write_byte (image, at, 1, 1);
      write_byte (image, 20 * MIB - 1, 1, 1);
      close_image (image);
      stats = run_compare (a, b, false);
      g_assert_false (stats.equal);
      g_assert_cmpint (stats.first_difference, ==, at);
      image = open_image (i % 2 ? a : b, VHDKIT_OPEN_RDWR);
      write_byte (image, at, 1, 0);
      write_byte (image, 20 * MIB - 1, 1, 0);
      close_image (image);
    }
  g_assert_true (run_compare (a, b, false).equal);
  scratch_clear ();
}

static void
test_compare_sizes (void)
{
  scratch_init ();
  const char *a = scratch_path ("a.raw");
  const char *b = scratch_path ("b.raw");
  VhdkitCompareStats stats;

  create_image (a, "raw", 2 * MIB, 0, NULL);
  create_image (b, "raw", 3 * MIB + 512, 0, NULL);
  stats = run_compare (a, b, false);
  g_assert_true (stats.equal && stats.sizes_differ);
  stats = run_compare (a, b, true);
  g_assert_true (!stats.equal && stats.sizes_differ);

  VhdkitImage *image = open_image (b, VHDKIT_OPEN_RDWR);
  write_byte (image, 2 * MIB + 700, 1, 1);
  close_image (image);
  stats = run_compare (b, a, false);
  g_assert_false (stats.equal);
  g_assert_cmpint (stats.first_difference, ==, 2 * MIB + 700);
  scratch_clear ();
}

static void
test_compare_strict (void)
{
  scratch_init ();
  const char *a = scratch_path ("a.vhd");
  const char *b = scratch_path ("b.vhd");
  VhdkitCompareStats stats;

  create_image (a, "vhd", 8 * MIB, 64 * KIB, NULL);
  create_image (b, "vhd", 8 * MIB, 64 * KIB, NULL);
  VhdkitImage *image = open_image (a, VHDKIT_OPEN_RDWR);
  write_byte (image, MIB, 64 * KIB, 0);
  close_image (image);
  g_assert_true (run_compare (a, b, false).equal);
  stats = run_compare (a, b, true);
  g_assert_true (!stats.equal && stats.allocation_differs);
  g_assert_cmpint (stats.first_difference, ==, MIB);
  scratch_clear ();
}

static void
test_compare_failed_side (void)
{
  scratch_init ();
  const char *a = scratch_path ("a.raw");
  const char *filters[] = { "blkdebug,op=read,n=2,errno=5", NULL };

  create_image (a, "raw", 8 * MIB, 0, NULL);
  VhdkitImage *image = open_image (a, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 8 * MIB, 1);
  close_image (image);
  for (int side = 0; side < 2; side++)
    {
      g_autoptr (GError) error = NULL;
      VhdkitOpenOptions open_options = { .struct_size = sizeof open_options,
                                         .format = "raw",
                                         .filters = filters };
      VhdkitImage *good = open_image (a, 0);
      VhdkitImage *bad = vhdkit_image_open (NULL, a, &open_options, &error);
      g_assert_no_error (error);
      VhdkitCompareOptions options = { .struct_size = sizeof options };
      VhdkitJob *job = side == 0 ? vhdkit_compare_new (bad, good, &options, &error)
                                 : vhdkit_compare_new (good, bad, &options, &error);
      VhdkitCompareStats stats;

      g_assert_false (vhdkit_job_run (job, NULL, NULL, &error));
      g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO);
      vhdkit_compare_get_stats (job, &stats);
      g_assert_cmpint (stats.failed_side, ==, side);
      vhdkit_job_free (job);
      close_image (good);
      close_image (bad);
    }
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/convert/random", test_convert_random);
  g_test_add_func ("/convert/sparse", test_convert_sparse);
  g_test_add_data_func ("/convert/above-parent/common", GINT_TO_POINTER (true), test_convert_above_parent);
  g_test_add_data_func ("/convert/above-parent/other", GINT_TO_POINTER (false), test_convert_above_parent);
  g_test_add_func ("/convert/refusals", test_convert_refusals);
  g_test_add_func ("/compare/differences", test_compare_differences);
  g_test_add_func ("/compare/sizes", test_compare_sizes);
  g_test_add_func ("/compare/strict", test_compare_strict);
  g_test_add_func ("/compare/failed-side", test_compare_failed_side);
  return g_test_run ();
}
