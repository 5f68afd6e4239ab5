/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* AioContext: birth, end, GSource, the current one of a thread. */
#include "coaio-config.h"

#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <glib-unix.h>

#include "context-int.h"
#include "thread-pool.h"

/* --- as a source ---------------------------------------------------------------------------------------- */

static gboolean
source_prepare (GSource *source, gint *timeout)
{
  *timeout = -1;
  /* What became ready after the last dispatch, without anybody having told the eventfd. */
  return aio_has_ready ((AioContext *)source);
}

static gboolean
source_check (GSource *source)
{
  AioContext *ctx = (AioContext *)source;

  return aio_has_ready (ctx) || g_source_query_unix_fd (source, ctx->epoll_tag) != 0;
}

static gboolean
source_dispatch (GSource *source, GSourceFunc callback, gpointer user_data)
{
  AioContext *ctx = (AioContext *)source;
  AioContext *previous;

  (void)callback;
  (void)user_data;
  previous = aio_dispatch_begin (ctx);
  aio_dispatch_round (ctx, false);
  aio_dispatch_end (ctx, previous);
  return G_SOURCE_CONTINUE;
}

static void
source_finalize (GSource *source)
{
  AioContext *ctx = (AioContext *)source;

  CO_TSAN_ACQUIRE (ctx);
  assert (ctx->depth == 0);
  for (int i = 0; i < AIO_N_ENGINES; i++)
    if (ctx->engines[i])
      ctx->engines[i]->ops->detach (ctx->engines[i]);
  aio_drop_items (ctx);
  aio_timers_clear (ctx);
  aio_handlers_clear (ctx);
  if (ctx->uses_pool)
    thread_pool_unref ();
  if (ctx->timer_fd >= 0)
    close (ctx->timer_fd);
  if (ctx->event_fd >= 0)
    close (ctx->event_fd);
  if (ctx->epoll_fd >= 0)
    close (ctx->epoll_fd);
}

static GSourceFuncs source_funcs = {
  .prepare = source_prepare,
  .check = source_check,
  .dispatch = source_dispatch,
  .finalize = source_finalize,
};

/* --- birth and end -------------------------------------------------------------------------------------- */

static bool
open_descriptors (AioContext *ctx)
{
  return (ctx->epoll_fd = epoll_create1 (EPOLL_CLOEXEC)) >= 0
         && (ctx->event_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0
         && (ctx->timer_fd = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) >= 0
         && aio_watch_internal (ctx, ctx->event_fd) == 0 && aio_watch_internal (ctx, ctx->timer_fd) == 0;
}

AioContext *
aio_context_new (GError **error)
{
  AioContext *ctx = (AioContext *)g_source_new (&source_funcs, sizeof (AioContext));

  ctx->epoll_fd = ctx->event_fd = ctx->timer_fd = -1;
  ctx->budget = AIO_ROUND_BUDGET;
  aio_timers_init (ctx);
  aio_handlers_init (ctx);
  if (!open_descriptors (ctx))
    {
      int saved_errno = errno;

      g_set_error (error, G_FILE_ERROR, (int)g_file_error_from_errno (saved_errno),
                   "cannot make an I/O context: %s", g_strerror (saved_errno));
      aio_context_unref (ctx);
      return NULL;
    }

  g_source_set_name (&ctx->source, "coaio");
  g_source_set_can_recurse (&ctx->source, TRUE);
  ctx->epoll_tag = g_source_add_unix_fd (&ctx->source, ctx->epoll_fd, G_IO_IN);
  return ctx;
}

AioContext *
aio_context_ref (AioContext *ctx)
{
  return (AioContext *)g_source_ref (&ctx->source);
}

void
aio_context_unref (AioContext *ctx)
{
  CO_TSAN_RELEASE (ctx);
  g_source_unref (&ctx->source);
}

GSource *
aio_context_get_source (AioContext *ctx)
{
  return &ctx->source;
}

int
aio_context_get_fd (AioContext *ctx)
{
  return ctx->epoll_fd;
}

/* --- the current context -------------------------------------------------------------------------------- */

AioContext *
aio_context_get_current (void)
{
  return co_thread ()->context;
}

void
aio_context_push (AioContext *ctx)
{
  CoThread *thread = co_thread ();

  if (!thread->pushed_contexts)
    thread->pushed_contexts = g_ptr_array_new ();
  g_ptr_array_add (thread->pushed_contexts, thread->context);
  thread->context = ctx;
}

void
aio_context_pop (AioContext *ctx)
{
  CoThread *thread = co_thread ();
  GPtrArray *pushed = thread->pushed_contexts;

  assert (thread->context == ctx && pushed && pushed->len > 0);
  thread->context = g_ptr_array_steal_index (pushed, pushed->len - 1);
  if (pushed->len == 0)
    g_clear_pointer (&thread->pushed_contexts, g_ptr_array_unref);
}
