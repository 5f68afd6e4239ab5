/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the public API: what is behind the opaque handles, and the two ways every call takes into a
 * coroutine.
 *
 * A synchronous call goes through api_run_sync (), an asynchronous one through an ApiRequest and the
 * context's list of completed requests.  Callbacks of the host are never called inside of a coroutine: it
 * may make synchronous calls from them.
 */
#ifndef BLOCK_API_H
#define BLOCK_API_H

#include <sys/stat.h>

#include <glib.h>

/* What the library exports is what the public headers declare. */
#pragma GCC visibility push(default)
#include <vhdkit/error.h>
#include <vhdkit/image.h>
#include <vhdkit/job.h>
#pragma GCC visibility pop

#include "block.h"

/* One asynchronous request, from its call to its callback. */
typedef struct ApiRequest ApiRequest;

struct VhdkitContext
{
  AioContext *aio;
  AioBH *completion_bh;
  ApiRequest *completed_head, *completed_tail; /* done, callback still to be called; first in, first out */
  ApiRequest *free_requests;                   /* kept for reuse */
  bool completing;                             /* a callback is running */
};

struct VhdkitImage
{
  VhdkitContext *context;
  BlockDriverState *bs;
  bool write_through; /* every write is durable on return */
  char *confine;      /* as it was opened, for looking at other files later */
  char **drive_map;
  char **filters;
  int jobs;    /* jobs that run on it: no writes meanwhile */
  int changes; /* writes and the like under way: no job begins before their end */
  CoQueue changes_ended;
};

/* @context, or the calling thread's own for NULL. */
VhdkitContext *api_context_resolve (VhdkitContext *context, GError **error);
/* aio_poll (), and the callbacks that an outer callback of this thread holds up. */
bool no_coroutine_fn api_poll (VhdkitContext *context, bool blocking);
/* Runs @entry (@opaque) as a coroutine of @context until it yields for the first time. */
void no_coroutine_fn api_start_coroutine (VhdkitContext *context, CoroutineEntry *entry, void *opaque);
/* Runs @entry (@opaque) as a coroutine of @context and drives the context until it has ended. */
void no_coroutine_fn api_run_sync (VhdkitContext *context, CoroutineEntry *entry, void *opaque);

/* Around whatever changes @image and is not a job. */
void api_change_begin (VhdkitImage *image);
void api_change_end (VhdkitImage *image);
/* Waits for those under way; new ones are refused by then. */
void coroutine_fn api_co_changes_end (VhdkitImage *image);

/* Moves an option struct of a caller compiled against another version into ours: what it lacks is zero,
 * what we lack must be zero.  Both begin with size_t struct_size; @source may be NULL for all defaults. */
bool api_copy_options (void *options, size_t size, const void *source, const char *type, GError **error);
/* Of such a struct that has them: the reserved members (@n, from @reserved on) are zero. */
bool api_check_reserved (const bool *reserved, size_t n, const char *type, GError **error);

/* BdrvOpenFlags for VhdkitOpenFlags. */
bool api_open_flags (unsigned flags, int *bdrv_flags, GError **error);
bool api_same_host_file (const struct stat *a, const struct stat *b);
/* The layer of @bs's chain whose container is @file, or -1. */
int api_find_layer (BlockDriverState *bs, const struct stat *file);

struct ApiRequest
{
  ApiRequest *next;
  VhdkitImage *image;
  int op;
  int64_t offset, bytes;
  IoVector qiov;
  int ret;
  VhdkitIoCallback callback;
  void *opaque;
};

ApiRequest *api_request_new (VhdkitContext *context);
/* Calls request->callback with request->ret from the loop, soon, and takes the request back. */
void api_request_complete (VhdkitContext *context, ApiRequest *request);

#endif
