/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COAIO_IOV_INT_H
#define COAIO_IOV_INT_H

#include <coaio/iov.h>

/* As io_vector_slice (), but stops when @out is full.  *@n: elements used; returns the bytes they hold. */
size_t io_vector_slice_some (const IoVector *vector, size_t offset, size_t bytes, struct iovec *out, int max,
                             int *n);

#endif
