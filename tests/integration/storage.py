# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage that fails for real: full file systems, limits of file size, read-only mounts, files that somebody else cuts
or removes meanwhile.  Each time one message and a status, sound images that show what they showed, and the command run
again, with room, ends as if nothing had been.  Of VHD, or of VHDX with "vhdx" as first argument.
"""

import os
import random
import sys
import time

import vhdxcheck
from harness import KiB, MiB, Unchanged, add, case, main, tool, vhdcheck

FORMAT = 'vhd'
if sys.argv[1:2] == ['vhdx']:
    FORMAT = 'vhdx'
    del sys.argv[1]
BASE, CHILD, OTHER, OUT = 'base.' + FORMAT, 'child.' + FORMAT, 'other.' + FORMAT, 'out.' + FORMAT
SIZE = 24 * MiB


# --- places -----------------------------------------------------------------------------------------------------

class Place:
    """A folder of its own file system, with room to be taken away and given back."""

    def __init__(self, t, kind, room=128 * MiB):
        self.t, self.kind, self.folder = t, kind, t.path('place')
        self.filler = os.path.join(self.folder, 'filler')
        os.mkdir(self.folder)
        if kind == 'plain':
            return
        if os.geteuid() != 0:
            t.skip('mounting needs root')
        if kind == 'tmpfs':
            argv = ['mount', '-t', 'tmpfs', '-o', 'size=%d' % room, 'none', self.folder]
        else:
            t.need('mkfs.ext4')
            with open(t.path('disk'), 'wb') as f:
                f.truncate(room)
            t.run('mkfs.ext4', '-q', '-F', '-m', '0', '-E', 'lazy_itable_init=0', t.path('disk'))
            argv = ['mount', '-o', 'loop', t.path('disk'), self.folder]
        if t.run(*argv, rc=None).rc != 0:
            t.skip('cannot mount %s here' % kind)

    def path(self, name):
        return os.path.join(self.folder, name)

    def fill(self, leave):
        """All but @leave bytes are taken."""
        free = os.statvfs(self.folder)
        free = free.f_bavail * free.f_frsize - leave
        with open(self.filler, 'wb', buffering=0) as f:
            try:
                while free > 0:
                    free -= f.write(b'f' * min(free, MiB))
            except OSError:
                pass
        os.sync()

    def make_room(self):
        os.unlink(self.filler)

    def done(self):
        if self.kind != 'plain':
            self.t.run('umount', self.folder, rc=None)


def placed(t, kind, function, *arguments):
    place = Place(t, kind)
    try:
        function(t, place, *arguments)
    finally:
        place.done()


def create(t, path, parent=None):
    t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=%s' % ('512k' if FORMAT == 'vhd' else '1M'),
          *(['-b', parent] if parent else []), path, *([] if parent else [SIZE]))


def write(t, path, *pieces):
    """(offset, length, byte) each."""
    t.io(*[a for at, length, byte in pieces for a in ('-c', 'write -q -P %d %d %d' % (byte, at, length))], path)


def family(t, place):
    """A base with little, a child with much, and another parent that shows something else."""
    base, child, other = place.path(BASE), place.path(CHILD), place.path(OTHER)
    create(t, base)
    write(t, base, (0, 64 * KiB, 1), (20 * MiB, MiB, 2))
    create(t, child, base)
    write(t, child, *[(n * 2 * MiB + 64 * KiB, MiB, 16 + n) for n in range(10)])
    create(t, other)
    write(t, other, *[(n * MiB, MiB, 64 + n) for n in range(24)])
    return base, child, other


def sound(t, path):
    """By both checkers; space that was taken and not used is no fault."""
    if FORMAT == 'vhd':
        problems = vhdcheck.check(path, ours=False)
        problems = [p for p in problems if 'behind' not in p and 'not used' not in p]
    else:
        problems = [f.text for f in vhdxcheck.check(path, closed=False).of('error')]
    t.check(not problems, 'independent check of %s' % path, *problems)
    t.img('check', '-q', '-f', FORMAT, path, rc=(0, 3))


def told(t, result, *phrases, lines=1):
    """One message that says why; vhd-io has one for each request."""
    t.check(result.rc == 1, 'status', result)
    text = (result.out + result.err).lower()
    t.check(any(p in text for p in phrases), 'message', result)
    errors = [line for line in result.err.splitlines() if line.strip() and 'warning:' not in line]
    t.check(len(errors) <= lines, 'more than one message', result)


def limited(t, limit, argv):
    """With files of at most @limit bytes."""
    return t.run('sh', '-c', 'ulimit -f %d; exec "$@"' % (limit // 512), 'sh', *argv, rc=None)


# --- what is done -----------------------------------------------------------------------------------------------

class Commit:
    lines = 1

    def __init__(self, t, place):
        self.files = family(t, place)[:2]
        self.view = t.content(self.files[1])
        self.argv = [tool('vhd-img'), 'commit', '-q', self.files[1]]

    def after_failure(self, t):
        t.same_content(t.content(self.files[1]), self.view, 'view through the child')

    def after_success(self, t):
        self.after_failure(t)
        t.same_content(t.content(self.files[0]), self.view, 'target')


class Rebase(Commit):
    """The child has to hold all that the new parent would show otherwise."""

    def __init__(self, t, place):
        base, child, other = family(t, place)
        self.files = (child, base, other)
        self.view = t.content(child)
        self.argv = [tool('vhd-img'), 'rebase', '-q', '-b', other, child]

    def after_failure(self, t):
        t.same_content(t.content(self.files[0]), self.view, 'view of the child')

    after_success = after_failure


class Convert(Commit):
    def __init__(self, t, place):
        self.source = t.path('source.raw')
        with open(self.source, 'wb') as f:
            f.write(random.Random(1).randbytes(SIZE))
        with open(self.source, 'rb') as f:
            self.view = f.read()
        self.files = ()
        self.out = place.path(OUT)
        self.argv = [tool('vhd-img'), 'convert', '-q', '-f', 'raw', '-O', FORMAT, self.source, self.out]

    def after_failure(self, t):
        """What is left must not look like a whole disk."""
        if os.path.exists(self.out):
            result = t.img('compare', '-q', '-f', FORMAT, '-F', 'raw', self.out, self.source, rc=None)
            t.check(result.rc != 0, 'an unfinished target passes for the disk', result)

    def after_success(self, t):
        t.same_content(t.content(self.out), self.view, 'target')


class Compact(Commit):
    """Blocks of zeros among others: needs no room, and may want some for a log."""

    def __init__(self, t, place):
        path = place.path(BASE)
        create(t, path)
        write(t, path, *[(n * MiB, MiB, 32 + n) for n in range(24)])
        t.io(*[a for n in range(0, 24, 3) for a in ('-c', 'write -q -P 0 %d 1M' % (n * MiB))], path)
        self.files = (path,)
        self.view = t.content(path)
        self.argv = [tool('vhd-img'), 'compact', '-q', path]

    def after_failure(self, t):
        t.same_content(t.content(self.files[0]), self.view, 'view')

    after_success = after_failure


class Guest(Commit):
    """Writes of a guest: each sector is as it was, or as it was written."""

    lines = 60

    def __init__(self, t, place):
        self.files = (family(t, place)[0],)
        self.old = t.content(self.files[0])
        self.new = bytearray(self.old)
        commands = []
        for n in range(1, 20):
            commands += ['-c', 'write -q -P %d %d 1M' % (100 + n, n * MiB)]
            self.new[n * MiB:(n + 1) * MiB] = bytes([100 + n]) * MiB
        self.argv = [tool('vhd-io'), '--break-children', *commands, '-c', 'flush', self.files[0]]

    def after_failure(self, t):
        found = t.content(self.files[0])
        for at in range(0, SIZE, 512):
            t.check(found[at:at + 512] in (self.old[at:at + 512], self.new[at:at + 512]), 'sector %d' % (at // 512),
                    found[at:at + 16].hex())

    def after_success(self, t):
        t.same_content(t.content(self.files[0]), bytes(self.new), 'content')


OPERATIONS = (Commit, Rebase, Convert, Compact, Guest)


def full(t, place, operation):
    """Less and less room, until it is enough: at the last without the filler."""
    what = operation(t, place)
    failures = 0
    for leave in (0, 64 * KiB, 3 * MiB + 4096):
        place.fill(leave)
        result = t.run(*what.argv, rc=None)
        if result.rc != 0:
            failures += 1
            told(t, result, 'space', 'free', lines=what.lines)
        place.make_room()
        for path in what.files:
            sound(t, path)
        if result.rc != 0:
            what.after_failure(t)
        else:
            what.after_success(t)
            break
    t.check(failures > 0 or operation is Compact, 'nothing failed for want of room')
    t.run(*what.argv)
    for path in what.files:
        sound(t, path)
    what.after_success(t)


def file_limit(t, place, operation):
    what = operation(t, place)
    largest = max([os.path.getsize(path) for path in what.files[:1]] + [4 * MiB])
    failures = 0
    # The last is where the file ends already: whatever makes it longer fails.
    for limit in (largest + 5 * MiB, largest + 64 * KiB, largest):
        result = limited(t, limit, what.argv)
        t.no_crash(result)
        if result.rc == 0:
            what.after_success(t)
            continue
        failures += 1
        # A limit of the format and one of the host are told apart by what grows the file, not always by its driver.
        told(t, result, 'large', 'space', lines=what.lines)
        for path in what.files:
            sound(t, path)
        what.after_failure(t)
    t.check(failures > 0 or operation is not Convert, 'nothing failed at the limit')
    t.run(*what.argv)
    what.after_success(t)


def read_only(t, place, operation):
    what = operation(t, place)
    os.sync()
    t.run('mount', '-o', 'remount,ro', place.folder)
    unchanged = Unchanged(*what.files)
    try:
        told(t, t.run(*what.argv, rc=None), 'read-only', lines=what.lines)
        for path in what.files:
            t.img('info', path)
            t.img('check', '-q', path, rc=(0, 3))
        what.after_failure(t)
        unchanged.verify(t, 'a refusal')
    finally:
        t.run('mount', '-o', 'remount,rw', place.folder)
    t.run(*what.argv)
    what.after_success(t)


for operation in OPERATIONS:
    name = operation.__name__.lower()
    add('full-tmpfs-' + name, placed, 'tmpfs', full, operation)
    add('full-ext4-' + name, placed, 'ext4', full, operation)
    add('file-limit-' + name, placed, 'plain', file_limit, operation)
    add('read-only-' + name, placed, 'tmpfs', read_only, operation)


def left_behind(t, place, operation):
    """Blocks of an interrupted run that no table names lie at the end of the file: they are room for the next one."""
    what = operation(t, place)
    path = what.argv[-1] if operation is Rebase else place.path(BASE)
    before = t.content(path)
    end = b''
    with open(path, 'r+b') as f:
        if FORMAT == 'vhd':
            f.seek(-512, os.SEEK_END)
            end = f.read()
            f.seek(-512, os.SEEK_END)
        else:
            f.seek(0, os.SEEK_END)
        f.write(os.urandom(24 * MiB) + end)
    t.equal(t.content(path), before, 'content with more behind it')
    place.fill(MiB)
    if operation is Commit:
        foreseen(t, what)
    t.run(*what.argv)
    what.after_success(t)


def foreseen(t, what):
    """The dry run says what the merge does: it cuts the target and goes on."""
    unchanged = Unchanged(*what.files)
    plan = t.img('commit', '--dry-run', '--output=json', what.argv[-1]).json
    t.check(plan['enough-space'], 'the room behind the blocks is not seen', plan)
    t.check(23 * MiB <= plan['host-bytes-to-cut'] <= 25 * MiB, 'what is cut', plan)
    t.check(plan['host-bytes-free'] <= MiB + 64 * KiB, 'free now', plan)
    t.check('cut first: 24 MiB' in t.img('commit', '--dry-run', what.argv[-1]).out, 'for people')
    unchanged.verify(t, 'a dry run')


for operation in (Commit, Rebase):
    add('left-behind-' + operation.__name__.lower(), placed, 'tmpfs', left_behind, operation)


# --- somebody else ----------------------------------------------------------------------------------------------

def meanwhile(t, argv, act):
    """@act once the command, held back, is on its way."""
    process = t.start(*argv)
    time.sleep(0.4)
    running = process.poll() is None
    act()
    return t.finish(process), running


def removed(t, which):
    """The file goes on without a name; the other one stays what it is."""
    place = Place(t, 'plain')
    base, child, _ = family(t, place)
    view = t.content(child)
    path = {'base': base, 'child': child}[which]
    result, running = meanwhile(t, [tool('vhd-img'), 'commit', '-q', '-r', '12M', child], lambda: os.unlink(path))
    t.check(running, 'it had ended before', result)
    if which == 'child' and result.rc == 0:
        sound(t, base)
        t.same_content(t.content(base), view, 'target')
    elif result.rc != 0:
        told(t, result, BASE, CHILD)


def cut(t, which, operation):
    """What is missing is an error, never zeros, and the other file stays sound."""
    place = Place(t, 'plain')
    base, child, other = family(t, place)
    view, below = t.content(child), t.content(base)
    path = {'base': base, 'child': child}[which]
    argv = [tool('vhd-img'), 'commit', '-q', '-r', '12M', child]
    if operation == 'convert':
        argv = [tool('vhd-img'), 'convert', '-q', '-r', '12M', '-O', FORMAT, child, place.path(OUT)]
    keep = os.path.getsize(path) * 2 // 5
    result, running = meanwhile(t, argv, lambda: os.truncate(path, keep))
    t.check(running, 'it had ended before', result)
    t.no_crash(result)
    if which == 'child':
        told(t, result, 'input/output')
        if operation == 'commit':
            sound(t, base)
            found = t.content(base)
            for at in range(0, SIZE, 4 * KiB):
                t.check(found[at:at + 4 * KiB] in (view[at:at + 4 * KiB], below[at:at + 4 * KiB]),
                        'the target got what neither had, at %d' % at, found[at:at + 16].hex())
    elif operation == 'convert':
        t.check(result.rc != 0 or t.content(place.path(OUT)) == view, 'zeros for what was cut off', result)


for which in ('base', 'child'):
    add('removed-while-committing-' + which, removed, which)
    add('cut-while-committing-' + which, cut, which, 'commit')
    add('cut-while-converting-' + which, cut, which, 'convert')


def guest_meanwhile(t, path, before, act, after):
    """A guest's requests, @act between them, and other requests."""
    read_end, write_end = os.pipe()
    process = t.start(tool('vhd-io'), path, stdin=read_end)
    os.close(read_end)
    with os.fdopen(write_end, 'w') as commands:
        print(*before, sep='\n', file=commands, flush=True)
        time.sleep(0.4)
        act()
        print(*after, sep='\n', file=commands)
    return t.finish(process)


@case
def cut_while_a_guest_reads(t):
    place = Place(t, 'plain')
    path = place.path(BASE)
    create(t, path)
    write(t, path, (0, 8 * MiB, 5))
    result = guest_meanwhile(t, path, ['read -P 5 0 64k'], lambda: os.truncate(path, os.path.getsize(path) - 4 * MiB),
                             ['read -P 0 7M 64k', 'read -P 5 7M 64k', 'read -P 5 0 64k'])
    t.check(result.rc == 1, 'status', result)
    text = result.out + result.err
    t.check('input/output error' in text.lower(), 'what is missing was read', result)
    t.check(text.lower().count('pattern') == 0, 'zeros in the place of data', result)


@case
def file_system_gone_while_a_guest_writes(t):
    """Taken away by force: errors, and no more than that."""
    place = Place(t, 'tmpfs')
    try:
        path = place.path(BASE)
        create(t, path)
        guest_meanwhile(t, path, ['write -q -P 5 0 1M', 'flush'], lambda: t.run('umount', '-l', place.folder),
                        ['write -q -P 6 2M 1M', 'flush', 'read -q -P 6 2M 1M'])
    finally:
        place.done()


main()
