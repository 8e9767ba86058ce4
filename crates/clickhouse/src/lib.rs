//! ClickHouse: the only crate that speaks to it. A client for questions, exact inserts and the tables of `schemas/clickhouse`.
//!
//! An [`Insert`] holds the bytes it sends, so that a retry repeats them to the byte under the same deduplication token. What a row means is
//! the sink's business; this crate knows neither Kafka nor records.
//!
//! Next: `schemas/clickhouse/001_trades.sql`.

mod block;
mod client;
mod config;
mod error;
mod layout;
pub mod migrations;
mod retention;
mod sessions;

pub use block::{Column, Columns, Insert, RowWriter};
pub use client::{ClickHouse, Pieces, Upload};
pub use config::ClickHouseConfig;
pub use error::{Disposition, Error};
pub use layout::Layout;
pub use retention::Retention;
