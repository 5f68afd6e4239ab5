/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What other writers of VHDX leave, and what a killed process does; written without the library's help. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "images.h"

#define KIB       INT64_C (1024)
#define MIB       (1024 * KIB)
#define ENTRY_MAX 64 /* entries of a table that are looked at; ours have few */

typedef enum
{
  NOT_PRESENT = 0,
  UNDEFINED = 1,
  ZERO = 2,
  UNMAPPED = 3,
  FULLY_PRESENT = 6,
  PARTIALLY_PRESENT = 7,
} State;

typedef struct
{
  int fd;
  int64_t file_bytes, bat_offset;
  int64_t disk_bytes, block_size, sector;
  bool has_parent;
  int64_t ratio, blocks;
  int64_t metadata_offset;
} Vhdx;

static const uint8_t bat_guid[16] = { 0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42,
                                      0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08 };
static const uint8_t metadata_guid[16] = { 0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47, 0x9A, 0x4B,
                                           0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E };
static const uint8_t parameters_guid[16] = { 0x37, 0x67, 0xA1, 0xCA, 0x36, 0xFA, 0x43, 0x4D,
                                             0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B };
static const uint8_t size_guid[16] = { 0x24, 0x42, 0xA5, 0x2F, 0x1B, 0xCD, 0x76, 0x48,
                                       0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8 };
static const uint8_t id_guid[16] = { 0xAB, 0x12, 0xCA, 0xBE, 0xE6, 0xB2, 0x23, 0x45,
                                     0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46 };
static const uint8_t physical_guid[16] = { 0xC7, 0x48, 0xA3, 0xCD, 0x5D, 0x44, 0x71, 0x44,
                                           0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56 };
static const uint8_t sector_guid[16] = { 0x1D, 0xBF, 0x41, 0x81, 0x6F, 0xA9, 0x09, 0x47,
                                         0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F };

static uint64_t
get_le (const uint8_t *data, int bytes)
{
  uint64_t value = 0;

  for (int i = bytes; i-- > 0;)
    value = value << 8 | data[i];
  return value;
}

static void
read_at (const Vhdx *vhdx, void *data, int64_t bytes, int64_t offset)
{
  g_assert_cmpint (pread (vhdx->fd, data, bytes, offset), ==, bytes);
}

static void
write_at (const Vhdx *vhdx, const void *data, int64_t bytes, int64_t offset)
{
  g_assert_cmpint (pwrite (vhdx->fd, data, bytes, offset), ==, bytes);
}

/* Of a table of 32-byte entries that start with a GUID: where the entry is, or NULL. */
static const uint8_t *
find_entry (const uint8_t *entries, const uint8_t *guid)
{
  for (int i = 0; i < ENTRY_MAX; i++)
    if (memcmp (entries + i * 32, guid, 16) == 0)
      return entries + i * 32;
  return NULL;
}

static uint64_t
read_item (const Vhdx *vhdx, int64_t metadata, const uint8_t *table, const uint8_t *guid, int at, int bytes)
{
  const uint8_t *entry = find_entry (table + 32, guid);
  uint8_t item[8];

  g_assert_nonnull (entry);
  read_at (vhdx, item, bytes, metadata + get_le (entry + 16, 4) + at);
  return get_le (item, bytes);
}

static void
vhdx_read (Vhdx *vhdx, const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);
  uint8_t regions[16 + ENTRY_MAX * 32], table[32 + ENTRY_MAX * 32];
  const uint8_t *entry;
  int64_t metadata;

  vhdx->fd = open (path, O_RDWR | O_CLOEXEC);
  vhdx->file_bytes = lseek (vhdx->fd, 0, SEEK_END);
  read_at (vhdx, regions, sizeof regions, 192 * KIB);
  entry = find_entry (regions + 16, bat_guid);
  g_assert_nonnull (entry);
  vhdx->bat_offset = get_le (entry + 16, 8);
  entry = find_entry (regions + 16, metadata_guid);
  g_assert_nonnull (entry);
  metadata = vhdx->metadata_offset = get_le (entry + 16, 8);
  read_at (vhdx, table, sizeof table, metadata);
  vhdx->block_size = read_item (vhdx, metadata, table, parameters_guid, 0, 4);
  vhdx->has_parent = read_item (vhdx, metadata, table, parameters_guid, 4, 4) & 2;
  vhdx->disk_bytes = read_item (vhdx, metadata, table, size_guid, 0, 8);
  vhdx->sector = read_item (vhdx, metadata, table, sector_guid, 0, 4);
  vhdx->ratio = (INT64_C (1) << 23) * vhdx->sector / vhdx->block_size;
  vhdx->blocks = (vhdx->disk_bytes + vhdx->block_size - 1) / vhdx->block_size;
}

static uint64_t
get_entry (const Vhdx *vhdx, int64_t index)
{
  uint8_t entry[8];

  read_at (vhdx, entry, 8, vhdx->bat_offset + index * 8);
  return get_le (entry, 8);
}

static void
set_entry (const Vhdx *vhdx, int64_t index, uint64_t value)
{
  uint8_t entry[8];

  for (int i = 0; i < 8; i++)
    entry[i] = value >> 8 * i;
  write_at (vhdx, entry, 8, vhdx->bat_offset + index * 8);
}

static int64_t
index_of (const Vhdx *vhdx, int64_t block)
{
  return block + block / vhdx->ratio;
}

/* Space at the end of the file, each byte @fill. */
static int64_t
append (Vhdx *vhdx, int64_t bytes, int fill)
{
  int64_t offset = (vhdx->file_bytes + MIB - 1) / MIB * MIB;

  vhdx->file_bytes = offset + bytes;
  g_assert_cmpint (ftruncate (vhdx->fd, vhdx->file_bytes), ==, 0);
  if (fill)
    {
      g_autofree uint8_t *data = g_malloc (bytes);

      memset (data, fill, bytes);
      write_at (vhdx, data, bytes, offset);
    }
  return offset;
}

void
image_leave_tail (const TestDir *dir, const char *name, int64_t bytes)
{
  Vhdx vhdx;

  vhdx_read (&vhdx, dir, name);
  append (&vhdx, bytes, 0x5A);
  close (vhdx.fd);
}

void
image_damage_header (const TestDir *dir, const char *name, int which)
{
  Vhdx vhdx;

  vhdx_read (&vhdx, dir, name);
  write_at (&vhdx, "rubbish", 7, (64 + 64 * which) * KIB + 100);
  close (vhdx.fd);
}

void
image_damage_regions (const TestDir *dir, const char *name, int which)
{
  Vhdx vhdx;

  vhdx_read (&vhdx, dir, name);
  write_at (&vhdx, "rubbish", 7, (192 + 64 * which) * KIB + 5000);
  close (vhdx.fd);
}

void
image_add_anchors (const TestDir *dir, const char *name, GRand *rand)
{
  Vhdx vhdx;

  vhdx_read (&vhdx, dir, name);
  for (int64_t block = 0; block < vhdx.blocks; block++)
    {
      int state = get_entry (&vhdx, index_of (&vhdx, block)) & 7;
      bool zero = state == UNDEFINED || state == ZERO || state == UNMAPPED
                  || (state == NOT_PRESENT && !vhdx.has_parent);

      if (zero && g_rand_int_range (rand, 0, 3) > 0)
        set_entry (&vhdx, index_of (&vhdx, block),
                   append (&vhdx, vhdx.block_size, 0) | (g_rand_boolean (rand) ? UNDEFINED : UNMAPPED));
    }
  close (vhdx.fd);
}

/* All bits of @block, each byte of them @fill. */
static void
set_bits (Vhdx *vhdx, int64_t block, int fill)
{
  int64_t chunk = block / vhdx->ratio, index = (chunk + 1) * vhdx->ratio + chunk;
  int64_t bytes = vhdx->block_size / vhdx->sector / 8;
  uint64_t entry = get_entry (vhdx, index);
  g_autofree uint8_t *bits = g_malloc (bytes);

  if ((entry & 7) != FULLY_PRESENT)
    {
      entry = append (vhdx, MIB, 0x5A) | FULLY_PRESENT;
      set_entry (vhdx, index, entry);
    }
  memset (bits, fill, bytes);
  write_at (vhdx, bits, bytes, (int64_t)(entry & ~(uint64_t)(MIB - 1)) + block % vhdx->ratio * bytes);
}

/* Rubbish in the sectors of @block, which is at @file_offset, that have no bit. */
static void
spoil_absent_sectors (const Vhdx *vhdx, int64_t block, int64_t file_offset)
{
  int64_t chunk = block / vhdx->ratio, sectors = vhdx->block_size / vhdx->sector;
  uint64_t entry = get_entry (vhdx, (chunk + 1) * vhdx->ratio + chunk);
  g_autofree uint8_t *bits = g_malloc (sectors / 8), *data = g_malloc (vhdx->block_size);

  read_at (vhdx, bits, sectors / 8,
           (int64_t)(entry & ~(uint64_t)(MIB - 1)) + block % vhdx->ratio * (sectors / 8));
  read_at (vhdx, data, vhdx->block_size, file_offset);
  for (int64_t i = 0; i < sectors; i++)
    if (!(bits[i / 8] >> i % 8 & 1))
      memset (data + i * vhdx->sector, 0x5A, vhdx->sector);
  write_at (vhdx, data, vhdx->block_size, file_offset);
}

void
image_add_partial (const TestDir *dir, const char *name, GRand *rand)
{
  Vhdx vhdx;

  vhdx_read (&vhdx, dir, name);
  g_assert_true (vhdx.has_parent);
  for (int64_t block = 0; block < vhdx.blocks; block++)
    {
      uint64_t entry = get_entry (&vhdx, index_of (&vhdx, block));
      int state = entry & 7;

      if (state == PARTIALLY_PRESENT)
        {
          spoil_absent_sectors (&vhdx, block, entry & ~(uint64_t)(MIB - 1));
          continue;
        }
      if ((state != NOT_PRESENT && state != FULLY_PRESENT) || g_rand_boolean (rand))
        {
          /* Bits that mean nothing, until the block becomes partially present. */
          set_bits (&vhdx, block, 0x5A);
          continue;
        }
      if (state == NOT_PRESENT)
        entry = append (&vhdx, vhdx.block_size, 0x5A);
      set_bits (&vhdx, block, state == FULLY_PRESENT ? 0xFF : 0);
      set_entry (&vhdx, index_of (&vhdx, block), (entry & ~UINT64_C (7)) | PARTIALLY_PRESENT);
    }
  close (vhdx.fd);
}

static void
put_le (uint8_t *data, int bytes, uint64_t value)
{
  for (int i = 0; i < bytes; i++)
    data[i] = value >> 8 * i;
}

void
image_set_disk_properties (const TestDir *dir, const char *name, GRand *rand)
{
  uint8_t table[32 + ENTRY_MAX * 32], id[16], physical[4], item[5000];
  const uint8_t *entry;
  Vhdx vhdx;
  int n;

  vhdx_read (&vhdx, dir, name);
  read_at (&vhdx, table, sizeof table, vhdx.metadata_offset);
  for (int i = 0; i < 16; i++)
    id[i] = g_rand_int (rand);
  entry = find_entry (table + 32, id_guid);
  g_assert_nonnull (entry);
  write_at (&vhdx, id, sizeof id, vhdx.metadata_offset + get_le (entry + 16, 4));
  entry = find_entry (table + 32, physical_guid);
  g_assert_nonnull (entry);
  put_le (physical, sizeof physical, 512);
  write_at (&vhdx, physical, sizeof physical, vhdx.metadata_offset + get_le (entry + 16, 4));

  n = get_le (table + 10, 2);
  g_assert_cmpint (n, <, ENTRY_MAX);
  memset (item, 0x5A, sizeof item);
  memcpy (table + 32 + n * 32, id, sizeof id);
  put_le (table + 32 + n * 32 + 16, 4, MIB / 2);
  put_le (table + 32 + n * 32 + 20, 4, sizeof item);
  put_le (table + 32 + n * 32 + 24, 8, 2);
  put_le (table + 10, 2, n + 1);
  write_at (&vhdx, item, sizeof item, vhdx.metadata_offset + MIB / 2);
  write_at (&vhdx, table, 32 + (n + 1) * 32, vhdx.metadata_offset);
  close (vhdx.fd);
}
