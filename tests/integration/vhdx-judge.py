# SPDX-License-Identifier: LGPL-2.1-or-later
"""The independent VHDX reader, writer and checker, judged themselves: by vectors, by images of other software, by
our reader, and by images with one fault each, which the checker has to find.

VHDKIT_CHAINS: how many random chains (5).  VHDKIT_SEED: of the first one.
"""

import hashlib
import os
import random
import struct
import uuid

import corpus_files
import vhdxchains
import vhdxcheck
import vhdxlog
import vhdxread
import views
from harness import QEMU_IMG, QEMU_IO, Failed, GiB, Unchanged, add, case, main
from vhdxfile import Vhdx, locator, log_entry
from vhdxformat import (DISK_SIZE, FULL, Geometry, LOCATOR, MiB, NIL, PARAMETERS, PARTIAL, PHYSICAL,
                        TABLES, UNDEFINED, UNMAPPED, VhdxError, ZERO, with_sum)
from vhdxmake import Maker

G, DISK = uuid.uuid4(), uuid.uuid4()


def texts(found, *severities):
    return [str(f) for f in found if f.severity in severities]


# --- vectors ----------------------------------------------------------------------------------------------------


@case
def sums_of_structures(t):
    v = Vhdx()
    v.sequence, v.file_write_guid, v.data_write_guid = [1, 2], NIL, NIL
    t.equal(v.header(0)[4:8], struct.pack('<I', 0xF1FD4713), 'sum of a header')
    t.equal(v.region_table(0)[4:8], struct.pack('<I', 0xC66B8CAE), 'sum of a region table')
    entry = log_entry(uuid.UUID(bytes_le=bytes(range(1, 17))), 1, [], 0, 4 * MiB, 4 * MiB)
    t.equal(entry[4:8], struct.pack('<I', 0x85F34306), 'sum of a log entry')


@case
def numbers_of_entries(t):
    for size, block, payload, plain, differencing in ((5 * GiB, MiB, 5120, 5121, 8194), (GiB, 2 * MiB, 512, 512, 2049),
                                                      (10 * GiB, 32 * MiB, 320, 322, 387)):
        t.equal(Geometry(size, block, 512, False).blocks, payload, 'blocks')
        t.equal(Geometry(size, block, 512, False).entries, plain, 'entries')
        t.equal(Geometry(size, block, 512, True).entries, differencing, 'entries with a parent')


@case
def a_log_full_to_its_last_sector(t):
    """One sequence all around the ring: the search ends, and takes the newest."""
    count = 16
    entries = [log_entry(G, 100 + i, [], 4 * 4096, MiB, MiB) for i in range(count)]
    ring = b''.join(entries[-4:] + entries[:-4])
    found = vhdxlog.find(ring, G)
    t.equal([entry.sequence for entry in found], list(range(100, 100 + count)), 'active sequence')
    t.equal(vhdxlog.find(ring, uuid.uuid4()), None, 'the sequence of another GUID')


# --- images of other software -----------------------------------------------------------------------------------


def whole_hash(image):
    digest, at, zeros = hashlib.sha256(), 0, bytes(MiB)
    for start, end in image.extents() + [(image.size, image.size)]:
        while at < start:
            digest.update(zeros[:min(MiB, start - at)])
            at += min(MiB, start - at)
        while at < end:
            digest.update(image.read(at, min(MiB, end - at)))
            at += min(MiB, end - at)
    return digest.hexdigest()


def of_the_corpus(t, row):
    path = corpus_files.unpack(t, row)
    found = vhdxcheck.check_chain(path, closed=False)
    if row.expected.startswith('rejected'):
        t.check(found.of('error'), 'no error found')
        return
    t.equal(texts(found, 'error'), [], 'errors')
    image = vhdxread.open_chain(path)
    t.equal(image.size, row.virtual_size, 'size')
    raw = t.path('content.raw')
    t.img('convert', '-q', '-O', 'raw', path, raw)
    views.same(t, image, views.RawFile(raw), 'both readers')
    # What our reader reads of the larger ones has its hash compared elsewhere.
    if image.size <= 64 * MiB:
        t.equal(whole_hash(image), row.content_sha256, 'hash of the content')


for row in corpus_files.rows():
    if row.format.startswith('vhdx'):
        add(row.file, of_the_corpus, row)


@case
def one_bad_header_is_an_error_of_a_closed_file(t):
    if not corpus_files.rows():
        t.skip('no corpus of foreign images (VHDKIT_CORPUS)')
    path = corpus_files.unpack(t, corpus_files.find('damaged/head1-bad.vhdx.xz'))
    t.check(any('header 1' in text for text in texts(vhdxcheck.check(path), 'error')), 'not found')


def by_qemu(t, subformat, block_size, sectors):
    t.need(QEMU_IMG, QEMU_IO)
    rng = random.Random(block_size + sectors)
    size, path = sectors * 512, t.path('q.vhdx')
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vhdx', '-o', 'subformat=%s,block_size=%d' % (subformat, block_size), path,
          size)
    writes = []
    for _ in range(12):
        count = min(rng.choice((1, 7, 300, 5000)), sectors)
        at = rng.randrange(sectors - count + 1)
        writes.append((at * 512, bytes([rng.randrange(256)]) * count * 512))
    commands = ['write -P %d %d %d' % (blob[0], at, len(blob)) for at, blob in writes]
    t.run(QEMU_IO, '-f', 'vhdx', *[word for command in commands for word in ('-c', command)], path)
    content = views.Content(size).lay(writes)
    views.same(t, vhdxread.open_chain(path), content, 'content')
    t.equal(texts(vhdxcheck.check(path), 'error'), [], 'errors')
    # And the other way: a copy of it.
    t.run(QEMU_IMG, 'convert', '-q', '-O', 'vhdx', '-o', 'subformat=%s' % subformat, path, t.path('copy.vhdx'))
    views.same(t, vhdxread.open_chain(t.path('copy.vhdx')), content, 'content of the copy')
    t.equal(texts(vhdxcheck.check(t.path('copy.vhdx')), 'error'), [], 'errors of the copy')


for subformat in ('dynamic', 'fixed'):
    for block_size, sectors in ((MiB, 65536), (2 * MiB, 12345), (32 * MiB, 200001)):
        add('by-qemu-%s-%d' % (subformat, block_size >> 20), by_qemu, subformat, block_size, sectors)


@case
def read_by_qemu(t):
    """What our writer makes, where qemu-img reads it: no parent, sectors of 512 bytes, a closed file."""
    t.need(QEMU_IMG)
    for seed in range(12):
        rng = random.Random(seed)
        layer, = vhdxchains.make_chain(t, rng, 0, base_kind=rng.choice(('dynamic', 'fixed')), tool_made=False, dirty=0)
        if vhdxread.Image(layer.path).sector == 512 and layer.size < 20 * GiB:
            t.run(QEMU_IMG, 'convert', '-q', '-f', 'vhdx', '-O', 'raw', layer.path, t.path('q.raw'))
            views.same(t, views.RawFile(t.path('q.raw')), layer.view, 'seed %d' % seed)


# --- random chains ----------------------------------------------------------------------------------------------


def random_chain(t, seed):
    rng = random.Random(seed)
    layers = vhdxchains.make_chain(t, rng, rng.randrange(1, 9), tool_made=False)
    try:
        unchanged = Unchanged(*(layer.path for layer in layers))
        for i, layer in enumerate(layers):
            vhdxchains.reads_as(t, layers, i, layer.view, 'layer %d, independent reader' % i)
            found = texts(vhdxcheck.check(layer.path, closed=False), 'error', 'warning')
            t.equal([text for text in found if 'its log knows of' not in text], [], 'layer %d' % i)
        for i in {len(layers) - 1, rng.randrange(len(layers))}:
            vhdxchains.tool_reads_as(t, layers[i], layers[i].view, 'layer %d, our reader' % i)
        unchanged.verify(t)
    except (Failed, VhdxError) as e:
        raise Failed('seed %d: %s\n%s' % (seed, vhdxchains.describe(layers), e)) from e


# --- one fault each ---------------------------------------------------------------------------------------------


def sound_image(t, kind):
    """Block 0 at 4 MiB, in a differencing image block 1 with a few sectors at 5 MiB and the bitmap at 7 MiB, block 4
    zeros at 6 MiB; all in a file of 8 MiB (7, 10)."""
    parent = Maker(t.path('p.vhdx'), 6 * MiB, [(0, b'\1' * MiB)], disk_id=DISK)
    parent.write()
    writes = [(0, b'\2' * MiB)] + [(MiB + 4096, b'\3' * 512)] * (kind == 'differencing')
    states = {} if kind == 'fixed' else {2: ZERO, 3: UNMAPPED, 4: FULL}
    return Maker(t.path('c.vhdx'), 6 * MiB, writes, kind=kind, states=states, below=parent.view(),
                 parent_path=t.path('p.vhdx'), parent_guid=parent.vhdx.data_write_guid, disk_id=DISK).prepare()


def found_in(t, kind, severity, phrase, change, closed):
    v = sound_image(t, kind)
    path = v.write(t.path('c.vhdx'))
    t.equal([str(f) for f in vhdxcheck.check_chain(path)], [], 'findings of a sound image')
    change(v)
    found = vhdxcheck.check(v.write(path), closed=closed)
    t.check(any(phrase in text for text in texts(found, severity)), 'no %s that says "%s"' % (severity, phrase), *found)


def fault(name, severity, phrase, change, kind='differencing', closed=True):
    add('fault-' + name, found_in, kind, severity, phrase, change, closed)


def members(**values):
    return lambda v: v.__dict__.update(values)


def patch(*patches):
    return lambda v: v.patches.extend(patches)


def entry(index, value):
    """Changes an entry of the table, not the block."""
    return patch((3 * MiB + 8 * index, struct.pack('<Q', value)))


def item(guid, content=None, flags=None):
    """Another content or other flags for a metadata item, or a new one."""
    def change(v):
        old = next((i for i in v.items if i[0] == guid), (guid, b'', 0))
        new = guid, old[1] if content is None else content, old[2] if flags is None else flags
        v.items = [new if i[0] == guid else i for i in v.items] + [new] * (old not in v.items)
    return change


def links(*pairs, **kw):
    return item(LOCATOR, locator(pairs, **kw))


def logged(*pages):
    """A log with one entry, which writes @pages."""
    def change(v):
        v.log_guid = G
        v.log = log_entry(G, 5, [(page, b'\7' * 4096) for page in pages], 0, v.file_size, v.file_size)
    return change


def regions(change):
    return lambda v: setattr(v, 'regions', [change(*r) for r in v.regions])


LINK, LINK2 = ('parent_linkage', '{%s}' % G), ('parent_linkage2', '{%s}' % NIL)
PATH = ('relative_path', '.\\p.vhdx')
DATA = {'data_write_guid': G}

fault('header-sum', 'error', 'header 1: checksum', members(header_sums=[False, True]))
fault('header-signature', 'error', 'header 2: signature', members(header_fields=[{}, {'signature': b'HEAD'}]))
fault('header-after-a-stop', 'warning', 'header 1: checksum', members(header_sums=[False, True]), closed=False)
fault('header-reserved', 'warning', 'header 2: reserved', members(header_fields=[{}, {'reserved': b'x'}]))
fault('header-version', 'error', 'version 2', members(version=2))
fault('header-log-version', 'error', 'log version 1', members(log_version=1))
fault('header-no-log', 'error', 'log of 0 bytes', members(log_length=0))
fault('headers-apart', 'warning', 'sequence numbers 1 and 3', members(sequence=[1, 3]))
fault('headers-equal', 'warning', 'sequence numbers 4 and 4', members(sequence=[4, 4]))
fault('headers-contradict', 'error', 'different headers', members(sequence=[4, 4], header_fields=[{}, DATA]))
fault('headers-data-guid', 'warning', 'data_write_guid', members(header_fields=[DATA, {}]))
fault('headers-log-guid', 'warning', 'log_guid', members(header_fields=[{'log_guid': G}, {}]))
fault('sequence-at-its-end', 'error', 'at its end', members(sequence=[(1 << 64) - 2, (1 << 64) - 1]))
fault('closed-with-a-log', 'error', 'closed with a log', logged(3 * MiB + 8192))
fault('log-without-entry', 'error', 'no valid sequence', members(log_guid=G))
fault('log-over-data', 'error', 'over a block of guest data', logged(4 * MiB), closed=False)
fault('log-over-nothing', 'warning', 'which nothing owns',
      lambda v: (members(file_size=9 * MiB)(v), logged(8 * MiB)(v)), closed=False)
fault('file-size', 'warning', 'no multiple of 1 MiB', members(file_size=8 * MiB + 512))
fault('file-tail', 'leak', '1 MiB nothing refers to, the first at 8388608', members(file_size=9 * MiB))
fault('signature', 'error', 'signature', patch((0, b'vhdxfilE')))
fault('creator', 'warning', 'creator', patch((40, b'x')))
fault('reserved-space', 'warning', 'reserved bytes from 327680', patch((MiB - 1, b'x')))
fault('region-sum', 'error', 'region table 2: checksum', members(region_sums=[True, False]))
fault('region-tables-differ', 'error', 'region tables differ',
      lambda v: v.patches.append((TABLES[1], with_sum(Vhdx().region_table(0)[:44] + bytes(65536 - 44)))))
fault('region-not-required', 'warning', 'not required', regions(lambda g, o, n, r: (g, o, n, 0)))
fault('region-flags', 'error', 'flags 0x3', regions(lambda g, o, n, r: (g, o, n, 3)))
fault('region-over-block', 'error', 'block 0 at 4194304 overlaps a region',
      lambda v: v.regions.append((G, 4 * MiB, MiB, 0)))
fault('region-over-log', 'error', 'overlaps the log', lambda v: v.regions.append((G, MiB, MiB, 0)))
fault('region-outside', 'error', 'ends behind', lambda v: v.regions.append((G, 8 * MiB, MiB, 0)))
fault('region-unknown', 'error', 'required', lambda v: v.regions.append((G, 8 * MiB, MiB, 1)))
fault('metadata-reserved', 'error', 'reserved fields', patch((2 * MiB + 12, b'x')))
fault('metadata-behind', 'warning', 'behind its entries', patch((2 * MiB + 4096, b'x')))
fault('item-flags', 'warning', 'flags 4, expected 6', item(DISK_SIZE, flags=4))
fault('item-reserved', 'error', 'reserved bits', item(G, b'x', 8))
fault('item-user-required', 'error', 'of a user, and required', item(G, b'x', 5))
fault('item-unknown', 'error', 'is required', item(G, b'x', 4))
fault('item-empty-with-offset', 'error', 'empty, at',
      lambda v: (item(G, b'', 0)(v), patch((2 * MiB + 32 + 6 * 32 + 16, struct.pack('<I', 70000)))(v)))
fault('item-overlap', 'error', 'overlaps', patch((2 * MiB + 64 + 16, struct.pack('<I', 65537))))
fault('item-missing', 'error', 'missing', lambda v: v.items.pop(2))
fault('parameters', 'error', 'file parameters: flags', item(PARAMETERS, struct.pack('<II', MiB, 6)))
fault('physical-sector', 'error', 'physical sector size', item(PHYSICAL, struct.pack('<I', 1024)))
fault('no-locator', 'error', 'locator', lambda v: v.items.pop())
fault('locator-without-parent', 'warning', 'no parent', links(LINK, LINK2, PATH), kind='dynamic')
fault('locator-type', 'error', 'another type', links(LINK, LINK2, PATH, kind=G))
fault('locator-no-linkage', 'error', 'no parent_linkage', links(LINK2, PATH))
fault('locator-linkage', 'error', 'parent_linkage', links(('parent_linkage', str(G)), LINK2, PATH))
fault('locator-linkage-zero', 'error', 'of zeros', links(('parent_linkage', '{%s}' % NIL), LINK2, PATH))
fault('locator-no-linkage2', 'warning', 'no parent_linkage2', links(LINK, PATH))
fault('locator-short-linkage2', 'error', 'parent_linkage2', links(LINK, ('parent_linkage2', '{}'), PATH))
fault('locator-merging', 'warning', 'not finished', links(LINK, ('parent_linkage2', '{%s}' % G), PATH))
fault('locator-no-path', 'error', 'no path', links(LINK, LINK2))
fault('locator-key', 'warning', "key 'odd'", links(LINK, LINK2, PATH, ('odd', 'x')))
fault('locator-key-twice', 'error', 'twice', links(LINK, LINK2, PATH, PATH))
fault('locator-nul', 'error', 'NUL', links(LINK, LINK2, ('relative_path', '.\\p.vhdx\0')))
fault('locator-absolute', 'warning', 'relative_path', links(LINK, LINK2, ('relative_path', 'C:\\p.vhdx')))
fault('locator-slashes', 'warning', 'relative_path', links(LINK, LINK2, ('relative_path', './p.vhdx')))
fault('surplus', 'warning', 'table entry 4097', entry(4097, 1))
fault('entry-reserved', 'error', 'reserved bits', entry(0, 4 * MiB | 0x10 | FULL))
fault('entry-state-4', 'error', 'state 4', entry(0, 4 * MiB | 4))
fault('entry-state-5', 'error', 'state 5', entry(0, 5), kind='dynamic')
fault('entry-zero-with-offset', 'error', 'state 2 with an offset', entry(2, 8 * MiB | ZERO))
fault('entry-absent-with-offset', 'error', 'state 0 with an offset', entry(2, 8 * MiB))
fault('entry-without-offset', 'error', 'state 6 without an offset', entry(0, FULL))
fault('entry-outside', 'error', 'ends behind', entry(0, 8 * MiB | FULL))
fault('entry-huge', 'error', 'entry 0x', entry(0, 1 << 60 | FULL))
fault('entry-twice', 'error', 'block 5 at 4194304 overlaps a block', entry(5, 4 * MiB | FULL))
fault('entry-over-log', 'error', 'overlaps the log', entry(5, MiB | FULL))
fault('entry-over-table', 'error', 'overlaps a region', entry(5, 3 * MiB | FULL))
fault('anchor-over-block', 'error', 'kept space of block 5', entry(5, 4 * MiB | UNDEFINED))
fault('block-lost', 'leak', '1 MiB nothing refers to, the first at 4194304', entry(0, 0))
fault('partial-without-bitmap', 'error', 'without a bitmap block', entry(4096, 0))
fault('partial-without-parent', 'error', 'partly present in a disk', entry(0, 4 * MiB | PARTIAL), kind='dynamic')
fault('partial-without-bits', 'leak', 'no sector of it', patch((7 * MiB, bytes(4096))))
fault('bitmap-state', 'error', 'bitmap 0', entry(4096, 7 * MiB | PARTIAL))
fault('bitmap-absent-with-offset', 'error', 'bitmap 0', entry(4096, 7 * MiB))
fault('bitmap-over-block', 'error', 'bitmap 0 at 4194304 overlaps', entry(4096, 4 * MiB | FULL))
fault('bitmap-unneeded', 'leak', 'no block needs it', entry(1, 5 * MiB | FULL))
fault('fixed-with-holes', 'warning', '1 of 6 blocks', entry(3, 0), kind='fixed')


@case
def a_bitmap_without_parent(t):
    """As old versions of another writer left it: the entry between two chunks."""
    v = Maker(t.path('d.vhdx'), 5 * GiB, [(4095 * MiB, b'\1' * 512), (4096 * MiB, b'\2' * 512)]).prepare()
    t.equal(vhdxcheck.check(v.write(t.path('d.vhdx'))), [], 'findings')
    v.bat[4096] = 400 * MiB | FULL, None
    found = vhdxcheck.check(v.write(t.path('d.vhdx')))
    t.equal(texts(found, 'warning', 'error'), ['warning: bitmap 0: entry 0x19000006 in a disk without parent'], 'found')


@case
def a_chain_that_does_not_fit(t):
    v = sound_image(t, 'differencing')
    path = v.write(t.path('c.vhdx'))
    Maker(t.path('p.vhdx'), 6 * MiB).write()
    t.check(any('another identity' in text for text in texts(vhdxcheck.check_chain(path), 'error')), 'not found')
    os.unlink(t.path('p.vhdx'))
    t.check(any('no parent at' in text for text in texts(vhdxcheck.check_chain(path), 'error')), 'not found')
    for reader in (vhdxread.open_chain, lambda p: vhdxread.Image(p).read_all()):
        try:
            reader(path)
        except VhdxError:
            continue
        t.check(False, 'read without its parent')


SEED = int(os.environ.get('VHDKIT_SEED', '3000'))
for i in range(int(os.environ.get('VHDKIT_CHAINS', '5'))):
    add('chain-seed-%d' % (SEED + i), random_chain, SEED + i)

main()
