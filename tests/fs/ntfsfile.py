# SPDX-License-Identifier: LGPL-2.1-or-later
"""NTFS for tests: enough of its records to damage them on purpose.  Knows nothing of block/fs/."""

import struct

STRIDE = 512


class Attribute:
    """Where an attribute stands in its record (offset, length), and what it says."""

    def __init__(self, record, offset):
        self.offset = offset
        self.type, self.length, self.non_resident, name_length, name_offset = struct.unpack_from('<IIBBH', record, offset)
        self.name = bytes(record[offset + name_offset:offset + name_offset + 2 * name_length]).decode('utf-16-le')
        if self.non_resident:
            self.lowest, self.highest, self.runs_offset = struct.unpack_from('<QQH', record, offset + 16)
            self.allocated, self.size, self.initialized = struct.unpack_from('<QQQ', record, offset + 40)
            self.runs = decode_runs(bytes(record[offset + self.runs_offset:offset + self.length]))
        else:
            self.size, value = struct.unpack_from('<IH', record, offset + 16)
            self.value_offset = offset + value
            self.value = bytes(record[offset + value:offset + value + self.size])


def decode_runs(data):
    """(LCN or None, clusters) of a list of runs."""
    runs, at, lcn = [], 0, 0
    while data[at]:
        lengths, offsets = data[at] & 15, data[at] >> 4
        length = int.from_bytes(data[at + 1:at + 1 + lengths], 'little')
        if offsets:
            lcn += int.from_bytes(data[at + 1 + lengths:at + 1 + lengths + offsets], 'little', signed=True)
        runs.append((lcn if offsets else None, length))
        at += 1 + lengths + offsets
    return runs


def encode_runs(runs):
    data, before = b'', 0
    for lcn, length in runs:
        if lcn is None:
            data += b'\x04' + struct.pack('<I', length)
        else:
            data += b'\x44' + struct.pack('<Ii', length, lcn - before)
            before = lcn
    return data + b'\0'


class Ntfs:
    """An image with NTFS at byte @start."""

    def __init__(self, path, start=0):
        self.path, self.start = path, start
        boot = self.read(0, 512)
        self.sector, sectors = struct.unpack_from('<HB', boot, 11)
        self.cluster = self.sector * (sectors if sectors <= 128 else 1 << 256 - sectors)
        self.sectors, self.mft_lcn, self.mirror_lcn = struct.unpack_from('<QQQ', boot, 0x28)
        size = struct.unpack_from('<b', boot, 0x40)[0]
        self.record_size = size * self.cluster if size > 0 else 1 << -size
        self.clusters = self.sectors * self.sector // self.cluster
        self.mft_runs = [(self.mft_lcn, 1 << 40)]
        self.mft_runs = self.attribute(0, 0x80).runs

    def read(self, offset, length):
        with open(self.path, 'rb') as f:
            f.seek(self.start + offset)
            return f.read(length)

    def write(self, offset, data):
        with open(self.path, 'r+b') as f:
            f.seek(self.start + offset)
            f.write(data)

    def record_offset(self, number):
        at = number * self.record_size
        for lcn, length in self.mft_runs:
            if at < length * self.cluster:
                return lcn * self.cluster + at
            at -= length * self.cluster
        raise ValueError('no record %d' % number)

    def record(self, number):
        """Without its update sequence."""
        record = bytearray(self.read(self.record_offset(number), self.record_size))
        offset, count = struct.unpack_from('<HH', record, 4)
        for i in range(1, count):
            record[i * STRIDE - 2:i * STRIDE] = record[offset + 2 * i:offset + 2 * i + 2]
        return record

    def put_record(self, number, record, mirror=True):
        """With it.  The first four go to the mirror too."""
        record = bytearray(record)
        offset, count = struct.unpack_from('<HH', record, 4)
        for i in range(1, count):
            record[offset + 2 * i:offset + 2 * i + 2] = record[i * STRIDE - 2:i * STRIDE]
            record[i * STRIDE - 2:i * STRIDE] = record[offset:offset + 2]
        self.write(self.record_offset(number), record)
        if mirror and number < 4:
            self.write(self.mirror_lcn * self.cluster + number * self.record_size, record)

    def attributes(self, number):
        record = self.record(number)
        at, found = struct.unpack_from('<H', record, 20)[0], []
        while struct.unpack_from('<I', record, at)[0] != 0xffffffff:
            found.append(Attribute(record, at))
            at += found[-1].length
        return found

    def attribute(self, number, type, name=''):
        for attribute in self.attributes(number):
            if (attribute.type, attribute.name) == (type, name):
                return attribute
        raise ValueError('record %d has no attribute %#x' % (number, type))

    def offset(self, attribute, at=0):
        """Where byte @at of what is not resident stands in the volume."""
        for lcn, length in attribute.runs:
            if at < length * self.cluster:
                return lcn * self.cluster + at
            at -= length * self.cluster
        raise ValueError('behind the end')

    def patch_record(self, number, offset, data, mirror=True):
        record = self.record(number)
        record[offset:offset + len(data)] = data
        self.put_record(number, record, mirror)

    def set_attributes(self, number, attributes):
        """@attributes: their bytes."""
        record = self.record(number)
        start = struct.unpack_from('<H', record, 20)[0]
        body = b''.join(attributes) + struct.pack('<II', 0xffffffff, 0)
        assert start + len(body) <= self.record_size
        record[start:] = body.ljust(self.record_size - start, b'\0')
        struct.pack_into('<I', record, 24, start + len(body))
        self.put_record(number, record)

    def raw_attributes(self, number):
        record = self.record(number)
        return [bytes(record[a.offset:a.offset + a.length]) for a in self.attributes(number)]

    def new_record(self, number, base=0, base_sequence=0, sequence=7):
        """An empty one in use, in the place of @number."""
        model = self.record(3)
        record = bytearray(self.record_size)
        record[:48] = model[:48]
        struct.pack_into('<HHHH', record, 16, sequence, 1, 56, 1)
        struct.pack_into('<IIQ', record, 24, 64, self.record_size, base | base_sequence << 48)
        struct.pack_into('<I', record, 44, number)
        record[56:64] = struct.pack('<II', 0xffffffff, 0)
        self.put_record(number, record)

    def free_ranges(self, bitmap):
        """[offset, bytes] of the clusters that are 0 in @bitmap, the content of $Bitmap."""
        ranges, start = [], None
        for i in range(self.clusters + 1):
            free = i < self.clusters and not bitmap[i // 8] >> i % 8 & 1
            if free and start is None:
                start = i
            elif not free and start is not None:
                ranges.append([self.start + start * self.cluster, (i - start) * self.cluster])
                start = None
        return ranges


def resident(type, value, name=''):
    """The bytes of a resident attribute."""
    text = name.encode('utf-16-le')
    at = 24 + (len(text) + 7 & ~7)
    length = at + len(value) + 7 & ~7
    head = struct.pack('<IIBBHHHIHH', type, length, 0, len(name), 24, 0, 0, len(value), at, 0)
    return (head + text).ljust(at, b'\0') + value.ljust(length - at, b'\0')


def non_resident(type, lowest, runs, size=0, allocated=0, ident=0):
    """The bytes of a piece of an attribute; sizes in the first one only."""
    data = encode_runs(runs)
    length = 64 + len(data) + 7 & ~7
    highest = lowest + sum(n for _, n in runs) - 1
    head = struct.pack('<IIBBHHHQQHHIQQQ', type, length, 1, 0, 64, 0, ident, lowest, highest, 64, 0, 0, allocated, size, size)
    return (head + data).ljust(length, b'\0')


def list_entry(type, lowest, record, sequence, ident):
    return struct.pack('<IHBBQQH', type, 32, 0, 26, lowest, record | sequence << 48, ident).ljust(32, b'\0')


def restart_page(lsn, flags=2, in_use=0, major=1, minor=1, size=4096):
    """Of $LogFile."""
    page = bytearray(size)
    page[:4] = b'RSTR'
    struct.pack_into('<HHQIIHHH', page, 4, 30, size // 512 + 1, 0, size, size, 48, minor, major)
    struct.pack_into('<QHHHH', page, 48, lsn, 1, 0xffff, in_use, flags)
    for i in range(1, size // 512 + 1):
        page[i * 512 - 2:i * 512] = b'\x05\0'
    page[30:32] = b'\x05\0'
    return bytes(page)


def spread_bitmap(ntfs):
    """$Bitmap, of four clusters or more, in three pieces over two other records; returns the attribute list."""
    data = ntfs.attribute(6, 0x80)
    whole = [(lcn + i, 1) for lcn, length in data.runs for i in range(length)]
    assert len(whole) >= 4, data.runs
    others = [a for a, b in zip(ntfs.raw_attributes(6), ntfs.attributes(6)) if b.type != 0x80]
    base_sequence = struct.unpack_from('<H', ntfs.record(6), 16)[0]
    pieces = []
    for record, part, lowest in ((20, whole[:1], 0), (21, whole[1:3], 1), (20, whole[3:], 3)):
        if record not in [p[0] for p in pieces]:
            ntfs.new_record(record, 6, base_sequence)
        allocated = len(whole) * ntfs.cluster if lowest == 0 else 0
        piece = non_resident(0x80, lowest, part, data.size if lowest == 0 else 0, allocated, lowest)
        ntfs.set_attributes(record, ntfs.raw_attributes(record) + [piece])
        pieces.append((record, 7, lowest))
    entries = b''.join(list_entry(*struct.unpack_from('<I', a), 0, 6, base_sequence, *struct.unpack_from('<H', a, 14))
                       for a in others)
    entries += b''.join(list_entry(0x80, lowest, record, sequence, lowest) for record, sequence, lowest in pieces)
    ntfs.set_attributes(6, others[:1] + [resident(0x20, entries)] + others[1:])
    return entries
