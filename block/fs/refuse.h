/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a volume counts as in use, said in one line. */
#ifndef FS_REFUSE_H
#define FS_REFUSE_H

#include <vhdkit/error.h>

#include <stdbool.h>

#include <glib.h>

/* Sets @error (code @code, the message after the format) and returns false, always. */
bool fs_refuse (GError **error, VhdkitError code, const char *format, ...) G_GNUC_PRINTF (3, 4);

#define fs_corrupt(error, ...) fs_refuse (error, VHDKIT_ERROR_CORRUPT, __VA_ARGS__)

#endif
