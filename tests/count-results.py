#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts test cases in the logs of meson test (testlog.json), for tests/run.sh.

A program that speaks TAP counts with every case it names; any other program is one case.  A program that
failed without a failed case (it crashed, timed out, or said less than its plan) is one failed case more.
Failures are printed with what was said of them, skips with their reason, and what took longest.

With --add FILE the counts are added to those kept in FILE, --one with it adds a single case that no log has;
--total FILE prints them as the closing line.
"""

import argparse
import json
import re
import sys

LINE = re.compile(r'^(not )?ok\b\s*(\d*)\s*(?:-\s*)?(.*)$')
SHOWN = 12
DIRECTIVE = re.compile(r'(.*?)\s*#\s*SKIP\S*\s*(.*)$', re.I)


def cases(stdout):
    """(name, result, detail lines) of a TAP stream; result: ok, fail, or skip with its reason."""
    found, plan = [], None
    for line in stdout.splitlines():
        match = LINE.match(line)
        if match:
            name, reason = match.group(3), None
            directive = DIRECTIVE.match(name)
            if directive:
                name, reason = directive.groups()
            result = 'skip' if reason is not None else 'fail' if match.group(1) else 'ok'
            found.append([name or match.group(2), result, [reason] if reason else []])
        elif re.match(r'^1\.\.(\d+)', line):
            plan = int(line[3:].split()[0])
            if plan == 0:
                found.append(['whole program', 'skip', [line.partition('#')[2].strip() or 'no reason given']])
                plan = 1
        elif found and line.startswith('#') and found[-1][1] == 'fail':
            found[-1][2].append(line[1:].strip())
    return found, plan


def read_log(path, label):
    counts = {'ok': 0, 'fail': 0, 'skip': 0}
    seconds = []
    with open(path, encoding='utf-8') as f:
        for line in f:
            test = json.loads(line)
            seconds.append((test.get('duration') or 0, test['name'].rpartition('/')[2].strip()))
            name = '%s%s' % (label + ' ' if label else '', test['name'])
            said = test.get('stdout') or ''
            found, plan = cases(said) if re.search(r'^1\.\.\d', said, re.M) else ([], None)
            for case, result, detail in found:
                counts[result] += 1
                if result == 'skip':
                    print('skipped: %s: %s: %s' % (name, case, ' '.join(detail) or 'no reason given'))
                elif result == 'fail':
                    print('FAILED: %s: %s' % (name, case))
                    for text in detail[:40]:
                        print('    ' + text)
            bad = test['result'] not in ('OK', 'EXPECTEDFAIL', 'SKIP')
            if not found and not bad:
                counts['skip' if test['result'] == 'SKIP' else 'ok'] += 1
                if test['result'] == 'SKIP':
                    print('skipped: %s: %s' % (name, (said.strip().splitlines() or ['no reason given'])[-1]))
            short = plan is not None and plan != len(found)
            if (bad or short) and not any(result == 'fail' for _, result, _ in found):
                counts['fail'] += 1
                print('FAILED: %s: %s, exit status %s, %d of %s cases' %
                      (name, test['result'].lower(), test.get('returncode'), len(found), plan))
                for text in (said + (test.get('stderr') or '')).splitlines()[-30:]:
                    print('    ' + text)
    print('longest: ' + ', '.join('%s %.0f s' % (name, duration) for duration, name in sorted(seconds, reverse=True)[:SHOWN]))
    return counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--add', metavar='FILE')
    parser.add_argument('--total', metavar='FILE')
    parser.add_argument('--one', choices=('fail', 'skip'), help='one case of this result, without a log')
    parser.add_argument('--label', default='')
    parser.add_argument('log', nargs='?')
    args = parser.parse_args()
    kept = args.add or args.total
    total = {'ok': 0, 'fail': 0, 'skip': 0}
    if kept:
        try:
            with open(kept, encoding='utf-8') as f:
                total = json.load(f)
        except FileNotFoundError:
            pass
    if args.one:
        total[args.one] += 1
    if args.log:
        try:
            counts = read_log(args.log, args.label)
        except (OSError, ValueError) as e:
            print('FAILED: %s: no log of the run: %s' % (args.label, e))
            counts = {'ok': 0, 'fail': 1, 'skip': 0}
        for key, value in counts.items():
            total[key] += value
        print('%s%d ok, %d not, %d left out' % (args.label + ': ' if args.label else '', counts['ok'], counts['fail'],
                                               counts['skip']))
    if args.add:
        with open(args.add, 'w', encoding='utf-8') as f:
            json.dump(total, f)
    if args.total:
        print('%d passed, %d failed, %d skipped' % (total['ok'], total['fail'], total['skip']))
        if total['fail'] or not total['ok']:
            sys.exit(1)


main()
