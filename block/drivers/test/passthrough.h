/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members for filters that show what their file child shows. */
#ifndef TEST_PASSTHROUGH_H
#define TEST_PASSTHROUGH_H

#include <vhdkit/driver.h>

/* Length and limits as a filter has them: requests come as the format made them. */
void passthrough_refresh (BlockDriverState *bs);
bool coroutine_fn passthrough_co_reopen_rw (BlockDriverState *bs, GError **error);
int coroutine_fn passthrough_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                        const IoVector *qiov, size_t qiov_offset);
int coroutine_fn passthrough_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                              int64_t *pnum, int64_t *map, BlockDriverState **file);
int64_t coroutine_fn passthrough_co_get_allocated_size (BlockDriverState *bs);
bool passthrough_get_host_id (BlockDriverState *bs, uint64_t id[2]);
const char *passthrough_get_host_path (BlockDriverState *bs);
bool passthrough_get_mtime (BlockDriverState *bs, int64_t *seconds);

#endif
