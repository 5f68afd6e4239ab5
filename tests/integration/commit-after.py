# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of the files after a commit: --relink, --delete, --rename; of VHD, or of VHDX with "vhdx" as first
argument.  What surviving images show is told by our tool and by the independent readers, along the links in the files.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import vhdxread
from harness import MiB, Unchanged, add, case, locked, main, tool, vhdfile

FORMAT = 'vhd'
if sys.argv[1:2] == ['vhdx']:
    FORMAT = sys.argv.pop(1)
SIZE = 8 * MiB
STOPS = int(os.environ.get('VHDKIT_STOPS', '24'))


def name_of(path):
    return os.path.splitext(os.path.basename(path))[0]


class Chain:
    """p <- q <- m <- c, and the children d and e of c; each with a block of its own and one all of them have."""

    def __init__(self, t, folder='.', base='p'):
        self.t, self.folder = t, os.path.normpath(t.path(folder))
        os.makedirs(self.folder, exist_ok=True)
        below = None
        for value, name in enumerate((base, 'q', 'm', 'c'), 1):
            below = self.make(name, value, below)
        for value, name in ((5, 'd'), (6, 'e')):
            self.make(name, value, self['c'])
        self.views = {name: t.content(self[name]) for name in ('p', 'q', 'm', 'c', 'd', 'e')
                      if os.path.exists(self[name])}

    def make(self, name, value, parent=None):
        path = self[name]
        self.t.img('create', '-q', '-f', FORMAT, *(['-b', parent, path] if parent else [path, SIZE]))
        self.t.io('-f', FORMAT, '-c', 'write -q -P %d %dM 64k' % (value, value), '-c',
                  'write -q -P %d 0 %dk' % (value, 64 * (8 - value)), path)
        return path

    def __getitem__(self, name):
        return os.path.join(self.folder, '%s.%s' % (name, FORMAT))

    def files(self):
        return ' '.join(sorted(name_of(f) for f in os.listdir(self.folder) if f.endswith('.' + FORMAT)))

    def shows(self, name, view, when=''):
        what = '%s, which is to show what %s did %s' % (name, view, when)
        self.t.same_content(self.t.content(self[name], fmt=FORMAT), self.views[view], 'our tool: ' + what)
        self.t.same_content(independent(self[name]), self.views[view], 'independent reader: ' + what)

    def above(self, name, parent):
        """Each reader follows the links in the files to it."""
        found = self.t.img('info', '--output=json', self[name]).json
        self.t.equal(os.path.realpath(found['full-backing-filename']), os.path.realpath(self[parent]),
                     'parent of ' + name)

    def sound(self):
        for name in self.files().split():
            if os.path.exists(self[name]):
                self.t.img('check', '-q', '-f', FORMAT, self[name])

    def commit(self, *options, **kw):
        return self.t.img('commit', *[self[o[1:]] if o.startswith('@') else o for o in options], self['c'], **kw)

    def refused(self, *options, phrases=()):
        """With a message, and without a change to any file."""
        unchanged = Unchanged(*(self[name] for name in self.files().split()))
        self.t.refused(self.commit(*options, rc=1), *phrases)
        unchanged.verify(self.t, 'a refused commit')


def independent(path):
    if FORMAT == 'vhd':
        return vhdfile.open_chain(path).read_all()
    image = vhdxread.open_chain(path)
    try:
        return image.read(0, image.size)
    finally:
        image.close()


RELINK = '--relink', '@d', '--relink', '@e'


# --- what each does -----------------------------------------------------------------------------------------

@case
def relink(t):
    chain = Chain(t)
    result = chain.commit(*RELINK)
    t.equal(result.err, '', 'messages')
    t.check('d.%s is now above' % FORMAT in result.out, 'outcome', result)
    t.equal(chain.files(), 'c d e m p q', 'files')
    for child in 'de':
        chain.above(child, 'm')
        chain.shows(child, child)
    chain.shows('m', 'c')
    chain.shows('c', 'c')
    os.unlink(chain['c'])
    chain.shows('d', 'd')
    chain.sound()


@case
def relink_again(t):
    """Those that have the target as their parent are no siblings that a merge would break: none is made."""
    chain = Chain(t)
    chain.commit('-q', '--relink', '@d')
    unchanged = Unchanged(chain['m'], chain['c'])
    chain.commit('-q', *RELINK)
    unchanged.verify(t, 'a second run')
    for child in 'de':
        chain.above(child, 'm')
        chain.shows(child, child)


@case
def one_child_named_twice(t):
    chain = Chain(t)
    os.symlink(chain['d'], t.path('link'))
    chain.commit('-q', '--relink', '@d', '--relink', t.path('link'), '--relink', '@d')
    chain.above('d', 'm')
    chain.above('e', 'c')
    chain.shows('d', 'd')
    chain.shows('e', 'e')


@case
def child_in_another_directory(t):
    chain = Chain(t)
    os.mkdir(t.path('far'))
    far = t.path('far', 'f.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', chain['c'], far)
    t.io('-f', FORMAT, '-c', 'write -q -P 9 1M 4k', far)
    view = t.content(far)
    chain.commit('-q', '--delete', *RELINK, '--relink', far)
    t.same_content(independent(far), view, 'child elsewhere')
    t.same_content(t.content(far), view, 'child elsewhere')


@case
def delete(t):
    chain = Chain(t)
    os.unlink(chain['d'])
    os.unlink(chain['e'])
    result = chain.commit('--delete')
    t.equal(result.err, '', 'messages')
    t.check('c.%s was removed' % FORMAT in result.out, 'outcome', result)
    t.equal(chain.files(), 'm p q', 'files')
    chain.shows('m', 'c')


@case
def delete_with_those_between(t):
    chain = Chain(t)
    result = chain.commit('-b', '@p', '--delete', *RELINK)
    for name in 'cmq':
        t.check('%s.%s was removed' % (name, FORMAT) in result.out, 'outcome', result)
    t.equal(chain.files(), 'd e p', 'files')
    for name, view in zip('pde', 'cde'):
        chain.shows(name, view)
    chain.sound()


@case
def rename(t):
    chain = Chain(t)
    children = RELINK if FORMAT == 'vhd' else ()
    before = Unchanged(chain['d'], chain['e'])
    result = chain.commit('-b', '@m', '--rename', *children)
    t.equal(result.err, '', 'messages')
    t.check('is now' in result.out, 'outcome', result)
    t.equal(chain.files(), 'c d e p q', 'files')
    for name in 'cde':
        chain.shows(name, name)
    if FORMAT == 'vhdx':
        before.verify(t, 'the rename of the parent')
    for child in 'de':
        chain.above(child, 'c')
    chain.above('c', 'q')
    chain.sound()
    # Run again it does not merge further down.
    chain.refused('-b', '@m', '--rename', phrases=('m.' + FORMAT,))


@case
def rename_of_the_base(t):
    chain = Chain(t)
    children = RELINK if FORMAT == 'vhd' else ()
    result = chain.commit('--depth', '3', '--rename', *children)
    t.check('can no longer be opened' in result.out, 'outcome', result)
    t.equal(chain.files(), 'c d e m q', 'files')
    for name in 'cde':
        chain.shows(name, name)
    t.refused(t.img('map', chain['q'], rc=1))
    chain.refused('--depth', '3', '--rename', phrases=('no parent to merge into',))


@case
def rename_and_delete(t):
    chain = Chain(t)
    chain.commit('-q', '-b', '@p', '--rename', '--delete', *RELINK)
    t.equal(chain.files(), 'c d e', 'files')
    for name in 'cde':
        chain.shows(name, name)
    chain.sound()


@case
def rename_into_another_directory(t):
    """Only what has no parent can go there."""
    chain = Chain(t)
    os.mkdir(t.path('vm'))
    leaf = t.path('vm', 'leaf.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', chain['e'], leaf)
    view = t.content(leaf)
    unchanged = Unchanged(leaf, *(chain[name] for name in 'pqmcde'))
    t.refused(t.img('commit', '-b', chain['e'], '--rename', leaf, rc=1), 'another directory', 'c.' + FORMAT)
    unchanged.verify(t, 'a refused commit')
    os.unlink(chain['d'])
    t.img('commit', '-q', '-b', chain['p'], '--rename', '--delete', leaf)
    t.equal(os.listdir(chain.folder), ['vm'], 'files')
    t.same_content(t.content(leaf), view, 'the base in its new place')
    t.same_content(independent(leaf), view, 'the base in its new place')


@case
def children_nobody_tells_of_survive_a_rename(t):
    """A VHDX has the identity of the image it replaces; for VHD, with other identities, they are to be named."""
    chain = Chain(t)
    os.mkdir(t.path('far'))
    far = t.path('far', 'f.' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', chain['c'], far)
    t.io('-f', FORMAT, '-c', 'write -q -P 9 1M 4k', far)
    view = t.content(far)
    chain.commit('-q', '-b', '@m', '--rename', *RELINK, *(['--relink', far] if FORMAT == 'vhd' else []))
    t.same_content(t.content(far), view, 'child elsewhere')
    t.same_content(independent(far), view, 'child elsewhere')


@case
def name_by_a_symbolic_link(t):
    """The link goes on leading to the disk."""
    chain = Chain(t)
    os.mkdir(t.path('vm'))
    link = t.path('vm', 'disk.' + FORMAT)
    os.symlink(chain['c'], link)
    t.img('commit', '-q', '-b', chain['m'], '--rename', *(chain[o[1:]] if o[0] == '@' else o for o in RELINK), link)
    t.check(os.path.islink(link), 'the symbolic link is gone')
    t.same_content(t.content(link), chain.views['c'], 'through the link')
    chain.shows('d', 'd')


@case
def raw_target(t):
    if FORMAT != 'vhd':
        t.skip('a VHDX has no raw parent')
    base, child, grandchild = t.path('base.img'), t.path('c.vhd'), t.path('d.vhd')
    t.img('create', '-q', '-f', 'raw', base, SIZE)
    t.io('-f', 'raw', '-c', 'write -q -P 1 1M 64k', base)
    t.img('create', '-q', '-f', 'vhd', '-b', base, '-F', 'raw', '--raw-parent', child)
    t.io('-f', 'vhd', '--raw-parent', '-c', 'write -q -P 2 2M 64k', child)
    t.img('create', '-q', '-f', 'vhd', '-b', child, '--raw-parent', grandchild)
    t.io('-f', 'vhd', '--raw-parent', '-c', 'write -q -P 3 3M 64k', grandchild)
    views = [t.content(path, '--raw-parent') for path in (child, grandchild)]
    unchanged = Unchanged(base, child, grandchild)
    t.refused(t.img('commit', '--raw-parent', '--rename', '--relink', grandchild, child, rc=1), 'raw', 'vhd')
    unchanged.verify(t, 'a refused commit')
    t.img('commit', '-q', '--raw-parent', '--delete', '--relink', grandchild, child)
    t.check(not os.path.exists(child), 'the source is there')
    with open(base, 'rb') as f:
        t.same_content(f.read(), views[0], 'target')
    t.same_content(t.content(grandchild, '--raw-parent'), views[1], 'child')


# --- refusals -----------------------------------------------------------------------------------------------

@case
def children_that_would_lose_their_parent(t):
    chain = Chain(t)
    chain.refused('--delete', phrases=('--relink', chain['d'], chain['e']))
    chain.refused('--delete', '--relink', '@d', phrases=('--relink', chain['e'], '1 image '))
    if FORMAT == 'vhd':
        chain.refused('--rename', '-b', '@m', '--relink', '@e', phrases=('--relink', chain['d']))


@case
def children_of_those_between(t):
    chain = Chain(t)
    other = chain.make('x', 7, chain['m'])
    chain.refused('-b', '@q', '--delete', *RELINK, phrases=(other,))
    chain.commit('-q', '-b', '@q', '--break-siblings', '--delete', *RELINK)
    chain.shows('d', 'd')


@case
def not_a_child(t):
    chain = Chain(t)
    alone, grandchild = chain.make('x', 7), chain.make('y', 7, chain['d'])
    for path in (alone, grandchild, chain['p']):
        chain.refused('--relink', path, phrases=(os.path.basename(path),))
    for name in 'cmq':
        chain.refused('--relink', '@' + name, phrases=('a layer of the chain',))
    chain.refused('--relink', t.path('nothing'), phrases=('nothing',))
    with open(t.path('text'), 'w', encoding='ascii') as f:
        f.write('no image\n' * 100)
    chain.refused('--relink', t.path('text'), phrases=('text',))


@case
def child_of_the_target(t):
    """It is no child that an earlier run has relinked: the merge would change what it shows."""
    chain = Chain(t)
    other = chain.make('x', 7, chain['m'])
    view = t.content(other)
    chain.refused('--relink', other, *RELINK, phrases=(other, 'would change what it shows'))
    t.same_content(t.content(other), view, 'child of the target')


@case
def files_in_use(t):
    for name, options in (('d', RELINK), ('c', ('--delete', *RELINK)), ('m', ('--delete', '-b', '@q', *RELINK)),
                          ('c', ('--rename', '-b', '@m', *RELINK))):
        chain = Chain(t, 'in-use-%s-%d' % (name, len(options)))
        # A reader, who does not allow writers, of this file and those below.
        holder = t.start(tool('vhd-io'), '-r', '-f', FORMAT, chain[name], stdin=subprocess.PIPE)
        t.wait_until(lambda: locked(chain[name]), 'lock')
        chain.refused(*options, phrases=(name + '.' + FORMAT, ('in use', 'lock')))
        holder.kill()
        t.finish(holder, signals=(signal.SIGKILL,))
        t.equal(chain.files(), 'c d e m p q', 'files')


@case
def names_that_do_not_fit(t):
    chain = Chain(t)
    other = t.path('c.' + ('vhdx' if FORMAT == 'vhd' else 'vhd'))
    t.img('create', '-q', '-f', FORMAT, '-b', chain['p'], other)
    unchanged = Unchanged(other, chain['p'])
    t.refused(t.img('commit', '--break-siblings', '--rename', '-f', FORMAT, other, rc=1), 'cannot take the name')
    unchanged.verify(t, 'a refused commit')


@case
def contradictions(t):
    chain = Chain(t)
    for option in ('--delete', '--rename'):
        chain.refused('-d', option, phrases=('-d keeps',))
    chain.refused('--rename', phrases=('-b',))


@case
def rename_after_a_relink(t):
    """Children that follow the target already know it by its own name and identity."""
    chain = Chain(t)
    chain.commit('-q', *RELINK)
    chain.refused('-b', '@m', '--relink', '@d', '--rename', phrases=('would lose the parent', 'e.' + FORMAT))
    chain.commit('-q', '-b', '@m', *RELINK, '--rename')
    t.equal(chain.files(), 'c d e p q', 'files')
    for child in 'de':
        chain.above(child, 'c')
        chain.shows(child, child)
    chain.shows('c', 'c')
    chain.sound()


@case
def nothing_goes_without_flushes(t):
    chain = Chain(t)
    for options in (('--delete', *RELINK), ('-b', '@m', '--rename', *RELINK), RELINK):
        chain.refused('-t', 'unsafe', *options, phrases=('without flushes',))


@case
def other_names_of_the_source(t):
    chain = Chain(t)
    os.mkdir(t.path('far'))
    os.link(chain['c'], t.path('far/hard.' + FORMAT))
    chain.refused('-b', '@m', '--rename', *RELINK, phrases=('hard links',))


@case
def the_target_loses_its_name(t):
    """What was merged is in a file without a name then: the sources are all there is."""
    for what in ('away', 'replaced'):
        chain = Chain(t, what)
        process = t.start(tool('vhd-img'), 'commit', '-q', '-r', '192k', '--delete', '--relink', chain['d'], '--relink',
                          chain['e'], chain['c'])
        t.wait_until(lambda: locked(chain['m']), 'the merge to begin')
        os.rename(chain['m'], chain['m'] + '.away')
        if what == 'replaced':
            shutil.copy(chain['p'], chain['m'])
        result = t.finish(process)
        t.equal(result.rc, 1, 'status')
        t.check('another file' in result.err or 'No such file' in result.err, 'message', result)
        os.rename(chain['m'] + '.away', chain['m'])
        for name in 'cde':
            chain.shows(name, name, 'after the target had another name')


@case
def avhd_is_a_name_for_a_checkpoint(t):
    chain = Chain(t)
    checkpoint = t.path('c.a' + FORMAT)
    t.img('create', '-q', '-f', FORMAT, '-b', chain['e'], checkpoint)
    view = t.content(checkpoint)
    t.img('commit', '-q', '--rename', '-b', chain['e'], checkpoint)
    t.same_content(t.content(checkpoint), view, 'the target under its new name')


# --- stops --------------------------------------------------------------------------------------------------

def killed(t, options, gone, renamed):
    """kill -9 at any moment.  The leaves d and e always open and read the same; the source does, until the first of
    the merged files is gone.  While it opens, the command run again finishes; no file outside of the merge changes.
    """
    # Made in the place where the copies will be, to which absolute paths lead.
    pristine = Chain(t, 'run')
    os.rename(t.path('run'), t.path('pristine'))
    pristine.folder = t.path('pristine')
    rng = random.Random(7)
    met = reruns = attempt = 0
    longest = 0.05
    while attempt < STOPS or ((met < STOPS // 4 or not reruns) and attempt < STOPS + 60):
        attempt += 1
        chain = Chain.__new__(Chain)
        chain.t, chain.folder, chain.views = t, t.path('run'), pristine.views
        shutil.rmtree(chain.folder, True)
        shutil.copytree(pristine.folder, chain.folder)
        argv = [tool('vhd-img'), 'commit', '-q', *(chain[o[1:]] if o[0] == '@' else o for o in options), chain['c']]
        process = t.start(*argv)
        time.sleep(longest * rng.random())
        process.send_signal(signal.SIGKILL)
        result = t.finish(process, signals=(signal.SIGKILL,))
        if result.rc == 0:
            longest = max(0.01, longest * 0.8)
        else:
            met += 1
            longest *= 1.1
        when = 'after stop %d: %s' % (attempt, chain.files())
        for leaf in 'de':
            chain.shows(leaf, leaf, when)
        missing = [name for name in gone if not os.path.exists(chain[name])]
        if not missing and os.path.exists(chain['c']):
            chain.shows('c', 'c', when)
            t.img(*argv[1:])
            reruns += 1
        elif renamed or not os.path.exists(chain['c']):
            pass
        else:
            # It misses a layer, and does not pretend otherwise.
            t.refused(t.img('map', chain['c'], rc=1))
        for leaf in 'de':
            chain.shows(leaf, leaf, 'in the end')
        survivor = 'c' if renamed else options[options.index('-b') + 1][1:]
        chain.shows(survivor, 'c', 'in the end')
        chain.sound() if not missing else None
    t.check(met >= STOPS // 4, 'only %d of %d runs were met on their way' % (met, attempt))
    t.check(reruns > 0, 'no run was finished by another')


add('kill-during-relink', killed, ('-b', '@m', *RELINK), '', False)
add('kill-during-delete', killed, ('-b', '@m', '--delete', *RELINK), 'c', False)
add('kill-during-delete-of-several', killed, ('-b', '@p', '--delete', *RELINK), 'cmq', False)
add('kill-during-rename', killed, ('-b', '@m', '--rename', *RELINK), 'm', True)
add('kill-during-rename-and-delete', killed, ('-b', '@p', '--rename', '--delete', *RELINK), 'pqm', True)

main()
