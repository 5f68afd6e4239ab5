/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img compact */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "output.h"
#include "progress.h"

typedef struct
{
  ImageOptions image;
  bool quiet, no_zero_scan, no_block_moves;
  ProgressStyle progress;
  VhdkitCacheMode cache;
  int64_t rate, parallel;
} CompactArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (CompactArgs, image),
  { 0, "no-zero-scan", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CompactArgs, no_zero_scan),
    "Do not look for blocks that could be left out" },
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

static void
print_result (const VhdkitCompactStats *stats)
{
  g_autofree char *before = format_size (stats->file_size_before);
  g_autofree char *after = format_size (stats->file_size_after);
  printf ("Image compacted: %s (%" PRId64 " bytes) before, %s (%" PRId64 " bytes) after; %" PRId64
          " of %" PRId64 " blocks dropped, %" PRId64 " moved.\n",
          before, stats->file_size_before, after, stats->file_size_after, stats->blocks_dropped,
          stats->blocks_allocated, stats->blocks_moved);
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const CompactArgs *args = opaque;
  const char *path = operands[0];
  signals_defer ();
  g_autoptr (ToolImage) image = tool_open (path, &args->image, VHDKIT_OPEN_RDWR, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);

  VhdkitCompactOptions compact_options = {
    .struct_size = sizeof compact_options,
    .no_zero_scan = args->no_zero_scan,
    .no_block_moves = args->no_block_moves,
    .parallel = (unsigned)args->parallel,
  };
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
  vhdkit_job_free (job);
  status = tool_close_with (status, g_steal_pointer (&image), path);
  if (status == EXIT_SUCCESS && !progress_silences (args->progress, args->quiet))
    print_result (&stats);
  return status;
}

const Command cmd_compact = {
  .name = "compact",
  .summary = "give back the space an image does not need",
  .operands = "FILE",
  .description = "Shrinks the file of a dynamic or differencing image in place, without changing what a "
                 "guest can see: blocks "
                 "of zeros, and blocks that are the same as what the parent shows, are left out (in a "
                 "differencing image a "
                 "block of zeros goes only where the parent reads as zeros too); blocks at the end of the "
                 "file move into the "
                 "holes, and the file is cut. May be interrupted at any instant and run again.",
  .options = options,
  .args_size = sizeof (CompactArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
