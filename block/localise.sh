#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# localise.sh OUTPUT LD OBJCOPY AR ARCHIVE…: one archive with one object in which only vhdkit_* is global, so that a
# program that links it may have functions of the same names as ours inside (a hypervisor of QEMU's family does).
set -eu
output=$1 ld=$2 objcopy=$3 ar=$4
shift 4
object=$output.o
# What compilers put into groups of which the linker keeps one (x86 has pieces of code so in 32 bits) has no name by
# which it could be found any more, and must stay.
groups=
case $("$ld" --help) in
  *--force-group-allocation*) groups=--force-group-allocation ;;
esac
"$ld" -r $groups -o "$object" --whole-archive "$@"
"$objcopy" --wildcard --keep-global-symbol='vhdkit_*' "$object"
rm -f "$output"
"$ar" rcs "$output" "$object"
rm -f "$object"
