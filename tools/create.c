/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making an image. */
#include "create.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "output.h"

/* Options of every format, for "-o help". */
static const VhdkitOptionInfo general_options[] = {
  { "size", NULL, "virtual size", "size" },
  { "backing_file", NULL, "the parent, as with -b", "string" },
  { "backing_fmt", NULL, "its format, as with -F", "string" },
};

void
new_image_clear (NewImage *image)
{
  g_clear_pointer (&image->options, g_ptr_array_unref);
  g_clear_pointer (&image->texts, g_ptr_array_unref);
}

/* The value of @option if it is called @name, or NULL. */
static const char *
option_value (const char *option, const char *name)
{
  size_t length = strlen (name);
  return strncmp (option, name, length) == 0 && option[length] == '=' ? option + length + 1 : NULL;
}

/* *@taken: @option was one of those that belong to no format. */
static bool
take_general_option (NewImage *image, const char *option, bool *taken)
{
  const char *value;
  *taken = true;
  if ((value = option_value (option, "size")) != NULL)
    {
      if (parse_size (value, &image->bytes))
        return true;
      report (NULL, "-o size: '%s' is not a size (digits, then k, M, G, T, P or E)", value);
      return false;
    }
  if ((value = option_value (option, "backing_file")) != NULL)
    {
      image->parent = value;
      return true;
    }
  if ((value = option_value (option, "backing_fmt")) != NULL)
    {
      const VhdkitFormatInfo *format = vhdkit_find_format (value);
      if (format == NULL)
        {
          report (NULL, "-o backing_fmt: unknown format '%s'", value);
          return false;
        }
      image->parent_format = format->name;
      return true;
    }
  *taken = false;
  return true;
}

bool
new_image_take_options (NewImage *image, GPtrArray *lists, bool *help)
{
  *help = false;
  image->texts = g_ptr_array_new_with_free_func (g_free);
  image->options = g_ptr_array_new ();
  for (guint i = 0; lists != NULL && i + 1 < lists->len; i++)
    split_format_options (g_ptr_array_index (lists, i), image->texts);
  for (guint i = 0; i < image->texts->len; i++)
    {
      char *option = g_ptr_array_index (image->texts, i);
      bool taken;
      if (strcmp (option, "help") == 0 || strcmp (option, "?") == 0)
        *help = true;
      if (!take_general_option (image, option, &taken))
        return false;
      if (!taken)
        g_ptr_array_add (image->options, option);
    }
  g_ptr_array_add (image->options, NULL);
  return true;
}

/* --- help ----------------------------------------------------------------------------------------------- */

static void
print_option (const VhdkitOptionInfo *option)
{
  g_autofree char *synopsis = g_strdup_printf ("  %s=<%s>", option->name, option->type);
  g_autofree char *help = option->default_value != NULL
                              ? g_strdup_printf ("%s (default: %s)", option->help, option->default_value)
                              : g_strdup (option->help);
  int column = printf ("%-24s - ", synopsis);
  print_wrapped (help, column, 27, 90);
}

void
new_image_print_options (const NewImage *image)
{
  const VhdkitFormatInfo *format = vhdkit_find_format (image->format);
  printf ("Supported %s options:\n", image->format);
  for (const VhdkitOptionInfo *option = format->create_options; option != NULL && option->name != NULL;
       option++)
    print_option (option);
  size_t general = format->can_have_parent ? G_N_ELEMENTS (general_options) : 1;
  for (size_t i = 0; i < general; i++)
    print_option (&general_options[i]);
}

/* --- making it ------------------------------------------------------------------------------------------ */

void
new_image_warn_of_name (const char *path, const char *option)
{
  const char *dot = strrchr (path, '.');
  if (dot == NULL || strchr (dot, '/') != NULL)
    return;
  g_autofree char *extension = g_ascii_strdown (dot + 1, -1);
  /* Checkpoints are called .avhd and .avhdx. */
  bool checkpoint = g_str_has_prefix (extension, "avhd");
  const VhdkitFormatInfo *format = vhdkit_find_format (checkpoint ? extension + 1 : extension);
  if (format != NULL && strcmp (format->name, "raw") != 0)
    report_warning ("%s: raw, though its name ends in %s; %s %s makes one", path, dot, option, format->name);
}

bool
new_image_create (const NewImage *image, const char *path, const ImageOptions *places)
{
  VhdkitCreateOptions create_options = {
    .struct_size = sizeof create_options,
    .format = image->format,
    .bytes = image->bytes,
    .format_options = (const char *const *)image->options->pdata,
    .parent = image->parent,
    .parent_format = image->parent_format,
    .parent_flags = image->parent_flags,
    .confine = places->confine,
    .drive_map = list_strings (places->drive_map),
    .incomplete = image->incomplete,
    .break_children = image->break_children,
    .ignore_unknown = image->ignore_unknown,
  };
  g_autoptr (GError) error = NULL;
  if (vhdkit_image_create (tool_context (), path, &create_options, &error))
    return true;
  report_error (path, error);
  return false;
}

/* The size an image turned out to have, or -1. */
static int64_t
look_up_size (const NewImage *image, const char *path, const ImageOptions *places)
{
  VhdkitOpenOptions open_options = {
    .struct_size = sizeof open_options,
    .flags = VHDKIT_OPEN_NO_PARENTS,
    .format = image->format,
    .confine = places->confine,
  };
  g_autoptr (ToolImage) made = vhdkit_image_open (tool_context (), path, &open_options, NULL);
  return made != NULL ? vhdkit_image_get_size (made) : -1;
}

void
new_image_print (const NewImage *image, const char *path, const ImageOptions *places)
{
  g_autofree char *shown = printable (path);
  int64_t size = look_up_size (image, path, places);
  printf ("Formatting '%s', fmt=%s", shown, image->format);
  if (size >= 0)
    printf (" size=%" PRId64, size);
  if (image->parent != NULL)
    {
      g_autofree char *parent = printable (image->parent);
      printf (" backing_file=%s", parent);
    }
  if (image->parent_format != NULL)
    printf (" backing_fmt=%s", image->parent_format);
  for (guint i = 0; i + 1 < image->options->len; i++)
    {
      g_autofree char *option = printable (g_ptr_array_index (image->options, i));
      printf (" %s", option);
    }
  putchar ('\n');
}
