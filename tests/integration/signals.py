# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals: SIGINT and SIGTERM end a job in order, kill -9 does no harm, SIGUSR1 shows progress."""

import os
import random
import signal
import time

import chains
from harness import KiB, MiB, add, case, main, sha256, tool, vhdfile


STOPS = int(os.environ.get('VHDKIT_STOPS', '14'))


def chain(t):
    """A child with enough in it that a job held back by -r can be met on its way."""
    rng = random.Random(1)
    size = 24 * MiB
    base = [(i * MiB, rng.randbytes(4096)) for i in range(0, 24, 3)]
    parent = vhdfile.write_sparse(t.path('p.vhd'), size, base, block_size=512 * KiB, rng=rng)
    writes = [(i * MiB + 4096, rng.randbytes(4096) * 200) for i in range(24)]
    vhdfile.write_sparse(t.path('c.vhd'), size, writes, parent_id=parent.unique_id, parent_path=parent.path, rng=rng)
    return chains.lay(chains.lay(b'', base, size), writes, size)


def stopped(t, how, operation):
    view = chain(t)
    target = t.path('p.vhd')
    child = chains.masked(t.path('c.vhd'))
    t.run('cp', target, t.path('pristine'))
    argv = [tool('vhd-img'), 'commit', '-q', '-r', '64M', t.path('c.vhd')]
    began = time.monotonic()
    t.finish(t.start(*argv))
    whole = max(0.01, time.monotonic() - began)
    rng = random.Random(2)
    ended_early = 0
    for attempt in range(STOPS):
        t.run('cp', t.path('pristine'), target)
        process = t.start(*argv)
        time.sleep(whole * rng.random())
        process.send_signal(how)
        # Before there is anything to put in order the signal may just end the program.
        result = t.finish(process, signals=(how,))
        if result.rc:
            ended_early += how == signal.SIGKILL or result.rc > 0
            if result.rc > 0:
                t.equal(result.rc, 128 + how, 'status')
                t.check(result.err.strip(), 'no message', result)
        t.check(chains.masked(t.path('c.vhd')) == child, 'the child changed')
        t.same_content(vhdfile.open_chain(t.path('c.vhd')).read_all(), view, 'view after stop %d' % attempt)
        t.img('check', '-q', '-f', 'vhd', target, rc=(0, 2, 3) if how == signal.SIGKILL else (0, 3))
        t.img('commit', '-q', t.path('c.vhd'))
        t.same_content(vhdfile.Vhd(target).read_all(), view, 'target after the rerun')
        t.sound(target, ours=False)
    t.check(ended_early >= max(1, STOPS // 7), 'only %d of %d runs were met on their way' % (ended_early, STOPS))


add('SIGINT-during-commit', stopped, signal.SIGINT, 'commit')
add('SIGTERM-during-commit', stopped, signal.SIGTERM, 'commit')
add('SIGKILL-during-commit', stopped, signal.SIGKILL, 'commit')


@case
def SIGUSR1_shows_progress(t):
    """Progress on request, without -p; the job goes on."""
    view = chain(t)
    seen = False
    t.run('cp', t.path('p.vhd'), t.path('pristine'))
    for attempt in range(30):
        t.run('cp', t.path('pristine'), t.path('p.vhd'))
        process = t.start(tool('vhd-img'), 'commit', '-r', '64M', t.path('c.vhd'))
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
    t.same_content(vhdfile.Vhd(t.path('p.vhd')).read_all(), view, 'target')


@case
def SIGINT_during_convert(t):
    """A half-made result is not taken for a whole one: status and message say so."""
    view = chain(t)
    before = sha256(t.path('c.vhd')), sha256(t.path('p.vhd'))
    met = 0
    for attempt in range(8):
        process = t.start(tool('vhd-img'), 'convert', '-q', '-r', '64M', '-O', 'vhd', t.path('c.vhd'), t.path('o.vhd'))
        time.sleep(0.04 * attempt)
        process.send_signal(signal.SIGINT)
        result = t.finish(process, signals=(signal.SIGINT,))
        if result.rc == 0:
            t.same_content(vhdfile.Vhd(t.path('o.vhd')).read_all(), view, 'a conversion that ended well')
        elif result.rc > 0:
            met += 1
            t.check(result.err.strip(), 'no message', result)
    t.equal((sha256(t.path('c.vhd')), sha256(t.path('p.vhd'))), before, 'the sources')
    t.check(met, 'no run was met on its way')


@case
def output_that_nobody_reads(t):
    """A closed pipe ends the program, it does not crash it."""
    chain(t)
    process = t.start(tool('vhd-img'), 'map', '--output=json', t.path('c.vhd'))
    process.stdout.close()
    process.stdout = open(os.devnull, 'rb')
    process.wait(20)
    t.check(process.returncode in (0, 1, -signal.SIGPIPE), 'status %d' % process.returncode)


main()
