/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can be named but is not read: encrypted volumes, members of arrays, other file systems.
 *
 * Naming them is more than a courtesy.  The member of a mirror may look like the file system that it is a copy of, and is
 * then claimed by two readers.  And what keeps off the start of a volume, or begins only far inside of it, leaves the
 * marks of a file system that was there before.
 */
#include "fs.h"

#include "checked.h"

#include <string.h>

typedef struct
{
  const char *type;
  int64_t offset; /* negative: from the end of the volume */
  const char *magic;
  size_t magic_bytes;
  const char *reason;
} Signature;

#define ENCRYPTED "it is encrypted"
#define SHARED    "its space is shared out by another layer, which is not read"
#define NOT_READ  "this kind of file system is not read"

#define SIGN(type, offset, magic, reason)                                                                    \
  {                                                                                                          \
    type, offset, magic, sizeof (magic) - 1, reason                                                          \
  }

/* clang-format off */
static const Signature signatures[] = {
  SIGN ("LUKS",      0,              "LUKS\xba\xbe", ENCRYPTED),
  SIGN ("BitLocker", 3,              "-FVE-FS-", ENCRYPTED),
  SIGN ("BitLocker", 424,            "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01", ENCRYPTED),
  SIGN ("mdraid",    0,              "\xfc\x4e\x2b\xa9\x01\0\0\0", SHARED),
  SIGN ("mdraid",    4096,           "\xfc\x4e\x2b\xa9\x01\0\0\0", SHARED),
  SIGN ("DDF RAID",  -512,           "\xde\x11\xde\x11", SHARED),
  SIGN ("IMSM RAID", -1024,          "Intel Raid ISM Cfg Sig. ", SHARED),
  SIGN ("bcache",    4096 + 24,      "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", SHARED),
  SIGN ("VDO",       0,              "dmvdo001", SHARED),
  SIGN ("integrity", 0,              "integrt\0", SHARED),
  SIGN ("LVM1",      0,              "HM\1\0", SHARED),
  SIGN ("BlueStore", 0,              "bluestore block device", SHARED),
  SIGN ("ASM",       32,             "ORCLDISK", SHARED),
  SIGN ("Stratis",   512 + 4,        "!Stra0tis\x86\xff\x02^\x41rh", SHARED),
#ifndef FS_HAVE_EXT2FS
  SIGN ("ext2",      1024 + 56,      "\x53\xef", "this build does not read ext2, ext3 and ext4"),
#endif
  SIGN ("ReFS",      3,              "ReFS\0\0\0\0", NOT_READ),
  SIGN ("APFS",      32,             "NXSB", NOT_READ),
  SIGN ("HFS+",      1024,           "H+\0\x04", NOT_READ),
  SIGN ("HFS+",      1024,           "HX\0\x05", NOT_READ),
  SIGN ("F2FS",      1024,           "\x10\x20\xf5\xf2", NOT_READ),
  SIGN ("bcachefs",  4096 + 24,      "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", NOT_READ),
  SIGN ("BeFS",      512 + 32,       "1SFB", NOT_READ),
  SIGN ("BeFS",      512 + 32,       "BFS1", NOT_READ),
  SIGN ("EROFS",     1024,           "\xe2\xe1\xf5\xe0", NOT_READ),
  SIGN ("NSS",       4096,           "SPB5", NOT_READ),
  SIGN ("QNX6",      8192,           "\x22\x11\x19\x68", NOT_READ),
  SIGN ("QNX6",      8192,           "\x68\x19\x11\x22", NOT_READ),
  SIGN ("VxFS",      1024,           "\xf5\xfc\x01\xa5", NOT_READ),
  SIGN ("VxFS",      8192,           "\xa5\x01\xfc\xf5", NOT_READ),
  SIGN ("ReiserFS",  8192 + 52,      "ReIsEr", NOT_READ),
  SIGN ("ReiserFS",  65536 + 52,     "ReIsEr", NOT_READ),
  SIGN ("Reiser4",   65536,          "ReIsEr4", NOT_READ),
  SIGN ("JFS",       32768,          "JFS1", NOT_READ),
  SIGN ("SquashFS",  0,              "hsqs", NOT_READ),
  SIGN ("ISO 9660",  32768 + 1,      "CD001", NOT_READ),
  SIGN ("UDF",       32768 + 1,      "BEA01", NOT_READ),
  SIGN ("UFS",       8192 + 1372,    "\x54\x19\x01\0", NOT_READ),
  SIGN ("UFS",       8192 + 1372,    "\0\x01\x19\x54", NOT_READ),
  SIGN ("UFS",       65536 + 1372,   "\x19\x01\x54\x19", NOT_READ),
  SIGN ("UFS",       65536 + 1372,   "\x19\x54\x01\x19", NOT_READ),
  SIGN ("GFS2",      65536,          "\x01\x16\x19\x70", NOT_READ),
  SIGN ("NILFS2",    1024,           "\x02\0\0\0\0\0\x34\x34", NOT_READ),
  SIGN ("OCFS2",     1024,           "OCFSV2", NOT_READ),
  SIGN ("OCFS2",     2048,           "OCFSV2", NOT_READ),
  SIGN ("OCFS2",     4096,           "OCFSV2", NOT_READ),
  SIGN ("OCFS2",     8192,           "OCFSV2", NOT_READ),
};
/* clang-format on */

#define TAIL_BYTES 1024

/* ZFS: uberblocks of 1 KiB and more in the second half of the first label. */
#define ZFS_UBERBLOCKS 131072
#define ZFS_MAGIC_LE   "\x0c\xb1\xba\0\0\0\0\0"
#define ZFS_MAGIC_BE   "\0\0\0\0\0\xba\xb1\x0c"

static bool
is_zfs (const FsVolume *volume)
{
  for (size_t at = ZFS_UBERBLOCKS; at < FS_HEAD_BYTES; at += 1024)
    if (memcmp (volume->head + at, ZFS_MAGIC_LE, 8) == 0 || memcmp (volume->head + at, ZFS_MAGIC_BE, 8) == 0)
      return true;
  return false;
}

/* Outside of the head.  Superblocks of Linux RAID near the end: of version 1.0 (8 KiB and more before it, a multiple of
 * 4 KiB) and of version 0.90 (in the last whole 64 KiB but one, in the byte order of the host); of DRBD in the last 4 KiB;
 * VMFS begins after 1 MiB, what it stands on after 2. */
static const char *coroutine_fn
co_recognise_far (FsVolume *volume)
{
  const struct
  {
    const char *type;
    int64_t offset;
    const char *magic; /* 4 bytes */
  } places[] = {
    { "mdraid", round_down (volume->bytes - 8192, 4096), "\xfc\x4e\x2b\xa9" },
    { "mdraid", round_down (volume->bytes, 65536) - 65536, "\xfc\x4e\x2b\xa9" },
    { "mdraid", round_down (volume->bytes, 65536) - 65536, "\xa9\x2b\x4e\xfc" },
    { "DRBD", round_down (volume->bytes, 4096) - 4096 + 60, "\x83\x74\x02\x6b" },
    { "DRBD", round_down (volume->bytes, 4096) - 4096 + 60, "\x83\x74\x02\x6c" },
    { "DRBD", round_down (volume->bytes, 4096) - 4096 + 60, "\x83\x74\x02\x6d" },
    { "VMFS", INT64_C (1) << 20, "\x0d\xd0\x01\xc0" },
    { "VMFS", INT64_C (2) << 20, "\x5e\xf1\xab\x2f" },
  };
  uint8_t found[4];
  int64_t at = -1;

  for (size_t i = 0; i < G_N_ELEMENTS (places); i++)
    {
      if (places[i].offset < 0 || places[i].offset > volume->bytes - (int64_t)sizeof found)
        continue;
      if (places[i].offset != at && fs_co_read (volume, places[i].offset, sizeof found, found) < 0)
        continue;
      at = places[i].offset;
      if (memcmp (found, places[i].magic, sizeof found) == 0)
        return places[i].type;
    }
  return NULL;
}

static const char *coroutine_fn
co_recognise (FsVolume *volume, const char **reason)
{
  uint8_t tail[TAIL_BYTES] = { 0 };

  if (volume->bytes >= TAIL_BYTES)
    (void)fs_co_read (volume, volume->bytes - TAIL_BYTES, TAIL_BYTES, tail);
  for (size_t i = 0; i < G_N_ELEMENTS (signatures); i++)
    {
      const Signature *sign = &signatures[i];
      const uint8_t *at = sign->offset >= 0 ? volume->head + sign->offset : tail + TAIL_BYTES + sign->offset;

      *reason = sign->reason;
      if (memcmp (at, sign->magic, sign->magic_bytes) == 0)
        return sign->type;
    }
  *reason = SHARED;
  if (is_zfs (volume))
    return "ZFS";
  return co_recognise_far (volume);
}

static bool coroutine_fn
foreign_co_probe (FsVolume *volume)
{
  const char *reason;
  const char *type = co_recognise (volume, &reason);

  if (type != NULL)
    fs_set_type (volume, type);
  return type != NULL;
}

static bool coroutine_fn
foreign_co_read_free (FsVolume *volume, GError **error)
{
  const char *reason;

  (void)co_recognise (volume, &reason);
  g_set_error_literal (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, reason);
  return false;
}

const FsReader foreign_reader = {
  .name = "foreign",
  .co_probe = foreign_co_probe,
  .co_read_free = foreign_co_read_free,
};
