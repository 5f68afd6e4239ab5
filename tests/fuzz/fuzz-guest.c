/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest and its administrator at work: requests, and jobs between them, in the order of a script, on an image that is
 * compared with a flat one in memory all the while.
 *
 * The image is one of our own making (made once, of every kind and with parents), or what an input brings as file 0:
 * a stranger's image that can be opened for writing must from then on behave like any other.  Of that only the first
 * MODEL_BYTES are worked on.
 *
 * The script: the image (0xff: that of the input), then an opcode and its numbers, again and again.  Codes keep their
 * meaning, so that corpora that have grown do.
 */
#include "fuzz-guest.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAX_REQUEST (256 << 10)
#define MAX_OPS     64
#define MAX_JOBS    6
/* Codes are taken modulo OPS, but for those of operations that came later. */
#define OPS     24
#define NEW_OPS 0xf8
#define OPS_END (OPS + 5)

/* --- our own images ------------------------------------------------------------------------------------ */

typedef struct
{
  const char *format;
  int64_t bytes, block_size;
  bool fixed, four_k;
  int layers; /* with those below, which are larger and smaller in turn */
} Kind;

static const Kind kinds[] = {
  { "vhd", 300 << 10, 4096, false, false, 1 },   { "vhd", 1 << 20, 65536, false, false, 1 },
  { "vhd", 5 << 20, 2 << 20, false, false, 1 },  { "vhd", 100 << 10, 0, true, false, 1 },
  { "vhd", 300 << 10, 4096, false, false, 2 },   { "vhd", 1 << 20, 32768, false, false, 3 },
  { "vhd", 4 << 20, 1 << 20, false, false, 2 },  { "vhdx", 4 << 20, 1 << 20, false, false, 1 },
  { "vhdx", 2 << 20, 1 << 20, true, false, 1 },  { "vhdx", 3 << 20, 1 << 20, false, true, 1 },
  { "vhdx", 4 << 20, 1 << 20, false, false, 2 }, { "vhdx", 5 << 20, 2 << 20, false, false, 3 },
  { "vhdx", 3 << 20, 1 << 20, false, true, 2 },  { "raw", 200 << 10, 0, false, false, 1 },
};

#define MAX_LAYERS 3

static Content *own_images[G_N_ELEMENTS (kinds)][MAX_LAYERS];

static void
make_layer (const Kind *kind, int layer)
{
  g_autofree char *block = g_strdup_printf ("block_size=%" G_GINT64_FORMAT, kind->block_size);
  bool is_base = layer == kind->layers - 1;
  const char *format_options[4];
  int n = 0;
  g_autoptr (GError) error = NULL;
  VhdkitCreateOptions options = {
    .struct_size = sizeof options,
    .format = kind->format,
    .bytes = kind->bytes + (layer % 2 ? 64 << 10 : 0) - (layer == 2 ? 128 << 10 : 0),
    .format_options = format_options,
    .parent = is_base ? NULL : fuzz_path (layer + 1),
  };

  if (kind->fixed)
    format_options[n++] = "subformat=fixed";
  if (kind->block_size > 0)
    format_options[n++] = block;
  if (kind->four_k)
    format_options[n++] = "logical_sector_size=4096";
  format_options[n] = NULL;
  vhdkit_image_create (fuzz_context (), fuzz_path (layer), &options, &error);
  g_assert_no_error (error);
}

/* A little data in each layer, at places of its own and at shared ones. */
static void
fill_layer (int layer)
{
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = vhdkit_image_open (fuzz_context (), fuzz_path (layer), &options, &error);
  g_autofree uint8_t *data = g_malloc (8192);

  g_assert_no_error (error);
  memset (data, 0x50 + layer, 8192);
  for (int i = 0; i < 3; i++)
    g_assert_cmpint (vhdkit_image_pwrite (image, data, (layer + 2 * i) * INT64_C (8192), 8192), ==, 0);
  /* Behind the end of the layer above. */
  if (layer % 2)
    g_assert_cmpint (vhdkit_image_pwrite (image, data, vhdkit_image_get_size (image) - 8192, 8192), ==, 0);
  g_assert_true (vhdkit_image_close (image, &error));
}

/* In the directory of the run, from the base up: a child is made after its parent was written. */
static void
make_own_image (int which)
{
  const Kind *kind = &kinds[which];

  for (int layer = kind->layers - 1; layer >= 0; layer--)
    {
      make_layer (kind, layer);
      fill_layer (layer);
    }
  for (int layer = 0; layer < kind->layers; layer++)
    {
      own_images[which][layer] = content_read (fuzz_path (layer));
      g_assert_cmpint (truncate (fuzz_path (layer), 0), ==, 0);
    }
}

static void
take_own_image (int which)
{
  if (!own_images[which][0])
    make_own_image (which);
  for (int layer = 0; layer < kinds[which].layers; layer++)
    fuzz_store_set (layer, own_images[which][layer]);
}

/* --- the model ----------------------------------------------------------------------------------------- */

bool
guest_judge (Guest *guest, int ret, const char *what)
{
  if (ret == 0)
    return true;
  guest->full |= ret == -ENOSPC;
  if (guest->own && !guest->full)
    g_error ("%s: %s", what, g_strerror (-ret));
  guest->lost = true;
  return false;
}

bool
guest_judge_error (Guest *guest, const GError *error, const char *what)
{
  if (!error)
    return true;
  guest->full |= g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_NO_SPACE);
  if (guest->own && !guest->full)
    g_error ("%s: %s", what, error->message);
  return false;
}

static void
compare (Guest *guest, int64_t offset, int64_t bytes)
{
  g_autofree uint8_t *data = g_malloc (bytes + 1);

  if (guest->lost || bytes <= 0
      || !guest_judge (guest, vhdkit_image_pread (guest->image, data, offset, bytes), "read"))
    return;
  if (memcmp (data, guest->model + offset, bytes) == 0)
    return;
  for (int64_t i = 0; i < bytes; i++)
    if (data[i] != guest->model[offset + i])
      g_error ("byte %" G_GINT64_FORMAT " is 0x%02x instead of 0x%02x", offset + i, data[i],
               guest->model[offset + i]);
}

void
guest_compare_all (Guest *guest)
{
  for (int64_t at = 0; at < guest->bytes; at += 1 << 20)
    compare (guest, at, MIN (1 << 20, guest->bytes - at));
}

VhdkitImage *
guest_open_file (unsigned file, unsigned flags, GError **error)
{
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = flags | VHDKIT_OPEN_RAW_PARENT,
                                .cache = VHDKIT_CACHE_WRITEBACK,
                                .filters = fuzz_filters };

  return vhdkit_image_open (fuzz_context (), fuzz_path (file), &options, error);
}

static bool
close_image (Guest *guest)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (g_steal_pointer (&guest->image), &error);
  if (error)
    guest->lost = true;
  return guest_judge_error (guest, error, "close");
}

/* Opened once, it opens again: also what was a stranger's, unless an error came in between. */
static bool
open_image (Guest *guest, unsigned flags)
{
  g_autoptr (GError) error = NULL;

  guest->image = guest_open_file (0, flags, &error);
  if (guest->image)
    return true;
  if (!guest->full && !guest->lost)
    g_error ("open: %s", error->message);
  return false;
}

static void
ignore_finding (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
}

void
guest_check (Guest *guest, VhdkitImage *image)
{
  g_autoptr (GError) error = NULL;
  VhdkitCheckResult result;

  if (!vhdkit_image_check (image, false, &result, ignore_finding, NULL, &error))
    {
      if (!g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED)) /* raw */
        guest_judge_error (guest, error, "check");
    }
  else if (guest->own && !guest->lost)
    g_assert_cmpint (result.corruptions, ==, 0);
}

bool
guest_reopen (Guest *guest, unsigned flags)
{
  return close_image (guest) && open_image (guest, flags);
}

/* --- requests -------------------------------------------------------------------------------------------- */

typedef struct
{
  int64_t offset, bytes;
} Range;

/* Often of whole sectors or blocks. */
static Range
read_range (Guest *guest, FuzzReader *reader)
{
  uint32_t place = fuzz_u32 (reader), shape = place >> 28;
  int64_t unit = shape < 4 ? 1 : INT64_C (512) << 2 * (shape % 4);
  Range range = { (place & 0xfffffff) % MAX (guest->bytes, 1), fuzz_u16 (reader) };

  if (shape >= 12)
    unit = 1 << 20;
  range.offset = range.offset / unit * unit;
  range.bytes = unit == 1 ? range.bytes : (range.bytes % 16 + 1) * unit;
  range.bytes = MIN (range.bytes, guest->bytes - range.offset);
  return range;
}

static void
write_data (Guest *guest, Range range, uint8_t pattern)
{
  range.bytes = MIN (range.bytes, MAX_REQUEST);

  g_autofree uint8_t *data = g_malloc (range.bytes + 1);

  for (int64_t i = 0; i < range.bytes; i++)
    data[i] = pattern == 0 ? 0 : (uint8_t)(pattern + (range.offset + i) / 512);
  if (guest_judge (guest, vhdkit_image_pwrite (guest->image, data, range.offset, range.bytes), "write"))
    memcpy (guest->model + range.offset, data, range.bytes);
}

static void
write_zeroes (Guest *guest, Range range, bool may_unmap)
{
  if (guest_judge (guest, vhdkit_image_pwrite_zeroes (guest->image, range.offset, range.bytes, may_unmap),
                   "zeroes"))
    memset (guest->model + range.offset, 0, range.bytes);
}

/* What was discarded reads as zeros or as before, byte by byte; from now on as it does now. */
static void
discard (Guest *guest, Range range)
{
  g_autofree uint8_t *data = g_malloc (range.bytes + 1);

  if (!guest_judge (guest, vhdkit_image_discard (guest->image, range.offset, range.bytes), "discard")
      || guest->lost
      || !guest_judge (guest, vhdkit_image_pread (guest->image, data, range.offset, range.bytes), "read"))
    return;
  for (int64_t i = 0; i < range.bytes; i++)
    if (data[i] != 0 && data[i] != guest->model[range.offset + i])
      g_error ("discarded byte %" G_GINT64_FORMAT " is 0x%02x", range.offset + i, data[i]);
  memcpy (guest->model + range.offset, data, range.bytes);
}

static void
grow (Guest *guest, uint32_t by)
{
  g_autoptr (GError) error = NULL;
  int64_t before = vhdkit_image_get_size (guest->image), bytes = before + (by % 1024 + 1) * INT64_C (4096);

  if (before > MODEL_BYTES || bytes > MODEL_BYTES)
    return;
  if (!vhdkit_image_truncate (guest->image, bytes, &error))
    {
      if (!g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED))
        guest_judge_error (guest, error, "grow");
      g_assert_cmpint (vhdkit_image_get_size (guest->image), ==, before);
      return;
    }
  memset (guest->model + guest->bytes, 0, bytes - guest->bytes);
  guest->bytes = bytes;
}

/* --- jobs ------------------------------------------------------------------------------------------------ */

bool
guest_run_job (Guest *guest, VhdkitJob *job, GError *not_made, const char *what)
{
  g_autoptr (GError) error = not_made;

  if (job)
    vhdkit_job_run (job, NULL, NULL, &error);
  /* What a job refuses (nothing to merge into, a file system that cannot be read) is not an error. */
  if (error
      && (g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED)
          || g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT)))
    return false;
  if (guest_judge_error (guest, error, what))
    return true;
  guest->full |= g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_IO);
  return false;
}

/* --- the run --------------------------------------------------------------------------------------------- */

static void
step (Guest *guest, FuzzReader *reader)
{
  uint8_t code = fuzz_u8 (reader);
  int op = code >= NEW_OPS && code - NEW_OPS < OPS_END - OPS ? OPS + code - NEW_OPS : code % OPS;
  Range range = { 0, 0 };

  if (op < 14)
    range = read_range (guest, reader);
  if (op > 17 && guest->jobs++ > MAX_JOBS)
    return;
  switch (op)
    {
    case 0:
    case 1:
    case 2:
    case 3:
      write_data (guest, range, fuzz_u8 (reader));
      break;
    case 4:
      write_data (guest, range, 0);
      break;
    case 5:
    case 6:
      write_zeroes (guest, range, false);
      break;
    case 7:
    case 8:
      write_zeroes (guest, range, true);
      break;
    case 9:
    case 10:
    case 11:
      discard (guest, range);
      break;
    case 12:
    case 13:
      compare (guest, range.offset, range.bytes);
      break;
    case 14:
    case 15:
      guest_judge (guest, vhdkit_image_flush (guest->image), "flush");
      break;
    case 16:
    case 17:
      grow (guest, fuzz_u16 (reader));
      break;
    case 18:
      guest_reopen (guest, VHDKIT_OPEN_RDWR);
      break;
    case 19:
      guest_check (guest, guest->image);
      break;
    case 20:
    case 21:
      guest_compact (guest, fuzz_u8 (reader));
      break;
    case 22:
      guest_commit (guest, fuzz_u8 (reader));
      break;
    case 23:
      guest_rebase (guest);
      break;
    case 24:
      guest_convert (guest, reader);
      break;
    case 25:
      guest_plan_commit (guest, fuzz_u8 (reader));
      break;
    case 26:
      guest_plan_compact (guest, fuzz_u8 (reader));
      break;
    case 27:
      guest_plan_rebase (guest, fuzz_u8 (reader));
      break;
    default:
      guest_rebase_onto (guest, fuzz_u8 (reader));
    }
}

/* What a stranger's image shows at first, as far as it can be read. */
static bool
read_model (Guest *guest)
{
  guest->bytes = MIN (vhdkit_image_get_size (guest->image), MODEL_BYTES);
  guest->model = g_malloc0 (MODEL_BYTES);
  if (guest->bytes > 0 && vhdkit_image_pread (guest->image, guest->model, 0, guest->bytes) < 0)
    guest->lost = true;
  return guest->bytes > 0;
}

static void
run (const uint8_t *script, size_t bytes)
{
  FuzzReader reader = { script, script + bytes };
  uint8_t which = fuzz_u8 (&reader);
  Guest guest = { .own = which != 0xff };

  if (guest.own)
    {
      const Kind *kind = &kinds[which % G_N_ELEMENTS (kinds)];

      take_own_image (which % G_N_ELEMENTS (kinds));
      guest.format = kind->format;
      guest.layers = kind->layers;
    }
  fuzz_store_set_writable (true);
  guest.image = guest_open_file (0, VHDKIT_OPEN_RDWR, NULL);
  g_assert_true (guest.image || !guest.own);
  if (!guest.image)
    return;
  if (read_model (&guest))
    for (int i = 0; i < MAX_OPS && guest.image && reader.at < reader.end; i++)
      step (&guest, &reader);
  if (guest.image)
    guest_compare_all (&guest);
  if (guest.image && guest_reopen (&guest, 0))
    {
      guest_compare_all (&guest);
      guest_check (&guest, guest.image);
      close_image (&guest);
    }
  g_free (guest.model);
}

const FuzzTarget fuzz_target = {
  .name = "guest",
  .max_file_bytes = 64 << 20,
  .max_requests = 400000,
  .max_bytes = INT64_C (4) << 30,
  .run = run,
};
