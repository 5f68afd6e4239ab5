/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A physical volume of LVM2.
 *
 *   sector 0…3   label: UUID of the volume, where its areas are
 *   1, 2 areas   a header, and text that goes around behind it: what the volume group is made of
 *   the rest     extents, of one size, that logical volumes are made of
 *
 * Extents that no logical volume has are free.  A logical volume whose extents stand one after the other is looked at as a
 * partition would be; any other is in use.
 *
 * All of that is believed only of a volume group that has nothing else in it: this physical volume, whole and not
 * exported, and logical volumes of one stripe.  Snapshots, mirrors, pools and caches keep data for each other in ways that
 * are not read here: what one file system does not use, another volume may.
 */
#include "fs.h"

#include "checked.h"
#include "crc32.h"
#include "lvm2-spec.h"
#include "lvm2-text.h"
#include "refuse.h"
#include "zero.h"

#include <string.h>

#define MAX_TYPE_BYTES 32 /* of a segment's, that are shown */

typedef struct
{
  int64_t offset, bytes;
} Area;

typedef struct
{
  char uuid[LVM2_UUID_BYTES + 1];
  int64_t bytes;
  Area areas[LVM2_MAX_AREAS]; /* of metadata */
  int n_areas;
} Pv;

/* Of the volume group: where its extents are, in bytes. */
typedef struct
{
  const char *pv; /* its name for this volume */
  int64_t start, extent, count;
} Extents;

typedef struct
{
  int64_t first, count; /* extents of the physical volume */
} Run;

/* --- label --------------------------------------------------------------------------------------------------- */

static const uint8_t *
find_label (const FsVolume *volume)
{
  for (int i = 0; i < LVM2_LABEL_SECTORS; i++)
    if (memcmp (volume->head + i * LVM2_SECTOR + offsetof (Lvm2LabelDisk, type), LVM2_LABEL_TYPE, 8) == 0)
      return volume->head + i * LVM2_SECTOR;
  return NULL;
}

static bool coroutine_fn
lvm2_co_probe (FsVolume *volume)
{
  return find_label (volume) != NULL;
}

/* The list of areas at *@at, in a label's @sector; -1: it has no end. */
static int
read_areas (const uint8_t *sector, size_t *at, Area *areas, int max)
{
  for (int n = 0; *at + sizeof (Lvm2AreaDisk) <= LVM2_SECTOR; n++)
    {
      Lvm2AreaDisk disk;

      memcpy (&disk, sector + *at, sizeof disk);
      *at += sizeof disk;
      if (le64_get (disk.offset) == 0)
        return n;
      if (n == max || le64_get (disk.offset) > INT64_MAX || le64_get (disk.bytes) > INT64_MAX)
        return -1;
      areas[n] = (Area){ (int64_t)le64_get (disk.offset), (int64_t)le64_get (disk.bytes) };
    }
  return -1;
}

static bool
read_label (const FsVolume *volume, Pv *pv, GError **error)
{
  const uint8_t *sector = find_label (volume);
  size_t number = (size_t)(sector - volume->head) / LVM2_SECTOR, at;
  Lvm2LabelDisk label;
  Lvm2PvDisk disk;
  Area data;

  memcpy (&label, sector, sizeof label);
  uint32_t crc = fs_crc32 (LVM2_CRC_START, sector + offsetof (Lvm2LabelDisk, offset),
                           LVM2_SECTOR - offsetof (Lvm2LabelDisk, offset));
  at = le32_get (label.offset);
  if (memcmp (label.id, LVM2_LABEL_ID, sizeof label.id) != 0 || le64_get (label.sector) != number)
    return fs_corrupt (error, "label in sector %zu: it is not one, or that of another sector", number);
  if (crc != le32_get (label.crc))
    return fs_corrupt (error, "label checksum 0x%08x, expected 0x%08x", le32_get (label.crc), crc);
  if (at < sizeof label || at > LVM2_SECTOR - sizeof disk)
    return fs_corrupt (error, "label: header at offset %zu", at);
  /* LVM clears them: whoever has the disk now may have left the rest of the label's sectors. */
  if (!buffer_is_zero (volume->head, number * LVM2_SECTOR)
      || !buffer_is_zero (sector + LVM2_SECTOR, (LVM2_LABEL_SECTORS - 1 - number) * LVM2_SECTOR))
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "something else is beside its label");
  memcpy (&disk, sector + at, sizeof disk);
  memcpy (pv->uuid, disk.uuid, sizeof disk.uuid);
  at += sizeof disk;
  if (le64_get (disk.bytes) > (uint64_t)volume->bytes)
    return fs_corrupt (error, "it has %" G_GUINT64_FORMAT " bytes, its place %" G_GINT64_FORMAT,
                       le64_get (disk.bytes), volume->bytes);
  pv->bytes = le64_get (disk.bytes) > 0 ? (int64_t)le64_get (disk.bytes) : volume->bytes;
  int n_data = read_areas (sector, &at, &data, 1);
  pv->n_areas = n_data < 0 ? -1 : read_areas (sector, &at, pv->areas, LVM2_MAX_AREAS);
  if (n_data != 1 || pv->n_areas < 1)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "label: expected one area of data, one or two of metadata");
  return true;
}

/* --- metadata areas ------------------------------------------------------------------------------------------ */

static char *coroutine_fn
co_read_text (FsVolume *volume, const Area *area, const Lvm2PlaceDisk *place, gsize *bytes, GError **error)
{
  int64_t offset = (int64_t)MIN (le64_get (place->offset), INT64_MAX);
  int64_t length = (int64_t)MIN (le64_get (place->bytes), INT64_MAX);

  if (offset < LVM2_MDA_HEADER || offset >= area->bytes || length < 1 || length > LVM2_MAX_TEXT_BYTES
      || length > area->bytes - LVM2_MDA_HEADER)
    {
      fs_corrupt (error, "metadata: %" G_GINT64_FORMAT " bytes of text at offset %" G_GINT64_FORMAT, length,
                  offset);
      return NULL;
    }
  g_autofree char *text = g_try_malloc ((gsize)length);
  if (text == NULL)
    {
      fs_refuse (error, VHDKIT_ERROR_FAILED, "no memory for its metadata");
      return NULL;
    }
  /* It goes on behind the header. */
  int64_t before_end = MIN (length, area->bytes - offset);
  if (!fs_co_read_structure (volume, area->offset + offset, before_end, text, "metadata", error)
      || !fs_co_read_structure (volume, area->offset + LVM2_MDA_HEADER, length - before_end,
                                text + before_end, "metadata", error))
    return NULL;
  uint32_t crc = fs_crc32 (LVM2_CRC_START, text, (size_t)length);
  if (crc != le32_get (place->crc))
    {
      fs_corrupt (error, "metadata checksum 0x%08x, expected 0x%08x", le32_get (place->crc), crc);
      return NULL;
    }
  *bytes = (gsize)length;
  return g_steal_pointer (&text);
}

static char *coroutine_fn
co_read_area (FsVolume *volume, const Area *area, gsize *bytes, GError **error)
{
  uint8_t sector[LVM2_MDA_HEADER];
  Lvm2MdaDisk disk;

  if (area->bytes <= LVM2_MDA_HEADER || area->offset > volume->bytes
      || area->bytes > volume->bytes - area->offset)
    {
      fs_corrupt (error, "metadata area of %" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT,
                  area->bytes, area->offset);
      return NULL;
    }
  if (!fs_co_read_structure (volume, area->offset, sizeof sector, sector, "metadata area", error))
    return NULL;
  memcpy (&disk, sector, sizeof disk);
  uint32_t crc = fs_crc32 (LVM2_CRC_START, sector + sizeof disk.crc, sizeof sector - sizeof disk.crc);
  if (memcmp (disk.magic, LVM2_MDA_MAGIC, sizeof disk.magic) != 0 || crc != le32_get (disk.crc)
      || le32_get (disk.version) != LVM2_MDA_VERSION || le64_get (disk.offset) != (uint64_t)area->offset
      || le64_get (disk.bytes) != (uint64_t)area->bytes)
    {
      fs_corrupt (error, "header of the metadata area at offset %" G_GINT64_FORMAT, area->offset);
      return NULL;
    }
  if (le64_get (disk.prepared.offset) != 0 || le32_get (disk.committed.flags) != 0)
    {
      fs_refuse (error, VHDKIT_ERROR_IN_USE, "metadata that is being changed, or to be ignored");
      return NULL;
    }
  return co_read_text (volume, area, &disk.committed, bytes, error);
}

/* The one text that all areas have. */
static Lvm2Node *coroutine_fn
co_read_metadata (FsVolume *volume, const Pv *pv, GError **error)
{
  g_autofree char *text = NULL;
  gsize bytes = 0;

  for (int i = 0; i < pv->n_areas; i++)
    {
      gsize its_bytes = 0;
      g_autofree char *its_text = co_read_area (volume, &pv->areas[i], &its_bytes, error);

      if (its_text == NULL)
        return NULL;
      if (text != NULL && (its_bytes != bytes || memcmp (text, its_text, bytes) != 0))
        {
          fs_corrupt (error, "the two copies of its metadata differ");
          return NULL;
        }
      g_free (text);
      text = g_steal_pointer (&its_text);
      bytes = its_bytes;
    }
  return lvm2_text_parse (text, bytes, error);
}

/* --- the volume group ---------------------------------------------------------------------------------------- */

static const char *const nothing[] = { NULL };
static const char *const usual_vg[] = { "RESIZEABLE", "READ", "WRITE", NULL };
static const char *const usual_pv[] = { "ALLOCATABLE", NULL };
static const char *const usual_lv[] = { "READ", "WRITE", "VISIBLE", NULL };

/* The text has dashes in it. */
static bool
is_uuid (const char *text, const char *uuid)
{
  for (; text != NULL && *text != '\0'; text++)
    if (*text != '-' && *text != *uuid++)
      return false;
  return text != NULL && *uuid == '\0';
}

/* The section of the volume group, the only one at the top. */
static const Lvm2Node *
find_group (const Lvm2Node *root, GError **error)
{
  const Lvm2Node *group = NULL;
  int64_t version;

  for (guint i = 0; i < root->members->len; i++)
    {
      const Lvm2Node *node = root->members->pdata[i];

      if (node->kind != LVM2_SECTION)
        continue;
      if (group != NULL)
        {
          fs_corrupt (error, "metadata of two volume groups");
          return NULL;
        }
      group = node;
    }
  if (group == NULL || g_strcmp0 (lvm2_node_get_string (root, "contents"), "Text Format Volume Group") != 0
      || !lvm2_node_get_number (root, "version", &version) || version != 1)
    {
      fs_corrupt (error, "metadata that is not of a volume group");
      return NULL;
    }
  return group;
}

static bool
is_usual (const Lvm2Node *section, const char *const *status)
{
  /* Before there were flags there was no such member. */
  return lvm2_node_is_among (section, "status", status)
         && (lvm2_node_get (section, "flags") == NULL || lvm2_node_is_among (section, "flags", nothing));
}

static bool
check_group (const Lvm2Node *group, GError **error)
{
  if (!is_usual (group, usual_vg) || g_strcmp0 (lvm2_node_get_string (group, "format"), "lvm2") != 0)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "volume group %s: its state or format is not a usual one", group->name);
  for (guint i = 0; i < group->members->len; i++)
    {
      const Lvm2Node *node = group->members->pdata[i];

      if (node->kind == LVM2_SECTION && strcmp (node->name, "physical_volumes") != 0
          && strcmp (node->name, "logical_volumes") != 0)
        return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED, "volume group %s: it has %s, which are not read",
                          group->name, node->name);
    }
  return true;
}

/* Where extents are that the text counts. */
static bool
check_place (const Pv *pv, int64_t extent_sectors, int64_t start_sectors, int64_t count, Extents *extents)
{
  int64_t length, end;

  if (extent_sectors < 1 || start_sectors < 1 || count < 1
      || __builtin_mul_overflow (extent_sectors, LVM2_SECTOR, &extents->extent)
      || __builtin_mul_overflow (start_sectors, LVM2_SECTOR, &extents->start)
      || __builtin_mul_overflow (extents->extent, count, &length)
      || !checked_add (extents->start, length, &end) || end > pv->bytes
      || extents->start < LVM2_LABEL_SECTORS * LVM2_SECTOR)
    return false;
  extents->count = count;
  for (int i = 0; i < pv->n_areas; i++)
    if (ranges_overlap (extents->start, length, pv->areas[i].offset, pv->areas[i].bytes))
      return false;
  return true;
}

static bool
find_extents (const Pv *pv, const Lvm2Node *group, Extents *extents, GError **error)
{
  const Lvm2Node *volumes = lvm2_node_get_section (group, "physical_volumes");
  int64_t extent_sectors, start_sectors, count;

  if (volumes == NULL || volumes->members->len != 1)
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "volume group %s: it has %u physical volumes, expected this one", group->name,
                      volumes != NULL ? volumes->members->len : 0);
  const Lvm2Node *volume = volumes->members->pdata[0];
  if (volume->kind != LVM2_SECTION || !is_uuid (lvm2_node_get_string (volume, "id"), pv->uuid)
      || !is_usual (volume, usual_pv))
    return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                      "volume group %s: its physical volume is another one, or in no usual state",
                      group->name);
  extents->pv = volume->name;
  if (!lvm2_node_get_number (group, "extent_size", &extent_sectors)
      || !lvm2_node_get_number (volume, "pe_start", &start_sectors)
      || !lvm2_node_get_number (volume, "pe_count", &count)
      || !check_place (pv, extent_sectors, start_sectors, count, extents))
    return fs_corrupt (error, "volume group %s: extents that are not inside of the physical volume",
                       group->name);
  return true;
}

/* --- logical volumes ----------------------------------------------------------------------------------------- */

/* Segment @number of @lv, which is to begin at its extent *@next. */
static bool
read_segment (const Lvm2Node *lv, int64_t number, const Extents *extents, int64_t *next, Run *run,
              GError **error)
{
  g_autofree char *name = g_strdup_printf ("segment%" G_GINT64_FORMAT, number);
  const Lvm2Node *segment = lvm2_node_get_section (lv, name);
  const char *type = segment != NULL ? lvm2_node_get_string (segment, "type") : NULL;
  int64_t start, stripes;

  if (type == NULL)
    return fs_corrupt (error, "logical volume %s has no %s with a type", lv->name, name);
  if (strcmp (type, "striped") != 0 || !lvm2_node_get_number (segment, "stripe_count", &stripes)
      || stripes != 1)
    {
      g_autofree char *shown = fs_printable (type, MAX_TYPE_BYTES);

      return fs_refuse (error, VHDKIT_ERROR_UNSUPPORTED,
                        "there is a logical volume, %s, of type %s: only linear ones are read", lv->name,
                        shown);
    }
  const Lvm2Node *places = lvm2_node_get (segment, "stripes");
  if (places == NULL || places->kind != LVM2_ARRAY || places->members->len != 2)
    return fs_corrupt (error, "logical volume %s, %s: not one stripe", lv->name, name);
  const Lvm2Node *pv = places->members->pdata[0], *first = places->members->pdata[1];
  /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a section has a name */
  if (pv->kind != LVM2_STRING || strcmp (pv->string, extents->pv) != 0 || first->kind != LVM2_NUMBER
      || !lvm2_node_get_number (segment, "start_extent", &start) || start != *next
      || !lvm2_node_get_number (segment, "extent_count", &run->count) || run->count < 1 || first->number < 0
      || run->count > extents->count || first->number > extents->count - run->count)
    return fs_corrupt (error, "logical volume %s, %s: extents that are not there", lv->name, name);
  run->first = first->number;
  *next += run->count;
  return true;
}

/* Adds its extents to @runs; as a volume of its own, where it can be looked at as one. */
static bool
read_logical (FsVolume *volume, const char *group, const Lvm2Node *lv, const Extents *extents, GArray *runs,
              GError **error)
{
  int64_t segments, next = 0, sections = 0;
  bool contiguous = true;
  guint first = runs->len;

  for (guint i = 0; lv->kind == LVM2_SECTION && i < lv->members->len; i++)
    sections += ((const Lvm2Node *)lv->members->pdata[i])->kind == LVM2_SECTION;
  if (lv->kind != LVM2_SECTION || !lvm2_node_get_number (lv, "segment_count", &segments) || segments < 1
      || segments != sections)
    return fs_corrupt (error, "logical volume %s: it has not as many segments as it says", lv->name);
  for (int64_t i = 1; i <= segments; i++)
    {
      Run run = { 0 };

      if (!read_segment (lv, i, extents, &next, &run, error))
        return false;
      contiguous = contiguous
                   && run.first
                          == (i == 1 ? run.first
                                     : g_array_index (runs, Run, runs->len - 1).first
                                           + g_array_index (runs, Run, runs->len - 1).count);
      g_array_append_val (runs, run);
    }
  if (contiguous && is_usual (lv, usual_lv))
    {
      g_autofree char *name = g_strdup_printf ("%s/%s", group, lv->name);

      fs_add_inner (volume, extents->start + g_array_index (runs, Run, first).first * extents->extent,
                    next * extents->extent, name);
    }
  return true;
}

static int
compare_runs (const void *a, const void *b)
{
  const Run *x = a, *y = b;

  return x->first < y->first ? -1 : x->first > y->first;
}

/* What lies between @runs, and behind them. */
static bool
add_free_extents (FsVolume *volume, const Extents *extents, GArray *runs, GError **error)
{
  int64_t end = 0;

  g_array_sort (runs, compare_runs);
  for (guint i = 0; i <= runs->len; i++)
    {
      Run run = { extents->count, 0 };

      if (i < runs->len)
        run = g_array_index (runs, Run, i);
      if (run.first < end)
        return fs_corrupt (error, "extent %" G_GINT64_FORMAT " belongs to two logical volumes", run.first);
      fs_add_free (volume, extents->start + end * extents->extent, (run.first - end) * extents->extent);
      end = run.first + run.count;
    }
  return true;
}

static bool coroutine_fn
lvm2_co_read_free (FsVolume *volume, GError **error)
{
  g_autoptr (GArray) runs = g_array_new (false, false, sizeof (Run));
  Extents extents = { 0 };
  Pv pv = { 0 };

  if (!read_label (volume, &pv, error))
    return false;
  fs_set_uuid (volume, pv.uuid);
  g_autoptr (Lvm2Node) root = co_read_metadata (volume, &pv, error);
  if (root == NULL)
    return false;
  const Lvm2Node *group = find_group (root, error);
  if (group == NULL)
    return false;
  fs_set_label (volume, group->name, strlen (group->name));
  if (!check_group (group, error) || !find_extents (&pv, group, &extents, error))
    return false;
  /* A group without any does not have the section. */
  const Lvm2Node *logical = lvm2_node_get (group, "logical_volumes");
  if (logical != NULL && logical->kind != LVM2_SECTION)
    return fs_corrupt (error, "volume group %s: logical volumes that are no section", group->name);
  for (guint i = 0; logical != NULL && i < logical->members->len; i++)
    if (!read_logical (volume, group->name, logical->members->pdata[i], &extents, runs, error))
      return false;
  return add_free_extents (volume, &extents, runs, error);
}

const FsReader lvm2_reader = {
  .name = "LVM2",
  .needs_owner = true,
  .co_probe = lvm2_co_probe,
  .co_read_free = lvm2_co_read_free,
};
