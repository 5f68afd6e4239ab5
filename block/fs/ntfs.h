/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the NTFS reader share: a volume, its records, and what attributes hold. */
#ifndef FS_NTFS_H
#define FS_NTFS_H

#include "extents.h"
#include "fs.h"
#include "ntfs-codec.h"

/* The content of an attribute, over all its pieces. */
typedef struct
{
  uint8_t *value; /* resident; else NULL */
  GArray *runs;   /* of NtfsRun; not resident */
  int64_t data_bytes, initialized_bytes;
  uint16_t flags;
  bool is_open;
} NtfsStream;

void ntfs_stream_clear (NtfsStream *stream);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NtfsStream, ntfs_stream_clear)

typedef struct
{
  FsVolume *volume;
  NtfsGeometry geometry;
  NtfsStream mft;
  FsExtents metadata; /* bytes of the volume that cannot be free */
} Ntfs;

/* --- ntfs-stream.c: all set @error when they return false or NTFS_BAD ----------------------------------- */

/* Record @number, in use and put right, into @record (record_bytes). */
bool coroutine_fn ntfs_co_read_record (Ntfs *fs, uint64_t number, uint8_t *record, GError **error);
/* Find attribute @type @name (NULL: without a name) of record @number, which is @record; into *@stream, empty before. */
NtfsFound coroutine_fn ntfs_co_open_stream (Ntfs *fs, const uint8_t *record, uint64_t number,
                                            NtfsAttributeType type, const char *name, NtfsStream *stream,
                                            GError **error);
/* The same for a file of the file system's own: it must be there, and its clusters are added to fs->metadata. */
bool coroutine_fn ntfs_co_open_metadata (Ntfs *fs, uint64_t number, NtfsAttributeType type, const char *name,
                                         NtfsStream *stream, GError **error);
/* [@offset, +@bytes), which must lie inside the stream.  @what: for messages. */
bool coroutine_fn ntfs_co_read_stream (Ntfs *fs, const NtfsStream *stream, int64_t offset, int64_t bytes,
                                       void *buf, const char *what, GError **error);

/* --- why a sound volume may be in use all the same; @error says it -------------------------------------- */

/* $Volume: dirty, to be repaired, of an unknown version.  Tells the label. */
bool coroutine_fn ntfs_co_check_volume (Ntfs *fs, GError **error);
/* $LogFile: not closed.  ntfs-log.c */
bool coroutine_fn ntfs_co_check_log (Ntfs *fs, GError **error);
/* hiberfil.sys.  ntfs-hiberfile.c */
bool coroutine_fn ntfs_co_check_hiberfile (Ntfs *fs, GError **error);
/* Volume shadow copies.  ntfs-shadow.c */
bool coroutine_fn ntfs_co_check_shadows (Ntfs *fs, GError **error);

#endif
