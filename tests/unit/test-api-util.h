/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the public API share: a scratch folder, images, contents. */
#ifndef TEST_API_UTIL_H
#define TEST_API_UTIL_H

#include <vhdkit/vhdkit.h>

#include <glib/gstdio.h>

#define KIB 1024
#define MIB (1024 * 1024)

/* A new folder; the names made by scratch_path () are removed with it. */
static char *scratch;
static GPtrArray *scratch_files;

static inline void
scratch_init (void)
{
  scratch = g_dir_make_tmp ("vhdkit-XXXXXX", NULL);
  g_assert_nonnull (scratch);
  scratch_files = g_ptr_array_new_with_free_func (g_free);
}

static inline void
scratch_clear (void)
{
  for (guint i = 0; i < scratch_files->len; i++)
    g_unlink (g_ptr_array_index (scratch_files, i));
  g_rmdir (scratch);
  g_clear_pointer (&scratch_files, g_ptr_array_unref);
  g_clear_pointer (&scratch, g_free);
}

/* Borrowed until scratch_clear (). */
static inline const char *
scratch_path (const char *name)
{
  char *path = g_build_filename (scratch, name, NULL);

  g_ptr_array_add (scratch_files, path);
  return path;
}

/* block_size in bytes, 0: the default. */
static inline void
create_image (const char *path, const char *format, int64_t bytes, int64_t block_size, const char *parent)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *block_option = g_strdup_printf ("block_size=%" G_GINT64_FORMAT, block_size);
  const char *format_options[] = { block_option, NULL };
  VhdkitCreateOptions options = {
    .struct_size = sizeof options,
    .format = format,
    .bytes = bytes,
    .format_options = block_size > 0 ? format_options : NULL,
    .parent = parent,
  };

  vhdkit_image_create (NULL, path, &options, &error);
  g_assert_no_error (error);
}

static inline VhdkitImage *
open_image_with (const char *path, unsigned flags, const char *const *filters)
{
  g_autoptr (GError) error = NULL;
  VhdkitOpenOptions options = {
    .struct_size = sizeof options,
    .flags = flags | VHDKIT_OPEN_RAW_PARENT,
    .filters = filters,
  };
  VhdkitImage *image = vhdkit_image_open (NULL, path, &options, &error);

  g_assert_no_error (error);
  g_assert_nonnull (image);
  return image;
}

static inline VhdkitImage *
open_image (const char *path, unsigned flags)
{
  return open_image_with (path, flags, NULL);
}

static inline void
close_image (VhdkitImage *image)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (image, &error);
  g_assert_no_error (error);
}

static inline void
write_byte (VhdkitImage *image, int64_t offset, int64_t bytes, int byte)
{
  g_autofree uint8_t *buf = g_malloc ((gsize)bytes);

  memset (buf, byte, (size_t)bytes);
  g_assert_cmpint (vhdkit_image_pwrite (image, buf, offset, bytes), ==, 0);
}

/* The whole of what an image shows; free with g_free (). */
static inline uint8_t *
read_all (VhdkitImage *image)
{
  int64_t bytes = vhdkit_image_get_size (image);
  uint8_t *buf = g_malloc ((gsize)bytes);

  g_assert_cmpint (vhdkit_image_pread (image, buf, 0, bytes), ==, 0);
  return buf;
}

static inline uint8_t *
read_file_view (const char *path)
{
  VhdkitImage *image = open_image (path, 0);
  uint8_t *view = read_all (image);

  close_image (image);
  return view;
}

static inline void
assert_checks_clean (const char *path)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_CHECK);
  VhdkitCheckResult result;

  g_assert_true (vhdkit_image_check (image, false, &result, NULL, NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpint (result.corruptions, ==, 0);
  g_assert_cmpint (result.check_errors, ==, 0);
  close_image (image);
}

#endif
