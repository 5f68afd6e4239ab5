/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img map */
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
  int64_t start, length;
  VhdkitCacheMode source_cache;
} MapArgs;

static const MapArgs defaults = { .length = INT64_MAX };

static const OptionDef options[] = {
  OPTIONS_FORMAT (MapArgs, image),
  OPTIONS_OUTPUT (MapArgs),
  { 's', "start-offset", "OFFSET", OPTION_SIZE, OPTION_MAIN, offsetof (MapArgs, start), "Where to start" },
  { 'l', "max-length", "SIZE", OPTION_SIZE, OPTION_MAIN, offsetof (MapArgs, length), "How much to show" },
  OPTIONS_SOURCE_CACHE (MapArgs),
  OPTIONS_SHARE (MapArgs, image),
  OPTIONS_CHAIN (MapArgs, image),
  OPTIONS_END,
};

static bool
mergeable (const VhdkitExtent *a, const VhdkitExtent *b)
{
  return a->data == b->data && a->zero == b->zero && a->present == b->present && a->depth == b->depth
         && a->has_file_offset == b->has_file_offset
         && (!a->has_file_offset
             || (a->file_offset + a->bytes == b->file_offset && g_strcmp0 (a->filename, b->filename) == 0));
}

static void
print_human (const VhdkitExtent *extent)
{
  if (!extent->data || extent->zero)
    return;
  g_autofree char *filename = printable (extent->filename != NULL ? extent->filename : "");
  printf ("%#-16" PRIx64 "%#-16" PRIx64, extent->offset, extent->bytes);
  if (extent->has_file_offset)
    printf ("%#-16" PRIx64 "%s\n", extent->file_offset, filename);
  else
    printf ("%-16s%s\n", "-", filename);
}

static void
print_json (const VhdkitExtent *extent, bool first)
{
  printf (
      "%s{ \"start\": %" PRId64 ", \"length\": %" PRId64 ", \"depth\": %d, \"present\": %s, \"zero\": %s, "
      "\"data\": %s",
      first ? "[" : ",\n", extent->offset, extent->bytes, extent->depth, extent->present ? "true" : "false",
      extent->zero ? "true" : "false", extent->data ? "true" : "false");
  if (extent->has_file_offset)
    printf (", \"offset\": %" PRId64, extent->file_offset);
  printf ("}");
}

static int
run (const Command *command, void *opaque, char **operands)
{
  const MapArgs *args = opaque;
  const char *path = operands[0];
  g_autoptr (ToolImage) image = tool_open (path, &args->image, 0, args->source_cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);

  bool json = args->output == OUTPUT_JSON;
  int64_t size = vhdkit_image_get_size (image);
  int64_t offset = args->start;
  int64_t end = offset < size && args->length < size - offset ? offset + args->length : size;
  VhdkitExtent pending = { 0 };
  bool first = true;
  if (!json)
    printf ("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
  while (offset < end)
    {
      VhdkitExtent extent;
      int ret = vhdkit_image_get_extent (image, offset, end - offset, &extent);
      if (ret < 0)
        {
          report (path, "offset %" PRId64 ": what is stored there cannot be found out: %s", offset,
                  g_strerror (-ret));
          tool_print_warnings (image);
          return EXIT_FAILURE;
        }
      offset += extent.bytes;
      if (pending.bytes > 0 && mergeable (&pending, &extent))
        {
          pending.bytes += extent.bytes;
          continue;
        }
      if (pending.bytes > 0)
        {
          if (json)
            print_json (&pending, first);
          else
            print_human (&pending);
          first = false;
        }
      pending = extent;
    }
  if (pending.bytes > 0 && !json)
    print_human (&pending);
  else if (pending.bytes > 0)
    print_json (&pending, first);
  if (json)
    printf (pending.bytes > 0 ? "]\n" : "[]\n");
  return EXIT_SUCCESS;
}

const Command cmd_map = {
  .name = "map",
  .summary = "show where the data of an image lie",
  .operands = "FILE",
  .description = "Lists the ranges of the virtual disk with the image of the chain that decides what they "
                 "read as and the "
                 "place in its file. For people only ranges with data are listed. In JSON, depth counts the "
                 "images from the "
                 "uppermost (0) down, present says that some image of the chain holds the range, data that "
                 "it is stored, zero "
                 "that it is known to read as zeros.",
  .options = options,
  .args_size = sizeof (MapArgs),
  .defaults = &defaults,
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
