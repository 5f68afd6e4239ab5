/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The planner of a compaction: examples, and random layouts against a model of the file. */
#include "checked.h"
#include "compact-plan.h"

#include <vhdkit/error.h>

static void
layout_init (BlockLayout *layout, int64_t alignment, int64_t phase, int64_t tail)
{
  *layout = (BlockLayout){
    .extents = g_array_new (FALSE, FALSE, sizeof (BlockExtent)),
    .block_size = 4096,
    .alignment = alignment,
    .alignment_phase = phase,
    .tail_bytes = tail,
  };
}

static void
add (BlockLayout *layout, int64_t file_offset, int64_t bytes, int64_t offset)
{
  BlockExtent extent = { .file_offset = file_offset, .bytes = bytes, .offset = offset };

  g_array_append_val (layout->extents, extent);
  layout->file_size = file_offset + bytes + layout->tail_bytes;
}

static const BlockMove *
move_at (const CompactPlan *plan, guint index)
{
  g_assert_cmpuint (index, <, plan->moves->len);
  return &g_array_index (plan->moves, BlockMove, index);
}

static void
test_example (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  /* [meta][0][hole][1][hole of 2][2][3] */
  layout_init (&layout, 1, 0, 512);
  add (&layout, 0, 1000, -1);
  add (&layout, 1000, 100, 0);
  add (&layout, 1200, 100, 4096);
  add (&layout, 1500, 100, 8192);
  add (&layout, 1600, 100, 12288);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpuint (plan.moves->len, ==, 2);
  g_assert_cmpint (move_at (&plan, 0)->from, ==, 1600);
  g_assert_cmpint (move_at (&plan, 0)->to, ==, 1100);
  g_assert_cmpint (move_at (&plan, 0)->offset, ==, 12288);
  g_assert_cmpint (move_at (&plan, 1)->from, ==, 1500);
  g_assert_cmpint (move_at (&plan, 1)->to, ==, 1300);
  g_assert_cmpint (plan.file_size, ==, 1400 + 512);
  g_assert_cmpint (plan.bytes, ==, 200);
  g_assert_cmpint (plan.end, ==, COMPACT_END_NO_HOLE);
}

static void
test_pinned_by_metadata (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  layout_init (&layout, 1, 0, 0);
  add (&layout, 1000, 100, 0);
  add (&layout, 1200, 10, -1);
  add (&layout, 1300, 100, 4096);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpuint (plan.moves->len, ==, 1);
  g_assert_cmpint (plan.end, ==, COMPACT_END_METADATA);
  g_assert_cmpint (plan.end_offset, ==, 1200);
  g_assert_cmpint (plan.file_size, ==, 1210);
}

static void
test_gap_too_short (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  layout_init (&layout, 1, 0, 0);
  add (&layout, 0, 100, -1);
  add (&layout, 150, 100, 0);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpuint (plan.moves->len, ==, 0);
  g_assert_cmpint (plan.end, ==, COMPACT_END_NO_HOLE);
  g_assert_cmpint (plan.end_offset, ==, 150);
  g_assert_cmpint (plan.file_size, ==, 250);
}

static void
test_alignment (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  /* As a VHD: a 512-byte bitmap before data that is to be 4 KiB-aligned. */
  layout_init (&layout, 4096, 3584, 512);
  add (&layout, 0, 2048, -1);
  add (&layout, 100000, 4608, 0);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpint (move_at (&plan, 0)->to, ==, 3584);
  g_assert_cmpint (plan.file_size, ==, 3584 + 4608 + 512);
  g_assert_cmpint (plan.end, ==, COMPACT_END_METADATA);
}

/* Packed as other writers do it: single holes have no slack for an alignment. */
static void
test_least_alignment (void)
{
  for (int single = 0; single < 2; single++)
    {
      g_auto (BlockLayout) layout = { 0 };
      g_auto (CompactPlan) plan = { 0 };
      const int64_t span = 65536 + 512;

      layout_init (&layout, 4096, 3584, 512);
      layout.least_alignment = single ? 512 : 0;
      add (&layout, 0, 2048, -1);
      for (int i = 0; i < 20; i += 2)
        add (&layout, 2048 + i * span, span, i * 65536);
      g_assert_true (compact_plan_make (&layout, &plan, NULL));
      if (single)
        {
          g_assert_cmpuint (plan.moves->len, ==, 5);
          g_assert_cmpint (plan.file_size, ==, 2048 + 10 * span + 512);
        }
      else
        g_assert_cmpuint (plan.moves->len, <, 5);
    }
}

static void
test_empty (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };

  layout_init (&layout, 1, 0, 512);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpuint (plan.moves->len, ==, 0);
  g_assert_cmpint (plan.end, ==, COMPACT_END_EMPTY);
  g_assert_cmpint (plan.file_size, ==, 512);
}

static void
expect_refused (BlockLayout *layout, VhdkitError code)
{
  g_autoptr (GError) error = NULL;
  g_auto (CompactPlan) plan = { 0 };

  g_assert_false (compact_plan_make (layout, &plan, &error));
  g_assert_error (error, VHDKIT_ERROR, (int)code);
  block_layout_clear (layout);
}

static void
test_bad_layouts (void)
{
  BlockLayout layout;

  layout_init (&layout, 1, 0, 0);
  add (&layout, 100, 100, 0);
  add (&layout, 150, 100, 4096);
  expect_refused (&layout, VHDKIT_ERROR_CORRUPT);

  layout_init (&layout, 1, 0, 0);
  add (&layout, 300, 100, 0);
  add (&layout, 100, 100, 4096);
  expect_refused (&layout, VHDKIT_ERROR_CORRUPT);

  layout_init (&layout, 1, 0, 0);
  add (&layout, 0, -1, 0);
  expect_refused (&layout, VHDKIT_ERROR_CORRUPT);

  layout_init (&layout, 4096, 0, 512);
  layout.file_size = 0;
  BlockExtent huge = { .file_offset = INT64_MAX - 100, .bytes = 100, .offset = 0 };
  g_array_append_val (layout.extents, huge);
  expect_refused (&layout, VHDKIT_ERROR_CORRUPT);

  layout_init (&layout, 0, 0, 0);
  expect_refused (&layout, VHDKIT_ERROR_FAILED);
}

static void
test_groups (void)
{
  g_auto (BlockLayout) layout = { 0 };
  g_auto (CompactPlan) plan = { 0 };
  const int blocks = 200;
  const int64_t mib = 1024 * 1024;
  int groups = 0, moves = 0;

  layout_init (&layout, 1, 0, 0);
  for (int i = 0; i < blocks; i++)
    add (&layout, (blocks + i) * 2 * mib, 2 * mib, i * 2 * mib);
  g_assert_true (compact_plan_make (&layout, &plan, NULL));
  g_assert_cmpuint (plan.moves->len, ==, blocks);
  for (int first = 0, n; (n = compact_plan_group (&plan, first)) > 0; first += n)
    {
      g_assert_cmpint (n, <=, 32); /* 64 MiB */
      groups++;
      moves += n;
    }
  g_assert_cmpint (moves, ==, blocks);
  g_assert_cmpint (groups, ==, (blocks + 31) / 32);
}

/* The least end of a file that holds all blocks in the holes there are, by trying all numbers of moves. */
static int64_t
best_end (const BlockLayout *layout)
{
  int64_t best = INT64_MAX;

  for (guint moved = 0; moved <= layout->extents->len; moved++)
    {
      guint stay = layout->extents->len - moved;
      guint placed = 0;
      int64_t end = 0, hole = 0;
      int64_t limit = INT64_MAX;

      if (moved > 0)
        {
          const BlockExtent *lowest = &g_array_index (layout->extents, BlockExtent, stay);
          if (lowest->offset < 0)
            break;
          limit = lowest->file_offset;
        }
      for (guint i = 0; i < layout->extents->len; i++)
        {
          const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);
          int64_t bytes = g_array_index (layout->extents, BlockExtent, layout->extents->len - 1).bytes;

          for (; placed < moved && extent->file_offset <= limit; placed++)
            {
              while (hole % layout->alignment != layout->alignment_phase)
                hole++;
              if (extent->file_offset < hole + bytes)
                break;
              end = MAX (end, hole + bytes);
              hole += bytes;
            }
          hole = extent->file_offset + extent->bytes;
          if (i < stay)
            end = MAX (end, hole);
        }
      if (placed == moved)
        best = MIN (best, end);
    }
  return best + layout->tail_bytes;
}

static void
check_plan (const BlockLayout *layout, const CompactPlan *plan)
{
  g_autofree bool *moved = g_new0 (bool, layout->extents->len);
  int64_t end = 0;

  for (guint m = 0; m < plan->moves->len; m++)
    {
      const BlockMove *move = &g_array_index (plan->moves, BlockMove, m);

      g_assert_cmpint (move->to, <, move->from);
      g_assert_cmpint (move->to % layout->alignment, ==, layout->alignment_phase);
      /* Free before any move, and not used twice. */
      for (guint i = 0; i < layout->extents->len; i++)
        {
          const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);

          g_assert_false (ranges_overlap (move->to, move->bytes, extent->file_offset, extent->bytes));
          if (extent->file_offset == move->from)
            {
              g_assert_cmpint (extent->offset, ==, move->offset);
              g_assert_cmpint (extent->offset, >=, 0);
              g_assert_cmpint (extent->bytes, ==, move->bytes);
              g_assert_false (moved[i]);
              moved[i] = true;
            }
        }
      for (guint other = 0; other < m; other++)
        {
          const BlockMove *before = &g_array_index (plan->moves, BlockMove, other);
          g_assert_false (ranges_overlap (move->to, move->bytes, before->to, before->bytes));
        }
      /* Needed: it lay above the end. */
      g_assert_cmpint (move->from + layout->tail_bytes, >=, plan->file_size);
      end = MAX (end, move->to + move->bytes);
    }
  guint count = 0;
  for (guint i = 0; i < layout->extents->len; i++)
    {
      const BlockExtent *extent = &g_array_index (layout->extents, BlockExtent, i);
      count += moved[i];
      if (!moved[i])
        end = MAX (end, extent->file_offset + extent->bytes);
    }
  g_assert_cmpuint (count, ==, plan->moves->len);
  g_assert_cmpint (plan->file_size, ==, end + layout->tail_bytes);
  g_assert_cmpint (plan->file_size, ==, best_end (layout));
}

static void
test_random (void)
{
  for (int round = 0; round < 3000; round++)
    {
      static const int64_t alignments[] = { 1, 8, 64 };
      g_auto (BlockLayout) layout = { 0 };
      g_auto (CompactPlan) plan = { 0 };
      int64_t alignment = alignments[g_test_rand_int_range (0, 3)];
      int64_t block = g_test_rand_int_range (1, 5) * 32;
      int64_t at = 0;
      int n = g_test_rand_int_range (0, 40);

      layout_init (&layout, alignment, g_test_rand_int_range (0, (gint32)alignment), 7);
      for (int i = 0; i < n; i++)
        {
          bool metadata = g_test_rand_int_range (0, 8) == 0;
          int64_t bytes = metadata ? g_test_rand_int_range (1, 100) : block;

          if (g_test_rand_int_range (0, 2) == 0)
            at += g_test_rand_int_range (0, 400);
          add (&layout, at, bytes, metadata ? -1 : i * 4096);
          at += bytes;
        }
      if (layout.extents->len > 0
          && g_array_index (layout.extents, BlockExtent, layout.extents->len - 1).offset < 0)
        continue; /* pinned from the start; best_end () has no block size */
      g_assert_true (compact_plan_make (&layout, &plan, NULL));
      check_plan (&layout, &plan);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/compact-plan/example", test_example);
  g_test_add_func ("/compact-plan/pinned-by-metadata", test_pinned_by_metadata);
  g_test_add_func ("/compact-plan/gap-too-short", test_gap_too_short);
  g_test_add_func ("/compact-plan/alignment", test_alignment);
  g_test_add_func ("/compact-plan/least-alignment", test_least_alignment);
  g_test_add_func ("/compact-plan/empty", test_empty);
  g_test_add_func ("/compact-plan/bad-layouts", test_bad_layouts);
  g_test_add_func ("/compact-plan/groups", test_groups);
  g_test_add_func ("/compact-plan/random", test_random);
  return g_test_run ();
}
