/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing the metadata region ([MS-VHDX] 2.6): items come, go and get new content, all in one transaction of the log.
 * What is not asked to change keeps its place, and its entry every bit it has. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

/* New bytes for a part of the region. */
typedef struct
{
  int64_t offset; /* from its start */
  const void *data;
  uint32_t bytes;
} RegionChange;

/* --- the new table ------------------------------------------------------------------------------------------ */

static bool
find_item (const GArray *table, const VhdxItemChange *change, guint *found)
{
  for (*found = 0; *found < table->len; (*found)++)
    {
      const VhdxMetadataEntry *entry = &g_array_index (table, VhdxMetadataEntry, *found);

      if (vhdx_guid_equal (&entry->id, &change->id)
          && (entry->flags & VHDX_METADATA_USER) == (change->flags & VHDX_METADATA_USER))
        return true;
    }
  return false;
}

static int
compare_places (const void *a, const void *b)
{
  const VhdxMetadataEntry *x = a, *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The first free space for @bytes in the region; 0: none.  What an item that goes or moves had is free: all of the
 * transaction counts, or nothing. */
static uint32_t
find_room (const VhdxState *s, const GArray *table, uint32_t bytes)
{
  g_autoptr (GArray) sorted = g_array_copy ((GArray *)table);
  int64_t at = VHDX_METADATA_TABLE_SIZE;

  g_array_sort (sorted, compare_places);
  for (guint i = 0; i < sorted->len; i++)
    {
      const VhdxMetadataEntry *entry = &g_array_index (sorted, VhdxMetadataEntry, i);

      if (entry->length > 0 && at + bytes <= entry->offset)
        break;
      at = MAX (at, round_up ((int64_t)entry->offset + entry->length, 8));
    }
  return at + bytes <= s->metadata_region.bytes ? at : 0;
}

static bool
no_room (VhdxState *s, GError **error, uint32_t bytes)
{
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_NO_SPACE,
                  "metadata region at offset %" PRId64 ": no room for an item of %u bytes",
                  s->metadata_region.file_offset, bytes);
  return false;
}

/* Gives @entry room for @bytes: its own, if that is enough. */
static bool
place_entry (VhdxState *s, const GArray *table, VhdxMetadataEntry *entry, uint32_t bytes, GError **error)
{
  if (bytes > entry->length)
    {
      entry->offset = entry->length = 0;
      entry->offset = find_room (s, table, bytes);
      if (entry->offset == 0)
        return no_room (s, error, bytes);
    }
  else if (bytes == 0)
    {
      entry->offset = 0;
    }
  entry->length = bytes;
  return true;
}

static bool
apply_change (VhdxState *s, GArray *table, const VhdxItemChange *change, GError **error)
{
  guint found;

  if (find_item (table, change, &found) == (change->kind == VHDX_ITEM_ADD))
    {
      /* Whoever asks knows what was there when the image was opened. */
      bdrv_poison (s->bs);
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "metadata table at offset %" PRId64 ": it has changed while the image was open",
                      s->metadata_region.file_offset);
      return false;
    }
  if (change->kind == VHDX_ITEM_REMOVE)
    {
      /* The last one takes its place: the table has no gaps. */
      g_array_remove_index_fast (table, found);
      return true;
    }
  if (change->kind == VHDX_ITEM_ADD)
    {
      VhdxMetadataEntry added = { change->id, 0, 0, change->flags };

      if (table->len >= VHDX_MAX_METADATA_ENTRIES)
        return no_room (s, error, change->bytes);
      g_array_append_val (table, added);
    }
  return place_entry (s, table, &g_array_index (table, VhdxMetadataEntry, found), change->bytes, error);
}

/* --- from the old one to the new one ------------------------------------------------------------------------- */

/* Entry @index of @table as it stands in the file; zeros behind the last one. */
static VhdxMetadataEntryDisk
encode_entry (const GArray *table, guint index)
{
  VhdxMetadataEntryDisk disk = { 0 };

  if (index < table->len)
    {
      const VhdxMetadataEntry *entry = &g_array_index (table, VhdxMetadataEntry, index);

      disk = (VhdxMetadataEntryDisk){ entry->id, le32 (entry->offset), le32 (entry->length),
                                      le32 (entry->flags), le32 (0) };
    }
  return disk;
}

/* Appends the entries that differ; @encoded holds their bytes. */
static void
add_entries (GArray *changes, const GArray *old, const GArray *table, VhdxMetadataEntryDisk *encoded)
{
  for (guint i = 0; i < MAX (old->len, table->len); i++)
    {
      VhdxMetadataEntryDisk before = encode_entry (old, i);
      RegionChange change = { sizeof (VhdxMetadataTableDisk) + (int64_t)i * sizeof before, &encoded[i],
                              sizeof before };

      encoded[i] = encode_entry (table, i);
      if (memcmp (&before, &encoded[i], sizeof before) != 0)
        g_array_append_val (changes, change);
    }
}

/* Pages that are to be logged. */
static guint
count_pages (const GArray *changes)
{
  g_autoptr (GHashTable) pages = g_hash_table_new (NULL, NULL);

  for (guint i = 0; i < changes->len; i++)
    {
      const RegionChange *change = &g_array_index (changes, RegionChange, i);

      for (int64_t page = change->offset / VHDX_PAGE; page * VHDX_PAGE < change->offset + change->bytes;
           page++)
        g_hash_table_add (pages, GSIZE_TO_POINTER ((gsize)page));
    }
  return g_hash_table_size (pages);
}

/* All of @changes or none of them, durable on return. */
static bool coroutine_fn
change_region (VhdxState *s, const GArray *changes, GError **error)
{
  guint pages = count_pages (changes);
  int ret = 0;

  if (pages > vhdx_log_capacity (s))
    {
      bdrv_set_error (
          error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
          "metadata region at offset %" PRId64 ": %u pages of %d bytes would have to change at once,"
          " the log of %u bytes takes %u",
          s->metadata_region.file_offset, pages, VHDX_PAGE, s->header.log_length, vhdx_log_capacity (s));
      return false;
    }

  /* No round comes between them. */
  co_mutex_lock (&s->publish_lock);
  for (guint i = 0; i < changes->len && ret == 0; i++)
    {
      const RegionChange *change = &g_array_index (changes, RegionChange, i);

      ret = vhdx_co_log_metadata (s, s->metadata_region.file_offset + change->offset, change->data,
                                  change->bytes);
    }
  co_mutex_unlock (&s->publish_lock);
  if (ret == 0)
    ret = vhdx_co_publish (s);
  if (ret < 0)
    {
      /* The change is in memory: a later round must not make it durable when nobody counts on it. */
      bdrv_poison (s->bs);
      bdrv_set_error_errno (error, s->bs, ret, "cannot change the metadata at offset %" PRId64,
                            s->metadata_region.file_offset);
    }
  return ret == 0;
}

/* --- the whole ---------------------------------------------------------------------------------------------- */

bool coroutine_fn
vhdx_co_change_items (VhdxState *s, const VhdxItemChange *changes, size_t n, GError **error)
{
  g_autoptr (GArray) region = g_array_new (false, false, sizeof (RegionChange));
  g_autofree VhdxMetadataEntryDisk *encoded = g_new (VhdxMetadataEntryDisk, VHDX_MAX_METADATA_ENTRIES);
  g_autoptr (GArray) old = NULL;
  g_autoptr (GArray) table = NULL;
  int ret = vhdx_co_publish (s);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot write back its metadata");
      return false;
    }
  old = vhdx_co_read_metadata_table (s, error);
  if (!old)
    return false;
  table = g_array_copy (old);
  for (size_t i = 0; i < n; i++)
    {
      guint found;

      if (!apply_change (s, table, &changes[i], error))
        return false;
      if (changes[i].bytes > 0 && find_item (table, &changes[i], &found))
        {
          RegionChange content = { g_array_index (table, VhdxMetadataEntry, found).offset, changes[i].content,
                                   changes[i].bytes };

          g_array_append_val (region, content);
        }
    }

  Le16 count = le16 (table->len);
  RegionChange number = { offsetof (VhdxMetadataTableDisk, entry_count), &count, sizeof count };

  add_entries (region, old, table, encoded);
  if (table->len != old->len)
    g_array_append_val (region, number);
  return change_region (s, region, error);
}

bool coroutine_fn
vhdx_co_replace_item (VhdxState *s, const VhdxGuid *id, const void *content, uint32_t bytes, GError **error)
{
  const VhdxItemChange change = { VHDX_ITEM_REPLACE, *id, 0, content, bytes };

  return vhdx_co_change_items (s, &change, 1, error);
}

bool coroutine_fn
vhdx_co_remove_item (VhdxState *s, const VhdxGuid *id, GError **error)
{
  const VhdxItemChange change = { VHDX_ITEM_REMOVE, *id, 0, NULL, 0 };

  return vhdx_co_change_items (s, &change, 1, error);
}
