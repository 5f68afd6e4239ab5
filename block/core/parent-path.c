/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a parent's name, as a stranger's image spells it, to paths on this host.
 *
 *   ..\base.vhd  ./base.vhd      relative: to the child's directory with symlinks resolved, then as named
 *   C:\disks\base.vhd            through the drive map "C:=/mnt/c" only
 *   \\server\share\base.vhd      through a map of "\\server\share=/mnt/share"
 *   \\?\Volume{…}\base.vhd       likewise; "\\?\C:\…" and "\\?\UNC\…" are the short forms above
 *   /disks/base.vhd              as it is
 *
 * Windows does not tell upper from lower case: where there is no file of the exact name, one that differs
 * in case will do (the first in byte order).  Nothing is opened here.
 */
#include "core-int.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* --- text ---------------------------------------------------------------------------------------------- */

static bool
is_separator (char c)
{
  return c == '\\' || c == '/';
}

static bool
is_drive (const char *text)
{
  return g_ascii_isalpha (text[0]) && text[1] == ':';
}

static char *
with_slashes (const char *text)
{
  return g_strdelimit (g_strdup (text), "\\", '/');
}

/* In Windows spelling, without the prefixes that turn off its parsing of paths. */
static char *
windows_spelling (const char *text)
{
  g_autofree char *spelled = g_strdelimit (g_strdup (text), "/", '\\');

  if (!g_str_has_prefix (spelled, "\\\\?\\") && !g_str_has_prefix (spelled, "\\\\.\\"))
    return g_steal_pointer (&spelled);
  if (g_ascii_strncasecmp (spelled + 4, "UNC\\", 4) == 0)
    return g_strconcat ("\\\\", spelled + 8, NULL);
  return g_strdup (spelled + 4);
}

/* Absolute as Windows sees it: drive, server or volume. */
static bool
is_windows_absolute (const char *text)
{
  return is_drive (text) || g_str_has_prefix (text, "\\\\");
}

/* --- directories --------------------------------------------------------------------------------------- */

/* An entry of @dir that equals @name but for case, or NULL. */
static char *
find_in_other_case (const char *dir, const char *name)
{
  g_autoptr (GDir) entries = g_dir_open (dir, 0, NULL);
  g_autofree char *folded = g_utf8_casefold (name, -1);
  g_autofree char *found = NULL;
  const char *entry;

  while (entries && (entry = g_dir_read_name (entries)))
    {
      if (!g_utf8_validate (entry, -1, NULL))
        continue;
      g_autofree char *entry_folded = g_utf8_casefold (entry, -1);
      if (strcmp (folded, entry_folded) == 0 && (!found || strcmp (entry, found) < 0))
        {
          g_free (found);
          found = g_strdup (entry);
        }
    }
  return g_steal_pointer (&found);
}

/* Directories of one path that are read for names in another case: no path of Windows needs more, and a path made to
 * cost time ("A/../A/../A…") would have thousands read. */
#define MAX_DIRECTORIES_READ 64

/* @dir/@rest, with components that do not exist replaced by ones that differ in case. */
static char *
append_path (const char *dir, const char *rest, const char *confine)
{
  g_auto (GStrv) components = g_strsplit (rest, "/", -1);
  GString *path = g_string_new (dir);
  unsigned directories_read = 0;
  bool exists = true;

  for (char **component = components; *component; component++)
    {
      struct stat st;

      if (**component == '\0' || strcmp (*component, ".") == 0)
        continue;
      gsize dir_len = path->len;
      if (path->len == 0 || path->str[path->len - 1] != '/')
        g_string_append_c (path, '/');
      gsize name_at = path->len;
      g_string_append (path, *component);
      if (!exists || lstat (path->str, &st) == 0)
        continue;

      /* What is outside of @confine is not even looked at. */
      g_autofree char *parent = g_strndup (path->str, MAX (dir_len, 1));
      g_autofree char *other = NULL;
      if (errno == ENOENT && directories_read++ < MAX_DIRECTORIES_READ
          && (!confine || bdrv_check_confined (parent, confine, NULL)))
        other = find_in_other_case (parent, *component);
      exists = other != NULL;
      if (other)
        {
          g_string_truncate (path, name_at);
          g_string_append (path, other);
        }
    }
  return g_string_free (path, FALSE);
}

/* --- the forms ----------------------------------------------------------------------------------------- */

static void
add_path (GPtrArray *paths, char *path)
{
  for (guint i = 0; i < paths->len; i++)
    if (strcmp (g_ptr_array_index (paths, i), path) == 0)
      {
        g_free (path);
        return;
      }
  g_ptr_array_add (paths, path);
}

static void
add_relative (GPtrArray *paths, const char *text, const char *child_host_path, const char *child_name,
              const char *confine)
{
  g_autofree char *rest = with_slashes (text);
  g_autofree char *real_dir = g_path_get_dirname (child_host_path);
  g_autofree char *named = g_canonicalize_filename (child_name, NULL);
  g_autofree char *named_dir = g_path_get_dirname (named);

  add_path (paths, append_path (real_dir, rest, confine));
  if (strcmp (real_dir, named_dir) != 0)
    add_path (paths, append_path (named_dir, rest, confine));
}

/* "a/../../b" as Windows reads it: without looking at the disk, and the root is its own parent. */
static char *
fold_dots (const char *path)
{
  g_auto (GStrv) components = g_strsplit (path, "/", -1);
  g_autoptr (GPtrArray) kept = g_ptr_array_new ();

  for (char **component = components; *component; component++)
    {
      if (**component == '\0' || strcmp (*component, ".") == 0)
        continue;
      if (strcmp (*component, "..") != 0)
        g_ptr_array_add (kept, *component);
      else if (kept->len > 0)
        g_ptr_array_set_size (kept, kept->len - 1);
    }
  g_ptr_array_add (kept, NULL);
  return g_strjoinv ("/", (char **)kept->pdata);
}

/* The entry of @drive_map with the longest key that @text begins with.  Sets *rest to what follows. */
static const char *
find_mapping (const char *const *drive_map, const char *text, const char **rest)
{
  const char *best = NULL;
  size_t best_len = 0;

  for (; drive_map && *drive_map; drive_map++)
    {
      const char *equals = strchr (*drive_map, '=');
      if (!equals || equals[1] == '\0')
        continue;
      g_autofree char *key_text = g_strndup (*drive_map, equals - *drive_map);
      g_autofree char *key = windows_spelling (key_text);
      size_t len = strlen (key);
      while (len > 0 && key[len - 1] == '\\')
        key[--len] = '\0';
      if (len > best_len && g_ascii_strncasecmp (text, key, len) == 0
          && (text[len] == '\\' || text[len] == '\0'))
        {
          best = equals + 1;
          best_len = len;
          *rest = text + len;
        }
    }
  return best;
}

static bool
add_windows (GPtrArray *paths, const char *text, const char *const *drive_map, const char *confine,
             GError **error)
{
  g_autofree char *spelled = windows_spelling (text);
  const char *rest;
  const char *dir = find_mapping (drive_map, spelled, &rest);

  if (!dir)
    {
      if (is_drive (spelled))
        g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND,
                     "no drive map for this Windows path (--map-drive %c:=DIR)",
                     g_ascii_toupper (spelled[0]));
      else
        g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND,
                     "no drive map for this Windows path (--map-drive PREFIX=DIR)");
      return false;
    }
  g_autofree char *slashed = with_slashes (rest);
  g_autofree char *folded = fold_dots (slashed);
  if (*folded == '\0')
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND, "names no file");
      return false;
    }
  g_ptr_array_add (paths, append_path (dir, folded, confine));
  return true;
}

static bool
add_basename (GPtrArray *paths, const char *text, const char *child_host_path, const char *child_name,
              const char *confine, GError **error)
{
  const char *last = text;

  for (const char *p = text; *p; p++)
    if (is_separator (*p) || (p == text + 1 && is_drive (text)))
      last = p + 1;
  if (*last == '\0' || strcmp (last, ".") == 0 || strcmp (last, "..") == 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND, "names no file");
      return false;
    }
  add_relative (paths, last, child_host_path, child_name, confine);
  return true;
}

GPtrArray *
bdrv_resolve_parent_path (const BlockParentPath *path, const char *child_host_path, const char *child_name,
                          const char *const *drive_map, const char *confine, GError **error)
{
  const char *text = path->path;
  g_autoptr (GPtrArray) paths = g_ptr_array_new_with_free_func (g_free);
  bool ok = true;

  if (!text || *text == '\0' || strlen (text) >= PATH_MAX || !g_utf8_validate (text, -1, NULL))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND, "is empty, too long or not UTF-8");
      return NULL;
    }

  if (path->kind == BLOCK_PARENT_PATH_BASENAME)
    ok = add_basename (paths, text, child_host_path, child_name, confine, error);
  else if (is_windows_absolute (text))
    ok = add_windows (paths, text, drive_map, confine, error);
  else if (text[0] == '/')
    g_ptr_array_add (paths, g_strdup (text));
  else if (text[0] == '\\')
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND, "names no drive");
      ok = false;
    }
  else
    add_relative (paths, text, child_host_path, child_name, confine);
  return ok ? g_steal_pointer (&paths) : NULL;
}
