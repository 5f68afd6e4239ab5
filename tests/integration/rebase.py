# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another parent for an image, or none; of VHD, or of VHDX with "vhdx" as first argument.

VHDKIT_CHAINS: how many random ones (50; of VHDX 25).  VHDKIT_SEED: of the first one; each has its own seed, named in its
case, so VHDKIT_SEED=n VHDKIT_CHAINS=1 repeats one.
"""

import os
import random
import shutil
import sys

import chains
import vhdxchains
import vhdxread
import views
from harness import Failed, KiB, MiB, QEMU_IMG, Unchanged, add, bytes_of, can_direct, case, have, locked, main, tool, vhdfile

maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]

FORMAT = maker.FORMAT
VHDX = maker is vhdxchains
QEMU_FORMAT = 'vhdx' if VHDX else 'vpc'
COUNT = int(os.environ.get('VHDKIT_CHAINS', '25' if VHDX else '50'))
SEED = int(os.environ.get('VHDKIT_SEED', '3000'))


# --- what independent readers see -------------------------------------------------------------------------------


def open_linked(path):
    """An image with the parents that it names itself."""
    return vhdxread.open_chain(path) if VHDX else vhdfile.open_chain(path, raw_parent=True)


def shows(t, path, view, what):
    image = open_linked(path)
    if VHDX:
        try:
            views.same(t, image, view, what)
        finally:
            image.close()
    else:
        t.same_content(image.read_all(), view, what)


def parent_of(path):
    """The file that an image's own words lead to, or None."""
    image = open_linked(path)
    parent = image.parent
    return os.path.realpath(parent.path) if parent is not None else None


def identity_of(path):
    return vhdxread.Image(path).data_write_guid if VHDX else vhdfile.Vhd(path).unique_id


def identity_text(path):
    if VHDX:
        return str(identity_of(path)).lower()
    text = identity_of(path).hex()
    return '-'.join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


# --- random chains ----------------------------------------------------------------------------------------------


def another_base(t, rng, layers, size):
    """An image that has nothing to do with @layers but the sizes of its sectors."""
    tool_made = rng.random() < 0.5
    if not VHDX:
        return chains.make_base(t, rng, rng.choice(('raw', 'fixed', 'dynamic', 'dynamic')), size, tool_made, 'other')
    kind = 'fixed' if size <= 16 * MiB and rng.random() < 0.3 else 'dynamic'
    return vhdxchains.make_layer(t, rng, plan_like(rng, layers, size), 'other', kind, tool_made=tool_made)


def plan_like(rng, layers, size):
    plan = vhdxchains.Plan(rng, 'dynamic')
    plan.sector = vhdxread.Image(layers[0].path).sector
    plan.size = size
    plan.places = [0, size] + [rng.randrange(size) for _ in range(3)]
    return plan


def another_child(t, rng, layers, parent, size, name, raw_below):
    tool_made = rng.random() < 0.5
    if not VHDX:
        return chains.make_child(t, rng, parent, size, tool_made, name, raw_below)
    return vhdxchains.make_layer(t, rng, plan_like(rng, layers, size), name, 'differencing', parent, size, tool_made)


def another_size(rng, layers, size):
    sector = vhdxread.Image(layers[0].path).sector if VHDX else 512
    chance = rng.random()
    if chance < 0.3:
        return size + rng.randrange(1, 2 * MiB // sector) * sector
    if chance < 0.6 and size > 2 * sector:
        return rng.randrange(1, size // sector) * sector
    return size


def copy_of(t, rng, layers, layer):
    """The same content in a whole image of another identity, and perhaps another block size."""
    path = t.path('copy.' + FORMAT)
    options = 'block_size=%d' % rng.choice(maker.BLOCK_SIZES)
    if VHDX:
        options += ',logical_sector_size=%d' % vhdxread.Image(layers[0].path).sector
    t.img('convert', '-q', *maker.parent_options(layers), '-O', FORMAT, '-o', options, layer.path, path)
    return maker.Layer(path, 'dynamic', layer.view, identity_of(path), ours=True)


def new_parent(t, rng, layers, at):
    """(kind, chain from the base up) for layers[at]."""
    raw_below = layers[0].kind == 'raw'
    kind = rng.choice(('ancestor', 'ancestor', 'sibling', 'sibling', 'stranger', 'copy'))
    if kind == 'ancestor':
        return kind, layers[:rng.randrange(0, at) + 1]
    if kind == 'copy':
        return kind, [copy_of(t, rng, layers, layers[at - 1])]
    if kind == 'sibling':
        chain = layers[:rng.randrange(0, at) + 1]
    else:
        chain = [another_base(t, rng, layers, another_size(rng, layers, layers[at].size))]
        raw_below = chain[0].kind == 'raw'
    for i in range(rng.randrange(kind == 'sibling', 3)):
        size = another_size(rng, layers, chain[-1].size)
        chain = chain + [another_child(t, rng, layers, chain[-1], size, 'new%d' % i, raw_below)]
    return kind, chain


def arguments(t, rng, raw):
    argv = ['rebase', '-q']
    if raw:
        argv.append('--raw-parent')
    if rng.random() < 0.5:
        argv += ['-f', rng.choice(maker.FORMAT_NAMES)]
    if rng.random() < 0.3:
        argv += ['-m', rng.choice((1, 2, 16))]
    cache = rng.choice(('writeback', 'writeback', 'none', 'writethrough', 'directsync', 'unsafe'))
    if cache not in ('none', 'directsync') or can_direct(t.dir):
        argv += ['-t', cache]
    if rng.random() < 0.2 and can_direct(t.dir):
        argv += ['-T', 'none']
    return argv


def judge(t, layers, at, files, argv, parent):
    """Runs the command: nothing but layers[at] changes, and nothing of what anyone sees."""
    for i, layer in enumerate(layers):
        if i:
            shows(t, layer.path, layer.view, 'layer %d before' % i)
    path = layers[at].path
    identity = identity_of(path)
    others = [x for x in files if x != path]
    before = Unchanged(*others)
    for when in ('', ' after a second run'):
        t.img(*argv)
        before.verify(t, 'the rebase' + when)
        t.equal(identity_of(path), identity, 'identity of the image' + when)
        t.equal(parent_of(path), parent and os.path.realpath(parent), 'parent' + when)
        for i in range(at, len(layers)):
            shows(t, layers[i].path, layers[i].view, 'layer %d%s' % (i, when))
        maker.sound(t, layers[at], leaks=True)
        maker.tool_reads_as(t, layers[at], layers[at].view, 'our reader' + when, ['--raw-parent'])
    for layer in layers[at + 1:]:
        maker.tool_reads_as(t, layer, layer.view, 'a child, our reader', ['--raw-parent'])


def one_chain(t, seed, flatten):
    rng = random.Random(seed)
    layers = maker.make_chain(t, rng, rng.randrange(1, 6))
    at = len(layers) - 1 if rng.random() < 0.6 else rng.randrange(1, len(layers))
    kind, chain = ('none', []) if flatten else new_parent(t, rng, layers, at)
    raw = layers[0].kind == 'raw' or any(x.kind == 'raw' for x in chain)
    argv = arguments(t, rng, raw)
    if flatten:
        argv += ['-b', '']
    else:
        # A path from the folder of FILE.
        argv += ['-b', chain[-1].path if rng.random() < 0.5 else os.path.basename(chain[-1].path)]
        if chain[-1].kind == 'raw' or rng.random() < 0.3:
            argv += ['-F', maker.format_of(chain[-1])]
    argv.append(layers[at].path)
    files = {x.path for x in layers + chain}
    try:
        judge(t, layers, at, files, argv, chain[-1].path if chain else None)
    except Failed as e:
        raise Failed('seed %d: layer %d, %s: %s\n%s\n%s\n%s' %
                     (seed, at, kind, ' '.join(map(str, argv)), maker.describe(layers), maker.describe(chain),
                      e)) from e


for i in range(COUNT):
    add('safe-seed-%d' % (SEED + i), one_chain, SEED + i, False)
for i in range(COUNT // 2):
    add('flatten-seed-%d' % (SEED + 5000 + i), one_chain, SEED + 5000 + i, True)


# --- chains of given content --------------------------------------------------------------------------------------


def create(t, name, writes, size=16 * MiB, parent=None, options=None):
    """An image by our tool; @writes: vhd-io commands."""
    path = t.path(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    argv = ['create', '-q', '-f', FORMAT] + (['-o', options] if options else []) + (['-b', parent] if parent else [])
    t.img(*argv, path, *([] if parent else [size]))
    for write in writes:
        t.io('-f', FORMAT, '-c', write, path)
    return path


def chain_of(t, folder='a/'):
    base = create(t, folder + 'base.' + FORMAT, ['write -q -P 1 0 6M'])
    middle = create(t, folder + 'middle.' + FORMAT, ['write -q -P 2 1M 4M', 'write -q -z 3M 64k'], parent=base)
    leaf = create(t, folder + 'leaf.' + FORMAT, ['write -q -P 3 2M 300k'], parent=middle)
    return base, middle, leaf


def content(t, path, *options):
    return t.content(path, *options, fmt=FORMAT)


@case
def moved_chain(t):
    """Copied to other folders, with the old place gone: the link alone is put right."""
    base, middle, leaf = chain_of(t)
    view = content(t, leaf)
    os.mkdir(t.path('b'))
    os.mkdir(t.path('c'))
    moved = [shutil.copy(base, t.path('b', 'B.' + FORMAT)), shutil.copy(middle, t.path('b', 'M.' + FORMAT)),
             shutil.copy(leaf, t.path('c', 'L.' + FORMAT))]
    shutil.rmtree(t.path('a'))
    t.img('convert', '-q', '-O', 'raw', moved[2], t.path('x.raw'), rc=1)
    others = Unchanged(*moved[:2])
    length = os.path.getsize(moved[2])
    # Its own new parent does not open either, for the same reason.
    result = t.img('rebase', '-u', '-b', '../b/M.' + FORMAT, moved[2])
    t.check('warning' in result.err, 'no warning of the parents that are missing', result)
    t.check('has the parent' in result.out and 'M.' + FORMAT in result.out, 'what is the parent now', result)
    result = t.img('rebase', '-q', '-u', '-F', FORMAT, '-b', 'B.' + FORMAT, moved[1], cwd='/')
    t.equal(result.out + result.err, '', 'output of -q')
    others = Unchanged(moved[0])
    t.equal(parent_of(moved[2]), os.path.realpath(moved[1]), 'parent')
    t.equal(parent_of(moved[1]), os.path.realpath(moved[0]), 'parent of the parent')
    t.same_content(content(t, moved[2]), view, 'content')
    t.check(abs(os.path.getsize(moved[2]) - length) <= 2 * MiB, 'data was stored')
    others.verify(t, 'a changed link')
    for path in moved:
        t.img('check', '-q', path)


@case
def other_identity(t):
    """With -u the new parent must be the one that was recorded, or the user says that it need not."""
    base, middle, leaf = chain_of(t)
    stranger = create(t, 'a/stranger.' + FORMAT, ['write -q -P 9 0 16M'])
    before = Unchanged(base, middle, leaf, stranger)
    for extra in ((), ('--ignore-id-mismatch',)):
        result = t.img('rebase', '-u', *extra, '-b', 'stranger.' + FORMAT, leaf, rc=0 if extra else 1)
        if not extra:
            t.refused(result, identity_text(stranger), 'recorded is ' + identity_text(middle), '--ignore-id-mismatch',
                      'leaf.' + FORMAT)
            before.verify(t, 'a refused rebase')
    t.equal(parent_of(leaf), os.path.realpath(stranger), 'parent')
    expected = bytearray(b'\t' * (16 * MiB))
    expected[2 * MiB:2 * MiB + 300 * KiB] = b'\3' * (300 * KiB)
    t.same_content(content(t, leaf), bytes(expected), 'content')
    # And back, although what the link has now is the stranger's.
    t.img('rebase', '-q', '-u', '--ignore-id-mismatch', '-b', 'middle.' + FORMAT, leaf)
    t.equal(parent_of(leaf), os.path.realpath(middle), 'parent')


@case
def missing_parent(t):
    """Without -u the present parent is needed."""
    base, middle, leaf = chain_of(t)
    os.rename(middle, middle + '.away')
    before = Unchanged(base, leaf)
    t.refused(t.img('rebase', '-b', 'base.' + FORMAT, leaf, rc=1), 'leaf.' + FORMAT, 'parent')
    t.refused(t.img('rebase', '-b', '', leaf, rc=1), 'leaf.' + FORMAT, 'parent')
    before.verify(t, 'a refused rebase')
    view = bytearray(b'\1' * (6 * MiB) + bytes(10 * MiB))
    view[MiB:5 * MiB] = b'\2' * (4 * MiB)
    view[3 * MiB:3 * MiB + 64 * KiB] = bytes(64 * KiB)
    view[2 * MiB:2 * MiB + 300 * KiB] = b'\3' * (300 * KiB)
    t.img('rebase', '-q', '--parent', middle + '.away', '-b', 'base.' + FORMAT, leaf)
    t.same_content(content(t, leaf), bytes(view), 'content')


@case
def longer_parent_does_not_show_through(t):
    """Past the end of the old parent there were zeros; the new one has data there, and the image has it neither."""
    old = create(t, 'old.' + FORMAT, ['write -q -P 1 0 4M'], size=4 * MiB)
    new = create(t, 'new.' + FORMAT, ['write -q -P 1 0 4M', 'write -q -P 7 4M 20M'], size=24 * MiB)
    leaf = t.path('leaf.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', old, leaf, 12 * MiB)
    t.io('-c', 'write -q -P 5 6M 4k', leaf)
    view = content(t, leaf)
    before = os.stat(leaf).st_blocks * 512
    t.img('rebase', '-q', '-b', new, leaf)
    t.same_content(content(t, leaf), view, 'content')
    shows(t, leaf, views.Content(12 * MiB, [(0, b'\1' * (4 * MiB)), (6 * MiB, b'\5' * 4096)]) if VHDX else view,
          'independent reader')
    grown = os.stat(leaf).st_blocks * 512 - before
    # Only VHDX has blocks of zeros.
    if VHDX:
        t.check(grown <= 3 * MiB, 'zeros were stored: %d bytes' % grown)


@case
def only_differences_are_stored(t):
    """A copy of the old parent, another file to every reader: nothing is stored above it."""
    base, middle, leaf = chain_of(t)
    copy = t.path('a', 'copy.' + FORMAT)
    t.img('convert', '-q', '-O', FORMAT, middle, copy)
    view, length = content(t, leaf), os.path.getsize(leaf)
    t.img('rebase', '-q', '-b', copy, leaf)
    t.same_content(content(t, leaf), view, 'content')
    t.equal(parent_of(leaf), os.path.realpath(copy), 'parent')
    t.check(abs(os.path.getsize(leaf) - length) <= 1 * MiB, 'data was stored')
    # One difference: one block.
    t.img('convert', '-q', '-O', FORMAT, leaf, t.path('whole.' + FORMAT))
    t.io('-c', 'write -q -P 8 7M 4k', t.path('whole.' + FORMAT))
    length = os.stat(leaf).st_blocks * 512
    t.img('rebase', '-q', '-b', t.path('whole.' + FORMAT), leaf)
    t.same_content(content(t, leaf), view, 'content')
    t.check(os.stat(leaf).st_blocks * 512 - length <= MiB, 'more than the difference was stored')


@case
def flattened_for_qemu(t):
    """A whole image of the plainest kind, for whoever does not know differencing ones."""
    if not have(QEMU_IMG):
        t.skip('no qemu-img here')
    base, middle, leaf = chain_of(t)
    t.img('convert', '-q', '-O', 'raw', leaf, t.path('leaf.raw'))
    before = Unchanged(base, middle)
    result = t.img('rebase', '-p', '-b', '', leaf)
    t.check('no parent' in result.out and '(100.00/100%)' in result.out, 'output', result)
    before.verify(t, 'flattening')
    t.run(QEMU_IMG, 'compare', '-f', QEMU_FORMAT, '-F', 'raw', leaf, t.path('leaf.raw'))
    t.equal(parent_of(leaf), None, 'parent')
    os.unlink(base)
    t.img('compare', '-q', '-F', 'raw', leaf, t.path('leaf.raw'))
    t.img('rebase', '-q', '-b', '', leaf)


@case
def first_parent(t):
    """A whole image becomes a differencing one, and reads the same: a VHD only."""
    base = create(t, 'base.' + FORMAT, ['write -q -P 1 0 6M', 'write -q -P 2 12M 20k'])
    whole = create(t, 'whole.' + FORMAT, ['write -q -P 1 1M 64k', 'write -q -P 3 5M 3M', 'write -q -P 4 12M 4k'])
    view = content(t, whole)
    before = Unchanged(base)
    if VHDX:
        t.refused(t.img('rebase', '-b', base, whole, rc=1), 'whole.vhdx', 'parent')
        return
    t.img('rebase', '-q', '-b', base, whole)
    before.verify(t, 'the rebase')
    t.equal(parent_of(whole), os.path.realpath(base), 'parent')
    shows(t, whole, view, 'independent reader')
    t.same_content(content(t, whole), view, 'content')
    t.sound(whole)


@case
def children_stay(t):
    """Who has the image as a parent goes on reading the same."""
    base, middle, leaf = chain_of(t)
    view = content(t, leaf)
    for parent in (base, ''):
        t.img('rebase', '-q', '-b', parent, middle)
        t.same_content(content(t, leaf), view, 'the child')
        t.equal(parent_of(leaf), os.path.realpath(middle), 'parent of the child')


@case
def space_that_there_is_not(t):
    """Asked for before the first write."""
    if os.geteuid() != 0 or t.run('mount', '-t', 'tmpfs', '-o', 'size=32m', 'none', t.dir, rc=None, cwd='/').rc != 0:
        t.skip('only root mounts')
    try:
        base = create(t, 'base.' + FORMAT, ['write -q -P 1 0 5M'])
        leaf = create(t, 'leaf.' + FORMAT, [], parent=base)
        with open(t.path('ballast'), 'wb') as f:
            space = os.statvfs(t.dir)
            f.write(bytes(space.f_bfree * space.f_frsize - 4 * MiB))
        before = Unchanged(base, leaf)
        t.refused(t.img('rebase', '-b', '', leaf, rc=1, cwd='/'), 'leaf.' + FORMAT, 'may need', 'free')
        before.verify(t, 'a refused rebase')
        os.unlink(t.path('ballast'))
        t.img('rebase', '-q', '-b', '', leaf, cwd='/')
    finally:
        t.run('umount', t.dir, cwd='/')


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(t, make, *phrases):
    """@make (base, middle, leaf): the arguments, and files besides those."""
    base, middle, leaf = chain_of(t)
    argv, others = make(t, base, middle, leaf)
    before = Unchanged(base, middle, leaf, *others)
    t.refused(t.img('rebase', *argv, rc=1), *phrases)
    before.verify(t, 'a refused rebase')


def plain(*argv):
    return lambda t, base, middle, leaf: ([{'BASE': base, 'MIDDLE': middle, 'LEAF': leaf}.get(a, a) for a in argv], [])


def with_image(options, *argv):
    """The same with an image of its own: NEW."""
    def make(t, base, middle, leaf):
        new = t.path('a', 'new')
        fmt, *rest = options
        t.img('create', '-q', '-f', fmt, *rest, new, 16 * MiB)
        return [{'BASE': base, 'LEAF': leaf, 'NEW': new}.get(a, a) for a in argv], [new]
    return make


def broken_loop(t, base, middle, leaf):
    """The chain of the new parent does not open, and has the image in it."""
    os.unlink(base)
    shutil.copy(leaf, base)  # another image where the base was
    return ['-u', '--ignore-id-mismatch', '-b', leaf, middle], []


OTHER = 'vhd' if VHDX else 'vhdx'
for name, make, phrases in (
        ('no-new-parent', plain('LEAF'), ('-b',)),
        ('no-file', plain('-b', 'BASE', 'none'), ('none', 'No such file')),
        ('no-such-parent', plain('-b', 'none', 'LEAF'), ('none', 'No such file')),
        ('unsafe-without', plain('-u', '-b', '', 'LEAF'), ('-u',)),
        ('format-without', plain('-F', FORMAT, '-b', '', 'LEAF'), ('-F',)),
        ('ignore-without-unsafe', plain('--ignore-id-mismatch', '-b', 'BASE', 'LEAF'), ('-u',)),
        ('itself', plain('-b', 'LEAF', 'LEAF'), ('own parent',)),
        ('itself-unsafe', plain('-u', '-b', 'LEAF', 'LEAF'), ('own parent',)),
        ('loop', plain('-b', 'LEAF', 'MIDDLE'), ('ancestor',)),
        ('loop-unsafe', plain('-u', '--ignore-id-mismatch', '-b', 'LEAF', 'MIDDLE'), ('ancestor',)),
        ('broken-loop', broken_loop, ('ancestor',)),
        ('raw', with_image(('raw',), '-b', 'BASE', 'NEW'), ('raw', 'parent')),
        ('raw-flatten', with_image(('raw',), '-b', '', 'NEW'), ('raw', 'parent')),
        ('fixed', with_image((FORMAT, '-o', 'subformat=fixed'), '-b', 'BASE', 'NEW'), ('fixed',)),
        ('fixed-flatten', with_image((FORMAT, '-o', 'subformat=fixed'), '-b', '', 'NEW'), ('fixed',)),
        ('other-format', with_image((OTHER,), '-b', 'NEW', 'LEAF'), (OTHER, 'must be')),
        ('wrong-format', plain('-F', OTHER, '-b', 'BASE', 'LEAF'), ('base.' + FORMAT,)),
        ('compression', plain('-c', '-b', 'BASE', 'LEAF'), ('compression',))):
    add('refused-' + name, refusal, make, *phrases)
if VHDX:
    add('refused-raw-parent', refusal, with_image(('raw',), '-F', 'raw', '-b', 'NEW', 'LEAF'), 'raw', 'must be')
    add('refused-sectors', refusal, with_image(('vhdx', '-o', 'logical_sector_size=4096'), '-b', 'NEW', 'LEAF'), '4096')
    add('refused-without-parent', refusal, with_image(('vhdx',), '-b', 'BASE', 'NEW'), 'parent')


@case
def in_use(t):
    base, middle, leaf = chain_of(t)
    read_end, write_end = os.pipe()
    process = t.start(tool('vhd-io'), '-f', FORMAT, leaf, stdin=read_end)
    os.close(read_end)
    t.wait_until(lambda: locked(leaf), 'the lock of vhd-io')
    before = bytes_of(leaf)
    t.refused(t.img('rebase', '-b', base, leaf, rc=1), 'leaf.' + FORMAT, ('in use', 'another process'))
    t.refused(t.img('rebase', '-u', '-b', middle, leaf, rc=1), 'leaf.' + FORMAT, ('in use', 'another process'))
    t.equal(bytes_of(leaf), before, 'bytes of the image')
    os.close(write_end)
    t.finish(process)


@case
def read_only(t):
    base, middle, leaf = chain_of(t)
    if os.geteuid() == 0:
        if t.run('chattr', '+i', leaf, rc=None).rc != 0:
            t.skip('root may write everything, and chattr does not work on this file system')
    else:
        os.chmod(leaf, 0o444)
    try:
        t.refused(t.img('rebase', '-b', base, leaf, rc=1), 'leaf.' + FORMAT, ('not permitted', 'denied', 'read-only'))
    finally:
        if os.geteuid() == 0:
            t.run('chattr', '-i', leaf)


main()
