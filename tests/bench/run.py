#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's benchmark: how far from the raw device, or from the least work a job can do, we are.

    python3 tests/bench/run.py [GROUP ...]      groups: engine format allocate commit compact info, of VHD;
                                                vhdx-open vhdx-format vhdx-allocate vhdx-convert, or vhdx: these

Every figure is a ratio of interleaved runs, the median of the pairs, with its quartiles; a ratio of rates is
better when larger, one of times when smaller.  A time of day on a shared disk says little: BENCH_DIR on tmpfs
gives the cost of our own layers, BENCH_DIR on a disk the rest.

A disk's rate depends on where a file lies by more than a format costs, and changes from second to second.  So
both sides use the same blocks of the same file, for a short time, often, and take turns to be the first.

Environment: VHD_IMG (the tool; build/tools/vhd-img), BENCH_DIR (/var/tmp), RUNS (5 for jobs; 20 for rates),
SCALE (1: gigabytes; 0.1 is a smoke run), SECONDS_PER_CELL (of a run that measures a rate; 0.3).  --json prints
one JSON object a line as well.
"""

import atexit
import json
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VHD_IMG = os.environ.get('VHD_IMG') or os.path.join(HERE, '..', '..', 'build', 'tools', 'vhd-img')
QEMU_IMG = os.environ.get('QEMU_IMG', 'qemu-img')
RUNS = int(os.environ.get('RUNS', '5'))
RATE_RUNS = int(os.environ.get('RUNS', '20'))
SCALE = float(os.environ.get('SCALE', '1'))
CELL = float(os.environ.get('SECONDS_PER_CELL', '0.3'))
KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
# Requests land far from each other: a step of a prime number of pages.
SCATTERED = 4096 * 104729
COMPLETED = re.compile(r'completed in ([0-9.]+) seconds')


def sh(command):
    result = subprocess.run(command, shell=isinstance(command, str), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        sys.exit('%s: exit status %d\n%s' % (command, result.returncode, result.stdout[-2000:]))
    return result.stdout


def timed(command):
    began = time.perf_counter()
    sh(command)
    return time.perf_counter() - began


def tool(*argv):
    return shlex.join([VHD_IMG] + [str(a) for a in argv])


def cpu_time(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    sh(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def each(command, n=20):
    """A function that gives the seconds one run of a short command takes."""
    return lambda: timed('i=0; while [ $i -lt %d ]; do %s > /dev/null || exit 1; i=$((i+1)); done' % (n, command)) / n


def report_time(group, name, command, limit, n=20):
    milliseconds = statistics.median(each(command, n)() for _ in range(RUNS)) * 1e3
    report(group, name, milliseconds, limit, '%.2f' % milliseconds, limit, 'ms', min)


def report_memory(group, name, command, limit):
    # /usr/bin/time because the launcher's own memory would be counted otherwise.
    if shutil.which('time'):
        sh('%s -f %%M -o rss %s > /dev/null' % (shutil.which('time'), command))
        with open('rss') as f:
            mib = int(f.read().split()[-1]) / 1024
        report(group, name, mib, limit, '%.1f' % mib, limit, 'MiB', min)


def count_flushes(command):
    sh('strace -f -c -o calls -e trace=fdatasync,fsync,io_submit ' + command)
    with open('calls') as f:
        return sum(int(line.split()[3]) for line in f if line.split()[-1:] in (['fdatasync'], ['fsync']))


def report(group, name, ratio, limit, ours, other, unit, best, spread=''):
    """@best: max when a larger ratio is better."""
    verdict = '' if limit is None else ('  ok' if (ratio >= limit if best is max else ratio <= limit) else '  MISSED')
    bound = '' if limit is None else ' (%s %g)' % ('at least' if best is max else 'at most', limit)
    print('%-9s %-44s %7.3f%s%s%s   %s against %s %s' % (group, name, ratio, spread, bound, verdict, ours, other, unit),
          flush=True)
    if '--json' in sys.argv:
        print(json.dumps({'group': group, 'name': name, 'ratio': round(ratio, 4), 'limit': limit, 'ours': ours,
                          'other': other, 'unit': unit}), flush=True)


def compare(group, name, ours, other, limit, unit, best, runs=RUNS):
    """@ours, @other: functions that give a figure; run in turn, each the first in every other pair."""
    pairs = []
    for i in range(runs):
        if i % 2:
            a = ours()
            b = other()
        else:
            b = other()
            a = ours()
        pairs.append((a, b))
    ratios = [a / b for a, b in pairs]
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    form = '%.0f' if unit.endswith('/s') else '%.4f'
    low, _, high = statistics.quantiles(ratios, n=4) if runs > 1 else ratios * 3
    report(group, name, statistics.median(ratios), limit, form % a, form % b, unit, best, ' [%.2f..%.2f]' % (low, high))


# --- requests -----------------------------------------------------------------------------------------------

def bench_rate(path, fmt, size, step, depth, write, count=None, direct=True):
    """Requests a second by our bench; @count None: as many as take about CELL seconds."""
    def run(n):
        mode = ['-n', '-t', 'none'] if direct else ['-t', 'writeback']
        text = sh(tool('bench', '-f', fmt, *mode, '-c', n, '-d', depth, '-s', size, '-S', step,
                       *(['-w', '--pattern', '7'] if write else []), path))
        return float(COMPLETED.search(text).group(1))
    if count is None:
        count = max(200, int(200 / max(run(200), 1e-3) * CELL))
        count = max(count, int(count / max(run(count), 1e-3) * CELL))
    return lambda: count / max(run(count), 1e-6)


def fio_rate(path, size, depth, write):
    """Without its accounting of latencies: we do none either."""
    def run():
        text = sh('fio --name=j --filename=%s --rw=rand%s --bs=%d --iodepth=%d --direct=1 --ioengine=libaio --size=%d '
                  '--time_based --runtime=%dms --randrepeat=0 --norandommap --gtod_reduce=1 --output-format=json' %
                  (path, 'write' if write else 'read', size, depth, os.path.getsize(path), max(CELL, 0.1) * 1000))
        job = json.loads(text[text.index('{'):])['jobs'][0]
        return job['write' if write else 'read']['iops']
    return run


def fill(path, fmt, size):
    sh(tool('create', '-q', '-f', fmt, path, size))
    sh(tool('bench', '-f', fmt, '-c', size // MiB, '-d', 8, '-s', MiB, '-w', '--pattern', 90, path))


def on_tmpfs():
    return sh('stat -f -c %T .').strip() == 'tmpfs'


def engine():
    """Our raw driver against fio's libaio on the same file."""
    if not shutil.which('fio'):
        print('engine    left out: no fio')
        return
    size = max(64 * MiB, int(GiB * SCALE))
    fill('d.raw', 'raw', size)
    for write in (False, True):
        for depth in (1, 32):
            limit = {1: 0.7, 32: 0.85}[depth] if on_tmpfs() else {1: None, 32: 0.97}[depth]
            compare('engine', '4k random %s depth %d, raw / fio' % ('write' if write else 'read', depth),
                    bench_rate('d.raw', 'raw', 4096, SCATTERED, depth, write), fio_rate('d.raw', 4096, depth, write),
                    limit, 'requests/s', max, RATE_RUNS)


class Metadata:
    """All of an image's file that is not data, to be put back after the file was written as a raw one."""

    def __init__(self, path):
        self.path = path
        self.pieces = []
        at = 0
        extents = json.loads(sh(tool('map', '--output=json', path)))
        data = sorted((x['offset'], x['length']) for x in extents if x['data'])
        with open(path, 'rb') as f:
            for start, length in data + [(os.path.getsize(path), 0)]:
                if start > at:
                    f.seek(at)
                    self.pieces.append((at, f.read(start - at)))
                at = start + length

    def put_back(self):
        fd = os.open(self.path, os.O_WRONLY)
        for offset, piece in self.pieces:
            os.pwrite(fd, piece, offset)
        os.fsync(fd)
        os.close(fd)


def compare_with_raw(group, fmt, cells, limit):
    """Allocated dynamic image against raw, same engine: the very same file, once by its format, once as raw."""
    size = max(64 * MiB, int(GiB * SCALE))
    path = 'd.' + fmt
    fill(path, fmt, size)
    metadata = Metadata(path)
    for write in (False, True):
        for bytes_, step, depth, label in cells:
            ours = bench_rate(path, fmt, bytes_, step, depth, write)
            raw = bench_rate(path, 'raw', bytes_, step, depth, write)

            def raw_and_repair():
                rate = raw()
                if write:
                    metadata.put_back()
                return rate
            if write:
                metadata.put_back()
            compare(group, '%s %s depth %d, %s / raw' % (label, 'write' if write else 'read', depth, fmt), ours,
                    raw_and_repair, limit, 'requests/s', max, RATE_RUNS)


def format_layer():
    compare_with_raw('format', 'vhd', ((4096, SCATTERED, 1, '4k random'), (4096, SCATTERED, 32, '4k random'),
                                       (64 * KiB, 64 * KiB, 1, '64k sequential'),
                                       (64 * KiB, 64 * KiB, 16, '64k sequential'), (MiB, MiB, 16, '1M sequential')),
                     0.9 if on_tmpfs() else 0.95)


def first_writes(fmt, size, bytes_, depth, img=None, options=()):
    """A function that gives the rate of writes that each are the first of their MiB; @img: as our tool, by qemu-img."""
    def run():
        path = 'a.' + fmt
        sh(shlex.join([img or VHD_IMG, 'create', '-q', '-f', fmt, *options, path, str(size)]))
        count = size // MiB
        seconds = float(COMPLETED.search(sh(shlex.join(
            [img or VHD_IMG, 'bench', '-f', fmt, '-n', '-t', 'none', '-c', str(count), '-d', str(depth), '-s', str(bytes_),
             '-S', str(max(bytes_, MiB)), '-w', path]))).group(1))
        os.unlink(path)
        return count / max(seconds, 1e-3)
    return run


def report_flushes_of_blocks(group, fmt, size, block, options=()):
    path = 'a.' + fmt
    sh(tool('create', '-q', '-f', fmt, *options, path, size))
    flushes = count_flushes(tool('bench', '-f', fmt, '-n', '-t', 'none', '-c', size // block, '-d', 1, '-s', 65536, '-S',
                                 block, '-w', path))
    report(group, 'fdatasync for each block allocated', flushes / (size // block), 0.1, flushes, size // block,
           'calls, blocks', min)
    os.unlink(path)


def allocate():
    """First writes: a new dynamic VHD against a new raw file, and the flushes they cost."""
    size = max(256 * MiB, int(GiB * SCALE))
    for bytes_, depth in ((64 * KiB, 1), (64 * KiB, 16), (MiB, 16)):
        compare('allocate', '%dk in each MiB, depth %d, vhd / raw' % (bytes_ // KiB, depth),
                first_writes('vhd', size, bytes_, depth), first_writes('raw', size, bytes_, depth), 0.8, 'requests/s', max)
    if shutil.which('strace'):
        report_flushes_of_blocks('allocate', 'vhd', size, 2 * MiB)


# --- jobs ---------------------------------------------------------------------------------------------------

def move(runs, source, target):
    """The floor of a merge: just these ranges, one after the other, then on the disk."""
    s, d = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR)
    buffer = bytearray(2 * MiB)
    view = memoryview(buffer)
    for from_, to, left in runs:
        while left:
            n = os.preadv(s, [view[:min(left, 2 * MiB)]], from_)
            os.pwrite(d, view[:n], to)
            from_, to, left = from_ + n, to + n, left - n
    os.fsync(d)
    os.close(s)
    os.close(d)


def commit():
    """Into a dynamic parent that holds half of its blocks; the floor writes the same bytes into a raw file."""
    size = max(512 * MiB, int(4 * GiB * SCALE))
    pieces = 16384 if SCALE >= 1 else 2048
    sh(tool('create', '-q', '-f', 'vhd', 'p0.vhd', size))
    sh(tool('bench', '-f', 'vhd', '-c', size // (64 * MiB), '-d', 1, '-s', 32 * MiB, '-S', 64 * MiB, '-w', '--pattern', 1, 'p0.vhd'))
    sh(tool('convert', '-q', '-O', 'raw', 'p0.vhd', 'p0.raw'))
    gap = size // pieces // 4096 * 4096
    for label, bytes_, limit in (('64k pieces', min(64 * KiB, gap), 1.2), ('4k pieces', 4096, 1.5)):
        shutil.copy('p0.vhd', 'p.vhd')
        sh(tool('create', '-q', '-f', 'vhd', '-b', 'p.vhd', 'c.vhd'))
        sh(tool('bench', '-f', 'vhd', '-c', pieces - 1, '-d', 16, '-s', bytes_, '-S', gap, '-o', gap // 4 // 4096 * 4096, '-w',
                '--pattern', 85, 'c.vhd'))
        extents = json.loads(sh(tool('map', '--output=json', 'c.vhd')))
        runs = [(x['offset'], x['start'], x['length']) for x in extents if x['data'] and x['depth'] == 0]

        def ours():
            sh('cp --sparse=auto p0.vhd p.vhd; sync')
            return timed(tool('commit', '-q', 'c.vhd') + ' && sync p.vhd')

        def floor():
            sh('cp --sparse=auto p0.raw f.raw; sync')
            began = time.perf_counter()
            move(runs, 'c.vhd', 'f.raw')
            return time.perf_counter() - began
        compare('commit', '%s, %d MiB, time / floor' % (label, sum(r[2] for r in runs) // MiB), ours, floor, limit, 's', min)
        os.unlink('c.vhd')


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


def info():
    """Start-up: one process, a table for 2 TiB."""
    sh(tool('create', '-q', '-f', 'vhd', 'e.vhd', '2040G'))

    info_ = tool('info', '-f', 'vhd', 'e.vhd')
    report_time('info', '2040 GiB, milliseconds', info_, 5)
    if shutil.which(QEMU_IMG):
        compare('info', '2040 GiB, time / qemu-img', each(info_), each(QEMU_IMG + ' info -f vpc e.vhd'), 0.5, 's', min)
    for label, command in (('info', tool('info', 'e.vhd')), ('map', tool('map', '--output=json', 'e.vhd')),
                           ('check', tool('check', '-q', 'e.vhd'))):
        report_memory('info', '%s of 2040 GiB, memory' % label, command, 64)


# --- VHDX ---------------------------------------------------------------------------------------------------

SMALL_BLOCKS = ('-o', 'block_size=1M')


def new_vhdx(path, size):
    sh(tool('create', '-q', '-f', 'vhdx', *SMALL_BLOCKS, path, size))


def vhdx_open():
    """Half a gigabyte of table in which there is nothing, or next to nothing; and long chains."""
    group = 'vhdx-open'
    create = tool('create', '-q', '-f', 'vhdx', *SMALL_BLOCKS, 'e.vhdx', '64T')
    report_time(group, 'create 64 TiB, milliseconds', create, 20)
    report(group, 'create 64 TiB, MiB on disk', os.stat('e.vhdx').st_blocks / 2048, 4, os.stat('e.vhdx').st_blocks, 8192,
           'sectors', min)
    few = ('-c', 5, '-d', 1, '-s', 65536, '-S', '10T')
    info_ = tool('info', '-f', 'vhdx', 'e.vhdx')
    report_time(group, 'info, milliseconds', info_, 5)
    report_memory(group, 'info, memory', info_, 16)
    report_memory(group, 'bench of 5 new blocks, memory', tool('bench', '-f', 'vhdx', *few, '-w', '--pattern', 1, 'e.vhdx'), 32)
    for verb, command in (('map', tool('map', '--output=json', 'e.vhdx')), ('check', tool('check', '-q', 'e.vhdx')),
                          ('compact', tool('compact', '-q', 'e.vhdx')),
                          ('convert to vhdx', tool('convert', '-q', '-O', 'vhdx', 'e.vhdx', 'o.vhdx'))):
        report_time(group, verb + ' of 5 blocks, milliseconds', command, 100)
        report_memory(group, verb + ' of 5 blocks, memory', command, 32)
    # A commit leaves the child empty: every run has one of its own.
    fill_child = '%s && %s' % (tool('create', '-q', '-f', 'vhdx', '-b', 'e.vhdx', 'c.vhdx'),
                               tool('bench', '-f', 'vhdx', *few, '-w', '--pattern', 2, 'c.vhdx'))
    commit_ = tool('commit', '-q', 'c.vhdx')
    report_time(group, 'create, bench and commit of 5, milliseconds', '%s && %s' % (fill_child, commit_), 100, n=3)
    sh(fill_child)
    report_memory(group, 'commit of 5 blocks, memory', commit_, 32)

    new_vhdx('z.vhdx', '63T')
    # ext4 has no raw files of 63 TiB.
    if on_tmpfs():
        report_time(group, 'convert empty 63 TiB to raw, milliseconds', tool('convert', '-q', '-O', 'raw', 'z.vhdx', 'z.raw'),
                    100, n=1)

    new_vhdx('l0.vhdx', '64G')
    depths = (64, 128, 255)
    for i in range(1, max(depths) + 1):
        sh(tool('create', '-q', '-f', 'vhdx', '-b', 'l%d.vhdx' % (i - 1), 'l%d.vhdx' % i))
    for depth in depths:
        opened = statistics.median(each(tool('bench', '-f', 'vhdx', '-c', 1, 'l%d.vhdx' % depth), 5)() for _ in range(RUNS))
        report(group, 'chain of %d, milliseconds a layer to open' % (depth + 1), opened * 1e3 / (depth + 1), 0.3,
               '%.2f' % (opened * 1e3), depth + 1, 'ms, layers', min)
    read = {depth: bench_rate('l%d.vhdx' % depth, 'vhdx', 4096, MiB, 1, False, count=10000, direct=False) for depth in depths}
    compare(group, 'read at depth 256, time of a layer / depth 65', lambda: 1 / read[255]() / 256, lambda: 1 / read[64]() / 65,
            2.5, 's', min)


def vhdx_format():
    compare_with_raw('vhdx-format', 'vhdx', ((4096, SCATTERED, 1, '4k random'), (4096, SCATTERED, 32, '4k random'),
                                             (64 * KiB, 64 * KiB, 1, '64k sequential'),
                                             (64 * KiB, 64 * KiB, 32, '64k sequential'), (MiB, MiB, 16, '1M sequential')),
                     0.95 if on_tmpfs() else 0.97)


def vhdx_allocate():
    """First writes into blocks of 1 MiB, and the flushes they cost."""
    group = 'vhdx-allocate'
    size = max(256 * MiB, int(GiB * SCALE))
    for depth in (1, 16):
        ours = first_writes('vhdx', size, 64 * KiB, depth, options=SMALL_BLOCKS)
        if shutil.which(QEMU_IMG):
            # That one flushes for every block: on tmpfs it costs nothing.
            compare(group, '64k in each MiB, depth %d, ours / qemu-img' % depth, ours,
                    first_writes('vhdx', size, 64 * KiB, depth, QEMU_IMG, SMALL_BLOCKS), None if on_tmpfs() else 20,
                    'requests/s', max)
            compare(group, '64k in each MiB, depth %d, ours / qcow2' % depth, ours,
                    first_writes('qcow2', size, 64 * KiB, depth, QEMU_IMG), 0.8, 'requests/s', max)
        compare(group, '64k in each MiB, depth %d, vhdx / raw' % depth, ours,
                first_writes('raw', size, 64 * KiB, depth), None, 'requests/s', max)
    if shutil.which('strace'):
        report_flushes_of_blocks(group, 'vhdx', size, MiB, SMALL_BLOCKS)
        new_vhdx('a.vhdx', size)
        flushes = count_flushes(tool('bench', '-f', 'vhdx', '-n', '-t', 'none', '-c', 200, '-d', 1, '-s', 4096, '-S', MiB,
                                     '--flush-interval', 1, '-w', 'a.vhdx'))
        report(group, 'fdatasync for a 4k write and flush', flushes / 200, 3, flushes, 200, 'calls, flushes', min)


def vhdx_convert():
    """An image half of which is data, until the target is on the disk."""
    group = 'vhdx-convert'
    size = max(256 * MiB, int(2 * GiB * SCALE))
    with open('s.raw', 'wb') as f:
        f.truncate(size)
        for at in range(0, size, 2 * MiB):
            f.seek(at)
            f.write(os.urandom(MiB))
    sh(tool('convert', '-q', '-O', 'vhdx', 's.raw', 's.vhdx'))
    for source, target in (('raw', 'vhdx'), ('vhdx', 'raw')):
        for label, mode in (('', ()), (', -t none', ('-t', 'none'))):
            def command(img, measure):
                def run():
                    sh('rm -f o.%s; sync' % target)
                    return measure(shlex.join([img, 'convert', '-f', source, '-O', target, *mode, 's.' + source, 'o.' + target]) +
                                   ' && sync o.' + target)
                return run
            for what, measure, limit in (('time', timed, 1), ('CPU', cpu_time, 0.6)):
                compare(group, '%s to %s%s, %s / qemu-img' % (source, target, label, what), command(VHD_IMG, measure),
                        command(QEMU_IMG, measure), limit, 's', min)
            report_memory(group, '%s to %s%s, memory' % (source, target, label),
                          tool('convert', '-O', target, *mode, 's.' + source, 'o.' + target), 32)


VHDX_GROUPS = {'vhdx-open': vhdx_open, 'vhdx-format': vhdx_format, 'vhdx-allocate': vhdx_allocate,
               'vhdx-convert': vhdx_convert}
GROUPS = {'engine': engine, 'format': format_layer, 'allocate': allocate, 'commit': commit, 'compact': compact, 'info': info,
          **VHDX_GROUPS}


def main():
    wanted = [a for a in sys.argv[1:] if not a.startswith('-')] or list(GROUPS)
    wanted = [name for a in wanted for name in (VHDX_GROUPS if a == 'vhdx' else [a])]
    unknown = set(wanted) - set(GROUPS)
    if unknown or '--help' in sys.argv:
        sys.exit(__doc__.strip() + ('\n\nunknown: ' + ' '.join(unknown) if unknown else ''))
    global VHD_IMG
    VHD_IMG = os.path.abspath(VHD_IMG) if os.sep in VHD_IMG else VHD_IMG
    scratch = tempfile.mkdtemp(prefix='vhdkit-bench.', dir=os.environ.get('BENCH_DIR', '/var/tmp'))
    atexit.register(shutil.rmtree, scratch, True)
    os.chdir(scratch)
    print('%s, %d runs, scale %g, in %s (%s)' % (sh(tool('--version')).strip(), RUNS, SCALE, os.path.dirname(scratch),
                                                 sh('stat -f -c %T .').strip()), flush=True)
    for name in wanted:
        GROUPS[name]()
        for left in os.listdir('.'):
            os.unlink(left)


main()
