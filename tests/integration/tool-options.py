# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options of the programs: the table the parser reads, --help and the manual pages say the same."""

import re

from harness import MiB, add, case, main, tool, vhdfile

PROGRAMS = ('vhd-img', 'vhd-io')
# Something that is accepted as the value of an option, by what the help calls it.
VALUES = {'FMT': 'vhd', 'MODE': 'none', 'FORMAT': 'json', 'BYTE': '7', 'N': '3', 'C:=DIR': 'C:=.'}


def table(t, program):
    """Rows: command, letter, long name, name of the value, section."""
    rows = [line.split('\t') for line in t.run(tool(program), '--print-options').out.splitlines()]
    t.check(len(rows) > 20 and all(len(row) == 5 for row in rows), 'table', rows[:5])
    return rows


def spellings(row):
    return [s for s in (row[1] and '-' + row[1], row[2] and '--' + row[2]) if s]


def command_line(program, command):
    return [tool(program)] if command == program else [tool(program), command]


def parser_and_help(t, program):
    """Every option of the table is parsed and documented; help names none that the table has not."""
    helps = {}
    for row in table(t, program):
        command, section = row[0], row[4]
        if program == 'vhd-io' and command != program:
            continue
        start = command_line(program, command)
        if command not in helps:
            helps[command] = t.run(*start, '--help').out
        value = [VALUES.get(row[3], '1')] if row[3] else []
        for spelling in spellings(row):
            t.run(*start, spelling, *value, '--help')
            documented = re.search(r'^ .*(?<![\w-])%s(?![\w-])' % re.escape(spelling), helps[command], re.M)
            t.equal(bool(documented), section != 'testing', '%s in the help of %s' % (spelling, command))
    for command, text in helps.items():
        known = {s for row in table(t, program) if row[0] == command for s in spellings(row)}
        for line in text.splitlines():
            match = re.match(r' {2,6}(-.*?)(?:  |$)', line)
            for part in match.group(1).split(', ') if match else []:
                name = re.split('[ =[]', part)[0]
                t.check(name in known, '%s: %s is in the help only' % (command, name))


def manual_page(t, program):
    page = t.run(tool(program), '--print-man').out.replace('\\-', '-')
    for row in table(t, program):
        for spelling in spellings(row):
            t.check(re.search(r'^\.B .*(?<![\w-])%s(?![\w-])' % re.escape(spelling), page, re.M),
                    '%s of %s is not in the manual page' % (spelling, row[0]))
    for section in ('NAME', 'SYNOPSIS', 'DESCRIPTION', 'COMMANDS', 'TESTING'):
        t.check('.SH %s\n' % section in page, 'no section %s' % section)


def help_of_commands(t, program):
    """Inside of vhd-io, 'help COMMAND' shows the options of the table."""
    with open(t.path('x.raw'), 'wb') as f:
        f.truncate(MiB)
    for row in table(t, program):
        if row[0] != program:
            text = t.io('-f', 'raw', '-r', '-c', 'help ' + row[0], t.path('x.raw')).out
            for spelling in spellings(row):
                t.check(re.search(r'^  %s\b' % spelling, text, re.M), '%s: no %s' % (row[0], spelling), text)


@case
def help_lists_commands(t):
    text = t.io('--help').out
    for command in {row[0] for row in table(t, 'vhd-io')} - {'vhd-io'}:
        t.check(re.search(r'^  %s\b' % command, text, re.M), 'no ' + command, text)


for program in PROGRAMS:
    add(program + '-parser-and-help', parser_and_help, program)
    add(program + '-manual-page', manual_page, program)
add('vhd-io-help-of-commands', help_of_commands, 'vhd-io')


def size(t, text, expected):
    """A size as create takes it; None: refused, in one line, with nothing left behind."""
    result = t.img('create', '-q', '-f', 'raw', '--', t.path('x.raw'), text, rc=0 if expected is not None else 1)
    if expected is None:
        t.refused(result, 'size')
    else:
        t.equal(t.img('info', '--output=json', '-f', 'raw', t.path('x.raw')).json['virtual-size'], expected, text)


for text, expected in (('4096', 4096), ('4k', 4096), ('4K', 4096), ('1M', MiB), ('1.5M', 3 * MiB // 2), ('0x1000', 4096),
                       ('512b', 512), ('0.5k', 512), ('', None), ('M', None), ('1.5', None), ('1X', None), ('1MM', None),
                       ('0x', None), ('-1', None), ('8E', None), ('99999999999999999999', None), ('1.M', None)):
    add('size-%s' % (text or 'empty'), size, text, expected)


@case
def values_joined_to_letters_and_abbreviations(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB, [(0, b'\1' * 512)])
    t.img('convert', '-qfvpc', '-Oraw', '-m4', t.path('x.vhd'), t.path('o.raw'))
    t.img('info', '--backing', '--out', 'json', t.path('x.vhd'))
    t.img('compare', t.path('x.vhd'), '-q', '-F', 'raw', t.path('o.raw'))


@case
def values_out_of_range(t):
    vhdfile.write_sparse(t.path('x.vhd'), MiB)
    for argv in (('convert', '-m', '17', 'x.vhd', 'o'), ('convert', '-S', 'x', 'x.vhd', 'o'),
                 ('bench', '-d', '0', 'x.vhd'), ('info', '--output=xml', 'x.vhd'), ('bench', '-t', 'odd', 'x.vhd'),
                 ('check', '-r', 'some', 'x.vhd'), ('commit', '--depth', '0', 'x.vhd'), ('convert', '-c', 'x.vhd', 'o'),
                 ('convert', '--target-is-zero', 'x.vhd', 'o'), ('bench', '--no-drain', 'x.vhd')):
        t.refused(t.img(*argv, rc=1))


@case
def text_of_an_image_is_made_safe(t):
    """Names in an image may hold anything; a terminal must not see it."""
    parent = vhdfile.write_sparse(t.path('p.vhd'), MiB)
    vhdfile.write_sparse(t.path('c.vhd'), MiB, parent_id=parent.unique_id, parent_path='/tmp/\x1b[31m\nred')
    result = t.img('info', t.path('c.vhd'), rc=None)
    t.check('\x1b' not in result.out + result.err and '\nred' not in result.out + result.err, 'escapes', result)
    t.img('info', '--output=json', t.path('c.vhd'), rc=0).json


main()
