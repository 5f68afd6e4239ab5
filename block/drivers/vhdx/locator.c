/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parent locator ([MS-VHDX] 2.6.2.6): which parent, and where it may be. */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

/* UTF-16LE text of an entry, or NULL.  Offsets may be odd: nothing says they must not. */
static char *
decode_text (VhdxState *s, const uint8_t *item, size_t bytes, uint32_t index, const char *what,
             uint32_t offset, uint32_t length, GError **error)
{
  size_t n = length / 2;
  g_autofree gunichar2 *units = NULL;
  char *text = NULL;
  bool whole = true;

  if (offset == 0 || length == 0 || length % 2 != 0 || offset > bytes || length > bytes - offset)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "parent locator: entry %u: %s text at offset %u, %u bytes: not inside the item of %zu "
                      "bytes, or odd",
                      index, what, offset, length, bytes);
      return NULL;
    }
  units = g_new (gunichar2, n);
  for (size_t i = 0; i < n; i++)
    {
      units[i] = item[offset + 2 * i] | item[offset + 2 * i + 1] << 8;
      whole &= units[i] != 0;
    }
  if (whole)
    text = g_utf16_to_utf8 (units, n, NULL, NULL, NULL);
  if (!text)
    bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                    "parent locator: entry %u: %s text at offset %u, %u bytes: not UTF-16 without NUL", index,
                    what, offset, length);
  return text;
}

const char *
vhdx_locator_get (const VhdxState *s, const char *key)
{
  const GArray *locator = s->metadata.locator;

  for (guint i = 0; locator && i < locator->len; i++)
    {
      const VhdxLocatorEntry *entry = &g_array_index (locator, VhdxLocatorEntry, i);

      if (strcmp (entry->key, key) == 0)
        return entry->value;
    }
  return NULL;
}

static bool
check_keys (VhdxState *s, GError **error)
{
  const char *linkage = vhdx_locator_get (s, "parent_linkage");
  VhdxGuid guid;

  if (!linkage || !vhdx_guid_parse (linkage, &guid))
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "parent locator: parent_linkage is %s, expected a GUID", linkage ? linkage : "missing");
      return false;
    }
  if (!vhdx_locator_get (s, "relative_path") && !vhdx_locator_get (s, "volume_path")
      && !vhdx_locator_get (s, "absolute_win32_path"))
    bdrv_warn (s->bs, "parent locator: it names no path");
  return true;
}

static bool
decode_entry (VhdxState *s, const uint8_t *item, size_t bytes, uint32_t index,
              const VhdxLocatorEntryDisk *disk, GError **error)
{
  g_autofree char *key = decode_text (s, item, bytes, index, "key", le32_get (disk->key_offset),
                                      le16_get (disk->key_length), error);
  g_autofree char *value = key ? decode_text (s, item, bytes, index, "value", le32_get (disk->value_offset),
                                              le16_get (disk->value_length), error)
                               : NULL;
  VhdxLocatorEntry text;

  if (!value)
    return false;
  if (vhdx_locator_get (s, key))
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                      "parent locator: entry %u: key \"%s\" is there twice", index, key);
      return false;
    }
  text = (VhdxLocatorEntry){ g_steal_pointer (&key), g_steal_pointer (&value) };
  g_array_append_val (s->metadata.locator, text);
  return true;
}

bool
vhdx_locator_decode (VhdxState *s, const uint8_t *item, size_t bytes, GError **error)
{
  VhdxLocatorDisk disk;
  uint32_t count;
  size_t text_bytes = 0;

  if (bytes < sizeof disk)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "parent locator: %zu bytes, at least %zu", bytes,
                      sizeof disk);
      return false;
    }
  memcpy (&disk, item, sizeof disk);
  count = le16_get (disk.count);
  if (!vhdx_guid_equal (&disk.locator_type, &vhdx_guid_locator_vhdx))
    {
      char text[37];

      vhdx_guid_format (&disk.locator_type, text);
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED, "parent locator: type %s is not known", text);
      return false;
    }
  if (count == 0 || count > VHDX_MAX_LOCATOR_ENTRIES
      || bytes < sizeof disk + count * sizeof (VhdxLocatorEntryDisk))
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT, "parent locator: %u entries in %zu bytes", count,
                      bytes);
      return false;
    }

  s->metadata.locator = vhdx_locator_new ();
  for (uint32_t i = 0; i < count; i++)
    {
      VhdxLocatorEntryDisk entry;

      memcpy (&entry, item + sizeof disk + i * sizeof entry, sizeof entry);
      /* Texts that lie over each other would be many times as long as the item. */
      text_bytes += le16_get (entry.key_length) + le16_get (entry.value_length);
      if (text_bytes > bytes)
        {
          bdrv_set_error (error, s->bs, VHDKIT_ERROR_CORRUPT,
                          "parent locator: entry %u: %zu bytes of text so far, the item has %zu", i,
                          text_bytes, bytes);
          return false;
        }
      if (!decode_entry (s, item, bytes, i, &entry, error))
        return false;
    }
  return check_keys (s, error);
}

/* A path is taken by its form: a "relative" one that starts like an absolute one is absolute.  Volumes and shares
 * keep their "\\?\", or get it: without it they would look relative. */
static void
add_path (BlockParentLink *link, const char *path, const char *origin)
{
  g_autofree char *prefixed = NULL;
  const char *rest = path;

  if (!path)
    return;
  if (g_str_has_prefix (path, "\\\\?\\") || g_str_has_prefix (path, "\\??\\"))
    rest += 4;
  if (rest[0] == '\0')
    return;
  if (g_ascii_strncasecmp (rest, "Volume{", 7) == 0 || g_ascii_strncasecmp (rest, "UNC\\", 4) == 0)
    {
      prefixed = g_strconcat ("\\\\?\\", rest, NULL);
      block_parent_link_add (link, BLOCK_PARENT_PATH_ABSOLUTE, prefixed, origin);
    }
  else if (rest[0] == '/' || rest[0] == '\\' || (g_ascii_isalpha (rest[0]) && rest[1] == ':'))
    block_parent_link_add (link, BLOCK_PARENT_PATH_ABSOLUTE, rest, origin);
  else
    block_parent_link_add (link, BLOCK_PARENT_PATH_RELATIVE, rest, origin);
}

const char *const vhdx_parent_formats[] = { "vhdx", NULL };

bool
vhdx_get_parent_link (BlockDriverState *bs, BlockParentLink *link)
{
  static const char *const keys[] = { "relative_path", "volume_path", "absolute_win32_path" };
  VhdxState *s = bs->opaque;
  const char *linkage2 = vhdx_locator_get (s, "parent_linkage2");
  VhdxGuid guid;

  if (!s->metadata.has_parent)
    return false;
  for (size_t i = 0; i < G_N_ELEMENTS (keys); i++)
    add_path (link, vhdx_locator_get (s, keys[i]), keys[i]);
  for (size_t i = 0; i < G_N_ELEMENTS (keys); i++)
    if (vhdx_locator_get (s, keys[i]))
      block_parent_link_add (link, BLOCK_PARENT_PATH_BASENAME, vhdx_locator_get (s, keys[i]),
                             "its base name");
  link->formats = vhdx_parent_formats;
  link->has_identity = true;
  if (vhdx_guid_parse (vhdx_locator_get (s, "parent_linkage"), &guid) && !vhdx_guid_is_zero (&guid))
    memcpy (link->identity[link->identities++], &guid, sizeof guid);
  /* Hyper-V keeps a zero GUID there outside of a merge: never a match. */
  if (linkage2 && vhdx_guid_parse (linkage2, &guid) && !vhdx_guid_is_zero (&guid))
    memcpy (link->identity[link->identities++], &guid, sizeof guid);
  return true;
}

void
vhdx_format_identity (const uint8_t *identity, char text[37])
{
  VhdxGuid guid;

  memcpy (&guid, identity, sizeof guid);
  vhdx_guid_format (&guid, text);
}

bool
vhdx_get_identity (BlockDriverState *bs, uint8_t *identity)
{
  VhdxState *s = bs->opaque;

  memcpy (identity, &s->header.data_write_guid, sizeof s->header.data_write_guid);
  return true;
}
