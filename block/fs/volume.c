/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a reader may do with its volume. */
#include "walk.h"

#include "checked.h"

#include <errno.h>
#include <string.h>

/* What may be read of a volume: far more than the allocation tables of any file system take up (FAT with clusters of one
 * sector and two copies: 1/64).  A request costs as much as this in addition. */
#define BUDGET_LEAST   (INT64_C (16) << 20)
#define BUDGET_MOST    (INT64_C (64) << 30)
#define BUDGET_PART    16
#define REQUEST_COST   4096
#define MAX_FREE       (1 << 20)
#define MAX_USED       (4 << 20)
#define MAX_TEXT_BYTES 256

static void
clear_inner (void *data)
{
  g_free (((FsInner *)data)->name);
}

void coroutine_fn
fs_volume_co_init (FsVolume *volume, FsWalk *walk, uint32_t sector_size, int64_t offset, int64_t bytes)
{
  uint8_t *head = g_malloc0 (FS_HEAD_BYTES);

  *volume = (FsVolume){
    .bytes = bytes,
    .sector_size = sector_size,
    .offset = offset,
    .head = head,
    .walk = walk,
  };
  walk->found = (FsFindings){ .budget = CLAMP (bytes / BUDGET_PART, BUDGET_LEAST, BUDGET_MOST) };
  fs_extents_init (&walk->found.free, MAX_FREE, walk->params->granularity);
  fs_extents_init (&walk->found.used, MAX_USED, 0);
  walk->found.inner = g_array_new (FALSE, FALSE, sizeof (FsInner));
  g_array_set_clear_func (walk->found.inner, clear_inner);
  (void)fs_co_read (volume, 0, MIN (bytes, FS_HEAD_BYTES), head);
}

void
fs_volume_clear (FsVolume *volume)
{
  FsFindings *found = &volume->walk->found;

  fs_extents_clear (&found->free);
  fs_extents_clear (&found->used);
  g_clear_pointer (&found->inner, g_array_unref);
  g_clear_pointer (&found->type, g_free);
  g_clear_pointer (&found->label, g_free);
  g_clear_pointer (&found->uuid, g_free);
  g_free ((uint8_t *)volume->head);
  volume->head = NULL;
}

bool
fs_volume_has_failed (const FsVolume *volume, GError **error)
{
  const FsFindings *found = &volume->walk->found;

  if (found->failed == -EDQUOT)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                 "more had to be read than is reasonable for %" G_GINT64_FORMAT " bytes", volume->bytes);
  else if (found->failed != 0)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "read at offset %" G_GINT64_FORMAT " failed: %s",
                 found->failed_offset, g_strerror (-found->failed));
  else if (found->outside)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "it claims free space outside of itself");
  else if (found->used.incomplete)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "its metadata is too scattered");
  else
    return false;
  return true;
}

static bool
is_inside (const FsVolume *volume, int64_t offset, int64_t bytes)
{
  return offset >= 0 && bytes >= 0 && offset <= volume->bytes && bytes <= volume->bytes - offset;
}

/* --- reading ------------------------------------------------------------------------------------------- */

int coroutine_fn
fs_co_pause_point (FsVolume *volume)
{
  FsWalk *walk = volume->walk;

  if (walk->stopped == 0 && walk->params->co_pause_point != NULL)
    walk->stopped = walk->params->co_pause_point (walk->params->opaque);
  return walk->stopped;
}

static int coroutine_fn
volume_co_read (FsVolume *volume, int64_t offset, int64_t bytes, void *buf)
{
  FsWalk *walk = volume->walk;
  int ret = fs_co_pause_point (volume);

  if (ret < 0)
    return ret;
  walk->found.budget -= bytes + REQUEST_COST;
  if (walk->found.budget < 0)
    return -EDQUOT;
  return bdrv_co_pread (walk->params->bs, volume->offset + offset, bytes, buf);
}

int coroutine_fn
fs_co_read (FsVolume *volume, int64_t offset, int64_t bytes, void *buf)
{
  FsFindings *found = &volume->walk->found;

  if (!is_inside (volume, offset, bytes))
    return -EINVAL;
  if (bytes == 0)
    return 0;
  int ret = volume_co_read (volume, offset, bytes, buf);
  if (ret < 0 && found->failed == 0)
    {
      found->failed = ret;
      found->failed_offset = offset;
    }
  return ret;
}

bool coroutine_fn
fs_co_read_structure (FsVolume *volume, int64_t offset, int64_t bytes, void *buf, const char *what,
                      GError **error)
{
  int ret = fs_co_read (volume, offset, bytes, buf);

  if (ret == 0)
    return true;
  if (ret == -EINVAL && !is_inside (volume, offset, bytes))
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                 "%s: %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT
                 " are not inside the %" G_GINT64_FORMAT " bytes of the volume",
                 what, bytes, offset, volume->bytes);
  else
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "%s: read at offset %" G_GINT64_FORMAT " failed: %s",
                 what, offset, g_strerror (-ret));
  return false;
}

/* --- findings ------------------------------------------------------------------------------------------ */

void
fs_add_free (FsVolume *volume, int64_t offset, int64_t bytes)
{
  FsFindings *found = &volume->walk->found;

  if (!is_inside (volume, offset, bytes))
    found->outside = true;
  else
    fs_extents_add (&found->free, offset, bytes);
}

void
fs_add_used (FsVolume *volume, int64_t offset, int64_t bytes)
{
  if (bytes <= 0 || offset >= volume->bytes)
    return;
  /* Two steps, as the sum may not fit. */
  if (offset < 0)
    {
      bytes += offset;
      offset = 0;
    }
  if (bytes > 0)
    fs_extents_add (&volume->walk->found.used, offset, MIN (bytes, volume->bytes - offset));
}

void
fs_add_inner (FsVolume *volume, int64_t offset, int64_t bytes, const char *name)
{
  FsInner inner = { offset, bytes, NULL };

  if (!is_inside (volume, offset, bytes) || bytes == 0)
    volume->walk->found.outside = true;
  else
    {
      inner.name = g_strdup (name);
      g_array_append_val (volume->walk->found.inner, inner);
    }
}

void
fs_set_hibernated (FsVolume *volume)
{
  volume->walk->hibernated = true;
}

void
fs_set_type (FsVolume *volume, const char *type)
{
  g_free (volume->walk->found.type);
  volume->walk->found.type = g_strdup (type);
}

char *
fs_printable (const char *bytes, size_t max_bytes)
{
  g_autofree char *cut = g_strndup (bytes, MIN (max_bytes, MAX_TEXT_BYTES));
  g_autofree char *valid = g_utf8_make_valid (cut, -1);
  GString *text = g_string_new (NULL);

  for (const char *p = valid; *p != '\0'; p = g_utf8_next_char (p))
    {
      gunichar c = g_utf8_get_char (p);
      g_string_append_unichar (text, g_unichar_isprint (c) ? c : 0xfffd);
    }
  return g_string_free (text, FALSE);
}

void
fs_set_label (FsVolume *volume, const char *label, size_t max_bytes)
{
  g_free (volume->walk->found.label);
  volume->walk->found.label = g_strchomp (fs_printable (label, max_bytes));
  if (volume->walk->found.label[0] == '\0')
    g_clear_pointer (&volume->walk->found.label, g_free);
}

void
fs_set_uuid (FsVolume *volume, const char *uuid)
{
  g_free (volume->walk->found.uuid);
  volume->walk->found.uuid = fs_printable (uuid, MAX_TEXT_BYTES);
}
