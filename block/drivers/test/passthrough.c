/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members for filters that show what their file child shows. */
#include "passthrough.h"

#include <errno.h>

void
passthrough_refresh (BlockDriverState *bs)
{
  bs->bytes = bdrv_length (bs->file);
  bs->limits.request_alignment = 1;
  bs->limits.memory_alignment = bs->file->limits.memory_alignment;
  bs->limits.zeroes_alignment = 1;
  bs->limits.discard_alignment = 1;
}

bool coroutine_fn
passthrough_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  return true;
}

int coroutine_fn
passthrough_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                       size_t qiov_offset)
{
  return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
}

int coroutine_fn
passthrough_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                             BlockDriverState **file)
{
  int64_t child_map;
  BlockDriverState *child_file = NULL;
  int ret = bdrv_co_block_status (bs->file, offset, bytes, pnum, &child_map, &child_file);

  if (ret < 0)
    return ret;
  *map = offset;
  *file = bs->file;
  return ret | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED;
}

int64_t coroutine_fn
passthrough_co_get_allocated_size (BlockDriverState *bs)
{
  const BlockDriver *drv = bs->file->drv;

  return drv->co_get_allocated_size != NULL ? drv->co_get_allocated_size (bs->file) : -ENOTSUP;
}

bool
passthrough_get_host_id (BlockDriverState *bs, uint64_t id[2])
{
  const BlockDriver *drv = bs->file->drv;

  return drv->get_host_id != NULL && drv->get_host_id (bs->file, id);
}

const char *
passthrough_get_host_path (BlockDriverState *bs)
{
  const BlockDriver *drv = bs->file->drv;

  return drv->get_host_path != NULL ? drv->get_host_path (bs->file) : NULL;
}

bool
passthrough_get_mtime (BlockDriverState *bs, int64_t *seconds)
{
  const BlockDriver *drv = bs->file->drv;

  return drv->get_mtime != NULL && drv->get_mtime (bs->file, seconds);
}
