# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHDX images read in plain Python, from the format's description alone: chains, bitmaps, logs replayed in memory.

Strict about what is needed to read; what else may be wrong with an image is the checker's subject.  Works in runs
and loads the table by the chunk, so the size of a disk costs little.
"""

import array
import os
import struct
import sys
import uuid

import vhdxlog
from vhdxformat import (BAT, CHS, DISK_ID, DISK_SIZE, FULL, Geometry, HAS_PARENT, HEADER_BYTES, HEADERS, INCOMPLETE,
                        IS_REQUIRED, IS_USER, LEAVE_ALLOCATED, LOCATOR, LOCATOR_VHDX, LOGICAL, METADATA, MiB, NIL,
                        NOT_PRESENT, PARAMETERS, PARTIAL, PATH_KEYS, PHYSICAL, PMEM_LABEL, TABLE_BYTES, TABLES, TiB,
                        VhdxError, bit_runs, sum_is_right)

KNOWN_ITEMS = (PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL, PHYSICAL, LOCATOR)
OPTIONAL_ITEMS = (CHS, PMEM_LABEL)
DEEPEST = 256
LARGEST_LOG = 1 << 30


class Header:
    """One of the two copies, as it stands."""

    def __init__(self, data):
        (self.signature, self.checksum, self.sequence, file_write, data_write, log, self.log_version, self.version,
         self.log_length, self.log_offset) = struct.unpack_from('<4sIQ16s16s16sHHIQ', data)
        self.file_write_guid = uuid.UUID(bytes_le=file_write)
        self.data_write_guid = uuid.UUID(bytes_le=data_write)
        self.log_guid = uuid.UUID(bytes_le=log)
        self.data = data
        self.valid = self.signature == b'head' and sum_is_right(data)


def current_header(headers):
    """Which of two copies counts."""
    valid = [header for header in headers if header.valid]
    if not valid:
        raise VhdxError('no valid header')
    if len(valid) == 2 and valid[0].sequence == valid[1].sequence:
        if valid[0].data[8:] != valid[1].data[8:]:
            raise VhdxError('two different headers of one sequence number')
        return valid[0]
    return max(valid, key=lambda header: header.sequence)


class Region:
    def __init__(self, data):
        guid, self.offset, self.length, self.flags = struct.unpack('<16sQII', data)
        self.guid, self.required = uuid.UUID(bytes_le=guid), bool(self.flags & 1)
        self.end = self.offset + self.length


def decode_regions(data):
    """Of one copy of the region table; None where it is not valid."""
    signature, _, count, _ = struct.unpack_from('<4sIII', data)
    if signature != b'regi' or count > 2047 or not sum_is_right(data):
        return None
    return [Region(data[16 + 32 * i:48 + 32 * i]) for i in range(count)]


class Item:
    def __init__(self, data):
        guid, self.offset, self.length, self.flags, self.reserved = struct.unpack('<16sIIII', data)
        self.guid = uuid.UUID(bytes_le=guid)


def decode_items(table):
    signature, _, count = struct.unpack_from('<8sHH', table)
    if signature != b'metadata':
        raise VhdxError('metadata signature %r' % signature)
    if count > 2047:
        raise VhdxError('%d metadata entries' % count)
    return [Item(table[32 + 32 * i:64 + 32 * i]) for i in range(count)]


def decode_locator(data):
    """[(key, value)] of a parent locator."""
    if len(data) < 20 or data[:16] != LOCATOR_VHDX.bytes_le:
        raise VhdxError('parent locator of another type')
    count = struct.unpack_from('<H', data, 18)[0]
    if not count or len(data) < 20 + 12 * count:
        raise VhdxError('parent locator: %d entries in %d bytes' % (count, len(data)))
    pairs = []
    for i in range(count):
        key_at, value_at, key_bytes, value_bytes = struct.unpack_from('<IIHH', data, 20 + 12 * i)
        texts = []
        for at, length in ((key_at, key_bytes), (value_at, value_bytes)):
            if not at or not length or length % 2 or at + length > len(data):
                raise VhdxError('parent locator: entry %d, %d bytes at %d' % (i, length, at))
            texts.append(data[at:at + length].decode('utf-16-le', 'surrogatepass'))
        pairs.append(tuple(texts))
    if len({key for key, _ in pairs}) < count:
        raise VhdxError('parent locator: a key twice')
    return pairs


def linkage_guid(text):
    try:
        return uuid.UUID(text)
    except ValueError:
        raise VhdxError('linkage %r' % text) from None


class Image:
    """One file.  @parent: an Image; without one a differencing image can be looked at, not read through."""

    def __init__(self, path, parent=None):
        self.path, self.parent = path, parent
        self.file = vhdxlog.Overlay(path)
        if self.file.read(0, 8) != b'vhdxfile' if self.file.size >= MiB else True:
            raise VhdxError('%s: no VHDX' % path)
        self._read_headers()
        self._replay()
        self._read_regions()
        self._read_metadata()

    def _read_headers(self):
        self.headers = [Header(self.file.read(at, HEADER_BYTES)) for at in HEADERS]
        self.header = head = current_header(self.headers)
        self.data_write_guid = head.data_write_guid
        if head.version != 1:
            raise VhdxError('version %d' % head.version)
        if head.log_guid != NIL and head.log_version != 0:
            raise VhdxError('log version %d' % head.log_version)
        if (head.log_length % MiB or head.log_offset % MiB or head.log_offset < MiB and head.log_length
                or head.log_offset + head.log_length > self.file.real_size):
            raise VhdxError('log of %d bytes at %d' % (head.log_length, head.log_offset))

    def _replay(self):
        self.active = []
        head = self.header
        if head.log_guid == NIL:
            return
        if not 0 < head.log_length <= LARGEST_LOG:
            raise VhdxError('a log GUID, and a log of %d bytes' % head.log_length)
        ring = self.file.read(head.log_offset, head.log_length)
        self.active = vhdxlog.find(ring, head.log_guid)
        if self.active is None:
            raise VhdxError('log corrupt: no valid sequence')
        self.file.replay(self.active, head.log_offset, head.log_offset + head.log_length)

    def _read_regions(self):
        tables = [decode_regions(self.file.read(at, TABLE_BYTES)) for at in TABLES]
        self.regions = tables[0] if tables[0] is not None else tables[1]
        if self.regions is None:
            raise VhdxError('no valid region table')
        found = {}
        for region in self.regions:
            if region.guid in found:
                raise VhdxError('region %s twice' % region.guid)
            if region.guid not in (BAT, METADATA) and region.required:
                raise VhdxError('unknown region %s is required' % region.guid)
            if region.offset % MiB or region.offset < MiB or not region.length or region.length % MiB:
                raise VhdxError('region %s: %d bytes at %d' % (region.guid, region.length, region.offset))
            found[region.guid] = region
        if BAT not in found or METADATA not in found:
            raise VhdxError('no BAT region' if BAT not in found else 'no metadata region')
        self.bat_region, self.metadata_region = found[BAT], found[METADATA]

    def item_bytes(self, item):
        if not item.length:
            return b''
        if item.offset < TABLE_BYTES or item.offset + item.length > self.metadata_region.length:
            raise VhdxError('item %s: %d bytes at %d' % (item.guid, item.length, item.offset))
        return self.file.read(self.metadata_region.offset + item.offset, item.length)

    def _read_metadata(self):
        self.items = decode_items(self.file.read(self.metadata_region.offset, TABLE_BYTES))
        content = {}
        for item in self.items:
            key = item.guid, item.flags & IS_USER
            if key in content:
                raise VhdxError('metadata item %s twice' % item.guid)
            if item.guid == INCOMPLETE and not item.flags & IS_USER:
                raise VhdxError('creation was not finished')
            required = item.flags & (IS_REQUIRED | IS_USER) == IS_REQUIRED
            if required and item.guid not in KNOWN_ITEMS + OPTIONAL_ITEMS:
                raise VhdxError('unknown metadata item %s is required' % item.guid)
            content[key] = self.item_bytes(item)

        def known(guid, layout):
            data = content.get((guid, 0))
            if data is None or len(data) != struct.calcsize(layout):
                raise VhdxError('metadata item %s: %s' % (guid, 'missing' if data is None else '%d bytes' % len(data)))
            return struct.unpack(layout, data)

        self.block_size, self.flags = known(PARAMETERS, '<II')
        self.size, = known(DISK_SIZE, '<Q')
        self.sector, = known(LOGICAL, '<I')
        self.physical, = known(PHYSICAL, '<I')
        self.disk_id = uuid.UUID(bytes_le=known(DISK_ID, '<16s')[0])
        if self.block_size & (self.block_size - 1) or not MiB <= self.block_size <= 256 * MiB:
            raise VhdxError('block size %d' % self.block_size)
        if self.sector not in (512, 4096) or not 0 < self.size <= 64 * TiB or self.size % self.sector:
            raise VhdxError('disk of %d bytes in sectors of %d' % (self.size, self.sector))
        self.differencing = bool(self.flags & HAS_PARENT)
        self.kind = ('differencing' if self.differencing else
                     'fixed' if self.flags & LEAVE_ALLOCATED else 'dynamic')
        self.geo = Geometry(self.size, self.block_size, self.sector, self.differencing)
        if self.geo.entries * 8 > self.bat_region.length:
            raise VhdxError('BAT too small: %d bytes for %d entries' % (self.bat_region.length, self.geo.entries))
        self.locator = dict(decode_locator(content.get((LOCATOR, 0), b''))) if self.differencing else {}
        self.content = content

    # the table --------------------------------------------------------------------------------------------------

    def entries(self, first, count):
        values = array.array('Q', self.file.read(self.bat_region.offset + 8 * first, 8 * count))
        if sys.byteorder == 'big':
            values.byteswap()
        return values

    def payload(self, block):
        return self.entries(self.geo.payload_index(block), 1)[0]

    def chunks(self):
        """(first block, payload entries or None where all are zero, bitmap entry) of each chunk."""
        geo = self.geo
        for chunk in range(geo.chunks):
            first = chunk * geo.ratio
            count = min(geo.ratio, geo.blocks - first)
            data = self.file.read(self.bat_region.offset + 8 * geo.payload_index(first), 8 * count)
            values = None if data.count(0) == len(data) else self.entries(geo.payload_index(first), count)
            bitmap = 0
            if geo.bitmap_index(chunk) < geo.entries:
                bitmap = self.entries(geo.bitmap_index(chunk), 1)[0]
            yield first, values, bitmap

    def allocated(self):
        """Blocks with data of their own, in states 6 and 7."""
        return [first + i for first, values, _ in self.chunks() if values is not None
                for i, value in enumerate(values) if value & 7 in (FULL, PARTIAL)]

    def bits(self, block, bitmap_entry=None):
        if bitmap_entry is None:
            bitmap_entry = self.entries(self.geo.bitmap_index(block // self.geo.ratio), 1)[0]
        if bitmap_entry & 7 != FULL or bitmap_entry & 0xFFFF8 or not bitmap_entry >> 20:
            raise VhdxError('block %d is partly present, its bitmap entry is %#x' % (block, bitmap_entry))
        return self.file.read((bitmap_entry & ~0xFFFFF) + self.geo.bits_offset(block), self.geo.bits_bytes)

    def pieces(self, start, end):
        """(start, end, where) of what this file says of a range: where is 'zero', 'parent' or a file offset."""
        return joined(self._pieces(start, end))

    def _pieces(self, start, end):
        geo = self.geo
        block_size = geo.block_size
        first_block, last_block = start // block_size, -(-end // block_size)
        while first_block < last_block:
            chunk = first_block // geo.ratio
            count = min(last_block, (chunk + 1) * geo.ratio) - first_block
            values = self.entries(geo.payload_index(first_block), count)
            absent = 'parent' if self.differencing else 'zero'
            if not any(values):
                yield max(start, first_block * block_size), min(end, (first_block + count) * block_size), absent
            else:
                for block, value in enumerate(values, first_block):
                    a, b = max(start, block * block_size), min(end, (block + 1) * block_size)
                    yield from self._block_pieces(block, value, a, b, absent)
            first_block += count

    def _block_pieces(self, block, value, start, end, absent):
        state, offset = value & 7, value & ~0xFFFFF
        # State 5 was 3 in drafts of the format, which had no parents.
        if value & 0xFFFF8 or state == 4 or state == 5 and self.differencing:
            raise VhdxError('block %d: entry %#x' % (block, value))
        if state == NOT_PRESENT:
            yield start, end, absent
        elif state < FULL:
            yield start, end, 'zero'
        else:
            if offset < MiB:
                raise VhdxError('block %d: entry %#x' % (block, value))
            base = block * self.block_size
            if state == FULL:
                yield start, end, offset + start - base
                return
            if not self.differencing:
                raise VhdxError('block %d is partly present in a disk without parent' % block)
            for s, e, bit in bit_runs(self.bits(block), self.geo.sectors_per_block):
                a, b = max(start, base + s * self.sector), min(end, base + e * self.sector)
                if a < b:
                    yield a, b, offset + a - base if bit else 'parent'

    # the disk ---------------------------------------------------------------------------------------------------

    def through(self, start, end):
        """(start, end, image, file offset) of what a guest sees; image is None for zeros."""
        stop = min(end, self.size)
        for a, b, where in self.pieces(start, stop) if start < stop else ():
            if where == 'zero':
                yield a, b, None, 0
            elif where == 'parent':
                if self.parent is None:
                    raise VhdxError('%s: parent needed' % self.path)
                yield from self.parent.through(a, b)
            else:
                yield a, b, self, where
        if stop < end:
            yield max(start, stop), end, None, 0

    def extents(self):
        """What may be other than zero."""
        out = []
        for start, end, image, _ in self.through(0, self.size):
            if image is None:
                continue
            if out and out[-1][1] == start:
                out[-1] = out[-1][0], end
            else:
                out.append((start, end))
        return out

    def read(self, offset, count):
        out = bytearray(count)
        for start, end, image, where in self.through(offset, offset + count):
            if image is not None:
                out[start - offset:end - offset] = image.file.read(where, end - start)
        return bytes(out)

    def read_all(self):
        """For small disks."""
        return self.read(0, self.size)

    def close(self):
        self.file.file.close()
        if self.parent is not None:
            self.parent.close()

    # the parent -------------------------------------------------------------------------------------------------

    def linkages(self):
        """The identities a parent may have."""
        if 'parent_linkage' not in self.locator:
            raise VhdxError('parent locator without parent_linkage')
        first = linkage_guid(self.locator['parent_linkage'])
        second = linkage_guid(self.locator.get('parent_linkage2', str(NIL)))
        return [guid for guid in (first, second) if guid != NIL]

    def accepts(self, parent):
        return parent.data_write_guid in self.linkages()

    def parent_candidates(self):
        """Host paths the locator leads to: the relative one, then base names beside the child."""
        folder = os.path.dirname(os.path.abspath(self.path))
        texts = [self.locator[key].replace('\\', '/') for key in PATH_KEYS if key in self.locator]
        relative = self.locator.get('relative_path', '').replace('\\', '/')
        paths = [os.path.normpath(os.path.join(folder, relative))] if relative else []
        return paths + [os.path.join(folder, text.rsplit('/', 1)[-1]) for text in texts]


def joined(pieces):
    """Neighbours that continue each other as one."""
    before = None
    for start, end, where in pieces:
        if before is not None:
            a, b, there = before
            if where == there if isinstance(where, str) else not isinstance(there, str) and there + b - a == where:
                before = a, end, there
                continue
            yield before
        before = start, end, where
    if before is not None:
        yield before


def link(child, parent):
    """Joins two opened images if they belong together."""
    if not child.accepts(parent):
        raise VhdxError('%s: its parent is %s, %s is %s' % (child.path, ' or '.join(map(str, child.linkages())),
                                                          parent.path, parent.data_write_guid))
    if child.sector != parent.sector:
        raise VhdxError('%s: sectors of %d over sectors of %d' % (child.path, child.sector, parent.sector))
    child.parent = parent
    return child


def open_chain(path, seen=()):
    """Opens an image and the parents it names itself."""
    identity = os.stat(path).st_dev, os.stat(path).st_ino
    if identity in seen or len(seen) > DEEPEST:
        raise VhdxError('%s: the chain loops' % path)
    image = Image(path)
    if not image.differencing:
        return image
    for candidate in image.parent_candidates():
        if os.path.isfile(candidate) and image.accepts(Image(candidate)):
            return link(image, open_chain(candidate, seen + (identity,)))
    raise VhdxError('%s: no parent %s among %s' % (path, ' or '.join(map(str, image.linkages())),
                                                  ', '.join(image.parent_candidates())))


def link_chain(paths):
    """Opens a chain given from the leaf to the base."""
    image = None
    for path in reversed(paths):
        above = Image(path)
        image = link(above, image) if image is not None else above
    return image
