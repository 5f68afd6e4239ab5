/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between VHD's disk structures and host ones: no I/O, no allocation. */
#ifndef VHD_CODEC_H
#define VHD_CODEC_H

#include <stdbool.h>

#include "spec.h"

typedef struct
{
  uint32_t features;
  uint64_t data_offset; /* bytes; VHD_NO_OFFSET for a fixed disk */
  uint32_t time_stamp;  /* VHD time */
  char creator_application[4];
  uint32_t creator_version;
  char creator_host_os[4];
  uint64_t original_size; /* bytes */
  uint64_t current_size;  /* bytes */
  uint16_t cylinders;
  uint8_t heads, sectors_per_track;
  uint32_t disk_type; /* VHD_TYPE_* */
  uint8_t unique_id[16];
  uint8_t saved_state;
  uint8_t hidden;
  bool incomplete; /* fixed: VHD_INCOMPLETE_COOKIE */
} VhdFooter;

typedef struct
{
  uint32_t code;   /* VHD_LOCATOR_* */
  uint32_t space;  /* as stored: sectors or bytes, see vhd_locator_space () */
  uint32_t length; /* bytes */
  uint64_t offset; /* bytes */
  uint32_t reserved;
} VhdLocator;

/* With what is reserved: whoever made it, a part of the header that is written again must fit the rest of it. */
typedef struct
{
  uint64_t table_offset; /* bytes */
  uint32_t max_table_entries;
  uint32_t block_size; /* bytes */
  uint8_t parent_unique_id[16];
  uint32_t parent_time_stamp; /* VHD time */
  uint32_t reserved1;
  uint16_t parent_name[VHD_PARENT_NAME_UNITS];
  VhdLocator locators[VHD_LOCATORS];
  uint8_t reserved2[256];
  bool incomplete; /* VHD_INCOMPLETE_COOKIE */
} VhdHeader;

typedef enum
{
  VHD_DECODE_OK,
  VHD_DECODE_COOKIE, /* not such a structure at all */
  VHD_DECODE_POISON, /* XenServer's mark of an image not to be used */
  VHD_DECODE_CHECKSUM,
  VHD_DECODE_VERSION,
} VhdDecode;

/* One's complement of the sum of all bytes, those of the checksum field (at @field) counted as zero. */
uint32_t vhd_checksum (const void *data, size_t bytes, size_t field);

/* Cookie, checksum and version only; *found and *expected name the two checksums or versions. */
VhdDecode vhd_footer_decode (const VhdFooterDisk *disk, VhdFooter *footer, uint32_t *found,
                             uint32_t *expected);
void vhd_footer_encode (const VhdFooter *footer, VhdFooterDisk *disk);
/* Whether two footers say the same. */
bool vhd_footer_equal (const VhdFooter *a, const VhdFooter *b);

VhdDecode vhd_header_decode (const VhdHeaderDisk *disk, VhdHeader *header, uint32_t *found,
                             uint32_t *expected);
void vhd_header_encode (const VhdHeader *header, VhdHeaderDisk *disk);

/* The space a locator occupies, bytes.  The specification counts it in sectors, Windows and most others in
 * bytes; what can only be the one is taken as it, anything odd as just its text. */
int64_t vhd_locator_space (const VhdLocator *locator);

/* CHS of a disk of @sectors (specification, appendix "CHS Calculation"). */
void vhd_geometry (uint64_t sectors, uint16_t *cylinders, uint8_t *heads, uint8_t *sectors_per_track);
/* The product in sectors. */
static inline uint64_t
vhd_geometry_sectors (uint16_t cylinders, uint8_t heads, uint8_t sectors_per_track)
{
  return (uint64_t)cylinders * heads * sectors_per_track;
}

/* Bytes of a sector bitmap as stored: whole sectors, at least one. */
static inline uint32_t
vhd_bitmap_padded (uint32_t block_size)
{
  uint32_t bytes = (block_size / VHD_SECTOR_SIZE + 7) / 8;

  return (bytes + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE * VHD_SECTOR_SIZE;
}

#endif
