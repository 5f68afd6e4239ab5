# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert: every pair of formats, zeros and holes, sizes, and children made of differences (-B)."""

import os
import random
from shutil import which

import chains
from harness import (KiB, MiB, QEMU_IMG, Unchanged, add, can_direct, case, data_extents, main, read_file, tool, vhdcheck,
                     vhdfile)


def source(t, kind, seed=1, size=5 * MiB + 512 * 5):
    rng = random.Random(seed)
    writes = [(rng.randrange(size // 512 - 400) * 512, rng.randbytes(512 * rng.randrange(1, 400))) for _ in range(12)]
    writes.append((size - 512, rng.randbytes(512)))
    view = chains.lay(b'', writes, size)
    path = t.path('source.' + ('raw' if kind == 'raw' else 'vhd'))
    if kind == 'raw':
        with open(path, 'wb') as f:
            f.truncate(size)
            for offset, blob in writes:
                f.seek(offset)
                f.write(blob)
    elif kind == 'fixed':
        vhdfile.write_fixed(path, size, writes)
    elif kind == 'dynamic':
        vhdfile.write_sparse(path, size, writes, block_size=512 * KiB, rng=rng)
    else:
        below = [(0, rng.randbytes(size))]
        parent = vhdfile.write_sparse(t.path('parent.vhd'), size, below)
        vhdfile.write_sparse(path, size, writes, block_size=64 * KiB, parent_id=parent.unique_id,
                             parent_path=parent.path)
        view = chains.lay(below[0][1], writes, size)
    return path, view


def pair(t, kind, target, options):
    path, view = source(t, kind)
    unchanged = Unchanged(path)
    out = t.path('out.' + target)
    argv = ['convert', '-q', '-O', 'raw' if target == 'raw' else 'vhd']
    if target == 'fixed':
        argv += ['-o', 'subformat=fixed']
    t.img(*argv, *options, path, out)
    unchanged.verify(t, 'convert')
    if target == 'raw':
        t.same_content(read_file(out), view, 'raw result')
    else:
        t.equal(vhdcheck.check(out), [], 'independent check')
        t.same_content(vhdfile.Vhd(out).read_all(), view, 'independent reader')
        t.equal(vhdfile.Vhd(out).kind, vhdfile.FIXED if target == 'fixed' else vhdfile.DYNAMIC, 'type')
    t.img('compare', '-q', path, out)


for kind in ('raw', 'fixed', 'dynamic', 'differencing'):
    for target in ('raw', 'fixed', 'dynamic'):
        add('%s-to-%s' % (kind, target), pair, kind, target, [])
for name, options in {'one-at-a-time': ['-m', '1'], 'sixteen-out-of-order': ['-m', '16', '-W'],
                      'all-zeros-written': ['-S', '0'], 'sparse-64k': ['-S', '64k'],
                      'writethrough': ['-t', 'writethrough'], 'unsafe': ['-t', 'unsafe'],
                      'threads': ['--aio', 'threads']}.items():
    add('differencing-to-dynamic-' + name, pair, 'differencing', 'dynamic', options)
    add('dynamic-to-raw-' + name, pair, 'dynamic', 'raw', options)


@case
def direct_io(t):
    """Both sides past the page cache, where the file system of the scratch directory can."""
    path, view = source(t, 'differencing')
    if not can_direct(t.dir):
        t.skip('no O_DIRECT in the scratch directory')
    for target in ('raw', 'vhd'):
        t.img('convert', '-q', '-t', 'none', '-T', 'none', '-O', target, path, t.path('out'))
        data = read_file(t.path('out')) if target == 'raw' else vhdfile.Vhd(t.path('out')).read_all()
        t.same_content(data, view, target)


@case
def zeros_take_no_room(t):
    with open(t.path('z.raw'), 'wb') as f:
        f.write(bytes(20 * MiB) + b'\1' * 4096 + bytes(20 * MiB - 4096))
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', t.path('z.raw'), t.path('z.vhd'))
    t.equal(vhdfile.Vhd(t.path('z.vhd')).allocated(), [10], 'blocks that hold data')
    t.img('convert', '-q', '-O', 'raw', t.path('z.vhd'), t.path('back.raw'))
    t.same_content(read_file(t.path('back.raw')), read_file(t.path('z.raw')), 'and back')
    stored = sum(end - start for start, end in data_extents(t.path('back.raw')))
    t.check(stored <= 256 * KiB, 'the raw result stores %d bytes' % stored)


@case
def holes_are_not_read(t):
    """A terabyte of nothing is converted in no time."""
    with open(t.path('h.raw'), 'wb') as f:
        f.truncate(1 << 40)
        f.seek(700 << 30)
        f.write(b'\1' * 4096)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', t.path('h.raw'), t.path('h.vhd'), timeout=30)
    t.equal(vhdfile.Vhd(t.path('h.vhd')).allocated(), [700 << 9], 'blocks')
    t.img('convert', '-q', '-O', 'raw', t.path('h.vhd'), t.path('b.raw'), timeout=30)
    t.equal(os.path.getsize(t.path('b.raw')), 1 << 40, 'size')
    t.check(sum(end - start for start, end in data_extents(t.path('b.raw'))) <= 2 * MiB, 'data in the result')


@case
def with_a_parent_only_differences(t):
    """-B: a child of the given parent that reads as the source."""
    path, view = source(t, 'raw', seed=3)
    rng = random.Random(5)
    parent_view = bytearray(view)
    parent_view[MiB:MiB + 65536] = rng.randbytes(65536)
    parent_view[3 * MiB:3 * MiB + 4096] = b'\7' * 4096
    vhdfile.write_sparse(t.path('parent.vhd'), len(view), [(0, bytes(parent_view))])
    unchanged = Unchanged(t.path('parent.vhd'), path)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', '-B', t.path('parent.vhd'), path, t.path('c.vhd'))
    unchanged.verify(t, 'convert -B')
    t.equal(vhdcheck.check(t.path('c.vhd')), [], 'independent check')
    t.same_content(vhdfile.open_chain(t.path('c.vhd')).read_all(), view, 'independent reader')
    t.same_content(t.content(t.path('c.vhd')), view, 'our reader')


@case
def layer_upon_its_own_parent(t):
    """-B the source's parent: a copy of the layer, not of the disk."""
    rng = random.Random(6)
    below = [(0, rng.randbytes(8 * MiB))]
    writes = [(3 * MiB, rng.randbytes(8192)), (5 * MiB, bytes(4096))]
    parent = vhdfile.write_sparse(t.path('p.vhd'), 8 * MiB, below)
    vhdfile.write_sparse(t.path('c.vhd'), 8 * MiB, writes, parent_id=parent.unique_id, parent_path=parent.path)
    t.img('convert', '-q', '-O', 'vhd', '-B', t.path('p.vhd'), t.path('c.vhd'), t.path('copy.vhd'))
    copy = vhdfile.open_chain(t.path('copy.vhd'))
    t.same_content(copy.read_all(), chains.lay(below[0][1], writes, 8 * MiB), 'content')
    t.equal(copy.allocated(), [1, 2], 'blocks of the copy')
    t.equal([copy.present_sectors(i) for i in copy.allocated()], [16, 8], 'sectors present')


@case
def into_an_existing_image(t):
    """-n writes into an image that is there: all of it."""
    path, view = source(t, 'dynamic')
    t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=64k', t.path('o.vhd'), len(view))
    t.io('-f', 'vhd', '-c', 'write -q -P 0xee 0 %d' % len(view), t.path('o.vhd'))
    t.img('convert', '-q', '-n', '-O', 'vhd', path, t.path('o.vhd'))
    t.same_content(vhdfile.Vhd(t.path('o.vhd')).read_all(), view, 'content')
    t.sound(t.path('o.vhd'), leaks=True)


@case
def onto_itself(t):
    path, view = source(t, 'dynamic')
    unchanged = Unchanged(path)
    t.refused(t.img('convert', '-q', '-O', 'vhd', path, path, rc=1))
    os.symlink(path, t.path('link.vhd'))
    os.link(path, t.path('hard.vhd'))
    t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('link.vhd'), rc=1))
    t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('hard.vhd'), rc=1))
    unchanged.verify(t, 'a refused convert')


@case
def onto_its_parent(t):
    path, view = source(t, 'differencing')
    unchanged = Unchanged(path, t.path('parent.vhd'))
    t.refused(t.img('convert', '-q', '-O', 'vhd', path, t.path('parent.vhd'), rc=1))
    unchanged.verify(t, 'a refused convert')


@case
def progress(t):
    path, view = source(t, 'dynamic')
    text = t.img('convert', '-p', '-O', 'raw', path, t.path('o.raw')).out
    t.check('(100.00/100%)' in text, 'no end of the progress', text)


@case
def raw_file_of_odd_length(t):
    """The last sector of a raw file that is no multiple of 512 is filled with zeros."""
    with open(t.path('odd.raw'), 'wb') as f:
        f.write(b'\1' * 100001)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', t.path('odd.raw'), t.path('odd.vhd'))
    t.same_content(vhdfile.Vhd(t.path('odd.vhd')).read_all(), b'\1' * 100001 + bytes(100352 - 100001), 'content')


def killed(t, options, parent):
    """What a killed conversion leaves is named as such, and no image to us nor to others."""
    path, view = source(t, 'dynamic', size=16 * MiB)
    out = t.path('out.vhd')
    options = ['-O', 'vhd', *options]
    if parent:
        t.img('create', '-q', '-f', 'vhd', t.path('base.vhd'), 16 * MiB)
        options += ['-B', t.path('base.vhd')]
    process = t.start(tool('vhd-img'), 'convert', '-q', '-S', '0', '-m', '1', '-r', '1M', *options, path, out)
    t.wait_until(lambda: os.path.exists(out) and os.path.getsize(out) > 64 * KiB and
                 os.stat(out).st_blocks * 512 > 128 * KiB, 'data in the target')
    process.kill()
    process.wait()
    unchanged = Unchanged(out)
    for command in (['info'], ['map'], ['convert', '-O', 'raw', out, t.path('n.raw')],
                    ['convert', '-n', '-O', 'vhd', path]):
        t.refused(t.img(*command, *([] if 'n.raw' in command[-1] else [out]), rc=None), 'not completely made')
    result = t.img('check', '-f', 'vhd', out, rc=2)
    t.check('not completely made' in result.out + result.err, 'check does not name it', result)
    if which(QEMU_IMG) is not None:
        t.check(t.run(QEMU_IMG, 'info', '-f', 'vpc', out, rc=None).rc != 0, 'qemu-img takes it for an image')
        if '-o' not in options:
            # Nor for a raw disk: the format is still known.
            t.check(t.run(QEMU_IMG, 'info', out, rc=None).rc != 0, 'qemu-img takes it for a raw image')
    unchanged.verify(t, 'whoever refused it')
    t.img('convert', '-q', *options, path, out)
    t.sound(out)
    t.img('compare', '-q', path, out)


add('killed-dynamic', killed, [], False)
add('killed-fixed', killed, ['-o', 'subformat=fixed'], False)
add('killed-differencing', killed, [], True)

main()
