/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * hiberfil.sys: whether a hibernated Windows will come back to this volume.
 *
 * The file stands in the root directory.  It starts with zeros when Windows has nothing to come back to, with "WAKE" when it
 * has come back, and with "HIBR", "RSTR" or something else when it still may; either case of letters.  The
 * directory is read from its first block to its last instead of searched by its order: so no damage of the order hides the file.
 */
#include "ntfs.h"

#include "bitset.h"
#include "checked.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

#define NAME            "hiberfil.sys"
#define HEADER_BYTES    4096
#define PIECE_BYTES     NTFS_MAX_RECORD_BYTES
#define MAX_INDEX_BYTES (64 * 1024 * 1024)
#define MAX_MATCHES     16 /* names may differ in case */

/* --- the root directory -------------------------------------------------------------------------------- */

static bool
bad_index (GError **error)
{
  return fs_corrupt (error, "the root directory makes no sense");
}

/* Looks at the entries below @header, which ends with its structure at @end; appends references to @matches. */
static bool
match_entries (const NtfsIndexHeaderDisk *header, const uint8_t *end, GArray *matches, GError **error)
{
  const uint8_t *start = (const void *)header;
  uint32_t offset = le32_get (header->entries_offset), used = le32_get (header->bytes_used);

  if (used > (size_t)(end - start) || offset < sizeof *header || offset > used)
    return bad_index (error);
  for (uint32_t at = offset, bytes;; at += bytes)
    {
      const NtfsIndexEntryDisk *entry = (const void *)(start + at);
      const uint8_t *key = (const uint8_t *)(entry + 1);

      if (used - at < sizeof *entry)
        return bad_index (error);
      bytes = le16_get (entry->bytes);
      uint32_t key_bytes = le16_get (entry->key_bytes);
      if (bytes < sizeof *entry || bytes % 8 != 0 || bytes > used - at || key_bytes > bytes - sizeof *entry)
        return bad_index (error);
      if (le16_get (entry->flags) & NTFS_INDEX_ENTRY_LAST)
        return true;
      if (key_bytes < NTFS_NAME_OFFSET
          || key[NTFS_NAME_CHARACTERS_OFFSET] * 2u > key_bytes - NTFS_NAME_OFFSET)
        return bad_index (error);
      if (!ntfs_name_is (key + NTFS_NAME_OFFSET, key[NTFS_NAME_CHARACTERS_OFFSET], NAME, true))
        continue;
      uint64_t record = le64_get (entry->record);
      if (matches->len == MAX_MATCHES)
        return bad_index (error);
      g_array_append_val (matches, record);
    }
}

/* @block: index_bytes of the directory, from its byte @offset. */
static bool
match_block (Ntfs *fs, uint8_t *block, int64_t offset, GArray *matches, GError **error)
{
  const NtfsGeometry *g = &fs->geometry;
  const NtfsIndexBlockDisk *disk = (const void *)block;
  /* Blocks smaller than clusters are counted in strides. */
  int64_t unit = g->index_bytes < g->cluster_bytes ? NTFS_STRIDE : g->cluster_bytes;

  if (!ntfs_fixup (block, g->index_bytes, "INDX") || le64_get (disk->vcn) != (uint64_t)(offset / unit))
    return fs_corrupt (error, "the root directory is damaged at its byte %" PRId64, offset);
  return match_entries (&disk->header, block + g->index_bytes, matches, error);
}

/* @bitmap: a bit for each block, 0: not in use. */
static bool coroutine_fn
co_match_blocks (Ntfs *fs, const NtfsStream *allocation, const NtfsStream *bitmap, GArray *matches,
                 GError **error)
{
  int64_t block_bytes = fs->geometry.index_bytes;
  int64_t blocks = MIN (allocation->data_bytes / block_bytes, bitmap->data_bytes * 8);
  int64_t per_piece = PIECE_BYTES / block_bytes;
  g_autofree uint8_t *buf = g_malloc (PIECE_BYTES);
  g_autofree uint8_t *bits = g_malloc (div_round_up (blocks, 8) + 1);

  if (!ntfs_co_read_stream (fs, bitmap, 0, div_round_up (blocks, 8), bits, "root directory", error))
    return false;
  for (int64_t first = 0; first < blocks; first += per_piece)
    {
      int64_t count = MIN (per_piece, blocks - first);

      if (bitset_all (bits, first, count, false, BITSET_LSB_FIRST))
        continue;
      if (!ntfs_co_read_stream (fs, allocation, first * block_bytes, count * block_bytes, buf,
                                "root directory", error))
        return false;
      for (int64_t i = 0; i < count; i++)
        if (bitset_get (bits, first + i, BITSET_LSB_FIRST)
            && !match_block (fs, buf + i * block_bytes, (first + i) * block_bytes, matches, error))
          return false;
    }
  return true;
}

static bool
match_root (const Ntfs *fs, const NtfsStream *root, GArray *matches, GError **error)
{
  const NtfsIndexRootDisk *disk = (const void *)root->value;

  if (root->value == NULL || root->data_bytes < (int64_t)sizeof *disk
      || le32_get (disk->type) != NTFS_FILE_NAME || le32_get (disk->block_bytes) != fs->geometry.index_bytes)
    return bad_index (error);
  return match_entries (&disk->header, root->value + root->data_bytes, matches, error);
}

static bool coroutine_fn
co_match_directory (Ntfs *fs, GArray *matches, GError **error)
{
  g_auto (NtfsStream) root = { 0 }, allocation = { 0 }, bitmap = { 0 };
  g_autofree uint8_t *record = g_malloc (fs->geometry.record_bytes);

  if (!ntfs_co_open_metadata (fs, NTFS_ROOT, NTFS_AT_INDEX_ROOT, "$I30", &root, error)
      || !match_root (fs, &root, matches, error) || !ntfs_co_read_record (fs, NTFS_ROOT, record, error))
    return false;
  switch (ntfs_co_open_stream (fs, record, NTFS_ROOT, NTFS_AT_INDEX_ALLOCATION, "$I30", &allocation, error))
    {
    case NTFS_NOT_FOUND:
      return true;
    case NTFS_BAD:
      return false;
    default:
      break;
    }
  ntfs_stream_clear (&allocation);
  if (!ntfs_co_open_metadata (fs, NTFS_ROOT, NTFS_AT_INDEX_ALLOCATION, "$I30", &allocation, error)
      || !ntfs_co_open_metadata (fs, NTFS_ROOT, NTFS_AT_BITMAP, "$I30", &bitmap, error))
    return false;
  if (allocation.flags != 0 || bitmap.flags != 0)
    return bad_index (error);
  if (allocation.data_bytes > MAX_INDEX_BYTES)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "the root directory has %" PRId64 " bytes, expected up to %d", allocation.data_bytes,
                      MAX_INDEX_BYTES);
  return co_match_blocks (fs, &allocation, &bitmap, matches, error);
}

/* --- the file ------------------------------------------------------------------------------------------ */

static bool
header_says_awake (const uint8_t *header)
{
  if (g_ascii_strncasecmp ((const char *)header, "wake", 4) == 0)
    return true;
  for (size_t i = 0; i < HEADER_BYTES; i++)
    if (header[i] != 0)
      return false;
  return true;
}

static bool coroutine_fn
co_check_file (Ntfs *fs, uint64_t reference, GError **error)
{
  g_autofree uint8_t *record = g_malloc (fs->geometry.record_bytes);
  g_autofree uint8_t *header = g_malloc (HEADER_BYTES);
  g_auto (NtfsStream) data = { 0 };
  uint64_t number = NTFS_REF_NUMBER (reference);

  if (!ntfs_co_read_record (fs, number, record, error))
    return false;
  if (le16_get (((const NtfsRecordDisk *)(const void *)record)->sequence) != NTFS_REF_SEQUENCE (reference))
    return fs_corrupt (error, NAME ": record %" PRIu64 " is another file's", number);
  NtfsFound found = ntfs_co_open_stream (fs, record, number, NTFS_AT_DATA, NULL, &data, error);
  if (found == NTFS_BAD)
    return false;
  if (found == NTFS_NOT_FOUND || data.data_bytes < HEADER_BYTES)
    return fs_refuse (error, VHDKIT_ERROR_IN_USE, "perhaps hibernated (" NAME " has %" PRId64 " bytes)",
                      data.data_bytes);
  if (data.flags & (NTFS_ATTRIBUTE_COMPRESSION | NTFS_ATTRIBUTE_ENCRYPTED))
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "perhaps hibernated (" NAME " is compressed or encrypted)");
  if (!ntfs_co_read_stream (fs, &data, 0, HEADER_BYTES, header, NAME, error))
    return false;
  if (header_says_awake (header))
    return true;
  fs_set_hibernated (fs->volume);
  return fs_refuse (error, VHDKIT_ERROR_IN_USE, "hibernated, or shut down with fast startup (" NAME ")");
}

bool coroutine_fn
ntfs_co_check_hiberfile (Ntfs *fs, GError **error)
{
  g_autoptr (GArray) matches = g_array_new (FALSE, FALSE, sizeof (uint64_t));

  if (!co_match_directory (fs, matches, error))
    return false;
  for (guint i = 0; i < matches->len; i++)
    if (!co_check_file (fs, g_array_index (matches, uint64_t, i), error))
      return false;
  return true;
}
