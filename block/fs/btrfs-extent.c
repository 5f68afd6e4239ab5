/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The extents of btrfs: what of its chunks is in use. */
#include <inttypes.h>

#include "btrfs.h"
#include "checked.h"

/* Where the walk through the extent tree is. */
typedef struct
{
  guint chunk;     /* index of the chunk it is in */
  uint64_t cursor; /* in it, up to here everything has been told */
  bool any;        /* there was an extent: the last began at */
  uint64_t last;
} Progress;

/* Adds [@start, @end) of @chunk as free, in each copy. */
static void
add_gap (const Btrfs *btrfs, const BtrfsChunk *chunk, uint64_t start, uint64_t end)
{
  for (unsigned copy = 0; copy < chunk->copies; copy++)
    fs_add_free (btrfs->volume, (int64_t)(chunk->physical[copy] + (start - chunk->logical)),
                 (int64_t)(end - start));
}

/* Ends chunks until @logical is not behind the present one. */
static void
advance (const Btrfs *btrfs, Progress *progress, uint64_t logical)
{
  while (progress->chunk < btrfs->chunks->len)
    {
      const BtrfsChunk *chunk = &g_array_index (btrfs->chunks, BtrfsChunk, progress->chunk);
      uint64_t end = chunk->logical + chunk->length;

      progress->cursor = MAX (progress->cursor, chunk->logical);
      if (logical < end)
        return;
      add_gap (btrfs, chunk, progress->cursor, end);
      progress->chunk++;
    }
}

static bool
take_extent (const Btrfs *btrfs, Progress *progress, uint64_t logical, uint64_t length, GError **error)
{
  BtrfsChunk *chunk;

  advance (btrfs, progress, logical);
  chunk = progress->chunk < btrfs->chunks->len ? &g_array_index (btrfs->chunks, BtrfsChunk, progress->chunk)
                                               : NULL;
  if (chunk == NULL || logical < progress->cursor || length == 0
      || length > chunk->logical + chunk->length - logical || logical % btrfs->sector_size != 0
      || length % btrfs->sector_size != 0)
    return btrfs_corrupt (
        error, "extent tree: extent of %" PRIu64 " bytes at %" PRIu64 ": in no chunk, or overlaps another",
        length, logical);
  add_gap (btrfs, chunk, progress->cursor, logical);
  chunk->used += length;
  progress->cursor = logical + length;
  progress->any = true;
  progress->last = logical;
  return true;
}

static bool
take_block_group (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes, GError **error)
{
  const BtrfsBlockGroupDisk *disk = (const void *)data;
  BtrfsChunk *chunk = btrfs_find_chunk (btrfs, key->object, key->offset);

  if (chunk == NULL || chunk->logical != key->object || chunk->length != key->offset || chunk->has_group
      || bytes < sizeof *disk || le64_get (disk->flags) != chunk->type)
    return btrfs_corrupt (error, "block group of %" PRIu64 " bytes at %" PRIu64 ": is no chunk", key->offset,
                          key->object);
  chunk->has_group = true;
  chunk->group_used = le64_get (disk->used);
  return true;
}

static bool coroutine_fn
co_take_extent_item (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes, void *opaque,
                     GError **error)
{
  Progress *progress = opaque;

  if (key->type == BTRFS_EXTENT_ITEM)
    return take_extent (btrfs, progress, key->object, key->offset, error);
  if (key->type == BTRFS_METADATA_ITEM)
    return take_extent (btrfs, progress, key->object, btrfs->node_size, error);
  if (key->type == BTRFS_BLOCK_GROUP_ITEM && !btrfs->block_group_tree)
    return take_block_group (btrfs, key, data, bytes, error);
  if (key->type >= BTRFS_FIRST_BACKREF && key->type <= BTRFS_LAST_BACKREF && progress->any
      && progress->last == key->object)
    return true;
  return btrfs_corrupt (error, "extent tree: item of type %u at %" PRIu64 ": not understood there", key->type,
                        key->object);
}

static bool coroutine_fn
co_take_block_group_item (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes,
                          void *opaque, GError **error)
{
  if (key->type != BTRFS_BLOCK_GROUP_ITEM)
    return btrfs_corrupt (error, "block group tree: item of type %u at %" PRIu64, key->type, key->object);
  return take_block_group (btrfs, key, data, bytes, error);
}

static bool
check_sums (const Btrfs *btrfs, GError **error)
{
  uint64_t used = 0;

  for (guint i = 0; i < btrfs->chunks->len; i++)
    {
      const BtrfsChunk *chunk = &g_array_index (btrfs->chunks, BtrfsChunk, i);

      if (!chunk->has_group || chunk->group_used != chunk->used)
        return btrfs_corrupt (error,
                              "block group at %" PRIu64 ": %" PRIu64 " bytes used, the extents have %" PRIu64,
                              chunk->logical, chunk->has_group ? chunk->group_used : 0, chunk->used);
      used += chunk->used;
    }
  if (used != btrfs->bytes_used)
    return btrfs_corrupt (error, "superblock: %" PRIu64 " bytes used, the extents have %" PRIu64,
                          btrfs->bytes_used, used);
  return true;
}

bool coroutine_fn
btrfs_co_read_extents (Btrfs *btrfs, GError **error)
{
  Progress progress = { 0 };
  BtrfsRoot root;

  if (btrfs->block_group_tree
      && (!btrfs_co_find_root (btrfs, BTRFS_BLOCK_GROUP_TREE, &root, error)
          || !btrfs_co_walk_all (btrfs, &root, co_take_block_group_item, NULL, error)))
    return false;
  if (!btrfs_co_find_root (btrfs, BTRFS_EXTENT_TREE, &root, error)
      || !btrfs_co_walk_all (btrfs, &root, co_take_extent_item, &progress, error))
    return false;
  advance (btrfs, &progress, UINT64_MAX);
  return check_sums (btrfs, error);
}
