# SPDX-License-Identifier: LGPL-2.1-or-later
"""check of VHDX images: one image for each rule, what is said of it and the exit status; not a byte changed."""

import os
import random
import struct
import time
import uuid

import corpus_files
from harness import Unchanged, add, case, have, main, QEMU_IMG, QEMU_IO
from vhdxfile import (BAT, DISK_SIZE, INCOMPLETE, LOCATOR, METADATA, MiB, PARAMETERS, PHYSICAL, Vhdx, locator,
                      log_entry, with_sum)

G = uuid.uuid4()
TiB = 1 << 40
BLOCK_0 = 4 * MiB | 6


def look(t, path, rc, *phrases, severity=None, options=()):
    """The findings of a check that ends with @rc; @phrases must all be in one of them."""
    unchanged = Unchanged(path)
    result = t.img('check', '-f', 'vhdx', *options, path, rc=rc)
    if rc == 1:
        text = result.err
        t.check(all(p.lower() in text.lower() for p in phrases), 'check does not say %s' % (phrases,), result)
        unchanged.verify(t, 'check')
        return None
    report = t.img('check', '-f', 'vhdx', '--output=json', *options, path, rc=rc).json
    unchanged.verify(t, 'check')
    t.equal(bool(report.get('corruptions')), rc == 2, 'corruptions in the JSON')
    t.equal(bool(report.get('leaks')) if rc != 2 else True, rc != 0, 'leaks in the JSON')
    if phrases:
        t.check(any(all(p.lower() in f['text'].lower() for p in phrases) and severity in (None, f['severity'])
                    for f in report['findings']), 'no %s says %s' % (severity or 'finding', phrases), result)
    return report


def rule(name, rc, severity, phrases, edit=None, **members):
    """A case: an image changed by @edit and @members, and the finding it must give."""
    def run(t):
        v = Vhdx()
        v.file_size = 8 * MiB
        for key, value in members.items():
            setattr(v, key, value)
        if edit is not None:
            edit(v)
        look(t, v.write(t.path('x.vhdx')), rc, *([phrases] if isinstance(phrases, str) else phrases), severity=severity)
    add(name, run)


def error(name, *phrases, **kw):
    rule(name, 2, 'error', phrases, **kw)


def warning(name, *phrases, **kw):
    rule(name, 0, 'warning', phrases, **kw)


def note(name, *phrases, **kw):
    rule(name, 0, 'note', phrases, **kw)


def leak(name, *phrases, **kw):
    rule(name, 3, 'leak', phrases, **kw)


def bat(**entries):
    """BAT of values, without data: _INDEX=value."""
    return {int(key[1:]): (value, None) for key, value in entries.items()}


def parented(v):
    """Makes @v a child of nothing that is there."""
    v.flags = 2
    v.items.append((LOCATOR, locator([('parent_linkage', '{%s}' % G), ('relative_path', '.\\none.vhdx')]), 4))


# --- sound images ------------------------------------------------------------------------------------------------

@case
def sound(t):
    v = Vhdx()
    v.bat = bat(_0=BLOCK_0, _1=5 * MiB | 6, _2=2, _3=3, _4=1, _6=6 * MiB | 6)
    report = look(t, v.write(t.path('x.vhdx')), 0)
    t.equal(report['findings'], [], 'findings')
    t.equal((report['total-clusters'], report['allocated-clusters'], report['fragmented-clusters']), (8, 3, 1), 'blocks')
    t.equal(report['image-end-offset'], 7 * MiB, 'end of the image')


@case
def a_child_alone(t):
    v = Vhdx()
    parented(v)
    v.bat = bat(_0=BLOCK_0, _1=5 * MiB | 7, _4096=6 * MiB | 6)
    v.file_size = 7 * MiB
    report = look(t, v.write(t.path('x.vhdx')), 0)
    t.equal(report['findings'], [], 'findings')


@case
def images_by_qemu(t):
    t.need(QEMU_IMG, QEMU_IO)
    for options in ('subformat=dynamic', 'subformat=dynamic,block_state_zero=off', 'subformat=fixed',
                    'subformat=fixed,block_state_zero=off', 'block_size=1M'):
        path = t.path('q.vhdx')
        t.run(QEMU_IMG, 'create', '-q', '-f', 'vhdx', '-o', options, path, '45M')
        look(t, path, 0)
        t.run(QEMU_IO, '-f', 'vhdx', '-c', 'write 40M 2M', '-c', 'write 3M 9M', path)
        report = look(t, path, 0)
        t.check(not any(f['severity'] != 'note' and 'inside the last block' not in f['text']
                        for f in report['findings']), 'a warning about QEMU', report)
        os.unlink(path)


def corpus_row(t, row, *finding, **kw):
    look(t, corpus_files.unpack(t, row), *finding, **kw)


# Sound ones are checked with all else that the corpus is for.
for row in corpus_files.rows():
    if row.file.startswith('damaged/head1-bad.vhdx'):
        add('corpus-header-damaged', corpus_row, row, 0, 'header 1 at offset 65536')
    elif row.file.startswith('damaged/heads-both-bad.vhdx'):
        add('corpus-headers-damaged', corpus_row, row, 2, 'no valid header')
    elif row.format.startswith('vhdx') and 'log replay' in row.expected:
        add('corpus-log', corpus_row, row, 0, 'to be replayed')


# --- headers -----------------------------------------------------------------------------------------------------

warning('header-1-damaged', 'header 1 at offset 65536', 'signature or checksum', header_sums=[False, True])
warning('header-2-damaged', 'header 2 at offset 131072', 'signature or checksum', header_sums=[True, False])
error('headers-damaged', 'no valid header', '65536', '131072', header_sums=[False, False])
error('headers-equal-and-different', 'sequence number 5', sequence=[5, 5],
      header_fields=[{}, {'data_write_guid': G}])
warning('sequence-number-at-its-end', '18446744073709551615', 'cannot be written', sequence=[1, (1 << 64) - 1])
warning('data-write-guid-zero', 'DataWriteGuid', data_write_guid=uuid.UUID(int=0))
error('log-outside', 'log at offset', log_offset=64 * MiB)
error('log-unaligned', 'log at offset', log_offset=MiB + 4096)
error('log-guid-without-log', 'log at offset', '0 bytes', log_guid=G, log_length=0)
warning('log-of-no-length', 'log length 0', log_length=0)
warning('log-version', 'log version 3, expected 0', log_version=3)
rule('version', 1, None, 'version 2', version=2)


@case
def older_header_has_another_log(t):
    v = Vhdx()
    v.file_size = 8 * MiB
    header = bytearray(v.header(0))
    struct.pack_into('<IQ', header, 68, 2 * MiB, 5 * MiB)
    v.patches = [(64 << 10, with_sum(header))]
    look(t, v.write(t.path('x.vhdx')), 0, 'header at offset 65536', 'log at offset 5242880', severity='warning')
    header = bytearray(v.header(0))
    header[48:64] = G.bytes_le
    v.patches = [(64 << 10, with_sum(header))]
    look(t, v.write(t.path('x.vhdx')), 0, 'header at offset 65536', 'names a log', severity='note')


@case
def not_a_vhdx(t):
    path = Vhdx().write(t.path('x.vhdx'))
    with open(path, 'r+b') as f:
        f.write(b'vhdxfilE')
    look(t, path, 1, 'not a VHDX')
    with open(path, 'r+b') as f:
        f.write(b'vhdxfile')
        f.truncate(MiB - 1)
    look(t, path, 1, 'too small')


# --- the log -----------------------------------------------------------------------------------------------------

def page(**entries):
    data = bytearray(4096)
    for key, value in entries.items():
        struct.pack_into('<Q', data, 8 * int(key[1:]), value)
    return bytes(data)


END = 8 * MiB
note('log-judged-as-replayed', 'log at offset 1048576', '1 pages and 0 ranges', 'to be replayed', log_guid=G,
     bat=bat(_0=400 * MiB | 6), log=log_entry(G, 1, [(3 * MiB, page(_1=5 * MiB | 6))], 0, END, END))
error('log-brings-a-collision', 'BAT entry 1 at offset 3145736', 'BAT entry 0', log_guid=G,
      log=log_entry(G, 1, [(3 * MiB, page(_0=BLOCK_0, _1=BLOCK_0))], 0, END, END))
# Pages of the log count over a hole of the file, and where it has zeros the file's do not.
error('log-over-a-hole', 'BAT entry 512 at offset 3149824', 'state 4', log_guid=G, size=600 * MiB,
      log=log_entry(G, 1, [(3 * MiB + 4096, page(_0=4))], 0, END, END))
note('log-zeroes-what-is-wrong', 'to be replayed', log_guid=G, bat=bat(_0=4),
     log=log_entry(G, 1, [], 0, END, END, zeros=[(3 * MiB, 4096)]))
error('log-without-entry', 'log at offset 1048576', str(G), 'no entry of it', 'check -r log', log_guid=G)
error('log-of-another', 'no entry of it', 'check -r log', log_guid=G, log=log_entry(uuid.uuid4(), 1, [], 0, END, END))
error('log-target', 'target at offset 65536', log_guid=G,
      log=log_entry(G, 1, [(64 << 10, bytes(4096))], 0, END, END))
error('log-knows-of-more', 'truncated', log_guid=G, log=log_entry(G, 1, [], 0, 400 * MiB, 400 * MiB))


@case
def log_with_a_torn_entry_is_not_without_entry(t):
    """The repair that makes the header name no log must not be offered: something was logged."""
    v = Vhdx()
    v.log_guid = G
    torn = bytearray(log_entry(G, 1, [(3 * MiB, page(_0=BLOCK_0))], 0, END, END))
    torn[6000] ^= 1
    v.log = bytes(512 * 1024) + torn
    v.file_size = END
    path = v.write(t.path('x.vhdx'))
    report = look(t, path, 2, 'holds no valid entry', severity='error')
    t.check(not any('-r log' in f['text'] for f in report['findings']), 'the repair is offered', report)


@case
def log_without_entry_does_not_hide_the_rest(t):
    v = Vhdx()
    v.log_guid = G
    v.file_size = END
    v.bat = bat(_0=BLOCK_0, _5=BLOCK_0)
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 5', 'BAT entry 0', severity='error')


# --- regions -----------------------------------------------------------------------------------------------------

REGIONS = [(BAT, 3 * MiB, MiB, 1), (METADATA, 2 * MiB, MiB, 1)]
OTHER = uuid.uuid4()

warning('region-table-1-damaged', 'region table 1 at offset 196608', region_sums=[False, True])
warning('region-table-2-damaged', 'region table 2 at offset 262144', region_sums=[True, False])
error('region-tables-damaged', 'region table', '196608', '262144', region_sums=[False, False])
error('region-outside', 'region', 'offset 314572800', regions=[(BAT, 300 * MiB, MiB, 1), REGIONS[1]])
error('region-over-log', 'overlaps the log', regions=[(BAT, MiB, MiB, 1), REGIONS[1]])
error('no-bat-region', 'no BAT region', regions=[REGIONS[1]])
rule('unknown-region-required', 1, None, ('unknown region', str(OTHER)), regions=REGIONS + [(OTHER, 5 * MiB, MiB, 1)])
note('unknown-region', 'entry 2', str(OTHER), 'offset 5242880', regions=REGIONS + [(OTHER, 5 * MiB, MiB, 0)])
warning('region-flags', 'entry 0', 'flags 0x3', regions=[(BAT, 3 * MiB, MiB, 3), REGIONS[1]])
error('block-over-unknown-region', 'BAT entry 2', 'overlaps the region %s at offset 5242880' % OTHER,
      regions=REGIONS + [(OTHER, 5 * MiB, MiB, 0)], bat=bat(_2=5 * MiB | 6))
note('bat-region-larger-than-needed', '2097152 bytes', 'needs 64', regions=[(BAT, 4 * MiB, 2 * MiB, 1), REGIONS[1]])


def region_table(change):
    def edit(v):
        table = bytearray(v.region_table(1))
        change(table)
        v.patches.append((256 << 10, with_sum(table)))
    return edit


def reserved_in_both(v):
    table = bytearray(v.region_table(0))
    struct.pack_into('<I', table, 12, 7)
    v.patches += [(192 << 10, with_sum(table)), (256 << 10, with_sum(table))]


warning('region-tables-differ', 'differ', '196608', '262144',
        edit=region_table(lambda table: struct.pack_into('<Q', table, 32, 5 * MiB)))
warning('region-table-reserved', 'reserved field is 0x7', edit=reserved_in_both)

# --- metadata ----------------------------------------------------------------------------------------------------


def items(more=(), **changes):
    names = {'PARAMETERS': PARAMETERS, 'DISK_SIZE': DISK_SIZE, 'PHYSICAL': PHYSICAL}
    out = []
    for guid, content, flags in Vhdx().items:
        name = next((n for n, g in names.items() if g == guid), '')
        out.append(changes.get(name, (guid, content, flags)))
    return out + list(more)


error('metadata-signature', 'metadata table at offset 2097152', patches=[(2 * MiB, b'metadatA')])
error('metadata-item-outside', 'not inside the region', patches=[(2 * MiB + 32 + 16, struct.pack('<I', MiB))])
error('metadata-item-missing', 'no virtual disk size', items=[i for i in Vhdx().items if i[0] != DISK_SIZE])
error('metadata-incomplete', 'not completely made', items=items([(INCOMPLETE, b'', 4)]))
error('metadata-user-and-required', 'user item', items=items([(OTHER, b'abcd', 5)]))
error('block-size', 'block size 3145728',
      items=items(PARAMETERS=(PARAMETERS, struct.pack('<II', 3 * MiB, 0), 4)))
error('bat-too-small', 'BAT at offset 3145728 too small', size=TiB)
warning('metadata-reserved', 'metadata table at offset 2097152', 'reserved field is 0x1',
        patches=[(2 * MiB + 8, b'\1')])
warning('metadata-entry-reserved', 'entry 1 at offset 2097216', 'reserved field is 0x9',
        patches=[(2 * MiB + 64 + 28, b'\x09')])
warning('metadata-flags-reserved', 'entry 1 at offset 2097216', 'flags 0x16', items=items(DISK_SIZE=(DISK_SIZE, None, 22)))
warning('metadata-flags', 'physical sector size', 'flags 0x4, expected 0x6',
        items=items(PHYSICAL=(PHYSICAL, struct.pack('<I', 512), 4)))
note('metadata-unknown', str(OTHER), '4 bytes', 'not known', items=items([(OTHER, b'abcd', 0)]))
warning('parameters-reserved', 'file parameters at offset 2162688', 'flags 0x10', flags=0x10)
warning('locator-without-parent', 'parent locator', 'no parent',
        items=items([(LOCATOR, locator([('parent_linkage', '{%s}' % G)]), 4)]))
error('parent-without-locator', 'no parent locator', flags=2)


def child(entries):
    """The members of an image with a parent locator of @entries."""
    return {'flags': 2, 'items': items([(LOCATOR, locator(entries), 4)])}


LINK = ('parent_linkage', '{%s}' % G)
PATH = ('relative_path', 'none.vhdx')
error('locator-without-linkage', 'parent_linkage', 'missing', **child([PATH]))
error('locator-linkage-zero', 'parent_linkage is zero', **child([('parent_linkage', str(uuid.UUID(int=0))), PATH]))
error('locator-linkage-no-guid', 'parent_linkage', 'xyz', **child([('parent_linkage', 'xyz'), PATH]))
error('locator-key-twice', 'entry 1', 'twice', **child([LINK, LINK]))
warning('locator-without-path', 'names no path', **child([LINK]))
warning('locator-linkage2', 'parent_linkage2', '"zzz"', **child([LINK, PATH, ('parent_linkage2', 'zzz')]))
note('locator-unknown-key', 'entry 2', '"colour"', **child([LINK, PATH, ('colour', 'red')]))


def fixed_with_parent(v):
    parented(v)
    v.flags = 3


warning('locator-fixed-flag', 'keep its blocks allocated', edit=fixed_with_parent)


@case
def locator_reserved(t):
    v = Vhdx()
    item = bytearray(locator([LINK, PATH]))
    item[16:18] = b'\5\0'
    v.flags = 2
    v.items.append((LOCATOR, bytes(item), 4))
    look(t, v.write(t.path('x.vhdx')), 0, 'parent locator at offset', 'reserved field is 0x5', severity='warning')


# --- block allocation table ----------------------------------------------------------------------------------------

error('state-4', 'BAT entry 3 at offset 3145752 (payload block 3)', 'state 4', bat=bat(_3=4))
error('reserved-bits', 'BAT entry 3', 'reserved bits 0x10', bat=bat(_3=4 * MiB | 0x16))
error('no-place', 'BAT entry 1', 'header section', bat=bat(_1=6))
error('over-the-log', 'BAT entry 1', 'overlaps the log at offset 1048576', bat=bat(_1=MiB | 6))
error('over-the-metadata', 'BAT entry 1', 'overlaps the region', 'offset 2097152', bat=bat(_1=2 * MiB | 6))
error('outside-the-file', 'BAT entry 1', 'offset 8388608', 'ends at 8388608', bat=bat(_1=8 * MiB | 6))
error('far-outside-the-file', 'BAT entry 1', 'outside the file', bat=bat(_1=0xFFFFFFFFFFF00006))
error('collision', 'BAT entry 6', 'BAT entry 2 at offset 3145744', 'offset 4194304', bat=bat(_2=BLOCK_0, _6=BLOCK_0))
error('partial-collision', 'BAT entry 1', 'offset 5242880', 'BAT entry 0', 'offset 4194304', block_size=2 * MiB,
      file_size=10 * MiB, bat=bat(_0=4 * MiB | 6, _1=5 * MiB | 6))
error('anchor-collision', 'BAT entry 6', 'BAT entry 2', bat=bat(_2=BLOCK_0, _6=4 * MiB | 3))
error('anchor-outside', 'BAT entry 6', 'outside the file', bat=bat(_6=40 * MiB | 1))
note('anchors', '2 blocks', 'keep their place', bat=bat(_2=4 * MiB | 1, _6=5 * MiB | 3))
warning('zero-with-an-offset', 'BAT entry 2', 'and 1 more', 'offset', bat=bat(_2=4 * MiB | 2, _6=4 * MiB))
warning('draft-state', 'BAT entry 2', 'state 5', bat=bat(_2=5))
error('draft-state-with-a-parent', 'BAT entry 2', 'state 5', edit=parented, bat=bat(_2=5))
error('partial-without-a-parent', 'BAT entry 2', 'state 7', 'no parent', bat=bat(_2=4 * MiB | 7))
error('partial-without-its-bitmap', 'BAT entry 2', 'chunk 0 has no sector bitmap', edit=parented,
      bat=bat(_2=4 * MiB | 7))
error('bitmap-state', 'BAT entry 4096 at offset 3178496 (sector bitmap of chunk 0)', 'state 7', edit=parented,
      bat=bat(_2=4 * MiB | 7, _4096=5 * MiB | 7))
error('bitmap-collision', 'BAT entry 4096', 'BAT entry 2', edit=parented, bat=bat(_2=4 * MiB | 7, _4096=BLOCK_0))
note('bitmap-not-needed', 'BAT entry 4096', 'not needed', edit=parented, bat=bat(_2=BLOCK_0, _4096=5 * MiB | 6))
warning('past-the-last-block', 'BAT entry 9', 'past the last block', edit=parented, bat=bat(_9=BLOCK_0))
warning('surplus', '2 entries past the 8', 'offset 3145792', bat=bat(_8=BLOCK_0, _500=1))
warning('bitmaps-without-a-parent', 'BAT entry 4096', 'ignored', size=5000 * MiB, bat=bat(_4096=BLOCK_0, _0=BLOCK_0))


@case
def bitmap_that_guest_writes_leave(t):
    """A block that was written in parts, and then the rest of it: its bitmap block stays, and that is no fault."""
    parent, child = t.path('p.vhdx'), t.path('c.vhdx')
    t.img('create', '-q', '-f', 'vhdx', parent, 16 * MiB)
    t.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', '-b', parent, child)
    t.io('-c', 'write -q -P 1 0 512k', child)
    t.equal(t.img('check', child).out.count('note'), 0, 'notes')
    t.io('-c', 'write -q -P 2 512k 512k', child)
    look(t, child, 0, 'not needed', severity='note')
    t.img('check', '-q', '-r', 'all', child)
    t.check('not needed' not in t.img('check', child).out, 'it is there after a repair')
    t.io('-c', 'read -P 1 0 512k', '-c', 'read -P 2 512k 512k', child)


@case
def chunks_have_their_own_bitmaps(t):
    """A bitmap block serves its own chunk only."""
    v = Vhdx(size=9000 * MiB)
    parented(v)
    v.bat = bat(_5=4 * MiB | 7, _4096=5 * MiB | 6, _4099=6 * MiB | 7, _8193=7 * MiB | 6)
    v.file_size = 8 * MiB
    look(t, v.write(t.path('x.vhdx')), 0)
    del v.bat[8193]
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 4099', 'payload block 4098', 'chunk 1 has no', severity='error')
    v.bat = bat(_5=4 * MiB | 7, _4099=6 * MiB | 7, _8193=7 * MiB | 6)
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 5', 'chunk 0 has no', severity='error')


@case
def all_findings_of_one_image(t):
    v = Vhdx()
    v.header_sums = [False, True]
    v.file_size = 50 * MiB
    v.bat = bat(_0=4, _1=400 * MiB | 6, _2=BLOCK_0, _3=BLOCK_0, _4=5 * MiB | 6, _9=1)
    report = look(t, v.write(t.path('x.vhdx')), 2)
    t.equal((report['corruptions'], report['leaks']), (3, 1), 'counts')
    for phrase in ('header 1', 'entry 0', 'entry 1', 'entry 3', 'past the 8', '44 MiB behind'):
        t.check(any(phrase in f['text'] for f in report['findings']), 'not told: ' + phrase, report)


@case
def a_table_of_nonsense(t):
    """Counted to the end, told in a bounded number of findings."""
    v = Vhdx(size=100000 * MiB)
    v.file_size = 5 * MiB
    v.patches = [(3 * MiB, struct.pack('<Q', BLOCK_0) * 50000 + struct.pack('<Q', 4) * 40000)]
    report = look(t, v.write(t.path('x.vhdx')), 2)
    bitmaps = [i for i in range(90000) if i % 4097 == 4096]
    t.equal(report['corruptions'], 90000 - 1 - len(bitmaps), 'corruptions')
    t.check(len(report['findings']) < 150, 'too many findings', len(report['findings']))


@case
def entries_between_holes(t):
    """Data and holes of the table in all orders, some of its pages only in the log: every entry is seen once."""
    chance = random.Random(7)
    for turn in range(6):
        v = Vhdx(size=600 * 1024 * MiB)
        v.regions = [(BAT, 3 * MiB, 5 * MiB, 1), REGIONS[1]]
        v.file_size = 8 * MiB
        wrong = {chance.randrange(600 * 1024) for _ in range(chance.choice((3, 40, 600)))}
        wrong |= {0, 511, 512, 131071, 131072, 131073, 600 * 1024 - 1}
        v.patches = [(3 * MiB + 8 * n, b'\4') for n in sorted(wrong)]
        if turn % 2:
            pages = [(chance.randrange(1200), {chance.randrange(512) for _ in range(chance.randrange(3))})
                     for _ in range(20)]
            zeros = [(chance.randrange(900), chance.randrange(1, 300)) for _ in range(2)]
            v.log_guid = G
            v.log = log_entry(G, 1, [(3 * MiB + 4096 * n, page(**{'_%d' % i: 4 for i in entries}))
                                     for n, entries in pages], 0, END, END,
                              zeros=[(3 * MiB + 4096 * n, 4096 * count) for n, count in zeros])
            for n, count in zeros:
                wrong = {i for i in wrong if not n <= i // 512 < n + count}
            for n, entries in pages:
                wrong = {i for i in wrong if i // 512 != n} | {n * 512 + i for i in entries}
        # In the place of bitmaps, which a disk without a parent has not, they do not count; nor past the end.
        wrong = {i for i in wrong if (i + 1) % 4097 and i < 600 * 1024 + 149}
        report = look(t, v.write(t.path('x.vhdx')), 2 if wrong else 0)
        t.equal(report.get('corruptions', 0), len(wrong), 'entries seen')
        os.unlink(t.path('x.vhdx'))


# --- space ---------------------------------------------------------------------------------------------------------

leak('space-at-the-end', '32 MiB behind', 'offset 5242880', bat=bat(_0=BLOCK_0), file_size=37 * MiB)
note('space-between', '2 MiB between', bat=bat(_0=BLOCK_0, _1=7 * MiB | 6))
warning('file-not-whole-mib', '5243392 bytes', 'multiple of 1048576', bat=bat(_0=BLOCK_0), file_size=5 * MiB + 512)


@case
def space_made_ready_is_no_leak(t):
    v = Vhdx()
    v.file_size = 35 * MiB
    t.equal(look(t, v.write(t.path('x.vhdx')), 0)['findings'], [], 'findings')
    # A fixed disk whose blocks have no place yet.
    v = Vhdx(size=64 * MiB)
    v.flags = 1
    v.file_size = 68 * MiB
    t.equal(look(t, v.write(t.path('x.vhdx')), 0)['findings'], [], 'findings')
    v.file_size = 100 * MiB
    look(t, v.write(t.path('x.vhdx')), 3, 'behind', severity='leak')


@case
def short_last_block(t):
    v = Vhdx(size=5 * MiB, block_size=4 * MiB)
    v.bat = bat(_1=4 * MiB | 6)
    v.file_size = 5 * MiB
    look(t, v.write(t.path('x.vhdx')), 0, 'inside the last block', '3145728 bytes', severity='warning')
    v.file_size = 5 * MiB - 512
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 1', 'outside the file', severity='error')
    # Only the last block may be short, and what stands in its missing part collides.
    v.bat = bat(_0=4 * MiB | 6)
    v.file_size = 5 * MiB
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 0', 'outside the file', severity='error')
    v.bat = bat(_1=4 * MiB | 6, _0=5 * MiB | 6)
    v.file_size = 9 * MiB
    look(t, v.write(t.path('x.vhdx')), 2, 'BAT entry 1', 'BAT entry 0', severity='error')


@case
def huge_and_empty(t):
    """The table of 64 TiB is a hole and costs nothing; entries at its end are found."""
    v = Vhdx(size=64 * TiB)
    v.regions = [(BAT, 3 * MiB, 513 * MiB, 1), REGIONS[1]]
    v.file_size = 517 * MiB
    last = 64 * 1024 * 1024 + 16383 - 1
    for edit, rc, phrase in ((0, 0, 'No errors'), (516 * MiB | 6, 0, '1/67108864'), (4, 2, 'payload block 67108863')):
        v.bat = {}
        v.patches = [(3 * MiB + last * 8, struct.pack('<Q', edit))] if edit else []
        path = v.write(t.path('x.vhdx'))
        start = time.monotonic()
        result = t.img('check', '-f', 'vhdx', path, rc=rc)
        spent = time.monotonic() - start
        t.check(phrase in result.out, 'not said: ' + phrase, result)
        t.check(spent < 5, 'took %.2f s' % spent)


# --- the tool ------------------------------------------------------------------------------------------------------

@case
def damage_keeps_from_opening_otherwise(t):
    """Only a check opens what is too damaged: nothing else gets an image without content."""
    v = Vhdx()
    v.header_sums = [False, False]
    path = v.write(t.path('x.vhdx'))
    t.refused(t.img('info', '-f', 'vhdx', path, rc=1), 'no valid header')
    t.refused(t.img('convert', '-f', 'vhdx', '-O', 'raw', path, t.path('o.raw'), rc=1), 'no valid header')
    v = Vhdx()
    v.log_guid = G
    path = v.write(t.path('x.vhdx'))
    t.refused(t.img('info', '-f', 'vhdx', path, rc=1), 'log')


@case
def parent_of_a_checked_child_is_not_opened_damaged(t):
    parent = Vhdx()
    parent.header_sums = [False, False]
    parent.write(t.path('none.vhdx'))
    v = Vhdx()
    parented(v)
    result = t.img('check', '-f', 'vhdx', v.write(t.path('x.vhdx')), rc=0)
    t.check('without its parent' in result.err, 'the parent is not spoken of', result)


main()
