/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finished coroutines, kept with their stacks for the next one.
 *
 * Each thread has a small list of its own, without locks.  Coroutines may be made in one thread and end in
 * another; so full lists are handed on, and empty ones filled, through one bounded list of the process, a batch
 * at a time.
 */
#ifndef COAIO_COROUTINE_POOL_H
#define COAIO_COROUTINE_POOL_H

#include <coaio/coroutine.h>

Coroutine *coroutine_pool_get (void);
/* @co has finished and left its stack. */
void coroutine_pool_put (Coroutine *co);

#endif
