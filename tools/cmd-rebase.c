/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img rebase */
#include "vhd-img.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "progress.h"

typedef struct
{
  ImageOptions image;
  bool quiet, unsafe, ignore_id_mismatch;
  ProgressStyle progress;
  VhdkitCacheMode cache, source_cache;
  const char *parent, *parent_format;
  int64_t rate, parallel;
} RebaseArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (RebaseArgs, image),
  { 'b', "backing", "PARENT", OPTION_STRING, OPTION_MAIN, offsetof (RebaseArgs, parent),
    "The new parent, a path from the folder of FILE; \"\": none, FILE then holds all of its disk" },
  { 'F', "backing-format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (RebaseArgs, parent_format),
    "Format of PARENT; probed by content when not given" },
  { 'u', "unsafe", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (RebaseArgs, unsafe),
    "Change the link alone, for a parent that has moved; the present one need not be there. PARENT must have "
    "the identity that FILE recorded" },
  { 0, "ignore-id-mismatch", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (RebaseArgs, ignore_id_mismatch),
    "With -u: PARENT may be any image; FILE shows wrong data if it does not hold what the present parent "
    "does" },
  OPTIONS_PARALLEL (RebaseArgs),
  { 'r', "rate-limit", "RATE", OPTION_SIZE, OPTION_MAIN, offsetof (RebaseArgs, rate),
    "Bytes per second at most" },
  { 'c', NULL, NULL, OPTION_REFUSED, OPTION_MAIN, 0, "no format here has compression" },
  OPTIONS_CACHE (RebaseArgs),
  { 'T', "source-cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (RebaseArgs, source_cache),
    "Host cache mode for PARENT and its parents: writeback (default) or none" },
  OPTIONS_PROGRESS (RebaseArgs),
  OPTIONS_QUIET (RebaseArgs),
  OPTIONS_CHAIN (RebaseArgs, image),
  OPTIONS_END,
};

/* --- the new parent --------------------------------------------------------------------------------------- */

/* As create takes it: from the folder of @path. */
static char *
locate_parent (const RebaseArgs *args, const char *path)
{
  if (g_path_is_absolute (args->parent) || strchr (path, '/') == NULL)
    return g_strdup (args->parent);
  g_autofree char *folder = g_path_get_dirname (path);
  return g_build_filename (folder, args->parent, NULL);
}

/* Whether one of its parents could not be opened. */
static bool
lacks_parents (const GError *error)
{
  return g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND)
         || g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_MISMATCH);
}

/* The file that is the parent of the image @path, or NULL. */
static char *
find_parent_of (const char *path, const ImageOptions *image_options)
{
  g_autoptr (ToolImage) image = tool_open_quiet (
      path, image_options, VHDKIT_OPEN_NO_PARENTS | VHDKIT_OPEN_EXAMINE, VHDKIT_CACHE_WRITEBACK, NULL);
  VhdkitLayerInfo info = { 0 };
  char *found = NULL;
  if (image == NULL || !vhdkit_image_get_layer_info (image, 0, &info, NULL))
    return NULL;
  for (gsize i = 0;
       info.parent_candidates != NULL && found == NULL && i < g_variant_n_children (info.parent_candidates);
       i++)
    {
      g_autoptr (GVariant) candidate = g_variant_get_child_value (info.parent_candidates, i);
      gboolean fits = FALSE;
      if (g_variant_lookup (candidate, "fits", "b", &fits) && fits)
        g_variant_lookup (candidate, "path", "s", &found);
    }
  vhdkit_layer_info_clear (&info);
  return found;
}

/* Whether @path is among the ancestors, as far as they are there, of @parent_path, whose chain does not open. */
static bool
is_ancestor_of (const char *path, const char *parent_path, const ImageOptions *image_options)
{
  g_autofree char *layer = g_strdup (parent_path);
  ImageOptions of_parents = *image_options;
  of_parents.format = NULL;
  for (int depth = 0; depth < 1000; depth++)
    {
      g_autofree char *next = find_parent_of (layer, depth == 0 ? image_options : &of_parents);
      if (next == NULL)
        return false;
      if (same_file (next, path))
        return true;
      g_free (layer);
      layer = g_steal_pointer (&next);
    }
  return true;
}

/* NULL after a message. */
static VhdkitImage *
open_parent (const RebaseArgs *args, const char *path, const char *parent_path)
{
  ImageOptions parent_options = {
    .format = args->parent_format,
    .aio = args->image.aio,
    .confine = args->image.confine,
    .drive_map = args->image.drive_map,
    .raw_parent = args->image.raw_parent,
    .filters = args->image.filters,
  };
  g_autoptr (GError) error = NULL;
  if (same_file (parent_path, path))
    {
      report (path, "cannot be its own parent");
      return NULL;
    }
  g_autoptr (ToolImage) parent =
      tool_open_quiet (parent_path, &parent_options, 0, args->source_cache, &error);
  bool loop = parent != NULL && vhdkit_image_find_layer (parent, path) >= 0;
  if (parent == NULL && args->unsafe && lacks_parents (error))
    {
      loop = is_ancestor_of (path, parent_path, &parent_options);
      if (!loop)
        {
          report_warning ("%s", error->message);
          g_clear_error (&error);
          parent = tool_open_quiet (parent_path, &parent_options, VHDKIT_OPEN_NO_PARENTS, args->source_cache,
                                    &error);
        }
    }
  if (loop)
    {
      report (path, "cannot have %s as its parent: it is an ancestor of that", parent_path);
      return NULL;
    }
  if (parent == NULL)
    {
      report_error (parent_path, error);
      return NULL;
    }
  tool_print_warnings (parent);
  return g_steal_pointer (&parent);
}

/* --- the work --------------------------------------------------------------------------------------------- */

/* Takes the exit status of the job. */
static int
rebase (VhdkitImage *image, VhdkitImage *parent, const RebaseArgs *args, const char *path)
{
  VhdkitRebaseOptions rebase_options = {
    .struct_size = sizeof rebase_options,
    .unsafe = args->unsafe,
    .ignore_id_mismatch = args->ignore_id_mismatch,
    .parallel = (unsigned)args->parallel,
  };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_rebase_new (image, parent, &rebase_options, &error);
  if (job == NULL)
    {
      if (g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_MISMATCH))
        {
          g_autoptr (GError) why = g_error_new (error->domain, error->code,
                                                "%s; not done without --ignore-id-mismatch", error->message);
          report_error (path, why);
        }
      else
        report_error (path, error);
      return EXIT_FAILURE;
    }
  if (args->rate > 0)
    vhdkit_job_set_rate_limit (job, args->rate);
  int status =
      run_job (job, path, progress_shown (args->progress, args->quiet),
               "the image is consistent and has its old parent or its new one; run the command again to "
               "finish");
  vhdkit_job_free (job);
  return status;
}

/* @parent_path: NULL for none. */
static int
rebase_onto (VhdkitImage *parent, const char *parent_path, const RebaseArgs *args, const char *path)
{
  VhdkitImage *image = tool_open (path, &args->image, args->unsafe ? VHDKIT_OPEN_NO_PARENTS : 0, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);
  int status = rebase (image, parent, args, path);
  tool_print_warnings (image);
  status = tool_close_with (status, image, path);
  if (status != EXIT_SUCCESS || progress_silences (args->progress, args->quiet))
    return status;
  g_autofree char *shown = printable (path),
                  *parent_shown = parent_path != NULL ? printable (parent_path) : NULL;
  if (parent_path != NULL)
    printf ("Image rebased.\n%s now has the parent %s.\n", shown, parent_shown);
  else
    printf ("Image rebased.\n%s has no parent now: it holds all of its disk.\n", shown);
  return status;
}

/* What the options cannot be together, or NULL. */
static const char *
find_contradiction (const RebaseArgs *args)
{
  if (args->parent == NULL)
    return "-b is missing: the new parent, or \"\" for none";
  if (args->parent[0] == '\0' && args->unsafe)
    return "-u and -b \"\" exclude each other: what the parents show would be lost";
  if (args->parent[0] == '\0' && args->parent_format != NULL)
    return "-F has no use without a parent";
  if (args->ignore_id_mismatch && !args->unsafe)
    return "--ignore-id-mismatch needs -u: without it any parent will do, for what FILE shows is kept";
  if (args->unsafe && args->image.parent != NULL)
    return "--parent has no use with -u, which does not open the present parent";
  return NULL;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const RebaseArgs *args = opaque;
  const char *path = operands[0], *complaint = find_contradiction (args);
  (void)command;
  if (complaint != NULL)
    {
      report (NULL, "%s", complaint);
      return EXIT_FAILURE;
    }
  signals_defer ();
  if (args->parent[0] == '\0')
    return rebase_onto (NULL, NULL, args, path);
  g_autofree char *parent_path = locate_parent (args, path);
  g_autoptr (ToolImage) parent = open_parent (args, path, parent_path);
  return parent != NULL ? rebase_onto (parent, parent_path, args, path) : EXIT_FAILURE;
}

const Command cmd_rebase = {
  .name = "rebase",
  .summary = "give an image another parent, or none",
  .operands = "FILE",
  .description =
      "Makes PARENT the parent of FILE, in place. What a guest sees through FILE stays the same: where "
      "it would read otherwise above PARENT, FILE first gets what it shows now. With -b \"\" it gets all "
      "that its parents show, and has none then. With -u nothing but the link is changed: identity and "
      "paths, as after a chain was copied to another folder. "
      "At every instant, and after a crash, FILE reads as before; a rebase that was interrupted is finished "
      "by running the command again. No other file is written, and children of FILE stay valid.\n\n"
      "PARENT is a path from the folder of FILE, not from the current one, as for create -b. --parent "
      "belongs to the present parent.",
  .options = options,
  .args_size = sizeof (RebaseArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
