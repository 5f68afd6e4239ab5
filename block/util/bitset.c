/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps in bytes.
 *
 * Runs are measured 64 bits at a time: the word is turned so that the bit asked for comes first (the lowest
 * bit for LSB_FIRST, the highest for MSB_FIRST), is inverted if the run is of ones, and leading (trailing)
 * zeros are counted.  Never touches a byte that holds no bit of the range asked for.
 */
#include "bitset.h"

#include <string.h>

#include <glib.h>

#define WORD_BITS 64

static inline uint8_t
bit_mask (size_t index, BitsetOrder order)
{
  return order == BITSET_MSB_FIRST ? 0x80 >> index % 8 : 1 << index % 8;
}

/* Bits [@from, @to) of one byte, 0 <= from < to <= 8. */
static inline uint8_t
byte_mask (unsigned from, unsigned to, BitsetOrder order)
{
  unsigned ones = (1u << (to - from)) - 1;

  return order == BITSET_MSB_FIRST ? ones << (8 - to) : ones << from;
}

bool
bitset_get (const uint8_t *bits, size_t index, BitsetOrder order)
{
  return (bits[index / 8] & bit_mask (index, order)) != 0;
}

static inline void
fill_part (uint8_t *byte, unsigned from, unsigned to, bool value, BitsetOrder order)
{
  uint8_t mask = byte_mask (from, to, order);

  *byte = value ? *byte | mask : *byte & ~mask;
}

void
bitset_fill (uint8_t *bits, size_t first, size_t count, bool value, BitsetOrder order)
{
  if (count == 0)
    return;

  uint8_t *byte = bits + first / 8;
  unsigned from = first % 8;

  if (from != 0 || count < 8)
    {
      unsigned to = MIN (8, from + count);

      fill_part (byte++, from, to, value, order);
      count -= to - from;
    }
  if (count >= 8)
    memset (byte, value ? 0xff : 0, count / 8);
  if (count % 8 != 0)
    fill_part (byte + count / 8, 0, count % 8, value, order);
}

/* The word that starts at @byte, of which @bytes exist; zeros stand for the others. */
static inline uint64_t
load_word (const uint8_t *byte, size_t bytes, BitsetOrder order)
{
  uint64_t word = 0;

  if (G_LIKELY (bytes >= sizeof word))
    memcpy (&word, byte, sizeof word);
  else
    memcpy (&word, byte, bytes);
  return order == BITSET_MSB_FIRST ? GUINT64_FROM_BE (word) : GUINT64_FROM_LE (word);
}

/* Past the words from @at on that are all of one value: those need not be turned.  @at is the first bit of a byte. */
static inline size_t
skip_words (const uint8_t *bits, size_t at, size_t end, bool value)
{
  uint64_t all = value ? UINT64_MAX : 0, word;

  for (; end - at >= WORD_BITS; at += WORD_BITS)
    {
      memcpy (&word, bits + at / 8, sizeof word);
      if (word != all)
        break;
    }
  return at;
}

size_t
bitset_run (const uint8_t *bits, size_t first, size_t end, bool *value, BitsetOrder order)
{
  size_t bytes = end / 8 + (end % 8 != 0);
  size_t at = first;

  *value = bitset_get (bits, first, order);
  for (;;)
    {
      if (at % 8 == 0)
        at = skip_words (bits, at, end, *value);
      if (at == end)
        return end - first;

      unsigned shift = at % 8;
      size_t valid = MIN (WORD_BITS - shift, end - at);
      uint64_t word = load_word (bits + at / 8, bytes - at / 8, order);

      if (*value)
        word = ~word;
      word = order == BITSET_MSB_FIRST ? word << shift : word >> shift;

      size_t same = WORD_BITS;

      if (word != 0)
        same = order == BITSET_MSB_FIRST ? __builtin_clzll (word) : __builtin_ctzll (word);
      if (same < valid)
        return at + same - first;
      at += valid;
    }
}

bool
bitset_all (const uint8_t *bits, size_t first, size_t count, bool value, BitsetOrder order)
{
  bool found;

  return count == 0 || (bitset_run (bits, first, first + count, &found, order) == count && found == value);
}
