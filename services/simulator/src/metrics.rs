//! What `/metrics` shows. Next: `admin.rs`.

use crate::faults::FaultKind;
use crate::market::{Fate, Venue};
use marketflow_runtime::Metrics;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// The simulator's own metrics.
#[derive(Debug)]
pub struct SimulatorMetrics {
    /// WebSocket connections now.
    pub connections: IntGauge,
    frames: [IntCounter; Venue::ALL.len()],
    trades: IntCounterVec,
    on_time: IntCounter,
    faults: IntCounterVec,
    requests: IntCounterVec,
}

impl SimulatorMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> SimulatorMetrics {
        let frames = metrics.counter_vec("marketflow_simulator_frames_total", "data frames queued to clients", &["venue"]);
        let trades = metrics.counter_vec(
            "marketflow_simulator_trades_total",
            "trades that happened, by how they were first sent",
            &["delivery"],
        );
        SimulatorMetrics {
            connections: metrics.gauge("marketflow_simulator_connections", "WebSocket connections"),
            frames: Venue::ALL.map(|venue| frames.with_label_values(&[venue.name().to_lowercase()])),
            on_time: trades.with_label_values(&["socket"]),
            trades,
            faults: metrics.counter_vec("marketflow_simulator_faults_total", "faults that struck", &["kind"]),
            requests: metrics.counter_vec("marketflow_simulator_requests_total", "REST requests answered", &["venue", "status"]),
        }
    }

    /// Data frames were queued.
    pub fn frames(&self, venue: Venue, count: u64) {
        self.frames[venue as usize].inc_by(count);
    }

    /// Data frames queued so far.
    pub fn frames_sent(&self) -> u64 {
        self.frames.iter().map(IntCounter::get).sum()
    }

    /// A trade happened.
    pub fn trade(&self, fate: Fate) {
        let delivery = match fate {
            Fate::Socket => return self.on_time.inc(),
            Fate::Pending => "pending",
            Fate::Missed => "missed",
            Fate::Late => "late",
            Fate::OutOfOrder => "out_of_order",
            Fate::RestOnly => "rest_only",
        };
        self.trades.with_label_values(&[delivery]).inc();
    }

    /// A fault struck.
    pub fn fault(&self, kind: FaultKind) {
        let kind = serde_json::to_value(kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        self.faults.with_label_values(&[kind.as_str()]).inc();
    }

    /// A REST request was answered.
    pub fn request(&self, venue: Venue, status: u16) {
        self.requests.with_label_values(&[&venue.name().to_lowercase(), &status.to_string()]).inc();
    }
}
