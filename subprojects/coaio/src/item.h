/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One piece of work for a context: a coroutine to enter, a bottom half, a finished call of the pool. */
#ifndef COAIO_ITEM_H
#define COAIO_ITEM_H

typedef struct AioItem AioItem;

struct AioItem
{
  AioItem *next;
  /* Runs in the context's thread, outside of any coroutine; @item may be gone or posted again after. */
  void (*run) (AioItem *item);
};

#endif
