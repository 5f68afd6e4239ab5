/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free clusters of FAT12, FAT16 and FAT32.
 *
 * Free is a cluster whose entry in the FAT is 0.  FAT has no journal and FAT12 not even a bit that says it was
 * cleanly unmounted, so the table is read as a whole and must make sense as a whole: all copies agree, every entry
 * is a cluster, the end of a chain or a mark, and no chain runs into a free cluster or into another chain.  The
 * count of free clusters in the FSInfo sector is a hint and is not looked at.
 */
#include "fs.h"

#include "bitset.h"
#include "checked.h"
#include "fat-spec.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

/* A multiple of the 3 bytes that two entries of FAT12 take. */
#define PIECE_BYTES (3 * 64 * 1024)

typedef struct
{
  int bits; /* of an entry: 12, 16, 32 */
  int64_t sector_bytes, cluster_bytes;
  int64_t bytes;                 /* of the file system */
  int64_t fat_offset, fat_bytes; /* of the first FAT, of one */
  unsigned fats, active_fat;
  bool is_mirrored;
  int64_t data_offset;
  uint32_t clusters;
  uint32_t root_cluster; /* FAT32, else 0 */
  uint8_t media, state, signature;
  const FatBootDisk *boot;
} FatGeometry;

typedef struct
{
  FsVolume *volume;
  FatGeometry geometry;
  uint8_t *free;   /* a bit for each entry: is 0 */
  uint8_t *target; /* is followed to from another one */
} FatTable;

static void
fat_table_clear (FatTable *table)
{
  g_free (table->free);
  g_free (table->target);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (FatTable, fat_table_clear)

/* --- boot sector --------------------------------------------------------------------------------------- */

static bool
sector_size_is_possible (uint32_t bytes)
{
  return bytes >= 512 && bytes <= 4096 && is_power_of_two (bytes);
}

static bool
media_is_possible (uint8_t media)
{
  return media == 0xf0 || media >= 0xf8;
}

static bool coroutine_fn
fat_co_probe (FsVolume *volume)
{
  const FatBootDisk *boot = (const void *)volume->head;

  return volume->head[FAT_END_OFFSET] == 0x55 && volume->head[FAT_END_OFFSET + 1] == 0xaa
         && (boot->jump[0] == 0xe9 || (boot->jump[0] == 0xeb && boot->jump[2] == 0x90))
         && sector_size_is_possible (le16_get (boot->sector_bytes)) && is_power_of_two (boot->cluster_sectors)
         && le16_get (boot->reserved_sectors) != 0 && boot->fats != 0 && media_is_possible (boot->media)
         && memcmp (volume->head + FAT_TO_GO_OFFSET, FAT_TO_GO_GUID, strlen (FAT_TO_GO_GUID)) != 0;
}

/* The fields that the layout follows from; the rest may differ between the boot sector and its copy. */
static bool
boot_sectors_agree (const FatBootDisk *a, const FatBootDisk *b)
{
  size_t start = offsetof (FatBootDisk, sector_bytes), end = offsetof (FatBootDisk, fat32.reserved);

  return memcmp ((const char *)a + start, (const char *)b + start, end - start) == 0;
}

static bool
decode_fat32_part (FatGeometry *g, const uint8_t *head, GError **error)
{
  const FatBootDisk *boot = g->boot;
  uint16_t flags = le16_get (boot->fat32.flags), backup = le16_get (boot->fat32.backup_sector);

  if (le16_get (boot->root_entries) != 0 || le16_get (boot->sectors_16) != 0)
    return fs_corrupt (error, "boot sector: fields of FAT16 are set beside those of FAT32");
  if (le16_get (boot->fat32.version) != 0)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: FAT32 version %#x, expected 0",
                      le16_get (boot->fat32.version));
  g->root_cluster = le32_get (boot->fat32.root_cluster);
  g->is_mirrored = (flags & FAT32_NOT_MIRRORED) == 0;
  g->active_fat = g->is_mirrored ? 0 : flags & FAT32_ACTIVE_MASK;
  if (g->active_fat >= g->fats)
    return fs_corrupt (error, "boot sector: FAT %u is the active one of %u", g->active_fat, g->fats);
  g->state = boot->fat32.state;
  g->signature = boot->fat32.signature;
  if (backup == 0 || backup == 0xffff)
    return true;
  if (backup >= le16_get (boot->reserved_sectors))
    return fs_corrupt (error, "boot sector: its copy in sector %u is not in the %u reserved ones", backup,
                       le16_get (boot->reserved_sectors));
  int64_t offset = backup * g->sector_bytes;
  if (offset + (int64_t)sizeof *boot > FS_HEAD_BYTES)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: its copy in sector %u is far away",
                      backup);
  if (!boot_sectors_agree (boot, (const void *)(head + offset)))
    return fs_corrupt (error, "boot sector: its copy in sector %u differs", backup);
  return true;
}

static int
entry_bits (uint32_t clusters)
{
  return clusters < FAT12_MIN_END ? 12 : clusters < FAT16_MIN_END ? 16 : 32;
}

/* "FAT12   " in the boot sector decides nothing; where it is there and names another width, somebody counted
 * clusters in another way. */
static bool
type_contradicts (const FatGeometry *g)
{
  const char *type = g->boot->fat16.type;

  return g->signature == FAT_SIGNATURE_LABEL
         && ((g->bits == 12 && memcmp (type, "FAT16 ", 6) == 0)
             || (g->bits == 16 && memcmp (type, "FAT12 ", 6) == 0));
}

static bool
fat_geometry_decode (FatGeometry *g, const uint8_t *head, int64_t volume_bytes, GError **error)
{
  const FatBootDisk *boot = (const void *)head;
  int64_t sector = le16_get (boot->sector_bytes);
  int64_t sectors_16 = le16_get (boot->sectors_16), sectors_32 = le32_get (boot->sectors_32);
  int64_t sectors = sectors_16 != 0 ? sectors_16 : sectors_32;
  bool is_fat32 = le16_get (boot->fat_sectors_16) == 0;
  int64_t fat_sectors = is_fat32 ? le32_get (boot->fat32.fat_sectors) : le16_get (boot->fat_sectors_16);
  int64_t root_bytes = (int64_t)le16_get (boot->root_entries) * FAT_DIR_ENTRY;

  *g = (FatGeometry){
    .sector_bytes = sector,
    .cluster_bytes = sector * boot->cluster_sectors,
    .bytes = sectors * sector,
    .fat_offset = le16_get (boot->reserved_sectors) * sector,
    .fat_bytes = fat_sectors * sector,
    .fats = boot->fats,
    .is_mirrored = true,
    .media = boot->media,
    .boot = boot,
  };
  if (sectors_16 != 0 && sectors_32 != 0 && sectors_16 != sectors_32)
    return fs_corrupt (error, "boot sector: two sizes, %" PRId64 " and %" PRId64 " sectors", sectors_16,
                       sectors_32);
  if (g->bytes > volume_bytes)
    return fs_corrupt (error, "boot sector: %" PRId64 " bytes, the volume has %" PRId64, g->bytes,
                       volume_bytes);
  if (g->fats > 2)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: %u FATs, expected 1 or 2", g->fats);
  if (is_fat32 && !decode_fat32_part (g, head, error))
    return false;
  if (!is_fat32)
    {
      g->state = boot->fat16.state;
      g->signature = boot->fat16.signature;
      if (root_bytes == 0)
        return fs_corrupt (error, "boot sector: no room for a root directory");
    }
  g->data_offset = g->fat_offset + g->fats * g->fat_bytes + round_up (root_bytes, sector);
  if (g->data_offset >= g->bytes)
    return fs_corrupt (error, "boot sector: FAT and root directory take %" PRId64 " of %" PRId64 " bytes",
                       g->data_offset, g->bytes);
  int64_t clusters = (g->bytes - g->data_offset) / g->cluster_bytes;
  if (clusters == 0 || clusters >= FAT32_MAX)
    return fs_corrupt (error, "boot sector: %" PRId64 " clusters", clusters);
  g->clusters = clusters;
  g->bits = entry_bits (g->clusters);
  if (is_fat32 != (g->bits == 32))
    return fs_corrupt (error, "boot sector: laid out as %s, which %u clusters are not",
                       is_fat32 ? "FAT32" : "FAT16", g->clusters);
  if (type_contradicts (g))
    return fs_corrupt (error, "boot sector: %u clusters are FAT%d, it says \"%.5s\"", g->clusters, g->bits,
                       boot->fat16.type);
  if ((clusters + FAT_FIRST) * g->bits > g->fat_bytes * 8)
    return fs_corrupt (error, "boot sector: a FAT of %" PRId64 " bytes has no room for %u clusters",
                       g->fat_bytes, g->clusters);
  if (is_fat32 && (g->root_cluster < FAT_FIRST || g->root_cluster >= g->clusters + FAT_FIRST))
    return fs_corrupt (error, "boot sector: root directory in cluster %u of %u", g->root_cluster,
                       g->clusters);
  return true;
}

/* Without the signature the byte is not a state, and nothing says whether a FAT12 is mounted. */
static bool
check_boot_state (const FatGeometry *g, GError **error)
{
  if (g->signature != FAT_SIGNATURE_LABEL && g->signature != FAT_SIGNATURE_SERIAL)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "boot sector: no extended boot signature, found %#x",
                      g->signature);
  if (g->state & (FAT_STATE_DIRTY | FAT_STATE_NEEDS_SURFACE))
    return fs_refuse (error, VHDKIT_ERROR_IN_USE,
                      "mounted or not cleanly unmounted (boot sector: state %#x, expected 0)", g->state);
  return true;
}

/* --- the table ----------------------------------------------------------------------------------------- */

/* Entry @i of a piece that starts with an even one. */
static inline uint32_t
fat_entry (const uint8_t *piece, uint32_t i, int bits)
{
  if (bits == 32)
    return le32_get (((const Le32 *)piece)[i]) & 0x0fffffff;
  if (bits == 16)
    return le16_get (((const Le16 *)piece)[i]);
  const uint8_t *pair = piece + i / 2 * 3;
  return i % 2 == 0 ? pair[0] | (pair[1] & 0x0f) << 8 : pair[1] >> 4 | pair[2] << 4;
}

static bool
check_first_entries (const FatGeometry *g, const uint8_t *piece, GError **error)
{
  uint32_t media = fat_entry (piece, 0, g->bits), state = fat_entry (piece, 1, g->bits);
  uint32_t clean = g->bits == 32 ? FAT32_CLEAN : FAT16_CLEAN;
  uint32_t no_error = g->bits == 32 ? FAT32_NO_ERROR : FAT16_NO_ERROR;

  if ((media & 0xff) != g->media)
    return fs_corrupt (error, "FAT: entry 0 is %#x, expected media type %#x", media, g->media);
  if (g->bits == 12)
    return true;
  if (!(state & clean))
    return fs_refuse (error, VHDKIT_ERROR_IN_USE, "mounted or not cleanly unmounted (FAT: entry 1 is %#x)",
                      state);
  if (!(state & no_error))
    return fs_refuse (error, VHDKIT_ERROR_IN_USE, "I/O errors were seen on it (FAT: entry 1 is %#x)", state);
  return true;
}

static inline void
set_bit (uint8_t *bits, uint32_t index)
{
  bits[index / 8] |= 1 << index % 8;
}

static inline bool
get_bit (const uint8_t *bits, uint32_t index)
{
  return bits[index / 8] >> index % 8 & 1;
}

static bool
note_entry (FatTable *table, uint32_t cluster, uint32_t value, GError **error)
{
  const FatGeometry *g = &table->geometry;
  uint32_t bad = g->bits == 32 ? 0x0ffffff7 : (1u << g->bits) - 9;

  if (value == 0)
    set_bit (table->free, cluster);
  else if (value >= FAT_FIRST && value < g->clusters + FAT_FIRST)
    {
      if (get_bit (table->target, value))
        return fs_corrupt (error, "FAT: two chains meet in cluster %u", value);
      set_bit (table->target, value);
    }
  else if (value < bad)
    return fs_corrupt (error, "FAT: entry %u is %#x, which is no cluster", cluster, value);
  return true;
}

/* Entries [@first, +@count) from @piece. */
static bool
note_entries (FatTable *table, const uint8_t *piece, uint32_t first, uint32_t count, GError **error)
{
  int bits = table->geometry.bits;

  for (uint32_t i = first == 0 ? FAT_FIRST : 0; i < count; i++)
    if (!note_entry (table, first + i, fat_entry (piece, i, bits), error))
      return false;
  return true;
}

static bool coroutine_fn
fat_co_read_piece (FatTable *table, unsigned fat, int64_t at, int64_t bytes, uint8_t *buf, GError **error)
{
  const FatGeometry *g = &table->geometry;

  return fs_co_read_structure (table->volume, g->fat_offset + fat * g->fat_bytes + at, bytes, buf, "FAT",
                               error);
}

static bool coroutine_fn
fat_co_read_table (FatTable *table, GError **error)
{
  const FatGeometry *g = &table->geometry;
  g_autofree uint8_t *piece = g_malloc (PIECE_BYTES), *copy = g_malloc (PIECE_BYTES);
  /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): 12, 16 or 32 */
  uint32_t entries = g->clusters + FAT_FIRST, per_piece = PIECE_BYTES / 3 * 8 / g->bits * 3;

  for (uint32_t first = 0; first < entries; first += per_piece)
    {
      uint32_t count = MIN (per_piece, entries - first);
      int64_t at = (int64_t)first * g->bits / 8, bytes = div_round_up ((int64_t)count * g->bits, 8);

      if (!fat_co_read_piece (table, g->active_fat, at, bytes, piece, error))
        return false;
      if (g->is_mirrored && g->fats == 2)
        {
          if (!fat_co_read_piece (table, 1, at, bytes, copy, error))
            return false;
          if (memcmp (piece, copy, bytes) != 0)
            return fs_corrupt (error, "the two FATs differ in their entries %u to %u", first,
                               first + count - 1);
        }
      if (first == 0 && !check_first_entries (g, piece, error))
        return false;
      if (!note_entries (table, piece, first, count, error))
        return false;
    }
  return true;
}

static bool
check_chains (const FatTable *table, GError **error)
{
  const FatGeometry *g = &table->geometry;
  uint32_t entries = g->clusters + FAT_FIRST;

  for (uint32_t i = 0; i < div_round_up (entries, 8); i++)
    if (table->free[i] & table->target[i])
      return fs_corrupt (error, "FAT: a chain runs into a free cluster (one of %u to %u)", i * 8, i * 8 + 7);
  if (g->bits != 32)
    return true;
  if (get_bit (table->free, g->root_cluster) || get_bit (table->target, g->root_cluster))
    return fs_corrupt (error, "FAT: cluster %u does not start the root directory", g->root_cluster);
  return true;
}

static void
add_free (const FatTable *table)
{
  const FatGeometry *g = &table->geometry;
  uint32_t entries = g->clusters + FAT_FIRST;
  bool is_free;

  for (size_t at = FAT_FIRST, run; at < entries; at += run)
    {
      run = bitset_run (table->free, at, entries, &is_free, BITSET_LSB_FIRST);
      if (is_free)
        fs_add_free (table->volume, g->data_offset + (int64_t)(at - FAT_FIRST) * g->cluster_bytes,
                     (int64_t)run * g->cluster_bytes);
    }
}

/* --- the reader ---------------------------------------------------------------------------------------- */

static void
describe (FsVolume *volume, const FatGeometry *g)
{
  const char *label = g->bits == 32 ? g->boot->fat32.label : g->boot->fat16.label;
  uint32_t serial = le32_get (g->bits == 32 ? g->boot->fat32.serial : g->boot->fat16.serial);
  char text[12];

  fs_set_type (volume, g->bits == 32 ? "fat32" : g->bits == 16 ? "fat16" : "fat12");
  g_snprintf (text, sizeof text, "%04X-%04X", serial >> 16, serial & 0xffff);
  fs_set_uuid (volume, text);
  if (g->signature != FAT_SIGNATURE_LABEL)
    return;
  memcpy (text, label, 11);
  text[11] = '\0';
  g_strchomp (text);
  if (strcmp (text, "NO NAME") != 0)
    fs_set_label (volume, text, sizeof text);
}

static bool coroutine_fn
fat_co_read_free (FsVolume *volume, GError **error)
{
  g_auto (FatTable) table = { .volume = volume };
  FatGeometry *g = &table.geometry;

  if (!fat_geometry_decode (g, volume->head, volume->bytes, error))
    return false;
  describe (volume, g);
  if (!check_boot_state (g, error))
    return false;
  /* Each at most 1/4096 of the volume, and 32 MiB. */
  table.free = g_try_malloc0 (div_round_up ((int64_t)g->clusters + FAT_FIRST, 8));
  table.target = g_try_malloc0 (div_round_up ((int64_t)g->clusters + FAT_FIRST, 8));
  if (table.free == NULL || table.target == NULL)
    return fs_refuse (error, VHDKIT_ERROR_IO, "no memory for %u clusters", g->clusters);
  if (!fat_co_read_table (&table, error) || !check_chains (&table, error))
    return false;
  add_free (&table);
  return true;
}

const FsReader fat_reader = {
  .name = "fat",
  .co_probe = fat_co_probe,
  .co_read_free = fat_co_read_free,
};
