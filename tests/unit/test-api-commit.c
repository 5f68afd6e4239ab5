/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commit through the public API: random chains against a model, zeros, sizes, faults, cancel, space. */
#include "test-api-util.h"

#include <errno.h>

#define MAX_LAYERS 6

/* --- chains -------------------------------------------------------------------------------------------- */

/* Layer 0 is the leaf, as in the API. */
typedef struct
{
  int layers;
  const char *paths[MAX_LAYERS];
  int64_t bytes[MAX_LAYERS];
} Chain;

static void
write_random (const char *path, int writes)
{
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  int64_t sectors = vhdkit_image_get_size (image) / 512;

  for (int i = 0; i < writes; i++)
    {
      int64_t count =
          g_test_rand_int_range (0, 3) == 0 ? g_test_rand_int_range (1, 1000) : g_test_rand_int_range (1, 9);
      int64_t first = g_test_rand_int_range (0, (gint32)sectors);

      count = MIN (count, sectors - first);
      switch (g_test_rand_int_range (0, 6))
        {
        case 0:
          g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, first * 512, count * 512, false), ==, 0);
          break;
        case 1:
          write_byte (image, first * 512, count * 512, 0);
          break;
        default:
          write_byte (image, first * 512, count * 512, g_test_rand_int_range (1, 256));
        }
    }
  close_image (image);
}

/* @base_format: "raw" or "vhd". */
static void
chain_make (Chain *chain, int layers, const char *base_format, bool resized)
{
  static const int64_t block_sizes[] = { 0, 4 * KIB, 64 * KIB, 512 * KIB };
  int64_t bytes = 3 * MIB + g_test_rand_int_range (0, 2000) * 512;

  chain->layers = layers;
  for (int i = layers - 1; i >= 0; i--)
    {
      g_autofree char *name = g_strdup_printf ("layer%d", i);
      bool base = i == layers - 1;

      if (!base && resized)
        bytes = MAX (512, bytes + g_test_rand_int_range (-1000, 1500) * 512);
      chain->paths[i] = scratch_path (name);
      chain->bytes[i] = bytes;
      create_image (chain->paths[i], base ? base_format : "vhd", bytes,
                    base && g_str_equal (base_format, "raw")
                        ? 0
                        : block_sizes[g_test_rand_int_range (0, G_N_ELEMENTS (block_sizes))],
                    base ? NULL : chain->paths[i + 1]);
      write_random (chain->paths[i], 20);
    }
}

static bool
run_commit (const Chain *chain, int source, int target, bool shrink, VhdkitCommitStats *stats, GError **error)
{
  VhdkitImage *image = open_image (chain->paths[0], 0);
  VhdkitCommitOptions options = {
    .struct_size = sizeof options, .source_layer = source, .target_layer = target, .shrink_target = shrink
  };
  VhdkitJob *job = vhdkit_commit_new (image, &options, error);
  bool ok = job != NULL && vhdkit_job_run (job, NULL, NULL, error);

  if (job != NULL && stats != NULL)
    vhdkit_commit_get_stats (job, stats);
  vhdkit_job_free (job);
  close_image (image);
  return ok;
}

static void
test_random (gconstpointer data)
{
  const char *base_format = data;

  for (int round = 0; round < 25; round++)
    {
      Chain chain;
      g_autoptr (GError) error = NULL;
      VhdkitCommitStats stats;

      scratch_init ();
      chain_make (&chain, g_test_rand_int_range (2, MAX_LAYERS + 1), base_format, round % 3 == 2);
      int target = g_test_rand_int_range (1, chain.layers);
      int source = g_test_rand_int_range (0, target);
      g_autofree uint8_t *before = read_file_view (chain.paths[source]);
      g_autofree char *below = NULL;
      gsize below_bytes = 0;
      if (target + 1 < chain.layers)
        g_assert_true (g_file_get_contents (chain.paths[target + 1], &below, &below_bytes, NULL));

      bool smaller = chain.bytes[source] < chain.bytes[target];
      bool ok = run_commit (&chain, source, target, false, &stats, &error);
      if (smaller)
        {
          g_assert_false (ok);
          g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
          scratch_clear ();
          continue;
        }
      g_assert_no_error (error);
      g_autofree uint8_t *source_view = read_file_view (chain.paths[source]);
      g_autofree uint8_t *target_view = read_file_view (chain.paths[target]);
      g_assert_cmpmem (before, (size_t)chain.bytes[source], source_view, (size_t)chain.bytes[source]);
      g_assert_cmpmem (before, (size_t)chain.bytes[source], target_view, (size_t)chain.bytes[source]);
      if (below != NULL)
        {
          g_autofree char *below_after = NULL;
          gsize below_after_bytes;
          g_assert_true (
              g_file_get_contents (chain.paths[target + 1], &below_after, &below_after_bytes, NULL));
          g_assert_cmpmem (below, below_bytes, below_after, below_after_bytes);
        }
      if (target < chain.layers - 1 || g_str_equal (base_format, "vhd"))
        assert_checks_clean (chain.paths[target]);

      /* Once more: the same again. */
      g_assert_true (run_commit (&chain, source, target, false, NULL, &error));
      g_autofree uint8_t *again = read_file_view (chain.paths[target]);
      g_assert_cmpmem (before, (size_t)chain.bytes[source], again, (size_t)chain.bytes[source]);
      scratch_clear ();
    }
}

/* --- examples ------------------------------------------------------------------------------------------ */

static int64_t
allocated_blocks (const char *path)
{
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_CHECK | VHDKIT_OPEN_NO_PARENTS);
  VhdkitCheckResult result;

  g_assert_true (vhdkit_image_check (image, false, &result, NULL, NULL, NULL));
  close_image (image);
  return result.allocated_blocks;
}

/* Zeros of a child, stored as data, take up nothing in a target that shows zeros there. */
static void
test_zeros_do_not_inflate (void)
{
  Chain chain = { .layers = 2 };
  g_autoptr (GError) error = NULL;
  VhdkitCommitStats stats;

  scratch_init ();
  chain.paths[1] = scratch_path ("base.vhd");
  chain.paths[0] = scratch_path ("leaf.vhd");
  create_image (chain.paths[1], "vhd", 32 * MIB, 0, NULL);
  VhdkitImage *image = open_image (chain.paths[1], VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 2 * MIB, 1);
  close_image (image);
  create_image (chain.paths[0], "vhd", -1, 0, chain.paths[1]);
  image = open_image (chain.paths[0], VHDKIT_OPEN_RDWR);
  write_byte (image, 0, MIB, 0);
  write_byte (image, 8 * MIB, 2 * MIB, 0);
  write_byte (image, 16 * MIB, 4096, 7);
  close_image (image);

  g_assert_true (run_commit (&chain, 0, 1, false, &stats, &error));
  g_assert_no_error (error);
  g_assert_cmpint (stats.bytes_copied + stats.bytes_cloned, ==, 4096);
  g_assert_cmpint (stats.bytes_zeroed, ==, MIB);
  g_assert_cmpint (allocated_blocks (chain.paths[1]), ==, 2);
  g_autofree uint8_t *view = read_file_view (chain.paths[1]);
  g_assert_cmpint (view[0], ==, 0);
  g_assert_cmpint (view[MIB], ==, 1);
  g_assert_cmpint (view[16 * MIB], ==, 7);
  scratch_clear ();
}

static void
test_shrink (void)
{
  Chain chain = { .layers = 2 };
  g_autoptr (GError) error = NULL;

  scratch_init ();
  chain.paths[1] = scratch_path ("base.raw");
  chain.paths[0] = scratch_path ("leaf.vhd");
  create_image (chain.paths[1], "raw", 4 * MIB, 0, NULL);
  create_image (chain.paths[0], "vhd", 2 * MIB, 0, chain.paths[1]);
  VhdkitImage *image = open_image (chain.paths[0], VHDKIT_OPEN_RDWR);
  write_byte (image, MIB, 512, 3);
  close_image (image);

  g_assert_false (run_commit (&chain, 0, 1, false, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_assert_nonnull (strstr (error->message, "4194304"));
  g_assert_nonnull (strstr (error->message, "2097152"));
  g_clear_error (&error);
  g_assert_true (run_commit (&chain, 0, 1, true, NULL, &error));
  g_assert_no_error (error);
  image = open_image (chain.paths[1], 0);
  g_assert_cmpint (vhdkit_image_get_size (image), ==, 2 * MIB);
  close_image (image);
  scratch_clear ();
}

static void
expect_refused (VhdkitImage *image, int source, int target, unsigned parallel, VhdkitError code)
{
  g_autoptr (GError) error = NULL;
  VhdkitCommitOptions options = {
    .struct_size = sizeof options, .source_layer = source, .target_layer = target, .parallel = parallel
  };

  g_assert_null (vhdkit_commit_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
}

static void
test_refusals (void)
{
  Chain chain;

  scratch_init ();
  chain_make (&chain, 3, "vhd", false);
  VhdkitImage *image = open_image (chain.paths[0], 0);
  expect_refused (image, 1, 1, 0, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_refused (image, 2, 1, 0, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_refused (image, -1, 1, 0, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_refused (image, 0, 3, 0, VHDKIT_ERROR_NOT_FOUND);
  expect_refused (image, 0, 2, 17, VHDKIT_ERROR_INVALID_ARGUMENT);
  close_image (image);
  scratch_clear ();
}

/* Whoever does not know of the option is protected by it. */
static void
test_siblings (void)
{
  Chain chain;
  g_autoptr (GError) error = NULL;
  const char *sibling;

  scratch_init ();
  chain_make (&chain, 3, "vhd", false);
  sibling = scratch_path ("sibling");
  create_image (sibling, "vhd", chain.bytes[1], 0, chain.paths[1]);
  g_assert_false (run_commit (&chain, 0, 2, false, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_HAS_CHILDREN);
  g_assert_nonnull (strstr (error->message, sibling));
  g_clear_error (&error);

  VhdkitImage *image = open_image (chain.paths[0], 0);
  VhdkitChild **children = vhdkit_image_find_children (image, 1, 2, &error);
  g_assert_no_error (error);
  g_assert_nonnull (children[0]);
  g_assert_null (children[1]);
  g_assert_cmpstr (children[0]->filename, ==, sibling);
  g_assert_cmpstr (children[0]->format, ==, "vhd");
  g_assert_cmpint (children[0]->layer, ==, 1);
  g_assert_false (children[0]->notices);
  vhdkit_children_free (children);
  children = vhdkit_image_find_children (image, 2, 2, &error);
  g_assert_no_error (error);
  g_assert_null (children[0]);
  vhdkit_children_free (children);
  g_assert_null (vhdkit_image_find_children (image, 1, 3, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND);
  g_clear_error (&error);

  VhdkitCommitOptions options = {
    .struct_size = sizeof options, .source_layer = 0, .target_layer = 2, .break_siblings = true
  };
  VhdkitJob *job = vhdkit_commit_new (image, &options, &error);
  g_assert_no_error (error);
  g_assert_true (vhdkit_job_run (job, NULL, NULL, &error));
  vhdkit_job_free (job);
  close_image (image);
  scratch_clear ();
}

/* --- faults and cancel --------------------------------------------------------------------------------- */

/* Every write of a commit fails once: an error, sound images, the same view; then it gets through. */
static void
test_faults (gconstpointer data)
{
  const char *op = data;
  bool got_through = false;
  Chain chain;

  scratch_init ();
  chain_make (&chain, 3, "vhd", false);
  g_autofree uint8_t *before = read_file_view (chain.paths[0]);
  for (int n = 1; !got_through && n < 2000; n++)
    {
      g_autofree char *filter = g_strdup_printf ("blkdebug,op=%s,n=%d,errno=28", op, n);
      const char *filters[] = { filter, NULL };
      g_autoptr (GError) error = NULL;
      VhdkitOpenOptions open_options = { .struct_size = sizeof open_options, .filters = filters };
      VhdkitImage *image = vhdkit_image_open (NULL, chain.paths[0], &open_options, &error);

      if (image != NULL)
        {
          VhdkitCommitOptions options = { .struct_size = sizeof options, .target_layer = 2, .parallel = 4 };
          VhdkitJob *job = vhdkit_commit_new (image, &options, &error);
          g_assert_no_error (error);
          got_through = vhdkit_job_run (job, NULL, NULL, &error);
          if (!got_through)
            g_assert_nonnull (strstr (error->message, "merging"));
          vhdkit_job_free (job);
          vhdkit_image_close (image, NULL);
        }
      g_autofree uint8_t *view = read_file_view (chain.paths[0]);
      g_assert_cmpmem (before, (size_t)chain.bytes[0], view, (size_t)chain.bytes[0]);
      assert_checks_clean (chain.paths[2]);
    }
  g_assert_true (got_through);
  g_autofree uint8_t *target = read_file_view (chain.paths[2]);
  g_assert_cmpmem (before, (size_t)chain.bytes[0], target, (size_t)chain.bytes[2]);
  scratch_clear ();
}

typedef struct
{
  int calls;
  int64_t last_done;
} ProgressState;

static void
on_progress (VhdkitJob *job, void *opaque)
{
  ProgressState *state = opaque;
  VhdkitJobProgress progress;

  vhdkit_job_get_progress (job, &progress);
  g_assert_cmpint (progress.done, >=, state->last_done);
  g_assert_cmpint (progress.done, <=, progress.total);
  state->last_done = progress.done;
  state->calls++;
  vhdkit_job_cancel (job);
}

static void
test_cancel_and_again (void)
{
  Chain chain = { .layers = 2 };
  g_autoptr (GError) error = NULL;
  ProgressState state = { 0 };

  scratch_init ();
  chain.paths[1] = scratch_path ("base.vhd");
  chain.paths[0] = scratch_path ("leaf.vhd");
  create_image (chain.paths[1], "vhd", 32 * MIB, 0, NULL);
  create_image (chain.paths[0], "vhd", -1, 0, chain.paths[1]);
  VhdkitImage *image = open_image (chain.paths[0], VHDKIT_OPEN_RDWR);
  for (int i = 0; i < 16; i++)
    write_byte (image, i * 2 * MIB, MIB + i * 512, i + 1);
  close_image (image);
  g_autofree uint8_t *before = read_file_view (chain.paths[0]);

  image = open_image (chain.paths[0], 0);
  VhdkitCommitOptions options = { .struct_size = sizeof options, .target_layer = 1 };
  VhdkitJob *job = vhdkit_commit_new (image, &options, &error);
  g_assert_no_error (error);
  vhdkit_job_set_rate_limit (job, 4 * MIB);
  g_assert_false (vhdkit_job_run (job, on_progress, &state, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  g_clear_error (&error);
  g_assert_cmpint (state.calls, >, 0);
  vhdkit_job_free (job);

  /* The handle still works, the target is writable by now: go on with another job on it. */
  g_autofree uint8_t *between = read_all (image);
  g_assert_cmpmem (before, 32 * MIB, between, 32 * MIB);
  job = vhdkit_commit_new (image, &options, &error);
  g_assert_true (vhdkit_job_run (job, NULL, NULL, &error));
  g_assert_no_error (error);
  vhdkit_job_free (job);
  close_image (image);
  g_autofree uint8_t *target = read_file_view (chain.paths[1]);
  g_assert_cmpmem (before, 32 * MIB, target, 32 * MIB);
  assert_checks_clean (chain.paths[1]);
  scratch_clear ();
}

/* While a job runs its images can be read and not written. */
typedef struct
{
  VhdkitImage *image;
  bool concluded;
} BusyState;

static void
on_busy_concluded (VhdkitJob *job, void *opaque)
{
  BusyState *state = opaque;
  VhdkitJobProgress progress;

  vhdkit_job_get_progress (job, &progress);
  g_assert_cmpint (progress.state, ==, VHDKIT_JOB_CONCLUDED);
  state->concluded = true;
  vhdkit_job_free (job);
}

static void
test_busy_image (void)
{
  VhdkitContext *context = vhdkit_context_new (NULL);
  VhdkitOpenOptions open_options = { .struct_size = sizeof open_options, .flags = VHDKIT_OPEN_RDWR };
  Chain chain;
  g_autoptr (GError) error = NULL;

  scratch_init ();
  chain_make (&chain, 2, "vhd", false);
  VhdkitImage *image = vhdkit_image_open (context, chain.paths[0], &open_options, &error);
  g_assert_no_error (error);
  BusyState state = { .image = image };
  VhdkitCommitOptions options = { .struct_size = sizeof options, .target_layer = 1 };
  VhdkitJob *job = vhdkit_commit_new (image, &options, &error);
  VhdkitJobProgress progress;
  uint8_t buf[512] = { 0 };

  g_assert_no_error (error);
  g_assert_false (vhdkit_job_get_result (job, NULL));
  vhdkit_job_start (job, on_busy_concluded, &state);
  vhdkit_job_get_progress (job, &progress);
  g_assert_cmpint (progress.state, ==, VHDKIT_JOB_RUNNING);
  g_assert_cmpint (vhdkit_image_pwrite (image, buf, 0, sizeof buf), ==, -EBUSY);
  g_assert_null (vhdkit_commit_new (image, &options, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  while (!state.concluded)
    {
      g_assert_cmpint (vhdkit_image_pread (image, buf, 0, sizeof buf), ==, 0);
      vhdkit_context_iterate (context, true);
    }
  g_assert_cmpint (vhdkit_image_pwrite (image, buf, 0, sizeof buf), ==, 0);
  close_image (image);
  vhdkit_context_free (context);
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/commit/random/vhd", "vhd", test_random);
  g_test_add_data_func ("/commit/random/raw", "raw", test_random);
  g_test_add_func ("/commit/zeros-do-not-inflate", test_zeros_do_not_inflate);
  g_test_add_func ("/commit/shrink", test_shrink);
  g_test_add_func ("/commit/refusals", test_refusals);
  g_test_add_func ("/commit/siblings", test_siblings);
  g_test_add_data_func ("/commit/faults/write", "write", test_faults);
  g_test_add_data_func ("/commit/faults/read", "read", test_faults);
  g_test_add_data_func ("/commit/faults/flush", "flush", test_faults);
  g_test_add_func ("/commit/cancel-and-again", test_cancel_and_again);
  g_test_add_func ("/commit/busy-image", test_busy_image);
  return g_test_run ();
}
