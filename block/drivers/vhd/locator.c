/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parent locators: where a differencing image says its parent is (specification, "Parent Locator Entry").
 *
 * The order in which places are tried: W2ru, MacX, Wi2r, W2ku, Wi2k, the name in the header, and last the
 * base names of all of them in the child's directory.  Codes are not trusted: XenServer stores relative paths
 * as absolute ones and MiniVHD Unix paths as Windows ones, so a path is taken by its form, and what decides
 * is the identity of what is found there.
 */
#include <inttypes.h>
#include <string.h>

#include "path.h"
#include "vhd.h"

static const struct
{
  uint32_t code;
  const char *origin;
} read_order[] = {
  { VHD_LOCATOR_W2RU, "W2ru locator" }, { VHD_LOCATOR_MACX, "MacX locator" },
  { VHD_LOCATOR_WI2R, "Wi2r locator" }, { VHD_LOCATOR_W2KU, "W2ku locator" },
  { VHD_LOCATOR_WI2K, "Wi2k locator" },
};

/* --- decoding ---------------------------------------------------------------------------------------------
 */

/* UTF-16LE, unless a byte order mark says otherwise (COMPAT: XenServer 0.1 wrote one). */
static char *
decode_utf16 (const uint8_t *text, size_t bytes)
{
  size_t n = bytes / 2;
  g_autofree gunichar2 *units = g_new0 (gunichar2, n + 1);
  bool big_endian = n > 0 && text[0] == 0xFE && text[1] == 0xFF;
  size_t start = big_endian || (n > 0 && text[0] == 0xFF && text[1] == 0xFE) ? 1 : 0;

  for (size_t i = start; i < n; i++)
    units[i - start] = big_endian ? text[2 * i] << 8 | text[2 * i + 1] : text[2 * i + 1] << 8 | text[2 * i];
  n -= start;
  while (n > 0 && units[n - 1] == 0)
    n--;
  for (size_t i = 0; i < n; i++)
    if (units[i] == 0)
      return NULL;
  return g_utf16_to_utf8 (units, n, NULL, NULL, NULL);
}

static char *
decode_bytes (const uint8_t *text, size_t bytes)
{
  g_autofree char *path = NULL;

  while (bytes > 0 && text[bytes - 1] == 0)
    bytes--;
  if (memchr (text, 0, bytes))
    return NULL;
  path = g_strndup ((const char *)text, bytes);
  if (g_utf8_validate (path, -1, NULL))
    return g_steal_pointer (&path);
  return g_convert (path, -1, "UTF-8", "WINDOWS-1252", NULL, NULL, NULL);
}

/* "file://localhost/a%20b", "file:///a", and XenServer's "file://./b", which is relative. */
static char *
decode_url (const uint8_t *text, size_t bytes)
{
  g_autofree char *url = decode_bytes (text, bytes);
  const char *path = url;

  if (!url || !g_str_has_prefix (url, "file:"))
    return NULL;
  path += strlen ("file:");
  if (g_str_has_prefix (path, "//"))
    path += 2;
  if (g_str_has_prefix (path, "localhost/"))
    path += strlen ("localhost");
  return g_uri_unescape_string (path, NULL);
}

static bool
path_is_absolute (const char *path)
{
  return path[0] == '/' || path[0] == '\\' || (g_ascii_isalpha (path[0]) && path[1] == ':');
}

static void
add_path (VhdState *s, BlockParentPathKind kind, const char *path, const char *origin)
{
  BlockParentPath *entry;

  for (guint i = 0; i < s->parent_paths->len; i++)
    {
      const BlockParentPath *other = g_ptr_array_index (s->parent_paths, i);

      if (other->kind == kind && strcmp (other->path, path) == 0)
        return;
    }
  entry = g_new0 (BlockParentPath, 1);
  entry->kind = kind;
  entry->path = g_strdup (path);
  entry->origin = origin;
  g_ptr_array_add (s->parent_paths, entry);
}

static void
add_path_by_form (VhdState *s, const char *path, const char *origin)
{
  if (path[0] == '\0')
    return;
  add_path (s, path_is_absolute (path) ? BLOCK_PARENT_PATH_ABSOLUTE : BLOCK_PARENT_PATH_RELATIVE, path,
            origin);
}

static void
free_parent_path (void *opaque)
{
  BlockParentPath *entry = opaque;

  g_free (entry->path);
  g_free (entry);
}

/* *path: NULL when the slot holds no path, which is warned of.  0, or -errno when its text cannot be read: then
 * another slot must not decide, it may lead to another copy of the parent. */
static int coroutine_fn
read_locator (VhdState *s, const VhdLocator *locator, const char *origin, char **path)
{
  g_autofree uint8_t *text = NULL;
  bool utf16 = locator->code == VHD_LOCATOR_W2RU || locator->code == VHD_LOCATOR_W2KU;
  int64_t file_bytes = bdrv_length (s->bs->file);
  int ret;

  *path = NULL;
  if (locator->length == 0 || locator->length > VHD_LOCATOR_MAX_LENGTH || (utf16 && locator->length % 2 != 0))
    {
      bdrv_warn (s->bs, "%s: length %u is not sound (1 to %d%s)", origin, locator->length,
                 VHD_LOCATOR_MAX_LENGTH, utf16 ? ", even" : "");
      return 0;
    }
  if (locator->offset == 0 || locator->offset > (uint64_t)file_bytes
      || locator->length > (uint64_t)file_bytes - locator->offset)
    {
      bdrv_warn (s->bs, "%s: text at offset %" PRIu64 ", %u bytes, is outside the file of %" PRId64 " bytes",
                 origin, locator->offset, locator->length, file_bytes);
      return 0;
    }
  text = g_malloc (locator->length);
  ret = bdrv_co_pread (s->bs->file, locator->offset, locator->length, text);
  if (ret < 0)
    return ret;
  if (utf16)
    *path = decode_utf16 (text, locator->length);
  else if (locator->code == VHD_LOCATOR_MACX)
    *path = decode_url (text, locator->length);
  else
    *path = decode_bytes (text, locator->length);
  if (!*path)
    bdrv_warn (s->bs, "%s: its text at offset %" PRIu64 " is not a path", origin, locator->offset);
  return 0;
}

bool coroutine_fn
vhd_co_read_locators (VhdState *s, GError **error)
{
  gunichar2 units[VHD_PARENT_NAME_UNITS];
  size_t n = 0;
  g_autofree char *name = NULL;
  guint paths;

  g_clear_pointer (&s->parent_paths, g_ptr_array_unref);
  if (!vhd_is_differencing (s))
    return true;
  s->parent_paths = g_ptr_array_new_with_free_func (free_parent_path);
  for (size_t i = 0; i < G_N_ELEMENTS (read_order); i++)
    for (int slot = 0; slot < VHD_LOCATORS; slot++)
      {
        const VhdLocator *locator = &s->header.locators[slot];
        g_autofree char *path = NULL;
        int ret;

        if (locator->code != read_order[i].code || s->ignored_locators & 1u << slot)
          continue;
        ret = read_locator (s, locator, read_order[i].origin, &path);
        if (ret < 0)
          {
            bdrv_set_error_errno (error, s->bs, ret, "%s: cannot read its text at offset %" PRIu64,
                                  read_order[i].origin, locator->offset);
            return false;
          }
        if (path)
          add_path_by_form (s, path, read_order[i].origin);
      }

  while (n < VHD_PARENT_NAME_UNITS && s->header.parent_name[n] != 0)
    {
      units[n] = s->header.parent_name[n];
      n++;
    }
  name = g_utf16_to_utf8 (units, n, NULL, NULL, NULL);
  if (name)
    add_path_by_form (s, name, "parent name in the header");
  else
    bdrv_warn (s->bs, "the parent name in the header is not valid UTF-16");

  paths = s->parent_paths->len;
  for (guint i = 0; i < paths; i++)
    add_path (s, BLOCK_PARENT_PATH_BASENAME,
              ((BlockParentPath *)g_ptr_array_index (s->parent_paths, i))->path, "its base name");
  return true;
}

static const char *const parent_formats[] = { "vhd", "raw", NULL };
static const uint8_t no_identity[BLOCK_IDENTITY_SIZE];

bool
vhd_check_parent (const BlockDriverState *child, BlockDriverState *parent, GError **error)
{
  uint8_t identity[BLOCK_IDENTITY_SIZE];

  if (!bdrv_check_parent_format (child, parent, parent_formats, error))
    return false;
  if (!bdrv_get_identity (parent, identity) || memcmp (identity, no_identity, sizeof no_identity) != 0)
    return true;
  bdrv_set_error (error, parent, VHDKIT_ERROR_UNSUPPORTED,
                  "has no unique id: a child would take it for a plain disk");
  return false;
}

bool
vhd_get_parent_link (BlockDriverState *bs, BlockParentLink *link)
{
  static const char *const plain_disk[] = { "raw", NULL };
  VhdState *s = bs->opaque;

  if (!vhd_is_differencing (s))
    return false;
  for (guint i = 0; i < s->parent_paths->len; i++)
    {
      const BlockParentPath *entry = g_ptr_array_index (s->parent_paths, i);

      block_parent_link_add (link, entry->kind, entry->path, entry->origin);
    }
  link->has_identity = memcmp (s->header.parent_unique_id, no_identity, sizeof no_identity) != 0;
  /* Without an identity it is a plain disk, whatever its guest has written where an image would have its marks. */
  link->formats = link->has_identity ? parent_formats : plain_disk;
  if (link->has_identity)
    {
      memcpy (link->identity[0], s->header.parent_unique_id, sizeof link->identity[0]);
      link->identities = 1;
    }
  link->has_time_stamp = s->header.parent_time_stamp != 0;
  link->time_stamp = (int64_t)s->header.parent_time_stamp + VHD_EPOCH_OFFSET;
  return true;
}

bool
vhd_get_identity (BlockDriverState *bs, uint8_t *identity)
{
  VhdState *s = bs->opaque;

  memcpy (identity, s->footer.unique_id, sizeof s->footer.unique_id);
  return true;
}

/* --- encoding ---------------------------------------------------------------------------------------------
 */

static void
free_text (void *opaque)
{
  g_byte_array_unref (((VhdLocatorText *)opaque)->text);
}

GArray *
vhd_locator_texts_new (void)
{
  GArray *texts = g_array_new (false, true, sizeof (VhdLocatorText));

  g_array_set_clear_func (texts, free_text);
  return texts;
}

/* UTF-16LE, or NULL: not UTF-8, or too long. */
static GByteArray *
encode_relative (const char *child_path, const char *target)
{
  g_autofree char *windows = path_relative_windows (child_path, target);
  glong n;
  g_autofree gunichar2 *units = g_utf8_to_utf16 (windows, -1, NULL, &n, NULL);
  GByteArray *text;

  if (!units || n * 2 > VHD_LOCATOR_MAX_LENGTH)
    return NULL;
  text = g_byte_array_new ();
  for (glong i = 0; i < n; i++)
    {
      uint8_t unit[2] = { units[i] & 0xFF, units[i] >> 8 };

      g_byte_array_append (text, unit, sizeof unit);
    }
  return text;
}

/* NULL: too long. */
static GByteArray *
encode_url (const char *target)
{
  g_autofree char *escaped = g_uri_escape_string (target, "/", TRUE);
  g_autofree char *url = g_strconcat ("file://", escaped, NULL);

  if (strlen (url) > VHD_LOCATOR_MAX_LENGTH)
    return NULL;
  return g_byte_array_append (g_byte_array_new (), (const uint8_t *)url, strlen (url));
}

/* Puts @text (owned by the list from now on) at *file_offset, in whole sectors, and moves that behind it.  false:
 * there is no text. */
static bool
place_text (VhdHeader *header, int slot, uint32_t code, GByteArray *text, int64_t *file_offset, GArray *texts)
{
  VhdLocatorText entry = { *file_offset, text };
  int64_t space;

  if (!text)
    return false;
  space = round_up (text->len, VHD_SECTOR_SIZE);
  /* In bytes, as Windows has it, although the specification says sectors. */
  header->locators[slot] =
      (VhdLocator){ .code = code, .space = space, .length = text->len, .offset = *file_offset };
  g_array_append_val (texts, entry);
  *file_offset += space;
  return true;
}

int64_t
vhd_make_locators (VhdHeader *header, const char *child_path, const char *parent_path, const char *other_path,
                   int64_t file_offset, GArray *texts)
{
  g_autofree char *base = g_path_get_basename (parent_path);
  glong n_name;
  g_autofree gunichar2 *name_units = g_utf8_to_utf16 (base, -1, NULL, &n_name, NULL);

  memset (header->locators, 0, sizeof header->locators);
  memset (header->parent_name, 0, sizeof header->parent_name);
  if (!name_units)
    return -1;
  for (glong i = 0; i < n_name && n_name < VHD_PARENT_NAME_UNITS; i++)
    header->parent_name[i] = name_units[i];

  if (!place_text (header, 0, VHD_LOCATOR_W2RU, encode_relative (child_path, parent_path), &file_offset,
                   texts)
      || !place_text (header, 1, VHD_LOCATOR_MACX, encode_url (parent_path), &file_offset, texts))
    return -1;
  /* A second MacX and W2ku, whose turn is after both of the above.  W2ku as XenServer has it: what it holds is
   * relative, and readers take it by its form. */
  if (other_path
      && (!place_text (header, 2, VHD_LOCATOR_MACX, encode_url (other_path), &file_offset, texts)
          || !place_text (header, 3, VHD_LOCATOR_W2KU, encode_relative (child_path, other_path), &file_offset,
                          texts)))
    return -1;
  return file_offset;
}
