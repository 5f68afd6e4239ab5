/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creating, opening and describing images through the public API. */
#include "test-api-util.h"

#include <errno.h>
#include <sys/stat.h>

static void
expect_create (const char *path, const VhdkitCreateOptions *options, VhdkitError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (vhdkit_image_create (NULL, path, options, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
  g_test_message ("%s", error->message);
}

static void
test_create_refusals (void)
{
  scratch_init ();
  const char *path = scratch_path ("new.vhd");
  const char *bad_option[] = { "no_such_option=1", NULL };
  VhdkitCreateOptions options = { .struct_size = sizeof options, .format = "vhd", .bytes = MIB };

  options.format = NULL;
  expect_create (path, &options, VHDKIT_ERROR_NOT_FOUND);
  options.format = "nothing";
  expect_create (path, &options, VHDKIT_ERROR_NOT_FOUND);
  options.format = "file"; /* a protocol */
  expect_create (path, &options, VHDKIT_ERROR_NOT_FOUND);
  options.format = "raw";
  options.parent = "base.raw";
  expect_create (path, &options, VHDKIT_ERROR_UNSUPPORTED);
  options.format = "vhd";
  options.parent = NULL;
  options.bytes = -1;
  expect_create (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.bytes = -2;
  expect_create (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.bytes = MIB;
  options.parent_flags = VHDKIT_OPEN_RDWR;
  expect_create (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.parent_flags = 1u << 30;
  expect_create (path, &options, VHDKIT_ERROR_UNSUPPORTED);
  options.parent_flags = 0;
  options.format_options = bad_option;
  expect_create (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.format_options = NULL;
  options.struct_size = 0;
  expect_create (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
  scratch_clear ();
}

/* A file that was made for nothing goes; one that was there stays. */
static void
test_create_failure_cleans_up (void)
{
  scratch_init ();
  const char *path = scratch_path ("new.vhd");
  VhdkitCreateOptions options = { .struct_size = sizeof options,
                                  .format = "vhd",
                                  .bytes = INT64_C (1) << 60 };
  g_autoptr (GError) error = NULL;

  g_assert_false (vhdkit_image_create (NULL, path, &options, &error));
  g_assert_nonnull (error);
  g_test_message ("%s", error->message);
  g_assert_false (g_file_test (path, G_FILE_TEST_EXISTS));

  g_clear_error (&error);
  g_assert_true (g_file_set_contents (path, "something", -1, NULL));
  g_assert_false (vhdkit_image_create (NULL, path, &options, &error));
  g_assert_true (g_file_test (path, G_FILE_TEST_EXISTS));
  scratch_clear ();
}

static void
test_create_relative_parent (void)
{
  scratch_init ();
  const char *base = scratch_path ("base.vhd");
  const char *child = scratch_path ("child.vhd");

  create_image (base, "vhd", 8 * MIB, 0, NULL);
  create_image (child, "vhd", -1, 0, "base.vhd"); /* beside the child, wherever we are */
  VhdkitImage *image = open_image (child, 0);
  g_assert_cmpint (vhdkit_image_get_size (image), ==, 8 * MIB);
  g_assert_cmpint (vhdkit_image_get_depth (image), ==, 2);
  g_assert_true (vhdkit_image_is_read_only (image));
  close_image (image);
  scratch_clear ();
}

static void
test_create_over_ancestor (void)
{
  scratch_init ();
  const char *base = scratch_path ("base.vhd");
  const char *middle = scratch_path ("middle.vhd");
  const char *link_name = scratch_path ("link.vhd");
  struct stat before, after;
  VhdkitCreateOptions options = {
    .struct_size = sizeof options, .format = "vhd", .bytes = -1, .parent = "middle.vhd"
  };

  create_image (base, "vhd", 8 * MIB, 0, NULL);
  create_image (middle, "vhd", -1, 0, "base.vhd");
  g_assert_cmpint (link (base, link_name), ==, 0);
  g_assert_cmpint (stat (base, &before), ==, 0);
  expect_create (middle, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_create (base, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  expect_create (link_name, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_assert_cmpint (stat (base, &after), ==, 0);
  g_assert_cmpint (before.st_size, ==, after.st_size);
  scratch_clear ();
}

static void
expect_open (const char *path, const VhdkitOpenOptions *options, VhdkitError code)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (vhdkit_image_open (NULL, path, options, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
  g_test_message ("%s", error->message);
}

static void
test_open_refusals (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.raw");
  VhdkitOpenOptions options = { .struct_size = sizeof options };

  expect_open (path, &options, VHDKIT_ERROR_NOT_FOUND);
  expect_open (path, NULL, VHDKIT_ERROR_NOT_FOUND);
  create_image (path, "raw", MIB, 0, NULL);
  options.flags = VHDKIT_OPEN_RDWR | VHDKIT_OPEN_FORCE_SHARE;
  expect_open (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.flags = 1u << 20;
  expect_open (path, &options, VHDKIT_ERROR_UNSUPPORTED);
  options.flags = 0;
  options.cache = (VhdkitCacheMode)77;
  expect_open (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  options.cache = VHDKIT_CACHE_WRITEBACK;
  options.aio = "posix";
  expect_open (path, &options, VHDKIT_ERROR_INVALID_ARGUMENT);
  scratch_clear ();
}

/* A member that fell into padding would be read from what an older caller left there. */
#define MEMBER(type, member) sizeof (((type *)NULL)->member)
#define M(member)            MEMBER (T, member)
#define T                    VhdkitOpenOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (flags) + M (cache) + M (aio) + M (format) + M (format_options)
                        + M (parent) + M (parent_format) + M (confine) + M (drive_map) + M (filters));
#undef T
#define T VhdkitCreateOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (format) + M (bytes) + M (format_options) + M (parent)
                        + M (parent_format) + M (parent_flags) + M (incomplete) + M (break_children)
                        + M (ignore_unknown) + M (reserved) + M (confine) + M (drive_map));
#undef T
#define T VhdkitCommitOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (source_layer) + M (target_layer) + M (parallel) + M (reflink)
                        + M (relink) + M (delete_sources) + M (rename_target) + M (shrink_target)
                        + M (skip_identical) + M (break_siblings) + M (ignore_unknown) + M (reserved));
#undef T
#define T VhdkitCompactOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (parallel) + M (mode) + M (no_zero_scan) + M (no_block_moves)
                        + M (dry_run) + M (punch_blocks) + M (break_children) + M (ignore_unknown)
                        + M (reserved));
#undef T
#define T VhdkitConvertOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (parallel) + M (in_order) + M (target_is_zero)
                        + M (above_target_parent) + M (copy_range) + M (sparse_bytes) + M (break_children)
                        + M (ignore_unknown) + M (reserved));
#undef T
#define T VhdkitCompareOptions
G_STATIC_ASSERT (sizeof (T) == M (struct_size) + M (strict) + M (reserved));
#undef T
#define T VhdkitRebaseOptions
G_STATIC_ASSERT (sizeof (T)
                 == M (struct_size) + M (unsafe) + M (ignore_id_mismatch) + M (reserved) + M (parallel));
#undef T

/* What is in the place of a member that this version does not have. */
static void
test_reserved (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  VhdkitCompactOptions compact = { .struct_size = sizeof compact, .reserved = { [1] = true } };
  VhdkitCreateOptions create = {
    .struct_size = sizeof create, .format = "vhd", .bytes = MIB, .reserved = { true }
  };
  g_autoptr (GError) error = NULL;

  g_assert_false (vhdkit_image_create (NULL, path, &create, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
  g_assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
  g_clear_error (&error);
  create_image (path, "vhd", MIB, 0, NULL);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  g_assert_null (vhdkit_compact_new (image, &compact, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
  close_image (image);
  scratch_clear ();
}

/* Option structs of older and newer callers. */
static void
test_struct_sizes (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.raw");
  struct
  {
    VhdkitOpenOptions known;
    uint64_t unknown[2];
  } newer = { .known.struct_size = sizeof newer };
  VhdkitOpenOptions older = { .struct_size = offsetof (VhdkitOpenOptions, cache), .flags = VHDKIT_OPEN_RDWR };
  g_autoptr (GError) error = NULL;

  create_image (path, "raw", MIB, 0, NULL);
  older.cache = (VhdkitCacheMode)77; /* behind what that caller knew */
  VhdkitImage *image = vhdkit_image_open (NULL, path, &older, &error);
  g_assert_no_error (error);
  g_assert_false (vhdkit_image_is_read_only (image));
  close_image (image);

  image = vhdkit_image_open (NULL, path, &newer.known, &error);
  g_assert_no_error (error);
  close_image (image);
  newer.unknown[1] = 1;
  expect_open (path, &newer.known, VHDKIT_ERROR_UNSUPPORTED);
  scratch_clear ();
}

static void
test_layers (void)
{
  scratch_init ();
  const char *base = scratch_path ("base.raw");
  const char *middle = scratch_path ("middle.vhd");
  const char *leaf = scratch_path ("leaf.vhd");
  const char *link_name = scratch_path ("link.raw");
  g_autoptr (GError) error = NULL;
  VhdkitLayerInfo info;

  create_image (base, "raw", 8 * MIB, 0, NULL);
  create_image (middle, "vhd", -1, 0, "base.raw");
  create_image (leaf, "vhd", -1, 512 * KIB, "middle.vhd");
  g_assert_cmpint (symlink (base, link_name), ==, 0);

  VhdkitImage *image = open_image (leaf, 0);
  g_assert_cmpint (vhdkit_image_get_depth (image), ==, 3);
  g_assert_cmpint (vhdkit_image_find_layer (image, leaf), ==, 0);
  g_assert_cmpint (vhdkit_image_find_layer (image, middle), ==, 1);
  g_assert_cmpint (vhdkit_image_find_layer (image, base), ==, 2);
  g_assert_cmpint (vhdkit_image_find_layer (image, link_name), ==, 2);
  g_assert_cmpint (vhdkit_image_find_layer (image, scratch_path ("none")), ==, -1);

  g_assert_true (vhdkit_image_get_layer_info (image, 0, &info, &error));
  g_assert_no_error (error);
  g_assert_cmpstr (info.filename, ==, leaf);
  g_assert_cmpstr (info.format, ==, "vhd");
  g_assert_nonnull (info.parent_name);
  g_assert_nonnull (info.parent_filename);
  g_assert_cmpstr (info.parent_format, ==, "vhd");
  g_assert_cmpint (info.virtual_size, ==, 8 * MIB);
  g_assert_cmpint (info.block_size, ==, 512 * KIB);
  g_assert_cmpint (info.file_size, >, 0);
  g_assert_nonnull (info.format_specific);
  vhdkit_layer_info_clear (&info);

  g_assert_true (vhdkit_image_get_layer_info (image, 2, &info, &error));
  g_assert_cmpstr (info.format, ==, "raw");
  g_assert_null (info.parent_name);
  g_assert_cmpint (info.file_size, ==, 8 * MIB);
  vhdkit_layer_info_clear (&info);

  g_assert_false (vhdkit_image_get_layer_info (image, 3, &info, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND);
  g_clear_error (&error);
  g_assert_false (vhdkit_image_get_layer_info (image, -1, &info, NULL));
  close_image (image);
  scratch_clear ();
}

static void
test_warnings (void)
{
  scratch_init ();
  const char *path = scratch_path ("image.vhd");
  g_auto (GStrv) lines = NULL;
  g_auto (GStrv) none = NULL;

  create_image (path, "vhd", 8 * MIB, 0, NULL);
  g_assert_true (g_file_set_contents (scratch_path ("image.vhd.rct"), "changes", -1, NULL));
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  lines = vhdkit_image_get_warnings (image, 0);
  g_assert_cmpuint (g_strv_length (lines), ==, 1);
  g_assert_nonnull (strstr (lines[0], path));
  g_assert_nonnull (strstr (lines[0], "image.vhd.rct"));
  none = vhdkit_image_get_warnings (image, 1);
  g_assert_cmpuint (g_strv_length (none), ==, 0);
  close_image (image);
  scratch_clear ();
}

static void
test_extents (void)
{
  scratch_init ();
  const char *base = scratch_path ("base.vhd");
  const char *leaf = scratch_path ("leaf.vhd");
  VhdkitExtent extent;

  create_image (base, "vhd", 8 * MIB, 0, NULL);
  VhdkitImage *image = open_image (base, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, MIB, 1);
  close_image (image);
  create_image (leaf, "vhd", -1, 0, "base.vhd");
  image = open_image (leaf, VHDKIT_OPEN_RDWR);
  write_byte (image, 64 * KIB, 64 * KIB, 2);
  close_image (image);

  image = open_image (leaf, 0);
  g_assert_cmpint (vhdkit_image_get_extent (image, 64 * KIB, 8 * MIB, &extent), ==, 0);
  g_assert_true (extent.data && extent.present && !extent.zero && extent.has_file_offset);
  g_assert_cmpint (extent.depth, ==, 0);
  g_assert_cmpint (extent.bytes, ==, 64 * KIB);
  g_assert_cmpstr (extent.filename, ==, leaf);
  g_assert_cmpint (vhdkit_image_get_extent (image, 0, 4 * KIB, &extent), ==, 0);
  g_assert_true (extent.data && extent.present);
  g_assert_cmpint (extent.depth, ==, 1);
  g_assert_cmpint (extent.bytes, ==, 4 * KIB);
  g_assert_cmpint (vhdkit_image_get_extent (image, 4 * MIB, 100 * MIB, &extent), ==, 0);
  g_assert_true (extent.zero && !extent.data);
  g_assert_cmpint (vhdkit_image_get_extent (image, 8 * MIB, 1, &extent), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_get_extent (image, -1, 1, &extent), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_get_extent (image, 0, 0, &extent), ==, -EINVAL);
  close_image (image);
  scratch_clear ();
}

static void
test_truncate (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  g_autoptr (GError) error = NULL;

  create_image (path, "vhd", 4 * MIB, 0, NULL);
  VhdkitImage *image = open_image (path, 0);
  g_assert_false (vhdkit_image_truncate (image, 8 * MIB, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_READ_ONLY);
  g_clear_error (&error);
  close_image (image);

  image = open_image (path, VHDKIT_OPEN_RDWR);
  g_assert_false (vhdkit_image_truncate (image, -1, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_clear_error (&error);
  g_assert_true (vhdkit_image_truncate (image, 8 * MIB, &error));
  g_assert_no_error (error);
  g_assert_cmpint (vhdkit_image_get_size (image), ==, 8 * MIB);
  close_image (image);
  scratch_clear ();
}

static void
test_check (void)
{
  scratch_init ();
  const char *raw = scratch_path ("a.raw");
  const char *vhd = scratch_path ("a.vhd");
  g_autoptr (GError) error = NULL;
  VhdkitCheckResult result;

  create_image (raw, "raw", MIB, 0, NULL);
  VhdkitImage *image = open_image (raw, VHDKIT_OPEN_CHECK);
  g_assert_false (vhdkit_image_check (image, false, &result, NULL, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED);
  g_clear_error (&error);
  close_image (image);

  create_image (vhd, "vhd", 4 * MIB, 0, NULL);
  assert_checks_clean (vhd);
  image = open_image (vhd, VHDKIT_OPEN_CHECK);
  g_assert_false (vhdkit_image_check (image, true, &result, NULL, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_READ_ONLY);
  close_image (image);
  scratch_clear ();
}

static void
test_formats (void)
{
  const VhdkitFormatInfo *const *formats = vhdkit_list_formats ();
  const VhdkitFormatInfo *raw = vhdkit_find_format ("raw"), *vhd = vhdkit_find_format ("vhd");

  g_assert_nonnull (raw);
  g_assert_nonnull (vhd);
  g_assert_true (vhdkit_find_format ("vpc") == vhd);
  g_assert_null (vhdkit_find_format ("file"));
  g_assert_null (vhdkit_find_format ("nothing"));
  g_assert_true (vhd->can_create && vhd->can_have_parent);
  g_assert_true (raw->can_create && !raw->can_have_parent);
  g_assert_nonnull (vhd->create_options[0].name);
  g_assert_nonnull (vhd->create_options[0].type);
  g_assert_true (vhdkit_list_formats () == formats);
  for (int i = 0; formats[i] != NULL; i++)
    g_assert_true (vhdkit_find_format (formats[i]->name) == formats[i]);
}

static gpointer
use_own_context (gpointer path)
{
  VhdkitImage *image = open_image (path, 0);
  uint8_t byte;

  g_assert_cmpint (vhdkit_image_pread (image, &byte, 0, 1), ==, 0);
  close_image (image);
  return NULL;
}

/* Every thread has a default context of its own. */
static void
test_thread_contexts (void)
{
  GThread *threads[4];

  scratch_init ();
  const char *path = scratch_path ("a.raw");
  create_image (path, "raw", MIB, 0, NULL);
  for (size_t i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("image", use_own_context, (gpointer)path);
  for (size_t i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/api-image/create/refusals", test_create_refusals);
  g_test_add_func ("/api-image/create/failure-cleans-up", test_create_failure_cleans_up);
  g_test_add_func ("/api-image/create/relative-parent", test_create_relative_parent);
  g_test_add_func ("/api-image/create/over-ancestor", test_create_over_ancestor);
  g_test_add_func ("/api-image/open/refusals", test_open_refusals);
  g_test_add_func ("/api-image/struct-sizes", test_struct_sizes);
  g_test_add_func ("/api-image/reserved", test_reserved);
  g_test_add_func ("/api-image/layers", test_layers);
  g_test_add_func ("/api-image/warnings", test_warnings);
  g_test_add_func ("/api-image/extents", test_extents);
  g_test_add_func ("/api-image/truncate", test_truncate);
  g_test_add_func ("/api-image/check", test_check);
  g_test_add_func ("/api-image/formats", test_formats);
  g_test_add_func ("/api-image/thread-contexts", test_thread_contexts);
  return g_test_run ();
}
