# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the library shows: symbols and headers.  VHDKIT_BUILD: the build directory."""

import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sources  # noqa: E402
from harness import add, case, main  # noqa: E402

BUILD = os.environ.get('VHDKIT_BUILD', os.path.join(sources.ROOT, 'build'))
LIBRARY = os.path.join(BUILD, 'block', 'libvhdkit.so')
DECLARED = re.compile(r'\b(vhdkit_[a-z0-9_]+) \(')


@case
def users_of_the_shared_library_need_glib_alone(t):
    """What only the library itself is built with adds nothing to their compiler's flags."""
    env = {'PKG_CONFIG_PATH': os.path.join(BUILD, 'meson-private')}
    flags = t.run('pkg-config', '--cflags', 'vhdkit', env=env).out.split()
    more = [flag for flag in flags if flag not in t.run('pkg-config', '--cflags', 'glib-2.0').out.split()]
    include = t.run('pkg-config', '--variable=includedir', 'vhdkit', env=env).out.strip()
    t.check(set(more) <= {'-I' + include}, 'flags of others', *more)


def exported(t):
    out = t.run('nm', '-D', '--defined-only', LIBRARY).out
    return {line.split()[-1].split('@')[0] for line in out.splitlines() if line.split()[1] in 'TDBRVW'}


def declared():
    """Functions of the public headers, driver.h aside: it is for drivers, who link the core."""
    names = set()
    for path in sources.files('.h', under=('include/vhdkit',)):
        if path.endswith('/driver.h'):
            continue
        code = re.sub(r'/\*.*?\*/', '', sources.text(path), flags=re.S)
        names |= set(DECLARED.findall(code))
    return names


@case
def only_our_names_are_exported(t):
    strange = sorted(n for n in exported(t) if not n.startswith(('vhdkit_', 'VHDKIT_')))
    t.check(not strange, 'exported', *strange)


@case
def what_is_declared_is_exported(t):
    missing = sorted(declared() - exported(t))
    t.check(not missing, 'declared in a public header, not exported', *missing)


@case
def what_is_exported_is_declared(t):
    hidden = sorted(n for n in exported(t) - declared() if n.startswith('vhdkit_'))
    t.check(not hidden, 'exported, in no public header', *hidden)


@case
def library_needs_little(t):
    """The libraries named in the readme, and no other."""
    out = t.run('readelf', '-d', LIBRARY).out
    needed = re.findall(r'NEEDED.*\[(.*?)\.so', out)
    known = {'libc', 'libglib-2', 'libglib-2.0', 'libgobject-2.0', 'libgmodule-2.0', 'libgio-2.0', 'libaio', 'liburing',
             'libuuid', 'libext2fs', 'libpthread', 'ld-linux-x86-64', 'libasan', 'libubsan', 'libtsan', 'libgcc_s', 'libm'}
    t.check(set(needed) <= known, 'needs', *sorted(set(needed) - known))


def glib_flags(t):
    return t.run('pkg-config', '--cflags', 'glib-2.0').out.split()


def compiles_alone(t, header, language, standard, compilers):
    compiler = next((c for c in compilers if shutil.which(c)), None)
    if compiler is None:
        t.skip('no compiler for %s' % language)
    flags = ['-std=' + standard, '-pedantic', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', '-x', language]
    if header == 'driver.h':
        # Drivers are GNU C: coroutine_fn and friends are attributes.
        flags.remove('-pedantic')
    with open(t.path('alone'), 'w') as f:
        f.write('#include <vhdkit/%s>\nextern int something;\n' % header)
    t.run(compiler, *flags, '-I' + os.path.join(sources.ROOT, 'include'), '-I' + os.path.join(BUILD, 'include'),
          '-I' + os.path.join(sources.ROOT, 'subprojects', 'coaio', 'include'),
          *['-isystem' + f[2:] if f.startswith('-I') else f for f in glib_flags(t)], t.path('alone'))


for name in sorted(os.path.basename(p) for p in sources.files('.h', under=('include/vhdkit',))) + ['version.h']:
    add('alone-as-C11-' + name, compiles_alone, name, 'c', 'c11', ('gcc', 'clang'))
    add('alone-as-C++-' + name, compiles_alone, name, 'c++', 'c++11', ('g++', 'clang++'))


main()
