/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New identities and the present time, through hooks, so that tests can make reproducible images. */
#ifndef UTIL_IDENTITY_H
#define UTIL_IDENTITY_H

#include <stdint.h>

/* A random version-4 UUID, bytes in RFC 4122 order. */
void identity_new (uint8_t identity[16]);
/* Unix time, seconds; SOURCE_DATE_EPOCH if it is set. */
int64_t identity_time_now (void);

/* NULL: the real ones again. */
void identity_set_hooks (void (*new_identity) (uint8_t identity[16]), int64_t (*time_now) (void));

/* "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", 36 characters and a NUL, in RFC 4122 order. */
void identity_format (const uint8_t identity[16], char text[37]);

#endif
