/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Contexts: the event loop a host drives, synchronous calls inside of it, and the list of completed
 * requests whose callbacks are due.
 *
 * A request that ends goes to the end of context->completed and one bottom half calls all callbacks, so a
 * callback never runs before the call that started its request has returned, and never inside a coroutine.
 * A callback may drive the context itself; what waits behind it is then called from there (api_poll).
 */
#include "api.h"

#include <string.h>

static void
run_completions (void *opaque)
{
  VhdkitContext *context = opaque;
  bool outer = context->completing;

  context->completing = true;
  while (context->completed_head != NULL)
    {
      ApiRequest *request = context->completed_head;
      VhdkitIoCallback callback = request->callback;
      void *callback_opaque = request->opaque;
      int ret = request->ret;

      context->completed_head = request->next;
      if (context->completed_head == NULL)
        context->completed_tail = NULL;
      request->next = context->free_requests;
      context->free_requests = request;
      callback (callback_opaque, ret);
    }
  context->completing = outer;
}

VhdkitContext *
vhdkit_context_new (GError **error)
{
  AioContext *aio = aio_context_new (error);
  if (aio == NULL)
    return NULL;

  VhdkitContext *context = g_new0 (VhdkitContext, 1);
  context->aio = aio;
  context->completion_bh = aio_bh_new (aio, run_completions, context);
  return context;
}

void
vhdkit_context_free (VhdkitContext *context)
{
  if (context == NULL)
    return;
  while (context->free_requests != NULL)
    {
      ApiRequest *request = context->free_requests;
      context->free_requests = request->next;
      g_free (request);
    }
  aio_bh_delete (context->completion_bh);
  aio_context_unref (context->aio);
  g_free (context);
}

GSource *
vhdkit_context_get_source (VhdkitContext *context)
{
  return aio_context_get_source (context->aio);
}

int
vhdkit_context_get_fd (VhdkitContext *context)
{
  return aio_context_get_fd (context->aio);
}

bool
vhdkit_context_iterate (VhdkitContext *context, bool may_block)
{
  return api_poll (context, may_block);
}

static void
free_thread_context (void *context)
{
  vhdkit_context_free (context);
}

VhdkitContext *
api_context_resolve (VhdkitContext *context, GError **error)
{
  static GPrivate thread_context = G_PRIVATE_INIT (free_thread_context);

  if (context != NULL)
    return context;
  context = g_private_get (&thread_context);
  if (context == NULL)
    {
      context = vhdkit_context_new (error);
      if (context != NULL)
        g_private_set (&thread_context, context);
    }
  return context;
}

bool
api_poll (VhdkitContext *context, bool blocking)
{
  if (context->completing && context->completed_head != NULL)
    {
      run_completions (context);
      return true;
    }
  return aio_poll (context->aio, blocking);
}

void
api_start_coroutine (VhdkitContext *context, CoroutineEntry *entry, void *opaque)
{
  Coroutine *co = coroutine_new (entry, opaque);

  /* In a callback of the loop it is current already. */
  if (aio_context_get_current () == context->aio)
    {
      coroutine_enter (co);
      return;
    }
  aio_context_push (context->aio);
  coroutine_enter (co);
  aio_context_pop (context->aio);
}

typedef struct
{
  CoroutineEntry *entry;
  void *opaque;
  bool done;
} SyncCall;

static void coroutine_fn
sync_call_entry (void *opaque)
{
  SyncCall *call = opaque;

  call->entry (call->opaque);
  call->done = true;
}

void
api_run_sync (VhdkitContext *context, CoroutineEntry *entry, void *opaque)
{
  SyncCall call = { .entry = entry, .opaque = opaque };

  api_start_coroutine (context, sync_call_entry, &call);
  while (!call.done)
    api_poll (context, true);
}

bool
api_copy_options (void *options, size_t size, const void *source, const char *type, GError **error)
{
  memset (options, 0, size);
  if (source == NULL)
    return true;

  size_t source_size;
  memcpy (&source_size, source, sizeof source_size);
  /* A struct so large comes from a member that was never set. */
  if (source_size < sizeof (size_t) || source_size > 65536)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_INVALID_ARGUMENT, "%s: struct_size is %zu, expected %zu",
                   type, source_size, size);
      return false;
    }
  for (size_t i = size; i < source_size; i++)
    if (((const uint8_t *)source)[i] != 0)
      {
        g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                     "%s: an option at byte %zu is set that this version of the library does not have", type,
                     i);
        return false;
      }
  memcpy (options, source, MIN (size, source_size));
  return true;
}

bool
api_check_reserved (const bool *reserved, size_t n, const char *type, GError **error)
{
  for (size_t i = 0; i < n; i++)
    if (((const uint8_t *)reserved)[i] != 0)
      {
        g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                     "%s: an option is set that this version of the library does not have", type);
        return false;
      }
  return true;
}

ApiRequest *
api_request_new (VhdkitContext *context)
{
  ApiRequest *request = context->free_requests;

  if (request == NULL)
    return g_new0 (ApiRequest, 1);
  context->free_requests = request->next;
  request->next = NULL;
  return request;
}

void
api_request_complete (VhdkitContext *context, ApiRequest *request)
{
  request->next = NULL;
  if (context->completed_tail != NULL)
    context->completed_tail->next = request;
  else
    context->completed_head = request;
  context->completed_tail = request;
  aio_bh_schedule (context->completion_bh);
}
