# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that must be refused: shared judging of the reject- tests."""

import os

import vhdfile
from harness import KiB, MiB, Unchanged

SIZE = 4 * MiB
BLOCK = 64 * KiB


def dynamic(t, **options):
    """A sound image of a few blocks, to be damaged."""
    data = options.pop('data', [(i * BLOCK, bytes([i + 1]) * BLOCK) for i in (0, 1, 5, 63)])
    return vhdfile.write_sparse(t.path('x.vhd'), options.pop('size', SIZE), data, block_size=BLOCK, **options)


def differencing(t, **options):
    """A sound child with two blocks over a sound parent."""
    parent = vhdfile.write_sparse(t.path('parent.vhd'), SIZE, [(0, b'\7' * SIZE)], block_size=2 * MiB)
    options.setdefault('parent_id', parent.unique_id)
    options.setdefault('parent_path', parent.path)
    return vhdfile.write_sparse(t.path('x.vhd'), SIZE, [(BLOCK, b'\1' * 4096), (5 * BLOCK, b'\2' * BLOCK)],
                                block_size=BLOCK, **options)


def files(t):
    return [t.path(name) for name in sorted(os.listdir(t.dir)) if os.path.isfile(t.path(name))]


def refused_everywhere(t, phrases, name='x.vhd', info=True, options=()):
    """Nothing opens it, each time with one message that names the file and has one of the @phrases."""
    path = t.path(name)
    unchanged = Unchanged(*files(t))
    commands = [['convert', '-q', '-f', 'vhd', *options, '-O', 'raw', path, t.path('out.raw')]]
    if info:
        commands.append(['info', '-f', 'vhd', *options, path])
    for argv in commands:
        t.refused(t.img(*argv, rc=1), phrases, os.path.basename(name))
    t.refused(t.io('-f', 'vhd', *options, '-c', 'write -P 1 0 512', path, rc=1), phrases)
    unchanged.verify(t, 'a refused open')


def check_reports(t, phrases, name='x.vhd', rc=(1, 2, 63), options=()):
    """check says what is wrong and changes nothing; @rc 2: corruption found, 1: could not be checked."""
    unchanged = Unchanged(*files(t))
    result = t.img('check', '-f', 'vhd', *options, t.path(name), rc=rc)
    text = (result.out + result.err).lower()
    phrases = phrases if isinstance(phrases, tuple) else (phrases,)
    t.check(any(p.lower() in text for p in phrases), 'check does not say %s' % ' or '.join(phrases), result)
    unchanged.verify(t, 'check')
