# SPDX-License-Identifier: LGPL-2.1-or-later
"""create and info: what is written is what was asked for, and what is told is what is there."""

import os

from harness import GiB, KiB, MiB, Unchanged, add, case, main, read_file, vhdcheck, vhdfile


def made(t, name, *argv):
    path = t.path(name)
    t.img('create', '-q', *argv[:-1], path, argv[-1])
    return path


def empty_dynamic(t, size, text):
    path = made(t, 'd.vhd', '-f', 'vhd', text)
    t.equal(vhdcheck.check(path), [], 'independent check')
    image = vhdfile.Vhd(path)
    t.equal((image.size, image.kind, image.allocated(), image.header.block_size),
            (size, vhdfile.DYNAMIC, [], 2 * MiB), 'size, type, blocks, block size')
    t.sound(path)
    info = t.img('info', '--output=json', path).json
    t.equal(info['virtual-size'], size, 'virtual-size')
    t.equal(info['format'], 'vhd', 'format')


for size, text in ((512, '512'), (MiB, '1M'), (100 * MiB, '100M'), (1536 * MiB, '1.5G'), (127 * GiB, '127G'),
                   (MiB + 512, str(MiB + 512)), (2040 * GiB, '2040G')):
    add('dynamic-' + text, empty_dynamic, size, text)


def refused_size(t, size, subformat):
    result = t.img('create', '-q', '-f', 'vhd', '-o', 'subformat=' + subformat, t.path('x.vhd'), size, rc=1)
    t.refused(result, ('size', '512', '2040', 'limit', 'unknown option'))
    t.check(not os.path.exists(t.path('x.vhd')), 'a file was left behind')


for size in ('0', str(2040 * GiB + 512), '3T', '-5', 'many', '1Q'):
    for subformat in ('dynamic', 'fixed'):
        add('refused-size-%s-%s' % (size, subformat), refused_size, size, subformat)


@case
def odd_size_is_rounded_up_or_refused(t):
    """A disk has whole sectors: rounded up as qemu-img does, or refused; never rounded down."""
    result = t.img('create', '-q', '-f', 'vhd', t.path('x.vhd'), '1000001', rc=(0, 1))
    if result.rc == 0:
        t.equal(vhdfile.Vhd(t.path('x.vhd')).size, 1000448, 'size')
    else:
        t.refused(result, '512')


def block_size(t, size):
    path = made(t, 'd.vhd', '-f', 'vhd', '-o', 'block_size=%d' % size, '40M')
    t.io('-f', 'vhd', '-c', 'write -q -P 1 0 512', '-c', 'write -q -P 2 39M 1M', path)
    t.sound(path)
    image = vhdfile.Vhd(path)
    t.equal(image.header.block_size, size, 'block size')
    t.same_content(image.read_all(), b'\1' * 512 + bytes(39 * MiB - 512) + b'\2' * MiB, 'content')


for size in (4 * KiB, 64 * KiB, 512 * KiB, 2 * MiB, 16 * MiB):
    add('block-size-%dk' % (size // KiB), block_size, size)


def refused_block_size(t, size):
    result = t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=%s' % size, t.path('x.vhd'), '10M', rc=1)
    t.refused(result, ('block size', 'block_size'))
    t.check(not os.path.exists(t.path('x.vhd')), 'a file was left behind')


for size in ('0', '3M', '1000', '1T'):
    add('refused-block-size-' + size, refused_block_size, size)


@case
def fixed(t):
    path = made(t, 'f.vhd', '-f', 'vhd', '-o', 'subformat=fixed', '10M')
    t.equal(os.path.getsize(path), 10 * MiB + 512, 'file size')
    t.equal(vhdcheck.check(path), [], 'independent check')
    t.equal(t.img('info', '--output=json', path).json['virtual-size'], 10 * MiB, 'virtual-size')
    t.equal(t.img('info', '--output=json', path).json['format'], 'vhd', 'format of a fixed image, probed by its footer')


@case
def vpc_is_another_name(t):
    path = made(t, 'd.vhd', '-f', 'vpc', '1M')
    t.equal(vhdfile.Vhd(path).size, MiB, 'size')
    t.img('info', '-f', 'vpc', path)


@case
def raw(t):
    path = made(t, 'r.raw', '-f', 'raw', '3M')
    t.equal(os.path.getsize(path), 3 * MiB, 'file size')
    t.equal(t.img('info', '--output=json', path).json['format'], 'raw', 'format')


@case
def identities_differ(t):
    ids = {vhdfile.Vhd(made(t, '%d.vhd' % i, '-f', 'vhd', '1M')).unique_id for i in range(8)}
    t.equal(len(ids), 8, 'different identities of 8 images')
    t.check(bytes(16) not in ids, 'an identity of zeros')


@case
def option_help(t):
    text = t.img('create', '-f', 'vhd', '-o', 'help').out
    for option in ('subformat', 'block_size'):
        t.check(option in text, 'create -o help does not name %s' % option, text)


@case
def unknown_option_and_value(t):
    for option in ('nonsense=1', 'subformat=round', 'block_size=large'):
        t.refused(t.img('create', '-q', '-f', 'vhd', '-o', option, t.path('x.vhd'), '1M', rc=1),
                  option.split('=')[0])
        t.check(not os.path.exists(t.path('x.vhd')), 'a file was left behind by ' + option)


# --- children -----------------------------------------------------------------------------------------------

@case
def child_of_a_vhd(t):
    parent = made(t, 'p.vhd', '-f', 'vhd', '5M')
    t.io('-f', 'vhd', '-c', 'write -q -P 7 1M 1M', parent)
    unchanged = Unchanged(parent)
    t.img('create', '-q', '-f', 'vhd', '-b', parent, t.path('c.vhd'))
    t.equal(vhdcheck.check(t.path('c.vhd')), [], 'independent check')
    image = vhdfile.open_chain(t.path('c.vhd'))
    t.equal(image.kind, vhdfile.DIFFERENCING, 'type')
    t.equal(image.size, 5 * MiB, 'size, taken from the parent')
    t.equal(image.header.parent_id, vhdfile.Vhd(parent).unique_id, 'identity of the parent')
    t.same_content(image.read_all(), bytes(MiB) + b'\7' * MiB + bytes(3 * MiB), 'content')
    unchanged.verify(t, 'making a child')
    codes = {code for code, _ in image.locators()}
    t.check({b'W2ru', b'W2ku'} <= codes or {b'W2ru', b'MacX'} <= codes, 'locators', codes)
    name = image.header.parent_name.decode('utf-16-be').split('\0')[0]
    t.check(name.endswith('p.vhd'), 'stored name %r' % name)


@case
def links_hold_when_the_directory_moves(t):
    os.makedirs(t.path('a/base'))
    parent = made(t, 'a/base/p.vhd', '-f', 'vhd', '1M')
    t.io('-f', 'vhd', '-c', 'write -q -P 7 0 1M', parent)
    t.img('create', '-q', '-f', 'vhd', '-b', 'base/p.vhd', 'a/c.vhd')
    t.same_content(t.content(t.path('a/c.vhd')), b'\7' * MiB, 'content')
    os.rename(t.path('a'), t.path('moved'))
    t.same_content(t.content(t.path('moved/c.vhd')), b'\7' * MiB, 'content after moving both')
    t.same_content(vhdfile.open_chain(t.path('moved/c.vhd')).read_all(), b'\7' * MiB, 'independent reader')


@case
def child_of_a_name_with_odd_characters(t):
    for i, name in enumerate(('with space.vhd', 'größe-日本.vhd', '100%.vhd', "quote'\".vhd", '\U0001f4bf.vhd')):
        parent = made(t, name, '-f', 'vhd', '1M')
        t.io('-f', 'vhd', '-c', 'write -q -P %d 0 1M' % (i + 1), parent)
        t.img('create', '-q', '-f', 'vhd', '-b', parent, t.path('c%d.vhd' % i))
        t.same_content(t.content(t.path('c%d.vhd' % i)), bytes([i + 1]) * MiB, 'child of ' + name)


@case
def child_in_another_directory(t):
    os.makedirs(t.path('x/y'))
    os.makedirs(t.path('z'))
    parent = made(t, 'x/y/p.vhd', '-f', 'vhd', '1M')
    t.io('-f', 'vhd', '-c', 'write -q -P 3 0 1M', parent)
    t.img('create', '-q', '-f', 'vhd', '-b', parent, t.path('z/c.vhd'))
    t.same_content(t.content(t.path('z/c.vhd')), b'\3' * MiB, 'content')
    t.same_content(vhdfile.open_chain(t.path('z/c.vhd')).read_all(), b'\3' * MiB, 'independent reader')


@case
def child_over_a_raw_file(t):
    with open(t.path('p.raw'), 'wb') as f:
        f.write(b'\5' * (2 * MiB))
    t.img('create', '-q', '-f', 'vhd', '-b', t.path('p.raw'), '-F', 'raw', t.path('c.vhd'))
    image = vhdfile.open_chain(t.path('c.vhd'), raw_parent=True)
    t.equal(image.header.parent_id, bytes(16), 'identity of a raw parent')
    t.same_content(image.read_all(), b'\5' * (2 * MiB), 'independent reader')
    t.refused(t.img('convert', '-q', '-O', 'raw', t.path('c.vhd'), t.path('o.raw'), rc=1), 'raw')
    t.same_content(t.content(t.path('c.vhd'), '--raw-parent'), b'\5' * (2 * MiB), 'our reader')


@case
def larger_child(t):
    parent = made(t, 'p.vhd', '-f', 'vhd', '1M')
    t.io('-f', 'vhd', '-c', 'write -q -P 7 0 1M', parent)
    t.img('create', '-q', '-f', 'vhd', '-b', parent, t.path('c.vhd'), '3M')
    t.same_content(t.content(t.path('c.vhd')), b'\7' * MiB + bytes(2 * MiB), 'content')


@case
def child_without_parent(t):
    t.refused(t.img('create', '-q', '-f', 'vhd', '-b', t.path('none.vhd'), t.path('c.vhd'), rc=1), 'none.vhd')
    t.check(not os.path.exists(t.path('c.vhd')), 'a file was left behind')


@case
def child_of_itself(t):
    parent = made(t, 'p.vhd', '-f', 'vhd', '1M')
    unchanged = Unchanged(parent)
    t.refused(t.img('create', '-q', '-f', 'vhd', '-b', parent, parent, rc=1))
    unchanged.verify(t, 'a refused create')


# --- info ---------------------------------------------------------------------------------------------------

@case
def info_of_a_chain(t):
    parent = made(t, 'p.vhd', '-f', 'vhd', '2M')
    t.img('create', '-q', '-f', 'vhd', '-b', parent, t.path('c.vhd'))
    t.img('create', '-q', '-f', 'vhd', '-b', t.path('c.vhd'), t.path('g.vhd'))
    unchanged = Unchanged(parent, t.path('c.vhd'), t.path('g.vhd'))
    one = t.img('info', '--output=json', t.path('g.vhd')).json
    t.check(isinstance(one, dict), 'one image is an object')
    t.check('c.vhd' in one.get('backing-filename', ''), 'backing-filename', one)
    layers = t.img('info', '--backing-chain', '--output=json', t.path('g.vhd')).json
    t.equal([os.path.basename(x['filename']) for x in layers], ['g.vhd', 'c.vhd', 'p.vhd'], 'layers')
    t.equal(os.path.realpath(layers[0]['full-backing-filename']), os.path.realpath(t.path('c.vhd')),
            'full-backing-filename')
    t.check('backing-filename' not in layers[2], 'the base has a parent', layers[2])
    for layer in layers:
        for key in ('virtual-size', 'actual-size', 'format', 'dirty-flag'):
            t.check(key in layer, 'no %s' % key, layer)
    text = t.img('info', '--backing-chain', t.path('g.vhd')).out
    for name in ('g.vhd', 'c.vhd', 'p.vhd', 'virtual size: 2 MiB'):
        t.check(name in text, 'text does not say %s' % name, text)
    unchanged.verify(t)


@case
def info_of_a_broken_chain(t):
    """What is there is shown, with where its parent was looked for; the status says that it is not all."""
    for fmt in ('vhd', 'vhdx'):
        base = made(t, 'base.' + fmt, '-f', fmt, '8M')
        child = t.path('child.' + fmt)
        t.img('create', '-q', '-f', fmt, '-b', base, child)
        os.unlink(base)
        result = t.img('info', '--backing-chain', child, rc=1)
        t.check('file format: ' + fmt in result.out and 'base.' + fmt in result.out, 'the child is not shown', result)
        t.refused(result, 'not found')


@case
def drive_maps_must_be_maps(t):
    path = made(t, 'd.vhd', '-f', 'vhd', '1M')
    for text in ('foo', 'C:/dir', '=dir', 'C:='):
        t.refused(t.img('info', '--map-drive', text, path, rc=1), '--map-drive')
    t.img('info', '--map-drive', 'C:=' + t.dir, path)


@case
def info_tells_what_is_odd(t):
    made_ = vhdfile.write_sparse(t.path('x.vhd'), MiB, creator=b'vpc ')
    vhdfile.write_at(made_.path, 0, bytes(512))
    result = t.img('info', made_.path)
    t.check('copy' in (result.out + result.err).lower(), 'nothing said of the damaged footer copy', result)


def cut_short(t, fmt):
    """Nobody looks at all blocks of an image to open it; info does, and a conversion that fails leaves no doubt."""
    path = made(t, 'd.' + fmt, '-f', fmt, '-o', 'block_size=1M', '40M')
    t.io('-f', fmt, '-c', 'write -q -P 1 0 1M', '-c', 'write -q -P 2 7M 1M', '-c', 'write -q -P 3 9M 1M', path)
    t.equal(t.img('info', path).err, '', 'messages of a sound image')
    data, end = read_file(path), os.path.getsize(path)
    footer = data[-512:] if fmt == 'vhd' else b''
    child = made(t, 'c.' + fmt, '-f', fmt, '-b', path, '40M')
    for cut, blocks in ((4096, 1), (MiB + 65536, 2)):
        with open(path, 'r+b') as f:
            f.truncate(end - len(footer) - cut)
            f.seek(0, 2)
            f.write(footer)
        # The first of them, which is where reading would stop.
        unchanged = Unchanged(path, child)
        block = (9, 7)[blocks - 1]
        result = t.img('info', path)
        t.check('block %d, of guest offset %d, cannot be read' % (block, block * MiB) in result.err, 'warning', result)
        t.check(str(os.path.getsize(path) - len(footer)) in result.err, 'where the file ends', result)
        t.equal('%d of its blocks cannot be read' % blocks in result.err, blocks > 1, 'number (%s)' % result)
        t.check('cannot be read' in t.img('info', '--backing-chain', child).err, 'warning of a parent', result)
        t.equal(t.img('info', child).err, '', 'messages of the child alone')
        t.equal(t.img('map', '-l', '1M', path).err, '', 'messages of what does not get there')
        result = t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'), rc=1)
        t.check('o.raw: incomplete' in result.err, 'the target is taken for whole', result)
        t.img('create', '-q', '-f', 'raw', t.path('n.raw'), '40M')
        result = t.img('convert', '-q', '-n', '-O', 'raw', path, t.path('n.raw'), rc=1)
        t.check('n.raw: incomplete' in result.err, 'the target is taken for whole', result)
        unchanged.verify(t)


for fmt in ('vhd', 'vhdx'):
    add('cut-short-' + fmt, cut_short, fmt)


@case
def info_human_like_qemu(t):
    path = made(t, 'd.vhd', '-f', 'vhd', '100M')
    text = t.img('info', path).out
    for line in ('image: ' + path, 'file format: vhd', 'virtual size: 100 MiB (104857600 bytes)', 'disk size: '):
        t.check(line in text, 'no line "%s"' % line, text)


@case
def names_with_colons_are_files(t):
    for name in ('a:b.vhd', 'nbd:localhost', 'json:{}'):
        t.img('create', '-q', '-f', 'vhd', './' + name, '1M')
        t.equal(t.img('info', '--output=json', './' + name).json['virtual-size'], MiB, name)


@case
def creation_over_an_existing_file(t):
    path = t.path('d.vhd')
    with open(path, 'wb') as f:
        f.write(b'\xee' * (5 * MiB))
    t.img('create', '-q', '-f', 'vhd', path, '4M')
    t.equal(vhdcheck.check(path), [], 'independent check')
    t.same_content(t.content(path), bytes(4 * MiB), 'content')
    t.check(bytes([0xee]) * 16 not in read_file(path), 'old bytes are still in the file')


main()
