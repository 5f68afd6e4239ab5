/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that a node and everything below it can transfer without a bounce buffer. */
#include "core-int.h"

#include <stdlib.h>

#define PAGE_BYTES 4096

void *
bdrv_try_alloc_buffer (const BlockDriverState *bs, size_t bytes)
{
  /* A page for whole pages, whatever is asked: it costs nothing, and a transfer then takes fewer pages. */
  size_t alignment = bytes >= PAGE_BYTES ? PAGE_BYTES : sizeof (void *) * 2;
  void *buffer;

  for (; bs; bs = bs->file)
    alignment = MAX (alignment, bs->limits.memory_alignment);
  return posix_memalign (&buffer, alignment, MAX (bytes, 1)) == 0 ? buffer : NULL;
}

void
bdrv_free_buffer (void *buffer)
{
  free (buffer);
}
