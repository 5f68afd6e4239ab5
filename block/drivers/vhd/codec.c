/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec.h"

#include "checked.h"

uint32_t
vhd_checksum (const void *data, size_t bytes, size_t field)
{
  const uint8_t *p = data;
  uint32_t sum = 0;

  for (size_t i = 0; i < bytes; i++)
    if (i < field || i >= field + 4)
      sum += p[i];
  return ~sum;
}

/* Whether @cookie is @expected, or the one of an image that is being filled. */
static bool
take_cookie (const char cookie[8], const char *expected, bool *incomplete)
{
  *incomplete = memcmp (cookie, VHD_INCOMPLETE_COOKIE, 8) == 0;
  return *incomplete || memcmp (cookie, expected, 8) == 0;
}

VhdDecode
vhd_footer_decode (const VhdFooterDisk *disk, VhdFooter *footer, uint32_t *found, uint32_t *expected)
{
  VhdFooterDisk copy = *disk;
  bool incomplete;

  if (memcmp (disk->cookie, VHD_POISON_COOKIE, sizeof disk->cookie) == 0)
    return VHD_DECODE_POISON;
  if (!take_cookie (disk->cookie, VHD_FOOTER_COOKIE, &incomplete)
      || (incomplete && be32_get (disk->disk_type) != VHD_TYPE_FIXED))
    return VHD_DECODE_COOKIE;

  *found = be32_get (disk->checksum);
  *expected = vhd_checksum (&copy, sizeof copy, offsetof (VhdFooterDisk, checksum));
  if (*found != *expected && disk->hidden != 0)
    {
      /* COMPAT: blktap 0.1 and 1.1 set the hidden flag and left the checksum as it was. */
      copy.hidden = 0;
      if (*found == vhd_checksum (&copy, sizeof copy, offsetof (VhdFooterDisk, checksum)))
        *expected = *found;
    }
  if (*found != *expected)
    return VHD_DECODE_CHECKSUM;

  *found = be32_get (disk->format_version);
  *expected = VHD_FORMAT_VERSION;
  if (*found >> 16 != *expected >> 16)
    return VHD_DECODE_VERSION;

  footer->features = be32_get (disk->features);
  footer->data_offset = be64_get (disk->data_offset);
  footer->time_stamp = be32_get (disk->time_stamp);
  memcpy (footer->creator_application, disk->creator_application, 4);
  footer->creator_version = be32_get (disk->creator_version);
  memcpy (footer->creator_host_os, disk->creator_host_os, 4);
  footer->original_size = be64_get (disk->original_size);
  footer->current_size = be64_get (disk->current_size);
  footer->cylinders = be16_get (disk->cylinders);
  footer->heads = disk->heads;
  footer->sectors_per_track = disk->sectors_per_track;
  footer->disk_type = be32_get (disk->disk_type);
  memcpy (footer->unique_id, disk->unique_id, sizeof footer->unique_id);
  footer->saved_state = disk->saved_state;
  footer->hidden = disk->hidden;
  footer->incomplete = incomplete;
  return VHD_DECODE_OK;
}

void
vhd_footer_encode (const VhdFooter *footer, VhdFooterDisk *disk)
{
  memset (disk, 0, sizeof *disk);
  memcpy (disk->cookie, footer->incomplete ? VHD_INCOMPLETE_COOKIE : VHD_FOOTER_COOKIE, sizeof disk->cookie);
  disk->features = be32 (footer->features);
  disk->format_version = be32 (VHD_FORMAT_VERSION);
  disk->data_offset = be64 (footer->data_offset);
  disk->time_stamp = be32 (footer->time_stamp);
  memcpy (disk->creator_application, footer->creator_application, 4);
  disk->creator_version = be32 (footer->creator_version);
  memcpy (disk->creator_host_os, footer->creator_host_os, 4);
  disk->original_size = be64 (footer->original_size);
  disk->current_size = be64 (footer->current_size);
  disk->cylinders = be16 (footer->cylinders);
  disk->heads = footer->heads;
  disk->sectors_per_track = footer->sectors_per_track;
  disk->disk_type = be32 (footer->disk_type);
  memcpy (disk->unique_id, footer->unique_id, sizeof disk->unique_id);
  disk->saved_state = footer->saved_state;
  disk->hidden = footer->hidden;
  disk->checksum = be32 (vhd_checksum (disk, sizeof *disk, offsetof (VhdFooterDisk, checksum)));
}

bool
vhd_footer_equal (const VhdFooter *a, const VhdFooter *b)
{
  VhdFooterDisk disk_a, disk_b;

  vhd_footer_encode (a, &disk_a);
  vhd_footer_encode (b, &disk_b);
  return memcmp (&disk_a, &disk_b, sizeof disk_a) == 0;
}

VhdDecode
vhd_header_decode (const VhdHeaderDisk *disk, VhdHeader *header, uint32_t *found, uint32_t *expected)
{
  if (!take_cookie (disk->cookie, VHD_HEADER_COOKIE, &header->incomplete))
    return VHD_DECODE_COOKIE;

  *found = be32_get (disk->checksum);
  *expected = vhd_checksum (disk, sizeof *disk, offsetof (VhdHeaderDisk, checksum));
  if (*found != *expected)
    return VHD_DECODE_CHECKSUM;

  *found = be32_get (disk->header_version);
  *expected = VHD_HEADER_VERSION;
  if (*found >> 16 != *expected >> 16)
    return VHD_DECODE_VERSION;

  header->table_offset = be64_get (disk->table_offset);
  header->max_table_entries = be32_get (disk->max_table_entries);
  header->block_size = be32_get (disk->block_size);
  memcpy (header->parent_unique_id, disk->parent_unique_id, sizeof header->parent_unique_id);
  header->parent_time_stamp = be32_get (disk->parent_time_stamp);
  header->reserved1 = be32_get (disk->reserved1);
  for (int i = 0; i < VHD_PARENT_NAME_UNITS; i++)
    header->parent_name[i] = be16_get (disk->parent_name[i]);
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      header->locators[i].code = be32_get (disk->locators[i].platform_code);
      header->locators[i].space = be32_get (disk->locators[i].data_space);
      header->locators[i].length = be32_get (disk->locators[i].data_length);
      header->locators[i].reserved = be32_get (disk->locators[i].reserved);
      header->locators[i].offset = be64_get (disk->locators[i].data_offset);
    }
  memcpy (header->reserved2, disk->reserved2, sizeof header->reserved2);
  return VHD_DECODE_OK;
}

void
vhd_header_encode (const VhdHeader *header, VhdHeaderDisk *disk)
{
  memset (disk, 0, sizeof *disk);
  memcpy (disk->cookie, header->incomplete ? VHD_INCOMPLETE_COOKIE : VHD_HEADER_COOKIE, sizeof disk->cookie);
  disk->data_offset = be64 (VHD_NO_OFFSET);
  disk->table_offset = be64 (header->table_offset);
  disk->header_version = be32 (VHD_HEADER_VERSION);
  disk->max_table_entries = be32 (header->max_table_entries);
  disk->block_size = be32 (header->block_size);
  memcpy (disk->parent_unique_id, header->parent_unique_id, sizeof disk->parent_unique_id);
  disk->parent_time_stamp = be32 (header->parent_time_stamp);
  disk->reserved1 = be32 (header->reserved1);
  for (int i = 0; i < VHD_PARENT_NAME_UNITS; i++)
    disk->parent_name[i] = be16 (header->parent_name[i]);
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      disk->locators[i].platform_code = be32 (header->locators[i].code);
      disk->locators[i].data_space = be32 (header->locators[i].space);
      disk->locators[i].data_length = be32 (header->locators[i].length);
      disk->locators[i].reserved = be32 (header->locators[i].reserved);
      disk->locators[i].data_offset = be64 (header->locators[i].offset);
    }
  memcpy (disk->reserved2, header->reserved2, sizeof disk->reserved2);
  disk->checksum = be32 (vhd_checksum (disk, sizeof *disk, offsetof (VhdHeaderDisk, checksum)));
}

int64_t
vhd_locator_space (const VhdLocator *locator)
{
  int64_t length = round_up (locator->length, VHD_SECTOR_SIZE);

  if (locator->space < VHD_SECTOR_SIZE)
    return MAX (length, (int64_t)locator->space * VHD_SECTOR_SIZE);
  if (locator->space % VHD_SECTOR_SIZE == 0)
    return MAX (length, (int64_t)locator->space);
  return length;
}
