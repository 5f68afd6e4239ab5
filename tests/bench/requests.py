# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest requests: the engine, the formats against raw, first writes."""

import json
import os
import shlex
import shutil

from common import (CELL, COMPLETED, GiB, KiB, MiB, QEMU_IMG, RATE_RUNS, SCALE, SCATTERED, SMALL_BLOCKS, VHD_IMG,
                    bench_rate, compare, count_flushes, fill, new_vhdx, on_tmpfs, report, sh, tool)


def fio_rate(path, size, depth, write):
    """Without its accounting of latencies: we do none either."""
    def run():
        text = sh('fio --name=j --filename=%s --rw=rand%s --bs=%d --iodepth=%d --direct=1 --ioengine=libaio --size=%d '
                  '--time_based --runtime=%dms --randrepeat=0 --norandommap --gtod_reduce=1 --output-format=json' %
                  (path, 'write' if write else 'read', size, depth, os.path.getsize(path), max(CELL, 0.1) * 1000))
        job = json.loads(text[text.index('{'):])['jobs'][0]
        return job['write' if write else 'read']['iops']
    return run


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


def vhdx_format():
    compare_with_raw('vhdx-format', 'vhdx', ((4096, SCATTERED, 1, '4k random'), (4096, SCATTERED, 32, '4k random'),
                                             (64 * KiB, 64 * KiB, 1, '64k sequential'),
                                             (64 * KiB, 64 * KiB, 32, '64k sequential'), (MiB, MiB, 16, '1M sequential')),
                     0.95 if on_tmpfs() else 0.97)


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
