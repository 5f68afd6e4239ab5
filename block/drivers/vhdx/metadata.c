/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metadata region ([MS-VHDX] 2.6): table and items.  All the entries are checked before any item is read. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

enum
{
  ITEM_PARAMETERS,
  ITEM_DISK_SIZE,
  ITEM_DISK_ID,
  ITEM_LOGICAL_SECTOR,
  ITEM_PHYSICAL_SECTOR,
  ITEM_LOCATOR,
  ITEM_CHS,
  ITEM_INCOMPLETE,
  ITEM_PMEM,
  N_ITEMS,
};

static const struct
{
  const VhdxGuid *id;
  const char *name;
  uint32_t length; /* 0: any */
  bool needed;
} known_items[N_ITEMS] = {
  [ITEM_PARAMETERS] = { &vhdx_guid_parameters, "file parameters", 8, true },
  [ITEM_DISK_SIZE] = { &vhdx_guid_disk_size, "virtual disk size", 8, true },
  [ITEM_DISK_ID] = { &vhdx_guid_disk_id, "virtual disk ID", 16, true },
  [ITEM_LOGICAL_SECTOR] = { &vhdx_guid_logical_sector, "logical sector size", 4, true },
  [ITEM_PHYSICAL_SECTOR] = { &vhdx_guid_physical_sector, "physical sector size", 4, true },
  [ITEM_LOCATOR] = { &vhdx_guid_locator, "parent locator", 0, false },
  [ITEM_CHS] = { &vhdx_guid_chs, "CHS parameters", 0, false },
  [ITEM_INCOMPLETE] = { &vhdx_guid_incomplete, "incomplete file", 0, false },
  [ITEM_PMEM] = { &vhdx_guid_pmem, "PMEM label area", 0, false },
};

static bool
corrupt (VhdxState *s, GError **error, const VhdxMetadataEntry *item, const char *what)
{
  char text[37];

  vhdx_guid_format (&item->id, text);
  bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                  "metadata at offset %" PRId64 ": item %s (offset %u, length %u): %s",
                  s->metadata_region.file_offset, text, item->offset, item->length, what);
  return false;
}

static bool
check_item (VhdxState *s, const GArray *items, const VhdxMetadataEntry *item, GError **error)
{
  if (vhdx_guid_is_zero (&item->id))
    return corrupt (s, error, item, "the id is zero");
  if ((item->flags & VHDX_METADATA_USER) && (item->flags & VHDX_METADATA_REQUIRED))
    return corrupt (s, error, item, "a user item cannot be required");
  if (item->length == 0 ? item->offset != 0
                        : item->offset < VHDX_METADATA_TABLE_SIZE || item->length > VHDX_MAX_METADATA_ITEM
                              || (int64_t)item->offset + item->length > s->metadata_region.bytes)
    return corrupt (s, error, item, "not inside the region");
  for (guint i = 0; i < items->len; i++)
    {
      const VhdxMetadataEntry *other = &g_array_index (items, VhdxMetadataEntry, i);

      if (vhdx_guid_equal (&other->id, &item->id)
          && (other->flags & VHDX_METADATA_USER) == (item->flags & VHDX_METADATA_USER))
        return corrupt (s, error, item, "is there twice");
      if (ranges_overlap (other->offset, other->length, item->offset, item->length))
        return corrupt (s, error, item, "overlaps another item");
    }
  return true;
}

GArray *coroutine_fn
vhdx_co_read_metadata_table (VhdxState *s, GError **error)
{
  g_autofree uint8_t *table = g_malloc (VHDX_METADATA_TABLE_SIZE);
  g_autoptr (GArray) items = g_array_new (false, false, sizeof (VhdxMetadataEntry));
  const VhdxMetadataTableDisk *disk = (const void *)table;
  /* Which has all that most tables have. */
  int ret = vhdx_co_read (s, s->metadata_region.file_offset, VHDX_PAGE, table);
  uint32_t count = ret == 0 ? le16_get (disk->entry_count) : 0, users = 0;

  if (ret == 0 && sizeof *disk + count * sizeof (VhdxMetadataEntryDisk) > VHDX_PAGE)
    ret = vhdx_co_read (s, s->metadata_region.file_offset, VHDX_METADATA_TABLE_SIZE, table);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the metadata table at offset %" PRId64,
                            s->metadata_region.file_offset);
      return NULL;
    }
  if (memcmp (disk->signature, VHDX_METADATA_SIGNATURE, sizeof disk->signature) != 0)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "metadata table at offset %" PRId64 ": no signature \"" VHDX_METADATA_SIGNATURE
                      "\" there",
                      s->metadata_region.file_offset);
      return NULL;
    }
  if (count > VHDX_MAX_METADATA_ENTRIES)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "metadata table at offset %" PRId64 ": %u entries, at most %d",
                      s->metadata_region.file_offset, count, VHDX_MAX_METADATA_ENTRIES);
      return NULL;
    }
  for (uint32_t i = 0; i < count; i++)
    {
      VhdxMetadataEntryDisk entry;
      VhdxMetadataEntry item;

      memcpy (&entry, table + sizeof *disk + i * sizeof entry, sizeof entry);
      item = (VhdxMetadataEntry){ entry.item_id, le32_get (entry.offset), le32_get (entry.length),
                                  le32_get (entry.flags) };
      if (!check_item (s, items, &item, error))
        return NULL;
      g_array_append_val (items, item);
      users += (item.flags & VHDX_METADATA_USER) != 0;
    }
  if (users > VHDX_MAX_USER_ENTRIES)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "metadata table at offset %" PRId64 ": %u user items, at most %d",
                      s->metadata_region.file_offset, users, VHDX_MAX_USER_ENTRIES);
      return NULL;
    }
  return g_steal_pointer (&items);
}

/* The table's entries by what they are; unknown ones that may be ignored are. */
static bool
sort_items (VhdxState *s, const GArray *items, VhdxMetadataEntry sorted[N_ITEMS], GError **error)
{
  for (guint i = 0; i < items->len; i++)
    {
      const VhdxMetadataEntry *item = &g_array_index (items, VhdxMetadataEntry, i);
      int known = -1;

      for (int k = 0; k < N_ITEMS && !(item->flags & VHDX_METADATA_USER); k++)
        if (vhdx_guid_equal (&item->id, known_items[k].id))
          known = k;
      if (known < 0)
        {
          if (!(item->flags & VHDX_METADATA_REQUIRED))
            continue;
          corrupt (s, error, item, "is required and not known");
          return false;
        }
      if (known == ITEM_INCOMPLETE)
        {
          s->incomplete = true;
          if (bdrv_check_incomplete (s->bs, "metadata", error))
            continue;
          return false;
        }
      if (known_items[known].length != 0 && item->length != known_items[known].length)
        return corrupt (s, error, item, known_items[known].name);
      sorted[known] = *item;
    }
  for (int k = 0; k < N_ITEMS; k++)
    if (known_items[k].needed && sorted[k].length == 0)
      {
        bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "metadata at offset %" PRId64 ": no %s",
                        s->metadata_region.file_offset, known_items[k].name);
        return false;
      }
  return true;
}

int coroutine_fn
vhdx_co_read_metadata_item (VhdxState *s, const VhdxMetadataEntry *item, void *buf)
{
  return vhdx_co_read (s, s->metadata_region.file_offset + item->offset, item->length, buf);
}

static bool
check_values (VhdxState *s, GError **error)
{
  const VhdxMetadata *m = &s->metadata;

  if (!is_power_of_two (m->block_size) || m->block_size < VHDX_MIN_BLOCK_SIZE
      || m->block_size > VHDX_MAX_BLOCK_SIZE)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                    "metadata: block size %u, expected a power of two from 1 to 256 MiB", m->block_size);
  else if ((m->logical_sector_size != 512 && m->logical_sector_size != 4096)
           || (m->physical_sector_size != 512 && m->physical_sector_size != 4096))
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                    "metadata: logical sector size %u, physical %u, expected 512 or 4096",
                    m->logical_sector_size, m->physical_sector_size);
  else if (m->bytes <= 0 || m->bytes > VHDX_MAX_DISK_BYTES || m->bytes % m->logical_sector_size != 0)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                    "metadata: virtual disk size %" PRId64 ", expected a multiple of %u up to 64 TiB",
                    m->bytes, m->logical_sector_size);
  else
    return true;
  return false;
}

static bool coroutine_fn
read_locator (VhdxState *s, const VhdxMetadataEntry *item, GError **error)
{
  g_autofree uint8_t *buf = NULL;
  int ret;

  if (item->length == 0)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "metadata: the image has a parent, but no parent locator");
      return false;
    }
  buf = g_malloc (item->length);
  ret = vhdx_co_read_metadata_item (s, item, buf);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the parent locator");
      return false;
    }
  return vhdx_locator_decode (s, buf, item->length, error);
}

bool coroutine_fn
vhdx_co_read_metadata (VhdxState *s, GError **error)
{
  g_autoptr (GArray) items = vhdx_co_read_metadata_table (s, error);
  VhdxMetadataEntry sorted[N_ITEMS] = { 0 };
  VhdxMetadata *m = &s->metadata;
  Le32 parameters[2], logical, physical;
  Le64 bytes;
  int ret;

  if (!items || !sort_items (s, items, sorted, error))
    return false;
  ret = vhdx_co_read_metadata_item (s, &sorted[ITEM_PARAMETERS], parameters);
  if (ret == 0)
    ret = vhdx_co_read_metadata_item (s, &sorted[ITEM_DISK_SIZE], &bytes);
  if (ret == 0)
    ret = vhdx_co_read_metadata_item (s, &sorted[ITEM_DISK_ID], &m->disk_id);
  if (ret == 0)
    ret = vhdx_co_read_metadata_item (s, &sorted[ITEM_LOGICAL_SECTOR], &logical);
  if (ret == 0)
    ret = vhdx_co_read_metadata_item (s, &sorted[ITEM_PHYSICAL_SECTOR], &physical);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the metadata at offset %" PRId64,
                            s->metadata_region.file_offset);
      return false;
    }
  m->block_size = le32_get (parameters[0]);
  m->leave_allocated = le32_get (parameters[1]) & VHDX_PARAMETER_LEAVE_ALLOCATED;
  m->has_parent = le32_get (parameters[1]) & VHDX_PARAMETER_HAS_PARENT;
  m->bytes = MIN (le64_get (bytes), (uint64_t)INT64_MAX);
  m->logical_sector_size = le32_get (logical);
  m->physical_sector_size = le32_get (physical);
  if (!check_values (s, error))
    return false;
  if (m->has_parent)
    return read_locator (s, &sorted[ITEM_LOCATOR], error);
  if (sorted[ITEM_LOCATOR].length > 0)
    bdrv_warn (s->bs, "metadata: a parent locator, but the image has no parent");
  return true;
}

static void
free_entry (void *opaque)
{
  VhdxLocatorEntry *entry = opaque;

  g_free (entry->key);
  g_free (entry->value);
}

void
vhdx_metadata_clear (VhdxMetadata *metadata)
{
  g_clear_pointer (&metadata->locator, g_array_unref);
}

GArray *
vhdx_locator_new (void)
{
  GArray *locator = g_array_new (false, true, sizeof (VhdxLocatorEntry));

  g_array_set_clear_func (locator, free_entry);
  return locator;
}
