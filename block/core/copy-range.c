/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copying from a file without reading it, for drivers and hosts that can. */
#include "core-int.h"

#include <checked.h>

#include <errno.h>

static int
check_copy (const BlockDriverState *bs, int64_t offset, int64_t bytes, const BlockDriverState *src,
            int64_t src_offset)
{
  int ret = bdrv_check_writable (bs);

  if (ret < 0)
    return ret;
  if (src_offset > src->bytes - bytes || (offset > bs->bytes - bytes && !bdrv_can_grow (bs)))
    return -EINVAL;
  /* Padding would need to read what is not to be read. */
  if (!bdrv_is_aligned (bdrv_node (bs), offset, bytes))
    return -ENOTSUP;
  return 0;
}

int coroutine_fn
bdrv_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                       int64_t src_offset)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvNode *src_node = bdrv_node (src);
  BdrvTrackedRequest write_req, read_req;

  if (bdrv_check_range (offset, bytes) < 0 || bdrv_check_range (src_offset, bytes) < 0
      || src->drv->kind != BLOCK_DRIVER_PROTOCOL || src->context != bs->context
      || (src == bs && ranges_overlap (offset, bytes, src_offset, bytes)))
    return -EINVAL;
  if (!bs->drv->co_copy_range_to)
    return -ENOTSUP;
  int ret = check_copy (bs, offset, bytes, src, src_offset);
  if (ret < 0 || bytes == 0)
    return ret;

  /* The source is tracked where it is read, in the lowest node.  Both requests go into their lists before
   * either waits: a serialising request that came in between would wait for one and hold back the other. */
  bool reads = bs->drv->kind == BLOCK_DRIVER_PROTOCOL;
  if (reads)
    bdrv_tracked_link (src_node, &read_req, src_offset, src_offset + bytes);
  bdrv_tracked_link (node, &write_req, offset, offset + bytes);
  if (reads)
    bdrv_co_tracked_wait (src_node, &read_req);
  bdrv_co_tracked_wait (node, &write_req);

  ret = check_copy (bs, offset, bytes, src, src_offset); /* again, after waiting */
  if (ret == 0)
    {
      ret = bs->drv->co_copy_range_to (bs, offset, bytes, src, src_offset);
      bdrv_note_write (node, offset + bytes, ret);
    }
  bdrv_tracked_end (node, &write_req);
  if (reads)
    bdrv_tracked_end (src_node, &read_req);
  return ret;
}

int coroutine_fn
bdrv_co_clone_within (BlockDriverState *child, const BdrvCopy *copy)
{
  return bdrv_co_copy_range_to (child, copy->to, copy->bytes, bdrv_protocol_node (child), copy->from);
}

int coroutine_fn
bdrv_co_can_share (BlockDriverState *target, BlockDriverState *source)
{
  BlockDriverState *to = bdrv_protocol_node (target), *from = bdrv_protocol_node (source);

  if (to->drv->co_can_share == NULL)
    return -ENOTSUP;
  bdrv_inc_in_flight (bdrv_node (to));
  int ret = to->drv->co_can_share (to, from);
  bdrv_dec_in_flight (bdrv_node (to));
  return ret;
}
