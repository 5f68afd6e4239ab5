# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHDX our tools wrote, worked on at random, committed and compacted, read by qemu-img, libvhdi and 7-Zip.

VHDKIT_ROUNDS: how often each image is opened and worked on (4).  VHDKIT_SEED: of the random work.
"""

import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readers  # noqa: E402
import vhdxcheck  # noqa: E402
import vhdxread  # noqa: E402
import views  # noqa: E402
from harness import KiB, MiB, QEMU_IMG, Failed, Unchanged, add, case, main  # noqa: E402

READERS = ('qemu', 'libvhdi', '7z')
ROUNDS = int(os.environ.get('VHDKIT_ROUNDS', '4'))
SEED = int(os.environ.get('VHDKIT_SEED', '1'))


@case
def all_readers_are_here(t):
    for reader in READERS:
        readers.need(t, reader)


# --- random work ------------------------------------------------------------------------------------------------


def place(rng, size, block_size, unit):
    """Offset and length in whole @unit, near what may go wrong: both ends and the edges of blocks."""
    length = min(rng.randrange(1, rng.choice((2, 9, 60, 300))) * unit, size)
    at = rng.choice((0, size, rng.randrange(size), rng.randrange(size // block_size + 1) * block_size))
    at += rng.choice((0, 0, -1, 1)) * rng.randrange(1, 20) * unit - rng.choice((0, length))
    return max(0, min(at, size - length)) // unit * unit, length


ALL = ('write', 'zero', 'flush', 'grow', 'discard')


def one_round(t, rng, path, view, block_size, unit, work):
    """Opens, does some of @work and closes; the view then."""
    commands, discarded = [], []
    for _ in range(rng.randrange(4, 14)):
        offset, length = place(rng, view.size, block_size, unit)
        kind = rng.choice(('write', 'write', 'write') + work)
        if kind == 'write':
            byte = rng.randrange(1, 256)
            commands.append('write -q -P %d %d %d' % (byte, offset, length))
            view = view.lay([(offset, bytes([byte]) * length)])
        elif kind == 'zero':
            if rng.random() < 0.4:
                offset -= offset % block_size
                length = min(block_size * rng.randrange(1, 3), view.size - offset)
            commands.append('write -q -z%s %d %d' % (rng.choice((' -u', '')), offset, length))
            view = view.lay([(offset, length)])
        elif kind == 'flush':
            commands.append('flush')
        elif kind == 'grow':
            # 7-Zip wants an even number of sectors.
            size = view.size + rng.randrange(1, 2000) * 2 * unit
            commands.append('truncate %d' % size)
            view = view.lay([], size)
        elif not discarded:
            # Only as the last of a round: what it leaves may be zeros or what was there.
            discarded.append((offset - offset % block_size, min(2 * block_size, view.size - offset + offset % block_size)))
    cache = rng.choice(('writeback', 'writeback', 'writethrough', 'unsafe'))
    argv = [word for command in commands for word in ('-c', command)]
    t.io('-t', cache, '-f', 'vhdx', *argv, path)
    for offset, length in discarded:
        t.io('-f', 'vhdx', '-c', 'discard -q %d %d' % (offset, length), path)
        view = after_discard(t, path, view, offset, length, unit)
    return view


def after_discard(t, path, view, offset, length, unit):
    image = vhdxread.open_chain(path)
    for start, end in [(a, b) for a, b in view.extents() if a < offset + length and b > offset]:
        for at in range(max(start, offset) // unit * unit, min(end, offset + length), unit):
            found = image.read(at, unit)
            if found != view.read(at, unit):
                t.check(not any(found), 'a discarded sector at %d reads neither as before nor as zeros' % at)
                view = view.lay([(at, unit)])
    image.close()
    return view


def worked_on(t, rng, path, view, block_size, unit, rounds=ROUNDS, work=ALL):
    for _ in range(rounds):
        view = one_round(t, rng, path, view, block_size, unit, work)
    return view


# --- judging ----------------------------------------------------------------------------------------------------


def nothing_found(t, path, qemu=True, leaks=False):
    tolerated = ('leak',) if leaks else ()
    t.equal([str(f) for f in vhdxcheck.check(path) if f.severity not in tolerated], [], 'independent check')
    t.img('check', '-q', '-f', 'vhdx', path, rc=(0, 3) if leaks else 0)
    if qemu and 'qemu' in readers.available():
        t.run(QEMU_IMG, 'check', '-q', '-f', 'vhdx', path)


def all_agree(t, files, view, but=()):
    """All readers but some, ours and the independent one, on a chain, leaf first."""
    unchanged = Unchanged(*files)
    views.same(t, vhdxread.open_chain(files[0]), view, 'independent reader')
    out = t.path('ours.raw')
    t.img('convert', '-q', '-f', 'vhdx', '-O', 'raw', files[0], out)
    views.same(t, views.RawFile(out), view, 'our reader')
    os.unlink(out)
    for reader in READERS:
        if reader not in but and reader in readers.available():
            found = readers.view(t, reader, files)
            views.same(t, found, view, reader)
            os.unlink(found.path)
    unchanged.verify(t, 'reading')


def seeded(function):
    def run(t, *arguments):
        seed = '%d %s' % (SEED, arguments)
        try:
            function(t, random.Random(seed), *arguments)
        except Failed as e:
            raise Failed('seed %s: %s' % (seed, e)) from e
    return run


@seeded
def single(t, rng, subformat, block_size, sector):
    path = t.path('x.vhdx')
    size = (3 if block_size < 64 * MiB else 2) * block_size + 512 * KiB + 8192 * rng.randrange(5)
    if subformat == 'fixed':
        size = min(size, 40 * MiB)
    t.img('create', '-q', '-f', 'vhdx', '-o', 'subformat=%s,block_size=%d,logical_sector_size=%d' %
          (subformat, block_size, sector), path, size)
    view = worked_on(t, rng, path, views.Content(size), block_size, sector)
    but = ('qemu',) if sector == 4096 else ()
    nothing_found(t, path, qemu=not but, leaks=True)
    all_agree(t, [path], view, but)
    if subformat == 'dynamic':
        t.img('compact', '-q', path)
        nothing_found(t, path, qemu=not but)
        all_agree(t, [path], view, but)


for sector in (512, 4096):
    for block_size in (MiB, 2 * MiB, 32 * MiB, 256 * MiB):
        add('dynamic-%dM-sectors-%d' % (block_size // MiB, sector), single, 'dynamic', block_size, sector)
    add('fixed-2M-sectors-%d' % sector, single, 'fixed', 2 * MiB, sector)
add('fixed-32M-sectors-512', single, 'fixed', 32 * MiB, 512)


@seeded
def chain(t, rng, sizes, sector, work, readers_of_it):
    """A base and three children worked on; read; then the two upper merged into the one below, and compacted."""
    size = 9 * MiB + 512 * KiB
    view, files = views.Content(size), []
    for depth, block_size in enumerate(sizes):
        path = t.path('layer%d.vhdx' % depth)
        parent = ['-b', files[0]] if files else []
        options = 'block_size=%d' % block_size + ('' if files else ',logical_sector_size=%d' % sector)
        t.img('create', '-q', '-f', 'vhdx', '-o', options, *parent, path, *([] if files else [size]))
        view = worked_on(t, rng, path, view, block_size, 4096, rounds=2, work=work)
        files.insert(0, path)
    but = [reader for reader in READERS if reader not in readers_of_it]
    for path in files:
        nothing_found(t, path, qemu=False, leaks=True)
    all_agree(t, files, view, but)
    t.img('commit', '-q', '--depth', '2', files[0])
    files = files[2:]
    nothing_found(t, files[0], qemu=False, leaks=True)
    all_agree(t, files, view, but)
    for path in files:
        t.img('compact', '-q', path)
        nothing_found(t, path, qemu=False)
    all_agree(t, files, view, but)
    t.img('commit', '-q', files[0])
    nothing_found(t, files[1], qemu=sector == 512, leaks=True)
    all_agree(t, files[1:], view, () if sector == 512 else ('qemu',))


WRITES = ('write', 'flush')
STAYS = ('write', 'zero', 'flush', 'discard')
BOTH = ('libvhdi', '7z')
add('chain-of-2M-blocks', chain, (2 * MiB,) * 4, 512, WRITES, BOTH)
add('chain-of-mixed-blocks', chain, (MiB, 32 * MiB, 2 * MiB, MiB), 512, WRITES, BOTH)
add('chain-of-4096-byte-sectors', chain, (2 * MiB, MiB, 8 * MiB, MiB), 4096, WRITES, BOTH)
add('chain-with-zeros', chain, (2 * MiB,) * 4, 512, STAYS, ('7z',))
add('chain-with-zeros-of-mixed-blocks', chain, (MiB, 32 * MiB, 2 * MiB, MiB), 512, STAYS, ('7z',))
add('chain-with-zeros-of-4096-byte-sectors', chain, (2 * MiB, MiB, 8 * MiB, MiB), 4096, STAYS, ('7z',))
# Only what it was merged into is read by others.
add('chain-that-grows', chain, (32 * MiB, MiB, 2 * MiB, MiB), 512, ALL, ())


@seeded
def converted(t, rng, options):
    size = 37 * MiB + 512 * 6
    view = views.Content(size).lay([(rng.randrange(size // 512 - 900) * 512, rng.randbytes(512 * 900)) for _ in range(8)])
    with open(t.path('s.raw'), 'wb') as f:
        f.truncate(size)
        for offset, blob in view.runs():
            f.seek(offset)
            f.write(blob)
    t.img('convert', '-q', '-f', 'raw', '-O', 'vhdx', '-o', options, t.path('s.raw'), t.path('x.vhdx'))
    nothing_found(t, t.path('x.vhdx'))
    all_agree(t, [t.path('x.vhdx')], view)


for options in ('subformat=dynamic', 'subformat=fixed,block_size=1M', 'block_size=1M,log_size=4M',
                'block_size=16M,physical_sector_size=512'):
    add('converted-' + options.replace('=', '-').replace(',', '-'), converted, options)

main()
