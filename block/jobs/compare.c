/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compare: whether two images show the same.
 *
 * Pieces are handed out in ascending order and looked at concurrently, so the first difference is the lowest
 * one found once all pieces handed out before it have ended.  What both sides know to be zeros is not read.
 * Past the end of the shorter image the longer one must be zero.
 */
#include "compare.h"

#include "zero.h"

#include <errno.h>
#include <string.h>

#define COMPARE_WORKERS     4
#define COMPARE_PIECE_BYTES (2 * 1024 * 1024)

typedef struct
{
  int64_t offset, bytes;
  bool zero[2]; /* known to read as zeros */
} Piece;

typedef struct
{
  Job job;
  CompareParams params;
  CompareStats stats;

  int64_t offset, end; /* still to be handed out */
  CoMutex planner_lock;
  int ret; /* the first error, or 0 */
  const char *failed_verb;
  int64_t failed_offset;
} CompareJob;

static int
compare_fail (CompareJob *compare, int side, const char *verb, int64_t offset, int ret)
{
  if (compare->ret == 0)
    {
      compare->ret = ret;
      compare->stats.failed_side = side;
      compare->failed_verb = verb;
      compare->failed_offset = offset;
    }
  return ret;
}

static void
note_difference (CompareJob *compare, int64_t offset, bool of_allocation)
{
  CompareStats *stats = &compare->stats;

  if (stats->first_difference >= 0 && stats->first_difference <= offset)
    return;
  stats->first_difference = offset;
  stats->allocation_differs = of_allocation;
  stats->equal = false;
}

/* --- planning ------------------------------------------------------------------------------------------ */

/* Cuts @piece to what one answer of @side is true for, and fills in that answer. */
static int coroutine_fn
look_up_side (CompareJob *compare, int side, Piece *piece, bool *data)
{
  BlockDriverState *bs = compare->params.side[side];
  int64_t length = bdrv_length (bs);
  int64_t pnum, map;
  BlockDriverState *file;

  *data = false;
  piece->zero[side] = true;
  if (piece->offset >= length)
    return 0;
  piece->bytes = MIN (piece->bytes, length - piece->offset);
  int ret = bdrv_co_block_status_above (bs, NULL, piece->offset, piece->bytes, &pnum, &map, &file, NULL);
  if (ret < 0)
    return compare_fail (compare, side, "look-up of the allocation", piece->offset, ret);
  *data = ret & BDRV_BLOCK_DATA;
  piece->zero[side] = !(ret & BDRV_BLOCK_ALLOCATED) || (ret & BDRV_BLOCK_ZERO);
  piece->bytes = pnum;
  return 0;
}

/* The next piece; 1, 0 at the end or when a difference is known, -errno. */
static int coroutine_fn
next_piece (CompareJob *compare, Piece *piece)
{
  bool data[2];

  if (compare->ret < 0 || compare->offset == compare->end || compare->stats.first_difference >= 0)
    return 0;
  *piece = (Piece){ .offset = compare->offset, .bytes = compare->end - compare->offset };
  for (int side = 0; side < 2; side++)
    {
      int ret = look_up_side (compare, side, piece, &data[side]);
      if (ret < 0)
        return ret;
    }
  if (compare->params.strict && (data[0] != data[1] || piece->zero[0] != piece->zero[1]))
    {
      note_difference (compare, piece->offset, true);
      return 0;
    }
  if (!piece->zero[0] || !piece->zero[1])
    piece->bytes = MIN (piece->bytes, COMPARE_PIECE_BYTES - piece->offset % COMPARE_PIECE_BYTES);
  compare->offset += piece->bytes;
  return 1;
}

/* --- comparing ----------------------------------------------------------------------------------------- */

/* The first byte that differs; they do differ. */
static int64_t
first_difference (const uint8_t *a, const uint8_t *b, int64_t bytes)
{
  int64_t at = 0;

  while (bytes - at > 4096 && memcmp (a + at, b + at, 4096) == 0)
    at += 4096;
  while (a[at] == b[at])
    at++;
  return at;
}

static int64_t
first_nonzero (const uint8_t *buf, int64_t bytes)
{
  int64_t at = 0;

  while (bytes - at > 4096 && buffer_is_zero (buf + at, 4096))
    at += 4096;
  while (buf[at] == 0)
    at++;
  return at;
}

static int coroutine_fn
compare_co_piece (CompareJob *compare, const Piece *piece, uint8_t *buf[2])
{
  size_t bytes = (size_t)piece->bytes;

  if (piece->zero[0] && piece->zero[1])
    return 0;
  for (int side = 0; side < 2; side++)
    if (!piece->zero[side])
      {
        int ret = bdrv_co_pread (compare->params.side[side], piece->offset, piece->bytes, buf[side]);
        if (ret < 0)
          return compare_fail (compare, side, "read", piece->offset, ret);
      }

  if (piece->zero[0] || piece->zero[1])
    {
      const uint8_t *read = buf[piece->zero[0] ? 1 : 0];
      if (!buffer_is_zero (read, bytes))
        note_difference (compare, piece->offset + first_nonzero (read, piece->bytes), false);
    }
  else if (memcmp (buf[0], buf[1], bytes) != 0)
    note_difference (compare, piece->offset + first_difference (buf[0], buf[1], piece->bytes), false);
  return 0;
}

static int coroutine_fn
worker_co_step (CompareJob *compare, uint8_t *buf[2])
{
  Piece piece;
  int ret = job_co_pause_point (&compare->job);

  if (ret < 0)
    return ret;
  co_mutex_lock (&compare->planner_lock);
  ret = next_piece (compare, &piece);
  co_mutex_unlock (&compare->planner_lock);
  if (ret <= 0)
    return ret;
  ret = job_co_throttle (&compare->job, piece.zero[0] && piece.zero[1] ? 0 : piece.bytes);
  if (ret == 0)
    ret = compare_co_piece (compare, &piece, buf);
  if (ret < 0)
    return ret;
  job_progress_add (&compare->job, piece.bytes);
  return 1;
}

static void coroutine_fn
worker_entry (void *opaque)
{
  CompareJob *compare = opaque;
  uint8_t *buf[2];
  int ret = -ENOMEM;

  for (int side = 0; side < 2; side++)
    buf[side] = bdrv_try_alloc_buffer (compare->params.side[side], COMPARE_PIECE_BYTES);
  if (buf[0] == NULL || buf[1] == NULL)
    compare_fail (compare, buf[0] == NULL ? 0 : 1, "buffer for the read", 0, ret);
  else
    while ((ret = worker_co_step (compare, buf)) > 0)
      ;
  if (ret < 0)
    compare_fail (compare, 0, "comparison", 0, ret);
  bdrv_free_buffer (buf[0]);
  bdrv_free_buffer (buf[1]);
}

/* --- the job ------------------------------------------------------------------------------------------- */

static bool coroutine_fn
compare_co_run (Job *job, GError **error)
{
  CompareJob *compare = (CompareJob *)job;
  int64_t length[2] = { bdrv_length (compare->params.side[0]), bdrv_length (compare->params.side[1]) };

  compare->end = MAX (length[0], length[1]);
  if (length[0] != length[1])
    {
      compare->stats.sizes_differ = true;
      if (compare->params.strict)
        {
          compare->stats.equal = false;
          return true;
        }
    }
  job_progress_add_total (job, compare->end);

  co_mutex_init (&compare->planner_lock);
  job_co_run_workers (job, COMPARE_WORKERS, worker_entry, compare);
  co_mutex_clear (&compare->planner_lock);

  if (compare->ret == -ECANCELED)
    job_set_cancelled (job, error);
  else if (compare->ret < 0)
    bdrv_set_error_errno (error, compare->params.side[compare->stats.failed_side], compare->ret,
                          "%s at offset %" G_GINT64_FORMAT " failed", compare->failed_verb,
                          compare->failed_offset);
  return compare->ret == 0;
}

static const JobDriver compare_driver = {
  .instance_size = sizeof (CompareJob),
  .verb = "compare",
  .co_run = compare_co_run,
};

Job *
compare_job_new (AioContext *context, const CompareParams *params, GError **error)
{
  Job *job = job_new (&compare_driver, context, error);

  if (job != NULL)
    {
      CompareJob *compare = (CompareJob *)job;
      compare->params = *params;
      compare->stats.equal = true;
      compare->stats.first_difference = -1;
    }
  return job;
}

CompareStats
compare_job_get_stats (const Job *job)
{
  if (job->driver != &compare_driver)
    return (CompareStats){ .equal = true, .first_difference = -1 };
  return ((const CompareJob *)job)->stats;
}
