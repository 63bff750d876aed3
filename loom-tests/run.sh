#!/usr/bin/env bash
# Runs the models and their mutants: `loom-tests/run.sh [quick|full]`. See loom-tests/README.md.
#
# Each model is one process. A model fails if it panics, or if it was explored in fewer executions than its floor. A
# mutant fails if its model passes. `models.txt`: model, mode, bound and floor of `quick`, bound and floor of `full`;
# `mutants.txt`: mutant, the model that has to fail, mode, bound, and from which size on it is run. A bound is one of
# preemptions; `all` is none, and `-` leaves the model out.
set -u
cd "$(dirname "$0")/.." || exit 1
size=${1:-quick}
case $size in quick | full) ;; *) echo "usage: $0 [quick|full]" >&2; exit 2 ;; esac

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
export CARGO_PROFILE_TEST_OPT_LEVEL=2 CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_TEST_DEBUG_ASSERTIONS=true
export RUSTFLAGS="--cfg crossbeam_loom --cfg crossbeam_sanitize" RUST_BACKTRACE=0
unset LOOM_MAX_PREEMPTIONS LOOM_MAX_DURATION LOOM_MAX_PERMUTATIONS LOOM_CHECKPOINT_FILE
binaries=$(mktemp -d) || exit 1
trap 'rm -rf "$binaries"' EXIT

# build <name> <flags for the crate>...: a test binary of its own; the dependencies are built once.
build() {
    local name=$1 path
    shift
    # A rule of the journal's protocol is switched off by its name, other mutants by their flag.
    path=$(WRITEBACK_MUTANT=${name%-*} cargo rustc --quiet --lib --profile test --message-format=json -- -Awarnings "$@" |
        grep -o '"executable":"[^"]*"' | tail -1 | cut -d'"' -f4)
    [ -n "$path" ] && cp "$path" "$binaries/$name"
}

# run <binary> <model> <bound>: sets `executions` (empty if it failed).
run() {
    local output
    # The largest bound that loom knows is more than any of these models has steps to interrupt.
    export LOOM_MAX_PREEMPTIONS=${3/all/255}
    output=$(timeout 7200 "$binaries/$1" --exact "loom_tests::$2" --nocapture 2>&1)
    status=$?
    executions=
    [ $status = 0 ] && executions=$(grep -o 'Completed in [0-9]*' <<<"$output" | tail -1 | tr -dc 0-9)
    reason=$(grep -m1 -A1 'panicked at' <<<"$output" | tail -1 | cut -c1-70)
}

failures=0
build weak && build strong --cfg strong_atomics || { echo "the models do not compile" >&2; exit 1; }

# The mutants are built beside the models' runs.
while read -r mutant _ mode _ when; do
    [ -n "$mutant" ] && [ ! -e "$binaries/$mutant-$mode" ] || continue
    [ $size = quick ] && [ "$when" = full ] && continue
    strong=()
    [ "$mode" = strong ] && strong=(--cfg strong_atomics)
    build "$mutant-$mode" --cfg "mutant=\"$mutant\"" "${strong[@]}" </dev/null
done <loom-tests/mutants.txt &
building=$!

printf '%-50s %-7s %5s %10s %10s  %s\n' model mode bound floor executions verdict
while read -r model mode quick quick_floor full full_floor; do
    [ -n "$model" ] || continue
    bound=$quick floor=$quick_floor
    [ $size = full ] && bound=$full floor=$full_floor
    [ "$bound" = - ] && continue
    run "$mode" "$model" "$bound"
    verdict=passed
    if [ -z "$executions" ]; then
        verdict="FAILED: $reason"
    elif [ "$executions" -lt "$floor" ]; then
        verdict="FAILED: too few executions"
    fi
    [ "$verdict" = passed ] || failures=$((failures + 1))
    printf '%-50s %-7s %5s %10s %10s  %s\n' "$model" "$mode" "$bound" "$floor" "${executions:--}" "$verdict"
done <loom-tests/models.txt

printf '\n%-20s %-50s %-7s %5s  %s\n' mutant model mode bound verdict
wait $building
while read -r mutant model mode bound when; do
    [ -n "$mutant" ] || continue
    [ $size = quick ] && [ "$when" = full ] && continue
    [ -e "$binaries/$mutant-$mode" ] || { echo "$mutant does not compile" >&2; exit 1; }
    run "$mutant-$mode" "$model" "$bound"
    if [ "$status" = 0 ]; then
        verdict="SURVIVED"
        failures=$((failures + 1))
    else
        verdict="killed: $reason"
    fi
    printf '%-20s %-50s %-7s %5s  %s\n' "$mutant" "$model" "$mode" "$bound" "$verdict"
done <loom-tests/mutants.txt

[ $failures = 0 ] || { echo "$failures failed" >&2; exit 1; }
