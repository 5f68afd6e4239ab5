/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another parent, or none ([MS-VHDX] 2.6.2.1, 2.6.2.6).  Whoever asks has stored what is to be seen otherwise than the
 * new parent shows it, so what a guest sees does not change, and DataWriteGuid does not either: children stay linked.
 *
 * Another parent is another locator, one transaction of the log.
 *
 * None.  The parents show nothing but zeros where this image has nothing.  What a crash between two steps leaves:
 *
 *   1  state 7: zeros in the sectors that are not present, flush,    7 with its old bits, zeros under those not set;
 *      then state 6                                                  or 6
 *   2  states and bitmap blocks without a need go (reduce.c): no     an image with a parent, no block of which needs
 *      block is in state 7 and no bitmap entry is left               its sector bitmaps
 *   3  has_parent is cleared and the locator goes, one transaction   a dynamic image: state 0 reads as zeros
 *
 * Before 3 is durable the parent is still needed, and there; the same steps start again.  Guests' changes wait from
 * before 1 until after 3: none of them may make a block partially present.
 */
#include "vhdx.h"

/* --- another ------------------------------------------------------------------------------------------------ */

static bool
check_parent (const VhdxState *s, const BlockDriverState *parent, GError **error)
{
  const VhdxMetadata *of_parent;

  if (!s->metadata.has_parent)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                      "it has no parent, and a VHDX that was made without cannot get one");
      return false;
    }
  if (!bdrv_check_parent_format (s->bs, parent, vhdx_parent_formats, error))
    return false;
  of_parent = &((const VhdxState *)parent->opaque)->metadata;
  if (of_parent->logical_sector_size == s->metadata.logical_sector_size)
    return true;
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                  "its logical sectors have %u bytes, those of %s have %u: it cannot be the parent",
                  s->metadata.logical_sector_size, parent->filename, of_parent->logical_sector_size);
  return false;
}

static bool coroutine_fn
link_to_parent (VhdxState *s, const BlockParentChange *change, GError **error)
{
  g_autoptr (GArray) entries = NULL;
  g_autoptr (GByteArray) item = NULL;

  if (!check_parent (s, change->parent, error))
    return false;
  item = vhdx_locator_make (s->bs, change, &entries, error);
  if (!item || !vhdx_co_replace_item (s, &vhdx_guid_locator, item->data, item->len, error))
    return false;
  g_array_unref (s->metadata.locator);
  s->metadata.locator = g_steal_pointer (&entries);
  return true;
}

/* --- none --------------------------------------------------------------------------------------------------- */

/* Step 1 of one block, which is partially present; without a bit it is left to step 2. */
static int coroutine_fn
fill_block (VhdxState *s, uint64_t block, int64_t file_offset)
{
  VhdxPiece piece = { block, 0, vhdx_bytes_in_block (s, block) };
  g_autoptr (GArray) zeros = g_array_new (false, false, sizeof (BdrvWrite));
  bool any_present = false;
  int ret;

  while (piece.bytes > 0)
    {
      BdrvWrite zero = { file_offset + piece.in_block, 0, NULL };
      bool present;

      ret = vhdx_co_bitmap_run (s, &piece, &zero.bytes, &present);
      if (ret < 0)
        return ret;
      any_present = any_present || present;
      if (!present)
        g_array_append_val (zeros, zero);
      piece.in_block += zero.bytes;
      piece.bytes -= zero.bytes;
    }
  if (!any_present)
    return 0;
  ret = bdrv_co_write_batch (s->bs->file, (const BdrvWrite *)(const void *)zeros->data, zeros->len);
  /* The round that says so flushes first (W1). */
  return ret < 0 ? ret : vhdx_co_promote (s, block, file_offset);
}

static int coroutine_fn
fill_entry (VhdxState *s, uint64_t index, uint64_t value, G_GNUC_UNUSED void *opaque)
{
  uint64_t block = vhdx_bat_index_block (s, index);
  int ret;

  if (vhdx_bat_index_is_bitmap (s, index) || block >= s->payload_blocks
      || (value & VHDX_BAT_STATE_MASK) != VHDX_BLOCK_PARTIALLY_PRESENT)
    return 0;
  ret = fill_block (s, block, value & VHDX_BAT_OFFSET_MASK);
  return ret < 0 ? ret : vhdx_co_maybe_publish (s);
}

/* Steps 1 and 2. */
static int coroutine_fn
make_independent (VhdxState *s)
{
  int ret = vhdx_co_begin_changes (s, VHDX_SESSION_FILE);

  if (ret == 0)
    ret = vhdx_co_publish (s);
  if (ret == 0)
    ret = vhdx_co_for_each_entry (s, fill_entry, NULL);
  return ret < 0 ? ret : vhdx_co_reduce (s->bs);
}

/* Step 3. */
static bool coroutine_fn
clear_parent (VhdxState *s, GError **error)
{
  /* Which of its blocks a disk with a parent keeps is not said: without one it is dynamic, not fixed. */
  const Le32 parameters[2] = { le32 (s->metadata.block_size), le32 (0) };
  const VhdxItemChange changes[] = {
    { VHDX_ITEM_REPLACE, vhdx_guid_parameters, 0, parameters, sizeof parameters },
    { VHDX_ITEM_REMOVE, vhdx_guid_locator, 0, NULL, 0 },
  };

  if (!vhdx_co_change_items (s, changes, G_N_ELEMENTS (changes), error))
    return false;
  s->metadata.has_parent = false;
  s->metadata.leave_allocated = false;
  g_clear_pointer (&s->metadata.locator, g_array_unref);
  return vhdx_refresh_sizes (s, error);
}

static bool coroutine_fn
give_up_parent (VhdxState *s, GError **error)
{
  bool ok;
  int ret;

  if (!s->metadata.has_parent)
    return true;
  vhdx_co_hold_writers (s);
  ret = make_independent (s);
  if (ret < 0)
    bdrv_set_error_errno (error, s->bs, ret, "cannot store zeros where the parent has none");
  ok = ret == 0 && clear_parent (s, error);
  vhdx_co_release_writers (s);
  return ok;
}

bool
vhdx_check_parent_change (BlockDriverState *bs, const BlockParentChange *change, GError **error)
{
  VhdxState *s = bs->opaque;
  g_autoptr (GArray) entries = NULL;
  g_autoptr (GByteArray) item = NULL;

  if (vhdx_is_fixed (s))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "a fixed image cannot have a parent");
      return false;
    }
  if (!change->parent)
    return true;
  if (!check_parent (s, change->parent, error))
    return false;
  item = vhdx_locator_make (bs, change, &entries, error);
  return item != NULL;
}

bool coroutine_fn
vhdx_co_change_parent (BlockDriverState *bs, const BlockParentChange *change, GError **error)
{
  VhdxState *s = bs->opaque;

  return change->parent ? link_to_parent (s, change, error) : give_up_parent (s, error);
}
