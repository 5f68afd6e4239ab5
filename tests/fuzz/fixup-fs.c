/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksums of partition tables and guest file systems, and the second copies that must be as the first.  Places and fields are written out here once more, on purpose:
 * a fuzzer that took them from what it tests would not notice when they are wrong.
 */
#include "fuzz.h"

#include <string.h>

#include "byteorder.h"
#include "crc32c.h"

#define MAX_STRUCTURE (1 << 20)
#define MAX_GROUPS    32

static void
put_le (Content *file, int64_t offset, uint32_t value, size_t bytes)
{
  Le32 disk = le32 (value);

  content_write (file, offset, bytes, &disk);
}

/* What stands at @from, in part or whole, once more at @to. */
static void
copy (Content *file, int64_t from, int64_t to, int64_t bytes)
{
  g_autofree uint8_t *data = bytes > 0 && bytes <= MAX_STRUCTURE ? g_malloc (bytes) : NULL;

  if (data && to >= 0 && to <= content_length (file) - bytes && content_get_within (file, from, bytes, data))
    content_write (file, to, bytes, data);
}

static bool
is_size (uint64_t bytes)
{
  return bytes >= 512 && bytes <= 65536 && (bytes & (bytes - 1)) == 0;
}

/* --- GPT ----------------------------------------------------------------------------------------------- */

static uint32_t
crc32 (uint32_t crc, const uint8_t *data, size_t bytes)
{
  static uint32_t table[256];

  for (uint32_t i = 0; table[255] == 0 && i < 256; i++)
    {
      table[i] = i;
      for (int bit = 0; bit < 8; bit++)
        table[i] = (table[i] >> 1) ^ (table[i] & 1 ? UINT32_C (0xedb88320) : 0);
    }
  for (size_t i = 0; i < bytes; i++)
    crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
  return crc;
}

static uint32_t
crc32_ieee (const uint8_t *data, size_t bytes)
{
  return ~crc32 (~UINT32_C (0), data, bytes);
}

static void
fixup_gpt_header (Content *file, int64_t at, uint32_t sector)
{
  g_autofree uint8_t *head = g_malloc (sector);

  if (!content_get_within (file, at, sector, head) || memcmp (head, "EFI PART", 8) != 0)
    return;

  uint64_t bytes = (uint64_t)le32_at (head + 80) * le32_at (head + 84), lba = le64_at (head + 72);
  g_autofree uint8_t *entries = bytes <= MAX_STRUCTURE ? g_malloc (bytes + 1) : NULL;

  if (entries && lba < (UINT64_C (1) << 40)
      && content_get_within (file, (int64_t)(lba * sector), (int64_t)bytes, entries))
    {
      put_le (file, at + 88, crc32_ieee (entries, bytes), 4);
      content_get (file, at, sector, head);
    }
  memset (head + 16, 0, 4);
  put_le (file, at + 16, crc32_ieee (head, MIN (le32_at (head + 12), sector)), 4);
}

/* --- ext2, ext3, ext4 ------------------------------------------------------------------------------------ */

#define EXT_GDT_CSUM      0x10
#define EXT_METADATA_CSUM 0x400

/* As ext4 chains them: without the inversions at both ends. */
static uint32_t
raw_crc (uint32_t seed, const void *data, size_t bytes)
{
  return ~crc32c (~seed, data, bytes);
}

typedef struct
{
  Content *file;
  int64_t base;
  uint32_t seed, block;
} Ext;

static void
fixup_ext_bitmap (const Ext *ext, const uint8_t *group, int64_t at, int which, uint32_t bits)
{
  g_autofree uint8_t *bitmap = g_malloc (bits / 8 + 1);
  int64_t place = (int64_t)le32_at (group + 4 * which) * ext->block;
  uint32_t crc;

  if (!content_get_within (ext->file, ext->base + place, bits / 8, bitmap))
    return;
  crc = raw_crc (ext->seed, bitmap, bits / 8);
  put_le (ext->file, at + 0x18 + 2 * which, crc, 2);
  put_le (ext->file, at + 0x38 + 2 * which, crc >> 16, 2);
}

static void
fixup_ext_group (const Ext *ext, const uint8_t *super, uint32_t number, int64_t at, uint32_t size)
{
  uint8_t group[64];
  Le32 disk_number = le32 (number);

  if (!content_get_within (ext->file, at, size, group))
    return;
  if (size == sizeof group)
    {
      fixup_ext_bitmap (ext, group, at, 0, MIN (le32_at (super + 0x24), 65536u * 8));
      fixup_ext_bitmap (ext, group, at, 1, MIN (le32_at (super + 0x28), 65536u * 8));
    }
  content_get (ext->file, at, size, group);
  memset (group + 0x1e, 0, 2);
  put_le (ext->file, at + 0x1e, raw_crc (raw_crc (ext->seed, &disk_number, 4), group, size), 2);
}

/* Before there was a checksum of all metadata, descriptors had one of their own. */
static uint16_t
crc16 (uint16_t crc, const void *data, size_t bytes)
{
  const uint8_t *at = data;

  for (size_t i = 0; i < bytes * 8; i++)
    crc = (uint16_t)(crc >> 1 ^ ((crc ^ at[i / 8] >> i % 8) & 1 ? 0xa001 : 0));
  return crc;
}

static void
fixup_ext_group_crc16 (const Ext *ext, const uint8_t *super, uint32_t number, int64_t at, uint32_t size)
{
  uint8_t group[64];
  Le32 disk_number = le32 (number);
  uint16_t crc = crc16 (0xffff, super + 0x68, 16);

  if (!content_get_within (ext->file, at, size, group))
    return;
  crc = crc16 (crc16 (crc, &disk_number, 4), group, 0x1e);
  put_le (ext->file, at + 0x1e, crc16 (crc, group + 0x20, size - 0x20), 2);
}

static void
fixup_ext (Content *file, int64_t base)
{
  uint8_t super[1024];
  Ext ext = { file, base, 0, 0 };

  if (!content_get_within (file, base + 1024, sizeof super, super) || le16_at (super + 56) != 0xef53
      || !(le32_at (super + 0x64) & (EXT_METADATA_CSUM | EXT_GDT_CSUM)) || le32_at (super + 0x18) > 6)
    return;
  ext.block = 1024u << le32_at (super + 0x18);
  ext.seed = le32_at (super + 0x60) & 0x2000 ? le32_at (super + 0x270) : raw_crc (~0u, super + 0x68, 16);

  uint32_t first = le32_at (super + 0x14), blocks = le32_at (super + 4),
           per_group = MAX (1, le32_at (super + 0x20));
  uint32_t size = le32_at (super + 0x60) & 0x80 ? 64 : 32;
  bool has_metadata_csum = (le32_at (super + 0x64) & EXT_METADATA_CSUM) != 0;
  /* The superblock is in block 1 of 1 KiB even where the first one is block 0. */
  int64_t descriptors = (ext.block == 1024 ? 2 : (int64_t)first + 1) * ext.block;

  for (uint32_t i = 0; i < MIN (MAX_GROUPS, ((uint64_t)blocks + per_group - 1 - first) / per_group); i++)
    (has_metadata_csum ? fixup_ext_group : fixup_ext_group_crc16) (
        &ext, super, i, base + descriptors + (int64_t)i * size, size);
  if (has_metadata_csum)
    put_le (file, base + 1024 + 0x3fc, raw_crc (~0u, super, 0x3fc), 4);
}

/* --- XFS ------------------------------------------------------------------------------------------------- */

static void
fixup_sum (Content *file, int64_t at, const char *magic, uint32_t field, uint32_t bytes)
{
  g_autofree uint8_t *data = g_malloc (bytes);

  if (!content_get_within (file, at, bytes, data) || (magic && memcmp (data, magic, 4) != 0)
      || field + 4 > bytes)
    return;
  memset (data + field, 0, 4);
  put_le (file, at + field, crc32c (0, data, bytes), 4);
}

static void
fixup_xfs_block (Content *file, int64_t at, uint32_t block)
{
  uint8_t magic[4];

  if (content_get_within (file, at, sizeof magic, magic)
      && (memcmp (magic, "AB3B", sizeof magic) == 0 || memcmp (magic, "AB3C", sizeof magic) == 0))
    fixup_sum (file, at, NULL, 52, block);
}

static void
fixup_xfs (Content *file, int64_t base)
{
  uint8_t super[512];
  uint32_t sector, block;

  if (!content_get_within (file, base, sizeof super, super) || memcmp (super, "XFSB", 4) != 0)
    return;
  sector = be16_at (super + 102);
  block = be32_at (super + 4);
  if (!is_size (sector) || !is_size (block) || (super[101] & 15) != 5)
    return;
  for (uint32_t group = 0; group < MIN (be32_at (super + 88), MAX_GROUPS); group++)
    {
      int64_t at = base + (int64_t)group * be32_at (super + 84) * block;

      fixup_sum (file, at, "XFSB", 224, sector);
      fixup_sum (file, at + sector, "XAGF", 216, sector);
      fixup_sum (file, at + 2 * sector, "XAGI", 312, sector);
      fixup_sum (file, at + 3 * sector, "XAFL", 32, sector);
    }
  for (int64_t at = base, run; at < content_length (file); at += run)
    {
      bool data;

      run = content_run (file, at, &data);
      for (int64_t i = (at - base) / block * block + base; data && i < at + run; i += block)
        fixup_xfs_block (file, i, block);
    }
}

/* --- btrfs ----------------------------------------------------------------------------------------------- */

static void
fixup_btrfs_block (Content *file, int64_t at, uint32_t bytes)
{
  g_autofree uint8_t *data = g_malloc (bytes);

  if (content_get_within (file, at, bytes, data))
    put_le (file, at, crc32c (0, data + 32, bytes - 32), 4);
}

static void
fixup_btrfs (Content *file, int64_t base)
{
  uint8_t super[4096], head[48];
  int64_t run;

  if (!content_get_within (file, base + 65536, sizeof super, super)
      || memcmp (super + 64, "_BHRfS_M", 8) != 0)
    return;
  for (int64_t at = 0; at < content_length (file); at += run)
    {
      bool data;

      run = content_run (file, at, &data);
      for (int64_t block = at; data && is_size (le32_at (super + 148)) && block < at + run; block += 4096)
        if (content_get_within (file, block, sizeof head, head) && block != base + 65536
            && memcmp (head + 32, super + 32, 16) == 0)
          fixup_btrfs_block (file, block, le32_at (super + 148));
    }
  fixup_btrfs_block (file, base + 65536, sizeof super);
  if (content_get_within (file, base + (64 << 20), sizeof super, super)
      && memcmp (super + 64, "_BHRfS_M", 8) == 0)
    fixup_btrfs_block (file, base + (64 << 20), sizeof super);
}

/* --- exFAT ----------------------------------------------------------------------------------------------- */

static void
fixup_exfat (Content *file, int64_t base)
{
  uint8_t boot[512];
  uint32_t sector, sum = 0;

  if (!content_get_within (file, base, sizeof boot, boot) || memcmp (boot + 3, "EXFAT   ", 8) != 0
      || boot[108] < 9 || boot[108] > 12)
    return;
  sector = 1u << boot[108];

  g_autofree uint8_t *region = g_malloc (11 * sector);

  if (!content_get_within (file, base, 11 * sector, region))
    return;
  for (uint32_t i = 0; i < 11 * sector; i++)
    if (i != 106 && i != 107 && i != 112)
      sum = (sum << 31 | sum >> 1) + region[i];
  for (uint32_t i = 0; i < sector; i += 4)
    put_le (file, base + 11 * sector + i, sum, 4);
  copy (file, base, base + 12 * sector, 12 * sector);
}

/* --- FAT ------------------------------------------------------------------------------------------------- */

/* The boot sector's copy, and that of the table: it holds for all that has the signature and such fields. */
static void
fixup_fat (Content *file, int64_t base)
{
  uint8_t boot[512];

  if (!content_get_within (file, base, sizeof boot, boot) || boot[510] != 0x55 || boot[511] != 0xaa
      || boot[16] != 2 || !is_size (le16_at (boot + 11)))
    return;

  uint32_t sector = le16_at (boot + 11), fat = le16_at (boot + 22);
  int64_t table = base + (int64_t)le16_at (boot + 14) * sector;

  if (fat == 0)
    {
      fat = le32_at (boot + 36);
      if (le16_at (boot + 50) > 0)
        copy (file, base, base + (int64_t)le16_at (boot + 50) * sector, sector);
    }
  copy (file, table, table + (int64_t)fat * sector, (int64_t)fat * sector);
}

/* --- NTFS ------------------------------------------------------------------------------------------------ */

/* The boot sector's copy behind the end, and the first records', which stands where the boot sector says. */
static void
fixup_ntfs (Content *file, int64_t base)
{
  uint8_t boot[512];

  if (!content_get_within (file, base, sizeof boot, boot) || memcmp (boot + 3, "NTFS    ", 8) != 0
      || !is_size (le16_at (boot + 11)))
    return;

  int64_t sector = le16_at (boot + 11), cluster = boot[13] * sector;
  int64_t record = (int8_t)boot[64] > 0 ? boot[64] * cluster : INT64_C (1) << (-(int8_t)boot[64] & 15);

  if (le64_at (boot + 40) < (UINT64_C (1) << 40))
    copy (file, base, base + (int64_t)le64_at (boot + 40) * sector, 512);
  if (le64_at (boot + 48) < (UINT64_C (1) << 32) && le64_at (boot + 56) < (UINT64_C (1) << 32))
    copy (file, base + (int64_t)le64_at (boot + 48) * cluster, base + (int64_t)le64_at (boot + 56) * cluster,
          4 * record);
}

/* --- LVM2 ------------------------------------------------------------------------------------------------ */

#define LVM2_CRC_START UINT32_C (0xf597a6cf)

static void
fixup_lvm2_area (Content *file, int64_t base, uint64_t offset, uint64_t bytes)
{
  uint8_t head[512];
  int64_t at = base + (int64_t)(offset & G_MAXINT32);

  if (bytes <= sizeof head || !content_get_within (file, at, sizeof head, head)
      || memcmp (head + 4, " LVM2 x[5A%r0N*>", 16) != 0)
    return;

  uint64_t start = le64_at (head + 40), length = le64_at (head + 48);
  g_autofree uint8_t *text = length > 0 && length <= MAX_STRUCTURE ? g_malloc (length) : NULL;

  if (text && start < bytes && length <= bytes - sizeof head)
    {
      uint64_t before_end = MIN (length, bytes - start);

      if (content_get_within (file, at + (int64_t)start, (int64_t)before_end, text)
          && content_get_within (file, at + (int64_t)sizeof head, (int64_t)(length - before_end),
                                 text + before_end))
        put_le (file, at + 56, crc32 (LVM2_CRC_START, text, length), 4);
      content_get (file, at, sizeof head, head);
    }
  put_le (file, at, crc32 (LVM2_CRC_START, head + 4, sizeof head - 4), 4);
}

static void
fixup_lvm2 (Content *file, int64_t base)
{
  uint8_t label[512];

  for (int sector = 0; sector < 4; sector++)
    {
      int lists = 0;

      if (!content_get_within (file, base + 512 * sector, sizeof label, label)
          || memcmp (label, "LABELONE", 8) != 0)
        continue;
      /* Areas of data, then those of metadata; a list ends with zeros. */
      for (size_t at = le32_at (label + 20) % 256 + 40; at + 16 <= sizeof label && lists < 2; at += 16)
        if (le64_at (label + at) == 0)
          lists++;
        else if (lists == 1)
          fixup_lvm2_area (file, base, le64_at (label + at), le64_at (label + at + 8));
      put_le (file, base + 512 * sector + 16, crc32 (LVM2_CRC_START, label + 20, sizeof label - 20), 4);
    }
}

/* --- all of it --------------------------------------------------------------------------------------------- */

static void
fixup_volume (Content *file, int64_t base)
{
  if (base < 0 || base >= content_length (file))
    return;
  fixup_ext (file, base);
  fixup_xfs (file, base);
  fixup_btrfs (file, base);
  fixup_exfat (file, base);
  fixup_fat (file, base);
  fixup_ntfs (file, base);
  fixup_lvm2 (file, base);
}

static void
fixup_gpt (Content *file, uint32_t sector)
{
  uint8_t entry[128];

  fixup_gpt_header (file, sector, sector);
  fixup_gpt_header (file, content_length (file) / sector * sector - sector, sector);
  for (int i = 0; i < 4 && content_get_within (file, 2 * sector + i * (int)sizeof entry, sizeof entry, entry);
       i++)
    if (le64_at (entry + 32) > 0 && le64_at (entry + 32) < (UINT64_C (1) << 40))
      fixup_volume (file, (int64_t)le64_at (entry + 32) * sector);
}

void
fuzz_fixup_disk (Content *file)
{
  uint8_t mbr[512];

  if (!content_get_within (file, 0, sizeof mbr, mbr))
    return;
  fixup_volume (file, 0);
  for (int i = 0; i < 4 && mbr[510] == 0x55 && mbr[511] == 0xaa; i++)
    if (le32_at (mbr + 446 + 16 * i + 8) > 0)
      fixup_volume (file, (int64_t)le32_at (mbr + 446 + 16 * i + 8) * 512);
  fixup_gpt (file, 512);
  fixup_gpt (file, 4096);
}
