//! Topics → ClickHouse rows. One plain thread owns the consumer and decides; inserts run beside it, one in flight per topic partition.
//!
//! Read `sink.rs` (the loop), then `assignment.rs` (where a partition begins), `batch.rs`, `landing.rs` (retries, bisection), and one file of
//! `tables/`.
//!
//! Next: `sink.rs`.

mod assignment;
mod audit;
mod batch;
mod config;
mod dead_letters;
mod error;
mod landing;
mod metrics;
mod sink;
mod tables;

pub use config::{Config, DEFAULTS};
pub use error::exit_of;
pub use sink::Sink;
