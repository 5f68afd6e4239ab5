# SPDX-License-Identifier: LGPL-2.1-or-later
"""The oracle judged: images of vhdfile.py read by other software, other software's images read by it.

Needs none of our programs: if this fails, the tests that use the oracle say nothing.
"""

import hashlib
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readers  # noqa: E402
from harness import KiB, MiB, QEMU_IMG, QEMU_IO, add, case, main, vhdcheck, vhdfile  # noqa: E402
import corpus_files  # noqa: E402


def random_writes(rng, size, count, unit=4096, largest=64 * KiB):
    writes = []
    for _ in range(count):
        length = rng.randrange(unit, largest + 1, unit)
        offset = rng.randrange(0, max(1, size - length), unit)
        length = min(length, size - offset)
        writes.append((offset, rng.randbytes(length)))
    return writes


def lay(view, writes, size):
    view = bytearray(view[:size].ljust(size, b'\0'))
    for offset, blob in writes:
        view[offset:offset + len(blob)] = blob
    return bytes(view)


def fixed(t, reader):
    rng = random.Random(1)
    size = 3 * MiB + 512 * 7
    writes = random_writes(rng, size, 20)
    vhdfile.write_fixed(t.path('f.vhd'), size, writes)
    t.equal(vhdcheck.check(t.path('f.vhd')), [], 'independent check')
    t.same_content(readers.read(t, reader, [t.path('f.vhd')]), lay(b'', writes, size), reader)
    t.same_content(vhdfile.Vhd(t.path('f.vhd')).read_all(), lay(b'', writes, size), 'own reader')


def dynamic(t, reader, block_size, packed):
    rng = random.Random(block_size + packed)
    size = max(4 * MiB, 3 * block_size) + 512 * 11
    writes = random_writes(rng, size, 30)
    vhdfile.write_sparse(t.path('d.vhd'), size, writes, block_size=block_size, rng=rng, packed=packed, gap=1536)
    t.equal(vhdcheck.check(t.path('d.vhd'), ours=not packed), [], 'independent check')
    t.same_content(readers.read(t, reader, [t.path('d.vhd')]), lay(b'', writes, size), reader)
    t.same_content(vhdfile.Vhd(t.path('d.vhd')).read_all(), lay(b'', writes, size), 'own reader')


def chain(t, reader, block_sizes):
    rng = random.Random(7)
    size = 6 * MiB
    view, parent, files = b'', None, []
    for depth in range(4):
        path = t.path('layer%d.vhd' % depth)
        writes = random_writes(rng, size, 25)
        made = vhdfile.write_sparse(path, size, writes, rng=rng, block_size=block_sizes[depth % 2],
                                    parent_id=parent and parent.unique_id, parent_path=parent and parent.path)
        view = lay(view, writes, size)
        t.equal(vhdcheck.check(path), [], 'independent check')
        files.insert(0, path)
        parent = made
    t.same_content(vhdfile.open_chain(files[0]).read_all(), view, 'own reader')
    t.same_content(readers.read(t, reader, files), view, reader)


for name in ('qemu', 'libvhdi', '7z'):
    add('fixed-read-by-' + name, fixed, name)
    for size in (4 * KiB, 64 * KiB, 512 * KiB, 2 * MiB, 16 * MiB):
        # A bitmap of less than a sector: qemu and libvhdi compute none below 4 KiB, which we do not write here.
        add('dynamic-%dk-read-by-%s' % (size // KiB, name), dynamic, name, size, False)
    add('dynamic-packed-read-by-' + name, dynamic, name, 2 * MiB, True)
add('chain-read-by-libvhdi', chain, 'libvhdi', (2 * MiB, 2 * MiB))
add('chain-of-mixed-blocks-read-by-7z', chain, '7z', (2 * MiB, 512 * KiB))


def made_by_qemu(t, options):
    t.need(QEMU_IMG, QEMU_IO)
    path = t.path('q.vhd')
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vpc', '-o', options, path, '9M')
    t.run(QEMU_IO, '-f', 'vpc', '-c', 'write -P 7 1M 512', '-c', 'write -P 9 6000k 700k', '-c', 'write -P 3 0 64k', path)
    image = vhdfile.Vhd(path)
    t.same_content(image.read_all(), readers.qemu(t, path), 'own reader')
    t.equal(vhdcheck.check(path, ours=False), [], 'independent check')


add('dynamic-made-by-qemu', made_by_qemu, 'subformat=dynamic')
add('dynamic-force-size-made-by-qemu', made_by_qemu, 'subformat=dynamic,force_size=on')
add('fixed-made-by-qemu', made_by_qemu, 'subformat=fixed')


def corpus_image(t, row):
    if row.virtual_size > 2 << 30:
        image = vhdfile.Vhd(corpus_files.unpack(t, row))
        t.equal((image.size, image.allocated()), (row.virtual_size, []), 'size and blocks of %s' % row.file)
        return
    path = corpus_files.unpack(t, row)
    lenient = 'badsum' in row.file
    if row.format == 'raw':
        image = vhdfile.Raw(path)
    else:
        image = vhdfile.open_chain(path, raw_parent=True, lenient=lenient)
    t.equal(image.size, row.virtual_size, 'size of %s' % row.file)
    digest = hashlib.sha256()
    for offset in range(0, image.size, 4 * MiB):
        digest.update(image.read(offset, min(4 * MiB, image.size - offset)))
    t.equal(digest.hexdigest(), row.content_sha256, 'content of %s' % row.file)
    if row.expected.startswith('opens') and row.format != 'raw':
        problems = vhdcheck.check(path, ours=False)
        t.equal([p for p in problems if p not in row.tolerated], [], 'independent check of %s' % row.file)


@case
def corpus_is_here(t):
    if not corpus_files.rows():
        t.skip('no corpus of foreign images (VHDKIT_CORPUS)')


for row in corpus_files.rows():
    if row.format.startswith('vhd/') or row.format == 'raw':
        add('corpus-' + row.file, corpus_image, row)

main()
