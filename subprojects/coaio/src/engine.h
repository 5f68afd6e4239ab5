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

/* One system call's worth: at most IOV_MAX elements. */
typedef struct
{
  AioFile *file;
  Coroutine *co; /* the running one, which makes the request */
  AioRequestKind kind;
  int niov;
  int64_t offset;
  const struct iovec *iov;
} AioRequest;

typedef struct
{
  /* Whether the kernel grants it; asked once. */
  bool (*probe) (void);
  /* NULL when the kernel refuses (limits): requests then go to the thread pool. */
  AioEngineState *(*attach) (AioContext *ctx);
  void (*detach) (AioEngineState *state);
  /* Carries @request out in the running coroutine; yields.  Returns the kernel's answer: bytes or -errno;
   * short transfers, -EAGAIN and -EINTR are the caller's business. */
  ssize_t coroutine_fn (*co_submit) (AioEngineState *state, const AioRequest *request);
  /* Hands what is queued to the kernel. */
  void (*flush) (AioEngineState *state);
  /* Flushes, then resumes the coroutines of completed requests, each at the cost of one from the context's
   * budget.  Returns whether there was one. */
  bool (*serve) (AioEngineState *state);
  /* Whether serve () would find completions right now. */
  bool (*has_completions) (AioEngineState *state);
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
