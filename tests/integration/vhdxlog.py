# SPDX-License-Identifier: LGPL-2.1-or-later
"""The log of a VHDX: search of its active sequence, and replay in memory.

find () gives the active sequence of a ring; Overlay is a file as it would be after replay.  Nothing on disk changes.
"""

import bisect
import os
import struct

from vhdxformat import KiB, PAGE, VhdxError, round_up, sum_is_right

LARGEST_FILE = 128 << 40
FIRST_TARGET = 192 * KiB


class Entry:
    """A valid entry.  @zeros: (file offset, length); @pages: (file offset, 4096 bytes); @steps: both in order."""

    def __init__(self, offset, length, tail, sequence, flushed, last, steps):
        self.offset, self.length, self.tail, self.sequence = offset, length, tail, sequence
        self.flushed, self.last, self.steps = flushed, last, steps

    def targets(self):
        return [(at, at + (what if isinstance(what, int) else PAGE)) for at, what in self.steps]


def decode(ring, offset, guid):
    """The entry at @offset of the log's bytes, or None.  It may run over the ring's end."""
    head = ring[offset:offset + 64]
    (signature, _, length, tail, sequence, count, _, its_guid, flushed,
     last) = struct.unpack('<4sIIIQII16sQQ', head)
    if (signature != b'loge' or its_guid != guid.bytes_le or length % PAGE or not PAGE <= length <= len(ring)
            or tail % PAGE or tail >= len(ring) or sequence == 0):
        return None
    area = round_up(64 + 32 * count, PAGE)
    if area > length:
        return None
    data = ring[offset:offset + length]
    data += ring[:length - len(data)]
    if not sum_is_right(data):
        return None
    steps, at = [], area
    for i in range(count):
        kind, trailing, leading, target, its_sequence = struct.unpack_from('<4s4s8sQQ', data, 64 + 32 * i)
        if its_sequence != sequence or target % PAGE:
            return None
        if kind == b'zero':
            size = int.from_bytes(leading, 'little')
            if size % PAGE:
                return None
            steps.append((target, size))
        elif kind == b'desc':
            sector = data[at:at + PAGE]
            at += PAGE
            if len(sector) < PAGE or sector[:4] != b'data':
                return None
            high, low = struct.unpack('<I', sector[4:8])[0], struct.unpack('<I', sector[4092:])[0]
            if high << 32 | low != sequence:
                return None
            steps.append((target, leading + sector[8:4092] + trailing))
        else:
            return None
    return Entry(offset, length, tail, sequence, flushed, last, steps) if at == length else None


def find(ring, guid):
    """The active sequence, tail first; None where there is none."""
    found, best, tail = {}, [], 0

    def entry_at(offset):
        if offset not in found:
            found[offset] = decode(ring, offset, guid)
        return found[offset]

    while True:
        run, at, used = [], tail, 0
        while True:
            entry = entry_at(at)
            if entry is None or used + entry.length > len(ring):
                break
            if run and entry.sequence != run[-1].sequence + 1:
                break
            run.append(entry)
            used += entry.length
            at = (at + entry.length) % len(ring)
            if used == len(ring):
                break
        offsets = [entry.offset for entry in run]
        if run and run[-1].tail in offsets:
            if not best or run[-1].sequence > best[-1].sequence:
                best = run[offsets.index(run[-1].tail):]
            following = (tail + used) % len(ring)
        else:
            following = (tail + PAGE) % len(ring)
        if following <= tail:
            return best or None
        tail = following


class Overlay:
    """A file's bytes with log entries on top: @size may be more than the file has, and that is zeros."""

    def __init__(self, path):
        self.file = open(path, 'rb')
        self.real_size = self.size = os.fstat(self.file.fileno()).st_size
        self.pages, self.zeros, self.sorted_pages = {}, [], []

    def replay(self, entries, log_start, log_end):
        """Raises where what the log says cannot be meant."""
        head = entries[-1]
        if self.real_size < head.flushed:
            raise VhdxError('file truncated: %d bytes, its log knows of %d' % (self.real_size, head.flushed))
        if head.last > LARGEST_FILE:
            raise VhdxError('log corrupt: last file offset %d' % head.last)
        self.size = max(self.real_size, head.last)
        for entry in entries:
            for target, what in entry.steps:
                end = target + (what if isinstance(what, int) else PAGE)
                if target < FIRST_TARGET or end > max(self.size, entry.last) or target < log_end and end > log_start:
                    raise VhdxError('log corrupt: entry at %d writes %d to %d' % (entry.offset, target, end))
                if isinstance(what, int):
                    self.zeros.append((target, end))
                    for page in [page for page in self.pages if target <= page < end]:
                        del self.pages[page]
                else:
                    self.pages[target] = what
        self.sorted_pages = sorted(self.pages)

    def read(self, offset, count):
        """All of @count bytes or an error."""
        if offset + count > self.size:
            raise VhdxError('%d bytes at %d, behind the end at %d' % (count, offset, self.size))
        self.file.seek(offset)
        data = self.file.read(count).ljust(count, b'\0')
        if not self.pages and not self.zeros:
            return data
        out = bytearray(data)
        for start, end in self.zeros:
            first, last = max(start, offset), min(end, offset + count)
            if first < last:
                out[first - offset:last - offset] = bytes(last - first)
        i = bisect.bisect_right(self.sorted_pages, offset - PAGE)
        while i < len(self.sorted_pages) and self.sorted_pages[i] < offset + count:
            page = self.sorted_pages[i]
            first, last = max(page, offset), min(page + PAGE, offset + count)
            out[first - offset:last - offset] = self.pages[page][first - page:last - page]
            i += 1
        return bytes(out)
