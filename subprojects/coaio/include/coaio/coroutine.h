/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stackful coroutines.
 *
 * A coroutine runs until it yields or ends; only one runs at a time in a thread.  It belongs to the
 * AioContext in which it was entered first, and is resumed there.  Stacks come from a per-thread pool, have
 * a guard page below, and are made known to AddressSanitizer, ThreadSanitizer and valgrind.
 */
#ifndef COAIO_COROUTINE_H
#define COAIO_COROUTINE_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

/* Marks on declarations, definitions and function pointers.
 * coroutine_fn: may only be called in a coroutine, may yield.
 * coroutine_mixed_fn: may be called in or outside a coroutine.
 * no_coroutine_fn: must not be called in a coroutine (it may block or run an event loop). */
#if defined(__clang__) && defined(__has_attribute)
#if __has_attribute(annotate)
#define coroutine_fn       __attribute__ ((annotate ("coroutine_fn")))
#define coroutine_mixed_fn __attribute__ ((annotate ("coroutine_mixed_fn")))
#define no_coroutine_fn    __attribute__ ((annotate ("no_coroutine_fn")))
#endif
#endif
#ifndef coroutine_fn
#define coroutine_fn
#define coroutine_mixed_fn
#define no_coroutine_fn
#endif

typedef struct Coroutine Coroutine;
typedef struct AioContext AioContext;

typedef void coroutine_fn CoroutineEntry (void *opaque);

/* A new coroutine that will call entry (opaque) when it is entered for the first time.  It frees itself
 * (back to the pool) when entry returns.  Never NULL: ends the process only when no address space is left. */
Coroutine *coroutine_new (CoroutineEntry *entry, void *opaque);

/* Runs @co at once, in this thread, until it yields or ends.  May be called from another coroutine (nested).
 * At the first call @co becomes bound to aio_context_get_current (). */
void coroutine_mixed_fn coroutine_enter (Coroutine *co);

/* Returns to whoever entered this coroutine.  Comes back when somebody enters it again. */
void coroutine_fn coroutine_yield (void);

/* The running coroutine, or NULL outside of one. */
Coroutine *coroutine_self (void);

static inline bool
in_coroutine (void)
{
  return coroutine_self () != NULL;
}

/* The context @co is bound to, NULL before its first entry. */
AioContext *coroutine_get_context (const Coroutine *co);

G_END_DECLS

#endif
