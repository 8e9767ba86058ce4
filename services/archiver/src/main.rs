//! `archiver`: topics to Parquet. Everything worth reading is in the library beside this.

use marketflow_archiver::{Config, DEFAULTS, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("archiver"), DEFAULTS, run)
}
