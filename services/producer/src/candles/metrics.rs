//! What is counted. Labels are few and bounded; instruments are not among them.

use marketflow_runtime::Metrics as Registry;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

/// Every metric of the candle-producer.
pub struct Metrics {
    /// Label of the provider.
    pub provider: &'static str,
    /// Records handed to Kafka.
    pub produced: IntCounterVec,
    /// Calls to the venue.
    pub requests: IntCounterVec,
    /// Candles by what became of them.
    pub candles: IntCounterVec,
    /// How long calls waited for the budget.
    pub waited: Histogram,
    /// Calls left today.
    pub left_today: IntGauge,
    /// Times the venue was left alone.
    pub breaker_opened: IntCounter,
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
            produced: registry.counter_vec("marketflow_records_produced_total", "records handed to Kafka", &["topic"]),
            requests: registry.counter_vec(
                "marketflow_provider_requests_total",
                "requests to the venue",
                &["provider", "outcome"],
            ),
            candles: registry.counter_vec(
                "marketflow_candles_total",
                "rows of minute candles received, by what became of them",
                &["outcome"],
            ),
            waited: registry.histogram(
                "marketflow_budget_wait_seconds",
                "how long a call waited for the key's budget",
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0],
            ),
            left_today: registry.gauge("marketflow_budget_calls_left", "calls left to the key today"),
            breaker_opened: registry
                .counter("marketflow_breaker_opened_total", "times the venue was left alone after failures in a row"),
            gaps_open: registry.gauge("marketflow_gaps_open", "gaps neither filled nor abandoned"),
            complete_through: registry.gauge(
                "marketflow_complete_through_timestamp_seconds",
                "event time up to which the feed is complete, open gaps excepted",
            ),
        }
    }
}
