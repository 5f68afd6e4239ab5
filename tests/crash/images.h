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

/* How many requests lie between one that fails and the next that is made to: 1, so that each one does once; a short run
 * (VHDKIT_STRIDE) takes up to so many, by chance. */
int test_fault_step (void);

/* Nobody was told of the faults of the filter blkdebug with this id: NULL, or why somebody should have been.  A flush
 * must not fail unheard, nor may a write that was not done again. */
char *fault_swallowed (const char *id);

/* A directory where the images of a test are: in VHDKIT_TEST_DIR, or in memory, if there is one there. */
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
/* What a run starts with: a directory named after the @program, and the generator for the test that @format names. */
void test_begin (TestDir *dir, GRand **rand, const char *program, const char *format, ...)
    G_GNUC_PRINTF (4, 5);
/* Notes that the test has failed, and why, and goes on. */
void test_fail (const char *format, ...) G_GNUC_PRINTF (1, 2);

/* --- images -------------------------------------------------------------------------------------------- */

typedef enum
{
  IMAGE_VHD_FIXED,
  IMAGE_VHD, /* dynamic; differencing, if it has a parent */
  IMAGE_RAW,
  IMAGE_VHDX_FIXED,
  IMAGE_VHDX,    /* dynamic; differencing, if it has a parent */
  IMAGE_VHDX_4K, /* the same with logical sectors of 4096 bytes */
} ImageKind;

/* "vhd fixed" */
const char *image_kind_name (ImageKind kind);
/* "vhd" */
const char *image_kind_format (ImageKind kind);
/* Whether it has blocks that need not be there. */
bool image_kind_is_sparse (ImageKind kind);
/* Of which the disk's size is a multiple. */
int64_t image_kind_sector (ImageKind kind);
/* A kind that a parent of @child, which is sparse, may have. */
ImageKind image_kind_of_parent (ImageKind child, bool fixed);

/* Ends the test if it cannot be made.  @block_size: 0 for kinds that have none. */
void image_make (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes, int64_t block_size,
                 const char *parent);
/* The same, to be filled by image_convert (): until then it is no image. */
void image_make_incomplete (const TestDir *dir, const char *name, ImageKind kind, int64_t bytes,
                            int64_t block_size, const char *parent);
/* @flags: VhdkitOpenFlags.  @filters: NULL-terminated, or NULL.  NULL and *why on failure. */
VhdkitImage *image_open (const TestDir *dir, const char *name, unsigned flags, char **filters, char **why);
bool image_close (VhdkitImage *image, char **why);
/* Writes random content, and flushes.  @ends: as in GuestMix. */
void image_populate (const TestDir *dir, const char *name, GRand *rand, int n, int64_t block_size,
                     int64_t ends);
/* Data in the last sectors of the disk. */
void image_fill_end (const TestDir *dir, const char *name);
/* What it shows.  NULL and *why on failure. */
GuestValues *image_values (const TestDir *dir, const char *name, char **why);
/* The same; ends the test if it cannot be read. */
GuestValues *image_read (const TestDir *dir, const char *name);
/* Puts rubbish where no guest can see it: in the last block behind the end of the disk, and in entries of a VHD's
 * table behind the last in use. */
void image_add_rubbish (const TestDir *dir, const char *name);

/* Of VHD (vhd-image.c). */
/* Clears the bits of sectors of zeros in the bitmaps of a dynamic image, as some other writers leave them. */
void image_clear_bits (const TestDir *dir, const char *name);
/* NULL, or that those who look for a footer at the end alone find none. */
char *image_look_at_end (const TestDir *dir, const char *name);
/* NULL, or where a dynamic image holds data that readers which honour its bitmaps would not see. */
char *image_look_below_bits (const TestDir *dir, const char *name);
/* Of a differencing image: what is stored for sectors that are not present. */
void image_add_rubbish_below_bits (const TestDir *dir, const char *name);
/* A process was killed: @bytes of zeros follow, and a footer at the end behind them.  @bytes 0: no footer at all. */
void image_leave_reserve (const TestDir *dir, const char *name, int64_t bytes);
/* The copy of the footer at offset 0 is damaged. */
void image_damage_copy (const TestDir *dir, const char *name);
/* Makes a dynamic or differencing image one of XenServer's, with a batmap. */
void image_add_batmap (const TestDir *dir, const char *name);
/* There is no footer at the end any more; the copy at offset 0 is good. */
void image_damage_end_footer (const TestDir *dir, const char *name);
/* A change of the parent was interrupted: the header is behind the blocks, with the texts of its locators. */
void image_leave_header_behind (const TestDir *dir, const char *name);
/* NULL, or what is not as in a fresh image: the header is at 512, the footers are the same. */
char *image_look_at_layout (const TestDir *dir, const char *name);
void image_add_rubbish_to_table (const TestDir *dir, const char *name);

/* Of VHDX (vhdx-image.c); none of these changes what the image shows. */
/* Rubbish behind the last structure, as an interrupted run leaves it. */
void image_leave_tail (const TestDir *dir, const char *name, int64_t bytes);
/* One of the two headers (@which 0 or 1) is damaged. */
void image_damage_header (const TestDir *dir, const char *name, int which);
/* One of the two region tables is damaged. */
void image_damage_regions (const TestDir *dir, const char *name, int which);
/* Some blocks that read as zeros in every layer get states that say so and keep space: 1 and 3 with an offset. */
void image_add_anchors (const TestDir *dir, const char *name, GRand *rand);
/* Of a differencing image: some blocks become partially present with no bit set, in space full of rubbish; some
 * whole ones with all bits set.  Those that are partially present get rubbish where they show the parent. */
void image_add_partial (const TestDir *dir, const char *name, GRand *rand);
/* The disk gets another ID, other physical sectors, and an item more. */
void image_set_disk_properties (const TestDir *dir, const char *name, GRand *rand);

/* Makes the first @bytes of the disk, a multiple of 4 KiB, swap space; all but its first 4 KiB are not in use then. */
void image_add_swap (const TestDir *dir, const char *name, int64_t bytes);

/* Notes in *@at where in the log of @trace the next job has ended, before its image is closed. */
void image_note_job_end (const CrashTrace *trace, int64_t *at);
/* NULL, or the errors that a check of the one file finds.  *leaks (may be NULL): how many leaks. */
char *image_check (const TestDir *dir, const char *name, int64_t *leaks);
/* Run the job: NULL, or its error, or that of closing the image after it.  With @reader (may be NULL) a guest reads
 * while the job runs, where @rand says; a wrong answer is an error. */
char *image_commit (const TestDir *dir, const char *leaf, char **filters, int source, int target, bool shrink,
                    bool skip_identical, Guest *reader, GRand *rand);
char *image_convert (const TestDir *dir, const char *source, const char *target, char **filters);
char *image_compact (const TestDir *dir, const char *name, VhdkitCompactOptions options, char **filters,
                     Guest *reader, GRand *rand, VhdkitCompactStats *stats);

/* @parent: NULL for none.  The filters are not put on it. */
char *image_rebase (const TestDir *dir, const char *leaf, const char *parent, char **filters, Guest *reader,
                    GRand *rand);
/* NULL, or why @parent (a name; NULL: none) is not what @name has as its parent. */
char *image_check_parent (const TestDir *dir, const char *name, const char *parent);

/* Filters of a recorded run: a disk with a random order below the log.  Free with g_strfreev (). */
char **recording_filters (const TestDir *dir, const char *log, GRand *rand);
/* Of a run to be recorded there, which may touch the files @names (NULL-terminated). */
CrashTrace *recording_trace (const TestDir *dir, const char *log, const char *const *names);

/* --- judgement ----------------------------------------------------------------------------------------- */

/* What is asked of the files that a crash has left. */
typedef struct
{
  const TestDir *dir;
  CrashTrace *trace;
  GRand *rand;
  const char *name;    /* the leaf of the chain … */
  const Guest *guest;  /* … and what it may show */
  const char *changed; /* the image whose file the run changed */
  int writes_after;    /* of 100 times, so often the leaf is written to after the crash */
  int64_t block_size;  /* for these writes */
  int64_t ends;        /* as in GuestMix */
  bool keeps_footer;   /* a VHD with a good footer at its end, at any time */
  /* Called at last, after the image has been opened for writing and closed; NULL: fine.  May be NULL. */
  char *(*look) (void *opaque);
  void *opaque;
} CrashJudge;

/* Judges the files as they are, for a crash at @at (bytes of the log): NULL, or what is wrong.  Without a trace
 * (NULL), whether a read-only open has changed them is not asked. */
char *crash_judge_files (const CrashJudge *judge, int64_t at);
/* Makes a crash and judges it: NULL, or what is wrong. */
char *crash_judge (const CrashJudge *judge, size_t cut, CrashStrategy strategy, size_t special);
/* About @n crashes, cut at every flush and in between (VHDKIT_CRASH_CUTS: another number); fails the test at
 * the first wrong one. */
void crash_judge_all (const CrashJudge *judge, int n);
/* For short logs: cuts before every record, and there loses none, all, each one, and all but each one.  @n: only
 * about so many crashes, chosen by chance (VHDKIT_CRASH_CUTS: another number); 0: all. */
void crash_judge_every (const CrashJudge *judge, int n);
/* Whether one of at most @tries crashes after flush @k is found to be wrong when the flush is ignored; *why says
 * what was. */
bool crash_judge_finds (const CrashJudge *judge, size_t k, int tries, char **why);

G_END_DECLS

#endif
