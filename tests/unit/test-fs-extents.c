/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of byte ranges: joined, subtracted, and never larger than they may be, against a map of bytes. */
#include "extents.h"

#include <string.h>

#define MAP_BYTES 512
#define ROUNDS    2000

static FsExtent
at (const FsExtents *extents, guint i)
{
  return g_array_index (extents->array, FsExtent, i);
}

static void
add_random (FsExtents *extents, bool *map, int ranges)
{
  for (int i = 0; i < ranges; i++)
    {
      int offset = g_test_rand_int_range (0, MAP_BYTES);
      int bytes = g_test_rand_int_range (0, MIN (MAP_BYTES - offset, 20) + 1);

      fs_extents_add (extents, offset, bytes);
      memset (map + offset, 1, (size_t)bytes * sizeof *map);
    }
  fs_extents_finish (extents);
}

static void
assert_is_map (const FsExtents *extents, const bool *map)
{
  bool found[MAP_BYTES] = { 0 };
  int64_t end = -1;

  for (guint i = 0; i < extents->array->len; i++)
    {
      g_assert_cmpint (at (extents, i).offset, >, end);
      end = at (extents, i).offset + at (extents, i).bytes;
      memset (found + at (extents, i).offset, 1, (size_t)at (extents, i).bytes);
    }
  g_assert_cmpmem (found, sizeof found, map, MAP_BYTES);
  for (int offset = 0; offset < MAP_BYTES; offset++)
    {
      guint i = fs_extents_find (extents->array, offset);

      g_assert_true (i == extents->array->len || at (extents, i).offset + at (extents, i).bytes > offset);
      g_assert_true (i == 0 || at (extents, i - 1).offset + at (extents, i - 1).bytes <= offset);
    }
}

static void
test_random (void)
{
  for (int round = 0; round < ROUNDS; round++)
    {
      bool map[MAP_BYTES] = { 0 }, other_map[MAP_BYTES] = { 0 };
      g_auto (FsExtents) extents, others;

      fs_extents_init (&extents, 1000, 0);
      fs_extents_init (&others, 1000, 0);
      add_random (&extents, map, g_test_rand_int_range (0, 40));
      add_random (&others, other_map, g_test_rand_int_range (0, 40));
      assert_is_map (&extents, map);
      for (int i = 0; i < MAP_BYTES; i++)
        map[i] = map[i] && !other_map[i];
      fs_extents_subtract (&extents, &others);
      assert_is_map (&extents, map);
      g_assert_false (extents.incomplete);
    }
}

/* What a set with too little room has is never more than was added. */
static void
test_bounded (void)
{
  for (int round = 0; round < ROUNDS; round++)
    {
      bool map[MAP_BYTES] = { 0 };
      guint max = (guint)g_test_rand_int_range (2, 12);
      g_auto (FsExtents) extents;

      fs_extents_init (&extents, max, 0);
      add_random (&extents, map, 60);
      g_assert_cmpuint (extents.array->len, <=, max);
      for (guint i = 0; i < extents.array->len; i++)
        for (int64_t offset = at (&extents, i).offset;
             offset < at (&extents, i).offset + at (&extents, i).bytes; offset++)
          g_assert_true (map[offset]);
      g_assert_true (extents.incomplete || fs_extents_bytes (&extents) > 0);
    }
}

static void
test_smallest_go (void)
{
  g_auto (FsExtents) extents;

  fs_extents_init (&extents, 8, 0);
  for (int i = 0; i < 1000; i++)
    fs_extents_add (&extents, (int64_t)i * 4096, i % 300 == 7 ? 2048 : 1 + i % 5);
  fs_extents_finish (&extents);
  g_assert_true (extents.incomplete);
  for (int i = 7; i < 1000; i += 300)
    {
      guint found = fs_extents_find (extents.array, (int64_t)i * 4096);

      g_assert_cmpint (at (&extents, found).offset, ==, (int64_t)i * 4096);
      g_assert_cmpint (at (&extents, found).bytes, ==, 2048);
    }
}

static void
test_granularity (void)
{
  g_auto (FsExtents) extents;

  fs_extents_init (&extents, 2000, 100);
  for (int i = 0; i < 1000; i++)
    fs_extents_add (&extents, (int64_t)i * 1000 + 1, 198); /* one byte less than would hold a unit anywhere */
  fs_extents_add (&extents, 150, 149);
  fs_extents_add (&extents, 2000000, 60);
  fs_extents_add (&extents, 2000060, 40);
  fs_extents_finish (&extents);
  g_assert_false (extents.incomplete);
  g_assert_cmpuint (extents.array->len, ==, 2);
  g_assert_cmpint (at (&extents, 0).offset, ==, 1);
  g_assert_cmpint (at (&extents, 0).bytes, ==, 298);
  g_assert_cmpint (at (&extents, 1).offset, ==, 2000000);
}

static void
test_ends_of_the_range (void)
{
  g_auto (FsExtents) extents;

  fs_extents_init (&extents, 4, 512);
  fs_extents_add (&extents, INT64_MAX - 1024, 1024);
  fs_extents_add (&extents, 0, INT64_MAX - 1024);
  fs_extents_finish (&extents);
  g_assert_cmpuint (extents.array->len, ==, 1);
  g_assert_cmpint (fs_extents_bytes (&extents), ==, INT64_MAX);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/fs/extents/random", test_random);
  g_test_add_func ("/fs/extents/bounded", test_bounded);
  g_test_add_func ("/fs/extents/smallest-go", test_smallest_go);
  g_test_add_func ("/fs/extents/granularity", test_granularity);
  g_test_add_func ("/fs/extents/ends-of-the-range", test_ends_of_the_range);
  return g_test_run ();
}
