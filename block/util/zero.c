/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding zeros in memory.
 *
 * The loop works on 16-byte vectors that need no alignment; every vector unit the compilers know has them,
 * so no run-time choice of code is made (it would not go with sanitizers) and memory is the limit all the
 * same.  Image data is mostly either wholly zero or not zero at all at its ends or its middle, so three words
 * are looked at first.
 */
#include "zero.h"

#include <stdint.h>
#include <string.h>

/* May stand anywhere and over anything. */
typedef uint64_t Vector __attribute__ ((vector_size (16), aligned (1), may_alias));

#define STRIDE ((size_t)128)

static inline uint64_t
load_word (const uint8_t *bytes)
{
  uint64_t word;

  memcpy (&word, bytes, sizeof word);
  return word;
}

bool
buffer_is_zero (const void *buffer, size_t bytes)
{
  const uint8_t *at = buffer;

  if (bytes < sizeof (uint64_t))
    {
      uint8_t any = 0;

      for (size_t i = 0; i < bytes; i++)
        any |= at[i];
      return any == 0;
    }

  const uint8_t *last = at + bytes - sizeof (uint64_t);

  if ((load_word (at) | load_word (at + (bytes - sizeof (uint64_t)) / 2) | load_word (last)) != 0)
    return false;

  while (bytes >= STRIDE)
    {
      const Vector *v = (const Vector *)at;
      Vector any = (v[0] | v[1]) | (v[2] | v[3]) | ((v[4] | v[5]) | (v[6] | v[7]));

      if ((any[0] | any[1]) != 0)
        return false;
      at += STRIDE;
      bytes -= STRIDE;
    }
  for (; bytes >= sizeof (uint64_t); at += sizeof (uint64_t), bytes -= sizeof (uint64_t))
    if (load_word (at) != 0)
      return false;
  return true; /* what is left lies in the last word, looked at above */
}

size_t
buffer_zero_run (const void *buffer, size_t bytes, size_t granularity, bool *zero)
{
  const uint8_t *start = buffer;
  size_t run = granularity < bytes ? granularity : bytes;

  *zero = buffer_is_zero (start, run);
  while (run < bytes)
    {
      size_t piece = granularity < bytes - run ? granularity : bytes - run;

      if (buffer_is_zero (start + run, piece) != *zero)
        break;
      run += piece;
    }
  return run;
}
