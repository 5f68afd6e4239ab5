/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checksums of VHD and VHDX. */
#include "fuzz.h"

#include <string.h>

#include "crc32c.h"

#include "../../block/drivers/vhd/codec.h"

/* Names that both formats have; what is needed of the other is small. */
#define VHDX_LOG_SECTOR   4096
#define VHDX_REGION_TABLE 65536
#define MAX_LOG_BYTES     (4 << 20)
#define MAX_BATMAP_BYTES  (1 << 20)

/* --- VHD ----------------------------------------------------------------------------------------------- */

static void
fixup_header (Content *file, int64_t offset)
{
  VhdHeaderDisk header;

  if (!content_get_within (file, offset, sizeof header, &header)
      || memcmp (header.cookie, VHD_HEADER_COOKIE, 8) != 0)
    return;
  header.checksum = be32 (vhd_checksum (&header, sizeof header, offsetof (VhdHeaderDisk, checksum)));
  content_write (file, offset, sizeof header, &header);
}

static void
fixup_footer (Content *file, int64_t offset)
{
  VhdFooterDisk footer;

  if (!content_get_within (file, offset, sizeof footer, &footer)
      || memcmp (footer.cookie, VHD_FOOTER_COOKIE, 8) != 0)
    return;
  footer.checksum = be32 (vhd_checksum (&footer, sizeof footer, offsetof (VhdFooterDisk, checksum)));
  content_write (file, offset, sizeof footer, &footer);
  fixup_header (file, (int64_t)be64_get (footer.data_offset));
}

static void
fixup_batmap (Content *file, int64_t offset)
{
  VhdBatmapDisk batmap;
  int64_t bytes;

  if (!content_get_within (file, offset, sizeof batmap, &batmap)
      || memcmp (batmap.cookie, VHD_BATMAP_COOKIE, 8) != 0)
    return;
  bytes = (int64_t)be32_get (batmap.map_sectors) * VHD_SECTOR_SIZE;

  g_autofree uint8_t *map = bytes <= MAX_BATMAP_BYTES ? g_malloc (bytes + 1) : NULL;

  if (!map || !content_get_within (file, (int64_t)be64_get (batmap.map_offset), bytes, map))
    return;
  batmap.checksum = be32 (vhd_checksum (map, bytes, (size_t)-8));
  content_write (file, offset, sizeof batmap, &batmap);
}

void
fuzz_fixup_vhd (Content *file)
{
  fixup_footer (file, content_length (file) - VHD_FOOTER_SIZE);
  fixup_footer (file, content_length (file) - VHD_FOOTER_SIZE + 1);
  fixup_footer (file, 0);
  /* It follows the table, which is small in what is fuzzed. */
  for (int64_t at = 0; at < MIN (content_length (file), 64 << 10); at += VHD_SECTOR_SIZE)
    fixup_batmap (file, at);
}

/* --- VHDX ---------------------------------------------------------------------------------------------- */

static void
store_crc (Content *file, int64_t offset, uint8_t *data, uint32_t bytes)
{
  Le32 crc = { { 0 } };

  memcpy (data + 4, &crc, sizeof crc);
  crc = le32 (crc32c (0, data, bytes));
  content_write (file, offset + 4, sizeof crc, &crc);
}

/* A structure that begins with its signature and its checksum. */
static void
fixup_signed (Content *file, int64_t offset, const char *signature, uint32_t bytes)
{
  uint8_t magic[4];

  if (!content_get_within (file, offset, sizeof magic, magic) || memcmp (magic, signature, 4) != 0)
    return;

  g_autofree uint8_t *data = g_malloc (bytes);

  if (content_get_within (file, offset, bytes, data))
    store_crc (file, offset, data, bytes);
}

static void
fixup_log (Content *file, int64_t log, int64_t bytes)
{
  uint8_t head[16];
  uint32_t length;

  for (int64_t at = 0; at < bytes && content_get_within (file, log + at, sizeof head, head);
       at += VHDX_LOG_SECTOR)
    {
      length = le32_at (head + 8);
      if (memcmp (head, "loge", 4) != 0 || length < 64 || length > bytes)
        continue;

      g_autofree uint8_t *entry = g_malloc (length);
      /* The log is a ring. */
      uint32_t first = MIN (length, (uint32_t)(bytes - at));

      if (content_get_within (file, log + at, first, entry)
          && content_get_within (file, log, length - first, entry + first))
        store_crc (file, log + at, entry, length);
    }
}

void
fuzz_fixup_vhdx (Content *file)
{
  uint8_t magic[8] = { 0 };
  struct
  {
    Le32 length;
    Le64 offset;
  } log;

  if (!content_get_within (file, 0, sizeof magic, magic) || memcmp (magic, "vhdxfile", 8) != 0)
    return;
  for (int64_t at = 64 << 10; at <= 128 << 10; at += 64 << 10)
    {
      fixup_signed (file, at, "head", 4096);
      fixup_signed (file, at + (128 << 10), "regi", VHDX_REGION_TABLE);
      if (!content_get_within (file, at + 68, sizeof log, &log))
        continue;
      fixup_log (file, (int64_t)le64_get (log.offset), MIN (le32_get (log.length), MAX_LOG_BYTES));
    }
}
