/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests on random VHD and VHDX chains, against a flat model in memory.
 *
 * Each round makes a chain (a fixed, dynamic or raw base, up to three differencing images above it, block sizes of
 * 4 KiB to 2 MiB of a VHD and 1 to 8 MiB of a VHDX, sizes that are not multiples of anything), works on its leaf with several requests in flight, any
 * alignment, closing, reopening and growing it in between, and compares every byte.  Requests in flight do not share
 * a byte, but may share a sector.
 *
 * VHDKIT_SEED repeats a run; VHDKIT_ITERATIONS rounds for each engine and cache (default: 10).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>
#include <vhdkit/vhdkit.h>

#define MAX_LAYERS  4
#define MAX_BYTES   (24 << 20)
#define MAX_REQUEST (300 << 10)

typedef struct
{
  const char *name;
  const char *aio;
  VhdkitCacheMode cache;
} Way;

static const Way ways[] = {
  { "threads", "threads", VHDKIT_CACHE_WRITEBACK },
  { "threads-direct", "threads", VHDKIT_CACHE_NONE },
  { "native-direct", "native", VHDKIT_CACHE_NONE },
  { "io_uring", "io_uring", VHDKIT_CACHE_WRITEBACK },
  { "io_uring-direct", "io_uring", VHDKIT_CACHE_NONE },
  { "threads-writethrough", "threads", VHDKIT_CACHE_WRITETHROUGH },
};

typedef struct
{
  const Way *way;
  GRand *rand;
  char *dir;
  VhdkitContext *context;
  char *paths[MAX_LAYERS]; /* from the base */
  int64_t block_size[MAX_LAYERS];
  int layers;
  bool vhdx;
  int sector;     /* of which a size is a multiple */
  GString *story; /* of the chain */

  VhdkitImage *image;
  uint8_t *model; /* MAX_BYTES */
  int64_t bytes;
  GPtrArray *in_flight; /* of Request */
} Model;

typedef enum
{
  READ,
  WRITE,
  ZEROES,
  ZEROES_UNMAP,
  DISCARD,
  FLUSH,
} Kind;

typedef struct
{
  Model *model;
  Kind kind;
  int64_t offset, bytes;
  uint8_t *buffer;
  struct iovec iov[3];
  int niov;
} Request;

static uint32_t base_seed;

static int
draw (Model *m, int from, int to)
{
  return g_rand_int_range (m->rand, from, to);
}

/* --- images -------------------------------------------------------------------------------------------- */

static VhdkitImage *
open_image (Model *m, const char *path, unsigned flags)
{
  VhdkitOpenOptions options = { .struct_size = sizeof options,
                                .flags = flags | VHDKIT_OPEN_RAW_PARENT,
                                .cache = m->way->cache,
                                .aio = m->way->aio };
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = vhdkit_image_open (m->context, path, &options, &error);

  g_assert_no_error (error);
  return image;
}

static void
close_image (VhdkitImage *image)
{
  g_autoptr (GError) error = NULL;

  vhdkit_image_close (image, &error);
  g_assert_no_error (error);
}

static void
fill_random (Model *m, uint8_t *buffer, int64_t bytes)
{
  uint64_t state = g_rand_int (m->rand) | 1;

  for (int64_t i = 0; i < bytes; i++)
    {
      state = state * UINT64_C (6364136223846793005) + UINT64_C (1442695040888963407);
      buffer[i] = state >> 56;
    }
}

static int64_t
draw_bytes (Model *m)
{
  int64_t bytes = draw (m, 3, (m->vhdx ? 9 : 3) << 11) * 512;

  /* Some are whole numbers of MiB. */
  if (draw (m, 0, 4) == 0)
    bytes = draw (m, 1, m->vhdx ? 10 : 4) << 20;
  return MAX (bytes / m->sector, 1) * m->sector;
}

typedef enum
{
  FIXED,
  SPARSE, /* dynamic or differencing */
  RAW,
} LayerKind;

static void
create_layer (Model *m, const char *path, LayerKind kind, int64_t block_size, int64_t bytes,
              const char *parent)
{
  g_autofree char *block = g_strdup_printf ("block_size=%" G_GINT64_FORMAT, block_size);
  g_autofree char *sector = g_strdup_printf ("logical_sector_size=%d", m->sector);
  const char *format_options[4];
  VhdkitCreateOptions options = { .struct_size = sizeof options,
                                  .format = kind == RAW ? "raw"
                                            : m->vhdx   ? "vhdx"
                                                        : "vhd",
                                  .bytes = bytes,
                                  .format_options = format_options,
                                  .parent = parent,
                                  .parent_flags = VHDKIT_OPEN_RAW_PARENT };
  g_autoptr (GError) error = NULL;
  int n = 0;

  if (kind == FIXED)
    format_options[n++] = "subformat=fixed";
  if (kind == SPARSE || (kind == FIXED && m->vhdx))
    format_options[n++] = block;
  if (kind != RAW && m->vhdx)
    format_options[n++] = sector;
  format_options[n] = NULL;
  vhdkit_image_create (m->context, path, &options, &error);
  g_assert_no_error (error);
}

/* The next layer on top: the model's length becomes its own. */
static void
add_layer (Model *m)
{
  int n = m->layers;
  LayerKind kind = n > 0 ? SPARSE : m->vhdx ? draw (m, FIXED, RAW) : draw (m, FIXED, RAW + 1);
  int64_t block_size = m->vhdx ? INT64_C (1) << (20 + draw (m, 0, 4)) : INT64_C (4096) << draw (m, 0, 10);
  int64_t bytes = n == 0 || draw (m, 0, 2) ? draw_bytes (m) : m->bytes;

  m->paths[n] = g_strdup_printf ("%s/layer%d", m->dir, n);
  m->block_size[n] = kind == SPARSE ? block_size : 4096;
  m->layers++;
  create_layer (m, m->paths[n], kind, block_size, bytes, n > 0 ? m->paths[n - 1] : NULL);
  if (bytes < m->bytes)
    memset (m->model + bytes, 0, m->bytes - bytes);
  m->bytes = bytes;
  g_string_append_printf (m->story, "%s%s %" G_GINT64_FORMAT " (%" G_GINT64_FORMAT ")", n ? " < " : "",
                          (const char *[]){ "fixed", n ? "differencing" : "dynamic", "raw" }[kind], bytes,
                          m->block_size[n]);
}

static int64_t
file_hash (const char *path)
{
  g_autofree char *data = NULL;
  gsize bytes;
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_MD5);
  guint8 digest[16];
  gsize n = sizeof digest;
  int64_t hash;

  g_assert_true (g_file_get_contents (path, &data, &bytes, NULL));
  g_checksum_update (sum, (const guchar *)data, bytes);
  g_checksum_get_digest (sum, digest, &n);
  memcpy (&hash, digest, sizeof hash);
  return hash;
}

/* --- requests -------------------------------------------------------------------------------------------- */

static void
assert_same (const Model *m, const uint8_t *found, int64_t offset, int64_t bytes, const char *what)
{
  if (memcmp (found, m->model + offset, bytes) == 0)
    return;
  for (int64_t i = 0; i < bytes; i++)
    if (found[i] != m->model[offset + i])
      g_error ("%s: byte %" G_GINT64_FORMAT " (sector %" G_GINT64_FORMAT
               ") is 0x%02x instead of 0x%02x; disk of %" G_GINT64_FORMAT ", %s",
               what, offset + i, (offset + i) / 512, found[i], m->model[offset + i], m->bytes, m->story->str);
}

/* What was discarded reads as zeros or as before; from now on it is what is read. */
static void
adopt_discarded (Model *m, int64_t offset, int64_t bytes)
{
  g_autofree uint8_t *found = g_malloc (bytes);

  g_assert_cmpint (vhdkit_image_pread (m->image, found, offset, bytes), ==, 0);
  for (int64_t i = 0; i < bytes; i++)
    {
      if (found[i] != 0)
        g_assert_cmpint (found[i], ==, m->model[offset + i]);
      m->model[offset + i] = found[i];
    }
}

static void
request_done (void *opaque, int ret)
{
  Request *request = opaque;
  Model *m = request->model;

  if (ret < 0)
    g_error ("request of kind %d, %" G_GINT64_FORMAT " bytes at %" G_GINT64_FORMAT ": %s; %s", request->kind,
             request->bytes, request->offset, g_strerror (-ret), m->story->str);
  switch (request->kind)
    {
    case READ:
      assert_same (m, request->buffer, request->offset, request->bytes, "read");
      break;
    case DISCARD:
      adopt_discarded (m, request->offset, request->bytes);
      break;
    default:
      break;
    }
  g_ptr_array_remove_fast (m->in_flight, request);
  g_free (request->buffer);
  g_free (request);
}

static void
wait_until (Model *m, guint in_flight)
{
  while (m->in_flight->len > in_flight)
    vhdkit_context_iterate (m->context, true);
}

static bool
overlaps (const Model *m, int64_t offset, int64_t bytes)
{
  for (guint i = 0; i < m->in_flight->len; i++)
    {
      const Request *other = g_ptr_array_index (m->in_flight, i);

      if (offset < other->offset + other->bytes && other->offset < offset + bytes)
        return true;
    }
  return false;
}

static bool
draw_range (Model *m, int64_t *offset, int64_t *bytes)
{
  int64_t block = m->block_size[m->layers - 1];
  int64_t start = draw (m, 0, m->bytes), n = draw (m, 1, MIN (MAX_REQUEST, m->bytes) + 1);

  switch (draw (m, 0, 5))
    {
    case 0: /* any bytes */
      n = draw (m, 1, 3000);
      break;
    case 1: /* whole blocks */
      start = start / block * block;
      n = draw (m, 1, 3) * block;
      break;
    case 2: /* close to a border of blocks */
      start = start / block * block - draw (m, 0, 2000);
      start = MAX (0, start);
      break;
    default:
      start = start / 512 * 512;
      n = n / 512 * 512 + 512;
    }
  n = MIN (n, m->bytes - start);
  *offset = start;
  *bytes = n;
  return n > 0 && !overlaps (m, start, n);
}

/* The buffer in one to three pieces. */
static void
split (Request *request, Model *m)
{
  int64_t left = request->bytes;
  uint8_t *at = request->buffer;

  while (request->niov < 2 && left > 1 && draw (m, 0, 2))
    {
      int64_t n = draw (m, 1, left);

      request->iov[request->niov++] = (struct iovec){ at, n };
      at += n;
      left -= n;
    }
  request->iov[request->niov++] = (struct iovec){ at, left };
}

static Kind
draw_kind (Model *m)
{
  int n = draw (m, 0, 100);

  return n < 45 ? WRITE : n < 75 ? READ : n < 80 ? ZEROES : n < 87 ? ZEROES_UNMAP : n < 94 ? DISCARD : FLUSH;
}

static void
submit (Model *m)
{
  Kind kind = draw_kind (m);
  int64_t offset = 0, bytes = 0;
  Request *request;

  if (kind != FLUSH && !draw_range (m, &offset, &bytes))
    return;
  request = g_new0 (Request, 1);
  request->model = m;
  request->kind = kind;
  request->offset = offset;
  request->bytes = bytes;
  g_ptr_array_add (m->in_flight, request);
  switch (kind)
    {
    case READ:
    case WRITE:
      request->buffer = g_malloc (bytes);
      split (request, m);
      if (kind == READ)
        {
          vhdkit_image_aio_preadv (m->image, request->iov, request->niov, offset, request_done, request);
          break;
        }
      if (draw (m, 0, 8))
        fill_random (m, request->buffer, bytes);
      else
        memset (request->buffer, 0, bytes);
      memcpy (m->model + offset, request->buffer, bytes);
      vhdkit_image_aio_pwritev (m->image, request->iov, request->niov, offset, request_done, request);
      break;
    case ZEROES:
    case ZEROES_UNMAP:
      memset (m->model + offset, 0, bytes);
      vhdkit_image_aio_pwrite_zeroes (m->image, offset, bytes, kind == ZEROES_UNMAP, request_done, request);
      break;
    case DISCARD:
      vhdkit_image_aio_discard (m->image, offset, bytes, request_done, request);
      break;
    case FLUSH:
      vhdkit_image_aio_flush (m->image, request_done, request);
    }
}

/* --- looks ----------------------------------------------------------------------------------------------- */

static void
compare_all (Model *m)
{
  g_autofree uint8_t *found = g_malloc (m->bytes);

  g_assert_cmpint (vhdkit_image_get_size (m->image), ==, m->bytes);
  g_assert_cmpint (vhdkit_image_pread (m->image, found, 0, m->bytes), ==, 0);
  assert_same (m, found, 0, m->bytes, "whole disk");
}

/* Where the library says that zeros are, zeros are; where it says that the data stand, they stand. */
static void
compare_extents (Model *m)
{
  for (int64_t offset = 0; offset < m->bytes;)
    {
      VhdkitExtent extent;
      int64_t n;

      g_assert_cmpint (vhdkit_image_get_extent (m->image, offset, m->bytes - offset, &extent), ==, 0);
      n = extent.bytes;
      g_assert_cmpint (n, >, 0);
      g_assert_cmpint (n, <=, m->bytes - offset);
      if (extent.zero)
        for (int64_t i = 0; i < n; i++)
          g_assert_cmpint (m->model[offset + i], ==, 0);
      else if (extent.has_file_offset)
        {
          g_autofree uint8_t *found = g_malloc0 (n);
          int fd = open (extent.filename, O_RDONLY | O_CLOEXEC);

          g_assert_cmpint (pread (fd, found, n, extent.file_offset), >=, 0);
          close (fd);
          assert_same (m, found, offset, n, extent.filename);
        }
      offset += n;
    }
}

static void
fail_on_error (void *opaque, VhdkitCheckSeverity severity, const char *text)
{
  Model *m = opaque;

  if (severity >= VHDKIT_CHECK_WARNING && severity != VHDKIT_CHECK_LEAK)
    g_error ("check: %s; %s", text, m->story->str);
}

static void
check_file (Model *m, const char *path)
{
  VhdkitImage *image = open_image (m, path, VHDKIT_OPEN_CHECK | VHDKIT_OPEN_NO_PARENTS);
  VhdkitCheckResult result;
  g_autoptr (GError) error = NULL;

  if (!vhdkit_image_check (image, false, &result, fail_on_error, m, &error))
    g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED); /* raw */
  else
    g_assert_cmpint (result.corruptions + result.check_errors, ==, 0);
  close_image (image);
}

/* --- rounds ---------------------------------------------------------------------------------------------- */

static void
grow (Model *m)
{
  int64_t bytes = m->bytes + (draw (m, 0, 2) ? draw (m, 1, 40) : draw (m, 1, 4000)) * m->sector;
  g_autoptr (GError) error = NULL;

  if (bytes > MAX_BYTES)
    return;
  vhdkit_image_truncate (m->image, bytes, &error);
  g_assert_no_error (error);
  memset (m->model + m->bytes, 0, bytes - m->bytes);
  m->bytes = bytes;
}

static void
reopen (Model *m)
{
  wait_until (m, 0);
  close_image (m->image);
  m->image = open_image (m, m->paths[m->layers - 1], VHDKIT_OPEN_RDWR);
}

static void
work (Model *m, int n)
{
  int depth = draw (m, 1, 12);

  m->image = open_image (m, m->paths[m->layers - 1], VHDKIT_OPEN_RDWR);
  for (int i = 0; i < n; i++)
    {
      int event = draw (m, 0, 200);

      wait_until (m, depth - 1);
      if (event == 0)
        reopen (m);
      else if (event == 1)
        grow (m);
      else if (event == 2)
        {
          wait_until (m, 0);
          g_assert_cmpint (vhdkit_image_flush (m->image), ==, 0);
          compare_all (m);
          compare_extents (m);
        }
      submit (m);
    }
  wait_until (m, 0);
  compare_all (m);
  close_image (m->image);
}

static void
test_round (const Way *way, const char *top, uint32_t seed)
{
  Model m = { .way = way,
              .rand = g_rand_new_with_seed (seed),
              .dir = g_strdup_printf ("%s/vhdkit-model-XXXXXX", top),
              .context = vhdkit_context_new (NULL),
              .story = g_string_new (NULL),
              .model = g_malloc0 (MAX_BYTES),
              .in_flight = g_ptr_array_new () };
  int layers = draw (&m, 1, MAX_LAYERS + 1);
  int64_t hashes[MAX_LAYERS];

  g_assert_nonnull (g_mkdtemp (m.dir));
  m.vhdx = draw (&m, 0, 2);
  m.sector = m.vhdx && draw (&m, 0, 3) == 0 ? 4096 : 512;
  g_string_append_printf (m.story,
                          "VHDKIT_SEED=%u, round of seed %u in %s, %s with sectors of %d: ", base_seed, seed,
                          m.dir, m.vhdx ? "vhdx" : "vhd", m.sector);
  for (int i = 0; i < layers; i++)
    {
      add_layer (&m);
      work (&m, i == layers - 1 ? 250 : 25);
      hashes[i] = file_hash (m.paths[i]);
    }
  m.image = open_image (&m, m.paths[layers - 1], 0);
  compare_all (&m);
  compare_extents (&m);
  close_image (m.image);
  for (int i = 0; i < layers; i++)
    {
      check_file (&m, m.paths[i]);
      /* No work on a child, and no read-only look, has changed a file. */
      g_assert_cmpint (file_hash (m.paths[i]), ==, hashes[i]);
      g_unlink (m.paths[i]);
      g_free (m.paths[i]);
    }
  g_rmdir (m.dir);
  g_free (m.dir);
  g_free (m.model);
  g_ptr_array_unref (m.in_flight);
  g_string_free (m.story, true);
  vhdkit_context_free (m.context);
  g_rand_free (m.rand);
}

/* Whether images below @top can be opened this way; *why not. */
static bool
works_in (const Way *way, const char *top, char **why)
{
  g_autofree char *path = g_strdup_printf ("%s/vhdkit-probe-XXXXXX", top);
  int fd = g_mkstemp (path);
  VhdkitOpenOptions options = {
    .struct_size = sizeof options, .format = "raw", .cache = way->cache, .aio = way->aio
  };
  g_autoptr (GError) error = NULL;
  VhdkitImage *image = NULL;

  if (fd >= 0 && ftruncate (fd, 4096) == 0)
    image = vhdkit_image_open (NULL, path, &options, &error);
  if (fd >= 0)
    {
      close (fd);
      g_unlink (path);
    }
  if (image)
    return vhdkit_image_close (image, NULL);
  g_free (*why);
  *why = g_strdup (error ? error->message : "no space");
  return false;
}

/* Most rounds in memory, which is fast; past the page cache a real disk is something else, so there are some. */
static void
test_way (gconstpointer data)
{
  const Way *way = data;
  const char *rounds = g_getenv ("VHDKIT_ITERATIONS"), *disk = g_get_tmp_dir ();
  int n = rounds ? atoi (rounds) : 16;
  g_autofree char *why = NULL;
  bool memory_works = works_in (way, "/dev/shm", &why);
  bool disk_works = (way->cache == VHDKIT_CACHE_NONE || !memory_works) && works_in (way, disk, &why);

  if (!memory_works && !disk_works)
    g_test_skip (why);
  for (int i = 0; memory_works && i < n; i++)
    test_round (way, "/dev/shm", base_seed + (uint32_t)i);
  for (int i = 0; disk_works && i < MAX (1, n / 8); i++)
    test_round (way, disk, base_seed + (uint32_t)(n + i));
}

int
main (int argc, char **argv)
{
  const char *seed = g_getenv ("VHDKIT_SEED");

  g_test_init (&argc, &argv, NULL);
  base_seed = seed ? (uint32_t)atoi (seed) : (uint32_t)g_random_int_range (1, 1000000);
  g_test_message ("VHDKIT_SEED=%u", base_seed);
  for (size_t i = 0; i < G_N_ELEMENTS (ways); i++)
    {
      g_autofree char *path = g_strdup_printf ("/model/%s", ways[i].name);

      g_test_add_data_func (path, &ways[i], test_way);
    }
  return g_test_run ();
}
