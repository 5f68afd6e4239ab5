# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every script test stands on: running the tools, a scratch directory per case, TAP output.

A test file declares cases and ends with main ():

    @case
    def what_is_seen(t): ...

    for parameter in table:
        add('name', function, parameter)

Each case gets a T whose directory is its own and removed afterwards (kept with VHDKIT_KEEP=1).  A case fails
by an exception; T.skip says why it cannot run here.  Cases can be named on the command line.
"""

import atexit
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import vhdcheck  # noqa: E402
import vhdfile  # noqa: E402

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
QEMU_IMG = os.environ.get('QEMU_IMG', 'qemu-img')
QEMU_IO = os.environ.get('QEMU_IO', 'qemu-io')
TIMEOUT = float(os.environ.get('VHDKIT_TIMEOUT', '120'))

_cases = []


class Skip(Exception):
    pass


class Failed(Exception):
    pass


def case(function):
    _cases.append((function.__name__.replace('_', '-'), function, ()))
    return function


def add(name, function, *arguments):
    _cases.append((name, function, arguments))


def tool(name):
    """Path of a built program; absent is a failure of the test, not a skip."""
    path = os.environ.get(name.upper().replace('-', '_'))
    if path:
        return path
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(here, '..', '..', 'build', 'tools', name)


def have(program):
    return shutil.which(program) is not None


def corpus():
    """The folder of foreign images, or None."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get('VHDKIT_CORPUS') or os.path.join(here, '..', '..', '..', 'shared', 'corpus')
    return path if os.path.isfile(os.path.join(path, 'MANIFEST.tsv')) else None


def can_direct(folder):
    """Whether files there open with O_DIRECT."""
    path = os.path.join(folder, 'direct')
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        return True
    except OSError:
        return False
    finally:
        if os.path.exists(path):
            os.unlink(path)


def _scratch_base():
    base = os.environ.get('VHDKIT_TEST_DIR')
    if base:
        return base
    try:
        stat = os.statvfs('/dev/shm')
        if stat.f_bavail * stat.f_frsize >= 2 * GiB:
            return '/dev/shm'
    except OSError:
        pass
    return None


class Result:
    """A finished command: text of both outputs, and its status as the shell would tell it."""

    def __init__(self, argv, rc, out, err):
        self.argv, self.rc, self.out, self.err = argv, rc, out, err

    def __str__(self):
        text = '%s -> %d' % (' '.join(self.argv), self.rc)
        for name, blob in (('out', self.out), ('err', self.err)):
            if blob:
                text += '\n%s: %s' % (name, blob if len(blob) < 4000 else blob[:2000] + ' ... ' + blob[-2000:])
        return text

    @property
    def json(self):
        return json.loads(self.out)


class T:
    """One running case."""

    def __init__(self, directory):
        self.dir = directory

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def skip(self, reason):
        raise Skip(reason)

    def need(self, *programs):
        for program in programs:
            if not have(program):
                raise Skip('no %s here' % program)

    def check(self, condition, what, *detail):
        if not condition:
            raise Failed('\n'.join([what] + [str(d) for d in detail]))

    def equal(self, found, expected, what):
        if found != expected:
            raise Failed('%s: found %r, expected %r' % (what, found, expected))

    def need_openat2(self, image):
        """What --confine needs; emulators of other processors do not have it."""
        if 'no openat2' in self.img('info', '--confine', self.dir, image, rc=None).err:
            raise Skip('no openat2 here')

    # running ------------------------------------------------------------------------------------------

    def run(self, *argv, rc=0, cwd=None, timeout=TIMEOUT, stdin=None, env=None):
        """Runs a command; @rc: the status asked for, a tuple of them, or None for any.  A crash never passes."""
        argv = [str(a) for a in argv]
        process = subprocess.Popen(argv, cwd=cwd or self.dir, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, **env) if env else None)
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Failed('timed out after %g s: %s\n%s' % (timeout, ' '.join(argv), err.decode(errors='replace')))
        result = Result(argv, process.returncode, out.decode(errors='replace'), err.decode(errors='replace'))
        self.no_crash(result)
        if rc is not None and result.rc not in (rc if isinstance(rc, tuple) else (rc,)):
            raise Failed('expected exit status %s: %s' % (rc, result))
        return result

    def no_crash(self, result, signals=()):
        if result.rc < 0 and -result.rc not in signals:
            raise Failed('killed by signal %d: %s' % (-result.rc, result))
        for sign in ('AddressSanitizer', 'LeakSanitizer', 'runtime error:', 'Assertion', 'CRITICAL **', 'ERROR:'):
            if sign in result.err:
                raise Failed('"%s" in the messages: %s' % (sign, result))

    def img(self, *argv, **kw):
        return self.run(tool('vhd-img'), *argv, **kw)

    def io(self, *argv, **kw):
        """Whatever has the image as its parent: tests write to parents all the time.  The option stands last, for the
        first may be what the program does."""
        return self.run(tool('vhd-io'), *argv, '--break-children', **kw)

    def as_nobody(self, *paths):
        """What lets somebody who may not read everything run the tool; he may write to @paths.  Nothing, where we are
        no root ourselves."""
        if os.geteuid() != 0:
            return []
        self.need('setpriv')
        nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
        for path in (*paths, self.dir, os.path.dirname(self.dir)):
            os.chmod(path, 0o777)
        if self.run(*nobody, tool('vhd-img'), '--version', rc=None).rc != 0:
            self.skip('root may read everything, and nobody else may run the tool')
        return nobody

    def start(self, *argv, **kw):
        """A process that goes on; it is killed when the case ends."""
        process = subprocess.Popen([str(a) for a in argv], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=kw.pop('stdin', subprocess.DEVNULL), **kw)
        self.processes = getattr(self, 'processes', []) + [process]
        return process

    def finish(self, process, timeout=TIMEOUT, signals=()):
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed('timed out: %s' % process.args)
        result = Result(process.args, process.returncode, out.decode(errors='replace'), err.decode(errors='replace'))
        self.no_crash(result, signals)
        return result

    def wait_until(self, condition, what, seconds=20):
        stop = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > stop:
                raise Failed('waited %g s for %s' % (seconds, what))
            time.sleep(0.01)

    # judging ------------------------------------------------------------------------------------------

    def refused(self, result, *phrases):
        """A failure told as one clear message: a non-zero status, one line, all the @phrases in it."""
        self.check(result.rc != 0, 'not refused', result)
        lines = [line for line in result.err.splitlines()
                 if line.strip() and 'warning:' not in line and not line.startswith("Try '")]
        self.check(len(lines) >= 1, 'no message', result)
        self.check(len(lines) == 1, 'more than one message', result)
        for phrase in phrases:
            alternatives = phrase if isinstance(phrase, tuple) else (phrase,)
            self.check(any(a.lower() in lines[0].lower() for a in alternatives),
                       'message does not say %s' % ' or '.join(alternatives), result)

    def sound(self, path, ours=True, leaks=False):
        """Clean by our check command and by the independent one.  @leaks: lost space is no fault."""
        problems = vhdcheck.check(path, ours=ours)
        self.check(not problems, 'independent check of %s' % path, *problems)
        return self.img('check', '-f', 'vhd', path, rc=(0, 3) if leaks else 0)

    def content(self, path, *options, fmt=None):
        """Guest bytes as our convert reads them, by way of a raw file."""
        out = self.path('content-%d.raw' % time.monotonic_ns())
        argv = ['convert', '-q']
        if fmt:
            argv += ['-f', fmt]
        self.img(*argv, *options, '-O', 'raw', path, out)
        with open(out, 'rb') as f:
            data = f.read()
        os.unlink(out)
        return data

    def same_content(self, found, expected, what):
        if found == expected:
            return
        where = next((i for i in range(min(len(found), len(expected))) if found[i] != expected[i]),
                     min(len(found), len(expected)))
        raise Failed('%s: %d bytes against %d, first difference at %d (sector %d): found %s, expected %s' %
                     (what, len(found), len(expected), where, where // 512, found[where:where + 8].hex(),
                      expected[where:where + 8].hex()))


def sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while True:
            piece = f.read(MiB)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def read_file(path):
    with open(path, 'rb') as f:
        return f.read()


def data_extents(path, start=0, stop=None):
    """(start, end) of what is not a hole, inside [start, stop)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = start
        while stop is None or end < stop:
            try:
                begin = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            if stop is not None:
                begin, end = min(begin, stop), min(end, stop)
            if begin < end:
                yield begin, end
    finally:
        os.close(fd)


def bytes_of(path):
    """A hash of all of a file's bytes; zeros, stored or not, cost little."""
    digest = hashlib.sha256(b'%d' % os.path.getsize(path))
    zeros = bytes(64 * KiB)
    done = 0
    with open(path, 'rb') as f:
        for start, end in data_extents(path):
            # Several extents may lie in one piece, and which there are may change while the bytes do not.
            start = max(start - start % len(zeros), done)
            f.seek(start)
            while start < end:
                piece = f.read(len(zeros))
                if piece != zeros[:len(piece)]:
                    digest.update(b'%d %d ' % (start, len(piece)) + piece)
                start += len(zeros)
                done = start
    return digest.hexdigest()


class Unchanged:
    """Bytes and modification time of files, to be looked at again."""

    def __init__(self, *paths):
        self.state = {p: self._look(p) for p in paths}

    @staticmethod
    def _look(path):
        stat = os.stat(path)
        return bytes_of(path), stat.st_size, stat.st_mtime_ns, stat.st_mode

    def verify(self, t, what='read-only use'):
        for path, before in self.state.items():
            t.equal(self._look(path), before, '%s changed %s (hash, size, time, mode)' % (what, path))


def locked(path):
    """Whether any process holds image locks on @path."""
    stat = os.stat(path)
    inode = '%02x:%02x:%d' % (os.major(stat.st_dev), os.minor(stat.st_dev), stat.st_ino)
    with open('/proc/locks', encoding='ascii') as f:
        return any(inode in line and 'OFD' in line for line in f)


def _escape(text):
    return str(text).encode('ascii', 'backslashreplace').decode()


def main():
    wanted = sys.argv[1:]
    if wanted == ['--list']:
        print('\n'.join(name for name, _, _ in _cases))
        return
    cases = [c for c in _cases if not wanted or c[0] in wanted]
    if not cases:
        sys.exit('no such case')
    base = tempfile.mkdtemp(prefix='vhdkit-test.', dir=_scratch_base())
    keep = bool(os.environ.get('VHDKIT_KEEP'))
    if not keep:
        atexit.register(shutil.rmtree, base, True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print('1..%d' % len(cases), flush=True)
    failures = 0
    for number, (name, function, arguments) in enumerate(cases, 1):
        directory = os.path.join(base, str(number))
        os.mkdir(directory)
        t = T(directory)
        began = time.monotonic()
        try:
            function(t, *arguments)
            line = 'ok %d - %s' % (number, name)
            notes = ''
        except Skip as skip:
            line = 'ok %d - %s # SKIP %s' % (number, name, _escape(skip))
            notes = ''
        except Exception as e:
            failures += 1
            line = 'not ok %d - %s' % (number, name)
            frames = traceback.format_tb(e.__traceback__)
            notes = '%s\n%s' % (e if isinstance(e, Failed) else traceback.format_exc(limit=0),
                                ''.join(f for f in frames if 'harness.py' not in f))
        for process in getattr(t, 'processes', []):
            if process.poll() is None:
                process.kill()
            process.communicate()
        print(line, flush=True)
        print('# %s: %.2f s' % (name, time.monotonic() - began))
        for note in notes.splitlines():
            if note.strip():
                print('# ' + _escape(note))
        sys.stdout.flush()
        if not keep:
            shutil.rmtree(directory, True)
    sys.exit(1 if failures else 0)
