# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free space of btrfs: against what btrfs's own programs tell of its trees, and judge of it."""

import os
import re
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import linuxfs  # noqa: E402
from harness import GiB, KiB, MiB, Skip, add, case, main  # noqa: E402
from vhdxfile import crc32c  # noqa: E402

SIZE = 160 * MiB
COPIES = (64 * KiB, 64 * MiB, 256 * GiB)
SUPER = 64 * KiB

VARIANTS = {
    'default': [],
    'single': ['-m', 'single', '-d', 'single'],
    'dup': ['-m', 'dup', '-d', 'dup'],
    'mixed': ['--mixed'],
    'small-nodes': ['-n', '4096'],
    'large-nodes': ['-n', '65536'],
    'sha256': ['--csum', 'sha256'],
    'space-cache-1': ['-R', '^free-space-tree'],
    'holes': ['-O', '^no-holes'],
    'fat-metadata': ['-O', '^skinny-metadata'],
    'quota': ['-R', 'quota'],
}


def mkfs(t, options=(), size=SIZE, others=()):
    t.need('mkfs.btrfs', 'btrfs')
    path = t.path('btrfs.raw')
    linuxfs.blank(path, size)
    done = subprocess.run(['mkfs.btrfs', '-q', '-f', *options, path, *others], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Skip('this mkfs.btrfs does not make it: ' + done.stderr.decode(errors='replace').strip())
    return path


def tree(t, path, name):
    return t.run('btrfs', 'inspect-internal', 'dump-tree', '-t', name, path).out


def super_fields(t, path):
    out = t.run('btrfs', 'inspect-internal', 'dump-super', '-f', path).out
    return dict(re.findall(r'^([\w.]+)\s+(\S+)', out, re.M))


def free_by_dump(t, path):
    """What no chunk maps, and what no extent covers in the chunks, from the programs' own dumps."""
    told = super_fields(t, path)
    node, total = int(told['nodesize']), int(told['total_bytes'])
    chunks = []
    for logical, body in re.findall(r'key \(FIRST_CHUNK_TREE CHUNK_ITEM (\d+)\)(.*?)(?=\titem |\Z)', tree(t, path, 'chunk'),
                                    re.S):
        length = int(re.search(r'length (\d+)', body).group(1))
        places = [int(place) for place in re.findall(r'stripe \d+ devid 1 offset (\d+)', body)]
        chunks.append((int(logical), length, places))
    t.check(chunks, 'no chunks in the dump')
    used = []
    for start, kind, length in re.findall(r'key \((\d+) (EXTENT_ITEM|METADATA_ITEM) (\d+)\)', tree(t, path, 'extent')):
        used.append((int(start), int(start) + (int(length) if kind == 'EXTENT_ITEM' else node)))
    ranges = [(0, total)]
    taken = [(0, MiB)] + [(at, at + 64 * KiB) for at in COPIES]
    for logical, length, places in chunks:
        inside = [(max(start, logical), min(end, logical + length)) for start, end in used
                  if start < logical + length and end > logical]
        for place in places:
            taken += [(start - logical + place, end - logical + place) for start, end in inside]
    return linuxfs.without(ranges, taken)


def judge(t, path):
    """Ranges as the dumps have them; with rubbish in them the file system is as it was."""
    ranges = linuxfs.free(t, path)
    t.equal(ranges, free_by_dump(t, path), 'free ranges')
    filled = linuxfs.fill_free(t, path)
    t.run('btrfs', 'check', '--readonly', '--check-data-csum', filled)
    return filled


def files(t):
    """A folder for --rootdir, which needs no mount."""
    folder = t.path('root')
    os.makedirs(os.path.join(folder, 'sub'))
    for i in range(120):
        linuxfs.write(os.path.join(folder, 'sub', 'f%d' % i), 331 * i + 1, i)
    linuxfs.write(os.path.join(folder, 'large'), 9 * MiB + 5, 1000)
    return folder


def variant(t, options):
    path = mkfs(t, options + ['--rootdir', files(t)])
    os.unlink(judge(t, path))
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder)
        t.run('btrfs', 'subvolume', 'snapshot', folder, os.path.join(folder, 'snap'))
        t.run('cp', '--reflink=always', os.path.join(folder, 'large'), os.path.join(folder, 'larger'))
        os.unlink(os.path.join(folder, 'holes'))
        t.run('btrfs', 'subvolume', 'snapshot', '-r', folder, os.path.join(folder, 'snap2'))
        t.run('btrfs', 'subvolume', 'delete', os.path.join(folder, 'snap'))
        before = linuxfs.digests(folder)
    filled = judge(t, path)
    with linuxfs.mounted(t, filled, 'ro') as folder:
        t.equal(linuxfs.digests(folder), before, 'files, with rubbish in the free space')


for name, options in VARIANTS.items():
    add(name, variant, options)


@case
def compressed(t):
    path = mkfs(t)
    with linuxfs.mounted(t, path, 'compress-force=zstd') as folder:
        for i in range(200):
            with open(os.path.join(folder, 'f%d' % i), 'wb') as f:
                f.write(b'%d' % i * 40000)
        before = linuxfs.digests(folder)
    filled = judge(t, path)
    with linuxfs.mounted(t, filled, 'ro') as folder:
        t.equal(linuxfs.digests(folder), before, 'files, with rubbish in the free space')


@case
def balanced(t):
    """Chunks that were moved about, and logical addresses that do not begin where the device does."""
    path = mkfs(t)
    with linuxfs.mounted(t, path) as folder:
        linuxfs.populate(t, folder)
        t.run('btrfs', 'balance', 'start', '--full-balance', folder)
        before = linuxfs.digests(folder)
    filled = judge(t, path)
    with linuxfs.mounted(t, filled, 'ro') as folder:
        t.equal(linuxfs.digests(folder), before, 'files, with rubbish in the free space')


@case
def deep_trees(t):
    """An extent tree of more than two levels."""
    path = mkfs(t, ['-n', '4096', '-m', 'single'], 400 * MiB)
    with linuxfs.mounted(t, path) as folder:
        with open(os.path.join(folder, 'f'), 'wb') as f:
            f.write(bytes(96 * MiB))
            f.flush()
            os.fsync(f.fileno())
            for at in range(0, 96 * MiB, 8 * KiB):
                os.pwrite(f.fileno(), b'x' * 4096, at)
    level = re.search(r'^node \d+ level (\d)', tree(t, path, 'extent'), re.M)
    t.check(level is not None and int(level.group(1)) >= 2, 'the tree is not deep', level)
    os.unlink(judge(t, path))


@case
def shrunk(t):
    """What is behind the end of a file system is none of its business."""
    path = mkfs(t, [], 400 * MiB)
    with linuxfs.mounted(t, path) as folder:
        linuxfs.write(os.path.join(folder, 'f'), MiB, 1)
        t.run('btrfs', 'filesystem', 'resize', '320m', folder)
    judge(t, path)
    t.check(linuxfs.free(t, path)[-1][1] <= 320 * MiB, 'space behind the end is free')


@case
def third_copy(t):
    """A disk large enough for the superblock's copy at 256 GiB."""
    path = mkfs(t, [], 300 * GiB)
    ranges = linuxfs.free(t, path)
    t.equal(ranges, free_by_dump(t, path), 'free ranges')
    for at in COPIES:
        t.check(not any(start < at + 4096 and end > at for start, end in ranges), 'a copy is free', at)
    linuxfs.patch(path, 256 * GiB, bytes(4096))
    linuxfs.in_use(t, path, 'copy of the superblock')


@case
def other_uuid(t):
    t.need('btrfstune')
    path = mkfs(t)
    t.run('btrfstune', '-m', path)
    judge(t, path)


# --- not as it should be left -------------------------------------------------------------------------------


@case
def log_tree(t):
    path = mkfs(t)
    with linuxfs.mounted(t, path, 'commit=300') as folder:
        linuxfs.write(os.path.join(folder, 'first'), MiB, 1)
        t.run('btrfs', 'filesystem', 'sync', folder)
        for i in range(4):
            with open(os.path.join(folder, 'f%d' % i), 'wb') as f:
                f.write(bytes(range(256)) * 400)
                f.flush()
                os.fsync(f.fileno())
        taken = linuxfs.copy(t, path)
    t.check(super_fields(t, taken)['log_root'] != '0', 'there is no log tree')
    linuxfs.in_use(t, taken, 'log tree')
    judge(t, path)


@case
def taken_while_mounted(t):
    """The state of the last commit, which nothing has been written over."""
    path = mkfs(t)
    with linuxfs.mounted(t, path, 'commit=300') as folder:
        linuxfs.populate(t, folder)
        t.run('btrfs', 'filesystem', 'sync', folder)
        taken = linuxfs.copy(t, path, 'taken.raw')
    judge(t, taken)


@case
def two_devices(t):
    other = t.path('other.raw')
    linuxfs.blank(other, SIZE)
    path = mkfs(t, ['-m', 'raid1'], others=[other])
    for device in (path, other):
        linuxfs.in_use(t, device, 'devices')


@case
def seed(t):
    t.need('btrfstune')
    path = mkfs(t)
    t.run('btrfstune', '-S', '1', path)
    linuxfs.in_use(t, path, 'seed')


@case
def other_checksums(t):
    for kind in ('xxhash', 'blake2'):
        linuxfs.in_use(t, mkfs(t, ['--csum', kind]), 'checksums of type')


@case
def zoned(t):
    path = mkfs(t)
    Block(t, path, SUPER, 4096).set(0xBC, struct.pack('<Q', 0x361 | 1 << 12))
    linuxfs.in_use(t, path, 'not understood')


# --- damaged ------------------------------------------------------------------------------------------------


class Block:
    """A superblock or tree block, to be changed behind its back."""

    def __init__(self, t, path, offset, size):
        self.t, self.path, self.offset, self.size = t, path, offset, size

    def get(self, at, size):
        return int.from_bytes(linuxfs.peek(self.path, self.offset + at, size), 'little')

    def set(self, at, data, sign=True):
        old = bytearray(linuxfs.peek(self.path, self.offset, self.size))
        old[at:at + len(data)] = data
        if sign:
            old[:4] = struct.pack('<I', crc32c(bytes(old[32:])))
        linuxfs.patch(self.path, self.offset, bytes(old))


def physical(t, path, logical):
    for start, body in re.findall(r'CHUNK_ITEM (\d+)\)(.*?)(?=\titem |\Z)', tree(t, path, 'chunk'), re.S):
        length = int(re.search(r'length (\d+)', body).group(1))
        if int(start) <= logical < int(start) + length:
            return int(re.search(r'stripe 0 devid 1 offset (\d+)', body).group(1)) + logical - int(start)
    raise AssertionError(logical)


def roots(t, path):
    """The blocks of the superblock and of the trees' roots, which are leaves in an empty file system."""
    told = super_fields(t, path)
    found = {'super': Block(t, path, SUPER, 4096)}
    where = dict(re.findall(r'\((\w+_TREE) ROOT_ITEM 0\).*?bytenr (\d+)', tree(t, path, 'root'), re.S))
    for name, logical in (('root', told['root']), ('chunk', told['chunk_root']), ('extent', where['EXTENT_TREE']),
                          ('dev', where['DEV_TREE'])):
        found[name] = Block(t, path, physical(t, path, int(logical)), int(told['nodesize']))
    return found


SUPER_DAMAGE = {
    # name: offset, size, new value (or what to add, as a tuple), what the reason says
    'place': (0x30, 8, 4096, 'place'),
    'flags': (0x38, 8, 1 | 1 << 32, 'seed'),
    'error': (0x38, 8, 5, 'errors'),
    'changing-uuid': (0x38, 8, 1 | 1 << 35, 'changed'),
    'generation': (0x48, 8, (1,), 'copy of the superblock'),
    'root': (0x50, 8, (4096,), 'tree 1'),
    'root-outside': (0x50, 8, 1 << 60, 'tree 1'),
    'chunk-root': (0x58, 8, (16384,), 'tree 3'),
    'log-root': (0x60, 8, 22036480, 'log tree'),
    'total': (0x70, 8, (4096,), 'superblock'),
    'used': (0x78, 8, (4096,), 'superblock'),
    'devices': (0x88, 8, 2, 'devices'),
    'sectors': (0x90, 4, 4097, 'sectors'),
    'nodes': (0x94, 4, 1 << 20, 'tree blocks'),
    'chunk-bytes': (0xA0, 4, 4000, 'chunks'),
    'chunk-bytes-less': (0xA0, 4, (-1,), 'chunks'),
    'chunk-generation': (0xA4, 8, (1,), 'generation'),
    'read-only-compatible': (0xB4, 8, (1 << 9,), 'not understood'),
    'incompatible': (0xBC, 8, (1 << 40,), 'not understood'),
    'extent-tree-2': (0xBC, 8, (1 << 13,), 'not understood'),
    'stripe-tree': (0xBC, 8, (1 << 14,), 'not understood'),
    'level': (0xC6, 1, 9, 'level'),
    'level-1': (0xC6, 1, 1, 'level'),
    'device': (0xC9, 8, 2, 'device'),
    'device-bytes': (0xD1, 8, (4096,), 'superblock'),
    'device-uuid': (0x10B, 8, 1, 'device'),
    'system-chunk-place': (0x32B + 17 + 48 + 8, 8, (4096,), 'tree 3'),
    'system-chunk-other-place': (0x32B + 17 + 48 + 32 + 8, 8, (4096,), 'differ'),
    'system-chunk-type': (0x32B + 17 + 24, 8, 2 | 16, 'type'),
}


def damage_super(t, at, size, value, phrase):
    path = mkfs(t)
    block = Block(t, path, SUPER, 4096)
    if isinstance(value, tuple):
        value = block.get(at, size) + value[0]
    block.set(at, value.to_bytes(size, 'little'))
    linuxfs.in_use(t, path, phrase)


for name, what in SUPER_DAMAGE.items():
    add('super-' + name, damage_super, *what)

ITEM = 101
TREE_DAMAGE = {
    # name: tree, offset, size, new value (or what to add), what the reason says; items are of 25 bytes
    'logical': ('extent', 48, 8, (16384,), 'says it is at'),
    'flags': ('extent', 56, 8, 0, 'says it is at'),
    'uuid': ('extent', 32, 8, 1, 'says it is at'),
    'owner': ('extent', 88, 8, 4, 'of tree'),
    'generation': ('extent', 80, 8, (1,), 'generation'),
    'level': ('extent', 100, 1, 1, 'level'),
    'count': ('extent', 96, 4, 60000, 'entries'),
    'count-less': ('extent', 96, 4, (-1,), 'block group'),
    'count-none': ('extent', 96, 4, 0, 'block group'),
    'order': ('extent', ITEM + 25 * 4, 8, 1, 'not in order'),
    'item-bytes': ('extent', ITEM + 25 * 4 + 21, 4, (1,), 'item'),
    'item-offset': ('extent', ITEM + 25 * 4 + 17, 4, 1 << 30, 'item'),
    'type': ('extent', ITEM + 25 * 4 + 8, 1, 171, 'not understood'),
    'extent-length': ('extent', ITEM + 25 * 5 + 8, 9, 168 | 4096 << 8, 'block group'),
    'extent-too-long': ('extent', ITEM + 25 * 5 + 8, 9, 168 | 1 << 40, 'extent'),
    'extent-unaligned': ('extent', ITEM + 25 * 5, 8, (1,), 'extent'),
    'block-group-length': ('extent', ITEM + 9, 8, (4096,), 'no chunk'),
    'dev-extent-place': ('dev', ITEM + 25 * 2 + 9, 8, (4096,), 'device tree'),
    'dev-extent-device': ('dev', ITEM + 25 * 4, 8, 2, 'device tree'),
    'dev-extent-lost': ('dev', 96, 4, (-1,), 'device tree'),
}


def damage_tree(t, name, at, size, value, phrase):
    path = mkfs(t)
    block = roots(t, path)[name]
    if isinstance(value, tuple):
        value = block.get(at, size) + value[0]
    block.set(at, value.to_bytes(size, 'little'))
    linuxfs.in_use(t, path, phrase)


for name, what in TREE_DAMAGE.items():
    add('tree-' + name, damage_tree, *what)


def item_data(block, index):
    return ITEM + block.get(ITEM + 25 * index + 17, 4)


@case
def chunk_damage(t):
    """Chunks out of the device, on another device, over each other, of kinds that one device does not have."""
    for at, size, value, phrase in ((0, 8, 1 << 50, 'chunk'), (0, 8, (65536,), 'chunk'), (0, 8, (1,), 'chunk'), (0, 8, 0, 'chunk'),
                                    (24, 8, 1 | 16, 'type'), (24, 8, 1 | 32, 'type'), (24, 8, (1 << 40,), 'type'),
                                    (44, 2, 2, 'stripes'), (48, 8, 2, 'device'), (56, 8, 1 << 40, 'device'),
                                    (56, 8, (8 * MiB,), 'another chunk'), (56, 8, (-65536,), 'device tree'),
                                    (64, 8, 1, 'device')):
        path = mkfs(t)
        block = roots(t, path)['chunk']
        data = item_data(block, 1)
        if isinstance(value, tuple):
            value = block.get(data + at, size) + value[0]
        block.set(data + at, value.to_bytes(size, 'little'))
        linuxfs.in_use(t, path, phrase)


@case
def extent_lost(t):
    """An extent item gone, with the sums made to fit: the tree block in use there is not free all the same."""
    path = mkfs(t)
    block = roots(t, path)['extent']
    place = block.offset
    before = linuxfs.free(t, path)
    index = next(i for i in range(block.get(96, 4))
                 if block.get(ITEM + 25 * i + 8, 1) == 169
                 and physical(t, path, block.get(ITEM + 25 * i, 8)) == place)
    count = block.get(96, 4)
    t.check(index < count - 1, 'not the last item')
    # Its key becomes that of the neighbour before, an inline reference: only the count of used bytes tells.
    logical = block.get(ITEM + 25 * index, 8)
    group = next(i for i in range(count) if block.get(ITEM + 25 * i + 8, 1) == 192
                 and 0 <= logical - block.get(ITEM + 25 * i, 8) < block.get(ITEM + 25 * i + 9, 8))
    used = item_data(block, group)
    block.set(ITEM + 25 * index, linuxfs.peek(path, place + ITEM + 25 * (index - 1), 8) + bytes([176]))
    linuxfs.in_use(t, path, 'block group')
    block.set(used, (block.get(used, 8) - 16384).to_bytes(8, 'little'))
    linuxfs.in_use(t, path, 'superblock')
    head = Block(t, path, SUPER, 4096)
    total = head.get(0x78, 8) - 16384
    for at in (64 * KiB, 64 * MiB):
        Block(t, path, at, 4096).set(0x78, total.to_bytes(8, 'little'))
    ranges = linuxfs.free(t, path)
    t.equal(ranges, before, 'free ranges')


class Leaf:
    """A tree block of level 0, taken to pieces."""

    def __init__(self, block):
        self.block = block
        data = linuxfs.peek(block.path, block.offset, block.size)
        self.header, self.items = bytearray(data[:ITEM]), []
        for i in range(block.get(96, 4)):
            key, offset, size = struct.unpack('<17sII', data[ITEM + 25 * i:ITEM + 25 * i + 25])
            self.items.append((key, data[ITEM + offset:ITEM + offset + size]))

    def write(self):
        data = bytearray(self.block.size)
        self.header[96:100] = struct.pack('<I', len(self.items))
        data[:ITEM] = self.header
        end = self.block.size - ITEM
        for i, (key, value) in enumerate(self.items):
            end -= len(value)
            data[ITEM + 25 * i:ITEM + 25 * i + 25] = struct.pack('<17sII', key, end, len(value))
            data[ITEM + end:ITEM + end + len(value)] = value
        linuxfs.patch(self.block.path, self.block.offset, bytes(data))
        self.block.set(0, b'')


@case
def block_group_tree(t):
    """Block groups in a tree of their own, which takes the place of the free space tree."""
    path = mkfs(t)
    before = linuxfs.free(t, path)
    parts = roots(t, path)
    root, extent = Leaf(parts['root']), Leaf(parts['extent'])
    index = next(i for i, (key, _) in enumerate(root.items) if key[:9] == struct.pack('<QB', 10, 132))
    logical, = struct.unpack('<Q', root.items[index][1][176:184])
    root.items[index] = (struct.pack('<QBQ', 11, 132, 0), root.items[index][1])
    root.write()
    groups = Leaf(Block(t, path, physical(t, path, logical), extent.block.size))
    groups.header[88:96] = struct.pack('<Q', 11)
    groups.items = [item for item in extent.items if item[0][8] == 192]
    groups.write()
    for at in (64 * KiB, 64 * MiB):
        Block(t, path, at, 4096).set(0xB4, struct.pack('<Q', 8))
    linuxfs.in_use(t, path, 'extent tree')
    extent.items = [item for item in extent.items if item[0][8] != 192]
    extent.write()
    t.equal(linuxfs.free(t, path), before, 'free ranges')
    key, value = groups.items[1]
    groups.items[1] = (key, struct.pack('<Q', 32768) + value[8:])
    groups.write()
    linuxfs.in_use(t, path, 'bytes used')


@case
def shorter_than_it_says(t):
    path = mkfs(t)
    os.truncate(path, SIZE - 64 * KiB)
    linuxfs.in_use(t, path, 'superblock')


@case
def copy_of_another_commit(t):
    path = mkfs(t)
    Block(t, path, 64 * MiB, 4096).set(0x48, (3).to_bytes(8, 'little'))
    linuxfs.in_use(t, path, 'generation')


@case
def block_not_signed(t):
    for name in ('root', 'chunk', 'extent', 'dev'):
        path = mkfs(t)
        block = roots(t, path)[name]
        block.set(200, b'\x55\x66', sign=False)
        linuxfs.in_use(t, path, 'checksum')


@case
def flips(t):
    path = mkfs(t, ['-m', 'single', '--rootdir', files(t)])
    told = super_fields(t, path)
    places = [(SUPER, 4096), (64 * MiB, 4096)]
    for name in ('chunk', 'root', 'dev', 'extent'):
        logical = int(re.search(r'^(?:leaf|node) (\d+)', tree(t, path, name), re.M).group(1))
        places.append((physical(t, path, logical), int(told['nodesize'])))
    refused = linuxfs.flips(t, path, places, 150, 3)
    t.check(refused > 140, 'a flip was not noticed', refused)


main()
