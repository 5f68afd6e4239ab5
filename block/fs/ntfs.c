/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free clusters of NTFS: those whose bit in $Bitmap is 0.
 *
 *   boot sector (and its copy) -> record 0 of the MFT, which maps the MFT ($MFTMirr must agree) -> the records of
 *   $Volume, $LogFile, the root directory: is anybody coming back to it? -> $Bitmap
 *
 * Why not libntfs-3g: it reads through blocking calls and so would hold up the AioContext; it logs and keeps its settings
 * in globals; and it mounts, which takes far more of a hostile volume than is read here.
 *
 * Everything that was read on the way must be in use in the bitmap, or the volume is damaged.
 */
#include "ntfs.h"

#include "bitset.h"
#include "checked.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

#define PIECE_BYTES       (1024 * 1024)
#define MAX_METADATA_RUNS (1024 * 1024)
#define BOOT_BYTES        8192

static void
ntfs_clear (Ntfs *fs)
{
  ntfs_stream_clear (&fs->mft);
  fs_extents_clear (&fs->metadata);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Ntfs, ntfs_clear)

static bool coroutine_fn
ntfs_co_probe (FsVolume *volume)
{
  return memcmp (volume->head + offsetof (NtfsBootDisk, oem), NTFS_OEM, 8) == 0;
}

/* --- the way to the bitmap ----------------------------------------------------------------------------- */

static bool coroutine_fn
co_check_boot_copy (Ntfs *fs, GError **error)
{
  uint8_t copy[NTFS_STRIDE];
  int64_t offset = fs->geometry.sectors * fs->geometry.sector_bytes;
  size_t start = offsetof (NtfsBootDisk, oem);

  if (!fs_co_read_structure (fs->volume, offset, sizeof copy, copy, "copy of the boot sector", error))
    return false;
  if (memcmp (copy + start, fs->volume->head + start, sizeof (NtfsBootDisk) - start) != 0)
    return fs_corrupt (error, "boot sector: its copy at offset %" PRId64 " differs", offset);
  return true;
}

/* Record 0 says where the MFT is, but for where it starts. */
static bool coroutine_fn
co_open_mft (Ntfs *fs, GError **error)
{
  const NtfsGeometry *g = &fs->geometry;
  g_autofree uint8_t *record = g_malloc (g->record_bytes);

  if (!fs_co_read_structure (fs->volume, g->mft_lcn * g->cluster_bytes, g->record_bytes, record, "MFT",
                             error))
    return false;
  if (!ntfs_fixup (record, g->record_bytes, "FILE") || !ntfs_record_is_valid (record, g->record_bytes))
    return fs_corrupt (error, "MFT: its first record is damaged");
  NtfsFound found = ntfs_co_open_stream (fs, record, NTFS_MFT, NTFS_AT_DATA, NULL, &fs->mft, error);
  if (found == NTFS_BAD)
    return false;
  if (found == NTFS_NOT_FOUND || fs->mft.runs == NULL || fs->mft.runs->len == 0 || fs->mft.flags != 0
      || g_array_index (fs->mft.runs, NtfsRun, 0).lcn != g->mft_lcn)
    return fs_corrupt (error, "MFT: its first record does not describe it");
  return true;
}

static bool coroutine_fn
co_check_mirror (Ntfs *fs, GError **error)
{
  const NtfsGeometry *g = &fs->geometry;
  g_autofree uint8_t *record = g_malloc (g->record_bytes), *copy = g_malloc (g->record_bytes);
  g_auto (NtfsStream) mirror = { 0 };

  if (!ntfs_co_open_metadata (fs, NTFS_MIRROR, NTFS_AT_DATA, NULL, &mirror, error))
    return false;
  if (mirror.runs == NULL || mirror.runs->len == 0
      || g_array_index (mirror.runs, NtfsRun, 0).lcn != g->mirror_lcn)
    return fs_corrupt (error, "$MFTMirr: it is not where the boot sector says, cluster %" PRId64,
                       g->mirror_lcn);
  for (int i = 0; i < NTFS_MIRROR_RECORDS; i++)
    {
      if (!ntfs_co_read_record (fs, i, record, error)
          || !ntfs_co_read_stream (fs, &mirror, i * g->record_bytes, g->record_bytes, copy, "$MFTMirr",
                                   error))
        return false;
      if (!ntfs_fixup (copy, g->record_bytes, "FILE")
          || memcmp (record, copy, le32_get (((const NtfsRecordDisk *)(const void *)record)->bytes_used))
                 != 0)
        return fs_corrupt (error, "$MFTMirr: its record %d is not that of the MFT", i);
    }
  return true;
}

/* Clusters of other files of the file system's own, for they cannot be free. */
static bool coroutine_fn
co_note_metadata (Ntfs *fs, GError **error)
{
  static const struct
  {
    uint64_t number;
    NtfsAttributeType type;
  } files[] = {
    { NTFS_MFT, NTFS_AT_DATA },  { NTFS_MFT, NTFS_AT_BITMAP },  { NTFS_ATTRDEF, NTFS_AT_DATA },
    { NTFS_BOOT, NTFS_AT_DATA }, { NTFS_UPCASE, NTFS_AT_DATA },
  };

  fs_extents_add (&fs->metadata, 0, BOOT_BYTES);
  for (size_t i = 0; i < G_N_ELEMENTS (files); i++)
    {
      g_auto (NtfsStream) stream = { 0 };

      if (!ntfs_co_open_metadata (fs, files[i].number, files[i].type, NULL, &stream, error))
        return false;
    }
  return true;
}

/* --- $Volume ------------------------------------------------------------------------------------------- */

static void coroutine_fn
co_note_label (Ntfs *fs)
{
  g_auto (NtfsStream) name = { 0 };
  gunichar2 text[128];

  if (!ntfs_co_open_metadata (fs, NTFS_VOLUME, NTFS_AT_VOLUME_NAME, NULL, &name, NULL) || name.value == NULL)
    return;
  size_t characters = MIN (name.data_bytes / 2, (int64_t)G_N_ELEMENTS (text));
  for (size_t i = 0; i < characters; i++)
    text[i] = le16_get (((const Le16 *)name.value)[i]);
  g_autofree char *label = g_utf16_to_utf8 (text, (glong)characters, NULL, NULL, NULL);
  if (label != NULL)
    fs_set_label (fs->volume, label, strlen (label));
}

bool coroutine_fn
ntfs_co_check_volume (Ntfs *fs, GError **error)
{
  g_auto (NtfsStream) information = { 0 };

  co_note_label (fs);
  if (!ntfs_co_open_metadata (fs, NTFS_VOLUME, NTFS_AT_VOLUME_INFORMATION, NULL, &information, error))
    return false;
  const NtfsVolumeInformationDisk *disk = (const void *)information.value;
  if (disk == NULL || information.data_bytes < (int64_t)sizeof *disk)
    return fs_corrupt (error, "$Volume: its information has %" PRId64 " bytes", information.data_bytes);
  if (!(disk->major == 3 && disk->minor <= 1) && !(disk->major == 1 && disk->minor == 2))
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "$Volume: NTFS version %u.%u, expected 1.2, 3.0 or 3.1", disk->major, disk->minor);
  uint16_t flags = le16_get (disk->flags);
  if (flags & NTFS_VOLUME_DIRTY)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE, "dirty: to be checked by chkdsk ($Volume: flags %#x)",
                      flags);
  if (flags & ~NTFS_VOLUME_NO_SHORT_NAMES)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "something is to be done when it is mounted ($Volume: flags %#x)", flags);
  return true;
}

/* --- $Bitmap ------------------------------------------------------------------------------------------- */

/* Clusters [@first, +@count), whose bits are @bits. */
static bool
add_free (Ntfs *fs, const uint8_t *bits, int64_t first, int64_t count, GError **error)
{
  int64_t cluster_bytes = fs->geometry.cluster_bytes;
  const GArray *metadata = fs->metadata.array;
  bool is_used;

  for (int64_t at = 0, run; at < count; at += run)
    {
      run = (int64_t)bitset_run (bits, at, count, &is_used, BITSET_LSB_FIRST);
      if (is_used)
        continue;
      int64_t offset = (first + at) * cluster_bytes, bytes = run * cluster_bytes;
      guint next = fs_extents_find (metadata, offset);
      if (next < metadata->len && g_array_index (metadata, FsExtent, next).offset < offset + bytes)
        return fs_corrupt (error, "$Bitmap: says that metadata in cluster %" PRId64 " is free",
                           MAX (offset, g_array_index (metadata, FsExtent, next).offset) / cluster_bytes);
      fs_add_free (fs->volume, offset, bytes);
    }
  return true;
}

static int
compare_runs (const void *a, const void *b)
{
  const NtfsRun *x = a, *y = b;

  return x->lcn < y->lcn ? -1 : x->lcn > y->lcn;
}

/* Else what a few clusters hold could be a bitmap of any length, and as much work. */
static bool
check_no_run_twice (const GArray *runs, GError **error)
{
  g_autoptr (GArray) sorted = g_array_copy ((GArray *)runs);

  g_array_sort (sorted, compare_runs);
  for (guint i = 1; i < sorted->len; i++)
    {
      const NtfsRun *run = &g_array_index (sorted, NtfsRun, i), *before = run - 1;

      if (run->lcn < before->lcn + before->clusters)
        return fs_corrupt (error, "$Bitmap: two pieces of it have cluster %" PRId64, run->lcn);
    }
  return true;
}

/* A hole in it would read as clusters that are free. */
static bool
check_bitmap (const Ntfs *fs, const NtfsStream *bitmap, GError **error)
{
  int64_t bytes = div_round_up (fs->geometry.clusters, 8);

  if (bitmap->runs == NULL || bitmap->flags != 0 || bitmap->initialized_bytes < bytes)
    return fs_corrupt (error, "$Bitmap: %" PRId64 " bytes, expected %" PRId64 "; attribute flags %#x",
                       bitmap->initialized_bytes, bytes, bitmap->flags);
  for (guint i = 0; i < bitmap->runs->len; i++)
    if (g_array_index (bitmap->runs, NtfsRun, i).lcn < 0)
      return fs_corrupt (error, "$Bitmap: it has a hole at its cluster %" PRId64,
                         g_array_index (bitmap->runs, NtfsRun, i).vcn);
  return check_no_run_twice (bitmap->runs, error);
}

static bool coroutine_fn
co_read_bitmap (Ntfs *fs, const NtfsStream *bitmap, GError **error)
{
  g_autofree uint8_t *bits = g_malloc (PIECE_BYTES);
  int64_t clusters = fs->geometry.clusters;

  for (int64_t first = 0; first < clusters; first += PIECE_BYTES * 8)
    {
      int64_t count = MIN (PIECE_BYTES * 8, clusters - first);

      if (!ntfs_co_read_stream (fs, bitmap, first / 8, div_round_up (count, 8), bits, "$Bitmap", error)
          || !add_free (fs, bits, first, count, error))
        return false;
    }
  return true;
}

/* --- the reader ---------------------------------------------------------------------------------------- */

static bool coroutine_fn
ntfs_co_read_free (FsVolume *volume, GError **error)
{
  g_auto (Ntfs) fs = { .volume = volume };
  g_auto (NtfsStream) bitmap = { 0 };
  char uuid[20];

  fs_extents_init (&fs.metadata, MAX_METADATA_RUNS, 0);
  if (!ntfs_geometry_decode (&fs.geometry, volume->head, volume->bytes, error))
    return false;
  g_snprintf (uuid, sizeof uuid, "%016" PRIX64, fs.geometry.serial);
  fs_set_uuid (volume, uuid);
  if (!co_check_boot_copy (&fs, error) || !co_open_mft (&fs, error) || !co_check_mirror (&fs, error)
      || !ntfs_co_check_volume (&fs, error) || !ntfs_co_check_log (&fs, error)
      || !ntfs_co_check_hiberfile (&fs, error) || !ntfs_co_check_shadows (&fs, error)
      || !co_note_metadata (&fs, error)
      || !ntfs_co_open_metadata (&fs, NTFS_BITMAP, NTFS_AT_DATA, NULL, &bitmap, error)
      || !check_bitmap (&fs, &bitmap, error))
    return false;
  fs_extents_finish (&fs.metadata);
  if (fs.metadata.incomplete)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "its metadata is in too many pieces");
  return co_read_bitmap (&fs, &bitmap, error);
}

const FsReader ntfs_reader = {
  .name = "ntfs",
  .co_probe = ntfs_co_probe,
  .co_read_free = ntfs_co_read_free,
};
