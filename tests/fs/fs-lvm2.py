# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical volumes of LVM2: extents of no logical volume, and the file systems in those of one piece.

VHDKIT_FLIPS: damaged volumes (60).  VHDKIT_SEED.
"""

import itertools
import os
import random
import resource
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lvm2disk  # noqa: E402
from fsharness import (KiB, MiB, add, case, in_use, join, main, make_file, patch, report, swap_header, usable)  # noqa: E402
from lvm2disk import EXTENT, MDA, START, group, logical, make  # noqa: E402

EXTENTS = 40
SIZE = START + EXTENTS * EXTENT + MiB
SECOND = SIZE - MiB, MiB


def place(extent, count):
    return [START + extent * EXTENT, count * EXTENT]


def with_swap(path, *runs):
    for first, count in runs:
        patch(path, START + first * EXTENT, swap_header(count * EXTENT))
    return path


SWAPS = ((2, 4), (10, 8))
VOLUMES = [logical('swap%d' % i, run) for i, run in enumerate(SWAPS)]
FREE = join([place(0, 2), [START + 2 * EXTENT + 4096, 4 * EXTENT - 4096], place(6, 4),
             [START + 10 * EXTENT + 4096, 8 * EXTENT - 4096], place(18, 22)])


def usual(t, text=None, **what):
    return with_swap(make(t.path('pv.img'), SIZE, group(EXTENTS, *VOLUMES) if text is None else text, **what), *SWAPS)


@case
def free_extents_and_volumes(t):
    for sector in range(4):
        found = report(t, usual(t, sector=sector))
        t.equal(found['free'], FREE, 'free')
        t.equal([(v['type'], v['inside'], v['in-use'], v['offset']) for v in found['volumes']],
                [('LVM2', None, None, 0), ('swap', 'vg/swap0', None, START + 2 * EXTENT),
                 ('swap', 'vg/swap1', None, START + 10 * EXTENT)], 'volumes')
        t.equal(found['volumes'][0]['free-bytes'], 28 * EXTENT, 'free bytes of no logical volume')
        t.equal(found['volumes'][0]['label'], 'vg', 'label')


@case
def text_that_goes_around(t):
    for before_end in (1, 100, 512, 700):
        t.equal(report(t, usual(t, at=MDA[1] - before_end))['free'], FREE, 'free, %d bytes before the end' % before_end)


@case
def two_copies(t):
    text = group(EXTENTS, *VOLUMES)
    t.equal(report(t, usual(t, text, areas=(MDA, SECOND)))['free'], FREE, 'free')
    in_use(t, usual(t, text, areas=(MDA, SECOND), texts=[text.replace('seqno = 5', 'seqno = 4')]), 'differ')
    in_use(t, usual(t, text, areas=(MDA, SECOND), texts=[text + ' ']), 'differ')


@case
def no_logical_volumes(t):
    t.equal(report(t, make(t.path('pv.img'), SIZE, group(EXTENTS)))['free'], [place(0, EXTENTS)], 'free')


@case
def volumes_that_are_in_use(t):
    """In two pieces, in no usual state, or of an unknown content: theirs stays, the rest goes."""
    path = with_swap(make(t.path('pv.img'), SIZE, group(
        EXTENTS, logical('pieces', (0, 4), (8, 4)), logical('locked', (4, 4), status='"READ", "LOCKED"'),
        logical('flagged', (12, 4), flags='flags = ["ERROR_WHEN_FULL"]\n'), logical('unknown', (16, 4)),
        logical('joined', (20, 2), (22, 2)))), (0, 4), (4, 4), (12, 4), (20, 4))
    found = report(t, path)
    t.equal(found['free'], join([[START + 20 * EXTENT + 4096, 4 * EXTENT - 4096], place(24, 16)]), 'free')
    t.equal([(v['inside'], v['in-use'] is None) for v in found['volumes']],
            [(None, True), ('vg/unknown', False), ('vg/joined', True)], 'volumes')


@case
def in_a_volume(t):
    """A physical volume inside of a logical one: nothing says that the marks are those of who has it."""
    for inside in (group(4), group(4, logical('deep', (0, 2)))):
        inner = make(t.path('inner.img'), 8 * EXTENT, inside)
        path = make(t.path('pv.img'), SIZE, group(EXTENTS, logical('lv', (4, 8))))
        with open(inner, 'rb') as f:
            patch(path, START + 4 * EXTENT, f.read())
        found = report(t, path)
        t.equal(found['free'], [place(0, 4), place(12, 28)], 'free')
        t.check('marks of LVM2' in found['volumes'][1]['in-use'], 'reason', found)


def refused(t, text, *phrases):
    in_use(t, usual(t, text), *phrases)


for name, text, phrases in (
        ('snapshot', group(EXTENTS, logical('s', (0, 2), kind='snapshot')), ['snapshot', 'linear']),
        ('thin-pool', group(EXTENTS, *VOLUMES, logical('p', (30, 2), kind='thin-pool')), ['thin-pool']),
        ('mirror', group(EXTENTS, logical('m', (30, 2), kind='mirror')), ['mirror']),
        ('another-physical-volume', group(EXTENTS, logical('m', (30, 2), pv='pv1')), ['not there']),
        ('two-physical-volumes', group(EXTENTS, *VOLUMES, pvs=2), ['2 physical volumes']),
        ('exported', group(EXTENTS, *VOLUMES, status='"EXPORTED", "READ"'), ['state']),
        ('missing', group(EXTENTS, *VOLUMES, pv_status='"ALLOCATABLE", "MISSING"'), ['no usual state']),
        ('another-uuid', group(EXTENTS, *VOLUMES, uuid='z' * 32), ['another']),
        ('too-many-extents', group(EXTENTS + 2, *VOLUMES), ['not inside']),
        ('many-extents', group(10**17, *VOLUMES), ['not inside']),
        ('extents-over-the-text', group(EXTENTS, *VOLUMES, start=8192), ['not inside']),
        ('extent-size', group(EXTENTS, *VOLUMES, extent=0), ['not inside']),
        ('extents-that-overlap', group(EXTENTS, logical('a', (0, 4)), logical('b', (3, 4))), ['two logical volumes']),
        ('segment-past-the-end', group(EXTENTS, logical('a', (38, 4))), ['not there']),
        ('segment-of-nothing', group(EXTENTS, logical('a', (3, 0))), ['not there']),
        ('segments-that-are-not-there', group(EXTENTS, logical('a', (3, 1))).replace('segment_count = 1', 'segment_count = 2'),
         ['segments']),
        ('segments-too-many', group(EXTENTS, logical('a', (3, 1), (9, 1))).replace('segment_count = 2', 'segment_count = 1'),
         ['segments']),
        ('section-that-is-not-known', group(EXTENTS, *VOLUMES, more='historical_logical_volumes {\n}\n'), ['historical']),
        ('two-groups', group(EXTENTS, *VOLUMES) + 'other {\n}\n', ['two volume groups']),
        ('version', group(EXTENTS).replace('version = 1', 'version = 2'), ['not of a volume group']),
        ('name-twice', group(EXTENTS, *VOLUMES, more='seqno = 6\n'), ['second time']),
        ('no-end', group(EXTENTS, *VOLUMES)[:-200], ['metadata']),
        ('deep', 'a {' * 100, ['deep']),
        ('long-number', group(EXTENTS).replace('seqno = 5', 'seqno = ' + '9' * 40), ['too large']),
        ('open-string', 'a = "b', ['string']),
        ('open-escape', 'a = "b\\', ['string']),
        ('arrays-in-arrays', 'a = [[1]]', ['neither']),
        ('fraction', 'a = 1.5', ['neither']),
        ('long-name', 'a' * 128 + ' = 1', ['too long']),
        ('empty', '', ['not of a volume group']),
        ('zeros', 'a\0b', ['expected'])):
    add('refused-' + name, refused, text, *phrases)


@case
def many_nodes(t):
    in_use(t, usual(t, group(EXTENTS, more='x = [%s]\n' % ','.join(['1'] * 200000))), 'too much')


def work(t, text, *phrases, extents=EXTENTS, extent=EXTENT):
    """Seconds of the processor that a text took."""
    path = make(t.path('pv.img'), LARGE_START + max(SIZE, extents * extent), text, areas=((4096, LARGE_START - 4096),))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    if phrases:
        in_use(t, path, *phrases)
    else:
        usable(t, path)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


LARGE_START = 8 * MiB


@case
def texts_that_cost_much(t):
    """What would take the square of their names takes a few times what as many harmless ones do."""
    count, small = 65536, 512
    words = [''.join(pair) for pair in itertools.product(('Ez', 'FY'), repeat=16)]
    names = ''.join('a%031d=1\n' % i for i in range(count))
    harmless = max(work(t, group(EXTENTS, more=names, start=LARGE_START)), 0.1)
    # GLib has the same hash for all of them.
    same = work(t, group(EXTENTS, more=''.join('%s=1\n' % word for word in words), start=LARGE_START))
    t.check(same < 5 * harmless, 'names of one hash: %.2f s, others %.2f s' % (same, harmless))
    # Segments are looked up by name, and come after all else that their volume has.
    many = logical('many', *((i, 1) for i in range(8000)), flags='')
    many = many.replace('id = "x"\n', names[:36000 * 35])
    looked_up = work(t, group(8000, many, start=LARGE_START, extent=small), extents=8000, extent=small)
    t.check(looked_up < 5 * harmless, 'segments: %.2f s, names %.2f s' % (looked_up, harmless))


@case
def texts_for_people(t):
    """What a report says of them can be shown, however strange they are."""
    odd = '\xff\x1b[2J' + 'z' * 5000
    path = usual(t, group(EXTENTS, logical('s', (0, 2), kind='KIND')).replace('KIND', odd), encoding='latin-1')
    reason = in_use(t, path, 'linear')['in-use']
    t.check(len(reason) < 200 and '\x1b' not in reason, 'reason', reason)
    path = usual(t)
    patch(path, 512 + 32, b'\xff\x1b[2J')
    lvm2disk.seal(path, 512 + 16, 512 + 20, 512 - 20)
    found = in_use(t, path, 'another one')
    t.check('[2J' in found['uuid'] and '\x1b' not in found['uuid'], 'UUID', found)


@case
def label_and_areas(t):
    text = group(EXTENTS, *VOLUMES)
    path = usual(t, text)
    patch(path, 512 + 20 + 100, b'\1')
    in_use(t, path, 'label checksum')
    in_use(t, usual(t, text, bytes=SIZE + 512), 'its place')
    in_use(t, usual(t, text, areas=()), 'expected one area')
    in_use(t, usual(t, text, areas=(MDA, (2 * MiB, 64 * KiB), SECOND)), 'expected one area')
    in_use(t, usual(t, text, areas=(MDA, (START + EXTENT, EXTENT))), 'not inside')
    in_use(t, usual(t, text, flags=1), 'ignored')
    in_use(t, usual(t, text, prepared=512), 'being changed')
    in_use(t, usual(t, text, version=2), 'header of the metadata area')
    in_use(t, usual(t, text, magic=b' LVM2 x[5A%r0N*<'), 'header of the metadata area')
    path = usual(t, text)
    patch(path, MDA[0] + 512 + 30, b'!')
    in_use(t, path, 'metadata checksum')
    for offset, length in ((0, 50), (511, 50), (MDA[1], 50), (512, 0), (512, MDA[1]), (512, 1 << 63), (1 << 63, 8)):
        path = usual(t, text)
        patch(path, MDA[0] + 40, offset.to_bytes(8, 'little') + length.to_bytes(8, 'little'))
        lvm2disk.seal(path, MDA[0], MDA[0] + 4, 508)
        in_use(t, path, 'metadata')


@case
def damaged_anywhere(t):
    """Sums are right again after each flip: nothing but what the text says is left to find it out."""
    rng = random.Random(int(os.environ.get('VHDKIT_SEED', '1')))
    text = group(EXTENTS, *VOLUMES)
    for i in range(int(os.environ.get('VHDKIT_FLIPS', '60'))):
        data = bytearray(text, 'ascii')
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(b'0123456789{}[]"=,#\\ az\n')
        for entry in report(t, usual(t, data.decode()))['free']:
            t.check(START <= entry[0] and entry[0] + entry[1] <= START + EXTENTS * EXTENT, 'free', entry, data)


NESTED = b'label: dos\nstart=1MiB, type=7\n'


@case
def table_inside(t):
    """A volume that was swap, and is the disk of a virtual machine now: a partition table wipes none of the old marks."""
    t.need('sfdisk')
    path = usual(t)
    swap = t.path('swap.img')
    make_file(swap, 8 * EXTENT)
    patch(swap, 0, swap_header(8 * EXTENT))
    for label in (NESTED, NESTED.replace(b'dos', b'gpt').replace(b'type=7', b'type=L')):
        t.run('sfdisk', '-q', '--wipe', 'never', swap, stdin=label)
        with open(swap, 'rb') as f:
            patch(path, START + 10 * EXTENT, f.read())
        t.equal([v['in-use'] for v in report(t, path)['volumes']], [None, None, 'there is a partition table in it'], label)
    # The same in a partition.
    disk = make_file(t.path('disk.img'), 8 * EXTENT + 2 * MiB)
    t.run('sfdisk', '-q', disk, stdin=b'label: dos\nstart=1MiB, size=%d, type=83\n' % (8 * EXTENT // 512))
    with open(swap, 'rb') as f:
        patch(disk, MiB, f.read())
    in_use(t, disk, 'partition table', partition=1)


@case
def somebody_else_has_the_space(t):
    """Marks of LVM stay where a disk is used by something that leaves its first KiB alone, or writes there alone."""
    path = usual(t)
    patch(path, 0, b'ORCLDISK')
    in_use(t, path, 'beside its label')
    path = usual(t)
    patch(path, 3 * 512 + 511, b'\1')
    in_use(t, path, 'beside its label')
    for offset, magic in ((65536 + 1372, b'\x19\x01\x54\x19'), (65536, b'\x01\x16\x19\x70')):
        path = usual(t)
        patch(path, offset, magic)
        in_use(t, path, 'marks of')


@case
def in_a_partition(t):
    """A partition type of LVM goes with a physical volume, and with nothing else."""
    t.need('sfdisk')
    disk = make_file(t.path('disk.img'), SIZE + 4 * MiB)
    for label, kind in (('dos', '8e'), ('gpt', 'E6D6D379-F507-44C2-A23C-238F2A3DF928')):
        t.run('sfdisk', '-q', disk, stdin=('label: %s\nstart=1MiB, size=%dKiB, type=%s\n' % (label, SIZE // KiB, kind)).encode())
        with open(usual(t), 'rb') as f:
            patch(disk, MiB, f.read())
        usable(t, disk, 1)
        t.equal(report(t, disk)['free'], [[offset + MiB, length] for offset, length in FREE], 'free')
        if label == 'dos':
            t.run('sfdisk', '-q', '--part-type', disk, '1', '83')
            in_use(t, disk, 'partition type is another', partition=1)
            t.run('sfdisk', '-q', '--part-type', disk, '1', '8e')
        patch(disk, MiB, bytes(8192) + b'')
        patch(disk, MiB, swap_header(SIZE))
        in_use(t, disk, 'its partition type gives it to LVM2', partition=1)


main()
