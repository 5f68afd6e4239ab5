# SPDX-License-Identifier: LGPL-2.1-or-later
"""map and compare; with "vhdx" as first argument, map of VHDX and compare across the formats."""

import random
import sys

import chains
import vhdxchains
from harness import KiB, MiB, Unchanged, add, case, main, vhdfile


maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]


def shown(view, start, end):
    return view[start:end] if isinstance(view, bytes) else view.read(start, end - start)


def all_zero(view, start, end):
    if isinstance(view, bytes):
        return not any(view[start:end])
    return not any(any(blob) for _, blob in view.runs(start, end))


def check_map(t, extents, layers, view):
    """Extents follow each other to the end; zero ones are zero; depth, present and offset are true."""
    at = 0
    for extent in extents:
        t.equal(extent['start'], at, 'start')
        end = at + extent['length']
        t.check(end > at, 'an empty extent', extent)
        if extent['zero']:
            t.check(all_zero(view, at, end), 'not zero', extent)
        if not extent['data'] and not extent['zero']:
            t.check(all_zero(view, at, end), 'neither data nor zero, and not zero either', extent)
        if 'offset' in extent and extent['data']:
            path = layers[len(layers) - 1 - extent['depth']].path
            with open(path, 'rb') as f:
                f.seek(extent['offset'])
                t.same_content(f.read(end - at), shown(view, at, end), 'bytes at the offset told, in ' + path)
        at = end
    t.equal(at, len(view), 'end of the map')
    for a, b in zip(extents, extents[1:]):
        same = all(a.get(k) == b.get(k) for k in ('depth', 'zero', 'data', 'present')) and \
            ('offset' in a) == ('offset' in b) and ('offset' not in a or a['offset'] + a['length'] == b['offset'])
        t.check(not same, 'two extents that are one', a, b)


def random_map(t, seed):
    rng = random.Random(seed)
    layers = maker.make_chain(t, rng, rng.randrange(0, 5), tool_made=False)
    raw = maker.parent_options(layers) if len(layers) > 1 else []
    leaf = layers[-1]
    fmt = maker.format_of(leaf)
    unchanged = Unchanged(*(x.path for x in layers))
    check_map(t, t.img('map', '-f', fmt, '--output=json', *raw, leaf.path).json, layers, leaf.view)
    t.img('map', '-f', fmt, *raw, leaf.path)
    unchanged.verify(t)


for i in range(25 if maker is chains else 12):
    add('map-of-random-chain-%d' % i, random_map, 7000 + i)


def random_compare(t, seed):
    """A chain, its content as a raw file, and the same with one byte changed."""
    rng = random.Random(seed)
    layers = vhdxchains.make_chain(t, rng, rng.randrange(0, 4))
    path, view, raw = layers[-1].path, layers[-1].view, t.path('content.raw')
    with open(raw, 'wb') as f:
        f.truncate(view.size)
        for offset, blob in view.runs():
            f.seek(offset)
            f.write(blob)
    unchanged = Unchanged(*(x.path for x in layers))
    t.img('compare', '-q', '-f', 'vhdx', '-F', 'raw', path, raw)
    where = rng.choice([0, view.size - 1, rng.randrange(view.size)])
    with open(raw, 'r+b') as f:
        f.seek(where)
        f.write(bytes([view.read(where, 1)[0] ^ 0x80]))
    for argv in (('-f', 'vhdx', '-F', 'raw', path, raw), ('-f', 'raw', '-F', 'vhdx', raw, path)):
        result = t.img('compare', *argv, rc=1)
        t.check(str(where // 512 * 512) in result.out or str(where) in result.out, 'where %d' % where, result)
    unchanged.verify(t)


if maker is vhdxchains:
    for i in range(8):
        add('compare-of-random-chain-%d' % i, random_compare, 7500 + i)
    main()
    sys.exit()


@case
def map_of_depths(t):
    """One extent from each of three layers, one from nobody."""
    base = vhdfile.write_sparse(t.path('a.vhd'), 8 * MiB, [(0, b'\1' * (2 * MiB))])
    mid = vhdfile.write_sparse(t.path('b.vhd'), 8 * MiB, [(2 * MiB, b'\2' * (2 * MiB))], parent_id=base.unique_id,
                               parent_path=base.path)
    vhdfile.write_sparse(t.path('c.vhd'), 8 * MiB, [(4 * MiB, b'\3' * (2 * MiB))], parent_id=mid.unique_id,
                         parent_path=mid.path)
    extents = t.img('map', '--output=json', t.path('c.vhd')).json
    t.equal([(x['start'], x['length'], x['depth'], x['data']) for x in extents[:3]],
            [(0, 2 * MiB, 2, True), (2 * MiB, 2 * MiB, 1, True), (4 * MiB, 2 * MiB, 0, True)], 'extents with data')
    t.equal((extents[3]['start'], extents[3]['length'], extents[3]['zero'], extents[3]['data']),
            (6 * MiB, 2 * MiB, True, False), 'extent of nobody')
    text = t.img('map', t.path('c.vhd')).out
    for name in ('a.vhd', 'b.vhd', 'c.vhd'):
        t.check(name in text, 'the text does not name %s' % name, text)


@case
def map_of_a_range(t):
    vhdfile.write_sparse(t.path('a.vhd'), 8 * MiB, [(0, b'\1' * (4 * MiB))])
    extents = t.img('map', '--output=json', '-s', '3M', '-l', '2M', t.path('a.vhd')).json
    t.equal([(x['start'], x['length'], x['data']) for x in extents],
            [(3 * MiB, MiB, True), (4 * MiB, MiB, False)], 'extents')


@case
def map_of_a_large_empty_disk_is_short(t):
    t.img('create', '-q', '-f', 'vhd', t.path('e.vhd'), '2040G')
    extents = t.img('map', '--output=json', t.path('e.vhd'), timeout=20).json
    t.equal(len(extents), 1, 'extents')


# --- compare ------------------------------------------------------------------------------------------------

def write_raw(t, name, data):
    with open(t.path(name), 'wb') as f:
        f.write(data)
    return t.path(name)


@case
def equal_across_formats(t):
    rng = random.Random(2)
    data = rng.randbytes(MiB) + bytes(MiB)
    a = write_raw(t, 'a.raw', data)
    vhdfile.write_sparse(t.path('b.vhd'), 2 * MiB, [(0, data)], block_size=64 * KiB)
    vhdfile.write_fixed(t.path('c.vhd'), 2 * MiB, [(0, data)])
    unchanged = Unchanged(a, t.path('b.vhd'), t.path('c.vhd'))
    text = t.img('compare', a, t.path('b.vhd')).out
    t.check('identical' in text, 'text', text)
    t.img('compare', '-f', 'vhd', '-F', 'vhd', t.path('b.vhd'), t.path('c.vhd'))
    t.equal(t.img('compare', '-q', t.path('c.vhd'), a).out, '', 'output of -q')
    unchanged.verify(t)


def difference(t, where):
    data = bytearray(b'\1' * (3 * MiB))
    a = write_raw(t, 'a.raw', data)
    data[where] ^= 0x80
    vhdfile.write_sparse(t.path('b.vhd'), 3 * MiB, [(0, bytes(data))])
    for argv in ((a, t.path('b.vhd')), (t.path('b.vhd'), a)):
        result = t.img('compare', *argv, rc=1)
        t.check(str(where // 512 * 512) in result.out or str(where) in result.out, 'where', result)
        t.check('mismatch' in result.out.lower(), 'what', result)


for where in (0, 511, 512, MiB - 1, MiB, 2 * MiB + 77777, 3 * MiB - 1):
    add('differs-at-%d' % where, difference, where)


@case
def zeros_equal_nothing(t):
    write_raw(t, 'a.raw', bytes(MiB))
    vhdfile.write_sparse(t.path('b.vhd'), MiB)
    t.img('compare', t.path('a.raw'), t.path('b.vhd'))


@case
def sizes_differ(t):
    write_raw(t, 'a.raw', b'\1' * MiB)
    write_raw(t, 'b.raw', b'\1' * MiB + bytes(4096))
    write_raw(t, 'c.raw', b'\1' * MiB + b'\2' * 4096)
    result = t.img('compare', '-f', 'raw', '-F', 'raw', t.path('a.raw'), t.path('b.raw'))
    t.check('size' in (result.out + result.err).lower(), 'the different size is not told', result)
    t.img('compare', '-s', '-f', 'raw', '-F', 'raw', t.path('a.raw'), t.path('b.raw'), rc=1)
    t.img('compare', '-f', 'raw', '-F', 'raw', t.path('a.raw'), t.path('c.raw'), rc=1)
    t.img('compare', '-f', 'raw', '-F', 'raw', t.path('c.raw'), t.path('a.raw'), rc=1)


@case
def strict_notices_allocation(t):
    vhdfile.write_sparse(t.path('a.vhd'), 4 * MiB, allocate=[0])
    vhdfile.write_sparse(t.path('b.vhd'), 4 * MiB)
    t.img('compare', t.path('a.vhd'), t.path('b.vhd'))
    t.img('compare', '-s', t.path('a.vhd'), t.path('b.vhd'), rc=1)
    t.img('compare', '-s', t.path('b.vhd'), t.path('b.vhd'))


@case
def trouble_is_2(t):
    write_raw(t, 'a.raw', bytes(MiB))
    for argv in ((t.path('a.raw'), t.path('none')), (t.path('none'), t.path('a.raw'))):
        result = t.img('compare', *argv, rc=2)
        t.refused(result, 'none')
    t.img('compare', t.path('a.raw'), rc=(1, 2))
    vhdfile.write_sparse(t.path('b.vhd'), MiB, [(0, b'\1' * MiB)], block_size=64 * KiB)
    vhdfile.patch_bat(t.path('b.vhd'), 3, 0x7FFFFFFF)
    t.img('compare', '-f', 'raw', '-F', 'vhd', t.path('a.raw'), t.path('b.vhd'), rc=(1, 2, 3, 4))



def blocks_of_map(t, path, wanted):
    extents = t.img('map', '-f', 'vhdx', '--output=json', path).json
    t.equal(sum(x['length'] for x in extents), 4 << 40, 'length of the map')
    t.equal(sorted({n for x in extents if x['present']
                    for n in range(x['start'] // MiB, (x['start'] + x['length'] - 1) // MiB + 1)}), sorted(wanted),
            'blocks of the map')


def sparse_table(t, seed):
    """Few blocks in a table of 32 MiB: found where the file has a hole, zeros, and what is not in the file yet."""
    rng = random.Random(seed)
    path = t.path('x.vhdx')
    t.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', path, 4 << 40)
    last = (4 << 20) - 1
    wanted = {0, last} if rng.randrange(2) else set()
    for _ in range(rng.randrange(1, 9)):
        # Pages of the table begin at multiples of 512 entries, chunks end after 4096 blocks; pieces are 64 KiB.
        near = rng.choice([512, 4096, 4097, 8192, 65536, 131072]) * rng.randrange(1, 32)
        wanted.add(min(last, near + rng.randrange(-2, 3)))
    written = sorted(wanted)
    rng.shuffle(written)
    commands = []
    for n in written:
        commands += ['-c', 'write -q -P 7 %d 512' % (n * MiB)]
    held = t.io('-f', 'vhdx', *commands, '-c', 'map', '-c', 'flush', '-c', 'map', path).out.splitlines()
    t.equal(len(held) % 2, 0, 'lines of two maps')
    t.equal(held[:len(held) // 2], held[len(held) // 2:], 'maps before and after a flush')
    blocks_of_map(t, path, wanted)
    with open(path, 'rb') as source, open(t.path('full.vhdx'), 'wb') as copy:
        for piece in iter(lambda: source.read(MiB), b''):
            copy.write(piece)
    blocks_of_map(t, t.path('full.vhdx'), wanted)


for i in range(12):
    add('map-of-sparse-table-%d' % i, sparse_table, 9000 + i)


main()
