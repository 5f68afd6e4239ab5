/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coaio-config.h"

#include <coaio/iov.h>

#include <assert.h>
#include <limits.h>
#include <string.h>

#include "iov-int.h"

/* --- building ------------------------------------------------------------------------------------------- */

void
io_vector_init_external (IoVector *vector, struct iovec *iov, int niov)
{
  vector->iov = iov;
  vector->niov = niov;
  vector->capacity = 0;
  vector->size = 0;
  for (int i = 0; i < niov; i++)
    vector->size += iov[i].iov_len;
}

void
io_vector_init (IoVector *vector, int capacity_hint)
{
  vector->capacity = MAX (capacity_hint, 4);
  vector->iov = g_new (struct iovec, vector->capacity);
  vector->niov = 0;
  vector->size = 0;
}

void
io_vector_add (IoVector *vector, void *buf, size_t bytes)
{
  assert (vector->capacity > 0);
  if (vector->niov == vector->capacity)
    {
      assert (vector->capacity <= INT_MAX / 2);
      vector->capacity *= 2;
      vector->iov = g_renew (struct iovec, vector->iov, vector->capacity);
    }
  vector->iov[vector->niov].iov_base = buf;
  vector->iov[vector->niov].iov_len = bytes;
  vector->niov++;
  vector->size += bytes;
}

void
io_vector_clear (IoVector *vector)
{
  if (vector->capacity > 0)
    g_free (vector->iov);
  vector->iov = NULL;
  vector->niov = 0;
  vector->capacity = 0;
  vector->size = 0;
}

/* --- walking a slice ------------------------------------------------------------------------------------ */

typedef struct
{
  const struct iovec *element;
  size_t skip; /* bytes of the element before the slice */
  size_t left; /* bytes of the slice still to come */
} SliceWalk;

static SliceWalk
slice_begin (const IoVector *vector, size_t offset, size_t bytes)
{
  SliceWalk walk = { .element = vector->iov, .skip = offset, .left = bytes };

  assert (offset <= vector->size && bytes <= vector->size - offset);
  return walk;
}

/* The next piece with something in it; false at the end. */
static bool
slice_next (SliceWalk *walk, struct iovec *piece)
{
  if (walk->left == 0)
    return false;
  while (walk->skip >= walk->element->iov_len)
    {
      walk->skip -= walk->element->iov_len;
      walk->element++;
    }
  piece->iov_base = (char *)walk->element->iov_base + walk->skip;
  piece->iov_len = MIN (walk->element->iov_len - walk->skip, walk->left);
  walk->left -= piece->iov_len;
  walk->skip = 0;
  walk->element++;
  return true;
}

void
io_vector_add_slice (IoVector *vector, const IoVector *source, size_t offset, size_t bytes)
{
  SliceWalk walk = slice_begin (source, offset, bytes);
  struct iovec piece;

  while (slice_next (&walk, &piece))
    io_vector_add (vector, piece.iov_base, piece.iov_len);
}

void
io_vector_to_buf (const IoVector *vector, size_t offset, void *buf, size_t bytes)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;
  char *to = buf;

  for (; slice_next (&walk, &piece); to += piece.iov_len)
    memcpy (to, piece.iov_base, piece.iov_len);
}

void
io_vector_from_buf (const IoVector *vector, size_t offset, const void *buf, size_t bytes)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;
  const char *from = buf;

  for (; slice_next (&walk, &piece); from += piece.iov_len)
    memcpy (piece.iov_base, from, piece.iov_len);
}

void
io_vector_memset (const IoVector *vector, size_t offset, int byte, size_t bytes)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;

  while (slice_next (&walk, &piece))
    memset (piece.iov_base, byte, piece.iov_len);
}

int
io_vector_slice (const IoVector *vector, size_t offset, size_t bytes, struct iovec *out, int max)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;
  int n = 0;

  for (; slice_next (&walk, &piece); n++)
    {
      if (n == max)
        return -1;
      out[n] = piece;
    }
  return n;
}

size_t
io_vector_slice_some (const IoVector *vector, size_t offset, size_t bytes, struct iovec *out, int max, int *n)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  int count = 0;

  while (count < max && slice_next (&walk, &out[count]))
    count++;
  *n = count;
  return bytes - walk.left;
}

int
io_vector_slice_count (const IoVector *vector, size_t offset, size_t bytes)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;
  int n = 0;

  while (slice_next (&walk, &piece))
    n++;
  return n;
}

bool
io_vector_slice_is_aligned (const IoVector *vector, size_t offset, size_t bytes, size_t alignment)
{
  SliceWalk walk = slice_begin (vector, offset, bytes);
  struct iovec piece;

  while (slice_next (&walk, &piece))
    if (((uintptr_t)piece.iov_base | piece.iov_len) & (alignment - 1))
      return false;
  return true;
}
