# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hyper-V's change tracking files beside an image: whoever writes to the image says that they are stale."""

import os

from harness import MiB, Unchanged, add, main

SUFFIXES = '.rct', '.mrt'


def chain(t, fmt):
    base, leaf = t.path('p.' + fmt), t.path('c.' + fmt)
    t.img('create', '-q', '-f', fmt, base, 8 * MiB)
    t.img('create', '-q', '-f', fmt, '-b', base, leaf)
    t.io('-c', 'write -q -P 7 1M 64k', leaf)
    return base, leaf


def track(path, *suffixes):
    files = [path + suffix for suffix in suffixes]
    for file in files:
        with open(file, 'wb') as f:
            f.write(b'tracked')
    return files


def warned(t, result, files):
    lines = [line for line in result.err.splitlines() if 'change tracking' in line]
    t.equal(len(lines), 1 if files else 0, 'warnings (%s)' % result)
    for file in files:
        t.check(lines and file in lines[0], 'the warning does not name %s' % file, result)


def reading_says_nothing(t, fmt):
    base, leaf = chain(t, fmt)
    files = track(base, *SUFFIXES)
    unchanged = Unchanged(base, leaf, *files)
    for argv in (['map', base], ['check', base], ['convert', '-q', '-O', 'raw', base, t.path('o.raw')],
                 ['compare', base, base], ['info', base], ['map', leaf]):
        warned(t, t.img(*argv), [])
    unchanged.verify(t)


def info_lists_them(t, fmt):
    base, leaf = chain(t, fmt)
    files = track(base, *SUFFIXES)
    t.equal(t.img('info', '--output=json', base).json['change-tracking-files'], files, 'in JSON')
    out = t.img('info', base).out
    for file in files:
        t.check('change tracking file: %s\n' % file in out, 'in text', out)
    t.check('change-tracking-files' not in t.img('info', '--output=json', leaf).json, 'a file of another image')
    layers = t.img('info', '--backing-chain', '--output=json', leaf).json
    t.equal([layer.get('change-tracking-files') for layer in layers], [None, files], 'of the chain')
    os.mkdir(leaf + '.rct')
    t.check('change-tracking-files' not in t.img('info', '--output=json', leaf).json, 'a directory')


def writing_warns(t, fmt):
    base, leaf = chain(t, fmt)
    files = track(base, '.rct')
    unchanged = Unchanged(*files)
    with open(t.path('raw'), 'wb') as f:
        f.write(bytes(8 * MiB))
    warned(t, t.img('compact', '-q', base), files)
    warned(t, t.img('check', '-q', '-r', 'all', base), files)
    warned(t, t.io('-c', 'write -q -P 1 0 4k', base), files)
    warned(t, t.img('convert', '-q', '-n', '--break-children', '-f', 'raw', '-O', fmt,
                        t.path('raw'), base), files)
    unchanged.verify(t, 'a write beside them')


def commit_warns(t, fmt):
    """Of the target's, also through a symbolic link, and where the commit is refused later."""
    base, leaf = chain(t, fmt)
    files = track(base, *SUFFIXES)
    os.mkdir(t.path('link'))
    os.symlink(leaf, t.path('link/' + os.path.basename(leaf)))
    warned(t, t.img('commit', '-q', t.path('link/' + os.path.basename(leaf))), files)
    for file in files:
        os.unlink(file)
    t.io('-c', 'write -q -P 8 2M 64k', leaf)
    # The link of a VHDX to its parent is written anew.
    files = track(leaf, '.mrt')
    warned(t, t.img('commit', '-q', leaf), files if fmt == 'vhdx' else [])
    files = track(base, *SUFFIXES)
    t.img('create', '-q', '-f', fmt, '-b', base, t.path('x.' + fmt))
    warned(t, t.img('commit', '-q', leaf, rc=1), files)


for fmt in ('vhd', 'vhdx'):
    for function in (reading_says_nothing, info_lists_them, writing_warns, commit_warns):
        add('%s-%s' % (function.__name__.replace('_', '-'), fmt), function, fmt)

main()
