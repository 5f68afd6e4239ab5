/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking a container: every rule of the format that a reader need not look at.
 *
 * An image that is too damaged to be opened is opened all the same to be checked, without content (vhdx_check_takes):
 * what kept it from being opened is then the finding, beside all that can still be looked at.
 */
#include <inttypes.h>
#include <string.h>

#include "check.h"

/* Writers grow a file by so much at once, and some leave what they did not use. */
#define GROWTH_STEP (32 * VHDX_MIB)

/* --- headers --------------------------------------------------------------------------------------------------- */

static void
check_header_pair (const VhdxState *s, const VhdxHeaderDisk disks[2], BlockCheckResult *result)
{
  int current = le64_get (disks[1].sequence_number) > le64_get (disks[0].sequence_number);
  const VhdxHeaderDisk *a = &disks[current], *b = &disks[!current];
  int64_t file_offset = current == 0 ? VHDX_HEADER_OFFSET_2 : VHDX_HEADER_OFFSET_1;

  if (le64_get (a->log_offset) != le64_get (b->log_offset)
      || le32_get (a->log_length) != le32_get (b->log_length)
      || le16_get (a->version) != le16_get (b->version)
      || le16_get (a->log_version) != le16_get (b->log_version))
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "header at offset %" PRId64 ", the older one: version %u, log at offset %" PRIu64
                        ", %u bytes; the other has version %u, log at offset %" PRIu64 ", %u bytes",
                        file_offset, le16_get (b->version), le64_get (b->log_offset),
                        le32_get (b->log_length), s->header.version, s->header.log_offset,
                        s->header.log_length);
  /* No fault: one of two header updates was made.  But it must not become the one that counts. */
  if (!vhdx_guid_is_zero (&b->log_guid) && !vhdx_guid_equal (&a->log_guid, &b->log_guid))
    block_check_report (
        result, BLOCK_CHECK_INFO,
        "header at offset %" PRId64 ", the older one, names a log that is not the current one", file_offset);
}

static void coroutine_fn
check_headers (VhdxState *s, BlockCheckResult *result)
{
  static const int64_t offsets[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };
  g_autofree VhdxHeaderDisk *disks = g_new (VhdxHeaderDisk, 2);
  bool valid[2];

  for (int i = 0; i < 2; i++)
    {
      if (bdrv_co_pread (s->bs->file, offsets[i], sizeof *disks, &disks[i]) < 0)
        {
          check_unreadable (result, "header", offsets[i]);
          return;
        }
      valid[i] = vhdx_header_is_valid (&disks[i]);
    }
  for (int i = 0; i < 2; i++)
    if (!valid[i] && valid[!i])
      block_check_report (result, BLOCK_CHECK_WARNING,
                          "header %d at offset %" PRId64
                          ": signature or checksum is wrong; a writable open writes it again from the other",
                          i + 1, offsets[i]);
  if (valid[0] && valid[1])
    check_header_pair (s, disks, result);
}

static void
check_header_values (const VhdxState *s, BlockCheckResult *result)
{
  const VhdxHeader *header = &s->header;

  if (header->sequence_number >= UINT64_MAX - 1)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "header: sequence number %" PRIu64 " is at its maximum, the image cannot be written",
                        header->sequence_number);
  if (vhdx_guid_is_zero (&header->data_write_guid))
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "header: DataWriteGuid is zero, the image can be no parent");
  if (header->log_length == 0)
    block_check_report (result, BLOCK_CHECK_WARNING, "header: log length 0, expected at least %" PRId64,
                        VHDX_MIB);
  if (header->log_version != VHDX_LOG_VERSION)
    block_check_report (result, BLOCK_CHECK_WARNING, "header: log version %u, expected %d",
                        header->log_version, VHDX_LOG_VERSION);
}

/* --- the log --------------------------------------------------------------------------------------------------- */

static void
check_log (const VhdxState *s, BlockCheckResult *result)
{
  char guid[37];

  if (s->log_without_entry)
    {
      vhdx_guid_format (&s->header.log_guid, guid);
      block_check_report (
          result, BLOCK_CHECK_ERROR,
          "log at offset %" PRIu64
          ", %u bytes: the header names log %s, and the log holds no entry of it that was ever "
          "whole; the image is judged as it stands (check -r log makes the header name no log)",
          s->header.log_offset, s->header.log_length, guid);
    }
  else if (s->overlay.pages)
    {
      block_check_report (result, BLOCK_CHECK_INFO,
                          "log at offset %" PRIu64
                          ": %u pages and %u ranges of zeros are to be replayed; the image is judged as it "
                          "is after that",
                          s->header.log_offset, g_hash_table_size (s->overlay.pages), s->overlay.zeros->len);
    }
}

/* --- region tables --------------------------------------------------------------------------------------------- */

static void
check_region_entries (const VhdxState *s, const uint8_t *table, int64_t file_offset, BlockCheckResult *result)
{
  const VhdxRegionTableDisk *disk = (const void *)table;
  uint32_t count = MIN (le32_get (disk->entry_count), (uint32_t)VHDX_MAX_REGIONS);

  if (le32_get (disk->reserved) != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "region table at offset %" PRId64 ": reserved field is 0x%x, expected 0", file_offset,
                        le32_get (disk->reserved));
  for (uint32_t i = 0; i < count; i++)
    {
      VhdxRegionDisk entry;
      char guid[37];

      memcpy (&entry, table + sizeof *disk + i * sizeof entry, sizeof entry);
      vhdx_guid_format (&entry.guid, guid);
      if (le32_get (entry.flags) & ~(uint32_t)VHDX_REGION_REQUIRED)
        block_check_report (result, BLOCK_CHECK_WARNING,
                            "region table at offset %" PRId64
                            ": entry %u, region %s: flags 0x%x, reserved bits are set",
                            file_offset, i, guid, le32_get (entry.flags));
      if (!vhdx_guid_equal (&entry.guid, &vhdx_guid_bat)
          && !vhdx_guid_equal (&entry.guid, &vhdx_guid_metadata))
        block_check_report (result, BLOCK_CHECK_INFO,
                            "region table at offset %" PRId64 ": entry %u, region %s at offset %" PRIu64
                            ", %u bytes, is not known; it is kept",
                            file_offset, i, guid, le64_get (entry.file_offset), le32_get (entry.length));
    }
  if (s->bat_region.bytes > round_up (s->bat_entries * 8, VHDX_MIB))
    block_check_report (result, BLOCK_CHECK_INFO,
                        "BAT at offset %" PRId64 ": %" PRId64 " bytes, the disk needs %" PRIu64,
                        s->bat_region.file_offset, s->bat_region.bytes, s->bat_entries * 8);
}

static void coroutine_fn
check_regions (VhdxState *s, BlockCheckResult *result)
{
  static const int64_t offsets[] = { VHDX_REGION_OFFSET_1, VHDX_REGION_OFFSET_2 };
  g_autofree uint8_t *tables = g_malloc (2 * VHDX_REGION_TABLE_SIZE);
  bool valid[2];

  for (int i = 0; i < 2; i++)
    {
      uint8_t *table = tables + i * VHDX_REGION_TABLE_SIZE;

      if (vhdx_co_read (s, offsets[i], VHDX_REGION_TABLE_SIZE, table) < 0)
        {
          check_unreadable (result, "region table", offsets[i]);
          return;
        }
      valid[i] = vhdx_region_table_is_valid (table);
      if (!valid[i])
        block_check_report (result, BLOCK_CHECK_WARNING,
                            "region table %d at offset %" PRId64 ": signature or checksum is wrong", i + 1,
                            offsets[i]);
    }
  if (valid[0] && valid[1] && memcmp (tables, tables + VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_SIZE) != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "region tables at offsets %" PRId64 " and %" PRId64 " differ; the first one counts",
                        offsets[0], offsets[1]);
  if (valid[0] || valid[1])
    check_region_entries (s, valid[0] ? tables : tables + VHDX_REGION_TABLE_SIZE, offsets[!valid[0]], result);
}

/* --- BAT and space --------------------------------------------------------------------------------------------- */

static bool
report_entry (BlockCheckSeverity severity, const char *text, void *opaque)
{
  block_check_report (opaque, severity, "%s", text);
  return true;
}

static int coroutine_fn
count_entry (G_GNUC_UNUSED VhdxState *s, uint64_t index, G_GNUC_UNUSED uint64_t value, void *opaque)
{
  uint64_t *first_and_count = opaque;

  if (first_and_count[1]++ == 0)
    first_and_count[0] = index;
  return 0;
}

static int coroutine_fn
check_surplus (VhdxState *s, BlockCheckResult *result)
{
  uint64_t first_and_count[2] = { 0, 0 };
  int ret =
      vhdx_co_for_each_entry_in (s, s->bat_entries, s->bat_region.bytes / 8, count_entry, first_and_count);

  if (ret == 0 && first_and_count[1] > 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "BAT: %" PRIu64 " entries past the %" PRIu64
                        " that the disk needs are not zero, the first at offset %" PRId64,
                        first_and_count[1], s->bat_entries,
                        s->bat_region.file_offset + (int64_t)first_and_count[0] * 8);
  return ret;
}

/* Room that nothing refers to.  Between others it is legal, and new blocks go there; behind the last it is lost,
 * unless it is what a writer made ready. */
static void
check_space (const VhdxState *s, VhdxSpace *space, const VhdxBatFacts *facts, BlockCheckResult *result)
{
  int64_t end = vhdx_space_end (space);
  int64_t gaps = vhdx_space_free_bytes (space, 0, end);
  int64_t behind = s->file_bytes - end, kept = 0;

  result->image_end_offset = MIN (end, s->file_bytes);
  /* COMPAT: QEMU 7.2 makes fixed disks of full length whose blocks are not placed yet. */
  if (vhdx_is_fixed (s))
    kept = (int64_t)(s->payload_blocks - facts->present_blocks) * s->metadata.block_size;
  if (gaps > 0)
    block_check_report (result, BLOCK_CHECK_INFO,
                        "%" PRId64 " MiB between others are free; new blocks go there", gaps / VHDX_MIB);
  if (behind - kept >= GROWTH_STEP)
    block_check_report (result, BLOCK_CHECK_LEAK,
                        "%" PRId64 " MiB behind the last block or structure, which ends at offset %" PRId64
                        ", are not used",
                        behind / VHDX_MIB, end);
  if (facts->missing_bytes > 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "the file ends at offset %" PRId64 ", inside the last block, %" PRId64
                        " bytes too early; the disk does not need them",
                        s->file_bytes, facts->missing_bytes);
  else if (s->file_bytes % VHDX_MIB != 0)
    block_check_report (result, BLOCK_CHECK_WARNING,
                        "the file has %" PRId64 " bytes, expected a multiple of %" PRId64, s->file_bytes,
                        VHDX_MIB);
}

static bool coroutine_fn
check_bat (VhdxState *s, BlockCheckResult *result, GError **error)
{
  g_autoptr (VhdxSpace) space = vhdx_space_new ();
  VhdxBatFacts facts = { 0 };
  int64_t before = result->corruptions;
  int ret = space ? vhdx_co_judge_bat (s, space, &facts, report_entry, result) : -ENOMEM;
  int64_t told = result->corruptions - before;

  if (ret == 0)
    ret = check_surplus (s, result);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "cannot read the BAT at offset %" PRId64,
                            s->bat_region.file_offset);
      return false;
    }
  if ((uint64_t)told < facts.errors)
    {
      block_check_report (result, BLOCK_CHECK_ERROR, "BAT: %" PRIu64 " more entries are damaged",
                          facts.errors - told);
      result->corruptions = before + facts.errors;
    }
  result->total_blocks = s->payload_blocks;
  result->allocated_blocks = facts.present_blocks;
  result->fragmented_blocks = facts.fragmented_blocks;
  if (facts.anchors > 0)
    block_check_report (result, BLOCK_CHECK_INFO,
                        "%" PRIu64 " blocks are unmapped or undefined and keep their place in the file",
                        facts.anchors);
  check_space (s, space, &facts, result);
  return true;
}

/* --- the whole ------------------------------------------------------------------------------------------------- */

bool
vhdx_check_takes (VhdxState *s, const GError *failure)
{
  g_autofree char *prefix = g_strdup_printf ("%s: ", s->bs->filename);
  const char *text = failure->message;

  if (!s->identified || !g_error_matches (failure, VHDKIT_ERROR, VHDKIT_ERROR_CORRUPT))
    return false;
  if (g_str_has_prefix (text, prefix))
    text += strlen (prefix);
  s->damage = g_strdup (text);
  return true;
}

static bool coroutine_fn
check_all (VhdxState *s, BlockCheckResult *result, GError **error)
{
  check_headers (s, result);
  if (s->damage)
    {
      block_check_report (result, BLOCK_CHECK_ERROR, "%s", s->damage);
      return true;
    }
  check_header_values (s, result);
  check_log (s, result);
  check_regions (s, result);
  vhdx_co_check_metadata (s, result);
  return check_bat (s, result, error);
}

/* What can be put right without a doubt.  Region tables, a log that was left dirty and the end of the file have been,
 * by opening for writing. */
static bool coroutine_fn
repair (VhdxState *s, BlockCheckResult *result, GError **error)
{
  BlockCheckResult after = { 0 };
  int ret = s->header_damaged ? vhdx_co_begin_changes (s, VHDX_SESSION_FILE) : 0;

  if (ret == 0)
    ret = vhdx_co_reduce (s->bs);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, s->bs, ret, "repair failed");
      return false;
    }
  if (!check_all (s, &after, error))
    return false;
  result->leaks_fixed = result->leaks - after.leaks;
  result->leaks = after.leaks;
  return true;
}

bool coroutine_fn
vhdx_co_check (BlockDriverState *bs, BlockCheckResult *result, bool fix, GError **error)
{
  VhdxState *s = bs->opaque;
  int ret = bs->read_only ? 0 : vhdx_co_publish (s);

  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot write back its metadata");
      return false;
    }
  if (!check_all (s, result, error))
    return false;
  return !fix || result->corruptions > 0 || repair (s, result, error);
}
