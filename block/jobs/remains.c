/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an interrupted removal of merged images leaves.
 *
 * Several files cannot be removed at once, and once the first is gone the others lead nowhere: no chain tells any more
 * which they are.  So before it goes a list of all of them is written, beside the uppermost image merged, C, under its
 * name with ".remains" behind it, and goes at last.
 *
 *   vhdkit-remains 1
 *   target INODE PATH         the merged content, complete and durable: what must be there
 *   remove INODE ID PATH      each file; ID: the identity its children know it by, in hexadecimal digits
 *   end
 *
 * Paths are absolute, escaped as in C.  The list is written aside and renamed: it is there as a whole or not at all.
 *
 * It is believed only when C cannot be what it was before: when a file of it is gone, or when the target has the name
 * of C, which then is not in the list.  Else C's chain is whole, may have been written to since, and is merged anew.  And
 * a file is removed only if it is the one that was merged: the inode, and an image of the recorded identity.
 */
#include "remains.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "named-file.h"

#define SUFFIX ".remains"
#define MAGIC  "vhdkit-remains 1\n"
/* A chain of the greatest depth with the longest paths stays below. */
#define MAX_LIST_BYTES (16 * 1024 * 1024)

typedef struct
{
  char *path;
  uint64_t inode;
  char identity[2 * BLOCK_IDENTITY_SIZE + 1];
  bool there;
} Remain;

typedef struct
{
  Remain target;
  GArray *files; /* of Remain */
} RemainsList;

static void
remain_clear (gpointer data)
{
  g_free (((Remain *)data)->path);
}

static void
list_clear (RemainsList *list)
{
  remain_clear (&list->target);
  g_clear_pointer (&list->files, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (RemainsList, list_clear)

/* --- its file, in the thread pool --------------------------------------------------------------------------- */

typedef struct
{
  const char *path;
  const char *text;
  char *found;
} ListFile;

static int
write_all (int fd, const char *text)
{
  for (size_t left = strlen (text); left > 0;)
    {
      ssize_t n = write (fd, text, left);

      if (n < 0 && errno != EINTR)
        return -errno;
      if (n > 0)
        {
          text += n;
          left -= n;
        }
    }
  return fsync (fd) < 0 ? -errno : 0;
}

/* Whether @path, a file of this name that is there, is one of ours. */
static int
check_is_list (const char *path)
{
  char magic[sizeof MAGIC] = "";
  int fd = open (path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  ssize_t n = -1;

  if (fd < 0)
    return errno == ENOENT ? 0 : -errno;
  if (fstat (fd, &st) == 0 && S_ISREG (st.st_mode))
    n = read (fd, magic, sizeof MAGIC - 1);
  close (fd);
  return n >= 0 && strncmp (magic, MAGIC, (size_t)n) == 0 ? 0 : -EEXIST;
}

static int
write_list (void *opaque)
{
  const ListFile *file = opaque;
  g_autofree char *aside = g_strconcat (file->path, ".new", NULL);
  int ret = check_is_list (file->path);
  int fd = -1;

  if (ret == 0)
    ret = check_is_list (aside);
  if (ret == 0)
    {
      fd = open (aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
      ret = fd < 0 ? -errno : write_all (fd, file->text);
    }
  if (fd >= 0)
    close (fd);
  if (ret == 0 && rename (aside, file->path) < 0)
    ret = -errno;
  if (ret < 0 && fd >= 0)
    (void)unlink (aside);
  return ret < 0 ? ret : named_file_flush_directory (file->path);
}

static int
read_list (void *opaque)
{
  ListFile *file = opaque;
  int fd = open (file->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  ssize_t n = 0;
  int ret = fd < 0 || fstat (fd, &st) < 0 ? -errno : 0;

  if (ret == 0 && (!S_ISREG (st.st_mode) || st.st_size > MAX_LIST_BYTES))
    ret = -EINVAL;
  if (ret == 0)
    {
      file->found = g_malloc0 ((gsize)st.st_size + 1);
      for (off_t at = 0;
           at < st.st_size && (n = pread (fd, file->found + at, (size_t)(st.st_size - at), at)) > 0;)
        at += n;
      ret = n < 0 ? -errno : 0;
    }
  if (fd >= 0)
    close (fd);
  return ret;
}

static int
forget_list (void *opaque)
{
  const ListFile *file = opaque;

  if (unlink (file->path) < 0)
    return errno == ENOENT ? 0 : -errno;
  return named_file_flush_directory (file->path);
}

/* --- its text ------------------------------------------------------------------------------------------------ */

static void
get_identity_text (BlockDriverState *bs, char text[2 * BLOCK_IDENTITY_SIZE + 1])
{
  uint8_t identity[BLOCK_IDENTITY_SIZE] = { 0 };

  (void)bdrv_get_identity (bs, identity);
  for (int i = 0; i < BLOCK_IDENTITY_SIZE; i++)
    (void)sprintf (text + 2 * i, "%02x", identity[i]);
}

static char *
make_text (BlockDriverState *target, const char *name, const GPtrArray *layers)
{
  GString *text = g_string_new (MAGIC);
  g_autofree char *escaped_name = g_strescape (name, NULL);
  NamedFile file;

  /* 0: a device. */
  g_string_append_printf (
      text, "target %" PRIu64 " %s\n",
      !bdrv_protocol_node (target)->fixed_length && named_file_get (target, &file) ? file.id[1] : 0,
      escaped_name);
  for (guint i = 0; i < layers->len; i++)
    {
      BlockDriverState *layer = g_ptr_array_index (layers, i);
      g_autofree char *escaped = g_strescape (bdrv_get_host_path (layer), NULL);
      char identity[2 * BLOCK_IDENTITY_SIZE + 1];

      get_identity_text (layer, identity);
      g_string_append_printf (text, "remove %" PRIu64 " %s %s\n",
                              named_file_get (layer, &file) ? file.id[1] : 0, identity, escaped);
    }
  g_string_append (text, "end\n");
  return g_string_free (text, FALSE);
}

/* false: it is not whole, or not one of ours. */
static bool
parse_text (const char *text, RemainsList *list)
{
  g_auto (GStrv) lines = g_str_has_prefix (text, MAGIC) ? g_strsplit (text + strlen (MAGIC), "\n", -1) : NULL;
  guint n = lines ? g_strv_length (lines) : 0;

  list->files = g_array_new (false, true, sizeof (Remain));
  g_array_set_clear_func (list->files, remain_clear);
  /* The target, at least one file, the end, and nothing behind its newline. */
  if (n < 4 || strcmp (lines[n - 2], "end") != 0 || lines[n - 1][0] != '\0')
    return false;
  for (guint i = 0; i < n - 2; i++)
    {
      g_auto (GStrv) words = g_strsplit (lines[i], " ", i == 0 ? 3 : 4);
      guint n_words = g_strv_length (words);
      Remain remain = { 0 };

      if (n_words != (i == 0 ? 3u : 4u) || strcmp (words[0], i == 0 ? "target" : "remove") != 0
          || !g_ascii_string_to_unsigned (words[1], 10, 0, UINT64_MAX, &remain.inode, NULL)
          || (i > 0 && strlen (words[2]) != 2 * BLOCK_IDENTITY_SIZE))
        return false;
      if (i > 0)
        memcpy (remain.identity, words[2], sizeof remain.identity);
      remain.path = g_strcompress (words[n_words - 1]);
      if (i == 0)
        list->target = remain;
      else
        g_array_append_val (list->files, remain);
      if (!g_path_is_absolute (remain.path))
        return false;
    }
  return true;
}

/* --- writing ------------------------------------------------------------------------------------------------- */

int coroutine_fn
remains_co_write (const char *source, BlockDriverState *target, const char *name, const GPtrArray *layers)
{
  g_autofree char *path = g_strconcat (source, SUFFIX, NULL);
  g_autofree char *text = make_text (target, name, layers);
  ListFile file = { .path = path, .text = text };

  return aio_co_run_in_thread (write_list, &file);
}

int coroutine_fn
remains_co_forget (const char *source)
{
  g_autofree char *path = g_strconcat (source, SUFFIX, NULL);
  ListFile file = { .path = path };

  return aio_co_run_in_thread (forget_list, &file);
}

/* --- finishing ----------------------------------------------------------------------------------------------- */

/* Where a user's @name leads, symlinks resolved; what it leads to need not be there. */
static char *
resolve_name (const char *name)
{
  g_autofree char *path = g_canonicalize_filename (name, NULL);

  for (int links = 0; links < 40; links++)
    {
      g_autofree char *link = g_file_read_link (path, NULL);
      g_autofree char *directory = g_path_get_dirname (path);

      if (!link)
        {
          g_autofree char *base = g_path_get_basename (path);
          char *real = realpath (directory, NULL);
          char *resolved = g_build_filename (real ? real : directory, base, NULL);

          free (real);
          return resolved;
        }
      g_free (path);
      path = g_canonicalize_filename (link, directory);
    }
  return g_steal_pointer (&path);
}

/* In the thread pool: looks which of the files are there.  Whether the list is to be believed: 1, 0 or -errno. */
typedef struct
{
  RemainsList *list;
  const char *source;
  bool target_there;
} Survey;

static int
survey_files (void *opaque)
{
  Survey *survey = opaque;
  RemainsList *list = survey->list;
  bool gone = false, source_listed = false;
  struct stat st;

  survey->target_there =
      lstat (list->target.path, &st) == 0
      && (list->target.inode == 0 || (S_ISREG (st.st_mode) && st.st_ino == list->target.inode));
  for (guint i = 0; i < list->files->len; i++)
    {
      Remain *remain = &g_array_index (list->files, Remain, i);

      remain->there = lstat (remain->path, &st) == 0;
      /* What cannot be looked at may be there. */
      if (!remain->there && errno != ENOENT)
        return -errno;
      gone = gone || !remain->there;
      source_listed = source_listed || strcmp (remain->path, survey->source) == 0;
    }
  return gone || (!source_listed && survey->target_there && strcmp (list->target.path, survey->source) == 0);
}

static void
append_left (GString *text, const RemainsList *list, guint from)
{
  for (guint i = from; i < list->files->len; i++)
    {
      const Remain *remain = &g_array_index (list->files, Remain, i);

      if (remain->there)
        g_string_append_printf (text, "%s%s", text->len > 0 ? ", " : "", remain->path);
    }
}

/* The image is opened under a lock, and closed when its name is gone. */
static bool coroutine_fn
co_remove_one (const Remain *remain, const char *confine, GError **error)
{
  BdrvOpenParams params = { .flags = BDRV_O_NO_BACKING, .confine = confine };
  BlockDriverState *bs = bdrv_co_open (remain->path, &params, error);
  char identity[2 * BLOCK_IDENTITY_SIZE + 1];
  NamedFile file;
  bool ok;

  if (!bs)
    return false;
  get_identity_text (bs, identity);
  ok = named_file_co_check (bs, &file, "cannot be removed", error);
  if (ok && (file.id[1] != remain->inode || strcmp (identity, remain->identity) != 0))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "is not the file that was merged");
      ok = false;
    }
  if (ok)
    {
      int ret = named_file_co_remove (&file);

      if (ret < 0)
        named_file_set_error (error, bs, ret, "cannot be removed");
      ok = ret == 0;
    }
  bdrv_co_unref (bs);
  return ok;
}

static bool coroutine_fn
co_remove_all (RemainsList *list, const char *confine, GPtrArray *removed, GError **error)
{
  for (guint i = 0; i < list->files->len; i++)
    {
      const Remain *remain = &g_array_index (list->files, Remain, i);

      if (!remain->there)
        continue;
      if (!co_remove_one (remain, confine, error))
        {
          g_autoptr (GString) left = g_string_new (NULL);

          append_left (left, list, i);
          g_prefix_error (error, "of the images merged earlier into %s these are left and of no use: %s; ",
                          list->target.path, left->str);
          return false;
        }
      g_ptr_array_add (removed, g_strdup (remain->path));
    }
  return true;
}

GPtrArray *coroutine_fn
remains_co_remove (const char *source, const char *confine, GError **error)
{
  g_autofree char *real = resolve_name (source);
  g_autofree char *path = g_strconcat (real, SUFFIX, NULL);
  g_autoptr (GPtrArray) removed = g_ptr_array_new_with_free_func (g_free);
  g_auto (RemainsList) list = { 0 };
  ListFile file = { .path = path };
  int ret = aio_co_run_in_thread (read_list, &file);
  g_autofree char *text = file.found;
  Survey survey = { .list = &list, .source = real };

  if (ret == 0 && parse_text (text, &list))
    ret = aio_co_run_in_thread (survey_files, &survey);
  else if (ret == 0 || ret == -EINVAL || ret == -ELOOP || ret == -ENXIO)
    ret = -ENOENT; /* something else has its name */
  if (ret == 0 || ret == -ENOENT)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND,
                   "%s: no merge of it was interrupted while it removed", source);
      return NULL;
    }
  if (ret < 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "%s: cannot be followed: %s", path,
                   g_strerror (-ret));
      return NULL;
    }
  if (!survey.target_there)
    {
      g_autoptr (GString) left = g_string_new (NULL);

      append_left (left, &list, 0);
      g_set_error (
          error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
          "%s: the file that all was merged into is not there; if it is safe, these can be removed: %s%s%s",
          list.target.path, left->str, left->len > 0 ? ", " : "", path);
      return NULL;
    }
  if (!co_remove_all (&list, confine, removed, error))
    return NULL;
  ret = aio_co_run_in_thread (forget_list, &file);
  if (ret < 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "%s: cannot be removed: %s", path,
                   g_strerror (-ret));
      return NULL;
    }
  return g_steal_pointer (&removed);
}
