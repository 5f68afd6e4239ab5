/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushes, as few as will do.
 *
 * F1. A flush covers the writes that had ended when it began.  write_gen counts those; flushed_gen is its
 * value at the begin of the last flush that succeeded.  Equal: nothing to do.
 *
 * F2. One flush of a node runs at a time.  Whoever comes while it runs needs one that begins later; all who
 * wait share the next.
 *
 * F3. A format's driver may hold changes the core has not seen (a block dropped by a job), so F1 is applied to
 * protocols and filters only; a format's flush ends in its file child, where F1 makes it cheap.
 *
 * F4. When a protocol's flush has failed, the host may have forgotten the data: the node is poisoned, and no
 * later flush can pretend to have succeeded.
 */
#include "core-int.h"

#include <errno.h>

/* After so much was written the host is told to begin with it. */
#define WRITEBACK_BYTES (16 * 1024 * 1024)

static int coroutine_fn
co_flush_now (BlockDriverState *bs)
{
  const BlockDriver *drv = bs->drv;

  if (drv->kind == BLOCK_DRIVER_PROTOCOL && (bs->open_flags & BDRV_O_NO_FLUSH))
    return 0;
  if (drv->co_flush)
    return drv->co_flush (bs);
  return bs->file ? bdrv_co_flush (bs->file) : 0;
}

/* F1, F3 */
static inline bool
is_flushed (const BdrvNode *node, uint64_t gen)
{
  return node->bs.drv->kind != BLOCK_DRIVER_FORMAT && node->flushed_gen >= gen;
}

static int coroutine_fn
co_flush_shared (BdrvNode *node, uint64_t gen)
{
  uint64_t needed = node->flushes_begun + 1;

  while (node->flush_running)
    {
      co_queue_wait (&node->flush_queue, NULL); /* yields */
      if (node->flushes_ended >= needed)
        return node->flush_ret;
    }
  if (is_flushed (node, gen))
    return 0;
  if (node->poisoned)
    return -EIO;

  uint64_t covered = node->write_gen;
  node->flush_running = true;
  node->flushes_begun++;
  int ret = co_flush_now (&node->bs); /* yields */
  if (ret == 0)
    node->flushed_gen = covered;
  else if (node->bs.drv->kind == BLOCK_DRIVER_PROTOCOL)
    bdrv_poison (&node->bs);
  node->flush_running = false;
  node->flushes_ended = node->flushes_begun;
  node->flush_ret = ret;
  co_queue_restart_all (&node->flush_queue);
  return ret;
}

int coroutine_fn
bdrv_co_flush (BlockDriverState *bs)
{
  BdrvNode *node = bdrv_node (bs);

  if (bs->read_only)
    return 0;
  if (node->poisoned)
    return -EIO;
  if (is_flushed (node, node->write_gen))
    return 0;

  bdrv_inc_in_flight (node);
  int ret = co_flush_shared (node, node->write_gen);
  bdrv_dec_in_flight (node);
  return ret;
}

void coroutine_fn
bdrv_co_write_back (BdrvWriteback *writeback, BlockDriverState *bs, int64_t bytes)
{
  BlockDriverState *protocol = bdrv_protocol_node (bs);

  writeback->bytes += bytes;
  if (writeback->starting || writeback->bytes < WRITEBACK_BYTES || (protocol->open_flags & BDRV_O_NO_FLUSH)
      || !protocol->drv->co_start_writeback)
    return;
  writeback->starting = true;
  writeback->bytes = 0;
  bdrv_inc_in_flight (bdrv_node (protocol));
  protocol->drv->co_start_writeback (protocol); /* yields */
  bdrv_dec_in_flight (bdrv_node (protocol));
  writeback->starting = false;
}

int coroutine_fn
bdrv_co_drain_log (BlockDriverState *bs)
{
  BdrvNode *node = bdrv_node (bs);
  int ret = bdrv_co_flush (bs);

  if (ret < 0 || bs->read_only || bs->drv->co_drain_log == NULL)
    return ret;
  bdrv_inc_in_flight (node);
  ret = bs->drv->co_drain_log (bs);
  bdrv_dec_in_flight (node);
  return ret;
}
