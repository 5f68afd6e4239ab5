/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest writes, zeros and discards: what a block's state makes of them ([MS-VHDX] 2.5.1.1).
 *
 *                        part of a block                        all of it
 *   6                    in place                               in place
 *   7                    in place, then bits                    in place, then 6
 *   0 with a parent      7 with no bit, then as 7               the same
 *   0 without, 1, 2, 3   6 with zeros, then in place            the same
 *   zeros                as a write, but not where zeros show   2 where space may be given back, or nothing stored
 *   discard              nothing                                3
 *
 * A fixed image keeps its blocks: zeros are written, discards go to the file. */
#include "bitset.h"
#include "vhdx.h"

/* Sets [@bit, @bit + @n) of one page of a bitmap; *set: they were not all set before. */
static int coroutine_fn
set_bits_in_page (VhdxState *s, int64_t file_offset, uint64_t bit, uint64_t n, bool *set)
{
  VhdxPage page;
  VhdxHeldPage *held;
  bool all;
  int ret = vhdx_co_page_get (s, file_offset, &page);

  if (ret < 0)
    return ret;
  /* What a write after the first to the same sectors finds: nothing changes. */
  all = bitset_all (page.data, bit, n, true, BITSET_LSB_FIRST);
  vhdx_page_put (s, &page);
  if (all)
    return 0;
  ret = vhdx_co_page_hold (s, file_offset, &held);
  if (ret < 0)
    return ret;
  bitset_fill (held->data, bit, n, true, BITSET_LSB_FIRST);
  vhdx_page_mark_changed (s, held);
  vhdx_page_release (s, held);
  *set = true;
  return 0;
}

static int coroutine_fn
set_bits (VhdxState *s, const VhdxPiece *piece)
{
  uint64_t sector_size = s->metadata.logical_sector_size;
  uint64_t bit = piece->block % s->chunk_ratio * s->sectors_per_block + piece->in_block / sector_size;
  uint64_t end = bit + piece->bytes / sector_size;
  bool set = false;
  int64_t bitmap;
  int ret = vhdx_co_lookup_bitmap (s, piece->block / s->chunk_ratio, &bitmap);

  while (ret == 0 && bit < end)
    {
      uint64_t in_page = bit % (VHDX_PAGE * 8), n = MIN (end - bit, VHDX_PAGE * 8 - in_page);

      ret = set_bits_in_page (s, bitmap + round_down (bit / 8, VHDX_PAGE), in_page, n, &set);
      bit += n;
    }
  if (set)
    g_hash_table_add (s->filling, GSIZE_TO_POINTER (piece->block + 1));
  return ret;
}

static int coroutine_fn
write_present (VhdxState *s, const VhdxBlock *entry, const VhdxPiece *piece, const BdrvPayload *payload,
               int64_t done)
{
  int ret =
      bdrv_co_write_payload (s->bs->file, entry->file_offset + piece->in_block, piece->bytes, payload, done);

  if (ret < 0 || entry->state == VHDX_BLOCK_FULLY_PRESENT)
    return ret;
  /* After the data (I2): a round that copies the pages before this point does not claim it. */
  if (piece->bytes == s->metadata.block_size)
    return vhdx_co_promote (s, piece->block, entry->file_offset);
  return set_bits (s, piece);
}

/* Whether the range, which is not stored here, reads as zeros. */
static int coroutine_fn
reads_zero (VhdxState *s, VhdxBlockState state, int64_t offset, int64_t bytes)
{
  if (state != VHDX_BLOCK_NOT_PRESENT || !s->metadata.has_parent)
    return 1;
  /* A parent that is not open may hold anything. */
  if (!s->bs->backing)
    return 0;
  return bdrv_co_is_zero (s->bs->backing, offset, bytes);
}

/* Where the piece, the first of @bytes, is to be written: 1, 0 when what is there reads as the payload already, or
 * -errno. */
static int coroutine_fn
find_place (VhdxState *s, int64_t offset, const VhdxPiece *piece, int64_t bytes, const BdrvPayload *payload,
            VhdxBlock *entry)
{
  int ret = vhdx_co_lookup (s, piece->block, entry);

  if (G_UNLIKELY (ret < 0))
    return ret;
  if (!vhdx_is_present (entry->state))
    {
      uint64_t behind = div_round_up (bytes - piece->bytes, s->metadata.block_size);

      if (bdrv_payload_is_zero (payload))
        {
          ret = reads_zero (s, entry->state, offset, piece->bytes);
          if (ret != 0)
            return MIN (ret, 0);
          behind = 0; /* they may not need it */
        }
      ret = vhdx_co_allocate (s, piece->block, behind, entry);
    }
  return ret < 0 ? ret : 1;
}

/* How much of @bytes from @piece on, which stands at @entry, stands in one piece of the file and needs no more than
 * its data. */
static int64_t coroutine_fn
bytes_together (VhdxState *s, const VhdxPiece *piece, const VhdxBlock *entry, int64_t bytes)
{
  int64_t file_end = entry->file_offset + piece->in_block + piece->bytes;
  int64_t n = piece->bytes;
  VhdxBlock next = *entry;

  for (uint64_t block = piece->block + 1; n < bytes; block++)
    {
      if (next.state != VHDX_BLOCK_FULLY_PRESENT || vhdx_co_lookup (s, block, &next) < 0
          || next.state != VHDX_BLOCK_FULLY_PRESENT || next.file_offset != file_end)
        break;
      file_end += s->metadata.block_size;
      n += s->metadata.block_size;
    }
  return MIN (n, bytes);
}

/* Writes @piece, and of the @bytes from it on what can be written with it; piece->bytes becomes how much that is. */
static int coroutine_fn
write_piece (VhdxState *s, int64_t offset, VhdxPiece *piece, int64_t bytes, const BdrvPayload *payload,
             int64_t done)
{
  VhdxBlock entry;
  int ret = find_place (s, offset, piece, bytes, payload, &entry);

  if (ret <= 0)
    return ret;
  piece->bytes = bytes_together (s, piece, &entry, bytes);
  return write_present (s, &entry, piece, payload, done);
}

/* Every change by a guest is between these two. */
static int coroutine_fn
change_begin (VhdxState *s, uint64_t *epoch)
{
  while (G_UNLIKELY (s->moving > 0))
    co_queue_wait (&s->moving_done, NULL);
  *epoch = epochs_enter (&s->epochs);
  return vhdx_co_begin_changes (s, s->bs->same_content ? VHDX_SESSION_FILE : VHDX_SESSION_DATA);
}

static int coroutine_fn
change_end (VhdxState *s, uint64_t epoch, int ret)
{
  epochs_co_leave (&s->epochs, epoch);
  return ret < 0 ? ret : vhdx_co_maybe_publish (s);
}

static int coroutine_fn
write_range (VhdxState *s, int64_t offset, int64_t bytes, const BdrvPayload *payload)
{
  uint64_t epoch;
  int ret = change_begin (s, &epoch);

  for (int64_t done = 0; done < bytes && ret == 0;)
    {
      VhdxPiece piece = vhdx_piece_at (s, offset + done, bytes - done);

      ret = write_piece (s, offset + done, &piece, bytes - done, payload, done);
      done += piece.bytes;
    }
  return change_end (s, epoch, ret);
}

int coroutine_fn
vhdx_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset)
{
  BdrvPayload payload = { .qiov = qiov, .qiov_offset = qiov_offset };

  return write_range (bs->opaque, offset, bytes, &payload);
}

int coroutine_fn
vhdx_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                       int64_t src_offset)
{
  BdrvPayload payload = { .src = src, .src_offset = src_offset };

  return write_range (bs->opaque, offset, bytes, &payload);
}

int coroutine_fn
vhdx_co_zero_range (VhdxState *s, int64_t offset, int64_t bytes)
{
  BdrvPayload payload = { 0 };

  return write_range (s, offset, bytes, &payload);
}

/* --- zeros and discard ---------------------------------------------------------------------------------- */

static bool
is_whole_block (const VhdxState *s, int64_t offset, const VhdxPiece *piece)
{
  return piece->in_block == 0
         && (piece->bytes == s->metadata.block_size || offset + piece->bytes == s->bs->bytes);
}

/* Of a whole block: 1 when its state was enough, 0 when zeros are to be written, -errno. */
static int coroutine_fn
zero_whole_block (VhdxState *s, uint64_t block, int flags)
{
  VhdxBlock entry;
  int ret = vhdx_co_lookup (s, block, &entry);

  if (ret < 0)
    return ret;
  if (vhdx_is_present (entry.state) && !(flags & BDRV_REQ_MAY_UNMAP))
    return 0;
  /* Without a parent a block that was never written reads as zeros for every reader we know. */
  if (entry.state == VHDX_BLOCK_ZERO || (entry.state == VHDX_BLOCK_NOT_PRESENT && !s->metadata.has_parent))
    return 1;
  ret = vhdx_co_set_state (s, block, VHDX_BLOCK_ZERO);
  return ret < 0 ? ret : 1;
}

int coroutine_fn
vhdx_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  VhdxState *s = bs->opaque;
  BdrvPayload payload = { .zero_flags = flags };

  while (bytes > 0)
    {
      VhdxPiece piece = vhdx_piece_at (s, offset, bytes);
      uint64_t epoch;
      int ret = change_begin (s, &epoch);

      if (ret == 0 && is_whole_block (s, offset, &piece) && !vhdx_is_fixed (s))
        ret = zero_whole_block (s, piece.block, flags);
      if (ret == 0)
        ret = write_piece (s, offset, &piece, piece.bytes, &payload, 0);
      ret = change_end (s, epoch, ret);
      if (ret < 0)
        return ret;
      offset += piece.bytes;
      bytes -= piece.bytes;
    }
  return 0;
}

static int coroutine_fn
discard_piece (VhdxState *s, int64_t offset, const VhdxPiece *piece)
{
  VhdxBlock entry;
  int ret = vhdx_co_lookup (s, piece->block, &entry);

  if (ret < 0 || !vhdx_is_present (entry.state))
    return ret;
  if (vhdx_is_fixed (s))
    return bdrv_co_pdiscard (s->bs->file, entry.file_offset + piece->in_block, piece->bytes);
  /* Part of a block stays; and a block that shows the parent is not touched. */
  if (!is_whole_block (s, offset, piece))
    return 0;
  return vhdx_co_set_state (s, piece->block, VHDX_BLOCK_UNMAPPED);
}

int coroutine_fn
vhdx_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  VhdxState *s = bs->opaque;

  while (bytes > 0)
    {
      VhdxPiece piece = vhdx_piece_at (s, offset, bytes);
      uint64_t epoch;
      int ret = change_begin (s, &epoch);

      if (ret == 0)
        ret = discard_piece (s, offset, &piece);
      ret = change_end (s, epoch, ret);
      if (ret < 0)
        return ret;
      offset += piece.bytes;
      bytes -= piece.bytes;
    }
  return 0;
}
