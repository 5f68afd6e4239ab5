/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images for crash and fault tests: a directory for them, making, opening, checking, and the judgement of what
 * a crash has left. */
#ifndef CRASH_IMAGES_H
#define CRASH_IMAGES_H

#include <vhdkit/vhdkit.h>

#include "crash.h"
#include "guest.h"

G_BEGIN_DECLS

/* Prints the seed; the tests of a program follow from it.  VHDKIT_SEED sets it. */
void test_init (int *argc, char ***argv);
/* A generator for the test @name, always the same for the same seed. */
GRand *test_rand (const char *name);
/* The number in the environment variable, or @fallback. */
int64_t test_number (const char *variable, int64_t fallback);

/* A directory in memory, if there is one, where the images of a test are. */
typedef struct
{
  char *dir;
  VhdkitContext *context;
} TestDir;

void test_dir_init (TestDir *dir, const char *name);
/* Removes it, unless the test has failed: then its name is printed. */
void test_dir_clear (TestDir *dir);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (TestDir, test_dir_clear)
char *test_path (const TestDir *dir, const char *name);
/* Notes that the test has failed, and why, and goes on. */
void test_fail (const char *format, ...) G_GNUC_PRINTF (1, 2);

/* --- images -------------------------------------------------------------------------------------------- */

typedef enum
{
  IMAGE_FIXED,
  IMAGE_DYNAMIC, /* differencing, if it has a parent */
  IMAGE_RAW,
} ImageKind;

/* Ends the test if it cannot be made.  @block_size: 0 for kinds that have none. */
void image_make (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes, int64_t block_size,
                 const char *parent);
/* @flags: VhdkitOpenFlags.  @filters: NULL-terminated, or NULL.  NULL and *why on failure. */
VhdkitImage *image_open (const TestDir *dir, const char *name, unsigned flags, const char *const *filters,
                         char **why);
bool image_close (VhdkitImage *image, char **why);
/* Writes random content, and flushes. */
void image_populate (const TestDir *dir, const char *name, GRand *rand, int n, int64_t block_size);
/* What it shows; *bytes its size.  NULL and *why on failure. */
uint32_t *image_values (const TestDir *dir, const char *name, int64_t *bytes, char **why);
/* Clears the bits of sectors of zeros in the bitmaps of a dynamic image, as some other writers leave them. */
void image_clear_bits (const TestDir *dir, const char *name);
/* Makes a dynamic or differencing image one of XenServer's, with a batmap. */
void image_add_batmap (const TestDir *dir, const char *name);

/* NULL, or the errors that a check of the one file finds.  *leaks (may be NULL): how many leaks. */
char *image_check (const TestDir *dir, const char *name, int64_t *leaks);
/* NULL, or the error of the job.  VHDKIT_ERROR_* in *code (may be NULL). */
char *image_commit (const TestDir *dir, const char *leaf, const char *const *filters, int source, int target,
                    bool shrink);
char *image_compact (const TestDir *dir, const char *name, const char *const *filters,
                     VhdkitCompactStats *stats);

/* Filters of a recorded run: a disk with a random order below a log at @trace's path.  Free with
 * g_strfreev (). */
char **recording_filters (const TestDir *dir, const char *log, GRand *rand);

/* --- judgement ----------------------------------------------------------------------------------------- */

/* What is asked of the image at each cut beyond being sound. */
typedef struct
{
  const TestDir *dir;
  const char *name;      /* of the leaf */
  const Guest *guest;    /* what it may show … */
  CrashTrace *trace;
  GRand *rand;
  int64_t block_size;
  int writes_after;      /* of 100 images, so many get new writes after the crash */
  /* After the file was seen to be sound and unchanged by that; NULL: fine.  May be NULL. */
  char *(*look) (void *opaque, const uint32_t *values, int64_t bytes, size_t cut);
  void *opaque;
} CrashJudge;

/* Makes a crash and judges it: NULL, or what is wrong. */
char *crash_judge (const CrashJudge *judge, size_t cut, CrashStrategy strategy);
/* Cuts everywhere, judges; fails the test at the first wrong one.  Returns the number of crashes made. */
int crash_judge_all (const CrashJudge *judge, size_t limit, const char *what);
/* With flush @k ignored: whether one of at most @tries crashes is found to be wrong. */
bool crash_judge_finds (const CrashJudge *judge, size_t k, int tries, char **what);

G_END_DECLS

#endif
