/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img commit */
#include "vhd-img.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commit-plan.h"
#include "output.h"
#include "progress.h"

/* Of finish_removal () alone. */
#define EXIT_NOTHING_LEFT (-1)

typedef struct
{
  ImageOptions image;
  bool quiet, keep_sources, shrink, dry_run, skip_identical, delete_sources, rename;
  bool break_siblings, ignore_unknown;
  GPtrArray *relink;
  ProgressStyle progress;
  OutputFormat output;
  VhdkitCacheMode cache;
  const char *ancestor, *source, *reflink;
  int64_t depth, source_depth, target_depth, rate, parallel;
} CommitArgs;

/* clang-format off */
static const OptionDef options[] = {
  OPTIONS_FORMAT (CommitArgs, image),
  { 'b', "ancestor", "FILE", OPTION_STRING, OPTION_MAIN, offsetof (CommitArgs, ancestor),
    "Merge down to this image of the chain, with all that lie between; the file counts, not its name" },
  { 0, "depth", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (CommitArgs, depth),
    "Merge N images: into the parent (1, the default), its parent (2), and so on", 1, INT32_MAX },
  { 0, "source", "IMAGE", OPTION_STRING, OPTION_MAIN, offsetof (CommitArgs, source),
    "Merge from this image of the chain of FILE down, instead of from FILE itself" },
  { 0, "source-depth", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (CommitArgs, source_depth),
    "The same by its place, counted from FILE, which is 1", 1, INT32_MAX },
  { 0, "target-depth", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (CommitArgs, target_depth),
    "The image to merge into by its place, counted from FILE, which is 1; as MergeTargetDepth in Windows",
    2, INT32_MAX },
  { 'd', NULL, NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, keep_sources),
    "Leave the merged images as they are. They stay unless --delete or --rename is given; accepted for "
    "scripts made for qemu-img" },
  { 0, "relink", "CHILD", OPTION_LIST, OPTION_MAIN, offsetof (CommitArgs, relink),
    "After the merge, make the target the parent of CHILD, whose parent is the image merged; may be given "
    "several times" },
  { 0, "delete", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, delete_sources),
    "After the merge, remove the image merged and those between. Refused while other images beside it have "
    "it as their parent, unless --relink names them" },
  { 0, "rename", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, rename),
    "After the merge, give the target the name of the image merged, which it replaces: what uses that goes "
    "on. Formats must be the same; its children stay linked (VHDX) or must be named with --relink (VHD). A "
    "target that has a parent must be named with -b, so that the command run again cannot merge further down" },
  { 0, "dry-run", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, dry_run),
    "Write nothing; print what would be merged, how many bytes would be shared, copied and made zeros, and "
    "what space that takes" },
  OPTIONS_OUTPUT (CommitArgs),
  { 0, "reflink", "WHEN", OPTION_STRING, OPTION_MAIN, offsetof (CommitArgs, reflink),
    "Share extents on the host instead of copying: auto (where it can be, the default), always (or fail "
    "before anything is written) or never" },
  { 0, "skip-identical", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, skip_identical),
    "Read the target too, and write only what differs from it: for a merge that was interrupted, or a target "
    "that is slow to write; of no effect with --delete or --rename" },
  { 0, "shrink", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, shrink),
    "The merged image is smaller than the target: cut the target to its size (a raw file; neither VHD nor "
    "VHDX can shrink)" },
  { 0, "break-siblings", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, break_siblings),
    "Merge although other images in the directories of the chain have the target, or an image between, as "
    "their parent: they are lost, and VHD images show wrong data with nothing to tell by. Refused otherwise" },
  { 0, "ignore-unknown", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CommitArgs, ignore_unknown),
    "Merge although it is not known of all files there whether they are such images: one that is damaged or "
    "may not be read, a directory with too many files or that may not be listed. They are named in warnings. "
    "Those that are known to be such images stay protected" },
  OPTIONS_PARALLEL (CommitArgs),
  { 'r', "rate-limit", "RATE", OPTION_SIZE, OPTION_MAIN, offsetof (CommitArgs, rate),
    "Bytes per second at most" },
  OPTIONS_CACHE (CommitArgs),
  OPTIONS_PROGRESS (CommitArgs),
  OPTIONS_QUIET (CommitArgs),
  OPTIONS_CHAIN (CommitArgs, image),
  OPTIONS_END,
};
/* clang-format on */

/* What the options cannot be together, or NULL. */
static const char *
find_contradiction (const CommitArgs *args)
{
  int targets = (args->ancestor != NULL) + (args->depth > 0) + (args->target_depth > 0);
  if (targets > 1)
    return "-b, --depth and --target-depth exclude each other: each names the image to merge into";
  if (args->source != NULL && args->source_depth > 0)
    return "--source and --source-depth exclude each other: each names the image to merge";
  if (args->target_depth > 0 && args->target_depth <= MAX (args->source_depth, 1))
    return "--target-depth must be greater than --source-depth: both are counted from FILE, which is 1";
  if (args->output == OUTPUT_JSON && !args->dry_run)
    return "--output=json needs --dry-run; --progress=json tells of a merge that runs";
  if (args->keep_sources && (args->delete_sources || args->rename))
    return "-d keeps the merged images: it excludes --delete and --rename";
  if (args->dry_run && args->progress == PROGRESS_JSON)
    return "--dry-run and --progress=json exclude each other: both print for programs";
  return NULL;
}

static bool
parse_reflink (const char *text, VhdkitReflink *reflink)
{
  static const char *const names[] = {
    [VHDKIT_REFLINK_AUTO] = "auto",
    [VHDKIT_REFLINK_ALWAYS] = "always",
    [VHDKIT_REFLINK_NEVER] = "never",
  };
  *reflink = VHDKIT_REFLINK_AUTO;
  if (text == NULL)
    return true;
  for (size_t i = 0; i < G_N_ELEMENTS (names); i++)
    if (strcmp (names[i], text) == 0)
      {
        *reflink = (VhdkitReflink)i;
        return true;
      }
  report (NULL, "--reflink: '%s' is neither auto, always nor never", text);
  return false;
}

/* Whether nobody can be in a chain under the name @path: there is no such file.  With the reason. */
static bool
describe_missing (const char *path, GString *why)
{
  struct stat st;
  if (stat (path, &st) == 0)
    return false;
  g_string_printf (why, "%s: %s", path, g_strerror (errno));
  return true;
}

/* The uppermost layer to merge, or -1 with the reason. */
static int
find_source (VhdkitImage *image, const CommitArgs *args, GString *why)
{
  int depth = vhdkit_image_get_depth (image);
  if (args->source != NULL)
    {
      int layer = vhdkit_image_find_layer (image, args->source);
      if (layer < 0 && !describe_missing (args->source, why))
        g_string_printf (why, "%s is not in its chain", args->source);
      return layer;
    }
  if (args->source_depth > depth)
    {
      g_string_printf (why, "--source-depth: the chain has %d image%s, number %d was asked for", depth,
                       depth == 1 ? "" : "s", (int)args->source_depth);
      return -1;
    }
  return args->source_depth > 0 ? (int)args->source_depth - 1 : 0;
}

/* The layer to merge into, below @source, or -1 with the reason. */
static int
find_target (VhdkitImage *image, const CommitArgs *args, int source, GString *why)
{
  int depth = vhdkit_image_get_depth (image);
  if (depth < source + 2)
    {
      g_string_printf (
          why, source == 0
                   ? "the image has no parent to merge into"
                   : "the image to be merged is the last of the chain: it has no parent to merge into");
      return -1;
    }
  if (args->ancestor != NULL)
    {
      int layer = vhdkit_image_find_layer (image, args->ancestor);
      if (layer > source)
        return layer;
      if (layer < 0 && !args->rename && describe_missing (args->ancestor, why))
        return -1;
      g_string_printf (why,
                       layer >= 0 ? "%s is the image to be merged, not one below it"
                       : args->rename
                           ? "%s is not in its chain; an earlier --rename may have given it this name"
                           : "%s is not in its chain",
                       args->ancestor);
      return -1;
    }
  if (args->target_depth > depth)
    {
      g_string_printf (why, "--target-depth: the chain has %d images, number %d was asked for", depth,
                       (int)args->target_depth);
      return -1;
    }
  if (args->target_depth > 0 && args->target_depth - 1 <= source)
    {
      g_string_printf (why, "--target-depth: number %d is not below the image to be merged, number %d",
                       (int)args->target_depth, source + 1);
      return -1;
    }
  if (args->depth >= depth - source)
    {
      int ancestors = depth - source - 1;
      g_string_printf (why, "--depth: the image has %d ancestor%s, %d were asked for", ancestors,
                       ancestors == 1 ? "" : "s", (int)args->depth);
      return -1;
    }
  return args->target_depth > 0 ? (int)args->target_depth - 1 : source + (int)MAX (args->depth, 1);
}

/* The file of a layer, as it can be opened, or NULL. */
static char *
layer_file (VhdkitImage *image, int layer)
{
  VhdkitLayerInfo info = { 0 };
  char *file = vhdkit_image_get_layer_info (image, layer, &info, NULL) ? g_strdup (info.filename) : NULL;

  vhdkit_layer_info_clear (&info);
  return file;
}

static char *
layer_name (VhdkitImage *image, int layer)
{
  g_autofree char *file = layer_file (image, layer);

  return file != NULL ? printable (file) : g_strdup ("?");
}

/* Whether the command run again, after an interruption or by mistake, means the same images, wherever they are by then:
 * a target that was renamed has its own parent below it, and children that were relinked have lost layers. */
static bool
check_names (VhdkitImage *image, const CommitArgs *args, const VhdkitCommitOptions *commit_options,
             GString *why)
{
  bool moves = args->relink != NULL || args->delete_sources || args->rename;
  if (moves && commit_options->source_layer > 0 && (args->source == NULL || args->ancestor == NULL))
    {
      g_string_printf (
          why, "--relink, --delete and --rename below the uppermost image need --source and -b: places "
               "in the chain "
               "change");
      return false;
    }
  if (!args->rename || args->ancestor != NULL
      || commit_options->target_layer == vhdkit_image_get_depth (image) - 1)
    return true;
  g_autofree char *into = layer_name (image, commit_options->target_layer);
  g_string_printf (why, "--rename: %s has a parent itself, and has to be named with -b", into);
  return false;
}

/* Other images that depend on what the merge changes; NULL after a message. */
static VhdkitChild **
find_siblings (VhdkitImage *image, const VhdkitCommitOptions *commit_options, const char *path)
{
  g_autoptr (GError) error = NULL;
  VhdkitChild **siblings = vhdkit_image_find_children (image, commit_options->source_layer + 1,
                                                       commit_options->target_layer, &error);
  if (siblings == NULL)
    report_error (path, error);
  return siblings;
}

/* The files that go with a merge of layer @from into layer @target, NULL-terminated. */
static char **
list_removed (VhdkitImage *image, int from, int target, const CommitArgs *args)
{
  GPtrArray *files = g_ptr_array_new ();
  for (int layer = target - 1; layer >= from + args->rename && args->delete_sources; layer--)
    {
      char *file = layer_file (image, layer);
      if (file != NULL)
        g_ptr_array_add (files, file);
    }
  g_ptr_array_add (files, NULL);
  return (char **)g_ptr_array_free (files, FALSE);
}

static void
describe_removed (GString *text, char **files)
{
  for (; *files != NULL; files++)
    {
      g_autofree char *name = printable (*files);
      g_string_append_printf (text, "%s was removed.\n", name);
    }
}

/* A ProgressEnd; @opaque: the files, NULL-terminated. */
static void
add_removed (JsonWriter *json, void *opaque)
{
  json_begin (json, "removed", '[');
  for (char **file = opaque; *file != NULL; file++)
    json_string (json, NULL, *file);
  json_end (json, ']');
}

/* What has become of the files themselves. */
static void
describe_files (GString *text, VhdkitImage *image, int from, int target, const CommitArgs *args)
{
  g_autofree char *source = layer_name (image, from), *into = layer_name (image, target);
  for (const char *const *path = list_strings (args->relink); path != NULL && *path != NULL; path++)
    {
      g_autofree char *child = printable (*path);
      g_string_append_printf (text, "%s is now above %s.\n", child, args->rename ? source : into);
    }
  g_auto (GStrv) removed = list_removed (image, from, target, args);
  describe_removed (text, removed);
}

/* What the merge of layer @from into layer @target means for the files: for people who are about to delete some of
 * them.  @siblings: NULL where there are none. */
static char *
describe_outcome (VhdkitImage *image, int from, int target, VhdkitChild **siblings, const CommitArgs *args)
{
  g_autofree char *source = layer_name (image, from), *into = layer_name (image, target);
  GString *text = g_string_new (NULL);

  if (args->rename)
    g_string_printf (text, "%s is now %s, and holds what that showed.\n", into, source);
  else
    g_string_printf (text, "%s now holds what %s %s.\n", into, source,
                     args->delete_sources ? "showed" : "shows");
  describe_files (text, image, from, target, args);
  for (int layer = from + 1; layer < target && !args->delete_sources; layer++)
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
      /* A warning has told of it. */
      if ((*sibling)->problem != NULL)
        continue;
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

static char *
describe_stats (const VhdkitCommitStats *stats)
{
  g_autofree char *copied = format_size (stats->bytes_copied), *cloned = format_size (stats->bytes_cloned);
  g_autofree char *zeroed = format_size (stats->bytes_zeroed), *skipped = format_size (stats->bytes_skipped);
  return g_strdup_printf ("%s copied, %s shared, %s made zeros, %s left as they were.\n", copied, cloned,
                          zeroed, skipped);
}

static int
run_commit (VhdkitImage **image, const CommitArgs *args, const char *path,
            const VhdkitCommitOptions *commit_options)
{
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_commit_new (*image, commit_options, &error);
  if (job == NULL)
    {
      report_error (path, error);
      return EXIT_FAILURE;
    }
  /* Without --break-siblings the job refuses where there are any. */
  VhdkitChild **siblings = args->break_siblings ? find_siblings (*image, commit_options, path) : NULL;
  tool_print_warnings (*image);
  if (args->rate > 0)
    vhdkit_job_set_rate_limit (job, args->rate);
  g_auto (GStrv) removed =
      list_removed (*image, commit_options->source_layer, commit_options->target_layer, args);
  const ProgressEnd end = { add_removed, removed };
  int status = run_job_with_end (
      job, path, progress_shown (args->progress, args->quiet),
      "the chain is whole and reads as before; run the command again to finish the merge", &end);
  VhdkitCommitStats stats;
  vhdkit_commit_get_stats (job, &stats);
  vhdkit_job_free (job);
  tool_print_warnings (*image);
  g_autofree char *outcome =
      describe_outcome (*image, commit_options->source_layer, commit_options->target_layer, siblings, args);
  vhdkit_children_free (siblings);
  g_autofree char *counts = describe_stats (&stats);
  status = tool_close_with (status, g_steal_pointer (image), path);
  if (status == EXIT_SUCCESS && !progress_silences (args->progress, args->quiet))
    printf ("Image committed.\n%s%s", counts, outcome);
  return status;
}

/* Why a merge with these @siblings is refused, or NULL. */
static const char *
find_refusal (VhdkitChild **siblings, const CommitArgs *args)
{
  const char *why = NULL;

  for (VhdkitChild **sibling = siblings; *sibling != NULL && !args->break_siblings; sibling++)
    if ((*sibling)->problem == NULL)
      return "other images depend on what it changes (--break-siblings)";
    else if (!args->ignore_unknown)
      why = "it is not known whether other images depend on what it changes (--ignore-unknown)";
  return why;
}

static int
run_dry (VhdkitImage *image, const CommitArgs *args, const char *path,
         const VhdkitCommitOptions *commit_options)
{
  g_auto (VhdkitCommitPlan) plan = { 0 };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_commit_plan_new (image, commit_options, &error);
  if (job == NULL)
    {
      report_error (path, error);
      return EXIT_FAILURE;
    }
  int status = run_job (job, path, progress_shown (args->progress, args->quiet), "nothing was changed");
  if (status == EXIT_SUCCESS && !vhdkit_commit_plan_get (job, &plan, &error))
    {
      report_error (path, error);
      status = EXIT_FAILURE;
    }
  vhdkit_job_free (job);
  VhdkitChild **siblings = status == EXIT_SUCCESS ? find_siblings (image, commit_options, path) : NULL;
  if (siblings == NULL)
    return status != EXIT_SUCCESS ? status : EXIT_FAILURE;
  if (args->output == OUTPUT_JSON)
    commit_plan_print_json (&plan, siblings);
  else if (!args->quiet)
    commit_plan_print (&plan, siblings);
  const char *why = plan.already_merged ? NULL : find_refusal (siblings, args);
  if (why != NULL)
    report (path, "the merge would be refused: %s", why);
  if (plan.target_problem != NULL)
    report (path, "the merge would be refused: %s", plan.target_problem);
  if (!plan.enough_space)
    report (path, "the merge would be refused: it may need %" PRId64 " bytes, %" PRId64 " are free",
            plan.host_bytes_worst, plan.host_bytes_free + plan.host_bytes_to_cut);
  vhdkit_children_free (siblings);
  return why != NULL || plan.target_problem != NULL || !plan.enough_space ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* false: with the reason. */
static bool
choose_layers (VhdkitImage *image, const CommitArgs *args, VhdkitCommitOptions *commit_options, GString *why)
{
  commit_options->source_layer = find_source (image, args, why);
  if (commit_options->source_layer < 0)
    return false;
  commit_options->target_layer = find_target (image, args, commit_options->source_layer, why);
  return commit_options->target_layer >= 0 && check_names (image, args, commit_options, why);
}

/* An earlier run may have given the layer above --source the target as its parent, and been interrupted: then the chain
 * of FILE does not lead to --source any more.  It is opened by itself, and that layer is a child to be relinked; whether
 * it was so the job tells by what the target shows.  *image becomes that of --source; false: it is not so. */
static bool
resume_below (VhdkitImage **image, const CommitArgs *args, VhdkitCommitOptions *commit_options,
              GPtrArray *relink)
{
  g_autoptr (GString) why = g_string_new (NULL);
  bool moves = args->relink != NULL || args->delete_sources || args->rename;
  if (!moves || args->source == NULL || args->ancestor == NULL
      || vhdkit_image_find_layer (*image, args->source) >= 0)
    return false;
  int target = vhdkit_image_find_layer (*image, args->ancestor);
  g_autofree char *above = target > 0 ? layer_file (*image, target - 1) : NULL;
  g_autoptr (ToolImage) source =
      above != NULL ? tool_open_quiet (args->source, &args->image, 0, args->cache, NULL) : NULL;
  if (source == NULL || !choose_layers (source, args, commit_options, why))
    return false;
  /* Its locks would be in the way. */
  vhdkit_image_close (*image, NULL);
  *image = g_steal_pointer (&source);
  g_ptr_array_add (relink, g_steal_pointer (&above));
  return true;
}

/* The command does not find what it names: @problem.  If that is so because it was interrupted while it removed the merged
 * images, they are removed now.  The exit status, or EXIT_NOTHING_LEFT: it is not so. */
static int
finish_removal (const CommitArgs *args, const char *path, const char *problem)
{
  g_autoptr (GError) error = NULL;
  g_auto (GStrv) removed = vhdkit_commit_remove_remains (
      tool_context (), args->source != NULL ? args->source : path, args->image.confine, &error);
  if (g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND))
    return EXIT_NOTHING_LEFT;
  if (removed == NULL)
    {
      /* Not all that has the name of a list is one: what was wrong before comes first. */
      report (strstr (problem, path) != NULL ? NULL : path, "%s; nor can an earlier run be finished: %s",
              problem, error->message);
      return EXIT_FAILURE;
    }
  const ProgressEnd end = { add_removed, removed };
  if (args->progress == PROGRESS_JSON)
    progress_print_end (&end);
  if (progress_silences (args->progress, args->quiet))
    return EXIT_SUCCESS;
  g_autoptr (GString) text = g_string_new ("Image committed by an earlier run.\n");
  describe_removed (text, removed);
  fputs (text->str, stdout);
  return EXIT_SUCCESS;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const CommitArgs *args = opaque;
  const char *path = operands[0];
  VhdkitCommitOptions commit_options = {
    .struct_size = sizeof commit_options,
    .parallel = (unsigned)args->parallel,
    .shrink_target = args->shrink,
    .skip_identical = args->skip_identical,
    .break_siblings = args->break_siblings,
    .ignore_unknown = args->ignore_unknown,
    .delete_sources = args->delete_sources,
    .rename_target = args->rename,
  };
  const char *contradiction = find_contradiction (args);
  if (contradiction != NULL)
    {
      report (NULL, "%s", contradiction);
      return EXIT_FAILURE;
    }
  if (!parse_reflink (args->reflink, &commit_options.reflink))
    return EXIT_FAILURE;
  if (!args->dry_run)
    signals_defer ();
  g_autoptr (GError) error = NULL;
  g_autoptr (GString) why = g_string_new (NULL);
  g_autoptr (GPtrArray) relink = g_ptr_array_new_with_free_func (g_free);
  for (const char *const *child = list_strings (args->relink); child != NULL && *child != NULL; child++)
    g_ptr_array_add (relink, g_strdup (*child));
  g_autoptr (ToolImage) image = tool_open_quiet (path, &args->image, 0, args->cache, &error);
  if (image != NULL)
    tool_print_warnings (image);
  if (image == NULL
      || !(choose_layers (image, args, &commit_options, why)
           || resume_below (&image, args, &commit_options, relink)))
    {
      const char *problem = error != NULL ? error->message : why->str;
      int status =
          args->delete_sources && !args->dry_run ? finish_removal (args, path, problem) : EXIT_NOTHING_LEFT;
      if (status != EXIT_NOTHING_LEFT)
        return status;
      if (error != NULL)
        report_error (path, error);
      else
        report (path, "%s", why->str);
      return EXIT_FAILURE;
    }
  g_ptr_array_add (relink, NULL);
  commit_options.relink = (const char *const *)relink->pdata;
  return args->dry_run ? run_dry (image, args, path, &commit_options)
                       : run_commit (&image, args, path, &commit_options);
}

static const char *const aliases[] = { "merge", NULL };

const Command cmd_commit = {
  .name = "commit",
  .aliases = aliases,
  .summary = "merge an image into its parent or another ancestor",
  .operands = "FILE",
  .description =
      "Writes what FILE and the images between hold into the target, in one pass. FILE need not be the "
      "uppermost image of its chain. At every instant, and after a crash, FILE reads as before; a merge that "
      "was interrupted is finished by running the command again. FILE stays and reads the same afterwards, "
      "unless --delete or --rename says otherwise; images between FILE and the target, and other children of "
      "these and of the target, are no longer valid: where there are such children beside the files of the "
      "chain, the merge is refused unless --break-siblings is given, and where it is not known whether there "
      "are, unless --ignore-unknown is. Children in other directories are not looked for. With --source or "
      "--source-depth all this is said of that image instead of FILE, and what lies above it is not "
      "touched.\n\n"
      "What --relink, --delete and --rename ask for begins when the target holds everything and that is "
      "durable, and is checked before anything is written. A command that was interrupted then is finished "
      "by running it again. Once --delete has begun, FILE cannot be opened, or is gone or is the target: "
      "what is left of the merged images is in a list beside it, FILE.remains, which goes at last; the same "
      "command removes it. Once a --rename without --delete is done, -b names a file that is not there any "
      "more, and nothing is left to do.\n\n"
      "--dry-run tells what would be done. Its figures of what can be shared, and its time, are estimates: "
      "the time is what reading alone would take at the rate of a sample that was read for it. With "
      "--output=json it is one object: layers (each with filename, role, fate and bytes), relinked, "
      "already-merged, bytes-to-copy, bytes-to-clone-estimate, bytes-to-zero, virtual-size-before, "
      "virtual-size-after, host-bytes-worst, host-bytes-expected, host-bytes-free (null: not known), "
      "host-bytes-to-cut (left at the target's end by an interrupted run, and needed), "
      "enough-space, target-problem (null, or why it cannot be written), siblings (each with filename, "
      "format and parent-layer), siblings-unknown (each with "
      "filename and reason), measured-bytes, measured-seconds and estimated-seconds (null: not known). The "
      "exit status is 1 when the merge would be refused.",
  .options = options,
  .args_size = sizeof (CommitArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
