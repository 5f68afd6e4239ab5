# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other people's readers of VHD and VHDX, each as a function (t, path or chain) -> guest bytes; view () is for disks
that are too large for that.

Known faults, so that a difference is not taken for one of ours: qemu-img takes a differencing image for a
dynamic one; libvhdi (20210425) misreads a bitmap byte in which present and absent sectors meet, and reads
zeros in differencing images of other than 2 MiB blocks, so differencing images shown to it have runs of whole
4 KiB and the usual block size; 7-Zip finds parents by name in the same directory only.  Of VHDX: qemu-img takes
sectors of 512 bytes alone and no differencing image; libvhdi and 7-Zip replay no log; libvhdi takes blocks of zeros in a differencing
image for blocks at offset 0; libvhdi and 7-Zip read nothing behind the end of a smaller parent; 7-Zip 26.02 refuses a
disk of an odd number of sectors.
"""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'integration'))

import harness  # noqa: E402
import views  # noqa: E402

_LIBVHDI = r'''
import sys, pyvhdi
files = []
for path in sys.argv[1:]:
    f = pyvhdi.file()
    f.open(path)
    files.append(f)
for child, parent in zip(files, files[1:]):
    child.set_parent(parent)
leaf, left = files[0], files[0].get_media_size()
while left:
    piece = leaf.read_buffer(min(left, 1 << 20))
    if not piece:
        sys.exit("short read")
    sys.stdout.buffer.write(piece)
    left -= len(piece)
'''


def _python_with_libvhdi():
    for python in dict.fromkeys((sys.executable, '/usr/bin/python3', shutil.which('python3'))):
        if python and os.path.exists(python) and subprocess.run(
                [python, '-c', 'import pyvhdi'], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL).returncode == 0:
            return python
    return None


def _seven_zip():
    return next((p for p in ('7zz', '7z') if harness.have(p)), None)


def available():
    found = []
    if harness.have(harness.QEMU_IMG):
        found.append('qemu')
    if _python_with_libvhdi():
        found.append('libvhdi')
    if _seven_zip():
        found.append('7z')
    return found


def need(t, reader):
    if reader not in available():
        t.skip('%s is not here' % {'qemu': 'qemu-img', 'libvhdi': 'the python module of libvhdi (pyvhdi)',
                                   '7z': '7-Zip (7zz or 7z)'}[reader])


def qemu(t, path, fmt='vpc'):
    need(t, 'qemu')
    out = t.path('qemu.raw')
    t.run(harness.QEMU_IMG, 'convert', '-f', fmt, '-O', 'raw', path, out)
    data = harness.read_file(out)
    os.unlink(out)
    return data


def libvhdi(t, *chain):
    """@chain from the leaf to the base."""
    need(t, 'libvhdi')
    result = subprocess.run([_python_with_libvhdi(), '-c', _LIBVHDI, *chain], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=harness.TIMEOUT)
    if result.returncode:
        raise harness.Failed('libvhdi: ' + result.stderr.decode(errors='replace')[-500:])
    return result.stdout


def seven_zip(t, path):
    need(t, '7z')
    result = subprocess.run([_seven_zip(), 'x', '-so', '-tVHD', '-bso0', '-bse2', '-bd', path], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=harness.TIMEOUT,
                            cwd=os.path.dirname(path))
    if result.returncode:
        raise harness.Failed('7-Zip: ' + result.stderr.decode(errors='replace')[-500:])
    return result.stdout


def read(t, reader, chain):
    """Content of @chain (leaf first) as @reader sees it."""
    if reader == 'qemu':
        return qemu(t, chain[0])
    if reader == 'libvhdi':
        return libvhdi(t, *chain)
    return seven_zip(t, chain[0])


def view(t, reader, chain, fmt='vhdx'):
    """The same as a raw file with holes for zeros: a view, see views.py."""
    need(t, reader)
    out = t.path(reader + '.raw')
    if reader == 'qemu':
        t.run(harness.QEMU_IMG, 'convert', '-f', fmt, '-O', 'raw', chain[0], out)
        return views.RawFile(out)
    argv = ([_python_with_libvhdi(), '-c', _LIBVHDI, *chain] if reader == 'libvhdi' else
            [_seven_zip(), 'x', '-so', '-t' + fmt.upper(), '-bso0', '-bse2', '-bd', chain[0]])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               cwd=os.path.dirname(chain[0]))
    zeros = bytes(64 * harness.KiB)
    with open(out, 'wb') as f:
        while True:
            piece = process.stdout.read(len(zeros))
            if not piece:
                break
            if piece == zeros:
                f.seek(len(piece), 1)
            else:
                f.write(piece)
        f.truncate(f.tell())
    _, err = process.communicate(timeout=harness.TIMEOUT)
    if process.returncode:
        raise harness.Failed('%s: %s' % (reader, err.decode(errors='replace')[-500:]))
    return views.RawFile(out)
