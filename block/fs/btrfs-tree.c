/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walking a tree of btrfs in the order of its keys. */
#include <inttypes.h>
#include <string.h>

#include "btrfs.h"
#include "checked.h"

typedef struct
{
  Btrfs *btrfs;
  uint64_t tree;
  const BtrfsKey *min, *max;
  BtrfsItemFunc func;
  void *opaque;
  bool any; /* a leaf's key was seen: */
  BtrfsKey last;
} Walk;

/* A block, as its parent tells of it. */
typedef struct
{
  uint64_t logical, generation;
  unsigned level;
  const BtrfsKey *first; /* NULL: the root */
} Place;

BtrfsKey
btrfs_key_decode (const BtrfsKeyDisk *disk)
{
  return (BtrfsKey){ le64_get (disk->object), disk->type, le64_get (disk->offset) };
}

int
btrfs_key_compare (const BtrfsKey *a, const BtrfsKey *b)
{
  if (a->object != b->object)
    return a->object < b->object ? -1 : 1;
  if (a->type != b->type)
    return a->type < b->type ? -1 : 1;
  if (a->offset != b->offset)
    return a->offset < b->offset ? -1 : 1;
  return 0;
}

static size_t
entry_bytes (unsigned level)
{
  return level > 0 ? sizeof (BtrfsPointerDisk) : sizeof (BtrfsItemDisk);
}

/* Items and pointers both begin with their key. */
static BtrfsKey
key_at (const uint8_t *block, unsigned level, uint32_t index)
{
  return btrfs_key_decode ((const void *)(block + sizeof (BtrfsHeaderDisk) + index * entry_bytes (level)));
}

static bool
check_header (const Walk *walk, const uint8_t *block, const Place *place, GError **error)
{
  const Btrfs *btrfs = walk->btrfs;
  const BtrfsHeaderDisk *header = (const void *)block;
  uint32_t count = le32_get (header->count);
  uint32_t room = btrfs->node_size - (uint32_t)sizeof *header;

  if (!btrfs_checksum_is_valid (btrfs->checksum_type, block, btrfs->node_size))
    return btrfs_corrupt (error, "tree %" PRIu64 ": block at %" PRIu64 ": wrong checksum", walk->tree,
                          place->logical);
  if (memcmp (header->fsid, btrfs->fsid, sizeof header->fsid) != 0
      || le64_get (header->logical) != place->logical || le64_get (header->owner) != walk->tree
      || header->level != place->level || le64_get (header->generation) != place->generation
      || (le64_get (header->flags) & BTRFS_FLAG_WRITTEN) == 0)
    return btrfs_corrupt (error,
                          "tree %" PRIu64 ": block at %" PRIu64 ": says it is at %" PRIu64
                          ", of tree %" PRIu64 ", level %u, generation %" PRIu64
                          "; expected level %u, generation %" PRIu64,
                          walk->tree, place->logical, le64_get (header->logical), le64_get (header->owner),
                          header->level, le64_get (header->generation), place->level, place->generation);
  if (count > room / entry_bytes (place->level)
      || (count == 0 && !(place->first == NULL && place->level == 0)))
    return btrfs_corrupt (error, "tree %" PRIu64 ": block at %" PRIu64 ": %u entries", walk->tree,
                          place->logical, count);
  return true;
}

/* Keys rise, and the first is the one that the parent knows. */
static bool
check_keys (const Walk *walk, const uint8_t *block, const Place *place, GError **error)
{
  uint32_t count = le32_get (((const BtrfsHeaderDisk *)(const void *)block)->count);

  for (uint32_t i = 0; i < count; i++)
    {
      BtrfsKey key = key_at (block, place->level, i);
      bool good = true;

      if (i > 0)
        {
          BtrfsKey before = key_at (block, place->level, i - 1);

          good = btrfs_key_compare (&before, &key) < 0;
        }
      else if (place->first != NULL)
        good = btrfs_key_compare (place->first, &key) == 0;
      if (!good)
        return btrfs_corrupt (error,
                              "tree %" PRIu64 ": block at %" PRIu64 ": key %u (%" PRIu64 " %u %" PRIu64
                              ") is not in order",
                              walk->tree, place->logical, i, key.object, key.type, key.offset);
    }
  return true;
}

static bool coroutine_fn
co_walk_leaf (Walk *walk, const uint8_t *block, const Place *place, GError **error)
{
  Btrfs *btrfs = walk->btrfs;
  uint32_t count = le32_get (((const BtrfsHeaderDisk *)(const void *)block)->count);
  uint32_t end = btrfs->node_size - (uint32_t)sizeof (BtrfsHeaderDisk);

  for (uint32_t i = 0; i < count; i++)
    {
      BtrfsKey key = key_at (block, 0, i);
      BtrfsItemDisk item;
      uint32_t offset, bytes;

      memcpy (&item, block + sizeof (BtrfsHeaderDisk) + i * sizeof item, sizeof item);
      offset = le32_get (item.offset);
      bytes = le32_get (item.bytes);
      /* The data of items lies end to end, from the block's end down to their headers. */
      if (offset > end || bytes != end - offset || offset < count * sizeof item)
        return btrfs_corrupt (error, "tree %" PRIu64 ": block at %" PRIu64 ": item %u: %u bytes at %u",
                              walk->tree, place->logical, i, bytes, offset);
      end = offset;
      if (walk->any && btrfs_key_compare (&walk->last, &key) >= 0)
        return btrfs_corrupt (error, "tree %" PRIu64 ": block at %" PRIu64 ": keys go back", walk->tree,
                              place->logical);
      walk->any = true;
      walk->last = key;
      if (btrfs_key_compare (&key, walk->min) >= 0 && btrfs_key_compare (&key, walk->max) <= 0
          && !walk->func (btrfs, &key, block + sizeof (BtrfsHeaderDisk) + offset, bytes, walk->opaque, error))
        return false;
    }
  return true;
}

/* Reads a block, checks it and marks it as in use.  Free with g_free (). */
static uint8_t *coroutine_fn
co_read_block (Walk *walk, const Place *place, GError **error)
{
  Btrfs *btrfs = walk->btrfs;
  const BtrfsChunk *chunk = btrfs_find_chunk (btrfs, place->logical, btrfs->node_size);
  g_autofree uint8_t *block = NULL;

  if (chunk == NULL || (chunk->type & (BTRFS_CHUNK_METADATA | BTRFS_CHUNK_SYSTEM)) == 0
      || place->logical % btrfs->sector_size != 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                   "tree %" PRIu64 ": points to a block at %" PRIu64 ", which no chunk of metadata has",
                   walk->tree, place->logical);
      return NULL;
    }
  block = g_malloc (btrfs->node_size);
  if (!fs_co_read_structure (btrfs->volume, (int64_t)(chunk->physical[0] + (place->logical - chunk->logical)),
                             btrfs->node_size, block, "tree block", error)
      || !check_header (walk, block, place, error) || !check_keys (walk, block, place, error))
    return NULL;
  for (unsigned copy = 0; copy < chunk->copies; copy++)
    fs_add_used (btrfs->volume, (int64_t)(chunk->physical[copy] + (place->logical - chunk->logical)),
                 btrfs->node_size);
  return g_steal_pointer (&block);
}

/* Visits a block and all below it that may hold what is looked for.  Ends whatever the blocks say: levels go down, and
 * no block can come twice, for the keys of leaves rise and no block but a root is empty. */
static bool coroutine_fn
co_walk (Walk *walk, const Place *place, GError **error)
{
  g_autofree uint8_t *block = co_read_block (walk, place, error);
  uint32_t count;

  if (block == NULL)
    return false;
  if (place->level == 0)
    return co_walk_leaf (walk, block, place, error);
  count = le32_get (((const BtrfsHeaderDisk *)(const void *)block)->count);
  for (uint32_t i = 0; i < count; i++)
    {
      BtrfsKey key = key_at (block, place->level, i);
      BtrfsPointerDisk pointer;
      Place child;

      if (btrfs_key_compare (&key, walk->max) > 0)
        break;
      if (i + 1 < count)
        {
          BtrfsKey next = key_at (block, place->level, i + 1);

          if (btrfs_key_compare (&next, walk->min) <= 0)
            continue;
        }
      memcpy (&pointer, block + sizeof (BtrfsHeaderDisk) + i * sizeof pointer, sizeof pointer);
      child = (Place){ le64_get (pointer.logical), le64_get (pointer.generation), place->level - 1, &key };
      if (!co_walk (walk, &child, error))
        return false;
    }
  return true;
}

bool coroutine_fn
btrfs_co_walk (Btrfs *btrfs, const BtrfsRoot *root, const BtrfsKey *min, const BtrfsKey *max,
               BtrfsItemFunc func, void *opaque, GError **error)
{
  Walk walk = { .btrfs = btrfs, .tree = root->tree, .min = min, .max = max, .func = func, .opaque = opaque };
  Place place = { root->logical, root->generation, root->level, NULL };

  return co_walk (&walk, &place, error);
}

bool coroutine_fn
btrfs_co_walk_all (Btrfs *btrfs, const BtrfsRoot *root, BtrfsItemFunc func, void *opaque, GError **error)
{
  static const BtrfsKey min, max = { UINT64_MAX, UINT8_MAX, UINT64_MAX };

  return btrfs_co_walk (btrfs, root, &min, &max, func, opaque, error);
}

typedef struct
{
  BtrfsRoot root;
  unsigned found;
} FoundRoot;

static bool coroutine_fn
co_take_root (Btrfs *btrfs, const BtrfsKey *key, const uint8_t *data, uint32_t bytes, void *opaque,
              GError **error)
{
  const BtrfsRootDisk *disk = (const void *)data;
  FoundRoot *found = opaque;

  if (bytes < sizeof *disk || disk->level >= BTRFS_MAX_LEVELS)
    return btrfs_corrupt (error, "root of tree %" PRIu64 ": %u bytes", key->object, bytes);
  found->root =
      (BtrfsRoot){ key->object, le64_get (disk->logical), le64_get (disk->generation), disk->level };
  found->found++;
  return true;
}

bool coroutine_fn
btrfs_co_find_root (Btrfs *btrfs, uint64_t tree, BtrfsRoot *root, GError **error)
{
  BtrfsKey min = { tree, BTRFS_ROOT_ITEM, 0 }, max = { tree, BTRFS_ROOT_ITEM, UINT64_MAX };
  FoundRoot found = { .found = 0 };

  if (!btrfs_co_walk (btrfs, &btrfs->root, &min, &max, co_take_root, &found, error))
    return false;
  if (found.found != 1)
    return btrfs_corrupt (error, "tree of roots: tree %" PRIu64 " has %u roots", tree, found.found);
  *root = found.root;
  return true;
}
