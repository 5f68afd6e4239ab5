/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of byte ranges that grow in any order, in bounded memory. */
#ifndef FS_EXTENTS_H
#define FS_EXTENTS_H

#include "free-space.h"

G_BEGIN_DECLS

typedef struct
{
  GArray *array; /* of FsExtent; sorted, joined and clipped to what is useful after fs_extents_finish () */
  guint max;
  int64_t
      granularity; /* ranges without a whole aligned unit are dropped; 0: none is, a set that must be whole */
  bool incomplete; /* there was no room for all: the smallest are missing, or of a whole set any */
} FsExtents;

/* @max: of ranges, >= 2. */
void fs_extents_init (FsExtents *extents, guint max, int64_t granularity);
void fs_extents_clear (FsExtents *extents);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (FsExtents, fs_extents_clear)

/* @offset >= 0, @bytes >= 0, their sum fits. */
void fs_extents_add (FsExtents *extents, int64_t offset, int64_t bytes);
void fs_extents_finish (FsExtents *extents);
/* Both finished; @extents is so afterwards. */
void fs_extents_subtract (FsExtents *extents, const FsExtents *others);
/* The index of the first range of a sorted, disjoint @array that ends behind @offset; its length if there is none. */
guint fs_extents_find (const GArray *array, int64_t offset);
int64_t fs_extents_bytes (const FsExtents *extents);

G_END_DECLS

#endif
