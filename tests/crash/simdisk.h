/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filter `simdisk`: a disk whose requests complete in an order that a seed decides.
 *
 * It stands between a file and whatever records requests.  Data goes to the file by plain system calls; no
 * thread has a hand in it, so a run with the same seed is the same run.  A request waits until it is drawn,
 * and takes effect before or after it has waited; a discard zeroes or does nothing.
 */
#ifndef CRASH_SIMDISK_H
#define CRASH_SIMDISK_H

#include <stdbool.h>
#include <stdint.h>

/* Makes the filter known to the library; more than once does no harm. */
void simdisk_register (void);
void simdisk_set_seed (uint32_t seed);

/* Some requests are slow: many others are drawn before them.  While @patient, a slow one waits even if nothing else
 * does, for whoever drives the loop to come with more requests, or to kick. */
void simdisk_set_patient (bool patient);
/* Draws a slow one now; false: there is none. */
bool simdisk_kick (void);

#endif
