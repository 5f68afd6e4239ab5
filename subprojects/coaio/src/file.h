/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What engines know of a file. */
#ifndef COAIO_FILE_H
#define COAIO_FILE_H

#include <stdatomic.h>

#include <coaio/aio.h>

#include "engine.h"

struct AioFile
{
  int fd;
  AioEngine engine;
  bool direct;  /* O_DIRECT */
  bool regular; /* has an end that reads stop at */
  bool sync;    /* O_SYNC or O_DSYNC */
  bool memory;  /* on tmpfs or ramfs: no device to wait for */
  /* The file system has said that it does not know RWF_NOWAIT.  Any thread may learn it. */
  atomic_bool no_nowait_read;
  atomic_bool no_nowait_write;
  /* For small writes where nobody says whether they would block: engine-threads.c. */
  _Atomic int64_t write_credit;
  _Atomic int64_t no_inline_write_before; /* aio_clock_ns () */
};

/* The thread pool as an engine; it needs no state.  Results as AioEngineOps.co_submit. */
ssize_t coroutine_fn aio_threads_co_submit (AioContext *ctx, const AioRequest *request);
/* The same, never in this thread. */
ssize_t coroutine_fn aio_threads_co_block (AioContext *ctx, const AioRequest *request);

#endif
