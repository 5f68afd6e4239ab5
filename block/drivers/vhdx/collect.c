/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Judging every entry of the BAT, and collecting what of the file is in use ([MS-VHDX] 2.5).
 *
 * A reader looks at the entries it meets and cannot see that two of them share a place.  Whoever allocates, moves or
 * frees must know the whole, and check tells all there is to tell: both come here.  Memory is bounded whatever the
 * table holds: the map of the space, and so many findings in words; the rest are counted.
 */
#include <inttypes.h>

#include "vhdx.h"

/* Findings of one table that are told one by one, and collisions whose other side is looked for. */
#define MAX_TOLD       100
#define MAX_COLLISIONS 16

typedef struct
{
  uint64_t index;
  int64_t file_offset, bytes;
  bool told;
} Collision;

/* Entries that have something in common, told in one sentence. */
typedef struct
{
  uint64_t entries, first;
} Group;

typedef struct
{
  VhdxSpace *space;
  VhdxBatFacts *facts;
  VhdxBatReport *report;
  void *opaque;
  bool stop;

  uint64_t chunk, chunk_end; /* the present one, and the index behind its entries */
  bool partial;              /* it has a partially present block, and no bitmap was met … */
  uint64_t partial_index;    /* … the first of them */
  uint64_t last_present;     /* of the payload blocks; UINT64_MAX: none yet */
  int64_t last_end;
  Group ignored_bitmaps, needless_bitmaps, needless_offsets, drafts, no_blocks;
  Collision collisions[MAX_COLLISIONS];
  int n_collisions;
} Judge;

/* --- telling --------------------------------------------------------------------------------------------------- */

static void G_GNUC_PRINTF (3, 4) tell (Judge *judge, BlockCheckSeverity severity, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list ap;

  if (severity == BLOCK_CHECK_ERROR && ++judge->facts->errors > MAX_TOLD)
    return;
  va_start (ap, format);
  text = g_strdup_vprintf (format, ap);
  va_end (ap);
  judge->stop = judge->stop || !judge->report (severity, text, judge->opaque);
}

/* "BAT entry 5 at offset 3145768 (payload block 5)" */
static char *
entry_name (const VhdxState *s, uint64_t index)
{
  bool bitmap = vhdx_bat_index_is_bitmap (s, index);

  return g_strdup_printf ("BAT entry %" PRIu64 " at offset %" PRId64 " (%s %" PRIu64 ")", index,
                          s->bat_region.file_offset + (int64_t)index * 8,
                          bitmap ? "sector bitmap of chunk" : "payload block",
                          bitmap ? vhdx_bat_index_chunk (s, index) : vhdx_bat_index_block (s, index));
}

/* An error of one entry; its name comes first.  Past the limit it costs no more than counting. */
static void G_GNUC_PRINTF (4, 5)
    entry_error (const VhdxState *s, Judge *judge, uint64_t index, const char *format, ...)
{
  g_autofree char *name = NULL;
  g_autofree char *text = NULL;
  va_list ap;

  if (judge->facts->errors >= MAX_TOLD)
    {
      judge->facts->errors++;
      return;
    }
  va_start (ap, format);
  text = g_strdup_vprintf (format, ap);
  va_end (ap);
  name = entry_name (s, index);
  tell (judge, BLOCK_CHECK_ERROR, "%s: %s", name, text);
}

static void
add_to_group (Group *group, uint64_t index)
{
  if (group->entries++ == 0)
    group->first = index;
}

static void
tell_group (const VhdxState *s, Judge *judge, const Group *group, BlockCheckSeverity severity,
            const char *what)
{
  g_autofree char *name = NULL;

  if (group->entries == 0)
    return;
  name = entry_name (s, group->first);
  if (group->entries == 1)
    tell (judge, severity, "%s: %s", name, what);
  else
    tell (judge, severity, "%s and %" PRIu64 " more: %s", name, group->entries - 1, what);
}

/* --- places ---------------------------------------------------------------------------------------------------- */

/* What other than a block is in the range, or NULL; to be freed. */
static char *
structure_in (const VhdxState *s, int64_t file_offset, int64_t bytes)
{
  if (file_offset < VHDX_HEADER_SECTION)
    return g_strdup ("header section at offset 0");
  if (ranges_overlap (file_offset, bytes, s->header.log_offset, s->header.log_length))
    return g_strdup_printf ("log at offset %" PRIu64, s->header.log_offset);
  for (guint i = 0; i < s->regions->len; i++)
    {
      const VhdxRegion *region = &g_array_index (s->regions, VhdxRegion, i);
      char text[37];

      if (!ranges_overlap (file_offset, bytes, region->file_offset, region->bytes))
        continue;
      vhdx_guid_format (&region->guid, text);
      return g_strdup_printf ("region %s at offset %" PRId64, text, region->file_offset);
    }
  return NULL;
}

/* The range of an entry collides: with what? */
static void
add_collision (const VhdxState *s, Judge *judge, uint64_t index, int64_t file_offset, int64_t bytes)
{
  g_autofree char *structure = NULL;

  if (judge->facts->errors < MAX_TOLD)
    structure = structure_in (s, file_offset, bytes);
  if (judge->facts->errors < MAX_TOLD && !structure && judge->n_collisions < MAX_COLLISIONS)
    /* With which block, the whole table must be asked. */
    judge->collisions[judge->n_collisions++] = (Collision){ index, file_offset, bytes, false };
  else
    entry_error (s, judge, index, "the block at offset %" PRId64 ", %" PRId64 " bytes, overlaps %s%s",
                 file_offset, bytes, structure ? "the " : "another block", structure ? structure : "");
}

/* Takes the range of an entry.  @needed: of @bytes, what must be in the file.  false: it cannot be there. */
static bool
take_range (const VhdxState *s, Judge *judge, uint64_t index, int64_t file_offset, int64_t needed,
            int64_t bytes)
{
  if (file_offset < 0 || file_offset > s->file_bytes - needed || file_offset > VHDX_MAX_FILE_BYTES - bytes)
    {
      entry_error (s, judge, index,
                   "the block at offset %" PRIu64 ", %" PRId64
                   " bytes, is outside the file, which ends at %" PRId64,
                   (uint64_t)file_offset, needed, MIN (s->file_bytes, VHDX_MAX_FILE_BYTES));
      return false;
    }
  if (file_offset >= VHDX_HEADER_SECTION && vhdx_space_take (judge->space, file_offset, bytes))
    return true;
  add_collision (s, judge, index, file_offset, bytes);
  return false;
}

/* --- entries --------------------------------------------------------------------------------------------------- */

/* Nothing of the present chunk follows. */
static void
end_chunk (const VhdxState *s, Judge *judge)
{
  if (judge->partial)
    entry_error (s, judge, judge->partial_index,
                 "the block is partially present (state 7), and chunk %" PRIu64 " has no sector bitmap block",
                 judge->chunk);
  judge->partial = false;
}

static void
judge_bitmap (VhdxState *s, Judge *judge, uint64_t index, uint64_t value)
{
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;
  bool needed = judge->partial;

  /* COMPAT: QEMU before 8.0 left values of no meaning there in images of disks without a parent. */
  if (!s->metadata.has_parent)
    {
      add_to_group (&judge->ignored_bitmaps, index);
      return;
    }
  if (state == VHDX_BLOCK_NOT_PRESENT)
    {
      add_to_group (&judge->needless_offsets, index);
      return;
    }
  judge->partial = false;
  if ((int)state != VHDX_BITMAP_PRESENT)
    {
      entry_error (s, judge, index, "state %d, expected 0 or %d", state, VHDX_BITMAP_PRESENT);
      return;
    }
  if (!take_range (s, judge, index, file_offset, VHDX_BITMAP_BLOCK_BYTES, VHDX_BITMAP_BLOCK_BYTES))
    return;
  judge->facts->bitmap_blocks++;
  if (!needed)
    add_to_group (&judge->needless_bitmaps, index);
}

static void
judge_present (VhdxState *s, Judge *judge, uint64_t index, VhdxBlockState state, int64_t file_offset)
{
  VhdxBatFacts *facts = judge->facts;
  uint64_t block = index - judge->chunk;
  int64_t block_size = s->metadata.block_size;

  facts->present_blocks++;
  if (state == VHDX_BLOCK_PARTIALLY_PRESENT && !s->metadata.has_parent)
    {
      entry_error (s, judge, index, "state 7, partially present, but the disk has no parent");
    }
  else if (state == VHDX_BLOCK_PARTIALLY_PRESENT && !judge->partial)
    {
      judge->partial = true;
      judge->partial_index = index;
    }
  if (!take_range (s, judge, index, file_offset, vhdx_bytes_in_block (s, block), block_size))
    return;
  facts->missing_bytes = MAX (facts->missing_bytes, file_offset + block_size - s->file_bytes);
  /* A bitmap block may stand between two that follow each other. */
  if (judge->last_present != UINT64_MAX
      && (block != judge->last_present + 1 || file_offset < judge->last_end
          || file_offset - judge->last_end > VHDX_BITMAP_BLOCK_BYTES))
    facts->fragmented_blocks++;
  judge->last_present = block;
  judge->last_end = file_offset + block_size;
}

static void
judge_payload (VhdxState *s, Judge *judge, uint64_t index, uint64_t value)
{
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;
  int64_t file_offset = value & VHDX_BAT_OFFSET_MASK;

  switch (state)
    {
    case VHDX_BLOCK_NOT_PRESENT:
    case VHDX_BLOCK_ZERO:
      if (file_offset != 0)
        add_to_group (&judge->needless_offsets, index);
      return;
    case VHDX_BLOCK_UNMAPPED_DRAFT:
      if (s->metadata.has_parent)
        break;
      /* COMPAT: images after the draft 0.95. */
      add_to_group (&judge->drafts, index);
      G_GNUC_FALLTHROUGH;
    case VHDX_BLOCK_UNDEFINED:
    case VHDX_BLOCK_UNMAPPED:
      /* A soft anchor: the place still belongs to the block. */
      if (file_offset != 0
          && take_range (s, judge, index, file_offset, vhdx_bytes_in_block (s, index - judge->chunk),
                         s->metadata.block_size))
        judge->facts->anchors++;
      return;
    case VHDX_BLOCK_FULLY_PRESENT:
    case VHDX_BLOCK_PARTIALLY_PRESENT:
      judge_present (s, judge, index, state, file_offset);
      return;
    }
  entry_error (s, judge, index, "state %d, expected 0 to 3%s", state,
               s->metadata.has_parent ? ", 6 or 7" : " or 6");
}

static int coroutine_fn
judge_entry (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  Judge *judge = opaque;
  bool bitmap;

  /* Divisions for each of 67 million entries would cost more than all else. */
  if (index >= judge->chunk_end)
    {
      end_chunk (s, judge);
      judge->chunk = vhdx_bat_index_chunk (s, index);
      judge->chunk_end = (judge->chunk + 1) * (s->chunk_ratio + 1);
    }
  bitmap = index == judge->chunk_end - 1;
  if (!bitmap && index - judge->chunk >= s->payload_blocks)
    {
      add_to_group (&judge->no_blocks, index);
    }
  else if ((value & VHDX_BAT_RESERVED_MASK) != 0 && (!bitmap || s->metadata.has_parent))
    {
      /* What is wrong with the chunk's bitmap is told; that it has none need not be. */
      judge->partial = judge->partial && !bitmap;
      entry_error (s, judge, index, "value 0x%016" PRIx64 ", reserved bits 0x%" PRIx64 " are set", value,
                   value & VHDX_BAT_RESERVED_MASK);
    }
  else if (bitmap)
    {
      judge_bitmap (s, judge, index, value);
    }
  else
    {
      judge_payload (s, judge, index, value);
    }
  return judge->stop;
}

/* --- collisions ------------------------------------------------------------------------------------------------ */

/* The range of the file that an entry owns; false: none. */
static bool
entry_range (const VhdxState *s, uint64_t index, uint64_t value, int64_t *file_offset, int64_t *bytes)
{
  VhdxBlockState state = value & VHDX_BAT_STATE_MASK;
  bool bitmap = vhdx_bat_index_is_bitmap (s, index);

  *file_offset = value & VHDX_BAT_OFFSET_MASK;
  *bytes = bitmap ? VHDX_BITMAP_BLOCK_BYTES : s->metadata.block_size;
  if ((value & VHDX_BAT_RESERVED_MASK) != 0 || *file_offset < VHDX_HEADER_SECTION)
    return false;
  if (bitmap)
    return s->metadata.has_parent && (int)state == VHDX_BITMAP_PRESENT;
  return vhdx_bat_index_block (s, index) < s->payload_blocks
         && (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED
             || state >= VHDX_BLOCK_UNMAPPED_DRAFT);
}

static int coroutine_fn
name_collisions (VhdxState *s, uint64_t index, uint64_t value, void *opaque)
{
  Judge *judge = opaque;
  int64_t file_offset, bytes;
  bool all_told = true;

  if (!entry_range (s, index, value, &file_offset, &bytes))
    return 0;
  for (int i = 0; i < judge->n_collisions; i++)
    {
      Collision *collision = &judge->collisions[i];

      if (!collision->told && collision->index != index
          && ranges_overlap (file_offset, bytes, collision->file_offset, collision->bytes))
        {
          g_autofree char *other = entry_name (s, index);

          collision->told = true;
          entry_error (s, judge, collision->index,
                       "the block at offset %" PRId64 ", %" PRId64
                       " bytes, overlaps the one of %s at offset %" PRId64 ", %" PRId64 " bytes",
                       collision->file_offset, collision->bytes, other, file_offset, bytes);
        }
      all_told = all_told && collision->told;
    }
  return judge->stop || all_told;
}

/* --- the whole ------------------------------------------------------------------------------------------------- */

static void
take_structure (Judge *judge, const char *what, int64_t file_offset, int64_t bytes)
{
  /* Opening has seen to it that they do not overlap. */
  if (bytes > 0 && !vhdx_space_take (judge->space, file_offset, bytes))
    tell (judge, BLOCK_CHECK_ERROR,
          "%s at offset %" PRId64 ", %" PRId64 " bytes: not below %" PRId64 ", more than a VHDX can have",
          what, file_offset, bytes, VHDX_MAX_FILE_BYTES);
}

int coroutine_fn
vhdx_co_judge_bat (VhdxState *s, VhdxSpace *space, VhdxBatFacts *facts, VhdxBatReport *report, void *opaque)
{
  Judge judge = {
    .space = space, .facts = facts, .report = report, .opaque = opaque, .last_present = UINT64_MAX
  };
  int ret;

  *facts = (VhdxBatFacts){ 0 };
  take_structure (&judge, "header section", 0, VHDX_HEADER_SECTION);
  take_structure (&judge, "log", s->header.log_offset, s->header.log_length);
  for (guint i = 0; i < s->regions->len; i++)
    {
      const VhdxRegion *region = &g_array_index (s->regions, VhdxRegion, i);

      take_structure (&judge, "region", region->file_offset, region->bytes);
    }
  if (judge.stop)
    return 0;
  ret = vhdx_co_for_each_entry (s, judge_entry, &judge);
  if (ret == 0)
    end_chunk (s, &judge);
  if (ret == 0 && judge.n_collisions > 0)
    ret = vhdx_co_for_each_entry (s, name_collisions, &judge);
  for (int i = 0; i < judge.n_collisions && ret >= 0; i++)
    if (!judge.collisions[i].told && !judge.stop)
      entry_error (s, &judge, judge.collisions[i].index, "the block at offset %" PRId64 " overlaps another",
                   judge.collisions[i].file_offset);
  if (ret < 0 || judge.stop)
    return MIN (ret, 0);
  tell_group (s, &judge, &judge.ignored_bitmaps, BLOCK_CHECK_WARNING,
              "not zero, but the disk has no parent; ignored");
  tell_group (s, &judge, &judge.needless_offsets, BLOCK_CHECK_WARNING,
              "a state without a place has an offset; ignored");
  tell_group (s, &judge, &judge.drafts, BLOCK_CHECK_WARNING,
              "state 5, of a draft of the format; read as unmapped");
  tell_group (s, &judge, &judge.no_blocks, BLOCK_CHECK_WARNING,
              "not zero, but past the last block of the disk; ignored");
  /* Legal ([MS-VHDX] 2.5.1.2), and what is left when the last such block was written whole. */
  tell_group (
      s, &judge, &judge.needless_bitmaps, BLOCK_CHECK_INFO,
      "no block of the chunk is partially present: its sector bitmap block is not needed now; a compaction "
      "gives it back");
  return 0;
}

typedef struct
{
  VhdxState *s;
  GError **error;
  bool failed;
} Collect;

static bool
stop_at_error (BlockCheckSeverity severity, const char *text, void *opaque)
{
  Collect *collect = opaque;

  if (severity == BLOCK_CHECK_WARNING)
    bdrv_warn (collect->s->bs, "%s", text);
  if (severity != BLOCK_CHECK_ERROR || collect->failed)
    return !collect->failed;
  collect->failed = true;
  bdrv_set_error (collect->error, collect->s->bs, VHDKIT_ERROR_CORRUPT, "%s", text);
  return false;
}

bool coroutine_fn
vhdx_co_collect_space (VhdxState *s, VhdxSpace **space, GError **error)
{
  g_autoptr (VhdxSpace) collected = vhdx_space_new ();
  Collect collect = { s, error, false };
  VhdxBatFacts facts;
  int ret = collected ? vhdx_co_judge_bat (s, collected, &facts, stop_at_error, &collect) : -ENOMEM;

  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the BAT at offset %" PRId64,
                            s->bat_region.file_offset);
      return false;
    }
  if (collect.failed)
    return false;
  *space = g_steal_pointer (&collected);
  return true;
}
