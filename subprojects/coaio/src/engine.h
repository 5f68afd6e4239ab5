/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Engines: what carries a request to the kernel and back.
 *
 * An engine has one state per context, used only by the thread that drives the context.  A request lives on
 * the stack of the coroutine that waits for it.
 *
 *   aio_co_preadv () ─▶ submit: queued ─▶ (yields)      serve: one system call for the queue,
 *                        once per loop iteration  ───▶  then every completion enters its coroutine
 */
#ifndef COAIO_ENGINE_H
#define COAIO_ENGINE_H

#include <stdbool.h>
#include <sys/types.h>

#include <coaio/aio.h>

#include "item.h"

#define AIO_N_ENGINES (AIO_ENGINE_IO_URING + 1)

typedef struct AioEngineState AioEngineState;

typedef enum
{
  AIO_REQUEST_READ,
  AIO_REQUEST_WRITE,
  AIO_REQUEST_FDATASYNC,
} AioRequestKind;

/* One system call's worth: at most IOV_MAX elements.  On the stack of the coroutine that waits for it. */
typedef struct AioRequest AioRequest;
struct AioRequest
{
  /* For the engine, zero at first.  The kernel knows the request by this address. */
  uint64_t engine_area[8];
  AioRequest *next; /* in the engine's queue */
  Coroutine *co;    /* the running one, which makes the request */
  ssize_t result;   /* bytes or -errno: short, -EAGAIN and -EINTR are the business of who made the request */
  AioFile *file;
  const struct iovec *iov;
  int niov;
  AioRequestKind kind;
  int64_t offset;
  bool silent; /* for the engine */
};

typedef struct
{
  /* Whether the kernel grants it; asked once. */
  bool (*probe) (void);
  /* NULL when the kernel refuses (limits): requests then go to the thread pool. */
  AioEngineState *(*attach) (AioContext *ctx);
  void (*detach) (AioEngineState *state);
  /* Takes @request into the queue; its coroutine yields next, and goes on when there is a result. */
  void (*submit) (AioEngineState *state, AioRequest *request);
  /* Hands what is queued to the kernel. */
  void (*flush) (AioEngineState *state);
  /* Flushes or finds completions, then resumes the coroutines of some of those, each at the cost of one from the
   * context's budget.  Returns whether there was one. */
  bool (*serve) (AioEngineState *state);
  /* Whether serve () would find completions right now. */
  bool (*has_completions) (AioEngineState *state);
  /* Takes AIO_REQUEST_FDATASYNC too; otherwise that goes to the thread pool. */
  bool has_fdatasync;
} AioEngineOps;

/* Every state begins with its operations. */
struct AioEngineState
{
  const AioEngineOps *ops;
  AioContext *ctx;
};

/* NULL: not built in. */
const AioEngineOps *aio_engine_ops (AioEngine engine);

#ifdef HAVE_LIBAIO
extern const AioEngineOps aio_engine_native;
#endif
#ifdef HAVE_LIBURING
extern const AioEngineOps aio_engine_io_uring;
#endif

#endif
