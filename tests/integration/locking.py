# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image locks: against QEMU, and between our own programs."""

import fcntl
import os
import struct

from harness import MiB, QEMU_IMG, QEMU_IO, Unchanged, case, main, tool, vhdfile

F_OFD_SETLK = 37
IN_USE = ('in use', 'lock', 'another process', 'used by')


def image(t, name='x.vhd', **options):
    vhdfile.write_sparse(t.path(name), 4 * MiB, [(0, b'\1' * 4096)], **options)
    return t.path(name)


def hold(t, *argv):
    """A program that keeps its image open until its standard input ends."""
    read_end, write_end = os.pipe()
    process = t.start(*argv, stdin=read_end)
    os.close(read_end)
    t.hold = getattr(t, 'hold', []) + [write_end]
    return process, write_end


def locked(path):
    """Whether any process holds image locks on @path."""
    stat = os.stat(path)
    inode = '%02x:%02x:%d' % (os.major(stat.st_dev), os.minor(stat.st_dev), stat.st_ino)
    with open('/proc/locks', encoding='ascii') as f:
        return any(inode in line and 'OFD' in line for line in f)


def write_refused(t, path):
    for argv in (['io', '-f', 'vhd', '-c', 'write -P 9 0 512', path], ['img', 'compact', '-q', path]):
        result = (t.io if argv[0] == 'io' else t.img)(*argv[1:], rc=1)
        t.refused(result, IN_USE, os.path.basename(path))


@case
def open_for_writing_in_qemu(t):
    """Refused to writers and readers; -U looks all the same."""
    t.need(QEMU_IO)
    path = image(t)
    process, end = hold(t, QEMU_IO, '-f', 'vpc', path)
    t.wait_until(lambda: locked(path), 'the lock of qemu-io')
    unchanged = Unchanged(path)
    write_refused(t, path)
    t.refused(t.img('info', '-f', 'vhd', path, rc=1), IN_USE, 'x.vhd')
    t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'), rc=1), IN_USE)
    t.img('info', '-f', 'vhd', '-U', path)
    t.img('map', '-f', 'vhd', '-U', path)
    unchanged.verify(t, 'a refused open')
    os.close(end)
    t.finish(process)
    t.img('info', '-f', 'vhd', path)


@case
def open_for_reading_in_qemu(t):
    """Readers share, writers wait."""
    t.need(QEMU_IO)
    path = image(t)
    process, end = hold(t, QEMU_IO, '-r', '-f', 'vpc', path)
    t.wait_until(lambda: locked(path), 'the lock of qemu-io')
    t.img('info', '-f', 'vhd', path)
    t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'))
    os.close(end)
    t.finish(process)


@case
def open_for_writing_here_refused_to_qemu(t):
    t.need(QEMU_IMG, QEMU_IO)
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', 'vhd', path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    result = t.run(QEMU_IO, '-f', 'vpc', '-c', 'write 0 512', path, rc=None)
    t.check(result.rc != 0 and 'lock' in result.err, 'qemu-io was let in', result)
    result = t.run(QEMU_IMG, 'info', '-f', 'vpc', path, rc=None)
    t.check(result.rc != 0 and 'lock' in result.err, 'qemu-img was let in', result)
    os.close(end)
    t.finish(process)
    t.run(QEMU_IMG, 'info', '-f', 'vpc', path)


@case
def two_of_our_writers(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', 'vhd', path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    write_refused(t, path)
    t.img('info', '-U', path)
    os.close(end)
    t.finish(process)
    t.io('-f', 'vhd', '-c', 'write -P 9 0 512', path)


@case
def two_of_our_readers(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-r', '-f', 'vhd', path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    t.img('info', path)
    os.close(end)
    t.finish(process)


@case
def parent_of_an_open_chain_is_not_written(t):
    """A commit into, or a write to, the parent of an image in use."""
    parent = image(t, 'p.vhd')
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, [(8192, b'\2' * 512)], parent_id=vhdfile.Vhd(parent).unique_id,
                         parent_path=parent)
    process, end = hold(t, tool('vhd-io'), '-f', 'vhd', t.path('c.vhd'))
    t.wait_until(lambda: locked(parent), 'the lock on the parent')
    unchanged = Unchanged(parent, t.path('c.vhd'))
    write_refused(t, parent)
    t.refused(t.img('commit', '-q', t.path('c.vhd'), rc=1), IN_USE)
    t.img('info', parent)
    unchanged.verify(t, 'a refused write')
    os.close(end)
    t.finish(process)
    t.img('commit', '-q', t.path('c.vhd'))


@case
def commit_refused_while_a_reader_uses_the_target(t):
    """Whoever reads the target would see it change."""
    t.need(QEMU_IO)
    parent = image(t, 'p.vhd')
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, [(8192, b'\2' * 512)], parent_id=vhdfile.Vhd(parent).unique_id,
                         parent_path=parent)
    process, end = hold(t, tool('vhd-io'), '-r', '-f', 'vhd', parent)
    t.wait_until(lambda: locked(parent), 'the lock of the reader')
    unchanged = Unchanged(parent, t.path('c.vhd'))
    result = t.img('commit', '-q', t.path('c.vhd'), rc=(0, 1))
    if result.rc:
        t.refused(result, IN_USE)
        unchanged.verify(t, 'a refused commit')
    os.close(end)
    t.finish(process)


@case
def creating_over_an_image_in_use(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', 'vhd', path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    unchanged = Unchanged(path)
    t.refused(t.img('create', '-q', '-f', 'vhd', path, '1M', rc=1), IN_USE)
    vhdfile.write_fixed(t.path('s.vhd'), MiB)
    t.refused(t.img('convert', '-q', '-O', 'vhd', t.path('s.vhd'), path, rc=1), IN_USE)
    unchanged.verify(t, 'a refused create')
    os.close(end)
    t.finish(process)


@case
def the_bytes_that_are_locked(t):
    """Those of the convention, as qemu-io 7.2 was seen to lock them; readers may hold writers off."""
    path = image(t)
    for writable in (True, False):
        process, end = hold(t, tool('vhd-io'), *([] if writable else ['-r']), '-f', 'vhd', path)
        t.wait_until(lambda: locked(path), 'the lock')
        fd = os.open(path, os.O_RDWR)
        found = set()
        for at in list(range(100, 110)) + list(range(200, 210)):
            probe = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, at, 1, 0)
            answer = struct.unpack('hhqqi4x', fcntl.fcntl(fd, 36, probe))
            if answer[0] != fcntl.F_UNLCK:
                t.equal(answer[0], fcntl.F_RDLCK, 'kind of the lock on byte %d' % at)
                found.add(at)
        os.close(fd)
        os.close(end)
        t.finish(process)
        if writable:
            t.check({100, 101, 103, 201, 203} <= found <= {100, 101, 102, 103, 201, 202, 203}, 'bytes locked by a writer', found)
        else:
            t.check({100} <= found <= {100, 201, 202, 203}, 'bytes locked by a reader', found)
        t.check(not locked(path), 'still locked')


@case
def lock_of_a_stranger(t):
    """Somebody who does not share writing, without being QEMU."""
    path = image(t)
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 201, 1, 0))
    t.refused(t.io('-f', 'vhd', '-c', 'write 0 512', path, rc=1), IN_USE)
    t.img('info', path)
    os.close(fd)
    t.io('-f', 'vhd', '-c', 'write 0 512', path)


@case
def raw_files_are_locked_too(t):
    with open(t.path('x.raw'), 'wb') as f:
        f.truncate(MiB)
    process, end = hold(t, tool('vhd-io'), '-f', 'raw', t.path('x.raw'))
    t.wait_until(lambda: locked(t.path('x.raw')), 'the lock')
    t.io('-f', 'raw', '-c', 'write 0 512', t.path('x.raw'), rc=(0, 1))
    os.close(end)
    t.finish(process)


main()
