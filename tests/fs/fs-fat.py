# SPDX-License-Identifier: LGPL-2.1-or-later
"""FAT12, FAT16 and FAT32, against dosfstools and mtools: the FAT, read here once more, says what is free, and fsck.fat and the
files find nothing missing when that has been overwritten."""

import os
import random
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, fill_free, in_use, is_subset, main, make_file, patch, read_file,  # noqa: E402
                       report, tree, usable)
from harness import corpus  # noqa: E402

SEED = int(os.environ.get('VHDKIT_SEED', '1'))
FLIPS = int(os.environ.get('VHDKIT_FLIPS', '100'))

# name: options of mkfs.fat, size, width of an entry
KINDS = {
    'fat12-floppy': ('', 1440 * KiB, 12),
    'fat12': ('-F 12 -s 16', 8 * MiB, 12),
    'fat12-most': ('-F 12 -s 1 -f 1 -r 512', (1 + 12 + 32 + 4085) * 512, 12),
    'fat16': ('-F 16', 40 * MiB, 16),
    'fat16-few': ('-F 16 -s 1 -a -R 1 -r 512', (1 + 32 + 2 * 16 + 4087) * 512, 16),
    'fat16-one-copy': ('-F 16 -f 1', 40 * MiB, 16),
    'fat16-sectors-4k': ('-F 16 -S 4096', 64 * MiB, 16),
    'fat32': ('-F 32 -s 1', 60 * MiB, 32),
    'fat32-8k': ('-F 32 -s 16', 600 * MiB, 32),
    'fat32-one-copy': ('-F 32 -s 1 -f 1', 60 * MiB, 32),
    'fat32-sectors-2k': ('-F 32 -S 2048 -s 1', 150 * MiB, 32),
}


class Fat:
    """Where things are, by the specification's own formulas."""

    def __init__(self, path, bits):
        boot = read_file(path)[:512]
        self.path, self.bits = path, bits
        self.sector, self.per_cluster, self.reserved, self.fats, self.root, total, self.media, size = \
            struct.unpack_from('<HBHBHHBH', boot, 11)
        total = total or struct.unpack_from('<I', boot, 32)[0]
        self.fat_size = (size or struct.unpack_from('<I', boot, 36)[0]) * self.sector
        self.fat = self.reserved * self.sector
        self.data = self.fat + self.fats * self.fat_size + -(-self.root * 32 // self.sector) * self.sector
        self.cluster = self.sector * self.per_cluster
        self.clusters = (total * self.sector - self.data) // self.cluster

    def table(self, copy=0):
        with open(self.path, 'rb') as f:
            f.seek(self.fat + copy * self.fat_size)
            return f.read(self.fat_size)

    def entries(self):
        table, count = self.table(), self.clusters + 2
        if self.bits == 32:
            return [e & 0xfffffff for e in struct.unpack_from('<%dI' % count, table)]
        if self.bits == 16:
            return list(struct.unpack_from('<%dH' % count, table))
        return [struct.unpack_from('<H', table, i * 3 // 2)[0] >> (i % 2 * 4) & 0xfff for i in range(count)]

    def set_entry(self, index, value, copies=(0, 1)):
        for copy in copies[:self.fats]:
            table = bytearray(self.table(copy))
            if self.bits == 12:
                old = struct.unpack_from('<H', table, index * 3 // 2)[0]
                keep, shift = (0x000f, 4) if index % 2 else (0xf000, 0)
                struct.pack_into('<H', table, index * 3 // 2, old & keep | value << shift)
            else:
                struct.pack_into('<I' if self.bits == 32 else '<H', table, index * self.bits // 8, value)
            patch(self.path, self.fat + copy * self.fat_size, bytes(table))

    def free(self):
        ranges = []
        for i, value in enumerate(self.entries()[2:]):
            if value:
                continue
            offset = self.data + i * self.cluster
            if ranges and sum(ranges[-1]) == offset:
                ranges[-1][1] += self.cluster
            else:
                ranges.append([offset, self.cluster])
        return ranges


def make(t, name, filled=True):
    t.need('mkfs.fat', 'fsck.fat', 'mcopy', 'mdel')
    options, size, bits = KINDS[name]
    path = make_file(t.path('fat.img'), size)
    t.run('mkfs.fat', '-n', 'A LABEL', '-i', '1234abcd', *options.split(), path)
    if filled:
        fill(t, path, size)
    t.run('fsck.fat', '-n', path)
    return path, Fat(path, bits)


def fill(t, path, size):
    generator = random.Random(SEED)
    folder, left = t.path('tree'), size // 3
    os.makedirs(os.path.join(folder, 'sub', 'deep'))
    for i in range(60):
        length = min(generator.choice((0, 1, 100, 1024, 5000, 70000, 300000)), left)
        left -= length
        with open(os.path.join(folder, ('', 'sub', 'sub/deep')[i % 3], 'file-%d' % i), 'wb') as f:
            f.write(generator.randbytes(length))
    t.run('mcopy', '-s', '-i', path, *[os.path.join(folder, n) for n in os.listdir(folder)], '::')
    for i in range(0, 60, 4):
        t.run('mdel', '-i', path, '::%s/file-%d' % (('', 'sub', 'sub/deep')[i % 3], i))
    shutil.rmtree(folder)


def files(t, path):
    folder = t.path('dump')
    os.mkdir(folder)
    t.run('mcopy', '-s', '-n', '-i', path, '::*', folder, rc=(0, 1))  # 1: there are none
    found = tree(folder)
    shutil.rmtree(folder)
    return found


def kind(t, name):
    path, fat = make(t, name)
    expected = fat.free()
    found = report(t, path, '-g', '512')
    entry = found['volumes'][0]
    t.equal(entry['in-use'], None, 'in use')
    t.equal((entry['type'], entry['label'], entry['uuid']), ('fat%d' % fat.bits, 'A LABEL', '1234-ABCD'), 'name')
    t.equal(found['free'], expected, 'free')
    t.check(len(expected) > 2 or fat.cluster > 4096, 'too little is free for a test', expected)
    used, clusters = map(int, t.run('fsck.fat', '-n', path).out.split()[-2].split('/'))
    t.equal((clusters, clusters - used), (fat.clusters, sum(n for _, n in expected) // fat.cluster), 'clusters by fsck.fat')
    before = files(t, path)
    t.check(len(before) > 30, 'files', len(before))
    fill_free(t, path, '-g', '512')
    t.run('fsck.fat', '-n', path)
    t.check(files(t, path) == before, 'files have changed')


for name in KINDS:
    add(name, kind, name)


@case
def clusters_decide_the_width(t):
    """The widest FAT12 with a cluster more is a FAT16 that says it is a FAT12."""
    path, fat = make(t, 'fat12-most', filled=False)
    for clusters in (4084, 4085):
        sectors = fat.data // fat.sector + clusters
        os.truncate(path, sectors * fat.sector)
        patch(path, 19, struct.pack('<H', sectors))
        t.equal(Fat(path, 12).clusters, clusters, 'clusters')
        usable(t, path) if clusters == 4084 else in_use(t, path, '4085 clusters are FAT16')


@case
def small_fat32(t):
    t.need('mkfs.fat')
    path = make_file(t.path('small.img'), 40 * MiB)
    t.run('mkfs.fat', '-F', '32', '-s', '2', path)
    in_use(t, path, 'laid out as FAT32')


@case
def smaller_than_its_partition(t):
    path, fat = make(t, 'fat16')
    os.truncate(path, 90 * MiB)
    t.equal(report(t, path, '-g', '512')['free'], fat.free(), 'free')


# What makes it count as in use --------------------------------------------------------------------------


def dirty(t, name, offset):
    path, fat = make(t, name, filled=False)
    for state, reason in ((1, 'not cleanly unmounted'), (2, 'not cleanly unmounted'), (0, None)):
        patch(path, offset, bytes([state]))
        in_use(t, path, reason) if reason else usable(t, path)
    if fat.bits == 12:
        return
    clean = fat.entries()[1] | (0xf0000000 if fat.bits == 32 else 0)
    for bit, reason in ((1, 'not cleanly unmounted'), (2, 'I/O errors'), (0, None)):
        fat.set_entry(1, clean & ~(1 << fat.bits - (4 if fat.bits == 32 else 0) - bit) if bit else clean)
        in_use(t, path, reason) if reason else usable(t, path)


add('dirty-fat12', dirty, 'fat12', 0x25)
add('dirty-fat16', dirty, 'fat16', 0x25)
add('dirty-fat32', dirty, 'fat32', 0x41)


def table(t, name, index, value, reason, copies=(0, 1)):
    """Entry @index, a number or 'file' or 'free' for one such, becomes @value."""
    path, fat = make(t, name)
    entries = fat.entries()
    free = [i for i, e in enumerate(entries) if e == 0]
    chained = [i for i, e in enumerate(entries) if i > 1 and 2 <= e < fat.clusters + 2]
    top = (1 << min(fat.bits, 28)) - 1
    places = {'file': chained[5], 'free': free[5], 'other': entries[chained[9]], 'end': top, 'bad': top - 8,
              'reserved': top - 12, 'outside': fat.clusters + 2, 'media': 0xf0 | top & ~0xff}
    index, value = places.get(index, index), places.get(value, value)
    fat.set_entry(index, value, copies)
    if reason is None:
        t.equal(report(t, path, '-g', '512')['free'], fat.free(), 'free')
    else:
        in_use(t, path, reason)


for name in ('fat12', 'fat16', 'fat32'):
    add(name + '-copies-differ', table, name, 'free', 'end', 'the two FATs differ', (1,))
    add(name + '-bad-cluster', table, name, 'free', 'bad', None)
    add(name + '-lost-cluster', table, name, 'free', 'end', None)
    add(name + '-reserved-entry', table, name, 'free', 'reserved', 'is no cluster')
    add(name + '-entry-outside', table, name, 'file', 'outside', 'is no cluster')
    add(name + '-entry-1', table, name, 'file', 1, 'is no cluster')
    add(name + '-chain-into-free', table, name, 'file', 'free', 'runs into a free cluster')
    add(name + '-chains-meet', table, name, 'file', 'other', 'two chains meet')
    add(name + '-media', table, name, 0, 'media', 'expected media type')
add('fat32-free-root', table, 'fat32', 2, 0, 'does not start the root directory')


@case
def high_bits_of_fat32(t):
    """They are nobody's; what they say does not make a cluster used."""
    path, fat = make(t, 'fat32')
    expected = fat.free()
    fat.set_entry(expected[0][0] // fat.cluster - fat.data // fat.cluster + 2, 0xf0000000)
    t.equal(report(t, path, '-g', '512')['free'], expected, 'free')


@case
def not_mirrored(t):
    """With mirroring off only the active FAT counts."""
    path, fat = make(t, 'fat32')
    expected = fat.free()
    free = (expected[0][0] - fat.data) // fat.cluster + 2
    fat.set_entry(free, 0xfffffff, copies=(0, 1)[:1])
    for at in (0x28, 6 * 512 + 0x28):
        patch(path, at, struct.pack('<H', 0x81))
    t.equal(report(t, path, '-g', '512')['free'], expected, 'free by the second FAT')
    for at in (0x28, 6 * 512 + 0x28):
        patch(path, at, struct.pack('<H', 0x80))
    t.equal(report(t, path, '-g', '512')['free'], fat.free(), 'free by the first FAT')
    for at in (0x28, 6 * 512 + 0x28):
        patch(path, at, struct.pack('<H', 0x82))
    in_use(t, path, 'FAT 2 is the active one')


def boot(t, name, offset, data, reason):
    path, _ = make(t, name, filled=False)
    patch(path, offset, data)
    in_use(t, path, reason)


add('boot-no-signature', boot, 'fat16', 0x26, b'\0', 'no extended boot signature')
add('boot-longer', boot, 'fat16', 32, b'\xff\xff\xff\x7f', 'boot sector')
add('boot-short-fat', boot, 'fat16', 22, b'\x05\0', 'has no room')
add('boot-root-entries', boot, 'fat16', 17, b'\0\0', 'no room for a root directory')
add('boot-fats', boot, 'fat16', 16, b'\3', '3 FATs')
add('boot-type', boot, 'fat16', 0x36, b'FAT12   ', 'it says "FAT12"')
add('boot-type-that-is-no-text', boot, 'fat16', 0x36, b'FAT12 \xff\x1b', 'it says "FAT12"')
add('boot-version', boot, 'fat32', 0x2a, b'\1\0', 'version 0x1')
add('boot-root-cluster', boot, 'fat32', 0x2c, b'\1\0', 'differs')
add('boot-copy', boot, 'fat32', 6 * 512 + 0x24, b'\1\0', 'its copy in sector 6 differs')
add('boot-copy-outside', boot, 'fat32', 0x32, b'\xf0\0', 'is not in the')
add('bitlocker-to-go', boot, 'fat32', 424, bytes.fromhex('3bd66749292ed84a8399f6a339e3d001'), 'encrypted')


@case
def longer_than_the_volume(t):
    path, _ = make(t, 'fat16', filled=False)
    os.truncate(path, 40 * MiB - 512)
    in_use(t, path, 'the volume has')


@case
def windows(t):
    t.need('xz', 'qemu-img', 'fsck.fat')
    if corpus() is None:
        t.skip('no corpus')
    image, raw, part = t.path('nodevhd-dynamic.vhd'), t.path('raw'), t.path('part')
    with open(image, 'wb') as f:
        subprocess.run(['xz', '-dkc', os.path.join(corpus(), 'windows', 'nodevhd-dynamic.vhd.xz')], stdout=f, check=True)
    t.run('qemu-img', 'convert', '-O', 'raw', image, raw)
    for partition, start in ((2, 33619968), (4, 336658432)):
        entry = usable(t, raw, partition)
        t.equal((entry['offset'], entry['type']), (start, 'fat32'), 'partition %d' % partition)
        with open(raw, 'rb') as f, open(part, 'wb') as out:
            f.seek(start)
            out.write(f.read(entry['bytes']))
        t.equal(report(t, part, '-g', '512')['free'], Fat(part, 32).free(), 'free')
        # Windows does not repeat the label in the boot sector, and fsck.fat says so.
        before, words = files(t, part), t.run('fsck.fat', '-n', part, rc=(0, 1)).out
        fill_free(t, part, '-g', '512')
        t.equal(t.run('fsck.fat', '-n', part, rc=(0, 1)).out, words, 'fsck.fat')
        t.check(files(t, part) == before, 'files have changed')


# Hostile images -----------------------------------------------------------------------------------------


def flips(t, name):
    """No damage to the boot sector or one FAT makes more of the volume free.

    FAT12 and FAT16 store the size of clusters, of the root directory and of the volume once: a guest believes them too.
    """
    path, fat = make(t, name)
    spared = () if fat.bits == 32 else (13, 17, 18, 19, 20, *range(32, 36))
    pristine = report(t, path, '-g', '512')['free']
    data, generator, changed = read_file(path), random.Random(SEED), 0
    for i in range(FLIPS):
        start, length = generator.choice(((0, 90), (fat.fat, min(fat.fat_size, 4096)),
                                          (fat.fat + fat.fat_size, min(fat.fat_size, 4096))))
        at = start + generator.randrange(length)
        if at in spared:
            continue
        byte = generator.choice((data[at] ^ 1 << generator.randrange(8), generator.randrange(256), 0, 255))
        patch(path, at, bytes([byte]))
        found = report(t, path, '-g', '512')
        t.check(is_subset(found['free'], pristine), 'seed %d, flip %d: byte %d: 0x%02x frees more' % (SEED, i, at, byte),
                found['volumes'])
        changed += found['free'] != pristine
        patch(path, at, data[at:at + 1])
    t.check(changed > FLIPS // 20, 'nothing was noticed', changed)


for name in ('fat12', 'fat16', 'fat32'):
    add('flips-' + name, flips, name)

main()
