/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes while a guest writes: several sessions of random writes, zeroes, discards, flushes and growth, several
 * requests in flight, each session ended by a close.
 *
 * After every crash: what was flushed is there, each other sector is old or new, the file is sound and a read-only
 * open does not change it; a writable open shows the same and may go on.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS crashes each case makes, VHDKIT_ITERATIONS runs of each (long.sh).
 */
#include <string.h>

#include "images.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

typedef enum
{
  NO_PARENT,
  DYNAMIC_PARENT, /* of another block size */
  FIXED_PARENT,
  RAW_PARENT,
  TWO_PARENTS,
} Parent;

typedef enum
{
  CLEAR_BITS = 1 << 0, /* zeros have no bits, as some writers of dynamic images leave them */
  BATMAP = 1 << 1,
  GROW = 1 << 2,
  WRITE_THROUGH = 1 << 3,
  CROWDED = 1 << 4,    /* few blocks, many requests: bitmaps fill up while they are published */
  MANY = 1 << 5,       /* so many new blocks that a round starts by itself */
  REUSE = 1 << 6,      /* a small disk, whose blocks come and go while slow reads are under way */
  WRAP = 1 << 7,       /* so many small changes of metadata that a log wraps */
  PARTIAL = 1 << 8,    /* blocks with all bits, and with none */
  LYING_DISK = 1 << 9, /* also a test of the test */
} Flags;

typedef struct
{
  const char *name;
  ImageKind kind;
  int64_t bytes, block_size;
  Parent parent;
  int64_t parent_bytes;
  int flags;
  int crashes;  /* in a short run */
  int64_t ends; /* not 0: the disk is huge, and used at its ends only */
} Case;

static const Case cases[] = {
  { "dynamic-4k", IMAGE_VHD, MIB, 4 * KIB, NO_PARENT, 0, LYING_DISK, 360 },
  { "dynamic-64k-odd", IMAGE_VHD, 2 * MIB + 13 * 512, 64 * KIB, NO_PARENT, 0, 0, 360 },
  { "dynamic-other-writer", IMAGE_VHD, MIB, 16 * KIB, NO_PARENT, 0, CLEAR_BITS, 360 },
  { "dynamic-batmap", IMAGE_VHD, MIB, 8 * KIB, NO_PARENT, 0, BATMAP, 240 },
  { "dynamic-grows", IMAGE_VHD, MIB - 512, 16 * KIB, NO_PARENT, 0, GROW, 360 },
  { "dynamic-write-through", IMAGE_VHD, MIB, 32 * KIB, NO_PARENT, 0, WRITE_THROUGH, 180 },
  { "differencing-4k", IMAGE_VHD, MIB, 4 * KIB, DYNAMIC_PARENT, MIB, 0, 360 },
  { "differencing-64k", IMAGE_VHD, 2 * MIB, 64 * KIB, FIXED_PARENT, 2 * MIB, LYING_DISK, 360 },
  { "differencing-on-raw", IMAGE_VHD, MIB + 512, 16 * KIB, RAW_PARENT, MIB, 0, 300 },
  { "differencing-on-smaller", IMAGE_VHD, 2 * MIB, 32 * KIB, DYNAMIC_PARENT, MIB, 0, 240 },
  { "differencing-on-larger-grows", IMAGE_VHD, MIB - 1024, 16 * KIB, DYNAMIC_PARENT, 2 * MIB, GROW, 360 },
  { "differencing-deep", IMAGE_VHD, MIB, 16 * KIB, TWO_PARENTS, MIB, 0, 240 },
  { "differencing-batmap", IMAGE_VHD, 256 * KIB, 4 * KIB, FIXED_PARENT, 256 * KIB, BATMAP | CROWDED, 120 },
  { "dynamic-reuse", IMAGE_VHD, 96 * KIB, 4 * KIB, NO_PARENT, 0, CROWDED | REUSE, 120 },
  { "differencing-reuse", IMAGE_VHD, 96 * KIB, 4 * KIB, DYNAMIC_PARENT, 40 * KIB, CROWDED | REUSE, 120 },
  { "batmap-reuse", IMAGE_VHD, 32 * KIB, 4 * KIB, DYNAMIC_PARENT, 8 * KIB, BATMAP | CROWDED | REUSE, 120 },
  { "dynamic-many-blocks", IMAGE_VHD, 26 * MIB, 4 * KIB, NO_PARENT, 0, MANY, 40 },
  { "fixed", IMAGE_VHD_FIXED, 512 * KIB, 0, NO_PARENT, 0, 0, 120 },
  { "fixed-grows", IMAGE_VHD_FIXED, 512 * KIB, 0, NO_PARENT, 0, GROW, 240 },

  { "dynamic", IMAGE_VHDX, 8 * MIB, MIB, NO_PARENT, 0, LYING_DISK, 60 },
  { "dynamic-2m-odd", IMAGE_VHDX, 8 * MIB + 13 * 512, 2 * MIB, NO_PARENT, 0, 0, 60 },
  { "dynamic-4k", IMAGE_VHDX_4K, 8 * MIB + 3 * 4096, MIB, NO_PARENT, 0, 0, 60 },
  { "dynamic-grows", IMAGE_VHDX, 8 * MIB - 512, MIB, NO_PARENT, 0, GROW, 60 },
  { "dynamic-write-through", IMAGE_VHDX, 8 * MIB, MIB, NO_PARENT, 0, WRITE_THROUGH, 60 },
  { "dynamic-wrap", IMAGE_VHDX, 20 * MIB, MIB, NO_PARENT, 0, WRAP, 80 },
  { "dynamic-reuse", IMAGE_VHDX, 10 * MIB, MIB, NO_PARENT, 0, CROWDED | REUSE, 60 },
  { "differencing", IMAGE_VHDX, 8 * MIB, MIB, DYNAMIC_PARENT, 8 * MIB, LYING_DISK, 80 },
  { "differencing-2m", IMAGE_VHDX, 8 * MIB, 2 * MIB, FIXED_PARENT, 8 * MIB, 0, 60 },
  { "differencing-4k", IMAGE_VHDX_4K, 8 * MIB, MIB, DYNAMIC_PARENT, 8 * MIB, 0, 60 },
  { "differencing-on-smaller", IMAGE_VHDX, 8 * MIB, MIB, DYNAMIC_PARENT, 5 * MIB + 512, 0, 60 },
  { "differencing-on-larger-grows", IMAGE_VHDX, 6 * MIB - 1024, MIB, DYNAMIC_PARENT, 12 * MIB, GROW, 80 },
  { "differencing-deep", IMAGE_VHDX, 8 * MIB, 2 * MIB, TWO_PARENTS, 8 * MIB, 0, 40 },
  { "differencing-partial", IMAGE_VHDX, 8 * MIB, MIB, DYNAMIC_PARENT, 8 * MIB, PARTIAL, 80 },
  { "differencing-crowded", IMAGE_VHDX, MIB + 256 * KIB, MIB, FIXED_PARENT, 2 * MIB, CROWDED, 60 },
  { "differencing-write-through", IMAGE_VHDX, 8 * MIB, MIB, DYNAMIC_PARENT, 8 * MIB, WRITE_THROUGH, 60 },
  { "differencing-wrap", IMAGE_VHDX, 20 * MIB, MIB, DYNAMIC_PARENT, 20 * MIB, WRAP, 80 },
  { "differencing-reuse", IMAGE_VHDX, 10 * MIB, MIB, DYNAMIC_PARENT, 4 * MIB, CROWDED | REUSE, 60 },
  { "differencing-two-chunks", IMAGE_VHDX, 6144 * MIB, MIB, DYNAMIC_PARENT, 6144 * MIB, 0, 60, 3 * MIB },
  { "fixed", IMAGE_VHDX_FIXED, 3 * MIB, MIB, NO_PARENT, 0, 0, 40 },
  { "fixed-grows", IMAGE_VHDX_FIXED, 3 * MIB - 512, MIB, NO_PARENT, 0, GROW, 60 },
};

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  CrashTrace *trace;
  Guest *guest;
} Run;

static void
run_clear (Run *run)
{
  crash_trace_free (run->trace);
  guest_free (run->guest);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

/* Makes the files; their names, NULL-terminated, in @names. */
static void
make_files (Run *run, const char *names[4])
{
  const Case *c = run->c;
  const char *parent = NULL;
  int n = 0;

  names[n++] = "leaf";
  if (c->parent != NO_PARENT)
    {
      ImageKind kind =
          c->parent == RAW_PARENT ? IMAGE_RAW : image_kind_of_parent (c->kind, c->parent == FIXED_PARENT);

      parent = names[n++] = "base";
      image_make (&run->dir, parent, kind, c->parent_bytes,
                  image_kind_is_sparse (kind) ? 2 * c->block_size : 0, NULL);
      image_populate (&run->dir, parent, run->rand, 120, c->block_size, c->ends);
    }
  if (c->parent == TWO_PARENTS)
    {
      names[n++] = "middle";
      image_make (&run->dir, "middle", c->kind, c->parent_bytes, c->block_size / 2, parent);
      image_populate (&run->dir, "middle", run->rand, 20, c->block_size, c->ends);
      parent = "middle";
    }
  names[n] = NULL;
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, parent);
  if (c->flags & BATMAP)
    image_add_batmap (&run->dir, "leaf");
  image_populate (&run->dir, "leaf", run->rand, 20, c->block_size, c->ends);
  if (c->flags & CLEAR_BITS)
    image_clear_bits (&run->dir, "leaf");
  if (c->flags & PARTIAL)
    image_add_partial (&run->dir, "leaf", run->rand);
}

static int64_t
block_size_of (const Case *c)
{
  return c->block_size && image_kind_is_sparse (c->kind) ? c->block_size : 4 * KIB;
}

static GuestMix
mix_of (const Run *run)
{
  const Case *c = run->c;
  GuestMix mix = { .write = 20,
                   .zeroes = 2,
                   .zeroes_unmap = 3,
                   .discard = 3,
                   .flush = 3,
                   .read = 6,
                   .zero_data = 10,
                   .old_data = 5,
                   .max_sectors = 96,
                   .whole_blocks = 20,
                   .block_size = block_size_of (c),
                   .ends = c->ends };

  if (c->flags & CROWDED)
    {
      mix.max_sectors = MAX (6, c->block_size / 8192);
      mix.flush = 6;
    }
  if (c->flags & WRAP)
    {
      mix.flush = 20;
      mix.max_sectors = 24;
    }
  if (c->flags & REUSE)
    mix = (GuestMix){ .write = 8,
                      .zeroes_unmap = 4,
                      .discard = 4,
                      .flush = 6,
                      .read = 14,
                      .max_sectors = 6,
                      .whole_blocks = c->flags & BATMAP ? 50 : 80,
                      .block_size = c->block_size };
  if (c->flags & MANY)
    mix = (GuestMix){ .write = 1, .max_sectors = 128 };
  return mix;
}

/* One life of the image, from open to close. */
static bool
session (Run *run, char **filters, bool last)
{
  const Case *c = run->c;
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = VHDKIT_OPEN_RDWR | VHDKIT_OPEN_RAW_PARENT,
                                .cache = c->flags & WRITE_THROUGH ? VHDKIT_CACHE_WRITETHROUGH
                                                                  : VHDKIT_CACHE_WRITEBACK,
                                .filters = (const char *const *)filters };
  g_autofree char *path = test_path (&run->dir, "leaf");
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = vhdkit_image_open (run->dir.context, path, &options, &error);
  GuestMix mix = mix_of (run);
  g_auto (GuestRun) guest_state = { .context = run->dir.context,
                                    .image = image,
                                    .guest = run->guest,
                                    .trace = run->trace,
                                    .rand = run->rand,
                                    .depth = c->flags & REUSE     ? 24
                                             : c->flags & CROWDED ? 12
                                                                  : 8,
                                    .write_through = c->flags & WRITE_THROUGH };
  int requests = c->flags & MANY ? 1200 : c->flags & (REUSE | WRAP) ? 700 : c->flags & CROWDED ? 250 : 60;

  if (image == NULL)
    {
      test_fail ("%s", error->message);
      return false;
    }
  guest_run (&guest_state, &mix, requests);
  if (c->flags & GROW)
    {
      int64_t bytes = guest_size (run->guest);

      /* A little, within the last block or the table's spare entries; then so much that the table must move. */
      bytes += last ? bytes / 2 : g_rand_int_range (run->rand, 1, 40) * 512;
      bytes -= bytes % image_kind_sector (c->kind);
      if (!guest_grow (&guest_state, &mix, 4, bytes, &error))
        test_fail ("%s", error->message);
      guest_run (&guest_state, &mix, 30);
    }
  if (guest_state.wrong)
    test_fail ("while recording: %s", guest_state.wrong);
  if (!vhdkit_image_close (image, &error))
    {
      test_fail ("%s", error->message);
      return false;
    }
  guest_closed (&guest_state);
  return !g_test_failed ();
}

static bool
record (Run *run)
{
  const char *names[4];
  g_auto (GStrv) filters = recording_filters (&run->dir, "log", run->rand);
  g_autoptr (GuestValues) values = NULL;

  make_files (run, names);
  values = image_read (&run->dir, "leaf");
  run->guest = guest_new (values);
  run->trace = recording_trace (&run->dir, "log", names);
  for (int i = run->c->flags & MANY ? 2 : 0; i < 3; i++)
    if (!session (run, filters, i == 2))
      return false;
  crash_trace_load (run->trace);
  return true;
}

static CrashJudge
judge_of (Run *run)
{
  return (CrashJudge){ .dir = &run->dir,
                       .trace = run->trace,
                       .rand = run->rand,
                       .name = "leaf",
                       .guest = run->guest,
                       .changed = "leaf",
                       .writes_after = 30,
                       .block_size = block_size_of (run->c),
                       .ends = run->c->ends };
}

static void
run_init (Run *run, const Case *c, const char *what, int i)
{
  run->c = c;
  test_begin (&run->dir, &run->rand, "crash-write", "%s-%s-%s-%d", what, image_kind_format (c->kind), c->name,
              i);
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { 0 };

      run_init (&run, c, "write", i);
      if (!record (&run))
        return;

      CrashJudge judge = judge_of (&run);

      crash_judge_all (&judge, c->crashes);
    }
}

/* Whether this test can fail: of a disk that pretends to flush, wrong images must come. */
static void
test_lying_disk (gconstpointer data)
{
  const Case *c = data;
  g_auto (Run) run = { 0 };
  int found = 0;

  run_init (&run, c, "lies", 0);
  if (!record (&run))
    return;

  CrashJudge judge = judge_of (&run);
  int flushes = crash_trace_flushes (run.trace);
  /* How many are missed is chance: much is soon written again, and a header of a VHDX is written twice. */
  bool vhd = strcmp (image_kind_format (c->kind), "vhd") == 0;
  int n = MIN (flushes, 20), tries = vhd ? 60 : 40;

  for (int i = 0; i < n && found < 3; i++)
    {
      g_autofree char *why = NULL;
      size_t k = i * flushes / n;

      if (crash_judge_finds (&judge, k, tries, &why))
        {
          g_autofree char *flush = crash_trace_describe_flush (run.trace, k);

          found++;
          g_test_message ("without %s: %s", flush, why);
        }
    }
  g_test_message ("%d of at most %d flushes are missed within %d crashes each", found, n, tries);
  if (found == 0)
    test_fail ("the judge does not see that flushes are missing");
}

/* A full block goes, and comes back in part, in one round: the bit of the batmap that calls it full has gone before the
 * table knows the new place. */
static bool
live_with_batmap (Run *run, char **filters)
{
  static const GuestMix all = { .write = 1, .max_sectors = 8, .whole_blocks = 100, .block_size = 4 * KIB },
                        none = { .discard = 1, .max_sectors = 8, .whole_blocks = 100, .block_size = 4 * KIB },
                        part = { .write = 1, .max_sectors = 1, .block_size = 4 * KIB };

  for (int life = 0; life < 2; life++)
    {
      g_autofree char *why = NULL;
      VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);
      g_auto (GuestRun) guest_state = { .context = run->dir.context,
                                        .image = image,
                                        .guest = run->guest,
                                        .trace = run->trace,
                                        .rand = run->rand,
                                        .depth = 1 };

      if (image)
        {
          guest_run (&guest_state, life == 0 ? &all : &none, 1);
          if (life == 1)
            guest_run (&guest_state, &part, 1);
          image_close (image, &why);
          guest_closed (&guest_state);
        }
      if (why)
        {
          test_fail ("%s", why);
          return false;
        }
    }
  return true;
}

static void
test_batmap_bit (void)
{
  static const Case c = { "batmap-bit", IMAGE_VHD, 4 * KIB, 4 * KIB, DYNAMIC_PARENT, 4 * KIB, BATMAP };
  g_auto (Run) run = { 0 };
  g_auto (GStrv) filters = NULL;
  g_autoptr (GuestValues) values = NULL;

  run_init (&run, &c, "write", 0);
  image_make (&run.dir, "base", c.kind, c.parent_bytes, c.block_size, NULL);
  image_make (&run.dir, "leaf", c.kind, c.bytes, c.block_size, "base");
  image_add_batmap (&run.dir, "leaf");
  values = image_read (&run.dir, "leaf");
  run.guest = guest_new (values);
  run.trace = recording_trace (&run.dir, "log", (const char *[]){ "leaf", "base", NULL });
  filters = recording_filters (&run.dir, "log", run.rand);
  if (!live_with_batmap (&run, filters))
    return;
  crash_trace_load (run.trace);

  CrashJudge judge = judge_of (&run);

  crash_judge_every (&judge, 0);
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  g_test_add_func ("/crash-write/vhd/batmap-bit", test_batmap_bit);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-write/%s/%s", image_kind_format (cases[i].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    if (cases[i].flags & LYING_DISK)
      {
        g_autofree char *path = g_strdup_printf ("/crash-write/%s/%s-lying-disk",
                                                 image_kind_format (cases[i].kind), cases[i].name);

        g_test_add_data_func (path, &cases[i], test_lying_disk);
      }
  return g_test_run ();
}
