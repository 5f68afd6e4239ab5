# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts of the VHDX format that writer, reader and checker of the tests share: identities, states, sums, sizes.

Written from the format's description alone, sharing nothing with the library.  All integers on disk are
little-endian; units are bytes, unless a name says otherwise.
"""

import functools
import re
import struct
import uuid

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PAGE = 4096
HEADERS, HEADER_BYTES = (64 * KiB, 128 * KiB), 4096
TABLES, TABLE_BYTES = (192 * KiB, 256 * KiB), 65536

BAT = uuid.UUID('2DC27766-F623-4200-9D64-115E9BFD4A08')
METADATA = uuid.UUID('8B7CA206-4790-4B9A-B8FE-575F050F886E')
PARAMETERS = uuid.UUID('CAA16737-FA36-4D43-B3B6-33F0AA44E76B')
DISK_SIZE = uuid.UUID('2FA54224-CD1B-4876-B211-5DBED83BF4B8')
DISK_ID = uuid.UUID('BECA12AB-B2E6-4523-93EF-C309E000C746')
LOGICAL = uuid.UUID('8141BF1D-A96F-4709-BA47-F233A8FAAB5F')
PHYSICAL = uuid.UUID('CDA348C7-445D-4471-9CC9-E9885251C556')
LOCATOR = uuid.UUID('A8D35F2D-B30B-454D-ABF7-D3D84834AB0C')
LOCATOR_VHDX = uuid.UUID('B04AEFB7-D19E-4A81-B789-25B8E9445913')
CHS = uuid.UUID('DA02D7BC-3D3A-423C-AC88-2A36AB21479B')
INCOMPLETE = uuid.UUID('71CC85F0-1B69-4E28-9558-C3BF83AE75D3')
PMEM_LABEL = uuid.UUID('10E1AE8A-4B7E-4169-A40F-CD70DE928393')
NIL = uuid.UUID(int=0)

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7

# Metadata entry flags, and flags of the file parameters.
IS_USER, IS_VIRTUAL_DISK, IS_REQUIRED = 1, 2, 4
LEAVE_ALLOCATED, HAS_PARENT = 1, 2

PATH_KEYS = ('relative_path', 'volume_path', 'absolute_win32_path')


class VhdxError(Exception):
    pass


def round_up(value, step):
    return -(-value // step) * step


# --- CRC-32C ----------------------------------------------------------------------------------------------------

POLYNOMIAL = 0x82F63B78
TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (POLYNOMIAL if n & 1 else 0)
    TABLE.append(n)
LONG_ZEROS = re.compile(b'\0{256,}')


def _product(a, b):
    """Of two polynomials of degree 31, bit 31 the constant term, modulo the sum's."""
    out = 0
    while a:
        if a & 0x80000000:
            out ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return out


@functools.lru_cache(maxsize=4096)
def _zeros_factor(count):
    """x to the power of the bits in @count bytes."""
    factor, power = 0x80000000, 0x00800000
    while count:
        if count & 1:
            factor = _product(factor, power)
        power = _product(power, power)
        count >>= 1
    return factor


def crc32c(data):
    """Runs of zeros, of which structures mostly consist, are stepped over."""
    data = bytes(data)
    crc, at = 0xFFFFFFFF, 0
    table = TABLE
    for start, end in [m.span() for m in LONG_ZEROS.finditer(data)] + [(len(data), len(data))]:
        for byte in data[at:start]:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        if end > start:
            crc = _product(_zeros_factor(end - start), crc)
        at = end
    return crc ^ 0xFFFFFFFF


assert crc32c(b'123456789') == 0xE3069283 and crc32c(bytes(4096)) == 0x98F94189 and crc32c(bytes(32)) == 0x8A9136AA


def with_sum(data, offset=4):
    """@data with its CRC-32C at @offset."""
    data = bytearray(data)
    data[offset:offset + 4] = bytes(4)
    data[offset:offset + 4] = struct.pack('<I', crc32c(data))
    return bytes(data)


def sum_is_right(data, offset=4):
    return with_sum(data, offset) == bytes(data)


# --- arithmetic of the block allocation table -------------------------------------------------------------------


class Geometry:
    """Where the entries of a disk stand.  A chunk is what one bitmap block covers: 2^23 sectors."""

    def __init__(self, size, block_size, sector, differencing):
        self.size, self.block_size, self.sector, self.differencing = size, block_size, sector, differencing
        self.ratio = (sector << 23) // block_size
        self.blocks = -(-size // block_size)
        self.chunks = -(-self.blocks // self.ratio)
        if differencing:
            self.entries = self.chunks * (self.ratio + 1)
        else:
            self.entries = self.blocks + (self.blocks - 1) // self.ratio
        self.sectors_per_block = block_size // sector
        self.bits_bytes = self.sectors_per_block // 8

    def payload_index(self, block):
        return block + block // self.ratio

    def bitmap_index(self, chunk):
        return chunk * (self.ratio + 1) + self.ratio

    def bits_offset(self, block):
        """Where in its chunk's bitmap block the bits of @block begin."""
        return block % self.ratio * self.bits_bytes


def bit_runs(bitmap, count):
    """(start, end, bit) runs of the first @count bits, least significant bit first."""
    number = int.from_bytes(bytes(bitmap), 'little') & ((1 << count) - 1) | 1 << count
    for match in re.finditer('0+|1+', bin(number)[:2:-1]):
        yield match.start(), match.end(), match.group()[0] == '1'


def bits_of(runs, count):
    """The bitmap of @count bits in which @runs, (start, end) pairs, are set."""
    number = 0
    for start, end in runs:
        number |= (1 << end) - (1 << start)
    return number.to_bytes(-(-count // 8), 'little')
