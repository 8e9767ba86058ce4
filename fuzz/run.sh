#!/usr/bin/env bash
# Fuzzes one target for so many seconds: fuzz/run.sh decode 60. Stable Rust: what cargo-fuzz asks of a nightly compiler is the coverage pass,
# which the stable one has behind the same flags, and the address sanitizer, which code without `unsafe` does without.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
target=${1:?usage: fuzz/run.sh decode|frames [SECONDS]}
seconds=${2:-60}

python3 seeds.py
mkdir -p "corpus/$target" "artifacts/$target"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks"
cargo build --release --bin "$target" --target "$(rustc -vV | sed -n 's/^host: //p')"
exec "target/$(rustc -vV | sed -n 's/^host: //p')/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 \
    -artifact_prefix="artifacts/$target/" "corpus/$target"
