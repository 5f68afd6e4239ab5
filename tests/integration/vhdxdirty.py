# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sound VHDX images made dirty: what a stop leaves behind when pages of metadata are in the log alone."""

import os
import uuid

import harness
import vhdxmake
import vhdxread
from vhdxfile import log_entry
from vhdxformat import FULL, MiB, PAGE, TABLE_BYTES, TABLES, VhdxError


def metadata_pages(image):
    """File offsets of the pages with something in them that only the log may change."""
    ranges = [(at, at + PAGE) for at in TABLES]
    ranges.append((image.metadata_region.offset, image.metadata_region.offset + PAGE))
    ranges.append((image.metadata_region.offset + TABLE_BYTES, image.metadata_region.offset + TABLE_BYTES + PAGE))
    bitmaps = [bitmap & ~0xFFFFF for _, _, bitmap in image.chunks() if bitmap & 7 == FULL]
    ranges += [(at, at + MiB) for at in bitmaps]
    ranges.append((image.bat_region.offset, image.bat_region.end))
    pages = []
    data = list(harness.data_extents(image.path))
    for start, end in ranges:
        for first, last in data:
            a, b = max(start, first), min(end, last)
            for page in range(a - a % PAGE, b, PAGE):
                if page not in pages and any(image.file.read(page, PAGE)):
                    pages.append(page)
    return pages, bitmaps


def make_dirty(path, rng, damage=True):
    """Takes pages out of the file and into its log.  The ring starts anywhere, holds what is older than its tail and
    what is of other sessions, and its newest entries may be torn; all of that must not count.  @damage: what stands
    in the pages' places is rubbish, else zeros.  The file may lose its end, which the log knows of."""
    image = vhdxread.Image(path)
    head = image.header
    if image.active:
        raise VhdxError('%s is dirty already' % path)
    pages, bitmaps = metadata_pages(image)
    pages = rng.sample(pages, min(len(pages), rng.randrange(1, 30)))
    content = {page: image.file.read(page, PAGE) for page in pages}
    size = image.file.real_size
    image.close()

    guid, sequence = uuid.UUID(bytes=rng.randbytes(16)), rng.randrange(1, 1 << 60)
    # Of the active entries, each (zeros, pages): every page's last appearance is the true one.
    groups = [([], []) for _ in range(rng.randrange(1, 5))]
    for page in pages:
        last = rng.randrange(len(groups))
        if last and rng.random() < 0.5:
            groups[rng.randrange(last)][1].append((page, rng.randbytes(PAGE)))
        groups[last][1].append((page, content[page]))
    for at in bitmaps:
        inside = {page for page in pages if at <= page < at + MiB}
        rest = [page for page in range(at, at + MiB, PAGE) if page not in inside]
        if inside and not any(_something_at(path, page) for page in rest):
            groups[0][0].append((at, MiB))
    if rng.random() < 0.3:
        groups.append(([], []))
    # Applied long ago, so not to be applied again: rubbish, if anybody does.
    older = [([], [(page, rng.randbytes(PAGE)) for page in pages[:2]])] * rng.randrange(0, 3)

    # The log itself must stay inside.
    end = max(_end_of_data(path), head.log_offset + head.log_length)
    flushed = min(size, max(MiB, -(-end // MiB) * MiB)) if rng.random() < 0.4 else size
    ring = bytearray(head.log_length)
    at = start = rng.randrange(head.log_length // PAGE) * PAGE
    other = log_entry(uuid.UUID(bytes=rng.randbytes(16)), sequence + len(older) + len(groups),
                      [(pages[0], bytes(PAGE))], 0, size, size)
    _put(ring, rng.randrange(head.log_length // PAGE) * PAGE, other)
    tail = None
    for i, (zeros, changed) in enumerate(older + groups):
        if i == len(older):
            tail = at
        entry = log_entry(guid, sequence + i, changed, at if tail is None else tail, flushed, size, zeros=zeros)
        _put(ring, at, entry)
        at = (at + len(entry)) % len(ring)
    torn = bytearray(log_entry(guid, sequence + len(older) + len(groups), [(pages[0], rng.randbytes(PAGE))],
                               tail, flushed, size))
    torn[-rng.randrange(5, 4000)] ^= 1
    if (start - at) % len(ring) >= len(torn):
        _put(ring, at, torn)

    with open(path, 'r+b') as f:
        f.seek(head.log_offset)
        f.write(ring)
        for page in pages:
            f.seek(page)
            f.write(rng.randbytes(PAGE) if damage else bytes(PAGE))
        if flushed < size:
            f.truncate(flushed)
    vhdxmake.restate(path, log_guid=guid)


def _something_at(path, offset):
    with open(path, 'rb') as f:
        f.seek(offset)
        return any(f.read(PAGE))


def _put(ring, offset, data):
    first = data[:len(ring) - offset]
    ring[offset:offset + len(first)] = first
    ring[:len(data) - len(first)] = data[len(first):]


def _end_of_data(path):
    return max((end for _, end in harness.data_extents(path)), default=os.path.getsize(path))
