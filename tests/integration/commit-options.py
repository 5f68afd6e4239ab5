# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options of commit: which layers, what is only planned, how data gets into the target, progress for programs.

What needs shared extents runs in VHDKIT_TEST_REFLINK_DIR, a folder on a file system that has them.
"""

import json
import os
import random
import re
import signal
import tempfile
import time

import chains
import vhdxchains
from harness import KiB, MiB, Unchanged, add, case, main, sha256, tool, vhdfile

SIZE = 16 * MiB
MAKERS = {'vhd': chains, 'vhdx': vhdxchains}


def make_layers(t, fmt, count=5, folder=None):
    """Layers that overlap; layer i has its byte in two MiB from i MiB on, and an odd sector."""
    layers = []
    for i in range(count):
        writes = [(i * MiB, bytes([i + 1]) * (2 * MiB)), (12 * MiB + 512 * i, bytes([16 + i]) * 512)]
        name = os.path.join(folder or t.dir, 'layer%d.%s' % (i, fmt))
        if fmt == 'vhdx':
            layers.append(vhdxchains.write_layer(t, name, SIZE, writes, 'differencing' if i else 'dynamic',
                                                 layers[-1] if i else None, block_size=MiB))
            continue
        below = layers[-1] if i else None
        made = vhdfile.write_sparse(name, SIZE, writes, parent_id=below and below.unique_id,
                                    parent_path=below and below.path)
        layers.append(chains.Layer(name, 'diff' if i else 'dynamic',
                                   chains.lay(below.view if below else b'', writes, SIZE), made.unique_id))
    return layers


def last_object(result):
    return json.loads(result.out.splitlines()[-1])


# --- which layers -----------------------------------------------------------------------------------------


def chosen(t, fmt, source, target, *options):
    """The options, with the leaf named, merge layer @source into @target and touch no other file but the link."""
    maker = MAKERS[fmt]
    layers = make_layers(t, fmt)
    options = [layers[int(o[1:])].path if str(o).startswith('@') else o for o in options]
    others = Unchanged(*(layer.path for i, layer in enumerate(layers) if i not in (target, target + 1)))
    link = maker.masked(layers[target + 1].path)
    out = t.img('commit', *options, layers[-1].path).out
    t.check('%s now holds what %s shows' % (os.path.basename(layers[target].path),
                                             os.path.basename(layers[source].path)) in
            out.replace(t.dir + '/', ''), 'outcome', out)
    others.verify(t, 'the commit')
    t.check(maker.masked(layers[target + 1].path) == link, 'the child changed beyond its link')
    maker.reads_as(t, layers, target, layers[source].view, 'target')
    maker.reads_as(t, layers, source, layers[source].view, 'source')
    maker.reads_as(t, layers, 4, layers[4].view, 'leaf')
    maker.sound(t, layers[target])


for fmt in MAKERS:
    for name, source, target, options in (
            ('leaf-into-parent', 4, 3, ()),
            ('depth-2-is-two-disks-into-the-third', 4, 2, ('--depth', 2)),
            ('target-depth-2', 4, 3, ('--target-depth', 2)),
            ('target-depth-3-is-depth-2', 4, 2, ('--target-depth', 3)),
            ('source-depth-2-target-depth-4', 3, 1, ('--source-depth', 2, '--target-depth', 4)),
            ('source-depth-3', 2, 1, ('--source-depth', 3)),
            ('source-and-depth', 3, 1, ('--source', '@3', '--depth', 2)),
            ('source-and-ancestor', 3, 0, ('--source', '@3', '-b', '@0')),
            ('source-and-target-depth', 2, 0, ('--source', '@2', '--target-depth', 5)),
            ('source-is-the-leaf', 4, 3, ('--source', '@4'))):
        add('%s-%s' % (fmt, name), chosen, fmt, source, target, *options)


def refused(t, phrases, *options):
    layers = make_layers(t, 'vhd')
    before = Unchanged(*(layer.path for layer in layers))
    options = [layers[int(o[1:])].path if str(o).startswith('@') else o for o in options]
    t.refused(t.img('commit', *options, layers[-1].path, rc=1), *phrases)
    before.verify(t, 'a refused commit')


EXCLUDE = ('exclude each other',)
for name, phrases, options in (
        ('depth-and-target-depth', EXCLUDE, ('--depth', 1, '--target-depth', 2)),
        ('ancestor-and-target-depth', EXCLUDE, ('-b', '@0', '--target-depth', 5)),
        ('source-and-source-depth', EXCLUDE, ('--source', '@3', '--source-depth', 2)),
        ('target-not-below', ('greater', '--target-depth'), ('--source-depth', 3, '--target-depth', 3)),
        ('target-above', ('greater', '--target-depth'), ('--source-depth', 4, '--target-depth', 2)),
        ('target-above-a-named-source', ('not below', 'number 4'), ('--source', '@1', '--target-depth', 3)),
        ('target-too-deep', ('has 5 images', '6'), ('--target-depth', 6)),
        ('source-too-deep', ('has 5 images', '7'), ('--source-depth', 7)),
        ('source-is-the-base', ('no parent',), ('--source', '@0')),
        ('source-elsewhere', ('not in its chain',), ('--source', '/dev/null')),
        ('source-nowhere', ('nowhere.vhd: No such file',), ('--source', 'nowhere.vhd')),
        ('ancestor-nowhere', ('nowhere.vhd: No such file',), ('-b', 'nowhere.vhd')),
        ('depth-below-the-base', ('has 1 ancestor,', '2'), ('--source-depth', 4, '--depth', 2)),
        ('ancestor-above-the-source', ('not one below',), ('--source', '@2', '-b', '@3')),
        ('reflink-unknown', ('sometimes', 'auto', 'always', 'never'), ('--reflink=sometimes',)),
        ('progress-unknown', ('neither human nor json',), ('--progress=xml',)),
        ('json-without-plan', ('--dry-run',), ('--output=json',)),
        ('json-twice', EXCLUDE, ('--dry-run', '--progress=json'))):
    add('refused-' + name, refused, phrases, *options)

# --- plans ------------------------------------------------------------------------------------------------


def plan(t, fmt):
    """The plan names every layer, writes nothing, and what is done afterwards is what it said."""
    layers = make_layers(t, fmt)
    before = Unchanged(*(layer.path for layer in layers))
    argv = ['commit', '--reflink=never', '--source-depth', 2, '--target-depth', 4, layers[4].path]
    found = t.img(*argv, '--dry-run', '--output=json').json
    text = t.img(*argv, '--dry-run').out
    t.equal(t.img(*argv, '--dry-run', '-q').out, '', 'output with -q')
    before.verify(t, '--dry-run')

    t.equal([(os.path.basename(x['filename']), x['role'], x.get('bytes')) for x in found['layers']],
            [('layer4.' + fmt, 'above', None), ('layer3.' + fmt, 'source', 2 * MiB + 512),
             ('layer2.' + fmt, 'between', MiB + 512), ('layer1.' + fmt, 'target', None),
             ('layer0.' + fmt, 'below', None)], 'layers')
    t.equal(found['bytes-to-copy'], 3 * MiB + 1024, 'bytes-to-copy')
    t.equal(found['bytes-to-clone-estimate'], 0, 'bytes-to-clone-estimate')
    t.equal(found['bytes-to-zero'], 0, 'bytes-to-zero')
    t.equal((found['virtual-size-before'], found['virtual-size-after']), (SIZE, SIZE), 'sizes')
    # Of 3 MiB the target has the first; the two sectors are in a page of tables and one of data it has in part.
    t.check(2 * MiB <= found['host-bytes-expected'] <= found['host-bytes-worst'] <= 2 * MiB + 32 * KiB, 'space', found)
    stat = os.statvfs(t.dir)
    t.check(0 < found['host-bytes-free'] <= stat.f_blocks * stat.f_frsize, 'free', found)
    t.equal(found['enough-space'], True, 'enough-space')
    t.check(found['measured-bytes'] > 0 and found['estimated-seconds'] >= 0, 'estimate', found)
    for phrase in ('source', 'between', 'target', 'above', 'below', 'to copy, at most: 3 MiB', 'estimated', 'at worst',
                   'about'):
        t.check(phrase in text, 'no "%s"' % phrase, text)
    out = t.img(*argv).out
    t.check('3 MiB copied, 0 B shared' in out, 'what was done', out)


def plan_of_nothing(t):
    """Merged before: nothing is left but what is merged again, and the time for nothing is not known."""
    layers = make_layers(t, 'vhd', 2)
    t.img('create', '-q', '-f', 'vhd', '-b', layers[1].path, t.path('empty.vhd'))
    found = t.img('commit', '--dry-run', '--output=json', t.path('empty.vhd')).json
    t.equal((found['bytes-to-copy'], found['host-bytes-worst'], found['estimated-seconds']), (0, 0, None), 'plan')


def plan_of_a_target_that_may_not_be_written(t):
    """The plan itself says it, so that every user of the library sees it."""
    layers = make_layers(t, 'vhd', 2)
    t.equal(t.img('commit', '--dry-run', '--output=json', layers[1].path).json['target-problem'], None, 'problem')
    os.chmod(layers[0].path, 0o444)
    nobody = t.as_nobody()
    result = t.run(*nobody, tool('vhd-img'), 'commit', '--dry-run', '--output=json', layers[1].path, rc=1)
    t.check('cannot be written' in result.json['target-problem'], 'the plan does not say so', result)
    t.refused(result, 'would be refused', 'layer0.vhd cannot be written')
    t.refused(t.run(*nobody, tool('vhd-img'), 'commit', layers[1].path, rc=1), 'layer0.vhd', 'permission')


def plan_without_space(t):
    """The plan is printed, and the exit status tells that the commit would be refused."""
    if os.geteuid() != 0:
        t.skip('mounting needs root')
    os.mkdir(t.path('small'))
    if t.run('mount', '-t', 'tmpfs', '-o', 'size=5M', 'none', t.path('small'), rc=None).rc != 0:
        t.skip('cannot mount a tmpfs')
    try:
        base = t.path('small', 'base.vhd')
        made = vhdfile.write_sparse(base, SIZE, [(0, b'\1' * 512)])
        child = t.path('child.vhd')
        vhdfile.write_sparse(child, SIZE, [(0, os.urandom(8 * MiB))], parent_id=made.unique_id, parent_path=base)
        before = Unchanged(base, child)
        result = t.img('commit', '--dry-run', '--output=json', child, rc=1)
        t.equal(result.json['enough-space'], False, 'enough-space')
        t.refused(result, 'would be refused', str(result.json['host-bytes-worst']), str(result.json['host-bytes-free']))
        refusal = t.img('commit', child, rc=1)
        t.refused(refusal, 'base.vhd', str(result.json['host-bytes-worst']), 'free')
        before.verify(t, 'a refused commit')
    finally:
        t.run('umount', t.path('small'))


for fmt in MAKERS:
    add(fmt + '-plan', plan, fmt)
add('plan-of-nothing', plan_of_nothing)
add('plan-of-a-target-that-may-not-be-written', plan_of_a_target_that_may_not_be_written)
add('plan-without-space', plan_without_space)

# --- how data gets there ----------------------------------------------------------------------------------


def skip_identical(t, fmt):
    maker = MAKERS[fmt]
    layers = make_layers(t, fmt)
    argv = ['commit', '--reflink=never', '--skip-identical', '--depth', 4, layers[4].path]
    t.img(*argv)
    maker.reads_as(t, layers, 0, layers[4].view, 'target')
    before = sha256(layers[0].path)
    out = t.img(*argv).out
    t.check('0 B copied' in out and '5 MiB left as they were' in out, 'what was done', out)
    # A VHDX notes that it was open, and is given the name of a new content.
    if fmt == 'vhd':
        t.equal(sha256(layers[0].path), before, 'bytes of the target')
    maker.reads_as(t, layers, 0, layers[4].view, 'target after the second run')
    maker.sound(t, layers[0])


def stopped_and_finished(t, how):
    """A rerun after a stop writes the rest only."""
    rng = random.Random(5)
    base = vhdfile.write_sparse(t.path('base.vhd'), 64 * MiB, [(0, b'\1' * 512)])
    data = rng.randbytes(40 * MiB)
    vhdfile.write_sparse(t.path('child.vhd'), 64 * MiB, [(MiB, data)], parent_id=base.unique_id,
                         parent_path=base.path)
    process = t.start(tool('vhd-img'), 'commit', '--reflink=never', '-r', '20M', '--progress=json', t.path('child.vhd'))
    while json.loads(process.stdout.readline())['done'] < 8 * MiB:
        pass
    process.send_signal(how)
    t.finish(process, signals=(how,))
    argv = ['commit', '--reflink=never', '--skip-identical', '--progress=json', t.path('child.vhd')]
    t.equal(last_object(t.img(*argv))['done'], 40 * MiB, 'done')
    out = t.img(*argv[:-2], argv[-1]).out
    t.check('0 B copied' in out, 'third run', out)
    t.same_content(t.content(t.path('base.vhd'))[MiB:41 * MiB], data, 'target')


for fmt in MAKERS:
    add(fmt + '-skip-identical', skip_identical, fmt)
add('skip-after-SIGKILL', stopped_and_finished, signal.SIGKILL)
add('skip-after-SIGTERM', stopped_and_finished, signal.SIGTERM)


def shared_folder(t):
    base = os.environ.get('VHDKIT_TEST_REFLINK_DIR')
    if not base:
        t.skip('VHDKIT_TEST_REFLINK_DIR names no file system that shares extents')
    return tempfile.TemporaryDirectory(dir=base)


def used(folder):
    stat = os.statvfs(folder)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def reflink_always(t, fmt):
    """Shared but for the odd sectors, taking next to no space; with never, all of it is copied."""
    maker = MAKERS[fmt]
    for mode in ('always', 'auto', 'never'):
        with shared_folder(t) as folder:
            layers = make_layers(t, fmt, folder=folder)
            argv = ['commit', '--reflink=' + mode, '--depth', 4, layers[4].path]
            found = t.img(*argv, '--dry-run', '--output=json').json
            copied = 5 * MiB + 4 * 512 if mode == 'never' else 4 * 512
            t.equal(found['bytes-to-copy'], copied, 'bytes to copy, ' + mode)
            t.equal(found['bytes-to-clone-estimate'], 5 * MiB + 4 * 512 - copied, 'bytes to share, ' + mode)
            t.run('sync', '-f', folder)
            before = used(folder)
            out = t.img(*argv).out
            t.check(('%s shared' % ('0 B' if mode == 'never' else '5 MiB')) in out, mode, out)
            t.run('sync', '-f', folder)
            more = used(folder) - before
            t.check(more >= 3 * MiB if mode == 'never' else more <= MiB, '%s took %d bytes' % (mode, more))
            if mode == 'always':
                t.check(more <= found['host-bytes-worst'] + 64 * KiB, 'more than planned: %d' % more, found)
            maker.reads_as(t, layers, 0, layers[4].view, 'target, ' + mode)
            t.img(*argv)
            maker.reads_as(t, layers, 0, layers[4].view, 'target after a second run, ' + mode)


def reflink_long_runs(t, fmt):
    """What stands in one piece is shared in one piece, across blocks and up to its odd end, but not the zeros in it."""
    with shared_folder(t) as folder:
        parent, child, raw = (os.path.join(folder, name) for name in ('p.' + fmt, 'c.' + fmt, 'raw'))
        small = ['-o', 'block_size=1M'] if fmt == 'vhdx' else []
        t.img('create', '-q', '-f', fmt, *small, parent, '256M')
        # Some blocks of the parent exist already, elsewhere.
        t.img('bench', '-f', fmt, '-w', '-d', 1, '-c', 4, '-s', MiB, '-S', 48 * MiB, '--pattern', 1, parent)
        t.img('create', '-q', '-f', fmt, *small, '-b', parent, child)

        def write(offset, bytes_, pattern):
            t.img('bench', '-f', fmt, '-w', '-d', 1, '-c', 1, '-o', offset, '-s', bytes_, '--pattern', pattern, child)
        write(0, 32 * MiB, 85)
        write(32 * MiB, 16 * MiB, 0)
        write(48 * MiB, 100 * MiB + 5 * 512, 86)
        t.img('convert', '-q', '-O', 'raw', child, raw)
        out = t.img('commit', child).out
        shared = re.search(r'([0-9.]+) MiB shared', out)
        t.check(shared and float(shared.group(1)) > 130, 'not shared', out)
        t.img('compare', parent, raw)
        t.img('check', parent)
        kinds = t.img('map', '--output=json', parent).json
        t.check(all(x['zero'] for x in kinds if 33 * MiB <= x['start'] < 48 * MiB), 'zeros are stored', kinds)


def reflink_always_misaligned(t):
    """Blocks of an old image, aligned to sectors only: refused with the place, before anything is written."""
    with shared_folder(t) as folder:
        base = vhdfile.write_sparse(os.path.join(folder, 'base.vhd'), SIZE, [(0, b'\1' * 512)])
        child = os.path.join(folder, 'child.vhd')
        vhdfile.write_sparse(child, SIZE, [(4 * MiB, b'\2' * MiB)], parent_id=base.unique_id, parent_path=base.path,
                             packed=True, gap=512 * 5)
        before = Unchanged(base.path, child)
        for argv in (['commit', '--reflink=always'], ['commit', '--reflink=always', '--dry-run']):
            t.refused(t.img(*argv, child, rc=1), 'child.vhd', 'guest offset 4194304', 'file offset', '4096')
        before.verify(t, 'a refused commit')
        out = t.img('commit', child).out
        t.check('1 MiB copied, 0 B shared' in out, 'auto', out)


def reflink_always_misaligned_target(t):
    with shared_folder(t) as folder:
        base = vhdfile.write_sparse(os.path.join(folder, 'base.vhd'), SIZE, [(4 * MiB, b'\1' * MiB)], packed=True,
                                    gap=512 * 5)
        child = os.path.join(folder, 'child.vhd')
        vhdfile.write_sparse(child, SIZE, [(4 * MiB, b'\2' * MiB)], parent_id=base.unique_id, parent_path=base.path)
        before = Unchanged(base.path, child)
        t.refused(t.img('commit', '--reflink=always', child, rc=1), 'base.vhd', 'guest offset 4194304')
        before.verify(t, 'a refused commit')


def reflink_across_file_systems(t):
    with shared_folder(t) as folder:
        if os.stat(folder).st_dev == os.stat(t.dir).st_dev:
            t.skip('the scratch folder is on the same file system')
        base = vhdfile.write_sparse(os.path.join(folder, 'base.vhd'), SIZE, [(0, b'\1' * 512)])
        vhdfile.write_sparse(t.path('child.vhd'), SIZE, [(0, b'\2' * MiB)], parent_id=base.unique_id,
                             parent_path=base.path)
        before = Unchanged(base.path, t.path('child.vhd'))
        t.refused(t.img('commit', '--reflink=always', t.path('child.vhd'), rc=1), 'base.vhd', 'child.vhd',
                  'different file systems')
        before.verify(t, 'a refused commit')
        t.img('commit', '-q', t.path('child.vhd'))


def reflink_unable(t):
    """Where the file system shares no extents, always is refused and says so."""
    layers = make_layers(t, 'vhd', 2)
    before = Unchanged(*(layer.path for layer in layers))
    result = t.img('commit', '--reflink=always', layers[1].path, rc=None)
    if result.rc == 0:
        t.skip('the scratch folder is on a file system that shares extents')
    t.refused(result, 'layer0.vhd', 'its file system cannot')
    before.verify(t, 'a refused commit')


for fmt in MAKERS:
    add(fmt + '-reflink-modes', reflink_always, fmt)
    add(fmt + '-reflink-long-runs', reflink_long_runs, fmt)
add('reflink-always-misaligned', reflink_always_misaligned)
add('reflink-always-misaligned-target', reflink_always_misaligned_target)
add('reflink-across-file-systems', reflink_across_file_systems)
add('reflink-unable', reflink_unable)

# --- progress ---------------------------------------------------------------------------------------------


def judge_lines(t, text, status):
    lines = [json.loads(line) for line in text.splitlines()]
    t.check(lines, 'no lines')
    for line in lines:
        t.check(line['done'] <= line['total'], 'done is above total', line)
        t.check(line['seconds-left'] is None or line['seconds-left'] >= 0, 'seconds-left', line)
        t.equal(line['state'], 'concluded' if line is lines[-1] else 'running', 'state')
        t.equal('status' in line, line is lines[-1], 'status')
    for earlier, later in zip(lines, lines[1:]):
        t.check(earlier['done'] <= later['done'], 'done went down', earlier, later)
        # The whole of it is planned before the first byte is done.
        if earlier['done'] > 0:
            t.equal(later['total'], earlier['total'], 'total')
    t.equal(lines[-1]['status'], status, 'status')
    return lines


def progress_of_commit(t):
    layers = make_layers(t, 'vhd', 2)
    began = time.monotonic()
    result = t.img('commit', '--progress=json', '-r', '4M', layers[1].path)
    seconds = time.monotonic() - began
    lines = judge_lines(t, result.out, 'ok')
    t.equal((lines[-1]['done'], lines[-1]['total']), (2 * MiB + 512, 2 * MiB + 512), 'at the end')
    t.check(2 <= len(lines) <= 10 * seconds + 2, '%d lines in %.1f s' % (len(lines), seconds))
    t.check(any(line['seconds-left'] is not None and line['rate'] > 0 for line in lines[:-1]), 'no rate', lines)


def progress_of_others(t):
    path = t.path('x.vhd')
    vhdfile.write_sparse(path, SIZE, [(0, bytes(MiB)), (2 * MiB, b'\1' * MiB)])
    judge_lines(t, t.img('convert', '--progress=json', '-O', 'vhd', path, t.path('y.vhd')).out, 'ok')
    judge_lines(t, t.img('compare', '--progress=json', path, t.path('y.vhd')).out, 'ok')
    judge_lines(t, t.img('compact', '--progress=json', path).out, 'ok')
    judge_lines(t, t.img('compact', '-q', '--progress=json', path).out, 'ok')
    t.check('Image compacted' in t.img('compact', '--progress=human', path).out, 'human')
    t.check('100.00/100%' in t.img('compact', '-p', path).out, '-p')


def progress_of_failure(t):
    layers = make_layers(t, 'vhd', 2)
    result = t.img('commit', '--progress=json', '--filter', 'blkdebug,op=flush,n=1,errno=5', layers[1].path, rc=1)
    last = judge_lines(t, result.out, 'failed')[-1]
    t.check(last['source'].endswith('layer1.vhd') and last['target'].endswith('layer0.vhd'), 'files', last)
    t.check('layer1.vhd' in last['error'] and 'layer0.vhd' in last['error'], 'error', last)
    t.refused(result, 'layer1.vhd', 'layer0.vhd')


def progress_of_what_never_began(t):
    """A command that fails before its job begins has the last line all the same, and just that."""
    layers = make_layers(t, 'vhd', 2)
    path, nowhere = layers[1].path, t.path('nowhere.vhd')
    t.img('create', '-q', '-f', 'vhd', t.path('small.vhd'), MiB)
    for argv, text in ((['commit', nowhere], 'No such file'), (['commit', layers[0].path], 'no parent'),
                       (['commit', '--dry-run', path], 'exclude each other'), (['commit'], 'expected FILE'),
                       (['commit', '--no-such-option', path], 'unknown option'),
                       (['convert', '-O', 'vhd', nowhere, t.path('o.vhd')], 'No such file'),
                       (['convert', '-n', '-O', 'vhd', path, t.path('small.vhd')], 'bytes'),
                       (['compact', nowhere], 'No such file'), (['compare', path, nowhere], 'No such file'),
                       (['rebase', '-b', nowhere, path], 'No such file')):
        # Wherever the option stands.
        for given in ([argv[0], '--progress=json', *argv[1:]], [*argv, '--progress=json']):
            result = t.img(*given, rc=None)
            lines = judge_lines(t, result.out, 'failed')
            t.equal(len(lines), 1, 'lines')
            t.check(result.rc not in (0, None) and text in lines[0]['error'] and lines[0]['error'] in result.err, 'error', result)
    # What is no failure is none here.
    for options, other in (([], layers[0].path), (['-s'], t.path('small.vhd'))):
        result = t.img('compare', '--progress=json', *options, path, other, rc=1)
        t.equal(len(judge_lines(t, result.out, 'ok')), 1, 'lines')
    t.equal(t.img('commit', '-p', nowhere, rc=1).out, '', 'output for people')


def progress_of_a_close_that_fails(t):
    """The job is done, and the command fails all the same: so does the last line."""
    t.img('create', '-q', '-f', 'raw', t.path('s.raw'), MiB)
    failed = []
    for n in range(1, 50):
        result = t.img('convert', '--progress=json', '--filter', 'blkdebug,op=flush,n=%d,errno=5' % n, '-O', 'vhdx',
                       t.path('s.raw'), t.path('%d.vhdx' % n), rc=None)
        last = judge_lines(t, result.out, 'ok' if result.rc == 0 else 'failed')[-1]
        if result.rc == 0:
            break
        t.check(last['error'] in result.err, 'error', result)
        failed.append(last['error'])
    t.check(any('at close' in error for error in failed), 'none failed at close', failed)


def value_of_a_letter(t):
    layers = make_layers(t, 'vhd', 2)
    for option in ('-p=json', '-qp=json'):
        t.refused(t.img('commit', option, layers[1].path, rc=1), "'-p=", '--progress')


def progress_of_cancel(t):
    layers = make_layers(t, 'vhd', 2)
    process = t.start(tool('vhd-img'), 'commit', '--progress=json', '-r', '1M', layers[1].path)
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    result = t.finish(process)
    t.equal(result.rc, 128 + signal.SIGINT, 'status')
    last = judge_lines(t, line.decode() + result.out, 'cancelled')[-1]
    t.check(last['done'] < last['total'] and last['source'].endswith('layer1.vhd'), 'last line', last)


for function in (progress_of_commit, progress_of_others, progress_of_failure, progress_of_what_never_began,
                 progress_of_a_close_that_fails, value_of_a_letter, progress_of_cancel):
    case(function)

main()
