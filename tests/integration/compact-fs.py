# SPDX-License-Identifier: LGPL-2.1-or-later
"""compact by what the guest's file systems do not use: what shrinks, what stays to the byte, every mode.
Of VHD, or of VHDX with "vhdx" as first argument.
"""

import hashlib
import os
import random
import re
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'fs'))

import vhdxread  # noqa: E402
from fsharness import fs_free, make_file, patch, swap_header  # noqa: E402
from harness import (GiB, KiB, MiB, Unchanged, add, case, data_extents, main, sha256, tool, vhdcheck, vhdfile)  # noqa: E402

FORMAT = 'vhd'
if sys.argv[1:2] == ['vhdx']:
    FORMAT = sys.argv.pop(1)
VHDX = FORMAT == 'vhdx'
BLOCK = MiB if VHDX else 512 * KiB
OPTIONS = ('-O', FORMAT, '-o', 'block_size=%d' % BLOCK)
PIECE = 64 * KiB  # of free space that is looked for inside of a block


# --- disks ----------------------------------------------------------------------------------------------------

def files(t, folder, seed=1, count=24, largest=200 * KiB):
    """A folder of files of many sizes."""
    rng = random.Random(seed)
    path = t.path(folder)
    for i in range(count):
        os.makedirs(os.path.join(path, 'd%d' % (i % 3)), exist_ok=True)
        with open(os.path.join(path, 'd%d' % (i % 3), 'f%d' % i), 'wb') as f:
            f.write(rng.randbytes(rng.randrange(1, largest)))
    return path


def ext4(t, size=64 * MiB, folder=None, options=()):
    t.need('mke2fs', 'e2fsck', 'debugfs')
    path = make_file(t.path('ext4.raw'), size)
    t.run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', folder or files(t, 'tree'), *options, path)
    return path


def ntfs(t, size=64 * MiB):
    t.need('mkntfs', 'ntfscp')
    path = make_file(t.path('ntfs.raw'), size)
    t.run('mkntfs', '-q', '-F', '-Q', '-s', '512', '-p', '0', '-H', '16', '-S', '63', '-L', 'data', path)
    tree = files(t, 'tree', count=6)
    for folder, _, names in os.walk(tree):
        for name in names:
            t.run('ntfscp', '-q', path, os.path.join(folder, name), name)
    return path


def fat(t, size=64 * MiB):
    t.need('mkfs.vfat', 'mcopy', 'fsck.vfat')
    path = make_file(t.path('fat.raw'), size)
    t.run('mkfs.vfat', '-F', '32', '-s', '1', path)
    t.run('mcopy', '-s', '-i', path, files(t, 'tree'), '::tree')
    return path


def exfat(t, size=64 * MiB):
    t.need('mkfs.exfat', 'fsck.exfat')
    path = make_file(t.path('exfat.raw'), size)
    t.run('mkfs.exfat', path)
    return path


def xfs(t, size=300 * MiB):
    t.need('mkfs.xfs', 'xfs_repair')
    path = make_file(t.path('xfs.raw'), size)
    tree = files(t, 'tree', count=6)
    lines = ['/', '0 0', 'd--755 0 0']
    for folder, _, names in os.walk(tree):
        lines += ['%s ---644 0 0 %s' % (name, os.path.join(folder, name)) for name in names]
    with open(t.path('proto'), 'w') as f:
        f.write('\n'.join(lines + ['$', '']))
    t.run('mkfs.xfs', '-q', '-p', t.path('proto'), path)
    return path


def btrfs(t, size=128 * MiB):
    t.need('mkfs.btrfs', 'btrfs')
    path = make_file(t.path('btrfs.raw'), size)
    t.run('mkfs.btrfs', '-q', '--rootdir', files(t, 'tree'), path)
    return path


def swap(t, size=16 * MiB):
    path = make_file(t.path('swap.raw'), size)
    patch(path, 0, swap_header(size))
    return path


MADE = {'ext4': ext4, 'ntfs': ntfs, 'fat': fat, 'exfat': exfat, 'xfs': xfs, 'btrfs': btrfs, 'swap': swap}
CHECKED = {
    'ext4': ('e2fsck', '-fn'),
    'fat': ('fsck.vfat', '-n'),
    'exfat': ('fsck.exfat', '-n'),
    'xfs': ('xfs_repair', '-n', '-f'),
    'btrfs': ('btrfs', 'check', '--readonly'),
    'ntfs': ('ntfsfix', '-n'),
}


def sound_fs(t, kind, path):
    """As the file system's own program sees it."""
    if kind in CHECKED:
        t.need(CHECKED[kind][0])
        t.run(*CHECKED[kind], path)


def partitioned(t, raw, name='disk.raw'):
    """The volume as second partition of a GPT, behind swap space; its offset."""
    t.need('sfdisk')
    at, size = 5 * MiB, os.path.getsize(raw)
    path = make_file(t.path(name), at + size + MiB)
    table = 'label: gpt\nstart=1MiB, size=4MiB, type=S\nstart=5MiB, size=%dKiB, type=L\n' % (size // KiB)
    t.run('sfdisk', '-q', path, stdin=table.encode())
    patch(path, MiB, swap_header(4 * MiB))
    with open(raw, 'rb') as f:
        for start, end in data_extents(raw):
            f.seek(start)
            patch(path, at + start, f.read(end - start))
    return path, at


def free_ranges(t, raw, granularity=512):
    """[(offset, bytes)], and the volumes."""
    found = t.run(fs_free(), '-f', 'raw', '-g', granularity, raw).json
    return found['free'], found['volumes']


def litter(t, raw):
    """Fills what is free: as a disk looks from which much was deleted."""
    t.run(fs_free(), '-f', 'raw', '-g', '512', '-z', raw, raw)
    return raw


def image(t, raw, name='x', *options):
    path = t.path('%s.%s' % (name, FORMAT))
    t.img('convert', '-q', '-f', 'raw', '-S', '0', *OPTIONS, *options, raw, path)
    return path


def complement(free, size):
    """What is used: [(start, end)]."""
    at = 0
    for offset, length in free:
        if offset > at:
            yield at, offset
        at = offset + length
    if at < size:
        yield at, size


def same_used(t, path, raw, free, what):
    """Bit for bit what @raw holds outside of @free, read by us; returns the whole disk, a raw file."""
    after = t.path('after.raw')
    t.img('convert', '-q', '-O', 'raw', path, after)
    t.equal(os.path.getsize(after), os.path.getsize(raw), 'size of the disk')
    with open(after, 'rb') as a, open(raw, 'rb') as b:
        for start, end in complement(free, os.path.getsize(raw)):
            while start < end:
                n = min(end - start, 4 * MiB)
                a.seek(start)
                b.seek(start)
                if a.read(n) != b.read(n):
                    t.check(False, '%s: a byte in use differs in [%d, %d)' % (what, start, start + n))
                start += n
    return after


def needed(raw, free, block=None):
    """How many blocks hold something in use that is not zero."""
    block = block or BLOCK
    count, size = set(), os.path.getsize(raw)
    with open(raw, 'rb') as f:
        for start, end in complement(free, size):
            while start < end:
                number = start // block
                stop = min(end, (number + 1) * block)
                if number not in count:
                    f.seek(start)
                    if any(f.read(stop - start)):
                        count.add(number)
                start = stop
    return len(count)


def valid(t, path):
    """By our check and by the independent one of the other format's reader."""
    t.img('check', '-q', path)
    if not VHDX:
        t.equal(vhdcheck.check(path), [], 'independent check')
    else:
        vhdxread.Image(path)


def compact(t, path, *options, rc=0):
    return t.img('compact', '--output=json', *options, path, rc=rc)


def identity(path):
    return vhdxread.Image(path).data_write_guid if VHDX else vhdfile.Vhd(path).footer.unique_id


def overhead(size):
    """What the container needs beside its blocks, at most."""
    return 6 * MiB if VHDX else 64 * KiB + size // BLOCK * 1024


# --- what it is for -------------------------------------------------------------------------------------------

def digests(t, raw, names):
    found = {}
    for name in names:
        out = t.path('dumped')
        t.run('debugfs', '-R', 'dump /%s %s' % (name, out), raw)
        found[name] = sha256(out)
        os.unlink(out)
    return found


def deleted_files(t, in_partition):
    """A full ext4 from which 80 % are deleted, without a trim: what is left decides the size of the file."""
    t.need('mke2fs', 'e2fsck', 'debugfs')
    size, names = 128 * MiB, ['file%02d' % i for i in range(50)]
    tree = t.path('tree')
    os.mkdir(tree)
    for i, name in enumerate(names):
        with open(os.path.join(tree, name), 'wb') as f:
            f.write(random.Random(i).randbytes(2 * MiB))
    raw = ext4(t, size, tree, ('-m', '0'))
    kept = digests(t, raw, names[40:])
    with open(t.path('script'), 'w') as f:
        f.write(''.join('rm /%s\n' % name for name in names[:40]))
    t.run('debugfs', '-w', '-f', t.path('script'), raw)
    t.run('e2fsck', '-fn', raw)
    disk, at = partitioned(t, raw) if in_partition else (raw, 0)
    free, volumes = free_ranges(t, disk)
    used = os.path.getsize(disk) - sum(n for _, n in free)
    path = t.path('x.' + FORMAT)
    t.img('convert', '-q', '-f', 'raw', *OPTIONS, disk, path)
    before, name = os.path.getsize(path), identity(path)
    t.check(before > 95 * MiB, 'not filled: %d' % before)

    foreseen = compact(t, path, '--dry-run').json
    result = compact(t, path).json
    after = os.path.getsize(path)
    t.check(after < 1.1 * used + overhead(size), '%d bytes for %d in use' % (after, used), result)
    t.equal(after, result['file-size-after'], 'size that is reported')
    t.equal(foreseen['file-size-after'], after, 'size that the dry run foresaw')
    for field in ('dropped-blocks', 'unused-blocks', 'zero-blocks', 'moved-blocks', 'allocated-blocks'):
        t.equal(foreseen[field], result[field], field)
    t.check(result['unused-blocks'] * BLOCK > 60 * MiB, 'not by free space', result)
    entry = result['guest']['volumes'][-1]
    t.equal((entry['type'], entry['offset'], entry['free']), ('ext4', at, volumes[-1]['free-bytes']), 'volume')
    t.equal(identity(path) == name, not VHDX, 'the identity of the data stayed')
    valid(t, path)
    disk_after = same_used(t, path, disk, free, 'after compacting')
    if in_partition:
        t.run('dd', 'if=' + disk_after, 'of=' + t.path('fs.raw'), 'bs=1M', 'skip=%d' % (at // MiB),
              'count=%d' % (size // MiB), 'conv=sparse')
        disk_after = t.path('fs.raw')
    t.run('e2fsck', '-fn', disk_after)
    t.equal(digests(t, disk_after, names[40:]), kept, 'content of files')
    digest = sha256(path)
    t.equal(compact(t, path).json['dropped-blocks'], 0, 'blocks that a second run drops')
    t.equal(sha256(path), digest, 'bytes after a second run')


add('wsl2-ext4-never-shrinks', deleted_files, False)
add('wsl2-ext4-in-a-partition', deleted_files, True)


def file_system(t, kind):
    """Of a disk full of litter, exactly the blocks that the file system needs stay."""
    raw = MADE[kind](t)
    sound_fs(t, kind, raw)
    litter(t, raw)
    free, volumes = free_ranges(t, raw)
    t.equal([v['in-use'] for v in volumes], [None], 'volumes in use')
    t.check(sum(n for _, n in free) > os.path.getsize(raw) // 4, 'hardly anything is free', volumes)
    path = image(t, raw)
    stays = needed(raw, free_ranges(t, raw, PIECE)[0])
    result = compact(t, path).json
    t.equal(result['allocated-blocks'] - result['dropped-blocks'], stays, 'blocks that stay')
    t.check(os.path.getsize(path) <= stays * BLOCK + overhead(os.path.getsize(raw)), 'size', result)
    valid(t, path)
    after = same_used(t, path, raw, free, kind)
    sound_fs(t, kind, after)


for kind in MADE:
    add('file-system-' + kind, file_system, kind)


# --- every mode -----------------------------------------------------------------------------------------------

def mixed_disk(t):
    """A partitioned disk: swap space, ext4, free space full of litter in both, zeros that are stored."""
    raw = ext4(t, 32 * MiB)
    disk, _ = partitioned(t, raw)
    return litter(t, disk)


def extents_of_holes(path):
    return os.path.getsize(path) - sum(end - start for start, end in data_extents(path))


def mode(t, name):
    disk = mixed_disk(t)
    free, _ = free_ranges(t, disk)
    path = image(t, disk)
    before, guid = os.path.getsize(path), identity(path)
    if name == 'retrim' and not VHDX:
        unchanged = Unchanged(path)
        t.refused(compact(t, path, '--mode', name, rc=1), 'vhd has no mark')
        unchanged.verify(t, 'a refused compaction')
        return
    host = os.stat(path).st_blocks * 512
    foreseen = compact(t, path, '--mode', name, '--dry-run').json
    t.equal((os.path.getsize(path), identity(path)), (before, guid), 'what a dry run left')
    result = compact(t, path, '--mode', name).json
    after = os.path.getsize(path)
    by_free = name in ('full', 'quick', 'retrim', 'punch', 'pack')
    by_content = name in ('full', 'prezeroed', 'punch', 'pack')
    moves = name in ('full', 'quick', 'prezeroed', 'pack')
    t.equal('guest' in result, by_free, 'whether file systems were looked at')
    t.equal(result['unused-blocks'] > 0, by_free, 'blocks dropped as free')
    t.equal(result['zero-blocks'] > 0, by_content, 'blocks dropped as zeros')
    t.equal(result['moved-blocks'] > 0, moves, 'blocks moved')
    t.equal(foreseen['dropped-blocks'], result['dropped-blocks'], 'drops that were foreseen')
    t.equal(foreseen['file-size-after'], after, 'size that was foreseen')
    t.equal(identity(path) == guid, not VHDX or not by_free, 'the identity stayed')
    if by_content and by_free:
        stays = needed(disk, free_ranges(t, disk, PIECE)[0])
        t.equal(result['allocated-blocks'] - result['dropped-blocks'], stays, 'blocks that stay')
    t.equal(result['file-size-after'], after, 'size that is reported')
    if name != 'retrim':
        t.equal(after < before, moves, 'a shorter file')
    if name == 'retrim':
        states = [image_.payload(block) & 7 for image_ in [vhdxread.Image(path)] for block in range(image_.geo.blocks)]
        t.equal(len([s for s in states if s == 6]), result['allocated-blocks'] - result['dropped-blocks'], 'marks')
    else:
        valid(t, path)
    if name in ('punch', 'full', 'quick'):
        t.check(os.stat(path).st_blocks * 512 <= host - result['dropped-blocks'] * BLOCK + MiB,
                'space of the host: %d, %d before' % (os.stat(path).st_blocks * 512, host), result)
        t.equal(result['host-bytes-after'], os.stat(path).st_blocks * 512, 'space of the host that is reported')
    if name == 'pack':
        t.equal(extents_of_holes(path), 0, 'bytes of holes')
        t.check(os.stat(path).st_blocks * 512 >= after, 'the file is sparse')
    after = same_used(t, path, disk, [] if not by_free else free, name)
    t.equal(sha256(after) == sha256(disk), not by_free, 'all bytes of the disk stayed')
    t.equal(compact(t, path, '--mode', name).json['dropped-blocks'], 0, 'blocks that a second run drops')


for name in ('full', 'quick', 'prezeroed', 'pretrimmed', 'retrim', 'punch', 'pack'):
    add('mode-' + name, mode, name)


@case
def no_room_to_fill_holes(t):
    """Found before anything is written; with room for what stays, though not for all that is there, it is done."""
    if os.geteuid() != 0:
        t.skip('mounting needs root')
    size, place = 64 * MiB, t.path('small')
    os.mkdir(place)
    if t.run('mount', '-t', 'tmpfs', '-o', 'size=24M', 'none', place, rc=None).rc != 0:
        t.skip('cannot mount a tmpfs')
    try:
        for zeros, rc in ((range(2, 64), 0), (range(30, 64), 1)):
            # A page of each MiB is data, or zeros.
            path = os.path.join(place, 'x.' + FORMAT)
            t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=1M', path, size)
            for i in range(64):
                t.io('-f', FORMAT, '-c', 'write -q -P %d %dM 4k' % (0 if i in zeros else 7, i), path)
            unchanged = Unchanged(path)
            result = compact(t, path, '--mode', 'pack', rc=rc)
            if rc:
                unchanged.verify(t, 'a refused compaction')
                t.refused(result, 'bytes more', 'free')
                t.check(len(re.findall(r'[0-9]{7,}', result.err)) >= 2, 'not both figures', result)
            else:
                t.equal(extents_of_holes(path), 0, 'bytes of holes')
                t.equal(result.json['dropped-blocks'], 62, 'blocks dropped')
                valid(t, path)
            os.unlink(path)
    finally:
        t.run('umount', place)


@case
def moves_share_extents(t):
    """Where the host's file system can, a moved block is not written again."""
    base = os.environ.get('VHDKIT_TEST_REFLINK_DIR')
    if not base:
        t.skip('VHDKIT_TEST_REFLINK_DIR names no file system that shares extents')
    t.need('strace')
    with tempfile.TemporaryDirectory(dir=base) as folder:
        path, trace = os.path.join(folder, 'x.' + FORMAT), t.path('trace')
        t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=1M', path, 64 * MiB)
        t.io('-f', FORMAT, '-c', 'write -q -P 7 0 64M', '-c', 'write -q -P 0 0 32M', path)
        content = sha256(same_used(t, path, t_view_of(t, path), [], 'before'))
        result = t.run('strace', '-f', '-o', trace, '-e', 'trace=pwrite64,pwritev,pwritev2,io_submit,ioctl', tool('vhd-img'),
                       'compact', '--output=json', path).json
        t.equal((result['dropped-blocks'], result['moved-blocks'] > 30), (32, True), 'blocks dropped, and moved')
        with open(trace) as f:
            calls = f.read()
        t.equal(len(re.findall(r'CLONE_?RANGE.* = 0$', calls, re.M)), result['moved-blocks'], 'moves that shared extents')
        written = sum(int(n) for n in re.findall(r'pwrite.* = ([0-9]+)$', calls, re.M))
        # Table, log, bitmaps.
        t.check(written <= 4 * MiB, '%d bytes written for %d moves' % (written, result['moved-blocks']))
        t.equal(sha256(same_used(t, path, t_view_of(t, path), [], 'after')), content, 'content')
        valid(t, path)


def t_view_of(t, path):
    """The whole disk as a raw file."""
    raw = t.path('whole.raw')
    t.img('convert', '-q', '-O', 'raw', path, raw)
    return raw


# --- stopped, and run again -----------------------------------------------------------------------------------

def killed(t, options):
    """Killed at many moments: each leaves what is used; a run to the end gives the file that one run gives."""
    disk = mixed_disk(t)
    free, _ = free_ranges(t, disk)
    pristine = image(t, disk)
    path = t.path('work.' + FORMAT)
    t.run('cp', '--sparse=never', pristine, path)
    began = time.monotonic()
    compact(t, path, *options)
    whole = max(0.02, time.monotonic() - began)
    size, rng = os.path.getsize(path), random.Random(len(options))
    holes = extents_of_holes(path)
    stopped, stops = 0, int(os.environ.get('VHDKIT_STOPS', '8'))
    for attempt in range(stops):
        if attempt % 4 == 0:
            t.run('cp', '--sparse=never', pristine, path)
        process = t.start(tool('vhd-img'), 'compact', '-q', *options, path)
        time.sleep(whole * rng.random())
        process.send_signal(signal.SIGKILL)
        stopped += t.finish(process, signals=(signal.SIGKILL,)).rc == -signal.SIGKILL
        same_used(t, path, disk, free, 'after stop %d' % attempt)
        if attempt % 4 == 3 or attempt == stops - 1:
            compact(t, path, *options)
            t.equal(os.path.getsize(path), size, 'size after a run to the end')
            # Where stops let blocks lie elsewhere, other pieces of the host's pages are whole.
            t.check(abs(extents_of_holes(path) - holes) <= MiB, 'holes: %d, %d in one run' % (extents_of_holes(path), holes))
            same_used(t, path, disk, free, 'after a run to the end')
            t.img('check', '-q', path)
    t.check(stopped > 0, 'no run was stopped in time')


for name in ('full', 'quick', 'prezeroed', 'pretrimmed', 'retrim', 'punch', 'punch-fine', 'pack'):
    if name != 'retrim' or VHDX:
        add('killed-in-' + name, killed, ['--mode', *name.replace('-', ' --').split()])


@case
def holes_inside_of_blocks(t):
    disk = mixed_disk(t)
    path = image(t, disk)
    coarse = compact(t, path, '--mode', 'punch').json
    host = os.stat(path).st_blocks * 512
    foreseen = compact(t, path, '--mode', 'punch', '--fine', '--dry-run').json
    fine = compact(t, path, '--mode', 'punch', '--fine').json
    t.equal(coarse['punched-bytes'], 0, 'bytes punched inside of blocks')
    t.equal(foreseen['punched-bytes'], fine['punched-bytes'], 'bytes to be punched')
    t.check(fine['punched-bytes'] > 256 * KiB, 'bytes punched inside of blocks', fine)
    t.check(os.stat(path).st_blocks * 512 <= host - fine['punched-bytes'] // 2, 'space of the host', host, fine)
    same_used(t, path, disk, free_ranges(t, disk)[0], 'holes inside of blocks')
    valid(t, path)
    t.refused(compact(t, path, '--fine', rc=1), '--mode punch')


def fixed(t, kind):
    disk = mixed_disk(t)
    free, _ = free_ranges(t, disk)
    path = disk + '.copy'
    argv = {'raw': ['-O', 'raw'], 'fixed': ['-O', FORMAT, '-o', 'subformat=fixed']}[kind]
    t.img('convert', '-q', '-f', 'raw', '-S', '0', *argv, disk, path)
    options = ['-f', 'raw' if kind == 'raw' else FORMAT]
    size, host, unchanged = os.path.getsize(path), os.stat(path).st_blocks * 512, Unchanged(path)
    for name in ('full', 'quick', 'prezeroed', 'pack'):
        t.refused(compact(t, path, '--mode', name, *options, rc=1), ('fixed', 'nothing to compact'))
    foreseen = compact(t, path, '--mode', 'punch', '--dry-run', *options).json
    unchanged.verify(t, 'a refused compaction, and a dry run')
    result = compact(t, path, '--mode', 'punch', *options).json
    t.equal(os.path.getsize(path), size, 'size of the file')
    t.equal(foreseen['punched-bytes'], result['punched-bytes'], 'bytes to be punched')
    t.check(os.stat(path).st_blocks * 512 < host - 10 * MiB, 'space of the host: %d' % host, result)
    after = t.path('again.raw')
    t.img('convert', '-q', *options, '-O', 'raw', path, after)
    with open(after, 'rb') as a, open(disk, 'rb') as b:
        data, old = a.read(), b.read()
    for start, end in complement(free, len(old)):
        t.check(data[start:end] == old[start:end], 'a byte in use differs in [%d, %d)' % (start, end))
    for offset, length in free:
        if length >= 16 * KiB:
            inner = data[offset + 4096:offset + length - 4096]
            t.check(not any(inner), 'free space at %d does not read as zeros' % offset)


add('fixed', fixed, 'fixed')
add('raw', fixed, 'raw')


@case
def devices_are_left_alone(t):
    """What the host itself uses of one, as swap space, cannot be seen there."""
    raw = litter(t, swap(t))
    t.need('losetup')
    made = t.run('losetup', '-f', '--show', raw, rc=None)
    if made.rc != 0:
        t.skip('no loop devices here')
    device = made.out.strip()
    try:
        digest = sha256(raw)
        t.refused(compact(t, device, '-f', 'raw', '--mode', 'punch', rc=1), 'device')
        t.equal(sha256(raw), digest, 'bytes of the device')
    finally:
        t.run('losetup', '-d', device)


@case
def quick_reads_no_data(t):
    """At one byte a second it would never end."""
    path = image(t, mixed_disk(t))
    began = time.monotonic()
    result = compact(t, path, '--mode', 'quick', '--no-block-moves', '-r', '1').json
    t.check(time.monotonic() - began < 20, 'data was read')
    t.check(result['unused-blocks'] > 0, 'nothing was dropped', result)
    t.equal(result['moved-blocks'], 0, 'blocks moved')


@case
def quick_on_a_terabyte(t):
    t.need('mke2fs')
    raw = make_file(t.path('big.raw'), 1 << 40)
    tree = files(t, 'tree')
    t.run('mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'lazy_itable_init=1,nodiscard', '-d', tree, raw)
    path = t.path('big.' + FORMAT)
    t.img('convert', '-q', '-f', 'raw', '-O', FORMAT, raw, path)
    began = time.monotonic()
    result = compact(t, path, '--mode', 'quick').json
    seconds = time.monotonic() - began
    print('# a terabyte: %.2f s, %s' % (seconds, {k: v for k, v in result.items() if k != 'guest'}))
    t.equal(result['guest']['volumes'][0].get('reason'), None, 'in use')
    t.check(seconds < 20, 'it took %.1f s' % seconds)


# --- what must not be touched ---------------------------------------------------------------------------------

def in_use(t, path, disk, *phrases):
    """All modes let everything as the guest sees it, and say why."""
    name = identity(path)
    for options in ([], ['--mode', 'quick'], ['--mode', 'punch', '--fine']):
        result = t.img('compact', *options, path)
        for phrase in phrases:
            t.check(phrase in result.out, 'the reason does not say %r' % phrase, result)
        t.check('(0 not in use' in result.out, 'free space was dropped', result)
    same_used(t, path, disk, [], 'a volume in use')
    t.equal(identity(path), name, 'identity')
    if VHDX:
        t.refused(t.img('compact', '--mode', 'retrim', path, rc=1), *phrases)


def dirty(t, *commands):
    raw = litter(t, ext4(t, 32 * MiB))
    with open(t.path('script'), 'w') as f:
        f.write('\n'.join(commands) + '\n')
    t.run('debugfs', '-w', '-f', t.path('script'), raw)
    in_use(t, image(t, raw), raw, 'All of the disk (ext4) counts as in use' if not VHDX else 'ext4', 'journal')


add('ext4-with-a-journal-to-replay', dirty, 'feature needs_recovery')


@case
def a_volume_that_is_not_known(t):
    raw = make_file(t.path('x.raw'), 8 * MiB)
    patch(raw, 0, random.Random(1).randbytes(4 * MiB))
    in_use(t, image(t, raw), raw, 'unknown')


@case
def one_volume_of_two(t):
    """The swap space goes, an ext4 with errors beside it stays."""
    raw = litter(t, ext4(t, 32 * MiB))
    with open(t.path('script'), 'w') as f:
        f.write('ssv state 3\n')
    t.run('debugfs', '-w', '-f', t.path('script'), raw)
    disk, _ = partitioned(t, raw)
    litter(t, disk)
    free, volumes = free_ranges(t, disk)
    t.equal([v['in-use'] is None for v in volumes], [True, False], 'volumes')
    path = image(t, disk)
    result = t.img('compact', path)
    t.check('partition 2 (ext4) counts as in use' in result.out, 'what is told', result)
    t.check(not re.search(r'\(0 not in use', result.out), 'nothing was dropped', result)
    same_used(t, path, disk, free, 'a damaged volume beside another')


def differencing(t, below):
    """Over a parent full of data or of zeros: free space may show either, what is used must not."""
    size = 32 * MiB
    raw = litter(t, ext4(t, size))
    parent_raw = make_file(t.path('parent.raw'), size)
    if below == 'data':
        with open(parent_raw, 'wb') as f:
            f.write(random.Random(2).randbytes(size))
    elif below == 'old-content':
        with open(parent_raw, 'wb') as f, open(raw, 'rb') as g:
            data = bytearray(g.read())
            for i in range(0, size, 3 * MiB):
                data[i:i + 8192] = bytes(8192)
            f.write(data)
    parent = image(t, parent_raw, 'parent')
    path = t.path('x.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=%d' % BLOCK, '-b', parent, path)
    t.img('convert', '-q', '-n', '-f', 'raw', '-O', FORMAT, raw, path)
    unchanged = Unchanged(parent)
    free, _ = free_ranges(t, raw)
    foreseen = compact(t, path, '--dry-run').json
    before = os.path.getsize(path)
    result = compact(t, path).json
    unchanged.verify(t, 'compacting the child')
    t.equal(foreseen['file-size-after'], os.path.getsize(path), 'size that was foreseen')
    for name in ('unused-bytes', 'zero-bytes', 'same-bytes', 'unmapped-bytes', 'dropped-blocks', 'moved-blocks'):
        t.equal(foreseen[name], result[name], name + ' that were foreseen')
    t.equal(result['unused-bytes'] + result['zero-bytes'] + result['same-bytes'], result['dropped-blocks'] * BLOCK,
            'bytes of all kinds')
    if below == 'data':
        t.check(os.path.getsize(path) < before - 8 * MiB, 'hardly smaller: %d, %d before' %
                (os.path.getsize(path), before), result)
        t.check(result['unused-blocks'] > 0, 'not by free space', result)
    same_used(t, path, raw, free, 'over ' + below)
    sound_fs(t, 'ext4', t.path('after.raw'))
    t.img('check', '-q', path)


for below in ('data', 'zeros', 'old-content'):
    add('differencing-over-' + below, differencing, below)


@case
def space_the_parent_has_hidden(t):
    """Blocks of zeros in use, free space of them not stored here: what shows there changes with them."""
    if not VHDX:
        t.skip('only VHDX keeps zeros without storing them')
    size = 8 * MiB
    parent_raw = make_file(t.path('parent.raw'), size)
    with open(parent_raw, 'wb') as f:
        f.write(b'\5' * size)
    patch(parent_raw, 0, swap_header(4 * MiB + 512 * KiB))
    parent = image(t, parent_raw, 'parent')
    path = t.path('x.vhdx')
    t.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=%d' % BLOCK, '-b', parent, path)
    # Of block 4, the second half is in use and zero; the first is free and the parent's.
    t.io('-c', 'write -q -P 0 4608k 512k', path)
    name = identity(path)
    result = compact(t, path).json
    t.equal(result['unused-blocks'], 1, 'blocks dropped')
    t.check(identity(path) != name, 'other content, the same identity', result)
    with open(same_used(t, path, t_view(t, parent_raw, [(4608 * KiB, bytes(512 * KiB))]),
                        [[4 * KiB, 4604 * KiB]], 'zeros in use'), 'rb') as f:
        f.seek(4608 * KiB)
        t.check(not any(f.read(512 * KiB)), 'the parent shows')


@case
def part_of_a_block_is_the_parents(t):
    """Zeros that are stored, free space, and sectors in use that only the parent has, in one block: it must stay."""
    size = 8 * MiB
    parent_raw = make_file(t.path('parent.raw'), size)
    with open(parent_raw, 'wb') as f:
        f.write(b'\5' * size)
    patch(parent_raw, 0, swap_header(4 * MiB + 256 * KiB))
    parent = image(t, parent_raw, 'parent')
    path = t.path('x.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-o', 'block_size=%d' % BLOCK, '-b', parent, path)
    # In use from 4352k on: the last 64k are the parent's.
    t.io('-f', FORMAT, '-c', 'write -q -P 0 4352k 192k', path)
    free = [[4 * KiB, 4348 * KiB]]
    for options in ([], ['--mode', 'quick'], ['--mode', 'punch', '--fine']):
        result = compact(t, path, *options).json
        t.equal(result['dropped-blocks'], 0, 'blocks dropped')
        same_used(t, path, t_view(t, parent_raw, [(4352 * KiB, bytes(192 * KiB))]), free, 'over the parent')


def t_view(t, raw, writes):
    """A raw disk with other bytes laid over it."""
    path = t.path('view.raw')
    with open(raw, 'rb') as f, open(path, 'wb') as g:
        g.write(f.read())
    for offset, data in writes:
        patch(path, offset, data)
    return path


@case
def images_above(t):
    """What is free here may be in use there: it stays, unless asked for."""
    raw = litter(t, ext4(t, 32 * MiB))
    path = image(t, raw, 'base')
    child = t.path('child.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', path, child)
    t.io('-f', FORMAT, '-c', 'write -q -P 1 16M 64k', child)
    view, name = sha256(same_used(t, child, t_view(t, raw, [(16 * MiB, b'\1' * 64 * KiB)]), [], 'child')), identity(path)
    for options in (['--dry-run'], ['--mode', 'quick'], ['--mode', 'punch', '--fine'], []):
        result = compact(t, path, *options)
        t.check('child' in result.err and '--break-children' in result.err, 'no warning', result)
        t.check('child' in result.json['guest']['degraded'], 'not told', result)
        t.equal(result.json['unused-blocks'], 0, 'blocks dropped as free')
        t.equal(result.json['zero-blocks'] > 0, options != ['--mode', 'quick'] and bool(options != []), 'zeros')
        t.equal(sha256(same_used(t, path, raw, [], 'degraded')), sha256(raw), 'bytes of the disk')
        t.img('convert', '-q', '-O', 'raw', child, t.path('child.raw'))
        t.equal(sha256(t.path('child.raw')), view, 'bytes of the child')
    t.equal(identity(path), name, 'identity')
    if VHDX:
        t.refused(compact(t, path, '--mode', 'retrim', rc=1), '--break-children', 'child')
    result = compact(t, path, '--break-children')
    t.check(result.json['unused-blocks'] > 0, 'nothing was dropped', result)
    t.equal(result.err, '', 'messages')
    t.img('map', child, rc=1 if VHDX else 0)


# --- what is told ---------------------------------------------------------------------------------------------

@case
def table_of_volumes(t):
    disk = mixed_disk(t)
    path = image(t, disk)
    unchanged = Unchanged(path)
    result = t.img('compact', '--dry-run', path)
    unchanged.verify(t, 'a dry run')
    t.equal(result.out.splitlines()[0].split(), ['Partition', 'Type', 'Label', 'Size', 'Used', 'Free'], 'heading')
    t.equal([line.split()[:3] for line in result.out.splitlines()[1:3]], [['1', 'swap', '-'], ['2', 'ext4', '-']],
            'volumes')
    t.check(re.search(r'^Image would be compacted: .* about .*', result.out, re.M), 'result', result)
    os.chmod(path, 0o444)
    t.img('compact', '--dry-run', '-q', path)
    os.chmod(path, 0o644)
    result = t.img('compact', path)
    t.check(result.out.startswith('Image compacted: ') and len(result.out.splitlines()) == 1, 'not one line', result)


@case
def wrong_options(t):
    path = image(t, swap(t))
    t.refused(t.img('compact', '--mode', 'fast', path, rc=1), "'fast'", 'pretrimmed')


main()
