/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes while the traces of a crash are removed: a guest writes, a crash leaves a log that must be replayed, and the
 * open for writing that does it is cut in turn, and has each of its requests fail once.  After each: the image shows
 * what it showed after the first crash, and the next open finishes.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS first crashes of each case, VHDKIT_ITERATIONS runs of each (long.sh).
 */
#include "../../block/drivers/test/blkdebug.h"
#include "images.h"
#include "simdisk.h"

#define MIB        (INT64_C (1) << 20)
#define MAX_FAULTS 200

typedef struct
{
  const char *name;
  ImageKind kind;
  int64_t bytes, block_size;
  int64_t parent_bytes; /* 0: none */
  bool partial;         /* blocks with all bits, and with none */
} Case;

static const Case cases[] = {
  { "dynamic", IMAGE_VHDX, 6 * MIB, MIB, 0, false },
  { "dynamic-4k", IMAGE_VHDX_4K, 6 * MIB, 2 * MIB, 0, false },
  { "differencing", IMAGE_VHDX, 6 * MIB, MIB, 6 * MIB, false },
  { "differencing-partial", IMAGE_VHDX, 6 * MIB, MIB, 4 * MIB, true },
  { "differencing-4k", IMAGE_VHDX_4K, 6 * MIB, MIB, 8 * MIB, false },
};

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  CrashTrace *trace;
} Run;

static void
run_clear (Run *run)
{
  crash_trace_free (run->trace);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static CrashTrace *
new_trace (const Run *run, const char *log_name)
{
  return recording_trace (&run->dir, log_name,
                          (const char *[]){ "leaf", run->c->parent_bytes ? "base" : NULL, NULL });
}

static void
make_files (Run *run)
{
  const Case *c = run->c;

  if (c->parent_bytes)
    {
      image_make (&run->dir, "base", c->kind, c->parent_bytes, MIB, NULL);
      image_populate (&run->dir, "base", run->rand, 40, MIB, 0);
    }
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, c->parent_bytes ? "base" : NULL);
  image_populate (&run->dir, "leaf", run->rand, 10, c->block_size, 0);
  if (c->partial)
    image_add_partial (&run->dir, "leaf", run->rand);
}

/* A guest writes, in one life of the image. */
static void
record (Run *run)
{
  const Case *c = run->c;
  GuestMix mix = { .write = 10,
                   .zeroes = 1,
                   .zeroes_unmap = 2,
                   .discard = 2,
                   .flush = 4,
                   .max_sectors = 64,
                   .whole_blocks = 40,
                   .block_size = c->block_size };
  g_auto (GStrv) filters = NULL;
  g_autofree char *why = NULL;
  g_autoptr (GuestValues) values = NULL;
  VhdkitImage *image;

  make_files (run);
  values = image_values (&run->dir, "leaf", &why);
  run->trace = new_trace (run, "log");
  filters = recording_filters (&run->dir, "log", run->rand);
  image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);
  if (values == NULL || image == NULL)
    g_error ("%s", why);

  g_autoptr (Guest) guest = guest_new (values);
  g_auto (GuestRun) guest_state = { .context = run->dir.context,
                                    .image = image,
                                    .guest = guest,
                                    .trace = run->trace,
                                    .rand = run->rand,
                                    .depth = 6 };

  guest_run (&guest_state, &mix, 60);
  if (guest_state.wrong)
    test_fail ("without a crash: %s", guest_state.wrong);
  if (!image_close (image, &why))
    test_fail ("without a crash: %s", why);
  crash_trace_load (run->trace);
}

/* Whether the first crash has left something to replay. */
static bool
is_dirty (Run *run)
{
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_NO_PARENTS, NULL, &why);
  VhdkitLayerInfo info = { 0 };
  gboolean dirty = false;

  if (image == NULL || !vhdkit_image_get_layer_info (image, 0, &info, NULL))
    {
      test_fail ("%s", why ? why : "no info");
      return false;
    }
  g_variant_lookup (info.format_specific, "log-replayed", "b", &dirty);
  vhdkit_layer_info_clear (&info);
  image_close (image, NULL);
  return dirty;
}

static CrashJudge
judge_of (Run *run, CrashTrace *trace, const Guest *guest)
{
  return (CrashJudge){ .dir = &run->dir,
                       .trace = trace,
                       .rand = run->rand,
                       .name = "leaf",
                       .guest = guest,
                       .changed = "leaf",
                       .writes_after = 20,
                       .block_size = run->c->block_size };
}

/* The open that replays, cut everywhere. */
static void
cut_replay (Run *run, const Guest *guest)
{
  g_autoptr (CrashTrace) trace = new_trace (run, "replay-log");
  g_auto (GStrv) filters = recording_filters (&run->dir, "replay-log", run->rand);
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);

  if (image == NULL || !image_close (image, &why))
    {
      test_fail ("%s\n%s", why, crash_trace_story (run->trace));
      return;
    }
  crash_trace_load (trace);

  CrashJudge judge = judge_of (run, trace, guest);

  crash_judge_every (&judge, 15);
}

/* false: no request was left to fail. */
static bool
fail_one (Run *run, const Guest *guest, const char *fault, int n)
{
  g_autofree char *filter = g_strdup_printf ("blkdebug,%s,n=%d,id=replay", fault, n);
  char *filters[] = { (char *)"simdisk", filter, NULL };
  CrashJudge judge = judge_of (run, NULL, guest);
  g_autofree char *why = NULL;
  g_autofree char *wrong = NULL;
  VhdkitImage *image;
  bool told, failed;

  crash_trace_rewrite (run->trace);
  blkdebug_reset ("replay");
  image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);
  told = image == NULL || !image_close (image, &why);
  failed = blkdebug_get_failures ("replay") > 0;
  if (told && !failed)
    wrong = g_strdup_printf ("something has failed by itself: %s", why);
  else
    wrong = crash_judge_files (&judge, 1);
  if (wrong)
    test_fail ("%s at request %d: %s\n%s", fault, n, wrong, crash_trace_story (run->trace));
  return failed && !g_test_failed ();
}

/* Each request of the open that replays fails once; of those that only read, some. */
static void
fail_replay (Run *run, const Guest *guest)
{
  static const char *const faults[] = { "op=write,errno=EIO", "op=write,short=512,errno=ENOSPC",
                                        "op=flush,errno=EIO", "op=truncate,errno=ENOSPC",
                                        "op=write_zeroes,errno=ENOSPC" };
  int failed = 0;

  for (size_t i = 0; i < G_N_ELEMENTS (faults); i++)
    for (int n = 1; n < MAX_FAULTS && fail_one (run, guest, faults[i], n); n++)
      failed++;
  for (int n = 1; fail_one (run, guest, "op=any,count=0,errno=EIO", n);
       n += g_rand_int_range (run->rand, 1, 60))
    failed++;
  g_test_message ("%d requests failed, one after the other", failed);
}

/* One crash; whether it left a log to replay. */
static bool
one_crash (Run *run, int n)
{
  size_t cut = g_rand_int_range (run->rand, 0, crash_trace_records (run->trace) + 1);
  CrashStrategy strategy = g_rand_int_range (run->rand, 0, CRASH_STRATEGIES);
  g_autofree char *why = NULL;
  g_autoptr (GuestValues) values = NULL;
  g_autoptr (Guest) guest = NULL;

  crash_trace_make (run->trace, cut, strategy, SIZE_MAX, run->rand);
  if (!is_dirty (run))
    return false;
  values = image_values (&run->dir, "leaf", &why);
  if (values == NULL)
    {
      test_fail ("%s\n%s", why, crash_trace_story (run->trace));
      return false;
    }
  guest = guest_new (values);
  if (n % 5 == 4)
    fail_replay (run, guest);
  else
    cut_replay (run, guest);
  return true;
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1), crashes = test_number ("VHDKIT_CRASH_CUTS", 5);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { .c = c };
      int dirty = 0, tries = 0;

      test_begin (&run.dir, &run.rand, "crash-replay", "replay-%s-%d", c->name, i);
      record (&run);
      for (; dirty < crashes && tries < 20 * crashes && !g_test_failed (); tries++)
        dirty += one_crash (&run, dirty);
      g_test_message ("%d of %d crashes left a log to replay", dirty, tries);
      if (dirty < crashes)
        test_fail ("too few crashes left a log to replay");
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-replay/%s/%s", image_kind_format (cases[i].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
