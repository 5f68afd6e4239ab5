/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that knows what it has written, and what it may find after a crash.
 *
 * What stands in a sector is a value: 0 for zeros, GUEST_ODD for bytes nobody wrote, any other for a pattern
 * of value and sector number, so a sector that has strayed is found out.  The guest keeps the history of
 * every sector: when each request began and when a flush had made it durable, in bytes of the crash trace's
 * log.  After a crash a sector must hold the last durable value or one of those asked for since; a discard
 * adds zeros to what is allowed and takes nothing away.
 */
#ifndef CRASH_GUEST_H
#define CRASH_GUEST_H

#include <vhdkit/image.h>

#include "crash.h"

G_BEGIN_DECLS

#define GUEST_SECTOR 512
#define GUEST_ODD    UINT32_MAX
/* As @at: after everything that was completed, without a crash. */
#define GUEST_NOW INT64_MAX

/* One number for each sector of a disk, in pieces; what is zero throughout takes no room. */
typedef struct GuestValues GuestValues;

/* All zeros. */
GuestValues *guest_values_new (int64_t bytes);
void guest_values_free (GuestValues *values);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (GuestValues, guest_values_free)
int64_t guest_values_size (const GuestValues *values);
uint32_t guest_values_get (const GuestValues *values, int64_t sector);
void guest_values_set (GuestValues *values, int64_t sector, uint32_t value);
/* NULL, or the first difference; what one lacks of the other's size is zeros. */
char *guest_values_compare (const GuestValues *found, const GuestValues *expected);

typedef struct Guest Guest;

/* Of a disk that shows @values. */
Guest *guest_new (const GuestValues *values);
void guest_free (Guest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Guest, guest_free)
/* Size now. */
int64_t guest_size (const Guest *guest);
/* The value of a sector now; of a discarded one that nobody has read since, one it may have. */
uint32_t guest_value (const Guest *guest, int64_t sector);

/* The content of a sector. */
void guest_fill (uint8_t *buffer, int64_t sector, uint32_t value);
uint32_t guest_decode (const uint8_t *buffer, int64_t sector);

/* What the image shows.  NULL and *why: a read failed. */
GuestValues *guest_read_image (VhdkitImage *image, char **why);
/* From the beginning on, nobody minds what [@offset, +@bytes) of the disk holds: what it does, zeros, or what @below (may
 * be NULL; shorter or longer than the disk) shows there. */
void guest_set_unused (Guest *guest, int64_t offset, int64_t bytes, const GuestValues *below);
/* NULL, or why an image with @values is not what a crash at @at (bytes of the log) may leave. */
char *guest_check (const Guest *guest, const GuestValues *values, int64_t at);

/* --- requests -------------------------------------------------------------------------------------------- */

/* How likely each request is, relative to the others. */
typedef struct
{
  int write, zeroes, zeroes_unmap, discard, flush, read;
  int zero_data;    /* of 100 written sectors' runs, this many are zeros */
  int old_data;     /* … and this many are what the disk showed at the beginning */
  int max_sectors;  /* of a request */
  int whole_blocks; /* of 100 requests other than reads, this many cover whole blocks */
  int64_t block_size;
  int64_t ends; /* not 0: requests touch only so many bytes at the disk's start and end */
} GuestMix;

typedef struct
{
  VhdkitContext *context;
  VhdkitImage *image;
  Guest *guest;
  CrashTrace *trace; /* NULL: nothing is recorded */
  GRand *rand;
  int depth;          /* requests in flight */
  bool write_through; /* every request is durable when it has completed */
  bool may_fail;      /* errors are counted, else they end the test */
  int errors;         /* requests that failed */
  int first_error;    /* -errno */
  char *wrong;        /* NULL, or what a read gave that it may not give */

  /* Private. */
  GPtrArray *in_flight;
} GuestRun;

/* @n random requests, @run->depth of them at a time; returns when all are done.  They do not overlap each other, but
 * for some reads, which may then give anything the sectors ever had. */
void guest_run (GuestRun *run, const GuestMix *mix, int n);
/* Random requests in flight while the disk grows.  false: it did not, with @error. */
bool guest_grow (GuestRun *run, const GuestMix *mix, int n, int64_t bytes, GError **error);
/* A flush; everything completed before is durable after it.  0 or -errno. */
int guest_flush (GuestRun *run);
/* The image has been closed, which makes all durable. */
void guest_closed (GuestRun *run);
void guest_run_clear (GuestRun *run);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (GuestRun, guest_run_clear)

G_END_DECLS

#endif
