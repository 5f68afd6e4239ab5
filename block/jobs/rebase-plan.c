/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a rebase has to look at: see rebase-plan.h. */
#include "rebase-plan.h"

#include "checked.h"

#include <errno.h>

/* Ranges are planned in pieces so long. */
#define PLAN_DATA_BYTES (INT64_C (2) << 20)
#define PLAN_ZERO_BYTES (INT64_C (1) << 30)

/* --- the layers that both chains have -------------------------------------------------------------------- */

/* From the base upwards: a file below which the chains part (its parent was found in two places) shows two things. */
static void
find_common (RebaseCursor *cursor)
{
  BlockDriverState *old = cursor->leaf->backing;
  int old_depth = bdrv_chain_depth (old), new_depth = bdrv_chain_depth (cursor->parent);

  while (old_depth > 0 && new_depth > 0)
    {
      BlockDriverState *a = bdrv_chain_get (old, --old_depth);
      BlockDriverState *b = bdrv_chain_get (cursor->parent, --new_depth);

      if (!bdrv_same_image (a, b))
        return;
      cursor->old_common = a;
      cursor->new_common = b;
    }
}

void
rebase_cursor_init (RebaseCursor *cursor, BlockDriverState *leaf, BlockDriverState *parent)
{
  *cursor = (RebaseCursor){ .leaf = leaf, .parent = parent };
  find_common (cursor);
}

/* --- looking --------------------------------------------------------------------------------------------- */

/* What a chain is known to show in a range. */
typedef struct
{
  bool decided; /* by a layer above the common ones */
  bool zero;
  int depth;              /* of the layer that decides, from the top of the chain */
  BlockDriverState *file; /* where it stands in one piece, or NULL */
  int64_t file_offset;
} ChainView;

/* The nodes from @top down to, not including, @base.  *@bytes becomes what the answer is true for. */
static int coroutine_fn
chain_co_look (RebaseCursor *cursor, BlockDriverState *top, BlockDriverState *base, int64_t *bytes,
               ChainView *view)
{
  *view = (ChainView){ .zero = true };
  if (top == base)
    return 0;

  int ret = bdrv_co_block_status_above (top, base, cursor->offset, *bytes, bytes, &view->file_offset,
                                        &view->file, &view->depth);
  if (ret < 0)
    {
      cursor->failed = bdrv_chain_get (top, view->depth);
      return ret;
    }
  view->decided = ret & BDRV_BLOCK_ALLOCATED;
  view->zero = !view->decided || (ret & BDRV_BLOCK_ZERO);
  if (!(ret & BDRV_BLOCK_OFFSET_VALID))
    view->file = NULL;
  return 0;
}

/* The same for a range that no layer above @common decides, from @common down. */
static int coroutine_fn
chain_co_look_below (RebaseCursor *cursor, BlockDriverState *top, BlockDriverState *common, int64_t *bytes,
                     ChainView *view)
{
  int ret = chain_co_look (cursor, common, NULL, bytes, view);

  view->depth += bdrv_chain_depth (top) - bdrv_chain_depth (common);
  return ret;
}

/* Both chains at cursor->offset, where the leaf decides nothing in *@bytes.  1: they may differ, 0: not, -errno. */
static int coroutine_fn
cursor_co_compare (RebaseCursor *cursor, int64_t *bytes, ChainView *old_view, ChainView *new_view)
{
  BlockDriverState *old = cursor->leaf->backing;
  int ret = chain_co_look (cursor, old, cursor->old_common, bytes, old_view);

  if (ret == 0)
    ret = chain_co_look (cursor, cursor->parent, cursor->new_common, bytes, new_view);
  if (ret < 0)
    return ret;
  if (cursor->old_common != NULL)
    {
      bool old_decides = old_view->decided, new_decides = new_view->decided;

      if (!old_decides && !new_decides)
        return 0;
      if (!old_decides)
        ret = chain_co_look_below (cursor, old, cursor->old_common, bytes, old_view);
      else if (!new_decides)
        ret = chain_co_look_below (cursor, cursor->parent, cursor->new_common, bytes, new_view);
      if (ret < 0)
        return ret;
    }
  return !(old_view->zero && new_view->zero);
}

/* Fills cursor->run with what comes next; 1, 0 at the end, -errno. */
static int coroutine_fn
cursor_co_look (void *opaque)
{
  RebaseCursor *cursor = opaque;
  int64_t end = bdrv_length (cursor->leaf);

  while (cursor->run.bytes == 0 && cursor->offset < end)
    {
      ChainView old_view, new_view;
      int64_t bytes;
      int ret = bdrv_co_block_status (cursor->leaf, cursor->offset, end - cursor->offset, &bytes, NULL, NULL);

      if (ret < 0)
        {
          cursor->failed = cursor->leaf;
          return ret;
        }
      if (!(ret & BDRV_BLOCK_ALLOCATED))
        {
          ret = cursor_co_compare (cursor, &bytes, &old_view, &new_view);
          if (ret < 0)
            return ret;
          if (ret > 0)
            cursor->run = (CopyItem){
              .offset = cursor->offset,
              .bytes = bytes,
              .zero = old_view.zero,
              /* Whoever decides them, zeros are one run. */
              .depth = old_view.zero ? 0 : 1 + old_view.depth,
              .file = new_view.zero ? old_view.file : NULL,
              .file_offset = old_view.file_offset,
            };
        }
      cursor->offset += bytes;
    }
  return cursor->run.bytes > 0;
}

int coroutine_fn
rebase_cursor_co_next (RebaseCursor *cursor, const CopyEngine *engine, int64_t max_data, int64_t max_zero,
                       CopyItem *item)
{
  return copy_co_join_runs (&cursor->run, cursor_co_look, cursor, engine, max_data, max_zero, item);
}

/* --- planning -------------------------------------------------------------------------------------------- */

int64_t
rebase_zero_block_bytes (const BlockDriverState *leaf)
{
  return leaf->drv->caps & BLOCK_CAP_ZERO_BLOCKS ? leaf->limits.discard_alignment : 0;
}

/* What @item may take up. */
static void
count_item (SpaceNeed *need, const BlockDriverState *leaf, const CopyItem *item)
{
  int64_t block = rebase_zero_block_bytes (leaf), end = item->offset + item->bytes;
  int64_t first = end, last = end; /* of whole blocks of zeros */

  if (item->zero && block > 0)
    {
      first = MIN (round_up (item->offset, block), end);
      last = end == bdrv_length (leaf) ? end : MAX (round_down (end, block), first);
    }
  if (first > item->offset)
    space_need_add (need, item->offset, first - item->offset);
  if (end > last)
    space_need_add (need, last, end - last);
}

/* The block that is being counted, of an image that is to have no parent. */
typedef struct
{
  SpaceNeed *need;
  int64_t block_size, block;
  int64_t undecided; /* bytes of it that the image leaves to its parents */
  bool stored;       /* something is in it, or will be */
} BlockCount;

/* Without a parent a block that is there is there as a whole, with zeros where the parents showed them. */
static void
end_block (BlockCount *count)
{
  if (count->stored && count->undecided > 0)
    space_need_add (count->need, count->block * count->block_size, count->undecided);
  count->undecided = 0;
  count->stored = false;
}

/* Ranges come in ascending order.  @stored: now, or the parents show data. */
static void
count_range (BlockCount *count, int64_t offset, int64_t bytes, bool decided, bool stored)
{
  int64_t size = count->block_size, end = offset + bytes;

  while (offset < end)
    {
      int64_t piece_end = MIN (round_down (offset, size) + size, end);

      if (offset / size != count->block)
        end_block (count);
      count->block = offset / size;
      /* Whole blocks that need nothing: all at once. */
      if (!stored && offset % size == 0)
        piece_end = MAX (piece_end, round_down (end, size));
      else
        {
          count->undecided += decided ? 0 : piece_end - offset;
          count->stored |= stored;
        }
      offset = piece_end;
    }
}

/* What the leaf takes up when it is to have no parent.  @cursor is at its end. */
static int coroutine_fn
co_count_whole (Job *job, RebaseCursor *cursor, SpaceNeed *need)
{
  BlockDriverState *leaf = cursor->leaf;
  BlockCount count = { .need = need, .block_size = leaf->limits.discard_alignment };
  int64_t end = bdrv_length (leaf), bytes;

  for (cursor->offset = 0; cursor->offset < end; cursor->offset += bytes)
    {
      ChainView view = { .zero = true };
      int ret = job_co_pause_point (job);

      if (ret >= 0)
        {
          cursor->failed = leaf;
          ret = bdrv_co_block_status (leaf, cursor->offset, end - cursor->offset, &bytes, NULL, NULL);
        }
      bool decided = ret > 0 && (ret & BDRV_BLOCK_ALLOCATED);
      /* Blocks of zeros that are not stored stay so. */
      bool stored = decided && (ret & BDRV_BLOCK_DATA);
      if (ret >= 0 && !decided)
        ret = chain_co_look (cursor, leaf->backing, NULL, &bytes, &view);
      if (ret < 0)
        return ret;
      count_range (&count, cursor->offset, bytes, decided, stored || !view.zero);
    }
  end_block (&count);
  return 0;
}

bool coroutine_fn
rebase_co_plan (Job *job, BlockDriverState *leaf, BlockDriverState *parent, SpaceNeed *need, int64_t *bytes,
                GError **error)
{
  RebaseCursor cursor;
  CopyItem item;
  int ret;

  *bytes = 0;
  rebase_cursor_init (&cursor, leaf, parent);
  while ((ret = rebase_cursor_co_next (&cursor, NULL, PLAN_DATA_BYTES, PLAN_ZERO_BYTES, &item)) > 0)
    {
      ret = job_co_pause_point (job);
      if (ret < 0)
        break;
      *bytes += item.bytes;
      if (parent != NULL)
        count_item (need, leaf, &item);
    }
  if (ret == 0 && parent == NULL)
    ret = co_count_whole (job, &cursor, need);
  if (ret == -ECANCELED)
    job_set_cancelled (job, error);
  else if (ret < 0)
    bdrv_set_error_errno (error, cursor.failed, ret, "look-up of the allocation at offset %" G_GINT64_FORMAT,
                          cursor.offset);
  return ret == 0;
}
