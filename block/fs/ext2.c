/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ext2, ext3 and ext4.
 *
 * libext2fs finds the superblock and the group descriptors, and knows their checksums and where copies of them lie.  The
 * block bitmaps are read here, one group after the other: together they may be large, and all that is to be known of
 * one is its runs of zeros.
 *
 * What is required: cleanly unmounted; no journal or orphans to be worked off; no feature that is not named here; every
 * checksum right; all metadata of all groups in places of their own inside of the file system, and in use by the
 * bitmaps; as many free clusters in each group as its descriptor says.
 */
#include "ext2-io.h"

#include "bitset.h"
#include "checked.h"
#include "extents.h"
#include "refuse.h"

#include <errno.h>
#include <string.h>

#define SUPERBLOCK_OFFSET    1024
#define MAX_LOG_BLOCK_SIZE   6 /* 64 KiB */
#define MAX_DESCRIPTOR_BYTES (INT64_C (128) << 20)
#define MAX_METADATA_EXTENTS (4 << 20)
#define BITMAPS_READ_BYTES   (256 * 1024)

/* What does not change which blocks are free, or is understood. */
enum
{
  /* dir_prealloc imagic_inodes has_journal ext_attr resize_inode dir_index sparse_super2 fast_commit stable_inodes
   * orphan_file */
  KNOWN_COMPAT = 0x1e3f,
  /* filetype meta_bg extents 64bit mmp flex_bg ea_inode csum_seed largedir inline_data encrypt casefold */
  KNOWN_INCOMPAT = 0x3e7d2,
  /* sparse_super large_file btree_dir huge_file gdt_csum dir_nlink extra_isize quota bigalloc metadata_csum readonly
   * project verity */
  KNOWN_RO_COMPAT = 0xb77f,

  COMPAT_HAS_JOURNAL = 0x4,
  INCOMPAT_RECOVER = 0x4,
  INCOMPAT_JOURNAL_DEV = 0x8,
  INCOMPAT_64BIT = 0x80,
  INCOMPAT_MMP = 0x100,
  INCOMPAT_EXT4 = 0x3f7d0,
  RO_COMPAT_EXT4 = 0x1fff8,
  RO_COMPAT_ORPHAN_PRESENT = 0x10000,
};

#define MMP_SEQUENCE_OFFSET 4
#define JOURNAL_MAGIC       0xc03b3998u
#define JOURNAL_START_FIELD 28

typedef struct
{
  FsVolume *volume;
  ext2_filsys fs;
  FsExtents metadata; /* in blocks */
  int64_t metadata_blocks;
  uint8_t *bitmaps; /* a run of them as read, BITMAPS_READ_BYTES */
  blk64_t first_bitmap;
  unsigned bitmaps_read;
  uint8_t *bits; /* one, of a group that has none on the disk */
} Ext2Reader;

/* --- the superblock ------------------------------------------------------------------------------------ */

/* The fields used here, in host order. */
typedef struct
{
  uint32_t log_block_size, rev_level, first_data_block, blocks_per_group;
  uint32_t compat, incompat, ro_compat;
  uint64_t blocks;
  uint32_t desc_size;
  uint16_t magic, state;
  uint32_t last_orphan;
} Superblock;

static Superblock
decode_superblock (const FsVolume *volume)
{
  struct ext2_super_block disk;

  memcpy (&disk, volume->head + SUPERBLOCK_OFFSET, sizeof disk);
  Superblock super = {
    .log_block_size = GUINT32_FROM_LE (disk.s_log_block_size),
    .rev_level = GUINT32_FROM_LE (disk.s_rev_level),
    .first_data_block = GUINT32_FROM_LE (disk.s_first_data_block),
    .blocks_per_group = GUINT32_FROM_LE (disk.s_blocks_per_group),
    .compat = GUINT32_FROM_LE (disk.s_feature_compat),
    .incompat = GUINT32_FROM_LE (disk.s_feature_incompat),
    .ro_compat = GUINT32_FROM_LE (disk.s_feature_ro_compat),
    .blocks = GUINT32_FROM_LE (disk.s_blocks_count),
    .desc_size = EXT2_MIN_DESC_SIZE,
    .magic = GUINT16_FROM_LE (disk.s_magic),
    .state = GUINT16_FROM_LE (disk.s_state),
    .last_orphan = GUINT32_FROM_LE (disk.s_last_orphan),
  };
  if (super.incompat & INCOMPAT_64BIT)
    {
      super.blocks |= (uint64_t)GUINT32_FROM_LE (disk.s_blocks_count_hi) << 32;
      super.desc_size = GUINT16_FROM_LE (disk.s_desc_size);
    }
  return super;
}

static bool coroutine_fn
ext2_co_probe (FsVolume *volume)
{
  Superblock super = decode_superblock (volume);

  if (super.magic != EXT2_SUPER_MAGIC || super.rev_level > EXT2_DYNAMIC_REV
      || super.log_block_size > MAX_LOG_BLOCK_SIZE)
    return false;
  if ((super.incompat & INCOMPAT_EXT4) || (super.ro_compat & RO_COMPAT_EXT4))
    fs_set_type (volume, "ext4");
  else if (super.compat & COMPAT_HAS_JOURNAL)
    fs_set_type (volume, "ext3");
  return true;
}

/* Before the library allocates anything by these numbers. */
static bool
check_geometry (const FsVolume *volume, const Superblock *super, GError **error)
{
  int64_t block_size = INT64_C (1024) << super->log_block_size;

  if (super->blocks == 0 || super->blocks > (uint64_t)(volume->bytes / block_size))
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                      "superblock: %" G_GUINT64_FORMAT " blocks of %" G_GINT64_FORMAT
                      " bytes, expected at most %" G_GINT64_FORMAT,
                      super->blocks, block_size, volume->bytes / block_size);
  if (super->first_data_block > 1 || super->first_data_block >= super->blocks || super->blocks_per_group < 8)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "superblock: first block %u, %u blocks per group",
                      super->first_data_block, super->blocks_per_group);
  if (super->desc_size < EXT2_MIN_DESC_SIZE || super->desc_size > EXT2_MAX_DESC_SIZE
      || !is_power_of_two (super->desc_size))
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "superblock: group descriptors of %u bytes",
                      super->desc_size);
  int64_t groups = div_round_up ((int64_t)super->blocks - super->first_data_block, super->blocks_per_group);
  if (groups > MAX_DESCRIPTOR_BYTES / super->desc_size)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "superblock: %" G_GINT64_FORMAT " groups of %u blocks",
                      groups, super->blocks_per_group);
  return true;
}

static bool
check_features (const Superblock *super, GError **error)
{
  if (super->incompat & INCOMPAT_JOURNAL_DEV)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "it is the journal of another file system");
  if (super->incompat & INCOMPAT_RECOVER)
    return fs_refuse (error, VHDKIT_ERROR_NEEDS_REPLAY, "its journal needs recovery: it was not unmounted");
  if ((super->ro_compat & RO_COMPAT_ORPHAN_PRESENT) || super->last_orphan != 0)
    return fs_refuse (error, VHDKIT_ERROR_NEEDS_REPLAY,
                      "it has deleted files that are to be cleaned up: it was not "
                      "unmounted");
  uint32_t compat = super->compat & ~(uint32_t)KNOWN_COMPAT;
  uint32_t incompat = super->incompat & ~(uint32_t)KNOWN_INCOMPAT;
  uint32_t ro_compat = super->ro_compat & ~(uint32_t)KNOWN_RO_COMPAT;
  if ((compat | incompat | ro_compat) != 0)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "superblock: unknown features (compatible 0x%x, incompatible 0x%x, read-only 0x%x)",
                      compat, incompat, ro_compat);
  return true;
}

static bool
check_state (const Superblock *super, GError **error)
{
  if (super->state & EXT2_ERROR_FS)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "it is marked as having errors");
  if (!(super->state & EXT2_VALID_FS) || (super->state & EXT3_ORPHAN_FS))
    return fs_refuse (error, VHDKIT_ERROR_IN_USE, "superblock: state 0x%x: it was not unmounted cleanly",
                      super->state);
  return true;
}

/* --- opening ------------------------------------------------------------------------------------------- */

static bool
refuse_library (GError **error, const char *what, errcode_t code)
{
  static const struct
  {
    errcode_t code;
    VhdkitError ours;
    const char *text;
  } codes[] = {
    { EXT2_ET_SB_CSUM_INVALID, VHDKIT_ERROR_CORRUPT, "its checksum is wrong" },
    { EXT2_ET_CORRUPT_SUPERBLOCK, VHDKIT_ERROR_CORRUPT, "its numbers contradict each other" },
    { EXT2_ET_BAD_DESC_SIZE, VHDKIT_ERROR_CORRUPT, "the size of a group descriptor is wrong" },
    { EXT2_ET_BAD_BLOCK_NUM, VHDKIT_ERROR_CORRUPT, "a block lies outside" },
    { EXT2_ET_UNSUPP_FEATURE, VHDKIT_ERROR_UNSUPPORTED, "libext2fs does not know a feature of it" },
    { EXT2_ET_UNKNOWN_CSUM, VHDKIT_ERROR_UNSUPPORTED, "libext2fs does not know its kind of checksum" },
    { EXT2_ET_NO_MEMORY, VHDKIT_ERROR_FAILED, "no memory" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (codes); i++)
    if (codes[i].code == code)
      return fs_refuse (error, codes[i].ours, "%s: %s", what, codes[i].text);
  if (code > 0 && code < 4096)
    return fs_refuse (error, VHDKIT_ERROR_IO, "%s: %s", what, g_strerror ((int)code));
  return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "%s: refused by libext2fs with code %ld", what, (long)code);
}

static int64_t
block_size_of (const Ext2Reader *reader)
{
  return reader->fs->blocksize;
}

/* Reads one block; @buf has room for it. */
static bool coroutine_fn
co_read_block (Ext2Reader *reader, blk64_t block, void *buf, const char *what, GError **error)
{
  if (block == 0 || block >= ext2fs_blocks_count (reader->fs->super))
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "%s: block %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT,
                      what, (uint64_t)block, (uint64_t)ext2fs_blocks_count (reader->fs->super));
  return fs_co_read_structure (reader->volume, (int64_t)block * block_size_of (reader),
                               block_size_of (reader), buf, what, error);
}

/* The block in which whoever has it mounted says so, once in a while. */
static bool coroutine_fn
co_check_mmp (Ext2Reader *reader, GError **error)
{
  uint32_t magic, sequence;

  if (!(reader->fs->super->s_feature_incompat & INCOMPAT_MMP))
    return true;
  if (!co_read_block (reader, reader->fs->super->s_mmp_block, reader->bits, "multiple mount protection",
                      error))
    return false;
  memcpy (&magic, reader->bits, sizeof magic);
  memcpy (&sequence, reader->bits + MMP_SEQUENCE_OFFSET, sizeof sequence);
  if (GUINT32_FROM_LE (magic) != EXT4_MMP_MAGIC)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                      "multiple mount protection: signature 0x%08x, expected 0x%08x", GUINT32_FROM_LE (magic),
                      EXT4_MMP_MAGIC);
  if (GUINT32_FROM_LE (sequence) != EXT4_MMP_SEQ_CLEAN)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "multiple mount protection: it is mounted or being checked");
  return true;
}

/* The flag in the superblock says whether there is something in the journal; the journal should agree. */
static bool coroutine_fn
co_check_journal (Ext2Reader *reader, GError **error)
{
  ext2_filsys fs = reader->fs;
  blk64_t block = 0;
  uint32_t magic, start;

  if (!(fs->super->s_feature_compat & COMPAT_HAS_JOURNAL) || fs->super->s_journal_inum == 0)
    return true;
  errcode_t ret = ext2fs_bmap2 (fs, fs->super->s_journal_inum, NULL, NULL, 0, 0, NULL, &block);
  if (ret != 0)
    return refuse_library (error, "journal", ret);
  if (!co_read_block (reader, block, reader->bits, "journal", error))
    return false;
  memcpy (&magic, reader->bits, sizeof magic);
  memcpy (&start, reader->bits + JOURNAL_START_FIELD, sizeof start);
  if (GUINT32_FROM_BE (magic) != JOURNAL_MAGIC)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "journal: signature 0x%08x, expected 0x%08x",
                      GUINT32_FROM_BE (magic), JOURNAL_MAGIC);
  if (start != 0)
    return fs_refuse (error, VHDKIT_ERROR_NEEDS_REPLAY, "its journal is not empty");
  return true;
}

/* --- metadata ------------------------------------------------------------------------------------------ */

static bool
add_metadata (Ext2Reader *reader, blk64_t block, uint32_t count, const char *what, dgrp_t group,
              GError **error)
{
  const struct ext2_super_block *super = reader->fs->super;
  blk64_t blocks = ext2fs_blocks_count (reader->fs->super);

  if (block < super->s_first_data_block || block >= blocks || count > blocks - block)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                      "group %u: %s: %u blocks at block %" G_GUINT64_FORMAT
                      ", expected inside %u..%" G_GUINT64_FORMAT,
                      group, what, count, (uint64_t)block, super->s_first_data_block, (uint64_t)blocks);
  fs_extents_add (&reader->metadata, (int64_t)block, count);
  fs_add_used (reader->volume, (int64_t)block * block_size_of (reader), count * block_size_of (reader));
  reader->metadata_blocks += count;
  return true;
}

/* The superblock, descriptors and room for more of them that @group has a copy of. */
static bool
add_copies (Ext2Reader *reader, dgrp_t group, GError **error)
{
  ext2_filsys fs = reader->fs;
  blk64_t super_block = 0, old_descriptors = 0, new_descriptors = 0;
  bool has_meta_bg = ext2fs_has_feature_meta_bg (fs->super);
  bool has_super = ext2fs_bg_has_super (fs, group);

  ext2fs_super_and_bgd_loc2 (fs, group, &super_block, &old_descriptors, &new_descriptors, NULL);
  if (has_super && !add_metadata (reader, super_block, 1, "superblock", group, error))
    return false;
  uint32_t blocks =
      has_meta_bg ? fs->super->s_first_meta_bg : (uint32_t)fs->desc_blocks + fs->super->s_reserved_gdt_blocks;
  if (old_descriptors != 0 && blocks > 0
      && !add_metadata (reader, old_descriptors, blocks, "group descriptors", group, error))
    return false;
  return new_descriptors == 0 || add_metadata (reader, new_descriptors, 1, "group descriptors", group, error);
}

static bool coroutine_fn
co_collect_metadata (Ext2Reader *reader, GError **error)
{
  ext2_filsys fs = reader->fs;
  bool has_checksums = ext2fs_has_group_desc_csum (fs);

  for (dgrp_t group = 0; group < fs->group_desc_count; group++)
    {
      if (group % 1024 == 0 && fs_co_pause_point (reader->volume) < 0)
        return fs_refuse (error, VHDKIT_ERROR_CANCELLED, "cancelled");
      if (has_checksums && !ext2fs_group_desc_csum_verify (fs, group))
        return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "group %u: the checksum of the descriptor is wrong",
                          group);
      if (!add_copies (reader, group, error)
          || !add_metadata (reader, ext2fs_block_bitmap_loc (fs, group), 1, "block bitmap", group, error)
          || !add_metadata (reader, ext2fs_inode_bitmap_loc (fs, group), 1, "inode bitmap", group, error)
          || !add_metadata (reader, ext2fs_inode_table_loc (fs, group), fs->inode_blocks_per_group,
                            "inode table", group, error))
        return false;
    }
  fs_extents_finish (&reader->metadata);
  if (reader->metadata.incomplete)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "its metadata is too scattered");
  if (fs_extents_bytes (&reader->metadata) != reader->metadata_blocks)
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "group descriptors: metadata of the groups overlaps");
  return true;
}

/* --- bitmaps ------------------------------------------------------------------------------------------- */

/* The bitmap of @group, and those of groups behind it that lie behind it on the disk; NULL with @error. */
static uint8_t *coroutine_fn
co_read_bitmap (Ext2Reader *reader, dgrp_t group, GError **error)
{
  ext2_filsys fs = reader->fs;
  blk64_t block = ext2fs_block_bitmap_loc (fs, group);
  unsigned most = BITMAPS_READ_BYTES / fs->blocksize;

  if (block < reader->first_bitmap || block >= reader->first_bitmap + reader->bitmaps_read)
    {
      unsigned n = 1;

      while (n < most && group + n < fs->group_desc_count
             && ext2fs_block_bitmap_loc (fs, group + n) == block + n)
        n++;
      reader->bitmaps_read = 0;
      if (!fs_co_read_structure (reader->volume, (int64_t)block * block_size_of (reader),
                                 n * block_size_of (reader), reader->bitmaps, "block bitmap", error))
        return NULL;
      reader->first_bitmap = block;
      reader->bitmaps_read = n;
    }
  return reader->bitmaps + (block - reader->first_bitmap) * fs->blocksize;
}

/* For all metadata in the group: in a bitmap that is @made up here, marks it; in one that was read, checks that it is
 * marked. */
static bool
apply_metadata (Ext2Reader *reader, dgrp_t group, uint8_t *bits, bool made, GError **error)
{
  ext2_filsys fs = reader->fs;
  int64_t first = (int64_t)ext2fs_group_first_block2 (fs, group);
  int64_t end = first + ext2fs_group_blocks_count (fs, group);
  const GArray *metadata = reader->metadata.array;

  for (guint i = fs_extents_find (metadata, first); i < metadata->len; i++)
    {
      const FsExtent *extent = &g_array_index (metadata, FsExtent, i);
      int64_t from = MAX (extent->offset, first), to = MIN (extent->offset + extent->bytes, end);

      if (from >= to)
        break;
      size_t bit = (size_t)EXT2FS_B2C (fs, from - first);
      size_t count = (size_t)EXT2FS_B2C (fs, to - 1 - first) + 1 - bit;
      if (made)
        {
          bitset_fill (bits, bit, count, true, BITSET_LSB_FIRST);
          continue;
        }
      bool in_use;
      size_t run = bitset_run (bits, bit, bit + count, &in_use, BITSET_LSB_FIRST);
      if (!in_use || run < count)
        return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                          "group %u: block bitmap: metadata at block %" G_GINT64_FORMAT " is not in use",
                          group, in_use ? first + (int64_t)EXT2FS_C2B (fs, bit + run) : from);
    }
  return true;
}

static bool coroutine_fn
co_read_group (Ext2Reader *reader, dgrp_t group, GError **error)
{
  ext2_filsys fs = reader->fs;
  int64_t first = (int64_t)ext2fs_group_first_block2 (fs, group);
  int64_t blocks = ext2fs_group_blocks_count (fs, group);
  size_t clusters = (size_t)EXT2FS_NUM_B2C (fs, blocks), free_clusters = 0, run;
  bool made = ext2fs_has_group_desc_csum (fs) && ext2fs_bg_flags_test (fs, group, EXT2_BG_BLOCK_UNINIT);
  uint8_t *bits = reader->bits;

  if (made)
    memset (bits, 0, fs->blocksize);
  else
    {
      bits = co_read_bitmap (reader, group, error);
      if (bits == NULL)
        return false;
      if (!ext2fs_block_bitmap_csum_verify (fs, group, (char *)bits,
                                            (int)(EXT2_CLUSTERS_PER_GROUP (fs->super) / 8)))
        return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "group %u: the checksum of the block bitmap is wrong",
                          group);
    }
  if (!apply_metadata (reader, group, bits, made, error))
    return false;
  for (size_t bit = 0; bit < clusters; bit += run)
    {
      bool in_use;

      run = bitset_run (bits, bit, clusters, &in_use, BITSET_LSB_FIRST);
      if (in_use)
        continue;
      int64_t start = EXT2FS_C2B (fs, (int64_t)bit),
              end = MIN (EXT2FS_C2B (fs, (int64_t)(bit + run)), blocks);
      free_clusters += run;
      fs_add_free (reader->volume, (first + start) * block_size_of (reader),
                   (end - start) * block_size_of (reader));
    }
  if (free_clusters != ext2fs_bg_free_blocks_count (fs, group))
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT,
                      "group %u: the bitmap has %" G_GSIZE_FORMAT " free clusters, the descriptor says %u",
                      group, free_clusters, ext2fs_bg_free_blocks_count (fs, group));
  return true;
}

static bool coroutine_fn
co_read_groups (Ext2Reader *reader, GError **error)
{
  ext2_filsys fs = reader->fs;
  char uuid[37];
  const uint8_t *id = fs->super->s_uuid;

  g_snprintf (uuid, sizeof uuid, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
              id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10], id[11], id[12],
              id[13], id[14], id[15]);
  fs_set_uuid (reader->volume, uuid);
  fs_set_label (reader->volume, (const char *)fs->super->s_volume_name, sizeof fs->super->s_volume_name);

  /* A bitmap is one block. */
  if (EXT2_CLUSTERS_PER_GROUP (fs->super) > fs->blocksize * 8
      || (uint64_t)EXT2_CLUSTERS_PER_GROUP (fs->super) * EXT2FS_CLUSTER_RATIO (fs)
             != EXT2_BLOCKS_PER_GROUP (fs->super))
    return fs_refuse (error, VHDKIT_ERROR_CORRUPT, "superblock: %u clusters, %u blocks per group",
                      EXT2_CLUSTERS_PER_GROUP (fs->super), EXT2_BLOCKS_PER_GROUP (fs->super));
  if (!co_check_mmp (reader, error) || !co_check_journal (reader, error)
      || !co_collect_metadata (reader, error))
    return false;
  for (dgrp_t group = 0; group < fs->group_desc_count; group++)
    if (!co_read_group (reader, group, error))
      return false;
  return true;
}

static bool coroutine_fn
ext2_co_read_free (FsVolume *volume, GError **error)
{
  Superblock super = decode_superblock (volume);
  Ext2Reader reader = { .volume = volume };

  if (!check_features (&super, error) || !check_state (&super, error)
      || !check_geometry (volume, &super, error))
    return false;
  errcode_t ret = fs_ext2_co_open (volume, &reader.fs);
  if (ret != 0)
    return refuse_library (error, "superblock", ret);
  fs_extents_init (&reader.metadata, MAX_METADATA_EXTENTS, 0);
  reader.bitmaps = g_malloc (BITMAPS_READ_BYTES);
  reader.bits = g_malloc (reader.fs->blocksize);
  bool ok = co_read_groups (&reader, error);
  g_free (reader.bits);
  g_free (reader.bitmaps);
  fs_extents_clear (&reader.metadata);
  ext2fs_free (reader.fs);
  return ok;
}

const FsReader ext2_reader = {
  .name = "ext2",
  .co_probe = ext2_co_probe,
  .co_read_free = ext2_co_read_free,
};
