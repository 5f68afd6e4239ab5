/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fs-free [-f FORMAT] [-s SECTOR_SIZE] [-g GRANULARITY] [-c READS] [-z COPY] [-F FILTER] IMAGE: what block/fs/ finds in an
 * image, as JSON.
 *
 *   -c  cancel at that many pause points
 *   -z  a raw file to be filled with 0xa5 wherever the report says free: the disk as a guest may find it later
 *   -F  a filter driver with its options between the image and its file
 */
#include "block.h"
#include "free-space.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILL      0xa5
#define FILL_SIZE (1 << 20)

typedef struct
{
  const char *path, *format, *copy;
  const char *filters[2];
  FsFreeParams params;
  int64_t pauses_left;
  bool done, ok;
} Run;

static int coroutine_fn
co_pause_point (void *opaque)
{
  Run *run = opaque;

  return run->pauses_left-- == 0 ? -ECANCELED : 0;
}

static void
print_text (const char *name, const char *text)
{
  GString *json = g_string_new (NULL);

  if (text == NULL)
    {
      g_print ("\"%s\": null", name);
      g_string_free (json, TRUE);
      return;
    }
  g_assert_true (g_utf8_validate (text, -1, NULL));
  for (const char *p = text; *p != '\0'; p++)
    if (*p == '"' || *p == '\\')
      g_string_append_printf (json, "\\%c", *p);
    else
      g_string_append_c (json, *p);
  g_print ("\"%s\": \"%s\"", name, json->str);
  g_string_free (json, TRUE);
}

static void
print_report (const FsFreeReport *report)
{
  g_print ("{\"table\": \"%s\", \"sector-size\": %u, \"incomplete\": %s, \"notes\": [", report->table,
           report->sector_size, report->free_incomplete ? "true" : "false");
  for (guint i = 0; i < report->notes->len; i++)
    {
      g_print ("%s{", i > 0 ? ", " : "");
      print_text ("note", report->notes->pdata[i]);
      g_print ("}");
    }
  g_print ("],\n \"volumes\": [");
  for (guint i = 0; i < report->volumes->len; i++)
    {
      const FsVolumeInfo *info = report->volumes->pdata[i];

      g_print ("%s\n  {\"partition\": %d, \"offset\": %" G_GINT64_FORMAT ", \"bytes\": %" G_GINT64_FORMAT
               ", \"free-bytes\": %" G_GINT64_FORMAT ", ",
               i > 0 ? "," : "", info->partition, info->offset, info->bytes, info->free_bytes);
      print_text ("type", info->type);
      g_print (", ");
      print_text ("inside", info->inside);
      g_print (", ");
      print_text ("label", info->label);
      g_print (", ");
      print_text ("uuid", info->uuid);
      g_print (", ");
      print_text ("in-use", info->in_use != NULL ? info->in_use->message : NULL);
      g_print ("}");
    }
  g_print ("],\n \"free\": [");
  for (guint i = 0; i < report->free->len; i++)
    {
      const FsExtent *extent = &g_array_index (report->free, FsExtent, i);

      g_print ("%s[%" G_GINT64_FORMAT ", %" G_GINT64_FORMAT "]", i > 0 ? ", " : "", extent->offset,
               extent->bytes);
    }
  g_print ("]}\n");
}

static bool
fill (const char *path, const FsFreeReport *report)
{
  g_autofree char *pattern = g_malloc (FILL_SIZE);
  int fd = open (path, O_WRONLY | O_CLOEXEC);
  FsExtent extent;
  bool ok = fd >= 0;

  memset (pattern, FILL, FILL_SIZE);
  for (int64_t at = 0; ok && fs_free_report_next (report, at, &extent); at = extent.offset + extent.bytes)
    for (int64_t done = 0; ok && done < extent.bytes; done += FILL_SIZE)
      {
        int64_t n = MIN (extent.bytes - done, FILL_SIZE);
        ok = pwrite (fd, pattern, (size_t)n, extent.offset + done) == n;
      }
  if (fd >= 0)
    close (fd);
  return ok;
}

static void coroutine_fn
run_entry (void *opaque)
{
  Run *run = opaque;
  BdrvOpenParams open_params = { .format = run->format, .filters = run->filters };
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = bdrv_co_open (run->path, &open_params, &error);

  if (bs != NULL)
    {
      g_auto (FsFreeReport) report = { 0 };

      run->params.bs = bs;
      run->ok = fs_co_find_free (&run->params, &report, &error);
      if (run->ok)
        print_report (&report);
      if (run->ok && run->copy != NULL)
        run->ok = fill (run->copy, &report);
      bdrv_co_unref (bs);
    }
  if (error != NULL)
    g_printerr ("fs-free: %s\n", error->message);
  run->done = true;
}

int
main (int argc, char **argv)
{
  Run run = { .params = { .granularity = 4096, .co_pause_point = co_pause_point }, .pauses_left = -1 };
  int option;

  run.params.opaque = &run;
  while ((option = getopt (argc, argv, "f:s:g:c:z:F:")) != -1)
    switch (option)
      {
      case 'f':
        run.format = optarg;
        break;
      case 's':
        run.params.sector_size = (uint32_t)strtoul (optarg, NULL, 10);
        break;
      case 'g':
        run.params.granularity = strtoll (optarg, NULL, 10);
        break;
      case 'c':
        run.pauses_left = strtoll (optarg, NULL, 10);
        break;
      case 'z':
        run.copy = optarg;
        break;
      case 'F':
        run.filters[0] = optarg;
        break;
      default:
        return 2;
      }
  if (optind != argc - 1)
    return 2;
  run.path = argv[optind];

  g_autoptr (GError) error = NULL;
  AioContext *context = aio_context_new (&error);
  g_assert_no_error (error);
  aio_context_push (context);
  coroutine_enter (coroutine_new (run_entry, &run));
  while (!run.done)
    aio_poll (context, true);
  aio_context_pop (context);
  aio_context_unref (context);
  return run.ok ? 0 : 1;
}
