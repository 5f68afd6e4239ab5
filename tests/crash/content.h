/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a file holds, in memory: pages that copies share until one of them is changed, and nothing for zeros.  So a
 * crash of a file of many megabytes costs what has been written to it.
 */
#ifndef CRASH_CONTENT_H
#define CRASH_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

G_BEGIN_DECLS

typedef struct Content Content;

/* Of no bytes. */
Content *content_new (void);
/* What the file holds now.  Ends the test if it cannot be read. */
Content *content_read (const char *path);
void content_free (Content *content);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Content, content_free)
void content_copy (Content *to, const Content *from);

int64_t content_length (const Content *content);
/* What is new is zeros. */
void content_set_length (Content *content, int64_t bytes);
/* Extends it if need be. */
void content_write (Content *content, int64_t offset, int64_t bytes, const void *data);
void content_zero (Content *content, int64_t offset, int64_t bytes);
/* Zeros behind its end. */
void content_get (const Content *content, int64_t offset, int64_t bytes, void *buffer);
/* The same of what is all before its end; false: it is not. */
bool content_get_within (const Content *content, int64_t offset, int64_t bytes, void *buffer);
/* How many bytes from @offset on, which is before the end, are alike: stored pages (*data), or none. */
int64_t content_run (const Content *content, int64_t offset, bool *data);
/* The first offset, a multiple of 512, at which they differ; -1: they do not.  Both have the same length. */
int64_t content_compare (const Content *a, const Content *b);
/* Makes the file hold this; pages of zeros become holes.  Ends the test if it cannot. */
void content_write_file (const Content *content, const char *path);

G_END_DECLS

#endif
