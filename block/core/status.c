/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a range is: data, zeros, nothing.
 *
 * One node's answer comes from its driver; here it is made complete.  Where a format says that data stands in
 * its container, the container is asked whether that place is a hole.  The answer of a chain is the topmost
 * one of its layers.
 */
#include "core-int.h"

#include <errno.h>

typedef struct
{
  int64_t bytes; /* the answer is true for */
  int64_t map;
  BlockDriverState *file;
} StatusAnswer;

/* What lies past the end of a node reads as zeros, and nothing below shows through. */
#define STATUS_PAST_END (BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_EOF)

static int coroutine_fn co_node_status (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                        StatusAnswer *answer);

/* The driver's own words for an aligned range (its end may be the node's unaligned end). */
static int coroutine_fn
co_driver_status (BlockDriverState *bs, int64_t offset, int64_t bytes, StatusAnswer *answer)
{
  answer->bytes = bytes;
  answer->map = offset;
  answer->file = NULL;
  if (bs->drv->co_block_status)
    {
      int ret = bs->drv->co_block_status (bs, offset, bytes, &answer->bytes, &answer->map, &answer->file);
      if (ret >= 0 && (answer->bytes <= 0 || answer->bytes > bytes))
        return -EIO;
      return ret < 0 ? ret : ret & ~BDRV_BLOCK_EOF;
    }
  if (bs->drv->kind == BLOCK_DRIVER_PROTOCOL)
    return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
  return BDRV_BLOCK_DATA;
}

/* The driver's answer for any range. */
static int coroutine_fn
co_unaligned_status (BlockDriverState *bs, int64_t offset, int64_t bytes, StatusAnswer *answer)
{
  BdrvNode *node = bdrv_node (bs);
  /* A host file is asked about any byte: its holes need not keep to the alignment of its transfers. */
  bool any = bs->drv->kind == BLOCK_DRIVER_PROTOCOL;
  int64_t at = any ? offset : bdrv_align_down (node, offset);
  int64_t end = any ? offset + bytes : MIN (bdrv_align_up (node, offset + bytes), bs->bytes);
  int ret = co_driver_status (bs, at, end - at, answer);

  if (ret < 0)
    return ret;
  answer->bytes -= offset - at;
  if (answer->bytes <= 0)
    return -EIO;
  answer->bytes = MIN (answer->bytes, bytes);
  answer->map += offset - at;
  return ret;
}

/* The child's word is good for @bytes only.  Where that ends inside a block of the alignment, the answer ends
 * before it; a block that is partly a hole is data. */
static int
shorten_answer (BlockDriverState *bs, int64_t offset, int64_t bytes, int status, StatusAnswer *answer)
{
  BdrvNode *node = bdrv_node (bs);
  int64_t end = bdrv_align_down (node, offset + bytes);

  if (bytes >= answer->bytes)
    return status;
  if (end > offset)
    {
      answer->bytes = end - offset;
      return status;
    }
  answer->bytes = MIN (answer->bytes, bdrv_align_up (node, offset + bytes) - offset);
  return status & ~BDRV_BLOCK_ZERO;
}

/* @status says where the range stands in a child: asks the child, for holes and for its own place. */
static int coroutine_fn
co_follow_map (BlockDriverState *bs, int64_t offset, int status, StatusAnswer *answer)
{
  StatusAnswer below;

  if (bdrv_check_range (answer->map, answer->bytes) < 0)
    return -EIO;
  if (!(status & BDRV_BLOCK_DATA) || (status & BDRV_BLOCK_ZERO))
    {
      while (answer->file->drv->kind == BLOCK_DRIVER_FILTER)
        answer->file = answer->file->file;
      return status;
    }

  int ret = co_node_status (answer->file, answer->map, answer->bytes, &below);
  if (ret < 0)
    return ret;
  if (ret & BDRV_BLOCK_ZERO)
    status |= BDRV_BLOCK_ZERO;
  status = shorten_answer (bs, offset, below.bytes, status, answer);
  if (ret & BDRV_BLOCK_OFFSET_VALID)
    {
      answer->map = below.map;
      answer->file = below.file;
    }
  else
    {
      status &= ~BDRV_BLOCK_OFFSET_VALID; /* past the end of the container: it stands nowhere */
      answer->file = NULL;
    }
  return status;
}

static int coroutine_fn
co_status_now (BlockDriverState *bs, int64_t offset, int64_t bytes, StatusAnswer *answer)
{
  answer->bytes = bytes;
  answer->map = 0;
  answer->file = NULL;
  if (offset >= bs->bytes)
    return STATUS_PAST_END;

  int status = co_unaligned_status (bs, offset, MIN (bytes, bs->bytes - offset), answer);
  if (status < 0)
    return status;
  if (status & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO))
    status |= BDRV_BLOCK_ALLOCATED;
  if (status & BDRV_BLOCK_OFFSET_VALID)
    {
      if (!answer->file)
        answer->file = bs;
      if (answer->file != bs)
        status = co_follow_map (bs, offset, status, answer);
      if (status < 0)
        return status;
    }
  if (!(status & BDRV_BLOCK_ALLOCATED) && !bs->backing)
    status |= BDRV_BLOCK_ZERO;
  if (offset + answer->bytes == bs->bytes)
    status |= BDRV_BLOCK_EOF;
  return status;
}

static int coroutine_fn
co_node_status (BlockDriverState *bs, int64_t offset, int64_t bytes, StatusAnswer *answer)
{
  uint64_t changes;
  int status;

  while (bs->drv->kind == BLOCK_DRIVER_FILTER && !bs->drv->co_block_status)
    bs = bs->file;
  /* The space that a block has left may have been cut off, or be another's, when the container is asked about it. */
  do
    {
      changes = bs->layout_changes;
      status = co_status_now (bs, offset, bytes, answer);
    }
  while (changes != bs->layout_changes);
  return status;
}

static void
give_answer (const StatusAnswer *answer, int64_t *pnum, int64_t *map, BlockDriverState **file)
{
  *pnum = answer->bytes;
  if (map)
    *map = answer->map;
  if (file)
    *file = answer->file;
}

int coroutine_fn
bdrv_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file)
{
  BdrvNode *node = bdrv_node (bs);
  StatusAnswer answer;

  if (bytes == 0 || bdrv_check_range (offset, bytes) < 0)
    return -EINVAL;
  bdrv_inc_in_flight (node);
  int ret = co_node_status (bs, offset, bytes, &answer);
  bdrv_dec_in_flight (node);
  if (ret >= 0)
    give_answer (&answer, pnum, map, file);
  return ret;
}

int coroutine_fn
bdrv_co_block_status_above (BlockDriverState *bs, BlockDriverState *base, int64_t offset, int64_t bytes,
                            int64_t *pnum, int64_t *map, BlockDriverState **file, int *depth)
{
  BdrvNode *leaf = bdrv_node (bs);
  int64_t leaf_bytes = bs->bytes;
  StatusAnswer answer = { .bytes = bytes };
  int status = 0;
  int layer = 0;

  if (bytes == 0 || bdrv_check_range (offset, bytes) < 0)
    return -EINVAL;

  bdrv_inc_in_flight (leaf);
  for (; bs && bs != base; bs = bs->backing, layer++)
    {
      int64_t n = answer.bytes; /* what all layers above have in common */
      status = co_node_status (bs, offset, n, &answer);
      if (status < 0 || (status & BDRV_BLOCK_ALLOCATED))
        break;
    }
  bdrv_dec_in_flight (leaf);
  if (status < 0)
    {
      if (depth)
        *depth = layer;
      return status;
    }

  status &= ~BDRV_BLOCK_EOF;
  if (offset >= leaf_bytes || offset + answer.bytes == leaf_bytes)
    status |= BDRV_BLOCK_EOF;
  if (depth && (status & BDRV_BLOCK_ALLOCATED))
    *depth = layer;
  give_answer (&answer, pnum, map, file);
  return status;
}

int coroutine_fn
bdrv_co_is_zero (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  if (bdrv_check_range (offset, bytes) < 0)
    return -EINVAL;
  while (bytes > 0)
    {
      int64_t n;
      int ret = bdrv_co_block_status_above (bs, NULL, offset, bytes, &n, NULL, NULL, NULL);
      if (ret < 0)
        return ret;
      if (!(ret & BDRV_BLOCK_ZERO))
        return 0;
      offset += n;
      bytes -= n;
    }
  return 1;
}
