/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every engine, buffered and O_DIRECT, on a disk and in memory. */
#include "coaio-config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_LIBAIO
#include <libaio.h>
#endif
#ifdef HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

#include "file.h"
#include "helper.h"

#define UNIT 4096 /* enough for any O_DIRECT */

typedef struct
{
  AioEngine engine;
  bool direct;
  bool memory;
} Case;

/* A file without a name, opened the way the case wants it; -1 (and the test is skipped) if that cannot be had. */
static int
open_file (const Case *c)
{
  int fd;

  if (!aio_engine_available (c->engine))
    {
      g_test_skip ("this engine is not available");
      return -1;
    }
  if (c->memory)
    {
      g_autofree char *name = g_strdup_printf ("/test-coaio-%d", (int)getpid ());

      fd = shm_open (name, O_RDWR | O_CREAT | O_EXCL, 0600);
      shm_unlink (name);
    }
  else
    {
      g_autofree char *name = NULL;

      fd = g_file_open_tmp ("test-coaio-XXXXXX", &name, NULL);
      unlink (name);
    }
  g_assert_cmpint (fd, >=, 0);
  if (c->direct && fcntl (fd, F_SETFL, O_DIRECT) < 0)
    {
      g_test_skip ("no O_DIRECT here");
      close (fd);
      return -1;
    }
  return fd;
}

/* A case set up: a file and a context. */
typedef struct
{
  const Case *c;
  int fd;
  AioContext *ctx;
  AioFile *file;
} Fixture;

static bool
set_up (Fixture *f, const void *data)
{
  f->c = data;
  f->fd = open_file (data);
  if (f->fd < 0)
    return false;
  f->ctx = test_context_new ();
  f->file = aio_file_new (f->fd, f->c->engine);
  return true;
}

static void
tear_down (Fixture *f)
{
  aio_file_free (f->file);
  aio_context_unref (f->ctx);
  close (f->fd);
}

/* One request, from plain code. */
typedef struct
{
  AioFile *file;
  char what; /* 'r', 'w', 'f' */
  int64_t offset;
  const IoVector *qiov;
  size_t bytes;
  ssize_t ret;
} Call;

static void coroutine_fn
call_entry (void *opaque)
{
  Call *call = opaque;

  if (call->what == 'r')
    call->ret = aio_co_preadv (call->file, call->offset, call->qiov, 0, call->bytes);
  else if (call->what == 'w')
    call->ret = aio_co_pwritev (call->file, call->offset, call->qiov, 0, call->bytes);
  else
    call->ret = aio_co_fdatasync (call->file);
}

static ssize_t
request_vector (AioContext *ctx, AioFile *file, char what, int64_t offset, const IoVector *qiov)
{
  Call call = { file, what, offset, qiov, qiov ? qiov->size : 0, 0 };

  test_run (ctx, call_entry, &call);
  return call.ret;
}

static ssize_t
request (AioContext *ctx, AioFile *file, char what, int64_t offset, void *buf, size_t bytes)
{
  IoVector qiov;

  io_vector_init_buf (&qiov, buf, bytes);
  return request_vector (ctx, file, what, offset, &qiov);
}

/* What a byte at @offset should be, in the version @salt. */
static uint8_t
pattern (int64_t offset, unsigned salt)
{
  uint64_t x = (uint64_t)offset * UINT64_C (0x9e3779b97f4a7c15) + salt * UINT64_C (0x632be59bd9b4e019);

  return (uint8_t)(x >> 56 ^ x >> 23);
}

static void
fill_pattern (uint8_t *buf, int64_t offset, size_t bytes, unsigned salt)
{
  for (size_t i = 0; i < bytes; i++)
    buf[i] = pattern (offset + (int64_t)i, salt);
}

static void
check_pattern (const uint8_t *buf, int64_t offset, size_t bytes, unsigned salt)
{
  for (size_t i = 0; i < bytes; i++)
    if (buf[i] != pattern (offset + (int64_t)i, salt))
      g_error ("byte %" G_GINT64_FORMAT " is wrong", offset + (int64_t)i);
}

static void *
new_buffer (size_t bytes)
{
  void *buffer = NULL;

  g_assert_cmpint (posix_memalign (&buffer, UNIT, bytes), ==, 0);
  memset (buffer, 0xee, bytes);
  return buffer;
}

/* --- reading back what was written ---------------------------------------------------------------------- */

typedef struct
{
  AioFile *file;
  int64_t begin; /* of the area this worker has for itself */
  int64_t bytes;
  unsigned salt;
  bool direct;
  int *left;
  bool brief; /* one round only */
} Worker;

/* Cuts @bytes of @buf into pieces: many small ones, or a few aligned. */
static void
cut (IoVector *qiov, uint8_t *buf, size_t bytes, size_t piece)
{
  io_vector_init (qiov, 0);
  for (size_t at = 0; at < bytes; at += piece)
    io_vector_add (qiov, buf + at, MIN (piece, bytes - at));
}

static void coroutine_fn
write_then_read (void *opaque)
{
  Worker *self = opaque;
  size_t skip = self->direct ? UNIT : 37;
  size_t pieces[] = { 4 * UNIT, UNIT, self->direct ? UNIT : 777, self->direct ? 512 : 11 };
  uint8_t *buf = new_buffer ((size_t)self->bytes + skip);

  for (unsigned i = self->brief ? 3 : 0; i < G_N_ELEMENTS (pieces); i++)
    {
      unsigned salt = self->salt + i;
      IoVector qiov;

      /* The slice starts inside of the vector. */
      cut (&qiov, buf, (size_t)self->bytes + skip, pieces[i]);
      fill_pattern (buf + skip, self->begin, (size_t)self->bytes, salt);
      g_assert_cmpint (aio_co_pwritev (self->file, self->begin, &qiov, skip, (size_t)self->bytes), ==,
                       self->bytes);
      memset (buf, 0, (size_t)self->bytes + skip);
      g_assert_cmpint (aio_co_preadv (self->file, self->begin, &qiov, skip, (size_t)self->bytes), ==,
                       self->bytes);
      check_pattern (buf + skip, self->begin, (size_t)self->bytes, salt);
      for (size_t j = 0; j < skip; j++)
        g_assert_cmpint (buf[j], ==, 0);
      io_vector_clear (&qiov);
    }
  free (buf);
  --*self->left;
}

static void
run_workers_at (AioContext *ctx, AioFile *file, const Case *c, int64_t begin, int n, int64_t bytes)
{
  g_autofree Worker *workers = g_new0 (Worker, n);
  int left = n;

  for (int i = 0; i < n; i++)
    {
      workers[i] = (Worker){ file, begin + i * bytes, bytes, (unsigned)i, c->direct, &left, false };
      aio_co_schedule (ctx, coroutine_new (write_then_read, &workers[i]));
    }
  while (left > 0)
    aio_poll (ctx, true);
}

static void
run_workers (AioContext *ctx, AioFile *file, const Case *c, int n, int64_t bytes)
{
  run_workers_at (ctx, file, c, 0, n, bytes);
}

static void
test_contents (const void *data)
{
  Fixture f;
  uint8_t *buf;

  if (!set_up (&f, data))
    return;
  g_assert_cmpint (aio_file_get_fd (f.file), ==, f.fd);
  run_workers (f.ctx, f.file, f.c, 40, 16 * UNIT);

  /* By other means than our own. */
  buf = new_buffer (16 * UNIT);
  for (int i = 0; i < 40; i++)
    {
      g_assert_cmpint (pread (f.fd, buf, 16 * UNIT, i * 16 * UNIT), ==, 16 * UNIT);
      check_pattern (buf, i * 16 * UNIT, 16 * UNIT, (unsigned)i + 3);
    }
  free (buf);
  tear_down (&f);
}

/* What is in the page cache only in part is read whole. */
static void
test_cold (const void *data)
{
  const size_t bytes = 64 * UNIT;
  Fixture f;
  uint8_t *buf;

  if (!set_up (&f, data))
    return;
  buf = new_buffer (bytes);
  fill_pattern (buf, 0, bytes, 1);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, buf, bytes), ==, bytes);
  g_assert_cmpint (request_vector (f.ctx, f.file, 'f', 0, NULL), ==, 0);
  posix_fadvise (f.fd, 0, 0, POSIX_FADV_DONTNEED);
  posix_fadvise (f.fd, 0, 0, POSIX_FADV_RANDOM);
  g_assert_cmpint (pread (f.fd, buf, UNIT, 0), ==, UNIT);
  g_assert_cmpint (pread (f.fd, buf, UNIT, 5 * UNIT), ==, UNIT);
  memset (buf, 0, bytes);
  g_assert_cmpint (request (f.ctx, f.file, 'r', 0, buf, bytes), ==, bytes);
  check_pattern (buf, 0, bytes, 1);
  free (buf);
  tear_down (&f);
}

/* More than is served inline, more elements than one system call takes. */
static void
test_large (void const *data)
{
  const size_t bytes = 3 << 20;
  const size_t piece = 512;
  Fixture f;
  uint8_t *buf;
  IoVector qiov;

  if (!set_up (&f, data))
    return;
  buf = new_buffer (bytes);
  fill_pattern (buf, 0, bytes, 9);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, buf, bytes), ==, bytes);
  memset (buf, 0, bytes);
  g_assert_cmpint (request (f.ctx, f.file, 'r', 0, buf, bytes), ==, bytes);
  check_pattern (buf, 0, bytes, 9);

  fill_pattern (buf, 0, bytes, 10);
  cut (&qiov, buf, bytes, piece);
  g_assert_cmpint (qiov.niov, >, 5000);
  g_assert_cmpint (request_vector (f.ctx, f.file, 'w', 0, &qiov), ==, bytes);
  memset (buf, 0, bytes);
  g_assert_cmpint (request_vector (f.ctx, f.file, 'r', 0, &qiov), ==, bytes);
  check_pattern (buf, 0, bytes, 10);
  io_vector_clear (&qiov);
  free (buf);
  tear_down (&f);
}

/* What is served inline, and by which means, depends on the file system and on how long writes have taken: here it
 * is forced. */
static void
test_paths (const void *data)
{
  Fixture f;

  if (!set_up (&f, data))
    return;
  for (int i = 0; i < 8; i++)
    {
      f.file->memory = f.c->memory && (i & 1);
      atomic_store (&f.file->no_nowait_read, (i & 1) != 0);
      atomic_store (&f.file->no_nowait_write, (i & 2) != 0);
      atomic_store (&f.file->no_inline_write_before, i & 4 ? INT64_MAX : 0);
      run_workers (f.ctx, f.file, f.c, 10, 4 * UNIT);
    }
  tear_down (&f);
}

/* --- the end of the file -------------------------------------------------------------------------------- */

static void
test_end (const void *data)
{
  const int64_t size = 5 * UNIT + 1234;
  Fixture f;
  uint8_t *buf, *copy;

  if (!set_up (&f, data))
    return;
  buf = new_buffer (8 * UNIT);
  fill_pattern (buf, 0, 8 * UNIT, 2);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, buf, 8 * UNIT), ==, 8 * UNIT);
  g_assert_cmpint (ftruncate (f.fd, size), ==, 0);

  copy = new_buffer (8 * UNIT);
  for (int64_t offset = 0; offset <= 7 * UNIT; offset += UNIT)
    {
      int64_t expected = CLAMP (size - offset, 0, 8 * UNIT);
      struct iovec pieces[3] = { { copy, UNIT }, { copy + UNIT, 2 * UNIT }, { copy + 3 * UNIT, 5 * UNIT } };
      IoVector qiov;

      memset (copy, 0, 8 * UNIT);
      g_assert_cmpint (request (f.ctx, f.file, 'r', offset, copy, 8 * UNIT), ==, expected);
      check_pattern (copy, offset, (size_t)expected, 2);

      memset (copy, 0, 8 * UNIT);
      io_vector_init_external (&qiov, pieces, 3);
      g_assert_cmpint (request_vector (f.ctx, f.file, 'r', offset, &qiov), ==, expected);
      check_pattern (copy, offset, (size_t)expected, 2);
    }
  g_assert_cmpint (request (f.ctx, f.file, 'r', 1000 * UNIT, copy, UNIT), ==, 0);
  g_assert_cmpint (request (f.ctx, f.file, 'r', 0, copy, 0), ==, 0);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, copy, 0), ==, 0);
  free (copy);
  free (buf);
  tear_down (&f);
}

/* --- errors --------------------------------------------------------------------------------------------- */

static void
test_errors (const void *data)
{
  Fixture f;
  AioFile *bad;
  int fds[2];
  void *buf;
  int fd;

  if (!set_up (&f, data))
    return;
  buf = new_buffer (UNIT);

  bad = aio_file_new (-1, f.c->engine);
  g_assert_cmpint (request (f.ctx, bad, 'r', 0, buf, UNIT), ==, -EBADF);
  g_assert_cmpint (request (f.ctx, bad, 'w', 0, buf, UNIT), ==, -EBADF);
  g_assert_cmpint (request_vector (f.ctx, bad, 'f', 0, NULL), ==, -EBADF);
  aio_file_free (bad);

  g_assert_cmpint (request (f.ctx, f.file, 'r', -UNIT, buf, UNIT), ==, -EINVAL);
  g_assert_cmpint (request (f.ctx, f.file, 'w', -UNIT, buf, UNIT), ==, -EINVAL);

  /* Not open for it. */
  fd = open ("/dev/zero", O_RDONLY | O_CLOEXEC);
  bad = aio_file_new (fd, f.c->engine);
  g_assert_cmpint (request (f.ctx, bad, 'w', 0, buf, UNIT), ==, -EBADF);
  aio_file_free (bad);
  close (fd);

  /* No such operation. */
  g_assert_cmpint (pipe (fds), ==, 0);
  bad = aio_file_new (fds[0], f.c->engine);
  g_assert_cmpint (request_vector (f.ctx, bad, 'f', 0, NULL), ==, -EINVAL);
  aio_file_free (bad);
  close (fds[0]);
  close (fds[1]);

  /* The context has not suffered. */
  run_workers (f.ctx, f.file, f.c, 3, 4 * UNIT);
  free (buf);
  tear_down (&f);
}

/* A write that meets the limit is continued after its first part, and then fails. */
static void
test_limit (const void *data)
{
  struct rlimit old, limit;
  Fixture f;
  void *buf;

#ifdef HAVE_VALGRIND
  if (RUNNING_ON_VALGRIND && ((const Case *)data)->engine == AIO_ENGINE_IO_URING)
    {
      g_test_skip ("valgrind does not let the kernel's own threads ignore SIGXFSZ");
      return;
    }
#endif
  if (!set_up (&f, data))
    return;
  buf = new_buffer (4 * UNIT);
  signal (SIGXFSZ, SIG_IGN);
  g_assert_cmpint (getrlimit (RLIMIT_FSIZE, &old), ==, 0);
  limit = old;
  limit.rlim_cur = 2 * UNIT;
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &limit), ==, 0);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, buf, 4 * UNIT), ==, -EFBIG);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 0, buf, 2 * UNIT), ==, 2 * UNIT);
  g_assert_cmpint (request (f.ctx, f.file, 'w', 2 * UNIT, buf, UNIT), ==, -EFBIG);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &old), ==, 0);
  signal (SIGXFSZ, SIG_DFL);
  free (buf);
  tear_down (&f);
}

/* A failure in the middle of a batch stays where it belongs. */
typedef struct
{
  AioFile *file;
  void *buf;
  ssize_t expected;
  int *left;
} Mixed;

static void coroutine_fn
mixed_request (void *opaque)
{
  Mixed *self = opaque;
  IoVector qiov;

  io_vector_init_buf (&qiov, self->buf, UNIT);
  for (int i = 0; i < 5; i++)
    g_assert_cmpint (aio_co_preadv (self->file, 0, &qiov, 0, UNIT), ==, self->expected);
  --*self->left;
}

static void
test_mixed (const void *data)
{
  enum
  {
    N = 100
  };
  Mixed mixed[N];
  AioFile *bad;
  Fixture f;
  void *buf;
  int left = N;

  if (!set_up (&f, data))
    return;
  g_assert_cmpint (ftruncate (f.fd, UNIT), ==, 0);
  buf = new_buffer (N * UNIT);
  bad = aio_file_new (-1, f.c->engine);
  for (int i = 0; i < N; i++)
    {
      bool fails = i % 7 == 3;

      mixed[i] = (Mixed){ fails ? bad : f.file, (char *)buf + i * UNIT, fails ? -EBADF : UNIT, &left };
      aio_co_schedule (f.ctx, coroutine_new (mixed_request, &mixed[i]));
    }
  while (left > 0)
    aio_poll (f.ctx, true);
  aio_file_free (bad);
  free (buf);
  tear_down (&f);
}

/* --- many at once --------------------------------------------------------------------------------------- */

/* More than an engine takes in flight. */
static void
test_depth (const void *data)
{
#ifdef TEST_TSAN
  enum
  {
    N = 300
  };
#else
  enum
  {
    N = 1500
  };
#endif
  g_autofree Worker *workers = g_new (Worker, N);
  Fixture f;
  int left = N;

  if (!set_up (&f, data))
    return;
  for (int i = 0; i < N; i++)
    {
      workers[i] = (Worker){ f.file, i * UNIT, UNIT, (unsigned)i, f.c->direct, &left, true };
      aio_co_schedule (f.ctx, coroutine_new (write_then_read, &workers[i]));
    }
  while (left > 0)
    aio_poll (f.ctx, true);
  tear_down (&f);
}

typedef struct
{
  const Case *c;
  AioFile *file;
  int64_t begin;
} Sharer;

static void *
share_file (void *opaque)
{
  Sharer *self = opaque;
  AioContext *ctx = test_context_new ();

  for (int i = 0; i < 3; i++)
    run_workers_at (ctx, self->file, self->c, self->begin, 10, 2 * UNIT);
  aio_context_unref (ctx);
  return NULL;
}

/* One AioFile, contexts in several threads. */
static void
test_shared (const void *data)
{
  GThread *threads[3];
  Sharer sharers[3];
  Fixture f;

  if (!set_up (&f, data))
    return;
  for (int i = 0; i < 3; i++)
    {
      sharers[i] = (Sharer){ f.c, f.file, i * 20 * UNIT };
      threads[i] = g_thread_new ("sharer", share_file, &sharers[i]);
    }
  for (int i = 0; i < 3; i++)
    g_thread_join (threads[i]);
  tear_down (&f);
}

/* Every engine in one context. */
static void
test_together (const void *data)
{
  enum
  {
    N = 30
  };
  AioFile *files[AIO_N_ENGINES];
  Worker workers[N];
  Fixture f;
  int left = N;

  if (!set_up (&f, data))
    return;
  for (int i = 0; i < AIO_N_ENGINES; i++)
    files[i] = aio_file_new (f.fd, aio_engine_available (i) ? (AioEngine)i : AIO_ENGINE_THREADS);
  for (int i = 0; i < N; i++)
    {
      workers[i] = (Worker){
        files[i % AIO_N_ENGINES], i * 8 * UNIT, 8 * UNIT, (unsigned)i, f.c->direct, &left, false
      };
      aio_co_schedule (f.ctx, coroutine_new (write_then_read, &workers[i]));
    }
  while (left > 0)
    aio_poll (f.ctx, true);
  for (int i = 0; i < AIO_N_ENGINES; i++)
    aio_file_free (files[i]);
  tear_down (&f);
}

/* --- waking --------------------------------------------------------------------------------------------- */

/* How a host may drive a context. */
static void
drive (AioContext *ctx, GMainContext *main_context, char how)
{
  GPollFD fd = { .fd = aio_context_get_fd (ctx), .events = G_IO_IN };

  switch (how)
    {
    case 'p':
      aio_poll (ctx, true);
      break;
    case 'f':
      g_poll (&fd, 1, -1);
      aio_poll (ctx, false);
      break;
    default:
      g_main_context_iteration (main_context, TRUE);
    }
}

/* Requests made outside of dispatch, and hosts that look at nothing but our descriptor. */
static void
test_driven (const void *data)
{
  enum
  {
    N = 20
  };

  for (const char *how = "fgp"; *how; how++)
    {
      g_autoptr (GMainContext) main_context = g_main_context_new ();
      Worker workers[N];
      Fixture f;
      int left = N;

      if (!set_up (&f, data))
        return;
      if (*how == 'g')
        g_source_attach (aio_context_get_source (f.ctx), main_context);
      for (int i = 0; i < N; i++)
        {
          workers[i] =
              (Worker){ f.file, i * 8 * UNIT, 8 * UNIT, (unsigned)i, f.c->direct, &left, i % 2 == 0 };
          aio_context_push (f.ctx);
          coroutine_enter (coroutine_new (write_then_read, &workers[i]));
          aio_context_pop (f.ctx);
          /* Nothing is left over that could wake by chance. */
          while (*how == 'f' && left > N - 1 - i)
            drive (f.ctx, NULL, 'f');
        }
      while (left > 0)
        drive (f.ctx, main_context, *how);
      g_source_destroy (aio_context_get_source (f.ctx));
      tear_down (&f);
    }
}

/* Coroutines whose requests never wait leave time for timers. */
typedef struct
{
  AioFile *file;
  void *buf;
  bool stop;
  bool stopped;
} Greedy;

static void coroutine_fn
read_greedily (void *opaque)
{
  Greedy *self = opaque;
  IoVector qiov;

  io_vector_init_buf (&qiov, self->buf, UNIT);
  while (!self->stop)
    g_assert_cmpint (aio_co_preadv (self->file, 0, &qiov, 0, UNIT), ==, UNIT);
  self->stopped = true;
}

static void
stop_greedy (void *opaque)
{
  ((Greedy *)opaque)->stop = true;
}

static void
test_fair (const void *data)
{
  Greedy greedy = { 0 };
  AioTimer *timer;
  Fixture f;

  if (!set_up (&f, data))
    return;
  g_assert_cmpint (ftruncate (f.fd, UNIT), ==, 0);
  greedy.file = f.file;
  greedy.buf = new_buffer (UNIT);
  timer = aio_timer_new (f.ctx, stop_greedy, &greedy);
  aio_timer_mod (timer, aio_clock_ns () + 1000000);
  aio_co_schedule (f.ctx, coroutine_new (read_greedily, &greedy));
  while (!greedy.stopped)
    aio_poll (f.ctx, true);
  aio_timer_free (timer);
  free (greedy.buf);
  tear_down (&f);
}

/* The native engine takes files in memory for such that never wait.  If one does all the same, nothing hangs. */
static void
test_not_as_expected (const void *data)
{
  Fixture f;

  if (!set_up (&f, data))
    return;
  f.file->memory = true;
  run_workers (f.ctx, f.file, f.c, 5, 8 * UNIT);
  run_workers (f.ctx, f.file, f.c, 40, 8 * UNIT);
  tear_down (&f);
}

/* --- batches -------------------------------------------------------------------------------------------- */

#ifdef HAVE_LIBAIO
/* What this thread hands to the kernel, while somebody counts it. */
typedef struct
{
  unsigned first, sum, n_batches;
} Batches;

static __thread Batches *counted;

/* In the place of libaio's. */
int
io_submit (io_context_t kernel, long n, struct iocb **iocbs)
{
  long ret = syscall (SYS_io_submit, kernel, n, iocbs);

  if (counted && ret > 0)
    {
      if (counted->n_batches++ == 0)
        counted->first = (unsigned)ret;
      counted->sum += (unsigned)ret;
    }
  return ret < 0 ? -errno : (int)ret;
}

typedef struct
{
  AioFile *file;
  int unit;
  int *left;
} UnitReader;

static void coroutine_fn
read_unit (void *opaque)
{
  UnitReader *self = opaque;
  void *buf = new_buffer (UNIT);
  IoVector qiov;

  io_vector_init_buf (&qiov, buf, UNIT);
  g_assert_cmpint (aio_co_preadv (self->file, self->unit * UNIT, &qiov, 0, UNIT), ==, UNIT);
  free (buf);
  --*self->left;
}

/* A device that has nothing to do gets the first request before the others are made; where io_submit () does the
 * work, all go together. */
static void
test_batches (const void *data)
{
  enum
  {
    N = 32
  };
  UnitReader readers[N];
  Batches batches = { 0 };
  void *zeros;
  Fixture f;
  int left = N;

  if (!set_up (&f, data))
    return;
  zeros = new_buffer (N * UNIT);
  g_assert_cmpint (pwrite (f.fd, zeros, N * UNIT, 0), ==, N * UNIT);
  g_assert_cmpint (fsync (f.fd), ==, 0);
  for (int i = 0; i < N; i++)
    {
      readers[i] = (UnitReader){ f.file, i, &left };
      aio_co_schedule (f.ctx, coroutine_new (read_unit, &readers[i]));
    }
  counted = &batches;
  while (left > 0)
    aio_poll (f.ctx, true);
  counted = NULL;
  g_assert_cmpuint (batches.sum, ==, N);
#ifdef HAVE_VALGRIND
  /* Nothing is known to be complete there before io_getevents () says so. */
  if (!RUNNING_ON_VALGRIND)
#endif
    g_assert_cmpuint (batches.first, ==, f.file->memory ? N : 1);
  free (zeros);
  tear_down (&f);
}
#endif

/* --- without the kernel's help -------------------------------------------------------------------------- */

/* From now on the two system calls fail. */
static void
refuse_system_calls (unsigned first, unsigned second, unsigned error)
{
  struct sock_filter code[] = {
    BPF_STMT (BPF_LD | BPF_W | BPF_ABS, offsetof (struct seccomp_data, nr)),
    BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
    BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = { .len = G_N_ELEMENTS (code), .filter = code };

  g_assert_cmpint (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
  g_assert_cmpint (prctl (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

static void
use_all_engines (void)
{
  Case c = { AIO_ENGINE_THREADS, false, false };
  Fixture f;

  g_assert_true (set_up (&f, &c));
  for (int i = 0; i < AIO_N_ENGINES; i++)
    {
      f.file->engine = (AioEngine)i;
      run_workers (f.ctx, f.file, &c, 5, 8 * UNIT);
    }
  tear_down (&f);
}

/* Who asks for an engine that cannot be had is served all the same. */
static void
test_refused (void)
{
  if (g_test_subprocess ())
    {
      refuse_system_calls (SYS_io_setup, 425 /* io_uring_setup */, EPERM);
      g_assert_false (aio_engine_available (AIO_ENGINE_NATIVE));
      g_assert_false (aio_engine_available (AIO_ENGINE_IO_URING));
      g_assert_true (aio_engine_available (AIO_ENGINE_THREADS));
      use_all_engines ();
      return;
    }
  if (!can_start_itself ())
    return;
  g_test_trap_subprocess (NULL, 0, 0);
  g_test_trap_assert_passed ();
}

/* A kernel that has no room, and nothing in flight that could make some. */
static void
test_busy (void)
{
  if (g_test_subprocess ())
    {
      refuse_system_calls (SYS_io_submit, SYS_io_submit, EAGAIN);
      use_all_engines ();
      return;
    }
  if (!can_start_itself ())
    return;
  g_test_trap_subprocess (NULL, 0, 0);
  g_test_trap_assert_passed ();
}

static void
test_names (void)
{
  AioEngine engine;

  for (int i = 0; i < AIO_N_ENGINES; i++)
    {
      g_assert_true (aio_engine_from_name (aio_engine_name ((AioEngine)i), &engine));
      g_assert_cmpint (engine, ==, i);
    }
  g_assert_cmpstr (aio_engine_name (AIO_ENGINE_NATIVE), ==, "native");
  g_assert_false (aio_engine_from_name ("posix", &engine));
}

int
main (int argc, char **argv)
{
  static const struct
  {
    const char *name;
    GTestDataFunc function;
  } tests[] = {
    { "contents", test_contents }, { "cold", test_cold },
    { "large", test_large },       { "paths", test_paths },
    { "end", test_end },           { "errors", test_errors },
    { "limit", test_limit },       { "mixed", test_mixed },
    { "depth", test_depth },       { "shared", test_shared },
    { "together", test_together }, { "driven", test_driven },
    { "fair", test_fair },         { "not-as-expected", test_not_as_expected },
  };
  static Case cases[AIO_N_ENGINES * 4];

  g_test_init (&argc, &argv, NULL);
  for (unsigned i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      Case *c = &cases[i];

      *c = (Case){ .engine = (AioEngine)(i / 4), .direct = i & 1, .memory = i & 2 };
      for (unsigned j = 0; j < G_N_ELEMENTS (tests); j++)
        {
          g_autofree char *path = g_strdup_printf ("/engine/%s/%s/%s/%s", aio_engine_name (c->engine),
                                                   c->memory ? "memory" : "disk",
                                                   c->direct ? "direct" : "buffered", tests[j].name);

          g_test_add_data_func (path, c, tests[j].function);
        }
    }
#ifdef HAVE_LIBAIO
  static const Case on_disk = { AIO_ENGINE_NATIVE, true, false },
                    in_memory = { AIO_ENGINE_NATIVE, true, true };

  g_test_add_data_func ("/engine/native/disk/direct/batches", &on_disk, test_batches);
  g_test_add_data_func ("/engine/native/memory/direct/batches", &in_memory, test_batches);
#endif
  g_test_add_func ("/engine/names", test_names);
  g_test_add_func ("/engine/refused", test_refused);
  g_test_add_func ("/engine/busy", test_busy);
  return g_test_run ();
}
