# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free space of XFS: against xfs_db and xfs_repair, clean, dirty and damaged."""

import os
import re
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import linuxfs  # noqa: E402
from harness import KiB, MiB, Skip, add, case, main  # noqa: E402
from vhdxfile import crc32c  # noqa: E402

SIZE = 96 * MiB

VARIANTS = {
    'v5': [],
    'v5-1k': ['-b', 'size=1024'],
    'v5-8k': ['-b', 'size=8192'],
    'v5-rmap-reflink': ['-m', 'rmapbt=1,reflink=1'],
    'v5-plain': ['-m', 'finobt=0,rmapbt=0,reflink=0', '-i', 'sparse=0'],
    'v5-groups': ['-d', 'agcount=5'],
    'v5-sectors': ['-s', 'size=4096'],
    'v5-log-stripe': ['-l', 'su=256k'],
    'v5-nrext64': ['-i', 'nrext64=1'],
    'v5-bigtime': ['-m', 'bigtime=1,inobtcount=1'],
    'v4': ['-m', 'crc=0'],
    'v4-512': ['-m', 'crc=0', '-b', 'size=512'],
    'v4-log-1': ['-m', 'crc=0', '-l', 'version=1'],
}


def mkfs(t, options, size=SIZE):
    t.need('mkfs.xfs', 'xfs_db', 'xfs_repair', 'xfs_io')
    path = t.path('xfs.raw')
    linuxfs.blank(path, size)
    # Sizes that tests can bear are refused by newer versions without this, which older ones do not know.
    done = t.run('mkfs.xfs', '-q', '-f', '--unsupported', *options, path, rc=None)
    if done.rc != 0:
        done = t.run('mkfs.xfs', '-q', '-f', *options, path, rc=None)
    if done.rc != 0:
        raise Skip('this mkfs.xfs does not make it: ' + (done.err.strip().splitlines() or [''])[0])
    return path


def xfs_db(t, path, *commands):
    argv = ['xfs_db', '-r']
    for command in commands:
        argv += ['-c', command]
    return t.run(*argv, path).out


def fields(t, path, *place):
    out = xfs_db(t, path, *place, 'p')
    return {name: value for name, value in re.findall(r'^(\S+) = (.*)$', out, re.M)}


def number(text):
    return int(text, 0)


def free_by_xfs_db(t, path):
    """What xfs_db finds, less the blocks of the free lists, which it counts in."""
    super_block = fields(t, path, 'sb 0')
    block, per_group = number(super_block['blocksize']), number(super_block['agblocks'])
    lists = set()
    for ag in range(number(super_block['agcount'])):
        agf = fields(t, path, 'agf %d' % ag)
        slots = dict(re.findall(r'(\d+):(\w+)', xfs_db(t, path, 'agfl %d' % ag, 'p bno')))
        for i in range(number(agf['flcount'])):
            lists.add((ag, int(slots[str((number(agf['flfirst']) + i) % len(slots))])))
    ranges = []
    for line in xfs_db(t, path, 'freesp -d').splitlines():
        row = line.split()
        if len(row) == 1 or not all(cell.isdigit() for cell in row):
            continue
        if len(row) != 3:
            break
        ag, start, count = map(int, row)
        if (ag, start) in lists:
            t.equal(count, 1, 'a block of a free list')
            continue
        offset = (ag * per_group + start) * block
        ranges.append((offset, offset + count * block))
    return linuxfs.joined(ranges)


def judge(t, path):
    """Ranges as xfs_db has them; with rubbish in them the file system is as it was."""
    ranges = linuxfs.free(t, path)
    t.equal(ranges, free_by_xfs_db(t, path), 'free ranges')
    filled = linuxfs.fill_free(t, path)
    t.run('xfs_repair', '-n', filled)
    return filled


def prototype(t):
    """A tree of files for mkfs, which needs no mount."""
    lines = ['/', '0 0', 'd--755 0 0']
    for i in range(60):
        path = t.path('proto-%d' % i)
        linuxfs.write(path, 700 * i * i + 3, i)
        lines += ['d%d d--755 0 0' % i, 'f ---644 0 0 ' + path, '$']
    with open(t.path('proto'), 'w') as f:
        f.write('\n'.join(lines + ['$', '']))
    return ['-p', t.path('proto')]


def variant(t, options):
    path = mkfs(t, options + prototype(t))
    os.unlink(judge(t, path))
    if 'crc=0' in options and not linuxfs.can_mount(t, path):
        # Kernels leave version 4 behind.
        return
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder, max(4096, number(fields(t, path, 'sb 0')['blocksize'])))
        before = linuxfs.digests(folder)
    filled = judge(t, path)
    with linuxfs.mounted(t, filled, 'ro') as folder:
        t.equal(linuxfs.digests(folder), before, 'files, with rubbish in the free space')


for name, options in VARIANTS.items():
    add(name, variant, options)


@case
def deep_trees(t):
    """Free space in so many pieces that the trees have three levels."""
    path = mkfs(t, ['-b', 'size=1024', '-d', 'agcount=2'])
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder, KiB, 24 * MiB)
    levels = [number(fields(t, path, 'agf %d' % ag)['bnolevel']) for ag in range(2)]
    t.check(max(levels) >= 3, 'the trees are not deep', levels)
    judge(t, path)


@case
def large_with_wrapped_log(t):
    """So many changes that the log was written around more than once."""
    path = mkfs(t, ['-l', 'size=6m'], 64 * MiB)
    with linuxfs.mounted(t, path) as folder:
        for turn in range(60):
            for i in range(300):
                with open(os.path.join(folder, 'f%d' % i), 'w') as f:
                    f.write('x')
            os.sync()
            for i in range(300):
                os.unlink(os.path.join(folder, 'f%d' % i))
            os.sync()
            if log_cycle(path) >= 3:
                break
    t.check(log_cycle(path) >= 2, 'the log was not written around', log_cycle(path))
    judge(t, path)


def log_place(path):
    """Offset and length of the log."""
    block = struct.unpack('>I', linuxfs.peek(path, 4, 4))[0]
    start, = struct.unpack('>Q', linuxfs.peek(path, 48, 8))
    group_blocks, = struct.unpack('>I', linuxfs.peek(path, 84, 4))
    blocks, = struct.unpack('>I', linuxfs.peek(path, 96, 4))
    group_log = linuxfs.peek(path, 124, 1)[0]
    return ((start >> group_log) * group_blocks + (start & (1 << group_log) - 1)) * block, blocks * block


def log_blocks(path):
    offset, size = log_place(path)
    log = linuxfs.peek(path, offset, size)
    return [log[at:at + 512] for at in range(0, size, 512)]


def log_cycle(path):
    first = log_blocks(path)[0]
    words = struct.unpack('>II', first[:8])
    return words[1] if words[0] == 0xFEEDBABE else words[0]


def unmount_record(path):
    """Offset of the newest record's header."""
    best = None
    for i, block in enumerate(log_blocks(path)):
        magic, cycle = struct.unpack('>II', block[:8])
        if magic == 0xFEEDBABE and (best is None or (cycle, i) > best):
            best = (cycle, i)
    return log_place(path)[0] + best[1] * 512


# --- not clean ----------------------------------------------------------------------------------------------


@case
def mounted_now(t):
    path = mkfs(t, [])
    with linuxfs.mounted(t, path) as folder:
        linuxfs.write(os.path.join(folder, 'f'), MiB, 1)
        os.sync()
        taken = linuxfs.copy(t, path)
    linuxfs.in_use(t, taken, 'log')
    linuxfs.free(t, path)


@case
def shut_down(t):
    """As after a crash; when the log was replayed and the volume unmounted, it is clean again."""
    path = mkfs(t, [])
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder)
        os.sync()
        linuxfs.write(os.path.join(folder, 'late'), MiB, 2)
        t.run('xfs_io', '-x', '-c', 'shutdown -f', folder)
    linuxfs.in_use(t, path, 'log')
    with linuxfs.mounted(t, path):
        pass
    judge(t, path)


@case
def log_without_unmount(t):
    path = mkfs(t, [])
    header = unmount_record(path)
    flags = linuxfs.peek(path, header + 512 + 9, 1)[0]
    t.equal(flags & 0x20, 0x20, 'flag of an unmount')
    linuxfs.patch(path, header + 512 + 9, bytes([flags & ~0x20]))
    linuxfs.in_use(t, path, 'not that of an unmount')


@case
def log_of_another(t):
    path = mkfs(t, [])
    header = unmount_record(path)
    linuxfs.patch(path, header + 304, b'\x11' * 16)
    linuxfs.in_use(t, path, 'log')


@case
def log_zeroed(t):
    path = mkfs(t, [])
    offset, size = log_place(path)
    linuxfs.patch(path, offset, bytes(size))
    linuxfs.in_use(t, path, 'log')


@case
def log_goes_on(t):
    """A record behind that of the unmount, and one that got lost on the way."""
    path = mkfs(t, [])
    header = unmount_record(path)
    record = linuxfs.peek(path, header, 1024)
    for distance in (2, 5, 300):
        other = linuxfs.copy(t, path, 'other.raw')
        linuxfs.patch(other, header + distance * 512, record)
        linuxfs.in_use(t, other, 'log')


@case
def log_outside(t):
    t.need('mkfs.xfs')
    linuxfs.blank(t.path('log.raw'), 16 * MiB)
    path = mkfs(t, ['-l', 'logdev=%s,size=10m' % t.path('log.raw')])
    linuxfs.in_use(t, path, 'another device')


# --- damaged ------------------------------------------------------------------------------------------------


def checksum(data, place):
    data = bytearray(data)
    data[place:place + 4] = bytes(4)
    data[place:place + 4] = struct.pack('<I', crc32c(bytes(data)))
    return bytes(data)


class Structure:
    """Something with a checksum, to be changed behind its back."""

    def __init__(self, path, offset, size, place):
        self.path, self.offset, self.size, self.place = path, offset, size, place

    def set(self, at, data, sign=True):
        old = bytearray(linuxfs.peek(self.path, self.offset, self.size))
        old[at:at + len(data)] = data
        linuxfs.patch(self.path, self.offset, checksum(old, self.place) if sign else bytes(old))

    def get(self, at, size=4):
        return int.from_bytes(linuxfs.peek(self.path, self.offset + at, size), 'big')


def be32(value):
    return struct.pack('>I', value & 0xFFFFFFFF)


def structures(path):
    """Of the second group, and the superblock."""
    block = struct.unpack('>I', linuxfs.peek(path, 4, 4))[0]
    group = struct.unpack('>I', linuxfs.peek(path, 84, 4))[0] * block
    agf = Structure(path, group + 512, 512, 216)
    return {
        'super': Structure(path, 0, 512, 224),
        'agf': agf,
        'agfl': Structure(path, group + 3 * 512, 512, 32),
        'bno': Structure(path, group + agf.get(16) * block, block, 52),
        'cnt': Structure(path, group + agf.get(20) * block, block, 52),
    }


DAMAGE = {
    # name: structure, offset, new value (or what to add, as a tuple), checksum made anew, what the reason says
    'super-sum': ('super', 8, (1,), False, 'checksum'),
    'super-needs-repair': ('super', 216, (0x10,), True, 'xfs_repair'),
    'super-incompat': ('super', 216, (0x40000000,), True, 'not understood'),
    'super-metadir': ('super', 216, (0x100,), True, 'not understood'),
    'super-zoned': ('super', 216, (0x200,), True, 'not understood'),
    'super-ro-compat': ('super', 212, (0x8000,), True, 'not understood'),
    'super-log-incompat': ('super', 220, (1,), True, 'log'),
    'super-larger': ('super', 12, (1,), True, 'superblock'),
    'super-groups': ('super', 88, (1,), True, 'groups'),
    'super-group-blocks': ('super', 84, (-1,), True, 'superblock'),
    'super-log-place': ('super', 52, (0x7FFFFF,), True, 'log'),
    'super-log-length': ('super', 96, (0x10000,), True, 'log'),
    'super-in-progress': ('super', 124, (0x100,), True, 'mkfs'),
    'super-uuid': ('super', 32, (1,), True, 'log'),
    'agf-sum': ('agf', 52, (1,), False, 'checksum'),
    'agf-magic': ('agf', 0, (1,), True, 'AGF'),
    'agf-number': ('agf', 8, (1,), True, 'AGF'),
    'agf-length': ('agf', 12, (-1,), True, 'AGF'),
    'agf-uuid': ('agf', 64, (1,), True, 'UUID'),
    'agf-free': ('agf', 52, (1,), True, 'free blocks'),
    'agf-longest': ('agf', 56, (1,), True, 'longest'),
    'agf-root': ('agf', 16, (1,), True, 'block'),
    'agf-root-outside': ('agf', 16, (0x10000000,), True, 'points to'),
    'agf-level': ('agf', 28, (1,), True, 'level'),
    'agf-levels': ('agf', 28, (10000,), True, 'levels'),
    'agf-list-length': ('agf', 48, (1,), True, 'free list'),
    'agf-list-first': ('agf', 40, (200,), True, 'free list'),
    'agfl-sum': ('agfl', 40, (1,), False, 'AGFL'),
    'agfl-block': ('agfl', 40, (0x1000000,), True, 'AGFL'),
    'bno-sum': ('bno', 60, (1,), False, 'checksum'),
    'bno-place': ('bno', 20, (8,), True, 'place'),
    'bno-group': ('bno', 48, (1,), True, 'owner'),
    'bno-level': ('bno', 4, (0x10000,), True, 'level'),
    'bno-count': ('bno', 4, (0x7000,), True, 'fit'),
    'bno-left': ('bno', 8, (-7,), True, 'left'),
    'bno-right': ('bno', 12, (-7,), True, 'right'),
    'bno-longer': ('bno', 60, (1,), True, 'outside'),
    'bno-shorter': ('bno', 60, (-1,), True, 'tree'),
    'bno-moved': ('bno', 56, (-1,), True, 'tree'),
    'bno-headers': ('bno', 56, 0, True, 'outside'),
    'bno-empty-extent': ('bno', 60, 0, True, 'outside'),
    'bno-no-record': ('bno', 4, 0, True, 'tree'),
    'cnt-shorter': ('cnt', 60, (-1,), True, 'tree'),
    'cnt-magic': ('cnt', 0, (1,), True, 'magic'),
}


def damage(t, name, at, value, sign, phrase):
    path = mkfs(t, [])
    structure = structures(path)[name]
    if isinstance(value, tuple):
        value = structure.get(at) + value[0]
    structure.set(at, be32(value), sign)
    linuxfs.in_use(t, path, phrase)


for name, what in DAMAGE.items():
    add('damage-' + name, damage, *what)


@case
def both_trees_lie(t):
    """An extent that is free by all that the group says, with its sums, but is where a structure is."""
    for what in ('header', 'log'):
        path = mkfs(t, ['-d', 'agcount=1'] if what == 'log' else [])
        parts = structures(path)
        if what == 'log':
            offset, _ = log_place(path)
            block = 4096
            group = 0
            agf = Structure(path, 512, 512, 216)
            parts.update(agf=agf, bno=Structure(path, agf.get(16) * block, block, 52),
                         cnt=Structure(path, agf.get(20) * block, block, 52))
            start = (offset - group) // block
        else:
            start = 0
        for tree in ('bno', 'cnt'):
            parts[tree].set(4, struct.pack('>HH', 0, 1))
            parts[tree].set(56, be32(start) + be32(2))
        parts['agf'].set(52, be32(2) + be32(2))
        linuxfs.in_use(t, path, 'not free')


@case
def shorter_than_it_says(t):
    path = mkfs(t, [])
    os.truncate(path, SIZE - 64 * KiB)
    linuxfs.in_use(t, path, 'superblock')


@case
def version_4_features(t):
    """Version 4 has no checksums: the bits alone."""
    path = mkfs(t, ['-m', 'crc=0'])
    version = struct.unpack('>H', linuxfs.peek(path, 100, 2))[0]
    for bits in (version | 0x0200, version & ~0x2000, version & ~0xF | 3, version & ~0xF | 6):
        linuxfs.patch(path, 100, struct.pack('>H', bits))
        linuxfs.in_use(t, path, 'version')
    linuxfs.patch(path, 100, struct.pack('>H', version | 0x8000))
    linuxfs.patch(path, 200, be32(0x10 | 0x8A))
    linuxfs.in_use(t, path, 'not all are understood')


@case
def other_uuid(t):
    """A volume with a UUID of its own that metadata does not carry, and a log that was made anew."""
    t.need('xfs_admin')
    path = mkfs(t, [])
    t.run('xfs_admin', '-U', 'generate', path)
    judge(t, path)
    offset, _ = log_place(path)
    linuxfs.patch(path, offset + 300 * 512, be32(1))
    linuxfs.in_use(t, path, 'log')


@case
def log_thrown_away(t):
    path = mkfs(t, [])
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder)
        t.run('xfs_io', '-x', '-c', 'shutdown -f', folder)
    linuxfs.in_use(t, path, 'log')
    t.run('xfs_repair', '-L', path)
    judge(t, path)


def flip(t, options, seed, least):
    path = mkfs(t, options)
    block = struct.unpack('>I', linuxfs.peek(path, 4, 4))[0]
    group = struct.unpack('>I', linuxfs.peek(path, 84, 4))[0] * block
    agf = Structure(path, group + 512, 512, 216)
    header = unmount_record(path)
    places = [(0, 264), (group + 512, 224), (group + 3 * 512, 64), (group + agf.get(16) * block, 80),
              (group + agf.get(20) * block, 80), (header, 1024), (header + 1024, 512)]
    refused = linuxfs.flips(t, path, places, 150, seed)
    t.check(refused > least, 'hardly any flip was noticed', refused)


add('flips-v5', flip, [], 1, 80)
add('flips-v4', flip, ['-m', 'crc=0'], 2, 10)

main()
