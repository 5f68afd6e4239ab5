/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include "coroutine-stack.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <glib.h>

#include "sanitizer.h"

/* Instrumented code needs several times the stack; what is not touched costs address space only. */
#if defined(COAIO_ASAN) || defined(COAIO_TSAN)
#define STACK_SIZE (1024 * 1024)
#else
#define STACK_SIZE (256 * 1024)
#endif

void
co_stack_map (CoStack *stack)
{
  size_t page = (size_t)sysconf (_SC_PAGESIZE);

  stack->size = STACK_SIZE;
  stack->mapping_size = stack->size + page;
  stack->mapping = mmap (NULL, stack->mapping_size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (stack->mapping == MAP_FAILED || mprotect (stack->mapping, page, PROT_NONE) < 0)
    g_error ("no memory for a coroutine stack: %s", g_strerror (errno));
  stack->bottom = (char *)stack->mapping + page;
#ifdef HAVE_VALGRIND
  stack->valgrind_id = VALGRIND_STACK_REGISTER (stack->bottom, stack->bottom + stack->size);
#endif
}

void
co_stack_unmap (CoStack *stack)
{
  CoStack copy = *stack;

#ifdef HAVE_VALGRIND
  VALGRIND_STACK_DEREGISTER (copy.valgrind_id);
#endif
#ifdef COAIO_ASAN
  __asan_unpoison_memory_region (copy.bottom, copy.size);
#endif
  munmap (copy.mapping, copy.mapping_size);
}
