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
  bool quiet, no_zero_scan, no_block_moves, dry_run, fine, break_children, ignore_unknown;
  ProgressStyle progress;
  OutputFormat output;
  const char *mode;
  VhdkitCacheMode cache;
  int64_t rate, parallel;
} CompactArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (CompactArgs, image),
  { 0, "mode", "MODE", OPTION_STRING, OPTION_MAIN, offsetof (CompactArgs, mode),
    "What to look for, and what to do: full (the default: space the guest's file systems do not use, zeros, "
    "and what the parent shows too), quick (only that space; no data is read), prezeroed (zeros and what the "
    "parent shows; file systems are not looked at), pretrimmed (only what the image's own tables say), "
    "retrim (as quick, but blocks are only marked and none is moved; VHDX only; fails where no volume is "
    "known), punch (as full, but holes are punched into the file instead of moving blocks; also of fixed and "
    "raw images, for space their file systems do not use), pack (as full, and all holes of the file are then "
    "written out: Windows attaches no sparse files)" },
  { 0, "fine", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, fine),
    "With --mode punch: punch holes inside of blocks that stay, too, where file systems use nothing" },
  { 0, "break-children", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, break_children),
    "Give space back that the file systems do not use although other images in the directory have this one "
    "as their parent, and may show it: they are lost, and VHD images show wrong data with nothing to tell "
    "by. Without this such space is kept" },
  { 0, "ignore-unknown", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, ignore_unknown),
    "Give that space back although it is not known of all files there whether they are such images, as one "
    "that is damaged or may not be read. Without this it is kept, too" },
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
    [VHDKIT_COMPACT_RETRIM] = "retrim",       [VHDKIT_COMPACT_PUNCH] = "punch",
    [VHDKIT_COMPACT_PACK] = "pack",
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
  report (NULL, "--mode: unknown mode '%s' (full, quick, prezeroed, pretrimmed, retrim, punch, pack)", name);
  return false;
}

/* --- for people ----------------------------------------------------------------------------------------- */

/* One line of the table of volumes. */
typedef struct
{
  guint32 partition;
  gint64 length, free_bytes;
  const char *type, *label, *inside, *reason; /* all but the first: or NULL */
} Volume;

static void
read_volume (GVariant *from, Volume *volume)
{
  *volume = (Volume){ .type = "" };
  g_variant_lookup (from, "partition", "u", &volume->partition);
  g_variant_lookup (from, "length", "x", &volume->length);
  g_variant_lookup (from, "free", "x", &volume->free_bytes);
  g_variant_lookup (from, "type", "&s", &volume->type);
  g_variant_lookup (from, "label", "&s", &volume->label);
  g_variant_lookup (from, "inside", "&s", &volume->inside);
  g_variant_lookup (from, "reason", "&s", &volume->reason);
}

static void
print_volume (const Volume *volume)
{
  g_autofree char *partition =
      volume->partition > 0 ? g_strdup_printf ("%u", volume->partition) : g_strdup ("disk");
  g_autofree char *type = printable (volume->type);
  const char *name = volume->inside != NULL ? volume->inside : volume->label;
  g_autofree char *label = printable (name != NULL ? name : "-");
  g_autofree char *size = format_size (volume->length);
  g_autofree char *used = format_size (volume->length - volume->free_bytes);
  g_autofree char *not_used = format_size (volume->free_bytes);

  printf ("%-9s  %-8s  %-16s  %10s  %10s  %10s\n", partition, type, label, size, used, not_used);
}

static void
print_reason (const Volume *volume)
{
  g_autofree char *inside = volume->inside != NULL ? printable (volume->inside) : NULL;
  g_autofree char *place = inside != NULL          ? g_strdup_printf ("volume %s", inside)
                           : volume->partition > 0 ? g_strdup_printf ("partition %u", volume->partition)
                                                   : g_strdup ("the disk");
  g_autofree char *type = printable (volume->type);
  g_autofree char *reason = printable (volume->reason);

  printf ("All of %s (%s) counts as in use: %s\n", place, type, reason);
}

/* @table: all volumes; else only what keeps space from being given back. */
static void
print_report (GVariant *found, bool table)
{
  g_autoptr (GVariant) volumes = g_variant_lookup_value (found, "volumes", G_VARIANT_TYPE ("aa{sv}"));
  g_autoptr (GVariant) notes = g_variant_lookup_value (found, "notes", G_VARIANT_TYPE_STRING_ARRAY);
  const char *degraded;

  if (g_variant_lookup (found, "degraded", "&s", &degraded))
    {
      g_autofree char *shown = printable (degraded);
      printf ("File systems were not looked at: %s may use what they do not.\n", shown);
    }
  if (volumes == NULL)
    return;
  if (table)
    printf ("Partition  Type      Label                   Size        Used        Free\n");
  for (gsize i = 0; table && i < g_variant_n_children (volumes); i++)
    {
      g_autoptr (GVariant) child = g_variant_get_child_value (volumes, i);
      Volume volume;

      read_volume (child, &volume);
      print_volume (&volume);
    }
  for (gsize i = 0; notes != NULL && i < g_variant_n_children (notes); i++)
    {
      g_autoptr (GVariant) note = g_variant_get_child_value (notes, i);
      g_autofree char *shown = printable (g_variant_get_string (note, NULL));
      printf ("%s\n", shown);
    }
  for (gsize i = 0; i < g_variant_n_children (volumes); i++)
    {
      g_autoptr (GVariant) child = g_variant_get_child_value (volumes, i);
      Volume volume;

      read_volume (child, &volume);
      if (volume.reason != NULL)
        print_reason (&volume);
    }
}

/* "; it takes 5 GiB of the host instead of 9 GiB", or nothing where that is not known. */
static char *
describe_host_bytes (const VhdkitCompactStats *stats, bool dry_run)
{
  if (stats->host_bytes_before < 0 || stats->host_bytes_after < 0)
    return g_strdup ("");
  g_autofree char *before = format_size (stats->host_bytes_before);
  g_autofree char *after = format_size (stats->host_bytes_after);
  return g_strdup_printf (", %s%s of the host's space instead of %s", dry_run ? "at most " : "", after,
                          before);
}

/* What is given back, by why nobody needs it. */
static void
print_classes (const VhdkitCompactStats *stats)
{
  const struct
  {
    const char *name;
    int64_t blocks, bytes; /* blocks -1: not by blocks */
  } classes[] = {
    { "not in use", stats->blocks_free, stats->bytes_free },
    { "zero", stats->blocks_zero, stats->bytes_zero },
    { "as the parent", stats->blocks_same, stats->bytes_same },
    { "unmapped", -1, stats->bytes_unmapped },
    { "inside of blocks", -1, stats->bytes_punched },
  };

  printf ("%-16s  %10s  %10s\n", "To give back", "Blocks", "Bytes");
  for (size_t i = 0; i < G_N_ELEMENTS (classes); i++)
    {
      g_autofree char *blocks =
          classes[i].blocks < 0 ? g_strdup ("-") : g_strdup_printf ("%" PRId64, classes[i].blocks);
      g_autofree char *bytes = format_size (classes[i].bytes);

      printf ("%-16s  %10s  %10s\n", classes[i].name, blocks, bytes);
    }
}

static void
print_result (const VhdkitCompactStats *stats, bool dry_run)
{
  g_autofree char *before = format_size (stats->file_size_before);
  g_autofree char *after = format_size (stats->file_size_after);
  g_autofree char *host = describe_host_bytes (stats, dry_run);
  g_autofree char *punched = format_size (stats->bytes_punched);
  g_autofree char *unmapped = format_size (stats->bytes_unmapped);
  g_autofree char *not_used = format_size (stats->bytes_free);
  g_autofree char *zero = format_size (stats->bytes_zero);
  g_autofree char *same = format_size (stats->bytes_same);

  printf ("Image %s: %s (%" PRId64 " bytes) before, %s%s (%" PRId64 " bytes) after%s; %" PRId64 " of %" PRId64
          " blocks dropped (%" PRId64 " not in use, %" PRId64 " zero, %" PRId64
          " as the parent; by bytes %s, %s and %s), %" PRId64 " moved",
          dry_run ? "would be compacted" : "compacted", before, stats->file_size_before,
          dry_run ? "about " : "", after, stats->file_size_after, host, stats->blocks_dropped,
          stats->blocks_allocated, stats->blocks_free, stats->blocks_zero, stats->blocks_same, not_used, zero,
          same, stats->blocks_moved);
  if (stats->bytes_unmapped > 0)
    printf (", %s unmapped", unmapped);
  if (stats->bytes_punched > 0)
    printf (", %s %spunched inside of blocks that stay", punched, dry_run ? "to be " : "");
  printf (".\n");
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
  json_int (&json, "unused-bytes", stats->bytes_free);
  json_int (&json, "zero-bytes", stats->bytes_zero);
  json_int (&json, "same-bytes", stats->bytes_same);
  json_int (&json, "unmapped-bytes", stats->bytes_unmapped);
  json_int (&json, "moved-blocks", stats->blocks_moved);
  json_int (&json, "punched-bytes", stats->bytes_punched);
  if (stats->host_bytes_before >= 0)
    json_int (&json, "host-bytes-before", stats->host_bytes_before);
  if (stats->host_bytes_after >= 0)
    json_int (&json, "host-bytes-after", stats->host_bytes_after);
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
    .punch_blocks = args->fine,
    .break_children = args->break_children,
    .ignore_unknown = args->ignore_unknown,
  };
  if (!take_mode (args->mode, &compact_options.mode))
    return EXIT_FAILURE;
  if (args->fine && compact_options.mode != VHDKIT_COMPACT_PUNCH)
    {
      report (NULL, "--fine is for --mode punch");
      return EXIT_FAILURE;
    }
  if (args->output == OUTPUT_JSON && args->progress == PROGRESS_JSON)
    {
      report (NULL, "--output=json and --progress=json exclude each other: both print for programs");
      return EXIT_FAILURE;
    }
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
  int status = run_job (job, path, progress_shown (args->progress, args->quiet),
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
  else if (!progress_silences (args->progress, args->quiet))
    {
      if (found != NULL)
        print_report (found, args->dry_run);
      if (args->dry_run)
        print_classes (&stats);
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
      "anything, unless other images in the directory have this one as their parent (those elsewhere are not "
      "found: merge them first, or use --mode prezeroed). A file system that is not clean, not known or "
      "encrypted counts as wholly in use, and the "
      "report says why. Blocks at the end of the file then move into the holes, and the file is cut. May be "
      "interrupted at any instant and run again.\n\n"
      "With --output=json one object is printed: filename; dry-run; file-size-before and file-size-after, "
      "bytes "
      "of the file, and host-bytes-before and host-bytes-after, what it takes of the host (not there: not "
      "known); block-size (0: an image without blocks), allocated-blocks, dropped-blocks and moved-blocks; "
      "of "
      "what was dropped unused-blocks and unused-bytes (not in use by the guest), zero-blocks and "
      "zero-bytes, "
      "same-blocks and same-bytes (what the parent shows too): a block may hold bytes of each kind; "
      "unmapped-bytes, given back because the image's own tables do not need them; punched-bytes, holes "
      "inside "
      "of blocks that stay; and guest, where the mode looks at file systems: partition-table (GPT, MBR or "
      "none), "
      "notes, and volumes, each with partition (0: the whole disk), offset, length and free in bytes, type, "
      "where known label, uuid and inside (its name in a volume group), and reason where all of it counts as "
      "in "
      "use; or degraded alone, why file systems were not looked at. With --dry-run the numbers say what "
      "would "
      "be. A run that fails prints no object, but a message and an exit status; with --progress=json the "
      "last "
      "line has status, and error, source and target where it is not ok.",
  .options = options,
  .args_size = sizeof (CompactArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
