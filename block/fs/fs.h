/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Readers of guest file systems: which bytes of a volume hold nothing.
 *
 * Who may include this: the readers in this folder and the walk over the disk (walk.c).  A reader is data: one const
 * FsReader, NAME_reader, listed in meson.build.  It sees one volume (a partition, or a whole disk without a table)
 * through the functions below, and nothing else.  Jobs include free-space.h.
 *
 * What a free range means: compaction makes it read as zeros, or as what a parent image holds there.  So a reader
 * says "free" only of what the file system itself, found clean, would give to a new file without reading it
 * first.  Everything not said to be free is in use: boot areas, metadata, slack behind the file system, clusters marked
 * bad.
 *
 * The rules of a reader:
 *  R1 A volume is all or nothing.  co_read_free () returns true if everything it relies on was checked; else
 *     false, with the reason, and the walk forgets every range that it had added.  Ranges may therefore be added
 *     while the checks go on.
 *  R2 Dirty, mounted, hibernated, inconsistent, encrypted, with a journal to be replayed or with a feature that the
 *     reader does not know: false.  An unknown bit of a feature field that may concern the allocation is a reason.
 *  R3 The volume is hostile.  Every number is checked before it is used; the file system ends inside the volume; loops
 *     end by a bound of the reader's own, not by what a structure says; memory is bounded and allocated
 *     with g_try_malloc () where a number of the volume decides how much.
 *  R4 Where a structure has a checksum or a copy, it is verified.  Where the file system counts its free space, the
 *     sum that was found must agree with it.
 *  R5 Nothing is written, and no state outlives a call.  Many volumes may be read at once in several threads.
 *
 * Units: bytes from the start of the volume.  Context: co_ functions run in a coroutine of the node's AioContext; its
 * stack is small (256 KiB), so buffers live on the heap.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include <vhdkit/error.h>

#include <coaio/coaio.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

/* As much of the start of a volume as every reader is shown. */
#define FS_HEAD_BYTES (256 * 1024)

typedef struct FsWalk FsWalk; /* the walk's own */

/* A range of the guest's disk, as a reader sees it. */
typedef struct
{
  int64_t bytes;        /* of the volume, > 0 */
  uint32_t sector_size; /* logical sector of the disk, 512 or 4096 bytes */
  int64_t offset;       /* of the volume on the disk: only to compare with what a boot sector says of it */
  const uint8_t *head;  /* FS_HEAD_BYTES, zeros past the end of the volume; there as long as the volume */
  FsWalk *walk;
} FsVolume;

/* Read [@offset, +@bytes) of the volume into @buf.  0, or -errno: -EINVAL outside of the volume (any int64_t may be
 * asked for), -ENOMEM, -EIO and the like, -ECANCELED, -EDQUOT when the volume has had more read than is reasonable for
 * its size.  After any failure but -EINVAL the volume counts as in use whatever the reader returns.
 * A request costs time: read tables in pieces of 64 KiB to 1 MiB.  Is a pause point too. */
int coroutine_fn fs_co_read (FsVolume *volume, int64_t offset, int64_t bytes, void *buf);
/* The same, with an error that names @what ("superblock"), a noun phrase. */
bool coroutine_fn fs_co_read_structure (FsVolume *volume, int64_t offset, int64_t bytes, void *buf,
                                        const char *what, GError **error);

/* For loops that run long without a read: lets the caller's job pause or cancel.  0 or -ECANCELED. */
int coroutine_fn fs_co_pause_point (FsVolume *volume);

/* In co_read_free () only.  [@offset, +@bytes) is free; @bytes 0 says nothing.  Any order; neighbours are joined,
 * cheaply if they come one after the other.  A range outside of the volume makes it count as in use. */
void fs_add_free (FsVolume *volume, int64_t offset, int64_t bytes);
/* In co_read_free () only.  [@offset, +@bytes) is in use, whatever fs_add_free () was or will be told: for metadata whose
 * place the reader works out on its own.  Clamped to the volume. */
void fs_add_used (FsVolume *volume, int64_t offset, int64_t bytes);
/* In co_read_free () only.  [@offset, +@bytes) is in use by the volume, and a volume by itself, called @name: it is
 * looked at if this one is found sound.  One that stands in such a volume must have none. */
void fs_add_inner (FsVolume *volume, int64_t offset, int64_t bytes, const char *name);

/* A system that will come back to the disk is stored in the volume: all of the disk counts as in use.  What other volumes
 * say of themselves may be older than what that system knows, and what it has swapped out has no sign at all.  In
 * co_probe () or co_read_free (). */
void fs_set_hibernated (FsVolume *volume);

/* What to call the volume in the report; all copy, and may be called in co_probe () or co_read_free (). */
/* @type: "ext4"; else the report says the reader's name. */
void fs_set_type (FsVolume *volume, const char *type);
/* Any bytes up to @max_bytes or a NUL; shown as UTF-8 with what is not valid replaced, no control characters. */
void fs_set_label (FsVolume *volume, const char *label, size_t max_bytes);
/* As text. */
void fs_set_uuid (FsVolume *volume, const char *uuid);
/* What to write of such bytes in an error: as of a label, and as much of it.  Free with g_free (). */
char *fs_printable (const char *bytes, size_t max_bytes);

typedef struct
{
  const char *name; /* of the file system: "ntfs" */
  /* Whether the volume says it is of this kind: by its magic numbers, in the right places, in volume->head; more may be
   * read.  A volume that two readers claim counts as in use, so claim by what a rightful owner always has, and leave
   * the sanity of the rest to co_read_free (): a damaged file system is to be reported as that, not as unknown. */
  bool coroutine_fn (*co_probe) (FsVolume *volume);
  /* Adds the free ranges.  false, with @error set, when the volume counts as in use: a phrase for people that says
   * why, without the volume's name.  Codes: NEEDS_REPLAY (journal), IN_USE (mounted, not cleanly unmounted,
   * hibernated), CORRUPT, UNSUPPORTED (sound, but a feature is not understood; encrypted), IO. */
  bool coroutine_fn (*co_read_free) (FsVolume *volume, GError **error);
  /* In a partition, only where the partition's type names it: its marks stay where something else has the space. */
  bool needs_owner;
  /* It looks the same while a system has it mounted, or swaps to it.  So where another volume of the disk was not
   * unmounted, whose system may come back (saved, or hibernated to a file), this one counts as in use too. */
  bool hides_mounted;
} FsReader;

/* Those of meson.build, NULL-terminated. */
extern const FsReader *const fs_readers[];

G_END_DECLS

#endif
