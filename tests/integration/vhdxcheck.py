# SPDX-License-Identifier: LGPL-2.1-or-later
"""A strict checker of VHDX files, apart from the library's own.

check (path) returns findings, each with a severity: 'error' for what some reader must refuse or misread, 'warning'
for what the format asks of a writer and readers bear, 'leak' for space of the file that nothing needs.  None at all
is what our own writer promises.  @closed: the file was closed, so its log is empty and its headers agree; without it
the file is judged as it is after replay, and what a stop may leave behind is no fault.
"""

import collections
import os
import struct

import vhdxmeta
import vhdxread
from vhdxformat import (BAT, FULL, HEADER_BYTES, HEADERS, KiB, LEAVE_ALLOCATED, METADATA, MiB, NIL,
                        NOT_PRESENT, PARTIAL, TABLE_BYTES, TABLES, VhdxError, ZERO, round_up, sum_is_right)

LARGEST_OFFSET = 1 << 48
ENOUGH = 200


class Finding(collections.namedtuple('Finding', 'severity text')):
    def __str__(self):
        return '%s: %s' % self


class Findings(list):
    """Collects; more than a few hundred say nothing new."""

    def _add(self, severity, text):
        if len(self) < ENOUGH:
            self.append(Finding(severity, text))

    def error(self, text, *values):
        self._add('error', text % values)

    def warning(self, text, *values):
        self._add('warning', text % values)

    def leak(self, text, *values):
        self._add('leak', text % values)

    def of(self, *severities):
        return [finding for finding in self if finding.severity in severities]


def check(path, closed=True):
    found = Findings()
    try:
        _identifier(path, found)
        image = vhdxread.Image(path)
    except VhdxError as e:
        _headers_of_a_refused_file(path, found, closed)
        found.error('%s', e)
        return found
    try:
        _headers(image.headers, image.header, found, closed)
        _log(image, found)
        _regions(image, found)
        vhdxmeta.check_metadata(image, found, closed)
        space = _space(image, found)
        _table(image, space, found)
        if not found.of('error'):
            _log_targets(image, space, found)
            _bitmaps(image, found)
            _rest(image, space, found)
    except VhdxError as e:
        found.error('%s', e)
    finally:
        image.close()
    return found


def check_chain(path, closed=True):
    """The findings of each file, and of how they fit together."""
    found = Findings()
    seen = set()
    while True:
        if os.path.realpath(path) in seen:
            found.error('%s: the chain loops', path)
            return found
        seen.add(os.path.realpath(path))
        found += [Finding(f.severity, '%s: %s' % (os.path.basename(path), f.text)) for f in check(path, closed)]
        if found.of('error'):
            return found
        image = vhdxread.Image(path)
        if not image.differencing:
            return found
        paths = [p for p in image.parent_candidates() if os.path.isfile(p)]
        if not paths:
            found.error('%s: no parent at %s', path, ', '.join(image.parent_candidates()))
            return found
        parents = [vhdxread.Image(p) for p in paths]
        parent = next((p for p in parents if image.accepts(p)), None)
        if parent is None:
            found.error('%s: %s has another identity, %s', path, paths[0], parents[0].data_write_guid)
            return found
        if parent.sector != image.sector:
            found.error('%s: sectors of %d over sectors of %d', path, image.sector, parent.sector)
        if parent.disk_id != image.disk_id:
            found.warning('%s: disk ID %s, the parent\'s is %s', path, image.disk_id, parent.disk_id)
        path = parent.path


def _read(path, offset, count):
    with open(path, 'rb') as f:
        f.seek(offset)
        return f.read(count)


# --- what stands below 1 MiB ------------------------------------------------------------------------------------


def _identifier(path, found):
    size = os.path.getsize(path)
    if size < MiB:
        raise VhdxError('file of %d bytes' % size)
    if size % MiB:
        found.warning('file size %d is no multiple of 1 MiB', size)
    data = _read(path, 0, 64 * KiB)
    if data[:8] != b'vhdxfile':
        raise VhdxError('signature %r' % data[:8])
    try:
        creator = data[8:520].decode('utf-16-le')
        if creator.rstrip('\0').count('\0'):
            found.warning('creator is not padded with zeros')
    except UnicodeDecodeError:
        found.warning('creator is no UTF-16')
    unused = [(520, 64 * KiB)] + [(at + HEADER_BYTES, at + 64 * KiB) for at in HEADERS] + [(320 * KiB, MiB)]
    for start, end in unused:
        if any(_read(path, start, end - start)):
            found.warning('reserved bytes from %d to %d are not zero', start, end)


def _headers_of_a_refused_file(path, found, closed):
    if os.path.getsize(path) < MiB:
        return
    headers = [vhdxread.Header(_read(path, at, HEADER_BYTES)) for at in HEADERS]
    try:
        _headers(headers, vhdxread.current_header(headers), found, closed)
    except VhdxError:
        return


def _headers(headers, current, found, closed):
    for i, header in enumerate(headers, 1):
        if header.valid:
            continue
        text = 'header %d: %s' % (i, 'signature %r' % header.signature if header.signature != b'head' else 'checksum')
        if closed:
            found.error('%s', text)
        else:
            found.warning('%s', text)
    valid = [header for header in headers if header.valid]
    for i, header in enumerate(headers, 1):
        if not header.valid:
            continue
        if header.version != 1:
            found.error('header %d: version %d', i, header.version)
        if header.log_version != 0:
            found.error('header %d: log version %d', i, header.log_version)
        if header.log_length % MiB or header.log_offset % MiB or header.log_offset < MiB or not header.log_length:
            found.error('header %d: log of %d bytes at %d', i, header.log_length, header.log_offset)
        if any(header.data[80:]):
            found.warning('header %d: reserved bytes', i)
        if NIL in (header.file_write_guid, header.data_write_guid):
            found.warning('header %d: no GUID of its writes', i)
    if current.sequence == 0xFFFFFFFFFFFFFFFF:
        found.error('sequence number at its end')
    if closed and current.log_guid != NIL:
        found.error('closed with a log, %s', current.log_guid)
    if len(valid) < 2 or not closed:
        return
    a, b = valid
    if abs(a.sequence - b.sequence) != 1:
        found.warning('sequence numbers %d and %d', a.sequence, b.sequence)
    for name in ('file_write_guid', 'data_write_guid', 'log_guid', 'log_offset', 'log_length'):
        if getattr(a, name) != getattr(b, name):
            found.warning('headers differ: %s is %s and %s', name, getattr(a, name), getattr(b, name))


def _log(image, found):
    for entry in image.active:
        if entry.flushed % MiB or entry.last % MiB:
            found.warning('log entry at %d: file offsets %d and %d', entry.offset, entry.flushed, entry.last)
        if entry.length >= image.header.log_length:
            found.warning('log entry at %d fills the log', entry.offset)
        if struct.unpack_from('<I', image.file.read(image.header.log_offset + entry.offset, 64), 28)[0]:
            found.warning('log entry at %d: reserved field', entry.offset)


def _regions(image, found):
    copies = [image.file.read(at, TABLE_BYTES) for at in TABLES]
    for i, data in enumerate(copies, 1):
        if vhdxread.decode_regions(data) is None:
            found.error('region table %d: %s', i, 'signature %r' % data[:4] if data[:4] != b'regi' else
                        'checksum' if not sum_is_right(data) else '%d entries' % struct.unpack_from('<I', data, 8))
    if copies[0][8:] != copies[1][8:] and not found.of('error'):
        found.error('region tables differ')
    data = next(data for data in copies if vhdxread.decode_regions(data) is not None)
    if any(data[12:16]):
        found.error('region table: reserved field')
    if any(data[16 + 32 * len(image.regions):]):
        found.warning('region table: bytes behind its entries')
    for region in image.regions:
        if region.guid == NIL:
            found.error('a region without GUID')
        if region.flags & ~1:
            found.error('region %s: flags %#x', region.guid, region.flags)
        if region.guid in (BAT, METADATA) and not region.required:
            found.warning('region %s is not required', region.guid)


# --- space ------------------------------------------------------------------------------------------------------


HEAD, LOG, REGION, PAYLOAD, BITMAP, ANCHOR = 1, 2, 3, 4, 5, 6
NAMES = {HEAD: 'the first MiB', LOG: 'the log', REGION: 'a region', PAYLOAD: 'a block', BITMAP: 'a bitmap block',
         ANCHOR: 'the kept space of a block'}


class Space:
    """Who has each MiB of the file."""

    def __init__(self, size, found):
        self.size, self.found = size, found
        self.owner = bytearray(-(-size // MiB))

    def take(self, kind, offset, length, name, needed=None):
        """@needed: how many bytes must be in the file (the last block may be cut off behind the disk's end)."""
        if offset % MiB or offset < MiB and kind != HEAD:
            self.found.error('%s at %d', name, offset)
            return
        if offset + (length if needed is None else needed) > self.size:
            self.found.error('%s, %d bytes at %d, ends behind the file\'s %d', name, length, offset, self.size)
            return
        if offset + length > round_up(self.size, MiB):
            self.found.warning('%s at %d is cut off by the end of the file', name, offset)
        first, last = offset // MiB, min(-(-(offset + length) // MiB), len(self.owner))
        taken = self.owner[first:last]
        if taken.count(0) != len(taken):
            at = next(i for i, kind_there in enumerate(taken) if kind_there)
            self.found.error('%s at %d overlaps %s at %d', name, offset, NAMES[taken[at]], (first + at) * MiB)
        self.owner[first:last] = bytes([kind]) * (last - first)

    def kinds(self, start, end):
        return set(self.owner[start // MiB:-(-end // MiB)])


def _space(image, found):
    space = Space(image.file.size, found)
    space.take(HEAD, 0, MiB, 'the first MiB')
    space.take(LOG, image.header.log_offset, image.header.log_length, 'the log')
    for region in image.regions:
        space.take(REGION, region.offset, region.length, 'region %s' % region.guid)
    return space


def _table(image, space, found):
    geo = image.geo
    fixed = bool(image.flags & LEAVE_ALLOCATED) and not image.differencing
    missing = 0
    for first, values, bitmap in image.chunks():
        partial = False
        if values is None:
            missing += min(geo.ratio, geo.blocks - first)
        for block, value in enumerate(values or (), first):
            if not value:
                missing += 1
                continue
            state, offset = value & 7, value & ~0xFFFFF
            if value & 0xFFFF8:
                found.error('block %d: reserved bits, entry %#x', block, value)
            if state in (4, 5):
                found.error('block %d: state %d', block, state)
                continue
            if offset >= LARGEST_OFFSET:
                found.error('block %d: entry %#x', block, value)
                continue
            missing += state < FULL
            needed = min(geo.block_size, geo.size - block * geo.block_size)
            if state in (NOT_PRESENT, ZERO) and offset:
                found.error('block %d: state %d with an offset, entry %#x', block, state, value)
            elif state < FULL:
                if offset:
                    space.take(ANCHOR, offset, geo.block_size, 'kept space of block %d' % block)
            elif not offset:
                found.error('block %d: state %d without an offset', block, state)
            else:
                space.take(PAYLOAD, offset, geo.block_size, 'block %d' % block, needed)
                if state == PARTIAL:
                    partial = True
                    if not image.differencing:
                        found.error('block %d: partly present in a disk without parent', block)
                    elif bitmap & 7 != FULL:
                        found.error('block %d: partly present, without a bitmap block', block)
        _bitmap_entry(image, first // geo.ratio, bitmap, partial, space, found)
    if fixed and missing:
        found.warning('fixed, and %d of %d blocks are not allocated', missing, geo.blocks)
    _surplus(image, found)


def _bitmap_entry(image, chunk, value, partial, space, found):
    if not value:
        return
    state, offset = value & 7, value & ~0xFFFFF
    if not image.differencing:
        found.warning('bitmap %d: entry %#x in a disk without parent', chunk, value)
    elif value & 0xFFFF8 or state not in (NOT_PRESENT, FULL) or offset >= LARGEST_OFFSET:
        found.error('bitmap %d: entry %#x', chunk, value)
    elif state == NOT_PRESENT:
        found.error('bitmap %d: state 0 with an offset, entry %#x', chunk, value)
    elif not offset:
        found.error('bitmap %d: no offset', chunk)
    else:
        space.take(BITMAP, offset, MiB, 'bitmap %d' % chunk)
        if not partial:
            found.leak('bitmap %d: no block needs it', chunk)


def _surplus(image, found):
    region = image.bat_region
    at, end = region.offset + 8 * image.geo.entries, region.end
    while at < end:
        data = image.file.read(at, min(MiB, end - at))
        if any(data):
            first = next(i for i, byte in enumerate(data) if byte)
            found.warning('table entry %d, behind the disk, is not zero', (at + first - region.offset) // 8)
            return
        at += len(data)


def _log_targets(image, space, found):
    """Metadata alone goes through the log; over a block of guest data a replay would destroy it."""
    for entry in image.active:
        for start, end in entry.targets():
            if start < MiB:
                if not any(at <= start and end <= at + TABLE_BYTES for at in TABLES):
                    found.error('log entry at %d writes %d to %d', entry.offset, start, end)
                continue
            kinds = space.kinds(start, end)
            if kinds & {PAYLOAD, ANCHOR}:
                found.error('log entry at %d writes %d to %d, over a block of guest data', entry.offset, start, end)
            elif 0 in kinds:
                found.warning('log entry at %d writes %d to %d, which nothing owns', entry.offset, start, end)


def _bitmaps(image, found):
    """A bitmap block is read to its end, so it must be there; its bits need no other rule."""
    if not image.differencing:
        return
    for first, values, bitmap in image.chunks():
        for block, value in enumerate(values or (), first):
            if value & 7 == PARTIAL:
                bits = image.bits(block, bitmap)
                if bits.count(0) == len(bits):
                    found.leak('block %d: partly present, and no sector of it is', block)


def _rest(image, space, found):
    unused = space.owner.count(0)
    if unused:
        first = space.owner.index(0)
        found.leak('%d MiB nothing refers to, the first at %d', unused, first * MiB)
    if image.file.size > image.file.real_size:
        found.warning('file of %d bytes, its log knows of %d', image.file.real_size, image.file.size)
