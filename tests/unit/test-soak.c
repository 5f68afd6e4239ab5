/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many requests and jobs in several threads at once, each with a context and images of its own, while one more thread
 * cancels, holds and lets go jobs at any moment.  For ThreadSanitizer above all; what is read is compared with a model.
 *
 * VHDKIT_ITERATIONS makes it longer.
 */
#include <pthread.h>
#include <stdlib.h>

#include "test-api-util.h"

#define WORKERS   3
#define SLOT      (16 * KIB)
#define SLOTS     256
#define IN_FLIGHT 24

typedef struct Worker Worker;

typedef struct
{
  Worker *worker;
  int slot;
  bool is_read;
  uint8_t before; /* what the slot held when a read began */
  struct iovec iov;
  uint8_t buf[SLOT];
} Request;

struct Worker
{
  const char *format;
  const char *base, *leaf;
  GRand *rand;
  VhdkitContext *context;
  VhdkitImage *image;
  uint8_t model[SLOTS];
  bool busy[SLOTS];
  int in_flight;
  Request requests[IN_FLIGHT];
  Request *free_requests[IN_FLIGHT];
  bool concluded;
  /* What the other thread may touch; ThreadSanitizer does not see locks of GLib. */
  pthread_mutex_t lock;
  VhdkitJob *job;
};

static int stop; /* atomic */

static int
rounds (void)
{
  const char *text = g_getenv ("VHDKIT_ITERATIONS");

  return text ? MAX (1, atoi (text)) : 3;
}

static void
on_request (void *opaque, int ret)
{
  Request *request = opaque;
  Worker *worker = request->worker;

  g_assert_cmpint (ret, ==, 0);
  if (request->slot >= 0)
    {
      if (request->is_read)
        for (int i = 0; i < SLOT; i += 512)
          g_assert_cmpint (request->buf[i], ==, request->before);
      worker->busy[request->slot] = false;
    }
  worker->free_requests[--worker->in_flight] = request;
}

static void
submit (Worker *worker, bool only_read)
{
  Request *request = worker->free_requests[worker->in_flight++];
  int slot = g_rand_int_range (worker->rand, 0, SLOTS), what = g_rand_int_range (worker->rand, 0, 16);
  int64_t offset = (int64_t)slot * SLOT;

  request->worker = worker;
  request->slot = slot;
  request->iov = (struct iovec){ request->buf, SLOT };
  request->is_read = only_read || what < 6;
  if (worker->busy[slot] || (!only_read && what == 15))
    {
      request->slot = -1;
      vhdkit_image_aio_flush (worker->image, on_request, request);
      return;
    }
  worker->busy[slot] = true;
  request->before = worker->model[slot];
  if (request->is_read)
    {
      vhdkit_image_aio_preadv (worker->image, &request->iov, 1, offset, on_request, request);
    }
  else if (what < 13)
    {
      worker->model[slot] = (uint8_t)g_rand_int_range (worker->rand, 1, 256);
      memset (request->buf, worker->model[slot], SLOT);
      vhdkit_image_aio_pwritev (worker->image, &request->iov, 1, offset, on_request, request);
    }
  else
    {
      worker->model[slot] = 0;
      vhdkit_image_aio_pwrite_zeroes (worker->image, offset, SLOT, what == 13, on_request, request);
    }
}

static void
drain (Worker *worker)
{
  while (worker->in_flight > 0)
    vhdkit_context_iterate (worker->context, true);
}

static void
many_requests (Worker *worker, int n)
{
  for (int i = 0; i < n; i++)
    {
      while (worker->in_flight == IN_FLIGHT)
        vhdkit_context_iterate (worker->context, true);
      submit (worker, false);
    }
  drain (worker);
}

static void
on_concluded (VhdkitJob *job, void *opaque)
{
  Worker *worker = opaque;

  worker->concluded = true;
}

/* Runs @job to its end among reads; false: it was cancelled. */
static bool
run_among_reads (Worker *worker, VhdkitJob *job)
{
  g_autoptr (GError) error = NULL;
  bool ok;

  worker->concluded = false;
  vhdkit_job_start (job, on_concluded, worker);
  pthread_mutex_lock (&worker->lock);
  worker->job = job;
  pthread_mutex_unlock (&worker->lock);
  while (!worker->concluded)
    {
      VhdkitJobProgress progress;

      while (worker->in_flight < IN_FLIGHT / 2)
        submit (worker, true);
      vhdkit_job_get_progress (job, &progress);
      g_assert_cmpint (progress.done, <=, progress.total);
      /* Slow enough to be met on its way, and not for ever. */
      if (g_rand_int_range (worker->rand, 0, 200) == 0)
        vhdkit_job_set_rate_limit (job, 0);
      vhdkit_context_iterate (worker->context, true);
    }
  pthread_mutex_lock (&worker->lock);
  worker->job = NULL;
  pthread_mutex_unlock (&worker->lock);
  drain (worker);
  ok = vhdkit_job_get_result (job, &error);
  if (!ok)
    g_assert_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED);
  vhdkit_job_free (job);
  return ok;
}

static VhdkitJob *
new_job (Worker *worker, bool commit)
{
  VhdkitCommitOptions commit_options = { .struct_size = sizeof commit_options, .target_layer = 1 };
  VhdkitCompactOptions compact_options = { .struct_size = sizeof compact_options };
  g_autoptr (GError) error = NULL;
  VhdkitJob *job = commit ? vhdkit_commit_new (worker->image, &commit_options, &error)
                          : vhdkit_compact_new (worker->image, &compact_options, &error);

  g_assert_no_error (error);
  vhdkit_job_set_rate_limit (job, 24 * MIB);
  return job;
}

static gpointer
work (gpointer opaque)
{
  Worker *worker = opaque;
  VhdkitOpenOptions options = { .struct_size = sizeof options, .flags = VHDKIT_OPEN_RDWR };
  g_autoptr (GError) error = NULL;

  worker->context = vhdkit_context_new (&error);
  g_assert_no_error (error);
  worker->image = vhdkit_image_open (worker->context, worker->leaf, &options, &error);
  g_assert_no_error (error);
  for (int i = 0; i < IN_FLIGHT; i++)
    worker->free_requests[i] = &worker->requests[i];
  for (int round = 0; round < rounds (); round++)
    {
      many_requests (worker, 600);
      for (int attempt = 0; !run_among_reads (worker, new_job (worker, round % 2 == 0)); attempt++)
        g_assert_cmpint (attempt, <, 1000);
    }
  many_requests (worker, 200);
  vhdkit_image_close (worker->image, &error);
  g_assert_no_error (error);
  vhdkit_context_free (worker->context);
  return NULL;
}

/* From a thread that has nothing to do with them. */
static gpointer
disturb (gpointer opaque)
{
  Worker *workers = opaque;
  g_autoptr (GRand) rand = g_rand_new_with_seed (7);

  while (!g_atomic_int_get (&stop))
    {
      Worker *worker = &workers[g_rand_int_range (rand, 0, WORKERS)];

      pthread_mutex_lock (&worker->lock);
      if (worker->job)
        switch (g_rand_int_range (rand, 0, 8))
          {
          case 0:
            vhdkit_job_cancel (worker->job);
            break;
          case 1:
            vhdkit_job_pause (worker->job);
            break;
          default:
            vhdkit_job_resume (worker->job);
            break;
          }
      pthread_mutex_unlock (&worker->lock);
      g_usleep (g_rand_int_range (rand, 100, 8000));
    }
  return NULL;
}

static void
test_soak (gconstpointer format)
{
  Worker *workers = g_new0 (Worker, WORKERS);
  GThread *threads[WORKERS], *disturber;

  scratch_init ();
  g_atomic_int_set (&stop, 0);
  for (int i = 0; i < WORKERS; i++)
    {
      Worker *worker = &workers[i];
      g_autofree char *base = g_strdup_printf ("base-%d", i), *leaf = g_strdup_printf ("leaf-%d", i);

      worker->rand = g_rand_new_with_seed (g_test_rand_int ());
      worker->base = scratch_path (base);
      worker->leaf = scratch_path (leaf);
      pthread_mutex_init (&worker->lock, NULL);
      create_image (worker->base, format, SLOTS * SLOT, strcmp (format, "vhd") == 0 ? 64 * KIB : MIB, NULL);
      create_image (worker->leaf, format, -1, strcmp (format, "vhd") == 0 ? 64 * KIB : MIB, worker->base);
    }
  disturber = g_thread_new ("disturb", disturb, workers);
  for (int i = 0; i < WORKERS; i++)
    threads[i] = g_thread_new ("work", work, &workers[i]);
  for (int i = 0; i < WORKERS; i++)
    g_thread_join (threads[i]);
  g_atomic_int_set (&stop, 1);
  g_thread_join (disturber);
  for (int i = 0; i < WORKERS; i++)
    {
      g_autofree uint8_t *view = read_file_view (workers[i].leaf);

      for (int64_t at = 0; at < SLOTS * SLOT; at += 512)
        g_assert_cmpint (view[at], ==, workers[i].model[at / SLOT]);
      assert_checks_clean (workers[i].base);
      assert_checks_clean (workers[i].leaf);
      pthread_mutex_destroy (&workers[i].lock);
      g_rand_free (workers[i].rand);
    }
  g_free (workers);
  scratch_clear ();
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/soak/vhd", "vhd", test_soak);
  g_test_add_data_func ("/soak/vhdx", "vhdx", test_soak);
  return g_test_run ();
}
