/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which requests may still be using something that was given up.
 *
 * Every request notes the epoch it began in.  What is given up in an epoch may be used for something else when
 * that epoch is over: all requests that began in it or before have ended.  There are only ever two epochs with
 * requests in them, the present one and the one before.
 *
 * For the coroutines of one context.
 */
#ifndef UTIL_EPOCHS_H
#define UTIL_EPOCHS_H

#include <stdbool.h>
#include <stdint.h>

#include <coaio/coaio.h>

typedef struct
{
  uint64_t current;
  unsigned active;     /* requests of the present epoch */
  unsigned active_old; /* of the one before */
  CoQueue old_done;
} Epochs;

static inline void
epochs_init (Epochs *epochs)
{
  *epochs = (Epochs){ .current = 1 };
  co_queue_init (&epochs->old_done);
}

static inline void
epochs_clear (Epochs *epochs)
{
  co_queue_clear (&epochs->old_done);
}

/* A request begins; the result is for epochs_co_leave (). */
static inline uint64_t
epochs_enter (Epochs *epochs)
{
  epochs->active++;
  return epochs->current;
}

static inline void coroutine_fn
epochs_co_leave (Epochs *epochs, uint64_t epoch)
{
  if (epoch == epochs->current)
    epochs->active--;
  else if (--epochs->active_old == 0)
    co_queue_restart_all (&epochs->old_done);
}

/* Begins a new epoch, if the one before the present is over. */
static inline void
epochs_advance (Epochs *epochs)
{
  if (epochs->active_old > 0)
    return;
  epochs->active_old = epochs->active;
  epochs->active = 0;
  epochs->current++;
}

/* Whether all requests of @epoch and before have ended. */
static inline bool
epochs_is_over (Epochs *epochs, uint64_t epoch)
{
  if (epoch == epochs->current)
    epochs_advance (epochs);
  return epoch + 1 < epochs->current || (epoch < epochs->current && epochs->active_old == 0);
}

/* Waits until all requests that began before have ended. */
static inline void coroutine_fn
epochs_co_wait (Epochs *epochs)
{
  /* The first wait is for the epoch before, which keeps the present one from being closed. */
  while (epochs->active_old > 0)
    co_queue_wait (&epochs->old_done, NULL);
  epochs_advance (epochs);
  while (epochs->active_old > 0)
    co_queue_wait (&epochs->old_done, NULL);
}

#endif
