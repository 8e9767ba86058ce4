//! ClickHouse: the only crate that speaks to it. A client for questions, exact inserts and the tables of `schemas/clickhouse`.
//!
//! An [`Insert`] holds the bytes it sends, so that a retry repeats them to the byte under the same deduplication token. What a row means is
//! the sink's business; this crate knows neither Kafka nor records.
//!
//! Next: `schemas/clickhouse/001_trades.sql`.

mod client;
mod config;
mod error;
mod insert;
pub mod migrations;
mod sessions;

pub use client::ClickHouse;
pub use config::ClickHouseConfig;
pub use error::{Disposition, Error};
pub use insert::{Column, Insert, RowWriter, header};
