# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every request of a compaction fails once: one message, a status, a sound image, and a rerun that finishes."""

import os
import random

import chains
import faults
from harness import KiB, add, main, vhdfile


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
    layers = build(t, differencing)
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
        t.same_content(chains.read_view(work, len(work) - 1), view, 'content')
        t.sound(path, ours=False)
        t.equal(os.path.getsize(path), least, 'size of the compacted file')

    def failed(n):
        t.same_content(chains.read_view(work, len(work) - 1), view, 'content after the failure')
        t.same_content(t.content(path), view, 'content after the failure, our reader')
        t.img('check', '-q', '-f', 'vhd', path, rc=(0, 3))
        t.img(*argv)
        finished()

    failures = faults.every_request(t, restore, argv, failed, finished, errno)
    t.check(failures >= 8 // faults.STRIDE, 'only %d requests failed the job' % failures)
    print('# %s, %s: %d failures' % ('differencing' if differencing else 'dynamic', errno, failures))


for errno in faults.ERRORS:
    add('dynamic-' + errno, compact, False, errno)
    add('differencing-' + errno, compact, True, errno)

main()
