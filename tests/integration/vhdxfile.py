# SPDX-License-Identifier: LGPL-2.1-or-later
"""An independent writer of VHDX files, for tests: identifier, headers, regions, metadata, BAT, log entries.

It writes what it is told, sound or not; vhdxmake makes sound images of given content by it.
"""

import struct
import uuid

from vhdxformat import (BAT, DISK_ID, DISK_SIZE, INCOMPLETE, LOCATOR, LOCATOR_VHDX, LOGICAL, METADATA,  # noqa: F401
                        MiB, PARAMETERS, PHYSICAL, crc32c, with_sum)


class Vhdx:
    """A dynamic image with a log at 1 MiB, metadata at 2 MiB, the BAT at 3 MiB and blocks behind it.  Tests change
    its members, or the bytes of what they make, before it is written.

    @bat: {index: (entry, data)}; data is bytes at the entry's offset, or a list of (offset in the block, bytes), or
    None.  @header_fields: per copy, what it has of its own, by the names of header ().
    """

    def __init__(self, size=8 * MiB, block_size=MiB, sector=512):
        self.size, self.block_size, self.sector = size, block_size, sector
        self.sequence = [1, 2]
        self.version, self.log_version = 1, 0
        self.log_guid = uuid.UUID(int=0)
        self.log_length, self.log_offset = MiB, MiB
        self.file_write_guid = uuid.uuid4()
        self.data_write_guid = uuid.uuid4()
        self.header_fields = [{}, {}]
        self.creator = 'test'
        # Where things are written, whatever headers and regions say of them.
        self.log_at, self.metadata_at, self.bat_at = MiB, 2 * MiB, 3 * MiB
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

    def place(self, log, metadata, bat, log_length=MiB, metadata_length=MiB, bat_length=MiB):
        """Another layout; regions beside BAT and metadata stay as they are."""
        self.log_at = self.log_offset = log
        self.log_length, self.metadata_at, self.bat_at = log_length, metadata, bat
        places = {BAT: (bat, bat_length), METADATA: (metadata, metadata_length)}
        self.regions = [(guid, *places.get(guid, (offset, length)), required)
                        for guid, offset, length, required in self.regions]

    def header(self, which):
        fields = dict(signature=b'head', sequence=self.sequence[which], file_write_guid=self.file_write_guid,
                      data_write_guid=self.data_write_guid, log_guid=self.log_guid, log_version=self.log_version,
                      version=self.version, log_length=self.log_length, log_offset=self.log_offset, reserved=b'')
        fields.update(self.header_fields[which])
        data = struct.pack('<4sIQ16s16s16sHHIQ', fields['signature'], 0, fields['sequence'],
                           fields['file_write_guid'].bytes_le, fields['data_write_guid'].bytes_le,
                           fields['log_guid'].bytes_le, fields['log_version'], fields['version'],
                           fields['log_length'], fields['log_offset']) + fields['reserved']
        data = data.ljust(4096, b'\0')
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
            f.write(b'vhdxfile' + self.creator.encode('utf-16-le'))
            f.truncate(self.file_size or end)
            for offset, data in [(64 << 10, self.header(0)), (128 << 10, self.header(1)),
                                 (192 << 10, self.region_table(0)), (256 << 10, self.region_table(1)),
                                 (self.log_at, self.log), (self.metadata_at, self.metadata())]:
                f.seek(offset)
                f.write(data)
            for index, (value, data) in self.bat.items():
                f.seek(self.bat_at + index * 8)
                f.write(struct.pack('<Q', value))
                for offset, piece in [(0, data)] if isinstance(data, bytes) else data or ():
                    f.seek((value & ~0xFFFFF) + offset)
                    f.write(piece)
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
