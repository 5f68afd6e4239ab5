/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another parent for a VHD: what is refused, what the image then names, and where the header goes.  What crashes and
 * faults leave is tested in tests/crash. */
#include "block-test.h"

#include <vhdkit/vhdkit.h>

#include "../../block/drivers/test/passthrough.h"

#define BLOCK 4096

static const char *dir;

static char *
in_dir (const char *name)
{
  return g_build_filename (dir, name, NULL);
}

static void
make_image (const char *name, const char *format, const char *option, const char *parent)
{
  g_autofree char *path = in_dir (name);
  g_autofree char *parent_path = parent ? in_dir (parent) : NULL;
  g_autoptr (GError) error = NULL;
  VhdkitCreateOptions create = {
    .struct_size = sizeof create,
    .format = format,
    .bytes = 64 * BLOCK,
    .format_options = (const char *[]){ option, NULL },
    .parent = parent_path,
    .break_children = true, /* of the case before */
  };

  vhdkit_image_create (NULL, path, &create, &error);
  g_assert_no_error (error);
}

static char *
contents (const char *name, gsize *length)
{
  g_autofree char *path = in_dir (name);
  char *data;

  g_assert_true (g_file_get_contents (path, &data, length, NULL));
  return data;
}

static void
run_in_coroutine (TestFunc *func)
{
  test_run (&func);
}

/* Only the one file, without its parents. */
static BlockDriverState *coroutine_fn
open_alone (const char *format, const char *name, int flags)
{
  g_autofree char *path = in_dir (name);
  g_autoptr (GError) error = NULL;
  BlockDriverState *file = test_open_ok ("file", path, flags, NULL);
  BlockDriverState *bs = test_open (format, path, flags, NULL, file, &error);

  g_assert_no_error (error);
  return bs;
}

/* After the first writable open, which leaves no more than the smallest room for a table. */
static char *coroutine_fn
contents_when_used (const char *name, gsize *length)
{
  test_close (open_alone ("vhd", name, BDRV_O_RDWR));
  return contents (name, length);
}

static bool coroutine_fn
change_parent (BlockDriverState *bs, BlockDriverState *parent, const char *other, GError **error)
{
  BlockParentChange change = {
    .parent = parent,
    .child_path = bs->filename,
    .parent_path = parent ? parent->filename : NULL,
    .other_path = other,
  };

  return bs->drv->co_change_parent (bs, &change, error);
}

/* --- refusals --------------------------------------------------------------------------------------------- */

static void coroutine_fn
refuse (const char *name, const char *parent_format, const char *parent_name, const char *other,
        VhdkitError code, const char *part)
{
  g_autoptr (GError) error = NULL;
  gsize before_bytes, after_bytes;
  g_autofree char *before = contents_when_used (name, &before_bytes);
  BlockDriverState *parent = open_alone (parent_format, parent_name, 0);
  BlockDriverState *bs = open_alone ("vhd", name, BDRV_O_RDWR);

  g_assert_false (change_parent (bs, parent, other, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
  if (!strstr (error->message, part))
    g_error ("'%s' expected in '%s'", part, error->message);
  test_close (bs);
  test_close (parent);

  g_autofree char *after = contents (name, &after_bytes);

  g_assert_cmpmem (after, after_bytes, before, before_bytes);
}

static void coroutine_fn
check_refused (void)
{
  g_autofree char *huge = g_strnfill (40000, 'x');

  huge[0] = '/';
  refuse ("fixed", "vhd", "base", NULL, VHDKIT_ERROR_INVALID_ARGUMENT, "a fixed image cannot have a parent");
  refuse ("child", "vhdx", "base.vhdx", NULL, VHDKIT_ERROR_UNSUPPORTED, "it must be vhd or raw");
  refuse ("child", "vhd", "base", huge, VHDKIT_ERROR_INVALID_ARGUMENT, "too long");
}

static void
test_refused (void)
{
  make_image ("base", "vhd", "block_size=4096", NULL);
  make_image ("base.vhdx", "vhdx", "block_size=1M", NULL);
  make_image ("child", "vhd", "block_size=4096", "base");
  make_image ("fixed", "vhd", "subformat=fixed", NULL);
  run_in_coroutine (check_refused);
}

/* --- a device without room -------------------------------------------------------------------------------- */

static bool coroutine_fn
device_co_open (BlockDriverState *bs, const BlockOptions *options, GError **error)
{
  passthrough_refresh (bs);
  bs->fixed_length = true;
  return true;
}

static const BlockDriver device_driver = {
  .struct_size = sizeof (BlockDriver),
  .abi = BLOCK_DRIVER_ABI,
  .kind = BLOCK_DRIVER_FILTER,
  .format_name = "device",
  .co_open = device_co_open,
};

static void coroutine_fn
check_no_room (void)
{
  g_autofree char *path = in_dir ("child");
  g_autoptr (GError) error = NULL;
  gsize before_bytes, after_bytes;
  g_autofree char *before = contents_when_used ("child", &before_bytes);
  BlockDriverState *parent = open_alone ("vhd", "base", 0);
  BlockDriverState *device =
      bdrv_node_new (&device_driver, path, BDRV_O_RDWR, test_open_ok ("file", path, BDRV_O_RDWR, NULL));

  g_assert_true (bdrv_co_node_open (device, NULL, &error));

  BlockDriverState *bs = test_open ("vhd", path, BDRV_O_RDWR, NULL, device, &error);

  g_assert_no_error (error);
  g_assert_false (change_parent (bs, parent, NULL, &error));
  g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  test_close (bs);
  test_close (parent);

  g_autofree char *after = contents ("child", &after_bytes);

  g_assert_cmpmem (after, after_bytes, before, before_bytes);
}

static void
test_no_room (void)
{
  make_image ("base", "vhd", "block_size=4096", NULL);
  make_image ("child", "vhd", "block_size=4096", "base");
  run_in_coroutine (check_no_room);
}

/* --- what is named ---------------------------------------------------------------------------------------- */

typedef struct
{
  BlockParentPathKind kind;
  const char *path;
} Named;

static void coroutine_fn
check_link (BlockDriverState *bs, const uint8_t *identity, const Named *named, guint n)
{
  BlockParentLink link = { 0 };

  g_assert_true (bs->drv->get_parent_link (bs, &link));
  g_assert_true (link.has_identity);
  g_assert_cmpmem (link.identity[0], BLOCK_IDENTITY_SIZE, identity, BLOCK_IDENTITY_SIZE);
  g_assert_cmpuint (link.paths->len, >=, n);
  for (guint i = 0; i < n; i++)
    {
      const BlockParentPath *path = g_ptr_array_index (link.paths, i);

      g_assert_cmpint (path->kind, ==, named[i].kind);
      g_assert_cmpstr (path->path, ==, named[i].path);
    }
  g_ptr_array_unref (link.paths);
}

static void coroutine_fn
check_names (void)
{
  g_autofree char *second = in_dir ("second"), *other = g_build_filename (dir, "elsewhere", "copy", NULL);
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  g_autoptr (GError) error = NULL;
  BlockParentLink none = { 0 };
  const Named named[] = {
    { BLOCK_PARENT_PATH_RELATIVE, ".\\second" },
    { BLOCK_PARENT_PATH_ABSOLUTE, second },
    { BLOCK_PARENT_PATH_ABSOLUTE, other },
    { BLOCK_PARENT_PATH_RELATIVE, ".\\elsewhere\\copy" },
  };

  BlockDriverState *parent = open_alone ("vhd", "second", 0);
  BlockDriverState *bs = open_alone ("vhd", "child", BDRV_O_RDWR);

  g_assert_true (bdrv_get_identity (parent, identity));
  g_assert_true (change_parent (bs, parent, other, &error));
  check_link (bs, identity, named, G_N_ELEMENTS (named));
  test_close (bs);
  bs = open_alone ("vhd", "child", BDRV_O_RDWR);
  check_link (bs, identity, named, G_N_ELEMENTS (named));

  /* And without the other place again; then without a parent. */
  g_assert_true (change_parent (bs, parent, NULL, &error));
  check_link (bs, identity, named, 2);
  g_assert_true (change_parent (bs, NULL, NULL, &error));
  g_assert_false (bs->drv->get_parent_link (bs, &none));
  g_assert_true (change_parent (bs, NULL, NULL, &error));
  test_close (bs);
  bs = open_alone ("vhd", "child", 0);
  g_assert_false (bs->drv->get_parent_link (bs, &none));
  test_close (bs);
  test_close (parent);
}

static void
test_names (void)
{
  make_image ("first", "vhd", "block_size=4096", NULL);
  make_image ("second", "vhd", "block_size=8192", NULL);
  make_image ("child", "vhd", "block_size=4096", "first");
  run_in_coroutine (check_names);
}

/* --- the usual place is taken ------------------------------------------------------------------------------ */

static void
put_be (uint8_t *at, int bytes, uint64_t value)
{
  for (int i = bytes; i-- > 0; value >>= 8)
    at[i] = value;
}

static void
put_checksum (uint8_t *data, int bytes, int field)
{
  uint32_t sum = 0;

  for (int i = 0; i < bytes; i++)
    sum += data[i];
  put_be (data + field, 4, ~sum);
}

/* A legal dynamic image of one block that begins at 512: then table, header, footer. */
static void
make_odd_image (const char *name)
{
  enum
  {
    TABLE = 512 + 512 + BLOCK,
    HEADER = TABLE + 512,
    FOOTER = HEADER + 1024,
  };
  g_autofree char *path = in_dir (name);
  g_autofree uint8_t *file = g_malloc0 (FOOTER + 512);
  uint8_t *header = file + HEADER, *footer = file + FOOTER;

  file[512] = 0xFF;
  memset (file + 1024, 'a', BLOCK);
  memset (file + TABLE, 0xFF, 512);
  put_be (file + TABLE, 4, 1);

  memcpy (header, "cxsparse", 8);
  memset (header + 8, 0xFF, 8);
  put_be (header + 16, 8, TABLE);
  put_be (header + 24, 4, 0x10000);
  put_be (header + 28, 4, 64);
  put_be (header + 32, 4, BLOCK);
  put_checksum (header, 1024, 36);

  memcpy (footer, "conectix", 8);
  put_be (footer + 8, 4, 2);
  put_be (footer + 12, 4, 0x10000);
  put_be (footer + 16, 8, HEADER);
  memcpy (footer + 28, "test", 4);
  put_be (footer + 48, 8, 64 * BLOCK);
  put_be (footer + 60, 4, 3);
  put_checksum (footer, 512, 64);
  memcpy (file, footer, 512);
  g_assert_true (g_file_set_contents (path, (char *)file, FOOTER + 512, NULL));
}

static void coroutine_fn
check_place_taken (void)
{
  uint8_t identity[BLOCK_IDENTITY_SIZE];
  const Named named = { BLOCK_PARENT_PATH_RELATIVE, ".\\base" };
  g_autoptr (GError) error = NULL;
  gsize bytes;
  BlockDriverState *parent = open_alone ("vhd", "base", 0);

  g_assert_true (bdrv_get_identity (parent, identity));
  for (int i = 0; i < 2; i++)
    {
      BlockDriverState *bs = open_alone ("vhd", "odd", BDRV_O_RDWR);

      test_assert_read (bs, 0, BLOCK, 'a');
      g_assert_true (change_parent (bs, parent, NULL, &error));
      test_assert_read (bs, 0, BLOCK, 'a');
      test_close (bs);
      bs = open_alone ("vhd", "odd", 0);
      test_assert_read (bs, 0, BLOCK, 'a');
      test_assert_read (bs, BLOCK, 63 * BLOCK, 0);
      check_link (bs, identity, &named, 1);
      test_close (bs);

      g_autofree char *file = contents ("odd", &bytes);

      /* Back where it was, its two texts behind it. */
      g_assert_cmpmem (file + 512 + 512 + BLOCK + 512, 8, "cxsparse", 8);
      g_assert_cmpuint (bytes, ==, 512 + 512 + BLOCK + 512 + 1024 + 1024 + 512);
    }
  test_close (parent);
}

static void
test_place_taken (void)
{
  make_image ("base", "vhd", "block_size=4096", NULL);
  make_odd_image ("odd");
  run_in_coroutine (check_place_taken);
}

int
main (int argc, char **argv)
{
  g_autoptr (TestDir) test_dir = test_dir_new ();

  dir = test_dir;
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/vhd-relink/refused", test_refused);
  g_test_add_func ("/vhd-relink/no-room", test_no_room);
  g_test_add_func ("/vhd-relink/names", test_names);
  g_test_add_func ("/vhd-relink/place-taken", test_place_taken);
  return g_test_run ();
}
