# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of a chain whose processes are killed (SIGKILL) at any moment, again and again: guests that write, discard and
grow the leaf, compact, commit, and a merge of all into the leaf in the end.  Nobody puts the images back: each process finds
what the one before it left.  Of VHD, or of VHDX with "vhdx" as first argument.

VHDKIT_KILLS   processes that are killed, in all (40)
VHDKIT_SEED    the first seed
"""

import os
import random
import signal
import subprocess
import sys
import time

import chains
import vhdfile
import vhdxchains
import vhdxread
from harness import KiB, MiB, add, main, tool

VHDX = sys.argv[1:2] == ['vhdx']
if VHDX:
    del sys.argv[1]
maker = vhdxchains if VHDX else chains
FORMAT = maker.FORMAT
BLOCK_SIZES = (MiB, 2 * MiB) if VHDX else (16 * KiB, 64 * KiB, 512 * KiB, 2 * MiB)
KILLS = int(os.environ.get('VHDKIT_KILLS', '40'))
SEED = int(os.environ.get('VHDKIT_SEED', '1'))
KILLS_OF_A_LIFE = 20
SECTOR = 512
# How the guest's process does its requests; what cannot be done on a file system is left to the others.
CACHES = (('-t', 'writeback'), ('-t', 'writethrough'), ('-t', 'none', '-i', 'native'), ('-t', 'none', '-i', 'io_uring'))


class Life:
    def __init__(self, t, seed):
        self.t, self.rng = t, random.Random(seed)
        self.base, self.leaf = t.path('base.' + FORMAT), t.path('leaf.' + FORMAT)
        self.size = self.rng.randrange(4 * MiB, 9 * MiB) // SECTOR * SECTOR
        self.create(self.base, self.size)
        t.io('-f', FORMAT, self.base, '-c', 'write -q -P 7 0 %d' % (MiB + 3 * SECTOR), '-c', 'write -q -P 8 2M 700k')
        self.create('-b', self.base, self.leaf)
        self.content = self.read(self.leaf)
        self.typical = {}  # seconds that each kind of process was seen to need
        self.killed = self.ended = 0

    def create(self, *argv):
        self.t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=%d' % self.rng.choice(BLOCK_SIZES), *argv)

    def read(self, path):
        """By the independent reader."""
        if not VHDX:
            return vhdfile.link_chain([path] + ([self.base] if path == self.leaf and not self.flat() else [])).read_all()
        image = vhdxread.open_chain(path)
        try:
            return image.read_all()
        finally:
            image.close()

    def flat(self):
        return vhdfile.Vhd(self.leaf).kind != vhdfile.DIFFERENCING

    def run_and_kill(self, kind, argv, stdin=subprocess.DEVNULL):
        """Starts it and kills it, most often on its way; what it printed until then, and its status."""
        out = self.t.path('out')
        began = time.monotonic()
        with open(out, 'wb') as f:
            process = subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=f, stderr=subprocess.STDOUT)
        if kind in self.typical:
            time.sleep(self.rng.random() * self.typical[kind] * 1.1)
            process.kill()
        rc = process.wait()
        if rc != -signal.SIGKILL:
            took = time.monotonic() - began
            self.typical[kind] = min(took, self.typical.get(kind, took) * 1.2)
        self.killed += rc == -signal.SIGKILL
        self.ended += rc != -signal.SIGKILL
        with open(out, encoding='utf-8') as f:
            text = f.read()
        self.t.check(rc in (0, -signal.SIGKILL), '%s ended with %d' % (kind, rc), text)
        return rc, text

    # what is done -------------------------------------------------------------------------------------------

    def guest(self):
        """Batches of writes, each flushed; what was reported as flushed must be there, of the rest each sector is old or
        of a write to it."""
        rng, concurrent = self.rng, self.rng.random() < 0.5
        batches, script = [], []
        for _ in range(rng.randrange(2, 7)):
            batch, taken = [], []
            for _ in range(rng.randrange(1, 12)):
                sectors = rng.choice((1, 8, 64, 300, 2000))
                offset = rng.randrange(max(1, self.size // SECTOR - sectors)) * SECTOR
                bytes_ = min(sectors * SECTOR, self.size - offset)
                if concurrent and any(offset < b and a < offset + bytes_ for a, b in taken):
                    continue  # the order of those is nobody's
                taken.append((offset, offset + bytes_))
                pattern = rng.randrange(256)
                if pattern < 16:
                    script.append('discard -q %d %d' % (offset, bytes_))
                    pattern = None
                elif pattern < 48:
                    pattern = 0
                    script.append('write -q -z %d %d' % (offset, bytes_))
                else:
                    script.append('write -q -P %d %d %d' % (pattern, offset, bytes_))
                batch.append((offset, bytes_, pattern))
            batches.append(batch)
            # What "length" prints says that the flush before it has ended.
            script += ['aio_flush', 'flush', 'length']
        with open(self.t.path('script'), 'w', encoding='utf-8') as f:
            f.write('\n'.join(script + ['']))
        cache = rng.choice(CACHES)
        argv = [tool('vhd-io'), '-f', FORMAT, *cache, *(['--concurrent'] if concurrent else []), self.leaf]
        with open(self.t.path('script'), 'rb') as f:
            rc, out = self.run_and_kill('guest ' + cache[1], argv, f)
        flushed = len(batches) if rc == 0 else out.count('\n')
        self.judge_guest(batches[:flushed], batches[flushed:])

    def judge_guest(self, flushed, rest):
        found, expected = self.read(self.leaf), bytearray(self.content)
        open_sectors = {}  # that may be one of several: before and after each request that may have been done
        for number, batch in enumerate(flushed + rest):
            for offset, bytes_, pattern in batch:
                block = bytes(SECTOR) * (bytes_ // SECTOR) if pattern is None else bytes([pattern]) * bytes_
                if pattern is not None and number < len(flushed):
                    expected[offset:offset + bytes_] = block
                    for sector in range(offset // SECTOR, (offset + bytes_) // SECTOR):
                        open_sectors.pop(sector, None)
                    continue
                for sector in range(offset // SECTOR, (offset + bytes_) // SECTOR):
                    open_sectors.setdefault(sector, set()).add(0 if pattern is None else pattern)
        self.t.equal(len(found), len(expected), 'size')
        for sector in range(len(found) // SECTOR):
            at = slice(sector * SECTOR, (sector + 1) * SECTOR)
            if found[at] != expected[at] and found[at] not in [bytes([p]) * SECTOR for p in open_sectors.get(sector, ())]:
                self.t.check(False, 'sector %d: found %r…, expected %r… or all of one of %s' % (
                    sector, found[at][:4], bytes(expected[at][:4]), sorted(open_sectors.get(sector, ()))))
        self.content = found

    def grow(self):
        size = self.size + self.rng.randrange(1, MiB // SECTOR) * SECTOR
        rc, _ = self.run_and_kill('grow', [tool('vhd-io'), '-f', FORMAT, '-c', 'truncate %d' % size, self.leaf])
        found = self.read(self.leaf)
        self.t.check(len(found) in ((size,) if rc == 0 else (self.size, size)), 'size %d' % len(found))
        self.content = self.content.ljust(len(found), b'\0')
        self.size = len(found)
        self.t.check(found == self.content, 'the content after growing')

    def job(self, kind, *argv):
        """One that changes nothing that can be read, while somebody else reads."""
        reader = None
        if self.rng.random() < 0.3:
            reader = subprocess.Popen([tool('vhd-img'), 'convert', '-q', '-U', '-O', 'raw', self.leaf, self.t.path('seen')],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rc, _ = self.run_and_kill(kind, [tool('vhd-img'), *argv])
        # A log read while it is written may be refused; what is shown is right.
        if reader is not None and reader.wait() == 0 and kind != 'compact':
            with open(self.t.path('seen'), 'rb') as f:
                self.t.check(f.read() == self.content, 'what a reader saw during %s' % kind)
        self.t.check(self.read(self.leaf) == self.content, 'the content after %s' % kind)
        return rc

    def compact(self):
        self.job('compact', 'compact', '-q', '--mode', self.rng.choice(('full', 'prezeroed', 'pretrimmed')), self.leaf)

    def commit(self):
        self.job('commit', 'commit', '-q', self.leaf)

    def look(self):
        for path in (self.leaf, self.base):
            self.t.img('check', '-q', '-f', FORMAT, path, rc=(0, 3))


def life(t, seed, kills):
    of = Life(t, seed)
    while of.killed < kills:
        of.rng.choice((of.guest, of.guest, of.guest, of.grow, of.compact, of.commit))()
        of.look()
    # The leaf gets all that it shows, and is put right by whoever opens it; a hole among its blocks may stay.
    while of.job('rebase', 'rebase', '-q', '-b', '', of.leaf) != 0:
        of.look()
    t.io('-f', FORMAT, of.leaf, '-c', 'flush')
    maker.sound(t, maker.Layer(of.leaf, 'dynamic', of.content), leaks=True)
    print('# seed %d: %d killed, %d came to their end' % (seed, of.killed, of.ended))


for i in range(max(1, KILLS // KILLS_OF_A_LIFE)):
    add('seed-%d' % (SEED + i), life, SEED + i, min(KILLS, KILLS_OF_A_LIFE))

main()
