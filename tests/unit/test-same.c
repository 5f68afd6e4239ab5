/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether one image shows what another does, and what is read to find out. */
#include "test-core-util.h"

#include "same.h"

#include <errno.h>

#define MIB (1024 * 1024)

typedef struct
{
  MemFile mem[2];
  SamePair pair;
} Two;

static void coroutine_fn
co_two_open (Two *two, int64_t a, int64_t b)
{
  BlockDriverState *bs[2];

  for (int i = 0; i < 2; i++)
    {
      mem_file_init (&two->mem[i], i == 0 ? a : b);
      bs[i] = co_mem_open (&two->mem[i], 0);
    }
  g_assert_cmpint (same_pair_init (&two->pair, bs[0], bs[1]), ==, 0);
}

static void coroutine_fn
co_two_close (Two *two)
{
  for (int i = 0; i < 2; i++)
    {
      bdrv_co_unref (two->pair.side[i]);
      mem_file_clear (&two->mem[i]);
    }
  same_pair_clear (&two->pair);
}

/* Each byte counts, in any piece of a range, and none beside it. */
static void coroutine_fn
co_data (void *opaque)
{
  const int64_t at[] = { 512, 513, MIB, MIB + 511, MIB + 512, 3 * MIB - 1 };
  Two two;

  co_two_open (&two, 4 * MIB, 3 * MIB);
  for (size_t i = 0; i < G_N_ELEMENTS (at); i++)
    for (int side = 0; side < 2; side++)
      {
        g_assert_cmpint (same_co_range (&two.pair, 512, 3 * MIB - 512), ==, 1);
        two.mem[side].data->data[at[i]] = 1;
        g_assert_cmpint (same_co_range (&two.pair, 512, 3 * MIB - 512), ==, 0);
        g_assert_cmpint (same_co_range (&two.pair, 0, 512), ==, 1);
        two.mem[side].data->data[at[i]] = 0;
      }
  co_two_close (&two);
}

/* What one of them does not have is not shown by it, be it zeros. */
static void coroutine_fn
co_past_the_end (void *opaque)
{
  Two two;

  co_two_open (&two, 2 * MIB, MIB);
  g_assert_cmpint (same_co_range (&two.pair, 0, MIB), ==, 1);
  g_assert_cmpint (same_co_range (&two.pair, 0, MIB + 512), ==, 0);
  g_assert_cmpint (same_co_range (&two.pair, MIB, 512), ==, 0);
  co_two_close (&two);
  co_two_open (&two, MIB, 2 * MIB);
  g_assert_cmpint (same_co_range (&two.pair, 0, MIB + 512), ==, 0);
  co_two_close (&two);
}

/* Read where not both are known to be zeros, and only there. */
static void coroutine_fn
co_zeros (void *opaque)
{
  Two two;

  co_two_open (&two, 4 * MIB, 4 * MIB);
  two.mem[0].hole_start = MIB;
  two.mem[0].hole_end = 3 * MIB;
  two.mem[1].hole_start = 2 * MIB;
  two.mem[1].hole_end = 4 * MIB;
  g_assert_cmpint (same_co_range (&two.pair, 2 * MIB, MIB), ==, 1);
  g_assert_cmpuint (two.mem[0].count[MEM_READ] + two.mem[1].count[MEM_READ], ==, 0);
  g_assert_cmpint (same_co_range (&two.pair, 0, 4 * MIB), ==, 1);
  g_assert_cmpuint (two.mem[0].count[MEM_READ], ==, 3);
  g_assert_cmpuint (two.mem[1].count[MEM_READ], ==, 3);
  /* Data above zeros, on either side. */
  two.mem[1].data->data[2 * MIB - 1] = 1;
  g_assert_cmpint (same_co_range (&two.pair, MIB, 2 * MIB), ==, 0);
  two.mem[1].data->data[2 * MIB - 1] = 0;
  two.mem[0].data->data[3 * MIB] = 1;
  g_assert_cmpint (same_co_range (&two.pair, 2 * MIB, 2 * MIB), ==, 0);
  co_two_close (&two);
}

static void coroutine_fn
co_errors (void *opaque)
{
  for (int side = 0; side < 2; side++)
    {
      Two two;

      co_two_open (&two, 2 * MIB, 2 * MIB);
      two.mem[side].fail_ret[MEM_READ] = -EIO;
      two.mem[side].fail_after[MEM_READ] = 1;
      g_assert_cmpint (same_co_range (&two.pair, 0, 2 * MIB), ==, -EIO);
      co_two_close (&two);
    }
}

static const struct
{
  const char *name;
  CoroutineEntry *entry;
} cases[] = {
  { "/same/data", co_data },
  { "/same/past-the-end", co_past_the_end },
  { "/same/zeros", co_zeros },
  { "/same/errors", co_errors },
};

static void
test_case (gconstpointer i)
{
  test_run (cases[GPOINTER_TO_SIZE (i)].entry, NULL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (size_t i = 0; i < G_N_ELEMENTS (cases); i++)
    g_test_add_data_func (cases[i].name, GSIZE_TO_POINTER (i), test_case);
  return g_test_run ();
}
