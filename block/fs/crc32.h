/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef FS_CRC32_H
#define FS_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The register of CRC-32 (IEEE 802.3, reflected) after @data, from @crc on; nothing is inverted. */
uint32_t fs_crc32 (uint32_t crc, const void *data, size_t bytes);

#endif
