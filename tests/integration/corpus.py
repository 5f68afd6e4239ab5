# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every VHD and VHDX of the corpus: the content its manifest states, the verdict it states, and not a byte changed."""

import os

import corpus_files
import vhdfile
import vhdxcheck
import vhdxread
import views
from harness import GiB, MiB, Unchanged, add, case, data_extents, main, sha256

# The hash of a larger disk, mostly zeros, takes a minute; its content is compared with what the independent reader
# reads instead, which costs what there is of data.
LARGEST_HASHED = int(os.environ.get('VHDKIT_CORPUS_HASHED', str(256 * MiB)))


def family(row):
    """The format's name: 'vhd', 'vhdx' or 'raw'."""
    return row.format.split('/')[0]


def all_files(t):
    return [t.path(name) for name in sorted(os.listdir(t.dir))]


def content_is_right(t, row, path, raw):
    """That of a raw file converted from @path."""
    if row.virtual_size <= LARGEST_HASHED:
        t.equal(sha256(raw), row.content_sha256, 'hash of the content')
    elif row.note.startswith('all zero'):
        t.equal(list(data_extents(raw)), [], 'data of a disk without any')
    elif family(row) == 'vhdx':
        views.same(t, views.RawFile(raw), vhdxread.open_chain(path), 'our reader and the independent one')
    else:
        image = vhdfile.open_chain(path)
        at = 0
        for block in image.allocated() + [-(-image.size // image.geo.block_size)]:
            start = block * image.geo.block_size
            zero_between(t, raw, at, min(start, image.size), 'what is not in the table')
            at = min(start + image.geo.block_size, image.size)
            with open(raw, 'rb') as f:
                f.seek(start)
                data = f.read(max(0, at - start))
            t.same_content(data, image.read(start, max(0, at - start)), 'block %d' % block)


def zero_between(t, raw, start, end, what):
    """Holes are zero by themselves."""
    with open(raw, 'rb') as f:
        for first, last in data_extents(raw, start, end):
            f.seek(first)
            while first < last:
                piece = f.read(min(last - first, 4 * MiB))
                t.check(piece.count(0) == len(piece), 'not zero at %d: %s' % (first, what))
                first += len(piece)


def map_fits(t, row, path, raw, options):
    """The map covers the disk without gap or overlap, and what it calls zero is."""
    extents = t.img('map', '--output=json', *options, path).json
    at = 0
    for extent in extents:
        t.equal(extent['start'], at, 'start of an extent of the map')
        t.check(extent['length'] > 0, 'an empty extent', extent)
        at += extent['length']
        if extent['zero']:
            zero_between(t, raw, extent['start'], at, extent)
    t.equal(at, row.virtual_size, 'end of the map')


def read_it(t, row, path, options=()):
    unchanged = Unchanged(*all_files(t))
    info = t.img('info', '--output=json', *options, path).json
    t.equal(info['virtual-size'], row.virtual_size, 'virtual size')
    t.equal(info['format'], family(row), 'format, probed')
    raw = t.path('content.raw')
    t.img('convert', '-q', *options, '-O', 'raw', path, raw)
    t.equal(os.path.getsize(raw), row.virtual_size, 'size of the content')
    content_is_right(t, row, path, raw)
    map_fits(t, row, path, raw, options)
    if row.virtual_size <= 16 * GiB:
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
        replayed_by_writing(t, row, path)
        return
    unchanged = Unchanged(*all_files(t))
    found = t.img('check', '-f', 'vhd', path, rc=(0, 2, 3))
    t.check('footer' in (found.out + found.err).lower(), 'check does not speak of the footer', found)
    unchanged.verify(t, 'check')
    t.img('check', '-f', 'vhd', '-r', 'all', path)
    t.img('check', '-f', 'vhd', path)
    read_it(t, row, path)


def replayed_by_writing(t, row, path):
    """A log is replayed in memory for a reader, onto the file for a writer: the same content."""
    raw = t.path('content.raw')
    t.check(vhdxread.Image(path).active, 'the log holds nothing')
    t.img('convert', '-q', '-O', 'raw', path, raw)
    t.io('-f', 'vhdx', '-c', 'write -q -z 0 512', '-c', 'write -q -P 0x5a 512 512', path)
    t.check(not vhdxread.Image(path).active, 'the log is still to be replayed')
    t.equal([str(f) for f in vhdxcheck.check(path).of('error')], [], 'independent check')
    with open(raw, 'r+b') as f:
        f.write(bytes(512) + b'\x5a' * 512)
    views.same(t, vhdxread.open_chain(path), views.RawFile(raw), 'content after a write')
    t.img('compare', '-q', '-F', 'raw', path, raw)
    t.img('check', '-f', 'vhdx', path)


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
