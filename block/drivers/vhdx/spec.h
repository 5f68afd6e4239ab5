/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VHDX on disk: constants and structures, as they stand in the file (little-endian byte arrays).
 * Microsoft's open specification [MS-VHDX], sections named beside each.
 */
#ifndef VHDX_SPEC_H
#define VHDX_SPEC_H

#include <stddef.h>

#include "byteorder.h"

#define VHDX_KIB INT64_C (1024)
#define VHDX_MIB (1024 * VHDX_KIB)
#define VHDX_TIB (1024 * 1024 * VHDX_MIB)

#define VHDX_MAX_DISK_BYTES     (64 * VHDX_TIB)
#define VHDX_MIN_BLOCK_SIZE     (1 * VHDX_MIB)
#define VHDX_MAX_BLOCK_SIZE     (256 * VHDX_MIB)
#define VHDX_BITMAP_BLOCK_BYTES VHDX_MIB
/* Sectors that one sector bitmap block speaks of: a chunk. */
#define VHDX_CHUNK_SECTORS (INT64_C (1) << 23)

typedef struct
{
  uint8_t b[16]; /* three little-endian integers and eight bytes; compared as bytes */
} VhdxGuid;

/* --- header section (2.2) ------------------------------------------------------------------------------- */

#define VHDX_IDENTIFIER_SIGNATURE "vhdxfile"
#define VHDX_CREATOR_UNITS        256 /* UTF-16 */
#define VHDX_HEADER_OFFSET_1      (64 * VHDX_KIB)
#define VHDX_HEADER_OFFSET_2      (128 * VHDX_KIB)
#define VHDX_REGION_OFFSET_1      (192 * VHDX_KIB)
#define VHDX_REGION_OFFSET_2      (256 * VHDX_KIB)
#define VHDX_HEADER_SECTION       VHDX_MIB

typedef struct
{
  char signature[8];
  Le16 creator[VHDX_CREATOR_UNITS];
} VhdxIdentifierDisk;

#define VHDX_HEADER_SIZE      4096
#define VHDX_HEADER_SIGNATURE "head"
#define VHDX_VERSION          1
#define VHDX_LOG_VERSION      0

typedef struct
{
  char signature[4];
  Le32 checksum;
  Le64 sequence_number;
  VhdxGuid file_write_guid;
  VhdxGuid data_write_guid;
  VhdxGuid log_guid;
  Le16 log_version;
  Le16 version;
  Le32 log_length;
  Le64 log_offset;
  uint8_t reserved[4016];
} VhdxHeaderDisk;

G_STATIC_ASSERT (sizeof (VhdxHeaderDisk) == VHDX_HEADER_SIZE);
G_STATIC_ASSERT (offsetof (VhdxHeaderDisk, log_guid) == 48);
G_STATIC_ASSERT (offsetof (VhdxHeaderDisk, log_offset) == 72);

/* --- region table (2.2.3) ------------------------------------------------------------------------------- */

#define VHDX_REGION_TABLE_SIZE (64 * 1024)
#define VHDX_REGION_SIGNATURE  "regi"
#define VHDX_MAX_REGIONS       2047
#define VHDX_REGION_REQUIRED   0x1

typedef struct
{
  char signature[4];
  Le32 checksum;
  Le32 entry_count;
  Le32 reserved;
} VhdxRegionTableDisk;

typedef struct
{
  VhdxGuid guid;
  Le64 file_offset;
  Le32 length;
  Le32 flags;
} VhdxRegionDisk;

G_STATIC_ASSERT (sizeof (VhdxRegionTableDisk) == 16);
G_STATIC_ASSERT (sizeof (VhdxRegionDisk) == 32);

/* --- log (2.3) ------------------------------------------------------------------------------------------ */

#define VHDX_LOG_SECTOR           4096
#define VHDX_LOG_ENTRY_SIGNATURE  "loge"
#define VHDX_LOG_ZERO_SIGNATURE   "zero"
#define VHDX_LOG_DATA_SIGNATURE   "desc"
#define VHDX_LOG_SECTOR_SIGNATURE "data"
/* Microsoft's writer makes logs of 1 MiB; longer ones than this are refused. */
#define VHDX_MAX_LOG_BYTES (1024 * VHDX_MIB)

typedef struct
{
  char signature[4];
  Le32 checksum;
  Le32 entry_length;
  Le32 tail;
  Le64 sequence_number;
  Le32 descriptor_count;
  Le32 reserved;
  VhdxGuid log_guid;
  Le64 flushed_file_offset;
  Le64 last_file_offset;
} VhdxLogEntryDisk;

/* Zero and data descriptors differ in their second and third member. */
typedef struct
{
  char signature[4];
  Le32 trailing_bytes; /* data: the last 4 bytes of the sector; zero: reserved */
  Le64 leading_bytes;  /* data: its first 8 bytes; zero: the length */
  Le64 file_offset;
  Le64 sequence_number;
} VhdxLogDescriptorDisk;

typedef struct
{
  char signature[4];
  Le32 sequence_high;
  uint8_t data[4084];
  Le32 sequence_low;
} VhdxLogSectorDisk;

G_STATIC_ASSERT (sizeof (VhdxLogEntryDisk) == 64);
G_STATIC_ASSERT (sizeof (VhdxLogDescriptorDisk) == 32);
G_STATIC_ASSERT (sizeof (VhdxLogSectorDisk) == VHDX_LOG_SECTOR);

/* --- metadata region (2.6) ------------------------------------------------------------------------------ */

#define VHDX_METADATA_TABLE_SIZE   (64 * 1024)
#define VHDX_METADATA_SIGNATURE    "metadata"
#define VHDX_MAX_METADATA_ENTRIES  2047
#define VHDX_MAX_USER_ENTRIES      1024
#define VHDX_MAX_METADATA_ITEM     VHDX_MIB
#define VHDX_METADATA_USER         0x1
#define VHDX_METADATA_VIRTUAL_DISK 0x2
#define VHDX_METADATA_REQUIRED     0x4
#define VHDX_METADATA_KNOWN_FLAGS  0x7
/* Of the parent, by a child.  Microsoft's reader takes 40 MiB of the system's items and as much of the users'. */
#define VHDX_MAX_COPIED_METADATA (40 * VHDX_MIB)

typedef struct
{
  char signature[8];
  Le16 reserved;
  Le16 entry_count;
  uint8_t reserved2[20];
} VhdxMetadataTableDisk;

typedef struct
{
  VhdxGuid item_id;
  Le32 offset; /* from the start of the region */
  Le32 length;
  Le32 flags;
  Le32 reserved;
} VhdxMetadataEntryDisk;

G_STATIC_ASSERT (sizeof (VhdxMetadataTableDisk) == 32);
G_STATIC_ASSERT (sizeof (VhdxMetadataEntryDisk) == 32);

#define VHDX_PARAMETER_LEAVE_ALLOCATED 0x1
#define VHDX_PARAMETER_HAS_PARENT      0x2

typedef struct
{
  VhdxGuid locator_type;
  Le16 reserved;
  Le16 count;
} VhdxLocatorDisk;

typedef struct
{
  Le32 key_offset; /* from the start of the item */
  Le32 value_offset;
  Le16 key_length; /* bytes */
  Le16 value_length;
} VhdxLocatorEntryDisk;

G_STATIC_ASSERT (sizeof (VhdxLocatorDisk) == 20);
G_STATIC_ASSERT (sizeof (VhdxLocatorEntryDisk) == 12);

#define VHDX_MAX_LOCATOR_ENTRIES 256

/* --- block allocation table (2.5) ----------------------------------------------------------------------- */

#define VHDX_BAT_STATE_MASK    UINT64_C (0x7)
#define VHDX_BAT_RESERVED_MASK UINT64_C (0xFFFF8)
#define VHDX_BAT_OFFSET_MASK   (~UINT64_C (0xFFFFF))

typedef enum
{
  VHDX_BLOCK_NOT_PRESENT = 0,
  VHDX_BLOCK_UNDEFINED = 1,
  VHDX_BLOCK_ZERO = 2,
  VHDX_BLOCK_UNMAPPED = 3,
  VHDX_BLOCK_UNMAPPED_DRAFT = 5, /* of the draft 0.95 */
  VHDX_BLOCK_FULLY_PRESENT = 6,
  VHDX_BLOCK_PARTIALLY_PRESENT = 7,
} VhdxBlockState;

#define VHDX_BITMAP_PRESENT 6

#endif
