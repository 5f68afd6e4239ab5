/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether two files could share extents, told before anything is written.
 *
 * The two must be on one file system, and that must have FICLONERANGE at work.  Its type does not tell (an XFS
 * may be made without), and a try needs a file that is open for writing.  So it is tried with a nameless file
 * in the target's folder, of nothing but a hole: no block is allocated, and no inode of a user's is touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "file-int.h"

extern const BlockDriver file_driver;

typedef struct
{
  const FileState *to, *from;
} ShareWork;

/* Each subvolume of a btrfs has a device number of its own, and they share extents all the same. */
static bool
same_btrfs (int a, int b)
{
  struct btrfs_ioctl_fs_info_args of_a = { 0 }, of_b = { 0 };

  return ioctl (a, BTRFS_IOC_FS_INFO, &of_a) == 0 && ioctl (b, BTRFS_IOC_FS_INFO, &of_b) == 0
         && memcmp (of_a.fsid, of_b.fsid, sizeof of_a.fsid) == 0;
}

static int
try_nameless_file (const FileState *s, dev_t dev)
{
  g_autofree char *folder = s->host_path != NULL ? g_path_get_dirname (s->host_path) : NULL;
  int fd = folder == NULL ? -1 : open (folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  struct file_clone_range range = { .src_fd = fd,
                                    .src_length = (uint64_t)s->fs_block_size,
                                    .dest_offset = (uint64_t)s->fs_block_size };
  struct stat st;
  int ret = -EAGAIN;

  if (fd < 0)
    return ret;
  if (fstat (fd, &st) == 0 && st.st_dev == dev && ftruncate (fd, s->fs_block_size * 2) == 0)
    {
      ret = ioctl (fd, FICLONERANGE, &range) == 0 ? 0 : -errno;
      if (ret < 0)
        ret = file_errno_is_unsupported (-ret) ? -ENOTSUP : -EAGAIN;
    }
  close (fd);
  return ret;
}

static int
can_share_in_thread (void *opaque)
{
  const ShareWork *work = opaque;
  struct stat to, from;

  if (fstat (work->to->fd, &to) < 0 || fstat (work->from->fd, &from) < 0)
    return -errno;
  if (to.st_dev != from.st_dev && !same_btrfs (work->to->fd, work->from->fd))
    return -EXDEV;
  return try_nameless_file (work->to, to.st_dev);
}

int coroutine_fn
file_co_can_share (BlockDriverState *bs, BlockDriverState *src)
{
  const FileState *s = bs->opaque;
  ShareWork work = { .to = s, .from = src->opaque };

  if (src->drv != &file_driver)
    return -EXDEV;
  if (!s->clone || s->no_clone)
    return -ENOTSUP;
  return aio_co_run_in_thread (can_share_in_thread, &work);
}
