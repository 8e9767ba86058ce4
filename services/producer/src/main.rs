//! `tick-producer`: one venue's trades and quotes to Kafka. Everything worth reading is in the library beside this.

use marketflow_producer::{Config, DEFAULTS, run};
use marketflow_runtime::{List, program};
use std::process::ExitCode;

const LISTS: &[List] = &[List {
    name: "stocks",
    key: "provider.instruments",
    entry: "CODE",
    help: "what to subscribe: codes of the configured provider (005930), VENUE:SYMBOL, or sets (@krx10)",
}];

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(program!("tick-producer").with_lists(LISTS), DEFAULTS, run)
}
