/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding zeros in memory. */
#ifndef UTIL_ZERO_H
#define UTIL_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Whether all @bytes of @buffer are zero; true for none.  Looks at a few places first, so data is found out
 * quickly. */
bool buffer_is_zero (const void *buffer, size_t bytes);

/* The length of the run at the start of @buffer that is all zero or all data, judged in pieces of
 * @granularity bytes (the last may be shorter); sets *zero.  0 < @bytes; the result is > 0. */
size_t buffer_zero_run (const void *buffer, size_t bytes, size_t granularity, bool *zero);

#endif
