/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map of a VHDX file's space, against an array of booleans. */
#include <string.h>

#include <glib.h>

#include "../../block/drivers/vhdx/vhdx.h"

#define MODEL_MIB 1000
#define ROUNDS    20000

typedef struct
{
  bool used[MODEL_MIB];
} Model;

static bool
model_take (Model *model, int first, int count, bool value)
{
  bool was_free = true;

  for (int i = first; i < first + count; i++)
    {
      was_free = was_free && !model->used[i];
      model->used[i] = value;
    }
  return was_free;
}

static int64_t
model_find (const Model *model, int count, int from, int limit)
{
  for (int start = from; start + count <= limit; start++)
    {
      int n = 0;

      while (n < count && !model->used[start + n])
        n++;
      if (n == count)
        return start * VHDX_MIB;
    }
  return -1;
}

static int64_t
model_end (const Model *model)
{
  int end = MODEL_MIB;

  while (end > 0 && !model->used[end - 1])
    end--;
  return end * VHDX_MIB;
}

static int64_t
model_free (const Model *model, int from, int limit)
{
  int n = 0;

  for (int i = from; i < limit; i++)
    n += !model->used[i];
  return n * VHDX_MIB;
}

/* Lengths of all kinds: mostly short, some of many words. */
static int
random_count (int max)
{
  int count =
      g_test_rand_int_range (0, 4) == 0 ? g_test_rand_int_range (1, 300) : g_test_rand_int_range (1, 12);

  return MIN (count, max);
}

static void
test_model (void)
{
  g_autoptr (VhdxSpace) space = vhdx_space_new ();
  Model model = { 0 };
  int hits = 0;

  for (int i = 0; i < ROUNDS; i++)
    {
      int first = g_test_rand_int_range (0, MODEL_MIB), count = random_count (MODEL_MIB - first);
      int from = g_test_rand_int_range (0, MODEL_MIB), limit = g_test_rand_int_range (0, MODEL_MIB + 1);
      int64_t found;

      /* Now fuller, now emptier. */
      if (g_test_rand_int_range (0, 100) < (i / 500 % 2 ? 30 : 70))
        {
          g_assert_true (vhdx_space_take (space, first * VHDX_MIB, count * VHDX_MIB)
                         == model_take (&model, first, count, true));
        }
      else
        {
          vhdx_space_release (space, first * VHDX_MIB, count * VHDX_MIB);
          model_take (&model, first, count, false);
        }
      count = random_count (MODEL_MIB);
      found = vhdx_space_find (space, count * VHDX_MIB, from * VHDX_MIB, limit * VHDX_MIB);
      g_assert_cmpint (found, ==, model_find (&model, count, from, limit));
      hits += found >= 0;
      g_assert_cmpint (vhdx_space_end (space), ==, model_end (&model));
      if (from <= limit)
        g_assert_cmpint (vhdx_space_free_bytes (space, from * VHDX_MIB, limit * VHDX_MIB), ==,
                         model_free (&model, from, limit));
    }
  g_assert_cmpint (hits, >, ROUNDS / 100);
  g_assert_cmpint (hits, <, ROUNDS);
}

static void
test_rounding (void)
{
  g_autoptr (VhdxSpace) space = vhdx_space_new ();

  g_assert_cmpint (vhdx_space_end (space), ==, 0);
  g_assert_true (vhdx_space_take (space, 3 * VHDX_MIB - 1, 2));
  g_assert_cmpint (vhdx_space_end (space), ==, 4 * VHDX_MIB);
  g_assert_false (vhdx_space_take (space, 2 * VHDX_MIB, 1));
  g_assert_true (vhdx_space_take (space, 1 * VHDX_MIB, VHDX_MIB));
  /* A hint inside a MiB starts behind it, a limit inside one ends before it. */
  g_assert_cmpint (vhdx_space_find (space, 1, 4 * VHDX_MIB + 1, 100 * VHDX_MIB), ==, 5 * VHDX_MIB);
  g_assert_cmpint (vhdx_space_find (space, VHDX_MIB + 1, 4 * VHDX_MIB, 6 * VHDX_MIB - 1), ==, -1);
  g_assert_cmpint (vhdx_space_find (space, VHDX_MIB, 0, VHDX_MIB), ==, 0);
  g_assert_cmpint (vhdx_space_find (space, 2 * VHDX_MIB, 0, INT64_MAX), ==, 4 * VHDX_MIB);
}

/* The ends of what there can be. */
static void
test_limits (void)
{
  g_autoptr (VhdxSpace) space = vhdx_space_new ();
  int64_t last = VHDX_MAX_FILE_BYTES - VHDX_MAX_BLOCK_SIZE;

  g_assert_true (vhdx_space_take (space, last, VHDX_MAX_BLOCK_SIZE));
  g_assert_cmpint (vhdx_space_end (space), ==, VHDX_MAX_FILE_BYTES);
  g_assert_cmpint (vhdx_space_find (space, VHDX_MIB, last, INT64_MAX), ==, -1);
  g_assert_cmpint (vhdx_space_find (space, VHDX_MIB, last - 1, INT64_MAX), ==, -1);
  g_assert_cmpint (vhdx_space_find (space, VHDX_MIB, last - VHDX_MIB, INT64_MAX), ==, last - VHDX_MIB);
  g_assert_cmpint (vhdx_space_free_bytes (space, 0, INT64_MAX), ==, last);
  /* What is not below the limit is no space, and nothing is written for it. */
  g_assert_false (vhdx_space_take (space, last + VHDX_MIB, VHDX_MAX_BLOCK_SIZE));
  g_assert_false (vhdx_space_take (space, VHDX_MAX_FILE_BYTES, VHDX_MIB));
  g_assert_false (vhdx_space_take (space, INT64_MAX - 1, VHDX_MIB));
  g_assert_false (vhdx_space_take (space, -VHDX_MIB, VHDX_MIB));
  g_assert_false (vhdx_space_take (space, 0, INT64_MAX));
  vhdx_space_release (space, -VHDX_MIB, VHDX_MAX_FILE_BYTES);
  vhdx_space_release (space, last, INT64_MAX);
  g_assert_cmpint (vhdx_space_end (space), ==, VHDX_MAX_FILE_BYTES);
  vhdx_space_release (space, last, VHDX_MAX_BLOCK_SIZE);
  g_assert_cmpint (vhdx_space_end (space), ==, 0);
  g_assert_true (vhdx_space_take (space, 0, VHDX_MAX_FILE_BYTES));
  g_assert_cmpint (vhdx_space_find (space, 1, 0, INT64_MAX), ==, -1);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/vhdx-space/model", test_model);
  g_test_add_func ("/vhdx-space/rounding", test_rounding);
  g_test_add_func ("/vhdx-space/limits", test_limits);
  return g_test_run ();
}
