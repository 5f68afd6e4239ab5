/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img commit */
#include "vhd-img.h"

#include <stdio.h>
#include <stdlib.h>

#include "output.h"
#include "progress.h"

typedef struct
{
  ImageOptions image;
  bool quiet, progress, keep_sources, shrink, break_siblings;
  VhdkitCacheMode cache;
  const char *ancestor;
  int64_t depth, rate, parallel;
} CommitArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (CommitArgs, image),
  { 'b', "ancestor", "FILE", OPTION_STRING, OPTION_MAIN, offsetof (CommitArgs, ancestor),
    "Merge down to this image of the chain, with all that lie between; the file counts, not its name" },
  { 0, "depth", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (CommitArgs, depth),
    "Merge N images: into the parent (1, the default), its parent (2), and so on", 1, INT32_MAX },
  { 'd', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, keep_sources),
    "Leave the merged images as they are. They always stay; accepted for scripts made for qemu-img" },
  { 0, "shrink", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, shrink),
    "The merged image is smaller than the target: cut the target to its size (a raw file; neither VHD "
    "nor VHDX can shrink)" },
  { 0, "break-siblings", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, break_siblings),
    "Merge although other images in the directories of the chain have the target, or an image between, as "
    "their "
    "parent: they are lost, and VHD images show wrong data with nothing to tell by. Refused otherwise" },
  OPTIONS_PARALLEL (CommitArgs),
  { 'r', "rate-limit", "RATE", OPTION_SIZE, OPTION_MAIN, offsetof (CommitArgs, rate),
    "Bytes per second at most" },
  OPTIONS_CACHE (CommitArgs),
  OPTIONS_PROGRESS (CommitArgs),
  OPTIONS_QUIET (CommitArgs),
  OPTIONS_CHAIN (CommitArgs, image),
  OPTIONS_END,
};

/* The layer to merge into, or -1 after a message. */
static int
find_target (VhdkitImage *image, const CommitArgs *args, const char *path)
{
  int depth = vhdkit_image_get_depth (image);
  if (depth < 2)
    {
      report (path, "the image has no parent to merge into");
      return -1;
    }
  if (args->ancestor != NULL)
    {
      int layer = vhdkit_image_find_layer (image, args->ancestor);
      if (layer > 0)
        return layer;
      report (path, layer == 0 ? "%s is the image to be merged, not one below it" : "%s is not in its chain",
              args->ancestor);
      return -1;
    }
  if (args->depth >= depth)
    {
      report (path, "--depth: the image has %d ancestor%s, %d were asked for", depth - 1,
              depth == 2 ? "" : "s", (int)args->depth);
      return -1;
    }
  return args->depth > 0 ? (int)args->depth : 1;
}

static char *
layer_name (VhdkitImage *image, int layer)
{
  VhdkitLayerInfo info = { 0 };
  char *name =
      vhdkit_image_get_layer_info (image, layer, &info, NULL) ? printable (info.filename) : g_strdup ("?");

  vhdkit_layer_info_clear (&info);
  return name;
}

/* What the merge into layer @target means for the files: for people who are about to delete some of them.
 * @siblings: NULL where there are none. */
static char *
describe_outcome (VhdkitImage *image, int target, VhdkitChild **siblings)
{
  g_autofree char *source = layer_name (image, 0), *into = layer_name (image, target);
  GString *text = g_string_new (NULL);

  g_string_printf (text, "%s now holds what %s shows.\n", into, source);
  for (int layer = 1; layer < target; layer++)
    {
      g_autofree char *between = layer_name (image, layer);
      g_string_append_printf (
          text, "%s no longer shows what it did: neither use it by itself nor merge it.\n", between);
    }
  for (VhdkitChild **sibling = siblings; sibling != NULL && *sibling != NULL; sibling++)
    {
      g_autofree char *name = printable ((*sibling)->filename);
      g_string_append_printf (text,
                              (*sibling)->notices
                                  ? "%s can no longer be opened above %s.\n"
                                  : "%s opens as before and shows wrong data: do not use it, nor merge "
                                    "it into %s.\n",
                              name, into);
    }
  return g_string_free (text, FALSE);
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const CommitArgs *args = opaque;
  const char *path = operands[0];
  if (args->ancestor != NULL && args->depth > 0)
    {
      report (NULL, "-b and --depth exclude each other");
      return EXIT_FAILURE;
    }
  signals_defer ();
  g_autoptr (ToolImage) image = tool_open (path, &args->image, 0, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);
  int target = find_target (image, args, path);
  if (target < 0)
    return EXIT_FAILURE;

  VhdkitCommitOptions commit_options = {
    .struct_size = sizeof commit_options,
    .source_layer = 0,
    .target_layer = target,
    .parallel = (unsigned)args->parallel,
    .shrink_target = args->shrink,
    .break_siblings = args->break_siblings,
  };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_commit_new (image, &commit_options, &error);
  if (job == NULL)
    {
      report_error (path, error);
      return EXIT_FAILURE;
    }
  /* Without --break-siblings the job refuses where there are any. */
  VhdkitChild **siblings = args->break_siblings ? vhdkit_image_find_children (image, 1, target, NULL) : NULL;
  tool_print_warnings (image);
  if (args->rate > 0)
    vhdkit_job_set_rate_limit (job, args->rate);
  int status = run_job (job, path, args->progress && !args->quiet,
                        "the chain is whole and reads as before; run the command again to finish the merge");
  vhdkit_job_free (job);
  tool_print_warnings (image);
  g_autofree char *outcome = describe_outcome (image, target, siblings);
  vhdkit_children_free (siblings);
  status = tool_close_with (status, g_steal_pointer (&image), path);
  if (status == EXIT_SUCCESS && !args->quiet)
    printf ("Image committed.\n%s", outcome);
  return status;
}

static const char *const aliases[] = { "merge", NULL };

const Command cmd_commit = {
  .name = "commit",
  .aliases = aliases,
  .summary = "merge an image into its parent or another ancestor",
  .operands = "FILE",
  .description =
      "Writes what FILE and the images between hold into the target, in one pass. FILE need not "
      "be the uppermost "
      "image of its chain. At every instant, and after a crash, FILE reads as before; a merge "
      "that was interrupted "
      "is finished by running the command again. FILE stays and reads the same afterwards; images "
      "between FILE and "
      "the target, and other children of these and of the target, are no longer valid: where there are such "
      "children beside the files of the chain, the merge is refused unless --break-siblings is given. "
      "Children in other directories are not looked for.",
  .options = options,
  .args_size = sizeof (CommitArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
