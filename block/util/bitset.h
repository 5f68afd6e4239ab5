/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bitmaps in bytes.  MSB first (VHD: bit n is 0x80 >> n % 8 of byte n / 8) or LSB first (VHDX). */
#ifndef UTIL_BITSET_H
#define UTIL_BITSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum
{
  BITSET_MSB_FIRST,
  BITSET_LSB_FIRST,
} BitsetOrder;

bool bitset_get (const uint8_t *bits, size_t index, BitsetOrder order);
/* Set bits [@first, @first + @count) to @value. */
void bitset_fill (uint8_t *bits, size_t first, size_t count, bool value, BitsetOrder order);
/* The length of the run of equal bits that starts at @first and ends before @end (@first < @end); sets
 * *value to their value. */
size_t bitset_run (const uint8_t *bits, size_t first, size_t end, bool *value, BitsetOrder order);
/* Whether all bits of [@first, @first + @count) are @value. */
bool bitset_all (const uint8_t *bits, size_t first, size_t count, bool value, BitsetOrder order);

#endif
