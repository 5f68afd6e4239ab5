/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as a stranger hands them over, and chains of them, opened to be read: the leaf is file 0, its parents are
 * whichever files its link finds.  Everything that can be asked without writing is asked.
 *
 * Beside what the sanitizers see: nothing is written; the map has no holes, and what it calls zero reads as zeros; the
 * same range read twice, in one request and in pieces, is the same.
 *
 * The script: a byte of flags, then the places to read.
 */
#include "fuzz.h"

#include <string.h>

#define READ_BYTES  (64 << 10)
#define MAX_EXTENTS 300
#define MAX_READS   32

static void
ignore_finding (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  g_assert_true (g_utf8_validate (text, -1, NULL));
}

static void
check (VhdkitImage *image)
{
  g_autoptr (GError) error = NULL;
  VhdkitCheckResult result;

  if (!vhdkit_image_check (image, false, &result, ignore_finding, NULL, &error))
    g_assert_nonnull (error);
}

static void
look_at_layers (VhdkitImage *image)
{
  for (int i = 0; i < vhdkit_image_get_depth (image); i++)
    {
      VhdkitLayerInfo info;
      g_autoptr (GError) error = NULL;

      if (vhdkit_image_get_layer_info (image, i, &info, &error))
        vhdkit_layer_info_clear (&info);
      else
        g_assert_nonnull (error);
    }
}

static void
read_at (VhdkitImage *image, int64_t offset, bool is_zero)
{
  int64_t bytes = MIN (READ_BYTES, vhdkit_image_get_size (image) - offset);
  g_autofree uint8_t *data = NULL, *again = NULL;

  if (offset < 0 || bytes <= 0)
    return;
  data = g_malloc (bytes);
  again = g_malloc (bytes);
  if (vhdkit_image_pread (image, data, offset, bytes) < 0)
    {
      g_assert_false (is_zero);
      return;
    }
  g_assert_cmpint (vhdkit_image_pread (image, again, offset, bytes / 3), ==, 0);
  g_assert_cmpint (vhdkit_image_pread (image, again + bytes / 3, offset + bytes / 3, bytes - bytes / 3), ==,
                   0);
  g_assert_cmpmem (data, bytes, again, bytes);
}

static void
assert_zeros (VhdkitImage *image, const VhdkitExtent *extent)
{
  int64_t bytes = MIN (READ_BYTES, extent->bytes);
  g_autofree uint8_t *data = g_malloc (bytes);

  for (int i = 0; i < 2; i++)
    {
      g_assert_cmpint (
          vhdkit_image_pread (image, data, extent->offset + (i ? extent->bytes - bytes : 0), bytes), ==, 0);
      for (int64_t at = 0; at < bytes; at++)
        g_assert_cmpint (data[at], ==, 0);
    }
}

static void
map (VhdkitImage *image)
{
  int64_t size = vhdkit_image_get_size (image), at = 0;
  VhdkitExtent extent;

  for (int i = 0; i < MAX_EXTENTS && at < size; i++, at += extent.bytes)
    {
      if (vhdkit_image_get_extent (image, at, size - at, &extent) < 0)
        return;
      g_assert_cmpint (extent.offset, ==, at);
      g_assert_cmpint (extent.bytes, >, 0);
      g_assert_cmpint (extent.bytes, <=, size - at);
      g_assert_cmpint (extent.depth, <, vhdkit_image_get_depth (image));
      if (i % 8 != 0)
        continue;
      if (extent.zero)
        assert_zeros (image, &extent);
      else
        read_at (image, at, false);
    }
}

static void
run (const uint8_t *script, size_t bytes)
{
  FuzzReader reader = { script, script + bytes };
  uint8_t flags = fuzz_u8 (&reader);
  VhdkitOpenOptions options = {
    .struct_size = sizeof options,
    .flags =
        flags & (VHDKIT_OPEN_NO_PARENTS | VHDKIT_OPEN_RAW_PARENT | VHDKIT_OPEN_EXAMINE | VHDKIT_OPEN_CHECK),
    .format = flags & 0x80 ? NULL : FUZZ_FORMAT,
    .filters = fuzz_filters,
  };
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = vhdkit_image_open (fuzz_context (), fuzz_path (0), &options, &error);

  if (!image)
    {
      g_assert_nonnull (error);
      return;
    }
  look_at_layers (image);
  if (!(options.flags & VHDKIT_OPEN_CHECK))
    {
      map (image);
      read_at (image, 0, false);
      read_at (image, MAX (0, vhdkit_image_get_size (image) - READ_BYTES), false);
      for (int i = 0; i < MAX_READS && reader.at < reader.end; i++)
        {
          uint64_t offset = fuzz_u64 (&reader);

          read_at (image, (int64_t)(offset % (uint64_t)MAX (1, vhdkit_image_get_size (image))), false);
        }
    }
  check (image);
  g_assert_true (vhdkit_image_close (image, &error));
}

const FuzzTarget fuzz_target = {
  .name = FUZZ_FORMAT,
  .max_file_bytes = 64 << 20,
  .max_requests = 100000,
  .max_bytes = INT64_C (1) << 30,
  .run = run,
};
