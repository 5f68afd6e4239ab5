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
 *   remove INODE MTIME ID PATH  each file; MTIME: in nanoseconds; ID: the identity its children know it by, in
 *                             hexadecimal digits
 *   end
 *
 * Paths are absolute, escaped as in C.  The list is written aside and renamed: it is there as a whole or not at all.
 *
 * It says which files to look at, never that one may go.  A chain can change after the list was written, and anybody can
 * write a list.  So it is read only if nobody else can have written it, and believed only when C, being one of its files,
 * cannot be opened for want of a parent, or when the target has the name of C, which then is not in it.  And a file is
 * removed only if it is the one that was merged (the inode, not written to since, a differencing image of the recorded
 * identity), and all that it and those above it still hold is seen to be what the target shows.  That cannot be told where
 * the target has replaced C, which hid a part of it.
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
#include "same.h"

#define SUFFIX ".remains"
#define MAGIC  "vhdkit-remains 1\n"
/* A chain of the greatest depth with the longest paths stays below. */
#define MAX_LIST_BYTES (16 * 1024 * 1024)

typedef struct
{
  char *path;
  uint64_t inode, mtime;
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

/* Nobody else is to write to it. */
static int
create_new (const char *path)
{
  return open (path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static int
write_list (void *opaque)
{
  const ListFile *file = opaque;
  g_autofree char *aside = g_strconcat (file->path, ".new", NULL);
  g_auto (NamedDirectory) directory = NAMED_DIRECTORY_NONE;
  int ret = check_is_list (file->path);
  int fd = -1;

  if (ret == 0)
    ret = check_is_list (aside);
  if (ret == 0)
    {
      fd = create_new (aside);
      if (fd < 0 && errno == EEXIST && unlink (aside) == 0)
        fd = create_new (aside); /* it was left by a run that was interrupted */
      ret = fd < 0 ? -errno : write_all (fd, file->text);
    }
  if (fd >= 0)
    close (fd);
  if (ret == 0)
    ret = named_directory_open (&directory, file->path, aside);
  if (ret == 0 && rename (aside, file->path) < 0)
    ret = -errno;
  if (ret < 0 && fd >= 0)
    (void)unlink (aside);
  return ret < 0 ? ret : named_directory_flush (&directory);
}

static int
read_list (void *opaque)
{
  ListFile *file = opaque;
  int fd = open (file->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  ssize_t n = 0;
  int ret = fd < 0 || fstat (fd, &st) < 0 ? -errno : 0;

  /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): errno is not 0 where there is no @st */
  if (ret == 0 && (!S_ISREG (st.st_mode) || st.st_size > MAX_LIST_BYTES))
    ret = -EINVAL;
  /* Written by somebody else, it may name anything. */
  if (ret == 0 && (st.st_uid != geteuid () || st.st_nlink != 1 || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0))
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
  g_auto (NamedDirectory) directory = NAMED_DIRECTORY_NONE;
  int ret = named_directory_open (&directory, file->path, file->path);

  if (ret == 0 && unlink (file->path) < 0)
    ret = -errno;
  if (ret == -ENOENT)
    return 0;
  return ret < 0 ? ret : named_directory_flush (&directory);
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

static uint64_t
get_mtime (const struct stat *st)
{
  return (uint64_t)st->st_mtim.tv_sec * 1000000000 + (uint64_t)st->st_mtim.tv_nsec;
}

static char *coroutine_fn
co_make_text (BlockDriverState *target, const char *name, const GPtrArray *layers)
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
      bool ok = named_file_get (layer, &file);
      int ret = ok ? named_file_co_look (&file) : -ENOTSUP;
      g_string_append_printf (text, "remove %" PRIu64 " %" PRIu64 " %s %s\n", ok ? file.id[1] : 0,
                              ret == 0 ? get_mtime (&file.st) : 0, identity, escaped);
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
      g_auto (GStrv) words = g_strsplit (lines[i], " ", i == 0 ? 3 : 5);
      guint n_words = g_strv_length (words);
      Remain remain = { 0 };

      if (n_words != (i == 0 ? 3u : 5u) || strcmp (words[0], i == 0 ? "target" : "remove") != 0
          || !g_ascii_string_to_unsigned (words[1], 10, 0, UINT64_MAX, &remain.inode, NULL)
          || (i > 0
              && (!g_ascii_string_to_unsigned (words[2], 10, 0, UINT64_MAX, &remain.mtime, NULL)
                  || strlen (words[3]) != 2 * BLOCK_IDENTITY_SIZE
                  || strspn (words[3], "0") == 2 * BLOCK_IDENTITY_SIZE)))
        return false;
      if (i > 0)
        memcpy (remain.identity, words[3], sizeof remain.identity);
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
  g_autofree char *text = co_make_text (target, name, layers);
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

/* Where a user's @name leads, symlinks resolved, of directories too, so that ".." is what the host takes it for.  What it
 * leads to need not be there. */
static char *
resolve_name (const char *name)
{
  g_autofree char *path = g_strdup (name);

  for (int links = 0; links < 40; links++)
    {
      g_autofree char *directory = g_path_get_dirname (path), *base = g_path_get_basename (path);
      char *real = realpath (directory, NULL);

      /* In no directory there is no list. */
      if (!real)
        break;
      g_free (path);
      path = g_build_filename (real, base, NULL);
      g_autofree char *link = g_file_read_link (path, NULL);
      if (link)
        {
          g_free (path);
          path = g_path_is_absolute (link) ? g_strdup (link) : g_build_filename (real, link, NULL);
        }
      free (real);
      if (!link)
        break;
    }
  return g_canonicalize_filename (path, NULL);
}

/* In the thread pool: looks which of the files are there. */
typedef struct
{
  RemainsList *list;
  const char *source;
  bool target_there, source_there, source_listed;
} Survey;

static int
survey_files (void *opaque)
{
  Survey *survey = opaque;
  RemainsList *list = survey->list;
  struct stat st;

  survey->target_there =
      lstat (list->target.path, &st) == 0
      && (list->target.inode == 0 ? S_ISBLK (st.st_mode)
                                  : S_ISREG (st.st_mode) && st.st_ino == list->target.inode);
  for (guint i = 0; i < list->files->len; i++)
    {
      Remain *remain = &g_array_index (list->files, Remain, i);

      remain->there = lstat (remain->path, &st) == 0;
      /* What cannot be looked at may be there. */
      if (!remain->there && errno != ENOENT)
        return -errno;
      if (strcmp (remain->path, survey->source) == 0)
        {
          survey->source_listed = true;
          survey->source_there = remain->there;
        }
    }
  return 0;
}

/* Whether the source cannot be what it was before the first file was removed. */
static bool coroutine_fn
co_is_interrupted (const Survey *survey, const char *confine)
{
  BdrvOpenParams params = { .confine = confine };
  g_autoptr (GError) why = NULL;

  if (!survey->source_listed)
    return survey->target_there && strcmp (survey->list->target.path, survey->source) == 0;
  if (!survey->source_there)
    return true;

  BlockDriverState *bs = bdrv_co_open (survey->source, &params, &why);
  if (bs)
    {
      /* Its chain is whole. */
      bdrv_co_unref (bs);
      return false;
    }
  return g_error_matches (why, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_NOT_FOUND)
         || g_error_matches (why, VHDKIT_ERROR, VHDKIT_ERROR_PARENT_MISMATCH);
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

/* --- what is left, opened: locked until it is removed --------------------------------------------------------- */

static void coroutine_fn
co_close_all (GPtrArray *images)
{
  for (guint i = 0; i < images->len; i++)
    bdrv_co_unref (g_ptr_array_index (images, i));
  g_ptr_array_unref (images);
}

/* The file that was merged, by itself. */
static BlockDriverState *coroutine_fn
co_open_one (const Remain *remain, const char *confine, GError **error)
{
  BdrvOpenParams params = { .flags = BDRV_O_NO_BACKING, .confine = confine };
  BlockDriverState *bs = bdrv_co_open (remain->path, &params, error);
  char identity[2 * BLOCK_IDENTITY_SIZE + 1];
  NamedFile file;

  if (!bs)
    return NULL;
  get_identity_text (bs, identity);
  if (!named_file_co_check_free (bs, &file, "cannot be removed", error))
    ;
  else if (file.id[1] != remain->inode || get_mtime (&file.st) != remain->mtime
           || strcmp (identity, remain->identity) != 0 || !bdrv_lacks_parent (bs))
    bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "is not the file that was merged");
  else
    return bs;
  bdrv_co_unref (bs);
  return NULL;
}

/* What is still there, from the lowest upwards, as it is listed; NULL: @error. */
static GPtrArray *coroutine_fn
co_open_all (const RemainsList *list, const char *confine, GError **error)
{
  GPtrArray *images = g_ptr_array_new ();

  for (guint i = 0; i < list->files->len; i++)
    {
      const Remain *remain = &g_array_index (list->files, Remain, i);
      BlockDriverState *bs = remain->there ? co_open_one (remain, confine, error) : NULL;

      if (bs)
        g_ptr_array_add (images, bs);
      else if (remain->there)
        {
          co_close_all (images);
          return NULL;
        }
    }
  return images;
}

/* How much of [@offset, +@bytes), which images[@n] decides, is not hidden by those above it: 0 when it begins with what
 * is, of *@hidden bytes; or -errno. */
static int64_t coroutine_fn
co_get_unhidden (const GPtrArray *images, guint n, int64_t offset, int64_t bytes, int64_t *hidden)
{
  for (guint i = n + 1; i < images->len; i++)
    {
      BlockDriverState *above = g_ptr_array_index (images, i);
      int64_t run = bytes, map;
      BlockDriverState *file;
      /* What lies past the end of an image above is hidden by it. */
      int status = offset < bdrv_length (above) ? bdrv_co_block_status (
                       above, offset, MIN (bytes, bdrv_length (above) - offset), &run, &map, &file)
                                                : BDRV_BLOCK_ALLOCATED;

      if (status < 0)
        return status;
      if (status & BDRV_BLOCK_ALLOCATED)
        {
          *hidden = run;
          return 0;
        }
      bytes = run;
    }
  return bytes;
}

/* Whether nothing of images[@n] would be lost: 1, 0 or -errno. */
static int coroutine_fn
co_is_merged (BlockDriverState *target, const GPtrArray *images, guint n)
{
  BlockDriverState *bs = g_ptr_array_index (images, n);
  int64_t end = bdrv_length (bs), run, map, hidden = 0;
  g_auto (SamePair) pair = { 0 };
  BlockDriverState *file;
  int ret = same_pair_init (&pair, bs, target);

  if (ret < 0)
    return ret;
  for (int64_t offset = 0; offset < end; offset += run)
    {
      int status = bdrv_co_block_status (bs, offset, end - offset, &run, &map, &file);

      if (status < 0)
        return status;
      if (!(status & BDRV_BLOCK_ALLOCATED))
        continue;
      int64_t bytes = co_get_unhidden (images, n, offset, run, &hidden);
      ret = bytes <= 0 ? (int)bytes : same_co_range (&pair, offset, bytes);
      if (ret < 0 || (bytes > 0 && ret == 0))
        return ret;
      run = bytes > 0 ? bytes : hidden;
    }
  return 1;
}

/* The target by itself, with its own parents, as it is now. */
static bool coroutine_fn
co_check_merged (const RemainsList *list, const GPtrArray *images, const char *confine, GError **error)
{
  BdrvOpenParams params = { .confine = confine };
  BlockDriverState *target = bdrv_co_open (list->target.path, &params, error);
  int ret = 1;

  if (!target)
    return false;
  for (guint i = 0; i < images->len && ret > 0; i++)
    {
      BlockDriverState *bs = g_ptr_array_index (images, i);

      ret = co_is_merged (target, images, i);
      if (ret == 0)
        bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "holds what %s does not show",
                        target->filename);
      else if (ret < 0)
        bdrv_set_error_errno (error, bs, ret, "cannot be compared with %s", target->filename);
    }
  bdrv_co_unref (target);
  return ret > 0;
}

/* Each is closed when its name is gone. */
static bool coroutine_fn
co_remove_images (const GPtrArray *images, GPtrArray *removed, GError **error)
{
  for (guint i = 0; i < images->len; i++)
    {
      BlockDriverState *bs = g_ptr_array_index (images, i);
      NamedFile file;
      int ret = named_file_get (bs, &file) ? named_file_co_remove (&file) : -ENOTSUP;

      if (ret < 0)
        {
          named_file_set_error (error, bs, ret, "cannot be removed");
          return false;
        }
      g_ptr_array_add (removed, g_strdup (file.path));
    }
  return true;
}

static bool coroutine_fn
co_remove_all (const RemainsList *list, bool renamed, const char *confine, GPtrArray *removed, GError **error)
{
  GPtrArray *images = co_open_all (list, confine, error);
  bool ok = images && (renamed || co_check_merged (list, images, confine, error))
            && co_remove_images (images, removed, error);

  if (images)
    co_close_all (images);
  if (!ok)
    {
      g_autoptr (GString) left = g_string_new (NULL);

      append_left (left, list, 0);
      g_prefix_error (error,
                      "of an earlier merge into %s, interrupted while it removed, there may be left: %s; ",
                      list->target.path, left->str);
    }
  return ok;
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
  if (ret == -ENOENT || (ret == 0 && !co_is_interrupted (&survey, confine)))
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND,
                   "%s: no merge of it was interrupted while it removed", source);
      return NULL;
    }
  if (ret != 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_IO, "%s: cannot be followed: %s", path,
                   g_strerror (-ret));
      return NULL;
    }
  if (!survey.target_there)
    {
      g_autoptr (GString) left = g_string_new (NULL);

      append_left (left, &list, 0);
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT,
                   "%s: the file that an earlier merge put all into is not there; it was interrupted while "
                   "it removed %s",
                   list.target.path, left->len > 0 ? left->str : "the last file");
      return NULL;
    }
  if (!co_remove_all (&list, !survey.source_listed, confine, removed, error))
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
