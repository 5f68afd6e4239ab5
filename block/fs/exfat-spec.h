/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exFAT on disk (Microsoft "exFAT file system specification").
 *
 *   main boot region (12 sectors) | backup boot region | FAT | cluster heap: clusters 2, 3, …
 *
 * In the cluster heap: the allocation bitmap, the up-case table, the root directory that names both, and files.
 */
#ifndef FS_EXFAT_SPEC_H
#define FS_EXFAT_SPEC_H

#include "byteorder.h"

#include <stddef.h>

typedef struct
{
  uint8_t jump[3];
  char name[8];
  uint8_t must_be_zero[53];
  Le64 partition_offset; /* sectors, as are the following */
  Le64 volume_length;
  Le32 fat_offset, fat_length;
  Le32 heap_offset;
  Le32 clusters;
  Le32 root_cluster;
  Le32 serial;
  uint8_t revision_minor, revision_major;
  Le16 flags; /* EXFAT_FLAG_* */
  uint8_t sector_shift, cluster_sectors_shift;
  uint8_t fats;
  uint8_t drive;
  uint8_t percent_in_use;
  uint8_t reserved[7];
  uint8_t code[390];
  uint8_t end[2];
} ExfatBootDisk;
G_STATIC_ASSERT (sizeof (ExfatBootDisk) == 512);
G_STATIC_ASSERT (offsetof (ExfatBootDisk, partition_offset) == 64);
G_STATIC_ASSERT (offsetof (ExfatBootDisk, flags) == 106);
G_STATIC_ASSERT (offsetof (ExfatBootDisk, percent_in_use) == 112);

#define EXFAT_NAME            "EXFAT   "
#define EXFAT_REGION_SECTORS  12 /* the last one repeats the checksum of the others */
#define EXFAT_FLAG_ACTIVE_FAT 0x0001
#define EXFAT_FLAG_DIRTY      0x0002
#define EXFAT_FLAG_MEDIA      0x0004
#define EXFAT_FLAG_CLEAR      0x0008 /* means nothing */
#define EXFAT_FAT_0           0xfffffff8
#define EXFAT_FAT_1           0xffffffff
#define EXFAT_FIRST           2 /* cluster */
#define EXFAT_END             0xffffffff
#define EXFAT_MAX_CLUSTERS    0xfffffff5
#define EXFAT_MAX_DIR_BYTES   (256 * 1024 * 1024)
#define EXFAT_MAX_UPCASE      (128 * 1024)

typedef struct
{
  uint8_t type; /* EXFAT_ENTRY_*; 0: the end; below 0x80: not in use */
  union
  {
    struct
    {
      uint8_t flags; /* bit 0: of the second FAT */
      uint8_t reserved[18];
      Le32 first_cluster;
      Le64 bytes;
    } bitmap;
    struct
    {
      uint8_t reserved[3];
      Le32 checksum;
      uint8_t reserved2[12];
      Le32 first_cluster;
      Le64 bytes;
    } upcase;
    struct
    {
      uint8_t characters;
      Le16 name[11];
      uint8_t reserved[8];
    } label;
  };
} ExfatEntryDisk;
G_STATIC_ASSERT (sizeof (ExfatEntryDisk) == 32);
G_STATIC_ASSERT (offsetof (ExfatEntryDisk, bitmap.first_cluster) == 20);
G_STATIC_ASSERT (offsetof (ExfatEntryDisk, upcase.first_cluster) == 20);

#define EXFAT_ENTRY_BITMAP 0x81
#define EXFAT_ENTRY_UPCASE 0x82
#define EXFAT_ENTRY_LABEL  0x83
#define EXFAT_ENTRY_IN_USE 0x80

#endif
