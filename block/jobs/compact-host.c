/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The container as a file of the host's: holes punched into it, and holes filled.
 *
 * Neither changes a table of the image.  What is punched either belongs to nothing, or is payload the guest's file
 * systems do not use, which reads as before or as zeros from then on, sector by sector and whenever the host comes to
 * it; so identities that follow the content are taken before.  Filled is what reads as zeros already.  No crash in
 * between leaves anything else.
 *
 * The job has the image to itself: the allocation that is looked up does not change before it is acted upon.
 */
#include "compact-host.h"

#include <errno.h>
#include <string.h>

#define FILL_BYTES (1024 * 1024)

static bool coroutine_fn
co_may_go_on (Job *job, int64_t bytes, GError **error)
{
  if (job_co_pause_point (job) == 0 && job_co_throttle (job, bytes) == 0)
    return true;
  job_set_cancelled (job, error);
  return false;
}

/* --- holes ----------------------------------------------------------------------------------------------- */

static bool coroutine_fn
co_punch (Job *job, BlockDriverState *bs, int64_t file_offset, int64_t bytes, GError **error)
{
  if (!co_may_go_on (job, 0, error))
    return false;
  /* A host that has no holes gives nothing back, which is no failure. */
  int ret = bdrv_co_pdiscard (bs->file, file_offset, bytes);
  if (ret == 0)
    return true;
  bdrv_set_error_errno (error, bs, ret,
                        "punching a hole of %" G_GINT64_FORMAT " bytes at file offset %" G_GINT64_FORMAT
                        " failed",
                        bytes, file_offset);
  return false;
}

bool coroutine_fn
compact_co_punch_gaps (Job *job, BlockDriverState *bs, const BlockLayout *layout, GError **error)
{
  int64_t end = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);

      if (extent->file_offset > end && !co_punch (job, bs, end, extent->file_offset - end, error))
        return false;
      end = MAX (end, extent->file_offset + extent->bytes);
    }
  return true;
}

typedef struct
{
  Job *job;
  BlockDriverState *bs;
  const FsFreeReport *free_space;
  bool dry_run;
  int64_t punched;
} FreePunch;

/* Whether @file is the container itself, or a filter above it: offsets are the same in all of them. */
static bool
stands_in_container (const BlockDriverState *bs, const BlockDriverState *file)
{
  const BlockDriverState *node = bs->file;

  while (node != file && node->drv->kind == BLOCK_DRIVER_FILTER)
    node = node->file;
  return node == file;
}

/* [@offset, @end) is free. */
static bool coroutine_fn
co_punch_free_range (FreePunch *punch, int64_t offset, int64_t end, GError **error)
{
  BlockDriverState *bs = punch->bs;

  while (offset < end)
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int status = bdrv_co_block_status (bs, offset, end - offset, &pnum, &map, &file);

      if (status < 0)
        {
          bdrv_set_error_errno (error, bs, status, "look-up of the allocation at offset %" G_GINT64_FORMAT,
                                offset);
          return false;
        }
      if ((status & BDRV_BLOCK_DATA) && !(status & BDRV_BLOCK_ZERO) && (status & BDRV_BLOCK_OFFSET_VALID)
          && stands_in_container (bs, file))
        {
          if (!punch->dry_run)
            {
              int ret = bdrv_co_take_next_identity (bs);

              if (ret < 0)
                {
                  bdrv_set_error_errno (error, bs, ret, "giving it another identity failed");
                  return false;
                }
              if (!co_punch (punch->job, bs, map, pnum, error))
                return false;
            }
          punch->punched += pnum;
        }
      offset += pnum;
    }
  return true;
}

/* Free ranges in [@offset, @end) of the disk. */
static bool coroutine_fn
co_punch_free_in (FreePunch *punch, int64_t offset, int64_t end, GError **error)
{
  FsExtent extent;

  while (offset < end && fs_free_report_next (punch->free_space, offset, &extent) && extent.offset < end)
    {
      offset = MIN (extent.offset + extent.bytes, end);
      if (!co_may_go_on (punch->job, 0, error) || !co_punch_free_range (punch, extent.offset, offset, error))
        return false;
    }
  return true;
}

bool coroutine_fn
compact_co_punch_free (Job *job, BlockDriverState *bs, const BlockLayout *layout,
                       const FsFreeReport *free_space, bool dry_run, int64_t *punched, GError **error)
{
  FreePunch punch = { .job = job, .bs = bs, .free_space = free_space, .dry_run = dry_run };
  int64_t disk_end = bdrv_length (bs);
  bool ok = true;

  if (layout == NULL)
    ok = co_punch_free_in (&punch, 0, disk_end, error);
  else
    for (guint i = 0; ok && i < layout->extents->len; i++)
      {
        int64_t offset = g_array_index (layout->extents, BlockExtent, i).offset;

        if (offset >= 0)
          ok = co_punch_free_in (&punch, offset, MIN (offset + layout->block_size, disk_end), error);
      }
  *punched += punch.punched;
  return ok;
}

/* --- no holes -------------------------------------------------------------------------------------------- */

static bool coroutine_fn
co_fill (Job *job, BlockDriverState *bs, int64_t file_offset, int64_t bytes, void *buffer, GError **error)
{
  while (bytes > 0)
    {
      int64_t n = MIN (bytes, FILL_BYTES);

      if (!co_may_go_on (job, n, error))
        return false;
      /* What is read there, whatever the host said of holes; a write of zeroes would be allowed to leave one. */
      int ret = bdrv_co_pread (bs->file, file_offset, n, buffer);
      if (ret == 0)
        ret = bdrv_co_pwrite (bs->file, file_offset, n, buffer, 0);
      if (ret < 0)
        {
          bdrv_set_error_errno (error, bs, ret, "filling the hole at file offset %" G_GINT64_FORMAT " failed",
                                file_offset);
          return false;
        }
      job_progress_add (job, n);
      file_offset += n;
      bytes -= n;
    }
  return true;
}

/* Adds up the holes of the container, and fills them if a @buffer is given. */
static bool coroutine_fn
co_walk_holes (Job *job, BlockDriverState *bs, void *buffer, int64_t *bytes, GError **error)
{
  BlockDriverState *container = bdrv_protocol_node (bs);
  int64_t offset = 0, end = bdrv_length (container);

  while (offset < end)
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int status = bdrv_co_block_status (container, offset, end - offset, &pnum, &map, &file);

      if (status < 0)
        {
          bdrv_set_error_errno (error, bs, status,
                                "look-up of holes at file offset %" G_GINT64_FORMAT " failed", offset);
          return false;
        }
      if (status & BDRV_BLOCK_ZERO)
        {
          *bytes += pnum;
          if (buffer != NULL && !co_fill (job, bs, offset, pnum, buffer, error))
            return false;
        }
      offset += pnum;
    }
  return true;
}

bool coroutine_fn
compact_co_count_holes (Job *job, BlockDriverState *bs, int64_t *bytes, GError **error)
{
  *bytes = 0;
  return co_walk_holes (job, bs, NULL, bytes, error);
}

bool coroutine_fn
compact_co_fill_holes (Job *job, BlockDriverState *bs, GError **error)
{
  int64_t holes, filled = 0;

  if (!compact_co_count_holes (job, bs, &holes, error))
    return false;
  if (holes == 0)
    return true;

  void *buffer = bdrv_try_alloc_buffer (bs->file, FILL_BYTES);
  if (buffer == NULL)
    {
      bdrv_set_error_errno (error, bs, -ENOMEM, "filling %" G_GINT64_FORMAT " bytes of holes", holes);
      return false;
    }
  job_progress_add_total (job, holes);
  bool ok = co_walk_holes (job, bs, buffer, &filled, error);
  bdrv_free_buffer (buffer);
  int ret = ok ? bdrv_co_flush (bs->file) : 0;
  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "flush failed");
  return ok && ret == 0;
}
