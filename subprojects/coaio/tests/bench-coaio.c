/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What coroutines and the loop cost: one JSON object per line.
 *
 * Every request rate stands beside that of a plain loop over the same kernel interface, at the same depth, on the
 * same file, measured alternately in many short runs.  The rates are the best ones; "best_ratio" is ours to
 * theirs, which says most where the processor is the limit; "ratio" is the median of the pairs of runs, which says
 * most where a disk is.
 *
 *   bench-coaio [ENGINE [FILE]]     all engines, on a file in memory; else FILE is overwritten
 */
#include "coaio-config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <coaio/coaio.h>

#ifdef HAVE_LIBAIO
#include <libaio.h>
#endif
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#define FILE_BYTES  (INT64_C (256) << 20)
#define BLOCK       4096
#define MAX_DEPTH   32
#define RUNS        41
#define RUN_NS      (25 * INT64_C (1000000))
#define CLOCK_EVERY 64

static char *buffers;

static int64_t
random_offset (uint32_t *state)
{
  *state = *state * 1664525 + 1013904223;
  return (int64_t)((uint64_t)*state * (FILE_BYTES / BLOCK) >> 32) * BLOCK;
}

/* Counts requests and says when a run is over, without asking the clock each time. */
typedef struct
{
  int64_t begin, end;
  int64_t n;
  bool over;
} Meter;

static void
meter_start (Meter *meter)
{
  *meter = (Meter){ .begin = aio_clock_ns () };
}

static inline bool
meter_count (Meter *meter)
{
  if (++meter->n % CLOCK_EVERY == 0)
    {
      meter->end = aio_clock_ns ();
      meter->over = meter->end - meter->begin >= RUN_NS;
    }
  return !meter->over;
}

static double
meter_rate (const Meter *meter)
{
  return (double)meter->n * 1e9 / (double)(meter->end - meter->begin);
}

/* --- coroutines ----------------------------------------------------------------------------------------- */

static void coroutine_fn
switch_forever (void *opaque)
{
  while (!*(bool *)opaque)
    coroutine_yield ();
}

static void coroutine_fn
do_nothing (void *opaque)
{
}

static void
bench_coroutines (void)
{
  double enter_rate = 0, new_rate = 0;

  for (int run = 0; run < RUNS; run++)
    {
      bool stop = false;
      Coroutine *co = coroutine_new (switch_forever, &stop);
      Meter meter;

      meter_start (&meter);
      do
        coroutine_enter (co);
      while (meter_count (&meter));
      enter_rate = MAX (enter_rate, meter_rate (&meter));
      stop = true;
      coroutine_enter (co);

      meter_start (&meter);
      do
        coroutine_enter (coroutine_new (do_nothing, NULL));
      while (meter_count (&meter));
      new_rate = MAX (new_rate, meter_rate (&meter));
    }
  /* Entering and yielding are two switches. */
  printf ("{\"bench\": \"switch\", \"per_second\": %.0f, \"ns\": %.2f}\n", 2 * enter_rate,
          0.5e9 / enter_rate);
  printf ("{\"bench\": \"new-enter-end\", \"per_second\": %.0f, \"ns\": %.2f}\n", new_rate, 1e9 / new_rate);
}

/* --- ours ----------------------------------------------------------------------------------------------- */

typedef struct
{
  AioFile *file;
  Meter *meter;
  int *n_running;
  char *buffer;
  uint32_t random;
} Reader;

static void coroutine_fn
read_until_over (void *opaque)
{
  Reader *reader = opaque;
  IoVector qiov;

  io_vector_init_buf (&qiov, reader->buffer, BLOCK);
  do
    {
      ssize_t ret = aio_co_preadv (reader->file, random_offset (&reader->random), &qiov, 0, BLOCK);

      assert (ret == BLOCK);
    }
  while (meter_count (reader->meter));
  --*reader->n_running;
}

static double
run_ours (int fd, AioEngine engine, int depth)
{
  AioContext *ctx = aio_context_new (NULL);
  AioFile *file = aio_file_new (fd, engine);
  Reader readers[MAX_DEPTH];
  Meter meter;
  int n_running = depth;

  aio_context_push (ctx);
  meter_start (&meter);
  for (int i = 0; i < depth; i++)
    {
      readers[i] = (Reader){ file, &meter, &n_running, buffers + i * BLOCK, (uint32_t)i * 7919 + 1 };
      aio_co_schedule (ctx, coroutine_new (read_until_over, &readers[i]));
    }
  while (n_running > 0)
    aio_poll (ctx, true);
  aio_context_pop (ctx);
  aio_file_free (file);
  aio_context_unref (ctx);
  return meter_rate (&meter);
}

/* --- theirs --------------------------------------------------------------------------------------------- */

static double
run_plain_threads (int fd, int depth)
{
  uint32_t random = 1;
  Meter meter;

  meter_start (&meter);
  do
    {
      ssize_t ret = pread (fd, buffers + meter.n % depth * BLOCK, BLOCK, random_offset (&random));

      assert (ret == BLOCK);
    }
  while (meter_count (&meter));
  return meter_rate (&meter);
}

#ifdef HAVE_LIBAIO
static double
run_plain_native (int fd, int depth)
{
  io_context_t kernel = NULL;
  struct iocb iocbs[MAX_DEPTH], *batch[MAX_DEPTH];
  struct io_event events[MAX_DEPTH];
  uint32_t random = 1;
  int n = depth;
  Meter meter;

  if (io_setup (depth, &kernel) < 0)
    return 0;
  for (int i = 0; i < depth; i++)
    batch[i] = &iocbs[i];
  meter_start (&meter);
  do
    {
      int ret;

      for (int i = 0; i < n; i++)
        io_prep_pread (batch[i], fd, buffers + (batch[i] - iocbs) * BLOCK, BLOCK, random_offset (&random));
      ret = io_submit (kernel, n, batch);
      assert (ret == n);
      n = io_getevents (kernel, 1, depth, events, NULL);
      for (int i = 0; i < n; i++)
        {
          assert (events[i].res == BLOCK);
          batch[i] = events[i].obj;
          meter_count (&meter);
        }
    }
  while (!meter.over);
  io_destroy (kernel);
  return meter_rate (&meter);
}
#endif

#ifdef HAVE_LIBURING
static double
run_plain_uring (int fd, int depth)
{
  struct io_uring ring;
  struct io_uring_cqe *cqe;
  uint32_t random = 1;
  Meter meter;
  char *ready[MAX_DEPTH];
  int n = depth, in_flight = 0;

  if (io_uring_queue_init (MAX_DEPTH, &ring, 0) < 0)
    return 0;
  for (int i = 0; i < depth; i++)
    ready[i] = buffers + i * BLOCK;
  meter_start (&meter);
  do
    {
      for (int i = 0; i < n; i++)
        {
          struct io_uring_sqe *sqe = io_uring_get_sqe (&ring);

          io_uring_prep_read (sqe, fd, ready[i], BLOCK, random_offset (&random));
          io_uring_sqe_set_data (sqe, ready[i]);
        }
      in_flight += n;
      io_uring_submit_and_wait (&ring, 1);
      for (n = 0; io_uring_peek_cqe (&ring, &cqe) == 0; n++)
        {
          assert (cqe->res == BLOCK);
          ready[n] = io_uring_cqe_get_data (cqe);
          io_uring_cqe_seen (&ring, cqe);
          in_flight--;
          meter_count (&meter);
        }
    }
  while (!meter.over);
  for (; in_flight > 0; in_flight--)
    {
      io_uring_wait_cqe (&ring, &cqe);
      io_uring_cqe_seen (&ring, cqe);
    }
  io_uring_queue_exit (&ring);
  return meter_rate (&meter);
}
#endif

static double
run_plain (int fd, AioEngine engine, int depth)
{
  switch (engine)
    {
#ifdef HAVE_LIBAIO
    case AIO_ENGINE_NATIVE:
      return run_plain_native (fd, depth);
#endif
#ifdef HAVE_LIBURING
    case AIO_ENGINE_IO_URING:
      return run_plain_uring (fd, depth);
#endif
    default:
      return run_plain_threads (fd, depth);
    }
}

/* --- all ------------------------------------------------------------------------------------------------ */

static int
compare_doubles (const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

static void
bench_reads (int fd, AioEngine engine, int depth)
{
  double best_ours = 0, best_plain = 0, ratios[RUNS];

  for (int run = 0; run < RUNS; run++)
    {
      double plain = run_plain (fd, engine, depth);
      double ours = run_ours (fd, engine, depth);

      best_plain = MAX (best_plain, plain);
      best_ours = MAX (best_ours, ours);
      ratios[run] = ours / plain;
    }
  qsort (ratios, RUNS, sizeof *ratios, compare_doubles);
  printf ("{\"bench\": \"randread-4k\", \"engine\": \"%s\", \"depth\": %d, \"per_second\": %.0f, "
          "\"plain_per_second\": %.0f, \"best_ratio\": %.3f, \"ratio\": %.3f}\n",
          aio_engine_name (engine), depth, best_ours, best_plain, best_ours / best_plain, ratios[RUNS / 2]);
  fflush (stdout);
}

static void
fill_file (int fd)
{
  char *buffer = buffers;

  memset (buffer, 0x5a, BLOCK);
  for (int64_t offset = 0; offset < FILE_BYTES; offset += BLOCK)
    if (pwrite (fd, buffer, BLOCK, offset) != BLOCK)
      {
        perror ("filling the file");
        exit (1);
      }
}

int
main (int argc, char **argv)
{
  const char *only = argc > 1 ? argv[1] : NULL;
  int fd;

  if (!only)
    bench_coroutines ();

  buffers = aligned_alloc (BLOCK, MAX_DEPTH * BLOCK);
  memset (buffers, 0, MAX_DEPTH * BLOCK);
  if (argc > 2)
    fd = open (argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  else
    {
      g_autofree char *name = g_strdup_printf ("/bench-coaio-%d", (int)getpid ());

      fd = shm_open (name, O_RDWR | O_CREAT, 0600);
      shm_unlink (name);
    }
  if (fd < 0)
    {
      perror ("opening the file");
      return 1;
    }
  fill_file (fd);
  fdatasync (fd);

  for (int engine = 0; engine <= AIO_ENGINE_IO_URING; engine++)
    {
      if (!aio_engine_available (engine) || (only && strcmp (only, aio_engine_name (engine)) != 0))
        continue;
      if (engine != AIO_ENGINE_THREADS && fcntl (fd, F_SETFL, O_DIRECT) < 0)
        fprintf (stderr, "no O_DIRECT here: %s\n", strerror (errno));
      bench_reads (fd, engine, 1);
      bench_reads (fd, engine, 32);
    }
  close (fd);
  free (buffers);
  return 0;
}
