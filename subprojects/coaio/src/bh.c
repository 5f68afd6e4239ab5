/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bottom halves.  One that is in a list of work cannot be taken out of it (the list may be another thread's), so
 * cancelling and deleting leave a mark that is looked at when its turn comes.
 */
#include "coaio-config.h"

#include "context-int.h"

enum
{
  BH_QUEUED = 1,    /* in a list of work */
  BH_SCHEDULED = 2, /* its callback is wanted */
  BH_DELETED = 4,
};

struct AioBH
{
  AioItem item;
  AioContext *ctx;
  AioCallback *callback;
  void *opaque;
  atomic_int state;
};

static void
run_bh (AioItem *item)
{
  AioBH *bh = (AioBH *)item;
  int state = atomic_fetch_and (&bh->state, BH_DELETED);

  if (state & BH_DELETED)
    g_free (bh);
  else if (state & BH_SCHEDULED)
    bh->callback (bh->opaque);
}

static void
run_oneshot (AioItem *item)
{
  AioBH *bh = (AioBH *)item;
  AioCallback *callback = bh->callback;
  void *opaque = bh->opaque;

  g_free (bh);
  callback (opaque);
}

bool
aio_bh_drop (AioItem *item)
{
  AioBH *bh = (AioBH *)item;

  if (item->run == run_oneshot)
    g_free (bh);
  else if (item->run != run_bh)
    return false;
  else if (atomic_fetch_and (&bh->state, BH_DELETED) & BH_DELETED)
    g_free (bh);
  return true;
}

void
aio_bh_schedule_oneshot (AioContext *ctx, AioCallback *callback, void *opaque)
{
  AioBH *bh = g_new (AioBH, 1);

  bh->item.run = run_oneshot;
  bh->callback = callback;
  bh->opaque = opaque;
  aio_item_post (ctx, &bh->item);
}

AioBH *
aio_bh_new (AioContext *ctx, AioCallback *callback, void *opaque)
{
  AioBH *bh = g_new (AioBH, 1);

  bh->item.run = run_bh;
  bh->ctx = ctx;
  bh->callback = callback;
  bh->opaque = opaque;
  atomic_init (&bh->state, 0);
  return bh;
}

void
aio_bh_schedule (AioBH *bh)
{
  if (!(atomic_fetch_or (&bh->state, BH_QUEUED | BH_SCHEDULED) & BH_QUEUED))
    aio_item_post (bh->ctx, &bh->item);
}

void
aio_bh_cancel (AioBH *bh)
{
  atomic_fetch_and (&bh->state, ~BH_SCHEDULED);
}

void
aio_bh_delete (AioBH *bh)
{
  if (bh && !(atomic_fetch_or (&bh->state, BH_DELETED) & BH_QUEUED))
    g_free (bh);
}
