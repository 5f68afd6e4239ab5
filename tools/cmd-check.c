/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd-img check */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "progress.h"

enum
{
  STATUS_SOUND = 0,
  STATUS_NOT_CHECKED = 1,
  STATUS_CORRUPT = 2,
  STATUS_LEAKS = 3,
  STATUS_UNSUPPORTED = 63,
};

typedef struct
{
  ImageOptions image;
  OutputFormat output;
  bool quiet;
  const char *repair;
  VhdkitCacheMode cache, source_cache;
} CheckArgs;

static const OptionDef options[] = {
  OPTIONS_FORMAT (CheckArgs, image),
  OPTIONS_OUTPUT (CheckArgs),
  { 'r', "repair", "WHAT", OPTION_STRING, OPTION_MAIN, offsetof (CheckArgs, repair),
    "Repair: leaks (give lost space back; refuses an image that is corrupt), all, or log (as all, and a VHDX "
    "log that "
    "the header names and that has no entry is taken for empty)" },
  OPTIONS_QUIET (CheckArgs),
  OPTIONS_CACHE (CheckArgs),
  OPTIONS_SOURCE_CACHE (CheckArgs),
  OPTIONS_SHARE (CheckArgs, image),
  OPTIONS_CHAIN (CheckArgs, image),
  OPTIONS_END,
};

typedef struct
{
  VhdkitCheckSeverity severity;
  char *text;
  bool repaired;
} Finding;

static void
finding_clear (gpointer finding)
{
  g_free (((Finding *)finding)->text);
}

static GArray *
findings_new (void)
{
  GArray *findings = g_array_new (FALSE, FALSE, sizeof (Finding));
  g_array_set_clear_func (findings, finding_clear);
  return findings;
}

static void
add_finding (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  Finding finding = { .severity = severity, .text = g_strdup (text) };
  g_array_append_val ((GArray *)opaque, finding);
}

static const char *
severity_name (VhdkitCheckSeverity severity)
{
  static const char *const names[] = {
    [VHDKIT_CHECK_INFO] = "note",
    [VHDKIT_CHECK_WARNING] = "warning",
    [VHDKIT_CHECK_LEAK] = "leak",
    [VHDKIT_CHECK_ERROR] = "error",
  };
  return names[severity];
}

static void
print_percentages (const VhdkitCheckResult *result)
{
  if (result->total_blocks <= 0)
    return;
  double allocated = 100.0 * (double)result->allocated_blocks / (double)result->total_blocks;
  double fragmented = result->allocated_blocks > 0
                          ? 100.0 * (double)result->fragmented_blocks / (double)result->allocated_blocks
                          : 0;
  printf ("%" PRId64 "/%" PRId64 " = %.2f%% allocated, %.2f%% fragmented\n", result->allocated_blocks,
          result->total_blocks, allocated, fragmented);
}

static void
print_human (const VhdkitCheckResult *result, const GArray *findings)
{
  for (guint i = 0; i < findings->len; i++)
    {
      const Finding *finding = &g_array_index (findings, Finding, i);
      g_autofree char *text = printable (finding->text);
      printf ("%s%s: %s\n", severity_name (finding->severity), finding->repaired ? " (repaired)" : "", text);
    }
  if (result->corruptions_fixed > 0 || result->leaks_fixed > 0)
    printf ("Repaired: %" PRId64 " errors, %" PRId64 " leaks.\n", result->corruptions_fixed,
            result->leaks_fixed);
  if (result->corruptions == 0 && result->leaks == 0 && result->check_errors == 0)
    printf ("No errors were found on the image.\n");
  if (result->corruptions > 0)
    printf ("%" PRId64 " errors were found on the image: do not write to it.\n", result->corruptions);
  if (result->leaks > 0)
    printf ("%" PRId64 " leak%s found on the image: space that nothing uses.\n", result->leaks,
            result->leaks == 1 ? " was" : "s were");
  if (result->check_errors > 0)
    printf ("%" PRId64 " parts of the image could not be checked.\n", result->check_errors);
  print_percentages (result);
  if (result->image_end_offset > 0)
    printf ("Image end offset: %" PRId64 "\n", result->image_end_offset);
}

static void
print_json (const VhdkitCheckResult *result, const GArray *findings, const char *path, const char *format)
{
  const struct
  {
    const char *key;
    int64_t value;
  } counts[] = {
    { "total-clusters", result->total_blocks },
    { "allocated-clusters", result->allocated_blocks },
    { "fragmented-clusters", result->fragmented_blocks },
    { "corruptions", result->corruptions },
    { "leaks", result->leaks },
    { "corruptions-fixed", result->corruptions_fixed },
    { "leaks-fixed", result->leaks_fixed },
  };
  JsonWriter json = { 0 };
  json_begin (&json, NULL, '{');
  json_int (&json, "image-end-offset", result->image_end_offset);
  json_int (&json, "check-errors", result->check_errors);
  for (size_t i = 0; i < G_N_ELEMENTS (counts); i++)
    if (counts[i].value != 0)
      json_int (&json, counts[i].key, counts[i].value);
  json_string (&json, "filename", path);
  json_string (&json, "format", format);
  json_begin (&json, "findings", '[');
  for (guint i = 0; i < findings->len; i++)
    {
      const Finding *finding = &g_array_index (findings, Finding, i);
      json_begin (&json, NULL, '{');
      json_string (&json, "severity", severity_name (finding->severity));
      json_string (&json, "text", finding->text);
      if (finding->repaired)
        json_bool (&json, "repaired", true);
      json_end (&json, '}');
    }
  json_end (&json, ']');
  json_end (&json, '}');
  json_finish (&json);
}

/* The image with its chain if that can be had, else alone: what is wrong with a parent must not keep a file
 * from being checked. */
static VhdkitImage *
open_with_or_without_parent (const char *path, const CheckArgs *args, unsigned flags, GError **error)
{
  VhdkitCacheMode cache = flags & VHDKIT_OPEN_RDWR ? args->cache : args->source_cache;
  g_autoptr (GError) chain_error = NULL;
  VhdkitImage *image = tool_open_quiet (path, &args->image, flags, cache, &chain_error);
  if (image != NULL)
    return image;
  image = tool_open_quiet (path, &args->image, flags | VHDKIT_OPEN_NO_PARENTS, cache, error);
  if (image != NULL)
    report_warning ("checked without its parent: %s", chain_error->message);
  return image;
}

/* What cannot be opened for a repair is looked at all the same; *repair tells.  NULL after a message. */
static VhdkitImage *
open_image (const char *path, const CheckArgs *args, bool *repair)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = NULL;
  *repair = args->repair != NULL;
  if (*repair)
    image = open_with_or_without_parent (path, args, VHDKIT_OPEN_CHECK | VHDKIT_OPEN_RDWR, &error);
  if (image != NULL)
    return image;

  g_autoptr (GError) read_error = NULL;
  *repair = false;
  image = open_with_or_without_parent (path, args, VHDKIT_OPEN_CHECK, &read_error);
  if (image == NULL)
    report_error (path, read_error);
  else if (error != NULL)
    report_warning ("cannot be repaired: %s", error->message);
  return image;
}

/* What there is to repair, as far as that can be said. */
static void
look_before_repair (const char *path, const CheckArgs *args, VhdkitCheckResult *result, GArray *findings)
{
  static const unsigned flags[] = { VHDKIT_OPEN_CHECK, VHDKIT_OPEN_CHECK | VHDKIT_OPEN_NO_PARENTS };
  ImageOptions image_options = args->image;
  VhdkitImage *image = NULL;
  image_options.format_options = NULL;
  for (size_t i = 0; image == NULL && i < G_N_ELEMENTS (flags); i++)
    image = tool_open_quiet (path, &image_options, flags[i], args->source_cache, NULL);
  if (image != NULL)
    vhdkit_image_check (image, false, result, add_finding, findings, NULL);
  tool_close (image, path);
}

static int
check_once (VhdkitImage *image, bool fix, VhdkitCheckResult *result, GArray *findings, const char *path)
{
  g_autoptr (GError) error = NULL;
  if (vhdkit_image_check (image, fix, result, findings != NULL ? add_finding : NULL, findings, &error))
    return EXIT_SUCCESS;
  report_error (path, error);
  return g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED) ? STATUS_UNSUPPORTED
                                                                         : STATUS_NOT_CHECKED;
}

static bool
is_found_in (const GArray *findings, const char *text)
{
  for (guint i = 0; i < findings->len; i++)
    if (strcmp (g_array_index (findings, Finding, i).text, text) == 0)
      return true;
  return false;
}

/* Marks what was found @before and is not there any more, and adds what was not found before.  The errors and leaks
 * among them are counted by @result already; a warning stands for a structure whose second copy was good. */
static void
mark_repaired (GArray *before, const GArray *after, VhdkitCheckResult *result)
{
  for (guint i = 0; i < after->len; i++)
    {
      const Finding *finding = &g_array_index (after, Finding, i);
      if (!is_found_in (before, finding->text))
        add_finding (before, finding->severity, finding->text);
    }
  for (guint i = 0; i < before->len; i++)
    {
      Finding *finding = &g_array_index (before, Finding, i);
      finding->repaired = !is_found_in (after, finding->text);
      if (finding->repaired && finding->severity == VHDKIT_CHECK_WARNING)
        result->corruptions_fixed++;
    }
}

/* Checks, repairs if asked to, and checks again after a repair, so that the verdict is on what is there now.
 * @findings and @before are what was found before the image was opened for the repair, which may have put things right
 * by itself. */
static int
check_and_repair (VhdkitImage *image, const char *repair, const VhdkitCheckResult *before,
                  VhdkitCheckResult *result, GArray *findings, const char *path)
{
  if (repair == NULL)
    return check_once (image, false, result, findings, path);
  g_autoptr (GArray) after = findings_new ();
  if (strcmp (repair, "leaks") == 0)
    {
      int status = check_once (image, false, result, after, path);
      if (status != EXIT_SUCCESS)
        return status;
      if (result->corruptions > 0)
        {
          mark_repaired (findings, after, result);
          return status;
        }
      g_array_set_size (after, 0);
    }
  VhdkitCheckResult repaired;
  int status = check_once (image, true, &repaired, NULL, path);
  if (status == EXIT_SUCCESS)
    status = check_once (image, false, result, after, path);
  if (status != EXIT_SUCCESS)
    return status;
  result->corruptions_fixed = MAX (repaired.corruptions_fixed, before->corruptions - result->corruptions);
  result->leaks_fixed = MAX (repaired.leaks_fixed, before->leaks - result->leaks);
  mark_repaired (findings, after, result);
  return status;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  static const char *const clear_log[] = { "clear_log=on", NULL };
  static const char *const repairs[] = { "leaks", "all", "log", NULL };
  CheckArgs *args = opaque;
  const char *path = operands[0];
  if (args->repair != NULL && !g_strv_contains (repairs, args->repair))
    {
      report (NULL, "-r: '%s' is none of leaks, all, log", args->repair);
      return STATUS_NOT_CHECKED;
    }
  if (g_strcmp0 (args->repair, "log") == 0)
    args->image.format_options = clear_log;
  if (args->repair != NULL)
    signals_defer ();
  g_autoptr (GArray) findings = findings_new ();
  VhdkitCheckResult before = { 0 };
  if (args->repair != NULL)
    look_before_repair (path, args, &before, findings);
  bool repair;
  g_autoptr (ToolImage) image = open_image (path, args, &repair);
  if (image == NULL)
    return STATUS_NOT_CHECKED;

  if (repair)
    tool_print_warnings (image);
  else
    g_array_set_size (findings, 0);

  VhdkitCheckResult result;
  int status = check_and_repair (image, repair ? args->repair : NULL, &before, &result, findings, path);
  VhdkitLayerInfo info = { 0 };
  if (status == EXIT_SUCCESS && args->output == OUTPUT_JSON)
    {
      bool known = vhdkit_image_get_layer_info (image, 0, &info, NULL);
      print_json (&result, findings, path, known ? info.format : "");
    }
  else if (status == EXIT_SUCCESS && !args->quiet)
    print_human (&result, findings);
  vhdkit_layer_info_clear (&info);
  if (!tool_close (g_steal_pointer (&image), path) && status == EXIT_SUCCESS)
    status = STATUS_NOT_CHECKED;
  if (status != EXIT_SUCCESS)
    return status;
  if (result.corruptions > 0)
    return STATUS_CORRUPT;
  /* Sound, perhaps; but not what was asked for. */
  if (result.check_errors > 0 || (args->repair != NULL && !repair))
    return STATUS_NOT_CHECKED;
  return result.leaks > 0 ? STATUS_LEAKS : STATUS_SOUND;
}

const Command cmd_check = {
  .name = "check",
  .summary = "look for errors in the structures of an image",
  .operands = "FILE",
  .description = "Checks the file of an image and prints one line for each finding. Nothing is changed "
                 "unless -r is given. "
                 "Exit status: 0 the image is sound (after a repair, if one was asked for), 1 the check "
                 "could not be done, "
                 "2 the image is corrupt, 3 it has leaks and is sound otherwise, 63 the format has no check.",
  .options = options,
  .args_size = sizeof (CheckArgs),
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
