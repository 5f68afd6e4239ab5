#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# From a fresh clone to a merged and compacted chain, with the proof that no guest byte changed.
#
#   sh tools/quickstart.sh
#
# Installs what is missing (Debian, as root), builds into build/, makes a VHDX base image with three differencing
# images above it, merges the uppermost down to the base, compacts the base, and compares checksums all along; then
# a shorter round with VHD.
set -eu

cd "$(dirname "$0")/.."
say () { printf '\n== %s\n' "$*"; }
fail () { echo "quickstart: FAILED: $*" >&2; exit 1; }

say "what is needed to build"
sh tools/install-deps.sh build

say "building into build/"
work=$(mktemp -d "${TMPDIR:-/tmp}/vhdkit-quickstart.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ ! -f build/build.ninja ]; then
  meson setup build > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "meson setup"; }
fi
ninja -C build > "$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; fail "the build"; }
vhd_img=$PWD/build/tools/vhd-img
vhd_io=$PWD/build/tools/vhd-io
"$vhd_img" --version
cd "$work"

run ()
{
  printf '$ %s\n' "$(echo "$*" | sed "s|$vhd_img|vhd-img|; s|$vhd_io|vhd-io|")"
  "$@" || fail "$1 ended with status $?"
}
# The checksum of what a guest reads.
view ()
{
  "$vhd_img" convert -q -O raw "$1" view.raw || fail "reading $1"
  sha256sum < view.raw | cut -d ' ' -f 1
  rm -f view.raw
}
size () { stat -c %s "$1"; }

say "a VHDX base image of 512 MiB with some 100 MiB of data, and three differencing images above it"
# What a disk may hold: numbered text, with holes between.
truncate -s 512M disk.raw
for part in 0 1 2 3 4 5 6 7; do
  seq -f "file $part line %012.0f of the quickstart" 300000 | head -c 12582912 \
    | dd of=disk.raw bs=1M seek=$((part * 60)) conv=notrunc status=none
done
run "$vhd_img" convert -p -f raw -O vhdx -o block_size=2M disk.raw base.vhdx
run "$vhd_img" create -f vhdx -b base.vhdx monday.vhdx
run "$vhd_io" -c 'write -q -P 0x11 4M 9M' -c 'write -q -P 0x12 333M 64k' -c 'write -q -P 0x13 499M 3M' monday.vhdx
run "$vhd_img" create -f vhdx -b monday.vhdx tuesday.vhdx
run "$vhd_io" -c 'write -q -P 0x21 8M 9M' -c 'write -q -z 61M 5M' -c 'write -q -P 0x22 350001k 1k' tuesday.vhdx
run "$vhd_img" create -f vhdx -b tuesday.vhdx leaf.vhdx
run "$vhd_io" -c 'write -q -P 0x31 10M 512' -c 'write -q -P 0x32 250M 20M' -c 'write -q -P 0x33 511M 1M' leaf.vhdx
run "$vhd_img" info --backing-chain leaf.vhdx

say "what a guest reads through the leaf"
before=$(view leaf.vhdx)
echo "sha256 $before"
[ "$(view base.vhdx)" != "$before" ] || fail "base and leaf read the same before the merge"

say "merging the three into the base, in place"
run "$vhd_img" commit -p --depth 3 leaf.vhdx
run "$vhd_img" check base.vhdx
run "$vhd_img" compare leaf.vhdx base.vhdx
after=$(view base.vhdx)
echo "sha256 $after"
[ "$after" = "$before" ] || fail "the base does not read as the leaf did"
[ "$(view leaf.vhdx)" = "$before" ] || fail "the leaf does not read as before"

# compacted IMAGE: compacts it and adds to $given_back; what a guest reads stays, and the file becomes smaller.
given_back=0
compacted ()
{
  before=$(view "$1")
  cp "$1" "reference-$1"
  size_before=$(size "$1")
  run "$vhd_img" compact -p "$1"
  size_after=$(size "$1")
  echo "file size: $size_before bytes before, $size_after after"
  [ "$size_after" -lt "$size_before" ] || fail "the file did not shrink"
  run "$vhd_img" check "$1"
  run "$vhd_img" compare "$1" "reference-$1"
  after=$(view "$1")
  echo "sha256 $before before"
  echo "sha256 $after after"
  [ "$after" = "$before" ] || fail "compaction changed what a guest reads"
  given_back=$((given_back + size_before - size_after))
}

say "the guest deletes some: zeros over 60 MiB; then the base is compacted"
rm leaf.vhdx tuesday.vhdx monday.vhdx
run "$vhd_io" -c 'write -q -P 0 0 30M' -c 'write -q -P 0 120M 12M' -c 'write -q -P 0 250M 18M' base.vhdx
compacted base.vhdx

say "the same with VHD, shorter: one differencing image"
run "$vhd_img" convert -p -f raw -O vhd disk.raw base.vhd
rm disk.raw
run "$vhd_img" create -f vhd -b base.vhd leaf.vhd
run "$vhd_io" -c 'write -q -P 0x41 10M 512' -c 'write -q -z 60M 12M' -c 'write -q -P 0x42 350001k 1k' leaf.vhd
before=$(view leaf.vhd)
echo "sha256 $before"
run "$vhd_img" commit -p leaf.vhd
run "$vhd_img" check base.vhd
after=$(view base.vhd)
echo "sha256 $after"
[ "$after" = "$before" ] || fail "the base does not read as the leaf did"
run "$vhd_io" -c 'write -q -P 0 0 12M' base.vhd
compacted base.vhd

echo
echo "quickstart: OK: 4 images merged into their bases, $given_back bytes given back, no guest byte changed"
