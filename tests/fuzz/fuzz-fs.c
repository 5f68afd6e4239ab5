/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's disk (file 0) looked through for free space.  Whatever is on it: ranges are sorted and apart, each lies in
 * one volume whose reader vouches for it, never in what counts as in use, in a partition table or between partitions; and the
 * sums are right.
 *
 * The script: the sector size (0: 512, 1: 4096, else not known), log2 of the granularity, and at which pause point the
 * caller loses patience (0: never).
 */
#include "fuzz.h"

#include "block.h"
#include "free-space.h"

#include <errno.h>
#include <string.h>

#define MAX_JUDGED 1000
/* Of what is told to people. */
#define MAX_TEXT 2000

typedef struct
{
  FsFreeParams params;
  int64_t pauses_left;
} Look;

static int coroutine_fn
co_pause_point (void *opaque)
{
  Look *look = opaque;

  return look->pauses_left-- == 0 ? -ECANCELED : 0;
}

static bool
contains (const FsVolumeInfo *volume, int64_t offset)
{
  return offset >= volume->offset && offset - volume->offset < volume->bytes;
}

/* The only volume that @offset is in. */
static const FsVolumeInfo *
volume_of (const FsFreeReport *report, int64_t offset)
{
  const FsVolumeInfo *found = NULL;

  for (guint i = 0; i < report->volumes->len; i++)
    if (contains (report->volumes->pdata[i], offset))
      {
        g_assert_null (found);
        found = report->volumes->pdata[i];
      }
  return found;
}

static void
judge_text (const char *text)
{
  if (text == NULL)
    return;
  g_assert_true (g_utf8_validate (text, -1, NULL));
  g_assert_cmpint (strlen (text), <, MAX_TEXT);
}

static void
judge_volumes (const FsFreeReport *report, int64_t disk_bytes)
{
  for (guint i = 0; i < report->volumes->len; i++)
    {
      const FsVolumeInfo *volume = report->volumes->pdata[i];

      g_assert_cmpint (volume->offset, >=, 0);
      g_assert_cmpint (volume->bytes, >, 0);
      g_assert_cmpint (volume->bytes, <=, disk_bytes - volume->offset);
      if (volume->in_use)
        {
          g_assert_cmpint (volume->free_bytes, ==, 0);
          judge_text (volume->in_use->message);
        }
      g_assert_nonnull (volume->type);
      judge_text (volume->type);
      judge_text (volume->label);
      judge_text (volume->uuid);
      judge_text (volume->inside);
    }
  for (guint i = 0; i < report->notes->len; i++)
    judge_text (report->notes->pdata[i]);
}

/* A range may reach over from a volume to its neighbour. */
static void
judge_extent (const FsFreeReport *report, const FsExtent *extent)
{
  int64_t end = extent->offset + extent->bytes;

  for (int64_t at = extent->offset; at < end;)
    {
      const FsVolumeInfo *volume = volume_of (report, at);

      g_assert_nonnull (volume);
      g_assert_null (volume->in_use);
      if (volume->partition > 0) /* the table is at the start */
        g_assert_cmpint (at, >=, 512);
      at = volume->offset + volume->bytes;
    }
  for (guint i = 0; i < report->volumes->len; i++)
    {
      const FsVolumeInfo *volume = report->volumes->pdata[i];

      if (volume->in_use)
        g_assert_true (end <= volume->offset || extent->offset >= volume->offset + volume->bytes);
    }
}

static void
judge (const FsFreeReport *report, int64_t disk_bytes)
{
  int64_t end = -1, sum = 0;

  judge_volumes (report, disk_bytes);
  for (guint i = 0; i < report->free->len; i++)
    {
      const FsExtent *extent = &g_array_index (report->free, FsExtent, i);

      g_assert_cmpint (extent->offset, >, end);
      g_assert_cmpint (extent->bytes, >, 0);
      g_assert_cmpint (extent->offset % 512, ==, 0);
      g_assert_cmpint (extent->bytes % 512, ==, 0);
      if (i < MAX_JUDGED)
        judge_extent (report, extent);
      end = extent->offset + extent->bytes;
      sum += extent->bytes;
    }
  for (guint i = 0; i < report->volumes->len; i++)
    sum -= ((const FsVolumeInfo *)report->volumes->pdata[i])->free_bytes;
  g_assert_cmpint (sum, ==, 0);
}

static void coroutine_fn
look_entry (void *opaque)
{
  Look *look = opaque;
  BdrvOpenParams open_params = { .format = "raw", .filters = fuzz_filters, .flags = BDRV_O_NO_LOCK };
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = bdrv_co_open (fuzz_path (0), &open_params, &error);
  g_auto (FsFreeReport) report = { 0 };

  g_assert_no_error (error);
  look->params.bs = bs;
  if (fs_co_find_free (&look->params, &report, &error))
    judge (&report, bdrv_length (bs));
  else
    g_assert_cmpint (look->pauses_left, <, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

static void
run (const uint8_t *script, size_t bytes)
{
  FuzzReader reader = { script, script + bytes };
  uint8_t sector = fuzz_u8 (&reader), granularity = fuzz_u8 (&reader);
  uint16_t pauses = fuzz_u16 (&reader);
  Look look = { .params = { .sector_size = sector == 0   ? 512
                                           : sector == 1 ? 4096
                                                         : 0,
                            .granularity = INT64_C (512) << granularity % 12,
                            .co_pause_point = co_pause_point },
                .pauses_left = pauses > 0 ? pauses : G_MAXINT64 };

  look.params.opaque = &look;
  fuzz_run_coroutine (look_entry, &look);
}

const FuzzTarget fuzz_target = {
  .name = "fs",
  .max_file_bytes = INT64_C (1) << 30,
  .max_requests = 100000,
  .max_bytes = INT64_C (1) << 30,
  .run = run,
};
