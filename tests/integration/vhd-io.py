# SPDX-License-Identifier: LGPL-2.1-or-later
"""vhd-io: reads, writes, zeros, discards through every kind of image, against a model."""

import random

import chains
from harness import KiB, MiB, Unchanged, add, case, main, tool, vhdcheck, vhdfile

SIZE = 3 * MiB + 512 * 3


def make(t, kind, seed):
    """path, options and model of an image of this kind."""
    rng = random.Random(seed)
    path = t.path('x.vhd')
    if kind == 'raw':
        path = t.path('x.raw')
        with open(path, 'wb') as f:
            f.truncate(SIZE)
        return path, ['-f', 'raw'], bytearray(SIZE)
    if kind in ('fixed', 'dynamic'):
        argv = ['-o', 'subformat=' + kind + (',block_size=64k' if kind == 'dynamic' else '')]
        t.img('create', '-q', '-f', 'vhd', *argv, path, SIZE)
        return path, ['-f', 'vhd'], bytearray(SIZE)
    parent_size = SIZE if kind == 'differencing' else SIZE - 100 * 512
    below = [(0, rng.randbytes(MiB)), (2 * MiB, rng.randbytes(512 * 77))]
    parent = vhdfile.write_sparse(t.path('p.vhd'), parent_size, below)
    if kind == 'exact-bits':
        writes = [(rng.randrange(5000) * 512, rng.randbytes(512 * 9)) for _ in range(9)]
        vhdfile.write_sparse(path, SIZE, writes, block_size=64 * KiB, exact_bits=True)
        return path, ['-f', 'vhd'], bytearray(chains.lay(b'', writes, SIZE))
    t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=64k', '-b', parent.path, path, SIZE)
    return path, ['-f', 'vhd'], bytearray(chains.lay(chains.lay(b'', below, parent_size), [], SIZE))


def random_commands(t, kind, seed, unaligned):
    rng = random.Random(seed)
    path, options, model = make(t, kind, seed)
    unit = 1 if unaligned else 512
    commands = []
    for _ in range(120):
        length = rng.choice((1, 3, 8, 127, 128, 129, 500, 2000)) * 512
        if unaligned:
            length = max(1, length - rng.randrange(511))
        offset = rng.randrange((SIZE - length) // unit + 1) * unit
        action = rng.random()
        if action < 0.5:
            pattern = rng.randrange(1, 256)
            commands.append('write -q -P %d %d %d' % (pattern, offset, length))
            model[offset:offset + length] = bytes([pattern]) * length
        elif action < 0.65:
            commands.append('write -q -z %d %d' % (offset, length))
            model[offset:offset + length] = bytes(length)
        elif action < 0.7:
            commands.append('flush')
        elif action < 0.95:
            # A range of one byte value known from the model is read back and verified there.
            value = model[offset]
            stop = offset
            while stop < offset + length and model[stop] == value:
                stop += 1
            commands.append('read -q -P %d %d %d' % (value, offset, stop - offset))
        else:
            commands.append('map')
    argv = list(options)
    for command in commands:
        argv += ['-c', command]
    t.io(*argv, path)
    if kind == 'raw':
        with open(path, 'rb') as f:
            t.same_content(f.read(), bytes(model), 'raw file')
    else:
        t.equal(vhdcheck.check(path, ours=kind != 'exact-bits'), [], 'independent check')
        t.same_content(vhdfile.open_chain(path).read_all(), bytes(model), 'independent reader')
        t.img('check', '-q', '-f', 'vhd', path)
    t.same_content(t.content(path, fmt=options[1]), bytes(model), 'our reader')


for kind in ('raw', 'fixed', 'dynamic', 'differencing', 'larger-than-parent', 'exact-bits'):
    for unaligned in (False, True):
        for seed in range(3):
            add('%s-%s-%d' % (kind, 'bytes' if unaligned else 'sectors', seed), random_commands, kind, 40 + seed,
                unaligned)


@case
def pattern_that_does_not_match(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB, [(0, b'\1' * 4096)])
    result = t.io('-f', 'vhd', '-c', 'read -P 2 0 512', t.path('x.vhd'), rc=1)
    t.check('verification failed' in (result.out + result.err).lower(), 'text', result)


@case
def outside_the_disk(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB)
    unchanged = Unchanged(t.path('x.vhd'))
    for command in ('write 1M 512', 'write 1048064 1k', 'read 2M 512', 'write -1 512', 'write -z 1M 1M',
                    'discard 1M 512', 'read 9223372036854775807 512'):
        result = t.io('-f', 'vhd', '-c', command, t.path('x.vhd'), rc=1)
        t.check((result.out + result.err).strip(), 'no message for "%s"' % command, result)
    unchanged.verify(t, 'a refused write')


@case
def read_only_cannot_write(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB)
    unchanged = Unchanged(t.path('x.vhd'))
    t.io('-f', 'vhd', '-r', '-c', 'read 0 1M', t.path('x.vhd'))
    t.io('-f', 'vhd', '-r', '-c', 'write 0 512', t.path('x.vhd'), rc=1)
    unchanged.verify(t)


@case
def unknown_commands(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB)
    for command in ('frobnicate 0 512', 'write', 'read 0', 'write 0 512 512', 'write -P 300 0 512', 'read x y'):
        result = t.io('-f', 'vhd', '-c', command, t.path('x.vhd'), rc=1)
        t.check((result.out + result.err).strip(), 'no message for "%s"' % command, result)


@case
def discard_never_shows_the_parent(t):
    """What is discarded reads as before or as zeros; the parent must not come through."""
    parent = vhdfile.write_sparse(t.path('p.vhd'), 4 * MiB, [(0, b'\1' * (4 * MiB))])
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, [(0, b'\2' * (3 * MiB))], block_size=512 * KiB,
                         parent_id=parent.unique_id, parent_path=parent.path)
    t.io('-f', 'vhd', '-c', 'discard 512k 1M', t.path('c.vhd'))
    data = vhdfile.open_chain(t.path('c.vhd')).read_all()
    t.check(set(data[512 * KiB:512 * KiB + MiB]) <= {0, 2}, 'bytes after the discard')
    t.check(data[:512 * KiB] == b'\2' * (512 * KiB) and data[3 * MiB:] == b'\1' * MiB, 'bytes beside the discard')
    t.sound(t.path('c.vhd'), ours=False)


@case
def discard_gives_blocks_of_a_dynamic_image_back(t):
    vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(0, b'\1' * (4 * MiB))], block_size=512 * KiB)
    t.io('-f', 'vhd', '-c', 'discard 1M 1M', '-c', 'flush', '-c', 'write -q -P 3 1M 512', t.path('x.vhd'))
    image = vhdfile.Vhd(t.path('x.vhd'))
    data = image.read_all()
    t.check(set(data[MiB + 512:2 * MiB]) in ({0}, {1}), 'bytes after the discard')
    t.check(data[MiB:MiB + 512] == b'\3' * 512, 'written again')
    t.check(data[:MiB] == b'\1' * MiB and data[2 * MiB:] == b'\1' * (2 * MiB), 'bytes beside')
    t.sound(t.path('x.vhd'), ours=False, leaks=True)


@case
def zeros_hide_the_parent(t):
    parent = vhdfile.write_sparse(t.path('p.vhd'), 4 * MiB, [(0, b'\1' * (4 * MiB))])
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, parent_id=parent.unique_id, parent_path=parent.path)
    t.io('-f', 'vhd', '-c', 'write -z 512 2M', t.path('c.vhd'))
    t.io('-f', 'vhd', '-c', 'write -z -u 3M 512k', t.path('c.vhd'))
    expected = b'\1' * 512 + bytes(2 * MiB) + b'\1' * (MiB - 512) + bytes(512 * KiB) + b'\1' * (512 * KiB)
    t.same_content(vhdfile.open_chain(t.path('c.vhd')).read_all(), expected, 'content')


@case
def zeros_on_nothing_allocate_nothing(t):
    t.img('create', '-q', '-f', 'vhd', t.path('x.vhd'), '100M')
    t.io('-f', 'vhd', '-c', 'write -z 0 100M', t.path('x.vhd'))
    t.equal(vhdfile.Vhd(t.path('x.vhd')).allocated(), [], 'blocks')


@case
def concurrent_requests(t):
    """Several asynchronous writes in one block and across blocks."""
    t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=64k', t.path('x.vhd'), '4M')
    argv = []
    model = bytearray(4 * MiB)
    for i in range(64):
        offset = i * 40960
        argv += ['-c', 'aio_write -q -P %d %d 40960' % (i + 1, offset)]
        model[offset:offset + 40960] = bytes([i + 1]) * 40960
    t.io('-f', 'vhd', *argv, '-c', 'aio_flush', t.path('x.vhd'))
    t.same_content(vhdfile.Vhd(t.path('x.vhd')).read_all(), bytes(model), 'content')
    t.equal(vhdcheck.check(t.path('x.vhd')), [], 'independent check')


def block_order(t, order):
    """Blocks written in this order: footers and table right each time the image is opened again."""
    t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=512k', t.path('x.vhd'), '10M')
    model = bytearray(10 * MiB)
    for i, block in enumerate(order):
        t.io('-f', 'vhd', '-c', 'write -q -P %d %d 700k' % (i + 1, block * 512 * KiB), t.path('x.vhd'))
        model[block * 512 * KiB:block * 512 * KiB + 700 * KiB] = bytes([i + 1]) * (700 * KiB)
        t.equal(vhdcheck.check(t.path('x.vhd')), [], 'independent check after write %d' % i)
    t.same_content(vhdfile.Vhd(t.path('x.vhd')).read_all(), bytes(model), 'content')


add('blocks-upwards', block_order, [0, 3, 6, 9, 12])
add('blocks-downwards', block_order, [15, 10, 5, 0])
add('blocks-mixed', block_order, [7, 2, 18, 3, 11, 0])


@case
def leftovers_are_cut_at_a_writable_open(t):
    """After a crash there may be old bytes behind the last block: they must never show as data."""
    made = vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(0, b'\1' * 4096)], block_size=64 * KiB)
    footer = vhdfile.read_at(made.path, made.footer_offset, 512)
    with open(made.path, 'r+b') as f:
        f.seek(made.footer_offset)
        f.write(b'\xee' * (300 * KiB) + footer)
    t.io('-f', 'vhd', '-c', 'write -q -P 2 1M 512', made.path)
    expected = chains.lay(b'', [(0, b'\1' * 4096), (MiB, b'\2' * 512)], 4 * MiB)
    t.same_content(vhdfile.Vhd(made.path).read_all(), expected, 'content')
    t.equal(vhdcheck.check(made.path, ours=False), [], 'independent check')


@case
def growth_that_fails_names_both_sizes(t):
    """The last step, the footer at the end, is the one that fails."""
    made = vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(0, b'\1' * 4096)], block_size=64 * KiB)
    result = t.run('sh', '-c', 'ulimit -f %d; exec "$@"' % (made.footer_offset // 512), 'sh', tool('vhd-io'), '-f', 'vhd',
                   '-c', 'truncate 5M', made.path, rc=1)
    t.check('cannot grow from 4194304 to 5242880 bytes: File too large' in result.err, 'the error', result)


@case
def footer_missing_is_put_back(t):
    made = vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(0, b'\1' * 4096)], block_size=64 * KiB)
    with open(made.path, 'r+b') as f:
        f.truncate(made.footer_offset)
    unchanged = Unchanged(made.path)
    t.io('-f', 'vhd', '-r', '-c', 'read -q -P 1 0 4096', made.path)
    unchanged.verify(t)
    t.io('-f', 'vhd', '-c', 'write -q -P 2 1M 512', made.path)
    t.equal(vhdcheck.check(made.path, ours=False), [], 'independent check')


@case
def footer_missing_hides_no_data(t):
    """A dynamic image shows what is in its blocks, bits or not: before a writable open, and after it."""
    made = vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(0, b'\1' * 4096)], block_size=64 * KiB)
    with open(made.path, 'r+b') as f:
        f.seek(1536)
        f.seek(int.from_bytes(f.read(4), 'big') * 512)
        f.write(bytes(512))
        f.truncate(made.footer_offset)
    t.io('-f', 'vhd', '-r', '-c', 'read -q -P 1 0 4096', made.path)
    t.io('-f', 'vhd', '-c', 'read -q -P 1 0 4096', made.path)
    t.io('-f', 'vhd', '-r', '-c', 'read -q -P 1 0 4096', made.path)


@case
def batmap_is_kept_true(t):
    """Writes that fill, and do not fill, blocks of an image with a batmap."""
    parent = vhdfile.write_sparse(t.path('p.vhd'), 16 * MiB, [(0, b'\1' * (16 * MiB))])
    vhdfile.write_sparse(t.path('x.vhd'), 16 * MiB, [(0, b'\2' * (2 * MiB)), (4 * MiB, b'\3' * 4096)], batmap=True,
                         parent_id=parent.unique_id, parent_path=parent.path)
    t.io('-f', 'vhd', '-c', 'write -q -P 4 2M 2M', '-c', 'write -q -P 5 4M 1M', '-c', 'write -q -P 6 8M 64k', t.path('x.vhd'))
    t.equal(vhdcheck.check(t.path('x.vhd'), ours=False), [], 'independent check')
    view = chains.lay(b'\1' * (16 * MiB), [(0, b'\2' * (2 * MiB)), (2 * MiB, b'\4' * (2 * MiB)),
                                           (4 * MiB, b'\5' * MiB), (8 * MiB, b'\6' * (64 * KiB))], 16 * MiB)
    t.same_content(vhdfile.open_chain(t.path('x.vhd')).read_all(), view, 'content')


@case
def parent_is_not_written(t):
    parent = vhdfile.write_sparse(t.path('p.vhd'), 4 * MiB, [(0, b'\1' * MiB)])
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, parent_id=parent.unique_id, parent_path=parent.path)
    unchanged = Unchanged(parent.path)
    t.io('-f', 'vhd', '-c', 'write -q -P 9 0 4M', t.path('c.vhd'))
    unchanged.verify(t, 'writing to the child')


main()
