/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Going through the whole BAT.  A disk of 64 TiB has a table of half a gigabyte, most often a hole of the container
 * file: what the file says is zero is not read, pages of zeros are passed over, and nothing of it goes through the
 * page cache, which holds what guests work with.
 */
#include "vhdx.h"
#include "zero.h"

#define PIECE_BYTES VHDX_MIB
/* Asking where data ends and holes begin costs as much as reading this. */
#define LEAST_READ_BYTES (64 * VHDX_KIB)

typedef struct
{
  VhdxState *s;
  VhdxBatVisitor *visit;
  void *opaque;
  int64_t buffer_bytes;
  uint8_t *buffer; /* NULL until something is to be read */
} Scan;

/* The length of the run at the start of the range of the container that is all zero or is to be read; sets *zero.
 * > 0, and whole pages unless it is the whole range. */
static int64_t coroutine_fn
next_run (const VhdxState *s, int64_t file_offset, int64_t bytes, bool *zero)
{
  int64_t run, checked = 0;
  int ret = bdrv_co_block_status (s->bs->file, file_offset, bytes, &run, NULL, NULL);

  *zero = false;
  if (ret < 0)
    return bytes; /* what is wrong will be told by reading it */
  if (run < bytes)
    run = round_down (file_offset + run, VHDX_PAGE) - file_offset;
  if (!(ret & BDRV_BLOCK_ZERO) || run <= 0)
    return MIN (bytes, round_up (file_offset + MAX (run, 1), LEAST_READ_BYTES) - file_offset);
  /* What the log says counts over a hole, too.  In pieces, so that a page of it costs no more than one. */
  while (checked < run)
    {
      int64_t piece = MIN (run - checked, PIECE_BYTES - (file_offset + checked) % PIECE_BYTES);

      if (vhdx_overlay_touches (&s->overlay, file_offset + checked, piece))
        {
          *zero = checked > 0;
          return *zero ? checked : piece;
        }
      checked += piece;
    }
  *zero = true;
  return run;
}

/* @index: of the first entry in the buffer. */
static int coroutine_fn
visit_piece (const Scan *scan, uint64_t index, int64_t bytes)
{
  for (int64_t page = 0; page < bytes; page += VHDX_PAGE)
    {
      int64_t end = MIN (bytes, page + VHDX_PAGE);

      if (buffer_is_zero (scan->buffer + page, end - page))
        continue;
      for (int64_t at = page; at < end; at += 8)
        {
          Le64 disk;
          int ret;

          memcpy (&disk, scan->buffer + at, sizeof disk);
          if (le64_get (disk) == 0)
            continue;
          ret = scan->visit (scan->s, index + at / 8, le64_get (disk), scan->opaque);
          if (ret != 0)
            return ret;
        }
    }
  return 0;
}

static int coroutine_fn
scan_data (Scan *scan, int64_t file_offset, int64_t bytes)
{
  VhdxState *s = scan->s;

  if (!scan->buffer)
    scan->buffer = bdrv_try_alloc_buffer (s->bs->file, scan->buffer_bytes);
  if (!scan->buffer)
    return -ENOMEM;
  while (bytes > 0)
    {
      int64_t n = MIN (bytes, PIECE_BYTES - file_offset % PIECE_BYTES);
      int ret = vhdx_co_read (s, file_offset, n, scan->buffer);

      if (ret == 0)
        ret = visit_piece (scan, (file_offset - s->bat_region.file_offset) / 8, n);
      if (ret != 0)
        return ret;
      file_offset += n;
      bytes -= n;
    }
  return 0;
}

int coroutine_fn
vhdx_co_for_each_entry_in (VhdxState *s, uint64_t first, uint64_t end, VhdxBatVisitor *visit, void *opaque)
{
  int64_t at = vhdx_bat_file_offset (s, first), stop = vhdx_bat_file_offset (s, end);
  Scan scan = { s, visit, opaque, MIN (stop - at, PIECE_BYTES), NULL };
  int ret = 0;

  while (at < stop && ret == 0)
    {
      bool zero;
      int64_t run = next_run (s, at, stop - at, &zero);

      if (!zero)
        ret = scan_data (&scan, at, run);
      at += run;
    }
  bdrv_free_buffer (scan.buffer);
  return ret;
}

int coroutine_fn
vhdx_co_for_each_entry (VhdxState *s, VhdxBatVisitor *visit, void *opaque)
{
  return vhdx_co_for_each_entry_in (s, 0, s->bat_entries, visit, opaque);
}
