/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One run of the target. */
#include "fuzz.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "byteorder.h"

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t bytes);

/* g_error () ends in a breakpoint, of which libFuzzer knows nothing: the input would be lost. */
static void
take_trap (int number)
{
  abort ();
}

void
fuzz_run (const uint8_t *data, size_t bytes)
{
  FuzzInput input;

  signal (SIGTRAP, take_trap);
  fuzz_store_reset (&fuzz_target);
  fuzz_input_parse (&input, data, bytes, fuzz_target.max_file_bytes);
  for (unsigned i = 0; i < FUZZ_FILES; i++)
    if (input.files[i])
      fuzz_store_set (i, input.files[i]);
  fuzz_target.run (input.script->len > 0 ? input.script->data : (const uint8_t *)"", input.script->len);
  fuzz_input_clear (&input);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t bytes)
{
  fuzz_run (data, bytes);
  return 0;
}

static void
take (FuzzReader *reader, void *to, size_t bytes)
{
  size_t n = MIN (bytes, (size_t)(reader->end - reader->at));

  memset (to, 0, bytes);
  if (n > 0)
    memcpy (to, reader->at, n);
  reader->at += n;
}

uint8_t
fuzz_u8 (FuzzReader *reader)
{
  uint8_t value;

  take (reader, &value, sizeof value);
  return value;
}

uint16_t
fuzz_u16 (FuzzReader *reader)
{
  Le16 value;

  take (reader, &value, sizeof value);
  return le16_get (value);
}

uint32_t
fuzz_u32 (FuzzReader *reader)
{
  Le32 value;

  take (reader, &value, sizeof value);
  return le32_get (value);
}

uint64_t
fuzz_u64 (FuzzReader *reader)
{
  Le64 value;

  take (reader, &value, sizeof value);
  return le64_get (value);
}

void
fuzz_run_coroutine (void (*entry) (void *opaque), void *opaque)
{
  api_run_sync (fuzz_context (), entry, opaque);
}
