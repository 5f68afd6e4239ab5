# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHDX read-only: states, logs and chains made by an independent writer; and what must be refused, unchanged."""

import os
import struct
import uuid

import vhdxcheck
import vhdxread
from harness import Unchanged, add, case, main
from vhdxfile import (BAT, DISK_SIZE, INCOMPLETE, LOCATOR, LOGICAL, METADATA, MiB, PARAMETERS, Vhdx, locator, log_entry)

G = uuid.uuid4()


def read_all(t, path, *options, known=()):
    """The content; both readers agree on it, and the checker on the image but for @known phrases."""
    unchanged = Unchanged(*[t.path(name) for name in os.listdir(t.dir)])
    raw = t.path('content.raw')
    t.img('convert', '-q', *options, '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        content = f.read()
    os.unlink(raw)
    t.same_content(content, vhdxread.open_chain(path).read_all(), 'our reader and the independent one')
    t.equal([f.text for f in vhdxcheck.check(path, closed=False).of('error')], list(known), 'independent check')
    unchanged.verify(t)
    return content


def block(n, offset_mib, state=6):
    """A BAT entry with a block of bytes @n."""
    return (offset_mib * MiB | state, bytes([n]) * MiB)


@case
def states_of_a_dynamic_image(t):
    v = Vhdx()
    v.bat = {0: block(1, 4), 1: (1, None), 2: (2, None), 3: (3, None), 4: block(5, 6), 5: (5, None), 6: block(7, 5)}
    content = read_all(t, v.write(t.path('x.vhdx')), known=['block 5: state 5'])
    t.same_content(content, b''.join(bytes([n]) * MiB for n in (1, 0, 0, 0, 5, 0, 7, 0)), 'content')


@case
def sectors_of_4096_bytes(t):
    v = Vhdx(sector=4096)
    v.bat = {3: block(9, 4)}
    content = read_all(t, v.write(t.path('x.vhdx')))
    t.same_content(content, bytes(3 * MiB) + b'\x09' * MiB + bytes(4 * MiB), 'content')


def make_chain(t, child_size=8 * MiB, **linkage):
    parent = Vhdx()
    parent.bat = {n: block(0x10 + n, 4 + n) for n in range(6)}
    parent.write(t.path('parent.vhdx'))
    child = Vhdx(size=child_size)
    child.flags = 2
    entries = [('parent_linkage', linkage.get('linkage', '{%s}' % parent.data_write_guid)),
               ('parent_linkage2', linkage.get('linkage2', '{%s}' % uuid.UUID(int=0))),
               ('relative_path', '.\\parent.vhdx'), ('absolute_win32_path', '\\\\?\\C:\\nowhere\\parent.vhdx')]
    child.items.append((LOCATOR, locator(entries), 4))
    # The chunk's bitmap: of block 1 sectors 0 to 7 and 9, of block 2 (a whole one) bits that are stale.
    bits = bytearray(MiB)
    bits[256:258] = b'\xff\x02'
    child.bat = {1: block(0x21, 5, 7), 2: block(0x22, 6), 3: (2, None), 4: (3, None), 4096: (4 * MiB | 6, bytes(bits))}
    return parent, child


def chain_content(size=8 * MiB):
    content = bytearray(b''.join(bytes([0x10 + n]) * MiB for n in range(6)).ljust(8 * MiB, b'\0'))
    content[MiB:MiB + 8 * 512] = b'\x21' * (8 * 512)
    content[MiB + 9 * 512:MiB + 10 * 512] = b'\x21' * 512
    content[2 * MiB:3 * MiB] = b'\x22' * MiB
    content[3 * MiB:5 * MiB] = bytes(2 * MiB)
    return bytes(content).ljust(size, b'\0')[:size]


@case
def differencing_by_sector(t):
    _, child = make_chain(t)
    t.same_content(read_all(t, child.write(t.path('x.vhdx'))), chain_content(), 'content')


@case
def children_of_other_sizes(t):
    for size in (12 * MiB, 3 * MiB):
        _, child = make_chain(t, child_size=size)
        child.bat = {n: e for n, e in child.bat.items() if n < size // MiB or n == 4096}
        t.same_content(read_all(t, child.write(t.path('x.vhdx'))), chain_content(size), 'content')


@case
def the_second_linkage_counts(t):
    parent, child = make_chain(t)
    _, child = make_chain(t, linkage='{%s}' % uuid.uuid4())
    parent, _ = make_chain(t)
    child.items[-1] = (LOCATOR, locator([('parent_linkage', '{%s}' % uuid.uuid4()),
                                         ('parent_linkage2', ('{%s}' % parent.data_write_guid).upper()),
                                         ('relative_path', 'parent.vhdx')]), 4)
    t.same_content(read_all(t, child.write(t.path('x.vhdx'))), chain_content(), 'content')


@case
def a_wrong_parent_is_refused(t):
    _, child = make_chain(t, linkage='{%s}' % uuid.uuid4())
    child.write(t.path('x.vhdx'))
    t.refused(t.img('convert', '-O', 'raw', t.path('x.vhdx'), t.path('o.raw'), rc=1), 'parent')
    _, child = make_chain(t, linkage='{%s}' % uuid.UUID(int=0))
    child.write(t.path('x.vhdx'))
    t.refused(t.img('convert', '-O', 'raw', t.path('x.vhdx'), t.path('o.raw'), rc=1), 'parent')


# --- the log ---------------------------------------------------------------------------------------------------

def bat_page(entries):
    page = bytearray(4096)
    for index, value in entries.items():
        struct.pack_into('<Q', page, index * 8, value)
    return bytes(page)


def logged(entries, offset=0):
    """An image whose log holds @entries; blocks of 1s and 2s at 4 and 5 MiB that only the log makes part of it."""
    v = Vhdx()
    v.log_guid = G
    v.file_size = 6 * MiB
    v.log = bytes(offset) + b''.join(entries)
    v.patches = [(4 * MiB, b'\1' * MiB), (5 * MiB, b'\2' * MiB)]
    return v


ONE, TWO = 4 * MiB | 6, 5 * MiB | 6
SIX = 6 * MiB


@case
def a_log_is_replayed_in_memory(t):
    entry = log_entry(G, 7, [(3 * MiB, bat_page({0: ONE, 2: TWO}))], 0, SIX, SIX)
    content = read_all(t, logged([entry]).write(t.path('x.vhdx')))
    t.same_content(content, b'\1' * MiB + bytes(MiB) + b'\2' * MiB + bytes(5 * MiB), 'content')


@case
def only_the_active_sequence_counts(t):
    # The head's tail is its own start: the entry before it has been applied, and what it says is old.
    old = log_entry(G, 7, [(3 * MiB, bat_page({1: ONE}))], 0, SIX, SIX)
    new = log_entry(G, 8, [(3 * MiB, bat_page({0: TWO}))], len(old), SIX, SIX)
    torn = bytearray(log_entry(G, 9, [(3 * MiB, bat_page({5: ONE}))], len(old), SIX, SIX))
    torn[5000] ^= 1
    other = log_entry(uuid.uuid4(), 10, [(3 * MiB, bat_page({6: ONE}))], 0, SIX, SIX)
    content = read_all(t, logged([old, new, bytes(torn), other]).write(t.path('x.vhdx')))
    t.same_content(content, b'\2' * MiB + bytes(7 * MiB), 'content')


@case
def a_sequence_wraps_around(t):
    # The tail stands in the last sectors of the ring, the head at its start.
    page_a, page_b = bat_page({0: ONE}), bat_page({0: ONE, 7: TWO})
    at = MiB - 8192
    first = log_entry(G, 20, [(3 * MiB, page_a)], at, SIX, SIX)
    second = log_entry(G, 21, [(3 * MiB, page_b)], at, SIX, SIX)
    v = logged([])
    v.log = second + bytes(MiB - 8192 - len(second)) + first
    content = read_all(t, v.write(t.path('x.vhdx')))
    t.same_content(content, b'\1' * MiB + bytes(6 * MiB) + b'\2' * MiB, 'content')


@case
def later_descriptors_win(t):
    zero_then_data = log_entry(G, 3, [(3 * MiB, bat_page({1: TWO}))], 0, SIX, SIX, zeros=[(3 * MiB, 8192)])
    v = logged([zero_then_data])
    v.bat = {0: (ONE, None)}
    t.same_content(read_all(t, v.write(t.path('x.vhdx'))), bytes(MiB) + b'\2' * MiB + bytes(6 * MiB), 'content')
    # A zero descriptor alone takes the table away.
    v = logged([log_entry(G, 3, [], 0, SIX, SIX, zeros=[(3 * MiB, 4096)])])
    v.bat = {0: (ONE, None)}
    t.same_content(read_all(t, v.write(t.path('x.vhdx'))), bytes(8 * MiB), 'content')


# --- what must be refused ----------------------------------------------------------------------------------------

def refused(t, make, phrase):
    path = make().write(t.path('x.vhdx'))
    unchanged = Unchanged(path)
    for argv in (['info', '-f', 'vhdx', path], ['convert', '-q', '-f', 'vhdx', '-O', 'raw', path, t.path('out.raw')]):
        t.refused(t.img(*argv, rc=1), phrase, 'x.vhdx')
    t.check(vhdxcheck.check(path, closed=False).of('error'), 'the independent check finds nothing')
    unchanged.verify(t, 'a refusal')


def reject(name, phrase, **members):
    def make():
        v = Vhdx()
        for key, value in members.items():
            setattr(v, key, value)
        return v
    add('refused-' + name, refused, make, phrase)


def items(**changes):
    """The usual metadata items with some replaced (by name of the constant) or added."""
    base = Vhdx().items
    names = {'PARAMETERS': PARAMETERS, 'DISK_SIZE': DISK_SIZE, 'LOGICAL': LOGICAL, 'LOCATOR': LOCATOR,
             'INCOMPLETE': INCOMPLETE}
    out = [(guid, changes.get(next((n for n, g in names.items() if g == guid), ''), content), flags)
           for guid, content, flags in base]
    return out + changes.get('more', [])


reject('both-headers-bad', 'no valid header', header_sums=[False, False])
reject('equal-sequence-numbers', 'sequence number', sequence=[5, 5], header_fields=[{}, {'data_write_guid': G}])
reject('version', 'version', version=2)
reject('log-version', 'log version', log_version=1, log_guid=G)
reject('log-outside', 'log at offset', log_offset=64 * MiB)
reject('log-unaligned', 'log at offset', log_offset=MiB + 4096)
reject('log-guid-without-log', 'log', log_guid=G, log_length=0)
reject('log-guid-without-entry', 'log', log_guid=G)
reject('region-sums-bad', 'region table', region_sums=[False, False])
reject('region-outside', 'region', regions=[(BAT, 300 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)])
reject('region-unaligned', 'region', regions=[(BAT, 3 * MiB + 512, MiB, 1), (METADATA, 2 * MiB, MiB, 1)])
reject('region-over-log', 'overlaps the log', regions=[(BAT, MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)])
reject('regions-overlap', 'overlaps', regions=[(BAT, 2 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)])
reject('region-twice', 'twice', regions=[(BAT, 3 * MiB, MiB, 1), (BAT, 2 * MiB, MiB, 1)])
reject('no-bat-region', 'BAT', regions=[(METADATA, 2 * MiB, MiB, 1)])
reject('no-metadata-region', 'metadata', regions=[(BAT, 3 * MiB, MiB, 1)])
reject('unknown-region', 'required',
       regions=[(BAT, 3 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1), (uuid.uuid4(), 4 * MiB, MiB, 1)],
       file_size=8 * MiB)
reject('metadata-signature', 'signature', patches=[(2 * MiB, b'metadatA')])
reject('metadata-count', 'entries', patches=[(2 * MiB + 10, b'\xff\xff')])
reject('item-outside', 'region', patches=[(2 * MiB + 32 + 16, struct.pack('<I', MiB))])
reject('item-over-table', 'region', patches=[(2 * MiB + 32 + 16, struct.pack('<I', 32))])
reject('item-twice', 'twice', items=items(more=[(DISK_SIZE, None, 6)]))
reject('item-missing', 'no virtual disk size', items=[i for i in Vhdx().items if i[0] != DISK_SIZE])
reject('item-length', 'file parameters', items=items(PARAMETERS=bytes(12)))
reject('item-unknown-required', 'required', items=items(more=[(uuid.uuid4(), b'abcd', 4)]))
reject('incomplete', 'not completely made', items=items(more=[(INCOMPLETE, b'', 4)]))
reject('block-size-odd', 'block size', items=items(PARAMETERS=struct.pack('<II', 3 * MiB, 0)))
reject('block-size-large', 'block size', items=items(PARAMETERS=struct.pack('<II', 512 * MiB, 0)))
reject('sector-size', 'sector size', items=items(LOGICAL=struct.pack('<I', 1024)))
reject('disk-size-zero', 'disk size', items=items(DISK_SIZE=struct.pack('<Q', 0)))
reject('disk-size-huge', 'disk size', items=items(DISK_SIZE=struct.pack('<Q', 1 << 62)))
reject('bat-too-small', 'too small', items=items(DISK_SIZE=struct.pack('<Q', 1 << 40)))
reject('parent-without-locator', 'locator', flags=2)
for label, item in [('type', locator([('parent_linkage', '{%s}' % G)], kind=uuid.uuid4())),
                    ('no-linkage', locator([('relative_path', 'a.vhdx')])),
                    ('bad-linkage', locator([('parent_linkage', 'xyz'), ('relative_path', 'a.vhdx')])),
                    ('key-twice', locator([('parent_linkage', '{%s}' % G)] * 2)),
                    ('short', b'\0' * 10),
                    ('count', locator([('parent_linkage', '{%s}' % G)])[:18] + b'\xff\x00' + bytes(100))]:
    reject('locator-' + label, 'locator', flags=2, items=items(more=[(LOCATOR, item, 4)]))
for label, entry in [
        ('target-low', log_entry(G, 1, [(64 << 10, bytes(4096))], 0, 4 * MiB, 4 * MiB)),
        ('target-log', log_entry(G, 1, [(MiB, bytes(4096))], 0, 4 * MiB, 4 * MiB)),
        ('target-outside', log_entry(G, 1, [(1 << 50, bytes(4096))], 0, 4 * MiB, 4 * MiB)),
        ('zeros-outside', log_entry(G, 1, [], 0, 4 * MiB, 4 * MiB, zeros=[(3 * MiB, 1 << 60)])),
        ('last-offset', log_entry(G, 1, [], 0, 4 * MiB, 1 << 60)),
        ('truncated', log_entry(G, 1, [], 0, 400 * MiB, 400 * MiB)),
        ('tail', log_entry(G, 1, [], 8192, 4 * MiB, 4 * MiB))]:
    reject('log-' + label, ('log', 'truncated'), log=entry, log_guid=G)


@case
def broken_entries_are_errors_not_zeros(t):
    for value in (400 * MiB | 6, 6, MiB | 6, 2 * MiB | 6, 4 * MiB | 4, 4 * MiB | 0x10 | 6):
        v = Vhdx()
        v.file_size = 8 * MiB
        v.bat = {0: (value, None)}
        path = v.write(t.path('x.vhdx'))
        unchanged = Unchanged(path)
        t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('out.raw'), rc=1))
        unchanged.verify(t, 'a failing read')


@case
def a_partial_block_without_its_bitmap(t):
    _, child = make_chain(t)
    del child.bat[4096]
    path = child.write(t.path('x.vhdx'))
    t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('out.raw'), rc=1))


@case
def a_writer_puts_the_replayed_log_in_its_place(t):
    """What a reader sees in memory is on disk after one write, and the log is empty."""
    entry = log_entry(G, 7, [(3 * MiB, bat_page({0: ONE, 2: TWO}))], 0, SIX, SIX)
    path = logged([entry]).write(t.path('x.vhdx'))
    content = read_all(t, path)
    t.io('-c', 'write -q -P 3 512 512', path)
    t.equal([f.text for f in vhdxcheck.check(path).of('error')], [], 'independent check of the closed file')
    t.same_content(read_all(t, path), content[:512] + b'\3' * 512 + content[1024:], 'content')


@case
def a_writer_refuses_a_log_without_an_entry(t):
    v = Vhdx()
    v.log_guid = G
    path = v.write(t.path('x.vhdx'))
    unchanged = Unchanged(path)
    t.refused(t.io('-f', 'vhdx', '-c', 'write -q -P 1 0 512', path, rc=1), 'log')
    t.refused(t.img('compact', '-q', '-f', 'vhdx', path, rc=1), 'log')
    unchanged.verify(t, 'a refused write')


@case
def one_damaged_copy_is_read_over(t):
    for change in ({'header_sums': [False, True]}, {'header_sums': [True, False]}, {'region_sums': [False, True]}):
        v = Vhdx()
        v.bat = {2: block(3, 4)}
        for key, value in change.items():
            setattr(v, key, value)
        known = ['region table 1: checksum'] if 'region_sums' in change else []
        content = read_all(t, v.write(t.path('x.vhdx')), known=known)
        t.same_content(content, bytes(2 * MiB) + b'\3' * MiB + bytes(5 * MiB), 'content')


main()
