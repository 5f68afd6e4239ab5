# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHD images in plain Python: generator and reader for the tests.

Written from the format's description alone and sharing nothing with the library, so that each can judge the
other.  Nothing here is fast or careful with memory: images of tests are small.

Units: bytes, unless a name says _sectors.  All integers on disk are big-endian.
"""

import os
import re
import struct
import uuid

SECTOR = 512
KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
ABSENT = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
EPOCH = 946684800  # Unix time of the format's zero
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
MAX_CHS = 65535 * 16 * 255

FOOTER = struct.Struct('>8sIIQI4sI4sQQHBBII16sB427s')
FOOTER_FIELDS = ('cookie', 'features', 'version', 'data_offset', 'timestamp', 'creator', 'creator_version', 'host_os',
                 'original_size', 'current_size', 'cylinders', 'heads', 'sectors', 'disk_type', 'checksum',
                 'unique_id', 'saved_state', 'reserved')
HEADER = struct.Struct('>8sQQIIII16sII512s192s256s')
HEADER_FIELDS = ('cookie', 'data_offset', 'table_offset', 'version', 'max_table_entries', 'block_size', 'checksum',
                 'parent_id', 'parent_timestamp', 'reserved1', 'parent_name', 'locators', 'reserved2')
LOCATOR = struct.Struct('>4sIIIQ')
BATMAP = struct.Struct('>8sQIIIBB')

assert FOOTER.size == 512 and HEADER.size == 1024 and LOCATOR.size == 24


class VhdError(Exception):
    pass


def round_up(value, step):
    return (value + step - 1) // step * step


def checksum(structure, at):
    """One's complement of the byte sum, the four checksum bytes at @at counted as zero."""
    return ~(sum(structure) - sum(structure[at:at + 4])) & 0xFFFFFFFF


def geometry(size):
    """Cylinders, heads, sectors per track for a disk of @size bytes."""
    total = min(size // SECTOR, MAX_CHS)
    if total >= 65535 * 16 * 63:
        spt, heads = 255, 16
        cth = total // spt
    else:
        spt = 17
        cth = total // spt
        heads = max(4, (cth + 1023) // 1024)
        if cth >= heads * 1024 or heads > 16:
            spt, heads = 31, 16
            cth = total // spt
        if cth >= heads * 1024:
            spt, heads = 63, 16
            cth = total // spt
    return cth // heads, heads, spt


class Record:
    """A decoded structure: attributes named by the table it came from."""

    layout = fields = checksum_at = None

    def __init__(self, **values):
        self.__dict__.update(values)

    @classmethod
    def decode(cls, data):
        return cls(**dict(zip(cls.fields, cls.layout.unpack(data))))

    def encode(self, fix=True):
        data = bytearray(self.layout.pack(*(getattr(self, name) for name in self.fields)))
        if fix:
            struct.pack_into('>I', data, self.checksum_at, checksum(data, self.checksum_at))
        return bytes(data)


class Footer(Record):
    layout, fields, checksum_at = FOOTER, FOOTER_FIELDS, 64

    @classmethod
    def new(cls, disk_type, size, **overrides):
        cylinders, heads, sectors = geometry(size)
        values = dict(cookie=b'conectix', features=2, version=0x10000,
                      data_offset=NO_OFFSET if disk_type == FIXED else SECTOR, timestamp=700000000,
                      creator=b'win ', creator_version=0x000A0000, host_os=b'Wi2k', original_size=size,
                      current_size=size, cylinders=cylinders, heads=heads, sectors=sectors, disk_type=disk_type,
                      checksum=0, unique_id=uuid.uuid4().bytes, saved_state=0, reserved=bytes(427))
        for name, value in overrides.items():
            if name not in values:
                raise KeyError(name)
            values[name] = value
        return cls(**values)


class Header(Record):
    layout, fields, checksum_at = HEADER, HEADER_FIELDS, 36

    @classmethod
    def new(cls, table_offset, entries, block_size, **overrides):
        values = dict(cookie=b'cxsparse', data_offset=NO_OFFSET, table_offset=table_offset, version=0x10000,
                      max_table_entries=entries, block_size=block_size, checksum=0, parent_id=bytes(16),
                      parent_timestamp=0, reserved1=0, parent_name=bytes(512), locators=bytes(192),
                      reserved2=bytes(256))
        for name, value in overrides.items():
            if name not in values:
                raise KeyError(name)
            values[name] = value
        return cls(**values)


def valid_footer(data):
    return (len(data) == 512 and data[:8] == b'conectix'
            and struct.unpack_from('>I', data, 64)[0] == checksum(data, 64))


class Geometry:
    """Sizes that follow from the block size."""

    def __init__(self, block_size):
        self.block_size = block_size
        self.sectors_per_block = block_size // SECTOR
        self.bitmap_bytes = round_up(max(1, (self.sectors_per_block + 7) // 8), SECTOR)
        self.span = self.bitmap_bytes + block_size


# --- writing ----------------------------------------------------------------------------------------------


class Locator:
    """One parent locator to be written: @code is four bytes, @data the stored bytes."""

    def __init__(self, code, data, space_unit='bytes'):
        self.code, self.data, self.space_unit = code, data, space_unit

    @classmethod
    def w2ru(cls, path):
        return cls(b'W2ru', path.encode('utf-16-le'))

    @classmethod
    def w2ku(cls, path):
        return cls(b'W2ku', path.encode('utf-16-le'))

    @classmethod
    def macx(cls, path):
        return cls(b'MacX', path.encode('utf-8'))


def windows_relative(child_path, parent_path):
    relative = os.path.relpath(parent_path, os.path.dirname(os.path.abspath(child_path)))
    return '.\\' + relative.replace('/', '\\') if not relative.startswith('..') else relative.replace('/', '\\')


class Made:
    """What was written where; for tests that go on to damage it."""

    def __init__(self, **values):
        self.__dict__.update(values)


def sectors_of(data):
    """(offset, bytes) writes, later ones on top, as a dict sector -> 512 bytes."""
    sectors = {}
    for offset, blob in data:
        assert offset % SECTOR == 0 and len(blob) % SECTOR == 0
        first = offset // SECTOR
        for i in range(len(blob) // SECTOR):
            sectors[first + i] = blob[i * SECTOR:(i + 1) * SECTOR]
    return sectors


def write_fixed(path, size, data=(), **footer):
    with open(path, 'wb') as f:
        for offset, blob in data:
            assert offset + len(blob) <= size
            f.seek(offset)
            f.write(blob)
        f.seek(size)
        f.write(Footer.new(FIXED, size, **footer).encode())
    return Made(path=path, footer_offset=size)


def write_sparse(path, size, data=(), *, block_size=2 * MiB, parent_id=None, parent_path=None, parent_name=None,
                 parent_timestamp=0, locators=None, rng=None, packed=False, gap=0, exact_bits=None,
                 extra_entries=0, batmap=False, bat_padding=b'\xff', allocate=(), table_offset=None,
                 header=None, **footer):
    """A dynamic image, or with @parent_id (16 bytes; zeros: raw parent) a differencing one.

    @data: (offset, bytes) writes; exactly these sectors are present in a differencing image.
    @allocate: blocks allocated although nothing is written to them (no bit set in a differencing image).
    @locators: list of Locator; None with @parent_path: a relative and a URL locator to it.
    @rng: blocks are placed in random order.  @gap: unused bytes (multiple of 512) before each block.
    @packed: no alignment of data areas.  @exact_bits: dynamic: only bits of written sectors (else all).
    """
    differencing = parent_id is not None
    geo = Geometry(block_size)
    sectors = sectors_of(data)
    blocks = {}
    for sector in sorted(sectors):
        assert sector * SECTOR < size
        blocks.setdefault(sector // geo.sectors_per_block, []).append(sector)
    for block in allocate:
        blocks.setdefault(block, [])

    if locators is None:
        locators = []
        if parent_path is not None:
            locators = [Locator.w2ru(windows_relative(path, parent_path)),
                        Locator.macx('file://' + os.path.abspath(parent_path))]
    if parent_name is None:
        parent_name = os.path.basename(parent_path) if parent_path else ''

    entries = (size + block_size - 1) // block_size + extra_entries
    end = 1536
    slots = bytearray(192)
    locator_offsets = []
    for i, locator in enumerate(locators):
        space = max(SECTOR, round_up(len(locator.data), SECTOR))
        stored_space = space if locator.space_unit == 'bytes' else space // SECTOR
        LOCATOR.pack_into(slots, 24 * i, locator.code, stored_space, len(locator.data), 0, end)
        locator_offsets.append(end)
        end += space
    if table_offset is None:
        table_offset = end
    table_bytes = round_up(4 * entries, SECTOR)
    end = max(end, table_offset + table_bytes)
    batmap_offset = batmap_bytes = None
    if batmap:
        assert block_size == 2 * MiB
        batmap_offset = end
        batmap_bytes = max(SECTOR, round_up((entries + 7) // 8, SECTOR))
        end += SECTOR + batmap_bytes
        footer.setdefault('creator', b'tap\0')
        footer.setdefault('creator_version', 0x00010003)
        footer.setdefault('host_os', bytes(4))

    order = sorted(blocks)
    if rng is not None:
        rng.shuffle(order)
    bat = [ABSENT] * entries
    place = {}
    for block in order:
        end += gap
        start = round_up(end, SECTOR) if packed else round_up(end + geo.bitmap_bytes, 4096) - geo.bitmap_bytes
        place[block] = start
        bat[block] = start // SECTOR
        end = start + geo.span
    end = round_up(end, SECTOR)

    foot = Footer.new(DIFFERENCING if differencing else DYNAMIC, size, **footer)
    head_values = dict(locators=bytes(slots))
    if differencing:
        name = parent_name.encode('utf-16-be')[:512]
        head_values.update(parent_id=parent_id, parent_timestamp=parent_timestamp,
                           parent_name=name + bytes(512 - len(name)))
    head_values.update(header or {})
    head = Header.new(table_offset, entries, block_size, **head_values)
    full = set()
    with open(path, 'wb') as f:
        f.write(foot.encode())
        f.write(head.encode())
        for locator, offset in zip(locators, locator_offsets):
            f.seek(offset)
            f.write(locator.data)
        f.seek(table_offset)
        f.write(struct.pack('>%dI' % entries, *bat))
        f.write(bat_padding * (table_bytes - 4 * entries))
        for block, start in place.items():
            first = block * geo.sectors_per_block
            bits = bytearray(geo.bitmap_bytes)
            if differencing or exact_bits:
                for sector in blocks[block]:
                    i = sector - first
                    bits[i // 8] |= 0x80 >> (i % 8)
                if len(blocks[block]) == geo.sectors_per_block:
                    full.add(block)
            else:
                for i in range(geo.sectors_per_block):
                    bits[i // 8] |= 0x80 >> (i % 8)
                full.add(block)
            f.seek(start)
            f.write(bits)
            for sector in blocks[block]:
                f.seek(start + geo.bitmap_bytes + (sector - first) * SECTOR)
                f.write(sectors[sector])
        if batmap:
            bitset = bytearray(batmap_bytes)
            for block in full:
                bitset[block // 8] |= 0x80 >> (block % 8)
            f.seek(batmap_offset)
            f.write(BATMAP.pack(b'tdbatmap', batmap_offset + SECTOR, batmap_bytes // SECTOR, 0x00010002,
                                ~sum(bitset) & 0xFFFFFFFF, 0, 0).ljust(SECTOR, b'\0'))
            f.write(bitset)
        f.seek(end)
        f.write(foot.encode())
    return Made(path=path, footer_offset=end, table_offset=table_offset, entries=entries, place=place, geo=geo,
                unique_id=foot.unique_id, locator_offsets=locator_offsets, batmap_offset=batmap_offset)


# --- damaging ---------------------------------------------------------------------------------------------


def read_at(path, offset, count):
    with open(path, 'rb') as f:
        f.seek(offset)
        return f.read(count)


def write_at(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)


def end_footer_offset(path):
    return os.path.getsize(path) - SECTOR


def patch_footer(path, fix=True, copies=('head', 'end'), **fields):
    """Change fields of a dynamic image's two footers (fixed: give copies=('end',))."""
    for where in copies:
        offset = 0 if where == 'head' else end_footer_offset(path)
        footer = Footer.decode(read_at(path, offset, 512))
        for name, value in fields.items():
            assert name in FOOTER_FIELDS
            setattr(footer, name, value)
        write_at(path, offset, footer.encode(fix))


def patch_header(path, fix=True, offset=512, **fields):
    header = Header.decode(read_at(path, offset, 1024))
    for name, value in fields.items():
        assert name in HEADER_FIELDS
        setattr(header, name, value)
    write_at(path, offset, header.encode(fix))


def patch_locator(path, slot, offset=512, **fields):
    header = Header.decode(read_at(path, offset, 1024))
    slots = bytearray(header.locators)
    names = ('code', 'space', 'length', 'reserved', 'data_offset')
    values = dict(zip(names, LOCATOR.unpack_from(slots, 24 * slot)))
    for name, value in fields.items():
        assert name in names
        values[name] = value
    LOCATOR.pack_into(slots, 24 * slot, *(values[name] for name in names))
    header.locators = bytes(slots)
    write_at(path, offset, header.encode())


def patch_bat(path, index, value, offset=512):
    header = Header.decode(read_at(path, offset, 1024))
    write_at(path, header.table_offset + 4 * index, struct.pack('>I', value))


# --- reading ----------------------------------------------------------------------------------------------


def bit_runs(bitmap, count):
    """(start, end, bit) runs of the first @count bits, most significant bit first."""
    text = bin(int.from_bytes(b'\1' + bytes(bitmap), 'big'))[3:3 + count]
    for match in re.finditer('0+|1+', text):
        yield match.start(), match.end(), text[match.start()] == '1'


class Raw:
    """A raw file in the place of an image."""

    def __init__(self, path):
        self.path = path
        self.size = os.path.getsize(path)
        self.parent = None
        self.kind = None

    def read(self, offset, count):
        data = read_at(self.path, offset, min(count, max(0, self.size - offset))) if offset < self.size else b''
        return data + bytes(count - len(data))

    def read_all(self):
        return self.read(0, self.size)


class Vhd:
    """An image opened for reading.  @parent: a Raw or Vhd; without one a differencing image can be looked
    at, not read."""

    def __init__(self, path, parent=None, lenient=False):
        self.path = path
        self.parent = parent
        self.file_size = os.path.getsize(path)
        self.footer_from = None
        tail = read_at(path, max(0, self.file_size - 512), 512)
        head = read_at(path, 0, 512)
        candidates = [('end', tail)]
        if self.file_size % 512 == 511:
            candidates.append(('end511', read_at(path, self.file_size - 511, 511) + b'\0'))
        candidates.append(('head', head))
        for name, data in candidates:
            if valid_footer(data) or (lenient and len(data) == 512 and data[:8] == b'conectix'):
                self.footer_from = name
                self.footer = Footer.decode(data)
                break
        if self.footer_from is None:
            # The hidden mark may have been set without a new checksum by very old writers.
            raise VhdError('%s: no valid footer' % path)
        self.kind = self.footer.disk_type
        self.size = self.footer.current_size
        self.unique_id = self.footer.unique_id
        self.header = None
        if self.kind == FIXED:
            return
        if self.kind not in (DYNAMIC, DIFFERENCING):
            raise VhdError('%s: disk type %d' % (path, self.kind))
        data = read_at(path, self.footer.data_offset, 1024)
        if data[:8] != b'cxsparse' or (not lenient and struct.unpack_from('>I', data, 36)[0] != checksum(data, 36)):
            raise VhdError('%s: bad dynamic header' % path)
        self.header = Header.decode(data)
        self.geo = Geometry(self.header.block_size)
        self.blocks = (self.size + self.header.block_size - 1) // self.header.block_size
        if self.header.max_table_entries < self.blocks:
            raise VhdError('%s: table too small' % path)
        table = read_at(path, self.header.table_offset, 4 * self.header.max_table_entries)
        self.bat = struct.unpack('>%dI' % self.header.max_table_entries, table)

    def bitmap(self, block):
        return read_at(self.path, self.bat[block] * SECTOR, self.geo.bitmap_bytes)

    def allocated(self):
        return [i for i in range(self.blocks) if self.bat[i] != ABSENT]

    def present_sectors(self, block):
        """Bits set in a block's bitmap."""
        return sum(e - s for s, e, bit in bit_runs(self.bitmap(block), self.geo.sectors_per_block) if bit)

    def _parent_read(self, offset, count):
        if self.parent is None:
            raise VhdError('%s: parent needed' % self.path)
        inside = min(count, max(0, self.parent.size - offset))
        data = self.parent.read(offset, inside) if inside else b''
        return data + bytes(count - inside)

    def read(self, offset, count):
        """Guest bytes; zeros behind the end."""
        if offset + count > self.size:
            inside = max(0, self.size - offset)
            return (self.read(offset, inside) if inside else b'') + bytes(count - inside)
        if self.kind == FIXED:
            return read_at(self.path, offset, count)
        out = bytearray(count)
        with open(self.path, 'rb') as f:
            at = offset
            while at < offset + count:
                block = at // self.geo.block_size
                block_start = block * self.geo.block_size
                stop = min(offset + count, block_start + self.geo.block_size)
                entry = self.bat[block]
                if entry == ABSENT:
                    if self.kind == DIFFERENCING:
                        out[at - offset:stop - offset] = self._parent_read(at, stop - at)
                    at = stop
                    continue
                data_offset = entry * SECTOR + self.geo.bitmap_bytes
                if self.kind == DYNAMIC:
                    f.seek(data_offset + at - block_start)
                    data = f.read(stop - at)
                    out[at - offset:at - offset + len(data)] = data
                    at = stop
                    continue
                f.seek(entry * SECTOR)
                for s, e, bit in bit_runs(f.read(self.geo.bitmap_bytes), self.geo.sectors_per_block):
                    a = max(at, block_start + s * SECTOR)
                    b = min(stop, block_start + e * SECTOR)
                    if a >= b:
                        continue
                    if bit:
                        f.seek(data_offset + a - block_start)
                        out[a - offset:b - offset] = f.read(b - a)
                    else:
                        out[a - offset:b - offset] = self._parent_read(a, b - a)
                at = stop
        return bytes(out)

    def read_all(self):
        return self.read(0, self.size)

    def locators(self):
        """(code, stored bytes) of the used slots, in order."""
        found = []
        for i in range(8):
            code, _, length, _, offset = LOCATOR.unpack_from(self.header.locators, 24 * i)
            if code != bytes(4):
                found.append((code, read_at(self.path, offset, length)))
        return found

    def parent_candidates(self):
        """Host paths the image names, each as (where it stood, path)."""
        base = os.path.dirname(os.path.abspath(self.path))
        paths = []
        for code, data in self.locators():
            if code == b'W2ru':
                text = data.decode('utf-16-le').replace('\\', '/')
            elif code == b'MacX':
                text = re.sub('%([0-9a-fA-F]{2})', lambda m: chr(int(m.group(1), 16)),
                              data.decode('utf-8', 'surrogateescape'))
                text = re.sub('^file://(localhost)?', '', text)
            elif code == b'W2ku':
                text = data.decode('utf-16-le').replace('\\', '/').rsplit('/', 1)[-1]
            else:
                continue
            paths.append((code.decode(), os.path.join(base, text)))
        name = self.header.parent_name.decode('utf-16-be').split('\0')[0]
        if name:
            paths.append(('name', os.path.join(base, name.replace('\\', '/').rsplit('/', 1)[-1])))
        return paths


def open_chain(path, raw_parent=None, lenient=False):
    """Open an image and the parents it names itself; only a raw parent has to be allowed by a path or True."""
    image = Vhd(path, lenient=lenient)
    if image.kind != DIFFERENCING:
        return image
    raw = image.header.parent_id == bytes(16)
    tried = []
    for origin, candidate in image.parent_candidates():
        tried.append('%s %s' % (origin, candidate))
        if not os.path.isfile(candidate):
            continue
        if raw:
            if raw_parent:
                image.parent = Raw(candidate)
                return image
            continue
        parent = open_chain(candidate, raw_parent, lenient)
        if parent.unique_id == image.header.parent_id:
            image.parent = parent
            return image
    raise VhdError('%s: no parent among %s' % (path, ', '.join(tried)))


def link_chain(paths, lenient=False):
    """Open a chain given from the leaf to the base; a last file without a footer is raw."""
    image = None
    for path in reversed(paths):
        try:
            image = Vhd(path, parent=image, lenient=lenient)
        except VhdError:
            if image is not None:
                raise
            image = Raw(path)
    return image
