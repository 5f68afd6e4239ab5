/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver's table, and probing. */
#include "vhd.h"

#include "zero.h"

extern const BlockDriver vhd_driver;

/* A footer that only zeros follow, as what writes whole blocks at the end of a file and cuts it again
 * leaves when it is killed. Of a fixed image it is the only sign. */
static bool
has_padded_footer (const BlockProbe *probe)
{
  for (size_t at = probe->tail_bytes; at >= 2 * VHD_FOOTER_SIZE;)
    {
      VhdFooterDisk disk;
      VhdFooter footer;
      uint32_t found, expected;

      at -= VHD_SECTOR_SIZE;
      if (!buffer_is_zero (probe->tail + at, VHD_SECTOR_SIZE))
        return false;
      memcpy (&disk, probe->tail + at - VHD_FOOTER_SIZE, sizeof disk);
      if (vhd_footer_decode (&disk, &footer, &found, &expected) == VHD_DECODE_OK)
        return true;
    }
  return false;
}

/* A footer at the end, or the copy of one at the start: certain when its checksum is right.  A cookie alone
 * is a sign all the same: better an error about a broken VHD than its container taken for raw data. */
static int
vhd_probe (const BlockProbe *probe)
{
  VhdFooterDisk disk;
  VhdFooter footer;
  uint32_t found, expected;
  VhdDecode end = VHD_DECODE_COOKIE, start = VHD_DECODE_COOKIE;

  if (probe->tail_bytes >= VHD_FOOTER_SIZE)
    {
      memcpy (&disk, probe->tail + probe->tail_bytes - VHD_FOOTER_SIZE, sizeof disk);
      end = vhd_footer_decode (&disk, &footer, &found, &expected);
    }
  if (end != VHD_DECODE_OK && probe->file_size % VHD_SECTOR_SIZE == VHD_FOOTER_SIZE - 1
      && probe->tail_bytes >= VHD_FOOTER_SIZE - 1)
    {
      memset (&disk, 0, sizeof disk);
      memcpy (&disk, probe->tail + probe->tail_bytes - (VHD_FOOTER_SIZE - 1), VHD_FOOTER_SIZE - 1);
      end = vhd_footer_decode (&disk, &footer, &found, &expected);
    }
  if (end == VHD_DECODE_OK)
    return 100;
  if (probe->head_bytes >= VHD_FOOTER_SIZE)
    {
      memcpy (&disk, probe->head, sizeof disk);
      start = vhd_footer_decode (&disk, &footer, &found, &expected);
      /* A fixed image inside a raw one also starts with guest data. */
      if (start == VHD_DECODE_OK && footer.disk_type == VHD_TYPE_FIXED)
        start = VHD_DECODE_COOKIE;
    }
  if (start == VHD_DECODE_OK)
    return 90;
  if (has_padded_footer (probe))
    return 80;
  return end != VHD_DECODE_COOKIE || start != VHD_DECODE_COOKIE ? 50 : 0;
}

static const char *const vhd_aliases[] = { "vpc", NULL };

const BlockDriver vhd_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "vhd",
  .aliases = vhd_aliases,
  .long_name = "Microsoft Virtual Hard Disk (VHD)",
  .instance_size = sizeof (VhdState),
  .caps = BLOCK_CAP_BACKING | BLOCK_CAP_ZERO_INIT,
  .create_options = vhd_create_options,
  .open_options = vhd_open_options,
  .probe = vhd_probe,
  .co_create = vhd_co_create,
  .co_complete = vhd_co_complete,
  .co_open = vhd_co_open,
  .co_reopen_rw = vhd_co_reopen_rw,
  .co_close = vhd_co_close,
  .co_preadv = vhd_co_preadv,
  .co_pwritev = vhd_co_pwritev,
  .co_pwrite_zeroes = vhd_co_pwrite_zeroes,
  .co_pdiscard = vhd_co_pdiscard,
  .co_copy_range_to = vhd_co_copy_range_to,
  .co_flush = vhd_co_flush,
  .co_block_status = vhd_co_block_status,
  .co_truncate = vhd_co_truncate,
  .get_parent_link = vhd_get_parent_link,
  .get_identity = vhd_get_identity,
  .co_change_parent = vhd_co_change_parent,
  .check_parent_change = vhd_check_parent_change,
  .co_get_layout = vhd_co_get_layout,
  .co_drop_block = vhd_co_drop_block,
  .co_relocate = vhd_co_relocate,
  .co_trim = vhd_co_trim,
  .co_check = vhd_co_check,
  .get_specific_info = vhd_get_specific_info,
};
