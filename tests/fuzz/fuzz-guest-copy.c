/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convert and compare: the guest's image is copied into a new one, of any kind, which must show the same.
 *
 * The copy is a file that no input brings, and is empty again afterwards.  It is made on the disk, as every image of our
 * own, and taken into memory before it is opened.
 */
#include "fuzz-guest.h"

#include <string.h>
#include <unistd.h>

#define RUBBISH 0xa7

enum
{
  READ_ONLY = 1 << 0,   /* the guest's image */
  USED_BEFORE = 1 << 1, /* the copy holds something else */
  IN_ORDER = 1 << 2,    /* of the job's options … */
  ALL_ZEROS = 1 << 3,   /* … sparse_bytes is 0 */
  SHORT_ZEROS = 1 << 4, /* … or small */
  SHARE = 1 << 5,
  STRICT = 1 << 6, /* of the comparison */
  LARGER = 1 << 7, /* the copy */
};

typedef struct
{
  const char *format;
  const char *options[3];
  int unit; /* of its size */
} CopyKind;

static const CopyKind kinds[] = {
  { "raw", { NULL }, 512 },
  { "vhd", { "block_size=16384", NULL }, 512 },
  { "vhd", { NULL }, 512 },
  { "vhd", { "subformat=fixed", NULL }, 512 },
  { "vhdx", { "block_size=1048576", NULL }, 512 },
  { "vhdx", { "block_size=1048576", "logical_sector_size=4096", NULL }, 4096 },
  { "vhdx", { "subformat=fixed", "block_size=1048576", NULL }, 512 },
};

typedef struct
{
  Guest *guest;
  CopyKind kind;
  int parent; /* the file, 0: none */
  uint8_t flags;
  int64_t bytes;
  uint32_t place; /* of what differs */
  VhdkitImage *image;
} Copy;

/* --- the copy's file ------------------------------------------------------------------------------------ */

/* Parents have to be there while it is made. */
static void
show_parents (const Copy *copy, bool there)
{
  for (int i = copy->parent; copy->parent > 0 && i < copy->guest->layers; i++)
    if (there)
      content_write_file (fuzz_store_get (i), fuzz_path (i));
    else
      g_assert_cmpint (truncate (fuzz_path (i), 0), ==, 0);
}

static void
make_file (const Copy *copy)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Content) content = NULL;
  VhdkitCreateOptions options = {
    .struct_size = sizeof options,
    .format = copy->kind.format,
    .bytes = copy->bytes,
    .format_options = copy->kind.options,
    .parent = copy->parent > 0 ? fuzz_path (copy->parent) : NULL,
    .incomplete = !(copy->flags & USED_BEFORE),
  };

  show_parents (copy, true);
  vhdkit_image_create (fuzz_context (), fuzz_path (FUZZ_COPY), &options, &error);
  show_parents (copy, false);
  g_assert_no_error (error);
  content = content_read (fuzz_path (FUZZ_COPY));
  g_assert_cmpint (truncate (fuzz_path (FUZZ_COPY), 0), ==, 0);
  fuzz_store_set (FUZZ_COPY, content);
}

static void
open_copy (Copy *copy, unsigned flags)
{
  g_autoptr (GError) error = NULL;

  copy->image = guest_open_file (FUZZ_COPY, flags, &error);
  g_assert_no_error (error);
}

static void
close_copy (Copy *copy)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (g_steal_pointer (&copy->image), &error);
  g_assert_no_error (error);
}

/* What has to be written over: behind the end of the guest's image it would stay. */
static void
fill_with_rubbish (Copy *copy)
{
  g_autofree uint8_t *data = g_malloc (1 << 20);
  int64_t offset = copy->place % copy->guest->bytes;

  memset (data, RUBBISH, 1 << 20);
  g_assert_cmpint (
      vhdkit_image_pwrite (copy->image, data, offset, MIN (1 << 20, copy->guest->bytes - offset)), ==, 0);
}

/* --- what it shows -------------------------------------------------------------------------------------- */

/* The model, and zeros where it is larger. */
static void
compare_with_model (const Copy *copy)
{
  const Guest *guest = copy->guest;
  g_autofree uint8_t *data = g_malloc (copy->bytes);

  g_assert_cmpint (vhdkit_image_pread (copy->image, data, 0, copy->bytes), ==, 0);
  for (int64_t i = 0; i < copy->bytes && !guest->lost; i++)
    {
      uint8_t wanted = i < guest->bytes ? guest->model[i] : 0;

      if (data[i] != wanted)
        g_error ("byte %" G_GINT64_FORMAT " of the copy is 0x%02x instead of 0x%02x", i, data[i], wanted);
    }
}

/* @difference: where the first is, -1: there is none. */
static void
compare_images (const Copy *copy, int64_t difference, bool strict)
{
  VhdkitImage *images[2] = { copy->guest->image, copy->image };
  VhdkitCompareOptions options = { .struct_size = sizeof options, .strict = strict };
  int first = copy->place & 1;
  bool sizes_differ = copy->bytes != copy->guest->bytes;
  VhdkitCompareStats stats = { .equal = false };
  GError *error = NULL;
  VhdkitJob *job = vhdkit_compare_new (images[first], images[1 - first], &options, &error);
  bool done = guest_run_job (copy->guest, job, error, "compare");

  if (job)
    vhdkit_compare_get_stats (job, &stats);
  vhdkit_job_free (job);
  if (!done)
    return;
  g_assert_cmpint (stats.sizes_differ, ==, sizes_differ);
  g_assert_cmpint (stats.first_difference, <, copy->bytes);
  /* Sizes and allocation are differences of their own, and are found before. */
  if (strict && (sizes_differ || stats.allocation_differs))
    {
      g_assert_false (stats.equal);
      return;
    }
  g_assert_false (stats.allocation_differs);
  g_assert_cmpint (stats.equal, ==, difference < 0);
  g_assert_cmpint (stats.first_difference, ==, difference);
}

static int64_t
plant_difference (const Copy *copy)
{
  int64_t offset = copy->place % copy->bytes;
  uint8_t byte;

  g_assert_cmpint (vhdkit_image_pread (copy->image, &byte, offset, 1), ==, 0);
  byte ^= 1 << copy->place % 8;
  g_assert_cmpint (vhdkit_image_pwrite (copy->image, &byte, offset, 1), ==, 0);
  return offset;
}

/* --- convert -------------------------------------------------------------------------------------------- */

static bool
run_convert (const Copy *copy)
{
  VhdkitConvertOptions options = {
    .struct_size = sizeof options,
    .parallel = copy->place % 5,
    .in_order = copy->flags & IN_ORDER,
    .target_is_zero = !(copy->flags & USED_BEFORE),
    .above_target_parent = copy->parent > 0,
    .copy_range = copy->flags & SHARE,
    .sparse_bytes = copy->flags & ALL_ZEROS     ? 0
                    : copy->flags & SHORT_ZEROS ? 512
                                                : 64 << 10,
  };
  GError *error = NULL;
  VhdkitJob *job = vhdkit_convert_new (copy->guest->image, copy->image, &options, &error);
  bool done = guest_run_job (copy->guest, job, error, "convert");

  vhdkit_job_free (job);
  return done;
}

static void
judge_copy (Copy *copy)
{
  compare_with_model (copy);
  compare_images (copy, -1, copy->flags & STRICT);
  guest_check (copy->guest, copy->image);
  close_copy (copy);

  open_copy (copy, VHDKIT_OPEN_RDWR);
  compare_with_model (copy);
  compare_images (copy, plant_difference (copy), copy->flags & STRICT);
}

static void
convert (Copy *copy)
{
  bool used = copy->flags & USED_BEFORE;

  make_file (copy);
  open_copy (copy, VHDKIT_OPEN_RDWR | (used ? 0 : VHDKIT_OPEN_INCOMPLETE));
  /* What it holds beside its parent's layers would have to be known to be left alone. */
  if (used && copy->parent == 0)
    fill_with_rubbish (copy);

  bool done = run_convert (copy);

  /* A stranger's image may be damaged, and ours after what it was refused room for. */
  if (!done && copy->guest->own && !copy->guest->full)
    g_error ("convert was refused");
  close_copy (copy);
  if (done)
    {
      open_copy (copy, 0);
      judge_copy (copy);
      close_copy (copy);
    }
  else if (!used && strcmp (copy->kind.format, "vhdx") == 0)
    g_assert_null (guest_open_file (FUZZ_COPY, 0, NULL));
}

/* A child of a layer of the image has its format. */
static void
choose_kind (Copy *copy, uint8_t number)
{
  const Guest *guest = copy->guest;

  copy->kind = kinds[number % G_N_ELEMENTS (kinds)];
  if (!(number & 0x80) || guest->layers < 2)
    return;
  copy->kind = (CopyKind){ .format = guest->format, .unit = 4096 };
  copy->parent = 1 + number % (guest->layers - 1);
}

void
guest_convert (Guest *guest, FuzzReader *reader)
{
  Copy copy = { .guest = guest };
  uint8_t number = fuzz_u8 (reader);

  copy.flags = fuzz_u8 (reader);
  copy.place = fuzz_u32 (reader);
  if (vhdkit_image_get_size (guest->image) != guest->bytes)
    return;
  if (copy.flags & READ_ONLY && !guest_reopen (guest, 0))
    return;
  choose_kind (&copy, number);
  copy.bytes = (guest->bytes + copy.kind.unit - 1) / copy.kind.unit * copy.kind.unit;
  if (copy.flags & LARGER)
    copy.bytes += 64 << 10;
  convert (&copy);

  g_autoptr (Content) nothing = content_new ();

  fuzz_store_set (FUZZ_COPY, nothing);
  guest_compare_all (guest);
  if (copy.flags & READ_ONLY)
    guest_reopen (guest, VHDKIT_OPEN_RDWR);
}
