/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log ([MS-VHDX] 2.3): finding the active sequence, and replaying it in memory.
 *
 * The log is a ring of 4 KiB sectors.  An entry is valid when all of it fits together: signatures, the log's
 * GUID, lengths, the sequence number in every part, and its checksum.  A sequence is a run of valid entries with
 * numbers that go up by one, whose last one (the head) names the start of one of them as its tail.  Of all
 * sequences the one with the highest number is active, from tail to head.
 *
 * Work is linear in the length of the log, whatever is in it: the sectors of an entry carry signatures of their
 * own, so no sector is part of two entries that both get as far as the checksum, and a run that has no valid
 * tail is not looked at again from its middle, for its parts have the same head.
 */
#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "vhdx.h"

/* A writer zeroes a sector bitmap block here and there; a log made to cost time has many. */
#define MAX_ZERO_RANGES 4096

typedef struct
{
  uint32_t start, length, tail; /* bytes, in the log */
  uint64_t sequence_number;
  int64_t flushed_file_offset, last_file_offset;
  uint32_t descriptors;
} LogEntry;

static inline int64_t
log_file_offset (const VhdxState *s, uint32_t in_log)
{
  return s->header.log_offset + in_log % s->header.log_length;
}

/* A 4 KiB sector of the ring.  The log itself is never covered by the overlay. */
static int coroutine_fn
read_sector (VhdxState *s, uint32_t in_log, uint8_t sector[VHDX_LOG_SECTOR])
{
  return bdrv_co_pread (s->bs->file, log_file_offset (s, in_log), VHDX_LOG_SECTOR, sector);
}

/* --- one entry ---------------------------------------------------------------------------------------------- */

static bool
entry_header_is_sound (const VhdxState *s, const VhdxLogEntryDisk *disk, LogEntry *entry)
{
  uint64_t descriptor_bytes;

  if (memcmp (disk->signature, VHDX_LOG_ENTRY_SIGNATURE, sizeof disk->signature) != 0
      || !vhdx_guid_equal (&disk->log_guid, &s->header.log_guid))
    return false;
  entry->length = le32_get (disk->entry_length);
  entry->tail = le32_get (disk->tail);
  entry->sequence_number = le64_get (disk->sequence_number);
  entry->descriptors = le32_get (disk->descriptor_count);
  entry->flushed_file_offset = MIN (le64_get (disk->flushed_file_offset), (uint64_t)INT64_MAX);
  entry->last_file_offset = MIN (le64_get (disk->last_file_offset), (uint64_t)INT64_MAX);
  descriptor_bytes = sizeof *disk + (uint64_t)entry->descriptors * sizeof (VhdxLogDescriptorDisk);
  return entry->length >= VHDX_LOG_SECTOR && entry->length % VHDX_LOG_SECTOR == 0
         && entry->length <= s->header.log_length && entry->tail % VHDX_LOG_SECTOR == 0
         && entry->tail < s->header.log_length && entry->sequence_number > 0
         && descriptor_bytes <= entry->length;
}

/* The descriptors in one sector of the descriptor area, from the @first-th on; false: one is not sound. */
static bool
descriptors_are_sound (const LogEntry *entry, const uint8_t *sector, uint32_t first, size_t skip,
                       uint32_t *data)
{
  size_t in_sector = (VHDX_LOG_SECTOR - skip) / sizeof (VhdxLogDescriptorDisk);

  for (size_t i = 0; i < in_sector && first + i < entry->descriptors; i++)
    {
      VhdxLogDescriptorDisk disk;

      memcpy (&disk, sector + skip + i * sizeof disk, sizeof disk);
      if (le64_get (disk.sequence_number) != entry->sequence_number
          || le64_get (disk.file_offset) % VHDX_LOG_SECTOR != 0)
        return false;
      if (memcmp (disk.signature, VHDX_LOG_DATA_SIGNATURE, 4) == 0)
        (*data)++;
      else if (memcmp (disk.signature, VHDX_LOG_ZERO_SIGNATURE, 4) != 0
               || le64_get (disk.leading_bytes) % VHDX_LOG_SECTOR != 0)
        return false;
    }
  return true;
}

static bool
data_sector_is_sound (const LogEntry *entry, const uint8_t *sector)
{
  const VhdxLogSectorDisk *disk = (const void *)sector;

  return memcmp (disk->signature, VHDX_LOG_SECTOR_SIGNATURE, 4) == 0
         && le32_get (disk->sequence_high) == entry->sequence_number >> 32
         && le32_get (disk->sequence_low) == (entry->sequence_number & UINT32_MAX);
}

/* Sectors of the descriptor area. */
static uint32_t
descriptor_sectors (const LogEntry *entry)
{
  return div_round_up (sizeof (VhdxLogEntryDisk)
                           + (int64_t)entry->descriptors * sizeof (VhdxLogDescriptorDisk),
                       VHDX_LOG_SECTOR);
}

/* 1: a valid entry starts at @start, 0: none does, or -errno.  *unfinished: its header does, and other parts of it are
 * not there. */
static int coroutine_fn
read_entry (VhdxState *s, uint32_t start, LogEntry *entry, bool *unfinished)
{
  uint8_t sector[VHDX_LOG_SECTOR];
  VhdxLogEntryDisk disk;
  uint32_t crc, area, data = 0, first = 0;
  int ret = read_sector (s, start, sector);

  *unfinished = false;
  if (ret < 0)
    return ret;
  memcpy (&disk, sector, sizeof disk);
  entry->start = start;
  if (!entry_header_is_sound (s, &disk, entry))
    return 0;

  *unfinished = true;
  area = descriptor_sectors (entry);
  memset (sector + offsetof (VhdxLogEntryDisk, checksum), 0, 4);
  crc = crc32c (0, sector, sizeof sector);
  for (uint32_t i = 0;; i++)
    {
      size_t skip = i == 0 ? sizeof disk : 0;

      if (i < area)
        {
          if (!descriptors_are_sound (entry, sector, first, skip, &data))
            return 0;
          first += (VHDX_LOG_SECTOR - skip) / sizeof (VhdxLogDescriptorDisk);
          if (i + 1 == area && (uint64_t)(area + (uint64_t)data) * VHDX_LOG_SECTOR != entry->length)
            return 0;
        }
      else if (!data_sector_is_sound (entry, sector))
        {
          return 0;
        }
      if ((i + 1) * (uint32_t)VHDX_LOG_SECTOR == entry->length)
        break;
      ret = read_sector (s, start + (i + 1) * VHDX_LOG_SECTOR, sector);
      if (ret < 0)
        return ret;
      crc = crc32c (crc, sector, sizeof sector);
    }
  *unfinished = false;
  return crc == le32_get (disk.checksum);
}

/* --- a log that never held an entry ---------------------------------------------------------------------------- */

/* Where entries of the log start that the header names, whether whole or not; stops at the second. */
static int coroutine_fn
find_entries (VhdxState *s, uint32_t *first, unsigned *n)
{
  const VhdxHeader *header = &s->header;
  uint8_t *buffer = bdrv_try_alloc_buffer (s->bs->file, VHDX_MIB);
  int ret = buffer ? 0 : -ENOMEM;

  *n = 0;
  for (int64_t at = 0; ret == 0 && *n < 2 && at < header->log_length; at += VHDX_MIB)
    {
      ret = bdrv_co_pread (s->bs->file, header->log_offset + at, VHDX_MIB, buffer);
      for (int64_t sector = 0; ret == 0 && sector < VHDX_MIB; sector += VHDX_LOG_SECTOR)
        {
          const VhdxLogEntryDisk *disk = (const void *)(buffer + sector);

          if (memcmp (disk->signature, VHDX_LOG_ENTRY_SIGNATURE, sizeof disk->signature) == 0
              && vhdx_guid_equal (&disk->log_guid, &header->log_guid) && (*n)++ == 0)
            *first = at + sector;
        }
    }
  bdrv_free_buffer (buffer);
  return ret;
}

int coroutine_fn
vhdx_co_log_is_empty (VhdxState *s)
{
  uint32_t first = 0;
  unsigned n;
  LogEntry entry;
  bool unfinished;
  int ret = find_entries (s, &first, &n);

  if (ret < 0 || n != 1)
    return ret < 0 ? ret : n == 0;
  /* COMPAT: QEMU 7.2, killed while it writes the first entry behind the header that names the log. */
  ret = read_entry (s, first, &entry, &unfinished);
  return ret < 0 ? ret : unfinished && entry.tail == first;
}

/* --- the active sequence --------------------------------------------------------------------------------------- */

static bool
tail_is_in_run (const GArray *run)
{
  const LogEntry *head = &g_array_index (run, LogEntry, run->len - 1);

  for (guint i = 0; i < run->len; i++)
    if (g_array_index (run, LogEntry, i).start == head->tail)
      return true;
  return false;
}

/* The run of entries from @start; *bytes: what it covers.  0 or -errno. */
static int coroutine_fn
read_run (VhdxState *s, uint32_t start, GArray *run, uint64_t *bytes)
{
  uint32_t at = start;

  *bytes = 0;
  while (*bytes < s->header.log_length)
    {
      LogEntry entry;
      bool unfinished;
      int ret = read_entry (s, at, &entry, &unfinished);

      if (ret <= 0)
        return ret;
      if (run->len > 0
          && entry.sequence_number != g_array_index (run, LogEntry, run->len - 1).sequence_number + 1)
        return 0;
      if (*bytes + entry.length > s->header.log_length)
        return 0;
      g_array_append_val (run, entry);
      *bytes += entry.length;
      at = (at + entry.length) % s->header.log_length;
    }
  return 0;
}

static GArray *coroutine_fn
find_active_sequence (VhdxState *s, GError **error)
{
  g_autoptr (GArray) best = NULL;
  uint64_t at = 0;

  /* Past the end of the ring is where the search began. */
  while (at < s->header.log_length)
    {
      g_autoptr (GArray) run = g_array_new (false, false, sizeof (LogEntry));
      uint64_t bytes;
      int ret = read_run (s, at, run, &bytes);

      if (ret < 0)
        {
          bdrv_set_error_errno (error, s->bs, ret, "cannot read the log at offset %" PRId64,
                                log_file_offset (s, at));
          return NULL;
        }
      if (run->len > 0 && tail_is_in_run (run)
          && (!best
              || g_array_index (run, LogEntry, run->len - 1).sequence_number
                     > g_array_index (best, LogEntry, best->len - 1).sequence_number))
        {
          g_clear_pointer (&best, g_array_unref);
          best = g_array_ref (run);
        }
      at += MAX (bytes, (uint64_t)VHDX_LOG_SECTOR);
    }
  if (!best)
    bdrv_set_error (
        error, s->bs, VHDKIT_ERROR_CORRUPT,
        "log at offset %" PRIu64 ": the header says it must be replayed, and it holds no valid entry%s",
        s->header.log_offset,
        vhdx_co_log_is_empty (s) > 0 ? " and never held one (check -r log takes it for empty)" : "");
  return g_steal_pointer (&best);
}

/* --- replay ------------------------------------------------------------------------------------------------------ */

static bool
target_is_sound (VhdxState *s, const LogEntry *entry, uint64_t file_offset, uint64_t bytes, GError **error)
{
  uint64_t limit = MAX (bdrv_length (s->bs->file), s->overlay.file_bytes);

  if (file_offset >= (uint64_t)VHDX_REGION_OFFSET_1 && bytes <= limit && file_offset <= limit - bytes
      && !ranges_overlap (file_offset, bytes, s->header.log_offset, s->header.log_length))
    return true;
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                  "log entry at offset %" PRId64 ": target at offset %" PRIu64 ", %" PRIu64
                  " bytes, is not metadata inside the file",
                  log_file_offset (s, entry->start), file_offset, bytes);
  return false;
}

static bool coroutine_fn
replay_data (VhdxState *s, const LogEntry *entry, const VhdxLogDescriptorDisk *descriptor,
             uint32_t data_sector, GError **error)
{
  uint8_t sector[VHDX_LOG_SECTOR], *page;
  uint64_t file_offset = le64_get (descriptor->file_offset);
  int ret;

  if (!target_is_sound (s, entry, file_offset, VHDX_PAGE, error))
    return false;
  ret = read_sector (s, entry->start + data_sector * VHDX_LOG_SECTOR, sector);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the log entry at offset %" PRId64,
                            log_file_offset (s, entry->start));
      return false;
    }
  page = vhdx_overlay_add_page (&s->overlay, file_offset);
  memcpy (page, &descriptor->leading_bytes, 8);
  memcpy (page + 8, sector + offsetof (VhdxLogSectorDisk, data), 4084);
  memcpy (page + 4092, &descriptor->trailing_bytes, 4);
  return true;
}

static bool coroutine_fn
replay_entry (VhdxState *s, const LogEntry *entry, GError **error)
{
  uint32_t area = descriptor_sectors (entry), next_data = area, done = 0;

  for (uint32_t i = 0; i < area; i++)
    {
      uint8_t sector[VHDX_LOG_SECTOR];
      size_t at = i == 0 ? sizeof (VhdxLogEntryDisk) : 0;
      int ret = read_sector (s, entry->start + i * VHDX_LOG_SECTOR, sector);

      if (ret < 0)
        {
          bdrv_set_error_errno (error, s->bs, ret, "cannot read the log entry at offset %" PRId64,
                                log_file_offset (s, entry->start));
          return false;
        }
      for (; at + sizeof (VhdxLogDescriptorDisk) <= VHDX_LOG_SECTOR && done < entry->descriptors;
           at += sizeof (VhdxLogDescriptorDisk), done++)
        {
          VhdxLogDescriptorDisk descriptor;

          memcpy (&descriptor, sector + at, sizeof descriptor);
          if (memcmp (descriptor.signature, VHDX_LOG_DATA_SIGNATURE, 4) == 0)
            {
              if (!replay_data (s, entry, &descriptor, next_data++, error))
                return false;
              continue;
            }
          if (!target_is_sound (s, entry, le64_get (descriptor.file_offset),
                                le64_get (descriptor.leading_bytes), error))
            return false;
          if (s->overlay.zeros->len >= MAX_ZERO_RANGES)
            {
              bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                              "log entry at offset %" PRId64 ": more than %d ranges of zeros in the log",
                              log_file_offset (s, entry->start), MAX_ZERO_RANGES);
              return false;
            }
          vhdx_overlay_add_zeros (&s->overlay, le64_get (descriptor.file_offset),
                                  le64_get (descriptor.leading_bytes));
        }
    }
  return true;
}

static bool
check_head (VhdxState *s, const LogEntry *head, GError **error)
{
  if (head->flushed_file_offset > bdrv_length (s->bs->file))
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "file truncated: %" PRId64 " bytes, its log knows of %" PRId64,
                      bdrv_length (s->bs->file), head->flushed_file_offset);
      return false;
    }
  if (head->last_file_offset > VHDX_MAX_FILE_BYTES)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "log entry at offset %" PRId64 ": last file offset %" PRId64 ", at most %" PRId64,
                      log_file_offset (s, head->start), head->last_file_offset, VHDX_MAX_FILE_BYTES);
      return false;
    }
  return true;
}

bool coroutine_fn
vhdx_co_replay_in_memory (VhdxState *s, GError **error)
{
  g_autoptr (GArray) sequence = NULL;
  const LogEntry *head;
  guint first = 0;

  s->file_bytes = bdrv_length (s->bs->file);
  if (vhdx_guid_is_zero (&s->header.log_guid))
    return true;
  sequence = find_active_sequence (s, error);
  if (!sequence)
    return false;

  head = &g_array_index (sequence, LogEntry, sequence->len - 1);
  if (!check_head (s, head, error))
    return false;
  while (g_array_index (sequence, LogEntry, first).start != head->tail)
    first++;
  s->file_bytes = MAX (s->file_bytes, head->last_file_offset);
  vhdx_overlay_init (&s->overlay, s->file_bytes);
  for (guint i = first; i < sequence->len; i++)
    if (!replay_entry (s, &g_array_index (sequence, LogEntry, i), error))
      return false;
  return true;
}
