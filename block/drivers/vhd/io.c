/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest requests: a request is cut at block borders, and in differencing images at the borders of runs of
 * equal bits; each piece goes to the file or to the parent. */
#include "vhd.h"

/* The part of a request that lies in one block. */
typedef struct
{
  uint32_t block;
  int64_t in_block; /* bytes from the start of the block */
  int64_t bytes;
} Piece;

static inline Piece
piece_at (const VhdState *s, int64_t offset, int64_t bytes)
{
  Piece piece = { offset / s->block_size, offset & (s->block_size - 1), 0 };

  piece.bytes = MIN (bytes, s->block_size - piece.in_block);
  return piece;
}

static inline int64_t
payload_offset (const VhdState *s, uint32_t sector, int64_t in_block)
{
  return vhd_sector_to_offset (sector) + s->bitmap_bytes + in_block;
}

/* Who comes to the start of a block will come to the next one: its bitmap is read while others still work in this
 * block, or all of them would stand at the border and wait for it.  Errors show when the bitmap is needed. */
static void coroutine_fn
read_ahead (VhdState *s, const Piece *piece)
{
  uint32_t next = piece->block + 1;
  VhdBitmap *bitmap;
  uint32_t sector;

  if (piece->in_block != 0 || next >= s->blocks || vhd_bitmap_peek (s, next))
    return;
  if (vhd_co_lookup (s, next, &sector) == 0 && sector != VHD_BAT_UNUSED
      && vhd_co_bitmap_get (s, next, sector, &bitmap) == 0)
    vhd_bitmap_put (s, bitmap);
}

/* --- reading -------------------------------------------------------------------------------------------- */

static int coroutine_fn
read_parent (VhdState *s, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  if (s->bs->backing)
    return bdrv_co_preadv (s->bs->backing, offset, bytes, qiov, qiov_offset);
  io_vector_memset (qiov, qiov_offset, 0, bytes);
  return 0;
}

/* By the bitmap: what is not present comes from the parent. */
static int coroutine_fn
read_by_bitmap (VhdState *s, uint32_t sector, const Piece *piece, int64_t offset, const IoVector *qiov,
                size_t qiov_offset)
{
  uint32_t at = piece->in_block / VHD_SECTOR_SIZE;
  uint32_t end = at + piece->bytes / VHD_SECTOR_SIZE;
  VhdBitmap *bitmap;
  int ret;

  ret = vhd_co_bitmap_get (s, piece->block, sector, &bitmap);
  if (ret < 0)
    return ret;
  while (at < end && ret == 0)
    {
      bool present;
      uint32_t run = vhd_bitmap_run (s, bitmap, at, end, &present);
      int64_t bytes = (int64_t)run * VHD_SECTOR_SIZE;
      int64_t file_offset = payload_offset (s, sector, (int64_t)at * VHD_SECTOR_SIZE);

      if (!present)
        ret = read_parent (s, offset, bytes, qiov, qiov_offset);
      else if (G_UNLIKELY (file_offset + bytes > bdrv_length (s->bs->file)))
        ret = -EIO; /* a block cut short by the end of the file: never zeros for what was there */
      else
        ret = bdrv_co_preadv (s->bs->file, file_offset, bytes, qiov, qiov_offset);
      at += run;
      offset += bytes;
      qiov_offset += bytes;
    }
  vhd_bitmap_put (s, bitmap);
  if (ret == 0)
    read_ahead (s, piece);
  return ret;
}

static int coroutine_fn
read_pieces (VhdState *s, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  /* A dynamic image shows what its blocks hold, whatever their bits say, and with or without its end footer: a
   * writable open puts that back, and must not change what a guest sees.  What a killed tapdisk left out of the last
   * block is behind the end of the file and reads as zeros. */
  bool by_bitmap = vhd_is_differencing (s);

  while (bytes > 0)
    {
      Piece piece = piece_at (s, offset, bytes);
      uint32_t sector;
      int ret = vhd_co_lookup (s, piece.block, &sector);

      if (G_UNLIKELY (ret < 0))
        return ret;
      if (sector == VHD_BAT_UNUSED)
        ret = read_parent (s, offset, piece.bytes, qiov, qiov_offset);
      else if (by_bitmap)
        ret = read_by_bitmap (s, sector, &piece, offset, qiov, qiov_offset);
      else
        ret = bdrv_co_preadv (s->bs->file, payload_offset (s, sector, piece.in_block), piece.bytes, qiov,
                              qiov_offset);
      if (ret < 0)
        return ret;
      offset += piece.bytes;
      qiov_offset += piece.bytes;
      bytes -= piece.bytes;
    }
  return 0;
}

int coroutine_fn
vhd_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  VhdState *s = bs->opaque;
  uint64_t epoch;
  int ret;

  if (vhd_is_fixed (s))
    return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
  epoch = epochs_enter (&s->epochs);
  ret = read_pieces (s, offset, bytes, qiov, qiov_offset);
  epochs_co_leave (&s->epochs, epoch);
  return ret;
}

/* --- writing -------------------------------------------------------------------------------------------- */

/* Before data goes below a zero bit of a dynamic image, all bits of the block are set, durably: what is there
 * is zero until then, and readers that honour bits and readers that do not must see the same. */
static int coroutine_fn
fill_dynamic_bitmap (VhdState *s, VhdBitmap *bitmap)
{
  int ret = 0;

  co_mutex_lock (&s->publish_lock);
  if (!bitmap->all_set)
    {
      g_autofree uint8_t *bits = g_malloc0 (s->bitmap_bytes);

      memset (bits, 0xFF, div_round_up (s->sectors_per_block, 8));
      ret = bdrv_co_pwrite (s->bs->file, vhd_sector_to_offset (bitmap->sector), s->bitmap_bytes, bits, 0);
      if (ret == 0)
        ret = bdrv_co_flush (s->bs->file);
      if (ret == 0)
        {
          g_clear_pointer (&bitmap->bits, g_free);
          bitmap->all_set = true;
        }
    }
  co_mutex_unlock (&s->publish_lock);
  return ret;
}

/* Whether the range reads as zeros without being stored here.  What a parent shows that is not open, nobody knows. */
static int coroutine_fn
parent_is_zero (VhdState *s, int64_t offset, int64_t bytes)
{
  if (s->bs->backing)
    return bdrv_co_is_zero (s->bs->backing, offset, bytes);
  return !vhd_is_differencing (s);
}

static int coroutine_fn
write_existing (VhdState *s, uint32_t sector, const Piece *piece, const BdrvPayload *payload, int64_t done)
{
  int64_t file_offset = payload_offset (s, sector, piece->in_block);
  VhdRecent *recent = vhd_recent (s, piece->block);
  VhdBitmap *bitmap;
  int ret;

  /* No bitmap changes: what every write after the first into a dynamic block finds. */
  if (vhd_recent_is (recent, piece->block) && recent->full)
    return bdrv_co_write_payload (s->bs->file, file_offset, piece->bytes, payload, done);

  ret = vhd_co_bitmap_get (s, piece->block, sector, &bitmap);
  if (ret < 0)
    return ret;
  if (!vhd_is_differencing (s))
    {
      if (!bitmap->all_set)
        ret = fill_dynamic_bitmap (s, bitmap);
      /* Looked for again: filling yields, and the block may have gone. */
      recent = vhd_recent (s, piece->block);
      if (ret == 0 && vhd_recent_is (recent, piece->block) && recent->sector == sector)
        recent->full = true;
    }
  if (ret == 0)
    ret = bdrv_co_write_payload (s->bs->file, file_offset, piece->bytes, payload, done);
  /* After the data (I2): a round that copies the bits before this point does not claim it. */
  if (ret == 0)
    vhd_bitmap_set (s, bitmap, piece->in_block / VHD_SECTOR_SIZE, piece->bytes / VHD_SECTOR_SIZE);
  vhd_bitmap_put (s, bitmap);
  if (ret == 0)
    read_ahead (s, piece);
  return ret;
}

static int coroutine_fn
write_new (VhdState *s, int64_t offset, const Piece *piece, const BdrvPayload *payload, int64_t done)
{
  uint32_t sector;
  int ret;

  if (bdrv_payload_is_zero (payload))
    {
      ret = parent_is_zero (s, offset, piece->bytes);
      if (ret != 0)
        return MIN (ret, 0);
    }
  ret = vhd_co_allocate (s, piece->block, &sector);
  if (ret < 0)
    return ret;
  return write_existing (s, sector, piece, payload, done);
}

static int coroutine_fn
write_pieces (VhdState *s, int64_t offset, int64_t bytes, const BdrvPayload *payload)
{
  int64_t done = 0;

  while (done < bytes)
    {
      Piece piece = piece_at (s, offset + done, bytes - done);
      uint32_t sector;
      int ret = vhd_co_lookup (s, piece.block, &sector);

      if (ret == 0 && sector != VHD_BAT_UNUSED)
        ret = write_existing (s, sector, &piece, payload, done);
      else if (ret == 0)
        ret = write_new (s, offset + done, &piece, payload, done);
      if (ret < 0)
        return ret;
      done += piece.bytes;
    }
  return 0;
}

static int coroutine_fn
write_range (VhdState *s, int64_t offset, int64_t bytes, const BdrvPayload *payload)
{
  uint64_t epoch = epochs_enter (&s->epochs);
  int ret = write_pieces (s, offset, bytes, payload);

  epochs_co_leave (&s->epochs, epoch);
  if (ret == 0)
    ret = vhd_co_maybe_publish (s);
  return ret;
}

int coroutine_fn
vhd_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  VhdState *s = bs->opaque;
  BdrvPayload payload = { .qiov = qiov, .qiov_offset = qiov_offset };

  if (vhd_is_fixed (s))
    return bdrv_co_pwritev (bs->file, offset, bytes, qiov, qiov_offset, 0);
  return write_range (s, offset, bytes, &payload);
}

int coroutine_fn
vhd_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                      int64_t src_offset)
{
  VhdState *s = bs->opaque;
  BdrvPayload payload = { .src = src, .src_offset = src_offset };

  if (vhd_is_fixed (s))
    return bdrv_co_copy_range_to (bs->file, offset, bytes, src, src_offset);
  return write_range (s, offset, bytes, &payload);
}

int coroutine_fn
vhd_co_zero_range (VhdState *s, int64_t offset, int64_t bytes)
{
  BdrvPayload payload = { 0 };

  return write_range (s, offset, bytes, &payload);
}

/* --- zeros and discard ---------------------------------------------------------------------------------- */

/* Drops the whole blocks of the range that read as zeros without this image. */
static int coroutine_fn
drop_blocks (VhdState *s, int64_t offset, int64_t bytes, int64_t *dropped)
{
  int64_t end = MIN (offset + bytes, s->bs->bytes);

  *dropped = 0;
  while (offset < end)
    {
      Piece piece = piece_at (s, offset, end - offset);
      bool whole =
          piece.in_block == 0 && (piece.bytes == s->block_size || offset + piece.bytes == s->bs->bytes);
      int ret = whole ? parent_is_zero (s, offset, piece.bytes) : 0;

      if (ret == 1)
        ret = vhd_co_drop (s, piece.block);
      else
        return MIN (ret, 0);
      if (ret < 0)
        return ret;
      *dropped += piece.bytes;
      offset += piece.bytes;
    }
  return 0;
}

int coroutine_fn
vhd_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  VhdState *s = bs->opaque;
  BdrvPayload payload = { .zero_flags = flags };
  int64_t dropped;
  int ret;

  if (vhd_is_fixed (s))
    return bdrv_co_pwrite_zeroes (bs->file, offset, bytes, flags);
  while (bytes > 0)
    {
      int64_t n;

      if (flags & BDRV_REQ_MAY_UNMAP)
        {
          ret = drop_blocks (s, offset, bytes, &dropped);
          if (ret < 0)
            return ret;
          offset += dropped;
          bytes -= dropped;
          if (bytes == 0)
            break;
        }
      n = piece_at (s, offset, bytes).bytes;
      ret = write_range (s, offset, n, &payload);
      if (ret < 0)
        return ret;
      offset += n;
      bytes -= n;
    }
  return vhd_co_maybe_publish (s);
}

int coroutine_fn
vhd_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  VhdState *s = bs->opaque;

  if (vhd_is_fixed (s))
    return bdrv_co_pdiscard (bs->file, offset, bytes);
  while (bytes > 0)
    {
      int64_t dropped, n;
      int ret = drop_blocks (s, offset, bytes, &dropped);

      if (ret < 0)
        return ret;
      /* A block over data of the parent stays: without it the parent would show through. */
      n = MIN (bytes,
               dropped + (dropped < bytes ? piece_at (s, offset + dropped, bytes - dropped).bytes : 0));
      offset += n;
      bytes -= n;
    }
  return vhd_co_maybe_publish (s);
}

/* --- status --------------------------------------------------------------------------------------------- */

int coroutine_fn
vhd_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file)
{
  VhdState *s = bs->opaque;
  Piece piece;
  VhdBitmap *bitmap;
  uint32_t sector;
  bool present = true;
  int ret;

  if (vhd_is_fixed (s))
    {
      *pnum = bytes;
      *map = offset;
      *file = bs->file;
      return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED;
    }

  piece = piece_at (s, offset, bytes);
  ret = vhd_co_lookup (s, piece.block, &sector);
  if (ret < 0)
    return ret;
  if (sector == VHD_BAT_UNUSED)
    {
      int64_t run = vhd_co_unused_run (s, piece.block, div_round_up (piece.in_block + bytes, s->block_size));

      *pnum = run <= 0 ? piece.bytes : MIN (bytes, run * s->block_size - piece.in_block);
      return 0;
    }

  *pnum = piece.bytes;
  if (vhd_is_differencing (s))
    {
      uint32_t first = piece.in_block / VHD_SECTOR_SIZE;

      ret = vhd_co_bitmap_get (s, piece.block, sector, &bitmap);
      if (ret < 0)
        return ret;
      *pnum = VHD_SECTOR_SIZE
              * (int64_t)vhd_bitmap_run (s, bitmap, first, first + piece.bytes / VHD_SECTOR_SIZE, &present);
      vhd_bitmap_put (s, bitmap);
    }
  if (!present)
    return 0;
  *map = payload_offset (s, sector, piece.in_block);
  *file = bs->file;
  return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED;
}
