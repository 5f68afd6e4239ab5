/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host space: see space.h. */
#include "space.h"

#include "checked.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* What host file systems allocate, and how much new payload one page of tables serves. */
#define HOST_BLOCK_BYTES (4 * 1024)
#define REGION_BYTES     (2 * 1024 * 1024)

/* --- need ---------------------------------------------------------------------------------------------- */

void
space_need_add (SpaceNeed *need, int64_t offset, int64_t bytes)
{
  int64_t start = MAX (round_down (offset, HOST_BLOCK_BYTES), need->counted_to);
  int64_t end = round_up (offset + bytes, HOST_BLOCK_BYTES);
  int64_t first_region = MAX (offset / REGION_BYTES, need->last_region + 1);
  int64_t last_region = (offset + bytes - 1) / REGION_BYTES;

  if (end > start)
    {
      need->bytes += end - start;
      need->data += end - start;
      need->counted_to = end;
    }
  if (last_region >= first_region)
    {
      need->bytes += (last_region - first_region + 1) * HOST_BLOCK_BYTES;
      need->last_region = last_region;
    }
}

int coroutine_fn
space_need_co_add_write (SpaceNeed *need, BlockDriverState *target, int64_t offset, int64_t bytes, bool zero,
                         int64_t *written)
{
  int64_t end = MIN (offset + bytes, bdrv_length (target));

  while (offset < end)
    {
      int64_t pnum;
      int depth = 0;
      /* For data only the target itself counts; zeros may be seen through it. */
      int ret = bdrv_co_block_status_above (target, zero ? NULL : target->backing, offset, end - offset,
                                            &pnum, NULL, NULL, &depth);

      if (ret < 0)
        return ret;
      bool reads_zero = !(ret & BDRV_BLOCK_ALLOCATED) || (ret & BDRV_BLOCK_ZERO);
      bool stored_here = !reads_zero && depth == 0;
      bool needless = zero && reads_zero;
      if (!needless && written != NULL)
        *written += pnum;
      if (!needless && !stored_here)
        space_need_add (need, offset, pnum);
      offset += pnum;
      bytes -= pnum;
    }
  /* Past the target's end, before it has grown. */
  if (bytes > 0 && !zero)
    {
      space_need_add (need, offset, bytes);
      if (written != NULL)
        *written += bytes;
    }
  return 0;
}

/* --- what there is ------------------------------------------------------------------------------------- */

typedef struct
{
  const char *path;
  int64_t available;
} FreeSpace;

static int
look_up_free_space (void *opaque)
{
  FreeSpace *space = opaque;
  struct stat status;
  struct statvfs fs;
  uint64_t bytes;

  space->available = -1;
  /* File systems that know no figures say zero blocks. */
  if (stat (space->path, &status) != 0 || !S_ISREG (status.st_mode) || statvfs (space->path, &fs) != 0
      || fs.f_blocks == 0)
    return 0;
  uint64_t blocks = geteuid () == 0 ? fs.f_bfree : fs.f_bavail;
  if (__builtin_mul_overflow (blocks, (uint64_t)fs.f_frsize, &bytes) || bytes > G_MAXINT64)
    bytes = G_MAXINT64;
  space->available = (int64_t)bytes;
  return 0;
}

int64_t coroutine_fn
space_co_get_free (BlockDriverState *bs)
{
  FreeSpace space = { .path = bdrv_get_host_path (bs) };

  if (space.path == NULL)
    return -1;
  aio_co_run_in_thread (look_up_free_space, &space);
  return space.available;
}

bool coroutine_fn
space_co_check (BlockDriverState *bs, int64_t need, GError **error)
{
  if (need == 0)
    return true;

  int64_t available = space_co_get_free (bs);
  if (available < 0 || need <= available)
    return true;
  bdrv_set_error (error, bs, VHDKIT_ERROR_NO_SPACE,
                  "may need %" G_GINT64_FORMAT " bytes more, its file system has %" G_GINT64_FORMAT " free",
                  need, available);
  return false;
}

bool coroutine_fn
space_co_check_untrimmed (BlockDriverState *bs, int64_t need, bool *trim, GError **error)
{
  g_autoptr (GError) why = NULL;

  *trim = false;
  if (space_co_check (bs, need, &why))
    return true;
  /* No more than it takes can be cut off. */
  *trim = space_co_check (bs, MAX (need - MAX (bdrv_co_get_allocated_size (bs), 0), 0), NULL);
  if (!*trim)
    g_propagate_error (error, g_steal_pointer (&why));
  return *trim;
}

/* Bytes of @container that are no holes, from @offset to its end; -errno. */
static int64_t coroutine_fn
co_count_stored (BlockDriverState *container, int64_t offset)
{
  int64_t end = bdrv_length (container), bytes = 0;

  while (offset < end)
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int status = bdrv_co_block_status (container, offset, end - offset, &pnum, &map, &file);

      if (status < 0)
        return status;
      if (!(status & BDRV_BLOCK_ZERO))
        bytes += pnum;
      offset += pnum;
    }
  return bytes;
}

int64_t coroutine_fn
space_co_get_left_behind (BlockDriverState *bs)
{
  g_auto (BlockLayout) layout = { 0 };
  int64_t end = 0;

  /* A fixed image has no layout, and a damaged one is not cut. */
  if (!bs->drv->co_get_layout || !bs->drv->co_trim || bdrv_protocol_node (bs)->fixed_length
      || !bs->drv->co_get_layout (bs, &layout, NULL))
    return 0;
  for (guint i = 0; i < layout.extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout.extents, BlockExtent, i);

      end = MAX (end, extent->file_offset + extent->bytes);
    }
  return MAX (co_count_stored (bdrv_protocol_node (bs), end + layout.tail_bytes), 0);
}

bool coroutine_fn
space_co_trim (BlockDriverState *bs, int64_t need, GError **error)
{
  return bdrv_co_trim (bs, error) && space_co_check (bs, need, error);
}
