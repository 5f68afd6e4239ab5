# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block allocation tables that must not be believed.

A single entry is looked at when it is used, at the latest; two blocks in one place are a matter for check and
for everything that writes.
"""

import os

from harness import Unchanged, add, case, main, vhdfile
from rejecting import BLOCK, check_reports, differencing, dynamic


def reads_fail(t, *phrases):
    unchanged = Unchanged(t.path('x.vhd'))
    t.refused(t.img('convert', '-q', '-f', 'vhd', '-O', 'raw', t.path('x.vhd'), t.path('out.raw'), rc=1), phrases)
    t.img('map', '-f', 'vhd', '--output=json', t.path('x.vhd'), rc=(0, 1))
    unchanged.verify(t, 'a failing read')


def writes_fail(t):
    unchanged = Unchanged(t.path('x.vhd'))
    for where in (5 * BLOCK, 20 * BLOCK):
        result = t.io('-f', 'vhd', '-c', 'write -P 9 %d 4k' % where, t.path('x.vhd'), rc=1)
        t.check(result.err or result.out, 'no message', result)
    t.refused(t.img('compact', '-q', '-f', 'vhd', t.path('x.vhd'), rc=1))
    unchanged.verify(t, 'a refused write')


def entry(name, value):
    def run(t):
        made = dynamic(t)
        vhdfile.patch_bat(t.path('x.vhd'), 5, value(made) if callable(value) else value)
        reads_fail(t, str(5 * BLOCK))
        check_reports(t, ('block', 'entry', 'overlap'), rc=2)
        writes_fail(t)
    add(name, run)


entry('entry-0', 0)
entry('entry-on-header', 1)
entry('entry-on-table', lambda made: made.table_offset // 512)
entry('entry-at-the-footer', lambda made: made.footer_offset // 512)
entry('entry-reaching-the-footer', lambda made: (made.footer_offset - made.geo.span) // 512 + 1)
entry('entry-behind-the-end', lambda made: made.footer_offset // 512 + 10)
entry('entry-far-behind-the-end', 0xFFFFFFFE)
entry('entry-with-high-bit', 0x80000000)


def overlapping(name, value):
    def run(t):
        made = dynamic(t)
        vhdfile.patch_bat(t.path('x.vhd'), 5, value(made))
        check_reports(t, ('overlap', 'duplicate', 'same'), rc=2)
        writes_fail(t)
    add(name, run)


overlapping('block-just-below-another', lambda made: min(made.place.values()) // 512 - 1)
overlapping('two-entries-equal', lambda made: made.place[0] // 512)
overlapping('blocks-overlap-by-a-sector', lambda made: (made.place[0] + made.geo.span) // 512 - 1)
overlapping('blocks-overlap-by-half', lambda made: (made.place[0] + made.geo.span // 2) // 512)


@case
def entry_behind_the_disk_is_ignored(t):
    """Entries the disk does not need are no business of a reader's."""
    dynamic(t, extra_entries=5)
    vhdfile.patch_bat(t.path('x.vhd'), 66, 3)
    unchanged = Unchanged(t.path('x.vhd'))
    t.same_content(t.content(t.path('x.vhd'), fmt='vhd'), vhdfile.Vhd(t.path('x.vhd')).read_all(), 'content')
    unchanged.verify(t)


@case
def block_over_a_locator(t):
    made = differencing(t)
    vhdfile.patch_bat(t.path('x.vhd'), 5, made.locator_offsets[0] // 512)
    reads_fail(t, str(5 * BLOCK))
    check_reports(t, ('overlap', 'locator', 'block'), rc=2)


@case
def last_block_cut_off(t):
    """A file that ends in a block, with a footer put there again."""
    dynamic(t)
    path = t.path('x.vhd')
    footer = vhdfile.read_at(path, os.path.getsize(path) - 512, 512)
    with open(path, 'r+b') as f:
        f.truncate(os.path.getsize(path) - 8192)
        f.seek(0, 2)
        f.write(footer)
    reads_fail(t, str(63 * BLOCK))
    check_reports(t, ('block', 'entry'), rc=2)


main()
