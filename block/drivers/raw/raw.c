/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The format `raw`: the guest's disk is the file, byte for byte.
 *
 * The length is the file's own, exactly; a file whose length is no multiple of 512 is not rounded, so that
 * a copy of it has the same length.  It has no sign of its own, no parent and no identity.
 */
#include <string.h>

#include <vhdkit/driver.h>

extern const BlockDriver raw_driver;

#define FILL_BYTES ((int64_t)1 << 20)

static int
raw_probe (const BlockProbe *probe)
{
  return 0; /* anything can be raw: the core takes it where no format fits */
}

static bool coroutine_fn
raw_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  bs->bytes = bdrv_length (bs->file);
  /* Whatever the file needs, the core does on the way down. */
  bs->limits.request_alignment = 1;
  bs->limits.memory_alignment = bs->file->limits.memory_alignment;
  bs->limits.zeroes_alignment = 1;
  bs->limits.discard_alignment = 1;
  return true;
}

static bool coroutine_fn
raw_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  return true;
}

static int coroutine_fn
raw_co_close (BlockDriverState *bs)
{
  return 0;
}

static int coroutine_fn
raw_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  return bdrv_co_preadv (bs->file, offset, bytes, qiov, qiov_offset);
}

static int coroutine_fn
raw_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  return bdrv_co_pwritev (bs->file, offset, bytes, qiov, qiov_offset, 0);
}

static int coroutine_fn
raw_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  return bdrv_co_pwrite_zeroes (bs->file, offset, bytes, flags);
}

static int coroutine_fn
raw_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  return bdrv_co_pdiscard (bs->file, offset, bytes);
}

static int coroutine_fn
raw_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                      int64_t src_offset)
{
  return bdrv_co_copy_range_to (bs->file, offset, bytes, src, src_offset);
}

static int coroutine_fn
raw_co_flush (BlockDriverState *bs)
{
  return bdrv_co_flush (bs->file);
}

static int coroutine_fn
raw_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file)
{
  int64_t child_map;
  BlockDriverState *child_file = NULL;
  int ret = bdrv_co_block_status (bs->file, offset, bytes, pnum, &child_map, &child_file);

  if (ret < 0)
    return ret;
  *map = offset;
  *file = bs->file;
  return (ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | BDRV_BLOCK_EOF)) | BDRV_BLOCK_OFFSET_VALID
         | BDRV_BLOCK_ALLOCATED;
}

static bool coroutine_fn
raw_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  if (!bdrv_co_truncate (bs->file, bytes, error))
    return false;
  bs->bytes = bdrv_length (bs->file); /* a device keeps its own */
  return true;
}

/* --- creating ------------------------------------------------------------------------------------------ */

static bool coroutine_fn
fill_with_zeros (BlockDriverState *file, int64_t bytes, GError **error)
{
  void *buffer = bdrv_try_alloc_buffer (file, FILL_BYTES);

  if (buffer == NULL)
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_FAILED, "out of memory");
      return false;
    }
  memset (buffer, 0, FILL_BYTES);

  int ret = 0;
  int64_t offset = 0;

  for (; offset < bytes && ret == 0; offset += FILL_BYTES)
    ret = bdrv_co_pwrite (file, offset, MIN (FILL_BYTES, bytes - offset), buffer, 0);
  bdrv_free_buffer (buffer);
  if (ret < 0)
    bdrv_set_error_errno (error, file, ret, "cannot write zeros at offset %" G_GINT64_FORMAT,
                          offset - FILL_BYTES);
  return ret == 0;
}

static bool coroutine_fn
preallocate (BlockDriverState *file, const BlockCreateParams *params, GError **error)
{
  const char *mode = block_options_get_string (params->options, "preallocation", "off");

  if (params->bytes == 0 || strcmp (mode, "off") == 0)
    return true;
  if (strcmp (mode, "full") == 0)
    return fill_with_zeros (file, params->bytes, error);

  /* Without leave to unmap, space is reserved. */
  int ret = bdrv_co_pwrite_zeroes (file, 0, params->bytes, 0);

  if (ret < 0)
    bdrv_set_error_errno (error, file, ret, "cannot reserve %" G_GINT64_FORMAT " bytes", params->bytes);
  return ret == 0;
}

static bool coroutine_fn
raw_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error)
{
  const char *mode = block_options_get_string (params->options, "preallocation", "off");

  if (strcmp (mode, "off") != 0 && strcmp (mode, "falloc") != 0 && strcmp (mode, "full") != 0)
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "preallocation=%s: it is off, falloc or full", mode);
      return false;
    }
  if (params->parent != NULL)
    {
      bdrv_set_error (error, file, VHDKIT_ERROR_UNSUPPORTED, "a raw image cannot have a parent");
      return false;
    }

  if (!bdrv_co_clear_file (file, params->bytes, error) || !preallocate (file, params, error))
    return false;

  int ret = bdrv_co_flush (file);

  if (ret < 0)
    bdrv_set_error_errno (error, file, ret, "cannot flush");
  return ret == 0;
}

static const BlockOptionDef raw_create_options[] = {
  { "preallocation", BLOCK_OPTION_STRING, "off",
    "space taken at once: off (none), falloc (reserved) or full (written)" },
  { 0 },
};

const BlockDriver raw_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "raw",
  .long_name = "Raw disk image",
  .caps = BLOCK_CAP_ZERO_INIT | BLOCK_CAP_SHRINK,
  .create_options = raw_create_options,
  .probe = raw_probe,
  .co_create = raw_co_create,
  .co_open = raw_co_open,
  .co_reopen_rw = raw_co_reopen_rw,
  .co_close = raw_co_close,
  .co_preadv = raw_co_preadv,
  .co_pwritev = raw_co_pwritev,
  .co_pwrite_zeroes = raw_co_pwrite_zeroes,
  .co_pdiscard = raw_co_pdiscard,
  .co_copy_range_to = raw_co_copy_range_to,
  .co_flush = raw_co_flush,
  .co_block_status = raw_co_block_status,
  .co_truncate = raw_co_truncate,
};
