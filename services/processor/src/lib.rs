//! Stream processor: trades and candles in; bars, revisions and set-aside records out, exactly once within Kafka.
//!
//! Topics: `schemas/topics.toml`. Guarantees and how they are tested: `README.md`. Reading order: `processor.rs` (the loop and the transaction),
//! `state.rs` (one record), `outputs.rs` (one batch), `assignment.rs` (rebuilding a partition), `origins.rs` (the topics state was built from), `repartition.rs` (partitions were added), `watchdog.rs` (ending what stands still),
//! `stage_worker.rs` (a small loop for stages with one partition), `flow_worker.rs` (the second stage of flows across instruments),
//! `market_worker.rs` (flows of markets), `live.rs` (unfinished bars for screens),
//! `silence.rs` (feeds that say nothing).
//!
//! Next: `processor.rs`.

mod assignment;
mod config;
mod flow_worker;
mod live;
mod market_worker;
mod metrics;
mod origins;
mod outputs;
mod processor;
mod repartition;
mod silence;
mod stage_worker;
mod state;
mod watchdog;

pub use config::Config;
pub use processor::run;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("default.toml");
