/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of formats this library does not know, but can tell: they are refused by name.
 *
 * Without this they would probe as raw, and their container would be taken for a disk: converted into nonsense,
 * or written to and destroyed.  Whoever means the bytes of the container says so (format raw).
 */
#include <errno.h>
#include <string.h>

#include <vhdkit/driver.h>

extern const BlockDriver foreign_driver;

static const struct
{
  const char *name;
  size_t offset;
  const char *magic;
  size_t bytes;
} foreign_formats[] = {
  { "qcow2", 0, "QFI\xfb", 4 },
  { "QED", 0, "QED\0", 4 },
  { "VMDK", 0, "KDMV", 4 },
  { "VMDK", 0, "COWD", 4 },
  { "VMDK descriptor", 0, "# Disk DescriptorFile", 21 },
  { "VDI", 64, "\x7f\x10\xda\xbe", 4 },
  { "Parallels", 0, "WithoutFreeSpace", 16 },
  { "Parallels", 0, "WithouFreSpacExt", 16 },
};

static const char *
find_foreign (const uint8_t *head, size_t bytes)
{
  for (size_t i = 0; i < G_N_ELEMENTS (foreign_formats); i++)
    if (bytes >= foreign_formats[i].offset + foreign_formats[i].bytes
        && memcmp (head + foreign_formats[i].offset, foreign_formats[i].magic, foreign_formats[i].bytes) == 0)
      return foreign_formats[i].name;
  return NULL;
}

/* Weaker than any format of ours. */
static int
foreign_probe (const BlockProbe *probe)
{
  return find_foreign (probe->head, probe->head_bytes) ? 10 : 0;
}

static bool coroutine_fn
foreign_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  uint8_t head[512] = { 0 };
  const char *name;

  (void)bdrv_co_pread (bs->file, 0, MIN ((int64_t)sizeof head, bdrv_length (bs->file)), head);
  name = find_foreign (head, sizeof head);
  bdrv_set_error (
      error, bs, VHDKIT_ERROR_UNSUPPORTED,
      "looks like a %s image, which is not supported; name the format raw to take its bytes as a disk",
      name ? name : "foreign");
  return false;
}

/* Never called: no such image is ever open.  Without them the core would say that the format cannot be read or
 * written, instead of asking co_open, which says more. */
static int coroutine_fn
foreign_co_transfer (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                     size_t qiov_offset)
{
  return -ENOTSUP;
}

const BlockDriver foreign_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "foreign",
  .long_name = "Other formats, recognised and refused",
  .probe = foreign_probe,
  .co_open = foreign_co_open,
  .co_preadv = foreign_co_transfer,
  .co_pwritev = foreign_co_transfer,
};
