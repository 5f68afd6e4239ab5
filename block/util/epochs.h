/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which requests may still be using something that was given up.
 *
 * Every request notes the epoch it began in.  What is given up in an epoch may be used for something else when
 * that epoch is over: all requests that began in it or before have ended.  There are only ever two epochs with
 * requests in them, the present one and the one before.
 *
 * For one thread at a time.
 */
#ifndef UTIL_EPOCHS_H
#define UTIL_EPOCHS_H

#include <stdbool.h>
#include <stdint.h>

/* Starts with current = 1. */
typedef struct
{
  uint64_t current;
  unsigned active;     /* requests of the present epoch */
  unsigned active_old; /* of the one before */
} Epochs;

static inline uint64_t
epochs_enter (Epochs *epochs)
{
  epochs->active++;
  return epochs->current;
}

/* true: the last request of the epoch before has ended. */
static inline bool
epochs_leave (Epochs *epochs, uint64_t epoch)
{
  if (epoch == epochs->current)
    {
      epochs->active--;
      return false;
    }
  return --epochs->active_old == 0;
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

#endif
