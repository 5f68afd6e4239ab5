/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzz targets stand on.
 *
 * An input is a list of records (input.c), from which come the files of a run, as sparse contents in memory, and a
 * script of bytes that each target reads in its own way.  What is no record is passed over, so any bytes are an input.
 *
 * Files have names, FUZZ_FILES of them, in a directory of the process's own: they are there, empty, so that names,
 * locks and identities are those of real files.  The filter "fuzzmem" (store.c), between such a file and its format,
 * puts the content in memory in their place, counts what is done, and ends the process where that is out of all
 * proportion: a hostile image must not cost more than it is worth.
 *
 * Programs: fuzz-NAME replays files (main.c), and is in every build; with -Dfuzz=true libfuzzer-NAME is made as well,
 * with a mutator that knows the records and repairs checksums (mutate.c, fixup.c).
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vhdkit/vhdkit.h>

#include "../crash/content.h"

G_BEGIN_DECLS

#define FUZZ_FILES 8
/* A file that no input brings. */
#define FUZZ_COPY   FUZZ_FILES
#define FUZZ_SCRIPT 65536
/* Files do not get longer than this by being written to. */
#define FUZZ_MAX_WRITTEN (INT64_C (192) << 20)

typedef struct
{
  const char *name;
  int64_t max_file_bytes; /* longer files of an input are cut */
  int64_t max_requests;   /* to its files, of a run */
  int64_t max_bytes;      /* read and written, likewise */
  void (*run) (const uint8_t *script, size_t bytes);
} FuzzTarget;

/* The one of the program. */
extern const FuzzTarget fuzz_target;

/* --- input.c ------------------------------------------------------------------------------------------- */

typedef enum
{
  FUZZ_LENGTH = 'L', /* the file is there, @offset bytes long */
  FUZZ_DATA = 'D',   /* the payload stands at @offset of the file */
  FUZZ_FILL = 'F',   /* so many bytes (le32) at @offset are all the same (one byte) */
  FUZZ_SCRIPT_PART = 'S',
} FuzzRecordKind;

/* On disk: kind, file, le32 length of the payload, le64 offset; then the payload. */
#define FUZZ_RECORD_HEAD 14

typedef struct
{
  FuzzRecordKind kind;
  unsigned file;
  int64_t offset;
  uint32_t bytes;
  const uint8_t *payload; /* borrowed from the input */
} FuzzRecord;

/* The record at *@at or behind it; false: there is none any more.  Moves *@at behind it. */
bool fuzz_record_next (const uint8_t *input, size_t bytes, size_t *at, FuzzRecord *record);
void fuzz_record_append (GByteArray *input, const FuzzRecord *record);

/* What an input says. */
typedef struct
{
  Content *files[FUZZ_FILES]; /* NULL: not there */
  GByteArray *script;
} FuzzInput;

/* Files are cut at @max_file_bytes. */
void fuzz_input_parse (FuzzInput *input, const uint8_t *data, size_t bytes, int64_t max_file_bytes);
void fuzz_input_clear (FuzzInput *input);
/* The same as records; runs of zeros take no room. */
GByteArray *fuzz_input_pack (const FuzzInput *input);

/* --- store.c ------------------------------------------------------------------------------------------- */

/* The context of all runs. */
VhdkitContext *fuzz_context (void);
/* Absolute; of a file of the run, whether the input has it or not. */
const char *fuzz_path (unsigned file);
/* For VhdkitOpenOptions. */
extern const char *const fuzz_filters[];

/* The content of a file of the run.  Setting takes a copy; cheap, pages are shared until they change. */
const Content *fuzz_store_get (unsigned file);
void fuzz_store_set (unsigned file, const Content *content);
/* All empty, nothing counted, nothing may be written. */
void fuzz_store_reset (const FuzzTarget *target);
/* From now on the files may be written to, or not: then a write ends the process. */
void fuzz_store_set_writable (bool writable);
/* Keeps what of each file is not read from now on out of fuzz_store_seen (): to make small seeds. */
void fuzz_store_watch (void);
/* @content, of which only what was read is left. */
Content *fuzz_store_seen (unsigned file, const Content *content);

/* --- harness.c ----------------------------------------------------------------------------------------- */

/* One run. */
void fuzz_run (const uint8_t *data, size_t bytes);
/* Numbers from a script: the next one, 0 when there is none left. */
typedef struct
{
  const uint8_t *at, *end;
} FuzzReader;

uint8_t fuzz_u8 (FuzzReader *reader);
uint16_t fuzz_u16 (FuzzReader *reader);
uint32_t fuzz_u32 (FuzzReader *reader);
uint64_t fuzz_u64 (FuzzReader *reader);
/* A coroutine of the context, waited for. */
void fuzz_run_coroutine (void (*entry) (void *opaque), void *opaque);

/* --- fixup.c, fixup-fs.c --------------------------------------------------------------------------------- */

/* Repairs the checksums of what stands where such structures stand. */
void fuzz_fixup_vhd (Content *file);
void fuzz_fixup_vhdx (Content *file);
void fuzz_fixup_disk (Content *file);

G_END_DECLS

#endif
