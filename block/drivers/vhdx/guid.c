/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GUIDs: compared as bytes, printed the way Windows does (the first three fields little-endian). */
#include <string.h>

#include "identity.h"
#include "vhdx.h"

#define GUID(a, b, c, d0, d1, d2, d3, d4, d5, d6, d7)                                                        \
  {                                                                                                          \
    {                                                                                                        \
      (a) & 0xFF, (a) >> 8 & 0xFF, (a) >> 16 & 0xFF, (a) >> 24 & 0xFF, (b)&0xFF, (b) >> 8, (c)&0xFF,         \
          (c) >> 8, d0, d1, d2, d3, d4, d5, d6, d7                                                           \
    }                                                                                                        \
  }

const VhdxGuid vhdx_guid_bat =
    GUID (0x2DC27766u, 0xF623, 0x4200, 0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08);
const VhdxGuid vhdx_guid_metadata =
    GUID (0x8B7CA206u, 0x4790, 0x4B9A, 0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E);
const VhdxGuid vhdx_guid_parameters =
    GUID (0xCAA16737u, 0xFA36, 0x4D43, 0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B);
const VhdxGuid vhdx_guid_disk_size =
    GUID (0x2FA54224u, 0xCD1B, 0x4876, 0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8);
const VhdxGuid vhdx_guid_disk_id =
    GUID (0xBECA12ABu, 0xB2E6, 0x4523, 0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46);
const VhdxGuid vhdx_guid_logical_sector =
    GUID (0x8141BF1Du, 0xA96F, 0x4709, 0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F);
const VhdxGuid vhdx_guid_physical_sector =
    GUID (0xCDA348C7u, 0x445D, 0x4471, 0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56);
const VhdxGuid vhdx_guid_locator =
    GUID (0xA8D35F2Du, 0xB30B, 0x454D, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C);
const VhdxGuid vhdx_guid_locator_vhdx =
    GUID (0xB04AEFB7u, 0xD19E, 0x4A81, 0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13);
const VhdxGuid vhdx_guid_chs =
    GUID (0xDA02D7BCu, 0x3D3A, 0x423C, 0xAC, 0x88, 0x2A, 0x36, 0xAB, 0x21, 0x47, 0x9B);
const VhdxGuid vhdx_guid_incomplete =
    GUID (0x71CC85F0u, 0x1B69, 0x4E28, 0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3);
const VhdxGuid vhdx_guid_pmem =
    GUID (0x10E1AE8Au, 0x4B7E, 0x4169, 0xA4, 0x0F, 0xCD, 0x70, 0xDE, 0x92, 0x83, 0x93);

/* Positions of the bytes in the text. */
static const uint8_t text_order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

bool
vhdx_guid_equal (const VhdxGuid *a, const VhdxGuid *b)
{
  return memcmp (a, b, sizeof *a) == 0;
}

bool
vhdx_guid_is_zero (const VhdxGuid *guid)
{
  static const VhdxGuid none;

  return vhdx_guid_equal (guid, &none);
}

VhdxGuid
vhdx_guid_new (void)
{
  uint8_t identity[16];
  VhdxGuid guid;

  identity_new (identity);
  for (int i = 0; i < 16; i++)
    guid.b[text_order[i]] = identity[i];
  return guid;
}

void
vhdx_guid_format (const VhdxGuid *guid, char text[37])
{
  static const char digits[] = "0123456789abcdef";
  char *p = text;

  for (int i = 0; i < 16; i++)
    {
      uint8_t byte = guid->b[text_order[i]];

      if (i == 4 || i == 6 || i == 8 || i == 10)
        *p++ = '-';
      *p++ = digits[byte >> 4];
      *p++ = digits[byte & 15];
    }
  *p = '\0';
}

bool
vhdx_guid_parse (const char *text, VhdxGuid *guid)
{
  bool braces = text[0] == '{';

  text += braces;
  for (int i = 0; i < 16; i++)
    {
      if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
        return false;
      if (!g_ascii_isxdigit (text[0]) || !g_ascii_isxdigit (text[1]))
        return false;
      guid->b[text_order[i]] = g_ascii_xdigit_value (text[0]) << 4 | g_ascii_xdigit_value (text[1]);
      text += 2;
    }
  return strcmp (text, braces ? "}" : "") == 0;
}
