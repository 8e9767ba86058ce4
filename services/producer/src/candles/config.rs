//! The candle-producer's configuration; `candles.toml` holds every key with its unit.

use crate::clock::ClockConfig;
use crate::config::{PublishConfig, StateConfig};
use anyhow::{Context, ensure};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_pacing::{BackoffSettings, BreakerSettings, Limits, WindowLimit};
use marketflow_providers::{Candles, Provider, by_id, candles_of};
use marketflow_runtime::{AdminConfig, Exit, ExitContext, LogConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Name of the variable that lowers the calls a second.
const MAX_CALLS_VARIABLE: &str = "MAX_API_CALLS_PER_SECOND";
const ONE_SECOND: Duration = Duration::from_secs(1);
/// A call is over so long after the wait for its answer ended.
const OVER_AFTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything the candle-producer is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it does.
    pub mode: Mode,
    /// Admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// Which broker, which symbols.
    pub provider: ProviderConfig,
    /// What may be asked.
    pub budget: BudgetConfig,
    /// One call.
    pub request: RequestConfig,
    /// History.
    pub backfill: BackfillConfig,
    /// Today.
    pub live: LiveConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where the schema registry is.
    pub registry: RegistryConfig,
    /// Whose time.
    pub clock: ClockConfig,
    /// The way to Kafka.
    pub publish: PublishConfig,
    /// What survives a restart.
    pub state: StateConfig,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Minutes as they end.
    Live,
    /// History, once.
    Backfill,
    /// What a back-fill would cost.
    Plan,
}

impl Mode {
    /// Part of a file name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backfill => "backfill",
            Self::Plan => "plan",
        }
    }
}

/// Section `[provider]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Id of a provider.
    pub name: String,
    /// Request endpoint; empty = the venue's own.
    pub rest_url: String,
    /// Codes, `VENUE:CODE`, `@SET`.
    pub symbols: Vec<String>,
    /// File of `NAME=value` lines with the credentials that are not in the environment.
    pub credentials_file: PathBuf,
}

/// Section `[budget]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Calls a second; 0 = as the venue allows.
    pub calls_per_second: u32,
    /// Calls a day; 0 = as the venue allows.
    pub calls_per_day: u64,
    /// Of a second's calls, what history leaves alone while the market is open.
    pub spared_for_live: u32,
}

/// Section `[request]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestConfig {
    /// Wait for an answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Least wait after a failure.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait after a failure.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Failures in a row of one call before it is given up.
    pub attempts: u32,
    /// Failures in a row of all calls before the venue is left alone.
    pub breaker_failures: u32,
    /// For how long at first.
    #[serde(with = "humantime_serde")]
    pub breaker_open: Duration,
    /// And at most.
    #[serde(with = "humantime_serde")]
    pub breaker_open_max: Duration,
}

impl RequestConfig {
    /// As the back-off takes it.
    pub fn backoff(&self) -> BackoffSettings {
        BackoffSettings { min: self.backoff_min, max: self.backoff_max, reset_after: Duration::ZERO }
    }

    /// As the circuit breaker takes it.
    pub fn breaker(&self) -> BreakerSettings {
        BreakerSettings { failures: self.breaker_failures, open_for: self.breaker_open, open_for_max: self.breaker_open_max }
    }
}

/// Section `[backfill]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillConfig {
    /// Calendar days back from the last one, that one included.
    pub days: u32,
    /// Last day; empty = the last one whose session is over.
    pub until: String,
    /// Symbols at once.
    pub parallel: usize,
    /// Whether days that are there already are asked for again.
    pub again: bool,
    /// File of the result; empty = none.
    pub result: PathBuf,
}

/// Section `[live]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveConfig {
    /// Minutes between two rounds.
    pub every_minutes: u16,
    /// Venue clock after a minute's end.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
}

/// What follows from the configuration.
#[derive(Clone)]
pub struct Checked {
    /// The provider named.
    pub provider: &'static Provider,
    /// Its candles.
    pub candles: &'static dyn Candles,
    /// Where its requests go, without trailing slash.
    pub rest_url: String,
    /// What the key may spend.
    pub limits: Limits,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first key that cannot be, with the cure.
    pub fn validate(&self) -> anyhow::Result<Checked> {
        self.check(std::env::var(MAX_CALLS_VARIABLE).ok().as_deref()).exit(Exit::Usage)
    }

    fn check(&self, max_calls: Option<&str>) -> anyhow::Result<Checked> {
        let name = &self.provider.name;
        let known = || {
            marketflow_providers::ALL.iter().map(|p| p.id).filter(|id| candles_of(id).is_some()).collect::<Vec<_>>().join(", ")
        };
        let both = by_id(name).zip(candles_of(name));
        let (provider, candles) =
            both.with_context(|| format!("provider.name {name:?} is none of those with minute candles: {}", known()))?;
        ensure!(self.backfill.days > 0, "backfill.days must be at least 1");
        ensure!(self.backfill.parallel > 0, "backfill.parallel must be at least 1");
        ensure!(self.request.attempts > 0, "request.attempts must be at least 1");
        ensure!(self.request.backoff_min <= self.request.backoff_max, "request.backoff_min exceeds request.backoff_max");
        ensure!(matches!(self.live.every_minutes, 1 | 5 | 15), "live.every_minutes must be 1, 5 or 15");
        let own = candles.limits();
        let mut window = match self.budget.calls_per_second {
            0 => WindowLimit { calls: own.calls, window: own.within },
            calls => WindowLimit { calls, window: ONE_SECOND },
        };
        if let Some(text) = max_calls.map(str::trim).filter(|text| !text.is_empty()) {
            let calls = text.parse::<u32>().ok().filter(|calls| *calls > 0);
            let calls = calls.with_context(|| format!("{MAX_CALLS_VARIABLE} {text:?} is no number above 0"))?;
            let lower = WindowLimit { calls, window: ONE_SECOND };
            window = if lower.per_second() < window.per_second() { lower } else { window };
        }
        let per_day = if self.budget.calls_per_day == 0 { own.per_day } else { Some(self.budget.calls_per_day) };
        let rest_url = if self.provider.rest_url.is_empty() { provider.rest_url } else { &self.provider.rest_url };
        Ok(Checked {
            provider,
            candles,
            rest_url: rest_url.trim_end_matches('/').to_owned(),
            limits: Limits { windows: vec![window], per_day, call_over_after: self.request.timeout + OVER_AFTER_TIMEOUT },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: &str) -> Config {
        let mut table: toml::Table = super::super::DEFAULTS.parse().unwrap();
        for (section, keys) in change.parse::<toml::Table>().unwrap() {
            table[&section].as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
        }
        table.try_into().unwrap()
    }

    #[test]
    fn the_calls_a_second_are_the_venues_or_those_given_and_the_variable_only_lowers_them() {
        let calls = |change: &str, variable| config(change).check(variable).unwrap().limits.windows[0].calls;
        assert_eq!(calls("", None), 18);
        assert_eq!(calls("", Some("5")), 5);
        assert_eq!(calls("", Some("50")), 18);
        assert_eq!(calls("[budget]\ncalls_per_second = 100", Some("")), 100);
        let kiwoom = |variable| config("[provider]\nname = 'kiwoom'").check(variable).unwrap().limits;
        let own = WindowLimit { calls: 2, window: Duration::from_secs(2) };
        assert_eq!((kiwoom(None).windows, kiwoom(Some("1")).windows, kiwoom(None).per_day), (vec![own], vec![own], None));
        assert!(config("").check(Some("0")).is_err() && config("").check(Some("many")).is_err());
    }

    #[test]
    fn what_cannot_be_names_its_key() {
        for (change, key) in [
            ("[provider]\nname = 'bitstamp'", "provider.name"),
            ("[live]\nevery_minutes = 2", "live.every_minutes"),
            ("[backfill]\ndays = 0", "backfill.days"),
        ] {
            let problem = config(change).check(None).err().unwrap().to_string();
            assert!(problem.contains(key), "{problem}");
        }
    }
}
