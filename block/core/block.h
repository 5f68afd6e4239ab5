/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block core as jobs and the public API see it: opening chains, whole-chain status, node life.
 * Requests to a node are those of <vhdkit/driver.h>; here a node is its own handle.
 *
 * Context: co_ functions run in a coroutine of the node's AioContext.
 */
#ifndef BLOCK_CORE_BLOCK_H
#define BLOCK_CORE_BLOCK_H

#include <vhdkit/driver.h>

G_BEGIN_DECLS

/* More layers than this are refused. */
#define BDRV_MAX_CHAIN_DEPTH 512

/* How to open a chain.  All strings are borrowed for the call. */
typedef struct
{
  int flags;       /* BdrvOpenFlags */
  bool has_engine; /* else: threads for buffered files, native for O_DIRECT */
  AioEngine engine;
  const char *format;                /* of the leaf; NULL: probe */
  const char *const *format_options; /* "name=value", for the leaf */
  const char *parent;                /* the leaf's parent, named by the user: policy checks of section 7 that
                                      * guard against a stranger's image do not apply to it */
  const char *parent_format;
  const char *confine;          /* directory every file of the chain must be below, or NULL */
  const char *const *drive_map; /* "C:=/mnt/c", or NULL */
  const char *const *filters;   /* "driver,name=value,…" put between each protocol node and its format */
} BdrvOpenParams;

/* Opens @filename, its format and, unless BDRV_O_NO_BACKING, its parents (read-only).  One reference is the
 * caller's.  On failure nothing on disk has changed. */
BlockDriverState *coroutine_fn bdrv_co_open (const char *filename, const BdrvOpenParams *params,
                                             GError **error);

/* Only the protocol node (and filters) of @filename, for creating: made if it is not there, else with
 * its old content. */
BlockDriverState *coroutine_fn bdrv_co_create_file (const char *filename, const BdrvOpenParams *params,
                                                    GError **error);

BlockDriverState *bdrv_ref (BlockDriverState *bs);
/* Drops a reference; the last one drains, writes back and closes the node and unrefs its children.  Returns
 * the first error of writing back, 0 otherwise. */
int coroutine_fn bdrv_co_unref (BlockDriverState *bs);

/* Makes a node of an open chain writable, container file first: locks are upgraded, IN_USE if they cannot. */
bool coroutine_fn bdrv_co_reopen_rw (BlockDriverState *bs, GError **error);

/* Of somebody who writes much before the next flush: begins zeroed. */
typedef struct
{
  int64_t bytes; /* written since the host was told to begin */
  bool starting; /* it is being told */
} BdrvWriteback;
/* @bytes more were written to @bs.  Now and then the host is told to write what it keeps of the container: the disk works
 * while the rest is copied, where it would start when the flush at the end waits for all of it.  Promises nothing. */
void coroutine_fn bdrv_co_write_back (BdrvWriteback *writeback, BlockDriverState *bs, int64_t bytes);
/* Flushes @bs and leaves nothing in a journal of it: a reader who cannot replay one can read it.  0 or -errno. */
int coroutine_fn bdrv_co_drain_log (BlockDriverState *bs);

/* Cuts the container of @bs, a writable image, after its last used byte, where its format knows that. */
bool coroutine_fn bdrv_co_trim (BlockDriverState *bs, GError **error);

/* Waits until no request to @bs is in flight. */
void coroutine_fn bdrv_co_drain (BlockDriverState *bs);

/* --- drivers and options ------------------------------------------------------------------------------- */

/* By name or alias, or NULL. */
const BlockDriver *bdrv_find_driver (const char *name);
/* All registered drivers, in order; NULL-terminated, owned by the registry. */
const BlockDriver *const *bdrv_list_drivers (void);
/* Makes @format's image in the already open @file. */
bool coroutine_fn bdrv_co_create (const BlockDriver *drv, BlockDriverState *file,
                                  const BlockCreateParams *params, GError **error);

/* The content of @bs, made with BlockCreateParams.incomplete, is all there: flushes it, and makes it an image like any
 * other.  Nothing but a flush where the image was not made so. */
bool coroutine_fn bdrv_co_complete (BlockDriverState *bs, GError **error);

/* Parses "name=value" strings against @defs. */
BlockOptions *block_options_parse (const BlockOptionDef *defs, const char *const *options, GError **error);
void block_options_free (BlockOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (BlockOptions, block_options_free)

/* --- chains and status --------------------------------------------------------------------------------- */

/* Whether each of the nodes from @top down to, not including, its ancestor @base has for its parent what is where that is
 * looked for first, if anything is: PARENT_MISMATCH, where something else was there and passed over.  Before a parent is
 * written to that the user has not named. */
bool bdrv_check_nearest_parents (BlockDriverState *top, BlockDriverState *base, GError **error);
/* bs and its parents: 1 for a node without a parent. */
int bdrv_chain_depth (const BlockDriverState *bs);
/* The @depth-th node from the leaf, 0: @bs itself; NULL past the base. */
BlockDriverState *bdrv_chain_get (BlockDriverState *bs, int depth);

/* The topmost answer of the nodes from @bs down to, not including, @base (NULL: all).
 * Returns status bits; without ALLOCATED no node of them decides.  *depth (may be NULL) is the layer that
 * decides, or that failed.  What lies past the end of a node above the deciding one is ZERO | ALLOCATED at that node's
 * depth: a short layer hides what is below.  *pnum > 0. */
int coroutine_fn bdrv_co_block_status_above (BlockDriverState *bs, BlockDriverState *base, int64_t offset,
                                             int64_t bytes, int64_t *pnum, int64_t *map,
                                             BlockDriverState **file, int *depth);

/* --- facts --------------------------------------------------------------------------------------------- */

/* Whether two nodes have the same host file as container. */
bool bdrv_same_file (const BlockDriverState *a, const BlockDriverState *b);
/* Whether two nodes are the same file read the same way: the format may have been named by the user. */
bool bdrv_same_image (const BlockDriverState *a, const BlockDriverState *b);
/* Whether @bs names a parent that is not open: what it shows is not known. */
bool bdrv_lacks_parent (BlockDriverState *bs);
/* The protocol node below @bs (filters skipped), @bs itself if it is one. */
BlockDriverState *bdrv_protocol_node (BlockDriverState *bs);
/* What bdrv_warn () collected: of char *, oldest first; borrowed. */
const GPtrArray *bdrv_get_warnings (const BlockDriverState *bs);
/* One place that a child names for its parent, with BDRV_O_EXAMINE.  The first that fits is the one that is opened. */
typedef struct
{
  const char *origin; /* where the name stood, static */
  char *name;         /* as it stands there, UTF-8 */
  char *path;         /* what it means on this host, or NULL */
  char *reason;       /* why it is not the parent; NULL: it fits */
} BdrvParentCandidate;

/* Of BdrvParentCandidate *, in the order to try; NULL: not examined, or no parent; borrowed. */
const GPtrArray *bdrv_get_parent_candidates (const BlockDriverState *bs);
/* An image that would be opened above a layer of a chain it does not belong to; or what may be one. */
typedef struct
{
  char *path;               /* DIRECTORY/NAME, as it was found */
  const char *format;       /* static */
  BlockDriverState *parent; /* the layer; borrowed */
  bool notices;             /* it cannot be opened any more after the change; else nothing tells */
  /* NULL; else why it is not known whether @path, an image or a directory with some, is such an image, and all but
   * @path is NULL and false. */
  char *problem;
} BdrvChild;

typedef struct
{
  BlockDriverState *leaf;          /* of the chain */
  BlockDriverState *upper, *lower; /* the layers asked about, nodes of it */
  const BdrvOpenParams *places;    /* confine and drive_map count */
  /* Nothing tells who the layers are, as of a file that is no image any more: whoever finds its parent there by path alone
   * is a child. */
  bool by_path;
  int coroutine_fn (*co_pause_point) (
      void *opaque); /* asked before each file, and now and then while a directory is listed; < 0 ends the
                      * search; or NULL */
  void *opaque;
} BdrvChildQuery;

/* Whom a change of the content of @lower, which layers from @upper down show through, would break: the images that have
 * one of these as their parent and are not of the chain, as far as they lie in a directory of one of its files: of
 * BdrvChild *, by directory and name.  What cannot be examined there is among them, and told by a warning of @leaf.
 * NULL: @co_pause_point has ended it.  Nothing is changed, no lock is taken. */
GPtrArray *coroutine_fn bdrv_co_find_children (const BdrvChildQuery *query);

/* The layer from @upper down to @lower, nodes of one chain, that opening @child would take as its parent, or NULL.  A
 * parent without an identity counts as one that the user allows, and with @by_path any.  *@lost (may be NULL): @child
 * recorded the identity of one of them, and finds no parent at all.  No lock is taken. */
BlockDriverState *coroutine_fn bdrv_co_find_parent_layer (BlockDriverState *child, BlockDriverState *upper,
                                                          BlockDriverState *lower,
                                                          const BdrvOpenParams *params, bool by_path,
                                                          bool *lost);

/* Of @bs and its ancestors the first that would not find its parent if the file of @bs were at @path (absolute, symlinks
 * resolved), or NULL: names of parents are seen from there. */
BlockDriverState *coroutine_fn bdrv_co_find_broken_link (BlockDriverState *bs, const char *path,
                                                         const BdrvOpenParams *params);

/* The files beside the container in which Hyper-V tracks changes, absolute, NULL-terminated, or NULL: there are none;
 * free with g_strfreev (). */
char **bdrv_find_change_tracking (const BlockDriverState *bs);
/* Warns, once for a node, that they are stale as soon as @bs is written. */
void bdrv_warn_of_change_tracking (BlockDriverState *bs);

/* Whether @target's container can share extents with that of @source, without trying: as the protocol's
 * co_can_share (). */
int coroutine_fn bdrv_co_can_share (BlockDriverState *target, BlockDriverState *source);
/* Bytes of host storage of the container, or -errno. */
int64_t coroutine_fn bdrv_co_get_allocated_size (BlockDriverState *bs);
/* Host path of the container, absolute, symlinks resolved; borrowed. */
const char *bdrv_get_host_path (const BlockDriverState *bs);
/* How the child's own words name its parent (first path), or NULL; free with g_free (). */
char *bdrv_get_parent_name (BlockDriverState *bs);
void bdrv_parent_link_clear (BlockParentLink *link);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (BlockParentLink, bdrv_parent_link_clear)

G_END_DECLS

#endif
