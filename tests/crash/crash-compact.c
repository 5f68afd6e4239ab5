/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes in a compaction: the image shows the same and is sound at every cut; the job run again finishes, leaves no
 * leak, and a file no longer than without a crash.  A VHD ends with a footer all the time.  Where part of the disk is
 * swap space, of that part only what is in use must stay; the rest may be zeros at any time, or what the parent shows,
 * and then a VHDX has another identity.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS crashes each case makes, VHDKIT_ITERATIONS runs of each (long.sh).
 */
#include <string.h>
#include <sys/stat.h>

#include "images.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

#define SWAP_PAGE (4 * KIB)

typedef enum
{
  BATMAP = 1 << 0,
  ANCHORS = 1 << 1, /* blocks without data that keep space */
  PARTIAL = 1 << 2, /* blocks with all bits, and with none */
  SWAP = 1 << 3,    /* nearly two thirds of the disk are not in use */
  FINE = 1 << 4,    /* holes inside of blocks, too */
} Flags;

typedef struct
{
  const char *name;
  ImageKind kind;
  int crashes;
  int64_t bytes, block_size;
  int64_t parent_bytes; /* 0: none */
  int flags;
  int rounds; /* of filling and emptying */
  VhdkitCompactMode mode;
} Case;

static const Case cases[] = {
  { "dynamic-4k", IMAGE_VHD, 300, MIB, 4 * KIB, 0, 0, 2 },
  { "dynamic-64k", IMAGE_VHD, 240, 4 * MIB + 512, 64 * KIB, 0, 0, 2 },
  { "dynamic-batmap", IMAGE_VHD, 240, MIB, 8 * KIB, 0, BATMAP, 3 },
  { "differencing-4k", IMAGE_VHD, 300, MIB, 4 * KIB, MIB, 0, 2 },
  { "differencing-32k", IMAGE_VHD, 240, 2 * MIB - 512, 32 * KIB, 2 * MIB, 0, 3 },
  { "differencing-on-smaller", IMAGE_VHD, 240, 2 * MIB, 16 * KIB, MIB, 0, 2 },
  { "differencing-batmap", IMAGE_VHD, 240, MIB, 8 * KIB, MIB, BATMAP, 3 },
  { "free", IMAGE_VHD, 240, MIB, 8 * KIB, 0, SWAP, 3, VHDKIT_COMPACT_FULL },
  { "free-quick", IMAGE_VHD, 160, MIB, 8 * KIB, 0, SWAP, 3, VHDKIT_COMPACT_QUICK },
  { "free-punch", IMAGE_VHD, 160, MIB, 16 * KIB, 0, SWAP | FINE, 3, VHDKIT_COMPACT_PUNCH },
  { "free-pack", IMAGE_VHD, 160, MIB, 8 * KIB, 0, SWAP, 3, VHDKIT_COMPACT_PACK },
  { "free-differencing", IMAGE_VHD, 240, MIB, 16 * KIB, MIB, SWAP, 3, VHDKIT_COMPACT_FULL },
  { "free-differencing-punch", IMAGE_VHD, 160, MIB, 16 * KIB, MIB, SWAP | FINE, 3, VHDKIT_COMPACT_PUNCH },
  { "free-fixed-punch", IMAGE_VHD_FIXED, 100, MIB, 0, 0, SWAP, 3, VHDKIT_COMPACT_PUNCH },
  { "prezeroed", IMAGE_VHD, 100, MIB, 8 * KIB, 0, SWAP, 3, VHDKIT_COMPACT_PREZEROED },
  { "pretrimmed", IMAGE_VHD, 60, MIB, 8 * KIB, 0, SWAP, 3, VHDKIT_COMPACT_PRETRIMMED },

  { "dynamic", IMAGE_VHDX, 60, 12 * MIB, MIB, 0, 0, 2 },
  { "dynamic-2m-odd", IMAGE_VHDX, 60, 15 * MIB + 512, 2 * MIB, 0, 0, 2 },
  { "dynamic-4k", IMAGE_VHDX_4K, 60, 12 * MIB, MIB, 0, 0, 2 },
  { "dynamic-anchors", IMAGE_VHDX, 60, 12 * MIB, MIB, 0, ANCHORS, 2 },
  { "differencing", IMAGE_VHDX, 80, 12 * MIB, MIB, 12 * MIB, 0, 2 },
  { "differencing-4k", IMAGE_VHDX_4K, 60, 12 * MIB, MIB, 12 * MIB, PARTIAL, 2 },
  { "differencing-on-smaller", IMAGE_VHDX, 60, 12 * MIB, 2 * MIB, 5 * MIB, 0, 2 },
  { "differencing-partial", IMAGE_VHDX, 80, 12 * MIB, MIB, 12 * MIB, PARTIAL | ANCHORS, 2 },
  { "free", IMAGE_VHDX, 60, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_FULL },
  { "free-quick", IMAGE_VHDX, 60, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_QUICK },
  { "free-4k", IMAGE_VHDX_4K, 60, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_FULL },
  { "free-retrim", IMAGE_VHDX, 60, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_RETRIM },
  { "free-punch", IMAGE_VHDX, 60, 12 * MIB, 2 * MIB, 0, SWAP | FINE, 2, VHDKIT_COMPACT_PUNCH },
  { "free-pack", IMAGE_VHDX, 40, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_PACK },
  { "free-differencing", IMAGE_VHDX, 80, 12 * MIB, 2 * MIB, 12 * MIB, SWAP | PARTIAL, 2,
    VHDKIT_COMPACT_FULL },
  { "free-differencing-quick", IMAGE_VHDX, 60, 12 * MIB, MIB, 5 * MIB, SWAP, 2, VHDKIT_COMPACT_QUICK },
  { "free-differencing-retrim", IMAGE_VHDX, 60, 12 * MIB, MIB, 12 * MIB, SWAP, 2, VHDKIT_COMPACT_RETRIM },
  { "free-fixed-punch", IMAGE_VHDX_FIXED, 40, 12 * MIB, MIB, 0, SWAP, 2, VHDKIT_COMPACT_PUNCH },
};

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  CrashTrace *trace;
  Guest *guest;
  GuestValues *view;  /* what the leaf showed … */
  char *identity;     /* … when it was known by this; NULL: the format's does not follow the content */
  bool reads;         /* a guest reads while the job runs */
  int64_t file_bytes; /* of an uninterrupted run */
} Run;

static void
run_clear (Run *run)
{
  guest_free (run->guest);
  guest_values_free (run->view);
  g_free (run->identity);
  crash_trace_free (run->trace);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

/* Ends inside of a block. */
static int64_t
swap_bytes (const Case *c)
{
  return c->bytes / (3 * SWAP_PAGE) * 2 * SWAP_PAGE - SWAP_PAGE;
}

static VhdkitCompactOptions
options_of (const Case *c)
{
  return (VhdkitCompactOptions){ .mode = c->mode, .punch_blocks = (c->flags & FINE) != 0 };
}

/* Random writes, much of them zeros and what the parent shows, and discards. */
static void
fill_and_empty (Run *run)
{
  const Case *c = run->c;
  GuestMix mix = { .write = 12,
                   .zeroes = 4,
                   .discard = 3,
                   .flush = 1,
                   .zero_data = 40,
                   .old_data = c->parent_bytes ? 40 : 0,
                   .max_sectors = 160,
                   .whole_blocks = c->block_size < MIB ? 60 : 80,
                   .block_size = c->block_size };
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", VHDKIT_OPEN_RDWR, NULL, &why);
  g_autoptr (GuestValues) values = image ? guest_read_image (image, &why) : NULL;

  if (values == NULL)
    g_error ("%s", why);

  g_autoptr (Guest) guest = guest_new (values);
  g_auto (GuestRun) guest_state = {
    .context = run->dir.context, .image = image, .guest = guest, .rand = run->rand, .depth = 1
  };

  guest_run (&guest_state, &mix, c->block_size < MIB ? 120 : 40);
  if (guest_state.wrong || !image_close (image, &why))
    g_error ("%s", guest_state.wrong ? guest_state.wrong : why);
}

static int64_t
length_of (Run *run, const char *name)
{
  g_autofree char *path = test_path (&run->dir, name);
  struct stat st;

  return stat (path, &st) < 0 ? -1 : st.st_size;
}

/* Of the leaf's content, as children of it have it; NULL: it does not follow the content. */
static char *
read_identity (Run *run)
{
  g_autofree char *why = NULL;
  VhdkitImage *image = image_open (&run->dir, "leaf", 0, NULL, &why);
  VhdkitLayerInfo info = { 0 };
  char *identity = NULL;

  if (image == NULL || !vhdkit_image_get_layer_info (image, 0, &info, NULL))
    g_error ("%s", why ? why : "no information on the leaf");
  g_variant_lookup (info.format_specific, "data-write-guid", "s", &identity);
  vhdkit_layer_info_clear (&info);
  image_close (image, NULL);
  return identity;
}

/* What an image is known by never means two contents. */
static char *
look_at_identity (Run *run)
{
  char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, "leaf", &why);
  g_autofree char *difference = values ? guest_values_compare (values, run->view) : NULL;
  g_autofree char *identity = run->identity ? read_identity (run) : NULL;

  if (difference && identity && strcmp (identity, run->identity) == 0)
    why = g_strdup_printf ("still %s, and %s", identity, difference);
  return why;
}

static char *
look_at_result (Run *run)
{
  int64_t leaks = 0;
  char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, "leaf", &why);

  if (values)
    why = guest_check (run->guest, values, GUEST_NOW);
  if (!why)
    why = image_check (&run->dir, "leaf", &leaks);
  /* What is only marked keeps its place for the next time. */
  if (!why && leaks > 0 && run->c->mode != VHDKIT_COMPACT_RETRIM)
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks", leaks);
  return why ? why : crash_trace_changed_file (run->trace, false);
}

static char *
compact_again (void *opaque)
{
  Run *run = opaque;
  char *why = look_at_identity (run);
  char *text;

  if (!why)
    why = image_compact (&run->dir, "leaf", options_of (run->c), NULL, NULL, NULL, NULL);
  if (!why)
    why = look_at_result (run);
  if (!why && length_of (run, "leaf") > run->file_bytes)
    why = g_strdup_printf ("the file has %" G_GINT64_FORMAT " bytes, %" G_GINT64_FORMAT " without the crash",
                           length_of (run, "leaf"), run->file_bytes);
  text = why ? g_strdup_printf ("the job run again: %s", why) : NULL;
  g_free (why);
  return text;
}

/* What is not in use of the swap space may be lost. */
static void
forget_unused (Run *run)
{
  g_autofree char *why = NULL;
  g_autoptr (GuestValues) below = run->c->parent_bytes ? image_values (&run->dir, "base", &why) : NULL;

  if (why)
    g_error ("%s", why);
  guest_set_unused (run->guest, SWAP_PAGE, swap_bytes (run->c) - SWAP_PAGE, below);
}

static bool
record (Run *run)
{
  const Case *c = run->c;
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;
  VhdkitCompactStats stats;

  if (c->parent_bytes)
    {
      image_make (&run->dir, "base", c->kind, c->parent_bytes, 2 * c->block_size, NULL);
      image_populate (&run->dir, "base", run->rand, 60, c->block_size, 0);
    }
  image_make (&run->dir, "leaf", c->kind, c->bytes, c->block_size, c->parent_bytes ? "base" : NULL);
  if (c->flags & BATMAP)
    image_add_batmap (&run->dir, "leaf");
  for (int i = 0; i < c->rounds; i++)
    fill_and_empty (run);
  if (c->flags & PARTIAL)
    image_add_partial (&run->dir, "leaf", run->rand);
  if (c->flags & ANCHORS)
    image_add_anchors (&run->dir, "leaf", run->rand);
  if (c->flags & SWAP)
    image_add_swap (&run->dir, "leaf", swap_bytes (c));
  run->view = image_read (&run->dir, "leaf");
  run->guest = guest_new (run->view);
  run->identity = read_identity (run);
  if (c->flags & SWAP)
    forget_unused (run);

  run->trace =
      recording_trace (&run->dir, "log", (const char *[]){ "leaf", c->parent_bytes ? "base" : NULL, NULL });
  filters = recording_filters (&run->dir, "log", run->rand);
  why = image_compact (&run->dir, "leaf", options_of (c), filters, run->reads ? run->guest : NULL, run->rand,
                       &stats);
  if (!why)
    {
      crash_trace_load (run->trace);
      run->file_bytes = length_of (run, "leaf");
      why = look_at_result (run);
    }
  if (why)
    test_fail ("without a crash: %s", why);
  else if ((c->flags & SWAP) && stats.blocks_free == 0 && stats.bytes_punched == 0
           && c->mode != VHDKIT_COMPACT_PREZEROED && c->mode != VHDKIT_COMPACT_PRETRIMMED)
    test_fail ("nothing of the swap space was given back");
  else
    g_test_message ("%" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " blocks dropped (%" G_GINT64_FORMAT
                    " not in use), %" G_GINT64_FORMAT " moved, %" G_GINT64_FORMAT
                    " bytes punched, %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT " bytes",
                    stats.blocks_dropped, stats.blocks_allocated, stats.blocks_free, stats.blocks_moved,
                    stats.bytes_punched, stats.file_size_before, stats.file_size_after);
  return !why;
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { .c = c };

      test_begin (&run.dir, &run.rand, "crash-compact", "compact-%s-%s-%d", image_kind_format (c->kind),
                  c->name, i);
      run.reads = g_rand_boolean (run.rand);
      if (!record (&run))
        return;

      CrashJudge judge = { .dir = &run.dir,
                           .trace = run.trace,
                           .rand = run.rand,
                           .name = "leaf",
                           .guest = run.guest,
                           .changed = "leaf",
                           .keeps_footer = strcmp (image_kind_format (c->kind), "vhd") == 0,
                           .look = compact_again,
                           .opaque = &run };

      crash_judge_all (&judge, c->crashes);
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-compact/%s/%s", image_kind_format (cases[i].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
