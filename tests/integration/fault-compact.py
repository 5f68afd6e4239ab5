# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every request of a compaction fails once: one message, a status, a sound image, and a rerun that finishes.
Of VHD, or of VHDX with "vhdx" as first argument.
"""

import os
import random
import sys

import chains
import faults
import vhdxchains
from harness import KiB, MiB, add, main, vhdfile

maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]


def build_vhdx(t, differencing):
    """Blocks of data, of zeros and, over a parent, of what it shows."""
    rng = random.Random(differencing)
    count = 12
    size = count * MiB - 512
    parent = None
    if differencing:
        parent = vhdxchains.write_layer(t, 'parent.vhdx', size, [(0, b'\1' * (6 * MiB))], block_size=2 * MiB)
    writes = [(i * MiB, rng.randbytes(4096)) for i in range(0, count, 4)]
    writes += [(i * MiB, bytes(MiB)) for i in range(1, count - 1, 4)]
    writes += [(i * MiB, b'\1' * 8192) for i in range(2, count - 1, 4)]
    layer = vhdxchains.write_layer(t, 'x.vhdx', size, writes, 'differencing' if differencing else 'dynamic', parent)
    return [parent, layer] if parent else [layer]


def build(t, differencing):
    rng = random.Random(differencing)
    block, count = 16 * KiB, 40
    size = block * count - 512
    parent = None
    below = b''
    if differencing:
        base = [(0, b'\1' * (size // 2 // 512 * 512))]
        parent = vhdfile.write_sparse(t.path('parent.vhd'), size, base, block_size=64 * KiB)
        below = chains.lay(b'', base, size)
    writes = [(i * block, rng.randbytes(4096)) for i in range(count) if i % 4 == 0]
    writes += [(i * block, bytes(block)) for i in range(1, count - 1, 4)]
    writes += [(i * block, b'\1' * block) for i in range(2, count - 1, 8)]
    made = vhdfile.write_sparse(t.path('x.vhd'), size, writes, block_size=block, rng=rng,
                                parent_id=parent and parent.unique_id,
                                locators=parent and chains.relative_link(parent))
    layers = [chains.Layer(parent.path, 'dynamic', below, parent.unique_id)] if parent else []
    return layers + [chains.Layer(made.path, 'diff', chains.lay(below, writes, size), made.unique_id)]


def compact(t, differencing, errno):
    layers = (build if maker is chains else build_vhdx)(t, differencing)
    work = chains.copy_chain(t, layers, 'work')
    path, view = work[-1].path, layers[-1].view
    argv = ['compact', '-q', path]

    def restore():
        chains.copy_chain(t, layers, 'work')

    restore()
    t.img(*argv)
    least = os.path.getsize(path)
    t.check(least < os.path.getsize(layers[-1].path), 'nothing was compacted')

    def finished():
        maker.reads_as(t, work, len(work) - 1, view, 'content')
        maker.sound(t, work[-1])
        t.equal(os.path.getsize(path), least, 'size of the compacted file')

    def failed(n):
        maker.reads_as(t, work, len(work) - 1, view, 'content after the failure')
        maker.tool_reads_as(t, work[-1], view, 'content after the failure, our reader')
        t.img('check', '-q', '-f', maker.FORMAT, path, rc=(0, 3))
        t.img(*argv)
        finished()

    failures = faults.every_request(t, restore, argv, failed, finished, errno)
    t.check(failures >= 8 // faults.STRIDE, 'only %d requests failed the job' % failures)
    print('# %s, %s: %d failures' % ('differencing' if differencing else 'dynamic', errno, failures))


for errno in faults.ERRORS:
    add('dynamic-' + errno, compact, False, errno)
    add('differencing-' + errno, compact, True, errno)

main()
