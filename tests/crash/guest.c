/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guest.h"

#include <string.h>

#include "simdisk.h"

#define NEVER      INT64_MAX
#define READ_BYTES (256 * 1024)
#define WORDS      (GUEST_SECTOR / 8)
/* Sectors of a piece of a GuestValues. */
#define PIECE 2048
/* Zeros that a huge disk is said to have in a row are not read. */
#define HUGE_BYTES (INT64_C (1) << 30)
/* Of blocks from this size on requests fill one rarely, and crowd around its borders. */
#define LARGE_BLOCK (INT64_C (1) << 20)

struct GuestValues
{
  int64_t bytes;
  size_t n;
  uint32_t **pieces; /* NULL: zeros */
};

typedef struct
{
  int64_t started, durable; /* bytes of the log; durable: NEVER until a flush has covered it */
  bool done, failed, discard;
} Op;

/* One request's say about one sector; @before: the one before it, or 0. */
typedef struct
{
  uint32_t op, value, before;
} Entry;

typedef struct
{
  int64_t bytes, started, done;
} Size;

struct Guest
{
  GuestValues *initial; /* of the largest size so far */
  GuestValues *last;    /* index of the last entry of each sector, 0: none */
  GArray *entries;      /* of Entry; the first is not used */
  GArray *ops;          /* of Op */
  GArray *sizes;        /* of Size, in order, tried ones included */
  int64_t bytes;        /* now */
  uint32_t next_value;
};

/* --- sectors ------------------------------------------------------------------------------------------- */

static uint64_t
word (uint64_t first, int i)
{
  return i == 0 ? first : (first + i) * (2 * (uint64_t)i + 1) * UINT64_C (0x9e3779b97f4a7c15);
}

static uint64_t
first_word (int64_t sector, uint32_t value)
{
  return ((uint64_t)value << 32 | (uint32_t)sector) ^ UINT64_C (0x5bd1e9955bd1e995);
}

void
guest_fill (uint8_t *buffer, int64_t sector, uint32_t value)
{
  uint64_t first = first_word (sector, value);

  if (value == 0)
    {
      memset (buffer, 0, GUEST_SECTOR);
      return;
    }
  for (int i = 0; i < WORDS; i++)
    {
      uint64_t w = word (first, i);
      memcpy (buffer + i * 8, &w, 8);
    }
}

uint32_t
guest_decode (const uint8_t *buffer, int64_t sector)
{
  uint64_t first;
  uint32_t value;

  memcpy (&first, buffer, 8);
  if (first == 0)
    return memcmp (buffer, buffer + 1, GUEST_SECTOR - 1) == 0 ? 0 : GUEST_ODD;
  value = (first ^ UINT64_C (0x5bd1e9955bd1e995)) >> 32;
  if (value == 0 || first != first_word (sector, value))
    return GUEST_ODD;
  for (int i = 1; i < WORDS; i++)
    {
      uint64_t w = word (first, i);
      if (memcmp (buffer + i * 8, &w, 8) != 0)
        return GUEST_ODD;
    }
  return value;
}

/* --- values -------------------------------------------------------------------------------------------- */

static void
set_size (GuestValues *values, int64_t bytes)
{
  size_t n = (bytes / GUEST_SECTOR + PIECE - 1) / PIECE;

  g_assert_cmpint (bytes, >=, values->bytes);
  values->pieces = g_renew (uint32_t *, values->pieces, MAX (n, 1));
  memset (values->pieces + values->n, 0, (n - values->n) * sizeof (uint32_t *));
  values->n = n;
  values->bytes = bytes;
}

GuestValues *
guest_values_new (int64_t bytes)
{
  GuestValues *values = g_new0 (GuestValues, 1);

  set_size (values, bytes);
  return values;
}

void
guest_values_free (GuestValues *values)
{
  if (values == NULL)
    return;
  for (size_t i = 0; i < values->n; i++)
    g_free (values->pieces[i]);
  g_free (values->pieces);
  g_free (values);
}

int64_t
guest_values_size (const GuestValues *values)
{
  return values->bytes;
}

/* NULL: zeros, or behind the end. */
static const uint32_t *
piece_at (const GuestValues *values, size_t i)
{
  return i < values->n ? values->pieces[i] : NULL;
}

uint32_t
guest_values_get (const GuestValues *values, int64_t sector)
{
  const uint32_t *piece = piece_at (values, sector / PIECE);

  return piece ? piece[sector % PIECE] : 0;
}

void
guest_values_set (GuestValues *values, int64_t sector, uint32_t value)
{
  uint32_t **piece = &values->pieces[sector / PIECE];

  if (*piece == NULL && value != 0)
    *piece = g_new0 (uint32_t, PIECE);
  if (*piece)
    (*piece)[sector % PIECE] = value;
}

char *
guest_values_compare (const GuestValues *found, const GuestValues *expected)
{
  for (size_t i = 0; i < MAX (found->n, expected->n); i++)
    {
      if (!piece_at (found, i) && !piece_at (expected, i))
        continue;
      for (int64_t sector = i * PIECE; sector < (int64_t)(i + 1) * PIECE; sector++)
        {
          uint32_t a = guest_values_get (found, sector), b = guest_values_get (expected, sector);

          if (a != b)
            return g_strdup_printf ("guest sector %" G_GINT64_FORMAT " holds %u%s instead of %u", sector, a,
                                    a == GUEST_ODD ? " (bytes nobody wrote)" : "", b);
        }
    }
  return NULL;
}

/* --- history ------------------------------------------------------------------------------------------- */

static void
set_sectors (Guest *guest, int64_t bytes)
{
  if (bytes <= guest->initial->bytes)
    return;
  set_size (guest->initial, bytes);
  set_size (guest->last, bytes);
}

Guest *
guest_new (const GuestValues *values)
{
  Guest *guest = g_new0 (Guest, 1);
  Size size = { values->bytes, -1, 0 };
  Entry none = { 0 };

  guest->entries = g_array_new (false, false, sizeof (Entry));
  guest->ops = g_array_new (false, false, sizeof (Op));
  guest->sizes = g_array_new (false, false, sizeof (Size));
  g_array_append_val (guest->entries, none);
  g_array_append_val (guest->sizes, size);
  guest->initial = guest_values_new (values->bytes);
  guest->last = guest_values_new (values->bytes);
  guest->bytes = values->bytes;
  guest->next_value = 1;
  for (size_t i = 0; i < values->n; i++)
    {
      if (values->pieces[i] == NULL)
        continue;
      guest->initial->pieces[i] = g_memdup2 (values->pieces[i], PIECE * sizeof (uint32_t));
      for (int k = 0; k < PIECE; k++)
        if (values->pieces[i][k] != GUEST_ODD)
          guest->next_value = MAX (guest->next_value, values->pieces[i][k] + 1);
    }
  return guest;
}

void
guest_free (Guest *guest)
{
  if (guest == NULL)
    return;
  guest_values_free (guest->initial);
  guest_values_free (guest->last);
  g_array_unref (guest->entries);
  g_array_unref (guest->ops);
  g_array_unref (guest->sizes);
  g_free (guest);
}

int64_t
guest_size (const Guest *guest)
{
  return guest->bytes;
}

static const Entry *
entry_at (const Guest *guest, uint32_t index)
{
  return &g_array_index (guest->entries, Entry, index);
}

static Op *
op_at (const Guest *guest, uint32_t index)
{
  return &g_array_index (guest->ops, Op, index);
}

/* Whether the request settles what was there before it, for a look at @at. */
static bool
op_settles (const Op *op, int64_t at)
{
  if (op->discard || op->failed)
    return false;
  return at == GUEST_NOW ? op->done : op->durable <= at;
}

static bool
allows (const Guest *guest, int64_t sector, uint32_t value, int64_t at)
{
  for (uint32_t i = guest_values_get (guest->last, sector); i != 0; i = entry_at (guest, i)->before)
    {
      const Entry *entry = entry_at (guest, i);
      const Op *op = op_at (guest, entry->op);

      /* At one position of the log a request may have begun and have been covered by a flush that wrote nothing. */
      if (op->started > at && at != GUEST_NOW)
        continue;
      if (entry->value == value)
        return true;
      if (op_settles (op, at))
        return false;
    }
  return guest_values_get (guest->initial, sector) == value;
}

static void
give_value (Guest *guest, int64_t sector, uint32_t op, uint32_t value)
{
  Entry entry = { op, value, guest_values_get (guest->last, sector) };

  guest_values_set (guest->last, sector, guest->entries->len);
  g_array_append_val (guest->entries, entry);
}

void
guest_set_unused (Guest *guest, int64_t offset, int64_t bytes, const GuestValues *below)
{
  Op op = { .durable = NEVER, .done = true, .discard = true };

  g_array_append_val (guest->ops, op);
  for (int64_t sector = offset / GUEST_SECTOR; sector < (offset + bytes) / GUEST_SECTOR; sector++)
    {
      give_value (guest, sector, guest->ops->len - 1, 0);
      if (below && guest_values_get (below, sector) != 0)
        give_value (guest, sector, guest->ops->len - 1, guest_values_get (below, sector));
    }
}

/* Whether the sector ever had the value. */
static bool
had (const Guest *guest, int64_t sector, uint32_t value)
{
  for (uint32_t i = guest_values_get (guest->last, sector); i != 0; i = entry_at (guest, i)->before)
    if (entry_at (guest, i)->value == value)
      return true;
  return guest_values_get (guest->initial, sector) == value;
}

uint32_t
guest_value (const Guest *guest, int64_t sector)
{
  uint32_t last = guest_values_get (guest->last, sector);

  return last == 0 ? guest_values_get (guest->initial, sector) : entry_at (guest, last)->value;
}

static char *
describe_sector (const Guest *guest, int64_t sector, int64_t at)
{
  GString *text = g_string_new (NULL);

  for (uint32_t i = guest_values_get (guest->last, sector); i != 0; i = entry_at (guest, i)->before)
    {
      const Entry *entry = entry_at (guest, i);
      const Op *op = op_at (guest, entry->op);
      bool begun = at == GUEST_NOW || op->started <= at;

      g_string_append_printf (text, "%s%u (%s%s%s)", text->len ? ", " : "", entry->value,
                              op->discard ? "discard, " : "", begun ? "" : "not begun, ",
                              op->failed                                  ? "failed"
                              : op->durable <= at && op->durable != NEVER ? "durable"
                              : op->done                                  ? "done"
                                                                          : "in flight");
    }
  g_string_append_printf (text, "%s%u (at the beginning)", text->len ? ", " : "",
                          guest_values_get (guest->initial, sector));
  return g_string_free (text, false);
}

static bool
allows_size (const Guest *guest, int64_t bytes, int64_t at)
{
  for (guint i = guest->sizes->len; i-- > 0;)
    {
      const Size *size = &g_array_index (guest->sizes, Size, i);

      if (size->started >= at && at != GUEST_NOW)
        continue;
      if (size->bytes == bytes)
        return true;
      if (size->done <= at)
        return false;
    }
  return false;
}

char *
guest_check (const Guest *guest, const GuestValues *values, int64_t at)
{
  if (!allows_size (guest, values->bytes, at))
    return g_strdup_printf ("the disk has %" G_GINT64_FORMAT " bytes", values->bytes);
  for (size_t i = 0; i < values->n; i++)
    {
      int64_t end = MIN ((int64_t)(i + 1) * PIECE, values->bytes / GUEST_SECTOR);

      if (!values->pieces[i] && !piece_at (guest->initial, i) && !piece_at (guest->last, i))
        continue;
      for (int64_t sector = i * PIECE; sector < end; sector++)
        {
          uint32_t value = guest_values_get (values, sector);
          g_autofree char *history = NULL;

          if (allows (guest, sector, value, at))
            continue;
          history = describe_sector (guest, sector, at);
          return g_strdup_printf ("guest sector %" G_GINT64_FORMAT
                                  " holds %u%s; newest first, it was given %s",
                                  sector, value, value == GUEST_ODD ? " (bytes nobody wrote)" : "", history);
        }
    }
  return NULL;
}

/* Of a huge disk: the zeros that the image says to have at @offset. */
static int64_t
zeros_to_skip (VhdkitImage *image, int64_t offset, int64_t bytes)
{
  VhdkitExtent extent;

  if (bytes < HUGE_BYTES || vhdkit_image_get_extent (image, offset, bytes - offset, &extent) < 0)
    return 0;
  return extent.zero ? extent.bytes / READ_BYTES * READ_BYTES : 0;
}

GuestValues *
guest_read_image (VhdkitImage *image, char **why)
{
  int64_t bytes = vhdkit_image_get_size (image);
  g_autoptr (GuestValues) values = guest_values_new (bytes);
  g_autofree uint8_t *buffer = g_malloc (READ_BYTES);

  for (int64_t offset = 0, n; offset < bytes; offset += n)
    {
      int ret;

      n = zeros_to_skip (image, offset, bytes);
      if (n > 0)
        continue;
      n = MIN (READ_BYTES, bytes - offset);
      ret = vhdkit_image_pread (image, buffer, offset, n);
      if (ret < 0)
        {
          *why = g_strdup_printf ("read of %" G_GINT64_FORMAT " bytes at %" G_GINT64_FORMAT ": %s", n, offset,
                                  g_strerror (-ret));
          return NULL;
        }
      for (int64_t i = 0; i < n / GUEST_SECTOR; i++)
        guest_values_set (values, offset / GUEST_SECTOR + i,
                          guest_decode (buffer + i * GUEST_SECTOR, offset / GUEST_SECTOR + i));
    }
  return g_steal_pointer (&values);
}

/* --- requests -------------------------------------------------------------------------------------------- */

typedef enum
{
  WRITE,
  ZEROES,
  ZEROES_UNMAP,
  DISCARD,
  FLUSH,
  READ,
} Kind;

typedef struct
{
  GuestRun *run;
  Kind kind;
  int64_t sector, sectors;
  bool loose;      /* a read that others may overlap: it gives what was there at any time */
  uint32_t op;     /* of writes of all kinds */
  GArray *covered; /* of a flush: uint32_t, ops that were done when it began */
  struct iovec iov;
} Request;

static Op *
begin_op (GuestRun *run, Request *request)
{
  Op op = { .started = crash_trace_now (run->trace), .durable = NEVER, .discard = request->kind == DISCARD };

  request->op = run->guest->ops->len;
  g_array_append_val (run->guest->ops, op);
  return op_at (run->guest, request->op);
}

static void
note_wrong (GuestRun *run, char *text)
{
  if (run->wrong == NULL)
    run->wrong = text;
  else
    g_free (text);
}

static void
check_read (GuestRun *run, const Request *request)
{
  const uint8_t *buffer = request->iov.iov_base;

  for (int64_t i = 0; i < request->sectors; i++)
    {
      int64_t sector = request->sector + i;
      uint32_t value = guest_decode (buffer + i * GUEST_SECTOR, sector);

      if (request->loose ? !had (run->guest, sector, value) : !allows (run->guest, sector, value, GUEST_NOW))
        {
          g_autofree char *history = describe_sector (run->guest, sector, GUEST_NOW);

          note_wrong (run, g_strdup_printf ("a read of guest sector %" G_GINT64_FORMAT
                                            " gave %u%s; newest first, it was given %s",
                                            sector, value, value == GUEST_ODD ? " (bytes nobody wrote)" : "",
                                            history));
          return;
        }
    }
}

static void
flush_done (GuestRun *run, const GArray *covered)
{
  int64_t now = crash_trace_now (run->trace);

  for (guint i = 0; i < covered->len; i++)
    {
      Op *op = op_at (run->guest, g_array_index (covered, uint32_t, i));

      op->durable = MIN (op->durable, now);
    }
}

static void
request_done (void *opaque, int ret)
{
  Request *request = opaque;
  GuestRun *run = request->run;

  if (ret < 0)
    {
      if (run->errors++ == 0)
        run->first_error = ret;
      if (!run->may_fail)
        note_wrong (run, g_strdup_printf ("request of kind %d at guest sector %" G_GINT64_FORMAT ": %s",
                                          request->kind, request->sector, g_strerror (-ret)));
    }
  switch (request->kind)
    {
    case READ:
      if (ret == 0)
        check_read (run, request);
      break;
    case FLUSH:
      if (ret == 0)
        flush_done (run, request->covered);
      break;
    default:
      {
        Op *op = op_at (run->guest, request->op);

        op->done = true;
        op->failed = ret < 0;
        if (run->write_through && ret == 0)
          op->durable = crash_trace_now (run->trace);
      }
    }
  g_ptr_array_remove_fast (run->in_flight, request);
  if (request->covered)
    g_array_unref (request->covered);
  g_free (request->iov.iov_base);
  g_free (request);
}

static Request *
request_new (GuestRun *run, Kind kind)
{
  Request *request = g_new0 (Request, 1);

  if (run->in_flight == NULL)
    run->in_flight = g_ptr_array_new ();
  request->run = run;
  request->kind = kind;
  g_ptr_array_add (run->in_flight, request);
  return request;
}

static void
submit_flush (GuestRun *run)
{
  Request *request = request_new (run, FLUSH);

  request->covered = g_array_new (false, false, sizeof (uint32_t));
  for (uint32_t i = 0; i < run->guest->ops->len; i++)
    {
      const Op *op = op_at (run->guest, i);

      if (op->done && !op->failed && op->durable == NEVER)
        g_array_append_val (request->covered, i);
    }
  vhdkit_image_aio_flush (run->image, request_done, request);
}

static Kind
draw_kind (GuestRun *run, const GuestMix *mix)
{
  int weights[] = { mix->write, mix->zeroes, mix->zeroes_unmap, mix->discard, mix->flush, mix->read };
  int total = 0, draw;

  for (size_t i = 0; i < G_N_ELEMENTS (weights); i++)
    total += weights[i];
  draw = g_rand_int_range (run->rand, 0, total);
  for (size_t i = 0; i < G_N_ELEMENTS (weights); i++)
    {
      if (draw < weights[i])
        return i;
      draw -= weights[i];
    }
  return READ;
}

static bool
overlaps (const GuestRun *run, int64_t sector, int64_t sectors)
{
  for (guint i = 0; run->in_flight && i < run->in_flight->len; i++)
    {
      const Request *other = g_ptr_array_index (run->in_flight, i);

      if (other->kind != FLUSH && !other->loose && sector < other->sector + other->sectors
          && other->sector < sector + sectors)
        return true;
    }
  return false;
}

/* Where a request starts: half of them crowd, so that blocks fill up. */
static int64_t
draw_start (GuestRun *run, const GuestMix *mix)
{
  int64_t disk = guest_size (run->guest) / GUEST_SECTOR, ends = mix->ends / GUEST_SECTOR;
  int64_t per_block = mix->block_size / GUEST_SECTOR;
  int64_t start;

  if (ends)
    {
      start = g_rand_int_range (run->rand, 0, 2 * ends);
      return start < ends ? start : start + disk - 2 * ends;
    }
  start = g_rand_int_range (run->rand, 0, disk);
  if (g_rand_boolean (run->rand))
    return start;
  if (mix->block_size < LARGE_BLOCK)
    return start % MAX (1, disk / 8);
  /* At the border before, or a little further. */
  start =
      start / per_block * per_block + g_rand_int_range (run->rand, -mix->max_sectors, 2 * mix->max_sectors);
  return CLAMP (start, 0, disk - 1);
}

/* A range that no request in flight touches; false: none was found. */
static bool
draw_range (GuestRun *run, const GuestMix *mix, bool blocks, bool loose, int64_t *sector, int64_t *sectors)
{
  int64_t disk = guest_size (run->guest) / GUEST_SECTOR;

  for (int i = 0; i < 20; i++)
    {
      int64_t n = g_rand_int_range (run->rand, 1, mix->max_sectors + 1);
      int64_t start = draw_start (run, mix);

      if (g_rand_int_range (run->rand, 0, 3) == 0)
        n = g_rand_int_range (run->rand, 1, 9);
      if (blocks)
        {
          int64_t per_block = MAX (mix->block_size, 4096) / GUEST_SECTOR;

          start = start / per_block * per_block;
          n = (mix->block_size < LARGE_BLOCK ? g_rand_int_range (run->rand, 1, 4) : 1) * per_block;
        }
      n = MIN (n, disk - start);
      if (loose || !overlaps (run, start, n))
        {
          *sector = start;
          *sectors = n;
          return true;
        }
    }
  return false;
}

static void
submit_write (GuestRun *run, const GuestMix *mix, Request *request)
{
  Guest *guest = run->guest;
  uint32_t fresh = guest->next_value++;
  uint8_t *buffer = g_malloc (request->sectors * GUEST_SECTOR);
  int64_t run_end = 0;
  int kind = 0;

  begin_op (run, request);
  for (int64_t i = 0; i < request->sectors; i++)
    {
      int64_t sector = request->sector + i;
      uint32_t value;

      /* Runs of one kind of content. */
      if (i >= run_end)
        {
          kind = g_rand_int_range (run->rand, 0, 100);
          run_end = i + g_rand_int_range (run->rand, 1, 65);
        }
      value = kind < mix->zero_data                   ? 0
              : kind < mix->zero_data + mix->old_data ? guest_values_get (guest->initial, sector)
                                                      : fresh;
      if (value == GUEST_ODD)
        value = fresh;
      guest_fill (buffer + i * GUEST_SECTOR, sector, value);
      give_value (guest, sector, request->op, value);
    }
  request->iov = (struct iovec){ buffer, request->sectors * GUEST_SECTOR };
  vhdkit_image_aio_pwritev (run->image, &request->iov, 1, request->sector * GUEST_SECTOR, request_done,
                            request);
}

static void
submit_zeroes (GuestRun *run, Request *request)
{
  int64_t offset = request->sector * GUEST_SECTOR, bytes = request->sectors * GUEST_SECTOR;

  begin_op (run, request);
  for (int64_t i = 0; i < request->sectors; i++)
    give_value (run->guest, request->sector + i, request->op, 0);
  if (request->kind == DISCARD)
    vhdkit_image_aio_discard (run->image, offset, bytes, request_done, request);
  else
    vhdkit_image_aio_pwrite_zeroes (run->image, offset, bytes, request->kind == ZEROES_UNMAP, request_done,
                                    request);
}

/* false: there is no room for one among those in flight. */
static bool
submit_one (GuestRun *run, const GuestMix *mix)
{
  Kind kind = draw_kind (run, mix);
  int64_t sector, sectors;
  Request *request;
  bool blocks, loose = kind == READ && g_rand_boolean (run->rand);

  if (kind == FLUSH)
    {
      submit_flush (run);
      return true;
    }
  blocks = kind != READ && g_rand_int_range (run->rand, 0, 100) < mix->whole_blocks
           && (kind != WRITE || mix->block_size < LARGE_BLOCK || g_rand_int_range (run->rand, 0, 4) == 0);
  if (!draw_range (run, mix, blocks, loose, &sector, &sectors))
    return false;
  request = request_new (run, kind);
  request->sector = sector;
  request->sectors = sectors;
  request->loose = loose;
  if (kind == READ)
    {
      request->iov = (struct iovec){ g_malloc (sectors * GUEST_SECTOR), sectors * GUEST_SECTOR };
      vhdkit_image_aio_preadv (run->image, &request->iov, 1, sector * GUEST_SECTOR, request_done, request);
    }
  else if (kind == WRITE)
    submit_write (run, mix, request);
  else
    submit_zeroes (run, request);
  return true;
}

static void
wait_until (GuestRun *run, guint in_flight)
{
  while (run->in_flight && run->in_flight->len > in_flight)
    if (!vhdkit_context_iterate (run->context, false) && !simdisk_kick ())
      vhdkit_context_iterate (run->context, true);
}

void
guest_run (GuestRun *run, const GuestMix *mix, int n)
{
  simdisk_set_patient (true);
  for (int i = 0; i < n && (run->errors == 0 || run->may_fail) && run->wrong == NULL; i++)
    {
      wait_until (run, run->depth - 1);
      if (!submit_one (run, mix))
        wait_until (run, run->in_flight->len - 1);
    }
  simdisk_set_patient (false);
  wait_until (run, 0);
}

bool
guest_grow (GuestRun *run, const GuestMix *mix, int n, int64_t bytes, GError **error)
{
  Size size = { bytes, crash_trace_now (run->trace), NEVER };
  bool ok;

  for (int i = 0; i < n; i++)
    submit_one (run, mix);
  ok = vhdkit_image_truncate (run->image, bytes, error);
  wait_until (run, 0);
  if (ok)
    {
      size.done = crash_trace_now (run->trace);
      run->guest->bytes = bytes;
    }
  g_array_append_val (run->guest->sizes, size);
  set_sectors (run->guest, bytes);
  return ok;
}

int
guest_flush (GuestRun *run)
{
  int errors = run->errors;

  wait_until (run, 0);
  submit_flush (run);
  wait_until (run, 0);
  return run->errors > errors ? -1 : 0;
}

void
guest_closed (GuestRun *run)
{
  for (uint32_t i = 0; i < run->guest->ops->len; i++)
    {
      Op *op = op_at (run->guest, i);

      if (op->done && !op->failed)
        op->durable = MIN (op->durable, crash_trace_now (run->trace));
    }
  run->image = NULL;
}

void
guest_run_clear (GuestRun *run)
{
  g_clear_pointer (&run->wrong, g_free);
  g_clear_pointer (&run->in_flight, g_ptr_array_unref);
}
