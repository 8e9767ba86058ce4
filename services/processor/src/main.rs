//! Stream processor: trades and candles in; bars out, exactly once. See the library's documentation.

use marketflow_processor::{Config, DEFAULTS};
use std::process::ExitCode;

/// librdkafka makes every record on one thread and it is freed on another, which glibc's allocator does slowly; so this one serves C as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("processor"), DEFAULTS, marketflow_processor::run)
}
