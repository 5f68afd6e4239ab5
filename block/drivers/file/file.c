/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol `file`: a regular file of the host.
 *
 * Length.  A write past the end makes the file longer, and the core moves bs->bytes up when it has completed.
 * Zeroes and discards do not: the core lengthens the file by co_truncate, which it does not let run beside
 * writes there.
 *
 * Status.  The file system is asked with SEEK_DATA/SEEK_HOLE, for a hole and the data behind it at once; the answer
 * serves all queries inside it until something is written there.  It is kept only while our lock keeps other
 * writers away.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "checked.h"
#include "file-int.h"

extern const BlockDriver file_driver;
extern const BlockDriver host_device_driver;

static bool
check_regular (const BlockDriverState *bs, const struct stat *st, GError **error)
{
  const char *kind;

  switch (st->st_mode & S_IFMT)
    {
    case S_IFREG:
      return true;
    case S_IFDIR:
      kind = "a directory";
      break;
    case S_IFBLK:
      kind = "a block device (driver host_device)";
      break;
    case S_IFCHR:
      kind = "a character device";
      break;
    case S_IFIFO:
      kind = "a FIFO";
      break;
    case S_IFSOCK:
      kind = "a socket";
      break;
    default:
      kind = "of an unknown kind";
      break;
    }
  bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "expected a regular file, found %s", kind);
  return false;
}

static bool coroutine_fn
file_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  FileState *s = bs->opaque;
  const char *copy_range = block_options_get_string (options, "copy_range", "clone");

  s->copy_file_range = strcmp (copy_range, "cfr") == 0;
  s->clone = s->copy_file_range || strcmp (copy_range, "clone") == 0;
  if (!s->clone && strcmp (copy_range, "off") != 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "copy_range=%s: it is clone, cfr or off",
                      copy_range);
      return false;
    }
  return file_co_open_common (bs, options, false, check_regular, error);
}

/* --- extents ------------------------------------------------------------------------------------------- */

/* A write (@data) or a removal of data in the range has begun or ended. */
static void
extents_changed (FileState *s, int64_t offset, int64_t bytes, bool data)
{
  FileExtents *e = &s->extents;

  if (!ranges_overlap (offset, bytes, e->start, e->end - e->start))
    return;
  if (!data || offset < e->data || offset + bytes > e->end)
    *e = (FileExtents){ 0 };
}

static void
extents_forget (FileState *s)
{
  s->extents = (FileExtents){ 0 };
}

/* Where the next data (hole) begins; INT64_MAX: nowhere. */
static int
seek_next (int fd, int64_t offset, int whence, int64_t *found)
{
  off_t at = lseek (fd, offset, whence);

  if (at < 0 && errno != ENXIO)
    return -errno;
  *found = at < 0 ? G_MAXINT64 : at;
  return 0;
}

/* Reading a range this short costs less than asking whether it is a hole. */
#define MIN_LOOK_UP_BYTES (32 * 1024)

/* The extent at @offset, and behind a hole the data, which costs no more.  Not in a thread: file systems answer from
 * their extent map in memory, and the way to a thread and back costs ten times as much. */
static int
look_up_extents (int fd, int64_t offset, FileExtents *e)
{
  int ret = seek_next (fd, offset, SEEK_DATA, &e->data);

  if (ret < 0)
    return ret;
  e->start = offset;
  e->end = G_MAXINT64;
  if (e->data == G_MAXINT64)
    return 0;
  ret = seek_next (fd, e->data, SEEK_HOLE, &e->end);
  if (ret < 0)
    return ret;
  return e->data < offset || e->end <= e->data ? -EIO : 0; /* a broken file system */
}

/* A hole without an end reaches to the end of the file.  Where somebody else has cut it, what is missing is no hole:
 * reading it fails. */
static void
take_out_what_was_cut (int fd, int64_t known_bytes, FileExtents *e)
{
  struct stat st;

  if (e->data != G_MAXINT64 || fstat (fd, &st) < 0 || st.st_size >= known_bytes)
    return;
  e->data = e->end = MAX (e->start, st.st_size);
}

static int coroutine_fn
file_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file)
{
  FileState *s = bs->opaque;
  FileExtents e = s->extents;
  bool data = true;

  *pnum = bytes;
  if (!s->no_seek && bytes >= MIN_LOOK_UP_BYTES && !(offset >= e.start && offset < e.end))
    {
      int ret = look_up_extents (s->fd, offset, &e);

      if (ret < 0)
        {
          /* Where the file system cannot tell, everything is data. */
          s->no_seek = ret == -EINVAL || file_errno_is_unsupported (-ret);
          e = (FileExtents){ 0 };
        }
      else
        {
          take_out_what_was_cut (s->fd, bs->bytes, &e);
          if (s->keep_extents)
            s->extents = e;
        }
    }
  if (offset >= e.start && offset < e.end)
    {
      data = offset >= e.data;
      *pnum = MIN (bytes, (data ? e.end : e.data) - offset);
    }

  *map = offset;
  *file = bs;
  return (data ? BDRV_BLOCK_DATA : BDRV_BLOCK_ZERO) | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED
         | (offset + *pnum >= bs->bytes ? BDRV_BLOCK_EOF : 0);
}

/* --- writing ------------------------------------------------------------------------------------------- */

static int coroutine_fn
file_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset)
{
  FileState *s = bs->opaque;

  extents_changed (s, offset, bytes, true);

  ssize_t ret = G_UNLIKELY (file_is_end_write (bs, offset, bytes))
                    ? file_co_write_end (s, offset, bytes, qiov, qiov_offset)
                    : aio_co_pwritev (s->aio, offset, qiov, qiov_offset, bytes);

  extents_changed (s, offset, bytes, true);
  return ret < 0 ? ret : 0;
}

static int coroutine_fn
file_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  FileState *s = bs->opaque;
  int ret = -ENOTSUP;

  if (offset + bytes > bs->bytes)
    return -ENOTSUP; /* see above: not ours */
  extents_changed (s, offset, bytes, false);
  if (flags & BDRV_REQ_MAY_UNMAP)
    ret = file_co_punch_hole (s, offset, bytes);
  if (ret == -ENOTSUP)
    ret = file_co_zero_range (s, offset, bytes);
  extents_changed (s, offset, bytes, false);
  return ret;
}

static int coroutine_fn
file_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  FileState *s = bs->opaque;

  extents_changed (s, offset, bytes, false);

  int ret = file_co_punch_hole (s, offset, bytes);

  extents_changed (s, offset, bytes, false);
  return ret;
}

static int
truncate_in_thread (void *opaque)
{
  FileRangeWork *work = opaque;
  int ret;

  do
    ret = ftruncate (work->fd, work->bytes);
  while (ret < 0 && errno == EINTR);
  return ret < 0 ? -errno : 0;
}

static bool coroutine_fn
file_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  FileState *s = bs->opaque;
  FileRangeWork work = { .fd = s->fd, .bytes = bytes };

  extents_forget (s);

  int ret = aio_co_run_in_thread (truncate_in_thread, &work);

  extents_forget (s);
  if (ret == 0)
    bs->bytes = bytes;
  else
    bdrv_set_error_errno (error, bs, ret, "cannot change its length to %" G_GINT64_FORMAT " bytes", bytes);
  return ret == 0;
}

/* --- copying by sharing extents ------------------------------------------------------------------------ */

typedef struct
{
  int from, to;
  int64_t from_offset, to_offset, bytes;
  bool may_copy; /* else only share */
} CopyWork;

/* Reasons for which the kernel refuses before it has begun. */
static int
copy_errno (int code)
{
  switch (code)
    {
    case EPERM:
    case ETXTBSY:
    case EBADF:
    case EISDIR:
      return -ENOTSUP;
    default:
      return file_errno_is_unsupported (code) ? -ENOTSUP : -code;
    }
}

static int
copy_file_range_in_thread (CopyWork *work)
{
  struct stat st;
  off_t from = work->from_offset, to = work->to_offset;
  int64_t left = work->bytes;

  if (fstat (work->from, &st) < 0 || !S_ISREG (st.st_mode) || st.st_size - from < left)
    return -EINVAL;
  while (left > 0)
    {
      ssize_t ret = copy_file_range (work->from, &from, work->to, &to, MIN (left, G_MAXINT32 & ~0xfffff), 0);

      if (ret < 0 && errno == EINTR)
        continue;
      if (ret < 0 && left == work->bytes)
        return copy_errno (errno);
      if (ret <= 0)
        return ret < 0 && errno == ENOSPC ? -ENOSPC : -EIO; /* not one of "nothing has changed" */
      left -= ret;
    }
  return 0;
}

static int
copy_in_thread (void *opaque)
{
  CopyWork *work = opaque;
  struct file_clone_range range = { .src_fd = work->from,
                                    .src_offset = work->from_offset,
                                    .src_length = work->bytes,
                                    .dest_offset = work->to_offset };
  int ret;

  do
    ret = ioctl (work->to, FICLONERANGE, &range);
  while (ret < 0 && errno == EINTR);
  if (ret == 0)
    return 0;
  ret = copy_errno (errno);
  return ret == -ENOTSUP && work->may_copy ? copy_file_range_in_thread (work) : ret;
}

static int coroutine_fn
file_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                       int64_t src_offset)
{
  FileState *s = bs->opaque;

  if (!s->clone || (src->drv != &file_driver && src->drv != &host_device_driver))
    return -ENOTSUP;
  if (src->drv != &file_driver)
    return -EXDEV; /* a device shares no extents with a file */

  /* Extents are shared by whole blocks; the kernel would say so too, after a visit to a thread. */
  if (!s->copy_file_range && s->no_clone)
    return -ENOTSUP;
  if (!s->copy_file_range && ((offset | src_offset | bytes) & (s->fs_block_size - 1)) != 0)
    return -EINVAL;

  const FileState *from = src->opaque;
  CopyWork work = { .from = from->fd,
                    .to = s->fd,
                    .from_offset = src_offset,
                    .to_offset = offset,
                    .bytes = bytes,
                    .may_copy = s->copy_file_range };

  extents_changed (s, offset, bytes, true);

  int ret = aio_co_run_in_thread (copy_in_thread, &work);

  s->no_clone |= ret == -ENOTSUP;
  /* What was copied may be a hole.  A refusal leaves what is known: to ask again can cost a walk over all pages of the
   * file (tmpfs). */
  if (ret != -ENOTSUP)
    extents_changed (s, offset, bytes, false);
  return ret;
}

/* --- facts --------------------------------------------------------------------------------------------- */

typedef struct
{
  int fd;
  int64_t bytes;
} AllocatedWork;

static int
allocated_in_thread (void *opaque)
{
  AllocatedWork *work = opaque;
  struct stat st;

  if (fstat (work->fd, &st) < 0)
    return -errno;
  work->bytes = (int64_t)st.st_blocks * 512; /* whatever the file system's block size */
  return 0;
}

static int64_t coroutine_fn
file_co_get_allocated_size (BlockDriverState *bs)
{
  FileState *s = bs->opaque;
  AllocatedWork work = { .fd = s->fd };
  int ret = aio_co_run_in_thread (allocated_in_thread, &work);

  return ret < 0 ? ret : work.bytes;
}

static bool
file_get_mtime (BlockDriverState *bs, int64_t *seconds)
{
  const FileState *s = bs->opaque;
  struct stat st;

  if (fstat (s->fd, &st) < 0)
    return false;
  *seconds = st.st_mtim.tv_sec;
  return true;
}

static const BlockOptionDef file_open_options[] = {
  FILE_COMMON_OPTIONS,
  { "copy_range", BLOCK_OPTION_STRING, "clone",
    "copying inside the host: clone (share extents), cfr (or else copy_file_range) or off" },
  { 0 },
};

const BlockDriver file_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_PROTOCOL,
  .format_name = "file",
  .long_name = "Regular file",
  .instance_size = sizeof (FileState),
  .open_options = file_open_options,
  .co_open = file_co_open,
  .co_reopen_rw = file_co_reopen_rw,
  .co_close = file_co_close,
  .co_preadv = file_co_preadv,
  .co_pwritev = file_co_pwritev,
  .co_pwrite_zeroes = file_co_pwrite_zeroes,
  .co_pdiscard = file_co_pdiscard,
  .co_copy_range_to = file_co_copy_range_to,
  .co_flush = file_co_flush,
  .co_start_writeback = file_co_start_writeback,
  .co_block_status = file_co_block_status,
  .co_truncate = file_co_truncate,
  .co_get_allocated_size = file_co_get_allocated_size,
  .get_host_id = file_get_host_id,
  .get_host_path = file_get_host_path,
  .get_mtime = file_get_mtime,
  .co_can_share = file_co_can_share,
};
