#!/usr/bin/env bash
# Weakens each ordering of the source, one at a time, and looks for a model that notices.
#
#     loom-tests/orderings.sh [WHICH]          every weakening against every model that passes the site; takes long, goes on
#                                              where it was stopped, and in the end says what `orderings.txt` should be
#     loom-tests/orderings.sh quick [WHICH]    each against the one model that noticed it the last time (orderings.txt)
#     loom-tests/orderings.sh --list [WHICH]   only says what there is to weaken
#
# WHICH is a pattern for a site (`ring`, `epochs::enter`) or a place (`src/ring.rs:82`).
#
# Acquire, Release and SeqCst become Relaxed; AcqRel becomes either half, and Relaxed; a fence goes, and a SeqCst fence also
# becomes AcqRel. All that happens in a copy of the crate in the target directory, in which each ordering asks the environment
# what it is (weaken.rs), so that the models are compiled once. A weakening is noticed if a model panics with it. What no
# model notices has to be in orderings-unnoticed.txt, with the reason; anything else unnoticed fails, as does a line there
# or in orderings.txt of which the source knows nothing, or that is noticed after all.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
size=search
case ${1:-} in quick | --list) size=${1#--}; shift ;; -*) sed -n '2,10p' "$0" >&2; exit 2 ;; esac
which=${1:-.}

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$root/$CARGO_TARGET_DIR ;; esac
export CARGO_PROFILE_TEST_OPT_LEVEL=2 CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_TEST_DEBUG_ASSERTIONS=true
export RUSTFLAGS="--cfg crossbeam_loom --cfg crossbeam_sanitize" RUST_BACKTRACE=0
unset LOOM_MAX_PREEMPTIONS LOOM_MAX_DURATION LOOM_MAX_PERMUTATIONS LOOM_CHECKPOINT_FILE WRITEBACK_WEAKEN WRITEBACK_SITES
work=$CARGO_TARGET_DIR/orderings
tree=$work/tree
mkdir -p "$work"

# The copy. Only what the library is made of is copied; the manifest names the rest.
rm -rf "$tree"
mkdir -p "$tree"
for name in * ; do
    case $name in src | loom-tests | Cargo.* | README.md) cp -r "$name" "$tree/" ;; target) ;; *) ln -s "$root/$name" "$tree/$name" ;; esac
done
sites=$work/sites
: >"$sites"
cd "$tree" || exit 1
while read -r file; do
    first=$(($(wc -l <"$sites") + 1))
    awk -v first=$first -v sites="$sites" -f loom-tests/orderings.awk "$file" >"$work/file" && cp "$work/file" "$file"
done < <(grep -rlE 'Ordering::(Release|Acquire|AcqRel|SeqCst)' src --include='*.rs' |
    grep -vE '^src/(bin/|sync\.rs|.*tests\.rs)' | LC_ALL=C sort)
cp loom-tests/weaken.rs src/weaken.rs
echo '#[cfg(all(test, crossbeam_loom))] mod weaken;' >>src/lib.rs
# Under a name of its own: cargo must not take the copy for the crate, or the crate for the copy.
sed -i 's/^name = "writeback"/name = "writeback-weakened"/' Cargo.toml Cargo.lock

# weakenings: number, site, file:line, ordering, weakened to, source; separated by tabs.
weakenings=$work/weakenings
awk -F'\t' -v OFS='\t' '{
    count = split($5 == "fence" ? ($4 == "SeqCst" ? "AcqRel -" : "-") : ($4 == "AcqRel" ? "Acquire Release Relaxed" : "Relaxed"), to, " ")
    for (i = 1; i <= count; i++) print $1, $2, $3, $4 ($5 == "fence" ? " fence" : ""), to[i], $6
}' "$sites" >"$weakenings"
chosen=$(awk -F'\t' -v which="$which" '$2 ~ which || $3 ~ which' "$weakenings")
[ -n "$chosen" ] || { echo "no ordering at \`$which\`" >&2; exit 2; }

if [ $size = list ]; then
    cut -f2- <<<"$chosen" | awk -F'\t' '{ printf "%-34s %-28s %-13s -> %-8s %s\n", $1, $2, $3, $4, $5 }'
    exit
fi

# build <name> <flags for the crate>...
build() {
    local name=$1 path
    shift
    path=$(cargo rustc -j"${JOBS:-1}" --quiet --lib --profile test --message-format=json -- -Awarnings "$@" |
        grep -o '"executable":"[^"]*"' | tail -1 | cut -d'"' -f4)
    [ -n "$path" ] && cp "$path" "$work/$name"
}
build weak && build strong --cfg strong_atomics || { echo "the models do not compile" >&2; exit 1; }
# What was found for other sources or models says nothing of these.
state=$work/$(find src loom-tests/models loom-tests/models.txt -type f | LC_ALL=C sort | xargs cat | cksum | tr -d ' ')
mkdir -p "$state"

# try <number> <weakened to> <model> <mode> <bound>: whether the model notices.
try() {
    local output status
    output=$(WRITEBACK_WEAKEN="$1=$2" LOOM_MAX_PREEMPTIONS=${5/all/255} timeout 900 "$work/$4" --exact "loom_tests::$3" --nocapture 2>&1)
    status=$?
    [ $status = 124 ] && echo "$3 ($4) did not end in time" >&2
    # A panic of the test, or one that ended the process; not a signal from outside.
    grep -q 'panicked at' <<<"$output" && [ $status != 124 ]
}

# baseline: seconds, model, mode, bound, and the sites that it passes; the fastest first.
baseline() {
    local model mode bound rest output start
    touch "$state/passes"
    while read -r model mode bound rest; do
        [ -n "$model" ] && [ "$bound" != - ] && ! grep -q " $model $mode " "$state/passes" || continue
        start=$EPOCHREALTIME
        output=$(WRITEBACK_SITES=1 LOOM_MAX_PREEMPTIONS=${bound/all/255} timeout 900 "$work/$mode" --exact "loom_tests::$model" --nocapture 2>&1) ||
            { echo "$model ($mode) fails as it is" >&2; exit 1; }
        awk -v a="$start" -v b="$EPOCHREALTIME" -v what="$model $mode $bound" \
            -v sites="$(grep -o 'passed site [0-9]*' <<<"$output" | cut -d' ' -f3 | sort -n | tr '\n' ',')" \
            'BEGIN { printf "%.2f %s ,%s\n", b - a, what, sites }' >>"$state/passes"
    done <loom-tests/models.txt
}

witness() { awk -v site="$1" -v to="$2" '$1 == site && $2 == to { print $3, $4, $5 }' "$root/loom-tests/orderings.txt"; }
reason() { awk -v site="$1" -v to="$2" '$1 == site && ($2 == to || $2 == "*") { $1 = $2 = ""; sub(/^ +/, ""); print }' "$root/loom-tests/orderings-unnoticed.txt"; }

touch "$root/loom-tests/orderings.txt" "$root/loom-tests/orderings-unnoticed.txt" "$state/results"
[ $size = quick ] || baseline
noticed=0 explained=0 wrong=0
printf '%-34s %-28s %-13s    %-8s %s\n' site place ordering becomes verdict
while IFS=$'\t' read -r number site place order to source; do
    read -r model mode bound <<<"$(witness "$site" "$to")"
    why=$(reason "$site" "$to")
    verdict=
    if [ $size = quick ]; then
        if [ -n "$model" ]; then
            try "$number" "$to" "$model" "$mode" "$bound" && verdict="noticed by $model ($mode)"
        elif [ -z "$why" ]; then
            verdict=
        else
            verdict=unnoticed
        fi
    else
        known=$(awk -v site="$site" -v to="$to" '$1 == site && $2 == to { print $3, $4, $5 }' "$state/results")
        if [ -z "$known" ]; then
            known=-
            # The one that noticed it the last time, and then all that pass the site.
            while read -r model mode bound; do
                [ -n "$model" ] || continue
                try "$number" "$to" "$model" "$mode" "$bound" && { known="$model $mode $bound"; break; }
            done < <(witness "$site" "$to"; grep ",$number," "$state/passes" | sort -n | cut -d' ' -f2-4)
            echo "$site $to $known" >>"$state/results"
        fi
        read -r model mode bound <<<"$known"
        if [ "$model" != - ]; then
            verdict="noticed by $model ($mode)"
        elif [ -n "$why" ]; then
            verdict=unnoticed
        fi
    fi
    case $verdict in
        noticed*) noticed=$((noticed + 1))
            [ -z "$why" ] || { verdict="$verdict, but orderings-unnoticed.txt explains why not"; wrong=$((wrong + 1)); } ;;
        unnoticed) explained=$((explained + 1)); verdict="explained: $why" ;;
        *) wrong=$((wrong + 1)); verdict="UNNOTICED: $source" ;;
    esac
    printf '%-34s %-28s %-13s -> %-8s %s\n' "$site" "$place" "$order" "$to" "$verdict"
done <<<"$chosen"

# What the lists say of sites that are not there (any more).
if [ "$which" = . ]; then
    while read -r site to _; do
        case $site in '' | \#*) continue ;; esac
        awk -F'\t' -v site="$site" -v to="$to" '$2 == site && (to == "*" || $5 == to) { found = 1 } END { exit !found }' "$weakenings" ||
            { echo "listed, but not in the source: $site $to"; wrong=$((wrong + 1)); }
    done < <(cat "$root/loom-tests/orderings.txt" "$root/loom-tests/orderings-unnoticed.txt")
    [ $size = quick ] || grep -v -- ' -$' "$state/results" | LC_ALL=C sort >"$work/orderings.txt"
    [ $size = quick ] || cmp -s "$work/orderings.txt" "$root/loom-tests/orderings.txt" ||
        echo "orderings.txt as it would be now: $work/orderings.txt"
fi

printf '\n%s orderings in %s weakenings: %s noticed, %s unnoticed and explained, %s neither\n' \
    "$(cut -f1 <<<"$chosen" | uniq | wc -l)" "$(wc -l <<<"$chosen")" $noticed $explained $wrong
[ $wrong = 0 ]
