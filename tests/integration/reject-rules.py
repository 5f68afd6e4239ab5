# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every rule that a reader of VHD and VHDX has to keep to with input that is damaged or hostile, and an image for each.

RULES are the checklists; each has cases below, or a reason why it cannot have one, and a case of its own looks after
that.  What a case expects is the whole message: file, structure, place, what was found and what was expected.  No case
changes a byte or a time stamp, takes more memory than bounded.MEMORY or reads more than the file's tables.
"""

import fnmatch
import os
import random
import struct
import uuid

import bounded
import vhdfile as vf
import vhdxfile as vx
from harness import GiB, KiB, MiB, add, case, main, tool
from rejecting import BLOCK, SIZE, differencing, dynamic

RULES = {
    'vhd 1': 'a file of less than 512 bytes',
    'vhd 2': 'no footer, or one with a wrong checksum',
    'vhd 3': 'version of the footer',
    'vhd 4': 'disk type',
    'vhd 5': 'disk size: none, not of sectors, too large',
    'vhd 6': 'fixed: the disk is larger than the file',
    'vhd 7': 'offset of the header',
    'vhd 8': 'cookie, checksum, version of the header',
    'vhd 9': 'block size',
    'vhd 10': 'a BAT of too few entries',
    'vhd 11': 'a BAT of absurdly many entries',
    'vhd 12': 'a BAT outside of the file',
    'vhd 13': 'a BAT over footer copy, header or locator',
    'vhd 14': 'a block outside of the file',
    'vhd 15': 'blocks over metadata, or over each other',
    'vhd 16': 'differencing: no identity of the parent, no place of it',
    'vhd 17': 'parent locators that cannot be right',
    'vhd 18': 'a parent of an image that has none',
    'vhd 19': 'chains: cycles, too many layers',
    'vhd 20': 'a parent that is damaged itself',
    'vhd 21': 'a parent that is no regular file',
    'vhd 22': 'features and reserved bytes',
    'vhd 23': 'short reads are errors, not zeros',
    'vhdx 1': 'too small a file; signature',
    'vhdx 2': 'headers: none valid, version, log version, two of one number',
    'vhdx 3': 'place and length of the log',
    'vhdx 4': 'log entries: targets, ranges, offsets, work',
    'vhdx 5': 'region tables',
    'vhdx 6': 'metadata table',
    'vhdx 7': 'metadata items',
    'vhdx 8': 'a parent without a locator, and the other way round',
    'vhdx 9': 'parent locator',
    'vhdx 10': 'a BAT that is too small; memory for a large one',
    'vhdx 11': 'BAT entries',
    'vhdx 12': 'entries past the end of the disk',
    'vhdx 13': 'places that blocks keep, over others',
    'vhdx 14': 'chains: cycle, sector sizes, identity, a damaged parent',
    'vhdx 15': 'a log to be replayed when nothing may be written',
    'vhdx 16': 'sequence number at its end',
    'vhdx 17': 'short reads are errors, not zeros',
}

# Of what there is no image to be refused.
REASONS = {
    'vhdx 15': 'the log is replayed in memory: vhdx-read.py looks at what is read then',
}

covered = set()

# What opening may read: the last 4 MiB in search of a footer, tables of 64 KiB, pages of the BAT.
BYTES_READ = 6 * MiB


def message_of(result):
    lines = [line for line in result.err.splitlines() if 'warning:' not in line]
    return lines[0].partition(': ')[2] if len(lines) == 1 else None


def refused(t, argv, expected):
    """One message, the whole of it; * stands for what differs from run to run."""
    result = bounded.run(t, argv, rc=1)
    found = message_of(result)
    t.check(found is not None, 'not one message', result)
    pattern = expected.replace('[', '[[]')
    t.check(fnmatch.fnmatchcase(found.replace(t.dir + '/', ''), pattern),
            'message:\n  %s\nexpected:\n  %s' % (found.replace(t.dir + '/', ''), expected), result)
    t.check(result.bytes_read <= BYTES_READ, 'read %d bytes, %s at most' % (result.bytes_read, BYTES_READ))


def warned(result, expected):
    return expected is None or any(fnmatch.fnmatchcase(line, '*warning: *' + expected.replace('[', '[[]'))
                                   for line in result.err.splitlines())


def image_of(t, make):
    made = make(t)
    if isinstance(made, vx.Vhdx):
        made.write(t.path('x.vhdx'))
    return next(t.path(name) for name in ('x.vhd', 'x.vhdx') if os.path.exists(t.path(name)))


def format_of(path):
    return path.rpartition('.')[2]


def run_opening(t, make, message, writes):
    """Nothing opens it."""
    path = image_of(t, make)
    fmt = format_of(path)
    before = bounded.Untouched(t.dir)
    refused(t, [tool('vhd-img'), 'map', '-f', fmt, path], message)
    refused(t, [tool('vhd-img'), 'convert', '-q', '-f', fmt, '-O', 'raw', path, 'out.raw'], message)
    refused(t, [tool('vhd-io'), '-f', fmt, '-c', 'write -q -P 1 0 512', path], writes or message)
    before.verify(t, 'a refusal')


def opening(rule, name, make, message, writes=None):
    """@writes: what is said to a writer, who looks at more."""
    covered.add(rule)
    add('%s-%s' % (rule.replace(' ', '-'), name), run_opening, make, message, writes)


def run_reading(t, make, warning, check, rc):
    """It opens; what cannot be right fails where it is read, and check finds it."""
    path = image_of(t, make)
    fmt = format_of(path)
    before = bounded.Untouched(t.dir)
    bounded.run(t, [tool('vhd-img'), 'info', '-f', fmt, path], rc=0)
    result = bounded.run(t, [tool('vhd-img'), 'compare', '-f', fmt, '-F', fmt, path, path], rc=(2, 3, 4))
    if warning:
        t.check(warned(result, warning), 'no warning says\n  %s' % warning, result)
    t.check(message_of(result) is not None, 'not one message', result)
    result = bounded.run(t, [tool('vhd-img'), 'check', '-f', fmt, path], rc=rc)
    t.check(any(fnmatch.fnmatchcase(line, '*' + check.replace('[', '[[]')) for line in result.out.splitlines()),
            'check does not say\n  %s' % check, result)
    before.verify(t, 'a failing read')


def reading(rule, name, make, warning, check, rc=2):
    covered.add(rule)
    add('%s-%s' % (rule.replace(' ', '-'), name), run_reading, make, warning, check, rc)


def run_checking(t, make, check, rc, writes):
    """A reader need not see it; check does, and a writer that looks at the whole table."""
    path = image_of(t, make)
    fmt = format_of(path)
    before = bounded.Untouched(t.dir)
    bounded.run(t, [tool('vhd-img'), 'info', '-f', fmt, path], rc=0)
    result = bounded.run(t, [tool('vhd-img'), 'check', '-f', fmt, path], rc=rc)
    t.check(any(fnmatch.fnmatchcase(line, '*' + check.replace('[', '[[]')) for line in result.out.splitlines()),
            'check does not say\n  %s' % check, result)
    if writes:
        refused(t, [tool('vhd-io'), '-f', fmt, '-c', 'write -q -P 1 0 512', path], writes)
    before.verify(t, 'a check')


def checking(rule, name, make, check, rc=2, writes=None):
    covered.add(rule)
    add('%s-%s' % (rule.replace(' ', '-'), name), run_checking, make, check, rc, writes)


def run_bearing(t, make, warning):
    """Odd, not wrong: it is read, with a warning where the rule asks for one."""
    path = image_of(t, make)
    fmt = format_of(path)
    before = bounded.Untouched(t.dir)
    result = bounded.run(t, [tool('vhd-img'), 'compare', '-f', fmt, '-F', fmt, path, path], rc=0)
    t.check(warned(result, warning), 'no warning says\n  %s' % warning, result)
    before.verify(t, 'reading')


def bearing(rule, name, make, warning):
    covered.add(rule)
    add('%s-%s' % (rule.replace(' ', '-'), name), run_bearing, make, warning)


# --- VHD: how images are made -----------------------------------------------------------------------------------

def vhd_bytes(data):
    def make(t):
        with open(t.path('x.vhd'), 'wb') as f:
            f.write(data)
    return make


def vhd_footer(fix=True, fixed=False, **fields):
    def make(t):
        if fixed:
            vf.write_fixed(t.path('x.vhd'), MiB)
        else:
            dynamic(t)
        vf.patch_footer(t.path('x.vhd'), fix, copies=('end',) if fixed else ('head', 'end'), **fields)
    return make


def vhd_header(fix=True, **fields):
    def make(t):
        made = dynamic(t)
        vf.patch_header(t.path('x.vhd'), fix, **{k: v(made) if callable(v) else v for k, v in fields.items()})
    return make


def vhd_entry(*entries):
    """BAT entries: (index, sector or a function of what was made)."""
    def make(t):
        made = dynamic(t)
        for index, value in entries:
            vf.patch_bat(t.path('x.vhd'), index, value(made) if callable(value) else value)
    return make


def vhd_child(locators=None, name='', **options):
    def make(t):
        vf.write_sparse(t.path('parent.vhd'), SIZE, [(0, b'\7' * 4096)], unique_id=b'P' * 16)
        vf.write_sparse(t.path('x.vhd'), SIZE, [(8192, b'\1' * 512)], parent_id=options.get('parent_id', b'P' * 16),
                        locators=locators or [], parent_name=name)
    return make


def vhd_locator(**fields):
    def make(t):
        vhd_child([vf.Locator.w2ru('.\\parent.vhd')])(t)
        vf.patch_locator(t.path('x.vhd'), 0, **fields)
    return make


FOOTER = 'x.vhd: footer: '
# dynamic () has a footer copy, header, BAT at 1536 of 64 entries; four blocks of 64 KiB with bitmaps of 512 bytes.
SIZE_RANGE = 'expected a multiple of 512 from 512 to 2190433320960'

# --- VHD: cases -------------------------------------------------------------------------------------------------

NO_FOOTER = 'x.vhd: footer missing or corrupt: no "conectix" at offset %d, nor a copy at offset 0'
opening('vhd 1', 'empty', vhd_bytes(b''), 'x.vhd: footer missing: the file has 0 bytes, too small for a footer of 512')
opening('vhd 1', 'one-byte-short', vhd_bytes(bytes(510)),
        'x.vhd: footer missing: the file has 510 bytes, too small for a footer of 512')
opening('vhd 2', 'zeros', vhd_bytes(bytes(4096)), NO_FOOTER % 3584)
opening('vhd 2', 'noise', vhd_bytes(random.Random(1).randbytes(65536)), NO_FOOTER % 65024)
opening('vhd 2', 'far-from-the-end', lambda t: (dynamic(t), open(t.path('x.vhd'), 'r+b').truncate(64 * MiB),
                                                vf.write_at(t.path('x.vhd'), 0, b'\0'))[0],
        NO_FOOTER % (64 * MiB - 512))
opening('vhd 2', 'checksum', vhd_footer(False, checksum=0x12345678),
        'x.vhd: footer at offset *: checksum 0x12345678, expected 0x*')
opening('vhd 3', 'version', vhd_footer(version=0x20000),
        'x.vhd: footer at offset *: format version 0x00020000, expected 0x00010000')
opening('vhd 3', 'version-fixed', vhd_footer(fixed=True, version=0),
        'x.vhd: footer at offset 1048576: format version 0x00000000, expected 0x00010000')
for disk_type in (0, 1, 5, 6, 7, 0xFFFFFFFF):
    opening('vhd 4', 'type-%d' % disk_type, vhd_footer(disk_type=disk_type),
            FOOTER + 'disk type %d, expected 2, 3 or 4' % disk_type)
for label, size in (('zero', 0), ('odd', MiB - 100), ('too-large', 2040 * GiB + 512), ('all-ones', (1 << 64) - 1)):
    for fixed in (False, True):
        opening('vhd 5', label + ('-fixed' if fixed else ''), vhd_footer(fixed=fixed, current_size=size),
                FOOTER + 'invalid disk size %d, %s' % (size, SIZE_RANGE))
for size in (MiB + 512, 2039 * GiB):
    opening('vhd 6', 'size-%d' % size, vhd_footer(fixed=True, current_size=size),
            FOOTER + 'image truncated: disk size %d, but only 1048576 bytes before the footer' % size)
for label, offset in (('all-ones', vf.NO_OFFSET), ('unaligned', 700), ('zero', 0), ('behind-the-end', 1 << 40),
                      ('overflow', (1 << 64) - 1024)):
    opening('vhd 7', label, vhd_footer(data_offset=offset),
            FOOTER + 'bad header offset %d, expected a multiple of 512 inside the file of * bytes' % offset)
HEADER = 'x.vhd: dynamic header'
opening('vhd 8', 'cookie', vhd_header(cookie=b'cxsparsf'), HEADER + ' at offset 512: no "cxsparse" there')
opening('vhd 8', 'elsewhere', vhd_footer(data_offset=1536), HEADER + ' at offset 1536: no "cxsparse" there')
opening('vhd 8', 'checksum', vhd_header(False, checksum=1), HEADER + ' at offset 512: checksum 0x00000001, expected 0x*')
opening('vhd 8', 'version', vhd_header(version=0x20000),
        HEADER + ' at offset 512: version 0x00020000, expected 0x00010000')
for size in (0, 1, 256, 513, 3 * 512, BLOCK + 512, 0x80000000, 0xFFFFFFFF):
    opening('vhd 9', 'size-%d' % size, vhd_header(block_size=size),
            HEADER + ': invalid block size %d, expected a power of two from 512 to 268435456' % size)
for entries in (0, 63):
    opening('vhd 10', 'entries-%d' % entries, vhd_header(max_table_entries=entries),
            HEADER + ': BAT too small: %d entries, the disk has 64 blocks' % entries)
opening('vhd 10', 'larger-disk', vhd_footer(current_size=GiB),
        HEADER + ': BAT too small: 64 entries, the disk has 16384 blocks')
for entries in (1 << 20, 0xFFFFFFFF):
    opening('vhd 11', 'entries-%d' % entries, vhd_header(max_table_entries=entries),
            HEADER + ': BAT outside the file: offset 1536, %d bytes, file of *' % (-(-4 * entries // 512) * 512))


def table_of_16_gib(t):
    dynamic(t)
    vf.patch_footer(t.path('x.vhd'), current_size=2040 * GiB)
    vf.patch_header(t.path('x.vhd'), block_size=512, max_table_entries=0xFF000000)
    footer = vf.read_at(t.path('x.vhd'), 0, 512)
    with open(t.path('x.vhd'), 'r+b') as f:
        f.truncate(20 * GiB)
        f.seek(20 * GiB)
        f.write(footer)


opening('vhd 11', 'table-of-16-gib', table_of_16_gib,
        HEADER + ': BAT size 17112760320 is more than 2147483648 bytes')
for label, offset in (('zero', 0), ('unaligned', 1537), ('footer-copy', 256), ('behind-the-end', 1 << 40),
                      ('overflow', (1 << 64) - 512), ('negative', 1 << 63)):
    opening('vhd 12', label, vhd_header(table_offset=offset),
            HEADER + ': BAT outside the file: offset %d, 512 bytes, file of *' % offset)
for offset in (512, 1024):
    opening('vhd 13', 'header-at-%d' % offset, vhd_header(table_offset=offset),
            'x.vhd: overlapping structures: BAT at offset %d and dynamic header at offset 512' % offset)


def table_over_locator(t):
    made = differencing(t)
    vf.patch_header(t.path('x.vhd'), table_offset=made.locator_offsets[0])


bearing('vhd 13', 'locator-in-the-table', lambda t: (
    vhd_child([vf.Locator.w2ru('.\\parent.vhd'), vf.Locator.w2ru('.\\parent.vhd')])(t),
    vf.patch_locator(t.path('x.vhd'), 0, data_offset=2560))[0],
    'x.vhd: parent locator 0: its text at offset 2560 lies in another structure, ignored')
OUTSIDE = 'BAT entry 5: block at offset %s of 66048 bytes is outside the file, blocks end at *'
LOST = ('block 5, of guest offset 327680, cannot be read: it is to lie at offset %s to *, and the blocks of the file '
        'end at *: the file was cut short, or the BAT is damaged')
for label, value, offset in (
        ('at-the-footer', lambda made: made.footer_offset // 512, '*'),
        ('into-the-footer', lambda made: (made.footer_offset - made.geo.span) // 512 + 1, '*'),
        ('behind-the-end', lambda made: made.footer_offset // 512 + 10, '*'),
        ('far-behind', 0xFFFFFFFE, 0xFFFFFFFE * 512), ('high-bit', 0x80000000, 0x80000000 * 512)):
    reading('vhd 14', label, vhd_entry((5, value)), LOST % offset, OUTSIDE % offset)


def cut_in_a_block(t):
    """Without an end footer, and sectors that the bitmap has are missing."""
    dynamic(t)
    with open(t.path('x.vhd'), 'r+b') as f:
        f.truncate(os.path.getsize(t.path('x.vhd')) - 512 - 4096)


reading('vhd 14', 'cut-in-a-block', cut_in_a_block, 'footer at the end is missing or damaged, using its copy at offset 0',
        'BAT entry 63: the file ends inside the block at offset * and data of it are missing')
DAMAGED = ('block 5, of guest offset 327680, cannot be read: the BAT is damaged, its entry names offset %d, where other '
           'structures are')
OVERLAPS = 'BAT entry 5: block at offset %d overlaps the %s at offset %d'
for label, sector, what, at in (('footer-copy', 0, 'footer copy', 0), ('header', 1, 'dynamic header', 512),
                                ('table', 3, 'BAT', 1536)):
    reading('vhd 15', 'over-' + label, vhd_entry((5, sector)), DAMAGED % (sector * 512),
            OVERLAPS % (sector * 512, what, at))


def over_locator(t):
    made = differencing(t)
    vf.patch_bat(t.path('x.vhd'), 5, made.locator_offsets[0] // 512)


reading('vhd 15', 'over-locator', over_locator, DAMAGED % 1536, OVERLAPS % (1536, 'BAT', 2560))
OVERLAP = 'BAT entries %s and %s: blocks at offsets * and * overlap'
for label, value in (('equal', lambda made: made.place[0] // 512),
                     ('by-a-sector', lambda made: (made.place[0] + made.geo.span) // 512 - 1),
                     ('by-half', lambda made: (made.place[0] + made.geo.span // 2) // 512)):
    checking('vhd 15', 'overlap-' + label, vhd_entry((5, value)), OVERLAP % ('*', '*'),
             writes='x.vhd: ' + OVERLAP % ('*', '*'))
RAW = ('parent of x.vhd: has no identity to recognise it by (raw): opened only where it is named (--parent FILE) or such '
       'parents are allowed (--raw-parent)')
NONE = 'parent of x.vhd: not found: the image names none; --parent FILE says where the right one is, rebase -u for good'
opening('vhd 16', 'no-identity', vhd_child([vf.Locator.w2ru('.\\parent.vhd')], parent_id=bytes(16)), RAW)
opening('vhd 16', 'no-place', vhd_child(), NONE)
for label, fields, warning in (
        ('offset-zero', dict(data_offset=0), None), ('behind-the-end', dict(data_offset=1 << 40), None),
        ('overflow', dict(data_offset=(1 << 64) - 2), None), ('length-zero', dict(length=0), None),
        ('length-odd', dict(length=7), None), ('length-huge', dict(length=0xFFFFFFFE), None),
        ('in-the-header', dict(data_offset=1024), None), ('in-the-table', dict(data_offset=2048), None),
        ('in-the-footer-copy', dict(data_offset=100), None)):
    opening('vhd 17', label, vhd_locator(**fields), NONE)
bearing('vhd 18', 'parent-of-a-dynamic-image',
        vhd_header(parent_id=b'P' * 16, parent_name='parent.vhd'.encode('utf-16-be').ljust(512, b'\0')), None)


def vhd_itself(t):
    vf.write_sparse(t.path('x.vhd'), SIZE, parent_id=b'P' * 16, unique_id=b'P' * 16,
                    locators=[vf.Locator.w2ru('.\\x.vhd')])


def vhd_circle(t):
    for name, own, above, target in (('x.vhd', b'A', b'B', 'b'), ('b.vhd', b'B', b'C', 'c'), ('c.vhd', b'C', b'A', 'x')):
        vf.write_sparse(t.path(name), SIZE, parent_id=above * 16, unique_id=own * 16,
                        locators=[vf.Locator.w2ru('.\\%s.vhd' % target)])


opening('vhd 19', 'itself', vhd_itself, 'parent of x.vhd: x.vhd: chain cycle: the file is its own descendant')
opening('vhd 19', 'circle', vhd_circle, 'parent of c.vhd: x.vhd: chain cycle: the file is its own descendant')


def vhd_long_chain(t):
    parent = None
    for i in range(600):
        parent = vf.write_sparse(t.path('x.vhd' if i == 599 else '%d.vhd' % i), MiB, parent_id=parent and parent.unique_id,
                                 parent_path=parent and parent.path)


opening('vhd 19', 'too-many-layers', vhd_long_chain, 'x.vhd: 88.vhd: the chain has more than 512 layers')


def vhd_broken_parent(t):
    differencing(t)
    vf.patch_header(t.path('parent.vhd'), block_size=0)


opening('vhd 20', 'header-of-the-parent', vhd_broken_parent,
        "parent of x.vhd: cannot be used: W2ru locator '.\\parent.vhd': parent.vhd: dynamic header: invalid block size 0, "
        "expected a power of two from 512 to 268435456*")


def vhd_parent_is(kind):
    def make(t):
        vhd_child([vf.Locator.w2ru('.\\there')])(t)
        if kind == 'a FIFO':
            os.mkfifo(t.path('there'))
        else:
            os.mkdir(t.path('there'))
    return make


for kind in ('a FIFO', 'a directory'):
    opening('vhd 21', kind.replace(' ', '-').lower(), vhd_parent_is(kind),
            "parent of x.vhd: cannot be used: W2ru locator '.\\there': there: is %s, expected a regular file*" % kind)
bearing('vhd 22', 'features', vhd_footer(features=0x80000001), 'x.vhd: footer: features 0x80000001, expected 2 or 3')
bearing('vhd 22', 'reserved', vhd_footer(reserved=b'\0' * 400 + b'r' * 27), None)


def vhd_no_table(t):
    """The end footer is where the table ends, and no block is there: a sound file, but for one entry."""
    made = dynamic(t)
    vf.patch_bat(t.path('x.vhd'), 20, made.place[63] // 512 + 100)


reading('vhd 23', 'block-past-the-end', vhd_no_table,
        'block 20, of guest offset 1310720, cannot be read: it is to lie at offset *', 'BAT entry 20: block at offset * of '
        '66048 bytes is outside the file, blocks end at *')

# --- VHDX: how images are made ----------------------------------------------------------------------------------

G, OTHER = uuid.UUID(int=0x11111111222233334444555555555555), uuid.UUID(int=0xABCDEF)
REGIONS = [(vx.BAT, 3 * MiB, MiB, 1), (vx.METADATA, 2 * MiB, MiB, 1)]


def vhdx(edit=None, **members):
    def make(t):
        v = vx.Vhdx()
        v.file_size = 8 * MiB
        for key, value in members.items():
            setattr(v, key, value)
        if edit:
            edit(v)
        return v
    return make


def vhdx_entries(child=False, **entries):
    def edit(v):
        v.bat = {int(key[1:]): (value, None) for key, value in entries.items()}
        if child:
            v.flags = 2
            v.items.append((vx.LOCATOR, vx.locator([LINK, PATH]), 4))
    return vhdx(edit)


def vhdx_items(more=(), without=None, **changes):
    names = {'PARAMETERS': vx.PARAMETERS, 'DISK_SIZE': vx.DISK_SIZE, 'LOGICAL': vx.LOGICAL, 'PHYSICAL': vx.PHYSICAL}
    ids = {names[name]: content for name, content in changes.items()}
    return vhdx(items=[(guid, ids.get(guid, content), flags) for guid, content, flags in vx.Vhdx().items
                       if guid != without] + list(more))


def vhdx_locator(item, flags=2):
    return vhdx(flags=flags, items=vx.Vhdx().items + [(vx.LOCATOR, item, 4)])


def vhdx_log(*entries, **members):
    return vhdx(log_guid=G, log=b''.join(entries), **members)


LINK = ('parent_linkage', '{%s}' % G)
PATH = ('relative_path', 'none.vhdx')
END = 8 * MiB
HEAD = 'x.vhdx: header: '
LOG_AT = HEAD + 'log at offset %d, %d bytes: not whole MiB inside the file of 8388608 bytes'
REGION = 'x.vhdx: region table: '
META = 'x.vhdx: metadata'


def message_of_item(guid, offset, length, what):
    return META + ' at offset 2097152: item %s (offset %s, length %d): %s' % (guid, offset, length, what)


# --- VHDX: cases ------------------------------------------------------------------------------------------------

def vhdx_short(t):
    path = vx.Vhdx().write(t.path('x.vhdx'))
    with open(path, 'r+b') as f:
        f.truncate(MiB - 1)


opening('vhdx 1', 'small', vhdx_short, 'x.vhdx: file too small: 1048575 bytes, a VHDX has at least 1048576')
opening('vhdx 1', 'signature', vhdx(patches=[(0, b'vhdxfilE')]), 'x.vhdx: not a VHDX: no "vhdxfile" at offset 0')
opening('vhdx 2', 'none-valid', vhdx(header_sums=[False, False]),
        'x.vhdx: no valid header: signature or checksum is wrong at offsets 65536 and 131072')
opening('vhdx 2', 'version', vhdx(version=2), HEAD + 'version 2, expected 1')
opening('vhdx 2', 'log-version', vhdx(log_version=3, log_guid=G), HEAD + 'log version 3, expected 0')
opening('vhdx 2', 'equal-numbers', vhdx(sequence=[5, 5], header_fields=[{}, {'data_write_guid': G}]),
        'x.vhdx: headers: both have sequence number 5 and they differ')
for label, offset, length in (('unaligned', MiB + 4096, MiB), ('length-unaligned', MiB, MiB + 4096), ('low', 0, MiB),
                              ('outside', 64 * MiB, MiB), ('end-outside', 7 * MiB, 2 * MiB),
                              ('overflow', (1 << 64) - MiB, MiB), ('too-long', MiB, 1 << 31)):
    opening('vhdx 3', label, vhdx(log_offset=offset, log_length=length), LOG_AT % (offset, length))
opening('vhdx 3', 'guid-without-log', vhdx(log_guid=G, log_length=0), LOG_AT % (MiB, 0))


def long_log(v):
    v.log_guid, v.log_length, v.log_offset, v.file_size = G, 1025 * MiB, 4 * MiB, 1100 * MiB


opening('vhdx 3', 'over-the-limit', vhdx(long_log),
        HEAD + 'log at offset 4194304, 1074790400 bytes: not whole MiB inside the file of * bytes')
NO_ENTRY = ('x.vhdx: log at offset 1048576: the header says it must be replayed, and it holds no valid entry and never '
            'held one (check -r log takes it for empty)')
TORN = 'x.vhdx: log at offset 1048576: the header says it must be replayed, and it holds no valid entry'
TARGET = 'x.vhdx: log entry at offset 1048576: target at offset %d, %d bytes, is not metadata inside the file'
PAGE = bytes(4096)
opening('vhdx 4', 'no-entry', vhdx(log_guid=G), NO_ENTRY)
opening('vhdx 4', 'entry-of-another-log', vhdx_log(vx.log_entry(OTHER, 1, [], 0, END, END)), NO_ENTRY)


def damaged_entry(offset, layout, value, fix=True):
    """An entry of two data sectors with one field of it changed."""
    data = bytearray(vx.log_entry(G, 1, [(3 * MiB, PAGE), (3 * MiB + 4096, PAGE)], 0, END, END))
    struct.pack_into(layout, data, offset, value)
    return vhdx_log(vx.with_sum(data) if fix else bytes(data))


for label, offset, layout, value in (
        ('length-zero', 8, '<I', 0), ('length-unaligned', 8, '<I', 4097), ('length-beyond-log', 8, '<I', MiB + 4096),
        ('length-short', 8, '<I', 8192), ('tail-unaligned', 12, '<I', 100), ('tail-outside', 12, '<I', MiB),
        ('tail-of-nothing', 12, '<I', 65536), ('sequence-zero', 16, '<Q', 0), ('count-more', 24, '<I', 3),
        ('count-absurd', 24, '<I', 0xFFFFFFFF), ('descriptor-signature', 64, '<4s', b'DESC'),
        ('descriptor-unaligned', 64 + 16, '<Q', 3 * MiB + 512), ('descriptor-sequence', 64 + 24, '<Q', 2),
        ('data-signature', 4096, '<4s', b'DATA'), ('data-sequence-high', 4100, '<I', 1),
        ('data-sequence-low', 8188, '<I', 2)):
    opening('vhdx 4', label, damaged_entry(offset, layout, value), TORN + '*')
opening('vhdx 4', 'checksum', damaged_entry(6000, '<I', 1, False), TORN + '*')
opening('vhdx 4', 'target-in-headers', vhdx_log(vx.log_entry(G, 1, [(64 * KiB, PAGE)], 0, END, END)),
        TARGET % (64 * KiB, 4096))
opening('vhdx 4', 'target-in-log', vhdx_log(vx.log_entry(G, 1, [(MiB, PAGE)], 0, END, END)), TARGET % (MiB, 4096))
opening('vhdx 4', 'target-outside', vhdx_log(vx.log_entry(G, 1, [(1 << 50, PAGE)], 0, END, END)),
        TARGET % (1 << 50, 4096))
opening('vhdx 4', 'zeros-outside', vhdx_log(vx.log_entry(G, 1, [], 0, END, END, zeros=[(3 * MiB, 1 << 60)])),
        TARGET % (3 * MiB, 1 << 60))
opening('vhdx 4', 'zeros-overflow',
        vhdx_log(vx.log_entry(G, 1, [], 0, END, END, zeros=[((1 << 64) - 4096, 3 * MiB)])),
        TARGET % ((1 << 64) - 4096, 3 * MiB))
opening('vhdx 4', 'last-offset', vhdx_log(vx.log_entry(G, 1, [], 0, END, 1 << 60)),
        'x.vhdx: log entry at offset 1048576: last file offset %d, at most %d' % (1 << 60, 128 << 40))
opening('vhdx 4', 'truncated', vhdx_log(vx.log_entry(G, 1, [], 0, 400 * MiB, 400 * MiB)),
        'x.vhdx: file truncated: 8388608 bytes, its log knows of 419430400')
opening('vhdx 4', 'zero-ranges', vhdx_log(vx.log_entry(G, 1, [], 0, END, END, zeros=[(3 * MiB, 4096)] * 4097)),
        'x.vhdx: log entry at offset 1048576: more than 4096 ranges of zeros in the log')
opening('vhdx 5', 'both-damaged', vhdx(region_sums=[False, False]),
        'x.vhdx: region tables: signature or checksum is wrong at offsets 196608 and 262144')


def region_count(v):
    table = bytearray(v.region_table(0))
    struct.pack_into('<I', table, 8, 2048)
    v.patches += [(192 << 10, vx.with_sum(table)), (256 << 10, vx.with_sum(table))]


opening('vhdx 5', 'count', vhdx(region_count), REGION + '2048 entries, at most 2047')
for label, offset, length in (('low', 0, MiB), ('unaligned', 4 * MiB + 512, MiB), ('empty', 4 * MiB, 0),
                              ('length-unaligned', 4 * MiB, MiB + 512), ('outside', 300 * MiB, MiB),
                              ('end-outside', 7 * MiB, 2 * MiB)):
    opening('vhdx 5', label, vhdx(regions=[(vx.BAT, offset, length, 1), REGIONS[1]]),
            REGION + 'region %s at offset %d, %d bytes: not whole MiB inside the file of 8388608 bytes'
            % (vx.BAT, offset, length))
opening('vhdx 5', 'overflow', vhdx(regions=[(vx.BAT, (1 << 64) - MiB, MiB, 1), REGIONS[1]]),
        REGION + 'region %s at offset *, 1048576 bytes: not whole MiB inside the file of 8388608 bytes' % vx.BAT)
opening('vhdx 5', 'over-the-log', vhdx(regions=[(vx.BAT, MiB, MiB, 1), REGIONS[1]]),
        REGION + 'region %s at offset 1048576 overlaps the log at offset 1048576' % vx.BAT)
opening('vhdx 5', 'overlap', vhdx(regions=[(vx.BAT, 2 * MiB, MiB, 1), REGIONS[1]]),
        REGION + 'region %s at offset 2097152 overlaps another at offset 2097152' % vx.METADATA)
opening('vhdx 5', 'twice', vhdx(regions=[(vx.BAT, 3 * MiB, MiB, 1), (vx.BAT, 4 * MiB, MiB, 1), REGIONS[1]]),
        REGION + 'region %s is there twice' % vx.BAT)
opening('vhdx 5', 'no-bat', vhdx(regions=REGIONS[1:]), REGION + 'no BAT region')
opening('vhdx 5', 'no-metadata', vhdx(regions=REGIONS[:1]), REGION + 'no metadata region')
opening('vhdx 5', 'unknown-and-required', vhdx(regions=REGIONS + [(OTHER, 5 * MiB, MiB, 1)]),
        REGION + 'unknown region %s is required' % OTHER)
checking('vhdx 5', 'reserved-bits', vhdx(regions=[(vx.BAT, 3 * MiB, MiB, 3), REGIONS[1]]), 'entry 0*flags 0x3*', rc=0)
opening('vhdx 6', 'signature', vhdx(patches=[(2 * MiB, b'metadatA')]), META + ' table at offset 2097152: no signature "metadata" there')
opening('vhdx 6', 'count', vhdx(patches=[(2 * MiB + 10, b'\xff\xff')]), META + ' table at offset 2097152: 65535 entries, at most 2047')
opening('vhdx 6', 'twice', vhdx_items([(vx.DISK_SIZE, None, 6)]),
        message_of_item(vx.DISK_SIZE, '*', 8, 'is there twice'))
opening('vhdx 6', 'zero-id', vhdx_items([(uuid.UUID(int=0), b'abcd', 0)]),
        message_of_item(uuid.UUID(int=0), '*', 4, 'the id is zero'))
for label, at, value, shown in (('outside', 16, MiB, (MiB, 8)), ('over-the-table', 16, 32, (32, 8)),
                                ('too-long', 20, MiB + 1, (65536, MiB + 1)), ('overflow', 16, 0xFFFFFFFF, (0xFFFFFFFF, 8))):
    opening('vhdx 6', 'item-' + label, vhdx(patches=[(2 * MiB + 32 + at, struct.pack('<I', value))]),
            message_of_item(vx.PARAMETERS, *shown, 'not inside the region'))
opening('vhdx 6', 'item-overlap', vhdx(patches=[(2 * MiB + 64 + 16, struct.pack('<I', 65540))]),
        message_of_item(vx.DISK_SIZE, 65540, 8, 'overlaps another item'))
opening('vhdx 6', 'empty-with-an-offset', vhdx(patches=[(2 * MiB + 32 + 20, struct.pack('<I', 0))]),
        message_of_item(vx.PARAMETERS, 65536, 0, 'not inside the region'))
opening('vhdx 6', 'user-and-required', vhdx_items([(OTHER, b'abcd', 5)]),
        message_of_item(OTHER, '*', 4, 'a user item cannot be required'))
opening('vhdx 6', 'too-many-of-users', vhdx_items([(uuid.UUID(int=n + 1), b'', 1) for n in range(1025)]),
        META + ' table at offset 2097152: 1025 user items, at most 1024')
opening('vhdx 6', 'unknown-and-required', vhdx_items([(OTHER, b'abcd', 4)]),
        message_of_item(OTHER, '*', 4, 'is required and not known'))
opening('vhdx 6', 'incomplete', vhdx_items([(vx.INCOMPLETE, b'', 4)]),
        META + ': the file is marked as not completely made, whatever was to fill it has not finished')
for name, guid in (('file parameters', vx.PARAMETERS), ('virtual disk size', vx.DISK_SIZE),
                   ('logical sector size', vx.LOGICAL), ('physical sector size', vx.PHYSICAL)):
    label = name.replace(' ', '-')
    opening('vhdx 7', 'no-' + label, vhdx_items(without=guid), META + ' at offset 2097152: no ' + name)
    opening('vhdx 7', 'length-of-' + label,
            vhdx(items=[(g, bytes(12) if g == guid else c, f) for g, c, f in vx.Vhdx().items]),
            message_of_item(guid, '*', 12, name))
for size in (0, 512 * KiB, 3 * MiB, 512 * MiB, 0xFFFFFFFF):
    opening('vhdx 7', 'block-size-%d' % size, vhdx_items(PARAMETERS=struct.pack('<II', size, 0)),
            META + ': block size %d, expected a power of two from 1 to 256 MiB' % size)
for logical, physical in ((0, 4096), (1024, 4096), (512, 0), (512, 8192)):
    opening('vhdx 7', 'sectors-%d-%d' % (logical, physical),
            vhdx_items(LOGICAL=struct.pack('<I', logical), PHYSICAL=struct.pack('<I', physical)),
            META + ': logical sector size %d, physical %d, expected 512 or 4096' % (logical, physical))
for size, shown in ((0, 0), (MiB + 1, MiB + 1), ((64 << 40) + 512, (64 << 40) + 512), (1 << 63, (1 << 63) - 1),
                    ((1 << 64) - 512, (1 << 63) - 1)):
    opening('vhdx 7', 'disk-size-%d' % size, vhdx_items(DISK_SIZE=struct.pack('<Q', size)),
            META + ': virtual disk size %d, expected a multiple of 512 up to 64 TiB' % shown)
checking('vhdx 7', 'flags-of-an-item', vhdx(items=[(g, c, 4 if g == vx.PHYSICAL else f) for g, c, f in vx.Vhdx().items]),
         'physical sector size: flags 0x4, expected 0x6', rc=0)
checking('vhdx 7', 'reserved-parameters', vhdx(flags=0x10), 'file parameters at offset 2162688: *0x10*', rc=0)
opening('vhdx 8', 'no-locator', vhdx(flags=2), META + ': the image has a parent, but no parent locator')
bearing('vhdx 8', 'no-parent', vhdx_locator(vx.locator([LINK, PATH]), flags=0),
        'x.vhdx: metadata: a parent locator, but the image has no parent')
LOCATOR = 'x.vhdx: parent locator: '


def entry_of_locator(**fields):
    """The first entry of a sound locator, with other offsets and lengths."""
    item = bytearray(vx.locator([LINK, PATH]))
    for name, value in fields.items():
        offset, layout = {'key': (20, '<I'), 'value': (24, '<I'), 'key_bytes': (28, '<H'), 'value_bytes': (30, '<H')}[name]
        struct.pack_into(layout, item, offset, value)
    return vhdx_locator(bytes(item))


opening('vhdx 9', 'short', vhdx_locator(bytes(10)), LOCATOR + '10 bytes, at least 20')
opening('vhdx 9', 'type', vhdx_locator(vx.locator([LINK, PATH], kind=OTHER)), LOCATOR + 'type %s is not known' % OTHER)
opening('vhdx 9', 'no-entries', vhdx_locator(vx.locator([])), LOCATOR + '0 entries in 20 bytes')
opening('vhdx 9', 'too-many', vhdx_locator(vx.locator([('k%d' % n, 'v') for n in range(257)])),
        LOCATOR + '257 entries in * bytes')
opening('vhdx 9', 'more-than-fit', vhdx_locator(vx.locator([LINK])[:18] + b'\xff\x00' + bytes(100)),
        LOCATOR + '255 entries in 120 bytes')
PLACE = LOCATOR + 'entry 0: %s text at offset %d, %d bytes: not inside the item of %s bytes, or odd'
for label, fields, shown in (('key-at-0', {'key': 0}, ('key', 0, 28)), ('key-outside', {'key': 1 << 31}, ('key', 1 << 31, 28)),
                             ('key-odd', {'key_bytes': 3}, ('key', 44, 3)), ('key-empty', {'key_bytes': 0}, ('key', 44, 0)),
                             ('value-outside', {'value': 240}, ('value', 240, 76)),
                             ('value-empty', {'value_bytes': 0}, ('value', 72, 0))):
    opening('vhdx 9', label, entry_of_locator(**fields), PLACE % (*shown, '*'))
opening('vhdx 9', 'nul', vhdx_locator(vx.locator([LINK, ('relative_path', 'a\0b')])),
        LOCATOR + 'entry 1: value text at offset *, 6 bytes: not UTF-16 without NUL')
opening('vhdx 9', 'surrogate', vhdx_locator(vx.locator([LINK, PATH]).replace('none'.encode('utf-16-le'),
                                                                          b'n\0' + b'\0\xd8' + b'n\0e\0')),
        LOCATOR + 'entry 1: value text at offset *, 18 bytes: not UTF-16 without NUL')
opening('vhdx 9', 'twice', vhdx_locator(vx.locator([LINK, LINK])), LOCATOR + 'entry 1: key "parent_linkage" is there twice')
opening('vhdx 9', 'texts-over-texts', entry_of_locator(key=20, key_bytes=60, value=20, value_bytes=240),
        LOCATOR + 'entry 0: 300 bytes of text so far, the item has 192')
opening('vhdx 9', 'no-linkage', vhdx_locator(vx.locator([PATH])),
        LOCATOR + 'parent_linkage is missing, expected a GUID')
opening('vhdx 9', 'linkage', vhdx_locator(vx.locator([('parent_linkage', 'xyz'), PATH])),
        LOCATOR + 'parent_linkage is xyz, expected a GUID')
opening('vhdx 9', 'no-path', vhdx(flags=2, items=vx.Vhdx().items + [(vx.LOCATOR, vx.locator([LINK]), 4)]),
        'parent of x.vhdx: not found: the image names none; --parent FILE says where the right one is, rebase -u for good')
opening('vhdx 10', 'too-small', vhdx_items(DISK_SIZE=struct.pack('<Q', 1 << 40)),
        'x.vhdx: BAT at offset 3145728 too small: 1048576 bytes for 1048831 entries')
READ = 'block %d, of guest offset %d, cannot be read: BAT entry 0x%016x: %s; the file has 8388608 bytes'
FOUND = 'BAT entry %d at offset %d (payload block %d)*%s*'
for label, index, value, why, check in (
        ('reserved-bits', 3, 4 * MiB | 0x16, 'reserved bits are set', 'reserved bits 0x10'),
        ('state-4', 3, 4, 'its state is not known', 'state 4'),
        ('no-offset', 1, 6, 'the block overlaps other structures', 'header section'),
        ('over-the-log', 1, MiB | 6, 'the block overlaps other structures', 'overlaps the log at offset 1048576'),
        ('over-metadata', 1, 2 * MiB | 6, 'the block overlaps other structures', 'overlaps the region'),
        ('behind-the-end', 1, 8 * MiB | 6, 'the block is outside the file', 'offset 8388608'),
        ('far-behind', 1, 0xFFFFFFFFFFF00006, 'the block is outside the file', 'outside the file')):
    reading('vhdx 11', label, vhdx_entries(**{'_%d' % index: value}), READ % (index, index * MiB, value, why),
            FOUND % (index, 3 * MiB + 8 * index, index, check))
checking('vhdx 11', 'partial-without-a-parent', vhdx_entries(_2=4 * MiB | 7), FOUND % (2, 3 * MiB + 16, 2, 'state 7'))
checking('vhdx 11', 'state-5-over-a-parent', vhdx_entries(True, _2=5), FOUND % (2, 3 * MiB + 16, 2, 'state 5'))
checking('vhdx 11', 'partial-without-a-bitmap', vhdx_entries(True, _2=4 * MiB | 7),
         FOUND % (2, 3 * MiB + 16, 2, 'chunk 0 has no sector bitmap'))
checking('vhdx 11', 'state-of-a-bitmap', vhdx_entries(True, _2=4 * MiB | 7, _4096=5 * MiB | 7),
         'BAT entry 4096 at offset 3178496 (sector bitmap of chunk 0)*state 7*')
checking('vhdx 11', 'overlap', vhdx_entries(_2=4 * MiB | 6, _6=4 * MiB | 6), 'BAT entry 6*BAT entry 2*offset 4194304*',
         writes='x.vhdx: *BAT entr*')
checking('vhdx 12', 'surplus', vhdx_entries(_8=4 * MiB | 6, _500=1), '2 entries past the 8*offset 3145792*', rc=0)
checking('vhdx 13', 'overlap', vhdx_entries(_2=4 * MiB | 6, _6=4 * MiB | 3), 'BAT entry 6*BAT entry 2*',
         writes='x.vhdx: *BAT entr*')
checking('vhdx 13', 'outside', vhdx_entries(_6=40 * MiB | 1), 'BAT entry 6*outside the file*')


def vhdx_chain(parent=lambda v: None, linkage=None, name='parent.vhdx', sector=512):
    """x.vhdx over parent.vhdx."""
    def make(t):
        above = vx.Vhdx()
        parent(above)
        above.write(t.path('parent.vhdx'))
        v = vx.Vhdx(sector=sector)
        v.flags = 2
        if linkage is G:
            v.data_write_guid = G
        v.items.append((vx.LOCATOR, vx.locator([('parent_linkage', '{%s}' % (linkage or above.data_write_guid)),
                                                ('relative_path', name)]), 4))
        return v
    return make


opening('vhdx 14', 'itself', vhdx_chain(linkage=G, name='x.vhdx'),
        'parent of x.vhdx: x.vhdx: chain cycle: the file is its own descendant')
opening('vhdx 14', 'identity', vhdx_chain(linkage=OTHER),
        "parent of x.vhdx: none fits: relative_path 'parent.vhdx': parent.vhdx: has another identity (*) than the child "
        "recorded (%s)*" % OTHER)
opening('vhdx 14', 'damaged', vhdx_chain(lambda v: setattr(v, 'header_sums', [False, False])),
        "parent of x.vhdx: cannot be used: relative_path 'parent.vhdx': parent.vhdx: no valid header: signature or checksum "
        "is wrong at offsets 65536 and 131072*")
checking('vhdx 16', 'sequence-number', vhdx(sequence=[1, (1 << 64) - 1]), '18446744073709551615*cannot be written*', rc=0,
         writes='x.vhdx: header: sequence number 18446744073709551615 is at its end, the image cannot be written')


def vhdx_cut(v):
    """The last block of the disk may be short, as QEMU leaves it; no other."""
    v.bat = {0: (7 * MiB | 6, None)}
    v.file_size = 7 * MiB + 4096


reading('vhdx 17', 'block-cut-short', vhdx(vhdx_cut),
        'block 0, of guest offset 0, cannot be read: BAT entry 0x0000000000700006: the block is outside the file; the '
        'file has 7344128 bytes', 'BAT entry 0 at offset 3145728 (payload block 0)*outside the file*')


@case
def every_rule_has_a_case(t):
    t.equal(sorted(set(RULES) - covered - set(REASONS)), [], 'rules without a case or a reason')
    t.equal(sorted(covered - set(RULES)), [], 'cases of rules that are not there')
    t.equal(sorted(covered & set(REASONS)), [], 'rules with a case and a reason why they have none')


main()
