/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether one image shows what another does; see same.h. */
#include "same.h"

#include <errno.h>
#include <string.h>

/* Read and compared in pieces of this size. */
#define PIECE_BYTES ((int64_t)1024 * 1024)

int
same_pair_init (SamePair *pair, BlockDriverState *a, BlockDriverState *b)
{
  *pair = (SamePair){ .side = { a, b } };
  for (int i = 0; i < 2; i++)
    pair->buffer[i] = bdrv_try_alloc_buffer (pair->side[i], PIECE_BYTES);
  return pair->buffer[0] && pair->buffer[1] ? 0 : -ENOMEM;
}

void
same_pair_clear (SamePair *pair)
{
  for (int i = 0; i < 2; i++)
    bdrv_free_buffer (pair->buffer[i]);
  *pair = (SamePair){ 0 };
}

/* *@bytes is cut to what the answer is true for: 1: @bs is known to show zeros there; 0 or -errno. */
static int coroutine_fn
co_is_zero (BlockDriverState *bs, int64_t offset, int64_t *bytes)
{
  int status = bdrv_co_block_status_above (bs, NULL, offset, *bytes, bytes, NULL, NULL, NULL);

  return status < 0 ? status : !(status & BDRV_BLOCK_ALLOCATED) || (status & BDRV_BLOCK_ZERO);
}

static int coroutine_fn
co_compare_piece (const SamePair *pair, int64_t offset, int64_t bytes)
{
  for (int i = 0; i < 2; i++)
    {
      int ret = bdrv_co_pread (pair->side[i], offset, bytes, pair->buffer[i]);

      if (ret < 0)
        return ret;
    }
  return memcmp (pair->buffer[0], pair->buffer[1], (size_t)bytes) == 0;
}

int coroutine_fn
same_co_range (const SamePair *pair, int64_t offset, int64_t bytes)
{
  const int64_t end = offset + bytes;
  int same = end <= bdrv_length (pair->side[0]) && end <= bdrv_length (pair->side[1]);

  for (int64_t run; same > 0 && offset < end; offset += run)
    {
      run = end - offset;
      int zero = co_is_zero (pair->side[0], offset, &run);
      if (zero > 0)
        zero = co_is_zero (pair->side[1], offset, &run);
      if (zero < 0)
        return zero;
      if (zero > 0)
        continue;
      run = MIN (run, PIECE_BYTES);
      same = co_compare_piece (pair, offset, run);
    }
  return same;
}
