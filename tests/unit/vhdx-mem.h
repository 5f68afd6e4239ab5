/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* VHDX images in files in memory, for tests of what is written to these, and when. */
#ifndef VHDX_MEM_H
#define VHDX_MEM_H

#include <string.h>

#include "test-core-util.h"

#define KIB INT64_C (1024)
#define MIB (1024 * KIB)

/* Where create puts it, behind header section, log and metadata of a MiB each. */
#define BAT (3 * MIB)

enum
{
  NOT_PRESENT = 0,
  ZERO = 2,
  UNMAPPED = 3,
  FULLY_PRESENT = 6, /* of a bitmap block, too */
  PARTIALLY_PRESENT = 7,
};

static inline void coroutine_fn
co_create (MemFile *mem, int64_t bytes, const char *subformat, BlockDriverState *parent)
{
  const BlockDriver *drv = bdrv_find_driver ("vhdx");
  const char *words[] = { "block_size=1M", subformat, NULL };
  g_autoptr (GError) error = NULL;
  g_autoptr (BlockOptions) options = block_options_parse (drv->create_options, words, &error);
  BlockCreateParams params = {
    .bytes = bytes, .options = options, .child_path = "/x.vhdx", .parent = parent, .parent_path = "/base.vhdx"
  };
  BlockDriverState *file = co_mem_open (mem, BDRV_O_RDWR);

  file->fixed_length = mem->fixed_length;
  bdrv_co_create (drv, file, &params, &error);
  g_assert_no_error (error);
  bdrv_co_unref (file);
}

/* Takes the references to @file and @parent. */
static inline BlockDriverState *coroutine_fn
co_open_on (BlockDriverState *file, int flags, BlockDriverState *parent)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = bdrv_node_new (bdrv_find_driver ("vhdx"), "x.vhdx", flags, file);

  bs->backing = parent;
  bdrv_co_node_open (bs, NULL, &error);
  g_assert_no_error (error);
  return bs;
}

static inline BlockDriverState *coroutine_fn
co_open (MemFile *mem, int flags, BlockDriverState *parent)
{
  BlockDriverState *file = co_mem_open (mem, flags);

  file->fixed_length = mem->fixed_length;
  return co_open_on (file, flags, parent);
}

static inline void coroutine_fn
co_fill (BlockDriverState *bs, int64_t offset, int64_t bytes, int byte)
{
  g_autofree uint8_t *buf = g_malloc (bytes);

  memset (buf, byte, bytes);
  g_assert_cmpint (bdrv_co_pwrite (bs, offset, bytes, buf, 0), ==, 0);
}

static inline void coroutine_fn
co_assert_filled (BlockDriverState *bs, int64_t offset, int64_t bytes, int byte)
{
  g_autofree uint8_t *buf = g_malloc (bytes);

  memset (buf, ~byte, bytes);
  g_assert_cmpint (bdrv_co_pread (bs, offset, bytes, buf), ==, 0);
  for (int64_t i = 0; i < bytes; i++)
    if (buf[i] != byte)
      g_error ("byte %" G_GINT64_FORMAT " is %#x, not %#x", offset + i, buf[i], byte);
}

static inline void
set_entry (MemFile *mem, int index, uint64_t value)
{
  for (int i = 0; i < 8; i++)
    mem->data->data[BAT + index * 8 + i] = value >> 8 * i;
}

static inline uint64_t
get_entry (const MemFile *mem, int index)
{
  uint64_t value = 0;

  for (int i = 8; i-- > 0;)
    value = value << 8 | mem->data->data[BAT + index * 8 + i];
  return value;
}

/* What the container holds now, for a look at what a crash leaves. */
static inline void
copy_container (const MemFile *mem, MemFile *copy)
{
  mem_file_init (copy, mem->data->len);
  memcpy (copy->data->data, mem->data->data, mem->data->len);
}

#endif
