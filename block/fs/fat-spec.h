/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FAT12, FAT16 and FAT32 on disk (Microsoft "FAT: General Overview of On-Disk Format" 1.03 and ECMA-107).
 *
 *   boot sector … reserved | FAT | FAT copy | root directory (FAT12, FAT16) | clusters 2, 3, …
 */
#ifndef FS_FAT_SPEC_H
#define FS_FAT_SPEC_H

#include "byteorder.h"

#include <stddef.h>

typedef struct
{
  uint8_t jump[3];
  char oem[8];
  Le16 sector_bytes;
  uint8_t cluster_sectors;
  Le16 reserved_sectors;
  uint8_t fats;
  Le16 root_entries; /* 0: FAT32 */
  Le16 sectors_16;   /* 0: see sectors_32 */
  uint8_t media;
  Le16 fat_sectors_16; /* 0: FAT32 */
  Le16 track_sectors, heads;
  Le32 hidden_sectors;
  Le32 sectors_32;
  union
  {
    struct
    {
      uint8_t drive;
      uint8_t state; /* FAT_STATE_* */
      uint8_t signature;
      Le32 serial;
      char label[11], type[8];
    } fat16; /* FAT12 too */
    struct
    {
      Le32 fat_sectors;
      Le16 flags; /* FAT32_* */
      Le16 version;
      Le32 root_cluster;
      Le16 info_sector, backup_sector;
      uint8_t reserved[12];
      uint8_t drive;
      uint8_t state;
      uint8_t signature;
      Le32 serial;
      char label[11], type[8];
    } fat32;
  };
} FatBootDisk;
G_STATIC_ASSERT (sizeof (FatBootDisk) == 90);
G_STATIC_ASSERT (offsetof (FatBootDisk, fat16.state) == 0x25);
G_STATIC_ASSERT (offsetof (FatBootDisk, fat32.root_cluster) == 0x2c);
G_STATIC_ASSERT (offsetof (FatBootDisk, fat32.state) == 0x41);
G_STATIC_ASSERT (offsetof (FatBootDisk, fat32.type) == 82);

#define FAT_STATE_DIRTY         0x01 /* mounted, or not cleanly unmounted */
#define FAT_STATE_NEEDS_SURFACE 0x02 /* an I/O error was seen */
#define FAT_SIGNATURE_SERIAL    0x28 /* what follows the state is there up to the serial number */
#define FAT_SIGNATURE_LABEL     0x29 /* all of it */
#define FAT32_ACTIVE_MASK       0x000f
#define FAT32_NOT_MIRRORED      0x0080 /* only the active FAT is kept up to date */

#define FAT_END_OFFSET 510 /* of 0x55 0xaa, whatever the sector size */
#define FAT_DIR_ENTRY  32

/* Entry 1 of the FAT: set while the volume is clean, and while no I/O error was seen. */
#define FAT16_CLEAN    0x8000
#define FAT16_NO_ERROR 0x4000
#define FAT32_CLEAN    0x08000000
#define FAT32_NO_ERROR 0x04000000

#define FAT12_MIN_END 4085 /* clusters: fewer are FAT12 */
#define FAT16_MIN_END 65525
#define FAT32_MAX     0x0ffffff5
#define FAT_FIRST     2 /* cluster */

/* BitLocker To Go shows older systems a FAT32 that is none; its boot sector has this at FAT_TO_GO_OFFSET. */
#define FAT_TO_GO_OFFSET 424
#define FAT_TO_GO_GUID   "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"

#endif
