#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds for another processor and runs the tests of the formats there: 32-bit (i386), big-endian (s390x, emulated).
# Ends like tests/run.sh with one line "N passed, N failed, N skipped".
#
#   sh tests/cross/run.sh i386 [TEST...]     unit, coaio and fuzz tests, then those of the suite integration
#   sh tests/cross/run.sh s390x
#
# Debian: apt-get install mmdebstrap gcc-i686-linux-gnu gcc-s390x-linux-gnu qemu-user-static
# The libraries come from Debian into build-ARCH-root; VHDKIT_CROSS_ROOT names one that is there.
set -eu

cd "$(dirname "$0")/../.."
arch=${1:?i386 or s390x}
shift
[ $# -gt 0 ] || set -- reject-footer reject-header reject-table reject-rules reject-parent vhdx-read vhdx-check vhdx-create \
  vhdx-properties vhdx-repair create-info check-codes map-compare map-compare-vhdx convert vhdx-convert compact vhdx-compact \
  rebase rebase-vhdx
build=$PWD/build-$arch
root=${VHDKIT_CROSS_ROOT:-$build-root}
counts=$(mktemp)
rm -f "$counts"
trap 'rm -f "$counts"' EXIT

if [ ! -d "$root/usr/include" ]; then
  [ ! -e "$root" ] || { echo "run.sh: $root has no libraries for building" >&2; exit 2; }
  # What an interrupted download has left is not taken for a root.
  rm -rf "$root.new"
  mmdebstrap --variant=extract --architectures="$arch" \
    --include=libc6-dev,libgcc-12-dev,libglib2.0-dev,libaio-dev,liburing-dev,uuid-dev,libext2fs-dev,libblkid-dev,libmount-dev \
    bookworm "$root.new" "deb http://deb.debian.org/debian bookworm main"
  mv "$root.new" "$root"
fi
# Links of development packages are absolute, and linker scripts name files below the root.
find "$root/usr/lib" "$root/lib" -type l -lname '/*' ! -lname "$root/*" 2> /dev/null | while read -r link; do
  ln -snf "$root$(readlink "$link")" "$link"
done

if [ ! -f "$build/build.ninja" ]; then
  mkdir -p "$build"
  printf "[constants]\nroot = '%s'\n" "$root" > "$build/root.ini"
  meson setup "$build" --cross-file "$build/root.ini" --cross-file "tests/cross/$arch.ini" --werror \
    -Dbuildtype=debugoptimized
fi
ninja -C "$build"

# Emulation is slow: what counts is that numbers are of the right size and order.
export VHDKIT_ITERATIONS="${VHDKIT_ITERATIONS:-3}" VHDKIT_TIMEOUT="${VHDKIT_TIMEOUT:-600}"

# run LABEL MESON-TEST-OPTION...
run ()
{
  label=$1
  shift
  log=$build/meson-logs/$label
  rm -f "$log"*
  meson test -C "$build" --no-rebuild --timeout-multiplier 10 --logbase "$label" "$@" < /dev/null > "$log.out" 2>&1 || true
  python3 tests/count-results.py --add "$counts" --label "$arch" "$log.json"
}

run inside --suite unit --suite coaio --suite fuzz
run scripts "$@"
python3 tests/count-results.py --total "$counts"
