//! What is counted. Labels are few and bounded; instruments are not among them.

use marketflow_access as access;
use marketflow_runtime::Metrics as Registry;
use prometheus::{IntCounterVec, IntGauge};
use std::sync::Arc;

/// Every metric of the candle-producer.
pub struct Metrics {
    /// Label of the provider.
    pub provider: &'static str,
    /// Calls to the venue.
    pub access: Arc<access::Metrics>,
    /// Records handed to Kafka.
    pub produced: IntCounterVec,
    /// Candles by what became of them.
    pub candles: IntCounterVec,
    /// Days of which the broker said something else than the calendar.
    pub calendar_differences: IntCounterVec,
    /// Gaps open now.
    pub gaps_open: IntGauge,
    /// Where the feed is complete to.
    pub complete_through: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry, provider: &'static str) -> Self {
        Self {
            provider,
            access: Arc::new(access::Metrics::new(registry)),
            produced: registry.counter_vec("marketflow_records_produced_total", "records handed to Kafka", &["topic"]),
            candles: registry.counter_vec(
                "marketflow_candles_total",
                "rows of minute candles received, by what became of them",
                &["outcome"],
            ),
            calendar_differences: registry.counter_vec(
                "marketflow_calendar_differences_total",
                "days of which the broker said something else than the calendar, by what it said",
                &["broker"],
            ),
            gaps_open: registry.gauge("marketflow_gaps_open", "gaps neither filled nor abandoned"),
            complete_through: registry.gauge(
                "marketflow_complete_through_timestamp_seconds",
                "event time up to which the feed is complete, open gaps excepted",
            ),
        }
    }
}
