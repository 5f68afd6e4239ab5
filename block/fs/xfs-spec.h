/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* XFS as it stands on disk, as far as its free space goes ("XFS Algorithms & Data Structures", 3rd edition).
 * All integers are big-endian but the checksums, which are CRC-32C and little-endian. */
#ifndef FS_XFS_SPEC_H
#define FS_XFS_SPEC_H

#include <stddef.h>

#include "byteorder.h"

#define XFS_SUPER_MAGIC     0x58465342u /* "XFSB" */
#define XFS_AGF_MAGIC       0x58414746u /* "XAGF" */
#define XFS_AGFL_MAGIC      0x5841464Cu /* "XAFL", v5 only */
#define XFS_BNOBT_MAGIC     0x41425442u /* "ABTB": free extents by block */
#define XFS_BNOBT_CRC_MAGIC 0x41423342u /* "AB3B" */
#define XFS_CNTBT_MAGIC     0x41425443u /* "ABTC": by size */
#define XFS_CNTBT_CRC_MAGIC 0x41423343u /* "AB3C" */
#define XFS_LOG_MAGIC       0xFEEDBABEu

#define XFS_MIN_SECTOR       512
#define XFS_MAX_SECTOR       32768
#define XFS_MIN_BLOCK        512
#define XFS_MAX_BLOCK        65536
#define XFS_MIN_AG_BLOCKS    64
#define XFS_MIN_AG_BYTES     ((uint64_t)1 << 24)
#define XFS_MAX_AG_BYTES     ((uint64_t)1 << 40)
#define XFS_MAX_LOG_BYTES    ((uint64_t)1 << 31)
#define XFS_MAX_BTREE_LEVELS 16
#define XFS_NULL_AGBLOCK     0xFFFFFFFFu

/* The sectors of an allocation group's start: superblock, AGF, AGI, AGFL. */
#define XFS_AGF_SECTOR  1
#define XFS_AGFL_SECTOR 3
#define XFS_AG_SECTORS  4

/* sb_versionnum */
#define XFS_VERSION_MASK   0x000F
#define XFS_VERSION_4      4
#define XFS_VERSION_5      5
#define XFS_VERSION_SHARED 0x0200
#define XFS_VERSION_LOGV2  0x0400
#define XFS_VERSION_EXTFLG 0x1000
#define XFS_VERSION_DIRV2  0x2000
#define XFS_VERSION_MORE   0x8000
/* sb_features2, valid with XFS_VERSION_MORE: lazy counters, attr2, 32-bit project ids, file types. */
#define XFS_FEATURES2_KNOWN 0x0000028Au

/* Version 5.  Compatible features never matter: who does not know them may write. */
#define XFS_RO_COMPAT_FINOBT     0x01u
#define XFS_RO_COMPAT_RMAPBT     0x02u
#define XFS_RO_COMPAT_REFLINK    0x04u
#define XFS_RO_COMPAT_INOBTCNT   0x08u
#define XFS_INCOMPAT_FTYPE       0x01u
#define XFS_INCOMPAT_SPINODES    0x02u
#define XFS_INCOMPAT_META_UUID   0x04u
#define XFS_INCOMPAT_BIGTIME     0x08u
#define XFS_INCOMPAT_NEEDSREPAIR 0x10u
#define XFS_INCOMPAT_NREXT64     0x20u
#define XFS_INCOMPAT_EXCHRANGE   0x40u
#define XFS_INCOMPAT_PARENT      0x80u

typedef struct
{
  Be32 magic;
  Be32 block_size;
  Be64 data_blocks;
  Be64 realtime_blocks;
  Be64 realtime_extents;
  uint8_t uuid[16];
  Be64 log_start; /* file system block, 0: the log is on another device */
  Be64 inodes[3]; /* root, realtime bitmap, realtime summary */
  Be32 realtime_extent_size;
  Be32 ag_blocks;
  Be32 ag_count;
  Be32 realtime_bitmap_blocks;
  Be32 log_blocks;
  Be16 version;
  Be16 sector_size;
  Be16 inode_size;
  Be16 inodes_per_block;
  char label[12];
  uint8_t block_log;
  uint8_t sector_log;
  uint8_t inode_log;
  uint8_t inodes_per_block_log;
  uint8_t ag_blocks_log;
  uint8_t realtime_extents_log;
  uint8_t in_progress;
  uint8_t inode_max_percent;
  Be64 counters[4]; /* inodes, free inodes, free blocks, free realtime extents */
  Be64 quota_inodes[2];
  Be16 quota_flags;
  uint8_t flags;
  uint8_t shared_version;
  Be32 inode_alignment;
  Be32 stripe_unit;
  Be32 stripe_width;
  uint8_t directory_block_log;
  uint8_t log_sector_log;
  Be16 log_sector_size;
  Be32 log_stripe_unit;
  Be32 features2;
  Be32 bad_features2;
  /* version 5 */
  Be32 compat;
  Be32 ro_compat;
  Be32 incompat;
  Be32 log_incompat;
  Le32 crc; /* of the whole sector */
  Be32 sparse_inode_alignment;
  Be64 project_quota_inode;
  Be64 lsn;
  uint8_t meta_uuid[16]; /* with XFS_INCOMPAT_META_UUID */
} XfsSuperDisk;
G_STATIC_ASSERT (offsetof (XfsSuperDisk, log_start) == 48);
G_STATIC_ASSERT (offsetof (XfsSuperDisk, version) == 100);
G_STATIC_ASSERT (offsetof (XfsSuperDisk, features2) == 200);
G_STATIC_ASSERT (offsetof (XfsSuperDisk, crc) == 224);
G_STATIC_ASSERT (sizeof (XfsSuperDisk) == 264);

/* The head of an allocation group's free space. */
typedef struct
{
  Be32 magic;
  Be32 version;
  Be32 ag;
  Be32 blocks;
  Be32 roots[3]; /* bnobt, cntbt, reverse map */
  Be32 levels[3];
  Be32 freelist_first;
  Be32 freelist_last;
  Be32 freelist_count;
  Be32 free_blocks; /* without those of the free list */
  Be32 longest;
  Be32 btree_blocks;
  /* version 5 */
  uint8_t uuid[16];
  Be32 reverse_map_blocks;
  Be32 reference_count_blocks;
  Be32 reference_count_root;
  Be32 reference_count_level;
  Be64 spare[14];
  Be64 lsn;
  Le32 crc; /* of the whole sector */
  Be32 spare2;
} XfsAgfDisk;
G_STATIC_ASSERT (offsetof (XfsAgfDisk, uuid) == 64);
G_STATIC_ASSERT (offsetof (XfsAgfDisk, crc) == 216);
G_STATIC_ASSERT (sizeof (XfsAgfDisk) == 224);

/* Before the free list's block numbers in version 5; version 4 has no header. */
typedef struct
{
  Be32 magic;
  Be32 ag;
  uint8_t uuid[16];
  Be64 lsn;
  Le32 crc; /* of the whole sector */
} XfsAgflDisk;
G_STATIC_ASSERT (offsetof (XfsAgflDisk, crc) == 32);
G_STATIC_ASSERT (sizeof (XfsAgflDisk) == 36);

/* A block of a tree inside an allocation group.  Leaves hold XfsFreeDisk records; nodes hold as many keys, which
 * look like records, as would fit, then block numbers. */
typedef struct
{
  Be32 magic;
  Be16 level;
  Be16 count;
  Be32 left;
  Be32 right;
  /* version 5 */
  Be64 sector; /* its own place on the device, in 512 bytes */
  Be64 lsn;
  uint8_t uuid[16];
  Be32 ag;
  Le32 crc; /* of the whole block */
} XfsBtreeDisk;
#define XFS_BTREE_HEADER_V4 offsetof (XfsBtreeDisk, sector)
#define XFS_BTREE_HEADER_V5 sizeof (XfsBtreeDisk)
G_STATIC_ASSERT (XFS_BTREE_HEADER_V4 == 16);
G_STATIC_ASSERT (offsetof (XfsBtreeDisk, crc) == 52);
G_STATIC_ASSERT (XFS_BTREE_HEADER_V5 == 56);

typedef struct
{
  Be32 start;
  Be32 blocks;
} XfsFreeDisk;

/* The log is a ring of 512-byte blocks.  Every block begins with the number of the turn ("cycle") it was written
 * in, a record's header with the magic and then the cycle. */
#define XFS_LOG_BLOCK        512
#define XFS_LOG_CYCLE_BYTES  32768 /* what one header block covers */
#define XFS_LOG_MAX_RECORD   (256 * 1024)
#define XFS_LOG_MAX_BUFFERS  8
#define XFS_LOG_CLEARED      512
#define XFS_LOG_VERSION_2    2u
#define XFS_LOG_CLIENT_LOG   0xAA
#define XFS_LOG_FLAG_UNMOUNT 0x20

typedef struct
{
  Be32 magic;
  Be32 cycle;
  Be32 version;
  Be32 bytes; /* after the header blocks */
  Be64 lsn;   /* cycle and log block of this header */
  Be64 tail_lsn;
  Le32 crc;
  Be32 previous_block;
  Be32 operations;
  Be32 cycle_data[XFS_LOG_CYCLE_BYTES / XFS_LOG_BLOCK];
  Be32 format;
  uint8_t uuid[16];
  Be32 buffer_bytes;
} XfsLogRecordDisk;
G_STATIC_ASSERT (offsetof (XfsLogRecordDisk, format) == 300);
G_STATIC_ASSERT (sizeof (XfsLogRecordDisk) == 324);

typedef struct
{
  Be32 transaction;
  Be32 bytes;
  uint8_t client;
  uint8_t flags;
  Be16 reserved;
} XfsLogOperationDisk;
G_STATIC_ASSERT (sizeof (XfsLogOperationDisk) == 12);

#endif
