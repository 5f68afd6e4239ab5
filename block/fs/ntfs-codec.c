/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ntfs-codec.h"

#include "checked.h"
#include "refuse.h"

#include <inttypes.h>

/* --- boot sector --------------------------------------------------------------------------------------- */

static bool
fields_of_fat_are_zero (const NtfsBootDisk *boot)
{
  uint32_t sum = le16_get (boot->fat_zero_fat_sectors) | le32_get (boot->fat_zero_sectors_32);

  for (size_t i = 0; i < sizeof boot->fat_zeros; i++)
    sum |= boot->fat_zeros[i];
  return sum == 0;
}

/* Clusters of more than 128 sectors do not fit into the byte and are told by their logarithm.  0: neither. */
static int64_t
decode_cluster_sectors (uint8_t stored)
{
  if (stored > 0x80)
    return stored >= 0xf0 ? INT64_C (1) << (256 - stored) : 0;
  return is_power_of_two (stored) ? stored : 0;
}

/* Of a record or an index block.  0: makes no sense. */
static int64_t
decode_record_bytes (int8_t clusters, int64_t cluster_bytes)
{
  int64_t bytes = clusters > 0 ? clusters * cluster_bytes : clusters > -31 ? INT64_C (1) << -clusters : 0;

  return bytes >= NTFS_STRIDE && bytes <= NTFS_MAX_RECORD_BYTES && is_power_of_two (bytes) ? bytes : 0;
}

bool
ntfs_geometry_decode (NtfsGeometry *g, const uint8_t *boot_sector, int64_t volume_bytes, GError **error)
{
  const NtfsBootDisk *boot = (const void *)boot_sector;
  uint32_t sector = le16_get (boot->sector_bytes);
  int64_t cluster_sectors = decode_cluster_sectors (boot->cluster_sectors);
  uint64_t sectors = le64_get (boot->sectors), mft = le64_get (boot->mft_lcn),
           mirror = le64_get (boot->mirror_lcn);

  if (sector < 256 || sector > 4096 || !is_power_of_two (sector))
    return fs_corrupt (error, "boot sector: sectors of %u bytes", sector);
  if (cluster_sectors == 0 || cluster_sectors * sector > NTFS_MAX_CLUSTER_BYTES)
    return fs_corrupt (error, "boot sector: sectors in a cluster: %#x", boot->cluster_sectors);
  if (!fields_of_fat_are_zero (boot))
    return fs_corrupt (error, "boot sector: fields of FAT are not zero");
  /* One more: the copy of the boot sector. */
  if (sectors >= (uint64_t)volume_bytes / sector)
    return fs_corrupt (error,
                       "boot sector: %" PRIu64
                       " sectors of %u bytes and the copy of this one, the volume has %" PRId64 " bytes",
                       sectors, sector, volume_bytes);
  *g = (NtfsGeometry){
    .sector_bytes = sector,
    .cluster_bytes = cluster_sectors * sector,
    .record_bytes = decode_record_bytes (boot->record_clusters, cluster_sectors * sector),
    .index_bytes = decode_record_bytes (boot->index_clusters, cluster_sectors * sector),
    .sectors = (int64_t)sectors,
    .clusters = (int64_t)sectors / cluster_sectors,
    .serial = le64_get (boot->serial),
  };
  if (g->record_bytes == 0 || g->index_bytes == 0)
    return fs_corrupt (error, "boot sector: sizes of records and index blocks: %d and %d",
                       boot->record_clusters, boot->index_clusters);
  if (mft == 0 || mirror == 0 || mft == mirror || mft >= (uint64_t)g->clusters
      || mirror >= (uint64_t)g->clusters)
    return fs_corrupt (
        error, "boot sector: MFT in cluster %" PRIu64 " and its copy in cluster %" PRIu64 " of %" PRId64, mft,
        mirror, g->clusters);
  g->mft_lcn = (int64_t)mft;
  g->mirror_lcn = (int64_t)mirror;
  return true;
}

/* --- records ------------------------------------------------------------------------------------------- */

bool
ntfs_fixup (uint8_t *record, int64_t bytes, const char magic[4])
{
  const NtfsUpdateDisk *update = (const void *)record;
  uint32_t offset = le16_get (update->usa_offset), count = le16_get (update->usa_count);

  if (memcmp (update->magic, magic, 4) != 0 || count != bytes / NTFS_STRIDE + 1 || offset % 2 != 0
      || offset < sizeof *update || offset + count * 2 > (uint32_t)bytes - 2)
    return false;
  const uint8_t *array = record + offset;
  for (int64_t i = 1; i < count; i++)
    if (memcmp (record + i * NTFS_STRIDE - 2, array, 2) != 0)
      return false;
  for (int64_t i = 1; i < count; i++)
    memcpy (record + i * NTFS_STRIDE - 2, array + 2 * i, 2);
  return true;
}

bool
ntfs_record_is_valid (const uint8_t *record, int64_t bytes)
{
  const NtfsRecordDisk *disk = (const void *)record;
  uint32_t start = le16_get (disk->attributes_offset), used = le32_get (disk->bytes_used);

  return used <= bytes && le32_get (disk->bytes_allocated) == bytes && start >= sizeof *disk && start % 8 == 0
         && start + 4 <= used;
}

static bool
decode_resident (const NtfsAttributeDisk *disk, uint32_t bytes, NtfsAttribute *attribute)
{
  if (bytes < NTFS_RESIDENT_HEADER_BYTES)
    return false;
  uint32_t offset = le16_get (disk->resident.value_offset);

  attribute->is_resident = true;
  attribute->value_bytes = le32_get (disk->resident.value_bytes);
  attribute->value = (const uint8_t *)disk + offset;
  attribute->data_bytes = attribute->initialized_bytes = attribute->value_bytes;
  return offset >= NTFS_RESIDENT_HEADER_BYTES && offset <= bytes && attribute->value_bytes <= bytes - offset;
}

static bool
decode_non_resident (const NtfsAttributeDisk *disk, uint32_t bytes, NtfsAttribute *attribute)
{
  if (bytes < sizeof *disk)
    return false;
  uint32_t offset = le16_get (disk->non_resident.runs_offset);

  attribute->lowest_vcn = (int64_t)le64_get (disk->non_resident.lowest_vcn);
  attribute->highest_vcn = (int64_t)le64_get (disk->non_resident.highest_vcn);
  attribute->allocated_bytes = (int64_t)le64_get (disk->non_resident.allocated_bytes);
  attribute->data_bytes = (int64_t)le64_get (disk->non_resident.data_bytes);
  attribute->initialized_bytes = (int64_t)le64_get (disk->non_resident.initialized_bytes);
  if (offset < sizeof *disk || offset > bytes || attribute->lowest_vcn < 0
      || attribute->highest_vcn < attribute->lowest_vcn - 1)
    return false;
  if (attribute->lowest_vcn == 0
      && (attribute->initialized_bytes < 0 || attribute->initialized_bytes > attribute->data_bytes
          || attribute->data_bytes > attribute->allocated_bytes))
    return false;
  attribute->value = (const uint8_t *)disk + offset;
  attribute->value_bytes = bytes - offset;
  return true;
}

NtfsFound
ntfs_next_attribute (const uint8_t *record, uint32_t *at, NtfsAttribute *attribute)
{
  const NtfsRecordDisk *header = (const void *)record;
  uint32_t used = le32_get (header->bytes_used);
  uint32_t offset = *at == 0 ? le16_get (header->attributes_offset) : *at;
  const NtfsAttributeDisk *disk = (const void *)(record + offset);

  if (offset > used - 4)
    return NTFS_BAD;
  if (le32_get (disk->type) == NTFS_AT_END)
    return NTFS_NOT_FOUND;
  if (used - offset < NTFS_ATTRIBUTE_HEADER_BYTES)
    return NTFS_BAD;
  uint32_t bytes = le32_get (disk->bytes), name_offset = le16_get (disk->name_offset);
  if (bytes < NTFS_ATTRIBUTE_HEADER_BYTES || bytes % 8 != 0 || bytes > used - offset
      || (disk->name_characters != 0
          && (name_offset > bytes || disk->name_characters * 2u > bytes - name_offset)))
    return NTFS_BAD;
  *attribute = (NtfsAttribute){
    .type = le32_get (disk->type),
    .flags = le16_get (disk->flags),
    .name = (const uint8_t *)disk + name_offset,
    .name_characters = disk->name_characters,
  };
  *at = offset + bytes;
  if (disk->is_non_resident > 1)
    return NTFS_BAD;
  return (disk->is_non_resident ? decode_non_resident (disk, bytes, attribute)
                                : decode_resident (disk, bytes, attribute))
             ? NTFS_FOUND
             : NTFS_BAD;
}

bool
ntfs_name_is (const uint8_t *utf16, unsigned characters, const char *name, bool ignore_case)
{
  if (strlen (name != NULL ? name : "") != characters)
    return false;
  for (unsigned i = 0; i < characters; i++)
    {
      char found = (char)utf16[2 * i];

      if (utf16[2 * i + 1] != 0
          || (ignore_case ? g_ascii_tolower (found) != g_ascii_tolower (name[i]) : found != name[i]))
        return false;
    }
  return true;
}

/* --- runs ---------------------------------------------------------------------------------------------- */

/* A little-endian integer of 0 to 8 @bytes, signed. */
static int64_t
decode_signed (const uint8_t *at, unsigned bytes)
{
  uint64_t value = 0;

  if (bytes == 0)
    return 0;
  for (unsigned i = 0; i < bytes; i++)
    value |= (uint64_t)at[i] << 8 * i;
  unsigned unused = 64 - 8 * bytes;
  return (int64_t)(value << unused) >> unused;
}

int64_t
ntfs_runs_end (const GArray *runs)
{
  if (runs->len == 0)
    return 0;
  const NtfsRun *last = &g_array_index (runs, NtfsRun, runs->len - 1);
  return last->vcn + last->clusters;
}

bool
ntfs_runs_append (GArray *runs, const NtfsAttribute *attribute, int64_t clusters)
{
  const uint8_t *at = attribute->value, *end = at + attribute->value_bytes;
  int64_t vcn = ntfs_runs_end (runs), lcn = 0;

  if (attribute->is_resident || attribute->lowest_vcn != vcn)
    return false;
  while (at < end && *at != 0)
    {
      unsigned length_bytes = *at & 0x0f, lcn_bytes = *at >> 4;
      NtfsRun run = { .vcn = vcn, .lcn = -1 };

      at++;
      if (length_bytes == 0 || length_bytes > 8 || lcn_bytes > 8
          || length_bytes + lcn_bytes > (size_t)(end - at))
        return false;
      run.clusters = decode_signed (at, length_bytes);
      if (run.clusters <= 0 || !checked_add (vcn, run.clusters, &vcn))
        return false;
      if (lcn_bytes != 0)
        {
          if (!checked_add (lcn, decode_signed (at + length_bytes, lcn_bytes), &lcn) || lcn < 0
              || lcn > clusters || run.clusters > clusters - lcn)
            return false;
          run.lcn = lcn;
        }
      if (runs->len == NTFS_MAX_RUNS)
        return false;
      g_array_append_val (runs, run);
      at += length_bytes + lcn_bytes;
    }
  return at < end && vcn - 1 == attribute->highest_vcn;
}

const NtfsRun *
ntfs_runs_find (const GArray *runs, int64_t vcn)
{
  guint low = 0, high = runs->len - 1;

  while (low < high)
    {
      guint middle = low + (high - low + 1) / 2;

      if (g_array_index (runs, NtfsRun, middle).vcn <= vcn)
        low = middle;
      else
        high = middle - 1;
    }
  return &g_array_index (runs, NtfsRun, low);
}
