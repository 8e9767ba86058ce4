//! The processor's configuration; `default.toml` holds every key with its unit.

use anyhow::{Context, anyhow, bail, ensure};
use marketflow_engine::{MarketSettings, SourceChoice};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_model::{BarKind, Interval};
use marketflow_runtime::{AdminConfig, Exit, ExitContext, LogConfig, file_or};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

const MARKET_SETTINGS: &str = include_str!("../../../schemas/market_flows.toml");

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
    /// What is summed across instruments.
    pub flows: Flows,
    /// Flows of markets.
    pub market_flows: MarketFlows,
    /// Unfinished bars.
    pub live: Live,
    /// Feeds that say nothing.
    pub clock: Clock,
    /// What is accepted of inputs that are not as they were.
    pub stream: Stream,
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
    /// Bars that what was traded ends: `t1000` (trades), `v500` (volume), `d1000000` (turnover).
    pub kinds: Vec<BarKind>,
    /// Whether live bars are made from trades or from a provider's candles.
    pub source: SourceChoice,
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

/// Section `[flows]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// Whether turnover by aggressor is summed, each minute, per instrument, venue and asset class and over all.
    pub enabled: bool,
    /// Consumer group of the stage that sums over input partitions.
    pub group: String,
}

/// Section `[market_flows]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarketFlows {
    /// Whether flows are derived from observations and reported flows.
    pub enabled: bool,
    /// Consumer group of the stage.
    pub group: String,
    /// File of series, market sizes, durations and rates; empty = the built-in one.
    pub settings: PathBuf,
}

/// Section `[live]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Whether open windows are shown on `market.bars-live.v1`.
    pub enabled: bool,
    /// At most one update per instrument in this time.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// Section `[clock]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Without a control of a feed for so long the processor writes what time it must be.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
    /// A feed that has said nothing for so long is down: its windows close as `gap`.
    #[serde(with = "humantime_serde")]
    pub down_after: Duration,
}

/// Section `[stream]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Epochs of inputs that were created again.
    pub accept_epochs: Vec<String>,
    /// Records that expired unread.
    pub accept_loss: bool,
    /// Partitions the inputs have after some were added; 0 = none were.
    pub accept_partitions: i32,
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
            let is_time = |kind: &BarKind| kind.interval().is_some();
            if let Some(interval) = bars.kinds.iter().find(|kind| is_time(kind)) {
                bail!("bars.kinds names {interval}, a length of time: those go to bars.intervals");
            }
            let mut kinds = bars.kinds.clone();
            kinds.sort_unstable();
            ensure!(kinds.windows(2).all(|w| w[0] != w[1]), "bars.kinds must name each kind once");
            ensure!(self.worker.count > 0, "worker.count must be at least 1");
            ensure!(self.worker.stuck_after >= Duration::from_secs(1), "worker.stuck_after must be at least 1s");
            ensure!(self.live.every >= Duration::from_millis(100), "live.every must be at least 100ms");
            ensure!(self.clock.silent_after >= Duration::from_secs(1), "clock.silent_after must be at least 1s");
            ensure!(
                self.clock.silent_after <= self.clock.down_after,
                "clock.silent_after must not be longer than clock.down_after"
            );
            ensure!(bars.allowed_lateness < bars.gap_limit, "bars.allowed_lateness must be shorter than bars.gap_limit");
            let micros = |d: Duration, key: &str| i64::try_from(d.as_micros()).with_context(|| format!("{key} is too long"));
            Ok(marketflow_engine::Config {
                intervals: bars.intervals.clone(),
                kinds: bars.kinds.clone(),
                source: bars.source,
                allowed_lateness_micros: micros(bars.allowed_lateness, "bars.allowed_lateness")?,
                future_tolerance_micros: micros(bars.future_tolerance, "bars.future_tolerance")?,
                gap_limit_micros: micros(bars.gap_limit, "bars.gap_limit")?,
                emit_empty: bars.emit_empty,
                flows: self.flows.enabled,
                down_after_micros: micros(self.clock.down_after, "clock.down_after")?,
            })
        };
        check().exit(Exit::Usage)
    }

    /// Reads what flows of markets are derived from.
    ///
    /// # Errors
    /// A file that cannot be read or says what cannot be.
    pub fn market_settings(&self) -> anyhow::Result<MarketSettings> {
        let (settings, name): (MarketSettings, _) =
            file_or("market_flows.settings", &self.market_flows.settings, MARKET_SETTINGS)?;
        settings.validate().map_err(|problem| anyhow!("{name}: {problem}").context(Exit::Usage))?;
        Ok(settings)
    }

    /// Names worker `number` of this process: its place in the group and its transactional id follow from it.
    pub fn slot(&self, number: u32) -> String {
        format!("{}-{number}", self.worker.ordinal)
    }
}
