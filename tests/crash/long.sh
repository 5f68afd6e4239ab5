#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The long run of the crash and fault tests: some hundred thousand crashes.
#
#   sh tests/crash/long.sh [BUILD-DIRECTORY]
#
# VHDKIT_CRASH_CUTS   crashes that each case makes of each recorded run (1000)
# VHDKIT_ITERATIONS   recorded runs of each case (10)
# VHDKIT_SEED         the first seed (a random one)
# VHDKIT_SEEDS        how many seeds, one after the other (5)
#
# A failure names its seed: that seed with the same numbers, and the program's option -p CASE, repeats it.
set -eu

build=${1:-$(dirname "$0")/../../build}
seed=${VHDKIT_SEED:-$(($(date +%s) % 1000000))}
last=$((seed + ${VHDKIT_SEEDS:-5} - 1))
export VHDKIT_CRASH_CUTS="${VHDKIT_CRASH_CUTS:-1000}" VHDKIT_ITERATIONS="${VHDKIT_ITERATIONS:-10}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

while [ "$seed" -le "$last" ]; do
  for name in crash/crash-write crash/crash-grow crash/crash-compact crash/crash-commit crash/crash-replay \
    crash/crash-convert crash/crash-relink crash/crash-rebase crash/crash-conclude crash/fault \
    unit/test-model; do
    if VHDKIT_SEED=$seed "$build/tests/$name" -k > "$log" 2>&1; then
      crashes=$(sed -n 's/^# \([0-9]*\) crashes at.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
      echo "$name, seed $seed: passed, $crashes crashes"
    else
      status=1
      echo "$name, seed $seed: FAILED"
      cat "$log"
    fi
  done
  seed=$((seed + 1))
done
exit $status
