/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What only the files of the core know: the private part of a node, and how the parts of the request path
 * call each other.
 *
 * A node lives in one AioContext, which one thread drives: nothing here is locked.
 */
#ifndef BLOCK_CORE_INT_H
#define BLOCK_CORE_INT_H

#include <sys/stat.h>

#include "block.h"

/* Requests that need a bounce buffer, and zeros that are written as data, go in pieces of this size. */
#define BDRV_BOUNCE_BYTES (1024 * 1024)

/* No offset or end of a request is above this: the rest is room for rounding up. */
#define BDRV_MAX_LENGTH (INT64_MAX - (INT64_C (1) << 32))

/* Largest request and memory alignment a driver may ask for. */
#define BDRV_MAX_ALIGNMENT (1024 * 1024)

typedef struct BdrvTrackedRequest BdrvTrackedRequest;

/* A request in flight; lives on the stack of its coroutine, in the list of its node, oldest first. */
struct BdrvTrackedRequest
{
  BdrvTrackedRequest *older, *newer;
  int64_t offset, end;
  bool serialising;
};

typedef struct
{
  BlockDriverState bs; /* first: a BlockDriverState * is a BdrvNode * */

  /* The request path, in the order it is looked at. */
  int64_t max_transfer;      /* INT64_MAX: none */
  uint32_t memory_alignment; /* that requests are checked for */
  BdrvTrackedRequest *oldest, *newest;
  unsigned serialising; /* of the requests in the list */
  unsigned waiting;     /* coroutines in request_queue */
  unsigned in_flight;   /* tracked requests, flushes, status calls */
  unsigned draining;    /* coroutines in drain_queue */
  bool poisoned;
  bool change_tracking_told;

  /* A write is counted in write_gen when it has ended; flushed_gen is the count when the last successful
   * flush began.  See flush.c. */
  uint64_t write_gen, flushed_gen;
  uint64_t flushes_begun, flushes_ended;
  bool flush_running;
  int flush_ret; /* of the last one that ended */

  CoQueue request_queue, drain_queue, flush_queue;
  unsigned refcount;
  GPtrArray *warnings;          /* of char *, or NULL */
  GPtrArray *parent_candidates; /* of BdrvParentCandidate *, or NULL */
  char *passed_over; /* what is there where its parent is looked for first, and is not it; or NULL */
} BdrvNode;

static inline BdrvNode *
bdrv_node (const BlockDriverState *bs)
{
  return (BdrvNode *)bs;
}

/* In each directory the children of a layer are looked for among so many files that may be images … */
#define BDRV_MAX_SIBLING_FILES 10000
/* … and so many entries of any kind. */
#define BDRV_MAX_SIBLING_ENTRIES 1000000

/* --- node.c -------------------------------------------------------------------------------------------- */

/* A node that is not open yet, with one reference.  Takes over the reference to @file (may be NULL). */
BlockDriverState *bdrv_node_new (const BlockDriver *drv, const char *filename, int flags,
                                 BlockDriverState *file);
/* Calls co_open and takes in the limits.  On failure @bs and its reference to the file child are gone. */
bool coroutine_fn bdrv_co_node_open (BlockDriverState *bs, const BlockOptions *options, GError **error);

static inline void
bdrv_inc_in_flight (BdrvNode *node)
{
  node->in_flight++;
}

void bdrv_wake_drain (BdrvNode *node);

static inline void
bdrv_dec_in_flight (BdrvNode *node)
{
  if (G_UNLIKELY (--node->in_flight == 0 && node->draining > 0))
    bdrv_wake_drain (node);
}

/* --- tracked.c ----------------------------------------------------------------------------------------- */

/* Waits until no older request conflicts: one that overlaps while either of the two is serialising. */
void coroutine_fn bdrv_co_tracked_wait (BdrvNode *node, BdrvTrackedRequest *req);
void bdrv_wake_requests (BdrvNode *node);

/* Puts @req into the list, without waiting; not serialising.  On a node that has no serialising request there
 * is nothing to wait for. */
static inline void
bdrv_tracked_link (BdrvNode *node, BdrvTrackedRequest *req, int64_t offset, int64_t end)
{
  req->offset = offset;
  req->end = end;
  req->serialising = false;
  req->newer = NULL;
  req->older = node->newest;
  if (node->newest)
    node->newest->newer = req;
  else
    node->oldest = req;
  node->newest = req;
  node->in_flight++;
}

static inline void coroutine_fn
bdrv_co_tracked_begin (BdrvNode *node, BdrvTrackedRequest *req, int64_t offset, int64_t end, bool serialising)
{
  bdrv_tracked_link (node, req, offset, end);
  req->serialising = serialising;
  node->serialising += serialising;
  if (G_UNLIKELY (node->serialising > 0))
    bdrv_co_tracked_wait (node, req);
}

static inline void
bdrv_tracked_end (BdrvNode *node, BdrvTrackedRequest *req)
{
  if (req->older)
    req->older->newer = req->newer;
  else
    node->oldest = req->newer;
  if (req->newer)
    req->newer->older = req->older;
  else
    node->newest = req->older;
  node->serialising -= req->serialising;
  if (G_UNLIKELY (node->waiting > 0))
    bdrv_wake_requests (node);
  bdrv_dec_in_flight (node);
}

/* --- io.c ---------------------------------------------------------------------------------------------- */

/* 0, or why @bs cannot be written: -EROFS, -EIO. */
int bdrv_check_writable (const BlockDriverState *bs);
/* -EINVAL unless 0 <= @offset, 0 <= @bytes and the end is not above BDRV_MAX_LENGTH. */
int bdrv_check_range (int64_t offset, int64_t bytes);
/* Whether a write may reach past the end of @bs. */
bool bdrv_can_grow (const BlockDriverState *bs);
/* Takes note of a write that has ended, and of the length it gave the node if it succeeded. */
void bdrv_note_write (BdrvNode *node, int64_t end, int ret);

/* The driver's write and read, for ranges that are aligned in every way; split at max_transfer. */
int coroutine_fn bdrv_co_driver_pwritev (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                                         size_t qiov_offset);
int coroutine_fn bdrv_co_driver_preadv (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                                        size_t qiov_offset);
/* A write of any range and memory, in a tracked request that is serialising if the range is not aligned and
 * reaches up to INT64_MAX if bdrv_write_pads_end (). */
int coroutine_fn bdrv_co_write_tracked (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                                        size_t qiov_offset);

/* --- padding.c ----------------------------------------------------------------------------------------- */

static inline int64_t
bdrv_align_down (const BdrvNode *node, int64_t offset)
{
  return offset & ~(int64_t)(node->bs.limits.request_alignment - 1);
}

static inline int64_t
bdrv_align_up (const BdrvNode *node, int64_t offset)
{
  return bdrv_align_down (node, offset + node->bs.limits.request_alignment - 1);
}

static inline bool
bdrv_is_aligned (const BdrvNode *node, int64_t offset, int64_t bytes)
{
  return ((offset | bytes) & (node->bs.limits.request_alignment - 1)) == 0;
}

static inline bool
bdrv_memory_is_aligned (const BdrvNode *node, const IoVector *qiov, size_t qiov_offset, int64_t bytes)
{
  return node->memory_alignment <= 1
         || io_vector_slice_is_aligned (qiov, qiov_offset, bytes, node->memory_alignment);
}

/* Whether rounding the end of a write up to the alignment makes it reach past the end of the node, which the
 * file must not keep. */
static inline bool
bdrv_write_pads_end (const BdrvNode *node, int64_t end)
{
  int64_t aligned_end = bdrv_align_up (node, end);
  return aligned_end != end && aligned_end > node->bs.bytes;
}

/* Any range inside the node, through a buffer. */
int coroutine_fn bdrv_co_padded_preadv (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                                        size_t qiov_offset);
/* As bdrv_co_write_tracked (). */
int coroutine_fn bdrv_co_padded_pwritev (BdrvNode *node, int64_t offset, int64_t bytes, const IoVector *qiov,
                                         size_t qiov_offset);

/* --- zeroes.c ------------------------------------------------------------------------------------------ */

/* Changes the length without waiting for anybody; through filters that do not care. */
bool coroutine_fn bdrv_co_truncate_untracked (BdrvNode *node, int64_t bytes, GError **error);

/* --- error.c ------------------------------------------------------------------------------------------- */

/* @text from an image or a user as one line of valid UTF-8 without control characters. */
char *bdrv_printable (const char *text);
VhdkitError bdrv_error_code_from_errno (int positive_errno);
/* Sets @error to "FILE: TEXT", with the text of the errno if it is not 0. */
void bdrv_set_path_error (GError **error, const char *path, VhdkitError code, int positive_errno,
                          const char *format, ...) G_GNUC_PRINTF (5, 6);

/* --- options.c ----------------------------------------------------------------------------------------- */

/* Splits "a,b=c,,d" at single commas: "a", "b=c,d". */
char **bdrv_split_options (const char *text);

/* --- protocol.c ---------------------------------------------------------------------------------------- */

/* A file the host knows, told apart as the chain does. */
typedef struct
{
  uint64_t id[2];
} BdrvFileKey;

void bdrv_file_key_from_stat (BdrvFileKey *key, const struct stat *st);
/* Of the file @bs has open; false: its protocol has none. */
bool bdrv_file_key_of_node (const BlockDriverState *bs, BdrvFileKey *key);
/* A set of BdrvFileKey *, or a map with them as keys; it frees them. */
GHashTable *bdrv_file_key_set_new (void);

/* Who named a file. */
typedef enum
{
  BDRV_NAMED_BY_USER,
  BDRV_NAMED_BY_IMAGE, /* regular files only */
} BdrvNamedBy;

/* Looks at @path and decides whether it may be opened: kind of file and @confine. */
bool bdrv_check_path (const char *path, BdrvNamedBy named_by, const char *confine, struct stat *st,
                      GError **error);
/* Opens the protocol node of @path, which bdrv_check_path () has let pass and described in @st, and puts
 * params->filters on top. */
BlockDriverState *coroutine_fn bdrv_co_open_protocol (const char *path, const struct stat *st, int flags,
                                                      const BdrvOpenParams *params, GError **error);
/* Whether @path lies below @confine with all symlinks resolved.  false with @error if not, or not known. */
bool bdrv_check_confined (const char *path, const char *confine, GError **error);

/* --- open.c -------------------------------------------------------------------------------------------- */

/* Whether @path ends like the name of an image of a format that has parents, or of a checkpoint. */
bool bdrv_has_image_name (const char *path);
/* The format with the highest score for @file among those named in @formats (NULL: all); *drv is NULL if
 * none claims it. */
bool coroutine_fn bdrv_co_probe (BlockDriverState *file, const char *const *formats, const BlockDriver **drv,
                                 GError **error);
/* The driver named @name, which must be a format. */
const BlockDriver *bdrv_find_format (const char *name, GError **error);
/* Opens @drv's image in @file, whose reference it takes, even on failure. */
BlockDriverState *coroutine_fn bdrv_co_open_format (const BlockDriver *drv, BlockDriverState *file,
                                                    const char *filename, int flags,
                                                    const char *const *options, GError **error);
/* --- link.c -------------------------------------------------------------------------------------------- */

/* --- parent-path.c ------------------------------------------------------------------------------------- */

/* The host paths (of char *, at least one) that @path may mean for a child whose container is
 * @child_host_path (symlinks resolved), opened as @child_name.  NULL and @error: it means none here. */
GPtrArray *bdrv_resolve_parent_path (const BlockParentPath *path, const char *child_host_path,
                                     const char *child_name, const char *const *drive_map,
                                     const char *confine, GError **error);

/* --- chain.c ------------------------------------------------------------------------------------------- */

/* Opens the parents of @leaf, all of them. */
bool coroutine_fn bdrv_co_open_parents (BlockDriverState *leaf, const BdrvOpenParams *params, GError **error);
/* Looks at every place @child names for its parent and notes with the node what is there.  Nothing stays open, and
 * nobody's locks are in the way or are kept waiting. */
void coroutine_fn bdrv_co_examine_parents (BlockDriverState *child, const BdrvOpenParams *params);

#endif
