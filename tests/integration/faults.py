# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every single request of a job failing once: shared by the fault- tests."""

import os
import random

from harness import Failed

LIMIT = int(os.environ.get('VHDKIT_FAULTS', '400'))
# 1: every request; slow builds may look at every third.
STRIDE = int(os.environ.get('VHDKIT_FAULT_STRIDE', '1'))
# So many requests in a row may fail without being noticed: those of a look at the guest's partitions and file systems.
IGNORED = 40
ERRORS = {'EIO': 5, 'ENOSPC': 28}


def every_request(t, restore, argv, after_failure, after_success, errno, op='any'):
    """Runs @argv with the n-th request of kind @op failing, for n = 1 ... until it gets through.

    @restore () puts the pristine files back before each run.  A failed run says so once and is looked at by
    @after_failure (n); @after_success () looks at the run that got through.  Returns the number of failures.
    """
    failures = 0
    noticed = 0  # the next request whose failure is known to be
    for n in range(random.randint(1, STRIDE), LIMIT + 1, STRIDE):
        restore()
        command = [argv[0], '--filter', 'blkdebug,op=%s,n=%d,errno=%d' % (op, n, ERRORS[errno]), *argv[1:]]
        result = t.img(*command, rc=None)
        try:
            if result.rc == 0:
                after_success()
                # A request whose failure may be ignored (a hint, a look at free space) does not end the series.
                if noticed <= n:
                    noticed = _next_noticed(t, restore, argv, n, errno, op)
                if noticed is None:
                    return failures
                continue
            failures += 1
            t.refused(result)
            after_failure(n)
        except Failed as e:
            raise Failed('request %d, %s: %s\n%s' % (n, errno, ' '.join(map(str, command)), e)) from e
    raise Failed('still failing after %d requests' % LIMIT)


def _next_noticed(t, restore, argv, n, errno, op):
    """The first request behind the @n-th whose failure is noticed; None: there is none among the next ones."""
    for further in range(n + 1, n + 1 + IGNORED):
        restore()
        if t.img(argv[0], '--filter', 'blkdebug,op=%s,n=%d,errno=%d' % (op, further, ERRORS[errno]), *argv[1:],
                 rc=None).rc != 0:
            return further
    return None
