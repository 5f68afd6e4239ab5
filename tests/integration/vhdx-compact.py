# SPDX-License-Identifier: LGPL-2.1-or-later
"""compact of VHDX: what is dropped, what must stay, how far the file shrinks, and that no child loses its parent.

VHDKIT_COMPACTIONS: how many random images (15).  VHDKIT_SEED: of the first one.
"""

import os
import random

import vhdxchains
import vhdxcheck
import vhdxread
import views
from harness import GiB, MiB, Failed, Unchanged, add, case, main, sha256
from vhdxformat import FULL, PARTIAL, UNMAPPED, ZERO
from vhdxmake import Maker

KEPT = (FULL, PARTIAL)


def kept(image):
    return [block for block in range(image.geo.blocks) if image.payload(block) & 7 in KEPT]


def space_left(image):
    """Why the file could still be shorter: bytes behind the last structure, or a hole for the block that is last.  A
    region or a log at the end stays where it is, and then moving blocks gains nothing."""
    used = [(region.offset, region.offset + region.length) for region in image.regions]
    used += [(image.header.log_offset, image.header.log_offset + image.header.log_length)]
    blocks = [image.payload(block) & ~0xFFFFF for block in kept(image)]
    used += [(at, at + image.block_size) for at in blocks]
    used += [(bitmap & ~0xFFFFF, (bitmap & ~0xFFFFF) + MiB) for _, _, bitmap in image.chunks() if bitmap & 7 == FULL]
    last_is_block = max(used)[0] in blocks
    end = MiB
    for start, stop in sorted(used):
        if start - end >= image.block_size and last_is_block:
            return 'a hole of %d bytes at %d, blocks behind it' % (start - end, end)
        end = max(end, stop)
    size = os.path.getsize(image.path)
    return None if size <= end else 'the last structure ends at %d in a file of %d bytes' % (end, size)


def compacted(t, path, view, blocks, options=()):
    """Runs compact: the content and the identity stay, exactly @blocks stay allocated, no space is left over; again:
    no change."""
    before, guid = os.path.getsize(path), vhdxread.Image(path).data_write_guid
    t.img('compact', '-q', *options, path)
    image = vhdxread.open_chain(path)
    views.same(t, image, view, 'independent reader')
    t.equal(kept(image), sorted(blocks), 'blocks that stay')
    t.equal(image.data_write_guid, guid, 'identity of the data')
    t.equal([str(f) for f in vhdxcheck.check(path).of('error', 'leak') if 'nothing refers to' not in f.text], [],
            'independent check')
    t.img('check', '-q', '-f', 'vhdx', path, rc=(0, 3))
    t.equal(space_left(image), None, 'space left after compacting from %d bytes' % before)
    t.check(os.path.getsize(path) <= before, 'the file grew')
    digest = sha256(path)
    t.img('compact', '-q', *options, path)
    t.equal(sha256(path), digest, 'bytes after a second run')
    return image


@case
def written_zeros_go(t):
    path = t.path('d.vhdx')
    t.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', path, '16M')
    t.io('-c', 'write -q -P 5 0 16M', '-c', 'write -q -P 0 4M 8M', path)
    before = os.path.getsize(path)
    compacted(t, path, views.Content(16 * MiB).lay([(0, b'\5' * (4 * MiB)), (12 * MiB, b'\5' * (4 * MiB))]),
              [0, 1, 2, 3, 12, 13, 14, 15])
    t.equal(os.path.getsize(path), before - 8 * MiB, 'size')
    t.equal([str(f) for f in vhdxcheck.check(path)], [], 'our own image, strict check')


@case
def soft_anchors_go(t):
    """Space kept for blocks that are unmapped or zero is given back, and they stay hidden from the parent."""
    parent = vhdxchains.write_layer(t, 'p.vhdx', 8 * MiB, [(0, b'\1' * (8 * MiB))])
    guid = parent.unique_id
    maker = Maker(t.path('c.vhdx'), 8 * MiB, [(7 * MiB, b'\2' * MiB)], kind='differencing', below=parent.view,
                  parent_path=parent.path, parent_guid=guid, states={1: UNMAPPED, 2: UNMAPPED, 3: ZERO})
    image = maker.prepare()
    for i, block in enumerate((1, 2)):
        image.bat[block] = (5 + i) * MiB + (16 << 20) | UNMAPPED, b'\xee' * MiB
    image.file_size = max(image.file_size, 24 * MiB)
    image.write(t.path('c.vhdx'))
    compacted(t, t.path('c.vhdx'), maker.view(), [7])
    t.check(os.path.getsize(t.path('c.vhdx')) <= 6 * MiB, 'size %d' % os.path.getsize(t.path('c.vhdx')))


# What one block of a differencing image may hold, over a parent with data or without: (parent's block, child's runs
# (offset, bytes), stays).
CASES = {
    'data-over-data': (b'\1', [(1536, b'\2' * 512)], True),
    'data-over-nothing': (b'\0', [(1536, b'\2' * 512)], True),
    'zeros-over-data': (b'\1', [(0, bytes(MiB))], False),
    'zero-sector-over-data': (b'\1', [(77 * 512, bytes(512))], True),
    'zeros-over-nothing': (b'\0', [(0, bytes(MiB))], False),
    'zero-sector-over-nothing': (b'\0', [(77 * 512, bytes(512))], False),
    'equal-to-parent': (b'\3', [(0, b'\3' * MiB)], False),
    'equal-sectors': (b'\3', [(4096, b'\3' * 4096), (99 * 512, b'\3' * 512)], False),
    'equal-but-one-sector': (b'\3', [(0, b'\3' * (MiB - 512)), (MiB - 512, b'\4' * 512)], True),
    'no-bit-set': (b'\3', [], False),
    'all-bits-set': (b'\3', [(0, b'\5' * MiB)], True),
}


def differencing(t, seed):
    rng = random.Random(seed)
    names = list(CASES) * 2
    rng.shuffle(names)
    size = len(names) * MiB
    base, writes, states, stays = [], [], {}, []
    for i, name in enumerate(names):
        fill, runs, stay = CASES[name]
        if fill != b'\0':
            base.append((i * MiB, fill * MiB))
        writes += [(i * MiB + offset, blob) for offset, blob in runs]
        states[i] = PARTIAL
        if stay:
            stays.append(i)
    parent = vhdxchains.write_layer(t, 'p.vhdx', size, base, rng.choice(('dynamic', 'fixed')), block_size=2 * MiB)
    child = vhdxchains.write_layer(t, 'c.vhdx', size, writes, 'differencing', parent, states=states)
    above = vhdxchains.write_layer(t, 'leaf.vhdx', size, [(0, b'\7' * 512)], 'differencing', child)
    unchanged = Unchanged(parent.path, above.path)
    compacted(t, child.path, child.view, stays)
    unchanged.verify(t, 'compacting the layer between')
    vhdxchains.reads_as(t, [parent, child, above], 2, above.view, 'leaf over the compacted layer')
    vhdxchains.tool_reads_as(t, above, above.view, 'leaf over the compacted layer, our reader')


for seed in range(4):
    add('differencing-%d' % seed, differencing, seed)


def bitmaps(t, needed):
    """Two chunks: a bitmap block that nothing needs any more goes; others move down with the blocks."""
    size = 9 * GiB
    at = [0, 3 * MiB, 4 * GiB + MiB, 8 * GiB + 2 * MiB]
    parent = vhdxchains.write_layer(t, 'p.vhdx', size, [(offset, b'\1' * 8192) for offset in at])
    writes = [(at[0], b'\1' * 4096), (at[1], b'\1' * 4096), (at[2], b'\1' * 4096), (at[3], b'\1' * 4096)]
    for i in needed:
        writes[i] = at[i], b'\6' * 4096
    child = vhdxchains.write_layer(t, 'c.vhdx', size, writes, 'differencing', parent)
    image = compacted(t, child.path, child.view, [at[i] // MiB for i in needed])
    found = [chunk for chunk, (_, _, bitmap) in enumerate(image.chunks()) if bitmap & 7 == FULL]
    t.equal(found, sorted({at[i] // (4 * GiB) for i in needed}), 'chunks with a bitmap')


for label, needed in (('none', ()), ('first', (1,)), ('second', (2,)), ('last', (3,)), ('some', (0, 3))):
    add('bitmaps-needed-' + label, bitmaps, needed)


@case
def fixed_is_refused(t):
    vhdxchains.write_layer(t, 'f.vhdx', 4 * MiB, [], 'fixed')
    unchanged = Unchanged(t.path('f.vhdx'))
    t.refused(t.img('compact', '-q', t.path('f.vhdx'), rc=1), ('fixed', 'not support', 'cannot', 'nothing to'))
    unchanged.verify(t, 'a refused compaction')


@case
def without_its_parent_is_refused(t):
    parent = vhdxchains.write_layer(t, 'p.vhdx', 4 * MiB, [])
    child = vhdxchains.write_layer(t, 'c.vhdx', 4 * MiB, [(0, bytes(512))], 'differencing', parent)
    os.unlink(parent.path)
    unchanged = Unchanged(child.path)
    t.refused(t.img('compact', '-q', child.path, rc=1), 'parent')
    unchanged.verify(t, 'a refused compaction')


def random_image(t, seed):
    rng = random.Random(seed)
    layers = vhdxchains.make_chain(t, rng, rng.randrange(0, 4), base_kind='dynamic', allow_smaller=False)
    index = rng.randrange(len(layers))
    layer, below = layers[index], layers[index - 1].view if index else views.Content(0)
    image, stays = vhdxread.Image(layer.path), []
    for block in kept(image):
        start = block * layer.block_size
        length = min(layer.block_size, layer.size - start)
        shown = layer.view.read(start, length)
        # Zeros need no space whatever is below; what the parent shows needs none either.
        if any(shown) and shown != below.read(start, length):
            stays.append(block)
    try:
        compacted(t, layer.path, layer.view, stays, ['-t', rng.choice(('writeback', 'unsafe'))])
        for i, other in enumerate(layers):
            vhdxchains.reads_as(t, layers, i, other.view, 'layer %d' % i)
    except Failed as e:
        raise Failed('seed %d, layer %d: %s\n%s' % (seed, index, vhdxchains.describe(layers), e)) from e


SEED = int(os.environ.get('VHDKIT_SEED', '5000'))
for i in range(int(os.environ.get('VHDKIT_COMPACTIONS', '15'))):
    add('random-seed-%d' % (SEED + i), random_image, SEED + i)

main()
