/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metadata that belongs to the virtual disk and not to the file ([MS-VHDX] 2.6.1.2, "IsVirtualDisk"): a new child
 * takes it over from its parent, and a merge brings the child's to the parent. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

/* Of the disk, and nothing this driver writes by itself. */
static bool
is_other_disk_item (const VhdxMetadataEntry *entry)
{
  static const VhdxGuid *const own[] = { &vhdx_guid_parameters,      &vhdx_guid_disk_size,
                                         &vhdx_guid_disk_id,         &vhdx_guid_logical_sector,
                                         &vhdx_guid_physical_sector, &vhdx_guid_locator,
                                         &vhdx_guid_incomplete };

  for (size_t i = 0; i < G_N_ELEMENTS (own) && !(entry->flags & VHDX_METADATA_USER); i++)
    if (vhdx_guid_equal (&entry->id, own[i]))
      return false;
  return entry->flags & VHDX_METADATA_VIRTUAL_DISK;
}

static void
free_item (void *opaque)
{
  g_byte_array_unref (((VhdxItem *)opaque)->content);
}

GArray *
vhdx_items_new (void)
{
  GArray *items = g_array_new (false, true, sizeof (VhdxItem));

  g_array_set_clear_func (items, free_item);
  return items;
}

bool coroutine_fn
vhdx_co_read_other_disk_items (VhdxState *s, GArray *items, GError **error)
{
  g_autoptr (GArray) table = vhdx_co_read_metadata_table (s, error);
  int64_t bytes = 0;

  for (guint i = 0; table && i < table->len; i++)
    {
      const VhdxMetadataEntry *entry = &g_array_index (table, VhdxMetadataEntry, i);
      VhdxItem copy = { entry->id, entry->flags & VHDX_METADATA_KNOWN_FLAGS, NULL };
      int ret = 0;

      if (!is_other_disk_item (entry))
        continue;
      bytes += entry->length;
      if (bytes > VHDX_MAX_COPIED_METADATA)
        {
          bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED,
                          "metadata at offset %" PRId64 ": more than %" PRId64
                          " bytes to copy to another image",
                          s->metadata_region.file_offset, VHDX_MAX_COPIED_METADATA);
          return false;
        }
      copy.content = g_byte_array_new ();
      g_byte_array_set_size (copy.content, entry->length);
      if (entry->length > 0)
        ret = vhdx_co_read_metadata_item (s, entry, copy.content->data);
      g_array_append_val (items, copy);
      if (ret < 0)
        {
          bdrv_set_error_errno (error, s->bs, ret, "cannot read the metadata at offset %" PRId64,
                                s->metadata_region.file_offset + entry->offset);
          return false;
        }
    }
  return table != NULL;
}

/* --- after a merge ------------------------------------------------------------------------------------------- */

static bool
has_same_item (const GArray *items, const VhdxItem *item)
{
  for (guint i = 0; i < items->len; i++)
    {
      const VhdxItem *other = &g_array_index (items, VhdxItem, i);

      if (vhdx_guid_equal (&other->id, &item->id) && other->flags == item->flags
          && other->content->len == item->content->len
          && memcmp (other->content->data, item->content->data, item->content->len) == 0)
        return true;
    }
  return false;
}

static void
add_change (GArray *changes, VhdxItemChangeKind kind, const VhdxItem *item)
{
  VhdxItemChange change = { kind, item->id, item->flags, NULL, 0 };

  if (kind == VHDX_ITEM_ADD)
    {
      change.content = item->content->data;
      change.bytes = item->content->len;
    }
  g_array_append_val (changes, change);
}

/* An item of the same name that belongs to the file. */
static bool
is_taken_by_file (const GArray *table, const VhdxItem *item)
{
  for (guint i = 0; i < table->len; i++)
    {
      const VhdxMetadataEntry *entry = &g_array_index (table, VhdxMetadataEntry, i);

      if (vhdx_guid_equal (&entry->id, &item->id)
          && (entry->flags & VHDX_METADATA_USER) == (item->flags & VHDX_METADATA_USER)
          && !is_other_disk_item (entry))
        return true;
    }
  return false;
}

/* From the items @present to those @wanted; they must outlive @changes. */
static void
add_changes (VhdxState *s, GArray *changes, const GArray *table, const GArray *present, const GArray *wanted)
{
  /* First what makes room. */
  for (guint i = 0; i < present->len; i++)
    if (!has_same_item (wanted, &g_array_index (present, VhdxItem, i)))
      add_change (changes, VHDX_ITEM_REMOVE, &g_array_index (present, VhdxItem, i));
  for (guint i = 0; i < wanted->len; i++)
    {
      const VhdxItem *item = &g_array_index (wanted, VhdxItem, i);
      char text[37];

      if (has_same_item (present, item))
        continue;
      if (!is_taken_by_file (table, item))
        {
          add_change (changes, VHDX_ITEM_ADD, item);
          continue;
        }
      vhdx_guid_format (&item->id, text);
      bdrv_warn (s->bs,
                 "metadata: item %s of the disk is not taken over, an item of that name belongs to the file",
                 text);
    }
}

/* The ones of the format, which have their places. */
static void
add_known_changes (GArray *changes, const VhdxMetadata *present, const VhdxMetadata *wanted, Le32 *physical)
{
  const VhdxItemChange disk_id = { VHDX_ITEM_REPLACE, vhdx_guid_disk_id, 0, &wanted->disk_id,
                                   sizeof wanted->disk_id };
  const VhdxItemChange physical_sector = { VHDX_ITEM_REPLACE, vhdx_guid_physical_sector, 0, physical,
                                           sizeof *physical };

  *physical = le32 (wanted->physical_sector_size);
  if (!vhdx_guid_equal (&present->disk_id, &wanted->disk_id))
    g_array_append_val (changes, disk_id);
  if (present->physical_sector_size != wanted->physical_sector_size)
    g_array_append_val (changes, physical_sector);
}

/* @changes, of which the first @n_known are sure to fit; the others do, or a warning says why not. */
static bool coroutine_fn
change_properties (VhdxState *s, const GArray *changes, guint n_known, GError **error)
{
  const VhdxItemChange *list = (const void *)changes->data;
  g_autoptr (GError) failure = NULL;
  int ret;

  if (changes->len == 0)
    return true;
  /* A guest can see them. */
  ret = vhdx_co_begin_changes (s, VHDX_SESSION_DATA);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot write the headers");
      return false;
    }
  if (vhdx_co_change_items (s, list, changes->len, &failure))
    return true;
  /* No room in the region, or in the log: found out before anything has changed. */
  if (bdrv_is_poisoned (s->bs) || changes->len == n_known
      || (!g_error_matches (failure, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE)
          && !g_error_matches (failure, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED)))
    {
      g_propagate_error (error, g_steal_pointer (&failure));
      return false;
    }
  bdrv_warn (s->bs, "the disk's own metadata is not taken over: %s", failure->message);
  return n_known == 0 || vhdx_co_change_items (s, list, n_known, error);
}

bool coroutine_fn
vhdx_co_copy_disk_properties (BlockDriverState *bs, BlockDriverState *source, GError **error)
{
  VhdxState *s = bs->opaque, *from = source->opaque;
  g_autoptr (GArray) present = vhdx_items_new ();
  g_autoptr (GArray) wanted = vhdx_items_new ();
  g_autoptr (GArray) changes = g_array_new (false, false, sizeof (VhdxItemChange));
  g_autoptr (GArray) table = vhdx_co_read_metadata_table (s, error);
  g_autoptr (GError) too_much = NULL;
  Le32 physical;
  guint n_known;

  if (!table)
    return false;
  add_known_changes (changes, &s->metadata, &from->metadata, &physical);
  n_known = changes->len;
  if (vhdx_co_read_other_disk_items (s, present, &too_much)
      && vhdx_co_read_other_disk_items (from, wanted, &too_much))
    {
      add_changes (s, changes, table, present, wanted);
    }
  else if (g_error_matches (too_much, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED))
    {
      bdrv_warn (bs, "the disk's own metadata is not taken over: %s", too_much->message);
    }
  else
    {
      g_propagate_error (error, g_steal_pointer (&too_much));
      return false;
    }
  if (!change_properties (s, changes, n_known, error))
    return false;
  s->metadata.disk_id = from->metadata.disk_id;
  s->metadata.physical_sector_size = from->metadata.physical_sector_size;
  return true;
}
