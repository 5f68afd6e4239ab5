/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Back end for any POSIX host: a stack is started with setcontext (), later switches are jumps that do not
 * touch the signal mask, so need no system call.  The rounding mode belongs to the thread, not to the coroutine. */
#ifndef COAIO_SWITCH_UCONTEXT_H
#define COAIO_SWITCH_UCONTEXT_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct
{
  sigjmp_buf registers;
  /* Set until the stack has been started. */
  void (*start) (void *opaque);
  void *opaque;
  char *bottom;
  size_t size;
  /* For ThreadSanitizer: it looks for what setjmp () saved in the fiber that runs, so the change of fibers has to
   * come between setjmp () and longjmp (). */
  void *fiber;
} CoSwitch;

void coaio_switch_init (CoSwitch *place, char *bottom, size_t size, void (*start) (void *opaque),
                        void *opaque);
void coaio_switch (CoSwitch *from, CoSwitch *to);

#endif
