/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is flushed when a name changes, by somebody who may not read the directory.
 *
 * fsync () and syncfs () are replaced here by functions that note what there is when they are called.
 */
#include "test-core-util.h"

#include "named-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

/* folder/inner/old, folder/new */
static char *folder, *inner, *old_path, *new_path;
static GString *noted;

static void
note (const char *call)
{
  bool old_there = g_access (old_path, F_OK) == 0, new_there = g_access (new_path, F_OK) == 0;

  if (noted)
    g_string_append_printf (noted, "%s(%s%s) ", call, old_there ? "old" : "", new_there ? "new" : "");
}

int
fsync (int fd)
{
  note ("fsync");
  return (int)syscall (SYS_fsync, fd);
}

int
syncfs (int fd)
{
  note ("syncfs");
  return (int)syscall (SYS_syncfs, fd);
}

static void coroutine_fn
co_change (void *opaque)
{
  NamedFile file = { .path = old_path, .new_path = opaque };
  struct stat st;

  g_assert_cmpint (lstat (old_path, &st), ==, 0);
  file.id[0] = st.st_dev;
  file.id[1] = st.st_ino;
  int ret = file.new_path ? named_file_co_rename (&file) : named_file_co_remove (&file);
  g_string_append_printf (noted, "%d", ret);
}

typedef struct
{
  const char *name;
  int folder_mode, inner_mode, file_mode;
  bool rename;
  const char *noted;
} Case;

static const Case cases[] = {
  { "/named-file/remove", 0700, 0700, 0600, false, "fsync() 0" },
  { "/named-file/remove/unreadable", 0700, 0300, 0600, false, "syncfs() 0" },
  { "/named-file/remove/nothing-readable", 0700, 0300, 0200, false, "-13" },
  { "/named-file/rename", 0700, 0700, 0600, true, "fsync(new) fsync(new) 0" },
  { "/named-file/rename/from-unreadable", 0700, 0300, 0600, true, "fsync(new) syncfs(new) 0" },
  { "/named-file/rename/to-unreadable", 0300, 0700, 0600, true, "syncfs(new) fsync(new) 0" },
  { "/named-file/rename/unreadable", 0300, 0300, 0600, true, "syncfs(new) syncfs(new) 0" },
  { "/named-file/rename/nothing-readable", 0300, 0700, 0200, true, "-13" },
};

/* In a process of its own, that has no privileges. */
static int
run_case (const Case *c)
{
  if (geteuid () == 0 && (setresgid (NOBODY, NOBODY, NOBODY) < 0 || setresuid (NOBODY, NOBODY, NOBODY) < 0))
    return 77;
  if (g_access (old_path, F_OK) < 0)
    return 77;
  noted = g_string_new (NULL);
  test_run (co_change, c->rename ? new_path : NULL);
  if (g_strcmp0 (noted->str, c->noted) == 0)
    return 0;
  g_printerr ("found '%s', not '%s'\n", noted->str, c->noted);
  return 1;
}

static void
test_case (gconstpointer opaque)
{
  const Case *c = opaque;
  int status = -1;

  folder = g_dir_make_tmp ("test-named-file-XXXXXX", NULL);
  g_assert_nonnull (folder);
  inner = g_build_filename (folder, "inner", NULL);
  old_path = g_build_filename (inner, "old", NULL);
  new_path = g_build_filename (folder, "new", NULL);
  g_assert_cmpint (g_mkdir (inner, 0700), ==, 0);
  g_assert_true (g_file_set_contents (old_path, "text", -1, NULL));
  if (geteuid () == 0)
    g_assert_true (chown (old_path, NOBODY, NOBODY) == 0 && chown (inner, NOBODY, NOBODY) == 0
                   && chown (folder, NOBODY, NOBODY) == 0);
  g_assert_cmpint (g_chmod (old_path, c->file_mode), ==, 0);
  g_assert_cmpint (g_chmod (inner, c->inner_mode), ==, 0);
  g_assert_cmpint (g_chmod (folder, c->folder_mode), ==, 0);

  pid_t child = fork ();
  g_assert_cmpint (child, >=, 0);
  if (child == 0)
    _exit (run_case (c));
  g_assert_cmpint (waitpid (child, &status, 0), ==, child);

  (void)g_chmod (folder, 0700);
  (void)g_chmod (inner, 0700);
  (void)g_unlink (old_path);
  (void)g_unlink (new_path);
  g_assert_cmpint (g_rmdir (inner) | g_rmdir (folder), ==, 0);
  g_free (folder);
  g_free (inner);
  g_free (old_path);
  g_free (new_path);
  g_assert_true (WIFEXITED (status));
  if (WEXITSTATUS (status) == 77)
    g_test_skip ("nobody else may be here");
  else
    g_assert_cmpint (WEXITSTATUS (status), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    g_test_add_data_func (cases[i].name, &cases[i], test_case);
  return g_test_run ();
}
