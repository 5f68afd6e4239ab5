/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking the metadata region of an image that could be opened: what its reader passes over. */
#include <string.h>

#include "check.h"

/* Microsoft's reader refuses more. */
#define MAX_METADATA_REGION (128 * VHDX_MIB)
#define MAX_USER_ITEMS      1024
#define MAX_SYSTEM_ITEMS    1023

#define ITEM_FLAGS (VHDX_METADATA_USER | VHDX_METADATA_VIRTUAL_DISK | VHDX_METADATA_REQUIRED)

/* [MS-VHDX] 2.6.2: the flags that the items of the format have. */
static const struct
{
  const VhdxGuid *id;
  const char *name;
  uint32_t flags;
} known_items[] = {
  { &vhdx_guid_parameters, "file parameters", VHDX_METADATA_REQUIRED },
  { &vhdx_guid_disk_size, "virtual disk size", VHDX_METADATA_VIRTUAL_DISK | VHDX_METADATA_REQUIRED },
  { &vhdx_guid_disk_id, "virtual disk ID", VHDX_METADATA_VIRTUAL_DISK | VHDX_METADATA_REQUIRED },
  { &vhdx_guid_logical_sector, "logical sector size", VHDX_METADATA_VIRTUAL_DISK | VHDX_METADATA_REQUIRED },
  { &vhdx_guid_physical_sector, "physical sector size", VHDX_METADATA_VIRTUAL_DISK | VHDX_METADATA_REQUIRED },
  { &vhdx_guid_locator, "parent locator", VHDX_METADATA_REQUIRED },
};

static void coroutine_fn
check_parameters (VhdxState *s, const VhdxMetadataEntryDisk *entry, BlockCheckResult *result)
{
  int64_t file_offset = s->metadata_region.file_offset + le32_get (entry->offset);
  const uint32_t known = VHDX_PARAMETER_LEAVE_ALLOCATED | VHDX_PARAMETER_HAS_PARENT;
  Le32 parameters[2];
  uint32_t flags;

  if (vhdx_co_read (s, file_offset, sizeof parameters, parameters) < 0)
    {
      check_unreadable (result, "metadata item file parameters", file_offset);
      return;
    }
  flags = le32_get (parameters[1]);
  if (flags & ~known)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata item file parameters at offset %" PRId64
                        ": flags 0x%x, reserved bits are set",
                        file_offset, flags);
  if ((flags & known) == known)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata item file parameters at offset %" PRId64
                        ": a disk with a parent is to keep its blocks allocated; ignored",
                        file_offset);
}

/* --- parent locator -------------------------------------------------------------------------------------------- */

static void
check_locator_keys (const VhdxState *s, int64_t file_offset, BlockCheckResult *result)
{
  static const char *const known[] = { "parent_linkage", "parent_linkage2", "relative_path", "volume_path",
                                       "absolute_win32_path" };
  const char *linkage2 = vhdx_locator_get (s, "parent_linkage2");
  bool has_path = false;
  VhdxGuid guid;

  for (guint i = 0; i < s->metadata.locator->len; i++)
    {
      const VhdxLocatorEntry *entry = &g_array_index (s->metadata.locator, VhdxLocatorEntry, i);
      size_t k = 0;

      while (k < G_N_ELEMENTS (known) && strcmp (entry->key, known[k]) != 0)
        k++;
      has_path = has_path || (k >= 2 && k < G_N_ELEMENTS (known));
      if (k == G_N_ELEMENTS (known))
        block_check_report (result, BLOCK_CHECK_INFO,
                            "parent locator at offset %" PRId64 ": entry %u: key \"%s\" is not known",
                            file_offset, i, entry->key);
    }
  if (!has_path)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "parent locator at offset %" PRId64
                        ": it names no path, expected relative_path, volume_path or absolute_win32_path",
                        file_offset);
  if (vhdx_guid_parse (vhdx_locator_get (s, "parent_linkage"), &guid) && vhdx_guid_is_zero (&guid))
    block_check_report (result, BLOCK_CHECK_ERROR,
                        "parent locator at offset %" PRId64 ": parent_linkage is zero, no parent matches it",
                        file_offset);
  if (linkage2 && !vhdx_guid_parse (linkage2, &guid))
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "parent locator at offset %" PRId64
                        ": parent_linkage2 is \"%s\", expected a GUID; ignored",
                        file_offset, linkage2);
}

static void coroutine_fn
check_locator (VhdxState *s, const VhdxMetadataEntryDisk *entry, BlockCheckResult *result)
{
  int64_t file_offset = s->metadata_region.file_offset + le32_get (entry->offset);
  VhdxLocatorDisk disk;

  if (!s->metadata.has_parent)
    {
      block_check_report (result, BLOCK_CHECK_WARNING,
                          "parent locator at offset %" PRId64 ": the disk has no parent; ignored",
                          file_offset);
      return;
    }
  /* Opening has read it: it is long enough. */
  if (vhdx_co_read (s, file_offset, sizeof disk, &disk) < 0)
    {
      check_unreadable (result, "parent locator", file_offset);
      return;
    }
  if (le16_get (disk.reserved) != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "parent locator at offset %" PRId64 ": reserved field is 0x%x, expected 0",
                        file_offset, le16_get (disk.reserved));
  check_locator_keys (s, file_offset, result);
}

/* --- the table ------------------------------------------------------------------------------------------------- */

static void coroutine_fn
check_item (VhdxState *s, uint32_t index, const VhdxMetadataEntryDisk *entry, BlockCheckResult *result)
{
  uint32_t flags = le32_get (entry->flags);
  int64_t at =
      s->metadata_region.file_offset + sizeof (VhdxMetadataTableDisk) + (int64_t)index * sizeof *entry;
  char guid[37];
  size_t k = 0;

  vhdx_guid_format (&entry->item_id, guid);
  if (flags & ~(uint32_t)ITEM_FLAGS)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata table entry %u at offset %" PRId64
                        ", item %s: flags 0x%x, reserved bits are set",
                        index, at, guid, flags);
  if (le32_get (entry->reserved) != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata table entry %u at offset %" PRId64
                        ", item %s: reserved field is 0x%x, expected 0",
                        index, at, guid, le32_get (entry->reserved));
  if (flags & VHDX_METADATA_USER)
    return;
  while (k < G_N_ELEMENTS (known_items) && !vhdx_guid_equal (&entry->item_id, known_items[k].id))
    k++;
  if (k == G_N_ELEMENTS (known_items))
    {
      if (!vhdx_guid_equal (&entry->item_id, &vhdx_guid_chs)
          && !vhdx_guid_equal (&entry->item_id, &vhdx_guid_pmem))
        block_check_report (result, BLOCK_CHECK_INFO,
                            "metadata table entry %u at offset %" PRId64
                            ", item %s, %u bytes, is not known; it is kept",
                            index, at, guid, le32_get (entry->length));
      return;
    }
  if ((flags & ITEM_FLAGS) != known_items[k].flags)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata table entry %u at offset %" PRId64 ", %s: flags 0x%x, expected 0x%x", index,
                        at, known_items[k].name, flags, known_items[k].flags);
  if (known_items[k].id == &vhdx_guid_parameters)
    check_parameters (s, entry, result);
  else if (known_items[k].id == &vhdx_guid_locator && le32_get (entry->length) >= sizeof (VhdxLocatorDisk))
    check_locator (s, entry, result);
}

void coroutine_fn
vhdx_co_check_metadata (VhdxState *s, BlockCheckResult *result)
{
  g_autofree uint8_t *table = g_malloc (VHDX_METADATA_TABLE_SIZE);
  const VhdxMetadataTableDisk *disk = (const void *)table;
  int64_t file_offset = s->metadata_region.file_offset;
  uint32_t users = 0, count;

  if (s->metadata_region.bytes > MAX_METADATA_REGION)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata region at offset %" PRId64 ": %" PRId64 " bytes, expected at most %" PRId64,
                        file_offset, s->metadata_region.bytes, MAX_METADATA_REGION);
  if (vhdx_co_read (s, file_offset, VHDX_METADATA_TABLE_SIZE, table) < 0)
    {
      check_unreadable (result, "metadata table", file_offset);
      return;
    }
  if (le16_get (disk->reserved) != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata table at offset %" PRId64 ": reserved field is 0x%x, expected 0",
                        file_offset, le16_get (disk->reserved));
  count = MIN (le16_get (disk->entry_count), VHDX_MAX_METADATA_ENTRIES);
  for (uint32_t i = 0; i < count; i++)
    {
      VhdxMetadataEntryDisk entry;

      memcpy (&entry, table + sizeof *disk + i * sizeof entry, sizeof entry);
      users += (le32_get (entry.flags) & VHDX_METADATA_USER) != 0;
      check_item (s, i, &entry, result);
    }
  if (users > MAX_USER_ITEMS || count - users > MAX_SYSTEM_ITEMS)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "metadata table at offset %" PRId64 ": %u user items and %u others, expected at most "
                        "%d and %d",
                        file_offset, users, count - users, MAX_USER_ITEMS, MAX_SYSTEM_ITEMS);
}
