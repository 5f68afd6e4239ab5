/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec.h"

void
vhd_geometry (uint64_t sectors, uint16_t *cylinders, uint8_t *heads, uint8_t *sectors_per_track)
{
  uint32_t tracks, h, spt;

  if (sectors > UINT64_C (65535) * 16 * 255)
    sectors = UINT64_C (65535) * 16 * 255;

  if (sectors >= UINT64_C (65535) * 16 * 63)
    {
      spt = 255;
      h = 16;
      tracks = sectors / spt;
    }
  else
    {
      spt = 17;
      tracks = sectors / spt;
      h = MAX (4, (tracks + 1023) / 1024);
      if (tracks >= h * 1024 || h > 16)
        {
          spt = 31;
          h = 16;
          tracks = sectors / spt;
        }
      if (tracks >= h * 1024)
        {
          spt = 63;
          h = 16;
          tracks = sectors / spt;
        }
    }
  *cylinders = tracks / h;
  *heads = h;
  *sectors_per_track = spt;
}
