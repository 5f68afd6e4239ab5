/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hyper-V's resilient change tracking: IMAGE.rct and IMAGE.mrt beside an image say which of its blocks a backup has to
 * fetch.  Only Hyper-V keeps them up to date, so any other write to the image makes them wrong, and a backup that
 * trusts them leaves out what has changed.  They are left alone: whose they are is not known.
 */
#include "core-int.h"

static const char *const suffixes[] = { ".rct", ".mrt" };

char **
bdrv_find_change_tracking (const BlockDriverState *bs)
{
  const char *image = bdrv_get_host_path (bs);
  g_autoptr (GPtrArray) found = g_ptr_array_new ();

  for (size_t i = 0; image && i < G_N_ELEMENTS (suffixes); i++)
    {
      g_autofree char *path = g_strconcat (image, suffixes[i], NULL);
      struct stat st;

      if (stat (path, &st) == 0 && S_ISREG (st.st_mode))
        g_ptr_array_add (found, g_steal_pointer (&path));
    }
  if (found->len == 0)
    return NULL;
  g_ptr_array_add (found, NULL);
  return (char **)g_ptr_array_steal (found, NULL);
}

void
bdrv_warn_of_change_tracking (BlockDriverState *bs)
{
  BdrvNode *node = bdrv_node (bs);

  if (node->change_tracking_told)
    return;
  node->change_tracking_told = true;

  g_auto (GStrv) paths = bdrv_find_change_tracking (bs);
  if (!paths)
    return;
  g_autofree char *list = g_strjoinv (", ", paths);
  g_autofree char *shown = bdrv_printable (list);
  bdrv_warn (bs,
             "Hyper-V's change tracking beside the image does not notice what is written here: remove %s, "
             "and let the "
             "next backup be a full one",
             shown);
}
