/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GUID partition tables ([UEFI] 5.3).
 *
 *   sector 0    protective MBR
 *   sector 1    header: CRC-32 of itself and of the entries; where its copy stands; the sectors partitions may have
 *   entries     behind it, as a rule 128 of 128 bytes
 *   …
 *   entries, header: the copy, at the end of the disk
 *
 * The primary table counts if it is valid, and a valid copy must say the same.  If it is not, the copy counts.
 */
#include "walk.h"

#include "byteorder.h"
#include "checked.h"
#include "crc32.h"
#include "refuse.h"

#include <string.h>

#define GPT_SIGNATURE     "EFI PART"
#define GPT_REVISION      0x00010000
#define HEADER_BYTES      92
#define MAX_ENTRY_BYTES   4096
#define MAX_ENTRIES_BYTES (1024 * 1024)
#define LEAST_SECTOR      512
#define LARGEST_SECTOR    4096

typedef struct
{
  uint8_t signature[8];
  Le32 revision;
  Le32 header_size;
  Le32 header_crc32;
  Le32 reserved;
  Le64 my_lba;
  Le64 alternate_lba;
  Le64 first_usable_lba;
  Le64 last_usable_lba;
  uint8_t disk_guid[16];
  Le64 entries_lba;
  Le32 entries;
  Le32 entry_size;
  Le32 entries_crc32;
} GptHeaderDisk;
G_STATIC_ASSERT (sizeof (GptHeaderDisk) == HEADER_BYTES);

typedef struct
{
  uint8_t type[16];
  uint8_t guid[16];
  Le64 first_lba;
  Le64 last_lba;
  Le64 attributes;
  uint8_t name[72];
} GptEntryDisk;
G_STATIC_ASSERT (sizeof (GptEntryDisk) == 128);

typedef struct
{
  uint64_t my_lba, alternate_lba, first_usable, last_usable, entries_lba;
  uint32_t entries, entry_size, entries_crc32;
  uint8_t disk_guid[16];
  uint8_t *entries_data; /* entries * entry_size bytes */
} GptHeader;

static void
gpt_header_clear (GptHeader *header)
{
  g_clear_pointer (&header->entries_data, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (GptHeader, gpt_header_clear)

/* Kinds of partitions whose content is that of something else than a file system: what marks of one there are were left
 * by whoever had the space before.  A name that is a reader's stands for what that reader finds. */
static const struct
{
  const char *type;
  const char *owner;
} owners[] = {
  { "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "a dynamic disk (LDM)" },
  { "af9b60a0-1431-4f62-bc68-3311714a69ad", "a dynamic disk (LDM)" },
  { "e75caf8f-f680-4cee-afa3-b001e56efc2d", "Storage Spaces" },
  { "558d43c5-a1ac-43c0-aac8-d1472b2923d1", "Storage Replica" },
  { "e3c9e316-0b5c-4db8-817d-f92df00215ae", "Windows (reserved)" },
  { "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "swap" },
  { "8da63339-0007-60c0-c436-083ac8230908", "Linux (reserved)" },
  { "a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID" },
  { "be9067b9-ea49-4f15-b4f6-f36f8c9e1818", "Linux RAID" },
  { "e6d6d379-f507-44c2-a23c-238f2a3df928", "LVM2" },
  { "ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS" },
  { "7ffec5c9-2d00-49b7-8941-3ea10a5586b7", "dm-crypt" },
  { "8c8f8eff-ac95-4770-814a-21994f2dbc8f", "VeraCrypt" },
  { "21686148-6449-6e6f-744e-656564454649", "a boot loader (BIOS boot)" },
  { "9e1a2d38-c612-4316-aa26-8b49521e5a8b", "a boot loader (PReP)" },
  { "83bd6b9d-7f41-11dc-be0b-001560b84f0f", "a boot loader (FreeBSD)" },
  { "85d5e45e-237c-11e1-b4b3-e89a8f7fc3a7", "a boot loader (MidnightBSD)" },
  { "fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS (kernel)" },
  { "cab6e88e-abf3-4102-a07a-d4bb9be3c1d3", "ChromeOS (firmware)" },
  { "2e0a753d-9e48-43b0-8337-b15192cb1b5e", "ChromeOS (reserved)" },
  { "d3bfe2de-3daf-11df-ba40-e3a556d89593", "a hibernated system (Rapid Start)" },
  { "aa31e02a-400f-11db-9590-000c2911d1b8", "VMware (VMFS)" },
  { "9d275380-40ad-11db-bf97-000c2911d1b8", "VMware (core dumps)" },
  { "9198effc-31c0-11db-8f78-000c2911d1b8", "VMware (reserved)" },
  { "381cfccc-7288-11e0-92ee-000c2911d0b2", "VMware (vSAN)" },
  { "77719a0c-a4a0-11e3-a47e-000c29745a24", "VMware (Virsto)" },
  { "53746f72-6167-11aa-aa11-00306543ecac", "Apple CoreStorage" },
  { "52414944-0000-11aa-aa11-00306543ecac", "Apple RAID" },
  { "52414944-5f4f-11aa-aa11-00306543ecac", "Apple RAID" },
  { "7c3457ef-0000-11aa-aa11-00306543ecac", "APFS" },
  { "6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS" },
  { "6a87c46f-1dd2-11b2-99a6-080020736631", "Solaris (swap)" },
  { "6a945a3b-1dd2-11b2-99a6-080020736631", "Solaris (reserved)" },
  { "516e7cb4-6ecf-11d6-8ff8-00022d09712b", "a FreeBSD disk label" },
  { "516e7cb5-6ecf-11d6-8ff8-00022d09712b", "FreeBSD (swap)" },
  { "516e7cb8-6ecf-11d6-8ff8-00022d09712b", "Vinum" },
  { "516e7cba-6ecf-11d6-8ff8-00022d09712b", "ZFS" },
  { "85d5e45a-237c-11e1-b4b3-e89a8f7fc3a7", "a MidnightBSD disk label" },
  { "85d5e45b-237c-11e1-b4b3-e89a8f7fc3a7", "MidnightBSD (swap)" },
  { "85d5e45c-237c-11e1-b4b3-e89a8f7fc3a7", "Vinum" },
  { "85d5e45d-237c-11e1-b4b3-e89a8f7fc3a7", "ZFS" },
  { "49f48d32-b10e-11dc-b99b-0019d1879648", "NetBSD (swap)" },
  { "49f48daa-b10e-11dc-b99b-0019d1879648", "NetBSD RAID" },
  { "2db519c4-b10f-11dc-b99b-0019d1879648", "NetBSD (concatenated)" },
  { "2db519ec-b10f-11dc-b99b-0019d1879648", "NetBSD (encrypted)" },
  { "824cc7a0-36a8-11e3-890a-952519ad3f61", "an OpenBSD disk label" },
  { "9d087404-1ca5-11dc-8817-01301bb8a9f5", "a DragonFly disk label" },
  { "37affc90-ef7d-4e96-91c3-2d7ae055b174", "GPFS" },
  { "75894c1e-3aeb-11d3-b7c1-7b03a0000000", "HP-UX" },
  { "c91818f9-8025-47af-89d2-f030d7000c2c", "Plan 9" },
  { "45b0969e-9b03-4f30-b4c6-b4b80ceff106", "Ceph" },
  { "45b0969e-9b03-4f30-b4c6-5ec00ceff106", "Ceph" },
  { "45b0969e-9b03-4f30-b4c6-35865ceff106", "Ceph" },
  { "4fbd7e29-9d25-41b8-afd0-5ec00ceff05d", "Ceph" },
  { "4fbd7e29-9d25-41b8-afd0-35865ceff05d", "Ceph" },
  { "cafecafe-9b03-4f30-b4c6-b4b80ceff106", "Ceph" },
  { "cafecafe-9b03-4f30-b4c6-5ec00ceff106", "Ceph" },
  { "cafecafe-9b03-4f30-b4c6-35865ceff106", "Ceph" },
};

static const char *
owner_of_type (const uint8_t *type)
{
  g_autofree char *text =
      g_strdup_printf ("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", type[3],
                       type[2], type[1], type[0], type[5], type[4], type[7], type[6], type[8], type[9],
                       type[10], type[11], type[12], type[13], type[14], type[15]);

  for (size_t i = 0; i < G_N_ELEMENTS (owners); i++)
    if (strcmp (owners[i].type, text) == 0)
      return owners[i].owner;
  return NULL;
}

static uint32_t
crc32_ieee (const uint8_t *data, size_t bytes)
{
  return ~fs_crc32 (~UINT32_C (0), data, bytes);
}

/* @sector: sector @lba of the disk, which has @sectors. */
static bool
decode_header (const uint8_t *sector, uint32_t sector_size, uint64_t lba, uint64_t sectors, GptHeader *header,
               GError **error)
{
  GptHeaderDisk disk;
  g_autofree uint8_t *summed = g_memdup2 (sector, sector_size);

  memcpy (&disk, sector, sizeof disk);
  if (memcmp (disk.signature, GPT_SIGNATURE, sizeof disk.signature) != 0)
    return fs_corrupt (error, "no signature");
  uint32_t header_size = le32_get (disk.header_size);
  if (header_size < HEADER_BYTES || header_size > sector_size)
    return fs_corrupt (error, "header of %u bytes", header_size);
  memset (summed + G_STRUCT_OFFSET (GptHeaderDisk, header_crc32), 0, sizeof disk.header_crc32);
  uint32_t crc = crc32_ieee (summed, header_size);
  if (crc != le32_get (disk.header_crc32))
    return fs_corrupt (error, "header checksum 0x%08x, expected 0x%08x", le32_get (disk.header_crc32), crc);
  if (le32_get (disk.revision) != GPT_REVISION)
    return fs_corrupt (error, "revision 0x%08x", le32_get (disk.revision));
  header->my_lba = le64_get (disk.my_lba);
  header->alternate_lba = le64_get (disk.alternate_lba);
  header->first_usable = le64_get (disk.first_usable_lba);
  header->last_usable = le64_get (disk.last_usable_lba);
  header->entries_lba = le64_get (disk.entries_lba);
  header->entries = le32_get (disk.entries);
  header->entry_size = le32_get (disk.entry_size);
  header->entries_crc32 = le32_get (disk.entries_crc32);
  memcpy (header->disk_guid, disk.disk_guid, sizeof header->disk_guid);

  if (header->my_lba != lba)
    return fs_corrupt (error, "it is said to be sector %" G_GUINT64_FORMAT, header->my_lba);
  if (header->alternate_lba >= sectors || header->alternate_lba == lba)
    return fs_corrupt (error, "its copy is said to be sector %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT,
                       header->alternate_lba, sectors);
  if (header->first_usable > header->last_usable || header->last_usable >= sectors)
    return fs_corrupt (error,
                       "usable sectors %" G_GUINT64_FORMAT "..%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT,
                       header->first_usable, header->last_usable, sectors);
  if (header->entry_size < sizeof (GptEntryDisk) || header->entry_size > MAX_ENTRY_BYTES
      || !is_power_of_two (header->entry_size) || header->entries == 0
      || header->entries > MAX_ENTRIES_BYTES / header->entry_size)
    return fs_corrupt (error, "%u entries of %u bytes", header->entries, header->entry_size);
  uint64_t entries_sectors =
      (uint64_t)div_round_up ((int64_t)header->entries * header->entry_size, sector_size);
  if (header->entries_lba < 2 || header->entries_lba >= sectors
      || entries_sectors > sectors - header->entries_lba
      || (header->entries_lba <= header->last_usable
          && header->first_usable < header->entries_lba + entries_sectors)
      || (lba >= header->entries_lba && lba < header->entries_lba + entries_sectors)
      || (lba >= header->first_usable && lba <= header->last_usable))
    return fs_corrupt (error, "entries at sector %" G_GUINT64_FORMAT " are not in a place of their own",
                       header->entries_lba);
  return true;
}

static bool coroutine_fn
gpt_co_read_one (FsVolume *disk, uint32_t sector_size, uint64_t lba, GptHeader *header, GError **error)
{
  uint64_t sectors = (uint64_t)disk->bytes / sector_size;
  g_autofree uint8_t *sector = g_malloc (sector_size);

  if (lba >= sectors)
    return fs_corrupt (error, "sector %" G_GUINT64_FORMAT " is past the end", lba);
  if (!fs_co_read_structure (disk, (int64_t)lba * sector_size, sector_size, sector, "header", error)
      || !decode_header (sector, sector_size, lba, sectors, header, error))
    return false;
  size_t bytes = (size_t)header->entries * header->entry_size;
  header->entries_data = g_malloc (bytes);
  if (!fs_co_read_structure (disk, (int64_t)header->entries_lba * sector_size, (int64_t)bytes,
                             header->entries_data, "entries", error))
    return false;
  uint32_t crc = crc32_ieee (header->entries_data, bytes);
  if (crc != header->entries_crc32)
    return fs_corrupt (error, "entries have checksum 0x%08x, expected 0x%08x", crc, header->entries_crc32);
  return true;
}

static bool
headers_agree (const GptHeader *primary, const GptHeader *copy)
{
  return copy->alternate_lba == primary->my_lba && copy->first_usable == primary->first_usable
         && copy->last_usable == primary->last_usable && copy->entries == primary->entries
         && copy->entry_size == primary->entry_size && copy->entries_crc32 == primary->entries_crc32
         && memcmp (copy->disk_guid, primary->disk_guid, sizeof copy->disk_guid) == 0;
}

static void
add_used (FsTable *table, const GptHeader *header)
{
  FsExtent one = { (int64_t)header->my_lba * table->sector_size, table->sector_size };
  FsExtent entries = { (int64_t)header->entries_lba * table->sector_size,
                       round_up ((int64_t)header->entries * header->entry_size, table->sector_size) };

  g_array_append_val (table->used, one);
  g_array_append_val (table->used, entries);
}

static bool
add_partitions (FsTable *table, const GptHeader *header, GError **error)
{
  static const uint8_t unused[16];

  for (uint32_t i = 0; i < header->entries; i++)
    {
      GptEntryDisk entry;

      memcpy (&entry, header->entries_data + (size_t)i * header->entry_size, sizeof entry);
      if (memcmp (entry.type, unused, sizeof unused) == 0)
        continue;
      uint64_t first = le64_get (entry.first_lba), last = le64_get (entry.last_lba);
      if (first > last || first < header->first_usable || last > header->last_usable)
        return fs_corrupt (error,
                           "GPT: partition %u has sectors %" G_GUINT64_FORMAT "..%" G_GUINT64_FORMAT
                           ", expected inside %" G_GUINT64_FORMAT "..%" G_GUINT64_FORMAT,
                           i + 1, first, last, header->first_usable, header->last_usable);
      FsPartition partition = {
        .number = (int)(i + 1),
        .offset = (int64_t)first * table->sector_size,
        .bytes = (int64_t)(last - first + 1) * table->sector_size,
        .owner = owner_of_type (entry.type),
      };
      g_array_append_val (table->partitions, partition);
    }
  return true;
}

static bool
has_signature_at (const FsVolume *disk, uint32_t sector_size)
{
  return memcmp (disk->head + sector_size, GPT_SIGNATURE, strlen (GPT_SIGNATURE)) == 0;
}

bool
fs_gpt_has_signature (const FsVolume *disk)
{
  return has_signature_at (disk, LEAST_SECTOR) || has_signature_at (disk, LARGEST_SECTOR);
}

static bool coroutine_fn
gpt_co_read_tables (FsVolume *disk, FsTable *table, GError **error)
{
  g_auto (GptHeader) primary = { 0 };
  g_auto (GptHeader) copy = { 0 };
  g_autoptr (GError) primary_error = NULL;
  g_autoptr (GError) copy_error = NULL;
  uint64_t last = (uint64_t)disk->bytes / table->sector_size - 1;
  bool has_primary = gpt_co_read_one (disk, table->sector_size, 1, &primary, &primary_error);
  uint64_t where = has_primary ? primary.alternate_lba : last;
  bool has_copy = gpt_co_read_one (disk, table->sector_size, where, &copy, &copy_error);

  if (!has_primary && !has_copy)
    return fs_corrupt (error, "GPT: primary: %s; copy at sector %" G_GUINT64_FORMAT ": %s",
                       primary_error->message, where, copy_error->message);
  if (has_primary && has_copy && !headers_agree (&primary, &copy))
    return fs_corrupt (error, "GPT: the table and its copy at sector %" G_GUINT64_FORMAT " differ", where);
  if (!has_primary && copy.alternate_lba != 1)
    return fs_corrupt (error,
                       "GPT: primary: %s; the copy at sector %" G_GUINT64_FORMAT " is that of another table",
                       primary_error->message, where);
  if (!has_primary)
    g_ptr_array_add (table->notes,
                     g_strdup_printf ("GPT: the primary table is damaged (%s); its copy at sector "
                                      "%" G_GUINT64_FORMAT " was used",
                                      primary_error->message, where));
  if (!has_copy)
    g_ptr_array_add (table->notes,
                     g_strdup_printf ("GPT: the copy at sector %" G_GUINT64_FORMAT " is damaged (%s)", where,
                                      copy_error->message));
  g_array_append_val (table->used, ((FsExtent){ 0, table->sector_size }));
  if (has_primary)
    add_used (table, &primary);
  if (has_copy)
    add_used (table, &copy);
  return add_partitions (table, has_primary ? &primary : &copy, error);
}

bool coroutine_fn
fs_gpt_co_read (FsVolume *disk, FsTable *table, GError **error)
{
  bool is_512 = has_signature_at (disk, LEAST_SECTOR), is_4096 = has_signature_at (disk, LARGEST_SECTOR);

  if (disk->bytes < 3 * LARGEST_SECTOR)
    return fs_corrupt (error, "GPT: the disk is too small for one");
  if (table->sector_size == 0)
    {
      /* With neither there may still be the copy at the end: of the usual size of sectors. */
      if (is_512 && is_4096)
        return fs_corrupt (error, "GPT: headers for sectors of 512 and of 4096 bytes");
      table->sector_size = is_4096 ? LARGEST_SECTOR : LEAST_SECTOR;
    }
  else if (table->sector_size == LEAST_SECTOR ? is_4096 && !is_512 : is_512 && !is_4096)
    return fs_corrupt (error, "GPT: for sectors of %d bytes, on a disk with sectors of %u bytes",
                       is_512 ? LEAST_SECTOR : LARGEST_SECTOR, table->sector_size);
  return gpt_co_read_tables (disk, table, error);
}
