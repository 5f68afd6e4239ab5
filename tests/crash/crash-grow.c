/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes in what changes footer, headers and tables: growth of the disk, opening for writing what another process
 * left, and closing.  These logs are short, so they are cut everywhere, with each change lost, and kept, alone; of the
 * crashes of a VHDX a short run makes some.
 *
 * VHDKIT_SEED repeats a run, VHDKIT_ITERATIONS runs of each case; VHDKIT_CRASH_CUTS crashes of each VHDX (long.sh).
 */
#include <string.h>

#include "byteorder.h"
#include "images.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

typedef enum
{
  RUBBISH = 1 << 0, /* behind the end of the disk, and of the table */
  BATMAP = 1 << 1,
  NO_FOOTER = 1 << 2, /* at the end */
  RESERVE = 1 << 3,   /* zeros before the footer at the end */
  BAD_COPY = 1 << 4,  /* of the footer, at offset 0; of a VHDX the second header and the first region table */
  FILLED = 1 << 5,    /* the last blocks of the disk have data */
  TAIL = 1 << 6,      /* rubbish behind the last block */
  PARTIAL = 1 << 7,   /* blocks with all bits, and with none */
} Flags;

typedef struct
{
  const char *name;
  ImageKind kind;
  int64_t bytes, block_size;
  int64_t parent_bytes; /* 0: none */
  int flags;
  int64_t grow_to[2]; /* 0: not */
  int writes;
  int64_t ends; /* not 0: the disk is huge, and used at its ends only */
} Case;

static const Case cases[] = {
  { "open-and-cut", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, RESERVE, { 0 }, 0 },
  { "open-without-footer", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, NO_FOOTER, { 0 }, 0 },
  { "open-with-reserve", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, RESERVE, { 0 }, 1 },
  { "open-with-reserve-and-bad-copy", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, RESERVE | BAD_COPY, { 0 }, 1 },
  { "open-with-bad-copy", IMAGE_VHD, 512 * KIB, 4 * KIB, 512 * KIB, BAD_COPY, { 0 }, 4 },
  { "close", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, 0, { 0 }, 6 },
  { "close-differencing", IMAGE_VHD, 512 * KIB, 8 * KIB, 256 * KIB, 0, { 0 }, 6 },
  { "grow-in-last-block",
    IMAGE_VHD,
    256 * KIB + 512,
    16 * KIB,
    0,
    RUBBISH | FILLED,
    { 256 * KIB + 8192, 0 },
    1 },
  { "grow-in-last-block-differencing",
    IMAGE_VHD,
    256 * KIB + 512,
    16 * KIB,
    512 * KIB,
    RUBBISH | FILLED,
    { 256 * KIB + 1024, 256 * KIB + 8192 },
    1 },
  { "grow-in-table", IMAGE_VHD, 256 * KIB - 512, 4 * KIB, 0, RUBBISH | FILLED, { 272 * KIB, 400 * KIB }, 1 },
  { "grow-moves-table", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, FILLED, { 640 * KIB + 512, MIB }, 2 },
  { "grow-moves-batmap", IMAGE_VHD, 512 * KIB, 4 * KIB, 0, BATMAP | FILLED, { MIB + 512, 0 }, 2 },
  { "grow-hides-parent", IMAGE_VHD, 256 * KIB - 512, 8 * KIB, 512 * KIB, 0, { 300 * KIB, 0 }, 0 },
  { "grow-moves-table-and-hides-parent",
    IMAGE_VHD,
    496 * KIB,
    4 * KIB,
    640 * KIB,
    RUBBISH,
    { 600 * KIB, 0 },
    0 },
  { "grow-fixed-by-a-sector", IMAGE_VHD_FIXED, 64 * KIB, 0, 0, 0, { 64 * KIB + 512, 0 }, 1 },
  { "grow-fixed", IMAGE_VHD_FIXED, 64 * KIB, 0, 0, 0, { 72 * KIB, MIB }, 1 },

  { "close", IMAGE_VHDX, 4 * MIB, MIB, 0, 0, { 0 }, 6 },
  { "close-differencing", IMAGE_VHDX, 4 * MIB, 2 * MIB, 3 * MIB, PARTIAL, { 0 }, 6 },
  { "open-with-tail", IMAGE_VHDX, 4 * MIB, MIB, 0, TAIL, { 0 }, 3 },
  { "open-with-tail-differencing", IMAGE_VHDX, 4 * MIB, MIB, 4 * MIB, TAIL, { 0 }, 3 },
  { "open-with-bad-copies", IMAGE_VHDX, 4 * MIB, MIB, 4 * MIB, BAD_COPY, { 0 }, 1 },
  { "grow-in-last-block",
    IMAGE_VHDX,
    3 * MIB + 512,
    MIB,
    0,
    RUBBISH | FILLED,
    { 3 * MIB + 8192, 4 * MIB - 512 },
    1 },
  { "grow-in-last-block-4k",
    IMAGE_VHDX_4K,
    3 * MIB + 4096,
    MIB,
    6 * MIB,
    RUBBISH | FILLED,
    { 3 * MIB + 8192, 4 * MIB - 4096 },
    1 },
  { "grow-in-last-block-partial",
    IMAGE_VHDX,
    3 * MIB + 512,
    MIB,
    6 * MIB,
    RUBBISH | FILLED | PARTIAL,
    { 3 * MIB + 8192, 4 * MIB - 512 },
    1 },
  { "grow-in-table", IMAGE_VHDX, 3 * MIB, MIB, 0, FILLED, { 5 * MIB, 5 * MIB + 512 }, 2 },
  { "grow-hides-parent", IMAGE_VHDX, 3 * MIB - 512, MIB, 6 * MIB, 0, { 5 * MIB, 0 }, 1 },
  { "grow-moves-table",
    IMAGE_VHDX,
    131039 * MIB,
    MIB,
    0,
    FILLED,
    { 131040 * MIB, 131042 * MIB + 512 },
    2,
    3 * MIB },
  { "grow-moves-table-and-hides-parent",
    IMAGE_VHDX,
    131039 * MIB - 512,
    MIB,
    131045 * MIB,
    RUBBISH | FILLED,
    { 131042 * MIB, 0 },
    1,
    3 * MIB },
  { "grow-adds-chunk", IMAGE_VHDX, 4095 * MIB, MIB, 4200 * MIB, FILLED, { 4098 * MIB, 0 }, 3, 3 * MIB },
  { "grow-fixed", IMAGE_VHDX_FIXED, MIB, MIB, 0, 0, { MIB + 512, 3 * MIB }, 1 },
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

static int64_t
block_size_of (const Case *c)
{
  return image_kind_is_sparse (c->kind) ? c->block_size : 4 * KIB;
}

static bool
is_vhd (const Case *c)
{
  return strcmp (image_kind_format (c->kind), "vhd") == 0;
}

static void
make_files (Run *run)
{
  const Case *c = run->c;

  if (c->parent_bytes)
    {
      int64_t block_size = c->kind == IMAGE_VHD ? 16 * KIB : 2 * MIB;

      image_make (&run->dir, "base", c->kind, c->parent_bytes, block_size, NULL);
      image_populate (&run->dir, "base", run->rand, 40, block_size, c->ends);
    }
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, c->parent_bytes ? "base" : NULL);
  if (c->flags & BATMAP)
    image_add_batmap (&run->dir, "leaf");
  image_populate (&run->dir, "leaf", run->rand, 4, c->block_size, c->ends);
  if (c->flags & FILLED)
    image_fill_end (&run->dir, "leaf");
  if (c->flags & PARTIAL)
    image_add_partial (&run->dir, "leaf", run->rand);
  if (c->flags & RUBBISH)
    image_add_rubbish (&run->dir, "leaf");
  if (c->flags & (NO_FOOTER | RESERVE))
    image_leave_reserve (&run->dir, "leaf", c->flags & RESERVE ? 64 * KIB : 0);
  if (c->flags & TAIL)
    image_leave_tail (&run->dir, "leaf", 3 * MIB + 512);
  if (c->flags & BAD_COPY && is_vhd (c))
    image_damage_copy (&run->dir, "leaf");
  if (c->flags & BAD_COPY && !is_vhd (c))
    {
      image_damage_header (&run->dir, "leaf", 1);
      image_damage_regions (&run->dir, "leaf", 0);
    }
}

static char *
live (Run *run, char **filters)
{
  const Case *c = run->c;
  GuestMix mix = {
    .write = 1, .max_sectors = 16, .whole_blocks = 20, .block_size = block_size_of (c), .ends = c->ends
  };
  char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, filters, &why);
  g_autoptr (GError) error = NULL;

  if (image == NULL)
    return why;

  g_auto (GuestRun) guest_state = { .context = run->dir.context,
                                    .image = image,
                                    .guest = run->guest,
                                    .trace = run->trace,
                                    .rand = run->rand,
                                    .depth = 3 };

  guest_run (&guest_state, &mix, c->writes);
  for (int i = 0; i < 2 && c->grow_to[i] && !why; i++)
    {
      if (!guest_grow (&guest_state, &mix, 0, c->grow_to[i], &error))
        why = g_strdup (error->message);
      else
        guest_run (&guest_state, &mix, c->writes);
    }
  if (!why)
    why = g_strdup (guest_state.wrong);
  image_close (image, why ? NULL : &why);
  guest_closed (&guest_state);
  return why;
}

static bool
record (Run *run)
{
  g_autoptr (GuestValues) values = NULL;
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;

  make_files (run);
  values = image_read (&run->dir, "leaf");
  run->guest = guest_new (values);
  run->trace = recording_trace (&run->dir, "log",
                                (const char *[]){ "leaf", run->c->parent_bytes ? "base" : NULL, NULL });
  filters = recording_filters (&run->dir, "log", run->rand);
  why = live (run, filters);
  if (why)
    {
      test_fail ("without a crash: %s", why);
      return false;
    }
  crash_trace_load (run->trace);
  return true;
}

/* Those who look for a footer at the end alone find one: while the file is cut, as long as no block needs room. */
static bool
keeps_footer (const Case *c)
{
  return is_vhd (c) && c->flags & RESERVE && c->writes == 0;
}

/* Entries that the header counts, and no block of the disk has, are unused: others may look at all of
 * them. */
static char *
look_at_table (void *opaque)
{
  Run *run = opaque;
  g_autofree char *path = test_path (&run->dir, "leaf");
  g_autofree char *file = NULL;
  gsize length;

  if (!image_kind_is_sparse (run->c->kind) || run->c->parent_bytes)
    return NULL;
  if (!g_file_get_contents (path, &file, &length, NULL) || length < 2048)
    return g_strdup ("cannot read the table");
  const uint8_t *bytes = (const uint8_t *)file, *header = bytes + be64_at (bytes + 16);
  uint64_t table = be64_at (header + 16), entries = be32_at (header + 28), block_size = be32_at (header + 32);
  uint64_t blocks = (be64_at (bytes + 48) + block_size - 1) / block_size;

  for (uint64_t i = blocks; i < entries; i++)
    if (be32_at (bytes + table + i * 4) != UINT32_MAX)
      return g_strdup_printf ("entry %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " is behind the disk", i,
                              entries);
  return NULL;
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { .c = c };

      test_begin (&run.dir, &run.rand, "crash-grow", "grow-%s-%s-%d", image_kind_format (c->kind), c->name,
                  i);
      if (!record (&run))
        return;

      CrashJudge judge = { .dir = &run.dir,
                           .trace = run.trace,
                           .rand = run.rand,
                           .name = "leaf",
                           .guest = run.guest,
                           .changed = "leaf",
                           .writes_after = 10,
                           .block_size = block_size_of (c),
                           .ends = c->ends,
                           .keeps_footer = keeps_footer (c),
                           .look = is_vhd (c) ? look_at_table : NULL,
                           .opaque = &run };

      crash_judge_every (&judge, is_vhd (c) ? 0 : 100);
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-grow/%s/%s", image_kind_format (cases[i].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
