/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "refuse.h"

#include <stdarg.h>

bool
fs_refuse (GError **error, VhdkitError code, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  g_propagate_error (error, g_error_new_valist (VHDKIT_ERROR, (int)code, format, args));
  va_end (args);
  return false;
}
