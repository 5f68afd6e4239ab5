/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening chains: finding parents, and whom to refuse. */
#include "test-core-util.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utime.h>

/* --- a format ------------------------------------------------------------------------------------------ */

#define MAX_PATHS  3
#define DISK_BYTES 65536

/* The whole image file.  Reads go to the parent if there is one, else give the tag. */
typedef struct
{
  char magic[8];
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  uint8_t parent[2][BLOCK_IDENTITY_SIZE];
  int has_parent, parent_is_raw;
  int broken; /* cannot be opened */
  int64_t bytes, time_stamp;
  int n_paths;
  int kinds[MAX_PATHS];
  char paths[MAX_PATHS][200];
  uint8_t tag;
} Image;

static int
link_probe (const BlockProbe *probe)
{
  return probe->head_bytes >= sizeof (Image) && memcmp (probe->head, "LINKTEST", 8) == 0 ? 100 : 0;
}

static bool coroutine_fn
link_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  Image *image = bs->opaque;
  int ret = bdrv_co_pread (bs->file, 0, sizeof *image, image);

  g_assert_true (!(bs->open_flags & BDRV_O_CHILD) || bs->read_only);
  if (ret < 0 || memcmp (image->magic, "LINKTEST", 8) != 0 || image->broken)
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_CORRUPT, "header: broken");
      return false;
    }
  bs->bytes = image->bytes;
  return true;
}

static int coroutine_fn
link_co_preadv (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov, size_t qiov_offset)
{
  const Image *image = bs->opaque;

  if (bs->backing)
    return bdrv_co_preadv (bs->backing, offset, bytes, qiov, qiov_offset);
  io_vector_memset (qiov, qiov_offset, image->tag, bytes);
  return 0;
}

static int coroutine_fn
link_co_pwritev (BlockDriverState *bs, int64_t offset, int64_t bytes, const IoVector *qiov,
                 size_t qiov_offset)
{
  return 0;
}

static bool
link_get_parent_link (BlockDriverState *bs, BlockParentLink *link)
{
  static const char *const formats[] = { "link", NULL };
  static const char *const raw_formats[] = { "raw", NULL };
  const Image *image = bs->opaque;

  if (!image->has_parent)
    return false;
  for (int i = 0; i < image->n_paths; i++)
    block_parent_link_add (link, image->kinds[i], image->paths[i], "locator");
  link->formats = image->parent_is_raw ? raw_formats : formats;
  link->has_identity = !image->parent_is_raw;
  memcpy (link->identity, image->parent, sizeof link->identity);
  link->identities = 2;
  link->has_time_stamp = true;
  link->time_stamp = image->time_stamp;
  return true;
}

static bool
link_get_identity (BlockDriverState *bs, uint8_t *identity)
{
  memcpy (identity, ((Image *)bs->opaque)->identity, BLOCK_IDENTITY_SIZE);
  return true;
}

static const BlockDriver link_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FORMAT,
  .format_name = "link",
  .caps = BLOCK_CAP_BACKING,
  .instance_size = sizeof (Image),
  .probe = link_probe,
  .co_open = link_co_open,
  .co_preadv = link_co_preadv,
  .co_pwritev = link_co_pwritev,
  .get_parent_link = link_get_parent_link,
  .get_identity = link_get_identity,
};

static char *dir; /* of all files */

static void
write_file (const char *name, const void *data, gsize bytes)
{
  g_autofree char *path = g_build_filename (dir, name, NULL);
  g_autofree char *parent = g_path_get_dirname (path);

  g_assert_cmpint (g_mkdir_with_parents (parent, 0700), ==, 0);
  g_assert_true (g_file_set_contents (path, data, bytes, NULL));
}

static Image
image_with_id (uint8_t id)
{
  Image image = { .magic = { 'L', 'I', 'N', 'K', 'T', 'E', 'S', 'T' }, .bytes = DISK_BYTES, .tag = id };

  image.identity[0] = id;
  return image;
}

static void
write_base (const char *name, uint8_t id)
{
  Image image = image_with_id (id);

  write_file (name, &image, sizeof image);
}

/* A child @id of the image @parent_id, which it names in up to three ways; "b:" and "a:" before a path make it a
 * base name or an absolute one. */
static void
write_child (const char *name, uint8_t id, uint8_t parent_id, const char *a, const char *b, const char *c)
{
  Image image = image_with_id (id);
  const char *paths[MAX_PATHS] = { a, b, c };

  image.has_parent = true;
  image.parent[1][0] = parent_id;
  memset (image.parent[0], 0xff, BLOCK_IDENTITY_SIZE);
  for (; image.n_paths < MAX_PATHS && paths[image.n_paths]; image.n_paths++)
    {
      const char *path = paths[image.n_paths];
      image.kinds[image.n_paths] = g_str_has_prefix (path, "b:")   ? BLOCK_PARENT_PATH_BASENAME
                                   : g_str_has_prefix (path, "a:") ? BLOCK_PARENT_PATH_ABSOLUTE
                                                                   : BLOCK_PARENT_PATH_RELATIVE;
      bool prefixed = image.kinds[image.n_paths] != BLOCK_PARENT_PATH_RELATIVE;
      g_strlcpy (image.paths[image.n_paths], path + (prefixed ? 2 : 0), sizeof image.paths[0]);
    }
  write_file (name, &image, sizeof image);
}

/* --- opening ------------------------------------------------------------------------------------------- */

typedef struct
{
  const char *name; /* below dir; with a slash in front: a path */
  BdrvOpenParams params;
  /* Results. */
  int depth;
  char *last_file; /* base of the chain */
  char *last_name; /* as found */
  GPtrArray *warnings;
  uint8_t read;
  GError *error;
} Opening;

static void coroutine_fn
co_open (void *opaque)
{
  Opening *opening = opaque;
  g_autofree char *path =
      opening->name[0] == '/' ? g_strdup (opening->name) : g_build_filename (dir, opening->name, NULL);
  BlockDriverState *bs = bdrv_co_open (path, &opening->params, &opening->error);

  g_assert_true ((bs == NULL) == (opening->error != NULL));
  if (!bs)
    return;
  opening->depth = bdrv_chain_depth (bs);
  BlockDriverState *base = bdrv_chain_get (bs, opening->depth - 1);
  opening->last_file = g_path_get_basename (bdrv_get_host_path (base));
  opening->last_name = g_strdup (base->filename);
  for (BlockDriverState *layer = bs->backing; layer; layer = layer->backing)
    {
      g_assert_true (layer->read_only);
      g_assert_true (layer->open_flags & BDRV_O_CHILD);
      g_assert_false (bdrv_same_file (layer, bs));
    }
  opening->warnings = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; i < bdrv_get_warnings (bs)->len; i++)
    g_ptr_array_add (opening->warnings, g_strdup (g_ptr_array_index (bdrv_get_warnings (bs), i)));
  g_assert_cmpint (bdrv_co_pread (bs, 0, 1, &opening->read), ==, 0);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

static void
opening_clear (Opening *opening)
{
  g_clear_pointer (&opening->last_file, g_free);
  g_clear_pointer (&opening->last_name, g_free);
  g_clear_pointer (&opening->warnings, g_ptr_array_unref);
  g_clear_error (&opening->error);
}

static void
open_ok (Opening *opening, int depth, const char *last_file)
{
  opening_clear (opening);
  test_run (co_open, opening);
  g_assert_no_error (opening->error);
  g_assert_cmpint (opening->depth, ==, depth);
  if (last_file)
    g_assert_cmpstr (opening->last_file, ==, last_file);
}

static void
open_fails (Opening *opening, int code, const char *pattern)
{
  opening_clear (opening);
  test_run (co_open, opening);
  g_assert_error (opening->error, VHDKIT_ERROR, code);
  if (!g_pattern_match_simple (pattern, opening->error->message))
    g_error ("'%s' does not match '%s'", opening->error->message, pattern);
  opening_clear (opening);
}

/* --- finding ------------------------------------------------------------------------------------------- */

static void
test_paths (void)
{
  static const struct
  {
    const char *path;
    const char *found; /* as found, below dir */
  } cases[] = { { "base.img", "base.img" },      { ".\\base.img", "./base.img" },
                { ".\\.\\\\base.img", NULL },    { "./sub/deep.img", "sub/deep.img" },
                { ".\\sub\\deep.img", NULL },    { "SUB\\Deep.IMG", "sub/deep.img" },
                { "sub\\..\\base.img", NULL },   { "b:C:\\nowhere\\base.img", NULL },
                { "b:/nowhere/BASE.img", NULL }, { "b:base.img", NULL },
                { "a:base.img", NULL } };
  Opening opening = { "child.img" };

  write_base ("base.img", 1);
  write_base ("sub/deep.img", 1);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      write_child ("child.img", 2, 1, cases[i].path, NULL, NULL);
      open_ok (&opening, 2, NULL);
      g_assert_cmpint (opening.read, ==, 1);
      if (strstr (cases[i].path, "b:"))
        g_assert_cmpstr (opening.last_file, ==, "base.img");
    }
  /* An absolute path of this host's. */
  g_autofree char *absolute = g_strconcat ("a:", dir, "/base.img", NULL);
  write_child ("child.img", 2, 1, "gone.img", absolute, NULL);
  open_ok (&opening, 2, "base.img");

  /* The exact name is preferred to one in other case. */
  write_base ("x.img", 3);
  write_base ("X.img", 1);
  write_child ("child.img", 2, 3, "x.img", NULL, NULL);
  open_ok (&opening, 2, "x.img");
  opening_clear (&opening);
}

static void
test_symlinked_child (void)
{
  Opening opening = { "links/child.img" };
  g_autofree char *link = g_build_filename (dir, "links/child.img", NULL);

  /* First beside the real file, then beside the link. */
  write_base ("real/base.img", 1);
  write_base ("links/base.img", 9);
  write_child ("real/child.img", 2, 1, "base.img", NULL, NULL);
  g_assert_cmpint (symlink ("../real/child.img", link), ==, 0);
  open_ok (&opening, 2, "base.img");
  g_assert_cmpint (opening.read, ==, 1);

  write_child ("real/child.img", 2, 9, "base.img", NULL, NULL);
  open_ok (&opening, 2, "base.img");
  g_assert_cmpint (opening.read, ==, 9);
  opening_clear (&opening);
}

static void
test_drive_map (void)
{
  g_autofree char *c = g_strconcat ("c:=", dir, "/drives/c", NULL);
  g_autofree char *share = g_strconcat ("\\\\server\\share\\=", dir, "/drives/share", NULL);
  g_autofree char *volume = g_strconcat ("\\\\?\\Volume{12-34}=", dir, "/drives", NULL);
  const char *const map[] = { "D:", c, share, volume, NULL };
  static const char *const paths[] = { "a:C:\\disks\\base.img",
                                       "C:\\DISKS\\Base.img",
                                       "a:\\\\?\\C:\\disks\\base.img",
                                       "a:C:\\..\\..\\disks\\x\\..\\base.img",
                                       "a:\\\\SERVER\\Share\\base.img",
                                       "a:\\\\?\\UNC\\server\\share\\base.img",
                                       "a:\\\\?\\volume{12-34}\\c\\disks\\base.img" };
  static const char *const refused[] = { "a:D:\\base.img",
                                         "a:E:\\base.img",
                                         "a:C:base.img",
                                         "a:C:\\",
                                         "a:\\\\server\\shared\\base.img",
                                         "a:\\disks\\base.img",
                                         "" };
  Opening opening = { "child.img", { .drive_map = map } };

  write_base ("drives/c/disks/base.img", 1);
  write_base ("drives/share/base.img", 1);
  write_base ("base.img", 1);
  for (size_t i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      write_child ("child.img", 2, 1, paths[i], NULL, NULL);
      opening.params.drive_map = map;
      open_ok (&opening, 2, "base.img");
      opening.params.drive_map = NULL;
      open_fails (&opening, VHDKIT_ERROR_PARENT_NOT_FOUND,
                  "parent of *child.img: not found: locator '*no drive map*");
    }
  opening.params.drive_map = map;
  for (size_t i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      write_child ("child.img", 2, 1, refused[i], NULL, NULL);
      open_fails (&opening, VHDKIT_ERROR_PARENT_NOT_FOUND, "parent of *child.img: not found: locator *");
    }
}

/* --- fitting ------------------------------------------------------------------------------------------- */

static void
test_identity (void)
{
  g_autofree char *other = g_build_filename (dir, "other.img", NULL);
  g_autofree char *base = g_build_filename (dir, "base.img", NULL);
  Opening opening = { "child.img" };

  write_base ("base.img", 1);
  write_base ("other.img", 7);
  write_file ("plain.img", "some text", 9);

  /* One that does not fit is passed over. */
  write_child ("child.img", 2, 1, "other.img", "plain.img", "base.img");
  open_ok (&opening, 2, "base.img");
  write_child ("child.img", 2, 1, "other.img", "plain.img", "gone.img");
  open_fails (&opening, VHDKIT_ERROR_PARENT_MISMATCH,
              "parent of *child.img: none fits: locator 'other.img': *other.img: has another identity*; "
              "locator 'plain.img': *not an image of a format its child can have*(link); "
              "locator 'gone.img': *gone.img: cannot be opened: *");
  write_child ("child.img", 2, 1, "plain.img", NULL, NULL);
  open_fails (&opening, VHDKIT_ERROR_PARENT_NOT_FOUND, "*plain.img: is not an image*");
  write_child ("child.img", 2, 1, NULL, NULL, NULL);
  open_fails (&opening, VHDKIT_ERROR_PARENT_NOT_FOUND,
              "*child.img: not found: the image names none; --parent *");

  /* The user's word goes before the image's, but not before the identity. */
  write_child ("child.img", 2, 1, "gone.img", NULL, NULL);
  opening.params.parent = base;
  open_ok (&opening, 2, "base.img");
  opening.params.parent_format = "raw";
  open_fails (&opening, VHDKIT_ERROR_PARENT_MISMATCH, "parent of *child.img: *base.img: has no identity*");
  opening.params.parent_format = "nonesuch";
  open_fails (&opening, VHDKIT_ERROR_NOT_FOUND, "*'nonesuch'*");
  opening.params.parent_format = NULL;
  opening.params.parent = other;
  open_fails (&opening, VHDKIT_ERROR_PARENT_MISMATCH, "parent of *child.img: *other.img: has another*");
  opening.name = "base.img";
  open_fails (&opening, VHDKIT_ERROR_INVALID_ARGUMENT, "*base.img: the image has no parent*");

  /* What is wrong in a parent is told as such; the leaf alone opens. */
  Image broken = image_with_id (1);
  broken.broken = true;
  write_file ("base.img", &broken, sizeof broken);
  write_child ("child.img", 2, 1, "base.img", NULL, NULL);
  opening = (Opening){ "child.img" };
  open_fails (&opening, VHDKIT_ERROR_PARENT_NOT_FOUND, "parent of *child.img: *base.img: header: broken");
  opening.params.flags = BDRV_O_NO_BACKING;
  open_ok (&opening, 1, "child.img");
  opening_clear (&opening);
}

static void
test_raw_parent (void)
{
  g_autofree char *disk = g_build_filename (dir, "disk.raw", NULL);
  Image child = image_with_id (2);
  Opening opening = { "child.img" };

  child.has_parent = child.parent_is_raw = true;
  child.n_paths = 1;
  strcpy (child.paths[0], "disk.raw");
  write_file ("child.img", &child, sizeof child);
  write_base ("disk.raw", 1); /* its content looks like an image: it is a plain disk all the same */

  open_fails (&opening, VHDKIT_ERROR_PERMISSION, "parent of *child.img: has no identity*");
  opening.params.flags = BDRV_O_RAW_PARENT;
  open_ok (&opening, 2, "disk.raw");
  g_assert_cmpint (opening.read, ==, 'L');
  opening.params.flags = 0;
  opening.params.parent = disk;
  open_ok (&opening, 2, "disk.raw");
  g_assert_cmpint (opening.read, ==, 'L');
  opening_clear (&opening);
}

static void
test_warnings (void)
{
  g_autofree char *base_path = g_build_filename (dir, "base.img", NULL);
  struct utimbuf times = { 1000000, 1000000 };
  Image base = image_with_id (1), child;
  g_autofree char *contents = NULL;
  g_autofree char *path = g_build_filename (dir, "child.img", NULL);
  Opening opening = { "child.img" };

  base.bytes = 2 * DISK_BYTES;
  write_file ("base.img", &base, sizeof base);
  g_assert_cmpint (utime (base_path, &times), ==, 0);
  write_child ("child.img", 2, 1, "base.img", NULL, NULL);
  open_ok (&opening, 2, "base.img"); /* a time stamp of 0 says nothing */
  g_assert_cmpuint (opening.warnings->len, ==, 1);
  g_assert_true (g_pattern_match_simple ("*smaller than its parent *base.img: 65536 and 131072 bytes",
                                         g_ptr_array_index (opening.warnings, 0)));

  g_assert_true (g_file_get_contents (path, &contents, NULL, NULL));
  memcpy (&child, contents, sizeof child);
  child.time_stamp = 1000000;
  child.bytes = 4 * DISK_BYTES;
  write_file ("child.img", &child, sizeof child);
  open_ok (&opening, 2, "base.img");
  g_assert_cmpuint (opening.warnings->len, ==, 0);
  child.time_stamp = 999999;
  write_file ("child.img", &child, sizeof child);
  open_ok (&opening, 2, "base.img");
  g_assert_cmpuint (opening.warnings->len, ==, 1);
  g_assert_true (
      g_pattern_match_simple ("*modified 1970-01-12 13:46:40 UTC*recorded 1970-01-12 13:46:39 UTC*",
                              g_ptr_array_index (opening.warnings, 0)));
  opening_clear (&opening);
}

/* --- refusing ------------------------------------------------------------------------------------------ */

static void
test_kinds_of_files (void)
{
  g_autofree char *fifo = g_build_filename (dir, "fifo", NULL);
  g_autofree char *subdir = g_build_filename (dir, "directory", NULL);
  Opening opening = { "child.img" };

  g_assert_cmpint (mkfifo (fifo, 0600), ==, 0);
  g_assert_cmpint (g_mkdir (subdir, 0700), ==, 0);
  static const struct
  {
    const char *path, *kind;
  } cases[] = { { "fifo", "*fifo: is a FIFO*" },
                { "directory", "*directory: is a directory*" },
                { "a:/dev/null", "*/dev/null: is a character device*" } };
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      write_child ("child.img", 2, 1, cases[i].path, NULL, NULL);
      open_fails (&opening, VHDKIT_ERROR_PERMISSION, cases[i].kind);
      opening.name = cases[i].path + (cases[i].path[1] == ':' ? 2 : 0);
      open_fails (&opening, VHDKIT_ERROR_INVALID_ARGUMENT, cases[i].kind);
      opening.name = "child.img";
    }
  opening.name = "gone.img";
  open_fails (&opening, VHDKIT_ERROR_NOT_FOUND, "*gone.img: cannot be opened: *");
}

static void
test_cycles (void)
{
  Opening opening = { "a.img", { .flags = BDRV_O_RDWR } };
  g_autofree char *a = g_build_filename (dir, "a.img", NULL);
  g_autofree char *hard = g_build_filename (dir, "hard.img", NULL);

  write_child ("a.img", 1, 1, "a.img", NULL, NULL);
  open_fails (&opening, VHDKIT_ERROR_CORRUPT, "parent of *a.img: *a.img: chain cycle*");
  write_child ("a.img", 1, 2, "b.img", NULL, NULL);
  write_child ("b.img", 2, 3, "c.img", NULL, NULL);
  write_child ("c.img", 3, 1, "hard.img", NULL, NULL);
  g_assert_cmpint (link (a, hard), ==, 0);
  open_fails (&opening, VHDKIT_ERROR_CORRUPT, "parent of *c.img: *hard.img: chain cycle*");

  /* A name that leads back, but to another image than the one wanted, is only a name that is wrong. */
  write_base ("base.img", 5);
  write_child ("c.img", 3, 5, "hard.img", "base.img", NULL);
  open_ok (&opening, 4, "base.img");
  opening_clear (&opening);
}

static void
test_depth (void)
{
  Opening opening = { "layer-0.img" };

  for (int i = 0; i < BDRV_MAX_CHAIN_DEPTH + 1; i++)
    {
      g_autofree char *name = g_strdup_printf ("layer-%d.img", i);
      g_autofree char *parent = g_strdup_printf ("layer-%d.img", i + 1);
      Image image = image_with_id (1);
      /* Identities of two bytes. */
      image.identity[1] = i & 0xff;
      image.identity[2] = i >> 8;
      image.has_parent = i < BDRV_MAX_CHAIN_DEPTH;
      image.parent[0][0] = 1;
      image.parent[0][1] = (i + 1) & 0xff;
      image.parent[0][2] = (i + 1) >> 8;
      image.n_paths = 1;
      strcpy (image.paths[0], parent);
      write_file (name, &image, sizeof image);
    }
  open_fails (&opening, VHDKIT_ERROR_UNSUPPORTED, "*layer-511.img: *more than 512 layers*");
  opening.name = "layer-1.img";
  open_ok (&opening, BDRV_MAX_CHAIN_DEPTH, "layer-512.img");
  opening.name = "layer-257.img";
  open_ok (&opening, 256, "layer-512.img");
  opening_clear (&opening);
}

/* Old kernels and valgrind have no openat2. */
static bool
host_can_confine (void)
{
  struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH };
  int fd = (int)syscall (SYS_openat2, AT_FDCWD, ".", &how, sizeof how);

  if (fd >= 0)
    close (fd);
  return fd >= 0;
}

static void
test_confine (void)
{
  if (!host_can_confine ())
    {
      g_test_skip ("no openat2 here");
      return;
    }

  g_autofree char *inside = g_build_filename (dir, "jail", NULL);
  g_autofree char *outside = g_build_filename (dir, "base.img", NULL);
  g_autofree char *out_link = g_build_filename (dir, "jail/out.img", NULL);
  g_autofree char *in_link = g_build_filename (dir, "jail/in.img", NULL);
  g_autofree char *map = g_strconcat ("C:=", dir, NULL);
  const char *const drive_map[] = { map, NULL };
  Opening opening = { "jail/child.img", { .confine = inside } };

  write_base ("base.img", 1);
  write_base ("jail-bird/base.img", 1);
  write_base ("jail/base.img", 1);
  g_assert_cmpint (symlink ("../base.img", out_link), ==, 0);
  g_assert_cmpint (symlink ("sub/../base.img", in_link), ==, 0);
  g_autofree char *sub = g_build_filename (dir, "jail/sub", NULL);
  g_assert_cmpint (g_mkdir (sub, 0700), ==, 0);

  write_child ("jail/child.img", 2, 1, "base.img", NULL, NULL);
  open_ok (&opening, 2, "base.img");
  write_child ("jail/child.img", 2, 1, "in.img", NULL, NULL);
  open_ok (&opening, 2, "base.img");

  static const char *const escapes[] = { "..\\base.img", "..\\BASE.img", "out.img", "../jail-bird/base.img" };
  for (size_t i = 0; i < G_N_ELEMENTS (escapes); i++)
    {
      write_child ("jail/child.img", 2, 1, escapes[i], NULL, NULL);
      opening.params.confine = NULL;
      open_ok (&opening, 2, "base.img");
      opening.params.confine = inside;
      opening_clear (&opening);
      test_run (co_open, &opening);
      g_assert_nonnull (opening.error);
      /* In other case outside, nothing is even found. */
      g_assert_cmpint (opening.error->code, ==,
                       i == 1 ? VHDKIT_ERROR_PARENT_NOT_FOUND : VHDKIT_ERROR_PERMISSION);
    }

  opening.params.drive_map = drive_map;
  write_child ("jail/child.img", 2, 1, "a:C:\\base.img", NULL, NULL);
  open_fails (&opening, VHDKIT_ERROR_PERMISSION, "*base.img: is outside of *jail");
  write_child ("jail/child.img", 2, 1, "a:C:\\jail\\base.img", NULL, NULL);
  open_ok (&opening, 2, "base.img");

  opening.params.parent = outside;
  open_fails (&opening, VHDKIT_ERROR_PERMISSION, "*base.img: is outside of *jail");
  opening.params.parent = NULL;
  opening.name = "base.img";
  open_fails (&opening, VHDKIT_ERROR_PERMISSION, "*base.img: is outside of *jail");
  opening.params.confine = "/nonexistent";
  open_fails (&opening, VHDKIT_ERROR_NOT_FOUND, "/nonexistent: *");
  opening_clear (&opening);
}

/* --- single images ------------------------------------------------------------------------------------- */

static void
test_formats (void)
{
  static const char *const filters[] = { "test-filter", "test-filter", NULL };
  static const char *const bad_filters[] = { "raw", NULL };
  static const char *const options[] = { "x=y", NULL };
  Opening opening = { "base.img" };

  write_base ("base.img", 1);
  write_file ("plain.img", "some text", 9);
  write_file ("empty.img", "", 0);
  open_ok (&opening, 1, NULL);
  g_assert_cmpint (opening.read, ==, 1);
  opening.params.filters = filters;
  open_ok (&opening, 1, NULL);
  g_assert_cmpint (opening.read, ==, 1);
  opening.params.filters = bad_filters;
  open_fails (&opening, VHDKIT_ERROR_NOT_FOUND, "filter 'raw': there is no filter named 'raw'");
  opening.params.filters = NULL;
  opening.params.format = "raw";
  open_ok (&opening, 1, NULL);
  g_assert_cmpint (opening.read, ==, 'L');
  opening.params.format = "file";
  open_fails (&opening, VHDKIT_ERROR_NOT_FOUND, "*no image format named 'file'");
  opening.params.format = "link";
  opening.params.format_options = options;
  open_fails (&opening, VHDKIT_ERROR_INVALID_ARGUMENT, "format link: unknown option 'x'*");
  opening.params.format_options = NULL;
  opening.name = "plain.img";
  open_fails (&opening, VHDKIT_ERROR_CORRUPT, "*plain.img: header: broken");
  opening.params.format = NULL;
  open_ok (&opening, 1, NULL);
  g_assert_cmpint (opening.read, ==, 's');
  opening.name = "empty.img";
  open_ok (&opening, 1, NULL);
  opening.params.flags = BDRV_O_RDWR | BDRV_O_FORCE_SHARE;
  open_fails (&opening, VHDKIT_ERROR_INVALID_ARGUMENT, "*read-only*");
  opening_clear (&opening);
}

typedef struct
{
  const char *path;
  const char *confine;
  GError *error;
} Creation;

static void coroutine_fn
co_create_file (void *opaque)
{
  Creation *creation = opaque;
  BdrvOpenParams params = { .confine = creation->confine };

  g_clear_error (&creation->error);
  BlockDriverState *file = bdrv_co_create_file (creation->path, &params, &creation->error);
  g_assert_true ((file == NULL) == (creation->error != NULL));
  if (!file)
    return;
  g_assert_false (file->read_only);
  /* New, or as it was: emptying it is for a driver that has found nothing wrong. */
  g_assert_true (bdrv_length (file) == 0 || bdrv_length (file) == 105);
  g_assert_cmpint (bdrv_co_pwrite (file, 100, 5, "hello", 0), ==, 0);

  /* While it is open, nobody else gets it. */
  Creation again = *creation;
  BlockDriverState *second = bdrv_co_create_file (again.path, &params, &again.error);
  g_assert_null (second);
  g_assert_error (again.error, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE);
  g_clear_error (&again.error);
  g_assert_cmpint (bdrv_co_unref (file), ==, 0);
}

static void
assert_size (const char *path, gsize bytes)
{
  struct stat st;

  g_assert_cmpint (stat (path, &st), ==, 0);
  g_assert_cmpuint (st.st_size, ==, bytes);
}

static void
test_create (void)
{
  g_autofree char *jail = g_build_filename (dir, "jail", NULL);
  g_autofree char *inside = g_build_filename (dir, "jail/new.img", NULL);
  g_autofree char *outside = g_build_filename (dir, "new.img", NULL);
  g_autofree char *nowhere = g_build_filename (dir, "no/such/new.img", NULL);
  Creation creation = { outside };

  g_assert_cmpint (g_mkdir (jail, 0700), ==, 0);
  test_run (co_create_file, &creation);
  g_assert_no_error (creation.error);
  assert_size (outside, 105);
  test_run (co_create_file, &creation); /* emptied first */
  g_assert_no_error (creation.error);
  assert_size (outside, 105);

  creation.confine = jail;
  test_run (co_create_file, &creation);
  g_assert_error (creation.error, VHDKIT_ERROR, VHDKIT_ERROR_PERMISSION);
  assert_size (outside, 105);
  g_assert_cmpint (unlink (outside), ==, 0);
  test_run (co_create_file, &creation);
  g_assert_error (creation.error, VHDKIT_ERROR, VHDKIT_ERROR_PERMISSION);
  g_assert_cmpint (access (outside, F_OK), <, 0);
  if (host_can_confine ())
    {
      creation.path = inside;
      test_run (co_create_file, &creation);
      g_assert_no_error (creation.error);
      assert_size (inside, 105);
    }
  creation.path = nowhere;
  creation.confine = NULL;
  test_run (co_create_file, &creation);
  g_assert_error (creation.error, VHDKIT_ERROR, VHDKIT_ERROR_NOT_FOUND);
  creation.path = jail;
  test_run (co_create_file, &creation);
  g_assert_error (creation.error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT);
  g_clear_error (&creation.error);
}

/* --- frame --------------------------------------------------------------------------------------------- */

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) entries = g_dir_open (path, 0, NULL);
  const char *name;

  while (entries && (name = g_dir_read_name (entries)))
    {
      g_autofree char *entry = g_build_filename (path, name, NULL);
      if (g_file_test (entry, G_FILE_TEST_IS_DIR) && !g_file_test (entry, G_FILE_TEST_IS_SYMLINK))
        remove_tree (entry);
      else
        g_unlink (entry);
    }
  g_rmdir (path);
}

static void
in_fresh_dir (gconstpointer data)
{
  void (*const *func) (void) = data;

  dir = g_dir_make_tmp ("vhdkit-chain-XXXXXX", NULL);
  g_assert_nonnull (dir);
  /* Host paths have their links resolved. */
  char *real = realpath (dir, NULL);
  g_free (dir);
  dir = g_strdup (real);
  free (real);
  (*func) ();
  remove_tree (dir);
  g_clear_pointer (&dir, g_free);
}

/* --- children ------------------------------------------------------------------------------------------ */

typedef struct
{
  const char *leaf, *confine;
  int upper, lower;
  char *found; /* "NAME:LAYER " of each child */
  guint warnings;
} Search;

static void coroutine_fn
co_find_children (void *opaque)
{
  Search *search = opaque;
  g_autofree char *path = g_build_filename (dir, search->leaf, NULL);
  BdrvOpenParams params = { .confine = search->confine };
  g_autoptr (GError) error = NULL;
  BlockDriverState *bs = bdrv_co_open (path, &params, &error);

  g_assert_no_error (error);
  const BdrvChildQuery query = { .leaf = bs,
                                 .upper = bdrv_chain_get (bs, search->upper),
                                 .lower = bdrv_chain_get (bs, search->lower),
                                 .places = &params };
  g_autoptr (GPtrArray) children = bdrv_co_find_children (&query);
  GString *found = g_string_new (NULL);
  for (guint i = 0; i < children->len; i++)
    {
      const BdrvChild *child = g_ptr_array_index (children, i);
      int layer = 0;

      g_assert_true (g_str_has_prefix (child->path, dir));
      if (child->problem)
        {
          g_assert_true (child->format == NULL && child->parent == NULL && child->problem[0] != '\0');
          g_string_append_printf (found, "%s:? ", child->path + strlen (dir) + 1);
          continue;
        }
      g_assert_cmpstr (child->format, ==, "link");
      while (bdrv_chain_get (bs, layer) != child->parent)
        layer++;
      g_string_append_printf (found, "%s:%d ", child->path + strlen (dir) + 1, layer);
    }
  search->found = g_string_free (found, FALSE);
  search->warnings = bdrv_get_warnings (bs)->len;
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

static void
finds (const char *leaf, int upper, int lower, const char *confine, const char *expected)
{
  Search search = { .leaf = leaf, .confine = confine, .upper = upper, .lower = lower };

  test_run (co_find_children, &search);
  guint unknown = 0;
  for (const char *p = expected; (p = strchr (p, '?')) != NULL; p++)
    unknown++;
  g_assert_cmpstr (search.found, ==, expected);
  g_assert_cmpint (search.warnings, ==, unknown);
  g_free (search.found);
}

static void
test_children (void)
{
  g_autofree char *confine = g_build_filename (dir, "sub", NULL);
  g_autofree char *circle = g_build_filename (dir, "circle", NULL);
  Image broken = image_with_id (9);

  write_base ("base.img", 1);
  write_child ("middle.img", 2, 1, "base.img", NULL, NULL);
  write_child ("sub/leaf.img", 3, 2, "../middle.img", NULL, NULL);
  finds ("sub/leaf.img", 1, 2, NULL, "");

  /* Beside the leaf and beside the others; the first place where something fits decides. */
  write_child ("sub/a.img", 4, 1, "../gone.img", "../base.img", NULL);
  write_child ("b.img", 5, 1, "other.img", "b:C:\\x\\base.img", NULL);
  write_child ("c.img", 6, 1, "copy.img", "base.img", NULL);
  write_child ("d.img", 7, 2, "middle.img", NULL, NULL);
  write_child ("e.img", 8, 3, "sub/leaf.img", NULL, NULL);
  write_base ("other.img", 9);
  finds ("sub/leaf.img", 1, 2, NULL, "sub/a.img:2 b.img:2 c.img:2 d.img:1 ");
  write_base ("copy.img", 1);
  finds ("sub/leaf.img", 1, 2, NULL, "sub/a.img:2 b.img:2 d.img:1 ");
  finds ("sub/leaf.img", 1, 1, NULL, "d.img:1 ");
  finds ("sub/leaf.img", 0, 0, NULL, "e.img:0 ");
  finds ("middle.img", 1, 1, NULL, "b.img:1 ");

  /* Another identity, a file that is its own parent, one that cannot be opened, nothing at all. */
  write_child ("b.img", 5, 7, "base.img", NULL, NULL);
  write_child ("f.img", 1, 1, "f.img", "base.img", NULL);
  broken.broken = true;
  write_file ("g.img", &broken, sizeof broken);
  g_assert_cmpint (symlink ("circle", circle), ==, 0);
  finds ("middle.img", 1, 1, NULL, "g.img:? ");

  /* One whose parent may be the one that is asked about, and a file that only has the name of an image. */
  write_child ("lost.img", 5, 1, "gone.img", NULL, NULL);
  write_file ("junk.VHDX", dir, strlen (dir));
  finds ("middle.img", 1, 1, NULL, "g.img:? lost.img:? ");
  g_autofree char *junk = g_strnfill (1000, 'x');
  write_file ("junk.VHDX", junk, 1000);
  finds ("middle.img", 1, 1, NULL, "g.img:? junk.VHDX:? lost.img:? ");
  finds ("middle.img", 0, 0, NULL, "d.img:0 g.img:? junk.VHDX:? ");

  /* What is outside of the directory is not looked at. */
  write_base ("sub/in.img", 11);
  write_child ("sub/h.img", 12, 11, "in.img", NULL, NULL);
  write_child ("sub/i.img", 13, 11, "in.img", NULL, NULL);
  g_autofree char *link = g_build_filename (dir, "sub/link.img", NULL);
  g_autofree char *outside = g_build_filename (dir, "i.img", NULL);
  g_autofree char *inside = g_build_filename (dir, "sub/i.img", NULL);
  g_assert_cmpint (rename (inside, outside), ==, 0);
  g_assert_cmpint (symlink (outside, link), ==, 0);
  finds ("sub/h.img", 1, 1, NULL, "sub/link.img:1 ");
  if (host_can_confine ())
    finds ("sub/h.img", 1, 1, confine, "");
}

/* --- a directory without end --------------------------------------------------------------------------- */

static bool endless;
static unsigned n_entries;

/* Replaces the library's: of directories, which nobody need look at. */
struct dirent *
readdir (DIR *entries)
{
  static struct dirent entry = { .d_type = DT_DIR };
  void *symbol = dlsym (RTLD_NEXT, sizeof (long) < sizeof (off_t) ? "readdir64" : "readdir");
  struct dirent *(*real) (DIR *);

  memcpy (&real, &symbol, sizeof real);
  if (!endless)
    return real (entries);
  (void)g_snprintf (entry.d_name, sizeof entry.d_name, "d%u", n_entries);
  /* More than any search should read. */
  return n_entries++ < 5000000 ? &entry : NULL;
}

static int coroutine_fn
stop_at_third (void *opaque)
{
  return ++*(int *)opaque == 3 ? -ECANCELED : 0;
}

static void coroutine_fn
co_stop_search (void *opaque)
{
  g_autofree char *path = g_build_filename (dir, "sub/leaf.img", NULL);
  BdrvOpenParams params = { .flags = 0 };
  BlockDriverState *bs = bdrv_co_open (path, &params, NULL);
  int asked = 0;
  const BdrvChildQuery query = {
    .leaf = bs, .upper = bs, .lower = bs, .places = &params, .co_pause_point = stop_at_third, .opaque = &asked
  };

  g_assert_null (bdrv_co_find_children (&query));
  g_assert_cmpint (asked, ==, 3);
  g_assert_cmpint (bdrv_co_unref (bs), ==, 0);
}

static void
test_endless_directory (void)
{
  write_base ("sub/base.img", 1);
  write_child ("sub/leaf.img", 2, 1, "base.img", NULL, NULL);
  endless = true;
  finds ("sub/leaf.img", 1, 1, NULL, "sub:? ");
  g_assert_cmpuint (n_entries, <=, 1000001);
  n_entries = 0;
  test_run (co_stop_search, NULL);
  g_assert_cmpuint (n_entries, <, 10000);
  endless = false;
}

static const struct
{
  const char *name;
  void (*func) (void);
} tests[] = { { "/core/chain/paths", test_paths },
              { "/core/chain/symlinked-child", test_symlinked_child },
              { "/core/chain/drive-map", test_drive_map },
              { "/core/chain/identity", test_identity },
              { "/core/chain/raw-parent", test_raw_parent },
              { "/core/chain/warnings", test_warnings },
              { "/core/chain/kinds-of-files", test_kinds_of_files },
              { "/core/chain/cycles", test_cycles },
              { "/core/chain/depth", test_depth },
              { "/core/chain/confine", test_confine },
              { "/core/chain/children", test_children },
              { "/core/chain/endless-directory", test_endless_directory },
              { "/core/open/formats", test_formats },
              { "/core/open/create", test_create } };

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_assert_true (bdrv_register (&link_driver, NULL));
  g_assert_true (bdrv_register (&test_filter_driver, NULL));
  for (size_t i = 0; i < G_N_ELEMENTS (tests); i++)
    g_test_add_data_func (tests[i].name, &tests[i].func, in_fresh_dir);
  return g_test_run ();
}
