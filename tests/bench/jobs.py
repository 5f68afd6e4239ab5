# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commit and compact, against the least they can do and against others who do it."""

import ctypes
import json
import mmap
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time

from common import (GiB, KiB, MiB, QEMU_IMG, RUNS, SCALE, SMALL_BLOCKS, bench_rate, compare, cpu_time, fill, new_image,
                    on_tmpfs, report, report_memory, sh, timed, tool)

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


def write(path, fmt, count, bytes_, step, offset, pattern, depth=16):
    sh(tool('bench', '-f', fmt, '-c', count, '-d', depth, '-s', bytes_, '-S', step, '-o', offset, '-w', '--pattern', pattern, path))


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
        # In the order of the disk, as one writer leaves it.
        write(self.parent, fmt, max(1, size // (64 * MiB)), 32 * MiB, 64 * MiB, 0, 1, depth=1)
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
                write(chain.leaf, fmt, bytes_ // (2 * MiB), 2 * MiB, 2 * MiB, 0, 85, depth=1)
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
            # Each block of a VHD has a bitmap of its own, in another place: to read those of 2 GiB takes longer than all of
            # the small merge.
            limit = 1.5 if fmt == 'vhdx' else None
            compare(group, '%s: %d MiB, time / 64 MiB' % (name, large // MiB), run(1), run(0), limit, 's', min)
            compare(group, '%s: %d MiB, copied / shared' % (name, large // MiB), run(1, '--reflink=never'), run(1), 20, 's', max,
                    runs=min(RUNS, 3))
        finally:
            os.chdir('..')
            sh('umount m; rmdir m; rm fs')


# --- compact ---------------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None)
RUN = 16 * MiB  # of zeros, or of data


class Buffer:
    """Memory that O_DIRECT takes, and that is compared without a loop of Python's."""

    def __init__(self, bytes_):
        self.memory = mmap.mmap(-1, bytes_)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def is_zero(self, n):
        return self.memory[0] == 0 and LIBC.memcmp(ctypes.c_void_p(self.address), ctypes.c_void_p(self.address + 1),
                                                   ctypes.c_size_t(n - 1)) == 0


def scan(path, direct):
    """Reads all of a file, and looks for zeros."""
    buffer = Buffer(2 * MiB)
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    at = 0
    while True:
        n = os.preadv(fd, [buffer.memory], at)
        if n <= 0:
            break
        buffer.is_zero(n)
        at += n
    os.close(fd)


def make_half_zero(path, fmt, size):
    """All allocated; every other run of bytes is zeros."""
    fill(path, fmt, size)
    sh(tool('bench', '-f', fmt, '-c', size // (2 * RUN), '-d', 4, '-s', RUN, '-S', 2 * RUN, '-w', '--pattern', 0, path))
    sh('sync ' + path)


def data_of(path):
    """Its data in the file, as they are there: (offset, bytes)."""
    return sorted((x['offset'], x['length']) for x in json.loads(sh(tool('map', '--output=json', path))) if x['data'])


def written_by(command):
    """Bytes of all writes."""
    sh('strace -f -o calls -e trace=write,pwrite64,pwritev,pwritev2 ' + command)
    with open('calls') as f:
        return sum(int(n) for n in re.findall(r'^.* = ([0-9]+)$', f.read(), re.M))


def read_by(command):
    sh('strace -f -o calls -e trace=pread64,preadv,preadv2 ' + command)
    with open('calls') as f:
        return sum(int(n) for n in re.findall(r'^.* = ([0-9]+)$', f.read(), re.M))


def space_taken():
    with os.scandir('.') as entries:
        return sum(entry.stat().st_blocks for entry in entries) * 512


def most_space(command):
    """The most that all files here took of the disk while a command ran, beyond what they took before."""
    before = most = space_taken()
    process = subprocess.Popen(shlex.split(command))
    while process.poll() is None:
        most = max(most, space_taken())
        time.sleep(0.005)
    if process.returncode:
        sys.exit(command)
    return most - before


def half_zero(group, fmt, size):
    """In place against the least that can be done, and against what people do today."""
    image, work = 'z.' + fmt, 'w.' + fmt
    make_half_zero(image, fmt, size)
    ours = tool('compact', '-q', '-f', fmt, work)

    def put_back():
        sh('cp --sparse=never %s %s; sync' % (image, work))

    put_back()
    result = json.loads(sh(tool('compact', '--output=json', '-f', fmt, work)))
    shorter = result['file-size-after']
    must = sum(max(0, offset + length - max(offset, shorter)) for offset, length in data_of(image)) // 2
    # The data of the upper half, into the zeros of the lower one.
    half = size // 2
    runs = [(at, at - half - RUN, RUN) for at in range(half + RUN, size, 2 * RUN)]

    def floor(how):
        def run():
            put_back()
            began = time.perf_counter()
            scan(work, how == 'direct')
            move(runs, work, work, how)
            os.truncate(work, half)
            sh('sync ' + work)
            return time.perf_counter() - began
        return run

    def compact_(measure=timed):
        put_back()
        return measure('%s && sync %s' % (ours, work))
    best = min(('rw', 'copy_file_range', 'direct'), key=lambda how: min(floor(how)() for _ in range(2)))
    compare(group, 'half of %d MiB zero, time / floor (%s)' % (size // MiB, best), compact_, floor(best), 1.15, 's', min,
            runs=min(RUNS, 3))
    if shutil.which(QEMU_IMG):
        theirs = 'vpc' if fmt == 'vhd' else fmt
        options = shlex.join(('-o', 'block_size=%d' % MiB) if fmt == 'vhdx' else ('-o', 'force_size=on'))

        def convert(then=''):
            put_back()
            seconds = timed('%s convert -f %s -O %s %s %s o.%s && sync o.%s%s' % (QEMU_IMG, theirs, theirs, options, work, fmt,
                                                                              fmt, then))
            sh('rm -f o.' + fmt)
            return seconds
        compare(group, 'half of it zero, time / qemu-img convert', compact_, convert, 0.7, 's', min, runs=min(RUNS, 3))
        # What the old file holds is given back only then, as the end of ours is.
        in_place = ' && mv o.%s %s && sync %s' % (fmt, work, work)
        compare(group, 'half of it zero, time / the same, and mv', compact_, lambda: convert(in_place), 0.7, 's', min,
                runs=min(RUNS, 3))
    put_back()
    more, before = most_space(ours), os.stat(image).st_blocks * 512
    report(group, 'half of it zero, more space of the disk', more / before, 0.01, more, before, 'bytes', min)
    if shutil.which('strace'):
        put_back()
        written = written_by(ours)
        report(group, 'half of it zero, bytes written', written / must, 1.05, written, must, 'bytes to move', min)
    os.unlink(image)
    os.unlink(work)


def nothing_to_move(group, fmt, size):
    """All of it data, or zeros up to its end: every byte of each block has to be read."""
    direct = 'writeback' if on_tmpfs() else 'none'
    for label, last in (('data', None), ('zeros but for the ends of blocks', 4096)):
        path = 'n.' + fmt
        if last is None:
            fill(path, fmt, size)
        else:
            block = MiB if fmt == 'vhdx' else 2 * MiB
            new_image(path, fmt, size)
            write(path, fmt, size // block, block, block, 0, 0)
            write(path, fmt, size // block, last, block, block - last, 7)
        sh('sync ' + path)
        length = os.path.getsize(path)
        raw = bench_rate(path, 'raw', MiB, MiB, 4, False, count=length // MiB)

        def read():
            return length // MiB / raw()
        drop_caches = lambda: None if on_tmpfs() else sh('sync; echo 1 > /proc/sys/vm/drop_caches')  # noqa: E731

        def ours(command):
            drop_caches()
            return timed(command)
        for mode in dict.fromkeys((direct, 'writeback')):
            command = tool('compact', '-q', '-f', fmt, '-t', mode, path)
            compare(group, '%s, nothing to move, -t %s, rate / raw' % (label, mode), lambda: 1 / ours(command),
                    lambda: 1 / read(), 0.9, 'runs/s', max)
        if shutil.which('strace'):
            written = written_by(tool('compact', '-q', '-f', fmt, path))
            report(group, '%s, nothing to move, bytes written' % label, written, 4096, written, 0, 'bytes', min)
        os.unlink(path)


def known_zeros(group, fmt, size):
    """Zeros that are stored are read, holes of the file are not."""
    path = 'h.' + fmt
    new_image(path, fmt, size)
    write(path, fmt, size // MiB, MiB, MiB, 0, 0)
    with open(path, 'r+b') as f:
        for offset, length in data_of(path):
            for at in range((offset + MiB - 1) // MiB * MiB, offset + length - MiB + 1, 2 * MiB):
                sh('fallocate --punch-hole --offset %d --length %d %s' % (at, MiB, path))
    stored = os.stat(path).st_blocks * 512
    read = read_by(tool('compact', '-q', '--dry-run', '-f', fmt, path))
    report(group, 'half of %d MiB holes, bytes read' % (size // MiB), read / stored, 1.01, read, stored, 'bytes stored', min)
    os.unlink(path)


def quick_of_a_terabyte(group, fmt):
    """10 GiB used, 10 GiB deleted behind: only metadata is read, and the host gives back in one step what it does."""
    if os.geteuid() != 0 or not shutil.which('mkfs.ext4'):
        print('%s: no file system can be made here' % group)
        return
    # A page of each MiB is written: all blocks exist, and take little of the host.
    files, pages = max(1, int(10 * SCALE)), 1024
    sh('truncate -s 1T fs.raw; mkfs.ext4 -q -F -E lazy_itable_init=1,nodiscard fs.raw; mkdir m; mount -o loop fs.raw m')
    try:
        for folder in ('used', 'deleted'):
            os.mkdir('m/' + folder)
            for i in range(files):
                with open('m/%s/%d' % (folder, i), 'wb') as f:
                    os.posix_fallocate(f.fileno(), 0, GiB)
                    for at in range(pages):
                        os.pwrite(f.fileno(), b'x' * 4096, at * MiB)
            sh('sync')
        sh('rm -r m/deleted; sync')
    finally:
        sh('umount m; rmdir m')
    image, work = 'q.' + fmt, 'w.' + fmt
    sh(tool('convert', '-q', '-f', 'raw', '-O', fmt, *options_of(fmt), 'fs.raw', image))
    os.unlink('fs.raw')

    def quick(*options):
        sh('cp --sparse=always %s %s; sync' % (image, work))
        return timed(tool('compact', '-q', '--mode', 'quick', '-f', fmt, *options, work))
    sizes = []

    def cut():
        sh('cp --sparse=always %s %s; sync' % (image, work))
        began = time.perf_counter()
        os.truncate(work, sizes[0])
        sh('sync ' + work)
        return time.perf_counter() - began
    quick()
    sizes.append(os.path.getsize(work))
    seconds = statistics.median(quick() for _ in range(3))
    report(group, 'quick of 1 TiB, %d MiB to %d, seconds' % (os.path.getsize(image) // MiB, sizes[0] // MiB), seconds, 2,
           '%.2f' % seconds, '%.2f' % cut(), 's for a cut alone', min)
    sh('cp --sparse=always %s %s; sync' % (image, work))
    if shutil.which('strace'):
        read = read_by(tool('compact', '-q', '--mode', 'quick', '-f', fmt, '--no-block-moves', work))
        report(group, 'quick of 1 TiB, MiB read', read / MiB, 100, read // MiB, os.path.getsize(image) // MiB, 'MiB', min)
    report_memory(group, 'quick of 1 TiB, memory', tool('compact', '-q', '--mode', 'quick', '--dry-run', image), 64)
    os.unlink(image)
    os.unlink(work)


def compact_of(fmt):
    group = 'compact' if fmt == 'vhd' else fmt + '-compact'
    size = max(256 * MiB, int(4 * GiB * SCALE)) // (4 * RUN) * 4 * RUN
    half_zero(group, fmt, size)
    nothing_to_move(group, fmt, size // 2)
    known_zeros(group, fmt, size // 4)
    quick_of_a_terabyte(group, fmt)
