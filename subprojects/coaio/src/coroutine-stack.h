/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory for stacks: mapped, never swapped in before use, with a guard page below. */
#ifndef COAIO_COROUTINE_STACK_H
#define COAIO_COROUTINE_STACK_H

#include <stddef.h>

typedef struct
{
  void *mapping; /* the guard page is its first page */
  size_t mapping_size;
  char *bottom; /* lowest usable byte */
  size_t size;
  unsigned valgrind_id;
} CoStack;

/* Ends the process when there is no address space left. */
void co_stack_map (CoStack *stack);
/* @stack may live inside the memory that goes away. */
void co_stack_unmap (CoStack *stack);

#endif
