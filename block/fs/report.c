/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "extents.h"

void
fs_free_report_clear (FsFreeReport *report)
{
  g_clear_pointer (&report->volumes, g_ptr_array_unref);
  g_clear_pointer (&report->notes, g_ptr_array_unref);
  g_clear_pointer (&report->free, g_array_unref);
}

bool
fs_free_report_next (const FsFreeReport *report, int64_t offset, FsExtent *extent)
{
  guint i = fs_extents_find (report->free, offset);

  if (i == report->free->len)
    return false;
  *extent = g_array_index (report->free, FsExtent, i);
  if (extent->offset < offset)
    {
      extent->bytes -= offset - extent->offset;
      extent->offset = offset;
    }
  return true;
}

bool
fs_free_report_is_free (const FsFreeReport *report, int64_t offset, int64_t bytes)
{
  FsExtent extent;

  return bytes <= 0
         || (fs_free_report_next (report, offset, &extent) && extent.offset == offset
             && extent.bytes >= bytes);
}
