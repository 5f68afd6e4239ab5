/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a block driver is, and what the core does for it.
 *
 * Who may include this: drivers (in-tree ones and modules) and the core.  A driver is data: one const
 * BlockDriver with optional members.  It sees its own node and its children (BlockDriverState), the functions
 * declared here, and coaio; never another driver, never a job.
 *
 * Units: every offset and length is int64_t bytes.  "offset" is a guest offset of the node asked; an offset
 * in the container file is called file_offset.
 *
 * Context: members and functions named co_ run in a coroutine of the node's AioContext and may yield; what
 * was read from shared state before a yield must be looked at again after it.
 *
 * Errors: I/O members return 0 or -errno; control members return bool and set a GError of domain
 * VHDKIT_ERROR if and only if they return false.
 */
#ifndef VHDKIT_DRIVER_H
#define VHDKIT_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <coaio/coaio.h>
#include <glib.h>

#include <vhdkit/error.h>

G_BEGIN_DECLS

/* Bumped when a struct below changes other than by a member at its end. */
#define BLOCK_DRIVER_ABI 1

typedef struct BlockDriver BlockDriver;
typedef struct BlockDriverState BlockDriverState;

#define BDRV_SECTOR_SIZE 512

/* --- opening ------------------------------------------------------------------------------------------- */

typedef enum
{
  BDRV_O_RDWR = 1 << 0,        /* guest writes and metadata updates are allowed */
  BDRV_O_DIRECT = 1 << 1,      /* bypass the host page cache (O_DIRECT) */
  BDRV_O_NO_FLUSH = 1 << 2,    /* flushes do nothing ("cache=unsafe") */
  BDRV_O_NO_BACKING = 1 << 3,  /* open this one file, not its parents; unallocated ranges read as zeros */
  BDRV_O_FORCE_SHARE = 1 << 4, /* look in spite of another process's write lock; read-only only */
  BDRV_O_NO_LOCK = 1 << 5,     /* take no locks at all */
  BDRV_O_CHECK = 1 << 6,       /* opened to be checked: go on past what co_check reports, change nothing */
  BDRV_O_RAW_PARENT = 1 << 7,  /* a parent without an identity (raw) may be opened */
  BDRV_O_CHILD = 1 << 8,       /* set by the core: the node is the parent image of another node */
  BDRV_O_EXAMINE = 1 << 9,     /* note of every place an image names for its parent what is there; warn of
                                * blocks that are not in the file, if that can be told soon */
  BDRV_O_INCOMPLETE = 1 << 10, /* to fill an image that was made with BlockCreateParams.incomplete */
} BdrvOpenFlags;

/* A table no longer than this is gone through with BDRV_O_EXAMINE. */
#define BDRV_EXAMINE_BYTES (512 * 1024)

/* Parsed and validated options: name to text.  Made by the core from the driver's table. */
typedef struct BlockOptions BlockOptions;

typedef enum
{
  BLOCK_OPTION_STRING,
  BLOCK_OPTION_BOOL,
  BLOCK_OPTION_NUMBER,
  BLOCK_OPTION_SIZE, /* a number with an optional suffix k M G T P E */
} BlockOptionType;

/* One row of a driver's option table, which feeds parsing, -o help, the man page and tests.  A table ends
 * with an empty row. */
typedef struct
{
  const char *name;
  BlockOptionType type;
  const char *default_value; /* as text, or NULL */
  const char *help;          /* one phrase, no full stop */
} BlockOptionDef;

/* Values as the table types them; @fallback where the option was not given.  Never fail: the core has
 * validated the text. */
const char *block_options_get_string (const BlockOptions *options, const char *name, const char *fallback);
bool block_options_get_bool (const BlockOptions *options, const char *name, bool fallback);
int64_t block_options_get_size (const BlockOptions *options, const char *name, int64_t fallback);

/* What a format driver is shown to say whether an image is its own. */
typedef struct
{
  const uint8_t *head; /* the first head_bytes of the file */
  size_t head_bytes;   /* min (file_size, 4096) */
  const uint8_t *tail; /* the last tail_bytes of the file */
  size_t tail_bytes;   /* min (file_size, 8192) */
  int64_t file_size;   /* bytes */
} BlockProbe;

/* --- limits and status --------------------------------------------------------------------------------- */

/* Filled by co_open (or refresh); zero members get the core's defaults. */
typedef struct
{
  uint32_t request_alignment; /* bytes, power of two, >= 1: offsets and lengths of co_preadv/co_pwritev */
  uint32_t memory_alignment;  /* bytes, power of two: addresses of buffers */
  uint32_t zeroes_alignment;  /* co_pwrite_zeroes gets whole multiples; the core writes the edges */
  uint32_t discard_alignment; /* co_pdiscard gets whole multiples; the core drops the edges */
  int64_t max_transfer;       /* bytes, 0: none; longer requests are split */
  bool unaligned_end;         /* co_pwritev also takes any range and memory in the last block of
                               * request_alignment the node then has: nothing is padded there */
} BlockLimits;

/* Block status bits.
 * DATA ZERO
 *  1    0   the range holds data
 *  1    1   the range is stored and known to read as zeros
 *  0    1   nothing stored, reads as zeros
 *  0    0   nothing stored here: the backing node answers (zeros when there is none)
 * ALLOCATED: this node, not its backing node, decides what the range reads as.
 * OFFSET_VALID: the range starts at *map in *file, and runs there without a break. */
typedef enum
{
  BDRV_BLOCK_DATA = 1 << 0,
  BDRV_BLOCK_ZERO = 1 << 1,
  BDRV_BLOCK_OFFSET_VALID = 1 << 2,
  BDRV_BLOCK_ALLOCATED = 1 << 4,
  BDRV_BLOCK_EOF = 1 << 5, /* the answer reaches the end of the node */
} BdrvBlockStatus;

/* Request flags. */
typedef enum
{
  BDRV_REQ_FUA = 1 << 0,         /* on stable storage when the request completes; the core may emulate it */
  BDRV_REQ_MAY_UNMAP = 1 << 1,   /* write-zeroes: space may be given back */
  BDRV_REQ_NO_FALLBACK = 1 << 2, /* write-zeroes: -ENOTSUP rather than writing buffers of zeros */
  BDRV_REQ_SERIALISING = 1 << 3, /* wait for, and hold back, overlapping requests */
} BdrvRequestFlags;

/* --- parents ------------------------------------------------------------------------------------------- */

#define BLOCK_IDENTITY_SIZE 16

/* One place where the parent may be, as the child names it; text is UTF-8, already decoded. */
typedef enum
{
  BLOCK_PARENT_PATH_RELATIVE, /* to the child's directory; '\' and '/' both separate */
  BLOCK_PARENT_PATH_ABSOLUTE, /* "X:\…", "\\server\…" or "/…"; judged by its form, whatever the slot says */
  BLOCK_PARENT_PATH_BASENAME, /* only its last component counts, in the child's directory */
} BlockParentPathKind;

typedef struct
{
  BlockParentPathKind kind;
  char *path;
  const char *origin; /* where it stood, for messages: "W2ru locator", static text */
} BlockParentPath;

/* What a child knows of its parent.  Owned by the core after get_parent_link; see block_parent_link_add. */
typedef struct
{
  GPtrArray *paths;                         /* of BlockParentPath *, in the order to try */
  const char *const *formats;               /* formats a parent may have, NULL-terminated, static */
  bool has_identity;                        /* false: any raw file (BDRV_O_RAW_PARENT) */
  uint8_t identity[2][BLOCK_IDENTITY_SIZE]; /* raw bytes; a parent that has either is accepted */
  int identities;                           /* 1 or 2 */
  bool has_time_stamp;                      /* the child recorded the parent's modification time … */
  int64_t time_stamp;                       /* … Unix seconds; a mismatch is a warning */
} BlockParentLink;

void block_parent_link_add (BlockParentLink *link, BlockParentPathKind kind, const char *path,
                            const char *origin);

/* The parent an image is to have. */
typedef struct
{
  BlockDriverState *parent; /* opened; or NULL: none */
  const char *child_path;   /* of the image itself, absolute, symlinks resolved */
  const char *parent_path;  /* absolute, symlinks resolved */
  const char *other_path;   /* where the parent may be found as well, tried after parent_path; or NULL */
} BlockParentChange;

/* --- container layout, for compaction ------------------------------------------------------------------- */

/* A range of the container file that something in the image owns. */
typedef struct
{
  int64_t file_offset; /* bytes */
  int64_t bytes;
  int64_t
      offset; /* guest offset of the payload block; or negative: metadata, BLOCK_EXTENT_FIXED if it stays where
                   * it is, any other number is the driver's name for what it can move */
} BlockExtent;

#define BLOCK_EXTENT_FIXED (-1)

typedef struct
{
  GArray *extents;         /* of BlockExtent, sorted by file_offset, proved not to overlap */
  int64_t block_size;      /* guest bytes of a payload block */
  int64_t alignment;       /* a moved block may start at any file offset x with */
  int64_t alignment_phase; /* x % alignment == alignment_phase */
  int64_t least_alignment; /* or, where that leaves too little room, at any multiple of this; 0: not so */
  int64_t data_offset;     /* where payload starts in a block's extent (after a VHD sector bitmap) */
  int64_t tail_bytes;      /* bytes that must follow the last extent (a VHD footer) */
  int64_t file_size;       /* of the container now */
} BlockLayout;

void block_layout_clear (BlockLayout *layout);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (BlockLayout, block_layout_clear)

/* What a block that is dropped reads as afterwards. */
typedef enum
{
  BLOCK_DROP_UNALLOCATED, /* what the backing node shows; zeros without one */
  BLOCK_DROP_ZERO,        /* zeros, whatever the backing node shows (BLOCK_CAP_ZERO_BLOCKS) */
} BlockDrop;

/* One block to move: [from, from + bytes) to [to, to + bytes) of the container file. */
typedef struct
{
  int64_t offset; /* that of its BlockExtent */
  int64_t from;
  int64_t to;
  int64_t bytes;
} BlockMove;

/* --- checking ------------------------------------------------------------------------------------------ */

typedef enum
{
  BLOCK_CHECK_INFO,
  BLOCK_CHECK_WARNING,
  BLOCK_CHECK_LEAK,
  BLOCK_CHECK_ERROR,
} BlockCheckSeverity;

typedef struct BlockCheckResult BlockCheckResult;
struct BlockCheckResult
{
  int64_t corruptions, leaks, check_errors;
  int64_t corruptions_fixed, leaks_fixed;
  int64_t total_blocks, allocated_blocks, fragmented_blocks;
  int64_t image_end_offset; /* bytes of the container in use */
  /* Called for every finding, text without newline. */
  void (*report) (BlockCheckResult *result, BlockCheckSeverity severity, const char *text);
  void *opaque;
};

/* Counts by severity (a leak counts one) and calls result->report. */
void block_check_report (BlockCheckResult *result, BlockCheckSeverity severity, const char *format, ...)
    G_GNUC_PRINTF (3, 4);

/* --- nodes --------------------------------------------------------------------------------------------- */

/* The part of a node that drivers see; the core's own part is behind it. */
struct BlockDriverState
{
  const BlockDriver *drv;
  void *opaque;      /* drv->instance_size bytes, zeroed before co_open */
  char *filename;    /* as the user or the child named it; for messages */
  int open_flags;    /* BdrvOpenFlags */
  bool read_only;    /* now; co_reopen_rw clears it */
  int64_t bytes;     /* length; the driver sets it in co_open and after co_truncate */
  bool fixed_length; /* the length cannot change: a device (protocols set it, filters pass it on) */
  BlockLimits limits;
  BlockDriverState *file;    /* the container file, for formats and filters; a reference of the core's */
  BlockDriverState *backing; /* the parent image, or NULL; a reference of the core's */
  AioContext *context;
  /* Set by a job while all it writes reads as what was there: an identity that follows the content stays. */
  bool same_content;
  /* Counted up by the driver whenever blocks have left their places in the file: whoever waited meanwhile for what
   * stands there looks again. */
  uint64_t layout_changes;
};

typedef enum
{
  BLOCK_DRIVER_PROTOCOL, /* lowest: talks to the host */
  BLOCK_DRIVER_FORMAT,   /* interprets a container file */
  BLOCK_DRIVER_FILTER,   /* passes on to its file child */
} BlockDriverKind;

typedef enum
{
  BLOCK_CAP_BACKING = 1 << 0,   /* images may have a parent */
  BLOCK_CAP_ZERO_INIT = 1 << 1, /* a fresh image reads as zeros */
  BLOCK_CAP_SHRINK = 1 << 2,    /* co_truncate can make the image smaller */
  BLOCK_CAP_ZERO_BLOCKS =
      1 << 3, /* a block (of limits.discard_alignment) can be zeros over a parent without being stored:
               * BLOCK_DROP_ZERO, co_pwrite_zeroes () with MAY_UNMAP */
  BLOCK_CAP_GUID_IDENTITY =
      1 << 4, /* identities are stored as Windows stores GUIDs: the first three fields little-endian */
} BlockDriverCaps;

/* How an image is to be made; see co_create. */
typedef struct
{
  int64_t bytes;               /* virtual size */
  const BlockOptions *options; /* of create_options */
  const char *child_path;      /* absolute path of the file being made, symlinks resolved */
  BlockDriverState *parent;    /* the opened parent image, or NULL */
  const char *parent_path;     /* absolute path of the parent, symlinks resolved */
  const char *parent_name;     /* the parent as the user named it (relative to the child's directory) */
  bool
      incomplete; /* content is still to come: where the format can say so, nobody takes it for an image before
                    * co_complete */
} BlockCreateParams;

struct BlockDriver
{
  size_t struct_size; /* sizeof (BlockDriver) of whoever compiled it */
  uint32_t abi;       /* BLOCK_DRIVER_ABI */
  BlockDriverKind kind;
  const char *format_name;
  const char *const *aliases; /* NULL-terminated, or NULL */
  const char *long_name;      /* "Microsoft Virtual Hard Disk (VHD)" */
  size_t instance_size;
  uint32_t caps; /* BlockDriverCaps */
  const BlockOptionDef *create_options;
  const BlockOptionDef *open_options;

  /* 0: certainly not; 100: certainly.  Content only, never the name.  Formats only. */
  int (*probe) (const BlockProbe *probe);

  /* Make the image in @file, opened for writing.  It may hold anything, an image somebody needs included: check
   * all that is asked for first, then empty it (bdrv_co_clear_file ()).  What co_create does not write reads as
   * zeros in a file.  Ends durable. */
  bool coroutine_fn (*co_create) (BlockDriverState *file, const BlockCreateParams *params, GError **error);
  /* An image made with params->incomplete, and opened with BDRV_O_INCOMPLETE, has all its content, which is durable:
   * it is one from now on.  Durable on return.  NULL: the format cannot tell. */
  bool coroutine_fn (*co_complete) (BlockDriverState *bs, GError **error);

  /* Open: read and check what must be checked, set bs->bytes and bs->limits.  Formats find bs->file
   * attached; the backing child is attached by the core afterwards.  With bs->read_only nothing on disk may
   * change.  On failure the driver has freed all it made (co_close is not called). */
  bool coroutine_fn (*co_open) (BlockDriverState *bs, const BlockOptions *options, GError **error);
  /* Become writable: bs->file already is.  Called at most once, never on a writable node; the core sets
   * read_only to false after success.  A driver that does the same at a writable open calls it itself. */
  bool coroutine_fn (*co_reopen_rw) (BlockDriverState *bs, GError **error);
  /* Write back and free.  Called without requests in flight.  0 or -errno; the node is gone either way. */
  int coroutine_fn (*co_close) (BlockDriverState *bs);

  /* Guest I/O.  The core guarantees: 0 < bytes, the range lies inside the node, offset and bytes are
   * multiples of limits.request_alignment, and for writes: the node is writable and not poisoned, and no
   * overlapping serialising request runs.  Overlapping plain requests may run at the same time. */
  int coroutine_fn (*co_preadv) (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
  int coroutine_fn (*co_pwritev) (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                                  size_t qiov_offset);
  /* Multiples of limits.zeroes_alignment.  -ENOTSUP: the core writes zeros instead.  flags: MAY_UNMAP. */
  int coroutine_fn (*co_pwrite_zeroes) (BlockDriverState *bs, int64_t offset, int64_t bytes, int flags);
  /* A hint, multiples of limits.discard_alignment.  What is discarded reads as zeros or as before
   * afterwards, never as anything else (never as the parent shows it, unless that reads as zeros). */
  int coroutine_fn (*co_pdiscard) (BlockDriverState *bs, int64_t offset, int64_t bytes);
  /* As co_pwritev, with [src_offset, +bytes) of @src, a protocol node, as the source; by extent sharing where
   * the host can.  -ENOTSUP, -EXDEV, -EINVAL, -EOPNOTSUPP: cannot be, nothing has changed. */
  int coroutine_fn (*co_copy_range_to) (BlockDriverState *bs, int64_t offset, int64_t bytes,
                                        BlockDriverState *src, int64_t src_offset);
  /* All completed writes become durable, metadata included.  The core has merged concurrent calls. */
  int coroutine_fn (*co_flush) (BlockDriverState *bs);
  /* Protocols: what lies in the host's cache is on its way to the disk, so that the next flush has less to wait for.
   * Promises nothing.  NULL: there is no such cache. */
  void coroutine_fn (*co_start_writeback) (BlockDriverState *bs);
  /* Formats with a journal: all of it is in place, and the container names none any more, until the next change.
   * Durable on return. */
  int coroutine_fn (*co_drain_log) (BlockDriverState *bs);
  /* Status of a range that starts at @offset; 0 < *pnum <= bytes is the length the answer is true for; the
   * longer the better (a run of unallocated blocks is one answer).  Returns BdrvBlockStatus bits or -errno.
   * OFFSET_VALID sets *map and *file (a child of bs; the core follows it down). */
  int coroutine_fn (*co_block_status) (BlockDriverState *bs, int64_t offset, int64_t bytes, int64_t *pnum,
                                       int64_t *map, BlockDriverState **file);
  /* Change the length (bytes, a multiple of 512); what is new reads as zeros, whatever the parent holds. */
  bool coroutine_fn (*co_truncate) (BlockDriverState *bs, int64_t bytes, GError **error);

  /* Parents (formats with BLOCK_CAP_BACKING). */
  /* Fill @link; false if the image has no parent. */
  bool (*get_parent_link) (BlockDriverState *bs, BlockParentLink *link);
  /* The identity children store for this image: BLOCK_IDENTITY_SIZE raw bytes.  false: it has none. */
  bool (*get_identity) (BlockDriverState *bs, uint8_t *identity);
  /* The identity that the first change of what a guest sees will give this image (identities that follow the
   * content), and: give it that identity now, durable.  NULL: its identity does not change. */
  bool (*get_next_identity) (BlockDriverState *bs, uint8_t *identity);
  int coroutine_fn (*co_take_next_identity) (BlockDriverState *bs);
  /* The parent's content is about to be changed, without changing what this node shows, (@begin) or has been
   * (!@begin): keep the link to it valid.  NULL: nothing to do. */
  bool coroutine_fn (*co_parent_changed) (BlockDriverState *bs, BlockDriverState *parent, bool begin,
                                          GError **error);
  /* Give the image another parent, or none: its link, in one step that a crash leaves done or not done.  The caller
   * has stored in @bs all that a guest is to see other than what the new parent shows, zeros where there is none.
   * bs->backing stays as it is.  Durable on return. */
  bool coroutine_fn (*co_change_parent) (BlockDriverState *bs, const BlockParentChange *change,
                                         GError **error);
  /* Whether it could, without I/O: asked before anything is stored for it.  NULL: whatever is asked. */
  bool (*check_parent_change) (BlockDriverState *bs, const BlockParentChange *change, GError **error);
  /* Formats whose link names the parent's content (get_next_identity): from now on the link also holds when the
   * parent has @identity (BLOCK_IDENTITY_SIZE bytes).  And: give this image @identity, that of another image with the
   * same content.  Durable on return. */
  bool coroutine_fn (*co_accept_identity) (BlockDriverState *bs, const uint8_t *identity, GError **error);
  int coroutine_fn (*co_take_identity) (BlockDriverState *bs, const uint8_t *identity);
  /* What belongs to the virtual disk and not to the file (its ID, say) becomes what it is in @source, an image of the
   * same driver that @bs now shows the content of; length and logical sector size are not part of it.  What has no
   * room is a warning.  Durable on return.  NULL: nothing to do. */
  bool coroutine_fn (*co_copy_disk_properties) (BlockDriverState *bs, BlockDriverState *source,
                                                GError **error);

  /* Compaction (formats with movable blocks). */
  /* Describe the whole container, after checking all of it; @layout was cleared. */
  bool coroutine_fn (*co_get_layout) (BlockDriverState *bs, BlockLayout *layout, GError **error);
  /* Forget what the payload block at guest @offset (a multiple of the block size) stores.  The caller has proved
   * that the guest sees the same without it.  Durable at the next flush; the space is not reused before. */
  int coroutine_fn (*co_drop_block) (BlockDriverState *bs, int64_t offset, BlockDrop drop);
  /* Give up what is stored without a need, as far as the tables tell.  The guest sees the same, and so do
   * children.  Durable on return.  NULL: nothing to do. */
  int coroutine_fn (*co_reduce) (BlockDriverState *bs);
  /* Takes out of @layout what co_reduce () would give up, were those payload blocks dropped that it does not have any
   * more.  Changes nothing.  NULL: nothing to do. */
  int coroutine_fn (*co_foresee_reduce) (BlockDriverState *bs, BlockLayout *layout);
  /* Move @n blocks; source and target ranges are disjoint, targets are free space.  Crash safe, durable on
   * return: copy, flush, table, flush. */
  int coroutine_fn (*co_relocate) (BlockDriverState *bs, const BlockMove *moves, int n);
  /* Give back what follows the last used byte of the container; durable on return. */
  int coroutine_fn (*co_trim) (BlockDriverState *bs);

  bool coroutine_fn (*co_check) (BlockDriverState *bs, BlockCheckResult *result, bool fix, GError **error);
  /* Facts for people, an a{sv} GVariant (floating), or NULL: names as in JSON output. */
  GVariant *(*get_specific_info) (BlockDriverState *bs);

  /* Protocols. */
  /* Bytes of host storage in use, or -errno. */
  int64_t coroutine_fn (*co_get_allocated_size) (BlockDriverState *bs);
  /* Two nodes with equal ids are the same file (device and inode, or the device number). */
  bool (*get_host_id) (BlockDriverState *bs, uint64_t id[2]);
  /* Absolute path with symlinks resolved, as it was when opened; borrowed. */
  const char *(*get_host_path) (BlockDriverState *bs);
  /* Modification time, Unix seconds. */
  bool (*get_mtime) (BlockDriverState *bs, int64_t *seconds);
  /* Whether co_copy_range_to () can share extents of @src, another protocol node, as far as can be told without a
   * write to either: 0 it can, -EXDEV they are on different file systems, -ENOTSUP the file system shares none,
   * -EAGAIN only a try would tell, or another -errno.  NULL: it cannot. */
  int coroutine_fn (*co_can_share) (BlockDriverState *bs, BlockDriverState *src);

  /* Parents: an identity as the format's users write it, 36 characters and a NUL.  NULL: as a UUID, RFC 4122. */
  void (*format_identity) (const uint8_t *identity, char text[37]);
};

/* Adds a driver to the registry.  false: the ABI does not fit or the name is taken. */
bool bdrv_register (const BlockDriver *drv, GError **error);

/* --- requests to children ------------------------------------------------------------------------------ */

/* Any offset and length: the core pads to the child's alignment, bounces buffers, splits, and serialises
 * read-modify-write.  Reading past the end of the child gives zeros; writing past the end of a file child
 * grows it.  0 or -errno. */
int coroutine_fn bdrv_co_preadv (BlockDriverState *child, int64_t offset, int64_t bytes, const IoVector *qiov,
                                 size_t qiov_offset);
int coroutine_fn bdrv_co_pwritev (BlockDriverState *child, int64_t offset, int64_t bytes,
                                  const IoVector *qiov, size_t qiov_offset, int flags);
int coroutine_fn bdrv_co_pread (BlockDriverState *child, int64_t offset, int64_t bytes, void *buf);
int coroutine_fn bdrv_co_pwrite (BlockDriverState *child, int64_t offset, int64_t bytes, const void *buf,
                                 int flags);
int coroutine_fn bdrv_co_pwrite_zeroes (BlockDriverState *child, int64_t offset, int64_t bytes, int flags);
int coroutine_fn bdrv_co_pdiscard (BlockDriverState *child, int64_t offset, int64_t bytes);
/* A barrier: what was written to @child before is durable on return.  Free when nothing was written. */
int coroutine_fn bdrv_co_flush (BlockDriverState *child);
int coroutine_fn bdrv_co_block_status (BlockDriverState *child, int64_t offset, int64_t bytes, int64_t *pnum,
                                       int64_t *map, BlockDriverState **file);
/* @src is a protocol node of the same context; see co_copy_range_to. */
int coroutine_fn bdrv_co_copy_range_to (BlockDriverState *child, int64_t offset, int64_t bytes,
                                        BlockDriverState *src, int64_t src_offset);
bool coroutine_fn bdrv_co_truncate (BlockDriverState *child, int64_t bytes, GError **error);

/* For co_create: from here on, what @file held is gone.  It is @bytes long then and reads as zeros; a length the
 * host refuses costs nothing.  A device, which must be as long, keeps its length and what it holds. */
bool coroutine_fn bdrv_co_clear_file (BlockDriverState *file, int64_t bytes, GError **error);
/* For co_open, of an image that is marked as being filled, @where ("metadata"): whether it may be opened all the same. */
bool bdrv_check_incomplete (const BlockDriverState *bs, const char *where, GError **error);
/* For co_create: whether an image in @file can have @parent, which must be of one of @formats (names,
 * NULL-terminated). */
bool bdrv_check_parent_format (const BlockDriverState *file, const BlockDriverState *parent,
                               const char *const *formats, GError **error);

/* Where the bytes of a write come from. */
typedef struct
{
  const IoVector *qiov; /* memory, or … */
  size_t qiov_offset;
  BlockDriverState *src; /* … a range of a protocol node, or neither: zeros */
  int64_t src_offset;
  int zero_flags; /* BdrvRequestFlags of a write of zeros */
} BdrvPayload;

static inline bool
bdrv_payload_is_zero (const BdrvPayload *payload)
{
  return !payload->qiov && !payload->src;
}

/* Writes @bytes of @payload, from @done on, at @file_offset of the child. */
int coroutine_fn bdrv_co_write_payload (BlockDriverState *child, int64_t file_offset, int64_t bytes,
                                        const BdrvPayload *payload, int64_t done);

/* One write of a batch. */
typedef struct
{
  int64_t file_offset;
  int64_t bytes;
  const void *buf; /* NULL: zeros */
} BdrvWrite;

/* Writes all of @writes, several at a time; they do not overlap.  0, or the first error after all that were
 * begun have ended. */
int coroutine_fn bdrv_co_write_batch (BlockDriverState *child, const BdrvWrite *writes, size_t n);

/* One copy of a batch: [@from, +bytes) to [@to, +bytes). */
typedef struct
{
  int64_t from, to, bytes;
} BdrvCopy;

/* Makes all of @copies inside of the child, several pieces at a time; no target overlaps another range.  Holes stay
 * holes.  0, or the first error (-ENOMEM, too) after all that were begun have ended. */
int coroutine_fn bdrv_co_copy_within (BlockDriverState *child, const BdrvCopy *copies, size_t n);
/* One of them as bdrv_co_copy_range_to () does it. */
int coroutine_fn bdrv_co_clone_within (BlockDriverState *child, const BdrvCopy *copy);

/* The ops of the same names; false, and nothing to do: the identity does not change. */
bool bdrv_get_next_identity (BlockDriverState *bs, uint8_t *identity);
int coroutine_fn bdrv_co_take_next_identity (BlockDriverState *bs);
/* The identity children store for @bs; false: it has none. */
bool bdrv_get_identity (BlockDriverState *bs, uint8_t *identity);

/* The child's current length in bytes. */
int64_t bdrv_length (const BlockDriverState *child);
/* Whether the whole range of the child is known to read as zeros without reading it: 1, 0 or -errno. */
int coroutine_fn bdrv_co_is_zero (BlockDriverState *child, int64_t offset, int64_t bytes);

/* A metadata write of unknown effect failed: from now on writes and flushes of @bs fail with -EIO until it
 * is reopened. */
void bdrv_poison (BlockDriverState *bs);
bool bdrv_is_poisoned (const BlockDriverState *bs);

/* Sets @error to "FILE: TEXT". */
void bdrv_set_error (GError **error, const BlockDriverState *bs, VhdkitError code, const char *format, ...)
    G_GNUC_PRINTF (4, 5);
/* The same from a -errno: IO, NO_SPACE, PERMISSION … with its text at the end. */
void bdrv_set_error_errno (GError **error, const BlockDriverState *bs, int negative_errno, const char *format,
                           ...) G_GNUC_PRINTF (4, 5);
/* A -errno for the code of an error; -EIO for one that has none. */
int bdrv_errno_from_error (const GError *error);
/* A finding that does not stop the work, kept with the node for info, check and the tool. */
void bdrv_warn (BlockDriverState *bs, const char *format, ...) G_GNUC_PRINTF (2, 3);
/* What going through the BAT at @offset has found (BDRV_O_EXAMINE): @ret, 0 or -errno; so many unreadable @blocks, of which
 * the driver has told the first. */
void bdrv_warn_of_bat (BlockDriverState *bs, int64_t offset, int ret, uint64_t blocks);

/* Memory for requests: aligned to the node's needs.  Free with bdrv_free_buffer ().  NULL: no memory. */
void *bdrv_try_alloc_buffer (const BlockDriverState *bs, size_t bytes);
void bdrv_free_buffer (void *buffer);

/* --- bounded cache of metadata pages ------------------------------------------------------------------- */

/* Pages of a child file, read when first asked for, dropped least recently used first.  A page is what the
 * file holds: change it only together with the write of the same bytes. */
typedef struct BdrvMetaCache BdrvMetaCache;

/* @page_bytes: a power of two >= 512.  @max_bytes bounds unpinned pages. */
BdrvMetaCache *bdrv_meta_cache_new (BlockDriverState *child, size_t page_bytes, size_t max_bytes);
void bdrv_meta_cache_free (BdrvMetaCache *cache); /* no page may be pinned */
/* Pins the page that holds @file_offset and sets *page to its first byte; zeros past the end of the file.
 * Yields when it must be read.  0 or -errno. */
int coroutine_fn bdrv_co_meta_cache_get (BdrvMetaCache *cache, int64_t file_offset, void **page);
/* The same if the page is there already, else NULL; never yields. */
void *bdrv_meta_cache_peek (BdrvMetaCache *cache, int64_t file_offset);
void bdrv_meta_cache_put (BdrvMetaCache *cache, void *page);
/* Forget unpinned pages that overlap the range. */
void bdrv_meta_cache_invalidate (BdrvMetaCache *cache, int64_t file_offset, int64_t bytes);

G_END_DECLS

#endif
