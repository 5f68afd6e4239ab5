/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors: handlers of the users, and our own.
 *
 * An event carries the descriptor's number and a generation, never a pointer: a descriptor that was forgotten
 * (or closed while a duplicate keeps it registered) cannot lead to a handler that is gone.  Generation 0 is for
 * our own.
 */
#include "coaio-config.h"

#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>

#include "context-int.h"

typedef struct
{
  uint32_t generation;
  AioCallback *io_read, *io_write;
  void *opaque;
} AioHandler;

static uint64_t
event_tag (uint32_t generation, int fd)
{
  return (uint64_t)generation << 32 | (uint32_t)fd;
}

int
aio_watch_internal (AioContext *ctx, int fd)
{
  struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = event_tag (0, fd) };

  return epoll_ctl (ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void
aio_unwatch_internal (AioContext *ctx, int fd)
{
  epoll_ctl (ctx->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void
aio_handlers_init (AioContext *ctx)
{
  ctx->handlers = g_hash_table_new_full (NULL, NULL, NULL, g_free);
}

void
aio_handlers_clear (AioContext *ctx)
{
  g_clear_pointer (&ctx->handlers, g_hash_table_unref);
}

void
aio_set_fd_handler (AioContext *ctx, int fd, AioCallback *io_read, AioCallback *io_write, void *opaque)
{
  AioHandler *handler = g_hash_table_lookup (ctx->handlers, GINT_TO_POINTER (fd));
  struct epoll_event event = { .events = (io_read ? EPOLLIN : 0) | (io_write ? EPOLLOUT : 0) };
  bool added = !handler;
  int ret;

  if (!io_read && !io_write)
    {
      if (handler)
        {
          /* Fails when the descriptor was closed first, which has forgotten it as well. */
          epoll_ctl (ctx->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
          g_hash_table_remove (ctx->handlers, GINT_TO_POINTER (fd));
        }
      return;
    }

  if (added)
    {
      handler = g_new0 (AioHandler, 1);
      if (++ctx->handler_generation == 0)
        ctx->handler_generation = 1;
      handler->generation = ctx->handler_generation;
      g_hash_table_insert (ctx->handlers, GINT_TO_POINTER (fd), handler);
    }
  handler->io_read = io_read;
  handler->io_write = io_write;
  handler->opaque = opaque;

  event.data.u64 = event_tag (handler->generation, fd);
  ret = epoll_ctl (ctx->epoll_fd, added ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
  /* The number was closed and used again without telling us. */
  if (ret < 0 && !added && errno == ENOENT)
    ret = epoll_ctl (ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event);
  if (ret < 0)
    g_error ("cannot watch descriptor %d: %s", fd, g_strerror (errno));
}

static AioHandler *
find_handler (AioContext *ctx, uint64_t tag)
{
  AioHandler *handler = g_hash_table_lookup (ctx->handlers, GINT_TO_POINTER ((int)(uint32_t)tag));

  return handler && handler->generation == tag >> 32 ? handler : NULL;
}

static bool
run_handler (AioContext *ctx, uint64_t tag, uint32_t events)
{
  AioHandler *handler = find_handler (ctx, tag);
  bool ran = false;

  if (handler && handler->io_read && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
    {
      handler->io_read (handler->opaque);
      ran = true;
      /* It may have taken itself away. */
      handler = find_handler (ctx, tag);
    }
  if (handler && handler->io_write && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
    {
      handler->io_write (handler->opaque);
      ran = true;
    }
  return ran;
}

bool
aio_wait_events (AioContext *ctx, bool blocking)
{
  struct epoll_event events[32];
  bool progress = false;
  int n;

  ctx->busy_rounds = 0;
  aio_timers_arm (ctx);
  if (blocking)
    {
      atomic_store (&ctx->awake, false);
      n = epoll_wait (ctx->epoll_fd, events, G_N_ELEMENTS (events), aio_has_ready (ctx) ? 0 : -1);
      atomic_store (&ctx->awake, true);
    }
  else
    n = epoll_wait (ctx->epoll_fd, events, G_N_ELEMENTS (events), 0);
  assert (n >= 0 || errno == EINTR);

  /* Timers first: their event will not come again, and a handler may poll inside. */
  for (int i = 0; i < n; i++)
    if (events[i].data.u64 == event_tag (0, ctx->timer_fd))
      progress |= aio_timers_run (ctx);
  for (int i = 0; i < n; i++)
    progress |= run_handler (ctx, events[i].data.u64, events[i].events);
  progress |= aio_run_ready (ctx);
  return progress;
}
