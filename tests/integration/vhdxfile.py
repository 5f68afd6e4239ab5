# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small independent writer of VHDX files, for tests: identifier, headers, regions, metadata, BAT, log entries."""

import struct
import uuid

MiB = 1 << 20
BAT = uuid.UUID('2DC27766-F623-4200-9D64-115E9BFD4A08')
METADATA = uuid.UUID('8B7CA206-4790-4B9A-B8FE-575F050F886E')
PARAMETERS = uuid.UUID('CAA16737-FA36-4D43-B3B6-33F0AA44E76B')
DISK_SIZE = uuid.UUID('2FA54224-CD1B-4876-B211-5DBED83BF4B8')
DISK_ID = uuid.UUID('BECA12AB-B2E6-4523-93EF-C309E000C746')
LOGICAL = uuid.UUID('8141BF1D-A96F-4709-BA47-F233A8FAAB5F')
PHYSICAL = uuid.UUID('CDA348C7-445D-4471-9CC9-E9885251C556')
LOCATOR = uuid.UUID('A8D35F2D-B30B-454D-ABF7-D3D84834AB0C')
LOCATOR_VHDX = uuid.UUID('B04AEFB7-D19E-4A81-B789-25B8E9445913')
INCOMPLETE = uuid.UUID('71CC85F0-1B69-4E28-9558-C3BF83AE75D3')

TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_sum(data, offset=4):
    """@data with its CRC-32C at @offset."""
    data = bytearray(data)
    data[offset:offset + 4] = bytes(4)
    data[offset:offset + 4] = struct.pack('<I', crc32c(data))
    return bytes(data)


class Vhdx:
    """A dynamic image with a log at 1 MiB, metadata at 2 MiB, the BAT at 3 MiB and blocks behind it.  Tests change
    its members, or the bytes of what they make, before it is written."""

    def __init__(self, size=8 * MiB, block_size=MiB, sector=512):
        self.size, self.block_size, self.sector = size, block_size, sector
        self.sequence = [1, 2]
        self.version, self.log_version = 1, 0
        self.log_guid = uuid.UUID(int=0)
        self.log_length, self.log_offset = MiB, MiB
        self.data_write_guid = uuid.uuid4()
        self.regions = [(BAT, 3 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)]
        self.flags = 0
        self.items = [(PARAMETERS, None, 4), (DISK_SIZE, None, 6), (DISK_ID, uuid.uuid4().bytes_le, 6),
                      (LOGICAL, None, 6), (PHYSICAL, struct.pack('<I', 4096), 6)]
        self.bat = {}
        self.patches = []           # (file offset, bytes), last of all
        self.region_sums = [True, True]
        self.header_sums = [True, True]
        self.log = b''
        self.file_size = None

    def header(self, which):
        data = struct.pack('<4sIQ16s16s16sHHIQ', b'head', 0, self.sequence[which], uuid.uuid4().bytes_le,
                           self.data_write_guid.bytes_le, self.log_guid.bytes_le, self.log_version, self.version,
                           self.log_length, self.log_offset).ljust(4096, b'\0')
        return with_sum(data) if self.header_sums[which] else data

    def region_table(self, which):
        data = struct.pack('<4sIII', b'regi', 0, len(self.regions), 0)
        for guid, offset, length, required in self.regions:
            data += struct.pack('<16sQII', guid.bytes_le, offset, length, required)
        data = data.ljust(65536, b'\0')
        return with_sum(data) if self.region_sums[which] else data

    def metadata(self):
        default = {PARAMETERS: struct.pack('<II', self.block_size, self.flags), DISK_SIZE: struct.pack('<Q', self.size),
                   LOGICAL: struct.pack('<I', self.sector)}
        table, body = struct.pack('<8sHH20x', b'metadata', 0, len(self.items)), b''
        for guid, content, flags in self.items:
            content = default[guid] if content is None else content
            table += struct.pack('<16sIIII', guid.bytes_le, 65536 + len(body) if content else 0, len(content), flags, 0)
            body += content
        return table.ljust(65536, b'\0') + body

    def write(self, path):
        end = max([4 * MiB] + [(value & ~0xFFFFF) + self.block_size for value, _ in self.bat.values()
                               if value & 7 >= 6 and value >> 20 < 4096])
        with open(path, 'wb') as f:
            f.write(b'vhdxfile' + 'test'.encode('utf-16-le'))
            f.truncate(self.file_size or end)
            for offset, data in [(64 << 10, self.header(0)), (128 << 10, self.header(1)),
                                 (192 << 10, self.region_table(0)), (256 << 10, self.region_table(1)),
                                 (MiB, self.log), (2 * MiB, self.metadata())]:
                f.seek(offset)
                f.write(data)
            for index, (value, data) in self.bat.items():
                f.seek(3 * MiB + index * 8)
                f.write(struct.pack('<Q', value))
                if data is not None:
                    f.seek(value & ~0xFFFFF)
                    f.write(data)
            for offset, data in self.patches:
                f.seek(offset)
                f.write(data)
        return path


def locator(entries, kind=LOCATOR_VHDX):
    """A parent locator item of (key, value) texts."""
    head = kind.bytes_le + struct.pack('<HH', 0, len(entries))
    at, table, texts = 20 + 12 * len(entries), b'', b''
    for key, value in entries:
        k, v = key.encode('utf-16-le'), value.encode('utf-16-le')
        table += struct.pack('<IIHH', at + len(texts), at + len(texts) + len(k), len(k), len(v))
        texts += k + v
    return head + table + texts


def log_entry(guid, sequence, pages, tail, flushed, last, zeros=()):
    """An entry that writes @pages, (file offset, 4096 bytes) each, and zeroes (offset, length) ranges first."""
    count = len(zeros) + len(pages)
    area = -(-(64 + 32 * count) // 4096) * 4096
    data = struct.pack('<4sIIIQII16sQQ', b'loge', 0, area + 4096 * len(pages), tail, sequence, count, 0, guid.bytes_le,
                       flushed, last)
    for offset, length in zeros:
        data += struct.pack('<4sIQQQ', b'zero', 0, length, offset, sequence)
    for offset, page in pages:
        data += struct.pack('<4s4s8sQQ', b'desc', page[4092:], page[:8], offset, sequence)
    data = data.ljust(area, b'\0')
    for _, page in pages:
        data += struct.pack('<4sI', b'data', sequence >> 32) + page[8:4092] + struct.pack('<I', sequence & 0xFFFFFFFF)
    return with_sum(data)
