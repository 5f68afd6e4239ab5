# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals: SIGINT and SIGTERM end a job in order, kill -9 does no harm, SIGUSR1 shows progress.
Of VHD, or of VHDX with "vhdx" as first argument.
"""

import os
import random
import signal
import sys
import time

import chains
import vhdxchains
import vhdxread
import views
from harness import KiB, MiB, Unchanged, add, case, main, sha256, tool, vhdfile

maker = chains
if sys.argv[1:2] == ['vhdx']:
    maker = vhdxchains
    del sys.argv[1]
FORMAT = maker.FORMAT
PARENT, CHILD, OUT = 'p.' + FORMAT, 'c.' + FORMAT, 'o.' + FORMAT
STOPS = int(os.environ.get('VHDKIT_STOPS', '14'))


def chain(t):
    """A child with enough in it that a job held back by -r can be met on its way; what reads through it."""
    rng = random.Random(1)
    size = 24 * MiB
    base = [(i * MiB, rng.randbytes(4096)) for i in range(0, 24, 3)]
    writes = [(i * MiB + 4096, rng.randbytes(4096) * 200) for i in range(24)]
    if maker is vhdxchains:
        parent = vhdxchains.write_layer(t, PARENT, size, base)
        return [parent, vhdxchains.write_layer(t, CHILD, size, writes, 'differencing', parent, block_size=2 * MiB)]
    parent = vhdfile.write_sparse(t.path(PARENT), size, base, block_size=512 * KiB, rng=rng)
    child = vhdfile.write_sparse(t.path(CHILD), size, writes, parent_id=parent.unique_id, parent_path=parent.path, rng=rng)
    below = chains.lay(b'', base, size)
    return [chains.Layer(parent.path, 'dynamic', below, parent.unique_id),
            chains.Layer(child.path, 'diff', chains.lay(below, writes, size), child.unique_id)]


def met(t, how, argv, restore, judge):
    """@argv is stopped by @how at any moment, many times; @judge (result) looks at what is left and runs it again."""
    restore()
    began = time.monotonic()
    t.finish(t.start(*argv))
    # Where the job is met on its way is found out as it goes: a loaded machine is not as fast as it just was.
    earliest, latest = 0, max(0.01, time.monotonic() - began)
    rng = random.Random(2)
    wanted = max(1, STOPS // 7)
    ended_early = attempt = 0
    while attempt < STOPS or (ended_early < wanted and attempt < STOPS + 60):
        attempt += 1
        restore()
        process = t.start(*argv)
        delay = earliest + (latest - earliest) * rng.random()
        time.sleep(delay)
        process.send_signal(how)
        # Before there is anything to put in order the signal may just end the program.
        result = t.finish(process, signals=(how,))
        if result.rc > 0:
            t.equal(result.rc, 128 + how, 'status')
            t.check(result.err.strip(), 'no message', result)
        met_now = result.rc > 0 or (result.rc < 0 and how == signal.SIGKILL)
        ended_early += met_now
        if attempt >= STOPS // 2 and not ended_early:
            if result.rc == 0:
                latest = max(delay, earliest + 0.002)
            else:
                earliest, latest = delay, max(latest, delay + 0.02)
        if met_now or attempt <= STOPS:
            judge('stop %d' % attempt)
    t.check(ended_early >= wanted, 'only %d of %d runs were met on their way' % (ended_early, attempt))


def commit_stopped(t, how):
    layers = chain(t)
    target, child = layers[0].path, layers[1].path
    child_before, view = maker.masked(child), layers[1].view
    os.mkdir(t.path('kept'))  # away from the chain: a child there is one that a commit would break
    t.run('cp', target, t.path('kept/pristine'))
    t.run('cp', child, t.path('kept/pristine-child'))

    def restore():
        t.run('cp', t.path('kept/pristine'), target)
        # Its link follows the parent's identity, which VHDX has anew for new content.
        if maker is vhdxchains:
            t.run('cp', t.path('kept/pristine-child'), child)

    def judge(when):
        t.check(maker.masked(child) == child_before, 'the child changed')
        maker.reads_as(t, layers, 1, view, 'view after ' + when)
        t.img('check', '-q', '-f', FORMAT, target, rc=(0, 2, 3) if how == signal.SIGKILL else (0, 3))
        t.img('commit', '-q', child)
        maker.reads_as(t, layers, 0, view, 'target after the rerun')
        maker.reads_as(t, layers, 1, view, 'child after the rerun')
        maker.linked(t, layers, 1)
        maker.sound(t, layers[0])

    met(t, how, [tool('vhd-img'), 'commit', '-q', '-r', '64M', child], restore, judge)


def compact_stopped(t, how):
    """Half of the blocks go: zeros, and what the parent shows as well."""
    rng = random.Random(3)
    count = 40
    writes = [(i * MiB, rng.randbytes(4096) * 256 if i % 2 else bytes(MiB)) for i in range(count)]
    writes[20] = 20 * MiB, b'\1' * MiB
    below = vhdxchains.write_layer(t, PARENT, count * MiB, [(20 * MiB, b'\1' * MiB)])
    layers = [below, vhdxchains.write_layer(t, CHILD, count * MiB, writes, 'differencing', below)]
    path = layers[1].path
    t.run('cp', path, t.path('pristine'))
    identity, digest = vhdxread.Image(path).data_write_guid, sha256(below.path)
    t.img('compact', '-q', path)
    least = os.path.getsize(path)

    def judge(when):
        maker.reads_as(t, layers, 1, layers[1].view, 'content after ' + when)
        t.img('check', '-q', '-f', FORMAT, path, rc=(0, 3))
        t.img('compact', '-q', path)
        maker.reads_as(t, layers, 1, layers[1].view, 'content after the rerun')
        maker.sound(t, layers[1])
        t.equal(os.path.getsize(path), least, 'size after the rerun')
        t.equal(vhdxread.Image(path).data_write_guid, identity, 'identity of the data')
        t.equal(sha256(below.path), digest, 'bytes of the parent')

    met(t, how, [tool('vhd-img'), 'compact', '-q', path], lambda: t.run('cp', t.path('pristine'), path), judge)


def rebase_chain(t):
    """A child that shows most of its parent, and an image that shows nothing of it."""
    rng, size = random.Random(4), 8 * MiB

    def whole(name, first):
        writes = [(i * MiB, bytes([first + i]) * MiB) for i in range(8)]
        if maker is vhdxchains:
            return vhdxchains.write_layer(t, name + '.vhdx', size, writes)
        made = vhdfile.write_sparse(t.path(name + '.vhd'), size, writes, block_size=512 * KiB, rng=rng)
        return chains.Layer(made.path, 'dynamic', chains.lay(b'', writes, size), made.unique_id)

    parent, other = whole('p', 1), whole('n', 101)
    writes = [(i * MiB + 4096, rng.randbytes(4096)) for i in range(0, 8, 2)]
    if maker is vhdxchains:
        return parent, vhdxchains.write_layer(t, CHILD, size, writes, 'differencing', parent), other.path
    child = vhdfile.write_sparse(t.path(CHILD), size, writes, parent_id=parent.unique_id, parent_path=parent.path, rng=rng)
    return parent, chains.Layer(child.path, 'diff', chains.lay(parent.view, writes, size), child.unique_id), other.path


def rebase_stopped(t, how, flatten):
    """Onto an image that shows nothing of the old parent, or onto none; the identity stays at every instant."""
    parent, layer, other = rebase_chain(t)
    child = layer.path
    t.run('cp', child, t.path('pristine'))
    before = Unchanged(parent.path, other)
    argv = [tool('vhd-img'), 'rebase', '-q', '-b', '' if flatten else other]

    def shows(when):
        """What its parent is, after a look at what it shows."""
        image = vhdxread.open_chain(child) if maker is vhdxchains else vhdfile.open_chain(child)
        if maker is vhdxchains:
            views.same(t, image, layer.view, when)
            t.equal(image.data_write_guid, layer.unique_id, 'identity ' + when)
        else:
            t.same_content(image.read_all(), layer.view, when)
            t.equal(image.unique_id, layer.unique_id, 'identity ' + when)
        return image.parent and os.path.normpath(image.parent.path)

    def judge(when):
        shows('view after ' + when)
        t.img('check', '-q', '-f', FORMAT, child, rc=(0, 2, 3) if how == signal.SIGKILL else (0, 3))
        t.run(*argv, child)
        t.equal(shows('view after the rerun'), None if flatten else other, 'parent')
        maker.sound(t, layer, leaks=True)
        before.verify(t, 'the rebase')

    met(t, how, [*argv, '-r', '32M', child], lambda: t.run('cp', t.path('pristine'), child), judge)


for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
    add('%s-during-commit' % how.name, commit_stopped, how)
    if how != signal.SIGTERM:
        add('%s-during-rebase' % how.name, rebase_stopped, how, False)
        add('%s-during-flatten' % how.name, rebase_stopped, how, True)
    if maker is vhdxchains:
        add('%s-during-compact' % how.name, compact_stopped, how)


@case
def SIGUSR1_shows_progress(t):
    """Progress on request, without -p; the job goes on."""
    layers = chain(t)
    os.mkdir(t.path('kept'))
    t.run('cp', layers[1].path, t.path('kept/pristine-child'))
    seen = False
    t.run('cp', layers[0].path, t.path('kept/pristine'))
    for attempt in range(30):
        t.run('cp', t.path('kept/pristine'), layers[0].path)
        t.run('cp', t.path('kept/pristine-child'), layers[1].path)
        process = t.start(tool('vhd-img'), 'commit', '-r', '64M', layers[1].path)
        time.sleep(0.01 * attempt)
        for _ in range(20):
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.003)
        result = t.finish(process, signals=(signal.SIGUSR1,) if attempt < 3 else ())
        if '/100%)' in result.out + result.err:
            seen = True
            t.equal(result.rc, 0, 'status of the job')
            break
    t.check(seen, 'no progress was ever shown')
    maker.reads_as(t, layers, 0, layers[1].view, 'target')


@case
def SIGINT_during_convert(t):
    """A half-made result is not taken for a whole one: status and message say so, and it is no image."""
    layers = chain(t)
    before = sha256(layers[1].path), sha256(layers[0].path)
    stops = 0
    for attempt in range(8):
        process = t.start(tool('vhd-img'), 'convert', '-q', '-r', '64M', '-O', FORMAT, layers[1].path, t.path(OUT))
        time.sleep(0.04 * attempt)
        process.send_signal(signal.SIGINT)
        result = t.finish(process, signals=(signal.SIGINT,))
        if result.rc == 0:
            maker.reads_as(t, [chains.Layer(t.path(OUT), 'dynamic', None)], 0, layers[1].view, 'a conversion that ended well')
        elif result.rc > 0:
            stops += 1
            t.check(result.err.strip(), 'no message', result)
            t.refused(t.img('info', t.path(OUT), rc=None), 'not completely made')
    t.equal((sha256(layers[1].path), sha256(layers[0].path)), before, 'the sources')
    t.check(stops, 'no run was met on its way')


@case
def output_that_nobody_reads(t):
    """A closed pipe ends the program, it does not crash it."""
    layers = chain(t)
    process = t.start(tool('vhd-img'), 'map', '--output=json', layers[1].path)
    process.stdout.close()
    process.stdout = open(os.devnull, 'rb')
    process.wait(20)
    t.check(process.returncode in (0, 1, -signal.SIGPIPE), 'status %d' % process.returncode)


main()
