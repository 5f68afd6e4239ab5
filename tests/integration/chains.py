# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains of images with the content every layer must show.

The expected content is computed from the writes alone, never read back from an image.

vhdxchains.py is the same for VHDX.  A test that works for both takes one of the two modules as its maker and uses
    FORMAT, FORMAT_NAMES       what the tool calls the format
    make_chain (), describe (), paths ()
    parent_options (layers)    options without which the tool does not follow the chain
    format_of (layer)
    reads_as ()                the independent reader sees a view through a layer
    tool_reads_as ()           the tool does
    sound ()                   both checks find a layer clean
    masked (path)              what a commit into its parent may not change in an image
    linked ()                  a layer belongs to the one below it
Views are bytes here and runs there: to a test they are opaque.
"""

import os
import shutil

import harness
import vhdfile
from harness import KiB, MiB

FORMAT = 'vhd'
FORMAT_NAMES = ('vhd', 'vpc')
BLOCK_SIZES = (4 * KiB, 8 * KiB, 16 * KiB, 64 * KiB, 64 * KiB, 512 * KiB, 512 * KiB, MiB, 2 * MiB, 2 * MiB, 2 * MiB,
               4 * MiB, 16 * MiB)


class Layer:
    """One file.  @view: what a guest sees through it; @ours: written by our tool alone (so the strict rules
    of our writer apply)."""

    def __init__(self, path, kind, view, unique_id=None, ours=False, block_size=0):
        self.path, self.kind, self.view = path, kind, view
        self.unique_id, self.ours, self.block_size = unique_id, ours, block_size

    @property
    def size(self):
        return len(self.view)


def lay(view, writes, size):
    """@view resized to @size with @writes on top."""
    out = bytearray(view[:size].ljust(size, b'\0'))
    for offset, blob in writes:
        assert offset + len(blob) <= size
        out[offset:offset + len(blob)] = blob
    return bytes(out)


def random_writes(rng, size, base_view=b'', most=12, patterns=False):
    """Sector-aligned writes inside @size: data, zeros, copies of what is below.  @patterns: each of one byte."""
    writes = []
    for _ in range(rng.randrange(0, most + 1)):
        longest = rng.choice((1, 8, 8, 64, 300, 2000))
        sectors = min(rng.randrange(1, longest + 1), size // 512)
        offset = rng.randrange(0, size // 512 - sectors + 1)
        if rng.random() < 0.3:
            offset -= offset % 8
        offset, count = offset * 512, sectors * 512
        kind = rng.random()
        if kind < 0.2:
            blob = bytes(count)
        elif kind < 0.3 and not patterns:
            blob = base_view[offset:offset + count].ljust(count, b'\0')
        elif patterns or kind < 0.5:
            blob = bytes([rng.randrange(1, 256)]) * count
        else:
            blob = rng.randbytes(count)
        writes.append((offset, blob))
    return writes


def random_size(rng, largest=6 * MiB):
    limit = rng.choice((64 * KiB, MiB, largest, largest))
    size = rng.randrange(1, limit // 512 + 1) * 512
    return size - size % 4096 + 4096 if rng.random() < 0.3 else size


def tool_writes(t, path, writes, fmt='vhd', raw_parent=False):
    """The same writes through vhd-io, patterns only."""
    argv = ['-f', fmt] + (['--raw-parent'] if raw_parent else [])
    for offset, blob in writes:
        if any(blob):
            argv += ['-c', 'write -q -P %d %d %d' % (blob[0], offset, len(blob))]
        else:
            argv += ['-c', 'write -q -z %d %d' % (offset, len(blob))]
    if writes:
        t.io(*argv, path)


def make_base(t, rng, kind, size, tool_made, name='base'):
    writes = random_writes(rng, size, patterns=tool_made)
    view = lay(b'', writes, size)
    path = t.path(name + ('.raw' if kind == 'raw' else '.vhd'))
    if kind == 'raw':
        with open(path, 'wb') as f:
            f.truncate(size)
            for offset, blob in writes:
                f.seek(offset)
                f.write(blob)
        return Layer(path, kind, view)
    block_size = rng.choice(BLOCK_SIZES)
    if tool_made:
        options = 'subformat=%s' % kind + ('' if kind == 'fixed' else ',block_size=%d' % block_size)
        t.img('create', '-q', '-f', 'vhd', '-o', options, path, size)
        tool_writes(t, path, writes)
        return Layer(path, kind, view, vhdfile.Vhd(path).unique_id, ours=True, block_size=block_size)
    if kind == 'fixed':
        unique_id = os.urandom(16)
        vhdfile.write_fixed(path, size, writes, unique_id=unique_id)
        return Layer(path, kind, view, unique_id, ours=True)
    packed = rng.random() < 0.3
    made = vhdfile.write_sparse(path, size, writes, block_size=block_size, rng=rng, packed=packed,
                                gap=rng.choice((0, 0, 512, 8192)), exact_bits=rng.random() < 0.3,
                                extra_entries=rng.choice((0, 0, 0, 1, 200)),
                                batmap=block_size == 2 * MiB and rng.random() < 0.5)
    return Layer(path, kind, view, made.unique_id, block_size=block_size)


def make_child(t, rng, parent, size, tool_made, name, raw_below):
    path = t.path(name + '.vhd')
    writes = random_writes(rng, size, parent.view, patterns=tool_made)
    view = lay(parent.view, writes, size)
    block_size = rng.choice(BLOCK_SIZES)
    if tool_made:
        argv = ['create', '-q', '-f', 'vhd', '-o', 'block_size=%d' % block_size, '-b', parent.path,
                '-F', 'raw' if parent.kind == 'raw' else 'vhd']
        if raw_below:
            argv.append('--raw-parent')
        t.img(*argv, path, *([] if size == parent.size else [size]))
        tool_writes(t, path, writes, raw_parent=raw_below)
        return Layer(path, 'diff', view, vhdfile.Vhd(path).unique_id, ours=True, block_size=block_size)
    blocks = (size + block_size - 1) // block_size
    made = vhdfile.write_sparse(path, size, writes, block_size=block_size, rng=rng,
                                parent_id=parent.unique_id or bytes(16), parent_path=parent.path,
                                packed=rng.random() < 0.3, gap=rng.choice((0, 0, 512, 8192)),
                                allocate=[rng.randrange(blocks)] if rng.random() < 0.2 else [],
                                parent_timestamp=rng.choice((0, int(os.stat(parent.path).st_mtime) - vhdfile.EPOCH)),
                                batmap=block_size == 2 * MiB and rng.random() < 0.5)
    return Layer(path, 'diff', view, made.unique_id, block_size=block_size)


def make_chain(t, rng, depth, base_kind=None, allow_smaller=True, largest=6 * MiB, tool_made=None):
    """@depth differencing layers over a base; base first.  @tool_made: None mixes."""
    kind = base_kind or rng.choice(('raw', 'fixed', 'dynamic', 'dynamic'))
    size = random_size(rng, largest)
    pick = (lambda: rng.random() < 0.4) if tool_made is None else (lambda: tool_made)
    layers = [make_base(t, rng, kind, size, pick())]
    for i in range(depth):
        chance = rng.random()
        if chance < 0.25:
            size += rng.randrange(1, 2 * MiB // 512) * 512
        elif chance < 0.32 and allow_smaller and size > 1024:
            size = rng.randrange(size // 1024, size // 512) * 512
        layers.append(make_child(t, rng, layers[-1], size, pick(), 'layer%d' % (i + 1), kind == 'raw'))
    return layers


def paths(layers):
    """Of a base-first list, leaf first."""
    return [layer.path for layer in reversed(layers)]


def read_view(layers, index):
    """What the independent reader sees through layers[index]."""
    return vhdfile.link_chain(paths(layers[:index + 1])).read_all()


def parent_options(layers):
    return ['--raw-parent'] if layers[0].kind == 'raw' else []


def format_of(layer):
    return 'raw' if layer.kind == 'raw' else FORMAT


def reads_as(t, layers, index, view, what):
    t.same_content(read_view(layers, index), view, what)


def tool_reads_as(t, layer, view, what, options=()):
    if layer.kind == 'raw':
        t.same_content(harness.read_file(layer.path), view, what)
    else:
        t.same_content(t.content(layer.path, *options, fmt=FORMAT), view, what)


def sound(t, layer, leaks=False):
    if layer.kind != 'raw':
        t.sound(layer.path, ours=layer.ours, leaks=leaks)


def linked(t, layers, index):
    if layers[index - 1].unique_id is not None:
        t.equal(vhdfile.Vhd(layers[index].path).header.parent_id, layers[index - 1].unique_id, 'recorded parent')


def masked(path):
    """A file's bytes with the stored time stamp of its parent (and the checksum over it) blanked: all that
    a commit into its parent may change in an image."""
    data = bytearray(harness.read_file(path))
    if data[:8] == b'conectix':
        header = vhdfile.Vhd(path).footer.data_offset
        data[header + 36:header + 40] = bytes(4)
        data[header + 56:header + 60] = bytes(4)
    return bytes(data)


def relative_link(parent):
    """The locator of a child in its parent's directory, without a path that leads to it from elsewhere."""
    return [vhdfile.Locator.w2ru('.\\' + os.path.basename(parent.path))]


def copy_chain(t, layers, name):
    """The files again in a directory of their own; their links must be relative ones."""
    folder = t.path(name)
    shutil.rmtree(folder, True)
    os.mkdir(folder)
    for layer in layers:
        t.run('cp', '-p', '--sparse=always', layer.path, folder)
    return [Layer(os.path.join(folder, os.path.basename(x.path)), x.kind, x.view, x.unique_id, x.ours, x.block_size)
            for x in layers]


def describe(layers):
    return ' <- '.join('%s %s size=%d block=%d %s' % (os.path.basename(x.path), x.kind, x.size, x.block_size,
                                                      'tool' if x.ours else 'python') for x in layers)
