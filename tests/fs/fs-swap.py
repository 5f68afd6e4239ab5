# SPDX-License-Identifier: LGPL-2.1-or-later
"""Linux swap space."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fsharness import (KiB, MiB, add, case, in_use, main, make_file, patch, report, swap_header, usable)  # noqa: E402

SIZE = 8 * MiB


def swap(t, **what):
    path = make_file(t.path('swap.img'), SIZE)
    patch(path, 0, swap_header(SIZE, **what))
    return path


def as_mkswap_makes_it(t, page):
    t.need('mkswap')
    path = make_file(t.path('swap.img'), SIZE + 3 * KiB)
    os.chmod(path, 0o600)
    t.run('mkswap', '-p', page, '-L', 'paging', path)
    found = report(t, path)
    t.equal(found['free'], [[page, SIZE - page]], 'free')
    t.equal(found['volumes'][0]['type'], 'swap', 'type')
    t.equal(found['volumes'][0]['label'], 'paging', 'label')


for page in (4096, 8192, 16384, 32768, 65536):
    add('mkswap-%d' % page, as_mkswap_makes_it, page)


@case
def of_the_other_byte_order(t):
    t.equal(report(t, swap(t, order='big'))['free'], [[4096, SIZE - 4096]], 'free')


@case
def bad_pages(t):
    found = report(t, swap(t, bad=(1, 9, 7, 8, SIZE // 4096 - 1)))
    t.equal(found['free'], [[2 * 4096, 5 * 4096], [10 * 4096, SIZE - 11 * 4096]], 'free')
    in_use(t, swap(t, bad=(SIZE // 4096,)), 'bad page 2048', 'expected 1..2047')
    in_use(t, swap(t, bad=(0,)), 'bad page 0')
    path = swap(t)
    patch(path, 1024 + 8, (638).to_bytes(4, 'little'))
    in_use(t, path, '638 bad pages')


@case
def shorter_than_the_volume(t):
    t.equal(report(t, swap(t, last=99))['free'], [[4096, 99 * 4096]], 'free')


def hibernated(t, signature):
    in_use(t, swap(t, signature=signature), 'hibernated')


for signature in (b'S1SUSPEND\0', b'S2SUSPEND\0', b'ULSUSPEND\0', b'LINHIB0001', b'\xed\xc3\x02\xe9\x98\x56\xe5\x0c\0\0'):
    add('hibernated-%s' % signature[:4].hex(), hibernated, signature)


@case
def headers_that_are_wrong(t):
    in_use(t, swap(t, last=SIZE // 4096), 'last page 2048', 'expected 1..2047')
    in_use(t, swap(t, last=0), 'last page 0')
    in_use(t, swap(t, last=0xffffffff), 'last page 4294967295')
    in_use(t, swap(t, version=2), 'version 2')
    in_use(t, swap(t, signature=b'SWAP-SPACE'), 'version 0')


@case
def two_sizes_of_pages(t):
    path = swap(t)
    patch(path, 8192 - 10, b'SWAPSPACE2')
    in_use(t, path, 'pages of 4096 and of 8192')
    patch(path, 8192 - 10, b'LINHIB0001')
    in_use(t, path, 'hibernated')
    usable(t, swap(t, page=8192))


main()
