/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests without data: write-zeroes, discard, and changes of length. */
#include "core-int.h"

#include <checked.h>

#include <errno.h>
#include <inttypes.h>

/* Only ever read: writes of zeros take it as their source. */
static uint8_t zero_memory[BDRV_BOUNCE_BYTES] __attribute__ ((aligned (4096)));

static inline bool
is_unsupported (int ret)
{
  return ret == -ENOTSUP || ret == -EOPNOTSUPP;
}

/* A filter that takes no part in writing passes the request on as it is. */
static inline bool
is_transparent (const BlockDriver *drv)
{
  return drv->kind == BLOCK_DRIVER_FILTER && !drv->co_pwritev;
}

/* --- write zeroes -------------------------------------------------------------------------------------- */

static int coroutine_fn
co_write_zero_memory (BdrvNode *node, int64_t offset, int64_t end)
{
  while (offset < end)
    {
      /* Pieces end aligned, so only the first and the last are padded. */
      int64_t piece_end = MIN (end, bdrv_align_down (node, offset + BDRV_BOUNCE_BYTES));
      IoVector qiov;

      io_vector_init_buf (&qiov, zero_memory, piece_end - offset);
      int ret = bdrv_co_write_tracked (node, offset, piece_end - offset, &qiov, 0);
      bdrv_note_write (node, piece_end, ret);
      if (ret < 0)
        return ret;
      offset = piece_end;
    }
  return 0;
}

static int coroutine_fn
co_driver_zeroes (BdrvNode *node, int64_t offset, int64_t bytes, int flags)
{
  BlockDriverState *bs = &node->bs;

  if (bs->drv->co_pwrite_zeroes)
    return bs->drv->co_pwrite_zeroes (bs, offset, bytes, flags & (BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK));
  if (is_transparent (bs->drv))
    return bdrv_co_pwrite_zeroes (bs->file, offset, bytes, flags & ~(BDRV_REQ_FUA | BDRV_REQ_SERIALISING));
  return -ENOTSUP;
}

/* [@offset, @end) lies inside the node. */
static int coroutine_fn
co_zero_inside (BdrvNode *node, int64_t offset, int64_t end, int flags)
{
  bool fallback = !(flags & BDRV_REQ_NO_FALLBACK);
  int64_t alignment = node->bs.limits.zeroes_alignment;
  int64_t first = round_up (offset, alignment);
  int64_t last = round_down (end, alignment);
  int ret = 0;

  if (!fallback)
    return first == offset && last == end ? co_driver_zeroes (node, offset, end - offset, flags) : -ENOTSUP;
  if (first >= last)
    return co_write_zero_memory (node, offset, end);

  if (offset < first)
    ret = co_write_zero_memory (node, offset, first);
  if (ret == 0)
    ret = co_driver_zeroes (node, first, last - first, flags);
  if (is_unsupported (ret))
    ret = co_write_zero_memory (node, first, last);
  if (ret == 0 && last < end)
    ret = co_write_zero_memory (node, last, end);
  return ret;
}

/* In a tracked request up to @held_end.  1: that is not enough any more, the node's length has changed. */
static int coroutine_fn
co_zeroes_held (BdrvNode *node, int64_t offset, int64_t end, int flags, int64_t held_end)
{
  BlockDriverState *bs = &node->bs;
  bool grows = end > bs->bytes;
  int ret = bdrv_check_writable (bs);

  if (ret < 0)
    return ret;
  if (grows && !bdrv_can_grow (bs))
    return -EINVAL;
  if (held_end != INT64_MAX && (grows || bdrv_write_pads_end (node, end)))
    return 1;
  /* What is new in a longer file reads as zeros. */
  bool by_length = grows && (bs->drv->co_truncate || is_transparent (bs->drv));
  if (grows && !by_length)
    return flags & BDRV_REQ_NO_FALLBACK ? -ENOTSUP : co_write_zero_memory (node, offset, end);

  int64_t inside_end = MIN (end, bs->bytes);
  if (offset < inside_end)
    ret = co_zero_inside (node, offset, inside_end, flags);
  if (ret == 0 && by_length)
    {
      g_autoptr (GError) error = NULL;
      if (!bdrv_co_truncate_untracked (node, end, &error))
        ret = bdrv_errno_from_error (error);
    }
  bdrv_note_write (node, end, ret);
  return ret;
}

int coroutine_fn
bdrv_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  BdrvNode *node = bdrv_node (bs);
  int ret = bdrv_check_range (offset, bytes);

  if (ret < 0)
    return ret;
  ret = bdrv_check_writable (bs);
  if (ret < 0 || bytes == 0)
    return ret;

  do
    {
      BdrvTrackedRequest req;
      int64_t end = offset + bytes;
      bool to_end = end > bs->bytes || bdrv_write_pads_end (node, end);
      int64_t held_end = to_end ? INT64_MAX : bdrv_align_up (node, end);
      bool serialising = to_end || !bdrv_is_aligned (node, offset, bytes) || (flags & BDRV_REQ_SERIALISING);

      bdrv_co_tracked_begin (node, &req, bdrv_align_down (node, offset), held_end, serialising);
      ret = co_zeroes_held (node, offset, end, flags, held_end);
      bdrv_tracked_end (node, &req);
    }
  while (ret > 0);

  if (ret == 0 && (flags & BDRV_REQ_FUA))
    ret = bdrv_co_flush (bs);
  return is_unsupported (ret) ? -ENOTSUP : ret;
}

/* --- discard ------------------------------------------------------------------------------------------- */

int coroutine_fn
bdrv_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvTrackedRequest req;
  int ret = bdrv_check_range (offset, bytes);

  if (ret < 0)
    return ret;
  ret = bdrv_check_writable (bs);
  if (ret < 0)
    return ret;
  if (!bs->drv->co_pdiscard)
    return is_transparent (bs->drv) ? bdrv_co_pdiscard (bs->file, offset, bytes) : 0;

  bdrv_co_tracked_begin (node, &req, offset, offset + bytes, false);
  int64_t alignment = bs->limits.discard_alignment;
  int64_t first = round_up (offset, alignment);
  int64_t last = round_down (MIN (offset + bytes, bs->bytes), alignment);
  if (first < last)
    {
      ret = bdrv_check_writable (bs);
      if (ret == 0)
        ret = bs->drv->co_pdiscard (bs, first, last - first);
      node->write_gen++;
    }
  bdrv_tracked_end (node, &req);
  return is_unsupported (ret) ? 0 : ret;
}

/* --- length -------------------------------------------------------------------------------------------- */

bool coroutine_fn
bdrv_co_truncate_untracked (BdrvNode *node, int64_t bytes, GError **error)
{
  BlockDriverState *bs = &node->bs;
  bool ok;

  if (bs->drv->co_truncate)
    ok = bs->drv->co_truncate (bs, bytes, error);
  else if (bs->drv->kind == BLOCK_DRIVER_FILTER)
    ok = bdrv_co_truncate (bs->file, bytes, error);
  else
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "the length of %s cannot be changed",
                      bs->drv->format_name);
      return false;
    }
  if (ok && bs->drv->kind == BLOCK_DRIVER_FILTER)
    bs->bytes = bdrv_length (bs->file);
  node->write_gen++;
  return ok;
}

bool coroutine_fn
bdrv_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvTrackedRequest req;

  if (bdrv_check_range (0, bytes) < 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "cannot be %" PRId64 " bytes long", bytes);
      return false;
    }
  if (bs->read_only)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "cannot change the length of a read-only node");
      return false;
    }

  /* A format may have to move anything to make room for its tables. */
  int64_t from = bs->drv->kind == BLOCK_DRIVER_FORMAT ? 0 : MIN (bytes, bs->bytes);
  bdrv_co_tracked_begin (node, &req, from, INT64_MAX, true);
  bool ok = false;
  if (node->poisoned)
    bdrv_set_error (error, bs, VHDKIT_ERROR_IO, "an earlier write or flush has failed; open the image again");
  else
    ok = bdrv_co_truncate_untracked (node, bytes, error);
  bdrv_tracked_end (node, &req);
  return ok;
}

bool coroutine_fn
bdrv_co_trim (BlockDriverState *bs, GError **error)
{
  int ret = bs->drv->co_trim ? bs->drv->co_trim (bs) : 0;

  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "cutting the file after its last used byte failed");
  return ret == 0;
}
