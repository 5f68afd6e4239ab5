# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images qemu wrote, also such as it left when it was killed, read and worked on by our tools."""

import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readers  # noqa: E402
from harness import MiB, QEMU_IMG, QEMU_IO, Unchanged, add, case, main, vhdcheck, vhdfile  # noqa: E402


def same(t, path, expected):
    unchanged = Unchanged(path)
    t.same_content(t.content(path), expected, 'our reader')
    t.same_content(vhdfile.Vhd(path).read_all(), expected, 'independent reader')
    t.img('check', '-f', 'vhd', path)
    unchanged.verify(t)


def written_by_qemu(t, options, size):
    t.need(QEMU_IMG, QEMU_IO)
    path = t.path('q.vhd')
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vpc', '-o', options, path, size)
    t.run(QEMU_IO, '-f', 'vpc', '-c', 'write -P 7 1M 512', '-c', 'write -P 9 6000k 700k', '-c', 'write -P 3 0 64k', path)
    same(t, path, readers.qemu(t, path))


add('dynamic', written_by_qemu, 'subformat=dynamic', '9M')
add('dynamic-exact-size', written_by_qemu, 'subformat=dynamic,force_size=on', '9M')
add('fixed', written_by_qemu, 'subformat=fixed', '9M')
add('fixed-exact-size', written_by_qemu, 'subformat=fixed,force_size=on', '9M')


def converted_by_qemu(t, options):
    t.need(QEMU_IMG)
    rng = random.Random(4)
    view = bytearray(12 * MiB)
    for i in range(9):
        at = rng.randrange(11 * MiB)
        view[at:at + 300000] = rng.randbytes(300000)
    with open(t.path('s.raw'), 'wb') as f:
        f.write(view)
    t.run(QEMU_IMG, 'convert', '-f', 'raw', '-O', 'vpc', '-o', 'force_size=on,' + options, t.path('s.raw'), t.path('q.vhd'))
    same(t, t.path('q.vhd'), bytes(view))


add('converted-dynamic', converted_by_qemu, 'subformat=dynamic')
add('converted-fixed', converted_by_qemu, 'subformat=fixed')


@case
def written_by_both_in_turns(t):
    """Blocks of ours among blocks of qemu's, which are not aligned."""
    t.need(QEMU_IMG, QEMU_IO)
    path = t.path('q.vhd')
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vpc', '-o', 'force_size=on', path, '40M')
    view = bytearray(40 * MiB)
    for i, at in enumerate((3, 17, 1, 30, 22, 9, 38, 5)):
        command = 'write -q -P %d %dM 1500k' % (i + 1, at)
        if i % 2:
            t.io('-f', 'vhd', '-c', command, path)
        else:
            t.run(QEMU_IO, '-f', 'vpc', '-c', command, path)
        view[at * MiB:at * MiB + 1500 * 1024] = bytes([i + 1]) * (1500 * 1024)
        t.equal(vhdcheck.check(path, ours=False), [], 'independent check after write %d' % i)
        t.same_content(readers.qemu(t, path), bytes(view), 'qemu after write %d' % i)
    same(t, path, bytes(view))
    t.img('compact', '-q', path)
    t.same_content(readers.qemu(t, path), bytes(view), 'qemu after our compaction')


@case
def killed_while_writing(t):
    """Each block holds one pattern or none; what a flush confirmed is there, and the image can be used on."""
    t.need(QEMU_IMG, QEMU_IO)
    rng = random.Random(11)
    for attempt in range(6):
        path = t.path('k%d.vhd' % attempt)
        t.run(QEMU_IMG, 'create', '-q', '-f', 'vpc', '-o', 'force_size=on', path, '200M')
        process = subprocess.Popen([QEMU_IO, '-f', 'vpc', '-t', 'writeback', path], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lines = []
        for i in range(100):
            lines.append('write -P %d %dM 2M\n' % (i % 250 + 1, (i * 37 % 100) * 2))
            lines.append('flush\n')
        process.stdin.write(''.join(lines).encode())
        process.stdin.flush()
        time.sleep(0.01 + rng.random() * 0.12)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0].decode()
        confirmed = said.count('wrote ')
        unchanged = Unchanged(path)
        data = t.content(path, fmt='vhd')
        found = t.img('check', '-f', 'vhd', path, rc=(0, 2, 3))
        unchanged.verify(t)
        for i in range(confirmed):
            at = (i * 37 % 100) * 2 * MiB
            t.check(data[at:at + 2 * MiB] == bytes([i % 250 + 1]) * (2 * MiB), 'write %d of %d is lost' % (i, confirmed), found)
        t.io('-f', 'vhd', '-c', 'write -q -P 255 0 4k', path)
        t.equal(vhdcheck.check(path, ours=False), [], 'independent check after a write of ours')
        expected = b'\xff' * 4096 + data[4096:]
        t.same_content(readers.qemu(t, path), expected, 'qemu after a write of ours')
        os.unlink(path)


@case
def qemu_probes_a_fixed_image_as_raw_and_we_do_not(t):
    t.need(QEMU_IMG)
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vpc', '-o', 'subformat=fixed,force_size=on', t.path('f.vhd'), '4M')
    info = t.img('info', '--output=json', t.path('f.vhd')).json
    t.equal((info['format'], info['virtual-size']), ('vhd', 4 * MiB), 'format and size')


@case
def size_is_the_current_size(t):
    """qemu cuts images of unknown creators to their geometry; the footer's size is the truth."""
    t.need(QEMU_IMG)
    vhdfile.write_sparse(t.path('x.vhd'), 100 * MiB, [(100 * MiB - 512, b'\1' * 512)], creator=b'vbox')
    t.equal(t.img('info', '--output=json', t.path('x.vhd')).json['virtual-size'], 100 * MiB, 'virtual size')
    t.equal(t.content(t.path('x.vhd'))[-512:], b'\1' * 512, 'last sector')


@case
def qemu_reads_a_child_as_zeros_and_we_do_not(t):
    t.need(QEMU_IMG)
    parent = vhdfile.write_sparse(t.path('p.vhd'), 4 * MiB, [(0, b'\1' * (4 * MiB))])
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, [(MiB, b'\2' * 4096)], parent_id=parent.unique_id,
                         parent_path=parent.path)
    t.same_content(t.content(t.path('c.vhd')), b'\1' * MiB + b'\2' * 4096 + b'\1' * (3 * MiB - 4096), 'our reader')


main()
