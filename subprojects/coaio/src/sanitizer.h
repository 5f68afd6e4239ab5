/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which tools watch this build, and what they want to be told. */
#ifndef COAIO_SANITIZER_H
#define COAIO_SANITIZER_H

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define COAIO_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define COAIO_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define COAIO_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define COAIO_TSAN 1
#endif

#ifdef COAIO_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
/* The code that switches has its locals on the real stack, or the fake one would go while it is in use. */
#define CO_NO_SANITIZE __attribute__ ((no_sanitize_address))
#else
#define CO_NO_SANITIZE
#endif

/* GLib is not instrumented, so what its locks and reference counts order has to be said once more.  @address
 * names the order: what happened before a release is seen after an acquire. */
#ifdef COAIO_TSAN
#include <sanitizer/tsan_interface.h>
#define CO_TSAN_ACQUIRE(address) __tsan_acquire (address)
#define CO_TSAN_RELEASE(address) __tsan_release (address)
#else
#define CO_TSAN_ACQUIRE(address) ((void)0)
#define CO_TSAN_RELEASE(address) ((void)0)
#endif

#ifdef HAVE_VALGRIND
#include <valgrind/memcheck.h>
#include <valgrind/valgrind.h>
#endif

#endif
