/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parent locators ([MS-VHDX] 2.6.2.6) from text to bytes, and what stands in those that link to a parent: no I/O. */
#include <string.h>

#include "path.h"
#include "vhdx.h"

/* Appends @text, UTF-16LE, and says where it came to lie; false: it cannot be stored. */
static bool
append_text (GByteArray *item, const char *text, Le32 *offset, Le16 *length)
{
  glong n;
  g_autofree gunichar2 *units = g_utf8_to_utf16 (text, -1, NULL, &n, NULL);

  if (!units || n == 0 || n > UINT16_MAX / 2 || item->len > VHDX_MAX_METADATA_ITEM)
    return false;
  *offset = le32 (item->len);
  *length = le16 (n * 2);
  for (glong i = 0; i < n; i++)
    {
      Le16 unit = le16 (units[i]);

      g_byte_array_append (item, unit.b, sizeof unit);
    }
  return true;
}

GByteArray *
vhdx_locator_encode (const GArray *entries)
{
  VhdxLocatorDisk disk = { vhdx_guid_locator_vhdx, le16 (0), le16 (entries->len) };
  g_autoptr (GByteArray) item = g_byte_array_new ();

  if (entries->len == 0 || entries->len > VHDX_MAX_LOCATOR_ENTRIES)
    return NULL;
  g_byte_array_set_size (item, sizeof disk + entries->len * sizeof (VhdxLocatorEntryDisk));
  memcpy (item->data, &disk, sizeof disk);
  for (guint i = 0; i < entries->len; i++)
    {
      const VhdxLocatorEntry *text = &g_array_index (entries, VhdxLocatorEntry, i);
      VhdxLocatorEntryDisk entry;

      if (!append_text (item, text->key, &entry.key_offset, &entry.key_length)
          || !append_text (item, text->value, &entry.value_offset, &entry.value_length))
        return NULL;
      memcpy (item->data + sizeof disk + i * sizeof entry, &entry, sizeof entry);
    }
  return item->len <= VHDX_MAX_METADATA_ITEM ? g_steal_pointer (&item) : NULL;
}

static void
add_entry (GArray *entries, const char *key, const char *value)
{
  VhdxLocatorEntry entry = { g_strdup (key), g_strdup (value) };

  g_array_append_val (entries, entry);
}

static void
add_guid (GArray *entries, const char *key, const VhdxGuid *guid)
{
  char text[37], braced[39];

  vhdx_guid_format (guid, text);
  g_snprintf (braced, sizeof braced, "{%s}", text);
  add_entry (entries, key, braced);
}

static GArray *
make_entries (const VhdxGuid *linkage, const BlockParentChange *link)
{
  static const VhdxGuid none;
  g_autofree char *relative = path_relative_windows (link->child_path, link->parent_path);
  GArray *entries = vhdx_locator_new ();

  add_guid (entries, "parent_linkage", linkage);
  /* Room for the second GUID that a merge needs, as Hyper-V keeps it. */
  add_guid (entries, "parent_linkage2", &none);
  add_entry (entries, "relative_path", relative);
  /* This host has no Windows path to give.  On Windows "/dir/parent.vhdx" leads nowhere, or to a file that has
   * not the identity; here it finds the parent of a child that was moved, or, as the last to be tried, the one that
   * is somewhere else. */
  add_entry (entries, "absolute_win32_path", link->other_path ? link->other_path : link->parent_path);
  return entries;
}

GByteArray *
vhdx_locator_make (const BlockDriverState *child, const BlockParentChange *link, GArray **entries,
                   GError **error)
{
  const VhdxState *parent = link->parent->opaque;
  g_autoptr (GArray) made = NULL;
  GByteArray *item;

  if (vhdx_guid_is_zero (&parent->header.data_write_guid))
    {
      bdrv_set_error (error, child, VHDKIT_ERROR_UNSUPPORTED,
                      "the parent %s has no identity (its DataWriteGuid is zero)", link->parent->filename);
      return NULL;
    }
  made = make_entries (&parent->header.data_write_guid, link);
  item = vhdx_locator_encode (made);
  if (!item)
    bdrv_set_error (error, child, VHDKIT_ERROR_INVALID_ARGUMENT,
                    "the path of the parent, %s%s%s, is too long or not UTF-8 and cannot be stored",
                    link->parent_path, link->other_path ? " or " : "",
                    link->other_path ? link->other_path : "");
  else
    *entries = g_steal_pointer (&made);
  return item;
}
