//! `tick-producer`: one venue's trades and quotes to Kafka. Everything worth reading is in the library beside this.

use marketflow_producer::{Config, DEFAULTS, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("tick-producer"), DEFAULTS, run)
}
