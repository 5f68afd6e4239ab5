# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commit and compact, against the least they can do and against others who do it."""

import json
import mmap
import os
import shutil
import time

from common import (GiB, KiB, MiB, QEMU_IMG, RUNS, SCALE, SMALL_BLOCKS, compare, cpu_time, fill, report_memory, sh,
                    timed, tool)

# The host's file systems that share extents, made in a file.
MKFS = {'xfs': 'mkfs.xfs -q -m reflink=1', 'btrfs': 'mkfs.btrfs -q'}


def options_of(fmt):
    return SMALL_BLOCKS if fmt == 'vhdx' else ()


def move(runs, source, target, how='rw'):
    """The floor of a merge: just these ranges, one after the other, then on the disk."""
    direct = os.O_DIRECT if how == 'direct' else 0
    s, d = os.open(source, os.O_RDONLY | direct), os.open(target, os.O_RDWR | direct)
    view = memoryview(mmap.mmap(-1, 2 * MiB))
    for from_, to, left in runs:
        while left:
            n = min(left, 2 * MiB)
            if how == 'copy_file_range':
                n = os.copy_file_range(s, d, left, from_, to)
            else:
                os.preadv(s, [view[:n]], from_)
                os.pwrite(d, view[:n], to)
            from_, to, left = from_ + n, to + n, left - n
    os.fsync(d)
    os.close(s)
    os.close(d)


def make_child(fmt, parent, child):
    sh(tool('create', '-q', '-f', fmt, '-b', parent, *options_of(fmt), child))


def write(path, fmt, count, bytes_, step, offset, pattern):
    sh(tool('bench', '-f', fmt, '-c', count, '-d', 16, '-s', bytes_, '-S', step, '-o', offset, '-w', '--pattern', pattern, path))


def sources_of(path):
    """The ranges a commit of @path has to move: (offset in the child's file, guest offset, bytes)."""
    return [(x['offset'], x['start'], x['length']) for x in json.loads(sh(tool('map', '--output=json', path)))
            if x['data'] and x['depth'] == 0]


class Chain:
    """A parent half of which is data, with children; put back before every run."""

    def __init__(self, fmt, size):
        self.fmt = fmt
        self.parent = 'p.' + fmt
        self.children = []
        sh(tool('create', '-q', '-f', fmt, *options_of(fmt), self.parent, size))
        write(self.parent, fmt, max(1, size // (64 * MiB)), 32 * MiB, 64 * MiB, 0, 1)
        self.add_child()

    def add_child(self):
        # When all is written that its parent is to hold: a VHDX child knows its parent's content.
        child = 'c%d.%s' % (len(self.children), self.fmt)
        make_child(self.fmt, self.children[-1] if self.children else self.parent, child)
        self.children.append(child)

    @property
    def leaf(self):
        return self.children[-1]

    def keep(self):
        # A commit changes the parent, and the link of its child.
        # Beside their originals they would be images that the commit breaks.
        os.mkdir('kept')
        sh('cp --sparse=auto %s %s kept' % (self.parent, self.children[0]))

    def put_back(self):
        sh('cp --sparse=auto kept/* . && sync')

    def command(self, *options):
        return '%s && sync %s' % (tool('commit', '-q', *options, '--depth', len(self.children), self.leaf), self.parent)

    def commit(self, *options, measure=timed):
        def run():
            self.put_back()
            return measure(self.command(*options))
        return run

    def remove(self):
        shutil.rmtree('kept')
        for path in [self.parent, *self.children]:
            os.unlink(path)


def qemu_commit(pieces, size, raw):
    """The same change as a qcow2 overlay of a raw file, merged by qemu-img."""
    sh('%s create -q -f qcow2 -b %s -F raw o.qcow2 %d' % (QEMU_IMG, raw, size))
    with open('commands', 'w') as f:
        f.writelines('write -q -P 85 %d %d\n' % piece for piece in pieces)
    sh('qemu-io -f qcow2 -t writeback o.qcow2 < commands')
    sh('cp o.qcow2 o.kept; cp --sparse=auto %s raw.kept' % raw)

    def run(measure=timed):
        sh('cp o.kept o.qcow2; cp --sparse=auto raw.kept %s; sync' % raw)
        return measure('%s commit -q -d -f qcow2 o.qcow2 && sync %s' % (QEMU_IMG, raw))
    return run


def commit_of(fmt):
    """Into a dynamic parent that holds half of its blocks; the floor writes the same bytes into a raw file."""
    group = 'commit' if fmt == 'vhd' else fmt + '-commit'
    size = max(512 * MiB, int(4 * GiB * SCALE))
    pieces = 16384 if SCALE >= 1 else 2048
    gap = size // pieces // 4096 * 4096
    for label, bytes_, limit, others in (('64k pieces', min(64 * KiB, gap), 1.15, 1), ('4k pieces', 4096, 1.5, 0.5)):
        chain = Chain(fmt, size)
        at = gap // 4 // 4096 * 4096
        write(chain.leaf, fmt, pieces - 1, bytes_, gap, at, 85)
        chain.keep()
        runs = sources_of(chain.leaf)
        sh(tool('convert', '-q', '-O', 'raw', chain.parent, 'p0.raw'))

        def floor(how):
            def run():
                sh('cp --sparse=auto p0.raw f.raw; sync')
                began = time.perf_counter()
                move(runs, 'kept/' + chain.leaf, 'f.raw', how)
                return time.perf_counter() - began
            return run
        best = min(('rw', 'copy_file_range', 'direct'), key=lambda how: min(floor(how)() for _ in range(2)))
        what = '%s, %d MiB' % (label, sum(r[2] for r in runs) // MiB)
        compare(group, '%s, time / floor (%s)' % (what, best), chain.commit(), floor(best), limit, 's', min)
        if shutil.which(QEMU_IMG) and shutil.which('qemu-io'):
            theirs = qemu_commit([(at + i * gap, bytes_) for i in range(pieces - 1)], size, 'p0.raw')
            compare(group, '%s, time / qemu-img' % what, chain.commit(), theirs, others, 's', min)
            compare(group, '%s, CPU / qemu-img' % what, chain.commit(measure=cpu_time), lambda: theirs(cpu_time), None, 's', min)
        if fmt == 'vhd' and shutil.which('vhd-util'):
            def vhd_util():
                chain.put_back()
                return timed('vhd-util coalesce -n %s && sync %s' % (chain.leaf, chain.parent))
            compare(group, '%s, time / vhd-util' % what, chain.commit(), vhd_util, 0.2, 's', min, runs=min(RUNS, 3))
        chain.put_back()
        report_memory(group, '%s, memory' % what, tool('commit', '-q', chain.leaf), 64)
        chain.remove()


def layers_of(fmt):
    """Many layers against one that holds the same."""
    group = 'layers' if fmt == 'vhd' else fmt + '-layers'
    size = max(512 * MiB, int(4 * GiB * SCALE))
    each = max(MiB, int(16 * MiB * SCALE))
    gap = size // 2048

    def overlapping(i):
        # Seven of eight pieces each.
        return [(j * gap + 64 * KiB * (j % 3), 8 * gap) for j in range(8) if j != i]

    def scattered(i):
        return [(i * 64 * KiB, size // (each // (64 * KiB)))]
    for count, of_layer, bytes_, limit in ((8, overlapping, 64 * KiB, 1.2), (64, scattered, 64 * KiB, 1.5)):
        many = Chain(fmt, size)
        for i in range(count):
            if i > 0:
                many.add_child()
            for offset, step in of_layer(i):
                write(many.leaf, fmt, (size - offset) // step, bytes_, step, offset, i + 1)
        many.keep()
        os.mkdir('one')
        os.chdir('one')
        one = Chain(fmt, size)
        for i in range(count):
            for offset, step in of_layer(i):
                write(one.leaf, fmt, (size - offset) // step, bytes_, step, offset, i + 1)
        one.keep()
        os.chdir('..')

        def run_one():
            os.chdir('one')
            try:
                return one.commit()()
            finally:
                os.chdir('..')
        compare(group, '%d layers, time / one layer' % count, many.commit(), run_one, limit, 's', min)
        many.remove()
        shutil.rmtree('one')


def reflink_of(fmt):
    """On file systems that share extents: the time does not follow the bytes."""
    group = 'reflink' if fmt == 'vhd' else fmt + '-reflink'
    large = max(256 * MiB, int(2 * GiB * SCALE))
    for name, mkfs in MKFS.items():
        if os.geteuid() != 0 or not shutil.which(mkfs.split()[0]):
            print('%s: %s cannot be made here' % (group, name))
            continue
        sh('truncate -s %d fs && %s fs && mkdir m && mount -o loop fs m' % (6 * large + GiB, mkfs))
        os.chdir('m')
        try:
            chains = []
            for bytes_ in (64 * MiB, large):
                sh('mkdir s%d' % bytes_)
                os.chdir('s%d' % bytes_)
                chain = Chain(fmt, 2 * large)
                write(chain.leaf, fmt, bytes_ // (2 * MiB), 2 * MiB, 2 * MiB, 0, 85)
                chain.keep()
                chains.append(chain)
                os.chdir('..')

            def run(i, *options):
                def commit():
                    os.chdir('s%d' % (64 * MiB, large)[i])
                    try:
                        return chains[i].commit(*options)()
                    finally:
                        os.chdir('..')
                return commit
            compare(group, '%s: %d MiB, time / 64 MiB' % (name, large // MiB), run(1), run(0), 1.5, 's', min)
            compare(group, '%s: %d MiB, copied / shared' % (name, large // MiB), run(1, '--reflink=never'), run(1), 20, 's', max,
                    runs=min(RUNS, 3))
        finally:
            os.chdir('..')
            sh('umount m; rmdir m; rm fs')


def compact():
    """Nothing to drop: the time of reading every allocated byte once."""
    size = max(256 * MiB, int(2 * GiB * SCALE))
    fill('d.vhd', 'vhd', size)
    length = os.path.getsize('d.vhd')

    def read_all():
        buffer = bytearray(MiB)
        began = time.perf_counter()
        with open('d.vhd', 'rb', buffering=0) as f:
            while f.readinto(buffer):
                pass
        return time.perf_counter() - began
    read_all()
    compare('compact', 'nothing to move, %d MiB, time / read' % (length // MiB),
            lambda: timed(tool('compact', '-q', 'd.vhd')), read_all, 1.1, 's', min)

    sh('cp d.vhd z.vhd')
    sh(tool('bench', '-f', 'vhd', '-c', size // (4 * MiB), '-d', 1, '-s', 2 * MiB, '-S', 4 * MiB, '-w', '--pattern', 0, 'z.vhd'))

    def half():
        sh('cp z.vhd w.vhd; sync')
        return timed(tool('compact', '-q', 'w.vhd'))
    compare('compact', 'half of it zero, time / read', half, read_all, None, 's', min, runs=min(RUNS, 3))
