/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An I/O manager of libext2fs whose device is a volume.
 *
 * The library calls it like a function that blocks.  It runs in a coroutine, on whose stack its frames stay while a
 * read yields; it keeps no state of its own but in what is opened, so other coroutines may use it meanwhile.
 */
#include "ext2-io.h"

#include "checked.h"

#include <errno.h>
#include <stdio.h>

static struct struct_io_manager volume_manager;

static errcode_t
volume_open (const char *name, int flags, io_channel *result)
{
  io_channel channel;
  void *volume = NULL;
  errcode_t ret;

  /* The name is all that comes through; fs_ext2_co_open () made it. */
  if (sscanf (name, "%p", &volume) != 1 || (flags & IO_FLAG_RW))
    return EXT2_ET_BAD_DEVICE_NAME;
  ret = ext2fs_get_memzero (sizeof *channel, &channel);
  if (ret != 0)
    return ret;
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &volume_manager;
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = volume;
  *result = channel;
  return 0;
}

static errcode_t
volume_close (io_channel channel)
{
  if (--channel->refcount == 0)
    ext2fs_free_mem (&channel);
  return 0;
}

static errcode_t
volume_set_blksize (io_channel channel, int blksize)
{
  channel->block_size = blksize;
  return 0;
}

/* @count: blocks, or if negative, bytes. */
static errcode_t coroutine_fn
volume_read_blk64 (io_channel channel, unsigned long long block, int count, void *data)
{
  int64_t offset;
  int64_t bytes = count < 0 ? -(int64_t)count : (int64_t)count * channel->block_size;

  if (!checked_mul (block, channel->block_size, &offset))
    return EXT2_ET_BAD_BLOCK_NUM;
  int ret = fs_co_read (channel->private_data, offset, bytes, data);
  return ret == -EINVAL ? EXT2_ET_BAD_BLOCK_NUM : -ret;
}

static errcode_t coroutine_fn
volume_read_blk (io_channel channel, unsigned long block, int count, void *data)
{
  return volume_read_blk64 (channel, block, count, data);
}

static errcode_t
volume_write_blk (io_channel channel, unsigned long block, int count, const void *data)
{
  return EXT2_ET_RO_FILSYS;
}

static errcode_t
volume_flush (io_channel channel)
{
  return 0;
}

static struct struct_io_manager volume_manager = {
  .magic = EXT2_ET_MAGIC_IO_MANAGER,
  .name = "vhdkit volume",
  .open = volume_open,
  .close = volume_close,
  .set_blksize = volume_set_blksize,
  .read_blk = volume_read_blk,
  .read_blk64 = volume_read_blk64,
  .write_blk = volume_write_blk,
  .flush = volume_flush,
};

errcode_t coroutine_fn
fs_ext2_co_open (FsVolume *volume, ext2_filsys *fs)
{
  g_autofree char *name = g_strdup_printf ("%p", (void *)volume);

  return ext2fs_open2 (name, NULL, EXT2_FLAG_64BITS, 0, 0, &volume_manager, fs);
}
