#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds and tests everything, on a fresh Debian 12 as well: installs what is missing, builds with gcc, clang
# and the sanitizers, runs all suites, and ends with one line "N passed, N failed, N skipped", counting cases.
#
#   sh tests/run.sh          all of it
#   sh tests/run.sh quick    one build, all suites
#
# VHDKIT_CHAINS=5000, VHDKIT_COMPACTIONS=1000, VHDKIT_SEED=n make the random tests longer or different.
set -eu

cd "$(dirname "$0")/.."
mode=${1:-all}
counts=$(mktemp)
rm -f "$counts"
scratch=$(mktemp -d)
reflink=$scratch/shared-extents
PATH=$PATH:/usr/sbin:/sbin
# One trap for all that is to be undone.
cleanup ()
{
  umount "$reflink" 2> /dev/null || true
  rm -rf "$counts" "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
began=$(date +%s)

say ()
{
  printf '\n== %s (%d s)\n' "$*" "$(($(date +%s) - began))"
}

# What no test could have shown counts as one case: broken TEXT, left_out TEXT.  The rest goes on.
broken ()
{
  echo "FAILED: $*"
  python3 tests/count-results.py --add "$counts" --one fail
}

left_out ()
{
  echo "skipped: $*"
  python3 tests/count-results.py --add "$counts" --one skip
}

# A small file system whose files can share extents, in a file; the reason on standard output when there is none.
mount_reflink ()
{
  [ "$(id -u)" -eq 0 ] || { echo "mounting needs root"; return 1; }
  command -v mkfs.xfs > /dev/null || { echo "no mkfs.xfs"; return 1; }
  mkdir "$reflink"
  truncate -s 1G "$scratch/image"
  mkfs.xfs -q -m reflink=1 "$scratch/image" > /dev/null 2>&1 || { echo "mkfs.xfs makes none"; return 1; }
  mount -o loop "$scratch/image" "$reflink" 2> /dev/null || { echo "cannot mount a loop device"; return 1; }
}

# build DIRECTORY MESON-OPTION...: configures and compiles; the log is shown when it fails.
build ()
{
  directory=$1
  shift
  log=$directory.log
  if [ -f "$directory/build.ninja" ]; then
    meson setup --reconfigure "$directory" "$@" > "$log" 2>&1 || { rm -rf "$directory"; meson setup "$directory" "$@" > "$log" 2>&1; }
  else
    rm -rf "$directory"
    meson setup "$directory" "$@" > "$log" 2>&1
  fi || { cat "$log"; return 1; }
  ninja -C "$directory" > "$log" 2>&1 || { tail -n 80 "$log"; return 1; }
}

# run LABEL DIRECTORY MESON-TEST-OPTION...
run ()
{
  label=$1
  directory=$2
  shift 2
  name=run-$(echo "$label" | tr -c 'a-z0-9\n' -)
  rm -f "$directory/meson-logs/$name"*
  meson test -C "$directory" --no-rebuild --logbase "$name" "$@" < /dev/null > "$directory/meson-logs/$name.out" 2>&1 || true
  log=$(ls "$directory/meson-logs/$name"*.json 2> /dev/null | head -n 1)
  [ -n "$log" ] || tail -n 20 "$directory/meson-logs/$name.out"
  python3 tests/count-results.py --add "$counts" --label "$label" "${log:-none}"
}

say "installing what is missing"
sh tools/install-deps.sh build test

say "build: gcc"
# Without a build nothing else says anything.
build build --werror -Dbuildtype=debugoptimized || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
say "all suites"
if why=$(mount_reflink); then
  VHDKIT_TEST_REFLINK_DIR=$reflink
  export VHDKIT_TEST_REFLINK_DIR
fi
(
  # Many hundreds of crashes of each job all the same; tests/crash/long.sh makes many thousands.
  export VHDKIT_CRASH_CUTS="${VHDKIT_CRASH_CUTS:-6}" VHDKIT_STRIDE="${VHDKIT_STRIDE:-40}"
  export VHDKIT_CHAINS="${VHDKIT_CHAINS:-12}" VHDKIT_STOPS="${VHDKIT_STOPS:-4}"
  export VHDKIT_FAULT_STRIDE="${VHDKIT_FAULT_STRIDE:-9}"
  run gcc build
)

if [ "$mode" != quick ]; then
  say "jobs on a file system that shares extents"
  if [ -n "${VHDKIT_TEST_REFLINK_DIR-}" ]; then
    (
      export VHDKIT_TEST_DIR="$reflink" VHDKIT_CHAINS="${VHDKIT_CHAINS:-6}"
      run "shared extents" build chain-commit compact convert chain-commit-vhdx vhdx-compact vhdx-convert
    )
  else
    left_out "jobs on a file system that shares extents: $why"
  fi

  say "build: clang with AddressSanitizer and UndefinedBehaviorSanitizer"
  if CC=clang build build-sanitize --werror -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized; then
    say "unit, crash, fuzz and integration tests under the sanitizers"
    # The variables rather than --setup sanitize: the subproject has no setup of that name.
    (
      export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1:detect_stack_use_after_return=0
      export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
      # Slow builds look at fewer cases of what the first run has looked at in full.
      export VHDKIT_CHAINS="${VHDKIT_CHAINS:-12}" VHDKIT_COMPACTIONS="${VHDKIT_COMPACTIONS:-6}"
      export VHDKIT_FAULT_STRIDE=21 VHDKIT_STRIDE="${VHDKIT_STRIDE:-60}" VHDKIT_STOPS=4 VHDKIT_CRASH_CUTS="${VHDKIT_CRASH_CUTS:-4}"
      run sanitizers build-sanitize --timeout-multiplier 5 \
        --suite unit --suite crash --suite fuzz --suite integration --suite coaio --no-suite long
    )
  else
    broken "build with the sanitizers"
  fi

  say "build: clang"
  CC=clang build build-clang --werror -Dbuildtype=release || broken "build with clang"

  if command -v valgrind > /dev/null; then
    say "unit tests under valgrind"
    (
      export VHDKIT_ITERATIONS="${VHDKIT_ITERATIONS:-1}"
      # What goes through all floors at length has been looked at by the sanitizers.
      names=$(meson test -C build --list --suite unit 2> /dev/null | sed -n 's,^.* / ,,p' | grep -v -e '^test-model$' -e '^test-api-' -e '^test-soak$')
      # shellcheck disable=SC2086
      run valgrind build --setup valgrind --suite unit $names
    )
  fi
fi

say "total"
status=0
python3 tests/count-results.py --total "$counts" || status=1
exit $status
