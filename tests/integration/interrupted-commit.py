# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commits of random chains, interrupted again and again, and finished; of VHD, or of VHDX with "vhdx" as first argument.

The real process is killed, stopped by a signal that it heeds, or fails because a request does, at a random moment; also
held there, while others look.  Each time what the source and the leaf show is told by the independent reader, and the
same command goes on where it was, until it is interrupted once more.  With --delete and --rename, too.

VHDKIT_CHAINS: how many chains (10).  VHDKIT_STOPS: interruptions of each (4).  VHDKIT_SEED: of the first one; each chain
has its own seed, named in its case, so VHDKIT_SEED=n VHDKIT_CHAINS=1 repeats its chain, if not the moments.
"""

import atexit
import collections
import os
import random
import signal
import sys
import time

import chains
import vhdxchains
import vhdxread
from harness import Failed, add, main, tool, vhdfile

maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]

COUNT = int(os.environ.get('VHDKIT_CHAINS', '10'))
STOPS = int(os.environ.get('VHDKIT_STOPS', '4'))
SEED = int(os.environ.get('VHDKIT_SEED', '1'))
MODES = ((), (), ('--delete',), ('--rename',), ('--rename', '--delete'))

met = collections.Counter()


def shows(t, path, view, what):
    """By the links in the files alone."""
    if maker is chains:
        t.same_content(vhdfile.open_chain(path).read_all(), view, what)
        return
    image = vhdxread.open_chain(path)
    try:
        maker.views.same(t, image, view, what)
    finally:
        image.close()


class Merge:
    """One command, and what must hold whenever it has been interrupted."""

    def __init__(self, t, rng):
        self.t, self.rng = t, rng
        self.layers = maker.make_chain(t, rng, rng.randrange(1, 6))
        while True:
            self.source = rng.randrange(1, len(self.layers))
            self.target = rng.randrange(0, self.source)
            if self.layers[self.source].size >= self.layers[self.target].size:
                break
            if rng.random() < 0.2:
                self.layers = maker.make_chain(t, rng, rng.randrange(1, 6), allow_smaller=False)
        # A raw base is known to no link, and has no name that a VHD could take.
        self.mode = rng.choice(MODES) if self.layers[0].kind != 'raw' else ()
        self.leaf = self.layers[-1]
        upper, lower = self.layers[self.source], self.layers[self.target]
        self.upper, self.lower, self.view = upper, lower, upper.view
        self.goes = [x.path for x in self.layers[self.target + 1:self.source + 1]] if '--delete' in self.mode else []
        self.renames = '--rename' in self.mode
        if self.renames:
            self.goes = [path for path in self.goes if path != upper.path]
        self.argv = ['-q', *maker.parent_options(self.layers), *self.mode, '-b', lower.path]
        if upper is not self.leaf:
            self.argv += ['--source', upper.path]
        if rng.random() < 0.3:
            self.argv += ['-m', rng.choice((1, 2))]
        self.argv.append(self.leaf.path)

    def __str__(self):
        return '%s\n%s' % (' '.join(map(str, self.argv)), maker.describe(self.layers))

    def is_done(self):
        """Nothing is left for the command to do: it cannot find what it names any more."""
        if self.renames:
            return not os.path.exists(self.lower.path) and not any(map(os.path.exists, self.goes)) \
                and not os.path.exists(self.upper.path + '.remains')
        return bool(self.goes) and not any(map(os.path.exists, (*self.goes, self.upper.path + '.remains')))

    def holds(self, when):
        """What is read through the leaf, and through whatever must show what the source did."""
        if not self.mode:
            maker.reads_as(self.t, self.layers, self.source, self.view, 'source ' + when)
            maker.reads_as(self.t, self.layers, len(self.layers) - 1, self.leaf.view, 'leaf ' + when)
            return
        begun = not all(map(os.path.exists, self.goes))
        survivor = self.lower.path if begun and not self.renames else self.upper.path
        shows(self.t, survivor, self.view, 'source ' + when)
        if self.leaf is not self.upper:
            shows(self.t, self.leaf.path, self.leaf.view, 'leaf ' + when)

    # --- one interruption -----------------------------------------------------------------------------------

    def interrupt(self, longest):
        """Starts the command; how it was interrupted, or None: it was not."""
        how = self.rng.choice(('KILL', 'KILL', 'KILL', 'held', 'INT', 'TERM', 'fault'))
        argv = list(self.argv)
        if how == 'fault':
            argv = ['--filter', 'blkdebug,op=%s,n=%d,errno=%d,count=%d' % (
                self.rng.choice(('any', 'any', 'write', 'flush')), int(10 ** (2.5 * self.rng.random())),
                self.rng.choice((5, 28)), self.rng.randrange(2)), *argv]
        elif self.rng.random() < 0.5:
            argv = ['-r', '%dk' % self.rng.choice((2000, 8000, 30000)), *argv]
        process = self.t.start(tool('vhd-img'), 'commit', *argv)
        if how == 'fault':
            result = self.t.finish(process)
            if result.rc != 0:
                self.t.refused(result)
            return how if result.rc != 0 else None
        time.sleep(longest * self.rng.random())
        if how == 'held':
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.002)
            if process.poll() is None:
                self.holds('while it is held')
        sign = {'INT': signal.SIGINT, 'TERM': signal.SIGTERM}.get(how, signal.SIGKILL)
        process.send_signal(sign)
        result = self.t.finish(process, signals=(sign,))
        self.t.check(result.rc in (0, -sign, 128 + sign), 'status', result)
        return how if result.rc != 0 else None

    def finish(self):
        """Interrupted or done: the command brings it to its end."""
        done = self.is_done()
        self.t.img('commit', *self.argv, rc=1 if done else 0)
        self.t.check(not self.mode or not (self.renames or self.goes) or self.is_done(), 'something is left')
        survivor = self.upper if self.renames else self.lower
        if self.mode:
            shows(self.t, survivor.path, self.view, 'target in the end')
            if self.leaf is not self.upper:
                shows(self.t, self.leaf.path, self.leaf.view, 'leaf in the end')
            self.t.img('check', '-q', '-f', maker.FORMAT, survivor.path, rc=(0, 3))
        else:
            maker.reads_as(self.t, self.layers, self.target, self.view, 'target in the end')
            self.holds('in the end')
            maker.sound(self.t, self.lower, leaks=True)


def one_chain(t, seed):
    rng = random.Random(seed)
    merge = Merge(t, rng)
    longest, stops, attempts = 0.04, 0, 0
    try:
        merge.holds('before')
        while stops < STOPS and attempts < 3 * STOPS and not merge.is_done():
            attempts += 1
            how = merge.interrupt(longest)
            longest = longest * 1.2 if how else max(0.006, longest * 0.8)
            if how is None:
                continue
            stops += 1
            met[how] += 1
            met[' '.join(merge.mode) or 'merge alone'] += 1
            merge.holds('after %s' % how)
        merge.finish()
    except Failed as e:
        raise Failed('seed %d: %s\n%s' % (seed, merge, e)) from e


def tell():
    hows = ('KILL', 'held', 'INT', 'TERM', 'fault')
    print('# %d interrupted: %s' % (sum(met[how] for how in hows),
                                    ', '.join('%d %s' % (n, what) for what, n in sorted(met.items()))), flush=True)


atexit.register(tell)
# In the background of a shell it may be ignored, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for i in range(COUNT):
    add('interrupted-seed-%d' % (SEED + i), one_chain, SEED + i)

main()
