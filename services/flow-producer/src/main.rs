//! `flow-producer`: months of six markets to Kafka. Everything worth reading is in the library beside this.

use marketflow_flow_producer::{Config, DEFAULTS, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("flow-producer"), DEFAULTS, run)
}
