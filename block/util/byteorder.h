/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Integers as they stand on disk: byte arrays, alignment 1, with no host order to be mixed up with. */
#ifndef UTIL_BYTEORDER_H
#define UTIL_BYTEORDER_H

#include <stdint.h>
#include <string.h>

#include <glib.h>

#define UTIL_DISK_INTEGER(Type, prefix, uint, convert)                                                       \
  typedef struct                                                                                             \
  {                                                                                                          \
    uint8_t b[sizeof (uint)];                                                                                \
  } Type;                                                                                                    \
  static inline uint prefix##_get (Type disk)                                                                \
  {                                                                                                          \
    uint value;                                                                                              \
    memcpy (&value, disk.b, sizeof value);                                                                   \
    return convert (value);                                                                                  \
  }                                                                                                          \
  static inline uint prefix##_at (const void *at)                                                            \
  {                                                                                                          \
    Type disk;                                                                                               \
    memcpy (&disk, at, sizeof disk);                                                                         \
    return prefix##_get (disk);                                                                              \
  }                                                                                                          \
  static inline Type prefix (uint value)                                                                     \
  {                                                                                                          \
    Type disk;                                                                                               \
    value = convert (value);                                                                                 \
    memcpy (disk.b, &value, sizeof value);                                                                   \
    return disk;                                                                                             \
  }                                                                                                          \
  G_STATIC_ASSERT (sizeof (Type) == sizeof (uint))

/* For each width: be32_get (disk) gives the host value, be32 (value) the disk one; be32_at (at) the host value of the
 * bytes there. */
UTIL_DISK_INTEGER (Be16, be16, uint16_t, GUINT16_FROM_BE);
UTIL_DISK_INTEGER (Be32, be32, uint32_t, GUINT32_FROM_BE);
UTIL_DISK_INTEGER (Be64, be64, uint64_t, GUINT64_FROM_BE);
UTIL_DISK_INTEGER (Le16, le16, uint16_t, GUINT16_FROM_LE);
UTIL_DISK_INTEGER (Le32, le32, uint32_t, GUINT32_FROM_LE);
UTIL_DISK_INTEGER (Le64, le64, uint64_t, GUINT64_FROM_LE);

#endif
