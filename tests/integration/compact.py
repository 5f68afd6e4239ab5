# SPDX-License-Identifier: LGPL-2.1-or-later
"""compact: what is dropped, what must stay, how far the file shrinks, and that it can stop anywhere."""

import os
import random
import signal
import time

import chains
from harness import KiB, MiB, Failed, Unchanged, add, can_direct, case, main, read_file, sha256, tool, vhdcheck, vhdfile


def space_left(path):
    """Why the file could still be shorter: a hole below the last block that takes a block with aligned data, or
    bytes between the last structure and the footer.  Smaller holes stay: blocks are moved, not shifted."""
    image = vhdfile.Vhd(path)
    end, last = 0, max(image.bat[i] for i in image.allocated()) * 512 if image.allocated() else 0
    for start, stop, name in vhdcheck.ranges_of(image):
        aligned = vhdfile.round_up(end + image.geo.bitmap_bytes, 4096) - image.geo.bitmap_bytes
        if end and aligned + image.geo.span <= start and last > aligned:
            return 'a block fits at %d, before %s at %d' % (aligned, name, start)
        end = max(end, stop)
    if image.file_size != vhdfile.round_up(end, 512) + 512:
        return 'the last structure ends at %d in a file of %d bytes' % (end, image.file_size)
    return None


def compacted(t, path, view, blocks, options=()):
    """Runs compact; the content stays, exactly @blocks stay allocated, no space is left over; again: no change."""
    footer = vhdfile.Vhd(path).footer
    before = os.path.getsize(path)
    t.img('compact', '-q', *options, path)
    image = vhdfile.open_chain(path, raw_parent=True)
    t.same_content(image.read_all(), view, 'independent reader')
    t.same_content(t.content(path), view, 'our reader')
    t.equal(image.allocated(), sorted(blocks), 'blocks that stay')
    t.sound(path, ours=False)
    t.equal(image.footer.unique_id, footer.unique_id, 'identity')
    t.equal(image.footer.timestamp, footer.timestamp, 'creation time')
    after = os.path.getsize(path)
    t.check(after <= before, 'the file grew from %d to %d' % (before, after))
    t.equal(space_left(path), None, 'space left after compacting %d to %d bytes' % (before, after))
    digest = sha256(path)
    t.img('compact', '-q', *options, path)
    t.equal(sha256(path), digest, 'bytes after a second run')
    return image


@case
def dynamic_zero_blocks_go(t):
    rng = random.Random(1)
    size, block = 5 * MiB + 512, 64 * KiB
    keep = {i for i in range(size // block + 1) if rng.random() < 0.4}
    writes = [(i * block + 512 * rng.randrange(1 if i == size // block else 128), rng.randbytes(512)) for i in keep]
    path = t.path('d.vhd')
    vhdfile.write_sparse(path, size, writes, block_size=block, rng=rng, gap=4096, allocate=range(size // block + 1))
    before = os.path.getsize(path)
    compacted(t, path, chains.lay(b'', writes, size), keep)
    t.check(os.path.getsize(path) < before * 0.6, 'hardly smaller: %d, %d before' % (os.path.getsize(path), before))


@case
def dynamic_written_zeros_go(t):
    size = 4 * MiB
    path = t.path('d.vhd')
    t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=64k', path, size)
    t.io('-f', 'vhd', '-c', 'write -q -P 5 0 4M', '-c', 'write -q -P 0 1M 2M', path)
    before = os.path.getsize(path)
    view = b'\5' * MiB + bytes(2 * MiB) + b'\5' * MiB
    compacted(t, path, view, list(range(16)) + list(range(48, 64)))
    t.check(os.path.getsize(path) <= before - 2 * MiB + 64 * KiB, 'size %d of %d' % (os.path.getsize(path), before))
    t.equal(vhdcheck.check(path), [], 'our own image, strict check')


@case
def dynamic_nothing_allocated(t):
    path = t.path('d.vhd')
    vhdfile.write_sparse(path, 8 * MiB, allocate=range(4))
    compacted(t, path, bytes(8 * MiB), [])
    t.check(os.path.getsize(path) < 8 * KiB, 'an empty image takes %d bytes' % os.path.getsize(path))


@case
def dynamic_nothing_to_do(t):
    rng = random.Random(3)
    writes = [(i * 64 * KiB, rng.randbytes(64 * KiB)) for i in range(20)]
    path = t.path('d.vhd')
    vhdfile.write_sparse(path, 20 * 64 * KiB, writes, block_size=64 * KiB)
    digest = sha256(path)
    t.img('compact', '-q', path)
    t.equal(sha256(path), digest, 'bytes of an image that is compact already')


@case
def leftovers_behind_the_last_block_go(t):
    """As an interrupted job leaves them: blocks nothing refers to, then the footer."""
    rng = random.Random(4)
    writes = [(i * 64 * KiB, rng.randbytes(64 * KiB)) for i in range(10)]
    path = t.path('d.vhd')
    vhdfile.write_sparse(path, 10 * 64 * KiB, writes, block_size=64 * KiB)
    footer = read_file(path)[-512:]
    with open(path, 'r+b') as f:
        f.seek(-512, 2)
        f.write(rng.randbytes(300 * KiB))
        f.write(footer)
    compacted(t, path, chains.lay(b'', writes, 10 * 64 * KiB), range(10))


# What one block of a differencing image may hold, over a parent with data or without.
SECTORS = 128
CASES = {
    # name: (parent's block, child's runs (first sector, bytes) as a function of the parent's block, stays)
    'data-over-data': (b'\1', lambda p: [(3, b'\2' * 512)], True),
    'data-over-nothing': (b'\0', lambda p: [(3, b'\2' * 512)], True),
    'zeros-over-data': (b'\1', lambda p: [(0, bytes(SECTORS * 512))], True),
    'zero-sector-over-data': (b'\1', lambda p: [(77, bytes(512))], True),
    'zeros-over-nothing': (b'\0', lambda p: [(0, bytes(SECTORS * 512))], False),
    'zero-sector-over-nothing': (b'\0', lambda p: [(77, bytes(512))], False),
    'equal-to-parent': (b'\3', lambda p: [(0, p)], False),
    'equal-sectors': (b'\3', lambda p: [(8, p[:4096]), (99, p[:512])], False),
    'equal-but-one-sector': (b'\3', lambda p: [(0, p[:-512]), (SECTORS - 1, b'\4' * 512)], True),
    'no-bit-set': (b'\3', lambda p: [], False),
}


def differencing(t, ways):
    block = SECTORS * 512
    names = list(CASES) * 2
    rng = random.Random(ways)
    rng.shuffle(names)
    size = len(names) * block
    base, child, stays = [], [], []
    for i, name in enumerate(names):
        fill, runs, stay = CASES[name]
        below = fill * block
        if fill != b'\0':
            base.append((i * block, below))
        child += [(i * block + first * 512, blob) for first, blob in runs(below)]
        if stay:
            stays.append(i)
    below = chains.lay(b'', base, size)
    if ways == 0:
        parent = vhdfile.write_sparse(t.path('p.vhd'), size, base, block_size=2 * MiB)
    elif ways == 1:
        # The parent's zeros are known only by reading: all of it is allocated.
        parent = vhdfile.write_fixed(t.path('p.vhd'), size, base, unique_id=os.urandom(16))
        parent.unique_id = vhdfile.Vhd(parent.path).unique_id
    else:
        vhdfile.write_sparse(t.path('pp.vhd'), size, base, block_size=16 * KiB)
        parent = vhdfile.write_sparse(t.path('p.vhd'), size, [], block_size=512 * KiB, parent_path=t.path('pp.vhd'),
                                      parent_id=vhdfile.Vhd(t.path('pp.vhd')).unique_id)
    path = t.path('c.vhd')
    vhdfile.write_sparse(path, size, child, block_size=block, parent_id=parent.unique_id, parent_path=parent.path,
                         rng=rng, gap=512, allocate=range(len(names)))
    unchanged = Unchanged(parent.path)
    compacted(t, path, chains.lay(below, child, size), stays)
    unchanged.verify(t, 'compacting the child')


for number, name in enumerate(('dynamic-parent', 'fixed-parent', 'two-parents')):
    add('differencing-over-' + name, differencing, number)


@case
def differencing_behind_a_smaller_parent(t):
    """What lies past the parent's end reads as zeros: zeros there may go, data must stay."""
    block = 64 * KiB
    vhdfile.write_sparse(t.path('p.vhd'), 10 * block - 1024, [(0, b'\1' * (10 * block - 1024))], block_size=block)
    child = [(9 * block, bytes(block)), (10 * block, bytes(block)), (11 * block, b'\2' * block),
             (8 * block, b'\1' * block)]
    vhdfile.write_sparse(t.path('c.vhd'), 12 * block, child, block_size=block, parent_path=t.path('p.vhd'),
                         parent_id=vhdfile.Vhd(t.path('p.vhd')).unique_id)
    view = chains.lay(b'\1' * (10 * block - 1024), child, 12 * block)
    compacted(t, t.path('c.vhd'), view, [9, 11])


@case
def differencing_without_its_parent_is_refused(t):
    vhdfile.write_sparse(t.path('p.vhd'), MiB)
    vhdfile.write_sparse(t.path('c.vhd'), MiB, [(0, bytes(512))], parent_path=t.path('p.vhd'),
                         parent_id=vhdfile.Vhd(t.path('p.vhd')).unique_id)
    os.unlink(t.path('p.vhd'))
    unchanged = Unchanged(t.path('c.vhd'))
    t.refused(t.img('compact', '-q', t.path('c.vhd'), rc=1), 'parent')
    unchanged.verify(t, 'a refused compaction')


@case
def fixed_is_refused(t):
    vhdfile.write_fixed(t.path('f.vhd'), MiB)
    unchanged = Unchanged(t.path('f.vhd'))
    t.refused(t.img('compact', '-q', t.path('f.vhd'), rc=1), ('fixed', 'not support', 'cannot', 'nothing to'))
    unchanged.verify(t, 'a refused compaction')


@case
def batmap_stays_true(t):
    rng = random.Random(9)
    full = [i for i in range(12) if i % 3]
    writes = [(i * 2 * MiB, rng.randbytes(2 * MiB) if i % 2 else b'\7' * 2 * MiB) for i in full]
    writes += [(i * 2 * MiB, bytes(2 * MiB)) for i in range(0, 12, 3)]
    vhdfile.write_sparse(t.path('d.vhd'), 24 * MiB, writes, rng=rng, batmap=True)
    compacted(t, t.path('d.vhd'), chains.lay(b'', writes, 24 * MiB), full)


def random_image(t, seed):
    rng = random.Random(seed)
    depth = rng.randrange(0, 4)
    layers = chains.make_chain(t, rng, depth, base_kind=rng.choice(('dynamic', 'fixed')) if depth else 'dynamic',
                               allow_smaller=False)
    index = rng.randrange(0 if layers[0].kind == 'dynamic' else 1, len(layers))
    layer = layers[index]
    below = layers[index - 1].view if index else b''
    image = vhdfile.link_chain(chains.paths(layers[:index + 1]))
    stays = []
    for block in image.allocated():
        start = block * layer.block_size
        end = min(start + layer.block_size, layer.size)
        if layer.view[start:end] != below[start:end].ljust(end - start, b'\0'):
            stays.append(block)
    try:
        cache = rng.choice(('writeback', 'none', 'unsafe'))
        direct = cache == 'none' and not can_direct(t.dir)
        compacted(t, layer.path, layer.view, stays, ['-t', 'writeback' if direct else cache])
        for i, other in enumerate(layers):
            t.same_content(chains.read_view(layers, i), other.view, 'layer %d' % i)
    except Failed as e:
        raise Failed('seed %d, layer %d: %s\n%s' % (seed, index, chains.describe(layers), e)) from e


SEED = int(os.environ.get('VHDKIT_SEED', '5000'))
for i in range(int(os.environ.get('VHDKIT_COMPACTIONS', '25'))):
    add('random-seed-%d' % (SEED + i), random_image, SEED + i)


def interrupted(t, how):
    """Stopped at many moments, each time a sound image with the old content; run to its end, it is compact."""
    rng = random.Random(17)
    block, count = 256 * KiB, 160
    writes = [(i * block, rng.randbytes(4096) * (block // 4096)) for i in range(count) if i % 3 == 0]
    path = t.path('d.vhd')
    vhdfile.write_sparse(path, count * block, writes, block_size=block, rng=rng, allocate=range(count))
    pristine = t.path('pristine')
    t.run('cp', path, pristine)
    view = chains.lay(b'', writes, count * block)
    began = time.monotonic()
    t.img('compact', '-q', path)
    whole = max(0.01, time.monotonic() - began)
    stopped = 0
    for attempt in range(20):
        if attempt % 3 == 0:
            t.run('cp', pristine, path)
        process = t.start(tool('vhd-img'), 'compact', '-q', path)
        time.sleep(whole * rng.random())
        process.send_signal(how)
        result = t.finish(process, signals=(how,))
        if result.rc > 0:
            t.equal(result.rc, 128 + how, 'status')
        stopped += result.rc > 0 or result.rc == -signal.SIGKILL
        t.same_content(vhdfile.Vhd(path).read_all(), view, 'content after stop %d' % attempt)
        t.img('check', '-f', 'vhd', path, rc=(0, 3))
    t.check(stopped >= 3, 'only %d of 20 runs were stopped in time' % stopped)
    compacted(t, path, view, [i for i in range(count) if i % 3 == 0])


add('interrupted-by-SIGINT', interrupted, signal.SIGINT)
add('killed', interrupted, signal.SIGKILL)

main()
