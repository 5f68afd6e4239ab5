#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fuzzes for long: builds with clang, runs every target, merges what it has learnt into its corpus, and says how far
# it came.
#
#   sh tests/fuzz/long.sh [SECONDS-PER-TARGET] [TARGET...]        (600; all of them)
#
# VHDKIT_FUZZ_BUILD    the build directory (build-fuzz)
# VHDKIT_FUZZ_CORPUS   where corpora grow, a directory for each target (BUILD/corpus); may be deleted
# VHDKIT_FUZZ_JOBS     processes at a time, 1 or 2 (1)
# VHDKIT_FUZZ_SLICE    seconds after which a process makes room for the next (0: it has all its time at once)
#
# What crashes, hangs or leaks is left in CORPUS/TARGET.findings: mend it, and keep it as
# tests/fuzz/regressions/TARGET/WHAT-IT-WAS.  The status is 1 if there is any, or if a target did not run.
set -eu

cd "$(dirname "$0")/../.."
seconds=${1:-600}
[ $# -eq 0 ] || shift
targets=${*:-vhd vhdx replay guest decode path fs}
build=${VHDKIT_FUZZ_BUILD:-build-fuzz}
corpora=${VHDKIT_FUZZ_CORPUS:-$build/corpus}
jobs=${VHDKIT_FUZZ_JOBS:-1}
slice=${VHDKIT_FUZZ_SLICE:-0}
[ "$slice" -gt 0 ] || slice=$seconds
[ "$jobs" -le 2 ] || jobs=2
# The space of a VHDX is a bitmap of 8 MiB that is hardly touched: marking it by mapping is slower than by writing.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=1:detect_stack_use_after_return=0:\
clear_shadow_mmap_threshold=67108864:quarantine_size_mb=32}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"

[ -f "$build/build.ninja" ] \
  || CC=clang meson setup "$build" --werror -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
    -Dbuildtype=debugoptimized > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
programs=
for target in $targets; do
  programs="$programs tests/fuzz/libfuzzer-$target"
done
# shellcheck disable=SC2086
ninja -C "$build" -j "$jobs" $programs > "$build.log" 2>&1 || { tail -n 40 "$build.log"; exit 1; }

# fuzz TARGET SECONDS
# Without entropic: with value profile its lists of rare features take more of the processor than the library does.
fuzz ()
{
  corpus=$corpora/$1
  mkdir -p "$corpus" "$corpus.findings" "$corpus.logs"
  log=$corpus.logs/$(date +%s%N)
  # A folder that is not there would end it.
  inputs="tests/fuzz/seeds/$1"
  [ ! -d "tests/fuzz/regressions/$1" ] || inputs="$inputs tests/fuzz/regressions/$1"
  # shellcheck disable=SC2086
  "$build/tests/fuzz/libfuzzer-$1" -max_total_time="$2" -timeout=20 -rss_limit_mb=3072 -malloc_limit_mb=1024 \
    -len_control=0 -max_len=65536 -use_value_profile=1 -entropic=0 -print_final_stats=1 \
    -artifact_prefix="$corpus.findings/" \
    "$corpus" $inputs > "$log" 2>&1 || mv "$log" "$log.failed"
}

# merge TARGET: keeps of the corpus what reaches something.
merge ()
{
  corpus=$corpora/$1
  rm -rf "$corpus.merged"
  mkdir "$corpus.merged"
  if "$build/tests/fuzz/libfuzzer-$1" -merge=1 -rss_limit_mb=3072 -timeout=60 "$corpus.merged" "$corpus" \
    "tests/fuzz/seeds/$1" > "$corpus.merge.log" 2>&1; then
    rm -rf "$corpus"
    mv "$corpus.merged" "$corpus"
  else
    rm -rf "$corpus.merged"
  fi
}

# report TARGET
report ()
{
  corpus=$corpora/$1
  findings=$(find "$corpus.findings" -type f | wc -l)
  # Each has left a finding; if not, its end is what is known.
  failed=$(find "$corpus.logs" -name '*.failed')
  executions=$(cat "$corpus.logs"/* | sed -n 's/^stat::number_of_executed_units: //p' | awk '{ n += $1 } END { print n + 0 }')
  reached=$(cat "$corpus.logs"/* | grep -o 'cov: [0-9]* ft: [0-9]*' | sort -k 4n | tail -n 1)
  echo "$1: $executions executions, $reached, corpus of $(find "$corpus" -type f | wc -l) inputs, $findings findings"
  [ -z "$failed" ] || echo "$1: ended before its time: $failed"
  [ "$findings" -eq 0 ] && [ -z "$failed" ] && [ "$executions" -gt 0 ] || status=1
}

spent=0
while [ "$spent" -lt "$seconds" ]; do
  running=0
  for target in $targets; do
    fuzz "$target" "$slice" &
    running=$((running + 1))
    [ "$running" -lt "$jobs" ] || { wait; running=0; }
  done
  wait
  spent=$((spent + slice))
done
status=0
for target in $targets; do
  merge "$target"
  report "$target"
done
exit $status
