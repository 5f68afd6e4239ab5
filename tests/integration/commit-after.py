# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of the files after a commit: --relink, --delete, --rename; of VHD, or of VHDX with "vhdx" as first
argument.  What surviving images show is told by our tool and by the independent readers, along the links in the files.
"""

import json
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


def removed_of_last_line(result):
    last = json.loads(result.out.splitlines()[-1])
    return last['status'], sorted(map(name_of, last['removed']))


@case
def what_was_removed_is_told_to_programs(t):
    for options, names in ((('-b', '@p', '--delete', *RELINK), 'cmq'), (('-b', '@m', *RELINK), ''),
                           (('-b', '@p', '--delete', '--rename', *RELINK), 'mq')):
        chain = Chain(t, 'to-' + names)
        t.equal(removed_of_last_line(chain.commit('--progress=json', *options)), ('ok', list(names)), 'last line')
    # Where an earlier run has left that alone to be done.
    chain = merged(t, 'rest')
    leave_remains(t, chain, 'mc', 'p', 'p')
    t.equal(removed_of_last_line(chain.commit('--progress=json', *DELETE)), ('ok', ['c', 'm']), 'last line')


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


def of_fixed(t, *options):
    """Into a base that has no blocks to be given back."""
    base, child = (t.path('%s.%s' % (name, FORMAT)) for name in 'pc')
    t.img('create', '-q', '-f', FORMAT, '-o', 'subformat=fixed', base, SIZE)
    t.img('create', '-q', '-f', FORMAT, '-b', base, child)
    t.io('-f', FORMAT, '-c', 'write -q -P 2 64k 1M', child)
    view, survivor = t.content(child), child if '--rename' in options else base
    t.img('commit', '-q', *options, child)
    t.equal([os.path.exists(path) for path in (base, child)], [survivor == base, survivor == child], 'files')
    t.same_content(independent(survivor), view, 'the base')
    t.same_content(t.content(survivor), view, 'the base, our tool')
    t.img('check', '-q', '-f', FORMAT, survivor)


add('delete-above-fixed', of_fixed, '--delete')
add('rename-of-fixed', of_fixed, '--rename')


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


def make_above(t, parent, path):
    t.img('create', '-q', '-f', FORMAT, '-b', parent, path)
    t.io('-f', FORMAT, '-c', 'write -q -P 77 3M 64k', path)


@case
def target_reached_by_a_link(t):
    """By its new name, or by its real one, it would not find its own parent: refused before the first write."""
    chain = Chain(t, 'made/near', 'p')
    for name in 'cde':
        os.unlink(chain[name])
    os.mkdir(t.path('made/far'))
    leaf, other = (t.path('made/far/%s.%s' % (name, FORMAT)) for name in 'cd')
    make_above(t, chain['m'], leaf)
    t.img('create', '-q', '-f', FORMAT, '-b', leaf, other)
    # far/c names ../near/m, which leads to far/m, which names q: that is beside the link.  No absolute path leads there.
    os.rename(chain['m'], t.path('made/far/m.' + FORMAT))
    os.symlink('../far/m.' + FORMAT, chain['m'])
    os.rename(t.path('made'), t.path('moved'))
    near, far = t.path('moved/near'), t.path('moved/far')
    (real, leaf, other), link = ('%s/%s.%s' % (far, name, FORMAT) for name in 'mcd'), near + '/m.' + FORMAT
    view = t.content(leaf)
    unchanged = Unchanged(leaf, real, other, near + '/q.' + FORMAT)
    relinked = ('--relink', other) if FORMAT == 'vhd' else ()
    for options in (('--rename', *relinked), ('--rename', '--delete', *relinked), ('--delete', '--relink', other),
                    ('--relink', other)):
        t.refused(t.img('commit', '-b', link, *options, leaf, rc=1), 'would not find its own parent', 'symbolic link',
                  near + '/q.' + FORMAT)
    unchanged.verify(t, 'a refused commit')
    # With a link that holds from there it is allowed.
    t.img('rebase', '-q', '-u', '-b', near + '/q.' + FORMAT, real)
    t.img('commit', '-q', '-b', link, '--rename', *relinked, leaf)
    for path in (leaf, other):
        t.same_content(t.content(path), view, path)
        t.same_content(independent(path), view, path)


@case
def target_and_parent_reached_by_links(t):
    """Also when everything is found from the new place."""
    chain = Chain(t, 'near')
    os.mkdir(t.path('far'))
    for name in 'pqmcde':
        os.rename(chain[name], t.path('far', name + '.' + FORMAT))
        os.symlink(t.path('far', name + '.' + FORMAT), chain[name])
    t.img('commit', '-q', '-b', chain['m'], '--rename', *(chain[o[1:]] if o[0] == '@' else o for o in RELINK), chain['c'])
    os.unlink(chain['m'])
    for name in 'cde':
        chain.shows(name, name)


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


REMOVALS = ('--delete', *RELINK), ('-b', '@q', '--delete', *RELINK), ('-b', '@m', '--rename', *RELINK)


def refused_as(t, user, chain, options, *phrases):
    """By the dry run too, and before anything is written."""
    unchanged = Unchanged(*(chain[name] for name in 'pqmcde'))
    argv = [chain[o[1:]] if o.startswith('@') else o for o in options]
    for dry in ([], ['--dry-run']):
        t.refused(t.run(*user, tool('vhd-img'), 'commit', *dry, *argv, chain['c'], rc=1), *phrases)
    unchanged.verify(t, 'a refused commit')
    t.equal(chain.files(), 'c d e m p q', 'files')


@case
def names_that_may_not_go(t):
    """To somebody who may write to every file."""
    if os.geteuid() != 0:
        t.skip('needs root, who can drop his rights')
    for what, mode, owner, why in (('others', 0o755, 0, 'cannot be written to'), ('sticky', 0o1777, 0, 'is sticky')):
        chain = Chain(t, what)
        nobody = t.as_nobody(chain.folder, *(chain[name] for name in 'pqmcde'))
        os.chown(chain.folder, owner, owner)
        os.chmod(chain.folder, mode)
        for options in REMOVALS:
            refused_as(t, nobody, chain, options, why, ('cannot be removed', 'cannot be renamed'))


@case
def names_that_may_go(t):
    """In a sticky directory: one's own files, those in one's own directory, and whatever there is to root."""
    if os.geteuid() != 0:
        t.skip('needs root, who can drop his rights')
    for what in ('files', 'directory', 'privilege'):
        for options in REMOVALS:
            chain = Chain(t, '%s-%s' % (what, options[2]))
            nobody = t.as_nobody(chain.folder, *(chain[name] for name in 'pqmcde'))
            os.chmod(chain.folder, 0o1777)
            if what == 'files':
                for name in 'qmc':
                    os.chown(chain[name], 65534, 65534)
            else:
                os.chown(chain.folder, 65534, 65534)
            if what == 'privilege':
                for path in (chain.folder, *(chain[name] for name in 'qmc')):
                    os.chown(path, 1, 1)
                nobody = []
            argv = [chain[o[1:]] if o.startswith('@') else o for o in options]
            t.run(*nobody, tool('vhd-img'), 'commit', '-q', *argv, chain['c'])
            chain.shows('d', 'd')
            shutil.rmtree(chain.folder)


@case
def names_with_attributes(t):
    """Of those that root himself heeds."""
    t.need('chattr')
    for attribute, what, why in (('+i', '.', 'directory is immutable'), ('+a', '.', 'directory can only be added to'),
                                 ('+i', 'c', 'it is immutable'), ('+a', 'c', 'it can only be added to')):
        chain = Chain(t, 'with%s%s' % (attribute, what))
        path = chain.folder if what == '.' else chain[what]
        if t.run('chattr', attribute, path, rc=None).rc != 0:
            t.skip('no attributes here')
        try:
            for options in REMOVALS:
                refused_as(t, [], chain, options, why)
        finally:
            t.run('chattr', attribute.replace('+', '-'), path)


@case
def children_that_may_not_be_written(t):
    """Their links could not follow."""
    if os.geteuid() != 0:
        t.skip('needs root, who can drop his rights')
    chain = Chain(t)
    nobody = t.as_nobody(chain.folder, *(chain[name] for name in 'pqmcd'))
    os.chmod(chain['e'], 0o444)
    unchanged = Unchanged(*(chain[name] for name in 'pqmcde'))
    argv = [chain[o[1:]] if o.startswith('@') else o for o in RELINK]
    t.refused(t.run(*nobody, tool('vhd-img'), 'commit', *argv, chain['c'], rc=1), chain['e'], 'its link is to change')
    unchanged.verify(t, 'a refused commit')


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
        # At once: a file that is being copied is none of the chain's to those who look for its children.
        shutil.copy(chain['p'], t.path('aside'))
        os.rename(chain['m'], chain['m'] + '.away')
        if what == 'replaced':
            os.rename(t.path('aside'), chain['m'])
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


# --- plans --------------------------------------------------------------------------------------------------

@case
def plans(t):
    """What becomes of each file is told, and then so."""
    for options, fates, survivor in (
            (('-b', '@m', *RELINK), {}, 'm'),
            (('-b', '@p', '--delete', *RELINK), {'c': 'removed', 'm': 'removed', 'q': 'removed'}, 'p'),
            (('-b', '@m', '--rename', *RELINK), {'c': 'replaced', 'm': 'renamed'}, 'c'),
            (('-b', '@p', '--rename', '--delete', *RELINK),
             {'c': 'replaced', 'm': 'removed', 'q': 'removed', 'p': 'renamed'}, 'c')):
        chain = Chain(t, 'plan-%d-%d' % (len(options), len(fates)))
        unchanged = Unchanged(*(chain[name] for name in 'pqmcde'))
        found = chain.commit('--dry-run', '--output=json', *options).json
        text = chain.commit('--dry-run', *options).out
        unchanged.verify(t, '--dry-run')
        t.equal({name_of(x['filename']): x['fate'] for x in found['layers'] if x['fate'] != 'stays'}, fates, 'fates')
        # Children of a VHDX that is replaced need not be touched.
        relinked = [] if FORMAT == 'vhdx' and '--rename' in options else ['d', 'e']
        t.equal(sorted(map(name_of, found['relinked'])), relinked, 'relinked')
        t.equal(found['already-merged'], False, 'already-merged')
        for name, fate in fates.items():
            t.check(any(chain[name] in line and line.endswith('will be ' + fate) for line in text.splitlines()),
                    'the plan does not say that %s will be %s' % (name, fate), text)
        t.equal('relink   ' + chain['d'] in text, bool(relinked), 'relinked')
        chain.commit('-q', *options)
        gone = [name for name, fate in fates.items() if fate in ('removed', 'renamed')]
        t.equal(chain.files(), ' '.join(sorted(set('pqmcde') - set(gone))), 'files')
        chain.shows(survivor, 'c')


@case
def plan_of_what_is_refused(t):
    chain = Chain(t)
    chain.refused('--dry-run', '--delete', phrases=('--relink', chain['d'], chain['e']))
    chain.refused('--dry-run', '--relink', '@p', phrases=('p.' + FORMAT,))


@case
def plan_of_what_was_merged(t):
    chain = Chain(t)
    chain.commit('-q', *RELINK)
    found = chain.commit('--dry-run', '--output=json', '--delete', *RELINK).json
    t.equal((found['already-merged'], found['bytes-to-copy']), (True, 0), 'plan')
    t.check('merged by an earlier run' in chain.commit('--dry-run', '--delete', *RELINK).out, 'plan')
    chain.commit('-q', '--delete', *RELINK)
    t.equal(chain.files(), 'd e m p q', 'files')


# --- a run that was interrupted after it had relinked what is above --source ----------------------------------

@case
def source_that_the_chain_does_not_lead_to_any_more(t):
    for options, files, survivor in ((('--delete',), 'd e m p q', 'm'), (('--rename',), 'c d e p q', 'c'),
                                     (('--relink', '@e'), 'c d e m p q', 'm')):
        chain = Chain(t, 'moved' + options[0])
        chain.commit('-q', '-b', '@m', *RELINK)
        if options[0] == '--rename':
            options += ('--relink', '@e')
        argv = ['-b', chain['m'], '--source', chain['c'], *(chain[o[1:]] if o[0] == '@' else o for o in options),
                chain['d']]
        t.equal(t.img('commit', '--dry-run', '--output=json', *argv).json['already-merged'], True, 'plan')
        t.img('commit', '-q', *argv)
        t.equal(chain.files(), files, 'files')
        for child in 'de':
            chain.above(child, survivor)
            chain.shows(child, child)
        chain.shows(survivor, 'c')


@case
def source_that_never_was_in_the_chain(t):
    """Its content is not the target's: refused."""
    chain = Chain(t)
    other = chain.make('x', 7, chain['m'])
    unchanged = Unchanged(other, *(chain[name] for name in 'pqmcde'))
    for option in ('--delete', '--rename'):
        t.refused(t.img('commit', '-b', chain['m'], '--source', chain['c'], option, *(
            chain[o[1:]] if o[0] == '@' else o for o in RELINK), other, rc=1), 'would change what it shows')
    unchanged.verify(t, 'a refused commit')


# --- a removal that was interrupted -------------------------------------------------------------------------

def leave_remains(t, chain, kept, target, name, everything='qmc'):
    """As a crash among the removals leaves it: of the merged files those of @kept, and the list."""
    os.makedirs(t.path('aside'), exist_ok=True)
    lines = ['vhdkit-remains 1', 'target %d %s' % (os.stat(chain[target]).st_ino, chain[name])]
    for layer in everything:
        stat = os.stat(chain[layer])
        lines.append('remove %d %d %s %s' % (stat.st_ino, stat.st_mtime_ns, identity(chain[layer]), chain[layer]))
    for layer in set(everything) - set(kept):
        os.rename(chain[layer], t.path('aside', layer + '.' + FORMAT))
    with open(chain['c'] + '.remains', 'w', encoding='ascii') as f:
        f.write('\n'.join(lines) + '\nend\n')


def identity(path):
    return (vhdfile.Vhd(path).unique_id if FORMAT == 'vhd' else vhdxread.Image(path).data_write_guid.bytes_le).hex()


def merged(t, folder, *options):
    """The merge is made, d and e are above the target."""
    chain = Chain(t, folder)
    chain.commit('-q', '-b', '@p', *RELINK, *options)
    return chain


DELETE = '-b', '@p', '--delete', *RELINK


@case
def rest_is_removed(t):
    for kept in ('mc', 'c', ''):
        chain = merged(t, 'kept-' + kept)
        leave_remains(t, chain, kept, 'p', 'p')
        if kept:
            t.refused(t.img('map', chain['c'], rc=1))
            t.refused(chain.commit('--dry-run', *DELETE, rc=1))
            t.refused(chain.commit('-b', '@p', *RELINK, rc=1))
        out = chain.commit(*DELETE).out
        t.check('earlier run' in out, 'outcome', out)
        for name in kept:
            t.check(chain[name] + ' was removed' in out, 'outcome', out)
        t.equal(sorted(os.listdir(chain.folder)), sorted(x + '.' + FORMAT for x in 'dep'), 'files')
        chain.shows('p', 'c')
        t.refused(chain.commit(*DELETE, rc=1), 'c.' + FORMAT)


@case
def rest_by_another_name(t):
    """By a symbolic link that leads nowhere any more, relative, or as the source of a chain that is opened above."""
    chain = merged(t, 'here')
    leave_remains(t, chain, '', 'p', 'p')
    os.symlink('here/c.' + FORMAT, t.path('link'))
    t.img('commit', '-q', '-b', chain['p'], '--delete', 'link')
    t.equal(sorted(os.listdir(chain.folder)), sorted(x + '.' + FORMAT for x in 'dep'), 'files')
    chain = merged(t, 'there')
    leave_remains(t, chain, 'mc', 'p', 'p')
    t.img('commit', '-q', '-b', chain['p'], '--delete', '--source', chain['c'], chain['d'])
    t.equal(sorted(os.listdir(chain.folder)), sorted(x + '.' + FORMAT for x in 'dep'), 'files')


@case
def rest_by_a_name_with_dots(t):
    """Behind a symbolic link to a directory ".." is that of the directory it leads to."""
    for folder, name in (('direct', 'deep/../c.' + FORMAT), ('linked', 'link')):
        chain = merged(t, folder + '/chain')
        os.mkdir(os.path.join(chain.folder, 'deeper'))
        os.symlink('chain/deeper', t.path(folder, 'deep'))
        os.symlink('deep/../c.' + FORMAT, t.path(folder, 'link'))
        leave_remains(t, chain, 'mc', 'p', 'p')
        t.img('commit', '-q', '-b', chain['p'], '--delete', t.path(folder, name))
        t.equal(chain.files(), 'd e p', 'files')
        t.check(not os.path.exists(chain['c'] + '.remains'), 'the list is still there')


@case
def rest_of_a_rename(t):
    chain = Chain(t)
    os.mkdir(t.path('spare'))
    for name in 'qm':
        shutil.copy(chain[name], t.path('spare'))
    chain.commit('-q', '-b', '@p', '--rename', '--delete', *RELINK)
    for name in 'qm':
        os.rename(t.path('spare', name + '.' + FORMAT), chain[name])
    os.rmdir(t.path('spare'))
    leave_remains(t, chain, 'm', 'c', 'c', 'qm')
    out = chain.commit('-b', '@p', '--rename', '--delete', *RELINK).out
    t.check(chain['m'] + ' was removed' in out, 'outcome', out)
    t.equal(chain.files(), 'c d e', 'files')
    t.check(not os.path.exists(chain['c'] + '.remains'), 'the list is still there')
    chain.shows('c', 'c')


@case
def a_whole_chain_is_merged_anew(t):
    """A list is not believed while nothing of it is gone: the source may have been written since."""
    chain = merged(t, '.')
    leave_remains(t, chain, 'qmc', 'p', 'p')
    t.io('-f', FORMAT, '-c', 'write -q -P 99 4M 64k', chain['c'])
    view = t.content(chain['c'])
    for child in 'de':
        os.unlink(chain[child])
    chain.commit('-q', '-b', '@p', '--delete')
    t.equal(chain.files(), 'p', 'files')
    t.check(not os.path.exists(chain['c'] + '.remains'), 'the list is still there')
    t.same_content(independent(chain['p']), view, 'target')


@case
def rest_that_is_not_what_was_merged(t):
    def replaced(chain):
        shutil.copy(chain['m'], chain['m'] + '.copy')
        os.rename(chain['m'] + '.copy', chain['m'])

    def same_file(chain):
        with open(chain['d'], 'rb') as source, open(chain['m'], 'wb') as f:
            f.write(source.read())

    def no_target(chain):
        os.rename(chain['p'], chain['p'] + '.away')

    def another_target(chain):
        shutil.copy(chain['p'], chain['p'] + '.copy')
        os.rename(chain['p'] + '.copy', chain['p'])

    for change, phrases in (
            (replaced, ('not the file that was merged', chain_name('m'), chain_name('c'))),
            (same_file, ('not the file that was merged', chain_name('m'))),
            (no_target, ('is not there', chain_name('p'), chain_name('m'), chain_name('c'))),
            (another_target, ('is not there', chain_name('p')))):
        chain = merged(t, change.__name__)
        leave_remains(t, chain, 'mc', 'p', 'p')
        change(chain)
        unchanged = Unchanged(*(os.path.join(chain.folder, name) for name in os.listdir(chain.folder)))
        result = chain.commit(*DELETE, rc=1)
        t.refused(result, 'parent of ' + chain.folder, 'nor can an earlier run be finished', *phrases)
        unchanged.verify(t, 'a refused removal')
        shutil.rmtree(t.path('aside'))


@case
def rest_that_has_changed(t):
    """What is not in the target stays, whatever a list says: of an image written to since, of one that was given a parent
    again, of a target that was put back from a copy.  A list of another user is none."""
    def written(chain):
        # With the parents it needs for a moment.
        os.rename(t.path('aside', 'q.' + FORMAT), chain['q'])
        t.io('-f', FORMAT, '-c', 'write -q -P 99 4M 64k', chain['c'])
        os.rename(chain['q'], t.path('aside', 'q.' + FORMAT))

    def written_long_ago(chain):
        stat = os.stat(chain['c'])
        written(chain)
        os.utime(chain['c'], ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def whole_again(chain):
        os.rename(t.path('aside', 'q.' + FORMAT), chain['q'])

    def target_put_back(chain):
        with open(chain['p'], 'r+b') as f, open(t.path('p.before'), 'rb') as before:
            f.write(before.read())
            f.truncate()

    def of_another_user(chain):
        os.chown(chain['c'] + '.remains', 65534, 65534)

    for change in (written, written_long_ago, whole_again, target_put_back, of_another_user):
        if change is of_another_user and os.geteuid() != 0:
            continue
        pristine = Chain(t, change.__name__)
        shutil.copy(pristine['p'], t.path('p.before'))
        shutil.rmtree(pristine.folder)
        chain = merged(t, change.__name__)
        leave_remains(t, chain, 'mc', 'p', 'p')
        change(chain)
        unchanged = Unchanged(chain['m'], chain['c'])
        argv = ('-b', chain['d'] if change is whole_again else '@p', '--delete')
        t.refused(chain.commit(*argv, rc=1))
        unchanged.verify(t, 'a refused removal')
        shutil.rmtree(t.path('aside'))


def chain_name(name):
    return '/%s.%s' % (name, FORMAT)


@case
def lists_that_are_none(t):
    """What is torn, or was not written by us, is not followed, and not overwritten where it is somebody else's."""
    chain = merged(t, '.')
    leave_remains(t, chain, 'mc', 'p', 'p')
    path = chain['c'] + '.remains'
    with open(path, encoding='ascii') as f:
        text = f.read()
    lines = text.splitlines(True)
    for wrong in (text[:-1], text[:-4], text[10:], '', text + 'x\n', lines[0] + 'end\n', text.replace('remove ', 'remove x'),
                  text.replace(' /', ' '), ''.join(lines[:2]) + 'end\n', text.replace('remove', 'Remove'), '\0' * 100,
                  text.replace(identity(chain['m']), identity(chain['m'])[1:])):
        with open(path, 'w', encoding='ascii') as f:
            f.write(wrong)
        unchanged = Unchanged(path, *(chain[name] for name in 'pmcde'))
        t.refused(chain.commit(*DELETE, rc=1))
        unchanged.verify(t, 'a list that is none')
    for make in (lambda: os.mkdir(path), lambda: os.mkfifo(path), lambda: os.symlink('/dev/zero', path)):
        os.unlink(path)
        make()
        t.refused(chain.commit(*DELETE, rc=1))
        os.rmdir(path) if os.path.isdir(path) else None
        if not os.path.lexists(path):
            open(path, 'wb').close()

    chain = Chain(t, 'foreign')
    with open(chain['c'] + '.remains', 'w', encoding='ascii') as f:
        f.write('my own notes\n')
    unchanged = Unchanged(chain['c'] + '.remains')
    result = chain.commit(*DELETE)
    t.check('removed by hand' in result.err, 'warning', result)
    unchanged.verify(t, 'a commit')
    t.equal(chain.files(), 'd e p', 'files')


@case
def list_that_may_not_be_read(t):
    """What is wrong with the chain is told all the same, and first."""
    if os.geteuid() != 0:
        t.skip('needs root, who can drop his rights')
    chain = merged(t, '.')
    leave_remains(t, chain, 'mc', 'p', 'p')
    os.chmod(chain['c'] + '.remains', 0o600)
    nobody = t.as_nobody(*(chain[name] for name in 'pmcde'))
    problem = t.img('map', chain['c'], rc=1).err.strip().split(': ', 1)[1]
    result = t.run(*nobody, tool('vhd-img'), 'commit', '-b', chain['p'], '--delete', chain['c'], rc=1)
    t.refused(result, 'vhd-img: %s; nor can an earlier run be finished: %s.remains: ' % (problem, chain['c']),
              'permission denied')
    t.equal(chain.files(), 'c d e m p', 'files')


@case
def rest_that_may_not_go(t):
    """Of two files one might: nothing goes."""
    if os.geteuid() != 0:
        t.skip('needs root, who can drop his rights')
    chain = merged(t, '.')
    leave_remains(t, chain, 'mc', 'p', 'p')
    for path in (chain['c'] + '.remains', chain['m']):
        os.chown(path, 65534, 65534)
    nobody = t.as_nobody(chain.folder, *(chain[name] for name in 'pmcde'))
    os.chmod(chain.folder, 0o1777)
    t.refused(t.run(*nobody, tool('vhd-img'), 'commit', '-b', chain['p'], '--delete', chain['c'], rc=1), 'is sticky')
    t.equal(chain.files(), 'c d e m p', 'files')


@case
def no_list_for_one_file(t):
    """It goes, or not."""
    chain = Chain(t)
    with open(chain['c'] + '.remains', 'w', encoding='ascii') as f:
        f.write('my own notes\n')
    t.equal(chain.commit('-b', '@m', '--delete', *RELINK).err, '', 'messages')


# --- stops --------------------------------------------------------------------------------------------------

def killed(t, options, gone, renamed):
    """kill -9 at any moment.  The leaves d and e always open and read the same; the source does, until the first of
    the merged files is gone.  The command run again finishes, whatever is left; no file outside of the merge changes.
    """
    # Made in the place where the copies will be, to which absolute paths lead.
    pristine = Chain(t, 'run')
    os.rename(t.path('run'), t.path('pristine'))
    pristine.folder = t.path('pristine')
    rng = random.Random(7)
    met = reruns = rests = attempt = 0
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
        when = 'after stop %d: %s' % (attempt, os.listdir(chain.folder))
        for leaf in 'de':
            chain.shows(leaf, leaf, when)
        missing = [name for name in gone if not os.path.exists(chain[name])]
        if not missing and os.path.exists(chain['c']):
            chain.shows('c', 'c', when)
        elif os.path.exists(chain['c']) and not renamed:
            # It misses a layer, and does not pretend otherwise.
            t.refused(t.img('map', chain['c'], rc=1))
        done = len(missing) == len(gone) > 0 and not os.path.exists(chain['c'] + '.remains')
        again = t.img(*argv[1:], rc=1 if done else 0)
        t.check(not done or again.err, 'no message')
        reruns += not missing
        rests += not done and bool(missing)
        for leaf in 'de':
            chain.shows(leaf, leaf, 'in the end')
        survivor = 'c' if renamed else options[options.index('-b') + 1][1:]
        chain.shows(survivor, 'c', 'in the end')
        wanted = {name + '.' + FORMAT for name in 'pqmcde' if name not in gone}
        t.equal(set(os.listdir(chain.folder)), wanted, 'files in the end ' + when)
        # What a crash has left unused in it is put right when somebody writes to it.
        if not missing:
            chain.sound()
    t.check(met >= STOPS // 4, 'only %d of %d runs were met on their way' % (met, attempt))
    t.check(reruns > 0, 'no run was finished by another')
    print('# %d stops, %d met, %d run again, %d of them for the rest' % (attempt, met, reruns + rests, rests))


add('kill-during-relink', killed, ('-b', '@m', *RELINK), '', False)
add('kill-during-delete', killed, ('-b', '@m', '--delete', *RELINK), 'c', False)
add('kill-during-delete-of-several', killed, ('-b', '@p', '--delete', *RELINK), 'cmq', False)
add('kill-during-rename', killed, ('-b', '@m', '--rename', *RELINK), 'm', True)
add('kill-during-rename-and-delete', killed, ('-b', '@p', '--rename', '--delete', *RELINK), 'pqm', True)

main()
