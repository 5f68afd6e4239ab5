/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The free extents of one allocation group: its header (AGF), its free list and its two trees. */
#include <inttypes.h>
#include <string.h>

#include "checked.h"
#include "xfs.h"

typedef struct
{
  uint32_t start, blocks;
} Extent;

/* What a walk through a whole tree found. */
typedef struct
{
  uint64_t records, blocks;
  uint32_t longest;
  uint64_t fingerprint; /* of the records, in any order */
} Sum;

typedef struct
{
  Xfs *xfs;
  uint32_t ag;
  uint32_t blocks;        /* of the group */
  uint32_t header_blocks; /* that the group's headers take at its start */
} Group;

typedef struct
{
  const Group *group;
  const char *name;
  uint32_t magic;
  bool by_size; /* sorted by size, then by block; else by block */
  bool any;     /* there was a record: the last one is */
  Extent last;
  /* For each level, the block that was visited last and what it says is right of it. */
  uint32_t visited[XFS_MAX_BTREE_LEVELS], right[XFS_MAX_BTREE_LEVELS];
  Sum sum;
} Tree;

static bool coroutine_fn co_walk (Tree *tree, uint32_t ag_block, unsigned level, const Extent *first,
                                  GError **error);

static Extent
decode_extent (const uint8_t *p)
{
  XfsFreeDisk disk;

  memcpy (&disk, p, sizeof disk);
  return (Extent){ be32_get (disk.start), be32_get (disk.blocks) };
}

/* Whether @extent may stand behind the last record, in this tree's order. */
static bool
is_in_order (const Tree *tree, const Extent *extent)
{
  const Extent *last = &tree->last;

  if (!tree->any)
    return true;
  if (!tree->by_size)
    return extent->start > last->start && extent->start - last->start >= last->blocks;
  return extent->blocks > last->blocks || (extent->blocks == last->blocks && extent->start > last->start);
}

static bool
overlaps_log (const Group *group, const Extent *extent)
{
  const Xfs *xfs = group->xfs;

  return group->ag == xfs->log_ag
         && ranges_overlap (extent->start, extent->blocks, xfs->log_ag_block, xfs->log_blocks);
}

static bool
take_record (Tree *tree, const Extent *extent, GError **error)
{
  const Group *group = tree->group;
  uint64_t mixed = ((uint64_t)extent->start << 32 | extent->blocks) * UINT64_C (0x9E3779B97F4A7C15);

  if (extent->blocks == 0 || extent->start < group->header_blocks || extent->start >= group->blocks
      || extent->blocks > group->blocks - extent->start || overlaps_log (group, extent))
    return xfs_corrupt (error,
                        "group %u: %s: free extent of %u blocks at %u: outside of the group, or not free",
                        group->ag, tree->name, extent->blocks, extent->start);
  if (!is_in_order (tree, extent))
    return xfs_corrupt (
        error, "group %u: %s: free extent of %u blocks at %u after one of %u at %u: not in order", group->ag,
        tree->name, extent->blocks, extent->start, tree->last.blocks, tree->last.start);
  tree->any = true;
  tree->last = *extent;
  tree->sum.records++;
  tree->sum.blocks += extent->blocks;
  tree->sum.longest = MAX (tree->sum.longest, extent->blocks);
  tree->sum.fingerprint += mixed ^ mixed >> 29;
  if (!tree->by_size)
    fs_add_free (group->xfs->volume, xfs_offset (group->xfs, group->ag, extent->start),
                 (int64_t)extent->blocks * group->xfs->block_size);
  return true;
}

/* All that a block says of itself.  Sets *count to its records or keys, at least one but in a root that is a leaf. */
static bool
check_block (Tree *tree, const uint8_t *block, uint32_t ag_block, unsigned level, uint32_t max_count,
             bool is_root, uint32_t *count, GError **error)
{
  const Xfs *xfs = tree->group->xfs;
  const XfsBtreeDisk *disk = (const void *)block;
  uint32_t ag = tree->group->ag, left = be32_get (disk->left);

  if (be32_get (disk->magic) != tree->magic || be16_get (disk->level) != level)
    return xfs_corrupt (error, "group %u: %s: block %u: magic 0x%08x, level %u; expected 0x%08x, %u", ag,
                        tree->name, ag_block, be32_get (disk->magic), be16_get (disk->level), tree->magic,
                        level);
  if (xfs->v5
      && (!xfs_crc_is_valid (block, xfs->block_size, offsetof (XfsBtreeDisk, crc))
          || be64_get (disk->sector) != (uint64_t)xfs_offset (xfs, ag, ag_block) / 512
          || be32_get (disk->ag) != ag || memcmp (disk->uuid, xfs->meta_uuid, sizeof disk->uuid) != 0))
    return xfs_corrupt (error, "group %u: %s: block %u: wrong checksum, place, owner or UUID", ag, tree->name,
                        ag_block);
  *count = be16_get (disk->count);
  if (*count > max_count || (*count == 0 && !(is_root && level == 0)))
    return xfs_corrupt (error, "group %u: %s: block %u: %u records, at most %u fit", ag, tree->name, ag_block,
                        *count, max_count);
  if (left != tree->visited[level]
      || (tree->visited[level] != XFS_NULL_AGBLOCK && tree->right[level] != ag_block))
    return xfs_corrupt (error, "group %u: %s: block %u: left of it is %u, expected %u", ag, tree->name,
                        ag_block, left, tree->visited[level]);
  tree->visited[level] = ag_block;
  tree->right[level] = be32_get (disk->right);
  return true;
}

static bool coroutine_fn
co_walk_node (Tree *tree, const uint8_t *keys, uint32_t count, uint32_t max_count, unsigned level,
              GError **error)
{
  const uint8_t *pointers = keys + (size_t)max_count * sizeof (XfsFreeDisk);

  for (uint32_t i = 0; i < count; i++)
    {
      Extent first = decode_extent (keys + (size_t)i * sizeof (XfsFreeDisk));

      if (!co_walk (tree, be32_at (pointers + (size_t)i * sizeof (Be32)), level - 1, &first, error))
        return false;
    }
  return true;
}

/* Visits the block and all below it.  @first: what its parent says its first record or key is; NULL: it is the root.
 * Ends whatever the blocks say: levels go down, and a leaf that comes twice is not in order. */
static bool coroutine_fn
co_walk (Tree *tree, uint32_t ag_block, unsigned level, const Extent *first, GError **error)
{
  const Group *group = tree->group;
  const Xfs *xfs = group->xfs;
  uint32_t header = xfs->v5 ? XFS_BTREE_HEADER_V5 : XFS_BTREE_HEADER_V4;
  uint32_t entry = level > 0 ? sizeof (XfsFreeDisk) + sizeof (Be32) : sizeof (XfsFreeDisk);
  uint32_t max_count = (xfs->block_size - header) / entry, count;
  int64_t offset = xfs_offset (xfs, group->ag, ag_block);
  g_autofree uint8_t *block = NULL;

  if (ag_block < group->header_blocks || ag_block >= group->blocks)
    return xfs_corrupt (error, "group %u: %s: points to block %u of %u", group->ag, tree->name, ag_block,
                        group->blocks);
  block = g_malloc (xfs->block_size);
  if (!fs_co_read_structure (xfs->volume, offset, xfs->block_size, block, tree->name, error)
      || !check_block (tree, block, ag_block, level, max_count, first == NULL, &count, error))
    return false;
  fs_add_used (xfs->volume, offset, xfs->block_size);
  if (first != NULL)
    {
      Extent found = decode_extent (block + header);

      if (found.start != first->start || (tree->by_size && found.blocks != first->blocks))
        return xfs_corrupt (
            error, "group %u: %s: block %u begins with %u blocks at %u, its parent says %u at %u", group->ag,
            tree->name, ag_block, found.blocks, found.start, first->blocks, first->start);
    }
  if (level > 0)
    return co_walk_node (tree, block + header, count, max_count, level, error);
  for (uint32_t i = 0; i < count; i++)
    {
      Extent extent = decode_extent (block + header + (size_t)i * sizeof (XfsFreeDisk));

      if (!take_record (tree, &extent, error))
        return false;
    }
  return true;
}

static bool coroutine_fn
co_read_tree (const Group *group, const XfsAgfDisk *agf, bool by_size, Sum *sum, GError **error)
{
  bool v5 = group->xfs->v5;
  uint32_t levels = be32_get (agf->levels[by_size]);
  Tree tree = {
    .group = group,
    .name = by_size ? "free extents by size" : "free extents by block",
    .magic =
        by_size ? (v5 ? XFS_CNTBT_CRC_MAGIC : XFS_CNTBT_MAGIC) : (v5 ? XFS_BNOBT_CRC_MAGIC : XFS_BNOBT_MAGIC),
    .by_size = by_size,
  };

  if (levels == 0 || levels > XFS_MAX_BTREE_LEVELS)
    return xfs_corrupt (error, "group %u: AGF: %s: %u levels", group->ag, tree.name, levels);
  for (unsigned level = 0; level < levels; level++)
    tree.visited[level] = XFS_NULL_AGBLOCK;
  if (!co_walk (&tree, be32_get (agf->roots[by_size]), levels - 1, NULL, error))
    return false;
  for (unsigned level = 0; level < levels; level++)
    if (tree.right[level] != XFS_NULL_AGBLOCK)
      return xfs_corrupt (error, "group %u: %s: block %u is the last of level %u, but right of it is %u",
                          group->ag, tree.name, tree.visited[level], level, tree.right[level]);
  *sum = tree.sum;
  return true;
}

static bool
check_agf (const Group *group, const XfsAgfDisk *agf, GError **error)
{
  const Xfs *xfs = group->xfs;

  if (be32_get (agf->magic) != XFS_AGF_MAGIC || be32_get (agf->version) != 1
      || be32_get (agf->ag) != group->ag || be32_get (agf->blocks) != group->blocks)
    return xfs_corrupt (
        error, "group %u: AGF: magic 0x%08x, version %u, group %u, %u blocks; expected 0x%08x, 1, %u, %u",
        group->ag, be32_get (agf->magic), be32_get (agf->version), be32_get (agf->ag), be32_get (agf->blocks),
        XFS_AGF_MAGIC, group->ag, group->blocks);
  if (xfs->v5
      && (!xfs_crc_is_valid (agf, xfs->sector_size, offsetof (XfsAgfDisk, crc))
          || memcmp (agf->uuid, xfs->meta_uuid, sizeof agf->uuid) != 0))
    return xfs_corrupt (error, "group %u: AGF: wrong checksum or UUID", group->ag);
  return true;
}

/* The free list keeps blocks for the trees themselves: they are in use.  @agfl: its sector. */
static bool
mark_free_list (const Group *group, const XfsAgfDisk *agf, const uint8_t *agfl, GError **error)
{
  const Xfs *xfs = group->xfs;
  const XfsAgflDisk *disk = (const void *)agfl;
  uint32_t header = xfs->v5 ? sizeof *disk : 0;
  uint32_t slots = (xfs->sector_size - header) / sizeof (Be32);
  uint32_t first = be32_get (agf->freelist_first), last = be32_get (agf->freelist_last);
  uint32_t count = be32_get (agf->freelist_count);

  if (xfs->v5
      && (be32_get (disk->magic) != XFS_AGFL_MAGIC || be32_get (disk->ag) != group->ag
          || memcmp (disk->uuid, xfs->meta_uuid, sizeof disk->uuid) != 0
          || !xfs_crc_is_valid (agfl, xfs->sector_size, offsetof (XfsAgflDisk, crc))))
    return xfs_corrupt (error, "group %u: AGFL: wrong magic, group, UUID or checksum", group->ag);
  /* An empty list's ends are next to each other, so its length alone tells it from a full one. */
  if (first >= slots || last >= slots || count > slots || (first + count) % slots != (last + 1) % slots)
    return xfs_corrupt (error, "group %u: AGF: free list of %u blocks from slot %u to %u, there are %u",
                        group->ag, count, first, last, slots);
  for (uint32_t i = 0; i < count; i++)
    {
      uint32_t ag_block = be32_at (agfl + header + (first + i) % slots * sizeof (Be32));

      if (ag_block < group->header_blocks || ag_block >= group->blocks)
        return xfs_corrupt (error, "group %u: AGFL: block %u of %u", group->ag, ag_block, group->blocks);
      fs_add_used (xfs->volume, xfs_offset (xfs, group->ag, ag_block), xfs->block_size);
    }
  return true;
}

bool coroutine_fn
xfs_co_read_group (Xfs *xfs, uint32_t ag, GError **error)
{
  Group group = {
    .xfs = xfs,
    .ag = ag,
    .blocks = ag == xfs->ag_count - 1 ? xfs->last_ag_blocks : xfs->ag_blocks,
    .header_blocks = (uint32_t)div_round_up ((int64_t)XFS_AG_SECTORS * xfs->sector_size, xfs->block_size),
  };
  size_t bytes = (size_t)XFS_AG_SECTORS * xfs->sector_size;
  g_autofree uint8_t *headers = g_malloc (bytes);
  const XfsAgfDisk *agf = (const void *)(headers + XFS_AGF_SECTOR * xfs->sector_size);
  const uint8_t *agfl = headers + XFS_AGFL_SECTOR * xfs->sector_size;
  Sum by_block, by_size;

  if (!fs_co_read_structure (xfs->volume, xfs_offset (xfs, ag, 0), (int64_t)bytes, headers,
                             "headers of a group", error)
      || !check_agf (&group, agf, error) || !mark_free_list (&group, agf, agfl, error)
      || !co_read_tree (&group, agf, false, &by_block, error)
      || !co_read_tree (&group, agf, true, &by_size, error))
    return false;
  if (by_block.records != by_size.records || by_block.blocks != by_size.blocks
      || by_block.fingerprint != by_size.fingerprint)
    return xfs_corrupt (error,
                        "group %u: the tree by block has %" PRIu64 " free extents with %" PRIu64
                        " blocks, that by size %" PRIu64 " with %" PRIu64 ", or others",
                        ag, by_block.records, by_block.blocks, by_size.records, by_size.blocks);
  if (by_block.blocks != be32_get (agf->free_blocks) || by_block.longest != be32_get (agf->longest))
    return xfs_corrupt (
        error, "group %u: AGF: %u free blocks, %u the longest extent; the trees have %" PRIu64 " and %u", ag,
        be32_get (agf->free_blocks), be32_get (agf->longest), by_block.blocks, by_block.longest);
  return true;
}
