/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making an image, for create and convert: the -o list, its help, and the call. */
#ifndef TOOLS_CREATE_H
#define TOOLS_CREATE_H

#include "tool.h"

typedef struct
{
  const char *format; /* canonical name */
  const char *parent, *parent_format;
  unsigned parent_flags;               /* VhdkitOpenFlags */
  int64_t bytes;                       /* -1: the parent's */
  bool incomplete;                     /* to be filled: VhdkitCreateOptions.incomplete */
  bool break_children, ignore_unknown; /* as there */
  GPtrArray *options;                  /* of const char *, NAME=VALUE, with a NULL behind the last */
  GPtrArray *texts;                    /* of char *: what options, and parent if -o named it, point to */
} NewImage;

void new_image_clear (NewImage *image);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NewImage, new_image_clear)

/* Takes the values of all -o options (@lists may be NULL).  size, backing_file and backing_fmt, which belong
 * to no format, go to their members.  *@help: the list of options was asked for.  false after a message. */
bool new_image_take_options (NewImage *image, GPtrArray *lists, bool *help);
/* The options that the format has. */
void new_image_print_options (const NewImage *image);
/* For a raw image because no format was asked for: tells when the name of the file promises another, which @option asks
 * for. */
void new_image_warn_of_name (const char *path, const char *option);
/* false after a message. */
bool new_image_create (const NewImage *image, const char *path, const ImageOptions *places);
/* One line on what was made. */
void new_image_print (const NewImage *image, const char *path, const ImageOptions *places);

#endif
