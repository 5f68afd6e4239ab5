#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# What compilers and checkers say of the code without running it: gcc -fanalyzer, clang-tidy, cppcheck.  Each that is
# installed must find nothing; docs/testing.md says what is switched off and why.
#
#   sh tests/static-analysis.sh [gcc] [clang-tidy] [cppcheck]
set -eu

cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- gcc clang-tidy cppcheck
build=build-analyzer
jobs=${JOBS:-$(nproc)}
sources=$(find block tools subprojects/coaio/src -name '*.c' | sort)
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# NAME COMMAND...: quiet when it finds nothing.
judge ()
{
  name=$1
  shift
  if "$@" > "$log" 2>&1; then
    echo "$name: nothing found"
  else
    grep -v -e 'warnings generated' -e '^Suppressed' -e '^Use -header-filter' "$log" || true
    echo "$name: see above"
    status=1
  fi
}

with_gcc ()
{
  # Its own build each time: what was compiled once is not looked at again.
  rm -rf "$build"
  meson setup "$build" -Dbuildtype=debugoptimized -Dtests=false -Dc_args='-fanalyzer -fdiagnostics-color=never' || return 1
  ninja -C "$build" -j "$jobs" > "$build/analyzer.log" 2>&1 || { cat "$build/analyzer.log"; return 1; }
  python3 tests/lint/gcc-analyzer.py "$build/analyzer.log"
}

with_clang_tidy ()
{
  [ -f build/compile_commands.json ] || meson setup build -Dbuildtype=debugoptimized
  # Headers that are made have to be there.
  ninja -C build -j "$jobs" tools/vhd-img
  echo "$sources" | xargs -P "$jobs" -n 8 clang-tidy -p build --quiet
}

with_cppcheck ()
{
  # shellcheck disable=SC2086
  cppcheck --quiet --error-exitcode=1 --enable=warning,portability,performance --inline-suppr --std=c11 --language=c \
    -j "$jobs" --library=gnu --library=posix --library=gtk --suppressions-list=tests/lint/cppcheck.txt \
    '-DG_GNUC_PRINTF(a,b)=' '-DG_GNUC_NULL_TERMINATED=' \
    -Iinclude -Isubprojects/coaio/include -Iblock/util -Iblock/core -Ibuild/include $sources
}

for name in "$@"; do
  case $name in
    gcc) program=gcc; run=with_gcc ;;
    clang-tidy) program=clang-tidy; run=with_clang_tidy ;;
    cppcheck) program=cppcheck; run=with_cppcheck ;;
    *) echo "static-analysis.sh: unknown checker '$name' (gcc, clang-tidy, cppcheck)" >&2; exit 2 ;;
  esac
  if command -v "$program" > /dev/null; then
    judge "$name" "$run"
  else
    echo "$name: not installed"
  fi
done
exit $status
