/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the check share. */
#ifndef VHDX_CHECK_H
#define VHDX_CHECK_H

#include <inttypes.h>

#include "vhdx.h"

/* Table, items and parent locator. */
void coroutine_fn vhdx_co_check_metadata (VhdxState *s, BlockCheckResult *result);

static inline void
check_unreadable (BlockCheckResult *result, const char *what, int64_t file_offset)
{
  block_check_report (result, BLOCK_CHECK_WARNING, "%s at offset %" PRId64 " cannot be read", what,
                      file_offset);
  result->check_errors++;
}

#endif
