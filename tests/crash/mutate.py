#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which barriers do the crash tests prove?  Takes out one at a time and runs the tests.

    python3 tests/crash/mutate.py [--driver vhd|vhdx] [--keep DIRECTORY] [PATTERN]

Every call of bdrv_co_flush () in the driver is replaced by a success without a flush, and a few other lines are
made wrong by hand.  A mutant that a test fails on is "proven" needed; one that no test notices is "not noticed": the
tests are too weak, or the line is not needed.  Works on a copy of the sources; takes some minutes.  Not part of the
suites: run it by hand when the driver's order of writes or the tests change.
"""

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
CRASH_TESTS = ['crash-grow', 'crash-write', 'crash-compact', 'crash-commit']

# file, text that stands there once, what it becomes
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
    ('resize.c', 'ret = copy_table (s, bat.file_offset);', 'ret = bat.bytes == 0 ? copy_table (s, 0) : 0;'),
    ('open.c', '  if (ret == 0)\n    ret = vhdx_co_end_log (s);\n  if (ret < 0)', '  if (ret < 0)'),
    ('open.c', 's->flushed_bytes = MIN (s->flushed_bytes, length);', ';'),
    ('open.c', 's->grown_is_zero = length == s->data_end;', 's->grown_is_zero = true;'),
]

# of each driver: what is changed by hand, and the tests that are to notice, with their arguments
DRIVERS = {
    'vhd': (VHD, [('tests/crash/' + name, ['-p', '/%s/vhd' % name]) for name in CRASH_TESTS + ['crash-relink']]
            + [('tests/unit/test-vhd-relocate', [])]),
    'vhdx': (VHDX, [('tests/unit/test-vhdx-write', []), ('tests/unit/test-vhdx-relink', [])]
             + [('tests/crash/' + name, ['-p', '/%s/vhdx' % name])
                for name in CRASH_TESTS + ['crash-replay', 'crash-relink-vhdx']]),
}


def mutants(source, driver):
    """(name, file, mutated text)"""
    found = []
    for path in sorted(glob.glob(os.path.join(source, 'block/drivers', driver, '*.c'))):
        name = os.path.basename(path)
        if name == 'create.c':
            continue
        with open(path, encoding='utf-8') as f:
            text = f.read()
        function = '?'
        for match in re.finditer(r'^([a-z_0-9]+) \([^;]*?\)\n\{|bdrv_co_flush \((?:[^()]|\([^()]*\))*\)', text, re.M):
            if match.group(1):
                function = match.group(1)
                continue
            line = text.count('\n', 0, match.start()) + 1
            found.append(('%s:%d %s: no flush' % (name, line, function), name,
                          text[:match.start()] + '0' + text[match.end():]))
        for wanted, old, new in DRIVERS[driver][0]:
            if wanted != name:
                continue
            if text.count(old) != 1:
                sys.exit('%s: stands there %d times, not once: %s' % (name, text.count(old), old))
            line = text.count('\n', 0, text.index(old)) + 1
            found.append(('%s:%d: %s -> %s' % (name, line, old.replace('\n', ' '), new.replace('\n', ' ')), name,
                          text.replace(old, new)))
    return found


def run(*command, **kwargs):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                              check=False, timeout=600, **kwargs)
    except subprocess.TimeoutExpired as e:
        return subprocess.CompletedProcess(command, 124, 'timeout after %d s' % e.timeout)


def judge(build, tests, seeds):
    """Which test fails, or None."""
    done = run('ninja', '-j2', '-C', build, *(name for name, _ in tests))
    if done.returncode:
        return 'does not compile\n' + done.stdout[-2000:]
    for seed in range(1, seeds + 1):
        for test, arguments in tests:
            done = run(os.path.join(build, test), *arguments, env=dict(os.environ, VHDKIT_SEED=str(seed)))
            if done.returncode:
                kept = re.search(r'files kept in (\S+)', done.stdout)
                if kept:
                    shutil.rmtree(kept.group(1), ignore_errors=True)
                failed = re.search(r'^not ok \d+ (\S+)', done.stdout, re.M)
                return 'proven by %s' % (failed.group(1) if failed else '%s, status %d' % (test, done.returncode))
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--driver', choices=DRIVERS, default='vhd')
    parser.add_argument('--keep', metavar='DIRECTORY', help='work there, and use it again')
    parser.add_argument('--seeds', type=int, default=3, help='how often the tests run before a mutant has survived')
    parser.add_argument('pattern', nargs='?', default='', help='only mutants whose name has it')
    args = parser.parse_args()
    work = args.keep or tempfile.mkdtemp(prefix='vhdkit-mutate-')
    source, build = os.path.join(work, 'source'), os.path.join(work, 'build')
    shutil.rmtree(source, ignore_errors=True)
    # With new times: what an earlier run has built of mutants must not be taken for up to date.
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.git', 'build*', '__pycache__'), copy_function=shutil.copy)
    if not os.path.exists(os.path.join(build, 'build.ninja')):
        done = run('meson', 'setup', build, source, '-Dbuildtype=debugoptimized')
        if done.returncode:
            sys.exit(done.stdout)
    tests = DRIVERS[args.driver][1]
    verdict = judge(build, tests, args.seeds)
    if verdict:
        sys.exit('without a mutation: ' + verdict)

    missed = 0
    for name, file, text in mutants(source, args.driver):
        if args.pattern not in name:
            continue
        path = os.path.join(source, 'block/drivers', args.driver, file)
        with open(path, encoding='utf-8') as f:
            original = f.read()
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        verdict = judge(build, tests, args.seeds)
        missed += verdict is None
        print('%s: %s' % (name, verdict or 'NOT NOTICED'), flush=True)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(original)
    if not args.keep:
        shutil.rmtree(work)
    print('%d not noticed' % missed)


main()
