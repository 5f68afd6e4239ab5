/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs share: commands, messages, opening images, exit statuses. */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

#include "options.h"

typedef struct Command Command;

/* A subcommand of vhd-img, a command of vhd-io, or vhd-io itself. */
struct Command
{
  const char *name;
  const char *const *aliases; /* NULL-terminated, or NULL */
  const char *summary;        /* one line: "show what an image file is" */
  const char *operands;       /* "FILE [SIZE]" */
  const char *description;    /* for the manual page: paragraphs with an empty line between them */
  const OptionDef *options;
  size_t args_size;     /* of the struct the options are stored in */
  const void *defaults; /* such a struct, or NULL: zeros */
  int min_operands, max_operands;
  int usage_status;               /* exit status for wrong usage, 0: EXIT_FAILURE */
  void (*print_more_help) (void); /* what --help has below the options, or NULL */
  /* @args as parsed; @operands NULL-terminated, both until it returns.  Returns the exit status. */
  int (*run) (const Command *command, void *args, char **operands);
};

/* Parses argv[1] … and runs the command, or prints its help.  @prefix: what stands before the command's name
 * on a command line ("vhd-img "), for hints; NULL: no hints, it is not typed into a shell. */
int command_execute (const Command *command, const char *prefix, int argc, char **argv);
bool command_has_name (const Command *command, const char *name);
/* "vhd-img info [OPTION]... FILE" and the options. */
void command_print_help (const Command *command, const char *prefix);

typedef struct
{
  const char *title,
      *text; /* text as in Command.description; lines that start with a blank stay as they are */
} ManSection;

/* A program, for its manual page. */
typedef struct
{
  const char *name, *summary, *synopsis, *description;
  const Command *self;            /* a program that has options of its own, or NULL */
  const Command *const *commands; /* NULL-terminated */
  const ManSection *sections;     /* ends with a NULL title */
} Program;

/* Prints the manual page as roff. */
void man_print (const Program *program);
/* For tests: a line "COMMAND<tab>LETTER<tab>NAME<tab>VALUE<tab>SECTION" for every option. */
void man_print_options (const Program *program);

/* --- messages ------------------------------------------------------------------------------------------- */

extern const char *program_name;

/* One line to standard error, "PROGRAM: FILE: TEXT"; @file may be NULL. */
void report (const char *file, const char *format, ...) G_GNUC_PRINTF (2, 3);
/* The same from an error, without saying the file's name twice. */
void report_error (const char *file, const GError *error);
/* "PROGRAM: warning: TEXT". */
void report_warning (const char *format, ...) G_GNUC_PRINTF (1, 2);

/* Flushes standard output; a failure becomes a message and EXIT_FAILURE. */
int finish_output (int status);

/* --- images --------------------------------------------------------------------------------------------- */

/* The program's event loop, made when first asked for. */
VhdkitContext *tool_context (void);

/* Opens @path as @options say, plus @flags (VhdkitOpenFlags).  NULL after a message. */
VhdkitImage *tool_open (const char *path, const ImageOptions *options, unsigned flags, VhdkitCacheMode cache);
/* The same, with the message left to the caller. */
VhdkitImage *tool_open_quiet (const char *path, const ImageOptions *options, unsigned flags,
                              VhdkitCacheMode cache, GError **error);
/* The strings of an OPTION_LIST as the library takes them. */
const char *const *list_strings (GPtrArray *list);
/* Prints what the layers of an image want to be known and was not printed before: after opening, and after work that
 * may have found more. */
void tool_print_warnings (VhdkitImage *image);
void tool_print_layer_warnings (VhdkitImage *image, int layer);
/* false after a message.  NULL is fine. */
bool tool_close (VhdkitImage *image, const char *path);
/* The same after work that ended with @status; the status for both.  What failed (EXIT_FAILURE) has been told, and
 * closing fails for the same reason: no second message. */
int tool_close_with (int status, VhdkitImage *image, const char *path);

/* An image that is closed, without a message, when its scope ends. */
typedef VhdkitImage ToolImage;
void tool_image_cleanup (VhdkitImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (ToolImage, tool_image_cleanup)

/* Memory for requests, page-aligned; NULL: too much. */
void *tool_buffer_new (size_t bytes);
void tool_buffer_free (void *buffer, size_t bytes);

/* Both paths name one file. */
bool same_file (const char *a, const char *b);

#endif
