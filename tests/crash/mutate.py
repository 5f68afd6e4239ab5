#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which barriers do the crash tests prove?  Takes out one at a time and runs the tests.

    python3 tests/crash/mutate.py [--format vhdx] [--keep DIRECTORY] [PATTERN]

Every call of bdrv_co_flush () in the driver (VHD's, if no other is asked for) is replaced by a success without a flush, and a few other lines are
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
# program and the cases it runs
TESTS = {
    'vhd': [('tests/crash/crash-grow', '/crash-grow/vhd'), ('tests/crash/crash-write', '/crash-write/vhd'),
            ('tests/crash/crash-compact', '/crash-compact/vhd'), ('tests/crash/crash-commit', '/crash-commit/vhd'),
            ('tests/unit/test-vhd-relocate', '/')],
    'vhdx': [('tests/crash/crash-grow', '/crash-grow/vhdx'), ('tests/crash/crash-write', '/crash-write/vhdx'),
             ('tests/crash/crash-replay', '/crash-replay/vhdx'), ('tests/crash/crash-compact', '/crash-compact/vhdx'),
             ('tests/crash/crash-commit', '/crash-commit/vhdx')],
}

# file, text that stands there once, what it becomes
BY_HAND = {'vhd': [
    ('flush.c', '*(fresh ? &round->new_writes : &round->old_writes)', '*(&round->old_writes)'),
    ('flush.c', '*(fresh ? &round->new_writes : &round->old_writes)', '*(&round->new_writes)'),
    ('flush.c', 'if (bitmap->all_set)\n        g_ptr_array_add (round->full, bitmap);', 'g_ptr_array_add (round->full, bitmap);'),
    ('flush.c', 'vhd_batmap_set (s, g_array_index (round->changes, VhdChange, i).block, false);', ';'),
    ('flush.c', 'if (change->sector == copy->sector)', 'if (true)'),
    ('alloc.c', 'if (change->fresh && !(change->publishing && change->publishing_sector == sector))', 'if (true)'),
    ('alloc.c', 'if (!epoch_is_over (s, slot->epoch))', 'if (false)'),
    ('alloc.c', 'ret = bdrv_co_pwrite_zeroes (s->bs->file, file_offset, s->block_span, BDRV_REQ_MAY_UNMAP);', 'ret = 0;'),
    ('alloc.c', 'ret = bdrv_co_pwrite (s->bs->file, old_footer, sizeof zeros, zeros, 0);', 'ret = 0;'),
    ('io.c', '  if (ret == 0)\n    ret = write_payload (s, file_offset, piece->bytes, payload, done);\n',
     '  vhd_bitmap_set (s, bitmap, piece->in_block / VHD_SECTOR_SIZE, piece->bytes / VHD_SECTOR_SIZE);\n'
     '  if (ret == 0)\n    ret = write_payload (s, file_offset, piece->bytes, payload, done);\n'),
    ('io.c', 'memset (bits, 0xFF, div_round_up (s->sectors_per_block, 8));', ';'),
    ('resize.c', 'ret = vhd_co_zero_range (s, old_bytes, end - old_bytes);', 'ret = 0;'),
    ('resize.c', 'ret = vhd_co_zero_range (s, at, round_up (n, VHD_SECTOR_SIZE));', 'ret = 0;'),
    ('resize.c', 'ret = clear_entries (s, s->blocks, blocks);', 'ret = 0;'),
    ('open.c', 'if (s->end_footer_valid && (!s->copy_valid || s->copies_differ))', 'if (false)'),
    ('compact.c', 'vhd_co_wait_old_requests (s);\n  /* From here', '/* From here'),
], 'vhdx': [
    ('alloc.c', 'epochs_is_over (&s->epochs, g_array_index (s->freed, VhdxFreed, n).epoch)', 'true'),
    ('alloc.c', 'bitset_fill (bits->bits[i]->data, in_page, n, false, BITSET_LSB_FIRST);', ';'),
    ('alloc.c', 'ret = bdrv_co_pwrite_zeroes (s->bs->file, *file_offset, bytes, BDRV_REQ_MAY_UNMAP);', 'ret = 0;'),
    ('open.c', 's->grown_is_zero = s->can_grow && s->data_end == bdrv_length (s->bs->file);', 's->grown_is_zero = true;'),
    ('resize.c', 'ret = zero_tail (s, old_bytes, bytes);', 'ret = 0;'),
]}


def driver_of(file_format):
    return os.path.join('block/drivers', file_format)


def mutants(source, file_format):
    """(name, file, mutated text)"""
    found = []
    for path in sorted(glob.glob(os.path.join(source, driver_of(file_format), '*.c'))):
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
        for wanted, old, new in BY_HAND[file_format]:
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


def judge(build, seeds, file_format):
    """Which test fails, or None."""
    done = run('ninja', '-C', build, *[program for program, _ in TESTS[file_format]])
    if done.returncode:
        return 'does not compile\n' + done.stdout[-2000:]
    for seed in range(1, seeds + 1):
        for test, cases in TESTS[file_format]:
            done = run(os.path.join(build, test), '-p', cases, env=dict(os.environ, VHDKIT_SEED=str(seed)))
            if done.returncode:
                kept = re.search(r'files kept in (\S+)', done.stdout)
                if kept:
                    shutil.rmtree(kept.group(1), ignore_errors=True)
                failed = re.search(r'^not ok \d+ (\S+)', done.stdout, re.M)
                return 'proven by %s' % (failed.group(1) if failed else '%s, status %d' % (test, done.returncode))
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--keep', metavar='DIRECTORY', help='work there, and use it again')
    parser.add_argument('--format', choices=sorted(TESTS), default='vhd')
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
    verdict = judge(build, args.seeds, args.format)
    if verdict:
        sys.exit('without a mutation: ' + verdict)

    missed = 0
    for name, file, text in mutants(source, args.format):
        if args.pattern not in name:
            continue
        path = os.path.join(source, driver_of(args.format), file)
        with open(path, encoding='utf-8') as f:
            original = f.read()
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        verdict = judge(build, args.seeds, args.format)
        missed += verdict is None
        print('%s: %s' % (name, verdict or 'NOT NOTICED'), flush=True)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(original)
    if not args.keep:
        shutil.rmtree(work)
    print('%d not noticed' % missed)


main()
