/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free clusters of exFAT: those whose bit in the allocation bitmap is 0.
 *
 * The bitmap is found as a guest finds it: boot sector (its checksum and its copy are verified), root directory,
 * entry 0x81, and then along the chain in the FAT.  What was found on the way must be allocated in the
 * bitmap.  TexFAT (two FATs, two bitmaps, transactions) counts as in use.
 */
#include "fs.h"

#include "bitset.h"
#include "checked.h"
#include "exfat-spec.h"
#include "extents.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

#define PIECE_BYTES (256 * 1024)
#define FAT_PIECE   (64 * 1024)
/* Runs of the bitmap's and the root directory's clusters. */
#define MAX_RUNS (64 * 1024)

typedef struct
{
  int64_t sector_bytes, cluster_bytes;
  int64_t fat_offset, heap_offset;
  uint32_t clusters, root_cluster, serial;
} ExfatGeometry;

typedef struct
{
  uint32_t first_cluster;
  int64_t bytes;
  bool is_there;
} ExfatStream;

typedef struct
{
  FsVolume *volume;
  ExfatGeometry geometry;
  uint8_t *fat_piece; /* of the FAT, FAT_PIECE bytes from its byte fat_at on (-1: none yet) */
  int64_t fat_at;
  ExfatStream bitmap, upcase;
  FsExtents metadata; /* bytes of the volume */
} Exfat;

static void
exfat_clear (Exfat *fs)
{
  g_free (fs->fat_piece);
  fs_extents_clear (&fs->metadata);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Exfat, exfat_clear)

static bool coroutine_fn
exfat_co_probe (FsVolume *volume)
{
  const ExfatBootDisk *boot = (const void *)volume->head;

  return memcmp (boot->name, EXFAT_NAME, sizeof boot->name) == 0 && boot->end[0] == 0x55
         && boot->end[1] == 0xaa;
}

/* --- boot regions -------------------------------------------------------------------------------------- */

/* Of the 11 sectors at @region, without the three bytes that change while mounted. */
static uint32_t
boot_checksum (const uint8_t *region, size_t sector_bytes)
{
  uint32_t sum = 0;

  for (size_t i = 0; i < (EXFAT_REGION_SECTORS - 1) * sector_bytes; i++)
    {
      if (i == offsetof (ExfatBootDisk, flags) || i == offsetof (ExfatBootDisk, flags) + 1
          || i == offsetof (ExfatBootDisk, percent_in_use))
        continue;
      sum = (sum << 31 | sum >> 1) + region[i];
    }
  return sum;
}

static bool
check_boot_region (const uint8_t *region, size_t sector_bytes, const char *which, GError **error)
{
  uint32_t expected = boot_checksum (region, sector_bytes);
  const Le32 *stored = (const void *)(region + (EXFAT_REGION_SECTORS - 1) * sector_bytes);

  for (size_t i = 0; i < sector_bytes / sizeof *stored; i++)
    if (le32_get (stored[i]) != expected)
      return fs_corrupt (error, "%s boot region: checksum %#x, expected %#x", which, le32_get (stored[i]),
                         expected);
  return true;
}

static bool
bytes_are_zero (const uint8_t *bytes, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (bytes[i] != 0)
      return false;
  return true;
}

static bool
check_kind (const ExfatBootDisk *boot, GError **error)
{
  if (!bytes_are_zero (boot->must_be_zero, sizeof boot->must_be_zero))
    return fs_corrupt (error, "boot sector: bytes 11 to 63 are not zero");
  if (boot->revision_major != 1)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: exFAT revision %u.%u, expected 1.x",
                      boot->revision_major, boot->revision_minor);
  if (boot->sector_shift < 9 || boot->sector_shift > 12
      || boot->cluster_sectors_shift > 25 - boot->sector_shift)
    return fs_corrupt (error, "boot sector: sectors of 2^%u bytes in clusters of 2^%u", boot->sector_shift,
                       boot->cluster_sectors_shift);
  if (boot->fats == 2)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "it is TexFAT (two FATs), which is not read");
  if (boot->fats != 1)
    return fs_corrupt (error, "boot sector: %u FATs, expected 1", boot->fats);
  return true;
}

static bool
check_flags (uint16_t flags, GError **error)
{
  if (flags & EXFAT_FLAG_DIRTY)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "mounted or not cleanly unmounted (boot sector: volume flags %#x)", flags);
  if (flags & EXFAT_FLAG_MEDIA)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "I/O errors were seen on it (boot sector: volume flags %#x)", flags);
  if (flags & ~EXFAT_FLAG_CLEAR)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: volume flags %#x are not known", flags);
  return true;
}

static bool
exfat_geometry_decode (ExfatGeometry *g, const uint8_t *head, int64_t volume_bytes, GError **error)
{
  const ExfatBootDisk *boot = (const void *)head;

  if (!check_kind (boot, error))
    return false;
  int64_t sector = INT64_C (1) << boot->sector_shift;
  uint64_t length = le64_get (boot->volume_length);
  int64_t fat_offset = le32_get (boot->fat_offset), fat_length = le32_get (boot->fat_length);
  int64_t heap_offset = le32_get (boot->heap_offset);

  *g = (ExfatGeometry){
    .sector_bytes = sector,
    .cluster_bytes = sector << boot->cluster_sectors_shift,
    .fat_offset = fat_offset * sector,
    .heap_offset = heap_offset * sector,
    .clusters = le32_get (boot->clusters),
    .root_cluster = le32_get (boot->root_cluster),
    .serial = le32_get (boot->serial),
  };
  if (length > (uint64_t)(volume_bytes / sector))
    return fs_corrupt (
        error, "boot sector: %" PRIu64 " sectors of %" PRId64 " bytes, the volume has %" PRId64 " bytes",
        length, sector, volume_bytes);
  if (fat_offset < 2 * EXFAT_REGION_SECTORS || fat_offset + fat_length > heap_offset
      || (uint64_t)heap_offset >= length)
    return fs_corrupt (error,
                       "boot sector: FAT at sector %" PRId64 " (%" PRId64
                       " sectors) and cluster heap at sector %" PRId64 " of %" PRIu64 " overlap",
                       fat_offset, fat_length, heap_offset, length);
  int64_t room = ((int64_t)length - heap_offset) >> boot->cluster_sectors_shift;
  if (g->clusters == 0 || g->clusters > EXFAT_MAX_CLUSTERS || g->clusters > room)
    return fs_corrupt (error, "boot sector: %u clusters, there is room for %" PRId64, g->clusters, room);
  if (((int64_t)g->clusters + EXFAT_FIRST) * 4 > fat_length * sector)
    return fs_corrupt (error, "boot sector: a FAT of %" PRId64 " sectors has no room for %u clusters",
                       fat_length, g->clusters);
  if (!check_boot_region (head, sector, "main", error)
      || !check_boot_region (head + EXFAT_REGION_SECTORS * sector, sector, "backup", error))
    return false;
  if (boot_checksum (head, sector) != boot_checksum (head + EXFAT_REGION_SECTORS * sector, sector))
    return fs_corrupt (error, "the main and the backup boot region differ");
  return check_flags (le16_get (boot->flags), error);
}
G_STATIC_ASSERT (2 * EXFAT_REGION_SECTORS * 4096 <= FS_HEAD_BYTES);

/* --- clusters ------------------------------------------------------------------------------------------ */

static bool
is_cluster (const ExfatGeometry *g, uint32_t cluster)
{
  return cluster >= EXFAT_FIRST && cluster - EXFAT_FIRST < g->clusters;
}

static int64_t
cluster_offset (const ExfatGeometry *g, uint32_t cluster)
{
  return g->heap_offset + (int64_t)(cluster - EXFAT_FIRST) * g->cluster_bytes;
}

/* Entry @index of the FAT; FAT entries lie inside the volume, as the geometry was checked. */
static bool coroutine_fn
exfat_co_fat_entry (Exfat *fs, uint32_t index, uint32_t *value, GError **error)
{
  int64_t table_bytes = ((int64_t)fs->geometry.clusters + EXFAT_FIRST) * 4;
  int64_t at = round_down ((int64_t)index * 4, FAT_PIECE);

  if (at != fs->fat_at)
    {
      fs->fat_at = -1;
      if (!fs_co_read_structure (fs->volume, fs->geometry.fat_offset + at, MIN (FAT_PIECE, table_bytes - at),
                                 fs->fat_piece, "FAT", error))
        return false;
      fs->fat_at = at;
    }
  *value = le32_get (((const Le32 *)fs->fat_piece)[((int64_t)index * 4 - at) / 4]);
  return true;
}

static bool coroutine_fn
exfat_co_check_fat (Exfat *fs, GError **error)
{
  uint32_t first, second;

  if (!exfat_co_fat_entry (fs, 0, &first, error) || !exfat_co_fat_entry (fs, 1, &second, error))
    return false;
  if (first != EXFAT_FAT_0 || second != EXFAT_FAT_1)
    return fs_corrupt (error, "FAT: entries 0 and 1 are %#x and %#x, expected %#x and %#x", first, second,
                       EXFAT_FAT_0, EXFAT_FAT_1);
  return true;
}

/* What follows a chain: cluster by cluster, and not for ever. */
typedef struct
{
  uint32_t cluster; /* the next one, or EXFAT_END */
  int64_t left;     /* clusters that it may still have */
} ExfatChain;

/* The next cluster of @chain, with its place noted as metadata; *@cluster 0: there is none. */
static bool coroutine_fn
exfat_co_next (Exfat *fs, ExfatChain *chain, const char *what, uint32_t *cluster, GError **error)
{
  *cluster = 0;
  if (chain->cluster == EXFAT_END)
    return true;
  if (!is_cluster (&fs->geometry, chain->cluster))
    return fs_corrupt (error, "%s: its chain leads to %#x, which is no cluster", what, chain->cluster);
  if (chain->left-- == 0)
    return fs_corrupt (error, "%s: its chain is too long", what);
  *cluster = chain->cluster;
  fs_extents_add (&fs->metadata, cluster_offset (&fs->geometry, *cluster), fs->geometry.cluster_bytes);
  return exfat_co_fat_entry (fs, *cluster, &chain->cluster, error);
}

/* --- root directory ------------------------------------------------------------------------------------ */

static void
note_label (FsVolume *volume, const ExfatEntryDisk *entry)
{
  gunichar2 name[11];
  unsigned characters = MIN (entry->label.characters, G_N_ELEMENTS (name));

  for (unsigned i = 0; i < characters; i++)
    name[i] = le16_get (entry->label.name[i]);
  g_autofree char *label = g_utf16_to_utf8 (name, characters, NULL, NULL, NULL);
  if (label != NULL)
    fs_set_label (volume, label, strlen (label));
}

static bool
note_stream (ExfatStream *stream, Le32 first_cluster, Le64 bytes, const char *what, GError **error)
{
  if (stream->is_there)
    return fs_corrupt (error, "root directory: a second %s", what);
  *stream = (ExfatStream){
    .first_cluster = le32_get (first_cluster),
    .bytes = (int64_t)MIN (le64_get (bytes), (uint64_t)INT64_MAX),
    .is_there = true,
  };
  return true;
}

static bool
note_root_entry (Exfat *fs, const ExfatEntryDisk *entry, GError **error)
{
  switch (entry->type)
    {
    case EXFAT_ENTRY_BITMAP:
      if (entry->bitmap.flags != 0)
        return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "allocation bitmap: flags %#x, expected 0",
                          entry->bitmap.flags);
      return note_stream (&fs->bitmap, entry->bitmap.first_cluster, entry->bitmap.bytes, "allocation bitmap",
                          error);
    case EXFAT_ENTRY_UPCASE:
      return note_stream (&fs->upcase, entry->upcase.first_cluster, entry->upcase.bytes, "up-case table",
                          error);
    case EXFAT_ENTRY_LABEL:
      note_label (fs->volume, entry);
      return true;
    default:
      return true;
    }
}

/* *@ended: the entry that ends the directory is among them. */
static bool
note_root_entries (Exfat *fs, const uint8_t *buf, int64_t bytes, bool *ended, GError **error)
{
  for (int64_t at = 0; at < bytes && !*ended; at += sizeof (ExfatEntryDisk))
    {
      const ExfatEntryDisk *entry = (const void *)(buf + at);

      *ended = entry->type == 0;
      if (!note_root_entry (fs, entry, error))
        return false;
    }
  return true;
}

/* All of its chain is walked, behind its end too: those clusters must be allocated as well. */
static bool coroutine_fn
exfat_co_read_root (Exfat *fs, GError **error)
{
  const ExfatGeometry *g = &fs->geometry;
  g_autofree uint8_t *buf = g_malloc (PIECE_BYTES);
  ExfatChain chain = { g->root_cluster, MAX (1, EXFAT_MAX_DIR_BYTES / g->cluster_bytes) };
  bool ended = false;
  uint32_t cluster;

  for (;;)
    {
      if (!exfat_co_next (fs, &chain, "root directory", &cluster, error))
        return false;
      if (cluster == 0)
        break;
      for (int64_t at = 0, bytes; at < g->cluster_bytes && !ended; at += bytes)
        {
          bytes = MIN (PIECE_BYTES, g->cluster_bytes - at);
          if (!fs_co_read_structure (fs->volume, cluster_offset (g, cluster) + at, bytes, buf,
                                     "root directory", error)
              || !note_root_entries (fs, buf, bytes, &ended, error))
            return false;
        }
    }
  if (!fs->bitmap.is_there || !fs->upcase.is_there)
    return fs_corrupt (error, "root directory: no %s",
                       fs->bitmap.is_there ? "up-case table" : "allocation bitmap");
  if (fs->bitmap.bytes != div_round_up (g->clusters, 8))
    return fs_corrupt (error, "allocation bitmap: %" PRId64 " bytes for %u clusters", fs->bitmap.bytes,
                       g->clusters);
  if (fs->upcase.bytes == 0 || fs->upcase.bytes > EXFAT_MAX_UPCASE)
    return fs_corrupt (error, "up-case table: %" PRId64 " bytes", fs->upcase.bytes);
  return true;
}

/* --- allocation bitmap --------------------------------------------------------------------------------- */

/* Clusters of [@first, +@count), by index, that are 0 in @bits. */
static bool
add_free (Exfat *fs, const uint8_t *bits, int64_t first, int64_t count, GError **error)
{
  const ExfatGeometry *g = &fs->geometry;
  const GArray *metadata = fs->metadata.array;
  bool is_used;

  for (int64_t at = 0, run; at < count; at += run)
    {
      run = (int64_t)bitset_run (bits, at, count, &is_used, BITSET_LSB_FIRST);
      if (is_used)
        continue;
      int64_t offset = g->heap_offset + (first + at) * g->cluster_bytes, bytes = run * g->cluster_bytes;
      guint next = fs_extents_find (metadata, offset);
      if (next < metadata->len && g_array_index (metadata, FsExtent, next).offset < offset + bytes)
        return fs_corrupt (error, "allocation bitmap: says that metadata at offset %" PRId64 " is free",
                           MAX (offset, g_array_index (metadata, FsExtent, next).offset));
      fs_add_free (fs->volume, offset, bytes);
    }
  return true;
}

/* The chain of @stream as runs of bytes, in its order. */
static bool coroutine_fn
exfat_co_map_stream (Exfat *fs, const ExfatStream *stream, const char *what, GArray *runs, GError **error)
{
  const ExfatGeometry *g = &fs->geometry;
  int64_t clusters = div_round_up (stream->bytes, g->cluster_bytes);
  ExfatChain chain = { stream->first_cluster, clusters };

  for (int64_t i = 0; i < clusters; i++)
    {
      FsExtent *last = runs->len > 0 ? &g_array_index (runs, FsExtent, runs->len - 1) : NULL;
      uint32_t cluster;

      if (!exfat_co_next (fs, &chain, what, &cluster, error))
        return false;
      if (cluster == 0)
        return fs_corrupt (error, "%s: its chain ends after %" PRId64 " of %" PRId64 " clusters", what, i,
                           clusters);
      int64_t offset = cluster_offset (g, cluster);
      if (last != NULL && last->offset + last->bytes == offset)
        last->bytes += g->cluster_bytes;
      else if (runs->len == MAX_RUNS)
        return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "%s: more than %d pieces", what, MAX_RUNS);
      else
        g_array_append_val (runs, ((FsExtent){ offset, g->cluster_bytes }));
    }
  if (chain.cluster != EXFAT_END)
    return fs_corrupt (error, "%s: its chain goes on behind its end", what);
  return true;
}

static bool coroutine_fn
exfat_co_read_bitmap (Exfat *fs, const GArray *runs, GError **error)
{
  g_autofree uint8_t *bits = g_malloc (PIECE_BYTES);
  int64_t done = 0; /* bytes of the bitmap */

  for (guint i = 0; i < runs->len; i++)
    {
      FsExtent run = g_array_index (runs, FsExtent, i);

      for (int64_t at = 0, bytes; at < run.bytes && done < fs->bitmap.bytes; at += bytes, done += bytes)
        {
          bytes = MIN (MIN (PIECE_BYTES, run.bytes - at), fs->bitmap.bytes - done);
          int64_t count = MIN (bytes * 8, (int64_t)fs->geometry.clusters - done * 8);
          if (!fs_co_read_structure (fs->volume, run.offset + at, bytes, bits, "allocation bitmap", error)
              || !add_free (fs, bits, done * 8, count, error))
            return false;
        }
    }
  return true;
}

static bool coroutine_fn
exfat_co_read_free (FsVolume *volume, GError **error)
{
  g_auto (Exfat) fs = { .volume = volume, .fat_at = -1, .fat_piece = g_malloc (FAT_PIECE) };
  g_autoptr (GArray) bitmap_runs = g_array_new (FALSE, FALSE, sizeof (FsExtent));
  g_autoptr (GArray) upcase_runs = g_array_new (FALSE, FALSE, sizeof (FsExtent));
  char uuid[12];

  fs_extents_init (&fs.metadata, 4 * MAX_RUNS, 0);
  if (!exfat_geometry_decode (&fs.geometry, volume->head, volume->bytes, error))
    return false;
  g_snprintf (uuid, sizeof uuid, "%04X-%04X", fs.geometry.serial >> 16, fs.geometry.serial & 0xffff);
  fs_set_uuid (volume, uuid);
  if (!exfat_co_check_fat (&fs, error) || !exfat_co_read_root (&fs, error)
      || !exfat_co_map_stream (&fs, &fs.bitmap, "allocation bitmap", bitmap_runs, error)
      || !exfat_co_map_stream (&fs, &fs.upcase, "up-case table", upcase_runs, error))
    return false;
  fs_extents_finish (&fs.metadata);
  if (fs.metadata.incomplete)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "its metadata is in too many pieces");
  return exfat_co_read_bitmap (&fs, bitmap_runs, error);
}

const FsReader exfat_reader = {
  .name = "exfat",
  .co_probe = exfat_co_probe,
  .co_read_free = exfat_co_read_free,
};
