/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A frame: one place where execution can go on, with the stack it goes on with.  Every coroutine has one,
 * and every thread has one for its own stack.
 *
 * A back end (asm or ucontext) only moves the registers; co_frame_switch () below tells the sanitizers.
 */
#ifndef COAIO_FRAME_H
#define COAIO_FRAME_H

#include <stdbool.h>
#include <stddef.h>

#include "coroutine-stack.h"
#include "sanitizer.h"

#ifdef COAIO_BACKEND_ASM
#include "switch-asm.h"
#else
#include "switch-ucontext.h"
#endif

typedef struct
{
  CoSwitch place;
#ifdef COAIO_ASAN
  void *fake_stack;
  const void *stack_bottom; /* of a thread's own stack: learnt when a coroutine is entered from it */
  size_t stack_size;
#endif
#ifdef COAIO_TSAN
  void *fiber;
#endif
} CoFrame;

/* To be called first thing on a stack that was just switched to; @from is where it was entered from. */
static inline CO_NO_SANITIZE void
co_frame_arrived (CoFrame *self, CoFrame *from)
{
#ifdef COAIO_ASAN
  __sanitizer_finish_switch_fiber (self->fake_stack, &from->stack_bottom, &from->stack_size);
#else
  (void)self;
  (void)from;
#endif
}

/* Leaves the stack of @from for that of @to.  @for_good: nothing on this stack will be looked at again, even
 * if it is switched to later. */
static inline CO_NO_SANITIZE void
co_frame_leave (CoFrame *from, CoFrame *to, bool for_good)
{
#ifdef COAIO_ASAN
  __sanitizer_start_switch_fiber (for_good ? NULL : &from->fake_stack, to->stack_bottom, to->stack_size);
  if (for_good)
    from->fake_stack = NULL;
#endif
#ifdef COAIO_TSAN
  if (!from->fiber)
    from->fiber = __tsan_get_current_fiber ();
#ifdef COAIO_BACKEND_ASM
  __tsan_switch_to_fiber (to->fiber, 0);
#else
  to->place.fiber = to->fiber;
#endif
#endif
  (void)for_good;
  coaio_switch (&from->place, &to->place);
}

#endif
