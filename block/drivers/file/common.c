/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the drivers `file` and `host_device` share: opening, locks, engines, reading, flushing.
 *
 * Opening goes: find the place (O_PATH), look what is there, open that very inode, lock, measure.  All of it
 * may block and happens in one visit to the thread pool, but for files the kernel has at hand.
 *
 * Becoming writable goes: take the writer's locks on the old descriptor, open a second one for the same
 * inode, take the same locks there, let the new one serve requests.  At no time is the file unlocked.
 */
#include "file-int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checked.h"
#include "host-path.h"

/* Since Linux 6.1; the header may be older. */
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif
#define STATX_DIO_MEM_ALIGN_AT    0x98
#define STATX_DIO_OFFSET_ALIGN_AT 0x9c
G_STATIC_ASSERT (sizeof (struct statx) == 256);

#define DIRECT_ALIGNMENT_FALLBACK 4096
#define DIRECT_ALIGNMENT_MAX      65536

typedef struct
{
  const BlockDriverState *bs;
  const BlockOptions *options;
  FileState *s;
  FileCheckFunc *check;
  bool locking_required;
  FileLocks locks_wanted;
  int place;        /* the file, found already, or -1 … */
  struct statfs fs; /* … and its file system */
  bool fs_known;
  /* Results. */
  int64_t bytes;
  uint32_t request_alignment, memory_alignment;
  char *lock_warning;
  GError *error;
} OpenWork;

static int
access_flags (const BlockDriverState *bs, bool writable, bool is_device)
{
  int flags = writable ? O_RDWR : O_RDONLY;

  if (bs->open_flags & BDRV_O_DIRECT)
    flags |= O_DIRECT;
  /* Linux lends a device exclusively to one of mounts, swap, md and the like: refuse what they use. */
  if (writable && is_device)
    flags |= O_EXCL;
  return flags;
}

static void
set_open_error (GError **error, const BlockDriverState *bs, int ret, bool writable, bool is_device)
{
  const char *how = writable ? "read-write" : "read-only";

  if (ret == -EINVAL && bs->open_flags & BDRV_O_DIRECT)
    bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "the file system does not support O_DIRECT");
  else if (ret == -EBUSY && is_device)
    bdrv_set_error (error, bs, VHDKIT_ERROR_IN_USE,
                    "the device is mounted or held by another part of the system");
  else if (ret == -ETXTBSY)
    bdrv_set_error (error, bs, VHDKIT_ERROR_IN_USE, "the file is in use as swap space or being executed");
  else if (ret == -EROFS)
    bdrv_set_error (error, bs, VHDKIT_ERROR_READ_ONLY, "cannot be opened %s: %s", how, g_strerror (-ret));
  else
    bdrv_set_error_errno (error, bs, ret, "cannot be opened %s", how);
}

/* What the kernel says of O_DIRECT here: 1: both alignments, 0: nothing, -1: it cannot be. */
static int
statx_direct_alignment (int fd, uint32_t *offset_alignment, uint32_t *memory_alignment)
{
  struct statx stx;

  memset (&stx, 0, sizeof stx);
  if (statx (fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 || !(stx.stx_mask & STATX_DIOALIGN))
    return 0;
  memcpy (memory_alignment, (const char *)&stx + STATX_DIO_MEM_ALIGN_AT, sizeof *memory_alignment);
  memcpy (offset_alignment, (const char *)&stx + STATX_DIO_OFFSET_ALIGN_AT, sizeof *offset_alignment);
  if (*offset_alignment == 0 || *memory_alignment == 0)
    return -1;
  return is_power_of_two (*offset_alignment) && is_power_of_two (*memory_alignment)
         && *offset_alignment <= DIRECT_ALIGNMENT_MAX && *memory_alignment <= DIRECT_ALIGNMENT_MAX;
}

/* Whether a read of 512 bytes at an odd multiple of 512 gets through; needs a file longer than that. */
static bool
sector_read_works (int fd)
{
  void *buffer = NULL;

  if (posix_memalign (&buffer, DIRECT_ALIGNMENT_FALLBACK, DIRECT_ALIGNMENT_FALLBACK) != 0)
    return false;

  bool works =
      pread (fd, (char *)buffer + BDRV_SECTOR_SIZE, BDRV_SECTOR_SIZE, BDRV_SECTOR_SIZE) == BDRV_SECTOR_SIZE;

  free (buffer);
  return works;
}

static bool
measure_direct (OpenWork *work, int fd)
{
  uint32_t offset_alignment = 0, memory_alignment = 0;
  int known = statx_direct_alignment (fd, &offset_alignment, &memory_alignment);

  if (known < 0)
    {
      bdrv_set_error (&work->error, work->bs, VHDKIT_ERROR_UNSUPPORTED, "the file does not support O_DIRECT");
      return false;
    }
  if (known == 0)
    {
      if (!work->s->is_device && work->fs_known && work->fs.f_type == TMPFS_MAGIC)
        offset_alignment = memory_alignment = 1; /* memory already: O_DIRECT changes nothing there */
      else if (work->s->is_device)
        offset_alignment = memory_alignment = work->s->fs_block_size;
      else if (work->bytes >= DIRECT_ALIGNMENT_FALLBACK && sector_read_works (fd))
        offset_alignment = memory_alignment = BDRV_SECTOR_SIZE;
      else
        offset_alignment = memory_alignment = DIRECT_ALIGNMENT_FALLBACK;
    }
  work->request_alignment = offset_alignment;
  work->memory_alignment = memory_alignment;
  return true;
}

static bool
measure (OpenWork *work, int fd, const struct stat *st)
{
  FileState *s = work->s;

  work->request_alignment = work->memory_alignment = 1;
  if (s->is_device)
    {
      uint64_t bytes;
      int sector;

      if (ioctl (fd, BLKGETSIZE64, &bytes) < 0 || ioctl (fd, BLKSSZGET, &sector) < 0)
        {
          bdrv_set_error_errno (&work->error, work->bs, -errno, "cannot get the size of the device");
          return false;
        }
      if (bytes > G_MAXINT64 || sector < BDRV_SECTOR_SIZE || sector > DIRECT_ALIGNMENT_MAX
          || !is_power_of_two (sector))
        {
          bdrv_set_error (&work->error, work->bs, VHDKIT_ERROR_UNSUPPORTED,
                          "a device of %" G_GUINT64_FORMAT " bytes in sectors of %d bytes", bytes, sector);
          return false;
        }
      work->bytes = bytes;
      s->fs_block_size = sector;
    }
  else
    {
      const struct statfs *fs = &work->fs;

      work->bytes = st->st_size;
      s->fs_block_size = DIRECT_ALIGNMENT_FALLBACK;
      work->fs_known = work->fs_known || fstatfs (fd, &work->fs) == 0;
      if (work->fs_known)
        {
          if (fs->f_bsize >= BDRV_SECTOR_SIZE && fs->f_bsize <= DIRECT_ALIGNMENT_MAX
              && is_power_of_two (fs->f_bsize))
            s->fs_block_size = fs->f_bsize;
          s->on_local_fs = host_fs_is_local (fs);
        }
    }
  return !(work->bs->open_flags & BDRV_O_DIRECT) || measure_direct (work, fd);
}

static bool
take_locks (OpenWork *work, int fd)
{
  FileState *s = work->s;
  g_autofree char *why = NULL;
  int ret = file_locks_upgrade (fd, &s->locks, work->locks_wanted, &why);

  if (ret == 0)
    return true;
  if (ret == -EBUSY)
    {
      bdrv_set_error (&work->error, work->bs, VHDKIT_ERROR_IN_USE, "cannot be opened %s: %s",
                      work->locks_wanted.held & FILE_PERM_WRITE ? "read-write" : "read-only", why);
      return false;
    }
  if (work->locking_required)
    {
      bdrv_set_error_errno (&work->error, work->bs, ret, "cannot take image locks");
      return false;
    }
  work->lock_warning = g_strdup_printf (
      "the file system has no image locks (%s): other users will not be noticed", g_strerror (-ret));
  return true;
}

/* Not having it is no error: the core pads then. */
static void
open_end (const BlockDriverState *bs, FileState *s, int fd)
{
  if ((bs->open_flags & BDRV_O_DIRECT) && !s->is_device)
    s->end_fd = MAX (host_path_reopen (fd, s->host_path, O_RDWR), -1);
}

/* 0, or -1 with work->error set. */
static int
open_in_thread (void *opaque)
{
  OpenWork *work = opaque;
  const BlockDriverState *bs = work->bs;
  FileState *s = work->s;
  bool writable = bs->open_flags & BDRV_O_RDWR;
  const char *confine = block_options_get_string (work->options, "confine", NULL);
  struct stat st;
  int place = work->place >= 0 ? work->place : host_path_open (bs->filename, confine, &work->error);

  if (place < 0)
    {
      g_prefix_error (&work->error, "%s: ", bs->filename);
      return -1;
    }

  if (fstat (place, &st) < 0)
    bdrv_set_error_errno (&work->error, bs, -errno, "cannot get its attributes");
  else if (work->check (bs, &st, &work->error))
    {
      s->host_path = host_path_of_fd (place, bs->filename);
      s->fd = host_path_reopen (place, s->host_path, access_flags (bs, writable, s->is_device));
      if (s->fd < 0)
        set_open_error (&work->error, bs, s->fd, writable, s->is_device);
    }
  close (place);
  if (s->fd < 0 || !take_locks (work, s->fd))
    return -1;

  /* Only now, with the locks held, is the length one to rely on. */
  if (fstat (s->fd, &st) < 0)
    {
      bdrv_set_error_errno (&work->error, bs, -errno, "cannot get its attributes");
      return -1;
    }
  /* A device may have nodes in several places; no file system has that number. */
  s->host_id[0] = s->is_device ? G_MAXUINT64 : st.st_dev;
  s->host_id[1] = s->is_device ? st.st_rdev : st.st_ino;
  if (!measure (work, s->fd, &st))
    return -1;
  if (writable)
    open_end (bs, s, s->fd);
  return 0;
}

static bool
choose_engine (FileState *s, const BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  const char *name = block_options_get_string (options, "aio", NULL);
  bool direct = bs->open_flags & BDRV_O_DIRECT;

  if (name == NULL)
    {
      s->engine = direct && aio_engine_available (AIO_ENGINE_NATIVE) ? AIO_ENGINE_NATIVE : AIO_ENGINE_THREADS;
      return true;
    }
  if (!aio_engine_from_name (name, &s->engine))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "aio=%s: there are the engines threads, native and io_uring", name);
      return false;
    }
  if (s->engine == AIO_ENGINE_NATIVE && !direct)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "aio=native needs O_DIRECT (cache mode none or directsync): "
                      "Linux AIO on the page cache blocks");
      return false;
    }
  if (!aio_engine_available (s->engine))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "aio=%s: not built in, or refused by the kernel",
                      name);
      return false;
    }
  return true;
}

static bool
choose_locking (OpenWork *work, GError **error)
{
  const char *locking = block_options_get_string (work->options, "locking", "auto");

  work->locks_wanted = file_locks_for_flags (work->bs->open_flags);
  work->locking_required = strcmp (locking, "on") == 0;
  if (strcmp (locking, "off") == 0)
    work->locks_wanted = (FileLocks){ 0 };
  else if (!work->locking_required && strcmp (locking, "auto") != 0)
    {
      bdrv_set_error (error, work->bs, VHDKIT_ERROR_INVALID_ARGUMENT, "locking=%s: it is auto, on or off",
                      locking);
      return false;
    }
  return true;
}

static void
release (FileState *s)
{
  g_clear_pointer (&s->aio, aio_file_free);
  g_clear_pointer (&s->retired_aio, aio_file_free);
  if (s->retired_fd >= 0)
    close (s->retired_fd);
  if (s->end_fd >= 0)
    close (s->end_fd);
  if (s->fd >= 0)
    {
      /* A child process that inherited the description would keep them. */
      file_locks_downgrade (s->fd, &s->locks, (FileLocks){ 0 });
      close (s->fd);
    }
  s->fd = s->retired_fd = s->end_fd = -1;
  g_clear_pointer (&s->host_path, g_free);
}

static void
update_keep_extents (FileState *s)
{
  s->keep_extents = s->locks.unshared & FILE_PERM_WRITE;
}

/* Without the page cache it may have to be read, to see what alignment it needs. */
static bool
opens_at_once (OpenWork *work)
{
  if (work->bs->open_flags & BDRV_O_DIRECT)
    return false;
  work->place = host_path_open_at_hand (work->bs->filename, &work->fs);
  if (work->place < 0)
    return false;
  work->fs_known = true;
  if (block_options_get_string (work->options, "confine", NULL))
    {
      /* Where it lies is found out together with the file. */
      close (work->place);
      work->place = -1;
      work->fs_known = false;
    }
  return true;
}

bool coroutine_fn
file_co_open_common (BlockDriverState *bs, const BlockOptions *options, bool is_device, FileCheckFunc *check,
                     GError **error)
{
  FileState *s = bs->opaque;
  OpenWork work = { .bs = bs, .options = options, .s = s, .check = check, .place = -1 };

  s->fd = s->retired_fd = s->end_fd = -1;
  s->is_device = is_device;
  if (!choose_engine (s, bs, options, error) || !choose_locking (&work, error))
    return false;

  if ((opens_at_once (&work) ? open_in_thread (&work) : aio_co_run_in_thread (open_in_thread, &work)) < 0)
    {
      g_propagate_error (error, work.error);
      g_free (work.lock_warning);
      release (s);
      return false;
    }
  if (work.lock_warning != NULL)
    {
      bdrv_warn (bs, "%s", work.lock_warning);
      g_free (work.lock_warning);
    }

  s->aio = aio_file_new (s->fd, s->engine);
  update_keep_extents (s);
  bs->bytes = work.bytes;
  bs->fixed_length = is_device;
  bs->limits.request_alignment = work.request_alignment;
  bs->limits.memory_alignment = work.memory_alignment;
  bs->limits.unaligned_end = s->end_fd >= 0;
  /* Smaller pieces free no space; the core drops the edges. */
  bs->limits.discard_alignment = s->fs_block_size;
  bs->limits.zeroes_alignment = is_device ? s->fs_block_size : 1;
  return true;
}

typedef struct
{
  const BlockDriverState *bs;
  FileState *s;
  int fd; /* the new one */
  GError *error;
} ReopenWork;

static bool
reopen_locked (ReopenWork *work)
{
  FileState *s = work->s;
  int ret = host_path_reopen (s->fd, s->host_path, access_flags (work->bs, true, s->is_device));

  if (ret < 0)
    {
      set_open_error (&work->error, work->bs, ret, true, s->is_device);
      return false;
    }

  FileLocks locks = { 0 };

  work->fd = ret;
  ret = file_locks_add (work->fd, &locks, s->locks);
  if (ret < 0)
    {
      bdrv_set_error_errno (&work->error, work->bs, ret, "cannot take image locks");
      close (work->fd);
      return false;
    }
  return true;
}

static int
reopen_in_thread (void *opaque)
{
  ReopenWork *work = opaque;
  FileState *s = work->s;
  FileLocks before = s->locks;

  /* Without locks there is nothing to upgrade: they were turned off, or the file system has none. */
  if (before.held != 0)
    {
      g_autofree char *why = NULL;
      int ret = file_locks_upgrade (s->fd, &s->locks, file_locks_for_flags (BDRV_O_RDWR), &why);

      if (ret == -EBUSY)
        bdrv_set_error (&work->error, work->bs, VHDKIT_ERROR_IN_USE, "cannot be made writable: %s", why);
      else if (ret < 0)
        bdrv_set_error_errno (&work->error, work->bs, ret, "cannot take image locks");
      if (ret < 0)
        return -1;
    }
  if (!reopen_locked (work))
    {
      file_locks_downgrade (s->fd, &s->locks, before);
      return -1;
    }
  open_end (work->bs, s, work->fd);
  return 0;
}

bool coroutine_fn
file_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  FileState *s = bs->opaque;
  ReopenWork work = { .bs = bs, .s = s, .fd = -1 };

  if (aio_co_run_in_thread (reopen_in_thread, &work) < 0)
    {
      g_propagate_error (error, work.error);
      return false;
    }

  /* Reads may be under way on the old description, so it stays until the node closes; it need not hold locks
   * any longer. */
  FileLocks old = s->locks;

  file_locks_downgrade (s->fd, &old, (FileLocks){ 0 });
  s->retired_fd = s->fd;
  s->retired_aio = s->aio;
  s->fd = work.fd;
  bs->limits.unaligned_end = s->end_fd >= 0;
  s->aio = aio_file_new (s->fd, s->engine);
  update_keep_extents (s);
  return true;
}

static int
release_in_thread (void *opaque)
{
  release (opaque);
  return 0;
}

/* Else the last close may wait: for data, for a server, or for the space of a file whose name is gone. */
static bool
closes_at_once (const BlockDriverState *bs)
{
  const FileState *s = bs->opaque;
  struct stat st;

  return bs->read_only && s->on_local_fs && fstat (s->fd, &st) == 0 && st.st_nlink > 0;
}

int coroutine_fn
file_co_close (BlockDriverState *bs)
{
  FileState *s = bs->opaque;

  if (closes_at_once (bs))
    return release_in_thread (s);
  return aio_co_run_in_thread (release_in_thread, s);
}

int coroutine_fn
file_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  FileState *s = bs->opaque;
  ssize_t ret = aio_co_preadv (s->aio, offset, qiov, qiov_offset, bytes);

  if (G_UNLIKELY (ret < 0))
    return ret;
  if (G_UNLIKELY (ret < bytes))
    {
      /* Somebody else has cut the file: what is missing was not zeros. */
      if (offset + ret < bs->bytes)
        return -EIO;
      io_vector_memset (qiov, qiov_offset + ret, 0, bytes - ret); /* past the end of the host's file */
    }
  return 0;
}

typedef struct
{
  int fd;
  int64_t offset;
  const uint8_t *data;
  size_t bytes;
} EndWork;

static int
write_end_in_thread (void *opaque)
{
  EndWork *work = opaque;

  while (work->bytes > 0)
    {
      ssize_t ret = pwrite (work->fd, work->data, work->bytes, work->offset);

      if (ret < 0 && errno == EINTR)
        continue;
      if (ret <= 0)
        return ret < 0 ? -errno : -EIO;
      work->offset += ret;
      work->data += ret;
      work->bytes -= ret;
    }
  return 0;
}

int coroutine_fn
file_co_write_end (FileState *s, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  /* Less than a block of the alignment. */
  g_autofree uint8_t *data = g_malloc (bytes);
  EndWork work = { .fd = s->end_fd, .offset = offset, .data = data, .bytes = bytes };

  if (s->end_fd < 0)
    return -EINVAL;
  io_vector_to_buf (qiov, qiov_offset, data, bytes);
  return aio_co_run_in_thread (write_end_in_thread, &work);
}

int coroutine_fn
file_co_flush (BlockDriverState *bs)
{
  FileState *s = bs->opaque;

  return aio_co_fdatasync (s->aio);
}

static int
start_writeback_in_thread (void *opaque)
{
  const FileState *s = opaque;

  /* What fails is heard of by the next flush. */
  (void)sync_file_range (s->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
  return 0;
}

void coroutine_fn
file_co_start_writeback (BlockDriverState *bs)
{
  if (!(bs->open_flags & BDRV_O_DIRECT))
    aio_co_run_in_thread (start_writeback_in_thread, bs->opaque);
}

bool
file_get_host_id (BlockDriverState *bs, uint64_t id[2])
{
  const FileState *s = bs->opaque;

  memcpy (id, s->host_id, sizeof s->host_id);
  return true;
}

const char *
file_get_host_path (BlockDriverState *bs)
{
  const FileState *s = bs->opaque;

  return s->host_path;
}

bool
file_errno_is_unsupported (int code)
{
  return code == EOPNOTSUPP || code == ENOSYS || code == ENOTTY || code == ENODEV;
}

static int
fallocate_in_thread (void *opaque)
{
  FileRangeWork *work = opaque;
  int ret;

  do
    ret = fallocate (work->fd, work->mode, work->offset, work->bytes);
  while (ret < 0 && errno == EINTR);
  if (ret == 0)
    return 0;
  return file_errno_is_unsupported (errno) ? -ENOTSUP : -errno;
}

/* @never: noted that the host has no such call, which is then not asked again. */
static int coroutine_fn
co_fallocate (FileState *s, bool *never, int mode, int64_t offset, int64_t bytes)
{
  FileRangeWork work = { .fd = s->fd, .mode = mode | FALLOC_FL_KEEP_SIZE, .offset = offset, .bytes = bytes };

  if (*never)
    return -ENOTSUP;

  int ret = aio_co_run_in_thread (fallocate_in_thread, &work);

  *never |= ret == -ENOTSUP;
  return ret;
}

int coroutine_fn
file_co_punch_hole (FileState *s, int64_t offset, int64_t bytes)
{
  return co_fallocate (s, &s->no_punch_hole, FALLOC_FL_PUNCH_HOLE, offset, bytes);
}

int coroutine_fn
file_co_zero_range (FileState *s, int64_t offset, int64_t bytes)
{
  return co_fallocate (s, &s->no_zero_range, FALLOC_FL_ZERO_RANGE, offset, bytes);
}
