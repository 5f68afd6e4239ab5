/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* btrfs as it stands on disk, as far as its free space goes.  All integers are little-endian. */
#ifndef FS_BTRFS_SPEC_H
#define FS_BTRFS_SPEC_H

#include <stddef.h>

#include "byteorder.h"

#define BTRFS_SUPER_MAGIC    "_BHRfS_M"
#define BTRFS_SUPER_OFFSET   65536
#define BTRFS_SUPER_BYTES    4096
#define BTRFS_CHECKSUM_BYTES 32 /* room for one; what is summed begins after it */
/* Never used for anything else, whatever lies around: loaders, and each copy of the superblock. */
#define BTRFS_RESERVED_BYTES ((int64_t)1 << 20)
#define BTRFS_STRIPE_BYTES   65536

#define BTRFS_MIN_SECTOR 4096
#define BTRFS_MAX_NODE   65536
#define BTRFS_MAX_LEVELS 8

#define BTRFS_CHECKSUM_CRC32C 0
#define BTRFS_CHECKSUM_SHA256 2

/* Flags of a superblock and of a tree block */
#define BTRFS_FLAG_WRITTEN    ((uint64_t)1 << 0)
#define BTRFS_FLAG_RELOCATION ((uint64_t)1 << 1)

/* What cannot change which extents are in use.  Compatible features never matter. */
#define BTRFS_COMPAT_RO_BLOCK_GROUP_TREE ((uint64_t)1 << 3)
#define BTRFS_COMPAT_RO_KNOWN            0xFu /* free space tree, the same valid, verity, block group tree */
#define BTRFS_INCOMPAT_METADATA_UUID     ((uint64_t)1 << 10)
/* Bits 0 to 11: mixed backrefs, default subvolume, mixed groups, lzo, zstd, big metadata, extended iref, raid56,
 * skinny metadata, no holes, metadata uuid, raid1c34; bit 16: simple quotas. */
#define BTRFS_INCOMPAT_KNOWN 0x10FFFu

/* Trees */
#define BTRFS_ROOT_TREE        1u
#define BTRFS_EXTENT_TREE      2u
#define BTRFS_CHUNK_TREE       3u
#define BTRFS_DEVICE_TREE      4u
#define BTRFS_BLOCK_GROUP_TREE 11u

/* Object ids and types of keys */
#define BTRFS_FIRST_CHUNK       256u
#define BTRFS_ROOT_ITEM         132
#define BTRFS_EXTENT_ITEM       168
#define BTRFS_METADATA_ITEM     169 /* length: a tree block; the key's offset is its level */
#define BTRFS_FIRST_BACKREF     172
#define BTRFS_LAST_BACKREF      190
#define BTRFS_BLOCK_GROUP_ITEM  192
#define BTRFS_DEVICE_EXTENT     204
#define BTRFS_DEVICE_ITEM       216
#define BTRFS_CHUNK_ITEM        228
#define BTRFS_DEVICE_REPLACE    250
#define BTRFS_REPLACE_STARTED   1u
#define BTRFS_REPLACE_SUSPENDED 4u

/* A chunk's type */
#define BTRFS_CHUNK_DATA     ((uint64_t)1 << 0)
#define BTRFS_CHUNK_SYSTEM   ((uint64_t)1 << 1)
#define BTRFS_CHUNK_METADATA ((uint64_t)1 << 2)
#define BTRFS_CHUNK_RAID0    ((uint64_t)1 << 3)
#define BTRFS_CHUNK_DUP      ((uint64_t)1 << 5)

typedef struct
{
  Le64 object;
  uint8_t type;
  Le64 offset;
} BtrfsKeyDisk;
G_STATIC_ASSERT (sizeof (BtrfsKeyDisk) == 17);

typedef struct
{
  Le64 device;
  Le64 total_bytes;
  Le64 bytes_used;
  Le32 io_align, io_width, sector_size;
  Le64 type;
  Le64 generation;
  Le64 start_offset;
  Le32 group;
  uint8_t seek_speed, bandwidth;
  uint8_t uuid[16];
  uint8_t fsid[16];
} BtrfsDeviceItemDisk;
G_STATIC_ASSERT (sizeof (BtrfsDeviceItemDisk) == 98);

typedef struct
{
  uint8_t checksum[BTRFS_CHECKSUM_BYTES];
  uint8_t fsid[16];
  Le64 offset; /* of this copy */
  Le64 flags;
  char magic[8];
  Le64 generation;
  Le64 root;
  Le64 chunk_root;
  Le64 log_root;
  Le64 log_root_generation;
  Le64 total_bytes;
  Le64 bytes_used;
  Le64 root_directory;
  Le64 devices;
  Le32 sector_size;
  Le32 node_size;
  Le32 leaf_size;
  Le32 stripe_size;
  Le32 system_chunk_bytes;
  Le64 chunk_root_generation;
  Le64 compat;
  Le64 compat_ro;
  Le64 incompat;
  Le16 checksum_type;
  uint8_t root_level;
  uint8_t chunk_root_level;
  uint8_t log_root_level;
  BtrfsDeviceItemDisk device;
  char label[256];
  Le64 cache_generation;
  Le64 uuid_tree_generation;
  uint8_t metadata_uuid[16];
  uint8_t reserved[224];
  uint8_t system_chunks[2048]; /* keys, each with its chunk item */
  uint8_t backup_roots[672];
  uint8_t padding[565];
} BtrfsSuperDisk;
G_STATIC_ASSERT (offsetof (BtrfsSuperDisk, device) == 0xC9);
G_STATIC_ASSERT (offsetof (BtrfsSuperDisk, system_chunks) == 0x32B);
G_STATIC_ASSERT (sizeof (BtrfsSuperDisk) == BTRFS_SUPER_BYTES);

typedef struct
{
  uint8_t checksum[BTRFS_CHECKSUM_BYTES];
  uint8_t fsid[16];
  Le64 logical;
  Le64 flags;
  uint8_t chunk_tree_uuid[16];
  Le64 generation;
  Le64 owner;
  Le32 count;
  uint8_t level;
} BtrfsHeaderDisk;
G_STATIC_ASSERT (sizeof (BtrfsHeaderDisk) == 101);

/* In a leaf, after the header.  The items' data goes from the block's end down. */
typedef struct
{
  BtrfsKeyDisk key;
  Le32 offset; /* from the header's end */
  Le32 bytes;
} BtrfsItemDisk;
G_STATIC_ASSERT (sizeof (BtrfsItemDisk) == 25);

/* In a node, after the header. */
typedef struct
{
  BtrfsKeyDisk key;
  Le64 logical;
  Le64 generation;
} BtrfsPointerDisk;
G_STATIC_ASSERT (sizeof (BtrfsPointerDisk) == 33);

typedef struct
{
  Le64 device;
  Le64 offset;
  uint8_t device_uuid[16];
} BtrfsStripeDisk;
G_STATIC_ASSERT (sizeof (BtrfsStripeDisk) == 32);

/* The key's offset is the chunk's logical address.  The stripes follow. */
typedef struct
{
  Le64 length;
  Le64 owner;
  Le64 stripe_length;
  Le64 type;
  Le32 io_align, io_width, sector_size;
  Le16 stripes;
  Le16 sub_stripes;
} BtrfsChunkDisk;
G_STATIC_ASSERT (sizeof (BtrfsChunkDisk) == 48);

/* Key: device, BTRFS_DEVICE_EXTENT, physical offset. */
typedef struct
{
  Le64 chunk_tree;
  Le64 chunk_object;
  Le64 chunk; /* logical */
  Le64 length;
  uint8_t chunk_tree_uuid[16];
} BtrfsDeviceExtentDisk;
G_STATIC_ASSERT (sizeof (BtrfsDeviceExtentDisk) == 48);

/* Key: logical, BTRFS_BLOCK_GROUP_ITEM, length. */
typedef struct
{
  Le64 used;
  Le64 chunk_object;
  Le64 flags;
} BtrfsBlockGroupDisk;
G_STATIC_ASSERT (sizeof (BtrfsBlockGroupDisk) == 24);

/* A root item up to the last member that every version has. */
typedef struct
{
  uint8_t inode[160];
  Le64 generation;
  Le64 root_directory;
  Le64 logical;
  Le64 byte_limit;
  Le64 bytes_used;
  Le64 last_snapshot;
  Le64 flags;
  Le32 references;
  BtrfsKeyDisk drop_progress;
  uint8_t drop_level;
  uint8_t level;
} BtrfsRootDisk;
G_STATIC_ASSERT (offsetof (BtrfsRootDisk, logical) == 176);
G_STATIC_ASSERT (sizeof (BtrfsRootDisk) == 239);

/* The first members of the item; more follow. */
typedef struct
{
  Le64 source_device;
  Le64 cursor_left;
  Le64 cursor_right;
  Le64 continue_mode;
  Le64 state;
} BtrfsReplaceDisk;
G_STATIC_ASSERT (sizeof (BtrfsReplaceDisk) == 40);

#endif
