#!/usr/bin/env bash
# Every test of the workspace. Test programs that fail run a second time, at most two of them: real brokers, killed processes and two loaded
# cores make a rare failure possible that says nothing of the change at hand. Both outcomes are printed, and a failure that did not
# repeat is listed as unstable: it is a defect of the product or the test, to be found and mended, not to be run away.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if "$cargo" test --workspace --no-fail-fast 2>&1 | tee "$log"; then exit 0; fi

# Cargo ends with the programs that failed: `-p marketflow-sink --test sink`. Run from the whole workspace, or dependencies are built anew
# with other features.
mapfile -t failed < <(sed -nE 's/^ +`-p [^ ]+ (--[^`]+)`$/\1/p' "$log" | sort -u)
if ((${#failed[@]} == 0 || ${#failed[@]} > 2)); then
    echo "make test: ${#failed[@]} test programs failed; see above" >&2
    exit 1
fi
names=$(sed -nE 's/^test (.+) \.\.\. FAILED$/\1/p' "$log" | sort -u)
for program in "${failed[@]}"; do
    printf '\nmake test: %s failed; running it once more\n' "$program"
    read -ra arguments <<<"$program"
    "$cargo" test --workspace --no-fail-fast "${arguments[@]}"
done
printf '\nmake test: UNSTABLE, failed once and passed when repeated; please report it with the output above:\n%s\n' "$names"
