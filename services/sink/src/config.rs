//! The sections of `default.toml`.

use anyhow::ensure;
use marketflow_clickhouse::ClickHouseConfig;
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_runtime::{AdminConfig, LogConfig};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Every setting and its default.
pub const DEFAULTS: &str = include_str!("default.toml");

/// The sink's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where the schemas are.
    pub registry: RegistryConfig,
    /// Where the tables are.
    pub clickhouse: ClickHouseConfig,
    /// Our consumer group.
    pub group: Group,
    /// When a batch is inserted.
    pub batch: BatchLimits,
    /// How inserts are tried.
    pub insert: Tries,
    /// Asking ClickHouse whether the rows are there.
    pub audit: Audit,
    /// What is accepted of a stream that is not as it was.
    pub stream: Accepted,
    /// The admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
}

/// Section `[group]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// `group.id`.
    pub id: String,
    /// `group.instance.id`; empty = a dynamic member.
    pub instance_id: String,
    /// `session.timeout.ms`.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
}

/// Section `[batch]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchLimits {
    /// Rows of a batch.
    pub max_rows: usize,
    /// Bytes of a batch's rows.
    pub max_bytes: usize,
    /// Age of a batch's first record in our hands.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// The same while we are behind.
    #[serde(with = "humantime_serde")]
    pub max_age_behind: Duration,
}

/// Section `[insert]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tries {
    /// One try.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// First pause.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// Longest pause.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
}

/// Section `[audit]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// From one to the next.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// Section `[stream]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// A new epoch of topics known under another one.
    pub accept_epoch: String,
    /// Records that expired unread.
    pub accept_loss: bool,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The rule that does not hold.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=1_000_000).contains(&self.batch.max_rows),
            "batch.max_rows must be within 1 and 1,000,000: an insert is one block"
        );
        ensure!(self.batch.max_bytes > 0, "batch.max_bytes must be positive");
        ensure!(self.insert.retry_min <= self.insert.retry_max, "insert.retry_min must not exceed insert.retry_max");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_every_key() {
        let config: Config = toml::from_str(DEFAULTS).unwrap();
        config.validate().unwrap();
    }
}
