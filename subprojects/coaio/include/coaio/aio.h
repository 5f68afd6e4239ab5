/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * AioContext: an event loop that coroutines live in, and the asynchronous I/O engines behind it.
 *
 * A context *is* a GSource, so any GLib main loop drives it; it is also one pollable file descriptor for
 * hosts with another loop, and can be driven by hand with aio_poll ().  Inside, everything a context waits
 * for (descriptors, timers, completions, calls from other threads) hangs on one epoll descriptor.
 *
 * Thread rule: a context is driven by one thread at a time.  Functions marked [any thread] may be called
 * from anywhere; all others only from the thread that drives the context (or before it runs).
 */
#ifndef COAIO_AIO_H
#define COAIO_AIO_H

#include <coaio/coroutine.h>
#include <coaio/iov.h>

G_BEGIN_DECLS

/* --- contexts ------------------------------------------------------------------------------------------ */

/* NULL with @error (G_FILE_ERROR) when descriptors run out.  Free with aio_context_unref (). */
AioContext *aio_context_new (GError **error);
AioContext *aio_context_ref (AioContext *ctx); /* [any thread] */
void aio_context_unref (AioContext *ctx);      /* [any thread] */

/* The context as a source, not yet attached; borrowed.  g_source_attach () it to drive it from GLib. */
GSource *aio_context_get_source (AioContext *ctx);
/* Readable when aio_poll (ctx, false) would do something.  Borrowed. */
int aio_context_get_fd (AioContext *ctx);
/* Runs what is ready; with @blocking, waits until at least one thing was.  Returns whether anything ran.
 * May be nested, not called from a coroutine. */
bool no_coroutine_fn aio_poll (AioContext *ctx, bool blocking);

/* The context that this thread drives right now, else the thread's default set with
 * aio_context_push (), else NULL. */
AioContext *aio_context_get_current (void);
/* Makes @ctx the current context of this thread outside of dispatch (for entering coroutines from plain
 * code).  Nest and balance with pop. */
void aio_context_push (AioContext *ctx);
void aio_context_pop (AioContext *ctx);

/* --- coroutines and contexts --------------------------------------------------------------------------- */

/* Enter @co in @ctx, soon; wakes the loop.  [any thread] */
void aio_co_schedule (AioContext *ctx, Coroutine *co);
/* Resume a coroutine that has yielded, in its own context: at once when called outside of any coroutine in
 * the thread that drives that context, else soon.  [any thread] */
void aio_co_wake (Coroutine *co);
/* Move the running coroutine to @ctx: it goes on in the thread that drives @ctx. */
void coroutine_fn aio_co_reschedule_self (AioContext *ctx);
/* Sleep; nanoseconds. */
void coroutine_fn co_sleep_ns (int64_t ns);

/* --- bottom halves, timers, descriptors ---------------------------------------------------------------- */

typedef void AioCallback (void *opaque);

/* Call @callback (@opaque) once in @ctx, soon.  [any thread] */
void aio_bh_schedule_oneshot (AioContext *ctx, AioCallback *callback, void *opaque);

typedef struct AioBH AioBH;
/* A reusable bottom half; idle at first. */
AioBH *aio_bh_new (AioContext *ctx, AioCallback *callback, void *opaque);
void aio_bh_schedule (AioBH *bh); /* [any thread]; scheduling twice before it ran runs it once */
void aio_bh_cancel (AioBH *bh);
void aio_bh_delete (AioBH *bh);

typedef struct AioTimer AioTimer;
AioTimer *aio_timer_new (AioContext *ctx, AioCallback *callback, void *opaque);
/* Fire once at @deadline_ns of CLOCK_MONOTONIC; replaces an earlier deadline. */
void aio_timer_mod (AioTimer *timer, int64_t deadline_ns);
void aio_timer_del (AioTimer *timer);
void aio_timer_free (AioTimer *timer);
int64_t aio_clock_ns (void); /* CLOCK_MONOTONIC, [any thread] */

/* Watch @fd; a NULL callback does not watch that direction, two NULLs forget the descriptor (before it is closed).
 * To watch what cannot be watched (a closed descriptor, a regular file) is a mistake that ends the process. */
void aio_set_fd_handler (AioContext *ctx, int fd, AioCallback *io_read, AioCallback *io_write, void *opaque);

/* --- engines -------------------------------------------------------------------------------------------- */

typedef enum
{
  AIO_ENGINE_THREADS,  /* a bounded thread pool; what the page cache can do at once is done inline */
  AIO_ENGINE_NATIVE,   /* Linux AIO (libaio); truly asynchronous with O_DIRECT only */
  AIO_ENGINE_IO_URING, /* when built with liburing */
} AioEngine;

/* Whether @engine was built in and the kernel grants it.  [any thread] */
bool aio_engine_available (AioEngine engine);
/* "threads", "native", "io_uring". */
const char *aio_engine_name (AioEngine engine);
bool aio_engine_from_name (const char *name, AioEngine *engine);

/* An open descriptor with the engine that serves it.  Any context may issue requests on it; each context
 * has its own queues.  Requests of one context are submitted in batches, once per loop iteration. */
typedef struct AioFile AioFile;

/* @fd stays the caller's and must outlive the AioFile. */
AioFile *aio_file_new (int fd, AioEngine engine);
void aio_file_free (AioFile *file); /* no request may be in flight */
int aio_file_get_fd (const AioFile *file);

/* Read or write the slice [@qiov_offset, +@bytes) of @qiov at file offset @offset (bytes).  Short transfers
 * are continued, EAGAIN is queued, EINTR repeated: none is reported.  Returns @bytes, fewer only for a read
 * that met the end of the file, or -errno (part of a failed write may have happened). */
ssize_t coroutine_fn aio_co_preadv (AioFile *file, int64_t offset, const IoVector *qiov, size_t qiov_offset,
                                    size_t bytes);
ssize_t coroutine_fn aio_co_pwritev (AioFile *file, int64_t offset, const IoVector *qiov, size_t qiov_offset,
                                     size_t bytes);
/* fdatasync: 0 or -errno. */
int coroutine_fn aio_co_fdatasync (AioFile *file);

/* Runs @func (@opaque) in the thread pool and returns what it returned; for calls that may block
 * (fallocate, ftruncate, ioctl, open). */
typedef int AioWorkFunc (void *opaque);
int coroutine_fn aio_co_run_in_thread (AioWorkFunc *func, void *opaque);

G_END_DECLS

#endif
