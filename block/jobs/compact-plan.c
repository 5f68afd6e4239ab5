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
 * Aligned places are preferred as long as the file does not end a block's length higher for it.  Images whose
 * blocks were packed by another writer have holes without any slack.
 *
 * Holes are those of the layout as it is: a source is not a hole until its move is durable (I3), and all
 * sources lie above the new end anyway.  What cannot be used: holes shorter than a block at its alignment,
 * and the gap right below a block when it is shorter than the block, since overlapping copies are not crash
 * safe.
 */
#include "compact-plan.h"

#include "checked.h"

/* One group is copied, made durable and switched over as a whole.  Small blocks make large groups: each costs
 * two flushes. */
#define GROUP_MOVES 4096
#define GROUP_BYTES (64 * 1024 * 1024)

typedef struct
{
  int64_t start, end;
} Hole;

/* Where a block may begin. */
typedef struct
{
  int64_t alignment, phase;
} Places;

/* The lowest place >= @start. */
static int64_t
next_place (const Places *places, int64_t start)
{
  int64_t beyond = (start - places->phase) % places->alignment;

  if (beyond < 0)
    beyond += places->alignment;
  return beyond == 0 ? start : start + places->alignment - beyond;
}

static bool
check_layout (const BlockLayout *layout, GError **error)
{
  int64_t last_end = 0;

  if (layout->alignment <= 0 || layout->alignment_phase < 0 || layout->alignment_phase >= layout->alignment
      || layout->least_alignment < 0 || layout->least_alignment > layout->alignment || layout->tail_bytes < 0)
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

      if (extent->bytes < 0 || extent->file_offset < last_end
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
take_place (const Places *places, GArray *holes, guint *first, int64_t bytes, int64_t below)
{
  for (; *first < holes->len; (*first)++)
    {
      Hole *hole = &g_array_index (holes, Hole, *first);
      int64_t place = next_place (places, hole->start);

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

/* Fills in @plan but for its moves; those go to plan->moves if it is there.  @layout was checked. */
static void
plan_moves (const BlockLayout *layout, const Places *places, CompactPlan *plan)
{
  g_autoptr (GArray) holes = find_holes (layout);
  guint left = layout->extents->len; /* extents that stay, so far */
  guint first = 0;
  int64_t searched = 0; /* the size @first is true for */
  int64_t end = 0;      /* of what was moved */

  plan->end = COMPACT_END_EMPTY;
  plan->end_offset = -1;
  for (; left > 0; left--)
    {
      const BlockExtent *last = &g_array_index (layout->extents, BlockExtent, left - 1);
      int64_t place = -1;

      if (last->bytes == 0)
        continue;
      if (last->offset != BLOCK_EXTENT_FIXED)
        {
          if (last->bytes < searched)
            first = 0;
          searched = last->bytes;
          place = take_place (places, holes, &first, last->bytes, last->file_offset);
        }
      if (place < 0)
        {
          plan->end = last->offset == BLOCK_EXTENT_FIXED ? COMPACT_END_METADATA : COMPACT_END_NO_HOLE;
          plan->end_offset = last->file_offset;
          end = MAX (end, last->file_offset + last->bytes);
          break;
        }
      BlockMove move = {
        .offset = last->offset, .from = last->file_offset, .to = place, .bytes = last->bytes
      };
      if (plan->moves != NULL)
        g_array_append_val (plan->moves, move);
      plan->bytes += move.bytes;
      end = MAX (end, place + move.bytes);
    }
  plan->file_size = end + layout->tail_bytes;
}

static int64_t
largest_block (const BlockLayout *layout)
{
  int64_t bytes = 0;

  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);

      if (extent->offset >= 0)
        bytes = MAX (bytes, extent->bytes);
    }
  return bytes;
}

/* Well placed blocks are worth a little, but not a block's length. */
static Places
choose_places (const BlockLayout *layout)
{
  Places aligned = { .alignment = layout->alignment, .phase = layout->alignment_phase };
  Places packed = { .alignment = layout->least_alignment };
  CompactPlan with_aligned = { 0 }, with_packed = { 0 };

  if (layout->least_alignment == 0)
    return aligned;
  plan_moves (layout, &aligned, &with_aligned);
  plan_moves (layout, &packed, &with_packed);
  return with_packed.file_size <= with_aligned.file_size - largest_block (layout) ? packed : aligned;
}

bool
compact_plan_make (const BlockLayout *layout, CompactPlan *plan, GError **error)
{
  *plan = (CompactPlan){ 0 };
  if (!check_layout (layout, error))
    return false;

  Places places = choose_places (layout);
  plan->moves = g_array_new (FALSE, FALSE, sizeof (BlockMove));
  plan_moves (layout, &places, plan);
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
