/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes in a rebase: at every cut the image reads the same, through its child where it has one, and is sound; the job
 * run again finishes: then the image has its new parent, reads the same, and no other file has changed.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS crashes each case makes, VHDKIT_ITERATIONS runs of each (long.sh).
 */
#include <string.h>

#include "images.h"

#define KIB        INT64_C (1024)
#define MIB        (1024 * KIB)
#define MAX_LAYERS 4

typedef struct
{
  ImageKind kind;
  int64_t bytes, block_size;
} Layer;

/* What the new parent is. */
typedef enum
{
  ONTO_NONE,
  ONTO_ANCESTOR, /* the base */
  ONTO_SIBLING,  /* an image made for it above the base */
  ONTO_STRANGER, /* an image made for it without a parent */
} Onto;

typedef enum
{
  CHILD = 1 << 0,  /* the image has a child, through which it is looked at */
  BATMAP = 1 << 1, /* the image is one of XenServer's */
} Flags;

typedef struct
{
  const char *name;
  int crashes;
  Onto onto;
  int flags;
  Layer layers[MAX_LAYERS]; /* from the image down, ended by one of no bytes */
  Layer made;               /* for ONTO_SIBLING and ONTO_STRANGER */
} Case;

/* clang-format off */
static const Case cases[] = {
  { "none", 240, ONTO_NONE, 0, { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } } },
  { "none-of-three", 240, ONTO_NONE, CHILD,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB - 3584, 32 * KIB }, { IMAGE_VHD_FIXED, 2 * MIB, 0 } } },
  { "none-of-smaller", 240, ONTO_NONE, BATMAP, { { IMAGE_VHD, MIB + 512, 64 * KIB }, { IMAGE_RAW, MIB / 2 + 512, 0 } } },
  { "ancestor", 240, ONTO_ANCESTOR, 0,
    { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 32 * KIB } } },
  { "ancestor-of-many", 240, ONTO_ANCESTOR, CHILD,
    { { IMAGE_VHD, MIB, 4 * KIB }, { IMAGE_VHD, MIB - 512, 16 * KIB }, { IMAGE_VHD, MIB + 512, 8 * KIB }, { IMAGE_RAW, MIB, 0 } } },
  { "sibling", 240, ONTO_SIBLING, 0,
    { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } }, { IMAGE_VHD, MIB, 32 * KIB } },
  { "sibling-longer", 240, ONTO_SIBLING, CHILD,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB / 2, 16 * KIB }, { IMAGE_VHD, MIB / 2, 16 * KIB } }, { IMAGE_VHD, 2 * MIB, 4 * KIB } },
  { "stranger", 240, ONTO_STRANGER, BATMAP,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } }, { IMAGE_VHD_FIXED, MIB - 512, 0 } },
  { "stranger-shorter", 240, ONTO_STRANGER, CHILD,
    { { IMAGE_VHD, MIB, 32 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } }, { IMAGE_VHD, MIB / 3 / 512 * 512, 8 * KIB } },
  { "none", 60, ONTO_NONE, 0, { { IMAGE_VHDX, 6 * MIB, MIB }, { IMAGE_VHDX, 6 * MIB, MIB } } },
  { "none-of-three", 60, ONTO_NONE, CHILD,
    { { IMAGE_VHDX, 6 * MIB, MIB }, { IMAGE_VHDX, 5 * MIB - 512, 2 * MIB }, { IMAGE_VHDX_FIXED, 8 * MIB, MIB } } },
  { "none-4k", 60, ONTO_NONE, 0, { { IMAGE_VHDX_4K, 7 * MIB, 2 * MIB }, { IMAGE_VHDX_4K, 5 * MIB, MIB } } },
  { "ancestor", 60, ONTO_ANCESTOR, CHILD,
    { { IMAGE_VHDX, 6 * MIB, MIB }, { IMAGE_VHDX, 6 * MIB, MIB }, { IMAGE_VHDX, 6 * MIB, 4 * MIB } } },
  { "sibling", 60, ONTO_SIBLING, 0,
    { { IMAGE_VHDX, 6 * MIB, 2 * MIB }, { IMAGE_VHDX, 6 * MIB, MIB }, { IMAGE_VHDX, 6 * MIB, MIB } }, { IMAGE_VHDX, 6 * MIB, MIB } },
  { "sibling-longer", 60, ONTO_SIBLING, CHILD,
    { { IMAGE_VHDX, 6 * MIB + 512, MIB }, { IMAGE_VHDX, 3 * MIB, MIB }, { IMAGE_VHDX, 3 * MIB, MIB } }, { IMAGE_VHDX, 12 * MIB, 2 * MIB } },
  { "stranger-shorter", 60, ONTO_STRANGER, CHILD,
    { { IMAGE_VHDX_4K, 6 * MIB, MIB }, { IMAGE_VHDX_4K, 6 * MIB, 2 * MIB } }, { IMAGE_VHDX_4K, 4 * MIB - 4096, MIB } },
};
/* clang-format on */

typedef struct
{
  TestDir dir;
  GRand *rand;
  const Case *c;
  int layers;
  const char *parent; /* the new one, or NULL */
  const char *seen;   /* the image that a guest has */
  CrashTrace *trace;
  Guest *guest;
  GuestValues *own; /* what the image itself shows */
} Run;

static const char *const names[MAX_LAYERS] = { "image", "layer1", "layer2", "layer3" };

static void
run_clear (Run *run)
{
  guest_values_free (run->own);
  guest_free (run->guest);
  crash_trace_free (run->trace);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static void
make_layer (Run *run, const char *name, const Layer *layer, const char *parent)
{
  image_make (&run->dir, name, layer->kind, layer->bytes, layer->block_size, parent);
  if (strcmp (name, names[0]) == 0 && (run->c->flags & BATMAP))
    image_add_batmap (&run->dir, name);
  image_populate (&run->dir, name, run->rand, 16,
                  image_kind_is_sparse (layer->kind) ? layer->block_size : 4 * KIB, 0);
}

static void
make_chain (Run *run)
{
  const Case *c = run->c;
  Layer child = c->layers[0];

  while (run->layers < MAX_LAYERS && c->layers[run->layers].bytes > 0)
    run->layers++;
  for (int i = run->layers; i-- > 0;)
    make_layer (run, names[i], &c->layers[i], i + 1 < run->layers ? names[i + 1] : NULL);
  run->seen = names[0];
  if (c->flags & CHILD)
    make_layer (run, run->seen = "child", &child, names[0]);
  if (c->onto == ONTO_ANCESTOR)
    run->parent = names[run->layers - 1];
  else if (c->onto != ONTO_NONE)
    make_layer (run, run->parent = "made", &c->made, c->onto == ONTO_SIBLING ? names[run->layers - 1] : NULL);
}

/* Whether the rebase is complete and nothing else has happened. */
static char *
look_at_result (Run *run)
{
  char *why = NULL;
  g_autoptr (GuestValues) own = image_values (&run->dir, names[0], &why), seen = NULL;
  int64_t leaks = 0;

  if (own)
    why = guest_values_compare (own, run->own);
  if (!why && (seen = image_values (&run->dir, run->seen, &why)) != NULL)
    why = guest_check (run->guest, seen, GUEST_NOW);
  if (!why)
    why = image_check_parent (&run->dir, names[0], run->parent);
  if (!why)
    why = image_check (&run->dir, names[0], &leaks);
  if (!why && leaks > 0)
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks", leaks);
  return why ? why : crash_trace_changed_file (run->trace, false);
}

/* After a crash: the job again. */
static char *
rebase_again (void *opaque)
{
  Run *run = opaque;
  char *why = image_rebase (&run->dir, names[0], run->parent, NULL, NULL, NULL);
  char *text;

  if (!why)
    why = look_at_result (run);
  text = why ? g_strdup_printf ("the job run again: %s", why) : NULL;
  g_free (why);
  return text;
}

static bool
record (Run *run)
{
  const char *files[MAX_LAYERS + 3] = { NULL };
  g_autoptr (GuestValues) view = NULL;
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;
  int n = 0;

  make_chain (run);
  while (n < run->layers)
    {
      files[n] = names[n];
      n++;
    }
  if (run->c->flags & CHILD)
    files[n++] = "child";
  if (run->c->onto == ONTO_SIBLING || run->c->onto == ONTO_STRANGER)
    files[n++] = "made";
  view = image_read (&run->dir, run->seen);
  run->guest = guest_new (view);
  run->own = image_read (&run->dir, names[0]);
  g_autoptr (Guest) reader = guest_new (run->own);

  run->trace = recording_trace (&run->dir, "log", files);
  filters = recording_filters (&run->dir, "log", run->rand);
  why = image_rebase (&run->dir, names[0], run->parent, filters, g_rand_boolean (run->rand) ? reader : NULL,
                      run->rand);
  if (!why)
    {
      crash_trace_load (run->trace);
      why = look_at_result (run);
    }
  for (int i = 1; i < n && !why; i++)
    {
      g_autofree char *path = test_path (&run->dir, files[i]);

      if (crash_trace_touches (run->trace, path))
        why = g_strdup_printf ("%s has been written to", files[i]);
    }
  if (why)
    test_fail ("without a crash: %s", why);
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

      test_begin (&run.dir, &run.rand, "crash-rebase", "rebase-%s-%s-%d",
                  image_kind_format (c->layers[0].kind), c->name, i);
      if (!record (&run))
        return;

      CrashJudge judge = { .dir = &run.dir,
                           .trace = run.trace,
                           .rand = run.rand,
                           .name = run.seen,
                           .guest = run.guest,
                           .changed = names[0],
                           .look = rebase_again,
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
          g_strdup_printf ("/crash-rebase/%s/%s", image_kind_format (cases[i].layers[0].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
