/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver's table, and probing. */
#include <string.h>

#include "vhdx.h"

extern const BlockDriver vhdx_driver;

static int
vhdx_probe (const BlockProbe *probe)
{
  return probe->head_bytes >= 8 && memcmp (probe->head, VHDX_IDENTIFIER_SIGNATURE, 8) == 0 ? 100 : 0;
}

const BlockDriver vhdx_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "vhdx",
  .long_name = "Microsoft Virtual Hard Disk v2 (VHDX)",
  .instance_size = sizeof (VhdxState),
  .caps = BLOCK_CAP_BACKING | BLOCK_CAP_ZERO_INIT | BLOCK_CAP_ZERO_BLOCKS | BLOCK_CAP_GUID_IDENTITY,
  .create_options = vhdx_create_options,
  .open_options = vhdx_open_options,
  .probe = vhdx_probe,
  .co_create = vhdx_co_create,
  .co_complete = vhdx_co_complete,
  .co_open = vhdx_co_open,
  .co_reopen_rw = vhdx_co_reopen_rw,
  .co_close = vhdx_co_close,
  .co_preadv = vhdx_co_preadv,
  .co_pwritev = vhdx_co_pwritev,
  .co_pwrite_zeroes = vhdx_co_pwrite_zeroes,
  .co_pdiscard = vhdx_co_pdiscard,
  .co_copy_range_to = vhdx_co_copy_range_to,
  .co_flush = vhdx_co_flush,
  .co_drain_log = vhdx_co_drain_log,
  .co_block_status = vhdx_co_block_status,
  .co_truncate = vhdx_co_truncate,
  .co_check = vhdx_co_check,
  .get_parent_link = vhdx_get_parent_link,
  .get_identity = vhdx_get_identity,
  .get_next_identity = vhdx_get_next_identity,
  .co_take_next_identity = vhdx_co_take_next_identity,
  .co_parent_changed = vhdx_co_parent_changed,
  .co_change_parent = vhdx_co_change_parent,
  .check_parent_change = vhdx_check_parent_change,
  .co_accept_identity = vhdx_co_accept_identity,
  .co_take_identity = vhdx_co_take_identity,
  .co_copy_disk_properties = vhdx_co_copy_disk_properties,
  .co_get_layout = vhdx_co_get_layout,
  .co_drop_block = vhdx_co_drop_block,
  .co_reduce = vhdx_co_reduce,
  .co_foresee_reduce = vhdx_co_foresee_reduce,
  .co_relocate = vhdx_co_relocate,
  .co_trim = vhdx_co_trim,
  .get_specific_info = vhdx_get_specific_info,
  .format_identity = vhdx_format_identity,
};
