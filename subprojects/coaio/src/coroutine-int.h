/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the other parts of coaio know of coroutines and of the thread they run in. */
#ifndef COAIO_COROUTINE_INT_H
#define COAIO_COROUTINE_INT_H

#include <assert.h>
#include <stdatomic.h>

#include <coaio/coroutine.h>

#include "frame.h"
#include "item.h"

/* What whoever entered a coroutine has to do once it has left its stack. */
typedef enum
{
  CO_LEFT_YIELDED,
  CO_LEFT_FINISHED, /* give it back to the pool */
  CO_LEFT_MOVING,   /* schedule it in its new context: only now can another thread run it */
} CoLeft;

/* What every switch needs comes first, on one line of the cache. */
struct Coroutine
{
  CoFrame frame;
  CoFrame *entered_from; /* non-NULL while it runs or has entered another */
  Coroutine *caller;     /* the coroutine that entered it, if one did */
  _Atomic (AioContext *) context;
  CoLeft left;
  CoroutineEntry *entry;
  void *opaque;
  AioContext *move_to;
  AioItem item;          /* in a context's list of work while scheduled */
  atomic_bool scheduled; /* catches a coroutine that is scheduled twice */
  Coroutine *pool_next;
  CoStack stack;
};

/* Per thread. */
typedef struct
{
  Coroutine *current;
  AioContext *context; /* that this thread drives, or has pushed */
  CoFrame frame;       /* the thread's own stack */
  Coroutine *pool;
  unsigned pool_size;
  bool pool_registered;
  GPtrArray *pushed_contexts;
} CoThread;

/* The thread that runs now.  A coroutine may go on in another thread after a yield, so what this returns must
 * not be kept over one. */
CoThread *co_thread (void);

/* coroutine_get_context () for those who see the inside. */
static inline AioContext *
co_context (const Coroutine *co)
{
  return atomic_load_explicit (&((Coroutine *)co)->context, memory_order_relaxed);
}

/* --- switching ------------------------------------------------------------------------------------------ */

/* These are inline for the engines.  On a stack that was switched to, every return is one the processor has not
 * foreseen, and costs as much as the switch; so there should be few. */

/* What @co wants done now that its stack is free: it has not just yielded. */
void coroutine_has_left (Coroutine *co);

/* coroutine_enter ().  @thread: the one that runs. */
static inline CO_NO_SANITIZE void
co_enter (CoThread *thread, Coroutine *co)
{
  Coroutine *self = thread->current;
  CoFrame *here = self ? &self->frame : &thread->frame;

  assert (!co->entered_from && "entered while it runs");
  co->caller = self;
  co->entered_from = here;
  if (!co_context (co))
    atomic_store_explicit (&co->context, thread->context, memory_order_relaxed);
  thread->current = co;

  co_frame_leave (here, &co->frame, false);
  co_frame_arrived (here, &co->frame);

  if (co->left != CO_LEFT_YIELDED)
    coroutine_has_left (co);
}

/* Goes back to whoever has entered @self, the running coroutine.  @thread: the one that runs now; when this
 * returns it may be another. */
static inline CO_NO_SANITIZE void
co_leave (CoThread *thread, Coroutine *self, CoLeft left)
{
  CoFrame *to = self->entered_from;

  self->left = left;
  thread->current = self->caller;
  self->entered_from = NULL;
  self->caller = NULL;
  co_frame_leave (&self->frame, to, left == CO_LEFT_FINISHED);
  co_frame_arrived (&self->frame, self->entered_from);
}

/* --- lifetime ------------------------------------------------------------------------------------------- */

/* A coroutine with a fresh stack, and the end of one that is not running. */
Coroutine *coroutine_map (void);
void coroutine_unmap (Coroutine *co);

/* Yields, and lets whoever entered @self (the running coroutine) schedule it in @context. */
void coroutine_fn coroutine_leave_moving (Coroutine *self, AioContext *context);

#endif
