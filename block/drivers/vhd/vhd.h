/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VHD driver's state, shared by its files.
 *
 *   offset 0                                                                        end of file
 *   | footer copy | header | locator texts | BAT | batmap | bitmap+block | … | (reserve) | footer |
 *
 * A fixed image is guest data and a footer.  Dynamic and differencing images have no journal; their safety
 * is the order of writes.  Names I1 to I4 are those of docs/architecture.md.
 *
 * What is in memory and what is on disk
 *   The pages of s->bat hold what the BAT on disk holds, always.  A block that was allocated, moved or
 *   dropped since stands in s->changes, and lookups ask there first.  Bitmaps (VhdBitmap) hold the present
 *   bits; one that differs from the disk is dirty.  vhd_co_publish () (flush.c) is the only one that
 *   writes BAT entries and bitmaps of existing blocks:
 *
 *     1  take a copy of the changes and of the dirty bitmaps   (what guests write meanwhile is not in it)
 *     2  write the bitmaps of new blocks, clear batmap bits of blocks about to move or go
 *     3  flush: payload, new bitmaps, batmap, grown file and its footer are durable           (I1, I2)
 *     4  write the BAT sectors and the bitmaps of existing blocks from the copy
 *     5  flush: now space that the old entries named is free                                     (I3)
 *
 *   A guest flush is one such round; so is any moment at which too many changes have gathered.  A crash
 *   before 5 leaves each entry and each bitmap sector old or new, and both are true.
 *
 * Bits and data
 *   differencing: a bit is set in memory after its sector's write has completed, and on disk by step 4.
 *   dynamic: new blocks get all ones, which is true because they are zero where not written.  A block of
 *   another writer with zero bits gets all ones, durably, before data is written below them.
 *
 * A new image that is being filled
 *   The header, of a fixed image the footer, has another cookie until vhd_co_complete ().
 *
 * The footer
 *   The copy at 0 changes only in a resize, in a change of the parent and in repair.  When blocks need room the file grows by a step of
 *   many blocks: the footer is written at the new end first, and the space before it is zero; what the old
 *   footer's place holds is cleared before a block takes it.  Closing cuts the reserve: footer at its final
 *   place, flush, truncate (I4).
 *
 * Reuse
 *   A dropped or moved block's space is used again only after step 5, and only when every request that
 *   began before has ended (epochs): a slow read must not find another block's bytes.
 *
 * Locks, in this order: publish_lock, alloc_lock.  Neither is held over guest payload I/O.
 */
#ifndef VHD_H
#define VHD_H

#include <vhdkit/driver.h>

#include "checked.h"
#include "codec.h"
#include "epochs.h"

/* Changes or dirty bitmaps that start a round by themselves. */
#define VHD_PUBLISH_THRESHOLD 4096
/* Unpinned BAT pages and bitmaps in memory, bytes each. */
#define VHD_CACHE_BYTES (16 << 20)
#define VHD_BAT_PAGE    4096
/* More gaps than this are not remembered for reuse. */
#define VHD_MAX_FREE_SLOTS 65536
/* A table of more bytes is refused: it would take a 2040 GiB disk in blocks below 4 KiB. */
#define VHD_MAX_BAT_BYTES (INT64_C (2) << 30)

/* --- sector bitmaps (bitmap.c) -------------------------------------------------------------------------- */

typedef struct VhdBitmap VhdBitmap;
struct VhdBitmap
{
  uint32_t block;
  uint32_t sector; /* where it is in the file */
  int pins;
  bool all_set;  /* every sector present: bits is NULL */
  bool dirty;    /* the disk holds an older one; kept until published */
  bool orphan;   /* its block was dropped: no longer in the table, freed with the last pin */
  uint8_t *bits; /* bitmap_bytes, MSB first */
  GList lru;     /* in s->bitmap_lru while unpinned and clean */
};

/* A bitmap that is being read. */
typedef struct VhdBitmapLoad VhdBitmapLoad;
struct VhdBitmapLoad
{
  uint32_t block;
  bool forgotten; /* the block was dropped or moved meanwhile */
  VhdBitmapLoad *next;
};

/* --- allocation ------------------------------------------------------------------------------------------
 */

/* Where a block is now, when the BAT on disk does not say so yet. */
typedef struct
{
  uint32_t block;
  uint32_t sector;            /* VHD_BAT_UNUSED: dropped */
  uint32_t old_sector;        /* what the BAT on disk says */
  bool fresh;                 /* newly allocated: its bitmap is not on disk yet */
  bool publishing;            /* the round that runs now writes an entry of this block … */
  uint32_t publishing_sector; /* … with this value: the disk may or may not have it */
} VhdChange;

typedef struct
{
  int64_t file_offset;
  uint64_t epoch; /* may be used again when all requests up to this epoch have ended */
} VhdFreeSlot;

/* Where a block is, for the blocks asked for lately: what the table, the changes and the checks say, in one
 * look.  Only allocated blocks; forgotten when the block is allocated, moved or dropped. */
typedef struct
{
  uint32_t block;
  uint32_t sector; /* 0: empty; no block is at sector 0 */
  bool full;       /* dynamic: its bitmap is all ones */
} VhdRecent;

#define VHD_RECENT 1024 /* a power of two */

/* XenServer's map of full blocks (batmap.c). */
typedef struct
{
  bool present;
  bool trusted;          /* its checksum was right */
  int64_t header_offset; /* bytes */
  int64_t map_offset;    /* bytes */
  uint32_t map_bytes;    /* bytes of the map kept in @map, all of them checksummed */
  VhdBatmapDisk header;
  uint8_t *map; /* NULL until the image is writable */
  bool dirty;
} VhdBatmap;

typedef struct
{
  int64_t file_offset, bytes;
  const char *what; /* "BAT", for messages */
} VhdRange;

/* Footer copy, header, BAT, batmap and its map, locator texts. */
#define VHD_MAX_METADATA (5 + VHD_LOCATORS)

typedef struct
{
  BlockDriverState *bs;

  VhdFooter footer;
  VhdHeader header;   /* not of fixed images */
  bool identified;    /* it is a VHD, whatever state it is in */
  char *damage;       /* opened to be checked, without content: why it cannot be opened otherwise; or NULL */
  bool size_from_chs; /* open options */
  bool ignore_saved_state;
  bool end_footer_valid; /* found good at the end of the file */
  bool end_footer_short; /* 511 bytes, as Virtual PC wrote before 2004 */
  bool copy_valid;       /* the copy at 0 */
  bool copies_differ;
  int64_t footer_offset; /* where the end footer is (dynamic: or belongs) */

  uint32_t block_size;   /* bytes */
  uint32_t bitmap_bytes; /* as stored, padded */
  int64_t block_span;    /* bitmap and data */
  uint32_t sectors_per_block;
  uint32_t blocks;                     /* entries in use: the virtual size in blocks */
  int64_t bat_bytes;                   /* padded to a sector */
  VhdRange metadata[VHD_MAX_METADATA]; /* all that is not a block */
  int n_metadata;
  int64_t metadata_end;      /* the largest end of them */
  unsigned ignored_locators; /* bit n: slot n lies in another structure */
  GPtrArray *parent_paths;   /* of BlockParentPath, from the locators and the name; NULL: no parent */

  BdrvMetaCache *bat;
  VhdBatmap batmap;

  CoMutex publish_lock;
  CoMutex alloc_lock;
  GHashTable *changes;          /* block -> VhdChange, owned */
  VhdRecent recent[VHD_RECENT]; /* direct-mapped by block */
  bool lost_block_told;         /* a warning says why a block cannot be read */

  GHashTable *bitmaps;       /* block -> VhdBitmap, owned */
  GQueue bitmap_lru;         /* unpinned and clean, most recent first */
  size_t bitmap_bytes_clean; /* memory of those */
  size_t bitmap_bytes_dirty;
  VhdBitmapLoad *bitmap_loads;
  uint64_t bitmap_generation; /* moves on whenever the disk may hold a newer bitmap than a read under way */

  bool writable;         /* the whole table was checked, space accounting below is valid */
  int64_t data_end;      /* end of the last used byte before the reserve */
  bool can_grow;         /* the container is a file, not a device */
  bool clone_in_file;    /* extent sharing inside the container has not failed yet */
  bool grown_is_zero;    /* space behind data_end reads as zeros (not so on a device) */
  bool end_footer_stale; /* a failed write may have left no footer at the end; close writes it again */
  GArray *free_slots;    /* of VhdFreeSlot */

  Epochs epochs; /* every request that uses a block's place in the file is in one */
} VhdState;

static inline int64_t
vhd_sector_to_offset (uint32_t sector)
{
  return (int64_t)sector * VHD_SECTOR_SIZE;
}

static inline bool
vhd_is_fixed (const VhdState *s)
{
  return s->footer.disk_type == VHD_TYPE_FIXED;
}

static inline bool
vhd_is_differencing (const VhdState *s)
{
  return s->footer.disk_type == VHD_TYPE_DIFFERENCING;
}

/* The first file offset >= @from at which a block may start so that its data is 4 KiB-aligned. */
static inline int64_t
vhd_align_block (const VhdState *s, int64_t from)
{
  return round_up (from + s->bitmap_bytes, 4096) - s->bitmap_bytes;
}

/* open.c */
bool coroutine_fn vhd_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error);
bool coroutine_fn vhd_co_reopen_rw (BlockDriverState *bs, GError **error);
int coroutine_fn vhd_co_close (BlockDriverState *bs);
/* Writes s->footer at @file_offset. */
int coroutine_fn vhd_co_write_footer (VhdState *s, int64_t file_offset);
/* Writes it over the copy at 0 and then over the footer at the end, durable on return: one is left alone until the
 * other is whole (I4).  What it names is durable before the second footer names it. */
int coroutine_fn vhd_co_write_both_footers (VhdState *s);
/* Footer at the end of what is used, then the rest is cut off; durable on return. */
int coroutine_fn vhd_co_cut (VhdState *s);
/* Writes the first 512 bytes of @header, checksum included, to its place: one sector, which cannot tear. */
int coroutine_fn vhd_co_write_header_sector (VhdState *s, const VhdHeader *header);
/* Sets what follows from footer and header: sizes, s->blocks, the metadata ranges. */
void vhd_refresh_sizes (VhdState *s);
/* As s->metadata_end, with the space that locators reserve for longer texts. */
int64_t vhd_metadata_space_end (const VhdState *s);
/* The end of metadata and blocks; @used: the blocks (VhdUsedBlock) sorted by sector. */
int64_t vhd_used_end (const VhdState *s, const GArray *used);
/* Whether slot @slot is in use and its text lies in the file, in no other structure. */
bool vhd_locator_is_sound (const VhdState *s, int slot);
/* The end of the space for blocks: the footer, or the end of a file that lost it. */
int64_t vhd_blocks_limit (const VhdState *s);
/* The metadata range that shares a byte with the given one, or NULL. */
const VhdRange *vhd_find_metadata (const VhdState *s, int64_t file_offset, int64_t bytes);

/* The entry for @block, right or to be filled. */
static inline VhdRecent *
vhd_recent (VhdState *s, uint32_t block)
{
  return &s->recent[block % VHD_RECENT];
}

static inline bool
vhd_recent_is (const VhdRecent *recent, uint32_t block)
{
  return recent->block == block && recent->sector != 0;
}

static inline void
vhd_recent_forget (VhdState *s, uint32_t block)
{
  if (vhd_recent (s, block)->block == block)
    vhd_recent (s, block)->sector = 0;
}

/* bat.c */
/* The sector of @block (VHD_BAT_UNUSED if it has none), checked against the file and the metadata. */
int coroutine_fn vhd_co_lookup (VhdState *s, uint32_t block, uint32_t *sector);
/* The length of the run of unallocated blocks from @block, at most @max; 0: it is allocated. */
int64_t coroutine_fn vhd_co_unused_run (VhdState *s, uint32_t block, int64_t max);
/* Whether a block that starts at @sector lies between metadata and end of file; *truncated (may be NULL): it
 * reaches past the end of a file that lost its footer. */
bool vhd_sector_is_sound (VhdState *s, uint32_t sector, bool *truncated);
/* Of such a truncated block: 0 when its bitmap has no bit for a sector that is missing (they read as zeros, or as
 * the parent), -EIO when data are gone, other -errno. */
int coroutine_fn vhd_co_check_truncated (VhdState *s, uint32_t block, uint32_t sector);
/* Calls @visit for every entry in use, in block order, whether sound or not; stops on a non-zero result. */
typedef int coroutine_fn VhdBatVisitor (VhdState *s, uint32_t block, uint32_t sector, void *opaque);
int coroutine_fn vhd_co_for_each_block (VhdState *s, VhdBatVisitor *visit, void *opaque);
/* Warns of blocks that cannot be read, as where the file was cut short.  Goes through the whole table, unless it is
 * longer than BDRV_EXAMINE_BYTES. */
void coroutine_fn vhd_co_examine_bat (VhdState *s);
/* Writes the entries of @changes (sorted by block) to the BAT on disk and its cached pages.  The caller has
 * flushed what they point to. */
int coroutine_fn vhd_co_bat_store (VhdState *s, const VhdChange *changes, size_t n);
/* Reads the whole table and checks it: every entry sound, no two blocks sharing a byte.  Returns the used
 * blocks (VhdUsedBlock) sorted by sector, or NULL. */
typedef struct
{
  uint32_t sector, block;
} VhdUsedBlock;
GArray *coroutine_fn vhd_co_collect_blocks (VhdState *s, GError **error);
/* An empty list that has room for all blocks in use, however many a hostile table has; NULL: there is no memory. */
GArray *coroutine_fn vhd_co_new_block_list (VhdState *s, GError **error);
/* For g_array_sort () of VhdUsedBlock. */
int vhd_compare_used (const void *a, const void *b);

/* bitmap.c */
/* The bitmap of allocated @block at @sector, pinned.  0 or -errno. */
int coroutine_fn vhd_co_bitmap_get (VhdState *s, uint32_t block, uint32_t sector, VhdBitmap **bitmap);
/* The bitmap of a new block, pinned: all ones or all zeros; never yields. */
VhdBitmap *vhd_bitmap_new (VhdState *s, uint32_t block, uint32_t sector, bool all_set);
void vhd_bitmap_pin (VhdState *s, VhdBitmap *bitmap);
void vhd_bitmap_put (VhdState *s, VhdBitmap *bitmap);
/* In the cache, not pinned by this; or NULL. */
VhdBitmap *vhd_bitmap_peek (VhdState *s, uint32_t block);
void vhd_bitmap_forget (VhdState *s, uint32_t block);
void vhd_bitmap_forget_all (VhdState *s);
/* Sets bits in memory and marks it dirty unless they were set. */
void vhd_bitmap_set (VhdState *s, VhdBitmap *bitmap, uint32_t first, uint32_t count);
/* Between memory and disk (flush.c): what is dirty stays in memory. */
void vhd_bitmap_mark_dirty (VhdState *s, VhdBitmap *bitmap);
void vhd_bitmap_mark_clean (VhdState *s, VhdBitmap *bitmap);
/* The run of equal bits from @first, before @end. */
uint32_t vhd_bitmap_run (VhdState *s, const VhdBitmap *bitmap, uint32_t first, uint32_t end, bool *present);

/* alloc.c */
/* Makes @block exist: afterwards vhd_co_lookup () gives *sector.  Its bitmap is in the cache; everything in
 * it reads as zeros.  Called without alloc_lock. */
int coroutine_fn vhd_co_allocate (VhdState *s, uint32_t block, uint32_t *sector);
/* Drops @block from the table (in memory; durable when published). */
int coroutine_fn vhd_co_drop (VhdState *s, uint32_t block);
/* The block's space at @sector, which no BAT on disk names any more, may be used again. */
void vhd_free_slot (VhdState *s, uint32_t sector);
/* The change of @block, made if there is none. */
VhdChange *vhd_change_for (VhdState *s, uint32_t block, uint32_t old_sector);

/* flush.c */
int coroutine_fn vhd_co_publish (VhdState *s);
int coroutine_fn vhd_co_flush (BlockDriverState *bs);
/* Starts a round if much has gathered. */
int coroutine_fn vhd_co_maybe_publish (VhdState *s);

/* batmap.c */
void coroutine_fn vhd_co_batmap_probe (VhdState *s);
bool coroutine_fn vhd_co_batmap_load (VhdState *s, GError **error);
void vhd_batmap_set (VhdState *s, uint32_t block, bool full);
bool vhd_batmap_get (const VhdState *s, uint32_t block);
int coroutine_fn vhd_co_batmap_write (VhdState *s);
void vhd_batmap_clear (VhdState *s);

/* io.c */
int coroutine_fn vhd_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                size_t qiov_offset);
int coroutine_fn vhd_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
int coroutine_fn vhd_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags);
int coroutine_fn vhd_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn vhd_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                       BlockDriverState *src, int64_t src_offset);
int coroutine_fn vhd_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum,
                                      int64_t *map, BlockDriverState **file);

/* Makes a range read as zeros whatever the parent holds; @offset may lie past the present end of the disk,
 * in blocks the table has entries for. */
int coroutine_fn vhd_co_zero_range (VhdState *s, int64_t offset, int64_t bytes);

/* locator.c */
/* Whether @child may get @parent as its parent. */
bool vhd_check_parent (const BlockDriverState *child, BlockDriverState *parent, GError **error);
bool vhd_get_parent_link (BlockDriverState *bs, BlockParentLink *link);
bool vhd_get_identity (BlockDriverState *bs, uint8_t *identity);
/* Reads the locator texts of a differencing image and fills s->parent_paths anew; what is no path is warned of and
 * left out. */
bool coroutine_fn vhd_co_read_locators (VhdState *s, GError **error);
/* The text of a locator to be written; owned by the list. */
typedef struct
{
  int64_t file_offset;
  GByteArray *text;
} VhdLocatorText;
/* An empty list of VhdLocatorText. */
GArray *vhd_locator_texts_new (void);
/* Fills in @header's parent name and locators for a parent at @parent_path or, tried after it, at @other_path (NULL:
 * nowhere else), all paths absolute, with their texts from @file_offset on; returns the end (bytes), or -1 when a
 * path is too long or not UTF-8. */
int64_t vhd_make_locators (VhdHeader *header, const char *child_path, const char *parent_path,
                           const char *other_path, int64_t file_offset, GArray *texts);

/* relink.c */
bool vhd_check_parent_change (BlockDriverState *bs, const BlockParentChange *change, GError **error);
bool coroutine_fn vhd_co_change_parent (BlockDriverState *bs, const BlockParentChange *change,
                                        GError **error);
/* A header that stands behind a block goes back to where the others of its kind are, if there is room, and the
 * space is given back; @used: the blocks (VhdUsedBlock) sorted by sector.  Both footers are good.  0 or -errno. */
int coroutine_fn vhd_co_settle_header (VhdState *s, const GArray *used);

/* create.c, resize.c, compact.c, check.c, info.c */
bool coroutine_fn vhd_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error);
bool coroutine_fn vhd_co_complete (BlockDriverState *bs, GError **error);
bool coroutine_fn vhd_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error);
bool coroutine_fn vhd_co_get_layout (BlockDriverState *bs, BlockLayout *layout, GError **error);
int coroutine_fn vhd_co_drop_block (BlockDriverState *bs, int64_t offset, BlockDrop drop);
int coroutine_fn vhd_co_relocate (BlockDriverState *bs, const BlockMove *moves, int n);
int coroutine_fn vhd_co_trim (BlockDriverState *bs);
bool coroutine_fn vhd_co_check (BlockDriverState *bs, BlockCheckResult *result, bool fix, GError **error);
GVariant *vhd_get_specific_info (BlockDriverState *bs);

extern const BlockOptionDef vhd_create_options[];
extern const BlockOptionDef vhd_open_options[];

#endif
