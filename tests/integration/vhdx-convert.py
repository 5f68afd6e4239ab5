# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert to and from VHDX: every pair of formats, every option, children made of differences (-B), limits."""

import os
import random

import vhdfile
import vhdxchains
import vhdxcheck
import vhdxread
import views
from harness import MiB, Unchanged, add, case, data_extents, main
from vhdxformat import TiB

SIZE = 9 * MiB + 512 * 5


def content(seed=1, size=SIZE, sector=512):
    rng = random.Random(seed)
    writes = [(rng.randrange(size // sector - 400) * sector, rng.randbytes(sector * rng.randrange(1, 100)))
              for _ in range(8)] + [(size - sector, rng.randbytes(sector))]
    return writes, views.Content(0).lay(writes, size)


def raw_file(t, name, view):
    with open(t.path(name), 'wb') as f:
        f.truncate(view.size)
        for offset, blob in view.runs():
            f.seek(offset)
            f.write(blob)
    return t.path(name)


def source(t, kind):
    """The path of an image of that kind, and what reads through it."""
    writes, view = content()
    if kind == 'raw':
        return raw_file(t, 'source.raw', view), view
    family, form = kind.split('-')
    path = t.path('source.' + family)
    if family == 'vhd':
        (vhdfile.write_fixed if form == 'fixed' else vhdfile.write_sparse)(path, SIZE, writes)
        return path, view
    if form != 'differencing':
        return vhdxchains.write_layer(t, 'source.vhdx', SIZE, writes, form).path, view
    parent = vhdxchains.write_layer(t, 'parent.vhdx', SIZE, [(0, b'\1' * (4 * MiB))], block_size=2 * MiB)
    layer = vhdxchains.write_layer(t, 'source.vhdx', SIZE, writes, form, parent)
    return layer.path, layer.view


def judged(t, path, view, kind):
    """@path is such an image, sound, with that content."""
    if kind == 'raw':
        views.same(t, views.RawFile(path), view, 'raw result')
        return None
    if kind.startswith('vhd-'):
        t.sound(path)
        t.same_content(vhdfile.Vhd(path).read_all(), view.read(0, view.size), 'independent reader')
        return None
    image = vhdxread.open_chain(path)
    t.equal(image.kind, kind.split('-')[1], 'kind')
    t.equal([str(f) for f in vhdxcheck.check(path)], [], 'independent check')
    t.img('check', '-q', '-f', 'vhdx', path)
    views.same(t, image, view, 'independent reader')
    return image


def arguments(kind):
    family, _, form = kind.partition('-')
    return ['-O', family] + (['-o', 'subformat=fixed'] if form == 'fixed' else [])


def pair(t, kind, target):
    path, view = source(t, kind)
    unchanged = Unchanged(path)
    t.img('convert', '-q', *arguments(target), path, t.path('out'))
    unchanged.verify(t, 'convert')
    judged(t, t.path('out'), view, target)
    t.img('compare', '-q', path, t.path('out'))


for kind in ('raw', 'vhd-fixed', 'vhd-dynamic', 'vhdx-fixed', 'vhdx-dynamic', 'vhdx-differencing'):
    for target in ('raw', 'vhd-fixed', 'vhd-dynamic', 'vhdx-fixed', 'vhdx-dynamic'):
        if 'vhdx' in kind + target:
            add('%s-to-%s' % (kind, target), pair, kind, target)


def with_options(t, options, expected):
    sector = expected.get('sector', 512)
    view = content(2, 8 * MiB + 4096 * 3, sector)[1]
    raw = raw_file(t, 's.raw', view)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhdx', '-o', options, raw, t.path('o.vhdx'))
    image = judged(t, t.path('o.vhdx'), view, 'vhdx-' + expected.pop('kind', 'dynamic'))
    found = {'block': image.block_size, 'log': image.header.log_length, 'sector': image.sector,
             'physical': image.physical}
    t.equal({name: found[name] for name in expected}, expected, 'what the image is')


for options, expected in (
        ('block_size=1M', {'block': MiB}), ('block_size=256M', {'block': 256 * MiB}), ('log_size=8M', {'log': 8 * MiB}),
        ('subformat=fixed,block_size=4M', {'block': 4 * MiB, 'kind': 'fixed'}),
        ('logical_sector_size=4096', {'sector': 4096}), ('physical_sector_size=512', {'physical': 512}),
        ('subformat=dynamic,block_size=2M,log_size=2M,logical_sector_size=4096,physical_sector_size=4096',
         {'block': 2 * MiB, 'log': 2 * MiB, 'sector': 4096, 'physical': 4096})):
    add('option-' + options.replace('=', '-').replace(',', '-'), with_options, options, expected)


def bad_option(t, options, phrase):
    raw = raw_file(t, 's.raw', content()[1])
    t.refused(t.img('convert', '-q', '-f', 'raw', '-O', 'vhdx', '-o', options, raw, t.path('o.vhdx'), rc=1), phrase)
    t.check(not os.path.exists(t.path('o.vhdx')), 'a file was left behind')


for options, phrase in (('block_size=3M', 'block_size'), ('block_size=512K', 'block_size'), ('log_size=100', 'log_size'),
                        ('logical_sector_size=1024', 'logical_sector_size'), ('subformat=sparse', 'subformat')):
    add('bad-option-' + options.replace('=', '-'), bad_option, options, phrase)


@case
def sectors_of_4096_bytes_round_the_size_up(t):
    """As a raw file of odd length is filled up to a sector."""
    view = content()[1]
    raw = raw_file(t, 's.raw', view)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhdx', '-o', 'logical_sector_size=4096', raw, t.path('o.vhdx'))
    judged(t, t.path('o.vhdx'), view.lay([], -(-SIZE // 4096) * 4096), 'vhdx-dynamic')


@case
def with_a_parent_only_differences(t):
    """-B: a child of the given parent that reads as the source."""
    writes, view = content(3)
    below = view.lay([(MiB, b'\5' * 65536), (5 * MiB, b'\7' * 4096)])
    parent = vhdxchains.write_layer(t, 'parent.vhdx', SIZE, list(below.runs()))
    raw = raw_file(t, 's.raw', view)
    unchanged = Unchanged(parent.path, raw)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhdx', '-o', 'block_size=1M', '-B', parent.path, raw, t.path('c.vhdx'))
    unchanged.verify(t, 'convert -B')
    image = judged_child(t, t.path('c.vhdx'), view)
    t.check(set(image.allocated()) <= {1, 5}, 'blocks that do not differ', image.allocated())


def judged_child(t, path, view):
    image = vhdxread.open_chain(path)
    t.equal(image.kind, 'differencing', 'kind')
    t.equal([str(f) for f in vhdxcheck.check(path)], [], 'independent check')
    views.same(t, image, view, 'independent reader')
    out = t.path('back.raw')
    t.img('convert', '-q', '-O', 'raw', path, out)
    views.same(t, views.RawFile(out), view, 'our reader')
    return image


@case
def layer_upon_its_own_parent(t):
    """-B the source's parent: a copy of the layer, not of the disk."""
    rng = random.Random(6)
    parent = vhdxchains.write_layer(t, 'p.vhdx', 16 * MiB, [(0, rng.randbytes(8 * MiB))])
    child = vhdxchains.write_layer(t, 'c.vhdx', 16 * MiB, [(3 * MiB, rng.randbytes(8192)), (5 * MiB, bytes(4096))],
                                   'differencing', parent)
    t.img('convert', '-q', '-O', 'vhdx', '-o', 'block_size=1M', '-B', parent.path, child.path, t.path('copy.vhdx'))
    image = judged_child(t, t.path('copy.vhdx'), child.view)
    t.equal(list(image.allocated()), [3, 5], 'blocks of the copy')


@case
def a_parent_of_the_other_format(t):
    """A VHDX over a VHD is none, and the other way round: refused before anything is written."""
    view = content()[1]
    raw = raw_file(t, 's.raw', view)
    vhdfile.write_sparse(t.path('p.vhd'), SIZE)
    parent = vhdxchains.write_layer(t, 'p.vhdx', SIZE, [])
    for fmt, path in (('vhdx', t.path('p.vhd')), ('vhd', parent.path)):
        t.refused(t.img('convert', '-q', '-f', 'raw', '-O', fmt, '-B', path, raw, t.path('o'), rc=1))
        t.check(not os.path.exists(t.path('o')), 'a file was left behind')


@case
def larger_than_a_vhd(t):
    """What does not fit is refused clearly, and nothing is left; what fits a VHDX goes into one."""
    path = t.path('big.vhdx')
    t.img('create', '-q', '-f', 'vhdx', path, '3T')
    t.io('-c', 'write -q -P 1 0 4k', '-c', 'write -q -P 2 %d 4k' % (3 * TiB - 4096), path)
    unchanged = Unchanged(path)
    t.refused(t.img('convert', '-q', '-O', 'vhd', path, t.path('o.vhd'), rc=1), '2040', 'o.vhd')
    t.check(not os.path.exists(t.path('o.vhd')), 'a file was left behind')
    view = views.Content(0).lay([(0, b'\1' * 4096), (3 * TiB - 4096, b'\2' * 4096)], 3 * TiB)
    t.img('convert', '-q', '-O', 'vhdx', '-o', 'block_size=1M', path, t.path('o.vhdx'), timeout=30)
    views.same(t, vhdxread.Image(t.path('o.vhdx')), view, 'copy')
    t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'), timeout=30)
    views.same(t, views.RawFile(t.path('o.raw')), view, 'raw result')
    t.check(sum(b - a for a, b in data_extents(t.path('o.raw'))) <= MiB, 'data in the raw result')
    unchanged.verify(t, 'convert')


@case
def sectors_of_4096_bytes_to_vhd(t):
    """A disk with 4096 byte sectors reads the same as a VHD."""
    layer = vhdxchains.write_layer(t, 'x.vhdx', 8 * MiB, [(MiB, b'\3' * 8192)], sector=4096)
    t.img('convert', '-q', '-O', 'vhd', layer.path, t.path('o.vhd'))
    judged(t, t.path('o.vhd'), layer.view, 'vhd-dynamic')


@case
def into_an_existing_image(t):
    path, view = source(t, 'vhdx-differencing')
    t.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', t.path('o.vhdx'), SIZE)
    t.io('-c', 'write -q -P 0xee 0 %d' % SIZE, t.path('o.vhdx'))
    t.img('convert', '-q', '-n', '-O', 'vhdx', path, t.path('o.vhdx'))
    views.same(t, vhdxread.Image(t.path('o.vhdx')), view, 'content')
    t.img('check', '-q', '-f', 'vhdx', t.path('o.vhdx'), rc=(0, 3))


@case
def onto_its_parent(t):
    path, view = source(t, 'vhdx-differencing')
    unchanged = Unchanged(path, t.path('parent.vhdx'))
    for target in (path, t.path('parent.vhdx')):
        t.refused(t.img('convert', '-q', '-O', 'vhdx', path, target, rc=1))
    unchanged.verify(t, 'a refused convert')


main()
