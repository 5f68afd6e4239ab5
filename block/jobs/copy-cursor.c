/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking over what the layers of a chain decide.
 *
 * A layer's answer is good to the end of its own run, often far past the run of a layer above.  It is kept until
 * the cursor has passed it: so the layers are asked as often as they have runs, not as often as there are runs
 * times layers.
 */
#include "copy.h"

typedef struct
{
  BlockDriverState *bs;
  int64_t start, end; /* guest range that the rest is true for */
  int status;
  BlockDriverState *file;
  int64_t map; /* of start */
} LayerAnswer;

static void
cursor_start (CopyCursor *cursor)
{
  cursor->answers = g_array_new (FALSE, TRUE, sizeof (LayerAnswer));
  for (BlockDriverState *bs = cursor->source; bs != NULL && bs != cursor->base; bs = bs->backing)
    {
      LayerAnswer answer = { .bs = bs };

      g_array_append_val (cursor->answers, answer);
    }
}

void
copy_cursor_clear (CopyCursor *cursor)
{
  g_clear_pointer (&cursor->answers, g_array_unref);
  cursor->run.bytes = 0;
}

static int coroutine_fn
answer_co_look (LayerAnswer *answer, int64_t offset, int64_t bytes)
{
  int64_t pnum, map = 0;
  BlockDriverState *file = NULL;
  int status = bdrv_co_block_status (answer->bs, offset, bytes, &pnum, &map, &file);

  if (status >= 0)
    *answer = (LayerAnswer){
      .bs = answer->bs, .start = offset, .end = offset + pnum, .status = status, .file = file, .map = map
    };
  return status;
}

/* The run at cursor->offset: what the topmost layer that decides says, as far as no layer above changes its mind.
 * 0 or -errno. */
static int coroutine_fn
cursor_co_look_at (CopyCursor *cursor)
{
  int64_t offset = cursor->offset, end = cursor->end;
  const LayerAnswer *decides = NULL;
  int depth = 0;

  for (guint i = 0; decides == NULL && i < cursor->answers->len; i++)
    {
      LayerAnswer *answer = &g_array_index (cursor->answers, LayerAnswer, i);

      if (offset >= answer->end)
        {
          int ret = answer_co_look (answer, offset, cursor->end - offset);
          if (ret < 0)
            {
              cursor->failed = answer->bs;
              return ret;
            }
        }
      end = MIN (end, answer->end);
      if (answer->status & BDRV_BLOCK_ALLOCATED)
        {
          decides = answer;
          depth = (int)i;
        }
    }
  if (decides != NULL || cursor->all)
    cursor->run = (CopyItem){
      .offset = offset,
      .bytes = end - offset,
      .zero = decides == NULL || (decides->status & BDRV_BLOCK_ZERO),
      .depth = depth,
      .layer = decides != NULL ? decides->bs : NULL,
    };
  if (decides != NULL && (decides->status & BDRV_BLOCK_OFFSET_VALID))
    {
      cursor->run.file = decides->file;
      cursor->run.file_offset = decides->map + (offset - decides->start);
    }
  cursor->offset = end;
  return 0;
}

/* Fills cursor->run with what comes next; 1, 0 at the end, -errno. */
static int coroutine_fn
cursor_co_look (void *opaque)
{
  CopyCursor *cursor = opaque;

  if (cursor->answers == NULL)
    cursor_start (cursor);
  while (cursor->run.bytes == 0 && cursor->offset < cursor->end)
    {
      int ret = cursor_co_look_at (cursor);

      if (ret < 0)
        return ret;
    }
  return cursor->run.bytes > 0;
}

/* Whether @run goes on where @item ends, as one piece. */
static bool
run_continues (const CopyItem *run, const CopyEngine *engine, const CopyItem *item)
{
  if (run->offset != item->offset + item->bytes || run->zero != item->zero)
    return false;
  if (item->zero)
    return run->depth == item->depth;
  if (engine == NULL)
    return true;
  if (run->file == item->file && run->file_offset == item->file_offset + item->bytes)
    return true;
  return !copy_may_share (engine, item->file) && !copy_may_share (engine, run->file);
}

int coroutine_fn
copy_co_join_runs (CopyItem *run, int coroutine_fn (*co_look) (void *opaque), void *opaque,
                   const CopyEngine *engine, int64_t max_data, int64_t max_zero, CopyItem *item)
{
  int ret = co_look (opaque);

  if (ret <= 0)
    return ret;

  bool shared = engine != NULL && !run->zero && copy_can_share (engine, run->file);
  int64_t unit = run->zero ? max_zero : shared ? MAX (max_data, COPY_SHARE_BYTES) : max_data;
  int64_t room = unit - run->offset % unit;

  *item = *run;
  item->bytes = 0;
  do
    {
      int64_t take = MIN (run->bytes, room);

      if (item->bytes > 0 && (run->file != item->file || run->file_offset != item->file_offset + item->bytes))
        item->file = NULL; /* in several pieces */
      if (run->layer != item->layer)
        item->layer = NULL;
      item->bytes += take;
      room -= take;
      run->offset += take;
      run->file_offset += take;
      run->bytes -= take;
      ret = room > 0 ? co_look (opaque) : 0;
    }
  while (ret > 0 && run_continues (run, engine, item));
  return 1;
}

int coroutine_fn
copy_cursor_co_next (CopyCursor *cursor, const CopyEngine *engine, int64_t max_data, int64_t max_zero,
                     CopyItem *item)
{
  int ret = copy_co_join_runs (&cursor->run, cursor_co_look, cursor, engine, max_data, max_zero, item);

  if (ret <= 0)
    copy_cursor_clear (cursor);
  return ret;
}
