/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img compact */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "progress.h"

typedef struct
{
  ImageOptions image;
  bool quiet, progress, no_zero_scan, no_block_moves, dry_run;
  OutputFormat output;
  const char *mode;
  VhdkitCacheMode cache;
  int64_t rate, parallel;
} CompactArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (CompactArgs, image),
  { 0, "mode", "MODE", OPTION_STRING, OPTION_MAIN, offsetof (CompactArgs, mode),
    "What to look for: full (the default: space the guest's file systems do not use, zeros, and what the "
    "parent shows "
    "too), quick (only that space; no data is read), prezeroed (zeros and what the parent shows; file "
    "systems are not "
    "looked at), pretrimmed (only what the image's own tables say), retrim (as quick, but neither move "
    "blocks nor cut "
    "the file; fails if the free space of any volume is not known)" },
  { 0, "dry-run", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, dry_run),
    "Change nothing; say what there is and about what would be" },
  OPTIONS_OUTPUT (CompactArgs),
  { 0, "no-zero-scan", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, no_zero_scan),
    "Do not look for blocks of zeros, or that the parent shows too" },
  { 0, "no-block-moves", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, no_block_moves),
    "Do not move blocks into holes; only cut what is free at the end" },
  OPTIONS_PARALLEL (CompactArgs),
  { 'r', "rate-limit", "RATE", OPTION_SIZE, OPTION_MAIN, offsetof (CompactArgs, rate),
    "Bytes per second at most" },
  OPTIONS_CACHE (CompactArgs),
  OPTIONS_PROGRESS (CompactArgs),
  OPTIONS_QUIET (CompactArgs),
  OPTIONS_CHAIN (CompactArgs, image),
  OPTIONS_END,
};

static bool
take_mode (const char *name, VhdkitCompactMode *mode)
{
  static const char *const names[] = {
    [VHDKIT_COMPACT_FULL] = "full",           [VHDKIT_COMPACT_QUICK] = "quick",
    [VHDKIT_COMPACT_PREZEROED] = "prezeroed", [VHDKIT_COMPACT_PRETRIMMED] = "pretrimmed",
    [VHDKIT_COMPACT_RETRIM] = "retrim",
  };

  *mode = VHDKIT_COMPACT_FULL;
  if (name == NULL)
    return true;
  for (size_t i = 0; i < G_N_ELEMENTS (names); i++)
    if (strcmp (names[i], name) == 0)
      {
        *mode = (VhdkitCompactMode)i;
        return true;
      }
  report (NULL, "--mode: unknown mode '%s' (full, quick, prezeroed, pretrimmed, retrim)", name);
  return false;
}

/* --- for people ----------------------------------------------------------------------------------------- */

static void
print_volume (GVariant *volume)
{
  guint32 partition = 0;
  gint64 length = 0, free_bytes = 0;
  const char *type = "", *label = NULL, *reason = NULL;

  g_variant_lookup (volume, "partition", "u", &partition);
  g_variant_lookup (volume, "length", "x", &length);
  g_variant_lookup (volume, "free", "x", &free_bytes);
  g_variant_lookup (volume, "type", "&s", &type);
  g_variant_lookup (volume, "label", "&s", &label);
  g_variant_lookup (volume, "reason", "&s", &reason);
  g_autofree char *place =
      partition > 0 ? g_strdup_printf ("partition %u", partition) : g_strdup ("whole disk");
  g_autofree char *size = format_size (length);
  g_autofree char *shown_type = printable (type);
  g_autofree char *shown_label = label != NULL ? printable (label) : NULL;

  printf ("%s: %s%s%s%s, %s, ", place, shown_type, shown_label != NULL ? " \"" : "",
          shown_label != NULL ? shown_label : "", shown_label != NULL ? "\"" : "", size);
  if (reason != NULL)
    {
      g_autofree char *shown = printable (reason);
      printf ("counts as in use: %s\n", shown);
    }
  else
    {
      g_autofree char *not_used = format_size (free_bytes);
      printf ("%s not in use\n", not_used);
    }
}

static void
print_report (GVariant *found)
{
  g_autoptr (GVariant) volumes = g_variant_lookup_value (found, "volumes", NULL);
  g_autoptr (GVariant) notes = g_variant_lookup_value (found, "notes", NULL);

  for (gsize i = 0; i < g_variant_n_children (notes); i++)
    {
      g_autoptr (GVariant) note = g_variant_get_child_value (notes, i);
      g_autofree char *shown = printable (g_variant_get_string (note, NULL));
      printf ("%s\n", shown);
    }
  for (gsize i = 0; i < g_variant_n_children (volumes); i++)
    {
      g_autoptr (GVariant) volume = g_variant_get_child_value (volumes, i);
      print_volume (volume);
    }
}

static void
print_result (const VhdkitCompactStats *stats, bool dry_run)
{
  g_autofree char *before = format_size (stats->file_size_before);
  g_autofree char *after = format_size (stats->file_size_after);
  printf ("Image %s: %s (%" PRId64 " bytes) before, %s%s (%" PRId64 " bytes) after; %" PRId64 " of %" PRId64
          " blocks dropped (%" PRId64 " not in use, %" PRId64 " zero, %" PRId64 " as the parent), %" PRId64
          " moved.\n",
          dry_run ? "would be compacted" : "compacted", before, stats->file_size_before,
          dry_run ? "about " : "", after, stats->file_size_after, stats->blocks_dropped,
          stats->blocks_allocated, stats->blocks_free, stats->blocks_zero, stats->blocks_same,
          stats->blocks_moved);
}

/* --- for programs --------------------------------------------------------------------------------------- */

static void
print_json (const char *path, const VhdkitCompactStats *stats, GVariant *found, bool dry_run)
{
  JsonWriter json = { 0 };

  json_begin (&json, NULL, '{');
  json_string (&json, "filename", path);
  json_bool (&json, "dry-run", dry_run);
  json_int (&json, "file-size-before", stats->file_size_before);
  json_int (&json, "file-size-after", stats->file_size_after);
  json_int (&json, "block-size", stats->block_size);
  json_int (&json, "allocated-blocks", stats->blocks_allocated);
  json_int (&json, "dropped-blocks", stats->blocks_dropped);
  json_int (&json, "unused-blocks", stats->blocks_free);
  json_int (&json, "zero-blocks", stats->blocks_zero);
  json_int (&json, "same-blocks", stats->blocks_same);
  json_int (&json, "moved-blocks", stats->blocks_moved);
  if (found != NULL)
    json_variant (&json, "guest", found);
  json_end (&json, '}');
  json_finish (&json);
}

/* --- doing it -------------------------------------------------------------------------------------------- */

static int
run (const Command *command, void *opaque, char **operands)
{
  const CompactArgs *args = opaque;
  const char *path = operands[0];
  VhdkitCompactOptions compact_options = {
    .struct_size = sizeof compact_options,
    .no_zero_scan = args->no_zero_scan,
    .no_block_moves = args->no_block_moves,
    .parallel = (unsigned)args->parallel,
    .dry_run = args->dry_run,
  };
  if (!take_mode (args->mode, &compact_options.mode))
    return EXIT_FAILURE;
  signals_defer ();
  g_autoptr (ToolImage) image =
      tool_open (path, &args->image, args->dry_run ? 0 : VHDKIT_OPEN_RDWR, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);

  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_compact_new (image, &compact_options, &error);
  if (job == NULL)
    {
      report_error (path, error);
      return EXIT_FAILURE;
    }
  if (args->rate > 0)
    vhdkit_job_set_rate_limit (job, args->rate);
  int status = run_job (job, path, args->progress && !args->quiet,
                        "the image is consistent; run the command again to finish");
  tool_print_warnings (image);
  VhdkitCompactStats stats = { 0 };
  vhdkit_compact_get_stats (job, &stats);
  g_autoptr (GVariant) found = vhdkit_compact_get_report (job);
  vhdkit_job_free (job);
  status = tool_close_with (status, g_steal_pointer (&image), path);
  if (status != EXIT_SUCCESS)
    return status;
  if (args->output == OUTPUT_JSON)
    print_json (path, &stats, found, args->dry_run);
  else if (!args->quiet)
    {
      if (found != NULL)
        print_report (found);
      print_result (&stats, args->dry_run);
    }
  return status;
}

const Command cmd_compact = {
  .name = "compact",
  .summary = "give back the space an image does not need",
  .operands = "FILE",
  .description =
      "Shrinks the file of a dynamic or differencing image in place. Left out are blocks of which a "
      "guest sees the same without them: zeros, and what the parent shows too (in a differencing image a "
      "block of zeros goes only where the parent reads as zeros, or where the format can say so); and "
      "blocks in which the guest's own file systems keep nothing, found from their tables without mounting "
      "anything. A file system that is not clean, not known or encrypted counts as wholly in use, and the "
      "report says why. Blocks at the end of the file then move into the holes, and the file is cut. May be "
      "interrupted at any instant and run again.",
  .options = options,
  .args_size = sizeof (CompactArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
