/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another parent, or none.
 *
 * The link is in the dynamic header, 1024 bytes with one checksum and no second copy: written in place it could tear,
 * and the image would be lost.  So it is never changed where a footer names it.  A footer names the header and has the
 * disk type, in one sector, and there are two of them: with these a new header, and a new type, comes into force.
 *
 * Steps, and what a crash leaves until the next one is durable:
 *    1  the bits of blocks that would read otherwise are set: of a differencing image that loses its
 *       parent, after zeros in these sectors, which the parents show; of a dynamic image that gets one    old link
 *    2  cut: both footers good, the end footer right behind the last block                                old link
 *    3  the footer, as it is, behind the room that is needed                        old link, unused space at the end
 *    4  in that room the new locator texts, and behind them the new header                               the same
 *    5  the copy at 0 names the new header          old link (the end footer counts; readers of the copy: new)
 *    6  the end footer names it                     new link; the header is at the end, the old one unused
 *    7  the same header and texts at their usual place, which nothing names now                          the same
 *    8  the copy at 0 names that one                new link; either footer leads to a whole header
 *    9  the end footer names it                     new link, unused space at the end
 *   10  cut                                         new link
 *
 * Footers that differ, and space at the end, are put right by the next writable open (vhd_co_cut ()); so is a header
 * that a crash after 6 has left behind blocks: steps 7 to 10 (vhd_co_settle_header ()).
 *
 * Where texts are longer than the room in front of the table only the header goes back (7), and the texts stay.  On a
 * device, which cannot grow, there is no step 3: the room before the footer must do.
 *
 * Reads may go on meanwhile; nothing may be written.
 */
#include <inttypes.h>

#include "vhd.h"

/* A header, and those of its locator texts that go with it. */
typedef struct
{
  VhdHeader header;
  unsigned slots;     /* bit n: the text of slot n is in @texts */
  GByteArray *texts;  /* in whole sectors */
  int64_t texts_from; /* file offset of @texts that the locators speak of */
  unsigned ignored;   /* as VhdState.ignored_locators */
} Link;

static void
link_clear (Link *link)
{
  g_clear_pointer (&link->texts, g_byte_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Link, link_clear)

/* The locators then speak of texts from @file_offset on. */
static void
place_texts (Link *link, int64_t file_offset)
{
  for (int i = 0; i < VHD_LOCATORS; i++)
    if (link->slots & 1u << i)
      link->header.locators[i].offset += file_offset - link->texts_from;
  link->texts_from = file_offset;
}

/* --- the new link ---------------------------------------------------------------------------------------- */

static bool
plan_link (VhdState *s, const BlockParentChange *change, Link *link, GError **error)
{
  g_autoptr (GArray) texts = vhd_locator_texts_new ();
  VhdHeader *header = &link->header;
  int64_t bytes;

  *header = s->header;
  memset (header->parent_unique_id, 0, sizeof header->parent_unique_id);
  header->parent_time_stamp = 0;
  link->texts = g_byte_array_new ();
  if (!change->parent)
    {
      memset (header->parent_name, 0, sizeof header->parent_name);
      memset (header->locators, 0, sizeof header->locators);
      return true;
    }

  if (!vhd_check_parent (s->bs, change->parent, error))
    return false;
  (void)bdrv_get_identity (change->parent, header->parent_unique_id);
  bytes = vhd_make_locators (header, change->child_path, change->parent_path, change->other_path, 0, texts);
  if (bytes < 0)
    {
      bdrv_set_error (error, s->bs, VHDKIT_ERROR_INVALID_ARGUMENT,
                      "the path of the parent, %s%s%s, is too long or not UTF-8 and cannot be stored",
                      change->parent_path, change->other_path ? " or " : "",
                      change->other_path ? change->other_path : "");
      return false;
    }
  g_byte_array_set_size (link->texts, bytes);
  memset (link->texts->data, 0, bytes);
  for (guint i = 0; i < texts->len; i++)
    {
      const VhdLocatorText *text = &g_array_index (texts, VhdLocatorText, i);

      memcpy (link->texts->data + text->file_offset, text->text->data, text->text->len);
    }
  for (int i = 0; i < VHD_LOCATORS; i++)
    if (header->locators[i].code != VHD_LOCATOR_NONE)
      link->slots |= 1u << i;
  return true;
}

/* --- what the blocks have to say by themselves ------------------------------------------------------------ */

static int coroutine_fn
fill_block (VhdState *s, uint32_t block, uint32_t sector, void *opaque)
{
  VhdBitmap *bitmap;
  int ret = vhd_co_bitmap_get (s, block, sector, &bitmap);

  if (ret < 0)
    return ret;
  for (uint32_t at = 0, run; at < s->sectors_per_block && ret == 0; at += run)
    {
      bool present;

      run = vhd_bitmap_run (s, bitmap, at, s->sectors_per_block, &present);
      if (present)
        continue;
      /* What a differencing image stores below a zero bit may be anything. */
      if (vhd_is_differencing (s))
        ret = vhd_co_zero_range (s, (int64_t)block * s->block_size + (int64_t)at * VHD_SECTOR_SIZE,
                                 (int64_t)run * VHD_SECTOR_SIZE);
      else
        vhd_bitmap_set (s, bitmap, at, run);
    }
  vhd_bitmap_put (s, bitmap);
  return ret < 0 ? ret : vhd_co_maybe_publish (s);
}

/* Step 1. */
static int coroutine_fn
fill_blocks (VhdState *s)
{
  int ret = vhd_co_for_each_block (s, fill_block, NULL);

  return ret < 0 ? ret : vhd_co_publish (s);
}

/* --- steps ------------------------------------------------------------------------------------------------ */

/* Steps 4 and 7.  The texts only where @with_texts. */
static int coroutine_fn
write_link (VhdState *s, const Link *link, int64_t header_offset, bool with_texts)
{
  VhdHeaderDisk disk;
  BdrvWrite writes[2] = { { header_offset, sizeof disk, &disk } };
  size_t n = 1;
  int ret;

  vhd_header_encode (&link->header, &disk);
  if (with_texts && link->texts->len > 0)
    writes[n++] = (BdrvWrite){ link->texts_from, link->texts->len, link->texts->data };
  ret = bdrv_co_write_batch (s->bs->file, writes, n);
  /* Barrier: the header and its texts before a footer names them. */
  return ret < 0 ? ret : bdrv_co_flush (s->bs->file);
}

/* Steps 5 and 6, 8 and 9: the header at @header_offset, which is durable, comes into force. */
static int coroutine_fn
switch_header (VhdState *s, const Link *link, int64_t header_offset, uint32_t disk_type)
{
  VhdFooter old = s->footer;
  int ret;

  s->footer.data_offset = header_offset;
  s->footer.disk_type = disk_type;
  ret = vhd_co_write_both_footers (s);
  if (ret < 0)
    {
      /* Nobody knows which of the two the disk has; both are true. */
      s->footer = old;
      bdrv_poison (s->bs);
      return ret;
    }
  s->header = link->header;
  s->ignored_locators = link->ignored;
  vhd_refresh_sizes (s);
  return 0;
}

/* Step 3: until it is durable the old end footer stays. */
static int coroutine_fn
make_room (VhdState *s, int64_t end)
{
  int ret;

  if (!s->can_grow)
    return end > s->footer_offset ? -ENOSPC : 0;
  s->end_footer_stale = true;
  ret = vhd_co_write_footer (s, end);
  if (ret == 0)
    ret = bdrv_co_flush (s->bs->file);
  if (ret < 0)
    return ret;
  s->end_footer_stale = false;
  s->footer_offset = end;
  return 0;
}

/* Steps 3 to 6. */
static int coroutine_fn
put_behind_blocks (VhdState *s, Link *link, uint32_t disk_type)
{
  int64_t texts_offset = round_up (s->data_end, VHD_SECTOR_SIZE);
  int64_t header_offset = texts_offset + link->texts->len;
  int64_t end = header_offset + VHD_HEADER_SIZE;
  int ret;

  s->grown_is_zero = false;
  ret = make_room (s, end);
  if (ret < 0)
    return ret;
  place_texts (link, texts_offset);
  ret = write_link (s, link, header_offset, true);
  if (ret == 0)
    ret = switch_header (s, link, header_offset, disk_type);
  if (ret == 0)
    s->data_end = end;
  return ret;
}

static int64_t
end_before (int64_t end, int64_t from, int64_t file_offset, int64_t bytes)
{
  return file_offset + bytes > from ? MIN (end, MAX (file_offset, from)) : end;
}

/* The end of the free space that begins at @from; @from: something is there. */
static int64_t
free_until (const VhdState *s, const GArray *used, int64_t from)
{
  int64_t end = s->data_end;

  for (int i = 0; i < s->n_metadata; i++)
    end = end_before (end, from, s->metadata[i].file_offset, s->metadata[i].bytes);
  for (int i = 0; i < VHD_LOCATORS; i++)
    if (vhd_locator_is_sound (s, i))
      end = end_before (end, from, s->header.locators[i].offset, vhd_locator_space (&s->header.locators[i]));
  for (guint i = 0; i < used->len; i++)
    end = end_before (end, from, vhd_sector_to_offset (g_array_index (used, VhdUsedBlock, i).sector),
                      s->block_span);
  return end;
}

/* Steps 7 to 10, to the place behind the footer copy, or else to @fallback (0: nowhere else). */
static int coroutine_fn
bring_home (VhdState *s, Link *link, const GArray *used, int64_t fallback)
{
  int64_t home = VHD_FOOTER_SIZE;
  int64_t room = free_until (s, used, home) - home;
  bool with_texts;
  int ret;

  if (room < VHD_HEADER_SIZE)
    {
      home = fallback;
      room = home > 0 ? free_until (s, used, home) - home : 0;
    }
  if (room < VHD_HEADER_SIZE)
    return 0;
  with_texts = room - VHD_HEADER_SIZE >= link->texts->len;
  if (with_texts)
    place_texts (link, home + VHD_HEADER_SIZE);
  ret = write_link (s, link, home, with_texts);
  if (ret == 0)
    ret = switch_header (s, link, home, s->footer.disk_type);
  if (ret < 0)
    return ret;
  s->data_end = vhd_used_end (s, used);
  return vhd_co_cut (s);
}

/* --- a header that a crash has left behind blocks ----------------------------------------------------------- */

/* The present link with the texts that can move. */
static int coroutine_fn
read_link (VhdState *s, Link *link)
{
  link->header = s->header;
  link->ignored = s->ignored_locators;
  link->texts = g_byte_array_new ();
  for (int i = 0; i < VHD_LOCATORS; i++)
    {
      VhdLocator *locator = &link->header.locators[i];
      guint at = link->texts->len;
      int ret;

      if (!vhd_locator_is_sound (s, i) || locator->length > VHD_LOCATOR_MAX_LENGTH)
        continue;
      g_byte_array_set_size (link->texts, at + round_up (locator->length, VHD_SECTOR_SIZE));
      memset (link->texts->data + at, 0, link->texts->len - at);
      ret = bdrv_co_pread (s->bs->file, locator->offset, locator->length, link->texts->data + at);
      if (ret < 0)
        return ret;
      locator->offset = at;
      locator->space = link->texts->len - at;
      link->slots |= 1u << i;
    }
  return 0;
}

int coroutine_fn
vhd_co_settle_header (VhdState *s, const GArray *used)
{
  int64_t limit = s->header.table_offset + s->bat_bytes;
  g_auto (Link) link = { 0 };
  int ret;

  if (used->len > 0)
    limit = MAX (limit, vhd_sector_to_offset (g_array_index (used, VhdUsedBlock, 0).sector));
  if (s->footer.data_offset < (uint64_t)limit)
    return 0;
  ret = read_link (s, &link);
  return ret < 0 ? ret : bring_home (s, &link, used, 0);
}

/* --- the operation ------------------------------------------------------------------------------------------ */

bool
vhd_check_parent_change (BlockDriverState *bs, const BlockParentChange *change, GError **error)
{
  VhdState *s = bs->opaque;
  g_auto (Link) link = { 0 };

  if (vhd_is_fixed (s))
    {
      bdrv_set_error (error, bs, VHDKIT_ERROR_INVALID_ARGUMENT, "a fixed image cannot have a parent");
      return false;
    }
  return plan_link (s, change, &link, error);
}

bool coroutine_fn
vhd_co_change_parent (BlockDriverState *bs, const BlockParentChange *change, GError **error)
{
  VhdState *s = bs->opaque;
  uint32_t disk_type = change->parent ? VHD_TYPE_DIFFERENCING : VHD_TYPE_DYNAMIC;
  int64_t old_place = s->footer.data_offset;
  g_autoptr (GArray) used = NULL;
  g_auto (Link) link = { 0 };
  int ret;

  if (!change->parent && !vhd_is_differencing (s))
    return true;
  if (!vhd_check_parent_change (bs, change, error) || !plan_link (s, change, &link, error))
    return false;

  ret = disk_type != s->footer.disk_type ? fill_blocks (s) : vhd_co_publish (s);
  if (ret == 0)
    {
      used = vhd_co_collect_blocks (s, error);
      if (!used)
        return false;
      /* Free space is told from the table: what a slow read may still be at is not free.  And what was free before may
       * be the header's. */
      epochs_co_wait (&s->epochs);
      g_array_set_size (s->free_slots, 0);
      ret = vhd_co_cut (s);
    }
  if (ret == 0)
    ret = put_behind_blocks (s, &link, disk_type);
  if (ret < 0)
    {
      bdrv_set_error_errno (error, bs, ret, "cannot %s",
                            change->parent ? "store its new parent" : "leave its parent");
      return false;
    }
  if (!vhd_co_read_locators (s, error))
    return false;
  ret = bring_home (s, &link, used, old_place);
  if (ret < 0)
    bdrv_set_error_errno (error, bs, ret, "has its new link, but cannot move it from offset %" PRIu64,
                          s->footer.data_offset);
  return ret == 0;
}
