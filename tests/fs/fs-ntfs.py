# SPDX-License-Identifier: LGPL-2.1-or-later
"""NTFS, against ntfs-3g: its $Bitmap says what is free, and ntfsfix and the files find nothing missing when that has been
overwritten.  Volumes that Windows made come from the corpus."""

import contextlib
import os
import random
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, fill_free, in_use, is_subset, main, make_file, patch, read_file,  # noqa: E402
                       report, tree, usable)
from harness import corpus  # noqa: E402
from ntfsfile import Ntfs, list_entry, non_resident, resident, restart_page, spread_bitmap  # noqa: E402

SEED = int(os.environ.get('VHDKIT_SEED', '1'))
FLIPS = int(os.environ.get('VHDKIT_FLIPS', '100'))

KINDS = {
    'usual': '',
    '512': '-c 512',
    '2k': '-c 2048',
    '64k': '-c 65536',
    '128-sectors': '-c 65536 -s 512',
    '256k': '-c 262144',
    '2m': '-c 2097152',
    'sectors-4k': '-s 4096 -c 4096',
}


def make(t, options='', size=60 * MiB):
    t.need('mkfs.ntfs', 'ntfscat', 'ntfsfix')
    path = make_file(t.path('ntfs.img'), size)
    t.run('mkfs.ntfs', '-F', '-q', '-Q', '-L', 'a label', *options.split(), path)
    return path


@contextlib.contextmanager
def mounted(t, path):
    """By FUSE; skips where that cannot be."""
    t.need('ntfs-3g', 'fusermount3')
    folder = t.path('mounted')
    os.makedirs(folder, exist_ok=True)
    result = subprocess.run(['ntfs-3g', path, folder], capture_output=True, text=True)
    if result.returncode != 0:
        t.skip('ntfs-3g cannot mount here: %s' % result.stderr.strip().splitlines()[-1:])
    try:
        yield folder
    finally:
        subprocess.run(['fusermount3', '-u', folder], check=True)
        # The file system writes its last after it has been unmounted.
        for _ in range(200):
            if subprocess.run(['ntfscat', '-i', '6', path], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)


def fill(folder, generator, files=60):
    os.makedirs(os.path.join(folder, 'sub', 'deep'))
    for i in range(files):
        size = generator.choice((0, 1, 100, 1024, 5000, 70000, 300000))
        with open(os.path.join(folder, ('', 'sub', 'sub/deep')[i % 3], 'file-%d' % i), 'wb') as f:
            f.write(generator.randbytes(size))
    for i in range(0, files, 4):
        os.unlink(os.path.join(folder, ('', 'sub', 'sub/deep')[i % 3], 'file-%d' % i))


def truth(t, path):
    """What $Bitmap says, as libntfs-3g reads it."""
    result = subprocess.run(['ntfscat', '-i', '6', path], capture_output=True, check=True)
    return Ntfs(path).free_ranges(result.stdout)


def check(t, path):
    t.run('ntfsfix', '-n', path)


def kind(t, options):
    files, size = (24, 100 * MiB) if '2097152' in options else (60, 60 * MiB)
    path = make(t, options, size)
    with mounted(t, path) as folder:
        fill(folder, random.Random(SEED), files)
    with mounted(t, path) as folder:
        before = tree(folder)
    expected = truth(t, path)
    found = report(t, path, '-g', '512')
    entry = found['volumes'][0]
    t.equal(entry['in-use'], None, 'in use')
    t.equal((entry['type'], entry['label']), ('ntfs', 'a label'), 'type and label')
    t.equal(found['free'], expected, 'free')
    t.check(sum(n for _, n in expected) > 20 * MiB, 'too little is free for a test', expected)
    t.check(len(before) > files / 2, 'files', len(before))
    fill_free(t, path, '-g', '512')
    check(t, path)
    with mounted(t, path) as folder:
        t.check(tree(folder) == before, 'files have changed')


for name, options in KINDS.items():
    add('kind-' + name, kind, options)


@case
def fragmented(t):
    """Files of one cluster in every other place: the MFT and what is written later is in pieces."""
    path = make(t, '-c 512 -z 1', size=16 * MiB)
    generator = random.Random(SEED)
    with mounted(t, path) as folder:
        names = []
        with contextlib.suppress(OSError):
            for i in range(100000):
                names.append(os.path.join(folder, 'f%d' % i))
                with open(names[-1], 'wb') as f:
                    f.write(generator.randbytes(800))
        for name in names[::2]:
            os.unlink(name)
        with contextlib.suppress(OSError), open(os.path.join(folder, 'in-pieces'), 'wb') as f:
            for i in range(2000):
                f.write(generator.randbytes(1024))
        for name in names[1:300:2]:
            os.unlink(name)
    with mounted(t, path) as folder:
        before = tree(folder)
    expected = truth(t, path)
    t.equal(report(t, path, '-g', '512')['free'], expected, 'free')
    t.check(len(expected) > 100, 'not fragmented', len(expected))
    fill_free(t, path, '-g', '512')
    with mounted(t, path) as folder:
        t.check(tree(folder) == before, 'files have changed')


@case
def smaller_than_its_partition(t):
    path = make(t)
    expected = report(t, path)['free']
    os.truncate(path, 90 * MiB)
    t.equal(report(t, path)['free'], expected, 'free')


# Attribute lists ----------------------------------------------------------------------------------------


@case
def bitmap_in_pieces(t):
    path = make(t, '-c 512')
    expected = report(t, path, '-g', '512')['free']
    spread_bitmap(Ntfs(path))
    t.equal(truth(t, path), expected, 'what ntfs-3g reads')
    t.equal(report(t, path, '-g', '512')['free'], expected, 'free')


@case
def bitmap_in_pieces_by_a_list_outside(t):
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    entries = spread_bitmap(ntfs)
    # The list's own cluster must be in use, or it would be freed.
    free = report(t, path, '-g', '512')['free'][-1][0]
    ntfs.write(free, entries)
    others = [a for a, b in zip(ntfs.raw_attributes(6), ntfs.attributes(6)) if b.type != 0x20]
    outside = non_resident(0x20, 0, [(free // 512, 1)], len(entries), 512)
    ntfs.set_attributes(6, others[:1] + [outside] + others[1:])
    in_use(t, path, '$Bitmap: says that metadata in cluster %d is free' % (free // 512))
    number = free // 512
    bitmap = subprocess.run(['ntfscat', '-i', '6', path], capture_output=True, check=True).stdout
    lcn = [n for record in (20, 21) for a in ntfs.attributes(record) for n, _ in a.runs]
    place = sorted(lcn)[number // 8 // 512] * 512 + number // 8 % 512
    patch(path, place, bytes([bitmap[number // 8] | 1 << number % 8]))
    usable(t, path)


@case
def bitmap_with_a_missing_piece(t):
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    spread_bitmap(ntfs)
    good = ntfs.record(21)
    ntfs.new_record(21, 9, 7)
    in_use(t, path, 'record 21 does not extend record 6')
    ntfs.put_record(21, good)
    usable(t, path)
    ntfs.new_record(21, 6, 7, sequence=8)
    in_use(t, path, 'record 21 does not extend record 6')
    ntfs.new_record(21, 6, 7)
    in_use(t, path, 'no piece in record 21 fits')


@case
def bitmap_in_pieces_that_do_not_follow(t):
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    entries = spread_bitmap(ntfs)
    attributes = ntfs.raw_attributes(6)
    others, pieces = entries[:-96], [entries[-96:-64], entries[-64:-32], entries[-32:]]
    for order, reason in (((0, 2, 1), 'no piece in record 20 fits'), ((1, 0, 2), 'no piece in record 21 fits'),
                          ((0, 1, 1, 2), 'no piece in record 21 fits'), ((0, 2), 'no piece in record 20 fits'),
                          ((0, 1), 'attributes of record 6'), ((0, 1, 2), None)):
        listed = resident(0x20, others + b''.join(pieces[i] for i in order))
        ntfs.set_attributes(6, attributes[:1] + [listed] + attributes[2:])
        in_use(t, path, reason) if reason else usable(t, path)


# What makes it count as in use --------------------------------------------------------------------------


def volume_flags(t, flags, reason):
    path = make(t)
    ntfs = Ntfs(path)
    ntfs.patch_record(3, ntfs.attribute(3, 0x70).value_offset + 10, struct.pack('<H', flags))
    if reason is None:
        usable(t, path)
    else:
        in_use(t, path, reason)


add('dirty', volume_flags, 1, 'dirty: to be checked')
for bit in (1, 2, 3, 4, 5, 6, 8, 9, 14, 15):
    add('volume-flag-%d' % bit, volume_flags, 1 << bit, 'to be done when it is mounted')
add('windows-10-volume-flag', volume_flags, 0x80, None)


@case
def unknown_version(t):
    path = make(t)
    ntfs = Ntfs(path)
    at = ntfs.attribute(3, 0x70).value_offset + 8
    for version, reason in ((b'\x01\x02', None), (b'\x03\x00', None), (b'\x03\x01', None),
                            (b'\x03\x02', 'version 3.2'), (b'\x04\x00', 'version 4.0'), (b'\x01\x01', 'version 1.1')):
        ntfs.patch_record(3, at, version)
        usable(t, path) if reason is None else in_use(t, path, reason)


@case
def encrypted(t):
    path = make(t)
    patch(path, 3, b'-FVE-FS-')
    in_use(t, path, 'encrypted')


def log(t, reason, *pages):
    path = make(t)
    ntfs = Ntfs(path)
    at = ntfs.offset(ntfs.attribute(2, 0x80))
    usable(t, path)
    for page in pages:
        patch(path, at, page)
        at += len(page)
    if reason is None:
        usable(t, path)
    else:
        in_use(t, path, reason)


CLEAN, OPEN = restart_page(10), restart_page(20, flags=0)
add('log-clean', log, None, CLEAN, CLEAN)
add('log-without-clients', log, None, restart_page(10, flags=0, in_use=0xffff), CLEAN)
add('log-clean-later', log, None, OPEN, restart_page(30))
add('log-clean-before', log, 'to be replayed', CLEAN, OPEN)
add('log-open-before', log, 'to be replayed', OPEN, CLEAN)
add('log-of-one-lsn', log, 'to be replayed', restart_page(20), OPEN)
add('log-of-one-lsn-open-first', log, 'to be replayed', OPEN, restart_page(20))
add('log-fast-startup', log, 'fast startup', restart_page(10, major=2, minor=0), restart_page(10, major=2, minor=0))
add('log-version', log, 'version 3.0', restart_page(10, major=3, minor=0), restart_page(10, major=3, minor=0))
add('log-torn', log, 'restart page 2 is damaged', CLEAN, CLEAN[:2048] + bytes(2048))
add('log-of-chkdsk', log, 'no restart page', CLEAN.replace(b'RSTR', b'CHKD'), CLEAN)
add('log-page-size', log, 'no restart page', CLEAN[:16] + bytes(4) + CLEAN[20:], CLEAN)
add('log-not-empty', log, 'no restart page, but', b'\xff' * 8192, b'RCRD')
add('log-of-zeros', log, 'no restart page', bytes(8192))


def hiberfile(t, name, content, reason, others=0):
    path = make(t)
    with mounted(t, path) as folder:
        # Enough of them for the directory to go beyond its record.
        for i in range(others):
            open(os.path.join(folder, 'a file with some name %d' % i), 'wb').close()
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(content)
    if reason is None:
        usable(t, path)
    else:
        in_use(t, path, reason)


BLOCK = 64 * KiB
add('hiberfile', hiberfile, 'hiberfil.sys', b'HIBR' + bytes(BLOCK), 'hibernated')
add('hiberfile-lower-case', hiberfile, 'HIBERFIL.SYS', b'hibr' + bytes(BLOCK), 'hibernated')
add('hiberfile-resuming', hiberfile, 'hiberfil.sys', b'RSTR' + bytes(BLOCK), 'hibernated')
add('hiberfile-unknown', hiberfile, 'hiberfil.sys', bytes(4095) + b'\1', 'hibernated')
add('hiberfile-short', hiberfile, 'hiberfil.sys', bytes(100), 'perhaps hibernated')
add('hiberfile-awake', hiberfile, 'hiberfil.sys', b'WAKE' + b'\1' * BLOCK, None)
add('hiberfile-of-zeros', hiberfile, 'hiberfil.sys', bytes(BLOCK), None)
add('hiberfile-in-a-large-directory', hiberfile, 'hiberfil.sys', b'HIBR' + bytes(BLOCK), 'hibernated', 500)
add('hiberfile-of-another-name', hiberfile, 'hiberfil.sy', b'HIBR' + bytes(BLOCK), None, 500)


@case
def hiberfile_in_a_damaged_directory(t):
    hiberfile(t, 'hiberfil.sys', b'HIBR' + bytes(BLOCK), 'hibernated', 500)
    path = t.path('ntfs.img')
    ntfs = Ntfs(path)
    allocation = ntfs.attribute(5, 0xa0, '$I30')
    at = next(at for at in range(0, allocation.size, 4096)
              if 'hiberfil.sys'.encode('utf-16-le') in ntfs.read(ntfs.offset(allocation, at), 4096))
    patch(path, ntfs.offset(allocation, at) + 510, b'\xaa\xaa')
    in_use(t, path, 'root directory is damaged at its byte %d' % at)


GUID = bytes.fromhex('6b87083876c1484eb7ae04046e6cc752')


def shadow(t, reason, catalog=0x300000, entries=(), storage=bytes(16), block_guid=GUID, next_block=0):
    path = make(t)
    usable(t, path)
    patch(path, 0x1e00, struct.pack('<16sII24xQQ16s16s', GUID, 1, 1, catalog, 0, bytes(16), storage))
    block = struct.pack('<16sIIQQQ', block_guid, 1, 2, 0, catalog, next_block).ljust(128, b'\0')
    block += b''.join(struct.pack('<Q', entry).ljust(128, b'\0') for entry in entries)
    if catalog:
        patch(path, catalog, block.ljust(16 * KiB, b'\0'))
    if reason is None:
        usable(t, path)
    else:
        in_use(t, path, reason)


add('shadow-copy', lambda t: shadow(t, 'it has shadow copies', entries=(1, 0, 2, 3)))
add('shadow-copies-deleted', lambda t: shadow(t, None, entries=(1, 1, 1)))
add('shadow-copies-never', lambda t: shadow(t, None, catalog=0))
add('shadow-copies-elsewhere', lambda t: shadow(t, 'on another volume', storage=b'1' * 16))
add('shadow-catalog-damaged', lambda t: shadow(t, 'catalog cannot be read', block_guid=bytes(16)))
add('shadow-catalog-loop', lambda t: shadow(t, 'no end', next_block=0x300000))
add('shadow-catalog-outside', lambda t: shadow(t, 'not inside', next_block=1 << 50))


# Damage -------------------------------------------------------------------------------------------------


@case
def mirror_differs(t):
    path = make(t)
    ntfs = Ntfs(path)
    patch(path, ntfs.mirror_lcn * ntfs.cluster + 3 * ntfs.record_size + 100, b'\x99')
    in_use(t, path, '$MFTMirr: its record 3')


@case
def torn_record(t):
    path = make(t)
    ntfs = Ntfs(path)
    patch(path, ntfs.record_offset(6) + 1022, b'\x77\x77')
    in_use(t, path, 'record 6 is damaged')


@case
def boot_sector_copy(t):
    path = make(t)
    patch(path, 60 * MiB - 512 + 0x28, b'\1')
    in_use(t, path, 'boot sector: its copy')


@case
def longer_than_the_volume(t):
    path = make(t)
    os.truncate(path, 60 * MiB - 512)
    in_use(t, path, 'the volume has')


@case
def metadata_that_is_free(t):
    """In turn each file of the file system's own."""
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    bitmap = ntfs.offset(ntfs.attribute(6, 0x80))
    for number, type, name in ((0, 0x80, ''), (0, 0xb0, ''), (1, 0x80, ''), (2, 0x80, ''), (4, 0x80, ''), (6, 0x80, ''),
                               (7, 0x80, ''), (10, 0x80, ''), (5, 0xa0, '$I30')):
        runs = ntfs.attribute(number, type, name).runs
        for lcn in (runs[0][0], runs[-1][0] + runs[-1][1] - 1):
            byte = ntfs.read(bitmap + lcn // 8, 1)[0]
            patch(path, bitmap + lcn // 8, bytes([byte & ~(1 << lcn % 8)]))
            in_use(t, path, 'metadata in cluster %d is free' % lcn)
            patch(path, bitmap + lcn // 8, bytes([byte]))
    usable(t, path)


def bitmap_attribute(t, reason, offset, data):
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    ntfs.patch_record(6, ntfs.attribute(6, 0x80).offset + offset, data)
    in_use(t, path, reason)


add('bitmap-short', bitmap_attribute, '$Bitmap: 1000 bytes', 48, struct.pack('<QQ', 1000, 1000))
add('bitmap-not-initialized', bitmap_attribute, '$Bitmap: 1000 bytes', 56, struct.pack('<Q', 1000))
add('bitmap-longer-than-its-runs', bitmap_attribute, 'attributes of record 6', 40, struct.pack('<QQ', 1 << 40, 1 << 40))
add('bitmap-compressed', bitmap_attribute, 'attribute flags', 12, struct.pack('<H', 1))
add('bitmap-encrypted', bitmap_attribute, 'attribute flags', 12, struct.pack('<H', 0x4000))


@case
def bitmap_with_a_hole(t):
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    data = ntfs.attribute(6, 0x80)
    clusters = sum(n for _, n in data.runs)
    attributes = [a for a, b in zip(ntfs.raw_attributes(6), ntfs.attributes(6)) if b.type != 0x80]
    for runs, reason in (([(data.runs[0][0], clusters - 1), (None, 1)], 'it has a hole'),
                         ([(ntfs.clusters - 1, clusters)], 'attributes of record 6'),
                         ([(-5, clusters)], 'attributes of record 6')):
        ntfs.set_attributes(6, attributes + [non_resident(0x80, 0, runs, data.size, clusters * 512)])
        in_use(t, path, reason)


@case
def bitmap_that_comes_back_to_itself(t):
    """Few clusters could else be a bitmap of any length, and so much work as that."""
    path = make(t, '-c 512')
    ntfs = Ntfs(path)
    data = ntfs.attribute(6, 0x80)
    (lcn, clusters), = data.runs
    zeros = [i for i in range(clusters) if ntfs.read((lcn + i) * 512, 512) == bytes(512)]
    at = next(i for i in zeros if i + 1 in zeros)
    attributes = [a for a, b in zip(ntfs.raw_attributes(6), ntfs.attributes(6)) if b.type != 0x80]
    before, after = [(lcn, at)], [(lcn + at + 2, clusters - at - 2)]

    def set_runs(runs):
        ntfs.set_attributes(6, attributes + [non_resident(0x80, 0, runs, data.size, clusters * 512)])

    for first, second in ((at, at), (at + 1, at + 1)):
        set_runs(before + [(lcn + first, 1), (lcn + second, 1)] + after)
        in_use(t, path, '$Bitmap: two pieces of it have cluster %d' % (lcn + first))
    set_runs(before + [(lcn + at + 1, 1), (lcn + at, 1)] + after)
    usable(t, path)


# Volumes of Windows -------------------------------------------------------------------------------------


def windows(t, name, partition, start):
    t.need('xz', 'qemu-img', 'ntfscat')
    if corpus() is None:
        t.skip('no corpus')
    image, raw = t.path(name), t.path('raw')
    with open(image, 'wb') as f:
        subprocess.run(['xz', '-dkc', os.path.join(corpus(), 'windows', name + '.xz')], stdout=f, check=True)
    t.run('qemu-img', 'convert', '-O', 'raw', image, raw)
    entry = usable(t, raw, partition)
    part = t.path('part')
    with open(raw, 'rb') as f:
        f.seek(start)
        with open(part, 'wb') as out:
            out.write(f.read(entry['bytes']))
    t.equal(entry['offset'], start, 'start')
    t.equal(report(t, part, '-g', '512')['free'], truth(t, part), 'free')
    fill_free(t, part, '-g', '512')
    check(t, part)


add('windows-10-mbr', windows, 'dissect-dynamic.vhd', 1, 65536)
add('windows-10-fixed', windows, 'dissect-fixed.vhdx', 1, 65536)
add('windows-10-gpt', windows, 'nodevhd-dynamic.vhd', 3, 138477568)


# Hostile images -----------------------------------------------------------------------------------------


def regions(ntfs):
    """(offset, bytes) of what the reader looks at, without the bitmap."""
    found = [(0, 84), (ntfs.offset(ntfs.attribute(2, 0x80)), 64)]
    found += [(ntfs.record_offset(n), 512) for n in (0, 1, 2, 3, 5, 6, 7)]
    found.append((ntfs.offset(ntfs.attribute(5, 0xa0, '$I30')), 4096))
    return found


@case
def flips(t):
    """No damage to what leads to the bitmap makes more of the volume free."""
    path = make(t, size=20 * MiB)
    with mounted(t, path) as folder:
        fill(folder, random.Random(SEED))
    pristine = report(t, path, '-g', '512')['free']
    data, places, generator = read_file(path), regions(Ntfs(path)), random.Random(SEED)
    changed = 0
    for i in range(FLIPS):
        start, length = generator.choice(places)
        at = start + generator.randrange(length)
        byte = generator.choice((data[at] ^ 1 << generator.randrange(8), generator.randrange(256), 0, 255))
        patch(path, at, bytes([byte]))
        found = report(t, path, '-g', '512')
        t.check(is_subset(found['free'], pristine), 'seed %d, flip %d: byte %d: 0x%02x frees more' % (SEED, i, at, byte),
                found['volumes'])
        changed += found['free'] != pristine
        patch(path, at, data[at:at + 1])
    t.check(changed > FLIPS // 20, 'nothing was noticed', changed)


@case
def random_records(t):
    """Records that are whole and say anything: no crash, no time without bound."""
    path = make(t, size=20 * MiB)
    ntfs, generator = Ntfs(path), random.Random(SEED)
    for _ in range(FLIPS):
        number = generator.choice((0, 1, 2, 3, 5, 6, 7, 10))
        good = ntfs.record(number)
        bad = bytearray(good)
        for _ in range(generator.randrange(3) + 1):
            at = generator.randrange(48, 500) & ~1
            width = generator.choice((1, 2, 4, 8))
            value = generator.choice((0, 1, 0x7f, 0x80, 0xffff, (1 << 63) - 1, (1 << 64) - 1, generator.getrandbits(64)))
            bad[at:at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, 'little')
        ntfs.put_record(number, bad)
        report(t, path)
        ntfs.put_record(number, good)
    usable(t, path)


main()
