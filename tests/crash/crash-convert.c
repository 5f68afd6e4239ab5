/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes while a new image is filled: what is left is refused because it is marked as incomplete, or it is the whole
 * image; never anything between.
 *
 * VHDKIT_SEED repeats a run, VHDKIT_ITERATIONS runs of each case; VHDKIT_CRASH_CUTS crashes of each (long.sh).
 */
#include <string.h>

#include "images.h"

#define MIB (INT64_C (1) << 20)

typedef struct
{
  const char *name;
  ImageKind kind;
  int64_t block_size;
  bool has_parent;
} Case;

static const Case cases[] = {
  { "vhdx/dynamic", IMAGE_VHDX, MIB, false },
  { "vhdx/dynamic-4k", IMAGE_VHDX_4K, 2 * MIB, false },
  { "vhdx/fixed", IMAGE_VHDX_FIXED, MIB, false },
  { "vhdx/differencing", IMAGE_VHDX, 2 * MIB, true },
  { "vhd/dynamic", IMAGE_VHD, MIB, false },
  { "vhd/fixed", IMAGE_VHD_FIXED, 0, false },
  { "vhd/differencing", IMAGE_VHD, 512 * 1024, true },
};

typedef struct
{
  TestDir dir;
  GRand *rand;
  CrashTrace *trace;
  GuestValues *expected;
  int refused, whole; /* crashes that left one and the other */
} Run;

static void
run_clear (Run *run)
{
  crash_trace_free (run->trace);
  guest_values_free (run->expected);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

/* NULL, or what is wrong with the target as it is. */
static char *
judge (Run *run)
{
  char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, "target", &why);

  if (values == NULL && strstr (why, "not completely made"))
    {
      run->refused++;
      g_free (why);
      return NULL;
    }
  run->whole++;
  if (!why)
    why = guest_values_compare (values, run->expected);
  return why ? why : image_check (&run->dir, "target", NULL);
}

static bool
record (Run *run, const Case *c)
{
  g_autofree char *log = test_path (&run->dir, "log");
  g_autofree char *target = test_path (&run->dir, "target");
  g_autofree char *base = test_path (&run->dir, "base");
  g_auto (GStrv) filters = NULL;
  g_autofree char *why = NULL;
  int64_t bytes = 6 * MIB;

  image_make (&run->dir, "source", c->kind, bytes, MIN (c->block_size, MIB), NULL);
  image_populate (&run->dir, "source", run->rand, 30, MIB, 0);
  if (c->has_parent)
    {
      image_make (&run->dir, "base", c->kind, bytes, MIN (c->block_size, MIB), NULL);
      image_populate (&run->dir, "base", run->rand, 30, MIB, 0);
    }
  image_make_incomplete (&run->dir, "target", c->kind, bytes, c->block_size, c->has_parent ? "base" : NULL);
  run->expected = image_values (&run->dir, "source", &why);
  if (!why)
    why = judge (run);
  if (why || run->refused != 1)
    {
      test_fail ("before it is filled: %s", why ? why : "it is taken for an image");
      return false;
    }

  run->trace = crash_trace_new (log, (const char *[]){ target, c->has_parent ? base : NULL, NULL });
  filters = recording_filters (&run->dir, "log", run->rand);
  why = image_convert (&run->dir, "source", "target", filters);
  if (!why)
    {
      crash_trace_load (run->trace);
      why = judge (run);
    }
  if (why || run->whole != 1)
    test_fail ("without a crash: %s", why ? why : "it is still marked as incomplete");
  return !why && run->whole == 1;
}

static void
crash (Run *run, size_t cut, CrashStrategy strategy)
{
  g_autofree char *why = NULL;

  crash_trace_make (run->trace, cut, strategy, SIZE_MAX, run->rand);
  why = judge (run);
  if (why)
    test_fail ("%s\n%s", why, crash_trace_story (run->trace));
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1), crashes = test_number ("VHDKIT_CRASH_CUTS", 100);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { 0 };
      g_autoptr (GArray) cuts = NULL;

      test_begin (&run.dir, &run.rand, "crash-convert", "convert-%s-%d", strchr (c->name, '/') + 1, i);
      if (!record (&run, c))
        return;
      cuts = crash_trace_cuts (run.trace, run.rand, crashes, 0);
      for (int n = 0; n < MAX (crashes, 20) && !g_test_failed (); n++)
        crash (&run, g_array_index (cuts, size_t, g_rand_int_range (run.rand, 0, cuts->len)),
               n % CRASH_STRATEGIES);
      /* The end, where the marker goes, is a handful of requests. */
      for (size_t n = 0; n < 10 * CRASH_STRATEGIES && !g_test_failed (); n++)
        crash (&run, crash_trace_records (run.trace) - n / CRASH_STRATEGIES, n % CRASH_STRATEGIES);
      g_test_message ("%d crashes left an incomplete image, %d a whole one", run.refused, run.whole);
      if (!g_test_failed () && (run.refused < 1 || run.whole < 1))
        test_fail ("%d crashes left an incomplete image, %d a whole one", run.refused, run.whole);
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path = g_strdup_printf ("/crash-convert/%s", cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
