/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every request to the files fails once: of a guest's work, of a commit, of a compaction, of a rebase.
 *
 * For n = 1, 2, … the n-th request that the filter blkdebug sees fails, with EIO or ENOSPC, as a whole or after its
 * first sector, until a run has no n-th one; or it and the next.  After each: whoever asked was told, or what failed
 * was written after all; the image is sound and holds what was flushed; the job run again finishes.
 */
#include <errno.h>
#include <string.h>

#include "../../block/drivers/test/blkdebug.h"
#include "images.h"
#include "simdisk.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

#define SWAP_PAGE (4 * KIB)

typedef enum
{
  WORK_GUEST,
  WORK_COMMIT,
  WORK_COMPACT,
  WORK_REBASE,  /* onto an image that shows something else */
  WORK_FLATTEN, /* onto none */
} Work;

typedef struct
{
  const char *name;
  Work work;
  ImageKind leaf, base; /* the image's and the parent's kind */
  int64_t bytes, block_size;
  int64_t base_bytes; /* 0: no parent */
  int64_t grow_to;
  bool batmap;
  bool skips; /* a commit that does not write what the target has already */
  bool swap;  /* half of the disk is not in use */
  VhdkitCompactMode mode;
  bool shares;  /* files are said to be able to share extents; those here are not */
  bool shrinks; /* the parent is larger, and is cut */
} Case;

static const Case cases[] = {
  { "guest-dynamic", WORK_GUEST, IMAGE_VHD, 0, 512 * KIB, 8 * KIB, 0, 600 * KIB, false, false },
  { "guest-differencing", WORK_GUEST, IMAGE_VHD, IMAGE_VHD, 256 * KIB, 4 * KIB, 384 * KIB, 330 * KIB, false,
    false },
  { "guest-batmap", WORK_GUEST, IMAGE_VHD, IMAGE_VHD_FIXED, 256 * KIB, 8 * KIB, 256 * KIB, 0, true, false },
  { "commit-into-dynamic", WORK_COMMIT, IMAGE_VHD, IMAGE_VHD, 600 * KIB, 8 * KIB, 512 * KIB, 0, false,
    false },
  { "commit-comparing", WORK_COMMIT, IMAGE_VHD, IMAGE_VHD, 600 * KIB, 8 * KIB, 512 * KIB, 0, false, true },
  { "commit-sharing", WORK_COMMIT, IMAGE_VHD, IMAGE_VHD, 600 * KIB, 8 * KIB, 512 * KIB, .shares = true },
  { "commit-into-fixed", WORK_COMMIT, IMAGE_VHD, IMAGE_VHD_FIXED, 600 * KIB, 16 * KIB, 512 * KIB, 0, false,
    false },
  { "commit-into-raw", WORK_COMMIT, IMAGE_VHD, IMAGE_RAW, 600 * KIB, 16 * KIB, 512 * KIB, 0, false, false },
  { "commit-shrinking", WORK_COMMIT, IMAGE_VHD, IMAGE_RAW, 256 * KIB, 16 * KIB, 512 * KIB, .shrinks = true },
  { "compact-dynamic", WORK_COMPACT, IMAGE_VHD, 0, 512 * KIB, 4 * KIB, 0, 0, false, false },
  { "compact-differencing", WORK_COMPACT, IMAGE_VHD, IMAGE_VHD, 512 * KIB, 8 * KIB, 512 * KIB, 0, true,
    false },
  { "compact-free", WORK_COMPACT, IMAGE_VHD, 0, 512 * KIB, 16 * KIB, 0, 0, false, false, true,
    VHDKIT_COMPACT_FULL },
  { "compact-free-punch", WORK_COMPACT, IMAGE_VHD, IMAGE_VHD, 512 * KIB, 16 * KIB, 512 * KIB, 0, false, false,
    true, VHDKIT_COMPACT_PUNCH },
  { "compact-free-pack", WORK_COMPACT, IMAGE_VHD, 0, 512 * KIB, 16 * KIB, 0, 0, false, false, true,
    VHDKIT_COMPACT_PACK },
  { "rebase", WORK_REBASE, IMAGE_VHD, IMAGE_VHD, 300 * KIB, 8 * KIB, 256 * KIB, 0, false, false },
  { "rebase-flatten", WORK_FLATTEN, IMAGE_VHD, IMAGE_VHD_FIXED, 300 * KIB, 16 * KIB, 256 * KIB, 0, true,
    false },

  { "guest-dynamic", WORK_GUEST, IMAGE_VHDX, 0, 3 * MIB, MIB, 0, 5 * MIB, false, false },
  { "guest-differencing", WORK_GUEST, IMAGE_VHDX, IMAGE_VHDX, 3 * MIB, MIB, 5 * MIB, 4 * MIB, false, false },
  { "guest-4k", WORK_GUEST, IMAGE_VHDX_4K, IMAGE_VHDX_4K, 3 * MIB, MIB, 5 * MIB, 4 * MIB, false, false },
  { "commit-into-dynamic", WORK_COMMIT, IMAGE_VHDX, IMAGE_VHDX, 4 * MIB, MIB, 3 * MIB, 0, false, false },
  { "commit-comparing", WORK_COMMIT, IMAGE_VHDX, IMAGE_VHDX, 4 * MIB, MIB, 3 * MIB, 0, false, true },
  { "commit-sharing", WORK_COMMIT, IMAGE_VHDX, IMAGE_VHDX, 4 * MIB, MIB, 3 * MIB, .shares = true },
  { "commit-into-fixed", WORK_COMMIT, IMAGE_VHDX, IMAGE_VHDX_FIXED, 3 * MIB, MIB, 2 * MIB, 0, false, false },
  { "compact-dynamic", WORK_COMPACT, IMAGE_VHDX, 0, 14 * MIB, MIB, 0, 0, false, false },
  { "compact-differencing", WORK_COMPACT, IMAGE_VHDX, IMAGE_VHDX, 14 * MIB, MIB, 14 * MIB, 0, false, false },
  { "rebase", WORK_REBASE, IMAGE_VHDX, IMAGE_VHDX, 4 * MIB, MIB, 3 * MIB, 0, false, false },
  { "rebase-flatten", WORK_FLATTEN, IMAGE_VHDX_4K, IMAGE_VHDX_4K, 4 * MIB, 2 * MIB, 5 * MIB, 0, false,
    false },
  { "compact-free", WORK_COMPACT, IMAGE_VHDX, IMAGE_VHDX, 14 * MIB, MIB, 14 * MIB, 0, false, false, true,
    VHDKIT_COMPACT_FULL },
  { "compact-free-punch", WORK_COMPACT, IMAGE_VHDX, 0, 14 * MIB, MIB, 0, 0, false, false, true,
    VHDKIT_COMPACT_PUNCH },
  { "compact-free-retrim", WORK_COMPACT, IMAGE_VHDX, 0, 14 * MIB, MIB, 0, 0, false, false, true,
    VHDKIT_COMPACT_RETRIM },
};

/* What fails. */
typedef struct
{
  const char *name;
  const char *options;
  int code; /* errno, whose text a job's error must have */
} Fault;

static const Fault faults[] = {
  { "EIO", "op=any,errno=EIO", EIO },
  { "ENOSPC", "op=write,errno=ENOSPC", ENOSPC },
  { "ENOSPC after a sector", "op=write,short=512,errno=ENOSPC", ENOSPC },
  { "EIO of two writes", "op=write,count=2,errno=EIO", EIO },
  { "EIO from there on", "op=any,count=0,errno=EIO", EIO },
};
static const Fault flush_fault = { "EIO of a flush", "op=flush,errno=EIO", EIO };

typedef struct
{
  TestDir dir;
  const Case *c;
  CrashTrace *files;   /* as they were; nothing is recorded */
  GuestValues *values; /* what the leaf showed … */
  Guest *guest;        /* … and may show when the work is done */
  int told, survived;  /* runs in which the fault was reported, and was overcome */
} Run;

static void
run_clear (Run *run)
{
  guest_free (run->guest);
  guest_values_free (run->values);
  crash_trace_free (run->files);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

/* Blocks that say what is seen without them, at the start of the file: compaction drops them, and moves others
 * there. */
static void
write_redundant (Run *run)
{
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, NULL, &why);
  int64_t bytes = 12 * run->c->block_size;
  g_autofree uint8_t *data = g_malloc (bytes);

  if (image == NULL || vhdkit_image_pread (image, data, 0, bytes) < 0
      || vhdkit_image_pwrite (image, data, 0, bytes) < 0 || !image_close (image, &why))
    g_error ("%s", why ? why : "cannot write");
}

/* One that minds what is in use. */
static Guest *
new_guest (Run *run)
{
  const Case *c = run->c;
  Guest *guest = guest_new (run->values);
  g_autofree char *why = NULL;
  g_autoptr (GuestValues) below = c->swap && c->base_bytes ? image_values (&run->dir, "base", &why) : NULL;

  if (why)
    g_error ("%s", why);
  if (c->swap)
    guest_set_unused (guest, SWAP_PAGE, c->bytes / 2 - SWAP_PAGE, below);
  return guest;
}

static void
make_files (Run *run)
{
  const Case *c = run->c;
  g_autofree char *leaf = test_path (&run->dir, "leaf"), *base = test_path (&run->dir, "base");
  g_autofree char *log = test_path (&run->dir, "log");
  g_autofree char *why = NULL;
  g_autofree char *seed = g_strdup_printf ("%s-%s", image_kind_format (c->leaf), c->name);
  GRand *rand = test_rand (seed);

  if (c->base_bytes)
    {
      int64_t block_size = c->leaf == IMAGE_VHD ? 16 * KIB : MIB;

      image_make (&run->dir, "base", c->base, c->base_bytes, image_kind_is_sparse (c->base) ? block_size : 0,
                  NULL);
      image_populate (&run->dir, "base", rand, 40, block_size, 0);
    }
  if (c->work == WORK_REBASE)
    {
      image_make (&run->dir, "other", c->leaf, c->bytes, c->block_size, NULL);
      image_populate (&run->dir, "other", rand, 16, c->block_size, 0);
    }
  image_make (&run->dir, "leaf", c->leaf, c->bytes, c->block_size, c->base_bytes ? "base" : NULL);
  if (c->batmap)
    image_add_batmap (&run->dir, "leaf");
  if (c->work == WORK_COMPACT)
    write_redundant (run);
  image_populate (&run->dir, "leaf", rand, c->work == WORK_COMPACT ? 8 : 16, c->block_size, 0);
  if (c->swap)
    image_add_swap (&run->dir, "leaf", c->bytes / 2);
  g_rand_free (rand);
  run->values = image_values (&run->dir, "leaf", &why);
  if (run->values == NULL)
    g_error ("%s", why);
  run->guest = new_guest (run);
  run->files = crash_trace_new (log, (const char *[]){ leaf, c->base_bytes ? base : NULL, NULL });
}

static char **
fault_filters (const Case *c, const Fault *fault, int n)
{
  char **filters = g_new0 (char *, 3);
  int i = 0;

  simdisk_set_seed (1);
  if (!c->shares)
    filters[i++] = g_strdup ("simdisk");
  filters[i] = g_strdup_printf ("blkdebug,%s,n=%d,id=fault", fault->options, n);
  blkdebug_reset ("fault");
  return filters;
}

/* --- the three kinds of work --------------------------------------------------------------------------- */

/* Writes, flushes and growth; what fails is tried again in the same life of the image. */
static char *
guest_work (Run *run, Guest *guest, char **filters, bool *told)
{
  const Case *c = run->c;
  GuestMix mix = { .write = 10,
                   .zeroes = 1,
                   .zeroes_unmap = 1,
                   .discard = 1,
                   .flush = 3,
                   .read = 2,
                   .max_sectors = 40,
                   .whole_blocks = 20,
                   .block_size = c->block_size };
  GRand *rand = g_rand_new_with_seed (1);
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);
  GuestRun guest_state = {
    .context = run->dir.context, .image = image, .guest = guest, .rand = rand, .depth = 4, .may_fail = true
  };

  if (image == NULL)
    {
      *told = true;
      g_clear_pointer (&why, g_free);
      g_rand_free (rand);
      return NULL;
    }
  guest_run (&guest_state, &mix, 16);
  for (int i = 0; c->grow_to > guest_size (guest) && i < 2; i++)
    *told |= !guest_grow (&guest_state, &mix, 2, c->grow_to, NULL);
  guest_run (&guest_state, &mix, 12);
  why = g_steal_pointer (&guest_state.wrong);
  *told |= guest_state.errors > 0;
  if (vhdkit_image_close (image, NULL))
    guest_closed (&guest_state);
  else
    *told = true;
  guest_run_clear (&guest_state);
  g_rand_free (rand);
  return why;
}

/* Runs the job; NULL, or its error. */
static char *
job_work (Run *run, char **filters)
{
  VhdkitCompactOptions options = { .mode = run->c->mode,
                                   .punch_blocks = run->c->mode == VHDKIT_COMPACT_PUNCH };

  switch (run->c->work)
    {
    case WORK_COMMIT:
      return image_commit (&run->dir, "leaf", filters, 0, 1, run->c->shrinks, run->c->skips, NULL, NULL);
    case WORK_REBASE:
      return image_rebase (&run->dir, "leaf", "other", filters, NULL, NULL);
    case WORK_FLATTEN:
      return image_rebase (&run->dir, "leaf", NULL, filters, NULL, NULL);
    default:
      return image_compact (&run->dir, "leaf", options, filters, NULL, NULL, NULL);
    }
}

static char *
work_again (void *opaque)
{
  Run *run = opaque;
  const char *changed = run->c->work == WORK_COMMIT ? "base" : "leaf";
  g_autoptr (GuestValues) values = NULL;
  int64_t leaks;
  char *why;

  why = job_work (run, NULL);
  if (why)
    return why;
  for (int i = 0; i < 2 && !why; i++)
    {
      guest_values_free (values);
      values = image_values (&run->dir, i == 0 ? "leaf" : changed, &why);
      if (values)
        why = run->c->work == WORK_COMMIT ? guest_values_compare (values, run->values)
                                          : guest_check (run->guest, values, GUEST_NOW);
    }
  if (!why)
    why = image_check (&run->dir, changed, &leaks);
  if (!why && run->c->work == WORK_REBASE)
    why = image_check_parent (&run->dir, "leaf", "other");
  if (!why && run->c->work == WORK_FLATTEN)
    why = image_check_parent (&run->dir, "leaf", NULL);
  if (!why && run->c->work == WORK_COMPACT && run->c->mode != VHDKIT_COMPACT_RETRIM && leaks > 0)
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks", leaks);
  return why;
}

/* What a job says of its failure. */
static char *
judge_message (const Fault *fault, const char *message)
{
  if (strstr (message, g_strerror (fault->code)) == NULL)
    return g_strdup_printf ("the error does not say \"%s\": %s", g_strerror (fault->code), message);
  if (strstr (message, "leaf") == NULL && strstr (message, "base") == NULL)
    return g_strdup_printf ("the error names no file: %s", message);
  if (strchr (message, '\n'))
    return g_strdup_printf ("the error is not one line: %s", message);
  return NULL;
}

/* --- all n --------------------------------------------------------------------------------------------- */

static char *
one_fault (Run *run, const Fault *fault, int n)
{
  const Case *c = run->c;
  g_auto (GStrv) filters = fault_filters (c, fault, n);
  g_autoptr (Guest) guest = new_guest (run);
  GRand *rand = g_rand_new_with_seed (n);
  CrashJudge judge = { .dir = &run->dir,
                       .rand = rand,
                       .name = "leaf",
                       .guest = guest,
                       .changed = c->work == WORK_COMMIT ? "base" : "leaf",
                       .writes_after = c->work == WORK_GUEST ? 50 : 0,
                       .block_size = c->block_size,
                       .look = c->work == WORK_GUEST ? NULL : work_again,
                       .opaque = run };
  bool told = false;
  char *why = NULL;

  crash_trace_restore (run->files);
  if (c->work == WORK_GUEST)
    why = guest_work (run, guest, filters, &told);
  else
    {
      g_autofree char *message = job_work (run, filters);

      told = message != NULL;
      if (told)
        why = judge_message (fault, message);
    }
  if (told && blkdebug_get_failures ("fault") == 0)
    why = g_strdup ("something has failed by itself");
  run->told += told;
  run->survived += !told && blkdebug_get_failures ("fault") > 0;
  if (!why && !told)
    why = fault_swallowed ("fault");
  /* All that was flushed is durable at 0, what was not may be there or not. */
  if (!why)
    why = crash_judge_files (&judge, 1);
  g_rand_free (rand);
  return why;
}

/* As many runs as there are requests; @each: none of them is passed over. */
static void
all_faults (Run *run, const Fault *fault, bool each)
{
  int n = 0;

  run->told = run->survived = 0;
  do
    {
      n += each ? 1 : test_fault_step ();

      g_autofree char *why = one_fault (run, fault, n);

      if (why)
        test_fail ("%s at request %d: %s", fault->name, n, why);
    }
  while (!g_test_failed () && blkdebug_get_failures ("fault") > 0);
  g_test_message ("%s, in %d requests: %d times it was reported, %d times overcome", fault->name, n - 1,
                  run->told, run->survived);
}

static void
test_case (gconstpointer data)
{
  g_auto (Run) run = { .c = data };

  test_dir_init (&run.dir, "fault");
  make_files (&run);
  for (size_t i = 0; i < G_N_ELEMENTS (faults) && !g_test_failed (); i++)
    all_faults (&run, &faults[i], false);
}

/* There are few, and each stands for much: in a short run, too, none is passed over. */
static void
test_flushes (gconstpointer data)
{
  g_auto (Run) run = { .c = data };

  test_dir_init (&run.dir, "fault");
  make_files (&run);
  all_faults (&run, &flush_fault, true);
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/fault/%s/%s", image_kind_format (cases[i].leaf), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    if (cases[i].work == WORK_COMMIT && cases[i].leaf == IMAGE_VHD)
      {
        g_autofree char *path =
            g_strdup_printf ("/fault/%s/%s-flushes", image_kind_format (cases[i].leaf), cases[i].name);

        g_test_add_data_func (path, &cases[i], test_flushes);
      }
  return g_test_run ();
}
