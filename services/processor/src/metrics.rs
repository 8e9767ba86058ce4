//! What the processor counts.

use marketflow_runtime::Metrics;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

/// The processor's metrics; shared by its workers.
#[derive(Clone)]
pub(crate) struct ProcessorMetrics {
    /// `marketflow_records_consumed_total{topic}`: data and controls, committed.
    pub(crate) consumed: IntCounterVec,
    /// `marketflow_records_produced_total{topic}`: committed.
    pub(crate) produced: IntCounterVec,
    /// `marketflow_trades_total{outcome}`: where every data record went, committed.
    pub(crate) trades: IntCounterVec,
    /// `marketflow_controls_total{kind}`: committed.
    pub(crate) controls: IntCounterVec,
    /// `marketflow_bars_total{interval,kind}`: kind = final or revision, committed.
    pub(crate) bars: IntCounterVec,
    /// `marketflow_consumer_lag_records{topic,partition}`.
    pub(crate) lag: IntGaugeVec,
    /// `marketflow_watermark_timestamp_seconds{topic,partition}`: the newest watermark of a live feed.
    pub(crate) watermark: IntGaugeVec,
    /// `marketflow_transaction_duration_seconds{outcome}`.
    pub(crate) transactions: HistogramVec,
    /// `marketflow_changelog_bytes_total{topic}`: state written.
    pub(crate) changelog_bytes: IntCounterVec,
    /// `marketflow_restores_total{reason}`: partitions rebuilt.
    pub(crate) restores: IntCounterVec,
    /// `marketflow_restore_duration_seconds{stage}`: how long a partition took to rebuild; stage = its changelog.
    pub(crate) restore_duration: HistogramVec,
    /// `marketflow_live_bars_total{outcome}`: unfinished bars sent, or dropped because Kafka did not keep up.
    pub(crate) live_bars: IntCounterVec,
    /// `marketflow_flow_partials_total{outcome}`: partial sums read, committed; used, repeated, too_old or dead_lettered.
    pub(crate) flow_partials: IntCounterVec,
    /// `marketflow_market_flow_inputs_total{outcome}`: observations and reported flows read, committed; used, known, not_selected or dead_lettered.
    pub(crate) market_flow_inputs: IntCounterVec,
    /// `marketflow_flow_aggregates_total{scope,kind}`: sums over partitions and of markets published, committed; kind = final or revision.
    pub(crate) flow_aggregates: IntCounterVec,
}

impl ProcessorMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        Self {
            consumed: metrics.counter_vec("marketflow_records_consumed_total", "records read and committed", &["topic"]),
            produced: metrics.counter_vec("marketflow_records_produced_total", "records written and committed", &["topic"]),
            trades: metrics.counter_vec("marketflow_trades_total", "where every trade and candle went, committed", &["outcome"]),
            controls: metrics.counter_vec("marketflow_controls_total", "controls read, committed", &["kind"]),
            bars: metrics.counter_vec("marketflow_bars_total", "bars published, committed", &["interval", "kind"]),
            lag: metrics.gauge_vec("marketflow_consumer_lag_records", "records not yet read", &["topic", "partition"]),
            watermark: metrics.gauge_vec(
                "marketflow_watermark_timestamp_seconds",
                "event time up to which a live feed is complete, newest of the partition",
                &["topic", "partition"],
            ),
            transactions: metrics.histogram_vec(
                "marketflow_transaction_duration_seconds",
                "from begin to commit or abort",
                &seconds,
                &["outcome"],
            ),
            changelog_bytes: metrics.counter_vec(
                "marketflow_changelog_bytes_total",
                "state written, keys and values",
                &["topic"],
            ),
            restores: metrics.counter_vec("marketflow_restores_total", "partitions rebuilt from the changelog", &["reason"]),
            restore_duration: metrics.histogram_vec(
                "marketflow_restore_duration_seconds",
                "from reading the committed offsets to reading on, by changelog",
                &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0],
                &["stage"],
            ),
            live_bars: metrics.counter_vec("marketflow_live_bars_total", "unfinished bars, sent or dropped", &["outcome"]),
            flow_partials: metrics.counter_vec(
                "marketflow_flow_partials_total",
                "partial sums of flows, committed",
                &["outcome"],
            ),
            market_flow_inputs: metrics.counter_vec(
                "marketflow_market_flow_inputs_total",
                "observations and reported flows, committed",
                &["outcome"],
            ),
            flow_aggregates: metrics.counter_vec(
                "marketflow_flow_aggregates_total",
                "flows across instruments published, committed",
                &["scope", "kind"],
            ),
        }
    }
}
