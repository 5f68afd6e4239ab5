/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The planner of a compaction.
 *
 * The end of the file is where its last extent ends, so only the last extent is ever worth moving:
 *
 *     while the last extent is a payload block and a hole below has room for it
 *       move it to the lowest such hole
 *
 * A moved block lands below its old place, and everything moved lay above what stays, so no move is wasted
 * and the end only goes down.  With blocks of one size, as formats have them, no other choice of moves into
 * the holes there are ends lower.
 *
 *     before   [hdr][A][....][B][..................][C][D]|ftr
 *     plan     D -> first hole, C -> the next
 *     after    [hdr][A][D][B][C]|ftr
 *
 * Holes are those of the layout as it is: a source is not a hole until its move is durable (I3), and all
 * sources lie above the new end anyway.  What cannot be used: holes shorter than a block at its alignment,
 * and the gap right below a block when it is shorter than the block, since overlapping copies are not crash
 * safe.
 */
#include "compact-plan.h"

#include "checked.h"

/* One group is copied, made durable and switched over as a whole. */
#define GROUP_MOVES 64
#define GROUP_BYTES (64 * 1024 * 1024)

typedef struct
{
  int64_t start, end;
} Hole;

/* The lowest place >= @start where a block may begin. */
static int64_t
align_to_phase (const BlockLayout *layout, int64_t start)
{
  int64_t beyond = (start - layout->alignment_phase) % layout->alignment;

  if (beyond < 0)
    beyond += layout->alignment;
  return beyond == 0 ? start : start + layout->alignment - beyond;
}

static bool
check_layout (const BlockLayout *layout, GError **error)
{
  int64_t last_end = 0;

  if (layout->alignment <= 0 || layout->alignment_phase < 0 || layout->alignment_phase >= layout->alignment
      || layout->tail_bytes < 0)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_FAILED,
                   "container layout: alignment %" G_GINT64_FORMAT ", phase %" G_GINT64_FORMAT
                   ", tail of %" G_GINT64_FORMAT " bytes",
                   layout->alignment, layout->alignment_phase, layout->tail_bytes);
      return false;
    }
  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);
      int64_t end;

      if (extent->bytes <= 0 || extent->file_offset < last_end
          || !checked_add (extent->file_offset, extent->bytes, &end)
          || end > INT64_MAX - layout->alignment - layout->tail_bytes)
        {
          g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                       "container layout: %" G_GINT64_FORMAT " bytes at file offset %" G_GINT64_FORMAT
                       ", after an extent that ends at %" G_GINT64_FORMAT,
                       extent->bytes, extent->file_offset, last_end);
          return false;
        }
      last_end = end;
    }
  return true;
}

static GArray *
find_holes (const BlockLayout *layout)
{
  GArray *holes = g_array_new (FALSE, FALSE, sizeof (Hole));
  int64_t end = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);
      Hole hole = { .start = end, .end = extent->file_offset };

      if (hole.end > hole.start)
        g_array_append_val (holes, hole);
      end = extent->file_offset + extent->bytes;
    }
  return holes;
}

/* Takes room for @bytes out of the lowest hole from index *first on that has it and ends at or before
 * @below; -1: none.  *first goes up over holes that are too short. */
static int64_t
take_place (const BlockLayout *layout, GArray *holes, guint *first, int64_t bytes, int64_t below)
{
  for (; *first < holes->len; (*first)++)
    {
      Hole *hole = &g_array_index (holes, Hole, *first);
      int64_t place = align_to_phase (layout, hole->start);

      if (hole->end > below)
        return -1;
      if (hole->end >= place && hole->end - place >= bytes)
        {
          hole->start = place + bytes;
          return place;
        }
    }
  return -1;
}

bool
compact_plan_make (const BlockLayout *layout, CompactPlan *plan, GError **error)
{
  *plan = (CompactPlan){ .end = COMPACT_END_EMPTY, .end_offset = -1 };
  if (!check_layout (layout, error))
    return false;

  g_autoptr (GArray) holes = find_holes (layout);
  guint left = layout->extents->len; /* extents that stay, so far */
  guint first = 0;
  int64_t searched = 0; /* the size @first is true for */
  int64_t moved_end = 0;

  plan->moves = g_array_new (FALSE, FALSE, sizeof (BlockMove));
  for (; left > 0; left--)
    {
      const BlockExtent *last = &g_array_index (layout->extents, BlockExtent, left - 1);

      plan->end_offset = last->file_offset;
      plan->end = last->offset < 0 ? COMPACT_END_METADATA : COMPACT_END_NO_HOLE;
      if (last->offset < 0)
        break;
      if (last->bytes < searched)
        first = 0;
      searched = last->bytes;

      int64_t place = take_place (layout, holes, &first, last->bytes, last->file_offset);
      if (place < 0)
        break;
      BlockMove move = {
        .offset = last->offset, .from = last->file_offset, .to = place, .bytes = last->bytes
      };
      g_array_append_val (plan->moves, move);
      plan->bytes += move.bytes;
      moved_end = MAX (moved_end, place + move.bytes);
    }
  if (left == 0)
    {
      plan->end = COMPACT_END_EMPTY;
      plan->end_offset = -1;
    }

  int64_t stay_end = 0;
  if (left > 0)
    {
      const BlockExtent *last = &g_array_index (layout->extents, BlockExtent, left - 1);
      stay_end = last->file_offset + last->bytes;
    }
  plan->file_size = MAX (stay_end, moved_end) + layout->tail_bytes;
  return true;
}

void
compact_plan_clear (CompactPlan *plan)
{
  g_clear_pointer (&plan->moves, g_array_unref);
}

int
compact_plan_group (const CompactPlan *plan, int first)
{
  int64_t bytes = 0;
  int n = 0;

  while (first + n < (int)plan->moves->len && n < GROUP_MOVES)
    {
      bytes += g_array_index (plan->moves, BlockMove, first + n).bytes;
      if (n > 0 && bytes > GROUP_BYTES)
        break;
      n++;
    }
  return n;
}
