/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Option tables.  A command describes its options once, as rows of OptionDef; the parser, --help and the
 * manual pages read the same rows, so they cannot disagree.
 *
 * A row stores into a member of the command's own struct, found by its offset.  Strings stay borrowed from
 * argv.  A table ends with OPTIONS_END; rows that several commands share come as macros that take the struct
 * and the member the group lives in.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include <vhdkit/vhdkit.h>

typedef enum
{
  OPTION_END,
  OPTION_FLAG,     /* bool */
  OPTION_STRING,   /* const char * */
  OPTION_FORMAT,   /* const char *, the name or alias of a known format */
  OPTION_LIST,     /* GPtrArray * of const char *, with a NULL behind the last; NULL: never given */
  OPTION_NUMBER,   /* int64_t, decimal or 0x…, within [min, max] */
  OPTION_SIZE,     /* int64_t, bytes with an optional suffix, within [min, max] */
  OPTION_CACHE,    /* VhdkitCacheMode */
  OPTION_OUTPUT,   /* OutputFormat */
  OPTION_PROGRESS, /* ProgressStyle; the long name may have a value */
  OPTION_REFUSED,  /* known elsewhere, not here; help says why.  In no help text. */
} OptionKind;

/* Where a row is documented. */
typedef enum
{
  OPTION_MAIN,    /* what the command is about */
  OPTION_IMAGE,   /* how image files are opened; the same for all commands */
  OPTION_TESTING, /* for test suites: in the manual page only */
} OptionSection;

typedef enum
{
  OUTPUT_HUMAN,
  OUTPUT_JSON,
} OutputFormat;

typedef enum
{
  PROGRESS_NONE,
  PROGRESS_HUMAN,
  PROGRESS_JSON, /* instead of all other output */
} ProgressStyle;

typedef struct
{
  char letter;       /* 0: none */
  const char *name;  /* long name, or NULL */
  const char *value; /* what the value is called, or NULL for flags */
  OptionKind kind;
  OptionSection section;
  size_t offset;
  const char *help; /* sentences without a final full stop */
  int64_t min, max; /* NUMBER and SIZE; both 0: 0 … INT64_MAX */
} OptionDef;

/* How the files of an image are opened. */
typedef struct
{
  const char *format;
  bool force_share;
  const char *aio;
  const char *confine;
  GPtrArray *drive_map;
  bool raw_parent;
  const char *parent, *parent_format;
  GPtrArray *filters;
  const char *const
      *format_options; /* not of the command line: what a subcommand asks of the format; static */
} ImageOptions;

/* clang-format off */
#define OPTION_AT(type, member, field) (offsetof (type, member) + offsetof (ImageOptions, field))

#define OPTIONS_FORMAT(type, member)                                                                           \
  { 'f', "format", "FMT", OPTION_FORMAT, OPTION_MAIN, OPTION_AT (type, member, format),                        \
    "Format of the image; probed by content when not given" }
#define OPTIONS_QUIET(type)                                                                                    \
  { 'q', "quiet", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (type, quiet), "Print errors only" }
#define OPTIONS_PROGRESS(type)                                                                                 \
  { 'p', "progress", NULL, OPTION_PROGRESS, OPTION_MAIN,                                                       \
    offsetof (type, progress) + 0 * sizeof (char[sizeof ((type *)0)->progress == sizeof (ProgressStyle) ? 1 : -1]), \
    "Show progress; with =json for programs: an object a line with state, done and total bytes, rate in "      \
    "bytes a second and seconds-left, at most ten a second, the last with the status (ok, cancelled or "       \
    "failed), unless ok with error and, once the work began, source and target, of a commit with what was "     \
    "removed, and no other output" }
#define OPTIONS_OUTPUT(type)                                                                                   \
  { 0, "output", "FORMAT", OPTION_OUTPUT, OPTION_MAIN, offsetof (type, output),                                \
    "Print for people (human, the default) or for programs (json)" }
#define OPTIONS_CACHE(type)                                                                                    \
  { 't', "cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (type, cache),                                   \
    "Host cache mode for files that are written: writeback (default), none, writethrough, directsync, unsafe" }
#define OPTIONS_SOURCE_CACHE(type)                                                                             \
  { 'T', "source-cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (type, source_cache),                     \
    "Host cache mode for files that are read: writeback (default) or none" }
#define OPTIONS_PARALLEL(type)                                                                                 \
  { 'm', "parallel", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (type, parallel),                               \
    "Pieces of work in flight, 1 to 16", 1, 16 }

/* Of what writes over an image. */
#define OPTIONS_CHILDREN(type)                                                                                 \
  { 0, "break-children", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (type, break_children),                      \
    "Write over an existing file although images in its directory have it as their parent: they are lost. "    \
    "Refused otherwise" },                                                                                     \
  { 0, "ignore-unknown", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (type, ignore_unknown),                      \
    "Write over an existing image although it is not known of all files there whether they are such images, "  \
    "as one that is damaged or may not be read. Refused otherwise" }

/* Where the files of a chain may lie. */
#define OPTIONS_PLACES(type, member)                                                                           \
  { 0, "confine", "DIR", OPTION_STRING, OPTION_IMAGE, OPTION_AT (type, member, confine),                       \
    "Open no file of a chain outside DIR, symbolic links resolved" },                                          \
  { 0, "map-drive", "C:=DIR", OPTION_LIST, OPTION_IMAGE, OPTION_AT (type, member, drive_map),                  \
    "Look for Windows paths of that drive below DIR; may be repeated" }
#define OPTIONS_SHARE(type, member)                                                                            \
  { 'U', "force-share", NULL, OPTION_FLAG, OPTION_IMAGE, OPTION_AT (type, member, force_share),                \
    "Read the image although another process may be writing it; what is seen may be inconsistent" }
#define OPTIONS_RAW_PARENT(type, member)                                                                       \
  { 0, "raw-parent", NULL, OPTION_FLAG, OPTION_IMAGE, OPTION_AT (type, member, raw_parent),                    \
    "Open a parent that cannot be told from any other file (raw), as the image names it" }
#define OPTIONS_TESTING(type, member)                                                                          \
  { 0, "filter", "SPEC", OPTION_LIST, OPTION_TESTING, OPTION_AT (type, member, filters),                       \
    "Put a test driver on top of every container file, for instance blkdebug,op=write,n=3,errno=5 ; "          \
    "may be repeated" }
#define OPTIONS_PARENT(type, member)                                                                           \
  OPTIONS_RAW_PARENT (type, member),                                                                           \
  { 0, "parent", "FILE", OPTION_STRING, OPTION_IMAGE, OPTION_AT (type, member, parent),                        \
    "Use FILE as the parent, whatever the image names" },                                                      \
  { 0, "parent-format", "FMT", OPTION_FORMAT, OPTION_IMAGE, OPTION_AT (type, member, parent_format),           \
    "Format of that file; probed when not given" },                                                            \
  OPTIONS_PLACES (type, member)
#define OPTIONS_CHAIN(type, member)                                                                            \
  OPTIONS_PARENT (type, member),                                                                               \
  { 0, "aio", "ENGINE", OPTION_STRING, OPTION_IMAGE, OPTION_AT (type, member, aio),                            \
    "I/O engine: threads, native or io_uring" },                                                               \
  OPTIONS_TESTING (type, member)

#define OPTIONS_END { 0, NULL, NULL, OPTION_END, OPTION_MAIN, 0, NULL }
/* clang-format on */

/* Parses argv[1] … into @target; operands end up in *@operands (borrowed, NULL-terminated, free the array).
 * *@help: --help was given, nothing else matters.  @error: one phrase; NOT_FOUND for an option that there is
 * not, INVALID_ARGUMENT for a value. */
bool options_parse (const OptionDef *table, void *target, int argc, char **argv, char ***operands, bool *help,
                    GError **error);

/* How progress is to be shown, as the options in @target say; PROGRESS_NONE: there is no such option. */
ProgressStyle options_get_progress (const OptionDef *table, const void *target);
/* Frees what parsing allocated in @target. */
void options_clear (const OptionDef *table, void *target);

/* Prints the rows of @section, if any, under @title. */
void options_print (const OptionDef *table, OptionSection section, const char *title);
/* "-f, --format FMT", for rows and lists; free it. */
char *option_synopsis (const OptionDef *option);
/* Prints @text in lines of at most @width columns, each after @indent blanks but the first, which starts at
 * column @column. */
void print_wrapped (const char *text, int column, int indent, int width);

/* "1.5G", "0x200", "4k": bytes.  Fractions need a suffix and are rounded down.  false: not a size. */
bool parse_size (const char *text, int64_t *bytes);

/* Splits "a=1,b=x,,y" at commas; two of them stand for one inside a value.  Adds to @list. */
void split_format_options (const char *text, GPtrArray *list);

#endif
