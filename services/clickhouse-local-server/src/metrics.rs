//! What `/metrics` shows of the queries.
//!
//! Next: `README.md`.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

const QUERY_DURATION: &str = "marketflow_clickhouse_query_duration_seconds";
const FAULTS: &str = "marketflow_clickhouse_faults_total";
const ROWS_WRITTEN: &str = "marketflow_clickhouse_rows_written_total";
const RUNNING: &str = "marketflow_clickhouse_queries_running";
const REFUSED: &str = "marketflow_clickhouse_queries_refused_total";

/// Seconds.
const BUCKETS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

pub(crate) struct Metrics {
    duration: HistogramVec,
    faults: IntCounterVec,
    rows_written: IntCounter,
    pub(crate) running: IntGauge,
    pub(crate) refused: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &marketflow_runtime::Metrics) -> Self {
        Self {
            duration: registry.histogram_vec(
                QUERY_DURATION,
                "time from a request's start to its last byte",
                BUCKETS,
                &["outcome"],
            ),
            faults: registry.counter_vec(FAULTS, "queries that failed, by ClickHouse's error code", &["code"]),
            rows_written: registry.counter(ROWS_WRITTEN, "rows acknowledged to inserting clients"),
            running: registry.gauge(RUNNING, "queries running now"),
            refused: registry.counter(REFUSED, "queries refused because too many ran"),
        }
    }

    /// Counts a query that is over; `fault` is its error code if it failed.
    pub(crate) fn finished(&self, fault: Option<i32>, elapsed: Duration) {
        let outcome = if fault.is_some() { "failed" } else { "ok" };
        self.duration.with_label_values(&[outcome]).observe(elapsed.as_secs_f64());
        if let Some(code) = fault {
            self.faults.with_label_values(&[code.to_string().as_str()]).inc();
        }
    }

    pub(crate) fn rows_written(&self, rows: u64) {
        self.rows_written.inc_by(rows);
    }
}
