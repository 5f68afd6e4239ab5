/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The children of an image's layers. */
#include "api.h"

typedef struct
{
  VhdkitImage *image;
  BlockDriverState *upper, *lower;
  GPtrArray *children;
} ChildrenCall;

static void coroutine_fn
children_call_entry (void *opaque)
{
  ChildrenCall *call = opaque;
  BdrvOpenParams places = { .confine = call->image->confine,
                            .drive_map = (const char *const *)call->image->drive_map };

  const BdrvChildQuery query = {
    .leaf = call->image->bs,
    .upper = call->upper,
    .lower = call->lower,
    .places = &places,
  };

  call->children = bdrv_co_find_children (&query);
}

static VhdkitChild *
child_new (VhdkitImage *image, const BdrvChild *found)
{
  VhdkitChild *child = g_new0 (VhdkitChild, 1);

  child->filename = g_strdup (found->path);
  child->format = g_strdup (found->format);
  child->notices = found->notices;
  child->problem = g_strdup (found->problem);
  if (found->problem != NULL)
    {
      child->layer = -1;
      return child;
    }
  while (bdrv_chain_get (image->bs, child->layer) != found->parent)
    child->layer++;
  return child;
}

VhdkitChild **
vhdkit_image_find_children (VhdkitImage *image, int first, int last, GError **error)
{
  ChildrenCall call = { .image = image };

  if (first < 0 || first > last || last >= bdrv_chain_depth (image->bs))
    {
      bdrv_set_error (error, image->bs, VHDKIT_ERROR_NOT_FOUND, "no layers %d to %d: the chain has %d", first,
                      last, bdrv_chain_depth (image->bs));
      return NULL;
    }
  call.upper = bdrv_chain_get (image->bs, first);
  call.lower = bdrv_chain_get (image->bs, last);
  api_run_sync (image->context, children_call_entry, &call);

  g_autoptr (GPtrArray) found = call.children;
  VhdkitChild **children = g_new0 (VhdkitChild *, found->len + 1);
  for (guint i = 0; i < found->len; i++)
    children[i] = child_new (image, g_ptr_array_index (found, i));
  return children;
}

void
vhdkit_children_free (VhdkitChild **children)
{
  for (VhdkitChild **child = children; child != NULL && *child != NULL; child++)
    {
      g_free ((*child)->filename);
      g_free ((*child)->format);
      g_free ((*child)->problem);
      g_free (*child);
    }
  g_free (children);
}
