/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What other writers of VHD leave, and what a killed process does. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "byteorder.h"
#include "images.h"

static void
put_be (uint8_t *data, int bytes, uint64_t value)
{
  for (int i = bytes; i-- > 0; value >>= 8)
    data[i] = value;
}

static void
put_checksum (uint8_t *data, int bytes, int field)
{
  uint32_t sum = 0;

  put_be (data + field, 4, 0);
  for (int i = 0; i < bytes; i++)
    sum += data[i];
  put_be (data + field, 4, ~sum);
}

typedef struct
{
  int fd;
  uint8_t footer[512], header[1024];
  int64_t file_bytes, table_offset, block_size, bitmap_bytes;
  uint32_t entries;
} Vhd;

static void
vhd_read_footer (Vhd *vhd, const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);

  vhd->fd = open (path, O_RDWR | O_CLOEXEC);
  vhd->file_bytes = lseek (vhd->fd, 0, SEEK_END);
  g_assert_cmpint (pread (vhd->fd, vhd->footer, 512, 0), ==, 512);
}

static void
vhd_read_header (Vhd *vhd)
{
  g_assert_cmpint (pread (vhd->fd, vhd->header, 1024, be64_at (vhd->footer + 16)), ==, 1024);
  vhd->table_offset = be64_at (vhd->header + 16);
  vhd->entries = be32_at (vhd->header + 28);
  vhd->block_size = be32_at (vhd->header + 32);
  vhd->bitmap_bytes = (vhd->block_size / 512 / 8 + 511) / 512 * 512;
}

static void
vhd_read (Vhd *vhd, const TestDir *dir, const char *name)
{
  vhd_read_footer (vhd, dir, name);
  vhd_read_header (vhd);
}

static void
vhd_write (const Vhd *vhd, const void *data, int64_t bytes, int64_t offset)
{
  g_assert_cmpint (pwrite (vhd->fd, data, bytes, offset), ==, bytes);
}

void
image_clear_bits (const TestDir *dir, const char *name)
{
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  for (uint32_t block = 0; block < vhd.entries; block++)
    {
      uint8_t entry[4], sector[512], *bitmap;
      int64_t start;

      g_assert_cmpint (pread (vhd.fd, entry, 4, vhd.table_offset + block * 4), ==, 4);
      if (be32_at (entry) == UINT32_MAX)
        continue;
      start = (int64_t)be32_at (entry) * 512;
      bitmap = g_malloc (vhd.bitmap_bytes);
      g_assert_cmpint (pread (vhd.fd, bitmap, vhd.bitmap_bytes, start), ==, vhd.bitmap_bytes);
      for (int64_t i = 0; i < vhd.block_size / 512; i++)
        {
          g_assert_cmpint (pread (vhd.fd, sector, 512, start + vhd.bitmap_bytes + i * 512), ==, 512);
          if (guest_decode (sector, 0) == 0)
            bitmap[i / 8] &= ~(0x80 >> i % 8);
        }
      vhd_write (&vhd, bitmap, vhd.bitmap_bytes, start);
      g_free (bitmap);
    }
  close (vhd.fd);
}

static char *
look_below_bits (const Vhd *vhd, uint32_t block, int64_t start)
{
  g_autofree uint8_t *bitmap = g_malloc0 (vhd->bitmap_bytes);
  uint8_t sector[512];

  g_assert_cmpint (pread (vhd->fd, bitmap, vhd->bitmap_bytes, start), >=, 0);
  for (int64_t i = 0; i < vhd->block_size / 512; i++)
    if (!(bitmap[i / 8] & (0x80 >> i % 8))
        && pread (vhd->fd, sector, 512, start + vhd->bitmap_bytes + i * 512) == 512
        && guest_decode (sector, 0) != 0)
      return g_strdup_printf ("sector %" G_GINT64_FORMAT " of block %u holds data below a zero bit", i,
                              block);
  return NULL;
}

char *
image_look_below_bits (const TestDir *dir, const char *name)
{
  g_autofree uint8_t *table = NULL;
  char *why = NULL;
  uint32_t blocks;
  Vhd vhd;

  vhd_read_footer (&vhd, dir, name);
  if (memcmp (vhd.footer, "conectix", 8) != 0 || be32_at (vhd.footer + 60) != 3)
    {
      close (vhd.fd);
      return NULL;
    }
  vhd_read_header (&vhd);
  /* Entries behind those in use may be anything. */
  blocks = (be64_at (vhd.footer + 48) + vhd.block_size - 1) / vhd.block_size;
  table = g_malloc (blocks * 4);
  g_assert_cmpint (pread (vhd.fd, table, blocks * 4, vhd.table_offset), ==, blocks * 4);
  for (uint32_t block = 0; block < blocks && !why; block++)
    if (be32_at (table + block * 4) != UINT32_MAX)
      why = look_below_bits (&vhd, block, (int64_t)be32_at (table + block * 4) * 512);
  close (vhd.fd);
  return why;
}

void
image_add_rubbish_below_bits (const TestDir *dir, const char *name)
{
  uint8_t rubbish[512];
  Vhd vhd;

  memset (rubbish, 0x5A, sizeof rubbish);
  vhd_read (&vhd, dir, name);
  for (uint32_t block = 0; block < vhd.entries; block++)
    {
      g_autofree uint8_t *bitmap = g_malloc (vhd.bitmap_bytes);
      uint8_t entry[4];
      int64_t start;

      g_assert_cmpint (pread (vhd.fd, entry, 4, vhd.table_offset + block * 4), ==, 4);
      if (be32_at (entry) == UINT32_MAX)
        continue;
      start = (int64_t)be32_at (entry) * 512;
      g_assert_cmpint (pread (vhd.fd, bitmap, vhd.bitmap_bytes, start), ==, vhd.bitmap_bytes);
      for (int64_t i = 0; i < vhd.block_size / 512; i++)
        if (!(bitmap[i / 8] & (0x80 >> i % 8)))
          vhd_write (&vhd, rubbish, 512, start + vhd.bitmap_bytes + i * 512);
    }
  close (vhd.fd);
}

void
image_add_rubbish_to_table (const TestDir *dir, const char *name)
{
  int64_t blocks, table_end;
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  blocks = (be64_at (vhd.footer + 48) + vhd.block_size - 1) / vhd.block_size;
  /* To the end of the sector: padding, which need not be anything. */
  table_end = vhd.table_offset + (blocks * 4 + 511) / 512 * 512;
  for (int64_t at = vhd.table_offset + blocks * 4; at < table_end; at += 4)
    vhd_write (&vhd, "\0\0\0\x28", 4, at);
  close (vhd.fd);
}

void
image_leave_reserve (const TestDir *dir, const char *name, int64_t bytes)
{
  uint8_t zeros[512] = { 0 };
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  vhd_write (&vhd, zeros, 512, vhd.file_bytes - 512);
  if (bytes > 0)
    vhd_write (&vhd, vhd.footer, 512, vhd.file_bytes - 512 + bytes);
  close (vhd.fd);
}

void
image_damage_copy (const TestDir *dir, const char *name)
{
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  vhd_write (&vhd, "rubbish", 7, 0);
  close (vhd.fd);
}

void
image_damage_end_footer (const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);
  uint8_t zeros[512] = { 0 };
  uint8_t end[512];
  int fd = open (path, O_RDWR | O_CLOEXEC);
  int64_t at = lseek (fd, 0, SEEK_END) - 512;

  g_assert_cmpint (pread (fd, end, 512, at), ==, 512);
  if (memcmp (end, "conectix", 8) == 0)
    g_assert_cmpint (pwrite (fd, zeros, 512, at), ==, 512);
  close (fd);
}

void
image_leave_header_behind (const TestDir *dir, const char *name)
{
  uint8_t rubbish[1024];
  Vhd vhd;
  int64_t at;

  vhd_read (&vhd, dir, name);
  at = vhd.file_bytes - 512;
  for (uint8_t *locator = vhd.header + 576; locator < vhd.header + 768; locator += 24)
    {
      int64_t bytes = (be32_at (locator + 8) + 511) / 512 * 512;
      g_autofree uint8_t *text = g_malloc (bytes);

      if (be32_at (locator) == 0)
        continue;
      g_assert_cmpint (pread (vhd.fd, text, bytes, be64_at (locator + 16)), ==, bytes);
      vhd_write (&vhd, text, bytes, at);
      put_be (locator + 16, 8, at);
      at += bytes;
    }
  put_checksum (vhd.header, 1024, 36);
  vhd_write (&vhd, vhd.header, 1024, at);
  put_be (vhd.footer + 16, 8, at);
  put_checksum (vhd.footer, 512, 64);
  vhd_write (&vhd, vhd.footer, 512, at + 1024);
  vhd_write (&vhd, vhd.footer, 512, 0);
  memset (rubbish, 0x5A, sizeof rubbish);
  vhd_write (&vhd, rubbish, sizeof rubbish, 512);
  close (vhd.fd);
}

char *
image_look_at_end (const TestDir *dir, const char *name)
{
  g_autofree char *path = test_path (dir, name);
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  uint8_t end[512] = { 0 }, again[512];
  ssize_t n = pread (fd, end, 512, lseek (fd, 0, SEEK_END) - 512);

  close (fd);
  memcpy (again, end, 512);
  put_checksum (again, 512, 64);
  if (n != 512 || memcmp (end, "conectix", 8) != 0 || memcmp (end, again, 512) != 0)
    return g_strdup ("there is no footer at the end");
  return NULL;
}

char *
image_look_at_layout (const TestDir *dir, const char *name)
{
  uint8_t end[512];
  Vhd vhd;

  vhd_read (&vhd, dir, name);
  g_assert_cmpint (pread (vhd.fd, end, 512, vhd.file_bytes - 512), ==, 512);
  close (vhd.fd);
  if (memcmp (end, vhd.footer, 512) != 0)
    return g_strdup ("footer and its copy differ");
  if (be64_at (vhd.footer + 16) != 512)
    return g_strdup_printf ("the header is at offset %" G_GUINT64_FORMAT, be64_at (vhd.footer + 16));
  return NULL;
}

void
image_add_batmap (const TestDir *dir, const char *name)
{
  Vhd vhd;
  uint8_t batmap[512] = "tdbatmap", map[512] = { 0 };
  int64_t at;

  vhd_read (&vhd, dir, name);
  /* The library leaves room behind small tables. */
  at = vhd.table_offset + ((int64_t)vhd.entries * 4 + 511) / 512 * 512;
  g_assert_cmpint (at % 4096, !=, 0);
  g_assert_cmpint (4096 - at % 4096, >=, 1024);
  put_be (batmap + 8, 8, at + 512);
  put_be (batmap + 16, 4, 1);
  put_be (batmap + 20, 4, 0x00010002);
  put_be (batmap + 24, 4, UINT32_MAX);
  vhd_write (&vhd, batmap, 512, at);
  vhd_write (&vhd, map, 512, at + 512);

  memcpy (vhd.footer + 28, "tap", 4);
  put_be (vhd.footer + 32, 4, 0x00010003);
  put_checksum (vhd.footer, 512, 64);
  vhd_write (&vhd, vhd.footer, 512, 0);
  vhd_write (&vhd, vhd.footer, 512, vhd.file_bytes - 512);
  close (vhd.fd);
}
