/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing log entries ([MS-VHDX] 2.3.1): the rules W1 to W3 and W8 of vhdx.h are kept by the callers in
 * flush.c and session.c. */
#include <string.h>

#include "crc32c.h"
#include "vhdx.h"

/* Longer logs are not used up by one entry: it is built in memory. */
#define MAX_ENTRY_PAGES 2048

static uint32_t
descriptor_area (uint32_t n)
{
  return round_up (sizeof (VhdxLogEntryDisk) + (int64_t)n * sizeof (VhdxLogDescriptorDisk), VHDX_LOG_SECTOR);
}

uint32_t
vhdx_log_entry_bytes (uint32_t n)
{
  return descriptor_area (n) + n * VHDX_LOG_SECTOR;
}

uint32_t
vhdx_log_capacity (const VhdxState *s)
{
  uint32_t n = MIN (s->header.log_length / 2 / VHDX_LOG_SECTOR, MAX_ENTRY_PAGES);

  while (vhdx_log_entry_bytes (n) > s->header.log_length / 2)
    n--;
  return n;
}

void
vhdx_log_entry_encode (const VhdxLogEntryInfo *info, const VhdxLogPage *pages, uint32_t n, uint8_t *entry)
{
  uint32_t area = descriptor_area (n), bytes = vhdx_log_entry_bytes (n);
  VhdxLogEntryDisk head = {
    .signature = { 'l', 'o', 'g', 'e' },
    .entry_length = le32 (bytes),
    .tail = le32 (info->tail),
    .sequence_number = le64 (info->sequence_number),
    .descriptor_count = le32 (n),
    .log_guid = info->log_guid,
    .flushed_file_offset = le64 (info->flushed_file_offset),
    .last_file_offset = le64 (info->last_file_offset),
  };

  memset (entry, 0, area);
  for (uint32_t i = 0; i < n; i++)
    {
      const uint8_t *page = pages[i].data;
      VhdxLogDescriptorDisk descriptor = {
        .signature = { 'd', 'e', 's', 'c' },
        .file_offset = le64 (pages[i].file_offset),
        .sequence_number = head.sequence_number,
      };
      VhdxLogSectorDisk *sector = (void *)(entry + area + (size_t)i * VHDX_LOG_SECTOR);

      memcpy (&descriptor.leading_bytes, page, 8);
      memcpy (&descriptor.trailing_bytes, page + 4092, 4);
      memcpy (entry + sizeof head + i * sizeof descriptor, &descriptor, sizeof descriptor);
      memcpy (sector->signature, VHDX_LOG_SECTOR_SIGNATURE, sizeof sector->signature);
      sector->sequence_high = le32 (info->sequence_number >> 32);
      memcpy (sector->data, page + 8, sizeof sector->data);
      sector->sequence_low = le32 (info->sequence_number & UINT32_MAX);
    }
  memcpy (entry, &head, sizeof head);
  head.checksum = le32 (crc32c (0, entry, bytes));
  memcpy (entry, &head, sizeof head);
}

int coroutine_fn
vhdx_co_log_write (VhdxState *s, const VhdxLogPage *pages, uint32_t n)
{
  uint32_t bytes = vhdx_log_entry_bytes (n), length = s->header.log_length;
  uint32_t before_wrap = MIN (bytes, length - s->log_at);
  VhdxLogEntryInfo info = {
    .log_guid = s->log_guid,
    .tail = s->log_at,
    .sequence_number = ++s->log_sequence,
    .flushed_file_offset = round_down (s->flushed_bytes, VHDX_MIB),
    /* A device has the length it has, also if the last block is cut short by its end: replay must not ask for more. */
    .last_file_offset = s->can_grow ? round_up (s->data_end, VHDX_MIB) : round_down (s->file_bytes, VHDX_MIB),
  };
  BdrvWrite writes[2] = {
    { s->header.log_offset + s->log_at, before_wrap, s->log_buffer },
    { s->header.log_offset, bytes - before_wrap, s->log_buffer + before_wrap },
  };

  vhdx_log_entry_encode (&info, pages, n, s->log_buffer);
  s->log_at = (s->log_at + bytes) % length;
  return bdrv_co_write_batch (s->bs->file, writes, before_wrap < bytes ? 2 : 1);
}
