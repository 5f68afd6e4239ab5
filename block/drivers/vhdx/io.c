/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading, and what is where.  A request is cut at block borders, and in partially present blocks at the borders
 * of runs of equal bits ([MS-VHDX] 2.5.1.1, 2.4). */
#include "bitset.h"
#include "vhdx.h"

int coroutine_fn
vhdx_co_bitmap_run (VhdxState *s, const VhdxPiece *piece, int64_t *bytes, bool *present)
{
  int64_t sector_size = s->metadata.logical_sector_size;
  uint64_t chunk = piece->block / s->chunk_ratio;
  uint64_t bit = piece->block % s->chunk_ratio * s->sectors_per_block + piece->in_block / sector_size;
  uint64_t end = bit + piece->bytes / sector_size;
  int64_t bitmap;
  int ret = vhdx_co_lookup_bitmap (s, chunk, &bitmap);

  if (ret < 0)
    return ret;
  *bytes = 0;
  while (bit < end)
    {
      uint64_t in_page = bit % (VHDX_PAGE * 8);
      uint64_t page_end = MIN (VHDX_PAGE * 8, in_page + (end - bit));
      VhdxPage page;
      bool value;
      size_t run;

      ret = vhdx_co_page_get (s, bitmap + bit / 8, &page);
      if (ret < 0)
        return *bytes > 0 ? 0 : ret;
      run = bitset_run (page.data, in_page, page_end, &value, BITSET_LSB_FIRST);
      vhdx_page_put (s, &page);
      if (*bytes > 0 && value != *present)
        break;
      *present = value;
      *bytes += run * sector_size;
      bit += run;
      if (in_page + run < page_end)
        break;
    }
  return 0;
}

/* A parent that was given up may still be attached, and show more than the disk had then. */
static bool
has_open_parent (const VhdxState *s)
{
  return s->metadata.has_parent && s->bs->backing;
}

static int coroutine_fn
read_parent (VhdxState *s, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  if (has_open_parent (s))
    return bdrv_co_preadv (s->bs->backing, offset, bytes, qiov, qiov_offset);
  io_vector_memset (qiov, qiov_offset, 0, bytes);
  return 0;
}

static int coroutine_fn
read_by_bitmap (VhdxState *s, const VhdxBlock *entry, VhdxPiece piece, int64_t offset, const IoVector *qiov,
                size_t qiov_offset)
{
  while (piece.bytes > 0)
    {
      int64_t bytes;
      bool present = false;
      int ret = vhdx_co_bitmap_run (s, &piece, &bytes, &present);

      if (ret == 0 && present)
        ret = vhdx_co_readv (s, entry->file_offset + piece.in_block, bytes, qiov, qiov_offset);
      else if (ret == 0)
        ret = read_parent (s, offset, bytes, qiov, qiov_offset);
      if (ret < 0)
        return ret;
      piece.in_block += bytes;
      piece.bytes -= bytes;
      offset += bytes;
      qiov_offset += bytes;
    }
  return 0;
}

static int coroutine_fn
read_piece (VhdxState *s, const VhdxPiece *piece, int64_t offset, const IoVector *qiov, size_t qiov_offset)
{
  VhdxBlock entry;
  int ret = vhdx_co_lookup (s, piece->block, &entry);

  if (ret < 0)
    return ret;
  switch (entry.state)
    {
    case VHDX_BLOCK_FULLY_PRESENT:
      return vhdx_co_readv (s, entry.file_offset + piece->in_block, piece->bytes, qiov, qiov_offset);
    case VHDX_BLOCK_PARTIALLY_PRESENT:
      return read_by_bitmap (s, &entry, *piece, offset, qiov, qiov_offset);
    case VHDX_BLOCK_NOT_PRESENT:
      return read_parent (s, offset, piece->bytes, qiov, qiov_offset);
    default:
      /* Undefined, zero, unmapped: never the parent's data. */
      io_vector_memset (qiov, qiov_offset, 0, piece->bytes);
      return 0;
    }
}

int coroutine_fn
vhdx_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  VhdxState *s = bs->opaque;
  uint64_t epoch = epochs_enter (&s->epochs);
  int ret = 0;

  while (bytes > 0 && ret == 0)
    {
      VhdxPiece piece = vhdx_piece_at (s, offset, bytes);

      ret = read_piece (s, &piece, offset, qiov, qiov_offset);
      offset += piece.bytes;
      qiov_offset += piece.bytes;
      bytes -= piece.bytes;
    }
  epochs_co_leave (&s->epochs, epoch);
  return ret;
}

/* How much of @bytes, from @piece on, the rest of its block and the blocks behind it in @state are. */
static int64_t coroutine_fn
blocks_run (VhdxState *s, const VhdxPiece *piece, int64_t bytes, VhdxBlockState state)
{
  uint64_t behind = div_round_up (bytes - piece->bytes, s->metadata.block_size);
  int64_t run = behind > 0 ? vhdx_co_state_run (s, piece->block + 1, behind, state) : 0;

  return MIN (bytes, piece->bytes + MAX (run, 0) * (int64_t)s->metadata.block_size);
}

int coroutine_fn
vhdx_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file)
{
  VhdxState *s = bs->opaque;
  VhdxPiece piece = vhdx_piece_at (s, offset, bytes);
  VhdxBlock entry;
  bool present = true;
  int ret = vhdx_co_lookup (s, piece.block, &entry);

  if (ret < 0)
    return ret;
  *pnum = piece.bytes;
  if (!vhdx_is_present (entry.state))
    {
      *pnum = blocks_run (s, &piece, bytes, entry.state);
      /* Without a backing node nobody answers, and zeros show; one that is not the parent any more is not asked. */
      if (entry.state == VHDX_BLOCK_NOT_PRESENT && (has_open_parent (s) || !s->bs->backing))
        return 0;
      return BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
    }
  if (entry.state == VHDX_BLOCK_PARTIALLY_PRESENT)
    {
      ret = vhdx_co_bitmap_run (s, &piece, pnum, &present);
      if (ret < 0)
        return ret;
      /* The blocks behind often have nothing either. */
      if (!present && *pnum == piece.bytes && bytes > piece.bytes)
        *pnum = blocks_run (s, &piece, bytes, VHDX_BLOCK_NOT_PRESENT);
      if (!present)
        return 0;
    }
  /* What the log covers stands nowhere in the file. */
  if (vhdx_overlay_touches (&s->overlay, entry.file_offset + piece.in_block, *pnum))
    return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
  *map = entry.file_offset + piece.in_block;
  *file = bs->file;
  return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED;
}
