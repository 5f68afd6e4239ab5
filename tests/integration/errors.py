# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages, statuses, and files that a mistake leaves as they were."""

import os
import random

from harness import KiB, MiB, Unchanged, add, case, main, tool, vhdfile

COMMANDS = ('bench', 'check', 'commit', 'compact', 'compare', 'convert', 'create', 'info', 'map', 'rebase')


def help_of(t, command):
    result = t.img(command, '--help')
    t.check(command in result.out and len(result.out.splitlines()) > 5, 'help', result)
    t.equal(result.err, '', 'messages')


def no_operand(t, command):
    result = t.img(command, rc=(2,) if command == 'compare' else 1)
    t.check(result.err.strip() and len(result.err.splitlines()) <= 3, 'message', result)


def unknown_option(t, command):
    result = t.img(command, '--no-such-option', 'x', rc=None)
    t.check(result.rc in (1, 2), 'status', result)
    t.check('no-such-option' in result.err, 'message', result)


def absent(t, command):
    if command in ('create', 'compare', 'convert'):
        return
    options = ('-b', '') if command == 'rebase' else ()
    t.refused(t.img(command, *options, t.path('absent.vhd'), rc=1), 'absent.vhd', 'no such file')


for command in COMMANDS:
    add(command + '-help', help_of, command)
    add(command + '-without-operand', no_operand, command)
    add(command + '-unknown-option', unknown_option, command)
    if command not in ('create', 'compare', 'convert'):
        add(command + '-of-an-absent-file', absent, command)


@case
def top_level(t):
    t.check('commit' in t.img('--help').out, 'help names no commands')
    t.check('0.' in t.img('--version').out, 'version')
    t.img(rc=1)
    result = t.img('frobnicate', rc=1)
    t.check('frobnicate' in result.err, 'message', result)


@case
def merge_is_commit(t):
    parent = vhdfile.write_sparse(t.path('p.vhd'), MiB)
    vhdfile.write_sparse(t.path('c.vhd'), MiB, [(0, b'\1' * 512)], parent_id=parent.unique_id, parent_path=parent.path)
    t.img('merge', '-q', t.path('c.vhd'))
    t.equal(vhdfile.Vhd(parent.path).read(0, 512), b'\1' * 512, 'target')


@case
def directory_in_the_place_of_a_file(t):
    os.mkdir(t.path('d'))
    for command in ('info', 'check', 'map', 'compact'):
        t.refused(t.img(command, t.path('d'), rc=1), 'd')
    t.refused(t.img('create', '-q', '-f', 'vhd', t.path('d'), '1M', rc=1), 'd')


@case
def unknown_format(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB)
    for argv in (('info', '-f', 'qcow9', t.path('x.vhd')), ('create', '-f', 'qcow9', t.path('y'), '1M'),
                 ('convert', '-O', 'qcow9', t.path('x.vhd'), t.path('y'))):
        result = t.img(*argv, rc=1)
        t.refused(result, 'qcow9')
    t.check(not os.path.exists(t.path('y')), 'a file was left behind')


@case
def wrong_format_named(t):
    with open(t.path('x.raw'), 'wb') as f:
        f.write(b'\1' * MiB)
    unchanged = Unchanged(t.path('x.raw'))
    for command in ('info', 'map', 'compact', 'commit', 'check'):
        t.refused(t.img(command, '-f', 'vhd', t.path('x.raw'), rc=1), 'x.raw')
    unchanged.verify(t)


@case
def no_sign_of_a_format_is_raw(t):
    with open(t.path('x'), 'wb') as f:
        f.write(random.Random(1).randbytes(MiB))
    t.equal(t.img('info', '--output=json', t.path('x')).json['format'], 'raw', 'format')


@case
def extension_does_not_matter(t):
    vhdfile.write_sparse(t.path('x.iso'), MiB)
    t.equal(t.img('info', '--output=json', t.path('x.iso')).json['format'], 'vhd', 'format')
    vhdfile.write_fixed(t.path('x.raw'), MiB)
    t.equal(t.img('info', '--output=json', t.path('x.raw')).json['format'], 'vhd', 'format')


@case
def name_of_another_format(t):
    """What -f was forgotten for is raw, as qemu-img makes it, and that is said."""
    for name, fmt in (('x.vhd', 'vhd'), ('x.VHDX', 'vhdx'), ('x.avhdx', 'vhdx'), ('x.raw', None), ('x', None),
                      ('v.vhd/x', None)):
        os.makedirs(os.path.dirname(t.path(name)), exist_ok=True)
        for argv in (['create', '-q', t.path(name), '1M'], ['convert', '-q', t.path('x.raw'), t.path(name)]):
            if argv[0] == 'convert' and name == 'x.raw':
                continue
            with open(t.path('x.raw'), 'ab') as f:
                f.truncate(MiB)
            result = t.img(*argv)
            if fmt is None:
                t.equal(result.err, '', 'messages')
            else:
                t.check('%s %s makes one' % ('-f' if argv[0] == 'create' else '-O', fmt) in result.err, 'warning', result)
                t.equal(len(result.err.splitlines()), 1, 'lines')
            t.equal(os.path.getsize(t.path(name)), MiB, 'size of %s' % name)
            os.unlink(t.path(name))
        t.equal(t.img('create', '-q', '-f', 'raw', t.path(name), '1M').err, '', 'messages with -f')


@case
def sparse_size_in_sectors(t):
    t.img('create', '-q', '-f', 'raw', t.path('x.raw'), '1M')
    for size in ('100', '513', '1'):
        t.refused(t.img('convert', '-S', size, t.path('x.raw'), t.path('o.raw'), rc=1), '-S', 'multiple of 512')
    t.check(not os.path.exists(t.path('o.raw')), 'a file was left behind')
    t.img('convert', '-q', '-S', '0', t.path('x.raw'), t.path('o.raw'))


def cut_short(t, fmt):
    """A file that ends too early: the failing request says so, and where."""
    path = t.path('x.' + fmt)
    t.img('create', '-q', '-f', fmt, path, '64M')
    t.io('-c', 'write -q -P 1 0 40M', path)
    with open(path, 'r+b') as f:
        f.truncate(os.path.getsize(path) - 10 * MiB)
    for argv in (['convert', '-q', '-O', 'raw', path, t.path('o.raw')], ['compare', path, path], ['map', path]):
        result = t.img(*argv, rc=None)
        t.check(result.rc != 0, 'not refused', result)
        told = [line for line in result.err.splitlines() if 'cannot be read' in line and 'offset' in line]
        t.equal(len(told), 1, 'explanations (%s)' % result)
    t.check('file' in told[0], 'explanation', told)


def cut_layer(t, fmt):
    """Of a chain with a layer that ends too early, the message names that layer, whatever was to be done with the chain."""
    base, middle, leaf = (t.path(name + '.' + fmt) for name in 'abc')
    t.img('create', '-q', '-f', fmt, base, '64M')
    t.img('create', '-q', '-f', fmt, '-b', base, middle)
    t.io('-c', 'write -q -P 1 0 8M', middle)
    t.img('create', '-q', '-f', fmt, '-b', middle, leaf)
    t.io('-c', 'write -q -P 2 20M 1M', leaf)
    with open(middle, 'r+b') as f:
        f.truncate(os.path.getsize(middle) - MiB)
    unchanged = Unchanged(base, middle, leaf)
    for argv in (['commit', '--dry-run', '-b', base, leaf], ['commit', '-b', base, leaf], ['rebase', '-b', base, leaf],
                 ['rebase', '-b', '', leaf], ['convert', '-q', '-O', 'raw', leaf, t.path('o.raw')]):
        result = t.img(*argv, rc=1)
        told = [line for line in result.err.splitlines() if 'warning:' not in line]
        t.check(len(told) == 1 and middle + ': look-up of the allocation' in told[0], 'the layer is not named', result)
        unchanged.verify(t, argv[0])


for fmt in ('vhd', 'vhdx'):
    add('cut-short-' + fmt, cut_short, fmt)
    add('cut-layer-' + fmt, cut_layer, fmt)


# --- commit -------------------------------------------------------------------------------------------------

def family(t, depth=3):
    files, parent = [], None
    for i in range(depth):
        path = t.path('%d.vhd' % i)
        parent = vhdfile.write_sparse(path, MiB, [(i * 4096, bytes([i + 1]) * 4096)], block_size=64 * KiB,
                                      parent_id=parent and parent.unique_id, parent_path=parent and parent.path)
        files.append(path)
    return files


def bad_commit(t, argv, phrases):
    files = family(t)
    vhdfile.write_sparse(t.path('stranger.vhd'), MiB)
    unchanged = Unchanged(*files, t.path('stranger.vhd'))
    result = t.img('commit', '-q', *[a % {'dir': t.dir} if isinstance(a, str) else a for a in argv], rc=1)
    t.refused(result, phrases)
    unchanged.verify(t, 'a refused commit')


for name, argv, phrases in (
        ('without-a-parent', ['%(dir)s/0.vhd'], ('parent', 'backing')),
        ('too-deep', ['--depth', '3', '%(dir)s/2.vhd'], ('depth', 'layer', 'parent')),
        ('depth-0', ['--depth', '0', '%(dir)s/2.vhd'], ('depth',)),
        ('depth-negative', ['--depth', '-1', '%(dir)s/2.vhd'], ('depth',)),
        ('depth-not-a-number', ['--depth', 'all', '%(dir)s/2.vhd'], ('depth',)),
        ('base-not-in-the-chain', ['-b', '%(dir)s/stranger.vhd', '%(dir)s/2.vhd'], ('chain', 'stranger')),
        ('base-is-the-image', ['-b', '%(dir)s/2.vhd', '%(dir)s/2.vhd'], ('the image to be merged',)),
        ('base-absent', ['-b', '%(dir)s/nothing.vhd', '%(dir)s/2.vhd'], ('nothing.vhd',)),
        ('base-and-depth', ['-b', '%(dir)s/0.vhd', '--depth', '1', '%(dir)s/2.vhd'], ('depth', '-b'))):
    add('commit-' + name, bad_commit, argv, phrases)


@case
def target_that_may_not_be_written(t):
    if os.geteuid() == 0:
        t.run('true')
        if t.run('chattr', '+i', t.path('.'), rc=None).rc != 0:
            t.skip('root may write everything, and chattr does not work on this file system')
        t.run('chattr', '-i', t.path('.'))
    files = family(t)
    if os.geteuid() == 0:
        t.run('chattr', '+i', files[1])
    else:
        os.chmod(files[1], 0o444)
    try:
        unchanged = Unchanged(*files)
        t.refused(t.img('commit', '-q', files[2], rc=1), ('permission', 'not permitted', 'read-only'), '1.vhd')
        unchanged.verify(t, 'a refused commit')
    finally:
        if os.geteuid() == 0:
            t.run('chattr', '-i', files[1])


@case
def names_base_by_another_path(t):
    files = family(t)
    os.mkdir(t.path('sub'))
    os.symlink(files[0], t.path('sub/link.vhd'))
    t.img('commit', '-q', '-b', t.path('sub/link.vhd'), files[2])
    t.equal(vhdfile.Vhd(files[0]).read(8192, 4096), b'\3' * 4096, 'target')


@case
def out_of_space(t):
    """A file system that fills up: a message, a status, a sound image; with room again the job ends."""
    if os.geteuid() != 0:
        t.skip('mounting a small file system needs root')
    os.mkdir(t.path('small'))
    if t.run('mount', '-t', 'tmpfs', '-o', 'size=3m', 'none', t.path('small'), rc=None).rc != 0:
        t.skip('cannot mount a small file system here')
    try:
        base = vhdfile.write_sparse(t.path('small/p.vhd'), 16 * MiB, [(0, b'\1' * 4096)], block_size=512 * KiB)
        vhdfile.write_sparse(t.path('c.vhd'), 16 * MiB, [(MiB, b'\2' * (8 * MiB))], parent_id=base.unique_id,
                             parent_path=base.path)
        result = t.img('commit', '-q', t.path('c.vhd'), rc=1)
        t.refused(result, ('space', 'free'))
        image = vhdfile.open_chain(t.path('c.vhd'))
        t.equal((image.read(0, 4096), image.read(MiB, 8 * MiB), image.read(9 * MiB, 7 * MiB)),
                (b'\1' * 4096, b'\2' * (8 * MiB), bytes(7 * MiB)), 'view through the child')
        t.img('check', '-q', '-f', 'vhd', base.path, rc=(0, 3))
        t.run('mount', '-o', 'remount,size=64m', t.path('small'))
        t.img('commit', '-q', t.path('c.vhd'))
        t.equal(vhdfile.Vhd(base.path).read(MiB, 8 * MiB), b'\2' * (8 * MiB), 'target')
        t.sound(base.path, ours=False)

        t.run('mount', '-o', 'remount,size=14m', t.path('small'))
        with open(t.path('src.raw'), 'wb') as f:
            f.write(b'\5' * (12 * MiB))
        t.refused(t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', t.path('src.raw'), t.path('small/o.vhd'), rc=1),
                  'space')
    finally:
        t.run('umount', t.path('small'))


@case
def file_size_limit(t):
    """EFBIG comes with a signal that must not kill us."""
    vhdfile.write_sparse(t.path('x.vhd'), 64 * MiB, [(0, b'\1' * 4096)])
    result = t.run('sh', '-c', 'ulimit -f 8192; exec "$@"', 'sh', tool('vhd-io'), '-f', 'vhd', '-c',
                   'write -q -P 2 4M 8M', '-c', 'flush', t.path('x.vhd'), rc=1)
    t.check('large' in (result.out + result.err).lower(), 'message', result)
    image = vhdfile.Vhd(t.path('x.vhd'))
    t.equal(image.read(0, 4096), b'\1' * 4096, 'old data')
    t.img('check', '-q', '-f', 'vhd', t.path('x.vhd'), rc=(0, 2, 3))


@case
def warnings_are_not_errors(t):
    """Another program's oddities are told on standard error and do not fail the command."""
    made = vhdfile.write_sparse(t.path('x.vhd'), MiB, [(0, b'\1' * 512)], features=0)
    vhdfile.write_at(made.path, 10, b'\xff')
    t.img('info', made.path)
    t.same_content(t.content(made.path, fmt='vhd'), b'\1' * 512 + bytes(MiB - 512), 'content')


# --- what a failed command must not have done ------------------------------------------------------------------

def refused_with_file_kept(t, *argv):
    """The command fails, and the image that stood at keep.vhd still does."""
    t.img('create', '-q', '-f', 'vhd', t.path('p.vhd'), '2M')
    t.img('create', '-q', '-f', 'vhd', t.path('keep.vhd'), '2M')
    t.io('-c', 'write -q -P 7 0 1M', t.path('keep.vhd'))
    unchanged = Unchanged(t.path('keep.vhd'), t.path('p.vhd'))
    t.refused(t.img(*[t.path(a[1:]) if a.startswith('@') else a for a in argv], rc=1))
    unchanged.verify(t)


for label, argv in [
        ('size', 'create -f vhd @keep.vhd 9999G'), ('no-size', 'create -f vhd @keep.vhd 0'),
        ('block-size', 'create -f vhd -o block_size=1 @keep.vhd 1G'),
        ('subformat', 'create -f vhd -o subformat=foo @keep.vhd 1G'),
        ('fixed-child', 'create -f vhd -o subformat=fixed -b @p.vhd @keep.vhd'),
        ('child-size', 'create -f vhd -b @p.vhd @keep.vhd 9999G'),
        ('preallocation', 'create -f raw -o preallocation=foo @keep.vhd 1M'),
        ('convert-options', 'convert -O vhd -o block_size=1 @p.vhd @keep.vhd'),
        ('convert-unnamed-format', 'convert -n @p.vhd @keep.vhd')]:
    add('kept-when-refused-' + label, refused_with_file_kept, *argv.split())


@case
def shrinking_a_vhd_is_refused_before_the_merge(t):
    t.img('create', '-q', '-f', 'vhd', t.path('base.vhd'), '8M')
    t.io('-c', 'write -q -P 1 0 8M', t.path('base.vhd'))
    t.img('create', '-q', '-f', 'vhd', '-b', t.path('base.vhd'), t.path('small.vhd'), '4M')
    t.io('-c', 'write -q -P 2 1M 1M', t.path('small.vhd'))
    unchanged = Unchanged(t.path('base.vhd'), t.path('small.vhd'))
    t.refused(t.img('commit', '--shrink', t.path('small.vhd'), rc=1), 'shrink', 'base.vhd')
    unchanged.verify(t)


@case
def other_formats_are_not_taken_for_raw(t):
    for name, head in [('qcow2', b'QFI\xfb\0\0\0\3'), ('VMDK', b'KDMV\1\0\0\0'), ('VMDK', b'# Disk DescriptorFile\n'),
                       ('VDI', b'<<< VirtualBox >>>'.ljust(64, b'\n') + b'\x7f\x10\xda\xbe')]:
        path = t.path('x.img')
        with open(path, 'wb') as f:
            f.write(head.ljust(1 << 20, b'\0'))
        unchanged = Unchanged(path)
        t.refused(t.img('info', path, rc=1), name, 'x.img')
        t.refused(t.img('convert', '-O', 'vhd', path, t.path('o.vhd'), rc=1), name)
        t.refused(t.io('-c', 'write -q 0 512', path, rc=1), name)
        unchanged.verify(t)
        t.equal(t.img('info', '--output=json', '-f', 'raw', path).json['format'], 'raw', 'with -f raw')


@case
def damaged_images_are_not_taken_for_raw(t):
    """A fixed VHD lost its only sign with its end, a VHDX with its start."""
    whole, cut, marked = t.path('whole.vhd'), t.path('cut.VHD'), t.path('marked.avhdx')
    t.img('create', '-q', '-f', 'vhd', '-o', 'subformat=fixed', whole, MiB)
    t.img('create', '-q', '-f', 'vhdx', marked, MiB)
    with open(whole, 'rb') as f, open(cut, 'wb') as g:
        g.write(f.read(MiB // 2))
    with open(marked, 'r+b') as f:
        f.write(b'XXXXXXXX')
    for path in (cut, marked):
        unchanged = Unchanged(path)
        t.refused(t.img('info', path, rc=1), 'bears no sign of one', os.path.basename(path))
        t.refused(t.img('convert', '-O', 'raw', path, t.path('o.raw'), rc=1), 'bears no sign of one')
        t.check(not os.path.exists(t.path('o.raw')), 'a target was made')
        t.refused(t.img('check', path, rc=1), 'bears no sign of one')
        unchanged.verify(t)
        t.equal(t.img('info', '--output=json', '-f', 'raw', path).json['format'], 'raw', 'with -f raw')
        t.img('convert', '-f', 'raw', '-O', 'raw', path, t.path('as-it-is.raw'))


@case
def json_of_two_kinds(t):
    t.img('create', '-q', '-f', 'vhdx', t.path('a.vhdx'), MiB)
    t.refused(t.img('compact', '--output=json', '--progress=json', t.path('a.vhdx'), rc=1), 'exclude each other')


main()
