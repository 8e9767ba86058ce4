//! The processor's configuration; `default.toml` holds every key with its unit.

use anyhow::{Context, ensure};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_model::Interval;
use marketflow_runtime::{AdminConfig, Exit, ExitContext, LogConfig};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything the processor is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where the schema registry is.
    pub registry: RegistryConfig,
    /// The loop.
    pub worker: Worker,
    /// What is built.
    pub bars: Bars,
}

/// Section `[worker]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Consumer group.
    pub group: String,
    /// Of this process among its peers.
    pub ordinal: u32,
    /// Workers in this process.
    pub count: u32,
    /// Longest time between a record and its commit.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// The same while more records wait than a batch holds: fewer commits, and state that came and went between two is never written.
    #[serde(with = "humantime_serde")]
    pub catch_up_interval: Duration,
    /// A transaction commits early at this much output.
    pub max_output_bytes: usize,
    /// Records taken from Kafka at once.
    pub max_batch_records: usize,
    /// Rebuilds without progress between them, before giving up.
    pub restart_attempts: u32,
    /// Lag without progress for so long ends the process.
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
}

/// Section `[bars]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Shortest first, `1m` included.
    pub intervals: Vec<Interval>,
    /// A closed window takes corrections this long.
    #[serde(with = "humantime_serde")]
    pub allowed_lateness: Duration,
    /// Event time may be ahead of receive time by this much.
    #[serde(with = "humantime_serde")]
    pub future_tolerance: Duration,
    /// An open gap counts as abandoned after this much event time.
    #[serde(with = "humantime_serde")]
    pub gap_limit: Duration,
    /// Whether minutes of an open market without a trade make bars too (`no_trades`, carrying the last close).
    pub emit_empty: bool,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first key that cannot be, with the cure.
    pub fn validate(&self) -> anyhow::Result<marketflow_engine::Config> {
        let check = || {
            let bars = &self.bars;
            ensure!(
                bars.intervals.first() == Some(&Interval::ONE_MINUTE),
                "bars.intervals must start with \"1m\": longer bars fold from it"
            );
            ensure!(bars.intervals.windows(2).all(|w| w[0] < w[1]), "bars.intervals must rise and name each interval once");
            ensure!(self.worker.count > 0, "worker.count must be at least 1");
            ensure!(self.worker.stuck_after >= Duration::from_secs(1), "worker.stuck_after must be at least 1s");
            ensure!(bars.allowed_lateness < bars.gap_limit, "bars.allowed_lateness must be shorter than bars.gap_limit");
            let micros = |d: Duration, key: &str| i64::try_from(d.as_micros()).with_context(|| format!("{key} is too long"));
            Ok(marketflow_engine::Config {
                intervals: bars.intervals.clone(),
                allowed_lateness_micros: micros(bars.allowed_lateness, "bars.allowed_lateness")?,
                future_tolerance_micros: micros(bars.future_tolerance, "bars.future_tolerance")?,
                gap_limit_micros: micros(bars.gap_limit, "bars.gap_limit")?,
                emit_empty: bars.emit_empty,
            })
        };
        check().exit(Exit::Usage)
    }

    /// Names worker `number` of this process: its place in the group and its transactional id follow from it.
    pub fn slot(&self, number: u32) -> String {
        format!("{}-{number}", self.worker.ordinal)
    }
}
