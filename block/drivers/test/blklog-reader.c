/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading the logs of the filter blklogwrites, for crash tests; see the header for format and model. */
#include "blklogwrites.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include <vhdkit/error.h>

#include "checked.h"

#define ZERO_PIECE ((int64_t)1 << 16)

static bool
bad_record (GError **error, size_t index, const char *what)
{
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "record %zu of the log: %s", index, what);
  return false;
}

/* Reads the record at @data, of which @left bytes exist.  *size is 0 for an incomplete one. */
static bool
parse_record (const uint8_t *data, size_t left, size_t index, BlkLogRecord *record, size_t *size,
              GError **error)
{
  BlkLogHeaderDisk header;

  *size = 0;
  if (left < sizeof header)
    return true;
  memcpy (&header, data, sizeof header);

  uint64_t payload = le64_get (header.payload_bytes);
  uint64_t of_sequence = le64_get (header.of_sequence);

  if (le32_get (header.magic) != BLKLOG_MAGIC)
    return bad_record (error, index, "no magic");
  if (le64_get (header.sequence) != index + 1)
    return bad_record (error, index, "sequence number out of order");

  *record = (BlkLogRecord){ .kind = le32_get (header.kind),
                            .file_id = le32_get (header.file_id),
                            .offset = le64_get (header.offset),
                            .bytes = le64_get (header.bytes),
                            .result = (int32_t)le32_get (header.result),
                            .done_at = BLKLOG_NEVER,
                            .durable_at = BLKLOG_NEVER };

  int64_t end;

  if (record->kind < BLKLOG_OPEN || record->kind > BLKLOG_DONE)
    return bad_record (error, index, "unknown kind");
  if (record->offset < 0 || record->bytes < 0 || !checked_add (record->offset, record->bytes, &end))
    return bad_record (error, index, "range out of bounds");
  if (record->kind == BLKLOG_OPEN ? payload > PATH_MAX
                                  : payload != (record->kind == BLKLOG_WRITE ? (uint64_t)record->bytes : 0))
    return bad_record (error, index, "wrong number of payload bytes");
  if (record->kind == BLKLOG_DONE)
    {
      if (of_sequence == 0 || of_sequence > index)
        return bad_record (error, index, "completes what has not begun");
      record->of = of_sequence - 1;
    }
  if (payload > left - sizeof header)
    return true;
  if (record->kind == BLKLOG_WRITE || record->kind == BLKLOG_OPEN)
    record->payload = data + sizeof header;
  record->payload_bytes = payload;
  *size = sizeof header + payload;
  return true;
}

static bool
parse_records (GArray *records, const uint8_t *data, size_t bytes, GError **error)
{
  for (;;)
    {
      BlkLogRecord record;
      size_t size;

      if (!parse_record (data, bytes, records->len, &record, &size, error))
        return false;
      if (size == 0)
        return true;
      if (record.kind == BLKLOG_DONE)
        {
          BlkLogRecord *started = &g_array_index (records, BlkLogRecord, record.of);

          if (started->kind == BLKLOG_DONE || started->file_id != record.file_id
              || started->done_at != BLKLOG_NEVER)
            return bad_record (error, records->len, "completes something else");
          started->done_at = records->len;
          started->result = record.result;
        }
      g_array_append_val (records, record);
      data += size;
      bytes -= size;
    }
}

/* For each completed change the end of the first flush to complete among those that began after it.
 *
 * Going backwards: at the start of a flush, the earliest end of it and all later ones of that file is known;
 * at a DONE, that is when what is done becomes durable. */
static void
find_durable (BlkLog *log)
{
  g_autoptr (GHashTable) earliest = g_hash_table_new (NULL, NULL); /* file id to index + 1 */

  for (size_t i = log->n; i-- > 0;)
    {
      BlkLogRecord *record = &log->records[i];
      gpointer key = GUINT_TO_POINTER (record->file_id);
      size_t known = GPOINTER_TO_SIZE (g_hash_table_lookup (earliest, key));

      if (record->kind == BLKLOG_FLUSH && record->done_at != BLKLOG_NEVER && record->result == 0
          && (known == 0 || record->done_at + 1 < known))
        g_hash_table_insert (earliest, key, GSIZE_TO_POINTER (record->done_at + 1));
      /* What failed may have happened in part: no flush makes it certain. */
      else if (record->kind == BLKLOG_DONE && record->result == 0 && known != 0)
        log->records[record->of].durable_at = known - 1;
    }
}

BlkLog *
blklog_load (const char *path, GError **error)
{
  g_autoptr (BlkLog) log = g_new0 (BlkLog, 1);
  g_autoptr (GArray) records = g_array_new (false, false, sizeof (BlkLogRecord));

  log->mapped = g_mapped_file_new (path, false, error);
  if (log->mapped == NULL)
    return NULL;
  if (!parse_records (records, (const uint8_t *)g_mapped_file_get_contents (log->mapped),
                      g_mapped_file_get_length (log->mapped), error))
    {
      g_prefix_error (error, "%s: ", path);
      return NULL;
    }
  log->n = records->len;
  log->records = (BlkLogRecord *)g_array_free (g_steal_pointer (&records), false);
  find_durable (log);
  return g_steal_pointer (&log);
}

void
blklog_free (BlkLog *log)
{
  if (log == NULL)
    return;
  g_clear_pointer (&log->mapped, g_mapped_file_unref);
  g_free (log->records);
  g_free (log);
}

bool
blklog_is_change (const BlkLog *log, size_t index)
{
  switch (log->records[index].kind)
    {
    case BLKLOG_WRITE:
    case BLKLOG_ZEROES:
    case BLKLOG_DISCARD:
    case BLKLOG_TRUNCATE:
      return true;
    default:
      return false;
    }
}

bool
blklog_is_durable (const BlkLog *log, size_t index, size_t cut)
{
  return log->records[index].durable_at < cut;
}

static int
write_at (int fd, const uint8_t *data, int64_t offset, int64_t bytes)
{
  while (bytes > 0)
    {
      ssize_t ret = pwrite (fd, data, bytes, offset);

      if (ret < 0 && errno == EINTR)
        continue;
      if (ret < 0)
        return -errno;
      data += ret;
      offset += ret;
      bytes -= ret;
    }
  return 0;
}

static int
zero_at (int fd, int64_t offset, int64_t bytes)
{
  static const uint8_t zeros[ZERO_PIECE];
  int ret = 0;

  for (; bytes > 0 && ret == 0; offset += ZERO_PIECE, bytes -= ZERO_PIECE)
    ret = write_at (fd, zeros, offset, MIN (bytes, ZERO_PIECE));
  return ret;
}

/* A discard does not make the file longer. */
static int
discard_at (int fd, int64_t offset, int64_t bytes)
{
  off_t end = lseek (fd, 0, SEEK_END);

  if (end < 0)
    return -errno;
  return zero_at (fd, offset, CLAMP (end - offset, 0, bytes));
}

int
blklog_apply (const BlkLog *log, size_t index, int fd, int64_t from, int64_t bytes)
{
  const BlkLogRecord *record = &log->records[index];

  if (record->kind == BLKLOG_TRUNCATE)
    return ftruncate (fd, record->bytes) < 0 ? -errno : 0;
  if (bytes < 0)
    bytes = record->bytes - from;
  if (from < 0 || bytes > record->bytes - from)
    return -EINVAL;

  switch (record->kind)
    {
    case BLKLOG_WRITE:
      return write_at (fd, record->payload + from, record->offset + from, bytes);
    case BLKLOG_ZEROES:
      return zero_at (fd, record->offset + from, bytes);
    case BLKLOG_DISCARD:
      return discard_at (fd, record->offset + from, bytes);
    default:
      return 0;
    }
}
