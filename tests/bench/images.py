# SPDX-License-Identifier: LGPL-2.1-or-later
"""What opening costs, and converting: start-up, empty and huge images, long chains."""

import os
import shlex
import shutil
import statistics

from common import (GiB, MiB, QEMU_IMG, RUNS, SCALE, SMALL_BLOCKS, VHD_IMG, bench_rate, compare, cpu_time, each, new_vhdx,
                    on_tmpfs, report, report_memory, report_time, sh, timed, tool)


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
