/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The link to a parent whose identity is about to change ([MS-VHDX] 2.6.2.6.3).
 *
 * A child stores the DataWriteGuid of its parent, which is new with the first change of the parent's content: a merge
 * into the parent would break the link.  G0 is what the parent has, G1 what it will have.
 *
 *   L1  this locator: parent_linkage = G0, parent_linkage2 = G1      durable
 *   L2  the parent's headers: DataWriteGuid = G1                     durable
 *   L3  this locator: parent_linkage = G1, parent_linkage2 = zero    durable, and the log is drained
 *
 * At every instant one of the two is what the parent has.  L3 comes before any data moves, for readers that know
 * only parent_linkage.  After a crash the parent has G0 or G1, and the same three steps start from there.
 */
#include <inttypes.h>
#include <string.h>

#include "vhdx.h"

static void
set_entry (GArray *entries, const char *key, const VhdxGuid *guid)
{
  VhdxLocatorEntry added = { 0 };
  char text[37];
  guint i = 0;

  while (i < entries->len && strcmp (g_array_index (entries, VhdxLocatorEntry, i).key, key) != 0)
    i++;
  if (i == entries->len)
    {
      added.key = g_strdup (key);
      g_array_append_val (entries, added);
    }
  vhdx_guid_format (guid, text);
  VhdxLocatorEntry *entry = &g_array_index (entries, VhdxLocatorEntry, i);
  g_free (entry->value);
  entry->value = g_strdup_printf ("{%s}", text);
}

static GArray *
copy_entries (const GArray *entries)
{
  GArray *copy = vhdx_locator_new ();

  for (guint i = 0; i < entries->len; i++)
    {
      const VhdxLocatorEntry *entry = &g_array_index (entries, VhdxLocatorEntry, i);
      VhdxLocatorEntry added = { g_strdup (entry->key), g_strdup (entry->value) };

      g_array_append_val (copy, added);
    }
  return copy;
}

/* L1 and L3. */
static bool coroutine_fn
set_linkage (VhdxState *s, const VhdxGuid *linkage, const VhdxGuid *linkage2, GError **error)
{
  g_autoptr (GArray) entries = copy_entries (s->metadata.locator);
  g_autoptr (GByteArray) item = NULL;

  set_entry (entries, "parent_linkage", linkage);
  set_entry (entries, "parent_linkage2", linkage2);
  item = vhdx_locator_encode (entries);
  if (!item)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_UNSUPPORTED, "parent locator: it cannot be written anew");
      return false;
    }
  if (!vhdx_co_replace_item (s, &vhdx_guid_locator, item->data, item->len, error))
    return false;
  g_array_unref (s->metadata.locator);
  s->metadata.locator = g_steal_pointer (&entries);
  return true;
}

static bool coroutine_fn
end_log (VhdxState *s, GError **error)
{
  int ret = vhdx_co_end_log (s);

  if (ret < 0)
    bdrv_set_error_errno (error, s->bs, ret, "cannot drain the log");
  return ret == 0;
}

bool coroutine_fn
vhdx_co_parent_changed (BlockDriverState *bs, BlockDriverState *parent, bool begin, GError **error)
{
  static const VhdxGuid none;
  VhdxState *s = bs->opaque;
  VhdxGuid now, next;
  int ret;

  /* All is settled before data moves. */
  if (!begin || !bdrv_get_identity (parent, now.b) || !bdrv_get_next_identity (parent, next.b))
    return true;
  if (!set_linkage (s, &now, &next, error))
    return false;
  ret = bdrv_co_take_next_identity (parent);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, parent, ret, "cannot write the headers");
      return false;
    }
  if (!set_linkage (s, &next, &none, error))
    return false;
  return end_log (s, error);
}

bool coroutine_fn
vhdx_co_accept_identity (BlockDriverState *bs, const uint8_t *identity, GError **error)
{
  VhdxState *s = bs->opaque;
  VhdxGuid now, also;

  if (!s->metadata.has_parent || !bs->backing || !bdrv_get_identity (bs->backing, now.b))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "it has no parent, or it is not open");
      return false;
    }
  memcpy (also.b, identity, sizeof also.b);
  return set_linkage (s, &now, &also, error) && end_log (s, error);
}
