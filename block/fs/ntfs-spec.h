/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NTFS on disk, as far as free space needs it.
 *
 *   sector 0: boot sector; its copy is the sector behind the file system
 *   anywhere: the MFT, a file of records.  Each record is a file: a header and attributes.  An attribute is resident
 *   (its value stands in the record) or not (runs of clusters).  What does not fit into one record goes on in others,
 *   and an attribute list names the pieces.
 *
 * Records of 512-byte strides end each with two bytes that must equal the update sequence number of the record; what
 * belongs there stands in the update sequence array: a torn write is seen.
 */
#ifndef FS_NTFS_SPEC_H
#define FS_NTFS_SPEC_H

#include "byteorder.h"

#include <stddef.h>

typedef struct
{
  uint8_t jump[3];
  char oem[8];
  Le16 sector_bytes;
  uint8_t cluster_sectors; /* above 0x80: 2^-n, n signed */
  uint8_t fat_zeros[7];    /* fields of FAT that are 0 here */
  uint8_t media;
  Le16 fat_zero_fat_sectors;
  Le16 track_sectors, heads;
  Le32 hidden_sectors;
  Le32 fat_zero_sectors_32;
  uint8_t drive[4];
  Le64 sectors;
  Le64 mft_lcn, mirror_lcn;
  int8_t record_clusters; /* negative: 2^-n bytes */
  uint8_t reserved[3];
  int8_t index_clusters;
  uint8_t reserved2[3];
  Le64 serial;
  Le32 checksum;
} NtfsBootDisk;
G_STATIC_ASSERT (sizeof (NtfsBootDisk) == 84);
G_STATIC_ASSERT (offsetof (NtfsBootDisk, sectors) == 0x28);
G_STATIC_ASSERT (offsetof (NtfsBootDisk, record_clusters) == 0x40);
G_STATIC_ASSERT (offsetof (NtfsBootDisk, serial) == 0x48);

#define NTFS_OEM               "NTFS    "
#define NTFS_MAX_CLUSTER_BYTES (2 * 1024 * 1024)
#define NTFS_MAX_RECORD_BYTES  (64 * 1024)
#define NTFS_STRIDE            512 /* of the update sequence */

/* Numbers of records. */
#define NTFS_MFT     0
#define NTFS_MIRROR  1
#define NTFS_LOGFILE 2
#define NTFS_VOLUME  3
#define NTFS_ATTRDEF 4
#define NTFS_ROOT    5
#define NTFS_BITMAP  6
#define NTFS_BOOT    7
#define NTFS_UPCASE  10

#define NTFS_MIRROR_RECORDS 4

/* What every structure with an update sequence starts with. */
typedef struct
{
  char magic[4];
  Le16 usa_offset, usa_count; /* the number and an element for each stride */
} NtfsUpdateDisk;
G_STATIC_ASSERT (sizeof (NtfsUpdateDisk) == 8);

/* 48 bits of number, 16 of sequence. */
#define NTFS_REF_NUMBER(ref)   ((ref)&G_GUINT64_CONSTANT (0xffffffffffff))
#define NTFS_REF_SEQUENCE(ref) ((uint16_t)((ref) >> 48))

typedef struct
{
  NtfsUpdateDisk update; /* "FILE" */
  Le64 lsn;
  Le16 sequence;
  Le16 links;
  Le16 attributes_offset;
  Le16 flags; /* NTFS_RECORD_* */
  Le32 bytes_used, bytes_allocated;
  Le64 base; /* 0, or the record that this one extends */
  Le16 next_attribute;
} NtfsRecordDisk;
G_STATIC_ASSERT (sizeof (NtfsRecordDisk) == 42);
G_STATIC_ASSERT (offsetof (NtfsRecordDisk, flags) == 22);
G_STATIC_ASSERT (offsetof (NtfsRecordDisk, base) == 32);

#define NTFS_RECORD_IN_USE 0x0001

typedef enum
{
  NTFS_AT_ATTRIBUTE_LIST = 0x20,
  NTFS_AT_VOLUME_NAME = 0x60,
  NTFS_AT_VOLUME_INFORMATION = 0x70,
  NTFS_AT_DATA = 0x80,
  NTFS_AT_INDEX_ROOT = 0x90,
  NTFS_AT_INDEX_ALLOCATION = 0xa0,
  NTFS_AT_BITMAP = 0xb0,
} NtfsAttributeType;
#define NTFS_AT_END 0xffffffff

typedef struct
{
  Le32 type;
  Le32 bytes; /* of the attribute, a multiple of 8 */
  uint8_t is_non_resident;
  uint8_t name_characters;
  Le16 name_offset;
  Le16 flags; /* NTFS_ATTRIBUTE_* */
  Le16 id;
  union
  {
    struct
    {
      Le32 value_bytes;
      Le16 value_offset;
      uint8_t flags, reserved;
    } resident;
    struct
    {
      Le64 lowest_vcn, highest_vcn;
      Le16 runs_offset;
      uint8_t compression_unit, reserved[5];
      Le64 allocated_bytes, data_bytes, initialized_bytes; /* in the piece with vcn 0 only */
    } non_resident;
  };
} NtfsAttributeDisk;
G_STATIC_ASSERT (sizeof (NtfsAttributeDisk) == 64);
G_STATIC_ASSERT (offsetof (NtfsAttributeDisk, resident.value_offset) == 20);
G_STATIC_ASSERT (offsetof (NtfsAttributeDisk, non_resident.data_bytes) == 48);

#define NTFS_ATTRIBUTE_HEADER_BYTES   16
#define NTFS_RESIDENT_HEADER_BYTES    24
#define NTFS_ATTRIBUTE_COMPRESSION    0x00ff
#define NTFS_ATTRIBUTE_ENCRYPTED      0x4000
#define NTFS_ATTRIBUTE_SPARSE         0x8000
#define NTFS_MAX_ATTRIBUTE_LIST_BYTES (256 * 1024)

typedef struct
{
  Le32 type;
  Le16 bytes;
  uint8_t name_characters, name_offset;
  Le64 lowest_vcn;
  Le64 record; /* reference */
  Le16 id;
} NtfsListEntryDisk;
G_STATIC_ASSERT (sizeof (NtfsListEntryDisk) == 26);

typedef struct
{
  uint8_t reserved[8];
  uint8_t major, minor;
  Le16 flags;
} NtfsVolumeInformationDisk;
G_STATIC_ASSERT (sizeof (NtfsVolumeInformationDisk) == 12);

#define NTFS_VOLUME_DIRTY 0x0001
/* A persistent setting (no short names are made) that Windows 10 sets on every volume it formats. */
#define NTFS_VOLUME_NO_SHORT_NAMES 0x0080

/* --- $LogFile ------------------------------------------------------------------------------------------ */

typedef struct
{
  NtfsUpdateDisk update; /* "RSTR"; "CHKD" after chkdsk; 0xff: empty */
  Le64 chkdsk_lsn;
  Le32 system_page_bytes, log_page_bytes;
  Le16 area_offset;
  Le16 minor, major;
} NtfsRestartPageDisk;
G_STATIC_ASSERT (sizeof (NtfsRestartPageDisk) == 30);

typedef struct
{
  Le64 lsn;
  Le16 clients, free_clients, clients_in_use;
  Le16 flags; /* NTFS_RESTART_* */
} NtfsRestartAreaDisk;
G_STATIC_ASSERT (sizeof (NtfsRestartAreaDisk) == 16);

#define NTFS_RESTART_CLEAN  0x0002
#define NTFS_NO_CLIENT      0xffff
#define NTFS_LOG_PAGE_BYTES 4096
#define NTFS_MAX_LOG_BYTES  (INT64_C (4) << 30)

/* --- directories --------------------------------------------------------------------------------------- */

typedef struct
{
  Le32 entries_offset; /* from the start of this header */
  Le32 bytes_used;
  Le32 bytes_allocated;
  uint8_t flags, reserved[3];
} NtfsIndexHeaderDisk;
G_STATIC_ASSERT (sizeof (NtfsIndexHeaderDisk) == 16);

typedef struct
{
  Le32 type; /* of the attribute that is indexed: 0x30 */
  Le32 collation;
  Le32 block_bytes;
  uint8_t block_clusters, reserved[3];
  NtfsIndexHeaderDisk header;
} NtfsIndexRootDisk;
G_STATIC_ASSERT (sizeof (NtfsIndexRootDisk) == 32);

typedef struct
{
  NtfsUpdateDisk update; /* "INDX" */
  Le64 lsn;
  Le64 vcn;
  NtfsIndexHeaderDisk header;
} NtfsIndexBlockDisk;
G_STATIC_ASSERT (sizeof (NtfsIndexBlockDisk) == 40);

typedef struct
{
  Le64 record; /* reference */
  Le16 bytes;
  Le16 key_bytes; /* of what follows */
  Le16 flags;
  Le16 reserved;
} NtfsIndexEntryDisk;
G_STATIC_ASSERT (sizeof (NtfsIndexEntryDisk) == 16);

#define NTFS_INDEX_ENTRY_LAST 0x0002
#define NTFS_FILE_NAME        0x30
/* In a key of file names. */
#define NTFS_NAME_CHARACTERS_OFFSET 64
#define NTFS_NAME_OFFSET            66

/* --- volume shadow copies ------------------------------------------------------------------------------ */

#define NTFS_SHADOW_GUID   "\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52"
#define NTFS_SHADOW_OFFSET 0x1e00

typedef struct
{
  uint8_t guid[16];
  Le32 version;
  Le32 record_type; /* 1 */
  uint8_t reserved[24];
  Le64 catalog_offset; /* bytes; 0: none */
  Le64 maximum_bytes;
  uint8_t volume[16], storage[16];
} NtfsShadowHeaderDisk;
G_STATIC_ASSERT (offsetof (NtfsShadowHeaderDisk, catalog_offset) == 48);
G_STATIC_ASSERT (sizeof (NtfsShadowHeaderDisk) == 96);

#define NTFS_SHADOW_BLOCK_BYTES  (16 * 1024)
#define NTFS_SHADOW_MAX_BLOCKS   64 /* 512 copies are the most that Windows keeps; they take 9 blocks */
#define NTFS_SHADOW_ENTRY_BYTES  128
#define NTFS_SHADOW_ENTRY_UNUSED 1 /* the largest type of an entry without a copy */

/* At the start of a block of the catalog; entries follow at NTFS_SHADOW_ENTRY_BYTES. */
typedef struct
{
  uint8_t guid[16];
  Le32 version;
  Le32 record_type; /* 2 */
  Le64 relative_offset, offset, next_offset;
} NtfsShadowBlockDisk;
G_STATIC_ASSERT (offsetof (NtfsShadowBlockDisk, next_offset) == 40);

#endif
