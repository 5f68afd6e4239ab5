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
  bool quiet, progress, keep_sources, shrink, break_siblings, delete_sources, rename;
  GPtrArray *relink;
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
    "Leave the merged images as they are. They stay unless --delete or --rename is given; accepted for "
    "scripts made for "
    "qemu-img" },
  { 0, "relink", "CHILD", OPTION_LIST, OPTION_MAIN, offsetof (CommitArgs, relink),
    "After the merge, make the target the parent of CHILD, whose parent is FILE; may be given several "
    "times" },
  { 0, "delete", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, delete_sources),
    "After the merge, remove FILE and the images between. Refused while other images beside FILE have it as "
    "their "
    "parent, unless --relink names them" },
  { 0, "rename", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, rename),
    "After the merge, give the target the name of FILE, which it replaces: what uses FILE goes on. Formats "
    "must be the "
    "same; children of FILE stay linked (VHDX) or must be named with --relink (VHD). A target that has a "
    "parent must be "
    "named with -b, so that the command run again cannot merge further down" },
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
      report (path,
              layer == 0     ? "%s is the image to be merged, not one below it"
              : args->rename ? "%s is not in its chain; an earlier --rename may have given it this name"
                             : "%s is not in its chain",
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

/* What has become of the files themselves. */
static void
describe_files (GString *text, VhdkitImage *image, int target, const CommitArgs *args)
{
  g_autofree char *source = layer_name (image, 0), *into = layer_name (image, target);
  for (const char *const *path = list_strings (args->relink); path != NULL && *path != NULL; path++)
    {
      g_autofree char *child = printable (*path);
      g_string_append_printf (text, "%s is now above %s.\n", child, args->rename ? source : into);
    }
  for (int layer = target - 1; layer >= args->rename && args->delete_sources; layer--)
    {
      g_autofree char *removed = layer_name (image, layer);
      g_string_append_printf (text, "%s was removed.\n", removed);
    }
}

/* What the merge into layer @target means for the files: for people who are about to delete some of them.
 * @siblings: NULL where there are none. */
static char *
describe_outcome (VhdkitImage *image, int target, VhdkitChild **siblings, const CommitArgs *args)
{
  g_autofree char *source = layer_name (image, 0), *into = layer_name (image, target);
  GString *text = g_string_new (NULL);

  if (args->rename)
    g_string_printf (text, "%s is now %s, and holds what that showed.\n", into, source);
  else
    g_string_printf (text, "%s now holds what %s %s.\n", into, source,
                     args->delete_sources ? "showed" : "shows");
  describe_files (text, image, target, args);
  for (int layer = 1; layer < target && !args->delete_sources; layer++)
    {
      g_autofree char *between = layer_name (image, layer);
      g_string_append_printf (
          text,
          args->rename ? "%s can no longer be opened: remove it.\n"
                       : "%s no longer shows what it did: neither use it by itself nor merge it.\n",
          between);
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

/* What the options cannot be together, or NULL. */
static const char *
find_contradiction (const CommitArgs *args)
{
  if (args->ancestor != NULL && args->depth > 0)
    return "-b and --depth exclude each other";
  if (args->keep_sources && (args->delete_sources || args->rename))
    return "-d keeps the merged images: it excludes --delete and --rename";
  return NULL;
}

/* After a rename the command would merge the target into its own parent when it is run again. */
static bool
check_rename (VhdkitImage *image, const CommitArgs *args, const char *path, int target)
{
  if (!args->rename || args->ancestor != NULL || target == vhdkit_image_get_depth (image) - 1)
    return true;
  g_autofree char *into = layer_name (image, target);
  report (path, "--rename: %s has a parent itself, and has to be named with -b", into);
  return false;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const CommitArgs *args = opaque;
  const char *path = operands[0];
  const char *contradiction = find_contradiction (args);
  if (contradiction != NULL)
    {
      report (NULL, "%s", contradiction);
      return EXIT_FAILURE;
    }
  signals_defer ();
  g_autoptr (ToolImage) image = tool_open (path, &args->image, 0, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);
  int target = find_target (image, args, path);
  if (target < 0 || !check_rename (image, args, path, target))
    return EXIT_FAILURE;

  VhdkitCommitOptions commit_options = {
    .struct_size = sizeof commit_options,
    .source_layer = 0,
    .target_layer = target,
    .parallel = (unsigned)args->parallel,
    .shrink_target = args->shrink,
    .break_siblings = args->break_siblings,
    .relink = list_strings (args->relink),
    .delete_sources = args->delete_sources,
    .rename_target = args->rename,
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
  g_autofree char *outcome = describe_outcome (image, target, siblings, args);
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
      "is finished by running the command again. FILE stays and reads the same afterwards, unless --delete "
      "or "
      "--rename says otherwise; images "
      "between FILE and "
      "the target, and other children of these and of the target, are no longer valid: where there are such "
      "children beside the files of the chain, the merge is refused unless --break-siblings is given. "
      "Children in other directories are not looked for.\n\n"
      "What --relink, --delete and --rename ask for begins when the target holds everything and that is "
      "durable, and "
      "is checked before anything is written. A command that was interrupted then is finished by running it "
      "again, as "
      "long as FILE can be opened. Once a --rename is done, -b names a file that is not there any more; once "
      "--delete "
      "has begun, FILE cannot be opened or is gone: the target holds everything, and what is left of the "
      "merged images "
      "can be removed.",
  .options = options,
  .args_size = sizeof (CommitArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
