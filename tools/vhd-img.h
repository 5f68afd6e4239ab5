/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The subcommands of vhd-img, one file each. */
#ifndef TOOLS_VHD_IMG_H
#define TOOLS_VHD_IMG_H

#include "tool.h"

extern const Command cmd_bench, cmd_check, cmd_commit, cmd_compact, cmd_compare, cmd_convert, cmd_create,
    cmd_info, cmd_map, cmd_rebase;

#endif
