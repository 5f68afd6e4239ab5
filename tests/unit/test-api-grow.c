/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growth of a VHD through the public API where something is odd: entries of the table that were never
 * cleared, a growth that fails half-way and an image that goes on living, bytes behind the footer, places
 * that are not sectors. */
#include "test-api-util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512
#define BLOCK  (4 * KIB)

/* --- the container, by hand ----------------------------------------------------------------------------- */

static int64_t
file_length (const char *path)
{
  GStatBuf st;

  g_assert_cmpint (g_stat (path, &st), ==, 0);
  return st.st_size;
}

static void
file_read (const char *path, int64_t offset, void *buf, size_t bytes)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);

  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (pread (fd, buf, bytes, offset), ==, (ssize_t)bytes);
  close (fd);
}

static void
file_write (const char *path, int64_t offset, const void *buf, size_t bytes)
{
  int fd = open (path, O_WRONLY | O_CLOEXEC);

  g_assert_cmpint (fd, >=, 0);
  g_assert_cmpint (pwrite (fd, buf, bytes, offset), ==, (ssize_t)bytes);
  close (fd);
}

static void
put_be (uint8_t *at, uint64_t value, int bytes)
{
  for (int i = 0; i < bytes; i++)
    at[i] = value >> (8 * (bytes - 1 - i));
}

/* Changes a field of a structure with a checksum. */
static void
patch (const char *path, int64_t offset, size_t struct_bytes, size_t checksum_at, size_t field_at,
       uint64_t value, int field_bytes)
{
  uint8_t data[1024];
  uint32_t sum = 0;

  file_read (path, offset, data, struct_bytes);
  put_be (data + field_at, value, field_bytes);
  put_be (data + checksum_at, 0, 4);
  for (size_t i = 0; i < struct_bytes; i++)
    sum += data[i];
  put_be (data + checksum_at, ~sum, 4);
  file_write (path, offset, data, struct_bytes);
}

/* The disk size in both footers. */
static void
patch_size (const char *path, int64_t bytes)
{
  patch (path, 0, 512, 64, 48, bytes, 8);
  patch (path, file_length (path) - 512, 512, 64, 48, bytes, 8);
}

/* As a VHD, also where bytes behind the footer hide that it is one. */
static VhdkitImage *
open_vhd (const char *path, unsigned flags)
{
  g_autoptr (GError) error = NULL;
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = flags, .format = "vhd" };
  VhdkitImage *image = vhdkit_image_open (NULL, path, &options, &error);

  g_assert_no_error (error);
  return image;
}

/* --- a disk and what it must show ----------------------------------------------------------------------- */

typedef struct
{
  uint8_t *data;
  int64_t bytes;
} Model;

static Model
model_new (int64_t most)
{
  return (Model){ .data = g_malloc0 (most) };
}

static void
model_write (Model *model, VhdkitImage *image, int64_t offset, int64_t bytes, int byte)
{
  write_byte (image, offset, bytes, byte);
  memset (model->data + offset, byte, bytes);
}

static void
model_check_image (const Model *model, VhdkitImage *image, const char *when)
{
  g_autofree uint8_t *view = read_all (image);

  g_assert_cmpint (vhdkit_image_get_size (image), ==, model->bytes);
  for (int64_t i = 0; i < model->bytes; i++)
    if (view[i] != model->data[i])
      g_error ("%s: byte %" G_GINT64_FORMAT " is %#x, not %#x", when, i, view[i], model->data[i]);
}

static void
model_check (const Model *model, const char *path, const char *when)
{
  VhdkitImage *image = open_image (path, 0);

  model_check_image (model, image, when);
  close_image (image);
}

static void
grow (const char *path, int64_t bytes)
{
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = open_vhd (path, VHDKIT_OPEN_RDWR);

  vhdkit_image_truncate (image, bytes, &error);
  g_assert_no_error (error);
  close_image (image);
}

/* --- dynamic -------------------------------------------------------------------------------------------- */

/* Entries behind the end of the disk, as a growth that a crash has stopped, or another program, leaves them:
 * whichever way the table grows, they say nothing. */
static void
test_stale_entries (void)
{
  static const int64_t sizes[] = { 400 * KIB, 512 * KIB, MIB };

  for (size_t i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      scratch_init ();
      const char *path = scratch_path ("a.vhd");
      Model model = model_new (MIB);

      create_image (path, "vhd", 400 * KIB, BLOCK, NULL);
      VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
      model_write (&model, image, 0, BLOCK, 1);
      write_byte (image, 300 * KIB, 40 * KIB, 2);
      close_image (image);
      patch_size (path, 256 * KIB);
      grow (path, sizes[i]);
      model.bytes = sizes[i];
      model_check (&model, path, "after growth");
      assert_checks_clean (path);
      g_free (model.data);
      scratch_clear ();
    }
}

/* What is reserved in the header need not be zeros.  It stays: of a header of which a part is written, and of one that is
 * written as a whole, elsewhere. */
static void
test_reserved_bytes (void)
{
  /* Of the header: behind the time stamp of the parent, in the first and the last locator, and at the end. */
  static const size_t places[] = { 60, 576 + 12, 576 + 7 * 24 + 12, 768, 1020 };
  /* Entries more in the table's slack; a table elsewhere. */
  static const int64_t sizes[] = { 512 * KIB, 8 * MIB };

  for (size_t i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      uint8_t found[4];

      scratch_init ();
      const char *path = scratch_path ("a.vhd");
      Model model = model_new (sizes[i]);

      create_image (path, "vhd", 400 * KIB, BLOCK, NULL);
      for (size_t k = 0; k < G_N_ELEMENTS (places); k++)
        patch (path, 512, 1024, 36, places[k], 0x05060708 + k, 4);

      VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
      model_write (&model, image, 0, BLOCK, 1);
      close_image (image);
      grow (path, sizes[i]);
      model.bytes = sizes[i];
      model_check (&model, path, "after growth");
      assert_checks_clean (path);
      for (size_t k = 0; k < G_N_ELEMENTS (places); k++)
        {
          file_read (path, 512 + places[k], found, sizeof found);
          g_assert_cmpint (found[0] << 24 | found[1] << 16 | found[2] << 8 | found[3], ==, 0x05060708 + k);
        }
      g_free (model.data);
      scratch_clear ();
    }
}

typedef struct
{
  const char *name;
  int64_t bytes, grow_to, parent_bytes;
  const char *fault;
} Failing;

static const Failing failing[] = {
  { "table-write", 512 * KIB, 600 * KIB, 0, "op=write,errno=EIO" },
  { "table-flush", 512 * KIB, 600 * KIB, 0, "op=flush,errno=EIO" },
  { "table-truncate", 512 * KIB, 600 * KIB, 0, "op=truncate,errno=EIO" },
  { "large-table-flush", 6 * MIB, 7 * MIB, 0, "op=flush,errno=EIO" },
  { "table-short", 512 * KIB, 600 * KIB, 0, "op=write,short=512,errno=ENOSPC" },
  { "in-table-parent-write", 300 * KIB, 400 * KIB, 500 * KIB, "op=write,errno=EIO" },
  { "in-table-parent-flush", 300 * KIB, 400 * KIB, 500 * KIB, "op=flush,errno=EIO" },
  { "table-parent", 500 * KIB, 600 * KIB, 800 * KIB, "op=write,short=512,errno=ENOSPC" },
};

/* A growth fails at its n-th request; the image is written to all the same, the growth is tried again, with
 * a flush in between. */
static bool
grow_with_fault (const Failing *f, int n)
{
  g_autofree char *filter = g_strdup_printf ("blkdebug,%s,n=%d", f->fault, n);
  const char *filters[] = { filter, NULL };
  g_autoptr (GError) error = NULL;
  g_autofree char *when = g_strdup_printf ("%s, request %d", f->name, n);
  Model model = model_new (8 * MIB);

  scratch_init ();
  const char *path = scratch_path ("a.vhd"), *base = NULL;
  if (f->parent_bytes > 0)
    {
      base = scratch_path ("base.vhd");
      create_image (base, "vhd", f->parent_bytes, 0, NULL);
      VhdkitImage *image = open_image (base, VHDKIT_OPEN_RDWR);
      model_write (&model, image, 0, f->parent_bytes, 9);
      close_image (image);
    }
  create_image (path, "vhd", f->bytes, BLOCK, base);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  model_write (&model, image, 3 * SECTOR, 5 * SECTOR, 1);
  close_image (image);
  memset (model.data + f->bytes, 0, 8 * MIB - f->bytes);
  model.bytes = f->bytes;

  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = VHDKIT_OPEN_RDWR,
                                .filters = filters };
  image = vhdkit_image_open (NULL, path, &options, &error);
  bool failed = image == NULL;
  if (image != NULL)
    {
      bool grown = vhdkit_image_truncate (image, f->grow_to, NULL);
      failed = !grown;
      if (grown)
        model.bytes = f->grow_to;
      /* A poisoned image takes no writes; then there is only what it shows. */
      uint8_t sector[SECTOR];
      memset (sector, 3, sizeof sector);
      bool usable = vhdkit_image_pwrite (image, sector, 40 * BLOCK + SECTOR, SECTOR) == 0;
      if (usable)
        {
          memset (model.data + 40 * BLOCK + SECTOR, 3, SECTOR);
          model_check_image (&model, image, when);
          usable = vhdkit_image_flush (image) == 0;
        }
      if (usable && !grown && vhdkit_image_truncate (image, f->grow_to, NULL))
        {
          model.bytes = f->grow_to;
          model_write (&model, image, f->grow_to - 3 * SECTOR, 2 * SECTOR, 4);
          model_write (&model, image, f->bytes + SECTOR, SECTOR, 5);
        }
      if (usable)
        model_check_image (&model, image, when);
      if (!vhdkit_image_close (image, NULL))
        failed = true;
      else
        model_check (&model, path, when);
      if (!usable)
        grow (path, model.bytes = f->grow_to);
    }
  if (image == NULL || !failed || model.bytes == f->bytes)
    grow (path, model.bytes = MAX (model.bytes, f->grow_to));
  assert_checks_clean (path);
  g_assert_cmpint (file_length (path) % SECTOR, ==, 0);
  g_free (model.data);
  scratch_clear ();
  return failed;
}

static void
test_fails_and_goes_on (gconstpointer data)
{
  int passed = 0;

  /* Some requests may fail unnoticed: behind the last there are some. */
  for (int n = 1; passed < 10; n++)
    passed = grow_with_fault (data, n) ? 0 : passed + 1;
}

/* A table that no open would take is not made. */
static void
test_table_limit (void)
{
  g_autoptr (GError) error = NULL;

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  create_image (path, "vhd", 256 * KIB, BLOCK, NULL);
  patch (path, 512, 1024, 36, 32, 512, 4);
  patch_size (path, 32 * KIB);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  g_assert_false (vhdkit_image_truncate (image, INT64_C (300) << 30, &error));
  g_assert_nonnull (error);
  close_image (image);
  assert_checks_clean (path);
  g_assert_cmpint (file_length (path), <, MIB);
  scratch_clear ();
}

/* --- fixed ---------------------------------------------------------------------------------------------- */

typedef struct
{
  const char *name;
  int64_t gap;   /* between the disk and its footer, bytes */
  int64_t after; /* behind the footer */
  int64_t grow_by;
} Odd;

static const Odd odd[] = {
  { "gap", 1024, 0, 512 },
  { "gap-over", 1024, 0, 1536 },
  { "no-sector", 100, 0, 512 },
  { "no-sector-far", 100, 0, 64 * KIB },
  { "no-sector-gap", 1024 + 100, 0, 512 },
  { "rubbish", 0, 100 * KIB, 64 * KIB },
  { "rubbish-far", 0, 10 * KIB, 64 * KIB },
  { "rubbish-no-sector", 0, 1000, 512 },
};

static void
make_odd (const char *path, const Odd *o, Model *model)
{
  uint8_t footer[512];
  g_autofree uint8_t *rubbish = g_malloc (100 * KIB);

  create_image (path, "raw", MIB, 0, NULL);
  g_unlink (path);
  VhdkitCreateOptions options = {
    .struct_size = sizeof options,
    .format = "vhd",
    .bytes = MIB,
    .format_options = (const char *[]){ "subformat=fixed", NULL },
  };
  g_autoptr (GError) error = NULL;
  vhdkit_image_create (NULL, path, &options, &error);
  g_assert_no_error (error);
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  model_write (model, image, MIB - 64 * KIB, 64 * KIB, 7);
  close_image (image);
  model->bytes = MIB;

  memset (rubbish, 0xAA, 100 * KIB);
  file_read (path, MIB, footer, sizeof footer);
  file_write (path, MIB, rubbish, o->gap);
  file_write (path, MIB + o->gap, footer, sizeof footer);
  file_write (path, MIB + o->gap + 512, rubbish, o->after);
}

static void
test_fixed_odd (gconstpointer data)
{
  const Odd *o = data;
  Model model = model_new (2 * MIB);

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_odd (path, o, &model);
  grow (path, model.bytes = MIB + o->grow_by);
  model_check (&model, path, o->name);
  assert_checks_clean (path);
  g_free (model.data);
  scratch_clear ();
}

/* A footer whose write fails, all of it on disk or none, does not become the end of the file. */
static void
test_fixed_fails (void)
{
  for (int all = 0; all < 2; all++)
    {
      Model model = model_new (2 * MIB);
      const char *filters[] = { all ? "blkdebug,op=write,short=512,n=1" : "blkdebug,op=write,n=1", NULL };

      scratch_init ();
      const char *path = scratch_path ("a.vhd");
      make_odd (path, &(Odd){ 0 }, &model);
      VhdkitImage *image = open_image_with (path, VHDKIT_OPEN_RDWR, filters);
      g_assert_false (vhdkit_image_truncate (image, 16 * MIB, NULL));
      model_check_image (&model, image, "after a failure");
      close_image (image);
      g_assert_cmpint (file_length (path), ==, MIB + 512);
      model_check (&model, path, "after a failure and a close");
      g_free (model.data);
      scratch_clear ();
    }
}

/* Zeros behind the only footer, of a write that was padded and a crash before the cut: not raw data. */
static void
test_fixed_padded (void)
{
  Model model = model_new (2 * MIB);

  scratch_init ();
  const char *path = scratch_path ("a.vhd");
  make_odd (path, &(Odd){ 0 }, &model);
  g_assert_cmpint (truncate (path, MIB + 4096), ==, 0);
  model_check (&model, path, "padded");
  VhdkitImage *image = open_image (path, VHDKIT_OPEN_RDWR);
  model_write (&model, image, MIB - SECTOR, SECTOR, 8);
  close_image (image);
  model_check (&model, path, "padded and written");
  grow (path, model.bytes = MIB + 8192);
  g_assert_cmpint (file_length (path), ==, MIB + 8192 + 512);
  model_check (&model, path, "grown");
  g_free (model.data);
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  /* Thousands of flushes: in memory, if there is a place. */
  if (g_getenv ("TMPDIR") == NULL && g_access ("/dev/shm", W_OK) == 0)
    g_setenv ("TMPDIR", "/dev/shm", true);
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/grow/stale-entries", test_stale_entries);
  g_test_add_func ("/grow/reserved-bytes", test_reserved_bytes);
  for (size_t i = 0; i < G_N_ELEMENTS (failing); i++)
    {
      g_autofree char *path = g_strdup_printf ("/grow/fails/%s", failing[i].name);
      g_test_add_data_func (path, &failing[i], test_fails_and_goes_on);
    }
  g_test_add_func ("/grow/table-limit", test_table_limit);
  for (size_t i = 0; i < G_N_ELEMENTS (odd); i++)
    {
      g_autofree char *path = g_strdup_printf ("/grow/fixed/%s", odd[i].name);
      g_test_add_data_func (path, &odd[i], test_fixed_odd);
    }
  g_test_add_func ("/grow/fixed/fails", test_fixed_fails);
  g_test_add_func ("/grow/fixed/padded", test_fixed_padded);
  return g_test_run ();
}
