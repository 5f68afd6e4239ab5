/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Other images above one that is about to be written to. */
#ifndef TOOLS_CHILDREN_H
#define TOOLS_CHILDREN_H

#include "tool.h"

/* Options of what writes to an image as a guest would. */
#define OPTIONS_WRITE_CHILDREN(type)                                                                         \
  { 0,                                                                                                       \
    "break-children",                                                                                        \
    NULL,                                                                                                    \
    OPTION_FLAG,                                                                                             \
    OPTION_MAIN,                                                                                             \
    offsetof (type, break_children),                                                                         \
    "Write although images in the same directory have this one as their parent: they are lost. Refused "     \
    "otherwise" },                                                                                           \
  {                                                                                                          \
    0, "ignore-unknown", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (type, ignore_unknown),                    \
        "Write although it is not known of all files there whether they are such images, as one that is "    \
        "damaged "                                                                                           \
        "or may not be read. Refused otherwise, unless the image is raw"                                     \
  }

/* Whether no other image is known to have @image (not the layers below it) as its parent, nor, unless @ignore_unknown,
 * may have it.  false after a message. */
bool children_check (VhdkitImage *image, const char *path, bool ignore_unknown);

#endif
