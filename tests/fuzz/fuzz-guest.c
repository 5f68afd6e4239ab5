/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest and its administrator at work: requests, and jobs between them, in the order of a script, on an image that is
 * compared with a flat one in memory all the while.
 *
 * The image is one of our own making (made once, of every kind and with parents), or what an input brings as file 0:
 * a stranger's image that can be opened for writing must from then on behave like any other.  Of that only the first
 * MODEL_BYTES are worked on.
 *
 * The script: the image (0xff: that of the input), then an opcode and its numbers, again and again.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MODEL_BYTES (8 << 20)
#define MAX_REQUEST (256 << 10)
#define MAX_OPS     64
#define MAX_JOBS    6

typedef struct
{
  VhdkitImage *image;
  bool own;  /* of our making: nothing may fail */
  bool lost; /* something failed that may: what the image shows is not known any more */
  bool full; /* … for lack of room in the file */
  int jobs;
  uint8_t *model;
  int64_t bytes; /* of the model */
} Guest;

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

/* Whether the request succeeded. */
static bool
judge (Guest *guest, int ret, const char *what)
{
  if (ret == 0)
    return true;
  guest->full |= ret == -ENOSPC;
  if (guest->own && !guest->full)
    g_error ("%s: %s", what, g_strerror (-ret));
  guest->lost = true;
  return false;
}

static bool
judge_error (Guest *guest, const GError *error, const char *what)
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
      || !judge (guest, vhdkit_image_pread (guest->image, data, offset, bytes), "read"))
    return;
  if (memcmp (data, guest->model + offset, bytes) == 0)
    return;
  for (int64_t i = 0; i < bytes; i++)
    if (data[i] != guest->model[offset + i])
      g_error ("byte %" G_GINT64_FORMAT " is 0x%02x instead of 0x%02x", offset + i, data[i],
               guest->model[offset + i]);
}

static void
compare_all (Guest *guest)
{
  for (int64_t at = 0; at < guest->bytes; at += 1 << 20)
    compare (guest, at, MIN (1 << 20, guest->bytes - at));
}

static VhdkitImage *
open_leaf (unsigned flags, GError **error)
{
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = flags | VHDKIT_OPEN_RAW_PARENT,
                                .cache = VHDKIT_CACHE_WRITEBACK,
                                .filters = fuzz_filters };

  return vhdkit_image_open (fuzz_context (), fuzz_path (0), &options, error);
}

static bool
close_image (Guest *guest)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (g_steal_pointer (&guest->image), &error);
  if (error)
    guest->lost = true;
  return judge_error (guest, error, "close");
}

/* Opened once, it opens again: also what was a stranger's, unless an error came in between. */
static bool
open_image (Guest *guest, unsigned flags)
{
  g_autoptr (GError) error = NULL;

  guest->image = open_leaf (flags, &error);
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

static void
check (Guest *guest)
{
  g_autoptr (GError) error = NULL;
  VhdkitCheckResult result;

  if (!vhdkit_image_check (guest->image, false, &result, ignore_finding, NULL, &error))
    {
      if (!g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED)) /* raw */
        judge_error (guest, error, "check");
    }
  else if (guest->own && !guest->lost)
    g_assert_cmpint (result.corruptions, ==, 0);
}

static bool
reopen (Guest *guest, unsigned flags)
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
  if (judge (guest, vhdkit_image_pwrite (guest->image, data, range.offset, range.bytes), "write"))
    memcpy (guest->model + range.offset, data, range.bytes);
}

static void
write_zeroes (Guest *guest, Range range, bool may_unmap)
{
  if (judge (guest, vhdkit_image_pwrite_zeroes (guest->image, range.offset, range.bytes, may_unmap),
             "zeroes"))
    memset (guest->model + range.offset, 0, range.bytes);
}

/* What was discarded reads as zeros or as before, byte by byte; from now on as it does now. */
static void
discard (Guest *guest, Range range)
{
  g_autofree uint8_t *data = g_malloc (range.bytes + 1);

  if (!judge (guest, vhdkit_image_discard (guest->image, range.offset, range.bytes), "discard") || guest->lost
      || !judge (guest, vhdkit_image_pread (guest->image, data, range.offset, range.bytes), "read"))
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
        judge_error (guest, error, "grow");
      g_assert_cmpint (vhdkit_image_get_size (guest->image), ==, before);
      return;
    }
  memset (guest->model + guest->bytes, 0, bytes - guest->bytes);
  guest->bytes = bytes;
}

/* --- jobs ------------------------------------------------------------------------------------------------ */

static void
run_job (Guest *guest, VhdkitJob *job, GError *not_made, const char *what)
{
  g_autoptr (GError) error = not_made;

  if (job)
    {
      vhdkit_job_run (job, NULL, NULL, &error);
      vhdkit_job_free (job);
    }
  /* What a job refuses (nothing to merge into, a file system that cannot be read) is not an error. */
  if (error
      && (g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED)
          || g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT)))
    return;
  if (!judge_error (guest, error, what))
    guest->full |= g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_IO);
}

static void
compact (Guest *guest, uint8_t flags)
{
  static const VhdkitCompactMode modes[] = { VHDKIT_COMPACT_FULL, VHDKIT_COMPACT_PREZEROED,
                                             VHDKIT_COMPACT_PRETRIMMED, VHDKIT_COMPACT_PUNCH };
  /* A stranger's disk may have file systems, whose free space does not stay as it was. */
  VhdkitCompactOptions options = { .struct_size = sizeof options,
                                   .mode = guest->own ? modes[flags % 4] : modes[1 + flags % 2],
                                   .no_block_moves = flags & 4,
                                   .parallel = 1 + flags % 3 };
  GError *error = NULL;
  VhdkitJob *job = vhdkit_compact_new (guest->image, &options, &error);

  run_job (guest, job, error, "compact");
}

/* The leaf is as it was; what it shows comes from below. */
static void
commit (Guest *guest, uint8_t depth)
{
  VhdkitCommitOptions options = { .struct_size = sizeof options,
                                  .target_layer = 1 + depth % 3,
                                  .shrink_target = depth & 0x10,
                                  .break_siblings = depth & 0x20,
                                  .skip_identical = depth & 0x40 };
  GError *error = NULL;

  if (!reopen (guest, 0))
    return;

  int layers = vhdkit_image_get_depth (guest->image);

  if (layers > 1)
    {
      options.target_layer = MIN (options.target_layer, layers - 1);
      options.source_layer = depth & 0x80 && options.target_layer > 1 ? 1 : 0;

      VhdkitJob *job = vhdkit_commit_new (guest->image, &options, &error);

      run_job (guest, job, error, "commit");
      compare_all (guest);
    }
  reopen (guest, VHDKIT_OPEN_RDWR);
}

/* The leaf loses its parents, and shows the same. */
static void
rebase (Guest *guest)
{
  VhdkitRebaseOptions options = { .struct_size = sizeof options };
  GError *error = NULL;

  if (!reopen (guest, 0))
    return;
  if (vhdkit_image_get_depth (guest->image) > 1)
    {
      VhdkitJob *job = vhdkit_rebase_new (guest->image, NULL, &options, &error);

      run_job (guest, job, error, "rebase");
    }
  reopen (guest, VHDKIT_OPEN_RDWR);
}

/* --- the run --------------------------------------------------------------------------------------------- */

static void
step (Guest *guest, FuzzReader *reader)
{
  uint8_t op = fuzz_u8 (reader) % 24;
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
      judge (guest, vhdkit_image_flush (guest->image), "flush");
      break;
    case 16:
    case 17:
      grow (guest, fuzz_u16 (reader));
      break;
    case 18:
      reopen (guest, VHDKIT_OPEN_RDWR);
      break;
    case 19:
      check (guest);
      break;
    case 20:
    case 21:
      compact (guest, fuzz_u8 (reader));
      break;
    case 22:
      commit (guest, fuzz_u8 (reader));
      break;
    default:
      rebase (guest);
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
    take_own_image (which % G_N_ELEMENTS (kinds));
  fuzz_store_set_writable (true);
  guest.image = open_leaf (VHDKIT_OPEN_RDWR, NULL);
  g_assert_true (guest.image || !guest.own);
  if (!guest.image)
    return;
  if (read_model (&guest))
    for (int i = 0; i < MAX_OPS && guest.image && reader.at < reader.end; i++)
      step (&guest, &reader);
  if (guest.image)
    compare_all (&guest);
  if (guest.image && reopen (&guest, 0))
    {
      compare_all (&guest);
      check (&guest);
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
