/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a parent's name in a stranger's image to places on this host (parent-path.c), and options as users write them.
 *
 * Asserted: names that Windows takes as absolute lead below a directory of the drive map and nowhere else; other
 * places begin in the directory of the child; what is confined is below that directory.
 *
 * The script: a byte for the kind of name (2 bits), whether it is confined (4) and what the drive map has (8, 16, 32);
 * a byte for how much of the rest is an entry of the drive map; that entry; the name.
 */
#include "fuzz.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core-int.h"

#include <glib/gstdio.h>

static char *mapped, *child;

static void
remove_dirs (void)
{
  g_autofree char *file = g_build_filename (mapped, "Base.VHD", NULL);
  g_autofree char *below = g_build_filename (mapped, "dir", NULL);

  g_unlink (file);
  g_rmdir (below);
  g_rmdir (mapped);
  g_free (mapped);
  g_free (child);
}

/* A place for names to be found in, in another case too. */
static void
make_dirs (void)
{
  g_autofree char *dir = NULL, *file = NULL, *below = NULL;

  if (mapped)
    return;
  child = g_strdup (fuzz_path (0));
  dir = g_path_get_dirname (child);
  mapped = g_build_filename (dir, "mapped", NULL);
  below = g_build_filename (mapped, "dir", NULL);
  file = g_build_filename (mapped, "Base.VHD", NULL);
  g_mkdir (mapped, 0700);
  g_mkdir (below, 0700);
  g_file_set_contents (file, "", 0, NULL);
  atexit (remove_dirs);
}

static bool
is_below (const char *path, const char *dir)
{
  return g_str_has_prefix (path, dir) && path[strlen (dir)] == '/';
}

/* ".." is a component of it. */
static bool
goes_up (const char *path)
{
  g_auto (GStrv) components = g_strsplit (path, "/", -1);

  return g_strv_contains ((const char *const *)components, "..");
}

/* What begins with "/" is a name of this host, whatever follows. */
static bool
is_windows_absolute (const char *name)
{
  return (g_ascii_isalpha (name[0]) && name[1] == ':') || g_str_has_prefix (name, "\\\\");
}

/* @own_entry: one more of the drive map, or NULL. */
static void
judge_mapped (const char *place, const char *own_entry)
{
  const char *dir = mapped;

  if (!is_below (place, mapped))
    {
      g_assert_nonnull (own_entry);
      dir = strchr (own_entry, '=') + 1;
      g_assert_true (g_str_has_prefix (place, dir));
    }
  g_assert_false (goes_up (place + strlen (dir)));
}

static void
judge (const BlockParentPath *path, const char *place, const char *own_entry)
{
  g_autofree char *dir = g_path_get_dirname (child);

  g_assert_true (g_utf8_validate (place, -1, NULL));
  if (path->kind == BLOCK_PARENT_PATH_BASENAME)
    {
      g_autofree char *found_in = g_path_get_dirname (place);

      g_assert_cmpstr (found_in, ==, dir);
    }
  else if (is_windows_absolute (path->path))
    judge_mapped (place, own_entry);
  else if (path->path[0] == '/')
    g_assert_cmpstr (place, ==, path->path);
  else
    g_assert_true (is_below (place, dir) || strcmp (place, dir) == 0);
}

static void
try_options (const char *text)
{
  g_auto (GStrv) words = bdrv_split_options (text);
  g_autoptr (GError) error = NULL;
  const BlockDriver *drv = bdrv_find_driver ("vhdx");
  g_autoptr (BlockOptions) options =
      block_options_parse (drv->create_options, (const char *const *)words, &error);

  g_assert_true ((options == NULL) == (error != NULL));
}

static void
run (const uint8_t *script, size_t bytes)
{
  FuzzReader reader = { script, script + bytes };
  uint8_t flags = fuzz_u8 (&reader), length = fuzz_u8 (&reader);
  size_t left = reader.end - reader.at, entry_bytes = MIN (length, left);

  fuzz_context ();
  make_dirs ();

  g_autofree char *entry = g_strndup ((const char *)reader.at, entry_bytes);
  g_autofree char *name = g_strndup ((const char *)reader.at + entry_bytes, left - entry_bytes);
  g_autofree char *drive = g_strconcat ("C:=", mapped, NULL),
                  *server = g_strconcat ("\\\\srv\\share=", mapped, NULL);
  const char *map[4];
  int n = 0;
  bool own_map = flags & 32 && g_utf8_validate (entry, -1, NULL);
  BlockParentPath path = { .kind = (BlockParentPathKind)(flags % 3), .path = name };
  g_autoptr (GError) error = NULL;
  g_autofree char *dir = g_path_get_dirname (child);

  if (flags & 8)
    map[n++] = drive;
  if (flags & 16)
    map[n++] = server;
  if (own_map)
    map[n++] = entry;
  map[n] = NULL;

  g_autoptr (GPtrArray) places =
      bdrv_resolve_parent_path (&path, child, child, map, flags & 4 ? dir : NULL, &error);

  g_assert_true ((places == NULL) == (error != NULL));
  for (guint i = 0; places && i < places->len; i++)
    judge (&path, places->pdata[i], own_map ? entry : NULL);
  try_options (name);
}

const FuzzTarget fuzz_target = {
  .name = "path",
  .max_file_bytes = 4096,
  .max_requests = 1000,
  .max_bytes = 1 << 20,
  .run = run,
};
