/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VHDX driver's state, shared by its files.
 *
 *   0        1 MiB                                                         end of file
 *   | header section | log | metadata region | BAT region | payload and bitmap blocks, any order … |
 *
 * The driver reads.  A log that must be replayed is replayed in memory: the pages it holds lie over those of
 * the file for every read (VhdxOverlay), and nothing on disk changes.
 *
 * Order of opening: headers, log, region tables, metadata, then what is needed of the BAT when it is needed.
 * Nothing but headers and log is looked at before the log: it may hold newer versions of all the rest.
 */
#ifndef VHDX_H
#define VHDX_H

#include <vhdkit/driver.h>

#include "checked.h"
#include "spec.h"

#define VHDX_PAGE        4096
#define VHDX_CACHE_BYTES (16 << 20)
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

/* A metadata item as it stands in the region. */
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
  GHashTable *pages;  /* file offset / VHDX_PAGE -> uint8_t[VHDX_PAGE], owned; NULL: no log was replayed */
  GArray *zeros;      /* of VhdxZeroRange; pages win over them */
  int64_t file_bytes; /* length of the file after replay */
} VhdxOverlay;

typedef struct
{
  BlockDriverState *bs;
  VhdxHeader header;
  char *creator;
  GArray *regions; /* of VhdxRegion */
  VhdxRegion bat_region, metadata_region;
  VhdxMetadata metadata;
  VhdxOverlay overlay;
  BdrvMetaCache *pages; /* of the file, VHDX_PAGE each */
  int64_t file_bytes;   /* of the container, after replay */

  int64_t sectors_per_block;
  uint64_t chunk_ratio; /* payload blocks that share a bitmap block */
  uint64_t payload_blocks;
  uint64_t bat_entries; /* that must be there */
} VhdxState;

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

/* log.c */
/* Finds the active sequence and replays it into s->overlay; nothing to do when the log is empty. */
bool coroutine_fn vhdx_co_replay_in_memory (VhdxState *s, GError **error);

/* overlay.c */
void vhdx_overlay_init (VhdxOverlay *overlay, int64_t file_bytes);
void vhdx_overlay_clear (VhdxOverlay *overlay);
/* @page: VHDX_PAGE bytes, owned by the overlay from now on. */
void vhdx_overlay_add_page (VhdxOverlay *overlay, int64_t file_offset, uint8_t *page);
void vhdx_overlay_add_zeros (VhdxOverlay *overlay, int64_t file_offset, int64_t bytes);
/* Whether anything of the overlay lies in the range. */
bool vhdx_overlay_touches (const VhdxOverlay *overlay, int64_t file_offset, int64_t bytes);
/* Reads of the container as it is after replay; past its end: zeros up to the replayed length. */
int coroutine_fn vhdx_co_read (VhdxState *s, int64_t file_offset, int64_t bytes, void *buf);
int coroutine_fn vhdx_co_readv (VhdxState *s, int64_t file_offset, int64_t bytes, const IoVector *qiov,
                                size_t qiov_offset);
/* The 8-byte integer at @file_offset (a multiple of 8), through the page cache. */
int coroutine_fn vhdx_co_read_u64 (VhdxState *s, int64_t file_offset, uint64_t *value);
/* The page that holds @file_offset, to be let go of with vhdx_page_put (). */
typedef struct
{
  const uint8_t *data;
  void *cached; /* NULL: of the overlay */
} VhdxPage;
int coroutine_fn vhdx_co_page_get (VhdxState *s, int64_t file_offset, VhdxPage *page);
void vhdx_page_put (VhdxState *s, VhdxPage *page);

/* region.c, metadata.c, locator.c */
bool coroutine_fn vhdx_co_read_regions (VhdxState *s, GError **error);
bool coroutine_fn vhdx_co_read_metadata (VhdxState *s, GError **error);
void vhdx_metadata_clear (VhdxMetadata *metadata);
/* An empty list of VhdxLocatorEntry. */
GArray *vhdx_locator_new (void);
bool vhdx_locator_decode (VhdxState *s, const uint8_t *item, size_t bytes, GError **error);
const char *vhdx_locator_get (const VhdxState *s, const char *key);
extern const char *const vhdx_parent_formats[];
bool vhdx_get_parent_link (BlockDriverState *bs, BlockParentLink *link);
bool vhdx_get_identity (BlockDriverState *bs, uint8_t *identity);

/* Appends copies of the items of the virtual disk that the driver has no member for (VhdxItem). */
bool coroutine_fn vhdx_co_read_other_disk_items (VhdxState *s, GArray *items, GError **error);

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
/* The entries of a new child; paths are absolute, symlinks resolved. */
GArray *vhdx_locator_make (const VhdxGuid *linkage, const char *child_path, const char *parent_path);

/* create.c */
extern const BlockOptionDef vhdx_create_options[];
bool coroutine_fn vhdx_co_create (BlockDriverState *file, const BlockCreateParams *params, GError **error);

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
/* Where the sector bitmap of @chunk is; -EIO when it is not there. */
int coroutine_fn vhdx_co_lookup_bitmap (VhdxState *s, uint64_t chunk, int64_t *file_offset);
/* The run of blocks from @block, at most @max, that are in the same non-present state. */
int64_t coroutine_fn vhdx_co_state_run (VhdxState *s, uint64_t block, uint64_t max, VhdxBlockState state);
/* Checks one entry value; NULL when it is sound, else what is wrong. */
const char *vhdx_bat_entry_problem (const VhdxState *s, uint64_t value, int64_t bytes);

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

/* scan.c */
/* Calls @visit for every BAT entry that is needed (s->bat_entries) whose 8 bytes are not all zero, in order; stops
 * on a non-zero result and returns it; -errno when the BAT cannot be read. */
typedef int coroutine_fn VhdxBatVisitor (VhdxState *s, uint64_t index, uint64_t value, void *opaque);
int coroutine_fn vhdx_co_for_each_entry (VhdxState *s, VhdxBatVisitor *visit, void *opaque);
/* The same for the entries [@first, @end), which are inside the BAT region. */
int coroutine_fn vhdx_co_for_each_entry_in (VhdxState *s, uint64_t first, uint64_t end, VhdxBatVisitor *visit,
                                            void *opaque);

/* space.c: which MiB of the container file are in use. */
typedef struct VhdxSpace VhdxSpace;
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

/* io.c */
int coroutine_fn vhdx_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
int coroutine_fn vhdx_co_block_status (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum,
                                       int64_t *map, BlockDriverState **file);

GVariant *vhdx_get_specific_info (BlockDriverState *bs);

#endif
