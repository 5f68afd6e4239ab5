# SPDX-License-Identifier: LGPL-2.1-or-later
"""Partition tables, and what makes a volume count as in use before its file system is looked at."""

import json
import os
import random
import struct
import sys
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, fs_free, in_use, is_subset, main, make_file, need_ext, patch, read_file, report,  # noqa: E402
                       swap_header, usable, volume)
import bounded  # noqa: E402

SEED = int(os.environ.get('VHDKIT_SEED', '1'))
FLIPS = int(os.environ.get('VHDKIT_FLIPS', '100'))
DISK = 64 * MiB


def partitioned(t, script, size=DISK):
    """A disk whose partitions, as sfdisk makes them, all hold swap space.  Returns its path and (number, offset, bytes)."""
    t.need('sfdisk')
    path = make_file(t.path('disk.img'), size)
    t.run('sfdisk', '-q', path, stdin=script.encode())
    partitions = []
    for entry in t.run('sfdisk', '-J', path).json['partitiontable']['partitions']:
        number = int(entry['node'][len(path):])
        partitions.append((number, entry['start'] * 512, entry['size'] * 512))
        if entry['type'] not in ('5', 'f', '85'):
            patch(path, entry['start'] * 512, swap_header(entry['size'] * 512))
    return path, partitions


# As in the scripts below: for sectors of a size that sfdisk gives to devices only.
LARGE_SECTORS = [(1, 1 * MiB, 8 * MiB), (2, 9 * MiB, 9 * MiB), (3, 40 * MiB, 10 * MiB)]


def large_sectors(t, is_gpt):
    path = make_file(t.path('disk.img'), DISK)
    last = DISK // 4096 - 1
    patch(path, 510, b'\x55\xaa')
    entries = bytearray(4 * 4096)
    for number, offset, size in LARGE_SECTORS:
        first, count = offset // 4096, size // 4096
        if not is_gpt:
            patch(path, 446 + 16 * (number - 1) + 4, struct.pack('<B3xII', 0x83, first, count))
        struct.pack_into('<16s16sQQ', entries, 128 * (number - 1), b'type' * 4, bytes([number]) * 16, first,
                         first + count - 1)
        patch(path, offset, swap_header(size))
    if is_gpt:
        patch(path, 446 + 4, struct.pack('<B3xII', 0xee, 1, last))
        for at, other, where in ((1, last, 2), (last, 1, last - 4)):
            patch(path, where * 4096, entries)
            patch(path, at * 4096, struct.pack('<8sIIIIQQQQ16sQIII', b'EFI PART', 0x10000, 92, 0, 0, at, other, 6, last - 5,
                                               b'a disk' + bytes(10), where, 128, 128, 0))
            fix_header(path, 4096, at)
    return path, LARGE_SECTORS


def swap_free(partitions):
    return [[offset + 4096, size - 4096] for _, offset, size in sorted(partitions, key=lambda p: p[1])]


def all_free(t, path, partitions, table, *options):
    found = report(t, path, *options)
    t.equal(found['table'], table, 'table')
    t.equal([(v['partition'], v['offset'], v['bytes']) for v in found['volumes']],
            sorted(partitions, key=lambda p: p[1]), 'partitions')
    t.equal(found['free'], swap_free(partitions), 'free')
    return found


def disk_in_use(t, path, *phrases, options=()):
    found = report(t, path, *options)
    t.equal(len(found['volumes']), 1, 'volumes')
    t.equal(found['free'], [], 'free')
    in_use(t, path, *phrases, options=options)


# MBR ----------------------------------------------------------------------------------------------------

PRIMARY = 'label: dos\nsize=8M,type=82\nsize=9M,type=83\nstart=40M,size=10M,type=7,bootable\n'
LOGICAL = 'label: dos\nsize=8M,type=82\nsize=40M,type=%s\n5: size=5M,type=82\n6: size=6M\n7: size=7M\n'


def entry(path, n, at=0):
    """(offset of entry @n of the table at @at, its 16 bytes)."""
    offset = at + 446 + 16 * n
    return offset, read_file(path)[offset:offset + 16]


@case
def primary(t):
    path, partitions = partitioned(t, PRIMARY)
    all_free(t, path, partitions, 'MBR')
    all_free(t, path, partitions, 'MBR', '-s', '512')


@case
def primary_of_4096(t):
    path, partitions = large_sectors(t, False)
    all_free(t, path, partitions, 'MBR', '-s', '4096')


def logical(t, kind):
    path, partitions = partitioned(t, LOGICAL % kind)
    t.equal([p[0] for p in partitions], [1, 2, 5, 6, 7], 'numbers')
    all_free(t, path, [p for p in partitions if p[0] != 2], 'MBR')


for kind in ('5', 'f', '85'):
    add('logical-%s' % kind, logical, kind)


@case
def many_logical(t):
    path, partitions = partitioned(t, 'label: dos\ntype=5\n' + ''.join('%d: size=1M\n' % n for n in range(5, 30)))
    all_free(t, path, partitions[1:], 'MBR')


@case
def primary_past_the_end(t):
    path, partitions = partitioned(t, PRIMARY)
    os.truncate(path, 50 * MiB - 512)
    disk_in_use(t, path, 'MBR: partition 3', 'expected inside')


@case
def primary_overlap(t):
    path, partitions = partitioned(t, PRIMARY)
    offset, data = entry(path, 1)
    # One sector longer than up to the third.
    start = struct.unpack('<I', data[8:12])[0]
    patch(path, offset + 12, struct.pack('<I', 40 * 2048 - start + 1))
    in_use(t, path, 'overlaps partition 3', partition=2)
    in_use(t, path, 'overlaps partition 2', partition=3)
    t.equal(report(t, path)['free'], swap_free(partitions[:1]), 'free')
    patch(path, offset + 12, struct.pack('<I', 40 * 2048 - start))
    usable(t, path, 2)
    usable(t, path, 3)


@case
def primary_twice(t):
    path, partitions = partitioned(t, PRIMARY)
    patch(path, entry(path, 3)[0], entry(path, 0)[1])
    in_use(t, path, 'overlaps', partition=1)
    in_use(t, path, 'overlaps', partition=4)


@case
def primary_on_the_table(t):
    path, partitions = partitioned(t, PRIMARY)
    patch(path, entry(path, 0)[0] + 8, struct.pack('<II', 0, 4096))
    disk_in_use(t, path, 'MBR: partition 1')


@case
def primary_on_the_extended(t):
    path, partitions = partitioned(t, LOGICAL % '5')
    patch(path, entry(path, 0)[0] + 8, struct.pack('<II', 2048, 9 * 2048))
    disk_in_use(t, path, 'overlaps the extended')


@case
def two_extended(t):
    path, partitions = partitioned(t, PRIMARY)
    patch(path, entry(path, 0)[0] + 4, b'\5')
    patch(path, entry(path, 1)[0] + 4, b'\5')
    disk_in_use(t, path, 'more than one extended')


@case
def chain_in_a_circle(t):
    path, partitions = partitioned(t, LOGICAL % '5')
    extended = partitions[1][1]
    second = extended + struct.unpack('<I', entry(path, 1, extended)[1][8:12])[0] * 512
    offset, data = entry(path, 1, second)
    patch(path, offset + 8, struct.pack('<I', 0))
    disk_in_use(t, path, 'comes back to')
    patch(path, offset + 8, struct.pack('<I', (second - extended) // 512))
    disk_in_use(t, path, 'comes back to')


@case
def chain_that_leaves(t):
    path, partitions = partitioned(t, LOGICAL % '5')
    extended = partitions[1][1]
    offset, data = entry(path, 1, extended)
    patch(path, offset + 8, struct.pack('<I', 45 * 2048))
    disk_in_use(t, path, 'MBR: partition 6')
    patch(path, offset + 8, struct.pack('<I', 0xffffffff))
    disk_in_use(t, path, 'MBR: partition 6')
    patch(path, offset + 8, struct.pack('<I', 100))
    disk_in_use(t, path, 'no extended boot record')
    patch(path, offset, data)
    patch(path, offset + 4, b'\x83')
    disk_in_use(t, path, 'type 0x83')


@case
def logical_past_its_end(t):
    path, partitions = partitioned(t, LOGICAL % '5')
    offset, data = entry(path, 0, partitions[1][1])
    patch(path, offset + 12, struct.pack('<I', 41 * 2048))
    disk_in_use(t, path, 'MBR: partition 5')


@case
def logical_on_a_boot_record(t):
    """The first logical partition reaches over the record of the second, and the second itself."""
    path, partitions = partitioned(t, LOGICAL % '5')
    offset, data = entry(path, 0, partitions[1][1])
    patch(path, offset + 12, struct.pack('<I', 6 * 2048))
    in_use(t, path, 'overlaps', partition=5)
    # Only the record: the sector before the second partition's alignment.
    second = partitions[1][1] + struct.unpack('<I', entry(path, 1, partitions[1][1])[1][8:12])[0] * 512
    patch(path, offset + 12, struct.pack('<I', (second + 512 - partitions[2][1]) // 512))
    in_use(t, path, 'overlaps the partition table', partition=5)
    usable(t, path, 6)


def owned(t, kind, phrase):
    path, partitions = partitioned(t, PRIMARY)
    patch(path, entry(path, 1)[0] + 4, bytes([kind]))
    in_use(t, path, phrase, partition=2)
    usable(t, path, 1)


for kind, phrase in ((0x41, 'PReP'), (0x42, 'LDM'), (0x84, 'hibernated'), (0x8e, 'LVM'), (0xda, 'not a file system'),
                     (0xe8, 'LUKS'), (0xfb, 'VMFS'), (0xfc, 'core dumps'), (0xfd, 'RAID'), (0xa5, 'FreeBSD')):
    add('type-%02x' % kind, owned, kind, phrase)


@case
def not_a_table(t):
    """Without a signature, or with entries that are none, the disk is looked at as one volume."""
    path, partitions = partitioned(t, PRIMARY)
    patch(path, 510, b'\0')
    disk_in_use(t, path, 'no file system')
    patch(path, 510, b'\x55')
    usable(t, path, 1)
    patch(path, entry(path, 3)[0], b'\x01')
    disk_in_use(t, path, 'no file system')


@case
def table_and_file_system(t):
    path, partitions = partitioned(t, PRIMARY)
    patch(path, 4096 - 10, b'SWAPSPACE2')
    disk_in_use(t, path, 'partition table (MBR)', 'swap')


@case
def whole_disk_with_boot_code(t):
    path = make_file(t.path('disk.img'), DISK)
    patch(path, 0, swap_header(DISK))
    patch(path, 510, b'\x55\xaa')
    found = report(t, path)
    t.equal((found['table'], found['free']), ('none', [[4096, DISK - 4096]]), 'table and free')


# GPT ----------------------------------------------------------------------------------------------------

GPT = 'label: gpt\nsize=8M,type=swap\nsize=9M,type=linux\nstart=40M,size=10M,type=linux\n'


def gpt(t, sector_size=512):
    return partitioned(t, GPT) if sector_size == 512 else large_sectors(t, True)


def fix_header(path, sector_size=512, at=1, **fields):
    """Changes fields of a header, with right checksums."""
    places = {'my_lba': (24, 'Q'), 'alternate_lba': (32, 'Q'), 'first_usable': (40, 'Q'), 'last_usable': (48, 'Q'),
              'entries_lba': (72, 'Q'), 'entries': (80, 'I'), 'entry_size': (84, 'I'), 'header_size': (12, 'I'),
              'revision': (8, 'I')}
    data = read_file(path)
    header = bytearray(data[at * sector_size:(at + 1) * sector_size])
    for name, value in fields.items():
        struct.pack_into('<' + places[name][1], header, places[name][0], value)
    lba, = struct.unpack_from('<Q', header, 72)
    n, size = struct.unpack_from('<II', header, 80)
    if n * size < MiB:
        struct.pack_into('<I', header, 88, zlib.crc32(data[lba * sector_size:lba * sector_size + n * size]))
    length, = struct.unpack_from('<I', header, 12)
    struct.pack_into('<I', header, 16, 0)
    struct.pack_into('<I', header, 16, zlib.crc32(bytes(header[:length])))
    patch(path, at * sector_size, bytes(header))


def change_entries(path, n, offset, value):
    """Writes @value into entry @n of both tables, with right checksums."""
    last = DISK // 512 - 1
    for entries, header in ((2, 1), (last - 32, last)):
        patch(path, entries * 512 + 128 * n + offset, value)
        fix_header(path, at=header)


def gpt_partitions(t, sector_size):
    path, partitions = gpt(t, sector_size)
    found = all_free(t, path, partitions, 'GPT')
    t.equal((found['sector-size'], found['notes']), (sector_size, []), 'sector size, notes')
    all_free(t, path, partitions, 'GPT', '-s', sector_size)
    disk_in_use(t, path, 'sectors of %d bytes, on a disk with' % sector_size,
                options=('-s', 512 + 4096 - sector_size))


add('gpt-512', gpt_partitions, 512)
add('gpt-4096', gpt_partitions, 4096)


@case
def gpt_in_a_vhd(t):
    path, partitions = gpt(t)
    t.img('convert', '-O', 'vhd', path, t.path('disk.vhd'))
    found = report(t, t.path('disk.vhd'))
    t.equal(found['free'], swap_free(partitions), 'free')


def gpt_damage(t, sector_size):
    """One table suffices, and the report says so; without any, the disk is in use."""
    path, partitions = gpt(t, sector_size)
    last = DISK // sector_size - 1
    copy = read_file(path)[last * sector_size:]
    for at in (sector_size + 40, 2 * sector_size + 3):
        saved = read_file(path)[at:at + 1]
        patch(path, at, bytes([saved[0] ^ 1]))
        found = all_free(t, path, partitions, 'GPT', '-s', sector_size)
        t.check('primary table is damaged' in found['notes'][0]['note'], 'notes', found['notes'])
        patch(path, last * sector_size + 40, b'\xff')
        disk_in_use(t, path, 'primary:', 'copy at sector', options=('-s', sector_size))
        patch(path, last * sector_size, copy)
        patch(path, at, saved)
        all_free(t, path, partitions, 'GPT', '-s', sector_size)
    patch(path, (last - 1) * sector_size, b'\1')
    found = all_free(t, path, partitions, 'GPT')
    t.check('copy at sector' in found['notes'][0]['note'], 'notes', found['notes'])


add('gpt-damage-512', gpt_damage, 512)
add('gpt-damage-4096', gpt_damage, 4096)


@case
def gpt_on_a_disk_that_grew(t):
    path, partitions = gpt(t)
    os.truncate(path, 2 * DISK)
    all_free(t, path, partitions, 'GPT')
    patch(path, 512, bytes(512))
    disk_in_use(t, path, 'GPT: primary')


@case
def gpt_on_a_disk_that_shrank(t):
    path, partitions = gpt(t)
    os.truncate(path, DISK - MiB)
    disk_in_use(t, path, 'GPT: primary')


@case
def gpt_tables_that_differ(t):
    path, partitions = gpt(t)
    patch(path, 2 * 512 + 128 + 56, b'n')
    fix_header(path)
    disk_in_use(t, path, 'differ')


@case
def gpt_partition_elsewhere(t):
    path, partitions = gpt(t)
    for first, last in ((30, 5000), (5000, 4999), (2048, DISK // 512 - 33), (2048, 1 << 63), (1 << 55, (1 << 55) + 9)):
        change_entries(path, 0, 32, struct.pack('<QQ', first, last))
        disk_in_use(t, path, 'GPT: partition 1', 'expected inside')
    change_entries(path, 0, 32, struct.pack('<QQ', 4096, 40 * 2048))
    in_use(t, path, 'overlaps', partition=1)
    in_use(t, path, 'overlaps', partition=2)
    in_use(t, path, 'overlaps partition 1', partition=3)


@case
def gpt_of_thousands_that_overlap(t):
    """Each would have its first 256 KiB read by every reader: what overlaps is in use, and not looked at."""
    t.need('sfdisk')
    entries = 4096
    path = make_file(t.path('disk.img'), DISK)
    t.run('sfdisk', '-q', path, stdin=b'label: gpt\ntable-length: %d\n' % entries)
    table = b''.join(struct.pack('<16s16sQQQ72x', b'type' * 4, i.to_bytes(16, 'little'), 4096 + i, 4096 + 65536, 0)
                     for i in range(entries))
    last = DISK // 512 - 1
    for at in (1, last):
        lba, = struct.unpack_from('<Q', read_file(path), at * 512 + 72)
        patch(path, lba * 512, table)
        fix_header(path, at=at)
    result = bounded.run(t, [fs_free(), path], rc=0, memory=bounded.MEMORY)
    volumes = json.loads(result.out)['volumes']
    t.equal(len(volumes), entries, 'partitions')
    for entry in volumes:
        t.check('overlaps partition' in entry['in-use'], 'in use', entry)
    t.check(result.bytes_read < 8 * MiB, 'read %d bytes' % result.bytes_read)


@case
def gpt_header_fields(t):
    path, partitions = gpt(t)
    pristine = read_file(path)[512:1024]
    patch(path, DISK - 512, bytes(512))
    for name, value, phrase in (
            ('my_lba', 2, 'said to be sector 2'), ('alternate_lba', 1, 'copy is said'),
            ('alternate_lba', 1 << 40, 'copy is said'), ('first_usable', 1 << 20, 'usable sectors'),
            ('last_usable', DISK // 512, 'usable sectors'), ('first_usable', 20, 'place of their own'),
            ('entries_lba', 1, 'place of their own'), ('entries_lba', 2048, 'place of their own'),
            ('entries_lba', (1 << 64) - 1, 'place of their own'), ('entries', 0, '0 entries'),
            ('entries', 1 << 31, 'entries of'), ('entry_size', 129, 'entries of'), ('entry_size', 64, 'entries of'),
            ('entry_size', 1 << 30, 'entries of'), ('header_size', 91, 'header of'), ('header_size', 513, 'header of'),
            ('revision', 0x20000, 'revision')):
        fix_header(path, **{name: value})
        disk_in_use(t, path, phrase)
        patch(path, 512, pristine)
    usable(t, path, 1)


@case
def gpt_without_protection(t):
    path, partitions = gpt(t)
    patch(path, 446, bytes(64))
    disk_in_use(t, path, 'no MBR that protects')
    patch(path, 446 + 4, b'\x83')
    patch(path, 446 + 8, struct.pack('<II', 2048, 2048))
    disk_in_use(t, path, 'no MBR that protects')


@case
def gpt_hybrid(t):
    path, partitions = gpt(t)
    patch(path, 446 + 16 + 4, b'\x83')
    patch(path, 446 + 16 + 8, struct.pack('<II', 2048, 2048))
    disk_in_use(t, path, 'hybrid')


def gpt_owned(t, kind, phrase):
    path, partitions = partitioned(t, GPT.replace('type=linux', 'type=' + kind, 1))
    in_use(t, path, phrase, partition=2)
    usable(t, path, 1)


for kind, phrase in (('AF9B60A0-1431-4F62-BC68-3311714A69AD', 'LDM'), ('E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D', 'Storage'),
                     ('E3C9E316-0B5C-4DB8-817D-F92DF00215AE', 'reserved'), ('21686148-6449-6E6F-744E-656564454649', 'BIOS'),
                     ('A19D880F-05FC-4D3B-A006-743F0F84911E', 'RAID'), ('E6D6D379-F507-44C2-A23C-238F2A3DF928', 'LVM'),
                     ('AA31E02A-400F-11DB-9590-000C2911D1B8', 'VMFS'), ('9D275380-40AD-11DB-BF97-000C2911D1B8', 'dumps'),
                     ('9198EFFC-31C0-11DB-8F78-000C2911D1B8', 'VMware'), ('83BD6B9D-7F41-11DC-BE0B-001560B84F0F', 'FreeBSD'),
                     ('53746F72-6167-11AA-AA11-00306543ECAC', 'CoreStorage'),
                     ('9E1A2D38-C612-4316-AA26-8B49521E5A8B', 'PReP'), ('FE3A2A5D-4F32-41A7-B725-ACCC3285A309', 'ChromeOS'),
                     ('45B0969E-9B03-4F30-B4C6-B4B80CEFF106', 'Ceph'), ('D3BFE2DE-3DAF-11DF-BA40-E3A556D89593', 'hibernated'),
                     ('516E7CB5-6ECF-11D6-8FF8-00022D09712B', 'FreeBSD')):
    add('gpt-type-%s' % kind[:8].lower(), gpt_owned, kind, phrase)


def table_flips(t, script, places):
    """No damage to a table frees what the sound disk has in use."""
    path, partitions = partitioned(t, script)
    sound = report(t, path)['free']
    generator = random.Random(SEED)
    data = read_file(path)
    for i in range(FLIPS):
        start, length = generator.choice(places)
        at = start + generator.randrange(length)
        mask = 1 << generator.randrange(8)
        patch(path, at, bytes([data[at] ^ mask]))
        found = report(t, path)
        t.check(is_subset(found['free'], sound), 'seed %d: byte %d ^ 0x%02x frees more' % (SEED, at, mask), found)
        patch(path, at, data[at:at + 1])


add('gpt-flips', table_flips, GPT, [(446, 66), (512, 92), (1024, 384), (DISK - 512, 92), (DISK - 33 * 512, 384)])


# Volumes ------------------------------------------------------------------------------------------------


def ext(t, path, size):
    need_ext(t)
    make_file(path, size)
    t.run('mke2fs', '-q', '-F', '-t', 'ext4', path)
    return path


@case
def two_file_systems(t):
    path = ext(t, t.path('disk.img'), DISK)
    usable(t, path)
    patch(path, 4096 - 10, b'SWAPSPACE2')
    entry = in_use(t, path, 'ext4', 'swap')
    t.equal(entry['type'], 'unknown', 'type')


def swap_over_a_file_system(t, script):
    """What swaps there without a header, as encrypted swap does, leaves the marks of what was there before."""
    path, partitions = partitioned(t, script)
    usable(t, path, 1)
    _, offset, size = partitions[0]
    old = read_file(ext(t, t.path('old.img'), size))
    patch(path, offset, old)
    in_use(t, path, 'gives it to swap', partition=1)
    # The same beside it is a file system.
    number, offset, _ = partitions[1]
    patch(path, offset, old)
    usable(t, path, number)


add('mbr-swap-over-a-file-system', swap_over_a_file_system, PRIMARY)
add('gpt-swap-over-a-file-system', swap_over_a_file_system, GPT)


def member(t, name, offset, magic):
    """A file system that something else has a claim on."""
    path = ext(t, t.path('disk.img'), DISK)
    usable(t, path)
    patch(path, offset, magic)
    in_use(t, path, name, 'ext4')


RAID = b'\xfc\x4e\x2b\xa9\1\0\0\0'
for name, kind, offset, magic in (
        ('mdraid-1.0', 'mdraid', DISK - 8192, RAID), ('mdraid-0.90', 'mdraid', DISK - 65536, RAID),
        ('drbd', 'DRBD', DISK - 4096 + 60, b'\x83\x74\x02\x6d'),
        ('imsm', 'IMSM', DISK - 1024, b'Intel Raid ISM Cfg Sig. 1.3'), ('ddf', 'DDF', DISK - 512, b'\xde\x11\xde\x11'),
        ('luks', 'LUKS', 0, b'LUKS\xba\xbe'), ('bitlocker', 'BitLocker', 3, b'-FVE-FS-')):
    add('member-' + name, member, kind, offset, magic)


def named(t, kind, phrase, *signs):
    path = make_file(t.path('disk.img'), DISK)
    for offset, magic in signs:
        patch(path, offset, magic)
    t.equal(in_use(t, path, phrase)['type'], kind, 'type')


for kind, phrase, sign in (
        ('LUKS', 'encrypted', (0, b'LUKS\xba\xbe\0\2')), ('BitLocker', 'encrypted', (0, b'\xeb\x58\x90-FVE-FS-')),
        ('mdraid', 'another layer', (4096, RAID)), ('ZFS', 'another layer', (131072 + 1024, b'\x0c\xb1\xba\0\0\0\0\0')),
        ('VDO', 'another layer', (0, b'dmvdo001')), ('integrity', 'another layer', (0, b'integrt\0')),
        ('LVM1', 'another layer', (0, b'HM\1\0')), ('BlueStore', 'another layer', (0, b'bluestore block device\n')),
        ('ASM', 'another layer', (32, b'ORCLDISK')), ('VMFS', 'another layer', (MiB, b'\x0d\xd0\x01\xc0')),
        ('ReFS', 'not read', (0, b'\0\0\0ReFS\0\0\0\0')), ('ISO 9660', 'not read', (32769, b'CD001')),
        ('BeFS', 'not read', (544, b'1SFB')), ('EROFS', 'not read', (1024, b'\xe2\xe1\xf5\xe0')),
        ('NSS', 'not read', (4096, b'SPB5')), ('QNX6', 'not read', (8192, b'\x22\x11\x19\x68')),
        ('VxFS', 'not read', (8192, b'\xa5\x01\xfc\xf5')), ('Reiser4', 'not read', (65536, b'ReIsEr4')),
        ('ReiserFS', 'not read', (8192 + 52, b'ReIsErFs'))):
    add('named-' + kind.split()[0].lower(), named, kind, phrase, sign)


@case
def behind_the_marks_of_another(t):
    """What begins behind the first blocks, or far inside, leaves those of the file system that was there."""
    t.need('mkfs.btrfs', 'mkfs.xfs')
    for make, size, kind, offset, magic in (
            ('mkfs.btrfs', 128 * MiB, 'bcachefs', 4096 + 24,
             bytes.fromhex('c68573f666ce90a9d96a60cf803df7ef')),
            ('mkfs.xfs', 512 * MiB, 'VMFS', MiB, b'\x0d\xd0\x01\xc0'),
            ('mkfs.xfs', 512 * MiB, 'BeFS', 544, b'1SFB')):
        path = make_file(t.path('disk.img'), size)
        t.run(make, '-q', '-f', path)
        usable(t, path)
        patch(path, offset, magic)
        in_use(t, path, 'marks of', kind)


# A system that will come back --------------------------------------------------------------------------


@case
def hibernated_beside(t):
    """Its other swap space has what it swapped out, with the usual header; and a mounted btrfs looks like any other."""
    for page in (4096, 65536):
        path, partitions = partitioned(t, PRIMARY)
        usable(t, path, 1)
        offset, size = partitions[2][1:]
        patch(path, offset, swap_header(size, page=page, signature=b'S1SUSPEND'))
        t.equal(report(t, path)['free'], [], 'free')
        in_use(t, path, 'it holds a hibernated system', partition=3)
        for number in (1, 2):
            in_use(t, path, 'a hibernated system is on the disk', partition=number)
    # Also where the volume is not looked into.
    patch(path, entry(path, 2)[0] + 4, b'\xfd')
    in_use(t, path, 'RAID', partition=3)
    in_use(t, path, 'a hibernated system is on the disk', partition=1)


@case
def mounted_beside(t):
    """A file system tells that its system may come back, as one that was saved: swap space and btrfs would not."""
    t.need('mkfs.btrfs')
    need_ext(t)
    path, partitions = partitioned(t, 'label: dos\nsize=8M,type=82\nsize=20M,type=83\nsize=40M,type=83\nsize=20M,type=83\n',
                                   100 * MiB)
    for (_, offset, size), command in zip(partitions[1:], (('mke2fs', '-q', '-F', '-t', 'ext4'), ('mkfs.btrfs', '-q', '--mixed'),
                                                           ('mke2fs', '-q', '-F', '-t', 'ext4'))):
        part = make_file(t.path('part.img'), size)
        t.run(*command, part)
        patch(path, offset, read_file(part))
        os.unlink(part)
    found = report(t, path)
    t.equal([v['in-use'] for v in found['volumes']], [None] * 4, 'in use')
    offset, size = partitions[1][1:]
    script = t.path('script')
    for command, reason in (('feature needs_recovery', 'needs recovery'), ('ssv state 0', 'not unmounted'),
                            ('ssv state 3', 'errors')):
        part = t.path('part.img')
        with open(script, 'w') as f:
            f.write('feature -needs_recovery\n%s\n' % command)
        with open(part, 'wb') as f:
            f.write(read_file(path)[offset:offset + size])
        t.run('debugfs', '-w', '-f', script, part)
        patch(path, offset, read_file(part))
        in_use(t, path, reason, partition=2)
        usable(t, path, 4)
        for number in (1, 3):
            if reason == 'errors':
                usable(t, path, number)
            else:
                in_use(t, path, 'ext4 on the disk was not unmounted', partition=number)
        free = report(t, path)['free']
        if reason != 'errors':
            t.check(free and free[0][0] >= partitions[3][1], 'free ranges in front of the last partition', free[:1])


@case
def small_disks(t):
    for size in (512, 1024, 1536, 4096, 4608, 65536, 262144 + 512):
        path = make_file(t.path('disk.img'), size)
        entry = in_use(t, path, 'no file system')
        t.equal(entry['bytes'], size, 'bytes')
        patch(path, 446 + 4, b'\xee')
        patch(path, 446 + 8, struct.pack('<II', 1, 0xffffffff))
        patch(path, 510, b'\x55\xaa')
        disk_in_use(t, path, 'GPT')


@case
def cancelled(t):
    path, partitions = gpt(t)
    for n in (0, 1, 5, 10):
        result = report(t, path, '-c', n, rc=1)
        t.check('cancelled' in result.err and result.out == '', 'a cancelled search', result)
    report(t, path, '-c', 1000)


main()
