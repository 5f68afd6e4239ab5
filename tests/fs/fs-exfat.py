# SPDX-License-Identifier: LGPL-2.1-or-later
"""exFAT, against exfatprogs: files are put in and read back here, dump.exfat counts what is free, and fsck.exfat and the
files find nothing missing when that has been overwritten."""

import os
import random
import re
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, fill_free, in_use, is_subset, main, make_file, patch, read_file,  # noqa: E402
                       report, usable)

SEED = int(os.environ.get('VHDKIT_SEED', '1'))
FLIPS = int(os.environ.get('VHDKIT_FLIPS', '100'))
END = 0xffffffff

KINDS = {
    'usual': ('', 60 * MiB),
    '512': ('-c 512', 20 * MiB),
    '128k': ('-c 128K', 100 * MiB),
    '2m': ('-c 2M', 400 * MiB),
    'large-bitmap': ('-c 512', 600 * MiB),
    'packed': ('-c 4K --pack-bitmap', 60 * MiB),
}


class Exfat:
    def __init__(self, path):
        self.path = path
        boot = self.read(0, 512)
        fat, _, heap, self.clusters, self.root = struct.unpack_from('<IIIII', boot, 80)
        self.sector = 1 << boot[108]
        self.cluster = self.sector << boot[109]
        self.fat, self.heap = fat * self.sector, heap * self.sector
        self.bitmap_chain = self.chain(self.entry(0x81)[1])
        self.upcase = self.entry(0x82)[1]

    def read(self, offset, length):
        with open(self.path, 'rb') as f:
            f.seek(offset)
            return f.read(length)

    def next(self, cluster):
        return struct.unpack('<I', self.read(self.fat + 4 * cluster, 4))[0]

    def link(self, cluster, value):
        patch(self.path, self.fat + 4 * cluster, struct.pack('<I', value))

    def chain(self, cluster):
        found = []
        while cluster != END:
            found.append(cluster)
            cluster = self.next(cluster)
        return found

    def offset(self, cluster):
        return self.heap + (cluster - 2) * self.cluster

    def content(self, clusters):
        return b''.join(self.read(self.offset(c), self.cluster) for c in clusters)

    def entry(self, kind):
        """(offset, first cluster, bytes) of a root directory entry."""
        root = self.chain(self.root)
        data = self.content(root)
        for at in range(0, len(data), 32):
            if data[at] == kind:
                return self.offset(root[at // self.cluster]) + at % self.cluster, *struct.unpack_from('<IQ', data, at + 20)
        raise ValueError('no entry %#x' % kind)

    def bitmap(self):
        return bytearray(self.content(self.bitmap_chain)[:-(-self.clusters // 8)])

    def bit_offset(self, cluster):
        byte = (cluster - 2) // 8
        return self.offset(self.bitmap_chain[byte // self.cluster]) + byte % self.cluster

    def put_bitmap(self, bitmap):
        for i, cluster in enumerate(self.bitmap_chain):
            patch(self.path, self.offset(cluster), bytes(bitmap[i * self.cluster:(i + 1) * self.cluster]))

    def mark(self, cluster, used):
        at, bit = self.bit_offset(cluster), 1 << (cluster - 2) % 8
        byte = self.read(at, 1)[0]
        patch(self.path, at, bytes([byte | bit if used else byte & ~bit]))

    def is_free(self, cluster):
        return not self.read(self.bit_offset(cluster), 1)[0] >> (cluster - 2) % 8 & 1

    def free(self):
        bitmap, ranges = self.bitmap(), []
        for i in range(self.clusters):
            if bitmap[i // 8] >> i % 8 & 1:
                continue
            offset = self.heap + i * self.cluster
            if ranges and sum(ranges[-1]) == offset:
                ranges[-1][1] += self.cluster
            else:
                ranges.append([offset, self.cluster])
        return ranges

    def put_files(self, files, generator):
        """Name -> content, into the root directory: half of them in one piece and without a chain, half scattered."""
        bitmap = self.bitmap()
        first = 2 + max(i for i in range(self.clusters) if bitmap[i // 8] >> i % 8 & 1) + 1
        entries = b''
        for i, (name, data) in enumerate(files.items()):
            count, chained, clusters = -(-len(data) // self.cluster), i % 2 == 0, []
            for _ in range(count):
                if chained:
                    first += generator.randrange(3)
                clusters.append(first)
                first += 1
            first += generator.randrange(3)
            for at, cluster in enumerate(clusters):
                bitmap[(cluster - 2) // 8] |= 1 << (cluster - 2) % 8
                patch(self.path, self.offset(cluster), data[at * self.cluster:(at + 1) * self.cluster])
                if chained:
                    self.link(cluster, clusters[at + 1] if at + 1 < count else END)
            entries += entry_set(name, len(data), clusters[0] if count else 0, (1 if chained else 3) if count else 1)
        assert first < self.clusters + 2
        root = self.chain(self.root)
        end = next(at for at in range(0, self.cluster, 32) if self.read(self.offset(root[0]) + at, 1) == b'\0')
        # What does not fit goes into further clusters.
        entries = self.read(self.offset(root[0]), end) + entries
        while len(root) * self.cluster < len(entries):
            first += 2
            bitmap[(first - 2) // 8] |= 1 << (first - 2) % 8
            self.link(root[-1], first)
            self.link(first, END)
            patch(self.path, self.offset(first), bytes(self.cluster))
            root.append(first)
        for i, cluster in enumerate(root):
            patch(self.path, self.offset(cluster), entries[i * self.cluster:(i + 1) * self.cluster])
        self.put_bitmap(bitmap)

    def files(self):
        data, found = self.content(self.chain(self.root)), {}
        for at in range(0, len(data), 32):
            if data[at] == 0:
                break
            if data[at] != 0x85:
                continue
            flags, length = struct.unpack_from('<xBxB', data, at + 32)
            cluster, size = struct.unpack_from('<IQ', data, at + 32 + 20)
            name = data[at + 66:at + 96].decode('utf-16-le')[:length]
            count = -(-size // self.cluster)
            clusters = [] if count == 0 else range(cluster, cluster + count) if flags & 2 else self.chain(cluster)
            found[name] = self.content(clusters)[:size]
        return found


def entry_set(name, size, cluster, flags):
    """A file's directory entries; names of up to 15 ASCII characters."""
    value = 0
    for byte in name.upper().encode('utf-16-le'):
        value = ((value >> 1 | value << 15) & 0xffff) + byte & 0xffff
    stamp = (46 << 9 | 1 << 5 | 1) << 16
    primary = bytearray(struct.pack('<BBHH2xIII7B', 0x85, 2, 0, 0x20, stamp, stamp, stamp, *bytes(7)).ljust(32, b'\0'))
    stream = struct.pack('<BBxBH2xQ4xIQ', 0xc0, flags, len(name), value, size, cluster, size)
    text = b'\xc1\0' + name.encode('utf-16-le').ljust(30, b'\0')
    checksum = 0
    for i, byte in enumerate(bytes(primary) + stream + text):
        if i not in (2, 3):
            checksum = ((checksum >> 1 | checksum << 15) & 0xffff) + byte & 0xffff
    primary[2:4] = struct.pack('<H', checksum)
    return bytes(primary) + stream + text


def boot_checksum(region, sector):
    value = 0
    for i, byte in enumerate(region[:11 * sector]):
        if i not in (106, 107, 112):
            value = ((value >> 1 | value << 31) & 0xffffffff) + byte & 0xffffffff
    return struct.pack('<I', value) * (sector // 4)


def make(t, options='', size=60 * MiB, filled=True):
    t.need('mkfs.exfat', 'fsck.exfat', 'dump.exfat')
    path = make_file(t.path('exfat.img'), size)
    t.run('mkfs.exfat', '-L', 'a label', *options.split(), path)
    exfat = Exfat(path)
    files = {}
    if filled:
        generator = random.Random(SEED)
        for i in range(60):
            length = generator.choice((0, 1, 100, 1024, 5000, 70000, 300000))
            files['file-%d' % i] = generator.randbytes(min(length, size // 200))
        exfat.put_files(files, generator)
    t.run('fsck.exfat', '-n', path)
    return path, exfat, files


def kind(t, options, size):
    path, exfat, files = make(t, options, size)
    expected = exfat.free()
    found = report(t, path, '-g', '512')
    entry = found['volumes'][0]
    t.equal(entry['in-use'], None, 'in use')
    t.equal((entry['type'], entry['label']), ('exfat', 'a label'), 'name')
    t.equal(found['free'], expected, 'free')
    count = int(re.search(r'Free Clusters:\s+(\d+)', t.run('dump.exfat', path).out).group(1))
    t.equal(entry['free-bytes'], count * exfat.cluster, 'free bytes by dump.exfat')
    t.check(len(expected) > 5, 'not in pieces', expected)
    fill_free(t, path, '-g', '512')
    t.run('fsck.exfat', '-n', path)
    t.check(exfat.files() == files, 'files have changed')


for name, parameters in KINDS.items():
    add('kind-' + name, kind, *parameters)


@case
def smaller_than_its_partition(t):
    path, exfat, _ = make(t)
    os.truncate(path, 90 * MiB)
    t.equal(report(t, path, '-g', '512')['free'], exfat.free(), 'free')


@case
def bits_behind_the_end(t):
    path, exfat, _ = make(t, '-c 512', 20 * MiB + 3 * 512)
    bitmap = exfat.bitmap()
    t.check(exfat.clusters % 8, 'no bits are left over', exfat.clusters)
    bitmap[-1] |= 0x100 - (1 << exfat.clusters % 8)
    exfat.put_bitmap(bitmap)
    t.equal(report(t, path, '-g', '512')['free'], exfat.free(), 'free')


def flags(t, value, reason):
    path, _, _ = make(t, filled=False)
    patch(path, 106, struct.pack('<H', value))
    in_use(t, path, reason) if reason else usable(t, path)


add('dirty', flags, 2, 'not cleanly unmounted')
add('media-failure', flags, 4, 'I/O errors')
add('second-fat', flags, 1, 'volume flags 0x1 are not known')
add('clear-to-zero', flags, 8, None)
add('unknown-flag', flags, 0x10, 'volume flags 0x10 are not known')


def boot(t, offset, data, reason, seal=True, regions=(0, 12)):
    """Bytes of the boot sector, with a checksum that is right if @seal."""
    path, exfat, _ = make(t, filled=False)
    for region in regions:
        patch(path, region * exfat.sector + offset, data)
        if seal:
            region *= exfat.sector
            patch(path, region + 11 * exfat.sector, boot_checksum(exfat.read(region, 11 * exfat.sector), exfat.sector))
    in_use(t, path, reason)


add('boot-checksum', boot, 300, b'x', 'main boot region: checksum', False, (0,))
add('boot-checksum-of-the-copy', boot, 300, b'x', 'backup boot region: checksum', False, (12,))
add('boot-copy-differs', boot, 300, b'x', 'boot region differ', True, (12,))
add('boot-texfat', boot, 110, b'\2', 'TexFAT')
add('boot-revision', boot, 105, b'\2', 'revision 2.0')
add('boot-not-zero', boot, 20, b'\1', 'are not zero')
add('boot-cluster-size', boot, 109, b'\x19', 'in clusters of 2^25')
add('boot-sector-size', boot, 108, b'\x0d', 'sectors of 2^13')
add('boot-clusters', boot, 92, b'\xf0\xff\xff\xff', 'there is room for')
add('boot-volume-length', boot, 72, b'\xff' * 8, 'the volume has')
add('boot-fat-length', boot, 84, b'\1\0\0\0', 'has no room for')
add('boot-fat-in-heap', boot, 84, b'\0\0\1\0', 'overlap')
add('boot-root', boot, 96, b'\0\0\0\0', 'root directory: its chain leads to 0')


@case
def root_in_a_loop(t):
    path, exfat, _ = make(t, filled=False)
    exfat.link(exfat.root, exfat.root)
    in_use(t, path, 'root directory: its chain is too long')


@case
def fat_entries(t):
    path, exfat, _ = make(t, filled=False)
    for entry, value, reason in ((0, 0xfffffff0, 'FAT: entries 0 and 1'), (1, 0, 'FAT: entries 0 and 1'),
                                 (exfat.bitmap_chain[-1], 0, 'allocation bitmap: its chain goes on'),
                                 (exfat.bitmap_chain[0], exfat.clusters + 2, 'allocation bitmap: its chain'),
                                 (exfat.upcase, 1, 'up-case table: its chain leads to 0x1')):
        good = exfat.next(entry)
        exfat.link(entry, value)
        in_use(t, path, reason)
        exfat.link(entry, good)
    usable(t, path)


@case
def metadata_that_is_free(t):
    path, exfat, _ = make(t, '-c 512', 20 * MiB)
    for cluster in (exfat.chain(exfat.root)[-1], exfat.root, exfat.bitmap_chain[0], exfat.bitmap_chain[-1],
                    exfat.chain(exfat.upcase)[-1]):
        exfat.mark(cluster, False)
        in_use(t, path, 'metadata at offset %d is free' % exfat.offset(cluster))
        exfat.mark(cluster, True)
    usable(t, path)


def root_entry(t, kind, offset, data, reason):
    path, exfat, _ = make(t, filled=False)
    patch(path, exfat.entry(kind)[0] + offset, data)
    in_use(t, path, reason)


add('bitmap-absent', root_entry, 0x81, 0, b'\x01', 'no allocation bitmap')
add('bitmap-short', root_entry, 0x81, 24, b'\1', 'allocation bitmap: ')
add('bitmap-of-the-second-fat', root_entry, 0x81, 1, b'\1', 'allocation bitmap: flags')
add('bitmap-twice', root_entry, 0x82, 0, b'\x81', 'a second allocation bitmap')
add('bitmap-nowhere', root_entry, 0x81, 20, b'\0\0\0\0', 'leads to 0, which is no cluster')
add('upcase-absent', root_entry, 0x82, 0, b'\x02', 'no up-case table')
add('upcase-long', root_entry, 0x82, 24, b'\0\0\0\1', 'up-case table: ')


@case
def longer_than_the_volume(t):
    path, _, _ = make(t, filled=False)
    os.truncate(path, 60 * MiB - 512)
    in_use(t, path, 'the volume has')


@case
def flips(t):
    """No damage to what leads to the bitmap makes more of the volume free."""
    path, exfat, _ = make(t, '-c 512', 20 * MiB)
    pristine = report(t, path, '-g', '512')['free']
    data, generator, changed = read_file(path), random.Random(SEED), 0
    places = [(0, 512), (0, 12 * 512), (12 * 512, 12 * 512), (exfat.offset(exfat.root), 96), (exfat.fat, 4 * 40)]
    for i in range(FLIPS):
        start, length = generator.choice(places)
        at = start + generator.randrange(length)
        byte = generator.choice((data[at] ^ 1 << generator.randrange(8), generator.randrange(256), 0, 255))
        patch(path, at, bytes([byte]))
        found = report(t, path, '-g', '512')
        t.check(is_subset(found['free'], pristine), 'seed %d, flip %d: byte %d: 0x%02x frees more' % (SEED, i, at, byte),
                found['volumes'])
        changed += found['free'] != pristine
        patch(path, at, data[at:at + 1])
    t.check(changed > FLIPS // 20, 'nothing was noticed', changed)


@case
def random_boot_sectors(t):
    """With checksums that are right, fields take any values: no crash, no time without bound."""
    path, exfat, _ = make(t, '-c 512', 20 * MiB)
    good, generator = exfat.read(0, 24 * 512), random.Random(SEED)
    for _ in range(FLIPS // 4):
        bad = bytearray(good[:12 * 512])
        for _ in range(generator.randrange(3) + 1):
            at = generator.choice((72, 80, 84, 88, 92, 96, 104, 108))
            value = generator.choice((0, 1, 2, 9, 0x7fffffff, 0xffffffff, generator.getrandbits(32), generator.getrandbits(16)))
            bad[at:at + 4] = value.to_bytes(4, 'little')
        bad[11 * 512:] = boot_checksum(bad, 512)
        patch(path, 0, bytes(bad) * 2)
        report(t, path)
    patch(path, 0, good)
    usable(t, path)


main()
