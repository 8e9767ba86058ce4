//! Stream processor: trades and candles in; bars, revisions and set-aside records out, exactly once within Kafka.
//!
//! Topics: `schemas/topics.toml`. Guarantees and how they are tested: `README.md`. Reading order: `processor.rs` (the loop and the transaction),
//! `state.rs` (one record), `outputs.rs` (one batch), `assignment.rs` (rebuilding a partition), `watchdog.rs` (ending what stands still).
//!
//! Next: `processor.rs`.

mod assignment;
mod config;
mod metrics;
mod outputs;
mod processor;
mod state;
mod watchdog;

pub use config::Config;
pub use processor::run;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("default.toml");
