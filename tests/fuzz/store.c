/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of a run, and the filter driver that shows them. */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>
#include <vhdkit/driver.h>

#define SECTOR     512
#define READ_PIECE 65536
/* Those of inputs, and FUZZ_COPY. */
#define STORE_FILES (FUZZ_FILES + 1)

static struct
{
  char *dir;
  char *paths[STORE_FILES];
  pid_t owner;
  VhdkitContext *context;
  Content *files[STORE_FILES];
  GHashTable *seen[STORE_FILES]; /* sectors that were read; NULL: nobody watches */
  bool writable;
  int64_t requests, bytes; /* left */
} store;

typedef struct
{
  unsigned file;
} FuzzMem;

const char *const fuzz_filters[] = { "fuzzmem", NULL };

/* --- the driver ---------------------------------------------------------------------------------------- */

static Content *
content_of (BlockDriverState *bs)
{
  const FuzzMem *s = bs->opaque;

  return store.files[s->file];
}

/* The core asks the child how long the container is, which sees nothing of all this. */
static void
tell_child (BlockDriverState *bs)
{
  bs->file->bytes = content_length (content_of (bs));
}

static void
account (int64_t bytes)
{
  store.requests--;
  store.bytes -= bytes;
  if (store.requests < 0 || store.bytes < 0)
    g_error ("the run costs too much: %s", store.requests < 0 ? "requests" : "bytes");
}

static void
account_write (const BlockDriverState *bs, int64_t bytes)
{
  account (bytes);
  if (!store.writable || bs->read_only)
    g_error ("a write to what was opened to be read");
}

static bool coroutine_fn
fuzzmem_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  FuzzMem *s = bs->opaque;
  g_autofree char *name = g_path_get_basename (bs->file->drv->get_host_path (bs->file));

  s->file = (unsigned)(name[0] - '0') % STORE_FILES;
  bs->bytes = content_length (store.files[s->file]);
  tell_child (bs);
  bs->limits.request_alignment = 1;
  bs->limits.zeroes_alignment = 1;
  bs->limits.discard_alignment = 1;
  return true;
}

static bool coroutine_fn
fuzzmem_co_reopen_rw (BlockDriverState *bs, GError **error)
{
  return true;
}

static void
note_seen (unsigned file, int64_t offset, int64_t bytes)
{
  for (int64_t at = offset / SECTOR; store.seen[file] && at * SECTOR < offset + bytes; at++)
    g_hash_table_add (store.seen[file], GSIZE_TO_POINTER (at + 1));
}

static int coroutine_fn
fuzzmem_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                   size_t qiov_offset)
{
  const FuzzMem *s = bs->opaque;
  const Content *content = content_of (bs);
  int64_t end = offset + bytes, length = content_length (content), run;
  /* No search for the end of the data, and no memory: reads are what a run consists of. */
  static __thread uint8_t buffer[READ_PIECE];

  account (bytes);
  note_seen (s->file, offset, bytes);
  for (; offset < end; offset += run, qiov_offset += run)
    {
      if (offset >= length)
        {
          io_vector_memset (qiov, qiov_offset, 0, end - offset);
          break;
        }
      run = MIN (MIN (end, length) - offset, READ_PIECE);
      content_get (content, offset, run, buffer);
      io_vector_from_buf (qiov, qiov_offset, buffer, run);
    }
  return 0;
}

static int coroutine_fn
fuzzmem_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                    size_t qiov_offset)
{
  account_write (bs, bytes);
  if (offset + bytes > FUZZ_MAX_WRITTEN && offset + bytes > bs->bytes)
    return -ENOSPC;

  g_autofree uint8_t *buffer = g_malloc (bytes);

  io_vector_to_buf (qiov, qiov_offset, buffer, bytes);
  content_write (content_of (bs), offset, bytes, buffer);
  tell_child (bs);
  return 0;
}

static int coroutine_fn
fuzzmem_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  account_write (bs, 0);
  if (offset + bytes > FUZZ_MAX_WRITTEN && offset + bytes > bs->bytes)
    return -ENOSPC;
  content_zero (content_of (bs), offset, bytes);
  tell_child (bs);
  return 0;
}

static int coroutine_fn
fuzzmem_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  account_write (bs, 0);
  content_zero (content_of (bs), offset, bytes);
  return 0;
}

static int coroutine_fn
fuzzmem_co_flush (BlockDriverState *bs)
{
  return 0;
}

static bool coroutine_fn
fuzzmem_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  account_write (bs, 0);
  if (bytes > FUZZ_MAX_WRITTEN && bytes > bs->bytes)
    {
      bdrv_set_error_errno (error, bs, -ENOSPC, "fuzzmem");
      return false;
    }
  content_set_length (content_of (bs), bytes);
  tell_child (bs);
  bs->bytes = bytes;
  return true;
}

static int coroutine_fn
fuzzmem_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum, int64_t *map,
                         BlockDriverState **file)
{
  const Content *content = content_of (bs);
  bool data = false;

  account (0);
  *pnum = bytes;
  if (offset < content_length (content))
    *pnum = MIN (bytes, content_run (content, offset, &data));
  *map = offset;
  *file = bs;
  return (data ? BDRV_BLOCK_DATA : BDRV_BLOCK_ZERO) | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED
         | (offset + *pnum >= bs->bytes ? BDRV_BLOCK_EOF : 0);
}

static const char *
fuzzmem_get_host_path (BlockDriverState *bs)
{
  return bs->file->drv->get_host_path (bs->file);
}

static const BlockDriver fuzzmem_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "fuzzmem",
  .long_name = "Content in memory, for fuzzing",
  .instance_size = sizeof (FuzzMem),
  .co_open = fuzzmem_co_open,
  .co_reopen_rw = fuzzmem_co_reopen_rw,
  .co_preadv = fuzzmem_co_preadv,
  .co_pwritev = fuzzmem_co_pwritev,
  .co_pwrite_zeroes = fuzzmem_co_pwrite_zeroes,
  .co_pdiscard = fuzzmem_co_pdiscard,
  .co_flush = fuzzmem_co_flush,
  .co_truncate = fuzzmem_co_truncate,
  .co_block_status = fuzzmem_co_block_status,
  .get_host_path = fuzzmem_get_host_path,
};

/* --- the files ----------------------------------------------------------------------------------------- */

static void
store_clear (void)
{
  if (getpid () != store.owner)
    return;
  for (unsigned i = 0; i < STORE_FILES; i++)
    {
      g_unlink (store.paths[i]);
      g_clear_pointer (&store.files[i], content_free);
      g_clear_pointer (&store.paths[i], g_free);
      g_clear_pointer (&store.seen[i], g_hash_table_unref);
    }
  g_rmdir (store.dir);
  g_clear_pointer (&store.dir, g_free);
  g_clear_pointer (&store.context, vhdkit_context_free);
}

static void
store_init (void)
{
  const char *parent = g_getenv ("VHDKIT_TEST_DIR");
  g_autoptr (GError) error = NULL;

  if (store.dir)
    return;
  if (!parent)
    parent = g_access ("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir ();
  store.dir = g_build_filename (parent, "vhdkit-fuzz-XXXXXX", NULL);
  if (!g_mkdtemp (store.dir))
    g_error ("%s: %s", store.dir, g_strerror (errno));
  for (unsigned i = 0; i < STORE_FILES; i++)
    {
      store.files[i] = content_new ();
      store.paths[i] = g_strdup_printf ("%s/%u.img", store.dir, i);
      close (open (store.paths[i], O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    }
  store.owner = getpid ();
  store.context = vhdkit_context_new (&error);
  g_assert_no_error (error);
  if (!bdrv_register (&fuzzmem_driver, &error))
    g_error ("%s", error->message);
  atexit (store_clear);
}

VhdkitContext *
fuzz_context (void)
{
  store_init ();
  return store.context;
}

const char *
fuzz_path (unsigned file)
{
  return store.paths[file];
}

const Content *
fuzz_store_get (unsigned file)
{
  return store.files[file];
}

void
fuzz_store_set (unsigned file, const Content *content)
{
  content_copy (store.files[file], content);
}

void
fuzz_store_reset (const FuzzTarget *target)
{
  store_init ();
  for (unsigned i = 0; i < STORE_FILES; i++)
    content_set_length (store.files[i], 0);
  store.writable = false;
  store.requests = target->max_requests;
  store.bytes = target->max_bytes;
}

void
fuzz_store_set_writable (bool writable)
{
  store.writable = writable;
}

void
fuzz_store_watch (void)
{
  store_init ();
  for (unsigned i = 0; i < STORE_FILES; i++)
    store.seen[i] = g_hash_table_new (NULL, NULL);
}

Content *
fuzz_store_seen (unsigned file, const Content *content)
{
  Content *seen = content_new ();
  uint8_t sector[SECTOR];
  GHashTableIter iter;
  void *key;

  content_set_length (seen, content_length (content));
  g_hash_table_iter_init (&iter, store.seen[file]);
  while (g_hash_table_iter_next (&iter, &key, NULL))
    {
      int64_t offset = (int64_t)(GPOINTER_TO_SIZE (key) - 1) * SECTOR;
      int64_t bytes = MIN (SECTOR, content_length (content) - offset);

      if (bytes <= 0)
        continue;
      content_get (content, offset, bytes, sector);
      content_write (seen, offset, bytes, sector);
    }
  return seen;
}
