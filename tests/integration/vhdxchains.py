# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains of VHDX images with the content every layer must show; what chains.py is for VHD.

The expected content is computed from the writes alone, as runs (views.Content), so disks may be large.  Everything a
test needs of either maker has the same name in both; see the list in chains.py.
"""

import hashlib
import os

import chains
import vhdxcheck
import vhdxdirty
import vhdxread
import views
from chains import Layer, describe, paths  # noqa: F401
from harness import GiB, MiB
from vhdxformat import FULL, LOCATOR, PARTIAL, TiB, UNDEFINED, UNMAPPED, ZERO
from vhdxmake import Maker

FORMAT = 'vhdx'
FORMAT_NAMES = ('vhdx',)
BLOCK_SIZES = (MiB, MiB, MiB, 2 * MiB, 2 * MiB, 4 * MiB, 8 * MiB, 16 * MiB, 32 * MiB)
LARGEST_FIXED = 24 * MiB
OTHER_SECTORS = 0.2


class Plan:
    """What the layers of one chain have in common: the sector size, and the places where they meet."""

    def __init__(self, rng, kind):
        self.sector = 4096 if rng.random() < OTHER_SECTORS else 512
        if kind == 'fixed':
            largest = rng.choice((MiB, 8 * MiB, LARGEST_FIXED))
        else:
            largest = rng.choice((MiB, 8 * MiB, 8 * MiB, 64 * MiB, 10 * GiB, 3 * TiB))
        self.fixed = kind == 'fixed'
        self.size = rng.randrange(1, largest // self.sector + 1) * self.sector
        self.places = [0, self.size] + [rng.randrange(self.size) for _ in range(3)]
        # The end of a chunk's blocks, where its bitmap entry stands between theirs.
        chunk = self.sector << 23
        self.places += [chunk] * (self.size > chunk)

    def grown(self, rng):
        return self.size + rng.randrange(1, (4 * MiB if self.fixed or rng.random() < 0.7 else 5 * GiB) //
                                         self.sector) * self.sector


def random_writes(rng, plan, size, below, most=8, patterns=False):
    """Whole sectors near the places where the layers meet: data, zeros, copies of what is below."""
    writes, sector = [], plan.sector
    for _ in range(rng.randrange(0, most + 1)):
        sectors = min(rng.randrange(1, rng.choice((1, 8, 8, 64, 300, 2500)) + 1), size // sector)
        at = rng.choice(plan.places) // sector + rng.choice((0, 0, 1, -1)) * rng.randrange(rng.choice((9, 3000, 20000)))
        at = max(0, min(at, size // sector - sectors))
        offset, count = at * sector, sectors * sector
        kind = rng.random()
        if kind < 0.2:
            blob = bytes(count)
        elif kind < 0.3 and not patterns:
            blob = below.read(offset, count)
        elif patterns or kind < 0.5:
            blob = bytes([rng.randrange(1, 256)]) * count
        else:
            blob = rng.randbytes(count)
        writes.append((offset, blob))
    return writes


def random_states(rng, plan, size, block_size, kind):
    """Blocks near those places in other states than the writes would give them."""
    if kind == 'fixed':
        return {}
    states = {}
    for _ in range(rng.randrange(0, 5)):
        block = (min(rng.choice(plan.places), size - 1) + rng.choice((-1, 0, 0, 1)) * block_size) // block_size
        if 0 <= block * block_size < size:
            states[block] = rng.choice((UNDEFINED, ZERO, UNMAPPED, FULL) + (PARTIAL,) * (kind == 'differencing'))
    return states


def make_layer(t, rng, plan, name, kind, parent=None, size=None, tool_made=False, dirty=0.15):
    size = size or plan.size
    path, block_size = t.path(name + '.vhdx'), rng.choice(BLOCK_SIZES)
    below = parent.view if parent else views.Content(0)
    writes = random_writes(rng, plan, size, below, patterns=tool_made)
    if tool_made:
        options = 'block_size=%d' % block_size
        if parent is None:
            options += ',subformat=%s' % kind
            if plan.sector != 512:
                options += ',logical_sector_size=%d' % plan.sector
        argv = ['create', '-q', '-f', 'vhdx', '-o', options]
        argv += ['-b', parent.path, '-F', 'vhdx'] if parent else []
        t.img(*argv, path, size)
        chains.tool_writes(t, path, writes, fmt='vhdx')
        view = below.lay(writes, size)
    else:
        maker = Maker(path, size, writes, block_size=block_size, sector=plan.sector, kind=kind, rng=rng,
                      states=random_states(rng, plan, size, block_size, kind), gaps=rng.choice((0, 0, 0.3)),
                      below=parent.view if parent else None, parent_path=parent.path if parent else None,
                      parent_guid=vhdxread.Image(parent.path).data_write_guid if parent else None,
                      disk_id=vhdxread.Image(parent.path).disk_id if parent else None)
        maker.strange_but_legal()
        maker.write()
        view = maker.view()
        if rng.random() < dirty:
            vhdxdirty.make_dirty(path, rng)
    shown = 'diff' if kind == 'differencing' else kind
    return Layer(path, shown, view, vhdxread.Image(path).data_write_guid, ours=tool_made, block_size=block_size)


def make_chain(t, rng, depth, base_kind=None, allow_smaller=True, tool_made=None, dirty=0.15):
    """@depth differencing layers over a base; base first.  @tool_made: None mixes."""
    kind = base_kind or rng.choice(('fixed', 'dynamic', 'dynamic', 'dynamic'))
    plan = Plan(rng, kind)
    pick = (lambda: rng.random() < 0.4) if tool_made is None else (lambda: tool_made)
    layers = [make_layer(t, rng, plan, 'base', kind, tool_made=pick(), dirty=dirty)]
    for i in range(depth):
        size = layers[-1].size
        chance = rng.random()
        if chance < 0.25:
            plan.size = size
            size = plan.grown(rng)
        elif chance < 0.32 and allow_smaller and size > 2 * plan.sector:
            size = rng.randrange(size // plan.sector // 2, size // plan.sector) * plan.sector
        layers.append(make_layer(t, rng, plan, 'layer%d' % (i + 1), 'differencing', layers[-1], size, pick(), dirty))
    return layers


def write_layer(t, name, size, writes, kind='dynamic', parent=None, rng=None, **options):
    """One image of given writes; its links are relative ones."""
    path, below = t.path(name), parent.view if parent else None
    image = parent and vhdxread.Image(parent.path)
    maker = Maker(path, size, writes, kind=kind, below=below, rng=rng, parent_path=parent and parent.path,
                  parent_guid=image and image.data_write_guid, disk_id=image and image.disk_id, **options)
    maker.write()
    return Layer(path, 'diff' if parent else kind, maker.view(), maker.vhdx.data_write_guid,
                 block_size=maker.geo.block_size)


# --- judging, with the names of chains.py -----------------------------------------------------------------------


def parent_options(layers):
    return []


def format_of(layer):
    return FORMAT


def reads_as(t, layers, index, view, what):
    """What the independent reader sees through layers[index], found by the links in the files."""
    image = vhdxread.open_chain(layers[index].path)
    try:
        views.same(t, image, view, what)
    finally:
        image.close()


def tool_reads_as(t, layer, view, what, options=()):
    out = t.path('content.raw')
    t.img('convert', '-q', '-f', FORMAT, *options, '-O', 'raw', layer.path, out)
    try:
        views.same(t, views.RawFile(out), view, what)
    finally:
        os.unlink(out)


def sound(t, layer, leaks=False):
    """Clean by our check command and by the independent one.  @leaks: lost space is no fault."""
    tolerated = ('leak',) if leaks else ()
    if not layer.ours:
        tolerated += ('warning',)
    found = [str(f) for f in vhdxcheck.check(layer.path) if f.severity not in tolerated]
    t.check(not found, 'independent check of %s' % layer.path, *found)
    return t.img('check', '-f', FORMAT, layer.path, rc=(0, 3) if leaks else 0)


def masked(path):
    """A digest of all that a commit into its parent may not change in an image: the guest's data, the table, the
    metadata but for the identities of the parent, its own identity.  Log, headers and file length may change."""
    image = vhdxread.Image(path)
    digest = hashlib.sha256(image.data_write_guid.bytes)
    for (guid, flag), content in sorted(image.content.items()):
        if guid == LOCATOR and image.differencing:
            content = repr(sorted((key, value) for key, value in image.locator.items()
                                  if not key.startswith('parent_linkage'))).encode()
        digest.update(guid.bytes + bytes([flag]) + content)
    for region in sorted(image.regions, key=lambda region: region.guid):
        digest.update(region.guid.bytes + b'%d %d' % (region.offset, region.length))
    for first, values, bitmap in image.chunks():
        if values is None:
            continue
        digest.update(b'%d %d' % (first, bitmap) + values.tobytes())
        for block, value in enumerate(values, first):
            if value & 7 == PARTIAL:
                digest.update(image.bits(block, bitmap))
    for start, end, where in image.pieces(0, image.size):
        while isinstance(where, int) and start < end:
            count = min(MiB, end - start)
            digest.update(image.file.read(where, count))
            start, where = start + count, where + count
    image.close()
    return digest.hexdigest()


def linked(t, layers, index):
    """layers[index] accepts the parent below it, and no merge is left half done."""
    image, parent = vhdxread.Image(layers[index].path), vhdxread.Image(layers[index - 1].path)
    t.check(image.accepts(parent), '%s no longer accepts its parent' % image.path)
    t.check(image.active or len(image.linkages()) == 1, '%s: a merge is left half done' % image.path)
