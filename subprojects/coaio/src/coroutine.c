/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entering, yielding, ending.
 *
 *   enter ──▶ runs ──▶ yield ──▶ (enterer goes on) ──▶ enter …
 *                 └──▶ entry returns: FINISHED, back to the pool; its stack waits inside coroutine_main ()
 *
 * Invariant: between the moment a coroutine has arranged to be woken and the moment it has left its stack, only
 * its own thread could run it, and that thread is busy.  Whatever breaks this (moving to a context of another
 * thread) is done by the enterer, after the switch (CoLeft).
 */
#include "coaio-config.h"

#include "coroutine-int.h"

#include <assert.h>

#include <coaio/aio.h>

#include "coroutine-pool.h"

#ifdef __GLIBC__
/* A few words: they fit into what glibc keeps for libraries that are loaded late. */
#define CO_TLS __thread __attribute__ ((tls_model ("initial-exec")))
#else
#define CO_TLS __thread
#endif

static CO_TLS CoThread this_thread;

/* A compiler may keep the address of a thread variable over any call; it may not look into this one. */
__attribute__ ((noinline)) CoThread *
co_thread (void)
{
  CoThread *thread = &this_thread;

  __asm__ volatile("" : "+r"(thread));
  return thread;
}

static CO_NO_SANITIZE void
coroutine_main (void *opaque)
{
  Coroutine *self = opaque;

  co_frame_arrived (&self->frame, self->entered_from);
  for (;;)
    {
      self->entry (self->opaque);
      co_leave (co_thread (), self, CO_LEFT_FINISHED);
    }
}

Coroutine *
coroutine_map (void)
{
  CoStack stack;
  Coroutine *co;
  static atomic_uint colour;
  size_t shift;

  co_stack_map (&stack);
  /* Stacks that all start at the same place in a page would fight for the same few lines of the cache. */
  shift = atomic_fetch_add_explicit (&colour, 1, memory_order_relaxed) % 16 * 256;
  stack.size -= (sizeof *co + 63) / 64 * 64 + shift;
  co = (Coroutine *)(stack.bottom + stack.size);
  co->stack = stack;
#ifdef COAIO_ASAN
  co->frame.stack_bottom = stack.bottom;
  co->frame.stack_size = stack.size;
#endif
#ifdef COAIO_TSAN
  co->frame.fiber = __tsan_create_fiber (0);
#endif
  coaio_switch_init (&co->frame.place, stack.bottom, stack.size, coroutine_main, co);
  return co;
}

void
coroutine_unmap (Coroutine *co)
{
#ifdef COAIO_TSAN
  __tsan_destroy_fiber (co->frame.fiber);
#endif
  co_stack_unmap (&co->stack);
}

Coroutine *
coroutine_new (CoroutineEntry *entry, void *opaque)
{
  Coroutine *co = coroutine_pool_get ();

  co->entry = entry;
  co->opaque = opaque;
  co->entered_from = NULL;
  co->caller = NULL;
  atomic_init (&co->context, NULL);
  atomic_init (&co->scheduled, false);
  return co;
}

void
coroutine_has_left (Coroutine *co)
{
  if (co->left == CO_LEFT_FINISHED)
    coroutine_pool_put (co);
  else
    aio_co_schedule (co->move_to, co);
}

CO_NO_SANITIZE void
coroutine_enter (Coroutine *co)
{
  co_enter (co_thread (), co);
}

CO_NO_SANITIZE void
coroutine_yield (void)
{
  CoThread *thread = co_thread ();
  Coroutine *self = thread->current;

  assert (self && "yield outside of a coroutine");
  co_leave (thread, self, CO_LEFT_YIELDED);
}

CO_NO_SANITIZE void
coroutine_leave_moving (Coroutine *self, AioContext *context)
{
  self->move_to = context;
  co_leave (co_thread (), self, CO_LEFT_MOVING);
}

Coroutine *
coroutine_self (void)
{
  return co_thread ()->current;
}

AioContext *
coroutine_get_context (const Coroutine *co)
{
  return atomic_load_explicit (&((Coroutine *)co)->context, memory_order_relaxed);
}
