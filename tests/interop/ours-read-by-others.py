# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images our tools wrote, read by qemu-img, libvhdi and 7-Zip."""

import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readers  # noqa: E402
import chains  # noqa: E402
from harness import KiB, MiB, Unchanged, add, main, vhdcheck, vhdfile  # noqa: E402

READERS = ('qemu', 'libvhdi', '7z')


def patterns(rng, size, count=25, unit=4096):
    """Writes of one byte each, whole units, so that every reader's bitmaps are put to no test they fail."""
    writes = []
    for _ in range(count):
        length = min(rng.randrange(1, 40) * unit, size // unit * unit)
        offset = rng.randrange(0, size // unit * unit - length + 1, unit)
        writes.append((offset, bytes([rng.randrange(1, 256)]) * length))
    return writes


def write(t, path, writes):
    chains.tool_writes(t, path, writes)


def all_agree(t, reader, files, view):
    readers.need(t, reader)
    unchanged = Unchanged(*files)
    t.same_content(readers.read(t, reader, files), view, reader)
    unchanged.verify(t, reader)


def single(t, reader, options, size, odd):
    rng = random.Random(size)
    path = t.path('x.vhd')
    t.img('create', '-q', '-f', 'vhd', '-o', options, path, size)
    writes = patterns(rng, size, unit=512 if odd else 4096)
    writes.append((size - 512, b'\xa5' * 512))
    write(t, path, writes)
    t.equal(vhdcheck.check(path), [], 'independent check')
    all_agree(t, reader, [path], chains.lay(b'', writes, size))


def converted(t, reader, options):
    rng = random.Random(8)
    size = 9 * MiB + 512 * 3
    view = chains.lay(b'', [(rng.randrange(size // 512 - 900) * 512, rng.randbytes(512 * 900)) for _ in range(8)], size)
    with open(t.path('s.raw'), 'wb') as f:
        f.write(view)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhd', '-o', options, t.path('s.raw'), t.path('x.vhd'))
    all_agree(t, reader, [t.path('x.vhd')], view)


def chain(t, reader, block_sizes):
    rng = random.Random(3)
    size = 9 * MiB
    view, files = b'', []
    for depth in range(4):
        path = t.path('layer%d.vhd' % depth)
        parent = ['-b', files[0]] if files else []
        t.img('create', '-q', '-f', 'vhd', '-o', 'block_size=%d' % block_sizes[depth % len(block_sizes)], *parent, path,
              *([] if files else [size]))
        writes = patterns(rng, size)
        write(t, path, writes)
        view = chains.lay(view, writes, size)
        files.insert(0, path)
    t.same_content(vhdfile.open_chain(files[0]).read_all(), view, 'independent reader')
    all_agree(t, reader, files, view)
    return files, view


def worked_on(t, reader):
    """After a commit and a compaction other readers still agree."""
    files, view = chain(t, reader, (2 * MiB,))
    t.img('commit', '-q', '--depth', '2', files[0])
    all_agree(t, reader, files[2:], view)
    t.img('compact', '-q', files[2])
    t.img('compact', '-q', files[3])
    all_agree(t, reader, files[2:], view)


for reader in READERS:
    for label, options in (('fixed', 'subformat=fixed'), ('dynamic', 'subformat=dynamic'),
                           ('dynamic-64k', 'block_size=64k'), ('dynamic-512k', 'block_size=512k'),
                           ('dynamic-16m', 'block_size=16M')):
        add('%s-%s' % (label, reader), single, reader, options, 20 * MiB, False)
    # A size that is no product of cylinders, heads and sectors must come out whole everywhere.
    add('fixed-odd-size-' + reader, single, reader, 'subformat=fixed', 5 * MiB + 512 * 13, True)
    add('dynamic-odd-size-' + reader, single, reader, 'subformat=dynamic', 5 * MiB + 512 * 13, True)
    add('converted-dynamic-' + reader, converted, reader, 'subformat=dynamic')
    add('converted-fixed-' + reader, converted, reader, 'subformat=fixed')
for reader in ('libvhdi', '7z'):
    add('chain-' + reader, chain, reader, (2 * MiB,))
    add('committed-and-compacted-' + reader, worked_on, reader)
add('chain-of-mixed-blocks-7z', chain, '7z', (2 * MiB, 64 * KiB, 512 * KiB))

main()
