# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sound VHDX images of given content, in every state and order the format allows.

What must not show is filled with what would be noticed: absent sectors of a partly present block, bits of blocks
that are wholly present, space that is kept for a block, the last block's part behind the end of the disk.
"""

import os
import random
import struct
import uuid

import vhdxfile
import views
from vhdxformat import (DISK_ID, FULL, Geometry, HAS_PARENT, LEAVE_ALLOCATED, LOCATOR, MiB, NIL,
                        NOT_PRESENT, PARTIAL, UNDEFINED, UNMAPPED, bits_of, round_up)

RUBBISH = b'\xA5\x5A' * 2048


def windows_path(child_path, parent_path):
    relative = os.path.relpath(parent_path, os.path.dirname(os.path.abspath(child_path)))
    return '.\\' + relative.replace('/', '\\') if not relative.startswith('..') else relative.replace('/', '\\')


def locator_of(path, parent_path, parent_guid, spare=NIL):
    """As Hyper-V writes it, with room for a second identity."""
    return vhdxfile.locator([('parent_linkage', '{%s}' % parent_guid),
                             ('absolute_win32_path', 'C:\\nowhere\\' + os.path.basename(parent_path)),
                             ('relative_path', windows_path(path, parent_path)),
                             ('parent_linkage2', '{%s}' % spare)])


class Maker:
    """One image to be written.

    @writes: (offset, bytes), whole sectors.  @states: {block: state}, what a block is before the writes come: 1, 2
    and 3 hide a parent, 6 is there and zero, 7 (differencing) is there without a sector.  @below: what the parent
    shows, a Content, in a differencing image.  @rng: chooses among what the format allows.
    """

    def __init__(self, path, size, writes=(), *, block_size=MiB, sector=512, kind='dynamic', states=None, below=None,
                 parent_path=None, parent_guid=None, disk_id=None, rng=None, gaps=0.0):
        self.path, self.size, self.writes, self.kind = path, size, list(writes), kind
        self.rng = rng or random.Random(0)
        self.plain = rng is None
        self.states, self.below, self.gaps = dict(states or {}), below, gaps
        self.parent_path, self.parent_guid = parent_path, parent_guid
        self.geo = Geometry(size, block_size, sector, kind == 'differencing')
        self.vhdx = vhdxfile.Vhdx(size, block_size, sector)
        if disk_id is not None:
            self.vhdx.items = [(guid, disk_id.bytes_le if guid == DISK_ID else content, flags)
                               for guid, content, flags in self.vhdx.items]
        self.extra_regions = []

    def view(self):
        """What the image shows, from the writes alone."""
        base = self.below if self.below is not None else views.Content(0)
        hidden = [(block * self.geo.block_size, self._inside(block)) for block, state in self.states.items()
                  if state not in (NOT_PRESENT, PARTIAL)]
        return base.lay(hidden + self.writes, self.size)

    def _inside(self, block):
        return min(self.geo.block_size, self.size - block * self.geo.block_size)

    def chance(self, probability):
        return not self.plain and self.rng.random() < probability

    def write(self):
        self.prepare().write(self.path)
        return self.vhdx

    def prepare(self):
        """The image before it is written, for tests that change it."""
        self._collect()
        if self.kind == 'fixed':
            for block in range(self.geo.blocks):
                self.blocks.setdefault(block, (FULL, []))
        elif self.kind == 'differencing':
            self.vhdx.items.append((LOCATOR, locator_of(self.path, self.parent_path, self.parent_guid), 4))
        self.vhdx.flags = {'fixed': LEAVE_ALLOCATED, 'dynamic': 0, 'differencing': HAS_PARENT}[self.kind]
        self._make_bitmaps()
        self._lay_out()
        return self.vhdx

    def _collect(self):
        """self.blocks: {block: (state, [(offset in block, bytes)])}; self.present: {block: [(sector, sector)]}."""
        geo = self.geo
        touched = {}
        for offset, blob in self.writes:
            assert offset % geo.sector == 0 and len(blob) % geo.sector == 0 and offset + len(blob) <= self.size
            for block in range(offset // geo.block_size, -(-(offset + len(blob)) // geo.block_size)):
                base = block * geo.block_size
                start, end = max(offset, base), min(offset + len(blob), base + geo.block_size)
                touched.setdefault(block, []).append((start - base, blob[start - offset:end - offset]))
        self.blocks, self.present = {}, {}
        for block, state in self.states.items():
            if block not in touched:
                self._untouched(block, state)
        for block, pieces in touched.items():
            before = self.states.get(block, NOT_PRESENT)
            if self.kind == 'differencing' and before in (NOT_PRESENT, PARTIAL):
                self._over_parent(block, pieces)
            else:
                self.blocks[block] = FULL, pieces

    def _untouched(self, block, state):
        if state == PARTIAL:
            self.present[block] = []
            self.blocks[block] = PARTIAL, [(0, RUBBISH)]
        elif state == FULL:
            self.blocks[block] = FULL, []
        elif state in (UNDEFINED, UNMAPPED) and self.chance(0.4):
            self.blocks[block] = state, [(0, RUBBISH)]
        else:
            self.vhdx.bat[self.geo.payload_index(block)] = state, None

    def _over_parent(self, block, pieces):
        """Partly present, or wholly with the parent's bytes in it."""
        geo = self.geo
        base, inside = block * geo.block_size, self._inside(block)
        runs = []
        for offset, blob in sorted(pieces, key=lambda piece: piece[0]):
            start, end = offset // geo.sector, (offset + len(blob)) // geo.sector
            if runs and start <= runs[-1][1]:
                runs[-1] = runs[-1][0], max(end, runs[-1][1])
            else:
                runs.append((start, end))
        whole = runs == [(0, inside // geo.sector)]
        if whole and not self.chance(0.3) or self.chance(0.15):
            below = [(at - base, blob) for at, blob in self.below.runs(base, base + inside)]
            self.blocks[block] = FULL, below + pieces
            return
        first = runs[0][0] * geo.sector
        self.present[block] = runs
        self.blocks[block] = PARTIAL, [(0, RUBBISH[:first])] * bool(first) + pieces
        after = runs[-1][1] * geo.sector
        if after + len(RUBBISH) <= geo.block_size:
            self.blocks[block][1].append((after, RUBBISH))

    def _make_bitmaps(self):
        self.bitmaps = {}
        for block, runs in self.present.items():
            bits = bits_of(runs, self.geo.sectors_per_block)
            self.bitmaps.setdefault(block // self.geo.ratio, []).append((self.geo.bits_offset(block), bits))
        if self.kind != 'differencing':
            return
        for block, (state, _) in self.blocks.items():
            pieces = self.bitmaps.get(block // self.geo.ratio)
            if pieces is not None and state != PARTIAL and self.chance(0.5):
                pieces.append((self.geo.bits_offset(block), self.rng.randbytes(self.geo.bits_bytes)))

    def _lay_out(self):
        """Gives everything its place, in a random order with holes between, or one after the other."""
        geo, vhdx = self.geo, self.vhdx
        lengths = {'log': MiB * (self.rng.choice((1, 1, 2)) if not self.plain else 1), 'metadata': MiB,
                   'bat': round_up(8 * geo.entries, MiB) + MiB * self.chance(0.1)}
        order = ['log', 'metadata', 'bat']
        for i in range(len(self.extra_regions)):
            lengths['extra', i] = MiB
            order.append(('extra', i))
        for block in sorted(self.blocks):
            lengths['block', block] = geo.block_size
            order.append(('block', block))
        for chunk in sorted(self.bitmaps):
            lengths['bitmap', chunk] = MiB
            order.append(('bitmap', chunk))
        if not self.plain:
            self.rng.shuffle(order)
        at, place = MiB, {}
        for name in order:
            if self.chance(self.gaps):
                at += MiB * self.rng.choice((1, 1, 3))
            place[name] = at
            at += lengths[name]
        vhdx.place(place['log'], place['metadata'], place['bat'], lengths['log'], MiB, lengths['bat'])
        for i, (guid, data) in enumerate(self.extra_regions):
            vhdx.regions.append((guid, place['extra', i], MiB, 0))
            vhdx.patches.append((place['extra', i], data))
        for block, (state, pieces) in self.blocks.items():
            vhdx.bat[geo.payload_index(block)] = place['block', block] | state, pieces
        for chunk, pieces in self.bitmaps.items():
            vhdx.bat[geo.bitmap_index(chunk)] = place['bitmap', chunk] | FULL, pieces
        vhdx.file_size = at
        last = geo.blocks - 1
        inside = self._inside(last)
        if last in self.blocks and inside + len(RUBBISH) <= geo.block_size and self.chance(0.5):
            vhdx.patches.append((place['block', last] + inside, RUBBISH))

    def strange_but_legal(self):
        """What a reader has to bear and a writer to keep: unknown parts, another order, old headers."""
        vhdx, rng = self.vhdx, self.rng
        if rng.random() < 0.3:
            self.extra_regions.append((uuid.UUID(bytes=rng.randbytes(16)), b'a region of somebody else'))
        if rng.random() < 0.3:
            vhdx.items.append((uuid.UUID(bytes=rng.randbytes(16)), b'of a user', 1))
        if rng.random() < 0.3:
            vhdx.items.append((uuid.UUID(bytes=rng.randbytes(16)), b'of the disk', 2))
        if rng.random() < 0.5:
            rng.shuffle(vhdx.items)
        if rng.random() < 0.5:
            vhdx.regions.reverse()
        if rng.random() < 0.5:
            vhdx.sequence = rng.choice(([2, 1], [77, 78], [1 << 40, (1 << 40) - 1]))


def restate(path, **members):
    """Writes both headers of a file again with other members (see vhdxfile.Vhdx.header ())."""
    with open(path, 'r+b') as f:
        for at in (64 << 10, 128 << 10):
            f.seek(at)
            data = bytearray(f.read(4096))
            for name, value in members.items():
                offset, layout = {'log_guid': (48, '<16s'), 'data_write_guid': (32, '<16s')}[name]
                struct.pack_into(layout, data, offset, value.bytes_le)
            f.seek(at)
            f.write(vhdxfile.with_sum(data) if data[:4] == b'head' else data)
