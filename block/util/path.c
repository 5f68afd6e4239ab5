/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "path.h"

#include <string.h>

#include <glib.h>

/* "../dir/parent.vhd", "parent.vhd". */
static char *
relative_path (const char *file, const char *target)
{
  g_autofree char *dir = g_path_get_dirname (file);
  g_auto (GStrv) from = g_strsplit (dir, "/", -1);
  g_auto (GStrv) to = g_strsplit (target, "/", -1);
  GString *path = g_string_new (NULL);
  size_t common = 0;

  while (from[common] && to[common] && to[common + 1] && strcmp (from[common], to[common]) == 0)
    common++;
  for (size_t i = common; from[i]; i++)
    if (from[i][0] != '\0')
      g_string_append (path, "../");
  for (size_t i = common; to[i]; i++)
    g_string_append_printf (path, "%s%s", to[i], to[i + 1] ? "/" : "");
  return g_string_free (path, FALSE);
}

char *
path_relative_windows (const char *file, const char *target)
{
  g_autofree char *relative = relative_path (file, target);

  return g_strdelimit (g_strconcat (g_str_has_prefix (relative, "../") ? "" : "./", relative, NULL), "/",
                       '\\');
}
