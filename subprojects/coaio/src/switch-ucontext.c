/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A checked longjmp () takes a jump to another stack for an error. */
#undef _FORTIFY_SOURCE
#include "coaio-config.h"

#include "switch-ucontext.h"

#include <stdint.h>
#include <ucontext.h>

#include <glib.h>

#include "sanitizer.h"

void
coaio_switch_init (CoSwitch *place, char *bottom, size_t size, void (*start) (void *opaque), void *opaque)
{
  place->start = start;
  place->opaque = opaque;
  place->bottom = bottom;
  place->size = size;
}

/* makecontext () passes ints only. */
static CO_NO_SANITIZE void
start_stack (int high, int low)
{
  CoSwitch *place = (CoSwitch *)(uintptr_t)(((uint64_t)(uint32_t)high << 32) | (uint32_t)low);
  void (*start) (void *opaque) = place->start;

  place->start = NULL;
  start (place->opaque);
  g_assert_not_reached ();
}

CO_NO_SANITIZE void
coaio_switch (CoSwitch *from, CoSwitch *to)
{
  if (sigsetjmp (from->registers, 0) != 0)
    return;
#ifdef COAIO_TSAN
  __tsan_switch_to_fiber (to->fiber, 0);
#endif
  if (to->start)
    {
      ucontext_t context;
      uint64_t pointer = (uintptr_t)to;

      getcontext (&context);
      context.uc_link = NULL;
      context.uc_stack.ss_sp = to->bottom;
      context.uc_stack.ss_size = to->size;
      makecontext (&context, (void (*) (void))start_stack, 2, (int)(pointer >> 32), (int)pointer);
      setcontext (&context);
      g_error ("setcontext () failed");
    }
  siglongjmp (to->registers, 1);
}
