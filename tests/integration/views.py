# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest sees of a disk, large or small, without holding all of it.

A view has a size, extents () (sorted pairs (start, end), zeros everywhere else) and read (offset, count).  Images
opened by the independent readers, raw files and computed contents are views; difference () compares any two.
"""

import bisect
import os

import harness

PIECE = 1 << 20


class Content:
    """A content computed from writes: runs of bytes, zeros between them."""

    def __init__(self, size, runs=()):
        self.size = size
        self.starts = [offset for offset, _ in runs]
        self.blobs = [blob for _, blob in runs]

    def __len__(self):
        return self.size

    def runs(self, start=0, end=None):
        """(offset, bytes) of what is inside [start, end)."""
        end = self.size if end is None else end
        i = max(0, bisect.bisect_right(self.starts, start) - 1)
        while i < len(self.starts) and self.starts[i] < end:
            offset, blob = self.starts[i], self.blobs[i]
            first, last = max(start, offset), min(end, offset + len(blob))
            if first < last:
                yield first, blob[first - offset:last - offset]
            i += 1

    def extents(self):
        return [(offset, offset + len(blob)) for offset, blob in zip(self.starts, self.blobs)]

    def read(self, offset, count):
        out = bytearray(count)
        for at, blob in self.runs(offset, offset + count):
            out[at - offset:at - offset + len(blob)] = blob
        return bytes(out)

    def lay(self, writes, size=None):
        """This content cut or grown to @size, with @writes on top in their order: (offset, bytes) each, or
        (offset, count) for zeros."""
        size = self.size if size is None else size
        runs = list(self.runs(0, size))
        for offset, blob in writes:
            end = offset + (blob if isinstance(blob, int) else len(blob))
            assert end <= size
            kept = []
            for at, old in runs:
                if at < offset < at + len(old) or at < end < at + len(old) or offset <= at < end:
                    if at < offset:
                        kept.append((at, old[:offset - at]))
                    if end < at + len(old):
                        kept.append((end, old[end - at:]))
                else:
                    kept.append((at, old))
            runs = kept
            if not isinstance(blob, int):
                bisect.insort(runs, (offset, bytes(blob)), key=lambda run: run[0])
        return Content(size, [run for run in runs if run[1]])


class RawFile:
    """A raw file; its holes are zeros."""

    def __init__(self, path):
        self.path, self.size = path, os.path.getsize(path)

    def extents(self):
        return [(start, min(end, self.size)) for start, end in harness.data_extents(self.path)]

    def read(self, offset, count):
        with open(self.path, 'rb') as f:
            f.seek(offset)
            return f.read(count)


def _merged(*lists):
    """The union of lists of extents."""
    out = []
    for start, end in sorted(extent for extents in lists for extent in extents):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def difference(found, expected):
    """None where two views are the same, or a phrase that says where they part."""
    if found.size != expected.size:
        return 'size %d, expected %d' % (found.size, expected.size)
    for start, end in _merged(found.extents(), expected.extents()):
        while start < end:
            count = min(PIECE, end - start)
            a, b = found.read(start, count), expected.read(start, count)
            if a != b:
                if len(a) != len(b):
                    return '%d bytes read at %d, expected %d' % (len(a), start, len(b))
                at = next(i for i in range(count) if a[i] != b[i])
                return ('first difference at %d (sector %d): found %s, expected %s' %
                        (start + at, (start + at) // 512, a[at:at + 8].hex(), b[at:at + 8].hex()))
            start += count
    return None


def same(t, found, expected, what):
    where = difference(found, expected)
    t.check(where is None, '%s: %s' % (what, where))
