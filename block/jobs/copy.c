/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy engine: see copy.h for its rules. */
#include "copy.h"

#include "checked.h"
#include "zero.h"

#include <errno.h>
#include <string.h>

/* How often a page is read of what is going to be shared, to see whether there are zeros. */
#define SHARE_LOOK_BYTES (16 * 1024 * 1024)
/* A part of an item that is shared while the rest of it is copied has at least so much. */
#define SHARE_MIN_PART (64 * 1024)
/* Ranges refused one after the other before a file is given up: layouts that do not fit never will. */
#define SHARE_MAX_MISALIGNED 8
#define MIN_BUFFER_BYTES     (64 * 1024)
/* Zero runs are found in pieces of this size where they may be that long. */
#define ZERO_GRANULARITY 4096
/* Contents are found different from the target's in units of this size. */
#define COMPARE_UNIT 4096

/* --- errors -------------------------------------------------------------------------------------------- */

int
copy_fail (CopyEngine *engine, const BlockDriverState *node, const char *verb, int64_t offset, int64_t bytes,
           int ret)
{
  if (engine->ret == 0)
    {
      engine->ret = ret;
      engine->failed_node = node;
      engine->failed_verb = verb;
      engine->failed_offset = offset;
      engine->failed_bytes = bytes;
    }
  return ret;
}

void
copy_set_error (const CopyEngine *engine, GError **error)
{
  if (engine->ret == -ECANCELED)
    job_set_cancelled (engine->job, error);
  else
    bdrv_set_error_errno (error, engine->failed_node, engine->ret,
                          "%s of %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT " failed",
                          engine->failed_verb, engine->failed_bytes, engine->failed_offset);
}

/* Where extents cannot be shared, data is read and written.  copy_file_range () would have the kernel copy it (cached
 * data on ext4 in two thirds of the time, uncached in the same), but whoever does not see the data cannot find the
 * zeros in it, and they would take up space in the target. */

/* --- sharing extents ----------------------------------------------------------------------------------- */

bool
copy_may_share (const CopyEngine *engine, const BlockDriverState *file)
{
  gpointer works;

  return engine->share_extents && file != NULL
         && (engine->shareable == NULL
             || !g_hash_table_lookup_extended (engine->shareable, file, NULL, &works)
             || GPOINTER_TO_INT (works));
}

bool
copy_can_share (const CopyEngine *engine, const BlockDriverState *file)
{
  return engine->shareable != NULL && GPOINTER_TO_INT (g_hash_table_lookup (engine->shareable, file));
}

static void
note_sharing (CopyEngine *engine, BlockDriverState *file, bool works)
{
  if (engine->shareable == NULL)
    engine->shareable = g_hash_table_new (NULL, NULL);
  g_hash_table_insert (engine->shareable, file, GINT_TO_POINTER (works));
  engine->misaligned = 0;
}

/* What starts with a page of zeros is read in full instead of being shared: zero data must not take up space in the
 * target, not even shared space. */
static bool coroutine_fn
co_is_to_share (CopyEngine *engine, int64_t offset)
{
  uint8_t page[COPY_SHARE_ALIGNMENT];

  return engine->must_share || engine->sparse_bytes == 0
         || bdrv_co_pread (engine->source, offset, sizeof page, page) < 0
         || !buffer_is_zero (page, sizeof page);
}

static CopyItem
item_part (const CopyItem *item, int64_t offset, int64_t end)
{
  CopyItem part = *item;

  part.offset = offset;
  part.bytes = end - offset;
  part.file_offset += offset - item->offset;
  return part;
}

bool
copy_get_shareable (const CopyEngine *engine, const CopyItem *item, CopyItem *part)
{
  int64_t start = round_up (item->offset, COPY_SHARE_ALIGNMENT);
  int64_t end = round_down (item->offset + item->bytes, COPY_SHARE_ALIGNMENT);

  if (((item->offset ^ item->file_offset) & (COPY_SHARE_ALIGNMENT - 1)) != 0 || end <= start)
    return false;
  *part = item_part (item, start, end);
  return part->bytes == item->bytes || part->bytes >= SHARE_MIN_PART || engine->must_share;
}

/* 1: done, 0: has to be copied, -errno (after copy_fail ()).  Errors other than "cannot be" show again, with
 * their side, when the range is copied. */
static int coroutine_fn
part_co_share (CopyEngine *engine, const CopyItem *part)
{
  int ret = bdrv_co_copy_range_to (engine->target, part->offset, part->bytes, part->file, part->file_offset);
  if (ret == 0)
    {
      note_sharing (engine, part->file, true);
      engine->bytes_cloned += part->bytes;
      return 1;
    }
  if (engine->must_share)
    return copy_fail (engine, engine->target, "sharing of the extents", part->offset, part->bytes, ret);
  switch (ret)
    {
    case -ENOTSUP:
#if EOPNOTSUPP != ENOTSUP
    case -EOPNOTSUPP:
#endif
    case -EXDEV:
      note_sharing (engine, part->file, false);
      return 0;
    case -EINVAL:
      if (++engine->misaligned == SHARE_MAX_MISALIGNED)
        note_sharing (engine, part->file, false);
      return 0;
    default:
      return 0;
    }
}

/* --- writing ------------------------------------------------------------------------------------------- */

int coroutine_fn
copy_co_write_data (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf)
{
  int ret = bdrv_co_pwrite (engine->target, offset, bytes, buf, 0);

  if (ret < 0)
    return copy_fail (engine, engine->target, "write", offset, bytes, ret);
  engine->bytes_copied += bytes;
  bdrv_co_write_back (&engine->writeback, engine->target, bytes);
  return 0;
}

/* The length of the run of zeros or data at @buf, judged in pieces that end on multiples of the granularity
 * in the guest's space. */
static int64_t
zero_run (const CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf, bool *zero)
{
  int64_t granularity = engine->sparse_bytes < ZERO_GRANULARITY ? BDRV_SECTOR_SIZE : ZERO_GRANULARITY;
  int64_t head = MIN (round_up (offset, granularity) - offset, bytes);
  int64_t run = 0;

  *zero = true;
  if (head > 0)
    {
      *zero = buffer_is_zero (buf, (size_t)head);
      run = head;
    }
  if (run < bytes)
    {
      bool rest_zero;
      int64_t rest =
          (int64_t)buffer_zero_run (buf + run, (size_t)(bytes - run), (size_t)granularity, &rest_zero);

      if (run == 0 || rest_zero == *zero)
        {
          *zero = rest_zero;
          run += rest;
        }
    }
  return run;
}

static int coroutine_fn
copy_co_zero (CopyEngine *engine, int64_t offset, int64_t bytes)
{
  return engine->target_is_zero ? 0 : engine->co_zero (engine, offset, bytes);
}

int coroutine_fn
copy_co_write_sparse (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf)
{
  int64_t data = 0; /* bytes before pos that are still to be written */
  int64_t pos = 0;
  int ret = 0;

  if (engine->sparse_bytes == 0)
    return copy_co_write_data (engine, offset, bytes, buf);

  while (ret == 0 && pos < bytes)
    {
      bool zero;
      int64_t run = zero_run (engine, offset + pos, bytes - pos, buf + pos, &zero);

      if (zero && (run >= engine->sparse_bytes || run == bytes))
        {
          if (data > 0)
            ret = copy_co_write_data (engine, offset + pos - data, data, buf + pos - data);
          data = 0;
          if (ret == 0)
            ret = copy_co_zero (engine, offset + pos, run);
        }
      else
        data += run;
      pos += run;
    }
  if (ret == 0 && data > 0)
    ret = copy_co_write_data (engine, offset + pos - data, data, buf + pos - data);
  return ret;
}

int coroutine_fn
copy_co_zero_visible (CopyEngine *engine, int64_t offset, int64_t bytes)
{
  BlockDriverState *target = engine->target;

  while (bytes > 0)
    {
      int64_t pnum, map;
      BlockDriverState *file;
      int ret = bdrv_co_block_status_above (target, NULL, offset, bytes, &pnum, &map, &file, NULL);

      if (ret < 0)
        return copy_fail (engine, target, "look-up of the allocation", offset, bytes, ret);
      if ((ret & BDRV_BLOCK_ALLOCATED) && !(ret & BDRV_BLOCK_ZERO))
        {
          ret = bdrv_co_pwrite_zeroes (target, offset, pnum, BDRV_REQ_MAY_UNMAP);
          if (ret < 0)
            return copy_fail (engine, target, "write of zeros", offset, pnum, ret);
          engine->bytes_zeroed += pnum;
        }
      else
        engine->bytes_skipped += pnum;
      offset += pnum;
      bytes -= pnum;
    }
  return 0;
}

/* --- workers ------------------------------------------------------------------------------------------- */

/* A buffer that grows to what its worker's items need. */
typedef struct
{
  uint8_t *data;
  int64_t bytes;
} WorkerBuffer;

typedef struct
{
  WorkerBuffer read;  /* of the source */
  WorkerBuffer shown; /* by the target, for skip_identical */
} WorkerBuffers;

static bool
worker_buffer_reserve (const CopyEngine *engine, WorkerBuffer *buffer, int64_t bytes)
{
  const BlockDriverState *pickier =
      engine->source->limits.memory_alignment > engine->target->limits.memory_alignment ? engine->source
                                                                                        : engine->target;
  int64_t wanted = MIN_BUFFER_BYTES;

  if (bytes <= buffer->bytes)
    return true;
  while (wanted < bytes)
    wanted *= 2;
  bdrv_free_buffer (buffer->data);
  buffer->data = bdrv_try_alloc_buffer (pickier, (size_t)wanted);
  buffer->bytes = buffer->data != NULL ? wanted : 0;
  return buffer->data != NULL;
}

/* Waits until all items before @ticket are written; -ECANCELED when one of them failed. */
static int coroutine_fn
wait_turn (CopyEngine *engine, uint64_t ticket)
{
  while (engine->in_order && engine->next_write != ticket)
    {
      if (engine->ret < 0)
        return -ECANCELED;
      co_queue_wait (&engine->order_queue, NULL);
    }
  return 0;
}

static void coroutine_fn
turn_done (CopyEngine *engine)
{
  if (!engine->in_order)
    return;
  engine->next_write++;
  co_queue_restart_all (&engine->order_queue);
}

static const BlockDriverState *
deciding_node (const CopyEngine *engine, const CopyItem *item)
{
  const BlockDriverState *node = bdrv_chain_get (engine->source, item->depth);

  return node != NULL ? node : engine->source;
}

/* Writes those units of [@offset, +@bytes) that are not what the target shows. */
static int coroutine_fn
write_different (CopyEngine *engine, int64_t offset, int64_t bytes, const uint8_t *buf, const uint8_t *shown)
{
  int64_t pos = 0;
  int ret = 0;

  while (ret == 0 && pos < bytes)
    {
      int64_t start = pos;
      bool equal = false;

      for (bool first = true; pos < bytes; first = false)
        {
          int64_t unit = MIN (round_down (offset + pos, COMPARE_UNIT) + COMPARE_UNIT - offset, bytes) - pos;
          bool unit_equal = memcmp (buf + pos, shown + pos, (size_t)unit) == 0;

          if (!first && unit_equal != equal)
            break;
          equal = unit_equal;
          pos += unit;
        }
      if (equal)
        engine->bytes_skipped += pos - start;
      else
        ret = copy_co_write_sparse (engine, offset + start, pos - start, buf + start);
    }
  return ret;
}

/* Where the target is known to show zeros, there is nothing to compare with. */
static int coroutine_fn
item_co_write_different (CopyEngine *engine, const CopyItem *item, WorkerBuffers *buffers)
{
  BlockDriverState *target = engine->target;
  int64_t pos = 0;
  int ret = 0;

  if (!worker_buffer_reserve (engine, &buffers->shown, item->bytes))
    return copy_fail (engine, target, "buffer for the read", item->offset, item->bytes, -ENOMEM);
  while (ret == 0 && pos < item->bytes)
    {
      int64_t offset = item->offset + pos, pnum;
      int status =
          bdrv_co_block_status_above (target, NULL, offset, item->bytes - pos, &pnum, NULL, NULL, NULL);

      if (status < 0)
        return copy_fail (engine, target, "look-up of the allocation", offset, item->bytes - pos, status);
      if (!(status & BDRV_BLOCK_ALLOCATED) || (status & BDRV_BLOCK_ZERO))
        ret = copy_co_write_sparse (engine, offset, pnum, buffers->read.data + pos);
      else if ((ret = bdrv_co_pread (target, offset, pnum, buffers->shown.data)) < 0)
        copy_fail (engine, target, "read", offset, pnum, ret);
      else
        ret = write_different (engine, offset, pnum, buffers->read.data + pos, buffers->shown.data);
      pos += pnum;
    }
  return ret;
}

static int coroutine_fn
piece_co_copy (CopyEngine *engine, const CopyItem *item, WorkerBuffers *buffers, uint64_t ticket)
{
  if (!worker_buffer_reserve (engine, &buffers->read, item->bytes))
    return copy_fail (engine, engine->source, "buffer for the read", item->offset, item->bytes, -ENOMEM);

  /* Past the layers above, which have nothing there: a deep chain costs no more than one image. */
  BlockDriverState *node = item->layer != NULL ? item->layer : engine->source;
  int ret = bdrv_co_pread (node, item->offset, item->bytes, buffers->read.data);
  if (ret < 0)
    return copy_fail (engine, deciding_node (engine, item), "read", item->offset, item->bytes, ret);
  ret = wait_turn (engine, ticket);
  if (ret < 0)
    return ret;
  if (engine->skip_identical)
    return item_co_write_different (engine, item, buffers);
  return engine->co_write != NULL
             ? engine->co_write (engine, item->offset, item->bytes, buffers->read.data)
             : copy_co_write_sparse (engine, item->offset, item->bytes, buffers->read.data);
}

/* Copies [@offset, @end) of the item, which may be longer than a buffer. */
static int coroutine_fn
item_co_copy (CopyEngine *engine, const CopyItem *item, int64_t offset, int64_t end, WorkerBuffers *buffers,
              uint64_t ticket)
{
  int ret = 0;

  while (ret == 0 && offset < end)
    {
      int64_t border = round_down (offset, engine->max_item_bytes) + engine->max_item_bytes;
      CopyItem piece = item_part (item, offset, MIN (end, border));

      ret = piece_co_copy (engine, &piece, buffers, ticket);
      offset += piece.bytes;
    }
  return ret;
}

/* Where those looks at @part from @offset on end that find something to share, or those that do not. */
static int64_t coroutine_fn
part_co_find_end (CopyEngine *engine, const CopyItem *part, int64_t offset, bool *share)
{
  int64_t end = part->offset + part->bytes;

  *share = co_is_to_share (engine, offset);
  do
    offset = MIN (end, round_down (offset, SHARE_LOOK_BYTES) + SHARE_LOOK_BYTES);
  while (offset < end && co_is_to_share (engine, offset) == *share);
  return offset;
}

/* Shares what can be, copies the rest. */
static int coroutine_fn
item_co_share (CopyEngine *engine, const CopyItem *item, WorkerBuffers *buffers, uint64_t ticket)
{
  int64_t item_end = item->offset + item->bytes;
  int64_t done = item->offset; /* all before it is in the target */
  CopyItem part;

  if (!copy_get_shareable (engine, item, &part))
    return item_co_copy (engine, item, done, item_end, buffers, ticket);

  for (int64_t offset = part.offset, end; offset < part.offset + part.bytes; offset = end)
    {
      bool share;

      end = part_co_find_end (engine, &part, offset, &share);
      if (!share || !copy_may_share (engine, part.file))
        continue;
      CopyItem run = item_part (&part, offset, end);
      int ret = part_co_share (engine, &run);
      if (ret > 0)
        {
          ret = item_co_copy (engine, item, done, offset, buffers, ticket);
          done = end;
        }
      if (ret < 0)
        return ret;
    }
  return item_co_copy (engine, item, done, item_end, buffers, ticket);
}

static int coroutine_fn
item_co_process (CopyEngine *engine, const CopyItem *item, WorkerBuffers *buffers, uint64_t ticket)
{
  int ret = 0;

  if (!item->zero && !copy_may_share (engine, item->file))
    return item_co_copy (engine, item, item->offset, item->offset + item->bytes, buffers, ticket);
  ret = wait_turn (engine, ticket);
  if (ret < 0)
    return ret;
  if (item->zero)
    return copy_co_zero (engine, item->offset, item->bytes);
  return item_co_share (engine, item, buffers, ticket);
}

/* The next item and its place in the order; 1, 0 or -errno as co_next (). */
static int coroutine_fn
next_item (CopyEngine *engine, CopyItem *item, uint64_t *ticket)
{
  int ret = 0;

  co_mutex_lock (&engine->planner_lock);
  /* Looked at here: it may have changed while waiting for the lock. */
  if (engine->ret == 0)
    ret = engine->co_next (engine, item);
  *ticket = engine->next_ticket;
  if (ret > 0)
    engine->next_ticket++;
  co_mutex_unlock (&engine->planner_lock);
  return ret;
}

static void coroutine_fn
worker_entry (void *opaque)
{
  CopyEngine *engine = opaque;
  WorkerBuffers buffers = { 0 };
  CopyItem item;
  uint64_t ticket;
  int ret = 0;

  while (ret == 0 && engine->ret == 0)
    {
      ret = job_co_pause_point (engine->job);
      if (ret < 0)
        break;
      ret = next_item (engine, &item, &ticket);
      if (ret <= 0)
        break;
      ret = item.zero ? 0 : job_co_throttle (engine->job, item.bytes);
      if (ret == 0)
        ret = item_co_process (engine, &item, &buffers, ticket);
      if (ret == 0)
        {
          turn_done (engine);
          job_progress_add (engine->job, item.bytes);
        }
    }
  if (ret < 0)
    {
      copy_fail (engine, engine->source, "copy", 0, 0, ret);
      co_queue_restart_all (&engine->order_queue);
    }

  bdrv_free_buffer (buffers.read.data);
  bdrv_free_buffer (buffers.shown.data);
}

bool
copy_check_workers (const BlockDriverState *bs, unsigned workers, GError **error)
{
  if (workers <= COPY_MAX_WORKERS)
    return true;
  bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "%u coroutines, at most %d are possible", workers,
                  COPY_MAX_WORKERS);
  return false;
}

int coroutine_fn
copy_co_run (CopyEngine *engine)
{
  unsigned workers = CLAMP (engine->workers, 1, COPY_MAX_WORKERS);

  int64_t buffers = workers * (engine->skip_identical ? 2 : 1);

  engine->max_item_bytes = MIN (COPY_ITEM_BYTES, COPY_BUFFER_BYTES / buffers);
  /* A power of two, so that a buffer that doubles stays within it. */
  while (!is_power_of_two ((uint64_t)engine->max_item_bytes))
    engine->max_item_bytes &= engine->max_item_bytes - 1;
  co_mutex_init (&engine->planner_lock);
  co_queue_init (&engine->order_queue);
  job_co_run_workers (engine->job, workers, worker_entry, engine);
  co_mutex_clear (&engine->planner_lock);
  co_queue_clear (&engine->order_queue);
  g_clear_pointer (&engine->shareable, g_hash_table_unref);
  return engine->ret;
}
