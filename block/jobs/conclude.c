/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of the merged layers' files after a commit: C the source, M the layers between, P the target, D the
 * children of C.  P shows what C shows, and that is durable, with nothing left in a log of P.
 *
 *   A1  each D gets P as its parent (the driver changes the link in one step).  Left out where A2 is possible and P is
 *       to be renamed: then no D need be touched, those nobody has told of included.
 *   A2  formats whose children know the content they are above, if P is to be renamed: the layer above P accepts the
 *       identity of C for its parent, then P takes it.
 *   A3  P is renamed to the path of C, and the directories are flushed.  Before that a list of what A5 will remove is
 *       written beside C (remains.c), where no chain would lead to all of it afterwards.
 *   A4  each D of A1 names P by its new path alone.
 *   A5  the files of the layers between are removed, from the one above P upwards, and C's at last, if P has not
 *       replaced it; the directory is flushed after each.  Then the list goes.
 *
 * Crash points.  What a crash leaves:
 *  A1 each D has C or P as its parent, and reads the same.  P is where D looks first; where P is to be renamed, D also
 *     names the path of C, where for now it finds C, which has another identity.
 *  A2 the link of the layer above P holds with P's old identity and with its new one.  D finds C by its path, where C
 *     is until A3; P then has the identity D knows.
 *  A3 the list is there as a whole or not, and is not believed while C's chain is whole.  A rename is done or not done.
 *     Before: as A2, or D finds P by its first path.  After: P is where C was.  Layers between find no parent any more.
 *  A4 D has the old link or the new one, and both lead to P.
 *  A5 P and each D read as before.  What is left of the merged layers is all of them, or misses a layer and cannot be
 *     opened: nothing is left that opens and shows a mixture of C and P, as a layer between would with P alone.  The
 *     list names them.
 *
 * The job run again finishes what is left until A3, or until the first file of A5 is gone; from there on
 * remains_co_remove () does.  It must not merge again once a D has P as its parent: the merge could give P another
 * identity.  And whoever names as a D an image that always was above P must not lose it.  Both are told by content: P
 * shows all that C shows, so nothing is merged and D reads the same; or it does not, and D is refused.
 */
#include "conclude-int.h"

#include <errno.h>
#include <string.h>

#include "remains.h"

/* --- before the merge ------------------------------------------------------------------------------------ */

static bool
has_identity (BlockDriverState *bs)
{
  static const uint8_t none[BLOCK_IDENTITY_SIZE];
  uint8_t identity[BLOCK_IDENTITY_SIZE];

  return bdrv_get_identity (bs, identity) && memcmp (identity, none, sizeof none) != 0;
}

Conclude *coroutine_fn
conclude_co_new (Job *job, const ConcludeParams *params, bool *merged, GError **error)
{
  Conclude *conclude = g_new0 (Conclude, 1);

  *merged = false;
  conclude->job = job;
  conclude->params = *params;
  conclude->children = g_ptr_array_new ();
  conclude->lowest = params->source;
  while (conclude->lowest->backing != params->target)
    conclude->lowest = conclude->lowest->backing;
  conclude->takes_identity = params->rename_target && params->target->drv->co_take_identity
                             && conclude->lowest->drv->co_accept_identity;
  /* An odd image that has none. */
  if (conclude->takes_identity)
    conclude->takes_identity = has_identity (params->source);
  if (conclude_co_check (conclude, merged, error))
    return conclude;
  (void)conclude_co_free (conclude, NULL);
  return NULL;
}

char **
conclude_list_children (const Conclude *conclude)
{
  char **names = g_new0 (char *, conclude->children->len + 1);

  for (guint i = 0; i < conclude->children->len && !conclude->takes_identity; i++)
    names[i] = g_strdup (((BlockDriverState *)g_ptr_array_index (conclude->children, i))->filename);
  return names;
}

static bool coroutine_fn
co_make_writable (BlockDriverState *bs, const char *why, GError **error)
{
  if (!bs->read_only || bdrv_co_reopen_rw (bs, error))
    return true;
  g_prefix_error (error, "%s: ", why);
  return false;
}

bool coroutine_fn
conclude_co_lock (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *layer = params->source;

  for (guint i = 0; i < conclude->children->len; i++)
    if (!co_make_writable (g_ptr_array_index (conclude->children, i), "its link is to change", error))
      return false;
  for (; layer != params->target; layer = layer->backing)
    {
      bool replaced = params->rename_target && layer == params->source;

      if ((replaced || conclude_removes (params, layer))
          && !co_make_writable (layer, replaced ? "it is to be replaced" : "it is to be removed", error))
        return false;
    }
  return !conclude->takes_identity || co_make_writable (conclude->lowest, "its link is to change", error);
}

/* --- after the merge ------------------------------------------------------------------------------------- */

/* A name that appears, or is the only one left, leads to an image that also those can read who replay no log. */
static bool coroutine_fn
co_drain_log (BlockDriverState *bs, GError **error)
{
  int ret = bdrv_co_drain_log (bs);

  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "its log cannot be drained");
  return ret == 0;
}

/* Nothing is left to be done when it is closed: whoever is killed once the last file is gone has finished. */
static bool coroutine_fn
co_settle_target (BlockDriverState *target, GError **error)
{
  return bdrv_co_trim (target, error) && co_drain_log (target, error);
}

/* A1 and A4. */
static bool coroutine_fn
co_relink (Conclude *conclude, bool renamed, GError **error)
{
  for (guint i = 0; i < conclude->children->len; i++)
    {
      BlockDriverState *child = g_ptr_array_index (conclude->children, i);
      BlockParentChange change = conclude_change_for (conclude, child, renamed);

      if (!child->drv->co_change_parent (child, &change, error) || !co_drain_log (child, error))
        return false;
    }
  return true;
}

/* A2. */
static bool coroutine_fn
co_take_identity (Conclude *conclude, GError **error)
{
  BlockDriverState *target = conclude->params.target, *lowest = conclude->lowest;
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  int ret;

  if (!bdrv_get_identity (conclude->params.source, identity))
    return true;
  if (!lowest->drv->co_accept_identity (lowest, identity, error))
    return false;
  ret = target->drv->co_take_identity (target, identity);
  if (ret < 0)
    bdrv_set_error_errno (error, target, ret, "cannot take the identity of %s",
                          conclude->params.source->filename);
  return ret == 0;
}

static const char *
get_final_name (const ConcludeParams *params)
{
  return bdrv_get_host_path (params->rename_target ? params->source : params->target);
}

/* The merged layers that are removed, in the order in which they are: from the one above the target upwards. */
static GPtrArray *
list_removals (const ConcludeParams *params)
{
  GPtrArray *layers = g_ptr_array_new ();

  for (BlockDriverState *layer = params->source; layer != params->target; layer = layer->backing)
    if (conclude_removes (params, layer))
      g_ptr_array_insert (layers, 0, layer);
  return layers;
}

/* Whether a run that is interrupted between A3 and the end of A5 leaves files that no chain leads to. */
static bool
needs_list (const ConcludeParams *params, const GPtrArray *removals)
{
  return removals->len > (params->rename_target ? 0u : 1u);
}

/* Before A3.  Without the list all can go on: it is only convenient.  Whether there is one. */
static bool coroutine_fn
co_write_list (const ConcludeParams *params, const GPtrArray *removals)
{
  int ret;

  if (!needs_list (params, removals))
    return false;
  ret = remains_co_write (bdrv_get_host_path (params->source), params->target, get_final_name (params),
                          removals);
  if (ret < 0)
    bdrv_warn (params->target,
               "the list of the images to be removed cannot be written beside %s: %s; should this be "
               "interrupted, the rest is to be removed by hand",
               params->source->filename, g_strerror (-ret));
  return ret == 0;
}

/* A3. */
static bool coroutine_fn
co_rename (Conclude *conclude, GError **error)
{
  NamedFile from, to;
  int ret;

  if (!named_file_co_check (conclude->params.source, &to, "cannot be replaced", error)
      || !named_file_co_check (conclude->params.target, &from, "cannot be renamed", error))
    return false;
  from.new_path = to.path;
  ret = named_file_co_rename (&from);
  if (ret < 0)
    named_file_set_error (error, conclude->params.target, ret, "cannot be renamed");
  return ret == 0;
}

/* Whether what holds the content now can still be found by name: else the last of it would go with the sources.
 * @renamed: it has the source's. */
static bool coroutine_fn
co_check_target_name (Conclude *conclude, bool renamed, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  BlockDriverState *target = params->target;
  NamedFile file;
  int ret;

  if (bdrv_protocol_node (target)->fixed_length)
    return true; /* a device */
  ret = named_file_get (target, &file) ? 0 : -ENOTSUP;
  if (renamed)
    file.path = bdrv_get_host_path (params->source);
  if (ret == 0)
    ret = named_file_co_look (&file);
  if (ret < 0)
    named_file_set_error (error, target, ret, "cannot be relied on");
  return ret == 0;
}

/* The files are those that were locked, and nobody has come to depend on them meanwhile. */
static bool coroutine_fn
co_look_again (Conclude *conclude, GError **error)
{
  NamedFile file;

  for (guint i = 0; i < conclude->children->len; i++)
    {
      BlockDriverState *child = g_ptr_array_index (conclude->children, i);

      if (!bdrv_protocol_node (child)->fixed_length
          && !named_file_co_check (child, &file, "cannot be relinked", error))
        return false;
    }
  return co_check_target_name (conclude, false, error) && conclude_co_check_orphans (conclude, true, error);
}

/* A5. */
static bool coroutine_fn
co_remove (Conclude *conclude, const GPtrArray *removals, bool has_list, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  const char *source = bdrv_get_host_path (params->source);
  int ret;

  for (guint i = 0; i < removals->len; i++)
    {
      BlockDriverState *layer = g_ptr_array_index (removals, i);
      NamedFile file;

      if (!co_check_target_name (conclude, params->rename_target, error))
        return false;
      ret = named_file_get (layer, &file) ? named_file_co_remove (&file) : -ENOTSUP;
      if (ret < 0)
        {
          named_file_set_error (error, layer, ret, "cannot be removed");
          /* The chain is whole: the list would only be taken for true later. */
          if (has_list && i == 0 && !params->rename_target)
            (void)remains_co_forget (source);
          return false;
        }
    }
  ret = has_list ? remains_co_forget (source) : 0;
  if (ret < 0)
    bdrv_set_error_errno (error, params->source, ret,
                          "the list of what was removed beside it cannot be removed");
  return ret == 0;
}

static bool coroutine_fn
co_conclude (Conclude *conclude, GError **error)
{
  const ConcludeParams *params = &conclude->params;
  g_autoptr (GPtrArray) removals = list_removals (params);
  bool has_list;

  if (conclude->children->len == 0 && !params->delete_sources && !params->rename_target)
    return true;
  if (!co_look_again (conclude, error) || !co_settle_target (params->target, error))
    return false;
  if (conclude->takes_identity ? !co_take_identity (conclude, error) : !co_relink (conclude, false, error))
    return false;
  has_list = co_write_list (params, removals);
  if (params->rename_target
      && (!co_rename (conclude, error) || (!conclude->takes_identity && !co_relink (conclude, true, error))))
    return false;
  return !params->delete_sources || co_remove (conclude, removals, has_list, error);
}

bool coroutine_fn
conclude_co_run (Conclude *conclude, GError **error)
{
  if (co_conclude (conclude, error))
    return true;
  g_prefix_error (error, "the merge is complete, what was to follow is not: ");
  return false;
}

/* Whether it is closed, with all that is written then. */
static bool coroutine_fn
co_close_child (BlockDriverState *target, BlockDriverState *child, GError **error)
{
  g_autofree char *name = g_strdup (child->filename);
  int ret = bdrv_co_unref (child);

  if (ret < 0)
    bdrv_set_error_errno (error, target, ret, "its child %s cannot be closed", name);
  return ret == 0;
}

bool coroutine_fn
conclude_co_free (Conclude *conclude, GError **error)
{
  bool ok = true;

  if (!conclude)
    return true;
  /* The first error is the one to tell. */
  for (guint i = 0; i < conclude->children->len; i++)
    ok =
        co_close_child (conclude->params.target, g_ptr_array_index (conclude->children, i), ok ? error : NULL)
        && ok;
  g_ptr_array_unref (conclude->children);
  g_free (conclude);
  return ok;
}
