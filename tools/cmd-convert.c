/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img convert */
#include "vhd-img.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "create.h"
#include "progress.h"

typedef struct
{
  ImageOptions image; /* of the source */
  const char *output_format;
  GPtrArray *format_options;
  VhdkitCacheMode cache, source_cache;
  int64_t sparse, parallel, rate;
  bool out_of_order, no_create, target_is_zero, copy_range, break_children, ignore_unknown, quiet;
  ProgressStyle progress;
  const char *parent, *parent_format; /* of the target */
} ConvertArgs;

/* Not given. */
#define CACHE_FITTING ((VhdkitCacheMode)-1)

static const ConvertArgs defaults = { .cache = CACHE_FITTING, .sparse = 4096 };

static const OptionDef options[] = {
  { 'f', "format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (ConvertArgs, image.format),
    "Format of the source; probed by content when not given" },
  { 'O', "target-format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (ConvertArgs, output_format),
    "Format of the target; raw when not given. With -n it must be given" },
  { 'o', "options", "LIST", OPTION_LIST, OPTION_MAIN, offsetof (ConvertArgs, format_options),
    "Options of the target's format, NAME=VALUE with commas between; -o help lists them; may be repeated" },
  { 'B', "backing", "PARENT", OPTION_STRING, OPTION_MAIN, offsetof (ConvertArgs, parent),
    "Make the target a differencing image above PARENT (a path from the target's folder), holding what "
    "differs" },
  { 'F', "backing-format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (ConvertArgs, parent_format),
    "Format of PARENT; probed by content when not given" },
  { 'n', "no-create", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ConvertArgs, no_create),
    "Write into a target that exists, of the source's size or larger" },
  { 0, "target-is-zero", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ConvertArgs, target_is_zero),
    "With -n: the target reads as zeros, so zeros need not be written" },
  { 'S', "sparse", "SIZE", OPTION_SIZE, OPTION_MAIN, offsetof (ConvertArgs, sparse),
    "Leave out runs of zeros at least this long, in steps of 512 bytes; 4k when not given, 0: write "
    "everything" },
  { 'm', "parallel", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (ConvertArgs, parallel),
    "Pieces of work in flight, 1 to 16; 8 when not given", 1, 16 },
  { 'W', "out-of-order", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ConvertArgs, out_of_order),
    "Write in any order: faster where the target's space exists already" },
  { 'C', "copy-range", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (ConvertArgs, copy_range),
    "Let the host's file system copy or share data where it can; zeros are not looked for there" },
  OPTIONS_CHILDREN (ConvertArgs),
  { 'r', "rate-limit", "RATE", OPTION_SIZE, OPTION_MAIN, offsetof (ConvertArgs, rate),
    "Bytes per second at most" },
  { 'c', NULL, NULL, OPTION_REFUSED, OPTION_MAIN, 0, "no format here has compression" },
  { 't', "cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (ConvertArgs, cache),
    "Host cache mode for the target: writeback, none, writethrough, directsync, unsafe; when not given, none "
    "where "
    "the host's file system can do it and the target has no parent, else writeback" },
  OPTIONS_SOURCE_CACHE (ConvertArgs),
  OPTIONS_PROGRESS (ConvertArgs),
  OPTIONS_QUIET (ConvertArgs),
  OPTIONS_SHARE (ConvertArgs, image),
  OPTIONS_CHAIN (ConvertArgs, image),
  OPTIONS_END,
};

static bool
is_block_device (const char *path)
{
  struct stat st;
  return stat (path, &st) == 0 && S_ISBLK (st.st_mode);
}

/* The target must be none of the files that are read. */
static bool
check_target (VhdkitImage *source, const char *path)
{
  int layer = vhdkit_image_find_layer (source, path);
  if (layer < 0)
    return true;
  report (path,
          layer == 0 ? "source and target are the same file" : "the target is an ancestor of the source");
  return false;
}

static VhdkitImage *
open_target (const ConvertArgs *args, const char *path)
{
  ImageOptions target_options = {
    .format = args->output_format != NULL ? args->output_format : "raw",
    .aio = NULL,
    .confine = args->image.confine,
    .drive_map = args->image.drive_map,
    .raw_parent = args->parent != NULL || args->image.raw_parent,
    .filters = args->image.filters,
  };
  unsigned flags = VHDKIT_OPEN_RDWR | (args->no_create ? 0 : VHDKIT_OPEN_INCOMPLETE);
  if (args->cache != CACHE_FITTING)
    return tool_open (path, &target_options, flags, args->cache);
  /* What is written here once is not read soon: past the page cache it costs a third of the time. */
  if (args->parent == NULL)
    {
      g_autoptr (GError) error = NULL;
      VhdkitImage *image = tool_open_quiet (path, &target_options, flags, VHDKIT_CACHE_NONE, &error);
      if (image != NULL)
        return image;
    }
  return tool_open (path, &target_options, flags, VHDKIT_CACHE_WRITEBACK);
}

/* Whether a job that has failed may have changed the target. */
static bool
has_begun (VhdkitJob *job, const ConvertArgs *args)
{
  VhdkitJobProgress progress;
  vhdkit_job_get_progress (job, &progress);
  return !args->no_create || progress.total > 0;
}

/* Takes the exit status of the copy. */
static int
copy (VhdkitImage *source, VhdkitImage *target, const ConvertArgs *args, const char *path)
{
  bool fresh = !args->no_create && !is_block_device (path);
  VhdkitConvertOptions convert_options = {
    .struct_size = sizeof convert_options,
    .parallel = (unsigned)args->parallel,
    .in_order = !args->out_of_order,
    .target_is_zero = fresh || args->target_is_zero,
    .sparse_bytes = args->sparse,
    .above_target_parent = args->parent != NULL,
    .copy_range = args->copy_range,
    /* Of what was made here that has been asked. */
    .break_children = args->break_children || !args->no_create,
    .ignore_unknown = args->ignore_unknown,
  };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_convert_new (source, target, &convert_options, &error);
  if (job == NULL)
    {
      report_error (path, error);
      return EXIT_FAILURE;
    }
  if (args->rate > 0)
    vhdkit_job_set_rate_limit (job, args->rate);
  int status = run_job (job, path, progress_shown (args->progress, args->quiet), "the target is incomplete");
  if (status == EXIT_FAILURE && has_begun (job, args))
    report_warning ("%s: incomplete; it does not hold what the source shows", path);
  vhdkit_job_free (job);
  return status;
}

static int
convert (VhdkitImage *source, const char *path, NewImage *new_image, const ConvertArgs *args)
{
  if (!check_target (source, path))
    return EXIT_FAILURE;
  if (new_image->bytes >= 0 && new_image->bytes < vhdkit_image_get_size (source))
    {
      report (path, "-o size: smaller than the source");
      return EXIT_FAILURE;
    }
  if (new_image->bytes < 0)
    new_image->bytes = vhdkit_image_get_size (source);
  if (args->output_format == NULL)
    new_image_warn_of_name (path, "-O");
  if (!args->no_create && !new_image_create (new_image, path, &args->image))
    return EXIT_FAILURE;
  VhdkitImage *target = open_target (args, path);
  if (target == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (target);
  int status = copy (source, target, args, path);
  tool_print_warnings (source);
  tool_print_warnings (target);
  return tool_close_with (status, target, path);
}

/* What the options cannot be together, or NULL. */
static const char *
find_contradiction (const ConvertArgs *args, const NewImage *new_image)
{
  /* qemu-img writes a raw disk over whatever the target is. */
  if (args->no_create && args->output_format == NULL)
    return "-n needs -O: the format of a target that exists is not guessed";
  if (args->target_is_zero && !args->no_create)
    return "--target-is-zero needs -n";
  if (args->target_is_zero && new_image->parent != NULL)
    return "--target-is-zero and -B exclude each other";
  if (args->no_create && new_image->options->len > 1)
    return "-o has no use with -n";
  if (args->sparse % 512 != 0)
    return "-S needs a multiple of 512 bytes";
  return NULL;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  ConvertArgs *args = opaque;
  g_auto (NewImage) new_image = {
    .format = args->output_format != NULL ? args->output_format : "raw",
    .parent = args->parent,
    .parent_format = args->parent_format,
    .bytes = -1,
    .incomplete = true,
    .break_children = args->break_children,
    .ignore_unknown = args->ignore_unknown,
  };
  bool help;
  if (!new_image_take_options (&new_image, args->format_options, &help))
    return EXIT_FAILURE;
  if (help)
    {
      new_image_print_options (&new_image);
      return EXIT_SUCCESS;
    }
  int n = (int)g_strv_length (operands);
  const char *complaint = n < 2   ? "convert: expected SOURCE TARGET"
                          : n > 2 ? "convert: only one source; several are not joined"
                                  : find_contradiction (args, &new_image);
  if (complaint != NULL)
    {
      report (NULL, "%s", complaint);
      return EXIT_FAILURE;
    }
  args->parent = new_image.parent;

  signals_defer ();
  VhdkitImage *source = tool_open (operands[0], &args->image, 0, args->source_cache);
  if (source == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (source);
  int status = convert (source, operands[1], &new_image, args);
  tool_close (source, operands[0]);
  return status;
}

const Command cmd_convert = {
  .name = "convert",
  .summary = "copy the content of an image into another",
  .operands = "SOURCE TARGET",
  .description =
      "Makes TARGET, of any format, with the content that a guest sees in SOURCE, its parents "
      "included. An existing TARGET is overwritten unless it is in use, or images in its directory "
      "have it as their parent. Zeros and holes are neither read nor written "
      "where that can be "
      "avoided. --parent and -U belong to the source. TARGET is durable when the command has "
      "succeeded, unless -t "
      "unsafe is given; a TARGET whose conversion failed or was stopped is incomplete.",
  .options = options,
  .args_size = sizeof (ConvertArgs),
  .defaults = &defaults,
  .min_operands = 0,
  .max_operands = 100,
  .run = run,
};
