#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which barriers do the crash tests prove?  Takes out one at a time and runs the tests.

    python3 tests/crash/mutate.py [--driver vhd|vhdx|jobs] [--jobs N] [--keep DIRECTORY] [--results FILE] [PATTERN]

Every call of bdrv_co_flush () in the driver is replaced by a success without a flush, in the jobs also every flush of a
directory; other lines are made wrong by hand, among them the order of writes that depend on each other.  A mutant that
a test fails on is "proven" needed; one that no test notices is "not noticed": the tests are too weak, or the line is
not needed.  Those of which it is known why no test can notice them are in UNNOTICED, with the reason.  Works on copies
of the sources; takes an hour or two; what is in the file of results as proven is not tried again.  Not part of the
suites: run it by hand when an order of writes or the tests change.  The usual tests run it with --list, so that a text that is looked for and no longer there is an error at once.
"""

import argparse
import filecmp
import glob
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))

# file, text that stands there once, what it becomes; more of these pairs may follow
VHD = [
    ('flush.c', '*(fresh ? &round->new_writes : &round->old_writes)', '*(&round->old_writes)'),
    ('flush.c', '*(fresh ? &round->new_writes : &round->old_writes)', '*(&round->new_writes)'),
    ('flush.c', 'if (bitmap->all_set)\n        g_ptr_array_add (round->full, bitmap);', 'g_ptr_array_add (round->full, bitmap);'),
    ('flush.c', 'vhd_batmap_set (s, g_array_index (round->changes, VhdChange, i).block, false);', ';'),
    ('flush.c', 'if (change->sector == copy->sector)', 'if (true)'),
    ('alloc.c', 'if (change->fresh && !(change->publishing && change->publishing_sector == sector))', 'if (true)'),
    ('alloc.c', 'if (!epochs_is_over (&s->epochs, slot->epoch))', 'if (false)'),
    ('alloc.c', 'ret = bdrv_co_pwrite_zeroes (s->bs->file, file_offset, s->block_span, BDRV_REQ_MAY_UNMAP);', 'ret = 0;'),
    ('alloc.c', 'ret = bdrv_co_pwrite (s->bs->file, old_footer, sizeof zeros, zeros, 0);', 'ret = 0;'),
    ('io.c', '  if (ret == 0)\n    ret = bdrv_co_write_payload (s->bs->file, file_offset, piece->bytes, payload, done);\n',
     '  vhd_bitmap_set (s, bitmap, piece->in_block / VHD_SECTOR_SIZE, piece->bytes / VHD_SECTOR_SIZE);\n'
     '  if (ret == 0)\n    ret = bdrv_co_write_payload (s->bs->file, file_offset, piece->bytes, payload, done);\n'),
    ('io.c', 'memset (bits, 0xFF, div_round_up (s->sectors_per_block, 8));', ';'),
    ('resize.c', 'ret = vhd_co_zero_range (s, old_bytes, end - old_bytes);', 'ret = 0;'),
    ('resize.c', 'ret = vhd_co_zero_range (s, at, round_up (n, VHD_SECTOR_SIZE));', 'ret = 0;'),
    ('resize.c', 'ret = clear_entries (s, s->blocks, blocks);', 'ret = 0;'),
    ('open.c', 'if (s->end_footer_valid && (!s->copy_valid || s->copies_differ))', 'if (false)'),
    ('compact.c', 'epochs_co_wait (&s->epochs);\n  /* From here', '/* From here'),
    ('relink.c', 'disk_type != s->footer.disk_type ? fill_blocks (s) : vhd_co_publish (s)', 'vhd_co_publish (s)'),
    ('relink.c', 'vhd_bitmap_set (s, bitmap, at, run);', '(void)bitmap;'),
    ('relink.c', 'ret = make_room (s, end);', 'ret = 0;'),
    ('relink.c', 's->data_end = vhd_used_end (s, used);', ';'),
    ('open.c', 'int ret = vhd_co_write_footer (s, 0);', 'int ret = 0;'),
    ('open.c', 'ret = vhd_co_settle_header (s, used);', ''),
    # --- order
    ('flush.c', 'ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->new_writes->data, round->new_writes->len);\n'
     '  if (ret == 0)\n    ret = vhd_co_batmap_write (s);', 'ret = vhd_co_batmap_write (s);',
     'ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->old_writes->data, round->old_writes->len);',
     'ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->old_writes->data, round->old_writes->len);\n'
     '  if (ret == 0)\n'
     '    ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->new_writes->data, round->new_writes->len);'),
    ('flush.c', '  if (ret == 0)\n    ret = vhd_co_batmap_write (s);\n', '',
     'ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->old_writes->data, round->old_writes->len);',
     'ret = vhd_co_batmap_write (s);\n  if (ret == 0)\n'
     '    ret = bdrv_co_write_batch (s->bs->file, (BdrvWrite *)round->old_writes->data, round->old_writes->len);'),
    ('open.c', 'ret = write_footer_at_cut (s, end);',
     'if (s->can_grow && bdrv_length (file) > end + VHD_FOOTER_SIZE\n'
     '      && !bdrv_co_truncate (file, end + VHD_FOOTER_SIZE, NULL))\n    return -EIO;\n'
     '  ret = bdrv_co_flush (file);\n  if (ret == 0)\n    ret = write_footer_at_cut (s, end);'),
    ('resize.c', 'ret = bdrv_co_pwrite_zeroes (file, slack, MIN (old_end, bytes) - slack, 0);',
     'set_size (&s->footer, bytes);\n  ret = vhd_co_write_footer (s, s->footer_offset);',
     'set_size (&s->footer, bytes);\n  ret = vhd_co_write_footer (s, s->footer_offset);',
     'ret = bdrv_co_pwrite_zeroes (file, slack, MIN (old_end, bytes) - slack, 0);'),
    ('resize.c', 'ret = write_larger_table (s, to, bat_bytes);',
     'header.table_offset = to;\n  ret = write_header_sector (s, &header);\n  if (ret == 0)\n'
     '    ret = bdrv_co_flush (s->bs->file);\n  if (ret == 0)\n    ret = write_larger_table (s, to, bat_bytes);'),
    ('resize.c', 'ret = hide_parent (s, old_bytes, bytes);',
     'set_size (&s->footer, bytes);\n  ret = vhd_co_write_both_footers (s);\n  if (ret == 0)\n'
     '    ret = hide_parent (s, old_bytes, bytes);'),
    ('relink.c', 'ret = write_link (s, link, header_offset, true);\n  if (ret == 0)\n'
     '    ret = switch_header (s, link, header_offset, disk_type);',
     'ret = switch_header (s, link, header_offset, disk_type);\n  if (ret == 0)\n'
     '    ret = write_link (s, link, header_offset, true);'),
    ('relink.c', 'ret = write_link (s, link, home, with_texts);\n  if (ret == 0)\n'
     '    ret = switch_header (s, link, home, s->footer.disk_type);',
     'ret = switch_header (s, link, home, s->footer.disk_type);\n  if (ret == 0)\n'
     '    ret = write_link (s, link, home, with_texts);'),
    ('relink.c', 'ret = put_behind_blocks (s, &link, disk_type);',
     'ret = switch_header (s, &link, s->footer.data_offset, disk_type);\n  if (ret == 0)\n'
     '    ret = write_link (s, &link, s->footer.data_offset, true);'),
    ('io.c', '      if (!bitmap->all_set)\n        ret = fill_dynamic_bitmap (s, bitmap);\n', '',
     '    vhd_bitmap_set (s, bitmap, piece->in_block / VHD_SECTOR_SIZE, piece->bytes / VHD_SECTOR_SIZE);\n'
     '  vhd_bitmap_put (s, bitmap);\n',
     '    vhd_bitmap_set (s, bitmap, piece->in_block / VHD_SECTOR_SIZE, piece->bytes / VHD_SECTOR_SIZE);\n'
     '  if (ret == 0 && !vhd_is_differencing (s) && !bitmap->all_set)\n    ret = fill_dynamic_bitmap (s, bitmap);\n'
     '  vhd_bitmap_put (s, bitmap);\n'),
    ('compact.c', 'ret = bdrv_co_copy_within (bs->file, (const BdrvCopy *)(const void *)copies->data, copies->len);', 'ret = 0;',
     'ret = vhd_co_publish (s);\n  g_array_set_size (s->free_slots, 0);',
     'ret = vhd_co_publish (s);\n  if (ret == 0)\n'
     '    ret = bdrv_co_copy_within (bs->file, (const BdrvCopy *)(const void *)copies->data, copies->len);\n'
     '  g_array_set_size (s->free_slots, 0);'),
]
VHDX = [
    ('flush.c', 'ret = bdrv_co_flush (s->bs->file);\n      if (ret < 0)\n        return ret;',
     'ret = done > 0 ? 0 : bdrv_co_flush (s->bs->file);\n      if (ret < 0)\n        return ret;'),
    ('flush.c', 'x_kind < y_kind ? -1 : 1;', 'x_kind < y_kind ? 1 : -1;'),
    ('flush.c', 'x_kind == PAGE_BAT ? -order : order;', 'order;'),
    ('flush.c', 'vhdx_page_is_in_place (s, pages[i].page, pages[i].copy);', '{}'),
    ('log-write.c', 's->header.log_length / 2 / VHDX_LOG_SECTOR, MAX_ENTRY_PAGES);\n\n'
     '  while (vhdx_log_entry_bytes (n) > s->header.log_length / 2)',
     's->header.log_length / VHDX_LOG_SECTOR, MAX_ENTRY_PAGES);\n\n'
     '  while (vhdx_log_entry_bytes (n) > s->header.log_length)'),
    ('log-write.c', 's->log_at = (s->log_at + bytes) % length;', ';'),
    ('session.c', 'ret = vhdx_co_log_write (s, NULL, 0);', 'ret = 0;'),
    ('session.c', 'header.data_write_guid = s->next_data_write_guid;', ';'),
    ('alloc.c', 'ret = bdrv_co_pwrite_zeroes (s->bs->file, *file_offset, bytes, BDRV_REQ_MAY_UNMAP);', 'ret = 0;'),
    ('alloc.c', 'bitset_fill (bits->bits[i]->data, in_page, n, false, BITSET_LSB_FIRST);', ';'),
    ('alloc.c', 'epochs_is_over (&s->epochs, g_array_index (s->freed, VhdxFreed, n).epoch)', 'true'),
    ('alloc.c', 'g_array_append_val (s->dropped, freed);', 'g_array_append_val (s->freed, freed);'),
    ('alloc.c', 'vhdx_recent_forget (s, block);', ';'),
    ('alloc.c', 'bdrv_meta_cache_invalidate (s->pages, bits->bitmap, VHDX_BITMAP_BLOCK_BYTES);', ';'),
    ('write.c', '  int ret =\n      bdrv_co_write_payload (s->bs->file, entry->file_offset + piece->in_block, piece->bytes, payload, done);\n',
     '  int ret = entry->state == VHDX_BLOCK_PARTIALLY_PRESENT ? set_bits (s, piece) : 0;\n\n  if (ret == 0)\n'
     '    ret = bdrv_co_write_payload (s->bs->file, entry->file_offset + piece->in_block, piece->bytes, payload, done);\n'),
    ('alloc.c', 's->moving++;\n  epochs_co_wait (&s->epochs);', 's->moving++;'),
    ('compact.c', 'vhdx_pages_forget (s, move->from, move->bytes);', ';'),
    ('compact.c', 'ret = vhdx_co_begin_changes (s, VHDX_SESSION_FILE);', 'ret = 0;'),
    ('compact.c', '  /* Copies, flush, entry, flush: I1, I3. */\n  if (ret == 0)\n    ret = vhdx_co_publish (s);', ''),
    ('reduce.c', 'if (ret == 0)\n    ret = vhdx_co_publish (s);\n  /* A read that', '/* A read that'),
    ('reduce.c', 'if (ret == 0)\n    epochs_co_wait (&s->epochs);\n  if (ret == 0 && s->metadata', 'if (ret == 0 && s->metadata'),
    ('reduce.c', 'vhdx_pages_forget (s, file_offset, VHDX_BITMAP_BLOCK_BYTES);', ';'),
    ('metadata-change.c', 'int ret = vhdx_co_publish (s);', 'int ret = 0;'),
    ('link.c', 'if (!set_linkage (s, &now, &next, error))', 'if (false)'),
    ('link.c', 'if (!set_linkage (s, &next, &none, error))', 'if (false && !set_linkage (s, &next, &none, error))'),
    ('link.c', 'ret = bdrv_co_take_next_identity (parent);', 'ret = 0;'),
    ('relink.c', 'ret = bdrv_co_write_batch (s->bs->file, (const BdrvWrite *)(const void *)zeros->data, zeros->len);', 'ret = 0;'),
    ('relink.c', 'return ret < 0 ? ret : vhdx_co_reduce (s->bs);', 'return ret;'),
    ('relink.c', 'if (!vhdx_co_change_items (s, changes, G_N_ELEMENTS (changes), error))',
     'if (!vhdx_co_change_items (s, changes + 1, 1, error) || !vhdx_co_change_items (s, changes, 1, error))'),
    ('session.c', '  ret = vhdx_co_publish (s);\n  co_mutex_lock (&s->session_lock);\n  if (ret == 0)\n    {\n      header = s->header;\n      if',
     '  ret = 0;\n  co_mutex_lock (&s->session_lock);\n  if (ret == 0)\n    {\n      header = s->header;\n      if'),
    ('session.c', 's->session = VHDX_SESSION_FILE;', ';'),
    ('link.c', 'memcpy (also.b, identity, sizeof also.b);', 'also = now;'),
    ('io.c', 'return s->metadata.has_parent && s->bs->backing;', 'return s->bs->backing;'),
    ('resize.c', 'ret = zero_tail (s, old_bytes, bytes);', 'ret = 0;'),
    ('resize.c', 'int ret = vhdx_co_for_each_entry_in (s, first, entries, clear_entry, NULL);',
     'int ret = first > entries && entries == 0 ? clear_entry (s, 0, 0, NULL) : 0;'),
    ('resize.c', 'ret = bdrv_co_copy_within (s->bs->file, &copy, 1);', 'ret = 0;'),
    ('open.c', '  if (ret == 0)\n    ret = vhdx_co_end_log (s);\n  if (ret < 0)', '  if (ret < 0)'),
    ('open.c', 's->flushed_bytes = MIN (s->flushed_bytes, length);', ';'),
    ('open.c', 's->grown_is_zero = length == s->data_end;', 's->grown_is_zero = true;'),
    # --- order
    ('session.c', 'int slot = 1 - s->header_slot;', 'int slot = i == 0 ? s->header_slot : 1 - s->header_slot;'),
    ('session.c', 'ret = vhdx_co_log_write (s, NULL, 0);',
     'header = s->header;\n  header.log_guid = s->log_guid;\n  ret = vhdx_co_update_headers (s, &header);\n'
     '  if (ret == 0)\n    ret = vhdx_co_log_write (s, NULL, 0);'),
    ('flush.c', 'ret = vhdx_co_log_write (s, entry, n);', 'ret = bdrv_co_write_batch (s->bs->file, writes, n);',
     'ret = bdrv_co_write_batch (s->bs->file, writes, n);', 'ret = vhdx_co_log_write (s, entry, n);'),
    ('replay.c', 'ret = write_zeros (s);',
     'header = s->header;\n  header.log_guid = (VhdxGuid){ 0 };\n  ret = vhdx_co_update_headers (s, &header);\n'
     '  if (ret == 0)\n    ret = write_zeros (s);'),
    ('replay.c', 'ret = write_zeros (s);', 'ret = write_pages (s);',
     'ret = write_pages (s);\n  /* Between', 'ret = write_zeros (s);\n  /* Between'),
    ('resize.c', 'ret = bdrv_co_copy_within (s->bs->file, &copy, 1);\n  if (ret == 0)\n    ret = log_region_tables (s, &bat);',
     'ret = log_region_tables (s, &bat);\n  if (ret == 0)\n    ret = bdrv_co_copy_within (s->bs->file, &copy, 1);'),
    ('resize.c', 'if (ret == 0)\n    ret = set_new_entries (s, ',
     'if (ret == 0)\n    ret = vhdx_co_replace_item (s, &vhdx_guid_disk_size, &size, sizeof size, error) ? 0 : -EIO;\n'
     '  if (ret == 0)\n    ret = set_new_entries (s, '),
    ('compact.c', 'ret = bdrv_co_copy_within (s->bs->file, (const BdrvCopy *)(const void *)copies->data, copies->len);',
     'ret = 0;',
     'if (ret == 0)\n    ret = vhdx_co_publish (s);\n  vhdx_co_release_writers (s);',
     'if (ret == 0)\n    ret = vhdx_co_publish (s);\n  for (int i = 0; i < n && ret == 0; i++)\n'
     '    ret = bdrv_co_copy_within (bs->file, &(BdrvCopy){ moves[i].from, moves[i].to, moves[i].bytes }, 1);\n'
     '  vhdx_co_release_writers (s);'),
    ('compact.c', 's->data_end = vhdx_space_end (s->space);\n  return vhdx_co_cut (s);',
     's->data_end = vhdx_space_end (s->space);\n  ret = vhdx_co_cut (s);\n  return ret < 0 ? ret : vhdx_co_publish (s);',
     'int ret = vhdx_co_publish (s);\n\n  if (ret < 0)\n    return ret;\n  epochs', 'int ret;\n\n  epochs'),
    ('link.c', 'if (!set_linkage (s, &now, &next, error))\n    return false;\n  ret = bdrv_co_take_next_identity (parent);',
     'ret = bdrv_co_take_next_identity (parent);\n  if (ret == 0 && !set_linkage (s, &now, &next, error))\n'
     '    return false;'),
    ('relink.c', 'ret = make_independent (s);', 'ret = 0;',
     'ok = ret == 0 && clear_parent (s, error);',
     'ok = clear_parent (s, error);\n  s->metadata.has_parent = true;\n  ok = ok && make_independent (s) == 0;\n'
     '  s->metadata.has_parent = false;'),
    ('write.c', '  int ret =\n      bdrv_co_write_payload (s->bs->file, entry->file_offset + piece->in_block, piece->bytes,'
     ' payload, done);\n',
     '  int ret = piece->bytes == s->metadata.block_size ? vhdx_co_promote (s, piece->block, entry->file_offset) : 0;\n\n'
     '  if (ret == 0)\n'
     '    ret = bdrv_co_write_payload (s->bs->file, entry->file_offset + piece->in_block, piece->bytes, payload, done);\n'),
]
JOBS = [
    ('commit.c', '(trim && !commit_co_trim (commit, error))\n'
     '      || !commit_co_parent_changed (commit, true, error))',
     '(trim && !commit_co_trim (commit, error)))',
     'bool ok = commit_co_change_target (commit, error);',
     'bool ok = commit_co_change_target (commit, error) && commit_co_parent_changed (commit, true, error);'),
    ('commit.c', 'if (!moved || !flushed)', 'if (!moved)'),
    ('commit.c', 'bool flushed = commit_co_flush (commit->params.target, ok && ended ? error : NULL);\n'
     '  return ok && ended && flushed;', '(void)commit_co_flush (commit->params.target, NULL);\n  return ok && ended;'),
    ('rebase.c', 'if (!rebase->params.unsafe && !rebase_co_make_independent (rebase, error))', 'if (false)',
     '!leaf->drv->co_change_parent (leaf, &change, error))',
     '!leaf->drv->co_change_parent (leaf, &change, error)\n'
     '      || (!rebase->params.unsafe && !rebase_co_make_independent (rebase, error)))'),
    ('rebase.c', 'return stored && ret == 0;', 'return stored;'),
    ('conclude.c', '  if (!lowest->drv->co_accept_identity (lowest, identity, error))\n    return false;\n', '',
     'return ret == 0;\n}\n\nstatic const char *\nget_final_name',
     'return ret == 0 && lowest->drv->co_accept_identity (lowest, identity, error);\n}\n\nstatic const char *\nget_final_name'),
    ('conclude.c', 'if (!lowest->drv->co_accept_identity (lowest, identity, error))', 'if (!lowest)'),
    ('conclude.c', 'if (conclude->takes_identity ? !co_take_identity (conclude, error) : !co_relink (conclude, false, error))',
     'if (!conclude->takes_identity && !co_relink (conclude, false, error))',
     '&& (!co_rename (conclude, error) || (!conclude',
     '&& (!co_rename (conclude, error) || (conclude->takes_identity && !co_take_identity (conclude, error))'
     ' || (!conclude'),
    ('conclude.c', 'if (conclude->takes_identity ? !co_take_identity (conclude, error) : !co_relink (conclude, false, error))',
     'if (conclude->takes_identity && !co_take_identity (conclude, error))',
     '&& (!co_rename (conclude, error) || (!conclude',
     '&& (!co_rename (conclude, error) || (!conclude->takes_identity && !co_relink (conclude, false, error))'
     ' || (!conclude'),
    ('conclude.c', '|| (!conclude->takes_identity && !co_relink (conclude, true, error))', ''),
    ('conclude-check.c', '.other_path = renamed ? NULL : name_after,', '.other_path = NULL,'),
    ('conclude-check.c', '.parent_path = renamed ? name_after : bdrv_get_host_path (params->target),',
     '.parent_path = name_after ? name_after : bdrv_get_host_path (params->target),'),
    ('conclude.c', '  return !params->delete_sources || co_remove (conclude, removals, has_list, error);', '  return true;',
     'if (!co_look_again (conclude, error) || !co_settle_target (params->target, error))',
     'if (!co_look_again (conclude, error) || !co_settle_target (params->target, error)\n'
     '      || (params->delete_sources && !co_remove (conclude, removals, false, error)))'),
    ('conclude.c', 'g_ptr_array_insert (layers, 0, layer);', 'g_ptr_array_add (layers, layer);'),
    ('conclude.c', 'if (!needs_list (params, removals))', 'if (!needs_list (params, removals) || true)'),
    ('conclude.c', '  int ret = bdrv_co_drain_log (bs);', '  int ret = bdrv_co_flush (bs);'),
    ('named-file.c', 'ret = named_directory_flush (&to);\n  return ret < 0 ? ret : named_directory_flush (&from);',
     'ret = named_directory_flush (&from);\n  return ret < 0 ? ret : named_directory_flush (&to);'),
]

# Of those that no test can notice, the name up to its end or a part of it, and why.
UNNOTICED = {
    'vhd': {
        'write_footer_at_cut: no bdrv_co_flush': 'it makes the file system give what was punched, and orders no writes',
        'vhd_co_cut: no bdrv_co_flush (file), the 3.': 'until the next flush the old end footer, which says the same, may still be there',
    },
    'vhdx': {
        'bdrv_meta_cache_invalidate (s->pages, bits->bitmap': 'a block clears its own bits when it becomes partially present '
                                                              '(W6); at those of others nobody looks',
        'vhdx_pages_forget (s, move->from': 'no page is held: a round has ended, and writers wait; what is cached is '
                                            'forgotten by whoever puts metadata there',
        'vhdx_pages_forget (s, file_offset': 'the same',
        'epochs_co_wait (&s->epochs); if (ret == 0 && s->metadata':
            'a read that found a block in state 7 asks for the page with the entry of the bitmap block at once, so before '
            'the one who changes that; and reads where it was before anything else is put there (W4)',
        'Copies, flush, entry, flush: I1, I3.': 'the next group, or the cut, begins with such a round; no place is free before',
        'vhdx_co_cut: no bdrv_co_flush': 'what relies on the cut is named by an entry, whose round begins with a flush',
        '  ret = vhdx_co_publish (s); co_mutex_lock (&s->session_lock);': 'a commit, which alone asks for it, drains the log '
                                                                        'of the target right before',
    },
    'jobs': {
        'commit_co_parent_changed: no commit_co_flush': 'the only driver that has the operation ends it with headers, flushed',
        'commit_co_change_target: no commit_co_flush': 'the flush at the end of the merge covers it; between them nothing is '
                                                       'changed that the chain shows (C8, C9)',
        'commit_co_resume: no commit_co_flush': 'draining the log of the target, before anything is renamed or removed, '
                                                'flushes it',
        'compact_co_flush: no bdrv_co_flush': 'whatever comes next begins with a round of the driver: layout, reduce, trim',
        'compact_co_fill_holes: no bdrv_co_flush': 'what is filled reads the same before and after',
        'rebase_co_make_independent: no bdrv_co_flush':
            'both drivers begin a change of the parent with a round, before the link is written: vhd_co_change_parent () '
            'itself, vhdx_co_change_items () and make_independent () of a VHDX.  Drivers of others need not',
        'forget_list: no named_directory_flush':
            'a list of files that are all gone is removed by the next run, whatever their format: crash-conclude lets the list '
            'come back at every cut, and looks',
    },
}

CRASH_TESTS = ['crash-grow', 'crash-write', 'crash-compact', 'crash-commit', 'crash-relink']


def crash(name, fmt):
    return ('tests/crash/' + name, ['-p', '/%s/%s' % (name, fmt)])


def unit(name):
    return ('tests/unit/' + name, [])


# Of each driver: where it is, what is changed by hand, calls that are replaced by what, the tests that are to notice.
FLUSH = (r'bdrv_co_flush \((?:[^()]|\([^()]*\))*\)', '0')
DRIVERS = {
    'vhd': ('block/drivers/vhd', VHD, [FLUSH],
            [unit('test-vhd-relocate'), unit('test-vhd-relink')]
            + [crash(name, 'vhd') for name in CRASH_TESTS + ['crash-convert', 'crash-rebase', 'fault']]),
    'vhdx': ('block/drivers/vhdx', VHDX, [FLUSH],
             [unit('test-vhdx-write'), unit('test-vhdx-order'), unit('test-vhdx-relink')]
             + [crash(name, 'vhdx') for name in CRASH_TESTS + ['crash-replay', 'crash-convert', 'crash-rebase', 'fault']]),
    'jobs': ('block/jobs', JOBS,
             [FLUSH, (r'(?<!^)\bcommit_co_flush \((?:[^()]|\([^()]*\))*\)(?!\n\{)', 'true'), (r'fsync \(fd\)', '0'),
              (r'(?<!^)\bnamed_directory_flush \([^()]*\)(?!\n\{)', '0')],
             [crash(name, fmt) for name in ('crash-conclude', 'crash-commit', 'crash-rebase', 'crash-compact', 'fault')
              for fmt in ('vhd', 'vhdx')]),
}
# Tests that look at a file's work most closely: words of their names.
FIRST = {
    'alloc.c': 'crash-write', 'commit.c': 'crash-commit', 'compact.c': 'crash-compact',
    'compact-host.c': 'crash-compact', 'conclude.c': 'conclude', 'conclude-check.c': 'conclude',
    'flush.c': 'crash-write', 'io.c': 'crash-write', 'link.c': 'crash-commit', 'log-write.c': 'crash-write',
    'metadata-change.c': 'relink crash-grow', 'named-file.c': 'conclude', 'open.c': 'crash-grow crash-relink crash-compact',
    'rebase.c': 'crash-rebase', 'reduce.c': 'crash-compact',
    'relink.c': 'relink', 'remains.c': 'conclude', 'replay.c': 'crash-replay', 'resize.c': 'crash-grow',
    'session.c': 'crash-write', 'write.c': 'crash-write',
}
# Of the jobs: the others do not run it.
ONLY = {'conclude.c': ['crash-conclude'], 'conclude-check.c': ['crash-conclude'], 'named-file.c': ['crash-conclude'],
        'remains.c': ['crash-conclude'], 'rebase.c': ['crash-rebase', 'fault'], 'compact.c': ['crash-compact', 'fault'],
        'compact-host.c': ['crash-compact', 'fault'], 'commit.c': ['crash-conclude', 'crash-commit', 'fault']}


def change(driver, path, text, pairs):
    """The text with each first of @pairs replaced by its second."""
    for old in pairs[::2]:
        if text.count(old) != 1:
            sys.exit('%s, %s: stands there %d times, not once: %s' % (driver, path, text.count(old), old))
    for at, old, new in sorted(((text.index(old), old, new) for old, new in zip(pairs[::2], pairs[1::2])), reverse=True):
        text = text[:at] + new + text[at + len(old):]
    return text


def mutants(driver):
    """(name, file, mutated text)"""
    folder, by_hand, calls, _ = DRIVERS[driver]
    found, files = [], set()
    for path in sorted(glob.glob(os.path.join(ROOT, folder, '*.c'))):
        name = os.path.basename(path)
        files.add(name)
        with open(path, encoding='utf-8') as f:
            text = f.read()
        function, numbers = '?', {}
        pattern = r'^([a-z_0-9]+) \([^;]*?\)\n\{|' + '|'.join('(%s)' % call for call, _ in calls)
        for match in re.finditer(pattern, text, re.M):
            if match.group(1):
                function = match.group(1)
                continue
            if name == 'create.c':
                continue    # what a crash leaves of it is nobody's image yet
            call = next(i for i in range(len(calls)) if match.group(2 + i))
            line = text.count('\n', 0, match.start()) + 1
            what = '%s: no %s' % (function, match.group(0).split('\n')[0])
            numbers[what] = numbers.get(what, 0) + 1
            found.append(('%s:%d %s, the %d.' % (name, line, what, numbers[what]), name,
                          text[:match.start()] + calls[call][1] + text[match.end():]))
        for wanted, *pairs in by_hand:
            if wanted != name:
                continue
            line = text.count('\n', 0, text.find(pairs[0])) + 1
            label = ' and '.join('%s -> %s' % pair for pair in zip(pairs[::2], pairs[1::2]))
            found.append(('%s:%d: %s' % (name, line, re.sub(r'\s+', ' ', label)), name,
                          change(driver, name, text, pairs)))
    unknown = {name for name, *_ in by_hand} - files
    if unknown:
        sys.exit('%s: no such files: %s' % (driver, ', '.join(sorted(unknown))))
    for part in UNNOTICED[driver]:
        if sum(part in name for name, _, _ in found) != 1:
            sys.exit('%s: "%s" is not the name of one mutant' % (driver, part))
    return found


def run(*command, **kwargs):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                          check=False, **kwargs)


# Neither proven nor not: a machine that has other work.
UNDECIDED = 'not decided'

# How a mutant is tried, one stage after the other until a test fails: all of its tests, or only those that look at the
# file most closely; the seed; after how many seconds of the processor a test has done enough (0: when it ends); and how
# much it does.  Most mutants are found by the first, in seconds; what none finds has been tried with more than the usual
# runs do.
STAGES = [
    ('first', 1, 5, {'VHDKIT_CRASH_CUTS': '12', 'VHDKIT_STRIDE': '25'}),
    ('all', 1, 0, {'VHDKIT_CRASH_CUTS': '24', 'VHDKIT_STRIDE': '25'}),
    ('first', 2, 0, {'VHDKIT_CRASH_CUTS': '400', 'VHDKIT_STRIDE': '5'}),
    ('all', 3, 0, {'VHDKIT_CRASH_CUTS': '100', 'VHDKIT_STRIDE': '5'}),
    ('first', 4, 0, {'VHDKIT_CRASH_CUTS': '400', 'VHDKIT_STRIDE': '2', 'VHDKIT_ITERATIONS': '3'}),
]


def copy_changed(source, target):
    """With a new time: what an earlier run has built of a mutant must not be taken for up to date."""
    if not os.path.exists(target) or not filecmp.cmp(source, target, shallow=False):
        shutil.copy(source, target)


class Copy:
    """Of the sources, and a build of it."""

    def __init__(self, args, number):
        work = os.path.join(args.work, str(number))
        self.args = args
        self.source, self.build = os.path.join(work, 'source'), os.path.join(work, 'build')
        self.scratch = os.path.join(work, 'scratch')
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns('.git', 'build*', '__pycache__'),
                        copy_function=copy_changed, dirs_exist_ok=True)
        if not os.path.exists(os.path.join(self.build, 'build.ninja')):
            # Without what a debugger needs, linking takes no time.
            done = run(*args.through, 'meson', 'setup', self.build, self.source, '-Doptimization=2', '-Ddebug=false')
            if done.returncode:
                sys.exit(done.stdout)

    def judge(self, driver, file):
        """Which test fails, or None."""
        only = ONLY.get(file) if driver == 'jobs' and file else None
        tests = [test for test in DRIVERS[driver][3] if only is None or os.path.basename(test[0]) in only]
        first = [test for test in tests
                 if file is None or 'unit' in test[0] or any(word in test[0] for word in FIRST[file].split())]
        tried = []
        for which, seed, seconds, environment in STAGES[:self.args.stages]:
            wanted = first if which == 'first' else first + [test for test in tests if test not in first]
            # Nothing but the program decides what a unit test does: once is enough.
            wanted = [test for test in wanted if 'unit' not in test[0] or test not in tried]
            verdict = self.run_tests(wanted, seed, seconds, environment)
            if verdict:
                return verdict
            tried += wanted
        return None

    def run_tests(self, tests, seed, seconds, environment):
        for test, arguments in tests:
            done = run(*self.args.through, 'ninja', '-j2', '-C', self.build, test)
            if done.returncode:
                return 'does not compile\n' + done.stdout[-2000:]
            os.makedirs(self.scratch)
            limit = ['prlimit', '--cpu=%d' % seconds] if seconds else []
            done = run(*self.args.through, 'timeout', '600', *limit, os.path.join(self.build, test), *arguments,
                       env=dict(os.environ, TMPDIR=self.scratch, VHDKIT_TEST_DIR=self.scratch, VHDKIT_SEED=str(seed),
                                **environment))
            shutil.rmtree(self.scratch)
            if seconds and done.returncode in (128 + signal.SIGXCPU, 128 + signal.SIGKILL):
                continue
            if done.returncode == 124:
                return UNDECIDED + ': %s takes too long, as nothing may be wrong' % test
            if done.returncode:
                failed = re.search(r'^not ok \d+ (\S+)', done.stdout, re.M)
                return 'proven by %s' % (failed.group(1) if failed else '%s, status %d' % (test, done.returncode))
        return None

    def try_mutant(self, mutant):
        driver, name, file, text = mutant
        path = os.path.join(self.source, DRIVERS[driver][0], file)
        with open(path, encoding='utf-8') as f:
            original = f.read()
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        verdict = self.judge(driver, file)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(original)
        return driver, name, verdict

    def work(self, waiting, results):
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            results.put(self.try_mutant(mutant))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--driver', choices=DRIVERS, help='only those of this one')
    parser.add_argument('--list', action='store_true', help='print the mutants of all drivers, and end')
    parser.add_argument('--jobs', type=int, default=1, help='mutants tried at once')
    parser.add_argument('--keep', metavar='DIRECTORY', help='work there, and use it again')
    parser.add_argument('--through', metavar='COMMAND', default='', help='that builds and tests are run with, "nice" say')
    parser.add_argument('--stages', type=int, default=len(STAGES), help='only so many of the stages')
    parser.add_argument('--results', metavar='FILE', help='is added to; what it says was proven is not tried again')
    parser.add_argument('--trust', action='store_true', help='do not run the tests without a mutation first')
    parser.add_argument('pattern', nargs='?', default='', help='only mutants whose name has this regular expression')
    args = parser.parse_args()
    lists = {driver: mutants(driver) for driver in DRIVERS}
    if args.list:
        for driver, found in lists.items():
            print('\n'.join('%s %s' % (driver, name) for name, _, _ in found))
        return
    args.work = args.keep or tempfile.mkdtemp(prefix='vhdkit-mutate-')
    args.through = args.through.split()
    copies = [Copy(args, number) for number in range(args.jobs)]
    drivers = [args.driver] if args.driver else list(DRIVERS)
    for driver in drivers if not args.trust else []:
        verdict = copies[0].judge(driver, None)
        if verdict:
            sys.exit('%s without a mutation: %s' % (driver, verdict))

    known = set()
    if args.results and os.path.exists(args.results):
        with open(args.results, encoding='utf-8') as f:
            known = {line.split('\t')[0] for line in f if 'NOT NOTICED' not in line and UNDECIDED not in line}
    waiting, results = queue.Queue(), queue.Queue()
    for driver in drivers:
        for name, file, text in lists[driver]:
            if re.search(args.pattern, name) and '%s %s' % (driver, name) not in known:
                waiting.put((driver, name, file, text))
    wanted, missed = waiting.qsize(), 0
    for copy in copies:
        threading.Thread(target=copy.work, args=(waiting, results), daemon=True).start()
    for _ in range(wanted):
        driver, name, verdict = results.get()
        reason = next((why for part, why in UNNOTICED[driver].items() if part in name), None)
        missed += (verdict or UNDECIDED).startswith(UNDECIDED) and reason is None
        text = verdict or ('not noticed: ' + reason if reason else 'NOT NOTICED')
        print('%s %s: %s' % (driver, name, text), flush=True)
        if args.results:
            with open(args.results, 'a', encoding='utf-8') as f:
                f.write('%s %s\t%s\n' % (driver, name, text))
    if not args.keep:
        shutil.rmtree(args.work)
    print('%d of %d not noticed' % (missed, wanted))
    sys.exit(1 if missed else 0)


main()
