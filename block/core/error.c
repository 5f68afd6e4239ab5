/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors and warnings that name their file. */
#include "core-int.h"

#include <errno.h>
#include <string.h>

/* An image can be made to give a finding per block: that many are kept. */
#define MAX_WARNINGS 64

/* Part of the public interface, unlike the rest of the core. */
__attribute__ ((visibility ("default"))) GQuark
vhdkit_error_quark (void)
{
  return g_quark_from_static_string ("vhdkit-error-quark");
}

char *
bdrv_printable (const char *text)
{
  g_autofree char *valid = g_utf8_make_valid (text, -1);
  GString *out = g_string_new (NULL);

  for (const char *p = valid; *p; p = g_utf8_next_char (p))
    {
      gunichar c = g_utf8_get_char (p);
      if (g_unichar_isprint (c))
        g_string_append_unichar (out, c);
      else
        g_string_append_printf (out, c < 0x100 ? "\\x%02x" : "\\u{%x}", c);
    }
  return g_string_free (out, FALSE);
}

VhdkitError
bdrv_error_code_from_errno (int positive_errno)
{
  switch (positive_errno)
    {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return VHDKIT_ERROR_NO_SPACE;
    case EACCES:
    case EPERM:
      return VHDKIT_ERROR_PERMISSION;
    case EROFS:
      return VHDKIT_ERROR_READ_ONLY;
    case ENOENT:
    case ENOTDIR:
      return VHDKIT_ERROR_NOT_FOUND;
    case EBUSY:
    case ETXTBSY:
      return VHDKIT_ERROR_IN_USE;
    case ENOTSUP:
#if EOPNOTSUPP != ENOTSUP
    case EOPNOTSUPP:
#endif
    case ENOSYS:
      return VHDKIT_ERROR_UNSUPPORTED;
    case EINVAL:
    case ENAMETOOLONG:
      return VHDKIT_ERROR_INVALID_ARGUMENT;
    case ECANCELED:
      return VHDKIT_ERROR_CANCELLED;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return VHDKIT_ERROR_FAILED;
    default:
      return VHDKIT_ERROR_IO;
    }
}

int
bdrv_errno_from_error (const GError *error)
{
  if (!error || error->domain != VHDKIT_ERROR)
    return -EIO;
  switch (error->code)
    {
    case VHDKIT_ERROR_NO_SPACE:
      return -ENOSPC;
    case VHDKIT_ERROR_PERMISSION:
      return -EACCES;
    case VHDKIT_ERROR_READ_ONLY:
      return -EROFS;
    case VHDKIT_ERROR_IN_USE:
      return -EBUSY;
    case VHDKIT_ERROR_UNSUPPORTED:
      return -ENOTSUP;
    case VHDKIT_ERROR_INVALID_ARGUMENT:
      return -EINVAL;
    case VHDKIT_ERROR_CANCELLED:
      return -ECANCELED;
    default:
      return -EIO;
    }
}

static void G_GNUC_PRINTF (5, 0) set_error_va (GError **error, const char *path, VhdkitError code,
                                               int positive_errno, const char *format, va_list ap)
{
  g_autofree char *text = g_strdup_vprintf (format, ap);
  g_autofree char *name = bdrv_printable (path ? path : "(no file)");

  if (positive_errno != 0)
    g_set_error (error, VHDKIT_ERROR, code, "%s: %s: %s", name, text, g_strerror (positive_errno));
  else
    g_set_error (error, VHDKIT_ERROR, code, "%s: %s", name, text);
}

void
bdrv_set_path_error (GError **error, const char *path, VhdkitError code, int positive_errno,
                     const char *format, ...)
{
  va_list ap;

  va_start (ap, format);
  set_error_va (error, path, code, positive_errno, format, ap);
  va_end (ap);
}

void
bdrv_set_error (GError **error, const BlockDriverState *bs, VhdkitError code, const char *format, ...)
{
  va_list ap;

  va_start (ap, format);
  set_error_va (error, bs->filename, code, 0, format, ap);
  va_end (ap);
}

void
bdrv_set_error_errno (GError **error, const BlockDriverState *bs, int negative_errno, const char *format, ...)
{
  int positive_errno = negative_errno < 0 ? -negative_errno : negative_errno;
  va_list ap;

  va_start (ap, format);
  set_error_va (error, bs->filename, bdrv_error_code_from_errno (positive_errno), positive_errno, format, ap);
  va_end (ap);
}

void
bdrv_warn (BlockDriverState *bs, const char *format, ...)
{
  BdrvNode *node = bdrv_node (bs);
  va_list ap;

  if (!node->warnings)
    node->warnings = g_ptr_array_new_with_free_func (g_free);
  if (node->warnings->len == MAX_WARNINGS)
    {
      g_ptr_array_add (node->warnings, g_strdup ("more warnings were left out"));
      return;
    }
  if (node->warnings->len > MAX_WARNINGS)
    return;

  va_start (ap, format);
  g_ptr_array_add (node->warnings, g_strdup_vprintf (format, ap));
  va_end (ap);
}

void
bdrv_warn_of_bat (BlockDriverState *bs, int64_t offset, int ret, uint64_t blocks)
{
  if (ret < 0)
    bdrv_warn (bs, "the BAT at offset %" G_GINT64_FORMAT " cannot be read: %s", offset, g_strerror (-ret));
  if (blocks > 1)
    bdrv_warn (bs, "%" G_GUINT64_FORMAT " of its blocks cannot be read (vhd-img check tells which)", blocks);
}

const GPtrArray *
bdrv_get_warnings (const BlockDriverState *bs)
{
  BdrvNode *node = bdrv_node (bs);

  if (!node->warnings)
    node->warnings = g_ptr_array_new_with_free_func (g_free);
  return node->warnings;
}
