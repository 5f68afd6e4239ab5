/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening the parents of an image.
 *
 * What a child says of its parent may have been written by an attacker, who wants us to read some other file
 * as part of his disk.  So a file that an image names is opened only if
 *  - it is a regular file, below `confine` if that is given;
 *  - it is of a format that the child's link allows;
 *  - it has the identity that the child recorded (a link without one is followed only on demand).
 * Candidates are tried in the child's order; one that does not fit is closed and the next is tried.  A parent
 * the user named is bound by the recorded identity only.
 *
 * Parents are opened read-only, in a loop: depth costs neither stack nor more than linear time.  A chain that
 * comes back to one of its files is refused.
 */
#include "core-int.h"

#include <identity.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* One run of bdrv_co_open_parents. */
typedef struct
{
  const BdrvOpenParams *params;
  GHashTable *layers;   /* BdrvFileKey * to BlockDriverState *: the chain so far, as found by path */
  GHashTable *host_ids; /* BdrvFileKey *: the same files, as their drivers know them */
  bool other_identity;  /* an image that was tried as the parent has an identity, and not the one recorded */
} ChainOpen;

/* The search for one parent. */
typedef struct
{
  const BlockParentLink *link;
  GHashTable *tried; /* paths */
  GString *reasons;  /* why the candidates so far are not it */
  GString *others;   /* what is there at some of their places */
  unsigned candidates;
  bool mismatch; /* one could be opened and has another identity */
  bool refused;  /* one is against the policy */
  bool in_use;
  bool there;   /* one is there, but cannot be used */
  bool is_leaf; /* the search is for the parent of the image the user named */
} ParentSearch;

/* --- one candidate ------------------------------------------------------------------------------------- */

static bool
has_identity_of_link (BlockDriverState *bs, const BlockParentLink *link)
{
  uint8_t identity[BLOCK_IDENTITY_SIZE];

  if (!bs->drv->get_identity || !bs->drv->get_identity (bs, identity))
    return false;
  for (int i = 0; i < link->identities && i < 2; i++)
    if (memcmp (identity, link->identity[i], sizeof identity) == 0)
      return true;
  return false;
}

static void
format_identity (const BlockDriver *drv, const uint8_t *identity, char text[37])
{
  if (drv->format_identity)
    drv->format_identity (identity, text);
  else
    identity_format (identity, text);
}

/* @bs is another image than @link means.  true: it has an identity of its own. */
static bool
set_mismatch (GError **error, const char *path, BlockDriverState *bs, const BlockParentLink *link)
{
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  bool has = bs->drv->get_identity && bs->drv->get_identity (bs, identity);
  char found[37], recorded[2][37] = { "none", "" };

  for (int i = 0; i < link->identities && i < 2; i++)
    format_identity (bs->drv, link->identity[i], recorded[i]);
  if (has)
    format_identity (bs->drv, identity, found);
  bdrv_set_path_error (error, path, VHDKIT_ERROR_PARENT_MISMATCH, 0,
                       has ? "has another identity (%s) than the child recorded (%s%s%s)"
                           : "has no identity%s, the child recorded %s%s%s",
                       has ? found : "", recorded[0], recorded[1][0] ? " or " : "", recorded[1]);
  return has;
}

/* Among the formats the link allows, what @file is. */
static const BlockDriver *coroutine_fn
co_choose_parent_format (BlockDriverState *file, const BlockParentLink *link, GError **error)
{
  const BlockDriver *drv;

  if (!bdrv_co_probe (file, link->formats, &drv, error))
    return NULL;
  /* A plain disk is recognised by nothing: it is what the link says. */
  if (!drv && !link->has_identity && g_strv_contains (link->formats, "raw"))
    return bdrv_find_format ("raw", error);
  if (!drv)
    {
      g_autofree char *formats = g_strjoinv (", ", (char **)link->formats);
      bdrv_set_error (error, file, VHDKIT_ERROR_PARENT_NOT_FOUND,
                      "is not an image of a format its child can have as a parent (%s)", formats);
    }
  return drv;
}

static BlockDriverState *coroutine_fn
co_open_parent_image (const char *path, const struct stat *st, const char *format,
                      const BlockParentLink *link, ChainOpen *chain, GError **error)
{
  const BdrvOpenParams *params = chain->params;
  int flags = (params->flags & ~(BDRV_O_RDWR | BDRV_O_CHECK | BDRV_O_INCOMPLETE)) | BDRV_O_CHILD;
  BlockDriverState *file = bdrv_co_open_protocol (path, st, flags, params, error);

  if (!file)
    return NULL;
  const BlockDriver *drv =
      format ? bdrv_find_format (format, error) : co_choose_parent_format (file, link, error);
  if (!drv)
    {
      bdrv_co_unref (file);
      return NULL;
    }
  BlockDriverState *bs = bdrv_co_open_format (drv, file, path, flags, NULL, error);
  if (!bs)
    return NULL;
  if (link->has_identity && !has_identity_of_link (bs, link))
    {
      chain->other_identity |= set_mismatch (error, path, bs, link);
      bdrv_co_unref (bs);
      return NULL;
    }
  return bs;
}

static void
set_cycle (GError **error, const char *path)
{
  bdrv_set_path_error (error, path, VHDKIT_ERROR_CORRUPT, 0, "chain cycle: the file is its own descendant");
}

/* Whether the file @st describes is in the chain already, and so no candidate.  Looked at before opening: the
 * leaf's own locks would be in the way. */
static bool
check_cycle (ChainOpen *chain, const char *path, const struct stat *st, const BlockParentLink *link,
             bool *cycle, GError **error)
{
  BdrvFileKey key;

  bdrv_file_key_from_stat (&key, st);
  BlockDriverState *layer = g_hash_table_lookup (chain->layers, &key);
  if (!layer)
    return true;
  *cycle = !link->has_identity || has_identity_of_link (layer, link);
  if (*cycle)
    set_cycle (error, path);
  else
    set_mismatch (error, path, layer, link);
  return false;
}

/* false: the file that was really opened is in the chain already. */
static bool
add_layer (ChainOpen *chain, const struct stat *st, BlockDriverState *bs)
{
  BdrvFileKey key;

  bdrv_file_key_from_stat (&key, st);
  g_hash_table_insert (chain->layers, g_memdup2 (&key, sizeof key), bs);
  if (!bdrv_file_key_of_node (bs, &key))
    return true;
  return g_hash_table_add (chain->host_ids, g_memdup2 (&key, sizeof key));
}

/* Opens @path if it fits.  *cycle: the search is over. */
static BlockDriverState *coroutine_fn
co_try_path (ChainOpen *chain, const char *path, BdrvNamedBy named_by, const char *format,
             const BlockParentLink *link, bool *cycle, GError **error)
{
  struct stat st;

  if (!bdrv_check_path (path, named_by, chain->params->confine, &st, error)
      || !check_cycle (chain, path, &st, link, cycle, error))
    return NULL;
  BlockDriverState *bs = co_open_parent_image (path, &st, format, link, chain, error);
  if (!bs)
    return NULL;
  *cycle = !add_layer (chain, &st, bs);
  if (!*cycle)
    return bs;
  set_cycle (error, path);
  bdrv_co_unref (bs);
  return NULL;
}

/* --- the search ---------------------------------------------------------------------------------------- */

/* @tried: @path means a place on this host. */
static void
add_reason (ParentSearch *search, const BlockParentPath *path, bool tried, const GError *error)
{
  g_autofree char *shown = bdrv_printable (path->path ? path->path : "");

  search->candidates++;
  search->mismatch |= error->code == VHDKIT_ERROR_PARENT_MISMATCH;
  search->refused |= error->code == VHDKIT_ERROR_PERMISSION;
  search->in_use |= error->code == VHDKIT_ERROR_IN_USE;
  search->there |= tried && error->code != VHDKIT_ERROR_NOT_FOUND;
  if (tried && error->code != VHDKIT_ERROR_NOT_FOUND && error->code != VHDKIT_ERROR_PERMISSION)
    g_string_append_printf (search->others, "%s%s", search->others->len > 0 ? "; " : "", error->message);
  g_string_append_printf (search->reasons, "%s%s '%s': %s", search->reasons->len > 0 ? "; " : "",
                          path->origin ? path->origin : "name", shown, error->message);
}

/* As where a parent was opened for writing, or replaced by a copy of it. */
#define CONTENT_ADVICE                                                                                       \
  "; if what is there is known to show just what it did when this image was made above it, and only then, "  \
  "rebase -u --ignore-id-mismatch takes it for the parent"

/* What the user can do. */
static const char *
search_advice (const ParentSearch *search)
{
  if (search->there && !search->mismatch)
    return "";
  return search->is_leaf ? "; --parent FILE says where the right one is, rebase -u for good"
                         : "; put the right one, or a symbolic link to it, where it is looked for";
}

static void
set_search_error (const ChainOpen *chain, const ParentSearch *search, GError **error)
{
  VhdkitError code = VHDKIT_ERROR_PARENT_NOT_FOUND;
  const char *what = search->there ? "cannot be used" : "not found";

  if (search->mismatch)
    {
      code = VHDKIT_ERROR_PARENT_MISMATCH;
      what = "none fits";
    }
  else if (search->refused)
    code = VHDKIT_ERROR_PERMISSION;
  else if (search->in_use)
    code = VHDKIT_ERROR_IN_USE;
  g_set_error (error, VHDKIT_ERROR, code, "%s: %s%s%s", what,
               search->candidates > 0 ? search->reasons->str : "the image names none", search_advice (search),
               chain->other_identity ? CONTENT_ADVICE : "");
}

/* Tries all paths one name may mean.  true: the search is over, with *parent or @error. */
static bool coroutine_fn
co_try_name (ChainOpen *chain, ParentSearch *search, BlockDriverState *child, const BlockParentPath *name,
             BlockDriverState **parent, GError **error)
{
  g_autoptr (GError) reason = NULL;
  g_autoptr (GPtrArray) paths =
      bdrv_resolve_parent_path (name, bdrv_get_host_path (child), child->filename, chain->params->drive_map,
                                chain->params->confine, &reason);

  if (!paths)
    add_reason (search, name, false, reason);
  for (guint i = 0; paths && i < paths->len; i++)
    {
      const char *path = g_ptr_array_index (paths, i);
      bool cycle = false;

      if (!g_hash_table_add (search->tried, g_strdup (path)))
        continue;
      g_clear_error (&reason);
      *parent = co_try_path (chain, path, BDRV_NAMED_BY_IMAGE, NULL, search->link, &cycle, &reason);
      if (*parent)
        return true;
      if (cycle)
        {
          g_propagate_error (error, g_steal_pointer (&reason));
          return true;
        }
      add_reason (search, name, true, reason);
    }
  return false;
}

static bool
check_link_may_be_followed (const BdrvOpenParams *params, const BlockParentLink *link, GError **error)
{
  if (link->has_identity || (params->flags & BDRV_O_RAW_PARENT))
    return true;
  g_set_error (
      error, VHDKIT_ERROR, VHDKIT_ERROR_PERMISSION,
      "has no identity to recognise it by (raw): opened only where it is named (--parent FILE) or such "
      "parents are allowed (--raw-parent)");
  return false;
}

/* As in a copy of a chain: the parent beside it was changed or damaged, and the absolute path names that of the original. */
static void
note_passed_over (BlockDriverState *child, BlockDriverState *parent, const char *others)
{
  BdrvNode *node = bdrv_node (child);
  g_autofree char *name = bdrv_printable (parent->filename);

  g_free (node->passed_over);
  node->passed_over = g_strdup (others);
  bdrv_warn (child, "what is where its parent is looked for first is not it (%s); %s is taken", others, name);
}

bool
bdrv_check_nearest_parents (BlockDriverState *top, BlockDriverState *base, GError **error)
{
  for (BlockDriverState *bs = top; bs != base; bs = bs->backing)
    {
      const char *others = bdrv_node (bs)->passed_over;

      if (others == NULL)
        continue;
      g_autofree char *name = bdrv_printable (bs->backing->filename);
      bdrv_set_error (error, bs, VHDKIT_ERROR_PARENT_MISMATCH,
                      "what is where its parent is looked for first is not it (%s), and %s, found elsewhere, "
                      "may be the parent of another copy of this image; nothing was changed: if it is to be "
                      "written to, rebase -u -b %s, or --parent for once, says so",
                      others, name, name);
      return false;
    }
  return true;
}

static BlockDriverState *coroutine_fn
co_search_parent (ChainOpen *chain, BlockDriverState *child, const BlockParentLink *link, bool is_leaf,
                  GError **error)
{
  BlockDriverState *parent = NULL;

  if (!check_link_may_be_followed (chain->params, link, error))
    return NULL;

  g_autoptr (GHashTable) tried = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr (GString) reasons = g_string_new (NULL);
  g_autoptr (GString) others = g_string_new (NULL);
  ParentSearch search = {
    .link = link, .tried = tried, .reasons = reasons, .others = others, .is_leaf = is_leaf
  };

  chain->other_identity = false;
  for (guint i = 0; link->paths && i < link->paths->len; i++)
    if (co_try_name (chain, &search, child, g_ptr_array_index (link->paths, i), &parent, error))
      {
        if (parent && others->len > 0)
          note_passed_over (child, parent, others->str);
        return parent;
      }
  set_search_error (chain, &search, error);
  return NULL;
}

/* --- the chain ----------------------------------------------------------------------------------------- */

static char *
time_text (int64_t unix_seconds)
{
  g_autoptr (GDateTime) time = g_date_time_new_from_unix_utc (unix_seconds);

  return time ? g_date_time_format (time, "%Y-%m-%d %H:%M:%S UTC") : g_strdup ("at an impossible time");
}

static void
warn_of_differences (BlockDriverState *child, const BlockParentLink *link, BlockDriverState *parent)
{
  BlockDriverState *file = bdrv_protocol_node (parent);
  g_autofree char *name = bdrv_printable (parent->filename);
  int64_t seconds;

  if (link->has_time_stamp && link->time_stamp != 0 && file->drv->get_mtime
      && file->drv->get_mtime (file, &seconds) && seconds != link->time_stamp)
    {
      g_autofree char *found = time_text (seconds);
      g_autofree char *recorded = time_text (link->time_stamp);

      bdrv_warn (child,
                 "parent %s was modified %s, this image recorded %s: no harm after a copy or a merge, but if "
                 "anything else wrote to the parent, this image shows wrong data",
                 name, found, recorded);
    }
  if (child->bytes < parent->bytes)
    bdrv_warn (child, "is smaller than its parent %s: %" PRId64 " and %" PRId64 " bytes", name, child->bytes,
               parent->bytes);
}

static BlockDriverState *coroutine_fn
co_open_parent (ChainOpen *chain, BlockDriverState *child, bool is_leaf, const char *named,
                const BlockParentLink *link, GError **error)
{
  bool cycle = false;

  if (!named)
    return co_search_parent (chain, child, link, is_leaf, error);
  return co_try_path (chain, named, BDRV_NAMED_BY_USER, chain->params->parent_format, link, &cycle, error);
}

bool coroutine_fn
bdrv_co_open_parents (BlockDriverState *leaf, const BdrvOpenParams *params, GError **error)
{
  g_autoptr (GHashTable) layers = bdrv_file_key_set_new ();
  g_autoptr (GHashTable) host_ids = bdrv_file_key_set_new ();
  ChainOpen chain = { .params = params, .layers = layers, .host_ids = host_ids };
  const char *named = params->parent;
  BlockDriverState *child = leaf;
  struct stat st;

  if (stat (bdrv_get_host_path (leaf), &st) == 0)
    add_layer (&chain, &st, leaf);
  for (int depth = 1;; depth++)
    {
      g_auto (BlockParentLink) link = { 0 };

      if (!child->drv->get_parent_link || !child->drv->get_parent_link (child, &link))
        break;
      if (depth == BDRV_MAX_CHAIN_DEPTH)
        {
          bdrv_set_error (error, child, VHDKIT_ERROR_UNSUPPORTED, "the chain has more than %d layers",
                          BDRV_MAX_CHAIN_DEPTH);
          return false;
        }
      BlockDriverState *parent = co_open_parent (&chain, child, child == leaf, named, &link, error);
      if (!parent)
        {
          g_autofree char *name = bdrv_printable (child->filename);
          g_prefix_error (error, "parent of %s: ", name);
          return false;
        }
      child->backing = parent;
      warn_of_differences (child, &link, parent);
      child = parent;
      named = NULL;
    }
  if (named)
    {
      bdrv_set_error (error, leaf, VHDKIT_ERROR_INVALID_ARGUMENT, "the image has no parent, one was named");
      return false;
    }
  return true;
}

/* --- examining ------------------------------------------------------------------------------------------ */

static void
candidate_free (gpointer data)
{
  BdrvParentCandidate *candidate = data;

  g_free (candidate->name);
  g_free (candidate->path);
  g_free (candidate->reason);
  g_free (candidate);
}

/* Whether the file @path fits @link; it is closed again. */
static bool coroutine_fn
co_examine_path (ChainOpen *chain, const char *path, const BlockParentLink *link, GError **error)
{
  struct stat st;
  bool cycle;

  if (!check_link_may_be_followed (chain->params, link, error)
      || !bdrv_check_path (path, BDRV_NAMED_BY_IMAGE, chain->params->confine, &st, error)
      || !check_cycle (chain, path, &st, link, &cycle, error))
    return false;
  BlockDriverState *bs = co_open_parent_image (path, &st, NULL, link, chain, error);
  if (!bs)
    return false;
  bdrv_co_unref (bs);
  return true;
}

/* Without the path, which is told beside it. */
static char *
reason_text (const GError *error, const char *path)
{
  const char *text = error->message;
  size_t len = path ? strlen (path) : 0;

  if (len > 0 && strncmp (text, path, len) == 0 && g_str_has_prefix (text + len, ": "))
    text += len + 2;
  return g_strdup (text);
}

static const BdrvParentCandidate *
find_candidate (const GPtrArray *candidates, const char *path)
{
  for (guint i = 0; i < candidates->len; i++)
    {
      const BdrvParentCandidate *candidate = g_ptr_array_index (candidates, i);
      if (g_strcmp0 (candidate->path, path) == 0)
        return candidate;
    }
  return NULL;
}

/* @path: NULL if @name means none, for the reason @error. */
static void coroutine_fn
co_add_candidate (ChainOpen *chain, GPtrArray *candidates, const BlockParentPath *name, const char *path,
                  const BlockParentLink *link, const GError *error)
{
  const BdrvParentCandidate *known = path ? find_candidate (candidates, path) : NULL;
  g_autoptr (GError) reason = NULL;

  g_assert (path || error);
  /* A last component alone is our own idea: of interest where it leads to another file. */
  if (name->kind == BLOCK_PARENT_PATH_BASENAME && (known || !path))
    return;
  BdrvParentCandidate *candidate = g_new0 (BdrvParentCandidate, 1);
  candidate->origin = name->origin ? name->origin : "name";
  candidate->name = g_strdup (name->path ? name->path : "");
  candidate->path = g_strdup (path);
  if (known)
    candidate->reason = g_strdup (known->reason);
  else if (!path)
    candidate->reason = reason_text (error, NULL);
  else if (!co_examine_path (chain, path, link, &reason))
    candidate->reason = reason_text (reason, path);
  g_ptr_array_add (candidates, candidate);
}

void coroutine_fn
bdrv_co_examine_parents (BlockDriverState *child, const BdrvOpenParams *params)
{
  g_auto (BlockParentLink) link = { 0 };
  g_autoptr (GHashTable) layers = bdrv_file_key_set_new ();
  g_autoptr (GHashTable) host_ids = bdrv_file_key_set_new ();
  BdrvOpenParams look = *params;
  ChainOpen chain = { .params = &look, .layers = layers, .host_ids = host_ids };
  struct stat st;

  if (!child->drv->get_parent_link || !child->drv->get_parent_link (child, &link) || !link.paths)
    return;
  look.flags = (params->flags & ~(BDRV_O_RDWR | BDRV_O_EXAMINE)) | BDRV_O_FORCE_SHARE;
  if (stat (bdrv_get_host_path (child), &st) == 0)
    add_layer (&chain, &st, child);

  GPtrArray *candidates = g_ptr_array_new_with_free_func (candidate_free);
  for (guint i = 0; i < link.paths->len; i++)
    {
      const BlockParentPath *name = g_ptr_array_index (link.paths, i);
      g_autoptr (GError) error = NULL;
      g_autoptr (GPtrArray) paths = bdrv_resolve_parent_path (
          name, bdrv_get_host_path (child), child->filename, params->drive_map, params->confine, &error);

      if (!paths)
        co_add_candidate (&chain, candidates, name, NULL, &link, error);
      for (guint j = 0; paths && j < paths->len; j++)
        co_add_candidate (&chain, candidates, name, g_ptr_array_index (paths, j), &link, NULL);
    }
  bdrv_node (child)->parent_candidates = candidates;
}

const GPtrArray *
bdrv_get_parent_candidates (const BlockDriverState *bs)
{
  return bdrv_node (bs)->parent_candidates;
}

/* --- whose child an image is --------------------------------------------------------------------------- */

static bool
link_can_mean (const BlockParentLink *link, BlockDriverState *layer)
{
  return g_strv_contains (link->formats, layer->drv->format_name)
         && (!link->has_identity || has_identity_of_link (layer, link));
}

/* Those of the layers from @upper down to @lower that @link can mean, by file; with @by_path all. */
static GHashTable *
find_possible_parents (const BlockParentLink *link, BlockDriverState *upper, const BlockDriverState *lower,
                       bool by_path)
{
  GHashTable *possible = bdrv_file_key_set_new ();

  for (BlockDriverState *layer = upper;; layer = layer->backing)
    {
      BdrvFileKey key;

      if ((by_path || link_can_mean (link, layer)) && bdrv_file_key_of_node (layer, &key))
        g_hash_table_insert (possible, g_memdup2 (&key, sizeof key), layer);
      if (layer == lower)
        return possible;
    }
}

/* Whether the search for the parent of @child ends at @path; *layer is set where it is one of @possible. */
static bool coroutine_fn
co_parent_search_ends (ChainOpen *chain, const char *path, const BlockParentLink *link, GHashTable *possible,
                       BlockDriverState **layer)
{
  struct stat st;
  BdrvFileKey key;
  bool cycle = false;

  if (!bdrv_check_path (path, BDRV_NAMED_BY_IMAGE, chain->params->confine, &st, NULL))
    return false;
  bdrv_file_key_from_stat (&key, &st);
  *layer = g_hash_table_lookup (possible, &key);
  if (*layer)
    return true;
  if (!check_cycle (chain, path, &st, link, &cycle, NULL))
    return cycle;
  /* Another file, which may be a copy with the same identity. */
  BlockDriverState *bs = co_open_parent_image (path, &st, NULL, link, chain, NULL);
  if (bs)
    bdrv_co_unref (bs);
  return bs != NULL;
}

/* As bdrv_co_find_parent_layer (), as if @child had the file @host_path and were opened as @name.  *found (may be NULL):
 * the path of the layer. */
static BlockDriverState *coroutine_fn
co_find_parent_from (BlockDriverState *child, const char *host_path, const char *name,
                     BlockDriverState *upper, BlockDriverState *lower, const BdrvOpenParams *params,
                     bool by_path, char **found, bool *lost)
{
  g_auto (BlockParentLink) link = { 0 };
  BlockDriverState *layer = NULL;
  bool ended = false;

  if (lost)
    *lost = false;
  if (!child->drv->get_parent_link || !child->drv->get_parent_link (child, &link) || !link.paths)
    return NULL;
  g_autoptr (GHashTable) possible = find_possible_parents (&link, upper, lower, by_path);
  if (g_hash_table_size (possible) == 0)
    return NULL;

  g_autoptr (GHashTable) layers = bdrv_file_key_set_new ();
  g_autoptr (GHashTable) host_ids = bdrv_file_key_set_new ();
  g_autoptr (GHashTable) tried = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  ChainOpen chain = { .params = params, .layers = layers, .host_ids = host_ids };
  struct stat st;

  if (stat (bdrv_get_host_path (child), &st) == 0)
    add_layer (&chain, &st, child);
  for (guint i = 0; i < link.paths->len && !ended; i++)
    {
      g_autoptr (GPtrArray) paths = bdrv_resolve_parent_path (g_ptr_array_index (link.paths, i), host_path,
                                                              name, params->drive_map, params->confine, NULL);

      for (guint j = 0; paths && j < paths->len && !ended; j++)
        {
          const char *path = g_ptr_array_index (paths, j);
          ended = g_hash_table_add (tried, g_strdup (path))
                  && co_parent_search_ends (&chain, path, &link, possible, &layer);
          if (layer && found)
            *found = g_strdup (path);
        }
    }
  if (lost)
    *lost = !ended && link.has_identity && !by_path;
  return layer;
}

BlockDriverState *coroutine_fn
bdrv_co_find_parent_layer (BlockDriverState *child, BlockDriverState *upper, BlockDriverState *lower,
                           const BdrvOpenParams *params, bool by_path, bool *lost)
{
  return co_find_parent_from (child, bdrv_get_host_path (child), child->filename, upper, lower, params,
                              by_path, NULL, lost);
}

BlockDriverState *coroutine_fn
bdrv_co_find_broken_link (BlockDriverState *bs, const char *path, const BdrvOpenParams *params)
{
  BdrvOpenParams look = { .flags = BDRV_O_NO_BACKING | BDRV_O_FORCE_SHARE | BDRV_O_NO_LOCK,
                          .confine = params->confine,
                          .drive_map = params->drive_map };
  g_autofree char *name = g_strdup (path);

  for (const char *host_path = path; bs->backing; bs = bs->backing, host_path = bdrv_get_host_path (bs))
    {
      g_autofree char *found = NULL;

      if (!co_find_parent_from (bs, host_path, name, bs->backing, bs->backing, &look, false, &found, NULL))
        return bs;
      g_free (name);
      name = g_steal_pointer (&found);
    }
  return NULL;
}
