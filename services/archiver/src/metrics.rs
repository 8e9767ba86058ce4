//! What is counted. Labels are few and bounded.

use marketflow_runtime::Metrics as Registry;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

/// Every metric of the service.
pub(crate) struct Metrics {
    /// Rows of the market files.
    pub(crate) market_rows: IntGaugeVec,
    /// Observations whose series belongs to no market.
    pub(crate) unassigned: IntGauge,
    /// Rows written to the archive.
    pub(crate) rows: IntCounterVec,
    /// Records that are no row.
    pub(crate) skipped: IntCounterVec,
    /// Files written.
    pub(crate) files: IntCounterVec,
    /// When a pass ended, in seconds since 1970.
    pub(crate) last_pass: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            market_rows: registry.gauge_vec("marketflow_archive_market_rows", "rows of data/<market>.parquet", &["market"]),
            unassigned: registry.gauge("marketflow_archive_unassigned_series", "series that belong to no market"),
            rows: registry.counter_vec("marketflow_archive_rows_total", "rows written to the archive", &["topic"]),
            skipped: registry.counter_vec("marketflow_archive_skipped_total", "records that are no row", &["topic", "reason"]),
            files: registry.counter_vec("marketflow_archive_files_total", "files written", &["kind"]),
            last_pass: registry.gauge("marketflow_archive_last_pass_seconds", "when a pass ended, in seconds since 1970"),
        }
    }
}
