//! Stream processor: trades and candles in; bars out, exactly once. See the library's documentation.

use marketflow_processor::{Config, DEFAULTS};
use std::process::ExitCode;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("processor"), DEFAULTS, marketflow_processor::run)
}
