# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dynamic headers and tables that must be refused; one rule of the format each."""

from harness import GiB, add, case, main, vhdfile
from rejecting import BLOCK, check_reports, differencing, dynamic, refused_everywhere


def rejected(name, damage, *phrases):
    def run(t):
        damage(t)
        refused_everywhere(t, phrases)
        check_reports(t, phrases)
    add(name, run)


def footer(**fields):
    def make(t):
        dynamic(t)
        vhdfile.patch_footer(t.path('x.vhd'), **fields)
    return make


def header(fix=True, **fields):
    def make(t):
        dynamic(t)
        vhdfile.patch_header(t.path('x.vhd'), fix, **fields)
    return make


rejected('header-offset-all-ones', footer(data_offset=vhdfile.NO_OFFSET), 'header')
rejected('header-offset-odd', footer(data_offset=700), 'header')
rejected('header-offset-0', footer(data_offset=0), 'header')
rejected('header-behind-the-end', footer(data_offset=1 << 40), 'header')
rejected('header-offset-overflows', footer(data_offset=(1 << 64) - 1024), 'header')
rejected('header-offset-on-table', footer(data_offset=1536), 'header')
rejected('header-cookie', header(cookie=b'cxsparsf'), 'header')
rejected('header-checksum', header(False, checksum=1), 'checksum')
rejected('header-version-2', header(version=0x20000), 'version')
rejected('header-version-0', header(version=0), 'version')

for size in (0, 1, 256, 511, 513, 3 * 512, BLOCK + 512, 0x80000000, 0xFFFFFFFF):
    rejected('block-size-%d' % size, header(block_size=size), 'block size', 'block-size')

rejected('table-too-few-entries', header(max_table_entries=63), 'entries', 'BAT')
rejected('table-no-entries', header(max_table_entries=0), 'entries', 'BAT')
rejected('table-absurd-entries', header(max_table_entries=0xFFFFFFFF), 'entries', 'BAT')
rejected('table-longer-than-file', header(max_table_entries=1 << 20), 'entries', 'BAT')
rejected('table-offset-0', header(table_offset=0), 'BAT', 'overlap')
rejected('table-offset-odd', header(table_offset=1537), 'BAT', 'overlap')
rejected('table-over-footer-copy', header(table_offset=256), 'BAT', 'overlap')
rejected('table-over-header', header(table_offset=512), 'BAT', 'overlap')
rejected('table-over-header-end', header(table_offset=1024), 'BAT', 'overlap')
rejected('table-behind-the-end', header(table_offset=1 << 40), 'BAT', 'overlap')
rejected('table-offset-overflows', header(table_offset=(1 << 64) - 512), 'BAT', 'overlap')
rejected('table-offset-negative', header(table_offset=1 << 63), 'BAT', 'overlap')


@case
def table_over_end_footer(t):
    made = dynamic(t)
    vhdfile.patch_header(t.path('x.vhd'), table_offset=made.footer_offset)
    refused_everywhere(t, ('BAT', 'overlap', 'look-up'), info=False)


@case
def table_over_locator(t):
    made = differencing(t)
    vhdfile.patch_header(t.path('x.vhd'), table_offset=made.locator_offsets[0])
    # The bytes of a path are no table: refused for the overlap or for the entries they make.
    refused_everywhere(t, ('overlap', 'BAT', 'entry', 'block', 'locator', 'look-up'), info=False)


@case
def disk_larger_than_the_table_reaches(t):
    dynamic(t)
    vhdfile.patch_footer(t.path('x.vhd'), current_size=1 * GiB)
    refused_everywhere(t, ('entries', 'BAT'))


@case
def tiny_blocks_of_a_huge_disk(t):
    """A table of 16 GiB: refused by a limit, not by running out of memory."""
    dynamic(t)
    vhdfile.patch_footer(t.path('x.vhd'), current_size=2040 * GiB)
    vhdfile.patch_header(t.path('x.vhd'), block_size=512, max_table_entries=0xFF000000)
    refused_everywhere(t, ('BAT', 'entries'))


main()
