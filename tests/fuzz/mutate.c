/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mutator of libfuzzer-NAME: changes one or a few records of an input, then, most of the time, repairs the
 * checksums of what came out, else nothing behind them would ever be reached.
 */
#include "fuzz.h"

#include <string.h>

#include "byteorder.h"

size_t LLVMFuzzerMutate (uint8_t *data, size_t bytes, size_t max_bytes);
size_t LLVMFuzzerCustomMutator (uint8_t *data, size_t bytes, size_t max_bytes, unsigned seed);
size_t LLVMFuzzerCustomCrossOver (const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes,
                                  uint8_t *out, size_t max_bytes, unsigned seed);

#define MAX_RECORDS 4096
/* Of a record: more is not handed to LLVMFuzzerMutate at a time. */
#define WINDOW 512

typedef struct
{
  uint64_t state;
} Draw;

static uint32_t
draw (Draw *d, uint32_t n)
{
  d->state = d->state * UINT64_C (6364136223846793005) + UINT64_C (1442695040888963407);
  return n > 0 ? (uint32_t)(d->state >> 33) % n : 0;
}

/* --- records ------------------------------------------------------------------------------------------- */

static GArray *
read_records (const uint8_t *data, size_t bytes)
{
  GArray *records = g_array_new (FALSE, FALSE, sizeof (FuzzRecord));
  FuzzRecord record;

  for (size_t at = 0; records->len < MAX_RECORDS && fuzz_record_next (data, bytes, &at, &record);)
    g_array_append_val (records, record);
  return records;
}

static GByteArray *
write_records (const GArray *records)
{
  GByteArray *data = g_byte_array_new ();

  for (guint i = 0; i < records->len; i++)
    fuzz_record_append (data, &g_array_index (records, FuzzRecord, i));
  return data;
}

/* --- numbers ------------------------------------------------------------------------------------------- */

static uint64_t
draw_number (Draw *d)
{
  uint64_t power = UINT64_C (1) << draw (d, 64);

  switch (draw (d, 6))
    {
    case 0:
      return draw (d, 17);
    case 1:
      return power;
    case 2:
      return power - 1;
    case 3:
      return power + draw (d, 4096);
    case 4:
      return UINT64_MAX - draw (d, 4096);
    default:
      return (uint64_t)draw (d, 4096) << draw (d, 32);
    }
}

/* Another number in the place of the 1, 2, 4 or 8 bytes at @at: one of note, or one a little larger or smaller. */
static void
change_number (Draw *d, uint8_t *at, size_t width, bool big)
{
  uint8_t host[8] = { 0 };
  uint64_t value;

  for (size_t i = 0; i < width; i++)
    host[i] = big ? at[width - 1 - i] : at[i];
  memcpy (&value, host, sizeof value);
  value = GUINT64_FROM_LE (value);
  switch (draw (d, 4))
    {
    case 0:
      value = draw_number (d);
      break;
    case 1:
      value ^= UINT64_C (1) << draw (d, (uint32_t)width * 8);
      break;
    case 2:
      value = draw (d, 2) ? value << 1 : value >> 1;
      break;
    default:
      value += draw (d, 33) - UINT64_C (16);
    }
  value = GUINT64_TO_LE (value);
  memcpy (host, &value, sizeof value);
  for (size_t i = 0; i < width; i++)
    at[i] = big ? host[width - 1 - i] : host[i];
}

/* Offsets of records may be as large as there are any. */
static int64_t
offset_plus (int64_t offset, int64_t by)
{
  int64_t sum;

  return __builtin_add_overflow (offset, by, &sum) ? G_MAXINT64 : MAX (0, sum);
}

/* --- mutations ----------------------------------------------------------------------------------------- */

/* Fields stand at multiples of their width, counted from a place of the file. */
static void
mutate_number (Draw *d, uint8_t *payload, const FuzzRecord *record)
{
  size_t width = (size_t)1 << draw (d, 4), at;

  if (record->bytes < width)
    return;
  at = draw (d, record->bytes - (uint32_t)width + 1);
  if (draw (d, 4) > 0)
    {
      size_t skew = (record->offset + at) % width;

      at = skew <= at ? at - skew : at;
    }
  change_number (d, payload + at, width, draw (d, 2));
}

static void
mutate_window (Draw *d, uint8_t *payload, size_t bytes)
{
  uint8_t window[WINDOW] = { 0 };
  size_t wanted = draw (d, 2) ? WINDOW : 16, n = MIN (bytes, wanted);
  size_t at = draw (d, (uint32_t)(bytes - n) + 1);

  memcpy (window, payload + at, n);
  LLVMFuzzerMutate (window, n, n);
  memcpy (payload + at, window, n);
}

/* Part of another record (or of this one) in place of a part of this one. */
static void
mutate_splice (Draw *d, uint8_t *payload, size_t bytes, const FuzzRecord *other)
{
  uint32_t n = 1u << draw (d, 10), from, at;

  n = MIN (n, MIN ((uint32_t)bytes, other->bytes));
  from = draw (d, other->bytes - n + 1);
  at = draw (d, (uint32_t)bytes - n + 1);
  if (draw (d, 2))
    {
      from &= ~7u;
      at &= ~7u;
    }
  memmove (payload + at, other->payload + from, n);
}

static void
mutate_payload (Draw *d, GArray *records, guint which, GPtrArray *memory)
{
  FuzzRecord *record = &g_array_index (records, FuzzRecord, which);
  uint8_t *payload;

  if (record->bytes == 0)
    return;
  payload = g_memdup2 (record->payload, record->bytes);
  g_ptr_array_add (memory, payload);
  switch (draw (d, 8))
    {
    case 0:
    case 1:
      mutate_window (d, payload, record->bytes);
      break;
    case 2:
      mutate_splice (d, payload, record->bytes, &g_array_index (records, FuzzRecord, draw (d, records->len)));
      break;
    default:
      mutate_number (d, payload, record);
    }
  record->payload = payload;
}

/* Scripts are short, and may grow. */
static void
mutate_script (GArray *records, guint which, GPtrArray *memory)
{
  FuzzRecord *record = &g_array_index (records, FuzzRecord, which);
  size_t bytes = MIN (record->bytes, 4096u), room = bytes + 64;
  uint8_t *payload = g_malloc0 (room);

  g_ptr_array_add (memory, payload);
  if (bytes > 0)
    memcpy (payload, record->payload, bytes);
  record->bytes = (uint32_t)LLVMFuzzerMutate (payload, bytes, room);
  record->payload = payload;
}

/* A few bytes where there were zeros: behind what is there, or anywhere. */
static void
add_data (Draw *d, GArray *records, GPtrArray *memory)
{
  FuzzRecord near = g_array_index (records, FuzzRecord, draw (d, records->len)), record = near;
  uint32_t bytes = 1u << draw (d, 5);
  uint8_t *payload = g_malloc0 (bytes);

  g_ptr_array_add (memory, payload);
  for (uint32_t i = 0; i < bytes; i++)
    payload[i] = draw (d, 3) ? 0 : (uint8_t)draw (d, 256);
  if (bytes >= 8)
    change_number (d, payload, 8, draw (d, 2));
  record = (FuzzRecord){ FUZZ_DATA, near.file, 0, bytes, payload };
  record.offset = near.kind == FUZZ_DATA ? offset_plus (near.offset, near.bytes + INT64_C (4) * draw (d, 64))
                                         : draw (d, 2048) * (INT64_C (512) << draw (d, 8));
  g_array_append_val (records, record);
}

static void
mutate_once (Draw *d, GArray *records, GPtrArray *memory)
{
  guint which = draw (d, records->len);
  FuzzRecord *record = &g_array_index (records, FuzzRecord, which);

  if (record->kind == FUZZ_SCRIPT_PART)
    {
      mutate_script (records, which, memory);
      return;
    }
  switch (draw (d, 24))
    {
    case 0:
      record->offset = (int64_t)(draw_number (d) & G_MAXINT64);
      break;
    case 1:
      record->offset = offset_plus (record->offset, ((int64_t)draw (d, 17) - 8) * (512 << draw (d, 12)));
      break;
    case 2:
      if (records->len > 1)
        g_array_remove_index (records, which);
      break;
    case 3:
      {
        FuzzRecord copy = *record;

        copy.offset = offset_plus (copy.offset, INT64_C (512) << draw (d, 13));
        copy.file = draw (d, 4) ? copy.file : draw (d, FUZZ_FILES);
        g_array_append_val (records, copy);
        break;
      }
    case 4:
      add_data (d, records, memory);
      break;
    case 5:
      if (record->kind == FUZZ_DATA && record->bytes > 1)
        record->bytes -= draw (d, record->bytes);
      break;
    default:
      mutate_payload (d, records, which, memory);
    }
}

/* Scripts are a small part of the records, and most of what some targets do. */
static void
mutate_scripts_more (Draw *d, GArray *records, GPtrArray *memory)
{
  for (guint i = 0; i < records->len; i++)
    if (g_array_index (records, FuzzRecord, i).kind == FUZZ_SCRIPT_PART)
      {
        mutate_script (records, i, memory);
        return;
      }

  FuzzRecord record = { FUZZ_SCRIPT_PART, 0, 0, 0, NULL };

  g_array_append_val (records, record);
  mutate_script (records, records->len - 1, memory);
}

/* --- checksums ----------------------------------------------------------------------------------------- */

static GByteArray *
repair (const uint8_t *data, size_t bytes)
{
  FuzzInput input;
  GByteArray *repaired;

  fuzz_input_parse (&input, data, bytes, fuzz_target.max_file_bytes);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    if (input.files[i])
      {
        fuzz_fixup_vhd (input.files[i]);
        fuzz_fixup_vhdx (input.files[i]);
        fuzz_fixup_disk (input.files[i]);
      }
  repaired = fuzz_input_pack (&input);
  fuzz_input_clear (&input);
  return repaired;
}

/* What does not fit is cut. */
static size_t
hand_out (Draw *d, GByteArray *records, uint8_t *out, size_t max_bytes)
{
  g_autoptr (GByteArray) result =
      draw (d, 8) ? repair (records->data, records->len) : g_byte_array_ref (records);
  size_t n = MIN (result->len, max_bytes);

  if (n > 0)
    memcpy (out, result->data, n);
  g_byte_array_unref (records);
  return n;
}

size_t
LLVMFuzzerCustomMutator (uint8_t *data, size_t bytes, size_t max_bytes, unsigned seed)
{
  Draw d = { seed * UINT64_C (0x9e3779b97f4a7c15) };
  g_autoptr (GArray) records = read_records (data, bytes);
  g_autoptr (GPtrArray) memory = g_ptr_array_new_with_free_func (g_free);

  if (records->len == 0 || draw (&d, 6) == 0)
    mutate_scripts_more (&d, records, memory);
  else
    for (uint32_t n = 1 + (draw (&d, 3) == 0 ? draw (&d, 4) : 0); n > 0; n--)
      mutate_once (&d, records, memory);
  return hand_out (&d, write_records (records), data, max_bytes);
}

/* All of the one's records, and some of the other's over them. */
size_t
LLVMFuzzerCustomCrossOver (const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes, uint8_t *out,
                           size_t max_bytes, unsigned seed)
{
  Draw d = { seed * UINT64_C (0x9e3779b97f4a7c15) };
  g_autoptr (GArray) records = read_records (a, a_bytes), others = read_records (b, b_bytes);
  uint32_t odds = 1 + draw (&d, 8);

  for (guint i = 0; i < others->len; i++)
    if (draw (&d, odds) == 0)
      g_array_append_val (records, g_array_index (others, FuzzRecord, i));
  return hand_out (&d, write_records (records), out, max_bytes);
}
