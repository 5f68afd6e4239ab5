# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that Linux's own programs make, fill and judge, and what fs-free says of them."""

import contextlib
import hashlib
import os
import random
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'integration'))

from harness import KiB, MiB, Skip  # noqa: E402


def tool():
    return os.environ.get('FS_FREE') or os.path.join(HERE, '..', '..', 'build', 'tests', 'fs', 'fs-free')


def blank(path, size):
    with open(path, 'wb') as f:
        f.truncate(size)


def copy(t, source, name='copy.raw'):
    """A copy with the same holes."""
    target = t.path(name)
    t.run('cp', '--sparse=always', source, target)
    return target


def report(t, path, *options):
    found = t.run(tool(), '-g', '512', *options, path).json
    t.equal(len(found['volumes']), 1, 'volumes of %s' % path)
    t.equal(found['incomplete'], False, 'free ranges left out')
    return found


def free(t, path, *options):
    """The free ranges, (offset, end), of a volume that must be sound."""
    found = report(t, path, *options)
    t.equal(found['volumes'][0]['in-use'], None, 'the volume counts as in use')
    return [(offset, offset + size) for offset, size in found['free']]


def in_use(t, path, *phrases):
    """The whole volume must count as in use, for the reason that @phrases are parts of."""
    found = report(t, path)
    reason = found['volumes'][0]['in-use']
    t.check(reason is not None, 'the volume does not count as in use', found['volumes'])
    t.equal(found['free'], [], 'free ranges of a volume in use')
    for phrase in phrases:
        t.check(phrase.lower() in reason.lower(), 'the reason does not say %r' % phrase, reason)
    return reason


def fill_free(t, path, name='filled.raw'):
    """A copy whose free ranges are full of rubbish."""
    filled = copy(t, path, name)
    t.run(tool(), '-g', '512', '-z', filled, path)
    return filled


def is_part_of(ranges, others):
    """Whether each of the sorted @ranges lies inside of one of the sorted @others."""
    at = 0
    for start, end in ranges:
        while at < len(others) and others[at][1] < end:
            at += 1
        if at == len(others) or not others[at][0] <= start:
            return False
    return True


def joined(ranges):
    result = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif start < end:
            result.append((start, end))
    return result


def without(ranges, taken):
    """The joined @ranges less the joined @taken."""
    result = []
    taken = joined(taken)
    for start, end in joined(ranges):
        for first, last in taken:
            if last <= start:
                continue
            if first >= end:
                break
            if first > start:
                result.append((start, first))
            start = max(start, last)
        if start < end:
            result.append((start, end))
    return result


@contextlib.contextmanager
def mounted(t, path, *options):
    """The image mounted over a loop device; skips the case where that cannot be done."""
    if os.getuid() != 0:
        raise Skip('mounting needs root')
    point = t.path('mnt')
    os.makedirs(point, exist_ok=True)
    done = subprocess.run(['mount', '-o', ','.join(('loop',) + options), path, point], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Skip('cannot mount: ' + done.stderr.decode(errors='replace').strip().splitlines()[0])
    try:
        yield point
    finally:
        subprocess.run(['umount', point], check=True)


def can_mount(t, path):
    try:
        with mounted(t, path):
            return True
    except Skip:
        return False


def write(path, size, seed):
    with open(path, 'wb') as f:
        f.write(random.Random(seed).randbytes(size))


def punch_holes(t, path, size, step):
    """Every other @step bytes of the file become a hole."""
    commands = ''.join('fpunch %d %d\n' % (at, step) for at in range(0, size, 2 * step))
    t.run('xfs_io', path, stdin=commands.encode())


def populate(t, folder, holes=4 * KiB, holes_of=6 * MiB):
    """Files of many sizes, some deleted again, one that leaves the free space in many pieces."""
    rng = random.Random(7)
    for i in range(160):
        os.makedirs(os.path.join(folder, 'd%d' % (i % 7)), exist_ok=True)
        write(os.path.join(folder, 'd%d' % (i % 7), 'f%d' % i), rng.randrange(1, 90 * KiB), i)
    with open(os.path.join(folder, 'sparse'), 'wb') as f:
        for at in range(0, 64 * MiB, 5 * MiB):
            f.seek(at)
            f.write(b'sparse')
    os.symlink('x' * 900, os.path.join(folder, 'link'))
    write(os.path.join(folder, 'holes'), holes_of, 99)
    os.sync()
    for i in range(0, 160, 3):
        os.unlink(os.path.join(folder, 'd%d' % (i % 7), 'f%d' % i))
    punch_holes(t, os.path.join(folder, 'holes'), holes_of, holes)


def digests(folder):
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
                continue
            with open(path, 'rb') as f:
                found[path] = hashlib.sha256(f.read()).hexdigest()
    return found


def patch(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)


def peek(path, offset, size):
    with open(path, 'rb') as f:
        f.seek(offset)
        return f.read(size)


def flips(t, path, places, count, seed):
    """Flips bits, one at a time, at random offsets in the (offset, size) @places: nothing may become free by that."""
    rng = random.Random(seed)
    before = free(t, path)
    refused = 0
    for _ in range(count):
        start, size = rng.choice(places)
        offset = start + rng.randrange(size)
        old = peek(path, offset, 1)
        patch(path, offset, bytes([old[0] ^ 1 << rng.randrange(8)]))
        found = t.run(tool(), '-g', '512', path).json
        ranges = [(at, at + length) for at, length in found['free']]
        t.check(is_part_of(ranges, before), 'a flip at offset %d made used space free' % offset)
        refused += found['volumes'][0]['in-use'] is not None
        patch(path, offset, old)
    return refused
