/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads and writes.
 *
 * Every guest request passes here twice or more (format node, filters, file node), and a read through a deep
 * chain once per layer, nested.  So the way of a request that needs nothing is short and has a small stack
 * frame; all others are in functions of their own, kept out of line.
 */
#include "core-int.h"

#include <errno.h>

int
bdrv_check_range (int64_t offset, int64_t bytes)
{
  return offset < 0 || bytes < 0 || bytes > BDRV_MAX_LENGTH || offset > BDRV_MAX_LENGTH - bytes ? -EINVAL : 0;
}

int
bdrv_check_writable (const BlockDriverState *bs)
{
  if (bs->read_only)
    return -EROFS;
  return bdrv_is_poisoned (bs) ? -EIO : 0;
}

bool
bdrv_can_grow (const BlockDriverState *bs)
{
  return bs->drv->kind != BLOCK_DRIVER_FORMAT;
}

void
bdrv_note_write (BdrvNode *node, int64_t end, int ret)
{
  node->write_gen++;
  if (ret >= 0 && end > node->bs.bytes)
    node->bs.bytes = end;
}

/* Whether the driver can be called with the request as it is. */
static inline bool
is_plain (const BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  return bytes > 0 && offset >= 0 && bytes <= node->max_transfer && offset <= node->bs.bytes - bytes
         && bdrv_is_aligned (node, offset, bytes) && node->serialising == 0
         && bdrv_memory_is_aligned (node, qiov, qiov_offset, bytes);
}

/* --- reading ------------------------------------------------------------------------------------------- */

int coroutine_fn
bdrv_co_driver_preadv (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                       size_t qiov_offset)
{
  BlockDriverState *bs = &node->bs;

  if (!bs->drv->co_preadv)
    return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
  while (bytes > 0)
    {
      int64_t n = MIN (bytes, node->max_transfer);
      int ret = bs->drv->co_preadv (bs, offset, n, qiov, qiov_offset);
      if (ret < 0)
        return ret;
      offset += n;
      bytes -= n;
      qiov_offset += n;
    }
  return 0;
}

static G_GNUC_NO_INLINE int coroutine_fn
co_preadv_slow (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  BdrvTrackedRequest req;
  int ret = bdrv_check_range (offset, bytes);

  if (ret < 0 || bytes == 0)
    return ret;
  g_assert (qiov_offset <= qiov->size && (size_t)bytes <= qiov->size - qiov_offset);

  bdrv_co_tracked_begin (node, &req, offset, offset + bytes, false);
  int64_t inside = CLAMP (node->bs.bytes - offset, 0, bytes);
  if (inside < bytes)
    io_vector_memset (qiov, qiov_offset + inside, 0, bytes - inside);
  if (inside > 0)
    {
      if (bdrv_is_aligned (node, offset, inside) && bdrv_memory_is_aligned (node, qiov, qiov_offset, inside))
        ret = bdrv_co_driver_preadv (node, offset, inside, qiov, qiov_offset);
      else
        ret = bdrv_co_padded_preadv (node, offset, inside, qiov, qiov_offset);
    }
  bdrv_tracked_end (node, &req);
  return ret;
}

int coroutine_fn
bdrv_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvTrackedRequest req;

  if (G_UNLIKELY (!is_plain (node, offset, bytes, qiov, qiov_offset) || !bs->drv->co_preadv))
    return co_preadv_slow (node, offset, bytes, qiov, qiov_offset);

  bdrv_tracked_link (node, &req, offset, offset + bytes);
  int ret = bs->drv->co_preadv (bs, offset, bytes, qiov, qiov_offset);
  bdrv_tracked_end (node, &req);
  return ret;
}

int coroutine_fn
bdrv_co_pread (BlockDriverState *bs, int64_t offset, int64_t bytes, void *buf)
{
  IoVector qiov;

  if (bytes < 0)
    return -EINVAL;
  io_vector_init_buf (&qiov, buf, bytes);
  return bdrv_co_preadv (bs, offset, bytes, &qiov, 0);
}

/* --- writing ------------------------------------------------------------------------------------------- */

int coroutine_fn
bdrv_co_driver_pwritev (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                        size_t qiov_offset)
{
  BlockDriverState *bs = &node->bs;

  if (!bs->drv->co_pwritev)
    return bdrv_co_pwritev (bs->file, offset, bytes, qiov, qiov_offset, 0);
  while (bytes > 0)
    {
      int64_t n = MIN (bytes, node->max_transfer);
      int ret = bs->drv->co_pwritev (bs, offset, n, qiov, qiov_offset);
      if (ret < 0)
        return ret;
      offset += n;
      bytes -= n;
      qiov_offset += n;
    }
  return 0;
}

int coroutine_fn
bdrv_co_write_tracked (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                       size_t qiov_offset)
{
  if (bdrv_is_aligned (node, offset, bytes) && bdrv_memory_is_aligned (node, qiov, qiov_offset, bytes))
    return bdrv_co_driver_pwritev (node, offset, bytes, qiov, qiov_offset);
  return bdrv_co_padded_pwritev (node, offset, bytes, qiov, qiov_offset);
}

/* In a tracked request up to @held_end.  1: that is not enough any more, the node's length has changed. */
static int coroutine_fn
co_pwritev_held (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset,
                 int64_t held_end)
{
  int64_t end = offset + bytes;
  int ret = bdrv_check_writable (&node->bs);

  if (ret < 0)
    return ret;
  if (end > node->bs.bytes && !bdrv_can_grow (&node->bs))
    return -EINVAL;
  if (held_end != INT64_MAX && bdrv_write_pads_end (node, end))
    return 1;
  ret = bdrv_co_write_tracked (node, offset, bytes, qiov, qiov_offset);
  bdrv_note_write (node, end, ret);
  return ret;
}

static G_GNUC_NO_INLINE int coroutine_fn
co_pwritev_slow (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset,
                 int flags)
{
  int ret = bdrv_check_range (offset, bytes);

  if (ret < 0)
    return ret;
  ret = bdrv_check_writable (&node->bs);
  if (ret < 0 || bytes == 0)
    return ret;
  g_assert (qiov_offset <= qiov->size && (size_t)bytes <= qiov->size - qiov_offset);

  bool serialising = !bdrv_is_aligned (node, offset, bytes) || (flags & BDRV_REQ_SERIALISING);
  do
    {
      BdrvTrackedRequest req;
      int64_t end = offset + bytes;
      int64_t held_end = bdrv_write_pads_end (node, end) ? INT64_MAX : bdrv_align_up (node, end);

      bdrv_co_tracked_begin (node, &req, bdrv_align_down (node, offset), held_end, serialising);
      ret = co_pwritev_held (node, offset, bytes, qiov, qiov_offset, held_end);
      bdrv_tracked_end (node, &req);
    }
  while (ret > 0);

  if (ret == 0 && (flags & BDRV_REQ_FUA))
    ret = bdrv_co_flush (&node->bs);
  return ret;
}

int coroutine_fn
bdrv_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset, int flags)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvTrackedRequest req;

  if (G_UNLIKELY (flags != 0 || !is_plain (node, offset, bytes, qiov, qiov_offset) || bs->read_only
                  || node->poisoned || !bs->drv->co_pwritev))
    return co_pwritev_slow (node, offset, bytes, qiov, qiov_offset, flags);

  bdrv_tracked_link (node, &req, offset, offset + bytes);
  int ret = bs->drv->co_pwritev (bs, offset, bytes, qiov, qiov_offset);
  node->write_gen++;
  bdrv_tracked_end (node, &req);
  return ret;
}

int coroutine_fn
bdrv_co_pwrite (BlockDriverState *bs, int64_t offset, int64_t bytes, const void *buf, int flags)
{
  IoVector qiov;

  if (bytes < 0)
    return -EINVAL;
  io_vector_init_buf (&qiov, (void *)buf, bytes);
  return bdrv_co_pwritev (bs, offset, bytes, &qiov, 0, flags);
}
