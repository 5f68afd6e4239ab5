# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every #include of ours goes where floors.txt allows."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sources  # noqa: E402
from harness import add, case, main  # noqa: E402

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
PUBLIC = {'vhdkit': 'include/vhdkit', 'coaio': 'subprojects/coaio/include/coaio'}


def allowed():
    edges = {}
    for line in sources.text('tests/lint/floors.txt').splitlines():
        line = line.split('#')[0].strip()
        if line:
            folder, _, targets = line.partition(':')
            edges[folder.strip()] = targets.split()
    return edges


EDGES = allowed()
HEADERS = set(sources.files('.h', under=('include', 'block', 'subprojects', 'tools')))
BY_NAME = {}
for header in HEADERS:
    BY_NAME.setdefault(os.path.basename(header), []).append(header)


def resolve(path, name):
    """The project's header that @name means in @path, or None for one of the system or a generated one."""
    first = name.split('/')[0]
    if '/' in name and first in PUBLIC:
        return os.path.join(PUBLIC[first], name[len(first) + 1:])
    local = os.path.normpath(os.path.join(os.path.dirname(path), name))
    if local in HEADERS:
        return local
    for header in BY_NAME.get(os.path.basename(name), []):
        if header.endswith('/' + name):
            return header
    return None


def folder_keeps_its_floor(t, folder):
    wrong = []
    for path in sources.files('.c', '.h', under=(folder,)):
        if os.path.dirname(path) != folder:
            continue
        for _, name in INCLUDE.findall(sources.text(path)):
            header = resolve(path, name)
            if header is None or os.path.dirname(header) == folder:
                continue
            if header not in EDGES[folder] and os.path.dirname(header) not in EDGES[folder]:
                wrong.append('%s includes %s' % (path, header))
    t.check(not wrong, 'includes that leave the floor', *wrong)


@case
def every_folder_is_listed(t):
    folders = {os.path.dirname(p) for p in sources.files('.c', '.h', under=('include', 'block', 'subprojects', 'tools'))}
    t.check(folders <= set(EDGES), 'not in tests/lint/floors.txt', *sorted(folders - set(EDGES)))


for folder in EDGES:
    if os.path.isdir(os.path.join(sources.ROOT, folder)):
        add('floor-of-' + folder.replace('/', '-'), folder_keeps_its_floor, folder)


@case
def core_and_jobs_name_no_format(t):
    """What a job needs from a format is an op, never a name."""
    wrong = []
    for path in sources.files('.c', '.h', under=('block/core', 'block/jobs')):
        code = re.sub(r'/\*.*?\*/', '', sources.text(path), flags=re.S)
        wrong += ['%s: %s' % (path, match) for match in re.findall(r'"(?:vhd|vpc|vhdx|qcow2)"', code)]
    t.check(not wrong, 'format names', *wrong)


main()
