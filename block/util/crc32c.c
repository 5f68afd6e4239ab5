/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* By the processor's own instruction where it has one (x86 since SSE 4.2); else eight bytes at a time with eight
 * tables (Kounavis and Berry's "slicing-by-8"), which are made once. */
#include "crc32c.h"

#include <string.h>

#include <glib.h>

#if defined __x86_64__
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82F63B78u /* reflected */

static uint32_t tables[8][256];

static void
make_tables (void)
{
  for (uint32_t i = 0; i < 256; i++)
    {
      uint32_t crc = i;

      for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
      tables[0][i] = crc;
    }
  for (int t = 1; t < 8; t++)
    for (uint32_t i = 0; i < 256; i++)
      tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xFF];
}

/* @crc is inverted here and below. */
static uint32_t
crc32c_tables (uint32_t crc, const uint8_t *p, size_t bytes)
{
  static gsize made;

  if (g_once_init_enter (&made))
    {
      make_tables ();
      g_once_init_leave (&made, 1);
    }

  for (; bytes >= 8; p += 8, bytes -= 8)
    {
      uint32_t low =
          crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);

      crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF]
            ^ tables[4][low >> 24] ^ tables[3][p[4]] ^ tables[2][p[5]] ^ tables[1][p[6]] ^ tables[0][p[7]];
    }
  while (bytes-- > 0)
    crc = crc >> 8 ^ tables[0][(crc ^ *p++) & 0xFF];
  return crc;
}

#if defined __x86_64__
__attribute__ ((target ("sse4.2"))) static uint32_t
crc32c_sse42 (uint32_t crc, const uint8_t *p, size_t bytes)
{
  uint64_t wide = crc;

  for (; bytes >= 8; p += 8, bytes -= 8)
    {
      uint64_t piece;

      memcpy (&piece, p, sizeof piece);
      wide = _mm_crc32_u64 (wide, piece);
    }
  crc = (uint32_t)wide;
  while (bytes-- > 0)
    crc = _mm_crc32_u8 (crc, *p++);
  return crc;
}
#endif

uint32_t
crc32c_portable (uint32_t crc, const void *data, size_t bytes)
{
  return ~crc32c_tables (~crc, data, bytes);
}

uint32_t
crc32c (uint32_t crc, const void *data, size_t bytes)
{
#if defined __x86_64__
  if (__builtin_cpu_supports ("sse4.2"))
    return ~crc32c_sse42 (~crc, data, bytes);
#endif
  return crc32c_portable (crc, data, bytes);
}
