# SPDX-License-Identifier: LGPL-2.1-or-later
"""Footers that must be refused; one rule of the format each."""

import os
import random

from harness import GiB, MiB, Unchanged, add, case, main, vhdfile
from rejecting import check_reports, differencing, dynamic, refused_everywhere


def rejected(name, damage, *phrases):
    def run(t):
        damage(t)
        refused_everywhere(t, phrases)
        check_reports(t, phrases)
    add(name, run)


def file_of(data):
    def make(t):
        with open(t.path('x.vhd'), 'wb') as f:
            f.write(data)
    return make


rejected('empty-file', file_of(b''), 'small', 'short', 'footer')
rejected('file-of-511-bytes', file_of(bytes(511)), 'small', 'short', 'footer')
rejected('zeros', file_of(bytes(4096)), 'footer')
rejected('noise', file_of(random.Random(1).randbytes(65536)), 'footer')
rejected('text', file_of(b'conectix is only a word here\n' * 300), 'footer')


def both(**fields):
    def make(t):
        dynamic(t)
        vhdfile.patch_footer(t.path('x.vhd'), **fields)
    return make


def fixed(size_field=None, **fields):
    def make(t):
        vhdfile.write_fixed(t.path('x.vhd'), MiB, [(0, b'\1' * MiB)])
        vhdfile.patch_footer(t.path('x.vhd'), copies=('end',), **fields)
    return make


for copies, label in ((both, 'dynamic'), (fixed, 'fixed')):
    rejected('%s-version-2' % label, copies(version=0x20000), 'version')
    rejected('%s-version-0' % label, copies(version=0), 'version')
    rejected('%s-size-0' % label, copies(current_size=0), 'size')
    rejected('%s-size-not-of-sectors' % label, copies(current_size=MiB - 100), 'size')
    rejected('%s-size-over-limit' % label, copies(current_size=2040 * GiB + 512), 'size', 'truncated')
    rejected('%s-size-all-ones' % label, copies(current_size=(1 << 64) - 1), 'size', 'truncated')
    for disk_type in (0, 1, 5, 6, 7, 0xFFFFFFFF):
        rejected('%s-type-%d' % (label, disk_type), copies(disk_type=disk_type), 'type')

rejected('fixed-shorter-than-its-size', fixed(current_size=MiB + 512), 'truncated', 'size', 'short')
rejected('fixed-far-shorter-than-its-size', fixed(current_size=2039 * GiB), 'truncated', 'size', 'short')


@case
def both_checksums_wrong(t):
    dynamic(t)
    vhdfile.patch_footer(t.path('x.vhd'), fix=False, checksum=0x12345678)
    refused_everywhere(t, ('checksum', 'footer'))
    check_reports(t, ('checksum', 'footer'))


@case
def disabled_by_poison(t):
    dynamic(t)
    vhdfile.write_at(t.path('x.vhd'), os.path.getsize(t.path('x.vhd')) - 512, b'v_poison')
    refused_everywhere(t, ('poison', 'disabled', 'not to be used'))


@case
def blktap_with_little_endian_bitmaps(t):
    differencing(t, creator=b'tap\0', creator_version=1, host_os=bytes(4))
    refused_everywhere(t, ('bitmap', 'version', 'tap'))


@case
def encrypted_by_blktap(t):
    made = vhdfile.write_sparse(t.path('x.vhd'), 8 * MiB, [(0, b'\1' * 4096)], batmap=True)
    vhdfile.write_at(t.path('x.vhd'), made.batmap_offset + 29, b'\1')
    refused_everywhere(t, ('encrypt',))


@case
def copy_good_end_cut_off(t):
    """The end footer gone with the last block's tail: that block must not read as zeros."""
    dynamic(t)
    with open(t.path('x.vhd'), 'r+b') as f:
        f.truncate(os.path.getsize(t.path('x.vhd')) - 512 - 4096)
    unchanged = Unchanged(t.path('x.vhd'))
    result = t.img('convert', '-q', '-f', 'vhd', '-O', 'raw', t.path('x.vhd'), t.path('out.raw'), rc=1)
    t.refused(result)
    check_reports(t, ('block', 'footer', 'table'))
    unchanged.verify(t)


@case
def saved_state_is_not_written(t):
    dynamic(t)
    vhdfile.patch_footer(t.path('x.vhd'), saved_state=1)
    unchanged = Unchanged(t.path('x.vhd'))
    t.img('info', '-f', 'vhd', t.path('x.vhd'))
    t.refused(t.io('-f', 'vhd', '-c', 'write -P 1 0 512', t.path('x.vhd'), rc=1), 'saved state')
    t.refused(t.img('compact', '-q', '-f', 'vhd', t.path('x.vhd'), rc=1), 'saved state')
    unchanged.verify(t, 'a refused write')


main()
