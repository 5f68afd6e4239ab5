/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32 a bit at a time: the tables are small. */
#include "crc32.h"

uint32_t
fs_crc32 (uint32_t crc, const void *data, size_t bytes)
{
  const uint8_t *at = data;

  for (size_t i = 0; i < bytes; i++)
    {
      crc ^= at[i];
      for (int bit = 0; bit < 8; bit++)
        crc = (crc >> 1) ^ (crc & 1 ? UINT32_C (0xedb88320) : 0);
    }
  return crc;
}
