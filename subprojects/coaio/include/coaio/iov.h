/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vector of memory ranges with its total size.  Requests name a slice of it by offset and bytes, so
 * splitting a request copies nothing. */
#ifndef COAIO_IOV_H
#define COAIO_IOV_H

#include <sys/uio.h>

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

typedef struct
{
  struct iovec *iov; /* @local or the caller's or owned array */
  int niov;
  int capacity; /* of an owned array; 0: not owned */
  size_t size;  /* bytes in all elements */
  struct iovec local;
} IoVector;

/* One element: @buf, @bytes long.  Nothing to clear. */
static inline void
io_vector_init_buf (IoVector *vector, void *buf, size_t bytes)
{
  vector->local.iov_base = buf;
  vector->local.iov_len = bytes;
  vector->iov = &vector->local;
  vector->niov = 1;
  vector->capacity = 0;
  vector->size = bytes;
}

/* Borrows @iov for the life of @vector.  Nothing to clear. */
void io_vector_init_external (IoVector *vector, struct iovec *iov, int niov);
/* Empty and growing; clear it with io_vector_clear (). */
void io_vector_init (IoVector *vector, int capacity_hint);
void io_vector_add (IoVector *vector, void *buf, size_t bytes);
/* Appends the slice [@offset, @offset + @bytes) of @source; the memory is shared. */
void io_vector_add_slice (IoVector *vector, const IoVector *source, size_t offset, size_t bytes);
void io_vector_clear (IoVector *vector);

/* Copy between a slice that starts at @offset and flat memory; [@offset, @offset + @bytes) must exist. */
void io_vector_to_buf (const IoVector *vector, size_t offset, void *buf, size_t bytes);
void io_vector_from_buf (const IoVector *vector, size_t offset, const void *buf, size_t bytes);
void io_vector_memset (const IoVector *vector, size_t offset, int byte, size_t bytes);

/* Fills @out (at most @max elements) with the slice; returns the number of elements, or -1 when it needs
 * more than @max. */
int io_vector_slice (const IoVector *vector, size_t offset, size_t bytes, struct iovec *out, int max);
/* Elements the slice needs. */
int io_vector_slice_count (const IoVector *vector, size_t offset, size_t bytes);
/* Whether every element of the slice starts and ends on a multiple of @alignment (a power of two). */
bool io_vector_slice_is_aligned (const IoVector *vector, size_t offset, size_t bytes, size_t alignment);

G_END_DECLS

#endif
