//! Prometheus metrics of one process.

use crate::Program;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Registers metrics by name and help text. Names are constants of the service's `metrics.rs`, so every function here panics on a name that
/// is malformed or registered twice: a mistake of the programmer, seen at the first start. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
}

const VALID: &str = "metric names are constants, well-formed and registered once";

impl Metrics {
    /// A registry with `marketflow_build_info` and the process's CPU, memory and descriptors in it.
    ///
    /// # Panics
    /// Never: a fresh registry has no name twice.
    pub fn new(program: Program) -> Self {
        let metrics = Self { registry: Registry::new() };
        metrics.registry.register(Box::new(ProcessCollector::for_self())).expect(VALID);
        metrics
            .gauge_vec("marketflow_build_info", "1; version and commit are the labels", &["service", "version", "commit"])
            .with_label_values(&[program.name, env!("CARGO_PKG_VERSION"), program.commit()])
            .set(1);
        metrics
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// A counter by labels.
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// A gauge by labels.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram with these upper bounds.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// A histogram by labels.
    pub fn histogram_vec(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// Any other collector.
    ///
    /// # Panics
    /// When it is malformed or registered twice.
    pub fn register<M: Collector + Clone + 'static>(&self, metric: M) -> M {
        self.add(Ok(metric))
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect(VALID);
        self.registry.register(Box::new(metric.clone())).expect(VALID);
        metric
    }

    /// The exposition text.
    ///
    /// # Errors
    /// A collector that cannot be written as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_metrics_are_in_the_text() {
        let metrics = Metrics::new(crate::program!("example"));
        metrics.counter_vec("marketflow_example_total", "what is counted", &["kind"]).with_label_values(&["a"]).inc_by(3);
        let text = metrics.text().unwrap();
        assert!(text.contains("marketflow_example_total{kind=\"a\"} 3"), "{text}");
        assert!(text.contains("marketflow_build_info{"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
