/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libext2fs on a volume. */
#ifndef FS_EXT2_IO_H
#define FS_EXT2_IO_H

#include "fs.h"

#include <ext2fs/ext2fs.h>

G_BEGIN_DECLS

/* Opens the file system of @volume, only to be read; nothing of its journal is looked at.  In a coroutine: the library
 * knows nothing of it, but its reads yield.  Free with ext2fs_free (), which unlike ext2fs_close () never writes. */
errcode_t coroutine_fn fs_ext2_co_open (FsVolume *volume, ext2_filsys *fs);

G_END_DECLS

#endif
