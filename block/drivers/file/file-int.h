/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the drivers `file` and `host_device` share: a node that is a descriptor of the host's. */
#ifndef FILE_INT_H
#define FILE_INT_H

#include <sys/stat.h>

#include <vhdkit/driver.h>

#include "file-lock.h"

/* What the file system was last asked about: a hole [start, data), if any, and the data [data, end) behind it.
 * Empty when start == end. */
typedef struct
{
  int64_t start, data, end; /* bytes */
} FileExtents;

typedef struct
{
  int fd;
  AioFile *aio;
  AioEngine engine;
  FileLocks locks;
  char *host_path;
  uint64_t host_id[2];
  bool is_device;
  bool on_local_fs;
  int64_t fs_block_size; /* unit of the file system's extents (file), logical sector (device) */

  /* O_DIRECT and writable: the same file through the page cache, for what is written of its last, unaligned
   * block. Kept for that only; the kernel keeps both ways coherent, and a flush of the file covers both.
   * -1: none. */
  int end_fd;

  /* A read-only descriptor that was in use before the node became writable: requests may still run on it. */
  int retired_fd;
  AioFile *retired_aio;

  FileExtents extents;
  bool keep_extents; /* nobody else writes to the file */

  /* Found out not to work here. */
  bool no_punch_hole, no_zero_range, no_block_zeroout, no_seek, no_clone;
  bool copy_file_range; /* copy_range=cfr */
  bool clone;           /* copy_range is not off */
} FileState;

/* Opens descriptor, engine and locks; what differs between the kinds of file is behind @check. */
typedef bool FileCheckFunc (const BlockDriverState *bs, const struct stat *st, GError **error);
bool coroutine_fn file_co_open_common (BlockDriverState *bs, const BlockOptions *options, bool is_device,
                                       FileCheckFunc *check, GError **error);

/* Members of both drivers. */
bool coroutine_fn file_co_reopen_rw (BlockDriverState *bs, GError **error);
int coroutine_fn file_co_close (BlockDriverState *bs);
int coroutine_fn file_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
/* Whether a write has to go through s->end_fd, and such a write. */
static inline bool
file_is_end_write (const BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  return ((offset | bytes) & (bs->limits.request_alignment - 1)) != 0;
}
int coroutine_fn file_co_write_end (FileState *s, int64_t offset, int64_t bytes, const IoVector *qiov,
                                    size_t qiov_offset);
int coroutine_fn file_co_flush (BlockDriverState *bs);
void coroutine_fn file_co_start_writeback (BlockDriverState *bs);
bool file_get_host_id (BlockDriverState *bs, uint64_t id[2]);
const char *file_get_host_path (BlockDriverState *bs);

/* Of the driver `file`; @src may be a node of any protocol. */
int coroutine_fn file_co_can_share (BlockDriverState *bs, BlockDriverState *src);

/* Options of both drivers: rows of a table. */
/* clang-format off */
#define FILE_COMMON_OPTIONS                                                                                  \
  { "aio", BLOCK_OPTION_STRING, NULL,                                                                        \
    "I/O engine: threads, native or io_uring; native for O_DIRECT, else threads" },                          \
  { "confine", BLOCK_OPTION_STRING, NULL, "directory that the file must lie below, links resolved" },        \
  { "locking", BLOCK_OPTION_STRING, "auto",                                                                  \
    "image locks: on (required), auto (where the file system has them) or off" }
/* clang-format on */

/* Whether fallocate or an ioctl said that it never will. */
bool file_errno_is_unsupported (int code);

/* A call of the host's that may block, in the thread pool. */
typedef struct
{
  int fd;
  int mode; /* of fallocate */
  int64_t offset, bytes;
} FileRangeWork;
/* The range reads as zeros, its space given back or not; the length stays.  -ENOTSUP: not here, and nothing changed. */
int coroutine_fn file_co_punch_hole (FileState *s, int64_t offset, int64_t bytes);
int coroutine_fn file_co_zero_range (FileState *s, int64_t offset, int64_t bytes);

#endif
