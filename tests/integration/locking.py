# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image locks: against QEMU, and between our own programs; of VHD, or of VHDX with "vhdx" as first argument."""

import fcntl
import os
import struct
import sys

import vhdxchains
from harness import MiB, QEMU_IMG, QEMU_IO, Unchanged, case, locked, main, tool, vhdfile

FORMAT, QEMU_FORMAT = 'vhd', 'vpc'
if sys.argv[1:2] == ['vhdx']:
    FORMAT = QEMU_FORMAT = sys.argv.pop(1)
IMAGE, PARENT, CHILD = 'x.' + FORMAT, 'p.' + FORMAT, 'c.' + FORMAT
F_OFD_SETLK = 37
IN_USE = ('in use', 'lock', 'another process', 'used by')


def image(t, name=IMAGE):
    if FORMAT == 'vhdx':
        return vhdxchains.write_layer(t, name, 4 * MiB, [(0, b'\1' * 4096)]).path
    return vhdfile.write_sparse(t.path(name), 4 * MiB, [(0, b'\1' * 4096)]).path


def child_and_parent(t):
    writes = [(8192, b'\2' * 512)]
    if FORMAT == 'vhdx':
        parent = vhdxchains.write_layer(t, PARENT, 4 * MiB, [(0, b'\1' * 4096)])
        return vhdxchains.write_layer(t, CHILD, 4 * MiB, writes, 'differencing', parent).path, parent.path
    parent = image(t, PARENT)
    vhdfile.write_sparse(t.path(CHILD), 4 * MiB, writes, parent_id=vhdfile.Vhd(parent).unique_id, parent_path=parent)
    return t.path(CHILD), parent


def hold(t, *argv):
    """A program that keeps its image open until its standard input ends."""
    read_end, write_end = os.pipe()
    process = t.start(*argv, stdin=read_end)
    os.close(read_end)
    t.hold = getattr(t, 'hold', []) + [write_end]
    return process, write_end


def write_refused(t, path):
    for argv in (['io', '-f', FORMAT, '-c', 'write -P 9 0 512', path], ['img', 'compact', '-q', path]):
        result = (t.io if argv[0] == 'io' else t.img)(*argv[1:], rc=1)
        t.refused(result, IN_USE, os.path.basename(path))


@case
def open_for_writing_in_qemu(t):
    """Refused to writers and readers; -U looks all the same."""
    t.need(QEMU_IO)
    path = image(t)
    process, end = hold(t, QEMU_IO, '-f', QEMU_FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of qemu-io')
    unchanged = Unchanged(path)
    write_refused(t, path)
    t.refused(t.img('info', '-f', FORMAT, path, rc=1), IN_USE, IMAGE)
    t.refused(t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'), rc=1), IN_USE)
    t.img('info', '-f', FORMAT, '-U', path)
    t.img('map', '-f', FORMAT, '-U', path)
    unchanged.verify(t, 'a refused open')
    os.close(end)
    t.finish(process)
    t.img('info', '-f', FORMAT, path)


@case
def open_for_reading_in_qemu(t):
    """Readers share, writers wait."""
    t.need(QEMU_IO)
    path = image(t)
    process, end = hold(t, QEMU_IO, '-r', '-f', QEMU_FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of qemu-io')
    t.img('info', '-f', FORMAT, path)
    t.img('convert', '-q', '-O', 'raw', path, t.path('o.raw'))
    os.close(end)
    t.finish(process)


@case
def open_for_writing_here_refused_to_qemu(t):
    t.need(QEMU_IMG, QEMU_IO)
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    result = t.run(QEMU_IO, '-f', QEMU_FORMAT, '-c', 'write 0 512', path, rc=None)
    t.check(result.rc != 0 and 'lock' in result.err, 'qemu-io was let in', result)
    result = t.run(QEMU_IMG, 'info', '-f', QEMU_FORMAT, path, rc=None)
    t.check(result.rc != 0 and 'lock' in result.err, 'qemu-img was let in', result)
    os.close(end)
    t.finish(process)
    t.run(QEMU_IMG, 'info', '-f', QEMU_FORMAT, path)


@case
def two_of_our_writers(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    write_refused(t, path)
    t.img('info', '-U', path)
    os.close(end)
    t.finish(process)
    t.io('-f', FORMAT, '-c', 'write -P 9 0 512', path)


@case
def two_of_our_readers(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-r', '-f', FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    t.img('info', path)
    os.close(end)
    t.finish(process)


@case
def parent_of_an_open_chain_is_not_written(t):
    """A commit into, or a write to, the parent of an image in use."""
    child, parent = child_and_parent(t)
    process, end = hold(t, tool('vhd-io'), '-f', FORMAT, child)
    t.wait_until(lambda: locked(parent), 'the lock on the parent')
    unchanged = Unchanged(parent, child)
    write_refused(t, parent)
    t.refused(t.img('commit', '-q', child, rc=1), IN_USE)
    t.img('info', parent)
    unchanged.verify(t, 'a refused write')
    os.close(end)
    t.finish(process)
    t.img('commit', '-q', child)


@case
def commit_refused_while_a_reader_uses_the_target(t):
    """Whoever reads the target would see it change."""
    t.need(QEMU_IO)
    child, parent = child_and_parent(t)
    process, end = hold(t, tool('vhd-io'), '-r', '-f', FORMAT, parent)
    t.wait_until(lambda: locked(parent), 'the lock of the reader')
    unchanged = Unchanged(parent, child)
    result = t.img('commit', '-q', child, rc=(0, 1))
    if result.rc:
        t.refused(result, IN_USE)
        unchanged.verify(t, 'a refused commit')
    os.close(end)
    t.finish(process)


@case
def creating_over_an_image_in_use(t):
    path = image(t)
    process, end = hold(t, tool('vhd-io'), '-f', FORMAT, path)
    t.wait_until(lambda: locked(path), 'the lock of vhd-io')
    unchanged = Unchanged(path)
    t.refused(t.img('create', '-q', '-f', FORMAT, path, '1M', rc=1), IN_USE)
    vhdfile.write_fixed(t.path('s.vhd'), MiB)
    t.refused(t.img('convert', '-q', '-O', FORMAT, t.path('s.vhd'), path, rc=1), IN_USE)
    unchanged.verify(t, 'a refused create')
    os.close(end)
    t.finish(process)


@case
def the_bytes_that_are_locked(t):
    """Those of the convention, as qemu-io 7.2 was seen to lock them; readers may hold writers off."""
    path = image(t)
    for writable in (True, False):
        process, end = hold(t, tool('vhd-io'), *([] if writable else ['-r']), '-f', FORMAT, path)
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
    t.refused(t.io('-f', FORMAT, '-c', 'write 0 512', path, rc=1), IN_USE)
    t.img('info', path)
    os.close(fd)
    t.io('-f', FORMAT, '-c', 'write 0 512', path)


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
