# SPDX-License-Identifier: LGPL-2.1-or-later
"""A strict checker of VHD files, apart from the library's own.

check (path) returns a list of phrases, empty for a sound image.  With @ours it also asks for what our writer
promises beyond the format: equal footers, data areas at multiples of 4 KiB, full bitmaps in dynamic images,
filled table padding.
"""

import os
import struct

import vhdfile
from vhdfile import ABSENT, DIFFERENCING, DYNAMIC, FIXED, NO_OFFSET, SECTOR

MAX_SIZE = 0xFF000000 * SECTOR


def _footer_problems(footer, ours):
    problems = []
    if footer.cookie != b'conectix':
        problems.append('footer cookie %r' % footer.cookie)
    if footer.features != 2:
        problems.append('footer features %#x' % footer.features)
    if footer.version != 0x10000:
        problems.append('footer version %#x' % footer.version)
    if footer.disk_type not in (FIXED, DYNAMIC, DIFFERENCING):
        problems.append('disk type %d' % footer.disk_type)
    if footer.current_size == 0 or footer.current_size % SECTOR or footer.current_size > MAX_SIZE:
        problems.append('current size %d' % footer.current_size)
    if (footer.disk_type == FIXED) != (footer.data_offset == NO_OFFSET):
        problems.append('data offset %#x in disk type %d' % (footer.data_offset, footer.disk_type))
    chs = (footer.cylinders, footer.heads, footer.sectors)
    if ours and chs != (65535, 16, 255) and chs != vhdfile.geometry(footer.current_size):
        problems.append('geometry %r for size %d' % (chs, footer.current_size))
    if footer.saved_state:
        problems.append('saved state %d' % footer.saved_state)
    if any(footer.reserved[1:]) or footer.reserved[0] > 1:
        problems.append('footer reserved bytes')
    return problems


def ranges_of(image):
    """[start, end, name] of everything in the container of an opened dynamic image but its end footer."""
    head = image.header
    used = [(0, SECTOR, 'footer copy'), (image.footer.data_offset, image.footer.data_offset + 1024, 'header')]
    table_end = head.table_offset + vhdfile.round_up(4 * head.max_table_entries, SECTOR)
    used.append((head.table_offset, table_end, 'table'))
    for i in range(8):
        code, space, length, _, offset = vhdfile.LOCATOR.unpack_from(head.locators, 24 * i)
        if code != bytes(4):
            size = space * SECTOR if space < SECTOR else space
            used.append((offset, offset + max(size, length), 'locator %d' % i))
    if image.footer.creator[:3] == b'tap' and vhdfile.read_at(image.path, table_end, 8) == b'tdbatmap':
        map_offset, map_sectors = struct.unpack('>QI', vhdfile.read_at(image.path, table_end + 8, 12))
        used.append((table_end, table_end + SECTOR, 'batmap header'))
        used.append((map_offset, map_offset + map_sectors * SECTOR, 'batmap'))
    for block in image.allocated():
        start = image.bat[block] * SECTOR
        used.append((start, start + image.geo.span, 'block %d' % block))
    return sorted(used)


def _batmap_problems(image):
    head = image.header
    at = head.table_offset + vhdfile.round_up(4 * head.max_table_entries, SECTOR)
    raw = vhdfile.read_at(image.path, at, SECTOR)
    if image.footer.creator[:3] != b'tap' or raw[:8] != b'tdbatmap':
        return []
    _, map_offset, map_sectors, version, stored, _, _ = vhdfile.BATMAP.unpack_from(raw)
    covered = max(SECTOR, (image.size // (1 << 24) + SECTOR - 1) // SECTOR * SECTOR)
    bits = vhdfile.read_at(image.path, map_offset, map_sectors * SECTOR)
    problems = []
    if len(bits) < covered:
        problems.append('batmap of %d bytes, %d expected' % (len(bits), covered))
    if ~sum(bits[:covered]) & 0xFFFFFFFF != stored:
        problems.append('batmap checksum %#x, %#x computed' % (stored, ~sum(bits[:covered]) & 0xFFFFFFFF))
    for block in range(image.blocks):
        if bits[block // 8] & (0x80 >> block % 8):
            if image.bat[block] == ABSENT:
                problems.append('batmap bit of block %d, which is not allocated' % block)
            elif image.present_sectors(block) != image.geo.sectors_per_block:
                problems.append('batmap bit of block %d, whose bitmap is not full' % block)
    return problems


def check(path, ours=True):
    size = os.path.getsize(path)
    if size < SECTOR:
        return ['file of %d bytes' % size]
    problems = []
    if size % SECTOR:
        problems.append('file size %d is no multiple of 512' % size)
    tail = vhdfile.read_at(path, size - SECTOR, SECTOR)
    if not vhdfile.valid_footer(tail):
        return problems + ['no valid footer at the end']
    footer = vhdfile.Footer.decode(tail)
    problems += _footer_problems(footer, ours)
    if problems:
        return problems
    if footer.disk_type == FIXED:
        if footer.current_size != size - SECTOR:
            problems.append('fixed: current size %d in a file of %d' % (footer.current_size, size))
        return problems

    copy = vhdfile.read_at(path, 0, SECTOR)
    if copy != tail:
        problems.append('footer copy differs' if vhdfile.valid_footer(copy) else 'footer copy invalid')
    try:
        image = vhdfile.Vhd(path)
    except (vhdfile.VhdError, struct.error) as e:
        return problems + [str(e)]
    head = image.header
    if footer.data_offset % SECTOR:
        problems.append('header at %d' % footer.data_offset)
    if head.data_offset != NO_OFFSET:
        problems.append('header data offset %#x' % head.data_offset)
    if head.version != 0x10000:
        problems.append('header version %#x' % head.version)
    if head.reserved1 or any(head.reserved2):
        problems.append('header reserved bytes')
    if head.block_size < SECTOR or head.block_size & (head.block_size - 1):
        problems.append('block size %d' % head.block_size)
    if head.table_offset % SECTOR or head.table_offset < SECTOR:
        problems.append('table offset %d' % head.table_offset)
    if footer.disk_type == DYNAMIC:
        if any(head.parent_id) or any(head.locators) or any(head.parent_name):
            problems.append('dynamic image with parent fields')
    else:
        if not any(head.locators) and not any(head.parent_name):
            problems.append('differencing image without the name of a parent')
        for i in range(8):
            code, space, length, reserved, offset = vhdfile.LOCATOR.unpack_from(head.locators, 24 * i)
            if code == bytes(4):
                if any(head.locators[24 * i:24 * i + 24]):
                    problems.append('locator %d: unused but not zero' % i)
                continue
            if offset % SECTOR or length == 0 or offset + length > size - SECTOR:
                problems.append('locator %d: %d bytes at %d' % (i, length, offset))
            if ours and (space < SECTOR or space % SECTOR or space < length):
                problems.append('locator %d: space %d for %d bytes' % (i, space, length))
            if code in (b'W2ru', b'W2ku') and length % 2:
                problems.append('locator %d: %d bytes of UTF-16' % (i, length))
            if reserved:
                problems.append('locator %d: reserved field' % i)

    for block, entry in enumerate(image.bat):
        if block >= image.blocks and entry != ABSENT:
            problems.append('table entry %d behind the disk is %#x' % (block, entry))
    table_bytes = 4 * head.max_table_entries
    padding = vhdfile.read_at(path, head.table_offset + table_bytes, -table_bytes % SECTOR)
    if ours and footer.creator[:3] != b'tap' and padding.strip(b'\xff'):
        problems.append('table padding')

    end = 0
    last = ''
    for start, stop, name in ranges_of(image):
        if start < end:
            problems.append('%s at %d overlaps %s, which ends at %d' % (name, start, last, end))
        if stop > size - SECTOR:
            problems.append('%s ends at %d, behind the footer at %d' % (name, stop, size - SECTOR))
        if stop > end:
            end, last = stop, name
    if problems:
        return problems

    for block in image.allocated():
        data = image.bat[block] * SECTOR + image.geo.bitmap_bytes
        if ours and data % 4096:
            problems.append('data of block %d at %d, not aligned to 4096' % (block, data))
        if footer.disk_type == DYNAMIC:
            for s, e, bit in vhdfile.bit_runs(image.bitmap(block), image.geo.sectors_per_block):
                if bit:
                    continue
                if ours:
                    problems.append('dynamic: bits of block %d not all set' % block)
                    break
                if any(vhdfile.read_at(path, data + s * SECTOR, (e - s) * SECTOR)):
                    problems.append('data under clear bits of block %d' % block)
    return problems + _batmap_problems(image)


def unused_bytes(path):
    """Bytes of a dynamic image's file that nothing refers to."""
    image = vhdfile.Vhd(path)
    used = sum(stop - start for start, stop, _ in ranges_of(image))
    return image.file_size - SECTOR - used
