//! What is counted. Labels are few and bounded; instruments are not among them.

use marketflow_access as access;
use marketflow_runtime::Metrics as Registry;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::sync::Arc;

/// Every metric of the service.
pub struct Metrics {
    /// Records handed to Kafka.
    pub produced: IntCounterVec,
    /// Trades dropped before Kafka, by reason.
    pub discarded: IntCounterVec,
    /// Frames and rows that could not be used.
    pub malformed: IntCounterVec,
    /// Connections that ended.
    pub reconnects: IntCounterVec,
    /// Controls written.
    pub controls: IntCounterVec,
    /// Gaps open now.
    pub gaps_open: IntGauge,
    /// Requests to the venue.
    pub access: Arc<access::Metrics>,
    /// Trades recovered by request.
    pub backfilled: IntCounter,
    /// Trades waiting between socket and feed.
    pub queue_trades: IntGauge,
    /// Trades dropped for want of room; each opens a gap.
    pub overflowed: IntCounter,
    /// Quotes replaced by later ones before they were written.
    pub conflated: IntCounter,
    /// Records Kafka did not take.
    pub undelivered: IntCounterVec,
    /// Subscriptions wanted and active.
    pub subscriptions: IntGaugeVec,
    /// Instruments whose trades each provider tells now.
    pub told: IntGaugeVec,
    /// Rankings looked at.
    pub ranking_looks: IntCounter,
    /// Instruments that their rank brought in.
    pub ranked_changes: IntCounter,
    /// Instruments followed by rank now.
    pub ranked: IntGauge,
    /// Where the feed is complete to.
    pub complete_through: IntGauge,
    /// From the venue's clock to ours.
    pub event_age: Histogram,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            produced: registry.counter_vec("marketflow_records_produced_total", "records handed to Kafka", &["topic"]),
            discarded: registry.counter_vec(
                "marketflow_records_discarded_total",
                "trades not written because they were seen before or are not wanted",
                &["topic", "reason"],
            ),
            malformed: registry.counter_vec(
                "marketflow_frames_malformed_total",
                "frames and rows that could not be used; each is a dead letter or quarantined",
                &["provider", "reason"],
            ),
            reconnects: registry.counter_vec("marketflow_reconnects_total", "connections that ended", &["provider", "reason"]),
            controls: registry.counter_vec(
                "marketflow_controls_produced_total",
                "controls written, copies not counted",
                &["kind"],
            ),
            gaps_open: registry.gauge("marketflow_gaps_open", "gaps neither filled nor abandoned"),
            access: Arc::new(access::Metrics::new(registry)),
            backfilled: registry.counter("marketflow_trades_backfilled_total", "trades recovered by request"),
            queue_trades: registry.gauge("marketflow_intake_trades", "trades waiting between socket and feed"),
            overflowed: registry.counter("marketflow_intake_overflow_total", "trades dropped for want of room; each opens a gap"),
            conflated: registry
                .counter("marketflow_quotes_conflated_total", "quotes replaced by later ones before they were written"),
            undelivered: registry.counter_vec("marketflow_records_undelivered_total", "records Kafka did not take", &["topic"]),
            subscriptions: registry.gauge_vec("marketflow_subscriptions", "instruments wanted and acknowledged", &["state"]),
            told: registry.gauge_vec(
                "marketflow_instruments_told",
                "instruments whose trades this provider tells now; where one stands by, the other tells",
                &["provider"],
            ),
            ranking_looks: registry
                .counter("marketflow_ranking_looks_total", "rankings of the most active instruments looked at"),
            ranked_changes: registry.counter("marketflow_ranking_entered_total", "instruments that their rank brought in"),
            ranked: registry.gauge("marketflow_instruments_ranked", "instruments followed by rank now"),
            complete_through: registry.gauge(
                "marketflow_complete_through_timestamp_seconds",
                "event time up to which the feed is complete, open gaps excepted",
            ),
            event_age: registry.histogram(
                "marketflow_event_age_seconds",
                "event time to receipt, on the venue's clock",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0],
            ),
        }
    }
}
