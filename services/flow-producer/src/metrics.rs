//! What is counted. Labels are few and bounded.

use marketflow_access as access;
use marketflow_runtime::Metrics as Registry;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};
use std::sync::Arc;

/// Every metric of the service.
pub struct Metrics {
    /// Requests to sources and calls to the broker.
    pub access: Arc<access::Metrics>,
    /// Records handed to Kafka.
    pub produced: IntCounterVec,
    /// Values that the log held already.
    pub known: IntCounterVec,
    /// Values published as missing.
    pub missing: IntCounterVec,
    /// Endpoint months to collect in this pass.
    pub months_due: IntGauge,
    /// Endpoint months collected in this pass.
    pub months_done: IntGauge,
    /// Endpoint days of investors to collect in this pass.
    pub days_due: IntGauge,
    /// Endpoint days of investors collected in this pass.
    pub days_done: IntGauge,
    /// Endpoints given up in this pass.
    pub failed: IntGauge,
    /// Seconds waited for a source's limit.
    pub waited: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            access: Arc::new(access::Metrics::new(registry)),
            produced: registry.counter_vec("marketflow_records_produced_total", "records handed to Kafka", &["topic"]),
            known: registry.counter_vec(
                "marketflow_observations_known_total",
                "values not written because the log says the same already",
                &["provider"],
            ),
            missing: registry.counter_vec("marketflow_observations_missing_total", "values published as missing", &["provider"]),
            months_due: registry.gauge("marketflow_collect_months_due", "endpoint months to collect in this pass"),
            months_done: registry.gauge("marketflow_collect_months_done", "endpoint months collected in this pass"),
            days_due: registry.gauge("marketflow_collect_days_due", "endpoint days of investors to collect in this pass"),
            days_done: registry.gauge("marketflow_collect_days_done", "endpoint days of investors collected in this pass"),
            failed: registry.gauge("marketflow_collect_endpoints_failed", "endpoints given up in this pass"),
            waited: registry.gauge_vec(
                "marketflow_pacing_waited_seconds",
                "time waited because a source allows no more requests",
                &["provider"],
            ),
        }
    }
}
