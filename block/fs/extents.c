/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "extents.h"

#include "checked.h"

void
fs_extents_init (FsExtents *extents, guint max, int64_t granularity)
{
  *extents = (FsExtents){
    .array = g_array_new (FALSE, FALSE, sizeof (FsExtent)),
    .max = max,
    .granularity = granularity,
  };
}

void
fs_extents_clear (FsExtents *extents)
{
  g_clear_pointer (&extents->array, g_array_unref);
}

static inline FsExtent *
extent_at (const GArray *array, guint i)
{
  return &g_array_index (array, FsExtent, i);
}

static int
compare_offsets (const void *a, const void *b)
{
  const FsExtent *x = a, *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static bool
holds_a_unit (const FsExtent *extent, int64_t granularity)
{
  if (granularity == 0)
    return true;
  int64_t start = extent->offset;
  int64_t to_next = (granularity - start % granularity) % granularity;
  return extent->bytes - to_next >= granularity;
}

static void
join (GArray *array)
{
  guint kept = 0;

  g_array_sort (array, compare_offsets);
  for (guint i = 0; i < array->len; i++)
    {
      FsExtent extent = *extent_at (array, i);
      FsExtent *last = kept > 0 ? extent_at (array, kept - 1) : NULL;

      if (last != NULL && extent.offset <= last->offset + last->bytes)
        last->bytes = MAX (last->offset + last->bytes, extent.offset + extent.bytes) - last->offset;
      else
        *extent_at (array, kept++) = extent;
    }
  g_array_set_size (array, kept);
}

static void
drop_useless (GArray *array, int64_t granularity)
{
  guint kept = 0;

  for (guint i = 0; i < array->len; i++)
    if (holds_a_unit (extent_at (array, i), granularity))
      *extent_at (array, kept++) = *extent_at (array, i);
  g_array_set_size (array, kept);
}

/* floor (log2 (bytes)) */
static guint
size_class (const FsExtent *extent)
{
  return 63 - (guint)__builtin_clzll ((unsigned long long)extent->bytes);
}

/* Drops the smallest, judged by powers of two, until @keep are left. */
static void
drop_smallest (GArray *array, guint keep)
{
  guint of_size[64] = { 0 };
  guint excess = array->len - keep, kept = 0;
  guint size = 0;

  for (guint i = 0; i < array->len; i++)
    of_size[size_class (extent_at (array, i))]++;
  while (of_size[size] <= excess)
    excess -= of_size[size++];
  /* All below @size go, and @excess of that size. */
  for (guint i = 0; i < array->len; i++)
    {
      guint its_size = size_class (extent_at (array, i));

      if (its_size < size || (its_size == size && excess > 0 && excess--))
        continue;
      *extent_at (array, kept++) = *extent_at (array, i);
    }
  g_array_set_size (array, kept);
}

void
fs_extents_finish (FsExtents *extents)
{
  join (extents->array);
  drop_useless (extents->array, extents->granularity);
}

static void
make_room (FsExtents *extents)
{
  fs_extents_finish (extents);
  /* Half of it, so that the next time is far. */
  if (extents->array->len <= extents->max / 2)
    return;
  extents->incomplete = true;
  drop_smallest (extents->array, extents->max / 2);
}

void
fs_extents_add (FsExtents *extents, int64_t offset, int64_t bytes)
{
  GArray *array = extents->array;

  if (bytes == 0)
    return;
  if (array->len > 0)
    {
      FsExtent *last = extent_at (array, array->len - 1);

      if (last->offset + last->bytes == offset)
        {
          last->bytes += bytes;
          return;
        }
    }
  if (array->len == extents->max)
    make_room (extents);
  g_array_append_val (array, ((FsExtent){ offset, bytes }));
}

guint
fs_extents_find (const GArray *array, int64_t offset)
{
  guint low = 0, high = array->len;

  while (low < high)
    {
      guint middle = low + (high - low) / 2;

      if (extent_at (array, middle)->offset + extent_at (array, middle)->bytes > offset)
        high = middle;
      else
        low = middle + 1;
    }
  return low;
}

void
fs_extents_subtract (FsExtents *extents, const FsExtents *others)
{
  FsExtents left;

  fs_extents_init (&left, extents->max, extents->granularity);
  left.incomplete = extents->incomplete;
  for (guint i = 0, next = 0; i < extents->array->len; i++)
    {
      FsExtent extent = *extent_at (extents->array, i);
      int64_t start = extent.offset, end = extent.offset + extent.bytes;

      for (; next < others->array->len && start < end; next++)
        {
          const FsExtent *other = extent_at (others->array, next);

          if (other->offset >= end)
            break;
          if (other->offset > start)
            fs_extents_add (&left, start, other->offset - start);
          start = MAX (start, other->offset + other->bytes);
          if (other->offset + other->bytes > end)
            break; /* the next one may need it too */
        }
      if (start < end)
        fs_extents_add (&left, start, end - start);
    }
  fs_extents_finish (&left);
  fs_extents_clear (extents);
  *extents = left;
}

int64_t
fs_extents_bytes (const FsExtents *extents)
{
  int64_t bytes = 0;

  for (guint i = 0; i < extents->array->len; i++)
    bytes += extent_at (extents->array, i)->bytes;
  return bytes;
}
