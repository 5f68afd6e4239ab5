/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The physical volume of LVM2 as it stands on disk, its label to the metadata areas.  All integers are little-endian. */
#ifndef FS_LVM2_SPEC_H
#define FS_LVM2_SPEC_H

#include <glib.h>
#include <stddef.h>

#include "byteorder.h"

#define LVM2_SECTOR         512
#define LVM2_LABEL_SECTORS  4 /* the label stands in one of these */
#define LVM2_LABEL_ID       "LABELONE"
#define LVM2_LABEL_TYPE     "LVM2 001"
#define LVM2_CRC_START      0xf597a6cfu
#define LVM2_UUID_BYTES     32
#define LVM2_PV_EXTENSION   2 /* the newest version of what follows the areas */
#define LVM2_MDA_MAGIC      " LVM2 x[5A%r0N*>"
#define LVM2_MDA_VERSION    1
#define LVM2_MDA_HEADER     512 /* the text comes behind, around and around */
#define LVM2_MAX_TEXT_BYTES (4 * 1024 * 1024)
#define LVM2_MAX_AREAS      2

/* Sum: over the rest of the sector behind it. */
typedef struct
{
  char id[8];
  Le64 sector;
  Le32 crc;
  Le32 offset; /* of the header, in the sector */
  char type[8];
} Lvm2LabelDisk;
G_STATIC_ASSERT (sizeof (Lvm2LabelDisk) == 32);

/* Two lists of areas follow, each ended by zeros: for data, and for metadata. */
typedef struct
{
  char uuid[LVM2_UUID_BYTES];
  Le64 bytes;
} Lvm2PvDisk;
G_STATIC_ASSERT (sizeof (Lvm2PvDisk) == 40);

typedef struct
{
  Le64 offset, bytes;
} Lvm2AreaDisk;
G_STATIC_ASSERT (sizeof (Lvm2AreaDisk) == 16);

typedef struct
{
  Le64 offset, bytes; /* the offset from the start of the area */
  Le32 crc, flags;
} Lvm2PlaceDisk;
G_STATIC_ASSERT (sizeof (Lvm2PlaceDisk) == 24);

/* Sum: over the rest of the sector behind it. */
typedef struct
{
  Le32 crc;
  char magic[16];
  Le32 version;
  Le64 offset, bytes;
  Lvm2PlaceDisk committed, prepared;
} Lvm2MdaDisk;
G_STATIC_ASSERT (sizeof (Lvm2MdaDisk) == 88);

#endif
