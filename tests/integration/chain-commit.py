# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains, committed from any layer into any ancestor; of VHD, or of VHDX with "vhdx" as first argument.

VHDKIT_CHAINS: how many (60; of VHDX 25).  VHDKIT_SEED: of the first one; each chain has its own seed, named in its case,
so VHDKIT_SEED=n VHDKIT_CHAINS=1 repeats one.
"""

import os
import random
import sys

import chains
import vhdxchains
from harness import Failed, Unchanged, add, can_direct, main, sha256

maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]

COUNT = int(os.environ.get('VHDKIT_CHAINS', '60' if maker is chains else '25'))
SEED = int(os.environ.get('VHDKIT_SEED', '1000'))


def commit_arguments(t, rng, layers, source, target):
    argv = ['commit', '-q']
    if rng.random() < 0.5:
        argv += ['-f', rng.choice(maker.FORMAT_NAMES)]
    argv += maker.parent_options(layers)
    if rng.random() < 0.2:
        argv.append('-d')
    if rng.random() < 0.3:
        argv += ['-m', rng.choice((1, 2, 16))]
    cache = rng.choice(('writeback', 'writeback', 'none', 'writethrough', 'directsync', 'unsafe'))
    if cache not in ('none', 'directsync') or can_direct(t.dir):
        argv += ['-t', cache]
    depth = source - target
    if depth > 1 or rng.random() < 0.6:
        argv += rng.choice((['--depth', depth], ['-b', layers[target].path]))
    return argv + [layers[source].path]


def one_chain(t, seed):
    rng = random.Random(seed)
    layers = maker.make_chain(t, rng, rng.randrange(1, 9))
    source = rng.randrange(1, len(layers))
    target = rng.randrange(0, source)
    argv = commit_arguments(t, rng, layers, source, target)
    try:
        commit_and_judge(t, layers, source, target, argv)
    except Failed as e:
        raise Failed('seed %d: layer %d into %d: %s\n%s\n%s' %
                     (seed, source, target, ' '.join(map(str, argv)), maker.describe(layers), e)) from e


def commit_and_judge(t, layers, source, target, argv):
    for i, layer in enumerate(layers):
        maker.reads_as(t, layers, i, layer.view, 'layer %d before, independent reader' % i)
    leaf = len(layers) - 1
    options = maker.parent_options(layers)
    if leaf >= 1:
        maker.tool_reads_as(t, layers[leaf], layers[leaf].view, 'leaf before, our reader', options)
    bytes_before = [sha256(layer.path) for layer in layers]
    masked_before = maker.masked(layers[target + 1].path)

    if layers[source].size < layers[target].size:
        before = Unchanged(*(x.path for x in layers))
        t.refused(t.img(*argv, rc=1), ('cut the target', 'smaller'))
        before.verify(t, 'a refused commit')
        return
    t.img(*argv)

    view = layers[source].view
    maker.reads_as(t, layers, target, view, 'target, independent reader')
    maker.reads_as(t, layers, source, view, 'source, independent reader')
    maker.reads_as(t, layers, leaf, layers[leaf].view, 'leaf, independent reader')
    maker.tool_reads_as(t, layers[target], view, 'target, our reader', options)
    # Blocks that became zero may leave holes, and the generator makes some.
    maker.sound(t, layers[target], leaks=True)
    maker.tool_reads_as(t, layers[source], view, 'source, our reader', options)
    for i, layer in enumerate(layers):
        if i == target:
            continue
        if i == target + 1:
            t.check(maker.masked(layer.path) == masked_before,
                    'the target\'s child changed beyond its link to the target')
            maker.linked(t, layers, i)
        else:
            t.equal(sha256(layer.path), bytes_before[i], 'bytes of %s' % os.path.basename(layer.path))
    for i in range(target + 1, leaf + 1):
        t.img('check', '-q', '-f', maker.FORMAT, *options, layers[i].path, rc=(0, 3))
    t.img('compare', '-q', *options, '-F', maker.format_of(layers[target]), layers[source].path, layers[target].path)

    t.img(*argv)
    maker.reads_as(t, layers, target, view, 'target after a second run')
    maker.reads_as(t, layers, source, view, 'source after a second run')


for i in range(COUNT):
    add('chain-seed-%d' % (SEED + i), one_chain, SEED + i)

main()
