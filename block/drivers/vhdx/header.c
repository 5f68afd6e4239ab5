/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File identifier and headers ([MS-VHDX] 2.2.1, 2.2.2): which of the two headers counts. */
#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "vhdx.h"

static void
header_decode (const VhdxHeaderDisk *disk, VhdxHeader *header)
{
  header->sequence_number = le64_get (disk->sequence_number);
  header->file_write_guid = disk->file_write_guid;
  header->data_write_guid = disk->data_write_guid;
  header->log_guid = disk->log_guid;
  header->log_version = le16_get (disk->log_version);
  header->version = le16_get (disk->version);
  header->log_length = le32_get (disk->log_length);
  header->log_offset = le64_get (disk->log_offset);
}

bool
vhdx_header_is_valid (const VhdxHeaderDisk *disk)
{
  VhdxHeaderDisk copy = *disk;

  if (memcmp (disk->signature, VHDX_HEADER_SIGNATURE, sizeof disk->signature) != 0)
    return false;
  copy.checksum = le32 (0);
  return crc32c (0, &copy, sizeof copy) == le32_get (disk->checksum);
}

static bool coroutine_fn
read_identifier (VhdxState *s, GError **error)
{
  BlockDriverState *bs = s->bs;
  VhdxIdentifierDisk disk;
  gunichar2 units[VHDX_CREATOR_UNITS];
  size_t n = 0;
  int ret;

  if (bdrv_length (bs->file) < VHDX_HEADER_SECTION)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "file too small: %" PRId64 " bytes, a VHDX has at least %" PRId64,
                      bdrv_length (bs->file), VHDX_HEADER_SECTION);
      return false;
    }
  ret = bdrv_co_pread (bs->file, 0, sizeof disk, &disk);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot read the file identifier");
      return false;
    }
  if (memcmp (disk.signature, VHDX_IDENTIFIER_SIGNATURE, sizeof disk.signature) != 0)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "not a VHDX: no \"" VHDX_IDENTIFIER_SIGNATURE "\" at offset 0");
      return false;
    }
  while (n < VHDX_CREATOR_UNITS && le16_get (disk.creator[n]) != 0)
    {
      units[n] = le16_get (disk.creator[n]);
      n++;
    }
  s->creator = g_utf16_to_utf8 (units, n, NULL, NULL, NULL);
  s->identified = true;
  return true;
}

/* Ignoring the checksum, which is right in both. */
static bool
headers_agree (const VhdxHeaderDisk *a, const VhdxHeaderDisk *b)
{
  return memcmp (a, b, sizeof *a) == 0;
}

static bool
choose_header (VhdxState *s, const VhdxHeaderDisk disks[2], GError **error)
{
  bool valid[2] = { vhdx_header_is_valid (&disks[0]), vhdx_header_is_valid (&disks[1]) };
  int chosen = valid[0] ? 0 : 1;

  if (!valid[0] && !valid[1])
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "no valid header: signature or checksum is wrong at offsets %" PRId64 " and %" PRId64,
                      VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2);
      return false;
    }
  if (valid[0] && valid[1])
    {
      uint64_t a = le64_get (disks[0].sequence_number), b = le64_get (disks[1].sequence_number);

      /* COMPAT: Disk2vhd writes the same header twice. */
      if (a == b && !headers_agree (&disks[0], &disks[1]))
        {
          bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                          "headers: both have sequence number %" PRIu64 " and they differ", a);
          return false;
        }
      chosen = b > a;
    }
  else
    {
      s->header_damaged = true;
      bdrv_warn (s->bs, "header %d at offset %" PRId64 " is damaged, using the other one",
                 chosen == 0 ? 2 : 1, chosen == 0 ? VHDX_HEADER_OFFSET_2 : VHDX_HEADER_OFFSET_1);
    }
  header_decode (&disks[chosen], &s->header);
  s->header_slot = chosen;
  return true;
}

static bool
check_header (VhdxState *s, GError **error)
{
  const VhdxHeader *header = &s->header;
  BlockDriverState *bs = s->bs;
  bool has_log = !vhdx_guid_is_zero (&header->log_guid);
  uint64_t file_bytes = bdrv_length (bs->file);

  if (header->version != VHDX_VERSION)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "header: version %u, expected %d", header->version,
                      VHDX_VERSION);
      return false;
    }
  if (has_log && header->log_version != VHDX_LOG_VERSION)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_UNSUPPORTED, "header: log version %u, expected %d",
                      header->log_version, VHDX_LOG_VERSION);
      return false;
    }
  if (header->log_length == 0 && !has_log)
    return true;
  if (header->log_length == 0 || header->log_length % VHDX_MIB != 0 || header->log_offset % VHDX_MIB != 0
      || header->log_offset < (uint64_t)VHDX_MIB || header->log_offset > file_bytes
      || header->log_length > file_bytes - header->log_offset || header->log_length > VHDX_MAX_LOG_BYTES)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT,
                      "header: log at offset %" PRIu64 ", %u bytes: not whole MiB inside the file of %" PRIu64
                      " bytes",
                      header->log_offset, header->log_length, file_bytes);
      return false;
    }
  return true;
}

bool coroutine_fn
vhdx_co_read_headers (VhdxState *s, GError **error)
{
  g_autofree VhdxHeaderDisk *disks = g_new (VhdxHeaderDisk, 2);
  int ret;

  if (!read_identifier (s, error))
    return false;
  ret = bdrv_co_pread (s->bs->file, VHDX_HEADER_OFFSET_1, sizeof *disks, &disks[0]);
  if (ret == 0)
    ret = bdrv_co_pread (s->bs->file, VHDX_HEADER_OFFSET_2, sizeof *disks, &disks[1]);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the headers");
      return false;
    }
  return choose_header (s, disks, error) && check_header (s, error);
}
