/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The error domain of everything that takes a GError **.  Codes are stable; the detail is in the text, one
 * lower-case phrase that names file, structure, offset, found and expected. */
#ifndef VHDKIT_ERROR_H
#define VHDKIT_ERROR_H

#include <glib.h>

G_BEGIN_DECLS

#define VHDKIT_ERROR (vhdkit_error_quark ())

typedef enum
{
  VHDKIT_ERROR_FAILED,           /* none of the others */
  VHDKIT_ERROR_CORRUPT,          /* the image breaks a rule of its format */
  VHDKIT_ERROR_UNSUPPORTED,      /* sound, but beyond this library, format or file system */
  VHDKIT_ERROR_INVALID_ARGUMENT, /* the caller asked for something that makes no sense */
  VHDKIT_ERROR_NOT_FOUND,        /* no such file, format or layer */
  VHDKIT_ERROR_IN_USE,           /* another process holds a conflicting lock */
  VHDKIT_ERROR_READ_ONLY,        /* a write was asked of something opened or mounted read-only */
  VHDKIT_ERROR_NEEDS_REPLAY,     /* a journal must be replayed first and may not be here */
  VHDKIT_ERROR_PARENT_NOT_FOUND, /* no candidate for the parent could be opened */
  VHDKIT_ERROR_PARENT_MISMATCH,  /* a parent was found and its identity is not the one the child names */
  VHDKIT_ERROR_PERMISSION,       /* refused by a parent policy, --confine or the file system */
  VHDKIT_ERROR_NO_SPACE,         /* the target cannot hold what is to be written */
  VHDKIT_ERROR_IO,               /* the operating system reported a failed transfer */
  VHDKIT_ERROR_CANCELLED,        /* the job was cancelled; its images are consistent */
  VHDKIT_ERROR_HAS_CHILDREN,     /* refused: other images depend on what would change */
} VhdkitError;

GQuark vhdkit_error_quark (void);

G_END_DECLS

#endif
