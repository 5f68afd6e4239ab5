/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts about an image for people and JSON. */
#include <inttypes.h>

#include "identity.h"
#include "vhd.h"

static char *
printable (const char *text, size_t bytes)
{
  GString *out = g_string_new (NULL);

  for (size_t i = 0; i < bytes && text[i] != '\0'; i++)
    if (g_ascii_isprint (text[i]))
      g_string_append_c (out, text[i]);
    else
      g_string_append_printf (out, "\\x%02x", (uint8_t)text[i]);
  return g_string_free (out, FALSE);
}

static GVariant *
identity_variant (const uint8_t identity[16])
{
  char text[37];

  identity_format (identity, text);
  return g_variant_new_string (text);
}

static GVariant *
time_variant (uint32_t vhd_time)
{
  g_autoptr (GDateTime) time = g_date_time_new_from_unix_utc ((int64_t)vhd_time + VHD_EPOCH_OFFSET);
  g_autofree char *text = g_date_time_format (time, "%Y-%m-%dT%H:%M:%SZ");

  return g_variant_new_string (text);
}

static void
add_parent (VhdState *s, GVariantBuilder *builder)
{
  GVariantBuilder paths;
  static const uint8_t none[16];

  if (memcmp (s->header.parent_unique_id, none, sizeof none) != 0)
    g_variant_builder_add (builder, "{sv}", "parent-unique-id",
                           identity_variant (s->header.parent_unique_id));
  if (s->header.parent_time_stamp != 0)
    g_variant_builder_add (builder, "{sv}", "parent-time-stamp", time_variant (s->header.parent_time_stamp));
  g_variant_builder_init (&paths, G_VARIANT_TYPE ("as"));
  for (guint i = 0; i < s->parent_paths->len; i++)
    {
      const BlockParentPath *entry = g_ptr_array_index (s->parent_paths, i);

      if (entry->kind != BLOCK_PARENT_PATH_BASENAME)
        {
          g_autofree char *line = g_strdup_printf ("%s: %s", entry->origin, entry->path);

          g_variant_builder_add (&paths, "s", line);
        }
    }
  g_variant_builder_add (builder, "{sv}", "parent-paths", g_variant_builder_end (&paths));
}

static GVariant *
image_facts (VhdState *s)
{
  const VhdFooter *footer = &s->footer;
  static const char *const types[] = { "fixed", "dynamic", "differencing" };
  g_autofree char *creator = printable (footer->creator_application, 4);
  g_autofree char *host = printable (footer->creator_host_os, 4);
  g_autofree char *version =
      g_strdup_printf ("%u.%u", footer->creator_version >> 16, footer->creator_version & 0xFFFF);
  g_autofree char *geometry =
      g_strdup_printf ("%u/%u/%u", footer->cylinders, footer->heads, footer->sectors_per_track);
  GVariantBuilder builder;

  g_variant_builder_init (&builder, G_VARIANT_TYPE_VARDICT);
  g_variant_builder_add (&builder, "{sv}", "disk-type",
                         g_variant_new_string (types[footer->disk_type - VHD_TYPE_FIXED]));
  g_variant_builder_add (&builder, "{sv}", "unique-id", identity_variant (footer->unique_id));
  g_variant_builder_add (&builder, "{sv}", "created", time_variant (footer->time_stamp));
  g_variant_builder_add (&builder, "{sv}", "creator-application", g_variant_new_string (creator));
  g_variant_builder_add (&builder, "{sv}", "creator-version", g_variant_new_string (version));
  g_variant_builder_add (&builder, "{sv}", "creator-host-os", g_variant_new_string (host));
  g_variant_builder_add (&builder, "{sv}", "geometry", g_variant_new_string (geometry));
  g_variant_builder_add (&builder, "{sv}", "saved-state", g_variant_new_boolean (footer->saved_state == 1));
  if (footer->hidden)
    g_variant_builder_add (&builder, "{sv}", "hidden", g_variant_new_boolean (true));
  if (!vhd_is_fixed (s))
    {
      g_variant_builder_add (&builder, "{sv}", "block-size", g_variant_new_int64 (s->block_size));
      g_variant_builder_add (&builder, "{sv}", "table-entries",
                             g_variant_new_int64 (s->header.max_table_entries));
      g_variant_builder_add (&builder, "{sv}", "batmap", g_variant_new_boolean (s->batmap.present));
    }
  if (vhd_is_differencing (s))
    add_parent (s, &builder);
  return g_variant_builder_end (&builder);
}

GVariant *
vhd_get_specific_info (BlockDriverState *bs)
{
  VhdState *s = bs->opaque;

  return s->damage ? NULL : image_facts (s);
}
