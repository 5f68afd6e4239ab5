/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of vhd-io.  All are asynchronous underneath; a command that waits drives the loop until its own
 * request has ended, so requests started before go on meanwhile.
 */
#include "vhd-io.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "children.h"
#include "output.h"

typedef struct
{
  IoRequestParams params;
  uint8_t *buffer;
  struct iovec iov;
  gint64 start_time; /* µs */
  bool flushing;     /* a write with fua, at its second step */
  bool *ended;       /* whom to tell; NULL: nobody waits */
} Request;

static const char *const names[] = {
  [IO_READ] = "read",
  [IO_WRITE] = "write",
  [IO_WRITE_ZEROES] = "write",
  [IO_DISCARD] = "discard",
};

/* --- telling what happened ------------------------------------------------------------------------------ */

static void
dump (const Request *request)
{
  for (int64_t at = 0; at < request->params.bytes; at += 16)
    {
      int64_t n = MIN (16, request->params.bytes - at);
      printf ("%08" PRIx64 ": ", request->params.offset + at);
      for (int64_t i = 0; i < 16; i++)
        if (i < n)
          printf (" %02x", request->buffer[at + i]);
        else
          printf ("   ");
      printf ("  ");
      for (int64_t i = 0; i < n; i++)
        putchar (isprint (request->buffer[at + i]) ? request->buffer[at + i] : '.');
      putchar ('\n');
    }
}

static void
verify (const Request *request)
{
  const IoRequestParams *params = &request->params;
  int64_t bytes = params->expected_bytes >= 0 ? params->expected_bytes : params->bytes - params->expected_at;
  const uint8_t *found = request->buffer + params->expected_at;
  int64_t at = 0;
  while (at < bytes && found[at] == params->pattern)
    at++;
  if (at == bytes)
    return;
  io_session.failed = true;
  printf ("Pattern verification failed at offset %" PRId64 ", %" PRId64 " bytes\n",
          params->offset + params->expected_at, bytes);
  printf ("first difference at offset %" PRId64 ": found 0x%02x, expected 0x%02x\n",
          params->offset + params->expected_at + at, found[at], (unsigned)params->pattern);
}

static void
print_statistics (const Request *request)
{
  const IoRequestParams *params = &request->params;
  static const char *const past[] = {
    [IO_READ] = "read",
    [IO_WRITE] = "wrote",
    [IO_WRITE_ZEROES] = "wrote",
    [IO_DISCARD] = "discard",
  };
  double seconds = (double)MAX (g_get_monotonic_time () - request->start_time, 1) / G_USEC_PER_SEC;
  double rate = (double)params->bytes / seconds;
  if (params->machine_output)
    {
      printf ("%" PRId64 ",1,%.6f,%.3f,%.3f\n", params->bytes, seconds, rate, 1 / seconds);
      return;
    }
  g_autofree char *amount = format_size_exact ((double)params->bytes);
  g_autofree char *rate_text = format_size_exact (rate);
  printf ("%s %" PRId64 "/%" PRId64 " bytes at offset %" PRId64 "\n", past[params->kind], params->bytes,
          params->bytes, params->offset);
  printf ("%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n", amount, seconds, rate_text, 1 / seconds);
}

/* --- life of a request ---------------------------------------------------------------------------------- */

static void
request_free (Request *request)
{
  tool_buffer_free (request->buffer, (size_t)request->params.bytes);
  g_free (request);
}

static void
request_done (void *opaque, int ret)
{
  Request *request = opaque;
  const IoRequestParams *params = &request->params;
  if (ret == 0 && params->fua && !request->flushing)
    {
      request->flushing = true;
      vhdkit_image_aio_flush (io_session.image, request_done, request);
      return;
    }
  io_session.in_flight--;
  if (ret < 0)
    {
      io_session.failed = true;
      report (io_session.path, "%s of %" PRId64 " bytes at offset %" PRId64 " failed: %s",
              names[params->kind], params->bytes, params->offset, g_strerror (-ret));
    }
  else
    {
      if (params->kind == IO_READ && params->pattern >= 0)
        verify (request);
      if (params->dump)
        dump (request);
      if (!params->quiet)
        print_statistics (request);
    }
  if (request->ended != NULL)
    *request->ended = true;
  request_free (request);
}

/* Fills a buffer to be written; false after a message. */
static bool
fill (const Request *request)
{
  const IoRequestParams *params = &request->params;
  if (params->source == NULL)
    {
      memset (request->buffer, (int)params->pattern, (size_t)params->bytes);
      return true;
    }
  g_autofree char *content = NULL;
  gsize length;
  g_autoptr (GError) error = NULL;
  if (!g_file_get_contents (params->source, &content, &length, &error) || length == 0)
    {
      report (params->source, "%s", error != NULL ? error->message : "nothing to write in it");
      return false;
    }
  for (size_t at = 0; at < (size_t)params->bytes; at += length)
    memcpy (request->buffer + at, content, MIN (length, (size_t)params->bytes - at));
  return true;
}

static bool
prepare (Request *request)
{
  const IoRequestParams *params = &request->params;
  if ((params->kind != IO_READ && params->kind != IO_WRITE) || params->bytes == 0)
    return true;
  request->buffer = tool_buffer_new ((size_t)params->bytes);
  if (request->buffer == NULL)
    {
      report (NULL, "no memory for %" PRId64 " bytes", params->bytes);
      return false;
    }
  request->iov = (struct iovec){ request->buffer, (size_t)params->bytes };
  if (params->kind == IO_READ)
    {
      /* So that bytes a read left out are not taken for zeros. */
      memset (request->buffer, 0xab, (size_t)params->bytes);
      return true;
    }
  return fill (request);
}

static void
start (Request *request)
{
  const IoRequestParams *params = &request->params;
  VhdkitImage *image = io_session.image;
  request->start_time = g_get_monotonic_time ();
  io_session.in_flight++;
  switch (params->kind)
    {
    case IO_READ:
      vhdkit_image_aio_preadv (image, &request->iov, 1, params->offset, request_done, request);
      return;
    case IO_WRITE:
      vhdkit_image_aio_pwritev (image, &request->iov, 1, params->offset, request_done, request);
      return;
    case IO_WRITE_ZEROES:
      vhdkit_image_aio_pwrite_zeroes (image, params->offset, params->bytes, params->may_unmap, request_done,
                                      request);
      return;
    case IO_DISCARD:
      vhdkit_image_aio_discard (image, params->offset, params->bytes, request_done, request);
      return;
    }
}

bool
io_may_change (void)
{
  static enum { NOT_ASKED, MAY, MAY_NOT } answer;

  if (answer == MAY_NOT)
    report (io_session.path, "not changed either");
  else if (answer == NOT_ASKED)
    answer = io_session.break_children
                     || children_check (io_session.image, io_session.path, io_session.ignore_unknown)
                 ? MAY
                 : MAY_NOT;
  return answer == MAY;
}

void
io_request (const IoRequestParams *params)
{
  if (params->kind != IO_READ && !io_may_change ())
    {
      io_session.failed = true;
      return;
    }
  Request *request = g_new0 (Request, 1);
  bool ended = false;
  bool async = params->async || io_session.concurrent;
  request->params = *params;
  request->ended = async ? NULL : &ended;
  if (!prepare (request))
    {
      io_session.failed = true;
      request_free (request);
      return;
    }
  start (request);
  while (!async && !ended)
    vhdkit_context_iterate (tool_context (), true);
}

void
io_drain (void)
{
  while (io_session.in_flight > 0)
    vhdkit_context_iterate (tool_context (), true);
}
