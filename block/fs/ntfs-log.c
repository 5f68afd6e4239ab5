/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * $LogFile: whether somebody still has to replay it, or has it open.
 *
 * It starts with two restart pages.  The one with the higher LSN holds; both are written when a volume is
 * dismounted.  Windows 8 and later raise the version to 2.0 while a volume is mounted and lower it when it is let
 * go of: a system that was shut down "fast", or hibernated, leaves 2.0 behind, with a clean looking log and
 * metadata still in its memory.  Other drivers empty the log by filling it with 0xff.
 */
#include "ntfs.h"

#include "checked.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

#define PIECE_BYTES (256 * 1024)

typedef struct
{
  uint64_t lsn;
  int major, minor;
  bool is_clean;
} RestartPage;

static bool
bytes_are_ones (const uint8_t *bytes, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    if (bytes[i] != 0xff)
      return false;
  return true;
}

static bool
decode_page (uint8_t *page, int64_t page_bytes, RestartPage *restart)
{
  const NtfsRestartPageDisk *disk = (const void *)page;

  if (!ntfs_fixup (page, page_bytes, "RSTR"))
    return false;
  uint32_t offset = le16_get (disk->area_offset);
  if (offset < sizeof *disk || offset % 8 != 0 || offset + sizeof (NtfsRestartAreaDisk) > NTFS_STRIDE - 2)
    return false;
  const NtfsRestartAreaDisk *area = (const void *)(page + offset);
  *restart = (RestartPage){
    .lsn = le64_get (area->lsn),
    .major = le16_get (disk->major),
    .minor = le16_get (disk->minor),
    .is_clean =
        (le16_get (area->flags) & NTFS_RESTART_CLEAN) || le16_get (area->clients_in_use) == NTFS_NO_CLIENT,
  };
  return true;
}

static bool coroutine_fn
co_check_empty (Ntfs *fs, const NtfsStream *log, GError **error)
{
  g_autofree uint8_t *buf = g_malloc (PIECE_BYTES);

  for (int64_t at = 0, bytes; at < log->data_bytes; at += bytes)
    {
      bytes = MIN (PIECE_BYTES, log->data_bytes - at);
      if (!ntfs_co_read_stream (fs, log, at, bytes, buf, "$LogFile", error))
        return false;
      if (!bytes_are_ones (buf, bytes))
        return fs_refuse (error, VHDKIT_ERROR_NEEDS_REPLAY,
                          "$LogFile: it has no restart page, but is not empty");
    }
  return true;
}

static bool
check_restart (const RestartPage *restart, GError **error)
{
  if (restart->major == 2)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "hibernated, shut down with fast startup, or mounted ($LogFile: version %d.%d)",
                      restart->major, restart->minor);
  if (restart->major != 1)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "$LogFile: version %d.%d, expected 1.1",
                      restart->major, restart->minor);
  if (!restart->is_clean)
    return fs_refuse (error, VHDKIT_ERROR_NEEDS_REPLAY,
                      "not cleanly unmounted ($LogFile: it is to be replayed)");
  return true;
}

static bool coroutine_fn
co_check_pages (Ntfs *fs, const NtfsStream *log, int64_t page_bytes, GError **error)
{
  g_autofree uint8_t *page = g_malloc (page_bytes);
  RestartPage pages[2];

  for (int i = 0; i < 2; i++)
    {
      if (!ntfs_co_read_stream (fs, log, i * page_bytes, page_bytes, page, "$LogFile", error))
        return false;
      if (!decode_page (page, page_bytes, &pages[i]))
        return fs_corrupt (error, "$LogFile: restart page %d is damaged", i + 1);
    }
  /* When they have the same one, both must be clean. */
  return (pages[0].lsn < pages[1].lsn || check_restart (&pages[0], error))
         && (pages[1].lsn < pages[0].lsn || check_restart (&pages[1], error));
}

bool coroutine_fn
ntfs_co_check_log (Ntfs *fs, GError **error)
{
  g_auto (NtfsStream) log = { 0 };
  NtfsRestartPageDisk first;

  if (!ntfs_co_open_metadata (fs, NTFS_LOGFILE, NTFS_AT_DATA, NULL, &log, error))
    return false;
  if (log.runs == NULL || log.flags != 0 || log.data_bytes < 2 * NTFS_LOG_PAGE_BYTES
      || log.data_bytes > NTFS_MAX_LOG_BYTES)
    return fs_corrupt (error, "$LogFile: %" PRId64 " bytes, attribute flags %#x", log.data_bytes, log.flags);
  if (!ntfs_co_read_stream (fs, &log, 0, sizeof first, &first, "$LogFile", error))
    return false;
  if (bytes_are_ones ((const uint8_t *)&first, sizeof first))
    return co_check_empty (fs, &log, error);
  uint32_t page_bytes = le32_get (first.system_page_bytes);
  if (memcmp (first.update.magic, "RSTR", 4) != 0 || page_bytes < NTFS_STRIDE
      || page_bytes > NTFS_MAX_RECORD_BYTES || !is_power_of_two (page_bytes))
    return fs_corrupt (error, "$LogFile: no restart page at its start");
  return co_check_pages (fs, &log, page_bytes, error);
}
