/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img create */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "create.h"
#include "output.h"

typedef struct
{
  ImageOptions image;
  bool quiet, unsafe, break_children, ignore_unknown;
  const char *parent, *parent_format;
  GPtrArray *format_options;
} CreateArgs;

static const OptionDef options[] = {
  { 'f', "format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (CreateArgs, image.format),
    "Format of the new image; raw when not given" },
  { 'o', "options", "LIST", OPTION_LIST, OPTION_MAIN, offsetof (CreateArgs, format_options),
    "Options of the format, NAME=VALUE with commas between; -o help lists them; may be repeated" },
  { 'b', "backing", "PARENT", OPTION_STRING, OPTION_MAIN, offsetof (CreateArgs, parent),
    "Make a differencing image above PARENT, a path from the folder of FILE" },
  { 'F', "backing-format", "FMT", OPTION_FORMAT, OPTION_MAIN, offsetof (CreateArgs, parent_format),
    "Format of PARENT; probed by content when not given" },
  { 'u', "unsafe", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (CreateArgs, unsafe),
    "Do not open the parents of PARENT. PARENT itself must be there: the new image records its identity" },
  OPTIONS_CHILDREN (CreateArgs),
  OPTIONS_QUIET (CreateArgs),
  { 'U', "force-share", NULL, OPTION_FLAG, OPTION_IMAGE, OPTION_AT (CreateArgs, image, force_share),
    "Open PARENT although another process may be writing it" },
  OPTIONS_RAW_PARENT (CreateArgs, image),
  OPTIONS_PLACES (CreateArgs, image),
  OPTIONS_END,
};

static int
run (const Command *command, void *opaque, char **operands)
{
  const CreateArgs *args = opaque;
  const char *path = operands[0];
  g_auto (NewImage) new_image = {
    .format = args->image.format != NULL ? args->image.format : "raw",
    .parent = args->parent,
    .parent_format = args->parent_format,
    .bytes = -1,
    .parent_flags = (args->unsafe ? VHDKIT_OPEN_NO_PARENTS : 0u)
                    | (args->image.force_share ? VHDKIT_OPEN_FORCE_SHARE : 0u),
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
  if (path == NULL)
    {
      report (NULL, "create: expected %s", command->operands);
      return EXIT_FAILURE;
    }
  if (operands[1] != NULL && !parse_size (operands[1], &new_image.bytes))
    {
      report (path, "'%s' is not a size (digits, then k, M, G, T, P or E)", operands[1]);
      return EXIT_FAILURE;
    }
  if (new_image.bytes < 0 && new_image.parent == NULL)
    {
      report (path, "a new image needs a size, or a parent to take it from");
      return EXIT_FAILURE;
    }
  if (args->image.format == NULL)
    new_image_warn_of_name (path, "-f");
  if (!new_image_create (&new_image, path, &args->image))
    return EXIT_FAILURE;
  if (!args->quiet)
    new_image_print (&new_image, path, &args->image);
  return EXIT_SUCCESS;
}

const Command cmd_create = {
  .name = "create",
  .summary = "make a new image",
  .operands = "FILE [SIZE]",
  .description =
      "Makes an image of SIZE bytes that reads as zeros, or, with -b, one that reads as PARENT does. An "
      "existing FILE is overwritten unless another process uses it, or images in its directory have it as "
      "their parent. SIZE may be left out when there is a parent.",
  .options = options,
  .args_size = sizeof (CreateArgs),
  .min_operands = 0,
  .max_operands = 2,
  .run = run,
};
