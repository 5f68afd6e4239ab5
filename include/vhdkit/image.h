/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images: open a chain, read and write it, ask about it, create one.
 *
 * A VhdkitImage is an opened chain, seen through its leaf.  It belongs to a VhdkitContext, an event loop
 * that one thread drives at a time; every call on an image is made in that thread, unless marked
 * [any thread].  Synchronous calls drive the context themselves until they are done.
 *
 * Offsets and lengths are int64_t bytes.  I/O returns 0 or -errno; control calls take a GError ** of domain
 * VHDKIT_ERROR, set if and only if they fail.
 */
#ifndef VHDKIT_IMAGE_H
#define VHDKIT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <glib.h>

#include <vhdkit/error.h>

G_BEGIN_DECLS

/* --- contexts ------------------------------------------------------------------------------------------ */

typedef struct VhdkitContext VhdkitContext;

VhdkitContext *vhdkit_context_new (GError **error);
/* All its images must have been closed. */
void vhdkit_context_free (VhdkitContext *context);
/* Drive it from a GLib main loop: a source (borrowed) to be attached by the caller. */
GSource *vhdkit_context_get_source (VhdkitContext *context);
/* Or from any other loop: when this descriptor is readable, call vhdkit_context_iterate (context, false). */
int vhdkit_context_get_fd (VhdkitContext *context);
/* Runs what is ready; with @may_block waits for something first.  Returns whether anything ran. */
bool vhdkit_context_iterate (VhdkitContext *context, bool may_block);

/* --- opening ------------------------------------------------------------------------------------------- */

typedef struct VhdkitImage VhdkitImage;

typedef enum
{
  VHDKIT_OPEN_RDWR = 1 << 0,        /* else read-only: nothing on disk changes, ever */
  VHDKIT_OPEN_NO_PARENTS = 1 << 1,  /* this one file; what lies in parents reads as zeros */
  VHDKIT_OPEN_FORCE_SHARE = 1 << 2, /* look although another process may be writing; read-only only */
  VHDKIT_OPEN_NO_LOCK = 1 << 3,     /* take no image locks */
  VHDKIT_OPEN_RAW_PARENT = 1 << 4,  /* allow a parent that has no identity (raw) */
  VHDKIT_OPEN_CHECK = 1 << 5,       /* for vhdkit_image_check (): open what a check can still look at */
  /* Look at every place the images name for their parent, and tell of it; go through tables of up to 512 KiB, and
   * warn of blocks that cannot be read, as of a file that was cut short. */
  VHDKIT_OPEN_EXAMINE = 1 << 6,
  VHDKIT_OPEN_INCOMPLETE = 1 << 7, /* also an image made with VhdkitCreateOptions.incomplete, to fill it */
} VhdkitOpenFlags;

typedef enum
{
  VHDKIT_CACHE_WRITEBACK,    /* host page cache; durable at a flush */
  VHDKIT_CACHE_NONE,         /* O_DIRECT; durable at a flush */
  VHDKIT_CACHE_WRITETHROUGH, /* host page cache; every write durable on return */
  VHDKIT_CACHE_DIRECTSYNC,   /* O_DIRECT; every write durable on return */
  VHDKIT_CACHE_UNSAFE,       /* host page cache; flushes do nothing */
} VhdkitCacheMode;

/* Structs of options: set struct_size, zero the rest, fill in what is wanted.  Strings are borrowed for the call.
 * struct_size tells which members the caller knows: there is no padding.  A member that is added stands at the end or
 * takes the place of reserved ones, and a library that does not know it refuses a call that sets it. */
typedef struct
{
  size_t struct_size; /* sizeof (VhdkitOpenOptions) */
  unsigned flags;     /* VhdkitOpenFlags */
  VhdkitCacheMode cache;
  const char *aio;                   /* "threads", "native", "io_uring"; NULL: threads for buffered files,
                                     * native for O_DIRECT */
  const char *format;                /* NULL: probe by content */
  const char *const *format_options; /* "name=value" strings of the format's open options, or NULL */
  const char *parent;                /* use this file as the leaf's parent, whatever the leaf says */
  const char *parent_format;         /* its format, NULL: probe */
  const char *confine;               /* every file of the chain must lie below this directory */
  const char *const *drive_map;      /* "C:=/mnt/c" strings for Windows paths, or NULL */
  const char *const *filters;        /* for tests: drivers put on top of every container file opened,
                                     * "blkdebug,op=write,n=3,errno=5" */
} VhdkitOpenOptions;

/* Opens @path and, unless told otherwise, its parents.  NULL and @error on failure; nothing on disk has
 * changed then.  @context: NULL for the calling thread's own, made on demand. */
VhdkitImage *vhdkit_image_open (VhdkitContext *context, const char *path, const VhdkitOpenOptions *options,
                                GError **error);
/* Writes back, closes, frees.  No request or job may be using it.  The handle is gone even on failure. */
bool vhdkit_image_close (VhdkitImage *image, GError **error);

/* Virtual size in bytes. */
int64_t vhdkit_image_get_size (VhdkitImage *image);
bool vhdkit_image_is_read_only (VhdkitImage *image);

/* --- I/O ----------------------------------------------------------------------------------------------- */

/* 0 or -errno; -EINVAL when the range leaves the image. */
int vhdkit_image_pread (VhdkitImage *image, void *buf, int64_t offset, int64_t bytes);
int vhdkit_image_pwrite (VhdkitImage *image, const void *buf, int64_t offset, int64_t bytes);
/* @may_unmap: space may be given back where the format allows it. */
int vhdkit_image_pwrite_zeroes (VhdkitImage *image, int64_t offset, int64_t bytes, bool may_unmap);
int vhdkit_image_discard (VhdkitImage *image, int64_t offset, int64_t bytes);
int vhdkit_image_flush (VhdkitImage *image);

/* The same, asynchronous: @callback (@opaque, 0 or -errno) is called once, from the context's loop, never
 * before the call returns.  Buffers and the iovec array stay the caller's and must live until then. */
typedef void (*VhdkitIoCallback) (void *opaque, int ret);

void vhdkit_image_aio_preadv (VhdkitImage *image, const struct iovec *iov, int niov, int64_t offset,
                              VhdkitIoCallback callback, void *opaque);
void vhdkit_image_aio_pwritev (VhdkitImage *image, const struct iovec *iov, int niov, int64_t offset,
                               VhdkitIoCallback callback, void *opaque);
void vhdkit_image_aio_pwrite_zeroes (VhdkitImage *image, int64_t offset, int64_t bytes, bool may_unmap,
                                     VhdkitIoCallback callback, void *opaque);
void vhdkit_image_aio_discard (VhdkitImage *image, int64_t offset, int64_t bytes, VhdkitIoCallback callback,
                               void *opaque);
void vhdkit_image_aio_flush (VhdkitImage *image, VhdkitIoCallback callback, void *opaque);

/* Change the virtual size; what is new reads as zeros. */
bool vhdkit_image_truncate (VhdkitImage *image, int64_t bytes, GError **error);

/* --- what is where ------------------------------------------------------------------------------------- */

typedef struct
{
  int64_t offset, bytes; /* guest range */
  bool data;             /* stored as data somewhere in the chain */
  bool zero;             /* known to read as zeros */
  bool present;          /* some layer of the chain decides what it reads as */
  int depth;             /* layer that does, 0: the leaf */
  bool has_file_offset;
  int64_t file_offset;  /* where it starts in that layer's container */
  const char *filename; /* of that container; borrowed from the image */
} VhdkitExtent;

/* The extent that starts at @offset and has at most @bytes. */
int vhdkit_image_get_extent (VhdkitImage *image, int64_t offset, int64_t bytes, VhdkitExtent *extent);

/* One layer of the chain.  Strings and the variant belong to the struct; clear it. */
typedef struct
{
  char *filename;        /* as named by the user or the child */
  char *format;          /* "vhd" */
  char *parent_name;     /* as the image names it, or NULL */
  char *parent_filename; /* the file that was opened as its parent, or NULL */
  char *parent_format;
  int64_t virtual_size;
  int64_t file_size;         /* length of the container */
  int64_t allocated_size;    /* host bytes it takes, -1: unknown */
  int64_t block_size;        /* payload block, 0: none */
  bool dirty;                /* a journal must be replayed */
  GVariant *format_specific; /* a{sv}, or NULL */
  /* With VHDKIT_OPEN_EXAMINE, else NULL: aa{sv}, the places where the parent may be in the order they are tried:
   * "origin" and "name" as the image has it, "path" (not there: it leads nowhere on this host), "fits" and, where
   * it does not, "reason".  The first that fits is the parent. */
  GVariant *parent_candidates;
  /* Files beside the container in which Hyper-V tracks changes, absolute, NULL-terminated; NULL: there are none.  Any
   * write to the image makes them stale, of which a layer that is opened for writing or merged into warns. */
  char **change_tracking_files;
} VhdkitLayerInfo;

/* Layers, leaf included: >= 1. */
int vhdkit_image_get_depth (VhdkitImage *image);
/* @layer: 0 is the leaf. */
bool vhdkit_image_get_layer_info (VhdkitImage *image, int layer, VhdkitLayerInfo *info, GError **error);
void vhdkit_layer_info_clear (VhdkitLayerInfo *info);
/* What a layer wants to be known, since it was opened: lines that name its file.  NULL-terminated, for g_strfreev ();
 * empty when there is nothing, or no such layer. */
char **vhdkit_image_get_warnings (VhdkitImage *image, int layer);
/* The layer whose container is the file @path (same file, not same name), or -1. */
int vhdkit_image_find_layer (VhdkitImage *image, const char *path);

/* --- other images above the same layers ---------------------------------------------------------------- */

/* An image that would be opened above a layer of a chain, and is not of that chain; or what may be one. */
typedef struct
{
  char *filename; /* absolute */
  char *format;
  int layer; /* its parent; 0: the leaf */
  bool
      notices; /* when the content of the lowest layer asked about changes, it can no longer be opened above it; else it
                 * opens as before and shows wrong data */
  /* NULL; else why it is not known whether @filename, an image or a directory with some, is such an image: then
   * @format is NULL and @layer is -1. */
  char *problem;
} VhdkitChild;

/* Whom a change of the content of layer @last, and of what the layers from @first down to it show, would break:
 * 0 <= @first <= @last.  Looked for are images that take one of these layers as their parent by identity and path, in
 * the directories of the chain's files, not below those.  What has the name or the signature of an image and cannot be
 * examined is among them with its problem, as is a directory that was not seen to its end; a warning of the leaf tells
 * of each.  Files are opened read-only without locks, and may be in use.  NULL-terminated; NULL: @error. */
VhdkitChild **vhdkit_image_find_children (VhdkitImage *image, int first, int last, GError **error);
/* NULL is fine. */
void vhdkit_children_free (VhdkitChild **children);

/* --- check --------------------------------------------------------------------------------------------- */

typedef enum
{
  VHDKIT_CHECK_INFO,
  VHDKIT_CHECK_WARNING,
  VHDKIT_CHECK_LEAK,
  VHDKIT_CHECK_ERROR,
} VhdkitCheckSeverity;

typedef struct
{
  int64_t corruptions, leaks, check_errors;
  int64_t corruptions_fixed, leaks_fixed;
  int64_t total_blocks, allocated_blocks, fragmented_blocks;
  int64_t image_end_offset;
} VhdkitCheckResult;

/* Checks the leaf's container (open it with VHDKIT_OPEN_CHECK; RDWR too to fix).  @finding is called for each
 * finding, @text is borrowed; it must not call the library.  A repair waits for the writes under way, and lets no others
 * begin (-EBUSY); it is for an image that no job runs on.  false: the check itself could not be done. */
bool vhdkit_image_check (VhdkitImage *image, bool fix, VhdkitCheckResult *result,
                         void (*finding) (void *opaque, VhdkitCheckSeverity severity, const char *text),
                         void *opaque, GError **error);

/* --- creating ------------------------------------------------------------------------------------------ */

typedef struct
{
  size_t struct_size;                /* sizeof (VhdkitCreateOptions) */
  const char *format;                /* "vhd"; required */
  int64_t bytes;                     /* virtual size; -1: the parent's */
  const char *const *format_options; /* "name=value" strings, or NULL */
  const char *parent;        /* path of the parent (relative: to the new image's directory), or NULL */
  const char *parent_format; /* NULL: probe */
  unsigned parent_flags;     /* VhdkitOpenFlags for opening the parent (RAW_PARENT is implied) */
  /* To be filled by vhdkit_convert_new (): where the format can say so (vhd, vhdx), the image is refused by whoever opens
   * it without VHDKIT_OPEN_INCOMPLETE until that job has succeeded, also after a crash. */
  bool incomplete;
  /* The file exists, and other images have what it holds as their parent: make the new image all the same, which loses
   * them.  Else it is refused (HAS_CHILDREN) and nothing changed. */
  bool break_children;
  /* It is not known whether some do (VhdkitChild.problem): as if they did not.  Else it is refused as well, unless the
   * file holds no more than a raw disk. */
  bool ignore_unknown;
  bool reserved[1];
  const char *confine; /* as in VhdkitOpenOptions */
  const char *const *drive_map;
} VhdkitCreateOptions;

/* Makes an image file; an existing file is overwritten unless it is in use, or the parent of images in its directory
 * (vhdkit_image_find_children ()). */
bool vhdkit_image_create (VhdkitContext *context, const char *path, const VhdkitCreateOptions *options,
                          GError **error);

/* --- formats ------------------------------------------------------------------------------------------- */

typedef struct
{
  const char *name, *default_value, *help;
  const char *type; /* "string", "bool", "number", "size" */
} VhdkitOptionInfo;

typedef struct
{
  const char *name;
  const char *long_name;
  const char *const *aliases;             /* NULL-terminated, or NULL */
  const VhdkitOptionInfo *create_options; /* ends with a NULL name */
  bool can_create, can_have_parent;
} VhdkitFormatInfo;

/* The formats built in or loaded, NULL-terminated; static. */
const VhdkitFormatInfo *const *vhdkit_list_formats (void);
/* By name or alias; NULL: no such format. */
const VhdkitFormatInfo *vhdkit_find_format (const char *name);

G_END_DECLS

#endif
