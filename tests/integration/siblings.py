# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other images above what a commit, or what writes over an image, changes; of VHD, or of VHDX with "vhdx" as first argument."""

import os
import shutil
import signal
import socket
import sys
import time

from harness import Failed, MiB, Unchanged, case, locked, main, tool

FORMAT = 'vhd'
if sys.argv[1:2] == ['vhdx']:
    FORMAT = sys.argv.pop(1)
SIZE = 4 * MiB


def image(t, name, parent=None, value=1, at=0):
    """An image with a block of @value at @at MiB."""
    path = t.path('%s.%s' % (name, FORMAT))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    t.img('create', '-q', '-f', FORMAT, *(['-b', parent, path] if parent else [path, SIZE]))
    t.io('-f', FORMAT, '-c', 'write -q -P %d %dM 64k' % (value, at), path)
    return path


def everything(t):
    """All regular files of the case, to be looked at again."""
    return Unchanged(*(os.path.join(folder, name) for folder, _, names in os.walk(t.dir) for name in names
                       if os.path.isfile(os.path.join(folder, name))))


def refused(t, source, siblings, *options, phrases=(), way_on='--break-siblings'):
    """The commit names all the siblings and what lets it go on, and changes nothing."""
    unchanged = everything(t)
    result = t.img('commit', *options, source, rc=1)
    t.refused(result, way_on, *phrases, *siblings[:5])
    unchanged.verify(t, 'a refused commit')
    other = {'--break-siblings', '--ignore-unknown'} - {way_on}
    t.check(not any(option in result.err for option in other), 'an option that is of no use is named', result)
    return result


def unknown(t, source, siblings, *options, phrases=()):
    """The same, of what only may be a sibling; and it is no way past those that are."""
    refused(t, source, siblings, *options, phrases=('not known', *phrases), way_on='--ignore-unknown')


def allowed(t, source, *options):
    """The commit goes through, and nobody else is named."""
    result = t.img('commit', *options, source)
    t.equal(result.err, '', 'messages')
    t.check('shows wrong data' not in result.out and 'no longer be opened' not in result.out, 'siblings', result)
    return result


# --- who is one ---------------------------------------------------------------------------------------------

@case
def beside_any_file_of_the_chain(t):
    base = image(t, 'base/p')
    leaf = image(t, 'leaf/c', base, 2, 1)
    siblings = [image(t, 'base/x', base, 3, 1), image(t, 'leaf/y', base, 4, 2)]
    before = [t.content(path) for path in siblings]
    view = t.content(leaf)
    what = 'nothing to tell' if FORMAT == 'vhd' else 'could not be opened'
    refused(t, leaf, siblings, phrases=('2 other images', what))
    t.equal([t.content(path) for path in siblings], before, 'what the siblings show')

    result = t.img('commit', '--break-siblings', leaf)
    for path in siblings:
        t.check(path in result.out, 'the outcome does not name %s' % path, result)
    t.same_content(t.content(base), view, 'target')
    t.same_content(t.content(leaf), view, 'source')
    if FORMAT == 'vhd':
        t.check('wrong data' in result.out, 'outcome', result)
        t.check(t.content(siblings[1]) != before[1], 'the sibling was not broken: the test shows nothing')
        refused(t, leaf, siblings)
    else:
        t.check('no longer be opened' in result.out, 'outcome', result)
        for path in siblings:
            t.refused(t.img('convert', '-O', 'raw', path, t.path('o.raw'), rc=1), 'identity')
        allowed(t, leaf)


@case
def below_those_directories_is_not_looked(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    image(t, 'below/x', base)
    allowed(t, leaf)


@case
def of_the_layers_between(t):
    """Their own content stays, so nothing ever tells, not even a VHDX."""
    base = image(t, 'p')
    middle = image(t, 'm', base, 2, 1)
    leaf = image(t, 'c', middle, 3, 2)
    sibling = image(t, 'x', middle, 4, 3)
    refused(t, leaf, [sibling], '--depth', '2', phrases=('1 other image above', 'nothing to tell'))
    refused(t, leaf, [sibling])
    allowed(t, middle)
    result = t.img('commit', '--break-siblings', '--depth', '2', leaf)
    t.check('%s opens as before and shows wrong data' % sibling in result.out, 'outcome', result)


@case
def of_what_lies_below_the_target(t):
    base = image(t, 'p')
    middle = image(t, 'm', base, 2, 1)
    leaf = image(t, 'c', middle, 3, 2)
    image(t, 'x', base, 4, 3)
    allowed(t, leaf)


@case
def of_the_source(t):
    base = image(t, 'p')
    middle = image(t, 'm', base, 2, 1)
    leaf, other = image(t, 'c', middle, 3, 2), image(t, 'x', middle, 4, 3)
    views = t.content(leaf), t.content(other)
    allowed(t, middle)
    t.equal((t.content(leaf), t.content(other)), views, 'children of the source')


@case
def copy_of_the_target_has_children_of_its_own(t):
    """The identity is the same; the path decides, before the name alone would lead to the target."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    os.mkdir(t.path('copies'))
    shutil.copy(base, t.path('copies'))
    other = image(t, 'x', t.path('copies', os.path.basename(base)), 3, 2)
    view = t.content(other)
    result = t.img('commit', '-q', leaf)
    t.equal(result.err, '', 'messages')
    t.equal(t.content(other), view, 'child of the copy')


@case
def of_a_copy_that_is_gone(t):
    """What it names is not there, so the file of that name beside it is its parent: the target."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    os.mkdir(t.path('gone'))
    shutil.copy(base, t.path('gone'))
    other = image(t, 'x', t.path('gone', os.path.basename(base)), 3, 2)
    shutil.rmtree(t.path('gone'))
    t.img('map', other)
    refused(t, leaf, [other])


@case
def copy_of_the_source(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    shutil.copy(leaf, t.path('backup.bin'))
    refused(t, leaf, [t.path('backup.bin')])


@case
def other_name_of_the_source(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    os.symlink(leaf, t.path('link'))
    os.link(leaf, t.path('hard'))
    allowed(t, t.path('link'))


@case
def through_a_symbolic_link(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    other = image(t, 'elsewhere/x', base, 3, 2)
    os.symlink(other, t.path('link'))
    refused(t, leaf, [t.path('link')])


@case
def beside_a_symbolic_link_to_the_source(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    other = image(t, 'named/x', base, 3, 2)
    os.symlink(leaf, t.path('named/link'))
    refused(t, t.path('named/link'), [other])


@case
def in_use(t):
    """Seen all the same, and its user is not disturbed."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    other = image(t, 'x', base, 3, 2)
    read_end, write_end = os.pipe()
    process = t.start(tool('vhd-io'), '-f', FORMAT, other, stdin=read_end)
    os.close(read_end)
    t.wait_until(lambda: locked(other), 'the lock of vhd-io')
    refused(t, leaf, [other])
    os.write(write_end, b'write -q -P 9 0 64k\nread -P 9 0 64k\n')
    os.close(write_end)
    result = t.finish(process)
    t.equal(result.rc, 0, 'status of the user (%s)' % result)
    refused(t, leaf, [other])


@case
def five_are_named(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    for i in range(8):
        image(t, 'x%d' % i, base, 3, 2)
    result = refused(t, leaf, [t.path('x%d.%s' % (i, FORMAT)) for i in range(8)],
                     phrases=('8 other images', 'and 3 more'))
    t.check('x5.' not in result.err, 'more than five are named', result)


@case
def above_a_raw_target(t):
    """Nothing tells it from another file but the path."""
    if FORMAT != 'vhd':
        t.skip('a VHDX has no raw parent')
    t.img('create', '-q', '-f', 'raw', t.path('p.raw'), SIZE)
    for name in ('c.vhd', 'x.vhd'):
        t.img('create', '-q', '-f', 'vhd', '-b', t.path('p.raw'), '-F', 'raw', t.path(name))
    t.io('--raw-parent', '-c', 'write -q -P 2 1M 64k', t.path('c.vhd'))
    refused(t, t.path('c.vhd'), [t.path('x.vhd')], '--raw-parent')


@case
def confined(t):
    """What lies outside is not looked at, whatever leads there."""
    base = image(t, 'in/p')
    leaf = image(t, 'in/c', base, 2, 1)
    other = image(t, 'out/x', base, 3, 2)
    os.symlink(other, t.path('in/link'))
    refused(t, leaf, [t.path('in/link')])
    allowed(t, leaf, '--confine', t.path('in'))


# --- a copy of the chain ---------------------------------------------------------------------------------------

@case
def copy_with_another_parent_beside_it(t):
    """The original's parent, which the copy names too, is not written to unless it is named."""
    base = image(t, 'orig/p')
    leaf = image(t, 'orig/c', base, 2, 1)
    view = t.content(leaf)
    shutil.copytree(t.path('orig'), t.path('copy'))
    os.makedirs(t.path('away'))
    os.rename(leaf, t.path('away/c.' + FORMAT))
    beside, copy = (t.path('copy/%s.%s' % (name, FORMAT)) for name in 'pc')

    def another():
        os.unlink(beside)
        image(t, 'copy/p', value=7)
    for damage in (another, lambda: os.truncate(beside, 5000), lambda: os.truncate(beside, 0)):
        damage()
        unchanged = everything(t)
        for options in ((), ('--dry-run',), ('--ignore-unknown',), ('-b', base)):
            result = t.img('commit', *options, copy, rc=1)
            t.refused(result, 'is not it', beside, base, 'rebase -u -b')
        result = t.img('compare', '-q', t.path('away/c.' + FORMAT), copy)
        t.check('is not it' in result.err and beside in result.err, 'no warning', result)
        unchanged.verify(t, 'a refused commit')
    t.img('commit', '--parent', base, '--ignore-unknown', copy)
    t.same_content(t.content(base), view, 'the parent that was named')
    t.img('rebase', '-q', '-u', '-b', base, copy)
    t.equal(t.img('map', copy).err, '', 'messages')


# --- an image that is written over --------------------------------------------------------------------------

def kept(t, *argv, phrases=(), program='vhd-img'):
    """What would lose an image is refused, names the way on, and nothing has changed."""
    unchanged = everything(t)
    result = t.run(tool(program), *argv, rc=1)
    t.refused(result, *phrases)
    unchanged.verify(t, argv[0])
    other = {'--break-children', '--ignore-unknown'} - set(phrases)
    t.check(not any(option in result.err for option in other), 'an option that is of no use is named', result)


def writers(t, path, source):
    """What writes over @path."""
    return (('create', '-q', '-f', FORMAT, path, SIZE), ('convert', '-q', '-O', FORMAT, source, path),
            ('convert', '-q', '-O', 'raw', source, path), ('create', '-q', '-f', 'raw', path, SIZE),
            ('create', '-q', '-f', FORMAT, '-b', source, path), ('convert', '-q', '-n', '-O', FORMAT, source, path),
            ('convert', '-q', '-n', '--target-is-zero', '-O', FORMAT, source, path))


@case
def parent_is_written_over(t):
    source = image(t, 'elsewhere/source', value=7)
    base = image(t, 'p')
    child = image(t, 'c', base, 2, 1)
    for argv in writers(t, base, source):
        kept(t, *argv, phrases=('1 image above it', child, '--break-children'))
        kept(t, *argv, '--ignore-unknown', phrases=('1 image above it', child, '--break-children'))
    # Of the layer between, and through another name.
    leaf = image(t, 'l', child, 3, 2)
    kept(t, 'convert', '-O', FORMAT, source, child, phrases=(leaf, '--break-children'))
    os.symlink(child, t.path('elsewhere/link'))
    kept(t, 'convert', '-O', FORMAT, source, t.path('elsewhere/link'), phrases=(leaf, '--break-children'))
    view = t.content(source)
    for argv in (('convert', '-q', '-n', '-O', FORMAT, source, child), ('convert', '-q', '-O', FORMAT, source, base)):
        result = t.img(*argv, '--break-children')
        t.equal(result.err, '', 'messages')
        t.same_content(t.content(argv[-1]), view, 'what was written over')


@case
def leaf_is_written_over(t):
    """As with qemu-img, whoever else has the same parent, and however often."""
    source = image(t, 'elsewhere/source', value=7)
    base = image(t, 'p')
    image(t, 'c', base, 2, 1)
    other = image(t, 'x', base, 3, 2)
    for argv in writers(t, other, source):
        if '-n' in argv:
            t.img('create', '-q', '-f', FORMAT, other, SIZE)
        t.img(*argv)
    t.img('create', '-q', '-f', FORMAT, t.path('new.' + FORMAT), SIZE)


@case
def raw_parent_is_written_over(t):
    if FORMAT != 'vhd':
        t.skip('a VHDX has no raw parent')
    base, child = t.path('p.raw'), t.path('c.vhd')
    t.img('create', '-q', '-f', 'raw', base, SIZE)
    t.img('create', '-q', '-f', 'vhd', '-b', base, '-F', 'raw', child)
    with open(t.path('damaged.vhd'), 'wb') as f:
        f.write(b'no image any more\n' * 100)
    for argv in (('create', '-q', '-f', 'raw', base, SIZE), ('convert', '-q', '--raw-parent', '-O', 'raw', child, t.path('o.raw')),
                 ('convert', '-q', '-O', 'raw', t.path('o.raw'), base),
                 ('convert', '-q', '-n', '-O', 'raw', t.path('o.raw'), base)):
        if argv[-1] == t.path('o.raw'):
            t.img(*argv)
            t.img(*argv)
        else:
            kept(t, *argv, phrases=('1 image above it', child, '--break-children'))
    os.unlink(child)
    t.img('create', '-q', '-f', 'raw', base, SIZE)


@case
def unknown_beside_what_is_written_over(t):
    """A new file has no children, nor has one that is no image any more, or, so the user says, nothing in it."""
    source = image(t, 'elsewhere/source', value=7)
    base, damaged = image(t, 'p'), t.path('damaged.' + FORMAT)
    with open(damaged, 'wb') as f:
        f.write(b'no image any more\n' * 100)
    for argv in writers(t, base, source):
        if '-b' in argv or '--target-is-zero' in argv or argv[argv.index('-f' if '-f' in argv else '-O') + 1] == 'raw':
            continue
        kept(t, *argv, phrases=('not known', damaged, '--ignore-unknown'))
        t.img(*argv, '--ignore-unknown')
    t.img('convert', '-q', '-O', FORMAT, source, t.path('new.' + FORMAT))
    t.img('convert', '-q', '-O', FORMAT, source, damaged)
    t.same_content(t.content(damaged), t.content(source), 'what was written over')


@case
def damaged_parent_is_written_over(t):
    """It may be all there is to mend it from.  Who it was it cannot say: those that name its file are asked for."""
    source = image(t, 'elsewhere/source', value=7)
    base, other = image(t, 'p'), image(t, 'o')
    child = image(t, 'c', base, 2, 1)
    image(t, 'x', other, 2, 1)
    with open(base, 'r+b') as f:
        f.write(bytes(1536 if FORMAT == 'vhd' else MiB))
        f.truncate(SIZE)
    t.refused(t.img('info', base, rc=1))
    for argv in writers(t, base, source):
        if '-n' not in argv:
            kept(t, *argv, phrases=('1 image above it', child, '--break-children'))
    os.rename(child, t.path('elsewhere/c'))
    t.img('create', '-q', '-f', FORMAT, base, SIZE)


@case
def parent_is_written_over_as_raw(t):
    """Whatever its file is taken for, it is the parent of those that find it there, sound or damaged."""
    source, base = t.path('other/source.raw'), image(t, 'p')
    child = image(t, 'c', base, 2, 1)
    os.truncate(base, -(-os.path.getsize(base) // MiB) * MiB)
    os.mkdir(t.path('other'))
    t.img('create', '-q', '-f', 'raw', source, 65536)
    for damage in (0, MiB):
        with open(base, 'r+b') as f:
            f.write(bytes(damage))
        kept(t, 'convert', '-n', '-O', 'raw', source, base, phrases=('1 image above it', child, '--break-children'))
        kept(t, 'bench', '-f', 'raw', '-w', '-c', '1', base, phrases=('1 image above it', child, '--break-children'))
        kept(t, '-f', 'raw', '-c', 'write -q 0 4k', base, program='vhd-io',
             phrases=('1 image above it', child, '--break-children'))
    t.run(tool('vhd-io'), '-f', 'raw', '-c', 'write -q 0 4k', '--break-children', base)


@case
def parent_is_written_to(t):
    """By vhd-io, at its first change, and by bench; who only reads is not asked, nor who writes to a leaf."""
    base = image(t, 'p')
    child = image(t, 'c', base, 2, 1)
    command = ['-f', FORMAT, '-c']
    write = 'write -q -P 9 2M 64k'
    changes = [('vhd-io', [*command, change])
               for change in (write, 'write -q -z 0 64k', 'aio_write -q 0 64k', 'discard -q 0 64k', 'truncate 6M')]
    for program, argv in (*changes, ('vhd-img', ['bench', '-f', FORMAT, '-w', '-c', '1'])):
        for more in ([], ['--ignore-unknown']):
            kept(t, *argv, *more, base, program=program, phrases=('1 image above it', child, '--break-children'))
    unchanged = everything(t)
    t.run(tool('vhd-io'), *command, 'read -P 1 0 64k', '-c', 'length', base)
    t.img('bench', '-f', FORMAT, '-c', '1', base)
    unchanged.verify(t, 'a look')
    t.run(tool('vhd-io'), *command, write, child)
    t.run(tool('vhd-io'), *command, write, '--break-children', base)
    t.run(tool('vhd-io'), *command, 'read -P 9 2M 64k', base)
    lone, damaged, raw = (t.path('unknown/' + name) for name in ('lone.' + FORMAT, 'damaged.' + FORMAT, 'x.raw'))
    image(t, 'unknown/lone')
    with open(damaged, 'wb') as f:
        f.write(b'no image any more\n' * 100)
    kept(t, *command, write, lone, program='vhd-io', phrases=('not known', damaged, '--ignore-unknown'))
    t.run(tool('vhd-io'), *command, write, '--ignore-unknown', lone)
    t.img('bench', '-f', FORMAT, '-w', '-c', '1', '--ignore-unknown', lone)
    t.img('create', '-q', '-f', 'raw', raw, SIZE)
    t.run(tool('vhd-io'), '-f', 'raw', '-c', write, raw)


# --- what else may lie there ----------------------------------------------------------------------------------

@case
def strange_neighbours(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    for i in range(300):
        with open(t.path('junk%d' % i), 'wb') as f:
            f.write((os.urandom(i * 37), b'text\n' * i, b'')[i % 3])
    os.mkfifo(t.path('pipe'))
    os.mkdir(t.path('directory.' + FORMAT))
    os.symlink('nothing', t.path('dangling.' + FORMAT))
    os.symlink('circle.' + FORMAT, t.path('circle.' + FORMAT))
    os.symlink('/dev/zero', t.path('device.' + FORMAT))
    os.symlink('.', t.path('here.' + FORMAT))
    with open(t.path('empty.' + FORMAT), 'wb'):
        pass
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(t.path('socket'))
        allowed(t, leaf)


@case
def damaged(t):
    """By signature or by name it is an image, and nobody can say whose child it is."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    other = image(t, 'x', base, 3, 2)
    with open(other, 'rb') as f:
        data = f.read()
    os.unlink(other)
    for name, content in (('no-suffix', data[:512] + bytes(65536)), ('cut.' + FORMAT, data[:1400]),
                          ('CHECKPOINT.AVHDX', b'no image any more\n' * 100)):
        path = t.path(name)
        with open(path, 'wb') as f:
            f.write(content)
        unknown(t, leaf, [path])
        unknown(t, leaf, [path], '--delete')
        t.refused(t.img('commit', '--dry-run', leaf, rc=1), 'not known', '--ignore-unknown')
        t.img('commit', '--dry-run', '--ignore-unknown', leaf)
        plan = t.img('commit', '--dry-run', '--output=json', leaf, rc=1).json
        t.equal([x['filename'] for x in plan['siblings-unknown']], [path], 'plan')
        t.check(plan['siblings-unknown'][0]['reason'], 'no reason', plan)
        t.check('unknown  ' + path in t.img('commit', '--dry-run', leaf, rc=1).out, 'plan')
        os.unlink(path)
    for i in range(7):
        with open(t.path('cut%d' % i), 'wb') as f:
            f.write(data[:1400])
    unknown(t, leaf, [t.path('cut%d' % i) for i in range(7)], phrases=('and 2 more',))
    result = t.img('commit', '--break-siblings', leaf)
    t.check('cut6 is an image above the same parents is not known' in result.err, 'warning', result)


@case
def unknown_is_ignored_and_known_is_not(t):
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    damaged, sibling = t.path('damaged.' + FORMAT), image(t, 'x', base, 3, 2)
    view = t.content(sibling)
    with open(damaged, 'wb') as f:
        f.write(b'no image any more\n' * 100)
    for options in ((), ('--dry-run',)):
        t.refused(t.img('commit', '--ignore-unknown', *options, leaf, rc=1), '--break-siblings')
    refused(t, leaf, [sibling], '--ignore-unknown')
    t.same_content(t.content(sibling), view, 'sibling')
    os.unlink(sibling)
    unknown(t, leaf, [damaged])
    view = t.content(leaf)
    other = image(t, 'y', leaf, 4, 3)
    t.refused(t.img('commit', '--ignore-unknown', '--delete', leaf, rc=1), '--relink', other)
    os.unlink(other)
    result = t.img('commit', '--ignore-unknown', '--delete', leaf)
    t.check('damaged.%s is an image above the same parents is not known' % FORMAT in result.err, 'warning', result)
    t.check(not os.path.exists(leaf), 'the merged image is there')
    t.same_content(t.content(base), view, 'target')


@case
def damaged_beside_a_compaction(t):
    """Free space may be what it uses."""
    leaf = image(t, 'c', image(t, 'p'), 2, 1)
    damaged = t.path('damaged.' + FORMAT)
    with open(damaged, 'wb') as f:
        f.write(b'no image any more\n' * 100)
    result = t.img('compact', leaf)
    t.check('free space of the guest\'s file systems is kept' in result.err and damaged in result.err
            and 'may be above it' in result.err, 'warning', result)
    t.check('--ignore-unknown' in result.err and '--break-children' not in result.err, 'warning', result)
    for option in ('--ignore-unknown', '--break-children'):
        t.check('is kept' not in t.img('compact', option, leaf).err, 'kept all the same')
    if FORMAT == 'vhdx':
        t.refused(t.img('compact', '--mode', 'retrim', leaf, rc=1), damaged, 'may be above it', '--ignore-unknown')
    image(t, 'x', leaf, 3, 2)
    result = t.img('compact', '--ignore-unknown', leaf)
    t.check('is kept' in result.err and '--break-children' in result.err, 'a child is not protected', result)


@case
def fixed_below_others_is_not_punched(t):
    """It can give back nothing but free space: refused, and then nothing is said to be kept."""
    base = t.path('p.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-o', 'subformat=fixed', base, SIZE)
    child = image(t, 'c', base)
    for options in ((), ('--dry-run',)):
        result = t.img('compact', '--mode', 'punch', *options, base, rc=1)
        t.refused(result, child, '--break-children')
        t.check('is kept' not in result.err, 'a warning beside the refusal', result)


@case
def that_finds_no_parent(t):
    """It says whose child it is, not where that is: mended later, it would show wrong data."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    os.mkdir(t.path('far'))
    other = image(t, 'far/x', base, 3, 2)
    os.rename(base, t.path('renamed.' + FORMAT))
    base = t.path('renamed.' + FORMAT)
    t.img('rebase', '-q', '-u', '-b', base, leaf)
    allowed(t, leaf, '--dry-run')
    os.rename(other, t.path('x.' + FORMAT))
    unknown(t, leaf, [t.path('x.' + FORMAT)], phrases=('does not find',))
    unknown(t, leaf, [t.path('x.' + FORMAT)], '--delete', phrases=('does not find',))


@case
def not_readable(t):
    """Refused where the name is that of an image; else only told: it may be anything."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    other = image(t, 'x', base, 3, 2)
    os.chmod(other, 0)
    nobody = t.as_nobody(base, leaf)
    for options in ((), ('--delete',)):
        result = t.run(*nobody, tool('vhd-img'), 'commit', *options, leaf, rc=1)
        t.refused(result, 'not known', other, '--ignore-unknown', 'permission')
    os.rename(other, t.path('other'))
    result = t.run(*nobody, tool('vhd-img'), 'commit', '-q', leaf)
    t.check('1 files' in result.err and 'may not be read' in result.err, 'warning', result)


@case
def in_a_directory_that_may_not_be_listed(t):
    base = image(t, 'p')
    leaf = image(t, 'far/c', base, 2, 1)
    nobody = t.as_nobody(base, leaf)
    if not nobody:
        t.skip('needs root, who can drop his rights')
    os.chmod(t.path('far'), 0o711)
    result = t.run(*nobody, tool('vhd-img'), 'commit', leaf, rc=1)
    t.refused(result, 'cannot be listed', t.path('far'), '--ignore-unknown')
    t.run(*nobody, tool('vhd-img'), 'commit', '-q', '--ignore-unknown', leaf)


@case
def many_files(t):
    """They cost little, and there is an end to looking, which is told and no answer."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    for i in range(2000):
        with open(t.path('junk%d' % i), 'wb') as f:
            f.write(b'junk' * 3000)
    began = time.monotonic()
    allowed(t, leaf)
    took = time.monotonic() - began
    t.check(took < 5, 'a commit beside 2000 files took %.2f s' % took)
    # What cannot be an image does not count.
    for i in range(5000):
        os.close(os.open(t.path('empty%d' % i), os.O_CREAT | os.O_WRONLY))
        os.symlink('junk0', t.path('link%d' % i))
    allowed(t, leaf)
    for i in range(8001):
        with open(t.path('more%d' % i), 'wb') as f:
            f.write(b'junk' * 128)
    unchanged = Unchanged(base, leaf)
    for options in ((), ('--delete',)):
        t.refused(t.img('commit', *options, leaf, rc=1), 'not known', t.dir, '--ignore-unknown',
                  'more than 10000 files that may be images')
    unchanged.verify(t, 'a refused commit')
    result = t.img('commit', '-q', '--ignore-unknown', leaf)
    t.check('more than 10000 files that may be images' in result.err, 'warning', result)


@case
def stopped_while_looking(t):
    """A signal is looked at between two files."""
    base = image(t, 'p')
    leaf = image(t, 'c', base, 2, 1)
    for i in range(9000):
        with open(t.path('junk%d' % i), 'wb') as f:
            f.write(b'junk' * 300)
    unchanged = Unchanged(base, leaf)
    for _ in range(20):
        process = t.start(tool('vhd-img'), 'commit', leaf)
        while not locked(leaf) and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
        result = t.finish(process)
        if result.rc == 143:
            unchanged.verify(t, 'a search that was stopped')
            return
        # It was done before.
        t.equal(result.rc, 0, 'status (%s)' % result)
        unchanged = Unchanged(base, leaf)
    raise Failed('20 commits beside 9000 files were not stopped')


main()
