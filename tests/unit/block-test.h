/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For tests of drivers: single nodes, opened with options, in a coroutine of a context of their own. */
#ifndef BLOCK_TEST_H
#define BLOCK_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "core-int.h"

typedef void coroutine_fn TestFunc (void);

typedef struct
{
  TestFunc *func;
  bool done;
} TestRun;

static void coroutine_fn
test_run_entry (void *opaque)
{
  TestRun *run = opaque;

  run->func ();
  run->done = true;
}

static void
test_run (const void *data)
{
  TestRun run = { .func = *(TestFunc *const *)data };
  AioContext *ctx = aio_context_new (NULL);

  g_assert_nonnull (ctx);
  aio_context_push (ctx);
  coroutine_enter (coroutine_new (test_run_entry, &run));
  while (!run.done)
    aio_poll (ctx, true);
  aio_context_pop (ctx);
  aio_context_unref (ctx);
}

#define TEST_ADD(path, function)                                                                             \
  do                                                                                                         \
    {                                                                                                        \
      static TestFunc *const test_function = function;                                                       \
      g_test_add_data_func (path, &test_function, test_run);                                                 \
    }                                                                                                        \
  while (0)

/* @options: "name=value,…" or NULL.  Takes the reference to @file, even on failure. */
static inline BlockDriverState *coroutine_fn
test_open (const char *driver, const char *path, int flags, const char *options, BlockDriverState *file,
           GError **error)
{
  const BlockDriver *drv = bdrv_find_driver (driver);
  g_auto (GStrv) words = options != NULL ? g_strsplit (options, ",", -1) : NULL;

  g_assert_nonnull (drv);

  g_autoptr (GError) parse_error = NULL;
  g_autoptr (BlockOptions) parsed =
      block_options_parse (drv->open_options, (const char *const *)words, &parse_error);

  g_assert_no_error (parse_error);

  BlockDriverState *bs = bdrv_node_new (drv, path, flags, file);

  return bdrv_co_node_open (bs, parsed, error) ? bs : NULL;
}

static inline BlockDriverState *coroutine_fn
test_open_ok (const char *driver, const char *path, int flags, const char *options)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = test_open (driver, path, flags, options, NULL, &error);

  g_assert_no_error (error);
  g_assert_nonnull (bs);
  return bs;
}

static inline void coroutine_fn
test_open_fails (const char *driver, const char *path, int flags, const char *options, VhdkitError code,
                 const char *part)
{
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = test_open (driver, path, flags, options, NULL, &error);

  g_assert_null (bs);
  g_assert_error (error, VHDKIT_ERROR, (int)code);
  g_assert_nonnull (strstr (error->message, path));
  if (strstr (error->message, part) == NULL)
    g_error ("'%s' expected in '%s'", part, error->message);
}

static inline void coroutine_fn
test_close (BlockDriverState *bs)
{
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

/* A directory for the life of a test, in VHDKIT_TEST_DIR or else on disk. */
static inline char *
test_dir_new (void)
{
  const char *parent = g_getenv ("VHDKIT_TEST_DIR");
  g_autofree char *template = g_build_filename (parent ? parent : "/var/tmp", "vhdkit-test-XXXXXX", NULL);

  if (g_mkdtemp (template) == NULL)
    return g_dir_make_tmp ("vhdkit-test-XXXXXX", NULL);
  return g_steal_pointer (&template);
}

static inline void
test_dir_free (char *dir)
{
  g_autoptr (GDir) list = g_dir_open (dir, 0, NULL);
  const char *name;

  g_assert_nonnull (list);
  while ((name = g_dir_read_name (list)) != NULL)
    {
      g_autofree char *path = g_build_filename (dir, name, NULL);

      if (g_remove (path) < 0)
        test_dir_free (g_strdup (path));
    }
  g_rmdir (dir);
  g_free (dir);
}

typedef char TestDir;
G_DEFINE_AUTOPTR_CLEANUP_FUNC (TestDir, test_dir_free)

/* A file of @bytes, all of them @byte; -1: a hole. */
static inline char *
test_file_new (const char *dir, const char *name, int64_t bytes, int byte)
{
  char *path = g_build_filename (dir, name, NULL);
  int fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

  g_assert_cmpint (fd, >=, 0);
  if (byte < 0)
    g_assert_cmpint (ftruncate (fd, bytes), ==, 0);
  else if (bytes > 0)
    {
      g_autofree char *data = g_malloc (bytes);

      memset (data, byte, bytes);
      g_assert_cmpint (write (fd, data, bytes), ==, bytes);
    }
  close (fd);
  return path;
}

static inline void coroutine_fn
test_write (BlockDriverState *bs, int64_t offset, int64_t bytes, int byte)
{
  g_autofree char *data = g_malloc (bytes);

  memset (data, byte, bytes);
  g_assert_cmpint (bdrv_co_pwrite (bs, offset, bytes, data, 0), ==, 0);
}

static inline void
test_assert_bytes (const uint8_t *data, int64_t bytes, int byte)
{
  for (int64_t i = 0; i < bytes; i++)
    if (data[i] != byte)
      g_error ("byte %" G_GINT64_FORMAT " is %#x, not %#x", i, data[i], byte);
}

static inline void coroutine_fn
test_assert_read (BlockDriverState *bs, int64_t offset, int64_t bytes, int byte)
{
  g_autofree uint8_t *data = g_malloc (bytes);

  memset (data, ~byte, bytes);
  g_assert_cmpint (bdrv_co_pread (bs, offset, bytes, data), ==, 0);
  test_assert_bytes (data, bytes, byte);
}

static inline int64_t
test_file_length (const char *path)
{
  struct stat st;

  g_assert_cmpint (stat (path, &st), ==, 0);
  return st.st_size;
}

#endif
