# SPDX-License-Identifier: LGPL-2.1-or-later
"""What belongs to the virtual disk and not to the file, in a merge: the target is the disk that the source was."""

import struct
import uuid

import vhdxchains
import vhdxread
import views
from harness import MiB, case, main
from vhdxformat import CHS, DISK_ID, KiB, LOCATOR, METADATA, PARAMETERS, PHYSICAL
from vhdxmake import Maker

SIZE = 4 * MiB + 512
OF_FILE, OF_USER, OF_DISK, OF_DISK_AND_USER = 0, 1, 2, 3
NAMES = [uuid.UUID(int=0x1234 << 96 | i) for i in range(1, 9)]


def write(t, name, parent=None, disk_id=None, physical=4096, items=(), writes=()):
    """An image with these items beside those of the format."""
    path, below = t.path(name), parent and views.Content(0).lay([(0, b'\1' * MiB)], SIZE)
    maker = Maker(path, SIZE, writes, kind='differencing' if parent else 'dynamic', below=below,
                  parent_path=parent, parent_guid=parent and vhdxread.Image(parent).data_write_guid, disk_id=disk_id)
    vhdx = maker.prepare()
    vhdx.items = [(guid, struct.pack('<I', physical) if guid == PHYSICAL else content, flags)
                  for guid, content, flags in vhdx.items] + list(items)
    vhdx.write(path)
    return path, maker.view()


def pair(t, of_parent, of_child):
    """Base and child, written; the child's view."""
    base, _ = write(t, 'base.vhdx', writes=[(0, b'\1' * MiB)], **of_parent)
    child, view = write(t, 'child.vhdx', base, writes=[(512, b'\2' * 65536), (3 * MiB, b'\3' * 512)], **of_child)
    return base, child, view


def merged(t, base, child, view):
    """What the commit says; the target is sound and shows what the child did."""
    result = t.img('commit', '-q', '-d', child)
    image = vhdxread.open_chain(base)
    views.same(t, image, view, 'the target')
    image.close()
    layer = vhdxchains.Layer(base, 'dynamic', view, None, ours=False)
    vhdxchains.sound(t, layer)
    return result


def own_items(path):
    """{(name, of a user): (flags of use, content)} of all but the format's own items."""
    image = vhdxread.Image(path)
    return {(item.guid, item.flags & 1): (item.flags, image.content[item.guid, item.flags & 1])
            for item in image.items if item.guid in NAMES or item.guid == CHS}


@case
def all_of_the_disk_is_taken_over(t):
    old, new = uuid.uuid4(), uuid.uuid4()
    base, child, view = pair(
        t,
        dict(disk_id=old, physical=4096,
             items=[(NAMES[0], b'of the old disk', OF_DISK), (NAMES[1], b'old', OF_DISK_AND_USER),
                    (NAMES[2], b'same', OF_DISK), (NAMES[3], b'of the file', OF_FILE),
                    (NAMES[4], b'of a user, for the file', OF_USER), (NAMES[5], b'', OF_DISK),
                    (NAMES[1], b'another of that name', OF_FILE)]),
        dict(disk_id=new, physical=512,
             items=[(NAMES[1], b'new and longer', OF_DISK_AND_USER), (NAMES[2], b'same', OF_DISK),
                    (CHS, struct.pack('<II', 16, 63), OF_DISK), (NAMES[6], b'', OF_DISK),
                    (NAMES[7], b'of the file', OF_FILE), (NAMES[0], b'of a user', OF_USER)]))
    result = merged(t, base, child, view)
    t.equal(result.err, '', 'nothing to warn of')
    image = vhdxread.Image(base)
    t.equal((image.disk_id, image.physical), (new, 512), 'ID and physical sectors')
    t.equal(own_items(base),
            {(NAMES[1], 1): (OF_DISK_AND_USER, b'new and longer'), (NAMES[2], 0): (OF_DISK, b'same'),
             (NAMES[3], 0): (OF_FILE, b'of the file'), (NAMES[4], 1): (OF_USER, b'of a user, for the file'),
             (NAMES[1], 0): (OF_FILE, b'another of that name'), (CHS, 0): (OF_DISK, struct.pack('<II', 16, 63)),
             (NAMES[6], 0): (OF_DISK, b'')}, 'items')
    t.check((LOCATOR, 0) not in image.content and (PARAMETERS, 0) in image.content, 'items of the file')


@case
def of_the_topmost_of_several_layers(t):
    base, child, _ = pair(t, dict(items=[(NAMES[0], b'base', OF_DISK)]), dict(items=[(NAMES[0], b'child', OF_DISK)]))
    top, name = t.path('top.vhdx'), uuid.uuid4()
    t.img('create', '-q', '-f', 'vhdx', '-b', child, '-F', 'vhdx', top, SIZE)
    t.equal(own_items(top), {(NAMES[0], 0): (OF_DISK, b'child')}, 'a new child takes the item over')
    with open(top, 'r+b') as f:
        image = vhdxread.Image(top)
        entry = next(item for item in image.items if item.guid == DISK_ID)
        f.seek(image.metadata_region.offset + entry.offset)
        f.write(name.bytes_le)
    t.img('commit', '-q', '-d', '-b', base, top)
    t.equal((vhdxread.Image(base).disk_id, own_items(base)), (name, {(NAMES[0], 0): (OF_DISK, b'child')}), 'the target')


@case
def what_is_the_same_is_not_written(t):
    items = [(NAMES[1], b'of a user', OF_DISK_AND_USER), (CHS, struct.pack('<II', 16, 63), OF_DISK)]
    name = uuid.uuid4()
    base, child, view = pair(t, dict(disk_id=name, items=items), dict(disk_id=name, items=items[::-1]))

    def region():
        image = vhdxread.Image(base)
        found = next(region for region in image.regions if region.guid == METADATA)
        return image.file.read(found.offset, found.length)
    before = region()
    merged(t, base, child, view)
    t.equal(region(), before, 'metadata region')


@case
def no_room_is_a_warning(t):
    """The target's region has less than a MiB for all items."""
    new = uuid.uuid4()
    maker = [(NAMES[i], bytes([i]) * (250 * KiB), OF_DISK) for i in range(3)]
    base, child, view = pair(t, dict(items=[(NAMES[4], b'x' * (400 * KiB), OF_FILE), (NAMES[0], b'old', OF_DISK)]),
                             dict(disk_id=new, physical=512, items=maker))
    result = t.img('commit', '-d', child)
    t.check('is not taken over' in result.err and 'no room' in result.err, 'a warning', result)
    image = vhdxread.Image(base)
    t.equal((image.disk_id, image.physical), (new, 512), 'what has its place')
    t.equal(own_items(base)[NAMES[0], 0], (OF_DISK, b'old'), 'the rest stays as it was')
    views.same(t, vhdxread.open_chain(base), view, 'the target')


@case
def room_of_old_items_is_used(t):
    """What goes makes room for what comes, in the same transaction."""
    base, child, view = pair(t, dict(items=[(NAMES[i], bytes([i + 1]) * (300 * KiB), OF_DISK) for i in range(3)]),
                             dict(items=[(NAMES[0], b'\7' * (200 * KiB), OF_DISK)]))
    t.equal(merged(t, base, child, view).err, '', 'nothing to warn of')
    t.equal(own_items(base), {(NAMES[0], 0): (OF_DISK, b'\7' * (200 * KiB))}, 'items')


@case
def more_than_the_log_takes_is_a_warning(t):
    """One entry may have half of the log, here of one MiB."""
    base, child, view = pair(t, {}, dict(items=[(NAMES[0], b'\7' * (700 * KiB), OF_DISK)]))
    result = t.img('commit', '-d', child)
    t.check('is not taken over' in result.err and 'the log' in result.err, 'a warning', result)
    t.equal(own_items(base), {}, 'items')
    views.same(t, vhdxread.open_chain(base), view, 'the target')


@case
def an_item_of_the_file_stays(t):
    base, child, view = pair(t, dict(items=[(NAMES[0], b'of the file', OF_FILE)]),
                             dict(items=[(NAMES[0], b'of the disk', OF_DISK), (NAMES[1], b'too', OF_DISK)]))
    result = t.img('commit', '-d', child)
    t.check(str(NAMES[0]) in result.err, 'a warning names it', result)
    t.equal(own_items(base), {(NAMES[0], 0): (OF_FILE, b'of the file'), (NAMES[1], 0): (OF_DISK, b'too')}, 'items')
    views.same(t, vhdxread.open_chain(base), view, 'the target')


main()
