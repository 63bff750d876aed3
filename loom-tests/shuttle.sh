#!/usr/bin/env bash
# Runs the scenarios and their mutants: `loom-tests/shuttle.sh [quick|long]`. See loom-tests/README.md.
#
# Each run is one process: a scenario, a scheduler, a seed, and so many executions. A scenario fails if it panics, hangs, or if
# something that it waits for has never happened; a mutant fails if its scenario passes. `scenarios.txt`: scenario, executions
# of `quick` and of `long`, for each scheduler and seed. `scenarios-missed.txt`: a rule that is left out, or a mutant that has to be
# compiled (only `long` does that), the scenario that has to miss it, and the scheduler.
set -u
cd "$(dirname "$0")/.." || exit 1
size=${1:-quick}
case $size in quick) seeds=1 ;; long) seeds="1 2" ;; *) echo "usage: $0 [quick|long]" >&2; exit 2 ;; esac

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/shuttle
export CARGO_PROFILE_TEST_OPT_LEVEL=2 CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_TEST_DEBUG_ASSERTIONS=true
export RUSTFLAGS="--cfg shuttle_models" RUST_BACKTRACE=0
unset SHUTTLE_RANDOM_SEED WRITEBACK_SCHEDULE WRITEBACK_BROKEN_RULE
binaries=$(mktemp -d) schedules=$CARGO_TARGET_DIR/schedules
mkdir -p "$schedules" && schedules=$(cd "$schedules" && pwd) || exit 1
trap 'rm -rf "$binaries"' EXIT

# build <name> <flags for the crate>...: a test binary of its own; the dependencies are built once.
build() {
    local name=$1 path
    shift
    path=$(cargo rustc --quiet --lib --profile test --features faults --message-format=json -- -Awarnings "$@" |
        grep -o '"executable":"[^"]*"' | tail -1 | cut -d'"' -f4)
    [ -n "$path" ] && cp "$path" "$binaries/$name"
}

# run <binary> <scenario> <scheduler> <seed> <executions> <where schedules go>: sets `status` and `output`.
run() {
    output=$(WRITEBACK_SCHEDULER=$3 WRITEBACK_SEED=$4 WRITEBACK_EXECUTIONS=$5 WRITEBACK_SCHEDULES=$6 \
        timeout 7200 "$binaries/$1" --exact "scenarios::$2" --nocapture 2>&1)
    status=$?
    # Names that are not there are no scenarios.
    grep -q '^running 1 test' <<<"$output" || { echo "there is no scenario $2" >&2; exit 1; }
}

failures=0
build whole || { echo "the scenarios do not compile" >&2; exit 1; }

printf '%-42s %-7s %4s %10s %7s  %s\n' scenario sched seed executions seconds verdict
while read -r scenario quick long; do
    [ -n "$scenario" ] || continue
    executions=$quick
    [ $size = long ] && executions=$long
    for scheduler in random pct; do
        for seed in $seeds; do
            SECONDS=0
            run whole "$scenario" "$scheduler" "$seed" "$executions" "$schedules"
            verdict=$(grep -o '{.*}' <<<"$output" | tail -1 | tr -d '"{}')
            if [ $status != 0 ]; then
                verdict="FAILED: $(grep -m1 -A1 'panicked at' <<<"$output" | tail -1)"
                failures=$((failures + 1))
            fi
            printf '%-42s %-7s %4s %10s %7s  %s\n' "$scenario" "$scheduler" "$seed" "$executions" $SECONDS "$verdict"
            # The schedule's file and, of the random scheduler, the seed of the execution.
            [ $status = 0 ] || grep -A1 'persisted to file\|^test panicked\|^failing seed' <<<"$output"
        done
    done
done <loom-tests/scenarios.txt

printf '\n%-24s %-42s %-7s  %s\n' 'rule or mutant' scenario sched verdict
while read -r name scenario scheduler; do
    [ -n "$name" ] || continue
    executions=$(sed -n "s/^$scenario [0-9]* //p" loom-tests/scenarios.txt)
    if [[ $name == *_* ]]; then
        [ $size = quick ] && continue
        [ -e "$binaries/$name" ] || build "$name" --cfg "mutant=\"$name\"" </dev/null || {
            echo "$name does not compile" >&2
            exit 1
        }
        run "$name" "$scenario" "$scheduler" 1 "$executions" "$binaries"
    else
        export WRITEBACK_BROKEN_RULE=$name
        run whole "$scenario" "$scheduler" 1 "$executions" "$binaries"
        unset WRITEBACK_BROKEN_RULE
    fi
    verdict="killed: $(grep -m1 -A1 'panicked at' <<<"$output" | tail -1 | cut -c1-60)"
    # A count that stays at zero is no proof of anything, and neither is a name that is on no list.
    if [ $status = 0 ] || ! grep -q 'panicked at' <<<"$output" || grep -q 'this never happened' <<<"$output"; then
        verdict=SURVIVED
        failures=$((failures + 1))
    fi
    printf '%-24s %-42s %-7s  %s\n' "$name" "$scenario" "$scheduler" "$verdict"
done <loom-tests/scenarios-missed.txt

[ $failures = 0 ] || { echo "$failures failed" >&2; exit 1; }
