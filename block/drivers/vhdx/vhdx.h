/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VHDX driver's state, shared by its files.
 *
 *   0        1 MiB                                                         end of file
 *   | header section | log | metadata region | BAT region | payload and bitmap blocks, any order … |
 *
 * Order of opening: headers, log, region tables, metadata, then what is needed of the BAT when it is needed.
 * Nothing but headers and log is looked at before the log: it may hold newer versions of all the rest.
 *
 * Reading only: a log that must be replayed is replayed in memory, the pages it holds lie over those of the
 * file for every read (VhdxOverlay), and nothing on disk changes.
 *
 * Writing.  All metadata is changed in pages of 4 KiB that are held in memory (VhdxHeldPage) until they are at
 * their places in the file; look-ups see the held page first.  vhdx_co_publish () (flush.c) is the only one
 * that brings them to the disk, in rounds:
 *
 *     1  take a copy of all changed pages (what guests change meanwhile is not in it)
 *     2  flush A: payload that the pages speak of, the grown file, and what the round before put in place
 *     3  write one log entry with the copy, whose tail is itself
 *     4  flush B: the round is durable, and the entry before it no longer counts
 *     5  write the pages to their places; flush A of the next round, or closing, makes that durable
 *
 * W1  A page is logged only after flush A: payload before BAT (I1), sector data before bitmap bits (I2).
 * W2  One entry is active at a time.  The next one starts where it ends and reaches over at most half of the ring,
 *     so a torn entry leaves its predecessor whole; what that says is in place and durable by flush A of
 *     the round that failed, so replaying it again changes nothing.
 * W3  When there are more pages than an entry may have, region tables and metadata go first, and fit in one; then
 *     sector bitmaps, then the BAT from its end to its start: a payload entry is never durable before the bitmap block it relies on, which has its own BAT
 *     entry behind those of its chunk.  A flush comes between the pages in place and the next entry (W2).
 * W4  Space that a page gave up is used again only after flush B of its round (I3), and after all requests that
 *     began before have ended (epochs).  A held page of a bitmap block that was given up is forgotten, so no entry
 *     that counts has a target there.
 * W5  New payload blocks read as zeros before the guest's data is in them: they lie in newly grown file, or
 *     are zeroed first.  New bitmap blocks too.
 * W6  A block that becomes partially present gets all its bits cleared in the same change; bits are set after the
 *     data has been written.
 * W7  Headers are written one at a time with a flush after each (I6), both in every update, so either copy
 *     alone opens the file.  FileWriteGuid is new before the first change of an open, DataWriteGuid before
 *     the first that a guest could see.
 * W8  The log has an entry with the new LogGuid before a header names it; it is named by none when it is
 *     drained.  The file is cut only then (I5).
 *
 * A crash before 4 leaves the state of the round before; after 4, replay gives that of this round.  A crash inside
 * replay (replay.c) repeats it.
 *
 * Locks, in this order: publish_lock, alloc_lock, session_lock.  None is held over guest payload I/O.
 */
#ifndef VHDX_H
#define VHDX_H

#include <vhdkit/driver.h>

#include "checked.h"
#include "epochs.h"
#include "spec.h"

#define VHDX_PAGE        4096
#define VHDX_CACHE_BYTES (16 << 20)
/* Blocks whose place is remembered; a power of two. */
#define VHDX_RECENT 1024
/* No structure lies behind this: the largest disk and its tables, with room to spare. */
#define VHDX_MAX_FILE_BYTES (128 * VHDX_TIB)

/* --- headers --------------------------------------------------------------------------------------------- */

typedef struct
{
  uint64_t sequence_number;
  VhdxGuid file_write_guid, data_write_guid, log_guid;
  uint16_t log_version, version;
  uint32_t log_length; /* bytes */
  uint64_t log_offset; /* bytes */
} VhdxHeader;

/* --- regions and metadata -------------------------------------------------------------------------------- */

typedef struct
{
  VhdxGuid guid;
  int64_t file_offset, bytes;
  bool required;
} VhdxRegion;

typedef struct
{
  char *key, *value; /* UTF-8 */
} VhdxLocatorEntry;

typedef struct
{
  uint32_t block_size;  /* bytes */
  bool leave_allocated; /* fixed */
  bool has_parent;      /* differencing */
  int64_t bytes;        /* virtual size */
  VhdxGuid disk_id;
  uint32_t logical_sector_size, physical_sector_size;
  GArray *locator; /* of VhdxLocatorEntry; NULL: none */
} VhdxMetadata;

/* An entry of the metadata table, checked. */
typedef struct
{
  VhdxGuid id;
  uint32_t offset; /* bytes from the start of the region; 0 when @length is */
  uint32_t length; /* bytes */
  uint32_t flags;  /* VHDX_METADATA_*, and what is reserved as it stands there */
} VhdxMetadataEntry;

/* A metadata item and what it holds. */
typedef struct
{
  VhdxGuid id;
  uint32_t flags;      /* VHDX_METADATA_* */
  GByteArray *content; /* never NULL */
} VhdxItem;

/* --- the log, replayed in memory ------------------------------------------------------------------------- */

typedef struct
{
  int64_t file_offset, end;
} VhdxZeroRange;

typedef struct
{
  GHashTable *pages;  /* by file offset; NULL: no log was replayed */
  GArray *zeros;      /* of VhdxZeroRange */
  int64_t file_bytes; /* length of the file after replay */
} VhdxOverlay;

/* --- writing ----------------------------------------------------------------------------------------------- */

/* What this open has changed so far: which GUIDs of the header are new. */
typedef enum
{
  VHDX_SESSION_NONE,
  VHDX_SESSION_FILE, /* FileWriteGuid */
  VHDX_SESSION_DATA, /* and DataWriteGuid */
} VhdxSession;

/* A page of metadata that was changed, or is about to be. */
typedef struct
{
  int64_t file_offset; /* bytes, a multiple of VHDX_PAGE */
  uint8_t *data;       /* VHDX_PAGE bytes: what the page is to be */
  unsigned holds;      /* changers, and the round that writes it */
  bool changed;        /* since the last copy was taken */
} VhdxHeldPage;

/* Where a fully present block is. */
typedef struct
{
  uint64_t block;
  int64_t file_offset; /* 0: none */
} VhdxRecent;

/* A range of the file that is no longer used by what is in memory. */
typedef struct
{
  int64_t file_offset, bytes;
  uint64_t epoch; /* of requests that may still use it */
} VhdxFreed;

typedef struct VhdxSpace VhdxSpace;

typedef struct
{
  BlockDriverState *bs;
  VhdxHeader header;
  int header_slot;     /* of the current one, 0 or 1 */
  bool header_damaged; /* the other one is */
  char *creator;
  GArray *regions;             /* of VhdxRegion */
  int64_t region_table_offset; /* of the copy that counts */
  bool region_tables_compared, region_tables_differ;
  VhdxRegion bat_region, metadata_region;
  VhdxMetadata metadata;
  VhdxOverlay overlay;
  BdrvMetaCache *pages; /* of the file, VHDX_PAGE each */
  int64_t file_bytes;   /* of the container, after replay */

  int64_t sectors_per_block;
  uint64_t chunk_ratio; /* payload blocks that share a bitmap block */
  uint64_t payload_blocks;
  uint64_t bat_entries; /* that must be there */

  bool incomplete;        /* marked so, and opened all the same to be filled */
  bool identified;        /* it is a VHDX, whatever state it is in */
  bool log_without_entry; /* opened though the log to be replayed is not there: to check it, or to drop it */
  char *damage;           /* the same, without content: what kept it from being opened; NULL: it is open */

  VhdxRecent recent[VHDX_RECENT];
  bool refused_entry_told; /* a warning says why a block cannot be read */

  /* The rest is for a writable image only. */
  bool writable;
  bool can_grow;      /* the container is a file, not a device */
  bool clone_in_file; /* extent sharing inside the container has not failed yet */
  bool grown_is_zero; /* space behind data_end reads as zeros (not so on a device) */
  VhdxSpace *space;   /* what of the file is in use */
  int64_t data_end;   /* bytes; nothing behind it is in use */
  int64_t hole_bytes; /* there may be holes below data_end up to this long; longer ones were not found */
  int64_t hole_hint;  /* where to look next */
  GArray *dropped;    /* of VhdxFreed: given up since the last round began */
  GArray *freed;      /* of VhdxFreed: no round speaks of it any more */
  Epochs epochs;      /* every request that uses a block's place in the file is in one */
  unsigned moving;    /* blocks are being moved: writers wait */
  CoQueue moving_done;

  GHashTable *held;    /* file offset -> VhdxHeldPage */
  unsigned changed;    /* of them */
  GHashTable *filling; /* partially present blocks that got bits since the last round (block + 1) */
  CoMutex publish_lock, alloc_lock, session_lock;
  bool publishing;

  VhdxSession session;
  VhdxGuid next_data_write_guid; /* what DataWriteGuid becomes with the first change a guest could see */
  bool log_started;
  VhdxGuid log_guid;     /* of the entries of this session */
  uint32_t log_at;       /* bytes in the log: where the next entry starts */
  uint64_t log_sequence; /* of the entry written last */
  uint8_t *log_buffer;   /* for the longest entry */
  int64_t flushed_bytes; /* length of the file at the last flush */
} VhdxState;

/* A fixed image keeps its blocks, whatever they hold ([MS-VHDX] 2.6.2.1). */
static inline bool
vhdx_is_fixed (const VhdxState *s)
{
  return s->metadata.leave_allocated && !s->metadata.has_parent;
}

/* guid.c */
extern const VhdxGuid vhdx_guid_bat, vhdx_guid_metadata, vhdx_guid_parameters, vhdx_guid_disk_size,
    vhdx_guid_disk_id, vhdx_guid_logical_sector, vhdx_guid_physical_sector, vhdx_guid_locator,
    vhdx_guid_locator_vhdx, vhdx_guid_chs, vhdx_guid_incomplete, vhdx_guid_pmem;
bool vhdx_guid_equal (const VhdxGuid *a, const VhdxGuid *b);
bool vhdx_guid_is_zero (const VhdxGuid *guid);
/* "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" and a NUL, the way Windows prints it. */
void vhdx_guid_format (const VhdxGuid *guid, char text[37]);
/* A random one. */
VhdxGuid vhdx_guid_new (void);
/* With or without braces, any case. */
bool vhdx_guid_parse (const char *text, VhdxGuid *guid);

/* header.c */
bool coroutine_fn vhdx_co_read_headers (VhdxState *s, GError **error);
/* Signature and checksum. */
bool vhdx_header_is_valid (const VhdxHeaderDisk *disk);

/* log.c */
/* Finds the active sequence and replays it into s->overlay; nothing to do when the log is empty. */
bool coroutine_fn vhdx_co_replay_in_memory (VhdxState *s, GError **error);
/* Whether no entry of the log that the header names was ever whole: there is none, or a single one whose tail is itself
 * and parts of which were never written (it was the first of its session, and nothing of it is in place).  1, 0 or
 * -errno. */
int coroutine_fn vhdx_co_log_is_empty (VhdxState *s);

/* overlay.c */
void vhdx_overlay_init (VhdxOverlay *overlay, int64_t file_bytes);
void vhdx_overlay_clear (VhdxOverlay *overlay);
/* The page at @file_offset over all that was there, to be filled: VHDX_PAGE bytes. */
uint8_t *vhdx_overlay_add_page (VhdxOverlay *overlay, int64_t file_offset);
void vhdx_overlay_add_zeros (VhdxOverlay *overlay, int64_t file_offset, int64_t bytes);
/* The overlay's bytes of the page at @file_offset, or NULL: they are the file's. */
const uint8_t *vhdx_overlay_page (const VhdxOverlay *overlay, int64_t file_offset);
/* BdrvWrites of the pages that stay, once the ranges of zeros are written. */
GArray *vhdx_overlay_writes (const VhdxOverlay *overlay);
/* Whether anything of the overlay lies in the range. */
bool vhdx_overlay_touches (const VhdxOverlay *overlay, int64_t file_offset, int64_t bytes);
/* Reads of the container as it is after replay; past its end: zeros up to the replayed length. */
int coroutine_fn vhdx_co_read (VhdxState *s, int64_t file_offset, int64_t bytes, void *buf);
int coroutine_fn vhdx_co_readv (VhdxState *s, int64_t file_offset, int64_t bytes, const IoVector *qiov,
                                size_t qiov_offset);
/* The 8-byte integer at @file_offset (a multiple of 8), through the page cache. */
int coroutine_fn vhdx_co_read_u64 (VhdxState *s, int64_t file_offset, uint64_t *value);
/* The page that holds @file_offset as it is now, to be let go of with vhdx_page_put () without a yield in
 * between. */
typedef struct
{
  const uint8_t *data;
  void *cached; /* NULL: of the overlay, or held */
} VhdxPage;
int coroutine_fn vhdx_co_page_get (VhdxState *s, int64_t file_offset, VhdxPage *page);
void vhdx_page_put (VhdxState *s, VhdxPage *page);

/* region.c, metadata.c, metadata-change.c, locator.c */
/* By the first table; by the second if that is damaged. */
bool coroutine_fn vhdx_co_read_regions (VhdxState *s, GError **error);
/* Whether the second says the same: s->region_tables_differ, with a warning.  A reader does not need to know. */
bool coroutine_fn vhdx_co_compare_region_tables (VhdxState *s, GError **error);
/* Signature and checksum, which is zeroed in @table (VHDX_REGION_TABLE_SIZE bytes). */
bool vhdx_region_table_is_valid (uint8_t *table);
bool coroutine_fn vhdx_co_read_metadata (VhdxState *s, GError **error);
/* The table's entries (VhdxMetadataEntry) as the file has them. */
GArray *coroutine_fn vhdx_co_read_metadata_table (VhdxState *s, GError **error);
/* The content of an item, entry->length bytes (> 0). */
int coroutine_fn vhdx_co_read_metadata_item (VhdxState *s, const VhdxMetadataEntry *entry, void *buf);

typedef enum
{
  VHDX_ITEM_ADD,
  VHDX_ITEM_REPLACE, /* the content; flags stay */
  VHDX_ITEM_REMOVE,
} VhdxItemChangeKind;

typedef struct
{
  VhdxItemChangeKind kind;
  VhdxGuid id;
  uint32_t flags;      /* of an item to add; of others only VHDX_METADATA_USER counts */
  const void *content; /* of an item to add or to replace */
  uint32_t bytes;      /* of it, 0 to VHDX_MAX_METADATA_ITEM */
} VhdxItemChange;

/* All of @changes, one after the other, or none of them; durable on return, and all that was changed before is durable
 * before them.  An item keeps its place if its new content fits there, else it gets free space of the region, that of
 * items that went before included.  NO_SPACE and UNSUPPORTED, without a change: no room in the region, or in the log.
 * Poisons the node when writing fails. */
bool coroutine_fn vhdx_co_change_items (VhdxState *s, const VhdxItemChange *changes, size_t n,
                                        GError **error);
/* System item @id gets new content; as vhdx_co_change_items (). */
bool coroutine_fn vhdx_co_replace_item (VhdxState *s, const VhdxGuid *id, const void *content, uint32_t bytes,
                                        GError **error);
/* System item @id goes; otherwise the same. */
bool coroutine_fn vhdx_co_remove_item (VhdxState *s, const VhdxGuid *id, GError **error);
void vhdx_metadata_clear (VhdxMetadata *metadata);
/* An empty list of VhdxLocatorEntry. */
GArray *vhdx_locator_new (void);
bool vhdx_locator_decode (VhdxState *s, const uint8_t *item, size_t bytes, GError **error);
const char *vhdx_locator_get (const VhdxState *s, const char *key);
extern const char *const vhdx_parent_formats[];
bool vhdx_get_parent_link (BlockDriverState *bs, BlockParentLink *link);
bool vhdx_get_identity (BlockDriverState *bs, uint8_t *identity);
void vhdx_format_identity (const uint8_t *identity, char text[37]);

/* properties.c */
/* An empty list of VhdxItem. */
GArray *vhdx_items_new (void);
/* Appends copies of the items of the virtual disk that the driver has no member for (VhdxItem). */
bool coroutine_fn vhdx_co_read_other_disk_items (VhdxState *s, GArray *items, GError **error);
bool coroutine_fn vhdx_co_copy_disk_properties (BlockDriverState *bs, BlockDriverState *source,
                                                GError **error);

/* encode.c */
void vhdx_header_encode (const VhdxHeader *header, VhdxHeaderDisk *disk);
void vhdx_region_table_encode (const VhdxRegion *regions, uint32_t n, uint8_t table[VHDX_REGION_TABLE_SIZE]);
/* The start of a metadata region: its table and @items (VhdxItem, at most VHDX_MAX_METADATA_ENTRIES), in their
 * order.  Free with g_byte_array_unref (). */
GByteArray *vhdx_metadata_encode (const GArray *items);

/* locator-encode.c */
/* The item for @entries (VhdxLocatorEntry), or NULL: none of them, too many, a text that is empty, too long or
 * not UTF-8.  Texts follow the table of entries one after the other; nothing is padded. */
GByteArray *vhdx_locator_encode (const GArray *entries);
/* The item that links an image to link->parent, a VHDX, and its entries.  NULL and @error, which names @child: the
 * parent has no identity, or a path cannot be stored. */
GByteArray *vhdx_locator_make (const BlockDriverState *child, const BlockParentChange *link, GArray **entries,
                               GError **error);

/* create.c */
extern const BlockOptionDef vhdx_create_options[];
bool coroutine_fn vhdx_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error);
bool coroutine_fn vhdx_co_complete (BlockDriverState *bs, GError **error);

/* bat.c */
/* Payload blocks that share a sector bitmap block; payload blocks and entries the BAT must have ([MS-VHDX] 2.5). */
uint64_t vhdx_chunk_ratio (const VhdxMetadata *metadata);
uint64_t vhdx_payload_blocks (const VhdxMetadata *metadata);
uint64_t vhdx_bat_entries (const VhdxMetadata *metadata);

typedef struct
{
  VhdxBlockState state;
  int64_t file_offset; /* of a present block */
} VhdxBlock;

/* The entry of payload block @block, checked.  0 or -errno. */
int coroutine_fn vhdx_co_lookup (VhdxState *s, uint64_t block, VhdxBlock *entry);
/* Warns of blocks that cannot be read, as where the file was cut short.  Goes through the whole table, unless it is
 * longer than BDRV_EXAMINE_BYTES. */
void coroutine_fn vhdx_co_examine_bat (VhdxState *s);
/* Where the sector bitmap of @chunk is; -EIO when it is not there. */
int coroutine_fn vhdx_co_lookup_bitmap (VhdxState *s, uint64_t chunk, int64_t *file_offset);
/* The run of blocks from @block, at most @max, that are in the same non-present state. */
int64_t coroutine_fn vhdx_co_state_run (VhdxState *s, uint64_t block, uint64_t max, VhdxBlockState state);
/* Checks one entry value; NULL when it is sound, else what is wrong. */
const char *vhdx_bat_entry_problem (const VhdxState *s, uint64_t value, int64_t bytes);
/* The bytes of @block that the disk has. */
int64_t vhdx_bytes_in_block (const VhdxState *s, uint64_t block);

static inline bool
vhdx_is_present (VhdxBlockState state)
{
  return state == VHDX_BLOCK_FULLY_PRESENT || state == VHDX_BLOCK_PARTIALLY_PRESENT;
}

static inline uint64_t
vhdx_bat_index (const VhdxState *s, uint64_t block)
{
  return block + block / s->chunk_ratio;
}

/* Entry @index is of a sector bitmap block, not of a payload block. */
static inline bool
vhdx_bat_index_is_bitmap (const VhdxState *s, uint64_t index)
{
  return (index + 1) % (s->chunk_ratio + 1) == 0;
}

static inline uint64_t
vhdx_bat_index_chunk (const VhdxState *s, uint64_t index)
{
  return index / (s->chunk_ratio + 1);
}

/* The payload block of an entry that is not of a bitmap; >= payload_blocks in the last chunk of a BAT: of none. */
static inline uint64_t
vhdx_bat_index_block (const VhdxState *s, uint64_t index)
{
  return index - vhdx_bat_index_chunk (s, index);
}

static inline uint64_t
vhdx_bitmap_index (const VhdxState *s, uint64_t chunk)
{
  return (chunk + 1) * s->chunk_ratio + chunk;
}

/* Where entry @index of the table is in the file, in bytes. */
static inline int64_t
vhdx_bat_file_offset (const VhdxState *s, uint64_t index)
{
  return s->bat_region.file_offset + (int64_t)index * 8;
}

static inline void
vhdx_recent_forget (VhdxState *s, uint64_t block)
{
  if (s->recent[block % VHDX_RECENT].block == block)
    s->recent[block % VHDX_RECENT].file_offset = 0;
}

/* pages.c */
/* Holds the page at @file_offset (any place in it) in memory for a change.  0 or -errno; yields. */
int coroutine_fn vhdx_co_page_hold (VhdxState *s, int64_t file_offset, VhdxHeldPage **page);
/* Notes that page->data was changed.  Never yields, so changes of several pages are one change for a round if
 * nothing between them yields. */
void vhdx_page_mark_changed (VhdxState *s, VhdxHeldPage *page);
void vhdx_page_release (VhdxState *s, VhdxHeldPage *page);
/* The file now holds @data at the page's place. */
void vhdx_page_is_in_place (VhdxState *s, VhdxHeldPage *page, const uint8_t *data);
/* Forgets changes of pages in the range: it is metadata no longer. */
void vhdx_pages_forget (VhdxState *s, int64_t file_offset, int64_t bytes);
/* Entry @index of the BAT in its held page. */
uint64_t vhdx_held_entry (const VhdxState *s, const VhdxHeldPage *page, uint64_t index);
void vhdx_held_entry_set (VhdxState *s, VhdxHeldPage *page, uint64_t index, uint64_t value);
VhdxHeldPage *vhdx_held_page_peek (const VhdxState *s, int64_t file_offset);
/* Changes metadata other than BAT and bitmaps to @data, [@file_offset, +@bytes); as one change for a round. */
int coroutine_fn vhdx_co_log_metadata (VhdxState *s, int64_t file_offset, const void *data, int64_t bytes);

/* session.c */
/* Before the first change of the file, and with @data before the first that a guest could see: new GUIDs, durable
 * (W7). */
int coroutine_fn vhdx_co_begin_changes_slow (VhdxState *s, VhdxSession wanted);

static inline int coroutine_fn
vhdx_co_begin_changes (VhdxState *s, VhdxSession wanted)
{
  return G_LIKELY (s->session >= wanted) ? 0 : vhdx_co_begin_changes_slow (s, wanted);
}

/* Both headers become s->header with the changes in @header; poisons the node on failure. */
int coroutine_fn vhdx_co_update_headers (VhdxState *s, const VhdxHeader *header);
/* Gives the log an identity and a first entry (W8).  Under publish_lock. */
int coroutine_fn vhdx_co_start_log (VhdxState *s);
/* Publishes what there is, and drains the log: afterwards no header names it. */
int coroutine_fn vhdx_co_end_log (VhdxState *s);
int coroutine_fn vhdx_co_drain_log (BlockDriverState *bs);
bool vhdx_get_next_identity (BlockDriverState *bs, uint8_t *identity);
int coroutine_fn vhdx_co_take_next_identity (BlockDriverState *bs);
int coroutine_fn vhdx_co_take_identity (BlockDriverState *bs, const uint8_t *identity);

/* log-write.c */
typedef struct
{
  int64_t file_offset;
  const uint8_t *data; /* VHDX_PAGE bytes */
} VhdxLogPage;

/* How many pages an entry may have (W2). */
uint32_t vhdx_log_capacity (const VhdxState *s);
/* The length of an entry with @n pages, bytes. */
uint32_t vhdx_log_entry_bytes (uint32_t n);
/* Makes the entry in @entry (vhdx_log_entry_bytes ()), [MS-VHDX] 2.3.1. */
typedef struct
{
  VhdxGuid log_guid;
  uint32_t tail;
  uint64_t sequence_number;
  int64_t flushed_file_offset, last_file_offset;
} VhdxLogEntryInfo;
void vhdx_log_entry_encode (const VhdxLogEntryInfo *info, const VhdxLogPage *pages, uint32_t n,
                            uint8_t *entry);
/* Writes an entry at s->log_at and moves it on.  Not durable yet; on failure its effect is unknown. */
int coroutine_fn vhdx_co_log_write (VhdxState *s, const VhdxLogPage *pages, uint32_t n);

/* flush.c */
int coroutine_fn vhdx_co_publish (VhdxState *s);
/* Starts a round if much has gathered. */
int coroutine_fn vhdx_co_maybe_publish (VhdxState *s);
int coroutine_fn vhdx_co_flush (BlockDriverState *bs);

/* scan.c */
/* Calls @visit for every BAT entry that is needed (s->bat_entries) whose 8 bytes are not all zero, in order; stops
 * on a non-zero result and returns it; -errno when the BAT cannot be read. */
typedef int coroutine_fn VhdxBatVisitor (VhdxState *s, uint64_t index, uint64_t value, void *opaque);
int coroutine_fn vhdx_co_for_each_entry (VhdxState *s, VhdxBatVisitor *visit, void *opaque);
/* The same for the entries [@first, @end), which are inside the BAT region. */
int coroutine_fn vhdx_co_for_each_entry_in (VhdxState *s, uint64_t first, uint64_t end, VhdxBatVisitor *visit,
                                            void *opaque);

/* space.c: which MiB of the container file are in use. */
/* All free; NULL: no memory.  It grows with its file by itself. */
VhdxSpace *vhdx_space_new (void);
void vhdx_space_free (VhdxSpace *space);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (VhdxSpace, vhdx_space_free)
/* Ranges are in bytes and rounded outwards to MiB.  false: some of it was taken already (all of it is now), or it
 * is not below VHDX_MAX_FILE_BYTES (nothing has changed). */
bool vhdx_space_take (VhdxSpace *space, int64_t file_offset, int64_t bytes);
void vhdx_space_release (VhdxSpace *space, int64_t file_offset, int64_t bytes);
/* Where the lowest free run of @bytes (> 0) is that starts at @from or behind and ends at @limit or before; -1: there
 * is none. */
int64_t vhdx_space_find (const VhdxSpace *space, int64_t bytes, int64_t from, int64_t limit);
/* Bytes in the whole MiB of [@from, @limit) that are free. */
int64_t vhdx_space_free_bytes (const VhdxSpace *space, int64_t from, int64_t limit);
/* The end of the last MiB in use. */
int64_t vhdx_space_end (VhdxSpace *space);

/* collect.c */
typedef struct
{
  uint64_t present_blocks, fragmented_blocks, bitmap_blocks;
  uint64_t anchors;      /* blocks that are not present and keep a place */
  int64_t missing_bytes; /* that the file is too short to hold all of the last block */
  uint64_t errors;       /* all of them; only so many are reported */
} VhdxBatFacts;

/* Told of what is wrong with a table; false: no need to go on. */
typedef bool VhdxBatReport (BlockCheckSeverity severity, const char *text, void *opaque);
/* Checks every entry, and takes in @space (an empty map) what the image uses of the file: the header section, the log,
 * regions, blocks and the places that absent blocks keep.  0 or -errno. */
int coroutine_fn vhdx_co_judge_bat (VhdxState *s, VhdxSpace *space, VhdxBatFacts *facts,
                                    VhdxBatReport *report, void *opaque);
/* The space in use, for whoever allocates, moves or frees: an error if a single entry is not sound. */
bool coroutine_fn vhdx_co_collect_space (VhdxState *s, VhdxSpace **space, GError **error);

/* check.c */
bool coroutine_fn vhdx_co_check (BlockDriverState *bs, BlockCheckResult *result, bool fix, GError **error);
/* Whether an image that could not be opened can be checked: keeps what was wrong for that. */
bool vhdx_check_takes (VhdxState *s, const GError *failure);
/* alloc.c */
/* Makes payload block @block present: a block that shows the parent becomes partially present without a bit, any
 * other fully present and zero.  So many blocks @behind it will be written next: those up to the first that is present
 * are made present too, so that they stand together, as far as nothing fails.  Called without alloc_lock. */
int coroutine_fn vhdx_co_allocate (VhdxState *s, uint64_t block, uint64_t behind, VhdxBlock *entry);
/* Puts the block into @state, which stores nothing, and gives up its space. */
int coroutine_fn vhdx_co_set_state (VhdxState *s, uint64_t block, VhdxBlockState state);
/* The state that a partially present block might as well have, by its bits. */
int coroutine_fn vhdx_co_reduced_state (VhdxState *s, uint64_t block, VhdxBlockState *state);
/* A partially present block at @file_offset all of whose sectors are present becomes fully present. */
int coroutine_fn vhdx_co_promote (VhdxState *s, uint64_t block, int64_t file_offset);
/* Does so for all blocks that got their last bit since this was called last. */
int coroutine_fn vhdx_co_promote_filled (VhdxState *s);
/* Space for a payload or bitmap block; it reads as zeros (W5).  Under alloc_lock. */
int coroutine_fn vhdx_co_take_space (VhdxState *s, int64_t bytes, int64_t *file_offset);
/* No entry names it any more: it is free when that is durable and no request uses it. */
void vhdx_give_up (VhdxState *s, int64_t file_offset, int64_t bytes);
/* Space that was taken and that nothing speaks of. */
void vhdx_give_back_space (VhdxState *s, int64_t file_offset, int64_t bytes);
/* Gives back what is in s->freed and no request uses any more. */
void vhdx_release_old_freed (VhdxState *s);
/* Gives back all that is in s->freed: the caller has waited for old requests. */
void vhdx_release_all_freed (VhdxState *s);
/* From here on, until vhdx_co_release_writers (), guests' changes wait, and all requests that began before have
 * ended. */
void coroutine_fn vhdx_co_hold_writers (VhdxState *s);
void coroutine_fn vhdx_co_release_writers (VhdxState *s);

/* open.c */
extern const BlockOptionDef vhdx_open_options[];
bool coroutine_fn vhdx_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error);
bool coroutine_fn vhdx_co_reopen_rw (BlockDriverState *bs, GError **error);
int coroutine_fn vhdx_co_close (BlockDriverState *bs);
/* What follows from metadata and regions: entries, blocks, ratio; false and @error: the BAT is too small. */
bool vhdx_refresh_sizes (VhdxState *s, GError **error);
/* Cuts the file behind what is in use; the log is drained for it. */
int coroutine_fn vhdx_co_cut (VhdxState *s);

/* replay.c */
/* Writes what the overlay holds to the file and clears the log's GUID. */
bool coroutine_fn vhdx_co_replay_onto_file (VhdxState *s, GError **error);

/* io.c, write.c */
/* The part of a request that lies in one block. */
typedef struct
{
  uint64_t block;
  int64_t in_block; /* bytes from the start of the block */
  int64_t bytes;
} VhdxPiece;

static inline VhdxPiece
vhdx_piece_at (const VhdxState *s, int64_t offset, int64_t bytes)
{
  VhdxPiece piece = { offset / s->metadata.block_size, offset & (s->metadata.block_size - 1), 0 };

  piece.bytes = MIN (bytes, s->metadata.block_size - piece.in_block);
  return piece;
}

/* The run of equal bits at the start of @piece: bytes, and whether they are in this file. */
int coroutine_fn vhdx_co_bitmap_run (VhdxState *s, const VhdxPiece *piece, int64_t *bytes, bool *present);
int coroutine_fn vhdx_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
int coroutine_fn vhdx_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                  size_t qiov_offset);
int coroutine_fn vhdx_co_pwrite_zeroes (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags);
int coroutine_fn vhdx_co_pdiscard (BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn vhdx_co_copy_range_to (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                        BlockDriverState *src, int64_t src_offset);
int coroutine_fn vhdx_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum,
                                       int64_t *map, BlockDriverState **file);

/* Zeros in a range that may lie behind the end of the disk, in its last block. */
int coroutine_fn vhdx_co_zero_range (VhdxState *s, int64_t offset, int64_t bytes);

/* link.c, relink.c */
bool coroutine_fn vhdx_co_parent_changed (BlockDriverState *bs, BlockDriverState *parent, bool begin,
                                          GError **error);
bool coroutine_fn vhdx_co_accept_identity (BlockDriverState *bs, const uint8_t *identity, GError **error);
bool vhdx_check_parent_change (BlockDriverState *bs, const BlockParentChange *change, GError **error);
bool coroutine_fn vhdx_co_change_parent (BlockDriverState *bs, const BlockParentChange *change,
                                         GError **error);

/* resize.c */
bool coroutine_fn vhdx_co_truncate (BlockDriverState *bs, int64_t bytes, GError **error);

/* compact.c, reduce.c */
bool coroutine_fn vhdx_co_get_layout (BlockDriverState *bs, BlockLayout *layout, GError **error);
int coroutine_fn vhdx_co_drop_block (BlockDriverState *bs, int64_t offset, BlockDrop drop);
int coroutine_fn vhdx_co_relocate (BlockDriverState *bs, const BlockMove *moves, int n);
int coroutine_fn vhdx_co_trim (BlockDriverState *bs);
int coroutine_fn vhdx_co_reduce (BlockDriverState *bs);
int coroutine_fn vhdx_co_foresee_reduce (BlockDriverState *bs, BlockLayout *layout);

GVariant *vhdx_get_specific_info (BlockDriverState *bs);

#endif
