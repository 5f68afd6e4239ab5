/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One btrfs volume while its free space is read.  For the files btrfs*.c.
 *
 * btrfs maps logical addresses, in which everything else is told, to places on its devices by chunks.  Free is
 *
 *   - what no chunk maps (btrfs-chunk.c): the chunk tree and the device tree must say the same of the whole device;
 *   - inside a chunk, in each of its copies, what no extent of the extent tree covers (btrfs-extent.c): the sums must
 *     be those that block groups and superblock tell.
 *
 * Never free are the first MiB and the places of the superblock's copies, which lie inside of chunks unmentioned.
 * Nothing is overwritten in place, so what the last commit refers to is all that matters, with one exception, the
 * log tree: its data is not in the extent tree.  It must not be there.
 *
 * One device only.  A tree block's second copy is not used: where the first is bad, there is more to be mistrusted.
 */
#ifndef FS_BTRFS_H
#define FS_BTRFS_H

#include "btrfs-spec.h"
#include "fs.h"

#define btrfs_corrupt(error, ...)                                                                            \
  (g_set_error ((error), VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, __VA_ARGS__), false)
#define btrfs_unsupported(error, ...)                                                                        \
  (g_set_error ((error), VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, __VA_ARGS__), false)

#define BTRFS_MAX_COPIES 2
#define BTRFS_MAX_CHUNKS (1 << 18) /* usual ones have a GiB */

typedef struct
{
  uint64_t object;
  uint8_t type;
  uint64_t offset;
} BtrfsKey;

typedef struct
{
  uint64_t tree; /* that it is the root of: the owner of every block */
  uint64_t logical;
  uint64_t generation;
  unsigned level;
} BtrfsRoot;

typedef struct
{
  uint64_t logical, length; /* their sum fits */
  uint64_t type;
  unsigned copies;
  uint64_t physical[BTRFS_MAX_COPIES]; /* inside of the device */
  bool has_group;                      /* there is a block group item: */
  uint64_t group_used;                 /* what it says */
  uint64_t used;                       /* what the extents take */
} BtrfsChunk;

typedef struct
{
  FsVolume *volume;
  uint32_t sector_size, node_size;
  unsigned checksum_type;
  uint8_t fsid[16]; /* that metadata carries */
  uint64_t device;
  uint8_t device_uuid[16];
  uint64_t device_bytes; /* inside of the volume */
  uint64_t bytes_used;
  bool block_group_tree; /* block group items have a tree of their own */
  BtrfsRoot root, chunk_root;
  GArray *chunks; /* of BtrfsChunk, by logical address; first only those of the superblock */
} Btrfs;

/* Whether the checksum at the start of @data, a superblock or a tree block of @bytes bytes, is right. */
bool btrfs_checksum_is_valid (unsigned type, const void *data, size_t bytes);

/* Decodes and checks the superblock in volume->head, but not its copies and chunks.  No I/O. */
bool btrfs_decode_super (Btrfs *btrfs, GError **error);
/* The copies must be those of the same commit. */
bool coroutine_fn btrfs_co_check_super_copies (Btrfs *btrfs, GError **error);

BtrfsKey btrfs_key_decode (const BtrfsKeyDisk *disk);
int btrfs_key_compare (const BtrfsKey *a, const BtrfsKey *b);

/* One item of a tree.  @data: @bytes of it; gone after the call.  false, with @error, ends the walk. */
typedef bool coroutine_fn (*BtrfsItemFunc) (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data,
                                            uint32_t bytes, void *opaque, GError **error);
/* Calls @func for all items from @min to @max, both included, in order; reads no more of the tree than that takes. */
bool coroutine_fn btrfs_co_walk (Btrfs *btrfs, const BtrfsRoot *root, const BtrfsKey *min,
                                 const BtrfsKey *max, BtrfsItemFunc func, void *opaque, GError **error);
/* The same for the whole tree. */
bool coroutine_fn btrfs_co_walk_all (Btrfs *btrfs, const BtrfsRoot *root, BtrfsItemFunc func, void *opaque,
                                     GError **error);
/* Finds the root of @tree in the tree of roots. */
bool coroutine_fn btrfs_co_find_root (Btrfs *btrfs, uint64_t tree, BtrfsRoot *root, GError **error);

/* The chunk that has all of [@logical, +@bytes), or NULL.  Owned by btrfs->chunks. */
BtrfsChunk *btrfs_find_chunk (Btrfs *btrfs, uint64_t logical, uint64_t bytes);
/* Takes the chunks that the superblock tells, which map the chunk tree.  No I/O. */
bool btrfs_decode_system_chunks (Btrfs *btrfs, GError **error);
/* Reads all chunks and adds what is in none as free. */
bool coroutine_fn btrfs_co_read_chunks (Btrfs *btrfs, GError **error);

/* Adds as free what no extent covers of the chunks. */
bool coroutine_fn btrfs_co_read_extents (Btrfs *btrfs, GError **error);

#endif
