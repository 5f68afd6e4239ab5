# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's own files, for the lint tests."""

import os
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'integration'))

CODE = ('.c', '.h', '.S', '.py', '.sh', '.in', '.cpp')


def files(*suffixes, under=('',)):
    """Paths relative to the root, of version-controlled kinds: no build directories, nothing hidden but .ci."""
    found = []
    for top in under:
        for folder, folders, names in os.walk(os.path.join(ROOT, top)):
            folders[:] = sorted(f for f in folders if f == '.ci' or not (
                f.startswith(('.', 'build')) or f in ('__pycache__', 'LICENSES', 'packagecache')))
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), ROOT)
                if not suffixes or name.endswith(suffixes):
                    found.append(path)
    return found


def text(path):
    with open(os.path.join(ROOT, path), encoding='utf-8', errors='replace') as f:
        return f.read()
