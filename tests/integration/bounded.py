# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running the tools with a limit of memory, and counting what they read: for images made to cost much."""

import os
import resource
import subprocess
import tempfile
import threading

from harness import Failed, MiB, Result, TIMEOUT, T, tool

# Enough for any command on any image here, of which most need 40 MiB and less; the page cache of an image has 32.
MEMORY = 192 * MiB
# Address space that is only put by: stacks of threads, and arenas of their allocator.
STACK = MiB


def watched():
    """Whether the tools are of a sanitizer's build or run under an emulator, which take address space as they like."""
    with open(tool('vhd-img'), 'rb') as f:
        data = f.read()
    return not data.startswith(b'\x7fELF') or b'__asan_init' in data or b'__tsan_init' in data


def counters(pid):
    """rchar, syscr and the like of a process that has ended and was not waited for."""
    with open('/proc/%d/io' % pid, encoding='ascii') as f:
        return {name: int(value) for name, value in (line.split(': ') for line in f)}


def run(t, argv, memory=MEMORY, rc=None, timeout=TIMEOUT):
    """A Result with .bytes_read, .reads and .peak (bytes), of a command that may have @memory bytes."""
    argv = [str(a) for a in argv]
    limit = (memory, memory) if not watched() else None

    def prepare():
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, limit)
            resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(argv, cwd=t.dir, stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=prepare,
                                   env=dict(os.environ, MALLOC_ARENA_MAX='1'))
        late = threading.Timer(timeout, process.kill)
        late.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        late.cancel()
        io = counters(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors='replace'))
    result = Result(argv, process.returncode, *texts)
    result.bytes_read, result.reads, result.peak = io['rchar'], io['syscr'], usage.ru_maxrss << 10
    T.no_crash(t, result)
    if rc is not None and result.rc not in (rc if isinstance(rc, tuple) else (rc,)):
        raise Failed('expected exit status %s: %s' % (rc, result))
    return result


class Untouched:
    """Bytes, time stamps and all else that stat () tells of files, but when they were last read."""

    def __init__(self, folder):
        self.folder = folder
        self.state = self._look()

    def _look(self):
        state = {}
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            stat = os.lstat(path)
            state[name] = (stat.st_size, stat.st_blocks, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode, stat.st_ino)
        return state

    def verify(self, t, what):
        t.equal(self._look(), self.state, '%s changed files (size, blocks, times, mode, inode)' % what)
