# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all groups use: running commands, measuring, comparing, reporting."""

import json
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VHD_IMG = os.environ.get('VHD_IMG') or os.path.join(HERE, '..', '..', 'build', 'tools', 'vhd-img')
VHD_IMG = os.path.abspath(VHD_IMG) if os.sep in VHD_IMG else VHD_IMG
QEMU_IMG = os.environ.get('QEMU_IMG', 'qemu-img')
RUNS = int(os.environ.get('RUNS', '5'))
RATE_RUNS = int(os.environ.get('RUNS', '20'))
SCALE = float(os.environ.get('SCALE', '1'))
CELL = float(os.environ.get('SECONDS_PER_CELL', '0.3'))
KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
# Requests land far from each other: a step of a prime number of pages.
SCATTERED = 4096 * 104729
COMPLETED = re.compile(r'completed in ([0-9.]+) seconds')
SMALL_BLOCKS = ('-o', 'block_size=1M')  # of VHDX


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


def new_image(path, fmt, size):
    sh(tool('create', '-q', '-f', fmt, *(SMALL_BLOCKS if fmt == 'vhdx' else ()), path, size))


def fill(path, fmt, size):
    new_image(path, fmt, size)
    sh(tool('bench', '-f', fmt, '-c', size // MiB, '-d', 8, '-s', MiB, '-w', '--pattern', 90, path))


def on_tmpfs():
    return sh('stat -f -c %T .').strip() == 'tmpfs'


def new_vhdx(path, size):
    new_image(path, 'vhdx', size)


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
