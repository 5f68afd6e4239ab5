/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of the container file is in use: one bit for each MiB, for everything in a VHDX stands on MiB borders.
 *
 * A file may have 128 TiB, 16 MiB of bits.  All of them are there from the start: the host gives memory to those
 * pages only that are written to, so a map costs what the used part of its file needs, and nothing can fail when
 * the file grows.
 */
#include "vhdx.h"

#define WORD_BITS   64
#define SPACE_BITS  (VHDX_MAX_FILE_BYTES / VHDX_MIB)
#define SPACE_WORDS (SPACE_BITS / WORD_BITS)

struct VhdxSpace
{
  uint64_t *words;
  int64_t end_word; /* all words from here on are 0 */
};

/* Bits [@first, @first + @count) of a word; @count > 0. */
static inline uint64_t
word_mask (unsigned first, unsigned count)
{
  return (UINT64_MAX >> (WORD_BITS - count)) << first;
}

VhdxSpace *
vhdx_space_new (void)
{
  VhdxSpace *space = g_new0 (VhdxSpace, 1);

  space->words = g_try_new0 (uint64_t, SPACE_WORDS);
  if (!space->words)
    g_clear_pointer (&space, g_free);
  return space;
}

void
vhdx_space_free (VhdxSpace *space)
{
  if (!space)
    return;
  g_free (space->words);
  g_free (space);
}

/* Whether the range is one the map knows; *bit and *end: the MiB it touches. */
static bool
range_bits (int64_t file_offset, int64_t bytes, int64_t *bit, int64_t *end)
{
  if (file_offset < 0 || bytes <= 0 || file_offset >= VHDX_MAX_FILE_BYTES
      || bytes > VHDX_MAX_FILE_BYTES - file_offset)
    return false;
  *bit = file_offset / VHDX_MIB;
  *end = div_round_up (file_offset + bytes, VHDX_MIB);
  return true;
}

/* The part of [bit, end) in the word of @bit. */
static inline uint64_t
mask_at (int64_t bit, int64_t end)
{
  return word_mask (bit % WORD_BITS, MIN (WORD_BITS - bit % WORD_BITS, end - bit));
}

bool
vhdx_space_take (VhdxSpace *space, int64_t file_offset, int64_t bytes)
{
  uint64_t taken = 0;
  int64_t bit, end;

  if (!range_bits (file_offset, bytes, &bit, &end))
    return false;
  space->end_word = MAX (space->end_word, div_round_up (end, WORD_BITS));
  for (; bit < end; bit = round_down (bit, WORD_BITS) + WORD_BITS)
    {
      uint64_t mask = mask_at (bit, end);

      taken |= space->words[bit / WORD_BITS] & mask;
      space->words[bit / WORD_BITS] |= mask;
    }
  return taken == 0;
}

void
vhdx_space_release (VhdxSpace *space, int64_t file_offset, int64_t bytes)
{
  int64_t bit, end;

  if (!range_bits (file_offset, bytes, &bit, &end))
    return;
  for (; bit < end; bit = round_down (bit, WORD_BITS) + WORD_BITS)
    space->words[bit / WORD_BITS] &= ~mask_at (bit, end);
}

/* The first bit of [bit, end) that is @used, or @end. */
static int64_t
next_bit (const VhdxSpace *space, int64_t bit, int64_t end, bool used)
{
  uint64_t invert = used ? 0 : UINT64_MAX;
  int64_t last = MIN (div_round_up (end, WORD_BITS), space->end_word);

  for (int64_t i = bit / WORD_BITS; i < last; i++)
    {
      uint64_t word = (space->words[i] ^ invert) & (UINT64_MAX << bit % WORD_BITS);

      if (word != 0)
        return MIN (end, i * WORD_BITS + __builtin_ctzll (word));
      bit = (i + 1) * WORD_BITS;
    }
  return used ? end : MIN (bit, end);
}

int64_t
vhdx_space_find (const VhdxSpace *space, int64_t bytes, int64_t from, int64_t limit)
{
  int64_t end = MIN (limit, VHDX_MAX_FILE_BYTES) / VHDX_MIB;
  int64_t need = div_round_up (bytes, VHDX_MIB);
  int64_t bit = div_round_up (MAX (from, 0), VHDX_MIB);

  while (bit < end && need <= end - bit)
    {
      int64_t start = next_bit (space, bit, end, false);

      if (start >= end || need > end - start)
        break;
      bit = next_bit (space, start, start + need, true);
      if (bit == start + need)
        return start * VHDX_MIB;
    }
  return -1;
}

int64_t
vhdx_space_free_bytes (const VhdxSpace *space, int64_t from, int64_t limit)
{
  int64_t bit = div_round_up (MAX (from, 0), VHDX_MIB);
  int64_t end = MIN (limit, VHDX_MAX_FILE_BYTES) / VHDX_MIB;
  int64_t used = 0;

  if (bit >= end)
    return 0;
  for (int64_t at = bit; at < MIN (end, space->end_word * WORD_BITS);
       at = round_down (at, WORD_BITS) + WORD_BITS)
    used += __builtin_popcountll (space->words[at / WORD_BITS] & mask_at (at, end));
  return (end - bit - used) * VHDX_MIB;
}

int64_t
vhdx_space_end (VhdxSpace *space)
{
  while (space->end_word > 0 && space->words[space->end_word - 1] == 0)
    space->end_word--;
  if (space->end_word == 0)
    return 0;
  return (space->end_word * WORD_BITS - __builtin_clzll (space->words[space->end_word - 1])) * VHDX_MIB;
}
