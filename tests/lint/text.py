# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every file must have and none may: licence lines, left-over marks, paths of one machine."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sources  # noqa: E402
from harness import case, main  # noqa: E402

GPL, LGPL = 'GPL-2.0-or-later', 'LGPL-2.1-or-later'
# Put together here so that this file does not name them.
LEFT_OPEN = re.compile(r'\b(TO' r'DO|FIX' r'ME|XX' r'X)\b')
MACHINE_PATH = re.compile(r'(?<![\w.$}/-])/(?:work|farm|root|home|Users)/')
SOURCE_LINES = 1500


@case
def licence_lines(t):
    wrong = []
    for path in sources.files('.c', '.h', '.S', '.py', '.sh', '.cpp', 'meson.build', '.in'):
        head = sources.text(path)[:400]
        match = re.search(r'SPDX-License-Identifier: (\S+)', head)
        if path.endswith(('meson.build', '.in')) and not match:
            continue
        wanted = GPL if path.startswith('tools/') else LGPL
        if not match:
            wrong.append('%s: no SPDX line' % path)
        elif match.group(1) != wanted and not path.endswith(('meson.build', '.sh', '.py')):
            wrong.append('%s: %s, not %s' % (path, match.group(1), wanted))
        elif match.group(1) not in (GPL, LGPL):
            wrong.append('%s: %s' % (path, match.group(1)))
    t.check(not wrong, 'licence lines', *wrong)


@case
def nothing_left_open(t):
    wrong = []
    for path in sources.files():
        for number, line in enumerate(sources.text(path).splitlines(), 1):
            if LEFT_OPEN.search(line):
                wrong.append('%s:%d: %s' % (path, number, line.strip()))
    t.check(not wrong, 'left open', *wrong)


@case
def no_path_of_a_machine(t):
    wrong = []
    for path in sources.files():
        for number, line in enumerate(sources.text(path).splitlines(), 1):
            if MACHINE_PATH.search(line):
                wrong.append('%s:%d: %s' % (path, number, line.strip()))
    t.check(not wrong, 'paths of one machine', *wrong)


@case
def plain_text(t):
    """Unix line ends, a newline at the end, no trailing blanks, no tabs in code."""
    wrong = []
    for path in sources.files(*sources.CODE, '.md', 'meson.build', '.txt'):
        data = sources.text(path)
        if '\r' in data:
            wrong.append('%s: carriage returns' % path)
        if data and not data.endswith('\n'):
            wrong.append('%s: no newline at the end' % path)
        for number, line in enumerate(data.splitlines(), 1):
            if line != line.rstrip():
                wrong.append('%s:%d: trailing blanks' % (path, number))
            if '\t' in line and path.endswith(('.c', '.h', '.py')):
                wrong.append('%s:%d: tab' % (path, number))
    t.check(not wrong, 'text', *wrong[:40])


@case
def no_file_grown_too_large(t):
    wrong = ['%s: %d lines' % (path, n) for path in sources.files('.c', '.h')
             for n in [sources.text(path).count('\n')] if n > SOURCE_LINES]
    t.check(not wrong, 'more than %d lines' % SOURCE_LINES, *wrong)


@case
def formatted(t):
    """clang-format of the version the style was written with."""
    tool = next((p for p in ('clang-format-14', 'clang-format') if shutil.which(p)), None)
    if tool is None:
        t.skip('no clang-format here')
    version = subprocess.run([tool, '--version'], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL).stdout
    if not re.search(r'version 14\.', version):
        t.skip('clang-format is of another version (%s), which lays out differently' % version.strip())
    paths = sources.files('.c', '.h', under=('include', 'block', 'subprojects', 'tools', 'tests'))
    result = t.run(tool, '--dry-run', '--Werror', '--style=file', *paths, cwd=sources.ROOT, rc=None)
    places = [line for line in result.err.splitlines() if 'clang-format-violations' in line]
    t.check(result.rc == 0 and not places, 'not as .clang-format says (%d places)' % len(places), *places[:25])


@case
def scripts_are_sound(t):
    for path in sources.files('.sh'):
        t.run('sh', '-n', os.path.join(sources.ROOT, path))
    for path in sources.files('.py'):
        compile(sources.text(path), path, 'exec')


@case
def mutants_apply(t):
    t.run(sys.executable, os.path.join(sources.ROOT, 'tests/crash/mutate.py'), '--list')


main()
