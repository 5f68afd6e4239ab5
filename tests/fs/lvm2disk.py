# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical volumes of LVM2, made byte by byte."""

import struct
import zlib

from fsharness import MiB, make_file, patch

SECTOR = 512
EXTENT = MiB
START = MiB  # of the first extent
UUID = 'abcdefGHIJ0123456789klmnopQRSTUV'
MDA = 4096, MiB - 4096


def crc(data):
    return zlib.crc32(data, 0xf597a6cf ^ 0xffffffff) ^ 0xffffffff


def dashed(uuid):
    ends = (0, 6, 10, 14, 18, 22, 26, 32)
    return '-'.join(uuid[a:b] for a, b in zip(ends, ends[1:]))


def logical(name, *runs, status='"READ", "WRITE", "VISIBLE"', kind='striped', pv='pv0', flags='flags = []\n'):
    """A logical volume of (first extent, extents)."""
    text = '%s {\nid = "x"\nstatus = [%s]\n%ssegment_count = %d\n' % (name, status, flags, len(runs))
    at = 0
    for i, (first, count) in enumerate(runs):
        text += ('segment%d {\nstart_extent = %d\nextent_count = %d\t# %d Megabytes\n\ntype = "%s"\nstripe_count = 1\n\n'
                 'stripes = [\n"%s", %d\n]\n}\n' % (i + 1, at, count, count, kind, pv, first))
        at += count
    return text + '}\n'


def group(extents, *volumes, status='"RESIZEABLE", "READ", "WRITE"', pv_status='"ALLOCATABLE"', uuid=UUID, start=START,
          extent=EXTENT, more='', pvs=1):
    pv = ''.join('pv%d {\nid = "%s"\ndevice = "/dev/sd\\"a\\\\"\nstatus = [%s]\nflags = []\ndev_size = 8\npe_start = %d\n'
                 'pe_count = %d\n}\n' % (i, dashed(uuid), pv_status, start // SECTOR, extents) for i in range(pvs))
    return ('vg {\nid = "y"\nseqno = 5\nformat = "lvm2" # informational\nstatus = [%s]\nflags = []\nextent_size = %d\n'
            'max_lv = 0\nmetadata_copies = 0\n%s\nphysical_volumes {\n%s}\n\n%s}\n# Generated\n'
            'contents = "Text Format Volume Group"\nversion = 1\ndescription = "made"\ncreation_time = 1\n' %
            (status, extent // SECTOR, more, pv, 'logical_volumes {\n%s}\n' % ''.join(volumes) if volumes else ''))


def seal(path, offset, start, length):
    """The sum at @offset over @length bytes from @start."""
    with open(path, 'rb') as f:
        f.seek(start)
        data = f.read(length)
    patch(path, offset, struct.pack('<I', crc(data)))


def write_area(path, offset, size, text, at=512, flags=0, prepared=0, magic=b' LVM2 x[5A%r0N*>', version=1,
               encoding='utf-8'):
    data = text.encode(encoding) + b'\0'
    head = magic + struct.pack('<IQQ', version, offset, size) + struct.pack('<QQII', at, len(data), crc(data), flags)
    head += struct.pack('<QQII', prepared, 8, 0, 0) if prepared else b''
    head = head.ljust(508, b'\0')
    patch(path, offset, struct.pack('<I', crc(head)) + head)
    patch(path, offset + at, data[:size - at])
    patch(path, offset + 512, data[size - at:])


def make(path, size, text, areas=(MDA,), texts=(), sector=1, **what):
    """A physical volume of @size bytes; @texts: of the second area, if it is another."""
    make_file(path, size)
    header = UUID.encode() + struct.pack('<Q', what.pop('bytes', size)) + struct.pack('<QQQQ', START, 0, 0, 0)
    header += b''.join(struct.pack('<QQ', *area) for area in areas) + bytes(16) + struct.pack('<II', 2, 1) + bytes(16)
    rest = (struct.pack('<I', 32) + b'LVM2 001' + header).ljust(SECTOR - 20, b'\0')
    patch(path, sector * SECTOR, b'LABELONE' + struct.pack('<QI', sector, crc(rest)) + rest)
    for i, (offset, length) in enumerate(areas):
        write_area(path, offset, length, texts[i - 1] if i and texts else text, **what)
    return path
