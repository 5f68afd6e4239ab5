/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GMutex, made known to ThreadSanitizer. */
#ifndef COAIO_GUARD_H
#define COAIO_GUARD_H

#include <glib.h>

#include "sanitizer.h"

static inline void
guard_lock (GMutex *guard)
{
  g_mutex_lock (guard);
  CO_TSAN_ACQUIRE (guard);
}

static inline void
guard_unlock (GMutex *guard)
{
  CO_TSAN_RELEASE (guard);
  g_mutex_unlock (guard);
}

#endif
