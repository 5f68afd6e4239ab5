/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest of fuzz-guest.c: its image, and what it knows the image shows.
 *
 * fuzz-guest-jobs.c has the jobs that change it and what they foresee, fuzz-guest-copy.c those that have a second image.
 */
#ifndef FUZZ_GUEST_H
#define FUZZ_GUEST_H

#include "fuzz.h"

G_BEGIN_DECLS

/* Of an image, its first bytes. */
#define MODEL_BYTES (8 << 20)

typedef struct
{
  VhdkitImage *image;
  bool own;           /* of our making: nothing may fail */
  const char *format; /* of our making: its format … */
  int layers;         /* … and the files of its chain, 0 to layers - 1 */
  bool lost;          /* something failed that may: what the image shows is not known any more */
  bool full;          /* … for lack of room in the file */
  int jobs;
  uint8_t *model;
  int64_t bytes; /* of the model */
} Guest;

/* Whether the request, or what there is @error of, succeeded.  It must, where nothing may fail. */
bool guest_judge (Guest *guest, int ret, const char *what);
bool guest_judge_error (Guest *guest, const GError *error, const char *what);
VhdkitImage *guest_open_file (unsigned file, unsigned flags, GError **error);
/* Closes the image and opens it again with @flags (VhdkitOpenFlags); false: there is none any more. */
bool guest_reopen (Guest *guest, unsigned flags);
/* All that the model has. */
void guest_compare_all (Guest *guest);
void guest_check (Guest *guest, VhdkitImage *image);
/* Runs @job, NULL with @error if it could not be made, and takes @error.  Whether it was done; what a job refuses is not
 * an error. */
bool guest_run_job (Guest *guest, VhdkitJob *job, GError *error, const char *what);

/* --- fuzz-guest-jobs.c --------------------------------------------------------------------------------- */

void guest_compact (Guest *guest, uint8_t flags);
void guest_commit (Guest *guest, uint8_t depth);
void guest_rebase (Guest *guest);
/* Onto the file so called, which may be none that can be a parent. */
void guest_rebase_onto (Guest *guest, uint8_t file);

/* What these would do: nothing changes.  Then, with the bit PLAN_AND_RUN, that they do no more than this. */
#define PLAN_AND_RUN 0x08

void guest_plan_compact (Guest *guest, uint8_t flags);
void guest_plan_commit (Guest *guest, uint8_t depth);
void guest_plan_rebase (Guest *guest, uint8_t file);

/* --- fuzz-guest-copy.c --------------------------------------------------------------------------------- */

/* Converts the image to another one, which must show the same, also to the job that compares; then plants a difference,
 * which that job must find. */
void guest_convert (Guest *guest, FuzzReader *reader);

G_END_DECLS

#endif
