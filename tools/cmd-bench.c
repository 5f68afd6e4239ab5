/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd-img bench: requests of one size at even steps, a number of them in flight.
 *
 * What is measured is the library: everything a request needs is made before the clock starts, and the
 * callback of one request submits the next.
 */
#include "vhd-img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "children.h"

typedef struct
{
  ImageOptions image;
  int64_t count, depth, offset, size, step, pattern, flush_interval;
  bool write, native, no_drain, break_children, ignore_unknown, quiet;
  VhdkitCacheMode cache;
} BenchArgs;

static const BenchArgs defaults = { .count = 75000, .depth = 64, .size = 4096 };

static const OptionDef options[] = {
  OPTIONS_FORMAT (BenchArgs, image),
  { 'c', "count", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (BenchArgs, count),
    "Requests in all; 75000 when not given", 0, INT32_MAX },
  { 'd', "depth", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (BenchArgs, depth),
    "Requests in flight; 64 when not given", 1, 65536 },
  { 's', "buffer-size", "SIZE", OPTION_SIZE, OPTION_MAIN, offsetof (BenchArgs, size),
    "Bytes of a request; 4k when not given", 1, INT32_MAX },
  { 'S', "step-size", "SIZE", OPTION_SIZE, OPTION_MAIN, offsetof (BenchArgs, step),
    "From the start of one request to that of the next; as much as a request when not given" },
  { 'o', "offset", "OFFSET", OPTION_SIZE, OPTION_MAIN, offsetof (BenchArgs, offset),
    "Where the first request starts" },
  { 'w', "write", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (BenchArgs, write), "Write; else read" },
  { 0, "pattern", "BYTE", OPTION_NUMBER, OPTION_MAIN, offsetof (BenchArgs, pattern),
    "What is written; zeros when not given", 0, 255 },
  { 0, "flush-interval", "N", OPTION_NUMBER, OPTION_MAIN, offsetof (BenchArgs, flush_interval),
    "With -w: wait for all requests and flush after every N of them", 1, INT32_MAX },
  { 0, "no-drain", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (BenchArgs, no_drain),
    "Flush without waiting for the requests in flight" },
  { 'n', "native", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (BenchArgs, native),
    "The same as -i native; needs -t none or -t directsync" },
  { 'i', "aio", "ENGINE", OPTION_STRING, OPTION_MAIN, OPTION_AT (BenchArgs, image, aio),
    "I/O engine: threads, native or io_uring" },
  { 't', "cache", "MODE", OPTION_CACHE, OPTION_MAIN, offsetof (BenchArgs, cache),
    "Host cache mode: writeback (default), none, writethrough, directsync, unsafe" },
  { 'q', "quiet", NULL, OPTION_FLAG, OPTION_MAIN, offsetof (BenchArgs, quiet),
    "Accepted for scripts made for qemu-img; the result is printed all the same" },
  OPTIONS_WRITE_CHILDREN (BenchArgs),
  OPTIONS_SHARE (BenchArgs, image),
  OPTIONS_PARENT (BenchArgs, image),
  OPTIONS_TESTING (BenchArgs, image),
  OPTIONS_END,
};

typedef struct Bench Bench;

typedef struct
{
  Bench *bench;
  struct iovec iov;
} Request;

struct Bench
{
  VhdkitImage *image;
  Request *requests;
  Request **idle; /* a stack */
  int64_t n_idle;
  int64_t image_size, size, step;
  int64_t offset;         /* of the next request */
  int64_t left;           /* requests still to be started */
  int64_t done;           /* requests that have ended */
  int64_t flush_interval; /* 0: none */
  int64_t in_flight;      /* requests and flushes */
  bool write, drain;
  bool flush_due; /* with drain: nothing is started before the flush that follows what is in flight */
  int ret;        /* of the first request that failed; nothing is started after it */
};

static void submit (Bench *bench);

static void
flush_done (void *opaque, int ret)
{
  Bench *bench = opaque;
  bench->in_flight--;
  if (ret < 0 && bench->ret == 0)
    bench->ret = ret;
  submit (bench);
}

static void
start_flush (Bench *bench)
{
  bench->flush_due = false;
  bench->in_flight++;
  vhdkit_image_aio_flush (bench->image, flush_done, bench);
}

static void
request_done (void *opaque, int ret)
{
  Request *request = opaque;
  Bench *bench = request->bench;
  bench->in_flight--;
  bench->done++;
  bench->idle[bench->n_idle++] = request;
  if (ret < 0 && bench->ret == 0)
    bench->ret = ret;
  if (bench->flush_interval != 0 && !bench->drain && bench->done % bench->flush_interval == 0)
    start_flush (bench);
  submit (bench);
}

static void
start_request (Bench *bench)
{
  Request *request = bench->idle[--bench->n_idle];
  int64_t offset = bench->offset;
  /* The position goes round at the end of the image; a request that would cross it starts at 0. */
  bench->offset += bench->step;
  if (bench->offset >= bench->image_size)
    bench->offset %= bench->image_size;
  if (bench->offset > bench->image_size - bench->size)
    bench->offset = 0;
  bench->left--;
  bench->in_flight++;
  if (bench->write)
    vhdkit_image_aio_pwritev (bench->image, &request->iov, 1, offset, request_done, request);
  else
    vhdkit_image_aio_preadv (bench->image, &request->iov, 1, offset, request_done, request);
}

static void
submit (Bench *bench)
{
  if (bench->ret < 0)
    return;
  for (;;)
    {
      if (bench->flush_due)
        {
          if (bench->in_flight == 0)
            start_flush (bench);
          return;
        }
      if (bench->left == 0 || bench->n_idle == 0)
        return;
      start_request (bench);
      bench->flush_due =
          bench->flush_interval != 0 && bench->drain && bench->left % bench->flush_interval == 0;
    }
}

static int
run_bench (Bench *bench, const BenchArgs *args, const char *path)
{
  printf ("Sending %" PRId64 " %s requests, %" PRId64 " bytes each, %" PRId64
          " in parallel (starting at offset %" PRId64 ", step size %" PRId64 ")\n",
          args->count, args->write ? "write" : "read", args->size, args->depth, args->offset,
          args->step != 0 ? args->step : args->size);
  if (bench->flush_interval != 0)
    printf ("Sending flush every %" PRId64 " %srequests\n", bench->flush_interval,
            bench->drain ? "" : "undrained ");
  fflush (stdout);

  VhdkitContext *context = tool_context ();
  gint64 start = g_get_monotonic_time ();
  submit (bench);
  while (bench->in_flight > 0)
    vhdkit_context_iterate (context, true);
  gint64 end = g_get_monotonic_time ();
  if (bench->ret < 0)
    {
      report (path, "a request failed: %s", g_strerror (-bench->ret));
      return EXIT_FAILURE;
    }
  printf ("Run completed in %3.3f seconds.\n", (double)(end - start) / G_USEC_PER_SEC);
  return EXIT_SUCCESS;
}

/* Makes requests and buffers, runs, frees them. */
static int
prepare_and_run (VhdkitImage *image, const BenchArgs *args, const char *path)
{
  Bench bench = {
    .image = image,
    .image_size = vhdkit_image_get_size (image),
    .size = args->size,
    .step = args->step != 0 ? args->step : args->size,
    .offset = args->offset,
    .left = args->count,
    .flush_interval = args->flush_interval,
    .write = args->write,
    .drain = !args->no_drain,
  };
  if (bench.size > bench.image_size || bench.offset > bench.image_size - bench.size)
    {
      report (path, "a request of %" PRId64 " bytes at offset %" PRId64 " does not fit in %" PRId64 " bytes",
              bench.size, bench.offset, bench.image_size);
      return EXIT_FAILURE;
    }
  bench.step %= bench.image_size;
  int64_t stride = (bench.size + 4095) / 4096 * 4096;
  size_t buffer_bytes = (size_t)(stride * args->depth);
  uint8_t *buffer = tool_buffer_new (buffer_bytes);
  if (buffer == NULL)
    {
      report (NULL, "no memory for %" PRId64 " requests of %" PRId64 " bytes", args->depth, bench.size);
      return EXIT_FAILURE;
    }
  memset (buffer, (int)args->pattern, buffer_bytes);
  bench.requests = g_new0 (Request, args->depth);
  bench.idle = g_new0 (Request *, args->depth);
  for (int64_t i = args->depth - 1; i >= 0; i--)
    {
      bench.requests[i] = (Request){ &bench, { buffer + i * stride, (size_t)bench.size } };
      bench.idle[bench.n_idle++] = &bench.requests[i];
    }
  int status = run_bench (&bench, args, path);
  g_free (bench.idle);
  g_free (bench.requests);
  tool_buffer_free (buffer, buffer_bytes);
  return status;
}

static const char *
find_contradiction (const BenchArgs *args)
{
  if (args->flush_interval != 0 && !args->write)
    return "--flush-interval needs -w";
  if (args->no_drain && args->flush_interval == 0)
    return "--no-drain needs --flush-interval";
  if (args->native && args->image.aio != NULL && strcmp (args->image.aio, "native") != 0)
    return "-n and -i name different engines";
  return NULL;
}

static int
run (const Command *command, void *opaque, char **operands)
{
  BenchArgs *args = opaque;
  const char *path = operands[0];
  const char *complaint = find_contradiction (args);
  if (complaint != NULL)
    {
      report (NULL, "%s", complaint);
      return EXIT_FAILURE;
    }
  if (args->native)
    args->image.aio = "native";
  VhdkitImage *image = tool_open (path, &args->image, args->write ? VHDKIT_OPEN_RDWR : 0, args->cache);
  if (image == NULL)
    return EXIT_FAILURE;
  tool_print_warnings (image);
  bool may_change =
      !args->write || args->break_children || children_check (image, path, args->ignore_unknown);
  int status = may_change ? prepare_and_run (image, args, path) : EXIT_FAILURE;
  return tool_close_with (status, image, path);
}

const Command cmd_bench = {
  .name = "bench",
  .summary = "measure reading or writing an image",
  .operands = "FILE",
  .description = "Reads (or, with -w, overwrites) an image with requests of one size at even steps, going "
                 "round at its end, "
                 "with a number of them in flight, and prints how long that took. Options and output are "
                 "those of qemu-img "
                 "bench.",
  .options = options,
  .args_size = sizeof (BenchArgs),
  .defaults = &defaults,
  .min_operands = 1,
  .max_operands = 1,
  .run = run,
};
