/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers: a binary heap by deadline, and one timerfd per context, so that a host that only polls our descriptor
 * wakes in time.  The timerfd may be set too early (a timer was deleted or put off), which costs a look.
 */
#include "coaio-config.h"

#include <assert.h>
#include <sys/timerfd.h>
#include <time.h>

#include "context-int.h"

int64_t
aio_clock_ns (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C (1000000000) + now.tv_nsec;
}

/* --- the heap ------------------------------------------------------------------------------------------- */

static bool
earlier (const AioTimer *a, const AioTimer *b)
{
  return a->deadline != b->deadline ? a->deadline < b->deadline : a->sequence < b->sequence;
}

static void
put (AioTimers *timers, unsigned place, AioTimer *timer)
{
  timers->heap[place] = timer;
  timer->place = (int)place;
}

/* Moves the timer at @place to where it belongs. */
static void
sift (AioTimers *timers, unsigned place)
{
  AioTimer *timer = timers->heap[place];

  while (place > 0 && earlier (timer, timers->heap[(place - 1) / 2]))
    {
      put (timers, place, timers->heap[(place - 1) / 2]);
      place = (place - 1) / 2;
    }
  for (;;)
    {
      unsigned child = 2 * place + 1;

      if (child + 1 < timers->count && earlier (timers->heap[child + 1], timers->heap[child]))
        child++;
      if (child >= timers->count || !earlier (timers->heap[child], timer))
        break;
      put (timers, place, timers->heap[child]);
      place = child;
    }
  put (timers, place, timer);
}

static void
heap_remove (AioTimers *timers, AioTimer *timer)
{
  unsigned place = (unsigned)timer->place;
  AioTimer *last = timers->heap[--timers->count];

  timer->place = -1;
  if (last != timer)
    {
      put (timers, place, last);
      sift (timers, place);
    }
}

/* --- for the context ------------------------------------------------------------------------------------ */

void
aio_timers_init (AioContext *ctx)
{
  ctx->timers.armed = INT64_MAX;
}

void
aio_timers_clear (AioContext *ctx)
{
  while (ctx->timers.count > 0)
    heap_remove (&ctx->timers, ctx->timers.heap[0]);
  g_clear_pointer (&ctx->timers.heap, g_free);
}

void
aio_timers_arm (AioContext *ctx)
{
  AioTimers *timers = &ctx->timers;
  struct itimerspec setting = { 0 };
  int64_t deadline;

  if (timers->count == 0 || timers->heap[0]->deadline >= timers->armed)
    return;
  timers->armed = timers->heap[0]->deadline;
  /* Zero would switch it off. */
  deadline = MAX (timers->armed, 1);
  setting.it_value.tv_sec = (time_t)(deadline / 1000000000);
  setting.it_value.tv_nsec = (long)(deadline % 1000000000);
  timerfd_settime (ctx->timer_fd, TFD_TIMER_ABSTIME, &setting, NULL);
}

bool
aio_timers_run (AioContext *ctx)
{
  AioTimers *timers = &ctx->timers;
  int64_t now = aio_clock_ns ();
  /* One that a callback sets to the past has to wait for the next round. */
  uint64_t last = timers->sequence;
  bool progress = false;

  timers->armed = INT64_MAX;
  while (timers->count > 0 && timers->heap[0]->deadline <= now && timers->heap[0]->sequence <= last)
    {
      AioTimer *timer = timers->heap[0];

      heap_remove (timers, timer);
      timer->callback (timer->opaque);
      progress = true;
    }
  return progress;
}

/* --- for users ------------------------------------------------------------------------------------------ */

void
aio_timer_init (AioTimer *timer, AioContext *ctx, AioCallback *callback, void *opaque)
{
  *timer = (AioTimer){ .ctx = ctx, .callback = callback, .opaque = opaque, .place = -1 };
}

AioTimer *
aio_timer_new (AioContext *ctx, AioCallback *callback, void *opaque)
{
  AioTimer *timer = g_new (AioTimer, 1);

  aio_timer_init (timer, ctx, callback, opaque);
  return timer;
}

void
aio_timer_mod (AioTimer *timer, int64_t deadline_ns)
{
  AioContext *ctx = timer->ctx;
  AioTimers *timers = &ctx->timers;

  timer->deadline = deadline_ns;
  timer->sequence = ++timers->sequence;
  if (timer->place < 0)
    {
      if (timers->count == timers->capacity)
        {
          timers->capacity = MAX (16, 2 * timers->capacity);
          timers->heap = g_renew (AioTimer *, timers->heap, timers->capacity);
        }
      put (timers, timers->count++, timer);
    }
  sift (timers, (unsigned)timer->place);
  /* Inside dispatch this is done once, at its end. */
  if (ctx->depth == 0)
    aio_timers_arm (ctx);
}

void
aio_timer_del (AioTimer *timer)
{
  if (timer->place >= 0)
    heap_remove (&timer->ctx->timers, timer);
}

void
aio_timer_free (AioTimer *timer)
{
  if (!timer)
    return;
  aio_timer_del (timer);
  g_free (timer);
}
