/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Back end in assembly: switch-*.S. */
#ifndef COAIO_SWITCH_ASM_H
#define COAIO_SWITCH_ASM_H

#include <stddef.h>

typedef struct
{
  void *stack_pointer; /* everything else lies on the stack it points to */
} CoSwitch;

/* Saves what the calling convention lets a function keep, goes on at @to; returns when somebody switches to
 * @from. */
void coaio_switch (CoSwitch *from, CoSwitch *to);
/* Prepares @place so that the first switch to it calls @start (@opaque), which never returns. */
void coaio_switch_init (CoSwitch *place, char *bottom, size_t size, void (*start) (void *opaque),
                        void *opaque);

#endif
