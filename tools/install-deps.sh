#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs the Debian packages that building and testing need, if any is missing.
#
#   sh tools/install-deps.sh build          compiler, meson, libraries
#   sh tools/install-deps.sh build test     and what the tests use: other readers of VHD, sanitizers, valgrind
#
# Quiet when nothing is missing.  Needs root only when something is.
set -eu

build='gcc libc6-dev meson ninja-build pkgconf libglib2.0-dev libaio-dev liburing-dev uuid-dev libext2fs-dev'
test='python3 clang libclang-rt-dev clang-format valgrind qemu-utils libvhdi-utils python3-libvhdi 7zip e2fsprogs fdisk xfsprogs ntfs-3g dosfstools mtools exfatprogs fio man-db strace time'

packages=
for group in "${@:-build}"; do
  case $group in
    build) packages="$packages $build" ;;
    test) packages="$packages $test" ;;
    *)
      echo "install-deps.sh: unknown group '$group' (build, test)" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query > /dev/null; then
  echo "install-deps.sh: this is not Debian; what is needed there is called:$packages" >&2
  exit 0
fi

is_installed ()
{
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

missing=
for package in $packages; do
  is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "install-deps.sh: missing packages; as root: apt-get install$missing" >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# Package lists may be absent or old; only when an install fails are they fetched.
apt_install ()
{
  # shellcheck disable=SC2086 # a list of words
  apt-get install -y -q --no-install-recommends $missing > "$log" 2>&1 < /dev/null
}
if ! apt_install; then
  apt-get update -q > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
  apt_install || { cat "$log" >&2; exit 1; }
fi
