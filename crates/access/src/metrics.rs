//! What is counted of the calls of one key. Labels are few and bounded.

use marketflow_runtime::Metrics as Registry;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

/// Every metric of calls.
pub struct Metrics {
    /// Calls to the venue, by what came of them.
    pub requests: IntCounterVec,
    /// How long calls waited for the budget.
    pub waited: Histogram,
    /// Calls left today.
    pub left_today: IntGauge,
    /// Times the venue was left alone.
    pub breaker_opened: IntCounter,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.counter_vec(
                "marketflow_provider_requests_total",
                "requests to the venue",
                &["provider", "outcome"],
            ),
            waited: registry.histogram(
                "marketflow_budget_wait_seconds",
                "how long a call waited for the key's budget",
                &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0],
            ),
            left_today: registry.gauge("marketflow_budget_calls_left", "calls left to the key today"),
            breaker_opened: registry
                .counter("marketflow_breaker_opened_total", "times the venue was left alone after failures in a row"),
        }
    }
}
