# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of the VHDX checker that looks at metadata items and the parent locator."""

import re
import struct

from vhdxformat import (DISK_ID, DISK_SIZE, HAS_PARENT, INCOMPLETE, IS_REQUIRED, IS_USER, IS_VIRTUAL_DISK,
                        LEAVE_ALLOCATED, LOCATOR, LOGICAL, MiB, NIL, PARAMETERS, PATH_KEYS, PHYSICAL,
                        TABLE_BYTES, VhdxError)
import vhdxread

FLAGS = {PARAMETERS: IS_REQUIRED, DISK_SIZE: IS_VIRTUAL_DISK | IS_REQUIRED, DISK_ID: IS_VIRTUAL_DISK | IS_REQUIRED,
         LOGICAL: IS_VIRTUAL_DISK | IS_REQUIRED, PHYSICAL: IS_VIRTUAL_DISK | IS_REQUIRED, LOCATOR: IS_REQUIRED,
         INCOMPLETE: IS_REQUIRED}
LINKAGE = re.compile(r'\{[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\}')
KEYS = ('parent_linkage', 'parent_linkage2') + PATH_KEYS


def check_metadata(image, found, closed):
    table = image.file.read(image.metadata_region.offset, TABLE_BYTES)
    if any(table[8:10]) or any(table[12:32]):
        found.error('metadata table: reserved fields')
    if any(table[32 + 32 * len(image.items):]):
        found.warning('metadata table: bytes behind its entries')
    for item in image.items:
        _item(image, item, found)
    users = sum(1 for item in image.items if item.flags & IS_USER)
    if users > 1024 or len(image.items) - users > 1023:
        found.error('%d user and %d system items', users, len(image.items) - users)
    end, last = TABLE_BYTES, 'the table'
    for item in sorted((item for item in image.items if item.length), key=lambda item: item.offset):
        if item.offset < end:
            found.error('item %s at %d overlaps %s', item.guid, item.offset, last)
        end, last = item.offset + item.length, 'item %s' % item.guid
    _parameters(image, found)
    item = image.content.get((LOCATOR, 0))
    if item is None and image.differencing:
        found.error('a parent, and no locator of it')
    elif item is not None and not image.differencing:
        found.warning('a parent locator, and no parent')
    if item is not None:
        _locator(item, found, closed)


def _item(image, item, found):
    if item.guid == NIL:
        found.error('an item without GUID')
    if item.length > MiB or item.length and item.offset + item.length > image.metadata_region.length:
        found.error('item %s: %d bytes at %d', item.guid, item.length, item.offset)
    if not item.length and item.offset:
        found.error('item %s: empty, at %d', item.guid, item.offset)
    if item.flags & ~7 or item.reserved:
        found.error('item %s: reserved bits, flags %#x, %#x', item.guid, item.flags, item.reserved)
    if item.flags & IS_USER and item.flags & IS_REQUIRED:
        found.error('item %s: of a user, and required', item.guid)
    if not item.flags & IS_USER and item.flags & 7 != FLAGS.get(item.guid, item.flags & 7):
        found.warning('item %s: flags %d, expected %d', item.guid, item.flags, FLAGS[item.guid])


def _parameters(image, found):
    if image.flags & ~(LEAVE_ALLOCATED | HAS_PARENT):
        found.error('file parameters: flags %#x', image.flags)
    if image.physical not in (512, 4096):
        found.error('physical sector size %d', image.physical)
    if image.disk_id == NIL:
        found.warning('no disk ID')


def _locator(item, found, closed):
    try:
        pairs = vhdxread.decode_locator(item)
    except VhdxError as e:
        found.error('%s', e)
        return
    count = len(pairs)
    if any(item[16:18]):
        found.warning('parent locator: reserved field')
    if count > 256:
        found.error('parent locator: %d entries', count)
    texts = []
    for i in range(count):
        key_at, value_at, key_bytes, value_bytes = struct.unpack_from('<IIHH', item, 20 + 12 * i)
        if key_at % 2 or value_at % 2:
            found.warning('parent locator: entry %d at odd offsets', i)
        texts += [(key_at, key_at + key_bytes), (value_at, value_at + value_bytes)]
    end = 20 + 12 * count
    for start, stop in sorted(texts):
        if start < end:
            found.error('parent locator: texts overlap at %d', start)
        end = max(end, stop)
    for key, value in pairs:
        if '\0' in key + value:
            found.error('parent locator: NUL in %r', key)
        try:
            (key + value).encode('utf-8')
        except UnicodeEncodeError:
            found.error('parent locator: %r is no UTF-16', key)
        if key not in KEYS:
            found.warning('parent locator: key %r', key)
    _linkages(dict(pairs), found, closed)
    _paths(dict(pairs), found)


def _linkages(locator, found, closed):
    first, second = locator.get('parent_linkage'), locator.get('parent_linkage2')
    if first is None:
        found.error('parent locator: no parent_linkage')
    elif not LINKAGE.fullmatch(first):
        found.error('parent locator: parent_linkage %r', first)
    elif vhdxread.linkage_guid(first) == NIL:
        found.error('parent locator: parent_linkage of zeros')
    if second is None:
        found.warning('parent locator: no parent_linkage2 to change in place')
    elif not LINKAGE.fullmatch(second):
        found.error('parent locator: parent_linkage2 %r', second)
    elif closed and vhdxread.linkage_guid(second) != NIL:
        found.warning('parent locator: a merge was not finished, parent_linkage2 is %s', second)


def _paths(locator, found):
    if not any(key in locator for key in PATH_KEYS):
        found.error('parent locator: no path')
    relative = locator.get('relative_path')
    if relative is not None and (relative[0] in '\\/' or relative[1:2] == ':'):
        found.warning('parent locator: relative_path %r', relative)
    for key in PATH_KEYS:
        # A writer on such a host has no other absolute path to give, so one that is whole is no fault.
        if '/' in locator.get(key, '') and not (key == 'absolute_win32_path' and locator[key].startswith('/')):
            found.warning('parent locator: %s %r', key, locator[key])
