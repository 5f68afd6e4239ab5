/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paths as images store them.  Text only: nothing here looks at the disk. */
#ifndef UTIL_PATH_H
#define UTIL_PATH_H

/* @target as seen from the directory of @file, both absolute with symlinks resolved, in Windows spelling:
 * ".\parent.vhd", "..\dir\parent.vhd". */
char *path_relative_windows (const char *file, const char *target);

#endif
