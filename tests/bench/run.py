#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's benchmark: how far from the raw device, or from the least work a job can do, we are.

    python3 tests/bench/run.py [GROUP ...]      groups: engine format allocate commit layers reflink compact info,
                                                of VHD; vhdx-open vhdx-format vhdx-allocate vhdx-convert vhdx-commit
                                                vhdx-layers vhdx-reflink vhdx-compact, or
                                                vhdx: these

Every figure is a ratio of interleaved runs, the median of the pairs, with its quartiles; a ratio of rates is
better when larger, one of times when smaller.  A time of day on a shared disk says little: BENCH_DIR on tmpfs
gives the cost of our own layers, BENCH_DIR on a disk the rest.

A disk's rate depends on where a file lies by more than a format costs, and changes from second to second.  So
both sides use the same blocks of the same file, for a short time, often, and take turns to be the first.

Environment: VHD_IMG (the tool; build/tools/vhd-img), BENCH_DIR (/var/tmp), RUNS (5 for jobs; 20 for rates),
SCALE (1: gigabytes; 0.1 is a smoke run), SECONDS_PER_CELL (of a run that measures a rate; 0.3).  --json prints
one JSON object a line as well.
"""

import atexit
import os
import shutil
import sys
import tempfile

import images
import jobs
import requests
from common import RUNS, SCALE, sh, tool

VHDX_GROUPS = {
    'vhdx-open': images.vhdx_open, 'vhdx-format': requests.vhdx_format, 'vhdx-allocate': requests.vhdx_allocate,
    'vhdx-convert': images.vhdx_convert, 'vhdx-commit': lambda: jobs.commit_of('vhdx'),
    'vhdx-layers': lambda: jobs.layers_of('vhdx'), 'vhdx-reflink': lambda: jobs.reflink_of('vhdx'),
    'vhdx-compact': lambda: jobs.compact_of('vhdx'),
}
GROUPS = {
    'engine': requests.engine, 'format': requests.format_layer, 'allocate': requests.allocate,
    'commit': lambda: jobs.commit_of('vhd'), 'layers': lambda: jobs.layers_of('vhd'), 'reflink': lambda: jobs.reflink_of('vhd'),
    'compact': lambda: jobs.compact_of('vhd'), 'info': images.info, **VHDX_GROUPS,
}


def main():
    wanted = [a for a in sys.argv[1:] if not a.startswith('-')] or list(GROUPS)
    wanted = [name for a in wanted for name in (VHDX_GROUPS if a == 'vhdx' else [a])]
    unknown = set(wanted) - set(GROUPS)
    if unknown or '--help' in sys.argv:
        sys.exit(__doc__.strip() + ('\n\nunknown: ' + ' '.join(unknown) if unknown else ''))
    scratch = tempfile.mkdtemp(prefix='vhdkit-bench.', dir=os.environ.get('BENCH_DIR', '/var/tmp'))
    atexit.register(shutil.rmtree, scratch, True)
    os.chdir(scratch)
    print('%s, %d runs, scale %g, in %s (%s)' % (sh(tool('--version')).strip(), RUNS, SCALE, os.path.dirname(scratch),
                                                 sh('stat -f -c %T .').strip()), flush=True)
    for name in wanted:
        GROUPS[name]()
        for left in os.listdir('.'):
            os.unlink(left)


main()
