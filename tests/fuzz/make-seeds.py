# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the seeds of the fuzz targets: small images of every kind, of which only what a target reads is kept.

    python3 tests/fuzz/make-seeds.py BUILD-DIRECTORY [DIRECTORY]

BUILD-DIRECTORY has vhd-img, vhd-io and the fuzz-NAME programs; DIRECTORY (tests/fuzz/seeds) gets NAME/SEED.  Seeds hold
new identities every time: what stands committed need not be made again but when a target or the form of inputs changes.
File systems need their mkfs; images of other software come from ../shared/corpus (VHDKIT_CORPUS).  What is not there is
left out, and told.
"""

import lzma
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'integration'))
sys.path.insert(0, os.path.join(HERE, '..', 'fs'))

import harness  # noqa: E402
import lvm2disk  # noqa: E402
import ntfsfile  # noqa: E402
import vhdfile  # noqa: E402
import vhdxdirty  # noqa: E402
from harness import MiB  # noqa: E402

# Findings are told, not left behind as cores.
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.environ['PATH'] += os.pathsep + '/usr/sbin' + os.pathsep + '/sbin'
# Larger ones of other software are no seeds.
MAX_SEED = 24 << 10
MAX_DIRTY = 10 << 10


class Maker:
    def __init__(self, build, out):
        self.build, self.out = os.path.abspath(build), os.path.abspath(out)
        self.dir = None

    def run(self, *words, **options):
        subprocess.run(words, check=True, stdin=options.pop('stdin', subprocess.DEVNULL), cwd=self.dir,
                       stdout=subprocess.DEVNULL, **options)

    def img(self, *words):
        self.run(os.path.join(self.build, 'tools', 'vhd-img'), *words)

    def io(self, file, *commands):
        words = [word for command in commands for word in ('-c', command)]
        self.run(os.path.join(self.build, 'tools', 'vhd-io'), '--break-children', *words, file)

    def pack(self, target, name, script, files, limit=None):
        folder = os.path.join(self.out, target)
        os.makedirs(folder, exist_ok=True)
        program = os.path.join(self.build, 'tests', 'fuzz', 'fuzz-' + target)
        if not os.path.exists(program):
            return False
        done = subprocess.run([program, '--pack', script, *files], cwd=self.dir, stdout=subprocess.PIPE)
        if done.returncode != 0:
            print('%s/%s: a finding, left out: --pack %s' % (target, name, script))
            return False
        if limit is not None and len(done.stdout) > limit:
            print('%s/%s: %d bytes, left out' % (target, name, len(done.stdout)))
            return False
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(done.stdout)
        return True

    def script(self, target, name, script):
        self.pack(target, name, script, [])


# --- images -----------------------------------------------------------------------------------------------------------

def create(m, file, kind, size, *options, parent=None):
    words = ['create', '-q', '-f', kind]
    for option in options:
        words += ['-o', option]
    if parent:
        words += ['-b', parent]
    m.img(*words, file, *([size] if size else []))


def vhd_images(m):
    """(name, files): the leaf is the first."""
    create(m, '0.img', 'vhd', '1M', 'block_size=4k')
    m.io('0.img', 'write -P 7 0 1k', 'write -P 8 600k 5k')
    yield 'dynamic', ['0.img']
    create(m, '0.img', 'vhd', '8M')
    m.io('0.img', 'write -P 7 3M 512', 'write -P 9 7M 1k')
    yield 'dynamic-2m', ['0.img']
    create(m, '0.img', 'vhd', '64k', 'subformat=fixed')
    m.io('0.img', 'write -P 5 1k 512')
    yield 'fixed', ['0.img']
    create(m, '2.img', 'vhd', '256k', 'block_size=16k')
    create(m, '1.img', 'vhd', None, 'block_size=16k', parent='2.img')
    create(m, '0.img', 'vhd', '300k', 'block_size=8k', parent='1.img')
    m.io('2.img', 'write -P 1 0 1k', 'write -P 1 64k 512')
    m.io('1.img', 'write -P 2 512 512', 'write -P 2 100k 1k')
    m.io('0.img', 'write -P 3 1k 512', 'write -P 3 101k 512', 'write -z 64k 512')
    yield 'chain', ['0.img', '1.img', '2.img']
    create(m, '1.img', 'vhd', '64k', 'subformat=fixed')
    create(m, '0.img', 'vhd', None, 'block_size=4k', parent='1.img')
    m.io('0.img', 'write -P 3 1k 512')
    yield 'over-fixed', ['0.img', '1.img']


def leave_header_behind(path, with_texts):
    """What a change of the parent leaves that a crash has ended: the header, and its locators' texts, behind blocks."""
    at = vhdfile.end_footer_offset(path)
    footer = vhdfile.Footer.decode(vhdfile.read_at(path, at, 512))
    header = vhdfile.Header.decode(vhdfile.read_at(path, 512, 1024))
    slots = bytearray(header.locators)
    for slot in range(0, len(slots), 24) if with_texts else ():
        code, space, length, reserved, offset = vhdfile.LOCATOR.unpack_from(slots, slot)
        if code != bytes(4):
            vhdfile.write_at(path, at, vhdfile.read_at(path, offset, length))
            vhdfile.LOCATOR.pack_into(slots, slot, code, space, length, reserved, at)
            at += vhdfile.round_up(length, 512)
    header.locators = bytes(slots)
    footer.data_offset = at
    vhdfile.write_at(path, 512, bytes(1024))
    vhdfile.write_at(path, at, header.encode())
    vhdfile.write_at(path, at + 1024, footer.encode())
    vhdfile.write_at(path, 0, footer.encode())


def interrupted_vhds(m):
    """What the next open for writing puts right."""
    path = os.path.join(m.dir, '0.img')
    data = [(0, b'1' * 1024), (9 << 10, b'2' * 512), (20 << 10, b'3' * 4096)]
    link = {'parent_id': bytes(range(16)), 'parent_path': '/p/base.vhd'}
    for name, with_texts, what in (('header-behind', False, link), ('texts-behind', True, link),
                                   ('header-behind-dynamic', False, {}), ('header-behind-2m', True, dict(link, batmap=True))):
        block = 2 * MiB if 'batmap' in what else 4096
        vhdfile.write_sparse(path, 16 * block, data, block_size=block, **what)
        leave_header_behind(path, with_texts)
        yield name, ['0.img']
    # The end footer is gone, and some of the last block, whether it is in use or not.
    for name, last, there in (('truncated', 5, 3072), ('truncated-unused', 2, 2048)):
        made = vhdfile.write_sparse(path, 64 << 10, data[:last // 2 + 1], block_size=4096, exact_bits=True)
        os.truncate(path, made.place[last] + 512 + there)
        yield name, ['0.img']
    vhdfile.write_sparse(path, 64 << 10, data, block_size=4096, gap=8192)
    vhdfile.patch_footer(path, copies=('head',), timestamp=7)
    yield 'footers-differ', ['0.img']


def vhdx_images(m):
    create(m, '0.img', 'vhdx', '5M', 'block_size=1M')
    m.io('0.img', 'write -P 7 0 1k', 'write -P 8 2M 512', 'write -z 3M 1M', 'write -P 8 4M 512')
    yield 'dynamic', ['0.img']
    create(m, '0.img', 'vhdx', '2M', 'subformat=fixed', 'block_size=1M')
    yield 'fixed', ['0.img']
    create(m, '0.img', 'vhdx', '3M', 'block_size=1M', 'logical_sector_size=4096')
    m.io('0.img', 'write -P 7 4k 4k')
    yield '4k', ['0.img']
    # From below: a parent that is written to has another identity.
    create(m, '2.img', 'vhdx', '4M', 'block_size=1M')
    m.io('2.img', 'write -P 1 0 1k', 'write -P 1 2M 512')
    create(m, '1.img', 'vhdx', None, 'block_size=1M', parent='2.img')
    m.io('1.img', 'write -P 2 512 512')
    create(m, '0.img', 'vhdx', '3M', 'block_size=2M', parent='1.img')
    m.io('0.img', 'write -P 3 1k 512', 'write -z 1M 1M')
    yield 'chain', ['0.img', '1.img', '2.img']


def dirty_images(m):
    """Sound images with a log to be replayed; of many, some whose logs are not full of rubbish."""
    rng = random.Random(20260)
    for name in ('dynamic', 'fixed', '4k'):
        for number in range(10):
            for kind, files in vhdx_images(m):
                if kind == name:
                    break
            vhdxdirty.make_dirty(os.path.join(m.dir, files[0]), rng, damage=False)
            yield '%s-dirty-%d' % (name, number), files


# --- guest file systems -----------------------------------------------------------------------------------------------

FILE_SYSTEMS = {
    # name: size in MiB, program and options
    'ext2': (2, ['mke2fs', '-q', '-F', '-t', 'ext2', '-b', '1024']),
    'ext3': (4, ['mke2fs', '-q', '-F', '-t', 'ext3', '-b', '1024', '-J', 'size=1']),
    'ext4': (4, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-J', 'size=1']),
    'ext4-csum': (8, ['mke2fs', '-q', '-F', '-t', 'ext4', '-O', 'metadata_csum,64bit,bigalloc,^resize_inode']),
    'ext4-meta-bg': (16, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-O', 'meta_bg,^resize_inode,^metadata_csum']),
    'ext4-groups': (4, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-g', '256', '-O', 'mmp,metadata_csum,^has_journal']),
    'ext4-uninit': (4, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-g', '1024', '-J', 'size=1', '-O',
                        'uninit_bg,^metadata_csum,^64bit,sparse_super2']),
    'fat12': (1, ['mkfs.fat', '-F', '12']),
    'fat16': (8, ['mkfs.fat', '-F', '16', '-s', '1']),
    'fat32': (34, ['mkfs.fat', '-F', '32', '-s', '1']),
    'exfat': (4, ['mkfs.exfat']),
    'ntfs': (2, ['mkfs.ntfs', '-F', '-q', '-Q', '-c', '4096']),
    'xfs': (16, ['mkfs.xfs', '-q', '-f', '--unsupported']),
    'xfs-v4': (16, ['mkfs.xfs', '-q', '-f', '--unsupported', '-m', 'crc=0']),
    'btrfs': (128, ['mkfs.btrfs', '-q', '-f', '-n', '4096', '-m', 'single']),
    'btrfs-dup': (128, ['mkfs.btrfs', '-q', '-f']),
    'swap': (1, ['mkswap']),
}


def make_file(m, name, size):
    path = os.path.join(m.dir, name)
    with open(path, 'wb') as f:
        f.truncate(size)
    return path


def file_system(m, name, path, size=None):
    mib, words = FILE_SYSTEMS[name]
    make_file(m, path, size or mib * MiB)
    m.run(*words, path, stderr=subprocess.DEVNULL)


def tables(m):
    """Disks with partitions that have file systems."""
    for name, label, parts in (('mbr', 'dos', ('ext2', 'fat16')), ('gpt', 'gpt', ('ext2', 'swap', 'ntfs')),
                               ('mbr-logical', 'dos', ('swap', 'ext2'))):
        make_file(m, '0.img', 16 * MiB)
        lines = ['label: ' + label]
        starts = []
        at = 2048
        for i, part in enumerate(parts):
            if name == 'mbr-logical' and i == 1:
                lines.append('start=%d, type=5' % at)
                at += 2048
            sectors = FILE_SYSTEMS[part][0] * MiB // 512
            lines.append('start=%d, size=%d' % (at, sectors))
            starts.append((part, at))
            at += sectors + 2048
        m.run('sfdisk', '-q', '0.img', stdin=None, input='\n'.join(lines).encode())
        for part, start in starts:
            file_system(m, part, 'part')
            m.run('dd', 'if=part', 'of=0.img', 'bs=512', 'seek=%d' % start, 'conv=notrunc,sparse', 'status=none')
        yield name, ['0.img']


def with_files(m, count):
    """A folder of so many small files, and a list of them for mkfs.xfs."""
    folder = os.path.join(m.dir, 'files')
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    lines = ['/', '0 0', 'd--755 0 0']
    for i in range(count):
        path = os.path.join(folder, 'f%d' % i)
        with open(path, 'wb') as f:
            f.write(b'%d' % i * 3000)
        lines.append('f%d ---644 0 0 %s' % (i, path))
    with open(os.path.join(m.dir, 'proto'), 'w', encoding='ascii') as f:
        f.write('\n'.join(lines + ['$', '']))
    return folder


def mkfs(m, size, *words):
    m.run(words[0], *words[1:], make_file(m, '0.img', size), stderr=subprocess.DEVNULL)


def xfs_in_pieces(m, block_size, options):
    """Free space in so many pieces that its trees have two levels."""
    mkfs(m, 16 * MiB, 'mkfs.xfs', '-q', '-f', '--unsupported', '-b', 'size=%d' % block_size, '-d', 'agcount=1', *options,
         '-p', 'proto')
    path, folder = os.path.join(m.dir, '0.img'), os.path.join(m.dir, 'mounted')
    with open(path, 'rb') as f:
        start, = struct.unpack('>Q', f.read(56)[48:])
        f.seek(96)
        blocks, = struct.unpack('>I', f.read(4))
        f.seek(start * block_size)
        log = f.read(blocks * block_size)
    os.makedirs(folder, exist_ok=True)
    m.run('mount', '-o', 'loop', '0.img', folder, stderr=subprocess.DEVNULL)
    try:
        for i in range(0, 500, 2):
            os.unlink(os.path.join(folder, 'f%d' % i))
    finally:
        m.run('umount', folder)
    # One that was in use is long.
    with open(path, 'r+b') as f:
        f.seek(start * block_size)
        f.write(log)


def more_file_systems(m):
    """(name, function that makes 0.img): with files in them, and what no mkfs makes."""
    def btrfs_files():
        mkfs(m, 128 * MiB, 'mkfs.btrfs', '-q', '-f', '-n', '4096', '-m', 'single', '--rootdir', with_files(m, 120))

    def ntfs_lists():
        mkfs(m, 9 * MiB, 'mkfs.ntfs', '-F', '-q', '-Q', '-c', '512')
        ntfsfile.spread_bitmap(ntfsfile.Ntfs(os.path.join(m.dir, '0.img')))

    def ntfs_log():
        mkfs(m, 4 * MiB, 'mkfs.ntfs', '-F', '-q', '-Q')
        ntfs = ntfsfile.Ntfs(os.path.join(m.dir, '0.img'))
        ntfs.write(ntfs.offset(ntfs.attribute(2, 0x80)), ntfsfile.restart_page(20) + ntfsfile.restart_page(10))

    def ntfs_hiberfile():
        mkfs(m, 4 * MiB, 'mkfs.ntfs', '-F', '-q', '-Q')
        folder = os.path.join(m.dir, 'mounted')
        os.makedirs(folder, exist_ok=True)
        m.run('ntfs-3g', '0.img', folder, stderr=subprocess.DEVNULL)
        try:
            for i in range(24):
                open(os.path.join(folder, 'a file of some name %d' % i), 'wb').close()
            with open(os.path.join(folder, 'hiberfil.sys'), 'wb') as f:
                f.write(b'WAKE' + b'\1' * 20000)
        finally:
            # It writes until after the command has ended.
            m.run('fusermount3', '-u', folder)
            time.sleep(1)

    def ntfs_shadow():
        mkfs(m, 4 * MiB, 'mkfs.ntfs', '-F', '-q', '-Q')
        guid, catalog = bytes.fromhex('6b87083876c1484eb7ae04046e6cc752'), 0x300000
        block = struct.pack('<16sIIQQQ', guid, 1, 2, 0, catalog, 0).ljust(128, b'\0') + struct.pack('<Q', 1).ljust(128, b'\0')
        with open(os.path.join(m.dir, '0.img'), 'r+b') as f:
            f.seek(0x1e00)
            f.write(struct.pack('<16sII24xQQ16s16s', guid, 1, 1, catalog, 0, bytes(16), bytes(16)))
            f.seek(catalog)
            f.write(block)

    def xfs_pieces(options, block_size=1024):
        with_files(m, 500)
        xfs_in_pieces(m, block_size, options)

    def lvm2(*volumes, **what):
        lvm2disk.make(os.path.join(m.dir, '0.img'), 16 * MiB, lvm2disk.group(14, *volumes), **what)

    lvm2_areas = ((4096, 64 << 10), (15 * MiB, MiB))
    return [
        ('btrfs-files', btrfs_files), ('ntfs-lists', ntfs_lists), ('ntfs-shadow', ntfs_shadow),
        ('ntfs-log', ntfs_log), ('ntfs-hiberfile', ntfs_hiberfile),
        ('xfs-pieces', lambda: xfs_pieces([])), ('xfs-pieces-v4', lambda: xfs_pieces(['-m', 'crc=0'])),
        ('lvm2-empty', lvm2), ('lvm2', lambda: lvm2(lvm2disk.logical('a', (0, 2), (2, 1)), lvm2disk.logical('b', (5, 1), (9, 2)))),
        ('lvm2-two-areas', lambda: lvm2(lvm2disk.logical('a', (0, 2)), areas=lvm2_areas, at=(64 << 10) - 100)),
    ]


# --- all --------------------------------------------------------------------------------------------------------------

def corpus_files(m, suffix):
    """Small images of other software, one file each."""
    folder = harness.corpus()
    for root, _, names in sorted(os.walk(folder) if folder else []):
        for name in sorted(names):
            plain = name[:-3] if name.endswith('.xz') else name
            if not plain.endswith(suffix):
                continue
            opener = lzma.open if name.endswith('.xz') else open
            with opener(os.path.join(root, name), 'rb') as source:
                data = source.read(80 * MiB + 1)
            if len(data) > 64 * MiB:
                continue
            with open(os.path.join(m.dir, '0.img'), 'wb') as f:
                f.write(data)
            m.run('fallocate', '-d', '0.img')
            yield '%s-%s' % (os.path.basename(root), plain.replace('.', '-')), ['0.img']


def scripts(m):
    """Requests of guests and jobs on images that the target makes itself (fuzz-guest.c): the image, then opcodes with
    their numbers."""
    rng = random.Random(7)
    for image in range(16):
        text = bytes([image]) + bytes(b for _ in range(14) for b in [rng.randrange(32), *rng.randbytes(5)])
        m.script('guest', 'script-%d' % image, text.hex())
    # Blocks of a MiB taken, the first ones given back, and the last ones moved there; then once more, larger.
    def at(opcode, mib, count=1):
        return struct.pack('<BIH', opcode, 0xc0000000 | mib << 20, count - 1)

    fill = b''.join(at(0, mib) + bytes([mib + 1]) for mib in (3, 1, 0, 2))
    text = fill + at(9, 0, 2) + bytes([14, 20, 0]) + at(7, 3) + struct.pack('<BH', 16, 300) + fill + at(9, 1) + bytes([18, 20, 0])
    for image in (2, 6, 7, 9, 10, 11):
        m.script('guest', 'moves-%d' % image, (bytes([image]) + text + (b'\x16\0' if image > 9 else b'')).hex())
    second_images(m)


def second_images(m):
    """Copies of such images, and plans: the operations whose codes are in place of others' (NEW_OPS)."""
    def some(image):
        """Data, zeros and nothing, here and there."""
        return bytes([image]) + b''.join(struct.pack('<BIHB', 0, 4 << 28 | at, 3, 7 + at % 5) for at in (0, 70000, 180000)) \
            + struct.pack('<BIH', 5, 4 << 28 | 90000, 20) + struct.pack('<BIH', 9, 4 << 28 | 180000, 1)

    def copy(kind, flags, place=123457):
        return struct.pack('<BBBI', 0xf8, kind, flags, place)

    for number, image in enumerate((0, 2, 3, 7, 8, 9, 13)):
        # Each kind of copy, and a used one that is larger.
        text = copy(number, 0x40) + copy(number + 3, 0x82 + number) + copy(number + 1, 0x31)
        m.script('guest', 'convert-%d' % image, (some(image) + text).hex())
    for image in (4, 5, 6, 10, 11, 12):
        # Children of the lower layers; once more when the image has no parent.
        text = copy(image, 0x00) + copy(0x80, 0x04) + copy(0x81, 0x88) + copy(0x80, 0x02)
        m.script('guest', 'convert-%d' % image, (some(image) + text + bytes([23]) + copy(0x80, 0x40)).hex())
        # 8: and then done.
        m.script('guest', 'plan-commit-%d' % image, (some(image) + bytes([0xf9, 0x20, 0xf9, 0xb9, 0xf9, 0x78])).hex())
        m.script('guest', 'plan-rebase-%d' % image, (some(image) + bytes([0xfb, 0x80, 0xfb, 1, 0xfc, 1, 0xfb, 0x80])).hex())
    for image in (0, 1, 2, 5, 7, 9, 11, 8):
        text = bytes([0xfa, 0x10, 0xfa, 0x33, 0xfa, 0x08]) + struct.pack('<BIH', 9, 0, 40000) + bytes([0xfa, 0x09, 0xfa, 0x3f])
        m.script('guest', 'plan-compact-%d' % image, (some(image) + text).hex())
    # A sector bitmap that nobody needs any more, its block being zeros.
    m.script('guest', 'plan-compact-bitmap', (some(10) + struct.pack('<BIH', 7, 0xc0000000, 0) + bytes([0xfa, 0x02, 0xfa, 0x08])).hex())


def paths(m):
    """Names of parents (fuzz-path.c)."""
    names = ('..\\base.vhd', 'base.vhd', 'C:\\disks\\base.vhd', 'c:/DIR/base.vhd', '\\\\srv\\share\\base.vhd', '/disks/base.vhd',
             '\\\\?\\C:\\dir\\..\\base.vhd', '\\\\?\\UNC\\srv\\share\\BASE.vhd', '\\\\?\\Volume{1}\\base.vhd', '\\base.vhd',
             'block_size=1M,subformat=fixed')
    for number, name in enumerate(names):
        entry = b'D:=/x' if number % 3 == 0 else b''
        head = bytes([56 + number % 3 + (4 if number % 2 else 0), len(entry)])
        m.script('path', 'name-%d' % number, (head + entry + name.encode()).hex())


def locator(*pairs):
    """A VHDX parent locator."""
    table, texts = b'', b''
    start = 20 + 12 * len(pairs)
    for pair in pairs:
        places = []
        for text in pair:
            data = text.encode('utf-16-le')
            places.append((start + len(texts), len(data)))
            texts += data
        table += struct.pack('<IIHH', places[0][0], places[1][0], places[0][1], places[1][1])
    kind = bytes.fromhex('b7ef4ab09ed181 4ab78925b8e9445913'.replace(' ', ''))
    return kind + struct.pack('<HH', 0, len(pairs)) + table + texts


def attempt(what, function):
    try:
        function()
    except (OSError, subprocess.CalledProcessError) as error:
        print('%s: left out: %s' % (what, error))


def make_all(m):
    for name, files in vhd_images(m):
        m.pack('vhd', name, '40', files)
        m.pack('vhd', name + '-check', '20', files)
        m.pack('replay', 'vhd-' + name, '', files)
        m.pack('decode', 'vhd-' + name, '000000001000', files)
        m.pack('guest', 'vhd-' + name, 'ff' + '00010203040506' * 6, files)
    for name, files in vhdx_images(m):
        m.pack('vhdx', name, '40', files)
        m.pack('replay', 'vhdx-' + name, '', files)
        for which in ('01', '02', '04'):
            m.pack('decode', 'vhdx-%s-%s' % (name, which), which, files)
        m.pack('guest', 'vhdx-' + name, 'ff' + '00010203040506' * 6, files)
    for name, files in interrupted_vhds(m):
        m.pack('replay', 'vhd-' + name, '', files)
    kept = {}
    for name, files in dirty_images(m):
        kind = name.split('-')[0]
        if kept.get(kind, 0) < 2 and m.pack('replay', name, '', files, MAX_DIRTY):
            kept[kind] = kept.get(kind, 0) + 1
            if kept[kind] == 1:
                m.pack('decode', name, '03', files)
                m.pack('vhdx', name, '40', files)
    for name, files in corpus_files(m, '.vhd'):
        m.pack('vhd', name, '0101', files, MAX_SEED)
    for name, files in corpus_files(m, '.vhdx'):
        m.pack('vhdx', name, '01', files, MAX_SEED)
        if 'dirty' in name:
            m.pack('replay', name, '01', files, MAX_SEED)
    for name in FILE_SYSTEMS:
        def one(name=name):
            file_system(m, name, '0.img')
            m.pack('fs', name, '0000', ['0.img'])
        attempt(name, one)

    for name, make in more_file_systems(m):
        def another(name=name, make=make):
            make()
            m.pack('fs', name, '0000', ['0.img'])
        attempt(name, another)

    def with_tables():
        for name, files in tables(m):
            m.pack('fs', name, '0003', files)
    attempt('partition tables', with_tables)
    scripts(m)
    paths(m)
    parent = locator(('parent_linkage', '{83ed04f2-3c27-4f41-8a3a-2d3c5a2b7c55}'), ('relative_path', '.\\base.vhdx'),
                     ('volume_path', '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\base.vhdx'))
    m.script('decode', 'locator', '05' + parent.hex())


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    m = Maker(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else os.path.join(HERE, 'seeds'))
    m.dir = tempfile.mkdtemp(prefix='vhdkit-seeds-')
    try:
        make_all(m)
    finally:
        shutil.rmtree(m.dir)


main()
