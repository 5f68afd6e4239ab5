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
 *
 * Whoever writes another disk over an image loses all of its children.
 */
#include "siblings.h"

/* So many are named in the message. */
#define MAX_NAMED 5

static int coroutine_fn
pause_point (void *opaque)
{
  return job_co_pause_point (opaque);
}

static GPtrArray *coroutine_fn
co_find (Job *job, BlockDriverState *leaf, BlockDriverState *upper, BlockDriverState *lower, bool by_path,
         const BdrvOpenParams *places, GError **error)
{
  const BdrvChildQuery query = {
    .leaf = leaf,
    .upper = upper,
    .lower = lower,
    .places = places,
    .by_path = by_path,
    .co_pause_point = job ? pause_point : NULL,
    .opaque = job,
  };
  GPtrArray *found = bdrv_co_find_children (&query);

  if (!found)
    job_set_cancelled (job, error);
  return found;
}

GPtrArray *coroutine_fn
siblings_co_find (Job *job, BlockDriverState *leaf, BlockDriverState *upper, BlockDriverState *lower,
                  const BdrvOpenParams *places, GError **error)
{
  return co_find (job, leaf, upper, lower, false, places, error);
}

/* --- in words ------------------------------------------------------------------------------------------ */

/* *@n: how many there are.  @unknown: of those that may be children, else of those that are. */
static char *
name_some (const GPtrArray *found, bool unknown, guint *n)
{
  GString *text = g_string_new (NULL);

  *n = 0;
  for (guint i = 0; i < found->len; i++)
    {
      const BdrvChild *child = g_ptr_array_index (found, i);

      if ((child->problem != NULL) != unknown || (*n)++ >= MAX_NAMED)
        continue;
      g_string_append_printf (text, "%s%s", *n > 1 ? ", " : "", child->path);
      if (unknown)
        g_string_append_printf (text, " (%s)", child->problem);
    }
  if (*n > MAX_NAMED)
    g_string_append_printf (text, " and %u more", *n - MAX_NAMED);
  return g_string_free (text, FALSE);
}

char *
siblings_name_unknown (const GPtrArray *found)
{
  guint n;
  g_autofree char *names = name_some (found, true, &n);

  return n > 0 ? g_steal_pointer (&names) : NULL;
}

/* What becomes of those that are children. */
static const char *
describe_damage (const GPtrArray *found, guint n)
{
  guint noticing = 0;

  for (guint i = 0; i < found->len; i++)
    noticing += ((const BdrvChild *)g_ptr_array_index (found, i))->notices;
  if (noticing == n)
    return "could not be opened above it any more";
  return noticing == 0 ? "would show wrong data from then on, with nothing to tell by"
                       : "would show wrong data from then on, most with nothing to tell by";
}

/* --- the questions ------------------------------------------------------------------------------------- */

bool coroutine_fn
siblings_co_check (Job *job, BlockDriverState *source, BlockDriverState *target, const BdrvOpenParams *places,
                   bool ignore_unknown, GError **error)
{
  g_autoptr (GPtrArray) found = siblings_co_find (job, source, source->backing, target, places, error);
  guint n, n_unknown;

  if (!found)
    return false;
  g_autofree char *names = name_some (found, false, &n);
  g_autofree char *unknown = name_some (found, true, &n_unknown);
  if (n > 0)
    bdrv_set_error (
        error, target, VHDKIT_ERROR_HAS_CHILDREN,
        "%u other image%s above it or a merged layer %s: %s; nothing was changed: merge or convert %s "
        "first, merge into a copy, or give %s up with --break-siblings",
        n, n == 1 ? "" : "s", describe_damage (found, n), names, n == 1 ? "it" : "them",
        n == 1 ? "it" : "them");
  else if (n_unknown > 0 && !ignore_unknown)
    bdrv_set_error (
        error, target, VHDKIT_ERROR_HAS_CHILDREN,
        "whether other images above it or a merged layer would be broken is not known: %s; nothing was "
        "changed: mend %s or move %s away, or go on regardless with --ignore-unknown",
        unknown, n_unknown == 1 ? "it" : "them", n_unknown == 1 ? "it" : "them");
  else
    return true;
  return false;
}

bool coroutine_fn
siblings_co_check_overwritten (Job *job, BlockDriverState *bs, bool damaged, const BdrvOpenParams *places,
                               bool ignore_unknown, GError **error)
{
  g_autoptr (GPtrArray) found = co_find (job, bs, bs, bs, damaged, places, error);
  guint n, n_unknown;

  if (!found)
    return false;
  g_autofree char *names = name_some (found, false, &n);
  g_autofree char *unknown = name_some (found, true, &n_unknown);
  /* What is no more than a name is overwritten every day, beside anything. */
  if (!bs->drv->get_identity)
    ignore_unknown = true;
  if (n > 0)
    bdrv_set_error (error, bs, VHDKIT_ERROR_HAS_CHILDREN,
                    "%u image%s above it would be lost with what it holds: %s; nothing was changed: take "
                    "another name, or give %s up with --break-children",
                    n, n == 1 ? "" : "s", names, n == 1 ? "it" : "them");
  else if (n_unknown > 0 && !ignore_unknown)
    bdrv_set_error (error, bs, VHDKIT_ERROR_HAS_CHILDREN,
                    "whether images above it would be lost with what it holds is not known: %s; nothing was "
                    "changed: take another name, mend %s or move %s away, or go on regardless with "
                    "--ignore-unknown",
                    unknown, n_unknown == 1 ? "it" : "them", n_unknown == 1 ? "it" : "them");
  else
    return true;
  return false;
}

bool coroutine_fn
siblings_co_describe_children (Job *job, BlockDriverState *bs, const BdrvOpenParams *places,
                               bool ignore_unknown, char **children, bool *unknown, GError **error)
{
  g_autoptr (GPtrArray) found = siblings_co_find (job, bs, bs, bs, places, error);
  guint n, n_unknown;

  *children = NULL;
  if (!found)
    return false;
  g_autofree char *names = name_some (found, false, &n);
  g_autofree char *maybe = name_some (found, true, &n_unknown);
  *unknown = n == 0;
  if (n > 0)
    *children = g_strdup_printf ("%u image%s above it (%s)", n, n == 1 ? "" : "s", names);
  else if (n_unknown > 0 && !ignore_unknown)
    *children =
        g_strdup_printf ("%u file%s that may be above it (%s)", n_unknown, n_unknown == 1 ? "" : "s", maybe);
  return true;
}
