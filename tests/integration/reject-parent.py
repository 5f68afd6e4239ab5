# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links to parents that must not be followed, and what is said of them."""

import os
import shutil
import uuid

import vhdfile as vf
from harness import KiB, MiB, Unchanged, add, case, locked, main, tool, vhdfile
from rejecting import SIZE, differencing, files, refused_everywhere


def link(t, child, locators=None, name='', **options):
    """x.vhd over parent.vhd with these locators; the parent is there."""
    parent = t.path('parent.vhd')
    if not os.path.exists(parent):
        vhdfile.write_sparse(parent, SIZE, [(0, b'\7' * 4096)], unique_id=b'P' * 16)
    return vhdfile.write_sparse(t.path(child), SIZE, [(8192, b'\1' * 512)], parent_id=options.pop('parent_id', b'P' * 16),
                                locators=locators or [], parent_name=name, **options)


def opens(t, *options, path='x.vhd'):
    unchanged = Unchanged(*files(t))
    data = t.content(t.path(path), *options, fmt='vhd')
    unchanged.verify(t)
    t.equal((data[0], data[8192], data[9000]), (7, 1, 0), 'bytes of parent, child, nobody')


# --- what is not there, or not it ---------------------------------------------------------------------------

@case
def parent_absent(t):
    differencing(t)
    os.unlink(t.path('parent.vhd'))
    refused_everywhere(t, ('parent',), info=False)


@case
def parent_of_another_identity(t):
    differencing(t)
    vhdfile.patch_footer(t.path('parent.vhd'), unique_id=b'Q' * 16)
    refused_everywhere(t, ('identity', 'id ', 'unique', 'match'), info=False)


@case
def identities_are_told(t):
    differencing(t)
    recorded = vhdfile.Vhd(t.path('parent.vhd')).unique_id
    vhdfile.patch_footer(t.path('parent.vhd'), unique_id=b'Q' * 16)
    result = t.img('map', t.path('x.vhd'), rc=1)
    t.refused(result, str(uuid.UUID(bytes=bytes(recorded))))
    t.refused(result, str(uuid.UUID(bytes=b'Q' * 16)))
    t.refused(result, '--parent FILE')
    # And the way on, if its content is known to be the same.
    t.refused(result, 'rebase -u --ignore-id-mismatch')
    t.img('rebase', '-q', '-u', '--ignore-id-mismatch', '-b', 'parent.vhd', t.path('x.vhd'))
    t.img('map', t.path('x.vhd'))


@case
def advice_fits_the_case(t):
    """What to do: for a parent that is not there, in use, on a drive of Windows, of a layer further down."""
    differencing(t)
    os.rename(t.path('parent.vhd'), t.path('p'))
    result = t.img('map', t.path('x.vhd'), rc=1)
    t.refused(result, 'not found')
    t.refused(result, '--parent FILE')
    t.check('--ignore-id-mismatch' not in result.err, 'advice on an identity', result)
    t.check('map-drive' not in result.err, 'advice on drives', result)

    made = vhdfile.Vhd(t.path('x.vhd'))
    vhdfile.write_sparse(t.path('leaf.vhd'), SIZE, parent_id=made.unique_id, parent_path=made.path)
    result = t.img('map', t.path('leaf.vhd'), rc=1)
    t.refused(result, 'symbolic link')
    t.check('--parent' not in result.err, '--parent is for the leaf', result)

    vhdfile.write_sparse(t.path('x.vhd'), SIZE, parent_id=b'P' * 16, locators=[vf.Locator.w2ku('d:\\disks\\none.vhd')])
    t.refused(t.img('map', t.path('x.vhd'), rc=1), '--map-drive D:=DIR')

    os.rename(t.path('p'), t.path('parent.vhd'))
    differencing(t)
    read_end, write_end = os.pipe()
    process = t.start(tool('vhd-io'), t.path('parent.vhd'), stdin=read_end)
    os.close(read_end)
    t.wait_until(lambda: locked(t.path('parent.vhd')), 'the lock of vhd-io')
    result = t.img('map', t.path('x.vhd'), rc=1)
    t.refused(result, 'in use')
    t.check('not found' not in result.err, 'it is there', result)
    os.close(write_end)
    t.finish(process)


@case
def parent_is_itself(t):
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\x.vhd')], unique_id=b'P' * 16)
    os.unlink(t.path('parent.vhd'))
    refused_everywhere(t, ('loop', 'cycle', 'itself', 'twice'), info=False)


@case
def chain_is_a_circle(t):
    for name, own, above in (('x.vhd', b'A', b'B'), ('b.vhd', b'B', b'C'), ('c.vhd', b'C', b'A')):
        target = {b'A': 'x.vhd', b'B': 'b.vhd', b'C': 'c.vhd'}[above]
        link(t, name, [vf.Locator.w2ru('.\\' + target)], unique_id=own * 16, parent_id=above * 16)
    refused_everywhere(t, ('loop', 'cycle', 'twice', 'circle'), info=False)


@case
def chain_too_deep(t):
    parent = None
    for i in range(700):
        path = t.path('x.vhd' if i == 699 else '%d.vhd' % i)
        parent = vhdfile.write_sparse(path, MiB, parent_id=parent and parent.unique_id,
                                      parent_path=parent and parent.path)
    refused_everywhere(t, ('deep', 'depth', 'layers', 'long'), info=False)


@case
def deep_chain_opens(t):
    """Deep enough for anyone, and no descriptor or memory runs out."""
    parent = None
    for i in range(100):
        path = t.path('x.vhd' if i == 99 else '%d.vhd' % i)
        parent = vhdfile.write_sparse(path, MiB, [(i * 512, bytes([i + 1]) * 512)],
                                      parent_id=parent and parent.unique_id, parent_path=parent and parent.path)
    data = t.content(t.path('x.vhd'))
    t.equal([data[i * 512] for i in range(100)], list(range(1, 101)), 'a sector of each layer')


@case
def parent_is_broken(t):
    """The message names the parent, not only the child."""
    differencing(t)
    vhdfile.patch_header(t.path('parent.vhd'), block_size=0)
    unchanged = Unchanged(*files(t))
    result = t.img('convert', '-q', '-O', 'raw', t.path('x.vhd'), t.path('out.raw'), rc=1)
    t.refused(result, 'parent.vhd', 'block size')
    unchanged.verify(t)


@case
def no_link_at_all(t):
    link(t, 'x.vhd', [], '')
    refused_everywhere(t, ('parent',), info=False)


@case
def no_parent_identity(t):
    """Zeros in the place of the identity: only a parent that was asked for is opened."""
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.vhd')], parent_id=bytes(16))
    refused_everywhere(t, ('raw', 'identity', 'parent'), info=False)


@case
def raw_parent_needs_leave(t):
    with open(t.path('parent.raw'), 'wb') as f:
        f.write(b'\7' * 4096 + bytes(SIZE - 4096))
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.raw')], parent_id=bytes(16))
    os.unlink(t.path('parent.vhd'))
    refused_everywhere(t, ('raw',), info=False)
    opens(t, '--raw-parent')
    opens(t, '--parent', t.path('parent.raw'))


def disk_that_looks_like_an_image(t, make):
    """What a guest writes onto a plain disk makes no image of that: it could name any file of the host as its parent."""
    with open(t.path('secret'), 'wb') as f:
        f.write(b'\5' * SIZE)
    make(t.path('image'))
    with open(t.path('image'), 'rb') as f:
        image = f.read()
    disk = bytearray(b'\7' * SIZE)
    disk[:len(image)] = image
    disk[-512:] = image[-512:]
    os.unlink(t.path('image'))
    with open(t.path('disk'), 'wb') as f:
        f.write(disk)
    t.img('create', '-q', '-f', 'vhd', '-b', 'disk', '-F', 'raw', t.path('x.vhd'))
    t.same_content(t.content(t.path('x.vhd'), '--raw-parent', fmt='vhd'), bytes(disk), 'child of a plain disk')
    t.same_content(t.content(t.path('x.vhd'), '--parent', t.path('disk'), fmt='vhd'), bytes(disk), 'the same, named')
    # A merge writes to the disk, not to an image in it.
    t.io('-f', 'vhd', '--raw-parent', '-c', 'write -q -P 9 %d 512' % (SIZE // 2), t.path('x.vhd'))
    disk[SIZE // 2:SIZE // 2 + 512] = b'\x09' * 512
    t.img('commit', '-q', '--raw-parent', t.path('x.vhd'))
    with open(t.path('disk'), 'rb') as f:
        t.same_content(f.read(), bytes(disk), 'the disk after a merge')
    t.same_content(t.content(t.path('x.vhd'), '--raw-parent', fmt='vhd'), bytes(disk), 'child after a merge')


for label, unique_id in (('', b'Q' * 16), ('-without-id', bytes(16))):
    add('disk-that-looks-differencing' + label, disk_that_looks_like_an_image,
        lambda path, unique_id=unique_id: vhdfile.write_sparse(
            path, SIZE, unique_id=unique_id, parent_id=bytes(16),
            locators=[vf.Locator.w2ru('.\\secret')], block_size=64 * KiB))
    add('disk-that-looks-fixed' + label, disk_that_looks_like_an_image,
        lambda path, unique_id=unique_id: vhdfile.write_fixed(path, SIZE - 512, unique_id=unique_id))


@case
def parent_without_unique_id(t):
    """Its children could not be told from those of a plain disk."""
    vhdfile.write_sparse(t.path('parent.vhd'), SIZE, unique_id=bytes(16))
    unchanged = Unchanged(t.path('parent.vhd'))
    t.refused(t.img('create', '-q', '-f', 'vhd', '-b', 'parent.vhd', t.path('x.vhd'), rc=1), 'unique id', 'plain disk')
    unchanged.verify(t)


# --- locators that lie --------------------------------------------------------------------------------------

BAD_LOCATORS = {
    'offset-0': dict(data_offset=0),
    'behind-the-end': dict(data_offset=1 << 40),
    'offset-overflows': dict(data_offset=(1 << 64) - 2),
    'length-0': dict(length=0),
    'length-odd': dict(length=7),
    'length-huge': dict(length=0xFFFFFFFE),
    'code-unknown': dict(code=b'ABCD'),
}


def bad_locator_is_skipped(t, fields):
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.vhd'), vf.Locator.w2ru('.\\parent.vhd')])
    vhdfile.patch_locator(t.path('x.vhd'), 0, **fields)
    opens(t)


def bad_locators_only(t, fields):
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.vhd')])
    vhdfile.patch_locator(t.path('x.vhd'), 0, **fields)
    refused_everywhere(t, ('parent',), info=False)



for name, fields in BAD_LOCATORS.items():
    add('locator-%s-is-skipped' % name, bad_locator_is_skipped, fields)
    add('locator-%s-alone' % name, bad_locators_only, fields)


# --- every way to name a parent that is to be followed ------------------------------------------------------

FOLLOWED = {
    'w2ru': [vf.Locator.w2ru('.\\parent.vhd')],
    'w2ru-without-dot': [vf.Locator.w2ru('parent.vhd')],
    'w2ru-terminated': [vf.Locator.w2ru('.\\parent.vhd\0')],
    'w2ru-other-case': [vf.Locator.w2ru('.\\PARENT.VHD')],
    'w2ru-bom': [vf.Locator(b'W2ru', '\ufeff.\\parent.vhd'.encode('utf-16-le'))],
    'w2ru-space-in-sectors': [vf.Locator(b'W2ru', '.\\parent.vhd'.encode('utf-16-le'), 'sectors')],
    'w2ku-base-name': [vf.Locator.w2ku('D:\\elsewhere\\parent.vhd')],
    'wi2r': [vf.Locator(b'Wi2r', b'.\\parent.vhd')],
    'macx-relative': [vf.Locator.macx('file://./parent.vhd')],
    'macx-escaped': [vf.Locator.macx('file://./p%61rent.vhd')],
    'second-slot': [vf.Locator.w2ru('.\\nothing.vhd'), vf.Locator.w2ru('.\\parent.vhd')],
    'past-an-alias': [vf.Locator(b'Mac ', b'\1\2\3\4'), vf.Locator.w2ru('.\\parent.vhd')],
}


def followed(t, locators):
    link(t, 'x.vhd', locators)
    opens(t)


for name, locators in FOLLOWED.items():
    add('follows-' + name, followed, locators)


@case
def follows_the_name(t):
    link(t, 'x.vhd', [], 'parent.vhd')
    opens(t)


@case
def follows_the_base_name_of_a_windows_path(t):
    link(t, 'x.vhd', [], 'C:\\Users\\somebody\\parent.vhd')
    opens(t)


@case
def follows_macx_absolute(t):
    link(t, 'x.vhd', [vf.Locator.macx('file://' + t.path('elsewhere/parent.vhd'))])
    os.mkdir(t.path('elsewhere'))
    os.rename(t.path('parent.vhd'), t.path('elsewhere/parent.vhd'))
    opens(t)


@case
def follows_a_drive_that_is_mapped(t):
    link(t, 'x.vhd', [vf.Locator.w2ku('C:\\disks\\parent.vhd')])
    os.makedirs(t.path('c/disks'))
    os.rename(t.path('parent.vhd'), t.path('c/disks/parent.vhd'))
    refused_everywhere(t, ('parent',), info=False)
    opens(t, '--map-drive', 'C:=' + t.path('c'))


@case
def passes_a_stranger_of_the_right_name(t):
    """A file of the right name and the wrong identity does not end the search."""
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\other.vhd'), vf.Locator.w2ru('.\\parent.vhd')])
    vhdfile.write_sparse(t.path('other.vhd'), SIZE, [(0, b'\5' * 4096)])
    opens(t)


# --- what must not be opened for a stranger's image ---------------------------------------------------------

@case
def fifo_is_not_waited_for(t):
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\pipe')])
    os.unlink(t.path('parent.vhd'))
    os.mkfifo(t.path('pipe'))
    refused_everywhere(t, ('parent', 'regular'), info=False)


@case
def device_is_not_opened(t):
    link(t, 'x.vhd', [vf.Locator.macx('file:///dev/zero')], parent_id=bytes(16))
    os.unlink(t.path('parent.vhd'))
    refused_everywhere(t, ('parent', 'regular', 'device'), info=False, options=['--raw-parent'])


@case
def secrets_are_not_read_as_a_parent(t):
    """A text file named as the parent: neither opened as raw nor shown in the message."""
    with open(t.path('secret.txt'), 'w') as f:
        f.write('the secret words\n' * 100)
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\secret.txt')])
    os.unlink(t.path('parent.vhd'))
    result = t.img('convert', '-q', '-O', 'raw', t.path('x.vhd'), t.path('out.raw'), rc=1)
    t.refused(result, 'parent')
    t.check('secret words' not in result.err + result.out, 'content of the file in the message', result)


@case
def confined_to_a_directory(t):
    os.makedirs(t.path('jail'))
    link(t, 'x.vhd', [vf.Locator.w2ru('..\\parent.vhd')])
    t.need_openat2(t.path('parent.vhd'))
    shutil.move(t.path('x.vhd'), t.path('jail/x.vhd'))
    opens(t, path='jail/x.vhd')
    unchanged = Unchanged(t.path('jail/x.vhd'), t.path('parent.vhd'))
    result = t.img('convert', '-q', '--confine', t.path('jail'), '-O', 'raw', t.path('jail/x.vhd'), t.path('out.raw'),
                   rc=1)
    t.refused(result, ('confine', 'below', 'outside', 'parent'))
    opens(t, '--confine', t.dir, path='jail/x.vhd')
    os.symlink(t.path('parent.vhd'), t.path('jail/inside.vhd'))
    shutil.copy(t.path('jail/x.vhd'), t.path('jail/y.vhd'))
    result = t.img('convert', '-q', '--confine', t.path('jail'), '--parent', t.path('jail/inside.vhd'), '-O', 'raw',
                   t.path('jail/y.vhd'), t.path('out.raw'), rc=1)
    t.refused(result, ('confine', 'below', 'outside'))
    unchanged.verify(t)


@case
def time_stamp_is_a_warning(t):
    link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.vhd')], parent_timestamp=12345)
    opens(t)


@case
def smaller_and_larger_children(t):
    """A larger child reads zeros behind its parent, a smaller one clips it."""
    vhdfile.write_sparse(t.path('parent.vhd'), MiB, [(0, b'\7' * MiB)], unique_id=b'P' * 16)
    for size in (MiB - 4096, MiB - 512, MiB + 512, 3 * MiB):
        vhdfile.write_sparse(t.path('x.vhd'), size, [(0, b'\1' * 512)], parent_id=b'P' * 16, block_size=64 * KiB,
                             parent_path=t.path('parent.vhd'))
        expected = (b'\1' * 512 + b'\7' * (MiB - 512)).ljust(size, b'\0')[:size]
        t.same_content(t.content(t.path('x.vhd')), expected, 'child of %d bytes' % size)


@case
def locator_behind_the_end(t):
    """It does not count; but no block comes to stand where it would count in a longer file."""
    path = t.path('x.vhd')
    for where, length in ((0, 40), (512, 512), (100 * 1024, 20), (0, 300 * 1024)):
        link(t, 'x.vhd', [vf.Locator.w2ru('.\\parent.vhd')] * 2, block_size=65536)
        vf.patch_locator(path, 1, data_offset=os.path.getsize(path) + where, length=length)
        blocks = 4
        t.io('-f', 'vhd', *[word for i in range(blocks) for word in ('-c', 'write -q -P %d %d 64k' % (i + 2, i * 65536))], path)
        t.io('-f', 'vhd', '-c', 'write -q -P 9 0 512', path)
        data = t.content(path, fmt='vhd')
        t.equal([data[i * 65536 + 512] for i in range(blocks)], [2, 3, 4, 5], 'what was written')
        t.img('check', '-q', '-f', 'vhd', path)
        os.unlink(path)


main()
