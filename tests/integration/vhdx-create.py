# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHDX images our create makes: every byte of them by a parser of its own, and what other programs say of them."""

import os
import struct
import time
import uuid

from harness import GiB, KiB, MiB, QEMU_IMG, Unchanged, add, case, main, sha256, tool
from vhdxfile import (BAT, DISK_ID, DISK_SIZE, LOCATOR, LOCATOR_VHDX, LOGICAL, METADATA, PARAMETERS, PHYSICAL, Vhdx,
                      crc32c, locator, log_entry)

TiB = 1 << 40
NONE = uuid.UUID(int=0)
LINKAGE2 = 'parent_linkage2'


class Image:
    """An image read with no tolerance: what the specification calls reserved must be zero, copies must agree."""

    def __init__(self, t, path):
        self.t, self.path, self.file_size = t, path, os.path.getsize(path)
        t.equal(self.file_size % MiB, 0, 'file size in whole MiB')
        self.read_identifier()
        self.read_headers()
        self.read_regions()
        self.read_metadata()
        self.read_values()

    def bytes_at(self, offset, count):
        with open(self.path, 'rb') as f:
            f.seek(offset)
            return f.read(count)

    def zero(self, offset, end, what):
        while offset < end:
            piece = self.bytes_at(offset, min(MiB, end - offset))
            self.t.equal(piece.count(0), len(piece), 'zero bytes of %s at %d' % (what, offset))
            offset += len(piece)

    def read_identifier(self):
        data = self.bytes_at(0, 64 * KiB)
        self.t.equal(data[:8], b'vhdxfile', 'signature')
        self.creator = data[8:520].decode('utf-16-le').rstrip('\0')
        self.t.equal(data[520:], bytes(64 * KiB - 520), 'reserved bytes of the identifier')

    def checked(self, data, signature, what):
        self.t.equal(data[:4], signature, what)
        summed = struct.unpack_from('<I', data, 4)[0]
        self.t.equal(crc32c(data[:4] + bytes(4) + data[8:]), summed, 'checksum of ' + what)

    def read_headers(self):
        slots = [self.bytes_at(offset, 64 * KiB) for offset in (64 * KiB, 128 * KiB)]
        for slot in slots:
            self.checked(slot[:4096], b'head', 'header')
            self.t.equal(slot[80:], bytes(64 * KiB - 80), 'reserved bytes of a header')
        self.t.equal(slots[0][16:4096], slots[1][16:4096], 'what both headers say')
        sequence = [struct.unpack_from('<Q', slot, 8)[0] for slot in slots]
        self.t.equal(sequence[1], sequence[0] + 1, 'sequence numbers')
        guids = [uuid.UUID(bytes_le=slots[0][at:at + 16]) for at in (16, 32, 48)]
        self.file_write_guid, self.data_write_guid, self.log_guid = guids
        self.t.equal(self.log_guid, NONE, 'LogGuid')
        self.t.check(NONE not in guids[:2] and guids[0] != guids[1], 'GUIDs of the header', guids)
        versions, version, self.log_length, self.log_offset = struct.unpack_from('<HHIQ', slots[0], 64)
        self.t.equal((versions, version), (0, 1), 'versions')
        self.zero(self.log_offset, self.log_offset + self.log_length, 'log')

    def read_regions(self):
        tables = [self.bytes_at(offset, 64 * KiB) for offset in (192 * KiB, 256 * KiB)]
        self.t.equal(tables[0], tables[1], 'second region table')
        self.checked(tables[0], b'regi', 'region table')
        count, reserved = struct.unpack_from('<II', tables[0], 8)
        self.t.equal((count, reserved), (2, 0), 'entries, reserved')
        self.regions = {}
        for i in range(count):
            guid, offset, length, flags = struct.unpack_from('<16sQII', tables[0], 16 + 32 * i)
            self.t.equal(flags, 1, 'Required')
            self.t.equal((offset % MiB, length % MiB), (0, 0), 'alignment of a region')
            self.regions[uuid.UUID(bytes_le=guid)] = (offset, length)
        self.t.equal(tables[0][16 + 32 * count:], bytes(64 * KiB - 16 - 32 * count), 'rest of the region table')
        self.zero(320 * KiB, MiB, 'reserved part of the header section')
        ranges = sorted([(0, MiB), (self.log_offset, self.log_length)] + list(self.regions.values()))
        for (a, length), (b, _) in zip(ranges, ranges[1:]):
            self.t.equal(a + length, b, 'where one structure ends and the next begins')
        self.data_offset = sum(ranges[-1])

    def read_metadata(self):
        start, length = self.regions[METADATA]
        region = self.bytes_at(start, length)
        self.t.equal(region[:8], b'metadata', 'metadata signature')
        reserved, count = struct.unpack_from('<HH', region, 8)
        self.t.equal((reserved, region[12:32]), (0, bytes(20)), 'reserved bytes of the metadata table')
        loose, ranges = bytearray(region), [(0, 32 + 32 * count)]
        loose[:32 + 32 * count] = bytes(32 + 32 * count)
        self.items = {}
        for i in range(count):
            guid, offset, size, flags, reserved2 = struct.unpack_from('<16sIIII', region, 32 + 32 * i)
            self.t.equal((reserved2, offset >= 64 * KiB or size == 0), (0, True), 'reserved, offset of an item')
            loose[offset:offset + size] = bytes(size)
            ranges.append((offset, size))
            key = (uuid.UUID(bytes_le=guid), flags & 1)
            self.t.check(key not in self.items, 'an item is there twice', key)
            self.items[key] = (flags, region[offset:offset + size], offset)
        ranges = sorted(r for r in ranges if r[1])
        for (a, size), (b, _) in zip(ranges, ranges[1:]):
            self.t.check(a + size <= b, 'items overlap', ranges)
        self.t.equal(loose.count(0), len(loose), 'zero bytes that belong to no item')

    def value(self, guid, flags, layout):
        found, content, _ = self.items[guid, 0]
        self.t.equal((found, len(content)), (flags, struct.calcsize(layout)), 'flags and length of %s' % guid)
        return struct.unpack(layout, content)

    def read_values(self):
        self.block_size, self.flags = self.value(PARAMETERS, 4, '<II')
        self.size, = self.value(DISK_SIZE, 6, '<Q')
        self.disk_id = uuid.UUID(bytes_le=self.value(DISK_ID, 6, '<16s')[0])
        self.logical, = self.value(LOGICAL, 6, '<I')
        self.physical, = self.value(PHYSICAL, 6, '<I')
        ratio = (1 << 23) * self.logical // self.block_size
        self.blocks = -(-self.size // self.block_size)
        self.entries = (-(-self.blocks // ratio) * (ratio + 1) if self.flags & 2
                        else self.blocks + (self.blocks - 1) // ratio)
        offset, length = self.regions[BAT]
        self.t.equal(length, max(MiB, -(-self.entries * 8 // MiB) * MiB), 'length of the BAT region')
        self.bitmap_slots = range(ratio, self.entries, ratio + 1)
        self.locator = self.read_locator() if self.flags & 2 else None
        self.t.equal((LOCATOR, 0) in self.items, bool(self.flags & 2), 'a locator')

    def read_locator(self):
        flags, item, _ = self.items[LOCATOR, 0]
        self.t.equal((flags, item[:16]), (4, LOCATOR_VHDX.bytes_le), 'flags and type of the locator')
        reserved, count = struct.unpack_from('<HH', item, 16)
        self.t.equal(reserved, 0, 'reserved bytes of the locator')
        entries = []
        for i in range(count):
            key, value, key_length, value_length = struct.unpack_from('<IIHH', item, 20 + 12 * i)
            self.t.equal((key % 2, value % 2), (0, 0), 'offsets in the locator')
            entries.append(tuple(item[at:at + n].decode('utf-16-le')
                                 for at, n in ((key, key_length), (value, value_length))))
        self.t.equal(len(dict(entries)), count, 'different keys')
        return dict(entries)

    def bat(self, first=0, count=None):
        count = self.entries - first if count is None else count
        return struct.unpack('<%dQ' % count, self.bytes_at(self.regions[BAT][0] + 8 * first, 8 * count))

    def bat_is_a_hole(self):
        offset, length = self.regions[BAT]
        if length <= 64 * MiB:
            self.zero(offset, offset + length, 'BAT')
        with open(self.path, 'rb') as f:
            try:
                found = os.lseek(f.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return
        self.t.check(found >= offset + length, 'data in the BAT at %d' % found)


def make(t, name, *argv, options=''):
    path = t.path(name)
    t.img('create', '-q', '-f', 'vhdx', *(['-o', options] if options else []), *argv[:-1], path, *argv[-1:])
    return Image(t, path)


def child_of(t, parent, name, *argv, options=''):
    t.img('create', '-q', '-f', 'vhdx', *(['-o', options] if options else []), '-b', parent, t.path(name), *argv)
    return Image(t, t.path(name))


# --- without a parent -----------------------------------------------------------------------------------------

def dynamic(t, size, options, block_size, logical, physical, log):
    image = make(t, 'd.vhdx', str(size), options=options)
    t.equal((image.size, image.flags, image.block_size, image.logical, image.physical, image.log_length),
            (size, 0, block_size, logical, physical, log), 'size, flags, block size, sector sizes, log')
    t.equal(image.file_size, image.data_offset, 'file size')
    image.bat_is_a_hole()
    info = t.img('info', '--output=json', image.path).json
    t.equal((info['format'], info['virtual-size'], info['dirty-flag']), ('vhdx', size, False), 'info')
    if size <= 64 * MiB:
        t.same_content(t.content(image.path), bytes(size), 'content')


for label, size, options, expected in (
        ('512', 512, '', (32 * MiB, 512, 4096, MiB)),
        ('40M', 40 * MiB, '', (32 * MiB, 512, 4096, MiB)),
        ('blocks-1M', 40 * MiB, 'block_size=1M', (MiB, 512, 4096, MiB)),
        ('blocks-256M', GiB, 'block_size=256M', (256 * MiB, 512, 4096, MiB)),
        ('4k', 40 * MiB, 'logical_sector_size=4096', (32 * MiB, 4096, 4096, MiB)),
        ('4k-512', 40 * MiB, 'logical_sector_size=4k,physical_sector_size=512', (32 * MiB, 4096, 512, MiB)),
        ('512-512', 40 * MiB, 'physical_sector_size=512,subformat=dynamic', (32 * MiB, 512, 512, MiB)),
        ('log-17M', 40 * MiB, 'log_size=17M', (32 * MiB, 512, 4096, 17 * MiB)),
        ('log-1G', 40 * MiB, 'log_size=1G', (32 * MiB, 512, 4096, GiB)),
        ('chunk-edge', 4 * GiB, 'block_size=1M', (MiB, 512, 4096, MiB)),
        ('after-chunk-edge', 4 * GiB + MiB, 'block_size=1M', (MiB, 512, 4096, MiB))):
    add('dynamic-' + label, dynamic, size, options, *expected)


def fixed(t, size, options):
    image = make(t, 'f.vhdx', str(size), options='subformat=fixed,' + options)
    t.equal((image.size, image.flags), (size, 1), 'size, flags')
    t.equal(image.file_size, image.data_offset + image.blocks * image.block_size, 'file size')
    expected = [image.data_offset + i * image.block_size | 6 for i in range(image.blocks)]
    for slot in image.bitmap_slots:
        expected.insert(slot, 0)
    t.equal(image.bat(), tuple(expected), 'BAT')
    image.zero(image.regions[BAT][0] + image.entries * 8, image.data_offset, 'rest of the BAT')
    t.check(os.stat(image.path).st_blocks * 512 < 4 * MiB + image.regions[BAT][1], 'space is taken for payload')
    if size <= 64 * MiB:
        t.same_content(t.content(image.path), bytes(size), 'content')


for label, size, options in (('512', 512, 'block_size=1M'), ('40M', 40 * MiB, 'block_size=32M'),
                             ('5G-1M', 5 * GiB, 'block_size=1M'), ('9G-256M', 9 * GiB, 'block_size=256M'),
                             ('odd', 7 * MiB + 3 * 4096, 'block_size=1M,logical_sector_size=4096'),
                             # Entries that need more than one piece.
                             ('200G-1M', 200 * GiB, 'block_size=1M')):
    add('fixed-' + label, fixed, size, options)


def sixty_four_tib(t, options):
    began = time.monotonic()
    image_path = t.path('big.vhdx')
    t.img('create', '-q', '-f', 'vhdx', '-o', options, image_path, '64T')
    seconds = time.monotonic() - began
    t.check(seconds < 2, 'it took %.3f s' % seconds)  # 15 ms on an idle machine: nothing of the size is written
    image = Image(t, image_path)
    t.equal(image.size, 64 * TiB, 'size')
    t.check(os.stat(image_path).st_blocks * 512 <= 4 * MiB, 'more than 4 MiB on disk')
    image.bat_is_a_hole()
    child = child_of(t, image_path, 'child.vhdx')
    t.equal((child.size, child.block_size), (64 * TiB, 2 * MiB), 'size and block size of the child')
    t.check(os.stat(child.path).st_blocks * 512 <= 4 * MiB, 'more than 4 MiB on disk')
    child.bat_is_a_hole()
    t.equal(t.img('info', '--output=json', child.path).json['virtual-size'], 64 * TiB, 'virtual-size')


add('64T', sixty_four_tib, 'subformat=dynamic')
add('64T-blocks-1M', sixty_four_tib, 'block_size=1M')


@case
def sizes_are_rounded_up_to_sectors(t):
    t.equal(make(t, 'a.vhdx', '1000001').size, 1000448, 'size')
    t.equal(make(t, 'b.vhdx', '1000001', options='logical_sector_size=4096').size, 1003520, 'size')
    t.equal(make(t, 'c.vhdx', str(64 * TiB - 1)).size, 64 * TiB, 'size')


@case
def identities_differ(t):
    images = [make(t, '%d.vhdx' % i, '1M') for i in range(4)]
    guids = [g for i in images for g in (i.file_write_guid, i.data_write_guid, i.disk_id)]
    t.equal(len(set(guids)), len(guids), 'different GUIDs')
    t.check(images[0].creator.startswith('vhdkit '), 'creator', images[0].creator)


@case
def option_help(t):
    text = t.img('create', '-f', 'vhdx', '-o', 'help').out
    for option in ('subformat', 'block_size', 'log_size', 'logical_sector_size', 'physical_sector_size'):
        t.check(option in text, 'create -o help does not name ' + option, text)


# --- over what is there ---------------------------------------------------------------------------------------

def refused(t, phrase, size, options):
    for there in (None, b'\xee' * MiB):
        path = t.path('x.vhdx')
        if there:
            with open(path, 'wb') as f:
                f.write(there)
            unchanged = Unchanged(path)
        t.refused(t.img('create', '-q', '-f', 'vhdx', *(['-o', options] if options else []), path, size, rc=1), phrase)
        if there:
            unchanged.verify(t, 'a refused create')
        t.equal(os.path.exists(path), bool(there), 'the file')


for label, phrase, size, options in (
        ('size-0', 'size', '0', ''), ('size-over-64T', 'size', str(64 * TiB + 1), ''), ('size-8E', 'size', '7E', ''),
        ('subformat', 'subformat', '1M', 'subformat=round'), ('block-512k', 'block_size', '1M', 'block_size=512k'),
        ('block-3M', 'block_size', '1M', 'block_size=3M'), ('block-0', 'block_size', '1M', 'block_size=0'),
        ('block-512M', 'block_size', '1M', 'block_size=512M'), ('log-0', 'log_size', '1M', 'log_size=0'),
        ('log-odd', 'log_size', '1M', 'log_size=1000000'), ('log-huge', 'log_size', '1M', 'log_size=1025M'),
        ('logical', 'logical_sector_size', '1M', 'logical_sector_size=1024'),
        ('physical', 'physical_sector_size', '1M', 'physical_sector_size=513'),
        ('unknown', 'nonsense', '1M', 'nonsense=1')):
    add('refused-' + label, refused, phrase, size, options)


@case
def an_existing_file_is_replaced(t):
    path = t.path('x.vhdx')
    with open(path, 'wb') as f:
        f.write(b'\xee' * (70 * MiB))
    image = make(t, 'x.vhdx', '40M', options='subformat=fixed')
    t.same_content(t.content(path), bytes(40 * MiB), 'content')
    image.zero(image.data_offset, image.file_size, 'payload')
    small = make(t, 'x.vhdx', '40M')
    t.equal(small.file_size, 4 * MiB, 'file size')
    small.bat_is_a_hole()


def too_long_for_the_host(t, *argv):
    """A length that the host refuses costs nothing."""
    path = t.path('x')
    with open(path, 'wb') as f:
        f.write(b'\xee' * (3 * MiB))
    unchanged = Unchanged(path)
    result = t.run('bash', '-c', 'trap "" XFSZ; ulimit -f 16384; exec "$@"', 'bash',
                   tool('vhd-img'), 'create', '-q', *argv, path, '1G', rc=1)
    t.refused(result, ('too large', 'longer'))
    unchanged.verify(t, 'a refused create')


add('too-long-for-the-host-vhdx', too_long_for_the_host, '-f', 'vhdx', '-o', 'subformat=fixed')
add('too-long-for-the-host-vhd', too_long_for_the_host, '-f', 'vhd', '-o', 'subformat=fixed')
add('too-long-for-the-host-raw', too_long_for_the_host, '-f', 'raw')


# --- children -------------------------------------------------------------------------------------------------

def check_link(t, child, parent, relative):
    t.equal(child.flags, 2, 'flags')
    t.equal(child.locator, {'parent_linkage': '{%s}' % parent.data_write_guid, LINKAGE2: '{%s}' % NONE,
                            'relative_path': relative, 'absolute_win32_path': os.path.realpath(parent.path)},
            'locator')
    t.equal(child.disk_id, parent.disk_id, 'virtual disk ID')
    t.check(child.data_write_guid != parent.data_write_guid, 'the child has its parent\'s DataWriteGuid')
    t.equal(child.file_size, child.data_offset, 'file size')
    child.bat_is_a_hole()


def parent_with_data(t, path):
    """Eight blocks of 1 MiB, the odd ones present."""
    v = Vhdx()
    v.bat = {n: ((4 + n) * MiB | 6, bytes([n]) * MiB) for n in (1, 3, 5, 7)}
    v.write(path)
    v.path = path
    return v, b''.join(bytes([n % 2 * n]) * MiB for n in range(8))


@case
def child(t):
    parent = make(t, 'p.vhdx', '5M')
    unchanged = Unchanged(parent.path)
    check_link(t, child_of(t, parent.path, 'c.vhdx'), parent, '.\\p.vhdx')
    t.equal(Image(t, t.path('c.vhdx')).size, 5 * MiB, 'size, taken from the parent')
    grandchild = child_of(t, 'c.vhdx', 'g.vhdx')
    check_link(t, grandchild, Image(t, t.path('c.vhdx')), '.\\c.vhdx')
    unchanged.verify(t, 'making a child')


@case
def child_shows_what_the_parent_does(t):
    _, content = parent_with_data(t, t.path('p.vhdx'))
    child_of(t, 'p.vhdx', 'c.vhdx')
    child_of(t, 'c.vhdx', 'g.vhdx', options='block_size=32M,log_size=2M')
    t.same_content(t.content(t.path('g.vhdx')), content, 'content')
    larger = child_of(t, 'p.vhdx', 'l.vhdx', '11M')
    t.same_content(t.content(larger.path), content + bytes(3 * MiB), 'content of a larger child')
    smaller = child_of(t, 'p.vhdx', 's.vhdx', '6M')
    t.same_content(t.content(smaller.path), content[:6 * MiB], 'content of a smaller child')


@case
def child_in_other_directories(t):
    os.makedirs(t.path('x/y'))
    os.makedirs(t.path('z'))
    _, content = parent_with_data(t, t.path('x/y/p.vhdx'))
    child_of(t, t.path('x/y/p.vhdx'), 'z/c.vhdx')
    t.equal(Image(t, t.path('z/c.vhdx')).locator['relative_path'], '..\\x\\y\\p.vhdx', 'relative_path')
    t.same_content(t.content(t.path('z/c.vhdx')), content, 'content')
    child_of(t, 'y/p.vhdx', 'x/c.vhdx')
    t.equal(Image(t, t.path('x/c.vhdx')).locator['relative_path'], '.\\y\\p.vhdx', 'relative_path')
    os.rename(t.path('x'), t.path('moved'))
    t.same_content(t.content(t.path('moved/c.vhdx')), content, 'content after both were moved')
    os.rename(t.path('moved'), t.path('x'))
    os.rename(t.path('x/c.vhdx'), t.path('c.vhdx'))
    t.same_content(t.content(t.path('c.vhdx')), content, 'content of a moved child, by the absolute path')


@case
def parents_with_odd_names(t):
    _, content = parent_with_data(t, t.path('p.vhdx'))
    for i, name in enumerate(('with space.vhdx', 'größe-日本.vhdx', '100%.vhdx', 'C:', '\U0001f4bf.vhdx',
                              'back\\slash.vhdx')):
        os.rename(t.path('p.vhdx'), t.path(name))
        child_of(t, name, '%d.vhdx' % i)
        t.same_content(t.content(t.path('%d.vhdx' % i)), content, 'child of ' + name)
        os.rename(t.path(name), t.path('p.vhdx'))


@case
def a_name_that_is_no_text(t):
    name = os.fsencode(t.dir) + b'/p\xff.vhdx'
    make(t, 'p.vhdx', '1M')
    os.rename(t.path('p.vhdx'), name)
    t.refused(t.img('create', '-q', '-f', 'vhdx', '-b', os.fsdecode(name), t.path('c.vhdx'), rc=1), 'utf-8')
    t.check(not os.path.exists(t.path('c.vhdx')), 'a file was left behind')


@case
def sector_sizes_of_the_parent(t):
    parent = make(t, 'p.vhdx', '8M', options='logical_sector_size=4096,physical_sector_size=512')
    image = child_of(t, parent.path, 'c.vhdx')
    t.equal((image.logical, image.physical), (4096, 512), 'sector sizes')
    image = child_of(t, parent.path, 'd.vhdx', options='logical_sector_size=4096,physical_sector_size=4096')
    t.equal((image.logical, image.physical), (4096, 4096), 'sector sizes')
    t.refused(t.img('create', '-q', '-f', 'vhdx', '-o', 'logical_sector_size=512', '-b', parent.path, t.path('e.vhdx'),
                    rc=1), 'logical_sector_size', 'parent')
    t.check(not os.path.exists(t.path('e.vhdx')), 'a file was left behind')


@case
def all_items_of_the_disk_are_taken_over(t):
    """Known ones by their values, others byte for byte with their flags; none that belong to the file."""
    unknown, user, of_file, empty, large = (uuid.uuid4() for _ in range(5))
    chs = uuid.UUID('DA02D7BC-3D3A-423C-AC88-2A36AB21479B')
    v = Vhdx()
    v.items += [(unknown, b'unknown', 2), (user, b'of a user', 3), (of_file, b'of the file', 0), (empty, b'', 2),
                (chs, b'\1\2\3\4\5\6\7\0', 2), (DISK_SIZE, b'user', 3), (large, b'\x5a' * (900 * KiB), 2)]
    v.regions[1] = (METADATA, 4 * MiB, 2 * MiB, 1)
    v.file_size = 6 * MiB
    v.patches = [(4 * MiB, v.metadata())]
    image = child_of(t, v.write(t.path('p.vhdx')), 'c.vhdx')
    others = {key: value[:2] for key, value in image.items.items()
              if key not in {(g, 0) for g in (PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL, PHYSICAL, LOCATOR)}}
    t.equal(others, {(unknown, 0): (2, b'unknown'), (user, 1): (3, b'of a user'), (empty, 0): (2, b''),
                     (chs, 0): (2, b'\1\2\3\4\5\6\7\0'), (DISK_SIZE, 1): (3, b'user'),
                     (large, 0): (2, b'\x5a' * (900 * KiB))}, 'other items')
    t.equal(image.regions[METADATA][1], 2 * MiB, 'length of the metadata region')
    t.equal(image.items[LOCATOR, 0][2] % 4096, 0, 'the locator begins a page')
    t.same_content(t.content(image.path), bytes(8 * MiB), 'content')


@case
def child_of_a_dirty_parent(t):
    """Its log stays as it is; its identity is that of its header."""
    v = Vhdx()
    v.log_guid = uuid.uuid4()
    v.file_size = 6 * MiB
    page = struct.pack('<Q', 4 * MiB | 6).ljust(4096, b'\0')
    v.log = log_entry(v.log_guid, 1, [(3 * MiB, page)], 0, 6 * MiB, 6 * MiB)
    v.patches = [(4 * MiB, b'\7' * MiB)]
    unchanged = Unchanged(v.write(t.path('p.vhdx')))
    image = child_of(t, 'p.vhdx', 'c.vhdx')
    t.equal(image.locator['parent_linkage'], '{%s}' % v.data_write_guid, 'parent_linkage')
    t.same_content(t.content(image.path), b'\7' * MiB + bytes(7 * MiB), 'content')
    unchanged.verify(t)


def refuse_parent(t, make_parent, phrases, *argv):
    parent = make_parent(t)
    for there in (False, True):
        path = t.path('c.img')
        if there:
            with open(path, 'wb') as f:
                f.write(b'\xee' * MiB)
        unchanged = Unchanged(parent, *([path] if there else []))
        t.refused(t.img('create', '-q', *argv, '-b', parent, path, rc=1), *phrases)
        unchanged.verify(t, 'a refused create')
        t.equal(os.path.exists(path), there, 'the file')


def a_vhd(t):
    t.img('create', '-q', '-f', 'vhd', t.path('p.vhd'), '4M')
    return t.path('p.vhd')


def a_vhdx(t):
    return make(t, 'p.vhdx', '4M').path


def a_raw(t):
    with open(t.path('p.raw'), 'wb') as f:
        f.write(b'\5' * MiB)
    return t.path('p.raw')


def without_identity(t):
    v = Vhdx()
    v.data_write_guid = NONE
    return v.write(t.path('p.vhdx'))


add('refused-vhd-parent-of-vhdx', refuse_parent, a_vhd, ('p.vhd', 'vhd image', 'must be vhdx'), '-f', 'vhdx')
add('refused-raw-parent-of-vhdx', refuse_parent, a_raw, ('p.raw', 'raw image', 'must be vhdx'), '-f', 'vhdx', '-F',
    'raw')
add('refused-vhdx-parent-of-vhd', refuse_parent, a_vhdx, ('p.vhdx', 'vhdx image', 'must be vhd or raw'), '-f', 'vhd')
add('refused-fixed-child', refuse_parent, a_vhdx, ('fixed', 'parent'), '-f', 'vhdx', '-o', 'subformat=fixed')
add('refused-parent-without-identity', refuse_parent, without_identity, ('p.vhdx', 'DataWriteGuid'), '-f', 'vhdx')


@case
def child_of_itself(t):
    parent = a_vhdx(t)
    unchanged = Unchanged(parent)
    t.refused(t.img('create', '-q', '-f', 'vhdx', '-b', parent, parent, rc=1))
    unchanged.verify(t, 'a refused create')


# --- info -----------------------------------------------------------------------------------------------------

@case
def info_of_an_image(t):
    image = make(t, 'x.vhdx', '40M', options='block_size=2M,log_size=3M,physical_sector_size=512')
    info = t.img('info', '--output=json', image.path).json
    facts = info['format-specific']['data']
    t.equal({key: facts.get(key) for key in (
        'disk-type', 'block-size', 'log-size', 'logical-sector-size', 'physical-sector-size', 'creator',
        'virtual-disk-id', 'file-write-guid', 'data-write-guid', 'dirty', 'log-guid', 'parent-locator')},
            {'disk-type': 'dynamic', 'block-size': 2 * MiB, 'log-size': 3 * MiB, 'logical-sector-size': 512,
             'physical-sector-size': 512, 'creator': image.creator, 'virtual-disk-id': str(image.disk_id),
             'file-write-guid': str(image.file_write_guid), 'data-write-guid': str(image.data_write_guid),
             'dirty': False, 'log-guid': None, 'parent-locator': None}, 'facts')
    t.equal((info['cluster-size'], info['dirty-flag'], 'parent-candidates' in info), (2 * MiB, False, False), 'info')
    t.equal(t.img('info', '--output=json', make(t, 'f.vhdx', '1M', options='subformat=fixed').path)
            .json['format-specific']['data']['disk-type'], 'fixed', 'disk-type')


@case
def info_of_a_dirty_image(t):
    v = Vhdx()
    v.log_guid = uuid.uuid4()
    v.log = log_entry(v.log_guid, 1, [], 0, 4 * MiB, 4 * MiB)
    info = t.img('info', '--output=json', v.write(t.path('x.vhdx'))).json
    facts = info['format-specific']['data']
    t.equal((info['dirty-flag'], facts['dirty'], facts['log-guid']), (True, True, str(v.log_guid)), 'log')
    t.check('cleanly shut down: no' in t.img('info', t.path('x.vhdx')).out, 'text does not tell of the log')


def candidates(t, *argv):
    return [(c['origin'], os.path.relpath(c['path'], t.dir) if 'path' in c else None, c['fits'], c.get('reason'))
            for c in t.img('info', '--output=json', *argv).json['parent-candidates']]


@case
def info_tells_of_every_place_of_the_parent(t):
    """Each with its verdict, whether or not there is a parent; the first that fits is the one that is opened."""
    other = uuid.uuid4()
    os.makedirs(t.path('sub'))
    parent = make(t, 'p.vhdx', '8M')
    make(t, 'sub/p.vhdx', '8M')
    with open(t.path('text.vhdx'), 'w') as f:
        f.write('not an image')
    v = Vhdx()
    v.flags = 2
    entries = [('parent_linkage', '{%s}' % other), ('parent_linkage2', '{%s}' % parent.data_write_guid),
               ('relative_path', 'sub\\p.vhdx'), ('volume_path', '\\\\?\\Volume{%s}\\p.vhdx' % other),
               ('absolute_win32_path', '\\\\?\\C:\\text.vhdx')]
    v.items.append((LOCATOR, locator(entries), 4))
    unchanged = Unchanged(v.write(t.path('c.vhdx')), parent.path, t.path('sub/p.vhdx'), t.path('text.vhdx'))
    info = t.img('info', '--output=json', t.path('c.vhdx')).json
    t.equal(info['format-specific']['data']['parent-locator'], dict(entries), 'parent-locator')
    found = candidates(t, t.path('c.vhdx'))
    t.equal([c[:3] for c in found], [('relative_path', 'sub/p.vhdx', False), ('volume_path', None, False),
                                     ('absolute_win32_path', None, False), ('its base name', 'p.vhdx', True),
                                     ('its base name', 'text.vhdx', False)], 'candidates')
    for candidate, phrase in zip(found, ('another identity', 'drive map', 'drive map', None, 'not an image')):
        t.check(phrase is None and candidate[3] is None or phrase in candidate[3], 'reason', candidate)
    found = candidates(t, '--map-drive', 'C:=' + t.dir, t.path('c.vhdx'))
    t.equal([c[:3] for c in found], [('relative_path', 'sub/p.vhdx', False), ('volume_path', None, False),
                                     ('absolute_win32_path', 'text.vhdx', False), ('its base name', 'p.vhdx', True)],
            'candidates with a drive map')
    text = t.img('info', t.path('c.vhdx')).out
    for line in ("relative_path 'sub\\p.vhdx' -> %s: has another identity" % t.path('sub/p.vhdx'),
                 "its base name 'sub\\p.vhdx' -> %s: fits" % t.path('p.vhdx')):
        t.check(line in text, 'text does not say "%s"' % line, text)
    layers = t.img('info', '--backing-chain', '--output=json', t.path('c.vhdx')).json
    t.equal([os.path.basename(layer['filename']) for layer in layers], ['c.vhdx', 'p.vhdx'], 'chain')
    t.equal(['parent-candidates' in layer for layer in layers], [True, False], 'candidates of the layers')
    unchanged.verify(t)


@case
def volumes_and_shares_are_not_relative(t):
    """They lead nowhere but through a map, not to a directory beside the child that is called as they are."""
    volume = 'Volume{%s}' % uuid.uuid4()
    for name, spelled, key in (('volume_path', '\\\\?\\' + volume + '\\p.vhdx', '\\\\?\\' + volume),
                               ('volume_path', '\\??\\' + volume + '\\p.vhdx', volume),
                               ('relative_path', volume + '\\p.vhdx', volume),
                               ('absolute_win32_path', '\\\\?\\UNC\\server\\share\\p.vhdx', '\\\\server\\share'),
                               ('absolute_win32_path', 'UNC\\server\\share\\p.vhdx', '\\\\server\\share')):
        os.makedirs(t.path(volume), exist_ok=True)
        os.makedirs(t.path('UNC/server/share'), exist_ok=True)
        os.makedirs(t.path('mapped'), exist_ok=True)
        v = Vhdx()
        v.flags = 2
        v.items.append((LOCATOR, locator([('parent_linkage', '{%s}' % uuid.uuid4()), (name, spelled)]), 4))
        v.write(t.path('c.vhdx'))
        t.equal(candidates(t, t.path('c.vhdx'))[0][:3], (name, None, False), spelled)
        t.equal(candidates(t, '--map-drive', '%s=%s' % (key, t.path('mapped')), t.path('c.vhdx'))[0][:3],
                (name, 'mapped/p.vhdx', False), spelled + ' with a map')


@case
def info_of_an_orphan_and_of_itself(t):
    make(t, 'p.vhdx', '8M')
    child_of(t, 'p.vhdx', 'c.vhdx')
    os.rename(t.path('p.vhdx'), t.path('q.vhdx'))
    t.equal([c[:3] for c in candidates(t, t.path('c.vhdx'))],
            [('relative_path', 'p.vhdx', False), ('absolute_win32_path', 'p.vhdx', False)], 'candidates')
    os.link(t.path('c.vhdx'), t.path('p.vhdx'))
    for candidate in candidates(t, t.path('c.vhdx')):
        t.check(not candidate[2] and 'identity' in candidate[3], 'itself as its parent', candidate)
    os.unlink(t.path('p.vhdx'))
    os.mkfifo(t.path('p.vhdx'))
    for candidate in candidates(t, t.path('c.vhdx')):
        t.check(not candidate[2] and 'regular file' in candidate[3], 'a FIFO as parent', candidate)


@case
def info_is_in_nobodys_way(t):
    """A parent that a writer has open is looked at without its locks."""
    t.img('create', '-q', '-f', 'vhd', t.path('p.vhd'), '8M')
    t.img('create', '-q', '-f', 'vhd', '-b', 'p.vhd', t.path('c.vhd'))
    writer = t.start(tool('vhd-io'), '--break-children', '-c', 'write -q -P 1 0 512', '-c', 'sleep 20000', t.path('p.vhd'))
    inode = ':%d ' % os.stat(t.path('p.vhd')).st_ino

    def is_locked():
        with open('/proc/locks', encoding='ascii') as f:
            return any(inode in line and 'OFD' in line for line in f)
    t.wait_until(is_locked, 'the lock of the writer')
    t.equal([c[2] for c in candidates(t, t.path('c.vhd'))][:1], [True], 'fits')
    writer.kill()


# --- what others say ------------------------------------------------------------------------------------------

def others(t, options, size):
    path = make(t, 'x.vhdx', str(size), options=options).path
    unchanged = Unchanged(path)
    t.need(QEMU_IMG)
    found = t.run(QEMU_IMG, 'info', '--output=json', path).json
    t.equal((found['format'], found['virtual-size'], found['dirty-flag']), ('vhdx', size, False), 'qemu-img info')
    t.run(QEMU_IMG, 'check', '-f', 'vhdx', path)
    t.run(QEMU_IMG, 'convert', '-f', 'vhdx', '-O', 'raw', path, t.path('x.raw'))
    with open(t.path('z.raw'), 'wb') as f:
        f.truncate(size)
    t.equal(sha256(t.path('x.raw')), sha256(t.path('z.raw')), 'content by qemu-img')
    unchanged.verify(t, 'qemu-img')


for label, options, size in (('dynamic', '', 70 * MiB), ('blocks-1M', 'block_size=1M', 70 * MiB + 512),
                             ('fixed', 'subformat=fixed', 70 * MiB), ('log-4M', 'log_size=4M', 3 * MiB),
                             ('fixed-1M', 'subformat=fixed,block_size=1M', 5 * MiB + 512)):
    add('qemu-' + label, others, options, size)


@case
def qemu_writes_to_ours(t):
    """Metadata and log as we lay them out are ones that QEMU can work with."""
    t.need(QEMU_IMG, 'qemu-io')
    for options in ('block_size=1M', 'subformat=fixed,block_size=1M'):
        path = make(t, 'x.vhdx', '10M', options=options).path
        t.run('qemu-io', '-f', 'vhdx', '-c', 'write -P 7 1M 2M', '-c', 'write -P 9 9M 1M', path)
        t.same_content(t.content(path), bytes(MiB) + b'\7' * (2 * MiB) + bytes(6 * MiB) + b'\x09' * MiB, 'content')
        t.run(QEMU_IMG, 'check', '-f', 'vhdx', path)


@case
def libvhdi_knows_ours(t):
    t.need('vhdiinfo')
    make(t, 'f.vhdx', '40M', options='subformat=fixed')
    parent = make(t, 'p.vhdx', '40M')
    kid = child_of(t, parent.path, 'c.vhdx')
    for path, words in ((t.path('f.vhdx'), ('Fixed',)), (parent.path, ('Dynamic', str(parent.data_write_guid))),
                        (kid.path, ('Differential', str(kid.data_write_guid), str(parent.data_write_guid), 'p.vhdx'))):
        out = t.run('vhdiinfo', path).out
        for word in words + ('(41943040 bytes)',):
            t.check(word in out, 'vhdiinfo does not say "%s"' % word, out)


@case
def seven_zip_reads_ours(t):
    program = next((p for p in ('7zz', '7z') if os.system('command -v %s >/dev/null' % p) == 0), None)
    if not program:
        t.skip('no 7-Zip here')
    for options in ('', 'subformat=fixed'):
        path = make(t, 'x.vhdx', '40M', options=options).path
        out = t.run(program, 'l', '-slt', '-tVHDX', path).out
        t.check('41943040' in out, '7-Zip does not name the size', out)
        t.run(program, 'x', '-y', '-tVHDX', '-o' + t.path('out'), path)


@case
def the_log_has_space_of_its_own(t):
    """On a full disk it is needed to give space back."""
    for size in (1, 4):
        path = t.path('log-%d.vhdx' % size)
        t.img('create', '-q', '-f', 'vhdx', '-o', 'log_size=%dM' % size, path, '1T')
        t.check(os.stat(path).st_blocks * 512 >= size * MiB, 'less on disk than the log')


main()
