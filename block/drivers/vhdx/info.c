/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts about an image for people and JSON. */
#include "vhdx.h"

static void
add_guid (GVariantBuilder *builder, const char *name, const VhdxGuid *guid)
{
  char text[37];

  vhdx_guid_format (guid, text);
  g_variant_builder_add (builder, "{sv}", name, g_variant_new_string (text));
}

/* All it says, under the names it has there: they differ, or it would not have been read. */
static GVariant *
locator_variant (const GArray *locator)
{
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  for (guint i = 0; i < locator->len; i++)
    {
      const VhdxLocatorEntry *entry = &g_array_index (locator, VhdxLocatorEntry, i);

      g_variant_builder_add (&builder, "{sv}", entry->key, g_variant_new_string (entry->value));
    }
  return g_variant_builder_end (&builder);
}

GVariant *
vhdx_get_specific_info (BlockDriverState *bs)
{
  VhdxState *s = bs->opaque;
  const VhdxMetadata *m = &s->metadata;
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "disk-type",
                         g_variant_new_string (m->has_parent        ? "differencing"
                                               : m->leave_allocated ? "fixed"
                                                                    : "dynamic"));
  add_guid (&builder, "virtual-disk-id", &m->disk_id);
  add_guid (&builder, "data-write-guid", &s->header.data_write_guid);
  add_guid (&builder, "file-write-guid", &s->header.file_write_guid);
  if (!vhdx_guid_is_zero (&s->header.log_guid))
    add_guid (&builder, "log-guid", &s->header.log_guid);
  if (s->creator)
    g_variant_builder_add (&builder, "{sv}", "creator", g_variant_new_string (s->creator));
  g_variant_builder_add (&builder, "{sv}", "block-size", g_variant_new_int64 (m->block_size));
  g_variant_builder_add (&builder, "{sv}", "logical-sector-size",
                         g_variant_new_int64 (m->logical_sector_size));
  g_variant_builder_add (&builder, "{sv}", "physical-sector-size",
                         g_variant_new_int64 (m->physical_sector_size));
  g_variant_builder_add (&builder, "{sv}", "log-size", g_variant_new_int64 (s->header.log_length));
  g_variant_builder_add (&builder, "{sv}", "log-replayed", g_variant_new_boolean (s->overlay.pages != NULL));
  g_variant_builder_add (&builder, "{sv}", "dirty", g_variant_new_boolean (s->overlay.pages != NULL));
  if (m->locator)
    g_variant_builder_add (&builder, "{sv}", "parent-locator", locator_variant (m->locator));
  return g_variant_builder_end (&builder);
}
