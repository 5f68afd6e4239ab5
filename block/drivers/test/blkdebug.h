/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counters of the filter blkdebug, for tests in the same process. */
#ifndef TEST_BLKDEBUG_H
#define TEST_BLKDEBUG_H

#include <stdint.h>

/* Requests that matched, so far, in all nodes opened with id=@id, open or closed.  [any thread] */
int64_t blkdebug_get_count (const char *id);
/* How many of them were made to fail.  [any thread] */
int64_t blkdebug_get_failures (const char *id);
/* Both start at 0 again.  [any thread] */
void blkdebug_reset (const char *id);

#endif
