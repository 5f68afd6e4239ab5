/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli), as in VHDX and iSCSI. */
#ifndef UTIL_CRC32C_H
#define UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from @crc, 0 to start: crc32c (crc32c (0, a, n), b, m) is the sum of both one after the other. */
uint32_t crc32c (uint32_t crc, const void *data, size_t bytes);
/* The same on any processor; for tests. */
uint32_t crc32c_portable (uint32_t crc, const void *data, size_t bytes);

#endif
