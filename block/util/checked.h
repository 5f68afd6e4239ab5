/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic on sizes that may come from an image. */
#ifndef UTIL_CHECKED_H
#define UTIL_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/* false on overflow; *result is undefined then. */
#define checked_add(a, b, result) (!__builtin_add_overflow ((a), (b), (result)))
#define checked_mul(a, b, result) (!__builtin_mul_overflow ((a), (b), (result)))

/* @alignment: any positive number.  @value + @alignment must not overflow. */
static inline int64_t
round_up (int64_t value, int64_t alignment)
{
  return (value + alignment - 1) / alignment * alignment;
}

static inline int64_t
round_down (int64_t value, int64_t alignment)
{
  return value / alignment * alignment;
}

static inline int64_t
div_round_up (int64_t value, int64_t divisor)
{
  return value / divisor + (value % divisor != 0);
}

static inline bool
is_power_of_two (uint64_t value)
{
  return value != 0 && (value & (value - 1)) == 0;
}

/* [a, a + a_bytes) and [b, b + b_bytes) share a byte. */
static inline bool
ranges_overlap (int64_t a, int64_t a_bytes, int64_t b, int64_t b_bytes)
{
  return a_bytes > 0 && b_bytes > 0 && (a < b ? b - a < a_bytes : a - b < b_bytes);
}

#endif
