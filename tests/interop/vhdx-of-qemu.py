# SPDX-License-Identifier: LGPL-2.1-or-later
"""VHDX that qemu wrote, also such as it left when it was killed, read and worked on by our tools.

VHDKIT_KILLS: how often qemu-io is killed (10).  VHDKIT_SEED: of the random writes.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readers  # noqa: E402
import vhdxcheck  # noqa: E402
import vhdxfile  # noqa: E402
import vhdxlog  # noqa: E402
import vhdxmake  # noqa: E402
import vhdxread  # noqa: E402
import views  # noqa: E402
from harness import KiB, MiB, QEMU_IMG, QEMU_IO, Unchanged, add, bytes_of, case, main  # noqa: E402

KILLS = int(os.environ.get('VHDKIT_KILLS', '10'))
SEED = int(os.environ.get('VHDKIT_SEED', '1'))


def ours(t, path):
    out = t.path('ours.raw')
    t.img('convert', '-q', '-f', 'vhdx', '-O', 'raw', path, out)
    return views.RawFile(out)


def same(t, path, expected):
    unchanged = Unchanged(path)
    views.same(t, ours(t, path), expected, 'our reader')
    views.same(t, vhdxread.Image(path), expected, 'independent reader')
    t.img('check', '-q', '-f', 'vhdx', path)
    unchanged.verify(t)


def random_writes(rng, size, count):
    writes = []
    for _ in range(count):
        length = rng.randrange(1, rng.choice((2, 20, 2000))) * 512
        writes.append((rng.randrange((size - length) // 512) * 512, bytes([rng.randrange(0, 256)]) * length))
    return writes


def qemu_writes(t, path, writes):
    argv = []
    for offset, blob in writes:
        argv += ['-c', 'write -P %d %d %d' % (blob[0], offset, len(blob))]
    t.run(QEMU_IO, '-f', 'vhdx', *argv, path)


def converted(t, subformat, block_size, zero_blocks):
    """Converted by qemu, then written by qemu, by us, and by qemu again."""
    t.need(QEMU_IMG, QEMU_IO)
    rng = random.Random('%d %s %d' % (SEED, subformat, block_size))
    # qemu wants whole MiB.
    size = 24 * MiB if subformat == 'fixed' or block_size < 16 * MiB else block_size + 5 * MiB
    view = views.Content(size).lay([(rng.randrange(size // 512 - 700) * 512, rng.randbytes(512 * 700)) for _ in range(9)])
    with open(t.path('s.raw'), 'wb') as f:
        f.truncate(size)
        for offset, blob in view.runs():
            f.seek(offset)
            f.write(blob)
    path = t.path('q.vhdx')
    t.run(QEMU_IMG, 'convert', '-f', 'raw', '-O', 'vhdx', '-o', 'subformat=%s,block_size=%d,block_state_zero=%s' %
          (subformat, block_size, 'on' if zero_blocks else 'off'), t.path('s.raw'), path)
    same(t, path, view)
    writes = random_writes(rng, size, 12)
    qemu_writes(t, path, writes)
    view = view.lay(writes)
    same(t, path, view)
    for offset, blob in (writes := random_writes(rng, size, 12)):
        t.io('-f', 'vhdx', '-c', 'write -q -P %d %d %d' % (blob[0], offset, len(blob)), path)
    view = view.lay(writes)
    same(t, path, view)
    views.same(t, readers.view(t, 'qemu', [path]), view, 'qemu after our writes')
    writes = random_writes(rng, size, 6)
    qemu_writes(t, path, writes)
    view = view.lay(writes)
    same(t, path, view)
    if subformat == 'dynamic':
        t.img('compact', '-q', path)
        t.run(QEMU_IMG, 'check', '-q', '-f', 'vhdx', path)
        views.same(t, readers.view(t, 'qemu', [path]), view, 'qemu after our compaction')
        same(t, path, view)


for block_size in (1, 2, 8, 64, 256):
    add('dynamic-%dM' % block_size, converted, 'dynamic', block_size * MiB, block_size % 2 == 0)
for block_size in (1, 16):
    add('fixed-%dM' % block_size, converted, 'fixed', block_size * MiB, False)


# --- killed -----------------------------------------------------------------------------------------------------

STEP = 4 * KiB
COUNT = 400


def position(i):
    """Every write of a run is the first of its block, so that most of the time goes into metadata."""
    return i * 37 % COUNT * MiB


def killed_run(t, rng, path):
    """qemu-io writes and is killed; how many writes it had told of, a flush behind each."""
    process = subprocess.Popen([QEMU_IO, '-f', 'vhdx', '-t', 'writeback', path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = ''.join('write -P %d %d %d\nflush\n' % (i % 250 + 1, position(i), STEP) for i in range(COUNT))
    process.stdin.write(lines.encode())
    process.stdin.flush()
    time.sleep(0.01 + rng.random() * 0.06)
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].decode().count('wrote ')


def left_by_a_kill(t, rng, path, block_size):
    """One image; the state of its log."""
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vhdx', '-o', 'block_size=%d,log_size=1M' % block_size, path, COUNT * MiB)
    confirmed = killed_run(t, rng, path)
    copy = t.path('copy.vhdx')
    t.run('cp', '--sparse=always', path, copy)
    head = vhdxread.current_header([vhdxread.Header(data) for data in headers(path)])
    state = log_state(path, head)
    if state in ('none', 'torn'):
        # Killed between the header and the end of the entry; qemu names a new log for each change of metadata.
        unchanged = Unchanged(path)
        for result in (t.img('info', '-f', 'vhdx', path, rc=1), t.img('compact', '-q', '-f', 'vhdx', path, rc=1),
                       t.io('-f', 'vhdx', '-c', 'write -q 0 512', path, rc=1)):
            t.refused(result, 'log', '-r log')
        unchanged.verify(t, 'a refusal')
        t.img('check', '-q', '-f', 'vhdx', '-r', 'log', path)
    t.run(QEMU_IMG, 'check', '-q', '-r', 'all', '-f', 'vhdx', copy)
    expected = readers.view(t, 'qemu', [copy])
    unchanged = Unchanged(path)
    views.same(t, ours(t, path), expected, 'our reader and qemu after its replay')
    t.img('check', '-q', '-f', 'vhdx', path, rc=(0, 2, 3))
    t.img('map', '-f', 'vhdx', path)
    unchanged.verify(t)
    for i in range(confirmed):
        t.check(expected.read(position(i), STEP) == bytes([i % 250 + 1]) * STEP, 'write %d of %d is lost' % (i, confirmed))

    t.io('-f', 'vhdx', '-c', 'write -q -P 255 512 4k', path)
    t.check(not vhdxread.Image(path).active, 'the log is still in use')
    found = [str(f) for f in vhdxcheck.check(path).of('error')]
    t.equal(found, [], 'independent check after a write of ours')
    t.run(QEMU_IMG, 'check', '-q', '-f', 'vhdx', path)
    with open(expected.path, 'r+b') as f:
        f.seek(512)
        f.write(b'\xff' * 4096)
    views.same(t, vhdxread.Image(path), expected, 'independent reader after a write of ours')
    os.rename(expected.path, t.path('expected.raw'))
    views.same(t, readers.view(t, 'qemu', [path]), views.RawFile(t.path('expected.raw')), 'qemu after a write of ours')
    t.img('compact', '-q', path)
    t.img('compare', '-q', '-f', 'vhdx', '-F', 'raw', path, t.path('expected.raw'))
    return state


def log_state(path, head):
    """'clean'; 'used': can be replayed; 'none': named, and no entry of it; 'torn': its first entry is not whole."""
    if head.log_guid.int == 0:
        return 'clean'
    with open(path, 'rb') as f:
        f.seek(head.log_offset)
        ring = f.read(head.log_length)
    if vhdxlog.find(ring, head.log_guid) is not None:
        return 'used'
    own = [at for at in range(0, len(ring), 4096)
           if ring[at:at + 4] == b'loge' and ring[at + 32:at + 48] == head.log_guid.bytes_le]
    return 'torn' if own else 'none'


def headers(path):
    with open(path, 'rb') as f:
        for at in (64 << 10, 128 << 10):
            f.seek(at)
            yield f.read(4096)


@case
def killed_while_writing(t):
    t.need(QEMU_IMG, QEMU_IO)
    rng = random.Random(SEED)
    states = collections.Counter()
    for attempt in range(KILLS):
        path = t.path('k.vhdx')
        states[left_by_a_kill(t, rng, path, rng.choice((1, 1, 1, 2)) * MiB)] += 1
        for name in os.listdir(t.dir):
            os.unlink(t.path(name))
    print('# logs: %s' % dict(states))
    t.check(states['clean'] < KILLS, 'no log was ever in use')


@case
def a_log_guid_without_an_entry(t):
    """As a stop leaves it between the header and the first entry: refused by name, and nothing changes."""
    t.need(QEMU_IMG)
    path = t.path('q.vhdx')
    t.run(QEMU_IMG, 'create', '-q', '-f', 'vhdx', path, '8M')
    vhdxmake.restate(path, log_guid=vhdxfile.uuid.uuid4())
    before = bytes_of(path)
    for result in (t.img('info', '-f', 'vhdx', path, rc=1), t.img('map', '-f', 'vhdx', path, rc=1),
                   t.io('-f', 'vhdx', '-c', 'write -q 0 512', path, rc=1)):
        t.refused(result, 'log', 'q.vhdx', '-r log')
    t.equal(bytes_of(path), before, 'bytes of a refused image')
    t.img('check', '-q', '-f', 'vhdx', '-r', 'log', path)
    t.io('-f', 'vhdx', '-c', 'write -q -P 1 0 512', path)
    t.run(QEMU_IMG, 'check', '-q', '-f', 'vhdx', path)


main()
