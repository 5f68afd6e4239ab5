# SPDX-License-Identifier: LGPL-2.1-or-later
"""For tests of free-space readers: what fs-free says of an image, and proofs that it is right."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'integration'))

from harness import GiB, KiB, MiB, add, case, main, read_file  # noqa: E402, F401

# e2fsprogs and util-linux live in sbin.
os.environ['PATH'] += os.pathsep + '/usr/sbin' + os.pathsep + '/sbin'


def fs_free():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get('FS_FREE') or os.path.join(here, '..', '..', 'build', 'tests', 'fs', 'fs-free')


def need_ext(t):
    if os.environ.get('FS_EXT') == '0':
        t.skip('built without libext2fs')
    t.need('mke2fs', 'debugfs', 'dumpe2fs', 'e2fsck')


def report(t, image, *options, rc=0):
    """The report as fs-free prints it, its form checked."""
    result = t.run(fs_free(), *options, image, rc=rc)
    if result.rc != 0:
        return result
    found = result.json
    end = -1
    for offset, length in found['free']:
        t.check(offset > end and length > 0, 'free ranges that are not sorted, touch or overlap', found['free'])
        end = offset + length
    for volume in found['volumes']:
        inside = sum(max(0, min(o + n, volume['offset'] + volume['bytes']) - max(o, volume['offset']))
                     for o, n in found['free'])
        if volume['inside'] is None:
            inside -= sum(v['free-bytes'] for v in found['volumes'] if v['inside'] is not None and v['offset'] >=
                          volume['offset'] and v['offset'] + v['bytes'] <= volume['offset'] + volume['bytes'])
        t.equal(volume['free-bytes'], inside, 'free bytes of partition %d' % volume['partition'])
        if volume['in-use'] is not None:
            t.equal(volume['free-bytes'], 0, 'free bytes of a volume in use')
    t.equal(sum(v['free-bytes'] for v in found['volumes']), sum(n for _, n in found['free']),
            'free bytes outside of volumes')
    return found


def volume(t, found, partition=0):
    for entry in found['volumes']:
        if entry['partition'] == partition:
            return entry
    t.check(False, 'no partition %d' % partition, found)


def in_use(t, image, *phrases, partition=0, options=()):
    """The volume counts as in use, for a reason with all @phrases in it."""
    entry = volume(t, report(t, image, *options), partition)
    t.check(entry['in-use'] is not None, 'not in use', entry)
    for phrase in phrases:
        t.check(phrase in entry['in-use'], 'the reason does not say "%s"' % phrase, entry)
    return entry


def usable(t, image, partition=0, options=()):
    entry = volume(t, report(t, image, *options), partition)
    t.equal(entry['in-use'], None, 'in use')
    return entry


def fill_free(t, image, *options):
    """Overwrites what is free; returns the report."""
    result = t.run(fs_free(), '-z', image, *options, image)
    return result.json


def join(ranges):
    """Sorted (offset, bytes), neighbours joined."""
    joined = []
    for offset, length in sorted(ranges):
        if joined and joined[-1][0] + joined[-1][1] >= offset:
            joined[-1][1] = max(joined[-1][1], offset + length - joined[-1][0])
        else:
            joined.append([offset, length])
    return joined


def is_subset(ranges, others):
    """Whether each byte of @ranges lies in @others; both sorted and joined."""
    others = iter(others)
    other = next(others, None)
    for offset, length in ranges:
        while other is not None and other[0] + other[1] <= offset:
            other = next(others, None)
        if other is None or other[0] > offset or other[0] + other[1] < offset + length:
            return False
    return True


def patch(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)


def make_file(path, size):
    with open(path, 'wb') as f:
        f.truncate(size)
    return path


def swap_header(size, page=4096, signature=b'SWAPSPACE2', order='little', bad=(), last=None, version=1):
    """The first page of swap space of @size bytes."""
    data = bytearray(page)
    last = size // page - 1 if last is None else last
    for i, number in enumerate((version, last, len(bad))):
        data[1024 + 4 * i:1028 + 4 * i] = number.to_bytes(4, order)
    for i, number in enumerate(bad):
        data[1536 + 4 * i:1540 + 4 * i] = number.to_bytes(4, order)
    data[page - 10:page - 10 + len(signature)] = signature
    return bytes(data)


def tree(folder):
    """Path -> content or link target of all that is in @folder."""
    found = {}
    for top, folders, names in os.walk(folder):
        for name in names + folders:
            path = os.path.join(top, name)
            key = os.path.relpath(path, folder)
            if os.path.islink(path):
                found[key] = os.readlink(path)
            elif os.path.isfile(path):
                found[key] = read_file(path)
            else:
                found[key] = None
    return found
