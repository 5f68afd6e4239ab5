/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHD on disk: constants and structures, as they stand in the file (big-endian byte arrays).
 * Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, sections named beside each.
 */
#ifndef VHD_SPEC_H
#define VHD_SPEC_H

#include <stddef.h>

#include "byteorder.h"

#define VHD_SECTOR_SIZE 512

/* Seconds between the Unix epoch and 2000-01-01 00:00:00 UTC, where VHD time starts. */
#define VHD_EPOCH_OFFSET 946684800

/* A disk of more sectors would not leave room for its table below the 2 TiB that BAT entries reach. */
#define VHD_MAX_SECTORS INT64_C (0xFF000000)
#define VHD_MAX_BYTES   (VHD_MAX_SECTORS * VHD_SECTOR_SIZE)

#define VHD_MIN_BLOCK_SIZE     512
#define VHD_MAX_BLOCK_SIZE     (256 << 20)
#define VHD_DEFAULT_BLOCK_SIZE (2 << 20)

/* --- footer ("Hard Disk Footer Format") ---------------------------------------------------------------- */

#define VHD_FOOTER_SIZE       512
#define VHD_FOOTER_COOKIE     "conectix"
#define VHD_POISON_COOKIE     "v_poison" /* XenServer: this image must not be used */
#define VHD_FORMAT_VERSION    0x00010000
#define VHD_FEATURE_TEMPORARY 0x1
#define VHD_FEATURE_RESERVED  0x2 /* always set */
#define VHD_NO_OFFSET         UINT64_MAX

/* Ours, where the cookie of the dynamic header belongs, or that of a fixed image's footer: the image is being filled.
 * To all other software the header, or footer, is missing. */
#define VHD_INCOMPLETE_COOKIE "cxunmade"

enum
{
  VHD_TYPE_FIXED = 2,
  VHD_TYPE_DYNAMIC = 3,
  VHD_TYPE_DIFFERENCING = 4,
};

typedef struct
{
  char cookie[8];
  Be32 features;
  Be32 format_version;
  Be64 data_offset;
  Be32 time_stamp;
  char creator_application[4];
  Be32 creator_version;
  char creator_host_os[4];
  Be64 original_size;
  Be64 current_size;
  Be16 cylinders;
  uint8_t heads;
  uint8_t sectors_per_track;
  Be32 disk_type;
  Be32 checksum;
  uint8_t unique_id[16];
  uint8_t saved_state;
  uint8_t hidden; /* reserved in the specification; XenServer's "hidden" flag */
  uint8_t reserved[426];
} VhdFooterDisk;

G_STATIC_ASSERT (sizeof (VhdFooterDisk) == VHD_FOOTER_SIZE);
G_STATIC_ASSERT (offsetof (VhdFooterDisk, current_size) == 48);
G_STATIC_ASSERT (offsetof (VhdFooterDisk, checksum) == 64);
G_STATIC_ASSERT (offsetof (VhdFooterDisk, unique_id) == 68);
G_STATIC_ASSERT (offsetof (VhdFooterDisk, hidden) == 85);

/* --- dynamic header ("Dynamic Disk Header Format") ------------------------------------------------------ */

#define VHD_HEADER_SIZE       1024
#define VHD_HEADER_COOKIE     "cxsparse"
#define VHD_HEADER_VERSION    0x00010000
#define VHD_LOCATORS          8
#define VHD_PARENT_NAME_UNITS 256 /* UTF-16 */

typedef struct
{
  Be32 platform_code;
  Be32 data_space;
  Be32 data_length;
  Be32 reserved;
  Be64 data_offset;
} VhdLocatorDisk;

typedef struct
{
  char cookie[8];
  Be64 data_offset;
  Be64 table_offset;
  Be32 header_version;
  Be32 max_table_entries;
  Be32 block_size;
  Be32 checksum;
  uint8_t parent_unique_id[16];
  Be32 parent_time_stamp;
  Be32 reserved1;
  Be16 parent_name[VHD_PARENT_NAME_UNITS];
  VhdLocatorDisk locators[VHD_LOCATORS];
  uint8_t reserved2[256];
} VhdHeaderDisk;

G_STATIC_ASSERT (sizeof (VhdLocatorDisk) == 24);
G_STATIC_ASSERT (sizeof (VhdHeaderDisk) == VHD_HEADER_SIZE);
G_STATIC_ASSERT (offsetof (VhdHeaderDisk, checksum) == 36);
G_STATIC_ASSERT (offsetof (VhdHeaderDisk, parent_name) == 64);
G_STATIC_ASSERT (offsetof (VhdHeaderDisk, locators) == 576);

/* Platform codes of parent locators. */
#define VHD_LOCATOR_NONE 0x00000000u
#define VHD_LOCATOR_WI2R 0x57693272u /* relative Windows path, 8-bit text */
#define VHD_LOCATOR_WI2K 0x5769326Bu /* absolute Windows path, 8-bit text */
#define VHD_LOCATOR_W2RU 0x57327275u /* relative Windows path, UTF-16LE */
#define VHD_LOCATOR_W2KU 0x57326B75u /* absolute Windows path, UTF-16LE */
#define VHD_LOCATOR_MAC  0x4D616320u /* alias blob */
#define VHD_LOCATOR_MACX 0x4D616358u /* file URL, UTF-8 */

/* Longer locator texts are not read. */
#define VHD_LOCATOR_MAX_LENGTH (64 << 10)

/* --- block allocation table ----------------------------------------------------------------------------- */

#define VHD_BAT_UNUSED 0xFFFFFFFFu

/* --- batmap (XenServer) --------------------------------------------------------------------------------- */

#define VHD_BATMAP_COOKIE  "tdbatmap"
#define VHD_BATMAP_VERSION 0x00010002
#define VHD_BATMAP_SIZE    512

typedef struct
{
  char cookie[8];
  Be64 map_offset; /* bytes */
  Be32 map_sectors;
  Be32 version;
  Be32 checksum; /* of the map */
  uint8_t marker;
  uint8_t key_hash_present;
  uint8_t key_nonce[32];
  uint8_t key_hash[32];
  uint8_t reserved[418];
} VhdBatmapDisk;

G_STATIC_ASSERT (sizeof (VhdBatmapDisk) == VHD_BATMAP_SIZE);
G_STATIC_ASSERT (offsetof (VhdBatmapDisk, checksum) == 24);

#endif
