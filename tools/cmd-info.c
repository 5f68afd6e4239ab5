/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img info */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

typedef struct
{
  ImageOptions image;
  OutputFormat output;
  bool backing_chain;
  VhdkitCacheMode source_cache;
} InfoArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (InfoArgs, image),
  OPTIONS_OUTPUT (InfoArgs),
  { 0, "backing-chain", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (InfoArgs, backing_chain),
    "Show every image of the chain, uppermost first" },
  OPTIONS_SOURCE_CACHE (InfoArgs),
  OPTIONS_SHARE (InfoArgs, image),
  OPTIONS_CHAIN (InfoArgs, image),
  OPTIONS_END,
};

/* Where a parent's name points when it is taken as a path, without looking: NULL for Windows drives and
 * shares, which have no place here. */
static char *
guess_parent_path (const VhdkitLayerInfo *info)
{
  const char *name = info->parent_name;
  if (g_path_is_absolute (name))
    return g_strdup (name);
  if ((g_ascii_isalpha (name[0]) && name[1] == ':') || g_str_has_prefix (name, "\\\\"))
    return NULL;
  g_autofree char *relative = g_strdelimit (g_strdup (name), "\\", '/');
  const char *plain = g_str_has_prefix (relative, "./") ? relative + 2 : relative;
  g_autofree char *folder = g_path_get_dirname (info->filename);
  return strcmp (folder, ".") == 0 ? g_strdup (plain) : g_build_filename (folder, plain, NULL);
}

static char *
full_parent_path (const VhdkitLayerInfo *info)
{
  if (info->parent_filename != NULL)
    return g_strdup (info->parent_filename);
  return info->parent_name != NULL ? guess_parent_path (info) : NULL;
}

/* "relative_path '.\\p.vhdx' -> /disks/p.vhdx: fits" */
static void
print_candidates (GVariant *candidates)
{
  GVariantIter iter;
  GVariant *candidate;
  printf ("parent candidates:\n");
  g_variant_iter_init (&iter, candidates);
  while (g_variant_iter_loop (&iter, "@a{sv}", &candidate))
    {
      const char *origin = "", *name = "", *path = NULL, *reason = NULL;
      g_variant_lookup (candidate, "origin", "&s", &origin);
      g_variant_lookup (candidate, "name", "&s", &name);
      g_variant_lookup (candidate, "path", "&s", &path);
      g_variant_lookup (candidate, "reason", "&s", &reason);
      g_autofree char *shown_name = printable (name);
      g_autofree char *shown_path = path != NULL ? printable (path) : NULL;
      g_autofree char *verdict = printable (reason != NULL ? reason : "fits");
      printf ("    %s '%s'", origin, shown_name);
      if (shown_path != NULL)
        printf (" -> %s", shown_path);
      printf (": %s\n", verdict);
    }
}

static void
print_human (const VhdkitLayerInfo *info)
{
  g_autofree char *filename = printable (info->filename);
  g_autofree char *virtual_size = format_size (info->virtual_size);
  g_autofree char *disk_size = info->allocated_size >= 0 ? format_size (info->allocated_size) : NULL;
  printf ("image: %s\nfile format: %s\n", filename, info->format);
  printf ("virtual size: %s (%" PRId64 " bytes)\n", virtual_size, info->virtual_size);
  printf ("disk size: %s\n", disk_size != NULL ? disk_size : "unavailable");
  if (info->dirty)
    printf ("cleanly shut down: no\n");
  if (info->block_size > 0)
    printf ("cluster_size: %" PRId64 "\n", info->block_size);
  g_autofree char *full = full_parent_path (info);
  const char *name = info->parent_name != NULL ? info->parent_name : full;
  if (name != NULL)
    {
      g_autofree char *shown = printable (name);
      printf ("backing file: %s", shown);
      if (full != NULL && strcmp (full, name) != 0)
        {
          g_autofree char *shown_full = printable (full);
          printf (" (actual path: %s)", shown_full);
        }
      putchar ('\n');
    }
  if (info->parent_format != NULL)
    printf ("backing file format: %s\n", info->parent_format);
  if (info->parent_candidates != NULL)
    print_candidates (info->parent_candidates);
  for (char **path = info->change_tracking_files; path != NULL && *path != NULL; path++)
    {
      g_autofree char *tracking = printable (*path);
      printf ("change tracking file: %s\n", tracking);
    }
  if (info->format_specific != NULL)
    {
      printf ("Format specific information:\n");
      print_facts (info->format_specific, 4);
    }
}

static void
print_json (JsonWriter *json, const VhdkitLayerInfo *info)
{
  json_begin (json, NULL, '{');
  json_int (json, "virtual-size", info->virtual_size);
  json_string (json, "filename", info->filename);
  if (info->block_size > 0)
    json_int (json, "cluster-size", info->block_size);
  json_string (json, "format", info->format);
  if (info->allocated_size >= 0)
    json_int (json, "actual-size", info->allocated_size);
  if (info->format_specific != NULL)
    {
      json_begin (json, "format-specific", '{');
      json_string (json, "type", info->format);
      json_variant (json, "data", info->format_specific);
      json_end (json, '}');
    }
  g_autofree char *full = full_parent_path (info);
  const char *name = info->parent_name != NULL ? info->parent_name : full;
  if (full != NULL)
    json_string (json, "full-backing-filename", full);
  if (name != NULL)
    json_string (json, "backing-filename", name);
  if (info->parent_format != NULL)
    json_string (json, "backing-filename-format", info->parent_format);
  if (info->parent_candidates != NULL)
    json_variant (json, "parent-candidates", info->parent_candidates);
  if (info->change_tracking_files != NULL)
    {
      json_begin (json, "change-tracking-files", '[');
      for (char **path = info->change_tracking_files; *path != NULL; path++)
        json_string (json, NULL, *path);
      json_end (json, ']');
    }
  json_bool (json, "dirty-flag", info->dirty);
  json_end (json, '}');
}

static bool
show_layer (VhdkitImage *image, int layer, JsonWriter *json, const char *path)
{
  g_autoptr (GError) error = NULL;
  VhdkitLayerInfo info = { 0 };
  if (!vhdkit_image_get_layer_info (image, layer, &info, &error))
    {
      report_error (path, error);
      return false;
    }
  if (json != NULL)
    print_json (json, &info);
  else
    {
      if (layer > 0)
        putchar ('\n');
      print_human (&info);
    }
  tool_print_layer_warnings (image, layer);
  vhdkit_layer_info_clear (&info);
  return true;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const InfoArgs *args = opaque;
  const char *path = operands[0];
  unsigned flags = VHDKIT_OPEN_EXAMINE | (args->backing_chain ? 0 : VHDKIT_OPEN_NO_PARENTS);
  g_autoptr (GError) chain_error = NULL;
  g_autoptr (ToolImage) image = tool_open_quiet (path, &args->image, flags, args->source_cache, &chain_error);
  /* Of a broken chain at least what its first image looks for. */
  if (image == NULL && args->backing_chain)
    image = tool_open_quiet (path, &args->image, flags | VHDKIT_OPEN_NO_PARENTS, args->source_cache, NULL);
  if (chain_error != NULL)
    report_error (path, chain_error);
  if (image == NULL)
    return EXIT_FAILURE;

  JsonWriter json = { 0 };
  JsonWriter *writer = args->output == OUTPUT_JSON ? &json : NULL;
  bool array = writer != NULL && args->backing_chain;
  bool ok = chain_error == NULL, shown = true;
  if (array)
    json_begin (&json, NULL, '[');
  int layers = args->backing_chain ? vhdkit_image_get_depth (image) : 1;
  for (int layer = 0; shown && layer < layers; layer++)
    shown = show_layer (image, layer, writer, path);
  ok = ok && shown;
  if (array)
    json_end (&json, ']');
  if (writer != NULL)
    json_finish (&json);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

const Command cmd_info = {
  .name = "info",
  .summary = "show what an image file is",
  .operands = "FILE",
  .description =
      "Shows format, sizes and parent of an image, and of every place it names for its parent what that "
      "means here and whether the file there fits; an image whose parent is missing can be looked "
      "at too. The names of the fields and of the JSON keys are those of qemu-img info; cluster_size "
      "is the size of a payload block. What is odd about an image is told on standard error.",
  .options = options,
  .args_size = sizeof (InfoArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
