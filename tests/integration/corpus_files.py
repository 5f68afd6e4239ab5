# SPDX-License-Identifier: LGPL-2.1-or-later
"""The corpus of foreign images: rows of its manifest, and unpacking into a case's directory."""

import hashlib
import lzma
import os

import harness

COLUMNS = ('file', 'sha256_unpacked', 'format', 'virtual_size', 'made_by', 'source', 'licence', 'parent',
           'content_sha256', 'readers', 'expected', 'note')


class Row:
    def __init__(self, line):
        for name, value in zip(COLUMNS, line.rstrip('\n').split('\t')):
            setattr(self, name, value)
        self.virtual_size = int(self.virtual_size)
        # What the independent checker says of sound files of other writers.
        self.tolerated = ()


def rows():
    folder = harness.corpus()
    if folder is None:
        return []
    with open(os.path.join(folder, 'MANIFEST.tsv'), encoding='utf-8') as f:
        return [Row(line) for line in f.readlines()[1:] if line.strip()]


def find(name):
    return next(row for row in rows() if row.file == name)


def unpack_file(source, path):
    """Unpacks @source to @path with holes where there are zeros; the hash of all of it."""
    digest = hashlib.sha256()
    opener = lzma.open if source.endswith('.xz') else open
    with opener(source, 'rb') as packed, open(path, 'wb') as out:
        while True:
            piece = packed.read(1 << 20)
            if not piece:
                break
            digest.update(piece)
            for at in range(0, len(piece), 65536):
                part = piece[at:at + 65536]
                if part.count(0) == len(part):
                    out.seek(len(part), 1)
                else:
                    out.write(part)
        out.truncate(out.tell())
    return digest.hexdigest()


def unpack(t, row):
    """Unpacks a file of the corpus and, into the same directory, its chain; the path of the file."""
    name = os.path.basename(row.file)
    if name.endswith('.xz'):
        name = name[:-3]
    path = t.path(name)
    found = unpack_file(os.path.join(harness.corpus(), row.file), path)
    t.equal(found, row.sha256_unpacked, 'unpacked %s' % row.file)
    parent = row.parent.split(' ')[0]
    if parent not in ('-', ''):
        above = [r for r in rows() if os.path.dirname(r.file) == os.path.dirname(row.file)
                 and os.path.basename(r.file) in (parent, parent + '.xz')]
        unpack(t, above[0])
    return path
