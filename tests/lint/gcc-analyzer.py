#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of the log of a build with -fanalyzer, the warnings that gcc-analyzer.txt does not know, and what stands there and
is not warned of any more; 1 if there is either."""

import os
import re
import sys

COMPILING = re.compile(r'^\[\d+/\d+\] Compiling C object (\S+)/(\S+)\.c\.o')


def known():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'gcc-analyzer.txt'), encoding='ascii') as f:
        return [line.partition(':')[0].split() for line in f if line.strip() and not line.startswith('#')]


def is_of(path, line, compiled):
    """A warning inside of a header, or at no place, is one of the file: its object has _ for folders in its name."""
    return path in line or (compiled and path[:-2].replace('/', '_').endswith(compiled))


def main():
    exceptions, met, wrong, compiled = known(), set(), 0, ''
    with open(sys.argv[1], encoding='utf-8', errors='replace') as f:
        for line in f:
            match = COMPILING.match(line)
            if match:
                compiled = match.group(2)
            # Tests of the subproject are built with it; what is looked at is the code.
            if '[-Wanalyzer-' not in line or 'warning: ' not in line or 'subprojects/coaio/tests/' in line:
                continue
            known_here = {n for n, (path, kind) in enumerate(exceptions)
                          if is_of(path, line, compiled) and kind in line}
            met |= known_here
            if not known_here:
                wrong += 1
                print(compiled + ': ' + line.rstrip())
    for n, (path, kind) in enumerate(exceptions):
        if n not in met:
            wrong += 1
            print('gcc-analyzer.txt: ' + path + ' ' + kind + ': there is no such warning any more')
    sys.exit(1 if wrong else 0)


main()
