//! `candle-producer`: a broker's minute candles to Kafka, history and live. Everything worth reading is in the library's `candles`.

use marketflow_producer::candles::{Config, DEFAULTS, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("candle-producer"), DEFAULTS, run)
}
