# SPDX-License-Identifier: LGPL-2.1-or-later
"""check -r of VHDX images: what is put right, what is left alone, and that the disk shows the same before and after."""

import uuid

import vhdxcheck
from harness import Unchanged, case, main
from vhdxfile import MiB, Vhdx, log_entry
from vhdxread import Image

G = uuid.uuid4()
BLOCK = bytes(range(256)) * 4096


def image(t, **members):
    v = Vhdx()
    v.file_size = 6 * MiB
    v.bat = {0: (4 * MiB | 6, BLOCK)}
    for key, value in members.items():
        setattr(v, key, value)
    return v.write(t.path('x.vhdx'))


def content(t, path):
    t.img('convert', '-q', '-O', 'raw', path, t.path('content.raw'))
    with open(t.path('content.raw'), 'rb') as f:
        return f.read()


def is_sound(t, path):
    t.img('check', '-q', path)
    findings = [f for f in vhdxcheck.check(path) if f.severity in ('error', 'leak') or 'header' in f.text.lower()]
    t.check(not findings, 'after the repair', *[str(f) for f in findings])


@case
def a_log_without_an_entry_is_taken_for_empty(t):
    path = image(t, log_guid=G)
    unchanged = Unchanged(path)
    for command in (['check', path], ['check', '-r', 'all', path], ['check', '-r', 'leaks', path]):
        t.img(*command, rc=2)
    t.check('check -r log' in t.img('info', path, rc=1).err, 'the refusal does not name the repair')
    unchanged.verify(t, 'without -r log')
    report = t.img('check', '-r', 'log', '--output=json', path).json
    t.equal((report.get('corruptions-fixed'), report.get('corruptions')), (1, None), 'counts')
    is_sound(t, path)
    t.check(content(t, path)[:MiB] == BLOCK, 'block 0')


@case
def a_first_entry_that_was_never_whole_counts_as_none(t):
    """What QEMU leaves when it is killed behind the header that names the log."""
    entry = bytearray(log_entry(G, 1, [(3 * MiB, bytes(4096))], 0, 6 * MiB, 6 * MiB))
    entry[4096:] = bytes(4096)
    path = image(t, log_guid=G, log=bytes(entry))
    unchanged = Unchanged(path)
    t.check('check -r log' in t.img('info', path, rc=1).err, 'the refusal does not name the repair')
    unchanged.verify(t, 'without -r log')
    t.img('check', '-r', 'log', path)
    is_sound(t, path)
    t.check(content(t, path)[:MiB] == BLOCK, 'block 0')


@case
def an_unfinished_entry_behind_another_is_not_the_first(t):
    first = bytearray(log_entry(G, 1, [(3 * MiB, bytes(4096))], 0, 6 * MiB, 6 * MiB))
    second = bytearray(log_entry(G, 2, [(3 * MiB, bytes(4096))], 8192, 6 * MiB, 6 * MiB))
    first[6000] ^= 1
    second[4096:] = bytes(4096)
    path = image(t, log_guid=G, log=bytes(first + second))
    unchanged = Unchanged(path)
    t.img('check', '-r', 'log', path, rc=2)
    unchanged.verify(t, 'a refused repair')


@case
def a_log_with_a_damaged_entry_is_not_empty(t):
    torn = bytearray(log_entry(G, 1, [(3 * MiB, bytes(4096))], 0, 6 * MiB, 6 * MiB))
    torn[6000] ^= 1
    path = image(t, log_guid=G, log=bytes(torn))
    unchanged = Unchanged(path)
    t.img('check', '-r', 'log', path, rc=2)
    t.check('-r log' not in t.img('info', path, rc=1).err, 'the repair is offered')
    unchanged.verify(t, 'a refused repair')


def damage(path, offset):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(b'\xa5' * 32)


@case
def second_copies_are_written_again(t):
    for offset in (64 << 10, 128 << 10, 192 << 10, 256 << 10):
        path = image(t)
        before = content(t, path)
        damage(path, offset)
        report = t.img('check', '-r', 'all', '--output=json', path).json
        repaired = [f['text'] for f in report['findings'] if f.get('repaired')]
        t.equal((len(repaired), report.get('corruptions-fixed')), (1, 1), 'what was repaired')
        t.check('%d' % offset in repaired[0], 'the place', report)
        is_sound(t, path)
        t.check(content(t, path) == before, 'content after the copy at %d was repaired' % offset)


@case
def a_dirty_log_is_replayed(t):
    page = (4 * MiB | 6).to_bytes(8, 'little') + bytes(4088)
    path = image(t, bat={}, log_guid=G, log=log_entry(G, 5, [(3 * MiB, page)], 0, 6 * MiB, 6 * MiB))
    before = content(t, path)
    identity = Image(path).header.data_write_guid
    result = t.img('check', '-r', 'all', path)
    t.check('note (repaired): log at offset' in result.out, 'the replay is not told', result)
    t.check('corruptions-fixed' not in t.img('check', '-r', 'all', '--output=json', path).json, 'repaired twice')
    is_sound(t, path)
    t.check(content(t, path) == before, 'content after replay')
    t.equal(Image(path).header.data_write_guid, identity, 'DataWriteGuid after replay')


@case
def a_clean_image_is_not_touched(t):
    path = image(t, file_size=5 * MiB)
    t.img('check', '-q', '-r', 'all', path)
    unchanged = Unchanged(path)
    t.img('check', '-q', '-r', 'all', path)
    unchanged.verify(t, 'a repair with nothing to repair')


@case
def corruption_is_left_alone(t):
    path = image(t, bat={0: (4 * MiB | 6, None), 3: (4 * MiB | 6, None)})
    unchanged = Unchanged(path)
    t.img('check', '-r', 'all', path, rc=2)
    unchanged.verify(t, 'a repair of an image with two blocks in one place')


@case
def unknown_repairs_are_refused(t):
    path = image(t)
    unchanged = Unchanged(path)
    t.check('none of leaks, all, log' in t.img('check', '-r', 'everything', path, rc=1).err, 'message')
    unchanged.verify(t, 'an unknown repair')


main()
