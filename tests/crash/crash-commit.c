/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes in a commit: the chain shows the same at every cut, the target is sound, and the job run again finishes:
 * then the target shows what the source did, and no other file has changed.  It does so from the end of the job on.
 *
 * With and without comparing with the target first: what an interrupted run has left there is compared with, too.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_CRASH_CUTS crashes each case makes, VHDKIT_ITERATIONS runs of each (long.sh).
 */
#include <string.h>

#include "images.h"

#define KIB        INT64_C (1024)
#define MIB        (1024 * KIB)
#define MAX_LAYERS 5

typedef struct
{
  ImageKind kind;
  int64_t bytes, block_size;
} Layer;

typedef struct
{
  const char *name;
  int crashes;
  int source, target;
  bool shrink;
  bool batmap;              /* of the target */
  Layer layers[MAX_LAYERS]; /* from the leaf, ended by one of no bytes; none: random ones of the kind */
} Case;

/* clang-format off */
static const Case cases[] = {
  { "dynamic-into-dynamic", 240, 0, 1, false, false,
    { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } } },
  { "small-blocks-into-large", 240, 0, 1, false, false,
    { { IMAGE_VHD, MIB + 512, 4 * KIB }, { IMAGE_VHD, MIB + 512, 64 * KIB } } },
  { "large-blocks-into-small", 240, 0, 1, false, false,
    { { IMAGE_VHD, MIB, 64 * KIB }, { IMAGE_VHD, MIB, 4 * KIB } } },
  { "into-differencing", 300, 0, 1, false, false,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 32 * KIB } } },
  { "two-into-base", 300, 0, 2, false, false,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 32 * KIB }, { IMAGE_VHD, MIB, 16 * KIB } } },
  { "middle-into-middle", 300, 1, 2, false, false,
    { { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD, MIB, 4 * KIB },
      { IMAGE_VHD_FIXED, MIB, 0 } } },
  { "into-fixed", 180, 0, 1, false, false, { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_VHD_FIXED, MIB, 0 } } },
  { "into-raw", 180, 0, 1, false, false, { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_RAW, MIB, 0 } } },
  { "larger-into-dynamic", 300, 0, 1, false, false,
    { { IMAGE_VHD, 2 * MIB + 512, 16 * KIB }, { IMAGE_VHD, MIB - 512, 16 * KIB } } },
  { "larger-into-differencing", 300, 0, 1, false, false,
    { { IMAGE_VHD, 2 * MIB, 8 * KIB }, { IMAGE_VHD, MIB - 1536, 16 * KIB }, { IMAGE_VHD_FIXED, 2 * MIB, 0 } } },
  { "larger-into-fixed", 240, 0, 1, false, false, { { IMAGE_VHD, 2 * MIB, 16 * KIB }, { IMAGE_VHD_FIXED, MIB, 0 } } },
  { "larger-into-raw", 180, 0, 1, false, false, { { IMAGE_VHD, 2 * MIB, 16 * KIB }, { IMAGE_RAW, MIB, 0 } } },
  { "short-middle", 300, 0, 2, false, false,
    { { IMAGE_VHD, 2 * MIB, 8 * KIB }, { IMAGE_VHD, MIB - 3584, 16 * KIB }, { IMAGE_VHD, 2 * MIB, 32 * KIB } } },
  { "smaller-cuts-raw", 180, 0, 1, true, false, { { IMAGE_VHD, MIB, 16 * KIB }, { IMAGE_RAW, 2 * MIB, 0 } } },
  { "into-batmap", 240, 0, 1, false, true,
    { { IMAGE_VHD, MIB, 4 * KIB }, { IMAGE_VHD, MIB, 8 * KIB }, { IMAGE_RAW, MIB, 0 } } },
  { "dynamic-into-dynamic", 60, 0, 1, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, MIB } } },
  { "small-blocks-into-large", 60, 0, 1, false, false,
    { { IMAGE_VHDX, 8 * MIB + 512, MIB }, { IMAGE_VHDX, 8 * MIB + 512, 4 * MIB } } },
  { "large-blocks-into-small", 60, 0, 1, false, false,
    { { IMAGE_VHDX_4K, 8 * MIB, 4 * MIB }, { IMAGE_VHDX_4K, 8 * MIB, MIB } } },
  { "into-differencing", 80, 0, 1, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, 2 * MIB } } },
  { "two-into-base", 60, 0, 2, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, 2 * MIB }, { IMAGE_VHDX, 8 * MIB, MIB } } },
  { "middle-into-middle", 80, 1, 2, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 8 * MIB, 2 * MIB },
      { IMAGE_VHDX_FIXED, 8 * MIB, MIB } } },
  { "into-fixed", 60, 0, 1, false, false, { { IMAGE_VHDX, 4 * MIB, MIB }, { IMAGE_VHDX_FIXED, 4 * MIB, MIB } } },
  { "larger-into-dynamic", 60, 0, 1, false, false,
    { { IMAGE_VHDX, 8 * MIB + 512, MIB }, { IMAGE_VHDX, 5 * MIB - 512, MIB } } },
  { "larger-into-differencing", 80, 0, 1, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 5 * MIB - 1536, MIB }, { IMAGE_VHDX_FIXED, 8 * MIB, MIB } } },
  { "larger-into-fixed", 60, 0, 1, false, false, { { IMAGE_VHDX, 4 * MIB, MIB }, { IMAGE_VHDX_FIXED, 2 * MIB, MIB } } },
  { "short-middle", 80, 0, 2, false, false,
    { { IMAGE_VHDX, 8 * MIB, MIB }, { IMAGE_VHDX, 3 * MIB - 3584, MIB }, { IMAGE_VHDX, 8 * MIB, 2 * MIB } } },

  { "random-1", 180, 0, 0, false, false, { { IMAGE_VHD, 0, 0 } } },
  { "random-2", 180, 0, 0, false, false, { { IMAGE_VHD, 0, 0 } } },
  { "random-3", 180, 0, 0, false, false, { { IMAGE_VHD, 0, 0 } } },
  { "random-4", 180, 0, 0, false, false, { { IMAGE_VHD, 0, 0 } } },
  { "random-1", 60, 0, 0, false, false, { { IMAGE_VHDX, 0, 0 } } },
  { "random-2", 60, 0, 0, false, false, { { IMAGE_VHDX, 0, 0 } } },
  { "random-3", 60, 0, 0, false, false, { { IMAGE_VHDX_4K, 0, 0 } } },
};
/* clang-format on */

typedef struct
{
  TestDir dir;
  GRand *rand;
  Case c;
  int layers;
  char *names[MAX_LAYERS + 1];
  CrashTrace *trace;
  Guest *guest;          /* the leaf's view */
  bool reads;            /* a guest reads while the job runs */
  int64_t end;           /* of the job, in the log */
  bool skips;            /* the job compares with the target; where it runs again, one or the other */
  GuestValues *expected; /* of the target: what the source shows */
} Run;

static void
run_clear (Run *run)
{
  for (int i = 0; i < run->layers; i++)
    g_free (run->names[i]);
  guest_values_free (run->expected);
  guest_free (run->guest);
  crash_trace_free (run->trace);
  g_rand_free (run->rand);
  test_dir_clear (&run->dir);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static bool
is_vhdx (ImageKind kind)
{
  return strcmp (image_kind_format (kind), "vhdx") == 0;
}

static ImageKind
draw_base (GRand *rand, ImageKind child)
{
  static const ImageKind of_vhd[] = { IMAGE_VHD, IMAGE_VHD_FIXED, IMAGE_RAW };

  return child == IMAGE_VHD       ? of_vhd[g_rand_int_range (rand, 0, 3)]
         : child == IMAGE_VHDX_4K ? child
                                  : image_kind_of_parent (child, g_rand_boolean (rand));
}

/* A chain in which the source is at least as large as the target. */
static void
draw_case (Run *run)
{
  Case *c = &run->c;
  int n = g_rand_int_range (run->rand, 2, MAX_LAYERS);
  GString *text = g_string_new (NULL);
  ImageKind kind = c->layers[0].kind;
  bool vhd = kind == IMAGE_VHD;

  for (int i = 0; i < n; i++)
    {
      Layer *layer = &c->layers[i];
      int sectors = i == 0 ? 999 : g_rand_int_range (run->rand, -1000, 1000);

      layer->kind = i < n - 1 ? kind : draw_base (run->rand, kind);
      layer->block_size = !vhd ? MIB << g_rand_int_range (run->rand, 0, 3)
                          : image_kind_is_sparse (layer->kind)
                              ? INT64_C (4096) << g_rand_int_range (run->rand, 0, 6)
                              : 0;
      layer->bytes = (vhd ? MIB : 4 * MIB) + sectors * (vhd ? 512 : 4096);
      layer->bytes -= layer->bytes % image_kind_sector (kind);
    }
  c->source = g_rand_int_range (run->rand, 0, n - 1);
  c->target = g_rand_int_range (run->rand, c->source + 1, n);
  c->layers[c->source].bytes = MAX (c->layers[c->source].bytes, c->layers[c->target].bytes);
  for (int i = 0; i < n; i++)
    g_string_append_printf (text, "%s%s %" G_GINT64_FORMAT " (%" G_GINT64_FORMAT ")", i ? ", " : "",
                            image_kind_name (c->layers[i].kind), c->layers[i].bytes, c->layers[i].block_size);
  g_test_message ("layer %d into %d of: %s", c->source, c->target, text->str);
  g_string_free (text, true);
}

static void
make_chain (Run *run)
{
  const Case *c = &run->c;

  while (run->layers < MAX_LAYERS && c->layers[run->layers].bytes > 0)
    {
      run->names[run->layers] = g_strdup_printf ("layer%d", run->layers);
      run->layers++;
    }
  for (int i = run->layers; i-- > 0;)
    {
      const Layer *layer = &c->layers[i];

      image_make (&run->dir, run->names[i], layer->kind, layer->bytes, layer->block_size,
                  i + 1 < run->layers ? run->names[i + 1] : NULL);
      if (c->batmap && i == c->target)
        image_add_batmap (&run->dir, run->names[i]);
      image_populate (&run->dir, run->names[i], run->rand, 24,
                      image_kind_is_sparse (layer->kind) ? layer->block_size : 4 * KIB, 0);
    }
  /* Its children, if it has any, were made before it had this. */
  if (is_vhdx (c->layers[c->source].kind))
    image_set_disk_properties (&run->dir, run->names[c->source], run->rand);
}

static char *
disk_id_of (const Run *run, int layer, char **why)
{
  VhdkitImage *image = image_open (&run->dir, run->names[layer], 0, NULL, why);
  VhdkitLayerInfo info = { 0 };
  char *id = NULL;

  if (image == NULL)
    return NULL;
  if (!vhdkit_image_get_layer_info (image, 0, &info, NULL)
      || !g_variant_lookup (info.format_specific, "virtual-disk-id", "s", &id))
    *why = g_strdup_printf ("%s has no disk ID", run->names[layer]);
  vhdkit_layer_info_clear (&info);
  image_close (image, NULL);
  return id;
}

/* NULL, or what of the disk the target has not taken over from the source. */
static char *
look_at_properties (Run *run)
{
  const Case *c = &run->c;
  char *why = NULL;

  if (!is_vhdx (c->layers[c->target].kind))
    return NULL;

  g_autofree char *expected = disk_id_of (run, c->source, &why);
  g_autofree char *found = why ? NULL : disk_id_of (run, c->target, &why);

  if (!why && strcmp (found, expected) != 0)
    why = g_strdup_printf ("the target's disk ID is %s, the source's %s", found, expected);
  return why;
}

/* Whether the commit is complete and nothing else has happened. */
static char *
look_at_result (Run *run)
{
  const char *target = run->names[run->c.target];
  int64_t leaks = 0;
  char *why = NULL;
  g_autoptr (GuestValues) values = image_values (&run->dir, target, &why);

  if (values && guest_values_size (values) != guest_values_size (run->expected))
    why = g_strdup_printf ("the target has %" G_GINT64_FORMAT " bytes instead of %" G_GINT64_FORMAT,
                           guest_values_size (values), guest_values_size (run->expected));
  if (!why)
    why = guest_values_compare (values, run->expected);
  if (!why)
    {
      guest_values_free (values);
      values = image_values (&run->dir, run->names[0], &why);
    }
  if (!why)
    why = guest_check (run->guest, values, GUEST_NOW);
  if (!why)
    why = look_at_properties (run);
  if (!why)
    why = image_check (&run->dir, target, &leaks);
  if (!why && leaks > 0)
    why = g_strdup_printf ("%" G_GINT64_FORMAT " leaks in the target", leaks);
  return why ? why : crash_trace_changed_file (run->trace, false);
}

/* After a crash: the job again. */
static char *
commit_again (void *opaque)
{
  Run *run = opaque;
  const Case *c = &run->c;
  char *why = image_commit (&run->dir, run->names[0], NULL, c->source, c->target, c->shrink,
                            g_rand_boolean (run->rand), NULL, NULL);
  char *text;

  if (!why)
    why = look_at_result (run);
  text = why ? g_strdup_printf ("the job run again: %s", why) : NULL;
  g_free (why);
  return text;
}

/* Whether a commit changes the layer to keep it linked to the target: a VHDX knows its parent's state. */
static bool
is_linked (const Case *c, int layer)
{
  return layer == c->target - 1 && is_vhdx (c->layers[layer].kind);
}

static bool
record (Run *run)
{
  const Case *c = &run->c;
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *log = test_path (&run->dir, "log");
  g_autoptr (GuestValues) view = NULL;
  g_autofree char *why = NULL;
  g_auto (GStrv) filters = NULL;

  make_chain (run);
  for (int i = 0; i < run->layers; i++)
    g_ptr_array_add (paths, test_path (&run->dir, run->names[i]));
  g_ptr_array_add (paths, NULL);
  view = image_read (&run->dir, run->names[0]);
  run->guest = guest_new (view);
  run->expected = image_read (&run->dir, run->names[c->source]);

  run->trace = crash_trace_new (log, (const char *const *)paths->pdata);
  filters = recording_filters (&run->dir, "log", run->rand);
  image_note_job_end (run->trace, &run->end);
  why = image_commit (&run->dir, run->names[0], filters, c->source, c->target, c->shrink, run->skips,
                      run->reads ? run->guest : NULL, run->rand);
  if (!why)
    {
      crash_trace_load (run->trace);
      why = look_at_result (run);
    }
  for (int i = 0; i < run->layers && !why; i++)
    if (i != c->target && !(is_linked (c, i))
        && crash_trace_touches (run->trace, g_ptr_array_index (paths, i)))
      why = g_strdup_printf ("%s has been written to", run->names[i]);
  if (why)
    test_fail ("without a crash: %s", why);
  return !why;
}

/* When the job is over the sources may be removed: all is in the target, also if nothing else was kept. */
static void
judge_end (Run *run)
{
  for (size_t cut = 0; cut <= crash_trace_records (run->trace) && !g_test_failed (); cut++)
    {
      g_autoptr (GuestValues) values = NULL;
      g_autofree char *why = NULL;

      if (crash_trace_position (run->trace, cut) < run->end)
        continue;
      crash_trace_make (run->trace, cut, CRASH_KEEP_NONE, SIZE_MAX, run->rand);
      values = image_values (&run->dir, run->names[run->c.target], &why);
      if (values)
        why = guest_values_compare (values, run->expected);
      if (why)
        test_fail ("the job was over, and then: %s\n%s", why, crash_trace_story (run->trace));
    }
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  int iterations = test_number ("VHDKIT_ITERATIONS", 1);

  for (int i = 0; i < iterations && !g_test_failed (); i++)
    {
      g_auto (Run) run = { .c = *c };

      test_begin (&run.dir, &run.rand, "crash-commit", "commit-%s-%s-%d",
                  image_kind_format (c->layers[0].kind), c->name, i);
      if (c->layers[0].bytes == 0)
        draw_case (&run);
      run.reads = g_rand_boolean (run.rand);
      run.skips = g_rand_boolean (run.rand);
      if (!record (&run))
        return;

      CrashJudge judge = { .dir = &run.dir,
                           .trace = run.trace,
                           .rand = run.rand,
                           .name = run.names[0],
                           .guest = run.guest,
                           .changed = run.names[run.c.target],
                           .look = commit_again,
                           .opaque = &run };

      crash_judge_all (&judge, c->crashes);
      judge_end (&run);
    }
}

int
main (int argc, char **argv)
{
  test_init (&argc, &argv);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path =
          g_strdup_printf ("/crash-commit/%s/%s", image_kind_format (cases[i].layers[0].kind), cases[i].name);

      g_test_add_data_func (path, &cases[i], test_case);
    }
  return g_test_run ();
}
