//! Metric names and help texts.

use marketflow_runtime::Metrics as Registry;
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

const CONSUMED: &str = "marketflow_records_consumed_total";
const DISCARDED: &str = "marketflow_records_discarded_total";
const INSERTED: &str = "marketflow_rows_inserted_total";
const INSERT_DURATION: &str = "marketflow_insert_duration_seconds";
const APPEND_TO_ROW: &str = "marketflow_append_to_row_seconds";
const LAG: &str = "marketflow_consumer_lag_records";
const IN_FLIGHT: &str = "marketflow_batches_in_flight";
const COMMIT_FAILURES: &str = "marketflow_offset_commit_failures_total";
const AUDIT_ROWS: &str = "marketflow_audit_rows";
const AUDIT_DUPLICATES: &str = "marketflow_audit_duplicate_rows";
const AUDIT_MISSING: &str = "marketflow_audit_missing_rows";
const AUDIT_TIME: &str = "marketflow_audit_timestamp_seconds";

/// What the sink counts.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) consumed: IntCounterVec,
    pub(crate) discarded: IntCounterVec,
    pub(crate) inserted: IntCounterVec,
    pub(crate) insert_duration: HistogramVec,
    pub(crate) append_to_row: HistogramVec,
    pub(crate) lag: IntGaugeVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) commit_failures: IntCounterVec,
    /// Rows, duplicates, missing rows.
    pub(crate) audited: [IntGaugeVec; 3],
    pub(crate) audit_time: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            consumed: registry.counter_vec(CONSUMED, "records read", &["topic"]),
            discarded: registry.counter_vec(
                DISCARDED,
                "records that became no row, by reason: control, landed (a row already), not_selected (redriven for another consumer), \
                 tombstone, undecodable, refused",
                &["topic", "reason"],
            ),
            inserted: registry.counter_vec(INSERTED, "rows acknowledged by ClickHouse", &["table"]),
            insert_duration: registry.histogram_vec(
                INSERT_DURATION,
                "one try of one insert, by outcome: ok, retry, data, fatal",
                &seconds,
                &["table", "outcome"],
            ),
            append_to_row: registry.histogram_vec(
                APPEND_TO_ROW,
                "from the append of a batch's last record in Kafka to its row being readable",
                &seconds,
                &["table"],
            ),
            lag: registry.gauge_vec(LAG, "committed records not yet landed", &["topic", "partition"]),
            in_flight: registry.gauge(IN_FLIGHT, "batches being inserted"),
            commit_failures: registry.counter_vec(COMMIT_FAILURES, "offset commits refused; repeated later", &["reason"]),
            audited: [
                (AUDIT_ROWS, "rows ClickHouse has of what this sink landed in the last ten minutes, repeats counted"),
                (AUDIT_DUPLICATES, "how many of them repeat an offset: views show one, merges remove the others"),
                (AUDIT_MISSING, "rows this sink landed in the last ten minutes that ClickHouse does not have: 0 unless something took them"),
            ]
            .map(|(name, help)| registry.gauge_vec(name, help, &["topic", "partition"])),
            audit_time: registry.gauge(AUDIT_TIME, "when ClickHouse was last asked for these rows"),
        }
    }
}
