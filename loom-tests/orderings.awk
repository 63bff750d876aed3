# Numbers the orderings of one source file that are more than Relaxed: `orderings.sh` gives it the files one by one, with
# `first`, the number that comes next, and `sites`, the file to which a line is added for each:
#
#     number  site  file:line  ordering  kind  source
#
# A site is named after module and function, so that its name outlives changes elsewhere in the file. What is printed is
# the source in which each of these orderings asks `weaken.rs` what it is.

BEGIN {
    number = first
    module = FILENAME
}

FNR == 1 {
    module = FILENAME
    sub(/^src\//, "", module)
    sub(/(\/mod)?\.rs$/, "", module)
    gsub(/\//, "::", module)
    within = "-"
}

# Unit tests run without loom.
/^#\[cfg\(all\(test/ { rest = 1 }

!rest && match($0, /fn [a-z_0-9]+/) && $0 !~ /^ *\/\// { within = substr($0, RSTART + 3, RLENGTH - 3) }

rest || /^ *\/\// || !/Ordering::(Release|Acquire|AcqRel|SeqCst)/ {
    print
    next
}

{
    text = $0
    sub(/^ */, "", text)
    done = ""
    left = $0
    while (match(left, /(fence\()?(crate::sync::)?Ordering::(Release|Acquire|AcqRel|SeqCst)/)) {
        found = substr(left, RSTART, RLENGTH)
        is_fence = found ~ /^fence/
        order = found
        sub(/.*Ordering::/, "", order)
        sub(/^fence\(/, "", found)
        call = is_fence ? "crate::weaken::fence(" number ", " found : "crate::weaken::order(" number ", " found ")"
        done = done substr(left, 1, RSTART - 1) call
        left = substr(left, RSTART + RLENGTH)
        printf "%d\t%s::%s/%d\t%s:%d\t%s\t%s\t%s\n", number, module, within, ++count[within], FILENAME, FNR, order, \
            is_fence ? "fence" : "order", text >> sites
        number++
    }
    print done left
}
