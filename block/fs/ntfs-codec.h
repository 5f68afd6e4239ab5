/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What structures of NTFS say; no I/O. */
#ifndef FS_NTFS_CODEC_H
#define FS_NTFS_CODEC_H

#include "ntfs-spec.h"

#include <stdbool.h>

typedef struct
{
  int64_t sector_bytes, cluster_bytes;
  int64_t record_bytes, index_bytes;
  int64_t sectors; /* without the copy of the boot sector */
  int64_t clusters;
  int64_t mft_lcn, mirror_lcn;
  uint64_t serial;
} NtfsGeometry;

/* @boot: the first sector, 512 bytes. */
bool ntfs_geometry_decode (NtfsGeometry *geometry, const uint8_t *boot, int64_t volume_bytes, GError **error);

/* Whether @record (@bytes, a multiple of 512) starts with @magic and was written as a whole; puts the bytes at the ends of
 * its strides to where they belong. */
bool ntfs_fixup (uint8_t *record, int64_t bytes, const char magic[4]);

typedef struct
{
  uint32_t type;
  uint16_t flags;
  const uint8_t *name; /* UTF-16LE */
  unsigned name_characters;
  bool is_resident;
  const uint8_t *value; /* resident: of @value_bytes; else the runs, up to @value_bytes */
  uint32_t value_bytes;
  int64_t lowest_vcn, highest_vcn; /* not resident */
  int64_t allocated_bytes, data_bytes, initialized_bytes;
} NtfsAttribute;

/* Whether @record, put right by ntfs_fixup (), has a header that makes sense.  @bytes: of a record. */
bool ntfs_record_is_valid (const uint8_t *record, int64_t bytes);

typedef enum
{
  NTFS_FOUND,
  NTFS_NOT_FOUND,
  NTFS_BAD,
} NtfsFound;

/* The first attribute of @record at or behind its byte *@at, which moves behind it (0: from the first one on).
 * Pointers in @attribute point into @record. */
NtfsFound ntfs_next_attribute (const uint8_t *record, uint32_t *at, NtfsAttribute *attribute);
/* Whether an ASCII @name (NULL or "": none) is @utf16. */
bool ntfs_name_is (const uint8_t *utf16, unsigned characters, const char *name, bool ignore_case);

typedef struct
{
  int64_t vcn, lcn, clusters; /* @lcn -1: sparse */
} NtfsRun;

#define NTFS_MAX_RUNS (256 * 1024)

/* Append the runs of @attribute to @runs (GArray of NtfsRun), which must end where they start.  @clusters: of the
 * volume.  false: they make no sense, or are more than NTFS_MAX_RUNS. */
bool ntfs_runs_append (GArray *runs, const NtfsAttribute *attribute, int64_t clusters);
/* The cluster behind the last one. */
int64_t ntfs_runs_end (const GArray *runs);
/* The run that has cluster @vcn, 0 <= @vcn < ntfs_runs_end (). */
const NtfsRun *ntfs_runs_find (const GArray *runs, int64_t vcn);

#endif
