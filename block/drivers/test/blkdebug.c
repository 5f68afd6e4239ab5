/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filter `blkdebug`: lets chosen requests fail.
 *
 * Requests of the kind op are counted; the n-th fails, and those after it up to count of them (0: all).  A
 * failed request does not reach the file, but for a write with short=BYTES: its first bytes do.  Nodes with
 * the same id share one count, so a schedule can run over all the files of a chain; the counters outlive the
 * nodes and are looked at by tests.  A copy between files is a write.
 */
#include "blkdebug.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "checked.h"
#include "passthrough.h"
#include "zero.h"

extern const BlockDriver blkdebug_driver;

typedef enum
{
  OP_READ = 1 << 0,
  OP_WRITE = 1 << 1,
  OP_WRITE_ZEROES = 1 << 2,
  OP_DISCARD = 1 << 3,
  OP_FLUSH = 1 << 4,
  OP_TRUNCATE = 1 << 5,
  OP_ANY = 0x3f,
} Op;

static const struct
{
  const char *name;
  Op op;
} op_names[] = {
  { "read", OP_READ },       { "write", OP_WRITE }, { "write_zeroes", OP_WRITE_ZEROES },
  { "discard", OP_DISCARD }, { "flush", OP_FLUSH }, { "truncate", OP_TRUNCATE },
  { "any", OP_ANY },
};

static const struct
{
  const char *name;
  int code;
} errno_names[] = {
  { "EIO", EIO },
  { "ENOSPC", ENOSPC },
  { "EDQUOT", EDQUOT },
  { "EFBIG", EFBIG },
  { "ENOMEM", ENOMEM },
  { "EROFS", EROFS },
  { "EACCES", EACCES },
  { "EPERM", EPERM },
  { "EINVAL", EINVAL },
  { "ENOTSUP", ENOTSUP },
  { "EBUSY", EBUSY },
  { "EAGAIN", EAGAIN },
  { "ENODEV", ENODEV },
  { "ENXIO", ENXIO },
  { "ESTALE", ESTALE },
  { "ESHUTDOWN", ESHUTDOWN },
  { "ETIMEDOUT", ETIMEDOUT },
};

/* What a request that failed was to write. */
typedef struct
{
  char *path; /* of the file; NULL: it has none */
  int64_t offset, end;
  GBytes *data; /* all of it, other than zeros; NULL: not known */
} LostRange;

typedef struct
{
  int64_t count, failures;
  Op failed;    /* kinds that failed */
  GArray *lost; /* of LostRange; NULL: empty */
} Counter;

static GMutex counters_lock;
static GHashTable *counters; /* char * to Counter *, never shrinks */

typedef struct
{
  Op op;
  int64_t first, count; /* the first request that fails, 1-based, and how many */
  int code;
  int64_t short_bytes;
  Counter *counter;
  Counter own; /* without an id */
} BlkdebugState;

static Counter *
get_counter_locked (const char *id)
{
  if (counters == NULL)
    counters = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);

  Counter *counter = g_hash_table_lookup (counters, id);

  if (counter == NULL)
    {
      counter = g_new0 (Counter, 1);
      g_hash_table_insert (counters, g_strdup (id), counter);
    }
  return counter;
}

int64_t
blkdebug_get_count (const char *id)
{
  g_mutex_lock (&counters_lock);
  int64_t count = get_counter_locked (id)->count;
  g_mutex_unlock (&counters_lock);
  return count;
}

int64_t
blkdebug_get_failures (const char *id)
{
  g_mutex_lock (&counters_lock);
  int64_t failures = get_counter_locked (id)->failures;
  g_mutex_unlock (&counters_lock);
  return failures;
}

bool
blkdebug_has_failed_flush (const char *id)
{
  g_mutex_lock (&counters_lock);
  bool failed = get_counter_locked (id)->failed & OP_FLUSH;
  g_mutex_unlock (&counters_lock);
  return failed;
}

/* What is behind the end of the file is not there; nor is what was in a file that is gone. */
static bool
is_in_file (const LostRange *range)
{
  struct stat st;

  return range->path == NULL || (stat (range->path, &st) == 0 && range->offset < st.st_size);
}

char *
blkdebug_get_lost (const char *id)
{
  char *text = NULL;

  g_mutex_lock (&counters_lock);
  const GArray *lost = get_counter_locked (id)->lost;
  for (guint i = 0; i < (lost ? lost->len : 0) && text == NULL; i++)
    {
      const LostRange *range = &g_array_index (lost, LostRange, i);

      if (is_in_file (range))
        text = g_strdup_printf ("%s: %" PRId64 " bytes at offset %" PRId64, range->path ? range->path : "?",
                                range->end - range->offset, range->offset);
    }
  g_mutex_unlock (&counters_lock);
  return text;
}

static void
lost_range_clear (gpointer data)
{
  LostRange *range = data;

  g_free (range->path);
  g_clear_pointer (&range->data, g_bytes_unref);
}

static void
clear_lost (Counter *counter)
{
  g_clear_pointer (&counter->lost, g_array_unref);
}

void
blkdebug_reset (const char *id)
{
  g_mutex_lock (&counters_lock);
  Counter *counter = get_counter_locked (id);
  clear_lost (counter);
  *counter = (Counter){ 0 };
  g_mutex_unlock (&counters_lock);
}

static void
add_lost_locked (Counter *counter, const char *path, int64_t offset, int64_t end, GBytes *data)
{
  LostRange range = { g_strdup (path), offset, end, data ? g_bytes_ref (data) : NULL };

  if (counter->lost == NULL)
    {
      counter->lost = g_array_new (false, false, sizeof (LostRange));
      g_array_set_clear_func (counter->lost, lost_range_clear);
    }
  g_array_append_val (counter->lost, range);
}

/* [@offset, @end) is no longer what a request that failed has left; nor is a range whose @data (may be NULL) has found
 * another place. */
static void
forget_lost_locked (Counter *counter, const char *path, int64_t offset, int64_t end, GBytes *data)
{
  for (guint i = counter->lost ? counter->lost->len : 0; i > 0; i--)
    {
      const LostRange range = g_array_index (counter->lost, LostRange, i - 1);
      bool again = data != NULL && range.data != NULL && g_bytes_equal (data, range.data);

      if (g_strcmp0 (range.path, path) != 0 || (!again && (range.offset >= end || offset >= range.end)))
        continue;
      if (!again && range.offset < offset)
        add_lost_locked (counter, path, range.offset, offset, NULL);
      if (!again && end < range.end)
        add_lost_locked (counter, path, end, range.end, NULL);
      g_array_remove_index (counter->lost, i - 1);
    }
}

/* Notes what became of a request to write @bytes at @offset, or to end the file there.  @data may be NULL. */
static int
note_written (BlockDriverState *bs, int64_t offset, int64_t bytes, GBytes *data, int ret)
{
  BlkdebugState *s = bs->opaque;
  const char *path = passthrough_get_host_path (bs);

  g_mutex_lock (&counters_lock);
  if (ret == 0)
    forget_lost_locked (s->counter, path, offset, bytes == INT64_MAX ? INT64_MAX : offset + bytes, data);
  else if (bytes != INT64_MAX)
    add_lost_locked (s->counter, path, offset, offset + bytes, data);
  g_mutex_unlock (&counters_lock);
  return ret;
}

/* What is written may go to another place when it cannot go to this one: so much of it is remembered. */
#define MAX_NOTED_BYTES 4096

static GBytes *
note_data (int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  g_autofree uint8_t *data = NULL;

  if (bytes > MAX_NOTED_BYTES)
    return NULL;
  data = g_malloc (bytes);
  io_vector_to_buf (qiov, qiov_offset, data, bytes);
  return buffer_is_zero (data, bytes) ? NULL : g_bytes_new_take (g_steal_pointer (&data), bytes);
}

/* Counts a request of the kind @op: 0, or the -errno it fails with. */
static int
count_request (BlkdebugState *s, Op op)
{
  if (!(s->op & op))
    return 0;

  g_mutex_lock (&counters_lock);
  int64_t number = ++s->counter->count;
  bool fails = number >= s->first && (s->count == 0 || number - s->first < s->count);

  s->counter->failures += fails;
  if (fails)
    s->counter->failed |= op;
  g_mutex_unlock (&counters_lock);
  return fails ? -s->code : 0;
}

static bool
parse_op (const char *text, Op *op)
{
  for (size_t i = 0; i < G_N_ELEMENTS (op_names); i++)
    if (strcmp (text, op_names[i].name) == 0)
      {
        *op = op_names[i].op;
        return true;
      }
  return false;
}

static bool
parse_errno (const char *text, int *code)
{
  uint64_t number;

  for (size_t i = 0; i < G_N_ELEMENTS (errno_names); i++)
    if (strcmp (text, errno_names[i].name) == 0)
      {
        *code = errno_names[i].code;
        return true;
      }
  if (!g_ascii_string_to_unsigned (text, 10, 1, 4095, &number, NULL))
    return false;
  *code = number;
  return true;
}

static bool coroutine_fn
blkdebug_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  BlkdebugState *s = bs->opaque;
  const char *op = block_options_get_string (options, "op", "any");
  const char *code = block_options_get_string (options, "errno", "EIO");
  const char *id = block_options_get_string (options, "id", NULL);

  s->first = block_options_get_size (options, "n", 0);
  s->count = block_options_get_size (options, "count", 1);
  s->short_bytes = block_options_get_size (options, "short", 0);
  if (!parse_op (op, &s->op))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "blkdebug: no kind of request is named '%s'",
                      op);
      return false;
    }
  if (!parse_errno (code, &s->code))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "blkdebug: '%s' is no errno", code);
      return false;
    }
  if (s->first < 0 || s->count < 0 || s->short_bytes < 0 || s->short_bytes % BDRV_SECTOR_SIZE != 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "blkdebug: n and count are not negative, short is a multiple of %d", BDRV_SECTOR_SIZE);
      return false;
    }
  if (s->first == 0)
    s->first = G_MAXINT64; /* only count */

  s->counter = &s->own;
  if (id != NULL)
    {
      g_mutex_lock (&counters_lock);
      s->counter = get_counter_locked (id);
      g_mutex_unlock (&counters_lock);
    }
  passthrough_refresh (bs);
  return true;
}

static int coroutine_fn
blkdebug_co_close (BlockDriverState *bs)
{
  BlkdebugState *s = bs->opaque;

  clear_lost (&s->own);
  return 0;
}

static int coroutine_fn
blkdebug_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                    size_t qiov_offset)
{
  int ret = count_request (bs->opaque, OP_READ);

  return ret < 0 ? ret : passthrough_co_preadv (bs, offset, bytes, qiov, qiov_offset);
}

static int coroutine_fn
blkdebug_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                     size_t qiov_offset)
{
  const BlkdebugState *s = bs->opaque;
  int failure = count_request (bs->opaque, OP_WRITE);
  g_autoptr (GBytes) data = note_data (bytes, qiov, qiov_offset);
  int64_t part = bytes;

  if (failure < 0)
    part = MIN (s->short_bytes, round_down (bytes - 1, BDRV_SECTOR_SIZE)); /* never all of it */
  int ret = part == 0 ? 0 : bdrv_co_pwritev (bs->file, offset, part, qiov, qiov_offset, 0);

  return note_written (bs, offset, bytes, data, failure < 0 ? failure : ret);
}

static int coroutine_fn
blkdebug_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  int ret = count_request (bs->opaque, OP_WRITE_ZEROES);

  if (ret == 0)
    ret = bdrv_co_pwrite_zeroes (bs->file, offset, bytes, flags);
  return note_written (bs, offset, bytes, NULL, ret);
}

static int coroutine_fn
blkdebug_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  int ret = count_request (bs->opaque, OP_DISCARD);

  return ret < 0 ? ret : bdrv_co_pdiscard (bs->file, offset, bytes);
}

static int coroutine_fn
blkdebug_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                           int64_t src_offset)
{
  int ret = count_request (bs->opaque, OP_WRITE);

  if (ret == 0)
    ret = bdrv_co_copy_range_to (bs->file, offset, bytes, src, src_offset);
  return note_written (bs, offset, bytes, NULL, ret);
}

static int coroutine_fn
blkdebug_co_flush (BlockDriverState *bs)
{
  int ret = count_request (bs->opaque, OP_FLUSH);

  return ret < 0 ? ret : bdrv_co_flush (bs->file);
}

static bool coroutine_fn
blkdebug_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  int ret = count_request (bs->opaque, OP_TRUNCATE);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot change its length to %" G_GINT64_FORMAT " bytes", bytes);
      return false;
    }
  if (!bdrv_co_truncate (bs->file, bytes, error))
    return false;
  bs->bytes = bdrv_length (bs->file);
  (void)note_written (bs, bytes, INT64_MAX, NULL, 0);
  return true;
}

static const BlockOptionDef blkdebug_open_options[] = {
  { "op", BLOCK_OPTION_STRING, "any",
    "requests to count: read, write, write_zeroes, discard, flush, truncate or any" },
  { "n", BLOCK_OPTION_NUMBER, "0", "the first of them that fails, from 1; 0: none" },
  { "count", BLOCK_OPTION_NUMBER, "1", "how many fail from there; 0: all" },
  { "errno", BLOCK_OPTION_STRING, "EIO", "what they fail with, by name or number" },
  { "short", BLOCK_OPTION_SIZE, "0", "bytes of a failing write that are written all the same" },
  { "id", BLOCK_OPTION_STRING, NULL, "nodes with the same id share one count" },
  { 0 },
};

const BlockDriver blkdebug_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "blkdebug",
  .long_name = "Fault injection, for tests",
  .instance_size = sizeof (BlkdebugState),
  .open_options = blkdebug_open_options,
  .co_open = blkdebug_co_open,
  .co_reopen_rw = passthrough_co_reopen_rw,
  .co_close = blkdebug_co_close,
  .co_preadv = blkdebug_co_preadv,
  .co_pwritev = blkdebug_co_pwritev,
  .co_pwrite_zeroes = blkdebug_co_pwrite_zeroes,
  .co_pdiscard = blkdebug_co_pdiscard,
  .co_copy_range_to = blkdebug_co_copy_range_to,
  .co_flush = blkdebug_co_flush,
  .co_block_status = passthrough_co_block_status,
  .co_truncate = blkdebug_co_truncate,
  .co_get_allocated_size = passthrough_co_get_allocated_size,
  .get_host_id = passthrough_get_host_id,
  .get_host_path = passthrough_get_host_path,
  .get_mtime = passthrough_get_mtime,
};
