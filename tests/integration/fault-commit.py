# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every request of a commit fails once: one message, a status, a sound chain, and a rerun that finishes.  Of VHD, or of
VHDX with "vhdx" as first argument.
"""

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


def build_vhdx(t, rng, kind, grown):
    """The same of VHDX, with bitmaps to be merged and whole blocks."""
    size = 3 * MiB + 512 * 3
    layers = [vhdxchains.write_layer(t, 'base.vhdx', size, [(MiB, rng.randbytes(4096))],
                                     'fixed' if kind == 'fixed' else 'dynamic')]
    sizes = [size] * (3 if kind == 'diff' else 2)
    if grown:
        sizes[-1] += 700 * KiB
    for i, size in enumerate(sizes):
        writes = [(rng.randrange(size // 512 - 64) * 512, rng.randbytes(512 * rng.randrange(1, 64))) for _ in range(5)]
        layers.append(vhdxchains.write_layer(t, 'layer%d.vhdx' % (i + 1), size, writes + [(0, bytes(4096))],
                                             'differencing', layers[-1], block_size=(MiB, 2 * MiB, MiB)[i]))
    return layers


def build(t, rng, kind, grown, target_size=MiB + 512 * 3):
    """base <- target? <- middle <- source, small enough for hundreds of runs."""
    size = target_size
    layers = [chains.make_base(t, rng, 'dynamic' if kind == 'diff' else kind, size, False)]
    sizes = [size] * (3 if kind == 'diff' else 2)
    if grown:
        sizes[-1] += 700 * KiB
    for i, size in enumerate(sizes):
        path = t.path('layer%d.vhd' % (i + 1))
        parent = layers[-1]
        block = (64 * KiB, 16 * KiB, 512 * KiB)[i]
        writes = [(rng.randrange(size // 512 - 64) * 512, rng.randbytes(512 * rng.randrange(1, 64))) for _ in range(6)]
        writes.append((0, bytes(4096)))
        made = vhdfile.write_sparse(path, size, writes, block_size=block, parent_id=parent.unique_id or bytes(16),
                                    locators=chains.relative_link(parent))
        layers.append(chains.Layer(path, 'diff', chains.lay(parent.view, writes, size), made.unique_id,
                                   block_size=block))
    return layers


def commit(t, kind, grown, errno, op='any'):
    rng = random.Random('%s %s' % (kind, grown))
    layers = (build if maker is chains else build_vhdx)(t, rng, kind, grown)
    raw = ['--raw-parent'] if kind == 'raw' else []
    source = len(layers) - 1
    target = 1 if kind == 'diff' else 0
    work = chains.copy_chain(t, layers, 'work')
    argv = ['commit', '-q', *raw, '--depth', source - target, work[source].path]
    view = layers[source].view

    def restore():
        chains.copy_chain(t, layers, 'work')

    def finished():
        maker.reads_as(t, work, target, view, 'target')
        maker.reads_as(t, work, source, view, 'source')
        maker.sound(t, work[target])

    def failed(n):
        maker.reads_as(t, work, source, view, 'source after the failure')
        maker.tool_reads_as(t, work[source], view, 'source after the failure, our reader', raw)
        for i, layer in enumerate(work):
            if layer.kind != 'raw':
                t.img('check', '-q', '-f', maker.FORMAT, layer.path, rc=(0, 3))
        t.img(*argv)
        finished()

    failures = faults.every_request(t, restore, argv, failed, finished, errno, op)
    t.check(failures >= 8 // faults.STRIDE, 'only %d requests failed the job' % failures)
    print('# %s%s, %s: %d failures' % (kind, ' grown' if grown else '', errno, failures))


for errno in faults.ERRORS:
    add('into-dynamic-' + errno, commit, 'dynamic', False, errno)
    if maker is vhdxchains and errno != 'EIO':
        continue  # the same requests, at length
    add('into-differencing-' + errno, commit, 'diff', False, errno)
    add('into-fixed-' + errno, commit, 'fixed', False, errno)
    if maker is chains:
        add('into-raw-' + errno, commit, 'raw', False, errno)
add('growing-dynamic-EIO', commit, 'dynamic', True, 'EIO')
add('growing-differencing-EIO', commit, 'diff', True, 'EIO')
add('growing-fixed-EIO', commit, 'fixed', True, 'EIO')

main()
