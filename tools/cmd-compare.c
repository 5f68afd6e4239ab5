/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img compare */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "progress.h"

enum
{
  STATUS_SAME = 0,
  STATUS_DIFFERENT = 1,
  STATUS_CANNOT_OPEN = 2,
  STATUS_CANNOT_READ = 4,
};

typedef struct
{
  ImageOptions image;
  const char *second_format;
  bool strict, quiet;
  ProgressStyle progress;
  VhdkitCacheMode source_cache;
} CompareArgs;

static const OptionDef options[] = {
  { 'f', "format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (CompareArgs, image.format),
    "Format of the first image; probed by content when not given" },
  { 'F', "second-format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (CompareArgs, second_format),
    "Format of the second image; probed by content when not given" },
  { 's', "strict", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompareArgs, strict),
    "Different sizes, and ranges that only one of the images holds, are differences" },
  OPTIONS_PROGRESS (CompareArgs),
  OPTIONS_QUIET (CompareArgs),
  OPTIONS_SOURCE_CACHE (CompareArgs),
  OPTIONS_SHARE (CompareArgs, image),
  OPTIONS_CHAIN (CompareArgs, image),
  OPTIONS_END,
};

G_GNUC_PRINTF (2, 3)
static void
say (const CompareArgs *args, const char *format, ...)
{
  if (progress_silences (args->progress, args->quiet))
    return;
  va_list list;
  va_start (list, format);
  vprintf (format, list);
  va_end (list);
}

static int
verdict (const CompareArgs *args, const VhdkitCompareStats *stats)
{
  if (stats->equal)
    {
      say (args, "Images are identical.\n");
      return STATUS_SAME;
    }
  if (stats->allocation_differs)
    say (args, "Strict mode: Offset %" PRId64 " block status mismatch!\n", stats->first_difference);
  else if (stats->first_difference >= 0)
    say (args, "Content mismatch at offset %" PRId64 "!\n", stats->first_difference);
  else
    say (args, "Strict mode: Image size mismatch!\n");
  return STATUS_DIFFERENT;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const CompareArgs *args = opaque;
  ImageOptions second = args->image;
  second.format = args->second_format;
  second.parent = NULL;
  second.parent_format = NULL;
  g_autoptr (ToolImage) a = tool_open (operands[0], &args->image, 0, args->source_cache);
  g_autoptr (ToolImage) b = a != NULL ? tool_open (operands[1], &second, 0, args->source_cache) : NULL;
  if (b == NULL)
    return STATUS_CANNOT_OPEN;
  tool_print_warnings (a);
  tool_print_warnings (b);

  bool sizes_differ = vhdkit_image_get_size (a) != vhdkit_image_get_size (b);
  if (sizes_differ && args->strict)
    {
      say (args, "Strict mode: Image size mismatch!\n");
      if (args->progress == PROGRESS_JSON)
        progress_print_end (NULL);
      return STATUS_DIFFERENT;
    }
  if (sizes_differ)
    say (args, "Warning: Image size mismatch!\n");

  VhdkitCompareOptions compare_options = { .struct_size = sizeof compare_options, .strict = args->strict };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = vhdkit_compare_new (a, b, &compare_options, &error);
  if (job == NULL)
    {
      report_error (operands[0], error);
      return STATUS_CANNOT_OPEN;
    }
  VhdkitCompareStats stats = { 0 };
  int status =
      run_job (job, operands[0], progress_shown (args->progress, args->quiet), "nothing was changed");
  vhdkit_compare_get_stats (job, &stats);
  vhdkit_job_free (job);
  tool_print_warnings (a);
  tool_print_warnings (b);
  if (status == EXIT_FAILURE)
    return STATUS_CANNOT_READ;
  return status != EXIT_SUCCESS ? status : verdict (args, &stats);
}

const Command cmd_compare = {
  .name = "compare",
  .summary = "say whether two images have the same content",
  .operands = "FILE1 FILE2",
  .description = "Compares what a guest would read. Ranges that one image does not hold are the same as "
                 "zeros in the other, "
                 "and so is what follows the end of the smaller image, unless -s is given. --parent belongs "
                 "to the first image.",
  .options = options,
  .args_size = sizeof (CompareArgs),
  .min_operands = 2,
  .max_operands = 2,
  .usage_status = STATUS_CANNOT_OPEN,
  .run = run,
};
