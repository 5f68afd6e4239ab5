/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <coaio/coaio.h>
static void coroutine_fn hello (void *o) { int *n = o; for (int i=0;i<10;i++){ (*n)++; coroutine_yield (); co_sleep_ns (1000);} }
static int work (void *o) { return 42; }
static void coroutine_fn w (void *o) { *(int*)o = aio_co_run_in_thread (work, NULL); }
int main (void)
{
  AioContext *c = aio_context_new (NULL);
  aio_context_push (c);
  int n = 0;
  Coroutine *co = coroutine_new (hello, &n);
  coroutine_enter (co);
  while (n < 10) { int k = n; aio_co_wake (co); while (n == k) aio_poll (c, true); }
  aio_co_wake(co); aio_poll (c, true);
  int r = 0;
  coroutine_enter (coroutine_new (w, &r));
  while (!r) aio_poll (c, true);
  g_print ("%d %d\n", n, r);
  aio_context_pop (c);
  aio_context_unref (c);
}
