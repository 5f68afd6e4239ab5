/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filter `blklogwrites`: passes everything on and keeps a log of what changes the file.
 *
 * The log of a path is shared by all nodes that name it, as long as one of them is open, and is appended to
 * by the next; records are made under one lock, so their order is the order in which requests were handed to
 * the files and came back.  Log writes go to the page cache and block: this is for tests.  When the log
 * cannot be written the request fails, so no test is misled by a log with gaps.
 *
 * Copies between files are refused, so that the caller copies through memory and the data gets seen.
 */
#include "blklogwrites.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "passthrough.h"

extern const BlockDriver blklogwrites_driver;

typedef struct
{
  char *path; /* resolved; key of the registry */
  int fd;
  unsigned users;
  GMutex lock; /* of what follows, and of the end of the file */
  uint64_t sequence;
  int error;        /* -errno of the first record that could not be written */
  GPtrArray *files; /* of char *: host paths of files without the option id, at their ids */
} SharedLog;

static GMutex logs_lock;
static GHashTable *logs; /* path to SharedLog */

typedef struct
{
  SharedLog *log;
  uint32_t file_id;
} LogState;

/* --- the shared log ------------------------------------------------------------------------------------ */

/* The last sequence number of a log that is there already, and its files in the order of their ids. */
static bool
read_existing (const char *path, uint64_t *sequence, GPtrArray *files, GError **error)
{
  g_autoptr (BlkLog) log = blklog_load (path, error);

  if (log == NULL)
    return false;
  for (size_t i = 0; i < log->n; i++)
    if (log->records[i].kind == BLKLOG_OPEN && log->records[i].file_id == files->len)
      g_ptr_array_add (files,
                       g_strndup ((const char *)log->records[i].payload, log->records[i].payload_bytes));
  *sequence = log->n;
  return true;
}

static uint32_t
file_id_of (SharedLog *log, const char *host_path)
{
  uint32_t id;

  g_mutex_lock (&log->lock);
  for (id = 0; id < log->files->len; id++)
    if (strcmp (g_ptr_array_index (log->files, id), host_path) == 0)
      break;
  if (id == log->files->len)
    g_ptr_array_add (log->files, g_strdup (host_path));
  g_mutex_unlock (&log->lock);
  return id;
}

static SharedLog *
log_open_locked (const char *path, GError **error)
{
  g_autofree char *resolved = g_canonicalize_filename (path, NULL);

  if (logs == NULL)
    logs = g_hash_table_new (g_str_hash, g_str_equal);

  SharedLog *log = g_hash_table_lookup (logs, resolved);

  if (log != NULL)
    {
      log->users++;
      return log;
    }

  g_autoptr (GPtrArray) files = g_ptr_array_new_with_free_func (g_free);
  uint64_t sequence;
  int fd = open (resolved, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);

  if (fd < 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "cannot open the log '%s': %s", resolved,
                   g_strerror (errno));
      return NULL;
    }
  if (!read_existing (resolved, &sequence, files, error))
    {
      close (fd);
      return NULL;
    }

  log = g_new0 (SharedLog, 1);
  log->path = g_steal_pointer (&resolved);
  log->fd = fd;
  log->users = 1;
  log->sequence = sequence;
  log->files = g_steal_pointer (&files);
  g_mutex_init (&log->lock);
  g_hash_table_insert (logs, log->path, log);
  return log;
}

static SharedLog *
log_open (const char *path, GError **error)
{
  g_mutex_lock (&logs_lock);
  SharedLog *log = log_open_locked (path, error);
  g_mutex_unlock (&logs_lock);
  return log;
}

static void
log_close (SharedLog *log)
{
  g_mutex_lock (&logs_lock);
  if (--log->users == 0)
    {
      g_hash_table_remove (logs, log->path);
      close (log->fd);
      g_mutex_clear (&log->lock);
      g_ptr_array_unref (log->files);
      g_free (log->path);
      g_free (log);
    }
  g_mutex_unlock (&logs_lock);
}

static int
write_all (int fd, const void *data, size_t bytes)
{
  while (bytes > 0)
    {
      ssize_t ret = write (fd, data, bytes);

      if (ret < 0 && errno == EINTR)
        continue;
      if (ret < 0)
        return -errno;
      data = (const char *)data + ret;
      bytes -= ret;
    }
  return 0;
}

static int
write_slice (int fd, const IoVector *qiov, size_t offset, size_t bytes)
{
  for (int i = 0; i < qiov->niov && bytes > 0; i++)
    {
      const struct iovec *element = &qiov->iov[i];

      if (offset >= element->iov_len)
        {
          offset -= element->iov_len;
          continue;
        }

      size_t piece = MIN (bytes, element->iov_len - offset);
      int ret = write_all (fd, (const char *)element->iov_base + offset, piece);

      if (ret < 0)
        return ret;
      bytes -= piece;
      offset = 0;
    }
  return 0;
}

/* Appends a record (@header's magic, sequence and file id are put in here); *sequence is its number. */
static int
log_append (LogState *s, BlkLogHeaderDisk header, const IoVector *qiov, size_t qiov_offset,
            uint64_t *sequence)
{
  SharedLog *log = s->log;

  g_mutex_lock (&log->lock);
  if (log->error == 0)
    {
      *sequence = log->sequence + 1;
      header.magic = le32 (BLKLOG_MAGIC);
      header.sequence = le64 (*sequence);
      header.file_id = le32 (s->file_id);

      int ret = write_all (log->fd, &header, sizeof header);

      if (ret == 0 && qiov != NULL)
        ret = write_slice (log->fd, qiov, qiov_offset, le64_get (header.payload_bytes));
      if (ret == 0)
        log->sequence++;
      log->error = ret; /* after half a record there is no going on */
    }

  int result = log->error;

  g_mutex_unlock (&log->lock);
  return result;
}

static int
log_start (LogState *s, BlkLogKind kind, int64_t offset, int64_t bytes, const IoVector *qiov,
           size_t qiov_offset, uint64_t *sequence)
{
  BlkLogHeaderDisk header = { .kind = le32 (kind),
                              .offset = le64 (offset),
                              .bytes = le64 (bytes),
                              .payload_bytes = le64 (qiov != NULL ? bytes : 0) };

  return log_append (s, header, qiov, qiov_offset, sequence);
}

/* The result of the request, or of logging it. */
static int
log_done (LogState *s, uint64_t of_sequence, int result)
{
  BlkLogHeaderDisk header = { .kind = le32 (BLKLOG_DONE),
                              .of_sequence = le64 (of_sequence),
                              .result = le32 (result) };
  uint64_t sequence = 0;
  int ret = log_append (s, header, NULL, 0, &sequence);

  return result < 0 ? result : ret;
}

/* --- the filter ---------------------------------------------------------------------------------------- */

static bool coroutine_fn
blklogwrites_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  LogState *s = bs->opaque;
  const char *path = block_options_get_string (options, "log", NULL);
  int64_t id = block_options_get_size (options, "id", -1);
  const char *host_path = passthrough_get_host_path (bs);
  IoVector name;
  uint64_t sequence;

  if (path == NULL || id < -1 || id > UINT32_MAX)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "blklogwrites: needs log=PATH and an id that fits into 32 bits");
      return false;
    }
  if (host_path == NULL)
    host_path = bs->filename;
  s->log = log_open (path, error);
  if (s->log == NULL)
    {
      g_prefix_error (error, "%s: blklogwrites: ", bs->filename);
      return false;
    }
  s->file_id = id >= 0 ? (uint32_t)id : file_id_of (s->log, host_path);
  passthrough_refresh (bs);

  io_vector_init_buf (&name, (char *)host_path, strlen (host_path));
  BlkLogHeaderDisk header = { .kind = le32 (BLKLOG_OPEN),
                              .bytes = le64 (bs->bytes),
                              .payload_bytes = le64 (name.size) };
  int ret = log_append (s, header, &name, 0, &sequence);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "blklogwrites: cannot write the log '%s'", path);
      log_close (s->log);
    }
  return ret == 0;
}

static int coroutine_fn
blklogwrites_co_close (BlockDriverState *bs)
{
  LogState *s = bs->opaque;

  log_close (s->log);
  return 0;
}

static int coroutine_fn
blklogwrites_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                         size_t qiov_offset)
{
  uint64_t sequence = 0;
  int ret = log_start (bs->opaque, BLKLOG_WRITE, offset, bytes, qiov, qiov_offset, &sequence);

  if (ret < 0)
    return ret;
  return log_done (bs->opaque, sequence, bdrv_co_pwritev (bs->file, offset, bytes, qiov, qiov_offset, 0));
}

static int coroutine_fn
blklogwrites_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags)
{
  uint64_t sequence = 0;
  int ret = log_start (bs->opaque, BLKLOG_ZEROES, offset, bytes, NULL, 0, &sequence);

  if (ret < 0)
    return ret;
  return log_done (bs->opaque, sequence, bdrv_co_pwrite_zeroes (bs->file, offset, bytes, flags));
}

static int coroutine_fn
blklogwrites_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes)
{
  uint64_t sequence = 0;
  int ret = log_start (bs->opaque, BLKLOG_DISCARD, offset, bytes, NULL, 0, &sequence);

  if (ret < 0)
    return ret;
  return log_done (bs->opaque, sequence, bdrv_co_pdiscard (bs->file, offset, bytes));
}

static int coroutine_fn
blklogwrites_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes, BlockDriverState *src,
                               int64_t src_offset)
{
  return -ENOTSUP;
}

static int coroutine_fn
blklogwrites_co_flush (BlockDriverState *bs)
{
  uint64_t sequence = 0;
  int ret = log_start (bs->opaque, BLKLOG_FLUSH, 0, 0, NULL, 0, &sequence);

  if (ret < 0)
    return ret;
  return log_done (bs->opaque, sequence, bdrv_co_flush (bs->file));
}

static bool coroutine_fn
blklogwrites_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error)
{
  uint64_t sequence = 0;
  int ret = log_start (bs->opaque, BLKLOG_TRUNCATE, 0, bytes, NULL, 0, &sequence);
  bool done = ret == 0 && bdrv_co_truncate (bs->file, bytes, error);

  if (ret == 0)
    ret = log_done (bs->opaque, sequence, done ? 0 : -EIO);
  bs->bytes = bdrv_length (bs->file);
  if (ret < 0 && (error == NULL || *error == NULL))
    bdrv_set_error_errno (error, bs, ret, "blklogwrites: cannot write the log");
  return done && ret == 0;
}

static const BlockOptionDef blklogwrites_open_options[] = {
  { "log", BLOCK_OPTION_STRING, NULL, "file that the log is appended to" },
  { "id", BLOCK_OPTION_NUMBER, NULL,
    "number that stands for this file in the log; else files are numbered as they are first opened" },
  { 0 },
};

const BlockDriver blklogwrites_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "blklogwrites",
  .long_name = "Log of writes and flushes, for tests",
  .instance_size = sizeof (LogState),
  .open_options = blklogwrites_open_options,
  .co_open = blklogwrites_co_open,
  .co_reopen_rw = passthrough_co_reopen_rw,
  .co_close = blklogwrites_co_close,
  .co_preadv = passthrough_co_preadv,
  .co_pwritev = blklogwrites_co_pwritev,
  .co_pwrite_zeroes = blklogwrites_co_pwrite_zeroes,
  .co_pdiscard = blklogwrites_co_pdiscard,
  .co_copy_range_to = blklogwrites_co_copy_range_to,
  .co_flush = blklogwrites_co_flush,
  .co_block_status = passthrough_co_block_status,
  .co_truncate = blklogwrites_co_truncate,
  .co_get_allocated_size = passthrough_co_get_allocated_size,
  .get_host_id = passthrough_get_host_id,
  .get_host_path = passthrough_get_host_path,
  .get_mtime = passthrough_get_mtime,
};
