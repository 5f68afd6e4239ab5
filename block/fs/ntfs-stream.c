/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records of the MFT and the content of attributes, in pieces or not. */
#include "ntfs.h"

#include "checked.h"
#include "refuse.h"

#include <inttypes.h>
#include <string.h>

void
ntfs_stream_clear (NtfsStream *stream)
{
  g_clear_pointer (&stream->value, g_free);
  g_clear_pointer (&stream->runs, g_array_unref);
  *stream = (NtfsStream){ 0 };
}

/* --- reading ------------------------------------------------------------------------------------------- */

/* As much of [@offset, +@bytes) as one run has, all of it inside the initialized part.  Returns its length. */
static int64_t coroutine_fn
co_read_run (Ntfs *fs, const NtfsStream *stream, int64_t offset, int64_t bytes, void *buf, const char *what,
             GError **error)
{
  int64_t cluster_bytes = fs->geometry.cluster_bytes;
  const NtfsRun *run = ntfs_runs_find (stream->runs, offset / cluster_bytes);
  int64_t into = offset - run->vcn * cluster_bytes;
  int64_t part = MIN (bytes, run->clusters * cluster_bytes - into);

  if (run->lcn < 0)
    memset (buf, 0, part);
  else if (!fs_co_read_structure (fs->volume, run->lcn * cluster_bytes + into, part, buf, what, error))
    return -1;
  return part;
}

bool coroutine_fn
ntfs_co_read_stream (Ntfs *fs, const NtfsStream *stream, int64_t offset, int64_t bytes, void *buf,
                     const char *what, GError **error)
{
  uint8_t *at = buf;

  if (offset < 0 || bytes < 0 || offset > stream->data_bytes || bytes > stream->data_bytes - offset)
    return fs_corrupt (error, "%s: %" PRId64 " bytes at offset %" PRId64 " are behind its end, %" PRId64,
                       what, bytes, offset, stream->data_bytes);
  if (stream->value != NULL)
    {
      memcpy (buf, stream->value + offset, bytes);
      return true;
    }
  int64_t initialized = CLAMP (stream->initialized_bytes - offset, 0, bytes);
  if (initialized > 0
      && (offset + initialized - 1) / fs->geometry.cluster_bytes >= ntfs_runs_end (stream->runs))
    return fs_corrupt (error, "%s: nothing says where its byte %" PRId64 " is", what,
                       offset + initialized - 1);
  for (int64_t part; initialized > 0; offset += part, at += part, bytes -= part, initialized -= part)
    {
      part = co_read_run (fs, stream, offset, initialized, at, what, error);
      if (part < 0)
        return false;
    }
  memset (at, 0, bytes);
  return true;
}

bool coroutine_fn
ntfs_co_read_record (Ntfs *fs, uint64_t number, uint8_t *record, GError **error)
{
  int64_t bytes = fs->geometry.record_bytes;

  if (number >= (uint64_t)(fs->mft.data_bytes / bytes))
    return fs_corrupt (error, "MFT: record %" PRIu64 " of %" PRId64, number, fs->mft.data_bytes / bytes);
  if (!ntfs_co_read_stream (fs, &fs->mft, (int64_t)number * bytes, bytes, record, "MFT", error))
    return false;
  if (!ntfs_fixup (record, bytes, "FILE") || !ntfs_record_is_valid (record, bytes))
    return fs_corrupt (error, "MFT: record %" PRIu64 " is damaged", number);
  if (!(le16_get (((const NtfsRecordDisk *)(const void *)record)->flags) & NTFS_RECORD_IN_USE))
    return fs_corrupt (error, "MFT: record %" PRIu64 " is not in use, but something names it", number);
  return true;
}

/* --- finding ------------------------------------------------------------------------------------------- */

/* What is looked for, and where it goes. */
typedef struct
{
  const uint8_t *base; /* the record */
  uint64_t number;
  NtfsAttributeType type;
  const char *name;
  NtfsStream *stream;
} Search;

static NtfsFound
bad_attributes (uint64_t number, GError **error)
{
  (void)fs_corrupt (error, "MFT: the attributes of record %" PRIu64 " make no sense", number);
  return NTFS_BAD;
}

/* The attribute of @record with type, name and first cluster. */
static NtfsFound
find_in_record (const uint8_t *record, NtfsAttributeType type, const char *name, int64_t lowest_vcn,
                NtfsAttribute *attribute)
{
  uint32_t at = 0;
  NtfsFound found;

  while ((found = ntfs_next_attribute (record, &at, attribute)) == NTFS_FOUND)
    if (attribute->type == type && ntfs_name_is (attribute->name, attribute->name_characters, name, false)
        && attribute->lowest_vcn == lowest_vcn)
      break;
  return found;
}

static bool
append_piece (Ntfs *fs, NtfsStream *stream, const NtfsAttribute *attribute)
{
  bool is_first = !stream->is_open;

  if (is_first)
    {
      stream->data_bytes = attribute->data_bytes;
      stream->initialized_bytes = attribute->initialized_bytes;
      stream->flags = attribute->flags;
      stream->is_open = true;
    }
  if (attribute->is_resident)
    {
      stream->value = g_memdup2 (attribute->value, attribute->value_bytes);
      /* Of no bytes it is NULL, and nothing of it can be read. */
      return is_first;
    }
  if (stream->runs == NULL)
    stream->runs = g_array_new (FALSE, FALSE, sizeof (NtfsRun));
  return (is_first || stream->value == NULL)
         && ntfs_runs_append (stream->runs, attribute, fs->geometry.clusters);
}

static void
add_metadata (Ntfs *fs, const NtfsStream *stream)
{
  for (guint i = 0; stream->runs != NULL && i < stream->runs->len; i++)
    {
      const NtfsRun *run = &g_array_index (stream->runs, NtfsRun, i);

      if (run->lcn >= 0)
        fs_extents_add (&fs->metadata, run->lcn * fs->geometry.cluster_bytes,
                        run->clusters * fs->geometry.cluster_bytes);
    }
}

/* The piece that @entry of an attribute list names.  @scratch: record_bytes. */
static NtfsFound coroutine_fn
co_append_listed (Ntfs *fs, const Search *search, const NtfsListEntryDisk *entry, uint8_t *scratch,
                  GError **error)
{
  uint64_t reference = le64_get (entry->record), number = NTFS_REF_NUMBER (reference);
  const uint8_t *record = search->base;
  NtfsAttribute piece = { 0 };

  if (number != search->number)
    {
      const NtfsRecordDisk *disk = (const void *)scratch;

      if (!ntfs_co_read_record (fs, number, scratch, error))
        return NTFS_BAD;
      if (le16_get (disk->sequence) != NTFS_REF_SEQUENCE (reference)
          || NTFS_REF_NUMBER (le64_get (disk->base)) != search->number)
        {
          (void)fs_corrupt (error, "MFT: record %" PRIu64 " does not extend record %" PRIu64, number,
                            search->number);
          return NTFS_BAD;
        }
      record = scratch;
    }
  if (find_in_record (record, search->type, search->name, (int64_t)le64_get (entry->lowest_vcn), &piece)
          != NTFS_FOUND
      || !append_piece (fs, search->stream, &piece))
    {
      (void)fs_corrupt (error,
                        "MFT: attribute list of record %" PRIu64 ": no piece in record %" PRIu64 " fits",
                        search->number, number);
      return NTFS_BAD;
    }
  return NTFS_FOUND;
}

static NtfsFound coroutine_fn
co_search_list (Ntfs *fs, const Search *search, const uint8_t *list, int64_t list_bytes, GError **error)
{
  g_autofree uint8_t *scratch = g_malloc (fs->geometry.record_bytes);

  for (int64_t at = 0, bytes; at < list_bytes; at += bytes)
    {
      const NtfsListEntryDisk *entry = (const void *)(list + at);

      bytes = list_bytes - at < (int64_t)sizeof *entry ? 0 : le16_get (entry->bytes);
      if (bytes < (int64_t)sizeof *entry
          || bytes > list_bytes - at
          /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): all of @list was read */
          || entry->name_offset + entry->name_characters * 2 > bytes)
        return bad_attributes (search->number, error);
      if (le32_get (entry->type) != search->type
          || !ntfs_name_is (list + at + entry->name_offset, entry->name_characters, search->name, false))
        continue;
      if (co_append_listed (fs, search, entry, scratch, error) == NTFS_BAD)
        return NTFS_BAD;
    }
  return search->stream->is_open ? NTFS_FOUND : NTFS_NOT_FOUND;
}

/* The attribute list @attribute says where the pieces are. */
static NtfsFound coroutine_fn
co_search_pieces (Ntfs *fs, const Search *search, const NtfsAttribute *attribute, GError **error)
{
  g_auto (NtfsStream) list = { 0 };

  if (!append_piece (fs, &list, attribute) || list.data_bytes > NTFS_MAX_ATTRIBUTE_LIST_BYTES
      || list.flags != 0)
    return bad_attributes (search->number, error);
  add_metadata (fs, &list);
  g_autofree uint8_t *buf = g_malloc (list.data_bytes + 1);
  if (!ntfs_co_read_stream (fs, &list, 0, list.data_bytes, buf, "attribute list", error))
    return NTFS_BAD;
  return co_search_list (fs, search, buf, list.data_bytes, error);
}

NtfsFound coroutine_fn
ntfs_co_open_stream (Ntfs *fs, const uint8_t *record, uint64_t number, NtfsAttributeType type,
                     const char *name, NtfsStream *stream, GError **error)
{
  Search search = { record, number, type, name, stream };
  NtfsAttribute attribute;

  NtfsFound found = find_in_record (record, NTFS_AT_ATTRIBUTE_LIST, NULL, 0, &attribute);
  if (found == NTFS_FOUND)
    found = co_search_pieces (fs, &search, &attribute, error);
  else if (found == NTFS_NOT_FOUND)
    {
      found = find_in_record (record, type, name, 0, &attribute);
      if (found == NTFS_FOUND && !append_piece (fs, stream, &attribute))
        return bad_attributes (number, error);
      if (found == NTFS_BAD)
        return bad_attributes (number, error);
    }
  else
    return bad_attributes (number, error);
  if (found == NTFS_FOUND && stream->runs != NULL
      && stream->data_bytes > ntfs_runs_end (stream->runs) * fs->geometry.cluster_bytes)
    return bad_attributes (number, error);
  return found;
}

bool coroutine_fn
ntfs_co_open_metadata (Ntfs *fs, uint64_t number, NtfsAttributeType type, const char *name,
                       NtfsStream *stream, GError **error)
{
  g_autofree uint8_t *record = g_malloc (fs->geometry.record_bytes);

  if (!ntfs_co_read_record (fs, number, record, error))
    return false;
  switch (ntfs_co_open_stream (fs, record, number, type, name, stream, error))
    {
    case NTFS_FOUND:
      add_metadata (fs, stream);
      return true;
    case NTFS_NOT_FOUND:
      return fs_corrupt (error, "MFT: record %" PRIu64 " has no attribute %#x", number, type);
    default:
      return false;
    }
}
