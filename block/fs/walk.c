/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The walk over a disk: partition table, volumes, the reader of each.
 *
 * When is a byte free?  It lies in exactly one volume; no other partition overlaps it, nor does a partition table; the
 * table was found valid as a whole; just one reader claims the volume, and that one found its file system sound.
 * Whatever is in doubt makes the volume count as in use, and a table in doubt the disk.
 */
#include "walk.h"

#include "checked.h"

#include <errno.h>
#include <string.h>

#define MAX_FREE (1 << 20)

typedef struct
{
  FsWalk walk;
  FsFreeReport *report;
  FsTable table;
  FsExtents free;
  const FsVolumeInfo *mounted; /* the first that was not unmounted, or NULL */
  GPtrArray *hiding;           /* of FsVolumeInfo *: sound, and of a reader that hides_mounted */
} DiskWalk;

static void
volume_info_free (void *data)
{
  FsVolumeInfo *info = data;

  g_free (info->type);
  g_free (info->inside);
  g_free (info->label);
  g_free (info->uuid);
  g_clear_error (&info->in_use);
  g_free (info);
}

/* --- one volume ---------------------------------------------------------------------------------------- */

/* The reader that claims @volume; NULL with @error if there is none or are several. */
static const FsReader *coroutine_fn
co_find_reader (FsVolume *volume, GError **error)
{
  const FsReader *found = NULL, *second = NULL;
  g_autofree char *type = NULL;

  for (const FsReader *const *reader = fs_readers; *reader != NULL && second == NULL; reader++)
    if ((*reader)->co_probe (volume))
      {
        if (found != NULL)
          second = *reader;
        else
          {
            found = *reader;
            type = g_strdup (volume->walk->found.type);
          }
      }
  if (found == NULL)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "no file system that is known here");
  else if (second != NULL)
    {
      const char *other = volume->walk->found.type;

      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "it has the marks of %s and of %s",
                   type != NULL ? type : found->name,
                   other != NULL && g_strcmp0 (other, type) != 0 ? other : second->name);
      fs_set_type (volume, "unknown");
      return NULL;
    }
  return found;
}

static GError *
reason_of_owner (const char *owner)
{
  return g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "its partition type gives it to %s", owner);
}

/* Why what @reader says of @volume is not believed whatever it is, or NULL. */
static GError *
reason_against_marks (const FsVolume *volume, const FsReader *reader, bool is_whole_disk, const char *owner)
{
  FsMbrKind mbr = fs_mbr_classify (volume->head);

  /* A table that is not read, as of a virtual machine's disk in a logical volume: the marks of a file system are older
   * than it, or not. */
  if (mbr == FS_MBR_PARTITIONS || mbr == FS_MBR_PROTECTIVE || mbr == FS_MBR_HYBRID
      || fs_gpt_has_signature (volume))
    return g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "there is a partition table in it");
  if (reader != NULL && reader->needs_owner && owner == NULL && !is_whole_disk)
    return g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                        "it has the marks of %s, its partition type is another", reader->name);
  return NULL;
}

static bool
was_not_unmounted (const FsVolumeInfo *info)
{
  return g_error_matches (info->in_use, VHDKIT_ERROR, VHDKIT_ERROR_IN_USE)
         || g_error_matches (info->in_use, VHDKIT_ERROR, VHDKIT_ERROR_NEEDS_REPLAY);
}

/* Looks at [@offset, +@bytes) and adds its free ranges to @free, unless @in_use (consumed, may be NULL) says beforehand
 * why there are none; or none but a reader named @owner (may be NULL) would know.  @inner: volumes that stand in it, if
 * any is allowed (consumed); else NULL. */
static FsVolumeInfo *coroutine_fn
co_inspect (DiskWalk *disk, int number, int64_t offset, int64_t bytes, const char *owner, GError *in_use,
            GArray **inner)
{
  g_auto (FsVolume) volume = { 0 };
  FsFindings *found = &disk->walk.found;
  FsVolumeInfo *info = g_new0 (FsVolumeInfo, 1);
  g_autoptr (GError) error = NULL;

  fs_volume_co_init (&volume, &disk->walk, disk->report->sector_size, offset, bytes);
  const FsReader *reader = co_find_reader (&volume, &error);
  if (in_use == NULL && owner != NULL && (reader == NULL || strcmp (reader->name, owner) != 0))
    in_use = reason_of_owner (owner);
  if (in_use == NULL)
    in_use = reason_against_marks (&volume, reader, number == 0 && inner != NULL, owner);
  if (in_use != NULL)
    {
      g_clear_error (&error);
      error = in_use;
    }
  bool is_sound =
      /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): there is an error where there is no reader */
      error == NULL && !fs_volume_has_failed (&volume, &error) && reader->co_read_free (&volume, &error);
  /* What was unreadable is the better reason. */
  g_autoptr (GError) failure = NULL;
  if (in_use == NULL && fs_volume_has_failed (&volume, &failure))
    {
      g_clear_error (&error);
      error = g_steal_pointer (&failure);
      is_sound = false;
    }
  if (is_sound && inner == NULL && found->inner->len > 0)
    {
      g_set_error (&error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED,
                   "volumes inside of a volume inside of another");
      is_sound = false;
    }
  if (is_sound)
    {
      if (inner != NULL)
        *inner = g_array_ref (found->inner);
      fs_extents_finish (&found->free);
      fs_extents_finish (&found->used);
      fs_extents_subtract (&found->free, &found->used);
      disk->report->free_incomplete |= found->free.incomplete;
      for (guint i = 0; i < found->free.array->len; i++)
        {
          const FsExtent *extent = &g_array_index (found->free.array, FsExtent, i);

          fs_extents_add (&disk->free, offset + extent->offset, extent->bytes);
        }
    }
  *info = (FsVolumeInfo){
    .offset = offset,
    .bytes = bytes,
    .partition = number,
    .type = found->type != NULL ? g_steal_pointer (&found->type)
                                : g_strdup (reader != NULL ? reader->name : "unknown"),
    .label = g_steal_pointer (&found->label),
    .uuid = g_steal_pointer (&found->uuid),
  };
  if (!is_sound)
    info->in_use = error != NULL
                       ? g_steal_pointer (&error)
                       : g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_FAILED, "its reader gave no reason");
  else if (reader->hides_mounted)
    g_ptr_array_add (disk->hiding, info);
  if (disk->mounted == NULL && was_not_unmounted (info))
    disk->mounted = info;
  return info;
}

/* --- the table ----------------------------------------------------------------------------------------- */

/* What is there before any table is believed. */
typedef struct
{
  FsMbrKind mbr;
  bool gpt_signature;
  bool claimed; /* by a reader, as a disk without a table */
  char *claimant;
} DiskSigns;

static void coroutine_fn
co_look_at_disk (FsVolume *volume, DiskSigns *signs)
{
  g_autoptr (GError) error = NULL;
  const FsReader *reader = co_find_reader (volume, &error);
  const char *type = volume->walk->found.type;

  signs->mbr = fs_mbr_classify (volume->head);
  signs->gpt_signature = fs_gpt_has_signature (volume);
  signs->claimed = reader != NULL || g_error_matches (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT);
  signs->claimant = g_strdup (type != NULL ? type : reader != NULL ? reader->name : NULL);
}

/* Sets report->table, and reads the partitions there are.  false: the whole disk counts as in use. */
static bool coroutine_fn
co_read_table (DiskWalk *disk, FsVolume *volume, const DiskSigns *signs, GError **error)
{
  FsTable *table = &disk->table;
  bool is_gpt = signs->mbr == FS_MBR_PROTECTIVE || signs->mbr == FS_MBR_HYBRID || signs->gpt_signature;
  bool ok = true;

  disk->report->table = is_gpt ? "GPT" : signs->mbr == FS_MBR_PARTITIONS ? "MBR" : "none";
  if (!is_gpt && signs->mbr != FS_MBR_PARTITIONS)
    return true;
  if (signs->claimed)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                   "there are a partition table (%s) and the marks of %s on the whole disk",
                   disk->report->table, signs->claimant);
      return false;
    }
  if (is_gpt && signs->mbr != FS_MBR_PROTECTIVE)
    {
      g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_UNSUPPORTED, "there is a GPT, but %s",
                   signs->mbr == FS_MBR_HYBRID ? "the MBR has partitions of its own (hybrid)"
                                               : "no MBR that protects it");
      return false;
    }
  if (is_gpt)
    ok = fs_gpt_co_read (volume, table, error);
  else
    {
      if (table->sector_size == 0)
        table->sector_size = BDRV_SECTOR_SIZE;
      ok = fs_mbr_co_read (volume, table, error);
    }
  return ok && !fs_volume_has_failed (volume, error);
}

static int
compare_partitions (const void *a, const void *b)
{
  const FsPartition *x = a, *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Why partition @i of the sorted ones is not taken for what it seems, or NULL.  @furthest: the one before it that ends
 * last, or NULL: if any before it overlaps it, that one does. */
static GError *
reason_against (const FsTable *table, guint i, const FsPartition *furthest)
{
  const FsPartition *partition = &g_array_index (table->partitions, FsPartition, i);
  const FsPartition *next =
      i + 1 < table->partitions->len ? &g_array_index (table->partitions, FsPartition, i + 1) : NULL;
  const FsPartition *const neighbours[] = { furthest, next };

  for (size_t k = 0; k < G_N_ELEMENTS (neighbours); k++)
    {
      const FsPartition *its = neighbours[k];

      if (its != NULL && ranges_overlap (partition->offset, partition->bytes, its->offset, its->bytes))
        return g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT, "it overlaps partition %d", its->number);
    }
  for (guint other = 0; other < table->used->len; other++)
    {
      const FsExtent *its = &g_array_index (table->used, FsExtent, other);

      /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): of an array */
      if (ranges_overlap (partition->offset, partition->bytes, its->offset, its->bytes))
        return g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT,
                            "it overlaps the partition table at offset %" G_GINT64_FORMAT, its->offset);
    }
  return NULL;
}

/* --- the disk ------------------------------------------------------------------------------------------ */

static int
compare_inner (const void *a, const void *b)
{
  const FsInner *x = a, *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* @partition, and the volumes inside of it. */
static void coroutine_fn
co_walk_volume (DiskWalk *disk, const FsPartition *partition, GError *in_use)
{
  GPtrArray *volumes = disk->report->volumes;
  g_autoptr (GArray) inner = NULL;

  g_ptr_array_add (volumes, co_inspect (disk, partition->number, partition->offset, partition->bytes,
                                        partition->owner, in_use, &inner));
  if (inner != NULL)
    g_array_sort (inner, compare_inner);
  for (guint i = 0; inner != NULL && i < inner->len && disk->walk.stopped == 0; i++)
    {
      const FsInner *its = &g_array_index (inner, FsInner, i);
      FsVolumeInfo *info =
          co_inspect (disk, partition->number, partition->offset + its->offset, its->bytes, NULL, NULL, NULL);

      info->inside = g_strdup (its->name);
      g_ptr_array_add (volumes, info);
    }
}

/* What is not taken for what it seems is not read either: there may be thousands, each of them all of the disk. */
static void
pass_over (DiskWalk *disk, const FsPartition *partition, GError *in_use)
{
  FsVolumeInfo *info = g_new0 (FsVolumeInfo, 1);

  *info = (FsVolumeInfo){
    .offset = partition->offset,
    .bytes = partition->bytes,
    .partition = partition->number,
    .type = g_strdup ("unknown"),
    .in_use = in_use,
  };
  g_ptr_array_add (disk->report->volumes, info);
}

static void coroutine_fn
co_walk_partitions (DiskWalk *disk)
{
  GArray *partitions = disk->table.partitions;
  const FsPartition *furthest = NULL;

  g_array_sort (partitions, compare_partitions);
  for (guint i = 0; i < partitions->len && disk->walk.stopped == 0; i++)
    {
      const FsPartition *partition = &g_array_index (partitions, FsPartition, i);
      GError *reason = reason_against (&disk->table, i, furthest);

      if (reason != NULL)
        pass_over (disk, partition, reason);
      else
        co_walk_volume (disk, partition, NULL);
      if (furthest == NULL || partition->offset + partition->bytes > furthest->offset + furthest->bytes)
        furthest = partition;
    }
}

static void coroutine_fn
co_walk (DiskWalk *disk)
{
  FsFreeReport *report = disk->report;
  int64_t bytes = bdrv_length (disk->walk.params->bs);
  DiskSigns signs = { 0 };
  GError *error = NULL;

  {
    g_auto (FsVolume) volume = { 0 };

    fs_volume_co_init (&volume, &disk->walk, MAX (disk->table.sector_size, BDRV_SECTOR_SIZE), 0, bytes);
    co_look_at_disk (&volume, &signs);
    if (!fs_volume_has_failed (&volume, &error))
      co_read_table (disk, &volume, &signs, &error);
  }
  g_free (signs.claimant);
  report->sector_size = MAX (disk->table.sector_size, BDRV_SECTOR_SIZE);
  if (report->table == NULL)
    report->table = "none";
  if (error == NULL && disk->table.used->len > 0)
    co_walk_partitions (disk);
  else if (bytes > 0)
    co_walk_volume (disk, &(FsPartition){ .bytes = bytes }, error);
}

/* Whoever comes back goes on with all volumes as it knew them. */
static void
leave_to_hibernated (DiskWalk *disk)
{
  GPtrArray *volumes = disk->report->volumes;

  g_array_set_size (disk->free.array, 0);
  for (guint i = 0; i < volumes->len; i++)
    {
      FsVolumeInfo *info = volumes->pdata[i];

      if (info->in_use == NULL)
        info->in_use = g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_IN_USE,
                                    "a hibernated system is on the disk, and may go on with this volume");
    }
}

/* The same for the volumes that would not tell, where another one tells that its system may come back.  @used: gets where
 * they are. */
static void
leave_to_mounted (const DiskWalk *disk, FsExtents *used)
{
  for (guint i = 0; i < disk->hiding->len; i++)
    {
      FsVolumeInfo *info = disk->hiding->pdata[i];

      info->in_use = g_error_new (VHDKIT_ERROR, VHDKIT_ERROR_IN_USE,
                                  "%s on the disk was not unmounted: its system may come back, and has "
                                  "perhaps more here than can be seen",
                                  disk->mounted->type);
      fs_extents_add (used, info->offset, info->bytes);
    }
}

/* Sorts the free ranges of all volumes, and counts what each has of them. */
static void
finish_report (DiskWalk *disk)
{
  FsFreeReport *report = disk->report;

  if (disk->walk.hibernated)
    leave_to_hibernated (disk);
  /* Partitions that overlap a table have none, but this is cheap. */
  FsExtents used;
  fs_extents_init (&used, G_MAXUINT, 0);
  if (disk->mounted != NULL && !disk->walk.hibernated)
    leave_to_mounted (disk, &used);
  for (guint i = 0; i < disk->table.used->len; i++)
    {
      const FsExtent *extent = &g_array_index (disk->table.used, FsExtent, i);
      fs_extents_add (&used, extent->offset, extent->bytes);
    }
  fs_extents_finish (&used);
  fs_extents_finish (&disk->free);
  fs_extents_subtract (&disk->free, &used);
  fs_extents_clear (&used);

  FsVolumeInfo *outer = NULL;
  report->free = g_steal_pointer (&disk->free.array);
  report->free_incomplete |= disk->free.incomplete;
  for (guint i = 0; i < report->volumes->len; i++)
    {
      FsVolumeInfo *info = report->volumes->pdata[i];
      int64_t end = info->offset + info->bytes;
      FsExtent extent;

      for (int64_t at = info->offset;
           info->in_use == NULL && fs_free_report_next (report, at, &extent) && extent.offset < end;
           at = extent.offset + extent.bytes)
        info->free_bytes += MIN (extent.bytes, end - extent.offset);
      if (info->inside == NULL)
        outer = info;
      else
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it stands behind the one it is inside of */
        outer->free_bytes -= info->free_bytes;
    }
}

bool coroutine_fn
fs_co_find_free (const FsFreeParams *params, FsFreeReport *report, GError **error)
{
  DiskWalk disk = {
    .walk = { .params = params },
    .report = report,
    .table = { .sector_size = params->sector_size },
  };

  g_return_val_if_fail (is_power_of_two (params->granularity) && params->granularity >= BDRV_SECTOR_SIZE,
                        false);
  *report = (FsFreeReport){
    .volumes = g_ptr_array_new_with_free_func (volume_info_free),
    .notes = g_ptr_array_new_with_free_func (g_free),
  };
  disk.table.partitions = g_array_new (FALSE, FALSE, sizeof (FsPartition));
  disk.table.used = g_array_new (FALSE, FALSE, sizeof (FsExtent));
  disk.table.notes = report->notes;
  fs_extents_init (&disk.free, MAX_FREE, params->granularity);
  disk.hiding = g_ptr_array_new ();

  co_walk (&disk);
  finish_report (&disk);
  g_array_unref (disk.table.partitions);
  g_array_unref (disk.table.used);
  g_ptr_array_unref (disk.hiding);
  fs_extents_clear (&disk.free);
  if (disk.walk.stopped == 0)
    return true;

  fs_free_report_clear (report);
  if (disk.walk.stopped == -ECANCELED)
    g_set_error (error, VHDKIT_ERROR, VHDKIT_ERROR_CANCELLED, "the search for free space was cancelled");
  else
    bdrv_set_error_errno (error, params->bs, disk.walk.stopped, "the search for free space was stopped");
  return false;
}
