//! The candle-producer's configuration; `candles.toml` holds every key with its unit.

use crate::config::{PublishConfig, StateConfig};
use anyhow::{Context, ensure};
use jiff::civil::Time;
use marketflow_access::config::max_calls_variable;
use marketflow_access::{BudgetConfig, ClockConfig, RequestConfig};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_metadata::MetadataConfig;
use marketflow_pacing::Limits;
use marketflow_providers::days::{Days, days_of};
use marketflow_providers::prices::{Prices, prices_of};
use marketflow_providers::{ActiveBy, Candles, Holidays, Master, Provider, by_id, candles_of, holidays_of, master_of};
use marketflow_runtime::{AdminConfig, Exit, ExitContext, LogConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

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
    /// What the broker says of its instruments.
    pub reference: ReferenceConfig,
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
    /// Who works.
    pub metadata: MetadataConfig,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Minutes as they end.
    Live,
    /// History, once.
    Backfill,
    /// Daily candles, once.
    Days,
    /// What instruments cost now, once.
    Price,
    /// What a back-fill would cost.
    Plan,
    /// What the broker says of its instruments, once.
    Reference,
    /// What the broker says of the exchange's days, once.
    Holidays,
}

impl Mode {
    /// Part of a file name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backfill => "backfill",
            Self::Days => "days",
            Self::Price => "price",
            Self::Plan => "plan",
            Self::Reference => "reference",
            Self::Holidays => "holidays",
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

/// Section `[backfill]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillConfig {
    /// Calendar days back from the last one, that one included.
    pub days: u32,
    /// Last day; empty = the last one whose session is over.
    pub until: String,
    /// Which symbols come first.
    pub active_by: ActiveFirst,
    /// Symbols at once.
    pub parallel: usize,
    /// Whether days that are there already are asked for again.
    pub again: bool,
    /// File of the result; empty = none.
    pub result: PathBuf,
}

/// Who the most active are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActiveFirst {
    /// As the set of symbols says.
    Set,
    /// By the broker's ranking of the day's money.
    Turnover,
    /// By its ranking of the day's shares.
    Volume,
}

impl ActiveFirst {
    /// What the broker is asked for; `None`: nothing.
    pub const fn ranking(self) -> Option<ActiveBy> {
        match self {
            Self::Set => None,
            Self::Turnover => Some(ActiveBy::Turnover),
            Self::Volume => Some(ActiveBy::Volume),
        }
    }
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

/// Section `[reference]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceConfig {
    /// Whether the live service looks each trading day.
    pub daily: bool,
    /// Whether it then asks for the exchange's days too.
    pub holidays: bool,
    /// When, in the venue's time.
    pub at: String,
}

/// What follows from the configuration.
#[derive(Clone)]
pub struct Checked {
    /// The provider named.
    pub provider: &'static Provider,
    /// Its candles.
    pub candles: &'static dyn Candles,
    /// Its daily candles.
    pub days: &'static dyn Days,
    /// Its current prices.
    pub prices: &'static dyn Prices,
    /// Its master of instruments.
    pub master: &'static dyn Master,
    /// Its days, where it tells any.
    pub holidays: Option<&'static dyn Holidays>,
    /// When these are looked at, in the venue's time.
    pub reference_at: Time,
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
        self.check(max_calls_variable().as_deref()).exit(Exit::Usage)
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
        self.request.validate()?;
        self.metadata.validate()?;
        ensure!(matches!(self.live.every_minutes, 1 | 5 | 15), "live.every_minutes must be 1, 5 or 15");
        let limits = self.budget.limits(candles.limits(), &self.request, max_calls)?;
        let master = master_of(name).with_context(|| format!("provider.name {name:?} tells nothing of its instruments"))?;
        let days = days_of(name).with_context(|| format!("provider.name {name:?} tells no daily candles"))?;
        let prices = prices_of(name).with_context(|| format!("provider.name {name:?} tells no current prices"))?;
        let at = &self.reference.at;
        let reference_at = at.parse().with_context(|| format!("reference.at {at:?} is no time such as 08:10"))?;
        let rest_url = if self.provider.rest_url.is_empty() { provider.rest_url } else { &self.provider.rest_url };
        let rest_url = rest_url.trim_end_matches('/').to_owned();
        let holidays = holidays_of(name);
        Ok(Checked { provider, candles, days, prices, master, holidays, reference_at, rest_url, limits })
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
    fn what_cannot_be_names_its_key() {
        for (change, key) in [
            ("[provider]\nname = 'bitstamp'", "provider.name"),
            ("[live]\nevery_minutes = 2", "live.every_minutes"),
            ("[backfill]\ndays = 0", "backfill.days"),
            ("[reference]\nat = 'dawn'", "reference.at"),
        ] {
            let problem = config(change).check(None).err().unwrap().to_string();
            assert!(problem.contains(key), "{problem}");
        }
    }
}
