/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that do not fit the node's alignment: through an aligned buffer, a bounded piece at a time, with
 * read-modify-write at the edges of a write.
 *
 * A node's length need not be a multiple of its alignment (a file opened with O_DIRECT).  The driver is then
 * asked to read the aligned range around the end; what lies past the end reads as zeros here.  What a write
 * has in the last block goes to the driver as it is, if the driver can do that (limits.unaligned_end): a
 * crash never finds a file that is longer than it should be, with what must be its last bytes (a footer)
 * somewhere before the end.  Other drivers get the last block padded, and a file that padding has made longer
 * is cut to its true length again.  Either way such a write holds back everything behind it, so nobody else's
 * growth is cut off.
 */
#include "core-int.h"

#include <errno.h>
#include <string.h>

/* Reads an aligned range, which may reach past the end, into @buf. */
static int coroutine_fn
co_read_aligned (BdrvNode *node, int64_t offset, int64_t bytes, uint8_t *buf)
{
  int64_t inside = CLAMP (node->bs.bytes - offset, 0, bytes);
  IoVector qiov;
  int ret = 0;

  if (inside > 0)
    {
      int64_t aligned = bdrv_align_up (node, inside);
      io_vector_init_buf (&qiov, buf, aligned);
      ret = bdrv_co_driver_preadv (node, offset, aligned, &qiov, 0);
    }
  memset (buf + inside, 0, bytes - inside);
  return ret;
}

/* Bytes of buffer for [@offset, @end), both aligned: all of it, or one piece. */
static int64_t
piece_bytes (const BdrvNode *node, int64_t offset, int64_t end)
{
  return MIN (end - offset, MIN ((int64_t)BDRV_BOUNCE_BYTES, node->max_transfer));
}

int coroutine_fn
bdrv_co_padded_preadv (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                       size_t qiov_offset)
{
  int64_t end = offset + bytes;
  int64_t at = bdrv_align_down (node, offset);
  int64_t aligned_end = bdrv_align_up (node, end);
  int64_t piece = piece_bytes (node, at, aligned_end);
  uint8_t *buf = bdrv_try_alloc_buffer (&node->bs, piece);
  int ret = buf ? 0 : -ENOMEM;

  for (; ret == 0 && at < aligned_end; at += piece)
    {
      int64_t n = MIN (piece, aligned_end - at);
      int64_t from = MAX (at, offset);
      int64_t to = MIN (at + n, end);

      ret = co_read_aligned (node, at, n, buf);
      if (ret == 0)
        io_vector_from_buf (qiov, qiov_offset + (from - offset), buf + (from - at), to - from);
    }
  bdrv_free_buffer (buf);
  return ret;
}

/* Fills in what of the blocks at the edges of [@at, @at + @n) the write of [@from, @to) leaves as it is. */
static int coroutine_fn
co_read_edges (BdrvNode *node, int64_t at, int64_t n, int64_t from, int64_t to, uint8_t *buf)
{
  int64_t block = node->bs.limits.request_alignment;
  int64_t last = at + n - block;
  int ret = 0;

  if (from > at)
    ret = co_read_aligned (node, at, block, buf);
  if (ret == 0 && to < at + n && !(from > at && last == at))
    ret = co_read_aligned (node, last, block, buf + (last - at));
  return ret;
}

/* Takes back what padding has added at the end of the file. */
static int coroutine_fn
co_cut_padding (BdrvNode *node, int64_t length)
{
  g_autoptr (GError) error = NULL;

  if (!node->bs.drv->co_truncate && node->bs.drv->kind != BLOCK_DRIVER_FILTER)
    return 0;
  if (bdrv_co_truncate_untracked (node, length, &error))
    return 0;
  return bdrv_errno_from_error (error);
}

/* The write reaches into the last block, behind which there is nothing: that part as it is, without
 * padding. */
static int coroutine_fn
co_write_to_end (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  BlockDriverState *bs = &node->bs;
  int64_t end = offset + bytes;
  int64_t last = MAX (offset, bdrv_align_down (node, end));
  int ret = 0;

  if (offset < last)
    ret = bdrv_co_write_tracked (node, offset, last - offset, qiov, qiov_offset);
  return ret < 0 ? ret : bs->drv->co_pwritev (bs, last, end - last, qiov, qiov_offset + (last - offset));
}

int coroutine_fn
bdrv_co_padded_pwritev (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                        size_t qiov_offset)
{
  int64_t end = offset + bytes;
  int64_t at = bdrv_align_down (node, offset);
  int64_t aligned_end = bdrv_align_up (node, end);
  int64_t length = MAX (node->bs.bytes, end);
  int64_t piece = piece_bytes (node, at, aligned_end);
  uint8_t *buf;
  int ret;

  if (node->bs.limits.unaligned_end && bdrv_write_pads_end (node, end))
    return co_write_to_end (node, offset, bytes, qiov, qiov_offset);

  buf = bdrv_try_alloc_buffer (&node->bs, piece);
  ret = buf ? 0 : -ENOMEM;
  for (; ret == 0 && at < aligned_end; at += piece)
    {
      int64_t n = MIN (piece, aligned_end - at);
      int64_t from = MAX (at, offset);
      int64_t to = MIN (at + n, end);
      IoVector padded;

      ret = co_read_edges (node, at, n, from, to, buf);
      if (ret < 0)
        break;
      io_vector_to_buf (qiov, qiov_offset + (from - offset), buf + (from - at), to - from);
      io_vector_init_buf (&padded, buf, n);
      ret = bdrv_co_driver_pwritev (node, at, n, &padded, 0);
    }
  bdrv_free_buffer (buf);
  if (ret == 0 && aligned_end > end && aligned_end > length)
    ret = co_cut_padding (node, length);
  return ret;
}
