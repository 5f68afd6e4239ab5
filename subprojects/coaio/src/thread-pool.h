/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pool of threads for calls that may block: one per process, bounded, threads made on demand.  It lives while
 * a context uses it; after the last one its threads have ended, so the code can be unloaded.
 */
#ifndef COAIO_THREAD_POOL_H
#define COAIO_THREAD_POOL_H

#include <coaio/aio.h>

/* Calls @func (@opaque) in a thread of the pool, while the running coroutine waits. */
int coroutine_fn thread_pool_co_run (AioContext *ctx, AioWorkFunc *func, void *opaque);

/* What the first use in a context has taken. */
void thread_pool_unref (void);

#endif
