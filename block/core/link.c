/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small services for what drivers hand to the core: parent links, layouts, findings of a check. */
#include "core-int.h"

static void
parent_path_free (gpointer data)
{
  BlockParentPath *path = data;

  g_free (path->path);
  g_free (path);
}

void
block_parent_link_add (BlockParentLink *link, BlockParentPathKind kind, const char *path, const char *origin)
{
  BlockParentPath *entry = g_new0 (BlockParentPath, 1);

  entry->kind = kind;
  entry->path = g_strdup (path);
  entry->origin = origin;
  if (!link->paths)
    link->paths = g_ptr_array_new_with_free_func (parent_path_free);
  g_ptr_array_add (link->paths, entry);
}

void
bdrv_parent_link_clear (BlockParentLink *link)
{
  g_clear_pointer (&link->paths, g_ptr_array_unref);
}

void
block_layout_clear (BlockLayout *layout)
{
  g_clear_pointer (&layout->extents, g_array_unref);
}

void
block_check_report (BlockCheckResult *result, BlockCheckSeverity severity, const char *format, ...)
{
  if (severity == BLOCK_CHECK_LEAK)
    result->leaks++;
  else if (severity == BLOCK_CHECK_ERROR)
    result->corruptions++;
  if (!result->report)
    return;

  va_list ap;
  va_start (ap, format);
  g_autofree char *text = g_strdup_vprintf (format, ap);
  va_end (ap);
  result->report (result, severity, text);
}

bool
bdrv_get_identity (BlockDriverState *bs, uint8_t *identity)
{
  return bs->drv->get_identity != NULL && bs->drv->get_identity (bs, identity);
}

bool
bdrv_get_next_identity (BlockDriverState *bs, uint8_t *identity)
{
  return bs->drv->get_next_identity != NULL && bs->drv->get_next_identity (bs, identity);
}

int coroutine_fn
bdrv_co_take_next_identity (BlockDriverState *bs)
{
  return bs->drv->co_take_next_identity != NULL ? bs->drv->co_take_next_identity (bs) : 0;
}
