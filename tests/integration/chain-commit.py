# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains, committed from any layer into any ancestor.

VHDKIT_CHAINS: how many (60).  VHDKIT_SEED: of the first one; each chain has its own seed, named in its case,
so VHDKIT_SEED=n VHDKIT_CHAINS=1 repeats one.
"""

import os
import random

import chains
from harness import Failed, Unchanged, add, can_direct, main, read_file, sha256

COUNT = int(os.environ.get('VHDKIT_CHAINS', '60'))
SEED = int(os.environ.get('VHDKIT_SEED', '1000'))


def commit_arguments(t, rng, layers, source, target):
    argv = ['commit', '-q']
    if rng.random() < 0.5:
        argv += ['-f', rng.choice(('vhd', 'vpc'))]
    if layers[0].kind == 'raw':
        argv.append('--raw-parent')
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
    layers = chains.make_chain(t, rng, rng.randrange(1, 9))
    source = rng.randrange(1, len(layers))
    target = rng.randrange(0, source)
    argv = commit_arguments(t, rng, layers, source, target)
    try:
        commit_and_judge(t, layers, source, target, argv)
    except Failed as e:
        raise Failed('seed %d: layer %d into %d: %s\n%s\n%s' %
                     (seed, source, target, ' '.join(map(str, argv)), chains.describe(layers), e)) from e


def commit_and_judge(t, layers, source, target, argv):
    for i, layer in enumerate(layers):
        t.same_content(chains.read_view(layers, i), layer.view, 'layer %d before, independent reader' % i)
    leaf = len(layers) - 1
    raw = ['--raw-parent'] if layers[0].kind == 'raw' else []
    if leaf >= 1:
        t.same_content(t.content(layers[leaf].path, *raw), layers[leaf].view, 'leaf before, our reader')
    bytes_before = [sha256(layer.path) for layer in layers]
    masked_before = {i: chains.masked(layers[i].path) for i in range(target + 1, source + 1)}

    if layers[source].size < layers[target].size:
        before = Unchanged(*(x.path for x in layers))
        t.refused(t.img(*argv, rc=1), ('cut the target', 'smaller'))
        before.verify(t, 'a refused commit')
        return
    t.img(*argv)

    view = layers[source].view
    t.same_content(chains.read_view(layers, target), view, 'target, independent reader')
    t.same_content(chains.read_view(layers, source), view, 'source, independent reader')
    t.same_content(chains.read_view(layers, leaf), layers[leaf].view, 'leaf, independent reader')
    if layers[target].kind == 'raw':
        t.same_content(read_file(layers[target].path), view, 'raw target')
    else:
        t.same_content(t.content(layers[target].path, *raw, fmt='vhd'), view, 'target, our reader')
        # Blocks that became zero may leave holes, and the generator makes some.
        t.sound(layers[target].path, ours=layers[target].ours, leaks=True)
    t.same_content(t.content(layers[source].path, *raw), view, 'source, our reader')
    for i, layer in enumerate(layers):
        if i == target:
            continue
        if i == target + 1:
            t.check(chains.masked(layer.path) == masked_before[i],
                    'the target\'s child changed beyond the time stamp of its link')
        else:
            t.equal(sha256(layer.path), bytes_before[i], 'bytes of %s' % os.path.basename(layer.path))
    for i in range(target + 1, leaf + 1):
        t.img('check', '-q', '-f', 'vhd', *raw, layers[i].path, rc=(0, 3))
    t.img('compare', '-q', *raw, '-F', 'raw' if layers[target].kind == 'raw' else 'vhd',
          layers[source].path, layers[target].path)

    t.img(*argv)
    t.same_content(chains.read_view(layers, target), view, 'target after a second run')
    t.same_content(chains.read_view(layers, source), view, 'source after a second run')


for i in range(COUNT):
    add('chain-seed-%d' % (SEED + i), one_chain, SEED + i)

main()
