/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fuzz.h"

#include <string.h>

#include "byteorder.h"

/* So many zeros, or other bytes that are all the same, are worth a record of their own. */
#define GAP  32
#define SAME 64
/* Of a record to fill with. */
#define FILL_BYTES   5
#define LONGEST_FILL (4 << 20)
/* Of data that has no gaps. */
#define LONGEST (64 << 10)

typedef struct
{
  uint8_t kind, file;
  Le32 bytes;
  Le64 offset;
} RecordHead;

G_STATIC_ASSERT (sizeof (RecordHead) == FUZZ_RECORD_HEAD);

static bool
is_kind (uint8_t kind)
{
  return kind == FUZZ_LENGTH || kind == FUZZ_DATA || kind == FUZZ_FILL || kind == FUZZ_SCRIPT_PART;
}

bool
fuzz_record_next (const uint8_t *input, size_t bytes, size_t *at, FuzzRecord *record)
{
  RecordHead head;

  while (bytes - *at >= sizeof head && !is_kind (input[*at]))
    ++*at;
  if (bytes - *at < sizeof head)
    return false;
  memcpy (&head, input + *at, sizeof head);
  *at += sizeof head;
  record->kind = head.kind;
  record->file = head.file % FUZZ_FILES;
  record->offset = le64_get (head.offset) & G_MAXINT64;
  record->bytes = record->kind == FUZZ_LENGTH ? 0 : MIN (le32_get (head.bytes), bytes - *at);
  record->payload = input + *at;
  *at += record->bytes;
  return true;
}

void
fuzz_record_append (GByteArray *input, const FuzzRecord *record)
{
  RecordHead head = { record->kind, record->file, le32 (record->bytes), le64 (record->offset) };

  g_byte_array_append (input, (const guint8 *)&head, sizeof head);
  if (record->bytes > 0)
    g_byte_array_append (input, record->payload, record->bytes);
}

static Content *
need_file (FuzzInput *input, unsigned file)
{
  if (!input->files[file])
    input->files[file] = content_new ();
  return input->files[file];
}

static void
take_fill (FuzzInput *input, const FuzzRecord *record, int64_t max_file_bytes)
{
  g_autofree uint8_t *data = NULL;
  int64_t bytes;
  Le32 count;

  if (record->bytes < FILL_BYTES || record->offset >= max_file_bytes)
    return;
  memcpy (&count, record->payload, sizeof count);
  bytes = MIN (MIN (le32_get (count), LONGEST_FILL), max_file_bytes - record->offset);
  data = g_malloc (bytes + 1);
  memset (data, record->payload[4], bytes);
  content_write (need_file (input, record->file), record->offset, bytes, data);
}

static void
take_record (FuzzInput *input, const FuzzRecord *record, int64_t max_file_bytes)
{
  switch (record->kind)
    {
    case FUZZ_LENGTH:
      content_set_length (need_file (input, record->file), MIN (record->offset, max_file_bytes));
      break;
    case FUZZ_DATA:
      if (record->offset < max_file_bytes && record->bytes > 0)
        content_write (need_file (input, record->file), record->offset,
                       MIN (record->bytes, max_file_bytes - record->offset), record->payload);
      break;
    case FUZZ_FILL:
      take_fill (input, record, max_file_bytes);
      break;
    case FUZZ_SCRIPT_PART:
      g_byte_array_append (input->script, record->payload,
                           MIN (record->bytes, FUZZ_SCRIPT - MIN (FUZZ_SCRIPT, input->script->len)));
      break;
    }
}

void
fuzz_input_parse (FuzzInput *input, const uint8_t *data, size_t bytes, int64_t max_file_bytes)
{
  FuzzRecord record;

  *input = (FuzzInput){ .script = g_byte_array_new () };
  for (size_t at = 0; fuzz_record_next (data, bytes, &at, &record);)
    take_record (input, &record, max_file_bytes);
}

void
fuzz_input_clear (FuzzInput *input)
{
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    g_clear_pointer (&input->files[i], content_free);
  g_clear_pointer (&input->script, g_byte_array_unref);
}

/* How many bytes from @from on are the same. */
static size_t
same_length (const uint8_t *data, size_t from, size_t bytes)
{
  size_t at = from + 1;
  uint64_t eight, next;

  /* Eight at a time: MiBs of a log that was never used. */
  memset (&eight, data[from], sizeof eight);
  for (; bytes - at >= sizeof next; at += sizeof next)
    {
      memcpy (&next, data + at, sizeof next);
      if (next != eight)
        break;
    }
  while (at < bytes && data[at] == data[from])
    at++;
  return at - from;
}

/* The bytes from @from on up to where GAP zeros or SAME equal bytes follow. */
static size_t
run_length (const uint8_t *data, size_t from, size_t bytes)
{
  size_t at = from, same;

  for (; at < bytes && at - from < LONGEST; at += same)
    {
      same = same_length (data, at, bytes);
      if (same >= (data[at] == 0 ? GAP : SAME) || (at + same == bytes && data[at] == 0))
        break;
    }
  return at - from;
}

static void
pack_fill (GByteArray *packed, unsigned file, int64_t offset, uint8_t byte, size_t bytes)
{
  uint8_t payload[FILL_BYTES];
  FuzzRecord record = { FUZZ_FILL, file, offset, sizeof payload, payload };
  Le32 count = le32 ((uint32_t)bytes);

  memcpy (payload, &count, sizeof count);
  payload[4] = byte;
  fuzz_record_append (packed, &record);
}

static void
pack_data (GByteArray *packed, unsigned file, int64_t offset, const uint8_t *data, size_t bytes)
{
  size_t n;

  for (size_t at = 0; at < bytes; at += n)
    {
      n = same_length (data, at, bytes);
      if (data[at] == 0)
        continue;
      if (n >= SAME)
        {
          pack_fill (packed, file, offset + (int64_t)at, data[at], n);
          continue;
        }
      n = run_length (data, at, bytes);

      FuzzRecord record = { FUZZ_DATA, file, offset + (int64_t)at, (uint32_t)n, data + at };

      fuzz_record_append (packed, &record);
    }
}

static void
pack_file (GByteArray *packed, unsigned file, const Content *content)
{
  int64_t length = content_length (content), run;
  FuzzRecord record = { FUZZ_LENGTH, file, length, 0, NULL };
  bool data;

  fuzz_record_append (packed, &record);
  for (int64_t at = 0; at < length; at += run)
    {
      run = content_run (content, at, &data);
      if (!data)
        continue;
      run = MIN (run, LONGEST);

      g_autofree uint8_t *buffer = g_malloc (run);

      content_get (content, at, run, buffer);
      pack_data (packed, file, at, buffer, run);
    }
}

GByteArray *
fuzz_input_pack (const FuzzInput *input)
{
  GByteArray *packed = g_byte_array_new ();
  FuzzRecord record = { FUZZ_SCRIPT_PART, 0, 0, input->script->len, input->script->data };

  if (input->script->len > 0)
    fuzz_record_append (packed, &record);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    if (input->files[i])
      pack_file (packed, i, input->files[i]);
  return packed;
}
