# SPDX-License-Identifier: LGPL-2.1-or-later
"""check: exit status 0 sound, 1 could not look, 2 corrupt, 3 leaks, 63 not for this format; and repairs.

One of two footers missing is what a crash may leave: told, mended by a repair or a writable open, no corruption.
"""

import os
import random

from harness import KiB, MiB, Unchanged, add, case, main, read_file, vhdcheck, vhdfile

BLOCK = 64 * KiB


def image(t, **options):
    return vhdfile.write_sparse(t.path('x.vhd'), 4 * MiB, [(i * BLOCK, bytes([i + 1]) * BLOCK) for i in (0, 3, 63)],
                                block_size=BLOCK, **options)


def look(t, rc, *phrases, path=None):
    """check without repair: the status, what it says, and not a byte changed."""
    path = path or t.path('x.vhd')
    unchanged = Unchanged(path)
    result = t.img('check', '-f', 'vhd', path, rc=rc)
    text = (result.out + result.err).lower()
    if phrases:
        t.check(any(p in text for p in phrases), 'check does not say %s' % ' or '.join(phrases), result)
    told = t.img('check', '-f', 'vhd', '--output=json', path, rc=rc)
    unchanged.verify(t, 'check')
    if rc != 1:
        report = told.json
        t.equal(bool(report.get('corruptions')), rc == 2, 'corruptions in the JSON')
        t.equal(report['format'], 'vhd', 'format in the JSON')
    return result


def mended(t, view, *argv):
    """check -r: afterwards sound for both checkers, the content kept."""
    report = t.img('check', '-f', 'vhd', '--output=json', '-r', *(argv or ['all']), t.path('x.vhd')).json
    t.check(any(f.get('repaired') for f in report['findings']), 'the repair is not told', report)
    t.equal(report.get('corruptions-fixed', 0) + report.get('leaks-fixed', 0), 1, 'repairs (%s)' % report)
    look(t, 0)
    t.equal(vhdcheck.check(t.path('x.vhd'), ours=False), [], 'independent check')
    t.same_content(vhdfile.Vhd(t.path('x.vhd')).read_all(), view, 'content')


@case
def sound(t):
    image(t)
    result = look(t, 0)
    t.check('no errors' in result.out.lower(), 'text', result)


@case
def json_report(t):
    image(t)
    report = t.img('check', '--output=json', t.path('x.vhd')).json
    t.equal((report['check-errors'], report.get('corruptions', 0), report.get('leaks', 0)), (0, 0, 0), 'counts')
    t.equal((report['total-clusters'], report['allocated-clusters']), (64, 3), 'blocks')
    t.equal(report['image-end-offset'], os.path.getsize(t.path('x.vhd')), 'end of the image')


@case
def absent_file(t):
    t.refused(t.img('check', '-f', 'vhd', t.path('none.vhd'), rc=1), 'none.vhd')


@case
def raw_has_no_check(t):
    with open(t.path('r.raw'), 'wb') as f:
        f.write(bytes(MiB))
    result = t.img('check', '-f', 'raw', t.path('r.raw'), rc=63)
    t.check('check' in (result.out + result.err).lower(), 'text', result)


@case
def footer_copy_damaged(t):
    made = image(t)
    view = vhdfile.Vhd(made.path).read_all()
    vhdfile.write_at(made.path, 100, b'\xff' * 8)
    look(t, 0, 'footer')
    mended(t, view)


@case
def end_footer_damaged(t):
    made = image(t)
    view = vhdfile.Vhd(made.path).read_all()
    vhdfile.write_at(made.path, os.path.getsize(made.path) - 300, b'\xff' * 8)
    look(t, 0, 'footer')
    mended(t, view)


@case
def end_footer_missing(t):
    made = image(t)
    view = vhdfile.Vhd(made.path).read_all()
    with open(made.path, 'r+b') as f:
        f.truncate(os.path.getsize(made.path) - 512)
    look(t, 0, 'footer')
    mended(t, view)


@case
def footers_differ(t):
    made = image(t)
    view = vhdfile.Vhd(made.path).read_all()
    vhdfile.patch_footer(made.path, copies=('head',), timestamp=5)
    t.img('check', '-f', 'vhd', made.path, rc=(0, 2))
    mended(t, view)
    t.equal(read_file(made.path)[:512], read_file(made.path)[-512:], 'footers after the repair')


@case
def leaked_space_at_the_end(t):
    made = image(t)
    view = vhdfile.Vhd(made.path).read_all()
    before = os.path.getsize(made.path)
    footer = read_file(made.path)[-512:]
    with open(made.path, 'r+b') as f:
        f.seek(-512, 2)
        f.write(random.Random(1).randbytes(3 * BLOCK) + footer)
    look(t, 3, 'leak')
    mended(t, view, 'leaks')
    t.check(os.path.getsize(made.path) <= before, 'the leak is still there')


@case
def a_hole_is_no_corruption(t):
    image(t)
    vhdfile.patch_bat(t.path('x.vhd'), 3, vhdfile.ABSENT)
    t.img('check', '-f', 'vhd', t.path('x.vhd'), rc=(0, 3))


@case
def batmap_that_lies(t):
    made = vhdfile.write_sparse(t.path('p.vhd'), 8 * MiB, [(0, b'\1' * (8 * MiB))])
    child = vhdfile.write_sparse(t.path('x.vhd'), 8 * MiB, [(0, b'\2' * 4096)], batmap=True, parent_id=made.unique_id,
                                 parent_path=made.path)
    look(t, 0)
    vhdfile.write_at(child.path, child.batmap_offset + 512, b'\x80')
    vhdfile.write_at(child.path, child.batmap_offset + 24, b'\xff\xff\xff\x7f')
    look(t, 2, 'batmap')
    t.img('check', '-f', 'vhd', '-r', 'all', child.path)
    look(t, 0)
    t.equal(vhdcheck.check(child.path, ours=False), [], 'independent check')


@case
def batmap_checksum(t):
    made = vhdfile.write_sparse(t.path('x.vhd'), 8 * MiB, [(0, b'\1' * (2 * MiB))], batmap=True)
    view = vhdfile.Vhd(made.path).read_all()
    vhdfile.write_at(made.path, made.batmap_offset + 24, b'\0\0\0\1')
    look(t, 0, 'batmap')
    mended(t, view)


def corrupt_stays(t, value):
    """What cannot be mended is not made worse."""
    made = image(t)
    vhdfile.patch_bat(made.path, 3, value(made))
    look(t, 2)
    unchanged = Unchanged(made.path)
    t.img('check', '-f', 'vhd', '-r', 'all', made.path, rc=(1, 2))
    unchanged.verify(t, 'a repair that cannot be')


add('entry-behind-the-end-is-not-mended', corrupt_stays, lambda made: made.footer_offset // 512 + 100)
add('overlapping-blocks-are-not-mended', corrupt_stays, lambda made: made.place[0] // 512 + 8)


@case
def child_without_its_parent_can_be_checked(t):
    made = image(t)
    vhdfile.write_sparse(t.path('c.vhd'), 4 * MiB, [(0, b'\1' * 512)], parent_id=made.unique_id, parent_path=made.path)
    os.unlink(made.path)
    result = t.img('check', '-f', 'vhd', t.path('c.vhd'), rc=(0, 2))
    t.check(result.rc == 0 or 'parent' in (result.out + result.err).lower(), 'what is wrong is not told', result)


@case
def repair_that_cannot_be_done_is_no_success(t):
    made = image(t)
    with open(made.path, 'r+b') as f:
        f.write(bytes(512))
    unchanged = Unchanged(made.path)
    result = t.img('check', '-U', '-r', 'all', made.path, rc=1)
    t.check('cannot be repaired' in result.err, 'no word about the repair', result)
    unchanged.verify(t, 'a repair that was not done')


def not_to_be_opened(t, damage):
    """An image that is one, and too damaged to be opened, is corrupt, as a VHDX in that state is."""
    made = image(t)
    damage(made)
    result = look(t, 2)
    t.check('error: ' in result.out, 'finding', result)
    t.img('info', '-f', 'vhd', made.path, rc=1)
    unchanged = Unchanged(made.path)
    t.img('check', '-f', 'vhd', '-r', 'all', made.path, rc=2)
    unchanged.verify(t, 'a repair that cannot be')


def damage_both_footers(made):
    vhdfile.write_at(made.path, 100, b'\xff' * 8)
    vhdfile.write_at(made.path, os.path.getsize(made.path) - 300, b'\xff' * 8)


add('both-footers-damaged', not_to_be_opened, damage_both_footers)
add('header-damaged', not_to_be_opened, lambda made: vhdfile.write_at(made.path, 512 + 100, b'\xff' * 8))
add('header-absurd', not_to_be_opened, lambda made: vhdfile.patch_header(made.path, block_size=3))


@case
def no_sign_of_a_vhd(t):
    """Then it cannot be said what it is: not checked."""
    with open(t.path('x.vhd'), 'wb') as f:
        f.write(bytes(MiB))
    look(t, 1)


@case
def quiet(t):
    image(t)
    t.equal(t.img('check', '-q', t.path('x.vhd')).out, '', 'output of -q')


main()
