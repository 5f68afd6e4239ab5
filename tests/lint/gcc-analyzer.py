#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of the log of a build with -fanalyzer, the warnings that gcc-analyzer.txt does not know; 1 if there are any."""

import os
import re
import sys

COMPILING = re.compile(r'^\[\d+/\d+\] Compiling C object (\S+)/(\S+)\.c\.o')


def known():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'gcc-analyzer.txt'), encoding='ascii') as f:
        return [line.partition(':')[0].split() for line in f if line.strip() and not line.startswith('#')]


def main():
    wrong, compiled = 0, ''
    with open(sys.argv[1], encoding='utf-8', errors='replace') as f:
        for line in f:
            match = COMPILING.match(line)
            if match:
                compiled = match.group(2)
            if '[-Wanalyzer-' not in line or 'warning: ' not in line:
                continue
            # A warning inside of a header, or at no place, is one of the file: its object has _ for folders in its name.
            # Tests of the subproject are built with it; what is looked at is the code.
            if not any((path in line or (compiled and path[:-2].replace('/', '_').endswith(compiled))) and kind in line
                       for path, kind in known()) and 'subprojects/coaio/tests/' not in line:
                wrong += 1
                print(compiled + ': ' + line.rstrip())
    sys.exit(1 if wrong else 0)


main()
