/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that a commit, or a compaction, would break.
 *
 * The target shows something else afterwards, and so does every layer between it and the source.  The source still
 * shows the same, because it hides the difference; any other child of theirs does not.  A child whose link names its
 * parent's content cannot be opened above the target any more.  All others, among them every child of a layer
 * between, whose own content stays, open as before and show a mixture: nothing ever tells.
 *
 * A compaction that counts on space the guest does not use changes what its image shows there, so any child of it is
 * one it would break: what that child uses there now, it may never have written itself.
 */
#include "siblings.h"

/* So many are named in the message. */
#define MAX_NAMED 5

static char *
name_children (const GPtrArray *children)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < children->len && i < MAX_NAMED; i++)
    {
      const BdrvChild *child = g_ptr_array_index (children, i);
      g_string_append_printf (text, "%s%s", i > 0 ? ", " : "", child->path);
    }
  if (children->len > MAX_NAMED)
    g_string_append_printf (text, " and %u more", children->len - MAX_NAMED);
  return g_string_free (text, FALSE);
}

/* What becomes of them. */
static const char *
describe_damage (const GPtrArray *children)
{
  guint noticing = 0;

  for (guint i = 0; i < children->len; i++)
    noticing += ((const BdrvChild *)g_ptr_array_index (children, i))->notices;
  if (noticing == children->len)
    return "could not be opened above it any more";
  return noticing == 0 ? "would show wrong data from then on, with nothing to tell by"
                       : "would show wrong data from then on, most with nothing to tell by";
}

bool coroutine_fn
siblings_co_check (BlockDriverState *source, BlockDriverState *target, const BdrvOpenParams *places,
                   GError **error)
{
  g_autoptr (GPtrArray) children = bdrv_co_find_children (source, source->backing, target, places);

  if (children->len == 0)
    return true;
  g_autofree char *names = name_children (children);
  bdrv_set_error (
      error, target, VHDKIT_ERROR_HAS_CHILDREN,
      "%u other image%s above it or a merged layer %s: %s; nothing was changed: merge or convert %s "
      "first, merge into a copy, or give %s up with --break-siblings",
      children->len, children->len == 1 ? "" : "s", describe_damage (children), names,
      children->len == 1 ? "it" : "them", children->len == 1 ? "it" : "them");
  return false;
}

char *coroutine_fn
siblings_co_describe_children (BlockDriverState *bs, const BdrvOpenParams *places)
{
  g_autoptr (GPtrArray) children = bdrv_co_find_children (bs, bs, bs, places);

  if (children->len == 0)
    return NULL;
  g_autofree char *names = name_children (children);
  return g_strdup_printf ("%u image%s above it (%s)", children->len, children->len == 1 ? "" : "s", names);
}
