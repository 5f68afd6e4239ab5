# SPDX-License-Identifier: LGPL-2.1-or-later
"""ext2, ext3 and ext4, against e2fsprogs: dumpe2fs says what is free, and e2fsck and debugfs find nothing missing when
it has been overwritten."""

import os
import random
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, fill_free, in_use, is_subset, join, main, make_file, need_ext,  # noqa: E402
                       patch, read_file, report, tree, usable)

SEED = int(os.environ.get('VHDKIT_SEED', '1'))
FLIPS = int(os.environ.get('VHDKIT_FLIPS', '100'))

KINDS = {
    'ext2': '-t ext2',
    'ext2-1k': '-t ext2 -b 1024',
    'ext2-revision-0': '-t ext2 -r 0',
    'ext2-64k': '-t ext2 -b 65536',
    'ext3': '-t ext3',
    'ext3-no-sparse-super': '-t ext3 -b 1024 -O ^sparse_super,^resize_inode',
    'ext4': '-t ext4',
    'ext4-4k': '-t ext4 -b 4096',
    'ext4-1k': '-t ext4 -b 1024',
    'ext4-uninit-bg': '-t ext4 -b 1024 -O ^metadata_csum,uninit_bg',
    'ext4-no-checksums': '-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg',
    'ext4-no-journal': '-t ext4 -O ^has_journal',
    'ext4-32bit': '-t ext4 -O ^64bit',
    'ext4-no-flex-bg': '-t ext4 -b 1024 -O ^flex_bg',
    'ext4-flex-4': '-t ext4 -b 1024 -G 4',
    'ext4-meta-bg': '-t ext4 -b 1024 -O meta_bg,^resize_inode',
    'ext4-bigalloc': '-t ext4 -b 4096 -O bigalloc -C 65536',
    'ext4-bigalloc-1k': '-t ext4 -b 1024 -O bigalloc -C 16384',
    'ext4-sparse-super2': '-t ext4 -b 1024 -O sparse_super2,^resize_inode',
    'ext4-small-groups': '-t ext4 -b 1024 -g 512 -N 2048',
    'ext4-quota': '-t ext4 -O quota,project',
    'ext4-new': '-t ext4 -O inline_data,ea_inode,large_dir,encrypt,casefold,verity,orphan_file,metadata_csum_seed',
    'ext4-packed': '-t ext4 -b 1024 -E packed_meta_blocks=1',
    'ext4-odd-size': '-t ext4 -b 1024 -F 61441',
}


def make_tree(t, generator):
    folder = t.path('tree')
    os.makedirs(os.path.join(folder, 'sub', 'deep'))
    for i in range(60):
        size = generator.choice((0, 1, 100, 1024, 5000, 70000, 300000))
        with open(os.path.join(folder, ('', 'sub', 'sub/deep')[i % 3], 'file-%d' % i), 'wb') as f:
            f.write(generator.randbytes(size))
    with open(os.path.join(folder, 'sparse'), 'wb') as f:
        for at in range(0, 2 * MiB, 128 * KiB):
            f.seek(at)
            f.write(b'data at %d' % at)
    os.symlink('sub/deep', os.path.join(folder, 'short-link'))
    os.symlink('x' * 200, os.path.join(folder, 'long-link'))
    return folder


def make(t, options, size=60 * MiB, filled=True, seed=SEED):
    need_ext(t)
    generator = random.Random(seed)
    path = make_file(t.path('ext.img'), size)
    words = options.split()
    blocks = [words.pop()] if words[-1].isdigit() and words[-2] == '-F' else []
    fill = ['-d', make_tree(t, generator)] if filled else []
    t.run('mke2fs', '-q', '-F', '-L', 'a label', *words, *fill, path, *blocks)
    if filled:
        # Holes between what is in use.
        script = t.path('script')
        with open(script, 'w') as f:
            for i in range(0, 60, 4):
                f.write('rm %s/file-%d\n' % (('/', '/sub', '/sub/deep')[i % 3], i))
        t.run('debugfs', '-w', '-f', script, path)
        # debugfs keeps no quotas.
        t.run('e2fsck', '-f', '-p', path, rc=(0, 1))
    check(t, path)
    return path


def check(t, path):
    t.run('e2fsck', '-f', '-n', path)


def files(t, path):
    folder = t.path('dump')
    os.mkdir(folder)
    t.run('debugfs', '-R', 'rdump / %s' % folder, path)
    found = tree(folder)
    shutil.rmtree(folder)
    return found


def truth(t, path):
    """What dumpe2fs lists as free."""
    out = t.run('dumpe2fs', path).out
    block_size = int(re.search(r'^Block size:\s+(\d+)', out, re.M).group(1))
    cluster = re.search(r'^Cluster size:\s+(\d+)', out, re.M)
    # The last block it names of a range is the first one of the last cluster.
    unit = int(cluster.group(1)) if cluster else block_size
    ranges = []
    for line in re.findall(r'^  Free blocks: (.*)$', out, re.M):
        for piece in filter(None, line.split(', ')):
            first, _, last = piece.strip().partition('-')
            ranges.append((int(first) * block_size, (int(last or first) - int(first)) * block_size + unit))
    return join(ranges)


def kind(t, options):
    path = make(t, options)
    expected = truth(t, path)
    found = report(t, path, '-g', '512')
    entry = found['volumes'][0]
    t.equal(entry['in-use'], None, 'in use')
    t.equal(entry['type'], options.split()[1], 'type')
    t.equal(entry['label'], 'a label', 'label')
    t.equal(found['free'], expected, 'free')
    t.check(sum(n for _, n in expected) > 20 * MiB and len(expected) > 5, 'too little is free for a test', expected)

    before = files(t, path)
    t.check(len(before) > 40, 'files', len(before))
    fill_free(t, path, '-g', '512')
    check(t, path)
    t.check(files(t, path) == before, 'files have changed')


for name, options in KINDS.items():
    add(name, kind, options)


@case
def larger_granularity(t):
    path = make(t, '-t ext4 -b 1024')
    for granularity in (4 * KiB, 64 * KiB, 1 * MiB):
        found = report(t, path, '-g', granularity)
        whole = [[o, n] for o, n in truth(t, path) if (o + n) // granularity > -(-o // granularity)]
        t.equal(found['free'], whole, 'free in units of %d' % granularity)


# What makes it count as in use --------------------------------------------------------------------------


def state(t, options, reason, *commands):
    path = make(t, options, filled=False)
    usable(t, path)
    script = t.path('script')
    with open(script, 'w') as f:
        f.write('\n'.join(commands) + '\n')
    t.run('debugfs', '-w', '-f', script, path)
    entry = in_use(t, path, reason)
    t.check(entry['type'].startswith('ext'), 'type', entry)


add('needs-recovery', state, '-t ext4', 'journal needs recovery', 'feature needs_recovery')
add('ext3-needs-recovery', state, '-t ext3', 'journal needs recovery', 'feature needs_recovery')
add('mounted-without-a-journal', state, '-t ext2', 'not unmounted cleanly', 'ssv state 0')
add('ext4-not-valid', state, '-t ext4', 'not unmounted cleanly', 'ssv state 0')
add('with-errors', state, '-t ext4', 'having errors', 'ssv state 3')
add('orphan-list', state, '-t ext4', 'cleaned up', 'ssv last_orphan 12')
add('orphans-being-recovered', state, '-t ext4', 'not unmounted cleanly', 'ssv state 5')
add('orphan-file-in-use', state, '-t ext4 -O orphan_file', 'cleaned up', 'feature orphan_present')
add('unknown-incompatible-feature', state, '-t ext4', 'unknown features', 'ssv feature_incompat 0x800002c2')
add('unknown-read-only-feature', state, '-t ext4', 'unknown features', 'ssv feature_ro_compat 0x8000046b')
add('unknown-compatible-feature', state, '-t ext4', 'unknown features', 'ssv feature_compat 0x80000038')
add('shared-blocks', state, '-t ext4', 'unknown features', 'feature shared_blocks')
add('free-count', state, '-t ext4', 'the descriptor says', 'set_block_group 0 free_blocks_count 5', 'set_block_group 0 checksum calc')
add('bitmap-elsewhere', state, '-t ext4', 'overlaps', 'set_block_group 1 block_bitmap 300', 'set_block_group 1 checksum calc',
    'set_block_group 0 block_bitmap 300', 'set_block_group 0 checksum calc')
add('descriptor-checksum', state, '-t ext4', 'checksum of the descriptor', 'set_block_group 1 checksum 0x1234')


@case
def multiple_mount_protection(t):
    path = make(t, '-t ext4 -O mmp', filled=False)
    block = int(re.search(r'^MMP block number:\s+(\d+)', t.run('dumpe2fs', '-h', path).out, re.M).group(1))
    usable(t, path)
    for sequence in (5, 0xe24d4d50):
        patch(path, block * 1024 + 4, sequence.to_bytes(4, 'little'))
        in_use(t, path, 'mounted or being checked')
    patch(path, block * 1024, bytes(4))
    in_use(t, path, 'multiple mount protection: signature')


@case
def journal_device(t):
    path = make_file(t.path('journal.img'), 16 * MiB)
    need_ext(t)
    t.run('mke2fs', '-q', '-F', '-O', 'journal_dev', path)
    in_use(t, path, 'journal of another file system')


@case
def journal_that_is_not_empty(t):
    path = make(t, '-t ext4', filled=False)
    block = int(t.run('debugfs', '-R', 'bmap <8> 0', path).out)
    usable(t, path)
    patch(path, block * 1024 + 28, (1).to_bytes(4, 'big'))
    in_use(t, path, 'journal is not empty')
    patch(path, block * 1024, bytes(4))
    in_use(t, path, 'journal: signature')


@case
def bitmap_checksum(t):
    """As many bits are set as before, but others."""
    path = make(t, '-t ext4 -b 1024')
    block = int(re.search(r'Block bitmap at (\d+)', t.run('dumpe2fs', path).out).group(1))
    data = read_file(path)[block * 1024:(block + 1) * 1024]
    at = next(i for i, byte in enumerate(data) if byte not in (0, 255))
    patch(path, block * 1024 + at, bytes([(data[at] << 1 | data[at] >> 7) & 255]))
    in_use(t, path, 'group 0: the checksum of the block bitmap')


def free_metadata(t, what):
    """A bitmap that fits the counts, but has metadata free."""
    path = make(t, '-t ext2 -b 1024', filled=False)
    block = int(re.search(r'%s at (\d+)' % what, t.run('dumpe2fs', path).out).group(1))
    t.run('debugfs', '-w', '-R', 'freeb %d' % block, path)
    in_use(t, path, 'metadata at block %d is not in use' % block)


for what in ('Group descriptors', 'Reserved GDT blocks', 'Inode table', 'Inode bitmap', 'Block bitmap'):
    add('free-' + what.split(' at')[0].lower().replace(' ', '-'), free_metadata, what)


@case
def longer_than_the_volume(t):
    path = make(t, '-t ext4', filled=False)
    os.truncate(path, 60 * MiB - 1024)
    in_use(t, path, 'expected at most')


@case
def shorter_than_the_volume(t):
    path = make(t, '-t ext4')
    expected = report(t, path)['free']
    os.truncate(path, 90 * MiB)
    t.equal(report(t, path)['free'], expected, 'free')


@case
def damaged_superblock(t):
    path = make(t, '-t ext4', filled=False)
    patch(path, 1024 + 0x78, b'another')
    in_use(t, path, 'superblock: its checksum')


@case
def unreadable_blocks(t):
    """The tail of the file is cut: reads past its end must not count as empty bitmaps."""
    path = make(t, '-t ext2 -b 1024', filled=False)
    os.truncate(path, 30 * MiB)
    in_use(t, path, 'expected at most')


@case
def read_errors(t):
    """Whichever read fails, what it was for counts as in use, and the report says so."""
    path = make(t, '-t ext4 -b 1024', size=20 * MiB)
    pristine = report(t, path)['free']
    failed = 0
    for n in range(1, 100):
        found = report(t, path, '-f', 'raw', '-F', 'blkdebug,op=read,n=%d,errno=EIO' % n, rc=(0, 1))
        if not isinstance(found, dict):
            continue
        entry = found['volumes'][0]
        if entry['in-use'] is None:
            t.equal(found['free'], pristine, 'free')
            break
        t.check('failed' in entry['in-use'], 'reason', n, entry)
        failed += 1
    t.check(failed > 5 and n < 99, 'reads that failed', failed, n)


# Hostile images -----------------------------------------------------------------------------------------


def regions(t, path):
    """(offset, bytes) of the superblock, descriptors and block bitmaps."""
    out = t.run('dumpe2fs', path).out
    block_size = int(re.search(r'^Block size:\s+(\d+)', out, re.M).group(1))
    found = [(1024, 1024)]
    first, last = re.search(r'Group descriptors at (\d+)-(\d+)', out).groups()
    found.append((int(first) * block_size, min(int(last) - int(first) + 1, 1) * block_size))
    for block in re.findall(r'Block bitmap at (\d+)', out):
        found.append((int(block) * block_size, block_size))
    return found


def flips(t, options, widest):
    """No damage to what says what is free makes more of it free.

    @widest: bits that change in one byte.  Checksums find any; without them, the sums that are kept find one bit.
    """
    path = make(t, options, size=20 * MiB)
    # Only what was written is pristine; a byte of a hole counts too.
    pristine = report(t, path, '-g', '512')['free']
    t.check(len(pristine) > 3, 'nothing is free', pristine)
    generator = random.Random(SEED)
    data = read_file(path)
    places = regions(t, path)
    changed = 0
    for i in range(FLIPS):
        start, length = places[generator.randrange(min(len(places), 3))] if i % 2 else generator.choice(places)
        at = start + generator.randrange(length)
        mask = 0
        for _ in range(generator.randrange(widest) + 1):
            mask |= 1 << generator.randrange(8)
        patch(path, at, bytes([data[at] ^ mask]))
        found = report(t, path, '-g', '512')
        t.check(is_subset(found['free'], pristine), 'seed %d, flip %d: byte %d ^ 0x%02x frees more' % (SEED, i, at, mask),
                found['volumes'])
        changed += found['free'] != pristine
        patch(path, at, data[at:at + 1])
    t.check(changed > FLIPS // 20, 'nothing was noticed', changed)


add('flips-metadata-csum', flips, '-t ext4 -b 1024', 8)
add('flips-metadata-csum-small-groups', flips, '-t ext4 -b 1024 -g 512 -N 512', 8)
add('flips-uninit-bg', flips, '-t ext4 -b 1024 -O ^metadata_csum,uninit_bg', 1)
add('flips-ext2', flips, '-t ext2 -b 1024', 1)
add('flips-bigalloc', flips, '-t ext4 -b 1024 -O bigalloc -C 16384', 8)


@case
def random_superblocks(t):
    """Fields of a file system without checksums take any values: no crash, no time without bound."""
    path = make(t, '-t ext2 -b 1024', size=20 * MiB)
    data = read_file(path)[1024:2048]
    generator = random.Random(SEED)
    for _ in range(FLIPS):
        damaged = bytearray(data)
        for _ in range(generator.randrange(4) + 1):
            at = generator.randrange(0, 0x170) & ~3
            damaged[at:at + 4] = generator.choice((0, 1, 8, 0x7fffffff, 0xffffffff, generator.getrandbits(32))).to_bytes(4, 'little')
        patch(path, 1024, bytes(damaged))
        report(t, path)


main()
