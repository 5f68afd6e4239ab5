/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a node: made, opened, made writable, drained, closed with the last reference.
 *
 * A node owns a reference to its file and its backing child.  Chains are walked by loops, never by recursion:
 * they may be hundreds of layers deep and a coroutine's stack is small.
 */
#include "core-int.h"

#include <checked.h>

#include <errno.h>
#include <inttypes.h>

BlockDriverState *
bdrv_node_new (const BlockDriver *drv, const char *filename, int flags, BlockDriverState *file)
{
  BdrvNode *node = g_new0 (BdrvNode, 1);
  BlockDriverState *bs = &node->bs;

  bs->drv = drv;
  bs->opaque = drv->instance_size > 0 ? g_malloc0 (drv->instance_size) : NULL;
  bs->filename = g_strdup (filename);
  bs->open_flags = flags;
  bs->read_only = !(flags & BDRV_O_RDWR);
  bs->file = file;
  if (drv->kind == BLOCK_DRIVER_FILTER && file)
    {
      bs->bytes = file->bytes;
      bs->fixed_length = file->fixed_length;
    }
  bs->context = coroutine_get_context (coroutine_self ());

  node->refcount = 1;
  node->max_transfer = INT64_MAX;
  node->memory_alignment = 1;
  /* What an earlier process wrote may not be durable yet, and this one will build on it: the first flush of a
   * node opened for writing is never taken for superfluous. */
  node->write_gen = 1;
  co_queue_init (&node->request_queue);
  co_queue_init (&node->drain_queue);
  co_queue_init (&node->flush_queue);
  return bs;
}

static void
node_free (BdrvNode *node)
{
  g_assert (node->in_flight == 0 && !node->oldest);
  co_queue_clear (&node->request_queue);
  co_queue_clear (&node->drain_queue);
  co_queue_clear (&node->flush_queue);
  g_clear_pointer (&node->warnings, g_ptr_array_unref);
  g_clear_pointer (&node->parent_candidates, g_ptr_array_unref);
  g_free (node->bs.opaque);
  g_free (node->bs.filename);
  g_free (node->passed_over);
  g_free (node);
}

/* Puts defaults where the driver said nothing.  false: what it said cannot be. */
static bool
take_limits (BdrvNode *node)
{
  BlockLimits *limits = &node->bs.limits;

  if (limits->request_alignment == 0)
    limits->request_alignment = 1;
  if (limits->memory_alignment == 0)
    limits->memory_alignment = 1;
  if (!is_power_of_two (limits->request_alignment) || limits->request_alignment > BDRV_MAX_ALIGNMENT
      || !is_power_of_two (limits->memory_alignment) || limits->memory_alignment > BDRV_MAX_ALIGNMENT)
    return false;

  if (limits->zeroes_alignment == 0)
    limits->zeroes_alignment = 1;
  if (limits->discard_alignment == 0)
    limits->discard_alignment = 1;
  if (limits->zeroes_alignment > INT32_MAX || limits->discard_alignment > INT32_MAX)
    return false;
  limits->zeroes_alignment = round_up (limits->zeroes_alignment, limits->request_alignment);
  limits->discard_alignment = round_up (limits->discard_alignment, limits->request_alignment);

  node->max_transfer = INT64_MAX;
  if (limits->max_transfer > 0)
    {
      /* Where a request is split, its memory is split too. */
      int64_t alignment = MAX (limits->request_alignment, limits->memory_alignment);
      node->max_transfer = MAX (round_down (limits->max_transfer, alignment), alignment);
    }
  /* Formats and filters only hand memory on: whether it must be copied is seen at the bottom. */
  node->memory_alignment = node->bs.drv->kind == BLOCK_DRIVER_PROTOCOL ? limits->memory_alignment : 1;
  return node->bs.bytes >= 0 && node->bs.bytes <= BDRV_MAX_LENGTH;
}

bool coroutine_fn
bdrv_co_node_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  BdrvNode *node = bdrv_node (bs);
  const BlockDriver *drv = bs->drv;
  bool ok;

  if (!bs->read_only && !drv->co_pwritev && drv->kind != BLOCK_DRIVER_FILTER)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "%s cannot be written", drv->format_name);
      ok = false;
    }
  else
    ok = drv->co_open (bs, options, error);
  if (ok && !take_limits (node))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED,
                      "length of %" PRId64 " bytes or alignment of %u bytes "
                      "is beyond what can be handled",
                      bs->bytes, bs->limits.request_alignment);
      if (drv->co_close)
        drv->co_close (bs);
      ok = false;
    }
  if (ok)
    return true;

  BlockDriverState *file = bs->file;
  node_free (node);
  if (file)
    bdrv_co_unref (file);
  return false;
}

BlockDriverState *
bdrv_ref (BlockDriverState *bs)
{
  bdrv_node (bs)->refcount++;
  return bs;
}

/* Closes and frees one node; its children are the caller's. */
static int coroutine_fn
co_close_node (BdrvNode *node)
{
  BlockDriverState *bs = &node->bs;
  bool written = bs->drv->kind == BLOCK_DRIVER_FORMAT || node->write_gen > 1;
  int ret = 0;

  bdrv_co_drain (bs);
  if (!bs->read_only && written)
    ret = bdrv_co_flush (bs);
  if (bs->drv->co_close)
    {
      int close_ret = bs->drv->co_close (bs);
      ret = ret < 0 ? ret : close_ret;
    }
  node_free (node);
  return MIN (ret, 0);
}

int coroutine_fn
bdrv_co_unref (BlockDriverState *bs)
{
  int result = 0;

  while (bs && --bdrv_node (bs)->refcount == 0)
    {
      BlockDriverState *file = bs->file;
      BlockDriverState *backing = bs->backing;
      int ret = co_close_node (bdrv_node (bs));
      result = result < 0 ? result : ret;
      if (file)
        {
          /* One more level only: files are not chains. */
          ret = bdrv_co_unref (file);
          result = result < 0 ? result : ret;
        }
      bs = backing;
    }
  return result;
}

static bool coroutine_fn
co_reopen_rw_node (BlockDriverState *bs, GError **error)
{
  const BlockDriver *drv = bs->drv;

  if (!drv->co_pwritev && drv->kind != BLOCK_DRIVER_FILTER)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "%s cannot be written", drv->format_name);
      return false;
    }
  if (drv->co_reopen_rw)
    return drv->co_reopen_rw (bs, error);
  if (drv->kind == BLOCK_DRIVER_PROTOCOL)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "%s cannot be made writable", drv->format_name);
      return false;
    }
  return true;
}

bool coroutine_fn
bdrv_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  BdrvNode *node = bdrv_node (bs);
  BdrvTrackedRequest req;

  if (!bs->read_only)
    return true;
  if (bs->open_flags & BDRV_O_FORCE_SHARE)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "opened in spite of others' locks: cannot be made writable");
      return false;
    }
  if (bs->file && !bdrv_co_reopen_rw (bs->file, error))
    return false;

  /* A driver may exchange what requests in flight use. */
  bdrv_co_tracked_begin (node, &req, 0, INT64_MAX, true);
  bool ok = !bs->read_only || co_reopen_rw_node (bs, error);
  if (ok && !take_limits (node))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "limits changed to what cannot be handled");
      ok = false;
    }
  if (ok)
    {
      bs->read_only = false;
      bs->open_flags |= BDRV_O_RDWR;
      if (bs->drv->kind == BLOCK_DRIVER_FORMAT)
        bdrv_warn_of_change_tracking (bs);
    }
  bdrv_tracked_end (node, &req);
  return ok;
}

void
bdrv_wake_drain (BdrvNode *node)
{
  co_queue_restart_all (&node->drain_queue);
}

void coroutine_fn
bdrv_co_drain (BlockDriverState *bs)
{
  BdrvNode *node = bdrv_node (bs);

  while (node->in_flight > 0)
    {
      node->draining++;
      co_queue_wait (&node->drain_queue, NULL);
      node->draining--;
    }
}

void
bdrv_poison (BlockDriverState *bs)
{
  bdrv_node (bs)->poisoned = true;
}

bool
bdrv_is_poisoned (const BlockDriverState *bs)
{
  return bdrv_node (bs)->poisoned;
}

int64_t
bdrv_length (const BlockDriverState *child)
{
  return child->bytes;
}
