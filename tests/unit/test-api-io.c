/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest I/O through the public API: ranges, cache modes, asynchronous calls, event loops. */
#include "test-api-util.h"

#include <errno.h>
#include <poll.h>

static void
test_ranges (void)
{
  scratch_init ();
  const char *path = scratch_path ("a.raw");
  uint8_t buf[4096] = { 0 };

  create_image (path, "raw", 64 * KIB, 0, NULL);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  g_assert_cmpint (vhdkit_image_pread (image, buf, 64 * KIB - 10, 11), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pread (image, buf, -1, 1), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pread (image, buf, 0, -1), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pread (image, buf, INT64_MAX, 1), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pread (image, buf, 64 * KIB, 0), ==, 0);
  g_assert_cmpint (vhdkit_image_pwrite (image, buf, 64 * KIB, 1), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, 1, INT64_MAX, true), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_discard (image, 64 * KIB, 512), ==, -EINVAL);
  g_assert_cmpint (vhdkit_image_pwrite (image, "abc", 7, 3), ==, 0);
  g_assert_cmpint (vhdkit_image_pread (image, buf, 6, 5), ==, 0);
  g_assert_cmpmem (buf, 5, "\0abc\0", 5);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, 8, 1, false), ==, 0);
  g_assert_cmpint (vhdkit_image_pread (image, buf, 6, 5), ==, 0);
  g_assert_cmpmem (buf, 5, "\0a\0c\0", 5);
  g_assert_cmpint (vhdkit_image_flush (image), ==, 0);
  close_image (image);

  image = open_image (path, 0);
  g_assert_cmpint (vhdkit_image_pwrite (image, buf, 0, 1), ==, -EACCES);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, 0, 1, true), ==, -EACCES);
  g_assert_cmpint (vhdkit_image_discard (image, 0, 512), ==, -EACCES);
  g_assert_cmpint (vhdkit_image_flush (image), ==, 0);
  close_image (image);
  scratch_clear ();
}

static void
test_cache_mode (gconstpointer data)
{
  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  g_autoptr (GError) error = NULL;
  VhdkitOpenOptions options = {
    .struct_size = sizeof options,
    .flags = VHDKIT_OPEN_RDWR,
    .cache = (VhdkitCacheMode)GPOINTER_TO_INT (data),
  };

  create_image (path, "vhd", 8 * MIB, 0, NULL);
  VhdkitImage *image = vhdkit_image_open (NULL, path, &options, &error);
  if (image == NULL)
    {
      /* Not every file system has O_DIRECT. */
      g_assert_true (options.cache == VHDKIT_CACHE_NONE || options.cache == VHDKIT_CACHE_DIRECTSYNC);
      g_test_skip (error->message);
      scratch_clear ();
      return;
    }
  write_byte (image, 1000, 3 * MIB, 5);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, 2000, 5000, true), ==, 0);
  g_assert_cmpint (vhdkit_image_discard (image, 4 * MIB, MIB), ==, 0);
  g_assert_cmpint (vhdkit_image_flush (image), ==, 0);
  close_image (image);

  g_autofree uint8_t *view = read_file_view (path);
  for (int i = 0; i < 8 * MIB; i++)
    g_assert_cmpint (view[i], ==, i >= 1000 && i < 1000 + 3 * MIB && (i < 2000 || i >= 7000) ? 5 : 0);
  scratch_clear ();
}

/* --- asynchronous -------------------------------------------------------------------------------------- */

typedef struct
{
  VhdkitImage *image;
  int pending;
  int finished;
  int ret;
  bool nested; /* make a synchronous call from the callback */
} AsyncState;

static void
on_done (void *opaque, int ret)
{
  AsyncState *state = opaque;

  state->pending--;
  state->finished++;
  if (ret < 0)
    state->ret = ret;
  if (state->nested)
    {
      uint8_t byte;
      g_assert_cmpint (vhdkit_image_pread (state->image, &byte, 0, 1), ==, 0);
    }
}

static void
test_async (gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  VhdkitContext *context = vhdkit_context_new (&error);
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  g_assert_no_error (error);
  create_image (path, "vhd", 16 * MIB, 0, NULL);
  VhdkitImage *image = vhdkit_image_open (context, path, &options, &error);
  g_assert_no_error (error);

  AsyncState state = { .image = image, .nested = GPOINTER_TO_INT (data) };
  static uint8_t blocks[64][4096], got[64][4096];
  struct iovec iov[64][2];
  for (int i = 0; i < 64; i++)
    {
      memset (blocks[i], i + 1, sizeof blocks[i]);
      iov[i][0] = (struct iovec){ blocks[i], 1000 };
      iov[i][1] = (struct iovec){ blocks[i] + 1000, sizeof blocks[i] - 1000 };
      state.pending++;
      vhdkit_image_aio_pwritev (image, iov[i], 2, i * 128 * KIB, on_done, &state);
      /* Never before the call returns. */
      g_assert_cmpint (state.finished, ==, 0);
    }
  while (state.pending > 0)
    vhdkit_context_iterate (context, true);
  g_assert_cmpint (state.finished, ==, 64);
  g_assert_cmpint (state.ret, ==, 0);

  state.pending = 3;
  vhdkit_image_aio_flush (image, on_done, &state);
  vhdkit_image_aio_pwrite_zeroes (image, 128 * KIB, 512, true, on_done, &state);
  vhdkit_image_aio_discard (image, 15 * MIB, MIB, on_done, &state);
  while (state.pending > 0)
    vhdkit_context_iterate (context, true);
  g_assert_cmpint (state.ret, ==, 0);

  for (int i = 0; i < 64; i++)
    {
      iov[i][0] = (struct iovec){ got[i], sizeof got[i] };
      state.pending++;
      vhdkit_image_aio_preadv (image, iov[i], 1, i * 128 * KIB, on_done, &state);
    }
  while (state.pending > 0)
    vhdkit_context_iterate (context, true);
  g_assert_cmpint (state.ret, ==, 0);
  memset (blocks[1], 0, 512);
  g_assert_cmpmem (blocks, sizeof blocks, got, sizeof got);

  state.pending = 1;
  vhdkit_image_aio_preadv (image, iov[0], 1, 16 * MIB - 10, on_done, &state);
  g_assert_cmpint (state.pending, ==, 1);
  while (state.pending > 0)
    vhdkit_context_iterate (context, true);
  g_assert_cmpint (state.ret, ==, -EINVAL);
  close_image (image);
  vhdkit_context_free (context);
  scratch_clear ();
}

/* Lengths that add up to more than a size can say are no request for the few bytes that would be left of them. */
static void
test_vector_overflow (void)
{
  VhdkitContext *context = vhdkit_context_new (NULL);
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };
  uint8_t buf[1024] = { 1 };
  struct iovec iov[2] = { { buf, SIZE_MAX }, { buf, 513 } };

  scratch_init ();
  const char *path = scratch_path ("a.raw");
  create_image (path, "raw", MIB, 0, NULL);
  VhdkitImage *image = vhdkit_image_open (context, path, &options, NULL);
  g_assert_nonnull (image);
  for (int write = 0; write < 2; write++)
    {
      AsyncState state = { .image = image, .pending = 1 };

      (write ? vhdkit_image_aio_pwritev : vhdkit_image_aio_preadv) (image, iov, 2, 0, on_done, &state);
      while (state.pending > 0)
        vhdkit_context_iterate (context, true);
      g_assert_cmpint (state.ret, ==, -EINVAL);
    }
  g_assert_cmpint (vhdkit_image_pread (image, buf, 0, 1), ==, 0);
  g_assert_cmpint (buf[0], ==, 0);
  close_image (image);
  vhdkit_context_free (context);
  scratch_clear ();
}

/* A callback that drives the loop itself sees the callbacks that wait behind it. */
typedef struct
{
  VhdkitContext *context;
  int finished;
} NestedState;

static void
on_first (void *opaque, int ret)
{
  NestedState *state = opaque;

  state->finished++;
  while (state->finished < 4)
    vhdkit_context_iterate (state->context, true);
}

static void
on_other (void *opaque, int ret)
{
  ((NestedState *)opaque)->finished++;
}

static void
test_nested_iteration (void)
{
  VhdkitContext *context = vhdkit_context_new (NULL);
  NestedState state = { .context = context };

  scratch_init ();
  const char *path = scratch_path ("a.raw");
  create_image (path, "raw", MIB, 0, NULL);
  VhdkitImage *image = vhdkit_image_open (context, path, NULL, NULL);
  g_assert_nonnull (image);
  vhdkit_image_aio_flush (image, on_first, &state);
  for (int i = 0; i < 3; i++)
    vhdkit_image_aio_flush (image, on_other, &state);
  while (state.finished < 4)
    vhdkit_context_iterate (context, true);
  close_image (image);
  vhdkit_context_free (context);
  scratch_clear ();
}

static gboolean
on_timeout (gpointer data)
{
  g_assert_not_reached ();
  return G_SOURCE_REMOVE;
}

/* The context as a source of a GLib loop, and as a descriptor. */
static void
test_loops (void)
{
  VhdkitContext *context = vhdkit_context_new (NULL);
  static uint8_t buf[65536];
  struct iovec iov = { buf, sizeof buf };

  scratch_init ();
  const char *path = scratch_path ("a.raw");
  create_image (path, "raw", MIB, 0, NULL);
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };
  VhdkitImage *image = vhdkit_image_open (context, path, &options, NULL);
  g_assert_nonnull (image);
  AsyncState state = { .image = image };

  for (int i = 0; i < 10; i++)
    {
      struct pollfd fd = { .fd = vhdkit_context_get_fd (context), .events = POLLIN };

      state.pending = 1;
      vhdkit_image_aio_pwritev (image, &iov, 1, 0, on_done, &state);
      while (state.pending > 0)
        {
          g_assert_cmpint (poll (&fd, 1, 10000), ==, 1);
          vhdkit_context_iterate (context, false);
        }
    }

  g_source_attach (vhdkit_context_get_source (context), NULL);
  guint timeout = g_timeout_add_seconds (20, on_timeout, NULL);
  for (int i = 0; i < 10; i++)
    {
      state.pending = 2;
      vhdkit_image_aio_pwritev (image, &iov, 1, 0, on_done, &state);
      vhdkit_image_aio_flush (image, on_done, &state);
      while (state.pending > 0)
        g_main_context_iteration (NULL, TRUE);
    }
  g_assert_cmpint (state.ret, ==, 0);
  g_source_remove (timeout);
  g_source_destroy (vhdkit_context_get_source (context));
  close_image (image);
  vhdkit_context_free (context);
  scratch_clear ();
}

/* What a parent shows that is not open, nobody knows: zeros are stored, and nothing grows over it unseen. */
static void
test_without_parents (gconstpointer format)
{
  scratch_init ();
  const char *base = scratch_path ("base"), *child = scratch_path ("child");
  create_image (base, format, 8 * MIB, MIB, NULL);
  VhdkitImage *image = open_image (base, VHDKIT_OPEN_RDWR);
  write_byte (image, 0, 8 * MIB, 0x5A);
  close_image (image);
  create_image (child, format, 6 * MIB, MIB, base);

  image = open_image (child, VHDKIT_OPEN_RDWR | VHDKIT_OPEN_NO_PARENTS);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, 0, 4 * KIB, false), ==, 0);
  g_assert_cmpint (vhdkit_image_pwrite_zeroes (image, MIB, MIB, true), ==, 0);
  bool grown = vhdkit_image_truncate (image, 8 * MIB, NULL);
  close_image (image);

  g_autofree uint8_t *view = read_file_view (child);
  int64_t end = grown ? 8 * MIB : 6 * MIB;
  for (int64_t i = 0; i < end; i++)
    {
      bool zero = i < 4 * KIB || (i >= MIB && i < 2 * MIB) || i >= 6 * MIB;
      g_assert_cmpint (view[i], ==, zero ? 0 : 0x5A);
    }
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/api-io/ranges", test_ranges);
  g_test_add_data_func ("/api-io/cache/writeback", GINT_TO_POINTER (VHDKIT_CACHE_WRITEBACK), test_cache_mode);
  g_test_add_data_func ("/api-io/cache/none", GINT_TO_POINTER (VHDKIT_CACHE_NONE), test_cache_mode);
  g_test_add_data_func ("/api-io/cache/writethrough", GINT_TO_POINTER (VHDKIT_CACHE_WRITETHROUGH),
                        test_cache_mode);
  g_test_add_data_func ("/api-io/cache/directsync", GINT_TO_POINTER (VHDKIT_CACHE_DIRECTSYNC),
                        test_cache_mode);
  g_test_add_data_func ("/api-io/cache/unsafe", GINT_TO_POINTER (VHDKIT_CACHE_UNSAFE), test_cache_mode);
  g_test_add_data_func ("/api-io/async/plain", GINT_TO_POINTER (false), test_async);
  g_test_add_data_func ("/api-io/async/nested-sync", GINT_TO_POINTER (true), test_async);
  g_test_add_func ("/api-io/async/vector-overflow", test_vector_overflow);
  g_test_add_func ("/api-io/nested-iteration", test_nested_iteration);
  g_test_add_func ("/api-io/loops", test_loops);
  g_test_add_data_func ("/api-io/vhd/without-parents", "vhd", test_without_parents);
  g_test_add_data_func ("/api-io/vhdx/without-parents", "vhdx", test_without_parents);
  return g_test_run ();
}
