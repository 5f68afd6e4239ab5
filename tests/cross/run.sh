#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds for another processor and runs the tests of the formats there: 32-bit (i386), big-endian (s390x, emulated).
#
#   sh tests/cross/run.sh i386 [SCRIPT...]     unit and coaio tests, then those scripts of tests/integration
#   sh tests/cross/run.sh s390x
#
# Debian: apt-get install mmdebstrap gcc-i686-linux-gnu gcc-s390x-linux-gnu qemu-user-static
# The libraries come from Debian into build-ARCH-root; VHDKIT_CROSS_ROOT names one that is there.
set -eu

cd "$(dirname "$0")/../.."
arch=${1:?i386 or s390x}
shift
build=$PWD/build-$arch
root=${VHDKIT_CROSS_ROOT:-$build-root}

if [ ! -d "$root/usr/include" ]; then
  mmdebstrap --variant=extract --architectures="$arch" \
    --include=libc6-dev,libgcc-12-dev,libglib2.0-dev,libaio-dev,liburing-dev,uuid-dev,libext2fs-dev,libblkid-dev,libmount-dev \
    bookworm "$root"
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
export VHDKIT_ITERATIONS="${VHDKIT_ITERATIONS:-3}"
meson test -C "$build" --no-rebuild --timeout-multiplier 10 --suite unit --suite coaio

# The tools by name, as the scripts want them.
case $arch in
  i386) run="$root/lib/ld-linux.so.2 --library-path $root/lib/i386-linux-gnu:$root/usr/lib/i386-linux-gnu" ;;
  *) run="qemu-$arch-static -L $root" ;;
esac
for tool in vhd-img vhd-io; do
  printf '#!/bin/sh\nexec %s %s "$@"\n' "$run" "$build/tools/$tool" > "$build/$tool"
  chmod +x "$build/$tool"
done
export VHDKIT_BUILD="$build" VHD_IMG="$build/vhd-img" VHD_IO="$build/vhd-io"
status=0
for script in "${@:-reject-footer reject-header reject-table reject-rules vhdx-read vhdx-check vhdx-create create-info convert rebase}"; do
  for name in $script; do
    echo "== $name"
    python3 "tests/integration/$name.py" | grep -v -e '^ok' -e '^#.* s$' || true
  done
done
exit $status
