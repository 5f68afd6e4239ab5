/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images opened to be read, then to be written (a log is replayed, an interrupted change finished), closed and opened
 * again.  The leaf is file 0.
 *
 * Asserted: what the image shows is the same each time, whether the log was replayed in memory or onto the file; an
 * image that cannot be opened for writing has not been changed, but for the log's replay; what was open for writing can be
 * opened again, and a check finds no error in it.
 *
 * The script: a byte, 1: the log is cleared where it has no entry.
 */
#include "fuzz.h"

#include <string.h>

/* Of the disk's two ends, and in between as far as there is data. */
#define VIEW_BYTES  (512 << 10)
#define MAX_EXTENTS 64
#define PIECE       (8 << 10)

typedef struct
{
  int64_t bytes;
  GByteArray *data; /* what was read, at the same places each time */
  GArray *places;   /* of int64_t */
  bool failed;      /* something cannot be read */
} View;

static void
view_clear (View *view)
{
  g_clear_pointer (&view->data, g_byte_array_unref);
  g_clear_pointer (&view->places, g_array_unref);
}

/* Of an image that bears the marks of both formats, the one whose log is cleared is meant throughout. */
static const char *format;

static VhdkitImage *
open_image (unsigned flags, bool clear_log, GError **error)
{
  static const char *const clear_log_options[] = { "clear_log=on", NULL };
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = flags | VHDKIT_OPEN_NO_PARENTS,
                                .filters = fuzz_filters,
                                .format = format,
                                .format_options = clear_log ? clear_log_options : NULL };

  return vhdkit_image_open (fuzz_context (), fuzz_path (0), &options, error);
}

static void
add_place (View *view, int64_t offset)
{
  if (offset >= 0 && offset < view->bytes)
    g_array_append_val (view->places, offset);
}

static void
choose_places (VhdkitImage *image, View *view)
{
  VhdkitExtent extent;
  int64_t at = 0;

  add_place (view, 0);
  add_place (view, MAX (0, view->bytes - PIECE));
  for (int i = 0; i < MAX_EXTENTS && at < view->bytes; i++, at += extent.bytes)
    {
      if (vhdkit_image_get_extent (image, at, view->bytes - at, &extent) < 0)
        return;
      add_place (view, at);
      add_place (view, at + extent.bytes - MIN (extent.bytes, PIECE));
    }
}

static void
read_view (VhdkitImage *image, View *view)
{
  view->bytes = vhdkit_image_get_size (image);
  if (!view->places)
    {
      view->places = g_array_new (FALSE, FALSE, sizeof (int64_t));
      choose_places (image, view);
    }
  view->data = g_byte_array_sized_new (VIEW_BYTES + PIECE);
  for (guint i = 0; i < view->places->len && view->data->len < VIEW_BYTES; i++)
    {
      int64_t offset = g_array_index (view->places, int64_t, i), bytes = MIN (PIECE, view->bytes - offset);
      guint at = view->data->len;

      if (bytes <= 0)
        continue;
      g_byte_array_set_size (view->data, at + (guint)bytes);
      if (vhdkit_image_pread (image, view->data->data + at, offset, bytes) < 0)
        {
          memset (view->data->data + at, 0xee, bytes);
          view->failed = true;
        }
    }
}

static void
assert_same_view (const View *before, VhdkitImage *image)
{
  View after = { .places = g_array_ref (before->places) };

  read_view (image, &after);
  g_assert_cmpint (after.bytes, ==, before->bytes);
  if (!before->failed)
    {
      g_assert_false (after.failed);
      g_assert_cmpmem (after.data->data, after.data->len, before->data->data, before->data->len);
    }
  view_clear (&after);
}

static void
tell_finding (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  if (severity == VHDKIT_CHECK_ERROR)
    g_printerr ("check: %s\n", text);
}

static void
assert_sound (void)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = open_image (VHDKIT_OPEN_CHECK, false, &error);
  VhdkitCheckResult result;

  g_assert_no_error (error);
  if (vhdkit_image_check (image, false, &result, tell_finding, NULL, &error))
    g_assert_cmpint (result.corruptions, ==, 0);
  else
    g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED); /* raw */
  g_clear_error (&error);
  g_assert_true (vhdkit_image_close (image, &error));
}

static void
close_ok (VhdkitImage *image)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (image, &error);
  g_assert_no_error (error);
}

static void
write_and_look_again (const View *before, bool clear_log, const Content *original)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image;

  fuzz_store_set_writable (true);
  image = open_image (VHDKIT_OPEN_RDWR, clear_log, &error);
  if (!image)
    {
      const Content *now = fuzz_store_get (0);

      /* Not for what replay has done: a log that is replayed is no change. */
      if (content_length (now) != content_length (original) || content_compare (now, original) >= 0)
        {
          fuzz_store_set_writable (false);
          image = open_image (0, false, NULL);
          g_assert_nonnull (image);
          if (before->data)
            assert_same_view (before, image);
          close_ok (image);
        }
      return;
    }
  if (before->data)
    assert_same_view (before, image);
  close_ok (image);
  fuzz_store_set_writable (false);

  image = open_image (0, false, &error);
  g_assert_no_error (error);
  if (before->data)
    assert_same_view (before, image);
  close_ok (image);
  assert_sound ();
}

static void
run (const uint8_t *script, size_t bytes)
{
  FuzzReader reader = { script, script + bytes };
  bool clear_log = fuzz_u8 (&reader) & 1;
  View before = { 0 };
  Content *original = content_new ();

  format = clear_log ? "vhdx" : NULL;
  VhdkitImage *image = open_image (0, false, NULL);

  if (image)
    {
      read_view (image, &before);
      close_ok (image);
    }
  content_copy (original, fuzz_store_get (0));
  write_and_look_again (&before, clear_log, original);
  content_free (original);
  view_clear (&before);
}

const FuzzTarget fuzz_target = {
  .name = "replay",
  .max_file_bytes = 64 << 20,
  .max_requests = 200000,
  .max_bytes = INT64_C (1) << 30,
  .run = run,
};
