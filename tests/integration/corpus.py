# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every VHD and VHDX of the corpus: the content its manifest states, the verdict it states, and not a byte changed."""

import os

import corpus_files
from harness import GiB, Unchanged, add, case, data_extents, main, sha256


def family(row):
    """The format's name: 'vhd', 'vhdx' or 'raw'."""
    return row.format.split('/')[0]


def all_files(t):
    return [t.path(name) for name in sorted(os.listdir(t.dir))]


def content_hash(t, row, raw):
    """Of a raw file; a huge empty one is not read through."""
    if os.path.getsize(raw) > 8 * GiB and not list(data_extents(raw)):
        t.check(row.note.startswith('all zero'), 'no data, but the manifest knows some')
        return row.content_sha256
    return sha256(raw)


def map_fits(t, row, path, raw, options):
    """The map covers the disk without gap or overlap, and what it calls zero is."""
    extents = t.img('map', '--output=json', *options, path).json
    at = 0
    with open(raw, 'rb') as f:
        for extent in extents:
            t.equal(extent['start'], at, 'start of an extent of the map')
            t.check(extent['length'] > 0, 'an empty extent', extent)
            at += extent['length']
            if extent['zero'] and at <= 8 * GiB:
                f.seek(extent['start'])
                left = extent['length']
                while left:
                    piece = f.read(min(left, 1 << 22))
                    t.check(piece.count(0) == len(piece), 'not zero where the map says so', extent)
                    left -= len(piece)
    t.equal(at, row.virtual_size, 'end of the map')


def read_it(t, row, path, options=()):
    unchanged = Unchanged(*all_files(t))
    info = t.img('info', '--output=json', *options, path).json
    t.equal(info['virtual-size'], row.virtual_size, 'virtual size')
    t.equal(info['format'], family(row), 'format, probed')
    raw = t.path('content.raw')
    t.img('convert', '-q', *options, '-O', 'raw', path, raw)
    t.equal(os.path.getsize(raw), row.virtual_size, 'size of the content')
    t.equal(content_hash(t, row, raw), row.content_sha256, 'hash of the content')
    map_fits(t, row, path, raw, options)
    if row.virtual_size < 8 * GiB:
        t.img('compare', '-q', *options, '-F', 'raw', path, raw)
    os.unlink(raw)
    unchanged.verify(t)


def opens(t, row):
    path = corpus_files.unpack(t, row)
    over_raw = row.format != 'raw' and 'raw parent' in row.expected
    if over_raw:
        unchanged = Unchanged(*all_files(t))
        t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('out.raw'), rc=1), 'raw')
        unchanged.verify(t)
    read_it(t, row, path, ['--raw-parent'] if over_raw else [])
    if family(row) in ('vhd', 'vhdx'):
        unchanged = Unchanged(*all_files(t))
        t.img('check', '-f', family(row), *(['--raw-parent'] if over_raw else []), path)
        unchanged.verify(t, 'check')


def repairable(t, row):
    """Reads as it should, is left alone by that, and is sound after a repair."""
    path = corpus_files.unpack(t, row)
    read_it(t, row, path)
    if family(row) == 'vhdx':
        return  # a log is replayed in memory; nothing is written yet
    unchanged = Unchanged(*all_files(t))
    found = t.img('check', '-f', 'vhd', path, rc=(0, 2, 3))
    t.check('footer' in (found.out + found.err).lower(), 'check does not speak of the footer', found)
    unchanged.verify(t, 'check')
    t.img('check', '-f', 'vhd', '-r', 'all', path)
    t.img('check', '-f', 'vhd', path)
    read_it(t, row, path)


def rejected_or_repairable(t, row):
    """Refused with a reason, or read as the manifest says; nothing in between."""
    path = corpus_files.unpack(t, row)
    unchanged = Unchanged(*all_files(t))
    result = t.img('convert', '-q', '-f', family(row), '-O', 'raw', path, t.path('out.raw'), rc=(0, 1))
    if result.rc:
        t.refused(result, 'checksum')
        t.refused(t.img('info', '-f', family(row), path, rc=1), 'checksum')
        t.img('check', '-f', family(row), path, rc=(1, 2))
    else:
        t.equal(sha256(t.path('out.raw')), row.content_sha256, 'hash of the content')
    unchanged.verify(t, 'a refusal')


@case
def corpus_is_here(t):
    if not corpus_files.rows():
        t.skip('no corpus of foreign images (VHDKIT_CORPUS)')


for row in corpus_files.rows():
    if row.expected.startswith('rejected'):
        add(row.file, rejected_or_repairable, row)
    elif row.expected.startswith('repairable'):
        add(row.file, repairable, row)
    else:
        add(row.file, opens, row)

main()
