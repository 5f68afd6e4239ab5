/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MBR partition tables, with logical partitions.
 *
 *   sector 0             446: four entries of 16 bytes, 510: 55 AA
 *   extended partition   a chain of sectors like it (EBR).  In each, entry 0 is a logical partition, counted from that
 *                        sector; entry 1 is the place of the next EBR, counted from the start of the extended partition.
 */
#include "walk.h"

#include "byteorder.h"
#include "checked.h"

#include <string.h>

#define SIGNATURE_OFFSET  510
#define ENTRIES_OFFSET    446
#define ENTRIES           4
#define FIRST_LOGICAL     5
#define MAX_LOGICAL       128
#define MBR_READ_BYTES    512
#define TYPE_PROTECTIVE   0xee
#define IS_EXTENDED(type) ((type) == 0x05 || (type) == 0x0f || (type) == 0x85)

typedef struct
{
  uint8_t status;
  uint8_t chs_first[3];
  uint8_t type;
  uint8_t chs_last[3];
  Le32 first_sector;
  Le32 sectors;
} MbrEntryDisk;
G_STATIC_ASSERT (sizeof (MbrEntryDisk) == 16);

typedef struct
{
  uint8_t type;
  int64_t offset, bytes; /* the offset as it stands there: from where is not its own matter */
} MbrEntry;

/* As in a GPT (gpt.c). */
static const struct
{
  uint8_t type;
  const char *owner;
} owners[] = {
  { 0x00, "nobody knows whom (an unused entry)" },
  { 0x41, "a boot loader (PReP)" },
  { 0x42, "a dynamic disk (LDM)" },
  { 0x82, "swap" },
  { 0x84, "a hibernated system" },
  { 0x86, "a volume set (Windows NT)" },
  { 0x87, "a volume set (Windows NT)" },
  { 0x8e, "LVM2" },
  { 0xa0, "a hibernated system" },
  { 0xa2, "a boot loader (SoC)" },
  { 0xa5, "a FreeBSD disk label" },
  { 0xa6, "an OpenBSD disk label" },
  { 0xa7, "a NeXTSTEP disk label" },
  { 0xa9, "a NetBSD disk label" },
  { 0xb7, "BSDI" },
  { 0xb8, "BSDI (swap)" },
  { 0xbf, "a Solaris disk label" },
  { 0xc6, "a volume set (Windows NT)" },
  { 0xc7, "a volume set (Windows NT)" },
  { 0xda, "nobody knows whom (not a file system)" },
  { 0xe8, "LUKS" },
  { 0xee, "a GPT" },
  { 0xfb, "VMware (VMFS)" },
  { 0xfc, "VMware (core dumps)" },
  { 0xfd, "Linux RAID" },
};

static const char *
owner_of_type (uint8_t type)
{
  for (size_t i = 0; i < G_N_ELEMENTS (owners); i++)
    if (owners[i].type == type)
      return owners[i].owner;
  return NULL;
}

/* false: the sector is none that holds partition entries. */
static bool
decode_sector (const uint8_t *sector, uint32_t sector_size, MbrEntry entries[ENTRIES])
{
  if (sector[SIGNATURE_OFFSET] != 0x55 || sector[SIGNATURE_OFFSET + 1] != 0xaa)
    return false;
  for (int i = 0; i < ENTRIES; i++)
    {
      MbrEntryDisk disk;

      memcpy (&disk, sector + ENTRIES_OFFSET + i * sizeof disk, sizeof disk);
      if (disk.status != 0 && disk.status != 0x80)
        return false;
      entries[i].type = disk.type;
      entries[i].offset = (int64_t)le32_get (disk.first_sector) * sector_size;
      entries[i].bytes = (int64_t)le32_get (disk.sectors) * sector_size;
    }
  return true;
}

FsMbrKind
fs_mbr_classify (const uint8_t *sector)
{
  MbrEntry entries[ENTRIES];
  int used = 0, protective = 0;

  if (!decode_sector (sector, 512, entries))
    return FS_MBR_NONE;
  for (int i = 0; i < ENTRIES; i++)
    {
      used += entries[i].bytes > 0;
      protective += entries[i].bytes > 0 && entries[i].type == TYPE_PROTECTIVE;
    }
  if (used == 0)
    return FS_MBR_EMPTY;
  if (protective == 0)
    return FS_MBR_PARTITIONS;
  return used == 1 ? FS_MBR_PROTECTIVE : FS_MBR_HYBRID;
}

static bool
check_inside (int number, int64_t offset, int64_t bytes, int64_t start, int64_t end, GError **error)
{
  if (offset >= start && offset <= end && bytes <= end - offset)
    return true;
  g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
               "MBR: partition %d has %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT
               ", expected inside %" G_GINT64_FORMAT "..%" G_GINT64_FORMAT,
               number, bytes, offset, start, end);
  return false;
}

static void
add_partition (FsTable *table, int number, uint8_t type, int64_t offset, int64_t bytes)
{
  FsPartition partition = { number, offset, bytes, owner_of_type (type) };

  g_array_append_val (table->partitions, partition);
}

static bool
was_seen (const FsTable *table, int64_t offset)
{
  for (guint i = 0; i < table->used->len; i++)
    if (g_array_index (table->used, FsExtent, i).offset == offset)
      return true;
  return false;
}

static bool coroutine_fn
mbr_co_read_logical (FsVolume *disk, FsTable *table, const MbrEntry *extended, GError **error)
{
  int64_t end = extended->offset + extended->bytes;
  int64_t ebr = extended->offset;

  for (int number = FIRST_LOGICAL;; number++)
    {
      uint8_t sector[MBR_READ_BYTES];
      MbrEntry entries[ENTRIES];

      if (was_seen (table, ebr))
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                       "MBR: the chain of logical partitions comes back to offset %" G_GINT64_FORMAT, ebr);
          return false;
        }
      if (number >= FIRST_LOGICAL + MAX_LOGICAL)
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "MBR: more than %d logical partitions",
                       MAX_LOGICAL);
          return false;
        }
      g_array_append_val (table->used, ((FsExtent){ ebr, table->sector_size }));
      if (!fs_co_read_structure (disk, ebr, sizeof sector, sector, "MBR: extended boot record", error))
        return false;
      if (!decode_sector (sector, table->sector_size, entries) || entries[2].bytes > 0 || entries[3].bytes > 0
          || IS_EXTENDED (entries[0].type))
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                       "MBR: no extended boot record at offset %" G_GINT64_FORMAT ", where one is said to be",
                       ebr);
          return false;
        }
      if (entries[0].bytes > 0)
        {
          if (!check_inside (number, ebr + entries[0].offset, entries[0].bytes, ebr, end, error))
            return false;
          add_partition (table, number, entries[0].type, ebr + entries[0].offset, entries[0].bytes);
        }
      if (entries[1].bytes == 0)
        return true;
      ebr = extended->offset + entries[1].offset;
      if (!IS_EXTENDED (entries[1].type)
          || !check_inside (number + 1, ebr, table->sector_size, extended->offset, end, error))
        {
          if (error != NULL && *error == NULL)
            g_set_error (
                error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                "MBR: extended boot record %d: type 0x%02x for the next one, expected an extended partition",
                number - FIRST_LOGICAL, entries[1].type);
          return false;
        }
    }
}

bool coroutine_fn
fs_mbr_co_read (FsVolume *disk, FsTable *table, GError **error)
{
  MbrEntry entries[ENTRIES];
  const MbrEntry *extended = NULL;

  g_array_append_val (table->used, ((FsExtent){ 0, table->sector_size }));
  if (!decode_sector (disk->head, table->sector_size, entries))
    g_return_val_if_reached (false);
  for (int i = 0; i < ENTRIES; i++)
    {
      if (entries[i].bytes == 0)
        continue;
      if (!check_inside (i + 1, entries[i].offset, entries[i].bytes, table->sector_size, disk->bytes, error))
        return false;
      if (!IS_EXTENDED (entries[i].type))
        add_partition (table, i + 1, entries[i].type, entries[i].offset, entries[i].bytes);
      else if (extended == NULL)
        extended = &entries[i];
      else
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "MBR: more than one extended partition");
          return false;
        }
    }
  if (extended == NULL)
    return true;
  for (guint i = 0; i < table->partitions->len; i++)
    {
      const FsPartition *primary = &g_array_index (table->partitions, FsPartition, i);

      if (ranges_overlap (primary->offset, primary->bytes, extended->offset, extended->bytes))
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                       "MBR: partition %d overlaps the extended partition", primary->number);
          return false;
        }
    }
  return mbr_co_read_logical (disk, table, extended, error);
}
