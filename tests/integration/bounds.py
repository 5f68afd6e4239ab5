# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images made to cost memory, work or another file's secrets: fixed memory, linear work, parents that are none.

Work is counted in bytes read, never in seconds.
"""

import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import uuid

import bounded
import vhdfile as vf
import vhdxfile as vx
from harness import KiB, MiB, add, case, main, tool
from rejecting import SIZE

TiB = 1 << 40
G = uuid.UUID(int=0x11111111222233334444555555555555)
IMG, IO = tool('vhd-img'), tool('vhd-io')


# --- large tables -----------------------------------------------------------------------------------------------

def vhdx_of_64_tib(t, entries):
    """@entries: (index, value) in a table of 512 MiB that is a hole otherwise."""
    v = vx.Vhdx(size=64 * TiB)
    v.regions = [(vx.BAT, 3 * MiB, 513 * MiB, 1), (vx.METADATA, 2 * MiB, MiB, 1)]
    v.file_size = 517 * MiB
    v.patches = [(3 * MiB + 8 * index, struct.pack('<Q', value)) for index, value in entries]
    return v.write(t.path('x.vhdx'))


@case
def vhdx_of_64_tib_with_a_hostile_table(t):
    chance = random.Random(1)
    last = 64 * MiB + 16383 - 1
    entries = [(chance.randrange(last), chance.getrandbits(64)) for _ in range(2000)]
    entries += [(0, 516 * MiB | 6), (last, (1 << 63) | 6)]
    path = vhdx_of_64_tib(t, entries)
    before = bounded.Untouched(t.dir)
    result = bounded.run(t, [IMG, 'info', path], rc=0)
    t.check(result.bytes_read < MiB, 'opening read %d bytes' % result.bytes_read)
    bounded.run(t, [IO, '-r', '-c', 'read -q -P 0 0 64k', path], rc=0)
    t.refused(bounded.run(t, [IMG, 'map', path], rc=1))
    result = bounded.run(t, [IMG, 'check', path], rc=2)
    t.check(result.bytes_read < 64 * MiB, 'check read %d bytes' % result.bytes_read)
    t.refused(bounded.run(t, [IO, '-c', 'write -q 0 64k', path], rc=1), 'x.vhdx', 'bat entry')
    t.refused(bounded.run(t, [IMG, 'compact', '-q', path], rc=1), 'x.vhdx', 'bat entry')
    before.verify(t, 'looking')


@case
def vhdx_table_full_of_nonsense(t):
    """16 MiB of random entries, none of them a hole."""
    v = vx.Vhdx(size=2 * TiB)
    v.regions = [(vx.BAT, 3 * MiB, 17 * MiB, 1), (vx.METADATA, 2 * MiB, MiB, 1)]
    v.file_size = 30 * MiB
    v.patches = [(3 * MiB, random.Random(2).randbytes(16 * MiB))]
    path = v.write(t.path('x.vhdx'))
    bounded.run(t, [IMG, 'info', path], rc=0)
    result = bounded.run(t, [IMG, 'check', path], rc=2)
    t.check(len(result.out.splitlines()) < 300, 'findings', len(result.out.splitlines()))
    t.check(result.bytes_read < 80 * MiB, 'check read %d bytes' % result.bytes_read)
    t.refused(bounded.run(t, [IO, '-c', 'write -q 0 64k', path], rc=1), 'x.vhdx', 'bat entry')


def vhd_of_small_blocks(t, entries, step=1024):
    """Blocks of 512 bytes, all of them allocated: the file is a hole but for its table."""
    table = 1536
    start = -(-(table + 4 * entries) // 4096) * 4096 - 512
    made = vf.write_sparse(t.path('x.vhd'), MiB, block_size=512)
    size = entries * 512
    vf.patch_footer(made.path, current_size=size, original_size=size)
    footer = vf.read_at(made.path, 0, 512)
    with open(made.path, 'r+b') as f:
        f.truncate(table)
        f.seek(table)
        first = start // 512
        for at in range(0, entries, MiB):
            n = min(MiB, entries - at)
            f.write(struct.pack('>%dI' % n, *range(first + (at * step) // 512, first + ((at + n) * step) // 512,
                                                   step // 512)))
        f.truncate(start + entries * step)
        f.seek(start + entries * step)
        f.write(footer)
    vf.patch_header(made.path, max_table_entries=entries, table_offset=table, block_size=512)
    return made.path


@case
def vhd_of_very_many_small_blocks(t):
    """A list of 6 million blocks and what sorting it takes is 144 MiB: read in fixed memory, and refused to a writer who has less."""
    path = vhd_of_small_blocks(t, 6 * MiB)
    before = bounded.Untouched(t.dir)
    result = bounded.run(t, [IMG, 'info', path], rc=0)
    t.check(result.bytes_read < MiB, 'opening read %d bytes' % result.bytes_read)
    bounded.run(t, [IO, '-r', '-c', 'read -q -P 0 1G 64k', path], rc=0)
    if bounded.watched():
        t.skip('a sanitizer or emulator takes address space as it likes: no limit, no refusal')
    for argv in ([IO, '-c', 'write -q 0 64k', path], [IMG, 'compact', '-q', path], [IMG, 'check', path]):
        result = bounded.run(t, argv, memory=128 * MiB)
        t.check(result.rc in (1, 63), 'status', result)
        t.refused(result, 'x.vhd', 'memory')
    before.verify(t, 'refusals')


# --- logs -------------------------------------------------------------------------------------------------------

def entry(sequence, tail, pages=(), zeros=(), length=None):
    data = bytearray(vx.log_entry(G, sequence, list(pages), tail, 8 * MiB, 8 * MiB, zeros=zeros))
    if length is not None:
        struct.pack_into('<I', data, 8, length)
        data = vx.with_sum(data)
    return bytes(data)


def claiming_all(log_bytes):
    """Headers of entries that claim the whole log, one in each sector."""
    return entry(1, 0, length=log_bytes) * (log_bytes // 4096)


def claiming_all_with_data(log_bytes):
    """The same, each with a data sector that belongs to it."""
    page = bytes(4096)
    whole = entry(1, 0, [(3 * MiB, page)])
    head = bytearray(whole[:4096])
    struct.pack_into('<I', head, 8, log_bytes)
    struct.pack_into('<I', head, 24, log_bytes // 4096 - 1)
    return (bytes(head) + whole[4096:]) * (log_bytes // 8192)


def no_run(log_bytes):
    """Valid entries, each of the same number: every one is a run."""
    one = entry(7, 8192)
    return one * 2 + bytes(4096) + one * (log_bytes // 4096 - 3)


def one_run_without_tail(log_bytes):
    """Numbers that go up by one to the end, and no tail among them is where an entry starts."""
    count = log_bytes // 8192
    return b''.join(entry(n + 1, 4096, [(3 * MiB, bytes(4096))]) for n in range(count))


def long_data_without_head(log_bytes):
    """One header, and data sectors of its number to the end of the log, one more than it has descriptors for."""
    return (entry(1, 0, [(3 * MiB, bytes(4096))])[4096:]) * (log_bytes // 4096 - 1) + entry(1, 0, length=log_bytes)


def run_log(t, make):
    """Twice the log is at most twice the work, and that is but a few times its length."""
    reads = []
    for log_bytes in (MiB, 2 * MiB, 4 * MiB):
        v = vx.Vhdx()
        v.log_guid, v.log_length, v.log_offset, v.log_at = G, log_bytes, 8 * MiB, 8 * MiB
        v.file_size = 16 * MiB
        v.log = make(log_bytes)
        path = v.write(t.path('x.vhdx'))
        result = bounded.run(t, [IMG, 'info', path], rc=1)
        t.refused(result, 'x.vhdx', 'no valid entry')
        reads.append(result.bytes_read)
        t.check(result.bytes_read < 5 * log_bytes + MiB, '%d bytes read for a log of %d' % (result.bytes_read, log_bytes))
    t.check(reads[2] - reads[1] < 2.2 * (reads[1] - reads[0]) + 256 * KiB, 'not linear', reads)


for make in (claiming_all, claiming_all_with_data, no_run, one_run_without_tail, long_data_without_head):
    add('log-' + make.__name__.replace('_', '-'), run_log, make)


@case
def log_of_pages_and_zeros(t):
    """All the ranges of zeros that are taken, over and over the same pages; the last page counts."""
    page = struct.pack('<Q', 4 * MiB | 6).ljust(4096, b'\0')
    steps = entry(1, 0, [(3 * MiB, page)], zeros=[(3 * MiB, MiB)] * 4090)
    v = vx.Vhdx()
    v.log_guid, v.log = G, steps
    v.file_size = 8 * MiB
    v.patches = [(4 * MiB, b'\5' * MiB)]
    path = v.write(t.path('x.vhdx'))
    before = bounded.Untouched(t.dir)
    bounded.run(t, [IO, '-r', '-c', 'read -q -P 5 0 1M', '-c', 'read -q -P 0 1M 7M', path], rc=0)
    before.verify(t, 'reading')
    bounded.run(t, [IO, '-c', 'write -q -P 6 1M 1M', path], rc=0)
    bounded.run(t, [IO, '-r', '-c', 'read -q -P 5 0 1M', '-c', 'read -q -P 6 1M 1M', path], rc=0)


# --- metadata ---------------------------------------------------------------------------------------------------

@case
def locator_texts_over_each_other(t):
    """256 keys and values of 64 KiB each in an item of 100 KiB."""
    entries = 256
    item = bytearray(vx.locator([('k', 'v')] * entries)[:20 + 12 * entries])
    item += 'k'.encode('utf-16-le') * 40000
    for n in range(entries):
        struct.pack_into('<IIHH', item, 20 + 12 * n, 20 + 12 * entries, 20 + 12 * entries, 65534 - 2 * n, 65534)
    v = vx.Vhdx()
    v.flags = 2
    v.items.append((vx.LOCATOR, bytes(item), 4))
    result = bounded.run(t, [IMG, 'info', v.write(t.path('x.vhdx'))], rc=1)
    t.refused(result, 'x.vhdx', 'parent locator: entry 0: 131068 bytes of text so far, the item has')


@case
def path_that_reads_a_directory_over_and_over(t):
    """"A/../A/../…": each component is there in another case only."""
    os.mkdir(t.path('a'))
    v = vx.Vhdx()
    v.flags = 2
    v.items.append((vx.LOCATOR, vx.locator([('parent_linkage', '{%s}' % G), ('relative_path', 'A\\..\\' * 700 + 'p')]), 4))
    path = v.write(t.path('x.vhdx'))
    trace = t.path('trace')
    t.need('strace')
    if bounded.watched():
        t.skip('a leak checker or emulator and strace cannot both trace a process')
    if t.run('strace', '-qq', '-e', 'trace=none', 'true', rc=None).rc != 0:
        t.skip('strace cannot trace here')
    t.run('strace', '-f', '-qq', '-o', trace, '-e', 'trace=getdents64', IMG, 'map', path, rc=1)
    with open(trace, encoding='ascii', errors='replace') as f:
        listed = sum('getdents64' in line for line in f)
    t.check(0 < listed <= 2 * 2 * 64, 'reads of the directory', listed)


# --- chains -----------------------------------------------------------------------------------------------------

def chain(t, layers):
    parent = None
    for i in range(layers):
        path = t.path('x.vhd' if i == layers - 1 else '%d.vhd' % i)
        parent = vf.write_sparse(path, MiB, [(i % 2048 * 512, struct.pack('<H', i) * 256)],
                                 parent_id=parent and parent.unique_id, parent_path=parent and parent.path)
    return parent.path


@case
def chain_of_1000_links(t):
    path = chain(t, 1000)
    before = bounded.Untouched(t.dir)
    for argv in ([IMG, 'map', path], [IMG, 'convert', '-q', '-O', 'raw', path, 'o.raw'], [IO, '-c', 'write -q 0 512', path]):
        result = bounded.run(t, argv, rc=1)
        t.refused(result, 'the chain has more than 512 layers')
        t.check(result.bytes_read < 40 * MiB, 'read %d bytes' % result.bytes_read)
    before.verify(t, 'a refusal')


@case
def chain_of_512_links(t):
    """The longest: within the usual limit of descriptors, in little memory."""
    path = chain(t, 512)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        bounded.run(t, [IMG, 'convert', '-q', '-O', 'raw', path, t.path('o.raw')], rc=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with open(t.path('o.raw'), 'rb') as f:
        data = f.read()
    t.equal([struct.unpack_from('<H', data, i * 512)[0] for i in range(512)], list(range(512)), 'a sector of each')


def circle(t, link):
    """x.vhd names its parent by another name of itself."""
    vf.write_sparse(t.path('x.vhd'), SIZE, parent_id=b'P' * 16, unique_id=b'P' * 16,
                    locators=[vf.Locator.w2ru('.\\' + link(t))])
    before = bounded.Untouched(t.dir)
    for argv in ([IMG, 'map', t.path('x.vhd')], [IO, '-c', 'write -q 0 512', t.path('x.vhd')]):
        t.refused(bounded.run(t, argv, rc=1), ('chain cycle', 'another identity'))
    before.verify(t, 'a refusal')


def by_symlink(t):
    os.symlink('x.vhd', t.path('other.vhd'))
    return 'other.vhd'


def by_symlinked_directory(t):
    os.symlink('.', t.path('d'))
    return 'd\\d\\d\\x.vhd'


def by_way_of_the_parent_directory(t):
    return '..\\%s\\x.vhd' % os.path.basename(t.dir)


for link in (by_symlink, by_symlinked_directory, by_way_of_the_parent_directory):
    add('cycle-' + link.__name__.replace('_', '-'), circle, link)


@case
def cycle_by_hard_link(t):
    vf.write_sparse(t.path('x.vhd'), SIZE, parent_id=b'P' * 16, unique_id=b'P' * 16,
                    locators=[vf.Locator.w2ru('.\\other.vhd')])
    os.link(t.path('x.vhd'), t.path('other.vhd'))
    for name in ('x.vhd', 'other.vhd'):
        t.refused(bounded.run(t, [IMG, 'map', t.path(name)], rc=1), 'chain cycle')


@case
def cycle_of_hard_links_further_down(t):
    """a over b over c, and c names another name of a."""
    for name, own, above, target in (('a.vhd', b'A', b'B', 'b'), ('b.vhd', b'B', b'C', 'c'), ('c.vhd', b'C', b'A', 'z')):
        vf.write_sparse(t.path(name), SIZE, parent_id=above * 16, unique_id=own * 16,
                        locators=[vf.Locator.w2ru('.\\%s.vhd' % target)])
    os.link(t.path('a.vhd'), t.path('z.vhd'))
    t.refused(bounded.run(t, [IMG, 'map', t.path('a.vhd')], rc=1), 'c.vhd', 'chain cycle')


# --- what must not be opened as a parent ------------------------------------------------------------------------

def child_of(t, path, parent_id=b'P' * 16):
    vf.write_sparse(t.path('x.vhd'), SIZE, [(8192, b'\1' * 512)], parent_id=parent_id,
                    locators=[vf.Locator.macx('file://' + path) if path[0] == '/' else
                              vf.Locator.w2ru(path.replace('/', '\\'))])
    return t.path('x.vhd')


def fifo(t):
    os.mkfifo(t.path('there'))
    return t.path('there'), 'is a FIFO, expected a regular file'


def unix_socket(t):
    here = os.getcwd()
    os.chdir(t.dir)         # the name is limited to 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind('there')
    finally:
        os.chdir(here)
    return t.path('there'), 'is a socket, expected a regular file'


def directory(t):
    os.mkdir(t.path('there'))
    return t.path('there'), 'is a directory, expected a regular file'


def character_device(t):
    return '/dev/zero', 'is a character device, expected a regular file'


def terminal(t):
    return '/dev/ptmx', 'is a character device, expected a regular file'


def block_device(t):
    try:
        os.mknod(t.path('there'), stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except OSError as e:
        t.skip('cannot make a device node: %s' % e)
    return t.path('there'), 'is a block device, expected a regular file'


def link_to_a_device(t):
    os.symlink('/dev/zero', t.path('there'))
    return t.path('there'), 'is a character device, expected a regular file'


def link_to_itself(t):
    os.symlink('there', t.path('there'))
    return t.path('there'), 'too many levels of symbolic links'


def text_file(t):
    with open(t.path('there'), 'w', encoding='ascii') as f:
        f.write('the secret words\n' * 100)
    return t.path('there'), 'is not an image of a format its child can have'


def proc_memory(t):
    return '/proc/self/mem', ('is not an image of a format', 'input/output error', 'cannot')


def proc_environment(t):
    return '/proc/self/environ', ('is not an image of a format',)


def proc_descriptor_of_itself(t):
    return '/proc/self/fd/0', ('is a character device', 'is a fifo', 'is a socket')


def proc_directory_of_descriptors(t):
    return '/proc/self/fd', 'is a directory, expected a regular file'


def nothing(t):
    return t.path('there'), 'no such file'


def run_no_parent(t, make):
    """Refused with its reason, by a link with an identity and by a raw one, --raw-parent or not; nothing waits."""
    path, reason = make(t)
    for parent_id, options in ((b'P' * 16, []), (b'P' * 16, ['--raw-parent']), (bytes(16), ['--raw-parent']),
                               (bytes(16), [])):
        image = child_of(t, path, parent_id)
        before = bounded.Untouched(t.dir)
        for argv in ([IMG, 'map', *options, image], [IO, *options, '-c', 'write -q 0 512', image]):
            if parent_id == bytes(16) and options and make in (text_file, proc_memory, proc_environment):
                continue        # a plain disk, and the user has allowed those
            result = bounded.run(t, argv, rc=1, timeout=20)
            t.refused(result, 'x.vhd', reason if parent_id != bytes(16) or options else '--raw-parent')
            t.check('secret words' not in result.err + result.out, 'content of the file in the message', result)
        before.verify(t, 'a refusal')


for make in (fifo, unix_socket, directory, character_device, terminal, block_device, link_to_a_device, link_to_itself,
             text_file, proc_memory, proc_environment, proc_descriptor_of_itself, proc_directory_of_descriptors, nothing):
    add('parent-is-' + make.__name__.replace('_', '-'), run_no_parent, make)


@case
def file_of_another_user(t):
    """By way of "..": what may not be read is told so, and what may be is no parent without the identity."""
    os.makedirs(t.path('mine'))
    os.makedirs(t.path('theirs'))
    vf.write_sparse(t.path('theirs/secret.vhd'), SIZE, [(0, b'\7' * 512)], unique_id=b'Q' * 16)
    vf.write_sparse(t.path('mine/x.vhd'), SIZE, parent_id=b'P' * 16,
                    locators=[vf.Locator.w2ru('..\\theirs\\secret.vhd')])
    t.refused(bounded.run(t, [IMG, 'map', t.path('mine/x.vhd')], rc=1), 'has another identity', 'theirs/secret.vhd')
    if os.geteuid() != 0:
        t.skip('becoming another user needs root')
    os.chmod(t.path('theirs/secret.vhd'), 0o600)
    for folder in (t.dir, os.path.dirname(t.dir), t.path('mine')):
        os.chmod(folder, 0o755)
    vf.write_sparse(t.path('theirs/secret.vhd'), SIZE, [(0, b'\7' * 512)], unique_id=b'P' * 16)
    os.chmod(t.path('mine/x.vhd'), 0o644)
    if shutil.which('setpriv') is None or t.run('setpriv', '--reuid', '65534', '--clear-groups', IMG, '--version',
                                                rc=None).rc != 0:
        t.skip('cannot run as another user here')
    result = t.run('setpriv', '--reuid', '65534', '--clear-groups', IMG, 'map', t.path('mine/x.vhd'), rc=1)
    t.refused(result, 'theirs/secret.vhd', 'permission denied')


# --- confined ---------------------------------------------------------------------------------------------------

RENAME_EXCHANGE = 2


def exchanging(one, other):
    """A process that exchanges two names until it is killed; its id."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, one.encode(), -100, other.encode(), RENAME_EXCHANGE) != 0:
        return None
    pid = os.fork()
    if pid == 0:
        while True:
            libc.renameat2(-100, one.encode(), -100, other.encode(), RENAME_EXCHANGE)
    return pid


def swapped(t, attempt, rounds):
    """While jail/sub is now a folder and now a link that leads out of the jail."""
    t.need_openat2(vf.write_sparse(t.path('probe.vhd'), MiB).path)
    os.makedirs(t.path('jail/sub'))
    os.makedirs(t.path('outside'))
    os.symlink(t.path('outside'), t.path('jail/link'))
    for folder, byte in (('jail/sub', b'\7'), ('outside', b'\x09')):
        vf.write_sparse(t.path(folder, 'parent.vhd'), SIZE, [(0, byte * 4096)], unique_id=b'P' * 16)
    vf.write_sparse(t.path('jail/x.vhd'), SIZE, [(8192, b'\1' * 512)], parent_id=b'P' * 16,
                    locators=[vf.Locator.w2ru('.\\sub\\parent.vhd')])
    pid = exchanging(t.path('jail/sub'), t.path('jail/link'))
    if pid is None:
        t.skip('this file system cannot exchange names')
    try:
        return [attempt(n) for n in range(rounds)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


ROUNDS = int(os.environ.get('VHDKIT_ROUNDS', '60'))


@case
def component_swapped_with_a_link_while_opening(t):
    def attempt(confine):
        result = t.run(IO, '-r', *confine, '-c', 'read -v 0 16', t.path('jail/x.vhd'), rc=None)
        if result.rc != 0:
            t.refused(result, 'x.vhd')
            return 'refused'
        return 'inside' if '07 07 07 07' in result.out else 'outside' if '09 09 09 09' in result.out else result.out

    def both(n):
        return attempt(['--confine', t.path('jail')]), attempt([])

    found = swapped(t, both, ROUNDS)
    confined, free = [pair[0] for pair in found], [pair[1] for pair in found]
    t.equal(set(confined) - {'inside', 'refused'}, set(), 'what a confined open gave')
    t.check('inside' in confined and 'refused' in confined, 'the names were not exchanged while it ran', confined)
    t.check('outside' in free, 'the link leads nowhere', free)


@case
def component_swapped_with_a_link_while_creating(t):
    def attempt(n):
        result = t.run(IMG, 'create', '-q', '-f', 'vhd', '--confine', t.path('jail'), t.path('jail/sub/new-%d.vhd' % n),
                       '1M', rc=None)
        if result.rc != 0:
            t.refused(result, 'new-%d.vhd' % n)
        return result.rc

    if 'confine' not in t.img('create', '--help').out:
        t.skip('create cannot be confined')
    statuses = swapped(t, attempt, ROUNDS)
    t.equal(sorted(os.listdir(t.path('outside'))), ['parent.vhd'], 'files outside')
    t.check(0 in statuses and 1 in statuses, 'the names were not exchanged while it ran', statuses)


main()
