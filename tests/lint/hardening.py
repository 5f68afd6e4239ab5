# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the built programs and the library have against mistakes of ours: read from the files, not from options."""

import glob
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sources  # noqa: E402, F401
from harness import add, case, main, tool  # noqa: E402

BUILD = os.environ.get('VHDKIT_BUILD', '')


def option(name):
    with open(os.path.join(BUILD, 'meson-info', 'intro-buildoptions.json'), encoding='utf-8') as f:
        return next(o['value'] for o in json.load(f) if o['name'] == name)


def library():
    return next(path for path in glob.glob(os.path.join(BUILD, 'block', 'libvhdkit.so.*'))
                if os.path.isfile(path) and not os.path.islink(path))


def hardened(t, path):
    t.need('readelf')
    header, segments, dynamic = (t.run('readelf', '-W', o, path).out for o in ('-h', '-l', '-d'))
    t.check('DYN' in header, 'not position-independent', header)
    t.check('GNU_RELRO' in segments, 'no RELRO', segments)
    t.check('BIND_NOW' in dynamic or 'Flags: NOW' in dynamic, 'symbols are bound late, the table stays writable', dynamic)
    stack = [line.split() for line in segments.splitlines() if 'GNU_STACK' in line]
    t.check(stack and 'E' not in stack[0][6], 'executable stack', segments)
    wx = [line for line in segments.splitlines() if line.strip().startswith('LOAD') and 'RWE' in line]
    t.check(not wx, 'a segment that can be written and executed', *wx)
    t.check('TEXTREL' not in dynamic, 'relocations in the code', dynamic)


def compiled(t, path):
    """What the compiler does leaves calls and notes."""
    t.need('readelf')
    if option('b_sanitize') not in ('none', '', []):
        t.skip('of a build with sanitizers')
    symbols = t.run('readelf', '-W', '--dyn-syms', path).out
    t.check('__stack_chk_fail' in symbols, 'no stack protector', symbols)
    if option('optimization') not in ('0', 'plain'):
        t.check('_chk@' in symbols.replace('__stack_chk_fail', ''), 'no fortified function', symbols)
    if 'X86-64' in t.run('readelf', '-h', path).out:
        # The mark of the file is of no use to look for: the C library's start files may be without.
        with open(path, 'rb') as f:
            pads = f.read().count(b'\xf3\x0f\x1e\xfa')
        t.check(pads > 100, 'landing pads of indirect branches', pads)


for label, path in (('vhd-img', lambda: tool('vhd-img')), ('vhd-io', lambda: tool('vhd-io')), ('library', library)):
    add(label + '-file', lambda t, path: hardened(t, path()), path)
    add(label + '-code', lambda t, path: compiled(t, path()), path)


@case
def no_path_of_libraries_is_installed(t):
    """Programs find libraries where the system has them; meson takes its own path out on installing."""
    t.need('readelf')
    dynamic = t.run('readelf', '-W', '-d', library()).out
    t.check('RPATH' not in dynamic and 'RUNPATH' not in dynamic, 'a search path of libraries', dynamic)


main()
