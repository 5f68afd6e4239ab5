/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counters of the filter blkdebug, for tests in the same process. */
#ifndef TEST_BLKDEBUG_H
#define TEST_BLKDEBUG_H

#include <stdbool.h>
#include <stdint.h>

/* Requests that matched, so far, in all nodes opened with id=@id, open or closed.  [any thread] */
int64_t blkdebug_get_count (const char *id);
/* How many of them were made to fail.  [any thread] */
int64_t blkdebug_get_failures (const char *id);
/* Whether a flush was among these.  [any thread] */
bool blkdebug_has_failed_flush (const char *id);
/* NULL, or the first range that a request failed to write and that none has written, zeroed or cut off since, as far
 * as the file reaches; a few KiB may also have been written elsewhere.  Free it.  [any thread] */
char *blkdebug_get_lost (const char *id);
/* All start at 0 again.  [any thread] */
void blkdebug_reset (const char *id);

#endif
