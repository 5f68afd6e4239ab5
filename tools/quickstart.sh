#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# From a fresh clone to a merged and compacted chain, with the proof that no guest byte changed.
#
#   sh tools/quickstart.sh
#
# Installs what is missing (Debian, as root), builds into build/, makes a VHDX base image with three differencing
# images above it, merges the uppermost down to the base, compacts the base, and compares checksums all along; then
# a shorter round with VHD.
#
# What a guest must read is kept in a plain file, which dd writes as vhd-io writes the images; and where qemu-img is
# installed, it reads the merged and compacted images as well.
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
if [ -t 1 ]; then
  ninja -C build || fail "the build"
else
  echo "(a minute or more)"
  ninja -C build > "$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; fail "the build"; }
fi
vhd_img=$PWD/build/tools/vhd-img
vhd_io=$PWD/build/tools/vhd-io
"$vhd_img" --version
cd "$work"

# A command as a shell takes it.
quoted ()
{
  for word in "$@"; do
    case $word in
      "$vhd_img") word=vhd-img ;;
      "$vhd_io") word=vhd-io ;;
      '' | *[!A-Za-z0-9_./=:,+-]*) word="'$word'" ;;
    esac
    printf ' %s' "$word"
  done
}
run ()
{
  printf '$%s\n' "$(quoted "$@")"
  "$@" || fail "$1 ended with status $?"
}
sum () { sha256sum < "$1" | cut -d ' ' -f 1; }
# The checksum of what a guest reads, by vhd-img and, of an image without a parent, by qemu-img.
view ()
{
  "$vhd_img" convert -q -O raw "$1" view.raw || fail "reading $1"
  sum view.raw
  rm -f view.raw
}
have_qemu=$(command -v qemu-img || true)
view_by_qemu ()
{
  case $1 in
    *.vhdx) source=driver=vhdx,file.filename=$1 ;;
    *) source=driver=vpc,force_size_calc=current_size,file.filename=$1 ;;
  esac
  qemu-img convert --image-opts -O raw "$source" view.raw || fail "qemu-img cannot read $1"
  sum view.raw
  rm -f view.raw
}
# put IMAGE BYTE OFFSET LENGTH: into the image, and into what must be read.
put ()
{
  run "$vhd_io" -c "write -q -P 0x$2 $3 $4" "$1"
  head -c "$(numfmt --from=iec "$4")" /dev/zero | tr '\0' "\\$(printf %03o "0x$2")" \
    | dd of=expected.raw bs=1M seek="$(numfmt --from=iec "$3")" oflag=seek_bytes conv=notrunc status=none
}
# is_expected IMAGE…: a guest reads what was written, through each of them.
is_expected ()
{
  expected=$(sum expected.raw)
  echo "sha256 $expected of what was written"
  for image in "$@"; do
    found=$(view "$image")
    echo "sha256 $found of what a guest reads in $image"
    [ "$found" = "$expected" ] || fail "$image does not hold what was written"
  done
}
# The same of an image without a parent.
is_expected_alone ()
{
  is_expected "$1"
  [ -n "$have_qemu" ] || return 0
  found=$(view_by_qemu "$1")
  echo "sha256 $found of what qemu-img reads in $1"
  [ "$found" = "$expected" ] || fail "$1 does not hold what was written, as qemu-img reads it"
}
size () { stat -c %s "$1"; }

say "a VHDX base image of 512 MiB with some 100 MiB of data, and three differencing images above it"
# What a disk may hold: numbered text, with holes between.
truncate -s 512M disk.raw
for part in 0 1 2 3 4 5 6 7; do
  seq -f "file $part line %012.0f of the quickstart" 300000 | head -c 12582912 \
    | dd of=disk.raw bs=1M seek=$((part * 60)) conv=notrunc status=none
done
cp --sparse=always disk.raw expected.raw
run "$vhd_img" convert -p -f raw -O vhdx -o block_size=2M disk.raw base.vhdx
run "$vhd_img" create -f vhdx -b base.vhdx monday.vhdx
put monday.vhdx 11 4M 9M
put monday.vhdx 12 333M 64K
put monday.vhdx 13 499M 3M
run "$vhd_img" create -f vhdx -b monday.vhdx tuesday.vhdx
put tuesday.vhdx 21 8M 9M
put tuesday.vhdx 00 61M 5M
put tuesday.vhdx 22 350001K 1K
run "$vhd_img" create -f vhdx -b tuesday.vhdx leaf.vhdx
put leaf.vhdx 31 10M 512
put leaf.vhdx 32 250M 20M
put leaf.vhdx 33 511M 1M
run "$vhd_img" info --backing-chain leaf.vhdx

say "what a guest reads through the leaf"
is_expected leaf.vhdx
[ "$(view base.vhdx)" != "$expected" ] || fail "base and leaf read the same before the merge"

say "merging the three into the base, in place"
run "$vhd_img" commit -p --depth 3 leaf.vhdx
run "$vhd_img" check base.vhdx
run "$vhd_img" compare leaf.vhdx base.vhdx
is_expected leaf.vhdx
is_expected_alone base.vhdx

# compacted IMAGE: compacts it and adds to $given_back; what a guest reads stays, and the file becomes smaller.
given_back=0
compacted ()
{
  size_before=$(size "$1")
  run "$vhd_img" compact -p "$1"
  size_after=$(size "$1")
  echo "file size: $size_before bytes before, $size_after after"
  [ "$size_after" -lt "$size_before" ] || fail "the file did not shrink"
  run "$vhd_img" check "$1"
  is_expected_alone "$1"
  given_back=$((given_back + size_before - size_after))
}

say "the guest deletes some: zeros over 60 MiB; then the base is compacted"
rm leaf.vhdx tuesday.vhdx monday.vhdx
put base.vhdx 00 0 30M
put base.vhdx 00 120M 12M
put base.vhdx 00 250M 18M
compacted base.vhdx

say "the same with VHD, shorter: one differencing image"
run "$vhd_img" convert -p -f raw -O vhd disk.raw base.vhd
mv disk.raw expected.raw
run "$vhd_img" create -f vhd -b base.vhd leaf.vhd
put leaf.vhd 41 10M 512
put leaf.vhd 00 60M 12M
put leaf.vhd 42 350001K 1K
is_expected leaf.vhd
run "$vhd_img" commit -p leaf.vhd
run "$vhd_img" check base.vhd
is_expected_alone base.vhd
rm leaf.vhd
put base.vhd 00 0 12M
compacted base.vhd

echo
echo "quickstart: OK: 4 images merged into their bases, $given_back bytes given back, no guest byte changed"
[ -n "$have_qemu" ] || echo "(qemu-img is not installed: vhd-img alone has read the images)"
