/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coroutines by themselves: no context needed. */
#include "coaio-config.h"

#include <fenv.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

#include "helper.h"

/* --- entering and yielding ------------------------------------------------------------------------------ */

static void coroutine_fn
count_to_three (void *opaque)
{
  int *n = opaque;

  for (int i = 0; i < 3; i++)
    {
      g_assert_true (in_coroutine ());
      ++*n;
      coroutine_yield ();
    }
  *n = 100;
}

static void
test_yield (void)
{
  int n = 0;
  Coroutine *co = coroutine_new (count_to_three, &n);

  g_assert_false (in_coroutine ());
  g_assert_cmpint (n, ==, 0);
  for (int i = 1; i <= 3; i++)
    {
      coroutine_enter (co);
      g_assert_cmpint (n, ==, i);
      g_assert_null (coroutine_self ());
    }
  coroutine_enter (co);
  g_assert_cmpint (n, ==, 100);
}

static void coroutine_fn
append_name (void *opaque)
{
  GString *log = opaque;
  char name = log->str[log->len - 1];

  for (int i = 0; i < 3; i++)
    {
      g_string_append_c (log, (char)(name + i));
      coroutine_yield ();
    }
}

/* Two take turns in exactly the order they are entered. */
static void
test_order (void)
{
  g_autoptr (GString) log = g_string_new ("A");
  Coroutine *a = coroutine_new (append_name, log);
  Coroutine *b = coroutine_new (append_name, log);

  coroutine_enter (a); /* A A */
  g_string_append_c (log, 'a');
  coroutine_enter (b); /* a a */
  coroutine_enter (a); /* B */
  coroutine_enter (a); /* C */
  coroutine_enter (b); /* b */
  coroutine_enter (b); /* c */
  g_assert_cmpstr (log->str, ==, "AAaaBCbc");
  coroutine_enter (b);
  coroutine_enter (a);
}

typedef struct
{
  int depth;
  GString *log;
  Coroutine *caller;
} Nest;

static void coroutine_fn
nest (void *opaque)
{
  Nest *self = opaque;

  g_assert_true (coroutine_self () != self->caller);
  g_string_append_printf (self->log, "%d", self->depth);
  if (self->depth < 5)
    {
      Nest inner = { self->depth + 1, self->log, coroutine_self () };
      Coroutine *co = coroutine_new (nest, &inner);
      Coroutine *before = coroutine_self ();

      coroutine_enter (co);
      g_assert_true (coroutine_self () == before);
      g_string_append_c (self->log, 'y');
      coroutine_enter (co);
    }
  coroutine_yield ();
  g_string_append_printf (self->log, "%d", self->depth);
}

static void
test_nested (void)
{
  g_autoptr (GString) log = g_string_new (NULL);
  Nest outer = { 1, log, NULL };
  Coroutine *co = coroutine_new (nest, &outer);

  coroutine_enter (co);
  g_assert_null (coroutine_self ());
  g_string_append_c (log, 'Y');
  coroutine_enter (co);
  g_assert_cmpstr (log->str, ==, "12345y5y4y3y2Y1");
}

/* --- what a switch keeps -------------------------------------------------------------------------------- */

typedef struct
{
  int rounding;
  double start;
  bool ended;
} Floats;

static void coroutine_fn
keep_floats (void *opaque)
{
  Floats *floats = opaque;
  volatile double one = 1.0, three = 3.0;
  double a = floats->start, b = a * 2, c = a * 3, d = a * 4;
  /* In memory: registers of the x87 have more digits. */
  volatile double third, again;

  /* setjmp () does not keep the rounding mode. */
#ifdef COAIO_BACKEND_ASM
  fesetround (floats->rounding);
#else
  floats->rounding = FE_TONEAREST;
#endif
  third = one / three;
  for (int i = 0; i < 10; i++)
    {
      coroutine_yield ();
      g_assert_cmpint (fegetround (), ==, floats->rounding);
      again = one / three;
      g_assert_true (again == third);
      a += 1, b += 2, c += 3, d += 4;
    }
  g_assert_true (a == floats->start + 10 && b == floats->start * 2 + 20);
  g_assert_true (c == floats->start * 3 + 30 && d == floats->start * 4 + 40);
  floats->ended = true;
}

static void
test_floats (void)
{
  Floats up = { FE_UPWARD, 1.5, false }, down = { FE_DOWNWARD, -7.25, false };
  Coroutine *a = coroutine_new (keep_floats, &up);
  Coroutine *b = coroutine_new (keep_floats, &down);

  for (int i = 0; i < 11; i++)
    {
      coroutine_enter (a);
      coroutine_enter (b);
      g_assert_cmpint (fegetround (), ==, FE_TONEAREST);
    }
  g_assert_true (up.ended && down.ended);
}

/* Where the frame of the function below is on a thread's own stack, modulo the alignment that the ABI asks for. */
static uintptr_t frame_start;

static uintptr_t
place_of (const void *frame)
{
  return (uintptr_t)frame % MIN (16, __BIGGEST_ALIGNMENT__);
}

static __attribute__ ((noinline)) void
check_alignment (int depth)
{
  /* Vector code of the compiler relies on this much. */
  _Alignas(64) volatile char aligned[64];
  volatile uintptr_t address = (uintptr_t)aligned;

  memset ((char *)aligned, depth, sizeof aligned);
  g_assert_cmpuint (address % 64, ==, 0);
  if (frame_start == UINTPTR_MAX)
    frame_start = place_of (__builtin_frame_address (0));
  g_assert_cmpuint (place_of (__builtin_frame_address (0)), ==, frame_start);
  if (depth > 0)
    check_alignment (depth - 1);
  g_assert_cmpint (aligned[63], ==, depth);
}

static void coroutine_fn
aligned_entry (void *opaque)
{
  check_alignment (3);
  coroutine_yield ();
  check_alignment (3);
  *(int *)opaque += 1;
}

static void
test_alignment (void)
{
  int n = 0;

  frame_start = UINTPTR_MAX;
  check_alignment (3);
  /* Stacks begin at different places within a page. */
  for (int i = 0; i < 40; i++)
    {
      Coroutine *outer = coroutine_new (aligned_entry, &n);
      Coroutine *inner = coroutine_new (aligned_entry, &n);

      coroutine_enter (outer);
      coroutine_enter (inner);
      coroutine_enter (outer);
      coroutine_enter (inner);
    }
  g_assert_cmpint (n, ==, 80);
}

static __attribute__ ((noinline)) int
use_stack (int kilobytes)
{
  volatile char page[1024];

  page[0] = (char)kilobytes;
  page[1023] = (char)kilobytes;
  coroutine_yield ();
  return kilobytes > 0 ? use_stack (kilobytes - 1) + page[0] - page[1023] : 7;
}

static void coroutine_fn
deep_entry (void *opaque)
{
  *(int *)opaque = use_stack (150);
}

static void
test_deep (void)
{
  int result = 0;
  Coroutine *co = coroutine_new (deep_entry, &result);

  while (!result)
    coroutine_enter (co);
  g_assert_cmpint (result, ==, 7);
}

#if !defined(TEST_ASAN) && !defined(TEST_TSAN)
#if !defined(TEST_ASAN) && !defined(TEST_TSAN)
static volatile int enough = INT_MAX;

static __attribute__ ((noinline)) int
overflow (volatile char *above, int depth)
{
  volatile char here[512];

  here[0] = above[0];
  return depth < enough ? overflow (here, depth + 1) + here[0] : 0;
}

static void coroutine_fn
overflow_entry (void *opaque)
{
  volatile char first = 0;

  *(int *)opaque = overflow (&first, 0);
}
#endif
#endif

/* Running over the end of a stack ends the process, and damages nothing silently. */
static void
test_guard_page (void)
{
#if defined(TEST_ASAN) || defined(TEST_TSAN)
  g_test_skip ("the sanitizer catches it first");
#else
  if (g_test_subprocess ())
    {
      int result;

      signal (SIGSEGV, SIG_DFL);
      coroutine_enter (coroutine_new (overflow_entry, &result));
      return;
    }
  if (!can_start_itself ())
    return;
  g_test_trap_subprocess (NULL, 0, 0);
  g_test_trap_assert_failed ();
#endif
}

/* --- many, and the pool --------------------------------------------------------------------------------- */

static void coroutine_fn
add_twice (void *opaque)
{
  ++*(int *)opaque;
  coroutine_yield ();
  ++*(int *)opaque;
}

static void
test_many (void)
{
#ifdef TEST_TSAN
  enum
  {
    N = 500
  };
#else
  enum
  {
    N = 5000
  };
#endif
  g_autofree Coroutine **co = g_new (Coroutine *, N);

  for (int round = 0; round < 2; round++)
    {
      int n = 0;

      for (int i = 0; i < N; i++)
        co[i] = coroutine_new (add_twice, &n);
      for (int i = 0; i < N; i++)
        coroutine_enter (co[i]);
      g_assert_cmpint (n, ==, N);
      for (int i = N - 1; i >= 0; i--)
        coroutine_enter (co[i]);
      g_assert_cmpint (n, ==, 2 * N);
    }
}

static void
test_reuse (void)
{
  int n = 0;
  Coroutine *first = coroutine_new (add_twice, &n);
  Coroutine *second;

  coroutine_enter (first);
  coroutine_enter (first);
  second = coroutine_new (count_to_three, &n);
  /* The stack is the same, everything on it is new. */
  g_assert_true (first == second);
  g_assert_null (coroutine_get_context (second));
  for (int i = 0; i < 4; i++)
    coroutine_enter (second);
  g_assert_cmpint (n, ==, 100);
}

static void *
finish_all (void *opaque)
{
  Coroutine **co = opaque;

  for (int i = 0; co[i]; i++)
    coroutine_enter (co[i]);
  return NULL;
}

/* Begun in one thread, ended in another; stacks find their way back. */
static void
test_threads (void)
{
  enum
  {
    N = 200
  };
  Coroutine *co[N + 1] = { NULL };

  for (int round = 0; round < 5; round++)
    {
      int n = 0;

      for (int i = 0; i < N; i++)
        {
          co[i] = coroutine_new (add_twice, &n);
          coroutine_enter (co[i]);
        }
      g_assert_cmpint (n, ==, N);
      g_thread_join (g_thread_new ("other", finish_all, co));
      g_assert_cmpint (n, ==, 2 * N);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/coroutine/yield", test_yield);
  g_test_add_func ("/coroutine/order", test_order);
  g_test_add_func ("/coroutine/nested", test_nested);
  g_test_add_func ("/coroutine/floats", test_floats);
  g_test_add_func ("/coroutine/alignment", test_alignment);
  g_test_add_func ("/coroutine/deep", test_deep);
  g_test_add_func ("/coroutine/guard-page", test_guard_page);
  g_test_add_func ("/coroutine/many", test_many);
  g_test_add_func ("/coroutine/reuse", test_reuse);
  g_test_add_func ("/coroutine/threads", test_threads);
  return g_test_run ();
}
