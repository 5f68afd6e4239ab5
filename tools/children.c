/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other images above one that is about to be written to.
 *
 * What is written to an image shows through to its children: they show a mixture afterwards, or cannot be opened any more.
 */
#include "children.h"

#include <stdlib.h>
#include <string.h>

/* So many are named. */
#define MAX_NAMED 5

/* The names of those that are children, or (@unknown) of those that may be; *@n: how many there are. */
static char *
name_some (VhdkitChild **children, bool unknown, unsigned *n)
{
  GString *text = g_string_new (NULL);
  *n = 0;
  for (VhdkitChild **child = children; *child != NULL; child++)
    {
      if (((*child)->problem != NULL) != unknown || (*n)++ >= MAX_NAMED)
        continue;
      g_string_append_printf (text, "%s%s", *n > 1 ? ", " : "", (*child)->filename);
      if (unknown)
        g_string_append_printf (text, " (%s)", (*child)->problem);
    }
  if (*n > MAX_NAMED)
    g_string_append_printf (text, " and %u more", *n - MAX_NAMED);
  return g_string_free (text, FALSE);
}

/* A raw disk is no more than a name, and written every day, beside anything. */
static bool
is_raw (VhdkitImage *image)
{
  VhdkitLayerInfo info = { 0 };
  if (!vhdkit_image_get_layer_info (image, 0, &info, NULL))
    return false;
  bool raw = strcmp (info.format, "raw") == 0;
  vhdkit_layer_info_clear (&info);
  return raw;
}

bool
children_check (VhdkitImage *image, const char *path, bool ignore_unknown)
{
  g_autoptr (GError) error = NULL;
  VhdkitChild **children = vhdkit_image_find_children (image, 0, 0, &error);
  if (children == NULL)
    {
      report_error (path, error);
      return false;
    }
  unsigned n, n_unknown;
  g_autofree char *names = name_some (children, false, &n);
  g_autofree char *unknown = name_some (children, true, &n_unknown);
  vhdkit_children_free (children);
  if (n > 0)
    report (path,
            "%u image%s above it would be broken by a write: %s; nothing was changed: write to a child, or "
            "give %s up "
            "with --break-children",
            n, n == 1 ? "" : "s", names, n == 1 ? "it" : "them");
  else if (n_unknown > 0 && !ignore_unknown && !is_raw (image))
    report (path,
            "whether images above it would be broken by a write is not known: %s; nothing was changed: mend "
            "%s or move "
            "%s away, or go on regardless with --ignore-unknown",
            unknown, n_unknown == 1 ? "it" : "them", n_unknown == 1 ? "it" : "them");
  else
    return true;
  return false;
}
