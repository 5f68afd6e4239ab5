/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands, messages and images, for all programs here. */
#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "output.h"
#include "progress.h"

/* The first that was reported and is no warning: why the command failed. */
static char *first_error;

/* --- messages ------------------------------------------------------------------------------------------- */

static void
print_message (const char *line)
{
  g_autofree char *shown = printable (line);
  fflush (stdout);
  fprintf (stderr, "%s: %s\n", program_name, shown);
}

void
report (const char *file, const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  g_autofree char *line = file != NULL ? g_strdup_printf ("%s: %s", file, text) : g_strdup (text);
  print_message (line);
  if (first_error == NULL)
    first_error = g_steal_pointer (&line);
}

void
report_error (const char *file, const GError *error)
{
  bool named = file == NULL || strstr (error->message, file) != NULL;
  report (named ? NULL : file, "%s", error->message);
}

void
report_warning (const char *format, ...)
{
  va_list args;
  va_start (args, format);
  g_autofree char *text = g_strdup_vprintf (format, args);
  va_end (args);
  g_autofree char *line = g_strdup_printf ("warning: %s", text);
  print_message (line);
}

int
finish_output (int status)
{
  if (fflush (stdout) == 0 && !ferror (stdout))
    return status;
  fprintf (stderr, "%s: standard output: %s\n", program_name, strerror (errno));
  return status != EXIT_SUCCESS ? status : EXIT_FAILURE;
}

/* --- commands ------------------------------------------------------------------------------------------- */

bool
command_has_name (const Command *command, const char *name)
{
  return strcmp (command->name, name) == 0
         || (command->aliases != NULL && g_strv_contains (command->aliases, name));
}

void
command_print_help (const Command *command, const char *prefix)
{
  prefix = prefix != NULL ? prefix : "";
  printf ("Usage: %s%s%s%s%s\n", prefix, command->name,
          command->options[0].kind != OPTION_END ? " [OPTION]..." : "",
          command->operands[0] != '\0' ? " " : "", command->operands);
  printf ("%c%s.\n", g_ascii_toupper (command->summary[0]), command->summary + 1);
  if (command->aliases != NULL)
    for (const char *const *alias = command->aliases; *alias != NULL; alias++)
      printf ("Also: %s%s\n", prefix, *alias);
  options_print (command->options, OPTION_MAIN, "Options");
  options_print (command->options, OPTION_IMAGE, "Opening images");
  if (command->print_more_help != NULL)
    command->print_more_help ();
}

/* @hint: the help would have told. */
static int
wrong_usage (const Command *command, const char *prefix, bool hint, const char *text)
{
  bool is_program = prefix != NULL && prefix[0] == '\0';
  report (is_program ? NULL : command->name, "%s", text);
  if (hint && prefix != NULL)
    fprintf (stderr, "Try '%s%s --help' for more information.\n", prefix, command->name);
  return command->usage_status != 0 ? command->usage_status : EXIT_FAILURE;
}

static int
run_parsed (const Command *command, const char *prefix, void *args, int argc, char **argv)
{
  g_autofree char **operands = NULL;
  g_autoptr (GError) error = NULL;
  bool help;
  if (!options_parse (command->options, args, argc, argv, &operands, &help, &error))
    {
      bool unknown = g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND);
      return wrong_usage (command, prefix, unknown, error->message);
    }
  if (help)
    {
      command_print_help (command, prefix);
      return EXIT_SUCCESS;
    }
  int n = (int)g_strv_length (operands);
  g_autofree char *text = NULL;
  if (n < command->min_operands)
    text = g_strdup_printf ("expected %s", command->operands);
  else if (n > command->max_operands)
    text = g_strdup_printf ("unexpected argument '%s'", operands[command->max_operands]);
  if (text != NULL)
    return wrong_usage (command, prefix, true, text);
  return command->run (command, args, operands);
}

int
command_execute (const Command *command, const char *prefix, int argc, char **argv)
{
  g_autofree void *args = g_malloc0 (MAX (command->args_size, 1));
  if (command->defaults != NULL)
    memcpy (args, command->defaults, command->args_size);
  int status = run_parsed (command, prefix, args, argc, argv);
  if (options_get_progress (command->options, args) == PROGRESS_JSON)
    progress_print_last_line (status != EXIT_SUCCESS, first_error);
  options_clear (command->options, args);
  return finish_output (status);
}

/* --- images --------------------------------------------------------------------------------------------- */

VhdkitContext *
tool_context (void)
{
  static VhdkitContext *context;
  if (context != NULL)
    return context;
  g_autoptr (GError) error = NULL;
  context = vhdkit_context_new (&error);
  if (context == NULL)
    {
      report_error (NULL, error);
      exit (EXIT_FAILURE);
    }
  return context;
}

const char *const *
list_strings (GPtrArray *list)
{
  return list != NULL ? (const char *const *)list->pdata : NULL;
}

static bool
is_direct (VhdkitCacheMode cache)
{
  return cache == VHDKIT_CACHE_NONE || cache == VHDKIT_CACHE_DIRECTSYNC;
}

/* "C:=/mnt/c"; the left side may be any beginning of a Windows path. */
static bool
is_drive_mapping (const char *text)
{
  const char *equals = strchr (text, '=');
  return equals != NULL && equals != text && equals[1] != '\0';
}

VhdkitImage *
tool_open_quiet (const char *path, const ImageOptions *options, unsigned flags, VhdkitCacheMode cache,
                 GError **error)
{
  const char *refusal = NULL;
  if (options->force_share && (flags & VHDKIT_OPEN_RDWR) != 0)
    refusal = "-U is for images that are only read";
  else if (g_strcmp0 (options->aio, "native") == 0 && !is_direct (cache))
    refusal = "native I/O needs cache mode none or directsync";
  for (const char *const *map = list_strings (options->drive_map); map != NULL && *map != NULL; map++)
    if (!is_drive_mapping (*map))
      refusal = "--map-drive needs a drive and a folder, as in C:=/mnt/c";
  if (refusal != NULL)
    {
      g_set_error_literal (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, refusal);
      return NULL;
    }
  flags |= options->force_share ? VHDKIT_OPEN_FORCE_SHARE : 0;
  flags |= options->raw_parent ? VHDKIT_OPEN_RAW_PARENT : 0;
  VhdkitOpenOptions open_options = {
    .struct_size = sizeof open_options,
    .flags = flags,
    .cache = cache,
    .aio = options->aio,
    .format = options->format,
    .format_options = options->format_options,
    .parent = options->parent,
    .parent_format = options->parent_format,
    .confine = options->confine,
    .drive_map = list_strings (options->drive_map),
    .filters = list_strings (options->filters),
  };
  return vhdkit_image_open (tool_context (), path, &open_options, error);
}

VhdkitImage *
tool_open (const char *path, const ImageOptions *options, unsigned flags, VhdkitCacheMode cache)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = tool_open_quiet (path, options, flags, cache, &error);
  if (image == NULL)
    report_error (path, error);
  return image;
}

/* Each is told once, however often it is looked for what is new. */
void
tool_print_layer_warnings (VhdkitImage *image, int layer)
{
  static GHashTable *told;
  g_auto (GStrv) lines = vhdkit_image_get_warnings (image, layer);
  if (told == NULL)
    told = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  for (char **line = lines; *line != NULL; line++)
    if (g_hash_table_add (told, g_strdup (*line)))
      report_warning ("%s", *line);
}

void
tool_print_warnings (VhdkitImage *image)
{
  int depth = vhdkit_image_get_depth (image);
  for (int layer = 0; layer < depth; layer++)
    tool_print_layer_warnings (image, layer);
}

bool
tool_close (VhdkitImage *image, const char *path)
{
  g_autoptr (GError) error = NULL;
  if (image == NULL || vhdkit_image_close (image, &error))
    return true;
  report_error (path, error);
  return false;
}

int
tool_close_with (int status, VhdkitImage *image, const char *path)
{
  if (status == EXIT_FAILURE)
    {
      vhdkit_image_close (image, NULL);
      return status;
    }
  return tool_close (image, path) || status != EXIT_SUCCESS ? status : EXIT_FAILURE;
}

void
tool_image_cleanup (VhdkitImage *image)
{
  vhdkit_image_close (image, NULL);
}

void *
tool_buffer_new (size_t bytes)
{
  void *buffer = mmap (NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return buffer != MAP_FAILED ? buffer : NULL;
}

void
tool_buffer_free (void *buffer, size_t bytes)
{
  if (buffer != NULL)
    munmap (buffer, bytes);
}

bool
same_file (const char *a, const char *b)
{
  struct stat sa, sb;
  return stat (a, &sa) == 0 && stat (b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}
